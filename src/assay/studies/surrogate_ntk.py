"""The surrogate gradient NTK put to the test: what fails without it, its limit, and networks that follow it.

The task is the paper's: a cubic polynomial on the unit circle, learned from a few of its points. Which points
they are and how the networks start is drawn anew in every trial. The scales called "full" have the sizes of
the paper's figures; they have not been run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
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
    between,
    figures,
    near,
)
from assay.networks.surrogate_ntk import (
    Surrogate,
    SurrogateGradientNetwork,
    SurrogateNTKRegressor,
    empirical_surrogate_ntk,
    neural_tangent_kernel,
    surrogate_gradient_ntk,
    train_surrogate_ensemble,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_DEPTHS = (1, 2, 3)
_STEEPNESS = (2, 5, 20)
_NAIVE_SCALES = (64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True)
class Circle:
    """Training points are drawn from the points that lie evenly on the circle."""

    n_points: int = 60
    n_train: int = 15


@dataclass(frozen=True)
class Convergence:
    n_points: int = 60
    widths: tuple[int, ...] = (50, 100, 200, 400, 800)
    n_networks: int = 30


@dataclass(frozen=True)
class Constancy(Circle):
    widths: tuple[int, ...] = (50, 200, 800)
    n_networks: int = 3
    activation_scale: float = 2.0
    learning_rate: float = 0.5
    n_steps: int = 150
    kernel_every: int = 4
    """The kernel is taken between every so many of the circle's points."""


@dataclass(frozen=True)
class Learning(Circle):
    """Sign networks; within the steps of "quick" the slowest mode of the regression dies out to some 1e-6."""

    n_points: int = 40
    n_train: int = 10
    surrogate: Surrogate = "erf"
    widths: tuple[int, ...] = (20, 80, 200)
    n_members: int = 40
    learning_rate: float = 0.5
    n_steps: int = 1000


class _Task(NamedTuple):
    angles: Array
    points: Array
    target: Array
    train: NDArray[np.intp]
    """The indices of the training points."""

    @property
    def rest(self) -> NDArray[np.bool_]:
        """Which points are not trained on."""
        return ~np.isin(np.arange(len(self.points)), self.train)


def _circle(n_points: int) -> tuple[Array, Array]:
    angles = 2 * np.pi * np.arange(n_points) / n_points - np.pi
    return angles, np.column_stack((np.sin(angles), np.cos(angles)))


def _draw(settings: Circle, rng: np.random.Generator) -> _Task:
    angles, points = _circle(settings.n_points)
    a, b = points.T
    target = 4 * a * b**2 - 0.8 * a**3 + 1.2 * b**2 - 0.8 * a**2 * b
    return _Task(angles, points, target, rng.choice(settings.n_points, settings.n_train, replace=False))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _naive_regression(task: _Task, scale: float) -> Array:
    """What regression with the ordinary NTK of erf(scale z) predicts at all points."""
    model = SurrogateNTKRegressor(activation_scale=scale, surrogate_scale=scale)
    return model.fit(task.points[task.train], task.target[task.train]).predict(task.points)


# --- The trials ----------------------------------------------------------------------------------------


def naive_limit(settings: Circle, rng: np.random.Generator) -> Measurements:
    """The ordinary NTK of erf(m z) as m grows: its diagonal, its median entry off the diagonal (with two
    hidden layers), and what regression with it predicts off the training points."""
    task = _draw(settings, rng)
    train = task.points[task.train]
    pairs = np.triu_indices(len(train), k=1)
    measured: dict[str, float | Sequence[float]] = {"scales": list(_NAIVE_SCALES)}
    off_diagonal = {}
    for depth in _DEPTHS:
        kernels = [
            neural_tangent_kernel(train, n_hidden=depth, activation_scale=scale) for scale in _NAIVE_SCALES
        ]
        diagonal = [float(kernel.diagonal().mean()) for kernel in kernels]
        measured[f"diagonal_depth_{depth}"] = diagonal
        measured[f"slope_depth_{depth}"] = _log_slope(_NAIVE_SCALES, diagonal)
        off_diagonal[depth] = np.array([kernel[pairs] for kernel in kernels])
    first, *_, last = off_diagonal[2]
    measured["off_diagonal_change"] = float(np.median(np.abs(first / last - 1)))
    predictions = [np.abs(_naive_regression(task, scale)[task.rest]).mean() for scale in _NAIVE_SCALES]
    measured["mean_predictions"] = [float(size) for size in predictions]
    measured["mean_prediction"] = float(predictions[-1])
    return measured


