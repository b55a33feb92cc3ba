"""The study of Small-Gain Nash: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from assay.evidence import trial_generator
from assay.optimize.small_gain_nash import certify, coordination_game
from assay.studies import small_gain_nash
from assay.studies.small_gain_nash import STUDY

SMALL = {
    "certifies_non_monotone": {"block": 4, "couplings": 11},
    "flow_contracts": {"block": 4, "random_games": 2, "starts": 3, "times": 5},
    "safe_steps": {"block": 4, "couplings": 11, "random_games": 2, "starts": 2, "steps": 20},
    "timescale_band": {"block": 4},
    "estimated_bounds": {"jacobians": 20, "pairs": 2, "steps": 20},
    "mirror_geometry": {"starts": 3, "steps": 20, "decay_steps": 5},
    "random_games": {"games": 2, "block": 4, "couplings": 4},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index=0, **changes):
    settings = replace(experiment.scales["quick"], **SMALL[experiment.name], **changes)
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@experiments
def test_a_trial_measures_what_its_claims_read(experiment):
    measurements = small_trial(experiment)
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    for value in measurements.values():
        assert type(value) is float or all(type(item) is float for item in value)


@experiments
def test_a_trial_is_its_generators(experiment):
    one, same, other = small_trial(experiment), small_trial(experiment), small_trial(experiment, 1)
    assert one == same
    assert one != other


@experiments
def test_the_figure_draws(experiment):
    figure = experiment.figure([small_trial(experiment, index) for index in range(2)])
    figure.savefig(file := BytesIO(), format="svg")
    assert b"</svg>" in file.getvalue()
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_a_random_game_is_certified_by_weights_alone():
    rng = np.random.default_rng(0)
    games = [small_gain_nash._random_game((4, 3, 5), rng) for _ in range(50)]
    assert all(certify(H, (4, 3, 5)).certified for H in games)
    assert sum(certify(H, (4, 3, 5), weights=[1, 1, 1]).certified for H in games) < 20


def test_the_constrained_equilibrium_is_where_projected_play_rests():
    rng = np.random.default_rng(1)
    settings = replace(STUDY.experiment("safe_steps").scales["quick"], starts=1, steps=500)
    for _ in range(5):
        H = small_gain_nash._random_game((2, 2), rng)
        largest, certified = small_gain_nash._projected_ratio(H, (2, 2), settings, rng)
        # A play that rested anywhere else would end with distances that no longer fall.
        assert largest <= certified


def test_the_lyapunov_function_is_the_weighted_divergence():
    rng = np.random.default_rng(2)
    game, theta = coordination_game(), rng.normal(size=8)
    star = rng.normal(size=8)
    distance = small_gain_nash._Distances(game, star, np.array([1.0, 3.0]))
    p, q = (np.exp(x.reshape(2, 2, 2)) for x in (star, theta))
    p, q = p / p.sum(axis=2, keepdims=True), q / q.sum(axis=2, keepdims=True)
    divergences = (p * np.log(p / q)).sum(axis=(1, 2))
    assert distance.lyapunov(theta) == pytest.approx(divergences @ [1, 3])
    shifted = star + np.repeat(rng.normal(size=4), 2)
    assert distance.lyapunov(shifted) == pytest.approx(0, abs=1e-12)
    assert distance.logits(shifted) == pytest.approx(0, abs=1e-12)
    assert distance.logits(theta) == pytest.approx(np.abs(np.log(p / q)).max())


def test_a_markov_game_without_a_certificate_does_not_apply():
    experiment = STUDY.experiment("mirror_geometry")
    measurements = small_trial(experiment, radius=2.0)
    assert measurements["margin"] <= 0
    assert [claim.asks(measurements) for claim in experiment.claims] == [None] * len(experiment.claims)
    experiment.figure([measurements])


def test_larger_markov_games_are_drawn():
    experiment = STUDY.experiment("mirror_geometry")
    measurements = small_trial(experiment, random_states=2, samples=10)
    assert measurements["margin"] != small_trial(experiment)["margin"]
