"""Top-K gating put to the test: rates of density and parameters, and how many experts must be selected.

A rate is the slope of a loss against the sample size, both logarithmic, over the sizes of one trial. Every
fit is a local maximum of the likelihood found from near the truth, as in the paper's own simulation, and all
truths have one feature: the order of the slopes alone then decides the selection, so the likelihood is
smooth. The orders of convergence 1/8 and 1/4 that the theory gives for an expert fitted twice would need
samples far larger than any here; what is asked is whether they are slower. The scales called "full" have
the sizes and repetitions of the paper's simulation; they have not been run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    at_least,
    better,
    between,
    figures,
    near,
)
from assay.gating.gaussian_moe import (
    GaussianMoEFit,
    GaussianMoEParameters,
    align,
    density_distance,
    fit_gaussian_moe,
    sample,
    voronoi_cells,
)
from assay.gating.topk_gating import TopKGate, exact_voronoi_loss, over_specified_voronoi_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_FULL_SIZES = (1000, 3000, 10_000, 30_000, 100_000)

SPARSE_TRUTH = GaussianMoEParameters(
    gate_weights=np.array([[3.0], [0.0], [-3.0]]),
    gate_biases=np.array([0.5, -0.3, 0.0]),
    expert_weights=np.array([[2.0], [-1.0], [3.0]]),
    expert_biases=np.array([1.0, -2.0, 2.0]),
    variances=np.array([0.2, 0.3, 0.25]),
)
SPARSE_TOP_K = 2
DOUBLED_EXPERT = 1

DENSE_TRUTH = GaussianMoEParameters(
    gate_weights=np.array([[4.0], [0.0]]),
    gate_biases=np.zeros(2),
    expert_weights=np.array([[1.0], [-1.0]]),
    expert_biases=np.array([1.5, -1.5]),
    variances=np.array([0.3, 0.3]),
)


@dataclass(frozen=True)
class Rates:
    """Inputs are uniform on [-1, 1]; distances of densities are averaged over an even grid of them."""

    sizes: tuple[int, ...]
    repetitions: int
    grid: int = 200


@dataclass(frozen=True)
class ExactRates(Rates):
    sizes: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)
    repetitions: int = 16
    start_noise: float = 0.1


@dataclass(frozen=True)
class OverSpecified(Rates):
    """One expert too many and one more selected; each start is off by a noise drawn from the range."""

    sizes: tuple[int, ...] = (1000, 2000, 4000, 8000)
    repetitions: int = 8
    least_noise: float = 0.05
    most_noise: float = 0.2


@dataclass(frozen=True)
class Selection(Rates):
    """The fit that selects too few gets more starts, so that it does not fail for want of them."""

    sizes: tuple[int, ...] = (500, 1000, 2000, 4000)
    repetitions: int = 4
    start_noise: float = 0.5
    starts_too_few: int = 6
    starts_enough: int = 3


def _draw(
    n: int, truth: GaussianMoEParameters, gate: TopKGate, rng: np.random.Generator
) -> tuple[Array, Array]:
    X = rng.uniform(-1, 1, (n, 1))
    return X, sample(X, truth, gate, seed=rng)[0]


def _hellinger(
    settings: Rates, fit: GaussianMoEFit, gate: TopKGate, truth: GaussianMoEParameters, true_gate: TopKGate
) -> float:
    grid = ((np.arange(settings.grid) + 0.5) * 2 / settings.grid - 1)[:, None]
    return density_distance(fit.parameters, gate, truth, true_gate, grid)


def _near(parameters: GaussianMoEParameters, noise: float, rng: np.random.Generator) -> GaussianMoEParameters:
    def moved(values: Array) -> Array:
        return values + noise * rng.standard_normal(values.shape)

    return GaussianMoEParameters(
        gate_weights=moved(parameters.gate_weights),
        gate_biases=moved(parameters.gate_biases),
        expert_weights=moved(parameters.expert_weights),
        expert_biases=moved(parameters.expert_biases),
        variances=np.exp(moved(np.log(parameters.variances))),
    )


def _doubled(parameters: GaussianMoEParameters, expert: int) -> GaussianMoEParameters:
    """The same density with that expert twice, each of half its mass, if both are selected where it was."""
    chosen = np.sort([*range(parameters.n_experts), expert])
    return GaussianMoEParameters(
        gate_weights=parameters.gate_weights[chosen],
        gate_biases=parameters.gate_biases[chosen] - np.where(chosen == expert, np.log(2), 0.0),
        expert_weights=parameters.expert_weights[chosen],
        expert_biases=parameters.expert_biases[chosen],
        variances=parameters.variances[chosen],
    )


def _slope(sizes: Sequence[int], losses: Array) -> float | None:
    if np.isnan(losses).any():
        return None
    return float(np.polyfit(np.log(sizes), np.log(losses), 1)[0])


def exact_rates(settings: ExactRates, rng: np.random.Generator) -> Measurements:
    """Mean loss D1 and Hellinger distance at each size, with the number of experts known."""
    gate = TopKGate(SPARSE_TOP_K)
    losses = np.empty((2, len(settings.sizes), settings.repetitions))
    for repetition in range(settings.repetitions):
        for s, n in enumerate(settings.sizes):
            X, y = _draw(n, SPARSE_TRUTH, gate, rng)
            fit = fit_gaussian_moe(X, y, _near(SPARSE_TRUTH, settings.start_noise, rng), gate)
            aligned = align(fit.parameters, SPARSE_TRUTH, gate)
            losses[0, s, repetition] = exact_voronoi_loss(aligned, SPARSE_TRUTH, SPARSE_TOP_K)
            losses[1, s, repetition] = _hellinger(settings, fit, gate, SPARSE_TRUTH, gate)
    d1, hellinger = losses.mean(axis=2)
    return {
        "d1_slope": _slope(settings.sizes, d1),
        "hellinger_slope": _slope(settings.sizes, hellinger),
        "sizes": [float(n) for n in settings.sizes],
        "d1": d1.tolist(),
        "hellinger": hellinger.tolist(),
    }


def over_specified(settings: OverSpecified, rng: np.random.Generator) -> Measurements:
    """Hellinger distance (mean) and parameters' losses (median) at each size, with one expert too many."""
    true_gate, gate = TopKGate(SPARSE_TOP_K), TopKGate(SPARSE_TOP_K + 1)
    doubled = _doubled(SPARSE_TRUTH, DOUBLED_EXPERT)
    losses = np.empty((6, len(settings.sizes), settings.repetitions))
    for repetition in range(settings.repetitions):
        noise = rng.uniform(settings.least_noise, settings.most_noise)
        for s, n in enumerate(settings.sizes):
            X, y = _draw(n, SPARSE_TRUTH, true_gate, rng)
            fit = fit_gaussian_moe(X, y, _near(doubled, noise, rng), gate)
            aligned = align(fit.parameters, SPARSE_TRUTH, gate)
            losses[:, s, repetition] = (
                _hellinger(settings, fit, gate, SPARSE_TRUTH, true_gate),
                over_specified_voronoi_loss(aligned, SPARSE_TRUTH, SPARSE_TOP_K),
                *_errors_by_cell_size(aligned),
            )
    hellinger = losses[0].mean(axis=1)
    # A few fits run to their bounds, so the parameters' errors have no useful mean.
    medians = dict(zip(_OVER_SPECIFIED_LOSSES, np.nanmedian(losses[1:], axis=2), strict=True))
    return {
        "hellinger_slope": _slope(settings.sizes, hellinger),
        **{f"{name}_slope": _slope(settings.sizes, median) for name, median in medians.items()},
        "sizes": [float(n) for n in settings.sizes],
        "hellinger": hellinger.tolist(),
        **{name: median.tolist() for name, median in medians.items()},
    }