def initial_kernel(settings: Convergence, rng: np.random.Generator) -> Measurements:
    """Relative distance of the networks' empirical SG-NTK from the analytic one, root mean square over
    networks; the same networks at every steepness."""
    _, points = _circle(settings.n_points)
    analytic = {m: surrogate_gradient_ntk(points, activation_scale=m) for m in _STEEPNESS}
    squares = np.empty((len(_STEEPNESS), len(settings.widths), settings.n_networks))
    for i, width in enumerate(settings.widths):
        generator = torch.Generator().manual_seed(_seed(rng))
        for j in range(settings.n_networks):
            network = SurrogateGradientNetwork(2, width, generator=generator)
            for k, m in enumerate(_STEEPNESS):
                network.activation_scale = m
                kernel = empirical_surrogate_ntk(network, torch.from_numpy(points))
                distance = np.linalg.norm(kernel - analytic[m]) / np.linalg.norm(analytic[m])
                squares[k, i, j] = distance**2
    errors = np.sqrt(squares.mean(axis=2))
    measured: dict[str, float | Sequence[float]] = {"widths": [float(width) for width in settings.widths]}
    for m, error in zip(_STEEPNESS, errors.tolist(), strict=True):
        measured[f"errors_m_{m}"] = error
        measured[f"slope_m_{m}"] = _log_slope(settings.widths, error)
    return measured


def trained_kernel(settings: Constancy, rng: np.random.Generator) -> Measurements:
    """How far the empirical SG-NTK moves while networks learn, relative to what it was."""
    task = _draw(settings, rng)
    points = torch.from_numpy(task.points[:: settings.kernel_every]).float()
    changes, before, after = [], [], []
    for width in settings.widths:
        seed = _seed(rng)
        ensemble = train_surrogate_ensemble(
            task.points[task.train],
            task.target[task.train],
            task.points,
            width=width,
            n_members=settings.n_networks,
            learning_rate=settings.learning_rate,
            n_steps=settings.n_steps,
            activation_scale=settings.activation_scale,
            seed=seed,
        )
        generator = torch.Generator().manual_seed(seed)
        change = []
        for trained in ensemble.networks:
            initial = SurrogateGradientNetwork(
                2,
                width,
                activation_scale=settings.activation_scale,
                dtype=torch.float32,
                generator=generator,
            )
            start, end = (empirical_surrogate_ntk(network, points) for network in (initial, trained))
            change.append(float(np.linalg.norm(end - start) / np.linalg.norm(start)))
        changes.append(float(np.mean(change)))
        before.append(float(ensemble.losses[0].mean()))
        after.append(float(ensemble.losses[-1].mean()))
    return {
        "widths": [float(width) for width in settings.widths],
        "changes": changes,
        "change_widest": changes[-1],
        "slope": _log_slope(settings.widths, changes),
        "loss_before": before[-1],
        "loss_after": after[-1],
    }


def sign_networks(settings: Learning, rng: np.random.Generator) -> Measurements:
    """Networks of sign units trained by surrogate gradients, beside regression with the SG-NTK: the distance
    of their mean from the regression's, and their spread as a share of the one that it predicts."""
    task = _draw(settings, rng)
    X, y = task.points[task.train], task.target[task.train]
    model = SurrogateNTKRegressor(surrogate=settings.surrogate).fit(X, y)
    mean, std = model.predict(task.points, return_std=True)
    measured: dict[str, float | Sequence[float]] = {
        "angles": task.angles.tolist(),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "train_angles": task.angles[task.train].tolist(),
        "train_target": y.tolist(),
    }
    gaps, spreads = [], []
    for place, width in enumerate(settings.widths):
        ensemble = train_surrogate_ensemble(
            X,
            y,
            task.points,
            width=width,
            n_members=settings.n_members,
            learning_rate=settings.learning_rate,
            n_steps=settings.n_steps,
            surrogate=settings.surrogate,
            seed=_seed(rng),
        )
        members = ensemble.predictions
        measured[f"ensemble_mean_{place}"] = members.mean(axis=0).tolist()
        gaps.append(_rms(members.mean(axis=0) - mean))
        spreads.append(_rms(members.std(axis=0, ddof=1)) / _rms(std))
    return {
        **measured,
        "widths": [float(width) for width in settings.widths],
        "gaps": gaps,
        "gap_narrowest": gaps[0],
        "gap_widest": gaps[-1],
        "spread_widest": spreads[-1],
    }


