"""The study of multimodal super-resolution: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.studies.super_resolution import STUDY, Sensors, Weather, _Reconstruction, _weather

SMALL = {
    "n_train": 200,
    "n_test": 3,
    "network_width": 16,
    "training_steps": 20,
    "members": 3,
    "sampling_steps": 5,
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index, **settings):
    settings = replace(experiment.scales["quick"], **SMALL | settings)
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@experiments
def test_a_trial_measures_what_its_claims_read(experiment):
    measurements = small_trial(experiment, 0)
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    for value in measurements.values():
        assert type(value) is float or all(type(item) is float for item in value)


@experiments
def test_a_trial_is_its_generators(experiment):
    one, same, other = small_trial(experiment, 0), small_trial(experiment, 0), small_trial(experiment, 1)
    assert one == same
    assert one.keys() == other.keys()
    assert one != other


@experiments
def test_a_convolutional_prior_serves_as_well(experiment):
    measurements = small_trial(experiment, 0, network="unet", network_width=8, fields_at_once=2)
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)


@experiments
def test_the_figure_draws(experiment, tmp_path):
    figure = experiment.figure([small_trial(experiment, index) for index in range(2)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")


def test_standardised_fields_and_stations_can_come_from_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "train.npy", rng.standard_normal((50, 3, 8, 16)))
    np.save(tmp_path / "test.npy", rng.standard_normal((5, 3, 8, 16)))
    np.save(tmp_path / "stations.npy", rng.uniform((-90, -180), (90, 180), (30, 2)))
    measurements = small_trial(STUDY.experiment("fusion"), 0, folder=str(tmp_path))
    assert 0.9 < measurements["error_climatology"] < 1.2


def test_weather_is_standardised_and_alike_at_all_longitudes():
    _, train, _ = _weather(Weather(), np.random.default_rng(0))
    assert train.shape == (4000, 2, 8, 16)
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std((0, 2, 3)), torch.ones(2), atol=1e-4, rtol=0)
    steps = (train - train.roll(1, dims=3)).square().mean((0, 1, 2))
    assert steps.max() < 1.1 * steps.min()


def test_optimal_interpolation_is_the_posterior_mean_of_the_empirical_gaussian():
    weather = _Reconstruction(replace(Weather(), **SMALL), np.random.default_rng(0))
    cells = torch.eye(256).reshape(256, 2, 8, 16)
    everything = torch.arange(3)
    sources = (weather.coarse(everything), weather.points(everything))
    A = torch.cat([source.operator(cells).flatten(1) for source in sources], dim=1).T.double()
    y = torch.cat([source.values.flatten(1) for source in sources], dim=1).double()
    mean, covariance = (
        weather.train.flatten(1).double().mean(0),
        torch.cov(weather.train.flatten(1).T.double()),
    )
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + 0.01 * torch.eye(len(A)))
    expected = mean + (y - mean @ A.T) @ gain.T
    torch.testing.assert_close(
        weather.optimal_interpolation().flatten(1).double(), expected, atol=1e-4, rtol=1e-4
    )


def test_interpolation_goes_round_and_keeps_what_is_smooth():
    weather = _Reconstruction(replace(Weather(), **SMALL), np.random.default_rng(0))
    weather._coarse_values = torch.ones_like(weather._coarse_values)
    torch.testing.assert_close(weather.interpolated(), torch.ones(3, 2, 8, 16))
    weather._coarse_values = torch.arange(4.0).expand(3, 2, 2, 4)
    fine = weather.interpolated()[0, 0, 0]
    weather._coarse_values = weather._coarse_values.roll(1, dims=3)
    torch.testing.assert_close(weather.interpolated()[0, 0, 0], fine.roll(4))


def test_few_sensors_are_among_the_many():
    settings = replace(Sensors(), **SMALL)
    weather = _Reconstruction(settings, np.random.default_rng(0))
    numbers = torch.arange(3)
    few, many = weather.points(numbers, 5), weather.points(numbers)
    assert many.values.shape == (3, 80)
    assert torch.equal(few.values, many.values[:, :5])
    assert torch.equal(few.locations, many.locations[:5])
