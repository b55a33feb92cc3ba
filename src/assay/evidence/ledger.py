"""The ledger: one row a trial, append-only, and the leases that share trials out among runs."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from assay.database import write
from assay.evidence.predicates import Measurements

metadata = sa.MetaData()

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("series", sa.String(32), nullable=False),
    sa.Column("study", sa.Text, nullable=False),
    sa.Column("experiment", sa.Text, nullable=False),
    sa.Column("scale", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("measurements", sa.Text),
    sa.Column("cause", sa.Text),
    sa.Column("seconds", sa.Float),
    sa.Column("peak_memory", sa.BigInteger),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("libraries", sa.Text, nullable=False),
    sa.Column("ended_at", sa.Text, nullable=False),
    sa.UniqueConstraint("series", "index", "attempt", name="one_row_an_attempt"),
    sa.Index("trials_by_study", "study", "id"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("series", sa.String(32), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)

LEASE_SECONDS = 15.0
"""How long a trial stays taken when its run no longer renews it; if that ran on this machine, its death
is seen at once."""

LOOK_AHEAD = 64
"""How far ahead of the first unfinished trial a run may go; bounds what is run beyond a verdict."""


class Outcome(StrEnum):
    MEASURED = "measured"
    RAISED = "raised"
    INVALID = "invalid"
    TIMED_OUT = "timed out"
    DIED = "died"


RETRIED = {Outcome.TIMED_OUT, Outcome.DIED}
"""What a later run tries once more: it may have been the machine. An exception comes from the code."""


def canonical(value: object) -> str:
    """JSON with one spelling a value, so that equal settings are equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Series:
    """What one verdict may read: trials 0, 1, 2, … of one experiment at one scale, with the same settings,
    code (`fingerprint`) and origin. `settings` is canonical JSON."""

    study: str
    experiment: str
    scale: str
    settings: str
    fingerprint: str
    origin: str = "here"

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(canonical(dataclasses.astuple(self)).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Row:
    """One attempt at one trial. `measurements` are there if and only if the outcome is "measured", `cause`
    otherwise; `peak_memory` is in bytes, `ended_at` an ISO date and time in UTC."""

    series: Series
    index: int
    attempt: int
    outcome: Outcome
    measurements: Measurements | None
    cause: str | None
    seconds: float | None
    peak_memory: int | None
    machine: Mapping[str, Any]
    libraries: Mapping[str, str]
    ended_at: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    )

    def as_json(self) -> dict[str, Any]:
        """The row as plain data; `Row.from_json` gives the row back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= dataclasses.asdict(fields.pop("series"))
        return fields | {"settings": json.loads(self.series.settings)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """The row that `as_json` wrote; ValueError names what is missing or unknown."""
        try:
            fields = dict(data)
            series = {field.name: fields.pop(field.name) for field in dataclasses.fields(Series)}
            series["settings"] = canonical(series["settings"])
            row = cls(series=Series(**series), **fields | {"outcome": Outcome(fields["outcome"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"a ledger row has every field of assay.evidence.ledger.Row; this one: {error}"
            ) from error
        if (row.measurements is None) == (row.outcome is Outcome.MEASURED):
            raise ValueError(
                f"a ledger row has measurements if and only if it is measured; this one is {row.outcome}"
            )
        return row


class Spent(Exception):
    """A trial of the series has failed for good: it raised, or it died or timed out twice."""


class Ledger:
    """The trials and leases in the database behind `engine`; safe for any number of processes at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def claim(self, series: Series, owner: str, *, start: int, stop: int) -> tuple[int, int] | None:
        """Take the first trial in [start, stop) that is neither finished nor taken, for `owner`.

        Returns its index and attempt, or None where none is free now. `start` is to be the first unfinished
        trial. Raises `Spent` where a trial in the way has failed for good.
        """
        stop = min(stop, start + LOOK_AHEAD)
        with write(self.engine) as connection:
            if connection.dialect.name == "postgresql":
                # PostgreSQL has no database-wide write lock as SQLite has; this one is the series' own.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(int(series.key[:15], 16))))
            past = connection.execute(
                sa.select(trials.c.index, trials.c.outcome).where(
                    trials.c.series == series.key, trials.c.index.between(start, stop - 1)
                )
            ).all()
            now = time.time()
            alive = sa.select(leases.c.index, leases.c.owner).where(
                leases.c.series == series.key, leases.c.expires_at > now
            )
            taken = {index for index, holder in connection.execute(alive) if not _is_dead(holder)}
            measured = {index for index, outcome in past if outcome == Outcome.MEASURED}
            failed: dict[int, list[str]] = {}
            for index, outcome in past:
                if index not in measured:
                    failed.setdefault(index, []).append(outcome)
            for index in range(start, stop):
                if index in measured or index in taken:
                    continue
                failures = failed.get(index, [])
                if len(failures) > 1 or any(outcome not in RETRIED for outcome in failures):
                    raise Spent(f"trial {index} of {series.study}/{series.experiment} {failures[-1]}")
                values = {"owner": owner, "expires_at": now + LEASE_SECONDS}
                insert = self._insert(leases).values(series=series.key, index=index, **values)
                connection.execute(
                    insert.on_conflict_do_update(index_elements=["series", "index"], set_=values)
                )
                return index, len(failures)
        return None

    def record(self, row: Row, owner: str) -> None:
        """Append the row and give its trial back. A second row for the same attempt changes nothing."""
        with write(self.engine) as connection:
            connection.execute(self._insert(trials).values(_columns(row)).on_conflict_do_nothing())
            connection.execute(
                leases.delete().where(
                    leases.c.series == row.series.key, leases.c.index == row.index, leases.c.owner == owner
                )
            )

    def renew(self, owner: str) -> None:
        """Keep all that `owner` has taken for another `LEASE_SECONDS`."""
        with write(self.engine) as connection:
            connection.execute(
                leases.update().where(leases.c.owner == owner).values(expires_at=time.time() + LEASE_SECONDS)
            )

    def release(self, owner: str) -> None:
        """Give back all that `owner` has taken."""
        with write(self.engine) as connection:
            connection.execute(leases.delete().where(leases.c.owner == owner))

    def rows(
        self, study: str | None = None, *, series: Series | None = None, start: int = 0
    ) -> Iterator[Row]:
        """The rows of a study or of a series from trial `start` on, in the order in which they came."""
        query = sa.select(trials).where(trials.c.index >= start).order_by(trials.c.id)
        if study is not None:
            query = query.where(trials.c.study == study)
        if series is not None:
            query = query.where(trials.c.series == series.key)
        with self.engine.connect() as connection:
            for row in connection.execute(query).mappings():
                yield _row(row)

    def revisions(self) -> dict[str, int]:
        """Per study a number that grows with every row, to tell whether anything is new."""
        query = sa.select(trials.c.study, sa.func.max(trials.c.id).label("newest")).group_by(trials.c.study)
        with self.engine.connect() as connection:
            return {row.study: row.newest for row in connection.execute(query)}

    def running(self) -> set[str]:
        """The keys of the series of which some run has taken a trial."""
        query = sa.select(leases.c.series).where(leases.c.expires_at > time.time()).distinct()
        with self.engine.connect() as connection:
            return set(connection.scalars(query))

    def export(self) -> Iterator[str]:
        """Every row as a line of JSON."""
        for row in self.rows():
            yield canonical(row.as_json())

    def load(self, lines: Iterable[str]) -> int:
        """Append the rows that `export` wrote, all or none; returns how many were new.

        Raises ValueError, with the line's number, for a line that is no row.
        """
        rows = list(read_rows(lines))
        with write(self.engine) as connection:
            count = sa.select(sa.func.count()).select_from(trials)
            before = connection.scalar(count) or 0
            for row in rows:
                connection.execute(self._insert(trials).values(_columns(row)).on_conflict_do_nothing())
            return (connection.scalar(count) or 0) - before

    def _insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        return postgresql.insert(table) if self.engine.dialect.name == "postgresql" else sqlite.insert(table)


