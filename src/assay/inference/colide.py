"""CoLiDE: learning a linear DAG jointly with the scale of its noise, beside the methods that it improves on.

Saboksayr, Mateos and Tepper, "CoLiDE: Concomitant Linear DAG Estimation" (2023), arXiv 2310.02895.

The data follow a linear structural equation model ``X = X W + E``: ``W[i, j] != 0`` is an edge i -> j and the
noise of node j has a variance of its own. With ``C`` the covariance of X and ``D = I - W``, the score

    Q(W, s) = sum_j (q_j / (2 s_j) + s_j / 2) + sparsity * ||W||_1,      q_j = [D' C D]_jj

is jointly convex in the graph and the noise scales. The best scales are ``s_j = sqrt(q_j)``, or the root of
the mean of all q where the noise is equal, so every descent step on W is followed by an exact step on s.
Profiled, the score is a square-root lasso: unlike that of least squares, its penalty need not follow the
noise level. A log-determinant barrier drives W to an acyclic graph along a path of decreasing ``mu``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import expm, solve_triangular
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

Array = NDArray[np.float64]

_FROZEN, _EQUAL, _UNEQUAL = 0, 1, 2  # how the descent treats the noise scales
_NOISE_KINDS = {"equal": _EQUAL, "unequal": _UNEQUAL}


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_count(name: str, value: object) -> None:
    _require(isinstance(value, Integral) and int(value) >= 1, name, value, "an integer of at least 1")


def _require_positive(name: str, value: float) -> None:
    _require(0 < value < np.inf, name, value, "a positive number")


def _require_nonnegative(name: str, value: float) -> None:
    _require(0 <= value < np.inf, name, value, "a number of at least 0")


def _square_matrix(name: str, value: ArrayLike) -> Array:
    matrix = np.asarray(value, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be a square matrix, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    return matrix


def _covariance(X: Array) -> Array:
    """Covariance (divided by n) of checked samples; refuses columns that do not vary."""
    constant = np.flatnonzero(np.ptp(X, axis=0) == 0)
    if constant.size:
        column = constant[0]
        raise ValueError(f"X must vary in every column, got only {X[0, column]!r} in column {column}")
    with np.errstate(over="ignore", invalid="ignore"):
        centred = X - X.mean(axis=0)
        covariance: Array = centred.T @ centred / len(X)
    if not np.isfinite(covariance).all():
        raise ValueError(f"X must be small enough to square, got entries up to {np.abs(X).max()}")
    return covariance


def _covariance_of(X: ArrayLike) -> Array:
    return _covariance(
        check_array(X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=2, input_name="X")
    )


# --------------------------------------------------------------------------------- score and acyclicity


def concomitant_score(weights: ArrayLike, covariance: ArrayLike, scale: ArrayLike) -> tuple[float, Array]:
    """Smooth part of CoLiDE's score and its gradient (Saboksayr, Mateos, Tepper 2023, arXiv 2310.02895).

    Arguments:
        weights: (d, d), ``weights[i, j]`` of the edge i -> j.
        covariance: (d, d) covariance of the data.
        scale: standard deviation of the noise: one number for all nodes, or (d,), one for each.

    Returns:
        The value ``sum_j (q_j / (2 s_j) + s_j / 2)`` without the l1 penalty, and its (d, d) gradient.

    Raises:
        ValueError: shapes that do not match, or a scale that is not positive.

    >>> value, gradient = concomitant_score([[0, 0.2], [0, 0]], [[1, 0.5], [0.5, 2]], scale=1.0)
    >>> round(value, 3), gradient.round(2).tolist()
    (2.42, [[-1.0, -0.3], [-0.5, -1.9]])
    """
    W = _square_matrix("weights", weights)
    C = _square_matrix("covariance", covariance)
    s = np.asarray(scale, dtype=np.float64)
    if C.shape != W.shape:
        raise ValueError(f"covariance must have the shape {W.shape} of weights, got {C.shape}")
    if s.shape not in ((), W.shape[:1]):
        raise ValueError(f"scale must be a number or have shape {W.shape[:1]}, got shape {s.shape}")
    _require(bool((s > 0).all()), "scale", scale, "positive")
    scales = np.broadcast_to(s, W.shape[:1])
    D = np.eye(len(W)) - W
    CD = C @ D
    residual = (D * CD).sum(axis=0)
    return float((residual / scales + scales).sum() / 2), -CD / scales


def log_det_acyclicity(weights: ArrayLike, s: float = 1.0) -> tuple[float, Array]:
    """Log-determinant acyclicity ``h = -log det(s I - W o W) + d log s`` and its gradient.

    It is 0 exactly for the weights of a DAG, positive for all others of its domain, where ``s I - W o W`` is
    an M-matrix. From DAGMA (Bello, Aragam and Ravikumar 2022, arXiv 2209.08037), which CoLiDE builds on.

    Arguments:
        weights: (d, d).
        s: positive; the domain is where the spectral radius of ``W o W`` stays below it.

    Returns:
        The value and its (d, d) gradient.

    Raises:
        ValueError: weights that are not square or outside the domain, or an s that is not positive.

    >>> value, _ = log_det_acyclicity([[0, 2.0], [0, 0]])
    >>> round(abs(value), 12)
    0.0
    """
    W = _square_matrix("weights", weights)
    _require_positive("s", s)
    radius = np.abs(np.linalg.eigvals(W * W)).max(initial=0.0)
    if radius >= s:
        raise ValueError(f"weights must keep the spectral radius of W o W below s = {s}, got {radius:.6g}")
    A = s * np.eye(len(W)) - W * W
    return float(len(W) * np.log(s) - np.linalg.slogdet(A)[1]), 2 * W * np.linalg.inv(A).T


def _is_acyclic(edges: NDArray[np.bool_]) -> bool:
    if edges.diagonal().any():
        return False
    return bool(connected_components(edges, directed=True, connection="strong")[0] == len(edges))


def threshold_to_dag(weights: ArrayLike, threshold: float = 0.3) -> Array:
    """Weights of a DAG: drops every weight of at most `threshold`, then the smallest until no cycle is left.

    The post-processing that CoLiDE (arXiv 2310.02895) and the other continuous methods share.

    Arguments:
        weights: (d, d).
        threshold: at least 0, in units of the weights.

    Returns:
        A new (d, d) array, acyclic.

    Raises:
        ValueError: weights that are not a square finite matrix, or a negative threshold.

    >>> threshold_to_dag([[0, 0.9, 0.2], [0, 0, 0.6], [0.4, 0, 0]]).tolist()
    [[0.0, 0.9, 0.0], [0.0, 0.0, 0.6], [0.0, 0.0, 0.0]]
    """
    W = _square_matrix("weights", weights)
    _require_nonnegative("threshold", threshold)
    kept = np.where(np.abs(W) > threshold, W, 0.0)
    rows, columns = np.nonzero(kept)
    smallest_first = np.argsort(np.abs(kept[rows, columns]), kind="stable")
    rows, columns = rows[smallest_first], columns[smallest_first]
    # A graph stays acyclic when it loses edges, so the number to drop can be bisected.
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        edges = kept != 0
        edges[rows[:middle], columns[:middle]] = False
        if _is_acyclic(edges):
            high = middle
        else:
            low = middle + 1
    kept[rows[:low], columns[:low]] = 0.0
    return kept


# ------------------------------------------------------------------------------------------- the descent

_WIDTH = 4  # rows eliminated at once: each row of the rest is then loaded and stored a quarter as often


@numba.njit(cache=True, fastmath={"contract"})
def _invert_m_matrix(A: Array, panel: Array) -> float:
    """Invert A in place and return its log-determinant, or NaN if A is no M-matrix.

    Gauss-Jordan elimination in blocks, without pivoting: a matrix with nonpositive off-diagonal is a
    nonsingular M-matrix exactly if every pivot is positive, so the elimination is also the test of the
    domain, and it is stable there. The order of A is a multiple of _WIDTH; panel is scratch (_WIDTH, order).
    """
    n = A.shape[0]
    log_determinant = 0.0
    block = np.empty((_WIDTH, _WIDTH))
    for start in range(0, n, _WIDTH):
        for a in range(_WIDTH):
            for b in range(_WIDTH):
                block[a, b] = A[start + a, start + b]
        for k in range(_WIDTH):
            pivot = block[k, k]
            if not pivot > 1e-12:
                return np.nan
            log_determinant += np.log(pivot)
            block[k, k] = 1.0
            for b in range(_WIDTH):
                block[k, b] /= pivot
            for a in range(_WIDTH):
                if a != k:
                    factor = block[a, k]
                    block[a, k] = 0.0
                    for b in range(_WIDTH):
                        block[a, b] -= factor * block[k, b]
        r0, r1, r2, r3 = A[start], A[start + 1], A[start + 2], A[start + 3]
        for a in range(_WIDTH):
            row = panel[a]
            b0, b1, b2, b3 = block[a, 0], block[a, 1], block[a, 2], block[a, 3]
            for j in range(n):
                row[j] = b0 * r0[j] + b1 * r1[j] + b2 * r2[j] + b3 * r3[j]
            for b in range(_WIDTH):
                row[start + b] = block[a, b]
        p0, p1, p2, p3 = panel[0], panel[1], panel[2], panel[3]
        for i in range(n):
            row = A[i]
            if start <= i < start + _WIDTH:
                for j in range(n):
                    row[j] = panel[i - start, j]
            else:
                f0, f1, f2, f3 = row[start], row[start + 1], row[start + 2], row[start + 3]
                for b in range(_WIDTH):
                    row[start + b] = 0.0
                for j in range(n):
                    row[j] -= f0 * p0[j] + f1 * p1[j] + f2 * p2[j] + f3 * p3[j]
    return log_determinant


@numba.njit(cache=True, fastmath={"contract"})
def _enter_domain(W: Array, s: float, inverse: Array, panel: Array) -> float:
    """Set `inverse` to ``(s I - W o W)^-T`` and return the log-determinant, NaN outside the domain."""
    d = W.shape[0]
    inverse[:] = 0.0
    for i in range(d):
        for j in range(d):
            inverse[j, i] = -W[i, j] * W[i, j]
        inverse[i, i] += s
    for i in range(d, inverse.shape[0]):
        inverse[i, i] = 1.0
    log_determinant: float = _invert_m_matrix(inverse, panel)
    return log_determinant


@numba.njit(cache=True, fastmath={"contract"})
def _update_scale(
    C: Array, W: Array, kind: int, floor: Array, CD: Array, residual: Array, scale: Array
) -> None:
    """Set ``CD = C (I - W)``, the residual variances and, unless frozen, the best scales, all in place."""
    d = W.shape[0]
    np.dot(C, W, CD)
    residual[:] = 0.0
    for i in range(d):
        for j in range(d):
            CD[i, j] = C[i, j] - CD[i, j]
            residual[j] -= W[i, j] * CD[i, j]
        residual[i] += CD[i, i]
    # Rounding can leave a residual variance of almost 0 just below it.
    if kind == _EQUAL:
        scale[:] = max(np.sqrt(max(residual.sum() / d, 0.0)), floor[0])
    elif kind == _UNEQUAL:
        for j in range(d):
            scale[j] = max(np.sqrt(max(residual[j], 0.0)), floor[j])


@numba.njit(cache=True, fastmath={"contract"})
def _descend(
    C: Array,
    W: Array,
    scale: Array,
    floor: Array,
    kind: int,
    mu: float,
    sparsity: float,
    s: float,
    max_iter: int,
    learning_rate: float,
    check_every: int,
    tolerance: float,
) -> tuple[int, bool]:
    """Minimise ``mu Q(W, scale) + h_s(W)`` in place: Adam steps on W, each with an exact step on the scale.

    Returns the steps taken, and whether the iterates stayed in the domain; if not, the stage is void.
    """
    d = W.shape[0]
    order = -(-d // _WIDTH) * _WIDTH
    inverse, panel = np.empty((order, order)), np.empty((_WIDTH, order))
    CD, residual = np.empty((d, d)), np.empty(d)
    first, second, direction = np.zeros((d, d)), np.zeros((d, d)), np.zeros((d, d))
    beta1, beta2, previous = 0.99, 0.999, np.nan

    log_det = _enter_domain(W, s, inverse, panel)
    if np.isnan(log_det):
        return 0, False
    _update_scale(C, W, _FROZEN, floor, CD, residual, scale)
    for step in range(1, max_iter + 1):
        unbias1, unbias2 = 1 / (1 - beta1**step), 1 / np.sqrt(1 - beta2**step)
        data_weight = mu / scale
        for i in range(d):
            for j in range(d):
                w = W[i, j]
                sign = 1.0 if w > 0 else (-1.0 if w < 0 else 0.0)
                gradient = mu * sparsity * sign - data_weight[j] * CD[i, j] + 2 * w * inverse[i, j]
                first[i, j] = beta1 * first[i, j] + (1 - beta1) * gradient
                second[i, j] = beta2 * second[i, j] + (1 - beta2) * gradient * gradient
                direction[i, j] = unbias1 * first[i, j] / (unbias2 * np.sqrt(second[i, j]) + 1e-8)
                W[i, j] = w - learning_rate * direction[i, j]

        log_det = _enter_domain(W, s, inverse, panel)
        while np.isnan(log_det):
            if s <= 0.9 or learning_rate < 1e-16:
                return step, False
            # Near s = 1 the domain is wide: half the step is enough, and it is kept from here on.
            learning_rate /= 2
            W += learning_rate * direction
            log_det = _enter_domain(W, s, inverse, panel)
        _update_scale(C, W, kind, floor, CD, residual, scale)

        if step % check_every == 0:
            score = 0.5 * (residual / scale + scale).sum() + sparsity * np.abs(W).sum()
            objective = mu * score - log_det + d * np.log(s)
            if abs(previous - objective) <= tolerance * abs(previous):
                return step, True
            previous = objective
    return max_iter, True


class _Path(NamedTuple):
    weights: Array
    scale: Array
    n_iter: int


def _follow_path(
    covariance: Array,
    scale: Array,
    floor: Array,
    kind: int,
    *,
    sparsity: float,
    n_stages: int,
    mu_init: float,
    mu_factor: float,
    log_det_scales: Sequence[float],
    warm_iter: int,
    max_iter: int,
    learning_rate: float,
    check_every: int,
    tolerance: float,
) -> _Path:
    """Path following from ``W = 0``: each stage starts from the last one's end, at a smaller mu."""
    # Floats throughout: a parameter given as an int would have the descent compiled once more.
    weights, mu, n_iter = np.zeros_like(covariance), float(mu_init), 0
    sparsity, tolerance = float(sparsity), float(tolerance)
    for stage in range(n_stages):
        s = float(log_det_scales[min(stage, len(log_det_scales) - 1)])
        rate = float(learning_rate)
        steps = max_iter if stage == n_stages - 1 else warm_iter
        inside = False
        while not inside:
            W, scales = weights.copy(), scale.copy()
            taken, inside = _descend(
                covariance, W, scales, floor, kind, mu, sparsity, s, steps, rate, check_every, tolerance
            )
            n_iter += taken
            s += 0.1
            rate /= 2
        weights, scale = W, scales
        mu *= mu_factor
    return _Path(weights, scale, n_iter)


