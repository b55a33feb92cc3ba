"""Learning a wide network with quadratic activations: the least error and algorithms that reach it.

Maillard, Troiani, Martin, Krzakala and Zdeborová, "Bayes-optimal learning of an extensive-width neural
network from quadratically many samples" (2024), arXiv 2408.03733.

A teacher with m hidden units and standard normal weights W (m, d) labels standard normal inputs x (d,) by

    y = (1/m) sum_k (w_k . x / sqrt(d) + sqrt(noise) z_k)^2,      z_k standard normal,

where m = width_ratio * d, and n = sample_ratio * d^2 such pairs are seen. The labels depend on W through its
second moment ``S = W' W / m`` alone, so that learning is estimating S from the products of S with
``Z_i = (x_i x_i' - I) / sqrt(d)``, under Gaussian noise of a variance called effective here. That in turn
compares with seeing S once under symmetric Gaussian noise, whose best denoiser keeps the eigenvectors and
shrinks the eigenvalues by what free probability knows of their law. All errors are

    (width_ratio / d) ||estimate - S||^2,

which is 1 for the guess ``estimate = I`` without data.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

Array = NDArray[np.float64]

_LEAST_NOISE = 1e-14  # below this variance, the relative error of denoising is that of the limit


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_positive(name: str, value: float) -> None:
    _require(0 < value < np.inf, name, value, "a positive number")


def _require_nonnegative(name: str, value: float) -> None:
    _require(0 <= value < np.inf, name, value, "a number of at least 0")


def _require_count(name: str, value: object) -> None:
    _require(isinstance(value, Integral) and int(value) >= 1, name, value, "an integer of at least 1")


def _square_matrix(name: str, value: ArrayLike) -> Array:
    matrix = np.asarray(value, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"{name} must be a square matrix, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    return matrix


# ------------------------------------------------------------- spectrum of a Wishart matrix in Gaussian noise


@numba.njit(cache=True, error_model="numpy")
def _stieltjes(x: float, noise_variance: float, width_ratio: float) -> complex:
    """Limit g(x + i0) of the spectrum's Stieltjes transform: its imaginary part is -pi times the density.

    R-transforms add, so that ``x = k / (k - g) + t g + 1 / g``: a cubic in g, which always has a real root
    beyond k. That one is found first, by bracketed Newton steps on its distance from k; the quadratic that is
    left holds the complex pair inside the bulk. Outside, where all roots are real, x falls with g at the
    physical one alone.
    """
    t, k = noise_variance, width_ratio
    linear = t * k - x
    root = np.sqrt(linear * linear + 4 * t * k)
    high = 2 * k / (linear + root) if linear > 0 else (root - linear) / (2 * t)
    linear_low = linear + 1 / k
    root = np.sqrt(linear_low * linear_low + 4 * t * k)
    low = 2 * k / (linear_low + root) if linear_low > 0 else (root - linear_low) / (2 * t)
    s = high
    for _ in range(200):
        value = s * (t * s + linear) - k + s / (k + s)
        if value > 0:
            high = s
        else:
            low = s
        slope = 2 * t * s + linear + k / (k + s) ** 2
        following = s - value / slope
        if not low < following < high:
            following = np.sqrt(low * high)
        step = abs(following - s)
        s = following
        if step <= 1e-15 * s:
            break
    real = k + s

    # The middle coefficient has two forms; the one of smaller terms cancels less.
    if max(t * s, abs(x)) < max(k / s, t * k, 1 / real):
        middle = t * s - x
    else:
        middle = k / s - t * k - 1 / real
    centre, product = -middle / (2 * t), k / (real * t)
    discriminant = centre * centre - product
    if discriminant < 0:
        return complex(centre, -np.sqrt(-discriminant))
    other = centre + np.copysign(np.sqrt(discriminant), centre)
    best, least = real, k / (s * s) + t - 1 / (real * real)
    for g in (other, product / other):
        slope = k / (k - g) ** 2 + t - 1 / (g * g)
        if slope < least:
            best, least = g, slope
    return complex(best, 0.0)


def _break_points(noise_variance: float, width_ratio: float) -> Array:
    """Sorted points between which the density is smooth: the ends of the bulks, or where two have just met.

    They are where x as a function of g is stationary: two or four real points are the ends of the support,
    and a complex pair is a branch point beside it.
    """
    t, k = noise_variance, width_ratio
    g = np.roots([t, -2 * t * k, k + t * k * k - 1, 2 * k, -k * k]).astype(np.complex128)
    return np.sort((k / (k - g) + t * g + 1 / g).real)


def _double_exponential_rule() -> tuple[Array, Array]:
    """Distances from the left end and weights of the tanh-sinh rule on [0, 1/2]; the rest mirrors it.

    The nodes crowd at the ends like a geometric series, so that they resolve a feature there of any width.
    """
    step = 0.06
    u = step * np.arange(-55, 1)
    distance = 1 / (1 + np.exp(-np.pi * np.sinh(u)))
    weight = step * np.pi * np.cosh(u) * distance * (1 - distance)
    weight[-1] /= 2  # the middle is counted from both ends
    return distance, weight


_DISTANCES, _WEIGHTS = _double_exponential_rule()


@numba.njit(cache=True, error_model="numpy")
def _integrate_cubed_density(
    points: Array, noise_variance: float, width_ratio: float, distances: Array, weights: Array
) -> float:
    total = 0.0
    for i in range(len(points) - 1):
        width = points[i + 1] - points[i]
        for j in range(len(distances)):
            offset = width * distances[j]
            left = _stieltjes(points[i] + offset, noise_variance, width_ratio).imag
            right = _stieltjes(points[i + 1] - offset, noise_variance, width_ratio).imag
            total -= width * weights[j] * (left**3 + right**3)
    return total / np.pi**3


def _relative_denoising_error(noise_variance: float, width_ratio: float) -> float:
    """Least error of the denoiser, as a share of the variance of the noise."""
    t, k = max(float(noise_variance), _LEAST_NOISE), float(width_ratio)
    integral = _integrate_cubed_density(_break_points(t, k), t, k, _DISTANCES, _WEIGHTS)
    return max(1 - 4 * np.pi**2 / 3 * t * integral, 0.0)


@numba.njit(cache=True, error_model="numpy")
def _shrink(eigenvalues: Array, low: float, high: float, noise_variance: float, width_ratio: float) -> Array:
    """Denoised eigenvalues. Those beyond the support [low, high], where the limit has none, follow its ends.

    The formula itself is infinitely steep just beyond an end, and a few stray eigenvalues would keep message
    passing from settling: they are shrunk linearly instead, as eigenvalues are on average.
    """
    shrunk = np.empty_like(eigenvalues)
    for i in range(len(eigenvalues)):
        x = min(max(eigenvalues[i], low), high)
        hilbert = _stieltjes(x, noise_variance, width_ratio).real
        beyond = (eigenvalues[i] - x) / (1 + width_ratio * noise_variance)
        shrunk[i] = x - 2 * noise_variance * hilbert + beyond
    return shrunk


def _denoise(observation: Array, noise_variance: float, width_ratio: float) -> Array:
    t, k = float(noise_variance), float(width_ratio)
    eigenvalues, eigenvectors = np.linalg.eigh(observation)
    points = _break_points(t, k)
    denoised: Array = (eigenvectors * _shrink(eigenvalues, points[0], points[-1], t, k)) @ eigenvectors.T
    return denoised


def wishart_denoising_error(noise_variance: float, width_ratio: float) -> float:
    """Least error per dimension of denoising a Wishart matrix, in the limit of many dimensions.

    Maillard and others (2024), arXiv 2408.03733: of S in ``R = S + sqrt(noise_variance) G``, as in
    `wishart_denoiser`, which reaches it.

    Arguments:
        noise_variance: positive.
        width_ratio: degrees of freedom m of S over its dimension d, positive.

    Returns:
        The limit of ``||estimate - S||^2 / d``, below ``noise_variance`` and ``1 / width_ratio``.

    Raises:
        ValueError: an argument that is not positive and finite.

    >>> round(wishart_denoising_error(0.6, width_ratio=0.5), 6)
    0.337778
    """
    _require_positive("noise_variance", noise_variance)
    _require_positive("width_ratio", width_ratio)
    return float(noise_variance * _relative_denoising_error(noise_variance, width_ratio))


def wishart_denoiser(observation: ArrayLike, *, noise_variance: float, width_ratio: float) -> Array:
    """Best estimate of a Wishart matrix S seen in symmetric Gaussian noise; it keeps the eigenvectors.

    The rotationally invariant estimator in Maillard and others (2024), arXiv 2408.03733. The observation is
    ``R = S + sqrt(noise_variance) G`` with ``S = W' W / m``, W (m, d) standard normal, and G symmetric with
    normal entries of variance 1/d, 2/d on the diagonal. Each eigenvalue falls by ``2 noise_variance`` times
    the Hilbert transform there of the limiting density of the eigenvalues.

    Arguments:
        observation: (d, d), symmetric.
        noise_variance: positive.
        width_ratio: m / d, positive.

    Returns:
        (d, d), symmetric.

    Raises:
        ValueError: an observation that is not a symmetric finite matrix, or a number that is not positive.

    >>> rng = np.random.default_rng(0)
    >>> W, G = rng.standard_normal((100, 200)), rng.standard_normal((200, 200))
    >>> S = W.T @ W / 100
    >>> R = S + np.sqrt(0.6) * (G + G.T) / np.sqrt(400)
    >>> estimate = wishart_denoiser(R, noise_variance=0.6, width_ratio=0.5)
    >>> round(float(np.sum((R - S) ** 2) / 200), 1), round(float(np.sum((estimate - S) ** 2) / 200), 2)
    (0.6, 0.34)
    """
    R = _square_matrix("observation", observation)
    if np.abs(R - R.T).max() > 1e-8 * np.abs(R).max():
        raise ValueError(
            f"observation must be symmetric, got entries that differ from their mirror image by up to "
            f"{np.abs(R - R.T).max():.3g}"
        )
    _require_positive("noise_variance", noise_variance)
    _require_positive("width_ratio", width_ratio)
    return _denoise(R, noise_variance, width_ratio)


# -------------------------------------------------------------------------------------------- the least error


@dataclass(frozen=True)
class BayesOptimalError:
    """The least possible error of learning a quadratic network (arXiv 2408.03733).

    `mmse` is the error as a share of that without data. `q_hat` is the order parameter of the paper, and
    `denoising_noise` its inverse: the variance of the noise under which seeing S itself would tell as much as
    the data. `effective_noise` is the variance of the noise in ``sqrt(d) (y - mean)``. After perfect recovery
    `mmse` and `denoising_noise` are 0 and `q_hat` is infinite.
    """

    mmse: float
    q_hat: float
    denoising_noise: float
    effective_noise: float


def _effective_noise(noise: float, width_ratio: float) -> float:
    return float(2 * noise * (2 + noise) / width_ratio)


def perfect_recovery_threshold(width_ratio: float) -> float:
    """Ratio n / d^2 from which noiseless data determine the network, at m = width_ratio * d hidden units.

    Maillard and others (2024), arXiv 2408.03733: the degrees of freedom of S over d^2.

    Raises:
        ValueError: a ratio that is not positive and finite.

    >>> perfect_recovery_threshold(0.5), perfect_recovery_threshold(2.0)
    (0.375, 0.5)
    """
    _require_positive("width_ratio", width_ratio)
    return width_ratio - width_ratio**2 / 2 if width_ratio < 1 else 0.5


def bayes_optimal_error(sample_ratio: float, width_ratio: float, *, noise: float = 0.0) -> BayesOptimalError:
    """Least error that any method can have on a quadratic network, in the limit of many dimensions.

    Maillard and others (2024), arXiv 2408.03733. The variance t at which denoising is as hard as learning is
    the fixed point of ``t = (effective_noise + 2 E(t)) / (4 sample_ratio)``, E the least error of denoising.

    Arguments:
        sample_ratio: n / d^2, positive.
        width_ratio: m / d, positive.
        noise: variance of the noise before the activation, at least 0.

    Returns:
        A `BayesOptimalError`; its `mmse` is in (0, 1), or 0 in perfect recovery.

    Raises:
        ValueError: an argument out of range.

    >>> round(bayes_optimal_error(0.2, 0.5).mmse, 5)
    0.3922
    >>> bayes_optimal_error(0.375, 0.5).mmse
    0.0
    """
    _require_positive("sample_ratio", sample_ratio)
    _require_positive("width_ratio", width_ratio)
    _require_nonnegative("noise", noise)
    effective = _effective_noise(noise, width_ratio)

    def excess(log_t: float) -> float:
        t = np.exp(log_t)
        return float(effective / t + 2 * _relative_denoising_error(t, width_ratio) - 4 * sample_ratio)

    low = np.log(effective / (4 * sample_ratio) if noise > 0 else _LEAST_NOISE)
    if noise == 0 and (sample_ratio >= perfect_recovery_threshold(width_ratio) or excess(low) <= 0):
        return BayesOptimalError(mmse=0.0, q_hat=np.inf, denoising_noise=0.0, effective_noise=0.0)
    high = np.log((effective + 2 / width_ratio) / (4 * sample_ratio))
    # Both ends are bounds of the root that rounding may put on it.
    t = float(np.exp(brentq(excess, low - 0.1, high + 0.1, xtol=1e-13)))
    return BayesOptimalError(
        mmse=float(width_ratio * t * _relative_denoising_error(t, width_ratio)),
        q_hat=1 / t,
        denoising_noise=t,
        effective_noise=effective,
    )


# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class QuadraticNetworkData:
    """What a quadratic teacher says of normal inputs; see `sample_quadratic_network`.

    `inputs` (n, d), `targets` (n,), the teacher's `weights` (m, d) and their `second_moment` (d, d).
    """

    inputs: Array
    targets: Array
    weights: Array
    second_moment: Array


def sample_quadratic_network(
    n_samples: int,
    n_features: int,
    n_hidden: int,
    *,
    noise: float = 0.0,
    seed: int | np.random.Generator | None = None,
) -> QuadraticNetworkData:
    """Draw a quadratic teacher network and data that it labels (Maillard and others 2024, arXiv 2408.03733).

    Arguments:
        n_samples, n_features, n_hidden: n, d and m, at least 1.
        noise: variance of the noise in every hidden unit before the activation, at least 0.
        seed: an integer or a generator, for reproducible draws.

    Returns:
        A `QuadraticNetworkData`; its targets have mean ``1 + noise``.

    Raises:
        ValueError: a size or a variance out of range.

    >>> data = sample_quadratic_network(500, 50, 25, seed=0)
    >>> data.inputs.shape, data.targets.shape, data.weights.shape, data.second_moment.shape
    ((500, 50), (500,), (25, 50), (50, 50))
    """
    for name, value in (("n_samples", n_samples), ("n_features", n_features), ("n_hidden", n_hidden)):
        _require_count(name, value)
    _require_nonnegative("noise", noise)
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((n_hidden, n_features))
    inputs = rng.standard_normal((n_samples, n_features))
    second_moment = weights.T @ weights / n_hidden
    targets = _quadratic_forms(inputs, second_moment) / n_features
    if noise > 0:
        # Squares of shifted normals add up to a noncentral chi-square: one draw for all hidden units.
        targets = rng.noncentral_chisquare(n_hidden, n_hidden * targets / noise) * (noise / n_hidden)
    return QuadraticNetworkData(inputs, targets, weights, second_moment)


def second_moment_error(estimate: ArrayLike, truth: ArrayLike, width_ratio: float) -> float:
    """Error ``(width_ratio / d) ||estimate - truth||^2`` of a second moment (arXiv 2408.03733).

    It is 1 on average for the identity as an estimate, and up to a share of 1/d the squared error of the
    prediction ``x' S x / d`` at normal inputs, times ``width_ratio * d / 2``.

    Arguments:
        estimate, truth: (d, d).
        width_ratio: m / d, positive.

    Raises:
        ValueError: matrices that are not square, finite and of one shape, or a ratio that is not positive.

    >>> second_moment_error(np.eye(2), np.diag([2.0, 3.0]), width_ratio=0.5)
    1.25
    """
    A, B = _square_matrix("estimate", estimate), _square_matrix("truth", truth)
    if A.shape != B.shape:
        raise ValueError(f"estimate must have the shape {B.shape} of truth, got {A.shape}")
    _require_positive("width_ratio", width_ratio)
    return float(width_ratio / len(A) * np.sum((A - B) ** 2))


def _quadratic_forms(X: Array, S: Array) -> Array:
    """``x' S x`` for every row x of X."""
    forms: Array = np.einsum("ij,ij->i", X @ S, X)
    return forms


