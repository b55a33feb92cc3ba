"""The study of top-K gating: its trials at reduced sizes, and the truths and starts that they use."""

import dataclasses
import io

import numpy as np
import pytest

from assay.evidence import trial_generator
from assay.gating.gaussian_moe import log_density
from assay.gating.topk_gating import TopKGate, required_selection
from assay.studies import topk_gating as study


def run(experiment, index=1_000_000):
    reduced = dataclasses.replace(
        experiment.scales["quick"],
        sizes=(200, 400),
        repetitions=2,
        grid=20,
        **({"starts_too_few": 2, "starts_enough": 1} if experiment.name == "selection_must_grow" else {}),
    )
    return experiment.trial(reduced, trial_generator("topk_gating", experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    assert other != measurements
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False, None)
    picture = io.BytesIO()
    experiment.figure([measurements, other]).savefig(picture, format="svg")
    assert b"</svg>" in picture.getvalue()


@pytest.mark.parametrize(
    ("truth", "top_k", "expert"),
    [(study.SPARSE_TRUTH, study.SPARSE_TOP_K, study.DOUBLED_EXPERT), (study.DENSE_TRUTH, 2, 0)],
)
def test_a_doubled_expert_has_the_truths_density_exactly_if_enough_are_selected(truth, top_k, expert):
    X = np.linspace(-1, 1, 100)[:, None]
    y = np.linspace(-3, 3, 100)
    doubled = study._doubled(truth, expert)
    expected = log_density(X, y, truth, TopKGate(top_k))
    cell_sizes = [2 if i == expert else 1 for i in range(truth.n_experts)]
    enough = TopKGate(required_selection(cell_sizes, top_k))
    np.testing.assert_allclose(log_density(X, y, doubled, enough), expected, rtol=1e-9)
    too_few = log_density(X, y, doubled, TopKGate(enough.top_k - 1))
    assert np.abs(too_few - expected).max() > 0.1


def test_starts_are_near_what_they_are_near_to():
    rng = np.random.default_rng(0)
    start = study._near(study.SPARSE_TRUTH, 1e-3, rng)
    for field in dataclasses.fields(start):
        np.testing.assert_allclose(
            getattr(start, field.name), getattr(study.SPARSE_TRUTH, field.name), rtol=0, atol=0.01
        )
    errors = study._errors_by_cell_size(study._doubled(study.SPARSE_TRUTH, study.DOUBLED_EXPERT))
    assert errors == (0, 0, 0, 0)
