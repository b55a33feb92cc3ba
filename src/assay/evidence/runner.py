"""Runs the trials of experiments until their claims are decided, and says so as it goes."""

from __future__ import annotations

import dataclasses
import functools
import json
import queue
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from assay.evidence.fingerprint import fingerprint, libraries
from assay.evidence.ledger import LEASE_SECONDS, Ledger, Outcome, Row, Series, Spent, canonical, new_owner
from assay.evidence.predicates import InvalidMeasurement
from assay.evidence.study import Experiment, Study
from assay.evidence.verdicts import Tally, check_measurements
from assay.evidence.workers import Job, Report, Workers, machine

QUICK_BUDGET = 120.0
"""Wall seconds that an experiment gets at quick scale unless told otherwise; other scales have no limit."""

QUICK_TIMEOUT = 60.0
"""Seconds after which a trial of at most 10 s is taken for hung; at other scales it is a day."""


@dataclass(frozen=True)
class Plan:
    """One experiment as it is to be run: at which scale and with which settings."""

    study: str
    experiment: Experiment
    scale: str
    settings: Any
    series: Series
    libraries: Mapping[str, str]

    @property
    def timeout(self) -> float:
        return QUICK_TIMEOUT if self.scale == "quick" else 86_400.0

    @property
    def budget(self) -> float | None:
        return QUICK_BUDGET if self.scale == "quick" else None


@dataclass(frozen=True)
class Started:
    """The experiment has begun; the tally holds what the ledger already had."""

    plan: Plan
    tally: Tally


@dataclass(frozen=True)
class TrialEnded:
    """A trial of this run has ended and stands in the ledger."""

    plan: Plan
    tally: Tally
    row: Row


@dataclass(frozen=True)
class Ended:
    """The experiment is over for this run. `reason` is one of "decided", "budget" (its seconds are spent),
    "trials" (as many as were asked for are done), "stopped" (the caller asked) and "broken"; `cause` says
    what broke."""

    plan: Plan
    tally: Tally
    reason: str
    cause: str | None = None


Event = Started | TrialEnded | Ended


def plan(
    study: Study,
    experiment: Experiment,
    module: str,
    *,
    scale: str = "quick",
    overrides: Mapping[str, str] | None = None,
) -> Plan:
    """The plan to run an experiment of the study in `module` at a scale, with some settings replaced.

    Raises ValueError for a scale or a setting that the experiment does not have.
    """
    if scale not in experiment.scales:
        known = ", ".join(experiment.scales)
        raise ValueError(f"{study.slug}/{experiment.name} has no scale {scale!r}; it has {known}")
    settings = experiment.scales[scale]
    if overrides:
        settings = replace_settings(settings, overrides, f"{study.slug}/{experiment.name}")
    text = canonical(dataclasses.asdict(settings))
    series = Series(study.slug, experiment.name, scale, text, fingerprint(module))
    return Plan(study.slug, experiment, scale, settings, series, libraries(module))


def replace_settings(settings: Any, overrides: Mapping[str, str], name: str) -> Any:
    """The settings with the fields in `overrides` replaced by values read from text.

    Raises ValueError naming `name` for an unknown field or a text that is no value of the field's type.
    """
    types_ = typing.get_type_hints(type(settings))
    known = [field.name for field in dataclasses.fields(settings)]
    values = {}
    for field, text in overrides.items():
        if field not in known:
            raise ValueError(f"{name} has no setting {field!r}; it has {', '.join(known)}")
        values[field] = _read(text, types_[field], f"setting {field!r} of {name}")
    return dataclasses.replace(settings, **values)


def _read(text: str, kind: Any, name: str) -> Any:
    if isinstance(kind, types.UnionType) and type(None) in typing.get_args(kind):
        if text == "none":
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if kind is str:
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    origin = typing.get_origin(kind) or kind
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (int, bool) and type(value) is kind:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    wanted = "a list such as [1, 2]" if origin is tuple else getattr(kind, "__name__", str(kind))
    raise ValueError(f"{name} is to be {wanted}, got {text!r}")


