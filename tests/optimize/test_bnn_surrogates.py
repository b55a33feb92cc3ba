"""Surrogates: samplers against known laws, exact limits, the kernel, and botorch's way of using them."""

import builtins
import importlib
import math

import pytest
import torch
from botorch.acquisition.logei import qLogExpectedImprovement
from botorch.acquisition.multi_objective.monte_carlo import qExpectedHypervolumeImprovement
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.models.kernels.infinite_width_bnn import InfiniteWidthBNNKernel
from botorch.optim import optimize_acqf
from botorch.posteriors import GPyTorchPosterior
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
from gpytorch.mlls import ExactMarginalLogLikelihood
from hypothesis import given, settings
from hypothesis import strategies as st

import assay.optimize.bnn_surrogates as module
from assay.optimize.bnn_surrogates import (
    DeepKernelSurrogate,
    EnsembleSurrogate,
    GaussianProcessSurrogate,
    HMCSurrogate,
    InfiniteWidthSurrogate,
    LaplaceSurrogate,
    SGHMCSurrogate,
    _ArcCosine,
    _leapfrog,
    _log_marginal,
    _LogPosterior,
    _Network,
    adaptive_sghmc,
    bnn_draw,
    hmc,
    infinite_width_kernel,
    polynomial_draw,
    run_bayesian_optimization,
)

