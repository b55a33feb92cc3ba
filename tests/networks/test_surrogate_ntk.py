"""Surrogate gradient NTK: kernels against integrals and finite networks, gradients, ensembles, regression."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.special import erf
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.func import functional_call, grad, jacrev, vmap

from assay.networks.surrogate_ntk import (
    SurrogateGradientNetwork,
    SurrogateNTKRegressor,
    empirical_surrogate_ntk,
    neural_tangent_kernel,
    nngp_kernel,
    surrogate_gradient_ntk,
    train_surrogate_ensemble,
)

X = [[1, 0], [0, 1], [0.6, 0.8]]
ENTRIES = ((0, 0, 0, 1), (0, 1, 2, 2))
KERNELS = {
    "nngp": nngp_kernel,
    "ntk": neural_tangent_kernel,
    "erf": surrogate_gradient_ntk,
    "identity": lambda *points, **given: surrogate_gradient_ntk(*points, surrogate="identity", **given),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
surrogates = pytest.mark.parametrize("surrogate", ["erf", "identity"])
quick = settings(max_examples=50, deadline=None)


def circle(n, seed=0):
    angles = np.random.default_rng(seed).uniform(-np.pi, np.pi, n)
    return np.column_stack((np.sin(angles), np.cos(angles)))


def tensor(values):
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize(
    ("kernel", "scale", "expected"),
    [
        ("nngp", math.inf, (1.01, 0.024173, 0.287142, 0.418495)),
        ("erf", math.inf, (2.490796, 0.040339, 0.688506, 1.037814)),
        ("identity", math.inf, (2.264245, 0.050893, 0.900275, 1.262113)),
        ("ntk", 2.0, (2.912054, 0.053763, 0.993215, 1.557331)),
        ("erf", 2.0, (1.715848, 0.047362, 0.774389, 1.131255)),
    ],
)
def test_values_that_the_recursion_gives_by_hand(kernel, scale, expected):
    values = KERNELS[kernel](X, activation_scale=scale)
    assert values[ENTRIES] == pytest.approx(expected, abs=1e-6)
    assert values == pytest.approx(values.T, abs=1e-12)  # all of one norm


def test_true_derivative_on_rows_surrogate_on_columns():
    """One layer, one pair, both orders: D has the offset of its own activation at each argument."""
    k, column, z, m, s = 0.5, 2.0, 0.5, 3.0, 1.0
    points = [[1.0, 0.0], [1.0, math.sqrt(3)]]
    kernel = surrogate_gradient_ntk(points, activation_scale=m, surrogate_scale=s, n_hidden=1, sigma_b=0)
    nngp = nngp_kernel(points, activation_scale=m, n_hidden=1, sigma_b=0)[0, 1]
    c, o = 1 / (2 * m**2), 1 / (2 * s**2)
    assert nngp == pytest.approx(2 / math.pi * math.asin(z / math.sqrt((k + c) * (column + c))))
    for entry, first, second in ((kernel[0, 1], c, o), (kernel[1, 0], o, c)):
        factor = 2 / math.pi / math.sqrt((k + first) * (column + second) - z**2)
        assert entry == pytest.approx(z * factor + nngp)
    assert abs(kernel[0, 1] - kernel[1, 0]) > 0.01


def quadrature(rows, columns, n_hidden, derivatives, m, sigma_w, sigma_b):
    """NNGP and tangent kernel of one pair of points by Gauss-Hermite integrals, layer by layer."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    a, b = np.meshgrid(nodes, nodes)
    w = np.outer(weights, weights) / (2 * np.pi)
    pairs = [(rows, rows), (columns, columns), (rows, columns)]
    k, k2, z = (sigma_w**2 * np.dot(x, y) / len(x) + sigma_b**2 for x, y in pairs)
    theta = z
    for _ in range(n_hidden):
        u, v = math.sqrt(k) * a, z / math.sqrt(k) * a + math.sqrt(k2 - z**2 / k) * b
        d = sigma_w**2 * (w * derivatives[0](u) * derivatives[1](v)).sum()
        k, k2, z = (
            sigma_w**2 * (w * erf(m * x) * erf(m * y)).sum() + sigma_b**2 for x, y in ((u, u), (v, v), (u, v))
        )
        theta = theta * d + z
    return z, theta


