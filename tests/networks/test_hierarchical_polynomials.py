"""Hierarchical polynomials: the targets, the network, both stages of training against closed forms."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import hermite_e
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.utils.estimator_checks import parametrize_with_checks

from assay.networks.hierarchical_polynomials import (
    FeaturePolynomial,
    HierarchicalPolynomial,
    LayerwiseRegressor,
    ThreeLayerNetwork,
    _train_linear,
    hermite_values,
    polynomial_kernel_regressor,
    random_hierarchical_polynomial,
)

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def gaussian(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def correlation(model, target, X):
    return np.corrcoef(model.transform(X)[:, 0], target.feature(X))[0, 1]


def error(predictions, labels):
    return np.mean((predictions - labels) ** 2) / labels.var()


# --------------------------------------------------------------------------------------------- the targets


def test_hermite_polynomials_at_worked_points():
    assert hermite_values(2.0, 3)[3] == pytest.approx((8 - 6) / math.sqrt(6))
    assert hermite_values(1.0, 4)[4] == pytest.approx((1 - 6 + 3) / math.sqrt(24))
    assert hermite_values(np.zeros((2, 3)), 0).tolist() == np.ones((2, 3, 1)).tolist()


@quick
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=5), st.integers(0, 9))
def test_hermite_polynomials_are_numpys_scaled(points, degree):
    scale = np.sqrt([math.factorial(j) for j in range(degree + 1)])
    expected = hermite_e.hermevander(points, degree) / scale
    values = hermite_values(points, degree)
    assert values.shape == expected.shape
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_hermite_polynomials_are_orthonormal():
    nodes, weights = hermite_e.hermegauss(20)
    values = hermite_values(nodes, 8)
    gram = values.T @ (values * weights[:, None]) / math.sqrt(2 * math.pi)
    assert gram == pytest.approx(np.eye(9), abs=1e-10)


@quick
@given(seeds, st.sampled_from(["hermite", "product"]), st.integers(1, 3), st.integers(3, 9))
def test_directions_are_orthonormal_and_as_many_as_fit(seed, kind, degree, d):
    feature = random_hierarchical_polynomial(d, degree=degree, kind=kind, seed=seed).feature
    factors = 1 if kind == "hermite" else degree
    assert feature.directions.shape == (d // factors, factors, d)
    rows = feature.directions.reshape(-1, d)
    assert rows @ rows.T == pytest.approx(np.eye(len(rows)), abs=1e-12)
    assert (np.abs(feature.weights) == 1).all()


def test_directions_have_no_preferred_sign():
    first = [random_hierarchical_polynomial(2, seed=seed).feature.directions[0, 0] for seed in range(200)]
    assert np.abs(np.mean(first, axis=0)).max() < 4 / math.sqrt(2 * 200)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("kind", ["hermite", "product"])
def test_the_feature_has_mean_0_variance_1_and_no_part_of_lower_degree(kind, degree):
    target = random_hierarchical_polynomial(6, degree=degree, kind=kind, seed=1)
    # Exact: a product rule that integrates polynomials of degree 7 in each of six dimensions.
    nodes, weights = hermite_e.hermegauss(4)
    X = np.array(list(product(nodes, repeat=6)))
    mass = np.prod(list(product(weights / math.sqrt(2 * math.pi), repeat=6)), axis=1)
    p = target.feature(X)
    assert mass @ p == pytest.approx(0, abs=1e-10)
    assert mass @ p**2 == pytest.approx(1)
    if degree > 1:
        assert mass @ (p[:, None] * X) == pytest.approx(np.zeros(6), abs=1e-10)


def test_features_are_what_they_say():
    d, X = 6, gaussian(0, 50, 6)
    target = random_hierarchical_polynomial(d, kind="product", seed=2)
    v, w = target.feature.directions[:, 0], target.feature.directions[:, 1]
    expected = ((X @ v.T) * (X @ w.T)) @ target.feature.weights / math.sqrt(3)
    assert target.feature(X) == pytest.approx(expected)
    target = random_hierarchical_polynomial(d, kind="hermite", seed=2)
    projections = X @ target.feature.directions[:, 0].T
    expected = (projections**2 - 1) / math.sqrt(2) @ target.feature.weights / math.sqrt(d)
    assert target.feature(X) == pytest.approx(expected)


def test_degree_one_is_a_single_index_model():
    target = random_hierarchical_polynomial(7, degree=1, link=(0, 1, 1), seed=3)
    w = target.feature.weights @ target.feature.directions[:, 0] / math.sqrt(7)
    assert np.linalg.norm(w) == pytest.approx(1)
    X = gaussian(1, 20, 7)
    z = X @ w
    assert target(X) == pytest.approx((z + (z**2 - 1) / math.sqrt(2)) / math.sqrt(2))


def test_the_link_is_scaled_to_unit_norm_and_the_feature_does_not_depend_on_it():
    target = random_hierarchical_polynomial(5, link=(0, 3, 4), seed=0)
    assert target.link.tolist() == [0, 0.6, 0.8]
    other = random_hierarchical_polynomial(5, seed=0)
    assert (target.feature.directions == other.feature.directions).all()
    assert (target.feature.weights == other.feature.weights).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hermite_values(1.0, -1), "degree must be an integer of at least 0, got -1"),
        (lambda: random_hierarchical_polynomial(0), "n_features must be an integer of at least 1, got 0"),
        (lambda: random_hierarchical_polynomial(5, degree=0), "degree must be .* at least 1, got 0"),
        (lambda: random_hierarchical_polynomial(5, kind="sum"), "kind must be .*, got 'sum'"),
        (
            lambda: random_hierarchical_polynomial(3, degree=4, kind="product"),
            "degree must be at most n_features=3 for kind 'product', got 4",
        ),
        (
            lambda: random_hierarchical_polynomial(3, link=(0, 0)),
            r"link must be of positive norm, got \(0, 0\)",
        ),
        (lambda: random_hierarchical_polynomial(3, link=(0, np.nan)), "link must be finite"),
        (lambda: random_hierarchical_polynomial(3, link=1.0), "link must have 1 dimensions"),
        (
            lambda: FeaturePolynomial(np.eye(3)[:, None], np.ones(2), "hermite", 2),
            r"must have shape \(2, 1, d\)",
        ),
        (
            lambda: FeaturePolynomial(np.eye(3)[:, None], np.ones(3), "product", 2),
            r"must have shape \(3, 2, d\)",
        ),
        (lambda: FeaturePolynomial(np.eye(3), np.ones(3), "hermite", 2), "directions must have 3 dimensions"),
        (lambda: FeaturePolynomial(np.eye(3)[:, None], np.ones(3), "sum", 2), "kind must be"),
        (lambda: random_hierarchical_polynomial(3, seed=0)(np.ones((2, 4))), "X must have 3 columns, got 4"),
        (lambda: random_hierarchical_polynomial(3, seed=0)(np.full((2, 3), np.inf)), "X must be finite"),
        (lambda: ThreeLayerNetwork(3, 0, 5), "inner_width must be an integer of at least 1, got 0"),
        (
            lambda: ThreeLayerNetwork(3, 4, 5, inner_coefficients=(1.0,)),
            "inner_coefficients must be at least",
        ),
        (lambda: polynomial_kernel_regressor(3, 0), "degree must be"),
        (lambda: polynomial_kernel_regressor(3, 2, alpha=-1.0), "alpha must be .*, got -1.0"),
    ],
)
def test_impossible_targets_networks_and_kernels_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------------------------- the network


def random_network(seed=0, *, d=4, inner=7, outer=5, coefficients=(0.3, 1.0, -0.7, 0.4)):
    generator = torch.Generator().manual_seed(seed)
    network = ThreeLayerNetwork(d, inner, outer, inner_coefficients=coefficients, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=generator)
    return network


def test_the_output_is_the_formula_written_out():
    network = random_network()
    X = gaussian(0, 6, 4)
    V, s, a, b, u, c = (getattr(network, name).detach().numpy() for name in "Vsabuc")
    sigma = hermite_values(X @ V.T + s, 3) @ [0.3, 1.0, -0.7, 0.4]
    f = sigma @ u / math.sqrt(7)
    h = f + np.maximum(np.outer(f, a) + b, 0) @ c / math.sqrt(5)
    x = torch.from_numpy(X)
    assert network.feature(x).detach().numpy() == pytest.approx(f)
    assert network(x).detach().numpy() == pytest.approx(h)


def test_the_start_is_as_the_paper_says():
    network = ThreeLayerNetwork(10, 300, 2000, generator=torch.Generator().manual_seed(0))
    assert network.V.norm(dim=1).numpy() == pytest.approx(np.ones(300))
    assert set(network.a.tolist()) == {-1.0, 1.0}
    assert abs(network.a.mean()) < 0.1
    assert -3 <= network.b.min() < -2.9
    assert 2.9 < network.b.max() <= 3
    assert not network.s.any()
    assert not network.u.any()
    assert not network.c.any()
    assert {name for name, _ in network.named_parameters()} == {"u", "c"}


def test_without_outer_weights_the_output_is_the_feature_and_without_inner_ones_constant():
    network, x = random_network(), torch.from_numpy(gaussian(0, 6, 4))
    with torch.no_grad():
        c = network.c.clone()
        network.c.zero_()
        assert torch.equal(network(x), network.feature(x))
        network.c.copy_(c)
        network.u.zero_()
        # Not exactly: how the rows of a product are summed may depend on where they stand.
        torch.testing.assert_close(network(x), network(x)[0].expand(6), rtol=1e-12, atol=1e-12)


def test_gradients_are_right_and_single_precision_works():
    network, x = random_network(), torch.from_numpy(gaussian(0, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(network, (x,))
    single = random_network().float()
    assert single(x.float()).dtype == torch.float32
    assert torch.allclose(single(x.float()).double(), network(x), atol=1e-4)


def test_the_first_gradient_is_the_correlation_of_features_and_labels():
    network = ThreeLayerNetwork(4, 7, 5, generator=torch.Generator().manual_seed(0))
    x, y = torch.from_numpy(gaussian(0, 30, 4)), torch.from_numpy(gaussian(1, 30))
    ((network(x) - y).square().mean() / 2).backward()
    assert torch.allclose(network.u.grad, -network.inner_layer(x).T @ y / 30)


def test_unit_weights_tie_the_trace_of_a_cubic_to_its_linear_part():
    """On the sphere a random cubic unit sees 50 of the 56 dimensions of cubics in five variables, and a
    quadratic one all but one of 21: σ's degrees share their traces."""
    for degree, dimension in ((2, 20), (3, 50)):
        network = ThreeLayerNetwork(
            5, 200, 1, inner_coefficients=(1.0,) * (degree + 1), generator=torch.Generator().manual_seed(0)
        )
        features = network.inner_layer(torch.from_numpy(gaussian(0, 400, 5)))
        assert torch.linalg.matrix_rank(features, rtol=1e-10) == dimension


