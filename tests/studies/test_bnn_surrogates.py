"""The study of surrogates: its trials measure what its claims read, repeat, and draw."""

import math
from dataclasses import replace

import pytest
import torch
from botorch.posteriors.ensemble import EnsemblePosterior
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.optimize.bnn_surrogates import GaussianProcessSurrogate, bnn_draw
from assay.studies.bnn_surrogates import STUDY, Rounds, _log_density, _problem, _standardised, _uniform

LOOP = {"n_initial": 4, "n_rounds": 1, "batch_size": 2, "maxiter": 1}
CHEAP = {
    "hidden": (4,),
    "pretrain_steps": 10,
    "n_samples": 5,
    "n_burn_in": 5,
    "max_leapfrog": 3,
    "n_members": 3,
    "sghmc_steps": 40,
    "train_steps": 10,
}
SMALL = {
    "problem_dependence": {**LOOP, "d": 4, "n_initial_hartmann": 4, "n_rounds_hartmann": 1},
    "high_dimensional_prediction": {"dimensions": (3,), "n_train": 6, "n_test": 20},
    "polynomial_search": {**LOOP, "d": 4},
    "inference_density": {**CHEAP, "n_train": 10, "n_test": 20},
    "branin_search": {**LOOP, **CHEAP},
    "hartmann_search": {**LOOP, **CHEAP},
    "deep_kernel": {**LOOP, "hidden": (4,), "pretrain_steps": 10, "train_steps": 10},
    "exact_limits": {"n": 10, "d": 2, "n_queries": 5, "n_samples": 20, "n_burn_in": 20},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index):
    settings = replace(experiment.scales["quick"], **SMALL[experiment.name])
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@experiments
def test_trials_measure_what_claims_read_repeat_and_draw(experiment, tmp_path):
    one, same, other = (small_trial(experiment, index) for index in (0, 0, 1))
    assert one == same
    assert one != other
    assert one.keys() == other.keys()
    for claim in experiment.claims:
        assert claim.asks(one) in (True, False)
    for value in one.values():
        assert type(value) is float or all(type(item) is float for item in value)
    if experiment.figure is not None:
        figure = experiment.figure([one, other])
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / "figure.svg")
        assert all(axes.get_ylabel() for axes in figure.axes)


def test_surrogates_of_a_trial_start_alike():
    for name in ("polynomial_search", "hartmann_search"):
        measurements = small_trial(STUDY.experiment(name), 0)
        courses = [value for key, value in measurements.items() if key.startswith("course_")]
        assert len(courses) > 2
        assert len({course[0] for course in courses}) == 1


def test_limits_are_exact_even_when_small():
    measurements = small_trial(STUDY.experiment("exact_limits"), 0)
    assert measurements["error_laplace"] < 1e-3
    assert measurements["deviation_error_laplace"] < 1e-3


def test_density_of_a_set_of_functions_is_that_of_their_mixture():
    class TwoFunctions:
        def posterior(self, X):
            return EnsemblePosterior(torch.stack([X, X + 2]))

    X = torch.zeros(3, 1, dtype=torch.float64)
    density = _log_density(TwoFunctions(), X, X, torch.tensor(0.5))
    expected = math.log((1 + math.exp(-4)) / 2 / math.sqrt(math.pi))
    assert density == pytest.approx(expected)


def test_density_of_a_process_includes_its_noise():
    rng = trial_generator(STUDY.slug, "inference_density", 2_000_000)
    X = _uniform(20, 2, rng)
    model = GaussianProcessSurrogate().fit(X, X[:, :1])
    posterior = model.posterior(X)
    expected = torch.distributions.Normal(posterior.mean, (posterior.variance + 0.5).sqrt())
    density = _log_density(model, X, X[:, 1:], torch.tensor(0.5))
    assert density == pytest.approx(float(expected.log_prob(X[:, 1:]).mean()))


@pytest.mark.parametrize("name", ["branin", "hartmann"])
def test_no_value_is_above_the_optimum(name):
    problem, bounds = _problem(name)
    X = bounds[0] + (bounds[1] - bounds[0]) * torch.rand(1000, problem.dim, dtype=torch.float64)
    assert (problem(X) < problem.optimal_value).all()
    assert problem.bounds.shape == (2, problem.dim)


def test_drawn_functions_are_standardised():
    rng = trial_generator(STUDY.slug, "problem_dependence", 2_000_000)
    values = _standardised(bnn_draw(30, seed=1), 30, rng)(_uniform(2000, 30, rng))
    assert float(values.mean()) == pytest.approx(0, abs=0.15)
    assert float(values.std()) == pytest.approx(1, abs=0.15)


def test_rounds_are_those_of_the_settings():
    problem, bounds = _problem("branin")
    rng = trial_generator(STUDY.slug, "branin_search", 2_000_000)
    courses = Rounds(**LOOP).optimise(problem, bounds, {"random": None}, rng)
    assert len(courses["random"]) == 2
