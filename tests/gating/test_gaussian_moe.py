"""Gaussian mixtures of experts: density, scores, sampling, fits for any gate, distances, cells, alignment."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.datasets import load_diabetes
from sklearn.utils.estimator_checks import parametrize_with_checks

from assay.gating.gaussian_moe import (
    Gate,
    GaussianMoE,
    GaussianMoEParameters,
    SoftmaxGate,
    _Likelihood,
    _vector,
    align,
    density_distance,
    fit_gaussian_moe,
    gate_probabilities,
    log_density,
    sample,
    score_vectors,
    voronoi_cells,
)

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


class TanhGate(Gate):
    shift_invariant = False
    learns_temperature = True

    def activate(self, scores):
        return np.tanh(scores), 1 - np.tanh(scores) ** 2


class HalvesGate(Gate):
    """Selects the first expert where its score is positive, the others elsewhere."""

    shift_invariant = False

    def select(self, scores, biases):
        first = scores[:, :1] > 0
        return np.column_stack([first, np.repeat(~first, len(biases) - 1, axis=1)])


GATES = [SoftmaxGate(), TanhGate(), HalvesGate()]
each_gate = pytest.mark.parametrize("gate", GATES, ids=lambda gate: type(gate).__name__)


def draw_parameters(rng, k=3, d=2, temperature=1.0):
    return GaussianMoEParameters(
        gate_weights=2 * rng.standard_normal((k, d)),
        gate_biases=rng.standard_normal(k),
        expert_weights=2 * rng.standard_normal((k, d)),
        expert_biases=2 * rng.standard_normal(k),
        variances=rng.uniform(0.1, 1.0, k),
        temperature=temperature,
    )


def draw_data(rng, parameters, gate=None, n=200):
    X = rng.uniform(-1, 1, (n, parameters.n_features))
    y, _ = sample(X, parameters, gate, seed=rng)
    return X, y


def perturbed(rng, parameters, size):
    def noisy(value):
        return value + size * rng.standard_normal(value.shape)

    return dataclasses.replace(
        parameters,
        gate_weights=noisy(parameters.gate_weights),
        gate_biases=noisy(parameters.gate_biases),
        expert_weights=noisy(parameters.expert_weights),
        expert_biases=noisy(parameters.expert_biases),
        variances=parameters.variances * np.exp(noisy(np.zeros(parameters.n_experts))),
    )


# --------------------------------------------------------------------------------------------- density


def test_density_restated():
    rng = np.random.default_rng(0)
    parameters = draw_parameters(rng, temperature=0.7)
    X, y = draw_data(rng, parameters)
    logits = (X @ parameters.gate_weights.T + parameters.gate_biases) / 0.7
    gates = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    means = X @ parameters.expert_weights.T + parameters.expert_biases
    density = (gates * norm.pdf(y[:, None], means, np.sqrt(parameters.variances))).sum(axis=1)
    np.testing.assert_allclose(gate_probabilities(X, parameters), gates, rtol=1e-12)
    np.testing.assert_allclose(log_density(X, y, parameters), np.log(density), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(parameters.masses, np.exp(parameters.gate_biases / 0.7))


@each_gate
@quick
@given(seed=seeds)
def test_density_integrates_to_one(gate, seed):
    rng = np.random.default_rng(seed)
    parameters = draw_parameters(rng)
    x = rng.uniform(-1, 1, (1, 2))
    y = np.linspace(-40, 40, 2001)
    density = np.exp(log_density(np.repeat(x, len(y), axis=0), y, parameters, gate))
    assert np.trapezoid(density, y) == pytest.approx(1, abs=1e-6)


@quick
@given(seed=seeds, temperature=st.floats(0.1, 10))
def test_translations_of_the_gate_leave_the_density(seed, temperature):
    rng = np.random.default_rng(seed)
    parameters = draw_parameters(rng, temperature=temperature)
    X, y = draw_data(rng, parameters)
    moved = dataclasses.replace(
        parameters,
        gate_weights=parameters.gate_weights + rng.standard_normal(2),
        gate_biases=parameters.gate_biases + rng.standard_normal(),
    )
    expected = log_density(X, y, parameters)
    np.testing.assert_allclose(log_density(X, y, moved), expected, rtol=1e-9, atol=1e-9)


def test_density_far_from_all_experts_and_for_extreme_logits_is_finite():
    parameters = GaussianMoEParameters([[1000.0], [0.0]], [0, 0], [[0.0], [1.0]], [0, 0], [0.01, 0.02])
    X, y = np.array([[-1.0], [1.0], [1.0]]), np.array([0.0, 0.0, 1e4])
    expected = norm.logpdf(y, [-1, 0, 0], np.sqrt([0.02, 0.01, 0.01]))
    # At the last sample the improbable expert is the nearer one, but not by enough.
    np.testing.assert_allclose(log_density(X, y, parameters)[:2], expected[:2], rtol=1e-12)
    assert np.isfinite(log_density(X, y, parameters)).all()
    assert np.isfinite(score_vectors(X, y, parameters)).all()


@each_gate
def test_scores_are_the_gradient_of_the_log_density(gate):
    rng = np.random.default_rng(1)
    parameters = draw_parameters(rng, temperature=0.8)
    X, y = draw_data(rng, parameters, gate)
    far_from_a_boundary = np.abs(X @ parameters.gate_weights[0]) > 1e-3
    X, y = X[far_from_a_boundary], y[far_from_a_boundary]
    names = [field.name for field in dataclasses.fields(parameters)]
    step, columns = 1e-6, []
    for name in names:
        value = np.asarray(getattr(parameters, name))
        for index in np.ndindex(value.shape):
            values = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                moved = dataclasses.replace(parameters, **{name: moved if value.ndim else float(moved)})
                values.append(log_density(X, y, moved, gate))
            columns.append((values[0] - values[1]) / (2 * step))
    scores = score_vectors(X, y, parameters, gate)
    assert scores.shape == (len(X), 3 * (2 * 2 + 3) + 1)
    np.testing.assert_allclose(scores, np.stack(columns, axis=1), atol=1e-5)


@each_gate
def test_the_fused_pass_agrees_with_density_and_scores(gate):
    rng = np.random.default_rng(2)
    parameters = draw_parameters(rng, temperature=0.8)
    X, y = draw_data(rng, parameters, gate)
    value, gradient = _Likelihood(X, y, gate, 3)(_vector(parameters))
    scores = score_vectors(X, y, parameters, gate).mean(axis=0)
    scores[-4:] *= [*parameters.variances, parameters.temperature]  # the fit moves their logarithms
    assert value == pytest.approx(log_density(X, y, parameters, gate).mean(), rel=1e-12)
    np.testing.assert_allclose(gradient, scores, atol=1e-12)


@each_gate
def test_samples_follow_the_model(gate):
    rng = np.random.default_rng(3)
    parameters = draw_parameters(rng)
    X = np.repeat(rng.uniform(-1, 1, (1, 2)), 40_000, axis=0)
    y, chosen = sample(X, parameters, gate, seed=4)
    shares = np.bincount(chosen, minlength=3) / len(X)
    np.testing.assert_allclose(shares, gate_probabilities(X[:1], parameters, gate)[0], atol=0.01)
    for i in np.flatnonzero(shares > 0.05):
        of_expert = y[chosen == i]
        mean = X[0] @ parameters.expert_weights[i] + parameters.expert_biases[i]
        assert of_expert.mean() == pytest.approx(mean, abs=0.05)
        assert of_expert.var() == pytest.approx(parameters.variances[i], rel=0.1)
    again, _ = sample(X, parameters, gate, seed=np.random.default_rng(4))
    np.testing.assert_array_equal(again, y)


# ------------------------------------------------------------------------------------------------ fits


@each_gate
def test_fits_climb_and_pass_the_truth(gate):
    rng = np.random.default_rng(5)
    truth = draw_parameters(rng)
    X, y = draw_data(rng, truth, gate, n=500)
    for start in (truth, perturbed(rng, truth, 0.3)):
        fit = fit_gaussian_moe(X, y, start, gate)
        assert (np.diff(fit.trace) >= 0).all()
        assert len(fit.trace) == fit.n_iter + 1
        assert fit.trace[0] == pytest.approx(log_density(X, y, start, gate).mean(), rel=1e-12)
        assert fit.log_likelihood == pytest.approx(log_density(X, y, fit.parameters, gate).mean(), rel=1e-12)
        if not isinstance(gate, HalvesGate):  # whose likelihood jumps where a boundary meets a sample
            assert fit.converged
            assert fit.log_likelihood >= log_density(X, y, truth, gate).mean()


@each_gate
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_expectation_maximisation_never_falls(gate, seed):
    rng = np.random.default_rng(seed)
    truth = draw_parameters(rng)
    X, y = draw_data(rng, truth, gate)
    fit = fit_gaussian_moe(X, y, perturbed(rng, truth, 0.5), gate, max_iter=1, n_em=20)
    assert (np.diff(fit.trace) >= 0).all()


def test_expectation_maximisation_alone_comes_to_the_same_maximum():
    rng = np.random.default_rng(6)
    truth = GaussianMoEParameters([[4.0], [0.0]], [0.5, 0.0], [[1.0], [-1.0]], [0.0, 3.0], [0.1, 0.2])
    X, y = draw_data(rng, truth, n=1000)
    by_gradient = fit_gaussian_moe(X, y, truth, n_em=0)
    by_em = fit_gaussian_moe(X, y, truth, n_em=200, max_iter=1)
    assert by_em.log_likelihood == pytest.approx(by_gradient.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(_vector(by_em.parameters), _vector(by_gradient.parameters), atol=1e-3)


def test_what_the_density_does_not_need_stays():
    rng = np.random.default_rng(7)
    start = draw_parameters(rng, temperature=1.5)
    X, y = draw_data(rng, start)
    dense = fit_gaussian_moe(X, y, start).parameters
    np.testing.assert_array_equal(dense.gate_weights[-1], start.gate_weights[-1])
    assert dense.gate_biases[-1] == start.gate_biases[-1]
    assert dense.temperature == pytest.approx(1.5, rel=1e-15)
    assert (dense.gate_weights[:-1] != start.gate_weights[:-1]).all()
    activated = fit_gaussian_moe(X, y, start, TanhGate()).parameters
    assert (activated.gate_weights != start.gate_weights).all()
    assert activated.gate_biases[-1] == start.gate_biases[-1]
    assert activated.temperature != pytest.approx(1.5, rel=1e-6)
    fixed = fit_gaussian_moe(X, y, start, TanhGate(), learn_temperature=False).parameters
    assert fixed.temperature == pytest.approx(1.5, rel=1e-15)
    learned = fit_gaussian_moe(X, y, start, learn_temperature=True).parameters
    assert learned.temperature != pytest.approx(1.5, rel=1e-6)


def test_bounds_hold_where_the_likelihood_grows_without_end():
    X = np.linspace(-1, 1, 40)[:, None]
    y = np.where(X[:, 0] > 0, 1.0 + X[:, 0], -1.0 - X[:, 0])  # noiseless, and separable by the gate
    start = GaussianMoEParameters([[1.0], [0.0]], [0, 0], [[1.0], [-1.0]], [1.0, -1.0], [0.1, 0.1])
    fit = fit_gaussian_moe(X, y, start, bound=20.0, variance_bounds=(1e-3, 1.0))
    assert np.abs(fit.parameters.gate_weights).max() <= 20
    np.testing.assert_allclose(fit.parameters.variances, 1e-3)
    assert (np.diff(fit.trace) >= 0).all()


@parametrize_with_checks([GaussianMoE(random_state=0, n_init=2, max_iter=100)])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_estimator_finds_two_lines_in_any_unit(scale):
    rng = np.random.default_rng(8)
    truth = GaussianMoEParameters([[6.0], [0.0]], [0, 0], [[2.0], [-1.0]], [-1.0, 2.0], [0.04, 0.09])
    X, y = draw_data(rng, truth, n=2000)
    model = GaussianMoE(2, random_state=0).fit(X * scale, y * scale)
    order = np.argsort(model.parameters_.expert_biases)
    np.testing.assert_allclose(model.parameters_.expert_weights[order], truth.expert_weights, atol=0.1)
    np.testing.assert_allclose(model.parameters_.variances[order], truth.variances * scale**2, rtol=0.2)
    densities = model.log_density(X * scale, y * scale)
    assert model.log_likelihood_ == pytest.approx(densities.mean(), rel=1e-9)
    assert densities.mean() >= log_density(X, y, truth).mean() - np.log(scale)


def test_the_estimator_on_real_data_with_a_gate_of_ones_own():
    X, y = load_diabetes(return_X_y=True)
    for gate in (None, TanhGate()):
        model = GaussianMoE(2, gate, random_state=0).fit(X, y)
        np.testing.assert_allclose(model.gate_probabilities(X).sum(axis=1), 1)
        assert model.score(X, y) > 0.5


# ------------------------------------------------------------------------- distances, cells, alignment


def test_distances_of_two_normals():
    def normal(mean, variance=1.0):
        return GaussianMoEParameters([[0.0]], [0.0], [[0.0]], [mean], [variance])

    X = [[0.0], [1.0]]
    assert density_distance(normal(0), None, normal(0), None, X) == 0
    assert density_distance(normal(0), None, normal(2), None, X) == pytest.approx(np.sqrt(1 - np.exp(-0.5)))
    assert density_distance(normal(0), None, normal(1e-4), None, X) == pytest.approx(1e-4 / 8**0.5, rel=1e-6)
    assert density_distance(normal(0), None, normal(100), None, X) == pytest.approx(1)
    total_variation = density_distance(normal(0), None, normal(2), None, X, metric="total_variation")
    assert total_variation == pytest.approx(2 * norm.cdf(1) - 1, abs=1e-4)


def test_distances_average_over_the_inputs_and_see_the_gates():
    rng = np.random.default_rng(9)
    first, second = draw_parameters(rng), draw_parameters(rng)
    X = rng.uniform(-1, 1, (5, 2))
    y = np.linspace(-60, 60, 40_001)
    distances = []
    for x in X:
        grid = np.repeat(x[None], len(y), axis=0)
        log_p, log_q = log_density(grid, y, first), log_density(grid, y, second, TanhGate())
        distances.append(np.sqrt(1 - np.trapezoid(np.exp((log_p + log_q) / 2), y)))
    found = density_distance(first, None, second, TanhGate(), X)
    assert found == pytest.approx(np.mean(distances), abs=1e-6)
    swapped = density_distance(second, TanhGate(), first, None, X)
    assert swapped == pytest.approx(found, rel=1e-9)


def test_cells_by_all_parameters_and_by_experts():
    true = GaussianMoEParameters([[0.0], [5.0]], [0, 0], [[1.0], [2.0]], [0, 0], [1, 1])
    fitted = GaussianMoEParameters(
        [[0.0], [4.0], [0.0]], [0, 0, 0], [[1.1], [1.1], [1.5]], [0, 0, 0], [1, 1, 1]
    )
    assert voronoi_cells(fitted, true).tolist() == [0, 1, 0]
    assert voronoi_cells(fitted, true, use="experts").tolist() == [0, 0, 0]  # the last one is a tie


@quick
@given(seed=seeds, temperature=st.floats(0.2, 5))
def test_alignment_undoes_translations_and_keeps_the_density(seed, temperature):
    rng = np.random.default_rng(seed)
    true = draw_parameters(rng, temperature=temperature)
    X, y = draw_data(rng, true)
    moved = dataclasses.replace(
        true, gate_weights=true.gate_weights + rng.standard_normal(2), gate_biases=true.gate_biases + 1.7
    )
    aligned = align(moved, true)
    np.testing.assert_allclose(_vector(aligned), _vector(true), atol=1e-9)
    unmoved = align(moved, true, TanhGate())
    np.testing.assert_array_equal(unmoved.gate_weights, moved.gate_weights)
    np.testing.assert_allclose(unmoved.masses.sum(), true.masses.sum())
    far = align(draw_parameters(rng, k=4, temperature=2.0), true)
    other = draw_parameters(np.random.default_rng(seed), k=4)
    np.testing.assert_allclose(
        log_density(X, y, align(other, true)), log_density(X, y, other), rtol=1e-9, atol=1e-9
    )
    assert logsumexp(far.gate_biases / 2.0) == pytest.approx(logsumexp(true.gate_biases / temperature))


def test_alignment_looks_at_atoms_that_are_alone():
    true = GaussianMoEParameters([[1.0], [2.0]], [0, 0], [[0.0], [9.0]], [0, 0], [1, 1])
    fitted = GaussianMoEParameters(
        [[7.0], [-50.0], [5.0]], [0, 0, 0], [[0.0], [0.1], [9.0]], [0, 0, 0], [1, 1, 1]
    )
    assert align(fitted, true).gate_weights.ravel().tolist() == [4.0, -53.0, 2.0]


# ------------------------------------------------------------------------------------------- bad input


def test_parameters_are_converted_copied_and_read_only():
    weights = np.zeros((2, 1))
    parameters = GaussianMoEParameters(weights, [0, 0], [[1], [2]], [3, 4], [1, 1], temperature=2)
    weights[0] = 7
    assert parameters.gate_weights[0] == 0
    assert parameters.expert_weights.dtype == np.float64
    assert (parameters.n_experts, parameters.n_features) == (2, 1)
    with pytest.raises(ValueError):
        parameters.variances[0] = 2.0
    copied = pickle.loads(pickle.dumps(parameters))
    np.testing.assert_array_equal(_vector(copied), _vector(parameters))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate_weights": [1.0, 2.0]}, r"gate_weights must have shape .*got \(2,\)"),
        ({"gate_weights": np.empty((0, 1))}, r"gate_weights must have shape .*got \(0, 1\)"),
        ({"gate_biases": [0.0]}, r"gate_biases must have shape \(2,\), got \(1,\)"),
        (
            {"expert_weights": [[1.0, 2.0], [1.0, 2.0]]},
            r"expert_weights must have shape \(2, 1\), got \(2, 2\)",
        ),
        ({"expert_biases": [np.nan, 0.0]}, r"expert_biases must be finite, got \[nan"),
        ({"variances": [1.0, 0.0]}, r"variances must be positive, got \[1.0, 0.0\]"),
        ({"temperature": 0.0}, r"temperature must be a positive number, got 0.0"),
        ({"temperature": np.inf}, r"temperature must be a positive number, got inf"),
    ],
)
def test_bad_parameters(change, message):
    good = GaussianMoEParameters([[1.0], [0.0]], [0, 0], [[1.0], [2.0]], [0, 0], [1, 1])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **change)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([1.0, 2.0], [0.0, 0.0], r"X must have shape \(n, 1\), got \(2,\)"),
        ([[1.0, 2.0]], [0.0], r"X must have shape \(n, 1\), got \(1, 2\)"),
        ([[np.nan]], [0.0], "X must be finite"),
        ([[1.0]], [np.inf], "y must be finite"),
        ([[1.0]], [1.0, 2.0], r"y must have shape \(1,\).*got \(2,\)"),
        ([[1.0]], [[1.0]], r"y must have shape \(1,\).*got \(1, 1\)"),
    ],
)
def test_bad_data(X, y, message):
    parameters = GaussianMoEParameters([[1.0], [0.0]], [0, 0], [[1.0], [2.0]], [0, 0], [1, 1])
    for function in (log_density, score_vectors, fit_gaussian_moe):
        with pytest.raises(ValueError, match=message):
            function(X, y, parameters)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bound": 0.0}, "bound must be positive, got 0.0"),
        ({"bound": 0.5}, "initial must lie within bound=0.5"),
        ({"variance_bounds": (2.0, 1.0)}, "variance_bounds must be"),
        ({"variance_bounds": (2.0, 3.0)}, r"initial must lie within .*variance_bounds=\(2.0, 3.0\)"),
    ],
)
def test_bad_search_spaces(arguments, message):
    parameters = GaussianMoEParameters([[1.0], [0.0]], [0, 0], [[1.0], [2.0]], [0, 0], [1, 1])
    with pytest.raises(ValueError, match=message):
        fit_gaussian_moe([[0.0]], [0.0], parameters, **arguments)


def test_other_bad_input():
    one = draw_parameters(np.random.default_rng(0), d=1)
    two = draw_parameters(np.random.default_rng(0), d=2)
    with pytest.raises(ValueError, match="features, got 1 and 2"):
        density_distance(one, None, two, None, [[0.0]])
    with pytest.raises(ValueError, match="features, got 1 and 2"):
        voronoi_cells(one, two)
    with pytest.raises(ValueError, match="features, got 2 and 1"):
        align(two, one)
    with pytest.raises(ValueError, match="use must be 'all' or 'experts', got 'gates'"):
        voronoi_cells(one, one, use="gates")
    with pytest.raises(ValueError, match=r"metric must be .* got 'l2'"):
        density_distance(one, None, one, None, [[0.0]], metric="l2")
    with pytest.raises(ValueError, match="n_nodes must be at least 2, got 1"):
        density_distance(one, None, one, None, [[0.0]], n_nodes=1)
    for empty in (
        lambda: density_distance(one, None, one, None, np.empty((0, 1))),
        lambda: fit_gaussian_moe(np.empty((0, 1)), [], one),
    ):
        with pytest.raises(ValueError, match="at least one row"):
            empty()
    with pytest.raises(ValueError, match="n_experts must be at least 1, got 0"):
        GaussianMoE(0).fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="n_init must be at least 1, got 0"):
        GaussianMoE(n_init=0).fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="at least n_experts=3 rows, got n_samples = 2"):
        GaussianMoE(3).fit([[0.0], [1.0]], [0.0, 1.0])
