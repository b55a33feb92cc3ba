"""Stochastic neurons beside what a user would run instead: masked experts, relaxed gates, a dense network.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio.
"""

import math
import time
import warnings
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.distributions import Bernoulli, RelaxedBernoulli

from assay.gating import (
    ConditionalClassifier,
    ConditionalLayer,
    noisy_rectifier,
    stochastic_times_smooth,
    straight_through,
)


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int) -> None:
    """One line: the least time of each, one run of the one after one run of the other."""
    least = [math.inf, math.inf]
    ours(), other()  # compile, and fill caches
    for _ in range(repeats):
        for i, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            least[i] = min(least[i], time.perf_counter() - start)
    print(f"{name:<58} {least[0]:9.5f} s {least[1]:9.5f} s   other / ours {least[1] / least[0]:5.2f}")


@torch.no_grad()
def gathered(layer: ConditionalLayer, x: Tensor) -> Tensor:
    """The active experts in plain PyTorch: their weights are gathered for one example after the other."""
    gates, weight, bias = layer.gates(x), layer.expert.weight, layer.expert.bias
    output = torch.zeros_like(gates)
    for example, gate in enumerate(gates):
        units = gate.nonzero()[:, 0]
        output[example, units] = gate[units] * torch.addmv(bias[units], weight[units], x[example])
    return output


@torch.no_grad()
def sampled(layer: ConditionalLayer, x: Tensor) -> Tensor:
    """The active experts by PyTorch's sampled matrix product."""
    gates = layer.gates(x)
    active = (gates != 0).to(x.dtype).to_sparse_csr()
    products = torch.sparse.sampled_addmm(active, x, layer.expert.weight.T, beta=0)
    return gates * (products.to_dense() + layer.expert.bias)


def compare_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = ConditionalLayer(4096, 4096, 200, generator=generator).eval()
    layer.calibrate(torch.randn(200, 4096, generator=generator))
    for n, repeats in ((1, 30), (32, 8), (256, 3)):
        x = torch.randn(n, 4096, generator=generator)

        def masked(x: Tensor = x) -> Tensor:
            with torch.no_grad():
                return layer(x)

        for name, other in (("masked", masked), ("gathered", gathered), ("sampled product", sampled)):
            run = masked if other is masked else lambda x=x, other=other: other(layer, x)
            torch.testing.assert_close(layer.sparse_forward(x), run(), atol=1e-4, rtol=1e-4)
            compare(
                f"sparse_forward beside {name}, {n} examples",
                lambda x=x: layer.sparse_forward(x),
                run,
                repeats,
            )


def compare_units() -> None:
    logits = torch.randn(1_000_000, requires_grad=True)

    def trained(unit: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            logits.grad = None
            unit(logits).sum().backward()

        return run

    def relaxed(logits: Tensor) -> Tensor:
        return RelaxedBernoulli(torch.tensor(0.5), logits=logits).rsample()

    def distribution(logits: Tensor) -> Tensor:
        bernoulli = Bernoulli(logits=logits)
        return bernoulli.sample() + bernoulli.probs - bernoulli.probs.detach()

    for unit in (straight_through, stochastic_times_smooth, noisy_rectifier):
        for name, other in (("RelaxedBernoulli", relaxed), ("Bernoulli, detached", distribution)):
            compare(f"{unit.__name__} beside {name}, 1e6 units", trained(unit), trained(other), repeats=8)


def compare_classifiers() -> None:
    X, y = load_digits(return_X_y=True)
    X = X / 16
    warnings.simplefilter("ignore", ConvergenceWarning)
    dense = MLPClassifier(
        200, solver="sgd", learning_rate_init=0.1, momentum=0, batch_size=32, max_iter=10, early_stopping=True
    )
    for estimator in ("straight_through", "sts", "reinforce", "noisy_rectifier"):
        sparse = ConditionalClassifier(estimator=estimator, max_epochs=10, random_state=0)
        compare(
            f"{estimator} beside MLPClassifier, 10 epochs of digits",
            lambda sparse=sparse: sparse.fit(X, y),
            lambda: dense.fit(X, y),
            repeats=2,
        )


def main() -> None:
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    print("4096 inputs and experts, 10 % on; seconds of ours, seconds of the other, their ratio")
    compare_layers()
    compare_units()
    compare_classifiers()


if __name__ == "__main__":
    main()