SMALL = {"hidden": (8, 8), "seed": 0}
MAKERS = {
    "hmc": lambda: HMCSurrogate(**SMALL, n_samples=30, n_burn_in=30, max_leapfrog=10, pretrain_steps=200),
    "sghmc": lambda: SGHMCSurrogate(**SMALL, n_steps=400, n_burn_in=200),
    "ensemble": lambda: EnsembleSurrogate(**SMALL, train_steps=200),
    "laplace": lambda: LaplaceSurrogate(**SMALL, train_steps=200),
    "infinite": InfiniteWidthSurrogate,
    "infinite_erf": lambda: InfiniteWidthSurrogate(activation="erf"),
    "deep_kernel": lambda: DeepKernelSurrogate(**SMALL, pretrain_steps=200, train_steps=50),
    "matern": GaussianProcessSurrogate,
    "default": lambda: GaussianProcessSurrogate(kernel="default"),
}
SAMPLED = ("hmc", "sghmc", "ensemble")
surrogates = pytest.mark.parametrize("name", MAKERS)
quick = settings(max_examples=20, deadline=None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def data(n=15, d=2):
    X = rand(n, d, seed=3)
    return X, (torch.sin(5 * X[:, :1]) + X[:, -1:] ** 2) * 4 - 7


def linear_posterior(X, Y, queries, prior_variance, noise_variance):
    """Mean and covariance of Bayesian linear regression on [2x - 1, 1], in units of Y."""
    phi, query = (torch.cat([2 * Z - 1, torch.ones(len(Z), 1)], dim=1) for Z in (X, queries))
    y, scale = (Y - Y.mean()) / Y.std(), Y.std()
    covariance = torch.linalg.inv(phi.T @ phi / noise_variance + torch.eye(phi.shape[1]) / prior_variance)
    mean = query @ covariance @ phi.T @ y / noise_variance
    return Y.mean() + scale * mean[:, 0], scale**2 * query @ covariance @ query.T


def largest_in_sd(difference, covariance):
    return float((difference.flatten() / covariance.diagonal().sqrt()).abs().max())


# -------------------------------------------------------------------------------------------- the samplers


def test_hmc_draws_a_correlated_normal():
    mean = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    root = torch.tril(randn(4, 4, seed=1)) / 2 + torch.eye(4)
    covariance = root @ root.T
    precision = torch.linalg.inv(covariance)
    chain = hmc(
        lambda x: -0.5 * (x - mean) @ precision @ (x - mean),
        torch.zeros(4, dtype=torch.float64),
        n_samples=2000,
        n_burn_in=200,
        step_size=0.2,
        path_length=1.7,
        generator=generator(2),
    )
    assert 0.6 < chain.acceptance_rate < 0.98
    assert largest_in_sd(chain.samples.mean(dim=0) - mean, covariance) < 0.15
    error = chain.samples.T.cov() - covariance
    sd = covariance.diagonal().sqrt()
    assert (error / torch.outer(sd, sd)).abs().max() < 0.15
    assert chain.n_gradients > 2200


def test_hmc_draws_a_quartic():
    chain = hmc(
        lambda x: -(x**4).sum() / 2,
        torch.zeros(20, dtype=torch.float64),
        n_samples=600,
        n_burn_in=100,
        step_size=0.1,
        path_length=1.0,
        generator=generator(1),
    )
    expected = math.sqrt(2) * math.gamma(0.75) / math.gamma(0.25)
    assert float((chain.samples**2).mean()) == pytest.approx(expected, rel=0.05)


def test_leapfrog_goes_back_the_way_it_came():
    start, momentum = randn(6, seed=1), randn(6, seed=2)

    def quartic(x):
        return -(x**4).sum(), -4 * x**3

    there, arriving, _, gradient = _leapfrog(quartic, start, momentum, quartic(start)[1], 0.05, 20)
    back, returning, _, _ = _leapfrog(quartic, there, -arriving, gradient, 0.05, 20)
    assert torch.allclose(back, start, atol=1e-10)
    assert torch.allclose(returning, -momentum, atol=1e-10)
    assert not torch.allclose(there, start, atol=0.1)


def test_energy_error_shrinks_with_the_square_of_the_step():
    start, momentum = randn(6, seed=1), randn(6, seed=2)

    def quartic(x):
        return -(x**4).sum() / 4, -(x**3)

    def error(step):
        _, last, value, _ = _leapfrog(quartic, start, momentum, quartic(start)[1], step, round(0.8 / step))
        return abs(float(value - quartic(start)[0] - (last @ last - momentum @ momentum) / 2))

    assert error(0.04) / error(0.02) == pytest.approx(4, rel=0.15)
    assert error(0.02) / error(0.01) == pytest.approx(4, rel=0.1)


def test_without_burn_in_the_step_stays_and_all_is_kept():
    chain = hmc(
        lambda x: -(x**2).sum() / 2,
        torch.zeros(2, dtype=torch.float64),
        n_samples=10,
        n_burn_in=0,
        step_size=0.1,
        path_length=1.0,
        max_leapfrog=4,
        generator=generator(),
    )
    assert chain.step_size == 0.1
    assert chain.n_gradients == 1 + 10 * 4
    assert chain.samples.shape == (10, 2)


def test_a_proposal_of_no_energy_is_refused():
    chain = hmc(
        lambda x: torch.where(x.abs() < 1, 0.0, torch.nan).sum() + 0 * x.sum(),
        torch.zeros(1, dtype=torch.float64),
        n_samples=100,
        n_burn_in=50,
        step_size=0.5,
        path_length=1.0,
        max_leapfrog=5,
        generator=generator(3),
    )
    assert 0 < chain.acceptance_rate < 1
    assert chain.samples.abs().max() < 1


def test_sghmc_draws_a_linear_model():
    X, noise, n, batch = torch.cat([2 * rand(60, 2) - 1, torch.ones(60, 1)], dim=1), 0.2, 60, 20
    y = X @ torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64) + 0.4 * randn(60, seed=1)
    covariance = torch.linalg.inv(X.T @ X / noise + torch.eye(3))
    mean = covariance @ X.T @ y / noise
    choices = torch.randint(n, (12_000, batch), generator=generator(1))
    steps = iter(choices)

    def gradient(theta):
        rows = next(steps)
        return X[rows].T @ (X[rows] @ theta - y[rows]) / noise * n / batch + theta

    samples = adaptive_sghmc(
        gradient,
        torch.zeros(3, dtype=torch.float64),
        n_steps=12_000,
        n_burn_in=2000,
        learning_rate=5e-2,
        generator=generator(2),
    )
    assert samples.shape == (2000, 3)
    assert largest_in_sd(samples.mean(dim=0) - mean, covariance) < 0.3
    assert (samples.var(dim=0) / covariance.diagonal()).log().abs().max() < math.log(1.4)


# ------------------------------------------------------------------------------------------- the network


