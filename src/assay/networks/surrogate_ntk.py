"""Surrogate gradient learning and its neural tangent kernel, for networks whose activations jump.

Eilers, Memmesheimer and Goedeke, "A generalized neural tangent kernel for surrogate gradient learning",
2024, arXiv 2405.15539.

All weights and biases are independent standard normal; the network scales them (NTK parametrisation)::

    f^1 = sigma_w / sqrt(d) W^1 x + sigma_b b^1
    f^(l+1) = sigma_w / sqrt(width) W^(l+1) s(f^l) + sigma_b b^(l+1)       for l = 1 … n_hidden,

with one output f^(n_hidden+1) and the activation s(z) = erf(m z), or sign(z) at m = infinity. Surrogate
gradient learning evaluates s forwards and puts another derivative in the place of s' backwards. In the limit
of wide layers it is regression with a kernel that has the true derivative at one argument, where a change of
the weights acts, and the surrogate at the other, which decided on the change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lu_solve
from scipy.linalg.lapack import dgecon, dgetrf
from scipy.spatial.distance import pdist
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[np.float64]
Surrogate = Literal["erf", "identity"]


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_count(name: str, value: object) -> None:
    _require(isinstance(value, Integral) and int(value) >= 1, name, value, "an integer of at least 1")


def _check_model(
    n_hidden: int,
    activation_scale: float,
    surrogate: str,
    surrogate_scale: float,
    sigma_w: float,
    sigma_b: float,
) -> None:
    _require_count("n_hidden", n_hidden)
    _require(activation_scale > 0, "activation_scale", activation_scale, "positive; infinity stands for sign")
    _require(surrogate in get_args(Surrogate), "surrogate", surrogate, "'erf' or 'identity'")
    _require(0 < surrogate_scale < math.inf, "surrogate_scale", surrogate_scale, "a positive number")
    _require(0 < sigma_w < math.inf, "sigma_w", sigma_w, "a positive number")
    _require(0 <= sigma_b < math.inf, "sigma_b", sigma_b, "a number of at least 0")


def _points(name: str, value: ArrayLike) -> Array:
    points = np.ascontiguousarray(value, dtype=np.float64)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{name} must have shape (points, features), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    return points


def _pair(X: ArrayLike, Y: ArrayLike | None, name: str = "Y") -> tuple[Array, Array]:
    rows = _points("X", X)
    columns = rows if Y is None else _points(name, Y)
    if rows.shape[1] != columns.shape[1]:
        raise ValueError(f"{name} must have the {rows.shape[1]} features of X, got {columns.shape[1]}")
    return rows, columns


# --------------------------------------------------------------------------------- infinitely wide networks


class _Level(NamedTuple):
    """The covariance of one layer's preactivations, over the initialisations."""

    row: Array
    """Variances of the first arguments, (N, 1)."""
    column: Array
    """Variances of the second arguments, (1, M)."""
    covariance: Array
    """(N, M)."""
    determinant: Array
    """``row * column - covariance**2``, (N, M), exactly 0 where the two arguments are the same."""


def _offset(scale: float) -> float:
    """What erf(scale z) adds to a variance in the Gaussian integrals."""
    return 0.5 / scale**2


def _angle(covariance: Array, determinant: Array | float, row: Array, column: Array, offset: float) -> Array:
    """arcsin(covariance / sqrt((row + offset) (column + offset))), accurate at the ends of its range."""
    return np.arctan2(covariance, np.sqrt(determinant + (offset * (row + column) + offset**2)))


