"""The study of block coordinate descent: its trials at reduced sizes, and its figures."""

from __future__ import annotations

import pickle
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from assay.evidence import Measurements, trial_generator
from assay.studies import block_descent
from assay.studies.block_descent import STUDY

SMALL = block_descent.FiveProblems(
    rows=40,
    columns=60,
    multiclass_columns=20,
    classes=4,
    lattice_side=8,
    lattice_labels=6,
    moons=60,
    moon_labels=8,
    iterations=20,
)
REDUCED: dict[str, Any] = {
    "greedy_rules": SMALL,
    "blocks_and_updates": SMALL,
    "message_passing": block_descent.Graphs(8, 8, 80, 8, iterations=12),
    "exact_solves": block_descent.ForestSizes(systems=3, lattice_side=8, features=20, rows=60),
    "linear_time": block_descent.PathLengths(lengths=(2_000, 8_000), repeats=2),
    "finite_termination": block_descent.NonnegativeLasso(rows=60, columns=100, iterations=100),
    "active_set_complexity": block_descent.StronglyConvexLasso(rows=60, columns=20, support=4),
    "superlinear": block_descent.SparseLogistic(rows=60, columns=30, iterations=60),
}


def run(name: str, index: int = 1_000_000) -> Measurements:
    return STUDY.experiment(name).trial(REDUCED[name], trial_generator(STUDY.slug, name, index))


@pytest.fixture(scope="module")
def trials() -> dict[str, Measurements]:
    return {experiment.name: run(experiment.name) for experiment in STUDY.experiments}


@pytest.mark.parametrize("name", REDUCED)
def test_a_trial_answers_every_claim(name: str, trials: dict[str, Measurements]) -> None:
    for claim in STUDY.experiment(name).claims:
        assert claim.asks(trials[name]) in (True, False)


@pytest.mark.parametrize("name", REDUCED)
def test_measurements_are_plain(name: str, trials: dict[str, Measurements]) -> None:
    for value in trials[name].values():
        numbers = value if isinstance(value, list) else [value]
        assert all(type(number) is float for number in numbers)


@pytest.mark.parametrize("name", [name for name in REDUCED if name != "linear_time"])
def test_the_generator_fixes_a_trial(name: str, trials: dict[str, Measurements]) -> None:
    assert run(name) == trials[name]
    assert run(name, 1_000_001) != trials[name]


def test_greedy_rules_of_variable_blocks() -> None:
    experiment = STUDY.experiment("greedy_rules")
    assert experiment.scales["variable_blocks"].partition == "variable"
    settings = replace(SMALL, partition="variable")
    measured = experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 1_000_000))
    assert all(claim.asks(measured) in (True, False) for claim in experiment.claims)


@pytest.mark.parametrize("name", [e.name for e in STUDY.experiments if e.figure])
def test_figures_draw(name: str, trials: dict[str, Measurements]) -> None:
    draw = STUDY.experiment(name).figure
    assert draw is not None
    file = BytesIO()
    draw([trials[name], trials[name]]).savefig(file, format="svg")
    assert b"</svg>" in file.getvalue()


def test_a_support_larger_than_the_block_does_not_apply() -> None:
    experiment = STUDY.experiment("finite_termination")
    settings = replace(REDUCED["finite_termination"], block_size=1, l1_share=0.1, iterations=300)
    measured = experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 1_000_000))
    assert [claim.asks(measured) for claim in experiment.claims] == [None] * len(experiment.claims)
    assert experiment.figure is not None
    experiment.figure([measured])


def test_the_optimum_of_a_graph_is_its_least_value() -> None:
    problem = block_descent._lattice(8, 6, np.random.default_rng(0))
    exact = np.linalg.solve(problem.matrix.toarray(), problem.linear)
    assert block_descent._optimum(problem) == pytest.approx(problem.value(exact), rel=1e-12)


def test_the_study_can_be_sent_to_a_worker() -> None:
    assert pickle.loads(pickle.dumps(STUDY)) is not None
