"""Nutini, Laradji and Schmidt (2017): block coordinate descent, its bounds, forests and active sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, get_args

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, optimize, sparse
from sklearn.linear_model import Lasso

from assay.optimize import block_descent
from assay.optimize.block_descent import (
    LabelPropagation,
    LeastSquares,
    LogisticRegression,
    MulticlassLogistic,
    active_set_bound,
    block_coordinate_descent,
    forest_partition,
    greedy_forest,
    make_partition,
    solve_forest,
)

N_ROWS, N_COLUMNS = 30, 24
seeds = st.integers(0, 2**32 - 1)


def matrix(rng: np.random.Generator) -> np.ndarray:
    """Columns of very different sizes, one of them zero."""
    A = rng.normal(size=(N_ROWS, N_COLUMNS)) * 10 ** rng.uniform(-1, 1, size=N_COLUMNS)
    A[:, 3] = 0
    return A


def lattice(side: int, n_labels: int, rng: np.random.Generator) -> LabelPropagation:
    W = nx.to_scipy_sparse_array(nx.grid_2d_graph(side, side))
    labels = np.full(side**2, np.nan)
    labels[rng.choice(side**2, n_labels, replace=False)] = rng.normal(size=n_labels)
    return LabelPropagation(W, labels)


def least_squares(rng: np.random.Generator, **terms: Any) -> LeastSquares:
    return LeastSquares(matrix(rng), 3 * rng.normal(size=N_ROWS), **terms)


def logistic(rng: np.random.Generator, **terms: Any) -> LogisticRegression:
    return LogisticRegression(sparse.csr_array(matrix(rng)), rng.choice([-1, 1], N_ROWS), **terms)


def multiclass(rng: np.random.Generator, **terms: Any) -> MulticlassLogistic:
    return MulticlassLogistic(matrix(rng)[:, :6], rng.integers(4, size=N_ROWS), n_classes=4, **terms)


PROBLEMS: dict[str, Callable[[np.random.Generator], block_descent.Problem]] = {
    "least squares": least_squares,
    "logistic": logistic,
    "multi-class": multiclass,
    "label propagation": lambda rng: lattice(6, 8, rng),
    "ridge": lambda rng: least_squares(rng, l2=0.7),
    "ridge multi-class": lambda rng: multiclass(rng, l2=0.7),
    "lasso": lambda rng: least_squares(rng, l1=2.0),
    "non-negative lasso": lambda rng: least_squares(rng, l1=2.0, nonnegative=True),
    "non-negative least squares": lambda rng: least_squares(rng, nonnegative=True),
    "l1 logistic": lambda rng: logistic(rng, l1=0.5),
    "non-negative multi-class": lambda rng: multiclass(rng, l1=0.5, nonnegative=True),
    "l1 multi-class": lambda rng: multiclass(rng, l1=0.5),
}
FIXED = get_args(block_descent.PartitionRule)
CHOICES = [
    (partition, selection)
    for partition in get_args(block_descent.Partition)
    for selection in get_args(block_descent.Selection)
    if (partition == "variable" or not selection.startswith("tree"))
    and (partition, selection) != ("variable", "gsq")
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def never_rises(values: np.ndarray) -> bool:
    return bool((np.diff(values) <= 1e-12 * (1 + np.abs(values[:-1]))).all())


# --- Problems ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_gradient_and_curvature(make: Callable[..., block_descent.Problem], seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = make(rng)
    n = problem.n_variables
    x = rng.uniform(0.1, 1, n) / np.sqrt(problem.lipschitz + 1)  # away from zero, where l1 has a kink
    block = np.sort(rng.choice(n, 7, replace=False))

    slope = problem.gradient(x)[block] + problem.l1
    hessian, bound = problem.block_hessian(x, block), problem.block_bound(block)
    for i, step in enumerate(1e-4 * np.eye(n)[block]):
        difference = (problem.value(x + step) - problem.value(x - step)) / 2e-4
        assert difference == pytest.approx(slope[i], rel=1e-5, abs=1e-5)
        difference = (problem.gradient(x + step) - problem.gradient(x - step))[block] / 2e-4
        np.testing.assert_allclose(difference, hessian[i], rtol=1e-4, atol=1e-4)
    scale = np.abs(bound).max()
    assert linalg.eigvalsh(bound - hessian).min() >= -1e-10 * scale
    assert (problem.lipschitz[block] >= np.diag(hessian) - 1e-10 * scale).all()
    if not isinstance(problem, MulticlassLogistic):
        np.testing.assert_allclose(np.diag(bound), problem.lipschitz[block])


def test_multiclass_bound_of_two_classes_is_the_logistic_one(rng: np.random.Generator) -> None:
    A = matrix(rng)
    one_class = np.arange(0, 2 * N_COLUMNS, 2)
    multi = MulticlassLogistic(A, rng.integers(2, size=N_ROWS), n_classes=2)
    np.testing.assert_allclose(multi.block_bound(one_class), A.T @ A / 4)


def test_sparse_and_dense_agree(rng: np.random.Generator) -> None:
    A = matrix(rng) * (rng.random((N_ROWS, N_COLUMNS)) < 0.3)
    b = rng.normal(size=N_ROWS)
    dense = block_coordinate_descent(LeastSquares(A, b, l1=0.1), max_iter=40)
    coo = block_coordinate_descent(LeastSquares(sparse.coo_array(A), b, l1=0.1), max_iter=40)
    np.testing.assert_allclose(dense.x, coo.x, atol=1e-10)


def test_duplicate_entries_of_a_sparse_matrix_add_up() -> None:
    twice = sparse.csc_array((np.array([1.0, 2.0]), np.array([0, 0]), np.array([0, 2])), shape=(1, 1))
    assert LeastSquares(twice, [0.0]).lipschitz == [9.0]


# --- Descent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_values_never_rise_for_any_rule_and_update(
    make: Callable[..., block_descent.Problem], rng: np.random.Generator
) -> None:
    problem = make(rng)
    updates = ["gradient", "matrix", "newton" if problem.smooth else "two-metric"]
    for (partition, selection), update in itertools.product(CHOICES, updates):
        on_graph = "tree" in selection or partition in ("red-black", "tree")
        if on_graph and problem.adjacency is None:
            continue
        result = block_coordinate_descent(
            problem, partition=partition, selection=selection, update=update, max_iter=12, seed=0
        )
        assert never_rises(result.values), (partition, selection, update)
        assert result.values[-1] < result.values[0]
        assert result.values[-1] == pytest.approx(problem.value(result.x), rel=1e-9)
        assert len(result.blocks) == result.n_iterations == len(result.values) - 1
        for block in result.blocks:
            assert (np.diff(block) > 0).all()
        untouched = np.setdiff1d(np.arange(problem.n_variables), np.concatenate(result.blocks))
        assert (result.x[untouched] == 0).all()
        if problem.nonnegative:
            assert (result.x >= 0).all()


@pytest.mark.parametrize("rule", FIXED)
@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_gsl_guarantees_the_best_gradient_step(rule: str, seed: int) -> None:
    problem = least_squares(np.random.default_rng(seed))
    blocks = make_partition(problem.lipschitz, 5, rule)
    x = np.zeros(N_COLUMNS)
    for _ in range(15):
        gradient = problem.gradient(x)
        promised = max(
            gradient[block] @ gradient[block] / linalg.eigvalsh(problem.block_bound(block)).max() / 2
            for block in blocks
        )
        step = block_coordinate_descent(
            problem, partition=rule, selection="gsl", update="gradient", max_iter=1, initial=x
        )
        assert step.values[0] - step.values[1] >= promised * (1 - 1e-9) - 1e-12 * step.values[0]
        x = step.x


@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_gsq_picks_the_block_that_a_matrix_step_gains_most_from(seed: int) -> None:
    problem = least_squares(np.random.default_rng(seed))
    blocks = make_partition(problem.lipschitz, 5, "sort")
    start = np.random.default_rng(seed + 1).normal(size=N_COLUMNS)
    step = block_coordinate_descent(
        problem, partition="sort", selection="gsq", update="matrix", max_iter=1, initial=start
    )
    gradient = problem.gradient(start)
    gains = [
        gradient[b] @ np.linalg.pinv(problem.block_bound(b), rcond=1e-12) @ gradient[b] / 2 for b in blocks
    ]
    np.testing.assert_array_equal(step.blocks[0], blocks[np.argmax(gains)])
    assert step.values[0] - step.values[1] == pytest.approx(max(gains), rel=1e-6)


def test_one_block_solves_least_squares_in_one_step(rng: np.random.Generator) -> None:
    problem = least_squares(rng)
    for update in ("matrix", "newton"):
        result = block_coordinate_descent(problem, block_size=N_COLUMNS, update=update, tolerance=1e-8)
        assert result.converged
        assert result.n_iterations == 1
        np.testing.assert_allclose(result.x, linalg.lstsq(problem.A, problem.b[:, 0])[0], atol=1e-9)


def test_newton_with_one_block_is_newtons_method(rng: np.random.Generator) -> None:
    problem = logistic(rng, l2=0.5)
    everything = np.arange(N_COLUMNS)
    x = np.zeros(N_COLUMNS)
    for _ in range(4):
        x = x - linalg.solve(problem.block_hessian(x, everything), problem.gradient(x))
    result = block_coordinate_descent(problem, block_size=99, update="newton", max_iter=4)
    np.testing.assert_allclose(result.x, x, atol=1e-9)


def test_block_size_one_in_cyclic_order_is_coordinate_descent(rng: np.random.Generator) -> None:
    problem = least_squares(rng)
    x = np.zeros(N_COLUMNS)
    for j in range(N_COLUMNS):
        if problem.lipschitz[j]:
            x[j] -= problem.gradient(x)[j] / problem.lipschitz[j]
    for update in ("gradient", "matrix", "newton"):
        result = block_coordinate_descent(
            problem,
            block_size=1,
            partition="order",
            selection="cyclic",
            update=update,
            max_iter=N_COLUMNS,
        )
        np.testing.assert_allclose(result.x, x, atol=1e-10)


def test_greedy_blocks_are_the_largest_scores_and_ties_go_to_the_first() -> None:
    problem = LeastSquares(np.diag([1.0, 2.0, 1.0, 4.0, 0.0]), [1.0, 1.0, 1.0, 1.0, 1.0])
    # gradient -(1, 2, 1, 4, 0), L = (1, 4, 1, 16, 0): all g^2/L are 1 except the last, which is 0.
    for selection, chosen in (("gs", [1, 3]), ("gsd", [0, 1]), ("gsl", [0, 1])):
        result = block_coordinate_descent(problem, block_size=2, selection=selection, max_iter=1)
        assert result.blocks[0].tolist() == chosen


def test_variable_cyclic_visits_everything_in_each_pass(rng: np.random.Generator) -> None:
    result = block_coordinate_descent(least_squares(rng), selection="cyclic", max_iter=10, seed=3)
    first, second = (np.concatenate(result.blocks[i : i + 5]) for i in (0, 5))
    np.testing.assert_array_equal(np.sort(first), np.arange(N_COLUMNS))
    np.testing.assert_array_equal(np.sort(second), np.arange(N_COLUMNS))
    assert (first != second).any()


@pytest.mark.parametrize("partition", ["variable", "order"])
def test_lipschitz_selection_is_in_proportion(partition: str, rng: np.random.Generator) -> None:
    A = rng.normal(size=(20, 4)) * np.sqrt([1, 3, 0, 4])
    result = block_coordinate_descent(
        LeastSquares(A, rng.normal(size=20)),
        block_size=1,
        partition=partition,
        selection="lipschitz",
        update="gradient",
        max_iter=1000,
        tolerance=0,
        seed=0,
    )
    shares = np.bincount(np.concatenate(result.blocks), minlength=4) / result.n_iterations
    expected = np.square(A).sum(axis=0) / np.square(A).sum()
    assert result.n_iterations > 100
    np.testing.assert_allclose(shares, expected, atol=3 / np.sqrt(result.n_iterations))


@pytest.mark.parametrize("selection", ["random", "lipschitz", "cyclic", "tree-random"])
def test_the_seed_fixes_the_run(selection: str, rng: np.random.Generator) -> None:
    problem = lattice(6, 6, rng)
    runs = [
        block_coordinate_descent(problem, selection=selection, max_iter=9, seed=s).values for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


# --- Partitions --------------------------------------------------------------------------------------


@given(size=st.integers(1, 40), block_size=st.integers(1, 50), rule=st.sampled_from(FIXED), seed=seeds)
def test_partitions_hold_each_coordinate_once(size: int, block_size: int, rule: str, seed: int) -> None:
    lipschitz = np.random.default_rng(seed).random(size)
    blocks = make_partition(lipschitz, block_size, rule)
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(size))
    assert all(block.size == block_size for block in blocks[:-1])
    if rule == "sort":
        assert (np.diff([lipschitz[block].max() for block in blocks]) >= 0).all()


def random_graph(seed: int, n: int = 30) -> nx.Graph:
    rng = np.random.default_rng(seed)
    return nx.gnp_random_graph(n, rng.uniform(0.02, 0.3), seed=int(rng.integers(2**31)))


@given(seed=seeds)
@settings(deadline=None)
def test_greedy_forest_is_acyclic_and_maximal(seed: int) -> None:
    graph = random_graph(seed)
    order = np.random.default_rng(seed).permutation(30)
    chosen = greedy_forest(order, nx.to_scipy_sparse_array(graph))
    forest = graph.subgraph(chosen)
    assert forest.number_of_edges() == len(chosen) - nx.number_connected_components(forest)
    assert set(order[:2]) <= set(chosen)
    for left_out in set(graph) - set(chosen):
        assert not nx.is_forest(graph.subgraph([*chosen, left_out]))


@given(seed=seeds)
@settings(deadline=None)
def test_graph_partitions(seed: int) -> None:
    graph = random_graph(seed)
    adjacency = nx.to_numpy_array(graph)
    for kind in ("tree", "red-black"):
        blocks = forest_partition(adjacency, kind=kind)
        np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(30))
        for block in blocks:
            part = graph.subgraph(block)
            assert nx.is_forest(part) if kind == "tree" else part.number_of_edges() == 0


def test_red_black_colours() -> None:
    chessboard = nx.to_scipy_sparse_array(nx.grid_2d_graph(5, 7))
    blocks = forest_partition(chessboard, kind="red-black", order=np.arange(35))
    assert [block.tolist() for block in blocks] == [list(range(0, 35, 2)), list(range(1, 35, 2))]
    assert len(forest_partition(1 - np.eye(3), kind="red-black")) == 3


# --- Forests and message passing ---------------------------------------------------------------------


@given(seed=seeds, n=st.integers(1, 40))
@settings(deadline=None)
def test_solve_forest_equals_a_dense_solve(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    A = np.zeros((n, n))
    for vertex in range(1, n):
        if rng.random() < 0.9:  # else a new tree begins
            parent = rng.integers(vertex)
            A[vertex, parent] = A[parent, vertex] = rng.normal()
    A += np.diag(np.abs(A).sum(axis=1) + rng.uniform(0.1, 1, n))
    order = rng.permutation(n)
    A, rhs = A[np.ix_(order, order)], rng.normal(size=n)
    for form in (A, sparse.coo_array(A)):
        np.testing.assert_allclose(solve_forest(form, rhs), np.linalg.solve(A, rhs), atol=1e-10)


def test_solve_forest_on_a_path_of_three() -> None:
    path = sparse.diags_array([-1.0, 2.5, -1.0], offsets=(-1, 0, 1), shape=(3, 3))
    np.testing.assert_allclose(solve_forest(path, np.ones(3)), np.array([14, 18, 14]) / 17)


def test_label_propagation_averages_the_ends_of_a_path() -> None:
    problem = LabelPropagation(nx.to_numpy_array(nx.path_graph(3)), [0, np.nan, 2])
    assert block_coordinate_descent(problem).x == pytest.approx([1])
    assert problem.unlabelled.tolist() == [1]


@pytest.mark.parametrize(
    ("partition", "selection"),
    [
        ("variable", "tree"),
        ("variable", "tree-random"),
        ("tree", "cyclic"),
        ("red-black", "cyclic"),
        ("tree", "gsq"),
    ],
)
def test_message_passing_reaches_the_dense_solution(
    partition: str, selection: str, rng: np.random.Generator
) -> None:
    problem = lattice(8, 12, rng)
    exact = np.linalg.solve(problem.matrix.toarray(), problem.linear)
    result = block_coordinate_descent(
        problem, partition=partition, selection=selection, update="message-passing", seed=1
    )
    assert result.converged
    assert never_rises(result.values)
    np.testing.assert_allclose(result.x, exact, atol=1e-8)
    dense = block_coordinate_descent(
        problem, partition=partition, selection=selection, update="matrix", max_iter=1, seed=1
    )
    np.testing.assert_allclose(dense.values, result.values[:2])


def test_a_component_without_labels_stays_where_it_is() -> None:
    W = np.kron(np.eye(2), nx.to_numpy_array(nx.path_graph(3)))
    problem = LabelPropagation(W, [0, np.nan, 2, np.nan, np.nan, np.nan])
    result = block_coordinate_descent(problem, selection="tree", update="message-passing")
    np.testing.assert_allclose(result.x, [1, 0, 0, 0], atol=1e-12)


# --- Active sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["gradient", "matrix", "two-metric"])
@pytest.mark.parametrize("partition", ["variable", "sort"])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_lasso_equals_scikit_learn(
    update: str, partition: str, nonnegative: bool, rng: np.random.Generator
) -> None:
    A = rng.normal(size=(60, 25))
    b = A[:, :6] @ np.array([1, -2, 3, -1, 2, 1]) + rng.normal(size=60)
    l1 = 15.0
    reference = Lasso(alpha=l1 / 60, fit_intercept=False, positive=nonnegative, tol=1e-14, max_iter=100_000)
    expected = reference.fit(A, b).coef_
    result = block_coordinate_descent(
        LeastSquares(A, b, l1=l1, nonnegative=nonnegative), partition=partition, update=update, max_iter=2000
    )
    assert result.converged
    np.testing.assert_allclose(result.x, expected, atol=1e-6)
    np.testing.assert_array_equal(result.x != 0, expected != 0)
    assert 0 < result.active_set_iteration <= result.n_iterations


@pytest.mark.parametrize("update", ["matrix", "two-metric"])
def test_l1_logistic_reaches_optimality(update: str, rng: np.random.Generator) -> None:
    problem = logistic(rng, l1=2.0)
    result = block_coordinate_descent(
        problem, block_size=N_COLUMNS, update=update, max_iter=5000, tolerance=1e-8
    )
    gradient, zero = problem.gradient(result.x), result.x == 0
    assert result.converged
    assert (np.abs(gradient[zero]) <= 2 + 1e-8).all()
    np.testing.assert_allclose(gradient[~zero], -2 * np.sign(result.x[~zero]), atol=1e-7)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_projected_newton_is_exact_on_its_block(seed: int) -> None:
    """Non-negative least squares in one step from any start, even where the Hessian is singular."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(rng.integers(4, 20), 10))
    b = rng.normal(size=A.shape[0])
    result = block_coordinate_descent(
        LeastSquares(A, b, nonnegative=True),
        block_size=10,
        update="projected-newton",
        max_iter=1,
        initial=rng.random(10) * (rng.random(10) < 0.5),
    )
    assert result.values[-1] == pytest.approx(optimize.nnls(A, b)[1] ** 2 / 2, abs=1e-8)


