"""The people who read the page, how they sign in, and what they say of its papers.

`Accounts` knows who somebody is: one-time links instead of passwords, sessions, roles. `Contributions` keeps
what people say: votes, comments, papers they hand in, authors' answers to verdicts, searches they keep.

Whoever deletes their account takes with them what is theirs alone: the address and the name, sessions, votes,
kept searches, claims of authorship. What they wrote stays without a name, or goes too if they wish.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from assay.database import write
from assay.papers.mail import address
from assay.papers.records import metadata, paper_ids, papers
from assay.papers.selection import Selection

if TYPE_CHECKING:
    from dbos import DBOS

ROLES = ("reader", "curator", "admin")
"""Each may what those before may."""

ANSWERS = {"reworded": "the claim reworded", "setting": "a setting disputed", "remark": "a remark"}
"""The kinds of answer that an author may give to a verdict."""

LINK_MINUTES = 20
SESSION_DAYS = 30
LONGEST_NAME = 60
LONGEST_TEXT = 10_000
"""Characters of a comment or an answer."""
TAKE_IN = "take_in"
"""The durable workflow of `register`, in the queue of the sources."""
MOST_SEARCHES = 50
"""How many searches one person may keep."""

people = sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("joined_at", sa.Text, nullable=False),
    sa.UniqueConstraint("email", name="one_person_an_address"),
    sqlite_autoincrement=True,  # nobody is to be taken for somebody who has left
)
sign_in_links = sa.Table(
    "sign_in_links",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("leads_to", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Text, nullable=False),
)
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    sa.Column("expires_at", sa.Text, nullable=False),
    sa.Index("sessions_by_person", "person_id"),
)
votes = sa.Table(
    "votes",
    metadata,
    sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Index("votes_by_paper", "paper_id", "at"),
)
comments = sa.Table(
    "comments",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), nullable=False),
    sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="SET NULL")),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Index("comments_by_paper", "paper_id", "at"),
    sa.Index("comments_by_person", "person_id"),
)
saved_searches = sa.Table(
    "saved_searches",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.UniqueConstraint("person_id", "name", name="one_search_a_name"),
)
authorships = sa.Table(
    "authorships",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), nullable=False),
    sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.UniqueConstraint("paper_id", "person_id", name="one_claim_a_person"),
)
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), nullable=False),
    sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="SET NULL")),
    sa.Column("experiment", sa.Text, nullable=False),
    sa.Column("claim", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Index("answers_by_paper", "paper_id", "id"),
    sa.Index("answers_by_person", "person_id"),
)
submissions = sa.Table(
    "submissions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("arxiv_id", sa.Text, nullable=False),
    sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id")),
    sa.Column("problem", sa.Text),
    sa.Column("at", sa.Text, nullable=False),
    sa.Index("submissions_by_person", "person_id"),
)


@dataclass(frozen=True)
class Person:
    """Somebody who has signed in. `role` is "reader", "curator" or "admin"."""

    id: int
    email: str
    name: str
    role: str

    @property
    def curates(self) -> bool:
        return self.role != "reader"


@dataclass(frozen=True)
class Link:
    """A sign-in link that still works: for whom, whether they are new here, and where it leads."""

    email: str
    is_new: bool
    leads_to: str


@dataclass(frozen=True)
class Comment:
    """A comment; without a person once they have left. `body` is Markdown as it was written."""

    id: int
    person_id: int | None
    name: str | None
    is_author: bool
    body: str
    at: str


@dataclass(frozen=True)
class Answer:
    """What an author of the paper says to a verdict; `kind` is a key of `ANSWERS`."""

    id: int
    person_id: int | None
    name: str | None
    experiment: str
    claim: str
    kind: str
    body: str
    at: str


@dataclass(frozen=True)
class Authorship:
    """Somebody's word that they are an author of a paper; `state` is "waiting", "confirmed" or "refused"."""

    id: int
    paper_id: int
    person_id: int
    name: str
    email: str
    note: str
    state: str
    at: str


@dataclass(frozen=True)
class SavedSearch:
    """A search that somebody keeps; `query` is a `Selection`'s."""

    id: int
    name: str
    query: str


@dataclass(frozen=True)
class Submission:
    """A paper that somebody handed in: taken in once it has a `paper_id`, refused once it has a `problem`."""

    id: int
    arxiv_id: str
    paper_id: int | None
    problem: str | None
    at: str


class Accounts:
    """Who the people are, in the database that `engine` opens."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def make_link(self, email: str, leads_to: str = "/", *, may_found: bool = False) -> str:
        """The secret of a link that signs the holder of the address in, once, within `LINK_MINUTES`.

        `may_found` is for links that only whoever runs the server gets to see: with such a one somebody
        becomes admin, as long as there is none. Raises ValueError for what is no address.
        """
        secret = secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        with write(self._engine) as connection:
            connection.execute(sa.delete(sign_in_links).where(sign_in_links.c.expires_at < _text(now)))
            connection.execute(
                sa.insert(sign_in_links).values(
                    digest=_digest(secret),
                    email=address(email),
                    role="admin" if may_found else "reader",
                    leads_to=leads_to,
                    expires_at=_text(now + timedelta(minutes=LINK_MINUTES)),
                )
            )
        return secret

    def link(self, secret: str) -> Link | None:
        """The link of that secret; None where it is used, too old or made up."""
        query = (
            sa.select(sign_in_links.c.email, people.c.id.is_(None), sign_in_links.c.leads_to)
            .outerjoin_from(sign_in_links, people, people.c.email == sign_in_links.c.email)
            .where(sign_in_links.c.digest == _digest(secret), sign_in_links.c.expires_at >= _now())
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return Link(row[0], bool(row[1]), row[2]) if row else None

    def sign_in(self, secret: str, name: str = "") -> str | None:
        """Use the link up: the secret of a new session, or None where the link works no more.

        `name` is for somebody new. Raises ValueError for what is no name; the link still works then.
        """
        now = datetime.now(UTC)
        fitting = sign_in_links.c.digest == _digest(secret), sign_in_links.c.expires_at >= _text(now)
        with self._alone() as connection:
            link = connection.execute(sa.select(sign_in_links).where(*fitting)).one_or_none()
            # Who deletes the row has the link: of two that came at once, one.
            if link is None or connection.execute(sa.delete(sign_in_links).where(*fitting)).rowcount == 0:
                return None
            person = _by_email(connection, link.email)
            if person is None:
                person = _add(connection, link.email, name, "reader")
            admins = sa.select(people.c.id).where(people.c.role == "admin").limit(1)
            if link.role == "admin" and connection.scalar(admins) is None:
                connection.execute(sa.update(people).where(people.c.id == person.id).values(role="admin"))
            connection.execute(sa.delete(sessions).where(sessions.c.expires_at < _text(now)))
            session = secrets.token_urlsafe(32)
            connection.execute(
                sa.insert(sessions).values(
                    digest=_digest(session),
                    person_id=person.id,
                    expires_at=_text(now + timedelta(days=SESSION_DAYS)),
                )
            )
        return session

    def signed_in(self, session: str) -> Person | None:
        """Whose session it is; None where it has ended."""
        query = (
            sa.select(*_PERSON)
            .join_from(people, sessions)
            .where(sessions.c.digest == _digest(session), sessions.c.expires_at >= _now())
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return Person(*row) if row else None

    def sign_out(self, session: str) -> None:
        """End this session."""
        with write(self._engine) as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.digest == _digest(session)))

    def sign_out_everywhere(self, person: Person) -> None:
        """End all of somebody's sessions."""
        with write(self._engine) as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.person_id == person.id))

    def list(self) -> Sequence[Person]:
        """Everybody, those who may most first."""
        rank = sa.case({role: number for number, role in enumerate(ROLES)}, value=people.c.role)
        with self._engine.connect() as connection:
            query = sa.select(*_PERSON).order_by(rank.desc(), people.c.email)
            return [Person(*row) for row in connection.execute(query)]

    def set_role(self, email: str, role: str) -> Person:
        """Give somebody a role. Who has not been here yet has it when they first sign in."""
        if role not in ROLES:
            raise ValueError(f"role is to be one of {', '.join(ROLES)}, got {role!r}")
        email = address(email)
        with self._alone() as connection:
            person = _by_email(connection, email)
            if person is None:
                person = _add(connection, email, email.partition("@")[0][:LONGEST_NAME], role)
            connection.execute(sa.update(people).where(people.c.id == person.id).values(role=role))
        return Person(person.id, person.email, person.name, role)

    def rename(self, person: Person, name: str) -> None:
        """Change the name that others see. Raises ValueError for what is no name."""
        with write(self._engine) as connection:
            connection.execute(sa.update(people).where(people.c.id == person.id).values(name=_name(name)))
            connection.execute(_submitted_by(person).values(submitter=_name(name)))

    def delete(self, person: Person, *, words_too: bool = False) -> None:
        """Delete an account with all that is personal; comments and answers lose the name, or go too."""
        from assay.papers import digest  # whose lists count the votes of this module

        with self._alone() as connection:
            if words_too:
                for table in (comments, answers):
                    connection.execute(sa.delete(table).where(table.c.person_id == person.id))
            connection.execute(_submitted_by(person).values(submitter=None))
            connection.execute(sa.delete(sign_in_links).where(sign_in_links.c.email == person.email))
            digest.forget(connection, person.email)
            # The tables say what goes with a person and what loses only the name.
            connection.execute(sa.delete(people).where(people.c.id == person.id))

    @contextmanager
    def _alone(self) -> Iterator[sa.Connection]:
        with write(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                # As SQLite does: two sign-ins at once must make neither two people nor two first admins.
                connection.execute(sa.text("LOCK TABLE people IN SHARE ROW EXCLUSIVE MODE"))
            yield connection


class Contributions:
    """What people say of papers, in the database that `engine` opens."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    # ------------------------------------------------------------------ votes and comments

    def vote(self, person: Person, paper_id: int) -> None:
        """Vote for a paper; a second vote is none."""
        with write(self._engine) as connection:
            _insert_once(connection, votes, person_id=person.id, paper_id=paper_id, at=_now())

    def withdraw(self, person: Person, paper_id: int) -> None:
        """Take a vote back."""
        own = votes.c.person_id == person.id, votes.c.paper_id == paper_id
        with write(self._engine) as connection:
            connection.execute(sa.delete(votes).where(*own))

    def votes(self, paper_id: int) -> int:
        with self._engine.connect() as connection:
            return (
                connection.scalar(
                    sa.select(sa.func.count()).select_from(votes).where(votes.c.paper_id == paper_id)
                )
                or 0
            )

    def has_voted(self, person: Person, paper_id: int) -> bool:
        own = votes.c.person_id == person.id, votes.c.paper_id == paper_id
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(votes.c.paper_id).where(*own)) is not None

    def comment(self, person: Person, paper_id: int, body: str) -> int:
        """Add a comment, in Markdown; its id. Raises ValueError for a text that is empty or too long."""
        text = _body(body)
        with write(self._engine) as connection:
            made = sa.insert(comments).values(paper_id=paper_id, person_id=person.id, body=text, at=_now())
            return _key(connection.execute(made))

    def comments(self, paper_id: int) -> tuple[Comment, ...]:
        """The comments of a paper, oldest first."""
        is_author = sa.and_(
            authorships.c.paper_id == comments.c.paper_id,
            authorships.c.person_id == comments.c.person_id,
            authorships.c.state == "confirmed",
        )
        query = (
            sa.select(
                comments.c.id,
                comments.c.person_id,
                people.c.name,
                authorships.c.id.is_not(None),
                comments.c.body,
                comments.c.at,
            )
            .outerjoin_from(comments, people, people.c.id == comments.c.person_id)
            .outerjoin(authorships, is_author)
            .where(comments.c.paper_id == paper_id)
            .order_by(comments.c.id)
        )
        with self._engine.connect() as connection:
            return tuple(
                Comment(id_, person, name, bool(author), body, at)
                for id_, person, name, author, body, at in connection.execute(query)
            )

    def delete_comment(self, person: Person, comment_id: int) -> int | None:
        """Delete one's own comment or, as a curator, anybody's: its paper's id, None where there is none."""
        return self._delete(comments, person, comment_id)

    # ------------------------------------------------------------------ authors and their answers

    def claim_authorship(self, person: Person, paper_id: int, note: str) -> None:
        """Say that one is an author; `note` tells a curator how to see it. Once a paper."""
        text = _body(note)
        with write(self._engine) as connection:
            _insert_once(
                connection,
                authorships,
                paper_id=paper_id,
                person_id=person.id,
                note=text,
                state="waiting",
                at=_now(),
            )

    def decide_authorship(self, authorship_id: int, *, confirmed: bool) -> bool:
        """Confirm or refuse that somebody is an author; False where there is no such claim."""
        state = "confirmed" if confirmed else "refused"
        with write(self._engine) as connection:
            update = sa.update(authorships).where(authorships.c.id == authorship_id).values(state=state)
            return connection.execute(update).rowcount > 0

    def authorship(self, person: Person, paper_id: int) -> str | None:
        """The state of somebody's claim to be an author of the paper; None where there is none."""
        own = authorships.c.person_id == person.id, authorships.c.paper_id == paper_id
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(authorships.c.state).where(*own))

    def authorships(self, *, state: str | None = None, person: Person | None = None) -> Sequence[Authorship]:
        """Claims of authorship, oldest first: of one state, or of one person."""
        query = (
            sa.select(
                authorships.c.id,
                authorships.c.paper_id,
                authorships.c.person_id,
                people.c.name,
                people.c.email,
                authorships.c.note,
                authorships.c.state,
                authorships.c.at,
            )
            .join_from(authorships, people)
            .order_by(authorships.c.id)
        )
        if state is not None:
            query = query.where(authorships.c.state == state)
        if person is not None:
            query = query.where(authorships.c.person_id == person.id)
        with self._engine.connect() as connection:
            return [Authorship(*row) for row in connection.execute(query)]

    def answer(
        self, person: Person, paper_id: int, *, experiment: str, claim: str, kind: str, body: str
    ) -> None:
        """Answer a verdict as an author of the paper.

        Raises `PermissionError` for who is not a confirmed one, ValueError for what is no answer.
        """
        if kind not in ANSWERS:
            raise ValueError(f"kind is to be one of {', '.join(ANSWERS)}, got {kind!r}")
        text = _body(body)
        own = authorships.c.person_id == person.id, authorships.c.paper_id == paper_id
        with write(self._engine) as connection:
            if connection.scalar(sa.select(authorships.c.state).where(*own)) != "confirmed":
                raise PermissionError("only an author whom a curator has confirmed may answer a verdict")
            connection.execute(
                sa.insert(answers).values(
                    paper_id=paper_id,
                    person_id=person.id,
                    experiment=experiment,
                    claim=claim,
                    kind=kind,
                    body=text,
                    at=_now(),
                )
            )

    def answers(self, paper_id: int) -> tuple[Answer, ...]:
        """The authors' answers to a paper's verdicts, oldest first."""
        query = (
            sa.select(
                answers.c.id,
                answers.c.person_id,
                people.c.name,
                answers.c.experiment,
                answers.c.claim,
                answers.c.kind,
                answers.c.body,
                answers.c.at,
            )
            .outerjoin_from(answers, people)
            .where(answers.c.paper_id == paper_id)
            .order_by(answers.c.id)
        )
        with self._engine.connect() as connection:
            return tuple(Answer(*row) for row in connection.execute(query))

    def delete_answer(self, person: Person, answer_id: int) -> int | None:
        """Delete one's own answer or, as a curator, anybody's: its paper's id, None where there is none."""
        return self._delete(answers, person, answer_id)

    def words(self, person: Person) -> dict[str, list[dict[str, object]]]:
        """All that somebody has said and keeps, as plain data."""
        found = {}
        with self._engine.connect() as connection:
            for table in (votes, comments, answers, authorships, submissions, saved_searches):
                rows = connection.execute(sa.select(table).where(table.c.person_id == person.id)).mappings()
                found[table.name] = [
                    {name: value for name, value in row.items() if name != "person_id"} for row in rows
                ]
        return found

    # ------------------------------------------------------------------ searches and submissions

    def save_search(self, person: Person, name: str, query: Selection) -> None:
        """Keep a search under a name, in place of one of that name.

        Raises ValueError for what is no name, and for one search too many.
        """
        name = _name(name)
        own = saved_searches.c.person_id == person.id
        with write(self._engine) as connection:
            connection.execute(sa.delete(saved_searches).where(own, saved_searches.c.name == name))
            kept = connection.scalar(sa.select(sa.func.count()).select_from(saved_searches).where(own)) or 0
            if kept >= MOST_SEARCHES:
                raise ValueError(f"you keep {kept} searches, as many as one may: delete one first")
            _insert_once(connection, saved_searches, person_id=person.id, name=name, query=query.query())

    def searches(self, person: Person) -> Sequence[SavedSearch]:
        """The searches that somebody keeps, by name."""
        query = sa.select(saved_searches.c.id, saved_searches.c.name, saved_searches.c.query)
        query = query.where(saved_searches.c.person_id == person.id).order_by(saved_searches.c.name)
        with self._engine.connect() as connection:
            return [SavedSearch(*row) for row in connection.execute(query)]

    def forget_search(self, person: Person, search_id: int) -> bool:
        """Keep a search no longer; False where there is none of one's own."""
        own = saved_searches.c.person_id == person.id, saved_searches.c.id == search_id
        with write(self._engine) as connection:
            return connection.execute(sa.delete(saved_searches).where(*own)).rowcount > 0

    def known(self, arxiv_id: str) -> int | None:
        """The id of the paper with that arXiv id, where there is one."""
        with self._engine.connect() as connection:
            return _with_arxiv_id(connection, arxiv_id)

    def submit(self, person: Person, arxiv_id: str) -> int:
        """Hand in a paper of arXiv, or find one's submission that waits: its id, for `take_in`."""
        own = (
            submissions.c.person_id == person.id,
            submissions.c.arxiv_id == arxiv_id,
            submissions.c.paper_id.is_(None),
            submissions.c.problem.is_(None),
        )
        with write(self._engine) as connection:
            waiting: int | None = connection.scalar(sa.select(submissions.c.id).where(*own))
            if waiting is not None:
                return waiting
            made = sa.insert(submissions).values(arxiv_id=arxiv_id, person_id=person.id, at=_now())
            return _key(connection.execute(made))

    def take_in(self, submission_id: int, add: Callable[[str], str | None]) -> None:
        """Have `add` fetch the paper of a submission; it returns what was wrong, or None.

        Done twice, it changes nothing the second time.
        """
        own = submissions.c.id == submission_id
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(submissions).where(own)).one_or_none()
        if row is None:  # whoever handed it in has left
            return
        problem = add(row.arxiv_id)
        with write(self._engine) as connection:
            paper_id = None if problem else _with_arxiv_id(connection, row.arxiv_id)
            if problem is None and paper_id is None:
                problem = "arXiv knows no paper of this id."
            connection.execute(sa.update(submissions).where(own).values(paper_id=paper_id, problem=problem))
            name = connection.scalar(sa.select(people.c.name).where(people.c.id == row.person_id))
            nobody = papers.c.id == paper_id, papers.c.submitter.is_(None)
            connection.execute(sa.update(papers).where(*nobody).values(submitter=name))

    def submissions(self, person: Person) -> Sequence[Submission]:
        """What somebody has handed in, the newest first."""
        query = sa.select(
            submissions.c.id,
            submissions.c.arxiv_id,
            submissions.c.paper_id,
            submissions.c.problem,
            submissions.c.at,
        )
        query = query.where(submissions.c.person_id == person.id).order_by(submissions.c.id.desc())
        with self._engine.connect() as connection:
            return [Submission(*row) for row in connection.execute(query)]

    def _delete(self, table: sa.Table, person: Person, key: int) -> int | None:
        allowed = [table.c.id == key]
        if not person.curates:
            allowed.append(table.c.person_id == person.id)
        with write(self._engine) as connection:
            paper_id = connection.scalar(sa.select(table.c.paper_id).where(*allowed))
            connection.execute(sa.delete(table).where(*allowed))
        return paper_id


