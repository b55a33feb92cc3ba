"""Batch predictive inference: its laws against counting, its bounds against trying every rank vector."""

from itertools import combinations_with_replacement
from math import ceil, comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from assay.inference.batch_predictive import (
    BatchScore,
    baseline_interval,
    batch_interval,
    order_rank_pmf,
    order_statistic_interval,
    rank_ordering_distribution,
    select_test_points,
)

SIX = [0.1, 0.2, 0.4, 0.5, 0.7, 0.9]
SIDES = ("two-sided", "upper", "lower")


def rank_vectors(n, m):
    return np.array(list(combinations_with_replacement(range(1, n + 2), m)))


def region_by_counting(h, alpha, side):
    share = alpha / 2 if side == "two-sided" else alpha
    values = np.unique(h)
    first = values[0] if side == "upper" else max(v for v in values if (h >= v).mean() >= 1 - share - 1e-12)
    last = values[-1] if side == "lower" else min(v for v in values if (h <= v).mean() >= 1 - share - 1e-12)
    return int(first), int(last)


def bounds_by_trying(calibration, weights, rank_weights, alpha, side, lower, upper):
    """Lower, upper, coverage and rank bounds from all rank vectors."""
    padded = np.concatenate(([lower], np.sort(calibration), [upper]))
    ranks = rank_vectors(len(calibration), len(weights))
    h = ranks @ rank_weights
    first, last = region_by_counting(h, alpha, side)
    region = (first <= h) & (h <= last)
    used = np.flatnonzero(weights)  # 0 * inf is NaN
    least = (padded[ranks[region] - 1][:, used] @ weights[used]).min() if side != "upper" else -np.inf
    most = (padded[ranks[region]][:, used] @ weights[used]).max() if side != "lower" else np.inf
    return least, most, region.mean(), (first, last)


def same(interval, expected):
    lower, upper, coverage, rank_bounds = expected
    assert interval.rank_bounds == rank_bounds
    np.testing.assert_allclose(
        [interval.lower, interval.upper, interval.coverage], [lower, upper, coverage], rtol=0, atol=1e-10
    )


def generic_mean(m):
    """The mean through the general program."""
    return BatchScore(m, lambda i, a, s: a + s / m, lambda i, b, r: b + r)


# ---------------------------------------------------------------------------------------------- laws of ranks


def test_law_of_one_rank():
    np.testing.assert_allclose(order_rank_pmf(3, 2, 1), [0.4, 0.3, 0.2, 0.1], atol=1e-15)
    expected = [0.1428571429, 0.2285714286, 0.2571428571, 0.2285714286, 0.1428571429]
    np.testing.assert_allclose(order_rank_pmf(4, 3, 2), expected, atol=1e-10)


@given(n=st.integers(1, 6), m=st.integers(1, 4), data=st.data())
@settings(max_examples=30, deadline=None)
def test_law_of_one_rank_is_what_counting_gives(n, m, data):
    order = data.draw(st.integers(1, m))
    counts = np.bincount(rank_vectors(n, m)[:, order - 1], minlength=n + 2)[1:]
    np.testing.assert_allclose(order_rank_pmf(n, m, order), counts / comb(n + m, m), atol=1e-14)


@pytest.mark.parametrize("order", [1, 250, 500])
def test_law_of_one_rank_neither_overflows_nor_drifts(order):
    pmf = order_rank_pmf(2000, 500, order)
    assert np.isfinite(pmf).all()
    assert abs(pmf.sum() - 1) < 1e-12
    np.testing.assert_allclose(pmf, order_rank_pmf(2000, 500, 501 - order)[::-1], rtol=1e-9, atol=1e-300)
    k = 1 + int(pmf.argmax())
    exact = comb(k + order - 2, order - 1) * comb(2500 - k - order + 1, 500 - order) / comb(2500, 500)
    assert pmf[k - 1] == pytest.approx(exact, rel=1e-11)


