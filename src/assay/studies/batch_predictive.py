"""Batch predictive inference put to the test: coverage, exactness, cost, few scores, selection.

Coverages are shares over repeated draws of calibration and test scores. A guarantee holds in a trial if no
share falls more than three standard errors short of what is guaranteed; for the mean, more than 0.02.

The partition of the calibration set, where its bound is finite, may bound the *mean* of a batch more tightly
than the method does: `small_calibration` measures and draws this too, though no claim speaks of it.

The scale "drug_targets" of `real_residuals` reads y_test.txt and muhat_test.txt from a copy of the authors'
repository, github.com/yhoon31/batch-PI, in the folder `data_folder`. The scales "full" have the sizes of the
paper. None of these is part of the recorded evidence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor

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
    figures,
)
from assay.inference.batch_predictive import (
    BatchScore,
    baseline_interval,
    batch_interval,
    order_statistic_interval,
    select_test_points,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_STANDARD_ERRORS = 3.0
_LEVELS = (0.05, 0.1, 0.2)
_PAPER_LEVELS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2)


def _excess(rate: float, guaranteed: float, draws: int) -> float:
    """By how many standard errors a share of the draws exceeds the one guaranteed."""
    return (rate - guaranteed) / math.sqrt(guaranteed * (1 - guaranteed) / draws)


def _least_excess(rates: Array, alphas: Sequence[float], draws: int) -> float:
    return min(_excess(rate, 1 - alpha, draws) for rate, alpha in zip(rates.tolist(), alphas, strict=True))


def _forest(trees: int, X: Array, y: Array, rng: np.random.Generator) -> RandomForestRegressor:
    """A regression forest much like that of R's randomForest by default, which the authors use."""
    forest = RandomForestRegressor(
        trees, max_features=1 / 3, min_samples_leaf=5, random_state=int(rng.integers(2**31))
    )
    return forest.fit(X, y)


# --- Simultaneous prediction sets --------------------------------------------------------------------


@dataclass(frozen=True)
class ForestResiduals:
    """Residuals of a random forest; `missed` is the share of the batch that may lie outside."""

    n_calibration: int = 200
    n_test: int = 100
    missed: float = 0.1
    alphas: tuple[float, ...] = (0.1, 0.05, 0.01)
    draws: int = 500
    features: int = 20
    n_train: int = 200
    trees: int = 100


@dataclass(frozen=True)
class RealResiduals:
    """Residuals of real data, cut anew in each draw; of the diabetes data unless `data_folder` is given."""

    n_calibration: int = 100
    n_test: int = 40
    missed: float = 0.1
    alphas: tuple[float, ...] = (0.1, 0.05, 0.2)
    draws: int = 500
    n_train: int = 142
    trees: int = 100
    data_folder: str = ""


def _simultaneous(
    settings: ForestResiduals | RealResiduals, scores: Array, test_scores: Array
) -> Measurements:
    """How often each bound holds 1 - missed of the batch; rows of the scores are draws."""
    order = math.ceil((1 - settings.missed) * settings.n_test - 1e-9)
    split = np.array(
        [order_statistic_interval(row, 1, 1, settings.missed, side="upper").upper for row in scores]
    )
    bounds = np.array(
        [
            [
                order_statistic_interval(row, settings.n_test, order, alpha, side="upper").upper
                for row in scores
            ]
            for alpha in settings.alphas
        ]
    )
    # The order statistic and not the share is compared: 0.9 is not exact in binary.
    rank_score = np.sort(test_scores, axis=1)[:, order - 1]
    rates = (rank_score <= bounds).mean(axis=1)
    return {
        "pac_excess": _least_excess(rates, settings.alphas, settings.draws),
        "batch_pac_rate": float(rates[0]),
        "split_pac_rate": float((rank_score <= split).mean()),
        "batch_mean_coverage": float((test_scores <= bounds[0][:, None]).mean()),
        "split_mean_coverage": float((test_scores <= split[:, None]).mean()),
        "batch_bound": float(np.median(bounds[0])),
        "split_bound": float(np.median(split)),
        "levels": [1 - alpha for alpha in settings.alphas],
        "batch_pac_rates": rates.tolist(),
    }


