"""Stochastic neurons put to the test: the estimators' mathematics, training sparse gates, computation saved.

The networks learn scikit-learn's digits: 1000 to train on, 300 to choose the epoch by, the rest to test on.
All estimators of a trial have the same split, initial weights, order of samples and number of steps, and the
layer's own penalty weights. The dense baselines have as many units as the sparse networks have gates on, as
in the paper. The scale "mnist" is the paper's network with the paper's penalty weights; it downloads MNIST
from OpenML, needs 4 GB, and has not been run here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml, load_digits
from torch import Tensor
from torch.nn import functional

from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    all_of,
    at_most,
    better,
    between,
    figures,
    near,
)
from assay.gating.stochastic_neurons import (
    ConditionalClassifier,
    ConditionalLayer,
    GateEstimator,
    MinimumVarianceBaseline,
    noisy_rectifier,
    reinforce_gradient,
    stochastic_times_smooth,
    straight_through,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Enumeration:
    """Binary units few enough to enumerate, under a loss drawn for each of their joint states."""

    units: int = 4
    samples: int = 200_000
    baseline_batches: int = 40


@dataclass(frozen=True)
class FirstOrder:
    """The range of pre-activations over which p goes to 0."""

    highest: float = -4.0
    lowest: float = -10.0
    points: int = 13


@dataclass(frozen=True)
class Noise:
    logits: int = 8
    samples: int = 200_000


@dataclass(frozen=True)
class Training:
    """A conditional classifier and how it is trained; `estimators` names those that a trial compares."""

    estimators: tuple[GateEstimator, ...] = ()
    data: str = "digits"
    train: int = 1000
    validation: int = 300
    n_units: int = 200
    gater_features: int = 40
    sparsity_target: float = 0.1
    max_epochs: int = 40
    published_weights: bool = False
    """The paper's penalty weights and the paper's slow gater for "reinforce"."""


@dataclass(frozen=True)
class Cost:
    in_features: int = 4096
    n_units: int = 4096
    gater_features: int = 200
    active: float = 0.1


@dataclass(frozen=True)
class Timing(Cost):
    repeats: int = 25
    calibration_examples: int = 200


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def unbiased_min_variance(settings: Enumeration, rng: np.random.Generator) -> Measurements:
    """The estimator's mean against enumeration, and its variance (summed over units) with three baselines."""
    units, generator = settings.units, _generator(rng)
    logits = torch.from_numpy(rng.normal(scale=1.5, size=units))
    table = torch.from_numpy(rng.normal(loc=1.0, size=(2,) * units))
    p = torch.sigmoid(logits)

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
        samples = straight_through(logits.expand(n, units), generator=generator)
        return samples, p.expand(n, units), table[samples.long().unbind(1)]

    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * units).view(-1, units)
    weights = (states * p + (1 - states) * (1 - p)).prod(1)
    mean_loss = weights @ table.flatten()
    exact = (weights * table.flatten()) @ (states - p)

    tracked = MinimumVarianceBaseline(units).double()
    for _ in range(settings.baseline_batches):
        tracked.update(*draw(settings.samples // settings.baseline_batches))
    batch = draw(settings.samples)
    measurements: dict[str, float] = {}
    deviations = []
    for name, baseline in (("least", tracked.value), ("none", None), ("mean_loss", mean_loss)):
        gradient = reinforce_gradient(*batch, baseline)
        variance = gradient.var(0)
        deviations.append((gradient.mean(0) - exact).abs() / (variance / settings.samples).sqrt())
        measurements[f"variance_{name}"] = float(variance.sum())
    measurements["deviation"] = float(torch.stack(deviations).max())
    return measurements


_FUNCTIONS = {"exp": np.exp, "cos": np.cos}


def sts_first_order(settings: FirstOrder, rng: np.random.Generator) -> Measurements:
    """How fast E[f(h)] - f(p) vanishes with p, from the unit's two outcomes 0 and sqrt(p)."""
    p = 1 / (1 + np.exp(-np.linspace(settings.lowest, settings.highest, settings.points)))
    measurements: dict[str, float | Sequence[float]] = {"p": p.tolist()}
    for name, f in _FUNCTIONS.items():
        root = np.sqrt(p)
        difference = np.abs((1 - root) * f(0.0) + root * f(root) - f(p))
        measurements[f"difference_{name}"] = difference.tolist()
        measurements[f"order_{name}"] = float(np.polyfit(np.log(p), np.log(difference), 1)[0])
    return measurements


def noise_properties(settings: Noise, rng: np.random.Generator) -> Measurements:
    """Shares of units on and means against their formulas: the largest deviation in standard errors."""
    logits, generator = torch.from_numpy(rng.uniform(-4, 4, settings.logits)), _generator(rng)
    many = logits.expand(settings.samples, -1)
    p = torch.sigmoid(logits)
    cases = {
        "rectifier": (noisy_rectifier(many, generator=generator), p, functional.softplus(logits)),
        "sts": (stochastic_times_smooth(many, generator=generator), p.sqrt(), p),
    }
    measurements = {}
    for name, (h, on, mean) in cases.items():
        for what, values, expected in (("on", (h > 0).double(), on), ("mean", h, mean)):
            deviation = (values.mean(0) - expected) / (values.var(0) / settings.samples).sqrt()
            measurements[f"deviation_{what}_{name}"] = float(deviation.abs().max())
    return measurements


_PUBLISHED_WEIGHTS: dict[str, dict[str, float]] = {
    "straight_through": {"penalty_weight": 0.1},
    "sts": {"penalty_weight": 0.001},
    "reinforce": {"penalty_weight": 1.0, "gater_learning_rate_scale": 0.01},
}


def _load(data: str) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Features between 0 and 1, and labels."""
    if data == "digits":
        X, y = load_digits(return_X_y=True)
    else:
        X, y = fetch_openml(data, version=1, as_frame=False, return_X_y=True)
    return X / X.max(), y


def compare(settings: Training, rng: np.random.Generator) -> Measurements:
    """Errors and shares of gates on of networks that differ in how gradients pass their gates."""
    X, y = _load(settings.data)
    order = rng.permutation(len(X))
    X, y = X[order], y[order]
    known = settings.train + settings.validation
    seed = int(rng.integers(2**31))
    measurements: dict[str, float] = {}
    for estimator in settings.estimators:
        dense = estimator in ("sigmoid", "sigmoid_noise")
        classifier = ConditionalClassifier(
            n_units=round(settings.sparsity_target * settings.n_units) if dense else settings.n_units,
            gater_features=settings.gater_features,
            estimator=estimator,
            sparsity_target=settings.sparsity_target,
            momentum=0.5 if estimator == "sts" else 0.0,
            max_epochs=settings.max_epochs,
            validation_fraction=settings.validation / known,
            random_state=seed,
        )
        if settings.published_weights:
            classifier.set_params(**_PUBLISHED_WEIGHTS.get(estimator, {}))
        classifier.fit(X[:known], y[:known])
        layer = classifier.layer_
        measurements |= {
            f"error_{estimator}": 1 - classifier.score(X[known:], y[known:]),
            f"active_{estimator}": layer.active_fraction,
            f"validation_error_{estimator}": float(classifier.validation_error_.min()),
        }
        with torch.no_grad():
            layer.train()(torch.from_numpy(X[:known]).float())
        measurements[f"active_in_training_{estimator}"] = layer.active_fraction
    return measurements


def multiply_adds(settings: Cost, rng: np.random.Generator) -> Measurements:
    """Multiply-adds of gater and active experts as a share of those of all experts."""
    layer = ConditionalLayer(settings.in_features, settings.n_units, settings.gater_features)
    gater, main = layer.multiply_adds(settings.active)
    dense = settings.in_features * settings.n_units
    return {"gater_share": gater / dense, "experts_share": main / dense, "cost": (gater + main) / dense}


def wall_time(settings: Timing, rng: np.random.Generator) -> Measurements:
    """Seconds for one example, gater included, against those of computing all experts without a gater."""
    generator = _generator(rng)
    layer = ConditionalLayer(
        settings.in_features,
        settings.n_units,
        settings.gater_features,
        sparsity_target=settings.active,
        generator=generator,
    ).eval()
    layer.calibrate(torch.randn(settings.calibration_examples, settings.in_features, generator=generator))
    # A new example each time, so that its experts' weights are not yet in the cache.
    examples = torch.randn(settings.repeats + 1, 1, settings.in_features, generator=generator)
    seconds: dict[str, list[float]] = {"sparse": [], "dense": []}
    active = []
    with torch.no_grad():
        layer.sparse_forward(examples[0])  # compiles
        for x in examples[1:]:
            active.append(float((layer.gates(x) != 0).double().mean()))
            for name, run in (("dense", layer.expert), ("sparse", layer.sparse_forward)):
                start = time.perf_counter()
                run(x)
                seconds[name].append(time.perf_counter() - start)
    return {
        "seconds_sparse": min(seconds["sparse"]),
        "seconds_dense": min(seconds["dense"]),
        "active": float(np.mean(active)),
    }


def draw_variances(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("baseline", "variance, as a multiple of the least")
    labels = {"none": "none", "mean_loss": "mean loss", "least": "least variance"}
    least = np.array(figures.values(rows, "variance_least"))
    figures.dots(
        axes,
        {
            label: (figures.values(rows, f"variance_{name}") / least).tolist()
            for name, label in labels.items()
        },
    )
    axes.set_yscale("log")
    return figure


def draw_first_order(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("p", "|E f(h) − f(p)|")
    p = figures.curves(rows, "p")[0]
    for name, marker in zip(_FUNCTIONS, ("o", "x"), strict=True):
        axes.loglog(
            p, figures.curves(rows, f"difference_{name}")[0], marker, markersize=8, label=f"f = {name}"
        )
    axes.loglog(p, np.sqrt(p), color="grey", linestyle=":", label="sqrt(p)")
    axes.legend(frameon=False)
    return figure


def draw_errors(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "test error (%)")
    prefix = "error_"
    columns = {}
    for name in (name.removeprefix(prefix) for name in rows[0] if name.startswith(prefix)):
        active = np.median(figures.values(rows, f"active_{name}"))
        label = f"{name.replace('_', ' ')}\n{active:.0%} on"
        columns[label] = [100 * error for error in figures.values(rows, prefix + name)]
    figures.dots(axes, columns)
    axes.set_ylim(bottom=0)
    return figure


def draw_speed(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "milliseconds for one example")
    labels = {"dense": "all experts, no gater", "sparse": "gater and active experts"}
    figures.dots(
        axes,
        {
            label: [1000 * value for value in figures.values(rows, f"seconds_{name}")]
            for name, label in labels.items()
        },
    )
    axes.set_ylim(bottom=0)
    return figure


_TABLE = "table of results on MNIST"
_PUBLISHED_ERRORS = {  # validation, test (%)
    "noisy_rectifier": (1.52, 1.87),
    "straight_through": (1.42, 1.39),
    "sts": (1.86, 1.96),
    "reinforce": (1.78, 1.89),
    "rectifier": (1.66, 1.60),
    "sigmoid_noise": (1.88, 1.87),
    "sigmoid": (1.97, 1.92),
}
_WHAT = {
    "noisy_rectifier": "noisy rectifiers",
    "straight_through": "straight-through gates",
    "sts": "stochastic-times-smooth gates",
    "reinforce": "binary gates with the unbiased estimator",
    "rectifier": "rectifiers without noise",
    "sigmoid_noise": "dense sigmoid gates with noise",
    "sigmoid": "dense sigmoid gates",
}


def _scales(*estimators: GateEstimator) -> dict[str, Training]:
    return {
        "quick": Training(estimators),
        "longer": Training(estimators, max_epochs=200),
        "mnist": Training(
            estimators,
            data="mnist_784",
            train=50_000,
            validation=10_000,
            n_units=2000,
            gater_features=400,
            max_epochs=200,
            published_weights=True,
        ),
    }


def _against(estimator: str, other: str, part: str) -> Published:
    of = ("validation", "test").index(part)
    error, other_error = _PUBLISHED_ERRORS[estimator][of], _PUBLISHED_ERRORS[other][of]
    return Published(f"{part} error {error} % against {other_error} %", _TABLE)


def _trains_sparse(estimator: str) -> Claim:
    return Claim(
        f"{estimator}_trains_sparse",
        f"trains {_WHAT[estimator]}, a tenth of them on in use, to within 3 points of dense gates' error",
        all_of(
            better(f"error_{estimator}", than="error_sigmoid", lower=True, by=-0.03),
            near(f"active_{estimator}", 0.1, 0.04),
        ),
        _against(estimator, "sigmoid", "test"),
    )


def _lower_error(name: str, estimator: str, other: str, part: str) -> Claim:
    measured = "error" if part == "test" else "validation_error"
    return Claim(
        name,
        f"has a lower {part} error with {_WHAT[estimator]} than with {_WHAT[other]}",
        better(f"{measured}_{estimator}", than=f"{measured}_{other}", lower=True),
        _against(estimator, other, part),
    )


def _straight_through_or(rival: GateEstimator, *more: Claim) -> Experiment:
    return Experiment(
        name=f"straight_through_or_{rival}",
        trial=compare,
        scales=_scales("straight_through", rival, "sigmoid"),
        claims=(
            *more,
            _trains_sparse(rival),
            *(
                _lower_error(f"straight_through_best_{part}", "straight_through", rival, part)
                for part in ("test", "validation")
            ),
        ),
        figure=draw_errors,
    )


def _noise_helps(noisy: GateEstimator, plain: GateEstimator) -> Experiment:
    return Experiment(
        name=f"{plain}_with_noise",
        trial=compare,
        scales=_scales(noisy, plain),
        claims=(_lower_error("noise_helps", noisy, plain, "test"),),
        figure=draw_errors,
    )


def _deviation(name: str, sentence: str, measured: str, published: Published | None = None) -> Claim:
    return Claim(name, sentence, at_most(measured, 5.0), published)


STUDY = Study(
    slug="stochastic_neurons",
    experiments=(
        Experiment(
            name="unbiased_min_variance",
            trial=unbiased_min_variance,
            scales={"quick": Enumeration(), "larger": Enumeration(units=10, samples=1_000_000)},
            claims=(
                _deviation(
                    "unbiased",
                    "estimates the gradient of binary neurons without bias: the mean of its estimates is "
                    "within 5 standard errors of enumeration",
                    "deviation",
                ),
                Claim(
                    "minimum_variance",
                    "has less variance with its tracked baseline than with none and than with the mean loss",
                    all_of(
                        better("variance_least", than="variance_none", lower=True),
                        better("variance_least", than="variance_mean_loss", lower=True),
                    ),
                ),
            ),
            figure=draw_variances,
        ),
        Experiment(
            name="sts_first_order",
            trial=sts_first_order,
            scales={"quick": FirstOrder(), "larger": FirstOrder(lowest=-14.0, points=101)},
            claims=(
                Claim(
                    "sts_first_order",
                    "keeps the mean of a smooth function of stochastic-times-smooth units to an error that "
                    "vanishes faster than sqrt(p): as p to the power 1.5",
                    all_of(*(between(f"order_{name}", 1.3, 1.7) for name in _FUNCTIONS)),
                    Published("o(sqrt(p)) as p goes to 0", "proposition on stochastic-times-smooth units"),
                ),
            ),
            figure=draw_first_order,
            deterministic=True,
        ),
        Experiment(
            name="noise_properties",
            trial=noise_properties,
            scales={"quick": Noise(), "larger": Noise(logits=40, samples=1_000_000)},
            claims=(
                _deviation(
                    "rectifier_on_with_probability_sigmoid",
                    "turns logistic noisy rectifiers on with probability sigmoid(a)",
                    "deviation_on_rectifier",
                    Published("sigmoid(a)", "proposition on noisy rectifiers"),
                ),
                _deviation(
                    "rectifier_mean_is_softplus",
                    "gives logistic noisy rectifiers the mean log(1 + exp(a))",
                    "deviation_mean_rectifier",
                    Published("log(1 + exp(a))", "proposition on noisy rectifiers"),
                ),
                Claim(
                    "sts_moments",
                    "turns stochastic-times-smooth units on with probability sqrt(sigmoid(a)), and so gives "
                    "them the mean sigmoid(a)",
                    all_of(at_most("deviation_on_sts", 5.0), at_most("deviation_mean_sts", 5.0)),
                    Published("mean sigmoid(a)", "proposition on stochastic-times-smooth units"),
                ),
            ),
        ),
        _straight_through_or("sts", _trains_sparse("straight_through")),
        _straight_through_or("reinforce"),
        _straight_through_or("noisy_rectifier"),
        _noise_helps("noisy_rectifier", "rectifier"),
        _noise_helps("sigmoid_noise", "sigmoid"),
        Experiment(
            name="multiply_adds",
            trial=multiply_adds,
            scales={"quick": Cost(), "mnist": Cost(in_features=784, n_units=2000, gater_features=400)},
            claims=(
                Claim(
                    "compute_saved",
                    "needs a quarter or less of the multiply-adds of all experts, gater included",
                    at_most("cost", 0.25),
                    Published("gater O(MN) and a tenth of the experts", "network of the experiments"),
                ),
            ),
            deterministic=True,
        ),
        Experiment(
            name="wall_time",
            trial=wall_time,
            scales={"quick": Timing(), "larger": Timing(in_features=8192, n_units=8192, gater_features=400)},
            claims=(
                Claim(
                    "time_saved",
                    "computes one example, gater included, in two thirds or less of the time of all experts",
                    better("seconds_sparse", than="seconds_dense", lower=True, factor=1.5),
                ),
            ),
            figure=draw_speed,
            exclusive=True,
        ),
    ),
)
