"""Small-Gain Nash: norms in which gradient play provably contracts to a Nash equilibrium.

Sharma, "Small-Gain Nash: Certified Contraction to Nash Equilibria in Differentiable Games" (2025),
arXiv 2512.06791.

Player i holds the block x_i and descends its loss f_i; F stacks the own gradients and H is its Jacobian.
With curvatures ``mu_i <= eigmin(sym H_ii)``, couplings ``L_ij >= |H_ij|`` and weights w > 0, F is strongly
monotone in the norm ``|x|_w^2 = sum_i w_i |x_i|^2`` by the margin

    alpha = 1/2 eigmin(W^(-1/2) C W^(-1/2)),    C_ii = 2 w_i mu_i,    C_ij = -(w_i L_ij + w_j L_ji).

The best weights have a closed form. ``W^(-1/2) C W^(-1/2) / 2`` is the symmetric part of
``W^(1/2) B W^(-1/2)``, which has the eigenvalues of ``B = diag(mu) - L``; so alpha is at most the least of
their real parts. With u and v the left and right Perron vectors of B and ``w_i = u_i / v_i``, the matrix and
its transpose share the eigenvector ``sqrt(u v) > 0``, and alpha attains it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, optimize, special

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Objective = Literal["margin", "euler", "rk4"]
Method = Literal["euler", "rk4"]

_RK4_RADIUS = 2.5
"""The left half of the disc of this radius lies inside the stability region of RK4."""

_MOST_PASSES = 20
_LARGEST = 1e300  # of weights
_MOST_GRID_POINTS = 100_000
_MOST_ENTRIES = 2_000_000  # of Jacobians that are evaluated at once


# --- Input ----------------------------------------------------------------------------------------


def _one_of(name: str, value: str, known: object) -> None:
    if value not in get_args(known):
        raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def _count(name: str, value: object, least: int) -> None:
    if not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _finite(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def _bounds(curvature: ArrayLike, coupling: ArrayLike) -> tuple[Floats, Floats]:
    mu = _finite("curvature", curvature)
    if mu.ndim != 1 or mu.size == 0:
        raise ValueError(f"curvature must have shape (N,) with N >= 1, got {mu.shape}")
    L = np.array(coupling, dtype=np.float64)
    if L.shape != (mu.size, mu.size):
        raise ValueError(f"coupling must have shape ({mu.size}, {mu.size}), got {L.shape}")
    np.fill_diagonal(L, 0.0)
    if not (np.isfinite(L).all() and (L >= 0).all()):
        raise ValueError("coupling must be finite and at least 0 off its diagonal")
    return mu, L


def _weights(weights: ArrayLike, n_players: int) -> Floats:
    w = _finite("weights", weights)
    if w.shape != (n_players,):
        raise ValueError(f"weights must have shape ({n_players},), got {w.shape}")
    if not (w > 0).all():
        raise ValueError(f"weights must be positive, got {w.min()}")
    return w


# --- The certificate ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """What `certify` found (Sharma, 2025, arXiv 2512.06791); its steps are 0 unless the margin is positive.

    Attributes:
        weights: (N,), of the players in the norm; the first is 1 unless they were given.
        margin: alpha; the flow contracts like ``exp(-alpha t)`` in the weighted norm.
        lipschitz: beta, the Lipschitz constant of the pseudo-gradient in that norm.
        curvature: (N,), mu.
        coupling: (N, N), L; ``coupling[i, j]`` is how strongly player j moves the gradient of player i.
        euler_step: ``2 alpha / beta^2``; Euler steps below it contract, the best is half of it.
        rk4_step: ``2.5 / beta``, up to which RK4 is stable, though its steps need not contract at once.
        rk4_step_linear: up to which RK4 does not expand in the weighted norm, for affine pseudo-gradients.
    """

    weights: Floats
    margin: float
    lipschitz: float
    curvature: Floats
    coupling: Floats
    euler_step: float
    rk4_step: float
    rk4_step_linear: float

    @property
    def certified(self) -> bool:
        """Whether play contracts: a proof where the bounds are; an estimate where Jacobians were sampled."""
        return self.margin > 0


def small_gain_matrix(
    curvature: ArrayLike, coupling: ArrayLike, weights: ArrayLike, margin: float = 0.0
) -> Floats:
    """The matrix C that is positive definite exactly where the margin is exceeded (Sharma, 2025, 2512.06791).

    ``C_ii = 2 w_i (mu_i - margin)``, ``C_ij = -(w_i L_ij + w_j L_ji)``.

    Arguments:
        curvature: (N,), lower bounds mu_i on the curvature of each player's loss in its own block.
        coupling: (N, N), upper bounds L_ij on the effect of player j on the gradient of player i; the
            diagonal is ignored.
        weights: (N,), positive.
        margin: the rate of contraction asked for.

    Returns (N, N). Raises ValueError for shapes that do not match, values that are not finite, negative
    couplings or weights that are not positive.

    >>> small_gain_matrix([1, 1], [[0, 10], [0.05, 0]], [1, 200]).tolist()
    [[2.0, -20.0], [-20.0, 400.0]]
    """
    mu, L = _bounds(curvature, coupling)
    w = _weights(weights, mu.size)
    coupled = w[:, None] * L
    C: Floats = np.diag(2 * w * (mu - margin)) - coupled - coupled.T
    return C


def _margin(mu: Floats, L: Floats, w: Floats) -> float:
    root = np.sqrt(w)
    B = np.diag(mu) - L * (root[:, None] / root)
    return float(np.linalg.eigvalsh((B + B.T) / 2)[0])


def small_gain_margin(curvature: ArrayLike, coupling: ArrayLike, weights: ArrayLike) -> float:
    """The rate at which play contracts in the norm of these weights (Sharma, 2025, arXiv 2512.06791).

    Arguments and errors are those of `small_gain_matrix`. Returns the margin alpha, half the smallest
    eigenvalue of ``W^(-1/2) C W^(-1/2)``; nothing is certified unless it is positive.

    >>> round(small_gain_margin([1, 1], [[0, 10], [0.05, 0]], [1, 200]), 6)
    0.292893
    >>> round(small_gain_margin([1, 1], [[0, 10], [0.05, 0]], [1, 1]), 6)  # the plain norm
    -4.025
    """
    mu, L = _bounds(curvature, coupling)
    return _margin(mu, L, _weights(weights, mu.size))


def _perron_weights(mu: Floats, L: Floats) -> tuple[Floats, float]:
    """The best weights of players who all affect each other, and their margin."""
    if mu.size == 1:
        return np.ones(1), float(mu[0])
    w = np.ones(mu.size)
    # Vectors whose entries differ by more than rounding come out right after a pass or two in the norm of the
    # weights that are known by then.
    for _ in range(_MOST_PASSES):
        root = np.sqrt(w)
        B = np.diag(mu) - L * (root[:, None] / root)
        values, left, right = cast(Any, linalg.eig(B, left=True, right=True))
        least = np.argmin(values.real)
        u, v = (np.maximum(np.abs(vectors[:, least]), np.finfo(np.float64).eps) for vectors in (left, right))
        w *= u / v
        w /= w.max()
        margin = float(values[least].real)
        if _margin(mu, L, w) >= margin - 1e-9 * abs(margin):
            break
    return w, margin


def _group_weights(mu: Floats, L: Floats) -> Floats:
    # reach[i, j]: player j affects player i, at least through others.
    reach = np.linalg.matrix_power((L > 0) | np.eye(mu.size, dtype=bool), mu.size)
    if reach.all():
        return _perron_weights(mu, L)[0]
    # Where influence runs one way between groups of players, the ratio of their weights drives its effect to
    # zero but does not attain it. Groups come in order of influence, the affected first: i is affected by
    # more players than any that affects it without being affected in turn.
    groups = np.unique(reach & reach.T, axis=0)
    groups = groups[np.argsort([-reach[own][0].sum() for own in groups], kind="stable")]
    inner = [_perron_weights(mu[own], L[np.ix_(own, own)]) for own in groups]
    most = max(abs(min(margin for _, margin in inner)), 1e-4 * float(np.abs(mu).max())) or 1.0
    # Weights that come closer to the supremum differ by more; in long chains they would not fit into floats.
    for short in (1e-4, 1e-3, 1e-2, 1e-1):
        w, before = np.ones(mu.size), np.zeros(mu.size, dtype=bool)
        for own, (own_weights, _) in zip(groups, inner, strict=True):
            w[own] = own_weights / own_weights[0]
            with np.errstate(over="ignore"):
                effect = (L[np.ix_(before, own)] ** 2 * w[before, None] / w[own]).sum()
                if effect > 0:
                    w[own] = np.minimum(w[own] * effect * len(groups) / (2 * (short * most) ** 2), _LARGEST)
            before |= own
        if w.max() < _LARGEST:
            break
    return w


def _best_weights(mu: Floats, L: Floats) -> Floats:
    w = _group_weights(mu, L)
    # Where influence runs one way but for rounding, the Perron vectors are noise; without it they are not.
    negligible = 1e-8 * L.max()
    clear = np.where(negligible < L, L, 0.0)
    if (clear < L).any():
        w = max(w, _group_weights(mu, clear), key=lambda weights: _margin(mu, L, weights))
    return w


def optimal_weights(curvature: ArrayLike, coupling: ArrayLike) -> tuple[Floats, float]:
    """The weights of the largest margin, in closed form (from Sharma, 2025, arXiv 2512.06791).

    The margin is the smallest real part of an eigenvalue of ``diag(curvature) - coupling``: positive, and the
    game certified, exactly if the curvatures are positive and ``diag(1 / curvature) coupling`` has a spectral
    radius below 1. Where some players affect others who do not affect them in turn, the supremum need not be
    attained; the weights come within 0.01 % of it, in long chains of such players less close.

    Arguments:
        curvature: (N,), lower bounds on the curvature of each player's loss in its own block.
        coupling: (N, N), upper bounds L_ij on the effect of player j on the gradient of player i; the
            diagonal is ignored.

    Returns the weights (N,), the first of them 1, and their margin. Raises ValueError for shapes that do not
    match, values that are not finite or negative couplings.

    >>> weights, margin = optimal_weights([1, 1], [[0, 10], [0.05, 0]])
    >>> weights.round(6).tolist(), round(margin, 6)
    ([1.0, 200.0], 0.292893)
    """
    mu, L = _bounds(curvature, coupling)
    w = _best_weights(mu, L)
    w = w / w[0]
    return w, _margin(mu, L, w)


def timescale_band(curvature: ArrayLike, coupling: ArrayLike, margin: float = 0.0) -> tuple[float, float]:
    """The weight ratios w_2 / w_1 that certify two players by more than a margin (Sharma, 2025, 2512.06791).

    With ``p = (mu_1 - margin) (mu_2 - margin)`` and ``q = sqrt(p) + sqrt(p - L_12 L_21)`` it is the open
    interval from ``(L_12 / q)^2`` to ``(q / L_21)^2``, around ``L_12 / L_21``.

    Arguments:
        curvature: (2,).
        coupling: (2, 2); the diagonal is ignored.
        margin: the rate of contraction asked for.

    Returns both ends; (nan, nan) if no ratio does. Raises ValueError for other than two players, values that
    are not finite or negative couplings.

    >>> low, high = timescale_band([1, 1], [[0, 10], [0.05, 0]])
    >>> round(low, 4), round(high, 4)
    (34.3146, 1165.6854)
    """
    mu, L = _bounds(curvature, coupling)
    if mu.size != 2:
        raise ValueError(f"curvature must be that of two players, got {mu.size}")
    own = mu - margin
    p, product = own[0] * own[1], L[0, 1] * L[1, 0]
    if not ((own > 0).all() and p > product):
        return math.nan, math.nan
    q = math.sqrt(p) + math.sqrt(p - product)
    return float(L[0, 1] / q) ** 2, float(q / L[1, 0]) ** 2 if L[1, 0] > 0 else math.inf


def _rk4_step_linear(margin: float, lipschitz: float) -> float:
    """The largest h with ``exp(-alpha h) + sum_{k >= 5} (beta h)^k / k! <= 1``.

    The first term bounds the flow over one step, the second what RK4 leaves out of its Taylor series.
    """
    ratio = margin / lipschitz
    guess = (120 * ratio) ** 0.25

    def excess(x: float) -> float:
        return math.expm1(-ratio * x) + math.exp(x) * float(special.gammainc(5, x))

    return float(optimize.brentq(excess, guess / 2, 3.0, xtol=1e-14, rtol=1e-14)) / lipschitz


def _lipschitz(H: Floats, sizes: NDArray[np.intp], w: Floats) -> float:
    root = np.repeat(np.sqrt(w), sizes)
    return float(np.linalg.norm(H * (root[:, None] / root), ord=2, axis=(1, 2)).max())


def _largest_step(
    H: Floats, sizes: NDArray[np.intp], mu: Floats, L: Floats, w: Floats, objective: Objective
) -> Floats:
    """The weights of the largest ``alpha / beta^2`` or ``alpha / beta``, searched from weights w.

    In the logarithms of the weights alpha is concave and log beta convex, so a local search finds the best.
    """
    power = 2 if objective == "euler" else 1
    start = np.log(w)[1:]

    def shortness(logs: Floats) -> float:
        trial = np.exp(np.concatenate(([0.0], logs)))
        margin = _margin(mu, L, trial)
        return power * math.log(_lipschitz(H, sizes, trial)) - math.log(margin) if margin > 0 else math.inf

    simplex = start + 0.1 * np.vstack([np.zeros(start.size), np.eye(start.size)])
    found = optimize.minimize(
        shortness,
        start,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-9, "maxiter": 400 * start.size},
    )
    return np.exp(np.concatenate(([0.0], found.x)))


def certify(
    jacobians: ArrayLike,
    blocks: Sequence[int],
    *,
    weights: ArrayLike | None = None,
    objective: Objective = "margin",
) -> Certificate:
    """Certify that gradient play contracts to a Nash equilibrium (Sharma, 2025, arXiv 2512.06791).

    Curvatures, couplings and the Lipschitz constant are the extremes over the given Jacobians of the
    pseudo-gradient. One Jacobian makes a proof for an affine game; several make an estimate for the region
    that they were sampled from, a proof only if they reach its extremes.

    Arguments:
        jacobians: (n, n) or (K, n, n).
        blocks: N sizes of the players' blocks of the n variables, in order.
        weights: (N,) of the norm, positive; by default the best.
        objective: what is best: the "margin", or the longest step of "euler" or of "rk4".

    Returns the `Certificate`; look at its `certified`. Raises ValueError for Jacobians of another shape or
    that are not finite, blocks that do not sum to n, weights that are not positive, or an unknown objective.

    >>> H = np.array([[1, 10], [0.05, 1]])  # not monotone: the symmetric part has the eigenvalue -4.025
    >>> certificate = certify(H, [1, 1])
    >>> certificate.certified, certificate.weights.round(6).tolist(), round(certificate.margin, 6)
    (True, [1.0, 200.0], 0.292893)
    >>> round(certificate.euler_step, 6), round(certificate.rk4_step, 6)
    (0.20101, 1.464466)
    """
    _one_of("objective", objective, Objective)
    H = _finite("jacobians", jacobians)
    if H.ndim == 2:
        H = H[None]
    if H.ndim != 3 or H.shape[1] != H.shape[2] or 0 in H.shape:
        raise ValueError(f"jacobians must have shape (n, n) or (K, n, n), got {np.shape(jacobians)}")
    for size in blocks:
        _count("blocks", size, 1)
    sizes = np.asarray(blocks, dtype=np.intp)
    n_players = sizes.size
    if sizes.sum() != H.shape[1]:
        raise ValueError(f"blocks must sum to {H.shape[1]}, the order of jacobians, got {sizes.sum()}")

    ends = np.cumsum(sizes)
    own = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    mu, L = np.empty(n_players), np.zeros((n_players, n_players))
    for i, j in itertools.product(range(n_players), repeat=2):
        block = H[:, own[i], own[j]]
        if i == j:
            mu[i] = np.linalg.eigvalsh((block + block.transpose(0, 2, 1)) / 2)[:, 0].min()
        else:
            L[i, j] = np.linalg.norm(block, ord=2, axis=(1, 2)).max()

    if weights is not None:
        w = _weights(weights, n_players)
    else:
        w = _best_weights(mu, L)
        w = w / w[0]
        if objective != "margin" and n_players > 1 and _margin(mu, L, w) > 0:
            w = _largest_step(H, sizes, mu, L, w, objective)
    margin, lipschitz = _margin(mu, L, w), _lipschitz(H, sizes, w)
    contracts = margin > 0
    return Certificate(
        weights=w,
        margin=margin,
        lipschitz=lipschitz,
        curvature=mu,
        coupling=L,
        euler_step=2 * margin / lipschitz**2 if contracts else 0.0,
        rk4_step=_RK4_RADIUS / lipschitz if contracts else 0.0,
        rk4_step_linear=_rk4_step_linear(margin, lipschitz) if contracts else 0.0,
    )


# --- Play -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectory:
    """The finite points (k + 1, n) that play came through, and whether it left them for infinity."""

    points: Floats
    diverged: bool


def gradient_play(
    pseudo_gradient: Callable[[Floats], ArrayLike],
    initial: ArrayLike,
    step: float,
    n_steps: int,
    *,
    method: Method = "euler",
    project: Callable[[Floats], ArrayLike] | None = None,
) -> Trajectory:
    """All players descend their own losses at once: ``x' = -F(x)`` in steps (Sharma, 2025, arXiv 2512.06791).

    Arguments:
        pseudo_gradient: F, from (n,) to (n,).
        initial: (n,).
        step: h, positive; `certify` tells which are safe.
        n_steps: at least 0.
        method: "euler" for ``x - h F(x)``, or the classical "rk4".
        project: applied after each step. For the certificate to hold it projects each player's block, or
            each coordinate, on a convex set.

    Returns the `Trajectory`; it ends before the first point that is not finite. Raises ValueError for an
    initial point that is not a finite vector, a pseudo-gradient of another shape, a step that is not
    positive, or an unknown method.

    >>> H = np.array([[1, 10], [0.05, 1]])
    >>> play = gradient_play(lambda x: H @ x, [1, 1], step=0.2, n_steps=100)
    >>> play.diverged, play.points.shape, bool(np.abs(play.points[-1]).max() < 0.02)
    (False, (101, 2), True)
    """
    _one_of("method", method, Method)
    _positive("step", step)
    _count("n_steps", n_steps, 0)
    x = _finite("initial", initial)
    if x.ndim != 1:
        raise ValueError(f"initial must have shape (n,), got {x.shape}")

    def slope_at(x: Floats) -> Floats:
        slope = np.asarray(pseudo_gradient(x), dtype=np.float64)
        if slope.shape != x.shape:
            raise ValueError(f"pseudo_gradient must return shape {x.shape}, got {slope.shape}")
        return slope

    points = np.empty((n_steps + 1, x.size))
    points[0] = x
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, n_steps + 1):
            slope = slope_at(x)
            if method == "rk4":
                second = slope_at(x - step / 2 * slope)
                third = slope_at(x - step / 2 * second)
                slope = (slope + 2 * second + 2 * third + slope_at(x - step * third)) / 6
            x = x - step * slope
            # A projection could make an infinite point finite again.
            if not np.isfinite(x).all():
                return Trajectory(points[:k].copy(), True)
            if project is not None:
                x = np.asarray(project(x), dtype=np.float64)
            points[k] = x
    return Trajectory(points, False)


# --- Markov games ---------------------------------------------------------------------------------


def _softmax(logits: Floats) -> tuple[Floats, Floats]:
    """Probabilities and their logarithms along the last axis."""
    logs = logits - special.logsumexp(logits, axis=-1, keepdims=True)
    return np.exp(logs), logs


def _fisher_blocks(policy: Floats) -> Floats:
    """diag(p) - p p' of each distribution along the last axis; also the Jacobian of the softmax."""
    blocks: Floats = policy[..., None] * (np.eye(policy.shape[-1]) - policy[..., None, :])
    return blocks


