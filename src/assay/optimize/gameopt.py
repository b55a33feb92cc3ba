"""GameOpt: Bayesian optimisation over categorical variables that proposes the equilibria of a game.

Bal, Sessa, Mutný and Krause, "Optimistic Games for Combinatorial Bayesian Optimization with Application to
Protein Design" (2024), arXiv 2409.18582.

Points are integer vectors x with 0 <= x_i < q_i; their number, the product of all q_i, forbids to maximise
an acquisition function by enumeration. GameOpt makes every variable a player that chooses its x_i; all are
paid the upper confidence bound (UCB) of a Gaussian process. Points where no player gains by changing its own
choice, the equilibria, take the place of the maximiser. Finding one costs the sum of the q_i a round.

The process has a product kernel. Deviations of player i from x share ``k_rest``, the kernel of x with the
data over all other variables, and meet a datum j only through its letter ``X_ji``, so their variances need
``L^-1`` times one partial sum of ``k_rest`` for each letter: N^2 / 2 operations for all q_i deviations, and
q_i N u more for the u letters in the data, instead of q_i N^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Protocol, get_args

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Payoff = Callable[[Integers], Any]

Order = Literal["best", "cyclic"]
Refit = Literal["once", "always"]
Strategy = Literal["best_response", "hedge", "random", "ucb_random", "ucb_enumerate", "local_search"]

_MOST_ACTIONS = 1_000_000
_MOST_ENUMERATED = 2_000_000
_LEAST_NOISE = 1e-10  # keeps the Cholesky factor of repeated points apart from rounding
_PRIOR_VARIANCE = 3.0  # of the log of a lengthscale
_ROWS = 4096  # kernel rows made at once


# --- Input ---------------------------------------------------------------------------------------------


def _one_of(name: str, value: object, known: Any) -> None:
    if value not in get_args(known):
        raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")


def _count(name: str, value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def _number(name: str, value: float, *, zero: bool) -> float:
    if not (0 <= value < np.inf) or (value == 0 and not zero):
        raise ValueError(f"{name} must be a number {'of at least' if zero else 'above'} 0, got {value!r}")
    return float(value)


def _integers(name: str, value: ArrayLike) -> Integers:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got an array of {array.dtype}")
    return array.astype(np.int64)


def _sizes(n_choices: int | ArrayLike, n: int | None = None) -> Integers:
    """The number of choices of each variable; one number stands for all of n variables, where n is known."""
    sizes = _integers("n_choices", n_choices)
    if sizes.ndim == 0 and n is not None:
        sizes = np.full(n, sizes)
    if sizes.ndim != 1 or sizes.size == 0:
        raise ValueError(f"n_choices must be a sequence of sizes, one a variable, got {n_choices!r}")
    if sizes.min() < 1:
        raise ValueError(f"n_choices must be at least 1 for every variable, got {sizes.min()}")
    return sizes


def _within(name: str, points: Integers, sizes: Integers) -> None:
    outside = np.argwhere((points < 0) | (points >= sizes))
    if outside.size:
        at = tuple(outside[0])
        raise ValueError(
            f"{name} must lie within 0 to {sizes[at[-1]] - 1} in variable {at[-1]}, got {points[at]}"
        )


def _points(points: ArrayLike, sizes: Integers) -> Integers:
    array = _integers("points", points)
    if array.ndim != 2 or array.shape[1] != sizes.size:
        raise ValueError(f"points must have shape (N, {sizes.size}), got {array.shape}")
    _within("points", array, sizes)
    return array


def _point(name: str, point: ArrayLike, n_choices: int | ArrayLike) -> tuple[Integers, Integers]:
    array = _integers(name, point)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}")
    sizes = _sizes(n_choices, array.size)
    if sizes.size != array.size:
        raise ValueError(f"{name} must have {sizes.size} entries, one a variable, got {array.size}")
    _within(name, array, sizes)
    return array, sizes


def _data(points: ArrayLike, values: ArrayLike, sizes: Integers) -> tuple[Integers, Floats]:
    X, y = _points(points, sizes), np.asarray(values, dtype=np.float64)
    if y.shape != (len(X),) or not len(X):
        raise ValueError(f"values must have shape ({len(X)},) and points a row at least, got {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError("values must be finite, got NaN or infinity")
    return X, y


# --- The game ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equilibrium:
    """Where best responses came to rest (Bal et al., 2024, arXiv 2409.18582).

    Attributes:
        point: (n,) int64.
        value: the payoff there.
        converged: whether no player gains from deviating; False where `max_rounds` ended the game.
        n_rounds: rounds played, the last of which found nothing to gain.
        n_evaluations: rows for which the payoff was evaluated, the start included.

    >>> Equilibrium(np.array([0, 1]), 3.0, True, n_rounds=2, n_evaluations=9).value
    3.0
    """

    point: Integers
    value: float
    converged: bool
    n_rounds: int
    n_evaluations: int


class _Players:
    """Who chooses what: each player owns a group of variables and every combination of their choices.

    Deviations are numbered player by player, and within a player with its last variable running fastest.
    """

    def __init__(self, sizes: Integers, groups: Sequence[Sequence[int]] | None) -> None:
        self.groups = [[i] for i in range(sizes.size)] if groups is None else [list(g) for g in groups]
        members = [i for group in self.groups for i in group]
        if sorted(members) != list(range(sizes.size)) or not all(self.groups):
            raise ValueError(
                f"groups must hold each of the {sizes.size} variables once and none be empty, got {groups!r}"
            )
        self.actions: list[Integers] = []
        for group in self.groups:
            shape = tuple(sizes[group].tolist())
            if math.prod(shape) > _MOST_ACTIONS:
                raise ValueError(
                    f"groups must have at most 10^6 joint choices, got one of {math.prod(shape)}"
                )
            self.actions.append(np.indices(shape).reshape(len(group), -1).T)
        self.offsets = np.cumsum([0, *map(len, self.actions)])

    def of(self, player: int | None) -> range:
        """That player alone, or all."""
        return range(len(self.groups)) if player is None else range(player, player + 1)

    def deviations(self, point: Integers, player: int | None = None) -> Integers:
        """The rows that differ from the point in the choices of one player; those that equal it included."""
        who = self.of(player)
        first = self.offsets[who.start]
        rows = np.tile(point, (self.offsets[who.stop] - first, 1))
        for p in who:
            rows[self.offsets[p] - first : self.offsets[p + 1] - first, self.groups[p]] = self.actions[p]
        return rows

    def deviate(self, point: Integers, player: int | None, deviation: int) -> Integers:
        """Row `deviation` of `deviations`."""
        deviation += self.offsets[player or 0]
        p = int(np.searchsorted(self.offsets, deviation, side="right")) - 1
        moved = point.copy()
        moved[self.groups[p]] = self.actions[p][deviation - self.offsets[p]]
        return moved


class _Game(Protocol):
    players: _Players

    def value(self, point: Integers) -> float: ...

    def payoffs(self, point: Integers, player: int | None = None) -> Floats:
        """The payoff of each of `players.deviations`."""


class _PayoffGame:
    """A game whose payoff is any function of rows."""

    def __init__(self, payoff: Payoff, sizes: Integers, groups: Sequence[Sequence[int]] | None) -> None:
        self.players = _Players(sizes, groups)
        self._payoff = payoff

    def _evaluate(self, rows: Integers) -> Floats:
        payoffs = np.asarray(self._payoff(rows), dtype=np.float64)
        if payoffs.shape != (len(rows),):
            raise ValueError(f"payoff must return shape ({len(rows)},) for as many rows, got {payoffs.shape}")
        if not np.isfinite(payoffs).all():
            raise ValueError("payoff must return finite numbers, got NaN or infinity")
        return payoffs

    def value(self, point: Integers) -> float:
        return float(self._evaluate(point[None].copy())[0])

    def payoffs(self, point: Integers, player: int | None = None) -> Floats:
        return self._evaluate(self.players.deviations(point, player))


def _best_response(
    game: _Game, start: Integers, order: Order, max_rounds: int = 1000, tolerance: float = 1e-12
) -> Equilibrium:
    point, value, evaluations = start.copy(), game.value(start), 1
    # The best of all deviations is the best response of one player that may change any single choice.
    turns: Iterable[int | None] = (None,) if order == "best" else game.players.of(None)
    for n_rounds in range(1, max_rounds + 1):
        moved = False
        for player in turns:
            payoffs = game.payoffs(point, player)
            evaluations += payoffs.size
            best = int(payoffs.argmax())
            if payoffs[best] > value + tolerance * max(1.0, abs(value)):
                point, value = game.players.deviate(point, player, best), float(payoffs[best])
                moved = True
        if not moved:
            return Equilibrium(point, value, True, n_rounds, evaluations)
    return Equilibrium(point, value, False, max_rounds, evaluations)


def _hedge(
    game: _Game, start: Integers, learning_rate: float, n_rounds: int, n_last: int, rng: np.random.Generator
) -> Integers:
    players, point = game.players, start.copy()
    segments = [slice(*players.offsets[p : p + 2]) for p in players.of(None)]
    log_weights = np.zeros(players.offsets[-1])
    draws = np.empty((n_rounds, start.size), dtype=np.int64)
    for t in range(n_rounds):
        log_weights += learning_rate * game.payoffs(point)
        # The largest of log-weights with Gumbel noise is a draw from their softmax, at any scale.
        noisy = log_weights + rng.gumbel(size=log_weights.size)
        for group, actions, segment in zip(players.groups, players.actions, segments, strict=True):
            point[group] = actions[noisy[segment].argmax()]
        draws[t] = point
    _, first = np.unique(draws[-n_last:], axis=0, return_index=True)
    return draws[-n_last:][np.sort(first)]


def best_response_equilibrium(
    payoff: Payoff,
    start: ArrayLike,
    n_choices: int | ArrayLike,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    order: Order = "best",
    max_rounds: int = 1000,
    tolerance: float = 1e-12,
) -> Equilibrium:
    """A pure equilibrium of the game that pays every player `payoff`, by best responses from `start`.

    From Bal, Sessa, Mutný and Krause (2024), arXiv 2409.18582. Each move raises the one payoff that all
    share, so the game ends, in a local maximum that need not be the largest.

    Args:
        payoff: maps integer points (N, n) to their payoffs (N,); larger is better.
        start: (n,) integers, the point to start from.
        n_choices: how many choices each variable has; one number where all have as many.
        groups: the variables of each player, a partition; by default each variable is a player.
        order: "best" moves in each round to the best of all players' deviations, the first of equals;
            "cyclic" lets the players move in turn, a round being one pass over them.
        max_rounds: where to stop if nothing else does.
        tolerance: the least gain that counts, as a share of the payoff or, below 1, absolute.

    Returns:
        An `Equilibrium`.

    Raises:
        ValueError: for sizes below 1, a start or groups that do not fit them, groups of more than 10^6 joint
            choices, an unknown order, `max_rounds` below 1, a negative tolerance, and for payoffs of the
            wrong shape or not finite.

    >>> table = np.array([[3.0, 0.0], [0.0, 2.0]])
    >>> result = best_response_equilibrium(lambda x: table[x[:, 0], x[:, 1]], [0, 1], 2)
    >>> result.point.tolist(), result.value
    ([0, 0], 3.0)
    """
    point, sizes = _point("start", start, n_choices)
    _one_of("order", order, Order)
    _count("max_rounds", max_rounds)
    _number("tolerance", tolerance, zero=True)
    return _best_response(_PayoffGame(payoff, sizes, groups), point, order, max_rounds, tolerance)


def hedge_equilibria(
    payoff: Payoff,
    start: ArrayLike,
    n_choices: int | ArrayLike,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    learning_rate: float = 0.5,
    n_rounds: int = 400,
    n_last: int = 10,
    seed: int | np.random.Generator | None = None,
) -> Integers:
    """The last joint draws of players that each learn by Hedge, which near a coarse correlated equilibrium.

    From Bal, Sessa, Mutný and Krause (2024), arXiv 2409.18582. In every round each player multiplies the
    weight of each of its actions by ``exp(learning_rate * payoff)``, the others' actions being as last
    drawn; then all draw from their weights.

    Args:
        payoff: maps integer points (N, n) to their payoffs (N,); larger is better. The learning rate
            multiplies it as it is, so a payoff of unit scale suits 0.5.
        start: (n,) integers, what the players face in the first round.
        n_choices: how many choices each variable has; one number where all have as many.
        groups: the variables of each player, a partition; by default each variable is a player.
        learning_rate: positive.
        n_rounds: how many joint draws are made.
        n_last: how many of the last ones are returned.
        seed: of the draws.

    Returns:
        (at most `n_last`, n) int64: the last draws, those that are equal once.

    Raises:
        ValueError: as `best_response_equilibrium` does, and for a learning rate that is not positive and
            counts below 1.

    >>> hedge_equilibria(lambda x: -np.abs(x - 2.0).sum(axis=1), [0, 0, 0], 4, seed=0).tolist()
    [[2, 2, 2]]
    """
    point, sizes = _point("start", start, n_choices)
    _number("learning_rate", learning_rate, zero=False)
    _count("n_rounds", n_rounds)
    _count("n_last", n_last)
    game = _PayoffGame(payoff, sizes, groups)
    return _hedge(game, point, learning_rate, n_rounds, n_last, np.random.default_rng(seed))


def equilibrium_gap(
    payoff: Payoff,
    point: ArrayLike,
    n_choices: int | ArrayLike,
    *,
    groups: Sequence[Sequence[int]] | None = None,
) -> float:
    """The most that one player can gain by changing its own choice: 0 at an equilibrium.

    A point whose gap is at most e is an e-approximate Nash equilibrium (Bal, Sessa, Mutný and Krause, 2024,
    arXiv 2409.18582).

    Args:
        payoff: maps integer points (N, n) to their payoffs (N,); larger is better.
        point: (n,) integers.
        n_choices: how many choices each variable has; one number where all have as many.
        groups: the variables of each player, a partition; by default each variable is a player.

    Returns:
        The gap, at least 0, in units of the payoff.

    Raises:
        ValueError: as `best_response_equilibrium` does.

    >>> table = np.array([[3.0, 0.0], [0.0, 2.0]])
    >>> equilibrium_gap(lambda x: table[x[:, 0], x[:, 1]], [0, 1], 2)
    3.0
    """
    at, sizes = _point("point", point, n_choices)
    game = _PayoffGame(payoff, sizes, groups)
    return max(0.0, float(game.payoffs(at).max()) - game.value(at))


# --- The surrogate -------------------------------------------------------------------------------------


def _squared_distances(sizes: Integers, embeddings: Any) -> list[Floats]:
    """Of each variable, the (q, q) squared distances between its choices' embeddings."""
    if embeddings is None:
        return [2.0 * (1 - np.eye(q)) for q in sizes]  # one-hot
    one_for_all = np.ndim(embeddings[0]) == 1
    tables = [embeddings] * sizes.size if one_for_all else list(embeddings)
    if len(tables) != sizes.size:
        raise ValueError(f"embeddings must be one array or {sizes.size}, one a variable, got {len(tables)}")
    distances = []
    for i, (table, q) in enumerate(zip(tables, sizes, strict=True)):
        E = np.asarray(table, dtype=np.float64)
        if E.ndim != 2 or len(E) != q:
            raise ValueError(f"embeddings of variable {i} must have shape ({q}, d), got {E.shape}")
        if not np.isfinite(E).all():
            raise ValueError(f"embeddings must be finite, got NaN or infinity in those of variable {i}")
        distances.append(np.square(E[:, None] - E[None]).sum(axis=-1))
    return distances


