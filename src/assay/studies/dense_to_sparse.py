"""Dense-to-sparse gates put to the test: does a learned temperature spoil the estimates, and what mends them.

A rate is the slope of a loss against the sample size, both logarithmic, over the sizes of one trial. Every
fit is the likelier of two local maxima, found from near the truth but for a factor, in one start, and its
inverse, in the other, that multiplies gate weights, gate biases and temperature alike; one start alone
often ends at a lesser maximum. Of equals the first counts. Starts are the same for all sizes: one that came
closer with the size, or that had the true scale, would make a temperature look estimable that is not.

Without activation the likelihood is the same along a line of temperatures, so a search stays near the one
it started from, and the error does not shrink at all. The paper says that it may shrink as slowly as
1 / log n, which over the sizes here is a slope of -0.12; the claims count both as slow.

The scales called "full" have up to 100,000 samples and 40 repetitions; they have not been run here.
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
    all_of,
    at_least,
    at_most,
    better,
    between,
    figures,
)
from assay.gating.dense_to_sparse import (
    DenseToSparseGate,
    activation_loss,
    dense_to_sparse_loss,
    scale_parameters,
)
from assay.gating.gaussian_moe import (
    GaussianMoEParameters,
    align,
    density_distance,
    fit_gaussian_moe,
    sample,
    score_vectors,
    voronoi_cells,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TRUTH = GaussianMoEParameters(
    gate_weights=np.array([[1.1], [-0.5], [-0.8]]),
    gate_biases=np.array([-0.3, 0.0, 0.0]),
    expert_weights=np.array([[1.5], [-1.0], [0.5]]),
    expert_biases=np.array([2.0, -2.0, 0.0]),
    variances=np.full(3, 0.1),
    temperature=0.5,
)
DOUBLED_EXPERT = 1
GATES = {
    "linear": DenseToSparseGate(),
    "relu": DenseToSparseGate("relu"),
    "tanh": DenseToSparseGate("tanh"),
    "sigmoid": DenseToSparseGate("sigmoid"),
    "gelu": DenseToSparseGate("gelu"),
    "silu": DenseToSparseGate("silu"),
}
_LARGEST_INPUT = 4.0
_EQUALLY_LIKELY = 1e-7
_FULL_SIZES = (1000, 3000, 10_000, 30_000, 100_000)


@dataclass(frozen=True)
class Rates:
    """`scale_noise` is the most by which the logarithm of a start's factor differs from 0."""

    sizes: tuple[int, ...] = (1000, 4000, 16_000)
    repetitions: int = 8
    scale_noise: float = 0.5
    start_noise: float = 0.05


@dataclass(frozen=True)
class GateRates(Rates):
    """Distances of densities are averaged over an even grid of inputs."""

    gates: tuple[str, ...] = ("linear", "tanh")
    grid: int = 100


@dataclass(frozen=True)
class Information:
    samples: int = 4000


def _starts(
    parameters: GaussianMoEParameters, settings: Rates, rng: np.random.Generator
) -> list[GaussianMoEParameters]:
    def moved(values: Array) -> Array:
        return values + settings.start_noise * rng.standard_normal(values.shape)

    log_factor = rng.uniform(-settings.scale_noise, settings.scale_noise)
    return [
        GaussianMoEParameters(
            gate_weights=moved(scaled.gate_weights),
            gate_biases=moved(scaled.gate_biases),
            expert_weights=moved(scaled.expert_weights),
            expert_biases=moved(scaled.expert_biases),
            variances=np.exp(moved(np.log(scaled.variances))),
            temperature=scaled.temperature * float(np.exp(settings.start_noise * rng.standard_normal())),
        )
        for scaled in (scale_parameters(parameters, float(np.exp(sign * log_factor))) for sign in (1, -1))
    ]


def _fit(
    X: Array, y: Array, starts: Sequence[GaussianMoEParameters], gate: DenseToSparseGate
) -> GaussianMoEParameters:
    """The likeliest of the fits from the starts, aligned with the truth."""
    best, *others = (fit_gaussian_moe(X, y, start, gate) for start in starts)
    for other in others:
        if other.log_likelihood > best.log_likelihood + _EQUALLY_LIKELY:
            best = other
    return align(best.parameters, TRUTH, gate)


def _inputs(n: int, rng: np.random.Generator) -> Array:
    """Uniform on [-4, 4], one feature."""
    return rng.uniform(-_LARGEST_INPUT, _LARGEST_INPUT, (n, 1))


def _slope(sizes: Sequence[int], losses: Array) -> float:
    return float(np.polyfit(np.log(sizes), np.log(losses), 1)[0])


_LOSSES = ("hellinger", "temperature", "ratio", "loss")


