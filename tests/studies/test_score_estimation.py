"""The study of score estimation: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.studies.score_estimation import STUDY

SMALL = {
    "regression_form": {"identity_samples": 100, "samples": 1000},
    "kernel_path": {"samples": 20, "widths": (16, 64), "instances": 2, "test_samples": 50},
    "early_stopping": {"samples": 40, "test_samples": 50},
    "network_stopping": {"samples": 20, "width": 32, "long_steps": 50, "test_samples": 50},
    "sample_complexity": {"sizes": (20, 40), "test_samples": 50},
    "tabular": {
        "samples": 60,
        "width": 32,
        "tuned_widths": (8,),
        "tuned_steps": 5,
        "generated": 30,
        "solver_steps": 4,
    },
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index, **changes):
    settings = replace(experiment.scales["quick"], **SMALL[experiment.name] | changes)
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
    assert one.keys() == same.keys() == other.keys()
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    "experiment",
    [experiment for experiment in STUDY.experiments if experiment.figure],
    ids=lambda experiment: experiment.name,
)
def test_the_figure_draws(experiment, tmp_path):
    figure = experiment.figure([small_trial(experiment, index) for index in range(2)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_parts_of_an_error_add_up_to_it_at_most():
    """By the triangle inequality for the root of the mean square."""
    measured = small_trial(STUDY.experiment("network_stopping"), 0)
    parts = [np.sqrt(measured[f"part_{name}"]) for name in ("width", "noise", "stopping")]
    assert np.sqrt(measured["error_stopped"]) <= sum(parts)
    assert np.sqrt(measured["error_kernel"]) <= sum(parts[1:])


def test_the_best_step_is_no_worse_than_the_rules():
    measured = small_trial(STUDY.experiment("early_stopping"), 0, samples=200)
    assert measured["error_best"] <= measured["error_stopped"] <= measured["error_converged"]


def test_the_network_and_its_kernel_share_their_path():
    measured = small_trial(STUDY.experiment("network_stopping"), 0, samples=50, width=8192)
    assert measured["errors"] == pytest.approx(measured["errors_kernel"], rel=0.1)