def forest_residuals(settings: ForestResiduals, rng: np.random.Generator) -> Measurements:
    centre = rng.uniform(-2, 2, settings.features)
    linear, quadratic, spread = (rng.uniform(-a, a, settings.features) for a in (1, 0.2, 0.6))

    def draw(count: int) -> tuple[Array, Array]:
        X = centre + math.sqrt(5) * rng.normal(size=(count, settings.features))
        return X, X @ linear + (X @ quadratic) ** 2 + np.abs(X @ spread) * rng.normal(size=count)

    forest = _forest(settings.trees, *draw(settings.n_train), rng)
    X, y = draw(settings.draws * (settings.n_calibration + settings.n_test))
    scores = np.abs(y - forest.predict(X)).reshape(settings.draws, -1)
    return _simultaneous(settings, scores[:, : settings.n_calibration], scores[:, settings.n_calibration :])


def _real_scores(settings: RealResiduals, rng: np.random.Generator) -> Array:
    if settings.data_folder:
        outcomes, predictions = (
            np.loadtxt(Path(settings.data_folder) / name) for name in ("y_test.txt", "muhat_test.txt")
        )
    else:
        X, y = load_diabetes(return_X_y=True)
        order = rng.permutation(len(y))
        train, rest = order[: settings.n_train], order[settings.n_train :]
        outcomes, predictions = y[rest], _forest(settings.trees, X[train], y[train], rng).predict(X[rest])
    residuals: Array = np.abs(outcomes - predictions)
    return residuals


def real_residuals(settings: RealResiduals, rng: np.random.Generator) -> Measurements:
    pool = _real_scores(settings, rng)
    n, m = settings.n_calibration, settings.n_test
    drawn = np.array([rng.choice(pool, n + m, replace=False) for _ in range(settings.draws)])
    return _simultaneous(settings, drawn[:, :n], drawn[:, n:])


# --- The mean ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanCoverage:
    """Beta scores of these shapes; the bound knows only that a score is at most 1."""

    n_calibration: int = 40
    n_test: int = 10
    shapes: tuple[tuple[float, float], ...] = ((1.0, 1.0), (0.5, 0.5), (1.5, 1.5), (1.0, 8.0))
    alphas: tuple[float, ...] = _LEVELS
    draws: int = 400


def mean_coverage(settings: MeanCoverage, rng: np.random.Generator) -> Measurements:
    score = BatchScore.mean(settings.n_test)
    rates = np.zeros((len(settings.shapes), len(settings.alphas)))
    for row, (a, b) in zip(rates, settings.shapes, strict=True):
        for _ in range(settings.draws):
            scores = rng.beta(a, b, settings.n_calibration)
            mean = rng.beta(a, b, settings.n_test).mean()
            row += [
                mean <= batch_interval(scores, settings.n_test, score, alpha, side="upper", upper=1).upper
                for alpha in settings.alphas
            ]
    rates /= settings.draws
    above = rates - (1 - np.array(settings.alphas))
    return {
        "worst_coverage_minus_nominal": float(above.min()),
        "mean_coverage_minus_nominal": float(above.mean()),
        "levels": [1 - alpha for alpha in settings.alphas],
        **{
            f"coverage_beta_{a:g}_{b:g}": row.tolist()
            for (a, b), row in zip(settings.shapes, rates, strict=True)
        },
    }


# --- The dynamic program -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Exactness:
    """Random cases, small enough to try all rank vectors; half of them means, half L-statistics."""

    cases: int = 30
    most_calibration: int = 7
    most_test: int = 4


def _enumerated(calibration: Array, weights: Array, rank_weights: NDArray[np.int64], alpha: float) -> Array:
    """Lower bound, upper bound and coverage from all rank vectors, for scores in [0, 1]."""
    padded = np.concatenate(([0.0], np.sort(calibration), [1.0]))
    ranks = np.array(list(combinations_with_replacement(range(1, padded.size), weights.size)))
    h = ranks @ rank_weights
    least = max(v for v in np.unique(h) if (h >= v).mean() >= 1 - alpha / 2 - 1e-12)
    most = min(v for v in np.unique(h) if (h <= v).mean() >= 1 - alpha / 2 - 1e-12)
    region = (least <= h) & (h <= most)
    lowest, highest = (padded[ranks[region] - 1] @ weights).min(), (padded[ranks[region]] @ weights).max()
    return np.array([lowest, highest, region.mean()])


