"""Block coordinate descent with greedy rules, curvature, message passing and active sets.

Nutini, Laradji and Schmidt (2017), "Let's Make Block Coordinate Descent Converge Faster", arXiv 1712.08859.

A convex f is lowered a block b of coordinates at a time. Three choices make the method: how blocks are
formed (`make_partition`, `forest_partition`, or anew in each iteration), which one is updated (from its
gradient g_b and its curvature), and how. The curvature comes as the constants L_i with f'' <= L_i along
coordinate i, as matrices H_b with f(x + d) <= f(x) + g_b.d + d'H_b d/2 for d within b, and as L_b, the
largest eigenvalue of H_b.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse, special

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

PartitionRule = Literal["order", "sort", "average"]
GraphPartition = Literal["red-black", "tree"]
Partition = Literal["variable", "order", "sort", "average", "red-black", "tree"]
Selection = Literal["random", "cyclic", "lipschitz", "gs", "gsl", "gsd", "gsq", "tree", "tree-random"]
Update = Literal["gradient", "matrix", "newton", "two-metric", "projected-newton", "message-passing"]


# --- Input ----------------------------------------------------------------------------------------


def _one_of(name: str, value: str, known: Any) -> None:
    if value not in get_args(known):
        raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name} must be finite and at least {least}, got {value}")


def _vector(name: str, values: ArrayLike, size: int | None = None) -> Floats:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or (size is not None and vector.size != size):
        expected = "(n,)" if size is None else f"({size},)"
        raise ValueError(f"{name} must have shape {expected}, got {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return vector


def _canonical(matrix: Any) -> Any:
    """The CSR or CSC matrix with sorted indices and no entry stored twice."""
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def _square(name: str, matrix: Any) -> sparse.csr_array[np.float64]:
    csr = sparse.csr_array(matrix, dtype=np.float64)
    if csr.ndim != 2 or csr.shape[0] != csr.shape[1]:
        raise ValueError(f"{name} must be square, got shape {csr.shape}")
    if not np.isfinite(csr.data).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return cast("sparse.csr_array[np.float64]", _canonical(csr))


def _symmetric(name: str, matrix: Any) -> sparse.csr_array[np.float64]:
    csr = _square(name, matrix)
    asymmetry = abs(csr - csr.T).max() if csr.nnz else 0.0
    if asymmetry > 1e-9 * abs(csr).max():
        raise ValueError(
            f"{name} must be symmetric, got entries that differ by {asymmetry} from their mirror"
        )
    return csr


# --- Problems -------------------------------------------------------------------------------------


class Problem(ABC):
    """min f(x) + l1 |x|_1, with x >= 0 where `nonnegative`, for a smooth convex f.

    A problem looks at x through predictions that are linear in it. These are what `block_coordinate_descent`
    keeps up to date, so that changing a block costs no more than the block's share of the data.
    """

    lipschitz: Floats
    l1: float = 0.0
    l2: float = 0.0
    nonnegative: bool = False
    adjacency: sparse.csr_array[np.float64] | None = None

    @property
    def n_variables(self) -> int:
        """The length of x."""
        return self.lipschitz.size

    @property
    def smooth(self) -> bool:
        """Whether there is neither an l1 term nor a sign constraint."""
        return self.l1 == 0 and not self.nonnegative

    def value(self, x: ArrayLike) -> float:
        """The objective at x, shape (n,), its l1 term included."""
        x = _vector("x", x, self.n_variables)
        return self.value_at(x, self.predict(x))

    def gradient(self, x: ArrayLike) -> Floats:
        """The gradient at x of the smooth part, shape (n,)."""
        x = _vector("x", x, self.n_variables)
        return self.gradient_at(x, self.predict(x))

    def block_bound(self, block: ArrayLike) -> Floats:
        """H_b, shape (k, k): an upper bound on the Hessian of the block's coordinates at every x."""
        block = self._block(block)
        return self._bound(block) + self.l2 * np.eye(block.size)

    def block_hessian(self, x: ArrayLike, block: ArrayLike) -> Floats:
        """The Hessian at x of the block's coordinates, shape (k, k)."""
        return self.hessian_at(self.predict(_vector("x", x, self.n_variables)), self._block(block))

    def value_at(self, x: Floats, predictions: Floats) -> float:
        """`value` from predictions that are at hand."""
        value = self._loss(x, predictions)
        if self.l2:
            value += self.l2 / 2 * float(x @ x)
        if self.l1:
            value += self.l1 * float(np.abs(x).sum())
        return value

    def gradient_at(self, x: Floats, predictions: Floats) -> Floats:
        """`gradient` from predictions that are at hand."""
        gradient = self._loss_gradient(predictions)
        return gradient + self.l2 * x if self.l2 else gradient

    def hessian_at(self, predictions: Floats, block: Indices) -> Floats:
        """`block_hessian` from predictions that are at hand."""
        return self._loss_hessian(predictions, block) + self.l2 * np.eye(block.size)

    def _block(self, block: ArrayLike) -> Indices:
        indices = np.asarray(block)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"block must be a vector of integers, got {block!r}")
        if indices.size and not 0 <= indices.min() <= indices.max() < self.n_variables:
            raise ValueError(f"block must lie within 0 to {self.n_variables - 1}, got {block!r}")
        return indices.astype(np.intp)

    @abstractmethod
    def predict(self, x: Floats) -> Floats:
        """The predictions at x, linear in x."""

    @abstractmethod
    def predict_step(self, block: Indices, step: Floats) -> Floats:
        """The change of the predictions when the block moves by `step`."""

    @abstractmethod
    def _loss(self, x: Floats, predictions: Floats) -> float: ...

    @abstractmethod
    def _loss_gradient(self, predictions: Floats) -> Floats: ...

    @abstractmethod
    def _loss_hessian(self, predictions: Floats, block: Indices) -> Floats: ...

    @abstractmethod
    def _bound(self, block: Indices) -> Floats: ...


