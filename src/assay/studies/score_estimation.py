"""Score estimation by gradient descent put to the test: the regression, the kernel path, and when to stop.

The data are three Gaussians in the plane, means on the unit circle, of standard deviation 0.1 and cut off
at three of them, under the Ornstein-Uhlenbeck process. Errors are ``E |f - f*|^2`` over fresh noisy points,
where ``f* = E[x_0 | x_t]`` and E|f*|^2 is about 0.16. The theorems' constants, and how they depend on the
dimension, are out of reach here.

The paper's own experiment is on the table "Credit Default" (30,000 rows, 23 columns), which the scale "full"
of `tabular` fetches from openml.org. At quick scale scikit-learn's table of 442 diabetes patients stands in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from sklearn.datasets import fetch_openml, load_diabetes

from assay.diffusion.score_estimation import (
    KernelScoreRegressor,
    NetworkScoreRegressor,
    RegressionData,
    make_regression_data,
)
from assay.diffusion.sde import (
    Denoiser,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    VPSchedule,
    fit_denoiser,
    solve_ode,
)
from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    at_most,
    better,
    between,
    figures,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_SCHEDULE = VPSchedule(beta_min=2, beta_max=2, t_max=5.0)
_DEVIATION = 0.1
_ANGLES = 2 * np.pi * np.arange(3) / 3
_MEANS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
# The cut-off moves one coordinate in 400, by a third of its deviation at most: far below every error here.
_TRUTH = GaussianMixtureDenoiser(
    torch.tensor(_MEANS),
    torch.eye(2, dtype=torch.float64).expand(3, 2, 2) * _DEVIATION**2,
    torch.full((3,), 1 / 3, dtype=torch.float64),
    _SCHEDULE,
)


def _clean(n: int, rng: np.random.Generator) -> Array:
    noise = np.clip(rng.standard_normal((n, 2)), -3, 3)
    return _MEANS[rng.integers(3, size=n)] + _DEVIATION * noise


def _regression(n: int, rng: np.random.Generator) -> RegressionData:
    return make_regression_data(_clean(n, rng), _SCHEDULE, n, seed=rng)


def _truth(data: RegressionData) -> Array:
    exact: Array = _TRUTH(torch.from_numpy(data.x_t), torch.from_numpy(data.t)).numpy()
    return exact


def _mean_square(difference: Array) -> float:
    return float(np.mean(np.sum(difference**2, axis=1)))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**32))


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# --- Denoising score matching is a regression ------------------------------------------------------------


@dataclass(frozen=True)
class RegressionForm:
    """`identity_samples` points for the identity by sample, `samples` for the decomposition of the mean."""

    identity_samples: int = 10_000
    samples: int = 200_000
    hidden: int = 32


def regression_form(settings: RegressionForm, rng: np.random.Generator) -> Measurements:
    """A random network's weighted score-matching loss beside its error as a regression of clean points."""
    data = _regression(settings.samples, rng)
    inputs = np.column_stack([data.x_t, data.t, np.ones(settings.samples)])
    first, second = rng.standard_normal((4, settings.hidden)), rng.standard_normal((settings.hidden, 2))
    predicted = np.tanh(inputs @ first) @ second / math.sqrt(settings.hidden)
    losses = np.sum((predicted - data.x_0) ** 2, axis=1)

    some = slice(settings.identity_samples)
    alpha, sigma = (
        level(torch.from_numpy(data.t[some])).numpy() for level in (_SCHEDULE.alpha, _SCHEDULE.sigma)
    )
    alpha, variance = alpha[:, None], sigma[:, None] ** 2
    score = (alpha * predicted[some] - data.x_t[some]) / variance
    target = (alpha * data.x_0[some] - data.x_t[some]) / variance
    matching = np.sum((variance / alpha * (score - target)) ** 2, axis=1)

    loss, truth = float(losses.mean()), _truth(data)
    signal, noise = _mean_square(predicted - truth), _mean_square(data.x_0 - truth)
    return {
        "max_abs_gap": float(np.abs(matching - losses[some]).max()),
        "decomposition_gap": abs(loss - signal - noise) / loss,
        "loss": loss,
        "label_noise": noise,
    }


# --- The network's path and the kernel's -----------------------------------------------------------------


@dataclass(frozen=True)
class KernelPath:
    samples: int = 100
    widths: tuple[int, ...] = (64, 256, 1024, 4096)
    steps: tuple[int, ...] = (1, 5, 20, 50, 100)
    instances: int = 3
    test_samples: int = 2000


