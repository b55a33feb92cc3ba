"""Multimodal super-resolution: operators as matrices, exact posteriors, limits, scores of ensembles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from assay.diffusion.sde import (
    EDMSchedule,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    UNetDenoiser,
    VESchedule,
    VPSchedule,
    solve_ode,
)
from assay.diffusion.super_resolution import (
    CoarseObservation,
    PointObservation,
    PosteriorEnsemble,
    crps_ensemble,
    grid_coordinates,
    posterior_score,
    sample_posterior,
    spread_skill_ratio,
    zonal_power_spectrum,
)

SCHEDULE = EDMSchedule(sigma_max=20.0)
SHAPE = (2, 5, 6)
SIZE = math.prod(SHAPE)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def matrix(operator, shape):
    """The operator's rows, from what it makes of each cell alone."""
    cells = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return operator(cells).flatten(1).mT


def coarse(values, **options):
    return CoarseObservation(torch.as_tensor(values, dtype=torch.float64), **{"std": 0.1, **options})


def points(values, locations, channels, **options):
    return PointObservation(
        torch.as_tensor(values, dtype=torch.float64),
        locations,
        torch.as_tensor(channels),
        **{"std": 0.1, **options},
    )


def smooth_gaussian(shape=SHAPE, schedule=SCHEDULE):
    """A prior of fields that vary on the scale of two cells, around the globe, channels alike in part."""
    channel, row, column = (axis.flatten() for axis in np.indices(shape))
    around = np.abs(column[:, None] - column)
    around = np.minimum(around, shape[2] - around)
    squares = (row[:, None] - row) ** 2 + around**2
    covariance = np.exp(-np.sqrt(squares) / 2) * np.where(channel[:, None] == channel, 1, 0.3)
    mean = normal(1, math.prod(shape), seed=7)
    return GaussianMixtureDenoiser(
        mean, torch.from_numpy(covariance)[None], torch.ones(1), schedule
    ), torch.from_numpy(covariance)


# ---------------------------------------------------------------------- operators


def test_an_area_mean_is_the_mean_of_its_cells():
    rows = matrix(coarse(torch.zeros(2, 2, 3)).operator, (2, 4, 6))
    expected = torch.zeros(2, 2, 3, 2, 4, 6, dtype=torch.float64)
    for channel, i, j in np.ndindex(2, 2, 3):
        expected[channel, i, j, channel, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = 1 / 4
    assert torch.equal(rows, expected.reshape(rows.shape))


def test_a_bilinear_coarse_value_is_the_mean_of_the_cells_at_its_centre():
    rows = matrix(coarse(torch.zeros(1, 1, 2), method="bilinear").operator, (1, 4, 8))
    expected = torch.zeros(2, 4, 8, dtype=torch.float64)
    expected[0, 1:3, 1:3] = expected[1, 1:3, 5:7] = 1 / 4
    torch.testing.assert_close(rows, expected.reshape(rows.shape))


def test_points_weigh_their_four_neighbours_around_the_globe():
    locations = [[0.0, 0.0], [1.25, 2.5], [3.0, 5.75], [2.0, -0.25], [0.5, 12.0]]
    rows = matrix(points(torch.zeros(5), locations, [0, 1, 0, 1, 1]).operator, (2, 4, 6)).reshape(5, 2, 4, 6)
    expected = torch.zeros(5, 2, 4, 6, dtype=torch.float64)
    expected[0, 0, 0, 0] = 1
    expected[1, 1, 1, 2:4], expected[1, 1, 2, 2:4] = 0.75 / 2, 0.25 / 2
    expected[2, 0, 3, 5], expected[2, 0, 3, 0] = 0.25, 0.75
    expected[3, 1, 2, 5], expected[3, 1, 2, 0] = 0.25, 0.75
    expected[4, 1, :2, 0] = 0.5
    torch.testing.assert_close(rows, expected)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 4), st.floats(-100, 100)), min_size=1, max_size=5),
    st.floats(-3, 3),
    st.floats(-3, 3),
)
def test_points_are_exact_where_the_field_is_linear_in_the_row(locations, offset, slope):
    field = (offset + slope * torch.arange(5, dtype=torch.float64))[:, None].expand(1, 1, 5, 6)
    seen = points(torch.zeros(len(locations)), locations, [0] * len(locations)).operator(field)
    expected = offset + slope * torch.tensor([row for row, _ in locations], dtype=torch.float64)
    torch.testing.assert_close(seen[0], expected, atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 4), st.floats(-50, 50), st.integers(1, 6))
