"""The digest: who gets it, what an issue of it holds, and that nobody gets an issue twice.

An issue is named for its day and holds what became known in the day, or for a weekly one the seven days,
before `CLOSES` on that day, in UTC: papers new to the records, and verdicts that fell on papers known before.
A weekly issue is a Monday's. For a subscription without a search, what is new is ranked as a trending list;
with one, it is what is new among the first `FIRST` that the search finds.

Sending is at most once: before a message is handed over, a row of `mailings` that says so is committed, and
whoever finds that row leaves the issue alone. A sender that is killed in between loses this one mail. Only
where the message certainly was not taken, the row is withdrawn, and the issue is due again.
"""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from email.message import EmailMessage
from urllib.parse import parse_qsl

import sqlalchemy as sa

from assay.database import write
from assay.papers import mail
from assay.papers.lists import FALLEN, Lists, verdict_changes, verdict_index
from assay.papers.records import Paper, metadata, papers
from assay.papers.selection import Selection

PACES = {"daily": timedelta(days=1), "weekly": timedelta(days=7)}
CLOSES = time(6, tzinfo=UTC)
"""When an issue closes: after arXiv has announced the day's papers and they have been fetched."""

SETTLES = timedelta(minutes=15)
"""How long after that it is mailed: what was being written when it closed is there by then."""

FIRST = 50
SHOWN = 25
"""How many papers an issue shows; the page has the rest."""

LONGEST_GAP = timedelta(days=31)
"""How far back an issue reaches at most that follows one long ago."""

UNCONFIRMED_FOR = timedelta(days=3)
"""After how long a subscription that nobody confirmed is forgotten."""

ASK_AGAIN_AFTER = timedelta(minutes=15)
MOST = 20
"""How many subscriptions an address may have."""

MOST_UNCONFIRMED = 5
"""How many of them it may have been asked about: whoever types in an address need not be its owner."""

