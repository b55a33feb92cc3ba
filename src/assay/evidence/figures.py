"""What the figures of studies share: plain axes, and a column of dots for each measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assay.evidence.predicates import Measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def values(rows: Sequence[Measurements], name: str) -> list[float]:
    """The measurement of that name in every trial in which it applied."""
    return [float(value) for row in rows if isinstance(value := row[name], int | float)]


def curves(rows: Sequence[Measurements], name: str) -> NDArray[np.float64]:
    """The measurement of that name in every trial: (trials, length) for lists, all of one length, (trials,)
    for numbers, NaN where it does not apply."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def panels(count: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the size that the page shows, and `count` axes side by side, open at the top and right."""
    # matplotlib takes a while to import, and those who run trials need no figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    every = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, every


def axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """`panels` with a single one, its axes labelled."""
    figure, (single,) = panels()
    single.set(xlabel=xlabel, ylabel=ylabel)
    return figure, single


def dots(axes: Axes, columns: Mapping[str, Sequence[float]], *, paired: bool = False) -> None:
    """A column of dots for each label, one dot a trial, with a bar at their median.

    `paired` joins the dots of each trial; every column then has a value of every trial.
    """
    for place, column in enumerate(columns.values()):
        spread = np.linspace(-0.15, 0.15, len(column)) if len(column) > 1 and not paired else 0.0
        axes.plot(
            place + spread + np.zeros(len(column)), column, "o", color="tab:blue", alpha=0.5, markersize=5
        )
        if len(column):
            axes.plot([place - 0.25, place + 0.25], [np.median(column)] * 2, color="black", linewidth=1.5)
    if paired:
        axes.plot(range(len(columns)), list(columns.values()), color="tab:blue", alpha=0.3, linewidth=0.8)
    axes.set_xticks(range(len(columns)), list(columns))
