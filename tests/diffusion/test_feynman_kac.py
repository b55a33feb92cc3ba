"""Feynman-Kac correctors: the evolution of each target by differences, limits, closed forms, resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assay.diffusion.feynman_kac import (
    CorrectorTerms,
    FeynmanKacResult,
    GeometricTarget,
    RewardTilted,
    annealed,
    guided,
    product,
    sample_feynman_kac,
    systematic_resample,
)
from assay.diffusion.sde import (
    Denoiser,
    EDMSchedule,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    NoiseSchedule,
    VESchedule,
    VPSchedule,
    solve_sde,
)

SCHEDULES = [VPSchedule(), VESchedule(), EDMSchedule()]
FINE = EDMSchedule(sigma_min=0.01, sigma_max=15)
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(schedule: NoiseSchedule, seed: int = 0, dim: int = 2) -> GaussianMixtureDenoiser:
    generator = seeded(seed)
    means = torch.randn(3, dim, generator=generator, dtype=torch.float64)
    factors = torch.randn(3, dim, dim, generator=generator, dtype=torch.float64) / 2
    covariances = factors @ factors.mT + 0.1 * torch.eye(dim, dtype=torch.float64)
    return GaussianMixtureDenoiser(means, covariances, torch.tensor([0.5, 0.3, 0.2]), schedule)


def gaussian(schedule: NoiseSchedule, mean: list[float], variance: float) -> GaussianMixtureDenoiser:
    dim = len(mean)
    covariances = variance * torch.eye(dim, dtype=torch.float64)[None]
    return GaussianMixtureDenoiser(torch.tensor([mean]), covariances, torch.ones(1), schedule)


class Slope(Denoiser):
    """A model whose score is the same everywhere."""

    def __init__(self, schedule: NoiseSchedule, slope: float) -> None:
        super().__init__(schedule)
        self.slope = slope

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        return torch.full_like(x, self.slope)


def sampled(
    target: GeometricTarget | RewardTilted, count: int, dim: int, *, steps: int = 200, seed: int = 0, **kw
) -> FeynmanKacResult:
    generator = seeded(seed)
    x = target.sample_prior((count, dim), generator=generator, dtype=torch.float64)
    return sample_feynman_kac(target, x, target.schedule.timesteps(steps), generator=generator, **kw)


def moments(result: FeynmanKacResult) -> tuple[Tensor, Tensor]:
    weights = result.log_weights.softmax(0)
    mean = weights @ result.x
    return mean, weights @ (result.x - mean).square()


# ---------------------------------------------------------------------- the evolution of the targets


def evolution_error(target, log_density, x: Tensor, t: float) -> float:
    """How far rate, drift and noise are from moving ``exp(log_density)`` as it moves, relative to the sizes
    that are added up."""
    terms = target.terms(x, t)
    points = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_density(points, t).sum(), points, create_graph=True)
    laplacian = torch.zeros(len(x), dtype=x.dtype)
    divergence = torch.zeros(len(x), dtype=x.dtype)
    space = 1e-5 * float(target.schedule.sigma(t))
    for axis in range(x.shape[1]):
        (second,) = torch.autograd.grad(slope[:, axis].sum(), points, retain_graph=True)
        laplacian += second[:, axis]
        shift = torch.zeros_like(x)
        shift[:, axis] = space
        ahead, behind = (target.terms(x + sign * shift, t).drift[:, axis] for sign in (1, -1))
        divergence += (ahead - behind) / (2 * space)
    slope = slope.detach()
    time = 1e-5 * t
    rise = -(log_density(x, t + time) - log_density(x, t - time)) / (2 * time)
    carried = (terms.drift * slope).sum(1)
    spread = terms.diffusion**2 / 2 * (laplacian + slope.square().sum(1))
    expected = rise + divergence + carried - spread
    sizes = torch.stack([part.abs() for part in (rise, divergence, carried, spread)]).sum(0)
    return float(((terms.log_weight_rate - expected).abs() / sizes).max())


@schedules
@pytest.mark.parametrize("noise_scale", [0.0, 0.7, 1.0, 1.5])
@pytest.mark.parametrize("exponents", [[1.0], [2.5], [0.4], [-2.0, 3.0], [1.0, 1.0], [0.7, -0.2, 1.4]])
def test_weights_keep_the_particles_on_a_geometric_target(schedule, noise_scale, exponents):
    models = [mixture(schedule, seed) for seed in range(len(exponents))]
    target = GeometricTarget(models, exponents, noise_scale=noise_scale)

    def log_density(x: Tensor, t: float) -> Tensor:
        return sum(b * model.log_prob(x, t) for b, model in zip(exponents, models, strict=True))

    for share in (0.1, 0.5, 0.9):
        t = schedule.t_min + share * (schedule.t_max - schedule.t_min)
        x = schedule.perturb(
            models[0].sample(50, generator=seeded(9)),
            t,
            torch.randn(50, 2, generator=seeded(8), dtype=torch.float64),
        )
        assert evolution_error(target, log_density, x, t) < 1e-6


@schedules
def test_weights_keep_the_particles_on_a_tilted_target(schedule):
    model = mixture(schedule)
    centre = torch.tensor([0.5, -1.0], dtype=torch.float64)

    def reward(x: Tensor) -> Tensor:
        return torch.sin(2 * x).sum(1) - (x - centre).square().sum(1) / 9

    def strength(t: float) -> float:
        return 2 * (1 - (t / schedule.t_max) ** 2)

    target = RewardTilted(model, reward, strength=strength)
    exact = RewardTilted(model, reward, strength=strength, strength_rate=lambda t: -4 * t / schedule.t_max**2)

    def log_density(x: Tensor, t: float) -> Tensor:
        return model.log_prob(x, t) + strength(t) * reward(x)

    x = torch.randn(50, 2, generator=seeded(8), dtype=torch.float64)
    for share in (0.1, 0.5, 0.9):
        t = schedule.t_min + share * (schedule.t_max - schedule.t_min)
        assert evolution_error(target, log_density, x, t) < 1e-6
        torch.testing.assert_close(
            target.terms(x, t).log_weight_rate, exact.terms(x, t).log_weight_rate, rtol=1e-6, atol=1e-6
        )


def test_the_rate_of_strength_is_differenced_within_the_schedule():
    def strength(t: float) -> float:
        assert 0 <= t <= 1
        return 1 - t

    model = mixture(VESchedule())
    target = RewardTilted(model, lambda x: x.sum(1), strength=strength)
    x = torch.ones(1, 2, dtype=torch.float64)
    assert target.terms(x, 1.0).log_weight_rate.item() == pytest.approx(2.0)
    target.terms(x, 0.0)


# ---------------------------------------------------------------------- limits and worked values


@schedules
def test_a_single_model_needs_no_weights(schedule):
    one, other = mixture(schedule), mixture(schedule, 1)
    x = torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    t = schedule.t_max / 3
    plain = annealed(one, 1.0).terms(x, t)
    assert plain.log_weight_rate.abs().max() == 0
    f, g = float(schedule.drift_coefficient(t)), float(schedule.diffusion(t))
    torch.testing.assert_close(plain.drift, g**2 * one.score(x, t) - f * x)
    assert plain.diffusion == pytest.approx(g)
    for target, model in ((guided(other, one, 1.0), one), (guided(one, other, 0.0), one)):
        terms = target.terms(x, t)
        assert terms.log_weight_rate.abs().max() == 0
        torch.testing.assert_close(terms.drift, annealed(model, 1.0).terms(x, t).drift)


def test_a_single_model_is_sampled_by_the_reverse_process():
    schedule = VPSchedule()
    torch.manual_seed(0)
    model = MLPDenoiser(3, schedule)
    torch.nn.init.normal_(model.last.weight)
    x = schedule.sample_prior((40, 3), generator=seeded())
    ours = sample_feynman_kac(annealed(model, 1.0), x, schedule.timesteps(20), generator=seeded(1))
    theirs = solve_sde(model, x, schedule.timesteps(20), generator=seeded(1))
    assert ours.x.dtype == torch.float32
    torch.testing.assert_close(ours.x, theirs.x)
    assert (ours.log_normalizer, ours.n_resamplings) == (0.0, 0)
    assert not ours.x.requires_grad


@given(st.floats(0.1, 3), st.floats(-1.5, 3), st.sampled_from(SCHEDULES), st.floats(0.05, 1))
@settings(max_examples=30, deadline=None)
def test_identical_models_add_their_exponents(first, second, schedule, share):
    if first + second < 0.05:
        second = first
    model, x = mixture(schedule), torch.randn(10, 2, generator=seeded(), dtype=torch.float64)
    t = schedule.t_min + share * (schedule.t_max - schedule.t_min)
    both, one = (
        product([model, model], [first, second]).terms(x, t),
        annealed(model, first + second).terms(x, t),
    )
    torch.testing.assert_close(both.drift, one.drift)
    torch.testing.assert_close(both.log_weight_rate, one.log_weight_rate)
    assert guided(model, model, second).terms(x, t).log_weight_rate.abs().max() < 1e-9


def test_guidance_that_changes_nothing_weighs_nothing_in_single_precision():
    schedule = EDMSchedule()
    model = mixture(schedule, dim=50)
    x = model.sample(10, generator=seeded()).float()
    rates = guided(model, mixture(schedule, dim=50), 5.0).terms(x, 0.002).log_weight_rate
    assert rates.dtype == torch.float64
    assert (0.002 * rates.abs()).max() < 1e-6


@pytest.mark.parametrize(
    ("schedule", "targets"),
    [
        (EDMSchedule(), {"annealed": 12.0, "guided": 9.0, "product": -2.0}),
        (VPSchedule(4.0, 4.0, t_max=3.0), {"annealed": 8.0, "guided": 9.0, "product": -4.0}),
    ],
    ids=["EDM", "VP"],
)
def test_rates_of_worked_values(schedule, targets):
    one, other = Slope(schedule, 1.0), Slope(schedule, -0.5)
    made = {
        "annealed": annealed(one, 3.0),
        "guided": guided(other, one, 2.0),
        "product": product([one, other]),
    }
    for name, target in made.items():
        assert target.terms(torch.zeros(1, 1), 2.0).log_weight_rate.item() == pytest.approx(targets[name])


def test_tempered_noise_scales_score_and_noise():
    terms = annealed(Slope(EDMSchedule(), 1.0), 2.0, noise="tempered").terms(torch.zeros(1, 1), 2.0)
    assert terms.drift.item() == pytest.approx(4 * (1 + 2) / 2)
    assert terms.diffusion == pytest.approx(2 / math.sqrt(2))


def test_models_without_a_share_are_not_asked():
    class Silent(Denoiser):
        def score(self, x: Tensor, t: float | Tensor) -> Tensor:
            raise AssertionError

    guided(Silent(FINE), mixture(FINE), 1.0).terms(torch.zeros(1, 2), 1.0)


def test_events_of_any_shape_are_vectors():
    schedule = VPSchedule()
    models = [mixture(schedule, seed, dim=12) for seed in range(2)]
    x = torch.randn(5, 12, generator=seeded(), dtype=torch.float64)
    for target in (
        guided(*models, 2.0),
        RewardTilted(models[0], lambda x: x.flatten(1).sin().sum(1), strength=lambda t: 1 - t),
    ):
        flat, image = target.terms(x, 0.5), target.terms(x.reshape(5, 3, 2, 2), 0.5)
        torch.testing.assert_close(image.drift.flatten(1), flat.drift)
        torch.testing.assert_close(image.log_weight_rate, flat.log_weight_rate)


def test_the_prior_is_the_target_at_the_noisiest_time():
    target = product([mixture(FINE), mixture(FINE, 1)], [2.0, 0.5])
    draws = target.sample_prior((100_000, 2), generator=seeded(), dtype=torch.float64)
    assert draws.var().item() == pytest.approx(15**2 / 2.5, rel=0.02)
    grid = torch.linspace(-120, 120, 4001, dtype=torch.float64)
    density = (-(grid**2) / (2 * 15**2)).exp() / math.sqrt(2 * math.pi * 15**2)
    integral = torch.trapezoid(density**2.5, grid)
    assert target.log_prior_normalizer(1) == pytest.approx(math.log(integral))
    assert target.log_prior_normalizer(7) == pytest.approx(7 * math.log(integral))


# ---------------------------------------------------------------------- sampling


@pytest.mark.parametrize("schedule", [FINE, VPSchedule(0.1, 8.0), VESchedule(0.01, 15.0)], ids=repr)
@pytest.mark.parametrize(("beta", "noise"), [(0.5, "target"), (2.0, "target"), (1.25, "tempered")])
def test_an_annealed_gaussian_has_its_moments_and_normaliser(schedule, beta, noise):
    model = gaussian(schedule, [0.4, -0.3], 0.7)
    target = annealed(model, beta, noise=noise)
    result = sampled(target, 4000, 2, steps=400, ess_threshold=0.9)
    mean, variance = moments(result)
    torch.testing.assert_close(mean, torch.tensor([0.4, -0.3], dtype=torch.float64), rtol=0, atol=0.12)
    assert variance.mean().item() == pytest.approx(0.7 / beta, rel=0.1)
    end = 0.7 + float(schedule.sigma(max(schedule.t_min, 1e-9))) ** 2
    exact = (1 - beta) * math.log(2 * math.pi * end) - math.log(beta)
    assert result.log_normalizer + target.log_prior_normalizer(2) == pytest.approx(exact, abs=0.3)


def test_a_product_of_gaussians_is_the_gaussian_in_closed_form_and_the_heuristic_is_not():
    experts = [gaussian(FINE, [0.8], 0.49), gaussian(FINE, [-0.6], 0.25)]
    variance = 1 / (1 / 0.49 + 1 / 0.25)
    mean = variance * (0.8 / 0.49 - 0.6 / 0.25)
    m, v = moments(sampled(product(experts), 4000, 1, ess_threshold=0.9))
    assert m.item() == pytest.approx(mean, abs=0.05)
    assert v.item() == pytest.approx(variance, rel=0.08)
    heuristic = sampled(product(experts), 4000, 1, corrected=False)
    assert abs(moments(heuristic)[1].item() / variance - 1) > 0.15


def test_a_linear_reward_shifts_a_gaussian():
    model, slope = gaussian(FINE, [0.5], 0.8), 1.2
    target = RewardTilted(model, lambda x: slope * x[:, 0], strength=lambda t: (1 - t / 15) ** 4)
    result = sampled(target, 4000, 1, ess_threshold=0.9)
    mean, variance = moments(result)
    assert mean.item() == pytest.approx(0.5 + 0.8 * slope, abs=0.06)
    assert variance.item() == pytest.approx(0.8, rel=0.1)
    assert result.log_normalizer == pytest.approx(0.5 * slope + 0.8 * slope**2 / 2, abs=0.15)


def test_normalisers_agree_with_and_without_resampling():
    target = annealed(mixture(FINE), 1.5)

    def ratio(resampling: str) -> Tensor:
        """The mean over runs of the normaliser itself, which both estimate without bias of resampling."""
        logs = [
            sampled(target, 500, 2, steps=100, seed=seed, resampling=resampling).log_normalizer
            for seed in range(12)
        ]
        return torch.tensor(logs, dtype=torch.float64).logsumexp(0) - math.log(12)

    assert ratio("systematic").item() == pytest.approx(ratio("none").item(), abs=0.15)


def test_when_particles_are_resampled():
    target = annealed(mixture(FINE), 2.0)
    always = sampled(target, 100, 2, steps=30)
    assert always.n_resamplings == 29  # the last step lands on sigma 0 and weighs nothing
    assert torch.equal(always.log_weights, torch.zeros(100, dtype=torch.float64))
    never = sampled(target, 100, 2, steps=30, ess_threshold=0.0)
    assert never.n_resamplings == 0
    assert torch.equal(never.x, sampled(target, 100, 2, steps=30, resampling="none").x)
    weights = never.log_weights.softmax(0)
    assert never.effective_sample_size[-1].item() == pytest.approx(1 / weights.square().sum().item() / 100)
    sometimes = sampled(target, 100, 2, steps=30, ess_threshold=0.5)
    below = sometimes.effective_sample_size < 0.5
    assert 0 < sometimes.n_resamplings == below.sum() < 29


def test_the_heuristic_leaves_weights_out():
    result = sampled(annealed(mixture(FINE), 2.0), 50, 2, steps=20, corrected=False)
    assert not result.log_weights.any()
    assert result.effective_sample_size.tolist() == [1.0] * 20
    assert result.n_resamplings == 0
    assert math.isnan(result.log_normalizer)


def test_weights_act_in_the_active_interval_alone():
    target = annealed(mixture(FINE), 2.0)
    times = FINE.timesteps(30)
    result = sampled(target, 100, 2, steps=30, active_interval=(0.1, 3.0), resampling="none")
    sizes = torch.cat((torch.ones(1, dtype=torch.float64), result.effective_sample_size))
    changed = sizes[1:] != sizes[:-1]
    assert torch.equal(changed, (times[:-1] >= 0.1) & (times[:-1] <= 3.0))
    assert math.isnan(result.log_normalizer)
    everywhere = sampled(target, 100, 2, steps=30, active_interval=(0.0, 15.0))
    assert everywhere.log_normalizer == sampled(target, 100, 2, steps=30).log_normalizer


@dataclass
class Constant:
    """Particles that stay, with rates of their own: no more than a target needs."""

    rates: Tensor
    schedule: NoiseSchedule

    def terms(self, x: Tensor, t: float) -> CorrectorTerms:
        return CorrectorTerms(torch.zeros_like(x), 0.0, self.rates)


def test_clipped_weights_are_centred_first():
    target = Constant(torch.tensor([10.0, 11.0, 12.0, 19.0]), VESchedule())
    times = torch.tensor([1.0, 0.5])
    clipped = sample_feynman_kac(target, torch.zeros(4, 1), times, resampling="none", weight_clip=1.0)
    assert clipped.log_weights.tolist() == [-1.0, -1.0, -0.5, 1.0]
    assert math.isnan(clipped.log_normalizer)
    exact = sample_feynman_kac(target, torch.zeros(4, 1), times, resampling="none")
    assert exact.log_weights.tolist() == [5.0, 5.5, 6.0, 9.5]
    assert exact.log_normalizer == pytest.approx(exact.log_weights.logsumexp(0).item() - math.log(4))


def test_equal_weights_are_not_resampled():
    target = Constant(torch.full((3000,), 0.1), VESchedule())
    result = sample_feynman_kac(target, torch.zeros(3000, 1), VESchedule().timesteps(50))
    assert result.n_resamplings == 0
    assert result.log_normalizer == pytest.approx(0.1)


@pytest.mark.parametrize("resampling", ["systematic", "none"])
def test_normalisers_survive_large_weights(resampling):
    target = Constant(torch.tensor([5000.0, 5000.0]), VESchedule())
    result = sample_feynman_kac(target, torch.zeros(2, 1), torch.tensor([1.0, 0.0]), resampling=resampling)
    assert result.log_normalizer == pytest.approx(5000.0)


def test_samples_follow_their_generator():
    target = product([mixture(FINE), mixture(FINE, 1)])
    one, same, other = (sampled(target, 50, 2, steps=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.x, same.x)
    assert not torch.equal(one.x, other.x)


# ---------------------------------------------------------------------- resampling


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60).filter(lambda ws: sum(ws) > 1e-3),
    st.integers(0, 2**40),
)
def test_each_particle_goes_on_as_often_as_it_weighs(weights, seed):
    weights = torch.tensor(weights, dtype=torch.float64)
    indices = systematic_resample(weights.log() + 7.0, generator=seeded(seed))
    assert indices.dtype == torch.long
    assert (indices.diff() >= 0).all()
    counts = torch.bincount(indices, minlength=len(weights))
    expected = len(weights) * weights / weights.sum()
    assert len(counts) == len(weights)
    assert (counts >= (expected - 1e-9).floor()).all()
    assert (counts <= (expected + 1e-9).ceil()).all()
    assert not counts[weights == 0].any()


@pytest.mark.parametrize("count", [1, 7, 1000, 100_000])
def test_equal_weights_go_on_as_they_are(count):
    log_weights = torch.full((count,), -3.3, dtype=torch.float32)
    for seed in range(5):
        indices = systematic_resample(log_weights, generator=seeded(seed))
        assert torch.equal(indices, torch.arange(count))


def test_resampling_is_exact_in_expectation():
    weights = torch.tensor([0.05, 0.5, 0.0, 0.15, 0.3], dtype=torch.float64)
    counts = torch.zeros(5)
    generator = seeded()
    for _ in range(2000):
        counts += torch.bincount(systematic_resample(weights.log(), generator=generator), minlength=5)
    torch.testing.assert_close(counts / 2000, (5 * weights).float(), rtol=0, atol=0.04)


# ---------------------------------------------------------------------- bad input

MODEL = mixture(FINE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeometricTarget([MODEL], [1.0, 2.0]), "as many, got 1 and 2"),
        (lambda: GeometricTarget([], []), "one or more.*got 0 and 0"),
        (lambda: GeometricTarget([MODEL, MODEL], [1.0, -1.0]), r"positive sum, got \[1.0, -1.0\]"),
        (lambda: GeometricTarget([MODEL], [math.nan]), "positive sum"),
        (lambda: product([MODEL, mixture(EDMSchedule())]), "one schedule, got EDMSchedule"),
        (
            lambda: GeometricTarget([MODEL], [1.0], noise_scale=-0.1),
            "noise_scale is to be 0 or more, got -0.1",
        ),
        (lambda: annealed(MODEL, 0.0), "beta is to be positive, got 0.0"),
        (
            lambda: annealed(MODEL, 2.0, noise="cold"),
            "noise is to be one of 'target', 'tempered', got 'cold'",
        ),
        (lambda: sampled(annealed(MODEL, 2.0), 0, 2), r"K of 1 or more, got \(0, 2\)"),
        (
            lambda: sampled(annealed(MODEL, 2.0), 2, 2, ess_threshold=1.1),
            r"ess_threshold .*\[0, 1\], got 1.1",
        ),
        (
            lambda: sampled(annealed(MODEL, 2.0), 2, 2, weight_clip=0.0),
            "weight_clip is to be positive, got 0.0",
        ),
        (lambda: sampled(annealed(MODEL, 2.0), 2, 2, resampling="residual"), "resampling is to be one of"),
        (lambda: sampled(annealed(MODEL, 2.0), 2, 2, active_interval=(2.0, 1.0)), "active_interval"),
        (
            lambda: sample_feynman_kac(annealed(MODEL, 2.0), torch.zeros(2, 2), torch.tensor([1.0, 2.0])),
            "timesteps is to be a strictly decreasing",
        ),
        (
            lambda: sampled(RewardTilted(MODEL, lambda x: x, strength=lambda t: 0.0), 3, 2),
            r"reward is to return shape \(3,\), got \(3, 2\)",
        ),
        (
            lambda: sampled(RewardTilted(MODEL, lambda x: x.round().detach()[:, 0], strength=float), 3, 2),
            "reward is to be differentiable",
        ),
        (
            lambda: sampled(
                RewardTilted(MODEL, lambda x: torch.ones(3, requires_grad=True), strength=float), 3, 2
            ),
            "reward is to be differentiable",
        ),
        (lambda: systematic_resample(torch.zeros(2, 2)), r"shape \(K,\), got \(2, 2\)"),
        (lambda: systematic_resample(torch.zeros(0)), r"shape \(K,\), got \(0,\)"),
        (lambda: systematic_resample(torch.tensor([-math.inf, -math.inf])), "finite maximum.*got -inf"),
        (lambda: systematic_resample(torch.tensor([0.0, math.nan])), "no nan, got nan"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("rates", [[-math.inf, -math.inf], [0.0, math.nan], [0.0, math.inf]])
@pytest.mark.parametrize("resampling", ["systematic", "none"])
def test_weights_that_degenerate_say_when(rates, resampling):
    target = Constant(torch.tensor(rates), VESchedule())
    with pytest.raises(ValueError, match=r"log weights are to be finite .* at time 0\.75"):
        sample_feynman_kac(target, torch.zeros(2, 1), torch.tensor([0.75, 0.5]), resampling=resampling)