@pytest.mark.parametrize("n_hidden", [1, 2, 3])
def test_kernels_are_their_gaussian_integrals(n_hidden):
    m, s, sigma_w, sigma_b = 0.8, 0.5, 1.3, 0.4
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(2, 3)), rng.normal(size=(3, 3))

    def slope(scale):
        return lambda z: 2 * scale / math.sqrt(math.pi) * np.exp(-((scale * z) ** 2))

    sizes = {"n_hidden": n_hidden, "activation_scale": m, "sigma_w": sigma_w, "sigma_b": sigma_b}
    nngp = nngp_kernel(rows, columns, **sizes)
    for kernel, backward in (
        (neural_tangent_kernel(rows, columns, **sizes), slope(m)),
        (surrogate_gradient_ntk(rows, columns, surrogate_scale=s, **sizes), slope(s)),
        (surrogate_gradient_ntk(rows, columns, surrogate="identity", **sizes), np.ones_like),
    ):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                expected = quadrature(row, column, n_hidden, (slope(m), backward), m, sigma_w, sigma_b)
                assert (nngp[i, j], kernel[i, j]) == pytest.approx(expected, abs=1e-4)


@quick
@given(st.floats(0.05, 50), st.integers(1, 4), st.integers(0, 1000))
def test_the_true_derivative_as_surrogate_gives_the_ordinary_kernel(scale, n_hidden, seed):
    points = np.random.default_rng(seed).normal(size=(4, 3))
    given_ones = {"activation_scale": scale, "n_hidden": n_hidden}
    ordinary = neural_tangent_kernel(points, **given_ones)
    assert surrogate_gradient_ntk(points, surrogate_scale=scale, **given_ones) == pytest.approx(ordinary)
    assert ordinary == pytest.approx(ordinary.T)
    eigenvalues = np.linalg.eigvalsh(ordinary)
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]


@pytest.mark.parametrize("kernel", [KERNELS["nngp"], KERNELS["erf"], KERNELS["identity"]])
def test_sign_is_the_limit_of_steep_activations(kernel):
    points = np.random.default_rng(0).normal(size=(5, 3))
    assert kernel(points, activation_scale=1e7) == pytest.approx(kernel(points), rel=1e-4)


@kernels
@quick
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.7, 5.0, math.inf]))
def test_two_sets_of_points_are_a_block_of_their_union(kernel, seed, scale):
    rng = np.random.default_rng(seed)
    rows, columns = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    union = kernel(np.vstack((rows, columns)), activation_scale=scale)
    assert kernel(rows, columns, activation_scale=scale) == pytest.approx(union[:3, 3:])


def test_many_points_are_computed_block_by_block():
    points = np.random.default_rng(0).normal(size=(400, 2))
    kernel = surrogate_gradient_ntk(points)
    assert kernel[[0, 41, 399]] == pytest.approx(surrogate_gradient_ntk(points[[0, 41, 399]], points))


def test_the_ordinary_kernel_of_sign_is_infinite_exactly_where_points_meet():
    points = np.random.default_rng(0).normal(size=(20, 30))
    kernel = neural_tangent_kernel(points, points[[3, 4]])
    assert np.argwhere(np.isinf(kernel)).tolist() == [[3, 0], [4, 1]]


@pytest.mark.parametrize("angle", [0.1, 3e-3, 1e-3, 1e-6, 1e-9])
def test_no_digits_are_lost_between_close_points(angle):
    """One hidden sign layer without biases: Theta = cos(a) / (pi/2 sin(a)) + 1 - 2 a / pi."""
    pair = [[1.0, 0.0], [math.cos(angle), math.sin(angle)]]
    kernel = neural_tangent_kernel(pair, n_hidden=1, sigma_b=0)[0, 1]
    assert kernel == pytest.approx(2 / math.pi / math.tan(angle) + 1 - 2 * angle / math.pi, rel=1e-9)