def _levels(
    X: Array, Y: Array, n_hidden: int, activation_scale: float, sigma_w: float, sigma_b: float
) -> Iterator[_Level]:
    """The covariances of layers 1 to n_hidden + 1.

    Half the squared distance ``(row + column) / 2 - covariance`` is carried instead of the covariance: with
    it the determinant keeps its digits for points that are close, and is exactly 0 where they meet.
    """
    factor, bias, offset = sigma_w**2 / X.shape[1], sigma_b**2, _offset(activation_scale)
    row = factor * np.square(X).sum(axis=1)[:, None] + bias
    column = factor * np.square(Y).sum(axis=1)[None, :] + bias
    half_distance = _half_distances(X, Y, (row + column) / 2, factor, bias)
    for layer in range(n_hidden + 1):
        mean = (row + column) / 2
        determinant = half_distance * (2 * mean - half_distance) - np.square((row - column) / 2)
        level = _Level(row, column, mean - half_distance, np.maximum(determinant, 0, out=determinant))
        yield level
        if layer < n_hidden:
            factor = 2 * sigma_w**2 / math.pi
            angle = _angle(level.covariance, level.determinant, row, column, offset)
            row_angle, column_angle = (_angle(end, 0.0, end, end, offset) for end in (row, column))
            half_distance = factor * ((row_angle + column_angle) / 2 - angle)
            row, column = factor * row_angle + bias, factor * column_angle + bias


def _half_distances(X: Array, Y: Array, mean: Array, factor: float, bias: float) -> Array:
    """``factor / 2 |x - y|²`` of all pairs, by a matrix product where that costs at most six digits."""
    half_distance: Array = mean - (factor * (X @ Y.T) + bias)
    rows, columns = np.nonzero(half_distance < 1e-6 * mean)
    half_distance[rows, columns] = factor / 2 * np.square(X[rows] - Y[columns]).sum(axis=1)
    return half_distance


