"""Block coordinate descent beside what a user would run instead: seconds of both, least of paired repeats.

Run it with one thread: ``OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/bench_block_descent.py``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import networkx as nx
import numpy as np
from celer import Lasso as CelerLasso
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from assay.optimize.block_descent import (
    BlockDescentResult,
    LabelPropagation,
    LeastSquares,
    block_coordinate_descent,
    greedy_forest,
    make_partition,
    solve_forest,
)


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    repeats: int = 5,
    scale: float = 1.0,
) -> None:
    """Print the least seconds of both, times `scale`, and how many times faster ours is."""
    ours()  # compiles
    seconds = np.full(2, np.inf)
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    seconds *= scale
    print(f"{name:72} {seconds[0]:10.2e} s {seconds[1]:10.2e} s {seconds[1] / seconds[0]:8.1f} x", flush=True)


def uneven_matrix(n_rows: int, n_columns: int, rng: np.random.Generator) -> np.ndarray:
    A = (rng.normal(size=(n_rows, n_columns)) + 1) * (10 * rng.normal(size=n_columns))
    return A * (rng.random(A.shape) < 10 * np.log(n_rows) / n_rows)


def plain_variable_gsd(A: np.ndarray, b: np.ndarray, k: int, iterations: int) -> np.ndarray:
    """The method as one writes it down: every product from x, a pseudo-inverse, a full sort."""
    lipschitz = np.square(A).sum(axis=0)
    x = np.zeros(A.shape[1])
    for _ in range(iterations):
        value = 0.5 * np.square(A @ x - b).sum()
        assert np.isfinite(value)
        block = np.sort(np.argsort(np.abs(A.T @ (A @ x - b)) / np.sqrt(lipschitz))[-k:])
        slope = A[:, block].T @ (A @ x - b)
        x[block] -= np.linalg.pinv(A[:, block].T @ A[:, block]) @ slope
    return x


def plain_fixed_gsl(A: np.ndarray, b: np.ndarray, blocks: list[np.ndarray], iterations: int) -> np.ndarray:
    """Likewise with fixed blocks, gone through one at a time."""
    constants = [np.linalg.eigvalsh(A[:, block].T @ A[:, block])[-1] for block in blocks]
    x = np.zeros(A.shape[1])
    for _ in range(iterations):
        value = 0.5 * np.square(A @ x - b).sum()
        assert np.isfinite(value)
        gradient = A.T @ (A @ x - b)
        scores = [gradient[block] @ gradient[block] / L for block, L in zip(blocks, constants, strict=True)]
        block = blocks[int(np.argmax(scores))]
        bound = np.linalg.eigvalsh(A[:, block].T @ A[:, block])[-1]
        x[block] -= A[:, block].T @ (A @ x - b) / bound
    return x


def iterations_on_least_squares(rng: np.random.Generator) -> None:
    A = uneven_matrix(1000, 10_000, rng)
    b = A @ (rng.normal(size=10_000) * (rng.random(10_000) < 0.1)) + rng.normal(size=1000)
    steps = 10
    problems = {"dense": LeastSquares(A, b), "sparse": LeastSquares(sparse.csc_array(A), b)}
    blocks = make_partition(problems["dense"].lipschitz, 5, "sort")
    for kind, problem in problems.items():
        compare(
            f"an iteration, 1000 x 10000 {kind}, variable GSD, matrix update / plain NumPy",
            lambda problem=problem: block_coordinate_descent(problem, max_iter=steps),
            lambda: plain_variable_gsd(A, b, 5, steps),
            repeats=3,
            scale=1 / steps,
        )
    for kind, problem in problems.items():
        compare(
            f"100 iterations, 1000 x 10000 {kind}, sorted blocks, GSL / plain NumPy",
            lambda problem=problem: block_coordinate_descent(
                problem, partition="sort", selection="gsl", update="gradient", max_iter=100
            ),
            lambda: plain_fixed_gsl(A, b, blocks, 100),
            repeats=1,
        )


def lasso(rng: np.random.Generator) -> None:
    """All three to the same objective, within rounding."""
    A = rng.normal(size=(1000, 5000))
    truth = np.zeros(5000)
    truth[:50] = rng.uniform(1, 2, 50)
    b = A @ truth + rng.normal(size=1000)
    for share in (0.3, 0.1):
        l1 = share * float(np.abs(A.T @ b).max())
        problem = LeastSquares(A, b, l1=l1)

        def ours(problem: LeastSquares = problem, tolerance: float = 1e-6 * l1) -> BlockDescentResult:
            return block_coordinate_descent(problem, block_size=100, update="two-metric", tolerance=tolerance)

        for name, estimator in (("scikit-learn", Lasso), ("celer", CelerLasso)):
            model = estimator(alpha=l1 / 1000, fit_intercept=False, tol=1e-8)
            compare(
                f"lasso 1000 x 5000, l1 {share} of the largest / {name}",
                ours,
                lambda model=model: model.fit(A, b),
            )
            assert np.isclose(ours().values[-1], problem.value(model.coef_), rtol=1e-9)


def plain_forest_solve(graph: nx.Graph, diagonal: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Two sweeps in Python over a tree with weights."""
    order = list(nx.dfs_preorder_nodes(graph, 0))
    parent = dict(nx.dfs_predecessors(graph, 0))
    pivot, x = diagonal.copy(), rhs.copy()
    for u in reversed(order[1:]):
        message = graph[u][parent[u]]["weight"] / pivot[u]
        pivot[parent[u]] -= message * graph[u][parent[u]]["weight"]
        x[parent[u]] -= message * x[u]
    for u in order:
        if u in parent:
            x[u] -= graph[u][parent[u]]["weight"] * x[parent[u]]
        x[u] /= pivot[u]
    return x


