"""Quantile aggregation put to the test: accuracy, robustness, flexibility, ordering and calibration.

Four generated tasks with five uniform features, a library of five base models (linear, two forests,
neighbours, least squares with Gaussian quantiles) and eleven levels. Within a trial all aggregates see the
same out-of-fold predictions, the same split of them and the same budget of steps. At the scale "full" the
accuracy is that on data sets of the paper from OpenML that need no encoding, with its 99 levels; this needs a
network and has not been run here. The paper's own library has boosted trees and networks as well, and 20
random draws choose its hyperparameters, which are the defaults here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    all_of,
    at_most,
    better,
    figures,
)
from assay.inference.quantile_aggregation import (
    ConformalQuantiles,
    QuantileAggregator,
    cross_fit_quantiles,
    default_base_models,
    monotonize,
    weighted_interval_score,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_OPENML = (
    "abalone",
    "boston",
    "elevators",
    "house_16H",
    "kin8nm",
    "pol",
    "quake",
    "sensory",
    "socmob",
    "space_ga",
    "tecator",
    "topo_2_1",
    "wine_quality",
    "yprop_4_1",
)
_VARIANTS = {
    f"{scope}_{resolution}": {"scope": scope, "resolution": resolution}
    for scope in ("global", "local")
    for resolution in ("coarse", "medium", "fine")
}
_LOCAL_FINE = _VARIANTS["local_fine"]


@dataclass(frozen=True)
class Projection:
    n_levels: tuple[int, ...] = (3, 7, 11, 23)
    vectors: int = 5000


@dataclass(frozen=True)
class Setting:
    """Each task has this many rows, or, if of OpenML and smaller, its rows in this proportion."""

    n_train: int = 400
    n_test: int = 500
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    max_steps: int = 1500
    tasks: tuple[str, ...] = ("switch",)


@dataclass(frozen=True)
class Calibration(Setting):
    n_test: int = 2000
    n_calibration: int = 400


# -------------------------------------------------------------------------------------------------- tasks


def _switch(X: Array, rng: np.random.Generator) -> Array:
    signal = np.where(X[:, 0] > 0, 3 * X[:, 1], 2 * np.sin(6 * X[:, 2]))
    return signal + 0.5 * rng.standard_t(4, len(X))


def _hetero(X: Array, rng: np.random.Generator) -> Array:
    noise: Array = (0.2 + np.abs(X[:, 2])) * rng.standard_normal(len(X))
    return 2 * X[:, 0] + X[:, 1] + noise


def _friedman(X: Array, rng: np.random.Generator) -> Array:
    u = (X + 1) / 2
    signal = 10 * np.sin(np.pi * u[:, 0] * u[:, 1]) + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4]
    noise: Array = (1 + (X[:, 0] > 0)) * rng.standard_normal(len(X))
    return (signal + noise) / 5


def _skew(X: Array, rng: np.random.Generator) -> Array:
    scale: Array = np.exp(X[:, 1] / 2) * (1 + np.maximum(X[:, 2], 0))
    return X[:, 0] + scale * rng.standard_exponential(len(X))


_GENERATED: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "switch": _switch,
    "hetero": _hetero,
    "friedman": _friedman,
    "skew": _skew,
}


def _draw(task: str, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """X and y of n rows, or all rows of an OpenML data set with fewer, in random order."""
    if task in _GENERATED:
        X = rng.uniform(-1, 1, (n, 5))
        return X, _GENERATED[task](X, rng)
    from sklearn.datasets import fetch_openml
    from sklearn.impute import SimpleImputer

    data = fetch_openml(task, as_frame=False, parser="liac-arff")
    rows = rng.permutation(len(data.target))[:n]
    return SimpleImputer(strategy="median").fit_transform(data.data)[rows], data.target[rows].astype(float)


@dataclass(frozen=True)
class Library:
    """Predictions (n, p, m) of the base models: out of fold for the training rows, of all of them for new."""

    levels: tuple[float, ...]
    X: Array
    y: Array
    base: Array
    X_new: Array
    y_new: Array
    base_new: Array

    def with_model(self, base: Array, base_new: Array) -> Library:
        return Library(
            self.levels,
            self.X,
            self.y,
            np.concatenate([self.base, base[:, None]], axis=1),
            self.X_new,
            self.y_new,
            np.concatenate([self.base_new, base_new[:, None]], axis=1),
        )

    def score(self, quantiles: Array) -> float:
        """Mean weighted interval score of predictions for the new rows."""
        return float(weighted_interval_score(self.y_new, quantiles, self.levels).mean())

    def aggregate(self, setting: Setting, seed: int, **parameters: Any) -> QuantileAggregator:
        return QuantileAggregator(
            self.levels, max_steps=setting.max_steps, random_state=seed, **parameters
        ).fit(self.base, self.y, self.X)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _library(setting: Setting, task: str, rng: np.random.Generator) -> Library:
    X, y = _draw(task, setting.n_train + setting.n_test, rng)
    train = len(y) * setting.n_train // (setting.n_train + setting.n_test)
    models = default_base_models(setting.levels, random_state=_seed(rng))
    fitted = cross_fit_quantiles(models, X[:train], y[:train], setting.levels, random_state=_seed(rng))
    return Library(
        setting.levels,
        X[:train],
        y[:train],
        fitted.out_of_fold,
        X[train:],
        y[train:],
        fitted.predict(X[train:]),
    )


def _change(y: Array, quantiles: Array, levels: Sequence[float] | Array, method: Any) -> Array:
    """What ordering the quantiles does to the score of each row."""
    after = weighted_interval_score(y, monotonize(quantiles, method), levels)
    return after - weighted_interval_score(y, quantiles, levels)


# ------------------------------------------------------------------------------------------------- trials


def projection(settings: Projection, rng: np.random.Generator) -> Measurements:
    """Change of the score when vectors without any order are put in order, for outcomes as arbitrary."""
    changes: dict[str, list[Array]] = {"sort": [], "isotonic": [], "minmax": []}
    for m in settings.n_levels:
        levels = np.sort(rng.uniform(0.005, 0.995, m))
        y, q = rng.standard_t(3, settings.vectors), rng.standard_t(3, (settings.vectors, m))
        for method, found in changes.items():
            found.append(_change(y, q, levels, method))
    shares = np.linspace(0, 1, 101)
    measurements: dict[str, float | list[float]] = {"shares": shares.tolist()}
    for method, found in changes.items():
        change = np.concatenate(found)
        measurements[f"worst_change_{method}"] = float(change.max())
        measurements[f"changes_{method}"] = np.quantile(change, shares).tolist()
    return measurements


def accuracy(settings: Setting, rng: np.random.Generator) -> Measurements:
    """Scores relative to the uniform average of the library, averaged over the tasks."""
    names = ("local_fine", "median", "chosen_base", "best_base")
    relative = np.empty((len(names), len(settings.tasks)))
    worst_change = -np.inf
    for k, task in enumerate(settings.tasks):
        data, seed = _library(settings, task, rng), _seed(rng)
        model = data.aggregate(settings, seed, **_LOCAL_FINE)
        out_of_fold = [
            weighted_interval_score(data.y, data.base[:, j], data.levels).mean()
            for j in range(data.base.shape[1])
        ]
        scores = [data.score(data.base_new[:, j]) for j in range(data.base.shape[1])]
        relative[:, k] = (
            data.score(model.predict(data.base_new, data.X_new)),
            data.score(np.median(data.base_new, axis=1)),
            scores[int(np.argmin(out_of_fold))],
            min(scores),
        )
        relative[:, k] /= data.score(data.base_new.mean(axis=1))
        raw = model.predict(data.base_new, data.X_new, raw=True)
        for method in ("sort", "isotonic"):
            worst_change = max(worst_change, float(_change(data.y_new, raw, data.levels, method).max()))
    return {
        **{f"relative_wis_{name}": float(relative[i].mean()) for i, name in enumerate(names)},
        "relative_wis_average": 1.0,
        "ratio_to_best_base": float((relative[0] / relative[-1]).mean()),
        "worst_change_of_predictions": worst_change,
    }


def robustness(settings: Setting, rng: np.random.Generator) -> Measurements:
    """The library without and with one more model, the linear one shifted by two standard deviations."""
    scores = np.empty((3, 2, len(settings.tasks)))
    for k, task in enumerate(settings.tasks):
        data, seed = _library(settings, task, rng), _seed(rng)
        shift = 2 * data.y.std()
        spoilt = data.with_model(data.base[:, 0] + shift, data.base_new[:, 0] + shift)
        for i, library in enumerate((data, spoilt)):
            aggregate = library.aggregate(settings, seed, **_LOCAL_FINE)
            scores[:, i, k] = (
                library.score(aggregate.predict(library.base_new, library.X_new)),
                library.score(library.base_new.mean(axis=1)),
                library.score(np.median(library.base_new, axis=1)),
            )
    without, with_bad = scores.mean(axis=2).T
    names = ("aggregate", "average", "median")
    return {
        **{f"wis_{name}": float(without[i]) for i, name in enumerate(names)},
        **{f"wis_{name}_with_bad_model": float(with_bad[i]) for i, name in enumerate(names)},
        "aggregate_ratio": float((scores[0, 1] / scores[0, 0]).mean()),
        "average_ratio": float((scores[1, 1] / scores[1, 0]).mean()),
    }


def flexibility(settings: Setting, rng: np.random.Generator) -> Measurements:
    """Scores of the weights of all six kinds, averaged over the tasks."""
    scores = np.empty((len(_VARIANTS), len(settings.tasks)))
    for k, task in enumerate(settings.tasks):
        data, seed = _library(settings, task, rng), _seed(rng)
        for i, parameters in enumerate(_VARIANTS.values()):
            model = data.aggregate(settings, seed, **parameters)
            scores[i, k] = data.score(model.predict(data.base_new, data.X_new))
    wis = {f"wis_{name}": float(score) for name, score in zip(_VARIANTS, scores.mean(axis=1), strict=True)}
    return {**wis, "wis_best_other": min(score for name, score in wis.items() if name != "wis_local_fine")}


def ordering(settings: Setting, rng: np.random.Generator) -> Measurements:
    """Share of rows whose quantiles cross, before any ordering, without and with the penalty on crossings."""
    data, seed = _library(settings, settings.tasks[0], rng), _seed(rng)
    measurements: dict[str, float | None] = {}
    for name, weight in (("plain", 0.0), ("penalised", 2.0)):
        model = data.aggregate(settings, seed, penalty_weight=weight, **_LOCAL_FINE)
        raw = model.predict(data.base_new, data.X_new, raw=True)
        measurements[f"crossing_rate_{name}"] = float((np.diff(raw) < 0).any(axis=1).mean())
        measurements[f"wis_{name}"] = data.score(model.predict(data.base_new, data.X_new))
    if measurements["crossing_rate_plain"] == 0:
        measurements["crossing_rate_plain"] = None  # nothing for the penalty to mend
    return measurements


def calibration(settings: Calibration, rng: np.random.Generator) -> Measurements:
    """Coverage of an aggregate that trusts its forests too much, for it has seen them on their own rows."""
    n, calibrated = settings.n_train, settings.n_train + settings.n_calibration
    X, y = _draw(settings.tasks[0], calibrated + settings.n_test, rng)
    models = default_base_models(settings.levels, random_state=_seed(rng))
    base = np.stack([model.fit(X[:n], y[:n]).predict(X) for model in models], axis=1)
    aggregate = QuantileAggregator(settings.levels, max_steps=settings.max_steps, random_state=_seed(rng))
    q = aggregate.fit(base[:n], y[:n]).predict(base[n:])
    conformal = ConformalQuantiles(settings.levels).fit(q[: settings.n_calibration], y[n:calibrated])
    new, outcomes = q[settings.n_calibration :], y[calibrated:, None]
    levels, pairs = np.array(settings.levels), len(settings.levels) // 2
    nominal = 1 - 2 * levels[:pairs]
    measurements: dict[str, float | list[float]] = {"nominal": nominal.tolist()}
    for name, quantiles in (("before", new), ("after", conformal.predict(new))):
        inside = (quantiles[:, :pairs] <= outcomes) & (outcomes <= quantiles[:, : -pairs - 1 : -1])
        coverage = inside.mean(axis=0)
        measurements[f"coverage_{name}"] = coverage.tolist()
        measurements[f"coverage_error_{name}"] = float(np.abs(coverage - nominal).mean())
    return measurements


# ------------------------------------------------------------------------------------------------ figures


def _columns(rows: Sequence[Measurements], labels: Mapping[str, str], ylabel: str) -> Figure:
    figure, axes = figures.axes("", ylabel)
    columns = {label: figures.values(rows, name) for name, label in labels.items()}
    figures.dots(axes, columns, paired=True)
    return figure


def draw_projection(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("share of the random vectors", "change of the weighted interval score")
    shares = figures.curves(rows, "shares")[0]
    for method, colour, label in (
        ("minmax", "tab:orange", "min-max sweep"),
        ("isotonic", "tab:green", "isotonic projection"),
        ("sort", "tab:blue", "sorting"),
    ):
        changes = figures.curves(rows, f"changes_{method}")
        axes.plot(shares, changes.T, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(shares, np.median(changes, axis=0), color=colour, label=f"{label}, median")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1)
    axes.legend(frameon=False)
    return figure


def draw_accuracy(rows: Sequence[Measurements]) -> Figure:
    labels = {
        "relative_wis_local_fine": "local fine",
        "relative_wis_median": "median",
        "relative_wis_chosen_base": "best base\n(out of fold)",
        "relative_wis_best_base": "best base\n(hindsight)",
    }
    figure = _columns(rows, labels, "weighted interval score / that of the average")
    figure.axes[0].axhline(1, color="black", linewidth=0.8, linestyle=":")
    return figure


def draw_robustness(rows: Sequence[Measurements]) -> Figure:
    labels = {
        f"wis_{name}{suffix}": f"{name}{label}"
        for name in ("aggregate", "median", "average")
        for suffix, label in (("", ""), ("_with_bad_model", "\n+ bad model"))
    }
    return _columns(rows, labels, "weighted interval score")


def draw_flexibility(rows: Sequence[Measurements]) -> Figure:
    labels = {f"wis_{name}": name.replace("_", "\n") for name in _VARIANTS}
    return _columns(rows, labels, "weighted interval score")


def draw_ordering(rows: Sequence[Measurements]) -> Figure:
    labels = {"crossing_rate_plain": "without penalty", "crossing_rate_penalised": "with penalty"}
    crossing = [row for row in rows if row["crossing_rate_plain"] is not None]
    figure = _columns(crossing, labels, "share of rows with crossing quantiles")
    figure.axes[0].set_ylim(bottom=0)
    return figure


def draw_calibration(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("nominal coverage of the interval", "coverage of new outcomes")
    nominal = figures.curves(rows, "nominal")[0]
    for name, colour in (("before", "tab:orange"), ("after", "tab:blue")):
        coverage = figures.curves(rows, f"coverage_{name}")
        axes.plot(nominal, coverage.T, color=colour, alpha=0.25, linewidth=0.8)
        label = f"{name} calibration, median"
        axes.plot(nominal, np.median(coverage, axis=0), "o-", color=colour, label=label)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    axes.legend(frameon=False)
    return figure


_ALL_TASKS = tuple(_GENERATED)
_THEOREM = Published("never worse, for any outcome and quantiles", "theorem, and abstract")
_BEST_ON_AVERAGE = Published("local fine weights best on average over 34 data sets, 5 splits", "experiments")

STUDY = Study(
    slug="quantile_aggregation",
    experiments=(
        Experiment(
            name="projection",
            trial=projection,
            scales={"quick": Projection(), "full": Projection(n_levels=(3, 7, 11, 23, 99), vectors=200_000)},
            claims=tuple(
                Claim(
                    f"{method}_improves",
                    f"never worsens the weighted interval score by {label}",
                    at_most(f"worst_change_{method}", 1e-10),
                    published=_THEOREM,
                )
                for method, label in (("sort", "sorting"), ("isotonic", "isotonic projection"))
            ),
            figure=draw_projection,
        ),
        Experiment(
            name="accuracy",
            trial=accuracy,
            scales={
                "quick": Setting(tasks=_ALL_TASKS),
                "larger": Setting(tasks=_ALL_TASKS, n_train=2000, n_test=2000, max_steps=5000),
                "full": Setting(
                    tasks=_OPENML,
                    n_train=18_000,
                    n_test=2000,
                    levels=tuple(k / 100 for k in range(1, 100)),
                    max_steps=20_000,
                ),
            },
            claims=(
                Claim(
                    "beats_the_average",
                    "beats the uniform average of the models by at least 2 % with local fine weights",
                    better(
                        "relative_wis_local_fine", than="relative_wis_average", lower=True, factor=1 / 0.98
                    ),
                    published=_BEST_ON_AVERAGE,
                ),
                Claim(
                    "matches_the_best_model",
                    "is within 2 % of whichever model turns out best, or better",
                    at_most("ratio_to_best_base", 1.02),
                    published=_BEST_ON_AVERAGE,
                ),
                Claim(
                    "ordering_improves_predictions",
                    "never worsens a prediction by sorting or isotonic projection",
                    at_most("worst_change_of_predictions", 1e-10),
                    published=_THEOREM,
                ),
            ),
            figure=draw_accuracy,
        ),
        Experiment(
            name="robustness",
            trial=robustness,
            scales={
                "quick": Setting(tasks=("switch", "hetero")),
                "larger": Setting(tasks=_ALL_TASKS, n_train=2000, n_test=2000, max_steps=5000),
            },
            claims=(
                Claim(
                    "withstands_a_bad_model_better_than_the_average",
                    "is at least 20 % better than the average of a library that holds a worthless model",
                    better(
                        "wis_aggregate_with_bad_model",
                        than="wis_average_with_bad_model",
                        lower=True,
                        factor=1.25,
                    ),
                    published=Published("improved robustness", "abstract"),
                ),
                Claim(
                    "withstands_a_bad_model_better_than_the_median",
                    "is better than the entrywise median of such a library",
                    better("wis_aggregate_with_bad_model", than="wis_median_with_bad_model", lower=True),
                    published=Published("improved robustness", "abstract"),
                ),
                Claim(
                    "unharmed_by_a_bad_model",
                    "loses at most 5 % by the worthless model",
                    at_most("aggregate_ratio", 1.05),
                    published=Published("improved robustness", "abstract"),
                ),
            ),
            figure=draw_robustness,
        ),
        Experiment(
            name="flexibility",
            trial=flexibility,
            scales={
                "quick": Setting(),
                "larger": Setting(tasks=_ALL_TASKS, n_train=2000, n_test=2000, max_steps=5000),
            },
            claims=(
                Claim(
                    "finer_is_better",
                    "gains by weights for each level over one weight a model, both the same for all rows",
                    better("wis_global_fine", than="wis_global_coarse", lower=True),
                    published=_BEST_ON_AVERAGE,
                ),
                Claim(
                    "local_is_better",
                    "gains by fine weights that depend on the features over fine weights that do not",
                    better("wis_local_fine", than="wis_global_fine", lower=True),
                    published=_BEST_ON_AVERAGE,
                ),
                Claim(
                    "local_fine_is_best",
                    "is best of all six kinds of weights with local fine ones",
                    better("wis_local_fine", than="wis_best_other", lower=True),
                    published=_BEST_ON_AVERAGE,
                ),
            ),
            figure=draw_flexibility,
        ),
        Experiment(
            name="ordering",
            trial=ordering,
            scales={"quick": Setting(), "larger": Setting(n_train=2000, n_test=2000, max_steps=5000)},
            claims=(
                Claim(
                    "penalty_lowers_crossings",
                    "predicts crossing quantiles for fewer rows when trained with the crossing penalty",
                    better("crossing_rate_penalised", than="crossing_rate_plain", lower=True),
                ),
            ),
            figure=draw_ordering,
        ),
        Experiment(
            name="calibration",
            trial=calibration,
            scales={
                "quick": Calibration(),
                "larger": Calibration(n_train=2000, n_calibration=2000, n_test=10_000, max_steps=5000),
            },
            claims=(
                Claim(
                    "conformal_restores_coverage",
                    "covers as often as it says, to 0.03 on average over the intervals, and closer than "
                    "before, once calibrated conformally",
                    all_of(
                        at_most("coverage_error_after", 0.03),
                        better("coverage_error_after", than="coverage_error_before", lower=True),
                    ),
                ),
            ),
            figure=draw_calibration,
        ),
    ),
)
