import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import assay
from assay.database import NEWEST_REVISION, DatabaseError, database_url, open_database, write
from assay.evidence import ledger, verdict_log
from assay.papers import digest, people, records, sources
from assay.web import checks


def test_migrations_make_the_tables_that_the_code_uses(either_engine: sa.Engine) -> None:
    with either_engine.connect() as connection:
        # What full-text search lies in is the database's own: no table that the two have in common.
        declarable = {"include_name": lambda name, *_: not str(name).startswith("search_words")}
        context = MigrationContext.configure(connection, opts={"compare_type": True, **declarable})
        declared = sa.MetaData()
        assert people.metadata is digest.metadata is sources.metadata is records.metadata
        assert verdict_log.metadata is ledger.metadata
        for metadata in (ledger.metadata, records.metadata, checks.metadata):
            for table in metadata.tables.values():
                table.to_metadata(declared)
        assert compare_metadata(context, declared) == []


def test_the_newest_revision_is_the_head() -> None:
    scripts = ScriptDirectory(str(Path(assay.__file__).parent / "migrations"))
    assert scripts.get_heads() == [NEWEST_REVISION]


def test_opening_again_changes_nothing(either_engine: sa.Engine) -> None:
    with write(either_engine) as connection:
        connection.execute(sa.insert(ledger.leases).values(series="a", index=1, owner="b", expires_at=1.0))
    again = open_database()
    with again.connect() as connection:
        assert connection.execute(sa.select(ledger.leases)).all() == [("a", 1, "b", 1.0)]
    again.dispose()


def test_many_processes_may_open_a_new_database_at_once() -> None:
    code = "from assay.database import open_database; open_database().connect().close()"
    starting = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[1] for process in starting] == [b""] * 4


def test_without_a_name_it_lies_in_the_users_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ASSAY_DATABASE_URL")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Path(str(database_url().database)).name == "assay.sqlite"
    open_database().dispose()


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/assay", "sqlite://", "sqlite:///:memory:"])
def test_what_is_no_database_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ASSAY_DATABASE_URL", url)
    with pytest.raises(DatabaseError, match="ASSAY_DATABASE_URL is to"):
        open_database()


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{path}")
    with pytest.raises(DatabaseError, match="not a database"):
        open_database()
    assert path.read_text().startswith("not a database")


def test_a_database_of_a_newer_release_is_left_alone() -> None:
    open_database().dispose()
    path = os.environ["ASSAY_DATABASE_URL"].removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseError, match="revision 9999, which this release does not know"):
        open_database()


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/assay")
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:1/assay") as caught:
        open_database()
    assert "secret" not in str(caught.value)