_PERSON = (people.c.id, people.c.email, people.c.name, people.c.role)


def register(dbos: type[DBOS], engine: sa.Engine, stopping: threading.Event) -> None:
    """Let this worker fetch the papers that people hand in."""
    from assay.papers.sources import SourceError, Sources

    sources = Sources(engine, stopping=stopping)

    def add(arxiv_id: str) -> str | None:
        try:
            report = sources.add([arxiv_id])
        except SourceError as error:
            return str(error)
        return "; ".join(reason for _, reason in report.unreadable) or None

    @dbos.workflow(name=TAKE_IN)
    def take_in(submission_id: int) -> None:
        dbos.run_step({"name": TAKE_IN}, Contributions(engine).take_in, submission_id, add)


def _by_email(connection: sa.Connection, email: str) -> Person | None:
    row = connection.execute(sa.select(*_PERSON).where(people.c.email == email)).one_or_none()
    return Person(*row) if row else None


def _add(connection: sa.Connection, email: str, name: str, role: str) -> Person:
    name = _name(name)
    made = sa.insert(people).values(email=email, name=name, role=role, joined_at=_now())
    return Person(_key(connection.execute(made)), email, name, role)


def _with_arxiv_id(connection: sa.Connection, arxiv_id: str) -> int | None:
    named = paper_ids.c.kind == "arxiv", paper_ids.c.value == arxiv_id
    return connection.scalar(sa.select(paper_ids.c.paper_id).where(*named))