def _by_rows(rows: Array, columns: Array, kernel: Callable[[Array, Array], Array]) -> Array:
    """The kernel, some rows at a time, so that what is computed on the way stays in the processor's cache."""
    block = max(1, 2**14 // len(columns))
    return np.concatenate(
        [kernel(rows[start : start + block], columns) for start in range(0, len(rows), block)]
    )


def _tangent_kernel(levels: Iterator[_Level], derivative_factor: Callable[[_Level], Array]) -> Array:
    """Theta <- Theta * D + Sigma through the layers; D may be infinite on pairs of the same point."""
    previous = next(levels)
    kernel = previous.covariance
    with np.errstate(divide="ignore", invalid="ignore"):
        for level in levels:
            kernel = kernel * derivative_factor(previous) + level.covariance
            previous = level
    return kernel


def _erf_factor(level: _Level, row_offset: float, column_offset: float, sigma_w: float) -> Array:
    spread = column_offset * level.row + row_offset * level.column + row_offset * column_offset
    return 2 * sigma_w**2 / math.pi / np.sqrt(level.determinant + spread)


def nngp_kernel(
    X: ArrayLike,
    Y: ArrayLike | None = None,
    *,
    n_hidden: int = 2,
    activation_scale: float = math.inf,
    sigma_w: float = 1.0,
    sigma_b: float = 0.1,
) -> Array:
    """Covariance of the outputs of infinitely wide networks over their initialisations (the NNGP kernel).

    Eilers, Memmesheimer and Goedeke, 2024, arXiv 2405.15539.

    Arguments:
        X: (N, d) points.
        Y: (M, d) points; X itself by default.
        n_hidden: number of hidden layers.
        activation_scale: m of the activation erf(m z); infinity for sign(z).
        sigma_w, sigma_b: standard deviation of weights, times the root of a layer's width, and of biases.

    Returns:
        (N, M).

    Raises:
        ValueError: points that are not finite matrices of one number of features, a parameter out of range.

    >>> nngp_kernel([[1.0, 0.0], [0.6, 0.8]]).round(4).tolist()
    [[1.01, 0.2871], [0.2871, 1.01]]
    """
    _check_model(n_hidden, activation_scale, "erf", 1.0, sigma_w, sigma_b)

    def kernel(rows: Array, columns: Array) -> Array:
        *_, last = _levels(rows, columns, n_hidden, activation_scale, sigma_w, sigma_b)
        return last.covariance

    return _by_rows(*_pair(X, Y), kernel)


def neural_tangent_kernel(
    X: ArrayLike,
    Y: ArrayLike | None = None,
    *,
    n_hidden: int = 2,
    activation_scale: float = math.inf,
    sigma_w: float = 1.0,
    sigma_b: float = 0.1,
) -> Array:
    """The ordinary neural tangent kernel of infinitely wide networks, which a jump of the activation breaks.

    Its values at ``x = x'`` grow with `activation_scale` to the power `n_hidden` and are infinite for sign;
    those at ``x != x'`` converge. Eilers, Memmesheimer and Goedeke, 2024, arXiv 2405.15539.

    Arguments:
        X: (N, d) points.
        Y: (M, d) points; X itself by default.
        n_hidden: number of hidden layers.
        activation_scale: m of the activation erf(m z); infinity for sign(z).
        sigma_w, sigma_b: standard deviation of weights, times the root of a layer's width, and of biases.

    Returns:
        (N, M).

    Raises:
        ValueError: points that are not finite matrices of one number of features, a parameter out of range.

    >>> neural_tangent_kernel([[1.0, 0.0], [0.6, 0.8]], activation_scale=2.0).round(4).tolist()
    [[2.9121, 0.9932], [0.9932, 2.9121]]
    >>> neural_tangent_kernel([[1.0, 0.0], [0.6, 0.8]]).round(4).tolist()
    [[inf, 0.922], [0.922, inf]]
    """
    _check_model(n_hidden, activation_scale, "erf", 1.0, sigma_w, sigma_b)
    offset = _offset(activation_scale)

    def kernel(rows: Array, columns: Array) -> Array:
        levels = _levels(rows, columns, n_hidden, activation_scale, sigma_w, sigma_b)
        return _tangent_kernel(levels, lambda level: _erf_factor(level, offset, offset, sigma_w))

    return _by_rows(*_pair(X, Y), kernel)


def surrogate_gradient_ntk(
    X: ArrayLike,
    Y: ArrayLike | None = None,
    *,
    n_hidden: int = 2,
    activation_scale: float = math.inf,
    surrogate: Surrogate = "erf",
    surrogate_scale: float = 1.0,
    sigma_w: float = 1.0,
    sigma_b: float = 0.1,
) -> Array:
    """The neural tangent kernel of surrogate gradient learning (SG-NTK), finite for jumping activations too.

    Entry (x, x') has the activation's true derivative at x and the surrogate at x', so it is not symmetric
    unless all points have one norm. Under surrogate gradient flow of half the mean square error,
    ``df(x)/dt = -1/N sum_i Theta(x, x_i) (f(x_i) - y_i)``: predictions read points to predict as rows,
    training points as columns. Eilers, Memmesheimer and Goedeke, 2024, arXiv 2405.15539.

    Arguments:
        X: (N, d) points, with the true derivative.
        Y: (M, d) points, with the surrogate; X itself by default.
        n_hidden: number of hidden layers.
        activation_scale: m of the activation erf(m z); infinity for sign(z).
        surrogate: "erf" for the derivative of erf(surrogate_scale z), "identity" for 1 (straight-through).
        surrogate_scale: steepness of the "erf" surrogate; not read by "identity".
        sigma_w, sigma_b: standard deviation of weights, times the root of a layer's width, and of biases.

    Returns:
        (N, M).

    Raises:
        ValueError: points that are not finite matrices of one number of features, a parameter out of range.

    >>> surrogate_gradient_ntk([[1.0, 0.0], [0.0, 1.0]]).round(4).tolist()
    [[2.4908, 0.0403], [0.0403, 2.4908]]
    >>> surrogate_gradient_ntk([[1.0, 0.0], [1.0, 1.0]]).round(4).tolist()
    [[2.4908, 0.8978], [0.8512, 2.7254]]
    """
    _check_model(n_hidden, activation_scale, surrogate, surrogate_scale, sigma_w, sigma_b)
    offset = _offset(activation_scale)

    def derivative_factor(level: _Level) -> Array:
        if surrogate == "erf":
            return _erf_factor(level, offset, _offset(surrogate_scale), sigma_w)
        return sigma_w**2 * math.sqrt(2 / math.pi) / np.sqrt(level.row + offset)

    def kernel(rows: Array, columns: Array) -> Array:
        levels = _levels(rows, columns, n_hidden, activation_scale, sigma_w, sigma_b)
        return _tangent_kernel(levels, derivative_factor)

    return _by_rows(*_pair(X, Y), kernel)


class SurrogateNTKRegressor(RegressorMixin, BaseEstimator):
    """Mean and spread of infinitely wide networks after surrogate gradient learning, as kernel regression.

    The limit of long training on the mean square error, from standard normal parameters. Eilers,
    Memmesheimer and Goedeke, 2024, arXiv 2405.15539. With the SG-NTK ``Theta`` and the covariance ``Sigma``
    of untrained networks,

        mean(x) = Theta(x, X) (Theta(X, X) + alpha I)^-1 y,

    and the networks' outputs at x vary with the variance of ``f(x) - Theta(x, X) (Theta(X, X) + alpha I)^-1
    f(X)``, f a Gaussian process of covariance Sigma.

    Arguments:
        n_hidden: number of hidden layers.
        activation_scale: m of the activation erf(m z); infinity for sign(z).
        surrogate: "erf" for the derivative of erf(surrogate_scale z), "identity" for 1 (straight-through).
        surrogate_scale: steepness of the "erf" surrogate; `activation_scale` makes it ordinary training.
        sigma_w, sigma_b: standard deviation of weights, times the root of a layer's width, and of biases.
        alpha: weight of a penalty ``alpha / (2 N) ||theta - theta_0||²`` on the way from the initial
            parameters; without one the networks pass through the training points.

    Attributes:
        X_fit_: (N, d) training points.
        dual_coef_: (N,) coefficients of the kernel's columns.

    >>> X = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> model = SurrogateNTKRegressor().fit(X, [1.0, 2.0, 3.0])
    >>> mean, std = model.predict([[0.0, 1.0], [0.6, 0.8]], return_std=True)
    >>> mean.round(3).tolist(), std.round(3).tolist()
    ([2.0, 0.658], [0.0, 0.866])
    """

    def __init__(
        self,
        *,
        n_hidden: int = 2,
        activation_scale: float = math.inf,
        surrogate: Surrogate = "erf",
        surrogate_scale: float = 1.0,
        sigma_w: float = 1.0,
        sigma_b: float = 0.1,
        alpha: float = 0.0,
    ) -> None:
        self.n_hidden = n_hidden
        self.activation_scale = activation_scale
        self.surrogate = surrogate
        self.surrogate_scale = surrogate_scale
        self.sigma_w = sigma_w
        self.sigma_b = sigma_b
        self.alpha = alpha

    def _kernel(self, X: Array) -> Array:
        return surrogate_gradient_ntk(
            X,
            self.X_fit_,
            n_hidden=self.n_hidden,
            activation_scale=self.activation_scale,
            surrogate=self.surrogate,
            surrogate_scale=self.surrogate_scale,
            sigma_w=self.sigma_w,
            sigma_b=self.sigma_b,
        )

    def _covariance(self, X: Array) -> Array:
        return nngp_kernel(
            X,
            self.X_fit_,
            n_hidden=self.n_hidden,
            activation_scale=self.activation_scale,
            sigma_w=self.sigma_w,
            sigma_b=self.sigma_b,
        )

    def fit(self, X: ArrayLike, y: ArrayLike) -> SurrogateNTKRegressor:
        """Factorise the kernel matrix of the points X, (N, d), and solve it for the targets y, (N,).

        Raises ValueError for data that are not finite or differ in length and for parameters out of range;
        numpy.linalg.LinAlgError where the kernel matrix cannot be inverted, naming two rows that are equal.
        """
        _require(0 <= self.alpha < math.inf, "alpha", self.alpha, "a number of at least 0")
        self.X_fit_, target = validate_data(self, X, y, dtype=np.float64, order="C", y_numeric=True)
        kernel = self._kernel(self.X_fit_)
        if not np.isfinite(kernel).all():
            raise ValueError("X must have no row of zeros when sigma_b is 0: sign has no derivative there")
        kernel[np.diag_indices_from(kernel)] += self.alpha
        norm = np.abs(kernel).sum(axis=0).max()
        # Not by lu_factor, which warns of what is an error here.
        factors, pivots, _ = dgetrf(kernel)
        reciprocal, _ = dgecon(factors, norm)
        if reciprocal < np.finfo(np.float64).eps:
            raise np.linalg.LinAlgError(_why_singular(self.X_fit_, reciprocal))
        self._lu = factors, pivots
        self.dual_coef_ = lu_solve(self._lu, np.asarray(target, dtype=np.float64))
        return self

    @overload
    def predict(self, X: ArrayLike, return_std: Literal[False] = False) -> Array: ...

    @overload
    def predict(self, X: ArrayLike, return_std: Literal[True]) -> tuple[Array, Array]: ...

    def predict(self, X: ArrayLike, return_std: bool = False) -> Array | tuple[Array, Array]:
        """The mean of trained networks at the points X, (M, d), as (M,); with `return_std` also the standard
        deviation over initialisations, (M,).

        Raises ValueError for points that are not finite or have another number of features.
        """
        check_is_fitted(self)
        points = validate_data(self, X, dtype=np.float64, order="C", reset=False)
        kernel = self._kernel(points)
        mean: Array = kernel @ self.dual_coef_
        if not return_std:
            return mean
        weights = lu_solve(self._lu, kernel.T, trans=1)
        prior = _output_variance(points, self.n_hidden, self.activation_scale, self.sigma_w, self.sigma_b)
        shared = self._covariance(points).T - self._covariance(self.X_fit_) @ weights / 2
        variance = prior - 2 * (weights * shared).sum(axis=0)
        return mean, np.sqrt(np.maximum(variance, 0))


def _output_variance(
    X: Array, n_hidden: int, activation_scale: float, sigma_w: float, sigma_b: float
) -> Array:
    """The diagonal of `nngp_kernel`, (N,)."""
    variance: Array = sigma_w**2 / X.shape[1] * np.square(X).sum(axis=1) + sigma_b**2
    for _ in range(n_hidden):
        angle = _angle(variance, 0.0, variance, variance, _offset(activation_scale))
        variance = 2 * sigma_w**2 / math.pi * angle + sigma_b**2
    return variance


def _why_singular(X: Array, reciprocal_condition: float) -> str:
    if len(X) > 1:
        distances = pdist(X)
        rows, columns = np.triu_indices(len(X), k=1)
        closest = distances.argmin()
        i, j = int(rows[closest]), int(columns[closest])
        if distances[closest] == 0:
            return (
                f"rows {i} and {j} of X are equal: the kernel matrix is singular; drop one or set alpha > 0"
            )
        closeness = f"; the closest rows of X are {i} and {j}, {distances[closest]:.3g} apart"
    else:
        closeness = ""
    return (
        "the kernel matrix is singular to working precision (reciprocal condition number "
        f"{reciprocal_condition:.1e}){closeness}: set alpha > 0"
    )


# --------------------------------------------------------------------------------------- networks of a width


def _activation(z: Tensor, scale: float) -> Tensor:
    return torch.sign(z) if math.isinf(scale) else torch.erf(scale * z)


def _erf_derivative(z: Tensor, scale: float) -> Tensor:
    return torch.exp(-((scale * z) ** 2)) * (2 * scale / math.sqrt(math.pi))


class _SurrogateActivation(torch.autograd.Function):
    """The activation forwards, the surrogate's derivative backwards (None: the identity's)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, activation_scale: float, surrogate_scale: float | None) -> Tensor:
        return _activation(z, activation_scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float | None], output: Tensor) -> None:
        z, _, ctx.surrogate_scale = inputs
        if ctx.surrogate_scale is not None:
            ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        if ctx.surrogate_scale is None:
            return gradient, None, None
        (z,) = ctx.saved_tensors
        return gradient * _erf_derivative(z, ctx.surrogate_scale), None, None


class SurrogateGradientNetwork(nn.Module):
    """A multilayer perceptron with sign or erf activations that learns by surrogate gradients.

    Eilers, Memmesheimer and Goedeke, 2024, arXiv 2405.15539. NTK parametrisation: all parameters start
    standard normal, and the layers scale them by ``sigma_w / sqrt(fan-in)`` and `sigma_b`. ``forward`` takes
    (N, d) and returns (N,), with true activations; `backward` of autograd, and so any optimiser, sees the
    surrogate's derivative in their place.

    Arguments:
        n_features: d, number of inputs.
        width: units of each hidden layer.
        n_hidden: number of hidden layers.
        activation_scale: m of the activation erf(m z); infinity for sign(z).
        surrogate: "erf" for the derivative of erf(surrogate_scale z), "identity" for 1 (straight-through).
        surrogate_scale: steepness of the "erf" surrogate; not read by "identity".
        sigma_w, sigma_b: standard deviation of weights, times the root of a layer's width, and of biases.
        dtype: of the parameters.
        generator: draws the parameters, on its device; torch's global one by default.

    Attributes:
        weights: n_hidden + 1 parameters, (units out, units in).
        biases: n_hidden + 1 parameters, (units out,).

    Raises:
        ValueError: a size below 1, a scale that is not positive, an unknown surrogate.

    >>> network = SurrogateGradientNetwork(2, 100, generator=torch.Generator().manual_seed(0))
    >>> output = network(torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64))
    >>> output.shape
    torch.Size([2])
    >>> output.square().sum().backward()
    >>> bool(network.weights[0].grad.any())  # sign alone would have left it at 0
    True
    """

    def __init__(
        self,
        n_features: int,
        width: int,
        n_hidden: int = 2,
        *,
        activation_scale: float = math.inf,
        surrogate: Surrogate = "erf",
        surrogate_scale: float = 1.0,
        sigma_w: float = 1.0,
        sigma_b: float = 0.1,
        dtype: torch.dtype = torch.float64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _require_count("n_features", n_features)
        _require_count("width", width)
        _check_model(n_hidden, activation_scale, surrogate, surrogate_scale, sigma_w, sigma_b)
        self.activation_scale = activation_scale
        self.surrogate = surrogate
        self.surrogate_scale = surrogate_scale
        self.sigma_w = sigma_w
        self.sigma_b = sigma_b
        sizes = [n_features, *[width] * n_hidden, 1]
        device = None if generator is None else generator.device

        def standard_normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, dtype=dtype, device=device, generator=generator))

        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for units_in, units_out in itertools.pairwise(sizes):
            self.weights.append(standard_normal(units_out, units_in))
            self.biases.append(standard_normal(units_out))

    def extra_repr(self) -> str:
        return (
            f"n_features={self.weights[0].shape[1]}, width={self.weights[0].shape[0]}, "
            f"n_hidden={len(self.weights) - 1}, activation_scale={self.activation_scale}, "
            f"surrogate={self.surrogate!r}, surrogate_scale={self.surrogate_scale}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (N,), at the points x, (N, d); ValueError for another shape."""
        self._check_input("x", x)
        surrogate_scale = self.surrogate_scale if self.surrogate == "erf" else None
        z = self._layer(0, x)
        for index in range(1, len(self.weights)):
            hidden: Tensor = _SurrogateActivation.apply(z, self.activation_scale, surrogate_scale)  # type: ignore[no-untyped-call]
            z = self._layer(index, hidden)
        return z[:, 0]

    def _check_input(self, name: str, x: Tensor) -> None:
        n_features = self.weights[0].shape[1]
        if x.ndim != 2 or x.shape[1] != n_features:
            raise ValueError(f"{name} must have shape (N, {n_features}), got {tuple(x.shape)}")

    def _layer(self, index: int, x: Tensor) -> Tensor:
        scaled = x * (self.sigma_w / math.sqrt(x.shape[-1]))
        output: Tensor = functional.linear(scaled, self.weights[index]) + self.sigma_b * self.biases[index]
        return output

    def _surrogate_derivative(self, z: Tensor) -> Tensor:
        if self.surrogate == "identity":
            return torch.ones_like(z)
        return _erf_derivative(z, self.surrogate_scale)