@quick
@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from(["tanh", "relu"]),
    st.lists(st.integers(1, 4), max_size=3),
    st.integers(1, 2),
    st.integers(1, 3),
)
def test_hand_written_gradient_is_that_of_autograd(seed, activation, hidden, n_outputs, n_networks):
    network = _Network((2, *hidden, n_outputs), activation)
    theta = randn(n_networks, network.n_parameters, seed=seed).requires_grad_()
    X, Y = randn(n_networks, 5, 2, seed=seed + 1), randn(n_networks, 5, n_outputs, seed=seed + 2)
    posterior = _LogPosterior(network, X, Y, 2.0, 0.3)
    outputs = torch.stack([network(theta[i], X[i]) for i in range(n_networks)])
    value = -((Y - outputs) ** 2).sum() / 0.6 - (theta**2).sum() / 4
    (expected,) = torch.autograd.grad(value, theta)
    assert torch.allclose(posterior.residual_and_gradient(theta.detach())[1], expected, atol=1e-9)
    single = _LogPosterior(network, X[:1], Y[:1], 2.0, 0.3).value_and_gradient(theta[0].detach())
    assert torch.allclose(single[1], expected[0], atol=1e-9)
    if n_networks == 1:
        assert float(single[0]) == pytest.approx(float(value.detach()))


def test_a_network_is_that_of_its_layers():
    network = _Network((3, 4, 2), "tanh")
    theta, X = randn(network.n_parameters, seed=1), randn(5, 3, seed=2)
    W1, b1, W2, b2 = theta[:12].view(3, 4), theta[12:16], theta[16:24].view(4, 2), theta[24:]
    assert torch.allclose(network(theta, X), torch.tanh(X @ W1 + b1) @ W2 + b2)


# ----------------------------------------------------------------------------------------- exact limits


def test_laplace_without_hidden_layers_is_bayesian_linear_regression():
    X, Y = data(20, 3)
    queries = rand(6, 3, seed=9)
    mean, covariance = linear_posterior(X, Y, queries, 2.0, 0.3)
    model = LaplaceSurrogate(hidden=(), prior_variance=2.0, noise_variance=0.3, seed=0).fit(X, Y)
    posterior = model.posterior(queries)
    assert largest_in_sd(posterior.mean[:, 0] - mean, covariance) < 1e-3
    joint = posterior.distribution.covariance_matrix
    assert torch.allclose(joint, covariance, rtol=1e-6, atol=1e-6 * float(covariance.diagonal().max()))
    assert torch.allclose(posterior.variance[:, 0], covariance.diagonal(), rtol=1e-5)
    noisy = model.posterior(queries, observation_noise=True)
    assert torch.allclose(noisy.variance - posterior.variance, 0.3 * Y.var(), rtol=1e-6)


def test_laplace_stands_at_a_maximum():
    X, Y = data()
    model = LaplaceSurrogate(hidden=(5, 4), seed=0).fit(X, Y)
    log_posterior = model._log_posterior((2 * X - 1)[None], ((Y - Y.mean()) / Y.std())[None])
    assert log_posterior.residual_and_gradient(model._parameters_at_mode)[1].abs().max() < 0.05


def test_laplace_covariance_is_that_of_its_jacobian():
    X, Y = data()
    model = LaplaceSurrogate(hidden=(5, 4), prior_variance=2.0, noise_variance=0.3, seed=0).fit(X, Y)
    theta, queries = model._parameters_at_mode[0], rand(4, 2, seed=9)

    def jacobian(points):
        return torch.func.jacrev(lambda t: model._network(t, 2 * points - 1)[:, 0])(theta)

    J, Q = jacobian(X), jacobian(queries)
    precision = J.T @ J / 0.3 + torch.eye(len(theta)) / 2.0
    expected = Y.var() * Q @ torch.linalg.inv(precision) @ Q.T
    joint = model.posterior(queries).distribution.covariance_matrix
    assert torch.allclose(joint, expected, rtol=1e-5, atol=1e-6 * float(expected.diagonal().max()))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_laplace_is_differentiable_in_its_points(activation):
    X, Y = data()
    model = LaplaceSurrogate(hidden=(5, 4), activation=activation, train_steps=50, seed=0).fit(X, Y)
    point = rand(2, 2, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda Z: model.posterior(Z).mean, point)
    assert torch.autograd.gradcheck(lambda Z: model.posterior(Z).variance, point)


def test_laplace_covariance_of_a_repeated_point_can_be_sampled():
    X, Y = data()
    posterior = MAKERS["laplace"]().fit(X, Y).posterior(X[[0, 0, 1]])
    draws = posterior.rsample(torch.Size([50]))
    assert torch.allclose(draws[:, 0], draws[:, 1], atol=0.05)
    assert draws.isfinite().all()


