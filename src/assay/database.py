"""The one database of papers and trials: where it lies, how it is opened, and its migrations.

`ASSAY_DATABASE_URL` names it as an SQLite or PostgreSQL URL; without it, it is a file in the user's data
folder. What the tables hold is the business of `assay.evidence.ledger` and `assay.papers.records`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

NEWEST_REVISION = "0006"
"""The revision that `open_database` brings a database to; the newest one in `assay/migrations/versions`."""

_LOCK = 0x_A55A_0001  # an advisory lock of PostgreSQL, held while migrations run
_MAPPED = 2**30  # bytes of an SQLite file that are mapped: rows from all over it are read a third faster


class DatabaseError(RuntimeError):
    """The database cannot be used; the message says which one and why."""


def database_url() -> sa.URL:
    """The URL of the database in use, with the driver that this project speaks to it through."""
    text = os.environ.get("ASSAY_DATABASE_URL", "").strip()
    if not text:
        import platformdirs

        return sa.URL.create(
            "sqlite", database=str(Path(platformdirs.user_data_dir("assay")) / "assay.sqlite")
        )
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise DatabaseError(
            f"ASSAY_DATABASE_URL is to be a URL such as sqlite:///assay.sqlite, got {text!r}"
        ) from error
    match url.get_backend_name():
        case "sqlite" if url.database and url.database != ":memory:":
            return url.set(drivername="sqlite")
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
    raise DatabaseError(
        f"ASSAY_DATABASE_URL is to name an SQLite file or a PostgreSQL database, got {text!r}"
    )


def open_database(url: sa.URL | None = None) -> sa.Engine:
    """An engine for the database, created and migrated to the newest revision where need be.

    Raises `DatabaseError` when it cannot be reached, is no such database, or was written by a newer release.
    """
    url = url or database_url()
    try:
        if url.get_backend_name() == "sqlite":
            engine = _sqlite(url)
        else:
            engine = sa.create_engine(url, pool_pre_ping=True)
        with engine.connect() as connection:
            revision = _revision(connection)
        if revision != NEWEST_REVISION:
            _migrate(engine)
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise DatabaseError(f"cannot use the database {url.render_as_string()}: {reason}") from error
    except ModuleNotFoundError as error:
        raise DatabaseError("a PostgreSQL database needs the extra assay[postgresql]") from error
    return engine


@contextmanager
def write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that takes the write lock at once, so that what it reads still holds when it writes."""
    with engine.connect().execution_options(assay_write=True) as connection, connection.begin():
        yield connection


class _Ids(sa.TypeDecorator[Iterable[int]]):
    """Ids as one value: an array in PostgreSQL, else JSON."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.ARRAY(sa.Integer) if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Iterable[int] | None, dialect: sa.Dialect) -> Any:
        ids = list(value or ())
        return ids if dialect.name == "postgresql" else json.dumps(ids)


class _Each(FunctionElement[int]):
    """The rows of `_Ids`."""

    inherit_cache = True


@compiles(_Each)
def _each(element: _Each, compiler: Any, **options: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"


@compiles(_Each, "postgresql")
def _each_postgresql(element: _Each, compiler: Any, **options: Any) -> str:
    return f"(SELECT unnest({compiler.process(element.clauses, **options)}))"


def among(column: sa.ColumnElement[int], ids: Iterable[int] | None = None) -> sa.ColumnElement[bool]:
    """That the column is one of the ids, any number of them, or of those that a statement's `ids` will be.

    They travel as one value; of 500, each of which `in_` makes a parameter, that halves the time.
    """
    given = sa.bindparam("ids", type_=_Ids()) if ids is None else sa.literal(ids, _Ids())
    return column.op("IN", is_comparison=True)(_Each(given))


def _sqlite(url: sa.URL) -> sa.Engine:
    assert url.database is not None
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30.0})

    @sa.event.listens_for(engine, "connect")
    def connect(connection, _record):  # type: ignore[no-untyped-def]
        # The driver's own BEGIN comes too late for reads and is never IMMEDIATE: `begin` below sends ours.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA mmap_size = {_MAPPED}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        immediate = connection.get_execution_options().get("assay_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with write(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, NEWEST_REVISION)
        except CommandError as error:
            raise DatabaseError(
                f"the database {engine.url.render_as_string()} is at revision {_revision(connection)}, "
                "which this release does not know; it was written by a newer one"
            ) from error