# ------------------------------------------------------------------------------------------- the methods


class CoLiDE(BaseEstimator):
    """Directed acyclic graph of a linear structural equation model, with the scale of its noise.

    CoLiDE-EV (``noise="equal"``) and CoLiDE-NV (``noise="unequal"``) of Saboksayr, Mateos and Tepper (2023),
    arXiv 2310.02895. The penalty is decoupled from the noise level, so one `sparsity` serves data of any. The
    columns are centred but not standardised: their variances carry information on the order.

    Arguments:
        noise: "equal" if all nodes share one noise variance, "unequal" if each has its own.
        sparsity: weight of the l1 penalty.
        threshold: weights of at most this size are not edges.
        n_stages, mu_init, mu_factor: the path of ``mu``, the weight of the score beside acyclicity.
        log_det_scales: the s of `log_det_acyclicity` in each stage; the last holds for those beyond.
        warm_iter, max_iter: steps at most in each stage, in the last one.
        learning_rate: of Adam, in units of the weights. The authors' schedule is ``learning_rate=3e-4,
            warm_iter=20_000, max_iter=70_000, check_every=1000``, ten times as long as the default; from some
            50 nodes on, slower is more accurate.
        check_every: steps between tests of convergence; None for a quarter of `warm_iter`.
        tolerance: relative change of the objective between two tests that ends a stage.
        noise_floor: lower bound of the noise scales, as a share of the data's root mean square.

    Attributes:
        weights_: (d, d) weights before thresholding, ``[i, j]`` for the edge i -> j.
        dag_weights_: (d, d) weights of the DAG.
        adjacency_: (d, d) bool, edges of the DAG.
        noise_scale_: standard deviation of the noise: a float if equal, (d,) if unequal.
        n_iter_: steps taken in all, those of stages begun anew included.
        objective_: score plus penalty of `weights_`, to compare fits with the same `sparsity`.

    >>> sem = simulate_linear_sem(6, 1000, mean_degree=2.0, noise_variances=(0.5, 10.0), seed=0)
    >>> model = CoLiDE(noise="unequal").fit(sem.X)
    >>> structure_metrics(sem.weights, model.dag_weights_).shd
    0
    >>> model.noise_scale_.shape
    (6,)
    """

    def __init__(
        self,
        *,
        noise: Literal["equal", "unequal"] = "unequal",
        sparsity: float = 0.05,
        threshold: float = 0.3,
        n_stages: int = 4,
        mu_init: float = 1.0,
        mu_factor: float = 0.1,
        log_det_scales: Sequence[float] = (1.0, 0.9, 0.8, 0.7),
        warm_iter: int = 2000,
        max_iter: int = 7000,
        learning_rate: float = 3e-3,
        check_every: int | None = None,
        tolerance: float = 1e-6,
        noise_floor: float = 1e-8,
    ) -> None:
        self.noise = noise
        self.sparsity = sparsity
        self.threshold = threshold
        self.n_stages = n_stages
        self.mu_init = mu_init
        self.mu_factor = mu_factor
        self.log_det_scales = log_det_scales
        self.warm_iter = warm_iter
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.check_every = check_every
        self.tolerance = tolerance
        self.noise_floor = noise_floor

    def fit(self, X: ArrayLike, y: object = None) -> CoLiDE:
        """Learn the graph of the samples X, (n, d) with n and d at least 2; y is ignored.

        Raises ValueError for X that is not a finite matrix that varies in every column, and for parameters
        out of range.
        """
        self._check_parameters()
        covariance = _covariance(
            validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=2)
        )
        rms = np.sqrt(covariance.diagonal())
        if self.noise == "equal":
            scale = np.full_like(rms, rms.min())
            floor = np.full_like(rms, self.noise_floor * np.sqrt(np.mean(rms**2)))
        else:
            scale, floor = rms, self.noise_floor * rms
        path = _follow_path(
            covariance,
            np.maximum(scale, floor),
            floor,
            _NOISE_KINDS[self.noise],
            sparsity=self.sparsity,
            n_stages=self.n_stages,
            mu_init=self.mu_init,
            mu_factor=self.mu_factor,
            log_det_scales=self.log_det_scales,
            warm_iter=self.warm_iter,
            max_iter=self.max_iter,
            learning_rate=self.learning_rate,
            check_every=_check_interval(self.warm_iter) if self.check_every is None else self.check_every,
            tolerance=self.tolerance,
        )
        score, _ = concomitant_score(path.weights, covariance, path.scale)
        self.weights_ = path.weights
        self.dag_weights_ = threshold_to_dag(path.weights, self.threshold)
        self.adjacency_ = self.dag_weights_ != 0
        self.noise_scale_ = float(path.scale[0]) if self.noise == "equal" else path.scale
        self.n_iter_ = path.n_iter
        self.objective_ = score + self.sparsity * float(np.abs(path.weights).sum())
        return self

    def _check_parameters(self) -> None:
        _require(self.noise in _NOISE_KINDS, "noise", self.noise, "'equal' or 'unequal'")
        _require_nonnegative("sparsity", self.sparsity)
        _require_nonnegative("threshold", self.threshold)
        _require_nonnegative("tolerance", self.tolerance)
        for name in ("mu_init", "mu_factor", "learning_rate", "noise_floor"):
            _require_positive(name, getattr(self, name))
        for name in ("n_stages", "warm_iter", "max_iter"):
            _require_count(name, getattr(self, name))
        if self.check_every is not None:
            _require_count("check_every", self.check_every)
        scales = self.log_det_scales
        _require(
            len(scales) > 0 and all(0 < s < np.inf for s in scales),
            "log_det_scales",
            scales,
            "positive numbers",
        )


