"""Quadratic neurons, the ReLinear way to train them, and what networks of them can express.

Fan, Li, Wang, Lai and Wang, "On Expressivity and Trainability of Quadratic Networks" (2021),
arXiv 2110.06081.

A quadratic neuron replaces the inner product of a conventional one by

    z = (w_r x + b_r) (w_g x + b_g) + w_b (x * x) + c.

At w_g = 0, b_g = 1, w_b = 0, c = 0 it is the conventional neuron. ReLinear starts there and holds the
quadratic terms back while training, by smaller learning rates or by pulling them back after each step, so
that a network leaves the conventional one only as far as it stays stable.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline, PPoly
from torch import Tensor, nn

Variant = Literal["full", "compact"]
Init = Literal["relinear", "random"]


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_nonnegative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")


# ---------------------------------------------------------------------------------------------- the layers


class _Quadratic(nn.Module):
    """What dense and convolutional layers share: three affine maps and how they start."""

    linear_r: nn.Linear | nn.Conv2d
    linear_g: nn.Linear | nn.Conv2d | None
    linear_b: nn.Linear | nn.Conv2d

    def __init__(self, affine: Callable[[], nn.Linear | nn.Conv2d], variant: Variant, init: Init) -> None:
        super().__init__()
        _check_choice("variant", variant, get_args(Variant))
        _check_choice("init", init, get_args(Init))
        self.linear_r = affine()
        self.linear_g = affine() if variant == "full" else None
        self.linear_b = affine()
        self.reset_parameters(init)

    @torch.no_grad()
    def reset_parameters(self, init: Init = "relinear") -> None:
        """Draw new weights: "relinear" makes the layer conventional, "random" draws all of them He normal.

        Raises ValueError for another init.
        """
        _check_choice("init", init, get_args(Init))
        for affine in (self.linear_r, self.linear_g, self.linear_b):
            if affine is None:
                continue
            if init == "random" or affine is self.linear_r:
                nn.init.kaiming_normal_(affine.weight, nonlinearity="relu")
            else:
                affine.weight.zero_()
            if affine.bias is not None:
                # A bias b_g of 0 beside w_g = 0 would cut the linear path.
                affine.bias.fill_(float(init == "relinear" and affine is self.linear_g))

    def forward(self, x: Tensor) -> Tensor:
        """The neurons before any activation, in the shape that the conventional layer gives."""
        square: Tensor = self.linear_b(x * x)
        linear: Tensor = self.linear_r(x)
        if self.linear_g is None:
            return square + linear
        return torch.addcmul(square, linear, self.linear_g(x))


class QuadraticLinear(_Quadratic):
    """A dense layer of quadratic neurons: ``(x W_r' + b_r) (x W_g' + b_g) + (x * x) W_b' + c``.

    Fan, Li, Wang, Lai and Wang, 2021, arXiv 2110.06081. It takes the place of `nn.Linear`; an activation
    comes after it.

    Arguments:
        in_features: width of the input (…, in_features).
        out_features: width of the output (…, out_features).
        variant: "full", or "compact" for ``x W_r' + b_r + (x * x) W_b' + c`` without interactions.
        init: "relinear" starts as the conventional layer with He normal W_r and b_r = 0; "random" draws W_r,
            W_g and W_b He normal and sets all biases to 0.
        dtype: of the parameters.

    The parts are `linear_r`, `linear_g` (None if compact) and `linear_b`, each an `nn.Linear`; c is
    ``linear_b.bias``.

    Raises ValueError for an unknown variant or init.

    >>> _ = torch.manual_seed(0)
    >>> layer = QuadraticLinear(4, 3)
    >>> x = torch.randn(2, 4)
    >>> torch.equal(layer(x), layer.linear_r(x))  # it starts as a conventional layer
    True
    >>> groups = relinear_parameter_groups(layer, lr=0.1)  # and leaves it slowly
    >>> optimizer = torch.optim.SGD(groups, momentum=0.9)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        variant: Variant = "full",
        init: Init = "relinear",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(lambda: nn.Linear(in_features, out_features, dtype=dtype), variant, init)


