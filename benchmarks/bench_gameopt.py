"""GameOpt beside what a user would run instead: seconds of both, least of paired repeats, same model.

Run it with one thread: ``OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/bench_gameopt.py``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from botorch.acquisition import UpperConfidenceBound
from botorch.models import SingleTaskGP
from botorch.models.kernels import CategoricalKernel
from botorch.optim import optimize_acqf_discrete_local_search
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist

from assay.optimize.gameopt import (
    CategoricalGP,
    EpistaticLandscape,
    GameOpt,
    best_response_equilibrium,
    hedge_equilibria,
)

N_GAMES, BETA = 10, 2.0


def compare(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int = 3
) -> tuple[object, object]:
    """Print the least seconds of both and how many times faster ours is; return what both returned last."""
    ours()  # compiles
    seconds = np.full(2, np.inf)
    results: list[object] = [None, None]
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            results[i] = run()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    print(f"{name:78} {seconds[0]:9.2e} s {seconds[1]:9.2e} s {seconds[1] / seconds[0]:7.1f} x", flush=True)
    return results[0], results[1]


class PlainGP:
    """The surrogate as one writes it down: features of every row, a distance matrix, a triangular solve."""

    def __init__(
        self, embeddings: np.ndarray, lengthscales: np.ndarray, noise_variance: float = 1e-3
    ) -> None:
        self.embeddings, self.lengthscales, self.noise = embeddings, lengthscales, noise_variance

    def features(self, points: np.ndarray) -> np.ndarray:
        return (self.embeddings[points] / self.lengthscales[:, None]).reshape(len(points), -1)

    def fit(self, points: np.ndarray, values: np.ndarray) -> PlainGP:
        self.mean, self.sd = values.mean(), values.std()
        self.data = self.features(points)
        K = np.exp(-0.5 * cdist(self.data, self.data, "sqeuclidean"))
        self.factor = cho_factor(K + self.noise * np.eye(len(K)), lower=True)
        self.weights = cho_solve(self.factor, (values - self.mean) / self.sd)
        return self

    def ucb(self, points: np.ndarray) -> np.ndarray:
        k = np.exp(-0.5 * cdist(self.features(points), self.data, "sqeuclidean"))
        explained = np.square(solve_triangular(self.factor[0], k.T, lower=True)).sum(axis=0)
        return self.mean + self.sd * (k @ self.weights + BETA * np.sqrt(np.maximum(1 - explained, 0)))


def games(n: int, n_data: int, rng: np.random.Generator) -> None:
    """All games of a proposal, to convergence: ours, and the same games paid by the plain surrogate."""
    landscape = EpistaticLandscape(n, seed=rng)
    points = rng.integers(20, size=(n_data, n))
    values = landscape(points)
    lengthscales = CategoricalGP([20] * n, embeddings=landscape.embeddings).fit(points, values).lengthscales_
    choices = {"embeddings": landscape.embeddings, "lengthscales": lengthscales, "n_games": N_GAMES}
    plain = PlainGP(landscape.embeddings, lengthscales).fit(points, values)

    def equilibria(order: str) -> np.ndarray:
        optimiser = GameOpt([20] * n, order=order, random_state=0, **choices).tell(points, values)
        optimiser.ask()
        return np.array([e.point for e in optimiser.equilibria_])

    def plain_equilibria(order: str) -> np.ndarray:
        starts = np.random.default_rng(0).integers([20] * n, size=(N_GAMES, n))
        found = [best_response_equilibrium(plain.ucb, start, 20, order=order) for start in starts]
        return np.array([e.point for e in found])

    for order in ("best", "cyclic"):
        ours, theirs = compare(
            f"{N_GAMES} games, {n} variables of 20, {n_data} data, order {order} / features and solves anew",
            lambda order=order: equilibria(order),
            lambda order=order: plain_equilibria(order),
        )
        assert np.array_equal(ours, theirs)

    hedge = GameOpt([20] * n, strategy="hedge", n_hedge_rounds=20, **choices).tell(points, values)
    compare(
        f"{N_GAMES} games of 20 rounds of Hedge, {n} variables, {n_data} data / features and solves anew",
        hedge.ask,
        lambda: [
            hedge_equilibria(
                lambda rows: (plain.ucb(rows) - plain.mean) / plain.sd, start, 20, n_rounds=20, seed=0
            )
            for start in rng.integers(20, size=(N_GAMES, n))
        ],
        repeats=2,
    )


def botorch_local_search(n: int, n_data: int, rng: np.random.Generator, *, repeats: int) -> None:
    """Both climb the same UCB, of one-hot letters, from ten random starts to local maxima."""
    landscape = EpistaticLandscape(n, seed=rng)
    points = rng.integers(20, size=(n_data, n))
    values = landscape(points)
    lengthscale, noise = np.sqrt(2.0 * n), 1e-3
    X = torch.tensor(points, dtype=torch.float64)
    z = torch.tensor((values - values.mean()) / values.std())[:, None]
    kernel = CategoricalKernel(ard_num_dims=n)
    kernel.lengthscale = lengthscale**2 / n  # exp(-mean(differs / l)), ours is exp(-sum(differs) / l^2)
    likelihood = GaussianLikelihood()
    likelihood.noise = noise
    model = SingleTaskGP(X, z, likelihood=likelihood, covar_module=kernel, mean_module=ZeroMean())
    model.eval()
    acquisition = UpperConfidenceBound(model, beta=BETA**2)
    options = [torch.arange(20, dtype=torch.float64)] * n

    def theirs() -> float:
        with torch.no_grad():
            found, _ = optimize_acqf_discrete_local_search(
                acquisition, options, q=1, num_restarts=N_GAMES, raw_samples=N_GAMES
            )
        return float(check(found.numpy().astype(int))[0])

    optimiser = GameOpt([20] * n, lengthscales=lengthscale, noise_variance=noise, n_games=N_GAMES)
    optimiser.tell(points, values)
    check = optimiser.model_.upper_confidence_bound

    def ours() -> float:
        optimiser.ask()
        return max(e.value for e in optimiser.equilibria_)

    found = compare(
        f"a proposal, {n} variables of 20, {n_data} data / botorch's discrete local search, as many starts",
        ours,
        theirs,
        repeats=repeats,
    )
    print(f"    the largest UCB that they found: {found[0]:.3f} and {found[1]:.3f}")


def whole_search() -> None:
    """Twenty rounds of five points at thirty sites, fits included; nothing to compare it with."""
    landscape = EpistaticLandscape(30, seed=0)
    initial = np.random.default_rng(0).integers(20, size=(20, 30))
    start = time.perf_counter()
    optimiser = GameOpt([20] * 30, embeddings=landscape.embeddings, random_state=0)
    optimiser.tell(initial, landscape(initial))
    for _ in range(20):
        batch = optimiser.ask()
        optimiser.tell(batch, landscape(batch))
    print(f"{'a search of 20 rounds, 30 variables of 20':78} {time.perf_counter() - start:9.2e} s")


def main() -> None:
    """All comparisons: ours, theirs, how many times faster ours is."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    games(8, 120, rng)
    games(40, 200, rng)
    botorch_local_search(8, 120, rng, repeats=3)
    botorch_local_search(40, 200, rng, repeats=1)
    whole_search()


if __name__ == "__main__":
    main()
