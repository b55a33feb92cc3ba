"""GameOpt: equilibria against enumeration, the surrogate against its closed form, and what `ask` promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from assay.optimize import gameopt
from assay.optimize.gameopt import (
    CategoricalGP,
    EpistaticLandscape,
    GameOpt,
    best_response_equilibrium,
    equilibrium_gap,
    hedge_equilibria,
)

SIZES = (3, 5, 2, 4, 3)
GROUPS = ([0, 3], [2], [4, 1])


def payoff_of(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: table[tuple(points.T)]


def every_point(sizes: tuple[int, ...]) -> np.ndarray:
    return np.array(list(itertools.product(*map(range, sizes))))


def largest_group_gain(table: np.ndarray, point: np.ndarray, groups: Any) -> float:
    """By going through the whole table."""
    points = every_point(table.shape)
    gains = []
    for group in groups:
        others = [i for i in range(table.ndim) if i not in group]
        reachable = points[(points[:, others] == point[others]).all(axis=1)]
        gains.append(table[tuple(reachable.T)].max() - table[tuple(point)])
    return max(gains)


@pytest.fixture(scope="module")
def landscape() -> EpistaticLandscape:
    return EpistaticLandscape(5, 4, seed=3)


def told(landscape: EpistaticLandscape, n: int = 15, **choices: Any) -> GameOpt:
    rng = np.random.default_rng(8)
    points = rng.integers(landscape.n_choices, size=(n, len(landscape.n_choices)))
    optimiser = GameOpt(landscape.n_choices, embeddings=landscape.embeddings, random_state=4, **choices)
    return optimiser.tell(points, landscape(points))


# --- Equilibria ----------------------------------------------------------------------------------------


def test_a_two_by_two_game() -> None:
    payoff = payoff_of(np.array([[3.0, 0.0], [0.0, 2.0]]))
    moved = best_response_equilibrium(payoff, [0, 1], 2)
    assert (moved.point.tolist(), moved.value, moved.converged, moved.n_rounds) == ([0, 0], 3.0, True, 2)
    assert moved.point.dtype == np.int64
    stayed = best_response_equilibrium(payoff, [1, 1], 2)
    assert (stayed.point.tolist(), stayed.value, stayed.n_rounds) == ([1, 1], 2.0, 1)
    assert equilibrium_gap(payoff, [1, 1], 2) == 0
    assert equilibrium_gap(payoff, [0, 1], 2) == 3


@given(st.integers(0, 2**32 - 1), st.sampled_from(["best", "cyclic"]), st.sampled_from([None, GROUPS]))
@settings(max_examples=40, deadline=None)
def test_nobody_gains_from_leaving(seed: int, order: Any, groups: Any) -> None:
    rng = np.random.default_rng(seed)
    table, start = rng.normal(size=SIZES), rng.integers(SIZES)
    rows = []

    def payoff(points: np.ndarray) -> np.ndarray:
        rows.append(len(points))
        return payoff_of(table)(points)

    result = best_response_equilibrium(payoff, start, SIZES, groups=groups, order=order)
    assert result.converged
    assert result.n_evaluations == sum(rows)
    assert result.value == table[tuple(result.point)] >= table[tuple(start)]
    players = groups or [[i] for i in range(len(SIZES))]
    assert largest_group_gain(table, result.point, players) <= 0
    assert equilibrium_gap(payoff_of(table), start, SIZES, groups=groups) == pytest.approx(
        largest_group_gain(table, start, players), abs=1e-15
    )


@pytest.mark.parametrize("order", ["best", "cyclic"])
def test_one_player_of_all_variables_finds_the_maximum(order: Any) -> None:
    table = np.random.default_rng(0).normal(size=SIZES)
    result = best_response_equilibrium(
        payoff_of(table), [0] * 5, SIZES, groups=[[3, 0, 1, 4, 2]], order=order
    )
    assert result.value == table.max()
    assert result.n_evaluations == 1 + 2 * table.size


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_additive_payoffs_have_one_equilibrium(seed: int) -> None:
    rng = np.random.default_rng(seed)
    effects = [rng.permutation(size) * 2.0 for size in SIZES]

    def payoff(points: np.ndarray) -> np.ndarray:
        return sum(effect[column] for effect, column in zip(effects, points.T, strict=True))

    best = [effect.argmax() for effect in effects]
    start = rng.integers(SIZES)
    result = best_response_equilibrium(payoff, start, SIZES)
    assert result.point.tolist() == best
    # Each variable moves once, to its best; the last round finds nothing.
    assert result.n_rounds == 1 + np.count_nonzero(start != best)
    assert best_response_equilibrium(payoff, start, SIZES, order="cyclic").n_rounds <= 2
    draws = hedge_equilibria(payoff, start, SIZES, n_rounds=60, seed=seed)
    assert draws.tolist() == [best]


def test_ties_keep_the_point_and_then_go_to_the_first() -> None:
    flat = best_response_equilibrium(lambda x: np.zeros(len(x)), [1, 1], 3)
    assert (flat.point.tolist(), flat.n_rounds) == ([1, 1], 1)
    table = np.array([[0.0, 1.0, 1.0], [1.0, 5.0, 5.0], [1.0, 5.0, 5.0]])
    assert best_response_equilibrium(payoff_of(table), [0, 0], 3).point.tolist() == [1, 1]


def test_max_rounds_ends_a_game() -> None:
    payoff = lambda points: points.sum(axis=1).astype(float)  # noqa: E731
    result = best_response_equilibrium(payoff, [0, 0, 0], 4, max_rounds=2)
    assert (result.converged, result.n_rounds, result.value) == (False, 2, 6.0)


@given(st.floats(1e-3, 1e3), st.floats(-1e6, 1e6))
@settings(max_examples=15, deadline=None)
def test_equilibria_do_not_depend_on_the_scale_of_payoffs(scale: float, shift: float) -> None:
    table = np.random.default_rng(5).normal(size=SIZES)
    plain = best_response_equilibrium(payoff_of(table), [0] * 5, SIZES)
    moved = best_response_equilibrium(payoff_of(shift + scale * table), [0] * 5, SIZES)
    assert moved.point.tolist() == plain.point.tolist()


# --- Hedge ---------------------------------------------------------------------------------------------


def test_hedge_draws_from_the_softmax_of_summed_payoffs() -> None:
    """Where payoffs do not depend on the others, the weights after t rounds are known."""
    effect = np.array([0.0, 0.3, 0.9])
    rate, rounds, players = 0.5, 3, 4000
    counts = np.zeros(3)
    rng = np.random.default_rng(1)
    for _ in range(players):
        last = hedge_equilibria(
            lambda points: effect[points[:, 0]],
            [0],
            3,
            learning_rate=rate,
            n_rounds=rounds,
            n_last=1,
            seed=rng,
        )
        counts[last[0, 0]] += 1
    weights = np.exp(rate * rounds * effect)
    expected = players * weights / weights.sum()
    # Chi-squared with two degrees of freedom exceeds 13.8 once in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 13.8


def test_hedge_approaches_a_coarse_correlated_equilibrium() -> None:
    """No player would have gained much, over all draws, by any one fixed action."""
    table = np.random.default_rng(11).random((4, 5, 3))
    trace = []

    def payoff(points: np.ndarray) -> np.ndarray:
        trace.append(points.copy())
        return payoff_of(table)(points)

    n_rounds = 2000
    rate = np.sqrt(8 * np.log(5) / n_rounds)
    hedge_equilibria(payoff, [0, 0, 0], table.shape, learning_rate=rate, n_rounds=n_rounds, seed=0)
    played = np.array([_point_of(rows) for rows in trace])
    fixed = np.mean([payoff_of(table)(rows) for rows in trace], axis=0)
    regret = fixed.max() - payoff_of(table)(played).mean()
    # In expectation at most sqrt(log(5) / (2 n_rounds)) = 0.02 for payoffs in [0, 1].
    assert regret < 0.05


def _point_of(deviations: np.ndarray) -> np.ndarray:
    """The point that all deviations have in common: each variable's commonest choice."""
    return np.array([np.bincount(column).argmax() for column in deviations.T])