def kernel_path(settings: KernelPath, rng: np.random.Generator) -> Measurements:
    """How far the network's predictions are from the kernel's at the worst step, by width."""
    gaps = np.zeros((settings.instances, len(settings.widths)))
    for i in range(settings.instances):
        data, test = _regression(settings.samples, rng), _regression(settings.test_samples, rng)
        kernel = KernelScoreRegressor(n_steps=0).fit_regression(data)
        limits = {steps: kernel.predict(test.x_t, test.t, n_steps=steps) for steps in settings.steps}
        for w, width in enumerate(settings.widths):
            network = NetworkScoreRegressor(
                n_steps=0, width=width, checkpoints=settings.steps, random_state=_seed(rng)
            ).fit_regression(data)
            for steps, limit in limits.items():
                difference = network.predict(test.x_t, test.t, n_steps=steps) - limit
                gap = math.sqrt(_mean_square(difference) / _mean_square(limit))
                gaps[i, w] = max(gaps[i, w], gap)
    by_width = gaps.mean(axis=0).tolist()
    return {
        "slope": _slope(settings.widths, by_width),
        "gap_widest": by_width[-1],
        "widths": [float(width) for width in settings.widths],
        "gaps": by_width,
    }


# --- When to stop ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EarlyStopping:
    samples: int = 400
    long_steps: int = 10_000
    test_samples: int = 2000


_GRID = tuple(float(steps) for steps in np.unique(np.geomspace(1, 100_000, 26).astype(int)))


def _path_errors(model: KernelScoreRegressor, test: RegressionData, truth: Array) -> list[float]:
    return [_mean_square(model.predict(test.x_t, test.t, n_steps=int(steps)) - truth) for steps in _GRID]


def early_stopping(settings: EarlyStopping, rng: np.random.Generator) -> Measurements:
    """The kernel estimator's error where the rule stops, and later."""
    data, test = _regression(settings.samples, rng), _regression(settings.test_samples, rng)
    truth = _truth(test)
    model = KernelScoreRegressor(random_state=_seed(rng)).fit_regression(data)

    def error(n_steps: float) -> float:
        return _mean_square(model.predict(test.x_t, test.t, n_steps=n_steps) - truth)

    path = _path_errors(model, test, truth)
    return {
        "error_stopped": error(model.n_steps_),
        "error_long": error(settings.long_steps),
        "error_converged": error(math.inf),
        "error_best": min(path),
        "stopping_time": float(model.n_steps_),
        "best_time": _GRID[int(np.argmin(path))],
        "steps": list(_GRID),
        "errors": path,
    }


# --- The network itself ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkStopping:
    samples: int = 200
    width: int = 1024
    long_steps: int = 5000
    checkpoints: int = 12
    test_samples: int = 2000


def network_stopping(settings: NetworkStopping, rng: np.random.Generator) -> Measurements:
    """The network's error where the rule stops and later, and of what its first is made."""
    data, test = _regression(settings.samples, rng), _regression(settings.test_samples, rng)
    truth = _truth(test)
    steps = np.unique(np.geomspace(1, settings.long_steps, settings.checkpoints).astype(int)).tolist()
    kernel = KernelScoreRegressor(random_state=_seed(rng)).fit_regression(data)
    stop = int(kernel.n_steps_)
    network = NetworkScoreRegressor(
        n_steps=stop, width=settings.width, checkpoints=steps, random_state=_seed(rng)
    ).fit_regression(data)
    # The same descent, on labels without their noise.
    noiseless = KernelScoreRegressor(
        n_steps=stop, learning_rate=kernel.learning_rate_, radius=kernel.radius_
    ).fit_regression(replace(data, x_0=_truth(data)))
    by_network, by_kernel, by_noiseless = (
        model.predict(test.x_t, test.t) for model in (network, kernel, noiseless)
    )
    later = [_mean_square(network.predict(test.x_t, test.t, n_steps=count) - truth) for count in steps]
    limit = [_mean_square(kernel.predict(test.x_t, test.t, n_steps=count) - truth) for count in steps]
    return {
        "error_stopped": _mean_square(by_network - truth),
        "error_long": later[-1],
        "error_kernel": _mean_square(by_kernel - truth),
        "part_width": _mean_square(by_network - by_kernel),
        "part_noise": _mean_square(by_kernel - by_noiseless),
        "part_stopping": _mean_square(by_noiseless - truth),
        "stopping_time": float(stop),
        "steps": [float(count) for count in steps],
        "errors": later,
        "errors_kernel": limit,
    }


# --- More samples ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleComplexity:
    sizes: tuple[int, ...] = (100, 200, 400, 800, 1600)
    test_samples: int = 2000