def generalisation(settings: Circle, rng: np.random.Generator) -> Measurements:
    """Errors off the training points of regression with the SG-NTK of sign and with the ordinary NTK of a
    steep erf. Of the steep ones the least steep is taken, the one farthest from its limit of 0."""
    task = _draw(settings, rng)
    X, y = task.points[task.train], task.target[task.train]
    predictions = {
        "sg_ntk": SurrogateNTKRegressor().fit(X, y).predict(task.points),
        "naive": _naive_regression(task, _NAIVE_SCALES[0]),
    }
    return {
        f"rmse_{name}": _rms((prediction - task.target)[task.rest])
        for name, prediction in predictions.items()
    }


# --- The figures ---------------------------------------------------------------------------------------


def _mark(axes: Axes, sizes: Array) -> None:
    """Label a logarithmic axis at the sizes that were run, and nowhere else."""
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_xticks([], minor=True)


def draw_naive_limit(rows: Sequence[Measurements]) -> Figure:
    figure, (diagonal, prediction) = figures.panels(2)
    scales = figures.curves(rows, "scales")[0]
    for depth in _DEPTHS:
        curve = figures.curves(rows, f"diagonal_depth_{depth}").mean(axis=0)
        diagonal.loglog(scales, curve, "o-", label=f"{depth} hidden")
    diagonal.set(xlabel="steepness m of erf(m z)", ylabel="ordinary NTK on its diagonal")
    diagonal.legend()
    prediction.loglog(scales, figures.curves(rows, "mean_predictions").T, color="tab:blue", alpha=0.4)
    prediction.set(xlabel="steepness m of erf(m z)", ylabel="mean |prediction| off the training points")
    for axes in (diagonal, prediction):
        _mark(axes, scales)
    return figure


