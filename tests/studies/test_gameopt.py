"""The study of GameOpt: its trials at reduced sizes, what they pair, and its figures."""

from __future__ import annotations

import pickle
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from assay.evidence import Measurements, trial_generator
from assay.optimize.gameopt import GameOpt
from assay.studies import gameopt
from assay.studies.gameopt import STUDY

SMALL: dict[str, Any] = {"n_sites": 4, "n_letters": 5, "n_initial": 8, "rounds": 3, "n_reference": 200}
REDUCED: dict[str, dict[str, Any]] = {
    "eight_sites": SMALL,
    "eight_sites_refitted": SMALL,
    "thirty_sites": SMALL,
    "both_subroutines": SMALL,
    "small_domain": SMALL,
    "equilibria": SMALL,
    "growth": {"n_sites": (3, 6), "n_letters": 5, "n_data": 20, "n_games": 3},
    "one_proposal": {"n_sites": 4, "n_letters": 5, "n_data": 20, "repeats": 1},
}


def run(name: str, index: int = 1_000_000, scale: str = "quick") -> Measurements:
    experiment = STUDY.experiment(name)
    settings = replace(experiment.scales[scale], **REDUCED[name])
    return experiment.trial(settings, trial_generator(STUDY.slug, name, index))


@pytest.fixture(scope="module")
def trials() -> dict[str, Measurements]:
    return {experiment.name: run(experiment.name) for experiment in STUDY.experiments}


@pytest.mark.parametrize("name", REDUCED)
def test_a_trial_answers_every_claim_with_plain_numbers(name: str, trials: dict[str, Measurements]) -> None:
    for claim in STUDY.experiment(name).claims:
        assert claim.asks(trials[name]) in (True, False)
    for value in trials[name].values():
        assert all(type(number) is float for number in (value if isinstance(value, list) else [value]))


@pytest.mark.parametrize("name", [name for name in REDUCED if name != "one_proposal"])
def test_the_generator_fixes_a_trial(name: str, trials: dict[str, Measurements]) -> None:
    assert run(name) == trials[name]
    assert run(name, 1_000_001) != trials[name]


@pytest.mark.parametrize("name", [e.name for e in STUDY.experiments if "full" in e.scales])
def test_the_full_scale_differs_in_size_alone(name: str, trials: dict[str, Measurements]) -> None:
    assert run(name, scale="full").keys() == trials[name].keys()


@pytest.mark.parametrize("name", [e.name for e in STUDY.experiments if e.figure])
def test_figures_draw(name: str, trials: dict[str, Measurements]) -> None:
    draw = STUDY.experiment(name).figure
    assert draw is not None
    file = BytesIO()
    draw([trials[name], trials[name]]).savefig(file, format="svg")
    assert b"</svg>" in file.getvalue()


def test_all_methods_start_alike_and_never_fall(trials: dict[str, Measurements]) -> None:
    curves = [np.array(value) for key, value in trials["eight_sites"].items() if key.startswith("scores_")]
    assert len(curves) == 5
    assert {curve[0] for curve in curves} == {curves[0][0]}
    for curve in curves:
        assert curve.size == 4
        assert (np.diff(curve) >= 0).all()


def test_mutants_are_new_single_changes_of_the_best_points() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 3, 0], [3, 3, 3]])
    optimiser = GameOpt([4] * 3).tell(points, [5.0, 1, 2, 3, 4])
    mutants = gameopt._mutants(optimiser, 4, 10, np.random.default_rng(0))
    assert len(np.unique(np.vstack([mutants, points]), axis=0)) == 10 + len(points)
    # Nine single changes of the best point, of which three were evaluated; the second best is all threes.
    assert ((mutants[:6] != 0).sum(axis=1) == 1).all()
    assert ((mutants[6:] != 3).sum(axis=1) == 1).all()
    few = GameOpt([2]).tell([[0]], [1.0])
    with pytest.raises(ValueError, match="only 1 mutants"):
        gameopt._mutants(few, 2, 2, np.random.default_rng(0))


def test_gaps_are_of_the_landscape_in_standard_deviations(trials: dict[str, Measurements]) -> None:
    """The smallest gap cannot undercut that of the best of all points, and is 0 once all are evaluated."""
    measured = trials["equilibria"]
    assert measured["smallest_gap_random"] <= measured["gap_of_best_random"]  # type: ignore[operator]
    settings = replace(
        STUDY.experiment("equilibria").scales["quick"],
        **SMALL | {"n_sites": 3, "n_letters": 2, "n_initial": 2, "batch_size": 1, "rounds": 6},
    )
    every = gameopt.equilibria(settings, trial_generator(STUDY.slug, "equilibria", 1_000_000))
    assert every["gap_of_best_random"] == every["gap_of_best_best_response"] == 0


def test_the_study_can_be_sent_to_a_worker() -> None:
    assert pickle.loads(pickle.dumps(STUDY)) == STUDY
