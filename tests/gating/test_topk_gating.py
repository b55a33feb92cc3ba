"""Top-K gating: the selection, the model it makes, its fits, the losses over Voronoi cells, the orders."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.gating.gaussian_moe import (
    GaussianMoE,
    GaussianMoEParameters,
    SoftmaxGate,
    align,
    fit_gaussian_moe,
    gate_probabilities,
    log_density,
    sample,
    score_vectors,
)
from assay.gating.topk_gating import (
    TopKGate,
    exact_voronoi_loss,
    over_specified_voronoi_loss,
    polynomial_order,
    required_selection,
    selected_experts,
)

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=50, deadline=None)

TRUTH = GaussianMoEParameters(
    gate_weights=[[3.0], [0.0], [-3.0]],
    gate_biases=[0.5, -0.3, 0.0],
    expert_weights=[[2.0], [-1.0], [3.0]],
    expert_biases=[1.0, -2.0, 2.0],
    variances=[0.2, 0.3, 0.25],
)


def draw_parameters(rng, k=4, d=2):
    return GaussianMoEParameters(
        gate_weights=2 * rng.standard_normal((k, d)),
        gate_biases=rng.standard_normal(k),
        expert_weights=2 * rng.standard_normal((k, d)),
        expert_biases=2 * rng.standard_normal(k),
        variances=rng.uniform(0.1, 1.0, k),
    )


def gate_of(biases):
    """Three experts in the plane with the gate weights of the worked example."""
    return GaussianMoEParameters(
        gate_weights=[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]],
        gate_biases=biases,
        expert_weights=np.zeros((3, 2)),
        expert_biases=np.zeros(3),
        variances=np.ones(3),
    )


# ------------------------------------------------------------------------------------------- selection


def test_a_worked_gate():
    x, gate = [[2.0, 1.0]], TopKGate(2)
    parameters = gate_of([0.0, 1.0, 5.0])
    assert gate.logits(x, parameters).tolist() == [[2.0, 2.0, -np.inf]]
    assert gate_probabilities(x, parameters, gate).tolist() == [[0.5, 0.5, 0.0]]
    assert selected_experts(x, parameters, gate).tolist() == [[0, 1]]
    large_bias = gate_of([0.0, 1.0, 6.0])
    assert selected_experts(x, large_bias, gate).tolist() == [[0, 1]]
    assert selected_experts(x, large_bias, TopKGate(2, rank_by="logit")).tolist() == [[0, 2]]


def test_equal_scores_select_the_first():
    parameters = gate_of([0.0, 1.0, 2.0])
    assert selected_experts([[0.0, 0.0]], parameters, TopKGate(2)).tolist() == [[0, 1]]
    assert selected_experts([[0.0, 0.0]], parameters, TopKGate(2, rank_by="logit")).tolist() == [[1, 2]]


@quick
@given(seed=seeds, top_k=st.integers(1, 6), rank_by=st.sampled_from(["slope", "logit"]))
def test_the_largest_are_selected(seed, top_k, rank_by):
    rng = np.random.default_rng(seed)
    parameters = draw_parameters(rng, k=6)
    gate = TopKGate(top_k, rank_by=rank_by)
    X = rng.standard_normal((50, 2))
    ranking = X @ parameters.gate_weights.T + (parameters.gate_biases if rank_by == "logit" else 0)
    expected = np.sort(np.argsort(-ranking, axis=1)[:, :top_k], axis=1)
    np.testing.assert_array_equal(selected_experts(X, parameters, gate), expected)
    probabilities = gate_probabilities(X, parameters, gate)
    assert ((probabilities > 0).sum(axis=1) == top_k).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


@quick
@given(seed=seeds)
def test_selecting_all_is_the_dense_gate(seed):
    rng = np.random.default_rng(seed)
    parameters = draw_parameters(rng)
    X = rng.standard_normal((50, 2))
    dense = SoftmaxGate().logits(X, parameters)
    np.testing.assert_allclose(TopKGate(4).logits(X, parameters), dense, rtol=0, atol=1e-12)


def test_the_temperature_divides_the_logits():
    parameters = dataclasses.replace(gate_of([0.0, 1.0, 5.0]), temperature=0.5)
    assert TopKGate(2).logits([[2.0, 1.0]], parameters).tolist() == [[4.0, 4.0, -np.inf]]


# ----------------------------------------------------------------------------------- density and scores


@quick
@given(seed=seeds, top_k=st.integers(1, 4))
def test_density_integrates_to_one(seed, top_k):
    rng = np.random.default_rng(seed)
    parameters = draw_parameters(rng)
    y = np.linspace(-40, 40, 2001)
    X = np.repeat(rng.uniform(-1, 1, (1, 2)), len(y), axis=0)
    density = np.exp(log_density(X, y, parameters, TopKGate(top_k)))
    assert np.trapezoid(density, y) == pytest.approx(1, abs=1e-6)


@quick
@given(seed=seeds, top_k=st.integers(1, 4))
def test_translations_leave_the_density(seed, top_k):
    rng = np.random.default_rng(seed)
    parameters, gate = draw_parameters(rng), TopKGate(top_k)
    X = rng.uniform(-1, 1, (100, 2))
    y, _ = sample(X, parameters, gate, seed=rng)
    moved = dataclasses.replace(
        parameters,
        gate_weights=parameters.gate_weights + rng.standard_normal(2),
        gate_biases=parameters.gate_biases + rng.standard_normal(),
    )
    expected = log_density(X, y, parameters, gate)
    np.testing.assert_allclose(log_density(X, y, moved, gate), expected, rtol=1e-9, atol=1e-9)


def test_one_selected_expert_makes_biases_and_the_scale_of_slopes_irrelevant():
    rng = np.random.default_rng(0)
    parameters, gate = draw_parameters(rng), TopKGate(1)
    X = rng.uniform(-1, 1, (100, 2))
    y, _ = sample(X, parameters, gate, seed=rng)
    other = dataclasses.replace(
        parameters, gate_biases=rng.standard_normal(4), gate_weights=7 * parameters.gate_weights
    )
    np.testing.assert_allclose(log_density(X, y, other, gate), log_density(X, y, parameters, gate))


@pytest.mark.parametrize("rank_by", ["slope", "logit"])
def test_mean_score_is_the_gradient_of_the_mean_log_density(rank_by):
    rng = np.random.default_rng(1)
    parameters, gate = draw_parameters(rng), TopKGate(2, rank_by=rank_by)
    X = rng.uniform(-1, 1, (300, 2))
    ranking = X @ parameters.gate_weights.T + (parameters.gate_biases if rank_by == "logit" else 0)
    ordered = np.sort(ranking, axis=1)
    X = X[ordered[:, 2] - ordered[:, 1] > 1e-3]
    y, _ = sample(X, parameters, gate, seed=rng)
    step, gradient = 1e-6, []
    for field in dataclasses.fields(parameters):
        value = np.asarray(getattr(parameters, field.name))
        for index in np.ndindex(value.shape):
            means = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                changed = dataclasses.replace(
                    parameters, **{field.name: moved if value.ndim else float(moved)}
                )
                means.append(log_density(X, y, changed, gate).mean())
            gradient.append((means[0] - means[1]) / (2 * step))
    np.testing.assert_allclose(score_vectors(X, y, parameters, gate).mean(axis=0), gradient, atol=1e-5)


# ------------------------------------------------------------------------------------------------ fits


def perturbed(rng, parameters, size):
    def noisy(value):
        return value + size * rng.standard_normal(value.shape)

    return GaussianMoEParameters(
        gate_weights=noisy(parameters.gate_weights),
        gate_biases=noisy(parameters.gate_biases),
        expert_weights=noisy(parameters.expert_weights),
        expert_biases=noisy(parameters.expert_biases),
        variances=parameters.variances * np.exp(noisy(np.zeros(parameters.n_experts))),
    )


def test_a_fit_passes_the_truth_and_recovers_it():
    rng = np.random.default_rng(2)
    gate = TopKGate(2)
    X = rng.uniform(-1, 1, (20_000, 1))
    y, _ = sample(X, TRUTH, gate, seed=rng)
    fit = fit_gaussian_moe(X, y, perturbed(rng, TRUTH, 0.1), gate)
    assert fit.converged
    assert (np.diff(fit.trace) >= 0).all()
    assert fit.log_likelihood >= log_density(X, y, TRUTH, gate).mean()
    aligned = align(fit.parameters, TRUTH, gate)
    np.testing.assert_allclose(aligned.expert_weights, TRUTH.expert_weights, atol=0.1)
    np.testing.assert_allclose(aligned.variances, TRUTH.variances, atol=0.03)
    assert exact_voronoi_loss(aligned, TRUTH, top_k=2) < 1.2


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_no_step_lowers_the_likelihood_where_it_jumps(seed):
    """In the plane a boundary of the selection crosses samples as the gate moves."""
    rng = np.random.default_rng(seed)
    truth, gate = draw_parameters(rng), TopKGate(2)
    X = rng.uniform(-1, 1, (300, 2))
    y, _ = sample(X, truth, gate, seed=rng)
    start = perturbed(rng, truth, 0.3)
    fit = fit_gaussian_moe(X, y, start, gate)
    assert (np.diff(fit.trace) >= 0).all()
    assert fit.log_likelihood == pytest.approx(log_density(X, y, fit.parameters, gate).mean(), rel=1e-9)
    assert fit.log_likelihood >= log_density(X, y, start, gate).mean()


def test_the_estimator_takes_the_gate():
    rng = np.random.default_rng(3)
    X = rng.uniform(-1, 1, (1000, 1))
    y, _ = sample(X, TRUTH, TopKGate(2), seed=rng)
    model = GaussianMoE(3, TopKGate(2), random_state=0).fit(X, y)
    assert ((model.gate_probabilities(X) > 0).sum(axis=1) == 2).all()
    assert model.log_likelihood_ > log_density(X, y, TRUTH, TopKGate(2)).mean() - 0.01


# -------------------------------------------------------------------------------------- Voronoi losses


def moved_by(parameters, factor, rng):
    """`factor` times one fixed deviation from the parameters, small enough to leave the cells."""
    size = 0.05 * factor
    return dataclasses.replace(
        parameters,
        gate_weights=parameters.gate_weights + size * rng.standard_normal(parameters.gate_weights.shape),
        expert_weights=parameters.expert_weights
        + size * rng.standard_normal(parameters.expert_weights.shape),
        expert_biases=parameters.expert_biases + size * rng.standard_normal(parameters.n_experts),
        variances=parameters.variances + size * rng.uniform(0, 1, parameters.n_experts),
    )


@quick
@given(seed=seeds, top_k=st.integers(1, 3))
def test_the_exact_loss_is_zero_at_the_truth_and_grows_in_proportion(seed, top_k):
    assert exact_voronoi_loss(TRUTH, TRUTH, top_k) == 0
    once, twice = (moved_by(TRUTH, factor, np.random.default_rng(seed)) for factor in (1, 2))
    loss = exact_voronoi_loss(once, TRUTH, top_k)
    assert loss > 0
    assert exact_voronoi_loss(twice, TRUTH, top_k) == pytest.approx(2 * loss)
    assert over_specified_voronoi_loss(once, TRUTH, top_k) == pytest.approx(loss)


def test_the_exact_loss_by_hand():
    fitted = dataclasses.replace(
        TRUTH,
        gate_biases=TRUTH.gate_biases + np.log([1.0, 1.0, 1.5]),
        gate_weights=TRUTH.gate_weights + np.array([[0.1], [0.0], [0.0]]),
        expert_biases=TRUTH.expert_biases + np.array([0.2, 0.0, 0.0]),
        variances=TRUTH.variances + np.array([0.0, 0.3, 0.0]),
    )
    costs = sorted([np.exp(0.5) * 0.3, np.exp(-0.3) * 0.3, 0.5])
    for top_k in (1, 2, 3):
        assert exact_voronoi_loss(fitted, TRUTH, top_k) == pytest.approx(sum(costs[-top_k:]))


def test_distances_in_several_features_are_euclidean():
    rng = np.random.default_rng(4)
    true = draw_parameters(rng)
    fitted = dataclasses.replace(true, expert_weights=true.expert_weights + np.array([0.03, 0.04]))
    assert exact_voronoi_loss(fitted, true, top_k=4) == pytest.approx(0.05 * true.masses.sum())


def split(parameters, atom, parts):
    """`parts` copies of one atom that share its mass, then the other atoms."""
    others = [i for i in range(parameters.n_experts) if i != atom]
    chosen = [atom] * parts + others
    return GaussianMoEParameters(
        gate_weights=parameters.gate_weights[chosen],
        gate_biases=parameters.gate_biases[chosen] - np.log([parts] * parts + [1] * len(others)),
        expert_weights=parameters.expert_weights[chosen],
        expert_biases=parameters.expert_biases[chosen],
        variances=parameters.variances[chosen],
    )


@pytest.mark.parametrize(("parts", "order"), [(2, 4), (3, 6), (4, 7), (5, 7)])
def test_deviations_of_a_split_atom_count_to_powers(parts, order):
    apart = split(TRUTH, 1, parts)
    assert over_specified_voronoi_loss(apart, TRUTH, top_k=3) == pytest.approx(0, abs=1e-15)
    e = 0.2
    off = e * (np.arange(apart.n_experts) < parts)
    fitted = dataclasses.replace(
        apart,
        gate_weights=apart.gate_weights + off[:, None],
        expert_weights=apart.expert_weights + off[:, None],
        expert_biases=apart.expert_biases + off,
        variances=apart.variances + off,
    )
    expected = TRUTH.masses[1] * 2 * (e**order + e ** (order / 2))
    assert over_specified_voronoi_loss(fitted, TRUTH, top_k=2) == pytest.approx(expected)
    assert exact_voronoi_loss(fitted, TRUTH, top_k=2) == pytest.approx(TRUTH.masses[1] * 4 * e)


def test_an_empty_cell_costs_its_mass():
    fitted = GaussianMoEParameters([[3.0]], [0.5], [[2.0]], [1.0], [0.2])
    assert exact_voronoi_loss(fitted, TRUTH, top_k=3) == pytest.approx(np.exp(-0.3) + 1)
    assert over_specified_voronoi_loss(fitted, TRUTH, top_k=3) == pytest.approx(np.exp(-0.3) + 1)


# ------------------------------------------------------------------------------------- orders and sizes


def residuals(order, weights, b, nu):
    """The polynomial system for gate weights and slopes that are 0, where it has one equation an order."""
    return [
        sum(
            (weights * b ** (eta - 2 * i) * nu**i).sum() / (math.factorial(eta - 2 * i) * math.factorial(i))
            for i in range(eta // 2 + 1)
        )
        for eta in range(1, order + 1)
    ]


def test_two_atoms_solve_the_system_below_their_order_and_not_at_it():
    """Scaled so that the first has weight 1 and b = 1, orders 1 to 3 leave only the second's weight free."""
    assert polynomial_order(2) == 4
    for weight in np.geomspace(1e-3, 1e3, 61):
        weights, b = np.array([1.0, weight]), np.array([1.0, -1 / weight])
        nu = np.linalg.solve([weights, weights * b], [-(weights @ b**2) / 2, -(weights @ b**3) / 6])
        *below, at = residuals(4, weights, b, nu)
        np.testing.assert_allclose(below, 0, atol=1e-9 * weights @ np.abs(b) ** 3)
        assert at < -0.01


