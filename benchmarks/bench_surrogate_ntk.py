"""The surrogate gradient NTK beside what a user would run instead: loops over pairs, Jacobians, autograd.

Prints one line a comparison: name, seconds of ours, seconds of the other, ratio. Least of paired repeats on
the same points and networks; both results are compared first. Run it with one thread (OMP_NUM_THREADS=1).
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.func import functional_call, jacrev

from assay.networks.surrogate_ntk import (
    SurrogateGradientNetwork,
    empirical_surrogate_ntk,
    surrogate_gradient_ntk,
    train_surrogate_ensemble,
)

STEPS = 50


def circle(n: int) -> np.ndarray:
    angles = np.random.default_rng(0).uniform(-math.pi, math.pi, n)
    return np.column_stack((np.sin(angles), np.cos(angles)))


def loop_over_pairs(X: np.ndarray, n_hidden: int = 2) -> np.ndarray:
    """The SG-NTK of sign with the erf surrogate as its formulas read, a pair at a time."""
    n = len(X)
    sigma = np.array([np.dot(x, y) / X.shape[1] + 0.01 for x in X for y in X]).reshape(n, n)
    theta = sigma
    for _ in range(n_hidden):
        factor, following = np.empty((n, n)), np.empty((n, n))
        for i in range(n):
            for j in range(n):
                k, k2, z = sigma[i, i], sigma[j, j], sigma[i, j]
                factor[i, j] = 2 / np.pi * (k * (0.5 + k2) - z**2) ** -0.5
                following[i, j] = 2 / np.pi * np.arcsin(np.clip(z / np.sqrt(k * k2), -1, 1)) + 0.01
        theta, sigma = theta * factor + following, following
    return theta


def jacobian_product(network: SurrogateGradientNetwork, X: torch.Tensor) -> np.ndarray:
    """The empirical kernel from both Jacobians with respect to all parameters."""
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    jacobians = []
    surrogate_scale = network.surrogate_scale
    for scale in (network.activation_scale, surrogate_scale):
        network.surrogate_scale = scale
        blocks = jacrev(lambda values: functional_call(network, values, (X,)))(parameters)
        jacobians.append(torch.cat([block.flatten(1) for block in blocks.values()], dim=1))
    return (jacobians[0] @ jacobians[1].T).numpy()


def autograd_members(X: np.ndarray, y: np.ndarray, width: int, n_members: int) -> np.ndarray:
    """A loop over networks, each trained by autograd and torch's SGD, in float32."""
    generator = torch.Generator().manual_seed(0)
    points, target = torch.from_numpy(X).float(), torch.from_numpy(y).float()
    outputs = []
    for _ in range(n_members):
        network = SurrogateGradientNetwork(2, width, dtype=torch.float32, generator=generator)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimiser.zero_grad()
            (0.5 * (network(points) - target).square().mean()).backward()
            optimiser.step()
        outputs.append(network(points).detach().numpy())
    return np.array(outputs)


def compare(
    name: str,
    ours: Callable[[], np.ndarray],
    other: Callable[[], np.ndarray],
    *,
    repeats: int = 5,
    tolerance: float = 1e-8,
) -> None:
    np.testing.assert_allclose(ours(), other(), atol=tolerance)
    seconds = np.full((2, repeats), np.inf)
    for repeat in range(repeats):
        for method, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            seconds[method, repeat] = time.perf_counter() - start
    mine, theirs = seconds.min(axis=1)
    print(f"{name:<52} {mine:9.4f} s {theirs:9.4f} s   x{theirs / mine:.1f}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    for n in (100, 300):
        X = circle(n)
        compare(
            f"SG-NTK of {n} points: loop over pairs",
            lambda X=X: surrogate_gradient_ntk(X),
            lambda X=X: loop_over_pairs(X),
        )
    points = torch.from_numpy(circle(60))
    for width in (100, 400):
        network = SurrogateGradientNetwork(2, width, activation_scale=2.0)
        compare(
            f"empirical SG-NTK, width {width}: Jacobians",
            lambda network=network: empirical_surrogate_ntk(network, points),
            lambda network=network: jacobian_product(network, points),
        )
    X = circle(15)
    y = np.sin(3 * X[:, 0])
    for width, members in ((20, 40), (100, 40), (200, 40)):
        compare(
            f"{members} sign networks of width {width}, {STEPS} steps: autograd",
            lambda width=width, members=members: (
                train_surrogate_ensemble(
                    X, y, X, width=width, n_members=members, n_steps=STEPS, seed=0
                ).predictions
            ),
            lambda width=width, members=members: autograd_members(X, y, width, members),
            repeats=3,
            # A unit within rounding of 0 may flip in one of the two.
            tolerance=0.2,
        )
    start = time.perf_counter()
    train_surrogate_ensemble(X[:10], y[:10], X, width=200, n_members=40, learning_rate=0.5, n_steps=1500)
    print(f"40 sign networks of width 200, 10 points, 1500 steps: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
