"""Multimodal super-resolution beside what a user would run instead: PyTorch, written out plainly.

Prints one line a comparison: name, seconds of assay, seconds of the other, ratio. Least of paired repeats.
The observations of 13 channels on the 128 x 256 grid are of the size of ERA5 at 1.40625 degrees. Run it with
one thread (OMP_NUM_THREADS=1).
"""

import itertools
import math
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from assay.diffusion.sde import Denoiser, EDMSchedule, MLPDenoiser
from assay.diffusion.super_resolution import (
    CoarseObservation,
    PointObservation,
    crps_ensemble,
    sample_posterior,
)

SCHEDULE = EDMSchedule(sigma_max=20.0)
EVENT = (2, 8, 16)
MEMBERS, STEPS = 16, 25


class OfFields(Denoiser):
    def __init__(self, network: MLPDenoiser) -> None:
        super().__init__(network.schedule)
        self.network = network

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return self.network(x.flatten(1), t).reshape(x.shape)


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int = 5) -> None:
    seconds = [math.inf, math.inf]
    for _ in range(repeats):
        for method, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            seconds[method] = min(seconds[method], time.perf_counter() - start)
    print(f"{name:<62} {seconds[0]:9.4f} s {seconds[1]:9.4f} s   x{seconds[1] / seconds[0]:.1f}", flush=True)


def looped_points(x: torch.Tensor, locations: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """The points of each field and channel in turn, by `grid_sample` of the field with one more column."""
    height, width = x.shape[2:]
    wrapped = functional.pad(x, (0, 1, 0, 0), mode="circular")
    grid = 2 * locations.flip(1) / torch.tensor([width, height - 1]) - 1
    rows = []
    for field in wrapped:
        found = torch.empty(len(locations))
        for channel in range(x.shape[1]):
            chosen = channels == channel
            sampled = functional.grid_sample(
                field[None, [channel]], grid[None, None, chosen], align_corners=True
            )
            found[chosen] = sampled.flatten()
        rows.append(found)
    return torch.stack(rows)


def points() -> None:
    generator = torch.Generator().manual_seed(0)
    for batch, stations, channels in ((16, 400, 13), (16, 20, 13), (1, 400, 13)):
        x = torch.randn(batch, channels, 128, 256, generator=generator).requires_grad_()
        places = torch.rand(stations, 2, generator=generator) * torch.tensor([127.0, 256.0])
        locations, channel = places.repeat_interleave(channels, 0), torch.arange(channels).repeat(stations)
        observation = PointObservation(torch.zeros(len(channel)), locations, channel, std=0.1)
        torch.testing.assert_close(
            observation.operator(x), looped_points(x, locations, channel), atol=1e-3, rtol=1e-3
        )
        name = f"{stations} stations of {channels} channels, {batch} members: "
        with torch.no_grad():
            compare(
                name + "values",
                lambda x=x, observation=observation: observation.operator(x),
                lambda x=x, a=locations, b=channel: looped_points(x, a, b),
            )
        compare(
            name + "gradient",
            lambda x=x, observation=observation: torch.autograd.grad(observation.operator(x).sum(), x),
            lambda x=x, a=locations, b=channel: torch.autograd.grad(looped_points(x, a, b).sum(), x),
            repeats=3,
        )


def sampling() -> None:
    torch.manual_seed(0)
    model = OfFields(MLPDenoiser(math.prod(EVENT), SCHEDULE, width=384, depth=2))
    places = torch.rand(20, 2) * torch.tensor([7.0, 16.0])
    observations = [
        CoarseObservation(torch.randn(2, 2, 4), std=0.1),
        PointObservation(torch.randn(20), places, torch.arange(20) % 2, std=0.1),
    ]

    def batched() -> object:
        return sample_posterior(model, observations, EVENT, MEMBERS, SCHEDULE.timesteps(STEPS), churn=20)

    def one_by_one() -> None:
        for _ in range(MEMBERS):
            sample_posterior(model, observations, EVENT, 1, SCHEDULE.timesteps(STEPS), churn=20)

    def several_gradients() -> None:
        """The batch, with a pass through the network, and back, for the prior and for each source."""
        levels = SCHEDULE.timesteps(STEPS).tolist()
        raised = 1 + min(20 / STEPS, math.sqrt(2) - 1)
        x = levels[0] * torch.randn(MEMBERS, *EVENT)

        def slope(x: torch.Tensor, t: float) -> torch.Tensor:
            with torch.no_grad():
                score = model.score(x, t)
            for observation in observations:
                point = x.detach().requires_grad_()
                likelihood = observation.log_likelihood(model(point, t), t).sum()
                score = score + torch.autograd.grad(likelihood, point)[0].clamp(-1, 1)
            return -t * score

        for level, end in itertools.pairwise(levels):
            start = raised * level
            x = x + math.sqrt(start**2 - level**2) * torch.randn_like(x)
            first = slope(x, start)
            guess = x + (end - start) * first
            x = x + (end - start) * (first + slope(guess, end)) / 2 if end > 0 else guess

    name = f"{MEMBERS} members, {STEPS} steps, MLP prior: "
    compare(name + "one by one", batched, one_by_one, repeats=3)
    compare(name + "a gradient a source", batched, several_gradients)


def scores() -> None:
    for members in (16, 64, 256):
        samples, truth = torch.randn(members, 2, 32, 64), torch.randn(2, 32, 64)

        def pairs(samples: torch.Tensor = samples, truth: torch.Tensor = truth) -> float:
            apart = (samples[:, None] - samples).abs().mean((0, 1))
            return float(((samples - truth).abs().mean(0) - apart / 2).mean())

        assert abs(pairs() - crps_ensemble(samples, truth)) < 1e-4
        compare(
            f"CRPS of {members} members: all pairs",
            lambda samples=samples, truth=truth: crps_ensemble(samples, truth),
            pairs,
        )


if __name__ == "__main__":
    points()
    sampling()
    scores()
