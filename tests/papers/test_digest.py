from __future__ import annotations

import email
import email.policy
import itertools
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from assay.database import write
from assay.evidence.verdict_log import verdict_changes, verdict_index
from assay.papers import digest, mail, records
from assay.papers.digest import CLOSES, Digests, Issue, Subscription, closed
from assay.papers.people import Accounts
from assay.papers.selection import Selection

if TYPE_CHECKING:
    from conftest import MailServer

DAY = timedelta(days=1)
UNTIL = datetime(2026, 11, 24, 6, tzinfo=UTC)


def text(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def add(engine: sa.Engine, title: str, added: datetime, **known: Any) -> None:
    with write(engine) as connection:
        connection.execute(
            sa.insert(records.papers).values(title=title, added_at=text(added), day=added.date(), **known)
        )


def judge(engine: sa.Engine, slug: str, at: datetime, *kinds: str | None) -> None:
    """Let the claim "fast" of the paper's study have been of these kinds, one after another."""
    said = {
        "study": slug,
        "experiment": "runs",
        "claim": "is_fast",
        "yes": 7,
        "answered": 8,
        "scale": "quick",
    }
    said |= {"origin": "here", "fingerprint": "f"}
    with write(engine) as connection:
        connection.execute(sa.delete(verdict_index).where(verdict_index.c.study == slug))
        connection.execute(sa.insert(verdict_index).values(**said, kind=kinds[-1]))
        for before, after in itertools.pairwise(kinds):
            connection.execute(
                sa.insert(verdict_changes).values(**said, at=text(at), before=before, after=after)
            )


def subscribe(
    engine: sa.Engine, *people: str, query: str = "", pace: str = "daily", since: datetime | None = None
) -> None:
    """Confirmed subscriptions, since long ago."""
    since = since or datetime(2026, 1, 1, tzinfo=UTC)
    with write(engine) as connection:
        for person in people:
            connection.execute(
                sa.insert(digest.subscriptions).values(
                    email=f"{person}@example.org",
                    query=query,
                    pace=pace,
                    site="https://papers.example.org",
                    token=f"{person}{pace}",
                    made_at=text(since),
                    confirmed_at=text(since),
                )
            )


def plain(issue: Issue, subscription: Subscription) -> mail.EmailMessage:
    titles = [entry.paper.title for entry in (*issue.new, *issue.judged)]
    return mail.message(to=subscription.email, subject="Papers", text="\n".join(titles))


def send(engine: sa.Engine, at: datetime) -> list[str]:
    digests = Digests(engine)
    return [digests.send(key, issue, plain) for key, issue in digests.due(at)]


def titles(entries: Any) -> set[str]:
    return {entry.paper.title for entry in entries}


def sent(outbox: Path) -> list[tuple[str, list[str]]]:
    """Recipient and titles of every mail, in the order in which they were sent."""
    found = []
    for file in sorted(outbox.glob("*.eml")) if outbox.exists() else ():
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        found.append((message["to"], message.get_content().split()))
    return found


# ------------------------------------------------------------------------------------ what an issue holds


def test_issues_in_a_row_hold_every_paper_once(either_engine: sa.Engine) -> None:
    digests = Digests(either_engine)
    for hour in range(0, 96, 3):
        add(either_engine, f"{hour}", UNTIL - timedelta(hours=hour))
    add(either_engine, "late", UNTIL - timedelta(seconds=1))
    issues = [digests.issue(Selection(), UNTIL - (n + 1) * DAY, UNTIL - n * DAY) for n in range(4)]
    assert [len(issue.new) for issue in issues] == [9, 8, 8, 7]
    assert len(set.union(*(titles(issue.new) for issue in issues))) == 32
    assert not digests.issue(Selection(), UNTIL + DAY, UNTIL + 2 * DAY)


def test_an_issue_follows_the_selection(either_engine: sa.Engine) -> None:
    at = UNTIL - timedelta(hours=1)
    add(either_engine, "Gates", at, field="gating", organisation="Lab")
    add(either_engine, "Graphs", at, field="inference", keywords='["graphs"]')
    digests = Digests(either_engine)

    def of(**parts: str) -> set[str]:
        return titles(digests.issue(Selection(**parts), UNTIL - DAY, UNTIL).new)

    assert of() == {"Gates", "Graphs"}
    assert of(field="gating") == of(organisation="Lab") == {"Gates"}
    assert of(keyword="graphs", sort="date") == {"Graphs"}
    assert of(field="gating", keyword="graphs") == set()


def test_an_issue_tells_of_verdicts_that_fell_and_of_no_others(either_engine: sa.Engine) -> None:
    at, before = UNTIL - timedelta(hours=1), UNTIL - 30 * DAY
    for slug in ("fell", "turned", "lost", "old"):
        add(either_engine, slug, before, slug=slug, field="gating")
    add(either_engine, "new", at, slug="new")
    judge(either_engine, "fell", at, None, "undecided", "holds")
    judge(either_engine, "turned", at, "holds", "stale", "holds", "fails")
    judge(either_engine, "lost", at, "holds", "stale")
    judge(either_engine, "old", before, None, "holds")
    judge(either_engine, "new", at, None, "fails")
    digests = Digests(either_engine)
    issue = digests.issue(Selection(), UNTIL - DAY, UNTIL)
    told = {
        entry.paper.title: [(one.before, one.after) for one in entry.fallen]
        for entry in (*issue.new, *issue.judged)
    }
    assert told == {
        "fell": [("undecided", "holds")],
        "turned": [("stale", "fails")],
        "new": [(None, "fails")],
    }
    assert titles(issue.new) == {"new"}
    assert issue.new[0].counts == {"fails": 1}
    assert titles(digests.issue(Selection(field="gating", verdict="fails"), UNTIL - DAY, UNTIL).judged) == {
        "turned"
    }


def test_a_flood_of_papers_is_cut_short(either_engine: sa.Engine) -> None:
    for number in range(digest.SHOWN + 1):
        add(either_engine, f"Paper {number}", UNTIL - timedelta(hours=1))
    issue = Digests(either_engine).issue(Selection(), UNTIL - DAY, UNTIL)
    assert (len(issue.new), issue.more) == (digest.SHOWN, True)


def test_a_search_tells_of_what_it_finds_first(engine: sa.Engine) -> None:
    from assay.papers.search import Search

    at = UNTIL - timedelta(hours=1)
    add(engine, "Sparse gates for mixtures of experts", at, abstract="A gate chooses experts.")
    add(engine, "Sparse gates of old", UNTIL - 30 * DAY, abstract="A gate chooses experts.")
    for number in range(2 * digest.FIRST):
        add(engine, f"Quantum chemistry of molecule {number}", UNTIL - 30 * DAY, abstract="Energies of ions.")
    Search(engine).refresh()
    issue = Digests(engine).issue(Selection(q="sparse gates"), UNTIL - DAY, UNTIL)
    assert titles(issue.new) == {"Sparse gates for mixtures of experts"}
    assert not Digests(engine).issue(Selection(q="quantum chemistry"), UNTIL - DAY, UNTIL).new


# ------------------------------------------------------------------------------------ when it is due


@pytest.mark.parametrize(
    ("at", "daily", "weekly"),
    [
        ("2026-11-24T05:59:59", date(2026, 11, 23), date(2026, 11, 23)),
        ("2026-11-24T06:00:00", date(2026, 11, 24), date(2026, 11, 23)),
        ("2026-11-23T05:00:00", date(2026, 11, 22), date(2026, 11, 16)),
        ("2026-11-23T06:00:00", date(2026, 11, 23), date(2026, 11, 23)),
    ],
)
def test_an_issue_closes_in_the_morning(at: str, daily: date, weekly: date) -> None:
    when = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert (closed(when, "daily"), closed(when, "weekly")) == (daily, weekly)


def test_an_issue_is_mailed_once_to_each(either_engine: sa.Engine, outbox: Path) -> None:
    subscribe(either_engine, "ada", "emmy")
    subscribe(either_engine, "ada", pace="weekly")
    subscribe(either_engine, "late", since=UNTIL + timedelta(minutes=1))
    add(either_engine, "A", UNTIL - timedelta(hours=1))
    add(either_engine, "B", UNTIL - 3 * DAY)
    before = UNTIL + digest.SETTLES - timedelta(seconds=1)
    assert send(either_engine, before) == ["empty", "empty", "sent"]
    assert sent(outbox) == [("ada@example.org", ["B"])]
    assert send(either_engine, before) == []
    assert send(either_engine, before + timedelta(seconds=1)) == ["sent", "sent"]
    assert sent(outbox)[1:] == [("ada@example.org", ["A"]), ("emmy@example.org", ["A"])]
    assert send(either_engine, UNTIL + DAY / 2) == []


def test_after_days_without_a_worker_one_issue_makes_up_for_all(
    either_engine: sa.Engine, outbox: Path
) -> None:
    subscribe(either_engine, "ada")
    for day in range(6):
        add(either_engine, f"{day}", UNTIL + day * DAY - timedelta(hours=1))
    assert send(either_engine, UNTIL + timedelta(hours=1)) == ["sent"]
    assert send(either_engine, UNTIL + 5 * DAY + timedelta(hours=1)) == ["sent"]
    assert [sorted(found) for _, found in sent(outbox)] == [["0"], ["1", "2", "3", "4", "5"]]


def test_an_old_issue_is_not_sent_after_a_newer_one(either_engine: sa.Engine, outbox: Path) -> None:
    subscribe(either_engine, "ada")
    add(either_engine, "A", UNTIL - timedelta(hours=1))
    digests = Digests(either_engine)
    ((key, _),) = digests.due(UNTIL + DAY / 2)
    assert digests.send(key, UNTIL.date(), plain) == "sent"
    assert digests.send(key, UNTIL.date() - DAY, plain) == "gone"
    assert len(sent(outbox)) == 1


# ------------------------------------------------------------------------------------ trouble


def test_a_server_that_is_away_gets_it_later(either_engine: sa.Engine, mail_server: MailServer) -> None:
    subscribe(either_engine, "ada")
    add(either_engine, "A", UNTIL - timedelta(hours=1))
    at = UNTIL + timedelta(hours=1)
    mail_server.answers["ada@example.org"] = "451 Come back later"
    with pytest.raises(mail.MailError):
        send(either_engine, at)
    mail_server.answers.clear()
    assert send(either_engine, at) == ["sent"]
    assert len(mail_server.received) == 1


def test_what_was_refused_or_cut_off_is_not_sent_again(
    either_engine: sa.Engine, mail_server: MailServer
) -> None:
    subscribe(either_engine, "ada", "emmy")
    add(either_engine, "A", UNTIL - timedelta(hours=1))
    at = UNTIL + timedelta(hours=1)
    mail_server.answers["ada@example.org"] = "550 No such person"
    mail_server.hangs_up = True
    assert send(either_engine, at) == ["refused", "unknown"]
    mail_server.answers.clear()
    mail_server.hangs_up = False
    assert send(either_engine, at) == []
    assert [person for person, _ in mail_server.received] == ["emmy@example.org"]


def test_two_senders_at_once_send_nothing_twice(either_engine: sa.Engine, mail_server: MailServer) -> None:
    people = [f"person{number}" for number in range(6)]
    subscribe(either_engine, *people)
    add(either_engine, "A", UNTIL - timedelta(hours=1))
    digests = Digests(either_engine)
    thrice = [one for one in digests.due(UNTIL + DAY / 2) for _ in range(3)]
    with ThreadPoolExecutor(3) as senders:
        outcomes = senders.map(lambda one: digests.send(*one, plain), thrice)
    assert Counter(outcomes) == {"sent": 6, "gone": 12}
    assert Counter(person for person, _ in mail_server.received) == Counter(
        f"{person}@example.org" for person in people
    )


class Sender:
    """`assay digest send`, as a process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "assay.cli", "digest", "send"], stdout=subprocess.PIPE, text=True
        )

    def wait(self) -> str:
        said = self.process.communicate(timeout=60)[0]
        assert self.process.returncode == 0
        return said

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def now_closed() -> datetime:
    """When the issue closed that is due now."""
    return datetime.combine(closed(datetime.now(UTC) - digest.SETTLES, "daily"), CLOSES)


def test_killed_senders_send_nothing_twice(either_engine: sa.Engine, mail_server: MailServer) -> None:
    """Killed between the note that it sends and the sending, one loses that mail; killed while the server has
    the message, it is not sent again; what comes after is sent by the next."""
    people = [f"person{number}" for number in range(5)]
    subscribe(either_engine, *people)
    add(either_engine, "A", now_closed() - timedelta(hours=1))
    for struck in (("address", "person1@example.org"), ("message", "person3@example.org")):
        reached: list[tuple[str, str]] = []

        def holds(
            *at: str, struck: tuple[str, str] = struck, reached: list[tuple[str, str]] = reached
        ) -> bool:
            if at == struck:
                reached.append(struck)
            return at == struck

        mail_server.holds = holds
        sender = Sender()
        until(lambda reached=reached: reached)
        sender.kill()
    mail_server.holds = lambda *at: False
    assert Sender().wait() == "1 sent\n"
    assert Digests(either_engine).due(datetime.now(UTC)) == []
    received = Counter(person for person, _ in mail_server.received)
    assert received == {f"{person}@example.org": 1 for person in people if person != "person1"}


def until(met: Any) -> None:
    ends = time.monotonic() + 60
    while not met():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------ subscribing


def ask(subscription: Subscription) -> mail.EmailMessage:
    return mail.message(to=subscription.email, subject="Do you?", text=subscription.token)


def test_only_who_confirms_is_subscribed_and_is_asked_once(either_engine: sa.Engine, outbox: Path) -> None:
    digests = Digests(either_engine)
    for _ in range(3):
        digests.subscribe("Ada@example.org", Selection(week="2026-W47"), "daily", "https://a.org", ask)
    ((recipient, (token,)),) = sent(outbox)
    assert recipient == "ada@example.org"
    assert digests.of(recipient) == []
    assert digests.due(datetime.now(UTC) + 2 * DAY) == []
    assert digests.confirm(token)
    (found,) = digests.of(recipient)
    assert found.selection == Selection()
    assert len(digests.due(datetime.now(UTC) + 2 * DAY)) == 1
    digests.subscribe(recipient, Selection(), "daily", "https://a.org", ask)
    assert len(sent(outbox)) == 1
    digests.end(token)
    digests.end(token)
    assert (digests.find(token), digests.confirm(token)) == (None, False)
    assert digests.due(datetime.now(UTC) + 2 * DAY) == []


def test_an_address_cannot_be_flooded_with_questions(either_engine: sa.Engine, outbox: Path) -> None:
    digests = Digests(either_engine)
    for number in range(20):
        digests.subscribe("ada@example.org", Selection(keyword=f"k{number}"), "daily", "https://a.org", ask)
    assert len(sent(outbox)) == digest.MOST_UNCONFIRMED


def test_a_question_that_could_not_be_sent_can_be_asked_again(
    either_engine: sa.Engine, mail_server: MailServer
) -> None:
    digests = Digests(either_engine)
    mail_server.answers["ada@example.org"] = "451 Come back later"
    with pytest.raises(mail.MailError):
        digests.subscribe("ada@example.org", Selection(), "daily", "https://a.org", ask)
    mail_server.answers.clear()
    digests.subscribe("ada@example.org", Selection(), "daily", "https://a.org", ask)
    assert len(mail_server.received) == 1


def test_what_nobody_confirmed_or_wants_any_more_is_forgotten(either_engine: sa.Engine, outbox: Path) -> None:
    digests = Digests(either_engine)
    digests.subscribe("ada@example.org", Selection(), "daily", "https://a.org", ask)
    subscribe(either_engine, "emmy")
    add(either_engine, "A", UNTIL - timedelta(hours=1))
    send(either_engine, UNTIL + timedelta(hours=1))
    digests.due(datetime.now(UTC) + digest.UNCONFIRMED_FOR + timedelta(minutes=1))
    with write(either_engine) as connection:
        assert [*connection.scalars(sa.select(digest.subscriptions.c.email))] == ["emmy@example.org"]
        digest.forget(connection, "emmy@example.org")
        assert connection.scalar(sa.select(sa.func.count()).select_from(digest.mailings)) == 0


def test_an_account_that_is_deleted_takes_its_digests_along(engine: sa.Engine) -> None:
    accounts = Accounts(engine)
    subscribe(engine, "ada", "emmy")
    accounts.delete(accounts.set_role("ada@example.org", "reader"))
    assert Digests(engine).of("ada@example.org") == []
    assert len(Digests(engine).of("emmy@example.org")) == 1


def test_a_pace_that_is_none_is_refused(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="pace is to be one of daily, weekly, got 'hourly'"):
        Digests(engine).subscribe("ada@example.org", Selection(), "hourly", "https://a.org", ask)
