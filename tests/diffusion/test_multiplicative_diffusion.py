"""Multiplicative diffusion: closed forms, the equivalence with logarithms, limits of the steps, losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from assay.diffusion.metrics import sliced_wasserstein
from assay.diffusion.multiplicative_diffusion import (
    BrownianSchedule,
    GeometricBrownianSchedule,
    HyvarinenScore,
    HyvarinenScoreNetwork,
    ambient_step,
    dale_langevin_step,
    denoising_target,
    exponentiated_gradient_step,
    fit_hyvarinen_score,
    multiplicative_denoising_loss,
    nonnegative_score_matching_loss,
    sample_multiplicative,
)
from assay.diffusion.sde import (
    EDMSchedule,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    UNetDenoiser,
    denoising_loss,
    fit_denoiser,
    solve_sde,
)

SCHEDULE = GeometricBrownianSchedule()
DRIFTING = GeometricBrownianSchedule(sigma=0.6, mu=0.5, t_max=2.0)
schedules = pytest.mark.parametrize("schedule", [SCHEDULE, DRIFTING], ids=["centred", "drifting"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def log_mixture(schedule: GeometricBrownianSchedule) -> HyvarinenScore:
    means = torch.tensor([[-0.6, 0.2], [0.5, 0.6], [0.3, -0.7]])
    covariances = torch.tensor(
        [[[0.04, 0.02], [0.02, 0.05]], [[0.09, 0.0], [0.0, 0.02]], [[0.03, 0], [0, 0.03]]]
    )
    weights = torch.tensor([0.5, 0.3, 0.2])
    return HyvarinenScore(
        GaussianMixtureDenoiser(means, covariances, weights, schedule.log_schedule), schedule
    )


def log_normal(schedule: GeometricBrownianSchedule, mean: float, std: float, dim: int = 1) -> HyvarinenScore:
    covariance = std**2 * torch.eye(dim)[None]
    denoiser = GaussianMixtureDenoiser(torch.zeros(1, dim), covariance, torch.ones(1), schedule.log_schedule)
    return HyvarinenScore(denoiser, schedule, log_mean=mean)


# ---------------------------------------------------------------------- the forward process


def test_the_schedule_of_logarithms_is_generated_by_its_coefficients():
    schedule = BrownianSchedule(rate=0.7)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    (rise,) = torch.autograd.grad(schedule.sigma(t).square().sum(), t)
    torch.testing.assert_close(rise, schedule.diffusion(t).square())
    assert torch.equal(schedule.alpha(t), torch.ones(3, dtype=torch.float64))
    assert not schedule.drift_coefficient(t).any()


@schedules
def test_perturbing_is_adding_noise_to_the_logarithm(schedule):
    x0, noise, t = torch.exp(normal(50, 3)), normal(50, 3, seed=1), torch.linspace(0.01, 1, 50)
    moved = schedule.perturb(x0, t, noise).log() - schedule.log_mean(t).double()[:, None]
    torch.testing.assert_close(moved, schedule.log_schedule.perturb(x0.log(), t, noise))


@schedules
def test_perturbing_twice_is_perturbing_longer(schedule):
    # Increments of the logarithm are independent, so that variances add.
    x0, first, second = torch.exp(normal(200_000, 1)), normal(200_000, 1, seed=1), normal(200_000, 1, seed=2)
    ratio = schedule.perturb(schedule.perturb(x0, 0.3, first), 0.5, second) / x0
    law = stats.lognorm(s=float(schedule.log_std(0.8)), scale=math.exp(float(schedule.log_mean(0.8))))
    assert stats.kstest(ratio.flatten().numpy(), law.cdf).pvalue > 1e-3


@schedules
def test_the_prior_has_the_moments_of_noised_data(schedule):
    x = schedule.sample_prior(
        (100_000, 2), log_mean=0.4, log_std=0.5, generator=seeded(), dtype=torch.float64
    )
    std = math.sqrt(0.25 + schedule.sigma**2 * schedule.t_max)
    mean = 0.4 + (schedule.drift - schedule.sigma**2 / 2) * schedule.t_max
    assert x.log().mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(200_000))
    assert x.log().std().item() == pytest.approx(std, rel=0.01)


def test_times():
    times = DRIFTING.timesteps(4)
    assert times.tolist() == [2.0, 1.5, 1.0, 0.5, 0.0]
    training = DRIFTING.sample_times(1000, generator=seeded())
    assert 1e-3 <= training.min() < 0.05
    assert 1.95 < training.max() <= 2
    assert SCHEDULE.drift == pytest.approx(0.32)
    assert DRIFTING.drift == 0.5


# ---------------------------------------------------------------------- scores


@schedules
@pytest.mark.parametrize("t", [0.01, 0.5, 1.0])
def test_the_score_is_x_times_the_gradient_of_the_log_density(schedule, t):
    model = log_mixture(schedule)
    x = torch.exp(normal(40, 2)).requires_grad_()
    # The density of x from that of its logarithm: the Jacobian is the +1 between the two scores.
    shift = float(schedule.log_mean(t))
    log_density = model.denoiser.log_prob(x.log() - shift, t) - x.log().sum(1)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(model(x.detach(), t), x.detach() * gradient, atol=1e-9, rtol=1e-9)


@schedules
def test_log_normal_data_have_a_closed_form(schedule):
    mean, std = 0.3, 0.4
    x, t = torch.exp(normal(30, 1)), torch.linspace(0.05, 1, 30, dtype=torch.float64)
    variance = (std**2 + schedule.sigma**2 * t)[:, None]
    centre = mean + ((schedule.drift - schedule.sigma**2 / 2) * t)[:, None]
    expected = -1 - (x.log() - centre) / variance
    torch.testing.assert_close(log_normal(schedule, mean, std)(x, t), expected)


@schedules
def test_the_target_is_the_score_of_the_transition(schedule):
    x0, noise, t = torch.exp(normal(20, 2)), normal(20, 2, seed=1), torch.linspace(0.05, 1, 20).double()
    x = schedule.perturb(x0, t, noise).requires_grad_()
    law = torch.distributions.LogNormal(
        x0.log() + schedule.log_mean(t)[:, None], schedule.log_std(t)[:, None].expand(20, 2)
    )
    (gradient,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(denoising_target(schedule, t, noise), (x * gradient).detach())


def test_target_vector():
    noise = torch.tensor([[0.5]], dtype=torch.float64)
    assert denoising_target(SCHEDULE, 0.25, noise).item() == pytest.approx(-2.25, abs=1e-12)


def test_the_true_score_is_the_mean_of_the_targets():
    """At points that many data could have moved to, weighed by how likely each did."""
    model, t = log_mixture(SCHEDULE), 0.3
    data = model.denoiser.sample(200_000, generator=seeded())
    x = torch.tensor([[1.2, 0.8], [0.6, 1.5]], dtype=torch.float64)
    for point in x:
        noise = (point.log() - data) / float(SCHEDULE.log_std(t))
        weights = (-noise.square().sum(1) / 2).softmax(0)
        mean = weights @ denoising_target(SCHEDULE, t, noise)
        torch.testing.assert_close(mean, model(point[None], t)[0], atol=0.03, rtol=0)


def test_any_denoiser_of_the_logarithm_serves():
    model = HyvarinenScore(UNetDenoiser(1, SCHEDULE.log_schedule, width=8), SCHEDULE)
    x = torch.rand(2, 1, 8, 8, generator=seeded()) + 1
    assert model(x, 0.5).shape == x.shape
    samples = sample_multiplicative(model, x, SCHEDULE.timesteps(3), generator=seeded())
    assert samples.shape == x.shape
    assert len(fit_hyvarinen_score(model, x, n_steps=2, batch_size=2)) == 2


def test_a_mean_for_each_number_is_subtracted():
    means = torch.tensor([0.1, 0.5, -0.3])
    whole = HyvarinenScore(MLPDenoiser(3, SCHEDULE.log_schedule), SCHEDULE, log_mean=means)
    x = torch.exp(normal(5, 3)).float()
    plain = HyvarinenScore(whole.denoiser, SCHEDULE)
    torch.testing.assert_close(whole(x, 0.4), plain(x / means.exp(), 0.4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype):
    model = HyvarinenScoreNetwork(2, SCHEDULE, width=8).to(dtype)
    x = torch.ones(4, 2, dtype=dtype)
    assert model(x, 0.5).dtype == dtype
    assert model(x, torch.full((4,), 0.5, dtype=torch.float64)).dtype == dtype
    assert multiplicative_denoising_loss(model, x, 0.5, torch.zeros_like(x)).dtype == dtype
    start = SCHEDULE.sample_prior((4, 2), dtype=dtype)
    assert sample_multiplicative(model, start, SCHEDULE.timesteps(3)).dtype == dtype


# ---------------------------------------------------------------------- losses


def perturbed(model: nn.Module, change) -> nn.Module:
    class Perturbed(nn.Module):
        schedule = model.schedule

        def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
            return change(x, model(x, t))

    return Perturbed()


@schedules
def test_the_loss_is_the_weighted_error_of_the_target(schedule):
    model = HyvarinenScoreNetwork(3, schedule, width=8, log_std=0.5).double()
    x0, noise, t = torch.exp(normal(20, 3)), normal(20, 3, seed=1), torch.linspace(0.01, 1, 20).double()
    error = model(schedule.perturb(x0, t, noise), t) - denoising_target(schedule, t, noise)
    expected = schedule.log_std(t).square() * error.square().mean(1)
    torch.testing.assert_close(multiplicative_denoising_loss(model, x0, t, noise), expected)


@schedules
def test_the_loss_is_that_of_the_noise_in_logarithms(schedule):
    torch.manual_seed(0)
    model = HyvarinenScoreNetwork(3, schedule, width=8, log_std=0.5, log_mean=0.2).double()
    nn.init.normal_(model.denoiser.last.weight)
    x0, noise, t = torch.exp(normal(20, 3)), normal(20, 3, seed=1), torch.linspace(0.01, 1, 20).double()
    expected = denoising_loss(model.denoiser, x0.log() - 0.2, t, noise, weighting="score")
    torch.testing.assert_close(multiplicative_denoising_loss(model, x0, t, noise), expected)


@pytest.mark.parametrize("t", [0.1, 0.7])
def test_both_losses_rank_models_as_the_distance_to_the_true_score(t):
    """Denoising and implicit losses differ from the explicit one by constants, whatever the model."""
    model = log_mixture(SCHEDULE)
    count = 60_000
    x0 = torch.exp(model.denoiser.sample(count, generator=seeded()))
    noise = normal(count, 2, seed=1)
    x = SCHEDULE.perturb(x0, t, noise)
    changes = [
        lambda x, h: h + 0.5,
        lambda x, h: 0.6 * h - 0.4,
        lambda x, h: h + 0.8 * torch.sin(2 * x.log()),
    ]
    for change in changes:
        other = perturbed(model, change)
        explicit = (other(x, t) - model(x, t)).square().sum(1)
        implicit = 2 * (
            nonnegative_score_matching_loss(lambda x, other=other: other(x, t), x)
            - nonnegative_score_matching_loss(lambda x: model(x, t), x)
        )
        weight = 2 / float(SCHEDULE.log_std(t)) ** 2  # from a weighted mean over two numbers to a sum
        denoising = weight * (
            multiplicative_denoising_loss(other, x0, t, noise)
            - multiplicative_denoising_loss(model, x0, t, noise)
        )
        for loss in (implicit, denoising):
            gap = loss - explicit
            assert abs(gap.mean()) < 5 * gap.std() / math.sqrt(count)


def test_the_nonnegative_loss_of_log_normal_data():
    mean, std, d = 0.2, 0.5, 3
    x = torch.exp(mean + std * normal(500_000, d))
    with torch.no_grad():
        loss = nonnegative_score_matching_loss(lambda x: -1 - (x.log() - mean) / std**2, x)
    assert loss.mean().item() == pytest.approx(-d / 2 * (1 + 1 / std**2), rel=0.01)


def test_the_nonnegative_loss_by_differences():
    model = log_mixture(SCHEDULE)

    def score(x: Tensor) -> Tensor:
        return model(x, 0.2)

    x = torch.exp(normal(10, 2))
    expected = torch.zeros(10, dtype=torch.float64)
    for i in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[i] = 1e-6
        slope = (score(x + shift)[:, i] - score(x - shift)[:, i]) / 2e-6
        expected += score(x)[:, i] + x[:, i] * slope + score(x)[:, i].square() / 2
    torch.testing.assert_close(nonnegative_score_matching_loss(score, x), expected, atol=1e-6, rtol=1e-6)


def test_the_nonnegative_loss_trains_parameters():
    """The loss of ``-1 - (ln x - a)/b`` is least at the moments of the logarithm."""
    x = torch.exp(0.7 + 0.5 * normal(2000, 1))
    a, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.0, 1.0))
    optimizer = torch.optim.LBFGS([a, b], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nonnegative_score_matching_loss(lambda x: -1 - (x.log() - a) / b, x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert a.item() == pytest.approx(x.log().mean().item(), abs=1e-5)
    assert b.item() == pytest.approx(x.log().var(correction=0).item(), abs=1e-5)


def test_the_nonnegative_loss_takes_fields_and_numbers_that_do_not_depend_on_x():
    x = torch.exp(normal(4, 2, 3))
    flat = nonnegative_score_matching_loss(lambda x: -1 - x.log(), x.flatten(1))
    torch.testing.assert_close(nonnegative_score_matching_loss(lambda x: -1 - x.log(), x), flat)
    constant = torch.tensor(0.5, requires_grad=True)
    loss = nonnegative_score_matching_loss(lambda x: constant.expand(x.shape), x.float())
    torch.testing.assert_close(loss, torch.full((4,), 6 * (0.5 + 0.125)))


# ---------------------------------------------------------------------- training


def test_training_is_the_cores_on_logarithms():
    data = torch.exp(normal(300, 2)).float()
    torch.manual_seed(0)
    ours = HyvarinenScoreNetwork(2, SCHEDULE, width=16, log_std=1.0)
    torch.manual_seed(0)
    theirs = MLPDenoiser(2, SCHEDULE.log_schedule, width=16)
    losses = fit_hyvarinen_score(ours, data, n_steps=30, generator=seeded())
    expected = fit_denoiser(theirs, data.log(), n_steps=30, weighting="score", generator=seeded())
    assert losses == pytest.approx(expected, rel=1e-3)
    x = torch.exp(normal(10, 2)).float()
    torch.testing.assert_close(ours(x, 0.5) + 1, theirs.score(x.log(), 0.5), atol=1e-3, rtol=1e-3)


def test_training_finds_the_score_of_data_that_drift():
    exact = log_mixture(DRIFTING)
    data = torch.exp(exact.denoiser.sample(5000, generator=seeded())).float()
    torch.manual_seed(0)
    model = HyvarinenScoreNetwork(2, DRIFTING, width=64, log_std=0.6)
    fit_hyvarinen_score(model, data, n_steps=600, learning_rate=3e-3, generator=seeded())
    x = DRIFTING.perturb(data, 0.3, normal(5000, 2, seed=1).float())
    truth = exact(x, 0.3)
    error = (model(x, 0.3) - truth).square().mean() / (truth + 1).square().mean()
    assert error.sqrt() < 0.15


def test_any_module_with_a_schedule_trains():
    class Linear(nn.Module):
        schedule = SCHEDULE

        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
            total = 0.09 + self.schedule.log_std(t).to(x).square()
            return -1 - (x.log() - self.mean) / total[:, None]

    model = Linear()
    data = torch.exp(0.8 + 0.3 * normal(2000, 1)).float()
    fit_hyvarinen_score(model, data, n_steps=300, learning_rate=0.05, generator=seeded())
    assert model.mean.item() == pytest.approx(0.8, abs=0.05)


# ---------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("step", "h", "noise", "expected"),
    [
        (dale_langevin_step, -1.0, 0.0, 2.0),
        (dale_langevin_step, 0.0, 0.0, 2.0128410),
        (dale_langevin_step, 0.0, 1.0, 2.1804847),
        (ambient_step, 0.0, 0.0, 2.0192),
        (ambient_step, -1.0, 0.0, 2.0064),
    ],
)
def test_step_vectors(step, h, noise, expected):
    x, h, noise = (torch.tensor([value], dtype=torch.float64) for value in (2.0, h, noise))
    assert step(x, h, 0.01, 0.32, 0.8, noise).item() == pytest.approx(expected, abs=1e-7)


def test_a_step_is_that_of_the_core_on_logarithms():
    """With the drift that leaves the mean of the logarithm where it is."""
    model = log_mixture(SCHEDULE)
    z = normal(50, 2)
    times = torch.tensor([0.6, 0.55])
    theirs = solve_sde(model.denoiser, z, times, generator=seeded(3)).x
    noise = torch.randn(z.shape, generator=seeded(3), dtype=z.dtype)
    t, step = times.double()[0].item(), (times.double()[0] - times.double()[1]).item()
    x = torch.exp(z)
    ours = dale_langevin_step(x, model(x, t), step, SCHEDULE.drift, SCHEDULE.sigma, noise)
    torch.testing.assert_close(ours, torch.exp(theirs), atol=1e-12, rtol=1e-12)


@given(
    x=st.floats(-50, 50).filter(lambda x: abs(x) > 1e-6),
    h=st.floats(-20, 20),
    step=st.floats(1e-6, 1),
    noise=st.floats(-6, 6),
)
@settings(deadline=None)
def test_no_dale_langevin_step_turns_a_sign(x, h, step, noise):
    x, h, noise = (torch.tensor([value], dtype=torch.float64) for value in (x, h, noise))
    assert torch.equal(dale_langevin_step(x, h, step, 0.32, 0.8, noise).sign(), x.sign())


@given(x=st.floats(1e-6, 1e6), h=st.floats(-20, 20), step=st.floats(1e-6, 1), sigma=st.floats(0.05, 2))
@settings(deadline=None)
def test_without_noise_it_is_exponentiated_gradient_descent(x, h, step, sigma):
    x, h = (torch.tensor([value], dtype=torch.float64) for value in (x, h))
    ours = dale_langevin_step(x, h, step, sigma**2 / 2, sigma, torch.zeros_like(x))
    descent = exponentiated_gradient_step(x, -(h + 1), step * sigma**2)
    torch.testing.assert_close(ours, descent, rtol=1e-12, atol=0)


def test_exponentiated_descent_is_descent_in_its_mirror():
    weights, gradient = normal(100), normal(100, seed=1)
    moved = exponentiated_gradient_step(weights, gradient, 0.1)
    assert torch.equal(moved.sign(), weights.sign())
    torch.testing.assert_close(moved.abs().log(), weights.abs().log() - 0.1 * weights.sign() * gradient)
    # A small step is a step of descent whose rate is the size of each weight.
    small = exponentiated_gradient_step(weights, gradient, 1e-6)
    torch.testing.assert_close((small - weights) / 1e-6, -weights.abs() * gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("sigma", "mu"), [(0.8, 0.32), (0.5, 0.4)])
def test_the_two_steps_differ_by_a_vanishing_part(sigma, mu):
    """They differ by ``step sigma^2 (noise^2 - 1) / 2``, on average by the order step^2."""
    noise = normal(400_000)
    noise = torch.cat((noise, -noise)) / noise.std(correction=0)
    x, h = torch.full_like(noise, 1.5), torch.full_like(noise, 0.7)

    def gap(step: float) -> Tensor:
        return dale_langevin_step(x, h, step, mu, sigma, noise) - ambient_step(x, h, step, mu, sigma, noise)

    steps = (0.004, 0.001)
    typical = [gap(step).square().mean().sqrt().item() for step in steps]
    average = [abs(gap(step).mean().item()) for step in steps]
    assert typical[0] / typical[1] == pytest.approx(4, rel=0.1)
    assert average[0] / average[1] == pytest.approx(16, rel=0.1)


# ---------------------------------------------------------------------- sampling


@schedules
@pytest.mark.parametrize("method", ["dale_langevin", "ambient"])
def test_both_samplers_return_the_law_of_the_data(schedule, method):
    model = log_mixture(schedule)
    data, other = (model.denoiser.sample(4000, generator=seeded(seed)) for seed in (0, 1))
    start = schedule.perturb(torch.exp(data), schedule.t_max, normal(4000, 2, seed=2))
    steps = schedule.timesteps(150)
    samples = sample_multiplicative(model, start, steps, method=method, generator=seeded(3))
    floor = sliced_wasserstein(data, other)
    assert sliced_wasserstein(samples.log(), other) < floor + 0.05


def test_the_samplers_agree_in_law_on_a_fine_grid():
    model = log_normal(SCHEDULE, 0.2, 0.4)
    start = SCHEDULE.sample_prior(
        (6000, 1), log_mean=0.2, log_std=0.4, generator=seeded(), dtype=torch.float64
    )
    samples = [
        sample_multiplicative(model, start, SCHEDULE.timesteps(1000), method=method, generator=seeded(seed))
        for seed, method in enumerate(("dale_langevin", "ambient"))
    ]
    assert stats.ks_2samp(*(sample.flatten().numpy() for sample in samples)).pvalue > 1e-3
    for sample in samples:
        assert (
            stats.kstest(sample.flatten().numpy(), stats.lognorm(0.4, scale=math.exp(0.2)).cdf).pvalue > 1e-3
        )


def test_one_step_without_noise_is_the_posterior_mean_of_the_logarithm():
    model = log_mixture(SCHEDULE)
    x = torch.exp(normal(20, 2))
    sample = sample_multiplicative(model, x, torch.tensor([0.4, 0.0], dtype=torch.float64))
    torch.testing.assert_close(sample.log(), model.denoiser(x.log(), 0.4))


class Recorder(nn.Module):
    """Leaves every state where it is, save the noise, and keeps the times it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = SCHEDULE
        self.times: list[float] = []

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        self.times.append(float(t))
        return torch.full_like(x, -1)


