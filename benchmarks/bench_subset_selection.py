"""Selection from rankings beside what a user would run instead: NumPy and Python written out plainly, the
textbook integer program, and the `abcvoting` package where it is installed.

Prints one line a comparison: name, seconds of ours, seconds of the other, ratio. Least of paired repeats on
the same data. Run it with one BLAS thread (OPENBLAS_NUM_THREADS=1).
"""

import importlib.util
import time
from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from assay.inference.subset_selection import (
    CommitteeRule,
    item_scores,
    mallows_rankings,
    select_committee,
    swap_bias,
)

BORDA, CC, HARMONIC = CommitteeRule.borda(), CommitteeRule.chamberlin_courant(), CommitteeRule.harmonic()


def plain_item_scores(rankings: np.ndarray) -> np.ndarray:
    m = rankings.shape[1]
    scores = np.zeros(m)
    for ranking in rankings:
        for position in range(m):
            scores[ranking[position]] += m - 1 - position
    return scores


def plain_chamberlin_courant(rankings: np.ndarray, size: int) -> list[int]:
    """A table of Borda points, (m, n), and a maximum over it for every item left in every step."""
    points = rankings.shape[1] - 1.0 - np.argsort(rankings, axis=1).T
    best, chosen = np.zeros(len(rankings)), []
    for _ in range(size):
        gains = np.maximum(points, best).sum(axis=1)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        best = np.maximum(best, points[chosen[-1]])
    return chosen


def plain_harmonic(rankings: np.ndarray, size: int) -> list[int]:
    """The committee's points are sorted anew for every item left in every step."""
    points = rankings.shape[1] - 1.0 - np.argsort(rankings, axis=1)
    chosen: list[int] = []
    for step in range(1, size + 1):
        weights = 1 / np.arange(step, 0, -1)
        scores = {
            item: (np.sort(points[:, [*chosen, item]], axis=1) @ weights).sum()
            for item in range(rankings.shape[1])
            if item not in chosen
        }
        chosen.append(max(scores, key=scores.__getitem__))
    return chosen


def plain_swap_bias(rankings: np.ndarray, advantaged: np.ndarray, phi: float) -> np.ndarray:
    """All pairs in a table, of which a swap renews one row and one column."""
    rng = np.random.default_rng(0)
    lifted, lowered = np.flatnonzero(advantaged), np.flatnonzero(~advantaged)
    biased = np.empty_like(rankings)
    for v, positions in enumerate(np.argsort(rankings, axis=1)):
        up, down = positions[lifted], positions[lowered]
        distance = up[:, None] - down
        table = np.where(distance > 0, phi ** distance.astype(float), 0.0)
        for _ in range(np.count_nonzero(table)):
            cumulative = np.cumsum(table)
            if cumulative[-1] == 0:
                break
            pair = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
            i, j = divmod(int(pair), len(lowered))
            up[i], down[j] = down[j], up[i]
            row, column = up[i] - down, up - down[j]
            table[i] = np.where(row > 0, phi ** row.astype(float), 0.0)
            table[:, j] = np.where(column > 0, phi ** column.astype(float), 0.0)
        biased[v, up], biased[v, down] = lifted, lowered
    return biased


def plain_mallows(n: int, m: int, dispersion: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    rankings = np.empty((n, m), dtype=np.int64)
    for v in range(n):
        ranking: list[int] = []
        for i in range(m):
            weights = dispersion ** (i - np.arange(i + 1.0))
            ranking.insert(rng.choice(i + 1, p=weights / weights.sum()), i)
        rankings[v] = ranking
    return rankings


def textbook_program(rankings: np.ndarray, size: int, rule: CommitteeRule) -> np.ndarray:
    """Chamberlin-Courant with a binary for each item, and a variable for each that a ranking is served by."""
    n, m = rankings.shape
    points = rule.position_scores(m)[np.argsort(rankings, axis=1)]
    one_each = sparse.hstack([sparse.csr_array((n, m)), sparse.kron(sparse.eye_array(n), np.ones((1, m)))])
    only_chosen = sparse.hstack([-sparse.vstack([sparse.eye_array(m)] * n), sparse.eye_array(n * m)])
    count = sparse.csr_array(np.append(np.ones(m), np.zeros(n * m))[None])
    solution = milp(
        -np.append(np.zeros(m), points.ravel()),
        integrality=np.append(np.ones(m), np.zeros(n * m)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, -np.inf, 1),
            LinearConstraint(only_chosen, -np.inf, 0),
            LinearConstraint(count, size, size),
        ],
        options={"mip_rel_gap": 0.0},
    )
    return np.flatnonzero(solution.x[:m] > 0.5)


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int = 5) -> None:
    ours()  # compiles
    seconds = np.empty((repeats, 2))
    for repeat in range(repeats):
        for method, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            seconds[repeat, method] = time.perf_counter() - start
    mine, theirs = seconds.min(axis=0)
    print(f"{name:<58} {mine:9.5f} s {theirs:9.5f} s   x{theirs / mine:.1f}", flush=True)


def main() -> None:
    rankings = mallows_rankings(1000, np.arange(200), 0.99, seed=0)
    few = mallows_rankings(100, np.arange(50), 1.0, seed=0)
    small = mallows_rankings(60, np.arange(25), 0.9, seed=0)
    half = np.arange(50) % 2 == 0

    compare(
        "Borda item scores, n=1000 m=200: Python loop",
        lambda: item_scores(rankings, BORDA),
        lambda: plain_item_scores(rankings),
    )
    compare(
        "Chamberlin-Courant, n=1000 m=200 k=20: plain NumPy",
        lambda: select_committee(rankings, 20, CC),
        lambda: plain_chamberlin_courant(rankings, 20),
    )
    compare(
        "harmonic Borda, n=1000 m=200 k=20: plain NumPy",
        lambda: select_committee(rankings, 20, HARMONIC),
        lambda: plain_harmonic(rankings, 20),
        repeats=2,
    )
    compare(
        "swap bias, n=100 m=50, all pairs: table of pairs",
        lambda: swap_bias(few, half, fraction=1.0, seed=0),
        lambda: plain_swap_bias(few, half, 0.5),
        repeats=3,
    )
    compare(
        "Mallows rankings, n=1000 m=50: insertion into lists",
        lambda: mallows_rankings(1000, np.arange(50), 0.9, seed=0),
        lambda: plain_mallows(1000, 50, 0.9),
        repeats=3,
    )
    for name, rule in (("Borda", CC), ("approval of 5", CommitteeRule.chamberlin_courant(5))):
        compare(
            f"exact Chamberlin-Courant, {name}, n=60 m=25 k=5: textbook",
            lambda rule=rule: select_committee(small, 5, rule, method="exact"),
            lambda rule=rule: textbook_program(small, 5, rule),
            repeats=3,
        )
    if importlib.util.find_spec("abcvoting"):
        from abcvoting import abcrules
        from abcvoting.preferences import Profile

        votes = Profile(50)
        votes.add_voters(few[:, :8].tolist())
        compare(
            "proportional approval voting, n=100 m=50 k=10: abcvoting",
            lambda: select_committee(few, 10, CommitteeRule.harmonic(8)),
            lambda: abcrules.compute_seqpav(votes, 10, resolute=True),
        )


if __name__ == "__main__":
    main()