def empirical_surrogate_ntk(network: SurrogateGradientNetwork, X: Tensor, Y: Tensor | None = None) -> Array:
    """The surrogate gradient NTK of one network at its present parameters.

    ``sum over parameters of true derivative at x times surrogate gradient at x'`` (Eilers, Memmesheimer and
    Goedeke, 2024, arXiv 2405.15539), layer by layer without forming the gradients: O(width) memory a point.

    Arguments:
        network: of a finite activation_scale.
        X: (N, d) points, with the true derivative.
        Y: (M, d) points, with the surrogate; X itself by default.

    Returns:
        (N, M), float64.

    Raises:
        ValueError: a sign network, which has no true derivative; points of another number of features, or
            not finite.

    >>> generator = torch.Generator().manual_seed(0)
    >>> network = SurrogateGradientNetwork(2, 1000, activation_scale=2.0, generator=generator)
    >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> empirical_surrogate_ntk(network, points).round(1).tolist()
    [[1.8, 0.0], [0.0, 1.7]]
    >>> surrogate_gradient_ntk(points, activation_scale=2.0).round(1).tolist()
    [[1.7, 0.0], [0.0, 1.7]]
    """
    scale = network.activation_scale
    _require(math.isfinite(scale), "activation_scale", scale, "finite for an empirical kernel")
    for name, points in (("X", X), ("Y", Y)):
        if points is not None:
            network._check_input(name, points)
            if not points.isfinite().all():
                raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    with torch.no_grad():
        rows = _layer_inputs(network, X)
        columns = rows if Y is None else _layer_inputs(network, Y)
        back_rows = torch.ones(len(X), 1, dtype=X.dtype, device=X.device)
        back_columns = back_rows if Y is None else torch.ones(len(Y), 1, dtype=Y.dtype, device=Y.device)
        kernel = torch.zeros((), dtype=X.dtype, device=X.device)
        for index in range(len(network.weights) - 1, -1, -1):
            row, column = rows[index], columns[index]
            weight_scale = network.sigma_w / math.sqrt(row.hidden.shape[1])
            inputs = weight_scale**2 * row.hidden @ column.hidden.T + network.sigma_b**2
            kernel = kernel + inputs * (back_rows @ back_columns.T)
            if index:
                weight = weight_scale * network.weights[index]
                back_rows = (back_rows @ weight) * _erf_derivative(row.preactivation, scale)
                back_columns = (back_columns @ weight) * network._surrogate_derivative(column.preactivation)
    result: Array = kernel.double().cpu().numpy()
    return result