def test_points_turn_with_the_globe(row, column, turn):
    field = normal(1, 1, 5, 6)
    here = points([0.0], [[row, column]], [0]).operator(field)
    there = points([0.0], [[row, column + turn]], [0]).operator(field.roll(turn, dims=3))
    torch.testing.assert_close(here, there, atol=1e-9, rtol=1e-9)


def test_a_column_that_rounds_to_the_width_is_the_first_one():
    field = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 2, 6)
    assert points([0.0], [[0.0, -1e-30]], [0]).operator(field).item() == 0


def test_points_that_do_not_go_round_end_at_the_last_column():
    field = torch.arange(6.0, dtype=torch.float64).expand(1, 1, 2, 6)
    seen = points([0.0, 0.0], [[1, 5], [0, 4.5]], [0, 0], periodic=False).operator(field)
    assert seen.tolist() == [[5.0, 4.5]]
    with pytest.raises(ValueError, match=r"columns are to be from 0 to 5, got 5\.5"):
        points([0.0], [[0, 5.5]], [0], periodic=False).operator(field)


def test_points_agree_with_torch_inside_a_field():
    field, height, width = normal(1, 1, 5, 6), 5, 6
    locations = torch.rand(20, 2, generator=generator(1), dtype=torch.float64) * torch.tensor([4.0, 5.0])
    ours = points(torch.zeros(20), locations, [0] * 20).operator(field)
    size = torch.tensor([width - 1, height - 1])
    grid = 2 * locations.flip(1) / size - 1
    theirs = functional.grid_sample(field, grid[None, None], align_corners=True)
    torch.testing.assert_close(ours, theirs[0, 0])


def test_longitudes_of_both_conventions_are_the_same_place():
    east, west = (grid_coordinates([10.0], [longitude], (7, 12)) for longitude in (200.0, -160.0))
    assert torch.equal(east, west)


def test_grid_coordinates_invert_both_kinds_of_grid():
    longitude = np.arange(8) * 45.0
    with_poles = grid_coordinates(np.linspace(-90, 90, 8), longitude, (8, 8))
    bands = grid_coordinates(-90 + 22.5 * (np.arange(8) + 0.5), longitude, (8, 8), poles=False)
    same = torch.arange(8.0, dtype=torch.float64)[:, None].expand(8, 2)
    torch.testing.assert_close(with_poles, same)
    torch.testing.assert_close(bands, same)
    assert grid_coordinates([-90.0, 90.0], [0, 0], (8, 8), poles=False)[:, 0].tolist() == [0, 7]


# ---------------------------------------------------------------------- likelihood and score


def test_the_likelihood_is_gaussian_with_inflated_variance():
    y, x = normal(2, 2, 3), normal(4, 2, 4, 6, seed=1)
    std = torch.tensor([[[0.1]], [[0.4]]])
    observation = coarse(y, std=std, inflation=0.3, weight=0.7)
    residual = y - functional.adaptive_avg_pool2d(x, (2, 3))
    spread = (std.double().square() + 0.3 * 2.5**2).sqrt().expand(2, 2, 3)
    gaussian = torch.distributions.Normal(0.0, spread)
    expected = 0.7 * (gaussian.log_prob(residual) - gaussian.log_prob(torch.zeros(()))).flatten(1).sum(1)
    torch.testing.assert_close(observation.log_likelihood(x, 2.5), expected)


def two_sources(truth):
    locations = [[0.5, 5.5], [3.25, 1.0], [4.0, 2.5]]
    area, scattered = coarse(torch.zeros(2, 1, 3)), points(torch.zeros(3), locations, [0, 1, 1])
    return (
        coarse(area.operator(truth)[0] + 0.1, std=0.2, inflation=0.05),
        points(scattered.operator(truth)[0] - 0.1, locations, [0, 1, 1], inflation=0.3, weight=0.5),
    )