def test_ranks_are_uniform_on_ascending_vectors():
    # The fact that everything rests on: simulated, and with the scores' law playing no part.
    rng, draws = np.random.default_rng(0), 40_000
    calibration = np.sort(rng.standard_cauchy((draws, 3)), axis=1)
    test = np.sort(rng.standard_cauchy((draws, 2)), axis=1)
    ranks = 1 + (test[:, :, None] > calibration[:, None, :]).sum(axis=2)
    counts = np.unique(ranks, axis=0, return_counts=True)[1]
    assert counts.size == comb(5, 2)
    assert ((counts - draws / 10) ** 2 / (draws / 10)).sum() < 30  # chi-square, 9 degrees of freedom


def test_law_of_the_rank_sum():
    values, probabilities = rank_ordering_distribution(2, 2, BatchScore.mean(2))
    assert values.tolist() == [2, 3, 4, 5, 6]
    np.testing.assert_allclose(6 * probabilities, [1, 1, 2, 1, 1], atol=1e-14)

    values, probabilities = rank_ordering_distribution(40, 10, BatchScore.mean(10))
    cumulative = np.cumsum(probabilities)
    for level, q, mass in ((0.95, 278, 0.9514512337), (0.9, 263, 0.9011581521), (0.8, 245, 0.8024858138)):
        position = np.searchsorted(cumulative, level)
        assert values[position] == q
        assert cumulative[position] == pytest.approx(mass, abs=1e-10)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1), (5, 4), (4, 5), (23, 11)])
def test_law_of_the_rank_sum_is_that_of_mann_whitney(n, m):
    values, probabilities = rank_ordering_distribution(n, m, BatchScore.mean(m))
    x = np.arange(m, dtype=float)
    tail = []
    for u in range(n * m + 1):
        # m points, n others of which u pairs lie below: the first of them fill up the lowest places.
        full, rest = divmod(u, n)
        below = np.array([0] * (m - full - (rest > 0)) + [rest] * (rest > 0) + [n] * full)
        tail.append(mannwhitneyu(x + 1000.0 * below, 1000.0 * np.arange(n) + 900, method="exact",
                                 alternative="less").pvalue)  # fmt: skip
    assert values.tolist() == list(range(m, n * m + m + 1))
    np.testing.assert_allclose(np.cumsum(probabilities), tail, atol=1e-13)


@pytest.mark.parametrize(("n", "m"), [(500, 200), (60, 900)])
def test_law_of_the_rank_sum_keeps_its_digits(n, m):
    values, probabilities = rank_ordering_distribution(n, m, BatchScore.mean(m))
    assert probabilities.sum() == pytest.approx(1, abs=1e-13)
    np.testing.assert_allclose(probabilities, probabilities[::-1], rtol=1e-9, atol=1e-17)
    assert probabilities @ values == pytest.approx(m + n * m / 2, rel=1e-12)
    variance = probabilities @ (values - m - n * m / 2) ** 2
    assert variance == pytest.approx(n * m * (n + m + 1) / 12, rel=1e-12)


def test_laws_of_other_rank_orderings():
    values, probabilities = rank_ordering_distribution(3, 3, BatchScore.l_statistic([0, 1, 0]))
    assert values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(probabilities, [0.2, 0.3, 0.3, 0.2], atol=1e-15)
    values, probabilities = rank_ordering_distribution(5, 4, BatchScore.l_statistic([0, 0.5, 0.5, 0]))
    assert values.tolist() == list(range(2, 13))
    np.testing.assert_allclose(126 * probabilities, [6, 5, 14, 11, 20, 14, 20, 11, 14, 5, 6], atol=1e-12)


def test_widely_spread_rank_orderings_need_no_table():
    sparse = BatchScore.l_statistic([1, 1], rank_weights=[10**12, 1])
    values, probabilities = rank_ordering_distribution(3, 2, sparse)
    ranks = rank_vectors(3, 2)
    assert values.tolist() == sorted(10**12 * a + b for a, b in ranks.tolist())
    np.testing.assert_allclose(probabilities, 0.1, atol=1e-15)


# ------------------------------------------------------------------------------------- bounds of batch scores


