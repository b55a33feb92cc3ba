"""Multiplicative diffusion beside what a user would run instead, paired in one run.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from assay.diffusion import (
    EDMSchedule,
    GeometricBrownianSchedule,
    HyvarinenScoreNetwork,
    MLPDenoiser,
    fit_denoiser,
    fit_hyvarinen_score,
    nonnegative_score_matching_loss,
    sample_multiplicative,
    solve_sde,
)

SCHEDULE = GeometricBrownianSchedule()
ADDITIVE = EDMSchedule()


def paired_seconds(runs: tuple[Callable[[], object], Callable[[], object]], repeats: int) -> list[float]:
    """The least time of each, one run of the one after one run of the other."""
    least = [math.inf, math.inf]
    for _ in range(repeats):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            least[i] = min(least[i], time.perf_counter() - start)
    return least


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int) -> float:
    seconds, other_seconds = paired_seconds((ours, other), repeats)
    ratio = other_seconds / seconds
    print(f"{name:<68} {seconds:9.4f} s {other_seconds:9.4f} s   other / ours {ratio:7.2f}")
    return seconds


def simulated(x0: Tensor, steps: int) -> Tensor:
    """The forward process step by step."""
    x, step = x0, SCHEDULE.t_max / steps
    for _ in range(steps):
        x = x * (1 + SCHEDULE.drift * step + SCHEDULE.sigma * math.sqrt(step) * torch.randn_like(x))
    return x


def loss_by_jacobians(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The non-negative loss from the whole Jacobian of each row, of which it needs the diagonal."""
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: score(row[None])[0]))(x)
    h = score(x)
    return (h + x * jacobians.diagonal(dim1=1, dim2=2) + h.square() / 2).sum(1)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("seconds of ours, seconds of the other, their ratio; one thread")

    x0 = torch.rand(1000, 784) + 1
    compare(
        "noising 1000 images of 784 pixels: closed form, 1000 Euler steps",
        lambda: SCHEDULE.perturb(x0, 1.0, torch.randn_like(x0)),
        partial(simulated, x0, 1000),
        3,
    )

    model = HyvarinenScoreNetwork(64, SCHEDULE, width=192, log_mean=0.4)
    additive = MLPDenoiser(64, ADDITIVE, width=192, sigma_data=0.4)
    start = SCHEDULE.sample_prior((1000, 64), log_mean=0.4, log_std=0.25)
    for method in ("dale_langevin", "ambient"):
        seconds = compare(
            f"1000 samples of 64 numbers, 100 steps: {method}, additive SDE",
            partial(sample_multiplicative, model, start, SCHEDULE.timesteps(100), method=method),
            lambda: solve_sde(additive, ADDITIVE.sample_prior((1000, 64)), ADDITIVE.timesteps(100)),
            5,
        )
        print(f"  wanted: at most 2 s, took {seconds:.2f} s")

    data = torch.rand(1200, 64) + 1
    compare(
        "200 training steps of batch 128: multiplicative, additive",
        lambda: fit_hyvarinen_score(model, data, n_steps=200, batch_size=128),
        lambda: fit_denoiser(additive, data, n_steps=200, batch_size=128),
        3,
    )

    weights = torch.randn(16, 16) / 16

    def score(x: Tensor) -> Tensor:
        return -1 - torch.tanh(x.log() @ weights) @ weights.T - x.log()

    x = torch.rand(5000, 16) + 1
    torch.testing.assert_close(nonnegative_score_matching_loss(score, x), loss_by_jacobians(score, x))
    compare(
        "non-negative loss of 5000 rows of 16: ours, whole Jacobians",
        lambda: nonnegative_score_matching_loss(score, x),
        lambda: loss_by_jacobians(score, x),
        5,
    )


if __name__ == "__main__":
    main()
