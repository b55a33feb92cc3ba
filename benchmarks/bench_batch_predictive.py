"""Batch predictive inference beside what a user would run instead: seconds of both, least of paired repeats.

Run it with one thread, that is with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 in the environment.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from scipy.stats import betabinom

from assay.inference.batch_predictive import (
    BatchScore,
    batch_interval,
    order_rank_pmf,
    order_statistic_interval,
    rank_ordering_distribution,
)


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    repeats: int = 3,
    scale: float = 1.0,
) -> None:
    """Print the least seconds of both and their ratio; `theirs` does the share 1 / scale of the work."""
    ours()  # compiles
    seconds = np.full(2, np.inf)
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    seconds[1] *= scale
    print(f"{name:76} {seconds[0]:9.2e} s {seconds[1]:9.2e} s {seconds[1] / seconds[0]:9.1f} x", flush=True)


def knapsack_in_loops(scores: list[float], n_test: int, total: int) -> float:
    """Largest sum of `n_test` scores whose ranks sum to at most `total`, as one writes it down."""
    table = [0.0] + [-math.inf] * total
    for _ in range(n_test):
        following = [-math.inf] * (total + 1)
        for used in range(1, total + 1):
            for rank in range(1, min(used, len(scores)) + 1):
                following[used] = max(following[used], table[used - rank] + scores[rank - 1])
        table = following
    return max(table)


def knapsack_in_numpy(scores: np.ndarray, n_test: int, total: int) -> float:
    """The same table, with one vector operation for each rank."""
    table = np.full(total + 1, -np.inf)
    table[0] = 0
    for _ in range(n_test):
        following = np.full(total + 1, -np.inf)
        for rank, score in enumerate(scores, start=1):
            np.maximum(following[rank:], table[:-rank] + score, out=following[rank:])
        table = following
    return float(table.max())


def rank_sum_by_counting(n: int, m: int) -> list[int]:
    """Numbers of rank vectors of each sum, by the recursion of Mann and Whitney in exact integers."""
    counts = [[1]] * (n + 1)
    for j in range(1, m + 1):
        row = [[1]]
        for i in range(1, n + 1):
            merged = [0] * (i * j + 1)
            for u, count in enumerate(row[i - 1]):
                merged[u + j] += count
            for u, count in enumerate(counts[i]):
                merged[u] += count
            row.append(merged)
        counts = row
    return counts[n]


def l_statistic_in_dictionaries(calibration: np.ndarray, weights: np.ndarray, alpha: float) -> float:
    """Upper bound by a dictionary from (value, last rank) to the number of vectors and the best score."""
    n, m = calibration.size, weights.size
    padded = [*np.sort(calibration).tolist(), 1.0]
    layer = {(0, 1): (1, 0.0)}
    for weight in weights.tolist():
        following: dict[tuple[int, int], tuple[int, float]] = defaultdict(lambda: (0, -math.inf))
        for (value, last), (count, best) in layer.items():
            for rank in range(last, n + 2):
                key = (value + rank * (weight > 0), rank)
                before = following[key]
                following[key] = (before[0] + count, max(before[1], best + weight * padded[rank - 1]))
        layer = following
    counts: dict[int, int] = defaultdict(int)
    scores: dict[int, float] = defaultdict(lambda: -math.inf)
    for (value, _), (count, best) in layer.items():
        counts[value] += count
        scores[value] = max(scores[value], best)
    cumulative, bound = 0, -math.inf
    for value in sorted(counts):
        cumulative, bound = cumulative + counts[value], max(bound, scores[value])
        if cumulative >= (1 - alpha) * math.comb(n + m, m):
            break
    return bound


def two_orders_in_loops(n: int, m: int, z1: int, z2: int, alpha: float) -> tuple[int, int]:
    """The least widening whose mass suffices, summing the joint law anew for each, as the formula stands."""
    total = math.comb(n + m, m)
    start, end = (math.floor((n + 1) * z / (m + 1) + 0.5) for z in (z1, z2))
    for t in itertools.count():
        low, high = max(1, start - t), min(n + 1, end + t)
        mass = sum(
            math.comb(r1 + z1 - 2, z1 - 1)
            * math.comb(r2 - r1 + z2 - z1 - 1, z2 - z1 - 1)
            * math.comb(n + m - r2 - z2 + 1, m - z2)
            for r1 in range(low, high + 1)
            for r2 in range(r1, high + 1)
        )
        if mass >= (1 - alpha) * total:
            return low, high


def main() -> None:
    rng = np.random.default_rng(0)

    scores = rng.random(300)
    padded = np.append(np.sort(scores), 1.0)
    interval = batch_interval(scores, 100, BatchScore.mean(100), 0.1, side="upper", upper=1)
    q = interval.rank_bounds[1]
    assert math.isclose(knapsack_in_numpy(padded, 100, q) / 100, interval.upper)
    assert math.isclose(
        knapsack_in_loops([0.1, 0.5, 0.7], 3, 6), knapsack_in_numpy(np.array([0.1, 0.5, 0.7]), 3, 6)
    )

    def mean() -> object:
        return batch_interval(scores, 100, BatchScore.mean(100), 0.1, side="upper", upper=1)

    # One of the hundred layers of the loops is timed. Neither alternative is charged for the ranks' quantile.
    compare(
        "mean, n=300, m=100: against loops over items, sums and ranks",
        mean,
        lambda: knapsack_in_loops(padded.tolist(), 1, q),
        scale=100,
    )
    compare(
        "mean, n=300, m=100: against the same table in numpy", mean, lambda: knapsack_in_numpy(padded, 100, q)
    )

    counts = rank_sum_by_counting(60, 30)
    law = rank_ordering_distribution(60, 30, BatchScore.mean(30))[1]
    np.testing.assert_allclose(law, np.array(counts, dtype=float) / math.comb(90, 30), atol=1e-15)
    compare(
        "law of the rank sum, n=60, m=30: against counting in exact integers",
        lambda: rank_ordering_distribution(60, 30, BatchScore.mean(30)),
        lambda: rank_sum_by_counting(60, 30),
    )

    weights = np.zeros(12)
    weights[4:8] = 1
    few = rng.random(40)
    bound = batch_interval(few, 12, BatchScore.l_statistic(weights), 0.1, side="upper", upper=1).upper
    assert math.isclose(l_statistic_in_dictionaries(few, weights, 0.1), bound)
    compare(
        "L-statistic of 4 in 12, n=40: against the program in dictionaries",
        lambda: batch_interval(few, 12, BatchScore.l_statistic(weights), 0.1, side="upper", upper=1),
        lambda: l_statistic_in_dictionaries(few, weights, 0.1),
    )

    compare(
        "law of one rank, n=2000, m=500: against scipy.stats.betabinom",
        lambda: order_rank_pmf(2000, 500, 250),
        lambda: betabinom.pmf(np.arange(2001), 2000, 250, 251),
        repeats=20,
    )

    normal = rng.normal(size=100)
    pair = order_statistic_interval(normal, 40, (10, 30), 0.1)
    assert two_orders_in_loops(100, 40, 10, 30, 0.1) == pair.rank_bounds
    compare(
        "both quartiles, n=100, m=40: against sums of the joint law",
        lambda: order_statistic_interval(normal, 40, (10, 30), 0.1),
        lambda: two_orders_in_loops(100, 40, 10, 30, 0.1),
    )


if __name__ == "__main__":
    main()