class _LinearModel(Problem):
    """A loss of the scores A X, shape (m, n_classes), where x is X row by row: feature * n_classes + class.

    A loss is its value, its gradient in the scores, and its curvature: that at given scores and its bound.
    """

    def __init__(
        self, A: Any, *, l1: float, l2: float, nonnegative: bool, n_classes: int, coordinate_bound: float
    ) -> None:
        self.A: Any
        if sparse.issparse(A):
            self.A = _canonical(sparse.csc_array(cast(Any, A), dtype=np.float64))
            entries, squares = self.A.data, self.A.multiply(self.A).sum(axis=0)
        else:
            # Column-major: a block is a few columns.
            self.A = np.asarray(A, dtype=np.float64, order="F")
            if self.A.ndim != 2:
                raise ValueError(f"A must have shape (m, d), got {self.A.shape}")
            entries, squares = self.A, np.einsum("ij,ij->j", self.A, self.A)
        if 0 in self.A.shape:
            raise ValueError(f"A must have rows and columns, got shape {self.A.shape}")
        if not np.isfinite(entries).all():
            raise ValueError("A must be finite, got NaN or infinity")
        _at_least("l1", l1, 0)
        _at_least("l2", l2, 0)
        self.l1, self.l2, self.nonnegative, self.n_classes = l1, l2, nonnegative, n_classes
        self.lipschitz = coordinate_bound * np.repeat(squares, n_classes) + l2

    def _columns(self, features: Indices) -> Floats:
        columns = self.A[:, features]
        return cast(Floats, columns if isinstance(columns, np.ndarray) else columns.toarray())

    def predict(self, x: Floats) -> Floats:
        return cast(Floats, self.A @ x.reshape(-1, self.n_classes))

    def predict_step(self, block: Indices, step: Floats) -> Floats:
        features, classes = np.divmod(block, self.n_classes)
        rows = np.zeros((block.size, self.n_classes))
        rows[np.arange(block.size), classes] = step
        return self._columns(features) @ rows

    def _loss_gradient(self, predictions: Floats) -> Floats:
        return cast(Floats, (self.A.T @ self._score_gradient(predictions)).ravel())

    def _bound(self, block: Indices) -> Floats:
        features, classes = np.divmod(block, self.n_classes)
        columns = self._columns(features)
        return self._score_bound(classes) * (columns.T @ columns)

    @abstractmethod
    def _score_gradient(self, scores: Floats) -> Floats: ...

    @abstractmethod
    def _score_bound(self, classes: Indices) -> float | Floats: ...


class LeastSquares(_LinearModel):
    """min |Ax - b|^2/2 + l2 |x|^2/2 + l1 |x|_1, with x >= 0 where `nonnegative`.

    Args:
        A: dense or sparse, shape (m, d); sparse is the faster where most entries are zero.
        b: shape (m,).
        l1, l2: weights of the penalties, at least 0.
        nonnegative: whether x >= 0.

    Raises:
        ValueError: for shapes that do not fit, negative weights, NaN or infinity.
    """

    def __init__(
        self, A: Any, b: ArrayLike, *, l1: float = 0.0, l2: float = 0.0, nonnegative: bool = False
    ) -> None:
        super().__init__(A, l1=l1, l2=l2, nonnegative=nonnegative, n_classes=1, coordinate_bound=1.0)
        self.b = _vector("b", b, self.A.shape[0])[:, None]

    def _loss(self, x: Floats, scores: Floats) -> float:
        return 0.5 * float(np.square(scores - self.b).sum())

    def _score_gradient(self, scores: Floats) -> Floats:
        return scores - self.b

    def _score_bound(self, classes: Indices) -> float:
        return 1.0

    def _loss_hessian(self, scores: Floats, block: Indices) -> Floats:
        return self._bound(block)


class LogisticRegression(_LinearModel):
    """min sum_i log(1 + exp(-y_i a_i.x)) + l2 |x|^2/2 + l1 |x|_1, with x >= 0 where `nonnegative`.

    Args:
        A: dense or sparse, shape (m, d), rows a_i.
        y: shape (m,), each -1 or 1.
        l1, l2: weights of the penalties, at least 0.
        nonnegative: whether x >= 0.

    Raises:
        ValueError: for shapes that do not fit, other labels, negative weights, NaN or infinity.
    """

    def __init__(
        self, A: Any, y: ArrayLike, *, l1: float = 0.0, l2: float = 0.0, nonnegative: bool = False
    ) -> None:
        super().__init__(A, l1=l1, l2=l2, nonnegative=nonnegative, n_classes=1, coordinate_bound=0.25)
        self.y = _vector("y", y, self.A.shape[0])[:, None]
        if not np.isin(self.y, (-1, 1)).all():
            raise ValueError(f"y must hold -1 and 1 only, got {np.unique(self.y)}")

    def _loss(self, x: Floats, scores: Floats) -> float:
        return float(np.logaddexp(0, -self.y * scores).sum())

    def _score_gradient(self, scores: Floats) -> Floats:
        return -self.y * special.expit(-self.y * scores)

    def _score_bound(self, classes: Indices) -> float:
        return 0.25

    def _loss_hessian(self, scores: Floats, block: Indices) -> Floats:
        columns = self._columns(block)
        return columns.T @ (columns * special.expit(scores) * special.expit(-scores))