def _check_interval(warm_iter: int) -> int:
    return max(1, warm_iter // 4)


def dagma(
    X: ArrayLike,
    *,
    sparsity: float = 0.05,
    warm_iter: int = 2000,
    max_iter: int = 7000,
    learning_rate: float = 3e-3,
    tolerance: float = 1e-6,
) -> Array:
    """DAGMA for linear models: CoLiDE's path with a least-squares score, the noise scales fixed at 1.

    Bello, Aragam and Ravikumar, "DAGMA: Learning DAGs via M-matrices and a Log-Determinant Acyclicity
    Characterization" (2022), arXiv 2209.08037.

    Arguments:
        X: (n, d) samples.
        sparsity, warm_iter, max_iter, learning_rate, tolerance: as in `CoLiDE`.

    Returns:
        (d, d) weights before thresholding; see `threshold_to_dag`.

    Raises:
        ValueError: X that is not a finite matrix that varies in every column, or a parameter out of range.

    >>> sem = simulate_linear_sem(6, 1000, mean_degree=2.0, seed=0)
    >>> structure_metrics(sem.weights, threshold_to_dag(dagma(sem.X))).shd
    0
    """
    _require_nonnegative("sparsity", sparsity)
    _require_nonnegative("tolerance", tolerance)
    _require_positive("learning_rate", learning_rate)
    _require_count("warm_iter", warm_iter)
    _require_count("max_iter", max_iter)
    covariance = _covariance_of(X)
    ones = np.ones(len(covariance))
    return _follow_path(
        covariance,
        ones,
        ones,
        _FROZEN,
        sparsity=sparsity,
        n_stages=4,
        mu_init=1.0,
        mu_factor=0.1,
        log_det_scales=(1.0, 0.9, 0.8, 0.7),
        warm_iter=warm_iter,
        max_iter=max_iter,
        learning_rate=learning_rate,
        check_every=_check_interval(warm_iter),
        tolerance=tolerance,
    ).weights


def golem(
    X: ArrayLike,
    *,
    noise: Literal["equal", "unequal"] = "equal",
    sparsity: float | None = None,
    acyclicity: float = 5.0,
    max_iter: int = 10_000,
    learning_rate: float = 3e-3,
    initial: ArrayLike | None = None,
) -> Array:
    """GOLEM: the Gaussian likelihood of a linear DAG with soft sparsity and acyclicity, by Adam.

    Ng, Ghassami and Zhang, "On the Role of Sparsity and DAG Constraints for Learning Linear DAGs" (2020),
    arXiv 2006.10201; the authors take 100,000 steps at a rate of 1e-3.

    Arguments:
        X: (n, d) samples.
        noise: "equal" for GOLEM-EV, "unequal" for GOLEM-NV.
        sparsity: weight of the l1 penalty; None for the authors' 2e-2 (equal) or 2e-3 (unequal).
        acyclicity: weight of ``tr exp(W o W) - d``.
        max_iter, learning_rate: of Adam.
        initial: (d, d) start. None starts from 0 if equal, else from GOLEM-EV after as many steps, since
            the likelihood with unequal noise has many poor optima.

    Returns:
        (d, d) weights before thresholding, diagonal 0.

    Raises:
        ValueError: X that is not a finite matrix that varies in every column, or a parameter out of range.

    >>> sem = simulate_linear_sem(6, 1000, mean_degree=2.0, seed=0)
    >>> structure_metrics(sem.weights, threshold_to_dag(golem(sem.X, max_iter=2000))).shd
    0
    """
    _require(noise in _NOISE_KINDS, "noise", noise, "'equal' or 'unequal'")
    _require_nonnegative("acyclicity", acyclicity)
    _require_positive("learning_rate", learning_rate)
    _require_count("max_iter", max_iter)
    if sparsity is None:
        sparsity = 2e-2 if noise == "equal" else 2e-3
    _require_nonnegative("sparsity", sparsity)
    C = _covariance_of(X)
    identity = np.eye(len(C))
    if initial is not None:
        W = _square_matrix("initial", initial).copy()
        if W.shape != C.shape:
            raise ValueError(f"initial must have shape {C.shape}, got {W.shape}")
        np.fill_diagonal(W, 0.0)
    elif noise == "equal":
        W = np.zeros_like(C)
    else:
        W = golem(X, acyclicity=acyclicity, max_iter=max_iter, learning_rate=learning_rate)

    first, second = np.zeros_like(W), np.zeros_like(W)
    for step in range(1, max_iter + 1):
        D = identity - W
        CD = C @ D
        residual = np.einsum("ij,ij->j", D, CD)
        variance = residual if noise == "unequal" else residual.mean()
        gradient = np.linalg.inv(D).T - CD / variance
        gradient += sparsity * np.sign(W) + 2 * acyclicity * W * expm(W * W).T
        np.fill_diagonal(gradient, 0.0)
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        W -= learning_rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return W


def notears(X: ArrayLike, *, sparsity: float = 0.1, h_tol: float = 1e-8, rho_max: float = 1e16) -> Array:
    """NOTEARS: least squares under ``tr exp(W o W) = d``, by an augmented Lagrangian over L-BFGS-B.

    Zheng, Aragam, Ravikumar and Xing, "DAGs with NO TEARS: Continuous Optimization for Structure Learning"
    (2018), arXiv 1803.01422.

    Arguments:
        X: (n, d) samples.
        sparsity: weight of the l1 penalty.
        h_tol: ends when ``tr exp(W o W) - d`` is at most this.
        rho_max: ends when the penalty on the constraint reaches this.

    Returns:
        (d, d) weights before thresholding, diagonal 0.

    Raises:
        ValueError: X that is not a finite matrix that varies in every column, or a parameter out of range.

    >>> sem = simulate_linear_sem(6, 1000, mean_degree=2.0, seed=0)
    >>> structure_metrics(sem.weights, threshold_to_dag(notears(sem.X))).shd
    0
    """
    _require_nonnegative("sparsity", sparsity)
    _require_positive("h_tol", h_tol)
    _require_positive("rho_max", rho_max)
    C = _covariance_of(X)
    d = len(C)

    # The positive and negative parts of W are the variables: the l1 norm is then linear, the rest smooth.
    def weights_of(parts: Array) -> Array:
        return (parts[: d * d] - parts[d * d :]).reshape(d, d)

    def augmented_lagrangian(parts: Array, rho: float, alpha: float) -> tuple[float, Array]:
        W = weights_of(parts)
        CD = C - C @ W
        exponential = expm(W * W)
        h = np.trace(exponential) - d
        value = 0.5 * (np.trace(CD) - (W * CD).sum()) + sparsity * parts.sum() + h * (alpha + 0.5 * rho * h)
        gradient = ((alpha + rho * h) * 2 * W * exponential.T - CD).ravel()
        return float(value), np.concatenate([sparsity + gradient, sparsity - gradient])

    bounds = [(0.0, 0.0 if i == j else None) for _ in range(2) for i in range(d) for j in range(d)]
    parts, rho, alpha, h = np.zeros(2 * d * d), 1.0, 0.0, np.inf
    while h > h_tol and rho < rho_max:
        solution = minimize(
            augmented_lagrangian, parts, args=(rho, alpha), jac=True, method="L-BFGS-B", bounds=bounds
        )
        W = weights_of(solution.x)
        h_new = float(np.trace(expm(W * W)) - d)
        if h_new > 0.25 * h:
            rho *= 10
        else:
            parts, h = solution.x, h_new
            alpha += rho * h
    return weights_of(parts)


# ------------------------------------------------------------------------------------ simulation, metrics


@dataclass(frozen=True)
class LinearSEM:
    """Samples of a linear structural equation model and the model that they came from.

    Attributes:
        X: (n, d) samples, not centred.
        weights: (d, d) weights of a DAG, ``[i, j]`` of the edge i -> j.
        noise_variances: (d,) variances of the noise.
    """

    X: Array
    weights: Array
    noise_variances: Array


_NOISE: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {  # all of variance 1
    "normal": lambda rng, size: rng.standard_normal(size),
    "exponential": lambda rng, size: rng.standard_exponential(size),
    "laplace": lambda rng, size: rng.laplace(scale=np.sqrt(0.5), size=size),
    "gumbel": lambda rng, size: rng.gumbel(scale=np.sqrt(6) / np.pi, size=size),
}


def simulate_linear_sem(
    n_nodes: int,
    n_samples: int,
    *,
    mean_degree: float = 4.0,
    graph: Literal["erdos-renyi", "scale-free"] = "erdos-renyi",
    noise: Literal["normal", "exponential", "laplace", "gumbel"] = "normal",
    noise_variances: float | tuple[float, float] | ArrayLike = 1.0,
    weight_range: tuple[float, float] = (0.5, 2.0),
    seed: int | np.random.Generator | None = None,
) -> LinearSEM:
    """Random DAG with weights and samples of its linear model, as in the experiments of arXiv 2310.02895.

    Arguments:
        n_nodes, n_samples: at least 2 and 1.
        mean_degree: mean number of neighbours, in and out together; the literature's "ER4" is 8.
        graph: "erdos-renyi", each pair joined with probability ``mean_degree / (n_nodes - 1)``; or
            "scale-free", where each new node points at ``round(mean_degree / 2)`` (at least 1) nodes, chosen
            by preferential attachment.
        noise: distribution of the noise; exponential and Gumbel noise have a mean other than 0.
        noise_variances: one for all nodes, a tuple (low, high) to draw from uniformly, or (n_nodes,).
        weight_range: (low, high) of the size of the weights, uniform; their signs are random.
        seed: an int, a generator (drawn from), or None for a fresh one.

    Raises:
        ValueError: an unknown graph or noise, a size, degree, variance or range that cannot be.

    >>> sem = simulate_linear_sem(5, 100, mean_degree=2.0, seed=0)
    >>> sem.X.shape, sem.noise_variances.tolist()
    ((100, 5), [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    d = n_nodes
    _require(isinstance(d, Integral) and d >= 2, "n_nodes", d, "an integer of at least 2")
    _require_count("n_samples", n_samples)
    _require(0 <= mean_degree <= d - 1, "mean_degree", mean_degree, f"in [0, n_nodes - 1 = {d - 1}]")
    _require(graph in ("erdos-renyi", "scale-free"), "graph", graph, "'erdos-renyi' or 'scale-free'")
    _require(noise in _NOISE, "noise", noise, "one of " + ", ".join(map(repr, _NOISE)))
    low, high = weight_range
    _require(0 < low <= high < np.inf, "weight_range", weight_range, "(low, high) with 0 < low <= high")
    rng = np.random.default_rng(seed)
    variances = _draw_variances(noise_variances, d, rng)

    # Nodes in topological order, so that the weights are upper triangular, until the last two lines.
    if graph == "erdos-renyi":
        edges = np.triu(rng.random((d, d)) < mean_degree / (d - 1), k=1)
    else:
        edges = _preferential_attachment(d, max(1, round(mean_degree / 2)), rng)
    sizes = rng.uniform(low, high, (d, d)) * rng.choice([-1.0, 1.0], (d, d))
    W = np.where(edges, sizes, 0.0)
    order = rng.permutation(d)
    E = _NOISE[noise](rng, (n_samples, d)) * np.sqrt(variances[order])
    samples = solve_triangular((np.eye(d) - W).T, E.T, lower=True, unit_diagonal=True).T

    position = np.argsort(order)
    return LinearSEM(np.ascontiguousarray(samples[:, position]), W[np.ix_(position, position)], variances)


def _draw_variances(noise_variances: Any, d: int, rng: np.random.Generator) -> Array:
    values = np.asarray(noise_variances, dtype=np.float64)
    _require(
        bool((values > 0).all() and np.isfinite(values).all()), "noise_variances", noise_variances, "positive"
    )
    if isinstance(noise_variances, tuple):
        _require(
            values.shape == (2,) and values[0] <= values[1], "noise_variances", noise_variances, "(low, high)"
        )
        return rng.uniform(values[0], values[1], d)
    if values.shape not in ((), (d,)):
        raise ValueError(
            f"noise_variances must be a number, a tuple or of shape {(d,)}, got shape {values.shape}"
        )
    return np.broadcast_to(values, d).copy()


def _preferential_attachment(d: int, m: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Edges of a Barabasi-Albert graph, from newer to older nodes, the newest node first."""
    edges = np.zeros((d, d), dtype=bool)
    degrees = np.zeros(d)
    edges[m, :m] = True
    degrees[:m], degrees[m] = 1, m
    for new in range(m + 1, d):
        chosen = rng.choice(new, size=m, replace=False, p=degrees[:new] / degrees[:new].sum())
        edges[new, chosen] = True
        degrees[chosen] += 1
        degrees[new] = m
    return edges[::-1, ::-1]


@dataclass(frozen=True)
class StructureMetrics:
    """How an estimated graph differs from the true one; an edge is a weight that is not 0.

    Attributes:
        shd: structural Hamming distance: adjacencies missing or too many, plus edges turned round.
        tpr: share of the true edges found with their direction; 0 if there are none.
        fdr: share of the predicted edges that are wrong or turned round; 0 if there are none.
        n_edges: number of predicted edges.
    """

    shd: int
    tpr: float
    fdr: float
    n_edges: int


def structure_metrics(true_weights: ArrayLike, estimated_weights: ArrayLike) -> StructureMetrics:
    """Compare the edges of two weight matrices, (d, d) each, as the experiments of arXiv 2310.02895 do.

    Raises ValueError if they are not square matrices of one shape.

    >>> structure_metrics([[0, 1, 1], [0, 0, 1], [0, 0, 0]], [[0, 1, 0], [0, 0, 0], [1, 1, 0]]).shd
    2
    """
    true = _square_matrix("true_weights", true_weights) != 0
    estimated = _square_matrix("estimated_weights", estimated_weights) != 0
    if true.shape != estimated.shape:
        raise ValueError(
            f"estimated_weights must have the shape {true.shape} of true_weights, got {estimated.shape}"
        )
    correct = int((estimated & true).sum())
    n_reversed = int((estimated & ~true & true.T).sum())
    n_edges = int(estimated.sum())
    differing_pairs = int(np.tril((true | true.T) != (estimated | estimated.T)).sum())
    return StructureMetrics(
        shd=differing_pairs + n_reversed,
        tpr=correct / max(int(true.sum()), 1),
        fdr=(n_edges - correct) / max(n_edges, 1),
        n_edges=n_edges,
    )
