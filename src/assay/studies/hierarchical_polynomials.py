"""Hierarchical polynomials put to the test: samples, kernels, two-layer networks, recovery of the feature.

Errors are mean squares on fresh points as shares of the target's variance there. The link has Hermite
coefficients (0, 1, 1/2, 1/2) up to scale, so a fit that stops at the degree of the hidden feature keeps about
a third of the variance as its error. All methods of a trial see the same samples, and each splits or tunes
within them; only the kernel's penalty is chosen on the test points, in the kernel's favour.

The exponent of the dimension is fitted over dimensions in which the feature is not yet Gaussian, and the less
so the smaller they are; that costs samples there, and so lowers the exponent.

The rates that earlier work is held to (d^4 samples for one step on a quadratic, d^(kq) for kernels) are
beyond what runs here: what is seen is that those methods do not get there with the order of d^k samples.
The scales "full" have larger dimensions, need up to 32 GB and have not been run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

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
from assay.networks.hierarchical_polynomials import (
    FeatureKind,
    HierarchicalPolynomial,
    LayerwiseRegressor,
    ThreeLayerNetwork,
    polynomial_kernel_regressor,
    random_hierarchical_polynomial,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """A random target of n_features inputs: the hidden feature's kind and degree, the link's coefficients."""

    n_features: int = 24
    kind: FeatureKind = "product"
    degree: int = 2
    link: tuple[float, ...] = (0.0, 1.0, 0.5, 0.5)
    test_samples: int = 4000

    def draw(self, rng: np.random.Generator) -> HierarchicalPolynomial:
        return random_hierarchical_polynomial(
            self.n_features, degree=self.degree, link=self.link, kind=self.kind, seed=rng
        )

    def points(self, ratio: float, rng: np.random.Generator) -> Array:
        """Inputs, `ratio` times n_features ** degree of them."""
        return rng.standard_normal((round(ratio * self.n_features**self.degree), self.n_features))

    def test_points(self, rng: np.random.Generator) -> Array:
        return rng.standard_normal((self.test_samples, self.n_features))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31 - 1))


def _error(predictions: Array, labels: Array) -> float:
    return float(np.mean((predictions - labels) ** 2) / labels.var())


def _correlation(model: LayerwiseRegressor, target: HierarchicalPolynomial, X: Array) -> float:
    """How well the model's feature agrees with the hidden one, up to scale: from 0 to 1."""
    return float(abs(np.corrcoef(model.transform(X)[:, 0], target.feature(X))[0, 1]))


def _first_stage_error(model: LayerwiseRegressor, X: Array, labels: Array) -> float:
    """The error of the residual path alone, a two-layer network of random features."""
    return _error(model.transform(X)[:, 0] + model.y_mean_, labels)


# --- Learning the target -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples(Target):
    """Sample sizes as multiples of n_features ** degree: few, the claim's and many."""

    ratios: tuple[float, float, float] = (2.5, 10.0, 40.0)


def growing_samples(settings: Samples, rng: np.random.Generator) -> Measurements:
    """Test errors of one target as samples are added."""
    target = settings.draw(rng)
    X, X_test = settings.points(max(settings.ratios), rng), settings.test_points(rng)
    y, y_test = target(X), target(X_test)
    seed = _seed(rng)
    errors, first_stage, correlations = [], [], []
    for ratio in settings.ratios:
        n = round(ratio * settings.n_features**settings.degree)
        model = LayerwiseRegressor(degree=settings.degree, random_state=seed).fit(X[:n], y[:n])
        errors.append(_error(model.predict(X_test), y_test))
        first_stage.append(_first_stage_error(model, X_test, y_test))
        correlations.append(_correlation(model, target, X_test))
    return {
        "error_few_samples": errors[0],
        "error": errors[1],
        "error_many_samples": errors[2],
        "error_plateau": float(1 - target.link[1] ** 2),
        "ratios": list(settings.ratios),
        "errors": errors,
        "first_stage_errors": first_stage,
        "correlations": correlations,
    }


