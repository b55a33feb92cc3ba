"""Dense-to-sparse gates of Gaussian experts, with an activation or without, and losses of their estimates.

Nguyen, Akbarian and Ho, "Is Temperature Sample Efficient for Softmax Gaussian Mixture of Experts?" (2024),
arXiv 2401.13875.

A temperature tau divides the gate's logits; lowered in training, it takes the softmax from all experts to
one. With linear scores a learned tau cannot be told from the scale of the gate weights:

    tau dl/dtau + beta_1 . dl/dbeta_1 + beta_0 . dl/dbeta_0 = 0    for every sample's log density l,

so (beta_1, beta_0, tau) and their multiples have one density, and the estimated tau is where the search
started. An activation s of the scores, applied before bias and temperature, breaks the tie unless
``s(c z) = c s(z)``, as for relu; then all parameters converge at polynomial rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtr
from torch import Tensor, nn
from torch.nn import functional

from assay.gating.gaussian_moe import Array, Gate, GaussianMoEParameters, voronoi_cells

Activation = Literal["sigmoid", "tanh", "gelu", "silu", "relu"]

# ------------------------------------------------------------------------------------------ activations


def _normal_density(z: Array) -> Array:
    density: Array = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return density


def _linear(z: Array) -> tuple[Array, Array]:
    return z, np.ones_like(z)


def _sigmoid(z: Array) -> tuple[Array, Array]:
    value = expit(z)
    return value, value * (1 - value)


def _tanh(z: Array) -> tuple[Array, Array]:
    value = np.tanh(z)
    return value, 1 - value * value


def _gelu(z: Array) -> tuple[Array, Array]:
    share = ndtr(z)
    return z * share, share + z * _normal_density(z)


def _silu(z: Array) -> tuple[Array, Array]:
    share = expit(z)
    value = z * share
    return value, share + value * (1 - share)


def _relu(z: Array) -> tuple[Array, Array]:
    return np.maximum(z, 0.0), (z > 0).astype(np.float64)


_ACTIVATIONS: dict[Activation | None, Callable[[Array], tuple[Array, Array]]] = {
    None: _linear,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "gelu": _gelu,
    "silu": _silu,
    "relu": _relu,
}
"""The activation and its derivative."""


def _curvature(activation: Activation | None, z: Array) -> Array:
    """The second derivative of the activation; that of relu at zero is left out."""
    if activation == "gelu":
        return _normal_density(z) * (2 - z * z)
    if activation == "tanh":
        value, slope = _tanh(z)
        return -2 * value * slope
    if activation in ("sigmoid", "silu"):
        value, slope = _sigmoid(z)
        curvature = slope * (1 - 2 * value)
        return curvature if activation == "sigmoid" else 2 * slope + z * curvature
    return np.zeros_like(z)


_TORCH_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}


def _check_activation(activation: Activation | None) -> None:
    if activation is not None and activation not in get_args(Activation):
        raise ValueError(f"activation must be None or one of {get_args(Activation)}, got {activation!r}")


# ----------------------------------------------------------------------------------------------- gates


@dataclass(frozen=True)
class DenseToSparseGate(Gate):
    """Softmax gate with a learned temperature (arXiv 2401.13875).

    ``logits_i(x) = (s(beta_1i.x) + beta_0i) / tau``: the activation s acts on the linear score alone. Without
    one, and with relu, only the ratios ``beta_1 / tau`` and ``beta_0 / tau`` can be estimated.

    Arguments:
        activation: s, one of "sigmoid", "tanh", "gelu" (with the normal distribution function), "silu" and
            "relu"; None for the plain dense-to-sparse gate, ``s(z) = z``.

    Raises ValueError for an unknown activation.

    >>> parameters = GaussianMoEParameters(
    ...     gate_weights=[[1.0], [0.0]], gate_biases=[0.0, 0.0],
    ...     expert_weights=[[1.0], [-1.0]], expert_biases=[0.0, 3.0], variances=[0.1, 0.2], temperature=0.5)
    >>> DenseToSparseGate().logits([[2.0]], parameters)
    array([[4., 0.]])
    >>> DenseToSparseGate("tanh").logits([[2.0]], parameters).round(4)
    array([[1.9281, 0.    ]])
    """

    activation: Activation | None = None
    shift_invariant: bool = field(init=False, repr=False)
    learns_temperature = True

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        object.__setattr__(self, "shift_invariant", self.activation is None)

    def activate(self, scores: Array) -> tuple[Array, Array]:
        """s and its derivative at the scores ``x.beta_1``, all (n, k)."""
        return _ACTIVATIONS[self.activation](scores)


class DenseToSparseRouter(nn.Module):
    """Router of a mixture-of-experts layer by the (activation) dense-to-sparse gate (arXiv 2401.13875).

    ``softmax((s(x weight^T) + bias) / temperature)``. Lower `temperature` while training to go from all
    experts to few; it is saved with the weights.

    Arguments:
        in_features: d, the last dimension of the inputs.
        n_experts: k, that of the outputs.
        activation: s, see `DenseToSparseGate`.
        temperature: positive; the attribute of that name may be set at any time.

    Raises ValueError for an unknown activation, sizes below 1 or a temperature that is not positive.

    >>> router = DenseToSparseRouter(8, 4, activation="tanh", temperature=2.0)
    >>> router.temperature *= 0.5
    >>> weights = router(torch.ones(2, 3, 8))
    >>> weights.shape, torch.allclose(weights.sum(-1), torch.ones(2, 3))
    (torch.Size([2, 3, 4]), True)
    """

    def __init__(
        self,
        in_features: int,
        n_experts: int,
        activation: Activation | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("n_experts", n_experts)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        _check_activation(activation)
        self.activation = activation
        self.temperature = temperature
        self.weight = nn.Parameter(0.02 * torch.randn(n_experts, in_features))
        self.bias = nn.Parameter(torch.zeros(n_experts))

    @property
    def temperature(self) -> float:
        """tau."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if not 0 < value < np.inf:
            raise ValueError(f"temperature must be a positive number, got {value}")
        self._temperature = float(value)

    def forward(self, x: Tensor) -> Tensor:
        """Weights of the experts, (..., n_experts), summing to 1, for inputs (..., in_features)."""
        scores = functional.linear(x, self.weight)
        if self.activation is not None:
            scores = _TORCH_ACTIVATIONS[self.activation](scores)
        return torch.softmax((scores + self.bias) / self._temperature, dim=-1)

    def get_extra_state(self) -> dict[str, float]:
        """What `state_dict` holds besides the weights."""
        return {"temperature": self._temperature}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Take up what `get_extra_state` gave."""
        self.temperature = state["temperature"]

    def extra_repr(self) -> str:
        n_experts, in_features = self.weight.shape
        return f"{in_features}, {n_experts}, activation={self.activation!r}, temperature={self._temperature}"


# ------------------------------------------------------------------------- what can and cannot be estimated


def scale_parameters(parameters: GaussianMoEParameters, factor: float) -> GaussianMoEParameters:
    """Gate weights, gate biases and temperature times `factor` (arXiv 2401.13875).

    The density stays the same where the activation is none or relu, and changes for the others. Raises
    ValueError for a factor that is not a positive number.

    >>> parameters = GaussianMoEParameters([[1.0]], [2.0], [[0.0]], [0.0], [1.0], temperature=0.5)
    >>> scaled = scale_parameters(parameters, 2.0)
    >>> scaled.gate_weights.tolist(), scaled.gate_biases.tolist(), scaled.temperature
    ([[2.0]], [4.0], 1.0)
    """
    if not 0 < factor < np.inf:
        raise ValueError(f"factor must be a positive number, got {factor}")
    return replace(
        parameters,
        gate_weights=factor * parameters.gate_weights,
        gate_biases=factor * parameters.gate_biases,
        temperature=factor * parameters.temperature,
    )


def dense_to_sparse_loss(
    fitted: GaussianMoEParameters, true: GaussianMoEParameters, order: float = 1.0
) -> float:
    """Loss D1 between mixing measures under the gate without activation (arXiv 2401.13875).

    A true atom's cell holds the fitted atoms with the nearest experts, (a, b, nu), and costs the difference
    in mass plus, mass by mass, the distances in gate weights, temperature, slopes, biases and variances,
    each to the power `order`. The density does not change under translations of the gate, the loss does:
    `align` first.

    Raises ValueError for models of different d or an order below 1.

    >>> true = GaussianMoEParameters([[1.0], [0.0]], [0.0, 0.0], [[1.0], [-1.0]], [0.0, 3.0], [0.1, 0.2])
    >>> dense_to_sparse_loss(scale_parameters(true, 1.5), true, order=2)  # 0.5**2 thrice
    0.75
    """
    if not 1 <= order < np.inf:
        raise ValueError(f"order must be a number of at least 1, got {order}")
    cells = voronoi_cells(fitted, true, use="experts")
    return _voronoi_loss(fitted, true, cells, [order] * 5)


def activation_loss(fitted: GaussianMoEParameters, true: GaussianMoEParameters) -> float:
    """Loss D2, in a fit with too many experts D3, under the gate with an activation (arXiv 2401.13875).

    As `dense_to_sparse_loss` of order 1, but in a cell of m > 1 atoms the distances in gate weights,
    temperature and slopes count squared, those in biases to the power r and in variances to r / 2, with
    r = 4 for two atoms and 6 for three. Beyond, where only r >= 7 is known, r is taken as 7.

    Raises ValueError for models of different d.

    >>> true = GaussianMoEParameters([[1.0], [0.0]], [0.0, 0.0], [[1.0], [-1.0]], [0.0, 3.0], [0.1, 0.2])
    >>> activation_loss(scale_parameters(true, 1.5), true)  # 0.5 thrice
    1.5
    """
    cells = voronoi_cells(fitted, true, use="experts")
    sizes = np.bincount(cells)[cells]
    squared = np.minimum(sizes, 2)
    orders = np.array([1, 4, 6, 7])[np.minimum(sizes, 4) - 1]
    return _voronoi_loss(fitted, true, cells, [squared, squared, squared, orders, np.maximum(orders / 2, 1)])


def _voronoi_loss(
    fitted: GaussianMoEParameters,
    true: GaussianMoEParameters,
    cells: NDArray[np.intp],
    powers: Sequence[ArrayLike],
) -> float:
    """`powers` are those of gate weights, temperature, slopes, biases and variances, one or for each atom."""
    distances = (
        np.linalg.norm(fitted.gate_weights - true.gate_weights[cells], axis=1),
        np.full(fitted.n_experts, abs(fitted.temperature - true.temperature)),
        np.linalg.norm(fitted.expert_weights - true.expert_weights[cells], axis=1),
        np.abs(fitted.expert_biases - true.expert_biases[cells]),
        np.abs(fitted.variances - true.variances[cells]),
    )
    deviations = np.sum([np.power(d, power) for d, power in zip(distances, powers, strict=True)], axis=0)
    masses = np.bincount(cells, weights=fitted.masses, minlength=true.n_experts)
    return float(fitted.masses @ deviations + np.abs(masses - true.masses).sum())


def independence_defect(
    activation: Activation | None, directions: ArrayLike, X: ArrayLike, order: int = 1
) -> float:
    """How far an activation is from violating the independence condition (arXiv 2401.13875).

    The condition, under which all parameters have polynomial rates, asks of s at the gate weights beta_i
    that the functions 1, ``s(x.beta_i)`` and ``x_u s'(x.beta_i)`` be linearly independent; with too many
    experts (`order` 2) ``x_u x_v s''(x.beta_i)`` too. Returned is the smallest singular value of the matrix
    of these functions at the points X, each column of unit norm and those that vanish left out: 0 means that
    they are dependent. No activation and relu always violate it. For tanh and sigmoid the directions must
    differ in more than sign: ``tanh(-z) = -tanh(z)``, ``sigmoid(-z) = 1 - sigmoid(z)``.

    Arguments:
        activation: s, see `DenseToSparseGate`.
        directions: (k, d), the gate weights.
        X: (n, d), the points, at least as many as functions.
        order: 1 or 2.

    Raises ValueError for an unknown activation, wrong shapes, values that are not finite, or another order.

    >>> X = np.random.default_rng(0).uniform(-3, 3, (1000, 2))
    >>> directions = [[1.0, 0.5], [-0.3, 0.8]]
    >>> independence_defect("relu", directions, X) < 1e-8, independence_defect("tanh", directions, X) > 1e-3
    (True, True)
    """
    _check_activation(activation)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    X, directions = np.asarray(X, dtype=np.float64), np.asarray(directions, dtype=np.float64)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must have shape (n, n_features), got {X.shape}")
    if directions.ndim != 2 or len(directions) == 0 or directions.shape[1] != X.shape[1]:
        raise ValueError(f"directions must have shape (k, {X.shape[1]}) as X has, got {directions.shape}")
    for name, array in (("directions", directions), ("X", X)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity in it")

    scores = X @ directions.T
    values, slopes = _ACTIVATIONS[activation](scores)
    columns = [np.ones((len(X), 1)), values, *(X * slope[:, None] for slope in slopes.T)]
    if order == 2:
        first, second = np.triu_indices(X.shape[1])
        products = X[:, first] * X[:, second]
        columns += [products * curvature[:, None] for curvature in _curvature(activation, scores).T]
    functions = np.concatenate(columns, axis=1)
    norms = np.linalg.norm(functions, axis=0)
    functions = functions[:, norms > 0] / norms[norms > 0]
    if len(functions) < functions.shape[1]:
        raise ValueError(
            f"X must have at least {functions.shape[1]} rows, one for each function, got {len(X)}"
        )
    return float(np.linalg.svd(functions, compute_uv=False)[-1])
