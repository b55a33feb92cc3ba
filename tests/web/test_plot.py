"""Where the marks of a plot stand."""

from __future__ import annotations

import pytest

from assay.evidence import Claim, Experiment, Predicate, all_of, at_least, at_most, better
from assay.evidence.predicates import Measurements
from assay.evidence.verdicts import Tally
from assay.web.plot import MOST_TRIALS, PANEL, Plot, trial_plot


def plotted(asks: Predicate, *trials: Measurements) -> Plot:
    claim = Claim("claim", "does it", asks)
    tally = Tally(Experiment("experiment", print, {"quick": claim}, (claim,)))  # type: ignore[arg-type]
    for index, measurements in enumerate(trials):
        tally.add(index, measurements)
    return trial_plot(tally.claims[0], tally.trials)


def test_pairs_share_an_axis() -> None:
    plot = plotted(better("a", than="b", lower=True), {"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.0})
    (panel,) = plot.panels
    assert [mark for _, mark, _ in plot.marks] == ["yes", "no"]
    assert [dot.shape for dot in panel.dots] == ["circle", "square"] * 2
    ys = [dot.y for dot in panel.dots]
    assert ys[1] < ys[2] < ys[0] == ys[3]  # upwards is larger
    assert [label for _, label in panel.ticks] == ["1", "2", "3"]
    assert panel.pairs == ((plot.marks[0][0], ys[1], ys[0]), (plot.marks[1][0], ys[2], ys[3]))
    assert all(panel.top <= y <= panel.top + PANEL for y in ys)


def test_a_fixed_value_is_a_line() -> None:
    (panel,) = plotted(at_least("a", 5), {"a": 1.0}).panels
    assert panel.limits == (panel.ticks[2][0],)


def test_each_part_has_a_panel_of_its_own() -> None:
    plot = plotted(all_of(at_least("a", 5), at_most("seconds", 900)), {"a": 6.0, "seconds": 800.0})
    first, second = plot.panels
    assert second.top > first.top + PANEL
    assert plot.height > second.top + PANEL


def test_large_ranges_are_logarithmic() -> None:
    (panel,) = plotted(
        better("a", than="b", lower=True), {"a": 1.0, "b": 100.0}, {"a": 10.0, "b": 9.0}
    ).panels
    assert panel.logarithmic
    assert [label for _, label in panel.ticks] == ["1", "10", "100"]


def test_what_does_not_apply_is_skipped() -> None:
    plot = plotted(better("a", than="b", lower=True), {"a": None, "b": None}, {"a": 1.0, "b": 1.0})
    assert [mark for _, mark, _ in plot.marks] == ["skip", "no"]
    assert plot.marks[0][2] == "trial 0: skip; a does not apply, b does not apply"
    assert len(plot.panels[0].dots) == 2
    assert plotted(at_least("a", 1), {"a": None}).panels == ()


@pytest.mark.parametrize("value", [0.0, 7.0, -3e9, 1e-300])
def test_one_value_for_all(value: float) -> None:
    (panel,) = plotted(better("a", than="b", lower=True), {"a": value, "b": value}).panels
    assert len({dot.y for dot in panel.dots}) == 1
    assert panel.top < panel.dots[0].y < panel.top + PANEL


def test_many_trials() -> None:
    plot = plotted(at_least("a", 1), *({"a": float(index)} for index in range(MOST_TRIALS + 5)))
    assert (plot.shown, plot.trials, len(plot.marks)) == (MOST_TRIALS, MOST_TRIALS + 5, MOST_TRIALS)
    assert plot.marks[-1][0] <= plot.width
