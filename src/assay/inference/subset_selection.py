"""Choosing the best items from many rankings that are biased against a group, with a bound that corrects it.

Boehmer, Celis, Huang, Mehrotra and Vishnoi, "Subset Selection Based On Multiple Rankings in the Presence of
Bias: Effectiveness of Fairness Constraints for Multiwinner Voting Score Functions" (2023), arXiv 2306.09835.

A ranking is a row of items from best to worst. Where the members of a committee S stand at the positions
``p_1 < p_2 < ...`` of a ranking, a multiwinner voting rule values S there at ``sum_j w_j s(p_j)``; its score
``F(S)`` is the sum over the rankings, monotone and submodular. If the rankings were biased against a group,
requiring a minimum number of its items recovers quality as the unbiased rankings would judge it, but how many
rankings that takes depends on the rule. Its smoothness tells: `alpha`, the least mean score of an item as a
share of the largest possible one, and `gamma(beta)`, how much of a clear difference within a group survives
the bias. The rankings needed grow like ``1 / alpha``: for Borda slowly with the number of items, for single
non-transferable votes (SNTV) exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NoReturn

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

Array = NDArray[np.float64]
Items = NDArray[np.int64]
Seed = int | np.random.Generator | None


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_count(name: str, value: object, most: int | None = None) -> None:
    if not (isinstance(value, Integral) and int(value) >= 1 and (most is None or int(value) <= most)):
        _refuse(name, value, "an integer of at least 1" if most is None else f"an integer in 1..{most}")


@numba.njit(cache=True)
def _first_faulty_row(rankings: Items) -> int:
    """Index of the first row that is no permutation of 0..m-1, or -1."""
    n, m = rankings.shape
    last_seen = np.full(m, -1)
    for v in range(n):
        for item in rankings[v]:
            if item < 0 or item >= m or last_seen[item] == v:
                return v
            last_seen[item] = v
    return -1


def _profile(rankings: ArrayLike) -> Items:
    array = np.asarray(rankings)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            f"rankings must be a non-empty (n, m) array of integers, got shape {array.shape} of {array.dtype}"
        )
    profile = np.ascontiguousarray(array, dtype=np.int64)
    faulty = _first_faulty_row(profile)
    if faulty >= 0:
        raise ValueError(
            f"rankings must hold a permutation of 0..{array.shape[1] - 1} in every row, "
            f"got {array[faulty].tolist()} in row {faulty}"
        )
    return profile


def _item_mask(name: str, value: ArrayLike, m: int) -> NDArray[np.bool_]:
    mask = np.asarray(value)
    if mask.shape != (m,) or mask.dtype != np.bool_:
        raise ValueError(f"{name} must be ({m},) booleans, got shape {mask.shape} of {mask.dtype}")
    return mask


def _group_labels(groups: ArrayLike, m: int, n_groups: int | None = None) -> Items:
    labels = np.asarray(groups)
    if labels.shape != (m,) or labels.dtype.kind not in "biu":
        raise ValueError(f"groups must be ({m},) integer labels, got shape {labels.shape} of {labels.dtype}")
    if labels.min() < 0 or (n_groups is not None and labels.max() >= n_groups):
        expected = "at least 0" if n_groups is None else f"in 0..{n_groups - 1}, one for each lower bound"
        _refuse("groups", labels.tolist(), expected)
    return labels.astype(np.int64)


# ------------------------------------------------------------------------------------------------- rules


def _borda_scores(m: int) -> Array:
    return np.arange(m - 1.0, -1.0, -1.0)


@dataclass(frozen=True)
class _Approval:
    size: int

    def __call__(self, m: int) -> Array:
        return np.asarray(np.arange(m) < self.size, dtype=np.float64)


def _equal_weights(k: int) -> Array:
    return np.ones(k)


def _first_alone(k: int) -> Array:
    return np.asarray(np.arange(k) == 0, dtype=np.float64)


def _harmonic_weights(k: int) -> Array:
    weights: Array = 1 / np.arange(1.0, k + 1)
    return weights


def _borda_or_approval(approval: int | None) -> Callable[[int], Array]:
    if approval is None:
        return _borda_scores
    _require_count("approval", approval)
    return _Approval(approval)


@dataclass(frozen=True)
class CommitteeRule:
    """A multiwinner voting rule: what a position is worth, and what a committee's j-th best item counts.

    One ranking values a committee whose members stand at the positions ``p_1 < ... < p_k`` at
    ``sum_j owa_j * position_scores[p_j]`` (Boehmer et al. 2023, arXiv 2306.09835). The class methods make the
    usual rules; any other pair is a rule if both are nonnegative and nonincreasing, which makes the score
    monotone and submodular. This is checked where the rule is used.

    Attributes:
        name: for people.
        position_scores: from the number of items m to (m,) scores, the best position first.
        owa: from the committee size k to (k,) weights ("ordered weighted average").
        separable: the weights are all equal, so that items can be chosen one by one.

    >>> veto = CommitteeRule("veto", lambda m: (np.arange(m) < m - 1).astype(float), np.ones, separable=True)
    >>> item_scores([[0, 1, 2], [0, 2, 1]], veto).tolist()
    [2.0, 1.0, 1.0]
    """

    name: str
    position_scores: Callable[[int], Array]
    owa: Callable[[int], Array]
    separable: bool = False

    @classmethod
    def sntv(cls) -> CommitteeRule:
        """Single non-transferable vote: a ranking gives its first item one point."""
        return cls("SNTV", _Approval(1), _equal_weights, separable=True)

    @classmethod
    def bloc(cls, size: int) -> CommitteeRule:
        """A ranking gives each of its first `size` items one point."""
        _require_count("size", size)
        return cls(f"{size}-Bloc", _Approval(size), _equal_weights, separable=True)

    @classmethod
    def borda(cls) -> CommitteeRule:
        """k-Borda: an item gets a point for each item ranked below it."""
        return cls("Borda", _borda_scores, _equal_weights, separable=True)

    @classmethod
    def chamberlin_courant(cls, approval: int | None = None) -> CommitteeRule:
        """Only the best member counts, by Borda or by approval of the first `approval` positions."""
        return cls("Chamberlin-Courant", _borda_or_approval(approval), _first_alone)

    @classmethod
    def harmonic(cls, approval: int | None = None) -> CommitteeRule:
        """The j-th best member counts 1/j, by Borda or (proportional approval voting) by approval."""
        return cls("harmonic", _borda_or_approval(approval), _harmonic_weights)

    def _values(self, m: int, k: int) -> tuple[Array, Array]:
        """Checked position scores, (m,), and weights, (k,)."""
        scores = _nonincreasing("position_scores", self.position_scores(m), m)
        weights = _nonincreasing("owa", self.owa(k), k)
        if self.separable and weights[0] != weights[-1]:
            _refuse("owa", weights.tolist(), "constant where the rule is separable")
        return scores, weights


def _nonincreasing(name: str, value: ArrayLike, length: int) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != (length,) or not (
        np.isfinite(array).all() and array[-1] >= 0 and (np.diff(array) <= 0).all()
    ):
        _refuse(name, array.tolist(), f"{length} finite numbers, nonnegative and nonincreasing")
    return array


# ------------------------------------------------------------------------------------- scores, selection


@numba.njit(cache=True)
def _marginal_gains(
    rankings: Items, chosen: NDArray[np.bool_], n_chosen: int, scores: Array, weights: Array
) -> Array:
    """F(S + i) - F(S) for every item i outside of S, 0 for those inside.

    An item with j members of S above it counts ``weights[j]`` and moves each member below it one weight on.
    Read from the bottom, a ranking tells both in one pass.
    """
    n, m = rankings.shape
    gains = np.zeros(m)
    for v in range(n):
        n_above = n_chosen
        moved = 0.0
        for position in range(m - 1, -1, -1):
            item = rankings[v, position]
            if chosen[item]:
                moved += (weights[n_above] - weights[n_above - 1]) * scores[position]
                n_above -= 1
            else:
                gains[item] += weights[n_above] * scores[position] + moved
    return gains


def _score(rankings: Items, members: Items, scores: Array, weights: Array) -> float:
    chosen = np.zeros(rankings.shape[1], dtype=np.bool_)
    chosen[members] = True
    positions = np.nonzero(chosen[rankings])[1].reshape(len(rankings), len(members))  # ascending in each row
    return float((scores[positions] @ weights).sum())


def committee_score(rankings: ArrayLike, committee: ArrayLike, rule: CommitteeRule) -> float:
    """Score F(S) of a committee: the sum over the rankings of what each sees in it (arXiv 2306.09835).

    Arguments:
        rankings: (n, m) integers, each row the items from best to worst.
        committee: (k,) distinct items; an empty one scores 0.
        rule: how a ranking values a committee.

    Raises:
        ValueError: rows that are no permutations, an item that is repeated or is none, or an invalid rule.

    >>> rankings = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
    >>> committee_score(rankings, [0, 2], CommitteeRule.borda())
    10.0
    >>> committee_score(rankings, [0, 2], CommitteeRule.chamberlin_courant())
    8.0
    """
    profile = _profile(rankings)
    m = profile.shape[1]
    members = np.asarray(committee)
    if members.size == 0:
        return 0.0
    if members.ndim != 1 or members.dtype.kind not in "iu" or len(np.unique(members)) < len(members):
        _refuse("committee", committee, "distinct items in a list of integers")
    if members.min() < 0 or members.max() >= m:
        _refuse("committee", members.tolist(), f"items in 0..{m - 1}")
    return _score(profile, members, *rule._values(m, len(members)))


def item_scores(rankings: ArrayLike, rule: CommitteeRule) -> Array:
    """Score F({i}) of every item on its own, (m,), from (n, m) rankings (arXiv 2306.09835).

    Raises ValueError for rows that are no permutations or an invalid rule.

    >>> item_scores([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]], CommitteeRule.borda()).tolist()
    [6.0, 5.0, 4.0, 3.0]
    """
    profile = _profile(rankings)
    m = profile.shape[1]
    return _item_scores(profile, *rule._values(m, 1))


def _item_scores(rankings: Items, scores: Array, weights: Array) -> Array:
    gains: Array = _marginal_gains(rankings, np.zeros(len(scores), dtype=np.bool_), 0, scores, weights)
    return gains


@dataclass(frozen=True)
class _Constraint:
    """At least `lower_bounds[t]` of the `size` items are of group t: the bases of a matroid."""

    size: int
    groups: Items
    lower_bounds: Items

    @classmethod
    def checked(
        cls, m: int, size: int, groups: ArrayLike | None, lower_bounds: ArrayLike | None
    ) -> _Constraint:
        _require_count("size", size, most=m)
        if groups is None and lower_bounds is None:
            return cls(size, np.zeros(m, dtype=np.int64), np.zeros(1, dtype=np.int64))
        if groups is None or lower_bounds is None:
            missing = "groups" if groups is None else "lower_bounds"
            raise ValueError(f"{missing} must be given together with the other of groups and lower_bounds")
        bounds = np.asarray(lower_bounds)
        if bounds.ndim != 1 or bounds.dtype.kind not in "iu" or (bounds < 0).any():
            _refuse("lower_bounds", lower_bounds, "nonnegative integers, one for each group")
        labels = _group_labels(groups, m, len(bounds))
        if bounds.sum() > size:
            _refuse("lower_bounds", bounds.tolist(), f"at most size = {size} in sum")
        group_sizes = np.bincount(labels, minlength=len(bounds))
        if (bounds > group_sizes).any():
            _refuse("lower_bounds", bounds.tolist(), f"at most the groups' sizes {group_sizes.tolist()}")
        return cls(size, labels, bounds.astype(np.int64))

    def grow(
        self, marginal_gains: Callable[[NDArray[np.bool_], int], Array], tolerance: float
    ) -> tuple[Items, Array]:
        """Greedy selection: the item of most gain that still leaves room for every unmet bound.

        Gains within `tolerance` of each other are a tie, which the lowest index wins.
        """
        chosen = np.zeros(len(self.groups), dtype=np.bool_)
        unmet = self.lower_bounds.copy()
        items, gained = np.empty(self.size, dtype=np.int64), np.empty(self.size)
        for step in range(self.size):
            gains = marginal_gains(chosen, step)
            open_to = ~chosen
            if unmet.sum() == self.size - step:
                open_to &= unmet[self.groups] > 0
            candidates = np.flatnonzero(open_to)
            of_candidates = gains[candidates]
            item = candidates[np.argmax(of_candidates >= of_candidates.max() - tolerance)]
            items[step], gained[step] = item, gains[item]
            chosen[item] = True
            unmet[self.groups[item]] = max(unmet[self.groups[item]] - 1, 0)
        return items, gained


@dataclass(frozen=True, eq=False)
class Committee:
    """Selected items (arXiv 2306.09835).

    Attributes:
        items: (k,) in the order of their selection, or ascending if they were found together.
        score: F of them.
        gains: (k,) what each added to the score, or empty if they were found together.
    """

    items: Items
    score: float
    gains: Array


def select_by_scores(
    scores: ArrayLike, size: int, *, groups: ArrayLike | None = None, lower_bounds: ArrayLike | None = None
) -> Items:
    """The items of the largest sum of scores that satisfy the bounds, best first (arXiv 2306.09835).

    For scores that are known without the rankings, such as counts of votes or their expectation.

    Arguments:
        scores: (m,) finite numbers.
        size: number k of items, 1..m.
        groups: (m,) labels 0..G-1, or booleans for 0 and 1.
        lower_bounds: (G,) least number of items of each group.

    Returns:
        (k,) items; of equal ones the lowest index goes first.

    Raises:
        ValueError: scores that are no finite vector, a size out of range, or bounds that cannot be met.

    >>> select_by_scores([9, 8, 7, 1], 2, groups=[0, 0, 1, 1], lower_bounds=[0, 1]).tolist()
    [0, 2]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"scores must be a non-empty vector of finite numbers, got {scores!r}")
    constraint = _Constraint.checked(len(values), size, groups, lower_bounds)
    return constraint.grow(lambda chosen, n_chosen: values, tolerance=0.0)[0]


