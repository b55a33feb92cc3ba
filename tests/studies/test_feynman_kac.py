"""The study of Feynman-Kac correctors: its trials at reduced sizes, and the truth they measure against."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch

from assay.diffusion.metrics import sliced_wasserstein
from assay.evidence import trial_generator
from assay.studies import feynman_kac as study

REDUCED = {
    study.LearnedModel: {"training_steps": 5, "data": 500},
    study.InferenceScaling: {"repeats": 2},
    study.Sampling: {},
}
experiments = pytest.mark.parametrize(
    "experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name
)


def run(experiment, index=1_000_000):
    quick = experiment.scales["quick"]
    changes = next(changes for kind, changes in REDUCED.items() if isinstance(quick, kind))
    if isinstance(quick, study.Comparison):
        changes = {"cells": 60, "truth": 500, **changes}
    reduced = dataclasses.replace(quick, particles=100, steps=12, **changes)
    return experiment.trial(reduced, trial_generator("feynman_kac", experiment.name, index))


@experiments
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements, other = run(experiment), run(experiment, 1_000_001)
    assert run(experiment) == measurements
    assert other != measurements
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    picture = io.BytesIO()
    experiment.figure([measurements, other]).savefig(picture, format="svg")
    assert b"</svg>" in picture.getvalue()


@experiments
def test_full_sizes_differ_in_their_sizes_alone(experiment):
    assert type(experiment.scales["full"]) is type(experiment.scales["quick"])
    assert experiment.scales["full"].particles > experiment.scales["quick"].particles


def test_the_forty_modes_lie_within_the_grid_and_the_prior():
    full = study.STUDY.experiment("annealing").scales["full"]
    assert len(full.centres) == len(full.deviations) == len(full.weights) == 40
    assert np.abs(full.centres).max() + 5 * max(full.deviations) < full.extent
    assert full.sigma_max > 3 * full.extent


def test_truth_is_drawn_from_the_target():
    """The square of one Gaussian has half its variance; a product of two is one in closed form."""
    settings = study.Comparison(truth=40_000)
    means, deviations = ((0.8, -0.4), (-0.6, 0.9)), (0.7, 0.5)
    experts = [
        study._mixture(settings.schedule, (mean,), (deviation,), (1.0,))
        for mean, deviation in zip(means, deviations, strict=True)
    ]
    rng = trial_generator("feynman_kac", "truth", 1_000_000)
    squared = study._truth(settings, experts[:1], [2.0], rng)
    assert squared.mean(0) == pytest.approx(means[0], abs=0.02)
    assert squared.var(0) == pytest.approx(0.7**2 / 2, rel=0.04)
    both = study._truth(settings, experts, [1.0, 1.0], rng)
    precisions = np.array([1 / 0.49, 1 / 0.25])
    assert both.mean(0) == pytest.approx(precisions @ np.array(means) / precisions.sum(), abs=0.02)
    assert both.var(0) == pytest.approx(1 / precisions.sum(), rel=0.04)


def test_truth_at_exponent_one_is_the_model_itself():
    settings = study.Annealing(truth=20_000)
    model = study._mixture(settings.schedule, settings.centres, settings.deviations, settings.weights)
    truth = study._truth(settings, [model], [1.0], trial_generator("feynman_kac", "truth", 1_000_001))
    draws = model.sample(20_000, generator=torch.Generator().manual_seed(5))
    assert sliced_wasserstein(truth, draws) < 0.05


def test_turning_experts_turns_their_modes():
    turned = study._mixture(study.Sampling().schedule, ((2.0, 0.0),), (0.5,), (1.0,), turn=90.0)
    torch.testing.assert_close(turned.means, torch.tensor([[0.0, 2.0]], dtype=torch.float64))


def test_methods_start_from_the_same_particles():
    settings = study.Product(particles=50, steps=1)
    target = study.product(
        [study._mixture(settings.schedule, ((0.0, 0.0),), (1.0,), (1.0,)) for _ in range(2)]
    )
    # One step of an EDM grid lands on sigma 0: neither noise nor weights, so that all methods agree.
    ends = [study._sampled(target, settings, 7, **how).x for how in study._METHODS.values()]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_the_heuristic_is_right_where_nothing_is_mixed():
    """Guidance of weight 1 is the conditional model: then all methods sample it, and none is closer."""
    settings = study.Guidance()
    model = study._mixture(settings.schedule, ((1.0, 0.0), (-1.0, 0.0)), (0.5, 0.5), (0.7, 0.3))
    rng = trial_generator("feynman_kac", "truth", 1_000_002)
    truth = study._truth(settings, [model], [1.0], rng)
    distances = study._distances(study.guided(model, model, 3.0), settings, truth, rng)
    assert max(distances.values()) < 0.1
    assert math.isclose(distances["corrected"], distances["uncorrected"], abs_tol=1e-9)