# ----------------------------------------------------------------------------------------------- the learners


class _QuadraticRegressor(RegressorMixin, BaseEstimator):
    """Prediction from a learned second moment."""

    second_moment_: Array
    intercept_: float

    def predict(self, X: ArrayLike) -> Array:
        """Predictions ``x' second_moment_ x / d + intercept_``, (n,), for the rows x of X, (n, d)."""
        check_is_fitted(self)
        inputs = validate_data(self, X, dtype=np.float64, reset=False)
        prediction: Array = _quadratic_forms(inputs, self.second_moment_) / inputs.shape[1] + self.intercept_
        return prediction

    def _check_data(self, X: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        inputs, targets = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2, ensure_min_features=2
        )
        return inputs, targets.astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # The model has neither linear terms nor scales: it fits what a quadratic network labels.
        tags.regressor_tags.poor_score = True
        return tags


class GampRieRegressor(_QuadraticRegressor):
    """Quadratic network learned by message passing with the best Wishart denoiser: GAMP-RIE.

    Maillard and others (2024), arXiv 2408.03733: on standard normal inputs in many dimensions it has the
    least error of all methods, `bayes_optimal_error`, in polynomial time. It starts from the second moment
    that is expected without data, draws nothing, and one iteration costs two products of (n, d) with (d, d)
    matrices and one eigendecomposition.

    Arguments:
        width_ratio: m / d of the teacher, positive.
        noise: variance of the noise before the teacher's activation, at least 0.
        center: take the mean off the targets and the products, instead of the mean expected of many
            dimensions, from which those of a teacher stray by ``sqrt(2 / (m d))``.
        damping: share of the last iteration that the products keep, in [0, 1).
        max_iter: iterations at most; more raise a ConvergenceWarning.
        tol: the iteration ends when ``||change of second_moment_||^2 / d`` falls below.

    Attributes:
        second_moment_: (d, d) estimate of ``W' W / m``.
        intercept_: constant part of the predictions.
        predicted_mmse_: the error that the iteration itself expects of `second_moment_`.
        n_iter_: iterations taken.
        n_features_in_: d.

    >>> data = sample_quadratic_network(1800, 60, 30, seed=0)
    >>> model = GampRieRegressor(width_ratio=0.5).fit(data.inputs, data.targets)
    >>> second_moment_error(model.second_moment_, data.second_moment, 0.5) < 0.05
    True
    """

    predicted_mmse_: float
    n_iter_: int

    def __init__(
        self,
        *,
        width_ratio: float,
        noise: float = 0.0,
        center: bool = True,
        damping: float = 0.4,
        max_iter: int = 200,
        tol: float = 1e-6,
    ) -> None:
        self.width_ratio = width_ratio
        self.noise = noise
        self.center = center
        self.damping = damping
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: ArrayLike, y: ArrayLike) -> GampRieRegressor:
        """Learn from inputs X, (n, d), and targets y, (n,).

        Raises ValueError for data that are not finite or differ in length, and for parameters out of range.
        """
        _require_positive("width_ratio", self.width_ratio)
        _require_nonnegative("noise", self.noise)
        _require(0 <= self.damping < 1, "damping", self.damping, "in [0, 1)")
        _require_count("max_iter", self.max_iter)
        _require_nonnegative("tol", self.tol)
        inputs, targets = self._check_data(X, y)
        n, d = inputs.shape
        sample_ratio, root = n / d**2, np.sqrt(d)
        effective = _effective_noise(self.noise, self.width_ratio)
        target = root * (targets - (targets.mean() if self.center else 1 + self.noise))

        # ||Z_i||^2 / d, to which the variance of a product is proportional. It is 1 in the limit; at some ten
        # dimensions, taking it for 1 lets the iteration settle on an error far above the one that it expects.
        norms = np.einsum("ij,ij->i", inputs, inputs)
        scales = (norms * (norms - 2) + d) / d**2

        def residuals_of(products: Array, variance: float) -> Array:
            residuals: Array = (target - products) / (effective + variance * scales)
            return residuals - residuals.mean() if self.center else residuals

        S, products = np.eye(d), np.zeros(n)
        next_variance = variance = 2 / self.width_ratio
        residuals = residuals_of(products, variance)
        for iteration in range(1, self.max_iter + 1):
            self.n_iter_ = iteration
            forms = _quadratic_forms(inputs, S)
            forms -= forms.mean() if self.center else np.trace(S)
            corrected = forms / root - next_variance * scales * residuals
            products = self.damping * products + (1 - self.damping) * corrected
            variance = self.damping * variance + (1 - self.damping) * next_variance
            residuals = residuals_of(products, variance)
            precision = 4 * sample_ratio * float(np.mean(scales * residuals**2))
            t = max(1 / precision, _LEAST_NOISE) if precision > 0 else _LEAST_NOISE
            gradient = (inputs.T * residuals) @ inputs
            gradient[np.diag_indices(d)] -= residuals.sum()
            previous, S = S, _denoise(S + (2 * t / (d * root)) * gradient, t, self.width_ratio)
            next_variance = 2 * max(t * _relative_denoising_error(t, self.width_ratio), _LEAST_NOISE)
            if np.sum((S - previous) ** 2) < self.tol * d:
                break
        else:
            warnings.warn(
                f"the iteration has not converged after max_iter={self.max_iter} steps",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.second_moment_ = S
        self.intercept_ = (
            float(np.mean(targets - _quadratic_forms(inputs, S) / d)) if self.center else float(self.noise)
        )
        self.predicted_mmse_ = self.width_ratio * next_variance / 2
        return self


@numba.njit(cache=True, fastmath={"reassoc", "contract"})
def _weight_by_residuals(activations: Array, target: Array, residuals: Array) -> None:
    """Set the residuals of every sample (n, starts) and multiply the activations (n, starts, m) by them."""
    n, starts, m = activations.shape
    for i in range(n):
        for a in range(starts):
            row = activations[i, a]
            output = 0.0
            for k in range(m):
                output += row[k] * row[k]
            residual = output / np.sqrt(m) - target[i]
            residuals[i, a] = residual
            for k in range(m):
                row[k] *= residual


def _loss_gradient(W: Array, X: Array, target: Array) -> tuple[Array, Array]:
    """Gradients (starts, m, d) of the losses ``sum_i r_i^2 / 4`` at W, and the residuals r (n, starts)."""
    starts, m, d = W.shape
    activations = (X @ W.reshape(-1, d).T) / np.sqrt(d)
    residuals = np.empty((len(X), starts))
    _weight_by_residuals(activations.reshape(-1, starts, m), target, residuals)
    return (activations.T @ X).reshape(W.shape) / np.sqrt(m * d), residuals


def _descend(starts: Array, X: Array, target: Array, learning_rate: float, n_steps: int) -> Array | None:
    """Weights after the steps, or None if the descent diverges."""
    W = starts.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(n_steps):
            gradient, residuals = _loss_gradient(W, X, target)
            if not np.isfinite(residuals.sum()):
                return None
            W -= learning_rate * gradient
        return W if np.isfinite(np.sum(W * W)) else None


class AveragedGradientDescentRegressor(_QuadraticRegressor):
    """Quadratic network learned by gradient descent from several random starts, whose matrices are averaged.

    Maillard and others (2024), arXiv 2408.03733, for data without noise: each start ends at one of the
    networks that fit the data, as if drawn from them at random, so that one start has twice the least
    possible error and I starts, averaged, 1 + 1/I times. All starts run at once, with full batches.

    Arguments:
        n_hidden: m of the students, the teacher's.
        n_inits: number of starts.
        learning_rate: step on ``(1/4) sum_i (sqrt(m) (prediction_i - y_i))^2``. None for ``0.4 d / n``, as
            steps beyond ``d / n`` do not settle on standard normal inputs; halved while the descent diverges.
        max_iter: steps taken.
        random_state: an integer or a RandomState, for reproducible starts.

    Attributes:
        second_moments_: (n_inits, d, d) of each start's weights.
        second_moment_: (d, d), their mean.
        intercept_: 0.
        learning_rate_: the step that was taken.
        n_iter_: `max_iter`.
        train_losses_: (n_inits,) mean squares of ``sqrt(m) (prediction - y)``, each start by itself.
        n_features_in_: d.

    >>> data = sample_quadratic_network(180, 30, 15, seed=0)
    >>> model = AveragedGradientDescentRegressor(n_hidden=15, random_state=0).fit(data.inputs, data.targets)
    >>> bool(model.train_losses_.max() < 1e-4)
    True
    >>> average, single = (
    ...     second_moment_error(S, data.second_moment, 0.5)
    ...     for S in (model.second_moment_, model.second_moments_[0])
    ... )
    >>> average < 0.7 * single
    True
    """

    second_moments_: Array
    train_losses_: Array
    learning_rate_: float
    n_iter_: int

    def __init__(
        self,
        *,
        n_hidden: int,
        n_inits: int = 16,
        learning_rate: float | None = None,
        max_iter: int = 2000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_hidden = n_hidden
        self.n_inits = n_inits
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> AveragedGradientDescentRegressor:
        """Learn from inputs X, (n, d), and targets y, (n,).

        Raises ValueError for data that are not finite or differ in length, for parameters out of range, and
        when the descent diverges at the `learning_rate` that was asked for.
        """
        for name in ("n_hidden", "n_inits", "max_iter"):
            _require_count(name, getattr(self, name))
        if self.learning_rate is not None:
            _require_positive("learning_rate", self.learning_rate)
        inputs, targets = self._check_data(X, y)
        n, d = inputs.shape
        scaled = np.sqrt(self.n_hidden) * targets
        starts = check_random_state(self.random_state).standard_normal((self.n_inits, self.n_hidden, d))
        rate = 0.4 * d / n if self.learning_rate is None else self.learning_rate
        while (W := _descend(starts, inputs, scaled, rate, self.max_iter)) is None:
            if self.learning_rate is not None or rate == 0:
                raise ValueError(
                    f"learning_rate must be small enough for the descent to converge, got {rate!r}"
                )
            rate /= 2
        self.second_moments_ = W.transpose(0, 2, 1) @ W / self.n_hidden
        self.second_moment_ = self.second_moments_.mean(axis=0)
        self.intercept_ = 0.0
        self.train_losses_ = np.mean(_loss_gradient(W, inputs, scaled)[1] ** 2, axis=0)
        self.learning_rate_ = rate
        self.n_iter_ = self.max_iter
        return self
