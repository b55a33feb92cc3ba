"""Quadratic layers, ReLinear, spline networks and functional dimension, against their formulas."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import Akima1DInterpolator, BSpline, CubicSpline, PchipInterpolator, PPoly
from torch import nn
from torch.nn import functional

from assay.networks.quadratic_networks import (
    QuadraticConv2d,
    QuadraticLinear,
    functional_dimension,
    relinear_parameter_groups,
    shrink_quadratic_terms,
    spline_network,
)

DOUBLE = torch.float64
variants = pytest.mark.parametrize("variant", ["full", "compact"])


def layer_of(kind, variant="full", init="random"):
    """A float64 layer with biases that are not 0, and an input for it."""
    torch.manual_seed(0)
    if kind == "dense":
        layer, x = QuadraticLinear(5, 4, variant=variant, init=init, dtype=DOUBLE), torch.randn(3, 5)
    else:
        layer = QuadraticConv2d(2, 3, (3, 2), stride=2, padding=1, variant=variant, init=init, dtype=DOUBLE)
        x = torch.randn(2, 2, 6, 5)
    if init == "random":
        for part in layer.children():
            nn.init.normal_(part.bias)
    return layer, x.double().requires_grad_()


# ---------------------------------------------------------------------------------------------- the layers


@variants
def test_dense_layer_is_its_formula(variant):
    layer, x = layer_of("dense", variant)
    r, b = layer.linear_r, layer.linear_b
    expected = torch.empty(3, 4, dtype=DOUBLE)
    for n in range(3):
        for j in range(4):
            z = r.weight[j] @ x[n] + r.bias[j]
            if variant == "full":
                z = z * (layer.linear_g.weight[j] @ x[n] + layer.linear_g.bias[j])
            expected[n, j] = z + b.weight[j] @ x[n] ** 2 + b.bias[j]
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(layer(x[:, None, None]), expected[:, None, None], atol=1e-12, rtol=1e-12)


@variants
def test_convolution_is_the_dense_layer_on_every_patch(variant):
    conv, x = layer_of("convolution", variant)
    dense = QuadraticLinear(12, 3, variant=variant, dtype=DOUBLE)
    for part, other in zip(dense.children(), conv.children(), strict=True):
        part.load_state_dict({"weight": other.weight.flatten(1), "bias": other.bias})
    patches = functional.unfold(x, (3, 2), stride=2, padding=1)
    expected = dense(patches.mT).mT.unflatten(-1, (3, 3))
    torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_compact_layer_is_the_full_one_without_interactions(kind):
    full, x = layer_of(kind)
    compact, _ = layer_of(kind, "compact")
    nn.init.zeros_(full.linear_g.weight)
    nn.init.ones_(full.linear_g.bias)
    assert compact.linear_g is None
    compact.load_state_dict(
        {name: value for name, value in full.state_dict().items() if "linear_g" not in name}
    )
    torch.testing.assert_close(compact(x), full(x), atol=1e-13, rtol=1e-13)


@variants
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_gradients(kind, variant):
    layer, x = layer_of(kind, variant)
    assert torch.autograd.gradcheck(layer, (x,))
    parameters = tuple(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]

    def output(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x.detach(),))

    assert torch.autograd.gradcheck(output, parameters)


@variants
def test_number_of_parameters(variant):
    layer, _ = layer_of("dense", variant)
    assert sum(p.numel() for p in layer.parameters()) == {"full": 3, "compact": 2}[variant] * 4 * 6


@variants
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_relinear_starts_as_a_conventional_layer(kind, variant):
    layer, x = layer_of(kind, variant, "relinear")
    assert torch.equal(layer(x), layer.linear_r(x))
    assert not layer.linear_r.bias.any()
    # dL/dW_b is that of a conventional layer on the squares.
    upstream = torch.randn_like(layer(x))
    gradient, bias_gradient = torch.autograd.grad(layer(x), list(layer.linear_b.parameters()), upstream)
    squares = layer_of(kind, variant, "relinear")[0].linear_r
    expected, bias_expected = torch.autograd.grad(squares(x * x), list(squares.parameters()), upstream)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(bias_gradient, bias_expected)


def test_initial_weights_are_he_normal():
    torch.manual_seed(0)
    dense, conv = QuadraticLinear(400, 500), QuadraticConv2d(40, 100, 5)
    for layer, fan_in in ((dense, 400), (conv, 1000)):
        for init, drawn in (("relinear", [layer.linear_r]), ("random", list(layer.children()))):
            layer.reset_parameters(init)
            for part in layer.children():
                expected = math.sqrt(2 / fan_in) if part in drawn else 0.0
                assert part.weight.std().item() == pytest.approx(expected, rel=0.02)
                wanted = float(init == "relinear" and part is layer.linear_g)
                assert torch.equal(part.bias, torch.full_like(part.bias, wanted))


def test_one_neuron_is_xor_and_one_is_a_disc():
    xor, disc = QuadraticLinear(2, 1, dtype=DOUBLE), QuadraticLinear(2, 1, dtype=DOUBLE)
    with torch.no_grad():
        xor.linear_r.weight.copy_(torch.tensor([[1.0, 0.0]]))
        xor.linear_g.weight.copy_(torch.tensor([[0.0, 1.0]]))
        xor.linear_g.bias.zero_()
        disc.linear_r.weight.zero_()
        disc.linear_b.weight.fill_(1.0)
        disc.linear_b.bias.fill_(-1.0)
    x = torch.randn(100, 2, dtype=DOUBLE)
    assert torch.equal(xor(x)[:, 0], x[:, 0] * x[:, 1])
    assert torch.equal(disc(x)[:, 0] < 0, x.norm(dim=1) < 1)


def test_layers_take_other_precisions():
    x = torch.randn(4, 8)
    layer = QuadraticLinear(8, 8, init="random")
    expected = layer(x)
    assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x.bfloat16()).float(), expected, atol=0.2, rtol=0.1)


def test_a_wrong_width_raises_what_a_conventional_layer_raises():
    with pytest.raises(RuntimeError) as ours:
        QuadraticLinear(3, 2)(torch.randn(2, 4))
    with pytest.raises(RuntimeError) as theirs:
        nn.Linear(3, 2)(torch.randn(2, 4))
    assert str(ours.value) == str(theirs.value)


# ------------------------------------------------------------------------------------------------ ReLinear


def networks(depth=4):
    """A conventional ReLU network and the ReLinear one with the same W_r."""
    torch.manual_seed(1)
    widths = [6, *[10] * depth]
    conventional, quadratic = [], []
    for inputs, outputs in pairwise(widths):
        layer = QuadraticLinear(inputs, outputs)
        conventional += [copy.deepcopy(layer.linear_r), nn.ReLU()]
        quadratic += [layer, nn.ReLU()]
    head = nn.Linear(10, 3)
    return nn.Sequential(*conventional, copy.deepcopy(head)), nn.Sequential(*quadratic, head)


def train(model, optimizer, after_step=lambda: None, steps=30):
    torch.manual_seed(2)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        after_step()


@pytest.mark.parametrize(
    ("gamma", "shrinkage"),
    [
        (0.0, {}),
        (1.0, {"beta_g": 0.0, "beta_b": 0.0}),
        (1.0, {"alpha_g": 0.0, "alpha_b": 0.0}),
        (1.0, {"beta_g": 0.0, "alpha_b": 0.0}),
    ],
)
def test_at_zero_relinear_trains_the_conventional_network_bit_for_bit(gamma, shrinkage):
    conventional, quadratic = networks()
    x = torch.randn(7, 6)
    assert torch.equal(conventional(x), quadratic(x))
    options = {"lr": 0.1, "momentum": 0.9}
    train(conventional, torch.optim.SGD(conventional.parameters(), **options))
    groups = relinear_parameter_groups(quadratic, lr=0.1, gamma_g=gamma, gamma_b=gamma)
    train(
        quadratic,
        torch.optim.SGD(groups, **options),
        lambda: shrink_quadratic_terms(quadratic, **shrinkage),
    )
    assert torch.equal(conventional(x), quadratic(x))
    for layer, expected in zip(quadratic[:-1:2], conventional[:-1:2], strict=True):
        assert torch.equal(layer.linear_r.weight, expected.weight)


def test_every_parameter_is_in_one_group_with_its_rate():
    model = nn.Sequential(
        QuadraticConv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.Flatten(),
        QuadraticLinear(8, 4, variant="compact"),
        nn.Linear(4, 2),
    )
    groups = relinear_parameter_groups(model, lr=0.1, gamma_g=1e-2, gamma_b=1e-3)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rate) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        factor = 1e-2 if "linear_g" in name else 1e-3 if "linear_b" in name else 1.0
        assert rate[id(parameter)] == pytest.approx(0.1 * factor)


def test_groups_of_a_model_without_quadratic_layers():
    groups = relinear_parameter_groups(nn.Linear(2, 2), lr=0.1)
    assert [len(group["params"]) for group in groups] == [2, 0, 0, 0]
    torch.optim.SGD(groups, momentum=0.9)


def test_weight_decay_spares_the_linear_path():
    layer = QuadraticLinear(3, 2)
    groups = relinear_parameter_groups(layer, lr=0.1, gamma_g=1.0, gamma_b=1.0)
    optimizer = torch.optim.SGD(groups, weight_decay=0.5)
    before = layer.linear_r.weight.clone()
    (0 * layer(torch.randn(4, 3))).sum().backward()
    optimizer.step()
    assert torch.equal(layer.linear_g.bias, torch.ones(2))
    torch.testing.assert_close(layer.linear_r.weight, 0.95 * before)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 3), st.floats(0, 3))
def test_shrinking_is_its_formula(beta_g, beta_b, alpha_g, alpha_b):
    layer, _ = layer_of("dense")
    before = copy.deepcopy(layer)
    shrink_quadratic_terms(
        nn.Sequential(layer), beta_g=beta_g, beta_b=beta_b, alpha_g=alpha_g, alpha_b=alpha_b
    )

    def clipped(deviation, beta, alpha):
        return (beta * deviation).clamp(-alpha, alpha)

    g, b, r = layer.linear_g, layer.linear_b, layer.linear_r
    torch.testing.assert_close(g.weight, clipped(before.linear_g.weight, beta_g, alpha_g))
    torch.testing.assert_close(g.bias, 1 + clipped(before.linear_g.bias - 1, beta_g, alpha_g))
    torch.testing.assert_close(b.weight, clipped(before.linear_b.weight, beta_b, alpha_b))
    torch.testing.assert_close(b.bias, clipped(before.linear_b.bias, beta_b, alpha_b))
    assert torch.equal(r.weight, before.linear_r.weight)
    assert torch.equal(r.bias, before.linear_r.bias)


@variants
def test_shrinking_with_its_defaults_changes_nothing(variant):
    layer, _ = layer_of("convolution", variant)
    before = copy.deepcopy(layer.state_dict())
    shrink_quadratic_terms(layer)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


# ------------------------------------------------------------------------------------------------- splines


def error_of(spline, x):
    """The network's largest error at the points, relative to the spline's largest value there."""
    network = spline_network(spline)
    with torch.no_grad():
        found = network(torch.from_numpy(x)[:, None])
    assert found.shape == (len(x), 1)
    assert found.dtype == DOUBLE
    expected = spline(x)
    return np.abs(found.numpy()[:, 0] - expected).max() / np.abs(expected).max()


def test_a_broken_line():
    spline = PPoly([[-1, 2], [1, 0]], [0, 1, 3])
    network = spline_network(spline)
    x = torch.tensor([[-1.0], [0], [0.5], [1], [2], [3], [4]], dtype=DOUBLE)
    expected = torch.tensor([2.0, 1, 0.5, 0, 2, 4, 6], dtype=DOUBLE)
    torch.testing.assert_close(network(x)[:, 0], expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 8, 9])
def test_b_splines(degree):
    rng = np.random.default_rng(degree)
    inner = np.cumsum(rng.uniform(0.5, 1.5, 9))
    knots = np.concatenate((np.full(degree, inner[0]), inner, np.full(degree, inner[-1])))
    spline = BSpline(knots, rng.standard_normal(8 + degree), degree)
    x = np.concatenate((inner, np.linspace(inner[0], inner[-1], 501)))
    assert error_of(spline, x) < 1e-12
    # Beyond its knots, where a polynomial of the degree grows fast.
    assert error_of(spline, np.linspace(inner[0] - 1, inner[-1] + 1, 101)) < 1e-12


def test_a_b_spline_on_knots_that_are_not_repeated():
    spline = BSpline(np.arange(12.0), np.random.default_rng(0).standard_normal(8), 3)
    assert error_of(spline, np.linspace(3, 8, 301)) < 1e-14
    assert error_of(spline, np.linspace(1, 10, 301)) < 1e-13


@pytest.mark.parametrize("make", [CubicSpline, PchipInterpolator, Akima1DInterpolator])
def test_interpolating_splines_of_scipy(make):
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.uniform(0.1, 1, 12)) - 4
    assert error_of(make(x, rng.standard_normal(12)), np.linspace(x[0], x[-1], 501)) < 1e-13


def test_many_rough_pieces_far_from_zero_lose_nothing():
    x = 1000 + np.linspace(0, 1, 101)
    spline = CubicSpline(x, np.random.default_rng(0).standard_normal(101))
    fine = np.linspace(1000, 1001, 2001)
    # One unit in the last place of x moves a spline this steep by about 1e-11.
    assert error_of(spline, fine) < 1e-10


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_random_piecewise_polynomials(degree, pieces, seed):
    """Continuous and nothing more: every derivative may jump."""
    rng = np.random.default_rng(seed)
    breakpoints = np.cumsum(rng.uniform(0.2, 2, pieces + 1)) - 3
    coefficients = rng.standard_normal((degree + 1, pieces))
    coefficients[-1, 0] = 0.5
    for j in range(1, pieces):
        coefficients[-1, j] = np.polyval(coefficients[:, j - 1], breakpoints[j] - breakpoints[j - 1])
    spline = PPoly(coefficients, breakpoints)
    x = np.concatenate((breakpoints, rng.uniform(breakpoints[0] - 0.5, breakpoints[-1] + 0.5, 100)))
    assert error_of(spline, x) < 1e-12


def test_depth_and_width():
    for degree, hidden in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 4), (8, 4), (9, 5)):
        coefficients = np.zeros((degree + 1, 3))
        coefficients[0] = 0.0
        network = spline_network(PPoly(coefficients, [0, 1, 2, 3]))
        layers = [layer for layer in network if isinstance(layer, QuadraticLinear)]
        assert len(layers) == hidden == 1 + max(1, math.ceil(math.log2(degree)))
        assert max(layer.linear_r.out_features for layer in layers) == degree * 4


def test_a_constant_is_a_spline():
    assert error_of(PPoly([[2.0, 2.0]], [0, 1, 2]), np.linspace(-1, 3, 9)) == 0


# ------------------------------------------------------------------------------------ functional dimension


class Square(nn.Module):
    def forward(self, x):
        return x * x


def conventional(*widths, bias=True, last=False):
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), Square()]
    return nn.Sequential(*layers if last else layers[:-1])


def quadratic(*widths):
    return nn.Sequential(*(QuadraticLinear(inputs, outputs) for inputs, outputs in pairwise(widths)))


def dimension(model, n_features, **options):
    return functional_dimension(model, n_features, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_one_affine_layer_and_one_quadratic_neuron(d):
    assert dimension(nn.Linear(d, 3), d) == 3 * (d + 1)
    # The two factors of its product share one scale; few variables have fewer monomials than that.
    assert dimension(QuadraticLinear(d, 1), d) == min(3 * (d + 1) - 1, math.comb(d + 2, 2))


@pytest.mark.parametrize(("d", "h"), [(4, 1), (4, 2), (4, 3), (4, 4), (4, 12), (6, 3)])
def test_sums_of_squares_of_linear_forms_are_the_matrices_of_a_rank(d, h):
    rank = min(d, h)
    expected = d * rank - rank * (rank - 1) // 2
    assert dimension(conventional(d, h, 1, bias=False), d) == expected


@pytest.mark.parametrize(
    ("widths", "ours", "theirs"),
    [
        ((2, 2, 1), 12, 6),
        ((2, 3, 1), 15, 6),
        ((3, 3, 1), 28, 10),
        ((2, 2, 2, 1), 18, 10),
        ((2, 3, 2, 1), 26, 12),
        ((1, 2, 2, 1), 9, 5),
    ],
)
def test_quadratic_neurons_beat_quadratic_activations(widths, ours, theirs):
    assert dimension(quadratic(*widths), widths[0]) == ours
    assert dimension(conventional(*widths), widths[0]) == theirs
    assert dimension(conventional(*widths, last=True), widths[0]) == theirs


def test_wide_networks_reach_all_polynomials_of_their_degree():
    assert dimension(quadratic(3, 9, 1), 3) == math.comb(3 + 4, 4)
    assert dimension(quadratic(1, 3, 3, 1), 1) == 8 + 1
    assert dimension(conventional(5, 9, 1), 5) == math.comb(5 + 2, 2)


def test_dimension_neither_changes_the_model_nor_depends_on_the_draw():
    model = quadratic(2, 3, 2)
    before = copy.deepcopy(model.state_dict())
    found = {
        functional_dimension(model, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(10)
    }
    assert len(found) == 1
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_few_points_bound_the_dimension():
    assert dimension(nn.Linear(5, 2), 5, n_points=3) == 6
    assert functional_dimension(nn.Linear(5, 2), 5) == 12


# ----------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: QuadraticLinear(2, 2, variant="small"), ValueError, "variant must be one of .*'small'"),
        (lambda: QuadraticLinear(2, 2, init="zeros"), ValueError, "init must be one of .*'zeros'"),
        (lambda: QuadraticConv2d(2, 2, 3, variant=None), ValueError, "variant must be one of .*None"),
        (lambda: QuadraticConv2d(2, 2, 3).reset_parameters("he"), ValueError, "init must be .*'he'"),
        (lambda: relinear_parameter_groups(nn.Linear(1, 1), lr=0.0), ValueError, "lr must be .*0.0"),
        (lambda: relinear_parameter_groups(nn.Linear(1, 1), lr=math.nan), ValueError, "lr must be .*nan"),
        (
            lambda: relinear_parameter_groups(nn.Linear(1, 1), lr=1.0, gamma_g=-0.1),
            ValueError,
            "gamma_g must be at least 0, got -0.1",
        ),
        (
            lambda: relinear_parameter_groups(nn.Linear(1, 1), lr=1.0, gamma_b=math.nan),
            ValueError,
            "gamma_b must be at least 0, got nan",
        ),
        (lambda: shrink_quadratic_terms(nn.Linear(1, 1), beta_g=1.1), ValueError, "beta_g must lie in .*1.1"),
        (lambda: shrink_quadratic_terms(nn.Linear(1, 1), beta_b=-1), ValueError, "beta_b must lie in .*-1"),
        (lambda: shrink_quadratic_terms(nn.Linear(1, 1), alpha_g=-1), ValueError, "alpha_g must be .*-1"),
        (lambda: shrink_quadratic_terms(nn.Linear(1, 1), alpha_b=math.nan), ValueError, "alpha_b .*nan"),
        (lambda: spline_network(np.sin), TypeError, "spline must be a PPoly or BSpline .*got ufunc"),
        (
            lambda: spline_network(PPoly([[1.0, 1.0], [0.0, 5.0]], [0, 1, 2])),
            ValueError,
            "spline must be continuous, got a jump of 4 at 1",
        ),
        (lambda: spline_network(BSpline([0.0, 1, 2], [1.0, 2.0], 0)), ValueError, "jump of 1 at 1"),
        (
            lambda: spline_network(CubicSpline([0, 1, 2], np.eye(3))),
            ValueError,
            r"spline must be real and scalar, got float64 values of shape \(3,\)",
        ),
        (
            lambda: spline_network(CubicSpline([0, 1, 2], [1j, 0, 1])),
            ValueError,
            "spline must be real and scalar, got complex",
        ),
        (
            lambda: spline_network(PPoly([[np.nan], [0.0]], [0, 1])),
            ValueError,
            "spline must have finite coefficients",
        ),
        (
            lambda: spline_network(PPoly([[1.0, 1.0]], [2, 1, 0])),
            ValueError,
            "spline must have strictly increasing breakpoints",
        ),
        (
            lambda: functional_dimension(nn.Linear(1, 1), 0),
            ValueError,
            "n_features must be at least 1, got 0",
        ),
        (
            lambda: functional_dimension(nn.Linear(1, 1), 1, n_points=0),
            ValueError,
            "n_points must be at least 1, got 0",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
