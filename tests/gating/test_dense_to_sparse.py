"""Dense-to-sparse gates: the formula, what the temperature is confounded with, the losses, the router."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from assay.gating.dense_to_sparse import (
    DenseToSparseGate,
    DenseToSparseRouter,
    activation_loss,
    dense_to_sparse_loss,
    independence_defect,
    scale_parameters,
)
from assay.gating.gaussian_moe import (
    GaussianMoE,
    GaussianMoEParameters,
    SoftmaxGate,
    fit_gaussian_moe,
    gate_probabilities,
    log_density,
    sample,
    score_vectors,
)

ACTIVATIONS = (None, "sigmoid", "tanh", "gelu", "silu", "relu")
SCALE_FREE = (None, "relu")
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def draw_parameters(rng, k=4, d=2):
    return GaussianMoEParameters(
        gate_weights=2 * rng.standard_normal((k, d)),
        gate_biases=rng.standard_normal(k),
        expert_weights=2 * rng.standard_normal((k, d)),
        expert_biases=2 * rng.standard_normal(k),
        variances=rng.uniform(0.1, 1.0, k),
        temperature=rng.uniform(0.3, 3.0),
    )


def draw(rng, n=40, k=4, d=2):
    return rng.uniform(-3, 3, (n, d)), 3 * rng.standard_normal(n), draw_parameters(rng, k, d)


# ---------------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize(
    ("activation", "first_logit", "first_probability"),
    [(None, 4.0, 0.98201379), ("tanh", 1.92805516, 0.87303400), ("sigmoid", 1.76159416, 0.68169974)],
)
def test_a_worked_gate(activation, first_logit, first_probability):
    parameters = GaussianMoEParameters(
        [[1.0], [0.0]], [0.0, 0.0], [[1.0], [-1.0]], [0.0, 3.0], [0.1, 0.2], temperature=0.5
    )
    gate = DenseToSparseGate(activation)
    assert gate.logits([[2.0]], parameters)[0, 0] == pytest.approx(first_logit, abs=1e-8)
    probabilities = gate_probabilities([[2.0]], parameters, gate)
    np.testing.assert_allclose(probabilities, [[first_probability, 1 - first_probability]], atol=1e-8)


@quick
@given(seeds)
def test_without_activation_the_temperature_divides_weights_and_biases(seed):
    X, y, parameters = draw(np.random.default_rng(seed))
    tau = parameters.temperature
    divided = dataclasses.replace(
        parameters,
        gate_weights=parameters.gate_weights / tau,
        gate_biases=parameters.gate_biases / tau,
        temperature=1.0,
    )
    expected = log_density(X, y, divided, SoftmaxGate())
    for at in (parameters, divided):
        np.testing.assert_allclose(log_density(X, y, at, DenseToSparseGate()), expected, rtol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_temperature_goes_from_one_hot_to_uniform_without_overflow(activation):
    X, _, parameters = draw(np.random.default_rng(0))
    gate = DenseToSparseGate(activation)
    cold, hot = (dataclasses.replace(parameters, temperature=tau) for tau in (1e-6, 1e9))
    one_hot = gate_probabilities(X, cold, gate)
    np.testing.assert_allclose(one_hot.max(axis=1), 1.0, atol=1e-12)
    assert (one_hot.argmax(axis=1) == gate.logits(X, parameters).argmax(axis=1)).all()
    np.testing.assert_allclose(gate_probabilities(X, hot, gate), 1 / parameters.n_experts, atol=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_only_the_plain_gate_may_be_translated(activation):
    X, y, parameters = draw(np.random.default_rng(0))
    gate = DenseToSparseGate(activation)
    assert gate.learns_temperature
    assert gate.shift_invariant == (activation is None)
    moved = dataclasses.replace(parameters, gate_weights=parameters.gate_weights + np.array([1.0, -0.5]))
    change = np.abs(log_density(X, y, moved, gate) - log_density(X, y, parameters, gate)).max()
    assert change < 1e-9 if gate.shift_invariant else change > 0.01


# ------------------------------------------------------------------- the temperature and what it acts with


@pytest.mark.parametrize("activation", ACTIVATIONS)
@quick
@given(seed=seeds, factor=st.floats(0.1, 10.0))
def test_scaling_is_seen_by_activations_that_are_not_homogeneous_alone(activation, seed, factor):
    X, y, parameters = draw(np.random.default_rng(seed))
    gate = DenseToSparseGate(activation)
    before, after = (log_density(X, y, at, gate) for at in (parameters, scale_parameters(parameters, factor)))
    if activation in SCALE_FREE:
        np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)
    elif abs(np.log(factor)) > 0.1:
        assert np.abs(after - before).max() > 1e-4


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_interaction_of_the_scores_vanishes_for_homogeneous_activations_alone(activation):
    X, y, parameters = draw(np.random.default_rng(1), n=500)
    scores = score_vectors(X, y, parameters, DenseToSparseGate(activation))
    in_gate = np.concatenate([parameters.gate_weights.ravel(), parameters.gate_biases])
    interaction = scores[:, : len(in_gate)] @ in_gate + parameters.temperature * scores[:, -1]
    largest = np.abs(interaction).max()
    assert largest < 1e-12 * np.abs(scores).max() if activation in SCALE_FREE else largest > 0.1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scores_are_the_derivatives_of_the_log_density(activation):
    X, y, parameters = draw(np.random.default_rng(2), n=30, k=3)
    gate, step = DenseToSparseGate(activation), 1e-6
    numerical = []
    for field in dataclasses.fields(parameters):
        value = np.asarray(getattr(parameters, field.name))
        for index in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                at = dataclasses.replace(parameters, **{field.name: moved if value.ndim else float(moved)})
                ends.append(log_density(X, y, at, gate))
            numerical.append((ends[0] - ends[1]) / (2 * step))
    np.testing.assert_allclose(
        score_vectors(X, y, parameters, gate), np.stack(numerical, axis=1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_only_with_an_activation_does_a_fit_forget_the_scale_of_its_start(activation):
    truth = GaussianMoEParameters(
        [[1.1], [-0.5], [-0.8]],
        [-0.3, 0.0, 0.0],
        [[1.5], [-1.0], [0.5]],
        [2.0, -2.0, 0.0],
        [0.1] * 3,
        temperature=0.5,
    )
    gate, rng = DenseToSparseGate(activation), np.random.default_rng(0)
    X = rng.uniform(-4, 4, (4000, 1))
    y, _ = sample(X, truth, gate, seed=rng)
    fits = [fit_gaussian_moe(X, y, scale_parameters(truth, factor), gate) for factor in (0.6, 1.7)]
    taus = [fit.parameters.temperature for fit in fits]
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-8)
    if activation is None:
        np.testing.assert_allclose(taus, [0.3, 0.85], rtol=0.1)
    else:
        assert taus[0] == pytest.approx(taus[1], rel=1e-3)
        assert taus[0] == pytest.approx(0.5, rel=0.2)


def test_the_estimator_learns_the_temperature():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (400, 1))
    y = np.abs(X[:, 0]) + 0.05 * rng.standard_normal(400)
    model = GaussianMoE(2, gate=DenseToSparseGate("tanh"), n_init=2, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.parameters_.temperature != 1.0


# ------------------------------------------------------------------------------------------------ losses


TRUE = GaussianMoEParameters(
    gate_weights=[[1.0, 0.0], [0.0, 1.0]],
    gate_biases=[0.3, 0.0],
    expert_weights=[[1.0, 2.0], [-1.0, 0.0]],
    expert_biases=[5.0, -5.0],
    variances=[1.0, 2.0],
    temperature=0.5,
)


@pytest.mark.parametrize("order", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("off", [0.01, 0.3, 2.0])
def test_one_atom_off_in_gate_weights_costs_its_mass_times_a_power(order, off):
    fitted = dataclasses.replace(TRUE, gate_weights=[[1.0 + off, 0.0], [0.0, 1.0]])
    expected = np.exp(0.6) * off**order
    assert dense_to_sparse_loss(fitted, TRUE, order=order) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("copies", "powers"), [(1, (1, 1, 1, 1)), (2, (2, 2, 4, 2)), (3, (2, 2, 6, 3)), (4, (2, 2, 7, 3.5))]
)
@pytest.mark.parametrize("off", [0.01, 0.3])
def test_the_powers_of_an_atom_that_shares_its_cell(copies, powers, off):
    """Of the split expert's atoms, all of one mass, the first is off by as much in everything but tau."""
    chosen = [0] * copies + [1]
    move = np.zeros(copies + 1)
    move[0] = off
    fitted = GaussianMoEParameters(
        gate_weights=TRUE.gate_weights[chosen] + np.outer(move, [1.0, 0.0]),
        gate_biases=TRUE.gate_biases[chosen] - 0.5 * np.log(copies) * (np.array(chosen) == 0),
        expert_weights=TRUE.expert_weights[chosen] + np.outer(move, [0.0, 1.0]),
        expert_biases=TRUE.expert_biases[chosen] + move,
        variances=TRUE.variances[chosen] + move,
        temperature=0.5,
    )
    expected = np.exp(0.6) / copies * sum(off**power for power in powers)
    assert activation_loss(fitted, TRUE) == pytest.approx(expected)