def test_mean_of_three():
    mean = BatchScore.mean(3)
    upper = batch_interval(SIX, 3, mean, 0.2, side="upper", lower=0, upper=1)
    same(upper, (-np.inf, 0.7333333333333333, 0.8095238095, (3, 15)))
    lower = batch_interval(SIX, 3, mean, 0.2, side="lower", lower=0, upper=1)
    same(lower, (0.2, np.inf, 0.8095238095, (9, 21)))
    both = batch_interval(SIX, 3, mean, 0.2, lower=0, upper=1)
    same(both, (0.1333333333333333, 0.8333333333333333, 0.8333333333, (7, 17)))


def test_trimmed_mean_of_four():
    trimmed = BatchScore.l_statistic([0, 0.5, 0.5, 0])
    interval = batch_interval([0.3, 1.2, 2, 2.5, 4.1], 4, trimmed, 0.25, lower=0, upper=6)
    same(interval, (0.3, 4.25, 0.8253968254, (4, 10)))


def test_the_mean_of_unbounded_scores_has_no_bound():
    calibration, mean = [0.3, 1.2, 2, 2.5, 4.1], BatchScore.mean(2)
    assert batch_interval(calibration, 2, mean, 0.1, side="upper", upper=6).upper == pytest.approx(4.25)
    assert batch_interval(calibration, 2, mean, 0.1, side="upper").upper == np.inf
    assert batch_interval(calibration, 2, mean, 0.1).lower == -np.inf
    # Unless the region is so small that no test score can pass the largest calibration score.
    assert batch_interval(calibration, 2, mean, 0.7, side="upper").upper < np.inf


