"""The plot of a claim's trials: where its marks stand. `templates/plot.svg` draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from assay.evidence.predicates import Measurements
from assay.evidence.verdicts import ClaimTally
from assay.numbers import figure

WIDTH = 360
LEFT, RIGHT = 50, 350
TOP = 22
PANEL = 96
LEGEND = 14
GAP = 18
MOST_TRIALS = 150
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Dot:
    """One measurement of one trial."""

    x: float
    y: float
    shape: str


@dataclass(frozen=True)
class Panel:
    """The measurements that one question compares, on an axis of their own."""

    top: float
    names: tuple[tuple[str, str], ...]
    """Each measurement's name and shape."""
    ticks: tuple[tuple[float, str], ...]
    limits: tuple[float, ...]
    """Where values are held against a fixed one."""
    pairs: tuple[tuple[float, float, float], ...]
    """x, and from where to where the line between a trial's measurements goes."""
    dots: tuple[Dot, ...]
    logarithmic: bool


@dataclass(frozen=True)
class Plot:
    """Everything that the template draws; lengths are in the units of its view box."""

    title: str
    summary: str
    width: int
    height: float
    size: float
    """Half the size of a mark."""
    marks: tuple[tuple[float, str, str], ...]
    """x, "yes", "no" or "skip", and the trial in words."""
    panels: tuple[Panel, ...]
    trials: int
    shown: int


def trial_plot(tally: ClaimTally, trials: list[Measurements]) -> Plot:
    """The plot of the trials that answered a claim, the first `MOST_TRIALS` of them."""
    shown = min(len(trials), MOST_TRIALS)
    # Few trials stand together at the left instead of far apart.
    step = (RIGHT - LEFT) / max(shown, 12)
    xs = [round(LEFT + (index + 0.5) * step, 1) for index in range(shown)]
    names = tally.claim.asks.names
    marks = []
    for index, x in enumerate(xs):
        mark = tally.marks[index]
        word = "skip" if mark is None else "yes" if mark else "no"
        values = ", ".join(f"{name} {_text(trials[index].get(name))}" for name in names)
        marks.append((x, word, f"trial {index}: {word}; {values}"))
    # A question made of several gets a panel for each: their measurements have different units.
    parts = getattr(tally.claim.asks, "parts", (tally.claim.asks,))
    panels: list[Panel] = []
    height = float(TOP)
    for part in parts:
        panel = _panel(part, trials[:shown], xs, height)
        if panel is not None:
            panels.append(panel)
            height += PANEL + GAP + LEGEND * ((len(panel.names) + 1) // 2)
    return Plot(
        title=f"Trials of the claim that the method {tally.claim.sentence}",
        summary=f"{tally.yes} of {tally.answered} trials say yes to {tally.claim.asks}; "
        f"{tally.skipped} skipped.",
        width=WIDTH,
        height=height,
        size=round(max(1.0, min(4.0, step * 0.32)), 1),
        marks=tuple(marks),
        panels=tuple(panels),
        trials=len(trials),
        shown=shown,
    )


def _panel(part: object, trials: list[Measurements], xs: list[float], top: float) -> Panel | None:
    names: tuple[str, ...] = part.names  # type: ignore[attr-defined]
    shapes = {name: SHAPES[place % len(SHAPES)] for place, name in enumerate(names)}
    points = [
        (x, name, float(value))
        for x, trial in zip(xs, trials, strict=True)
        for name in names
        if isinstance(value := trial.get(name), int | float)
    ]
    if not points:
        return None
    bounds = [getattr(part, bound, math.inf) for bound in ("low", "high")]
    limits = [bound for bound in bounds if math.isfinite(bound)]
    values = [value for _, _, value in points] + limits
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > 50
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin

    def y(value: float) -> float:
        share: float = ((math.log10(value) if logarithmic else value) - low) / (high - low)
        return round(top + PANEL - 6 - share * (PANEL - 12), 1)

    columns: dict[float, list[float]] = {}
    for x, _, value in points:
        columns.setdefault(x, []).append(y(value))
    ticks = [10**place if logarithmic else place for place in (low, (low + high) / 2, high)]
    return Panel(
        top=top,
        names=tuple(shapes.items()),
        ticks=tuple((y(tick), figure(tick)) for tick in ticks),
        limits=tuple(y(limit) for limit in limits),
        pairs=tuple((x, min(column), max(column)) for x, column in columns.items() if len(column) > 1),
        dots=tuple(Dot(x, y(value), shapes[name]) for x, name, value in points),
        logarithmic=logarithmic,
    )


def _text(value: object) -> str:
    return figure(value) if isinstance(value, int | float) else "does not apply"