class MulticlassLogistic(_LinearModel):
    """min sum_i (logsumexp(a_i X) - (a_i X)_{y_i}) + l2 |X|^2/2 + l1 |X|_1, with X >= 0 where `nonnegative`.

    x is X, shape (d, n_classes), row by row: variable feature * n_classes + class.

    Args:
        A: dense or sparse, shape (m, d), rows a_i.
        labels: shape (m,), the integers y_i from 0 to n_classes - 1.
        n_classes: at least 2; by default the largest label and one.
        l1, l2: weights of the penalties, at least 0.
        nonnegative: whether X >= 0.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, negative weights, NaN or infinity.
    """

    def __init__(
        self,
        A: Any,
        labels: ArrayLike,
        *,
        n_classes: int | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        nonnegative: bool = False,
    ) -> None:
        given = _vector("labels", labels)
        self.labels = given.astype(np.intp)
        if n_classes is None:
            n_classes = max(2, int(self.labels.max(initial=0)) + 1)
        _at_least("n_classes", n_classes, 2)
        if (self.labels != given).any() or (self.labels < 0).any() or (self.labels >= n_classes).any():
            raise ValueError(f"labels must be integers from 0 to {n_classes - 1}, got {np.unique(given)}")
        super().__init__(A, l1=l1, l2=l2, nonnegative=nonnegative, n_classes=n_classes, coordinate_bound=0.25)
        if given.size != self.A.shape[0]:
            raise ValueError(f"labels must have shape ({self.A.shape[0]},), got {given.shape}")
        self._samples = np.arange(given.size)

    def _loss(self, x: Floats, scores: Floats) -> float:
        top = scores.max(axis=1)
        log_sums = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        return float((log_sums - scores[self._samples, self.labels]).sum())

    def _score_gradient(self, scores: Floats) -> Floats:
        gradient: Floats = _softmax(scores)
        gradient[self._samples, self.labels] -= 1
        return gradient

    def _score_bound(self, classes: Indices) -> Floats:
        # Böhning's bound. The classes outside the block act as a single one, whose score stands still.
        n_effective = min(self.n_classes, np.unique(classes).size + 1)
        bound: Floats = 0.5 * ((classes[:, None] == classes) - 1 / n_effective)
        return bound

    def _loss_hessian(self, scores: Floats, block: Indices) -> Floats:
        features, classes = np.divmod(block, self.n_classes)
        columns = self._columns(features)
        weighted = columns * _softmax(scores)[:, classes]
        return np.where(classes[:, None] == classes, columns.T @ weighted, 0) - weighted.T @ weighted


def _softmax(scores: Floats) -> Floats:
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return cast(Floats, odds / odds.sum(axis=1, keepdims=True))


class LabelPropagation(Problem):
    """min sum over edges of w_ij (x_i - x_j)^2 / 2 over the labels of the vertices that have none.

    Up to a constant this is x'Ax/2 - c.x, with A the block of the graph's Laplacian that belongs to the
    unlabelled vertices (`matrix`) and c the pull of the labelled ones (`linear`). `unlabelled` holds the
    vertices that x stands for, and `adjacency` the weights among them.

    Args:
        W: the graph's weights, dense or sparse, shape (n, n), symmetric, at least 0.
        labels: shape (n,); NaN where unknown.

    Raises:
        ValueError: for W that is no symmetric matrix of non-negative weights, labels of another shape, or all
            or none of them known.

    >>> import numpy as np
    >>> path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> problem = LabelPropagation(path, [0, np.nan, 2])
    >>> block_coordinate_descent(problem, selection="tree", update="message-passing").x
    array([1.])
    """

    def __init__(self, W: Any, labels: ArrayLike) -> None:
        weights = _symmetric("W", W)
        if weights.nnz and weights.data.min() < 0:
            raise ValueError(f"W must hold no negative weights, got {weights.data.min()}")
        given = np.asarray(labels, dtype=np.float64)
        if given.shape != weights.shape[:1]:
            raise ValueError(f"labels must have shape ({weights.shape[0]},), got {given.shape}")
        if np.isinf(given).any():
            raise ValueError("labels must be finite, or NaN where unknown, got infinity")
        unknown = np.isnan(given)
        if unknown.all() or not unknown.any():
            raise ValueError(f"labels must be partly known, got {(~unknown).sum()} known of {given.size}")
        self.unlabelled = np.flatnonzero(unknown)
        rows = weights[self.unlabelled]
        self.adjacency = rows[:, self.unlabelled]
        self.linear = cast(Floats, rows[:, np.flatnonzero(~unknown)] @ given[~unknown])
        self.matrix = sparse.csr_array(sparse.diags_array(rows.sum(axis=1)) - self.adjacency)
        self.lipschitz = self.matrix.diagonal()

    def predict(self, x: Floats) -> Floats:
        return cast(Floats, self.matrix @ x)

    def predict_step(self, block: Indices, step: Floats) -> Floats:
        return cast(Floats, step @ self.matrix[block])

    def _loss(self, x: Floats, predictions: Floats) -> float:
        return float(x @ predictions / 2 - self.linear @ x)

    def _loss_gradient(self, predictions: Floats) -> Floats:
        return predictions - self.linear

    def _loss_hessian(self, predictions: Floats, block: Indices) -> Floats:
        return self._bound(block)

    def _bound(self, block: Indices) -> Floats:
        return self.matrix[block][:, block].toarray()


# --- Partitions and forests -----------------------------------------------------------------------


def make_partition(lipschitz: ArrayLike, block_size: int, rule: PartitionRule) -> list[Indices]:
    """Cut the coordinates into blocks of `block_size`, the last one shorter where it does not divide.

    Args:
        lipschitz: L_i, shape (n,).
        block_size: at least 1.
        rule: "order" takes coordinates as they come; "sort" by ascending L_i; "average" that of smallest L_i,
            that of the largest, of the second smallest and so on.

    Returns:
        The blocks, each sorted.

    Raises:
        ValueError: for an unknown rule or a block size below 1.

    >>> make_partition([3, 1, 2, 4], 2, "average")
    [array([1, 3]), array([0, 2])]
    """
    _one_of("rule", rule, PartitionRule)
    _at_least("block_size", block_size, 1)
    constants = _vector("lipschitz", lipschitz)
    order = np.arange(constants.size) if rule == "order" else np.argsort(constants, kind="stable")
    if rule == "average":
        order = np.stack([order, order[::-1]], axis=1).ravel()[: order.size]
    return [np.sort(order[start : start + block_size]) for start in range(0, order.size, block_size)]