def test_hmc_without_hidden_layers_is_bayesian_linear_regression():
    X, Y = data(20, 2)
    queries = rand(6, 2, seed=9)
    mean, covariance = linear_posterior(X, Y, queries, 1.0, 0.1)
    model = HMCSurrogate(hidden=(), path_length=1.0, n_samples=900, n_burn_in=200, seed=1).fit(X, Y)
    posterior = model.posterior(queries)
    assert largest_in_sd(posterior.mean[:, 0] - mean, covariance) < 0.3
    assert (posterior.variance[:, 0] / covariance.diagonal()).log().abs().max() < math.log(1.4)
    assert model.chain_.samples.shape == model.samples_.shape == (900, 3)


def test_an_ensemble_of_one_is_certain():
    X, Y = data()
    model = EnsembleSurrogate(hidden=(4,), n_members=1, subset_fraction=1.0, train_steps=20, seed=0)
    assert (model.fit(X, Y).posterior(X).variance == 0).all()


def test_ensemble_members_are_those_of_their_own_subsets():
    X, Y = data()
    members = MAKERS["ensemble"]().fit(X, Y).samples_
    assert len(members) == 10
    assert torch.cdist(members, members)[~torch.eye(10, dtype=torch.bool)].min() > 0.1


def test_ridge_regression_is_the_end_of_ensemble_training():
    X, Y = data(20, 2)
    model = EnsembleSurrogate(
        hidden=(),
        n_members=2,
        subset_fraction=1.0,
        prior_variance=3.0,
        train_steps=2000,
        learning_rate=1e-2,
        seed=0,
    ).fit(X, Y)
    mean, _ = linear_posterior(X, Y, X, 3.0, 1.0)
    assert torch.allclose(model.posterior(X).mean[:, 0], mean, atol=1e-2 * float(Y.std()))


# --------------------------------------------------------------------------------------------- the kernel


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_kernel_is_the_covariance_of_wide_networks(activation):
    X, w, b, units = rand(4, 3), 4.0, 0.7, 200_000
    preactivations = X @ randn(3, units, seed=1) * (w / 3) ** 0.5 + randn(units, seed=2) * b**0.5
    values = preactivations.relu() if activation == "relu" else torch.erf(preactivations)
    expected = b + w * values @ values.T / units
    kernel = infinite_width_kernel(X, X, depth=1, weight_variance=w, bias_variance=b, activation=activation)
    assert torch.allclose(kernel, expected, rtol=0.03)


def test_relu_kernel_is_botorchs():
    X1, X2 = rand(7, 5), rand(4, 5, seed=1)
    reference = InfiniteWidthBNNKernel(3).to(torch.float64)
    reference.weight_var, reference.bias_var = 10.0, 1.3
    assert torch.allclose(infinite_width_kernel(X1, X2), reference(X1, X2).to_dense(), rtol=1e-5)


@quick
@given(
    st.integers(0, 2**31 - 1),
    st.integers(0, 4),
    st.floats(0.1, 20),
    st.floats(0.1, 5),
    st.sampled_from(["relu", "erf"]),
)
def test_kernel_is_symmetric_and_positive(seed, depth, w, b, activation):
    X = randn(8, 3, seed=seed)
    settings_ = {"depth": depth, "weight_variance": w, "bias_variance": b, "activation": activation}
    K = infinite_width_kernel(X, X, **settings_)
    assert torch.allclose(K, K.T)
    assert torch.linalg.eigvalsh(K).min() > -1e-9 * K.diagonal().max()
    assert torch.allclose(
        K.diagonal(), torch.cat([infinite_width_kernel(x[None], x[None], **settings_)[0] for x in X])
    )
    if activation == "relu":
        variance = b + w * X.square().mean(dim=1)
        for _ in range(depth):
            variance = b + w * variance / 2
        assert torch.allclose(K.diagonal(), variance, rtol=1e-7)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_kernel_gradient_against_differences_and_where_points_meet(activation):
    X1, X2 = randn(3, 2, seed=1).requires_grad_(), randn(2, 2, seed=2)
    assert torch.autograd.gradcheck(lambda X: infinite_width_kernel(X, X2, activation=activation), X1)
    infinite_width_kernel(X1, X1, activation=activation).sum().backward()
    assert X1.grad.isfinite().all()
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
    _ArcCosine.apply(ends).sum().backward()
    assert ends.grad.tolist() == pytest.approx([0, math.pi])


