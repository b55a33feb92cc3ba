"""The study of hierarchical polynomials: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.studies.hierarchical_polynomials import STUDY, _crossing

SMALL = {
    "products": {"n_features": 8},
    "quadratic_forms": {"n_features": 8},
    "kernel": {"n_features": 6, "alphas": (0.1, 1.0)},
    "two_layers": {"n_features": 6, "width": 20, "steps": 100},
    "cubic_feature": {"n_features": 6, "inner_width": 60},
    "recovery_rate": {"dimensions": (6, 8, 10), "targets": 2, "recovered": 0.8},
    "steps": {"n_features": 8, "n_steps": (200, 200)},
    "information_exponent": {"n_features": 8},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index):
    settings = replace(experiment.scales["quick"], test_samples=500, **SMALL[experiment.name])
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@experiments
def test_a_trial_measures_what_its_claims_read(experiment):
    measurements = small_trial(experiment, 0)
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False, None)
    for value in measurements.values():
        assert value is None or type(value) is float or all(type(item) is float for item in value)


@experiments
def test_a_trial_is_its_generators(experiment):
    one, same, other = small_trial(experiment, 0), small_trial(experiment, 0), small_trial(experiment, 1)
    assert one.keys() == same.keys() == other.keys()
    assert one == same
    assert one != other


@experiments
def test_the_figure_draws(experiment, tmp_path):
    figure = experiment.figure([small_trial(experiment, index) for index in range(2)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_kernels_error_is_that_of_its_best_penalty():
    experiment = STUDY.experiment("kernel")
    settings = replace(experiment.scales["quick"], n_features=6, test_samples=500)
    alphas = (1e-3, 0.1, 10.0)
    errors = [
        experiment.trial(
            replace(settings, alphas=chosen), trial_generator(STUDY.slug, experiment.name, 2_000_000)
        )["error_kernel"]
        for chosen in (alphas, *((alpha,) for alpha in alphas))
    ]
    assert errors[0] == pytest.approx(min(errors[1:]), rel=1e-9)
    assert len(set(errors[1:])) == 3


def test_the_two_layer_network_can_learn():
    """A target that it is known to learn: a single index."""
    experiment = STUDY.experiment("two_layers")
    settings = replace(
        experiment.scales["quick"],
        n_features=5,
        degree=1,
        ratio=400.0,
        kind="hermite",
        steps=600,
        learning_rates=(1e-2,),
    )
    measurements = experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000))
    assert measurements["error_two_layer"] < 0.05


def test_the_point_of_recovery_is_interpolated():
    x = np.array([0.0, 1.0, 2.0])
    assert _crossing(x, np.array([0.2, 0.4, 0.8]), 0.5) == pytest.approx(1.25)
    assert _crossing(x, np.array([0.2, 0.6, 0.4]), 0.6) == 1.0
    assert _crossing(x, np.array([0.2, 0.4, 0.45]), 0.5) is None
    assert _crossing(x, np.array([0.5, 0.6, 0.7]), 0.5) is None