def greedy_forest(order: ArrayLike, adjacency: Any) -> Indices:
    """Choose vertices in the order given, each unless it would close a cycle with those chosen before.

    Args:
        order: vertices, each at most once; those left out are not chosen.
        adjacency: symmetric, dense or sparse, shape (n, n); an edge wherever it is not zero.

    Returns:
        The chosen vertices, sorted: an induced forest that none of the vertices in `order` could join.

    Raises:
        ValueError: for an adjacency that is not symmetric, or an order with repeated or unknown vertices.

    >>> greedy_forest([0, 1, 2], [[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    array([0, 1])
    """
    graph = _symmetric("adjacency", adjacency)
    return _grow_forest(_vertices(order, graph.shape[0]), graph.indptr, graph.indices, graph.data)


def forest_partition(
    adjacency: Any, *, kind: GraphPartition = "tree", order: ArrayLike | None = None
) -> list[Indices]:
    """Cut a graph into blocks without cycles ("tree") or without edges ("red-black").

    Args:
        adjacency: symmetric, dense or sparse, shape (n, n); an edge wherever it is not zero.
        kind: "tree" takes a greedy forest, then one of the vertices left, and so on; "red-black" gives each
            vertex the first colour that none of its neighbours has.
        order: all vertices in the order in which they are taken, by default that of descending row sums.

    Returns:
        The blocks, each sorted.

    Raises:
        ValueError: for an adjacency that is not symmetric, an order that is no permutation, an unknown kind.

    >>> forest_partition([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    [array([0, 1]), array([2])]
    """
    _one_of("kind", kind, GraphPartition)
    graph = _symmetric("adjacency", adjacency)
    if order is None:
        order = np.argsort(-graph.sum(axis=1), kind="stable")
    remaining = _vertices(order, graph.shape[0])
    if remaining.size < graph.shape[0]:
        raise ValueError(f"order must hold all {graph.shape[0]} vertices, got {remaining.size}")
    if kind == "red-black":
        colours = _colour(remaining, graph.indptr, graph.indices, graph.data)
        return [np.flatnonzero(colours == colour) for colour in range(colours.max(initial=-1) + 1)]
    blocks = []
    while remaining.size:
        blocks.append(_grow_forest(remaining, graph.indptr, graph.indices, graph.data))
        remaining = remaining[~np.isin(remaining, blocks[-1])]
    return blocks


def _vertices(order: ArrayLike, n: int) -> Indices:
    vertices = np.asarray(order)
    if vertices.ndim != 1 or not np.isin(vertices, np.arange(n)).all():
        raise ValueError(f"order must be a vector of vertices from 0 to {n - 1}, got {order!r}")
    if np.unique(vertices).size < vertices.size:
        raise ValueError(f"order must name each vertex at most once, got {order!r}")
    return vertices.astype(np.intp)


@numba.njit(cache=True)
def _find(parent: Indices, vertex: Any) -> Any:
    while parent[vertex] != vertex:
        parent[vertex] = parent[parent[vertex]]
        vertex = parent[vertex]
    return vertex


@numba.njit(cache=True)
def _grow_forest(order: Indices, indptr: Any, indices: Any, data: Floats) -> Indices:
    n = indptr.size - 1
    parent = np.full(n, -1, np.intp)  # in the union-find forest; -1: not chosen
    reached_by = np.full(n, -1, np.intp)  # per tree, the last vertex that found a neighbour in it
    for vertex in order:
        closes_cycle = False
        for edge in range(indptr[vertex], indptr[vertex + 1]):
            if data[edge] != 0 and parent[indices[edge]] >= 0:
                root = _find(parent, indices[edge])
                if reached_by[root] == vertex:
                    closes_cycle = True
                    break
                reached_by[root] = vertex
        if not closes_cycle:
            parent[vertex] = vertex
            for edge in range(indptr[vertex], indptr[vertex + 1]):
                if data[edge] != 0 and parent[indices[edge]] >= 0:
                    parent[_find(parent, indices[edge])] = vertex
    return np.flatnonzero(parent >= 0)


@numba.njit(cache=True)
def _colour(order: Indices, indptr: Any, indices: Any, data: Floats) -> Indices:
    n = indptr.size - 1
    colours = np.full(n, -1, np.intp)
    taken_for = np.full(n + 1, -1, np.intp)  # per colour, the last vertex that has a neighbour of it
    for vertex in order:
        for edge in range(indptr[vertex], indptr[vertex + 1]):
            if data[edge] != 0 and colours[indices[edge]] >= 0:
                taken_for[colours[indices[edge]]] = vertex
        colour = 0
        while taken_for[colour] == vertex:
            colour += 1
        colours[vertex] = colour
    return colours


def solve_forest(matrix: Any, rhs: ArrayLike) -> Floats:
    """Solve a symmetric linear system whose graph is a forest, in linear time.

    Two sweeps of Gaussian belief propagation: messages from the leaves to the roots, then back. With a
    problem's `block_hessian` and gradient it is a Newton step on a block of any smooth problem.

    Args:
        matrix: positive definite, dense or sparse, shape (n, n), its off-diagonal entries without cycles.
        rhs: shape (n,).

    Returns:
        The solution, shape (n,).

    Raises:
        ValueError: for shapes that do not fit, a graph with a cycle, a matrix that is singular or not
            symmetric, NaN or infinity.

    >>> solve_forest([[2, -1, 0], [-1, 2, -1], [0, -1, 2]], [0, 2, 0]).round(6)
    array([1., 2., 1.])
    """
    csr = _square("matrix", matrix)
    rhs = _vector("rhs", rhs, csr.shape[0])
    solution, is_forest, is_regular = _pass_messages(
        csr.indptr, csr.indices, csr.data, np.arange(rhs.size), rhs
    )
    if not is_forest:
        raise ValueError("matrix must be symmetric and its graph a forest, got a cycle or an unmatched entry")
    if not is_regular:
        raise ValueError("matrix must be positive definite, got a singular one")
    return solution


