"""The layerwise regressor beside what a user would run instead: kernel ridge, and descent by autograd.

Prints one line a comparison: name, seconds of LayerwiseRegressor, seconds of the other, ratio, and the test
errors of both as shares of the target's variance. Least of paired repeats on the same data, fit and
prediction together. Run it with one thread (OMP_NUM_THREADS=1).
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from assay.networks.hierarchical_polynomials import (
    LayerwiseRegressor,
    ThreeLayerNetwork,
    polynomial_kernel_regressor,
    random_hierarchical_polynomial,
)

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
STEPS = 2000


def exact(X: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    return LayerwiseRegressor(random_state=0).fit(X, y).predict(fresh)


def descent(X: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    model = LayerwiseRegressor(solver="gradient_descent", n_steps=(STEPS, STEPS), random_state=0)
    return model.fit(X, y).predict(fresh)


def sextic_kernel(X: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    return polynomial_kernel_regressor(X.shape[1], 6).fit(X, y).predict(fresh)


def quartic_monomials(X: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    return make_pipeline(PolynomialFeatures(4), Ridge()).fit(X, y).predict(fresh)


def autograd(X: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Both stages as torch's optimiser runs them, the hidden layer evaluated once."""
    d, n_first = X.shape[1], len(X) * 4 // 5
    network = ThreeLayerNetwork(d, d * d, 100)
    x, labels = torch.from_numpy(X), torch.from_numpy(y)

    def train(weights: torch.Tensor, features: torch.Tensor, target: torch.Tensor, decay: float) -> None:
        largest = torch.linalg.matrix_norm(features, 2) ** 2 / len(target)
        optimizer = torch.optim.SGD([weights], lr=float(1 / (largest + decay)), weight_decay=decay)
        for _ in range(STEPS):
            optimizer.zero_grad()
            ((features @ weights - target).square().mean() / 2).backward()
            optimizer.step()

    with torch.no_grad():
        inner = network.inner_layer(x[:n_first])
    train(network.u, inner, labels[:n_first], 1e-6)
    with torch.no_grad():
        feature = network.feature(x[n_first:])
        network.a /= feature.std()
        outer = network.outer_layer(feature)
    train(network.c, outer, labels[n_first:] - feature, 1e-4)
    with torch.no_grad():
        return network(torch.from_numpy(fresh)).numpy()


def compare(name: str, ours: Predict, other: Predict, d: int, n: int, repeats: int = 2) -> None:
    target = random_hierarchical_polynomial(d, kind="product", seed=0)
    rng = np.random.default_rng(1)
    X, fresh = rng.standard_normal((n, d)), rng.standard_normal((4000, d))
    y, expected = target(X), target(fresh)
    seconds, errors = np.full((2, repeats), np.inf), [0.0, 0.0]
    for repeat in range(repeats):
        for method, predict in enumerate((ours, other)):
            start = time.perf_counter()
            predictions = predict(X, y, fresh)
            seconds[method, repeat] = time.perf_counter() - start
            errors[method] = float(np.mean((predictions - expected) ** 2) / expected.var())
    mine, theirs = seconds.min(axis=1)
    print(
        f"{name + f', d={d}, n={n}':<56} {mine:7.3f} s {theirs:7.3f} s   x{theirs / mine:<6.1f}"
        f" errors {errors[0]:.3f} {errors[1]:.3f}",
        flush=True,
    )


def main() -> None:
    exact(*(np.random.default_rng(0).standard_normal(shape) for shape in ((100, 4), 100, (9, 4))))
    compare("KernelRidge of degree 6", exact, sextic_kernel, 20, 4000)
    compare("KernelRidge of degree 6", exact, sextic_kernel, 24, 5760)
    compare("ridge on all monomials to degree 4", exact, quartic_monomials, 12, 4000)
    compare("2000 + 2000 steps: autograd", descent, autograd, 20, 4000)


if __name__ == "__main__":
    main()
