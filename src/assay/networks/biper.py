"""Networks with weights and activations of one bit, whose weights are binarised by a square wave.

Vargas, Correa, Hinojosa and Arguello, "BiPer: Binary Neural Networks using a Periodic Function", 2024,
arXiv 2404.01278.

A latent weight w counts as ``q(w) = sign(sin(omega w))``, a square wave of frequency omega, and gradients
pass through the sine of the same period. Training has two stages: real weights ``sin(omega w)`` with binary
activations, then, from the latent weights found, binary weights q(w). Here sign(0) is +1, so that zero too
has one bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_VARIANCE_EPS = 1e-5


def _check_frequency(frequency: float) -> None:
    if not (frequency > 0 and math.isfinite(frequency)):
        raise ValueError(f"frequency must be positive and finite, got {frequency}")


def _check_stage(stage: int) -> None:
    if stage not in (1, 2):
        raise ValueError(f"stage must be 1 or 2, got {stage}")


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")


def _check_floating(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")


def _sign(x: Tensor) -> Tensor:
    """-1 below zero, +1 elsewhere. Three fast passes: torch.where takes ten times as long on a CPU."""
    return x.sign().add_(0.5).sign_()


class _SquareWave(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, frequency: float) -> Tensor:
        return _sign(torch.sin(frequency * x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.frequency = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.frequency * torch.cos(ctx.frequency * x), None


class _BinarizedActivation(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _activation_slope(x) * grads[0]


class _BinarizedScaledActivation(torch.autograd.Function):
    """`_BinarizedActivation` of x divided by its standard deviation over the last `dims` dimensions.

    The sign does not see the division, so the deviation is only computed for the gradient. With m the mean,
    ``s = sqrt(var + eps)`` and d the gradient that reaches x / s, the gradient of x is
    ``d / s - (x - m) sum(d x) / ((n - 1) s^3)``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dims: int) -> Tensor:
        return _sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.dims = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        sample = tuple(range(-ctx.dims, 0))
        degrees_of_freedom = math.prod(x.shape[-ctx.dims :]) - 1
        # Sums of many half-precision squares overflow. On a CPU torch.var takes 20 times as long as this.
        wide = torch.promote_types(x.dtype, torch.float32)
        centred = x - x.mean(sample, keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=sample, keepdim=True, dtype=wide)
        deviation = torch.sqrt(norm**2 / degrees_of_freedom + _VARIANCE_EPS)
        inverse = (1 / deviation).to(x.dtype)
        grad = _activation_slope(x * inverse) * grads[0]
        along = (grad * x).sum(sample, keepdim=True, dtype=wide) / (degrees_of_freedom * deviation**3)
        return (grad * inverse - centred * along).to(x.dtype), None


def _activation_slope(x: Tensor) -> Tensor:
    return functional.relu(2 - 2 * x.abs())


def square_wave(x: Tensor, frequency: float) -> Tensor:
    """The sign of ``sin(frequency x)``, with the gradient of the sine.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278. Backward:
    ``dL/dx = frequency cos(frequency x) dL/dy``, a straight-through sign after the sine.

    Arguments:
        x: any shape, floating point.
        frequency: omega, positive, in radians per unit of x.

    Returns -1 and +1 in the shape and dtype of x; +1 where the sine is zero.

    Raises ValueError for a frequency that is not positive and finite, TypeError for integer x.

    >>> w = torch.tensor([-0.1, 0.0, 0.1, 0.2], requires_grad=True)
    >>> y = square_wave(w, 20.0)
    >>> y.tolist()
    [-1.0, 1.0, 1.0, -1.0]
    >>> y.sum().backward()
    >>> torch.allclose(w.grad, 20 * torch.cos(20 * w))
    True
    """
    _check_frequency(frequency)
    _check_floating(x)
    result: Tensor = _SquareWave.apply(x, frequency)  # type: ignore[no-untyped-call]
    return result


def binarize_activation(x: Tensor) -> Tensor:
    """The sign of x, with the gradient of a piecewise quadratic approximation.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278. Backward:
    ``dL/dx = max(0, 2 - 2 |x|) dL/dy``.

    Arguments:
        x: any shape, floating point.

    Returns -1 and +1 in the shape and dtype of x; +1 at zero. Raises TypeError for integer x.

    >>> x = torch.tensor([-1.2, -0.5, 0.0, 0.75], requires_grad=True)
    >>> y = binarize_activation(x)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([-1.0, -1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 0.5])
    """
    _check_floating(x)
    result: Tensor = _BinarizedActivation.apply(x)  # type: ignore[no-untyped-call]
    return result


