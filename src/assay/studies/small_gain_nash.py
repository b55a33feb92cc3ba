"""What Sharma (2025, arXiv 2512.06791) claims of Small-Gain Nash.

The games are the paper's: two players of 32 variables each, whose couplings 10 s R and 0.05 s R' differ by a
factor of 200; random variants of it; and an entropy-regularised Markov game. Random games of three players,
affine and not, are added. All is measured, not proven: norms, spectral radii, flows and plays of the games.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.stats import ortho_group

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
    near,
)
from assay.optimize.small_gain_nash import (
    MarkovGame,
    certify,
    certify_policy_gradient,
    coordination_game,
    gradient_play,
    small_gain_margin,
    timescale_band,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_STRONG, _WEAK = 10.0, 0.05
"""How strongly each player of the paper's game moves the other's gradient."""


# --- Games -------------------------------------------------------------------------------------------


def _coupled(own: tuple[Floats, Floats], R: Floats, strong: float, weak: float) -> Floats:
    """The Jacobian of two players' game with couplings strong R and weak R'."""
    return np.block([[own[0], strong * R], [weak * R.T, own[1]]])


def _orthogonal(n: int, rng: np.random.Generator) -> Floats:
    return np.asarray(ortho_group.rvs(n, random_state=rng))


def _papers_game(n: int, rng: np.random.Generator) -> Floats:
    """At coupling s = 1; that at s is the identity plus s times the difference to it."""
    return _coupled((np.eye(n), np.eye(n)), _orthogonal(n, rng), _STRONG, _WEAK)


def _random_game(sizes: Sequence[int], rng: np.random.Generator) -> Floats:
    """The Jacobian of a game that some weights certify: couplings of very different sizes, scaled so that the
    spectral radius of diag(1 / curvature) coupling lies between 0.3 and 0.95."""
    N = len(sizes)
    mu = rng.uniform(0.5, 2, N)
    scale = np.exp(rng.normal(0, 1.5, N))
    coupling = np.exp(rng.normal(0, 1, (N, N))) * scale[:, None] / scale
    np.fill_diagonal(coupling, 0)
    coupling *= rng.uniform(0.3, 0.95) / np.abs(np.linalg.eigvals(coupling / mu[:, None])).max()
    blocks = [[rng.normal(size=(rows, columns)) for columns in sizes] for rows in sizes]
    for i, row in enumerate(blocks):
        for j, block in enumerate(row):
            if i == j:
                own = block @ block.T
                row[j] = own + (mu[i] - np.linalg.eigvalsh(own)[0]) * np.eye(sizes[i])
            else:
                row[j] = block * coupling[i, j] / np.linalg.norm(block, 2)
    return np.block(blocks)


def _in_metric(H: Floats, weights: Floats, sizes: Sequence[int]) -> Floats:
    """H in coordinates in which the weighted norm is the plain one."""
    root = np.sqrt(np.repeat(weights, sizes))
    scaled: Floats = H * (root[:, None] / root)
    return scaled


def _least_symmetric(H: Floats) -> float:
    return float(np.linalg.eigvalsh((H + H.T) / 2)[0])


def _rk4_matrix(H: Floats, h: float) -> Floats:
    z, eye = -h * H, np.eye(len(H))
    return eye + z @ (eye + z / 2 @ (eye + z / 3 @ (eye + z / 4)))


def _norm(H: Floats) -> float:
    return float(np.linalg.norm(H, 2))


def _radius(H: Floats) -> float:
    return float(np.abs(np.linalg.eigvals(H)).max())


def _last(grid: Floats, holds: Floats) -> float:
    """The last grid point before the first at which it does not hold."""
    return float(grid[: int(np.argmin(np.append(holds > 0, False)))].max(initial=0.0))


# --- Where plain monotonicity fails ------------------------------------------------------------------


@dataclass(frozen=True)
class CoupledGame:
    """Variables of each player, and the grid of couplings s."""

    block: int = 32
    largest: float = 2.5
    couplings: int = 61


def certifies_non_monotone(settings: CoupledGame, rng: np.random.Generator) -> Measurements:
    """The margins of both tests at s = 1, and the last s of the grid up to which each certifies the game."""
    sizes = [settings.block] * 2
    game = _papers_game(settings.block, rng)
    rest = game - np.eye(len(game))
    grid = np.linspace(0, settings.largest, settings.couplings)
    margins = np.array(
        [
            (
                _least_symmetric(H),
                certify(H, sizes).margin,
                np.linalg.eigvals(H).real.min(),
            )
            for H in (np.eye(len(game)) + s * rest for s in grid)
        ]
    )
    certificate = certify(game, sizes)
    return {
        "plain_margin": _least_symmetric(game),
        "margin": certificate.margin,
        "true_margin": _least_symmetric(_in_metric(game, certificate.weights, sizes)),
        "range_plain": _last(grid, margins[:, 0]),
        "range_small_gain": _last(grid, margins[:, 1]),
        "range_stable": _last(grid, margins[:, 2]),
        "couplings": grid.tolist(),
        "plain_margins": margins[:, 0].tolist(),
        "margins": margins[:, 1].tolist(),
    }


def draw_margins(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("coupling s", "margin")
    grid = figures.curves(rows, "couplings")[0]
    for name, label in (("plain_margins", "plain norm"), ("margins", "best weights")):
        axes.plot(grid, np.median(figures.curves(rows, name), axis=0), label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False)
    return figure


# --- The flow ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flows:
    """The paper's game and random ones of three players, each from several starts."""

    block: int = 32
    random_games: int = 20
    sizes: tuple[int, ...] = (4, 3, 5)
    starts: int = 16
    times: int = 50
    horizon: float = 5.0  # in units of one over the margin


