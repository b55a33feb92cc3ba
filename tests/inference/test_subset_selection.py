"""Multiwinner rules, bounded selection, bias and smoothness, against enumeration and closed forms."""

import pickle
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.inference.subset_selection import (
    CommitteeRule,
    _largest_ratios,
    committee_score,
    estimate_smoothness,
    item_scores,
    mallows_rankings,
    power_utility_borda_means,
    power_utility_rankings,
    power_utility_top_probabilities,
    rankings_needed,
    select_by_scores,
    select_committee,
    swap_bias,
)

SNTV, BORDA = CommitteeRule.sntv(), CommitteeRule.borda()
CC, HARMONIC = CommitteeRule.chamberlin_courant(), CommitteeRule.harmonic()
OWN = CommitteeRule("own", lambda m: np.sqrt(np.arange(m, 0, -1)), lambda k: 0.8 ** np.arange(k))
RULES = (SNTV, CommitteeRule.bloc(2), BORDA, CC, CommitteeRule.chamberlin_courant(2), HARMONIC,
         CommitteeRule.harmonic(2), OWN)  # fmt: skip
SEPARABLE = RULES[:3]
R = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
EXPONENTS, WEAK, THETA = [2, 1.5, 1, 0.5], [False, True, False, True], 0.6

seeds = st.integers(0, 2**32 - 1)
rules = st.sampled_from(RULES)
quick = settings(max_examples=60, deadline=None)


def plain_score(rankings, committee, rule):
    """The definition, item by item."""
    total = 0.0
    for ranking in rankings:
        best_first = sorted(list(ranking).index(item) for item in committee)
        worth, weights = rule.position_scores(len(ranking)), rule.owa(len(best_first))
        total += sum(w * worth[p] for w, p in zip(weights, best_first, strict=True))
    return total


def best_score(rankings, size, rule, groups, lower_bounds):
    m = len(rankings[0])
    return max(
        committee_score(rankings, committee, rule)
        for committee in combinations(range(m), size)
        if (np.bincount(groups[list(committee)], minlength=len(lower_bounds)) >= lower_bounds).all()
    )


def some_instance(seed):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(3, 8))
    rankings = mallows_rankings(int(rng.integers(1, 7)), rng.permutation(m), rng.random(), seed=rng)
    size = int(rng.integers(1, m + 1))
    groups = rng.integers(0, 3, m)
    bounds = rng.multinomial(size, [0.25] * 4)[:3]
    return rankings, size, groups, np.minimum(bounds, np.bincount(groups, minlength=3))


def inversions(ranking, upper, lower):
    """Pairs of an item of `lower` that stands above one of `upper`."""
    position = {item: p for p, item in enumerate(ranking)}
    return sum(position[j] < position[i] for i in upper for j in lower)


# ------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize(("rule", "expected"), list(zip(RULES, (2, 3, 10, 8, 3, 9, 3), strict=False)))
def test_score_at_a_worked_example(rule, expected):
    assert committee_score(R, [0, 2], rule) == pytest.approx(expected)


def test_item_scores_at_a_worked_example():
    assert item_scores(R, BORDA).tolist() == [6, 5, 4, 3]
    assert item_scores(R, SNTV).tolist() == [1, 1, 1, 0]


@quick
@given(seeds, rules)
def test_scores_are_the_definition(seed, rule):
    rankings, size, _, _ = some_instance(seed)
    m = rankings.shape[1]
    committee = np.random.default_rng(seed).permutation(m)[:size]
    assert committee_score(rankings, committee, rule) == pytest.approx(plain_score(rankings, committee, rule))
    single = [committee_score(rankings, [i], rule) for i in range(m)]
    assert item_scores(rankings, rule) == pytest.approx(single)


def test_an_empty_committee_scores_nothing():
    assert committee_score(R, [], HARMONIC) == 0.0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_scores_are_monotone_and_submodular(rule):
    rankings = mallows_rankings(4, np.arange(6), 0.9, seed=0)
    subsets = [frozenset(s) for size in range(7) for s in combinations(range(6), size)]
    score = {s: committee_score(rankings, sorted(s), rule) for s in subsets}
    for small in subsets:
        for large in filter(small.issubset, subsets):
            for item in set(range(6)) - large:
                late = score[large | {item}] - score[large]
                assert -1e-12 <= late <= score[small | {item}] - score[small] + 1e-12