def test_nothing_to_do_under_a_large_penalty(rng: np.random.Generator) -> None:
    A, b = matrix(rng), rng.normal(size=N_ROWS)
    for nonnegative in (False, True):
        result = block_coordinate_descent(
            LeastSquares(A, b, l1=float(np.abs(A.T @ b).max()), nonnegative=nonnegative)
        )
        assert result.converged
        assert result.n_iterations == result.active_set_iteration == 0
        assert (result.x == 0).all()


def test_block_as_large_as_the_support_ends_in_a_few_steps(rng: np.random.Generator) -> None:
    A = rng.normal(size=(100, 50))
    b = A[:, :5] @ np.array([3.0, 2.0, 4.0, 3.0, 2.0]) + 0.1 * rng.normal(size=100)
    problem = LeastSquares(A, b, l1=5.0, nonnegative=True)
    for update in ("two-metric", "projected-newton"):
        result = block_coordinate_descent(problem, block_size=10, update=update)
        assert result.converged
        assert result.n_iterations <= result.active_set_iteration + 1 <= 10


def test_projected_gradient_identifies_the_support_within_the_bound(rng: np.random.Generator) -> None:
    A = rng.normal(size=(100, 20))
    problem = LeastSquares(A, A[:, :4] @ np.ones(4) + rng.normal(size=100), l1=8.0, nonnegative=True)
    optimum = block_coordinate_descent(problem, update="two-metric", tolerance=1e-11).x
    zero = optimum == 0
    margin = float((problem.gradient(optimum) + problem.l1)[zero].min())
    curvature = linalg.eigvalsh(A.T @ A)
    bound = active_set_bound(curvature[-1], curvature[0], float(np.linalg.norm(optimum)), margin)
    result = block_coordinate_descent(problem, block_size=20, update="gradient")
    assert 0 < result.active_set_iteration <= bound + 1