def test_kernel_takes_batches():
    X1, X2 = rand(2, 3, 4), rand(2, 5, 4, seed=1)
    K = infinite_width_kernel(X1, X2)
    assert K.shape == (2, 3, 5)
    assert torch.allclose(K[1], infinite_width_kernel(X1[1], X2[1]))


def test_infinite_width_posterior_is_that_of_its_kernel():
    X, Y = data()
    queries = rand(4, 2, seed=9)
    model = InfiniteWidthSurrogate(depth=2, weight_variance=5.0, bias_variance=0.4).fit(X, Y)
    process, y = model._process, (Y - Y.mean()) / Y.std()
    assert {name for name, _ in process.named_parameters()} == {
        "likelihood.noise_covar.raw_noise",
        "mean_module.raw_constant",
    }

    def kernel(one, other):
        return infinite_width_kernel(one, other, depth=2, weight_variance=5.0, bias_variance=0.4)

    constant, noise = process.mean_module.constant.item(), process.likelihood.noise.item()
    gram = kernel(X, X) + noise * torch.eye(len(X))
    weights = torch.linalg.solve(gram, kernel(X, queries)).T
    posterior = model.posterior(queries)
    mean = Y.mean() + Y.std() * (constant + weights @ (y - constant))
    assert torch.allclose(posterior.mean, mean, rtol=1e-4)
    variance = (kernel(queries, queries) - weights @ kernel(X, queries)).diagonal() * Y.var()
    assert torch.allclose(posterior.variance[:, 0], variance, rtol=1e-3)


# ------------------------------------------------------------------------------------- deep kernel learning


def test_log_marginal_is_gpytorchs():
    X, Y = data()
    process = DeepKernelSurrogate(hidden=(4, 3), pretrain_steps=50, train_steps=5, seed=0).fit(X, Y)._process
    process.train()
    parameters = list(process.parameters())
    ours = torch.autograd.grad(_log_marginal(process), parameters)
    likelihood = ExactMarginalLogLikelihood(process.likelihood, process)
    value = likelihood(process(*process.train_inputs), process.train_targets) * len(X)
    for one, other in zip(ours, torch.autograd.grad(value, parameters), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


def test_training_raises_the_marginal_likelihood():
    X, Y = data()
    values = []
    for train_steps in (0, 300):
        model = DeepKernelSurrogate(hidden=(8, 3), pretrain_steps=100, train_steps=train_steps, seed=0)
        values.append(float(_log_marginal(model.fit(X, Y)._process.train())))
    assert values[1] > values[0] + 1


# ------------------------------------------------------------------------------------- every surrogate


@pytest.fixture(scope="module")
def fitted():
    X, Y = data()
    return {name: make().fit(X, Y) for name, make in MAKERS.items()}


@surrogates
def test_posterior_follows_the_data_in_its_units(fitted, name):
    X, Y = data()
    posterior = fitted[name].posterior(X)
    assert float((posterior.mean - Y).abs().mean()) < float(Y.std())
    assert isinstance(posterior, EnsemblePosterior if name in SAMPLED else GPyTorchPosterior)


@surrogates
def test_posterior_shapes(fitted, name):
    model = fitted[name]
    flat, batched = model.posterior(rand(4, 2)), model.posterior(rand(3, 4, 2))
    assert flat.mean.shape == flat.variance.shape == (4, 1)
    assert batched.mean.shape == batched.variance.shape == (3, 4, 1)
    assert torch.allclose(batched.mean[0], model.posterior(rand(3, 4, 2)[0]).mean, atol=1e-6)
    assert model.num_outputs == 1
    if name in SAMPLED:
        assert flat.values.shape == (len(model.samples_), 4, 1)
        assert batched.values.shape == (3, len(model.samples_), 4, 1)
    deeper = model.posterior(rand(2, 3, 4, 2))
    assert deeper.mean.shape == (2, 3, 4, 1)
    noisy = model.posterior(rand(4, 2), observation_noise=True)
    assert noisy.mean.shape == (4, 1)
    if name not in SAMPLED:  # botorch scalarises no ensembles
        transform = ScalarizedPosteriorTransform(torch.tensor([2.0], dtype=torch.float64))
        scaled = model.posterior(rand(4, 2), posterior_transform=transform)
        assert torch.allclose(scaled.mean, 2 * flat.mean)


@surrogates
def test_expected_improvement_finds_candidates_within_bounds(fitted, name):
    model = fitted[name]
    point = rand(1, 2, seed=4).requires_grad_()
    model.posterior(point).mean.sum().backward()
    assert point.grad.isfinite().all()
    assert point.grad.abs().max() > 0
    cube = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    candidates, value = optimize_acqf(
        qLogExpectedImprovement(model, best_f=data()[1].max()),
        cube,
        q=2,
        num_restarts=1,
        raw_samples=4,
        options={"maxiter": 3},
    )
    assert candidates.shape == (2, 2)
    assert ((candidates >= 0) & (candidates <= 1)).all()
    assert value.isfinite()


@surrogates
def test_an_affine_change_of_the_outputs_changes_predictions_with_them(fitted, name):
    X, Y = data()
    # Networks start where they start, whatever the sign of the outputs.
    factor = 50 if name in (*SAMPLED, "laplace", "deep_kernel") else -50
    plain, changed = (
        model.posterior(X[:4]) for model in (fitted[name], MAKERS[name]().fit(X, factor * Y + 3))
    )
    scale = 50 * float(Y.std())
    assert torch.allclose(changed.mean, factor * plain.mean + 3, atol=0.01 * scale)
    assert torch.allclose(changed.variance, 2500 * plain.variance, rtol=0.05, atol=1e-3 * scale**2)


@surrogates
def test_the_same_seed_gives_the_same_and_leaves_the_global_generator_alone(fitted, name):
    X, Y = data()
    before = torch.get_rng_state()
    again = MAKERS[name]().fit(X, Y).posterior(X[:3]).mean
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again, fitted[name].posterior(X[:3]).mean)