@numba.njit(cache=True)
def _kernel_rows(rows: Integers, letters: Integers, exponents: Floats) -> Floats:
    """Kernel of each row with each datum; `letters` is the data, (n, N), `exponents` (n, q, q)."""
    kernel = np.empty((rows.shape[0], letters.shape[1]))
    for r in range(rows.shape[0]):
        total = np.zeros(letters.shape[1])
        for i in range(letters.shape[0]):
            of_choice = exponents[i, rows[r, i]]
            for j in range(letters.shape[1]):
                total[j] += of_choice[letters[i, j]]
        for j in range(letters.shape[1]):
            kernel[r, j] = np.exp(total[j])
    return kernel


@numba.njit(cache=True)
def _site_moments(
    point: Integers,
    first: int,
    last: int,
    sizes: Integers,
    letters: Integers,
    exponents: Floats,
    factors: Floats,
    weights: Floats,
    whitening: Floats,
) -> tuple[Floats, Floats]:
    """Mean and explained variance of every deviation of one variable, for variables `first` to `last`."""
    n, N = letters.shape
    log_kernel = np.zeros(N)
    for i in range(n):
        of_choice = exponents[i, point[i]]
        for j in range(N):
            log_kernel[j] += of_choice[letters[i, j]]
    total = sizes[first:last].sum()
    mean, explained = np.zeros(total), np.zeros(total)
    start = 0
    for i in range(first, last):
        q = sizes[i]
        seen = np.full(q, -1)
        n_seen = 0
        for j in range(N):
            if seen[letters[i, j]] < 0:
                seen[letters[i, j]] = n_seen
                n_seen += 1
        partial = np.zeros((n_seen, N))
        partial_mean = np.zeros(n_seen)
        of_choice = exponents[i, point[i]]
        for j in range(N):
            rest = np.exp(log_kernel[j] - of_choice[letters[i, j]])
            row = partial[seen[letters[i, j]]]
            column = whitening[j]
            for m in range(j, N):
                row[m] += rest * column[m]
            partial_mean[seen[letters[i, j]]] += rest * weights[j]
        of_seen = np.empty((q, n_seen))
        for letter in range(q):
            if seen[letter] >= 0:
                for choice in range(q):
                    of_seen[choice, seen[letter]] = factors[i, choice, letter]
        whitened = of_seen @ partial
        for choice in range(q):
            for s in range(n_seen):
                mean[start + choice] += of_seen[choice, s] * partial_mean[s]
            for m in range(N):
                explained[start + choice] += whitened[choice, m] ** 2
        start += q
    return mean, explained