def exactness(settings: Exactness, rng: np.random.Generator) -> Measurements:
    error = 0.0
    for case in range(settings.cases):
        n = int(rng.integers(1, settings.most_calibration + 1))
        m = int(rng.integers(1, settings.most_test + 1))
        calibration, alpha = rng.random(n), rng.uniform(0.05, 0.5)
        if case % 2:
            weights, rank_weights = rng.random(m), rng.integers(1, 4, m)
            score = BatchScore.l_statistic(weights, rank_weights)
        else:
            weights, rank_weights = np.full(m, 1 / m), np.ones(m, dtype=np.int64)
            score = BatchScore.mean(m)
        interval = batch_interval(calibration, m, score, alpha, lower=0, upper=1)
        found = np.array([interval.lower, interval.upper, interval.coverage])
        error = max(
            error, float(np.abs(found - _enumerated(calibration, weights, rank_weights, alpha)).max())
        )
    return {"largest_error": error}


@dataclass(frozen=True)
class Cost:
    """Batch sizes at which the mean, and a weighted mean by the general program, are timed."""

    n_mean: int = 100
    mean_sizes: tuple[int, ...] = (10, 20, 40, 80)
    n_general: int = 40
    general_sizes: tuple[int, ...] = (5, 10, 20, 40)
    repeats: int = 5


def _least_seconds(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _slope(sizes: Sequence[int], logarithms: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), logarithms, 1)[0])


def cost(settings: Cost, rng: np.random.Generator) -> Measurements:
    def seconds(score: BatchScore, n: int) -> float:
        scores = rng.random(n)
        return _least_seconds(
            lambda: batch_interval(scores, score.n_test, score, 0.1, side="upper", upper=1), settings.repeats
        )

    seconds(BatchScore.mean(3), 5)  # compiles
    mean = [seconds(BatchScore.mean(m), settings.n_mean) for m in settings.mean_sizes]
    general = [
        seconds(BatchScore.l_statistic(np.arange(1, m + 1) / m), settings.n_general)
        for m in settings.general_sizes
    ]
    vectors = [math.log(math.comb(settings.n_mean + m, m)) for m in settings.mean_sizes]
    return {
        "slope_mean": _slope(settings.mean_sizes, np.log(mean).tolist()),
        "slope_general": _slope(settings.general_sizes, np.log(general).tolist()),
        "slope_rank_vectors": _slope(settings.mean_sizes, vectors),
        "sizes_mean": [float(m) for m in settings.mean_sizes],
        "seconds_mean": mean,
        "sizes_general": [float(m) for m in settings.general_sizes],
        "seconds_general": general,
    }


# --- Small calibration sets --------------------------------------------------------------------------

_CALIBRATION_SIZES = (40, 100, 200)


@dataclass(frozen=True)
class SmallCalibration:
    """The lower median of a batch of normal scores; `mean_draws` are for the mean of uniform ones."""

    n_test: int = 10
    alpha: float = 0.1
    draws: int = 1500
    mean_draws: int = 200


def small_calibration(settings: SmallCalibration, rng: np.random.Generator) -> Measurements:
    m, alpha = settings.n_test, settings.alpha
    order = (m + 1) // 2
    median = BatchScore.l_statistic(np.arange(1, m + 1) == order)
    measured: dict[str, float | None] = {}
    for n in _CALIBRATION_SIZES:
        scores = rng.normal(size=(settings.draws, n))
        test_medians = np.sort(rng.normal(size=(settings.draws, m)), axis=1)[:, order - 1]
        for method, bounds in {
            "batch": [order_statistic_interval(row, m, order, alpha, side="upper").upper for row in scores],
            "partition": [baseline_interval(row, m, median, alpha).upper for row in scores],
            "subsets": [baseline_interval(row, m, median, alpha, method="subsets").upper for row in scores],
        }.items():
            finite = bool(np.isfinite(bounds).all())
            measured[f"{method}_finite_rate_{n}"] = float(np.isfinite(bounds).mean())
            measured[f"{method}_coverage_{n}"] = float((test_medians <= bounds).mean())
            measured[f"{method}_bound_{n}"] = float(np.mean(bounds)) if finite else None
            measured[f"{method}_bound_std_{n}"] = float(np.std(bounds)) if finite else None

    n, mean = _CALIBRATION_SIZES[-1], BatchScore.mean(m)
    uniform = rng.random((settings.mean_draws, n))
    batch = [batch_interval(row, m, mean, alpha, side="upper", upper=1).upper for row in uniform]
    partition = [baseline_interval(row, m, mean, alpha, upper=1).upper for row in uniform]
    return measured | {
        "batch_bound_of_mean": float(np.mean(batch)),
        "partition_bound_of_mean": float(np.mean(partition)),
    }


