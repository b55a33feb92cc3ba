"""The study of gradient flows: its trials at reduced sizes, its controls, its fairness."""

import dataclasses
import io

import numpy as np
import pytest
import torch

from assay.diffusion.gradient_flow import solenoidal_perturbation
from assay.diffusion.sde import MLPDenoiser, VESchedule
from assay.evidence import trial_generator
from assay.studies import gradient_flow as study

REDUCED = {
    "vector_network": {"training_steps": 20, "width": 16, "points": 20, "samples": 50, "sampling_steps": 5},
    "image_network": {"training_steps": 3, "width": 8, "images": 4, "times": (0.1, 0.2)},
    "conservative_network": {"training_steps": 20, "width": 16, "samples": 50, "sampling_steps": 5},
    "flow": {"samples": 50, "sampling_steps": 10, "entropy_points": 500, "loss_points": 50},
    "errors": {"samples": 50, "sampling_steps": 5},
}


def run(experiment, index=1_000_000, **changes):
    settings = dataclasses.replace(experiment.scales["quick"], **(REDUCED[experiment.name] | changes))
    return experiment.trial(settings, trial_generator(study.STUDY.slug, experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    torch.manual_seed(99)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    assert other != measurements
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    for value in measurements.values():
        assert type(value) is float or all(type(item) is float for item in value)
    picture = io.BytesIO()
    experiment.figure([measurements, other]).savefig(picture, format="svg")
    assert b"</svg>" in picture.getvalue()


@pytest.mark.parametrize("dim", [2, 5, 8])
def test_the_turning_error_is_antisymmetric_and_of_the_scores_size(dim):
    matrix = study._antisymmetric(dim, np.random.default_rng(1_000_000))
    assert torch.equal(matrix, -matrix.T)
    sizes = torch.ones(dim, dtype=torch.float64)
    sizes[dim - dim % 2 :] = 0
    torch.testing.assert_close(torch.linalg.svdvals(matrix), sizes)
    solenoidal_perturbation(lambda x, t: x, matrix)


def test_mixtures_under_two_schedules_are_one_mixture():
    settings = study.Mixture(dim=3)
    rng = trial_generator("gradient_flow", "test", 1_000_000)
    one, other = study._mixture(settings, rng, study._SCHEDULE, VESchedule())
    x = torch.randn(5, 3, dtype=torch.float64)
    close = VESchedule(1e-6, 1)
    (same,) = study._mixture(settings, trial_generator("gradient_flow", "test", 1_000_000), close)
    assert torch.equal(one.means, other.means)
    assert torch.equal(other.means, same.means)
    torch.testing.assert_close(one.log_prob(x, 1e-9), same.log_prob(x, 0.0), rtol=1e-5, atol=1e-5)


def test_the_paired_networks_start_alike():
    settings = study.ConservativeNetwork(dim=3, width=8, training_steps=1, learning_rate=1e-12)
    data = torch.randn(50, 3)
    networks = [
        study._trained(settings, kind, data, 1_000_000, 1_000_001)
        for kind in (MLPDenoiser, study.ConservativeDenoiser)
    ]
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_controls_pass_the_tests_that_networks_are_put_to():
    vectors, images = (study.STUDY.experiment(name) for name in ("vector_network", "image_network"))
    measurements = run(vectors)
    assert max(measurements["asymmetry_exact_by_time"]) < 1e-5
    assert max(measurements["circulation_exact_by_time"]) < 1e-6
    measurements = run(images)
    assert max(measurements["asymmetry_gaussian_by_time"]) < 1e-5
    assert max(measurements["circulation_gaussian_by_time"]) < 1e-6


def test_the_entropy_of_a_short_run_falls_as_the_flow_says():
    measurements = run(study.STUDY.experiment("flow"), entropy_points=20_000, sampling_steps=60)
    assert measurements["loss_gap"] < 1e-9
    assert measurements["dissipation_off_one"] < 0.05
    assert len(measurements["dissipation_ratios"]) == 6
    assert measurements["return_gap"] < 0.02