class CategoricalGP:
    """Gaussian process over categorical variables: an RBF kernel of the embeddings of their choices.

    The surrogate of Bal, Sessa, Mutný and Krause (2024), arXiv 2409.18582. Values are standardised by their
    mean and population standard deviation; the process then has mean 0 and the kernel
    ``exp(-1/2 sum_i |E_i[x_i] - E_i[x'_i]|^2 / l_i^2)``.

    Args:
        n_choices: (n,) how many choices each variable has.
        embeddings: (q, d) for all variables alike, or n arrays (q_i, d_i); one-hot if None.
        lengthscales: a number or (n,), in units of the embeddings. If None, they maximise the marginal
            likelihood times a log-normal prior, whose median lets two random points correlate by exp(-1/2)
            and whose log has variance 3 (Hvarfner, Hellsten and Nardi, 2024, arXiv 2402.02229). Without a
            prior, few data in many variables drive the kernel to that of white noise.
        noise_variance: of the standardised values; what is below 1e-10 counts as 1e-10.
        refit: "once" keeps the lengthscales of the first fit whose values vary, "always" fits them anew.

    Attributes:
        lengthscales_: (n,) after a fit.

    Raises:
        ValueError: for sizes below 1, embeddings that do not fit them, lengthscales or a noise variance that
            are not positive, or an unknown refit.

    >>> model = CategoricalGP([2, 3], lengthscales=1.0).fit([[0, 0], [1, 2]], [1.0, 3.0])
    >>> mean, sd = model.predict([[0, 0], [0, 2]])
    >>> mean.round(3).tolist(), sd.round(3).tolist()
    ([1.001, 2.0], [0.032, 0.873])
    """

    def __init__(
        self,
        n_choices: ArrayLike,
        *,
        embeddings: ArrayLike | Sequence[ArrayLike] | None = None,
        lengthscales: ArrayLike | None = None,
        noise_variance: float = 1e-3,
        refit: Refit = "once",
    ) -> None:
        self._sizes = _sizes(n_choices)
        self._distances = _squared_distances(self._sizes, embeddings)
        self._noise = max(_number("noise_variance", noise_variance, zero=False), _LEAST_NOISE)
        _one_of("refit", refit, Refit)
        self._refit = refit
        self._fixed = lengthscales is not None
        if lengthscales is not None:
            given = np.asarray(lengthscales, dtype=np.float64)
            if given.shape not in ((), (self._sizes.size,)):
                raise ValueError(
                    f"lengthscales must be a number or have shape ({self._sizes.size},), got {given.shape}"
                )
            if not (np.isfinite(given) & (given > 0)).all():
                raise ValueError(f"lengthscales must be positive, got {lengthscales!r}")
            self.lengthscales_ = np.full(self._sizes.size, given)
        self._letters: Integers | None = None

    def fit(self, points: ArrayLike, values: ArrayLike) -> CategoricalGP:
        """Condition on `values` (N,) at integer `points` (N, n), in place of what was fitted before.

        Raises ValueError for points that do not fit the variables and for values that are not finite.
        """
        X, y = _data(points, values, self._sizes)
        varies = bool(np.ptp(y) > 0)
        self._mean, self._sd = float(y.mean()), float(y.std()) if varies else 1.0
        z = (y - self._mean) / self._sd
        if not self._fixed:
            self.lengthscales_ = self._probable_lengthscales(X, z)
            self._fixed = varies and self._refit == "once"

        self._letters = np.ascontiguousarray(X.T)
        largest = int(self._sizes.max())
        self._exponents = np.zeros((self._sizes.size, largest, largest))
        for i, (q, distances) in enumerate(zip(self._sizes, self._distances, strict=True)):
            # exp(-750) is 0 already; a sum of such exponents stays finite.
            with np.errstate(over="ignore"):
                scaled = distances / self.lengthscales_[i] / self.lengthscales_[i]
            self._exponents[i, :q, :q] = np.maximum(-0.5 * scaled, -750.0)
        self._factors = np.exp(self._exponents)
        K = _kernel_rows(X, self._letters, self._exponents)
        self._cholesky = cholesky(K + self._noise * np.eye(len(X)), lower=True)
        self._weights = cho_solve((self._cholesky, True), z)
        inverse = solve_triangular(self._cholesky, np.eye(len(X)), lower=True)
        self._whitening = np.ascontiguousarray(inverse.T)
        return self

    def _probable_lengthscales(self, X: Integers, z: Floats) -> Floats:
        n, N = self._sizes.size, len(X)
        typical = np.array([distances.mean() for distances in self._distances])
        start = np.sqrt(np.where(typical > 0, n * typical, 1.0))
        if not z.any():
            return start
        squared = np.stack([d[x[:, None], x] for d, x in zip(self._distances, X.T, strict=True)])
        squared = squared.reshape(n, N * N)

        def negative_log_posterior(log_ratio: Floats) -> tuple[float, Floats]:
            precisions = 1 / np.square(start * np.exp(log_ratio))
            K = np.exp(-0.5 * precisions @ squared).reshape(N, N)
            L = cholesky(K + self._noise * np.eye(N), lower=True)
            weights = cho_solve((L, True), z)
            inverse = cho_solve((L, True), np.eye(N))
            slope = 0.5 * precisions * (squared @ ((inverse - np.outer(weights, weights)) * K).ravel())
            prior = log_ratio / _PRIOR_VARIANCE
            value = 0.5 * z @ weights + np.log(L.diagonal()).sum() + 0.5 * log_ratio @ prior
            return float(value), slope + prior

        bounds = [(-math.log(100), math.log(100))] * n  # guards the line search against overflow
        found = minimize(negative_log_posterior, np.zeros(n), jac=True, method="L-BFGS-B", bounds=bounds)
        probable: Floats = start * np.exp(found.x)
        return probable

    def _fitted(self) -> Integers:
        if self._letters is None:
            raise ValueError("CategoricalGP must be fitted before it predicts")
        return self._letters

    def _standardised(self, points: Integers) -> tuple[Floats, Floats]:
        letters = self._fitted()
        mean, sd = np.empty(len(points)), np.empty(len(points))
        for start in range(0, len(points), _ROWS):
            chunk = slice(start, start + _ROWS)
            kernel = _kernel_rows(points[chunk], letters, self._exponents)
            mean[chunk], sd[chunk] = self._moments(kernel)
        return mean, sd

    def _moments(self, kernel: Floats) -> tuple[Floats, Floats]:
        explained = np.square(kernel @ self._whitening).sum(axis=1)
        return kernel @ self._weights, np.sqrt(np.maximum(1 - explained, 0.0))

    def predict(self, points: ArrayLike) -> tuple[Floats, Floats]:
        """Posterior mean and standard deviation (N,) of the function, noise apart, at `points` (N, n).

        Raises ValueError for points that do not fit the variables, or before a fit.
        """
        mean, sd = self._standardised(_points(points, self._sizes))
        return self._mean + self._sd * mean, self._sd * sd

    def upper_confidence_bound(self, points: ArrayLike, beta: float = 2.0) -> Floats:
        """Mean plus `beta` standard deviations (N,) at `points` (N, n).

        Raises ValueError as `predict` does, and for a negative beta.
        """
        _number("beta", beta, zero=True)
        mean, sd = self.predict(points)
        return mean + beta * sd


