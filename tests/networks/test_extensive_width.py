"""Extensive width: the spectrum and its denoiser, the least error, the data, and both learners."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from assay.networks.extensive_width import (
    AveragedGradientDescentRegressor,
    GampRieRegressor,
    _break_points,
    _loss_gradient,
    _stieltjes,
    bayes_optimal_error,
    perfect_recovery_threshold,
    sample_quadratic_network,
    second_moment_error,
    wishart_denoiser,
    wishart_denoising_error,
)

EFFECTIVE_HALF = float(np.sqrt(1.125) - 1)  # noise whose effective variance is 0.5 at a width ratio of 0.5
quick = settings(max_examples=50, deadline=None)
variances = st.floats(1e-8, 1e3)
width_ratios = st.floats(0.01, 100)
seeds = st.integers(0, 2**32 - 1)


def observe(rng, d, m, noise_variance):
    W, G = rng.standard_normal((m, d)), rng.standard_normal((d, d))
    S = W.T @ W / m
    return S, S + np.sqrt(noise_variance / (2 * d)) * (G + G.T)


def integral(function, noise_variance, width_ratio):
    """Of a function times the density, bulk by bulk, by adaptive quadrature."""
    points = _break_points(noise_variance, width_ratio)
    return sum(
        quad(
            lambda x: function(x) * -_stieltjes(x, noise_variance, width_ratio).imag / np.pi,
            a,
            b,
            limit=200,
            epsabs=1e-10,
        )[0]
        for a, b in pairwise(points)
        if b > a
    )


@pytest.fixture(scope="module")
def data():
    return sample_quadratic_network(1800, 60, 30, seed=0)


@pytest.fixture(scope="module")
def gamp(data):
    return GampRieRegressor(width_ratio=0.5).fit(data.inputs, data.targets)


# ---------------------------------------------------------------------------------------------- the spectrum


def test_stieltjes_transform_at_worked_examples():
    assert _stieltjes(1.0, 0.6, 0.5) == pytest.approx(0.382435 - 0.669491j, abs=1e-6)
    assert _stieltjes(2.5, 0.6, 0.5) == pytest.approx(0.339509 - 0.306124j, abs=1e-6)
    assert _stieltjes(7.0, 0.6, 0.5) == pytest.approx(0.189548, abs=1e-6)


def test_ends_of_the_support_at_worked_examples():
    assert _break_points(0.6, 0.5)[[0, -1]] == pytest.approx([-1.256196, 6.003222], abs=1e-6)
    assert _break_points(0.01, 0.5) == pytest.approx([-0.145833, 0.135504, 0.188974, 5.831356], abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(variances, width_ratios, st.floats(-0.5, 1.5))
def test_stieltjes_transform_solves_its_equation_on_the_physical_branch(t, k, place):
    ends = _break_points(t, k)[[0, -1]]
    x = ends[0] + place * (ends[1] - ends[0])
    g = _stieltjes(x, t, k)
    terms = np.array([t * g**3, -x * g**2, -t * k * g**2, k * x * g, (1 - k) * g, -k])
    assert abs(terms.sum()) <= 1e-9 * np.abs(terms).max()
    assert g.imag <= 0
    # Just above the axis, the physical root is the one below it.
    z = x + 1e-7j * (ends[1] - ends[0])
    roots = np.roots([t, -(z + t * k), k * z - k + 1, -k])
    nearest = roots[np.argmin(abs(roots - g))]
    assert nearest == roots[np.argmin(roots.imag)] or abs(g.imag) < 1e-3 * abs(g)


@pytest.mark.parametrize(("t", "k"), [(0.6, 0.5), (0.01, 0.5), (0.05, 1.0), (1.0, 2.0), (20.0, 0.1)])
def test_density_has_the_moments_of_the_sum(t, k):
    assert integral(lambda x: 1.0, t, k) == pytest.approx(1, abs=1e-6)
    assert integral(lambda x: x, t, k) == pytest.approx(1, abs=1e-6)
    assert integral(lambda x: (x - 1) ** 2, t, k) == pytest.approx(1 / k + t, rel=1e-6)


def test_density_is_that_of_sampled_eigenvalues():
    _, R = observe(np.random.default_rng(0), 400, 200, 0.1)
    eigenvalues = np.linalg.eigvalsh(R)
    points = np.linspace(-1, 6, 8)
    expected = [
        sum(
            quad(lambda x: -_stieltjes(x, 0.1, 0.5).imag / np.pi, a, min(b, point), limit=200)[0]
            for a, b in pairwise(_break_points(0.1, 0.5))
            if min(b, point) > a
        )
        for point in points
    ]
    assert np.mean(eigenvalues[:, None] < points, axis=0) == pytest.approx(expected, abs=0.02)


# ---------------------------------------------------------------------------------------------- the denoiser


@pytest.mark.parametrize(
    ("t", "k", "error"),
    [(0.6, 0.5, 0.337778), (0.01, 0.5, 0.0074620), (1, 1, 0.443869), (2, 2, 0.393482)],
)
def test_denoising_error_at_worked_examples(t, k, error):
    assert wishart_denoising_error(t, k) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize(("t", "k"), [(0.6, 0.5), (1e-3, 0.3), (1e-3, 1.0), (0.2, 0.9), (3.0, 4.0)])
def test_denoising_error_against_adaptive_quadrature(t, k):
    by_density = t - 4 * np.pi**2 / 3 * t**2 * integral(
        lambda x: (_stieltjes(x, t, k).imag / np.pi) ** 2, t, k
    )
    assert wishart_denoising_error(t, k) == pytest.approx(by_density, rel=1e-6)
    # The contour integral of g^3 vanishes, which ties the density to its Hilbert transform.
    by_hilbert = t - 4 * t**2 * integral(lambda x: _stieltjes(x, t, k).real ** 2, t, k)
    assert wishart_denoising_error(t, k) == pytest.approx(by_hilbert, rel=1e-6)


@quick
@given(st.floats(1e-8, 1e3), width_ratios)
def test_denoising_error_is_below_that_of_linear_shrinkage(t, k):
    error = wishart_denoising_error(t, k)
    assert 0 < error <= t / (1 + k * t) * (1 + 1e-9)
    # More noise, more error, but a smaller share of it.
    assert error < wishart_denoising_error(1.5 * t, k)
    assert error / t >= wishart_denoising_error(1.5 * t, k) / (1.5 * t) - 1e-12


@pytest.mark.parametrize("k", [0.05, 0.5, 0.999, 1.0, 1.001, 3.0])
def test_denoising_error_in_its_limits(k):
    # Degrees of freedom decide at little noise; a Gaussian prior of the same variance at much.
    assert wishart_denoising_error(1e-12, k) / 1e-12 == pytest.approx(
        2 * perfect_recovery_threshold(k), rel=1e-3
    )
    assert wishart_denoising_error(1e5, k) == pytest.approx(1 / k, rel=1e-3)


def test_denoising_error_of_a_wide_network_is_that_of_gaussian_entries():
    t, k = 0.01, 1e4
    assert wishart_denoising_error(t / k * 1e2, k) == pytest.approx(1 / (k + k / (t * 1e2)), rel=1e-2)


@pytest.mark.parametrize(("t", "m"), [(0.3, 200), (1.0, 400)])
def test_denoiser_has_the_error_of_the_formula(t, m):
    S, R = observe(np.random.default_rng(1), 400, m, t)
    estimate = wishart_denoiser(R, noise_variance=t, width_ratio=m / 400)
    assert np.sum((estimate - S) ** 2) / 400 == pytest.approx(wishart_denoising_error(t, m / 400), rel=0.03)


@quick
@given(seeds, st.integers(1, 8), st.floats(1e-3, 100), st.floats(0.1, 10))
def test_denoiser_turns_with_its_argument_and_keeps_the_order(seed, d, t, k):
    rng = np.random.default_rng(seed)
    _, R = observe(rng, d, d, t)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    estimate = wishart_denoiser(R, noise_variance=t, width_ratio=k)
    turned = Q @ R @ Q.T
    again = wishart_denoiser((turned + turned.T) / 2, noise_variance=t, width_ratio=k)
    assert again == pytest.approx(Q @ estimate @ Q.T, abs=1e-6 * max(1, np.abs(R).max()))
    _, vectors = np.linalg.eigh(R)
    assert (np.diff(np.diag(vectors.T @ estimate @ vectors)) > -1e-8 * max(1, np.abs(R).max())).all()


def test_denoiser_trusts_little_noise_and_ignores_much():
    S, R = observe(np.random.default_rng(2), 30, 60, 1e-9)
    assert wishart_denoiser(R, noise_variance=1e-9, width_ratio=2.0) == pytest.approx(S, abs=1e-3)
    _, R = observe(np.random.default_rng(2), 30, 60, 1e8)
    assert wishart_denoiser(R, noise_variance=1e8, width_ratio=2.0) == pytest.approx(np.eye(30), abs=1e-2)


def test_eigenvalues_beyond_the_support_are_shrunk_smoothly():
    d = 50
    end = _break_points(0.5, 0.5)[-1]
    R = np.diag(np.linspace(end - 1, end + 1, d))
    shrunk = np.diag(wishart_denoiser(R, noise_variance=0.5, width_ratio=0.5))
    # Inside, the slope grows towards the end; beyond, it is that of linear shrinkage.
    step = 2 / (d - 1)
    beyond = np.diff(shrunk)[np.linspace(-1, 1, d)[:-1] > 0]
    assert beyond == pytest.approx(step / (1 + 0.5 * 0.5))
    assert (np.diff(shrunk) >= beyond[0] * (1 - 1e-9)).all()


# ------------------------------------------------------------------------------------------- the least error


@pytest.mark.parametrize(
    ("sample_ratio", "width_ratio", "noise", "mmse"),
    [
        (0.1, 0.5, 0, 0.72368),
        (0.2, 0.5, 0, 0.39220),
        (0.3, 0.5, 0, 0.12813),
        (0.2, 1, 0, 0.49992),
        (0.4, 1, 0, 0.08427),
        (0.2, 2, 0, 0.55093),
        (0.25, 0.5, EFFECTIVE_HALF, 0.41641),
        (0.5, 0.5, EFFECTIVE_HALF, 0.16389),
    ],
)
def test_least_error_at_worked_examples(sample_ratio, width_ratio, noise, mmse):
    result = bayes_optimal_error(sample_ratio, width_ratio, noise=noise)
    assert result.mmse == pytest.approx(mmse, abs=1e-5)
    assert result.effective_noise == pytest.approx(0.5 if noise else 0)


def test_order_parameter_at_a_worked_example():
    assert bayes_optimal_error(0.2, 0.5).q_hat == pytest.approx(0.50995, abs=1e-5)


@quick
@given(st.floats(1e-3, 2), width_ratios, st.just(0.0) | st.floats(1e-9, 10))
def test_least_error_solves_the_equation_of_the_paper(sample_ratio, width_ratio, noise):
    result = bayes_optimal_error(sample_ratio, width_ratio, noise=noise)
    effective = 2 * noise * (2 + noise) / width_ratio
    if result.mmse == 0:
        assert noise == 0
        assert sample_ratio > perfect_recovery_threshold(width_ratio) - 1e-6
        assert (result.q_hat, result.denoising_noise) == (np.inf, 0)
        return
    t = result.denoising_noise
    assert result.q_hat * t == pytest.approx(1)
    cubed = (1 - wishart_denoising_error(t, width_ratio) / t) / t  # (4 pi^2 / 3) times the integral
    assert 1 - 2 * sample_ratio + effective * result.q_hat / 2 == pytest.approx(t * cubed, rel=1e-6, abs=1e-9)
    assert result.mmse == pytest.approx(
        width_ratio * (2 * sample_ratio * t - effective / 2),
        rel=1e-6,
        abs=1e-9 * (1 + width_ratio * sample_ratio * t),
    )
    assert 0 < result.mmse < 1


@quick
@given(st.floats(1e-3, 0.6), width_ratios, st.just(0.0) | st.floats(1e-9, 3))
def test_least_error_falls_with_samples_and_grows_with_noise(sample_ratio, width_ratio, noise):
    error = bayes_optimal_error(sample_ratio, width_ratio, noise=noise).mmse
    assert bayes_optimal_error(1.1 * sample_ratio, width_ratio, noise=noise).mmse <= error
    assert bayes_optimal_error(sample_ratio, width_ratio, noise=noise + 0.1).mmse > error
    # The best linear estimate without noise errs by 1 - 2 n / d^2.
    if noise == 0:
        assert error <= max(1 - 2 * sample_ratio, 0) + 1e-9


@pytest.mark.parametrize("width_ratio", [0.05, 0.5, 1.0, 2.0])
def test_error_vanishes_continuously_at_the_threshold(width_ratio):
    threshold = perfect_recovery_threshold(width_ratio)
    errors = [bayes_optimal_error(threshold - gap, width_ratio).mmse for gap in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[2] < 1e-4
    assert bayes_optimal_error(threshold, width_ratio).mmse == 0
    assert bayes_optimal_error(threshold, width_ratio, noise=1e-9).mmse > 0


def test_threshold_counts_degrees_of_freedom():
    d, m = 2000, 1000
    assert perfect_recovery_threshold(m / d) == pytest.approx((d * m - m * (m - 1) / 2) / d**2, abs=1e-3)
    assert perfect_recovery_threshold(1.0) == perfect_recovery_threshold(7.0) == 0.5


def test_a_wide_network_is_learned_linearly():
    assert bayes_optimal_error(0.2, 1e4).mmse == pytest.approx(1 - 2 * 0.2, abs=1e-3)


# ------------------------------------------------------------------------------------------------------ data


def test_noiseless_targets_are_the_quadratic_forms_of_the_second_moment(data):
    assert data.second_moment == pytest.approx(data.weights.T @ data.weights / 30)
    forms = ((data.inputs @ data.weights.T) ** 2).sum(axis=1) / (30 * 60)
    assert data.targets == pytest.approx(forms)


def test_noise_before_the_activation_has_its_mean_and_variance():
    # One input many times over would be enough, but inputs are drawn: the residuals are pooled instead.
    noise, d, m = 0.4, 60, 30
    noisy = sample_quadratic_network(20_000, d, m, noise=noise, seed=3)
    clean = ((noisy.inputs @ noisy.weights.T) ** 2).sum(axis=1) / (m * d)
    residual = noisy.targets - clean
    assert residual.mean() == pytest.approx(noise, abs=5 * residual.std() / np.sqrt(20_000))
    expected = (4 * noise * clean.mean() + 2 * noise**2) / m
    assert residual.var() == pytest.approx(expected, rel=0.05)
    assert d * expected == pytest.approx(2 * noise * (2 + noise) / (m / d), rel=0.1)


def test_draws_repeat_with_their_seed():
    one, same, other = (sample_quadratic_network(20, 5, 3, noise=0.1, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.targets, same.targets)
    assert not np.allclose(one.targets, other.targets)


def test_the_identity_errs_by_one_without_data():
    rng = np.random.default_rng(0)
    errors = [
        second_moment_error(np.eye(100), sample_quadratic_network(1, 100, 50, seed=rng).second_moment, 0.5)
        for _ in range(20)
    ]
    assert np.mean(errors) == pytest.approx(1, abs=0.05)


def test_error_of_the_second_moment_is_that_of_predictions():
    d, m = 100, 50
    rng = np.random.default_rng(4)
    truth = sample_quadratic_network(1, d, m, seed=rng).second_moment
    difference = truth - sample_quadratic_network(1, d, m, seed=rng).second_moment
    inputs = rng.standard_normal((20_000, d))
    forms = np.einsum("ij,jk,ik->i", inputs, difference, inputs, optimize=True) / d
    assert m / 2 * np.mean(forms**2) == pytest.approx(
        second_moment_error(difference, np.zeros((d, d)), m / d), rel=0.06
    )


# -------------------------------------------------------------------------------------------------- GAMP-RIE


def plain_gamp(X, y, width_ratio, noise, iterations):
    """The iteration written out over the tensor of all Z_i, centred, with the public denoiser."""
    n, d = X.shape
    Z = (np.einsum("ij,ik->ijk", X, X) - np.eye(d)) / np.sqrt(d)
    norms = (Z**2).sum(axis=(1, 2)) / d
    Z = Z - Z.mean(axis=0)
    effective = 2 * noise * (2 + noise) / width_ratio
    target = np.sqrt(d) * (y - y.mean())
    S, omega, C = np.eye(d), np.zeros(n), 2 / width_ratio
    V = C
    g = target / (effective + V * norms)
    g = g - g.mean()
    for _ in range(iterations):
        new_omega = np.einsum("ijk,jk->i", Z, S) - g * C * norms
        V, omega = 0.6 * C + 0.4 * V, 0.6 * new_omega + 0.4 * omega
        g = (target - omega) / (effective + V * norms)
        g = g - g.mean()
        A = 2 * n / d**2 * np.mean(norms * g**2)
        R = S + np.einsum("i,ijk->jk", g, Z) / (A * d)
        S = wishart_denoiser(R, noise_variance=1 / (2 * A), width_ratio=width_ratio)
        C = 2 * wishart_denoising_error(1 / (2 * A), width_ratio)
    return S, width_ratio * C / 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_gamp_follows_the_stated_iteration(noise):
    data = sample_quadratic_network(200, 20, 10, noise=noise, seed=5)
    model = GampRieRegressor(width_ratio=0.5, noise=noise, max_iter=6, tol=0.0).fit(data.inputs, data.targets)
    S, predicted = plain_gamp(data.inputs, data.targets, 0.5, noise, 6)
    assert model.second_moment_ == pytest.approx(S, abs=1e-6)
    assert model.predicted_mmse_ == pytest.approx(predicted)
    assert model.n_iter_ == 6


def test_gamp_reaches_the_least_error_and_expects_it(data, gamp):
    least = bayes_optimal_error(0.5, 0.5).mmse
    assert least == 0
    assert second_moment_error(gamp.second_moment_, data.second_moment, 0.5) < 0.01
    noisy = sample_quadratic_network(1600, 80, 40, noise=EFFECTIVE_HALF, seed=6)
    model = GampRieRegressor(width_ratio=0.5, noise=EFFECTIVE_HALF).fit(noisy.inputs, noisy.targets)
    least = bayes_optimal_error(0.25, 0.5, noise=EFFECTIVE_HALF).mmse
    assert second_moment_error(model.second_moment_, noisy.second_moment, 0.5) == pytest.approx(
        least, abs=0.06
    )
    assert model.predicted_mmse_ == pytest.approx(least, abs=0.06)


def test_few_samples_at_few_dimensions_do_not_freeze_the_iteration():
    errors = []
    for seed in range(6):
        few = sample_quadratic_network(160, 40, 20, seed=seed)
        model = GampRieRegressor(width_ratio=0.5).fit(few.inputs, few.targets)
        errors.append(second_moment_error(model.second_moment_, few.second_moment, 0.5))
    assert np.max(errors) < 1.4 * bayes_optimal_error(0.1, 0.5).mmse


def test_gamp_predicts_new_targets(data, gamp):
    inputs = np.random.default_rng(7).standard_normal((500, 60))
    targets = np.einsum("ij,jk,ik->i", inputs, data.second_moment, inputs) / 60
    assert gamp.score(inputs, targets) > 0.99
    assert np.mean(gamp.predict(data.inputs)) == pytest.approx(data.targets.mean())


def test_centring_takes_off_an_offset_of_the_targets(data, gamp):
    shifted = GampRieRegressor(width_ratio=0.5).fit(data.inputs, data.targets + 3.0)
    assert shifted.second_moment_ == pytest.approx(gamp.second_moment_, abs=1e-6)
    assert shifted.intercept_ == pytest.approx(gamp.intercept_ + 3.0)
    noise = 0.05
    noisy = sample_quadratic_network(1800, 60, 30, noise=noise, seed=8)
    expected = GampRieRegressor(width_ratio=0.5, noise=noise, center=False).fit(noisy.inputs, noisy.targets)
    assert expected.intercept_ == noise


def test_gamp_does_not_depend_on_the_axes_of_the_inputs(data):
    Q = np.linalg.qr(np.random.default_rng(9).standard_normal((60, 60)))[0]
    model = GampRieRegressor(width_ratio=0.5, max_iter=5, tol=0.0)
    with pytest.warns(ConvergenceWarning, match="max_iter=5"):
        one = model.fit(data.inputs, data.targets).second_moment_
    with pytest.warns(ConvergenceWarning, match="max_iter=5"):
        turned = model.fit(data.inputs @ Q, data.targets).second_moment_
    assert turned == pytest.approx(Q.T @ one @ Q, abs=1e-8)


# -------------------------------------------------------------------------------- averaged gradient descent


def test_gradient_of_the_loss_against_automatic_differentiation():
    data = sample_quadratic_network(40, 10, 5, seed=10)
    W = np.random.default_rng(10).standard_normal((3, 5, 10))
    weights = torch.tensor(W, requires_grad=True)
    outputs = ((torch.tensor(data.inputs) @ weights.mT / np.sqrt(10)) ** 2).sum(dim=-1) / np.sqrt(5)
    residuals = outputs - np.sqrt(5) * torch.tensor(data.targets)
    (residuals**2).sum().div(4).backward()
    gradient, found = _loss_gradient(W, data.inputs, np.sqrt(5) * data.targets)
    assert gradient == pytest.approx(weights.grad.numpy(), rel=1e-8)
    assert residuals.detach().numpy() == pytest.approx(found.T, rel=1e-8)


@pytest.fixture(scope="module")
def descent():
    data = sample_quadratic_network(90, 30, 15, seed=11)
    model = AveragedGradientDescentRegressor(n_hidden=15, n_inits=8, max_iter=1000, random_state=0)
    return data, model.fit(data.inputs, data.targets)


def test_every_start_fits_the_data_and_they_differ(descent):
    data, model = descent
    assert model.train_losses_.shape == (8,)
    assert model.train_losses_.max() < 1e-8
    for S in model.second_moments_:
        forms = np.einsum("ij,jk,ik->i", data.inputs, S, data.inputs) / 30
        assert forms == pytest.approx(data.targets, abs=1e-3)
    assert np.std(model.second_moments_, axis=0).mean() > 0.01


def test_averaging_starts_errs_less_than_each(descent):
    data, model = descent
    assert model.second_moment_ == pytest.approx(model.second_moments_.mean(axis=0))
    single = [second_moment_error(S, data.second_moment, 0.5) for S in model.second_moments_]
    average = second_moment_error(model.second_moment_, data.second_moment, 0.5)
    assert average < min(single)
    # The spread of the starts is what averaging takes off.
    spread = 0.5 / 30 * np.sum(np.var(model.second_moments_, axis=0))
    assert np.mean(single) == pytest.approx(average + spread)


def test_losses_are_those_of_scaled_outputs():
    data = sample_quadratic_network(60, 10, 5, seed=12)
    model = AveragedGradientDescentRegressor(n_hidden=5, n_inits=2, max_iter=3, random_state=0)
    model.fit(data.inputs, data.targets)
    for S, loss in zip(model.second_moments_, model.train_losses_, strict=True):
        residual = np.einsum("ij,jk,ik->i", data.inputs, S, data.inputs) / 10 - data.targets
        assert loss == pytest.approx(5 * np.mean(residual**2))


def test_starts_do_not_depend_on_each_other(descent):
    data, model = descent
    first = AveragedGradientDescentRegressor(n_hidden=15, n_inits=1, max_iter=1000, random_state=0)
    first.fit(data.inputs, data.targets)
    assert first.second_moment_ == pytest.approx(model.second_moments_[0], abs=1e-6)
    assert first.predict(data.inputs) == pytest.approx(data.targets, abs=1e-3)


def test_too_large_a_step_is_named():
    data = sample_quadratic_network(90, 30, 15, seed=11)
    model = AveragedGradientDescentRegressor(n_hidden=15, n_inits=1, learning_rate=10.0)
    with pytest.raises(ValueError, match=r"learning_rate must be small enough.*got 10.0"):
        model.fit(data.inputs, data.targets)
    # The default is halved instead, here for inputs that are far larger than standard normal ones.
    model = AveragedGradientDescentRegressor(n_hidden=15, n_inits=1, max_iter=2000, random_state=0)
    assert model.fit(data.inputs, data.targets).learning_rate_ == 0.4 * 30 / 90
    model.fit(3 * data.inputs, 9 * data.targets)
    assert np.log2(0.4 * 30 / 90 / model.learning_rate_) % 1 == 0
    assert model.learning_rate_ < 0.4 * 30 / 90
    assert model.score(3 * data.inputs, 9 * data.targets) > 0.9


# ------------------------------------------------------------------------------------------------- bad input


@parametrize_with_checks(
    [
        GampRieRegressor(width_ratio=0.5, max_iter=50),
        AveragedGradientDescentRegressor(n_hidden=3, n_inits=2, max_iter=20),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_accepts_the_estimators(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bayes_optimal_error(0.0, 0.5), "sample_ratio must be a positive number, got 0.0"),
        (lambda: bayes_optimal_error(0.1, -1.0), "width_ratio must be a positive number, got -1.0"),
        (lambda: bayes_optimal_error(0.1, 0.5, noise=-0.1), "noise must be a number of at least 0, got -0.1"),
        (lambda: perfect_recovery_threshold(np.inf), "width_ratio must be a positive number, got inf"),
        (lambda: wishart_denoising_error(0.0, 0.5), "noise_variance must be a positive number, got 0.0"),
        (lambda: wishart_denoising_error(0.5, np.nan), "width_ratio must be a positive number, got nan"),
        (
            lambda: wishart_denoiser(np.ones((2, 3)), noise_variance=1.0, width_ratio=1.0),
            "observation must be a square matrix, got shape",
        ),
        (
            lambda: wishart_denoiser(np.full((2, 2), np.nan), noise_variance=1.0, width_ratio=1.0),
            "observation must be finite",
        ),
        (
            lambda: wishart_denoiser([[1, 2], [3, 1]], noise_variance=1.0, width_ratio=1.0),
            "observation must be symmetric.* up to 1",
        ),
        (
            lambda: wishart_denoiser(np.eye(2), noise_variance=-1.0, width_ratio=1.0),
            "noise_variance must be a positive number",
        ),
        (lambda: second_moment_error(np.eye(2), np.eye(3), 0.5), "estimate must have the shape"),
        (lambda: second_moment_error(np.eye(2), np.eye(2), 0.0), "width_ratio must be"),
        (lambda: sample_quadratic_network(0, 2, 2), "n_samples must be an integer of at least 1, got 0"),
        (lambda: sample_quadratic_network(2, 2.5, 2), "n_features must be an integer of at least 1, got 2.5"),
        (lambda: sample_quadratic_network(2, 2, -1), "n_hidden must be an integer of at least 1, got -1"),
        (lambda: sample_quadratic_network(2, 2, 2, noise=np.nan), "noise must be a number of at least 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GampRieRegressor(width_ratio=0.0), "width_ratio must be a positive number, got 0.0"),
        (GampRieRegressor(width_ratio=1.0, noise=-1.0), "noise must be"),
        (GampRieRegressor(width_ratio=1.0, damping=1.0), r"damping must be in \[0, 1\), got 1.0"),
        (GampRieRegressor(width_ratio=1.0, max_iter=0), "max_iter must be"),
        (GampRieRegressor(width_ratio=1.0, tol=-1.0), "tol must be"),
        (AveragedGradientDescentRegressor(n_hidden=0), "n_hidden must be an integer of at least 1, got 0"),
        (AveragedGradientDescentRegressor(n_hidden=2, n_inits=0), "n_inits must be"),
        (AveragedGradientDescentRegressor(n_hidden=2, max_iter=1.5), "max_iter must be"),
        (AveragedGradientDescentRegressor(n_hidden=2, learning_rate=0.0), "learning_rate must be"),
    ],
)
def test_bad_parameters_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(np.eye(4), np.ones(4))


@pytest.mark.parametrize(
    "model", [GampRieRegressor(width_ratio=1.0), AveragedGradientDescentRegressor(n_hidden=2)]
)
@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.eye(4), np.ones(3), "inconsistent numbers of samples"),
        (np.full((4, 4), np.nan), np.ones(4), "NaN"),
        (np.eye(4), [1, np.inf, 1, 1], "infinity"),
    ],
)
def test_bad_data_is_refused(model, X, y, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
