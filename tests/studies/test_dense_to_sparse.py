"""The study of dense-to-sparse gates: its trials at reduced sizes, and the starts that they use."""

import dataclasses
import io

import numpy as np
import pytest

from assay.evidence import trial_generator
from assay.gating.gaussian_moe import log_density, sample
from assay.studies import dense_to_sparse as study


def run(experiment, index=1_000_000):
    settings = experiment.scales["quick"]
    if isinstance(settings, study.Rates):
        reduced = dataclasses.replace(settings, sizes=(200, 400), repetitions=2)
    else:
        reduced = dataclasses.replace(settings, samples=300)
    return experiment.trial(reduced, trial_generator("dense_to_sparse", experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    assert other != measurements
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    picture = io.BytesIO()
    experiment.figure([measurements, other]).savefig(picture, format="svg")
    assert b"</svg>" in picture.getvalue()


def test_the_two_starts_lie_on_either_side_of_the_true_scale():
    settings = dataclasses.replace(study.GateRates(), start_noise=0.0)
    starts = study._starts(study.TRUTH, settings, np.random.default_rng(0))
    factors = [start.temperature / study.TRUTH.temperature for start in starts]
    assert factors[0] * factors[1] == pytest.approx(1)
    assert factors[0] != pytest.approx(1)
    X, y = np.linspace(-4, 4, 50)[:, None], np.linspace(-5, 5, 50)
    for start in starts:
        for name, same in (("linear", True), ("relu", True), ("tanh", False)):
            first, second = (log_density(X, y, at, study.GATES[name]) for at in (start, study.TRUTH))
            assert np.allclose(first, second) == same


def test_of_equally_likely_fits_the_first_counts():
    settings = study.GateRates()
    rng = np.random.default_rng(0)
    starts = study._starts(study.TRUTH, settings, rng)
    X = study._inputs(500, rng)
    y, _ = sample(X, study.TRUTH, study.GATES["linear"], seed=rng)
    for ordered in (starts, starts[::-1]):
        fitted = study._fit(X, y, ordered, study.GATES["linear"])
        assert fitted.temperature == pytest.approx(ordered[0].temperature, rel=0.02)
