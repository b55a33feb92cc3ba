"""The study of extensive width: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.networks.extensive_width import sample_quadratic_network, second_moment_error
from assay.studies.extensive_width import STUDY, best_linear_estimate

DESCENT = {"n_features": 10, "n_inits": 2, "max_iter": 50, "data_sets": 2}
SMALL = {
    "closed_form": {"curve_points": 4},
    "denoising": {"n_features": 40},
    "gamp_rie": {"n_features": 20},
    "gamp_rie_more_samples": {"n_features": 20},
    "gamp_rie_noise": {"n_features": 20},
    "averaged_descent": DESCENT,
    "averaged_descent_more_samples": DESCENT,
    "perfect_recovery": {"n_features": 20, "sample_ratios": (0.3, 0.45)},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index, scale="quick", **changes):
    settings = replace(experiment.scales[scale], **SMALL[experiment.name] | changes)
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@experiments
@pytest.mark.parametrize("scale", ["quick", "full"])
def test_a_trial_measures_what_its_claims_read(experiment, scale):
    measurements = small_trial(experiment, 0, scale)
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    for value in measurements.values():
        assert type(value) is float or all(type(item) is float for item in value)


@experiments
def test_a_trial_is_its_generators(experiment):
    one, same, other = small_trial(experiment, 0), small_trial(experiment, 0), small_trial(experiment, 1)
    assert one == same
    assert (one == other) == experiment.deterministic


@experiments
def test_the_figure_draws(experiment, tmp_path):
    figure = experiment.figure([small_trial(experiment, index) for index in range(2)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_formula_answers_its_claims():
    experiment = STUDY.experiment("closed_form")
    measurements = small_trial(experiment, 0)
    assert all(claim.asks(measurements) for claim in experiment.claims)


def test_the_best_linear_estimate_is_the_posterior_mean_under_a_normal_prior():
    d, m, noise = 8, 4, 0.2
    data = sample_quadratic_network(20, d, m, noise=noise, seed=0)
    # The same by the normal equations over all entries of S: those of a symmetric normal matrix of variance
    # 1/m, 2/m on the diagonal, are fitted to sqrt(d) y under noise of the effective variance.
    rows, columns = np.triu_indices(d)
    design = data.inputs[:, rows] * data.inputs[:, columns] / np.sqrt(d) * np.where(rows == columns, 1, 2)
    prior_variance = np.where(rows == columns, 2, 1) / m
    prior_mean = (rows == columns).astype(float)
    effective = 2 * noise * (2 + noise) / (m / d)
    precision = design.T @ design / effective + np.diag(1 / prior_variance)
    residual = np.sqrt(d) * (data.targets - noise) - design @ prior_mean
    expected = prior_mean + np.linalg.solve(precision, design.T @ residual / effective)
    assert best_linear_estimate(data, m / d, noise)[rows, columns] == pytest.approx(expected)


def test_the_best_linear_estimate_errs_as_linear_theory_says():
    d = 60
    errors = []
    for seed in range(4):
        data = sample_quadratic_network(720, d, d // 2, seed=seed)
        errors.append(second_moment_error(best_linear_estimate(data, 0.5, 0.0), data.second_moment, 0.5))
    assert np.mean(errors) == pytest.approx(1 - 2 * 720 / d**2, abs=0.06)