def select_committee(
    rankings: ArrayLike,
    size: int,
    rule: CommitteeRule,
    *,
    groups: ArrayLike | None = None,
    lower_bounds: ArrayLike | None = None,
    method: Literal["greedy", "exact"] = "greedy",
) -> Committee:
    """Committee of a high score, with a minimum number of items of each group (arXiv 2306.09835).

    Arguments:
        rankings: (n, m) integers, each row the items from best to worst.
        size: number k of items, 1..m.
        rule: how a ranking values a committee.
        groups: (m,) labels 0..G-1, or booleans for 0 and 1. None leaves the choice free.
        lower_bounds: (G,) least number of items of each group; given with `groups`.
        method: "greedy" adds the item of most gain that leaves room for the unmet bounds, of equal ones the
            lowest index. For separable rules that is the best committee; for others its score is at least
            1 - 1/e of the best, or 1/2 under bounds. "exact" solves an integer program for those: about
            n m k variables, so for small instances.

    Raises:
        ValueError: rows that are no permutations, a size out of range, bounds that cannot be met, an invalid
            rule or method.
        RuntimeError: the integer program was not solved.

    >>> rankings = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
    >>> select_committee(rankings, 2, CommitteeRule.borda()).items.tolist()
    [0, 1]
    >>> bounded = select_committee(
    ...     rankings, 2, CommitteeRule.borda(), groups=[0, 0, 1, 1], lower_bounds=[0, 1]
    ... )
    >>> bounded.items.tolist(), bounded.score
    ([0, 2], 10.0)
    """
    profile = _profile(rankings)
    n, m = profile.shape
    constraint = _Constraint.checked(m, size, groups, lower_bounds)
    scores, weights = rule._values(m, size)
    if method not in ("greedy", "exact"):
        _refuse("method", method, "'greedy' or 'exact'")
    gains = np.empty(0)
    if method == "exact" and not rule.separable:
        items = _solve_exactly(profile, constraint, scores, weights)
    else:
        single = _item_scores(profile, scores, weights)

        def marginal_gains(chosen: NDArray[np.bool_], n_chosen: int) -> Array:
            if rule.separable or n_chosen == 0:
                return single
            return np.asarray(_marginal_gains(profile, chosen, n_chosen, scores, weights))

        # Sums of fractions such as 1/3 differ by rounding where they are equal.
        items, gains = constraint.grow(marginal_gains, tolerance=1e-12 * n * scores[0] * weights[0])
    return Committee(items, _score(profile, items, scores, weights), gains)