class _LayerInput(NamedTuple):
    preactivation: Tensor
    """f of the layer before; the points themselves at the first layer."""
    hidden: Tensor
    """What the layer reads: the activation of f."""


def _layer_inputs(network: SurrogateGradientNetwork, x: Tensor) -> list[_LayerInput]:
    inputs = [_LayerInput(x, x)]
    for index in range(len(network.weights) - 1):
        z = network._layer(index, inputs[-1].hidden)
        inputs.append(_LayerInput(z, _activation(z, network.activation_scale)))
    return inputs


# ------------------------------------------------------------------------------------ many networks at once


@dataclass(frozen=True)
class SurrogateEnsemble:
    """Networks trained by surrogate gradients from independent initialisations (arXiv 2405.15539).

    `predictions` are the outputs at the test points after training, (n_members, M); `losses` is half the
    mean square error before each step, (n_steps, n_members); `networks` are the trained networks.

    >>> train_surrogate_ensemble([[1.0]], [0.5], [[1.0]], width=8, n_steps=3, seed=0).losses.shape
    (3, 10)
    """

    predictions: Array
    losses: Array
    networks: tuple[SurrogateGradientNetwork, ...]


def train_surrogate_ensemble(
    X: ArrayLike,
    y: ArrayLike,
    X_test: ArrayLike,
    *,
    width: int,
    n_members: int = 10,
    n_hidden: int = 2,
    learning_rate: float = 0.1,
    n_steps: int = 3000,
    activation_scale: float = math.inf,
    surrogate: Surrogate = "erf",
    surrogate_scale: float = 1.0,
    sigma_w: float = 1.0,
    sigma_b: float = 0.1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int | None = None,
) -> SurrogateEnsemble:
    """Train networks by full-batch surrogate gradient descent on half the mean square error, all at once.

    Eilers, Memmesheimer and Goedeke, 2024, arXiv 2405.15539. It is stable for learning rates below
    ``2 N / e``, e the largest eigenvalue of ``surrogate_gradient_ntk(X)``. Networks of sign units do not
    reach a loss of 0: a step of any size may flip a unit.

    Arguments:
        X: (N, d) training points.
        y: (N,) targets.
        X_test: (M, d) points to predict.
        width: units of each hidden layer.
        n_members: number of networks.
        n_hidden, activation_scale, surrogate, surrogate_scale, sigma_w, sigma_b: of
            `SurrogateGradientNetwork`.
        learning_rate, n_steps: of gradient descent.
        dtype, device: of the computation.
        seed: members are those that `SurrogateGradientNetwork` draws one after another from
            ``torch.Generator().manual_seed(seed)``; from torch's global generator by default.

    Returns:
        `SurrogateEnsemble`. A learning rate that is too large shows as infinite or NaN losses.

    Raises:
        ValueError: data that are not finite or do not fit together, a parameter out of range.

    >>> X, y = [[1.0, 0.0], [0.0, 1.0]], [0.5, -0.5]
    >>> ensemble = train_surrogate_ensemble(X, y, X, width=50, n_steps=200, learning_rate=0.5, seed=0)
    >>> ensemble.predictions.shape
    (10, 2)
    >>> bool(ensemble.losses[-1].mean() < 0.1 * ensemble.losses[0].mean())
    True
    """
    train, test = _pair(X, X_test, "X_test")
    target = np.asarray(y, dtype=np.float64)
    if target.shape != (len(train),):
        raise ValueError(f"y must have shape ({len(train)},) to fit the rows of X, got {target.shape}")
    if not np.isfinite(target).all():
        raise ValueError("y must be finite, got NaN or infinity in it")
    _require_count("n_members", n_members)
    _require_count("n_steps", n_steps)
    _require(0 < learning_rate < math.inf, "learning_rate", learning_rate, "a positive number")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    networks = tuple(
        SurrogateGradientNetwork(
            train.shape[1],
            width,
            n_hidden,
            activation_scale=activation_scale,
            surrogate=surrogate,
            surrogate_scale=surrogate_scale,
            sigma_w=sigma_w,
            sigma_b=sigma_b,
            dtype=dtype,
            generator=generator,
        ).to(device)
        for _ in range(n_members)
    )
    with torch.no_grad():
        weights = [_share(layer) for layer in zip(*(network.weights for network in networks), strict=True)]
        biases = [_share(layer) for layer in zip(*(network.biases for network in networks), strict=True)]
        x = torch.as_tensor(train, dtype=dtype, device=device).expand(n_members, -1, -1)
        goal = torch.as_tensor(target, dtype=dtype, device=device)[:, None]
        losses = torch.empty(n_steps, n_members, dtype=dtype, device=device)
        scales = [sigma_w / math.sqrt(weight.shape[2]) for weight in weights]
        slope = 1.0 if surrogate == "identity" else 2 * surrogate_scale / math.sqrt(math.pi)
        for step in range(n_steps):
            hidden, preactivations = [x], []
            for weight, bias, scale in zip(weights, biases, scales, strict=True):
                z = torch.baddbmm(bias[:, None], hidden[-1], weight.mT, beta=sigma_b, alpha=scale)
                preactivations.append(z)
                hidden.append(_activation(z, activation_scale))
            back = preactivations[-1] - goal
            losses[step] = back.square().mean(dim=(1, 2)) / 2
            back /= len(train)
            for index in range(n_hidden, -1, -1):
                below = back @ weights[index] if index else None
                weights[index].baddbmm_(back.mT, hidden[index], alpha=-learning_rate * scales[index])
                biases[index].sub_(back.sum(dim=1), alpha=learning_rate * sigma_b)
                if below is not None:
                    back = below.mul_(scales[index] * slope)
                    if surrogate == "erf":
                        # In place: this tensor is not read again, and allocating costs as much as computing.
                        back *= preactivations[index - 1].mul_(surrogate_scale).square_().neg_().exp_()
        points = torch.as_tensor(test, dtype=dtype, device=device)
        predictions = torch.stack([network(points) for network in networks])
    return SurrogateEnsemble(predictions.double().cpu().numpy(), losses.double().cpu().numpy(), networks)


def _share(parameters: Sequence[Tensor]) -> Tensor:
    """The values of parameters of one shape in one tensor, which they read from here on."""
    stacked = torch.stack(list(parameters))
    for parameter, value in zip(parameters, stacked, strict=True):
        parameter.data = value
    return stacked