# -------------------------------------------------------------------------------------------- the training


@quick
@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_exact_training_solves_the_ridge_problem_whichever_is_larger(seed, n, width):
    rng = np.random.default_rng(seed)
    features, y = rng.standard_normal((n, width)), rng.standard_normal(n)
    w = _train_linear(features, y, 0.01, None)
    assert features.T @ (features @ w - y) / n + 0.01 * w == pytest.approx(np.zeros(width), abs=1e-9)


@quick
@given(seeds, st.integers(1, 8), st.integers(1, 8), st.integers(1, 20))
def test_descent_in_the_span_of_the_samples_is_descent(seed, n, width, steps):
    rng = np.random.default_rng(seed)
    features, y = rng.standard_normal((n, width)), rng.standard_normal(n)
    rate = 1 / (np.linalg.norm(features, 2) ** 2 / n + 0.1)
    w = np.zeros(width)
    for _ in range(steps):
        w -= rate * (features.T @ (features @ w - y) / n + 0.1 * w)
    assert _train_linear(features, y, 0.1, steps) == pytest.approx(w, abs=1e-10)


@pytest.mark.parametrize("shape", [(40, 10), (10, 40)])
def test_without_a_penalty_training_gives_the_least_norm_solution(shape):
    features, y = gaussian(0, *shape), gaussian(1, shape[0])
    features[:, 1] = features[:, 0]
    w = _train_linear(features, y, 0.0, None)
    assert w == pytest.approx(np.linalg.pinv(features) @ y)
    # A penalty that rounding swallows counts as none, however large the features are.
    assert _train_linear(1e6 * features, y, 1e-6, None) == pytest.approx(w / 1e6)


