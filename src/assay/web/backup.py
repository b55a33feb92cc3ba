"""Backups: one file that holds everything, trials, papers, people and the work that waits, taken as it runs.

Of SQLite it is a zip file of the two databases, each a copy of one moment; of PostgreSQL it is what the
database's own `pg_dump` writes. Mail in an outbox folder is no part of it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from assay.database import DatabaseError, database_url, open_database
from assay.web.checks import workflows_url

_WORKFLOWS, _LEDGER = "workflows.sqlite", "assay.sqlite"


def backup(file: Path) -> None:
    """Write a backup of the database in use into the file; server and worker may run on meanwhile."""
    engine = open_database()
    partial = file.with_name(f"{file.name}.partial")
    partial.touch(mode=0o600)  # it holds people's addresses
    try:
        if engine.url.get_backend_name() == "postgresql":
            _run("pg_dump", engine.url, "--format=custom", f"--file={partial}")
        else:
            # The work that waits goes first: what it holds for done, the ledger then has.
            sources = {_WORKFLOWS: _path(sa.make_url(workflows_url(engine))), _LEDGER: _path(engine.url)}
            with (
                tempfile.TemporaryDirectory(dir=file.absolute().parent) as folder,
                zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for name, source in sources.items():
                    if source.exists():  # nobody may have asked for any work yet
                        copy = Path(folder) / name
                        with closing(sqlite3.connect(source)) as now, closing(sqlite3.connect(copy)) as then:
                            now.backup(then)
                        archive.write(copy, name)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
        engine.dispose()


def restore(file: Path) -> None:
    """Put a backup where `ASSAY_DATABASE_URL` says, which has to be empty, and bring it up to date."""
    with file.open("rb") as opened:
        is_dump = opened.read(5) == b"PGDMP"
    url = database_url()
    if is_dump != (url.get_backend_name() == "postgresql"):
        kinds = ("PostgreSQL", "SQLite") if is_dump else ("SQLite", "PostgreSQL")
        raise DatabaseError(
            f"{file} is a backup of {kinds[0]}, and ASSAY_DATABASE_URL names a database of {kinds[1]}"
            if is_dump or zipfile.is_zipfile(file)
            else f"{file} is no backup that assay wrote"
        )
    if is_dump:
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            taken = sa.inspect(connection).get_table_names()
        engine.dispose()
        if taken:
            raise DatabaseError(f"the database {url.render_as_string()} is not empty; name a new one")
        _run("pg_restore", url, "--exit-on-error", "--single-transaction", "--no-owner", str(file))
    else:
        _unpack(file, url)
    open_database().dispose()


def _unpack(file: Path, url: sa.URL) -> None:
    target = _path(url)
    places = {_WORKFLOWS: _path(sa.make_url(workflows_url(sa.create_engine(url)))), _LEDGER: target}
    for place in places.values():
        for path in (place, place.with_name(f"{place.name}-wal")):
            if path.exists():
                raise DatabaseError(f"{path} exists; move it away first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                names = set(archive.namelist())
                if _LEDGER not in names or not names <= places.keys():
                    raise DatabaseError(f"{file} is no backup that assay wrote")
                archive.extractall(folder)  # which checks each file's sum
        except zipfile.BadZipFile as error:
            raise DatabaseError(f"{file} is no backup that assay wrote, or is damaged: {error}") from error
        for name, place in places.items():
            if name in names:
                (Path(folder) / name).replace(place)


def _path(url: sa.URL) -> Path:
    assert url.database is not None
    return Path(url.database)


def _run(program: str, url: sa.URL, *arguments: str) -> None:
    found = shutil.which(program)
    if found is None:
        raise DatabaseError(f"the program {program} is not there; PostgreSQL's clients have it")
    # The password is for the program alone: others can read a command line.
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    done = subprocess.run(
        [found, f"--dbname={plain}", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise DatabaseError(f"{program} failed: {done.stderr.strip().splitlines()[0]}")
