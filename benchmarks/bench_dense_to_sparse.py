"""Fits with a learned temperature beside what a user would run instead, and the router beside plain layers.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from assay.gating import (
    DenseToSparseGate,
    DenseToSparseRouter,
    GaussianMoEParameters,
    fit_gaussian_moe,
    log_density,
    sample,
)
from assay.gating.gaussian_moe import _Likelihood, _vector

Array = NDArray[np.float64]

TRUTH = GaussianMoEParameters(
    gate_weights=np.array([[1.1], [-0.5], [-0.8]]),
    gate_biases=np.array([-0.3, 0.0, 0.0]),
    expert_weights=np.array([[1.5], [-1.0], [0.5]]),
    expert_biases=np.array([2.0, -2.0, 0.0]),
    variances=np.full(3, 0.1),
    temperature=0.5,
)


def plain_likelihood(vector: Array, X: Array, y: Array) -> float:
    """Minus the mean log-likelihood under tanh, in NumPy, of (beta_1, beta_0, a, b, log nu, log tau)."""
    k = 3
    weights, biases, slopes, intercepts, log_variances = vector[:-1].reshape(5, k)
    log_gates = log_softmax((np.tanh(X * weights) + biases) / np.exp(vector[-1]), axis=1)
    squares = (y[:, None] - X * slopes - intercepts) ** 2
    normals = -0.5 * (squares / np.exp(log_variances) + log_variances + np.log(2 * np.pi))
    return -float(np.mean(logsumexp(log_gates + normals, axis=1)))


def compare(
    name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int
) -> tuple[object, object]:
    """Prints the comparison; returns what both found."""
    runs, least, found = (ours, other), [math.inf, math.inf], [object(), object()]
    for _ in range(repeats):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            found[i] = run()
            least[i] = min(least[i], time.perf_counter() - start)
    print(f"{name:<66} {least[0]:9.5f} s {least[1]:9.5f} s   other / ours {least[1] / least[0]:7.1f}")
    return found[0], found[1]


def main() -> None:
    rng = np.random.default_rng(0)
    gate = DenseToSparseGate("tanh")
    print("tanh gate, 3 experts, one feature; seconds of ours, seconds of the other, their ratio")
    start = GaussianMoEParameters(
        gate_weights=TRUTH.gate_weights + 0.05 * rng.standard_normal((3, 1)),
        gate_biases=TRUTH.gate_biases,
        expert_weights=TRUTH.expert_weights + 0.05 * rng.standard_normal((3, 1)),
        expert_biases=TRUTH.expert_biases + 0.05 * rng.standard_normal(3),
        variances=np.full(3, 0.12),
        temperature=0.6,
    )
    for n in (2000, 16_000):
        X = rng.uniform(-4, 4, (n, 1))
        y, _ = sample(X, TRUTH, gate, seed=rng)
        likelihood, vector = _Likelihood(X, y, gate, 3), _vector(start)
        value = plain_likelihood(vector, X, y)
        np.testing.assert_allclose(-log_density(X, y, start, gate).mean(), value, rtol=1e-12)
        compare(
            f"likelihood and gradient, n = {n}, beside finite differences",
            lambda likelihood=likelihood, vector=vector: likelihood(vector),
            lambda vector=vector, X=X, y=y: [
                plain_likelihood(vector + 1e-8 * unit, X, y) for unit in (0 * vector, *np.eye(len(vector)))
            ],
            repeats=10,
        )
        ours, other = compare(
            f"fit, n = {n}, beside scipy.optimize.minimize without gradient",
            lambda X=X, y=y: fit_gaussian_moe(X, y, start, gate).log_likelihood,
            lambda vector=vector, X=X, y=y: (
                -minimize(
                    plain_likelihood,
                    vector,
                    args=(X, y),
                    method="L-BFGS-B",
                    options={"maxiter": 1000, "maxfun": 10**6},
                ).fun
            ),
            repeats=2,
        )
        print(f"    mean log-likelihood reached: ours {ours:.6f}, other {other:.6f}")

    router = DenseToSparseRouter(512, 64, "tanh", temperature=0.5)
    linear, inputs = torch.nn.Linear(512, 64), torch.randn(4096, 512)

    def train(layer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        layer(inputs)[:, 0].sum().backward()

    compare(
        "router, 4096 inputs of 512, 64 experts, beside plain torch layers",
        lambda: train(router),
        lambda: train(lambda x: torch.softmax(torch.tanh(linear(x)) / 0.5, dim=-1)),
        repeats=10,
    )


if __name__ == "__main__":
    main()