def flow_contracts(settings: Flows, rng: np.random.Generator) -> Measurements:
    """The slowest decay of the weighted norm along the exact flow, in units of the certified rate."""
    games = [(_papers_game(settings.block, rng), [settings.block] * 2)]
    games += [(_random_game(settings.sizes, rng), list(settings.sizes)) for _ in range(settings.random_games)]
    slowest, curves = [], []
    for H, sizes in games:
        certificate = certify(H, sizes)
        dt = settings.horizon / settings.times / certificate.margin
        flow = expm(-dt * H)
        x = [rng.normal(size=(len(H), settings.starts))]
        for _ in range(settings.times):
            x.append(flow @ x[-1])
        points = np.array(x)  # (times + 1, n, starts)
        weighted = np.sqrt(np.einsum("tns,n->ts", points**2, np.repeat(certificate.weights, sizes)))
        slowest.append(-np.diff(np.log(weighted), axis=0).max() / dt / certificate.margin)
        plain = np.linalg.norm(points, axis=1)
        curves.append((weighted / weighted[0]).max(axis=1))
        curves.append((plain / plain[0]).max(axis=1))
    return {
        "decay_ratio": float(min(slowest)),
        "decay_ratio_papers_game": float(slowest[0]),
        "times": np.linspace(0, settings.horizon, settings.times + 1).tolist(),
        "weighted_norm": curves[0].tolist(),
        "plain_norm": curves[1].tolist(),
    }


