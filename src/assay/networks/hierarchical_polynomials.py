"""A polynomial of a hidden polynomial, learned by a three-layer network that is trained layer by layer.

Wang, Nichani and Lee, "Learning Hierarchical Polynomials with Three-Layer Neural Networks" (2023),
arXiv 2311.13774.

The target is ``h = g o p`` on standard Gaussian inputs in d dimensions: p, the hidden feature, is of degree k
and g, the link, of degree q. If p is a sum of many terms it is itself nearly Gaussian, and the best fit to h
by polynomials of degree k is ``c_1 p``, where ``c_1 = E g'(z)`` for a standard Gaussian z. So the first stage
of training, a fit by random features of degree k, finds p up to scale from about d^k samples, and the second
stage fits g in one dimension. A kernel method has to fit all of h, which takes about d^(kq) samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

import numpy as np
import torch
from numpy.polynomial.hermite_e import herme2poly
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve, eigh
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.kernel_ridge import KernelRidge
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

Array = NDArray[np.float64]
FeatureKind = Literal["hermite", "product"]
Solver = Literal["exact", "gradient_descent"]

_BATCH = 4096  # rows of the hidden layer that are held at once when a fitted network is evaluated


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_count(name: str, value: object, least: int = 1) -> None:
    condition = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    _require(condition, name, value, f"an integer of at least {least}")


def _finite(name: str, value: ArrayLike, ndim: int) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    return array


# --------------------------------------------------------------------------------------------- the targets


def hermite_values(z: ArrayLike, degree: int) -> Array:
    """Orthonormal Hermite polynomials, as Wang, Nichani and Lee (2023, arXiv 2311.13774) expand link and σ.

    ``h_j = He_j / sqrt(j!)``, so that ``E h_i(z) h_j(z)`` is 1 if i = j, else 0, for a standard Gaussian z.

    Arguments:
        z: points, of any shape.
        degree: the highest, at least 0.

    Returns:
        float64 of shape z.shape + (degree + 1,), the values of h_0 to h_degree.

    Raises:
        ValueError: a degree that is not an integer of at least 0.

    >>> hermite_values([1.0, 2.0], 3).round(4).tolist()
    [[1.0, 1.0, 0.0, -0.8165], [1.0, 2.0, 2.1213, 0.8165]]
    """
    _require_count("degree", degree, 0)
    points = np.asarray(z, dtype=np.float64)
    # One array a degree while the recursion runs; only the view that is returned has the degree last.
    values = np.ones((degree + 1, *points.shape))
    if degree:
        values[1] = points
    for j in range(1, degree):
        values[j + 1] = (points * values[j] - math.sqrt(j) * values[j - 1]) / math.sqrt(j + 1)
    return np.moveaxis(values, 0, -1)


def _check_inputs(X: ArrayLike, n_features: int) -> Array:
    points = _finite("X", X, 2)
    if points.shape[1] != n_features:
        raise ValueError(f"X must have {n_features} columns, got {points.shape[1]}")
    return points


@dataclass(frozen=True, eq=False)
class FeaturePolynomial:
    """Hidden feature: a sum of L polynomials of one degree in orthogonal directions (arXiv 2311.13774).

    ``p(x) = L^(-1/2) sum_i weights_i ψ_i(x)`` with ``ψ_i(x) = h_degree(v_i . x)`` ("hermite") or
    ``ψ_i(x) = prod_j (v_ij . x)`` ("product"). For orthonormal directions and Gaussian x its mean is 0 and
    its variance the mean of the squared weights. Wang, Nichani and Lee (2023).

    Arguments:
        directions: (L, J, d); J is 1 for "hermite" and `degree` for "product".
        weights: (L,).
        kind: "hermite" or "product".
        degree: of the polynomial, at least 1.

    Raises ValueError for an unknown kind, shapes that do not match and values that are not finite.

    >>> p = FeaturePolynomial(np.eye(4).reshape(2, 2, 4), weights=[1, -1], kind="product", degree=2)
    >>> p([[1.0, 2.0, 3.0, 4.0]]).round(4).tolist()  # (1 · 2 - 3 · 4) / sqrt 2
    [-7.0711]
    """

    directions: Array
    weights: Array
    kind: FeatureKind
    degree: int

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        _require_count("degree", self.degree)
        directions = _finite("directions", self.directions, 3)
        weights = _finite("weights", self.weights, 1)
        factors = 1 if self.kind == "hermite" else self.degree
        if directions.shape[:2] != (len(weights), factors):
            raise ValueError(
                f"directions must have shape ({len(weights)}, {factors}, d) for {len(weights)} weights, kind "
                f"{self.kind!r} and degree {self.degree}, got {directions.shape}"
            )
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "weights", weights)

    def __call__(self, X: ArrayLike) -> Array:
        """The values (n,) at the rows of X (n, d)."""
        terms, factors, d = self.directions.shape
        projections = _check_inputs(X, d) @ self.directions.reshape(-1, d).T
        if self.kind == "hermite":
            values = hermite_values(projections, self.degree)[..., -1]
        else:
            values = projections.reshape(-1, terms, factors).prod(axis=-1)
        return values @ self.weights / math.sqrt(terms)


@dataclass(frozen=True, eq=False)
class HierarchicalPolynomial:
    """Target ``h(x) = sum_j link_j h_j(p(x))``, a polynomial of a hidden polynomial (arXiv 2311.13774).

    Wang, Nichani and Lee (2023). ``link[1]`` decides whether it can be learned by way of p: with 0 there the
    first stage of training has nothing to find.

    Arguments:
        feature: the hidden polynomial p.
        link: (q + 1,) coefficients of the orthonormal Hermite polynomials h_0 to h_q.

    Raises ValueError for a link that is not a vector of finite numbers.

    >>> target = random_hierarchical_polynomial(6, link=(0, 1), seed=0)
    >>> X = np.random.default_rng(1).standard_normal((3, 6))
    >>> np.allclose(target(X), target.feature(X))
    True
    """

    feature: FeaturePolynomial
    link: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "link", _finite("link", self.link, 1))

    def __call__(self, X: ArrayLike) -> Array:
        """The values (n,) at the rows of X (n, d)."""
        return hermite_values(self.feature(X), len(self.link) - 1) @ self.link


def _check_kind(kind: str) -> None:
    _require(kind in get_args(FeatureKind), "kind", kind, "'hermite' or 'product'")


def random_hierarchical_polynomial(
    n_features: int,
    *,
    degree: int = 2,
    link: ArrayLike = (0.0, 1.0, 0.5, 0.5),
    kind: FeatureKind = "hermite",
    seed: int | np.random.Generator | None = None,
) -> HierarchicalPolynomial:
    """Random target of the class that Wang, Nichani and Lee (2023, arXiv 2311.13774) prove learnable.

    The directions are uniform among the orthonormal ones, as many as there is room for: n_features terms of
    "hermite", ``n_features // degree`` of "product". The weights are random signs.

    Arguments:
        n_features: d, the dimension of the inputs.
        degree: k of the hidden feature, at least 1.
        link: (q + 1,) Hermite coefficients of the link; they are scaled to unit norm.
        kind: "hermite" or "product", as in `FeaturePolynomial`.
        seed: an int, a generator (drawn from), or None for a fresh one.

    Raises:
        ValueError: an unknown kind, a degree below 1 or, for "product", above n_features, a link that is all
            0 or not finite.

    >>> target = random_hierarchical_polynomial(20, kind="product", seed=0)
    >>> target.feature.directions.shape
    (10, 2, 20)
    >>> X = np.random.default_rng(1).standard_normal((1000, 20))
    >>> target(X).shape
    (1000,)
    """
    _require_count("n_features", n_features)
    _require_count("degree", degree)
    _check_kind(kind)
    coefficients = _finite("link", link, 1)
    norm = float(np.linalg.norm(coefficients))
    _require(norm > 0, "link", link, "of positive norm")
    if kind == "product" and degree > n_features:
        raise ValueError(f"degree must be at most n_features={n_features} for kind 'product', got {degree}")
    factors = 1 if kind == "hermite" else degree
    terms = n_features // factors
    rng = np.random.default_rng(seed)
    # The signs make the orthonormal factor of a Gaussian matrix uniform.
    orthonormal, triangular = np.linalg.qr(rng.standard_normal((n_features, n_features)))
    rows = (orthonormal * np.sign(triangular.diagonal())).T[: terms * factors]
    weights = rng.choice([-1.0, 1.0], terms)
    feature = FeaturePolynomial(rows.reshape(terms, factors, n_features), weights, kind, degree)
    return HierarchicalPolynomial(feature, coefficients / norm)


# --------------------------------------------------------------------------------------------- the network


class ThreeLayerNetwork(nn.Module):
    """Three-layer network with a bottleneck of one unit and a residual path (arXiv 2311.13774).

    ``h(x) = f(x) + c . ReLU(a f(x) + b) / sqrt(outer_width)``, where the bottleneck is
    ``f(x) = u . σ(V x + s) / sqrt(inner_width)`` and σ a polynomial. Wang, Nichani and Lee (2023) train u,
    then c. Both start at 0; the rows of V are uniform on the unit sphere, s is 0, a is ±1 and b uniform in
    [-3, 3], all of which stay as drawn. The parameters are float64.

    Arguments:
        n_features: d.
        inner_width, outer_width: numbers of polynomial and of ReLU units.
        inner_coefficients: (k + 1,) coefficients of σ in orthonormal Hermite polynomials, h_0 to h_k.
        generator: of the random weights; None for torch's own.

    Raises ValueError for sizes below 1 and fewer than two coefficients.

    >>> network = ThreeLayerNetwork(5, 40, 10, generator=torch.Generator().manual_seed(0))
    >>> x = torch.randn(3, 5, dtype=torch.float64)
    >>> network(x).shape, network.inner_layer(x).shape
    (torch.Size([3]), torch.Size([3, 40]))
    >>> sorted(name for name, _ in network.named_parameters())
    ['c', 'u']
    """

    V: Tensor
    s: Tensor
    a: Tensor
    b: Tensor
    monomial_coefficients: Tensor

    def __init__(
        self,
        n_features: int,
        inner_width: int,
        outer_width: int,
        *,
        inner_coefficients: Sequence[float] = (1.0, 1.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _require_count("n_features", n_features)
        _require_count("inner_width", inner_width)
        _require_count("outer_width", outer_width)
        hermite = _finite("inner_coefficients", inner_coefficients, 1)
        _require(len(hermite) >= 2, "inner_coefficients", inner_coefficients, "at least two, h_0 and h_1")
        monomials = herme2poly(hermite / [math.sqrt(math.factorial(j)) for j in range(len(hermite))])

        def draw(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float64)

        self.register_buffer(
            "V", nn.functional.normalize(draw(inner_width, n_features).normal_(generator=generator))
        )
        self.register_buffer("s", torch.zeros(inner_width, dtype=torch.float64))
        self.register_buffer("a", 2 * draw(outer_width).random_(2, generator=generator) - 1)
        self.register_buffer("b", draw(outer_width).uniform_(-3, 3, generator=generator))
        self.register_buffer("monomial_coefficients", torch.from_numpy(monomials / math.sqrt(inner_width)))
        self.u = nn.Parameter(torch.zeros(inner_width, dtype=torch.float64))
        self.c = nn.Parameter(torch.zeros(outer_width, dtype=torch.float64))

    def inner_layer(self, x: Tensor) -> Tensor:
        """``σ(V x + s) / sqrt(inner_width)``, (n, inner_width), for x (n, d)."""
        z = nn.functional.linear(x, self.V, self.s)
        highest, *lower = self.monomial_coefficients.flip(0)
        values: Tensor = highest
        for coefficient in lower:
            values = torch.addcmul(coefficient, values, z)
        return values

    def outer_layer(self, feature: Tensor) -> Tensor:
        """``ReLU(a f + b) / sqrt(outer_width)``, (n, outer_width), for values f (n,) of the bottleneck."""
        return torch.relu(torch.outer(feature, self.a) + self.b) / math.sqrt(len(self.a))

    def feature(self, x: Tensor) -> Tensor:
        """The bottleneck f(x), (n,), for x (n, d)."""
        return torch.mv(self.inner_layer(x), self.u)

    def forward(self, x: Tensor) -> Tensor:
        """The output h(x), (n,), for x (n, d)."""
        feature = self.feature(x)
        return feature + torch.mv(self.outer_layer(feature), self.c)


# -------------------------------------------------------------------------------------------- the training


def _train_linear(features: Array, y: Array, weight_decay: float, n_steps: int | None) -> Array:
    """Weights w of least mean square error (over 2) plus `weight_decay` ||w||² / 2, or `n_steps` of descent
    from 0 towards them.

    With more features than samples everything runs in the span of the samples, where descent never leaves:
    w is `features`' times a vector that has the same normal equations with the Gram matrix of the samples.
    """
    n, width = features.shape
    primal = width <= n
    H = (features.T @ features if primal else features @ features.T) / n
    right = (features.T @ y if primal else y) / n
    if n_steps is not None:
        eigenvalue = eigh(H, eigvals_only=True, subset_by_index=[len(H) - 1, len(H) - 1])[0]
        step = 1 / (eigenvalue + weight_decay)
        w: Array = np.zeros_like(right)
        for _ in range(n_steps):
            w -= step * (H @ w + weight_decay * w - right)
    elif weight_decay <= len(H) * np.finfo(np.float64).eps * np.trace(H):
        # The penalty is lost in rounding; what it tends to is the solution of least norm.
        return np.linalg.lstsq(features, y)[0].astype(np.float64, copy=False)
    else:
        H.flat[:: len(H) + 1] += weight_decay
        w = cho_solve(cho_factor(H, overwrite_a=True, check_finite=False), right)
    return w if primal else features.T @ w


class LayerwiseRegressor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, RegressorMixin, BaseEstimator):
    """Regression by a three-layer network that is trained layer by layer on the square loss.

    Wang, Nichani and Lee (2023), arXiv 2311.13774. The samples are split at random in two. On the first part
    u is trained alone, until the bottleneck of `ThreeLayerNetwork` is a polynomial of the given degree that
    fits y: the learned feature. Its deviation on the second part becomes the unit of the ReLU layer, whose
    weights c are trained there. Inputs are meant to be centred with unit covariance, as the paper's Gaussian
    ones are; y may have any mean and scale.

    Arguments:
        degree: k of the learned feature.
        inner_width: polynomial units; None for n_features ** degree.
        outer_width: ReLU units.
        feature_fraction: share of the samples that the feature is learned from.
        weight_decay: of u and of c. Less than the default for c gains nothing on thousands of samples and
            fits noise on a few hundred.
        solver: "exact" for the limits of gradient descent, which are two ridge regressions, or
            "gradient_descent" for `n_steps` of it with the largest stable step.
        n_steps: of u and of c; (1, …) is the feature learning by one step of earlier work.
        random_state: of the split and the random weights; an int, a numpy RandomState or None.

    Attributes:
        network_: the trained `ThreeLayerNetwork`, of y less its mean.
        y_mean_: the mean of y.
        n_features_in_: d.

    >>> rng = np.random.default_rng(0)
    >>> X, fresh = rng.standard_normal((4000, 16)), rng.standard_normal((1000, 16))
    >>> target = random_hierarchical_polynomial(16, kind="product", seed=1)
    >>> model = LayerwiseRegressor(degree=2, random_state=0).fit(X, target(X))
    >>> bool(model.score(fresh, target(fresh)) > 0.8)
    True
    >>> feature = model.transform(fresh)[:, 0]  # the hidden polynomial, up to scale
    >>> bool(np.corrcoef(feature, target.feature(fresh))[0, 1] > 0.95)
    True
    """

    def __init__(
        self,
        *,
        degree: int = 2,
        inner_width: int | None = None,
        outer_width: int = 100,
        feature_fraction: float = 0.8,
        weight_decay: tuple[float, float] = (1e-6, 1e-4),
        solver: Solver = "exact",
        n_steps: tuple[int, int] = (2000, 2000),
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.degree = degree
        self.inner_width = inner_width
        self.outer_width = outer_width
        self.feature_fraction = feature_fraction
        self.weight_decay = weight_decay
        self.solver = solver
        self.n_steps = n_steps
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> LayerwiseRegressor:
        """Train on the samples X (n, d) and y (n,); a constant y gives the feature 0 and a warning.

        Raises ValueError for parameters out of range, for data that are not finite or of unequal length, and
        where a part of the split has fewer than two samples.
        """
        self._check_parameters()
        samples, labels = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=4)
        labels = labels.astype(np.float64, copy=False)
        n, d = samples.shape
        n_first = int(self.feature_fraction * n)
        if min(n_first, n - n_first) < 2:
            raise ValueError(
                f"feature_fraction={self.feature_fraction} splits {n} samples into {n_first} for the feature "
                f"and {n - n_first} for the link; each needs at least 2"
            )
        random_state = check_random_state(self.random_state)
        order = random_state.permutation(n)
        first, second = order[:n_first], order[n_first:]
        network = ThreeLayerNetwork(
            d,
            d**self.degree if self.inner_width is None else self.inner_width,
            self.outer_width,
            inner_coefficients=(1.0,) * (self.degree + 1),
            generator=torch.Generator().manual_seed(int(random_state.randint(2**31 - 1))),
        )
        self.network_, self.y_mean_ = network, float(labels.mean())
        if np.ptp(labels) == 0:
            warnings.warn(f"y is constant at {labels[0]}: there is no feature to learn", stacklevel=2)
            return self
        centred = labels - self.y_mean_
        inner_steps, outer_steps = self.n_steps if self.solver == "gradient_descent" else (None, None)
        with torch.no_grad():
            features = network.inner_layer(torch.from_numpy(samples[first])).numpy()
            u = _train_linear(features, centred[first], self.weight_decay[0], inner_steps)
            network.u.copy_(torch.from_numpy(u))
            feature = self._feature(samples[second])
            deviation = feature.std()
            if deviation > 0:
                network.a /= deviation
            features = network.outer_layer(torch.from_numpy(feature)).numpy()
            c = _train_linear(features, centred[second] - feature, self.weight_decay[1], outer_steps)
            network.c.copy_(torch.from_numpy(c))
        return self

    def transform(self, X: ArrayLike) -> Array:
        """The learned feature (n, 1) of the samples X (n, d), up to scale the hidden polynomial."""
        return self._feature(self._checked(X))[:, None]

    def predict(self, X: ArrayLike) -> Array:
        """The predictions (n,) for the samples X (n, d)."""
        feature = torch.from_numpy(self._feature(self._checked(X)))
        with torch.no_grad():
            correction = self.network_.outer_layer(feature) @ self.network_.c
        return (feature + correction).numpy() + self.y_mean_

    @property
    def _n_features_out(self) -> int:
        return 1

    def _checked(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        checked: Array = validate_data(self, X, dtype=np.float64, reset=False)
        return checked

    @torch.no_grad()
    def _feature(self, X: Array) -> Array:
        batches = [torch.tensor(X[rows]) for rows in gen_batches(len(X), _BATCH)]
        return np.concatenate([self.network_.feature(batch).numpy() for batch in batches])

    def _check_parameters(self) -> None:
        _require_count("degree", self.degree)
        if self.inner_width is not None:
            _require_count("inner_width", self.inner_width)
        _require_count("outer_width", self.outer_width)
        _require(0 < self.feature_fraction < 1, "feature_fraction", self.feature_fraction, "between 0 and 1")
        _require(self.solver in get_args(Solver), "solver", self.solver, "'exact' or 'gradient_descent'")
        decay, steps = self.weight_decay, self.n_steps
        valid = len(decay) == 2 and all(0 <= value < np.inf for value in decay)
        _require(valid, "weight_decay", decay, "two numbers of at least 0")
        _require(len(steps) == 2, "n_steps", steps, "two integers of at least 1")
        for value in steps:
            _require_count("n_steps", value)


def polynomial_kernel_regressor(n_features: int, degree: int, *, alpha: float = 1e-3) -> KernelRidge:
    """Kernel ridge regression with ``(1 + x . x' / n_features) ** degree``, what arXiv 2311.13774 beats.

    To express a target of a feature of degree k and a link of degree q it needs degree k q, and then, as
    Wang, Nichani and Lee (2023) recall, of the order of n_features ** (k q) samples.

    Arguments:
        n_features: dimension of the inputs; the scale of the inner product.
        degree: of the kernel, at least 1.
        alpha: of the ridge penalty, at least 0.

    Returns:
        scikit-learn's KernelRidge, not fitted.

    Raises:
        ValueError: a size below 1 or a negative alpha.

    >>> polynomial_kernel_regressor(20, 6).degree
    6
    """
    _require_count("n_features", n_features)
    _require_count("degree", degree)
    _require(0 <= alpha < np.inf, "alpha", alpha, "a number of at least 0")
    return KernelRidge(alpha=alpha, kernel="poly", degree=degree, gamma=1 / n_features, coef0=1.0)