def test_an_error_of_the_temperature_counts_in_every_atom():
    tau = 0.7
    fitted = dataclasses.replace(TRUE, gate_biases=TRUE.gate_biases * tau / 0.5, temperature=tau)
    total = 0.2 * TRUE.masses.sum()
    assert dense_to_sparse_loss(fitted, TRUE) == pytest.approx(total)
    assert activation_loss(fitted, TRUE) == pytest.approx(total)


def test_a_true_atom_that_nothing_is_near_to_costs_its_mass():
    fitted = GaussianMoEParameters([[1.0, 0.0]], [0.3], [[1.0, 2.0]], [5.0], [1.0], temperature=0.5)
    assert dense_to_sparse_loss(fitted, TRUE) == pytest.approx(1.0)
    assert activation_loss(fitted, TRUE) == pytest.approx(1.0)


@quick
@given(seeds, st.floats(1.0, 5.0))
def test_losses_are_zero_at_the_truth_alone(seed, order):
    rng = np.random.default_rng(seed)
    first, second = draw_parameters(rng), draw_parameters(rng)
    for loss in (activation_loss, lambda fitted, true: dense_to_sparse_loss(fitted, true, order)):
        assert loss(first, first) == 0
        assert loss(first, second) > 0


# ------------------------------------------------------------------------------- independence of functions


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_which_activations_are_independent(activation, order):
    X = np.random.default_rng(0).uniform(-3, 3, (3000, 2))
    defect = independence_defect(activation, [[1.0, 0.5], [-0.3, 0.8]], X, order)
    if activation in SCALE_FREE:
        assert defect < 1e-8
    elif activation in ("sigmoid", "tanh") and order == 1:
        assert defect > 1e-3
    else:
        assert defect > 1e-6


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("directions", [[[1.0, 0.5], [1.0, 0.5]], [[1.0, 0.5], [-1.0, -0.5]]])
def test_equal_and_opposite_directions_are_dependent(activation, directions):
    X = np.random.default_rng(0).uniform(-3, 3, (500, 2))
    assert independence_defect(activation, directions, X) < 1e-8


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("sigmoid", expit),
        ("tanh", np.tanh),
        ("silu", lambda z: z * expit(z)),
        ("gelu", lambda z: torch.nn.functional.gelu(torch.as_tensor(z)).numpy()),
        ("relu", lambda z: np.maximum(z, 0)),
    ],
)
def test_the_functions_are_the_activation_and_its_derivatives(activation, function):
    """Their differences, at points that keep off relu's corner, make the same matrix."""
    X, step, direction = np.linspace(-3, 2.9, 200)[:, None], 1e-4, 0.7
    z = direction * X[:, 0]
    low, middle, high = function(z - step), function(z), function(z + step)
    columns = [
        np.ones_like(z),
        middle,
        X[:, 0] * (high - low) / (2 * step),
        X[:, 0] ** 2 * (high - 2 * middle + low) / step**2,
    ]
    functions = np.stack(
        [column / np.linalg.norm(column) for column in columns if np.abs(column).max() > 1e-3]
    )
    expected = np.linalg.svd(functions.T, compute_uv=False)[-1]
    assert independence_defect(activation, [[direction]], X, order=2) == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------------------------------------ router


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_router_is_the_gate(activation):
    rng = np.random.default_rng(0)
    X, _, parameters = draw(rng)
    router = DenseToSparseRouter(2, 4, activation).double()
    with torch.no_grad():
        router.weight.copy_(torch.tensor(parameters.gate_weights))
        router.bias.copy_(torch.tensor(parameters.gate_biases))
    router.temperature = parameters.temperature
    weights = router(torch.tensor(X))
    expected = gate_probabilities(X, parameters, DenseToSparseGate(activation))
    np.testing.assert_allclose(weights.detach().numpy(), expected, atol=1e-8)
    weights[:, 0].sum().backward()
    assert router.weight.grad.abs().min() > 0
    assert router.bias.grad.abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_router_keeps_dtype_and_leading_dimensions(dtype):
    router = DenseToSparseRouter(6, 3, "silu").to(dtype)
    weights = router(torch.ones(2, 5, 6, dtype=dtype))
    assert weights.shape == (2, 5, 3)
    assert weights.dtype == dtype