@pytest.mark.parametrize("n_hidden", [1, 2, 3])
def test_steepness_breaks_the_ordinary_kernel_alone(n_hidden):
    scales = np.array([1e3, 1e4])
    on, off = np.array(
        [neural_tangent_kernel(X, n_hidden=n_hidden, activation_scale=scale)[0, [0, 2]] for scale in scales]
    ).T
    assert np.diff(np.log(on)) / np.diff(np.log(scales)) == pytest.approx(n_hidden, abs=0.01)
    assert off[0] == pytest.approx(off[1], rel=2e-3)
    surrogate = [surrogate_gradient_ntk(X, n_hidden=n_hidden, activation_scale=scale) for scale in scales]
    assert surrogate[0] == pytest.approx(surrogate[1], rel=1e-2)


# --------------------------------------------------------------------------------------------- networks


@surrogates
@pytest.mark.parametrize("scale", [1.5, math.inf])
def test_gradient_of_one_hidden_layer_by_hand(surrogate, scale):
    network = SurrogateGradientNetwork(
        3, 7, 1, activation_scale=scale, surrogate=surrogate, surrogate_scale=0.7, generator=generator()
    )
    x, delta = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    (w1, w2), (b1, b2) = network.weights, network.biases
    z = x @ w1.T / math.sqrt(3) + 0.1 * b1
    hidden = torch.sign(z) if math.isinf(scale) else torch.erf(scale * z)
    output = network(x)
    torch.testing.assert_close(output, hidden @ w2[0] / math.sqrt(7) + 0.1 * b2)
    gradients = torch.autograd.grad((output * delta).sum(), [w1, b1, w2, b2])
    slope = 2 * 0.7 / math.sqrt(math.pi) * torch.exp(-((0.7 * z) ** 2)) if surrogate == "erf" else 1.0
    back = delta[:, None] * w2 / math.sqrt(7) * slope
    expected = [
        back.T @ x / math.sqrt(3),
        0.1 * back.sum(0),
        delta[None] @ hidden / math.sqrt(7),
        0.1 * delta.sum()[None],
    ]
    for gradient, by_hand in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, by_hand)


def test_the_true_derivative_as_surrogate_passes_gradcheck():
    network = SurrogateGradientNetwork(2, 4, activation_scale=1.3, surrogate_scale=1.3, generator=generator())
    x = tensor(X).requires_grad_()
    assert torch.autograd.gradcheck(network, (x,))
    assert torch.autograd.gradgradcheck(network, (x,))


def test_straight_through_gradients_of_first_weights_are_those_of_a_linear_network():
    network = SurrogateGradientNetwork(2, 9, surrogate="identity", generator=generator())
    w1, w2, w3 = network.weights
    x = tensor(X)
    linear = x @ w1.T / math.sqrt(2) @ w2.T / 3 @ w3[0] / 3
    gradients = [torch.autograd.grad(output.sum(), w1)[0] for output in (network(x), linear)]
    torch.testing.assert_close(*gradients)


@surrogates
def test_function_transforms_see_the_surrogate(surrogate):
    network = SurrogateGradientNetwork(2, 6, surrogate=surrogate, generator=generator())
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def output(values, x):
        return functional_call(network, values, (x[None],))[0]

    per_point = vmap(grad(output), in_dims=(None, 0))(parameters, tensor(X))
    for i, point in enumerate(tensor(X)):
        network.zero_grad()
        network(point[None]).sum().backward()
        for name, value in network.named_parameters():
            torch.testing.assert_close(per_point[name][i], value.grad)


def test_parameters_are_standard_normal_and_follow_their_generator():
    network, same = (SurrogateGradientNetwork(50, 200, generator=generator(3)) for _ in range(2))
    other = SurrogateGradientNetwork(50, 200, generator=generator(4), dtype=torch.float32)
    values = torch.cat([value.flatten() for value in network.parameters()])
    assert values.mean().item() == pytest.approx(0, abs=0.02)
    assert values.std().item() == pytest.approx(1, abs=0.02)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True))
    assert other(torch.ones(4, 50)).dtype == torch.float32
    assert not torch.equal(other.weights[0].double(), network.weights[0])


