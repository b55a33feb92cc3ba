"""Gradient flows: Jacobians and circulations in closed form, the flow's identities, what its errors do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from assay.diffusion import gradient_flow
from assay.diffusion.gradient_flow import (
    ConservativeDenoiser,
    circulation,
    field_jacobian,
    gradient_flow_matching_loss,
    jacobian_asymmetry,
    solenoidal_perturbation,
    transport,
    wasserstein_velocity,
)
from assay.diffusion.sde import (
    Denoiser,
    EDMSchedule,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    NoiseSchedule,
    UNetDenoiser,
    VESchedule,
    VPSchedule,
    denoising_loss,
    fit_denoiser,
    solve_ode,
)

OU = VPSchedule(2, 2, t_min=0.02, t_max=3)
SCHEDULES = [OU, VPSchedule(), VESchedule(0.1, 10), EDMSchedule()]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def mixture(schedule: NoiseSchedule = OU, dim: int = 3) -> GaussianMixtureDenoiser:
    factors = normal(3, dim, dim, seed=1) / 2
    covariances = factors @ factors.mT + 0.1 * torch.eye(dim, dtype=torch.float64)
    return GaussianMixtureDenoiser(
        normal(3, dim, seed=2), covariances, torch.tensor([0.5, 0.3, 0.2]), schedule
    )


def gaussian(schedule: NoiseSchedule, mean: Tensor, variances: Tensor) -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(mean[None], torch.diag(variances)[None], torch.ones(1), schedule)


def noised(model: GaussianMixtureDenoiser, n: int, t: float, seed: int = 3) -> Tensor:
    clean = model.sample(n, generator=seeded(seed))
    return model.schedule.perturb(clean, t, normal(n, model.dim, seed=seed + 1))


def plane(dim: int, seed: int = 5) -> tuple[Tensor, Tensor]:
    basis = torch.linalg.qr(normal(dim, 2, seed=seed)).Q
    return basis[:, 0], basis[:, 1]


def swirl(x: Tensor, t: object) -> Tensor:
    """No gradient, and not linear."""
    return torch.sin(x.roll(1, 1)) * (1 + x.square().sum(1, keepdim=True))


def antisymmetric(dim: int, seed: int = 6) -> Tensor:
    matrix = normal(dim, dim, seed=seed)
    return matrix - matrix.T


# ---------------------------------------------------------------------- Jacobians


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**30))
@settings(max_examples=30, deadline=None)
def test_a_linear_field_has_its_matrix_everywhere(dim, count, seed):
    matrix, x = normal(dim, dim, seed=seed), normal(count, dim, seed=seed + 1)

    def field(x: Tensor, t: object) -> Tensor:
        return x @ matrix.T + 1

    torch.testing.assert_close(field_jacobian(field, x, 0.5), matrix.expand(count, -1, -1))
    expected = torch.linalg.norm(matrix - matrix.T) / (2 * torch.linalg.norm(matrix))
    torch.testing.assert_close(jacobian_asymmetry(field, x, 0.5), expected.expand(count))


def test_the_jacobian_is_that_of_each_point_and_time():
    model, x, t = MLPDenoiser(3, OU, width=16).double(), normal(4, 3), torch.tensor([0.1, 0.5, 1.0, 2.0])
    nn.init.normal_(model.last.weight, generator=seeded())
    jacobian = field_jacobian(model.score, x, t)
    for b in range(4):
        expected = torch.autograd.functional.jacobian(lambda p, b=b: model.score(p[None], t[b])[0], x[b])
        torch.testing.assert_close(jacobian[b], expected)


def test_a_block_is_that_of_the_whole_in_the_order_asked_for():
    x, chosen = normal(5, 6), [4, 0, 3]
    whole = field_jacobian(swirl, x, 0.0)
    for coordinates in (chosen, torch.tensor(chosen)):
        block = field_jacobian(swirl, x, 0.0, coordinates=coordinates)
        assert torch.equal(block, whole[:, chosen][:, :, chosen])


def test_events_of_any_shape_are_flattened():
    model, x = UNetDenoiser(2, OU, width=8).double(), normal(3, 2, 4, 4)
    block = field_jacobian(model, x, 0.5, coordinates=[1, 17, 30])

    def flat(points: Tensor, t: float) -> Tensor:
        return model(points.reshape(-1, 2, 4, 4), t).flatten(1)

    assert torch.equal(block, field_jacobian(flat, x.flatten(1), 0.5, coordinates=[1, 17, 30]))
    u, v = plane(32)
    shaped = circulation(model, x, 0.5, radius=0.3, directions=(u.view(2, 4, 4), v.view(2, 4, 4)))
    plain = circulation(flat, x.flatten(1), 0.5, radius=0.3, directions=(u, v))
    assert torch.equal(shaped.value, plain.value)


def test_jacobians_need_no_gradients_around_them_and_leave_none():
    x, model = normal(2, 3), MLPDenoiser(3, OU, width=8).double()
    with torch.no_grad():
        jacobian = field_jacobian(model, x, 0.5)
    assert torch.equal(jacobian, field_jacobian(model, x, 0.5))
    assert not jacobian.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_asymmetry_is_one_for_rotations_and_zero_for_a_zero_jacobian():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    x = normal(3, 2)
    assert jacobian_asymmetry(lambda x, t: x @ turn, x, 0.0).tolist() == [1.0] * 3
    assert jacobian_asymmetry(lambda x, t: 0 * x, x, 0.0).tolist() == [0.0] * 3
    assert jacobian_asymmetry(lambda x, t: x @ turn + x, x, 0.0).tolist() == pytest.approx([0.5**0.5] * 3)


@schedules
def test_scores_and_denoisers_of_densities_pass_both_tests(schedule):
    model = mixture(schedule)
    t = schedule.t_min + 0.1 * (schedule.t_max - schedule.t_min)
    x = noised(model, 50, t)
    for field in (model, model.score):
        assert jacobian_asymmetry(field, x, t).max() < 1e-12
        loop = circulation(field, x, t, radius=0.3, directions=plane(3))
        assert loop.relative.max() < 1e-9
        assert loop.value.abs().max() < 1e-9


# ---------------------------------------------------------------------- circulation


@given(st.integers(2, 6), st.floats(0.01, 10), st.integers(8, 40), st.integers(0, 2**30))
@settings(max_examples=30, deadline=None)
def test_circulation_of_a_linear_field_is_stokes(dim, radius, n_points, seed):
    matrix, (u, v) = normal(dim, dim, seed=seed), plane(dim, seed + 1)
    center = 3 * normal(4, dim, seed=seed + 2)
    loop = circulation(
        lambda x, t: x @ matrix.T + 2, center, 0.0, radius=radius, directions=(u, v), n_points=n_points
    )
    expected = math.pi * radius**2 * (v @ matrix @ u - u @ matrix @ v)
    torch.testing.assert_close(loop.value, expected.expand(4), rtol=1e-8, atol=1e-9)
    assert ((loop.relative >= 0) & (loop.relative <= 1)).all()


def test_circulation_of_a_rotation():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    center = torch.tensor([[0.0, 0.0], [5.0, -2.0]], dtype=torch.float64)

    def along(directions: tuple[Tensor, Tensor]) -> gradient_flow.Circulation:
        return circulation(lambda x, t: x @ turn.T, center, 0.0, radius=0.5, directions=directions)

    u, v = torch.eye(2, dtype=torch.float64)
    loop = along((u, v))
    assert loop.value.tolist() == pytest.approx([2 * math.pi * 0.25] * 2)
    assert loop.relative[0].item() == pytest.approx(1)
    assert loop.relative[1] < 0.2
    assert along((v, u)).value.tolist() == pytest.approx([-2 * math.pi * 0.25] * 2)


def test_a_gradient_adds_nothing_to_the_circulation():
    model, x = mixture(), normal(5, 3)
    options = {"radius": 0.5, "directions": plane(3)}
    alone = circulation(swirl, x, 0.2, **options)
    both = circulation(lambda x, t: swirl(x, t) + model.score(x, t), x, 0.2, **options)
    torch.testing.assert_close(alone.value, both.value, rtol=0, atol=1e-8)
    assert alone.value.abs().min() > 1e-3


def test_circulation_per_area_is_the_skew_of_the_jacobian_in_small_loops():
    x, (u, v), radius = normal(5, 4), plane(4), 1e-3
    loop = circulation(swirl, x, 0.0, radius=radius, directions=(u, v))
    jacobian = field_jacobian(swirl, x, 0.0)
    expected = v @ jacobian @ u - u @ jacobian @ v
    torch.testing.assert_close(loop.value / (math.pi * radius**2), expected, rtol=1e-5, atol=1e-7)


def test_each_loop_has_its_own_plane_and_time_and_chunks_change_nothing(monkeypatch):
    model = MLPDenoiser(4, OU, width=16).double()
    nn.init.normal_(model.last.weight, generator=seeded())
    center, t = normal(6, 4), torch.linspace(0.1, 2, 6, dtype=torch.float64)
    u, v = torch.linalg.qr(normal(6, 4, 2)).Q.unbind(-1)
    together = circulation(model, center, t, radius=0.4, directions=(u, v), n_points=50)
    for b in range(6):
        alone = circulation(
            model, center[b : b + 1], float(t[b]), radius=0.4, directions=(u[b], v[b]), n_points=50
        )
        torch.testing.assert_close(together.value[b : b + 1], alone.value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(together.relative[b : b + 1], alone.relative, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(gradient_flow, "_VALUES_AT_ONCE", 4 * 7)
    apart = circulation(model, center, t, radius=0.4, directions=(u, v), n_points=50)
    torch.testing.assert_close(together.value, apart.value, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- the flow


def test_the_velocity_of_an_ornstein_uhlenbeck_process():
    model, x = mixture(), normal(5, 3)
    torch.testing.assert_close(wasserstein_velocity(model.score, OU)(x, 0.3), -x - model.score(x, 0.3))
    still = gaussian(OU, torch.zeros(3), torch.ones(3))
    assert wasserstein_velocity(still.score, OU)(x, 0.3).abs().max() < 1e-12


@schedules
def test_the_velocity_is_minus_the_gradient_of_the_entropys_variation(schedule):
    model, t = mixture(schedule), schedule.t_min + 0.3 * (schedule.t_max - schedule.t_min)
    x = noised(model, 10, t).requires_grad_()
    variation = model.log_prob(x, t)
    rate = float(schedule.diffusion(t)) ** 2 / 2
    if isinstance(schedule, VPSchedule):
        variation = variation + x.square().sum(1) / 2
    (slope,) = torch.autograd.grad(variation.sum(), x)
    torch.testing.assert_close(wasserstein_velocity(model.score, schedule)(x, t).detach(), -rate * slope)


@schedules
def test_the_velocity_solves_the_continuity_equation(schedule):
    model, t = mixture(schedule), schedule.t_min + 0.3 * (schedule.t_max - schedule.t_min)
    velocity, x = wasserstein_velocity(model.score, schedule), noised(model, 20, t)
    divergence = field_jacobian(velocity, x, t).diagonal(dim1=1, dim2=2).sum(1)
    carried = (velocity(x, t) * model.score(x, t)).sum(1)
    step = 1e-5 * t
    rise = (model.log_prob(x, t + step) - model.log_prob(x, t - step)) / (2 * step)
    # Of log p: the equation itself, divided by p.
    torch.testing.assert_close(rise + divergence + carried, torch.zeros_like(rise), rtol=0, atol=1e-5)


def test_data_moved_forward_has_the_moments_of_noised_data():
    model = mixture()
    clean = model.sample(20_000, generator=seeded())
    times = torch.linspace(OU.t_min, 0.7, 41, dtype=torch.float64)
    start = OU.perturb(clean, OU.t_min, normal(*clean.shape))
    moved = transport(wasserstein_velocity(model.score, OU), start, times, method="rk4")
    alpha, sigma = float(OU.alpha(0.7)), float(OU.sigma(0.7))
    torch.testing.assert_close(moved.mean(0), alpha * clean.mean(0), rtol=0, atol=0.03)
    expected = alpha**2 * clean.T.cov() + sigma**2 * torch.eye(3)
    torch.testing.assert_close(moved.T.cov(), expected, rtol=0, atol=0.04)


@schedules
def test_flow_matching_is_denoising_sample_by_sample(schedule):
    model = MLPDenoiser(3, schedule, width=16).double()
    nn.init.normal_(model.last.weight, generator=seeded())
    x0, noise, t = normal(200, 3), normal(200, 3, seed=1), schedule.sample_times(200, generator=seeded(2))
    loss = gradient_flow_matching_loss(wasserstein_velocity(model.score, schedule), schedule, x0, t, noise)
    g, alpha, sigma = schedule.diffusion(t), schedule.alpha(t), schedule.sigma(t)
    weight = (g.square() / 2 * alpha / sigma.square()).square()
    denoising = weight * denoising_loss(model, x0, t, noise, weighting="denoiser")
    torch.testing.assert_close(loss, denoising, rtol=1e-9, atol=1e-10)
    assert loss.requires_grad


def test_the_flows_own_velocity_has_the_least_loss():
    model = mixture()
    x0, noise = model.sample(20_000, generator=seeded()), normal(20_000, 3, seed=1)
    velocity = wasserstein_velocity(model.score, OU)

    def loss(field) -> float:
        return float(gradient_flow_matching_loss(field, OU, x0, 0.4, noise).mean())

    least = loss(velocity)
    for shift in (lambda x: 0.1 * x, lambda x: 0.1 * torch.sin(x), lambda x: 0.1 * x.roll(1, 1)):
        x = OU.perturb(x0, 0.4, noise)
        added = shift(x).square().mean(1)
        excess = loss(lambda x, t, shift=shift: velocity(x, t) + shift(x)) - least
        assert excess == pytest.approx(float(added.mean()), rel=0.25)


# ---------------------------------------------------------------------- transport


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("backwards", [False, True])
def test_transport_converges_at_its_order_to_the_flow_of_a_gaussian(method, order, backwards):
    mean, variances = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.3, 2.0]).double()
    model = gaussian(OU, mean, variances)
    ends = (0.1, 1.0)[:: -1 if backwards else 1]
    alphas, spreads = [], []
    for t in ends:
        alpha, sigma = OU.alpha(t), OU.sigma(t)
        alphas.append(alpha)
        spreads.append((alpha**2 * variances + sigma**2).sqrt())
    x = alphas[0] * mean + normal(10, 2)
    exact = alphas[1] * mean + spreads[1] / spreads[0] * (x - alphas[0] * mean)

    def error(steps: int) -> float:
        times = torch.linspace(*ends, steps + 1, dtype=torch.float64)
        moved = transport(wasserstein_velocity(model.score, OU), x, times, method=method)
        return float((moved - exact).abs().max())

    assert math.log2(error(40) / error(80)) == pytest.approx(order, abs=0.3)
    if method == "rk4":
        assert error(50) < 1e-6


def test_transport_agrees_with_the_probability_flow_solver():
    model = mixture()
    x, times = OU.sample_prior((50, 3), generator=seeded(), dtype=torch.float64), OU.timesteps(400)
    ours = transport(wasserstein_velocity(model.score, OU), x, times)
    torch.testing.assert_close(ours, solve_ode(model, x, times).x, rtol=0, atol=2e-3)


def test_transport_there_and_back():
    velocity, x = wasserstein_velocity(mixture().score, OU), noised(mixture(), 50, OU.t_min)
    times = torch.logspace(math.log10(OU.t_min), math.log10(OU.t_max), 101, dtype=torch.float64)
    there = transport(velocity, x, times, method="rk4")
    torch.testing.assert_close(transport(velocity, there, times.flip(0), method="rk4"), x, rtol=0, atol=1e-5)


def test_transport_keeps_no_gradients_and_takes_fields_that_use_them():
    model = ConservativeDenoiser(3, OU, width=8)
    nn.init.normal_(model.last.weight, generator=seeded())
    x = torch.randn(4, 3, generator=seeded(), requires_grad=True)
    moved = transport(wasserstein_velocity(model.score, OU), x, OU.timesteps(5))
    assert not moved.requires_grad
    assert moved.dtype == torch.float32


# ---------------------------------------------------------------------- errors that do and do no harm


def test_the_perturbation_is_weakly_free_of_divergence_and_scaling_is_not():
    model, t, n = mixture(), 0.3, 100_000
    x = noised(model, n, t)
    score = model.score(x, t)
    error = solenoidal_perturbation(model.score, antisymmetric(3))(x, t)
    a, b = normal(3, seed=8), normal(3, seed=9)
    # Test functions phi: their gradients and Laplacians.
    phases = x @ a
    functions = [
        (a * phases.cos()[:, None], -(a @ a) * phases.sin()),
        (2 * x * (x @ b)[:, None] + x.square().sum(1, keepdim=True) * b, (2 * 3 + 4) * (x @ b)),
    ]
    for gradient, laplacian in functions:
        change = (gradient * error).sum(1)
        assert abs(change.mean()) < 4 * change.std() / n**0.5
        scaled = (gradient * score).sum(1) + laplacian
        assert abs(scaled.mean()) < 4 * scaled.std() / n**0.5
        assert abs(laplacian.mean()) > 8 * laplacian.std() / n**0.5


def test_the_perturbation_leaves_the_density_exactly():
    """Pointwise: div(p e) / p = div e + e . grad log p."""
    model, t = mixture(), 0.3
    x = noised(model, 20, t)

    def change(error) -> Tensor:
        divergence = field_jacobian(error, x, t).diagonal(dim1=1, dim2=2).sum(1)
        return divergence + (error(x, t) * model.score(x, t)).sum(1)

    matrix = antisymmetric(3)
    assert change(solenoidal_perturbation(model.score, matrix)).abs().max() < 1e-9
    assert change(model.score).abs().min() > 1e-2
    # Antisymmetric at each point is not enough.
    varying = change(lambda x, t: torch.sin(x[:, :1]) * model.score(x, t) @ matrix.T)
    assert varying.abs().max() > 1e-2


def test_an_orthogonal_perturbation_has_the_size_of_the_score():
    block = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    model = mixture(dim=4)
    x = noised(model, 20, 0.3)
    error = solenoidal_perturbation(model.score, torch.block_diag(block, block))(x, 0.3)
    torch.testing.assert_close(error.norm(dim=1), model.score(x, 0.3).norm(dim=1))
    assert (error * model.score(x, 0.3)).sum(1).abs().max() < 1e-12


# ---------------------------------------------------------------------- conservative by construction


@pytest.mark.parametrize("trained", [False, True])
def test_a_conservative_denoiser_is_a_gradient_before_and_after_training(trained):
    torch.manual_seed(0)
    model, plain = (kind(4, OU, width=32) for kind in (ConservativeDenoiser, MLPDenoiser))
    data = mixture(dim=4).sample(500, generator=seeded()).float()
    if trained:
        for network in (model, plain):
            losses = fit_denoiser(network, data, n_steps=80, generator=seeded())
        assert sum(losses[-20:]) < sum(losses[:20])
    else:
        for network in (model, plain):
            nn.init.normal_(network.last.weight, generator=seeded())
    x = torch.randn(50, 4, generator=seeded())
    for field in (model, model.score):
        assert jacobian_asymmetry(field, x, 0.3).max() < 1e-5
        loop = circulation(field, x, 0.3, radius=0.5, directions=tuple(torch.eye(4)[:2]))
        assert loop.relative.max() < 1e-5
    assert jacobian_asymmetry(plain, x, 0.3).min() > 1e-4


def test_a_conservative_denoiser_starts_as_its_plain_counterpart():
    torch.manual_seed(0)
    plain, model = MLPDenoiser(3, EDMSchedule()), ConservativeDenoiser(3, EDMSchedule())
    model.load_state_dict(plain.state_dict())
    x, t = torch.randn(5, 3), torch.tensor([0.01, 0.1, 1.0, 10.0, 80.0])
    assert torch.equal(model(x, t), plain(x, t))


def test_a_conservative_denoiser_is_the_gradient_of_its_scalar():
    model = ConservativeDenoiser(3, EDMSchedule(), width=16).double()
    nn.init.normal_(model.last.weight, generator=seeded())
    u, noise = normal(5, 3).requires_grad_(), normal(5)
    (expected,) = torch.autograd.grad((u * MLPDenoiser.network(model, u, noise)).sum(), u)
    torch.testing.assert_close(model.network(u, noise), expected)


def test_a_conservative_denoiser_trains_all_of_itself_and_works_without_gradients():
    model = ConservativeDenoiser(3, OU, width=16)
    nn.init.normal_(model.last.weight, generator=seeded())
    x = torch.randn(5, 3, generator=seeded())
    with_gradients = model(x, 0.5)
    torch.autograd.backward(with_gradients.square().sum())
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    with torch.no_grad():
        without = model(x, 0.5)
    assert torch.equal(without, with_gradients)
    assert not without.requires_grad


# ---------------------------------------------------------------------- bad input

POINTS = normal(4, 3)
AXES = tuple(torch.eye(3, dtype=torch.float64)[:2])


def bad_after(time: float):
    return lambda x, t: x / 0 if t > time else x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solenoidal_perturbation(swirl, torch.eye(3)), r"antisymmetric, but A \+ A\^T is up to 2"),
        (lambda: solenoidal_perturbation(swirl, torch.zeros(2, 3)), r"square, got shape \(2, 3\)"),
        (lambda: solenoidal_perturbation(swirl, torch.full((2, 2), math.nan)), "antisymmetric"),
        (lambda: solenoidal_perturbation(swirl, torch.zeros(2, 2))(POINTS, 0.0), "x is to have 2 numbers"),
        (
            lambda: circulation(swirl, POINTS, 0.0, radius=0.0, directions=AXES),
            "radius is to be positive, got 0.0",
        ),
        (
            lambda: circulation(swirl, POINTS, 0.0, radius=1.0, directions=AXES, n_points=7),
            "n_points is to be 8 or more, got 7",
        ),
        (
            lambda: circulation(swirl, POINTS, 0.0, radius=1.0, directions=(AXES[0], AXES[0])),
            "directions is to be orthonormal",
        ),
        (
            lambda: circulation(swirl, POINTS, 0.0, radius=1.0, directions=(AXES[0], 2 * AXES[1])),
            "directions is to be orthonormal",
        ),
        (
            lambda: circulation(swirl, POINTS, 0.0, radius=1.0, directions=tuple(torch.eye(2))),
            r"directions is to have shapes \(3,\) or \(4, 3\), got \(2,\)",
        ),
        (
            lambda: circulation(swirl, POINTS, torch.zeros(3), radius=1.0, directions=AXES),
            r"t is to be one time or 4 as in center, got shape \(3,\)",
        ),
        (
            lambda: circulation(lambda x, t: x[:, :2], POINTS, 0.0, radius=1.0, directions=AXES),
            r"field is to return the shape of x, \(512, 3\), got \(512, 2\)",
        ),
        (
            lambda: circulation(
                lambda x, t: x / (t < 2)[:, None], POINTS, torch.arange(4), radius=1.0, directions=AXES
            ),
            "field is to be finite, but is not at time 2",
        ),
        (lambda: field_jacobian(swirl, POINTS, 0.0, coordinates=[1]), r"two or more different.*got \[1\]"),
        (lambda: field_jacobian(swirl, POINTS, 0.0, coordinates=[1, 1]), r"different places, got \[1, 1\]"),
        (lambda: field_jacobian(swirl, POINTS, 0.0, coordinates=[0, 3]), r"from 0 to 2, got \[0, 3\]"),
        (lambda: jacobian_asymmetry(swirl, POINTS, 0.0, coordinates=[-1, 0]), "coordinates is to be from 0"),
        (lambda: field_jacobian(lambda x, t: x.sum(1), POINTS, 0.0), r"shape of x, \(4, 3\), got \(4,\)"),
        (lambda: field_jacobian(bad_after(0.5), POINTS, 0.7), "finite, but is not at time 0.7"),
        (lambda: field_jacobian(lambda x, t: x.detach(), POINTS, 0.0), "differentiable in x"),
        (lambda: field_jacobian(swirl, torch.ones(3), 0.0), r"x is to hold.*shape \(3,\)"),
        (lambda: field_jacobian(swirl, torch.ones(2, 3).long(), 0.0), r"floating point, got torch.int64"),
        (lambda: transport(swirl, POINTS, torch.tensor([0.0, 1.0, 1.0])), r"strictly falling .*1.0, 1.0\]"),
        (lambda: transport(swirl, POINTS, torch.tensor([0.0])), "two or more times"),
        (lambda: transport(swirl, POINTS, torch.tensor(1.0)), "two or more times"),
        (
            lambda: transport(swirl, POINTS, torch.tensor([0.0, 1.0]), method="midpoint"),
            "method is to be one of 'heun', 'euler', 'rk4', got 'midpoint'",
        ),
        (
            lambda: transport(bad_after(0.5), POINTS, torch.tensor([0.0, 0.5, 0.75])),
            "velocity is to be finite, but is not at time 0.75",
        ),
        (
            lambda: transport(lambda x, t: x[:2], POINTS, torch.tensor([0.0, 1.0])),
            "velocity is to return the shape of x",
        ),
        (
            lambda: gradient_flow_matching_loss(swirl, OU, POINTS, 0.5, POINTS[:2]),
            r"noise is to have the shape of x0, \(4, 3\), got \(2, 3\)",
        ),
        (
            lambda: gradient_flow_matching_loss(lambda x, t: x[:, :1], OU, POINTS, 0.5, POINTS),
            "velocity is to return the shape of x",
        ),
        (lambda: ConservativeDenoiser(0, OU), "dim is to be 1 or more"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_denoisers_are_fields():
    assert isinstance(ConservativeDenoiser(2, OU), Denoiser)