@pytest.mark.parametrize("schedule", [SCHEDULE, VPSchedule(), VESchedule()])
@pytest.mark.parametrize("t", [0.3, 0.9])
def test_the_score_of_a_gaussian_prior_is_the_closed_form(schedule, t):
    prior, covariance = smooth_gaussian(schedule=schedule)
    sources = two_sources(normal(1, *SHAPE, seed=3))
    x = normal(4, *SHAPE, seed=4)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    clean = prior(x, t)
    jacobian = (
        alpha
        * covariance
        @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(SIZE, dtype=torch.float64))
    )
    expected = (alpha * clean - x).flatten(1) / sigma**2
    for source in sources:
        A = matrix(source.operator, SHAPE)
        variance = float(source.std) ** 2 + source.inflation * (sigma / alpha) ** 2
        residual = source.values.flatten() - clean.flatten(1) @ A.mT
        expected = expected + 1.5 * source.weight / variance * residual @ A @ jacobian
    ours = posterior_score(prior, x, t, sources, scale=1.5)
    torch.testing.assert_close(ours.flatten(1), expected, atol=1e-6, rtol=1e-6)
    assert not ours.requires_grad


def test_the_guidance_is_the_gradient_through_a_network():
    torch.manual_seed(0)
    model = UNetDenoiser(2, SCHEDULE, width=8, periodic_width=True).double()
    torch.nn.init.normal_(model.last.convolution.weight, std=0.3)
    x, t = normal(1, 2, 4, 6), 0.7
    source = points([0.3, -1.0], [[0.5, 5.5], [2.2, 1.0]], [0, 1])
    guidance = posterior_score(model, x, t, [source]) - posterior_score(model, x, t, [])
    direction, step = normal(1, 2, 4, 6, seed=1), 1e-5
    ahead, behind = (
        source.log_likelihood(model(x + sign * step * direction, t), t).sum().item() for sign in (1, -1)
    )
    assert (guidance * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_score_without_observations_is_the_priors():
    prior, _ = smooth_gaussian()
    x = normal(3, *SHAPE)
    assert torch.equal(posterior_score(prior, x, 0.5, []), prior.score(x, 0.5))


def test_the_clip_bounds_the_guidance_alone():
    prior, _ = smooth_gaussian()
    x, sources = normal(3, *SHAPE), two_sources(normal(1, *SHAPE, seed=3))
    own = posterior_score(prior, x, 0.5, [])
    free = posterior_score(prior, x, 0.5, sources) - own
    clipped = posterior_score(prior, x, 0.5, sources, clip=0.5, scale=2.0) - own
    assert free.abs().max() > 0.5
    torch.testing.assert_close(clipped, 2 * free.clamp(-0.5, 0.5))


def test_any_object_with_a_likelihood_is_an_observation():
    class Speed:
        def log_likelihood(self, x0_hat, noise_ratio):
            speed = x0_hat.square().sum(1).sqrt()
            return -(speed - 1).square().flatten(1).sum(1) / (2 * (0.01 + 0.1 * noise_ratio**2))

    prior, _ = smooth_gaussian()
    samples = sample_posterior(
        prior, [Speed()], SHAPE, 8, SCHEDULE.timesteps(40), generator=generator(), dtype=torch.float64
    ).samples
    assert (samples.square().sum(1).sqrt() - 1).abs().mean() < 0.2


# ---------------------------------------------------------------------- sampling


def draw(prior, observations, n=8, steps=20, **options):
    options = {"generator": generator(), "dtype": torch.float64, **options}
    return sample_posterior(prior, observations, SHAPE, n, SCHEDULE.timesteps(steps), **options)


def test_without_observations_it_is_the_heun_sampler_of_the_prior():
    prior, _ = smooth_gaussian()
    start = SCHEDULE.t_max * torch.randn(8, *SHAPE, generator=generator(), dtype=torch.float64)
    expected = solve_ode(prior, start, SCHEDULE.timesteps(20)).x
    torch.testing.assert_close(draw(prior, []).samples, expected)


def test_churn_leaves_the_priors_law():
    prior, covariance = smooth_gaussian()
    samples = draw(prior, [], n=4000, steps=30, churn=10.0).samples.flatten(1)
    torch.testing.assert_close(samples.mean(0), prior.means[0], atol=0.08, rtol=0)
    torch.testing.assert_close(torch.cov(samples.mT), covariance, atol=0.12, rtol=0)


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"std": 1e9}, {"inflation": 1e12}])
def test_an_observation_that_says_nothing_changes_nothing(options):
    prior, _ = smooth_gaussian()
    empty = coarse(5 * torch.ones(2, 1, 3), **options)
    torch.testing.assert_close(draw(prior, [empty]).samples, draw(prior, []).samples, atol=1e-6, rtol=0)


