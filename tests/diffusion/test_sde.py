"""The core of the diffusion field: schedules by finite differences, exact models, orders of convergence."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from assay.diffusion.metrics import sliced_wasserstein
from assay.diffusion.sde import (
    AdaptedDenoiser,
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
    solve_sde,
)

SCHEDULES = [VPSchedule(), VPSchedule(2, 2, t_max=4.0), VESchedule(), EDMSchedule()]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(schedule: NoiseSchedule) -> GaussianMixtureDenoiser:
    means = torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.2]], dtype=torch.float64)
    factors = torch.randn(3, 2, 2, generator=seeded(5), dtype=torch.float64) / 4
    covariances = factors @ factors.mT + 0.01 * torch.eye(2, dtype=torch.float64)
    return GaussianMixtureDenoiser(means, covariances, torch.tensor([0.5, 0.3, 0.2]), schedule)


# ---------------------------------------------------------------------- schedules


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_drift_and_diffusion_generate_alpha_and_sigma(schedule: NoiseSchedule) -> None:
    span = schedule.t_max - schedule.t_min
    t = torch.linspace(schedule.t_min + 0.05 * span, schedule.t_max, 40, dtype=torch.float64)
    t = t.requires_grad_()
    log_alpha = schedule.alpha(t).log()
    (f,) = torch.autograd.grad(log_alpha.sum(), t) if log_alpha.requires_grad else (torch.zeros_like(t),)
    (growth,) = torch.autograd.grad(schedule.sigma(t).square().sum(), t)
    torch.testing.assert_close(schedule.drift_coefficient(t), f, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        schedule.diffusion(t).square(), growth - 2 * f * schedule.sigma(t).square(), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_times_come_back_in_the_form_they_came_in(schedule: NoiseSchedule) -> None:
    for method in (schedule.alpha, schedule.sigma, schedule.drift_coefficient, schedule.diffusion):
        assert method(0.5).dtype == torch.float64
        assert method(0.5).ndim == 0
        single = torch.tensor([0.25, 0.5])
        assert method(single).shape == (2,)
        assert method(single).dtype == torch.float32
        torch.testing.assert_close(method(single.double())[1], method(0.5))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("count", [1, 2, 17])
def test_grids_fall_from_the_last_time(schedule: NoiseSchedule, count: int) -> None:
    times = schedule.timesteps(count)
    assert times.shape == (count + 1,)
    assert times.dtype == torch.float64
    assert times[0] == schedule.t_max
    assert (times.diff() < 0).all()
    drawn = schedule.sample_times(1000, generator=seeded())
    assert drawn.min() >= schedule.t_min
    assert drawn.max() <= schedule.t_max


def test_the_grid_of_karras() -> None:
    levels = EDMSchedule().timesteps(18).tolist()
    expected = [80.0, 57.586, 40.786, 28.375, 19.352, 12.910, 8.401]
    assert levels[:7] == pytest.approx(expected, abs=1e-3)
    assert levels[-3:] == pytest.approx([0.008, 0.002, 0.0], abs=1e-3)


def test_variance_is_preserved_and_the_process_of_ornstein_and_uhlenbeck_is_a_case() -> None:
    t = torch.linspace(1e-3, 1, 50, dtype=torch.float64)
    vp = VPSchedule()
    torch.testing.assert_close(vp.alpha(t).square() + vp.sigma(t).square(), torch.ones_like(t))
    ou = VPSchedule(2, 2, t_max=5.0)
    torch.testing.assert_close(ou.alpha(t), torch.exp(-t))
    torch.testing.assert_close(ou.sigma(t).square(), 1 - torch.exp(-2 * t))
    # A difference of near equals would have no digits left here.
    assert float(VPSchedule(2, 2).sigma(1e-14)) == pytest.approx(math.sqrt(2e-14), rel=1e-9)


def test_perturbation_has_the_moments_of_the_process() -> None:
    schedule = VPSchedule()
    x0 = torch.full((20_000, 2), 3.0)
    noise = torch.randn(x0.shape, generator=seeded())
    x = schedule.perturb(x0, 0.3, noise)
    assert x.dtype == torch.float32
    assert x.mean(0).numpy() == pytest.approx(3 * float(schedule.alpha(0.3)), abs=0.03)
    assert x.std(0).numpy() == pytest.approx(float(schedule.sigma(0.3)), abs=0.03)
    images = torch.zeros(2, 1, 4, 4)
    times = torch.tensor([0.1, 0.9])
    assert schedule.perturb(images, times, torch.ones_like(images))[:, 0, 0, 0].tolist() == pytest.approx(
        schedule.sigma(times).tolist()
    )
    prior = schedule.sample_prior((50_000,), generator=seeded(), dtype=torch.float64)
    assert float(prior.std()) == pytest.approx(float(schedule.sigma(1.0)), abs=0.02)


# ---------------------------------------------------------------------- exact models


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_mixtures_score_is_the_gradient_of_its_density_and_tweedies(schedule: NoiseSchedule) -> None:
    model = mixture(schedule)
    x = 2 * torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    low, high = (schedule.t_min + share * (schedule.t_max - schedule.t_min) for share in (0.05, 0.7))
    for t in (
        high,
        torch.tensor(low, dtype=torch.float64),
        torch.linspace(low, high, 6, dtype=torch.float64),
    ):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model.log_prob(leaf, t).sum(), leaf)
        torch.testing.assert_close(model.score(x, t), gradient, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(Denoiser.score(model, x, t), gradient, rtol=1e-8, atol=1e-8)


def test_one_component_is_a_gaussian() -> None:
    schedule = VPSchedule()
    mean, factor = np.array([1.0, -2.0]), np.array([[1.0, 0.4], [0.0, 0.5]])
    covariance = factor @ factor.T
    model = GaussianMixtureDenoiser(
        torch.tensor(mean)[None], torch.tensor(covariance)[None], torch.ones(1), schedule
    )
    alpha, sigma = float(schedule.alpha(0.4)), float(schedule.sigma(0.4))
    noisy = alpha**2 * covariance + sigma**2 * np.eye(2)
    x = np.random.default_rng(0).standard_normal((5, 2))
    expected = stats.multivariate_normal(alpha * mean, noisy).logpdf(x)
    np.testing.assert_allclose(model.log_prob(torch.tensor(x), 0.4).numpy(), expected, rtol=1e-12)
    posterior = mean + (x - alpha * mean) @ np.linalg.inv(noisy) @ (alpha * covariance)
    np.testing.assert_allclose(model(torch.tensor(x), 0.4).numpy(), posterior, rtol=1e-10)
    draws = model.sample(200_000, generator=seeded()).numpy()
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.02)


def test_points_of_a_mixture_may_have_any_shape() -> None:
    model = GaussianMixtureDenoiser(torch.zeros(1, 12), torch.eye(12)[None], torch.ones(1), EDMSchedule())
    images = torch.ones(3, 1, 3, 4)
    assert model(images, 1.0).shape == images.shape
    assert model.score(images, torch.ones(3)).shape == images.shape
    assert model(images, 1.0).dtype == torch.float32


def test_point_masses_are_found_again_without_noise() -> None:
    model = GaussianMixtureDenoiser(
        torch.tensor([[0.0], [4.0]]), torch.zeros(2, 1, 1), torch.tensor([0.5, 0.5]), EDMSchedule()
    )
    x = torch.tensor([[0.3], [3.0]], dtype=torch.float64)
    assert model(x, 1e-4).tolist() == [[0.0], [4.0]]


# ---------------------------------------------------------------------- networks


class Frozen(Denoiser):
    """Predicts the same data whatever it sees."""

    def __init__(self, schedule: NoiseSchedule, value: float) -> None:
        super().__init__(schedule)
        self.value = value

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        return torch.full_like(x, self.value)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_untrained_network_is_the_linear_guess(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    vectors = MLPDenoiser(3, schedule, sigma_data=0.7).to(dtype)
    fields = UNetDenoiser(2, schedule, width=8, sigma_data=0.7).to(dtype)
    for model, shape in ((vectors, (4, 3)), (fields, (4, 2, 4, 6))):
        x = torch.randn(shape, generator=seeded(), dtype=dtype)
        t = torch.linspace(0.3, 0.9, 4, dtype=dtype)
        size = (4, *[1] * (len(shape) - 1))
        alpha, sigma = schedule.alpha(t).view(size), schedule.sigma(t).view(size)
        expected = 0.49 / ((sigma / alpha).square() + 0.49) * x / alpha
        found = model(x, t)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(model(x, 0.5), model(x, torch.full((4,), 0.5, dtype=dtype)))


def test_a_circle_has_no_seam() -> None:
    torch.manual_seed(0)
    model = UNetDenoiser(1, EDMSchedule(), width=8, levels=2, periodic_width=True).double()
    torch.nn.init.normal_(model.last.convolution.weight)
    x = torch.randn(2, 1, 8, 16, generator=seeded(), dtype=torch.float64)
    turned = model(x.roll(4, dims=-1), 0.5)
    torch.testing.assert_close(turned, model(x, 0.5).roll(4, dims=-1))
    assert not torch.allclose(model(x.roll(4, dims=-2), 0.5), model(x, 0.5).roll(4, dims=-2))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_other_peoples_networks_are_adapted(prediction: str) -> None:
    schedule = VPSchedule()
    truth = mixture(schedule)
    seen = []

    def network(x: Tensor, timestep: Tensor) -> SimpleNamespace:
        seen.append(timestep)
        t = (timestep + 1) / 1000
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        data = truth(x, t)
        noise = (x - alpha * data) / sigma
        answers = {"epsilon": noise, "v_prediction": alpha * noise - sigma * data, "sample": data}
        return SimpleNamespace(sample=answers[prediction])

    model = AdaptedDenoiser(network, schedule, prediction=prediction)
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(model(x, 0.5), truth(x, 0.5))
    assert seen[0].tolist() == pytest.approx([499.0] * 5)
    torch.testing.assert_close(model.score(x, 0.3), truth.score(x, 0.3))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_losses(schedule: NoiseSchedule) -> None:
    model = mixture(schedule)
    x0 = model.sample(8, generator=seeded())
    noise = torch.randn(x0.shape, generator=seeded(1), dtype=torch.float64)
    t = torch.linspace(0.3, 0.9, 8, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x = schedule.perturb(x0, t, noise)
    predicted_noise = (x - alpha[:, None] * model(x, t)) / sigma[:, None]
    expected = (predicted_noise - noise).square().mean(1)
    torch.testing.assert_close(denoising_loss(model, x0, t, noise, weighting="score"), expected)
    score_error = (model.score(x, t) + noise / sigma[:, None]).square().mean(1)
    torch.testing.assert_close(
        denoising_loss(model, x0, t, noise, weighting="likelihood"),
        schedule.diffusion(t).square() * score_error,
    )
    untrained = MLPDenoiser(2, schedule, sigma_data=2.0).double()
    plain = denoising_loss(untrained, x0, t, noise, weighting="denoiser")
    s_hat = sigma / alpha
    torch.testing.assert_close(
        denoising_loss(untrained, x0, t, noise), plain * (s_hat**2 + 4) / (2 * s_hat) ** 2
    )


def test_training_finds_the_mixture_and_repeats_itself() -> None:
    generator = seeded(3)
    means = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    covariances = 0.09 * torch.eye(8, dtype=torch.float64).expand(5, 8, 8)
    truth = GaussianMixtureDenoiser(means, covariances, torch.full((5,), 0.2), EDMSchedule())
    data = truth.sample(4000, generator=generator).float()

    def trained(n_steps: int) -> MLPDenoiser:
        torch.manual_seed(0)
        model = MLPDenoiser(8, EDMSchedule(), width=64, sigma_data=float(data.std()))
        losses = fit_denoiser(model, data, n_steps=n_steps, batch_size=128, generator=seeded())
        assert len(losses) == n_steps
        return model

    def distance(model: Denoiser) -> float:
        start = EDMSchedule().sample_prior((2000, 8), generator=seeded(7))
        return sliced_wasserstein(solve_ode(model, start, EDMSchedule().timesteps(20)).x, data)

    model = trained(600)
    assert distance(model) < 0.2
    assert distance(truth) < 0.1
    assert distance(MLPDenoiser(8, EDMSchedule(), sigma_data=float(data.std()))) > 0.3
    for first, second in zip(trained(5).parameters(), trained(5).parameters(), strict=True):
        assert torch.equal(first, second)


def test_what_training_leaves_is_an_average() -> None:
    data = torch.randn(50, 2, generator=seeded())
    lives: list[Tensor] = []
    torch.manual_seed(0)
    model = MLPDenoiser(2, EDMSchedule(), width=8)
    average = model.first.weight.detach().clone()

    def callback(step: int, model: Denoiser) -> None:
        lives.append(model.first.weight.detach().clone())

    fit_denoiser(model, data, n_steps=12, ema_decay=0.5, generator=seeded(), callback=callback)
    for step, live in enumerate(lives):
        keep = min(0.5, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * live
    torch.testing.assert_close(model.first.weight.detach(), average)


# ---------------------------------------------------------------------- solvers


@pytest.mark.parametrize("method", ["euler", "heun", "dpm_solver_2m"])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_constant_denoiser_is_reached_exactly(method: str, count: int) -> None:
    schedule = EDMSchedule()
    x = schedule.sample_prior((4, 3), generator=seeded(), dtype=torch.float64)
    result = solve_ode(Frozen(schedule, 2.5), x, schedule.timesteps(count), method=method)
    torch.testing.assert_close(result.x, torch.full_like(x, 2.5), rtol=0, atol=1e-12)
    assert result.n_evaluations == {"euler": count, "heun": 2 * count - 1, "dpm_solver_2m": count}[method]


@pytest.mark.parametrize("schedule", [VPSchedule(), VESchedule(), EDMSchedule()], ids=repr)
@pytest.mark.parametrize(("method", "factor"), [("euler", 1.6), ("heun", 3.0), ("dpm_solver_2m", 2.6)])
def test_order_of_convergence(schedule: NoiseSchedule, method: str, factor: float) -> None:
    model = mixture(schedule)
    x = schedule.sample_prior((50, 2), generator=seeded(), dtype=torch.float64)
    if isinstance(schedule, VPSchedule) and method == "dpm_solver_2m":
        factor = 1.8  # uniform times are a coarse grid in log signal to noise

    def reached(count: int, method: str) -> Tensor:
        times = schedule.timesteps(count)
        # Compared where noise is left: the step to none is of first order.
        return solve_ode(model, x, times[schedule.sigma(times) > 0], method=method).x

    reference = reached(800, "heun")
    errors = [float((reached(count, method) - reference).norm(dim=1).mean()) for count in (40, 80, 160)]
    assert errors[0] / errors[1] > factor
    assert errors[1] / errors[2] > factor


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_flow_of_a_gaussian_in_closed_form(schedule: NoiseSchedule) -> None:
    variances = torch.tensor([0.25, 4.0], dtype=torch.float64)
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    model = GaussianMixtureDenoiser(mean[None], torch.diag(variances)[None], torch.ones(1), schedule)
    x = schedule.sample_prior((50, 2), generator=seeded(), dtype=torch.float64)
    times = schedule.timesteps(800)
    times = times[schedule.sigma(times) > 0]
    (a0, a1), (s0, s1) = (level(times[[0, -1]]).tolist() for level in (schedule.alpha, schedule.sigma))
    stretch = ((a1**2 * variances + s1**2) / (a0**2 * variances + s0**2)).sqrt()
    expected = a1 * mean + stretch * (x - a0 * mean)
    torch.testing.assert_close(solve_ode(model, x, times).x, expected, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("schedule", SCHEDULES[:1] + SCHEDULES[3:], ids=repr)
@pytest.mark.parametrize("noise_scale", [0.0, 1.0, 1.5])
def test_reverse_processes_keep_the_marginals(schedule: NoiseSchedule, noise_scale: float) -> None:
    model = GaussianMixtureDenoiser(torch.tensor([[1.0]]), torch.tensor([[[0.5]]]), torch.ones(1), schedule)
    x = schedule.sample_prior((20_000, 1), generator=seeded(), dtype=torch.float64)
    result = solve_sde(model, x, schedule.timesteps(400), noise_scale=noise_scale, generator=seeded(1))
    assert result.n_evaluations == 400
    assert float(result.x.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(result.x.var()) == pytest.approx(0.5, abs=0.06)


def test_trajectories_and_seeds() -> None:
    schedule = VPSchedule()
    model = mixture(schedule)
    x = schedule.sample_prior((3, 2), generator=seeded())
    times = schedule.timesteps(6)
    path = solve_ode(model, x, times, method="euler", return_trajectory=True)
    assert path.trajectory is not None
    assert path.trajectory.shape == (7, 3, 2)
    assert torch.equal(path.trajectory[0], x)
    assert torch.equal(path.trajectory[-1], path.x)
    assert path.x.dtype == torch.float32
    first, again, other = (solve_sde(model, x, times, generator=seeded(s)).x for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_without_noise_the_reverse_process_is_deterministic(count: int, seed: int) -> None:
    schedule = VPSchedule()
    model = mixture(schedule)
    x = schedule.sample_prior((2, 2), generator=seeded(seed), dtype=torch.float64)
    first = solve_sde(model, x, schedule.timesteps(count), noise_scale=0.0)
    second = solve_sde(model, x, schedule.timesteps(count), noise_scale=0.0)
    assert torch.equal(first.x, second.x)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPSchedule(beta_min=0), "beta_min"),
        (lambda: VPSchedule(beta_min=3, beta_max=2), "got 3 and 2"),
        (lambda: VPSchedule(t_min=1.0), "t_min < t_max"),
        (lambda: VESchedule(sigma_min=2, sigma_max=1), "sigma_min < sigma_max"),
        (lambda: EDMSchedule(sigma_min=-1), "got -1"),
        (lambda: EDMSchedule(rho=0), "rho is to be positive"),
        (lambda: VPSchedule().timesteps(0), "num_steps is to be 1 or more, got 0"),
        (lambda: EDMSchedule().timesteps(0), "num_steps"),
        (lambda: MLPDenoiser(0, VPSchedule()), "dim"),
        (lambda: MLPDenoiser(2, VPSchedule(), sigma_data=0), "sigma_data"),
        (lambda: MLPDenoiser(2, VPSchedule())(torch.zeros(3, 4), 0.5), r"shape \(B, 2\)"),
        (lambda: MLPDenoiser(2, VPSchedule())(torch.zeros(3, 2), torch.ones(2)), "one time or 3"),
        (lambda: UNetDenoiser(1, VPSchedule())(torch.zeros(1, 1, 5, 4), 0.5), "multiples of 2"),
        (lambda: AdaptedDenoiser(lambda x, t: x, VPSchedule(), prediction="noise"), "prediction"),
        (lambda: solve_ode(Frozen(VPSchedule(), 0), torch.zeros(1, 1), torch.ones(1)), "timesteps"),
        (
            lambda: solve_ode(Frozen(VPSchedule(), 0), torch.zeros(1, 1), torch.tensor([0.1, 0.2])),
            "decreasing",
        ),
        (
            lambda: solve_ode(
                Frozen(VPSchedule(), 0), torch.zeros(1, 1), torch.tensor([1, 0.5]), method="rk4"
            ),
            "method",
        ),
        (
            lambda: solve_sde(
                Frozen(VPSchedule(), 0), torch.zeros(1, 1), torch.tensor([1, 0.5]), noise_scale=-1
            ),
            "noise_scale",
        ),
        (
            lambda: denoising_loss(
                MLPDenoiser(1, VPSchedule()), torch.zeros(1, 1), 0.5, torch.zeros(1, 1), weighting="snr"
            ),
            "weighting",
        ),
        (
            lambda: denoising_loss(MLPDenoiser(1, VPSchedule()), torch.zeros(2, 1), 0.5, torch.zeros(1, 1)),
            "noise is to have the shape",
        ),
        (
            lambda: denoising_loss(Frozen(VPSchedule(), 0), torch.zeros(1, 1), 0.5, torch.zeros(1, 1)),
            "sigma_data",
        ),
        (lambda: fit_denoiser(MLPDenoiser(1, VPSchedule()), torch.zeros(3, 1), n_steps=0), "n_steps"),
        (
            lambda: fit_denoiser(MLPDenoiser(1, VPSchedule()), torch.zeros(3, 1), n_steps=1, batch_size=0),
            "batch_size",
        ),
        (
            lambda: fit_denoiser(MLPDenoiser(1, VPSchedule()), torch.full((3, 1), math.nan), n_steps=1),
            "data is to be finite",
        ),
    ],
)
def test_what_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": torch.zeros(2)}, "means is to have shape"),
        ({"covariances": torch.eye(2)[None]}, "covariances is to have shape"),
        ({"weights": torch.ones(3) / 3}, "weights is to have shape"),
        ({"weights": torch.tensor([1.5, -0.5])}, "shares of sum 1"),
        ({"weights": torch.tensor([0.5, 0.6])}, "shares of sum 1"),
        ({"covariances": torch.tensor([[[1.0, 0.5], [0.0, 1.0]]] * 2)}, "symmetric"),
        ({"covariances": torch.diag(torch.tensor([1.0, -1.0])).expand(2, 2, 2)}, "positive semi-definite"),
    ],
)
def test_what_is_no_mixture_is_refused(changes: dict[str, Tensor], message: str) -> None:
    good = {
        "means": torch.zeros(2, 2),
        "covariances": torch.eye(2).expand(2, 2, 2),
        "weights": torch.tensor([0.5, 0.5]),
    }
    with pytest.raises(ValueError, match=message):
        GaussianMixtureDenoiser(**good | changes, schedule=VPSchedule())
    with pytest.raises(ValueError, match="2 numbers a point"):
        GaussianMixtureDenoiser(**good, schedule=VPSchedule())(torch.zeros(1, 3), 0.5)
