"""Extensive width beside what a user would run instead: seconds of both, least of paired repeats.

Run it with one thread, that is with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 in the environment.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from sklearn.exceptions import ConvergenceWarning

from assay.networks.extensive_width import (
    AveragedGradientDescentRegressor,
    GampRieRegressor,
    bayes_optimal_error,
    sample_quadratic_network,
    wishart_denoiser,
    wishart_denoising_error,
)


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int = 3) -> None:
    """Print the least seconds of both and their ratio."""
    ours()  # compiles
    seconds = np.full(2, np.inf)
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    print(f"{name:72} {seconds[0]:9.2e} s {seconds[1]:9.2e} s {seconds[1] / seconds[0]:8.1f} x", flush=True)


def stieltjes_by_roots(x: float, t: float, k: float) -> complex:
    z = x + 1e-8j
    roots = np.roots([t, -(z + t * k), k * z - k + 1, -k])
    return complex(roots[np.argmin(roots.imag)])


def error_by_adaptive_quadrature(t: float, k: float) -> float:
    """The density by `numpy.roots` a point, integrated by `scipy.integrate.quad` between the real edges."""
    z = np.polynomial.Polynomial([0, 1])
    a, b, c, d = t, -(z + t * k), k * z - k + 1, -k
    discriminant = 18 * a * b * c * d - 4 * b**3 * d + b**2 * c**2 - 4 * a * c**3 - 27 * a**2 * d**2
    roots = discriminant.roots()
    edges = np.sort(roots[np.abs(roots.imag) < 1e-6].real)
    total = 0.0
    for low, high in edges.reshape(-1, 2):
        total += quad(lambda x: (-stieltjes_by_roots(x, t, k).imag / np.pi) ** 3, low, high)[0]
    return float(t - 4 * np.pi**2 / 3 * t**2 * total)


def denoise_by_roots(R: np.ndarray, t: float, k: float) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(R)
    shrunk = [x - 2 * t * stieltjes_by_roots(x, t, k).real for x in eigenvalues]
    return vectors @ np.diag(shrunk) @ vectors.T


def bayes_error_by_quadrature(alpha: float, k: float) -> float:
    def excess(log_t: float) -> float:
        t = float(np.exp(log_t))
        return 2 * error_by_adaptive_quadrature(t, k) / t - 4 * alpha

    t = float(np.exp(brentq(excess, np.log(1e-3), np.log(0.5 / (k * alpha)))))
    return k * error_by_adaptive_quadrature(t, k)


def gamp_over_the_tensor(X: np.ndarray, y: np.ndarray, k: float, iterations: int) -> np.ndarray:
    """Message passing as it is written down: the (n, d, d) tensor of all Z_i, roots and quadrature."""
    n, d = X.shape
    Z = (np.einsum("ij,ik->ijk", X, X) - np.eye(d)) / np.sqrt(d)
    target = np.sqrt(d) * (y - y.mean())
    S, omega, C, V = np.eye(d), np.zeros(n), 2 / k, 2 / k
    for _ in range(iterations):
        new_omega = np.einsum("nij,ij->n", Z, S) - (target - omega) / V * C
        V, omega = 0.6 * C + 0.4 * V, 0.6 * new_omega + 0.4 * omega
        g = (target - omega) / V
        A = 2 * n / d**2 * np.mean(g**2)
        R = S + np.sum(g[:, None, None] * Z, axis=0) / (A * d)
        S = denoise_by_roots(R, 1 / (2 * A), k)
        C = 2 * error_by_adaptive_quadrature(1 / (2 * A), k)
    return S


def descent_in_torch(X: np.ndarray, y: np.ndarray, m: int, starts: int, steps: int) -> np.ndarray:
    """One start after the other, by automatic differentiation and `torch.optim.SGD`."""
    inputs, targets = torch.tensor(X), torch.tensor(y)
    n, d = X.shape
    total = np.zeros((d, d))
    for _ in range(starts):
        W = torch.randn(m, d, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([W], lr=0.4 * d / n)
        for _ in range(steps):
            outputs = ((inputs @ W.T / d**0.5) ** 2).sum(dim=1) / m**0.5
            loss = ((outputs - m**0.5 * targets) ** 2).sum() / 4
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights = W.detach().numpy()
        total += weights.T @ weights / m / starts
    return total


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)

    np.testing.assert_allclose(
        wishart_denoising_error(0.6, 0.5), error_by_adaptive_quadrature(0.6, 0.5), 1e-4
    )
    compare(
        "error of the denoiser: against quad over numpy.roots",
        lambda: wishart_denoising_error(0.6, 0.5),
        lambda: error_by_adaptive_quadrature(0.6, 0.5),
        repeats=10,
    )
    np.testing.assert_allclose(bayes_optimal_error(0.2, 0.5).mmse, bayes_error_by_quadrature(0.2, 0.5), 1e-4)
    compare(
        "least error, n = 0.2 d²: against a root finder over the same",
        lambda: bayes_optimal_error(0.2, 0.5),
        lambda: bayes_error_by_quadrature(0.2, 0.5),
    )

    rng = np.random.default_rng(0)
    for d in (100, 400):
        W, G = rng.standard_normal((d // 2, d)), rng.standard_normal((d, d))
        R = 2 * W.T @ W / d + np.sqrt(0.3 / d) * (G + G.T)
        compare(
            f"denoiser, d={d}: against numpy.roots an eigenvalue",
            lambda R=R: wishart_denoiser(R, noise_variance=0.6, width_ratio=0.5),
            lambda R=R: denoise_by_roots(R, 0.6, 0.5),
        )

    for d, iterations in ((50, 20), (100, 5)):
        data = sample_quadratic_network(d * d // 5, d, d // 2, seed=0)
        model = GampRieRegressor(width_ratio=0.5, max_iter=iterations, tol=0.0)
        compare(
            f"GAMP-RIE, d={d}, n={d * d // 5}, {iterations} steps: against the tensor of all products",
            lambda model=model, data=data: model.fit(data.inputs, data.targets),
            lambda data=data, steps=iterations: gamp_over_the_tensor(data.inputs, data.targets, 0.5, steps),
        )
    # What an iteration must cost at least: two products with the inputs and one eigendecomposition.
    X, S = data.inputs, data.second_moment
    compare(
        "the same at d=100: against its two products and eigendecomposition alone",
        lambda: model.fit(data.inputs, data.targets),
        lambda: [(X @ S, X.T @ X, np.linalg.eigh(S)) for _ in range(5)],
        repeats=10,
    )

    for d, n in ((40, 160), (60, 720)):
        data = sample_quadratic_network(n, d, d // 2, seed=0)
        descent = AveragedGradientDescentRegressor(n_hidden=d // 2, max_iter=100, random_state=0)
        compare(
            f"averaged descent, d={d}, n={n}, 16 starts, 100 steps: against torch.optim.SGD",
            lambda model=descent, data=data: model.fit(data.inputs, data.targets),
            lambda data=data, m=d // 2: descent_in_torch(data.inputs, data.targets, m, 16, 100),
        )


if __name__ == "__main__":
    main()