# ------------------------------------------------------------------------------------- empirical kernel


@surrogates
@pytest.mark.parametrize("n_hidden", [1, 2, 3])
def test_empirical_kernel_is_the_product_of_the_two_jacobians(surrogate, n_hidden):
    network = SurrogateGradientNetwork(
        3, 5, n_hidden, activation_scale=2.0, surrogate=surrogate, surrogate_scale=0.6, generator=generator()
    )
    honest = copy.deepcopy(network)
    honest.surrogate, honest.surrogate_scale = "erf", 2.0
    rows, columns = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator(1)).unbind()

    def jacobian(model, points):
        parameters = {name: value.detach() for name, value in model.named_parameters()}
        blocks = jacrev(lambda values: functional_call(model, values, (points,)))(parameters)
        return torch.cat([block.flatten(1) for block in blocks.values()], dim=1)

    expected = jacobian(honest, rows) @ jacobian(network, columns).T
    assert empirical_surrogate_ntk(network, rows, columns) == pytest.approx(expected.numpy())
    expected = jacobian(honest, rows) @ jacobian(network, rows).T
    assert empirical_surrogate_ntk(network, rows) == pytest.approx(expected.numpy())


@surrogates
def test_a_small_step_changes_the_outputs_by_the_kernel(surrogate):
    """It is the true derivative that belongs to the points whose outputs change."""
    points, y, X_test = tensor(X) * 1.5, tensor([1.0, -1.0, 0.5]), tensor([[0.3, 0.2], [2.0, -1.0]])
    network = SurrogateGradientNetwork(
        2, 30, activation_scale=2.0, surrogate=surrogate, generator=generator()
    )
    kernel = empirical_surrogate_ntk(network, X_test, points)
    before, residual = network(X_test).detach(), (network(points) - y).detach()
    rate = 1e-6
    (0.5 * (network(points) - y).square().mean()).backward()
    torch.optim.SGD(network.parameters(), lr=rate).step()
    change = (network(X_test).detach() - before) / rate
    assert change.numpy() == pytest.approx(-kernel @ residual.numpy() / 3, rel=1e-4)


@surrogates
def test_wide_networks_have_the_analytic_kernel(surrogate):
    points = np.array([[1.0, 0.0], [0.5, 1.5], [-1.0, 0.4]])
    networks = [
        SurrogateGradientNetwork(2, 400, activation_scale=2.0, surrogate=surrogate, generator=generator(i))
        for i in range(20)
    ]
    empirical = np.mean([empirical_surrogate_ntk(network, tensor(points)) for network in networks], axis=0)
    analytic = surrogate_gradient_ntk(points, activation_scale=2.0, surrogate=surrogate)
    assert empirical == pytest.approx(analytic, abs=0.12)


# --------------------------------------------------------------------------------------------- ensembles