# --- Selection ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FalseClaims:
    """Numbers of false claims allowed, `etas`; by a linear predictor, or a forest if it has trees."""

    n_calibration: int = 1000
    n_test: int = 100
    alpha: float = 0.1
    etas: tuple[int, ...] = (0, 2, 5, 10)
    power_eta: int = 5
    draws: int = 600
    features: int = 20
    n_train: int = 500
    trees: int = 0


def _predicted(settings: FalseClaims, rng: np.random.Generator) -> tuple[Array, Array, float]:
    """Predictions and outcomes, a row for each draw, and the threshold of the claim."""
    count = settings.draws * (settings.n_calibration + settings.n_test)
    if settings.trees:
        centre = rng.uniform(-2, 2, settings.features)
        slopes = rng.uniform(-1, 1, settings.features)

        def draw(count: int) -> tuple[Array, Array]:
            X = centre + math.sqrt(5) * rng.normal(size=(count, settings.features))
            return X, np.logaddexp(0, X @ slopes + 5 * rng.normal(size=count))

        forest = _forest(settings.trees, *draw(settings.n_train), rng)
        X, y = draw(count)
        predictions, threshold = forest.predict(X), 5.0
    else:
        predictions = 1.5 * rng.normal(size=count)
        y, threshold = predictions + rng.normal(size=count), 1.0
    return predictions.reshape(settings.draws, -1), y.reshape(settings.draws, -1), threshold


def _by_p_values(scores: Array, candidates: Array, level: float) -> NDArray[np.bool_]:
    """Claims of the points whose conformal p-value is at most `level`."""
    larger = scores.size - np.searchsorted(np.sort(scores), candidates)
    return (1 + larger) / (scores.size + 1) <= level


def false_claims(settings: FalseClaims, rng: np.random.Generator) -> Measurements:
    n, m, alpha = settings.n_calibration, settings.n_test, settings.alpha
    all_predictions, all_outcomes, threshold = _predicted(settings, rng)
    # (draws, methods, etas): false and true claims of the method and of Bonferroni's p-values.
    false, true = np.zeros((2, settings.draws, 2, len(settings.etas)))
    for draw, (predictions, outcomes) in enumerate(zip(all_predictions, all_outcomes, strict=True)):
        is_true = outcomes[n:] > threshold
        scores = np.where(outcomes[:n] > threshold, -np.inf, predictions[:n])
        for k, eta in enumerate(settings.etas):
            selection = select_test_points(
                predictions[:n], outcomes[:n], predictions[n:], threshold, alpha, max_false=eta
            )
            # By Markov's inequality this level, too, keeps P(#false > eta) to alpha.
            by_p_values = _by_p_values(scores, predictions[n:], alpha * (eta + 1) / m)
            for method, claimed in enumerate((selection.selected, by_p_values)):
                false[draw, method, k] = (claimed & ~is_true).sum()
                true[draw, method, k] = (claimed & is_true).sum()
    rates = (false > settings.etas).mean(axis=0)
    power = true.mean(axis=0)
    at = settings.etas.index(settings.power_eta)
    return {
        "worst_rate": float(rates[0].max()),
        "worst_excess": max(_excess(rate, alpha, settings.draws) for rate in rates[0].tolist()),
        "power_batch": float(power[0, at]),
        "power_p_values": float(power[1, at]),
        "etas": [float(eta) for eta in settings.etas],
        "rates_batch": rates[0].tolist(),
        "rates_p_values": rates[1].tolist(),
        "powers_batch": power[0].tolist(),
        "powers_p_values": power[1].tolist(),
    }


# --- Counterfactuals ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterfactual:
    """What the treated would have had untreated, from untreated people thinned to resemble them."""

    population: int = 1000
    features: int = 20
    n_calibration: int = 200
    n_test: int = 40
    n_mean_calibration: int = 100
    n_mean_test: int = 5
    alphas: tuple[float, ...] = _LEVELS
    draws: int = 500


_TARGETS = ("median", "quartiles", "mean")


