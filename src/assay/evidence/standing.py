"""How a study stands: per experiment its state, and per claim its verdict, computed from rows."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from assay.evidence.ledger import Ledger, Outcome, Row, Series, canonical, read_rows
from assay.evidence.predicates import InvalidMeasurement
from assay.evidence.runner import plan
from assay.evidence.study import Claim, Experiment, Study
from assay.evidence.verdicts import ClaimTally, Tally, Verdict

KINDS = ("holds", "fails", "undecided", "broken", "stale", "unchecked")
"""What can be said of a claim; the first two are verdicts given."""


class State(StrEnum):
    """The state of an experiment, apart from its verdicts."""

    NONE = "none"
    CHECKED = "checked"
    RUNNING = "running"
    BROKEN = "broken"
    STALE = "stale"
    """The code has changed since."""


@dataclass(frozen=True)
class Standing:
    """One experiment at one scale and with one choice of settings, as rows of one origin show it."""

    experiment: Experiment
    series: Series
    state: State
    tally: Tally
    cause: str | None
    seconds: float | None
    """Median seconds of a trial."""
    machines: tuple[str, ...]
    ended_at: str | None

    @property
    def settings(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.series.settings)
        return loaded

    @property
    def as_declared(self) -> bool:
        """Whether the settings are those of the scale, none replaced by hand."""
        declared = self.experiment.scales.get(self.series.scale)
        return declared is not None and canonical(dataclasses.asdict(declared)) == self.series.settings

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data, as `assay show --json` prints it."""
        return {
            "experiment": self.experiment.name,
            "scale": self.series.scale,
            "settings": self.settings,
            "origin": self.series.origin,
            "fingerprint": self.series.fingerprint,
            "state": self.state.value,
            "cause": self.cause,
            "trials": len(self.tally.trials),
            "seconds_per_trial": self.seconds,
            "machines": list(self.machines),
            "ended_at": self.ended_at,
            "claims": [
                {
                    "name": tally.claim.name,
                    "sentence": tally.claim.sentence,
                    "asks": str(tally.claim.asks),
                    "published": tally.claim.published
                    and {"value": tally.claim.published.value, "where": tally.claim.published.where},
                    "measured": [
                        {"name": m.name, "median": m.median, "least": m.least, "greatest": m.greatest}
                        for m in self.tally.measured(tally.claim)
                    ],
                    "yes": tally.yes,
                    "answered": tally.answered,
                    "skipped": tally.skipped,
                    "marks": tally.marks,
                    "verdict": tally.verdict.value,
                    "decided_at": tally.decided_at,
                }
                for tally in self.tally.claims
            ],
        }


def standings(ledger: Ledger, study: Study, module: str) -> list[Standing]:
    """Every standing of the study in `module`, experiment by experiment, the quick scale first.

    For one experiment, scale and settings the trials made here come before those recorded with the release;
    rows of earlier code are shown, as stale, only where there are none of the present one.
    """
    rows = [*recorded_rows(module), *ledger.rows(study.slug)]
    running = ledger.running()
    found = []
    for experiment in study.experiments:
        present = plan(study, experiment, module).series
        groups: dict[tuple[str, str], dict[Series, list[Row]]] = {(present.scale, present.settings): {}}
        for row in rows:
            if row.series.experiment == experiment.name:
                series = row.series
                groups.setdefault((series.scale, series.settings), {}).setdefault(series, []).append(row)
        scales = list(experiment.scales)
        for scale, settings in sorted(
            groups,
            key=lambda group: (scales.index(group[0]) if group[0] in scales else len(scales), group[1]),
        ):
            here = Series(study.slug, experiment.name, scale, settings, present.fingerprint)
            series_rows = groups[scale, settings]
            if here.key in running:
                series_rows.setdefault(here, [])
            fresh = [series for series in series_rows if series.fingerprint == present.fingerprint]
            if fresh:
                fresh.sort(key=lambda series: series.origin)
                found += [_standing(experiment, series, series_rows[series], running) for series in fresh]
            elif series_rows:
                newest = max(series_rows, key=lambda series: series_rows[series][-1].ended_at)
                found.append(_stale(experiment, newest, series_rows[newest]))
            else:
                found.append(_standing(experiment, here, [], running))
    return found


