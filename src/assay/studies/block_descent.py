"""What Nutini, Laradji and Schmidt (2017, arXiv 1712.08859) claim of block coordinate descent.

The problems are the paper's, drawn by its public recipe: least squares, logistic and multi-class logistic
regression on a sparse matrix with columns of very different sizes, and label propagation on a lattice and on
two moons. A scale called "full" has the paper's sizes; its trials take up to a minute or so, and are no part
of the recorded evidence.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import linalg, sparse
from sklearn.datasets import make_moons
from sklearn.neighbors import kneighbors_graph

from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    all_of,
    at_least,
    at_most,
    better,
    between,
    near,
)
from assay.optimize.block_descent import (
    BlockDescentResult,
    LabelPropagation,
    LeastSquares,
    LogisticRegression,
    MulticlassLogistic,
    Partition,
    Selection,
    Update,
    active_set_bound,
    block_coordinate_descent,
    greedy_forest,
    solve_forest,
)

Floats = NDArray[np.float64]

SOLVED = 1e-9
"""The gap, as a share of the first one, at which a problem counts as solved."""

_GAP_LABEL = "gap left, as a share of the first"

TITLES = {
    "least_squares": "least squares",
    "logistic": "logistic",
    "multiclass": "multi-class logistic",
    "lattice": "lattice",
    "moons": "two moons",
}
_GAPS = {f"gap_{name}": title for name, title in TITLES.items()}


# --- Problems: the paper's data sets A to E ----------------------------------------------------------


def _uneven_matrix(n_rows: int, n_columns: int, rng: np.random.Generator) -> sparse.csc_array[np.float64]:
    columns = 10 * rng.normal(size=n_columns)
    A = (rng.normal(size=(n_rows, n_columns)) + 1) * columns
    return sparse.csc_array(A * (rng.random(A.shape) < 10 * np.log(n_rows) / n_rows))


def _sparse_truth(n: int, rng: np.random.Generator) -> Floats:
    return rng.normal(size=n) * (rng.random(n) < 0.1)


def _flipped_signs(scores: Floats, rng: np.random.Generator) -> Floats:
    return np.where((scores >= 0) != (rng.random(scores.size) < 0.1), 1.0, -1.0)


def _least_squares(n_rows: int, n_columns: int, rng: np.random.Generator) -> LeastSquares:
    A = _uneven_matrix(n_rows, n_columns, rng)
    return LeastSquares(A, A @ _sparse_truth(n_columns, rng) + rng.normal(size=n_rows))


def _logistic(n_rows: int, n_columns: int, rng: np.random.Generator) -> LogisticRegression:
    A = _uneven_matrix(n_rows, n_columns, rng)
    scores = np.asarray(A @ _sparse_truth(n_columns, rng), dtype=np.float64)
    return LogisticRegression(A, _flipped_signs(scores, rng))


def _multiclass(n_rows: int, n_columns: int, n_classes: int, rng: np.random.Generator) -> MulticlassLogistic:
    A = _uneven_matrix(n_rows, n_columns, rng)
    scores = A @ rng.normal(size=(n_columns, n_classes)) + rng.normal(size=(n_rows, n_classes))
    return MulticlassLogistic(A, scores.argmax(axis=1), n_classes=n_classes)


def _partly_known(labels: Floats, n_labels: int, rng: np.random.Generator) -> Floats:
    known = rng.choice(labels.size, n_labels, replace=False)
    given = np.full(labels.size, np.nan)
    given[known] = labels[known]
    return given


def _lattice(side: int, n_labels: int, rng: np.random.Generator) -> LabelPropagation:
    path = sparse.diags_array([1.0, 1.0], offsets=(-1, 1), shape=(side, side))
    W = 1e5 * (sparse.kron(path, sparse.eye_array(side)) + sparse.kron(sparse.eye_array(side), path))
    return LabelPropagation(W, _partly_known(10 * rng.normal(size=side**2), n_labels, rng))


def _moons(n_points: int, n_labels: int, rng: np.random.Generator) -> LabelPropagation:
    points, moon = make_moons(n_points, noise=0.1, random_state=int(rng.integers(2**31)))
    near_by = kneighbors_graph(points, 5)
    return LabelPropagation(near_by.maximum(near_by.T), _partly_known(2.0 * moon - 1, n_labels, rng))


def _optimum(problem: LabelPropagation) -> float:
    # Conjugate gradients also solve the singular systems of graphs with a part that has no label.
    x, _ = sparse.linalg.cg(problem.matrix, problem.linear, rtol=1e-12, maxiter=20 * problem.n_variables)
    return problem.value(x)


@dataclass(frozen=True)
class FiveProblems:
    """Sizes of the five problems, and the budget; `partition` is that of the rules for blocks."""

    rows: int = 200
    columns: int = 1000
    multiclass_columns: int = 100
    classes: int = 10
    lattice_side: int = 20
    lattice_labels: int = 16
    moons: int = 500
    moon_labels: int = 25
    block_size: int = 5
    iterations: int = 300
    partition: Partition = "sort"

    def draw(self, rng: np.random.Generator) -> dict[str, tuple[Any, float]]:
        """Each problem with its optimal value; the losses of the first three can be driven to zero."""
        lattice = _lattice(self.lattice_side, self.lattice_labels, rng)
        moons = _moons(self.moons, self.moon_labels, rng)
        return {
            "least_squares": (_least_squares(self.rows, self.columns, rng), 0.0),
            "logistic": (_logistic(self.rows, self.columns, rng), 0.0),
            "multiclass": (_multiclass(self.rows, self.multiclass_columns, self.classes, rng), 0.0),
            "lattice": (lattice, _optimum(lattice)),
            "moons": (moons, _optimum(moons)),
        }


_FULL = FiveProblems(
    rows=1000,
    columns=10_000,
    multiclass_columns=1000,
    classes=50,
    lattice_side=50,
    lattice_labels=100,
    moons=2000,
    moon_labels=100,
    iterations=500,
)
_SCALES = {
    "quick": FiveProblems(),
    "full": _FULL,
    "full_block50": replace(_FULL, block_size=50),
    "full_block100": replace(_FULL, block_size=100),
}


def _gaps(result: BlockDescentResult, optimum: float) -> Floats:
    """What is left of the distance to the optimal value after each iteration, as a share of the first."""
    gaps: Floats = np.maximum(result.values - optimum, 0) / (result.values[0] - optimum)
    return gaps


# --- Figures -----------------------------------------------------------------------------------------


def _dots(
    rows: Sequence[Measurements], panels: Mapping[str, str], methods: Sequence[str], x: str, y: str
) -> Figure:
    """What every trial measured of each method, a panel for each prefix of the measurements' names."""
    figure = Figure(figsize=(3 + 1.6 * len(panels), 3), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, (prefix, title) in zip(axes, panels.items(), strict=True):
        for height, method in enumerate(methods):
            values = [row[f"{prefix}_{method}"] for row in rows]
            # A gap that rounding has made zero is drawn at the edge.
            shown = [max(value, 1e-16) for value in values if isinstance(value, float)]
            panel.plot(shown, np.full(len(shown), height), "o", alpha=0.5, color=f"C{height}")
        panel.set(xscale="log", title=title, yticks=range(len(methods)))
        panel.set_yticklabels([method.replace("_", " ") for method in methods])
        panel.tick_params(axis="x", which="both", labelsize=7, labelrotation=45)
        panel.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.supxlabel(x)
    figure.supylabel(y)
    return figure


def _curves(
    rows: Sequence[Measurements], panels: Mapping[str, str], methods: Sequence[str], every: int, label: str
) -> Figure:
    """The gap against iterations in every trial, a panel for each prefix of the measurements' names."""
    figure = Figure(figsize=(3 + 3 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (prefix, title) in zip(axes, panels.items(), strict=True):
        for index, method in enumerate(methods):
            for number, row in enumerate(rows):
                gaps = np.maximum(np.asarray(row[f"{prefix}_{method}"], dtype=np.float64), 1e-16)
                name = method.replace("_", " ") if number == 0 else None
                panel.plot(every * np.arange(gaps.size), gaps, color=f"C{index}", alpha=0.6, label=name)
        panel.set(yscale="log", title=title, xlabel="iteration")
        panel.grid(alpha=0.3)
    axes[0].set_ylabel(_GAP_LABEL)
    axes[0].legend(title=label)
    return figure


# --- Greedy rules ------------------------------------------------------------------------------------

RULES: tuple[Selection, ...] = ("random", "cyclic", "lipschitz", "gs", "gsl")


def greedy_rules(settings: FiveProblems, rng: np.random.Generator) -> Measurements:
    """The gap that gradient updates leave, by problem and selection rule."""
    measured = {}
    for name, (problem, optimum) in settings.draw(rng).items():
        for rule in RULES:
            result = block_coordinate_descent(
                problem,
                block_size=settings.block_size,
                partition=settings.partition,
                selection=rule,
                update="gradient",
                max_iter=settings.iterations,
                seed=rng,
            )
            measured[f"gap_{name}_{rule}"] = float(_gaps(result, optimum)[-1])
        measured[f"gsl_over_gs_{name}"] = measured[f"gap_{name}_gsl"] / measured[f"gap_{name}_gs"]
    return measured


GREEDY_RULES = Experiment(
    name="greedy_rules",
    trial=greedy_rules,
    scales=_SCALES | {"variable_blocks": FiveProblems(partition="variable")},
    claims=(
        *(
            Claim(
                f"gsl_beats_gs_on_{name}",
                f"makes more progress with greedy blocks that weigh curvature (GSL) than with "
                f"Gauss-Southwell: a gap at least 10 % lower after as many iterations, on {TITLES[name]}",
                better(f"gap_{name}_gsl", than=f"gap_{name}_gs", lower=True, factor=1 / 0.9),
                published=Published("more progress per iteration", where="abstract, figures 4 and 8"),
            )
            for name in ("least_squares", "logistic", "multiclass")
        ),
        *(
            Claim(
                f"gsl_beats_classical_rules_on_{name}",
                f"makes more progress with GSL blocks than with random ones (30 %), cyclic ones and ones "
                f"drawn in proportion to their Lipschitz constants, on {TITLES[name]}",
                all_of(
                    better(f"gap_{name}_gsl", than=f"gap_{name}_random", lower=True, factor=1 / 0.7),
                    better(f"gap_{name}_gsl", than=f"gap_{name}_cyclic", lower=True),
                    better(f"gap_{name}_gsl", than=f"gap_{name}_lipschitz", lower=True),
                ),
                published=Published("lowest curve", where="figures 4 and 8"),
            )
            for name in ("least_squares", "logistic", "multiclass")
        ),
        *(
            Claim(
                f"gsl_ties_gs_on_{name}",
                f"makes the same progress with GSL as with Gauss-Southwell, within 5 %, where coordinates "
                f"are of much the same curvature, on {TITLES[name]}",
                near(f"gsl_over_gs_{name}", 1, 0.05),
                published=Published("curves that coincide", where="figures 4c and 8"),
            )
            for name in ("lattice", "moons")
        ),
    ),
    figure=partial(_dots, panels=_GAPS, methods=RULES, x=_GAP_LABEL, y="selection rule"),
)


# --- Variable blocks and curvature -------------------------------------------------------------------

VARIANTS: dict[str, Mapping[str, Any]] = {
    "fixed": {"partition": "sort", "selection": "gsq", "update": "matrix"},
    "gradient": {"update": "gradient"},
    "matrix": {"update": "matrix"},
    "newton": {"update": "newton"},
}


def blocks_and_updates(settings: FiveProblems, rng: np.random.Generator) -> Measurements:
    """The gap that greedy blocks leave, by problem, kind of block and update; variable blocks are GSD."""
    return {
        f"gap_{name}_{variant}": float(
            _gaps(
                block_coordinate_descent(
                    problem, block_size=settings.block_size, max_iter=settings.iterations, **choices
                ),
                optimum,
            )[-1]
        )
        for name, (problem, optimum) in settings.draw(rng).items()
        for variant, choices in VARIANTS.items()
    }


BLOCKS_AND_UPDATES = Experiment(
    name="blocks_and_updates",
    trial=blocks_and_updates,
    scales=_SCALES,
    claims=(
        *(
            Claim(
                f"variable_blocks_on_{name}",
                f"makes more progress with greedy variable blocks than with the best of fixed ones, "
                f"on {TITLES[name]}",
                better(f"gap_{name}_matrix", than=f"gap_{name}_fixed", lower=True),
                published=Published("variable below fixed", where="figures 5 and 11"),
            )
            for name in TITLES
        ),
        *(
            Claim(
                f"matrix_updates_on_{name}",
                f"makes more progress with matrix updates than with gradient updates, on {TITLES[name]}",
                better(f"gap_{name}_matrix", than=f"gap_{name}_gradient", lower=True),
                published=Published("matrix updates below gradient updates", where="figures 4, 5, 8 and 11"),
            )
            for name in TITLES
        ),
        *(
            Claim(
                f"newton_updates_on_{name}",
                f"makes more progress with Newton updates than with gradient updates, on {TITLES[name]}",
                better(f"gap_{name}_newton", than=f"gap_{name}_gradient", lower=True),
                published=Published("Newton updates below gradient updates", where="figures 8 and 12"),
            )
            for name in ("logistic", "multiclass")
        ),
    ),
    figure=partial(_dots, panels=_GAPS, methods=tuple(VARIANTS), x=_GAP_LABEL, y="blocks and update"),
)


# --- Message passing ---------------------------------------------------------------------------------

FOREST_RULES: dict[str, Mapping[str, Any]] = {
    "general": {"selection": "gs", "update": "matrix"},
    "red_black": {"partition": "red-black", "selection": "cyclic", "update": "message-passing"},
    "random_tree": {"selection": "tree-random", "update": "message-passing"},
    "tree_partition": {"partition": "tree", "selection": "cyclic", "update": "message-passing"},
    "greedy_tree": {"selection": "tree", "update": "message-passing"},
}


EVERY = 3
"""Of how many iterations one is kept for the figure."""


@dataclass(frozen=True)
class Graphs:
    """Sizes of the two graphs, and the iterations."""

    lattice_side: int = 30
    lattice_labels: int = 36
    moons: int = 800
    moon_labels: int = 40
    iterations: int = 60


def message_passing(settings: Graphs, rng: np.random.Generator) -> Measurements:
    """The gap after each iteration by graph and kind of block, and the share of vertices in a greedy forest.

    General blocks have n^(1/3) vertices: a dense solve of one then costs what a forest of n does.
    """
    measured: dict[str, float | list[float]] = {}
    problems = {
        "lattice": _lattice(settings.lattice_side, settings.lattice_labels, rng),
        "moons": _moons(settings.moons, settings.moon_labels, rng),
    }
    for name, problem in problems.items():
        n, optimum = problem.n_variables, _optimum(problem)
        for rule, choices in FOREST_RULES.items():
            result = block_coordinate_descent(
                problem, block_size=int(n ** (1 / 3)), max_iter=settings.iterations, seed=rng, **choices
            )
            gaps = _gaps(result, optimum)
            measured[f"gap_{name}_{rule}"] = float(gaps[-1])
            measured[f"gaps_{name}_{rule}"] = gaps[::EVERY].tolist()
            if rule == "greedy_tree":
                measured[f"forest_share_{name}"] = float(np.mean([block.size for block in result.blocks]) / n)
    return measured


MESSAGE_PASSING = Experiment(
    name="message_passing",
    trial=message_passing,
    scales={
        "quick": Graphs(),
        "full": Graphs(lattice_side=50, lattice_labels=100, moons=2000, moon_labels=100),
    },
    claims=tuple(
        claim
        for name in ("lattice", "moons")
        for claim in (
            Claim(
                f"greedy_forests_beat_general_blocks_on_{name}",
                f"makes more progress with huge greedy forest blocks, solved by message passing, than with "
                f"general blocks of n^(1/3) vertices, on {TITLES[name]}",
                better(f"gap_{name}_greedy_tree", than=f"gap_{name}_general", lower=True, by=0.1),
                published=Published("far below the curve of general blocks", where="figure 6"),
            ),
            Claim(
                f"greedy_forests_beat_red_black_on_{name}",
                f"makes more progress with greedy forest blocks than with red-black ones, on {TITLES[name]}",
                better(f"gap_{name}_greedy_tree", than=f"gap_{name}_red_black", lower=True),
                published=Published("below the curve of red-black blocks", where="figure 6"),
            ),
        )
    ),
    figure=partial(
        _curves,
        panels={f"gaps_{name}": TITLES[name] for name in ("lattice", "moons")},
        methods=tuple(FOREST_RULES),
        every=EVERY,
        label="blocks",
    ),
)


@dataclass(frozen=True)
class ForestSizes:
    """How many systems of each kind, and how large."""

    systems: int = 20
    lattice_side: int = 20
    features: int = 150
    rows: int = 300


def exact_solves(settings: ForestSizes, rng: np.random.Generator) -> Measurements:
    """The largest error of message passing, relative to the largest entry of a dense solution.

    Of matrix updates: greedy forests of a lattice with labels. Of Newton updates: logistic regression whose
    rows touch two neighbours of a path, so that each Hessian is tridiagonal.
    """

    def error(matrix: Floats, rhs: Floats) -> float:
        dense = linalg.solve(matrix, rhs, assume_a="pos")
        return float(np.abs(solve_forest(matrix, rhs) - dense).max() / np.abs(dense).max())

    lattice = _lattice(settings.lattice_side, settings.lattice_side, rng)
    left = rng.integers(settings.features - 1, size=settings.rows)
    touched = np.zeros((settings.rows, settings.features))
    touched[np.arange(settings.rows), left] = rng.normal(size=settings.rows)
    touched[np.arange(settings.rows), left + 1] = rng.normal(size=settings.rows)
    path = LogisticRegression(touched, rng.choice([-1, 1], settings.rows), l2=1.0)

    matrix_errors, newton_errors = [], []
    for _ in range(settings.systems):
        forest = greedy_forest(rng.permutation(lattice.n_variables), lattice.adjacency)
        matrix_errors.append(error(lattice.block_bound(forest), rng.normal(size=forest.size)))
        x, block = rng.normal(size=path.n_variables), np.arange(path.n_variables)
        newton_errors.append(error(path.block_hessian(x, block), path.gradient(x)))
    return {"error_matrix": max(matrix_errors), "error_newton": max(newton_errors)}


EXACT_SOLVES = Experiment(
    name="exact_solves",
    trial=exact_solves,
    scales={"quick": ForestSizes(), "full": ForestSizes(lattice_side=50, features=2000, rows=4000)},
    claims=(
        Claim(
            "matrix_updates_are_exact",
            "computes matrix updates of forest blocks exactly by message passing, to 1e-9",
            at_most("error_matrix", 1e-9),
            published=Published("exact", where="section on message passing"),
        ),
        Claim(
            "newton_updates_are_exact",
            "computes Newton updates of forest blocks exactly by message passing, to 1e-9",
            at_most("error_newton", 1e-9),
            published=Published("exact", where="section on message passing"),
        ),
    ),
)


@dataclass(frozen=True)
class PathLengths:
    """Lengths of the paths to be solved, and how often each is timed."""

    lengths: tuple[int, ...] = (2_000, 6_000, 20_000, 60_000, 200_000)
    repeats: int = 7


def linear_time(settings: PathLengths, rng: np.random.Generator) -> Measurements:
    """The slope of log seconds over log length for systems on a path, the least of paired repeats."""
    systems = []
    for n in settings.lengths:
        coupling = rng.uniform(0.1, 1, n - 1)
        diagonal = np.r_[coupling, 0] + np.r_[0, coupling] + rng.uniform(0.1, 1, n)
        path = sparse.diags_array([-coupling, diagonal, -coupling], offsets=(-1, 0, 1)).tocsr()
        systems.append((path, rng.normal(size=n)))
    solve_forest(*systems[0])  # compiles
    seconds = np.full(len(systems), np.inf)
    for _ in range(settings.repeats):
        for i, (path, rhs) in enumerate(systems):
            start = time.perf_counter()
            solve_forest(path, rhs)
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    slope = float(np.polyfit(np.log(settings.lengths), np.log(seconds), 1)[0])
    return {
        "slope": slope,
        "million_vertices_per_second": float(settings.lengths[-1] / seconds[-1] / 1e6),
        "seconds": seconds.tolist(),
    }


LINEAR_TIME = Experiment(
    name="linear_time",
    trial=linear_time,
    scales={"quick": PathLengths(), "full": PathLengths(lengths=(20_000, 200_000, 2_000_000), repeats=20)},
    claims=(
        Claim(
            "message_passing_takes_linear_time",
            "solves a forest block in time that grows in proportion to its size",
            between("slope", 0.8, 1.2),
            published=Published("O(n)", where="section on message passing"),
        ),
    ),
    exclusive=True,
)


# --- Active sets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NonnegativeLasso:
    """Sizes, and the l1 weight as a share of the least one at which the solution is zero.

    The paper's weight of 50000 on its data set A is such a share of about a third.
    """

    rows: int = 200
    columns: int = 1000
    l1_share: float = 0.34
    block_size: int = 20
    iterations: int = 500


ACTIVE_SET_METHODS: dict[str, Mapping[str, Any]] = {
    "two_metric": {"update": "two-metric"},
    "projected_newton": {"update": "projected-newton"},
    "gradient": {"update": "gradient"},
    "random": {"update": "two-metric", "selection": "random"},
}


def finite_termination(settings: NonnegativeLasso, rng: np.random.Generator) -> Measurements:
    """Iterations to the support and to the solution of a non-negative lasso, by update and selection.

    A run that does not get there has one iteration more than the budget. Blocks must hold the support.
    """
    smooth = _least_squares(settings.rows, settings.columns, rng)
    least = float((smooth.A.T @ smooth.b).max())
    problem = LeastSquares(smooth.A, smooth.b[:, 0], l1=settings.l1_share * least, nonnegative=True)
    results = {
        name: block_coordinate_descent(
            problem, block_size=settings.block_size, max_iter=settings.iterations, seed=rng, **choices
        )
        for name, choices in ACTIVE_SET_METHODS.items()
    }
    best = min(results.values(), key=lambda result: result.values[-1])
    support = np.count_nonzero(best.x)
    applies = 0 < support <= settings.block_size
    measured: dict[str, float | None] = {"support": float(support)}
    for name, result in results.items():
        solved = np.flatnonzero(_gaps(result, best.values[-1]) <= SOLVED)
        found = np.array_equal(result.x != 0, best.x != 0)
        never = settings.iterations + 1
        for key, iteration in (
            ("iterations", solved[0] if solved.size else never),
            ("support_at", result.active_set_iteration if found else never),
        ):
            measured[f"{key}_{name}"] = float(iteration) if applies else None
    return measured


FINITE_TERMINATION = Experiment(
    name="finite_termination",
    trial=finite_termination,
    scales={
        "quick": NonnegativeLasso(),
        "full": NonnegativeLasso(rows=1000, columns=10_000, block_size=100),
    },
    claims=(
        Claim(
            "two_metric_ends_early",
            "solves a non-negative lasso with two-metric updates of blocks that hold the support within 10 "
            "iterations, as it ends one exact step after finding the support",
            at_most("iterations_two_metric", 10),
            published=Published("finite termination", where="abstract, figure 7"),
        ),
        Claim(
            "projected_newton_ends_early",
            "solves a non-negative lasso with projected Newton updates of blocks that hold the support "
            "within 10 iterations",
            at_most("iterations_projected_newton", 10),
            published=Published("finite termination", where="abstract, figure 7"),
        ),
        Claim(
            "gradient_does_not",
            "needs at least 30 iterations for the same with projected gradient updates",
            at_least("iterations_gradient", 30),
            published=Published("no finite termination", where="figure 7"),
        ),
        Claim(
            "greedy_finds_the_support_first",
            "finds the support sooner with greedy blocks than with random ones",
            better("support_at_two_metric", than="support_at_random", lower=True),
            published=Published("greedy blocks end, random ones do not", where="figures 7 and 13"),
        ),
    ),
    figure=partial(
        _dots,
        panels={"support_at": "support found", "iterations": "solved"},
        methods=tuple(ACTIVE_SET_METHODS),
        x="iterations (the last value: not within the budget)",
        y="update",
    ),
)


@dataclass(frozen=True)
class StronglyConvexLasso:
    """Sizes of a non-negative lasso with more rows than columns, and its l1 weight as a share."""

    rows: int = 300
    columns: int = 100
    support: int = 16
    l1_share: float = 0.34
    iterations: int = 2000


def active_set_complexity(settings: StronglyConvexLasso, rng: np.random.Generator) -> Measurements:
    """When projected gradient descent has found the support, and by when the theory says that it has."""
    A = rng.normal(size=(settings.rows, settings.columns))
    truth = np.zeros(settings.columns)
    truth[: settings.support] = rng.uniform(1, 2, settings.support)
    b = A @ truth + rng.normal(size=settings.rows)
    problem = LeastSquares(A, b, l1=settings.l1_share * float((A.T @ b).max()), nonnegative=True)
    optimum = block_coordinate_descent(
        problem, block_size=settings.columns, update="projected-newton", tolerance=1e-9
    ).x
    margin = float((problem.gradient(optimum) + problem.l1)[optimum == 0].min())
    curvatures = linalg.eigvalsh(A.T @ A)
    bound = active_set_bound(
        float(curvatures[-1]), float(curvatures[0]), float(np.linalg.norm(optimum)), margin
    )
    result = block_coordinate_descent(
        problem, block_size=settings.columns, update="gradient", max_iter=settings.iterations
    )
    return {
        "support": float(np.count_nonzero(optimum)),
        "identified_at": float(result.active_set_iteration),
        "bound": bound,
        "identified_over_bound": result.active_set_iteration / bound,
    }


ACTIVE_SET_COMPLEXITY = Experiment(
    name="active_set_complexity",
    trial=active_set_complexity,
    scales={
        "quick": StronglyConvexLasso(),
        "full": StronglyConvexLasso(rows=3000, columns=1000, support=100),
    },
    claims=(
        Claim(
            "identification_within_the_bound",
            "finds the support within (L/mu) log(2 L |x0 - x*| / delta) full projected gradient steps",
            at_most("identified_over_bound", 1),
            published=Published("(L/mu) log(2 L |x0 - x*| / delta)", where="section on active sets"),
        ),
    ),
)


SUPERLINEAR_UPDATES: dict[str, Update] = {"two_metric": "two-metric", "gradient": "gradient"}


@dataclass(frozen=True)
class SparseLogistic:
    """Sizes of an l1-regularised logistic regression, and its blocks."""

    rows: int = 100
    columns: int = 60
    l1: float = 3.0
    block_size: int = 40
    iterations: int = 400


def superlinear(settings: SparseLogistic, rng: np.random.Generator) -> Measurements:
    """The smallest ratio of successive gaps, from the step on that fixes the support, by update.

    Gaps count while above 1e-9 of the first; below it rounding sets the ratio.
    """
    A = rng.normal(size=(settings.rows, settings.columns))
    y = _flipped_signs(A @ _sparse_truth(settings.columns, rng), rng)
    problem = LogisticRegression(A, y, l1=settings.l1)
    reference = block_coordinate_descent(
        problem, block_size=settings.columns, update="two-metric", tolerance=1e-12
    )
    support = np.count_nonzero(reference.x)
    measured: dict[str, float | None | list[float]] = {"support": float(support)}
    for name, update in SUPERLINEAR_UPDATES.items():
        result = block_coordinate_descent(
            problem, block_size=settings.block_size, update=update, max_iter=settings.iterations
        )
        gaps = _gaps(result, min(reference.values[-1], result.values[-1]))
        before = gaps[max(0, result.active_set_iteration - 1) : -1]
        after = gaps[result.active_set_iteration or 1 :]
        ratios = np.maximum(after, 1e-16)[before > SOLVED] / before[before > SOLVED]
        applies = 0 < support <= settings.block_size and ratios.size
        measured[f"ratio_{name}"] = float(ratios.min()) if applies else None
        measured[f"gaps_{name}"] = gaps[:40].tolist()
    return measured


SUPERLINEAR = Experiment(
    name="superlinear",
    trial=superlinear,
    scales={"quick": SparseLogistic(), "full": SparseLogistic(rows=1000, columns=600, l1=30, block_size=400)},
    claims=(
        Claim(
            "two_metric_is_superlinear",
            "converges superlinearly with two-metric updates once the support is found: a step leaves at "
            "most a hundredth of the gap",
            at_most("ratio_two_metric", 0.01),
            published=Published("superlinear convergence", where="abstract"),
        ),
        Claim(
            "gradient_is_linear",
            "converges only linearly with gradient updates: every step leaves at least half of the gap",
            at_least("ratio_gradient", 0.5),
            published=Published("linear convergence", where="section on superlinear convergence"),
        ),
    ),
    figure=partial(
        _curves,
        panels={"gaps": "l1-regularised logistic regression"},
        methods=tuple(SUPERLINEAR_UPDATES),
        every=1,
        label="update",
    ),
)


STUDY = Study(
    slug="block_descent",
    experiments=(
        GREEDY_RULES,
        BLOCKS_AND_UPDATES,
        MESSAGE_PASSING,
        EXACT_SOLVES,
        LINEAR_TIME,
        FINITE_TERMINATION,
        ACTIVE_SET_COMPLEXITY,
        SUPERLINEAR,
    ),
)