def sample_complexity(settings: SampleComplexity, rng: np.random.Generator) -> Measurements:
    """The stopped kernel estimator's error for growing parts of one sample."""
    data, test = _regression(max(settings.sizes), rng), _regression(settings.test_samples, rng)
    truth, seed = _truth(test), _seed(rng)
    errors, best = [], []
    for size in settings.sizes:
        part = RegressionData(t=data.t[:size], x_t=data.x_t[:size], x_0=data.x_0[:size])
        model = KernelScoreRegressor(random_state=seed).fit_regression(part)
        errors.append(_mean_square(model.predict(test.x_t, test.t) - truth))
        best.append(min(_path_errors(model, test, truth)))
    return {
        "slope": _slope(settings.sizes, errors),
        "slope_best": _slope(settings.sizes, best),
        "sizes": [float(size) for size in settings.sizes],
        "errors": errors,
        "errors_best": best,
    }


# --- A table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tabular:
    """`samples` noisy points for the network; the denoiser it is held against is tuned over a grid.

    `later_steps` are those after which the network's kernel limit is looked at too, on the same points.
    """

    table: str = "diabetes"
    train_rows: int = 300
    samples: int = 1200
    width: int = 2048
    later_steps: int = 300
    t_start: float = 0.01
    t_end: float = 2.0
    tuned_widths: tuple[int, ...] = (64, 128)
    tuned_learning_rates: tuple[float, ...] = (1e-3, 5e-3)
    tuned_steps: int = 400
    batch_size: int = 128
    generated: int = 500
    solver_steps: int = 40


@lru_cache(maxsize=1)
def _table(name: str) -> Array:
    """The columns, each of mean 0 and standard deviation 1."""
    if name == "diabetes":
        table = load_diabetes(scaled=False).data
    else:
        table = fetch_openml(name, version=1, as_frame=False).data.astype(np.float64)
    standard: Array = (table - table.mean(axis=0)) / table.std(axis=0)
    return standard


def _tuned_denoiser(
    settings: Tabular, train: Array, schedule: VPSchedule, rng: np.random.Generator
) -> Denoiser:
    """The best of the grid by error on a fifth of the rows, then trained again on all."""
    seed, fifth = _seed(rng), len(train) // 5
    held_out = make_regression_data(
        train[:fifth], schedule, 20 * fifth, t_start=schedule.t_min, t_end=schedule.t_max, seed=rng
    )

    def trained(rows: Array, width: int, learning_rate: float) -> MLPDenoiser:
        torch.manual_seed(seed)
        model = MLPDenoiser(rows.shape[1], schedule, width=width)
        fit_denoiser(
            model,
            torch.from_numpy(rows).float(),
            n_steps=settings.tuned_steps,
            batch_size=settings.batch_size,
            learning_rate=learning_rate,
            generator=torch.Generator().manual_seed(seed),
        )
        return model

    def error(choice: tuple[int, float]) -> float:
        model = trained(train[fifth:], *choice)
        predicted = model(torch.from_numpy(held_out.x_t).float(), torch.from_numpy(held_out.t).float())
        return _mean_square(predicted.detach().numpy() - held_out.x_0)

    grid = [(width, rate) for width in settings.tuned_widths for rate in settings.tuned_learning_rates]
    return trained(train, *min(grid, key=error))


def tabular(settings: Tabular, rng: np.random.Generator) -> Measurements:
    """How far generated rows are from unseen ones: each column's distribution, and the correlations."""
    table = rng.permutation(_table(settings.table))
    train, unseen = table[: settings.train_rows], table[settings.train_rows :]
    schedule = VPSchedule(beta_min=2, beta_max=2, t_min=settings.t_start, t_max=settings.t_end)
    network = NetworkScoreRegressor(
        schedule=schedule,
        n_samples=settings.samples,
        t_start=settings.t_start,
        t_end=settings.t_end,
        width=settings.width,
        random_state=_seed(rng),
    ).fit(train)
    later = KernelScoreRegressor(
        schedule=schedule, t_start=settings.t_start, n_steps=settings.later_steps, radius=network.radius_
    ).fit_regression(network.data_)
    start = torch.from_numpy(rng.standard_normal((settings.generated, table.shape[1])))
    timesteps = schedule.timesteps(settings.solver_steps)
    tables = {
        "network": solve_ode(network.as_denoiser(), start, timesteps).x.numpy(),
        "later": solve_ode(later.as_denoiser(), start, timesteps).x.numpy(),
        "tuned": solve_ode(_tuned_denoiser(settings, train, schedule, rng), start.float(), timesteps)
        .x.double()
        .numpy(),
        "real": train,
    }
    measured: dict[str, float] = {"stopping_time": float(network.n_steps_)}
    for name, rows in tables.items():
        distances = [wasserstein_distance(*pair) for pair in zip(rows.T, unseen.T, strict=True)]
        correlations = np.corrcoef(rows.T) - np.corrcoef(unseen.T)
        above = np.triu_indices(len(correlations), k=1)
        measured[f"columns_{name}"] = float(np.mean(distances))
        measured[f"correlations_{name}"] = float(np.abs(correlations[above]).mean())
    return measured