class QuadraticConv2d(_Quadratic):
    """A convolution with quadratic neurons: three kernels, the third one on the squared input.

    Fan, Li, Wang, Lai and Wang, 2021, arXiv 2110.06081. It takes the place of `nn.Conv2d`; batch
    normalisation and activation come after it.

    Arguments:
        in_channels, out_channels: of the input (N, in, H, W) and the output (N, out, H', W').
        kernel_size, stride, padding: as of `nn.Conv2d`, the same for all three kernels.
        variant, init, dtype: as of `QuadraticLinear`.

    The parts are `linear_r`, `linear_g` (None if compact) and `linear_b`, each an `nn.Conv2d`.

    Raises ValueError for an unknown variant or init.

    >>> QuadraticConv2d(3, 16, 3, padding=1)(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 16, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        variant: Variant = "full",
        init: Init = "relinear",
        dtype: torch.dtype | None = None,
    ) -> None:
        def affine() -> nn.Conv2d:
            return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dtype=dtype)

        super().__init__(affine, variant, init)


# ------------------------------------------------------------------------------------------------ ReLinear


def _quadratic_layers(model: nn.Module) -> list[_Quadratic]:
    return [module for module in model.modules() if isinstance(module, _Quadratic)]


def relinear_parameter_groups(
    model: nn.Module, *, lr: float, gamma_g: float = 1e-4, gamma_b: float = 1e-4
) -> list[dict[str, Any]]:
    """Parameter groups for a `torch.optim` optimiser that shrink the gradients of the quadratic terms.

    ReLinear of Fan, Li, Wang, Lai and Wang, 2021, arXiv 2110.06081. With gamma 0 the conventional network
    is trained, with gamma 1 all parameters alike. The authors use 1e-4 for a ResNet-20 at lr 0.1.

    Arguments:
        model: any module with `QuadraticLinear` or `QuadraticConv2d` layers in it.
        lr: learning rate of all other parameters.
        gamma_g: factor, at least 0, on lr for W_g and b_g.
        gamma_b: factor, at least 0, on lr for W_b and c.

    Returns:
        Four groups: the other parameters; W_g; b_g, exempt from weight decay, which would pull it from 1
        to 0 and so cut the linear path; W_b and c. Every parameter is in one of them, and a group may be
        empty.

    Raises:
        ValueError: lr that is not positive, or a negative gamma.

    >>> model = nn.Sequential(QuadraticLinear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> [group["lr"] for group in relinear_parameter_groups(model, lr=0.1, gamma_b=1e-2)]
    [0.1, 1e-05, 1e-05, 0.001]
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be a positive number, got {lr!r}")
    _check_nonnegative("gamma_g", gamma_g)
    _check_nonnegative("gamma_b", gamma_b)
    layers = _quadratic_layers(model)
    gates = [layer.linear_g for layer in layers if layer.linear_g is not None]
    weights_g = [gate.weight for gate in gates]
    biases_g = [gate.bias for gate in gates if gate.bias is not None]
    squares = [parameter for layer in layers for parameter in layer.linear_b.parameters()]
    quadratic = {id(parameter) for parameter in (*weights_g, *biases_g, *squares)}
    return [
        {
            "params": [parameter for parameter in model.parameters() if id(parameter) not in quadratic],
            "lr": lr,
        },
        {"params": weights_g, "lr": lr * gamma_g},
        {"params": biases_g, "lr": lr * gamma_g, "weight_decay": 0.0},
        {"params": squares, "lr": lr * gamma_b},
    ]


@torch.no_grad()
def shrink_quadratic_terms(
    model: nn.Module,
    *,
    beta_g: float = 1.0,
    beta_b: float = 1.0,
    alpha_g: float = math.inf,
    alpha_b: float = math.inf,
) -> None:
    """Pull every quadratic neuron towards the conventional one, in place, after an optimiser's step.

    ReLinear by shrinking weights (Fan, Li, Wang, Lai and Wang, 2021, arXiv 2110.06081). Of W_g, b_g - 1, W_b
    and c, what the neuron has beyond the conventional one, the share beta is kept and then clipped to
    [-alpha, alpha]. At 0 either of them makes the network conventional; at its default neither changes it.

    Arguments:
        model: any module with `QuadraticLinear` or `QuadraticConv2d` layers in it.
        beta_g, beta_b: shares in [0, 1], of W_g and b_g, and of W_b and c.
        alpha_g, alpha_b: largest deviations, at least 0.

    Raises:
        ValueError: a beta outside [0, 1], or a negative alpha.

    >>> layer = QuadraticLinear(4, 3, init="random")
    >>> shrink_quadratic_terms(layer, beta_g=0.0, alpha_b=0.0)
    >>> x = torch.randn(2, 4)
    >>> torch.equal(layer(x), layer.linear_r(x))
    True
    """
    for name, beta in (("beta_g", beta_g), ("beta_b", beta_b)):
        if not 0 <= beta <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {beta!r}")
    _check_nonnegative("alpha_g", alpha_g)
    _check_nonnegative("alpha_b", alpha_b)

    def shrink(parameter: Tensor | None, conventional: float, beta: float, alpha: float) -> None:
        if parameter is not None:
            # Unlike a difference scaled and added again, lerp and clamp leave alone what is to stay.
            parameter.lerp_(torch.full_like(parameter, conventional), 1 - beta)
            parameter.clamp_(conventional - alpha, conventional + alpha)

    for layer in _quadratic_layers(model):
        if layer.linear_g is not None:
            shrink(layer.linear_g.weight, 0.0, beta_g, alpha_g)
            shrink(layer.linear_g.bias, 1.0, beta_g, alpha_g)
        shrink(layer.linear_b.weight, 0.0, beta_b, alpha_b)
        shrink(layer.linear_b.bias, 0.0, beta_b, alpha_b)


# -------------------------------------------------------------------------------------------- expressivity


def _pieces(spline: PPoly | BSpline, tolerance: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Breakpoints (n+1,) and the coefficients (degree+1, n) of ascending powers of ``x - breakpoint``."""
    if isinstance(spline, BSpline):
        # SciPy's own conversion to a PPoly ends the process at degree 8.
        breakpoints = np.unique(spline.t[spline.k : len(spline.t) - spline.k])
        starts = breakpoints[:-1]
        ascending = np.stack([spline(starts, nu=p) / math.factorial(p) for p in range(spline.k + 1)])
    elif isinstance(spline, PPoly):
        breakpoints, ascending = spline.x, spline.c[::-1]
    else:
        raise TypeError(
            f"spline must be a PPoly or BSpline of scipy.interpolate, got {type(spline).__name__}"
        )
    if ascending.ndim != 2 or np.iscomplexobj(ascending):
        raise ValueError(
            f"spline must be real and scalar, got {ascending.dtype} values of shape {ascending.shape[2:]}"
        )
    if not np.isfinite(ascending).all():
        raise ValueError("spline must have finite coefficients, got NaN or infinity in them")
    widths = np.diff(breakpoints)
    if not (widths > 0).all():
        raise ValueError("spline must have strictly increasing breakpoints, got others")
    coefficients = np.asarray(ascending, dtype=np.float64)
    ends = np.polynomial.polynomial.polyval(widths, coefficients, tensor=False)
    jumps = np.abs(coefficients[0, 1:] - ends[:-1])
    scale = max(np.abs(coefficients[0]).max(), np.abs(ends).max())
    if jumps.size and jumps.max() > tolerance * scale:
        worst = jumps.argmax()
        raise ValueError(
            f"spline must be continuous, got a jump of {jumps[worst]:.3g} at {breakpoints[worst + 1]:.6g}"
        )
    return np.asarray(breakpoints, dtype=np.float64), coefficients


def spline_network(spline: PPoly | BSpline, *, tolerance: float = 1e-9) -> nn.Sequential:
    """A quadratic ReLU network that is the given spline, exactly and everywhere.

    After Fan, Li, Wang, Lai and Wang, 2021, arXiv 2110.06081: conventional ReLU networks are piecewise
    linear, those with quadratic activation a single polynomial, so that neither can be a spline of degree 2
    or more. Here the first layer cuts the line at the breakpoints t_j of n pieces p_j, the second makes each
    piece's own variable ``v_j = clip((x - t_j) / (t_(j+1) - t_j), 0, 1)`` and its square, every further one
    doubles the powers at hand, and the output is linear in them:

        s(x) = s(t_0) + sum_j (p_j(v_j) - p_j(0)).

    The variables of the last piece and of a mirror image of the first are not clipped on their outer side.
    As all others lie in [0, 1] nothing cancels, unlike in a sum of truncated powers.

    Arguments:
        spline: continuous and scalar: a `PPoly`, such as a `CubicSpline`, or a `BSpline`, of degree N.
        tolerance: largest jump at a breakpoint, relative to the spline's largest value at one of them, that
            counts as continuous.

    Returns:
        A float64 network from (…, 1) to (…, 1) with ``1 + max(1, ceil(log2 N))`` hidden layers, the widest of
        N (n + 1) neurons. Outside the breakpoints the first and the last piece continue.

    Raises:
        TypeError: no `PPoly` and no `BSpline`.
        ValueError: a discontinuous, complex, vector-valued or infinite spline, or decreasing breakpoints.

    >>> from scipy.interpolate import CubicSpline
    >>> spline = CubicSpline([0.0, 1.0, 2.5, 4.0], [1.0, -1.0, 2.0, 0.0])
    >>> x = np.linspace(-1, 5, 100)
    >>> y = spline_network(spline)(torch.from_numpy(x)[:, None])
    >>> bool(np.abs(y.detach().numpy()[:, 0] - spline(x)).max() < 1e-13)
    True
    """
    breakpoints, coefficients = _pieces(spline, tolerance)
    widths, starts = np.diff(breakpoints), breakpoints[:-1]
    degree, variables = max(1, len(coefficients) - 1), len(widths) + 1
    # Variable 0 is that of the mirrored first piece, ``(t_0 - x) / width``; variable j that of piece j - 1.
    scales = np.append(-widths[0], widths)
    by_power = np.zeros((degree, variables))
    for power in range(1, len(coefficients)):
        by_power[power - 1] = np.append(coefficients[power, 0], coefficients[power]) * scales**power

    cut = QuadraticLinear(1, variables, dtype=torch.float64)
    local = np.diag(1 / np.abs(scales))
    local[np.arange(1, variables - 1), np.arange(2, variables)] = -1 / widths[:-1]
    output = nn.Linear(degree * variables, 1, dtype=torch.float64)
    with torch.no_grad():
        cut.linear_r.weight.copy_(torch.from_numpy(np.sign(scales))[:, None])
        cut.linear_r.bias.copy_(torch.from_numpy(np.append(starts[0], -starts)))  # type: ignore[union-attr]
        output.weight.copy_(torch.from_numpy(by_power.reshape(1, -1)))
        output.bias.fill_(float(coefficients[0, 0]))

    layers: list[nn.Module] = [cut, nn.ReLU()]
    inputs, known = torch.from_numpy(local), 1
    while True:
        powers = min(2 * known, degree)
        layers += [_raise_powers(inputs, known, powers), nn.ReLU()]
        if powers == degree:
            return nn.Sequential(*layers, output)
        inputs, known = torch.eye(variables, dtype=torch.float64), powers


@torch.no_grad()
def _raise_powers(inputs: Tensor, known: int, powers: int) -> QuadraticLinear:
    """The layer from powers 1..known of some variables to powers 1..powers, at most twice as many.

    The variables are ``inputs @ x`` of what comes in; powers are the slower index.
    """
    new = powers - known
    eye = torch.eye(known, dtype=inputs.dtype)
    first = torch.cat((eye, eye[-1:].expand(new, -1)))  # power q > known is known times (q - known)
    second = torch.cat((torch.zeros_like(eye), eye[:new]))
    layer = QuadraticLinear(known * inputs.shape[1], powers * inputs.shape[0], dtype=inputs.dtype)
    assert layer.linear_g is not None
    layer.linear_r.weight.copy_(torch.kron(first, inputs))
    layer.linear_g.weight.copy_(torch.kron(second, inputs))
    layer.linear_g.bias[known * inputs.shape[0] :] = 0  # type: ignore[index]
    return layer


def functional_dimension(
    model: nn.Module,
    n_features: int,
    *,
    n_points: int | None = None,
    generator: torch.Generator | None = None,
    tolerance: float = 1e-9,
) -> int:
    """The dimension of the set of functions that a network of polynomials can express.

    That set is an algebraic variety, the measure of expressivity in Fan, Li, Wang, Lai and Wang, 2021, arXiv
    2110.06081. Its dimension is the rank, at random parameters, of the derivative of the outputs at many
    inputs with respect to the parameters.

    Arguments:
        model: a module from (N, n_features) to (N, …) whose activations, if it has any, are polynomials; it
            is not changed.
        n_features: width of the input.
        n_points: how many random inputs (default twice the number of parameters, and 20 more).
        generator: of the random parameters and inputs, on the CPU.
        tolerance: singular values of the derivative, with rows and columns scaled to unit length, count if
            they exceed this share of the largest.

    Returns:
        The dimension; at most the number of parameters.

    Raises:
        ValueError: n_features or n_points below 1.

    >>> functional_dimension(nn.Linear(5, 2), 5)
    12
    >>> functional_dimension(nn.Sequential(QuadraticLinear(2, 2), QuadraticLinear(2, 1)), 2)
    12
    """
    if n_features < 1:
        raise ValueError(f"n_features must be at least 1, got {n_features}")
    if n_points is not None and n_points < 1:
        raise ValueError(f"n_points must be at least 1, got {n_points}")
    network = copy.deepcopy(model).to("cpu", torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    parameters = {name: normal(*parameter.shape) for name, parameter in network.named_parameters()}
    if n_points is None:
        n_points = 2 * sum(parameter.numel() for parameter in parameters.values()) + 20
    inputs = normal(n_points, n_features)

    def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(network, parameters, (x[None],))
        return result.flatten()

    derivatives = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))(parameters, inputs)
    jacobian = torch.cat([derivative.flatten(2) for derivative in derivatives.values()], dim=2).flatten(0, 1)
    # The rank does not depend on the lengths of rows and columns; its numerical estimate does.
    jacobian = nn.functional.normalize(nn.functional.normalize(jacobian, dim=1), dim=0)
    singular_values = torch.linalg.svdvals(jacobian)
    return int((singular_values > tolerance * singular_values.amax()).sum())
