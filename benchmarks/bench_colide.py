"""CoLiDE beside what a user would run instead: NumPy and SciPy written out plainly, and the `dagma` package.

Prints one line a comparison: name, seconds of CoLiDE, seconds of the other, ratio. Least of paired repeats,
the same number of steps on the same data. Run it with one BLAS thread (OPENBLAS_NUM_THREADS=1).
"""

import contextlib
import importlib.util
import io
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from assay.inference.colide import CoLiDE, dagma, simulate_linear_sem

STAGES, STEPS, RATE, SPARSITY = 4, 500, 3e-4, 0.05


def plain_colide(X: np.ndarray) -> np.ndarray:
    """CoLiDE-NV as its formulas read: a few array expressions and `scipy.linalg.inv` in every step."""
    X = X - X.mean(axis=0)
    covariance, eye = X.T @ X / len(X), np.eye(X.shape[1])
    W, scale, mu = np.zeros_like(covariance), np.sqrt(np.diag(covariance)), 1.0
    for s in (1.0, 0.9, 0.8, 0.7):
        m, v = np.zeros_like(W), np.zeros_like(W)
        for step in range(1, STEPS + 1):
            M = scipy.linalg.inv(s * eye - W * W)
            if (M < -1e-6).any():
                raise ArithmeticError("the iterate left the domain")
            gradient = mu * SPARSITY * np.sign(W) + 2 * W * M.T
            gradient -= mu * covariance @ (eye - W) @ np.diag(1 / scale)
            m = 0.99 * m + 0.01 * gradient
            v = 0.999 * v + 0.001 * gradient**2
            W = W - RATE * (m / (1 - 0.99**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            D = eye - W
            scale = np.sqrt(np.diag(D.T @ covariance @ D))
        mu *= 0.1
    return W


def assay_colide(X: np.ndarray) -> np.ndarray:
    model = CoLiDE(learning_rate=RATE, warm_iter=STEPS, max_iter=STEPS, tolerance=0.0)
    return model.fit(X).weights_


def assay_dagma(X: np.ndarray) -> np.ndarray:
    return dagma(X, learning_rate=RATE, warm_iter=STEPS, max_iter=STEPS, tolerance=0.0)


def package_dagma(X: np.ndarray) -> np.ndarray:
    from dagma.linear import DagmaLinear

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        model = DagmaLinear(loss_type="l2")
        model.fit(
            X.copy(),
            lambda1=SPARSITY,
            w_threshold=0.0,
            T=STAGES,
            s=[1.0, 0.9, 0.8, 0.7],
            warm_iter=STEPS,
            max_iter=STEPS,
            lr=RATE,
            checkpoint=10 * STEPS,
        )
    return model.W_est


def compare(
    name: str,
    ours: Callable[[np.ndarray], np.ndarray],
    other: Callable[[np.ndarray], np.ndarray],
    X: np.ndarray,
) -> None:
    ours(X)  # compiles
    seconds = np.full((2, 5), np.inf)
    for repeat in range(5):
        for method, fit in enumerate((ours, other)):
            start = time.perf_counter()
            fit(X)
            seconds[method, repeat] = time.perf_counter() - start
    mine, theirs = seconds.min(axis=1)
    print(f"{name:<38} {mine:8.3f} s {theirs:8.3f} s   x{theirs / mine:.1f}", flush=True)


def main() -> None:
    for d in (10, 30, 50, 100):
        X = simulate_linear_sem(d, 1000, mean_degree=min(8.0, d / 2), noise_variances=(0.5, 10.0), seed=0).X
        compare(f"CoLiDE-NV, d={d}: plain NumPy", assay_colide, plain_colide, X)
        if importlib.util.find_spec("dagma"):
            compare(f"DAGMA, d={d}: the dagma package", assay_dagma, package_dagma, X)
    compare("CoLiDE-NV beside DAGMA, d=100", assay_colide, assay_dagma, X)


if __name__ == "__main__":
    main()