class _ConfidenceGame:
    """The game that pays the UCB of a fitted model, of standardised values."""

    def __init__(self, players: _Players, model: CategoricalGP, beta: float) -> None:
        self.players = players
        self._model, self._beta = model, beta
        self._letters = model._fitted()
        self._single = players.groups == [[i] for i in range(len(self._letters))]

    def ucb(self, points: Integers) -> Floats:
        mean, sd = self._model._standardised(points)
        return mean + self._beta * sd

    def value(self, point: Integers) -> float:
        return float(self.ucb(point[None])[0])

    def payoffs(self, point: Integers, player: int | None = None) -> Floats:
        model, who = self._model, self.players.of(player)
        if self._single:
            mean, explained = _site_moments(
                point,
                who.start,
                who.stop,
                model._sizes,
                self._letters,
                model._exponents,
                model._factors,
                model._weights,
                model._whitening,
            )
            return mean + self._beta * np.sqrt(np.maximum(1 - explained, 0.0))
        return np.concatenate([self._of_group(point, p) for p in who])

    def _of_group(self, point: Integers, player: int) -> Floats:
        """Joint letters are nearly as many as data, so nothing is gained from summing over them first."""
        group, actions = self.players.groups[player], self.players.actions[player]
        exponents, factors = self._model._exponents, self._model._factors
        others = [i for i in range(point.size) if i not in group]
        log_rest = np.zeros(self._letters.shape[1])
        for i in others:
            log_rest += exponents[i, point[i], self._letters[i]]
        rest = np.exp(log_rest)
        payoffs = np.empty(len(actions))
        for start in range(0, len(actions), _ROWS):
            chunk = slice(start, start + _ROWS)
            kernel = np.tile(rest, (len(actions[chunk]), 1))
            for i, choices in zip(group, actions[chunk].T, strict=True):
                kernel *= factors[i][:, self._letters[i]][choices]
            mean, sd = self._model._moments(kernel)
            payoffs[chunk] = mean + self._beta * sd
        return payoffs