def test_active_set_bound() -> None:
    assert active_set_bound(10, 1, 2, 0.1) == pytest.approx(10 * np.log(400))
    assert active_set_bound(10, 1, 0.001, 0.1) == active_set_bound(10, 1, 0, 0.1) == 0


# --- Bad input ---------------------------------------------------------------------------------------

A = np.eye(3)
PATH = nx.to_numpy_array(nx.path_graph(3))
SMOOTH = LeastSquares(A, np.ones(3))
GRAPH = LabelPropagation(1 - np.eye(4), [np.nan, np.nan, np.nan, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LeastSquares(np.ones(3), np.ones(3)), "A must have shape"),
        (lambda: LeastSquares(np.ones((0, 3)), []), "A must have rows"),
        (lambda: LeastSquares(A, np.ones(4)), "b must have shape"),
        (lambda: LeastSquares(A, np.ones((3, 1))), "b must have shape"),
        (lambda: LeastSquares(A * np.nan, np.ones(3)), "A must be finite"),
        (lambda: LeastSquares(A, [1, np.inf, 1]), "b must be finite"),
        (lambda: LeastSquares(A, np.ones(3), l1=-1), "l1 must be"),
        (lambda: LeastSquares(A, np.ones(3), l2=np.nan), "l2 must be"),
        (lambda: LogisticRegression(A, [0, 1, 1]), "y must hold -1 and 1"),
        (lambda: MulticlassLogistic(A, [0, 1]), "labels must have shape"),
        (lambda: MulticlassLogistic(A, [0, 1, 3], n_classes=3), "labels must be integers"),
        (lambda: MulticlassLogistic(A, [0, 1, -1]), "labels must be integers"),
        (lambda: MulticlassLogistic(A, [0, 0.5, 1]), "labels must be integers"),
        (lambda: MulticlassLogistic(A, [0, 0, 0], n_classes=1), "n_classes must be"),
        (lambda: LabelPropagation(np.triu(PATH), [0, np.nan, 1]), "W must be symmetric"),
        (lambda: LabelPropagation(-PATH, [0, np.nan, 1]), "W must hold no negative"),
        (lambda: LabelPropagation(PATH[:2], [0, np.nan, 1]), "W must be square"),
        (lambda: LabelPropagation(PATH * np.nan, [0, np.nan, 1]), "W must be finite"),
        (lambda: LabelPropagation(PATH, [0, np.nan]), "labels must have shape"),
        (lambda: LabelPropagation(PATH, [0, 1, 2]), "labels must be partly known"),
        (lambda: LabelPropagation(PATH, np.full(3, np.nan)), "labels must be partly known"),
        (lambda: LabelPropagation(PATH, [np.inf, np.nan, 2]), "labels must be finite"),
        (lambda: SMOOTH.value(np.ones(4)), "x must have shape"),
        (lambda: SMOOTH.block_bound([3]), "block must lie within"),
        (lambda: SMOOTH.block_bound([0.5]), "block must be a vector of integers"),
        (lambda: make_partition(np.ones(3), 0, "sort"), "block_size must be"),
        (lambda: make_partition(np.ones(3), 2, "tree"), "rule must be one of"),
        (lambda: greedy_forest([0, 0], PATH), "order must name each vertex at most once"),
        (lambda: greedy_forest([3], PATH), "order must be a vector of vertices"),
        (lambda: greedy_forest([0, 1], np.triu(PATH)), "adjacency must be symmetric"),
        (lambda: forest_partition(PATH, order=[0, 1]), "order must hold all 3"),
        (lambda: forest_partition(PATH, kind="blue"), "kind must be one of"),
        (lambda: solve_forest(1 + np.eye(3), np.ones(3)), "its graph a forest"),
        (lambda: solve_forest([[2, 1], [0, 2]], np.ones(2)), "must be symmetric"),
        (lambda: solve_forest([[2, 0], [1, 2]], np.ones(2)), "must be symmetric"),
        (lambda: solve_forest([[2, 1], [0.5, 2]], np.ones(2)), "must be symmetric"),
        (lambda: solve_forest([[1, -1], [-1, 1]], np.ones(2)), "singular"),
        (lambda: solve_forest(A, np.ones(2)), "rhs must have shape"),
        (lambda: solve_forest(A * np.nan, np.ones(3)), "matrix must be finite"),
        (lambda: active_set_bound(1, 2, 1, 1), "strong_convexity must be at most"),
        (lambda: active_set_bound(1, 0, 1, 1), "strong_convexity must be"),
        (lambda: active_set_bound(1, 1, -1, 1), "distance must be"),
    ],
)
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("problem", "arguments", "message"),
    [
        (SMOOTH, {"partition": "random"}, "partition must be one of"),
        (SMOOTH, {"selection": "best"}, "selection must be one of"),
        (SMOOTH, {"update": "sgd"}, "update must be one of"),
        (SMOOTH, {"selection": "gsq"}, "'gsq' needs a fixed partition"),
        (SMOOTH, {"selection": "tree"}, "'tree' needs a problem with a graph"),
        (SMOOTH, {"partition": "tree"}, "'tree' needs a quadratic problem with a graph"),
        (SMOOTH, {"update": "message-passing"}, "'message-passing' needs a quadratic problem with a graph"),
        (SMOOTH, {"update": "two-metric"}, "'two-metric' needs a problem with nonnegative"),
        (LeastSquares(A, np.ones(3), l1=0.1), {"update": "newton"}, "'newton' needs a smooth problem"),
        (GRAPH, {"partition": "tree", "selection": "tree"}, "'tree' forms its own blocks"),
        (GRAPH, {"update": "message-passing"}, "needs blocks without cycles"),
        (SMOOTH, {"block_size": 0}, "block_size must be"),
        (SMOOTH, {"max_iter": -1}, "max_iter must be"),
        (SMOOTH, {"tolerance": np.nan}, "tolerance must be"),
        (SMOOTH, {"initial": np.ones(2)}, "initial must have shape"),
        (LeastSquares(A, A[0], nonnegative=True), {"initial": -np.ones(3)}, "initial must be at least 0"),
    ],
)
def test_bad_choices(problem: block_descent.Problem, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_coordinate_descent(problem, **arguments)