def rates(settings: GateRates, rng: np.random.Generator) -> Measurements:
    """Mean losses at each size of fits with each gate, with the number of experts known.

    Each gate is its own truth; inputs, the draws behind the outputs and starts are the same for all.
    """
    grid = ((np.arange(settings.grid) + 0.5) / settings.grid * 2 - 1)[:, None] * _LARGEST_INPUT
    losses = np.empty((settings.repetitions, len(settings.sizes), len(settings.gates), len(_LOSSES)))
    for repetition in range(settings.repetitions):
        starts = _starts(TRUTH, settings, rng)
        for s, n in enumerate(settings.sizes):
            X, seed = _inputs(n, rng), int(rng.integers(2**63))
            for g, name in enumerate(settings.gates):
                gate = GATES[name]
                y, _ = sample(X, TRUTH, gate, seed=seed)
                fitted = _fit(X, y, starts, gate)
                cells = voronoi_cells(fitted, TRUTH, use="experts")
                ratios = fitted.gate_weights / fitted.temperature
                loss = dense_to_sparse_loss if gate.shift_invariant else activation_loss
                losses[repetition, s, g] = (
                    density_distance(fitted, gate, TRUTH, gate, grid),
                    abs(fitted.temperature - TRUTH.temperature),
                    np.abs(ratios - TRUTH.gate_weights[cells] / TRUTH.temperature).mean(),
                    loss(fitted, TRUTH),
                )
    means = losses.mean(axis=0)
    series = {
        f"{loss}_{name}": means[:, g, i]
        for g, name in enumerate(settings.gates)
        for i, loss in enumerate(_LOSSES)
    }
    return {
        "sizes": [float(n) for n in settings.sizes],
        **{f"{name}_slope": _slope(settings.sizes, mean) for name, mean in series.items()},
        **{name: mean.tolist() for name, mean in series.items()},
    }


def over_specified(settings: Rates, rng: np.random.Generator) -> Measurements:
    """Median loss D3 at each size of fits with tanh that start with one expert twice."""
    gate, chosen = GATES["tanh"], np.array([0, 1, 1, 2])
    halving = np.where(chosen == DOUBLED_EXPERT, np.log(2), 0.0)
    doubled = GaussianMoEParameters(
        gate_weights=TRUTH.gate_weights[chosen],
        gate_biases=TRUTH.gate_biases[chosen] - TRUTH.temperature * halving,
        expert_weights=TRUTH.expert_weights[chosen],
        expert_biases=TRUTH.expert_biases[chosen],
        variances=TRUTH.variances[chosen],
        temperature=TRUTH.temperature,
    )
    losses = np.empty((settings.repetitions, len(settings.sizes)))
    for repetition in range(settings.repetitions):
        starts = _starts(doubled, settings, rng)
        for s, n in enumerate(settings.sizes):
            X = _inputs(n, rng)
            y, _ = sample(X, TRUTH, gate, seed=rng)
            fitted = _fit(X, y, starts, gate)
            losses[repetition, s] = activation_loss(fitted, TRUTH)
    medians = np.median(losses, axis=0)
    return {
        "sizes": [float(n) for n in settings.sizes],
        "loss_slope": _slope(settings.sizes, medians),
        "loss": medians.tolist(),
    }


def information(settings: Information, rng: np.random.Generator) -> Measurements:
    """Smallest eigenvalue of each gate's empirical information at the truth, in units of the largest."""
    X, seed = _inputs(settings.samples, rng), int(rng.integers(2**63))
    smallest = {}
    for name, gate in GATES.items():
        y, _ = sample(X, TRUTH, gate, seed=seed)
        scores = score_vectors(X, y, TRUTH, gate)
        k = TRUTH.n_experts
        # What translations of the gate leave undetermined: the last bias and, without activation, weight.
        fixed = [2 * k - 1, k - 1] if gate.shift_invariant else [2 * k - 1]
        singular = np.linalg.svd(np.delete(scores, fixed, axis=1), compute_uv=False)
        smallest[name] = float((singular[-1] / singular[0]) ** 2)
    return smallest


def _draw_losses(axes: Axes, rows: Sequence[Measurements], series: Sequence[tuple[str, str, str]]) -> None:
    """Each trial's losses, their medians over the trials, and n^-1/2; a series is (name, label, colour)."""
    sizes = np.array(rows[0]["sizes"])
    for name, label, colour in series:
        losses = figures.curves(rows, name)
        middle = np.median(losses, axis=0)
        axes.loglog(sizes, losses.T, color=colour, alpha=0.25, linewidth=0.8)
        axes.loglog(sizes, middle, "o-", color=colour, label=label)
        axes.loglog(sizes, middle[0] * (sizes / sizes[0]) ** -0.5, "k:", linewidth=0.8)
    axes.plot([], [], "k:", linewidth=0.8, label="$n^{-1/2}$")
    axes.set_xlabel("sample size n")
    axes.legend(frameon=False)


def draw_rates(rows: Sequence[Measurements]) -> Figure:
    figure, (density, temperature) = figures.panels(2)
    for axes, loss, label in (
        (density, "hellinger", "mean Hellinger distance"),
        (temperature, "temperature", "mean error of the temperature"),
    ):
        series = [(f"{loss}_linear", "no activation", "tab:orange"), (f"{loss}_tanh", "tanh", "tab:blue")]
        _draw_losses(axes, rows, series)
        axes.set_ylabel(label)
    return figure