@pytest.mark.parametrize("name", ["hmc", "ensemble", "deep_kernel", "infinite"])
def test_two_outputs(name):
    X, Y = data()
    both = torch.cat([Y, X[:, :1] - X[:, 1:]], dim=1)
    model = MAKERS[name]().fit(X, both)
    assert model.num_outputs == 2
    assert model.posterior(rand(3, 4, 2)).mean.shape == (3, 4, 2)
    selected = model.posterior(X, output_indices=[1])
    assert torch.allclose(selected.mean[:, 0], model.posterior(X).mean[:, 1], atol=1e-6)
    reference = both.amin(dim=0)
    acquisition = qExpectedHypervolumeImprovement(
        model, ref_point=reference, partitioning=FastNondominatedPartitioning(reference, Y=both)
    )
    assert acquisition(rand(2, 2, 2)).isfinite().all()


@surrogates
def test_constant_outputs_are_predicted(name):
    X, _ = data(6)
    posterior = MAKERS[name]().fit(X, torch.full((6, 1), 0.3)).posterior(X)
    assert torch.allclose(posterior.mean, torch.tensor(0.3, dtype=torch.float64), atol=0.6)
    assert posterior.variance.isfinite().all()


@surrogates
def test_one_observation_is_enough(name):
    posterior = MAKERS[name]().fit(torch.rand(1, 2), torch.tensor([[5.0]])).posterior(rand(3, 2))
    assert posterior.mean.isfinite().all()


def test_observation_noise_of_samples_has_its_variance():
    X, Y = data()
    model = EnsembleSurrogate(hidden=(4,), n_members=2000, noise_variance=0.5, train_steps=1, seed=0)
    model.fit(X, Y)
    added = model.posterior(X, observation_noise=True).values - model.posterior(X).values
    assert float(added.var() / Y.var()) == pytest.approx(0.5, rel=0.05)


# -------------------------------------------------------------------------------- functions and the loop


def test_draws():
    X = rand(2, 3, 8)
    for make in (bnn_draw, polynomial_draw):
        assert make(8, seed=1)(X).shape == (2, 3, 1)
        assert torch.equal(make(8, seed=1)(X), make(8, seed=1)(X))
        assert not torch.equal(make(8, seed=1)(X), make(8, seed=2)(X))
        assert torch.allclose(make(8, seed=1)(X)[1, 2], make(8, seed=1)(X[1, 2]))
    assert bnn_draw(8, n_outputs=3, seed=1)(X).shape == (2, 3, 3)


