"""What all tests share: the toy studies on the path, a database of its own for each test, PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller

from assay.database import database_url, open_database
from assay.evidence.ledger import Ledger

TOY = Path(__file__).parent / "toy"
sys.path.insert(0, str(TOY))


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh SQLite database, and the toy studies for processes that a test starts."""
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{tmp_path / 'assay.sqlite'}")
    monkeypatch.setenv("PYTHONPATH", str(TOY))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = open_database()
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: sa.Engine) -> Ledger:
    return Ledger(engine)


class MailServer:
    """An SMTP server on a loopback port: what it received, and what it is to answer."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        """Recipient and message, as each arrived whole."""
        self.answers: dict[str, str] = {}
        """By recipient, what to say to their address instead of 250."""
        self.holds: Callable[[str, str], bool] = lambda stage, address: False
        """Asked again and again, until it says no, before an answer: stage is "address" or "message"."""
        self.hangs_up = False
        """Whether to hang up instead of answering a message."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.controller = Controller(self, hostname="127.0.0.1", port=port)
        self.controller.start()
        self.url = f"smtp://127.0.0.1:{port}"

    def stop(self) -> None:
        self.holds = lambda stage, address: False
        if not self.controller.loop.is_closed():
            self.controller.stop(no_assert=True)

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        while self.holds("address", address):
            await asyncio.sleep(0.01)
        answer = self.answers.get(address, "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.received += [(address, envelope.content) for address in envelope.rcpt_tos]
        while self.holds("message", envelope.rcpt_tos[0]):
            await asyncio.sleep(0.01)
        if self.hangs_up:
            server.transport.abort()
        return "250 OK"


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """The mail server that `ASSAY_SMTP_URL` names."""
    server = MailServer()
    monkeypatch.setenv("ASSAY_SMTP_URL", server.url)
    yield server
    server.stop()


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that mail goes to."""
    folder = tmp_path / "outbox"
    monkeypatch.setenv("ASSAY_SMTP_URL", folder.as_uri())
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL, without a database's name, of a server started for these tests on a loopback port."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(programs[-1]) if programs else None)
    if initdb is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    user = None
    if os.getuid() == 0:
        # initdb refuses root; Debian's package brings a user to run it as.
        user = "postgres"
    folder = Path(tempfile.mkdtemp(prefix="assay-postgresql-"))
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user, "cwd": folder}
    options = ["-D", str(data), "-A", "trust", "-U", "assay", "--no-sync", "-E", "UTF8"]
    subprocess.run([initdb, *options], check=True, **quiet)
    postgres = Path(initdb).resolve().with_name("postgres")
    settings = [
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={folder}",
        "-c",
        "fsync=off",
    ]
    server = subprocess.Popen([postgres, "-D", str(data), "-p", str(port), *settings], **quiet)
    url = f"postgresql://assay@127.0.0.1:{port}"
    try:
        _wait_until_ready(f"{url}/postgres")
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown: does not wait for clients
        server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(url: str) -> None:
    import psycopg

    for _ in range(100):
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("PostgreSQL did not start within 10 s")


@pytest.fixture
def postgresql(postgresql_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`ASSAY_DATABASE_URL` names an empty PostgreSQL database of this test's own."""
    import psycopg

    name = f"assay_{os.urandom(6).hex()}"
    with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = f"{postgresql_server}/{name}"
    monkeypatch.setenv("ASSAY_DATABASE_URL", url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def either_engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """An engine on a fresh database, once SQLite and once PostgreSQL."""
    if request.param == "postgresql":
        request.getfixturevalue("postgresql")
    engine = open_database(database_url())
    yield engine
    engine.dispose()