def test_two_halves_of_a_source_are_the_source():
    prior, _ = smooth_gaussian()
    locations, channels, values = [[0.5, 5.5], [3.25, 1.0], [4.0, 2.5]], [0, 1, 1], normal(3)
    whole = points(values, locations, channels)
    halves = [points(values[part], locations[part], channels[part]) for part in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(draw(prior, [whole]).samples, draw(prior, halves).samples)


def test_each_sample_may_have_values_of_its_own():
    prior, _ = smooth_gaussian()
    values = normal(2, 2, 1, 3)
    together = draw(prior, [coarse(values)], n=2).samples
    torch.testing.assert_close(together[0], draw(prior, [coarse(values[0])], n=2).samples[0])
    torch.testing.assert_close(together[1], draw(prior, [coarse(values[1])], n=2).samples[1])


@pytest.mark.parametrize(
    ("inflation", "distance", "spread"), [(0.1, (0, 0.35), (0.8, 1.5)), (1.0, (0.4, 0.85), (1.3, 2.6))]
)
def test_the_posterior_of_a_gaussian_prior_is_nearly_exact(inflation, distance, spread):
    """The less so the larger the inflation, which makes little of the data."""
    prior, covariance = smooth_gaussian()
    truth = prior.sample(1, generator=generator(5)).reshape(1, *SHAPE)
    locations = torch.rand(10, 2, generator=generator(6), dtype=torch.float64) * torch.tensor([4.0, 6.0])
    channels = torch.arange(10) % 2
    sources = (coarse(torch.zeros(2, 2, 2)), points(torch.zeros(10), locations, channels))
    A = torch.cat([matrix(source.operator, SHAPE) for source in sources])
    y = truth.flatten() @ A.mT + 0.1 * normal(18, seed=8)
    gain = covariance @ A.mT @ torch.linalg.inv(A @ covariance @ A.mT + 0.01 * torch.eye(18))
    increment = gain @ (y - A @ prior.means[0])
    exact_std = (covariance - gain @ A @ covariance).diagonal().sqrt()
    ensemble = draw(
        prior,
        [
            coarse(y[:8].reshape(2, 2, 2), inflation=inflation),
            points(y[8:], locations, channels, inflation=inflation),
        ],
        n=400,
        steps=60,
        clip=None,
    )
    missed = (ensemble.mean.flatten() - prior.means[0] - increment).norm() / increment.norm()
    assert distance[0] <= missed <= distance[1]
    assert spread[0] <= ensemble.std.mean() / exact_std.mean() <= spread[1]


def test_a_ring_of_sensors_selects_the_rarer_regime_and_a_single_one_cannot():
    """The regime is chosen at high noise, where a few values that are said to err weigh little."""
    mean, schedule = torch.ones(SIZE, dtype=torch.float64), EDMSchedule()
    covariances = 0.2 * smooth_gaussian()[1].expand(2, -1, -1)
    shares = torch.tensor([0.8, 0.2])
    prior = GaussianMixtureDenoiser(torch.stack((mean, -mean)), covariances, shares, schedule)

    def share_of_the_rarer(observations):
        samples = sample_posterior(
            prior,
            observations,
            SHAPE,
            200,
            schedule.timesteps(40),
            generator=generator(),
            dtype=torch.float64,
        ).samples
        return (samples.flatten(1).mean(1) < 0).double().mean()

    ring = [[2.0, float(column)] for column in range(6)] * 2
    sensors = points(-torch.ones(12), ring, [0] * 6 + [1] * 6)
    assert 0.1 < share_of_the_rarer([]) < 0.3
    assert share_of_the_rarer([sensors]) > 0.95
    assert share_of_the_rarer([points([-1.0], ring[:1], [0])]) < 0.6


def test_the_denoiser_is_evaluated_twice_a_step_but_once_in_the_last():
    class Counting(MLPDenoiser):
        calls = 0

        def forward(self, x, t):
            self.calls += 1
            return super().forward(x.flatten(1), t).reshape(x.shape)

    model = Counting(SIZE, SCHEDULE, width=8, depth=1)
    ensemble = sample_posterior(model, [coarse(torch.ones(2, 1, 3))], SHAPE, 3, SCHEDULE.timesteps(7))
    assert model.calls == 13
    assert ensemble.samples.dtype == torch.float32
    assert not ensemble.samples.requires_grad


def test_equal_generators_give_equal_samples():
    prior, _ = smooth_gaussian()
    one, same, other = (draw(prior, [], churn=10.0, generator=generator(seed)).samples for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_an_ensemble_has_the_unbiased_spread_of_its_samples():
    samples = normal(5, *SHAPE)
    ensemble = PosteriorEnsemble(samples)
    torch.testing.assert_close(ensemble.mean, samples.mean(0))
    torch.testing.assert_close(ensemble.std, samples.std(0))
    assert PosteriorEnsemble(samples[:1]).std.isnan().all()


# ---------------------------------------------------------------------- scores of ensembles


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8), st.floats(-10, 10))
def test_the_crps_is_the_mean_over_pairs_and_the_integral_over_thresholds(members, truth):
    e = np.array(members)
    over_pairs = np.abs(e - truth).mean() - np.abs(e[:, None] - e).mean() / 2
    score = crps_ensemble(
        torch.tensor(members, dtype=torch.float64)[:, None], torch.tensor([truth], dtype=torch.float64)
    )
    assert score == pytest.approx(over_pairs, abs=1e-12)
    ends = np.sort(np.append(e, truth))
    middles, lengths = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
    below = (e <= middles[:, None]).mean(axis=1)
    assert score == pytest.approx(np.sum(lengths * (below - (middles >= truth)) ** 2), abs=1e-12)


