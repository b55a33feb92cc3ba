"""The tests of gradient flows beside what a user would run instead.

Prints one line a comparison: name, milliseconds of ours, of the other, ratio. Least of paired repeats on the
same points, whose results are compared first. Run it with one thread (OMP_NUM_THREADS=1).
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from assay.diffusion.gradient_flow import (
    ConservativeDenoiser,
    circulation,
    field_jacobian,
    transport,
    wasserstein_velocity,
)
from assay.diffusion.sde import (
    GaussianMixtureDenoiser,
    MLPDenoiser,
    UNetDenoiser,
    VPSchedule,
    fit_denoiser,
    solve_ode,
)

SCHEDULE = VPSchedule(2, 2, t_min=0.02, t_max=3)
POINTS, DIM, TIME, RADIUS = 500, 8, 0.1, 0.5


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int = 5) -> None:
    seconds = [math.inf, math.inf]
    for repeat in range(repeats + 1):
        for method, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            if repeat:  # the first warms up
                seconds[method] = min(seconds[method], time.perf_counter() - start)
    mine, theirs = seconds
    print(f"{name:<64} {mine * 1e3:8.1f} ms {theirs * 1e3:9.1f} ms   x{theirs / mine:.2f}", flush=True)


def jacobian_point_by_point(model: MLPDenoiser, x: Tensor) -> Tensor:
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda p: model.score(p[None], TIME)[0], point) for point in x]
    )


def jacobian_by_vmap(model: MLPDenoiser, x: Tensor) -> Tensor:
    one = torch.func.jacrev(lambda p: model.score(p[None], TIME)[0])
    return torch.func.vmap(one)(x).detach()


@torch.no_grad()
def circulation_point_by_point(model: MLPDenoiser, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    values = []
    angles = torch.arange(128) * (2 * math.pi / 128)
    for center in x:
        points = center + RADIUS * (angles.cos()[:, None] * u + angles.sin()[:, None] * v)
        tangents = angles.cos()[:, None] * v - angles.sin()[:, None] * u
        along = (model.score(points, TIME) * tangents).sum(1)
        values.append(along.sum() * RADIUS * 2 * math.pi / 128)
    return torch.stack(values)


def main() -> None:
    torch.manual_seed(1_000_000)
    x = torch.randn(POINTS, DIM)
    model, conservative = MLPDenoiser(DIM, SCHEDULE), ConservativeDenoiser(DIM, SCHEDULE)
    torch.nn.init.normal_(model.last.weight)
    conservative.load_state_dict(model.state_dict())

    ours = field_jacobian(model.score, x, TIME)
    size = ours.abs().max()
    for other in (jacobian_point_by_point(model, x), jacobian_by_vmap(model, x)):
        assert (other - ours).abs().max() < 1e-5 * size
    where = f"{POINTS} points, d={DIM}"
    compare(
        f"Jacobians, {where}: autograd.functional.jacobian, point by point",
        lambda: field_jacobian(model.score, x, TIME),
        lambda: jacobian_point_by_point(model, x),
    )
    compare(
        f"Jacobians, {where}: torch.func.vmap(jacrev)",
        lambda: field_jacobian(model.score, x, TIME),
        lambda: jacobian_by_vmap(model, x),
    )

    images, network = torch.randn(16, 1, 16, 16), UNetDenoiser(1, SCHEDULE, width=16)
    chosen = list(range(0, 256, 16))

    def whole() -> Tensor:
        return field_jacobian(network, images, TIME)[:, chosen][:, :, chosen]

    assert torch.allclose(whole(), field_jacobian(network, images, TIME, coordinates=chosen), atol=1e-5)
    compare(
        "Jacobian of 16 pixels of 256, U-Net, 16 images: all, then a block",
        lambda: field_jacobian(network, images, TIME, coordinates=chosen),
        whole,
        repeats=1,
    )

    u, v = torch.linalg.qr(torch.randn(DIM, 2)).Q.T

    def loops() -> Tensor:
        return circulation(model.score, x, TIME, radius=RADIUS, directions=(u, v)).value

    apart = (loops() - circulation_point_by_point(model, x, u, v)).abs().max()
    assert apart < 1e-4 * size
    compare(
        f"circulation, {POINTS} loops of 128 points: loop by loop",
        loops,
        lambda: circulation_point_by_point(model, x, u, v),
    )

    factors = 0.15 * torch.randn(5, DIM, DIM)
    mixture = GaussianMixtureDenoiser(
        torch.randn(5, DIM), factors @ factors.mT + 0.02 * torch.eye(DIM), torch.ones(5) / 5, SCHEDULE
    )
    start, times = SCHEDULE.sample_prior((4000, DIM)), SCHEDULE.timesteps(50)
    compare(
        "transport, Heun, 4000 points, 50 steps: solve_ode of the core",
        lambda: transport(wasserstein_velocity(mixture.score, SCHEDULE), start, times),
        lambda: solve_ode(mixture, start, times),
    )

    data = mixture.sample(5000).float()
    compare(
        "training, 50 steps: MLPDenoiser, then ConservativeDenoiser",
        lambda: fit_denoiser(MLPDenoiser(DIM, SCHEDULE), data, n_steps=50),
        lambda: fit_denoiser(ConservativeDenoiser(DIM, SCHEDULE), data, n_steps=50),
        repeats=3,
    )


if __name__ == "__main__":
    main()