def test_a_new_router_is_nearly_uniform_and_is_drawn_small():
    torch.manual_seed(0)
    router = DenseToSparseRouter(200, 50)
    assert router.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not router.bias.any()


def test_the_temperature_is_saved_copied_and_shown():
    router = DenseToSparseRouter(3, 2, temperature=4.0)
    router.temperature = 0.25
    loaded = DenseToSparseRouter(3, 2)
    loaded.load_state_dict(router.state_dict())
    assert loaded.temperature == copy.deepcopy(router).temperature == 0.25
    assert repr(loaded) == "DenseToSparseRouter(3, 2, activation=None, temperature=0.25)"


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_temperatures_that_are_refused(temperature):
    router = DenseToSparseRouter(3, 2)
    for act in (
        lambda: DenseToSparseRouter(3, 2, temperature=temperature),
        lambda: setattr(router, "temperature", temperature),
        lambda: dataclasses.replace(TRUE, temperature=temperature),
    ):
        with pytest.raises(ValueError, match=f"temperature.*{temperature}"):
            act()


OTHER_FEATURES = GaussianMoEParameters([[1.0]], [0.0], [[1.0]], [0.0], [1.0])
POINTS = np.random.default_rng(0).standard_normal((20, 2))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: DenseToSparseGate("softplus"), "activation.*'softplus'"),
        (lambda: DenseToSparseRouter(3, 2, "softplus"), "activation.*'softplus'"),
        (lambda: DenseToSparseRouter(0, 2), "in_features.*0"),
        (lambda: DenseToSparseRouter(3, 0), "n_experts.*0"),
        (lambda: scale_parameters(TRUE, 0.0), "factor.*0.0"),
        (lambda: scale_parameters(TRUE, -2.0), "factor.*-2.0"),
        (lambda: scale_parameters(TRUE, np.inf), "factor.*inf"),
        (lambda: scale_parameters(TRUE, np.nan), "factor.*nan"),
        (lambda: dense_to_sparse_loss(TRUE, TRUE, order=0.5), "order.*0.5"),
        (lambda: dense_to_sparse_loss(TRUE, TRUE, order=np.nan), "order.*nan"),
        (lambda: dense_to_sparse_loss(OTHER_FEATURES, TRUE), "number of features.*1 and 2"),
        (lambda: activation_loss(OTHER_FEATURES, TRUE), "number of features.*1 and 2"),
        (lambda: independence_defect("softplus", [[1.0, 0.0]], POINTS), "activation.*'softplus'"),
        (lambda: independence_defect("tanh", [[1.0]], POINTS), r"directions.*\(k, 2\).*\(1, 1\)"),
        (lambda: independence_defect("tanh", [1.0, 0.0], POINTS), r"directions.*\(2,\)"),
        (lambda: independence_defect("tanh", [[1.0, 0.0]], POINTS[0]), r"X.*\(2,\)"),
        (lambda: independence_defect("tanh", [[np.nan, 0.0]], POINTS), "directions must be finite"),
        (lambda: independence_defect("tanh", [[1.0, 0.0]], POINTS, order=3), "order.*3"),
        (lambda: independence_defect("tanh", [[1.0, 0.0]], POINTS[:3]), "X must have at least 4 rows.*3"),
    ],
)
def test_bad_input_is_named(act, message):
    with pytest.raises(ValueError, match=message):
        act()
