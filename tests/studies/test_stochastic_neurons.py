"""The study of stochastic neurons: its trials at reduced sizes, and what each of them measures."""

import dataclasses
import io

import numpy as np
import pytest

from assay.evidence import trial_generator
from assay.studies import stochastic_neurons as study

REDUCED = {
    study.Enumeration: {"units": 3, "samples": 20_000},
    study.FirstOrder: {"points": 5},
    study.Noise: {"samples": 20_000},
    study.Training: {"n_units": 30, "gater_features": 8, "max_epochs": 2},
    study.Timing: {"in_features": 64, "n_units": 64, "gater_features": 4, "repeats": 2},
    study.Cost: {},
}


def run(experiment, index=1_000_000):
    quick = experiment.scales["quick"]
    settings = dataclasses.replace(quick, **REDUCED[type(quick)])
    return experiment.trial(settings, trial_generator("stochastic_neurons", experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements, other = run(experiment), run(experiment, 1_000_001)
    if not experiment.exclusive:
        assert run(experiment) == measurements
        assert (other == measurements) == experiment.deterministic
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    if experiment.figure is not None:
        picture = io.BytesIO()
        experiment.figure([measurements, other]).savefig(picture, format="svg")
        assert b"</svg>" in picture.getvalue()


def test_first_order_matches_the_derivation():
    """E f(h) - f(p) is f''(0) p^1.5 / 2 for small p."""
    measurements = study.sts_first_order(study.FirstOrder(), np.random.default_rng(0))
    p = np.array(measurements["p"])
    for name in ("exp", "cos"):
        np.testing.assert_allclose(measurements[f"difference_{name}"][0], p[0] ** 1.5 / 2, rtol=0.02)
    assert measurements["order_exp"] == pytest.approx(1.49, abs=0.02)


def test_cost_at_a_large_size_and_at_the_papers():
    multiply_adds = study.STUDY.experiment("multiply_adds")
    large, paper = (multiply_adds.trial(multiply_adds.scales[scale], None) for scale in ("quick", "mnist"))
    assert large["cost"] == pytest.approx(0.1977, abs=1e-4)
    assert paper["cost"] == pytest.approx(0.8102, abs=1e-4)


def test_all_estimators_get_the_same_data_and_seed(monkeypatch):
    fitted = []
    original = study.ConditionalClassifier.fit

    def fit(self, X, y):
        fitted.append((X, y, self.random_state, self.n_units, self.momentum))
        return original(self, X, y)

    monkeypatch.setattr(study.ConditionalClassifier, "fit", fit)
    settings = study.Training(("straight_through", "sts", "sigmoid"), max_epochs=1)
    study.compare(settings, trial_generator("stochastic_neurons", "test", 1_000_000))
    first = fitted[0]
    assert len(first[0]) == settings.train + settings.validation
    for X, y, seed, _, _ in fitted:
        np.testing.assert_array_equal(X, first[0])
        np.testing.assert_array_equal(y, first[1])
        assert seed == first[2]
    assert [(units, momentum) for *_, units, momentum in fitted] == [(200, 0.0), (200, 0.5), (20, 0.0)]