def draw_flows(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes(
        "time, in units of one over the margin", "largest norm, as a share of the first"
    )
    times = figures.curves(rows, "times")[0]
    for name, label, colour in (
        ("plain_norm", "plain norm", "tab:orange"),
        ("weighted_norm", "weighted norm", "tab:blue"),
    ):
        for k, curve in enumerate(figures.curves(rows, name)):
            axes.plot(times, curve, color=colour, alpha=0.6, label=label if k == 0 else None)
    axes.plot(times, np.exp(-times), "--", color="black", linewidth=1, label="certified")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


# --- Steps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """As `CoupledGame`, random games of three players, and projected plays of each of these."""

    block: int = 32
    largest: float = 2.5
    couplings: int = 61
    random_games: int = 20
    sizes: tuple[int, ...] = (4, 3, 5)
    starts: int = 4
    steps: int = 200


def _projected_ratio(
    H: Floats, sizes: Sequence[int], settings: Steps, rng: np.random.Generator
) -> tuple[float, float]:
    """The largest ratio of successive distances to the equilibrium on the box [-1, 1]^n, and the certified
    one, of Euler play at half the certified step."""
    certificate = certify(H, sizes)
    # At an equilibrium on the box the pseudo-gradient is 0 where it is inside and points out of the box where
    # it is at the edge. The equilibrium without the box is then another point, and so outside.
    x = np.clip(rng.uniform(-1.5, 1.5, len(H)), -1, 1)
    outward = np.where(np.abs(x) == 1, -x * rng.exponential(1.0, len(H)), 0.0)
    shift = H @ x - outward
    weights = np.repeat(certificate.weights, sizes)
    largest = 0.0
    for _ in range(settings.starts):
        play = gradient_play(
            lambda point: H @ point - shift,
            rng.uniform(-1, 1, len(H)),
            certificate.euler_step / 2,
            settings.steps,
            project=lambda point: np.clip(point, -1, 1),
        )
        distances = np.sqrt((play.points - x) ** 2 @ weights)
        distances = distances[distances > 1e-9 * distances[0]]
        largest = max(largest, float((distances[1:] / distances[:-1]).max()))
    return largest, math.sqrt(1 - (certificate.margin / certificate.lipschitz) ** 2)


def safe_steps(settings: Steps, rng: np.random.Generator) -> Measurements:
    """The largest factors of one step, over all certified games, at the bounds on the step."""
    pair = [settings.block] * 2
    game = _papers_game(settings.block, rng)
    grid = np.linspace(0, settings.largest, settings.couplings)
    games = [(np.eye(len(game)) + s * (game - np.eye(len(game))), pair) for s in grid]
    others = [(_random_game(settings.sizes, rng), list(settings.sizes)) for _ in range(settings.random_games)]
    factors = []
    for H, sizes in games + others:
        certificate = certify(H, sizes)
        if certificate.certified:
            scaled = _in_metric(H, certificate.weights, sizes)
            factors.append(
                (
                    _norm(np.eye(len(H)) - 0.99 * certificate.euler_step * scaled),
                    _norm(_rk4_matrix(scaled, certificate.rk4_step_linear)),
                    _radius(_rk4_matrix(H, certificate.rk4_step)),
                    _norm(_rk4_matrix(scaled, certificate.rk4_step)),
                )
            )
    euler, rk4, rk4_radius, rk4_guideline = np.max(factors, axis=0)
    plays = [_projected_ratio(H, sizes, settings, rng) for H, sizes in [(game, pair), *others]]

    certificate, eigenvalues = certify(game, pair), np.linalg.eigvals(game)
    return {
        "euler_factor": float(euler),
        "projected_euler_factor": max(ratio for ratio, _ in plays),
        "projected_over_certified": max(ratio / certified for ratio, certified in plays),
        "rk4_factor": float(rk4),
        "rk4_radius": float(rk4_radius),
        "rk4_factor_at_radius_step": float(rk4_guideline),
        "euler_step": certificate.euler_step,
        "euler_step_stable": float((2 * eigenvalues.real / np.abs(eigenvalues) ** 2).min()),
    }


def draw_steps(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "largest factor of one step")
    labels = {
        "euler_factor": "Euler, 0.99 of\nits bound",
        "projected_euler_factor": "projected Euler,\n0.5 of its bound",
        "rk4_factor": "RK4, affine\nbound",
        "rk4_radius": "RK4 at 2.5 / beta,\nspectral radius",
        "rk4_factor_at_radius_step": "RK4 at 2.5 / beta,\nweighted norm",
    }
    figures.dots(axes, {label: figures.values(rows, name) for name, label in labels.items()})
    axes.axhline(1, color="black", linewidth=0.8)
    axes.tick_params(axis="x", labelsize=8)
    return figure


# --- The timescale band ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bands:
    """Variables of each player, and the grid of ratios of weights."""

    block: int = 32
    least_ratio: float = 0.1
    largest_ratio: float = 1e4
    ratios: int = 161


def timescales(settings: Bands, rng: np.random.Generator) -> Measurements:
    """A game of two players with random curvatures and couplings: where its closed-form band of ratios ends,
    where the margin changes sign on the grid, and the largest factor of one Euler step within the band."""
    mu = rng.uniform(0.5, 2, 2)
    product = mu.prod() * rng.uniform(0.1, 0.9)
    centre = math.exp(rng.uniform(math.log(4), math.log(250)))
    coupling = np.array([[0, math.sqrt(product * centre)], [math.sqrt(product / centre), 0]])
    low, high = timescale_band(mu, coupling)

    ratios = np.geomspace(settings.least_ratio, settings.largest_ratio, settings.ratios)
    places = np.log(ratios)
    margins = np.array([small_gain_margin(mu, coupling, [1, ratio]) for ratio in ratios])
    before = np.flatnonzero(np.diff(np.sign(margins)))
    crossings = places[before] - margins[before] * np.diff(places)[before] / np.diff(margins)[before]
    error = np.abs(crossings - np.log([low, high])).max() / (places[1] - places[0])

    R, eye, sizes = _orthogonal(settings.block, rng), np.eye(settings.block), [settings.block] * 2
    game = _coupled((mu[0] * eye, mu[1] * eye), R, coupling[0, 1], coupling[1, 0])
    factors = []
    for ratio in ratios[(low < ratios) & (ratios < high)]:
        certificate = certify(game, sizes, weights=[1, ratio])
        scaled = _in_metric(game, certificate.weights, sizes)
        factors.append(_norm(np.eye(len(game)) - 0.99 * certificate.euler_step * scaled))
    return {
        "band_error": float(error),
        "band_low": low,
        "band_high": high,
        "euler_factor": max(factors),
        "ratios": ratios.tolist(),
        "margins": margins.tolist(),
    }


def draw_bands(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("ratio of weights", "margin")
    names = ("ratios", "margins", "band_low", "band_high")
    for ratios, margins, low, high in zip(*(figures.curves(rows, name) for name in names), strict=True):
        (line,) = axes.plot(ratios, margins, alpha=0.6, linewidth=1)
        axes.plot([low, high], [0, 0], "|", color=line.get_color(), markersize=12)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xscale="log", ylim=(-1, 1.1 * figures.curves(rows, "margins").max()))
    return figure


# --- Bounds estimated on a region --------------------------------------------------------------------


@dataclass(frozen=True)
class Regions:
    """A game that is not affine, the Jacobians sampled, and the plays."""

    sizes: tuple[int, ...] = (4, 3, 5)
    jacobians: int = 500
    pairs: int = 20
    steps: int = 200


def estimated_bounds(settings: Regions, rng: np.random.Generator) -> Measurements:
    """Euler play on the box [-1, 1]^n at half the bound that sampled Jacobians give: how fast pairs of
    trajectories approach each other, as a share of the certified factor.

    The losses are f_i = x_i' Q_i x_i / 2 + sum log cosh x_i + x_i' sum_j A_ij tanh x_j.
    """
    A, sizes = _random_game(settings.sizes, rng), list(settings.sizes)
    player = np.repeat(np.arange(len(sizes)), sizes)
    own = player[:, None] == player
    Q, cross, eye = np.where(own, A, 0), np.where(own, 0, A), np.eye(len(A))

    def pseudo_gradient(x: Floats) -> Floats:
        return Q @ x + (eye + cross) @ np.tanh(x)

    x = rng.uniform(-1, 1, (settings.jacobians, 1, len(A)))
    certificate = certify(Q + (eye + cross) / np.cosh(x) ** 2, sizes)
    factor = math.sqrt(1 - (certificate.margin / certificate.lipschitz) ** 2)
    weights = np.repeat(certificate.weights, sizes)
    slowest = 0.0
    for _ in range(settings.pairs):
        one, other = (
            gradient_play(
                pseudo_gradient,
                rng.uniform(-1, 1, len(A)),
                certificate.euler_step / 2,
                settings.steps,
                project=lambda point: np.clip(point, -1, 1),
            ).points
            for _ in range(2)
        )
        distances = np.sqrt((one - other) ** 2 @ weights)
        distances = distances[distances > 1e-9 * distances[0]]
        slowest = max(slowest, float((distances[1:] / distances[:-1]).max()))
    return {
        "margin": certificate.margin,
        "certified_factor": factor,
        "slowest_factor": slowest,
        "over_certified": slowest / factor,
    }


def draw_estimated_bounds(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "factor of one step on the distance of two plays")
    columns = {"certified": "certified_factor", "slowest measured": "slowest_factor"}
    figures.dots(axes, {label: figures.values(rows, name) for label, name in columns.items()}, paired=True)
    return figure


# --- Natural policy gradient -------------------------------------------------------------------------

_MULTIPLES = (0.5, 0.9, 1.0, 2.0, 5.0, 10.0, 20.0)
_DIVERGED = 100.0


@dataclass(frozen=True)
class PolicyGradient:
    """The paper's Markov game, or random ones of some states; the cube that is certified, and the plays.

    The starts are normal around the equilibrium with this spread. `samples` draws from the cube's grid.
    """

    random_states: int = 0
    random_actions: int = 3
    radius: float = 0.1
    points_per_dim: int = 2
    samples: int | None = None
    starts: int = 20
    spread: float = 0.01
    steps: int = 500
    decay_steps: int = 50

    def draw(self, rng: np.random.Generator) -> MarkovGame:
        if self.random_states == 0:
            return coordination_game()
        S, A = self.random_states, self.random_actions
        rewards = rng.uniform(-1, 1, (2, S, A, A))
        return MarkovGame(rng.dirichlet(np.ones(S), (S, A, A)), rewards)


class _Distances:
    """From the equilibrium of a game to logits (..., n)."""

    def __init__(self, game: MarkovGame, equilibrium: Floats, weights: Floats) -> None:
        self.states, self.first = len(game.initial), game.blocks[0]
        self.weights = weights
        self.logs = self._logs(equilibrium)

    def _logs(self, theta: Floats) -> list[Floats]:
        rows = (
            part.reshape(*theta.shape[:-1], self.states, -1)
            for part in (theta[..., : self.first], theta[..., self.first :])
        )
        return [row - np.logaddexp.reduce(row, axis=-1, keepdims=True) for row in rows]

    def lyapunov(self, theta: Floats) -> Floats:
        """The weighted sum over players and states of KL(equilibrium | policy)."""
        total = np.zeros(theta.shape[:-1])
        for weight, star, logs in zip(self.weights, self.logs, self._logs(theta), strict=True):
            gap = logs - star
            # The sum of p* (e^gap - 1) is zero; with it each term is positive, and small sums are exact.
            total += weight * (np.exp(star) * (np.expm1(gap) - gap)).sum(axis=(-2, -1))
        return total

    def logits(self, theta: Floats) -> Floats:
        """The largest difference of logarithms of probabilities, which no constant per state changes."""
        gaps = [
            np.abs(logs - star).max(axis=(-2, -1))
            for star, logs in zip(self.logs, self._logs(theta), strict=True)
        ]
        largest: Floats = np.maximum(*gaps)
        return largest


def mirror_geometry(settings: PolicyGradient, rng: np.random.Generator) -> Measurements:
    """Natural and plain policy gradient from the same starts at multiples of the certified step: shares
    that converge, and how fast the Lyapunov function falls at half the certified step.

    Near uniform policies of two actions the Fisher matrix is half the identity, so that natural gradient is
    plain gradient of twice the step; `decay_plain_doubled` shows it.
    """
    game = settings.draw(rng)
    equilibrium = game.equilibrium()
    certificate = certify_policy_gradient(
        game,
        equilibrium,
        radius=settings.radius,
        points_per_dim=settings.points_per_dim,
        samples=settings.samples,
        seed=rng,
    )
    starts = equilibrium + settings.spread * rng.normal(size=(settings.starts, equilibrium.size))
    cube = equilibrium + settings.radius * rng.uniform(-1, 1, (settings.starts, equilibrium.size))
    names = ["converged_natural", "largest_lyapunov_ratio", "decay_natural", "decay_plain"]
    measured: dict[str, float | None | list[float]] = {
        "margin": certificate.margin,
        "euler_step": certificate.euler_step,
        "multiples": list(_MULTIPLES),
    }
    if not certificate.certified:
        return measured | dict.fromkeys([*names, "decay_plain_doubled", "shares_natural", "shares_plain"])
    distance = _Distances(game, equilibrium, certificate.weights)
    eta = certificate.euler_step
    steps = eta * np.array(_MULTIPLES)[:, None, None]

    for name, gradient in (("natural", game.natural_gradient), ("plain", game.pseudo_gradient)):
        theta = np.broadcast_to(starts, (len(_MULTIPLES), *starts.shape)).copy()
        for _ in range(settings.steps):
            # A play that has left for infinity stays where it left.
            inside = np.abs(theta).max(axis=2, keepdims=True) < _DIVERGED
            theta -= np.where(inside, steps, 0.0) * gradient(theta)
        shares = (distance.logits(theta) <= 1e-5).mean(axis=1)
        measured[f"shares_{name}"] = shares.tolist()
        if name == "natural":
            measured["converged_natural"] = float(shares[_MULTIPLES.index(0.9)])

    for name, gradient, step in (
        ("natural", game.natural_gradient, eta / 2),
        ("plain", game.pseudo_gradient, eta / 2),
        ("plain_doubled", game.pseudo_gradient, eta),
    ):
        theta = starts
        for _ in range(settings.decay_steps):
            theta = theta - step * gradient(theta)
        fall = np.log(distance.lyapunov(starts) / distance.lyapunov(theta)) / settings.decay_steps
        measured[f"decay_{name}"] = float(np.median(fall))

    theta, values = cube, [distance.lyapunov(cube)]
    for _ in range(settings.decay_steps):
        theta = game.natural_step(theta, 0.9 * eta)
        values.append(distance.lyapunov(theta))
    # Below that, rounding decides.
    before, after = np.array(values[:-1]), np.array(values[1:])
    exact = before > 1e-12 * values[0]
    measured["largest_lyapunov_ratio"] = float((after[exact] / before[exact]).max())
    return measured


def draw_policy_gradient(rows: Sequence[Measurements]) -> Figure:
    figure, (left, right) = figures.panels(2)
    certified = [row for row in rows if row["shares_natural"] is not None]
    if certified:
        for name, style in (("natural", "o-"), ("plain", "s--")):
            shares = figures.curves(certified, f"shares_{name}").mean(axis=0)
            left.plot(_MULTIPLES, shares, style, label=f"{name} gradient")
        left.legend(frameon=False)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="step / certified step", ylabel="share of starts that converge")
    labels = {"natural": "natural", "plain": "plain", "plain_doubled": "plain,\ntwice the step"}
    columns = {label: figures.values(rows, f"decay_{name}") for name, label in labels.items()}
    figures.dots(right, columns, paired=True)
    right.set(ylim=(0, None), ylabel="decay of the Lyapunov function a step")
    return figure