def test_inner_steps_share_the_interval_and_the_model_sees_its_left_end():
    model, x = Recorder(), torch.ones(50_000, 1, dtype=torch.float64)
    times = torch.tensor([0.8, 0.5, 0.1], dtype=torch.float64)
    samples = sample_multiplicative(model, x, times, inner_steps=2, denoise_steps=0, generator=seeded())
    assert model.times == [0.8, 0.8, 0.5, 0.5]
    assert samples.log().var().item() == pytest.approx(0.64 * 0.7, rel=0.03)


@pytest.mark.parametrize(
    ("denoise_steps", "noises"), [(0, [1, 1, 0.5, 0.5]), (1, [1, 1, 0.5, 0]), (4, [0] * 4)]
)
def test_noise_decays_from_time_to_time_and_stops_at_the_end(denoise_steps, noises):
    x = torch.ones(50_000, 1, dtype=torch.float64)
    samples = sample_multiplicative(
        Recorder(),
        x,
        SCHEDULE.timesteps(2),
        step_size=0.2,
        inner_steps=2,
        noise_decay=0.5,
        denoise_steps=denoise_steps,
        generator=seeded(),
    )
    expected = 0.2 * 0.64 * sum(noise**2 for noise in noises)
    assert samples.log().var().item() == pytest.approx(expected, rel=0.03, abs=1e-12)


