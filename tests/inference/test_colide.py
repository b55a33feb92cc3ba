"""CoLiDE: score and scales, the descent against a plain restatement, baselines, simulation, metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from assay.inference.colide import (
    CoLiDE,
    StructureMetrics,
    _invert_m_matrix,
    concomitant_score,
    dagma,
    golem,
    log_det_acyclicity,
    notears,
    simulate_linear_sem,
    structure_metrics,
    threshold_to_dag,
)

W = np.array([[0, 0.8, 0], [0, 0, -0.5], [0.3, 0, 0]])
C = np.array([[2, 0.5, 0.1], [0.5, 1.5, -0.3], [0.1, -0.3, 1]])
# Short enough for rounding to stay rounding: the signs in the gradient let it grow over thousands of steps.
SHORT = {"warm_iter": 300, "max_iter": 300}
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=50, deadline=None)


def is_dag(weights):
    return not np.linalg.matrix_power(weights != 0, len(weights)).any()


def best_scales(weights, covariance):
    D = np.eye(len(weights)) - weights
    return np.sqrt(np.diag(D.T @ covariance @ D))


def random_covariance(rng, d):
    A = rng.standard_normal((d + 2, d))
    return A.T @ A / (d + 2)


@pytest.fixture(scope="module")
def sem():
    return simulate_linear_sem(8, 1000, mean_degree=3.0, noise_variances=(0.5, 10.0), seed=1)


# ------------------------------------------------------------------------------------------------- score


def test_score_at_a_worked_example():
    value, gradient = concomitant_score(W, C, 1.2)
    assert value == pytest.approx(3.91875)
    assert gradient[0] == pytest.approx([-1.64166667, 0.91666667, -0.29166667])
    value, gradient = concomitant_score(W, C, [1, 0.5, 2])
    assert value == pytest.approx(5.01375)
    assert gradient[1] == pytest.approx([-0.59, -2.2, -0.225])


def test_best_scales_minimise_the_score_which_is_then_their_sum():
    each = best_scales(W, C)
    one = np.sqrt(np.mean(each**2))
    assert each == pytest.approx([1.42478068, 1.40712473, 1.03682207])
    assert one == pytest.approx(1.3019216566)
    assert concomitant_score(W, C, each)[0] == pytest.approx(each.sum())
    assert concomitant_score(W, C, one)[0] == pytest.approx(3 * one)
    for factor in (0.9, 1.1):
        assert concomitant_score(W, C, factor * each)[0] > each.sum()
        assert concomitant_score(W, C, factor * one)[0] > 3 * one


def test_profiled_score_is_a_square_root_lasso():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3))
    residual_norms = np.linalg.norm(X - X @ W, axis=0) / np.sqrt(len(X))
    covariance = X.T @ X / len(X)
    score, _ = concomitant_score(W, covariance, best_scales(W, covariance))
    assert score == pytest.approx(residual_norms.sum())


@pytest.mark.parametrize("scale", [0.7, [0.6, 1.1, 1.9]])
def test_score_gradient_against_differences(scale):
    assert (
        check_grad(
            lambda w: concomitant_score(w.reshape(3, 3), C, scale)[0],
            lambda w: concomitant_score(w.reshape(3, 3), C, scale)[1].ravel(),
            W.ravel(),
        )
        < 1e-6
    )


@quick
@given(seeds, st.integers(2, 6), st.booleans())
def test_score_with_penalty_is_jointly_convex(seed, d, equal):
    rng = np.random.default_rng(seed)
    covariance = random_covariance(rng, d)

    def value(point):
        weights, scale = point
        return concomitant_score(weights, covariance, scale)[0] + 0.05 * np.abs(weights).sum()

    one, other = [(rng.normal(0, 2, (d, d)), rng.uniform(0.1, 5, () if equal else d)) for _ in range(2)]
    middle = ((one[0] + other[0]) / 2, (one[1] + other[1]) / 2)
    assert value(middle) <= (value(one) + value(other)) / 2 + 1e-9


# -------------------------------------------------------------------------------------------- acyclicity


def test_acyclicity_at_a_worked_example():
    value, gradient = log_det_acyclicity(W)
    assert value == pytest.approx(0.0145046862, rel=1e-8)
    assert gradient[[0, 1, 2], [1, 2, 0]] == pytest.approx([0.03652597, -0.05844156, 0.0974026], rel=1e-6)
    value, gradient = log_det_acyclicity(W, s=0.7)
    assert value == pytest.approx(0.0428892416, rel=1e-8)
    assert gradient[0, 1] == pytest.approx(0.10955569)


def test_acyclicity_gradient_against_differences():
    for s in (1.0, 0.7):
        assert (
            check_grad(
                lambda w, s=s: log_det_acyclicity(w.reshape(3, 3), s)[0],
                lambda w, s=s: log_det_acyclicity(w.reshape(3, 3), s)[1].ravel(),
                W.ravel(),
            )
            < 1e-6
        )


@quick
@given(seeds, st.integers(1, 9))
def test_acyclicity_vanishes_on_dags_only(seed, d):
    rng = np.random.default_rng(seed)
    order = rng.permutation(d)
    weights = np.triu(rng.normal(0, 2, (d, d)), k=1)[np.ix_(order, order)]
    value, gradient = log_det_acyclicity(weights)
    assert value == pytest.approx(0, abs=1e-9)
    assert gradient[weights == 0] == pytest.approx(0)
    if d > 1:
        cyclic = rng.uniform(0.1, 0.9, (d, d)) / d
        assert log_det_acyclicity(cyclic)[0] > 0


@quick
@given(seeds, st.integers(1, 3), st.floats(0.1, 1.9))
def test_pivot_free_inverse_tells_m_matrices_from_others(seed, blocks, radius):
    rng = np.random.default_rng(seed)
    B = rng.uniform(0, 1, (4 * blocks, 4 * blocks))
    A = np.eye(len(B)) - B * (radius / np.abs(np.linalg.eigvals(B)).max())
    inverse = A.copy()
    log_determinant = _invert_m_matrix(inverse, np.empty((4, len(A))))
    if radius < 0.999:
        assert log_determinant == pytest.approx(np.linalg.slogdet(A)[1], abs=1e-8)
        assert inverse == pytest.approx(np.linalg.inv(A), rel=1e-8)
    elif radius > 1.001:
        assert np.isnan(log_determinant)


# --------------------------------------------------------------------------------------------- estimator


def plain_colide(X, noise, scales, warm_iter, max_iter, learning_rate, check_every, tolerance):
    """The algorithm as stated, without a floor: one inverse a step, whose signs test the domain.

    Returns the weights, the scales, the steps taken, and how often a step was halved and a stage begun anew.
    """
    X = X - X.mean(axis=0)
    covariance, d = X.T @ X / len(X), X.shape[1]
    eye = np.eye(d)
    counts = {"steps": 0, "halved": 0, "restarts": 0}

    def scale_of(weights):
        each = best_scales(weights, covariance)
        return np.full(d, np.sqrt(np.mean(each**2))) if noise == "equal" else each

    def outside(weights, s):
        return (np.linalg.inv(s * eye - weights**2) < -1e-6).any()

    def stage(weights, scale, mu, s, n_steps, rate):
        m, v, previous = 0, 0, 1e16
        if outside(weights, s):
            return None
        for step in range(1, n_steps + 1):
            M = np.linalg.inv(s * eye - weights**2)
            G = -mu * covariance @ (eye - weights) / scale + mu * 0.05 * np.sign(weights) + 2 * weights * M.T
            m, v = 0.99 * m + 0.01 * G, 0.999 * v + 0.001 * G**2
            direction = m / (1 - 0.99**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            start, weights = weights, weights - rate * direction
            counts["steps"] += 1
            while outside(weights, s):
                if s <= 0.9:
                    return None
                rate /= 2
                weights = start - rate * direction
                counts["halved"] += 1
            scale = scale_of(weights)
            if step % check_every == 0:
                score = concomitant_score(weights, covariance, scale)[0] + 0.05 * np.abs(weights).sum()
                objective = mu * score + log_det_acyclicity(weights, s)[0]
                if abs(previous - objective) <= tolerance * abs(previous):
                    break
                previous = objective
        return weights, scale

    rms = np.sqrt(np.diag(covariance))
    state, mu = (np.zeros((d, d)), np.full(d, rms.min()) if noise == "equal" else rms), 1.0
    for t, s in enumerate(scales):
        n_steps, rate = (max_iter if t == len(scales) - 1 else warm_iter), learning_rate
        while (result := stage(*state, mu, s, n_steps, rate)) is None:
            s, rate = s + 0.1, rate / 2
            counts["restarts"] += 1
        state, mu = result, mu * 0.1
    return *state, counts


@pytest.mark.parametrize("noise", ["equal", "unequal"])
@pytest.mark.parametrize(
    ("scales", "rate", "halves", "restarts"),
    [((1.0, 0.9, 0.8, 0.7), 3e-3, False, False), ((1.0,), 1.5, True, False), ((0.9, 0.6), 0.5, False, True)],
)
def test_fit_follows_the_stated_algorithm(sem, noise, scales, rate, halves, restarts):
    schedule = {
        "warm_iter": 100,
        "max_iter": 120,
        "learning_rate": rate,
        "check_every": 20,
        "tolerance": 3e-2,
    }
    weights, scale, counts = plain_colide(sem.X, noise, scales, **schedule)
    model = CoLiDE(noise=noise, n_stages=len(scales), log_det_scales=scales, **schedule).fit(sem.X)
    assert model.weights_ == pytest.approx(weights, abs=1e-6)
    assert model.noise_scale_ == pytest.approx(scale[0] if noise == "equal" else scale, rel=1e-6)
    assert model.n_iter_ == counts["steps"]
    assert (counts["halved"] > 0, counts["restarts"] > 0) == (halves, restarts)


def test_fit_finds_the_graph_and_the_noise(sem):
    model = CoLiDE(noise="unequal").fit(sem.X)
    assert structure_metrics(sem.weights, model.dag_weights_).shd == 0
    assert model.noise_scale_ == pytest.approx(np.sqrt(sem.noise_variances), rel=0.1)
    assert model.n_iter_ <= 3 * 2000 + 7000
    covariance = np.cov(sem.X.T, bias=True)
    assert model.noise_scale_ == pytest.approx(best_scales(model.weights_, covariance))
    penalty = 0.05 * np.abs(model.weights_).sum()
    assert model.objective_ == pytest.approx(model.noise_scale_.sum() + penalty)


def test_two_variables_with_unequal_noise():
    rng = np.random.default_rng(0)
    cause = rng.standard_normal(5000)
    X = np.column_stack([cause, 1.5 * cause + 2 * rng.standard_normal(5000)])
    model = CoLiDE(noise="unequal").fit(X)
    assert model.noise_scale_ == pytest.approx([1, 2], rel=0.03)
    assert model.weights_[0, 1] == pytest.approx(1.5, abs=0.1)
    assert model.adjacency_.tolist() == [[False, True], [False, False]]
    assert CoLiDE(noise="equal").fit(X).noise_scale_ == pytest.approx(np.sqrt(2.5), rel=0.03)


def test_two_variables_with_equal_noise_shrink_slightly():
    rng = np.random.default_rng(0)
    cause = rng.standard_normal(5000)
    X = np.column_stack([cause, 1.5 * cause + rng.standard_normal(5000)])
    model = CoLiDE(noise="equal").fit(X)
    assert isinstance(model.noise_scale_, float)
    assert model.adjacency_.tolist() == [[False, True], [False, False]]
    assert 1.35 < model.weights_[0, 1] < 1.5


def test_permuting_the_columns_permutes_the_result(sem):
    order = np.random.default_rng(3).permutation(8)
    model, permuted = CoLiDE(**SHORT).fit(sem.X), CoLiDE(**SHORT).fit(sem.X[:, order])
    assert permuted.weights_ == pytest.approx(model.weights_[np.ix_(order, order)], abs=1e-6)
    assert (permuted.adjacency_ == model.adjacency_[np.ix_(order, order)]).all()


def test_means_do_not_matter_and_x_is_left_alone(sem):
    X = sem.X + 3.0
    before = X.copy()
    shifted = CoLiDE(**SHORT).fit(X)
    np.testing.assert_array_equal(X, before)
    assert shifted.weights_ == pytest.approx(CoLiDE(**SHORT).fit(sem.X).weights_, abs=1e-6)


@pytest.mark.parametrize("noise", ["equal", "unequal"])
def test_the_score_grows_like_the_data_not_like_their_square(sem, noise):
    model = CoLiDE(noise=noise, **SHORT).fit(sem.X)
    scaled = CoLiDE(noise=noise, sparsity=3 * 0.05, mu_init=1 / 3, **SHORT).fit(3 * sem.X)
    assert scaled.weights_ == pytest.approx(model.weights_, abs=1e-6)
    assert scaled.noise_scale_ == pytest.approx(3 * np.asarray(model.noise_scale_), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(2, 12), st.sampled_from(["equal", "unequal"]), st.floats(1e-3, 2.0))
def test_the_result_is_always_a_dag(seed, d, noise, rate):
    X = np.random.default_rng(seed).standard_normal((d // 2 + 2, d))
    model = CoLiDE(noise=noise, learning_rate=rate, warm_iter=50, max_iter=50, threshold=0.0).fit(X)
    assert np.isfinite(model.weights_).all()
    assert is_dag(model.dag_weights_)
    assert (model.adjacency_ == (model.dag_weights_ != 0)).all()


def test_noise_floor_bounds_the_scales(sem):
    rms = sem.X.std(axis=0)
    each = CoLiDE(noise="unequal", noise_floor=0.9).fit(sem.X).noise_scale_
    assert (each >= 0.9 * rms - 1e-12).all()
    one = CoLiDE(noise="equal", noise_floor=0.9).fit(sem.X).noise_scale_
    assert one == pytest.approx(0.9 * np.sqrt(np.mean(rms**2)))


def test_copied_columns_are_fitted_without_noise():
    x = np.random.default_rng(0).standard_normal(100)
    model = CoLiDE(noise="unequal").fit(np.column_stack([x, 2 * x, -x]))
    assert np.isfinite(model.weights_).all()
    assert is_dag(model.dag_weights_)


@parametrize_with_checks([CoLiDE()])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("noise", "both"),
        ("sparsity", -0.1),
        ("sparsity", np.nan),
        ("threshold", -1.0),
        ("learning_rate", 0.0),
        ("n_stages", 0),
        ("warm_iter", 0),
        ("max_iter", 0),
        ("max_iter", 10.5),
        ("check_every", 0),
        ("tolerance", -1e-9),
        ("mu_init", 0.0),
        ("mu_factor", -0.1),
        ("noise_floor", 0.0),
        ("log_det_scales", ()),
        ("log_det_scales", (1.0, 0.0)),
    ],
)
def test_bad_parameters_are_named(sem, parameter, value):
    with pytest.raises(ValueError, match=f"^{parameter} must be .*got"):
        clone(CoLiDE()).set_params(**{parameter: value}).fit(sem.X)


@pytest.mark.parametrize("fit", [lambda X: CoLiDE().fit(X), dagma, golem, notears])
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(3), "array"),
        (np.eye(3)[:1], "sample"),
        (np.ones((3, 1)), "feature"),
        ([[1.0, np.nan], [2.0, 1.0]], "NaN"),
        ([[1.0, np.inf], [2.0, 1.0]], "infinity"),
        ([[1.0, 5.0], [2.0, 5.0]], "X must vary in every column, got only .*5.0.* in column 1"),
        ([[1e200, 1.0], [-1e200, 2.0]], "X must be small enough to square"),
    ],
)
def test_bad_data_is_refused(fit, X, message):
    with pytest.raises(ValueError, match=message):
        fit(X)


# --------------------------------------------------------------------------------------------- baselines


def test_dagma_is_colide_with_the_scale_frozen_at_one(sem):
    X = sem.X * (0.2 / sem.X.std())
    rms = np.sqrt(X.var(axis=0).mean())
    # A floor far above every residual holds the scale at 1 throughout.
    frozen = CoLiDE(noise="equal", noise_floor=1 / rms, **SHORT).fit(X)
    assert frozen.noise_scale_ == pytest.approx(1.0)
    assert frozen.weights_ == pytest.approx(dagma(X, **SHORT), abs=1e-6)


def test_baselines_find_an_easy_graph():
    easy = simulate_linear_sem(6, 2000, mean_degree=2.0, seed=5)
    for weights in (
        dagma(easy.X),
        golem(easy.X, max_iter=3000),
        golem(easy.X, noise="unequal", max_iter=3000),
        notears(easy.X),
    ):
        assert structure_metrics(easy.weights, threshold_to_dag(weights)).shd == 0
        assert weights[easy.weights != 0] == pytest.approx(easy.weights[easy.weights != 0], abs=0.4)


def test_notears_ends_feasible_and_optimal_given_its_graph(sem):
    weights = notears(sem.X, sparsity=0.0)
    assert not weights.diagonal().any()
    kept = threshold_to_dag(weights, 0.05)
    X = sem.X - sem.X.mean(axis=0)
    for j in range(8):
        parents = kept[:, j] != 0
        coefficients, *_ = np.linalg.lstsq(X[:, parents], X[:, j])
        assert kept[parents, j] == pytest.approx(coefficients, abs=0.1)


def test_golem_starts_where_it_is_told(sem):
    start = golem(sem.X, max_iter=500)
    once = golem(sem.X, noise="unequal", max_iter=500)
    assert once == pytest.approx(golem(sem.X, noise="unequal", max_iter=500, initial=start))
    assert start == pytest.approx(golem(sem.X, max_iter=500))  # the start is left alone
    assert not once.diagonal().any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: golem(X, noise="both"), "noise must be"),
        (lambda X: golem(X, sparsity=-1.0), "sparsity must be"),
        (lambda X: golem(X, acyclicity=-1.0), "acyclicity must be"),
        (lambda X: golem(X, max_iter=0), "max_iter must be"),
        (lambda X: golem(X, learning_rate=0.0), "learning_rate must be"),
        (lambda X: golem(X, initial=np.zeros((2, 2))), r"initial must have shape \(8, 8\), got \(2, 2\)"),
        (lambda X: dagma(X, sparsity=-1.0), "sparsity must be"),
        (lambda X: dagma(X, warm_iter=0), "warm_iter must be"),
        (lambda X: dagma(X, max_iter=0), "max_iter must be"),
        (lambda X: dagma(X, learning_rate=-1.0), "learning_rate must be"),
        (lambda X: notears(X, sparsity=-1.0), "sparsity must be"),
        (lambda X: notears(X, h_tol=0.0), "h_tol must be"),
        (lambda X: concomitant_score(W, C, 0.0), "scale must be positive, got 0.0"),
        (lambda X: concomitant_score(W, C, [1.0, 1.0]), r"scale must be .*got shape \(2,\)"),
        (lambda X: concomitant_score(W, np.eye(2), 1.0), "covariance must have the shape"),
        (lambda X: concomitant_score(W[:2], C, 1.0), "weights must be a square matrix"),
        (lambda X: log_det_acyclicity(np.ones((2, 2))), "spectral radius of W o W below s = 1.0, got 2"),
        (lambda X: log_det_acyclicity(W, s=0.0), "s must be a positive number, got 0.0"),
        (lambda X: threshold_to_dag(W, -0.1), "threshold must be"),
        (lambda X: threshold_to_dag(W[0]), "weights must be a square matrix"),
    ],
)
def test_bad_arguments_are_named(sem, call, message):
    with pytest.raises(ValueError, match=message):
        call(sem.X)


# --------------------------------------------------------------------------- thresholding and metrics


def test_threshold_drops_the_small_then_opens_cycles_at_their_smallest():
    weights = np.array([[0, 0.9, 0.2], [0, 0, 0.6], [0.4, 0, 0]])
    expected = np.array([[0, 0.9, 0], [0, 0, 0.6], [0, 0, 0]])
    assert (threshold_to_dag(weights, 0.3) == expected).all()
    assert weights[2, 0] == 0.4
    assert not threshold_to_dag([[0.9, 0.3], [-0.3, 0]]).any()  # a loop is a cycle; 0.3 is not above 0.3


@quick
@given(seeds, st.integers(1, 8), st.floats(0, 1))
def test_threshold_drops_no_more_than_it_must(seed, d, threshold):
    weights = np.random.default_rng(seed).normal(0, 1, (d, d))
    dag = threshold_to_dag(weights, threshold)
    assert is_dag(dag)
    kept = np.abs(weights) > threshold
    dropped = kept & (dag == 0)
    assert (dag[dag != 0] == weights[dag != 0]).all()
    if dropped.any():
        last = np.abs(weights[dropped]).max()
        assert np.abs(dag[dag != 0]).min(initial=np.inf) > last
        assert not is_dag(np.where(np.abs(weights) >= last, weights, 0))


def test_metrics_of_a_worked_example():
    true = [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    estimate = [[0, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert structure_metrics(true, estimate) == StructureMetrics(
        2, pytest.approx(1 / 3), pytest.approx(2 / 3), 3
    )
    assert structure_metrics(true, true) == StructureMetrics(0, 1.0, 0.0, 3)
    assert structure_metrics(true, np.zeros((3, 3))) == StructureMetrics(3, 0.0, 0.0, 0)
    assert structure_metrics(np.zeros((3, 3)), true) == StructureMetrics(3, 0.0, 1.0, 3)


@quick
@given(seeds, st.integers(2, 8))
def test_hamming_distance_is_the_number_of_pairs_that_differ(seed, d):
    rng = np.random.default_rng(seed)
    one, other = (np.triu(rng.random((d, d)) < 0.5, k=1) for _ in range(2))
    order = rng.permutation(d)
    other = other[np.ix_(order, order)]
    pairs = sum((one[i, j], one[j, i]) != (other[i, j], other[j, i]) for i in range(d) for j in range(i))
    assert structure_metrics(one, other).shd == structure_metrics(other, one).shd == pairs


@pytest.mark.parametrize("estimate", [np.zeros((2, 2)), np.zeros((3, 2)), np.zeros(3)])
def test_metrics_need_matrices_of_one_shape(estimate):
    with pytest.raises(ValueError, match="estimated_weights must"):
        structure_metrics(np.zeros((3, 3)), estimate)


# -------------------------------------------------------------------------------------------- simulation


@pytest.mark.parametrize("noise", ["normal", "exponential", "laplace", "gumbel"])
def test_simulated_covariance_is_the_models(noise):
    sem = simulate_linear_sem(
        5, 200_000, noise=noise, noise_variances=(0.5, 2.0), weight_range=(0.3, 0.6), seed=4
    )
    A = np.linalg.inv(np.eye(5) - sem.weights)
    expected = A.T @ np.diag(sem.noise_variances) @ A
    assert np.cov(sem.X.T) == pytest.approx(expected, abs=0.05 * expected.max())
    residuals = sem.X - sem.X @ sem.weights
    assert residuals.var(axis=0) == pytest.approx(sem.noise_variances, rel=0.05)


@pytest.mark.parametrize(("graph", "edges"), [("erdos-renyi", 200), ("scale-free", 4 * 46)])
def test_simulated_graphs(graph, edges):
    counts, hubs, first_nodes = [], [], set()
    for seed in range(30):
        sem = simulate_linear_sem(50, 1, mean_degree=8.0, graph=graph, seed=seed)
        assert is_dag(sem.weights)
        sizes = np.abs(sem.weights[sem.weights != 0])
        assert 0.5 <= sizes.min() <= sizes.max() <= 2.0
        counts.append(len(sizes))
        hubs.append((sem.weights != 0).sum(axis=0).max())
        first_nodes.add(int((sem.weights != 0).sum(axis=0).argmax()))
    assert np.mean(counts) == pytest.approx(edges, rel=0.05)
    assert len(first_nodes) > 10  # the order of the nodes says nothing
    assert (np.mean(hubs) > 14) == (graph == "scale-free")


def test_simulation_follows_its_seed():
    one, same, other = (simulate_linear_sem(5, 10, seed=seed).X for seed in (0, 0, 1))
    assert (one == same).all()
    assert not (one == other).any()
    rng = np.random.default_rng(0)
    first, second = (simulate_linear_sem(5, 10, seed=rng).X for _ in range(2))
    assert (first == one).all()
    assert not (second == one).any()


def test_noise_variances_in_their_three_forms():
    assert simulate_linear_sem(2, 1, mean_degree=1.0, noise_variances=2.0).noise_variances.tolist() == [2, 2]
    given_ones = simulate_linear_sem(2, 1, mean_degree=1.0, noise_variances=[1.0, 3.0]).noise_variances
    assert given_ones.tolist() == [1, 3]
    drawn = simulate_linear_sem(99, 1, noise_variances=(0.5, 10.0), seed=0).noise_variances
    assert 0.5 <= drawn.min() < 1.5 < 9 < drawn.max() <= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graph": "lattice"}, "graph must be .*got 'lattice'"),
        ({"noise": "cauchy"}, "noise must be .*got 'cauchy'"),
        ({"mean_degree": 4.5}, r"mean_degree must be in \[0, n_nodes - 1 = 4\], got 4.5"),
        ({"mean_degree": -1.0}, "mean_degree must be"),
        ({"noise_variances": 0.0}, "noise_variances must be positive, got 0.0"),
        ({"noise_variances": (2.0, 1.0)}, r"noise_variances must be \(low, high\)"),
        ({"noise_variances": [1.0, 1.0]}, r"noise_variances must be .*got shape \(2,\)"),
        ({"weight_range": (2.0, 0.5)}, "weight_range must be"),
        ({"n_samples": 0}, "n_samples must be"),
        ({"n_nodes": 1}, "n_nodes must be"),
    ],
)
def test_impossible_simulations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_linear_sem(**{"n_nodes": 5, "n_samples": 10, **arguments})