def counterfactual(settings: Counterfactual, rng: np.random.Generator) -> Measurements:
    treatment = rng.uniform(-0.2, 0, settings.features)
    effect = rng.uniform(0, 1, settings.features) / settings.features
    m, m_mean = settings.n_test, settings.n_mean_test
    first, middle, third = m // 4, m // 2, 3 * m // 4
    score = BatchScore.mean(m_mean)
    hits = np.zeros((len(_TARGETS), len(settings.alphas)))
    for _ in range(settings.draws):
        X = rng.random((settings.population, settings.features))
        odds = np.exp(X @ treatment)  # of treatment: at most 1, so that they serve as probabilities
        treated = rng.random(settings.population) < odds / (1 + odds)
        outcome = rng.beta(1 + X @ effect, 1 - X @ effect)  # of everyone, had nobody been treated
        accepted = rng.random(settings.population) < odds
        scores, mean_scores = (
            outcome[untreated[accepted[untreated]]]
            for count in (settings.n_calibration, settings.n_mean_calibration)
            for untreated in [np.flatnonzero(~treated)[:count]]
        )
        unseen = outcome[treated]
        batch, mean = np.sort(unseen[:m]), unseen[:m_mean].mean()
        for k, alpha in enumerate(settings.alphas):
            median = order_statistic_interval(scores, m, middle, alpha, lower=0, upper=1)
            quartiles = order_statistic_interval(scores, m, (first, third), alpha, lower=0, upper=1)
            bound = batch_interval(mean_scores, m_mean, score, alpha, side="upper", upper=1).upper
            hits[0, k] += median.lower <= batch[middle - 1] <= median.upper
            hits[1, k] += quartiles.lower <= batch[first - 1] and batch[third - 1] <= quartiles.upper
            hits[2, k] += mean <= bound
    rates = dict(zip(_TARGETS, hits / settings.draws, strict=True))
    return {
        "levels": [1 - alpha for alpha in settings.alphas],
        **{
            f"{name}_excess": _least_excess(row, settings.alphas, settings.draws)
            for name, row in rates.items()
        },
        **{f"{name}_rates": row.tolist() for name, row in rates.items()},
    }


# --- Figures -----------------------------------------------------------------------------------------


def _draw_trials(axes: Any, x: Array, y: Array, colour: str, label: str) -> None:
    """Every trial as a pale dot, and the line of their medians; rows are trials."""
    axes.plot(x.T, y.T, ".", color=colour, alpha=0.35)
    axes.plot(x[0], np.median(y, axis=0), "-", color=colour, label=label)


