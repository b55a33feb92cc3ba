"""Curvature products and the rate learner beside what a user would run instead.

Products: ours, differentiated once for all products of a batch, against `torch.func` anew for each product,
and against one gradient. Learner: SGD whose rates it sets, against a search over 6 learning rates and 2
momenta; both in wall time, the same number of steps. Least of paired repeats. Run it with OMP_NUM_THREADS=1.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp
from torch.nn import functional

from assay.networks.batch_size_rates import SpectralRateLearner, curvature_operator, lanczos_spectrum

LANCZOS_STEPS = 8
LEARNING_RATES, MOMENTA = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.0, 0.9)


def unflatten(model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    sizes = [parameter.numel() for parameter in model.parameters()]
    pieces = zip(model.named_parameters(), vector.float().split(sizes), strict=True)
    return {name: piece.view_as(parameter) for (name, parameter), piece in pieces}


def flatten(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()]).double()


def functional_ggn(model: nn.Module, x: Tensor, y: Tensor, vector: Tensor) -> Tensor:
    """J' S J v as its formula reads: a jvp, the jvp of the loss's gradient, and a vjp."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def outputs(w: dict[str, Tensor]) -> Tensor:
        return functional_call(model, w, (x,))

    z, moved = jvp(outputs, (weights,), (unflatten(model, vector),))
    _, bent = jvp(grad(lambda z: functional.cross_entropy(z, y)), (z,), (moved,))
    return flatten(vjp(outputs, weights)[1](bent)[0])


def functional_hessian(model: nn.Module, x: Tensor, y: Tensor, vector: Tensor) -> Tensor:
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(w: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(functional_call(model, w, (x,)), y)

    return flatten(jvp(grad(loss), (weights,), (unflatten(model, vector),))[1])


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.zero_grad()
    functional.cross_entropy(model(x), y).backward()


def least_seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least time of each, one run of each in turn."""
    least = dict.fromkeys(runs, math.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def compare_products(name: str, model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> None:
    for curvature, naive in (("ggn", functional_ggn), ("hessian", functional_hessian)):
        operator = curvature_operator(model, functional.cross_entropy, x, y, curvature=curvature)
        vector = torch.randn(operator.dim, dtype=torch.float64)
        torch.testing.assert_close(operator(vector), naive(model, x, y, vector), atol=1e-4, rtol=1e-3)

        def spectrum(product: Callable[[], Callable[[Tensor], Tensor]], dim: int = operator.dim) -> object:
            return lanczos_spectrum(product(), dim, LANCZOS_STEPS)

        seconds = least_seconds(
            {
                "gradient": partial(gradient, model, x, y),
                "product": partial(operator, vector),
                "naive product": partial(naive, model, x, y, vector),
                "spectrum": partial(
                    spectrum,
                    partial(curvature_operator, model, functional.cross_entropy, x, y, curvature=curvature),
                ),
                "naive spectrum": partial(spectrum, partial(partial, naive, model, x, y)),
            },
            repeats,
        )
        print(
            f"{name:24} {curvature:7}  gradient {1e3 * seconds['gradient']:7.2f} ms"
            f"   product {seconds['product'] / seconds['gradient']:5.2f} gradients"
            f"   torch.func / ours: product {seconds['naive product'] / seconds['product']:5.2f},"
            f" spectrum of {LANCZOS_STEPS} steps {seconds['naive spectrum'] / seconds['spectrum']:5.2f}"
        )


def train(
    network: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    steps: int,
    learning_rate: float,
    momentum: float = 0.0,
    every: int = 0,
) -> None:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
    learner = SpectralRateLearner(optimizer, n_lanczos=LANCZOS_STEPS)
    for step in range(steps):
        if every and step % every == 0:
            learner.step(model, functional.cross_entropy, x, y)
        gradient(model, x, y)
        optimizer.step()


def compare_learner(
    name: str, network: Callable[[], nn.Module], x: Tensor, y: Tensor, steps: int, repeats: int
) -> None:
    def search() -> None:
        for momentum in MOMENTA:
            for learning_rate in LEARNING_RATES:
                train(network, x, y, steps, learning_rate, momentum)

    runs = {
        "search": search,
        "every 5": partial(train, network, x, y, steps, 0.01, every=5),
        "every 20": partial(train, network, x, y, steps, 0.01, every=20),
        "one run": partial(train, network, x, y, steps, 0.01, 0.9),
    }
    seconds = least_seconds(runs, repeats)
    for every in ("every 5", "every 20"):
        print(
            f"{name:24} learner {every:8}  {seconds[every]:7.2f} s, search {seconds['search']:7.2f} s"
            f"   search / learner {seconds['search'] / seconds[every]:5.2f}"
            f"   learner / one run {seconds[every] / seconds['one run']:5.2f}"
        )


def mlp(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 15 * 15, 10),
    )


def main() -> None:
    torch.manual_seed(0)
    y = torch.randint(10, (64,))
    small, digits = partial(mlp, 64, 64), torch.randn(64, 64)
    images = torch.randn(64, 3, 32, 32)
    compare_products("MLP 64-64-10, B = 64", small(), digits, y, 50)
    compare_products("MLP 784-1024-10, B = 64", mlp(784, 1024), torch.randn(64, 784), y, 20)
    compare_products("convolutional, B = 64", convolutional(), images, y, 6)
    compare_learner("MLP 64-64-10, B = 64", small, digits, y, 120, 3)
    compare_learner("convolutional, B = 64", convolutional, images, y, 40, 2)


if __name__ == "__main__":
    main()
