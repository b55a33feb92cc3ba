"""The study of selection from biased rankings: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.inference.subset_selection import CommitteeRule, item_scores
from assay.studies.subset_selection import STUDY, UtilityBias, _Model

SMALL = {
    "constraints_help": {"n_items": 12, "size": 4, "n_rankings": 40, "profiles": 3},
    "more_swaps": {"n_items": 12, "size": 4, "n_rankings": 40, "profiles": 3, "fractions": (0.0, 0.2, 0.8)},
    "unlimited_rankings": {"items": (8, 12)},
    "rankings_needed": {"items": (8, 12), "repetitions": 10},
    "smoothness_tool": {"items": (8, 12), "n_rankings": 200, "n_trials": 20, "least_events": 5.0},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index, **changes):
    settings = replace(experiment.scales["quick"], **{**SMALL[experiment.name], **changes})
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
    assert (one == other) == experiment.deterministic


@experiments
def test_the_figure_draws(experiment, tmp_path):
    if experiment.figure is None:
        pytest.skip("this experiment has no figure")
    figure = experiment.figure([small_trial(experiment, index) for index in range(2)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_without_bias_nothing_is_lost_and_the_bound_cannot_gain():
    measurements = small_trial(STUDY.experiment("constraints_help"), 0, fraction=0.0)
    for name in ("borda", "bloc", "sntv", "chamberlin_courant"):
        assert measurements[f"{name}_free"] == 1.0
        assert measurements[f"{name}_bounded"] <= 1.0 + 1e-12


def test_shares_are_at_most_one_and_swaps_are_paired():
    measurements = small_trial(STUDY.experiment("more_swaps"), 0)
    for name in ("borda", "bloc", "sntv"):
        assert measurements[f"{name}_free"][0] == 1.0
        assert max(measurements[f"{name}_free"] + measurements[f"{name}_bounded"]) <= 1.0
        assert measurements[f"{name}_least_fall"] == pytest.approx(1 - measurements[f"{name}_free"][1])


def test_a_search_that_finds_nothing_ends_at_the_most_rankings():
    measurements = small_trial(
        STUDY.experiment("rankings_needed"), 0, quality=1.01, most_sntv=2**6, most_borda=2**5
    )
    assert measurements["sntv_doublings"] == [6.0, 6.0]
    assert measurements["borda_doublings"] == [5.0, 5.0]
    assert measurements["sntv_growth"] == pytest.approx(0.0)


@pytest.mark.parametrize(("name", "rule"), [("borda", CommitteeRule.borda()), ("sntv", CommitteeRule.sntv())])
def test_expected_scores_are_those_of_the_rankings(name, rule):
    n, rng = 50_000, np.random.default_rng(0)
    model = _Model.of(UtilityBias(), 8, name)
    largest = rule.position_scores(8)[0]
    assert item_scores(model.unbiased_rankings(n, rng), rule) / n / largest == pytest.approx(
        model.latent, abs=0.01
    )
    assert item_scores(model.biased_rankings(n, rng), rule) / n / largest == pytest.approx(
        model.biased, abs=0.01
    )
    assert model.alpha == min(model.biased)


def test_ties_do_not_follow_quality():
    """Without a single vote the selection is at random, whatever the numbering of the items."""
    model, rng = _Model.of(UtilityBias(), 16, "sntv"), np.random.default_rng(0)
    qualities = [model.quality(np.zeros(16), rng.permutation(16)) for _ in range(500)]
    best = np.sort(model.latent)[-4:].sum()
    assert np.mean(qualities) == pytest.approx(4 * model.latent.mean() / best, abs=0.05)