def test_hedge_stands_large_payoffs_and_repeats_itself() -> None:
    table = 1e6 * np.random.default_rng(2).normal(size=SIZES)
    draws = hedge_equilibria(payoff_of(table), [0] * 5, SIZES, n_rounds=30, n_last=5, seed=1)
    again = hedge_equilibria(payoff_of(table), [0] * 5, SIZES, n_rounds=30, n_last=5, seed=1)
    assert draws.tolist() == again.tolist()
    assert len(np.unique(draws, axis=0)) == len(draws) <= 5
    assert largest_group_gain(table, draws[-1], [[i] for i in range(5)]) == 0
    whole = hedge_equilibria(payoff_of(table), [0] * 5, SIZES, groups=[range(5)], n_rounds=3, seed=1)
    assert table[tuple(whole[-1])] == table.max()


# --- The surrogate -------------------------------------------------------------------------------------


def features_of(points: np.ndarray, embeddings: list[np.ndarray], lengthscales: np.ndarray) -> np.ndarray:
    return np.hstack([E[x] / s for E, x, s in zip(embeddings, points.T, lengthscales, strict=True)])


@pytest.fixture(scope="module")
def posterior() -> tuple[CategoricalGP, np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(1)
    embeddings = [rng.normal(size=(q, d)) for q, d in zip(SIZES, (2, 1, 3, 2, 4), strict=True)]
    lengthscales = rng.uniform(0.5, 3, size=5)
    points = rng.integers(SIZES, size=(30, 5))
    values = 7 + 3 * rng.normal(size=30)
    model = CategoricalGP(SIZES, embeddings=embeddings, lengthscales=lengthscales, noise_variance=0.05)
    return model.fit(points, values), points, values, embeddings, lengthscales


def test_the_posterior_is_that_of_scikit_learn(posterior: Any) -> None:
    model, points, values, embeddings, lengthscales = posterior
    rows = every_point(SIZES)
    oracle = GaussianProcessRegressor(RBF(1.0), alpha=0.05, optimizer=None)
    oracle.fit(features_of(points, embeddings, lengthscales), (values - values.mean()) / values.std())
    mean, sd = oracle.predict(features_of(rows, embeddings, lengthscales), return_std=True)
    ours = model.predict(rows)
    np.testing.assert_allclose(ours[0], values.mean() + values.std() * mean, rtol=1e-9)
    np.testing.assert_allclose(ours[1], values.std() * sd, rtol=1e-7)
    np.testing.assert_allclose(model.upper_confidence_bound(rows, 1.5), ours[0] + 1.5 * ours[1], rtol=1e-12)


def test_one_hot_letters_differ_by_two() -> None:
    model = CategoricalGP([3, 3], lengthscales=2.0, noise_variance=0.1).fit([[0, 0], [1, 2]], [-1.0, 1.0])
    one, two = np.exp(-0.5 * 2 / 4), np.exp(-0.5 * 4 / 4)
    K = np.array([[1.1, two], [two, 1.1]])
    mean, sd = model.predict([[0, 2], [2, 0]])
    for i, k in enumerate(([one, one], [one, two])):
        weights = np.linalg.solve(K, k)
        assert mean[i] == pytest.approx(weights @ [-1.0, 1.0], abs=1e-12)
        assert sd[i] == pytest.approx(np.sqrt(1 - weights @ k), rel=1e-12)


def test_without_noise_it_interpolates_and_is_surest_at_the_data() -> None:
    points, values = every_point((3, 4))[::2], np.arange(6.0) ** 2
    model = CategoricalGP([3, 4], lengthscales=1.0, noise_variance=1e-9).fit(points, values)
    mean, sd = model.predict(points)
    np.testing.assert_allclose(mean, values, atol=1e-6)
    elsewhere = model.predict(every_point((3, 4))[1::2])[1]
    assert sd.max() < 1e-3 * elsewhere.min()


def test_points_told_twice_do_no_harm() -> None:
    points = np.repeat(every_point((2, 2)), 30, axis=0)
    for noise in (1e-3, 1e-12):
        model = CategoricalGP([2, 2], lengthscales=1.0, noise_variance=noise)
        mean, _ = model.fit(points, np.repeat([1.0, 2.0, 3.0, 4.0], 30)).predict(every_point((2, 2)))
        np.testing.assert_allclose(mean, [1, 2, 3, 4], atol=1e-3)


def test_the_lengthscales_are_where_the_posterior_is_level() -> None:
    """Scikit-learn's marginal likelihood and the prior, differentiated in the log of each lengthscale."""
    rng = np.random.default_rng(6)
    landscape = EpistaticLandscape(3, 6, seed=rng)
    points = rng.integers(6, size=(40, 3))
    values = landscape(points)
    E = landscape.embeddings
    model = CategoricalGP([6] * 3, embeddings=E, noise_variance=0.1).fit(points, values)
    median = np.sqrt(3 * np.square(E[:, None] - E).sum(axis=-1).mean())
    features = features_of(points, [E] * 3, np.ones(3))
    oracle = GaussianProcessRegressor(RBF(np.ones(9)) + WhiteKernel(0.1), optimizer=None)
    oracle.fit(features, (values - values.mean()) / values.std())

    def log_posterior(log_lengthscales: np.ndarray) -> float:
        theta = np.r_[np.repeat(log_lengthscales, 3), np.log(0.1)]
        prior = -np.square(log_lengthscales - np.log(median)).sum() / (2 * 3)
        return oracle.log_marginal_likelihood(theta) + prior

    at = np.log(model.lengthscales_)
    slope = approx_fprime(at, log_posterior, 1e-6)
    assert np.abs(slope).max() < 0.01
    assert log_posterior(at) > log_posterior(np.full(3, np.log(median))) + 1e-3


def test_when_lengthscales_are_fitted() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(4, size=(20, 3))
    first, second = points @ [1.0, 0, 0], points @ [0, 0, 1.0]
    once, always = CategoricalGP([4] * 3), CategoricalGP([4] * 3, refit="always")
    flat = once.fit(points, np.ones(20)).lengthscales_.copy()
    np.testing.assert_allclose(flat, np.sqrt(3 * 1.5))  # distances 2 for 12 of 16 pairs
    before = once.fit(points, first).lengthscales_.copy()
    assert not np.allclose(before, flat)
    assert before[0] < before[2]
    assert np.array_equal(once.fit(points, second).lengthscales_, before)
    assert np.array_equal(always.fit(points, first).lengthscales_, before)
    after = always.fit(points, second).lengthscales_
    assert after[2] < after[0]


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_the_fast_payoffs_are_those_of_the_model(posterior: Any, groups: Any, beta: float) -> None:
    model, _, values, _, _ = posterior
    players = gameopt._Players(np.array(SIZES), groups)
    game = gameopt._ConfidenceGame(players, model, beta)
    for point in every_point(SIZES)[::37]:
        for player in [None, *players.of(None)]:
            rows = players.deviations(point, player)
            expected = model.upper_confidence_bound(rows, beta)
            fast = values.mean() + values.std() * game.payoffs(point, player)
            np.testing.assert_allclose(fast, expected, rtol=1e-10)
            for index in (0, len(rows) - 1):
                assert players.deviate(point, player, index).tolist() == rows[index].tolist()


def test_tiny_lengthscales_leave_the_prior() -> None:
    model = CategoricalGP([3] * 4, lengthscales=1e-200).fit([[0] * 4, [1] * 4], [1.0, 3.0])
    game = gameopt._ConfidenceGame(gameopt._Players(np.full(4, 3), None), model, 2.0)
    np.testing.assert_allclose(game.payoffs(np.array([0, 1, 2, 2])), 2.0)


# --- The optimiser -------------------------------------------------------------------------------------

STRATEGIES = ("best_response", "hedge", "random", "ucb_random", "ucb_enumerate", "local_search")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ask_promises(landscape: EpistaticLandscape, strategy: Any) -> None:
    optimiser, twin = told(landscape, strategy=strategy), told(landscape, strategy=strategy)
    for _ in range(3):
        batch = optimiser.ask()
        assert batch.shape == (5, 5)
        assert batch.dtype == np.int64
        assert ((batch >= 0) & (batch < 4)).all()
        assert len(np.unique(np.vstack([batch, optimiser.points_]), axis=0)) == 5 + len(
            np.unique(optimiser.points_, axis=0)
        )
        assert np.array_equal(batch, twin.ask())
        for one in (optimiser, twin):
            one.tell(batch, landscape(batch))
    assert optimiser.best_value_ == optimiser.values_.max()
    assert landscape(optimiser.best_point_[None])[0] == pytest.approx(optimiser.best_value_)
    assert len(optimiser.points_) == len(optimiser.values_) == 30


def test_ask_before_tell_is_random_and_registers_nothing() -> None:
    optimiser = GameOpt([3, 4], batch_size=6, random_state=0)
    assert len(np.unique(optimiser.ask(), axis=0)) == 6
    assert not len(optimiser.points_)
    with pytest.raises(ValueError, match="told values first"):
        _ = optimiser.best_value_


@pytest.mark.parametrize("order", ["best", "cyclic"])
def test_proposals_are_equilibria_of_the_confidence_bound(landscape: EpistaticLandscape, order: Any) -> None:
    optimiser = told(landscape, batch_size=1, order=order)
    batch = optimiser.ask()
    ucb = optimiser.model_.upper_confidence_bound
    for equilibrium in optimiser.equilibria_:
        assert equilibrium.converged
        assert equilibrium.value == pytest.approx(ucb(equilibrium.point[None])[0], rel=1e-10)
        assert equilibrium_gap(ucb, equilibrium.point, 4) < 1e-9
    unseen = [e for e in optimiser.equilibria_ if not (optimiser.points_ == e.point).all(axis=1).any()]
    assert batch[0].tolist() == max(unseen, key=lambda e: e.value).point.tolist()


def test_groups_make_equilibria_of_groups(landscape: EpistaticLandscape) -> None:
    groups = [[0, 4], [1, 2, 3]]
    optimiser = told(landscape, groups=groups)
    optimiser.ask()
    for equilibrium in optimiser.equilibria_:
        ucb = optimiser.model_.upper_confidence_bound
        assert equilibrium_gap(ucb, equilibrium.point, 4, groups=groups) < 1e-9
    whole = told(landscape, groups=[range(5)], batch_size=1)
    assert np.array_equal(whole.ask(), told(landscape, strategy="ucb_enumerate", batch_size=1).ask())


def test_a_short_batch_is_filled_with_the_best_deviations(landscape: EpistaticLandscape) -> None:
    optimiser = told(landscape, n_games=1, batch_size=4)
    batch = optimiser.ask()
    top = optimiser.equilibria_[0].point
    assert batch[0].tolist() == top.tolist()
    assert ((batch[1:] != top).sum(axis=1) == 1).all()
    deviations = [row for row in every_point((4,) * 5) if (row != top).sum() == 1]
    unseen = [row for row in deviations if not (optimiser.points_ == row).all(axis=1).any()]
    ucb = optimiser.model_.upper_confidence_bound
    best = np.sort(ucb(unseen))[::-1][:3]
    np.testing.assert_allclose(ucb(batch[1:]), best, rtol=1e-10)


def test_enumeration_is_the_brute_force_maximum() -> None:
    points = every_point((3, 4, 2))
    values = np.random.default_rng(0).normal(size=24)
    optimiser = GameOpt([3, 4, 2], strategy="ucb_enumerate", batch_size=3).tell(points[::4], values[::4])
    ucb = optimiser.model_.upper_confidence_bound(points)
    ucb[::4] = -np.inf
    assert optimiser.ask().tolist() == points[np.argsort(-ucb)[:3]].tolist()


def test_local_search_changes_one_site_of_the_five_best(landscape: EpistaticLandscape) -> None:
    optimiser = told(landscape, strategy="local_search")
    best = optimiser.points_[np.argsort(-optimiser.values_)[:5]]
    changes = (optimiser.ask()[:, None] != best).sum(axis=-1)
    assert (changes.min(axis=1) == 1).all()
    few = told(landscape, strategy="local_search", n_candidates=2).ask()
    assert len(few) == 5


def test_a_small_space_is_searched_to_its_end() -> None:
    points = every_point((2, 3, 2))
    for strategy in STRATEGIES:
        optimiser = GameOpt([2, 3, 2], strategy=strategy, batch_size=4, random_state=0)
        for _ in range(3):
            batch = optimiser.ask()
            optimiser.tell(batch, batch.sum(axis=1))
        assert np.array_equal(np.unique(optimiser.points_, axis=0), points)
        with pytest.raises(ValueError, match="search space exhausted: 0 of 12"):
            optimiser.ask()


def test_names_of_letters_do_not_matter() -> None:
    """Letters renamed together with their embeddings: the same game from the same start."""
    rng = np.random.default_rng(9)
    landscape = EpistaticLandscape(6, 8, seed=rng)
    points, start = rng.integers(8, size=(40, 6)), rng.integers(8, size=6)
    name = rng.permutation(8)
    embeddings = np.empty_like(landscape.embeddings)
    embeddings[name] = landscape.embeddings
    plain = CategoricalGP([8] * 6, embeddings=landscape.embeddings).fit(points, landscape(points))
    renamed = CategoricalGP([8] * 6, embeddings=embeddings).fit(name[points], landscape(points))
    first = best_response_equilibrium(plain.upper_confidence_bound, start, 8)
    second = best_response_equilibrium(renamed.upper_confidence_bound, name[start], 8)
    assert second.point.tolist() == name[first.point].tolist()
    assert second.value == pytest.approx(first.value, rel=1e-9)
    assert second.n_rounds == first.n_rounds


# --- The landscape -------------------------------------------------------------------------------------


def test_a_landscape_without_epistasis_is_additive() -> None:
    landscape = EpistaticLandscape(4, 5, epistasis=0.0, seed=0)
    a, b, crossed = np.zeros((1, 4), int), np.full((1, 4), 3), np.array([[3, 3, 0, 0], [0, 0, 3, 3]])
    assert landscape(a) + landscape(b) == pytest.approx(landscape(crossed).sum())


def test_effects_reach_no_further_than_neighbours() -> None:
    """Changing one site changes the effect of another only if some site sees both."""
    landscape = EpistaticLandscape(6, 5, n_neighbors=1, seed=2)
    for i, j in itertools.combinations(range(6), 2):
        corners = np.zeros((4, 6), int)
        corners[1:3, i], corners[2:4, j] = 4, 4
        interaction = landscape(corners) @ [1, -1, 1, -1]
        together = any({i, j} <= set(sites.tolist()) for sites in landscape._sites)
        assert (abs(interaction) > 1e-9) == together


def test_landscapes_repeat_and_have_the_stated_scale() -> None:
    points = np.random.default_rng(0).integers(20, size=(200, 7))
    assert np.array_equal(EpistaticLandscape(7, seed=5)(points), EpistaticLandscape(7, seed=5)(points))
    # Additive: (1/n) sum_i |E|^2 / 4 = 3/4 in expectation, and epistasis adds (16 / 2) / 8 = 1.
    second = [np.square(EpistaticLandscape(7, seed=seed)(points)).mean() for seed in range(200)]
    assert np.mean(second) == pytest.approx(0.75 + 1, rel=0.15)


# --- Bad input -----------------------------------------------------------------------------------------

ZERO = lambda points: np.zeros(len(points))  # noqa: E731


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_response_equilibrium(ZERO, [0.5, 1], 2), "start must be integers, got .*float64"),
        (
            lambda: best_response_equilibrium(ZERO, [0, 2], 2),
            "start must lie within 0 to 1 in variable 1, got 2",
        ),
        (lambda: best_response_equilibrium(ZERO, [0, 1], [2, 2, 2]), "start must have 3 entries"),
        (lambda: best_response_equilibrium(ZERO, [[0, 1]], 2), r"start must have shape \(n,\), got \(1, 2\)"),
        (lambda: best_response_equilibrium(ZERO, [0, 1], [2, 0]), "n_choices must be at least 1 .* got 0"),
        (lambda: best_response_equilibrium(ZERO, [0, 1], 2, groups=[[0]]), "groups must hold each of the 2"),
        (lambda: best_response_equilibrium(ZERO, [0, 1], 2, groups=[[0, 1], []]), "groups must hold each"),
        (lambda: best_response_equilibrium(ZERO, [0, 1], 1001, groups=[[0, 1]]), "groups must have at most"),
        (lambda: best_response_equilibrium(ZERO, [0, 1], 2, order="worst"), "order must be one of best"),  # type: ignore[arg-type]
        (lambda: best_response_equilibrium(ZERO, [0, 1], 2, max_rounds=0), "max_rounds must be an integer"),
        (lambda: best_response_equilibrium(ZERO, [0, 1], 2, tolerance=-1), "tolerance must be a number"),
        (lambda: best_response_equilibrium(lambda x: 0.0, [0, 1], 2), r"payoff must return shape \(1,\)"),
        (lambda: equilibrium_gap(lambda x: x[:, 0] * np.nan, [0, 1], 2), "payoff must return finite"),
        (lambda: equilibrium_gap(ZERO, [0, -1], 2), "point must lie within 0 to 1"),
        (lambda: hedge_equilibria(ZERO, [0], 2, learning_rate=0), "learning_rate must be a number above 0"),
        (lambda: hedge_equilibria(ZERO, [0], 2, n_rounds=0), "n_rounds must be an integer of at least 1"),
        (lambda: hedge_equilibria(ZERO, [0], 2, n_last=1.5), "n_last must be an integer"),  # type: ignore[arg-type]
        (lambda: CategoricalGP(3), "n_choices must be a sequence"),
        (lambda: CategoricalGP([2, 2], embeddings=np.zeros((3, 1))), r"embeddings of variable 0 .* \(2, d\)"),
        (lambda: CategoricalGP([2, 2], embeddings=[np.zeros((2, 1))]), "embeddings must be one array or 2"),
        (lambda: CategoricalGP([2], embeddings=[[np.nan], [0.0]]), "embeddings must be finite"),
        (lambda: CategoricalGP([2], lengthscales=0.0), "lengthscales must be positive"),
        (lambda: CategoricalGP([2], lengthscales=[1.0, 1.0]), r"lengthscales .* shape \(1,\), got \(2,\)"),
        (lambda: CategoricalGP([2], noise_variance=0), "noise_variance must be a number above 0"),
        (lambda: CategoricalGP([2], refit="never"), "refit must be one of once, always"),  # type: ignore[arg-type]
        (lambda: CategoricalGP([2]).predict([[0]]), "must be fitted"),
        (lambda: CategoricalGP([2]).fit([[0], [1]], [0.0, np.inf]), "values must be finite"),
        (lambda: CategoricalGP([2]).fit([[0], [1]], [0.0]), r"values must have shape \(2,\)"),
        (lambda: CategoricalGP([2]).fit([[0, 1]], [0.0]), r"points must have shape \(N, 1\), got \(1, 2\)"),
        (lambda: GameOpt([2], strategy="greedy"), "strategy must be one of best_response"),  # type: ignore[arg-type]
        (lambda: GameOpt([2], n_games=0), "n_games must be an integer of at least 1"),
        (lambda: GameOpt([2], batch_size=True), "batch_size must be an integer of at least 1"),
        (lambda: GameOpt([2], beta=-1.0), "beta must be a number of at least 0"),
        (lambda: GameOpt([20] * 5, strategy="ucb_enumerate"), "at most 2,000,000 points, got 3200000"),
        (lambda: GameOpt([2, 2]).tell([[0, 2]], [1.0]), "points must lie within 0 to 1 in variable 1"),
        (lambda: GameOpt([2]).tell([[0]], [np.nan]), "values must be finite"),
        (lambda: EpistaticLandscape(3, n_neighbors=3), "n_neighbors must be an integer from 0 to 2"),
        (lambda: EpistaticLandscape(0), "n_sites must be an integer of at least 1"),
        (lambda: EpistaticLandscape(3, epistasis=-1.0), "epistasis must be a number of at least 0"),
        (lambda: EpistaticLandscape(3, 4)([[0, 0, 4]]), "points must lie within 0 to 3"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
