"""Backups, taken while others write, and put back."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from assay import cli
from assay.database import DatabaseError, database_url, open_database
from assay.evidence.ledger import Ledger
from assay.papers import Papers
from assay.papers.people import Accounts, Contributions
from assay.web.backup import backup, restore
from assay.web.checks import Checks


@pytest.fixture
def filled(either_engine: sa.Engine) -> sa.Engine:
    """A database with papers, people, a vote, and a check that waits."""
    Papers(either_engine).load_catalogue()
    person = Accounts(either_engine).set_role("ada@example.org", "admin")
    Contributions(either_engine).vote(person, Papers(either_engine).find("colide").id)
    checks = Checks(either_engine)
    checks.start("colide", person.id)
    checks.close()
    return either_engine


@pytest.fixture
def elsewhere(filled: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`use()` of the place to restore to: a database that is not there yet, or an empty one."""
    if filled.url.get_backend_name() == "sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'papers.sqlite'}"
        return
    server, _, name = os.environ["ASSAY_DATABASE_URL"].rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}_new")
    yield f"{server}/{name}_new"


def test_a_backup_taken_amid_writing_restores(
    filled: sa.Engine, elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, paper = Contributions(filled), Papers(filled).find("colide").id
    (person,) = Accounts(filled).list()
    stop, wrote = threading.Event(), []

    def write_on() -> None:
        while not stop.is_set():
            wrote.append(said.comment(person, paper, f"comment {len(wrote)}"))

    writing = threading.Thread(target=write_on)
    writing.start()
    while len(wrote) < 20:
        stop.wait(0.01)
    sure = len(wrote)
    file = tmp_path / "backup"
    backup(file)
    stop.set()
    writing.join()
    assert file.stat().st_mode & 0o077 == 0

    monkeypatch.setenv("ASSAY_DATABASE_URL", elsewhere)
    restore(file)
    again = open_database(database_url())
    kept = [comment.body for comment in Contributions(again).comments(paper)]
    assert sure <= len(kept) <= len(wrote)
    assert kept == [f"comment {number}" for number in range(len(kept))]
    assert Accounts(again).list() == [person]
    assert Contributions(again).votes(paper) == 1
    assert len(Papers(again).list()) == len(Papers(filled).list())
    assert list(Ledger(again).rows()) == []
    checks = Checks(again)
    assert checks.under_way() == {"colide": "queued"}
    checks.close()
    again.dispose()
    with pytest.raises(DatabaseError, match=r"exists; move it away first|is not empty; name a new one"):
        restore(file)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner()
    given = run.invoke(cli.app, ["people", "role", "Ada@Example.org", "admin"])
    assert (given.exit_code, given.output) == (0, "ada@example.org: admin\n")
    for wrong in (["ada@example.org", "king"], ["ada", "admin"]):
        assert run.invoke(cli.app, ["people", "role", *wrong]).exit_code == 2
    listed = run.invoke(cli.app, ["people", "list", "--json"]).output
    assert json.loads(listed) == [{"email": "ada@example.org", "name": "ada", "role": "admin"}]
    assert "admin" in run.invoke(cli.app, ["people", "list"]).output
    assert run.invoke(cli.app, ["backup", str(tmp_path / "all")]).exit_code == 0
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{tmp_path / 'new' / 'papers.sqlite'}")
    assert run.invoke(cli.app, ["restore", str(tmp_path / "all")]).exit_code == 0
    assert run.invoke(cli.app, ["people", "list", "--json"]).output == listed


def test_what_is_no_backup_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: sa.Engine
) -> None:
    file = tmp_path / "backup"
    backup(file)
    backup(file)  # in place of the earlier one
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{tmp_path / 'new.sqlite'}")
    for content, complaint in (
        (b"nothing of ours", "is no backup"),
        (file.read_bytes()[:-200], "is no backup"),
        (b"PGDMP and so on", "is a backup of PostgreSQL, and ASSAY_DATABASE_URL names a database of SQLite"),
    ):
        other = tmp_path / "other"
        other.write_bytes(content)
        with pytest.raises(DatabaseError, match=complaint):
            restore(other)
    assert not (tmp_path / "new.sqlite").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []
