"""The index of verdicts that lists and search read, and the append-only log of how verdicts changed.

The index holds, per claim, the line that counts in lists; it can be rebuilt from the ledger's rows at any
time. The log tells when a claim's kind changed and is never rewritten.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from assay.database import write
from assay.evidence.ledger import Ledger, metadata
from assay.evidence.standing import ClaimLines, claim_lines, standings
from assay.evidence.study import Study

verdict_index = sa.Table(
    "verdict_index",
    metadata,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("experiment", sa.Text, primary_key=True),
    sa.Column("claim", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("yes", sa.Integer, nullable=False),
    sa.Column("answered", sa.Integer, nullable=False),
    sa.Column("scale", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("ended_at", sa.Text),
    sa.Index("verdicts_by_kind", "kind", "study"),
)
verdict_changes = sa.Table(
    "verdict_changes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("study", sa.Text, nullable=False),
    sa.Column("experiment", sa.Text, nullable=False),
    sa.Column("claim", sa.Text, nullable=False),
    sa.Column("before", sa.Text),
    sa.Column("after", sa.Text, nullable=False),
    sa.Column("yes", sa.Integer, nullable=False),
    sa.Column("answered", sa.Integer, nullable=False),
    sa.Column("scale", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Index("changes_by_study", "study", "id"),
)


@dataclass(frozen=True)
class IndexedVerdict:
    """One claim as lists show it. `kind` is a verdict, or says why there is none: "undecided", "broken",
    "stale", "unchecked"."""

    study: str
    experiment: str
    claim: str
    kind: str
    yes: int
    answered: int
    scale: str
    origin: str
    fingerprint: str
    ended_at: str | None


@dataclass(frozen=True)
class VerdictChange:
    """That a claim's kind became `after`; `before` is None for the first that was seen of it."""

    id: int
    at: str
    study: str
    experiment: str
    claim: str
    before: str | None
    after: str
    yes: int
    answered: int
    scale: str
    origin: str
    fingerprint: str


class VerdictLog:
    """The index and the log in the database that `engine` opens."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def update(self, study: str, lines: Iterable[IndexedVerdict]) -> int:
        """Make the index hold these lines of the study and no others; returns how many kinds changed.

        A change is a difference from what the log said last, so that rebuilding the index is none. A claim
        that nobody has checked is no news; one that disappears leaves the index but not the log.
        """
        new = {(line.experiment, line.claim): line for line in lines}
        if any(line.study != study for line in new.values()):
            raise ValueError(f"every line is to be of the study {study!r}")
        own = verdict_index.c.study == study
        with self._engine.connect() as connection:
            known = {
                (row.experiment, row.claim): IndexedVerdict(*row)
                for row in connection.execute(sa.select(verdict_index).where(own))
            }
        if known == new:
            return 0
        with write(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("LOCK TABLE verdict_index IN SHARE ROW EXCLUSIVE MODE"))
            connection.execute(sa.delete(verdict_index).where(own))
            if new:
                connection.execute(sa.insert(verdict_index), [vars(line) for line in new.values()])
            last = sa.select(sa.func.max(verdict_changes.c.id)).where(verdict_changes.c.study == study)
            last = last.group_by(verdict_changes.c.experiment, verdict_changes.c.claim)
            told = {
                (row.experiment, row.claim): row.after
                for row in connection.execute(
                    sa.select(verdict_changes).where(verdict_changes.c.id.in_(last.scalar_subquery()))
                )
            }
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            changes = []
            for key, line in new.items():
                before = told.get(key)
                if line.kind != before and (before, line.kind) != (None, "unchecked"):
                    change = {name: value for name, value in vars(line).items() if name != "ended_at"}
                    changes.append(change | {"at": at, "before": before, "after": change.pop("kind")})
            if changes:
                connection.execute(sa.insert(verdict_changes), changes)
        return len(changes)

    def refresh(self, study: Study, module: str) -> int:
        """`update` from the study's rows in the ledger and those recorded with the release."""
        claims = claim_lines(study, standings(Ledger(self._engine), study, module))
        return self.update(study.slug, indexed(claims))

    def changes(
        self, *, study: str | None = None, before: int | None = None, limit: int = 50
    ) -> Sequence[VerdictChange]:
        """The latest changes, newest first; `before` is the id below which to go on."""
        query = sa.select(verdict_changes).order_by(verdict_changes.c.id.desc()).limit(limit)
        if study is not None:
            query = query.where(verdict_changes.c.study == study)
        if before is not None:
            query = query.where(verdict_changes.c.id < before)
        with self._engine.connect() as connection:
            return [VerdictChange(*row) for row in connection.execute(query)]


def indexed(claims: Iterable[ClaimLines]) -> list[IndexedVerdict]:
    """What the index holds of a study's claims: for each the line that counts in lists."""
    return [
        IndexedVerdict(
            study=item.headline.standing.series.study,
            experiment=item.experiment.name,
            claim=item.claim.name,
            kind=item.headline.kind,
            yes=item.headline.tally.yes,
            answered=item.headline.tally.answered,
            scale=item.headline.standing.series.scale,
            origin=item.headline.standing.series.origin,
            fingerprint=item.headline.standing.series.fingerprint,
            ended_at=item.headline.standing.ended_at,
        )
        for item in claims
    ]
