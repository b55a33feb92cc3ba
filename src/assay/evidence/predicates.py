"""The questions a claim asks of one trial: each predicate answers yes, no or does-not-apply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Measurements = Mapping[str, float | None | Sequence[float]]
"""What a trial measured, by name. `None` says that the measurement does not apply in this trial;
sequences are kept for figures and are not read by predicates."""


class InvalidMeasurement(ValueError):
    """A trial returned no usable number under a name that a claim reads."""


class Predicate(Protocol):
    """A yes-or-no question about the measurements of one trial."""

    @property
    def names(self) -> tuple[str, ...]:
        """The measurements it reads, in the order in which a table shows them."""

    def __call__(self, measurements: Measurements) -> bool | None:
        """True or False, or None where a measurement does not apply."""

    def __str__(self) -> str:
        """The question as a formula, e.g. ``shd_colide * 1.25 < shd_dagma``."""


def number(measurements: Measurements, name: str) -> float | None:
    """The finite number measured under `name`, or None where it does not apply.

    Raises `InvalidMeasurement` when the trial returned nothing under that name, NaN, an infinity or
    something that is not one number.
    """
    if name not in measurements:
        known = ", ".join(sorted(measurements)) or "nothing"
        raise InvalidMeasurement(f"the trial returned no {name!r}, which a claim reads; it returned {known}")
    value = measurements[name]
    if value is None:
        return None
    if isinstance(value, Sequence) or not math.isfinite(value):
        raise InvalidMeasurement(f"the trial returned {value!r} as {name!r}; a claim reads one finite number")
    return float(value)


@dataclass(frozen=True)
class _Better:
    winner: str
    than: str
    lower: bool
    by: float
    factor: float

    @property
    def names(self) -> tuple[str, ...]:
        return (self.winner, self.than)

    def __call__(self, measurements: Measurements) -> bool | None:
        winner, than = number(measurements, self.winner), number(measurements, self.than)
        if winner is None or than is None:
            return None
        if self.factor != 1 and (winner < 0 or than < 0):
            raise InvalidMeasurement(
                f"a factor compares magnitudes, but {self.winner!r} is {winner} and {self.than!r} is {than}"
            )
        if self.lower:
            return winner * self.factor + self.by < than
        return winner > than * self.factor + self.by

    def __str__(self) -> str:
        factor = f" × {self.factor:g}" if self.factor != 1 else ""
        by = f" + {self.by:g}" if self.by else ""
        if self.lower:
            return f"{self.winner}{factor}{by} < {self.than}"
        return f"{self.winner} > {self.than}{factor}{by}"


@dataclass(frozen=True)
class _Between:
    name: str
    low: float
    high: float

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def __call__(self, measurements: Measurements) -> bool | None:
        value = number(measurements, self.name)
        return None if value is None else self.low <= value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"{self.name} ≤ {self.high:g}"
        if math.isinf(self.high):
            return f"{self.name} ≥ {self.low:g}"
        return f"{self.low:g} ≤ {self.name} ≤ {self.high:g}"


@dataclass(frozen=True)
class _AllOf:
    parts: tuple[Predicate, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def __call__(self, measurements: Measurements) -> bool | None:
        # Every part is asked, so that an unusable measurement is found whatever the other answers.
        answers = [part(measurements) for part in self.parts]
        return None if None in answers else all(answers)

    def __str__(self) -> str:
        return " and ".join(str(part) for part in self.parts)


def better(winner: str, *, than: str, lower: bool, by: float = 0.0, factor: float = 1.0) -> Predicate:
    """Whether `winner` beats `than` by more than the margin; a tie is no.

    With ``lower=True`` the smaller value wins: yes if ``winner * factor + by < than``; otherwise yes if
    ``winner > than * factor + by``. "20 % lower" is ``lower=True, factor=1.25``: at most 0.8 of the other.
    `by` may be negative ("not worse by more than 0.01"). With a factor both values must be at least 0.

    >>> str(better("error_new", than="error_old", lower=True, factor=1.25))
    'error_new × 1.25 < error_old'
    """
    if factor <= 0:
        raise ValueError(f"factor must be positive, got {factor}")
    return _Better(winner, than, lower, by, factor)


def at_least(name: str, value: float) -> Predicate:
    """Whether the measurement is `value` or more."""
    return between(name, value, math.inf)


def at_most(name: str, value: float) -> Predicate:
    """Whether the measurement is `value` or less."""
    return between(name, -math.inf, value)


def near(name: str, value: float, tolerance: float) -> Predicate:
    """Whether the measurement is within `tolerance` of `value`, the ends included."""
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    return between(name, value - tolerance, value + tolerance)


def between(name: str, low: float, high: float) -> Predicate:
    """Whether the measurement lies in ``[low, high]``."""
    if not low <= high:
        raise ValueError(f"low must be at most high, got low={low}, high={high}")
    return _Between(name, low, high)


def all_of(*predicates: Predicate) -> Predicate:
    """Whether every one of the predicates says yes; does not apply where one of them does not."""
    if not predicates:
        raise ValueError("all_of needs at least one predicate")
    return _AllOf(predicates)
