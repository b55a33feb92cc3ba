"""Quadratic layers beside a conventional layer and beside three layers written out; functional dimension
beside a loop over inputs.

Each line: what is compared, the least processor time of both over paired repeats, and their ratio. Run it
with one thread (OMP_NUM_THREADS=1).
"""

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from assay.networks.quadratic_networks import (
    QuadraticConv2d,
    QuadraticLinear,
    functional_dimension,
    spline_network,
)


class WrittenOut(nn.Module):
    """A quadratic layer as its formula reads: three layers, a product and a sum."""

    def __init__(self, affine: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.r, self.g, self.b = affine(), affine(), affine()

    def forward(self, x: Tensor) -> Tensor:
        return self.r(x) * self.g(x) + self.b(x.pow(2))


def dimension_by_a_loop(model: nn.Module, n_features: int) -> int:
    """The rank of the derivative, gathered by one backward pass for each input."""
    parameters = [nn.init.normal_(parameter) for parameter in model.double().parameters()]
    rows = []
    for _ in range(2 * sum(parameter.numel() for parameter in parameters) + 20):
        output = model(torch.randn(1, n_features, dtype=torch.float64))
        rows.append(
            torch.cat([gradient.flatten() for gradient in torch.autograd.grad(output.sum(), parameters)])
        )
    return int(torch.linalg.matrix_rank(torch.stack(rows), rtol=1e-9))


def compare(
    name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int, target: float = 0.0
) -> None:
    """One line: the least time of each, one run of the one after one run of the other."""
    least = [math.inf, math.inf]
    for _ in range(repeats):
        for i, run in enumerate((ours, other)):
            start = time.process_time()
            run()
            least[i] = min(least[i], time.process_time() - start)
    ratio = least[0] / least[1]
    met = f", target {target}: {'met' if ratio <= target else 'missed'}" if target else ""
    print(
        f"{name:<66} {least[0] * 1e3:9.3f} ms {least[1] * 1e3:9.3f} ms   ours / other {ratio:5.2f}{met}",
        flush=True,
    )


def forward(layer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def training(layer: nn.Module, x: Tensor) -> None:
    layer.zero_grad()
    layer(x).sum().backward()


def main() -> None:
    torch.manual_seed(0)
    dense, conv = partial(nn.Linear, 512, 512), partial(nn.Conv2d, 32, 32, 3, padding=1)
    batch, images = torch.randn(256, 512), torch.randn(32, 32, 16, 16)
    full, compact = QuadraticLinear(512, 512), QuadraticLinear(512, 512, variant="compact")
    layers = (
        ("dense layer beside a conventional one", full, dense(), batch, 3.5),
        ("compact dense layer beside a conventional one", compact, dense(), batch, 2.4),
        ("dense layer beside three written out", full, WrittenOut(dense), batch, 1.0),
        (
            "convolution beside three written out",
            QuadraticConv2d(32, 32, 3, padding=1),
            WrittenOut(conv),
            images,
            1.0,
        ),
    )
    for run in (forward, training):
        for name, ours, other, x, target in layers:
            pair = partial(run, ours, x), partial(run, other, x)
            compare(f"{name}, {run.__name__}", *pair, 200, target if run is forward else 0.0)

    network = nn.Sequential(QuadraticLinear(6, 20), QuadraticLinear(20, 1))
    compare(
        "functional dimension of 483 parameters beside a loop over inputs",
        partial(functional_dimension, network, 6),
        partial(dimension_by_a_loop, network, 6),
        3,
    )

    knots = np.linspace(0, 1, 41)
    spline = CubicSpline(knots, np.sin(9 * knots))
    x = np.linspace(0, 1, 10_000)
    compare(
        "a cubic spline of 40 pieces at 10,000 points beside SciPy",
        partial(forward, spline_network(spline), torch.from_numpy(x)[:, None]),
        partial(spline, x),
        10,
    )


if __name__ == "__main__":
    main()