def draw_initial_kernel(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("width", "relative error of the empirical SG-NTK")
    widths = figures.curves(rows, "widths")[0]
    for index, m in enumerate(_STEEPNESS):
        errors = figures.curves(rows, f"errors_m_{m}")
        axes.loglog(widths, errors.T, color=f"C{index}", alpha=0.2)
        axes.loglog(widths, np.median(errors, axis=0), "o-", color=f"C{index}", label=f"erf({m} z)")
    start = np.median(figures.curves(rows, f"errors_m_{_STEEPNESS[0]}")[:, 0])
    axes.loglog(widths, start * (widths / widths[0]) ** -0.5, "--", color="0.5", label="slope -1/2")
    _mark(axes, widths)
    axes.legend()
    return figure


def draw_trained_kernel(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("width", "relative change of the empirical SG-NTK")
    widths = figures.curves(rows, "widths")[0]
    axes.loglog(widths, figures.curves(rows, "changes").T, "o-", color="C0", alpha=0.4)
    _mark(axes, widths)
    return figure


def draw_sign_networks(rows: Sequence[Measurements]) -> Figure:
    """The first trial's functions, and the distances of all trials."""
    figure, (function, gap) = figures.panels(2)
    angles, mean, std = (figures.curves(rows[:1], name)[0] for name in ("angles", "mean", "std"))
    widths = figures.curves(rows, "widths")[0]
    function.fill_between(angles, mean - 2 * std, mean + 2 * std, color="0.9", label="SG-NTK ± 2 std")
    function.plot(angles, mean, color="black", label="SG-NTK")
    for place, width in enumerate(widths):
        curve = figures.curves(rows[:1], f"ensemble_mean_{place}")[0]
        function.plot(angles, curve, color=f"C{place}", label=f"width {width:g}")
    train = (figures.curves(rows[:1], name)[0] for name in ("train_angles", "train_target"))
    function.plot(*train, "kx", label="training points")
    function.set(xlabel="angle", ylabel="output, mean over networks")
    function.legend(fontsize="small")
    gaps = figures.curves(rows, "gaps")
    figures.dots(
        gap, {f"{width:g}": list(column) for width, column in zip(widths, gaps.T, strict=True)}, paired=True
    )
    gap.set(xlabel="width", ylabel="rms distance of networks' mean from SG-NTK")
    gap.set_ylim(bottom=0)
    return figure


def draw_generalisation(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("kernel", "rmse off the training points")
    columns = {
        "SG-NTK of sign": figures.values(rows, "rmse_sg_ntk"),
        "ordinary NTK of erf(64 z)": figures.values(rows, "rmse_naive"),
    }
    figures.dots(axes, columns, paired=True)
    axes.set_ylim(bottom=0)
    return figure


# --- The study -----------------------------------------------------------------------------------------


def _follows(name: str, surrogate: Surrogate, words: str, spread: Published | None = None) -> Experiment:
    return Experiment(
        name=name,
        trial=sign_networks,
        scales={
            "quick": Learning(surrogate=surrogate),
            "full": Learning(
                surrogate=surrogate,
                n_points=100,
                n_train=15,
                widths=(20, 100, 500),
                n_members=500,
                learning_rate=0.1,
                n_steps=30_000,
            ),
        },
        claims=(
            Claim(
                "sgl_follows_kernel",
                f"predicts the mean of sign networks trained with {words}, the better the wider they are",
                all_of(
                    at_most("gap_widest", 0.2),
                    better("gap_widest", than="gap_narrowest", lower=True, by=0.02),
                ),
                Published("a good characterisation of surrogate gradient learning", "abstract"),
            ),
            Claim(
                "spread_follows_kernel",
                f"predicts the spread of wide sign networks trained with {words} to a fifth",
                near("spread_widest", 1.0, 0.2),
                spread,
            ),
        ),
        figure=draw_sign_networks,
    )


STUDY = Study(
    slug="surrogate_ntk",
    experiments=(
        Experiment(
            name="naive_limit",
            trial=naive_limit,
            scales={"quick": Circle(), "full": Circle(n_points=100)},
            claims=(
                Claim(
                    "naive_ntk_diverges",
                    "shows that the ordinary NTK grows with the steepness of the activation to the power of "
                    "the number of hidden layers on its diagonal, and converges off it",
                    all_of(
                        *(between(f"slope_depth_{depth}", depth - 0.15, depth + 0.15) for depth in _DEPTHS),
                        at_most("off_diagonal_change", 0.02),
                    ),
                    Published("the NTK of a jumping activation is infinite on its diagonal", "figure 1"),
                ),
                Claim(
                    "naive_limit_learns_nothing",
                    "shows that regression with the ordinary NTK of a steep activation predicts 0 off the "
                    "training points",
                    at_most("mean_prediction", 0.02),
                    Published("gradient descent is ill-posed in the infinite-width limit", "abstract"),
                ),
            ),
            figure=draw_naive_limit,
        ),
        Experiment(
            name="initial_kernel",
            trial=initial_kernel,
            scales={
                "quick": Convergence(),
                "full": Convergence(n_points=100, widths=(10, 100, 500, 1000)),
            },
            claims=(
                Claim(
                    "sg_ntk_convergence",
                    "is what the empirical kernels of random networks tend to, by the root of their width",
                    between("slope_m_2", -0.75, -0.3),
                    Published("converges as widths grow from 10 to 1000, for m = 2, 5 and 20", "figure 2"),
                ),
            ),
            figure=draw_initial_kernel,
        ),
        Experiment(
            name="trained_kernel",
            trial=trained_kernel,
            scales={
                "quick": Constancy(),
                "full": Constancy(
                    n_points=100,
                    widths=(10, 100, 500, 1000),
                    n_networks=10,
                    learning_rate=0.1,
                    n_steps=1000,
                    kernel_every=1,
                ),
            },
            claims=(
                Claim(
                    "sg_ntk_constant",
                    "moves little while wide networks learn, the less the wider they are",
                    all_of(
                        at_most("change_widest", 0.06),
                        at_most("slope", -0.35),
                        better("loss_after", than="loss_before", lower=True, factor=10.0),
                    ),
                    Published("constant in training as widths grow from 10 to 1000", "figure 2"),
                ),
            ),
            figure=draw_trained_kernel,
        ),
        _follows(
            "sign_networks",
            "erf",
            "the derivative of erf as surrogate",
            Published("networks within a band of ± 2 standard deviations of the regression", "figure 3"),
        ),
        _follows("straight_through", "identity", "straight-through gradients"),
        Experiment(
            name="generalisation",
            trial=generalisation,
            scales={"quick": Circle(n_points=100), "full": Circle(n_points=1000)},
            claims=(
                Claim(
                    "sg_ntk_useful",
                    "generalises where the limit of the ordinary NTK cannot",
                    better("rmse_sg_ntk", than="rmse_naive", lower=True, by=0.2),
                    Published("enables the analysis of surrogate gradient learning", "abstract"),
                ),
            ),
            figure=draw_generalisation,
        ),
    ),
)