@given(
    calibration=st.lists(st.integers(-20, 20), min_size=1, max_size=6),
    m=st.integers(1, 4),
    alpha=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
    side=st.sampled_from(SIDES),
    pad=st.sampled_from([0.0, 5.0, np.inf]),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_bounds_are_the_extremes_over_all_rank_vectors(calibration, m, alpha, side, pad, data):
    scores = np.array(calibration) / 10
    lower, upper = scores.min() - pad, scores.max() + pad
    ones, equal = np.ones(m, dtype=int), np.full(m, 1 / m)
    expected = bounds_by_trying(scores, equal, ones, alpha, side, lower, upper)
    for mean in (BatchScore.mean(m), generic_mean(m), BatchScore.l_statistic(equal)):
        same(batch_interval(scores, m, mean, alpha, side=side, lower=lower, upper=upper), expected)

    some = st.lists(st.integers(0, 3), min_size=m, max_size=m).filter(any)
    weights, rank_weights = np.array(data.draw(some)) / 2, np.array(data.draw(some))
    score = BatchScore.l_statistic(weights, rank_weights)
    interval = batch_interval(scores, m, score, alpha, side=side, lower=lower, upper=upper)
    same(interval, bounds_by_trying(scores, weights, rank_weights, alpha, side, lower, upper))


@pytest.mark.parametrize("m", [2, 7, 16, 23])
def test_halving_equals_the_general_program_at_larger_sizes(m):
    scores = np.random.default_rng(m).exponential(size=25)
    for alpha in (0.02, 0.3):
        fast = batch_interval(scores, m, BatchScore.mean(m), alpha, lower=0, upper=9)
        slow = batch_interval(scores, m, generic_mean(m), alpha, lower=0, upper=9)
        same(fast, (slow.lower, slow.upper, slow.coverage, slow.rank_bounds))


def test_a_score_of_ones_own():
    largest = BatchScore(3, lambda i, a, s: np.maximum(a, s), lambda i, b, r: r, score_initial=-np.inf)
    for side in SIDES:
        got = batch_interval(SIX, 3, largest, 0.3, side=side, lower=0, upper=1)
        expected = order_statistic_interval(SIX, 3, 3, 0.3, side=side, lower=0, upper=1)
        same(got, (expected.lower, expected.upper, expected.coverage, expected.rank_bounds))


def test_one_test_point_is_split_conformal():
    scores = np.random.default_rng(1).normal(size=19)
    for alpha in (0.1, 0.25, 0.04):
        k = ceil((1 - alpha) * 20 - 1e-9)
        expected = np.append(np.sort(scores), np.inf)[k - 1]
        assert order_statistic_interval(scores, 1, 1, alpha, side="upper").upper == expected
        assert batch_interval(scores, 1, BatchScore.mean(1), alpha, side="upper").upper == expected
        for method in ("partition", "subsets"):
            assert baseline_interval(scores, 1, BatchScore.mean(1), alpha, method=method).upper == expected


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("order", [1, 3, 5])
def test_a_single_weight_is_an_order_statistic(side, order):
    scores = np.random.default_rng(2).normal(size=12)
    single = batch_interval(scores, 5, BatchScore.l_statistic(np.eye(5)[order - 1]), 0.2, side=side)
    expected = order_statistic_interval(scores, 5, order, 0.2, side=side)
    same(single, (expected.lower, expected.upper, expected.coverage, expected.rank_bounds))


def test_bounds_move_with_the_scores_and_ignore_their_order():
    rng = np.random.default_rng(3)
    scores = rng.random(15)
    for score in (BatchScore.mean(4), BatchScore.l_statistic([0, 0.5, 0.5, 0])):
        plain = batch_interval(scores, 4, score, 0.2, lower=0, upper=1)
        assert batch_interval(rng.permutation(scores), 4, score, 0.2, lower=0, upper=1) == plain
        moved = batch_interval(3 * scores - 2, 4, score, 0.2, lower=-2, upper=1)
        np.testing.assert_allclose([moved.lower, moved.upper], [3 * plain.lower - 2, 3 * plain.upper - 2])


def test_coverage_is_exact_for_order_statistics_and_at_least_nominal_for_the_mean_and_ties():
    rng, draws, n, m, alpha = np.random.default_rng(4), 4000, 12, 3, 0.25
    mean, covered = BatchScore.mean(m), np.zeros(3)
    for _ in range(draws):
        scores, test = rng.beta(1, 3, n), rng.beta(1, 3, m)
        covered[0] += test.mean() <= batch_interval(scores, m, mean, alpha, side="upper", upper=1).upper
        median = order_statistic_interval(scores, m, 2, alpha)
        covered[1] += median.lower <= np.median(test) <= median.upper
        scores, test = rng.integers(0, 3, n), rng.integers(0, 3, m)
        median = order_statistic_interval(scores, m, 2, alpha, lower=0, upper=2)
        covered[2] += median.lower <= np.median(test) <= median.upper
    deviation = np.sqrt(alpha * (1 - alpha) / draws)
    assert (covered / draws >= 1 - alpha - 4 * deviation).all()
    assert covered[1] / draws == pytest.approx(median.coverage, abs=4 * deviation)


# ----------------------------------------------------------------------------- order statistics and selection


def test_simultaneous_bounds():
    for alpha, rank, coverage in (
        (0.1, 188, 0.9020427773),
        (0.05, 190, 0.9506837619),
        (0.01, 194, 0.9935051526),
    ):
        interval = order_statistic_interval(np.arange(200), 100, 90, alpha, side="upper")
        same(interval, (-np.inf, rank - 1, coverage, (1, rank)))


def test_two_orders_at_once():
    interval = order_statistic_interval(range(1, 21), 8, (2, 6), 0.2, lower=0)
    same(interval, (0, 18, 0.8769230769, (1, 18)))


@given(n=st.integers(1, 6), m=st.integers(2, 4), alpha=st.sampled_from([0.02, 0.3, 0.8]), data=st.data())
@settings(max_examples=40, deadline=None)
def test_two_orders_are_what_counting_gives(n, m, alpha, data):
    z1 = data.draw(st.integers(1, m - 1))
    z2 = data.draw(st.integers(z1 + 1, m))
    ranks = rank_vectors(n, m)
    start, end = (int((n + 1) * z / (m + 1) + 0.5) for z in (z1, z2))
    for t in range(n + 2):
        low, high = max(1, start - t), min(n + 1, end + t)
        mass = ((ranks[:, z1 - 1] >= low) & (ranks[:, z2 - 1] <= high)).mean()
        if mass >= 1 - alpha - 1e-12:
            break
    padded = np.arange(n + 2.0)
    interval = order_statistic_interval(padded[1:-1], m, (z1, z2), alpha, lower=0, upper=n + 1)
    same(interval, (padded[low - 1], padded[high], mass, (low, high)))


def test_selection():
    predictions, outcomes = [3, 1, 4, 1, 5, 9, 2, 6], [0, 1, 0, 1, 1, 1, 0, 0]
    selection = select_test_points(predictions, outcomes, [0.5, 4.5, 7], 0.5, 0.4, max_false=1)
    assert (selection.cutoff, selection.rank) == (3, 6)
    assert selection.selected.tolist() == [False, True, True]
    assert selection.error_bound == pytest.approx(0.2787878788, abs=1e-10)


def test_selection_claims_nothing_that_it_cannot_back_and_all_that_cannot_fail():
    assert not select_test_points([1, 2, 3], [0, 0, 0], [9, 9], 0.5, 0.01).selected.any()
    sure = select_test_points(np.arange(200), np.ones(200), [-5, 0], 0.5, 0.1)
    assert sure.selected.all()
    assert sure.cutoff == -np.inf


def test_false_claims_are_rare_with_negative_predictions_too():
    rng, draws, alpha = np.random.default_rng(5), 1500, 0.2
    false = np.zeros((draws, 2))
    for row in false:
        x = rng.normal(size=70) - 2
        y = x + rng.normal(size=70)
        for k, max_false in enumerate((0, 3)):
            selection = select_test_points(x[:50], y[:50], x[50:], -2.0, alpha, max_false=max_false)
            assert selection.error_bound <= alpha
            row[k] = (selection.selected & (y[50:] <= -2)).sum() > max_false
    assert (false.mean(axis=0) <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / draws)).all()