@pytest.fixture(scope="module")
def task():
    target = random_hierarchical_polynomial(16, kind="product", seed=5)
    X, fresh = gaussian(6, 4000, 16), gaussian(7, 4000, 16)
    return target, X, target(X), fresh, target(fresh)


@pytest.fixture(scope="module")
def fitted(task):
    _, X, y, _, _ = task
    return LayerwiseRegressor(random_state=0).fit(X, y)


def test_the_first_stage_keeps_the_links_other_part_and_the_second_fits_it(task, fitted):
    target, _, _, fresh, labels = task
    assert correlation(fitted, target, fresh) > 0.95
    first = error(fitted.transform(fresh)[:, 0] + fitted.y_mean_, labels)
    assert first > 0.85 * (1 - target.link[1] ** 2)
    assert error(fitted.predict(fresh), labels) < 0.6 * first


def test_more_samples_make_the_error_vanish(task):
    target, _, _, fresh, labels = task
    X = gaussian(8, 40_000, 16)
    model = LayerwiseRegressor(random_state=0).fit(X, target(X))
    assert correlation(model, target, fresh) > 0.985
    assert error(model.predict(fresh), labels) < 0.1


def test_the_network_is_what_predicts(task, fitted):
    fresh = task[3][:100]
    with torch.no_grad():
        output = fitted.network_(torch.from_numpy(fresh)).numpy()
        feature = fitted.network_.feature(torch.from_numpy(fresh)).numpy()
    assert fitted.predict(fresh) == pytest.approx(output + fitted.y_mean_)
    assert fitted.transform(fresh) == pytest.approx(feature[:, None])
    assert fitted.get_feature_names_out().tolist() == ["layerwiseregressor0"]
    # More rows than are evaluated at once.
    many = np.tile(fresh, (50, 1))
    assert fitted.predict(many) == pytest.approx(np.tile(fitted.predict(fresh), 50))


