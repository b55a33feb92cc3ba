"""The study of the surrogate gradient NTK: its trials at reduced sizes, and what they compare."""

import dataclasses
import io

import numpy as np
import pytest

from assay.evidence import trial_generator
from assay.networks.surrogate_ntk import SurrogateNTKRegressor
from assay.studies import surrogate_ntk as study

REDUCED = {
    study.Convergence: {"n_points": 8, "widths": (8, 16), "n_networks": 2},
    study.Constancy: {"n_points": 12, "n_train": 4, "widths": (8, 16), "n_networks": 2, "n_steps": 5},
    study.Learning: {"n_points": 12, "n_train": 4, "widths": (8, 16), "n_members": 3, "n_steps": 5},
    study.Circle: {"n_points": 12, "n_train": 4},
}
experiments = pytest.mark.parametrize(
    "experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name
)


def run(experiment, index=1_000_000, **changes):
    settings = experiment.scales["quick"]
    settings = dataclasses.replace(settings, **REDUCED[type(settings)], **changes)
    return experiment.trial(settings, trial_generator("surrogate_ntk", experiment.name, index))


@experiments
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    assert other.keys() == measurements.keys()
    assert other != measurements
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    for value in measurements.values():
        assert type(value) is float or all(type(item) is float for item in value)
    picture = io.BytesIO()
    experiment.figure([measurements, other]).savefig(picture, format="svg")
    assert b"</svg>" in picture.getvalue()


@experiments
def test_every_scale_measures_the_same_names_and_only_sizes_differ(experiment):
    kinds = {type(settings) for settings in experiment.scales.values()}
    assert len(kinds) == 1
    surrogates = {getattr(settings, "surrogate", "erf") for settings in experiment.scales.values()}
    assert len(surrogates) == 1


def test_the_task_is_the_papers_polynomial_and_trains_on_distinct_points():
    task = study._draw(study.Circle(), trial_generator("surrogate_ntk", "test", 1_000_000))
    assert np.hypot(*task.points.T) == pytest.approx(np.ones(60))
    a, b = task.points[7]
    assert task.target[7] == pytest.approx(4 * a * b**2 - 0.8 * a**3 + 1.2 * b**2 - 0.8 * a**2 * b)
    assert len(set(task.train)) == 15 == 60 - task.rest.sum()
    assert not task.rest[task.train].any()


def test_both_experiments_on_learning_differ_in_the_surrogate_alone():
    erf, identity = (
        study.STUDY.experiment(name).scales["quick"] for name in ("sign_networks", "straight_through")
    )
    assert dataclasses.replace(erf, surrogate="identity") == identity


def test_steps_are_enough_for_the_regression_to_end():
    """The slowest mode of the linear dynamics dies out, and the fastest is stable."""
    for name in ("sign_networks", "straight_through"):
        settings = study.STUDY.experiment(name).scales["quick"]
        for index in range(20):
            task = study._draw(settings, trial_generator("surrogate_ntk", name, 1_000_000 + index))
            kernel = study.surrogate_gradient_ntk(task.points[task.train], surrogate=settings.surrogate)
            rates = np.linalg.eigvalsh(kernel) * settings.learning_rate / settings.n_train
            assert rates[-1] < 2
            assert (1 - rates[0]) ** settings.n_steps < 1e-5


def test_wide_networks_have_the_kernel_mean_and_spread_of_their_limit():
    convergence = study.Convergence(n_points=8, widths=(100, 1000), n_networks=4)
    rng = trial_generator("surrogate_ntk", "initial_kernel", 1_000_000)
    errors = study.initial_kernel(convergence, rng)["errors_m_2"]
    assert errors[1] < min(errors[0], 0.15)
    learning = study.Learning(n_points=20, n_train=4, widths=(10, 100), n_members=40, n_steps=200)
    measured = study.sign_networks(learning, trial_generator("surrogate_ntk", "sign_networks", 1_000_000))
    assert measured["spread_widest"] == pytest.approx(1, abs=0.3)
    assert measured["gap_widest"] < 0.3


def test_the_naive_regression_is_that_of_the_ordinary_kernel():
    task = study._draw(
        study.Circle(n_points=20, n_train=5), trial_generator("surrogate_ntk", "test", 1_000_000)
    )
    X, y = task.points[task.train], task.target[task.train]
    kernel = study.neural_tangent_kernel(task.points, X, activation_scale=3.0)
    expected = kernel @ np.linalg.solve(kernel[task.train], y)
    assert study._naive_regression(task, 3.0) == pytest.approx(expected)
    sign = SurrogateNTKRegressor().fit(X, y).predict(task.points)
    assert sign[task.train] == pytest.approx(y)