# --- The optimiser -------------------------------------------------------------------------------------


class GameOpt:
    """Bayesian optimisation of a function of categorical variables, by equilibria or by other proposals.

    Bal, Sessa, Mutný and Krause (2024), arXiv 2409.18582. `ask` fits a `CategoricalGP` to what was told,
    plays `n_games` games from random starts and proposes those `batch_size` equilibria of the largest UCB
    that were not told yet; where there are fewer, it adds the best deviations from the best equilibrium.

    Args:
        n_choices: (n,) how many choices each variable has.
        embeddings: (q, d) for all variables alike, or n arrays (q_i, d_i); one-hot if None.
        strategy: "best_response" or "hedge" play games. For comparison: "random" points; the largest UCB
            among `n_candidates` random points ("ucb_random"), among the single changes to the five best
            points told, `n_candidates` of them where there are more ("local_search"), or among all points
            ("ucb_enumerate").
        n_games: games an `ask`.
        batch_size: points an `ask`.
        beta: how many standard deviations the UCB adds to the mean.
        groups: the variables of each player, a partition; by default each variable is a player.
        order: of best responses, "best" or "cyclic".
        lengthscales, noise_variance, refit: of the `CategoricalGP`.
        n_hedge_rounds: rounds of a game of Hedge; its last ten draws are the candidates.
        learning_rate: of Hedge, which is paid in standard deviations of the values told.
        n_candidates: see `strategy`.
        random_state: seed of all that is drawn.

    Attributes:
        points_: (N, n) told so far.
        values_: (N,) told so far.
        best_point_: (n,), where the largest value was told first.
        best_value_: that value.
        model_: the `CategoricalGP` of all that was told.
        equilibria_: of the last `ask`, an `Equilibrium` for each game of best responses.

    Raises:
        ValueError: for sizes, counts, embeddings, groups and numbers out of range, unknown names, and
            enumeration of more than 2,000,000 points.

    >>> landscape = EpistaticLandscape(6, 4, seed=0)
    >>> start = np.random.default_rng(0).integers(4, size=(10, 6))
    >>> optimiser = GameOpt([4] * 6, embeddings=landscape.embeddings, random_state=0)
    >>> _ = optimiser.tell(start, landscape(start))
    >>> for _ in range(5):
    ...     batch = optimiser.ask()
    ...     _ = optimiser.tell(batch, landscape(batch))
    >>> bool(optimiser.best_value_ > landscape(start).max())
    True
    """

    def __init__(
        self,
        n_choices: ArrayLike,
        *,
        embeddings: ArrayLike | Sequence[ArrayLike] | None = None,
        strategy: Strategy = "best_response",
        n_games: int = 10,
        batch_size: int = 5,
        beta: float = 2.0,
        groups: Sequence[Sequence[int]] | None = None,
        order: Order = "best",
        lengthscales: ArrayLike | None = None,
        noise_variance: float = 1e-3,
        refit: Refit = "once",
        n_hedge_rounds: int = 100,
        learning_rate: float = 0.5,
        n_candidates: int = 4000,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self._sizes = _sizes(n_choices)
        self._n_points = math.prod(self._sizes.tolist())
        _one_of("strategy", strategy, Strategy)
        _one_of("order", order, Order)
        if strategy == "ucb_enumerate" and self._n_points > _MOST_ENUMERATED:
            raise ValueError(f"ucb_enumerate takes at most 2,000,000 points, got {self._n_points}")
        self._strategy, self._order = strategy, order
        self._n_games = _count("n_games", n_games)
        self._batch_size = _count("batch_size", batch_size)
        self._beta = _number("beta", beta, zero=True)
        self._players = _Players(self._sizes, groups)
        self._n_hedge_rounds = _count("n_hedge_rounds", n_hedge_rounds)
        self._learning_rate = _number("learning_rate", learning_rate, zero=False)
        self._n_candidates = _count("n_candidates", n_candidates)
        self._rng = np.random.default_rng(random_state)
        self._model = CategoricalGP(
            self._sizes,
            embeddings=embeddings,
            lengthscales=lengthscales,
            noise_variance=noise_variance,
            refit=refit,
        )
        self._stale = True
        self._seen: set[bytes] = set()
        self.points_ = np.empty((0, self._sizes.size), dtype=np.int64)
        self.values_ = np.empty(0)
        self.equilibria_: list[Equilibrium] = []

    def tell(self, points: ArrayLike, values: ArrayLike) -> GameOpt:
        """Take in the function's `values` (N,) at integer `points` (N, n).

        Raises ValueError for points that do not fit the variables and for values that are not finite.
        """
        X, y = _data(points, values, self._sizes)
        self.points_, self.values_ = np.concatenate([self.points_, X]), np.concatenate([self.values_, y])
        self._seen.update(row.tobytes() for row in X)
        self._stale = True
        return self

    def _told(self) -> None:
        if not self.values_.size:
            raise ValueError("GameOpt must be told values first")

    @property
    def best_point_(self) -> Integers:
        """The point of the largest value told; ValueError before any."""
        self._told()
        best: Integers = self.points_[self.values_.argmax()].copy()
        return best

    @property
    def best_value_(self) -> float:
        """The largest value told; ValueError before any."""
        self._told()
        return float(self.values_.max())

    @property
    def model_(self) -> CategoricalGP:
        """The model of all that was told; ValueError before anything was."""
        self._told()
        if self._stale:
            self._model.fit(self.points_, self.values_)
            self._stale = False
        return self._model

    def ask(self) -> Integers:
        """The points to evaluate next, (batch_size, n) int64, distinct and not told yet.

        They are random before anything was told. Asking registers nothing.

        Raises ValueError where fewer than `batch_size` points are left.
        """
        left = self._n_points - len(self._seen)
        if left < self._batch_size:
            raise ValueError(
                f"search space exhausted: {left} of {self._n_points} points are left, fewer than "
                f"batch_size {self._batch_size}"
            )
        batch: dict[bytes, Integers] = {}
        if self.values_.size and self._strategy != "random":
            game = _ConfidenceGame(self._players, self.model_, self._beta)
            if self._strategy in ("best_response", "hedge"):
                candidates = self._play(game)
            else:
                candidates = self._candidates()
            ucb = game.ucb(candidates)
            order = np.argsort(-ucb, kind="stable")
            self._fill(batch, (candidates[i] for i in order))
            if len(batch) < self._batch_size and self._strategy in ("best_response", "hedge"):
                top = candidates[order[0]]
                deviations = self._players.deviations(top)
                self._fill(batch, (deviations[i] for i in np.argsort(-game.payoffs(top), kind="stable")))
        self._fill(batch, self._random_unseen())
        return np.array(list(batch.values()))

    def _fill(self, batch: dict[bytes, Integers], points: Iterable[Integers]) -> None:
        for point in points:
            if len(batch) == self._batch_size:
                return
            if (key := point.tobytes()) not in self._seen:
                batch.setdefault(key, point)

    def _random_points(self, count: int) -> Integers:
        return self._rng.integers(self._sizes, size=(count, self._sizes.size))

    def _every_point(self) -> Integers:
        return np.stack(np.unravel_index(np.arange(self._n_points), tuple(self._sizes)), axis=1)

    def _random_unseen(self) -> Iterable[Integers]:
        # In a small space drawing until something is new may take long.
        if self._n_points <= 20 * (len(self._seen) + self._batch_size):
            yield from self._rng.permutation(self._every_point())
        while True:
            yield from self._random_points(self._batch_size)

    def _play(self, game: _ConfidenceGame) -> Integers:
        starts = self._random_points(self._n_games)
        if self._strategy == "hedge":
            draws = [
                _hedge(game, start, self._learning_rate, self._n_hedge_rounds, 10, self._rng)
                for start in starts
            ]
            return np.concatenate(draws)
        found = [_best_response(game, start, self._order) for start in starts]
        mean, sd = self.model_._mean, self.model_._sd
        self.equilibria_ = [
            Equilibrium(e.point, mean + sd * e.value, e.converged, e.n_rounds, e.n_evaluations) for e in found
        ]
        return np.array([e.point for e in found])

    def _candidates(self) -> Integers:
        if self._strategy == "ucb_enumerate":
            return self._every_point()
        if self._strategy == "ucb_random":
            return self._random_points(self._n_candidates)
        best = self.points_[np.argsort(-self.values_, kind="stable")[:5]]
        single = _Players(self._sizes, None)
        mutants = np.concatenate([single.deviations(point) for point in best])
        if len(mutants) > self._n_candidates:
            mutants = self._rng.choice(mutants, self._n_candidates, replace=False)
        return mutants


# --- A landscape to search -----------------------------------------------------------------------------


class EpistaticLandscape:
    """A random function of letters at sites, of additive effects and smooth interactions of few sites.

    A stand-in for the protein landscapes of Bal, Sessa, Mutný and Krause (2024), arXiv 2409.18582. Letters
    have normal embeddings E. A site adds a linear effect ``a_i . E[x_i]``, its entries N(0, 1/4), and a
    random-feature function of its own letter and those of `n_neighbors` random other sites: 16 cosines of
    weights N(0, 0.36) and amplitudes N(0, epistasis^2 / 8). The sum is divided by the root of `n_sites`.

    Args:
        n_sites: how many sites.
        n_letters: how many letters each may have.
        n_neighbors: how many other sites a site interacts with.
        embedding_dim: length of a letter's embedding.
        epistasis: scale of the interactions, at least 0.
        seed: of all that is drawn.

    Attributes:
        embeddings: (n_letters, embedding_dim).
        n_choices: (n_sites,), all `n_letters`.

    Raises:
        ValueError: for counts below 1 (neighbours: below 0 or not below `n_sites`) or a negative epistasis.

    >>> landscape = EpistaticLandscape(5, 4, seed=0)
    >>> landscape(np.zeros((2, 5), dtype=int)).shape
    (2,)
    """

    def __init__(
        self,
        n_sites: int,
        n_letters: int = 20,
        *,
        n_neighbors: int = 2,
        embedding_dim: int = 3,
        epistasis: float = 1.0,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        n, q = _count("n_sites", n_sites), _count("n_letters", n_letters)
        d = _count("embedding_dim", embedding_dim)
        if not isinstance(n_neighbors, Integral) or not 0 <= n_neighbors < n:
            raise ValueError(f"n_neighbors must be an integer from 0 to {n - 1}, got {n_neighbors!r}")
        _number("epistasis", epistasis, zero=True)
        rng, features = np.random.default_rng(seed), 16
        self.n_choices: Integers = np.full(n, q)
        self.embeddings: Floats = rng.normal(size=(q, d))
        self._linear: Floats = (self.embeddings @ rng.normal(scale=0.5, size=(n, d)).T).T
        others = [rng.permutation(np.delete(np.arange(n), i))[:n_neighbors] for i in range(n)]
        self._sites: Integers = np.column_stack(
            [np.arange(n), np.array(others, dtype=np.int64).reshape(n, -1)]
        )
        # Embeddings enter a cosine linearly, so every letter's share of its argument is tabulated.
        projections = rng.normal(scale=0.6, size=(n, self._sites.shape[1], d, features))
        self._shares: Floats = self.embeddings @ projections
        self._phases: Floats = rng.uniform(0, 2 * np.pi, size=(n, features))
        self._amplitudes: Floats = epistasis * np.sqrt(2 / features) * rng.normal(size=(n, features))

    def __call__(self, points: ArrayLike) -> Floats:
        """The values (N,) at integer `points` (N, n_sites); ValueError for points that do not fit."""
        X = _points(points, self.n_choices)
        values: Floats = np.zeros(len(X))
        for i, sites in enumerate(self._sites):
            argument = np.tile(self._phases[i], (len(X), 1))
            for shares, site in zip(self._shares[i], sites, strict=True):
                argument += shares[X[:, site]]
            values += self._linear[i][X[:, i]] + np.cos(argument) @ self._amplitudes[i]
        values /= np.sqrt(len(self.n_choices))
        return values
