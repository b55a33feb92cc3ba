"""Gaussian score approximation beside what a user would write: inverses, dense distances, an ODE solver.

Teleportation is held against sampling with all steps. Prints one line a comparison: name, seconds of ours,
seconds of the other, ratio. Least of paired repeats on the same inputs. Run it with one thread
(OMP_NUM_THREADS=1).
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from assay.diffusion.gaussian_score import (
    EmpiricalScore,
    GaussianScore,
    explained_variance,
    sample_teleported,
)
from assay.diffusion.sde import EDMSchedule, MLPDenoiser, solve_ode

SCHEDULE = EDMSchedule()


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int = 3) -> None:
    seconds = np.empty((repeats, 2))
    for repeat in range(repeats):
        for m, method in enumerate((ours, other)):
            start = time.perf_counter()
            method()
            seconds[repeat, m] = time.perf_counter() - start
    mine, theirs = seconds.min(axis=0)
    print(f"{name:<58} {mine:9.4f} s {theirs:9.4f} s   x{theirs / mine:.1f}", flush=True)


def alone(name: str, ours: Callable[[], object]) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        ours()
        seconds.append(time.perf_counter() - start)
    print(f"{name:<58} {min(seconds):9.4f} s", flush=True)


def covariance_of(d: int) -> Tensor:
    """With variances that fall as those of images do."""
    basis = torch.linalg.qr(torch.randn(d, d))[0]
    covariance = basis * (10 * torch.arange(1, d + 1).float() ** -1.5) @ basis.mT
    return (covariance + covariance.mT) / 2


def scores(d: int, points: int) -> None:
    covariance, mean = covariance_of(d), torch.randn(d)
    model = GaussianScore(mean, covariance, SCHEDULE).float()
    x, levels, eye = 5 * torch.randn(points, d), SCHEDULE.timesteps(18)[:-1].tolist(), torch.eye(d)

    def inverses() -> list[Tensor]:
        return [(mean - x) @ torch.linalg.inv(covariance + sigma**2 * eye) for sigma in levels]

    def ours() -> list[Tensor]:
        return [model.score(x, sigma) for sigma in levels]

    # In the middle of the grid; at its low end float32 inverses are off.
    assert explained_variance(inverses()[9], ours()[9]).min() > 0.999
    compare(f"score, d={d}, {points} points, 18 levels: inverses", ours, inverses)


def solutions() -> None:
    d = 784
    covariance, mean = covariance_of(d), torch.randn(d)
    model = GaussianScore(mean, covariance, SCHEDULE).float()
    x = 80 * torch.randn(1, d)

    def integrated() -> np.ndarray:
        values, basis, centre = (part.numpy() for part in (model.eigenvalues, model.eigenvectors, mean))

        def velocity(sigma: float, state: np.ndarray) -> np.ndarray:
            return sigma * ((state - centre) @ basis / (values + sigma**2)) @ basis.T

        start = x[0].double().numpy()
        return solve_ivp(velocity, (80.0, 0.002), start, method="RK45", rtol=1e-5, atol=1e-6).y[:, -1]

    compare(f"solution, d={d}, one point: SciPy's RK45", lambda: model.solution(x, 80.0, 0.002), integrated)
    levels, x = SCHEDULE.timesteps(18), 80 * torch.randn(100, d)
    compare(
        f"trajectory, d={d}, 100 points, 19 levels: one by one",
        lambda: model.trajectory(x, levels),
        lambda: [model.solution(x, 80.0, level) for level in levels.tolist()],
    )


def large_solutions() -> None:
    """The statistics of 32 x 32 colour images."""
    d, points = 3072, 1000
    covariance = torch.diag(10 * torch.arange(1, d + 1).float() ** -1.5)
    x = 80 * torch.randn(points, d)
    for rank in (d, 256):
        model = GaussianScore(torch.zeros(d), covariance, SCHEDULE, rank=rank).float()
        alone(
            f"solution, d={d}, {points} points, rank {rank}", lambda model=model: model.solution(x, 80.0, 8.4)
        )


def training_set() -> None:
    data, x, sigma = torch.rand(5000, 784), torch.rand(500, 784), 1.0

    def dense() -> Tensor:
        weights = torch.cat(
            [
                torch.softmax(-(part[:, None] - data).square().sum(2) / (2 * sigma**2), dim=1)
                for part in x.split(10)
            ]
        )
        return weights @ data

    model = EmpiricalScore(data, SCHEDULE)
    torch.testing.assert_close(model(x, sigma), dense(), rtol=1e-3, atol=1e-3)
    compare("training set's denoiser, N=5000, d=784: differences", lambda: model(x, sigma), dense)

    def by_cdist() -> Tensor:
        return torch.softmax(-torch.cdist(x, data).square() / (2 * sigma**2), dim=1) @ data

    compare("training set's denoiser, N=5000, d=784: torch.cdist", lambda: model(x, sigma), by_cdist)


def teleportation() -> None:
    network = MLPDenoiser(64, SCHEDULE, width=256)
    gaussian = GaussianScore(torch.zeros(64), covariance_of(64), SCHEDULE).float()
    levels, x = SCHEDULE.timesteps(18), 80 * torch.randn(1000, 64)
    for skip in (3, 5):
        compare(
            f"Heun, 18 steps, {skip} skipped: all steps",
            lambda skip=skip: sample_teleported(network, gaussian, x, levels, skip=skip),
            lambda: solve_ode(network, x, levels),
        )


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        scores(784, 1)
        scores(784, 256)
        scores(2000, 1)
        solutions()
        training_set()
        teleportation()
        large_solutions()


if __name__ == "__main__":
    main()