# -------------------------------------------------------------------------------------------------- baselines


def test_partition_uses_the_order_given():
    mean = BatchScore.mean(2)
    blocks = baseline_interval([5, 1, 2, 2, 9, 9, 4, 3], 2, mean, 0.4)  # means 3, 2, 9, 3.5
    same(blocks, (-np.inf, 3.5, 0.6, (1, 3)))
    assert baseline_interval([1, 2, 2, 3, 4, 5, 9, 9], 2, mean, 0.4).upper == 4.5
    assert baseline_interval(range(8), 2, mean, 0.1).upper == np.inf
    assert baseline_interval(range(8), 2, mean, 0.1, upper=10).upper == 10


def test_subsets():
    mean = BatchScore.mean(2)
    assert comb(5, 2) == 10
    same(baseline_interval([1, 2, 4], 2, mean, 0.7, method="subsets"), (-np.inf, 3.0, 0.3, (1, 3)))
    assert baseline_interval([1, 2, 4], 2, mean, 0.6, method="subsets").upper == np.inf
    assert baseline_interval(range(100), 2, mean, 0.1, method="subsets").upper < np.inf
    # Trivial by its counts alone, so that the 8e8 subsets need not be evaluated.
    assert baseline_interval(range(40), 10, BatchScore.mean(10), 0.1, method="subsets").upper == np.inf
    assert baseline_interval(range(1000), 1000, BatchScore.mean(1000), 0.1, method="subsets").upper == np.inf


# -------------------------------------------------------------------------------------------------- bad input


def interval_of(calibration=SIX, n_test=3, score=None, alpha=0.2, **options):
    return batch_interval(calibration, n_test, score or BatchScore.mean(3), alpha, **options)


def order_of(order=2, **options):
    return order_statistic_interval(SIX, 3, order, options.pop("alpha", 0.2), **options)


def baseline_of(calibration=SIX, n_test=3, alpha=0.2, **options):
    return baseline_interval(calibration, n_test, BatchScore.mean(3), alpha, **options)


def selection_of(predictions=(1, 2), outcomes=(0, 1), test=(1, 2), alpha=0.2, threshold=0.5, **options):
    return select_test_points(predictions, outcomes, test, threshold, alpha, **options)


