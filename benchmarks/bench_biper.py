"""BiPer beside what a user would run instead: a real convolution, and the layer written step by step.

Each line: what is compared, the least processor seconds of both over paired repeats, and their ratio. A ratio
above 1 says that ours is faster.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from assay.networks import BiPerConv2d, binarize_activation, square_wave


class StepByStep(BiPerConv2d):
    """The same layer as a user would write it: PyTorch differentiates the scaling of the input."""

    def forward(self, x: Tensor) -> Tensor:
        scaled = x / torch.sqrt(x.var((1, 2, 3), keepdim=True) + 1e-5)
        output = self._conv_forward(SignActivation.apply(scaled), self.effective_weight(), None)
        return output * self.alpha


class SignActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (2 - 2 * x.abs()).clamp(min=0) * grad


def straight_through_square_wave(x: Tensor, frequency: float) -> Tensor:
    sine = torch.sin(frequency * x)
    return sine + (torch.where(sine < 0, -1.0, 1.0) - sine).detach()


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int) -> None:
    """One line: the least time of each, one run of the one after one run of the other."""
    least = [math.inf, math.inf]
    ours(), other()
    for _ in range(repeats):
        for i, run in enumerate((ours, other)):
            start = time.process_time()
            run()
            least[i] = min(least[i], time.process_time() - start)
    print(f"{name:<68} {least[0]:9.5f} s {least[1]:9.5f} s   other / ours {least[1] / least[0]:5.2f}")


def train(layer: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> None:
    x.grad = None
    if isinstance(layer, nn.Module):
        layer.zero_grad()
    torch.autograd.backward(layer(x), upstream)


def main() -> None:
    torch.manual_seed(0)
    batch, upstream = torch.randn(64, 64, 8, 8, requires_grad=True), torch.randn(64, 64, 8, 8)
    plain = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    print("64 channels, 8 x 8 maps, batch 64; processor seconds of ours, of the other, their ratio")
    for stage in (1, 2):
        ours, steps = (layer(64, 64, 3, padding=1, stage=stage) for layer in (BiPerConv2d, StepByStep))
        steps.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(batch), steps(batch))
        for name, other in (("nn.Conv2d", plain), ("the layer step by step", steps)):
            compare(
                f"stage {stage}, forward and backward, beside {name}",
                partial(train, ours, batch, upstream),
                partial(train, other, batch, upstream),
                200,
            )
    with torch.no_grad():
        compare("stage 2, inference, beside nn.Conv2d", lambda: ours.eval()(batch), lambda: plain(batch), 60)

    x = torch.randn(1_000_000, requires_grad=True)
    upstream = torch.randn(1_000_000)
    compare(
        "square_wave of 10^6, forward and backward, beside PyTorch's steps",
        partial(train, partial(square_wave, frequency=20.0), x, upstream),
        partial(train, partial(straight_through_square_wave, frequency=20.0), x, upstream),
        30,
    )
    compare(
        "binarize_activation of 10^6, forward and backward, beside torch.where",
        partial(train, binarize_activation, x, upstream),
        partial(train, SignActivation.apply, x, upstream),
        30,
    )
    packed = np.packbits(ours.binary_weight().numpy() > 0)
    print(
        f"latent weights take {ours.weight.nbytes / packed.nbytes:.0f} times the memory of their packed bits"
    )


if __name__ == "__main__":
    main()