_OVER_SPECIFIED_LOSSES = ("d2", "doubled", "single", "plain_doubled", "plain_single")


def _errors_by_cell_size(fitted: GaussianMoEParameters) -> tuple[float, float, float, float]:
    """Errors of all parameters of the atoms that share a cell, and of those alone in one.

    First the sums weighted by mass, then the means without weights; NaN where there are no such atoms.
    """
    cells = voronoi_cells(fitted, SPARSE_TRUTH)
    errors = (
        np.abs(fitted.gate_weights - SPARSE_TRUTH.gate_weights[cells])[:, 0]
        + np.abs(fitted.expert_weights - SPARSE_TRUTH.expert_weights[cells])[:, 0]
        + np.abs(fitted.expert_biases - SPARSE_TRUTH.expert_biases[cells])
        + np.abs(fitted.variances - SPARSE_TRUTH.variances[cells])
    )
    alone = np.bincount(cells)[cells] == 1
    if not alone.any():
        return (float(fitted.masses @ errors), np.nan, float(errors.mean()), np.nan)
    weighted = fitted.masses * errors
    return (
        float(weighted[~alone].sum()),
        float(weighted[alone].sum()),
        float(errors[~alone].mean()),
        float(errors[alone].mean()),
    )


def selection_must_grow(settings: Selection, rng: np.random.Generator) -> Measurements:
    """Mean Hellinger distance at each size of three experts, two or all selected, to a dense truth of two."""
    n_true = DENSE_TRUTH.n_experts
    true_gate = TopKGate(n_true)
    fits = ((TopKGate(n_true), settings.starts_too_few), (TopKGate(n_true + 1), settings.starts_enough))
    distances = np.empty((2, len(settings.sizes), settings.repetitions))
    for repetition in range(settings.repetitions):
        for s, n in enumerate(settings.sizes):
            X, y = _draw(n, DENSE_TRUTH, true_gate, rng)
            starts = [
                _near(_doubled(DENSE_TRUTH, int(rng.integers(n_true))), settings.start_noise, rng)
                for _ in range(max(settings.starts_too_few, settings.starts_enough))
            ]
            for g, (gate, n_starts) in enumerate(fits):
                best = max(
                    (fit_gaussian_moe(X, y, start, gate) for start in starts[:n_starts]),
                    key=lambda fit: fit.log_likelihood,
                )
                distances[g, s, repetition] = _hellinger(settings, best, gate, DENSE_TRUTH, true_gate)
    too_few, enough = distances.mean(axis=2)
    return {
        "hellinger_too_few_at_largest": float(too_few[-1]),
        "slope_too_few": _slope(settings.sizes, too_few),
        "slope_enough": _slope(settings.sizes, enough),
        "sizes": [float(n) for n in settings.sizes],
        "hellinger_too_few": too_few.tolist(),
        "hellinger_enough": enough.tolist(),
    }