# --- Random games ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomGames:
    """How many games a trial draws, the variables of each player, and the grid of couplings s."""

    games: int = 30
    block: int = 32
    largest: float = 2.5
    couplings: int = 26


def random_games(settings: RandomGames, rng: np.random.Generator) -> Measurements:
    """Shares of games, over all couplings, that are monotone in the plain norm, certified, and stable."""
    sizes = [settings.block] * 2
    grid = np.linspace(0, settings.largest, settings.couplings)
    answers = np.zeros((settings.games, grid.size, 3), dtype=bool)
    for g in range(settings.games):
        G1, G2, C = rng.normal(size=(3, settings.block, settings.block))
        own = G1.T @ G1 + np.eye(settings.block), G2.T @ G2 + np.eye(settings.block)
        C /= _norm(C)
        for k, s in enumerate(grid):
            H = _coupled(own, C, _STRONG * s, _WEAK * s)
            answers[g, k] = (
                _least_symmetric(H) > 0,
                certify(H, sizes).certified,
                np.linalg.eigvals(H).real.min() > 0,
            )
    shares = answers.mean(axis=0)
    measured: dict[str, float | list[float]] = {"couplings": grid.tolist()}
    for k, name in enumerate(("plain", "small_gain", "stable")):
        measured[f"share_{name}"] = float(shares[:, k].mean())
        measured[f"shares_{name}"] = shares[:, k].tolist()
    return measured