BAD_INPUT = {
    "calibration.*shape": lambda: interval_of([[1.0, 2.0]]),
    r"calibration.*\(0,\)": lambda: order_statistic_interval([], 1, 1, 0.1),
    "calibration.*nan": lambda: interval_of([0.1, np.nan]),
    "calibration.*inf": lambda: baseline_of([0.1, np.inf]),
    "n_test.*got 0": lambda: order_statistic_interval(SIX, 0, 1, 0.1),
    "n_test.*got 2.5": lambda: interval_of(n_test=2.5),
    "n_test.*got 4": lambda: interval_of(n_test=4),
    "n_test.*3 of the score, got 2": lambda: baseline_of(n_test=2),
    "n_test.*integer": lambda: BatchScore.mean(0),
    "n_test.*got -1": lambda: BatchScore(-1, lambda i, a, s: a, lambda i, b, r: b),
    "n_test.*score, got 5": lambda: rank_ordering_distribution(4, 5, BatchScore.mean(3)),
    "n_calibration.*got 0": lambda: rank_ordering_distribution(0, 3, BatchScore.mean(3)),
    "n_calibration.*got '4'": lambda: order_rank_pmf("4", 3, 2),
    "alpha.*got 0": lambda: interval_of(alpha=0),
    "alpha.*got 1.5": lambda: order_of(alpha=1.5),
    "alpha.*got 1$": lambda: selection_of(alpha=1),
    "alpha.*got nan": lambda: baseline_of(alpha=np.nan),
    "order.*got 4": lambda: order_of(4),
    "order.*got 0": lambda: order_rank_pmf(4, 3, 0),
    r"order.*got \(2, 2\)": lambda: order_of((2, 2)),
    r"order.*got \(3, 1\)": lambda: order_of((3, 1)),
    r"order.*got \(1, 2, 3\)": lambda: order_of((1, 2, 3)),
    "order.*n_test = 3, got 9": lambda: order_of((1, 9)),
    "side.*two orders.*upper": lambda: order_of((1, 2), side="upper"),
    "side.*got 'left'": lambda: order_of(side="left"),
    "side.*got 'both'": lambda: interval_of(side="both"),
    "method.*got 'split'": lambda: baseline_of(method="split"),
    "lower.*got 0.3": lambda: interval_of(lower=0.3),
    "upper.*got 0.5": lambda: order_of(upper=0.5),
    "lower.*got nan": lambda: baseline_of(lower=np.nan),
    "upper.*got nan": lambda: interval_of(upper=np.nan),
    "weights.*-1": lambda: BatchScore.l_statistic([1, -1]),
    r"weights.*\[0.0, 0.0\]": lambda: BatchScore.l_statistic([0, 0]),
    "weights.*nan": lambda: BatchScore.l_statistic([0, np.nan]),
    "rank_weights.*0.5": lambda: BatchScore.l_statistic([1, 1], [1, 0.5]),
    "rank_weights.*-2": lambda: BatchScore.l_statistic([1, 1], [1, -2]),
    "rank_weights.*length 2.*got 3": lambda: BatchScore.l_statistic([1, 1], [1, 1, 1]),
    "rank_step.*float64": lambda: interval_of(
        score=BatchScore(3, lambda i, a, s: a + s, lambda i, b, r: b + 0.5 * r)
    ),
    "max_false.*got 2": lambda: selection_of(max_false=2),
    "max_false.*got -1": lambda: selection_of(max_false=-1),
    "outcomes.*got 3": lambda: selection_of(outcomes=(0, 1, 1)),
    "predictions.*nan": lambda: selection_of(predictions=(1, np.nan)),
    "outcomes.*nan": lambda: selection_of(outcomes=(1, np.nan)),
    "test_predictions.*inf": lambda: selection_of(test=(1, np.inf)),
    "threshold.*nan": lambda: selection_of(threshold=np.nan),
    "2000000 subsets.*got 5 of 100": lambda: baseline_interval(
        range(100), 5, BatchScore.mean(5), 0.3, method="subsets"
    ),
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD_INPUT[message]()