# --- Beside other methods, with the same samples -----------------------------------------------------


@dataclass(frozen=True)
class Kernel(Target):
    n_features: int = 20
    ratio: float = 10.0
    kernel_degree: int = 6
    alphas: tuple[float, ...] = (1e-3, 0.1, 1.0, 10.0)


def beside_a_kernel(settings: Kernel, rng: np.random.Generator) -> Measurements:
    """Test errors of the network and of a kernel that can express the target, with its best penalty."""
    target = settings.draw(rng)
    X, X_test = settings.points(settings.ratio, rng), settings.test_points(rng)
    y, y_test = target(X), target(X_test)
    model = LayerwiseRegressor(degree=settings.degree, random_state=_seed(rng)).fit(X, y)
    # KernelRidge takes one penalty for each column of labels, and builds its kernel once for all.
    alphas = np.array(settings.alphas)
    kernel = polynomial_kernel_regressor(settings.n_features, settings.kernel_degree).set_params(alpha=alphas)
    predictions = kernel.fit(X, np.tile(y[:, None], len(alphas))).predict(X_test)
    share = np.corrcoef(target.feature(X_test), y_test)[0, 1] ** 2
    return {
        "error_three_layer": _error(model.predict(X_test), y_test),
        "error_kernel": min(_error(column, y_test) for column in predictions.T),
        "error_first_stage": _first_stage_error(model, X_test, y_test),
        # Of the best multiple of the hidden feature itself.
        "error_plateau": float(1 - share),
    }


@dataclass(frozen=True)
class TwoLayer(Target):
    n_features: int = 20
    ratio: float = 10.0
    width: int = 400
    steps: int = 2000
    batch_size: int = 256
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    held_out: float = 0.2
    look_every: int = 50


