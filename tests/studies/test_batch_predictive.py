"""The study of batch predictive inference: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.inference.batch_predictive import select_test_points
from assay.studies import batch_predictive as study

STUDY = study.STUDY
SMALL = {
    "forest_residuals": {"draws": 30, "trees": 5},
    "real_residuals": {"draws": 30, "trees": 5},
    "mean_coverage": {"draws": 10},
    "exactness": {"cases": 6},
    "cost": {"mean_sizes": (5, 10), "general_sizes": (5, 10), "repeats": 1},
    "small_calibration": {"draws": 30, "mean_draws": 5},
    "false_claims": {"draws": 30},
    "counterfactual": {"draws": 20},
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
        assert value is None or type(value) is float or all(type(item) is float for item in value)


@experiments
def test_a_trial_is_its_generators(experiment):
    one, same, other = small_trial(experiment, 0), small_trial(experiment, 0), small_trial(experiment, 1)
    assert one.keys() == same.keys() == other.keys()
    if not experiment.exclusive:
        assert one == same
        # Rounding alone may well be the same in two trials.
        assert one != other or experiment.name == "exactness"


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


@pytest.mark.parametrize("scale", ["full", "drug_targets"])
def test_larger_scales_run_too(scale, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("y_test.txt", "muhat_test.txt"):
        np.savetxt(tmp_path / name, rng.normal(size=700))
    for experiment in STUDY.experiments:
        if scale not in experiment.scales:
            continue
        changes = {"draws": 4, "mean_draws": 2, "trees": 3, "data_folder": str(tmp_path)}
        changes |= {"mean_sizes": (2, 4), "general_sizes": (2, 4), "repeats": 1}
        settings = experiment.scales[scale]
        settings = replace(settings, **{k: v for k, v in changes.items() if hasattr(settings, k)})
        measurements = experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000))
        assert all(claim.asks(measurements) in (True, False) for claim in experiment.claims)


def test_bonferroni_has_the_p_values_that_it_should():
    scores = np.array([-np.inf, 1.0, 2.0, 2.0])
    candidates = np.array([0.0, 1.0, 2.0, 3.0])  # p-values 0.8, 0.8, 0.6, 0.2
    for level, claimed in ((0.1, []), (0.2, [3]), (0.6, [2, 3]), (0.8, [0, 1, 2, 3])):
        assert np.flatnonzero(study._by_p_values(scores, candidates, level)).tolist() == claimed


def test_without_false_claims_allowed_both_selections_nearly_agree():
    # Both then control the family-wise error rate, and differ by the slack of a union bound only.
    rng = np.random.default_rng(1)
    p = rng.normal(size=1100)
    y = p + rng.normal(size=1100)
    ours = select_test_points(p[:1000], y[:1000], p[1000:], 0.0, 0.1).selected.sum()
    scores = np.where(y[:1000] <= 0, p[:1000], -np.inf)
    assert abs(int(ours) - int(study._by_p_values(scores, p[1000:], 0.1 / 100).sum())) <= 3


def test_thinning_makes_the_untreated_resemble_the_treated():
    settings = replace(STUDY.experiment("counterfactual").scales["quick"], draws=100, alphas=(0.2,))
    measured = study.counterfactual(settings, np.random.default_rng(2))
    assert all(measured[f"{name}_excess"] > -4 for name in ("median", "quartiles", "mean"))