def test_rules_are_values():
    assert CommitteeRule.bloc(3) == CommitteeRule.bloc(3) != CommitteeRule.bloc(4)
    for rule in RULES[:-1]:
        assert pickle.loads(pickle.dumps(rule)) == rule


# --------------------------------------------------------------------------------------------- selection


def test_selection_at_a_worked_example():
    borda = select_committee(R, 2, BORDA)
    assert (borda.items.tolist(), borda.score, borda.gains.tolist()) == ([0, 1], 11.0, [6.0, 5.0])
    cc = select_committee(R, 2, CC)
    assert (cc.items.tolist(), cc.score, cc.gains.tolist()) == ([0, 2], 8.0, [6.0, 2.0])
    for rule, expected in ((BORDA, 10), (CommitteeRule.bloc(2), 3)):
        bounded = select_committee(R, 2, rule, groups=[0, 0, 1, 1], lower_bounds=(0, 1), method="exact")
        assert bounded.score == expected


@quick
@given(seeds, rules)
def test_selection_against_enumeration(seed, rule):
    rankings, size, groups, bounds = some_instance(seed)
    best = best_score(rankings, size, rule, groups, bounds)
    unbounded = best_score(rankings, size, rule, groups, np.zeros(3, dtype=int))
    bounded = select_committee(rankings, size, rule, groups=groups, lower_bounds=bounds)
    free = select_committee(rankings, size, rule)
    assert len(set(bounded.items.tolist())) == size
    assert (np.bincount(groups[bounded.items], minlength=3) >= bounds).all()
    assert best / 2 - 1e-9 <= bounded.score <= best + 1e-9
    assert (1 - 1 / np.e) * unbounded - 1e-9 <= free.score <= unbounded + 1e-9
    if rule.separable:
        assert bounded.score == best


