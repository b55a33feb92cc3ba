"""Small-Gain Nash: closed forms, the certificate's inequalities, play, and Markov games against autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from assay.optimize.small_gain_nash import (
    MarkovGame,
    certify,
    certify_policy_gradient,
    coordination_game,
    gradient_play,
    optimal_weights,
    small_gain_margin,
    small_gain_matrix,
    timescale_band,
)

seeds = st.integers(0, 2**32 - 1)
many = settings(max_examples=30, deadline=None)

MU, L = [1.0, 1.0], [[0.0, 10.0], [0.05, 0.0]]
SCALAR = np.array([[1.0, 10.0], [0.05, 1.0]])


def random_bounds(rng, n_players):
    """Curvatures and couplings of very different sizes that some weights certify."""
    mu = rng.uniform(0.5, 2, n_players)
    coupling = rng.uniform(0.1, 1, (n_players, n_players)) * np.exp(rng.normal(0, 2, (n_players, 1)))
    coupling *= np.exp(rng.normal(0, 2, n_players))
    np.fill_diagonal(coupling, 0)
    radius = np.abs(np.linalg.eigvals(coupling / mu[:, None])).max()
    return mu, coupling * rng.uniform(0.2, 0.95) / radius


def random_game(rng, sizes):
    """The Jacobian of an affine game, certified: symmetric own blocks, strongly asymmetric couplings."""
    mu, coupling = random_bounds(rng, len(sizes))
    rows = []
    for i, rows_size in enumerate(sizes):
        row = []
        for j, columns_size in enumerate(sizes):
            block = rng.normal(size=(rows_size, columns_size))
            if i == j:
                block = block @ block.T
                block += (mu[i] - np.linalg.eigvalsh(block)[0]) * np.eye(rows_size)
            else:
                block *= coupling[i, j] / np.linalg.norm(block, 2)
            row.append(block)
        rows.append(np.hstack(row))
    return np.vstack(rows)


def in_metric(H, weights, sizes):
    root = np.repeat(np.sqrt(weights), sizes)
    return H * root[:, None] / root


def rk4_matrix(H, h):
    z = -h * H
    eye = np.eye(len(H))
    return eye + z @ (eye + z / 2 @ (eye + z / 3 @ (eye + z / 4)))


def true_margin(H, weights, sizes):
    scaled = in_metric(H, weights, sizes)
    return np.linalg.eigvalsh((scaled + scaled.T) / 2)[0]


# --- Weights and margin ---------------------------------------------------------------------------


def test_the_scalar_game():
    weights, margin = optimal_weights(MU, L)
    assert weights == pytest.approx([1, 200])
    assert margin == pytest.approx(1 - math.sqrt(0.5))
    assert small_gain_margin(MU, L, [1, 1]) == pytest.approx(-4.025)
    certificate = certify(SCALAR, [1, 1])
    assert certificate.lipschitz == pytest.approx(1 + math.sqrt(0.5))
    assert certificate.euler_step == pytest.approx(0.201010, abs=1e-6)
    assert certificate.rk4_step == pytest.approx(1.464466, abs=1e-6)
    assert certificate.rk4_step_linear == pytest.approx(1.09896, abs=1e-5)
    assert certificate.coupling.tolist() == L
    # The coupling is of the gradient of the row's player: transposed, the ratio is inverted.
    assert optimal_weights(MU, np.transpose(L))[0] == pytest.approx([1, 1 / 200])


def test_equal_couplings_and_none():
    weights, margin = optimal_weights([2.0, 2.0], [[0, 0.5], [0.5, 0]])
    assert weights == pytest.approx([1, 1])
    assert margin == pytest.approx(1.5)
    assert optimal_weights([2.0, 2.0], np.array([[0, 9], [9, 0]], order="F"))[1] == pytest.approx(-7)
    assert optimal_weights([3.0, 2.0], np.zeros((2, 2)))[0].tolist() == [1, 1]
    assert small_gain_margin([3.0, 2.0, 5.0], np.zeros((3, 3)), [1.0, 50.0, 0.1]) == pytest.approx(2.0)
    assert optimal_weights([3.0], [[7.0]]) == ([1.0], 3.0)


@many
@given(seeds, st.integers(2, 6))
def test_no_weights_beat_the_closed_form(seed, n_players):
    rng = np.random.default_rng(seed)
    mu, coupling = random_bounds(rng, n_players)
    weights, margin = optimal_weights(mu, coupling)
    assert margin == pytest.approx(np.linalg.eigvals(np.diag(mu) - coupling).real.min(), abs=1e-7)
    assert margin > 0
    others = weights * np.exp(rng.normal(0, rng.choice([0.01, 0.3, 2], (100, 1)), (100, n_players)))
    assert max(small_gain_margin(mu, coupling, w) for w in others) <= margin + 1e-9


@many
@given(seeds, st.integers(2, 6))
def test_the_margin_is_that_of_the_small_gain_matrix(seed, n_players):
    rng = np.random.default_rng(seed)
    mu, coupling = random_bounds(rng, n_players)
    w = np.exp(rng.normal(0, 1, n_players))
    margin = small_gain_margin(mu, coupling, w)
    assert small_gain_margin(mu, coupling, 7.3 * w) == pytest.approx(margin, rel=1e-9, abs=1e-9)
    assert small_gain_margin(mu, coupling + 5 * np.eye(n_players), w) == margin
    C = small_gain_matrix(mu, coupling, w, margin)
    scale = 1 / np.sqrt(w)
    assert np.linalg.eigvalsh(scale[:, None] * C * scale)[0] == pytest.approx(0, abs=1e-9 * (1 + abs(margin)))
    assert (C == C.T).all()


@pytest.mark.parametrize(
    "coupling",
    [
        [[0, 10], [0, 0]],
        [[0, 100, 0], [0, 0, 100], [0, 0, 0]],
        [[0, 0, 0], [5, 0, 0], [7, 9, 0]],
        [[0, 0.2, 3, 0], [0.2, 0, 0, 0], [0, 0, 0, 2], [0, 0, 0.1, 0]],
        [[0, 0, 1e6, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 3, 0, 0]],
    ],
)
def test_one_way_influence_costs_next_to_nothing(coupling):
    mu = np.arange(1.0, len(coupling) + 1)
    supremum = np.linalg.eigvals(np.diag(mu) - coupling).real.min()
    weights, margin = optimal_weights(mu, coupling)
    assert weights[0] == 1
    assert supremum * (1 - 1e-4) <= margin <= supremum + 1e-9


def test_rounding_does_not_count_as_influence():
    coupling = np.full((3, 3), 1e-16)
    coupling[1, 2] = 3.0
    assert optimal_weights([0.7, 1.0, 1.0], coupling)[1] == pytest.approx(0.7, rel=1e-4)


@many
@given(seeds, st.floats(-60, 60))
def test_couplings_may_differ_by_any_factor(seed, log_ratio):
    rng = np.random.default_rng(seed)
    mu, product = rng.uniform(0.5, 2, 2), rng.uniform(0.01, 0.9)
    root, ratio = math.sqrt(product * mu.prod()), math.exp(log_ratio / 2)
    weights, margin = optimal_weights(mu, [[0, root * ratio], [root / ratio, 0]])
    assert weights[1] == pytest.approx(ratio**2, rel=1e-3)
    exact = mu.mean() - math.sqrt((mu[0] - mu[1]) ** 2 / 4 + root**2)
    assert margin == pytest.approx(exact, rel=1e-7)


def test_players_without_curvature_have_finite_weights():
    weights, margin = optimal_weights([0.0, 0.0], [[0, 1], [0, 0]])
    assert np.isfinite(weights).all()
    assert margin < 0


@pytest.mark.parametrize("leader", [0, 1])
def test_a_long_chain_of_followers_is_certified(leader):
    n = 60
    coupling = np.diag(np.full(n - 1, 3.0), k=1 - 2 * leader)
    weights, margin = optimal_weights(np.ones(n), coupling)
    assert np.isfinite(weights).all()
    assert 0.9 < margin <= 1


def test_a_flat_own_loss_is_never_certified():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mu, coupling = random_bounds(rng, 3)
        mu[1] = -rng.uniform(0, 1)
        assert optimal_weights(mu, coupling)[1] <= 0
    certificate = certify([[1.0, 0.0], [0.0, 0.0]], [1, 1])
    assert not certificate.certified
    assert (certificate.euler_step, certificate.rk4_step, certificate.rk4_step_linear) == (0, 0, 0)


# --- Timescale band -------------------------------------------------------------------------------


def test_the_band_of_the_scalar_game():
    assert timescale_band(MU, L) == pytest.approx((34.314575, 1165.685425))
    low, high = timescale_band(MU, L, margin=0.2)
    assert math.sqrt(low * high) == pytest.approx(200)
    assert np.isnan(timescale_band(MU, L, margin=0.3)).all()
    assert np.isnan(timescale_band([1, 0.4], L)).all()
    assert np.isnan(timescale_band([-1, -1], [[0, 0.1], [0.1, 0]])).all()
    assert timescale_band([1, 2], [[0, 4], [0, 0]]) == (pytest.approx(2.0), math.inf)
    assert timescale_band([1, 2], [[0, 0], [4, 0]]) == (0.0, pytest.approx(0.5))
    assert timescale_band([1, 2], np.zeros((2, 2))) == (0.0, math.inf)


@many
@given(seeds, st.floats(0, 0.99))
def test_the_margin_is_reached_inside_the_band_alone(seed, share):
    mu, coupling = random_bounds(np.random.default_rng(seed), 2)
    margin = share * optimal_weights(mu, coupling)[1]
    low, high = timescale_band(mu, coupling, margin)
    for ratio in (low, high):
        assert small_gain_margin(mu, coupling, [1, ratio]) == pytest.approx(margin, abs=1e-7)
    for ratio, inside in ((low / 1.01, False), (low * 1.01, True), (high / 1.01, True), (high * 1.01, False)):
        assert (small_gain_margin(mu, coupling, [1, ratio]) > margin) == (inside and low * 1.01 < high)


# --- What is certified ----------------------------------------------------------------------------


@many
@given(seeds, st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_the_certificate_bounds_what_it_says(seed, sizes):
    rng = np.random.default_rng(seed)
    H = random_game(rng, sizes)
    certificate = certify(H, sizes)
    assert certificate.certified
    scaled = in_metric(H, certificate.weights, sizes)
    assert certificate.margin <= np.linalg.eigvalsh((scaled + scaled.T) / 2)[0] + 1e-9
    assert certificate.lipschitz == pytest.approx(np.linalg.norm(scaled, 2))

    x, w = rng.normal(size=H.shape[0]), np.repeat(certificate.weights, sizes)
    assert (H @ x) @ (w * x) >= certificate.margin * (x @ (w * x)) * (1 - 1e-9)

    alpha, beta = certificate.margin, certificate.lipschitz
    for h in np.array([0.3, 0.5, 0.999]) * certificate.euler_step:
        factor = math.sqrt(1 - 2 * h * alpha + h**2 * beta**2)
        assert np.linalg.norm(np.eye(len(H)) - h * scaled, 2) <= factor + 1e-12
        assert factor < 1
    assert np.linalg.norm(rk4_matrix(scaled, certificate.rk4_step_linear), 2) <= 1 + 1e-9
    assert np.abs(np.linalg.eigvals(rk4_matrix(H, certificate.rk4_step))).max() <= 1
    assert np.linalg.norm(expm(-0.7 * scaled), 2) <= math.exp(-0.7 * alpha) + 1e-12


def test_rk4_is_stable_in_the_half_disc_that_its_step_presumes():
    # The largest |P(z)| on a region is on its boundary.
    arc = 2.5 * np.exp(1j * np.linspace(np.pi / 2, 3 * np.pi / 2, 2001))
    z = np.concatenate([arc, 1j * np.linspace(-2.5, 2.5, 2001)])
    assert np.abs(1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24).max() <= 1 + 1e-12


@pytest.mark.parametrize("asymmetry", [0.0, 1.0, 1e3, 1e8])
def test_the_linear_rk4_step_solves_its_equation(asymmetry):
    # A rotation: alpha and beta of the plain norm are 1 and sqrt(1 + asymmetry^2).
    H = np.array([[1.0, asymmetry], [-asymmetry, 1.0]])
    certificate = certify(H, [2])
    alpha, beta, h = certificate.margin, certificate.lipschitz, certificate.rk4_step_linear
    x = beta * h
    rest = sum(x**k / math.factorial(k) for k in range(5, 40))
    assert math.expm1(-alpha * h) + rest == pytest.approx(0, abs=1e-12)
    if asymmetry > 100:
        assert x == pytest.approx((120 * alpha / beta) ** 0.25, rel=0.05)


def test_jacobians_are_taken_at_their_extremes():
    rng = np.random.default_rng(3)
    sizes = [2, 3]
    games = np.stack([random_game(rng, sizes) for _ in range(5)])
    weights = [1.0, 3.0]
    together = certify(games, sizes, weights=weights)
    each = [certify(H, sizes, weights=weights) for H in games]
    assert together.weights.tolist() == weights
    assert together.lipschitz == pytest.approx(max(one.lipschitz for one in each))
    assert together.curvature == pytest.approx(np.min([one.curvature for one in each], axis=0))
    assert together.coupling == pytest.approx(np.max([one.coupling for one in each], axis=0))
    assert together.margin <= min(one.margin for one in each) + 1e-12


@pytest.mark.parametrize(("objective", "power"), [("euler", 2), ("rk4", 1)])
@pytest.mark.parametrize("sizes", [[3, 2], [2, 1, 2]])
def test_the_longest_step_is_found(objective, power, sizes):
    rng = np.random.default_rng(5)
    H = random_game(rng, sizes)
    best = certify(H, sizes, objective=objective)
    start = certify(H, sizes)
    assert best.weights[0] == 1
    value = best.margin / best.lipschitz**power
    assert value >= start.margin / start.lipschitz**power
    for _ in range(100):
        weights = best.weights * np.exp(rng.normal(0, rng.choice([0.01, 0.1, 1]), len(sizes)))
        other = certify(H, sizes, weights=weights)
        assert other.margin / other.lipschitz**power <= value * (1 + 1e-6)


# --- Play -----------------------------------------------------------------------------------------


def test_euler_is_the_iteration_and_rk4_is_of_order_four():
    H = np.array([[1.0, 2.0], [-1.0, 0.5]])
    x = np.array([1.0, -2.0])
    play = gradient_play(lambda x: H @ x, x, 0.1, 3)
    assert play.points[3] == pytest.approx(np.linalg.matrix_power(np.eye(2) - 0.1 * H, 3) @ x)
    one = gradient_play(lambda x: H @ x, x, 0.3, 1, method="rk4").points[1]
    assert one == pytest.approx(rk4_matrix(H, 0.3) @ x)
    errors = [
        np.linalg.norm(gradient_play(lambda x: H @ x, x, 1 / n, n, method="rk4").points[-1] - expm(-H) @ x)
        for n in (20, 40)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)


def test_each_step_is_projected():
    play = gradient_play(lambda x: x - 5, [0.0, 0.5], 0.5, 4, project=lambda x: np.clip(x, 0, 1))
    assert play.points.tolist() == [[0, 0.5], [1, 1], [1, 1], [1, 1], [1, 1]]


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_divergence_is_reported(method):
    play = gradient_play(lambda x: -5 * x**3, [1.0], 0.5, 100, method=method)
    assert play.diverged
    assert 1 < len(play.points) < 100
    assert np.isfinite(play.points).all()
    # A projection does not hide it.
    assert gradient_play(lambda x: -np.inf * x, [1.0], 0.5, 9, project=lambda x: np.clip(x, 0, 1)).diverged


@many
@given(seeds)
def test_projected_play_contracts_to_the_constrained_equilibrium(seed):
    rng = np.random.default_rng(seed)
    sizes = [2, 3]
    H = random_game(rng, sizes)
    shift = 3 * rng.normal(size=5)
    certificate = certify(H, sizes)
    h = certificate.euler_step / 2
    factor = math.sqrt(1 - h * certificate.margin)

    def play(start):
        return gradient_play(lambda x: H @ x - shift, start, h, 30, project=lambda x: np.clip(x, -0.5, 0.5))

    gaps = play(rng.normal(size=5)).points - play(rng.normal(size=5)).points
    distances = np.sqrt((gaps**2) @ np.repeat(certificate.weights, sizes))
    assert (distances[1:] <= factor * distances[:-1] + 1e-12 * distances[0]).all()


# --- Markov games ---------------------------------------------------------------------------------


def random_markov_game(rng, common=False, temperature=0.3):
    S, A1, A2 = rng.integers(1, 4), *rng.integers(2, 4, 2)
    rewards = rng.normal(size=(S, A1, A2) if common else (2, S, A1, A2))
    return MarkovGame(
        rng.dirichlet(np.ones(S), (S, A1, A2)),
        rewards,
        discount=rng.uniform(0, 0.95),
        temperature=temperature,
        initial=rng.dirichlet(np.ones(S)),
    )


@settings(max_examples=15, deadline=None)
@given(seeds, st.booleans())
def test_derivatives_are_those_of_the_losses(seed, common):
    rng = np.random.default_rng(seed)
    game = random_markov_game(rng, common)
    n1, n2 = game.blocks
    theta = rng.normal(size=n1 + n2)

    x = torch.tensor(theta)
    gradients = torch.autograd.functional.jacobian(game.losses, x).numpy()
    assert game.pseudo_gradient(theta)[:n1] == pytest.approx(gradients[0, :n1], abs=1e-12)
    assert game.pseudo_gradient(theta)[n1:] == pytest.approx(gradients[1, n1:], abs=1e-12)
    first = torch.autograd.functional.hessian(lambda x: game.losses(x)[0], x)
    second = torch.autograd.functional.hessian(lambda x: game.losses(x)[1], x)
    assert game.jacobian(theta)[:n1] == pytest.approx(first.numpy()[:n1], abs=1e-12)
    assert game.jacobian(theta)[n1:] == pytest.approx(second.numpy()[n1:], abs=1e-12)


def test_the_loss_is_minus_return_and_entropies():
    rng = np.random.default_rng(1)
    game = random_markov_game(rng)
    n1, n2 = game.blocks
    S, theta = len(game.initial), rng.normal(size=n1 + n2)
    pi1, pi2 = (torch.tensor(t).reshape(S, -1).softmax(1).numpy() for t in np.split(theta, [n1]))
    state, total = game.initial.copy(), np.zeros(2)
    for t in range(2000):
        total += (
            (1 - game.discount) * game.discount**t * np.einsum("s,sa,sb,isab", state, pi1, pi2, game.rewards)
        )
        state = np.einsum("s,sa,sb,sabt", state, pi1, pi2, game.transitions)
    entropies = np.array([-(pi * np.log(pi)).sum() for pi in (pi1, pi2)])
    losses = game.losses(torch.tensor(theta)).numpy()
    assert losses == pytest.approx(-total - game.temperature * entropies)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_natural_gradient_solves_the_fisher_system(seed):
    rng = np.random.default_rng(seed)
    game = random_markov_game(rng)
    theta = rng.normal(size=sum(game.blocks))
    gradients = np.split(game.pseudo_gradient(theta), [game.blocks[0]])
    expected = np.concatenate(
        [
            np.linalg.pinv(F, rcond=1e-10, hermitian=True) @ g
            for F, g in zip(game.fisher(theta), gradients, strict=True)
        ]
    )
    assert game.natural_gradient(theta) == pytest.approx(expected, abs=1e-9)
    assert game.natural_step(theta, 0.3) == pytest.approx(theta - 0.3 * expected, abs=1e-9)


def test_a_constant_per_state_changes_nothing_and_batches_are_their_members():
    rng = np.random.default_rng(2)
    game = random_markov_game(rng)
    S, (n1, n2) = len(game.initial), game.blocks
    thetas = rng.normal(size=(3, 2, n1 + n2))
    shift = np.concatenate([np.repeat(rng.normal(size=S), n // S) for n in (n1, n2)])
    for method in (game.pseudo_gradient, game.natural_gradient, game.jacobian):
        assert method(thetas + shift) == pytest.approx(method(thetas), abs=1e-12)
        assert method(thetas)[2, 1] == pytest.approx(method(thetas[2, 1]), abs=1e-12)
    shifted = game.losses(torch.tensor(thetas[0, 0] + shift))
    assert torch.allclose(shifted, game.losses(torch.tensor(thetas[0, 0])))


def test_the_coordination_game_at_its_equilibrium():
    game = coordination_game()
    assert game.equilibrium().tolist() == [0] * 8
    pattern = np.array([[1, -1], [-1, 1]])
    own = np.kron(np.eye(2), 0.25 * pattern)
    cross = np.kron(np.diag([-0.1375, -0.1125]), pattern)
    assert game.jacobian(np.zeros(8)) == pytest.approx(np.block([[own, cross], [cross, own]]))
    certificate = certify_policy_gradient(game, np.zeros(8), points_per_dim=1)
    assert certificate.curvature == pytest.approx([1, 1])
    assert certificate.coupling[0, 1] == pytest.approx(0.55)
    assert certificate.margin == pytest.approx(0.45)
    assert certificate.lipschitz == pytest.approx(1.55)
    assert certificate.euler_step == pytest.approx(0.374610, abs=1e-6)


def test_the_coordination_game_in_a_cube():
    certificate = certify_policy_gradient(coordination_game(), np.zeros(8))
    assert certificate.curvature == pytest.approx([0.93439] * 2, abs=1e-5)
    assert certificate.coupling[[0, 1], [1, 0]] == pytest.approx([0.60092] * 2, abs=1e-5)
    assert certificate.weights == pytest.approx([1, 1])
    assert certificate.margin == pytest.approx(0.33347, abs=1e-5)
    assert certificate.lipschitz == pytest.approx(1.5718, abs=1e-4)
    assert certificate.euler_step == pytest.approx(0.2700, abs=1e-4)


@pytest.mark.parametrize("points", [2, 3])
def test_the_grid_leaves_out_what_changes_nothing(points):
    """Bounds over every point of the grid, one by one, through the inverse root of the Fisher matrix."""
    rng = np.random.default_rng(4)
    game = MarkovGame(np.ones((1, 2, 3, 1)), rng.normal(size=(2, 1, 2, 3)))
    centre = game.equilibrium()
    mu, coupling = np.full(2, np.inf), np.zeros((2, 2))
    for index in np.ndindex(*[points] * 5):
        theta = centre + np.linspace(-0.1, 0.1, points)[list(index)]
        H, roots = game.jacobian(theta), []
        for F in game.fisher(theta):
            values, vectors = np.linalg.eigh(F)
            roots.append(vectors[:, 1:] / np.sqrt(values[1:]))
        for i, rows in enumerate((slice(0, 2), slice(2, 5))):
            for j, columns in enumerate((slice(0, 2), slice(2, 5))):
                N = roots[i].T @ H[rows, columns] @ roots[j]
                if i == j:
                    mu[i] = min(mu[i], np.linalg.eigvalsh(N)[0])
                else:
                    coupling[i, j] = max(coupling[i, j], np.linalg.norm(N, 2))
    certificate = certify_policy_gradient(game, centre, points_per_dim=points)
    assert certificate.curvature == pytest.approx(mu)
    assert certificate.coupling == pytest.approx(coupling)


def test_drawn_points_never_certify_more_than_the_grid():
    rng = np.random.default_rng(6)
    game = random_markov_game(rng, temperature=2.0)
    centre = game.equilibrium()
    whole = certify_policy_gradient(game, centre, weights=[1, 1])
    some = certify_policy_gradient(game, centre, weights=[1, 1], samples=20)
    assert some.margin >= whole.margin
    assert some.lipschitz <= whole.lipschitz


def test_at_the_equilibrium_the_certificate_is_that_of_the_natural_flow():
    game = random_markov_game(np.random.default_rng(7), temperature=2.0)
    theta = game.equilibrium()
    certificate = certify_policy_gradient(game, theta, points_per_dim=1)
    shape = np.eye(theta.size)
    flow = (
        game.natural_gradient(theta + 1e-6 * shape) - game.natural_gradient(theta - 1e-6 * shape)
    ).T / 2e-6
    F1, F2 = game.fisher(theta)
    n1 = game.blocks[0]
    M = np.zeros((theta.size, theta.size))
    M[:n1, :n1], M[n1:, n1:] = certificate.weights[0] * F1, certificate.weights[1] * F2
    x = np.random.default_rng(8).normal(size=(50, theta.size))
    left = np.einsum("ki,ij,jk->k", x, M, flow @ x.T)
    assert (left >= certificate.margin * np.einsum("ki,ij,kj->k", x, M, x) - 1e-6).all()


def test_natural_policy_gradient_converges_below_its_step_and_not_far_above():
    game = coordination_game()
    eta = certify_policy_gradient(game, np.zeros(8)).euler_step
    start = np.random.default_rng(9).uniform(-0.1, 0.1, (20, 8))
    for multiple, converges in ((0.9, True), (10, False)):
        theta = start
        for _ in range(300):
            theta = game.natural_step(theta, multiple * eta)
        assert (np.abs(game.natural_gradient(theta)).max() < 1e-6) == converges


def test_zero_temperature_has_no_equilibrium_in_logits():
    game = MarkovGame(np.ones((1, 2, 2, 1)), [[[1.0, 0.0], [0.0, 0.5]]], temperature=0.0)
    with pytest.raises(RuntimeError, match=r"did not reach tol=1e-10 in 500 steps of 0\.1"):
        game.equilibrium(max_iter=500)


# --- Bad input ------------------------------------------------------------------------------------

P, R = np.full((2, 2, 2, 2), 0.5), np.zeros((2, 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small_gain_margin(MU, [[0, -1], [1, 0]], [1, 1]), "coupling must be finite and at least 0"),
        (lambda: small_gain_margin(MU, [[0, np.inf], [1, 0]], [1, 1]), "coupling must be finite"),
        (lambda: small_gain_margin(MU, np.zeros((2, 3)), [1, 1]), r"coupling must have shape \(2, 2\), got"),
        (lambda: small_gain_margin([1, np.nan], L, [1, 1]), "curvature must be finite"),
        (lambda: small_gain_margin([], L, [1, 1]), r"curvature must have shape \(N,\)"),
        (lambda: small_gain_matrix(MU, L, [1, 0]), "weights must be positive, got 0"),
        (lambda: small_gain_matrix(MU, L, [1, 1, 1]), r"weights must have shape \(2,\)"),
        (lambda: timescale_band([1, 1, 1], np.zeros((3, 3))), "curvature must be that of two players, got 3"),
        (lambda: certify(SCALAR, [1, 2]), "blocks must sum to 2, the order of jacobians, got 3"),
        (lambda: certify(SCALAR, [2, 0]), "blocks must be an integer of at least 1, got 0"),
        (lambda: certify(SCALAR[0], [1]), r"jacobians must have shape .*got \(2,\)"),
        (lambda: certify(SCALAR * np.nan, [1, 1]), "jacobians must be finite"),
        (lambda: certify(SCALAR, [1, 1], objective="speed"), "objective must be one of .*got 'speed'"),
        (lambda: certify(SCALAR, [1, 1], weights=[1, -1]), "weights must be positive"),
        (lambda: gradient_play(np.array, [1.0], 0, 1), "step must be a positive number, got 0"),
        (lambda: gradient_play(np.array, [1.0], 1, -1), "n_steps must be"),
        (lambda: gradient_play(np.array, [[1.0]], 1, 1), r"initial must have shape \(n,\)"),
        (lambda: gradient_play(np.sum, [1.0], 1, 1), r"pseudo_gradient must return shape \(1,\), got \(\)"),
        (lambda: gradient_play(np.array, [1.0], 1, 1, method="heun"), "method must be one of .*got 'heun'"),
        (lambda: MarkovGame(P[..., :1], R), "transitions must have shape"),
        (lambda: MarkovGame(P / 2, R), "transitions must be probabilities that sum to 1"),
        (lambda: MarkovGame(P, R[0]), r"rewards must have shape \(2, 2, 2\) or \(2, 2, 2, 2\), got \(2, 2\)"),
        (lambda: MarkovGame(P, R, discount=1.0), r"discount must lie in \[0, 1\), got 1.0"),
        (lambda: MarkovGame(P, R, temperature=-1.0), "temperature must be"),
        (lambda: MarkovGame(P, R, initial=[1.0, 1.0]), "initial must be a distribution over 2 states"),
        (lambda: MarkovGame(P, R).pseudo_gradient(np.zeros(7)), r"theta must have shape \(..., 8\), got"),
        (lambda: MarkovGame(P, R).losses(torch.zeros(7)), r"theta must have shape \(8,\)"),
        (lambda: MarkovGame(P, R).natural_step(np.zeros(8), -1.0), "step must be a positive number"),
        (
            lambda: certify_policy_gradient(MarkovGame(P, R), np.zeros(7)),
            r"equilibrium must have shape \(8,\)",
        ),
        (lambda: certify_policy_gradient(MarkovGame(P, R), np.zeros(8), radius=0), "radius must be"),
        (lambda: certify_policy_gradient(MarkovGame(P, R), np.zeros(8), points_per_dim=0), "points_per_dim"),
        (
            lambda: certify_policy_gradient(MarkovGame(P, R), np.zeros(8), points_per_dim=15),
            "samples must be",
        ),
        (
            lambda: certify_policy_gradient(MarkovGame(P[:, :1], R[:, :1]), np.zeros(6)),
            "game must leave each player at least two actions",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