@dataclass(frozen=True)
class Line:
    """One claim in one standing: a line of the claims table."""

    standing: Standing
    tally: ClaimTally

    @property
    def kind(self) -> str:
        if self.standing.state is State.STALE:
            return "stale"
        if self.tally.verdict is not Verdict.UNDECIDED:
            return self.tally.verdict.value
        if self.standing.state is State.BROKEN:
            return "broken"
        return "undecided" if self.standing.tally.trials else "unchecked"

    @property
    def changed_settings(self) -> dict[str, Any]:
        """The settings that were replaced by hand."""
        declared = self.standing.experiment.scales.get(self.standing.series.scale)
        return {
            name: value
            for name, value in self.standing.settings.items()
            if canonical(getattr(declared, name, None)) != canonical(value)
        }


@dataclass(frozen=True)
class ClaimLines:
    """A claim with a line for each standing of its experiment, the evidence from here first."""

    experiment: Experiment
    claim: Claim
    lines: tuple[Line, ...]

    @property
    def headline(self) -> Line:
        """The line that counts in lists: the first that decides at the quick scale, else the first."""
        quick = [
            line for line in self.lines if line.standing.series.scale == "quick" and line.standing.as_declared
        ]
        given = [line for line in quick if line.kind in ("holds", "fails")]
        return (given or quick or list(self.lines))[0]


def claim_lines(study: Study, standings: Iterable[Standing]) -> list[ClaimLines]:
    """Every claim of the study with its lines, in the order in which the study makes them."""
    standings = list(standings)
    found = []
    for experiment in study.experiments:
        own = [standing for standing in standings if standing.experiment.name == experiment.name]
        for index, claim in enumerate(experiment.claims):
            lines = tuple(Line(standing, standing.tally.claims[index]) for standing in own)
            found.append(ClaimLines(experiment, claim, lines))
    return found


@functools.cache
def recorded_rows(module: str) -> tuple[Row, ...]:
    """The evidence recorded with the release: ``recorded/<study>.jsonl`` beside the study's module."""
    path = recorded_path(module)
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8") as lines:
        return tuple(read_rows(lines))


def recorded_path(module: str) -> Path:
    """Where the recorded evidence of the study in `module` lies, whether or not there is any."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module!r}")
    path = Path(spec.origin)
    return path.parent / "recorded" / f"{module.rpartition('.')[2]}.jsonl"


def cost(rows: Iterable[Row]) -> float:
    """Seconds that the rows took; infinite where there are none, so that the unknown comes last."""
    seconds = [row.seconds or 0.0 for row in rows]
    return sum(seconds) if seconds else float("inf")


def _standing(experiment: Experiment, series: Series, rows: Sequence[Row], running: set[str]) -> Standing:
    tally = Tally(experiment)
    failed: dict[int, Row] = {}
    for row in rows:
        if row.measurements is not None:
            tally.add(row.index, row.measurements)
            failed.pop(row.index, None)
        elif row.index >= len(tally.trials):
            failed[row.index] = row
    cause = next(iter(failed.values())).cause if failed else None
    if series.origin == "here" and series.key in running:
        state = State.RUNNING
    elif failed:
        state = State.BROKEN
    else:
        state = State.CHECKED if rows else State.NONE
    return _with_rows(experiment, series, state, tally, cause, rows)


def _stale(experiment: Experiment, series: Series, rows: Sequence[Row]) -> Standing:
    tally = Tally(experiment)
    try:
        for row in rows:
            if row.measurements is not None:
                tally.add(row.index, row.measurements)
    except InvalidMeasurement:  # the present claims read what earlier code did not measure
        tally = Tally(experiment)
    return _with_rows(experiment, series, State.STALE, tally, None, rows)


def _with_rows(
    experiment: Experiment, series: Series, state: State, tally: Tally, cause: str | None, rows: Sequence[Row]
) -> Standing:
    measured = [row for row in rows if row.outcome is Outcome.MEASURED]
    seconds = [row.seconds for row in measured if row.seconds is not None]
    machines = {f"{row.machine.get('processor')}, {row.machine.get('cores')} cores" for row in measured}
    return Standing(
        experiment,
        series,
        state,
        tally,
        cause,
        statistics.median(seconds) if seconds else None,
        tuple(sorted(machines)),
        max((row.ended_at for row in rows), default=None),
    )


def write_recorded(path: Path, rows: Iterable[Row]) -> None:
    """Write rows made here as recorded evidence, replacing what there was only once all is written."""
    lines = [
        canonical(
            dataclasses.replace(row, series=dataclasses.replace(row.series, origin="recorded")).as_json()
        )
        for row in rows
    ]
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.replace(path)