subscriptions = sa.Table(
    "subscriptions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("pace", sa.Text, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("made_at", sa.Text, nullable=False),
    sa.Column("asked_at", sa.Text),
    sa.Column("confirmed_at", sa.Text),
    sa.UniqueConstraint("email", "query", "pace", name="one_subscription_a_query"),
    sa.UniqueConstraint("token", name="one_subscription_a_token"),
)
mailings = sa.Table(
    "mailings",
    metadata,
    sa.Column("subscription_id", sa.Integer, sa.ForeignKey("subscriptions.id"), primary_key=True),
    sa.Column("issue", sa.Date, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
)

_KINDS = ("holds", "fails", "undecided", "broken", "stale")


@dataclass(frozen=True)
class Subscription:
    """Who gets a digest of what. `token`, which only its mails tell, confirms and ends it."""

    id: int
    email: str
    query: str
    """The selection, as `Selection.query()` spells it."""
    pace: str
    site: str
    """The address of the page that it was asked for on, without a slash at the end."""
    token: str
    confirmed_at: str | None

    @property
    def selection(self) -> Selection:
        return Selection.read(dict(parse_qsl(self.query)))


@dataclass(frozen=True)
class Fallen:
    """A verdict that fell on a claim. `before` is what it was, None for the first."""

    experiment: str
    claim: str
    before: str | None
    after: str
    yes: int
    answered: int
    scale: str


@dataclass(frozen=True)
class Entry:
    """A paper in an issue, how many of its claims are of each kind, and the verdicts that fell lately."""

    paper: Paper
    counts: Mapping[str, int]
    fallen: Sequence[Fallen]


@dataclass(frozen=True)
class Issue:
    """What became known of a selection's papers from `since` to `until`."""

    selection: Selection
    since: datetime
    until: datetime
    new: Sequence[Entry]
    judged: Sequence[Entry]
    """Papers known before on which verdicts fell."""
    more: bool
    """The page has more of them than are shown here."""

    def __bool__(self) -> bool:
        return bool(self.new or self.judged)


Render = Callable[[Issue, Subscription], EmailMessage]


def subscribed(selection: Selection) -> Selection:
    """What of a selection a subscription can follow: a day, week or month is over, so all but those."""
    return replace(selection, date="", week="", month="")


def closed(at: datetime, pace: str) -> date:
    """The latest issue that has closed by then."""
    day = at.astimezone(UTC).date()
    if at < datetime.combine(day, CLOSES):
        day -= timedelta(days=1)
    return day - timedelta(days=day.weekday()) if pace == "weekly" else day


class Digests:
    """The subscriptions and issues over the records in the database that `engine` opens."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lists = Lists(engine)

    # ------------------------------------------------------------------ subscriptions

    def subscribe(
        self,
        email: str,
        selection: Selection,
        pace: str,
        site: str,
        ask: Callable[[Subscription], EmailMessage],
    ) -> None:
        """Send the address what `ask` makes of the new subscription, which counts once it is confirmed.

        Nothing is sent, and nobody can tell, where the address has confirmed it already, was asked a moment
        ago, or has enough subscriptions. Raises ValueError for what is no address or no pace, and
        `mail.MailError`.
        """
        if pace not in PACES:
            raise ValueError(f"pace is to be one of {', '.join(PACES)}, got {pace!r}")
        email, query = mail.address(email), subscribed(selection).query()
        table = subscriptions.c
        own = (table.email == email) & (table.query == query) & (table.pace == pace)
        now = datetime.now(UTC)
        with write(self._engine) as connection:
            _lock(connection)
            row = connection.execute(sa.select(subscriptions).where(own)).one_or_none()
            if row is None:
                held = sa.select(sa.func.count(), sa.func.count(table.confirmed_at)).where(
                    table.email == email
                )
                every, confirmed = connection.execute(held).one()
                if every >= MOST or every - confirmed >= MOST_UNCONFIRMED:
                    return
                new = {"email": email, "query": query, "pace": pace, "site": site}
                connection.execute(
                    sa.insert(subscriptions).values(
                        **new, token=secrets.token_urlsafe(16), made_at=_text(now)
                    )
                )
            elif row.confirmed_at or (row.asked_at and row.asked_at > _text(now - ASK_AGAIN_AFTER)):
                return
            # Before the message is sent: two requests at once must not send two.
            connection.execute(sa.update(subscriptions).where(own).values(site=site, asked_at=_text(now)))
            made = _subscription(connection.execute(sa.select(subscriptions).where(own)).one())
        try:
            mail.send(ask(made))
        except mail.MailError:
            with write(self._engine) as connection:
                connection.execute(sa.update(subscriptions).where(own).values(asked_at=None))
            raise

    def find(self, token: str) -> Subscription | None:
        """The subscription of that token; None where it has ended, or never was."""
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.select(subscriptions).where(subscriptions.c.token == token)
            ).one_or_none()
        return _subscription(row) if row else None

    def of(self, email: str) -> list[Subscription]:
        """The confirmed subscriptions of an address."""
        confirmed = (subscriptions.c.email == email) & subscriptions.c.confirmed_at.is_not(None)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(subscriptions).where(confirmed).order_by(subscriptions.c.id))
            return [_subscription(row) for row in rows]

    def confirm(self, token: str) -> bool:
        """Let the subscription count; False where there is none of that token."""
        fresh = (subscriptions.c.token == token) & subscriptions.c.confirmed_at.is_(None)
        with write(self._engine) as connection:
            connection.execute(sa.update(subscriptions).where(fresh).values(confirmed_at=_text(_now())))
        return self.find(token) is not None

    def end(self, token: str) -> None:
        """Forget the subscription; there need be none of that token."""
        with write(self._engine) as connection:
            _forget(connection, subscriptions.c.token == token)

    # ------------------------------------------------------------------ issues

    def issue(self, selection: Selection, since: datetime, until: datetime) -> Issue:
        """What became known of the selection's papers from `since` until before `until`."""
        first, last = _text(since), _text(until)
        shown = replace(selection, sort=selection.sort or ("" if selection.q else "trending"))
        arrived = (papers.c.added_at >= first) & (papers.c.added_at < last)
        fell = (
            verdict_changes.c.after.in_(FALLEN)
            & (verdict_changes.c.at >= first)
            & (verdict_changes.c.at < last)
        )
        judged = papers.c.slug.in_(sa.select(verdict_changes.c.study).where(fell))
        new_ones, more_new = self._chosen(shown, arrived)
        judged_ones, more_judged = self._chosen(shown, judged & ~arrived)
        slugs = [paper.slug for paper in (*new_ones, *judged_ones) if paper.slug]
        fallen: dict[str, dict[tuple[str, str], Fallen]] = defaultdict(dict)
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        with self._engine.connect() as connection:
            for row in connection.execute(
                sa.select(verdict_changes)
                .where(fell, verdict_changes.c.study.in_(slugs))
                .order_by(verdict_changes.c.id)
            ):
                # The last word on a claim counts, against what was said before the first.
                key = row.experiment, row.claim
                before = fallen[row.study][key].before if key in fallen[row.study] else row.before
                fallen[row.study][key] = Fallen(
                    row.experiment, row.claim, before, row.after, row.yes, row.answered, row.scale
                )
            for row in connection.execute(sa.select(verdict_index).where(verdict_index.c.study.in_(slugs))):
                counts[row.study][row.kind] += 1

        def entry(paper: Paper) -> Entry:
            slug = paper.slug or ""
            known = {kind: counts[slug][kind] for kind in _KINDS if counts[slug][kind]}
            return Entry(paper, known, tuple(fallen[slug].values()))

        return Issue(
            selection,
            since,
            until,
            tuple(entry(paper) for paper in new_ones),
            tuple(entry(paper) for paper in judged_ones),
            more_new or more_judged,
        )

    def _chosen(self, selection: Selection, condition: sa.ColumnElement[bool]) -> tuple[list[Paper], bool]:
        """Which papers of that condition an issue shows, and whether there are more."""
        if not selection.q:
            page = self._lists.page(selection, size=SHOWN, condition=condition)
            return list(page.papers), page.next is not None
        # Among the new ones alone, a search by meaning would find all of them, however far off.
        found = self._lists.page(selection, size=FIRST).papers
        with self._engine.connect() as connection:
            fitting = set(
                connection.scalars(
                    sa.select(papers.c.id).where(papers.c.id.in_([paper.id for paper in found]), condition)
                )
            )
        fit = [paper for paper in found if paper.id in fitting]
        return fit[:SHOWN], len(fit) > SHOWN

    # ------------------------------------------------------------------ sending

    def due(self, at: datetime) -> list[tuple[int, date]]:
        """The subscriptions whose latest issue has not been mailed by then, each with that issue."""
        with write(self._engine) as connection:
            forgotten = _text(at - UNCONFIRMED_FOR)
            _forget(
                connection, subscriptions.c.confirmed_at.is_(None) & (subscriptions.c.made_at < forgotten)
            )
            found = []
            for pace in PACES:
                issue = closed(at - SETTLES, pace)
                mailed = sa.select(mailings.c.subscription_id).where(mailings.c.issue == issue)
                ready = (
                    (subscriptions.c.pace == pace)
                    & (subscriptions.c.confirmed_at < _text(datetime.combine(issue, CLOSES)))
                    & subscriptions.c.id.not_in(mailed)
                )
                ids = connection.scalars(
                    sa.select(subscriptions.c.id).where(ready).order_by(subscriptions.c.id)
                )
                found += [(key, issue) for key in ids]
        return found

    def send(self, subscription_id: int, issue: date, render: Render) -> str:
        """Mail the issue, unless somebody has begun to: "sent", "empty" (nothing to tell), "refused" by the
        mail server, "unknown" (it may have been taken), or "gone" (the subscription has ended, or this or a
        later issue is begun).

        Raises `mail.MailError` where it was not sent and is due again.
        """
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.select(subscriptions).where(subscriptions.c.id == subscription_id)
            ).one_or_none()
            last = connection.scalar(
                sa.select(sa.func.max(mailings.c.issue)).where(mailings.c.subscription_id == subscription_id)
            )
        if row is None or row.confirmed_at is None or (last is not None and last >= issue):
            return "gone"
        subscription = _subscription(row)
        until = datetime.combine(issue, CLOSES)
        since = until - PACES[subscription.pace]
        if last is not None:  # issues may have been left out, while nothing ran
            since = max(datetime.combine(last, CLOSES), until - LONGEST_GAP)
        holds = self.issue(subscription.selection, since, until)
        message = render(holds, subscription) if holds else None
        own = (mailings.c.subscription_id == subscription_id) & (mailings.c.issue == issue)
        try:
            with write(self._engine) as connection:
                connection.execute(
                    sa.insert(mailings).values(
                        subscription_id=subscription_id,
                        issue=issue,
                        state="sending" if message else "empty",
                        at=_text(_now()),
                    )
                )
        except sa.exc.IntegrityError:  # another sender's row, or no subscription any more
            return "gone"
        if message is None:
            return "empty"
        self._to_disk()
        try:
            mail.send(message)
            state = "sent"
        except mail.MailError as error:
            if error.outcome == "not sent":
                with write(self._engine) as connection:
                    connection.execute(sa.delete(mailings).where(own))
                raise
            state = error.outcome
        with write(self._engine) as connection:
            connection.execute(sa.update(mailings).where(own).values(state=state, at=_text(_now())))
        return state

    def _to_disk(self) -> None:
        """What SQLite has committed outlives the process at once, but a power cut only from here on."""
        if self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")


def forget(connection: sa.Connection, email: str) -> None:
    """Delete what is kept of an address."""
    _forget(connection, subscriptions.c.email == email)


def _forget(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    ids = sa.select(subscriptions.c.id).where(which)
    connection.execute(sa.delete(mailings).where(mailings.c.subscription_id.in_(ids)))
    connection.execute(sa.delete(subscriptions).where(which))


def _lock(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":  # SQLite has taken its write lock by now
        connection.execute(sa.text("LOCK TABLE subscriptions IN SHARE ROW EXCLUSIVE MODE"))


def _subscription(row: sa.Row[tuple[object, ...]]) -> Subscription:
    return Subscription(row.id, row.email, row.query, row.pace, row.site, row.token, row.confirmed_at)


def _now() -> datetime:
    return datetime.now(UTC)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