def test_the_outer_layer_is_in_units_of_the_feature(fitted, task):
    spread = fitted.network_.a.abs().numpy()
    assert spread == pytest.approx(np.full(100, spread[0]))
    assert spread[0] * fitted.transform(task[3]).std() == pytest.approx(1, rel=0.1)


def test_a_single_index_is_found_as_least_squares_would(task):
    """Of degree 1 the feature is a regression: with n samples its correlation with w . x is
    1 / sqrt(1 + d (1 - c1²) / (n c1²)), to first order in d / n."""
    d, n = 50, 2000
    target = random_hierarchical_polynomial(d, degree=1, seed=0)
    X, fresh = gaussian(1, n, d), gaussian(2, 20_000, d)
    model = LayerwiseRegressor(degree=1, random_state=0).fit(X, target(X))
    c1 = target.link[1]
    expected = 1 / math.sqrt(1 + d * (1 / c1**2 - 1) / (0.8 * n))
    # The part of the link that is left over is no independent noise: it is larger where x is.
    assert 1 - correlation(model, target, fresh) == pytest.approx(1 - expected, rel=0.5)


def test_a_linear_link_leaves_only_the_feature_to_learn():
    target = random_hierarchical_polynomial(9, degree=3, link=(0, 1), kind="product", seed=0)
    X, fresh = gaussian(1, 4000, 9), gaussian(2, 2000, 9)
    model = LayerwiseRegressor(degree=3, inner_width=500, random_state=0).fit(X, target(X))
    assert correlation(model, target, fresh) > 0.99
    assert error(model.predict(fresh), target(fresh)) < 0.02


def test_predictions_follow_the_scale_and_the_origin_of_the_labels(task, fitted):
    _, X, y, fresh, _ = task
    moved = clone(fitted).fit(X, 1000 * y - 7)
    assert moved.predict(fresh) == pytest.approx(1000 * fitted.predict(fresh) - 7, rel=1e-6, abs=1e-4)


def test_the_first_stage_is_ridge_regression_on_the_first_part(task, fitted):
    _, X, y, _, _ = task
    first = np.random.RandomState(0).permutation(len(X))[:3200]
    features = fitted.network_.inner_layer(torch.from_numpy(X[first])).numpy()
    H = features.T @ features / 3200 + 1e-6 * np.eye(256)
    u = np.linalg.solve(H, features.T @ (y[first] - y.mean()) / 3200)
    assert fitted.network_.u.detach().numpy() == pytest.approx(u, abs=1e-6 * np.abs(u).max())


def test_the_order_of_the_samples_within_a_part_does_not_matter(task, fitted):
    _, X, y, fresh, _ = task
    order = np.random.RandomState(0).permutation(len(X))
    shuffled = np.arange(len(X))
    shuffled[order[:3200]] = np.random.default_rng(1).permutation(order[:3200])
    again = clone(fitted).fit(X[shuffled], y[shuffled])
    assert again.predict(fresh) == pytest.approx(fitted.predict(fresh), abs=1e-6)