@quick
@given(st.integers(0, 2**31 - 1), st.integers(0, 11))
def test_polynomial_is_linear_in_each_input(seed, coordinate):
    draw = polynomial_draw(12, seed=seed)
    X = rand(3, 12, seed=seed)
    X[:, coordinate] = torch.tensor([0.0, 0.25, 1.0])
    X[1], X[2] = X[0].clone(), X[0].clone()
    X[1, coordinate], X[2, coordinate] = 0.25, 1.0
    low, middle, high = draw(X)[:, 0].tolist()
    assert middle == pytest.approx(0.75 * low + 0.25 * high, rel=1e-9, abs=1e-9)


def test_polynomial_of_four_inputs_vanishes_at_its_shifts():
    draw = polynomial_draw(4, seed=5)
    at_zero = float(draw(torch.zeros(4)))
    # Along one input the product falls linearly to its root; the four roots multiply to the value at 0.
    roots = [float(at_zero / (at_zero - draw(torch.eye(4)[i]))) for i in range(4)]
    assert math.prod(roots) == pytest.approx(at_zero)


def bowl(X):
    return -(X - torch.tensor([1.0, -2.0])).square().sum(dim=1)


@pytest.mark.parametrize("make_model", [GaussianProcessSurrogate, MAKERS["ensemble"], None])
def test_optimisation_history(make_model):
    bounds = torch.tensor([[-3.0, -3.0], [3.0, 3.0]])
    before = torch.get_rng_state()
    one, again = (
        run_bayesian_optimization(
            bowl, bounds, make_model, n_initial=6, n_rounds=2, batch_size=3, maxiter=3, seed=4
        )
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.points, again.points)
    assert one.points.shape == (12, 2)
    assert one.values.shape == (12, 1)
    assert torch.allclose(one.values[:, 0], bowl(one.points))
    assert ((one.points >= -3) & (one.points <= 3)).all()
    assert one.best.tolist() == [float(one.values[:k].max()) for k in (6, 9, 12)]
    assert one.fit_seconds.shape == (2,)
    other = run_bayesian_optimization(bowl, bounds, None, n_initial=6, n_rounds=1, seed=4)
    assert torch.equal(other.points[:6], one.points[:6])