def _submitted_by(person: Person) -> sa.Update:
    """A change to the papers that somebody handed in, which show who did."""
    own = sa.select(submissions.c.paper_id).where(submissions.c.person_id == person.id)
    return sa.update(papers).where(papers.c.id.in_(own), papers.c.submitter == person.name)


def _insert_once(connection: sa.Connection, table: sa.Table, **values: object) -> None:
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(table).values(**values))
    except IntegrityError as error:
        # It is there already; what it is about may also have gone in the meantime, and that is an error.
        if "foreign key" in str(error).lower():
            raise


def _name(text: str) -> str:
    name = " ".join(text.split())
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ValueError(f"a name is to have 1 to {LONGEST_NAME} printable characters, got {text[:80]!r}")
    return name


def _body(text: str) -> str:
    body = text.replace("\r\n", "\n").strip()
    if not 0 < len(body) <= LONGEST_TEXT or "\x00" in body:
        raise ValueError(f"a text is to have 1 to {LONGEST_TEXT} characters, got {len(body)}")
    return body


def _key(made: sa.CursorResult[tuple[object, ...]]) -> int:
    assert made.inserted_primary_key is not None
    return int(made.inserted_primary_key[0])


def _digest(secret: str) -> str:
    # What is stored opens nothing. The secrets are random and long: a slow hash would add nothing.
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