def draw_relu(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("sample size n", "mean error")
    series = [
        ("temperature_relu", "temperature", "tab:orange"),
        ("ratio_relu", "gate weights / temperature", "tab:blue"),
    ]
    _draw_losses(axes, rows, series)
    return figure


def draw_over_specified(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("sample size n", "median loss D3")
    _draw_losses(axes, rows, [("loss", "tanh, 4 experts for 3", "tab:blue")])
    return figure


def draw_information(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("gate", "smallest / largest eigenvalue of the information")
    # A logarithmic axis has no place for what rounds to zero.
    figures.dots(axes, {name: [max(ratio, 1e-36) for ratio in figures.values(rows, name)] for name in GATES})
    axes.set_yscale("log")
    return figure


_PARAMETRIC = (-0.65, -0.38)
_SLOW = -0.2
_RATIO_CONVERGES = -0.35
_THEOREM_SLOW = Published(
    "slower than any power of n, perhaps 1 / log n (slope -0.12 here)",
    "abstract; theorem on the dense-to-sparse gate",
)
_THEOREM_ACTIVATION = "abstract; theorems on the activation dense-to-sparse gate"

STUDY = Study(
    slug="dense_to_sparse",
    experiments=(
        Experiment(
            name="rates",
            trial=rates,
            scales={"quick": GateRates(), "full": GateRates(sizes=_FULL_SIZES, repetitions=40)},
            claims=(
                Claim(
                    "density_parametric",
                    "estimates the density at the parametric rate, with an activation and without",
                    all_of(
                        between("hellinger_linear_slope", *_PARAMETRIC),
                        between("hellinger_tanh_slope", *_PARAMETRIC),
                    ),
                    published=Published("sqrt(log n / n): slope -0.5", "theorems on density estimation"),
                ),
                Claim(
                    "temperature_not_estimable",
                    "without an activation estimates the temperature at no polynomial rate, though what the "
                    "density depends on, the gate weights in units of it, converges",
                    all_of(
                        at_least("temperature_linear_slope", _SLOW),
                        at_most("ratio_linear_slope", _RATIO_CONVERGES),
                    ),
                    published=_THEOREM_SLOW,
                ),
                Claim(
                    "parameters_not_estimable",
                    "without an activation estimates all parameters together, by the loss D1, at no "
                    "polynomial rate",
                    at_least("loss_linear_slope", _SLOW),
                    published=_THEOREM_SLOW,
                ),
                Claim(
                    "activation_restores",
                    "with tanh ahead of the temperature estimates all parameters, the temperature among "
                    "them, at a polynomial rate",
                    all_of(
                        at_most("loss_tanh_slope", -0.35),
                        better("temperature_tanh_slope", than="temperature_linear_slope", lower=True, by=0.2),
                    ),
                    published=Published("sqrt(log n / n): slope -0.5", _THEOREM_ACTIVATION),
                ),
            ),
            figure=draw_rates,
        ),
        Experiment(
            name="homogeneous_activation",
            trial=rates,
            scales={
                "quick": GateRates(gates=("relu",)),
                "full": GateRates(gates=("relu",), sizes=_FULL_SIZES, repetitions=40),
            },
            claims=(
                Claim(
                    "relu_does_not_restore",
                    "estimates the temperature at no polynomial rate with an activation that violates the "
                    "independence condition, as relu does, though the gate weights in units of it converge",
                    all_of(
                        at_least("temperature_relu_slope", _SLOW),
                        at_most("ratio_relu_slope", _RATIO_CONVERGES),
                    ),
                    published=Published("the independence condition is needed", _THEOREM_ACTIVATION),
                ),
            ),
            figure=draw_relu,
        ),
        Experiment(
            name="over_specified",
            trial=over_specified,
            scales={
                "quick": Rates(sizes=(1000, 8000)),
                "full": Rates(sizes=_FULL_SIZES, repetitions=40),
            },
            claims=(
                Claim(
                    "activation_over_specified",
                    "with tanh and one expert too many has a loss D3, in which an expert that is fitted "
                    "twice counts with higher powers of its errors, that falls at a polynomial rate",
                    at_most("loss_slope", -0.3),
                    published=Published("sqrt(log n / n): slope -0.5", _THEOREM_ACTIVATION),
                ),
            ),
            figure=draw_over_specified,
        ),
        Experiment(
            name="information",
            trial=information,
            scales={"quick": Information(), "full": Information(samples=100_000)},
            claims=(
                Claim(
                    "information_null",
                    "leaves a direction of its parameters without information if its activation is none or "
                    "relu: the temperature acts together with the gate's other parameters",
                    all_of(at_most("linear", 1e-12), at_most("relu", 1e-12)),
                    published=Published(
                        "a partial differential equation binds temperature and gate weights", "abstract"
                    ),
                ),
                Claim(
                    "activation_informs",
                    "leaves no direction of its parameters without information if its activation is tanh or "
                    "sigmoid",
                    all_of(at_least("tanh", 1e-6), at_least("sigmoid", 1e-6)),
                    published=Published(
                        "tanh and sigmoid satisfy the independence condition", _THEOREM_ACTIVATION
                    ),
                ),
            ),
            figure=draw_information,
        ),
    ),
)
