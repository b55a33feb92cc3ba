"""Top-K sparse softmax gating of Gaussian experts, and the losses in which its estimates converge.

Nguyen, Akbarian, Yan and Ho, "Statistical Perspective of Top-K Sparse Softmax Gating Mixture of Experts"
(2023), arXiv 2309.13850.

For each input only the K experts with the largest scores ``beta_1i.x`` are kept; their biases enter after the
selection, and the softmax runs over them alone. With the number of experts known, maximum likelihood recovers
every parameter at the rate ``n^-1/2``. With too many experts the density still converges at that rate if
enough experts are selected (`required_selection`), but an expert that is fitted m times converges in its
parameters at ``n^(-1 / (2 r))`` and ``n^(-1 / r)`` only, with r = `polynomial_order` (m).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay.gating.gaussian_moe import Array, Gate, GaussianMoEParameters, voronoi_cells


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _largest(values: Array, count: int) -> NDArray[np.bool_]:
    """Where the `count` largest values of each row stand; the first of equals goes first."""
    n, k = values.shape
    largest = np.zeros((n, k), dtype=np.bool_)
    for row in range(n):
        for _ in range(count):
            best = -1
            for i in range(k):
                if not largest[row, i] and (best < 0 or values[row, i] > values[row, best]):
                    best = i
            largest[row, best] = True
    return largest


@dataclass(frozen=True)
class TopKGate(Gate):
    """Softmax over the `top_k` experts with the largest scores (arXiv 2309.13850); the others get nothing.

    Arguments:
        top_k: K, how many experts are selected for each input, at least 1.
        rank_by: "slope" selects by ``beta_1.x`` alone, as the paper does; "logit" by ``beta_1.x + beta_0``,
            as is common in practice.

    Of equal scores the first goes first. With as many selected as there are experts it is `SoftmaxGate`.

    Raises ValueError for a `top_k` below 1 or above the number of experts, or an unknown `rank_by`.

    >>> parameters = GaussianMoEParameters(
    ...     gate_weights=[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], gate_biases=[0.0, 1.0, 5.0],
    ...     expert_weights=np.zeros((3, 2)), expert_biases=np.zeros(3), variances=np.ones(3))
    >>> TopKGate(top_k=2).logits([[2.0, 1.0]], parameters)
    array([[  2.,   2., -inf]])
    """

    top_k: int
    rank_by: Literal["slope", "logit"] = "slope"

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.rank_by not in ("slope", "logit"):
            raise ValueError(f"rank_by must be 'slope' or 'logit', got {self.rank_by!r}")

    def select(self, scores: Array, biases: Array) -> NDArray[np.bool_]:
        """Which experts are among the `top_k`, (n, k), given scores (n, k) and biases (k,)."""
        if self.top_k > len(biases):
            raise ValueError(f"top_k must be at most the number of experts {len(biases)}, got {self.top_k}")
        ranking = scores if self.rank_by == "slope" else scores + biases
        selected: NDArray[np.bool_] = _largest(ranking, self.top_k)
        return selected


def selected_experts(X: ArrayLike, parameters: GaussianMoEParameters, gate: TopKGate) -> NDArray[np.intp]:
    """Indices of the experts that the gate selects at each row of X, (n, d): (n, top_k), each row ascending.

    Raises ValueError for an X of another d or not finite, and a gate that selects more than there are.
    """
    logits = gate.logits(X, parameters)
    return np.nonzero(logits > -np.inf)[1].reshape(len(logits), gate.top_k)


def polynomial_order(n_atoms: int) -> int:
    """The order r at which an expert fitted `n_atoms` times can be told apart (arXiv 2309.13850).

    Its gate weights and biases then converge at ``n^(-1 / (2 r))``, its slopes and variances at
    ``n^(-1 / r)``: r is the smallest order at which a system of polynomial equations has only the trivial
    solution. It is known for up to three atoms: 1, 4 and 6. Raises ValueError for others.

    >>> polynomial_order(2)
    4
    """
    try:
        return {1: 1, 2: 4, 3: 6}[n_atoms]
    except KeyError:
        raise ValueError(f"n_atoms must be 1, 2 or 3 (beyond, the order is unknown), got {n_atoms}") from None


def required_selection(cell_sizes: Sequence[int], top_k: int) -> int:
    """How many experts a fit must select at least, if true expert j is fitted ``cell_sizes[j]`` times.

    The largest total of `top_k` cells: with fewer, densities near the truth's cannot be reached from such
    fits (arXiv 2309.13850). Without knowing the cells, ``top_k + (k fitted - k true)`` is always enough.

    Raises ValueError for a `top_k` outside 1 to the number of cells, or a negative size.

    >>> required_selection((1, 3, 1, 2), top_k=2)
    5
    """
    _check_top_k(top_k, len(cell_sizes))
    if min(cell_sizes) < 0:
        raise ValueError(f"cell_sizes must not be negative, got {tuple(cell_sizes)}")
    return sum(sorted(cell_sizes)[-top_k:])


def exact_voronoi_loss(fitted: GaussianMoEParameters, true: GaussianMoEParameters, top_k: int) -> float:
    """Loss D1 between mixing measures for a known number of experts (arXiv 2309.13850).

    A true atom's cell holds the fitted atoms nearest to it and costs the difference in mass plus, mass by
    mass, the distances in gate weights, slopes, biases and variances. The loss is the largest sum over
    `top_k` cells. The density does not change under translations of the gate, the loss does: `align` first.

    Raises ValueError for models of different d or a `top_k` outside 1 to the number of true experts.

    >>> true = GaussianMoEParameters([[1.0], [0.0]], [0.0, 0.0], [[1.0], [-1.0]], [0.0, 3.0], [0.1, 0.2])
    >>> exact_voronoi_loss(true, true, top_k=2)
    0.0
    """
    return _voronoi_loss(fitted, true, top_k, np.ones(fitted.n_experts))


def over_specified_voronoi_loss(
    fitted: GaussianMoEParameters, true: GaussianMoEParameters, top_k: int
) -> float:
    """Loss D2 between mixing measures for a fit with too many experts (arXiv 2309.13850).

    As `exact_voronoi_loss`, but in a cell of m > 1 atoms the distances count to a power: r for gate weights
    and biases, r / 2 for slopes and variances, r = `polynomial_order` (m). Beyond 3 atoms, where only
    r >= 7 is known, r is taken as 7.

    Raises ValueError for models of different d or a `top_k` outside 1 to the number of true experts.
    """
    cells = voronoi_cells(fitted, true)
    sizes = np.bincount(cells, minlength=true.n_experts)
    orders = np.array([polynomial_order(size) if size <= 3 else 7 for size in sizes.clip(1)])
    return _voronoi_loss(fitted, true, top_k, orders[cells].astype(float))


def _voronoi_loss(
    fitted: GaussianMoEParameters, true: GaussianMoEParameters, top_k: int, orders: Array
) -> float:
    """`orders` holds r for each fitted atom."""
    _check_top_k(top_k, true.n_experts)
    cells = voronoi_cells(fitted, true)
    # In a cell of one atom all distances count to the first power, so the halved order stops at 1.
    halved = np.maximum(orders / 2, 1.0)
    deviations = (
        np.linalg.norm(fitted.gate_weights - true.gate_weights[cells], axis=1) ** orders
        + np.linalg.norm(fitted.expert_weights - true.expert_weights[cells], axis=1) ** halved
        + np.abs(fitted.expert_biases - true.expert_biases[cells]) ** orders
        + np.abs(fitted.variances - true.variances[cells]) ** halved
    )

    members = cells == np.arange(true.n_experts)[:, None]
    costs = np.abs(members @ fitted.masses - true.masses) + members @ (fitted.masses * deviations)
    return float(np.sort(costs)[-top_k:].sum())


def _check_top_k(top_k: int, n_cells: int) -> None:
    if not 1 <= top_k <= n_cells:
        raise ValueError(f"top_k must be between 1 and the number of cells {n_cells}, got {top_k}")
