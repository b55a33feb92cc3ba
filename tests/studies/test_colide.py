"""The study of CoLiDE: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.studies.colide import STUDY

SMALL = {
    "heterogeneous_noise": {"n_nodes": 10, "n_samples": 200},
    "stability": {"n_nodes": 10, "n_samples": 200, "instances": 3},
    "noise_levels": {"n_nodes": 10, "n_samples": 200, "instances": 2},
    "noise_scales": {"n_nodes": 8, "n_samples": 500},
    "cost": {"n_nodes": 10, "n_samples": 200, "repeats": 2},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index):
    settings = replace(
        experiment.scales["quick"], **{"warm_iter": 100, "max_iter": 200, **SMALL[experiment.name]}
    )
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
    if not experiment.exclusive:
        assert one == same
        assert one != other


@experiments
def test_the_figure_draws(experiment, tmp_path):
    if experiment.figure is None:
        pytest.skip("this experiment has no figure")
    figure = experiment.figure([small_trial(experiment, index) for index in range(2)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_methods_of_a_trial_share_its_data_and_are_told_apart():
    trial = STUDY.experiment("heterogeneous_noise")
    measurements = small_trial(trial, 0)
    best = measurements["shd_best_colide"]
    assert best == min(measurements["shd_colide_ev"], measurements["shd_colide_nv"])
    baselines = [measurements[f"shd_{name}"] for name in ("dagma", "golem_ev", "golem_nv")]
    assert measurements["shd_best_baseline"] == min(baselines)
    assert len({best, *baselines}) > 1


def test_unit_noise_is_recovered_in_an_easy_graph():
    experiment = STUDY.experiment("noise_scales")
    settings = replace(experiment.scales["quick"], n_nodes=5, mean_degree=2.0, n_samples=5000)
    rows = [
        experiment.trial(settings, trial_generator(STUDY.slug, "noise_scales", 2_000_000 + i))
        for i in range(3)
    ]
    assert np.median([row["log_correlation"] for row in rows]) > 0.9
    assert any(row["relative_error"] is not None and row["relative_error"] < 0.05 for row in rows)