def test_three_atoms_solve_the_system_below_their_order():
    assert polynomial_order(3) == 6
    outer = -0.3
    q = 1 / 12 + outer + outer**2
    middle, weight = 2 * q / (1 + 2 * outer), -((1 + 2 * outer) ** 2) / (2 * q)
    weights, b, nu = np.array([1, weight, 1]), np.array([1.0, 0.0, -1.0]), np.array([outer, middle, outer])
    *below, at = residuals(6, weights, b, nu)
    assert weight > 0
    np.testing.assert_allclose(below, 0, atol=1e-15)
    assert abs(at) > 0.01


def test_known_orders():
    assert [polynomial_order(m) for m in (1, 2, 3)] == [1, 4, 6]
    for unknown in (0, 4, -1):
        with pytest.raises(ValueError, match=f"n_atoms must be 1, 2 or 3 .* got {unknown}"):
            polynomial_order(unknown)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_the_safe_selection_is_always_enough(sizes, data):
    top_k = data.draw(st.integers(1, len(sizes)))
    required = required_selection(sizes, top_k)
    assert top_k <= required <= top_k + sum(sizes) - len(sizes)
    assert required_selection((1, 3, 1, 2), 2) == 5


# ------------------------------------------------------------------------------------------- bad input


def test_bad_input():
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        TopKGate(0)
    with pytest.raises(ValueError, match="rank_by must be 'slope' or 'logit', got 'bias'"):
        TopKGate(1, rank_by="bias")
    with pytest.raises(ValueError, match="top_k must be at most the number of experts 3, got 4"):
        TopKGate(4).logits([[0.0]], TRUTH)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 1\), got \(1, 2\)"):
        selected_experts([[0.0, 1.0]], TRUTH, TopKGate(2))
    with pytest.raises(ValueError, match="X must be finite"):
        TopKGate(2).logits([[np.inf]], TRUTH)
    for loss in (exact_voronoi_loss, over_specified_voronoi_loss):
        with pytest.raises(ValueError, match="top_k must be between 1 and the number of cells 3, got 4"):
            loss(TRUTH, TRUTH, 4)
        with pytest.raises(ValueError, match="features, got 2 and 1"):
            loss(draw_parameters(np.random.default_rng(0)), TRUTH, 2)
    with pytest.raises(ValueError, match="top_k must be between 1 and the number of cells 2, got 0"):
        required_selection((1, 2), 0)
    with pytest.raises(ValueError, match=r"cell_sizes must not be negative, got \(1, -1\)"):
        required_selection((1, -1), 1)