class _Play(NamedTuple):
    """What follows from the logits of both players, for a batch (...) of them."""

    policies: tuple[Floats, Floats]  # (..., S, A_i)
    slopes: tuple[Floats, Floats]  # (..., S, A_i), derivative of loss i in policy i, up to a constant a state
    occupancy: Floats  # (..., S)
    resolvent: Floats  # (..., S, S), (I - discount P)^(-1)
    moves: tuple[Floats, Floats]  # (..., S, A_i, S), next state after an action of player i
    joint_values: Floats  # (..., 2, S, A1, A2), to each player
    values: tuple[Floats, Floats]  # (..., 2, S, A_i), to each player, of an action of player i


class MarkovGame:
    """Entropy-regularised Markov game of two softmax players (Sharma, 2025, arXiv 2512.06791).

    Loss i is minus the normalised discounted return of player i, minus `temperature` times the sum over all
    states of the entropy of its policy (not weighted by how often a state is visited). The variables are the
    logits of player 1, S x A1, row by row, then those of player 2; a constant added to one state's logits
    changes nothing.

    Arguments:
        transitions: (S, A1, A2, S), probabilities of the next state.
        rewards: (S, A1, A2) common to both, or (2, S, A1, A2), of each.
        discount: in [0, 1).
        temperature: weight of the entropies, at least 0.
        initial: (S,), the start distribution; by default state 0.

    `blocks` are the sizes of the players' blocks. Raises ValueError for shapes that do not match, transitions
    or an initial that are no probabilities, or a discount or temperature out of range.

    >>> rewards = np.array([[[2.0, 0.0], [0.0, 1.0]]])  # one state, two actions each
    >>> game = MarkovGame(np.ones((1, 2, 2, 1)), rewards)
    >>> theta = game.equilibrium()
    >>> bool(np.abs(game.pseudo_gradient(theta)).max() < 1e-9), bool(theta[0] > theta[1])
    (True, True)
    """

    def __init__(
        self,
        transitions: ArrayLike,
        rewards: ArrayLike,
        *,
        discount: float = 0.9,
        temperature: float = 1.0,
        initial: ArrayLike | None = None,
    ) -> None:
        P = _finite("transitions", transitions)
        if P.ndim != 4 or P.shape[0] != P.shape[3] or 0 in P.shape:
            raise ValueError(f"transitions must have shape (S, A1, A2, S), got {P.shape}")
        if (P < 0).any() or np.abs(P.sum(axis=3) - 1).max() > 1e-9:
            raise ValueError("transitions must be probabilities that sum to 1 over the next state")
        r = _finite("rewards", rewards)
        if r.shape not in (P.shape[:3], (2, *P.shape[:3])):
            raise ValueError(f"rewards must have shape {P.shape[:3]} or {(2, *P.shape[:3])}, got {r.shape}")
        if not 0 <= discount < 1:
            raise ValueError(f"discount must lie in [0, 1), got {discount!r}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
        start = np.eye(P.shape[0])[0] if initial is None else _finite("initial", initial)
        if start.shape != P.shape[:1] or (start < 0).any() or abs(start.sum() - 1) > 1e-9:
            raise ValueError(f"initial must be a distribution over {P.shape[0]} states, got {initial!r}")
        self.transitions, self.rewards = P, np.broadcast_to(r, (2, *P.shape[:3]))
        self.discount, self.temperature, self.initial = float(discount), float(temperature), start
        self.blocks = (P.shape[0] * P.shape[1], P.shape[0] * P.shape[2])

    def _logits(self, theta: ArrayLike) -> tuple[Floats, Floats]:
        flat = _finite("theta", theta)
        if flat.ndim == 0 or flat.shape[-1] != sum(self.blocks):
            raise ValueError(f"theta must have shape (..., {sum(self.blocks)}), got {flat.shape}")
        first, second = flat[..., : self.blocks[0]], flat[..., self.blocks[0] :]
        S = len(self.initial)
        return first.reshape(*flat.shape[:-1], S, -1), second.reshape(*flat.shape[:-1], S, -1)

    def _play(self, theta: ArrayLike) -> _Play:
        (pi1, log1), (pi2, log2) = (_softmax(logits) for logits in self._logits(theta))
        moves1 = np.einsum("...sb,sabt->...sat", pi2, self.transitions)
        moves2 = np.einsum("...sa,sabt->...sbt", pi1, self.transitions)
        chain = np.einsum("...sa,...sat->...st", pi1, moves1)
        resolvent = np.linalg.inv(np.eye(len(self.initial)) - self.discount * chain)
        occupancy = (1 - self.discount) * (self.initial @ resolvent)
        rewards = np.einsum("...sa,...sb,isab->...is", pi1, pi2, self.rewards)
        ahead = self.discount * np.einsum("...tu,...iu->...it", resolvent, rewards)
        joint_values = self.rewards + np.einsum("sabt,...it->...isab", self.transitions, ahead)
        values1 = np.einsum("...sb,...isab->...isa", pi2, joint_values)
        values2 = np.einsum("...sa,...isab->...isb", pi1, joint_values)
        slopes = (
            self.temperature * log1 - occupancy[..., None] * values1[..., 0, :, :],
            self.temperature * log2 - occupancy[..., None] * values2[..., 1, :, :],
        )
        return _Play(
            (pi1, pi2), slopes, occupancy, resolvent, (moves1, moves2), joint_values, (values1, values2)
        )

    def losses(self, theta: Tensor) -> Tensor:
        """Both losses (2,) at logits (n,), differentiable."""
        # Everything else is NumPy, and PyTorch takes seconds to import.
        import torch

        S, (n1, n2) = len(self.initial), self.blocks
        if theta.shape != (n1 + n2,):
            raise ValueError(f"theta must have shape ({n1 + n2},), got {tuple(theta.shape)}")
        P, r, start = (
            torch.as_tensor(np.array(array), dtype=theta.dtype, device=theta.device)
            for array in (self.transitions, self.rewards, self.initial)
        )
        log1, log2 = (logits.reshape(S, -1).log_softmax(1) for logits in (theta[:n1], theta[n1:]))
        chain = torch.einsum("sa,sb,sabt->st", log1.exp(), log2.exp(), P)
        visits = torch.linalg.solve(torch.eye(S).to(chain) - self.discount * chain.T, start)
        means = torch.einsum("sa,sb,isab->is", log1.exp(), log2.exp(), r)
        entropies = torch.stack([-(logs.exp() * logs).sum() for logs in (log1, log2)])
        losses: Tensor = -(1 - self.discount) * means @ visits - self.temperature * entropies
        return losses

    def pseudo_gradient(self, theta: ArrayLike) -> Floats:
        """Each player's gradient of its own loss, (..., n), at logits (..., n)."""
        play = self._play(theta)
        parts = (
            policy * (slope - (policy * slope).sum(axis=-1, keepdims=True))
            for policy, slope in zip(play.policies, play.slopes, strict=True)
        )
        return _flat(*parts)

    def jacobian(self, theta: ArrayLike) -> Floats:
        """The Jacobian of the pseudo-gradient, (..., n, n), at logits (..., n)."""
        play = self._play(theta)
        fisher = [_fisher_blocks(policy) for policy in play.policies]
        S, d = len(self.initial), play.occupancy
        # visits[j] (..., S, A_j, S): discounted visits to a state after an action of player j in another.
        visits = [self.discount * moves @ play.resolvent[..., None, :, :] for moves in play.moves]
        rows = []
        for i in range(2):
            row = []
            for j in range(2):
                # How the slope of player i changes with the policy of j: an action of j changes how often i
                # comes to a state, what follows there for i, and what j does when they meet in that state.
                to_i = [values[..., i, :, :] for values in play.values]
                change = np.einsum("...t,...tbs,...sa->...satb", d, visits[j], to_i[i])
                change += np.einsum("...s,...sat,...tb->...satb", d, visits[i], to_i[j])
                if i != j:
                    met = d[..., None, None] * play.joint_values[..., i, :, :, :]
                    met = met if i == 0 else np.swapaxes(met, -1, -2)
                    change += np.einsum("...sab,st->...satb", met, np.eye(S))
                block = -np.einsum("...sac,...sctd,...tdb->...satb", fisher[i], change, fisher[j])
                if i == j:
                    policy, slope = play.policies[i], play.slopes[i]
                    above = slope - (policy * slope).sum(axis=-1, keepdims=True)
                    pull = policy * above
                    bend = fisher[i] * above[..., :, None] - policy[..., :, None] * pull[..., None, :]
                    block += np.einsum("...sab,st->...satb", self.temperature * fisher[i] + bend, np.eye(S))
                row.append(block.reshape(*d.shape[:-1], self.blocks[i], self.blocks[j]))
            rows.append(np.concatenate(row, axis=-1))
        return np.concatenate(rows, axis=-2)

    def fisher(self, theta: ArrayLike) -> tuple[Floats, Floats]:
        """The players' Fisher matrices, block diagonal over states, at logits (n,)."""
        first, second = (
            linalg.block_diag(*_fisher_blocks(_softmax(logits)[0])) for logits in self._logits(theta)
        )
        return first, second

    def natural_gradient(self, theta: ArrayLike) -> Floats:
        """``F_i^+ grad_i f_i`` of each player, F_i its Fisher matrix: (..., n), at logits (..., n)."""
        # A gradient in the logits is (diag(p) - p p') y, y the slope in the policy: y less its mean, without
        # a matrix to invert, solves for it.
        return _flat(*(slope - slope.mean(axis=-1, keepdims=True) for slope in self._play(theta).slopes))

    def natural_step(self, theta: ArrayLike, step: float) -> Floats:
        """The logits (..., n) after one step of natural policy gradient; ValueError unless step > 0."""
        _positive("step", step)
        start: Floats = np.asarray(theta, dtype=np.float64)
        moved: Floats = start - step * self.natural_gradient(theta)
        return moved

    def equilibrium(self, tol: float = 1e-10, max_iter: int = 20_000, step: float = 0.1) -> Floats:
        """Logits (n,) at which both natural gradients are at most `tol`, by natural gradient from 0.

        Raises RuntimeError if they are not after `max_iter` steps.
        """
        _positive("tol", tol)
        _positive("step", step)
        theta = np.zeros(sum(self.blocks))
        for _ in range(max_iter):
            gradient = self.natural_gradient(theta)
            if np.abs(gradient).max() <= tol:
                return theta
            theta = theta - step * gradient
        raise RuntimeError(f"natural policy gradient did not reach tol={tol} in {max_iter} steps of {step}")


def _flat(first: Floats, second: Floats) -> Floats:
    """Arrays (..., S, A1) and (..., S, A2) as logits (..., n)."""
    return np.concatenate([part.reshape(*part.shape[:-2], -1) for part in (first, second)], axis=-1)


def coordination_game(
    discount: float = 0.9, temperature: float = 1.0, reward_scale: float = 1.0
) -> MarkovGame:
    """Two states in which both players gain by taking the same action (Sharma, 2025, arXiv 2512.06791).

    Actions 0, 0 lead to state 0 and 1, 1 to state 1 with probability 0.9, unequal ones to either alike; the
    common reward is `reward_scale` for equal actions and minus that for unequal ones. At temperature 1 the
    uniform policies are an equilibrium that play contracts to.

    Arguments are those of `MarkovGame`. Returns the game. Raises ValueError for values out of range.

    >>> game = coordination_game()
    >>> float(np.abs(game.pseudo_gradient(np.zeros(8))).max())
    0.0
    """
    agree = np.array([[1.0, -1.0], [-1.0, 1.0]])
    to_first = np.array([[0.9, 0.5], [0.5, 0.1]])
    transitions = np.stack([to_first, 1 - to_first], axis=-1)
    return MarkovGame(
        np.stack([transitions, transitions]),
        reward_scale * np.stack([agree, agree]),
        discount=discount,
        temperature=temperature,
    )


def _row_offsets(n_actions: int, levels: Floats) -> Floats:
    """The grid on a cube of one state's logits, one of all points that differ by a constant."""
    grid = np.arange(levels.size**n_actions)[:, None] // levels.size ** np.arange(n_actions) % levels.size
    rows: Floats = levels[grid[grid.min(axis=1) == 0]]
    return rows


def _normalised_jacobians(game: MarkovGame, theta: Floats) -> Floats:
    """Jacobians (K, m, m) in coordinates in which both Fisher metrics are the identity, at logits (K, n)."""
    H = game.jacobian(theta)
    bases = []
    for logits in game._logits(theta):
        # Softmax probabilities do not feel a constant added to all logits: one eigenvalue is always 0.
        values, vectors = np.linalg.eigh(_fisher_blocks(_softmax(logits)[0]))
        bases.append(vectors[..., 1:] / np.sqrt(values[..., None, 1:]))
    S, (n1, _) = len(game.initial), game.blocks
    rows = []
    for i, rows_of in enumerate((slice(None, n1), slice(n1, None))):
        row = []
        for j, columns_of in enumerate((slice(None, n1), slice(n1, None))):
            block = H[:, rows_of, columns_of].reshape(len(H), S, -1, S, game.blocks[j] // S)
            block = np.einsum("ksac,ksatb,ktbd->ksctd", bases[i], block, bases[j], optimize=True)
            row.append(block.reshape(len(H), block.shape[1] * block.shape[2], -1))
        rows.append(np.concatenate(row, axis=2))
    return np.concatenate(rows, axis=1)


def certify_policy_gradient(
    game: MarkovGame,
    equilibrium: ArrayLike,
    *,
    radius: float = 0.1,
    points_per_dim: int = 2,
    samples: int | None = None,
    seed: int | np.random.Generator = 0,
    weights: ArrayLike | None = None,
) -> Certificate:
    """Certify natural policy gradient near an equilibrium, in the Fisher metric (Sharma, 2025, 2512.06791).

    The Jacobians are those on a grid on the cube ``|theta - equilibrium| <= radius``, each in coordinates in
    which the Fisher metric at that point is the identity. `euler_step` bounds the step of `natural_step`.
    The certificate neglects that the metric changes with theta: it is exact at the equilibrium and an
    estimate in the cube.

    Arguments:
        game: with at least two actions a player.
        equilibrium: (n,), logits, as `MarkovGame.equilibrium` finds them.
        radius: half the side of the cube, positive.
        points_per_dim: of the grid; 2 takes the corners, 1 the centre alone.
        samples: how many points of the grid to draw; by default all are taken, as far as they differ by more
            than a constant per state.
        seed: of the draw.
        weights: (2,), positive; by default the best.

    Returns the `Certificate`. Raises ValueError for logits of another shape, counts or a radius that are not
    positive, players with a single action, or a whole grid of more than 100,000 points.

    >>> game = coordination_game()
    >>> certificate = certify_policy_gradient(game, game.equilibrium())
    >>> round(certificate.margin, 4), round(certificate.euler_step, 4)
    (0.3335, 0.27)
    """
    _positive("radius", radius)
    _count("points_per_dim", points_per_dim, 1)
    centre = _finite("equilibrium", equilibrium)
    if centre.shape != (sum(game.blocks),):
        raise ValueError(f"equilibrium must have shape ({sum(game.blocks)},), got {centre.shape}")
    S = len(game.initial)
    actions = [size // S for size in game.blocks]
    if min(actions) < 2:
        raise ValueError("game must leave each player at least two actions")
    levels = np.linspace(-radius, radius, points_per_dim) if points_per_dim > 1 else np.zeros(1)
    if samples is None:
        # Of each state's grid, what is left of the points that differ by a constant has a least level.
        n_points = math.prod((levels.size**count - (levels.size - 1) ** count) ** S for count in actions)
        if n_points > _MOST_GRID_POINTS:
            raise ValueError(f"samples must be given for a grid of {n_points} points")
        rows = [_row_offsets(count, levels) for count in actions for _ in range(S)]
        rest, columns = np.arange(n_points), []
        for row in rows:
            rest, chosen = np.divmod(rest, len(row))
            columns.append(row[chosen])
        offsets = np.concatenate(columns, axis=1)
    else:
        _count("samples", samples, 1)
        offsets = np.random.default_rng(seed).choice(levels, (samples, centre.size))
    batch = max(1, _MOST_ENTRIES // centre.size**2)
    jacobians = np.concatenate(
        [_normalised_jacobians(game, centre + offsets[k : k + batch]) for k in range(0, len(offsets), batch)]
    )
    return certify(jacobians, [S * (count - 1) for count in actions], weights=weights)