def test_a_gaussian_process_nears_the_top_of_a_bowl():
    bounds = torch.tensor([[-3.0, -3.0], [3.0, 3.0]])
    runs = {
        make: run_bayesian_optimization(bowl, bounds, make, n_initial=6, n_rounds=2, batch_size=3, seed=1)
        for make in (GaussianProcessSurrogate, None)
    }
    assert runs[GaussianProcessSurrogate].best[-1] > max(-0.5, float(runs[None].best[-1]))


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HMCSurrogate(prior_variance=0.0), "prior_variance must be a positive number, got 0.0"),
        (lambda: HMCSurrogate(noise_variance=-1.0), "noise_variance must be .*got -1.0"),
        (lambda: HMCSurrogate(step_size=0.0), "step_size must be"),
        (lambda: HMCSurrogate(path_length=math.nan), "path_length must be .*got nan"),
        (lambda: HMCSurrogate(n_samples=0), "n_samples must be an integer of at least 1, got 0"),
        (lambda: HMCSurrogate(n_burn_in=-1), "n_burn_in must be an integer of at least 0, got -1"),
        (lambda: HMCSurrogate(hidden=(8, 0)), r"hidden must hold .*got \(8, 0\)"),
        (lambda: HMCSurrogate(activation="sine"), "activation must be one of tanh, relu, got 'sine'"),
        (lambda: SGHMCSurrogate(n_steps=0), "n_steps must be"),
        (lambda: SGHMCSurrogate(n_burn_in=2000), "n_burn_in must be less than n_steps = 2000"),
        (lambda: SGHMCSurrogate(learning_rate=0.0), "learning_rate must be"),
        (lambda: SGHMCSurrogate(batch_size=0), "batch_size must be"),
        (lambda: EnsembleSurrogate(subset_fraction=1.5), r"subset_fraction must lie in \(0, 1\], got 1.5"),
        (lambda: EnsembleSurrogate(subset_fraction=0.0), "subset_fraction must"),
        (lambda: LaplaceSurrogate(learning_rate=-1.0), "learning_rate must be"),
        (lambda: InfiniteWidthSurrogate(activation="tanh"), "activation must be one of relu, erf"),
        (lambda: InfiniteWidthSurrogate(weight_variance=0.0), "weight_variance must be"),
        (lambda: DeepKernelSurrogate(hidden=()), "hidden must hold at least one width"),
        (lambda: GaussianProcessSurrogate(kernel="rbf"), "kernel must be one of matern, default, got 'rbf'"),
        (lambda: infinite_width_kernel(rand(2, 3), rand(2, 2)), "X1 and X2 must have shapes"),
        (lambda: infinite_width_kernel(rand(2, 3), rand(2, 3), depth=-1), "depth must be"),
        (lambda: polynomial_draw(6), "d must be divisible by 4, got 6"),
        (lambda: polynomial_draw(8)(rand(2, 4)), r"X must have shape \(…, 8\), got \(2, 4\)"),
        (lambda: bnn_draw(0), "d must be"),
        (lambda: adaptive_sghmc(bowl, rand(2), n_steps=10, n_burn_in=8), "keep_every must be at most"),
        (
            lambda: adaptive_sghmc(bowl, rand(2), n_steps=9, n_burn_in=1, momentum_decay=0.0),
            "momentum_decay must",
        ),
        (lambda: hmc(torch.log, rand(2, 2), n_samples=1, n_burn_in=0), "initial must be a vector"),
        (
            lambda: hmc(lambda x: x.log().sum(), torch.zeros(2), n_samples=1, n_burn_in=0),
            "initial must have a finite log density, got -inf",
        ),
        (
            lambda: hmc(torch.sum, rand(2), n_samples=1, n_burn_in=0, target_acceptance=1.0),
            "target_acceptance must",
        ),
        (lambda: run_bayesian_optimization(bowl, torch.zeros(2, 2), None), "bounds must be two rows"),
        (
            lambda: run_bayesian_optimization(lambda X: X, torch.tensor([[0, 0], [1, 1]]), None),
            r"function must return shape \(10,\) or \(10, 1\), got \(10, 2\)",
        ),
        (
            lambda: run_bayesian_optimization(
                lambda X: X[:, 0] * math.nan, torch.tensor([[0.0], [1.0]]), None
            ),
            "the values of function must be finite",
        ),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (rand(5), rand(5, 1), r"train_X must be a non-empty matrix, got shape \(5,\)"),
        (rand(5, 2), rand(5), "train_Y must be a non-empty matrix"),
        (rand(5, 2), rand(4, 1), "train_Y must have the 5 rows of train_X, got 4"),
        (rand(5, 2) / 0, rand(5, 1), "train_X must be finite"),
        (rand(5, 2), rand(5, 1) * math.nan, "train_Y must be finite"),
    ],
)
def test_bad_data_are_named(X, Y, message):
    for name in ("hmc", "matern"):
        with pytest.raises(ValueError, match=message):
            MAKERS[name]().fit(X, Y)


@surrogates
def test_posterior_needs_a_fit_and_points_of_its_inputs(fitted, name):
    with pytest.raises(RuntimeError, match="has not been fitted"):
        MAKERS[name]().posterior(rand(3, 2))
    with pytest.raises(RuntimeError, match="has not been fitted"):
        _ = MAKERS[name]().num_outputs
    with pytest.raises(ValueError, match=r"X must have shape \(…, q, 2\), got \(3, 4\)"):
        fitted[name].posterior(rand(3, 4))
    with pytest.raises(TypeError, match="observation_noise must be True or False, got a Tensor"):
        fitted[name].posterior(rand(3, 2), observation_noise=torch.ones(1))


def test_laplace_has_one_output():
    X, Y = data()
    with pytest.raises(ValueError, match="train_Y must have one column for LaplaceSurrogate, got 2"):
        MAKERS["laplace"]().fit(X, Y.expand(-1, 2))


def test_without_botorch_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "botorch":
            raise ModuleNotFoundError("No module named 'botorch'", name="botorch")
        return real(name, *args, **kwargs)

    spec = importlib.util.find_spec(module.__name__)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'assay\[optimize\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