def _two_layer_predictions(
    settings: TwoLayer, X: Array, y: Array, X_test: Array, learning_rate: float, seed: int
) -> tuple[float, Array]:
    """Held-out error at the best step of Adam on both layers, and the predictions there."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(X.shape[1], settings.width), nn.ReLU(), nn.Linear(settings.width, 1))
    mean, scale = y.mean(), y.std()
    inputs, test_inputs = (torch.from_numpy(points.astype(np.float32)) for points in (X, X_test))
    labels = torch.from_numpy(((y - mean) / scale).astype(np.float32))[:, None]
    held_out = round(settings.held_out * len(X))
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    best, predictions = np.inf, np.zeros(len(X_test))
    batches = torch.randint(held_out, len(X), (settings.steps, settings.batch_size))
    for step, batch in enumerate(batches, start=1):
        loss = nn.functional.mse_loss(network(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % settings.look_every == 0:
            with torch.no_grad():
                error = float(nn.functional.mse_loss(network(inputs[:held_out]), labels[:held_out]))
                if error < best:
                    best, predictions = error, network(test_inputs)[:, 0].double().numpy()
    return best, mean + scale * predictions


def beside_two_layers(settings: TwoLayer, rng: np.random.Generator) -> Measurements:
    """Test errors of the network and of a two-layer one that is trained throughout."""
    target = settings.draw(rng)
    X, X_test = settings.points(settings.ratio, rng), settings.test_points(rng)
    y, y_test = target(X), target(X_test)
    model = LayerwiseRegressor(degree=settings.degree, random_state=_seed(rng)).fit(X, y)
    seed = _seed(rng)
    runs = [_two_layer_predictions(settings, X, y, X_test, rate, seed) for rate in settings.learning_rates]
    _, predictions = min(runs, key=lambda run: run[0])
    return {
        "error_three_layer": _error(model.predict(X_test), y_test),
        "error_two_layer": _error(predictions, y_test),
        "error_first_stage": _first_stage_error(model, X_test, y_test),
    }


# --- A cubic feature ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cubic(Target):
    n_features: int = 15
    degree: int = 3
    ratio: float = 3.0
    inner_width: int = 1500


def cubic_feature(settings: Cubic, rng: np.random.Generator) -> Measurements:
    """Recovery of a hidden feature beyond quadratics, and the errors after each stage."""
    target = settings.draw(rng)
    X, X_test = settings.points(settings.ratio, rng), settings.test_points(rng)
    y_test = target(X_test)
    model = LayerwiseRegressor(
        degree=settings.degree, inner_width=settings.inner_width, random_state=_seed(rng)
    ).fit(X, target(X))
    return {
        "correlation": _correlation(model, target, X_test),
        "error": _error(model.predict(X_test), y_test),
        "error_first_stage": _first_stage_error(model, X_test, y_test),
    }


# --- Recovery of the feature -------------------------------------------------------------------------


@dataclass(frozen=True)
class RecoveryRate:
    """The correlation, averaged over targets, that counts as recovery, and where it is looked for."""

    dimensions: tuple[int, ...] = (10, 14, 20, 28)
    ratios: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.5, 6.5, 10.0)
    targets: int = 6
    recovered: float = 0.85
    kind: FeatureKind = "product"
    degree: int = 2
    test_samples: int = 4000


def recovery_rate(settings: RecoveryRate, rng: np.random.Generator) -> Measurements:
    """The exponent of the dimension in the samples that it takes to recover the feature."""
    correlations = np.zeros((len(settings.dimensions), len(settings.ratios)))
    for row, d in enumerate(settings.dimensions):
        sized = Target(d, settings.kind, settings.degree, test_samples=settings.test_samples)
        for _ in range(settings.targets):
            target = sized.draw(rng)
            X, X_test = sized.points(max(settings.ratios), rng), sized.test_points(rng)
            y, seed = target(X), _seed(rng)
            for column, ratio in enumerate(settings.ratios):
                n = round(ratio * d**settings.degree)
                model = LayerwiseRegressor(degree=settings.degree, random_state=seed).fit(X[:n], y[:n])
                correlations[row, column] += _correlation(model, target, X_test) / settings.targets
    log_ratios = np.log(settings.ratios)
    needed = [_crossing(log_ratios, row, settings.recovered) for row in correlations]
    slope = None
    if None not in needed:
        log_dimensions = np.log(settings.dimensions)
        log_samples = np.array(needed, dtype=np.float64) + settings.degree * log_dimensions
        slope = float(np.polyfit(log_dimensions, log_samples, 1)[0])
    return {
        "exponent": slope,
        "ratios": list(settings.ratios),
        **{
            f"correlations_{d}": row.tolist()
            for d, row in zip(settings.dimensions, correlations, strict=True)
        },
    }


def _crossing(x: Array, y: Array, level: float) -> float | None:
    """Where y first reaches the level, interpolated; None if it starts above it or stays below."""
    reached = np.flatnonzero(y >= level)
    if not len(reached) or reached[0] == 0:
        return None
    after = reached[0]
    return float(np.interp(level, y[after - 1 : after + 1], x[after - 1 : after + 1]))


@dataclass(frozen=True)
class Steps(Target):
    ratio: float = 8.0
    n_steps: tuple[int, int] = (2000, 2000)


def many_steps_or_one(settings: Steps, rng: np.random.Generator) -> Measurements:
    """Recovery of the feature by gradient descent, and by its first step alone, which has two activations."""
    target = settings.draw(rng)
    X, X_test = settings.points(settings.ratio, rng), settings.test_points(rng)
    y, y_test, seed = target(X), target(X_test), _seed(rng)
    measurements = {}
    for name, first_steps in (("many_steps", settings.n_steps[0]), ("one_step", 1)):
        model = LayerwiseRegressor(
            degree=settings.degree,
            solver="gradient_descent",
            n_steps=(first_steps, settings.n_steps[1]),
            random_state=seed,
        ).fit(X, y)
        measurements[f"correlation_{name}"] = _correlation(model, target, X_test)
        measurements[f"error_{name}"] = _error(model.predict(X_test), y_test)

    # An activation of the feature's own degree alone, on all samples: nothing of lower degree in the way.
    network = ThreeLayerNetwork(
        settings.n_features,
        settings.n_features**settings.degree,
        1,
        inner_coefficients=(0.0,) * settings.degree + (1.0,),
        generator=torch.Generator().manual_seed(seed),
    )
    loss = nn.functional.mse_loss(network.feature(torch.from_numpy(X)), torch.from_numpy(y - y.mean()))
    (step,) = torch.autograd.grad(loss, network.u)
    feature = (network.inner_layer(torch.from_numpy(X_test)) @ step).numpy()
    pure = float(abs(np.corrcoef(feature, target.feature(X_test))[0, 1]))
    return {
        **measurements,
        "correlation_one_pure_step": pure,
        "correlation_best_step": max(pure, measurements["correlation_one_step"]),
    }


@dataclass(frozen=True)
class InformationExponent(Target):
    """`link` has a linear part, `even_link` has none."""

    ratio: float = 8.0
    even_link: tuple[float, ...] = (0.0, 0.0, 1.0)


def information_exponent(settings: InformationExponent, rng: np.random.Generator) -> Measurements:
    """Recovery of one feature behind a link with a linear part and behind one without."""
    target = settings.draw(rng)
    X, X_test, seed = settings.points(settings.ratio, rng), settings.test_points(rng), _seed(rng)
    measurements = {}
    even = HierarchicalPolynomial(target.feature, np.array(settings.even_link))
    for name, linked in (("linear_part", target), ("no_linear_part", even)):
        model = LayerwiseRegressor(degree=settings.degree, random_state=seed).fit(X, linked(X))
        measurements[f"correlation_{name}"] = _correlation(model, target, X_test)
        measurements[f"error_{name}"] = _error(model.predict(X_test), linked(X_test))
    return measurements


# --- Figures -----------------------------------------------------------------------------------------


_ERROR = "test error / variance of the target"
_CORRELATION = "correlation with the hidden feature"


def draw_growing_samples(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("samples / d²", _ERROR)
    ratios = figures.curves(rows, "ratios").T
    for color, name, label in (
        ("C1", "first_stage_errors", "after the first stage"),
        ("C0", "errors", "after both stages"),
    ):
        errors = figures.curves(rows, name).T
        axes.plot(ratios, errors, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(ratios[:, 0], np.median(errors, axis=1), "o-", color=color, label=f"{label} (median)")
    plateau = figures.values(rows, "error_plateau")[0]
    axes.axhline(plateau, linestyle="--", color="0.5", label="best multiple of a Gaussian feature")
    axes.set(xscale="log", ylim=(0, 1.2))
    axes.set_xticks(ratios[:, 0], [f"{ratio:g}" for ratio in ratios[:, 0]], minor=False)
    axes.minorticks_off()
    axes.legend()
    return figure


def _draw_errors(rows: Sequence[Measurements], columns: dict[str, str]) -> Figure:
    figure, axes = figures.axes("", _ERROR)
    figures.dots(axes, {label: figures.values(rows, name) for label, name in columns.items()}, paired=True)
    axes.set_ylim(bottom=0)
    return figure


def draw_kernel(rows: Sequence[Measurements]) -> Figure:
    return _draw_errors(
        rows,
        {
            "three layers": "error_three_layer",
            "best multiple of\nthe hidden feature": "error_plateau",
            "first stage alone": "error_first_stage",
            "polynomial kernel": "error_kernel",
        },
    )


def draw_two_layers(rows: Sequence[Measurements]) -> Figure:
    return _draw_errors(
        rows,
        {
            "three layers,\nlayer by layer": "error_three_layer",
            "first stage alone": "error_first_stage",
            "two layers, both\ntrained by Adam": "error_two_layer",
        },
    )


def draw_cubic(rows: Sequence[Measurements]) -> Figure:
    figure, (left, right) = figures.panels(2)
    figures.dots(left, {"learned feature": figures.values(rows, "correlation")})
    left.axhline(0.65, linestyle="--", color="0.5", label="asked for")
    left.legend()
    left.set(ylabel=_CORRELATION, ylim=(0, 1), xlim=(-0.5, 0.5))
    columns = {"first stage": "error_first_stage", "both stages": "error"}
    figures.dots(right, {label: figures.values(rows, name) for label, name in columns.items()}, paired=True)
    right.set(ylabel=_ERROR, ylim=(0, None))
    return figure


def draw_recovery_rate(rows: Sequence[Measurements]) -> Figure:
    figure, (left, right) = figures.panels(2)
    ratios = figures.curves(rows, "ratios")[0]
    dimensions = [name.removeprefix("correlations_") for name in rows[0] if name.startswith("correlations_")]
    for d in dimensions:
        left.plot(ratios, np.mean(figures.curves(rows, f"correlations_{d}"), axis=0), "o-", label=f"d = {d}")
    left.set(xscale="log", xlabel="samples / d²", ylabel=_CORRELATION)
    left.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios], minor=False)
    left.minorticks_off()
    left.legend()
    figures.dots(right, {"measured": figures.values(rows, "exponent")})
    right.axhline(2, linestyle="--", color="0.5", label="published")
    right.set(ylabel="exponent of d in the samples needed", ylim=(0, 3), xlim=(-0.5, 0.5))
    right.legend()
    return figure


def _draw_correlations(rows: Sequence[Measurements], columns: dict[str, str]) -> Figure:
    figure, axes = figures.axes("", _CORRELATION)
    figures.dots(axes, {label: figures.values(rows, name) for label, name in columns.items()}, paired=True)
    axes.set_ylim(0, 1)
    return figure


def draw_steps(rows: Sequence[Measurements]) -> Figure:
    return _draw_correlations(
        rows,
        {
            "many steps": "correlation_many_steps",
            "one step": "correlation_one_step",
            "one step, activation h₂": "correlation_one_pure_step",
        },
    )


def draw_information_exponent(rows: Sequence[Measurements]) -> Figure:
    return _draw_correlations(
        rows,
        {
            "link with a linear part": "correlation_linear_part",
            "link without": "correlation_no_linear_part",
        },
    )


# --- The study ---------------------------------------------------------------------------------------


def _sample_claims(what: str) -> tuple[Claim, ...]:
    return (
        Claim(
            "learns_target",
            f"learns a cubic polynomial of {what} to a fifth of its variance from 10 d² samples",
            at_most("error", 0.2),
            Published("vanishing test error from Õ(d^k) samples; k = 2 here", "abstract"),
        ),
        Claim(
            "error_falls_with_samples",
            "has ever smaller test error as the samples grow as a multiple of d²",
            all_of(
                better("error", than="error_few_samples", lower=True),
                better("error_many_samples", than="error", lower=True),
            ),
            Published("vanishing test error from Õ(d^k) samples; k = 2 here", "abstract"),
        ),
    )


_QUARTIC_LINK = (0.0, 1.0, 0.5, 0.5, 0.5)

STUDY = Study(
    slug="hierarchical_polynomials",
    experiments=(
        Experiment(
            name="products",
            trial=growing_samples,
            scales={"quick": Samples(), "full": Samples(n_features=64, link=_QUARTIC_LINK)},
            claims=_sample_claims("a sum of products of two directions"),
            figure=draw_growing_samples,
        ),
        Experiment(
            name="quadratic_forms",
            trial=growing_samples,
            scales={
                "quick": Samples(kind="hermite"),
                "full": Samples(n_features=64, kind="hermite", link=_QUARTIC_LINK),
            },
            claims=_sample_claims("a quadratic form of full rank"),
            figure=draw_growing_samples,
        ),
        Experiment(
            name="kernel",
            trial=beside_a_kernel,
            scales={"quick": Kernel(), "full": Kernel(n_features=48)},
            claims=(
                Claim(
                    "beats_kernel",
                    "has a test error lower by 0.15 of the variance than a polynomial kernel that can "
                    "express the target, with the same 10 d² samples",
                    better("error_three_layer", than="error_kernel", lower=True, by=0.15),
                    Published("a strict improvement over kernel methods", "abstract"),
                ),
                Claim(
                    "passes_the_kernels_plateau",
                    "has a smaller test error than the best multiple of the hidden feature, which the "
                    "kernel with the same 10 d² samples has not",
                    all_of(
                        better("error_three_layer", than="error_plateau", lower=True),
                        better("error_plateau", than="error_kernel", lower=True),
                    ),
                    Published("Õ(d^k) samples, against Θ̃(d^(kq)) for kernels; d² and d⁶ here", "abstract"),
                ),
            ),
            figure=draw_kernel,
        ),
        Experiment(
            name="two_layers",
            trial=beside_two_layers,
            scales={"quick": TwoLayer(), "full": TwoLayer(n_features=48, width=2000, steps=20_000)},
            claims=(
                Claim(
                    "beats_two_layer",
                    "has a test error lower by 0.15 of the variance than a two-layer ReLU network that is "
                    "trained by Adam on the same samples, as the target is not of low rank",
                    better("error_three_layer", than="error_two_layer", lower=True, by=0.15),
                    Published("guarantees for two-layer networks require a low-rank target", "abstract"),
                ),
            ),
            figure=draw_two_layers,
        ),
        Experiment(
            name="cubic_feature",
            trial=cubic_feature,
            scales={"quick": Cubic(), "full": Cubic(n_features=20, inner_width=8000)},
            claims=(
                Claim(
                    "recovers_cubic_feature",
                    "recovers a cubic feature to a correlation of 0.65 from 3 d³ samples",
                    at_least("correlation", 0.65),
                    Published("any degree k, where earlier work had quadratics only", "abstract"),
                ),
                Claim(
                    "second_stage_helps_on_cubic_feature",
                    "has a test error lower by 0.05 of the variance after both stages than after the first",
                    better("error", than="error_first_stage", lower=True, by=0.05),
                    Published("any degree k, where earlier work had quadratics only", "abstract"),
                ),
            ),
            figure=draw_cubic,
        ),
        Experiment(
            name="recovery_rate",
            trial=recovery_rate,
            scales={
                "quick": RecoveryRate(),
                "full": RecoveryRate(dimensions=(16, 24, 32, 48, 64), targets=20),
            },
            claims=(
                Claim(
                    "quadratic_samples_suffice",
                    "recovers a quadratic feature from samples that grow no faster than the square of the "
                    "dimension",
                    at_most("exponent", 2.0),
                    Published("Õ(d^k) samples, k = 2 here", "abstract"),
                ),
                Claim(
                    "feature_recovery_rate",
                    "recovers a quadratic feature from samples that grow with the dimension to the power of "
                    "about two, between 1.4 and 2.7",
                    between("exponent", 1.4, 2.7),
                    Published("Õ(d^k) samples, k = 2 here: information-theoretically optimal", "abstract"),
                ),
            ),
            figure=draw_recovery_rate,
        ),
        Experiment(
            name="steps",
            trial=many_steps_or_one,
            scales={"quick": Steps(), "full": Steps(n_features=64, n_steps=(20_000, 2000))},
            claims=(
                Claim(
                    "many_steps_needed",
                    "recovers a quadratic feature from 8 d² samples by many steps of gradient descent, "
                    "better by 0.3 in correlation than one step does",
                    better("correlation_many_steps", than="correlation_best_step", lower=False, by=0.3),
                    Published("Õ(d²) samples, against Θ̃(d⁴) for earlier work by one step", "abstract"),
                ),
            ),
            figure=draw_steps,
        ),
        Experiment(
            name="information_exponent",
            trial=information_exponent,
            scales={"quick": InformationExponent(), "full": InformationExponent(n_features=64)},
            claims=(
                Claim(
                    "needs_linear_part",
                    "does not find the hidden feature behind a link without a linear part",
                    at_most("correlation_no_linear_part", 0.3),
                    Published("E g′(z) bounded away from 0 is assumed", "assumption on the link"),
                ),
            ),
            figure=draw_information_exponent,
        ),
    ),
)
