"""From the yes and no marks of trials to a verdict that holds however long one watches.

A claim's null hypothesis is that at most half of such trials say yes, or at least half. With k yes in n
trials the beta mixture of likelihood ratios against a fair coin is::

    E = 2^n B(k + 1/2, n - k + 1/2) / B(1/2, 1/2)

Under the null E is a supermartingale from 1 for the side that is wrong, so by Ville's inequality it ever
reaches 20 with probability at most 1/20. At the first n with E >= 20 the verdict falls on the side of the
majority, and it stands.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from enum import StrEnum
from math import lgamma, log, pi

from assay.evidence.predicates import InvalidMeasurement, Measurements, number
from assay.evidence.study import Claim, Experiment

ERROR_RATE = 0.05
"""The chance, at most, that a verdict is wrong."""


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


def log_e_value(yes: int, trials: int) -> float:
    """The natural logarithm of E after `yes` of `trials`; 0 before the first trial.

    >>> round(log_e_value(7, 7) / log(10), 3), round(log_e_value(6, 6) / log(10), 3)
    (1.428, 1.159)
    """
    no = trials - yes
    return trials * log(2) + lgamma(yes + 0.5) + lgamma(no + 0.5) - lgamma(trials + 1) - log(pi)


@dataclass
class ClaimTally:
    """The marks of one claim in the order of the trials, and the verdict that they give."""

    claim: Claim
    deterministic: bool = False
    marks: list[bool | None] = field(default_factory=list)
    """One per trial: yes, no, or None where the claim does not apply."""
    yes: int = 0
    answered: int = 0
    verdict: Verdict = Verdict.UNDECIDED
    decided_at: int | None = None
    """How many answers the verdict took."""

    def add(self, measurements: Measurements) -> None:
        mark = self.claim.asks(measurements)
        self.marks.append(mark)
        if mark is None:
            return
        self.answered += 1
        self.yes += mark
        if self.verdict is Verdict.UNDECIDED and (
            self.deterministic or log_e_value(self.yes, self.answered) >= -log(ERROR_RATE)
        ):
            self.verdict = Verdict.HOLDS if 2 * self.yes > self.answered else Verdict.FAILS
            self.decided_at = self.answered

    @property
    def skipped(self) -> int:
        return len(self.marks) - self.answered


@dataclass(frozen=True)
class Measured:
    """The median and range of one measurement over the trials in which it applied."""

    name: str
    median: float
    least: float
    greatest: float


class Tally:
    """The longest finished run of an experiment's trials from 0 up, and its claims' verdicts.

    Trials may be added out of order; each is read once all before it are there.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.claims = [ClaimTally(claim, experiment.deterministic) for claim in experiment.claims]
        self.trials: list[Measurements] = []
        self._waiting: dict[int, Measurements] = {}

    def add(self, index: int, measurements: Measurements) -> None:
        """Take in trial `index`; a trial that is known already changes nothing."""
        if index >= len(self.trials):
            self._waiting[index] = measurements
        while (ready := self._waiting.pop(len(self.trials), None)) is not None:
            self.trials.append(ready)
            for claim in self.claims:
                claim.add(ready)

    @property
    def decided(self) -> bool:
        return all(claim.verdict is not Verdict.UNDECIDED for claim in self.claims)

    def measured(self, claim: Claim) -> list[Measured]:
        """What the claim's measurements were, each as median and range; none that never applied."""
        summary = []
        for name in claim.asks.names:
            values = [value for trial in self.trials if (value := number(trial, name)) is not None]
            if values:
                summary.append(Measured(name, statistics.median(values), min(values), max(values)))
        return summary


def check_measurements(experiment: Experiment, measurements: object) -> Measurements:
    """The measurements as plain floats, None and lists, fit for the ledger and for every claim.

    Raises `InvalidMeasurement` for what is no mapping of names to numbers, for a number that is not finite,
    and where a claim cannot be answered.
    """
    import numpy as np

    if not isinstance(measurements, dict) or not all(isinstance(name, str) for name in measurements):
        raise InvalidMeasurement(
            f"a trial returns a dict of measurements by name, this one {type(measurements)}"
        )
    plain: dict[str, float | None | list[float]] = {}
    for name, value in measurements.items():
        if value is None:
            plain[name] = None
            continue
        numbers = np.asarray(value)
        if numbers.ndim > 1 or numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
            raise InvalidMeasurement(
                f"measurement {name!r} is to be a finite number or a flat list of them, got {value!r:.80}"
            )
        plain[name] = numbers.astype(np.float64).tolist()
    for claim in experiment.claims:
        claim.asks(plain)
    return plain