def plain_greedy_forest(order: np.ndarray, graph: nx.Graph) -> list[int]:
    """Vertices in Python, with networkx's union-find."""
    trees, chosen = nx.utils.UnionFind(), set()
    for vertex in order:
        neighbours = [u for u in graph[vertex] if u in chosen]
        if len({trees[u] for u in neighbours}) == len(neighbours):
            chosen.add(vertex)
            trees.union(vertex, *neighbours)
    return sorted(chosen)


def forests(rng: np.random.Generator) -> None:
    n = 100_000
    path = sparse.diags_array([-1.0, 2.5, -1.0], offsets=(-1, 0, 1), shape=(n, n)).tocsr()
    graph = nx.path_graph(n)
    nx.set_edge_attributes(graph, -1.0, "weight")
    rhs, diagonal = rng.normal(size=n), np.full(n, 2.5)
    csc = path.tocsc()
    compare(
        "a path of 100000, solve_forest / plain Python",
        lambda: solve_forest(path, rhs),
        lambda: plain_forest_solve(graph, diagonal, rhs),
        repeats=3,
    )
    compare(
        "a path of 100000, solve_forest / scipy.sparse.linalg.spsolve",
        lambda: solve_forest(path, rhs),
        lambda: sparse.linalg.spsolve(csc, rhs),
    )
    lattice = nx.convert_node_labels_to_integers(nx.grid_2d_graph(300, 300))
    adjacency, order = nx.to_scipy_sparse_array(lattice), rng.permutation(90_000)
    compare(
        "a lattice of 300 x 300, greedy_forest / plain Python",
        lambda: greedy_forest(order, adjacency),
        lambda: plain_greedy_forest(order, lattice),
        repeats=3,
    )


def label_propagation(rng: np.random.Generator) -> None:
    side = 60
    labels = np.full(side**2, np.nan)
    known = rng.choice(side**2, 150, replace=False)
    labels[known] = rng.normal(size=150)
    problem = LabelPropagation(nx.to_scipy_sparse_array(nx.grid_2d_graph(side, side)), labels)
    block = greedy_forest(np.arange(problem.n_variables), problem.adjacency)
    forest = problem.matrix[block][:, block]
    dense, rhs = forest.toarray(), problem.linear[block]
    compare(
        f"a forest block of {block.size} vertices of a lattice, solve_forest / dense solve",
        lambda: solve_forest(forest, rhs),
        lambda: np.linalg.solve(dense, rhs),
        repeats=2,
    )


def main() -> None:
    """All comparisons: ours, theirs, how many times faster ours is."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    for part in (iterations_on_least_squares, lasso, forests, label_propagation):
        part(rng)


if __name__ == "__main__":
    main()