def test_the_crps_of_a_single_sample_is_its_absolute_error():
    sample, truth = normal(1, 3, 4), normal(3, 4, seed=1)
    assert crps_ensemble(sample, truth) == pytest.approx((sample[0] - truth).abs().mean().item())


def test_the_spread_is_the_error_where_the_truth_is_one_of_the_samples_kind():
    draws = normal(5, 100_000)
    assert spread_skill_ratio(draws[1:], draws[0]) == pytest.approx(1, abs=0.02)
    assert spread_skill_ratio(draws[1:], 3 * draws[0]) < 0.5


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_the_spectrum_sums_to_the_mean_square(width):
    fields = normal(3, 2, 5, width)
    power = zonal_power_spectrum(fields)
    assert power.shape == (3, 2, width // 2 + 1)
    torch.testing.assert_close(power.sum(-1), fields.square().mean((2, 3)))


# ---------------------------------------------------------------------- bad input

ZEROS, PLACE = torch.zeros(2, 2, 3), [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: coarse(ZEROS, std=0.0), "std is to be positive"),
        (lambda: coarse(ZEROS, std=torch.tensor([0.1, -0.1, 0.1])), "std is to be positive"),
        (lambda: coarse(ZEROS, std=torch.ones(4)), r"broadcast to values.*got shape \(4,\)"),
        (lambda: coarse(ZEROS, inflation=-0.1), "inflation is to be 0 or more, got -0.1"),
        (lambda: coarse(ZEROS, weight=-1), "weight is to be 0 or more, got -1"),
        (lambda: coarse(ZEROS, method="nearest"), "method is to be one of 'area', 'bilinear', got 'nearest'"),
        (lambda: coarse(torch.zeros(3)), r"shape \(C, h, w\) or \(B, C, h, w\)"),
        (lambda: coarse(ZEROS * torch.nan), "values is to hold finite"),
        (lambda: CoarseObservation(torch.zeros(1, 1, 1, dtype=torch.int64), std=0.1), "floating-point"),
        (lambda: points([0.0, 1.0], PLACE, [0]), r"locations.*shape \(2, 2\)"),
        (lambda: points([0.0], PLACE, [0, 1]), r"channels is to have shape \(1,\)"),
        (lambda: points([0.0], [[0.0, math.inf]], [0]), "locations is to be finite"),
        (lambda: points([0.0], PLACE, [0.0]), "channels is to hold integers"),
        (lambda: points([0.0], PLACE, [-1]), "channels is to hold integers of 0 or more"),
        (lambda: points([], torch.zeros(0, 2), []), "not to be empty"),
        (lambda: points([0.0], PLACE, [2]).operator(torch.zeros(1, 2, 3, 3)), "C above the channel 2"),
        (
            lambda: points([0.0], [[2.01, 0]], [0]).operator(torch.zeros(1, 2, 3, 3)),
            "rows are to be from 0 to 2",
        ),
        (lambda: coarse(ZEROS).operator(torch.zeros(1, 2, 1, 6)), r"not coarser than \(2, 3\)"),
        (lambda: coarse(ZEROS).operator(torch.zeros(1, 3, 4, 6)), r"shape \(B, 2, H, W\)"),
        (
            lambda: coarse(ZEROS[None]).log_likelihood(torch.zeros(2, 2, 4, 6), 1.0),
            "1 fields, as many as values",
        ),
        (lambda: grid_coordinates([90.1], [0.0], (4, 4)), "latitude is to be from -90 to 90"),
        (lambda: grid_coordinates([0.0], [0.0, 1.0], (4, 4)), "two vectors of one length"),
        (lambda: grid_coordinates([0.0], [math.nan], (4, 4)), "are to be finite"),
        (lambda: grid_coordinates([0.0], [0.0], (0, 4)), "height of shape is to be 1 or more"),
        (lambda: crps_ensemble(torch.zeros(2, 3), torch.zeros(2)), "samples is to have shape"),
        (lambda: spread_skill_ratio(torch.zeros(1, 3), torch.zeros(3)), "M >= 2"),
        (lambda: zonal_power_spectrum(torch.zeros(4)), "fields is to have shape"),
    ],
)
def test_bad_observations_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n_samples is to be 1 or more, got 0"),
        ({"clip": 0.0}, "clip is to be positive or None, got 0"),
        ({"churn": -1.0}, "churn is to be 0 or more"),
        ({"steps": 0}, "num_steps"),
    ],
)
def test_bad_settings_of_the_sampler_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        draw(smooth_gaussian()[0], [], **options)


@pytest.mark.parametrize("schedule", [VPSchedule(), VESchedule()])
def test_a_schedule_whose_time_is_not_its_noise_is_refused(schedule):
    prior, _ = smooth_gaussian(schedule=schedule)
    with pytest.raises(ValueError, match="the schedule's time is to be its noise level"):
        sample_posterior(prior, [], SHAPE, 2, schedule.timesteps(5))


def test_timesteps_below_zero_and_several_times_are_refused():
    prior, _ = smooth_gaussian()
    with pytest.raises(ValueError, match="fall to 0 or more"):
        sample_posterior(prior, [], SHAPE, 2, torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="t is to be one time, got 2"):
        posterior_score(prior, torch.zeros(2, *SHAPE), torch.ones(2), [])


def test_samples_that_explode_name_the_noise_and_what_helps():
    prior, _ = smooth_gaussian()
    exact = points(torch.ones(40), [[2.0, 3.0]] * 40, [0] * 40, std=1e-4, inflation=1e-9)
    with pytest.raises(RuntimeError, match=r"no longer finite at noise level .*inflation.*clip"):
        draw(prior, [exact], clip=None, dtype=torch.float32, steps=30)
    assert draw(prior, [exact], clip=1.0, steps=30).samples.isfinite().all()