def run(
    plans: Iterable[Plan],
    ledger: Ledger,
    workers: Workers,
    *,
    budget: float | None = None,
    trials: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Run the plans one after another, giving each event as it happens.

    An experiment ends when all its claims are decided, when `budget` wall seconds are spent (no trial is
    begun after that, those under way are finished), or, with `trials`, when so many trials in all are
    done, decided or not. The run ends, trials under way given up, once `should_stop` says so. Other runs on
    the same ledger share the work. Whatever ends this generator, an exception in the caller included, what
    has ended is in the ledger and the rest is given back; the workers are the caller's to close.
    """
    owner = new_owner()
    try:
        for item in plans:
            if should_stop():
                return
            yield from _Run(item, ledger, workers, owner, budget, trials, should_stop).events()
    finally:
        ledger.release(owner)


class _Run:
    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        workers: Workers,
        owner: str,
        budget: float | None,
        trials: int | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.plan = plan
        self.ledger = ledger
        self.workers = workers
        self.owner = owner
        self.budget = plan.budget if budget is None and trials is None else budget
        self.trials = 1 if plan.experiment.deterministic else trials
        self.should_stop = should_stop
        self.tally = Tally(plan.experiment)
        self.ended: queue.SimpleQueue[tuple[int, int, Future[Report]]] = queue.SimpleQueue()
        self.under_way: dict[int, Future[Report]] = {}

    def events(self) -> Iterator[Event]:
        self._read_ledger()
        yield Started(self.plan, self.tally)
        began = renewed = time.monotonic()
        reason = cause = None
        try:
            while True:
                if reason is None:
                    reason = self._finished(began)
                if reason is None:
                    try:
                        self._submit()
                    except Spent as error:
                        reason, cause = "broken", self._cause() or str(error)
                if reason is not None and (not self.under_way or reason in ("broken", "stopped")):
                    break
                for row in self._wait():
                    yield TrialEnded(self.plan, self.tally, row)
                    if row.outcome is not Outcome.MEASURED and reason != "broken":
                        reason, cause = "broken", row.cause
                if time.monotonic() - renewed > LEASE_SECONDS / 3:
                    self.ledger.renew(self.owner)
                    renewed = time.monotonic()
                self._read_ledger()
        finally:
            for future in self.under_way.values():
                future.cancel()
            for _ in self._drain():
                pass
            self.ledger.release(self.owner)
        yield Ended(self.plan, self.tally, reason, cause)

    def _finished(self, began: float) -> str | None:
        if self.trials is not None:
            if len(self.tally.trials) >= self.trials:
                return "decided" if self.tally.decided else "trials"
        elif self.tally.decided:
            return "decided"
        if self.should_stop():
            return "stopped"
        if self.budget is not None and time.monotonic() - began >= self.budget:
            return "budget"
        return None

    def _submit(self) -> None:
        slots = 1 if self.plan.experiment.exclusive else self.workers.size
        while len(self.under_way) < slots:
            start = len(self.tally.trials)
            stop = start + 1_000_000 if self.trials is None else self.trials
            claimed = self.ledger.claim(self.plan.series, self.owner, start=start, stop=stop)
            if claimed is None:
                return
            index, attempt = claimed
            job = Job(
                self.plan.study,
                self.plan.experiment.name,
                self.plan.experiment.trial,
                self.plan.settings,
                index,
            )
            future = self.workers.submit(job, self.plan.timeout)
            self.under_way[index] = future
            future.add_done_callback(functools.partial(self._put, index, attempt))

    def _put(self, index: int, attempt: int, future: Future[Report]) -> None:
        self.ended.put((index, attempt, future))

    def _wait(self) -> Iterator[Row]:
        """The rows of trials that end within a moment; also returns to look at clocks and at other runs."""
        try:
            first = self.ended.get(timeout=0.2)
        except queue.Empty:
            return
        yield from self._drain(first)

    def _drain(self, first: tuple[int, int, Future[Report]] | None = None) -> Iterator[Row]:
        item = first
        while True:
            if item is None:
                try:
                    item = self.ended.get_nowait()
                except queue.Empty:
                    return
            index, attempt, future = item
            item = None
            self.under_way.pop(index, None)
            if future.cancelled():
                continue
            row = self._row(index, attempt, future)
            self.ledger.record(row, self.owner)
            if row.measurements is not None:
                self.tally.add(index, row.measurements)
            yield row

    def _row(self, index: int, attempt: int, future: Future[Report]) -> Row:
        outcome, measurements, cause = Outcome.MEASURED, None, None
        report = None
        try:
            report = future.result()
            if report.cause is not None:
                outcome, cause = Outcome.RAISED, report.cause
            else:
                measurements = check_measurements(self.plan.experiment, report.measurements)
        except InvalidMeasurement as error:
            outcome, cause = Outcome.INVALID, str(error)
        except TimeoutError:
            outcome, cause = Outcome.TIMED_OUT, f"not done after {self.plan.timeout:g} s"
        except Exception as error:
            outcome, cause = Outcome.DIED, f"its process died: {error}"
        return Row(
            self.plan.series,
            index,
            attempt,
            outcome,
            measurements,
            cause,
            report.seconds if report else None,
            report.peak_memory if report else None,
            report.machine if report else machine(),
            self.plan.libraries,
        )

    def _read_ledger(self) -> None:
        """Take in what other runs, or earlier ones, have recorded."""
        for row in self.ledger.rows(series=self.plan.series, start=len(self.tally.trials)):
            if row.measurements is not None:
                self.tally.add(row.index, row.measurements)

    def _cause(self) -> str | None:
        """Why the ledger's latest failure of this series failed."""
        causes = [row.cause for row in self.ledger.rows(series=self.plan.series) if row.cause is not None]
        return causes[-1] if causes else None