@quick
@given(seeds, rules)
def test_gains_sum_to_the_score_and_fall_without_bounds(seed, rule):
    rankings, size, _, _ = some_instance(seed)
    committee = select_committee(rankings, size, rule)
    assert committee.score == committee_score(rankings, committee.items, rule)
    assert committee.gains.sum() == pytest.approx(committee.score)
    assert (np.diff(committee.gains) <= 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(seeds, rules)
def test_the_integer_program_against_enumeration(seed, rule):
    rankings, size, groups, bounds = some_instance(seed)
    exact = select_committee(rankings, size, rule, groups=groups, lower_bounds=bounds, method="exact")
    assert exact.score == pytest.approx(best_score(rankings, size, rule, groups, bounds))
    assert len(exact.items) == size
    assert (np.bincount(groups[exact.items], minlength=3) >= bounds).all()
    assert exact.gains.size == (size if rule.separable else 0)


def test_the_integer_program_closes_its_gap():
    """A solver that is content with 0.01 % would miss a difference of one point among 20,000."""
    rankings = mallows_rankings(60, np.arange(9), 1.0, seed=5)
    exact = select_committee(rankings, 4, CC, method="exact")
    assert exact.score == best_score(rankings, 4, CC, np.zeros(9, dtype=int), np.zeros(1))


@quick
@given(seeds, rules)
def test_bounds_of_zero_change_nothing(seed, rule):
    rankings, size, groups, _ = some_instance(seed)
    bounded = select_committee(rankings, size, rule, groups=groups, lower_bounds=[0, 0, 0])
    assert bounded.items.tolist() == select_committee(rankings, size, rule).items.tolist()


@quick
@given(seeds, rules)
def test_a_doubled_profile_doubles_the_score_and_keeps_the_committee(seed, rule):
    rankings, size, groups, bounds = some_instance(seed)
    once = select_committee(rankings, size, rule, groups=groups, lower_bounds=bounds)
    twice = select_committee(np.vstack([rankings, rankings]), size, rule, groups=groups, lower_bounds=bounds)
    assert twice.items.tolist() == once.items.tolist()
    assert twice.score == pytest.approx(2 * once.score)


def test_relabelled_items_give_the_relabelled_committee():
    rankings = mallows_rankings(101, np.arange(8), 0.8, seed=3)
    names = np.random.default_rng(0).permutation(8)
    for rule in (BORDA, CC, HARMONIC, OWN):
        committee = select_committee(rankings, 4, rule)
        assert select_committee(names[rankings], 4, rule).items.tolist() == names[committee.items].tolist()


def test_ties_go_to_the_lowest_index_also_under_rounding():
    everyone_first = [np.roll(np.arange(7), -i) for i in range(7)]
    for rule in RULES:
        assert select_committee(everyone_first, 1, rule).items.tolist() == [0]
    # Every item has each position once: their scores are one sum in seven orders.
    roots = CommitteeRule("roots", lambda m: np.sqrt(np.arange(m, 0, -1)), np.ones, separable=True)
    assert len(set(item_scores(everyone_first, roots).tolist())) > 1
    assert select_committee(everyone_first, 3, roots).items.tolist() == [0, 1, 2]


def test_selection_by_scores_is_that_of_a_separable_rule():
    rng = np.random.default_rng(0)
    rankings = mallows_rankings(40, rng.permutation(12), 0.9, seed=rng)
    groups = np.arange(12) % 3
    for rule in SEPARABLE:
        chosen = select_by_scores(item_scores(rankings, rule), 6, groups=groups, lower_bounds=[3, 1, 2])
        committee = select_committee(rankings, 6, rule, groups=groups, lower_bounds=[3, 1, 2])
        assert chosen.tolist() == committee.items.tolist()


def test_groups_may_be_a_mask():
    mask = np.array([False, False, True, True])
    committee = select_committee(R, 2, BORDA, groups=mask, lower_bounds=[0, 2])
    assert committee.items.tolist() == [2, 3]


# -------------------------------------------------------------------------------------------------- bias


def test_no_swaps_leave_the_rankings_and_all_swaps_separate_the_groups():
    rankings = mallows_rankings(30, np.arange(10), 1.0, seed=0)
    advantaged = np.arange(10) % 2 == 1
    before = rankings.copy()
    assert swap_bias(rankings, advantaged, fraction=0.0, seed=0).tolist() == rankings.tolist()
    assert advantaged[swap_bias(rankings, advantaged, fraction=1.0, seed=0)[:, :5]].all()
    assert (rankings == before).all()
    for nobody in (np.zeros(10, dtype=bool), np.ones(10, dtype=bool)):
        assert swap_bias(rankings, nobody, fraction=1.0, seed=0).tolist() == rankings.tolist()


@quick
@given(seeds, st.floats(0, 1))
def test_neighbours_alone_swap_as_phi_vanishes(seed, fraction):
    rankings = mallows_rankings(5, np.arange(9), 1.0, seed=seed)
    mask = np.random.default_rng(seed).random(9) < 0.5
    advantaged, others = np.flatnonzero(mask), np.flatnonzero(~mask)
    biased = swap_bias(rankings, mask, fraction=fraction, phi=1e-7, seed=seed)
    for before, after in zip(rankings, biased, strict=True):
        pairs = inversions(before, advantaged, others)
        assert inversions(after, advantaged, others) == pairs - int(fraction * pairs + 1e-9)
        for group in (advantaged, others):
            assert [i for i in after if i in group] == [i for i in before if i in group]


@quick
@given(seeds, st.floats(0, 1), st.floats(1e-300, 0.999))
def test_bias_only_lifts_the_advantaged(seed, fraction, phi):
    rankings = mallows_rankings(5, np.arange(9), 1.0, seed=seed)
    mask = np.random.default_rng(seed).random(9) < 0.5
    biased = swap_bias(rankings, mask, fraction=fraction, phi=phi, seed=seed)
    assert (np.sort(biased, axis=1) == np.arange(9)).all()
    places = np.cumsum(mask[biased], axis=1) - np.cumsum(mask[rankings], axis=1)
    assert (places >= 0).all()


def test_pairs_are_drawn_in_proportion_to_phi_to_their_distance():
    # One swap of [2, 3, 0, 1] (a quarter of its four pairs) with items 0 and 1 advantaged.
    phi, n = 0.5, 40_000
    biased = swap_bias(np.tile([2, 3, 0, 1], (n, 1)), np.arange(4) < 2, fraction=0.25, phi=phi, seed=0)
    rows, counts = np.unique(biased, axis=0, return_counts=True)
    seen = {tuple(row): count / n for row, count in zip(rows.tolist(), counts, strict=True)}
    weights = {(2, 0, 3, 1): phi, (0, 3, 2, 1): phi**2, (2, 1, 0, 3): phi**2, (1, 3, 0, 2): phi**3}
    total = sum(weights.values())
    assert seen.keys() == weights.keys()
    for row, weight in weights.items():
        assert seen[row] == pytest.approx(weight / total, abs=4 * 0.5 / np.sqrt(n))


def test_a_swapped_pair_is_not_swapped_back():
    for seed in range(20):
        biased = swap_bias([[2, 0, 1]], [True, True, False], fraction=1.0, seed=seed)
        assert biased[0, 2] == 2


def test_the_number_of_swaps_is_exact_in_decimals():
    # 100 pairs: 0.29 * 100 is below 29 in binary.
    ranking = np.append(np.arange(10, 20), np.arange(10))
    mask = np.arange(20) < 10
    biased = swap_bias([ranking], mask, fraction=0.29, phi=1e-9, seed=0)
    assert inversions(biased[0], range(10), range(10, 20)) == 71


# --------------------------------------------------------------------------------- rankings, closed forms


def test_power_utilities_at_a_worked_example():
    top = power_utility_top_probabilities(EXPONENTS, disadvantaged=WEAK, bias=THETA)
    borda = power_utility_borda_means(EXPONENTS, disadvantaged=WEAK, bias=THETA)
    assert top == pytest.approx([0.60906667, 0.0648, 0.30453333, 0.0216], abs=1e-8)
    assert borda == pytest.approx([2.44038095, 1.26428571, 1.77333333, 0.522], abs=1e-8)


@pytest.mark.parametrize(("weak", "bias"), [(None, 1.0), (WEAK, 0.6), ([True] * 4, 0.3), (WEAK, 0.01)])
def test_closed_forms_against_simulation(weak, bias):
    n = 100_000
    rankings = power_utility_rankings(n, EXPONENTS, disadvantaged=weak, bias=bias, seed=1)
    top = power_utility_top_probabilities(EXPONENTS, disadvantaged=weak, bias=bias)
    borda = power_utility_borda_means(EXPONENTS, disadvantaged=weak, bias=bias)
    assert item_scores(rankings, SNTV) / n == pytest.approx(top, abs=4 * 0.5 / np.sqrt(n))
    assert item_scores(rankings, BORDA) / n == pytest.approx(borda, abs=4 * 1.5 / np.sqrt(n))


@quick
@given(seeds, st.floats(1e-3, 1))
def test_closed_forms_add_up(seed, bias):
    rng = np.random.default_rng(seed)
    exponents, weak = rng.uniform(0.1, 3, 7), rng.random(7) < 0.5
    top = power_utility_top_probabilities(exponents, disadvantaged=weak, bias=bias)
    borda = power_utility_borda_means(exponents, disadvantaged=weak, bias=bias)
    assert top.sum() == pytest.approx(1)
    assert borda.sum() == pytest.approx(7 * 6 / 2)
    assert (top > 0).all()


def test_no_bias_is_a_bias_of_one():
    assert power_utility_top_probabilities(EXPONENTS) == pytest.approx(np.array(EXPONENTS) / 5)
    plain = power_utility_rankings(5, EXPONENTS, seed=0)
    assert (power_utility_rankings(5, EXPONENTS, disadvantaged=WEAK, seed=0) == plain).all()


@pytest.mark.parametrize("q", [0.0, 0.4, 1.0])
def test_mallows_probabilities(q):
    n, center = 60_000, np.array([2, 0, 1])
    rankings = mallows_rankings(n, center, q, seed=0)
    for ranking in permutations(range(3)):
        place = [ranking.index(item) for item in center]
        distance = sum(place[i] > place[j] for i, j in combinations(range(3), 2))
        probability = q**distance / ((1 + q) * (1 + q + q * q))
        share = (rankings == ranking).all(axis=1).mean()
        assert share == pytest.approx(probability, abs=4 * 0.5 / np.sqrt(n))


def test_a_generator_is_drawn_from_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    one, two = (mallows_rankings(50, np.arange(6), 0.9, seed=rng) for _ in range(2))
    assert (one != two).any()
    assert (one == mallows_rankings(50, np.arange(6), 0.9, seed=0)).all()
    mask = np.arange(6) > 2
    assert (swap_bias(one, mask, fraction=0.5, seed=3) == swap_bias(one, mask, fraction=0.5, seed=3)).all()


# -------------------------------------------------------------------------------------------- smoothness


def estimate(rule, n=200, bias=THETA, **options):
    """Independent biased and latent rankings of the power utilities, as the closed forms have them."""
    return estimate_smoothness(
        rule,
        lambda rng: power_utility_rankings(n, EXPONENTS, seed=rng),
        lambda rankings, rng: power_utility_rankings(
            len(rankings), EXPONENTS, disadvantaged=WEAK, bias=bias, seed=rng
        ),
        WEAK,
        **options,
    )


@pytest.mark.parametrize(
    ("rule", "closed_form"), [(SNTV, power_utility_top_probabilities), (BORDA, power_utility_borda_means)]
)
def test_smoothness_against_the_closed_form(rule, closed_form):
    smoothness = estimate(rule, n_trials=200, seed=0)
    latent = closed_form(EXPONENTS)
    biased = closed_form(EXPONENTS, disadvantaged=WEAK, bias=THETA)
    largest = rule.position_scores(4)[0]
    alpha = min(latent.min(), biased.min()) / largest
    assert abs(smoothness.alpha - alpha) <= 4 * smoothness.alpha_error
    assert 0 < smoothness.alpha_error < 0.1 * alpha
    assert smoothness.latent_scores == pytest.approx(latent, abs=0.02 * largest)
    assert smoothness.biased_scores == pytest.approx(biased, abs=0.02 * largest)
    # The ratios within the groups are two in number: item 2 to item 0, and item 3 to item 1.
    ratios = [(latent[2] / latent[0], biased[2] / biased[0]), (latent[3] / latent[1], biased[3] / biased[1])]
    for beta in (0.6, 0.95):
        expected = max(after for before, after in ratios if before <= beta)
        nearest = np.argmin(abs(smoothness.beta - beta))
        assert smoothness.gamma[nearest] == pytest.approx(expected, abs=0.05)


def test_the_error_of_alpha_is_the_deviation_of_its_estimates():
    estimates = [estimate(BORDA, n=20, n_trials=30, seed=seed) for seed in range(200)]
    deviation = np.std([one.alpha for one in estimates])
    assert np.mean([one.alpha_error for one in estimates]) == pytest.approx(deviation, rel=0.2)


@quick
@given(seeds, st.sampled_from(RULES))
def test_gamma_rises_with_beta_and_without_bias_stays_below_it(seed, rule):
    def smoothness(bias):
        rng = np.random.default_rng(seed)
        return estimate_smoothness(
            rule,
            lambda rng: mallows_rankings(3, np.arange(6), 0.8, seed=rng),
            bias,
            rng.integers(0, 2, 6),
            n_trials=3,
            n_beta=17,
            seed=rng,
        )

    unbiased = smoothness(lambda rankings, rng: rankings)
    assert (unbiased.gamma <= unbiased.beta).all()
    biased = smoothness(
        lambda rankings, rng: swap_bias(rankings, np.arange(6) % 2 == 0, fraction=0.5, seed=rng)
    )
    assert (biased.gamma[1:] >= biased.gamma[:-1]).all()


def test_gamma_is_the_definition():
    rng = np.random.default_rng(0)
    latent, biased, groups = rng.random(9), rng.random(9), rng.integers(0, 3, 9)
    beta = np.linspace(0.05, 1, 20)
    for b, gamma in zip(beta, _largest_ratios(beta, latent, biased, groups), strict=True):
        pairs = [(i, j) for i, j in permutations(range(9), 2) if groups[i] == groups[j]]
        ratios = [biased[j] / biased[i] for i, j in pairs if latent[j] <= b * latent[i]]
        assert gamma == pytest.approx(max(ratios, default=0.0))


def test_gamma_where_a_good_item_never_scores():
    def gamma(biased):
        values = _largest_ratios(np.array([0.9]), np.array([4.0, 2.0]), np.array(biased), np.array([0, 0]))
        return float(values[0])

    assert gamma([0.0, 1.0]) == np.inf
    assert gamma([0.0, 0.0]) == 1.0
    assert gamma([1.0, 0.0]) == 0.0


def test_number_of_rankings_needed():
    assert rankings_needed(0.01, 0.1, 20) == 200539
    assert rankings_needed(0.02, 0.1, 20) == pytest.approx(200539 / 2, abs=1)


def test_so_many_rankings_tell_the_scores():
    exponents = np.linspace(2, 0.5, 8)
    weak = np.arange(8) % 2 == 1
    means = power_utility_borda_means(exponents, disadvantaged=weak, bias=THETA)
    n = rankings_needed(means.min() / 7, 0.2, 8, failure=0.1)
    failures = 0
    for seed in range(50):
        rankings = power_utility_rankings(n, exponents, disadvantaged=weak, bias=THETA, seed=seed)
        failures += (abs(item_scores(rankings, BORDA) / n / means - 1) > 0.2).any()
    assert failures <= 5


# --------------------------------------------------------------------------------------------- bad input

MASK = [True, True, False, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: item_scores([0, 1, 2], BORDA), r"rankings must be a non-empty \(n, m\) array"),
        (lambda: item_scores(np.empty((0, 3), dtype=int), BORDA), "rankings must be a non-empty"),
        (lambda: item_scores([[0.0, 1.0]], BORDA), "rankings must be .* integers, got .* float64"),
        (lambda: item_scores([[0, 1], [1, 1]], BORDA), r"rankings .* got \[1, 1\] in row 1"),
        (lambda: item_scores([[1, 2]], BORDA), r"permutation of 0..1 .* got \[1, 2\] in row 0"),
        (lambda: item_scores([[-1, 0]], BORDA), r"got \[-1, 0\] in row 0"),
        (lambda: committee_score(R, [0, 0], BORDA), r"committee must be distinct .* got \[0, 0\]"),
        (lambda: committee_score(R, [4], BORDA), r"committee must be items in 0..3, got \[4\]"),
        (lambda: committee_score(R, [-1], BORDA), r"committee .* got \[-1\]"),
        (lambda: committee_score(R, [0.5], BORDA), r"committee must be .* integers, got \[0.5\]"),
        (lambda: select_committee(R, 0, BORDA), r"size must be an integer in 1..4, got 0"),
        (lambda: select_committee(R, 5, BORDA), "size .* got 5"),
        (lambda: select_committee(R, 1.5, BORDA), "size .* got 1.5"),
        (lambda: select_committee(R, 2, BORDA, method="best"), "method must be .* got 'best'"),
        (lambda: select_committee(R, 2, BORDA, groups=MASK), "lower_bounds must be given"),
        (lambda: select_committee(R, 2, BORDA, lower_bounds=[1]), "groups must be given"),
        (lambda: select_committee(R, 2, BORDA, groups=[0, 1], lower_bounds=[0, 1]), r"groups must be \(4,\)"),
        (lambda: select_committee(R, 2, BORDA, groups=[0, 0, 1, 2], lower_bounds=[0, 1]),
         r"groups must be in 0..1, .* got \[0, 0, 1, 2\]"),
        (lambda: select_committee(R, 2, BORDA, groups=[0, 0, -1, 1], lower_bounds=[0, 1]), "groups .* -1"),
        (lambda: select_committee(R, 2, BORDA, groups=MASK, lower_bounds=[0, -1]),
         r"lower_bounds must be nonnegative .* got \[0, -1\]"),
        (lambda: select_committee(R, 2, BORDA, groups=MASK, lower_bounds=[0, 0.5]), "lower_bounds .* 0.5"),
        (lambda: select_committee(R, 2, BORDA, groups=MASK, lower_bounds=[2, 1]),
         r"lower_bounds must be at most size = 2 in sum, got \[2, 1\]"),
        (lambda: select_committee(R, 4, BORDA, groups=MASK, lower_bounds=[3, 0]),
         r"lower_bounds must be at most the groups' sizes \[2, 2\], got \[3, 0\]"),
        (lambda: select_by_scores([1.0, np.nan], 1), "scores must be .* finite"),
        (lambda: select_by_scores([], 1), "scores must be a non-empty"),
        (lambda: swap_bias(R, MASK, fraction=1.1), r"fraction must be in \[0, 1\], got 1.1"),
        (lambda: swap_bias(R, MASK, fraction=float("nan")), "fraction .* got nan"),
        (lambda: swap_bias(R, MASK, fraction=0.5, phi=0.0), r"phi must be in \(0, 1\), got 0.0"),
        (lambda: swap_bias(R, MASK, fraction=0.5, phi=1.0), "phi .* got 1.0"),
        (lambda: swap_bias(R, [1, 0, 0, 1], fraction=0.5), r"advantaged must be \(4,\) booleans"),
        (lambda: power_utility_rankings(0, [1.0]), "n_rankings must be an integer of at least 1, got 0"),
        (lambda: power_utility_rankings(1, [1.0, 0.0]), r"exponents must be .* got \[1.0, 0.0\]"),
        (lambda: power_utility_rankings(1, [1.0], bias=0.0), r"bias must be in \(0, 1\], got 0.0"),
        (lambda: power_utility_rankings(1, [1.0], bias=1.5), "bias .* got 1.5"),
        (lambda: power_utility_rankings(1, [1.0], disadvantaged=[True, True]), "disadvantaged must be"),
        (lambda: mallows_rankings(1, [0, 0], 0.5), r"center must be a permutation .* got \[0, 0\]"),
        (lambda: mallows_rankings(1, [0, 1], -0.1), r"dispersion must be in \[0, 1\], got -0.1"),
        (lambda: rankings_needed(0.0, 0.1, 5), r"alpha must be in \(0, 1\], got 0.0"),
        (lambda: rankings_needed(0.1, 0.0, 5), "tolerance .* got 0.0"),
        (lambda: rankings_needed(0.1, 0.1, 0), "n_items .* got 0"),
        (lambda: rankings_needed(0.1, 0.1, 5, failure=1.0), "failure .* got 1.0"),
        (lambda: estimate(BORDA, n_trials=1), "n_trials must be at least 2.* got 1"),
        (lambda: estimate(BORDA, n_beta=0), "n_beta .* got 0"),
        (lambda: estimate_smoothness(BORDA, lambda rng: R, lambda r, rng: r, [0, 1]), "groups must .* got 2"),
        (lambda: CommitteeRule.bloc(0), "size .* got 0"),
        (lambda: CommitteeRule.harmonic(0), "approval .* got 0"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_scores": lambda m: np.arange(m)}, "position_scores must be 4 finite numbers"),
        ({"position_scores": lambda m: -np.arange(m)}, "position_scores must be .* nonnegative"),
        ({"position_scores": lambda m: np.ones(m + 1)}, "position_scores must be 4 finite numbers"),
        ({"position_scores": lambda m: np.full(m, np.inf)}, "position_scores must be 4 finite"),
        ({"owa": lambda k: np.arange(1, k + 1)}, r"owa must be 2 finite .* got \[1.0, 2.0\]"),
        ({"owa": lambda k: -np.ones(k)}, "owa must be 2 finite .* nonnegative"),
        ({"owa": lambda k: 1 / np.arange(1, k + 1)}, r"owa must be constant .* got \[1.0, 0.5\]"),
    ],
)
def test_an_invalid_rule_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        select_committee(R, 2, replace(BORDA, **changes))


def test_smoothness_needs_a_score_to_compare_with():
    nothing = CommitteeRule("nothing", np.zeros, np.ones)
    with pytest.raises(ValueError, match="position_scores must be positive"):
        estimate(nothing)
