"""kill -9 of the server and the worker while people use the page: what was acknowledged is there, once."""

from __future__ import annotations

import email
import email.policy
import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import sqlalchemy as sa

from assay.database import open_database
from assay.evidence.ledger import Ledger
from assay.papers import Papers, people
from assay.papers.people import Accounts
from assay.web.checks import Checks
from assay.web.guard import SESSION
from assay.web.page import address

if TYPE_CHECKING:
    from conftest import Processes

KILLS = 2
READERS = 3
ENOUGH = 25
"""How much is to be acknowledged before each kill."""


@pytest.fixture(params=["sqlite", "postgresql"])
def either_processes(request: pytest.FixtureRequest) -> Iterator[Processes]:
    kind = "processes" if request.param == "sqlite" else "processes_on_postgresql"
    return request.getfixturevalue(kind)


class Reader(threading.Thread):
    """Somebody who votes, comments and asks for digests without end, and notes what the server took."""

    def __init__(self, number: int, server: str, session: str, papers: list[str]) -> None:
        super().__init__(daemon=True)
        self.number, self.server, self.papers = number, server, papers
        self.client = httpx.Client(headers={"Origin": server}, cookies={SESSION: session}, timeout=10)
        self.leaves = threading.Event()
        self.taken: dict[str, list[str]] = {"vote": [], "comment": [], "digest": []}
        self.surprises: list[str] = []

    def run(self) -> None:
        for turn in itertools.count():
            what = ("vote", "comment", "digest")[turn % 3]
            mine = f"{self.number}-{turn}"
            paper = self.papers[(turn // 3) % len(self.papers)]
            path, form = {
                "vote": (f"{paper}/vote", {}),
                "comment": (f"{paper}/comments", {"body": f"said {mine}"}),
                "digest": ("/digest", {"email": f"{mine}@example.org"}),
            }[what]
            if self.leaves.is_set():
                return
            try:
                status = self.client.post(self.server + path, data=form).status_code
            except httpx.HTTPError:  # the server was killed: it may have taken this, or not
                time.sleep(0.05)
                continue
            if status == 303:
                self.taken[what].append(paper if what == "vote" else mine)
            elif status != 429:
                self.surprises.append(f"{path}: {status}")


def test_killing_server_and_worker_loses_and_doubles_nothing(
    either_processes: Processes, outbox: Path
) -> None:
    processes = either_processes
    processes.environment["ASSAY_SMTP_URL"] = outbox.as_uri()
    engine = open_database()
    records = Papers(engine)
    records.load_catalogue()
    accounts = Accounts(engine)
    papers = {address(paper): paper.id for paper in records.list()}
    servers = [processes.serve(), processes.work()]
    readers = []
    for number in range(READERS):
        person = accounts.set_role(f"reader{number}@example.org", "reader")
        session = accounts.sign_in(accounts.make_link(person.email))
        assert session is not None
        readers.append(Reader(number, processes.address, session, list(papers)))
    asked = readers[0].client.post(f"{processes.address}/papers/slow/check")
    assert asked.status_code == 303
    for reader in readers:
        reader.start()

    def taken() -> int:
        return sum(len(some) for reader in readers for some in reader.taken.values())

    for _ in range(KILLS):
        before = taken()
        processes.until(lambda before=before: taken() >= before + ENOUGH, 60)
        for process in servers:
            process.kill()
        for process in servers:
            process.wait()
        servers = [processes.serve(), processes.work()]
    for reader in readers:
        reader.leaves.set()
    for reader in readers:
        reader.join()
    assert [reader.surprises for reader in readers] == [[]] * READERS

    with engine.connect() as connection:
        votes = {(vote.person_id, vote.paper_id) for vote in connection.execute(sa.select(people.votes))}
        said = Counter(connection.scalars(sa.select(people.comments.c.body)))
        ids = {person.email: person.id for person in connection.execute(sa.select(people.people))}
    for reader in readers:
        mine = ids[f"reader{reader.number}@example.org"]
        assert {(mine, papers[paper]) for paper in reader.taken["vote"]} <= votes
        assert {f"said {what}" for what in reader.taken["comment"]} <= set(said)
    assert set(said.values()) == {1}

    mails = [
        email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        for file in outbox.glob("*.eml")
    ]
    assert all(re.search(r"/digest/\S+", message.get_content()) for message in mails)
    sent = Counter(message["to"] for message in mails)
    assert {f"{what}@example.org" for reader in readers for what in reader.taken["digest"]} <= set(sent)
    assert set(sent.values()) == {1}

    checks = Checks(engine)
    processes.until(lambda: not checks.under_way(), 60)
    checks.close()
    assert [row.index for row in Ledger(engine).rows("slow")] == list(range(7))
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            assert connection.scalar(sa.text("PRAGMA integrity_check")) == "ok"
    engine.dispose()