@numba.njit(cache=True)
def _pass_messages(
    indptr: Any, indices: Any, data: Floats, block: Indices, rhs: Floats
) -> tuple[Floats, bool, bool]:
    """Solve the block's rows and columns of a CSR matrix; whether they form a forest, and are regular.

    Where a pivot vanishes the solution is set to zero, which is right for a consistent semidefinite system.
    """
    position = np.full(indptr.size - 1, -1, np.intp)
    for i in range(block.size):
        position[block[i]] = i
    diagonal, coupling = (
        np.zeros(block.size),
        np.zeros(block.size),
    )  # coupling: the entry that ties u to its parent
    parent = np.full(block.size, -1, np.intp)
    seen = np.zeros(block.size, np.bool_)
    order = np.empty(block.size, np.intp)  # parents before children; the queue of the search as well
    head, tail = 0, 0
    for root in range(block.size):
        if seen[root]:
            continue
        seen[root] = True
        order[tail] = root
        tail += 1
        while head < tail:
            u = order[head]
            head += 1
            mirrored = parent[u] < 0
            for edge in range(indptr[block[u]], indptr[block[u] + 1]):
                v = position[indices[edge]]
                if v < 0 or data[edge] == 0:
                    continue
                if v == u:
                    diagonal[u] = data[edge]
                elif v == parent[u]:
                    mirrored = abs(data[edge] - coupling[u]) <= 1e-9 * abs(coupling[u])
                elif seen[v]:
                    return rhs, False, True
                else:
                    seen[v] = True
                    parent[v] = u
                    coupling[v] = data[edge]
                    order[tail] = v
                    tail += 1
            if not mirrored:
                return rhs, False, True

    pivot, solution, is_regular = diagonal.copy(), rhs.copy(), True
    for u in order[::-1]:
        if abs(pivot[u]) <= 1e-13 * abs(diagonal[u]):
            is_regular = False
            pivot[u] = np.inf
        if parent[u] >= 0:
            message = coupling[u] / pivot[u]
            pivot[parent[u]] -= message * coupling[u]
            solution[parent[u]] -= message * solution[u]
    for u in order:
        if parent[u] >= 0:
            solution[u] -= coupling[u] * solution[parent[u]]
        solution[u] /= pivot[u]
    return solution, True, is_regular


# --- Where it stands ------------------------------------------------------------------------------


class _Point:
    """A point, with all that is known of the problem there."""

    def __init__(self, problem: Problem, x: Floats, predictions: Floats) -> None:
        self.problem, self.x, self.predictions = problem, x, predictions
        self.value = problem.value_at(x, predictions)

    @functools.cached_property
    def gradient(self) -> Floats:
        return self.problem.gradient_at(self.x, self.predictions)

    def hessian(self, block: Indices) -> Floats:
        return self.problem.hessian_at(self.predictions, block)

    def violation(self) -> float:
        """How far the optimality conditions are from holding."""
        x, gradient, l1 = self.x, self.gradient, self.problem.l1
        if self.problem.smooth:
            return float(np.abs(gradient).max())
        violation = np.abs(np.minimum(np.maximum(x, 0), gradient + l1))
        if not self.problem.nonnegative:
            violation = np.maximum(violation, np.abs(np.minimum(np.maximum(-x, 0), l1 - gradient)))
        return float(violation.max())

    def move(self, block: Indices, x_block: Floats) -> _Point:
        x = self.x.copy()
        x[block] = x_block
        change = self.problem.predict_step(block, x_block - self.x[block])
        return _Point(self.problem, x, self.predictions + change)


class _Bounds:
    """H_b and L_b of blocks; those of blocks that recur are computed once."""

    def __init__(self, problem: Problem, n_kept: int) -> None:
        def matrix(block: bytes) -> Floats:
            return problem.block_bound(np.frombuffer(block, np.intp))

        def largest(block: bytes) -> float:
            return max(0.0, float(np.linalg.eigvalsh(self._matrix(block))[-1]))

        self._matrix = functools.lru_cache(n_kept)(matrix)
        self._largest = functools.lru_cache(n_kept)(largest)

    def matrix(self, block: Indices) -> Floats:
        return self._matrix(block.tobytes())

    def largest(self, block: Indices) -> float:
        return self._largest(block.tobytes())


def _divide(numerator: Floats, curvature: Floats) -> Floats:
    """The quotient, 0 where there is no curvature: along such a coordinate nothing changes."""
    return np.divide(numerator, curvature, out=np.zeros_like(numerator), where=curvature > 0)


def _shrink(point: Floats, threshold: float | Floats, nonnegative: bool) -> Floats:
    """The proximal map of threshold |x|_1 and, where asked for, of the constraint x >= 0."""
    if nonnegative:
        return np.maximum(point - threshold, 0)
    return point - np.clip(point, -threshold, threshold)


# --- Which block ----------------------------------------------------------------------------------

Rule = Callable[[_Point], Indices]


def _separable_score(problem: Problem, selection: Selection) -> Callable[[_Point], Floats]:
    """What the score of a block sums over its coordinates."""
    if not problem.smooth:
        return _projected_gain
    if selection == "gs":
        return lambda point: point.gradient**2
    return lambda point: _divide(point.gradient**2, problem.lipschitz)


