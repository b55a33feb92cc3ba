"""People in the database: links and sessions, roles, what goes when somebody leaves, what stays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from assay.database import write
from assay.papers import Papers, people
from assay.papers.people import Accounts, Contributions, Person
from assay.papers.selection import Selection

ON_SQLITE = pytest.mark.parametrize("either_engine", ["sqlite"], indirect=True)
"""For what the two databases do not do differently."""


@pytest.fixture
def accounts(either_engine: sa.Engine) -> Accounts:
    return Accounts(either_engine)


@pytest.fixture
def said(either_engine: sa.Engine) -> Contributions:
    return Contributions(either_engine)


@pytest.fixture
def paper(either_engine: sa.Engine) -> int:
    papers = Papers(either_engine)
    papers.load_catalogue()
    return papers.find("colide").id


def arrive(accounts: Accounts, email: str, name: str = "Somebody", **options: bool) -> Person:
    session = accounts.sign_in(accounts.make_link(email, **options), name)
    assert session is not None
    person = accounts.signed_in(session)
    assert person is not None
    return person


def at_once(act: Callable[[], object], times: int = 6) -> list[object]:
    """What `act` gave in so many threads that started together."""
    gate = threading.Barrier(times)
    given: list[object] = []

    def go() -> None:
        gate.wait()
        given.append(act())

    threads = [threading.Thread(target=go) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


def test_a_link_signs_in_once(accounts: Accounts) -> None:
    secret = accounts.make_link(" Ada@Example.org ", "/papers/colide")
    link = accounts.link(secret)
    assert link == people.Link("ada@example.org", True, "/papers/colide")
    with pytest.raises(ValueError, match="a name is to have 1 to 60"):
        accounts.sign_in(secret, "  ")
    sessions = at_once(lambda: accounts.sign_in(secret, "Ada  Lovelace"))
    (session,) = (session for session in sessions if session)
    person = accounts.signed_in(str(session))
    assert person is not None
    assert (person.email, person.name, person.role) == ("ada@example.org", "Ada Lovelace", "reader")
    assert accounts.link(secret) is None
    accounts.sign_out(str(session))
    assert accounts.signed_in(str(session)) is None


def test_two_links_of_a_new_person_make_one_person(accounts: Accounts) -> None:
    secrets = [accounts.make_link("ada@example.org", may_found=True) for _ in range(4)]
    sessions = at_once(lambda: accounts.sign_in(secrets.pop(), "Ada"), 4)
    assert len({accounts.signed_in(str(session)) for session in sessions}) == 1
    assert [person.role for person in accounts.list()] == ["admin"]


@ON_SQLITE
def test_only_the_first_at_the_terminal_becomes_admin(accounts: Accounts) -> None:
    early = accounts.make_link("eve@example.org", may_found=True)
    assert arrive(accounts, "mail@example.org").role == "reader"
    assert arrive(accounts, "ada@example.org", may_found=True).role == "admin"
    session = accounts.sign_in(early, "Eve")
    assert session is not None
    eve = accounts.signed_in(session)
    assert eve is not None
    assert eve.role == "reader"


@ON_SQLITE
@pytest.mark.parametrize("table", [people.sign_in_links, people.sessions])
def test_links_and_sessions_end(accounts: Accounts, either_engine: sa.Engine, table: sa.Table) -> None:
    secret = accounts.make_link("ada@example.org")
    session = accounts.sign_in(accounts.make_link("ada@example.org"), "Ada")
    assert session is not None
    past = (datetime.now(UTC) - timedelta(seconds=2)).isoformat(timespec="seconds")
    with write(either_engine) as connection:
        connection.execute(sa.update(table).values(expires_at=past))
    if table is people.sessions:
        assert accounts.signed_in(session) is None
    else:
        assert accounts.link(secret) is None
        assert accounts.sign_in(secret, "Ada") is None


@ON_SQLITE
def test_what_is_stored_opens_nothing(accounts: Accounts, either_engine: sa.Engine) -> None:
    secret = accounts.make_link("ada@example.org")
    with either_engine.connect() as connection:
        stored = str(connection.execute(sa.select(people.sign_in_links)).all())
    assert secret not in stored


@ON_SQLITE
def test_roles(accounts: Accounts) -> None:
    assert accounts.set_role("Bob@Example.org", "curator") == accounts.list()[0]
    assert accounts.set_role("bob@example.org", "reader").curates is False
    with pytest.raises(ValueError, match="role is to be one of reader, curator, admin, got 'king'"):
        accounts.set_role("bob@example.org", "king")
    with pytest.raises(ValueError, match="an e-mail address"):
        accounts.set_role("bob@example.org\nBcc: eve@example.org", "admin")


def test_votes_count_once(accounts: Accounts, said: Contributions, paper: int) -> None:
    ada, bob = arrive(accounts, "ada@example.org"), arrive(accounts, "bob@example.org")
    at_once(lambda: said.vote(ada, paper))
    said.vote(bob, paper)
    assert (said.votes(paper), said.has_voted(ada, paper)) == (2, True)
    said.withdraw(ada, paper)
    said.withdraw(ada, paper)
    assert (said.votes(paper), said.has_voted(ada, paper)) == (1, False)
    with pytest.raises(sa.exc.IntegrityError):
        said.vote(ada, 10_000)


@ON_SQLITE
def test_comments_are_deleted_by_who_may(accounts: Accounts, said: Contributions, paper: int) -> None:
    ada, bob = arrive(accounts, "ada@example.org", "Ada"), arrive(accounts, "bob@example.org", "Bob")
    curator = accounts.set_role("cleo@example.org", "curator")
    first, second = (said.comment(ada, paper, text) for text in ("one\r\ntwo", "again"))
    assert [(item.name, item.body) for item in said.comments(paper)] == [
        ("Ada", "one\ntwo"),
        ("Ada", "again"),
    ]
    assert said.delete_comment(bob, first) is None
    assert said.delete_comment(ada, first) == paper
    assert said.delete_comment(curator, second) == paper
    assert said.comments(paper) == ()
    for text in (" \n", "x" * (people.LONGEST_TEXT + 1), "\x00"):
        with pytest.raises(ValueError, match="a text is to have"):
            said.comment(ada, paper, text)


def test_an_author_answers_once_confirmed(accounts: Accounts, said: Contributions, paper: int) -> None:
    ada = arrive(accounts, "ada@example.org", "Ada")
    answer = {"experiment": "e", "claim": "c", "kind": "reworded", "body": "*Fewer* errors"}
    said.claim_authorship(ada, paper, "my page")
    said.claim_authorship(ada, paper, "again")
    (claim,) = said.authorships(state="waiting")
    assert (claim.note, claim.email) == ("my page", "ada@example.org")
    with pytest.raises(PermissionError, match="whom a curator has confirmed"):
        said.answer(ada, paper, **answer)
    assert said.decide_authorship(claim.id, confirmed=True)
    assert said.authorship(ada, paper) == "confirmed"
    said.answer(ada, paper, **answer)
    said.comment(ada, paper, "hello")
    assert [(item.name, item.claim, item.body) for item in said.answers(paper)] == [
        ("Ada", "c", "*Fewer* errors")
    ]
    assert said.comments(paper)[0].is_author
    with pytest.raises(ValueError, match="kind is to be one of reworded, setting, remark"):
        said.answer(ada, paper, **answer | {"kind": "lie"})
    said.decide_authorship(claim.id, confirmed=False)
    with pytest.raises(PermissionError):
        said.answer(ada, paper, **answer)
    assert not said.decide_authorship(claim.id + 1, confirmed=True)


@ON_SQLITE
def test_searches_are_kept(accounts: Accounts, said: Contributions, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, bob = arrive(accounts, "ada@example.org"), arrive(accounts, "bob@example.org")
    said.save_search(ada, "gates", Selection(q="sparse"))
    said.save_search(ada, "gates", Selection(q="sparse gates", verdict="any"))
    (kept,) = said.searches(ada)
    assert kept.query == "q=sparse+gates&verdict=any"
    assert not said.forget_search(bob, kept.id)
    monkeypatch.setattr(people, "MOST_SEARCHES", 1)
    with pytest.raises(ValueError, match="as many as one may"):
        said.save_search(ada, "other", Selection())
    assert said.forget_search(ada, kept.id)


def test_a_submission_is_taken_in_once(
    accounts: Accounts, said: Contributions, paper: int, either_engine: sa.Engine
) -> None:
    ada = arrive(accounts, "ada@example.org", "Ada")
    found = Papers(either_engine).find("colide")
    assert found.arxiv_id is not None
    assert said.known(found.arxiv_id) == paper
    arrives, lost, missing = (said.submit(ada, name) for name in (found.arxiv_id, "2001.00001", "2001.00002"))
    assert said.submit(ada, "2001.00001") == lost
    for _ in range(2):
        said.take_in(arrives, lambda _: None)
        said.take_in(lost, lambda name: f"arXiv gave no answer about {name}")
        said.take_in(missing, lambda _: None)
    said.take_in(10_000, lambda _: pytest.fail("there is nothing to fetch"))
    assert [(item.paper_id, item.problem) for item in reversed(said.submissions(ada))] == [
        (paper, None),
        (None, "arXiv gave no answer about 2001.00001"),
        (None, "arXiv knows no paper of this id."),
    ]
    assert Papers(either_engine).find("colide").submitter == "Ada"
    accounts.rename(ada, "Ada L.")
    assert Papers(either_engine).find("colide").submitter == "Ada L."


@pytest.mark.parametrize("words_too", [False, True])
def test_leaving_takes_what_is_personal(
    accounts: Accounts, said: Contributions, paper: int, either_engine: sa.Engine, words_too: bool
) -> None:
    ada, bob = arrive(accounts, "ada@example.org", "Ada"), arrive(accounts, "bob@example.org", "Bob")
    for person in (ada, bob):
        accounts.make_link(person.email)
        said.vote(person, paper)
        said.comment(person, paper, f"I am {person.id}")
        said.claim_authorship(person, paper, "see my page")
        said.decide_authorship(said.authorships(person=person)[0].id, confirmed=True)
        said.answer(person, paper, experiment="e", claim="c", kind="remark", body="well")
        said.save_search(person, "mine", Selection(q="gates"))
    arxiv_id = Papers(either_engine).find("colide").arxiv_id
    assert arxiv_id is not None
    said.take_in(said.submit(ada, arxiv_id), lambda _: None)
    accounts.delete(accounts.set_role("ada@example.org", "admin"), words_too=words_too)
    assert [person.email for person in accounts.list()] == ["bob@example.org"]
    assert said.votes(paper) == 1
    stays = [] if words_too else [None]
    assert [item.name for item in said.comments(paper)] == [*stays, "Bob"]
    assert [item.name for item in said.answers(paper)] == [*stays, "Bob"]
    with either_engine.connect() as connection:
        for table in people.metadata.sorted_tables:
            if "person_id" in table.c:
                gone = sa.select(sa.func.count()).select_from(table).where(table.c.person_id == ada.id)
                assert connection.scalar(gone) == 0, table.name
            rows = str(connection.execute(sa.select(table)).all()) if table.name != "provenances" else ""
            assert "ada@example.org" not in rows, table.name
            assert "'Ada'" not in rows, table.name
    # Nobody who comes later is taken for who has left.
    assert arrive(accounts, "eve@example.org").id not in (ada.id, bob.id)