@surrogates
@pytest.mark.parametrize("scale", [2.0, math.inf])
def test_an_ensemble_is_a_loop_over_networks_and_optimisers(surrogate, scale):
    points, y, X_test = circle(6), np.linspace(-1, 1, 6), circle(4, seed=1)
    model = {"surrogate": surrogate, "surrogate_scale": 0.8, "activation_scale": scale, "sigma_w": 1.2}
    ensemble = train_surrogate_ensemble(
        points, y, X_test, width=12, n_members=3, n_steps=40, dtype=torch.float64, seed=5, **model
    )
    draws = generator(5)
    for member in range(3):
        network = SurrogateGradientNetwork(2, 12, generator=draws, **model)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        for step in range(40):
            optimiser.zero_grad()
            loss = 0.5 * (network(tensor(points)) - tensor(y)).square().mean()
            assert ensemble.losses[step, member] == pytest.approx(loss.item())
            loss.backward()
            optimiser.step()
        outputs = network(tensor(X_test)).detach().numpy()
        assert ensemble.predictions[member] == pytest.approx(outputs)
        trained = ensemble.networks[member]
        assert trained(tensor(X_test)).detach().numpy() == pytest.approx(outputs)
        for value, expected in zip(trained.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(value, expected)


def test_wide_ensembles_follow_the_regression():
    points, X_test = circle(4, seed=2), circle(7, seed=3)
    y = np.array([1.0, -0.5, 0.3, 0.8])
    ensemble = train_surrogate_ensemble(
        points, y, X_test, width=100, n_members=60, learning_rate=0.5, n_steps=250, seed=0
    )
    mean, std = SurrogateNTKRegressor().fit(points, y).predict(X_test, return_std=True)
    assert ensemble.losses[-1].mean() < 0.02 * ensemble.losses[0].mean()
    errors = np.abs(ensemble.predictions.mean(axis=0) - mean)
    assert (errors <= 4 * std / math.sqrt(60) + 0.05).all()
    assert ensemble.predictions.std(axis=0) == pytest.approx(std, abs=0.2)


def test_without_a_seed_the_global_generator_draws():
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(train_surrogate_ensemble(X, [0, 1, 0], X, width=5, n_steps=2).predictions)
    assert (runs[0] == runs[1]).all()
    assert (train_surrogate_ensemble(X, [0, 1, 0], X, width=5, n_steps=2).predictions != runs[0]).any()


# -------------------------------------------------------------------------------------------- regression

REGRESSORS = [
    SurrogateNTKRegressor(),
    SurrogateNTKRegressor(surrogate="identity", activation_scale=3.0, n_hidden=1, alpha=0.1),
]


@parametrize_with_checks(
    REGRESSORS,
    # Its data have two equal rows, which only a penalty allows.
    expected_failed_checks=lambda model: (
        {} if model.alpha else {"check_positive_only_tag_during_fit": "equal rows"}
    ),
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 3)), rng.normal(size=12), rng.normal(size=(5, 3))