def _solve_exactly(rankings: Items, constraint: _Constraint, scores: Array, weights: Array) -> Items:
    """The best committee by an integer program in the number of members among the first positions.

    With c(p) members at the positions 0..p and W(c) the sum of the first c weights, a ranking's value is
    ``sum_p (s(p) - s(p + 1)) W(c(p))``. W is concave: ``W(c) = max sum_j w_j y_j`` over 0 <= y <= 1 with
    ``sum_j y_j <= c``. So one y_j for each weight suffices wherever s falls. That their sums rise from one
    such position to the next by no more than the members in between says the same in sparser rows.
    """
    n, m = rankings.shape
    falls = scores - np.append(scores[1:], 0.0)
    steps = np.flatnonzero(falls > 0)
    used_weights = weights[weights > 0]
    n_rows, n_y = n * len(steps), n * len(steps) * len(used_weights)

    step_of_position = np.searchsorted(steps, np.arange(m))
    step_of_item = step_of_position[np.argsort(rankings, axis=1)]
    ranking, item = np.nonzero(step_of_item < len(steps))
    row = ranking * len(steps) + step_of_item[ranking, item]
    entering = sparse.csr_array((np.ones(len(row)), (row, item)), shape=(n_rows, m))
    differences = np.eye(len(steps)) - np.eye(len(steps), k=-1)
    rises = sparse.kron(sparse.eye_array(n), np.kron(differences, np.ones(len(used_weights))))
    counts = sparse.hstack([-entering, rises])
    n_groups = len(constraint.lower_bounds)
    memberships = (constraint.groups == np.arange(n_groups)[:, None]).astype(np.float64)
    choice = sparse.hstack(
        [sparse.csr_array(np.vstack([np.ones(m), memberships])), sparse.csr_array((n_groups + 1, n_y))]
    )
    least = np.append(constraint.size, constraint.lower_bounds)
    most = np.full(n_groups + 1, constraint.size)

    value = np.tile(np.outer(falls[steps], used_weights).ravel(), n)
    solution = milp(
        -np.concatenate([np.zeros(m), value]),
        integrality=np.repeat([1, 0], [m, n_y]),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(counts, -np.inf, 0),
            LinearConstraint(choice, least, most),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if not solution.success:
        raise RuntimeError(f"the integer program was not solved: {solution.message}")
    return np.flatnonzero(solution.x[:m] > 0.5)


# --------------------------------------------------------------------------------------- bias, rankings


@numba.njit(cache=True)
def _swap(
    rankings: Items, advantaged: NDArray[np.bool_], fraction: float, phi: float, rng: np.random.Generator
) -> None:
    """Swaps in place. The chance of a pair depends on its positions alone, so O(m) sums stand for all pairs:
    ``reach[p]`` is the sum of ``phi^(p - q)`` over the disadvantaged positions q above an advantaged p."""
    n, m = rankings.shape
    reach = np.zeros(m)
    for v in range(n):
        row = rankings[v]
        n_above, n_pairs = 0, 0
        for item in row:
            if advantaged[item]:
                n_pairs += n_above
            else:
                n_above += 1
        # 1e-9, so that 29 % of 100 pairs are 29, whatever 0.29 * 100 is in binary.
        for _ in range(int(fraction * n_pairs + 1e-9)):
            total, weight = 0.0, 0.0
            for p in range(m):
                if advantaged[row[p]]:
                    reach[p] = weight
                    total += weight
                    weight *= phi
                else:
                    weight = phi * (weight + 1)
            if total == 0.0:
                break
            draw = rng.random() * total
            # The last that qualifies stays, should rounding leave nothing below the draw.
            lower, upper = -1, -1
            for p in range(m):
                if advantaged[row[p]] and reach[p] > 0.0:
                    lower = p
                    if draw < reach[p]:
                        break
                    draw -= reach[p]
            weight = 1.0
            for p in range(lower - 1, -1, -1):
                weight *= phi
                if not advantaged[row[p]]:
                    upper = p
                    if draw < weight:
                        break
                    draw -= weight
            row[lower], row[upper] = row[upper], row[lower]


def swap_bias(
    rankings: ArrayLike, advantaged: ArrayLike, *, fraction: float, phi: float = 0.5, seed: Seed = None
) -> Items:
    """Bias rankings by swaps that lift advantaged items over disadvantaged ones (arXiv 2306.09835).

    In each ranking, ``floor(fraction * pairs)`` times, where `pairs` counts the disadvantaged items that
    stand above an advantaged one, such a pair is drawn with probability proportional to
    ``phi ** (distance of their positions)`` and changes places. It ends early when no such pair is left: a
    swap over a distance settles several pairs, so a fraction well below 1 may already separate the groups.

    Arguments:
        rankings: (n, m) integers, each row the items from best to worst; left as it is.
        advantaged: (m,) booleans.
        fraction: in [0, 1].
        phi: in (0, 1); small values prefer neighbours.
        seed: an int, a generator (drawn from), or None for a fresh one.

    Returns:
        (n, m) biased rankings.

    Raises:
        ValueError: rows that are no permutations, or an argument out of its range.

    >>> swap_bias([[3, 2, 1, 0]], [True, True, False, False], fraction=1.0, phi=1e-9, seed=0).tolist()
    [[1, 0, 3, 2]]
    """
    profile = _profile(rankings)
    mask = _item_mask("advantaged", advantaged, profile.shape[1])
    if not 0 <= fraction <= 1:
        _refuse("fraction", fraction, "in [0, 1]")
    if not 0 < phi < 1:
        _refuse("phi", phi, "in (0, 1)")
    biased = profile.copy()
    _swap(biased, mask, float(fraction), float(phi), np.random.default_rng(seed))
    return biased


@dataclass(frozen=True)
class _PowerUtilities:
    exponents: Array
    disadvantaged: NDArray[np.bool_]
    bias: float

    @classmethod
    def checked(cls, exponents: ArrayLike, disadvantaged: ArrayLike | None, bias: float) -> _PowerUtilities:
        powers = np.asarray(exponents, dtype=np.float64)
        if powers.ndim != 1 or powers.size == 0 or not ((powers > 0) & np.isfinite(powers)).all():
            _refuse("exponents", powers.tolist(), "a non-empty list of positive numbers")
        if not 0 < bias <= 1:
            _refuse("bias", bias, "in (0, 1]")
        if disadvantaged is None:
            disadvantaged = np.zeros(len(powers), dtype=np.bool_)
        return cls(powers, _item_mask("disadvantaged", disadvantaged, len(powers)), float(bias))


def power_utility_rankings(
    n_rankings: int,
    exponents: ArrayLike,
    *,
    disadvantaged: ArrayLike | None = None,
    bias: float = 1.0,
    seed: Seed = None,
) -> Items:
    """Rankings by utilities on [0, 1], of which a group's are multiplied by a bias (arXiv 2306.09835).

    Item i has utility at most u with probability ``u ** exponents[i]``, independently in each ranking.

    Arguments:
        n_rankings: number n of rankings.
        exponents: (m,) positive; larger is better.
        disadvantaged: (m,) booleans: whose utilities are multiplied. None: nobody's.
        bias: the factor, in (0, 1].
        seed: an int, a generator (drawn from), or None for a fresh one.

    Returns:
        (n, m) rankings, the largest utility first.

    Raises:
        ValueError: an argument out of its range.

    >>> power_utility_rankings(3, [1e9, 1.0, 1e-9], seed=0).tolist()
    [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """
    _require_count("n_rankings", n_rankings)
    model = _PowerUtilities.checked(exponents, disadvantaged, bias)
    rng = np.random.default_rng(seed)
    # Minus the logarithm of a utility is exponential with the item's exponent as its rate.
    losses = rng.standard_exponential((n_rankings, len(model.exponents))) / model.exponents
    losses[:, model.disadvantaged] -= math.log(model.bias)
    return np.argsort(losses, axis=1).astype(np.int64)


def power_utility_top_probabilities(
    exponents: ArrayLike, *, disadvantaged: ArrayLike | None = None, bias: float = 1.0
) -> Array:
    """Probability that each item is first in a ranking of `power_utility_rankings`, (m,), in closed form.

    It is the item's expected SNTV score. With A the sum of the exponents and A1 that of the advantaged
    items, a disadvantaged item j has ``bias^A1 a_j / A``, exponentially little in the number of items.
    The arguments and errors are those of `power_utility_rankings`.

    >>> power_utility_top_probabilities([2, 1.5, 1, 0.5], disadvantaged=[False, True] * 2, bias=0.6).round(4)
    array([0.6091, 0.0648, 0.3045, 0.0216])
    """
    model = _PowerUtilities.checked(exponents, disadvantaged, bias)
    a, favoured = model.exponents, ~model.disadvantaged
    rate = float(a[favoured].sum())
    none_above_bias = model.bias**rate
    probabilities: Array = none_above_bias * a / a.sum()
    probabilities[favoured] += (1 - none_above_bias) * a[favoured] / rate
    return probabilities


def power_utility_borda_means(
    exponents: ArrayLike, *, disadvantaged: ArrayLike | None = None, bias: float = 1.0
) -> Array:
    """Expected number of items below each one in a ranking of `power_utility_rankings`, (m,), in closed form.

    It is the item's expected Borda score: the sum over the others of the probability to beat them, which is
    ``bias^a_i a_j / (a_i + a_j)`` for a disadvantaged item j and an advantaged item i. The arguments and
    errors are those of `power_utility_rankings`.

    >>> power_utility_borda_means([2, 1.5, 1, 0.5], disadvantaged=[False, True] * 2, bias=0.6).round(4)
    array([2.4404, 1.2643, 1.7733, 0.522 ])
    """
    model = _PowerUtilities.checked(exponents, disadvantaged, bias)
    a, weak = model.exponents, model.disadvantaged
    beats = a[:, None] / (a[:, None] + a)
    hindered = weak[:, None] & ~weak
    beats *= np.where(hindered, model.bias**a, 1.0)
    beats = np.where(hindered.T, 1 - beats.T, beats)
    np.fill_diagonal(beats, 0.0)
    return np.asarray(beats.sum(axis=1))


@numba.njit(cache=True)
def _insert(center: Items, rises: Items) -> Items:
    """Rankings built by inserting ``center[i]`` at ``rises[v, i]`` places above the end."""
    n, m = rises.shape
    rankings = np.empty((n, m), dtype=np.int64)
    for v in range(n):
        for i in range(m):
            slot = i - rises[v, i]
            for p in range(i, slot, -1):
                rankings[v, p] = rankings[v, p - 1]
            rankings[v, slot] = center[i]
    return rankings


def mallows_rankings(n_rankings: int, center: ArrayLike, dispersion: float, *, seed: Seed = None) -> Items:
    """Rankings of a Mallows model: ``dispersion ** (pairs in another order than in `center`)``.

    Drawn by repeated insertion, as in the experiments of arXiv 2306.09835.

    Arguments:
        n_rankings: number n of rankings.
        center: (m,) the most probable ranking, a permutation of 0..m-1.
        dispersion: in [0, 1]; 0 repeats the centre, 1 is uniform over all rankings ("impartial culture").
        seed: an int, a generator (drawn from), or None for a fresh one.

    Returns:
        (n, m) rankings.

    Raises:
        ValueError: an argument out of its range.

    >>> mallows_rankings(2, [2, 0, 1], dispersion=0.0).tolist()
    [[2, 0, 1], [2, 0, 1]]
    """
    _require_count("n_rankings", n_rankings)
    middle = np.asarray(center)
    if middle.ndim != 1 or middle.dtype.kind not in "iu" or (np.sort(middle) != np.arange(middle.size)).any():
        _refuse("center", center, "a permutation of 0..m-1")
    if not 0 <= dispersion <= 1:
        _refuse("dispersion", dispersion, "in [0, 1]")
    m = len(middle)
    draws = np.random.default_rng(seed).random((n_rankings, m))
    cumulative = np.cumsum(float(dispersion) ** np.arange(m))
    rises = np.empty((n_rankings, m), dtype=np.int64)
    for i in range(m):
        rises[:, i] = np.searchsorted(cumulative[:i], draws[:, i] * cumulative[i], side="right")
    return np.asarray(_insert(middle.astype(np.int64), rises))


# ------------------------------------------------------------------------------------------ smoothness


@dataclass(frozen=True, eq=False)
class Smoothness:
    """How well single scores survive a bias (arXiv 2306.09835). All scores are means for one ranking.

    A rule suits a bias if `alpha` is large, so that few rankings tell every score, and `gamma` is below 1
    for `beta` near 1, so that the biased scores still order the items of a group.

    Attributes:
        alpha: the least latent or biased score of an item, as a share of the largest that a ranking can give.
        alpha_error: standard error of `alpha`; 0 where an item never scored, and `alpha` is then unresolved.
        beta: (b,) from the ratio of the least latent score to the largest, up to 1.
        gamma: (b,) the largest ratio of the biased scores of two items of a group of which the first has at
            most `beta` times the latent score of the second; 0 if there are none.
        latent_scores, biased_scores: (m,).
    """

    alpha: float
    alpha_error: float
    beta: Array
    gamma: Array
    latent_scores: Array
    biased_scores: Array


def estimate_smoothness(
    rule: CommitteeRule,
    latent: Callable[[np.random.Generator], ArrayLike],
    bias: Callable[[NDArray[np.int64], np.random.Generator], ArrayLike],
    groups: ArrayLike,
    *,
    n_trials: int = 500,
    n_beta: int = 100,
    seed: Seed = None,
) -> Smoothness:
    """Estimate the smoothness of a rule under a bias by simulation (Boehmer et al. 2023, arXiv 2306.09835).

    Arguments:
        rule: how a ranking values a committee.
        latent: draws unbiased rankings, (n, m), from the generator it gets.
        bias: makes biased rankings out of them, with the generator.
        groups: (m,) labels of at least 0, or booleans; items are compared within a group.
        n_trials: number of profiles drawn, at least 2.
        n_beta: number of points of the grid of beta.
        seed: an int, a generator (drawn from), or None for a fresh one.

    Raises:
        ValueError: rankings that are none, or an argument out of its range.

    >>> smoothness = estimate_smoothness(
    ...     CommitteeRule.borda(),
    ...     latent=lambda rng: mallows_rankings(100, np.arange(6), 0.7, seed=rng),
    ...     bias=lambda rankings, rng: swap_bias(rankings, np.arange(6) % 2 == 0, fraction=0.5, seed=rng),
    ...     groups=[0, 1, 0, 1, 0, 1],
    ...     n_trials=20,
    ...     seed=0,
    ... )
    >>> bool(smoothness.gamma[-1] < 1), smoothness.beta.shape
    (True, (100,))
    """
    _require_count("n_trials", n_trials)
    if n_trials < 2:
        _refuse("n_trials", n_trials, "at least 2, for a standard error")
    _require_count("n_beta", n_beta)
    rng = np.random.default_rng(seed)
    m = len(np.asarray(groups))
    labels = _group_labels(groups, m)
    scores, weights = rule._values(m, 1)
    largest = scores[0] * weights[0]
    if largest == 0:
        _refuse("position_scores", scores.tolist(), "positive at the best position")

    def scores_per_ranking(rankings: ArrayLike) -> tuple[Items, Array]:
        profile = _profile(rankings)
        if profile.shape[1] != m:
            raise ValueError(f"groups must have one label for each of {profile.shape[1]} items, got {m}")
        return profile, _item_scores(profile, scores, weights) / len(profile)

    drawn = np.empty((n_trials, 2, m))
    for trial in range(n_trials):
        profile, drawn[trial, 0] = scores_per_ranking(latent(rng))
        _, drawn[trial, 1] = scores_per_ranking(bias(profile, rng))
    means = drawn.mean(axis=0)
    deviation = drawn.reshape(n_trials, -1)[:, np.argmin(means)].std(ddof=1)

    beta = np.linspace(means[0].min() / means[0].max(), 1.0, n_beta)
    return Smoothness(
        alpha=float(means.min() / largest),
        alpha_error=float(deviation / math.sqrt(n_trials) / largest),
        beta=beta,
        gamma=_largest_ratios(beta, means[0], means[1], labels),
        latent_scores=means[0],
        biased_scores=means[1],
    )


def _largest_ratios(beta: Array, latent: Array, biased: Array, groups: Items) -> Array:
    """gamma(beta): the largest ``biased[j] / biased[i]`` of a group with ``latent[j] <= beta latent[i]``."""
    comparable = (groups[:, None] == groups) & ~np.eye(len(groups), dtype=np.bool_) & (latent > 0)
    worse, good = np.nonzero(comparable)
    latent_ratios = latent[worse] / latent[good]
    # Where a good item never scores under bias, one that scores is above it, and one that does not is level.
    never = np.where(biased[worse] > 0, np.inf, 1.0)
    ratios = np.divide(biased[worse], biased[good], out=never, where=biased[good] > 0)
    order = np.argsort(latent_ratios)
    up_to = np.maximum.accumulate(np.append(0.0, ratios[order]))
    return np.asarray(up_to[np.searchsorted(latent_ratios[order], beta, side="right")])


def rankings_needed(alpha: float, tolerance: float, n_items: int, failure: float = 0.05) -> int:
    """Number of rankings that tell every biased score: ``ceil(3 ln(2 n_items / failure) / (alpha tol^2))``.

    With so many independent rankings, all items' average scores are within a factor of 1 +- `tolerance` of
    their expectation, except with probability `failure` (Chernoff's bound). If ``(1 + tolerance) gamma(beta)
    < 1 - tolerance`` as well, no item is placed above one of its group that is more than 1/beta better, so
    that the right lower bound leaves at least `beta` of the best quality to a separable rule. After Boehmer
    et al. (2023), arXiv 2306.09835.

    Arguments:
        alpha: of `Smoothness`, in (0, 1].
        tolerance: in (0, 1].
        n_items: number m of items.
        failure: in (0, 1).

    Raises:
        ValueError: an argument out of its range.

    >>> rankings_needed(0.01, 0.1, 20)
    200539
    """
    for name, value in (("alpha", alpha), ("tolerance", tolerance)):
        if not 0 < value <= 1:
            _refuse(name, value, "in (0, 1]")
    _require_count("n_items", n_items)
    if not 0 < failure < 1:
        _refuse("failure", failure, "in (0, 1)")
    return math.ceil(3 * math.log(2 * n_items / failure) / (alpha * tolerance**2))