def _draw_rates(rows: Sequence[Measurements], panels: Sequence[tuple[str, dict[str, str]]]) -> Figure:
    """One panel for each label of the vertical axis: each trial's losses, their medians, and n^-1/2."""
    figure, every = figures.panels(len(panels))
    sizes = figures.curves(rows, "sizes")[0]
    for axes, (label, series) in zip(every, panels, strict=True):
        for colour, (name, legend) in zip(("tab:blue", "tab:orange"), series.items(), strict=False):
            losses = figures.curves(rows, name)
            middle = np.median(losses, axis=0)
            axes.loglog(sizes, losses.T, color=colour, alpha=0.25, linewidth=0.8)
            axes.loglog(sizes, middle, "o-", color=colour, label=legend)
            axes.loglog(sizes, middle[0] * (sizes / sizes[0]) ** -0.5, "k:", linewidth=0.8)
        axes.plot([], [], "k:", linewidth=0.8, label="$n^{-1/2}$")
        axes.set(xlabel="sample size n", ylabel=label)
        axes.legend(frameon=False)
    return figure


def draw_exact_rates(rows: Sequence[Measurements]) -> Figure:
    return _draw_rates(
        rows,
        (
            ("mean Hellinger distance", {"hellinger": "density, median"}),
            ("mean loss D1", {"d1": "parameters, median"}),
        ),
    )


def draw_over_density(rows: Sequence[Measurements]) -> Figure:
    return _draw_rates(
        rows,
        (
            ("mean Hellinger distance", {"hellinger": "density, median"}),
            ("median loss D2", {"d2": "parameters, median"}),
        ),
    )


