"""Score estimation by gradient descent: the kernel, its closed-form path, the network, the stopping rule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from assay.diffusion.score_estimation import (
    KernelScoreRegressor,
    NetworkScoreRegressor,
    RegressionData,
    make_regression_data,
    relu_ntk,
    stopping_time,
)
from assay.diffusion.sde import EDMSchedule, VESchedule, VPSchedule, solve_ode

SCHEDULE = VPSchedule(2, 2, t_max=5.0)
estimators = pytest.mark.parametrize("estimator", [KernelScoreRegressor, NetworkScoreRegressor])
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=50, deadline=None)


@pytest.fixture(scope="module")
def clean():
    rng = np.random.default_rng(0)
    return np.array([[1.0, 0.0], [-1.0, 0.5]])[rng.integers(2, size=60)] + 0.1 * rng.standard_normal((60, 2))


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(1)
    return 1.5 * rng.standard_normal((40, 2)), rng.uniform(0.1, 2, 40)


def inputs_of(model):
    data = model.data_
    return np.column_stack([data.x_t, data.t - model.t_start, np.ones(len(data.t))])


# ---------------------------------------------------------------------------------------------- regression


def test_noise_is_standard_normal_and_times_are_uniform():
    rng = np.random.default_rng(0)
    data = make_regression_data(rng.uniform(-1, 1, (500, 3)), SCHEDULE, 4000, t_start=0.2, t_end=1.5, seed=3)
    alpha, sigma = np.exp(-data.t)[:, None], np.sqrt(1 - np.exp(-2 * data.t))[:, None]
    assert kstest(((data.x_t - alpha * data.x_0) / sigma).ravel(), "norm").pvalue > 1e-3
    assert kstest(data.t, "uniform", args=(0.2, 1.3)).pvalue > 1e-3


def test_rows_repeat_only_when_they_must():
    x_0 = np.arange(50.0)[:, None]
    for n_samples in (20, 50):
        data = make_regression_data(x_0, SCHEDULE, n_samples, seed=0)
        assert len(np.unique(data.x_0)) == n_samples
    assert len(make_regression_data(x_0, SCHEDULE, 51, seed=0).x_0) == 51


@quick
@given(seeds, st.sampled_from([SCHEDULE, VPSchedule(t_max=3), VESchedule(t_max=3), EDMSchedule()]))
def test_score_matching_is_that_regression(seed, schedule):
    rng = np.random.default_rng(seed)
    data = make_regression_data(rng.standard_normal((30, 2)), schedule, 30, seed=rng)
    times = torch.from_numpy(data.t)
    alpha, sigma = (level(times).numpy()[:, None] for level in (schedule.alpha, schedule.sigma))
    predicted = rng.standard_normal((30, 2))
    score = (alpha * predicted - data.x_t) / sigma**2
    target = -(data.x_t - alpha * data.x_0) / sigma**2
    weighted = (sigma**2 / alpha * (score - target)) ** 2
    assert weighted == pytest.approx((predicted - data.x_0) ** 2, rel=1e-6, abs=1e-9)


# -------------------------------------------------------------------------------------------------- kernel


def test_kernel_at_worked_angles():
    z = np.array([[1.0, 0.0]])
    others = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5)], [0.0, 0.0], [3.0, 0.0]]
    expected = [0.5, 0, 0, math.sqrt(0.5) * 0.75 / 2, 0, 1.5]
    assert relu_ntk(z, others)[0] == pytest.approx(expected, abs=1e-15)


def test_kernel_is_the_mean_over_gaussian_neurons():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((5, 3))
    active = z @ rng.standard_normal((3, 1_000_000)) > 0
    expected = (z @ z.T) * (active.astype(np.float32) @ active.T.astype(np.float32) / active.shape[1])
    assert relu_ntk(z, z) == pytest.approx(expected, abs=1e-2)


@quick
@given(seeds, st.integers(1, 5), st.floats(0.01, 100))
def test_kernel_is_positive_symmetric_and_homogeneous(seed, p, factor):
    z = np.random.default_rng(seed).standard_normal((12, p))
    kernel = relu_ntk(z, z)
    assert kernel == pytest.approx(kernel.T)
    assert kernel.diagonal() == pytest.approx((z**2).sum(axis=1) / 2, rel=1e-14)
    assert np.linalg.eigvalsh(kernel).min() > -1e-7 * np.trace(kernel)
    assert relu_ntk(factor * z, z) == pytest.approx(factor * kernel, rel=1e-6, abs=1e-12)


def test_kernel_is_the_networks_tangent_kernel():
    rng = np.random.default_rng(0)
    width, z = 100_000, rng.standard_normal((4, 3))
    weight, sign = rng.standard_normal((width, 3)), rng.choice([-1.0, 1.0], (width, 2))
    active = (z @ weight.T > 0).astype(float)
    # The derivative of output i by w_r is a_ri 1[w_r z > 0] z / sqrt(m).
    gram = np.einsum("jr,lr,ri,rk->jlik", active, active, sign, sign, optimize=True) / width
    tangent = gram * (z @ z.T)[:, :, None, None]
    assert tangent == pytest.approx(relu_ntk(z, z)[:, :, None, None] * np.eye(2), abs=0.05)


# ------------------------------------------------------------------------------------------- stopping rule


def test_stopping_time_at_worked_spectra():
    spectrum = 1 / np.arange(1, 51) ** 2
    times = [stopping_time(spectrum, 1.0, noise) for noise in (0.5, 0.1, 0.05, 0.01)]
    assert times == [2, 20, 52, 494]
    assert stopping_time(np.zeros(5), 1.0, 1.0, max_steps=77) == 77


@quick
@given(seeds, st.integers(1, 30), st.floats(0.05, 1.9), st.floats(0.05, 2))
def test_stopping_time_is_that_of_the_rule_as_it_reads(seed, size, learning_rate, noise):
    rng = np.random.default_rng(seed)
    spectrum = rng.exponential(size=size) / np.arange(1, size + 1) ** rng.uniform(0, 3)
    found = 300
    for step in range(1, 301):
        elapsed = learning_rate * step
        complexity = math.sqrt(np.mean(np.minimum(spectrum, 1 / elapsed)))
        if complexity > 1 / (2 * math.e * noise * elapsed):
            found = max(step - 1, 1)
            break
    assert stopping_time(rng.permutation(spectrum), learning_rate, noise, max_steps=300) == found
    assert stopping_time(spectrum, learning_rate, 2 * noise, max_steps=300) <= found


def test_rounding_below_zero_does_not_matter():
    spectrum = np.append(1 / np.arange(1, 20) ** 2, -1e-17)
    assert stopping_time(spectrum, 1.0, 0.1) == stopping_time(np.clip(spectrum, 0, None), 1.0, 0.1)


# --------------------------------------------------------------------------------------------- kernel path


@pytest.mark.parametrize("rate", [0.3, 1.0, 1.7])
def test_path_is_that_of_the_steps_one_by_one(clean, rate):
    start = KernelScoreRegressor(random_state=0, n_steps=0).fit(clean)
    model = KernelScoreRegressor(random_state=0, n_steps=37, learning_rate=rate * start.learning_rate_)
    model.fit(clean)
    inputs, labels = inputs_of(model), model.data_.x_0
    kernel, coefficients = relu_ntk(inputs, inputs), np.zeros_like(labels)
    for _ in range(37):
        coefficients -= model.learning_rate_ / len(labels) * (kernel @ coefficients - labels)
    predicted = model.predict(model.data_.x_t, model.data_.t)
    assert predicted == pytest.approx(kernel @ coefficients, abs=1e-10)
    assert not model.predict(model.data_.x_t, model.data_.t, n_steps=0).any()
    # The spectrum and the default rate are those of this kernel.
    spectrum = np.linalg.eigvalsh(kernel / len(labels))[::-1]
    assert model.eigenvalues_ == pytest.approx(spectrum, abs=1e-12)
    assert start.learning_rate_ == pytest.approx(1 / spectrum[0])


def test_trained_to_the_end_it_interpolates(clean):
    model = KernelScoreRegressor(random_state=0, n_steps=np.inf).fit(clean)
    predicted = model.predict(model.data_.x_t, model.data_.t)
    assert np.abs(predicted - model.data_.x_0).max() < 1e-6 * np.abs(model.data_.x_0).max()
    late = model.predict(model.data_.x_t, model.data_.t, n_steps=10**9)
    assert late == pytest.approx(predicted, abs=1e-5)


def test_training_error_falls_with_every_step(clean):
    model = KernelScoreRegressor(random_state=0, n_steps=1).fit(clean)
    data = model.data_
    errors = [
        np.mean((model.predict(data.x_t, data.t, n_steps=k) - data.x_0) ** 2) for k in range(0, 200, 10)
    ]
    assert (np.diff(errors) < 0).all()


def test_repeated_points_share_their_labels_mean():
    t = np.full(8, 0.5)
    x_t = np.repeat([[1.0], [-1.0]], 4, axis=0)
    labels = np.array([[1.0], [2.0], [3.0], [6.0], [-1.0], [-1.0], [-2.0], [-4.0]])
    model = KernelScoreRegressor(n_steps=np.inf).fit_regression(RegressionData(t, x_t, labels))
    assert model.predict([[1.0], [-1.0]], 0.5).ravel() == pytest.approx([3, -2], rel=1e-6)


def test_stopped_estimate_of_a_gaussian_nears_its_linear_mean():
    rng = np.random.default_rng(0)
    x, t = rng.uniform(-1.5, 1.5, (500, 1)), rng.uniform(0.1, 1.0, 500)
    spread = 0.5
    alpha, variance = np.exp(-t)[:, None], 1 - np.exp(-2 * t)[:, None]
    exact = alpha * spread**2 / (alpha**2 * spread**2 + variance) * x
    errors = []
    for n in (50, 300, 1800):
        model = KernelScoreRegressor(random_state=1, t_end=1.0).fit(spread * rng.standard_normal((n, 1)))
        errors.append(np.mean((model.predict(x, t) - exact) ** 2))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5 * errors[0]


def test_estimated_noise_is_near_the_truth():
    rng = np.random.default_rng(0)
    t = rng.uniform(0.1, 2, 800)
    x_t = rng.standard_normal((800, 2))
    labels = 0.5 * x_t + 0.3 * rng.standard_normal((800, 2))
    model = KernelScoreRegressor(random_state=0).fit_regression(RegressionData(t, x_t, labels))
    assert model.noise_std_ == pytest.approx(0.3, rel=0.05)
    assert model.n_steps_ == stopping_time(model.eigenvalues_, model.learning_rate_, model.noise_std_)
    given_noise = clone(model).set_params(noise_std=0.2).fit_regression(model.data_)
    assert given_noise.noise_std_ == 0.2
    assert given_noise.n_steps_ > model.n_steps_
    exact = RegressionData(t, x_t, np.zeros_like(x_t))
    assert KernelScoreRegressor(max_steps=9).fit_regression(exact).n_steps_ == 9


# ------------------------------------------------------------------------------------------------- network


def network_loss(weight, sign, inputs, labels):
    outputs = torch.relu(inputs @ weight.T) @ sign / math.sqrt(len(weight))
    return ((outputs - labels) ** 2).sum() / (2 * len(labels))


def test_network_takes_the_steps_of_gradient_descent(clean):
    steps = range(6)
    model = NetworkScoreRegressor(random_state=0, n_steps=5, width=64, checkpoints=steps).fit(clean)
    inputs, labels = torch.from_numpy(inputs_of(model)), torch.from_numpy(model.data_.x_0)
    sign = torch.from_numpy(model.sign_)
    for step in range(5):
        weight = torch.from_numpy(model.checkpoints_[step]).requires_grad_()
        (gradient,) = torch.autograd.grad(network_loss(weight, sign, inputs, labels), weight)
        expected = weight.detach() - model.learning_rate_ * gradient
        assert model.checkpoints_[step + 1] == pytest.approx(expected.numpy(), abs=1e-12)
    weight = torch.from_numpy(model.weight_)
    outputs = torch.relu(inputs @ weight.T) @ sign / 8
    assert model.predict(model.data_.x_t, model.data_.t) == pytest.approx(outputs.numpy(), abs=1e-12)


def test_network_starts_from_zero_and_its_loss_falls(clean):
    steps = range(0, 101, 10)
    model = NetworkScoreRegressor(random_state=0, n_steps=0, width=1024, checkpoints=steps).fit(clean)
    assert not model.predict(clean, 0.5).any()
    assert (model.weight_[:512] == model.weight_[512:]).all()
    assert (model.sign_[:512] == -model.sign_[512:]).all()
    assert set(np.unique(model.sign_)) == {-1, 1}
    data = model.data_
    losses = [np.mean((model.predict(data.x_t, data.t, n_steps=k) - data.x_0) ** 2) for k in steps]
    assert (np.diff(losses) < 0).all()


def test_wider_networks_are_nearer_to_the_kernel(clean, noisy):
    kernel = KernelScoreRegressor(random_state=0, n_steps=30).fit(clean)
    limit = kernel.predict(*noisy)
    gaps = []
    for width in (64, 1024, 16_384):
        network = NetworkScoreRegressor(random_state=0, n_steps=30, width=width).fit(clean)
        assert (network.data_.x_t == kernel.data_.x_t).all()
        gaps.append(np.linalg.norm(network.predict(*noisy) - limit) / np.linalg.norm(limit))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] < 0.05


def test_both_stop_at_the_same_step_of_the_same_data(clean):
    kernel = KernelScoreRegressor(random_state=5, n_samples=200).fit(clean)
    network = NetworkScoreRegressor(random_state=5, n_samples=200, width=8).fit(clean)
    assert (kernel.data_.x_t == network.data_.x_t).all()
    assert kernel.eigenvalues_ == pytest.approx(network.eigenvalues_, abs=1e-12)
    assert kernel.noise_std_ == network.noise_std_
    assert kernel.n_steps_ == network.n_steps_
    again = NetworkScoreRegressor(random_state=5, n_samples=200, width=8).fit(clean)
    assert (again.weight_ == network.weight_).all()


# ---------------------------------------------------------------------------------------------- estimators


@estimators
def test_score_is_tweedies_and_the_estimate_ends_at_the_radius(clean, noisy, estimator):
    x, t = noisy
    model = estimator(random_state=0, radius=1.5).fit(clean)
    outside = np.linalg.norm(x, axis=1) > 1.5
    predicted, score = model.predict(x, t), model.predict_score(x, t)
    assert 0 < outside.sum() < len(x)
    assert (predicted[outside] == 0).all()
    assert (predicted[~outside] != 0).all()
    assert np.linalg.norm(model.data_.x_t, axis=1).max() <= 1.5
    assert 0 < len(model.data_.t) < 60
    alpha, variance = np.exp(-t)[:, None], 1 - np.exp(-2 * t)[:, None]
    assert score == pytest.approx((alpha * predicted - x) / variance, rel=1e-12)
    assert score[outside] == pytest.approx(-x[outside] / variance[outside], rel=1e-12)
    assert model.predict(x, 0.7) == pytest.approx(model.predict(x, np.full(len(x), 0.7)))


@pytest.mark.parametrize("schedule", [SCHEDULE, VESchedule(0.01, 20, t_max=3.0), EDMSchedule()])
def test_few_points_leave_the_default_radius(schedule):
    x_0 = np.random.default_rng(0).uniform(-1, 1, (3000, 3))
    data = make_regression_data(x_0, schedule, 3000, seed=0)
    radius = KernelScoreRegressor(schedule=schedule)._default_radius(data)
    lengths = np.linalg.norm(data.x_t, axis=1)
    assert (lengths > radius).sum() <= 3
    assert lengths.max() > radius / 2


@estimators
def test_as_denoiser_in_the_solvers(clean, estimator):
    model = estimator(random_state=0).fit(clean)
    denoiser = model.as_denoiser()
    x, t = torch.tensor([[0.5, 0.1], [9.0, 9.0]]), torch.tensor([0.3, 0.9])
    assert denoiser(x, t).dtype == torch.float32
    assert denoiser(x, t).numpy() == pytest.approx(model.predict(x.numpy(), t.numpy()), abs=1e-6)
    assert denoiser(x, 0.3).numpy() == pytest.approx(model.predict(x.numpy(), 0.3), abs=1e-6)
    score = model.predict_score(x.numpy(), t.numpy())
    assert denoiser.score(x, t).numpy() == pytest.approx(score, rel=1e-4)
    assert denoiser(x[:, :, None], t).shape == (2, 2, 1)
    times = torch.linspace(2.0, 0.1, 5)
    samples = solve_ode(denoiser, torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), times).x
    assert samples.isfinite().all()


def test_a_large_prediction_is_that_of_its_rows(clean, monkeypatch):
    x = np.random.default_rng(0).standard_normal((50, 2))
    for model in (KernelScoreRegressor(random_state=0), NetworkScoreRegressor(width=64, random_state=0)):
        whole = model.fit(clean).predict(x, 0.5)
        with monkeypatch.context() as patch:
            patch.setattr("assay.diffusion.score_estimation._BLOCK", 500)
            assert model.predict(x, 0.5) == pytest.approx(whole, abs=1e-13)


@estimators
def test_parameters_survive_cloning(estimator, clean):
    model = clone(estimator(schedule=SCHEDULE, radius=3.0, random_state=4))
    assert model.get_params()["radius"] == 3.0
    assert model.fit(clean).n_features_in_ == 2
    assert set(estimator().get_params()) >= {"n_steps", "learning_rate", "noise_std", "max_steps", "bias"}


def test_without_bias_the_estimate_is_homogeneous():
    x_0 = np.random.default_rng(0).standard_normal((80, 1))
    model = KernelScoreRegressor(bias=False, random_state=0, n_steps=50).fit(x_0)
    at_start = model.predict([[0.5], [1.0], [2.0]], 0.1).ravel()
    assert at_start == pytest.approx(at_start[1] * np.array([0.5, 1, 2]))


@estimators
@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("t_start", 0.0, "t_start must be a positive number, got 0.0"),
        ("t_start", 2.0, "t_start must be below t_end = 2.0, got 2.0"),
        ("t_end", 6.0, "t_end must be at most the schedule's t_max = 5.0, got 6.0"),
        ("schedule", "vp", "schedule must have alpha, .*got 'vp'"),
        ("learning_rate", 0.0, "learning_rate must be a positive number, got 0.0"),
        ("learning_rate", 1e9, "learning_rate must be below .* got 1000000000.0"),
        ("noise_std", -1.0, "noise_std must be a positive number, got -1.0"),
        ("radius", 0.0, "radius must be a positive number, got 0.0"),
        ("radius", 1e-9, "radius must leave at least 4 of the 60 noisy points inside, got 1e-09"),
        ("n_steps", -1, "n_steps must be 'early_stopping'.*got -1"),
        ("n_steps", 2.5, "n_steps must be 'early_stopping'.*got 2.5"),
        ("n_steps", "late", "n_steps must be 'early_stopping'.*got 'late'"),
        ("n_samples", 3, "n_samples must be an integer of at least 4, got 3"),
        ("max_steps", 0, "max_steps must be an integer of at least 1, got 0"),
    ],
)
def test_bad_parameters_are_named(clean, estimator, parameter, value, message):
    with pytest.raises(ValueError, match=message):
        estimator().set_params(**{parameter: value}).fit(clean)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("width", 7, "width must be a positive even integer, got 7"),
        ("width", 0, "width must be a positive even integer, got 0"),
        ("checkpoints", (-1,), "checkpoints must be integers of at least 0, got -1"),
        ("n_steps", np.inf, "n_steps must be 'early_stopping' or an integer of at least 0, got inf"),
    ],
)
def test_bad_parameters_of_the_network_are_named(clean, parameter, value, message):
    with pytest.raises(ValueError, match=message):
        NetworkScoreRegressor().set_params(**{parameter: value}).fit(clean)


@estimators
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(5), "2D array"),
        (np.ones((3, 2)), "minimum of 4"),
        (np.full((5, 2), np.nan), "NaN"),
        (np.full((5, 2), np.inf), "infinity"),
    ],
)
def test_bad_data_is_refused(estimator, X, message):
    with pytest.raises(ValueError, match=message):
        estimator().fit(X)


@estimators
def test_bad_predictions_are_refused(clean, estimator):
    model = estimator(random_state=0)
    for call in (model.predict, model.predict_score):
        with pytest.raises(NotFittedError):
            call(clean, 0.5)
    with pytest.raises(NotFittedError):
        model.as_denoiser()
    model.fit(clean)
    for x, t, n_steps, message in (
        (clean[:, :1], 0.5, None, "1 features"),
        (clean, 0.0, None, "t must be above 0 and at most 5.0, got 0.0"),
        (clean, 5.5, None, "t must be above 0 and at most 5.0, got 5.5"),
        (clean, [0.5, 0.6], None, r"t must be one time or have shape \(60,\), got shape \(2,\)"),
        (clean, 0.5, -3, "n_steps must be .*got -3"),
        (clean, 0.5, 1.5, "n_steps must be .*got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(x, t, n_steps=n_steps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relu_ntk(np.ones((2, 3)), np.ones((2, 2))), "z1 and z2 must have one width, got 3 and 2"),
        (lambda: relu_ntk(np.ones(3), np.ones((2, 3))), "2D array"),
        (lambda: stopping_time([], 1.0, 1.0), "eigenvalues must be a list of finite numbers"),
        (lambda: stopping_time([np.nan], 1.0, 1.0), "eigenvalues must be a list of finite numbers"),
        (lambda: stopping_time([1.0], 0.0, 1.0), "learning_rate must be a positive number, got 0.0"),
        (lambda: stopping_time([1.0], 1.0, -1.0), "noise_std must be a positive number, got -1.0"),
        (lambda: stopping_time([1.0], 1.0, 1.0, max_steps=0), "max_steps must be an integer of at least 1"),
        (lambda: make_regression_data(np.eye(3), SCHEDULE, 0), "n_samples must be an integer of at least 1"),
        (lambda: make_regression_data(np.eye(3), VPSchedule(), 3), "t_end must be at most .*1.0, got 2.0"),
        (lambda: RegressionData(np.ones(2), np.ones((3, 2)), np.ones((3, 2))), "t must be 3 finite times"),
        (lambda: RegressionData(np.ones(3), np.ones((3, 2)), np.ones((3, 1))), "x_0 must have the shape"),
        (
            lambda: KernelScoreRegressor().fit_regression(
                RegressionData(np.zeros(4), np.ones((4, 1)), np.ones((4, 1)))
            ),
            "t must be above 0 and at most 5.0, got 0.0",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