@surrogates
@pytest.mark.parametrize("scale", [4.0, math.inf])
def test_regression_passes_through_its_points(data, surrogate, scale):
    points, y, _ = data
    model = SurrogateNTKRegressor(surrogate=surrogate, activation_scale=scale).fit(points, y)
    mean, std = model.predict(points, return_std=True)
    assert mean == pytest.approx(y, abs=1e-6)
    assert std == pytest.approx(np.zeros(12), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_regression_is_where_the_gradient_flow_ends(data, alpha):
    """``df/dt = -Theta(., X) (f(X) - y) - alpha (f - f_0)``, solved as a linear system of all 17 outputs."""
    points, y, X_test = data
    everywhere = np.vstack((points, X_test))
    kernel = surrogate_gradient_ntk(everywhere, points)
    flow = np.zeros((34, 34))  # of the outputs and of the constant c in df/dt = -A f + c
    flow[:17, :12] = -kernel
    flow[:17, :17] -= alpha * np.eye(17)
    flow[:17, 17:] = np.eye(17)
    end = expm(300 * flow)[:17]
    from_initial = end[:, :17] + alpha * end[:, 17:]
    model = SurrogateNTKRegressor(alpha=alpha).fit(points, y)
    mean, std = model.predict(X_test, return_std=True)
    assert mean == pytest.approx((end[:, 17:] @ kernel @ y)[12:])
    variance = np.diag(from_initial @ nngp_kernel(everywhere) @ from_initial.T)
    assert std**2 == pytest.approx(variance[12:])


def test_a_heavy_penalty_leaves_untrained_networks(data):
    points, y, X_test = data
    mean, std = SurrogateNTKRegressor(alpha=1e9).fit(points, y).predict(X_test, return_std=True)
    assert mean == pytest.approx(np.zeros(5), abs=1e-6)
    assert std == pytest.approx(np.sqrt(np.diag(nngp_kernel(X_test))))


def test_the_ordinary_limit_predicts_nothing(data):
    points, y, X_test = data
    steep = SurrogateNTKRegressor(activation_scale=1e6, surrogate_scale=1e6).fit(points, y)
    assert steep.predict(points) == pytest.approx(y, abs=1e-6)
    assert np.abs(steep.predict(X_test)).max() < 1e-6


def test_singular_kernels_are_told_with_the_rows_that_make_them_so(data):
    points, y, _ = data
    twice = np.vstack((points, points[[4]]))
    with pytest.raises(np.linalg.LinAlgError, match="rows 4 and 12 of X are equal"):
        SurrogateNTKRegressor().fit(twice, [*y, y[4]])
    SurrogateNTKRegressor(alpha=0.1).fit(twice, [*y, y[4]])
    near = np.vstack((points, points[[4]] + 1e-12))
    with pytest.raises(np.linalg.LinAlgError, match=r"closest rows of X are 4 and 12, 1.*e-12 apart"):
        SurrogateNTKRegressor(activation_scale=1.0).fit(near, [*y, y[4]])


# -------------------------------------------------------------------------------------------- bad input


def network(**changes):
    return SurrogateGradientNetwork(2, 3, **{"activation_scale": 2.0, **changes})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nngp_kernel(X, [[1.0]]), "Y must have the 2 features of X, got 1"),
        (lambda: nngp_kernel([1.0, 2.0]), r"X must have shape \(points, features\), got \(2,\)"),
        (lambda: nngp_kernel(np.zeros((0, 2))), "X must have shape"),
        (lambda: neural_tangent_kernel([[np.nan, 1.0]]), "X must be finite"),
        (lambda: neural_tangent_kernel(X, n_hidden=0), "n_hidden must be .* at least 1, got 0"),
        (lambda: nngp_kernel(X, n_hidden=1.5), "n_hidden must be an integer"),
        (lambda: nngp_kernel(X, activation_scale=0.0), "activation_scale must be positive"),
        (lambda: nngp_kernel(X, activation_scale=math.nan), "activation_scale must be positive"),
        (lambda: surrogate_gradient_ntk(X, surrogate="sigmoid"), "surrogate must be .*got 'sigmoid'"),
        (lambda: surrogate_gradient_ntk(X, surrogate_scale=-1.0), "surrogate_scale must be"),
        (lambda: surrogate_gradient_ntk(X, sigma_w=0.0), "sigma_w must be"),
        (lambda: surrogate_gradient_ntk(X, sigma_b=-0.1), "sigma_b must be"),
        (lambda: SurrogateGradientNetwork(2, 0), "width must be"),
        (lambda: SurrogateGradientNetwork(0, 2), "n_features must be"),
        (lambda: network()(torch.zeros(3)), r"x must have shape \(N, 2\), got \(3,\)"),
        (
            lambda: empirical_surrogate_ntk(network(activation_scale=math.inf), torch.zeros(1, 2)),
            "activation_scale must be finite",
        ),
        (
            lambda: empirical_surrogate_ntk(network(), torch.zeros(1, 3)),
            r"X must have shape \(N, 2\), got \(1, 3\)",
        ),
        (
            lambda: empirical_surrogate_ntk(network(), torch.zeros(1, 2), torch.tensor([[math.nan, 0]])),
            "Y must be finite",
        ),
        (lambda: train_surrogate_ensemble(X, [1.0], X, width=3), r"y must have shape \(3,\)"),
        (lambda: train_surrogate_ensemble(X, [1, 2, np.inf], X, width=3), "y must be finite"),
        (lambda: train_surrogate_ensemble(X, [1, 2, 3], [[1.0]], width=3), "X_test must have the 2 features"),
        (lambda: train_surrogate_ensemble(X, [1, 2, 3], X, width=3, n_members=0), "n_members must be"),
        (lambda: train_surrogate_ensemble(X, [1, 2, 3], X, width=3, n_steps=0), "n_steps must be"),
        (
            lambda: train_surrogate_ensemble(X, [1, 2, 3], X, width=3, learning_rate=0.0),
            "learning_rate must be",
        ),
        (lambda: SurrogateNTKRegressor(alpha=-1.0).fit(X, [1, 2, 3]), "alpha must be"),
        (lambda: SurrogateNTKRegressor(n_hidden=0).fit(X, [1, 2, 3]), "n_hidden must be"),
        (lambda: SurrogateNTKRegressor().fit(X, [1, 2]), "inconsistent numbers of samples"),
        (lambda: SurrogateNTKRegressor(sigma_b=0.0).fit([[0, 0], [1, 1]], [1, 2]), "no row of zeros"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