def draw_over_parameters(rows: Sequence[Measurements]) -> Figure:
    legends = ("expert fitted twice", "experts fitted once")
    return _draw_rates(
        rows,
        (
            ("median error, weighted by mass", dict(zip(("doubled", "single"), legends, strict=True))),
            ("median error", dict(zip(("plain_doubled", "plain_single"), legends, strict=True))),
        ),
    )


def draw_selection(rows: Sequence[Measurements]) -> Figure:
    series = {"hellinger_too_few": "2 of 3 selected", "hellinger_enough": "3 of 3 selected"}
    return _draw_rates(rows, (("mean Hellinger distance", series),))


_PARAMETRIC = (-0.65, -0.38)
_EXACT = "abstract; theorems on the exact-specified setting"
_OVER = "abstract; theorems on the over-specified setting"
_SLOW = Published("n^-1/8 and n^-1/4 beside n^-1/2, up to logarithms", _OVER)

STUDY = Study(
    slug="topk_gating",
    experiments=(
        Experiment(
            name="exact_rates",
            trial=exact_rates,
            scales={"quick": ExactRates(), "full": ExactRates(sizes=_FULL_SIZES, repetitions=40)},
            claims=(
                Claim(
                    "exact_density_rate",
                    "estimates the density at the parametric rate when the number of experts is known",
                    between("hellinger_slope", *_PARAMETRIC),
                    published=Published("sqrt(log n / n): slope -0.5", _EXACT),
                ),
                Claim(
                    "exact_parameter_rate",
                    "estimates all parameters at the parametric rate when the number of experts is known",
                    between("d1_slope", *_PARAMETRIC),
                    published=Published("sqrt(log n / n): slope -0.5", _EXACT),
                ),
            ),
            figure=draw_exact_rates,
        ),
        Experiment(
            name="over_density",
            trial=over_specified,
            scales={"quick": OverSpecified(), "full": OverSpecified(sizes=_FULL_SIZES, repetitions=40)},
            claims=(
                Claim(
                    "over_density_rate",
                    "estimates the density at the parametric rate with an expert too many, if enough are "
                    "selected",
                    between("hellinger_slope", *_PARAMETRIC),
                    published=Published("sqrt(log n / n): slope -0.5", _OVER),
                ),
            ),
            figure=draw_over_density,
        ),
        Experiment(
            name="over_parameters",
            trial=over_specified,
            scales={
                "quick": OverSpecified(sizes=(2000, 16_000), repetitions=10),
                "full": OverSpecified(sizes=(10_000, 30_000, 100_000), repetitions=40),
            },
            claims=(
                Claim(
                    "over_parameters_slow",
                    "estimates an expert that is fitted twice much more slowly than those fitted once, each "
                    "error weighted by the mass of its atom",
                    better("single_slope", than="doubled_slope", lower=True, by=0.15),
                    published=_SLOW,
                ),
                Claim(
                    "over_parameters_slow_unweighted",
                    "estimates an expert that is fitted twice much more slowly than those fitted once",
                    better("plain_single_slope", than="plain_doubled_slope", lower=True, by=0.15),
                    published=_SLOW,
                ),
            ),
            figure=draw_over_parameters,
        ),
        Experiment(
            name="selection_must_grow",
            trial=selection_must_grow,
            scales={"quick": Selection(), "full": Selection(sizes=_FULL_SIZES, repetitions=40)},
            claims=(
                Claim(
                    "too_few_stay_away",
                    "stays away from the true density if it selects fewer experts than their cells hold",
                    at_least("hellinger_too_few_at_largest", 0.08),
                    published=Published("the distance does not vanish", _OVER),
                ),
                Claim(
                    "too_few_have_no_rate",
                    "does not converge to the true density if it selects fewer experts than their cells hold",
                    near("slope_too_few", 0.0, 0.15),
                    published=Published("the distance does not vanish", _OVER),
                ),
                Claim(
                    "enough_have_the_rate",
                    "converges at about the parametric rate once it selects as many as their cells hold",
                    between("slope_enough", -0.7, -0.3),
                    published=Published("sqrt(log n / n): slope -0.5", _OVER),
                ),
            ),
            figure=draw_selection,
        ),
    ),
)
