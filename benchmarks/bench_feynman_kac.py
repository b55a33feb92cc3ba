"""Feynman-Kac correctors beside what a user would run instead.

Prints one line a comparison: name, seconds of ours, seconds of the other, ratio. Least of paired repeats, the
same models, particles and steps. Run it with one thread (OMP_NUM_THREADS=1).

The loop follows one particle at a time between the resamplings, as a simulation written for one particle
does; it is timed for a few steps and so is ours. The plain batch is the formula of guidance with torch's
multinomial resampling, without log-space weights, thresholds or normaliser.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from assay.diffusion.feynman_kac import annealed, guided, sample_feynman_kac, systematic_resample
from assay.diffusion.sde import Denoiser, EDMSchedule, GaussianMixtureDenoiser, MLPDenoiser, solve_sde

SCHEDULE = EDMSchedule(sigma_min=0.01, sigma_max=15)


def mixture(components: int, dim: int = 2) -> GaussianMixtureDenoiser:
    means = torch.randn(components, dim, generator=torch.Generator().manual_seed(components))
    return GaussianMixtureDenoiser(
        means,
        0.1 * torch.eye(dim).expand(components, dim, dim),
        torch.full((components,), 1 / components),
        SCHEDULE,
    )


def network(seed: int, dim: int = 16) -> MLPDenoiser:
    torch.manual_seed(seed)
    model = MLPDenoiser(dim, SCHEDULE)
    torch.nn.init.normal_(model.last.weight, std=0.1)
    return model


@torch.no_grad()
def looped(model: Denoiser, beta: float, x: Tensor, times: Tensor) -> Tensor:
    """Annealing, a particle at a time, resampled after every step."""
    particles = list(x)
    for t, following in zip(times.tolist(), times.tolist()[1:], strict=False):
        step, log_weights = t - following, []
        for k, particle in enumerate(particles):
            score = model.score(particle[None], t)[0]
            moved = particle + step * beta * 2 * t * score
            if following:
                moved = moved + math.sqrt(2 * t * step) * torch.randn_like(particle)
            particles[k] = moved
            log_weights.append(step * t * beta * (beta - 1) * float(score.square().sum()))
        if following:
            largest = max(log_weights)
            weights = [math.exp(weight - largest) for weight in log_weights]
            total, point, cumulative, chosen = sum(weights), torch.rand(()).item(), 0.0, []
            for particle, weight in zip(particles, weights, strict=True):
                cumulative += weight / total * len(weights)
                while point < cumulative and len(chosen) < len(weights):
                    chosen.append(particle)
                    point += 1
            particles = chosen + particles[len(chosen) :]
    return torch.stack(particles)


@torch.no_grad()
def batched(one: Denoiser, other: Denoiser, weight: float, x: Tensor, times: Tensor) -> Tensor:
    """Guidance as its formulas read."""
    for t, following in zip(times.tolist(), times.tolist()[1:], strict=False):
        step = t - following
        first, second = one.score(x, t), other.score(x, t)
        x = x + step * 2 * t * ((1 - weight) * first + weight * second)
        if following:
            x = x + math.sqrt(2 * t * step) * torch.randn_like(x)
            gain = step * t * weight * (weight - 1) * (first - second).square().sum(1)
            x = x[torch.multinomial(gain.softmax(0), len(x), replacement=True)]
    return x


def looped_resample(log_weights: Tensor) -> Tensor:
    weights = (len(log_weights) * log_weights.softmax(0)).tolist()
    point, cumulative, chosen = torch.rand(()).item(), 0.0, []
    for k, weight in enumerate(weights):
        cumulative += weight
        while point < cumulative:
            chosen.append(k)
            point += 1
    return torch.tensor(chosen)


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int = 5) -> None:
    ours()
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for method, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            seconds[method].append(time.perf_counter() - start)
    mine, theirs = (min(column) for column in seconds)
    print(f"{name:<58} {mine:9.4f} s {theirs:9.4f} s   x{theirs / mine:.2f}", flush=True)


def main() -> None:
    model, target = mixture(3), annealed(mixture(3), 2.0)
    x = target.sample_prior((1000, 2))
    few = SCHEDULE.timesteps(200)[:11]
    compare(
        "annealing, 1000 particles, 10 steps: a loop over particles",
        lambda: sample_feynman_kac(target, x, few),
        lambda: looped(model, 2.0, x, few),
        repeats=3,
    )
    pairs = {"4-mode mixtures": ((mixture(4), mixture(2)), 2), "networks": ((network(0), network(1)), 16)}
    for name, (models, dim) in pairs.items():
        both = guided(*models, 3.0)
        start, times = both.sample_prior((2000, dim)), SCHEDULE.timesteps(200)
        compare(
            f"guidance, 2000 particles, 200 steps, {name}: plain batch",
            lambda both=both, start=start, times=times: sample_feynman_kac(both, start, times),
            lambda models=models, start=start, times=times: batched(*models, 3.0, start, times),
        )
    large, times = network(0), SCHEDULE.timesteps(200)
    start = SCHEDULE.sample_prior((2000, 16))
    compare(
        "annealing a network, 200 steps: the reverse SDE, no weights",
        lambda: sample_feynman_kac(annealed(large, 2.0), start, times),
        lambda: solve_sde(large, start, times),
    )
    log_weights = torch.randn(100_000, dtype=torch.float64)
    compare(
        "systematic resampling, 100,000 particles: a loop",
        lambda: systematic_resample(log_weights),
        lambda: looped_resample(log_weights),
    )


if __name__ == "__main__":
    main()