# --- Figures ---------------------------------------------------------------------------------------------


def draw_kernel_path(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("width of the network", "relative distance from the kernel's path")
    widths, gaps = figures.curves(rows, "widths")[0], figures.curves(rows, "gaps")
    axes.plot(widths, gaps.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    median = np.median(gaps, axis=0)
    axes.plot(widths, median, "o-", color="tab:blue", label="median")
    axes.plot(widths, median[0] * np.sqrt(widths[0] / widths), "--", color="0.5", label="width$^{-1/2}$")
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False)
    return figure


_ERROR = "error of E[$x_0$ | $x_t$], mean square"


def draw_early_stopping(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("steps of gradient descent", _ERROR)
    steps, errors = figures.curves(rows, "steps")[0], figures.curves(rows, "errors")
    axes.plot(steps, errors.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, np.median(errors, axis=0), color="tab:blue", label="kernel estimator, median")
    stopped = figures.values(rows, "stopping_time"), figures.values(rows, "error_stopped")
    axes.plot(*stopped, "o", color="tab:orange", alpha=0.6, label="where the rule stops")
    axes.axhline(np.median(figures.values(rows, "error_converged")), color="0.5", ls="--", label="at the end")
    axes.set(xscale="log")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def draw_network_stopping(rows: Sequence[Measurements]) -> Figure:
    figure, (path, parts) = figures.panels(2)
    steps = figures.curves(rows, "steps")[0]
    for name, label, colour in (("errors", "network", "tab:blue"), ("errors_kernel", "kernel", "0.4")):
        errors = figures.curves(rows, name)
        path.plot(steps, errors.T, color=colour, alpha=0.25, linewidth=0.8)
        path.plot(steps, np.median(errors, axis=0), color=colour, label=f"{label}, median")
    stopped = figures.values(rows, "stopping_time"), figures.values(rows, "error_stopped")
    path.plot(*stopped, "o", color="tab:orange", alpha=0.6, label="where the rule stops")
    path.set(xscale="log", xlabel="steps of gradient descent", ylabel=_ERROR)
    path.set_ylim(bottom=0)
    path.legend(frameon=False)
    labels = {"width": "finite\nwidth", "noise": "label\nnoise", "stopping": "early\nstopping"}
    columns = {label: figures.values(rows, f"part_{name}") for name, label in labels.items()}
    figures.dots(parts, columns, paired=True)
    parts.set_ylabel("part of the stopped error")
    parts.set_ylim(bottom=0)
    return figure


def draw_sample_complexity(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("noisy points learned from", _ERROR)
    sizes = figures.curves(rows, "sizes")[0]
    for name, label, colour in (
        ("errors", "where the rule stops", "tab:orange"),
        ("errors_best", "at the best step", "tab:blue"),
    ):
        errors = figures.curves(rows, name)
        axes.plot(sizes, errors.T, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(sizes, np.median(errors, axis=0), "o-", color=colour, label=f"{label}, median")
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False)
    return figure


def draw_tabular(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    labels = {
        "network": "network,\nstopped",
        "later": "kernel,\nlater",
        "tuned": "tuned\ndenoiser",
        "real": "training\nrows",
    }
    for axes, kind, what in zip(
        panels,
        ("columns", "correlations"),
        ("Wasserstein distance of the columns", "error of the correlations"),
        strict=True,
    ):
        columns = {label: figures.values(rows, f"{kind}_{name}") for name, label in labels.items()}
        figures.dots(axes, columns, paired=True)
        axes.set_ylabel(f"{what}, mean")
        axes.set_ylim(bottom=0)
    return figure


# --- The study -------------------------------------------------------------------------------------------

_OVERFITS = Published("prolonged training on the noisy labels overfits; an early-stopping rule", "abstract")
_COMPARABLE = Published(
    "comparable to heavily tuned heuristic methods (Credit Default)", "abstract, version 4"
)

STUDY = Study(
    slug="score_estimation",
    experiments=(
        Experiment(
            name="regression_form",
            trial=regression_form,
            scales={
                "quick": RegressionForm(),
                "full": RegressionForm(identity_samples=1_000_000, samples=5_000_000),
            },
            claims=(
                Claim(
                    "matching_is_regression",
                    "turns each sample's weighted score-matching loss into a regression's error, exactly",
                    at_most("max_abs_gap", 1e-9),
                    Published("a parametric form that reduces score matching to regression", "abstract"),
                ),
                Claim(
                    "labels_are_noisy",
                    "makes the clean point a noisy label of E[x_0 | x_t]: the loss is the error of the "
                    "estimate and the label's variance, to 2 %",
                    at_most("decomposition_gap", 0.02),
                    Published("a regression with noisy labels", "abstract"),
                ),
            ),
        ),
        Experiment(
            name="kernel_path",
            trial=kernel_path,
            scales={
                "quick": KernelPath(),
                "full": KernelPath(samples=1000, widths=(256, 1024, 4096, 16_384), instances=10),
            },
            claims=(
                Claim(
                    "gap_shrinks_with_width",
                    "trains networks whose distance from the kernel's path falls about as width^-1/2",
                    between("slope", -0.65, -0.25),
                    Published("an error of coupling that vanishes with the width", "section 3"),
                ),
                Claim(
                    "wide_networks_follow",
                    "keeps the widest within 12 % of the kernel's predictions at every step",
                    at_most("gap_widest", 0.12),
                    Published("training is approximated by a kernel regression", "abstract"),
                ),
            ),
            figure=draw_kernel_path,
        ),
        Experiment(
            name="early_stopping",
            trial=early_stopping,
            scales={"quick": EarlyStopping(), "full": EarlyStopping(samples=4000)},
            claims=(
                Claim(
                    "beats_convergence",
                    "stops the kernel estimator at a third of the error, or less, that it has in the end",
                    better("error_stopped", than="error_converged", lower=True, factor=3),
                    _OVERFITS,
                ),
                Claim(
                    "beats_training_on",
                    "stops it at half the error, or less, that it has after 10,000 steps",
                    better("error_stopped", than="error_long", lower=True, factor=2),
                    _OVERFITS,
                ),
            ),
            figure=draw_early_stopping,
        ),
        Experiment(
            name="network_stopping",
            trial=network_stopping,
            scales={
                "quick": NetworkStopping(),
                "full": NetworkStopping(samples=1000, width=16_384, long_steps=100_000),
            },
            claims=(
                Claim(
                    "network_overfits",
                    "stops the network itself with at least 20 % less error than after thousands of steps",
                    better("error_stopped", than="error_long", lower=True, factor=1.25),
                    _OVERFITS,
                ),
                Claim(
                    "network_is_as_good_as_kernel",
                    "gives the network, where it stops, at most 1.1 times the kernel estimator's error",
                    better("error_stopped", than="error_kernel", lower=True, factor=1 / 1.1),
                    Published("a bound for the network from that of kernel regression", "section 3"),
                ),
            ),
            figure=draw_network_stopping,
        ),
        Experiment(
            name="sample_complexity",
            trial=sample_complexity,
            scales={
                "quick": SampleComplexity(),
                "full": SampleComplexity(sizes=(100, 300, 1000, 3000, 9000), test_samples=10_000),
            },
            claims=(
                Claim(
                    "error_falls_with_samples",
                    "has, where it stops, an error that falls with the sample size N, as N^-0.15 or faster",
                    at_most("slope", -0.15),
                    Published("a bound that falls with the sample size", "abstract"),
                ),
            ),
            figure=draw_sample_complexity,
        ),
        Experiment(
            name="tabular",
            trial=tabular,
            scales={
                "quick": Tabular(),
                "full": Tabular(
                    table="default-of-credit-card-clients",
                    train_rows=24_000,
                    samples=12_000,
                    width=10_000,
                    tuned_widths=(128, 256, 512),
                    tuned_learning_rates=(3e-4, 1e-3, 3e-3),
                    tuned_steps=20_000,
                    batch_size=512,
                    generated=6000,
                ),
            },
            claims=(
                Claim(
                    "columns_are_comparable",
                    "generates, stopped by its rule, a table whose columns are at most 1.25 times as far "
                    "from unseen rows as those of a tuned denoiser",
                    better("columns_network", than="columns_tuned", lower=True, factor=0.8),
                    _COMPARABLE,
                ),
                Claim(
                    "correlations_are_comparable",
                    "gets, stopped by its rule, the columns' correlations wrong by at most 1.25 times as "
                    "much as a tuned denoiser",
                    better("correlations_network", than="correlations_tuned", lower=True, factor=0.8),
                    _COMPARABLE,
                ),
            ),
            figure=draw_tabular,
        ),
    ),
)