def test_a_seed_decides_the_fit(task, fitted):
    _, X, y, fresh, _ = task
    assert (clone(fitted).fit(X, y).predict(fresh) == fitted.predict(fresh)).all()
    other = clone(fitted).set_params(random_state=1).fit(X, y)
    assert not (other.predict(fresh) == fitted.predict(fresh)).any()


def test_long_descent_ends_where_the_exact_solver_does(task):
    _, X, y, fresh, _ = task
    parameters = {"weight_decay": (0.05, 0.05), "n_steps": (6000, 6000), "random_state": 0}
    exact = LayerwiseRegressor(**parameters).fit(X[:1000], y[:1000])
    descent = LayerwiseRegressor(solver="gradient_descent", **parameters).fit(X[:1000], y[:1000])
    assert descent.predict(fresh) == pytest.approx(exact.predict(fresh), abs=1e-6)


def test_one_step_of_descent_points_along_the_first_gradient(task):
    _, X, y, _, _ = task
    model = LayerwiseRegressor(solver="gradient_descent", n_steps=(1, 1), random_state=0).fit(X, y)
    first = np.random.RandomState(0).permutation(len(X))[:3200]
    gradient = model.network_.inner_layer(torch.from_numpy(X[first])).numpy().T @ (y[first] - y.mean())
    u = model.network_.u.detach().numpy()
    assert u / np.linalg.norm(u) == pytest.approx(gradient / np.linalg.norm(gradient))


def test_a_link_without_a_linear_part_hides_the_feature(task):
    target, X, _, fresh, _ = task
    hidden = HierarchicalPolynomial(target.feature, [0.0, 0.0, 1.0])
    model = LayerwiseRegressor(random_state=0).fit(X, hidden(X))
    assert abs(correlation(model, target, fresh)) < 0.2


def test_constant_labels_give_the_feature_0_and_a_warning():
    X = gaussian(0, 50, 3)
    with pytest.warns(UserWarning, match="y is constant at 2.5"):
        model = LayerwiseRegressor(random_state=0).fit(X, np.full(50, 2.5))
    assert (model.predict(X) == 2.5).all()
    assert (model.transform(X) == 0).all()


def test_inputs_far_from_standard_are_fitted_all_the_same():
    X = 1000 * gaussian(0, 400, 3) + 500
    y = X[:, 0] * X[:, 1]
    assert LayerwiseRegressor(random_state=0).fit(X, y).score(X, y) > 0.99


def test_the_kernel_is_the_inner_product_polynomial():
    X, y = gaussian(0, 30, 5), gaussian(1, 30)
    kernel = polynomial_kernel_regressor(5, 4, alpha=0.1)
    assert isinstance(kernel, KernelRidge)
    expected = (1 + X @ X.T / 5) ** 4
    predictions = kernel.fit(X, y).predict(X)
    assert predictions == pytest.approx(expected @ np.linalg.solve(expected + 0.1 * np.eye(30), y))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"degree": 0}, "degree must be an integer of at least 1, got 0"),
        ({"inner_width": 0}, "inner_width must be .*, got 0"),
        ({"outer_width": -1}, "outer_width must be .*, got -1"),
        ({"feature_fraction": 1.0}, "feature_fraction must be between 0 and 1, got 1.0"),
        ({"feature_fraction": 0.01}, "feature_fraction=0.01 splits 50 samples into 0 .* and 50"),
        ({"feature_fraction": 0.99}, "feature_fraction=0.99 splits 50 samples into 49 .* and 1"),
        ({"weight_decay": (1e-6, -1.0)}, r"weight_decay must be .*, got \(1e-06, -1.0\)"),
        ({"weight_decay": (1e-6,)}, "weight_decay must be two"),
        ({"solver": "newton"}, "solver must be .*, got 'newton'"),
        ({"n_steps": (0, 10)}, "n_steps must be .*, got 0"),
        ({"n_steps": (10,)}, "n_steps must be two"),
    ],
)
def test_parameters_out_of_range_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        LayerwiseRegressor(**parameters).fit(gaussian(0, 50, 3), gaussian(1, 50))


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.ones((9, 2)), np.ones(8), "inconsistent numbers of samples"),
        (np.full((9, 2), np.nan), np.ones(9), "NaN"),
        (np.ones((9, 2)), np.full(9, np.inf), "infinity"),
        (np.ones((3, 2)), np.arange(3.0), "minimum of 4"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        LayerwiseRegressor().fit(X, y)


@parametrize_with_checks([LayerwiseRegressor(random_state=0)])
def test_scikit_learn_finds_an_estimator(estimator, check):
    check(estimator)
