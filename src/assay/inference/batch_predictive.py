"""Batch predictive inference: distribution-free statements about a function of a batch of unseen scores.

Lee, Tchetgen Tchetgen and Dobriban, "Batch Predictive Inference" (2024), arXiv 2409.13990.

Let n calibration scores S and m unseen test scores T be exchangeable, both sorted, and let

    R_i = min { r in 1..n+1 : T_(i) <= S_(r) },      S_(0) = lower,  S_(n+1) = upper,

be the rank of the i-th smallest test score. Whatever the law of the scores, R is uniform on the
nondecreasing vectors in {1..n+1}^m (ties only make what follows conservative). For a region of rank vectors
of mass 1 - alpha, and a batch score g that grows with its arguments, the largest g(S_(R_1) .. S_(R_m)) over
the region is therefore an upper bound of g(T) with probability 1 - alpha, and the smallest
g(S_(R_1 - 1) .. S_(R_m - 1)) a lower bound. The region is cut out by a rank ordering function h, at a
quantile of its exact law. Where g and h are compositional, taking their arguments one by one in ascending
order, both that law and the extremes come from a dynamic program.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain, combinations
from numbers import Integral
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Side = Literal["two-sided", "upper", "lower"]
Bounds = Callable[[int, int], tuple[float, float]]

_ROUNDING = 1e-12  # a cumulative mass this little short of its target is taken to reach it
_MOST_SUBSETS = 2_000_000


@dataclass(frozen=True)
class BatchInterval:
    """What holds of a batch score with probability at least `coverage` (Lee et al. 2024, arXiv 2409.13990).

    Attributes:
        lower: lower bound of the score; -inf for an upper side.
        upper: upper bound of the score; +inf for a lower side.
        coverage: exact mass of the region of rank vectors that gives the bounds.
        rank_bounds: smallest and largest rank, or value of the rank ordering function, in the region.
    """

    lower: float
    upper: float
    coverage: float
    rank_bounds: tuple[int, int]


@dataclass(frozen=True)
class Selection:
    """Test points of which few are falsely claimed (Lee et al. 2024, arXiv 2409.13990).

    Attributes:
        selected: (m,) booleans.
        cutoff: a point is selected if its prediction exceeds it.
        rank: the calibration rank, in 1..n+1, at which the cutoff stands.
        error_bound: probability that more points than allowed are selected falsely, at most.
    """

    selected: NDArray[np.bool_]
    cutoff: float
    rank: int
    error_bound: float


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _require_order(name: str, order: object, n_test: int) -> None:
    if not isinstance(order, Integral) or not 1 <= int(order) <= n_test:
        raise ValueError(f"{name} must be an integer from 1 to n_test = {n_test}, got {order!r}")


def _require_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha!r}")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _vector(name: str, values: ArrayLike) -> Array:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be a non-empty vector, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} must be finite, got {vector[~np.isfinite(vector)][0]} in it")
    return vector


def _checked_scores(calibration: ArrayLike, lower: float, upper: float) -> Array:
    scores = _vector("calibration", calibration)
    if not lower <= scores.min():
        raise ValueError(f"lower must be at most the least calibration score {scores.min()}, got {lower!r}")
    if not upper >= scores.max():
        raise ValueError(
            f"upper must be at least the greatest calibration score {scores.max()}, got {upper!r}"
        )
    return scores


def _padded(calibration: ArrayLike, lower: float, upper: float) -> Array:
    """(n+2,) sorted scores between the pads, so that entry r is S_(r)."""
    scores = _checked_scores(calibration, lower, upper)
    return np.concatenate(([lower], np.sort(scores), [upper]))


# --------------------------------------------------------------------------------------------- the scores


def _add_weighted(weights: NDArray[Any], i: int, state: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
    weight = weights[i - 1]
    # A pad may be infinite, and 0 * inf is NaN.
    return state + weight * value if weight else state


@dataclass(frozen=True)
class BatchScore:
    """A score of a batch and the order that it puts on rank vectors, both compositional.

    From Lee, Tchetgen Tchetgen and Dobriban (2024), arXiv 2409.13990. Of the sorted scores s_(1) .. s_(m) and
    of their ranks r_1 .. r_m are taken

        a_i = score_step(i, a_(i-1), s_(i)),    b_i = rank_step(i, b_(i-1), r_i),    i = 1 .. m,

    from ``a_0 = score_initial`` and ``b_0 = rank_initial``; a_m is the batch score and b_m orders the ranks.
    Both steps must be nondecreasing in their second and third argument, must not depend on the calibration
    scores, and work elementwise on arrays of one shape; ranks are integers. `mean` and `l_statistic` make
    the common ones.

    Arguments:
        n_test: number m of scores in the batch.
        score_step: ``(i, a, s) -> a`` on float arrays.
        rank_step: ``(i, b, r) -> b`` on integer arrays.
        score_initial: a_0.
        rank_initial: b_0.

    Raises:
        ValueError: n_test is not a positive integer.

    >>> largest = BatchScore(3, lambda i, a, s: np.maximum(a, s), lambda i, b, r: r, score_initial=-np.inf)
    >>> batch_interval([0.1, 0.2, 0.4, 0.5, 0.7, 0.9], 3, largest, alpha=0.4, side="upper").upper
    0.9
    """

    n_test: int
    score_step: Callable[[int, Array, Array], Array]
    rank_step: Callable[[int, Integers, Integers], Integers]
    score_initial: float = 0.0
    rank_initial: int = 0

    def __post_init__(self) -> None:
        _require_count("n_test", self.n_test)

    @classmethod
    def mean(cls, n_test: int) -> BatchScore:
        """The mean of the batch, with ranks ordered by their sum.

        >>> BatchScore.mean(4).n_test
        4
        """
        _require_count("n_test", n_test)
        return _Mean(
            n_test,
            score_step=partial(_add_weighted, np.full(n_test, 1 / n_test)),
            rank_step=partial(_add_weighted, np.ones(n_test, dtype=np.int64)),
        )

    @classmethod
    def l_statistic(cls, weights: ArrayLike, rank_weights: ArrayLike | None = None) -> BatchScore:
        """The L-statistic ``sum_i weights[i-1] s_(i)``, its ranks ordered by ``sum_i rank_weights[i-1] r_i``.

        Arguments:
            weights: (m,), at least 0, not all 0.
            rank_weights: (m,) integers, at least 0, not all 0; by default 1 where the weight is positive.

        Raises:
            ValueError: weights other than these.

        >>> trimmed_mean = BatchScore.l_statistic([0, 0.5, 0.5, 0])
        >>> rank_ordering_distribution(5, 4, trimmed_mean)[0].tolist()
        [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
        """
        w = _vector("weights", weights)
        c = (w > 0).astype(np.float64) if rank_weights is None else _vector("rank_weights", rank_weights)
        for name, vector in (("weights", w), ("rank_weights", c)):
            if (vector < 0).any() or not vector.any():
                raise ValueError(f"{name} must be at least 0 and not all 0, got {vector.tolist()}")
        if c.shape != w.shape:
            raise ValueError(f"rank_weights must have the length {w.size} of weights, got {c.size}")
        if (c != np.round(c)).any():
            raise ValueError(f"rank_weights must be integers, got {c.tolist()}")
        return cls(
            w.size,
            score_step=partial(_add_weighted, w),
            rank_step=partial(_add_weighted, c.astype(np.int64)),
        )

    def _law(self, n_calibration: int) -> tuple[Integers, Array]:
        return _run_program(self, n_calibration, [])[:2]

    def _solve(self, padded: Array, side: Side) -> tuple[Integers, Array, Bounds]:
        """Values and law of the rank ordering, and the bounds of the score over an interval of values."""
        largest = _Extreme(np.maximum, -np.inf, padded[1:]) if side != "lower" else None
        smallest = _Extreme(np.minimum, np.inf, padded[:-1]) if side != "upper" else None
        extremes = [extreme for extreme in (largest, smallest) if extreme is not None]
        values, probabilities, found = _run_program(self, padded.size - 2, extremes)
        upper = found[0] if largest is not None else np.full(values.size, np.inf)
        lower = found[-1] if smallest is not None else np.full(values.size, -np.inf)

        def bounds(first: int, last: int) -> tuple[float, float]:
            region = (first <= values) & (values <= last)
            return float(lower[region].min()), float(upper[region].max())

        return values, probabilities, bounds

    def _evaluate(self, sorted_scores: Array) -> Array:
        """(k,) scores of k batches, given (k, m) ascending within each."""
        state = np.full(len(sorted_scores), float(self.score_initial))
        for i in range(1, self.n_test + 1):
            state = self.score_step(i, state, sorted_scores[:, i - 1])
        return state


@dataclass(frozen=True)
class _Mean(BatchScore):
    """The mean does not depend on the order of its arguments, which makes for closed forms of both parts."""

    def _law(self, n_calibration: int) -> tuple[Integers, Array]:
        m = self.n_test
        return np.arange(m, m * (n_calibration + 1) + 1, dtype=np.int64), _rank_sum_pmf(n_calibration, m)

    def _solve(self, padded: Array, side: Side) -> tuple[Integers, Array, Bounds]:
        m, n_ranks = self.n_test, padded.size - 1

        def bounds(first: int, last: int) -> tuple[float, float]:
            lower, upper = -np.inf, np.inf
            if side != "lower":
                upper = _largest_sums(padded[1:] / m, m, last, last)[0]
            if side != "upper":
                # The least sum of given total rank is the largest one of the negated, reversed scores.
                mirrored = m * (n_ranks + 1) - first
                lower = -_largest_sums(-padded[-2::-1] / m, m, mirrored, mirrored)[0]
            return float(lower), float(upper)

        return *self._law(n_ranks - 1), bounds


# ----------------------------------------------------------------------------- the general dynamic program


@dataclass(frozen=True)
class _Extreme:
    """What the program seeks for each value of h: `better` of two scores, from `worst`; rank r has [r-1]."""

    better: np.ufunc
    worst: float
    scores: Array


def _tabulate(integers: Integers) -> tuple[Integers, Integers]:
    """The distinct values, ascending, and the position of each entry among them."""
    low, high = int(integers.min()), int(integers.max())
    if high - low > 16 * integers.size:
        values, positions = np.unique(integers, return_inverse=True)
        return values, positions
    # Marking them in a table takes a tenth of the time of sorting, if the table is not much larger.
    offsets = integers - low
    present = np.zeros(high - low + 1, dtype=bool)
    present[offsets] = True
    return np.flatnonzero(present) + low, (np.cumsum(present) - 1)[offsets]


def _run_program(
    score: BatchScore, n_calibration: int, extremes: list[_Extreme]
) -> tuple[Integers, Array, list[Array]]:
    """Reachable values of h, ascending, their law, and for each of them the extreme scores.

    Layer i holds a state for each pair of last rank (rows) and value of b_i (columns). Uniform rank vectors
    are those of a random shuffle of n calibration and m test points: at rank r with `left` test points to
    come, the next point is a test point with probability left / (left + n + 1 - r), else the rank rises.
    Mass moves by these steps, so that nothing larger than 1 is met, however large n and m are.
    """
    ranks = np.arange(1, n_calibration + 2)
    values = np.array([score.rank_initial], dtype=np.int64)
    reached = np.arange(n_calibration + 1)[:, None] == 0
    mass = reached.astype(np.float64)
    found = [np.where(reached, float(score.score_initial), extreme.worst) for extreme in extremes]

    for i in range(1, score.n_test + 1):
        rows, columns = np.nonzero(np.logical_or.accumulate(reached, axis=0))
        moved = np.asarray(score.rank_step(i, values[columns], ranks[rows]))
        if moved.shape != rows.shape or not np.issubdtype(moved.dtype, np.integer):
            raise ValueError(
                "rank_step must return integers in the shape of its arguments, "
                f"got {moved.dtype} of shape {moved.shape} for {rows.shape}"
            )
        values, positions = _tabulate(moved)
        shape = (n_calibration + 1, values.size)
        target = rows * values.size + positions
        reached = np.zeros(shape, dtype=bool)
        reached.flat[target] = True

        left = score.n_test - i + 1
        stop = left / (left + n_calibration + 1 - ranks)
        for r in range(1, n_calibration + 1):
            mass[r] += mass[r - 1] * (1 - stop[r - 1])
        arriving = mass[rows, columns] * stop[rows]
        mass = np.bincount(target, arriving, minlength=reached.size).reshape(shape)

        for k, extreme in enumerate(extremes):
            before = extreme.better.accumulate(found[k], axis=0)[rows, columns]
            after = np.full(reached.size, extreme.worst)
            extreme.better.at(after, target, score.score_step(i, before, extreme.scores[rows]))
            found[k] = after.reshape(shape)

    by_value = [extreme.better.reduce(best, axis=0) for extreme, best in zip(extremes, found, strict=True)]
    return values, mass.sum(axis=0), by_value


# ------------------------------------------------------------------------------------ the mean of the batch


def _next_prime(above: int) -> int:
    candidate = above + 1
    while any(candidate % divisor == 0 for divisor in range(2, math.isqrt(candidate) + 1)):
        candidate += 1
    return candidate


def _rank_sum_pmf(n_calibration: int, n_test: int) -> Array:
    """Law of sum(R_i - 1) on 0..nm: that of the Mann-Whitney U statistic, by its characteristic function.

    At the frequencies 2 pi k / N it is exp(-i pi k n m / N) prod_i (i / (n + i)) sin((n + i) x) / sin(i x),
    x = pi k / N. A prime N keeps the denominators from 0.

    N need not span all values. As sinh(a) / a over sinh(b) / b is at most exp((a^2 - b^2) / 6) for a >= b,
    the law is sub-Gaussian with its own variance: what lies 9.2 deviations from the mean, and is counted at
    another place, has less than 1e-18 of the mass.
    """
    n, m = max(n_calibration, n_test), min(n_calibration, n_test)
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    first = max(0, math.floor(n * m / 2 - 9.2 * deviation))
    window = np.arange(first, n * m - first + 1)
    N = _next_prime(max(window.size, 2))
    half_turn = np.arange(N)
    # All angles are reduced as integers, so that sines near 0 keep their digits.
    sine = np.sin(np.pi / N * np.minimum(half_turn, N - half_turn))
    phase = np.exp(-1j * np.pi / N * (np.arange((N + 1) // 2, dtype=np.int64) * (n * m) % (2 * N)))
    wrapped = np.fft.irfft(_sine_products(n, m, np.concatenate((sine, -sine))) * phase, N)
    pmf = np.zeros(n * m + 1)
    pmf[window] = np.maximum(wrapped[window % N], 0.0)
    return pmf


@numba.njit(cache=True)
def _sine_products(n: int, m: int, sine: Array) -> Array:
    """The products over i for k = 0 .. (N-1)/2; `sine` holds a full turn in 2N steps."""
    turn = sine.size
    products = np.ones((turn // 2 + 1) // 2)
    for k in range(1, products.size):
        product, upper, lower = 1.0, n * k % turn, 0
        for i in range(1, m + 1):
            upper += k
            upper -= turn if upper >= turn else 0
            lower += k
            lower -= turn if lower >= turn else 0
            # In this order every partial product is itself a characteristic function: none exceeds 1.
            product *= sine[upper] / sine[lower] * (i / (n + i))
        products[k] = product
    return products


def _largest_sums(values: Array, n_items: int, low: int, high: int) -> Array:
    """Largest sum of `n_items` values whose 1-based positions sum to each total in low..high.

    As `values` ascend, it is also the largest for a total of at most that. An optimal choice, sorted and
    dealt alternately to two halves, gives them totals that differ by less than the number of values. So only
    a window of totals of a few times this length is needed of the half, and of its half in turn: the cost is
    O(n^2 log m), where a table of all totals would take O(n^2 m^2).
    """
    if n_items == 1:
        return values[low - 1 : high]
    if n_items % 2:
        first = max(low - values.size, n_items - 1)
        last = min(high - 1, (n_items - 1) * values.size)
        return _with_one_more(_largest_sums(values, n_items - 1, first, last), first, values, low, high)
    half, apart = n_items // 2, values.size - 1
    first = max((low - apart + 1) // 2, half)
    last = min((high + apart) // 2, half * values.size)
    return _with_as_many_more(_largest_sums(values, half, first, last), first, apart, low, high)


@numba.njit(cache=True)
def _with_one_more(sums: Array, first: int, values: Array, low: int, high: int) -> Array:
    result = np.full(high - low + 1, -np.inf)
    for position in range(1, values.size + 1):
        value = values[position - 1]
        start = max(low, first + position)
        stop = min(high, first + sums.size - 1 + position)
        for total in range(start, stop + 1):
            result[total - low] = max(result[total - low], sums[total - position - first] + value)
    return result


@numba.njit(cache=True)
def _with_as_many_more(sums: Array, first: int, apart: int, low: int, high: int) -> Array:
    last = first + sums.size - 1
    result = np.empty(high - low + 1)
    for total in range(low, high + 1):
        largest = -np.inf
        for lesser in range(max(first, (total - apart + 1) // 2, total - last), total // 2 + 1):
            largest = max(largest, sums[lesser - first] + sums[total - lesser - first])
        result[total - low] = largest
    return result


# ------------------------------------------------------------------------------------------- what one calls


def order_rank_pmf(n_calibration: int, n_test: int, order: int) -> Array:
    """Law of the rank of one order statistic of the batch among the calibration scores.

    From Lee, Tchetgen Tchetgen and Dobriban (2024), arXiv 2409.13990; the rank less 1 is beta-binomial.

    Arguments:
        n_calibration: number n of calibration scores.
        n_test: number m of test scores.
        order: which of the sorted test scores, in 1..m.

    Returns:
        (n+1,) probabilities; entry k-1 is P(R_order = k).

    Raises:
        ValueError: an argument that is not an integer or is out of its range.

    >>> order_rank_pmf(3, 2, order=1).round(12).tolist()
    [0.4, 0.3, 0.2, 0.1]
    """
    _require_count("n_calibration", n_calibration)
    _require_count("n_test", n_test)
    _require_order("order", order, n_test)
    return _order_rank_pmf(n_calibration, n_test, order)


@numba.njit(cache=True)
def _order_rank_pmf(n: int, m: int, z: int) -> Array:
    # From ratios of neighbours: binomial coefficients overflow, and log-gammas lose four digits.
    logarithms = np.zeros(n + 1)
    for k in range(1, n + 1):
        ratio = (k + z - 1) * (n + 1 - k) / (k * (n + m - k - z + 1))
        logarithms[k] = logarithms[k - 1] + np.log(ratio)
    pmf: Array = np.exp(logarithms - logarithms.max())
    pmf /= pmf.sum()
    return pmf


def _central_region(
    values: Integers, probabilities: Array, alpha: float, side: Side
) -> tuple[int, int, float]:
    """Ends and mass of the interval of values that leaves out at most alpha, half at each of two sides."""
    target = 1 - (alpha / 2 if side == "two-sided" else alpha) - _ROUNDING
    first, last = 0, values.size - 1
    if side != "lower":
        last = min(last, int(np.searchsorted(np.cumsum(probabilities), target)))
    if side != "upper":
        first = max(first, values.size - 1 - int(np.searchsorted(np.cumsum(probabilities[::-1]), target)))
    return int(values[first]), int(values[last]), min(1.0, float(probabilities[first : last + 1].sum()))


@numba.njit(cache=True)
def _mass_by_widening(n: int, m: int, z1: int, z2: int, start: int, end: int) -> Array:
    """Mass of the pairs R_z1, R_z2 that enter {R_z1 >= start - t, R_z2 <= end + t} at t = 0 .. n+1."""
    mass = np.zeros(n + 2)
    for r1, probability in enumerate(_order_rank_pmf(n, m, z1), 1):
        # After the z1-th test point the rest of the shuffle is a smaller shuffle.
        for step, share in enumerate(_order_rank_pmf(n + 1 - r1, m - z1, z2 - z1)):
            mass[max(r1 + step - end, start - r1, 0)] += probability * share
    return mass


def _order_pair_region(n: int, m: int, orders: tuple[int, int], alpha: float) -> tuple[int, int, float]:
    """Ranks l, u and mass of {R_z1 >= l, R_z2 <= u}: the least widening around both centres that suffices."""
    start, end = (math.floor((n + 1) * z / (m + 1) + 0.5) for z in orders)
    covered = np.cumsum(_mass_by_widening(n, m, *orders, start, end))
    t = min(int(np.searchsorted(covered, 1 - alpha - _ROUNDING)), n + 1)
    return max(1, start - t), min(n + 1, end + t), min(1.0, float(covered[t]))


def order_statistic_interval(
    calibration: ArrayLike,
    n_test: int,
    order: int | tuple[int, int],
    alpha: float,
    *,
    side: Side = "two-sided",
    lower: float = -np.inf,
    upper: float = np.inf,
) -> BatchInterval:
    """Bounds of one sorted score of the batch, or an interval that holds all from one to another.

    From Lee, Tchetgen Tchetgen and Dobriban (2024), arXiv 2409.13990. With ``order = ceil((1 - delta) * m)``
    the upper side is a simultaneous prediction bound: with probability 1 - alpha, at least the share
    1 - delta of the batch does not exceed it. ``order = (1, m)`` bounds the whole batch.

    Arguments:
        calibration: (n,) scores.
        n_test: number m of test scores.
        order: which of the sorted test scores, in 1..m; or two of them, ascending, to be bounded at once:
            the first from below, the second from above.
        alpha: probability, in (0, 1), with which the statement may fail.
        side: "two-sided" (the only one for two orders), "upper" or "lower".
        lower: a known least value of the score.
        upper: a known greatest value of the score.

    Returns:
        A `BatchInterval` with ranks in 1..n+1.

    Raises:
        ValueError: an argument out of its range, or scores that are not a finite vector within the pads.

    >>> interval = order_statistic_interval(range(1, 21), n_test=8, order=4, alpha=0.1, side="upper")
    >>> interval.upper, interval.rank_bounds, round(interval.coverage, 3)
    (15.0, (1, 15), 0.923)
    """
    _require_count("n_test", n_test)
    _require_alpha(alpha)
    _require_choice("side", side, ("two-sided", "upper", "lower"))
    padded = _padded(calibration, lower, upper)
    n = padded.size - 2
    if isinstance(order, tuple):
        if len(order) != 2 or not order[0] < order[1]:
            raise ValueError(f"order must be an integer or two ascending ones, got {order!r}")
        for one in order:
            _require_order("order", one, n_test)
        if side != "two-sided":
            raise ValueError(f"side must be two-sided with two orders, got {side!r}")
        first, last, coverage = _order_pair_region(n, n_test, order, alpha)
    else:
        pmf = order_rank_pmf(n, n_test, order)
        first, last, coverage = _central_region(np.arange(1, n + 2), pmf, alpha, side)
    return BatchInterval(
        lower=-np.inf if side == "upper" else float(padded[first - 1]),
        upper=np.inf if side == "lower" else float(padded[last]),
        coverage=coverage,
        rank_bounds=(first, last),
    )


def _require_same_size(n_test: int, score: BatchScore) -> None:
    _require_count("n_test", n_test)
    if n_test != score.n_test:
        raise ValueError(f"n_test must be the {score.n_test} of the score, got {n_test}")


def rank_ordering_distribution(n_calibration: int, n_test: int, score: BatchScore) -> tuple[Integers, Array]:
    """Exact law of the rank ordering function of a score, whatever the law of the data.

    From Lee, Tchetgen Tchetgen and Dobriban (2024), arXiv 2409.13990.

    Arguments:
        n_calibration: number n of calibration scores.
        n_test: number m of test scores, that of the score.
        score: a `BatchScore`.

    Returns:
        The reachable values, ascending, and their probabilities, of one length.

    Raises:
        ValueError: a number that is not a positive integer, or an n_test that is not the score's.

    >>> values, probabilities = rank_ordering_distribution(2, 2, BatchScore.mean(2))
    >>> values.tolist(), (6 * probabilities).round(9).tolist()
    ([2, 3, 4, 5, 6], [1.0, 1.0, 2.0, 1.0, 1.0])
    """
    _require_count("n_calibration", n_calibration)
    _require_same_size(n_test, score)
    return score._law(n_calibration)


def batch_interval(
    calibration: ArrayLike,
    n_test: int,
    score: BatchScore,
    alpha: float,
    *,
    side: Side = "two-sided",
    lower: float = -np.inf,
    upper: float = np.inf,
) -> BatchInterval:
    """Bounds of a score of the unseen batch, such as its mean, that hold for every law of the data.

    From Lee, Tchetgen Tchetgen and Dobriban (2024), arXiv 2409.13990. The optimum over all rank vectors of
    the region is exact. Where scores have no known bound, neither has their mean, as soon as the region lets
    one test score exceed all calibration scores: give `lower` and `upper`.

    Arguments:
        calibration: (n,) scores, exchangeable with those of the batch.
        n_test: number m of test scores, that of the score.
        score: a `BatchScore`.
        alpha: probability, in (0, 1), with which the statement may fail; half of it at each end if two-sided.
        side: "two-sided", "upper" or "lower".
        lower: a known least value of a single score.
        upper: a known greatest value of a single score.

    Returns:
        A `BatchInterval` with values of the rank ordering function.

    Raises:
        ValueError: an argument out of its range, or scores that are not a finite vector within the pads.

    >>> calibration = [0.1, 0.2, 0.4, 0.5, 0.7, 0.9]
    >>> interval = batch_interval(calibration, 3, BatchScore.mean(3), alpha=0.2, lower=0, upper=1)
    >>> round(interval.lower, 3), round(interval.upper, 3), interval.rank_bounds, round(interval.coverage, 3)
    (0.133, 0.833, (7, 17), 0.833)
    """
    _require_same_size(n_test, score)
    _require_alpha(alpha)
    _require_choice("side", side, ("two-sided", "upper", "lower"))
    values, probabilities, bounds = score._solve(_padded(calibration, lower, upper), side)
    first, last, coverage = _central_region(values, probabilities, alpha, side)
    return BatchInterval(*bounds(first, last), coverage, (first, last))


def select_test_points(
    predictions: ArrayLike,
    outcomes: ArrayLike,
    test_predictions: ArrayLike,
    threshold: float,
    alpha: float,
    *,
    max_false: int = 0,
) -> Selection:
    """Selects test points whose outcome is claimed to exceed a threshold, of which few are false.

    From Lee, Tchetgen Tchetgen and Dobriban (2024), arXiv 2409.13990: with probability 1 - alpha at most
    `max_false` of the selected points have an outcome of at most `threshold`. With 0, that is control of the
    family-wise error rate.

    Arguments:
        predictions: (n,) predicted outcomes of the calibration points.
        outcomes: (n,) their outcomes.
        test_predictions: (m,) predicted outcomes of the test points.
        threshold: what an outcome is claimed to exceed.
        alpha: probability, in (0, 1), with which more than `max_false` claims may be false.
        max_false: number of false claims allowed, in 0..m-1.

    Returns:
        A `Selection`.

    Raises:
        ValueError: an argument out of its range, or vectors that are not finite or not of one length.

    >>> selection = select_test_points(
    ...     predictions=[3, 1, 4, 1, 5, 9, 2, 6], outcomes=[0, 1, 0, 1, 1, 1, 0, 0],
    ...     test_predictions=[0.5, 4.5, 7], threshold=0.5, alpha=0.4, max_false=1)
    >>> selection.selected.tolist(), selection.cutoff, round(selection.error_bound, 3)
    ([False, True, True], 3.0, 0.279)
    """
    predicted, observed = _vector("predictions", predictions), _vector("outcomes", outcomes)
    candidates = _vector("test_predictions", test_predictions)
    if observed.shape != predicted.shape:
        raise ValueError(f"outcomes must have the {predicted.size} of predictions, got {observed.size}")
    if np.isnan(threshold):
        raise ValueError(f"threshold must be a number, got {threshold!r}")
    _require_alpha(alpha)
    m = candidates.size
    if not isinstance(max_false, Integral) or not 0 <= max_false < m:
        raise ValueError(f"max_false must be an integer from 0 to {m - 1}, got {max_false!r}")
    # The score of a point whose claim is true lies below every cutoff: only false claims are counted.
    scores = np.sort(np.where(observed <= threshold, predicted, -np.inf))
    pmf = _order_rank_pmf(scores.size, m, m - max_false)
    rank = _central_region(np.arange(1, scores.size + 2), pmf, alpha, "upper")[1]
    cutoff = float(scores[rank - 1]) if rank <= scores.size else np.inf
    return Selection(candidates > cutoff, cutoff, rank, float(pmf[rank:].sum()))


def _smallest_reaching(share: float, total: int) -> int:
    """The least whole number of at least ``share * total``, in exact arithmetic: `total` may be huge."""
    return max(1, math.ceil((Fraction(share) - Fraction(_ROUNDING)) * total))


def baseline_interval(
    calibration: ArrayLike,
    n_test: int,
    score: BatchScore,
    alpha: float,
    *,
    method: Literal["partition", "subsets"] = "partition",
    lower: float = -np.inf,
    upper: float = np.inf,
) -> BatchInterval:
    """Upper bound of a batch score by one-point conformal prediction on whole batches, to compare with.

    The two baselines of Lee, Tchetgen Tchetgen and Dobriban (2024), arXiv 2409.13990, as derived from their
    description. "partition" cuts the calibration scores, in the order given, into disjoint batches. "subsets"
    takes every subset of m of the pooled scores for a batch and counts those with an unseen score as the
    largest possible. If there are too few batches, the bound is the score of a batch of `upper`.

    Arguments:
        calibration: (n,) scores.
        n_test: number m of test scores, that of the score.
        score: a `BatchScore`.
        alpha: probability, in (0, 1), with which the bound may fail.
        method: "partition" or "subsets".
        lower: a known least value of a single score.
        upper: a known greatest value of a single score.

    Returns:
        A `BatchInterval` of the upper side; its ranks are those of the bound among the batches.

    Raises:
        ValueError: an argument out of its range, scores that are not a finite vector within the pads, or more
            than 2,000,000 subsets to evaluate.

    >>> baseline_interval(range(1, 21), 2, BatchScore.mean(2), alpha=0.2).upper
    17.5
    """
    _require_same_size(n_test, score)
    _require_alpha(alpha)
    _require_choice("method", method, ("partition", "subsets"))
    scores = _checked_scores(calibration, lower, upper)
    n = scores.size
    if method == "partition":
        n_seen = n // n_test
        n_batches = n_seen + 1
    else:
        n_seen = math.comb(n, n_test)
        n_batches = math.comb(n + n_test, n_test)
    rank = _smallest_reaching(1 - alpha, n_batches)
    if rank > n_seen:
        rank, bound = n_batches, score._evaluate(np.full((1, n_test), float(upper)))[0]
    else:
        if method == "partition":
            batches = np.sort(scores[: n_seen * n_test].reshape(n_seen, n_test), axis=1)
        elif n_seen > _MOST_SUBSETS:
            raise ValueError(
                f"n_test must leave at most {_MOST_SUBSETS} subsets to evaluate, "
                f"got {n_test} of {n} scores and so {n_seen}"
            )
        else:
            chosen = chain.from_iterable(combinations(range(n), n_test))
            batches = np.sort(scores)[np.fromiter(chosen, np.intp, n_seen * n_test).reshape(-1, n_test)]
        bound = np.partition(score._evaluate(batches), rank - 1)[rank - 1]
    return BatchInterval(-np.inf, float(bound), rank / n_batches, (1, rank))