def new_owner() -> str:
    """A name for a run of this process, by which others on this machine can tell that it is dead."""
    return f"{platform.node()} {os.getpid()} {uuid.uuid4().hex}"


def _is_dead(owner: str) -> bool:
    """Whether the owner's process is known to be gone; of other machines only the lease's end tells."""
    node, _, rest = owner.partition(" ")
    pid = rest.partition(" ")[0]
    if node != platform.node() or not pid.isdecimal() or sys.platform == "win32":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def read_rows(lines: Iterable[str]) -> Iterator[Row]:
    """The rows in JSON lines; ValueError names the line that is none."""
    for count, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield Row.from_json(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"line {count}: {error}") from error


def _columns(row: Row) -> dict[str, Any]:
    return dataclasses.asdict(row.series) | {
        "series": row.series.key,
        "index": row.index,
        "attempt": row.attempt,
        "outcome": row.outcome.value,
        "measurements": None if row.measurements is None else canonical(row.measurements),
        "cause": row.cause,
        "seconds": row.seconds,
        "peak_memory": row.peak_memory,
        "machine": canonical(row.machine),
        "libraries": canonical(row.libraries),
        "ended_at": row.ended_at,
    }


def _row(columns: Mapping[Any, Any]) -> Row:
    return Row(
        series=Series(**{field.name: columns[field.name] for field in dataclasses.fields(Series)}),
        index=columns["index"],
        attempt=columns["attempt"],
        outcome=Outcome(columns["outcome"]),
        measurements=None if columns["measurements"] is None else json.loads(columns["measurements"]),
        cause=columns["cause"],
        seconds=columns["seconds"],
        peak_memory=columns["peak_memory"],
        machine=json.loads(columns["machine"]),
        libraries=json.loads(columns["libraries"]),
        ended_at=columns["ended_at"],
    )