def test_seeds_repeat():
    model = HyvarinenScoreNetwork(2, SCHEDULE, width=8)
    x = SCHEDULE.sample_prior((10, 2), generator=seeded())
    runs = [
        sample_multiplicative(model, x, SCHEDULE.timesteps(5), generator=seeded(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_long_ambient_step_is_reported_and_a_long_dale_langevin_step_stays_positive():
    model = log_normal(SCHEDULE, 0.0, 0.2, dim=2)
    x = SCHEDULE.sample_prior((2000, 2), generator=seeded(), dtype=torch.float64)
    options = {"step_size": 0.5, "generator": seeded()}
    with pytest.raises(RuntimeError, match=r"step [1-4] of 4 .*more steps.*dale_langevin"):
        sample_multiplicative(model, x, SCHEDULE.timesteps(4), method="ambient", **options)
    assert (sample_multiplicative(model, x, SCHEDULE.timesteps(4), **options) > 0).all()


def test_a_score_that_explodes_is_reported():
    model = perturbed(log_normal(SCHEDULE, 0.0, 1.0), lambda x, h: h * 1e6)
    with pytest.raises(RuntimeError, match="score is too large"):
        sample_multiplicative(model, 2 * torch.ones(3, 1), SCHEDULE.timesteps(4))


# ---------------------------------------------------------------------- bad input

POSITIVE = torch.ones(4, 2)
MODEL = HyvarinenScoreNetwork(2, SCHEDULE, width=8)
GRID = SCHEDULE.timesteps(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GeometricBrownianSchedule(sigma=0), "sigma is to be positive, got 0"),
        (lambda: GeometricBrownianSchedule(mu=math.nan), "mu is to be finite"),
        (lambda: GeometricBrownianSchedule(t_min=0), "0 < t_min < t_max"),
        (lambda: BrownianSchedule(rate=-1), "rate is to be positive, got -1"),
        (lambda: BrownianSchedule(t_min=2), "0 <= t_min < t_max"),
        (lambda: SCHEDULE.timesteps(0), "n is to be 1 or more"),
        (lambda: SCHEDULE.perturb(POSITIVE - 1, 0.5, POSITIVE), "x0 is to hold positive finite numbers"),
        (lambda: SCHEDULE.perturb(POSITIVE * math.inf, 0.5, POSITIVE), "x0 is to hold positive"),
        (lambda: SCHEDULE.perturb(POSITIVE, 0.5, torch.zeros(4, 3)), r"shape of x0, \(4, 2\), got \(4, 3\)"),
        (lambda: SCHEDULE.perturb(POSITIVE, 0.0, POSITIVE), "t is to be above 0 and at most 1"),
        (lambda: SCHEDULE.perturb(POSITIVE, 1.5, POSITIVE), "t is to be above 0 and at most 1"),
        (lambda: SCHEDULE.perturb(POSITIVE, torch.ones(3), POSITIVE), "t is to be one time or 4"),
        (lambda: MODEL(-POSITIVE, 0.5), "x is to hold positive finite numbers"),
        (lambda: MODEL(POSITIVE, -0.5), "t is to be above 0"),
        (lambda: MODEL(torch.ones(4, 3), 0.5), r"shape \(B, 2\)"),
        (lambda: HyvarinenScoreNetwork(0, SCHEDULE), "dim is to be 1 or more"),
        (lambda: HyvarinenScoreNetwork(2, SCHEDULE, log_std=0), "log_std is to be positive"),
        (
            lambda: HyvarinenScore(MLPDenoiser(2, EDMSchedule()), SCHEDULE),
            "is to be made for BrownianSchedule",
        ),
        (lambda: denoising_target(SCHEDULE, 2.0, POSITIVE), "t is to be above 0"),
        (lambda: fit_hyvarinen_score(MODEL, POSITIVE * math.nan, n_steps=1), "data is to hold positive"),
        (lambda: fit_hyvarinen_score(MODEL, POSITIVE[:0], n_steps=1), "data is to hold positive"),
        (lambda: fit_hyvarinen_score(MODEL, POSITIVE, n_steps=0), "n_steps is to be 1 or more"),
        (lambda: nonnegative_score_matching_loss(torch.log, -POSITIVE), "x is to hold positive"),
        (
            lambda: nonnegative_score_matching_loss(lambda x: x[:, :1], POSITIVE),
            r"shape \(4, 2\), got \(4, 1\)",
        ),
        (lambda: nonnegative_score_matching_loss(torch.ones_like, POSITIVE), "differentiable in x"),
        (lambda: sample_multiplicative(MODEL, POSITIVE, GRID, method="euler"), "method is to be one of"),
        (
            lambda: sample_multiplicative(MODEL, POSITIVE, GRID, inner_steps=0),
            "inner_steps is to be 1 or more",
        ),
        (lambda: sample_multiplicative(MODEL, POSITIVE, GRID, step_size=0), "step_size is to be positive"),
        (lambda: sample_multiplicative(MODEL, POSITIVE, GRID, noise_decay=0), "noise_decay is to be above 0"),
        (
            lambda: sample_multiplicative(MODEL, POSITIVE, GRID, noise_decay=1.1),
            "noise_decay is to be above 0",
        ),
        (
            lambda: sample_multiplicative(MODEL, POSITIVE, GRID, denoise_steps=4),
            "denoise_steps is to be from 0 to 3",
        ),
        (lambda: sample_multiplicative(MODEL, 0 * POSITIVE, GRID), "x is to hold positive"),
        (lambda: sample_multiplicative(MODEL, POSITIVE, GRID.flip(0)), "strictly decreasing"),
        (lambda: sample_multiplicative(MODEL, POSITIVE, 2 * GRID), "t is to be above 0 and at most 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_with_another_schedule_is_refused():
    with pytest.raises(TypeError, match="GeometricBrownianSchedule"):
        fit_hyvarinen_score(MLPDenoiser(2, EDMSchedule()), POSITIVE, n_steps=1)


def test_times_of_single_precision_reach_the_last_time():
    schedule = GeometricBrownianSchedule(t_max=0.7)
    times = torch.full((4,), 0.7)
    assert np.isfinite(schedule.perturb(POSITIVE, times, torch.zeros(4, 2)).numpy()).all()