def _draw_rates(rows: Sequence[Measurements], names: dict[str, str], ylabel: str) -> tuple[Figure, Any]:
    """Measured against guaranteed rates, with the line where they are equal."""
    figure, (axes,) = figures.panels(1)
    levels = figures.curves(rows, "levels")
    order = np.argsort(levels[0])
    for index, (name, label) in enumerate(names.items()):
        _draw_trials(axes, levels[:, order], figures.curves(rows, name)[:, order], f"C{index}", label)
    ends = [levels.min(), levels.max()]
    axes.plot(ends, ends, "--", color="0.5", label="guaranteed")
    axes.set(xlabel="guaranteed probability 1 − α", ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def draw_simultaneous(rows: Sequence[Measurements]) -> Figure:
    names = {"batch_pac_rates": "batch predictive inference"}
    figure, axes = _draw_rates(rows, names, "share of batches that are 90 % covered")
    axes.axhline(np.median(figures.curves(rows, "split_pac_rate")), color="C3", label="split conformal")
    axes.legend()
    return figure


def draw_mean_coverage(rows: Sequence[Measurements]) -> Figure:
    names = {
        name: f"Beta({', '.join(name.split('_')[2:])})" for name in rows[0] if name.startswith("coverage_")
    }
    figure, axes = _draw_rates(rows, names, "share of batch means below the bound")
    axes.legend()
    return figure


def draw_counterfactual(rows: Sequence[Measurements]) -> Figure:
    figure, axes = _draw_rates(rows, {f"{name}_rates": name for name in _TARGETS}, "coverage")
    axes.legend()
    return figure


def draw_cost(rows: Sequence[Measurements]) -> Figure:
    figure, (axes,) = figures.panels(1)
    for index, (name, label) in enumerate((("mean", "mean"), ("general", "general program"))):
        seconds, sizes = figures.curves(rows, f"seconds_{name}"), figures.curves(rows, f"sizes_{name}")
        _draw_trials(axes, sizes, seconds, f"C{index}", label)
    axes.set(xscale="log", yscale="log", xlabel="batch size m", ylabel="seconds for an upper bound")
    ticks = sorted(
        {int(size) for kind in ("mean", "general") for size in figures.curves(rows, f"sizes_{kind}")[0]}
    )
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def draw_small_calibration(rows: Sequence[Measurements]) -> Figure:
    figure, (median, mean) = figures.panels(2)
    for index, method in enumerate(("batch", "partition")):
        colour, shift = f"C{index}", (index - 0.5) * 8
        for n in _CALIBRATION_SIZES:
            bound, deviation = (
                float(np.median(figures.curves(rows, f"{method}_{name}_{n}")))
                for name in ("bound", "bound_std")
            )
            if math.isfinite(bound):
                label = method if n == _CALIBRATION_SIZES[-1] else None
                median.errorbar(n + shift, bound, deviation, fmt="o", color=colour, capsize=4, label=label)
            else:
                median.text(n + shift, 0.3, "no bound", color=colour, rotation=90, ha="center")
        values = figures.curves(rows, f"{method}_bound_of_mean")
        mean.plot(np.full(values.size, index), values, "o", color=colour, alpha=0.5)
    median.set(xlabel="calibration scores n", ylabel="upper bound (± its deviation)")
    median.set(title="median of 10 normal scores", xticks=_CALIBRATION_SIZES)
    median.legend()
    mean.set(title="mean of 10 uniform scores", ylabel="upper bound")
    mean.set(xlabel=f"with {_CALIBRATION_SIZES[-1]} calibration scores")
    mean.set(xlim=(-0.5, 1.5), xticks=[0, 1], xticklabels=["batch", "partition"])
    return figure


def draw_false_claims(rows: Sequence[Measurements]) -> Figure:
    figure, (rate, power) = figures.panels(2)
    etas = figures.curves(rows, "etas")
    for index, (method, label) in enumerate((("batch", "batch"), ("p_values", "Bonferroni"))):
        _draw_trials(rate, etas, figures.curves(rows, f"rates_{method}"), f"C{index}", label)
        _draw_trials(power, etas, figures.curves(rows, f"powers_{method}"), f"C{index}", label)
    rate.axhline(0.1, linestyle="--", color="0.5", label="guaranteed")
    rate.set(xlabel="false claims allowed, η", ylabel="share of batches with more than η false claims")
    power.set(xlabel="false claims allowed, η", ylabel="true claims per batch")
    for axes in (rate, power):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


# --- The study ---------------------------------------------------------------------------------------


def _covers(name: str, sentence: str, measurement: str, published: Published | None = None) -> Claim:
    return Claim(name, sentence, at_least(measurement, -_STANDARD_ERRORS), published)


_FOUR_ONE = "section 4.1: n = 200, m = 100, random-forest residuals, 500 trials"
_FOUR_TWO = "section 4.2: n = 1000, m = 100, 500 trials"
_FOUR_THREE = "section 4.3: 500 trials, α from 0.05 to 0.2"

STUDY = Study(
    slug="batch_predictive",
    experiments=(
        Experiment(
            name="forest_residuals",
            trial=forest_residuals,
            scales={"quick": ForestResiduals(), "full": ForestResiduals(trees=500)},
            claims=(
                _covers(
                    "pac_coverage",
                    "covers 90 % of a batch with probability 1 - α, whether α is 0.1, 0.05 or 0.01",
                    "pac_excess",
                    Published("at least 0.9, 0.95 and 0.99", _FOUR_ONE),
                ),
                Claim(
                    "split_conformal_falls_short",
                    "covers 90 % of a batch far more often than split conformal prediction at level 0.9",
                    better("batch_pac_rate", than="split_pac_rate", lower=False, by=0.2),
                    Published("0.9 guaranteed against no guarantee", _FOUR_ONE),
                ),
            ),
            figure=draw_simultaneous,
        ),
        Experiment(
            name="real_residuals",
            trial=real_residuals,
            scales={
                "quick": RealResiduals(),
                "drug_targets": RealResiduals(
                    n_calibration=500,
                    n_test=100,
                    alphas=(0.1, 0.05, 0.15, 0.2, 0.25, 0.3),
                    draws=160,
                    data_folder="batch-PI",
                ),
            },
            claims=(
                _covers(
                    "pac_coverage",
                    "covers 90 % of a batch of real residuals with probability 1 - α for every α",
                    "pac_excess",
                    Published("coverage of at least 1 - α", "section 5: drug targets, α from 0.05 to 0.3"),
                ),
            ),
            figure=draw_simultaneous,
        ),
        Experiment(
            name="mean_coverage",
            trial=mean_coverage,
            scales={
                "quick": MeanCoverage(),
                "full": MeanCoverage(
                    shapes=((1.0, 1.0), (0.8, 0.8), (0.5, 0.5), (1.2, 1.2), (1.5, 1.5), (1.0, 8.0)),
                    alphas=_PAPER_LEVELS,
                    draws=500,
                ),
            },
            claims=(
                Claim(
                    "mean_coverage",
                    "bounds the mean of a batch with probability 1 - α, whatever the law of the scores",
                    at_least("worst_coverage_minus_nominal", -0.02),
                    Published("coverage of at least 1 - α", "500 trials, n = 40, m = 10, Beta scores"),
                ),
            ),
            figure=draw_mean_coverage,
        ),
        Experiment(
            name="exactness",
            trial=exactness,
            scales={"quick": Exactness(), "larger": Exactness(most_calibration=12, most_test=6)},
            claims=(
                Claim(
                    "exact",
                    "finds the exact optimum over all rank vectors by dynamic programming",
                    at_most("largest_error", 1e-10),
                ),
            ),
        ),
        Experiment(
            name="cost",
            trial=cost,
            scales={
                "quick": Cost(),
                "full": Cost(
                    n_mean=1000, mean_sizes=(40, 80, 160, 300), n_general=60, general_sizes=(10, 20, 40, 60)
                ),
            },
            claims=(
                Claim(
                    "polynomial_cost",
                    "takes time that is polynomial in the size of the batch, though the rank vectors grow "
                    "exponentially in number",
                    all_of(at_most("slope_mean", 2.6), at_most("slope_general", 2.6)),
                ),
            ),
            figure=draw_cost,
            exclusive=True,
        ),
        Experiment(
            name="small_calibration",
            trial=small_calibration,
            scales={"quick": SmallCalibration(), "full": SmallCalibration(draws=10_000, mean_draws=2000)},
            claims=(
                Claim(
                    "informative_with_few_scores",
                    "bounds the median of ten scores from 40 calibration scores, where partitioning the "
                    "calibration set and counting all subsets give no bound at all",
                    all_of(
                        at_least("batch_finite_rate_40", 1.0),
                        at_most("partition_finite_rate_40", 0.0),
                        at_most("subsets_finite_rate_40", 0.0),
                    ),
                    Published("informative even with small calibration sets", "abstract"),
                ),
                Claim(
                    "steadier_than_partition",
                    "gives a bound that varies a fifth less than that of partitioning, when that is finite",
                    better("batch_bound_std_200", than="partition_bound_std_200", lower=True, factor=1.25),
                ),
            ),
            figure=draw_small_calibration,
        ),
        Experiment(
            name="false_claims",
            trial=false_claims,
            scales={"quick": FalseClaims(), "full": FalseClaims(draws=500, trees=500)},
            claims=(
                Claim(
                    "false_claims_are_controlled",
                    "selects so that more than η claims are false with probability at most 0.1, for η from "
                    "0 to 10",
                    at_most("worst_excess", _STANDARD_ERRORS),
                    Published("at most 0.1", _FOUR_TWO),
                ),
                Claim(
                    "more_true_claims_than_bonferroni",
                    "makes 30 % more true claims than conformal p-values with Bonferroni's correction if "
                    "five may be false",
                    better("power_batch", than="power_p_values", lower=False, factor=1.3),
                ),
            ),
            figure=draw_false_claims,
        ),
        Experiment(
            name="counterfactual",
            trial=counterfactual,
            scales={"quick": Counterfactual(), "full": Counterfactual(alphas=_PAPER_LEVELS)},
            claims=tuple(
                _covers(
                    f"counterfactual_{name}",
                    f"covers {what} of the treated, had they been untreated, with probability 1 - α",
                    f"{name}_excess",
                    Published("coverage of at least 1 - α", f"{_FOUR_THREE}, {sizes}"),
                )
                for name, what, sizes in (
                    ("median", "the median outcome", "n = 200, m = 40"),
                    ("quartiles", "both quartiles of the outcome", "n = 200, m = 40"),
                    ("mean", "the mean outcome", "n = 100, m = 5"),
                )
            ),
            figure=draw_counterfactual,
        ),
    ),
)