def _projected_gain(point: _Point) -> Floats:
    """What each coordinate's own step is sure to gain where there is an l1 term or a sign constraint."""
    problem, x = point.problem, point.x
    inverse = _divide(np.ones_like(x), problem.lipschitz)
    step = _shrink(x - inverse * point.gradient, inverse * problem.l1, problem.nonnegative) - x
    gain = -(point.gradient * step + problem.lipschitz * step**2 / 2)
    return gain - problem.l1 * (np.abs(x + step) - np.abs(x))


def _largest(scores: Floats, k: int) -> Indices:
    """The sorted indices of the k largest scores; among equals the first ones."""
    least = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > least)
    return np.sort(np.concatenate([above, np.flatnonzero(scores == least)[: k - above.size]]))


def _permuted(n: int, k: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Blocks of k that go through n coordinates in a new random order each pass."""
    while True:
        order = rng.permutation(n)
        yield from (np.sort(order[start : start + k]) for start in range(0, n, k))


def _variable_rule(problem: Problem, selection: Selection, k: int, rng: np.random.Generator) -> Rule:
    """How a block is put together in each iteration."""
    n = problem.n_variables
    k = min(k, n)
    if selection == "gsq":
        raise ValueError("selection 'gsq' needs a fixed partition, got partition 'variable'; 'gsd' does not")
    if selection == "random":
        return lambda point: np.sort(rng.choice(n, k, replace=False))
    if selection == "cyclic":
        blocks = _permuted(n, k, rng)
        return lambda point: next(blocks)
    if selection == "lipschitz":
        # The k largest of log L_i plus Gumbel noise are a draw without replacement in proportion to L_i.
        with np.errstate(divide="ignore"):
            logs = np.log(problem.lipschitz)
        return lambda point: _largest(logs + rng.gumbel(size=n), k)
    if selection in ("tree", "tree-random"):
        graph = problem.adjacency
        if graph is None:
            raise ValueError(
                f"selection {selection!r} needs a problem with a graph, got {type(problem).__name__}"
            )
        edges = graph.indptr, graph.indices, graph.data
        if selection == "tree-random":
            return lambda point: _grow_forest(rng.permutation(n), *edges)
        return lambda point: _grow_forest(np.argsort(-np.abs(point.gradient), kind="stable"), *edges)
    score = _separable_score(problem, selection)
    return lambda point: _largest(score(point), k)


def _fixed_rule(
    problem: Problem, selection: Selection, blocks: list[Indices], bounds: _Bounds, rng: np.random.Generator
) -> Rule:
    """How one of the blocks of a partition is chosen in each iteration."""
    if selection in ("tree", "tree-random"):
        raise ValueError(f"selection {selection!r} forms its own blocks: it needs partition 'variable'")
    if selection == "random":
        return lambda point: blocks[rng.integers(len(blocks))]
    if selection == "cyclic":
        turns = itertools.cycle(blocks)
        return lambda point: next(turns)
    if selection == "lipschitz":
        constants = np.array([bounds.largest(block) for block in blocks])
        shares = constants / constants.sum() if constants.any() else None
        return lambda point: blocks[rng.choice(len(blocks), p=shares)]

    order = np.concatenate(blocks)
    sizes = [block.size for block in blocks]
    starts = np.cumsum([0, *sizes[:-1]])
    score = _separable_score(problem, selection)
    if problem.smooth and selection == "gsl":
        block_lipschitz = np.empty(order.size)
        block_lipschitz[order] = np.repeat([bounds.largest(block) for block in blocks], sizes)

        def score(point: _Point) -> Floats:
            return _divide(point.gradient**2, block_lipschitz)

    if problem.smooth and selection == "gsq":
        inverses = [linalg.pinvh(bounds.matrix(block)) for block in blocks]
        block_diagonal: Any = sparse.block_diag(inverses, format="csr")
        place = np.argsort(order)
        inverse = block_diagonal[place][:, place]

        def score(point: _Point) -> Floats:
            return cast(Floats, point.gradient * (inverse @ point.gradient))

    return lambda point: blocks[np.argmax(np.add.reduceat(score(point)[order], starts))]


# --- How it moves ---------------------------------------------------------------------------------


def _gradient_step(point: _Point, block: Indices, bounds: _Bounds) -> _Point:
    largest = bounds.largest(block)
    if largest == 0:
        return point
    target = point.x[block] - point.gradient[block] / largest
    return point.move(block, _shrink(target, point.problem.l1 / largest, point.problem.nonnegative))


def _matrix_step(point: _Point, block: Indices, bounds: _Bounds) -> _Point:
    """Minimise the quadratic bound on the block, together with its l1 term and sign constraint."""
    problem, x, slope, bound = point.problem, point.x[block], point.gradient[block], bounds.matrix(block)
    if problem.smooth:
        return point.move(block, x - _solve(bound, slope))
    return point.move(block, _minimise_quadratic(bound, slope, x, problem.l1, problem.nonnegative))


def _solve(matrix: Floats, rhs: Floats) -> Floats:
    """The solution of a positive semidefinite system, the shortest one where it is singular."""
    try:
        factor = linalg.cholesky(matrix, lower=True, check_finite=False)
        pivots = np.diagonal(factor)
        if pivots.min(initial=np.inf) > 1e-7 * pivots.max(initial=0):
            return linalg.cho_solve((factor, True), rhs, check_finite=False)
    except linalg.LinAlgError:
        pass
    return linalg.pinvh(matrix) @ rhs


def _minimise_quadratic(H: Floats, slope: Floats, x: Floats, l1: float, nonnegative: bool) -> Floats:
    """argmin over y of slope.(y - x) + (y - x)'H(y - x)/2 + l1 |y|_1, with y >= 0 where `nonnegative`.

    Lawson and Hanson's active-set method for non-negative least squares, started at x and with a sign for
    each coordinate that is free: minimise over the free ones, stop at the first that reaches zero and fix it
    there; when none does, free the fixed one that gains most.
    """
    top = np.diagonal(H).max()
    H = H + 1e-12 * (top if top > 0 else 1.0) * np.eye(x.size)
    y, sign = x.copy(), np.sign(x)
    barred = np.zeros(x.size, dtype=bool)  # was freed, and by rounding went the wrong way at once
    freed = -1
    # Each y is better than the last, so that a limit, which only rounding could reach, does no harm.
    for _ in range(30 * (x.size + 1)):
        current = slope + H @ (y - x)
        free = np.flatnonzero(sign)
        change = np.linalg.solve(H[np.ix_(free, free)], -(current[free] + l1 * sign[free]))
        crosses = sign[free] * (y[free] + change) <= 0
        if crosses.any():
            way = np.full(free.size, np.inf)
            way[crosses] = np.abs(y[free][crosses]) / np.maximum(np.abs(change[crosses]), 1e-300)
            first = np.argmin(way)
            y[free] += way[first] * change
            y[free[first]] = sign[free[first]] = 0
            barred[free[first]] |= free[first] == freed and way[first] == 0
            continue
        y[free] += change
        current += H[:, free] @ change
        gain = np.where((sign != 0) | barred, -np.inf, (-current if nonnegative else np.abs(current)) - l1)
        freed = int(np.argmax(gain))
        if gain[freed] <= 1e-14 * (l1 + np.abs(slope).max()):
            break
        sign[freed] = -np.sign(current[freed])
    return y


def _newton_step(point: _Point, block: Indices, bounds: _Bounds) -> _Point:
    x, slope = point.x[block], point.gradient[block]
    direction = -_solve(point.hessian(block), slope)
    return _backtrack(point, block, slope, lambda length: x + length * direction)


def _two_metric_step(point: _Point, block: Indices, bounds: _Bounds) -> _Point:
    """A Newton step on coordinates away from zero, a gradient step on those held at zero, both projected.

    With signed l1 it works in the orthant of x, a zero coordinate going to the side to which its gradient
    pushes it, if it does. That is the split x = u - v, u, v >= 0 with min(u, v) = 0 throughout: keeping both
    parts would leave a direction without curvature, along which the method stalls.
    """
    problem, x, slope = point.problem, point.x[block], point.gradient[block]
    if problem.nonnegative:
        sign = np.ones_like(x)
    else:
        sign = np.where(x != 0, np.sign(x), -np.sign(slope) * (np.abs(slope) > problem.l1))
    y, slope = sign * x, sign * slope + problem.l1  # in the orthant y >= 0 the objective is smooth
    residual = linalg.norm(y - np.maximum(0, y - _divide(slope, np.full(y.size, bounds.largest(block)))))
    held = (sign == 0) | ((y <= min(1e-3, residual)) & (slope > 0))
    direction = -_divide(slope, problem.lipschitz[block])
    moving = np.flatnonzero(~held)
    hessian = point.hessian(block[moving]) * np.outer(sign[moving], sign[moving])
    direction[moving] = -_solve(hessian, slope[moving])
    return _backtrack(point, block, sign * slope, lambda length: sign * np.maximum(0, y + length * direction))


def _backtrack(point: _Point, block: Indices, slope: Floats, path: Callable[[float], Floats]) -> _Point:
    """Go along the path to 1, 1/2, 1/4, ... until the objective has fallen enough (Armijo), else stay."""
    for halvings in range(50):
        target = path(0.5**halvings)
        candidate = point.move(block, target)
        expected = 1e-4 * float(slope @ (target - point.x[block]))
        # At the optimum the change is lost in rounding, and a strict test would never pass.
        if candidate.value <= point.value + expected + 1e-13 * (1 + abs(point.value)):
            return candidate
    return point


def _message_passing_step(point: _Point, block: Indices, bounds: _Bounds) -> _Point:
    matrix = cast(LabelPropagation, point.problem).matrix
    gradient = point.gradient[block]
    step, is_forest, _ = _pass_messages(matrix.indptr, matrix.indices, matrix.data, block, gradient)
    if not is_forest:
        raise ValueError("update 'message-passing' needs blocks without cycles, got a block with one")
    return point.move(block, point.x[block] - step)


_UPDATES: dict[Update, Callable[[_Point, Indices, _Bounds], _Point]] = {
    "gradient": _gradient_step,
    "matrix": _matrix_step,
    "projected-newton": _matrix_step,
    "newton": _newton_step,
    "two-metric": _two_metric_step,
    "message-passing": _message_passing_step,
}


# --- The method -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockDescentResult:
    """What `block_coordinate_descent` found.

    Attributes:
        x: the last point, shape (n,).
        values: the objective at the start and after each iteration, shape (n_iterations + 1,).
        blocks: the block of each iteration, sorted.
        n_iterations: how many were made.
        converged: whether the optimality conditions hold to the tolerance at x.
        active_set_iteration: the last iteration, counted from 1, that changed which coordinates are zero;
            0 if none did.
    """

    x: Floats
    values: Floats
    blocks: list[Indices]
    n_iterations: int
    converged: bool
    active_set_iteration: int


def block_coordinate_descent(
    problem: Problem,
    *,
    block_size: int = 5,
    partition: Partition = "variable",
    selection: Selection = "gsd",
    update: Update = "matrix",
    max_iter: int = 500,
    tolerance: float = 1e-10,
    initial: ArrayLike | None = None,
    seed: int | np.random.Generator | None = None,
) -> BlockDescentResult:
    """Minimise a convex problem a block of coordinates at a time.

    Nutini, Laradji and Schmidt (2017), arXiv 1712.08859.

    Args:
        problem: `LeastSquares`, `LogisticRegression`, `MulticlassLogistic` or `LabelPropagation`.
        block_size: coordinates in a block; not used where the blocks are forests or colours.
        partition: "variable" puts a block together anew in each iteration. Else the blocks are fixed:
            "order", "sort" and "average" as in `make_partition`, "tree" and "red-black" as in
            `forest_partition`, by descending L_i.
        selection: which block is next, or which coordinates make it up where it is variable.
            "random"; "cyclic", in a fixed order, a new random one each pass if variable; "lipschitz", at
            random in proportion to L_b, or L_i if variable.
            Greedily: "gs" by |g_b|^2; "gsl" by |g_b|^2 / L_b; "gsd" by the sum of g_i^2 / L_i; "gsq" by
            g_b'H_b^-1 g_b, for fixed blocks only. Variable blocks make "gsl" the same as "gsd"; with l1 or a
            sign constraint all four sum what a projected step of each coordinate alone is sure to gain.
            For graphs: "tree", the greedy forest by descending |g_i|; "tree-random", by a random order.
        update: how the block moves. "gradient" makes a step of 1/L_b, "matrix" minimises the quadratic bound
            with H_b; "newton" takes the Hessian itself, with a line search; "message-passing" solves a block
            without cycles in linear time. With l1 or a sign constraint "gradient" is a proximal step;
            "matrix", then also called "projected-newton", minimises the bound and those together;
            "two-metric" takes the place of "newton".
        max_iter: the most iterations.
        tolerance: stop when the largest violation of an optimality condition is at most this: |g_i|, or with
            x >= 0 |min(x_i, g_i + l1)|, or with signed l1 the same of both parts of x.
        initial: shape (n,); zeros by default.
        seed: for the random rules.

    Returns:
        A `BlockDescentResult`.

    Raises:
        ValueError: for an unknown rule, rules that do not go together or with the problem, a block with a
            cycle in message passing, an infeasible start, or a block size, budget or tolerance out of range.

    >>> import numpy as np
    >>> A = np.random.default_rng(0).normal(size=(50, 20))
    >>> truth = np.r_[1.0, 2.0, 3.0, np.zeros(17)]
    >>> problem = LeastSquares(A, A @ truth, l1=0.1, nonnegative=True)
    >>> result = block_coordinate_descent(problem, selection="gsd", update="two-metric")
    >>> result.converged, np.flatnonzero(result.x).tolist(), result.x[:3].round(1).tolist()
    (True, [0, 1, 2], [1.0, 2.0, 3.0])
    """
    _one_of("partition", partition, Partition)
    _one_of("selection", selection, Selection)
    _one_of("update", update, Update)
    for name, value, least in (
        ("block_size", block_size, 1),
        ("max_iter", max_iter, 0),
        ("tolerance", tolerance, 0),
    ):
        _at_least(name, value, least)
    if problem.smooth and update == "two-metric":
        raise ValueError("update 'two-metric' needs a problem with nonnegative=True or l1 > 0, got neither")
    if not problem.smooth and update == "newton":
        raise ValueError("update 'newton' needs a smooth problem; with l1 or nonnegative take 'two-metric'")
    if problem.adjacency is None and (update == "message-passing" or partition in get_args(GraphPartition)):
        asked = f"update {update!r}" if update == "message-passing" else f"partition {partition!r}"
        raise ValueError(f"{asked} needs a quadratic problem with a graph, got {type(problem).__name__}")
    x = np.zeros(problem.n_variables) if initial is None else _vector("initial", initial, problem.n_variables)
    if problem.nonnegative and (x < 0).any():
        raise ValueError(f"initial must be at least 0 for this problem, got {x.min()}")

    rng = np.random.default_rng(seed)
    if partition == "variable":
        bounds = _Bounds(problem, n_kept=1)
        select = _variable_rule(problem, selection, block_size, rng)
    else:
        if partition == "red-black" or partition == "tree":
            order = np.argsort(-problem.lipschitz, kind="stable")
            blocks = forest_partition(problem.adjacency, kind=partition, order=order)
        else:
            blocks = make_partition(problem.lipschitz, block_size, partition)
        bounds = _Bounds(problem, n_kept=len(blocks))
        select = _fixed_rule(problem, selection, blocks, bounds, rng)

    point = _Point(problem, x, problem.predict(x))
    values, active_set_iteration = [point.value], 0
    chosen: list[Indices] = []
    while not (converged := point.violation() <= tolerance) and len(chosen) < max_iter:
        block = select(point)
        before, point = point, _UPDATES[update](point, block, bounds)
        chosen.append(block)
        values.append(point.value)
        if ((before.x[block] != 0) != (point.x[block] != 0)).any():
            active_set_iteration = len(chosen)
    return BlockDescentResult(point.x, np.array(values), chosen, len(chosen), converged, active_set_iteration)


def active_set_bound(lipschitz: float, strong_convexity: float, distance: float, margin: float) -> float:
    """The most steps of length 1/L after which projected gradient descent has found the zeros of the optimum.

    (L/mu) log(2 L |x0 - x*| / delta), or 0 where the logarithm is negative. Each step brings x nearer by the
    factor 1 - mu/L, and once |x - x*| <= delta / (2 L) a step sends those coordinates to zero.

    Args:
        lipschitz: L, positive.
        strong_convexity: mu, positive and at most L.
        distance: |x0 - x*|, at least 0.
        margin: delta, positive: the least g_i + l1 among the coordinates that are zero at the optimum.

    Raises:
        ValueError: for arguments out of range.

    >>> round(active_set_bound(10, 1, 2, 0.1), 3)
    59.915
    """
    for name, value in (("lipschitz", lipschitz), ("strong_convexity", strong_convexity), ("margin", margin)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and positive, got {value}")
    _at_least("distance", distance, 0)
    if strong_convexity > lipschitz:
        raise ValueError(f"strong_convexity must be at most lipschitz={lipschitz}, got {strong_convexity}")
    ratio = 2 * lipschitz * distance / margin
    return lipschitz / strong_convexity * math.log(ratio) if ratio > 1 else 0.0