def draw_random_games(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("coupling s", "share of games")
    grid = figures.curves(rows, "couplings")[0]
    labels = {
        "stable": "stable",
        "small_gain": "certified by Small-Gain Nash",
        "plain": "monotone in the plain norm",
    }
    for name, label in labels.items():
        axes.plot(grid, figures.curves(rows, f"shares_{name}").mean(axis=0), label=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


# --- The study ---------------------------------------------------------------------------------------

_QUADRATIC = Published(
    "SGN certifies convergence of quadratic games where Euclidean monotonicity fails to predict it",
    "abstract; the 64-dimensional linear-quadratic game",
)
_STEPS = Published("projected Euler and RK4 converge under explicit step-size bounds", "abstract")

STUDY = Study(
    slug="small_gain_nash",
    experiments=(
        Experiment(
            name="certifies_non_monotone",
            trial=certifies_non_monotone,
            scales={"quick": CoupledGame(), "full": CoupledGame(block=256, couplings=251)},
            claims=(
                Claim(
                    "certifies_where_the_plain_test_fails",
                    "contracts at a certified rate of 0.293 where the plain norm has a margin below -4",
                    all_of(at_most("plain_margin", -4), near("margin", 0.2929, 1e-3)),
                    published=_QUADRATIC,
                ),
                Claim(
                    "certifies_stronger_couplings",
                    "certifies couplings that are stronger by more than 1 than those the plain test does",
                    better("range_small_gain", than="range_plain", lower=False, by=1.0),
                    published=_QUADRATIC,
                ),
            ),
            figure=draw_margins,
        ),
        Experiment(
            name="flow_contracts",
            trial=flow_contracts,
            scales={
                "quick": Flows(),
                "full": Flows(block=128, random_games=200, sizes=(16, 12, 20), starts=64),
            },
            claims=(
                Claim(
                    "decays_at_the_certified_rate",
                    "decays in the weighted norm at least as fast as certified, at all times",
                    at_least("decay_ratio", 1 - 1e-6),
                    published=Published("the flow is exponentially contracting in the metric", "abstract"),
                ),
            ),
            figure=draw_flows,
        ),
        Experiment(
            name="safe_steps",
            trial=safe_steps,
            scales={
                "quick": Steps(),
                "full": Steps(block=128, couplings=251, random_games=200, sizes=(16, 12, 20), steps=1000),
            },
            claims=(
                Claim(
                    "euler_contracts",
                    "contracts in each Euler step of 0.99 of the bound",
                    at_most("euler_factor", 1.0),
                    published=_STEPS,
                ),
                Claim(
                    "projected_euler_converges",
                    "comes closer to the constrained equilibrium in each projected Euler step",
                    at_most("projected_euler_factor", 1.0),
                    published=_STEPS,
                ),
                Claim(
                    "rk4_does_not_expand",
                    "does not expand in an RK4 step of the bound for affine games",
                    at_most("rk4_factor", 1.0),
                    published=_STEPS,
                ),
                Claim(
                    "rk4_is_stable",
                    "is stable under RK4 steps of 2.5 over the Lipschitz constant",
                    at_most("rk4_radius", 1.0),
                    published=Published("h <= 2.5 / beta", "RK4 guideline of the linear-quadratic games"),
                ),
            ),
            figure=draw_steps,
        ),
        Experiment(
            name="timescale_band",
            trial=timescales,
            scales={"quick": Bands(), "full": Bands(block=128, ratios=1601)},
            claims=(
                Claim(
                    "band_is_where_the_margin_is_positive",
                    "has a finite band of weight ratios, whose ends in closed form are where the margin "
                    "changes sign, within a tenth of a step of the grid",
                    near("band_error", 0.0, 0.1),
                    published=Published("a finite band of relative metric weights", "abstract"),
                ),
                Claim(
                    "one_step_size_contracts_throughout_the_band",
                    "contracts under Euler with one step size for both players, at every ratio of the band",
                    at_most("euler_factor", 1.0),
                    published=Published("single-step-size dynamics is provably contractive", "abstract"),
                ),
            ),
            figure=draw_bands,
        ),
        Experiment(
            name="estimated_bounds",
            trial=estimated_bounds,
            scales={"quick": Regions(), "full": Regions(sizes=(16, 12, 20), jacobians=5000, pairs=100)},
            claims=(
                Claim(
                    "play_contracts_as_estimated",
                    "contracts at least as fast as the bounds estimated on a region say, in games that are "
                    "not affine",
                    at_most("over_certified", 1.0),
                    published=Published(
                        "parameters estimated on compact regions give the certificate",
                        "abstract",
                    ),
                ),
            ),
            figure=draw_estimated_bounds,
        ),
        Experiment(
            name="mirror_geometry",
            trial=mirror_geometry,
            scales={
                "quick": PolicyGradient(),
                "larger": PolicyGradient(random_states=6, samples=1000, decay_steps=20),
                "full": PolicyGradient(points_per_dim=4, starts=200, steps=2000),
            },
            claims=(
                Claim(
                    "natural_gradient_converges",
                    "converges by natural policy gradient from every start at 0.9 of the certified step",
                    at_least("converged_natural", 1.0),
                    published=Published("natural policy gradient is stable below the bound", "Markov game"),
                ),
                Claim(
                    "natural_gradient_decays_faster",
                    "lowers the Lyapunov function faster by natural than by plain policy gradient of the "
                    "same step",
                    better("decay_natural", than="decay_plain", lower=False),
                    published=Published(
                        "faster Lyapunov decay than Euclidean policy gradient", "Markov game"
                    ),
                ),
                Claim(
                    "every_step_lowers_the_lyapunov_function",
                    "lowers the Lyapunov function in each step from anywhere in the certified cube",
                    at_most("largest_lyapunov_ratio", 1.0),
                    published=Published(
                        "contraction in the Fisher metric near the equilibrium", "Markov game"
                    ),
                ),
            ),
            figure=draw_policy_gradient,
        ),
        Experiment(
            name="random_games",
            trial=random_games,
            scales={"quick": RandomGames(), "full": RandomGames(games=100, block=64, couplings=61)},
            claims=(
                Claim(
                    "certifies_more_random_games",
                    "certifies a share of random games that is larger by more than 0.2 than that of the "
                    "plain test",
                    better("share_small_gain", than="share_plain", lower=False, by=0.2),
                    published=Published("certifies beyond Euclidean monotonicity", "random game ensemble"),
                ),
            ),
            figure=draw_random_games,
        ),
    ),
)