class _BiPerLayer(nn.Module):
    """What both binary layers add to the layer of PyTorch that stands after this class in their bases."""

    if TYPE_CHECKING:
        weight: Tensor
        bias: Any  # the two layers of PyTorch declare different types
    alpha: nn.Parameter
    binarize_input: bool
    _sample_dims: int

    def _set_up(self, frequency: float, stage: int, binarize_input: bool) -> None:
        self.frequency = frequency
        self.stage = stage
        self.binarize_input = binarize_input
        self.alpha = nn.Parameter(torch.empty(self.weight.shape[0], *[1] * (self._sample_dims - 1)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw latent weights from He's normal distribution and alpha uniformly from (0, 1); no bias."""
        if not hasattr(self, "alpha"):
            return  # PyTorch's constructor calls this before the layer is complete
        nn.init.kaiming_normal_(self.weight)
        nn.init.uniform_(self.alpha)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def frequency(self) -> float:
        return self._frequency

    @frequency.setter
    def frequency(self, value: float) -> None:
        _check_frequency(value)
        self._frequency = float(value)

    @property
    def stage(self) -> int:
        return self._stage

    @stage.setter
    def stage(self, value: int) -> None:
        _check_stage(value)
        self._stage = int(value)

    # A tensor, and not a dict, so that formats that hold only tensors can store it.
    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.frequency, self.stage], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.frequency, self.stage = state[0].item(), int(state[1])

    def extra_repr(self) -> str:
        own = f"frequency={self.frequency:g}, stage={self.stage}, binarize_input={self.binarize_input}"
        return f"{super().extra_repr()}, {own}"

    def effective_weight(self) -> Tensor:
        """What the input meets, before alpha: ``sin(omega w)`` in stage 1, q(w) in stage 2."""
        if self.stage == 1:
            return torch.sin(self.frequency * self.weight)
        return square_wave(self.weight, self.frequency)

    @torch.no_grad()
    def binary_weight(self) -> Tensor:
        """q(w), -1 and +1, as int8, whatever the stage."""
        return square_wave(self.weight, self.frequency).to(torch.int8)

    def _input(self, x: Tensor) -> Tensor:
        if not self.binarize_input:
            return x
        if not self.training:
            return binarize_activation(x)
        _check_floating(x)
        if math.prod(x.shape[-self._sample_dims :]) == 1:
            raise ValueError("training scales each sample by its deviation, which needs 2 values, got 1")
        binary: Tensor = _BinarizedScaledActivation.apply(x, self._sample_dims)  # type: ignore[no-untyped-call]
        return binary

    def _scaled(self, output: Tensor) -> Tensor:
        output = output * self.alpha
        return output if self.bias is None else output + self.bias.view_as(self.alpha)


class BiPerConv2d(_BiPerLayer, nn.Conv2d):
    """A 2D convolution with weights and inputs of one bit.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278. The output is
    ``alpha conv(sign(x), W) + bias``, with ``W = sin(omega w)`` in stage 1 and the binary
    ``W = sign(sin(omega w))`` in stage 2, for the latent weights w. In training, gradients see each sample of
    the input divided by its standard deviation, which leaves the output as it is. Padding adds zeros.

    Arguments:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as for `nn.Conv2d`,
            but by default without a bias.
        frequency: omega, positive.
        stage: 1 or 2; see `set_stage`.
        binarize_input: if False, the input stays as it is (weights of 1 bit, activations of 32).

    The parameters are `weight`, latent, and `alpha`, (out_channels, 1, 1). The gradient of a
    latent weight has a factor omega, so a step of SGD moves its phase by omega^2 times the learning rate.
    `state_dict` holds the frequency and the stage too.

    Raises ValueError for a frequency that is not positive and finite and for another stage, and in training
    for samples of one value; TypeError for an integer input with binarize_input.

    >>> _ = torch.manual_seed(0)
    >>> layer = BiPerConv2d(16, 32, 3, padding=1)
    >>> layer(torch.randn(4, 16, 8, 8)).shape
    torch.Size([4, 32, 8, 8])
    >>> layer.stage = 2
    >>> layer.effective_weight().unique().tolist()
    [-1.0, 1.0]
    """

    _sample_dims = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | Literal["valid", "same"] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        frequency: float = 20.0,
        stage: int = 1,
        binarize_input: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self._set_up(frequency, stage, binarize_input)

    def forward(self, x: Tensor) -> Tensor:
        """The output, (N, out_channels, H', W') for x (N, in_channels, H, W), or both without N."""
        return self._scaled(self._conv_forward(self._input(x), self.effective_weight(), None))


class BiPerLinear(_BiPerLayer, nn.Linear):
    """A linear layer with weights and inputs of one bit.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278. `BiPerConv2d` says what it computes; here a
    sample, which gradients see divided by its standard deviation, is what stands along the last dimension.

    Arguments:
        in_features, out_features, bias: as for `nn.Linear`, but by default without a bias.
        frequency: omega, positive.
        stage: 1 or 2; see `set_stage`.
        binarize_input: if False, the input stays as it is.

    The parameters are `weight`, latent, and `alpha`, (out_features,).

    Raises what `BiPerConv2d` raises.

    >>> layer = BiPerLinear(64, 10, stage=2)
    >>> layer(torch.randn(5, 64)).shape, layer.binary_weight().dtype
    (torch.Size([5, 10]), torch.int8)
    """

    _sample_dims = 1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        frequency: float = 20.0,
        stage: int = 1,
        binarize_input: bool = True,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._set_up(frequency, stage, binarize_input)

    def forward(self, x: Tensor) -> Tensor:
        """The output, (…, out_features), for x (…, in_features)."""
        return self._scaled(functional.linear(self._input(x), self.effective_weight()))


def set_stage(module: nn.Module, stage: int) -> int:
    """Switch every BiPer layer of a module to a stage of training, and return how many there are.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278. Latent weights stay as they are: those of
    stage 1 decide the binary weights that stage 2 starts from.

    Arguments:
        module: the network, or a layer.
        stage: 1 for real weights ``sin(omega w)``, 2 for their signs.

    Raises ValueError for another stage.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), BiPerConv2d(8, 8, 3), BiPerConv2d(8, 8, 3))
    >>> set_stage(network, 2)
    2
    """
    _check_stage(stage)
    layers = [layer for layer in module.modules() if isinstance(layer, _BiPerLayer)]
    for layer in layers:
        layer.stage = stage
    return len(layers)


def sine_penalty(module: nn.Module) -> Tensor:
    """The sum over BiPer layers of the mean of ``sin(omega w)^2``, to add to a loss with a factor.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278. It is a weight decay of the sines: it pulls
    them to zero, and so raises the quantization error.

    Arguments:
        module: the network, or a layer; without BiPer layers the sum is zero.

    Returns a scalar with gradients.

    >>> network = nn.Sequential(BiPerLinear(64, 64), nn.Hardtanh(), BiPerLinear(64, 10))
    >>> loss = 0.037 * sine_penalty(network)
    >>> loss.backward()
    """
    penalty = torch.zeros(())
    for layer in module.modules():
        if isinstance(layer, _BiPerLayer):
            penalty = penalty + torch.sin(layer.frequency * layer.weight).square().mean()
    return penalty


def quantization_error(weight: Tensor, frequency: float, *, order: int = 1) -> float:
    """The mean of ``|sin(omega w) - q(w)|^order``, which is ``(1 - |sin(omega w)|)^order``.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278.

    Arguments:
        weight: the latent weights, any shape, at least one.
        frequency: omega, positive.
        order: 1 or 2.

    Returns the error, between 0 and 1.

    Raises ValueError for a frequency that is not positive and finite, another order, and weights that are
    not finite or of which there are none.

    >>> round(quantization_error(torch.tensor([0.0, math.pi / 40, math.pi / 120]), 20.0), 6)
    0.5
    """
    _check_frequency(frequency)
    _check_order(order)
    if not weight.numel():
        raise ValueError("weight must have at least one element, got none")
    if not weight.isfinite().all():
        raise ValueError("weight must be finite, got infinite values or NaN")
    sine = torch.sin(frequency * weight.detach().double())
    return float((1 - sine.abs()).pow(order).mean())


def laplace_quantization_error(scale: float, frequency: float, *, order: int = 1) -> float:
    """The expected `quantization_error` of Laplace-distributed weights, in closed form.

    Vargas, Correa, Hinojosa and Arguello, 2024, arXiv 2404.01278; the integral is worked out here.
    With ``x = omega scale``, ``E|sin| = x / (1 + x^2) coth(pi / (2 x))`` and
    ``E sin^2 = 2 x^2 / (1 + 4 x^2)``. The error of order 1 is ``1 - E|sin|`` and falls with x from 1 to
    ``1 - 2 / pi``; that of order 2 is ``1 - 2 E|sin| + E sin^2`` and falls from 1 to ``3 / 2 - 4 / pi``.

    Arguments:
        scale: the mean of the weights' absolute values, positive.
        frequency: omega, positive.
        order: 1 or 2.

    Raises ValueError for a scale or frequency that is not positive and finite, and for another order.

    >>> [round(laplace_quantization_error(0.05, frequency), 4) for frequency in (5, 20, 80)]
    [0.7647, 0.4548, 0.3703]
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    _check_frequency(frequency)
    _check_order(order)
    x = frequency * scale
    mean_absolute = 1 / ((x + 1 / x) * math.tanh(math.pi / (2 * x)))
    if order == 1:
        return 1 - mean_absolute
    return 1 - 2 * mean_absolute + 2 * x / (4 * x + 1 / x)
