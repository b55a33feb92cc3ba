"""BiPer: gradients against what they stand for, layers against their definition, errors against integrals."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch import nn
from torch.nn import functional

from assay.networks.biper import (
    BiPerConv2d,
    BiPerLinear,
    binarize_activation,
    laplace_quantization_error,
    quantization_error,
    set_stage,
    sine_penalty,
    square_wave,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def double(layer, seed=0):
    torch.manual_seed(seed)
    layer = layer.double()
    layer.reset_parameters()
    return layer


# --- The binary functions ----------------------------------------------------------------------------


def test_the_square_wave_has_the_gradient_of_the_sine():
    w = normal(1000).requires_grad_()
    upstream = normal(1000, seed=1)
    y = square_wave(w, 11.0)
    y.backward(upstream)
    assert torch.equal(y.abs(), torch.ones_like(y))
    assert torch.equal(y, torch.sign(torch.sin(11 * w)))
    torch.testing.assert_close(w.grad, upstream * 11 * torch.cos(11 * w), atol=1e-9, rtol=0)


@settings(deadline=None)
@given(
    phase=st.floats(-20, 20).filter(lambda phase: abs(math.sin(phase)) > 1e-6),
    frequency=st.floats(0.01, 1000),
    turns=st.integers(-5, 5),
)
def test_the_square_wave_is_periodic_and_flips_after_half_a_period(phase, frequency, turns):
    def wave(phase):
        return square_wave(torch.tensor(phase / frequency, dtype=torch.float64), frequency).item()

    assert wave(phase) == math.copysign(1, math.sin(phase))
    assert wave(phase + 2 * math.pi * turns) == wave(phase)
    assert wave(phase + math.pi) == -wave(phase)


def test_latent_weights_of_either_sign_map_to_either_value():
    wave = square_wave(torch.tensor([-0.2, -0.1, 0.1, 0.2]), 20.0)
    assert wave.tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_is_binary_too_in_every_dtype(dtype, zero):
    x = torch.full((3,), zero, dtype=dtype)
    for y in (square_wave(x, 20.0), binarize_activation(x)):
        assert y.dtype == dtype
        assert y.tolist() == [1, 1, 1]


def test_the_activation_has_the_gradient_of_a_piecewise_quadratic():
    x = torch.tensor([-1.2, -0.5, 0.3, 0.8], dtype=torch.float64, requires_grad=True)
    binarize_activation(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0, 1.0, 1.4, 0.4], dtype=torch.float64))

    def quadratic(x):
        """What the gradient is the derivative of: it meets the sign at -1, 0 and 1."""
        clipped = x.clamp(-1, 1)
        return 2 * clipped - clipped * clipped.abs()

    x = normal(1000).requires_grad_()
    binarize_activation(x).sum().backward()
    y = x.detach().clone().requires_grad_()
    quadratic(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert quadratic(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1, 0, 1]


def test_second_derivatives_and_vmap_go_through():
    w = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(square_wave(w, 20.0), w, create_graph=True)
    first.backward()
    assert w.grad.item() == pytest.approx(-400 * math.sin(0.6))

    layer = double(BiPerConv2d(3, 4, 3))
    x = normal(5, 3, 6, 6)

    def loss(parameters, sample):
        return torch.func.functional_call(layer, parameters, sample[None]).square().sum()

    parameters = dict(layer.named_parameters())
    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index, sample in enumerate(x):
        alone = torch.func.grad(loss)(parameters, sample)
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name][index], gradient)


# --- The layers --------------------------------------------------------------------------------------


def test_each_stage_follows_its_definition_with_every_option_of_a_convolution():
    for index, options in enumerate(
        (
            {},
            {"stride": 2, "padding": 1},
            {"padding": "same", "dilation": 2},
            {"groups": 2, "padding": (0, 1)},
            {"stride": (2, 1), "frequency": 5.0, "bias": True},
        )
    ):
        layer = double(BiPerConv2d(4, 6, 3, **options), seed=index)
        plain = {name: value for name, value in options.items() if name not in ("frequency", "bias")}
        bias = 0
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
            bias = layer.bias[:, None, None]
        x = normal(2, 4, 7, 7, seed=index)
        sine = torch.sin(layer.frequency * layer.weight)
        for stage, weight in ((1, sine), (2, sine.sign())):
            assert set_stage(layer, stage) == 1
            expected = functional.conv2d(x.sign(), weight, **plain) * layer.alpha + bias
            for training in (True, False):
                layer.train(training)
                torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
            torch.testing.assert_close(layer(x[0]), expected[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7)])
def test_each_stage_follows_its_definition_in_a_linear_layer(shape):
    layer = double(BiPerLinear(7, 5, bias=True))
    nn.init.normal_(layer.bias)
    x = normal(*shape)
    sine = torch.sin(20 * layer.weight)
    for stage, weight in ((1, sine), (2, sine.sign())):
        layer.stage = stage
        expected = x.sign() @ weight.T * layer.alpha + layer.bias
        for training in (True, False):
            layer.train(training)
            torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_gradients_are_those_of_a_layer_that_scales_its_input(kind, stage):
    """The scaled input in separate steps, of which only the gradient of the layer's own is made."""
    if kind == "linear":
        layer, x, dims = double(BiPerLinear(9, 5, stage=stage)), normal(6, 9, seed=3), 1
    else:
        layer = double(BiPerConv2d(4, 5, 3, padding=1, stage=stage))
        x, dims = normal(6, 4, 5, 5, seed=3) + 0.3, (1, 2, 3)
    x = (x * torch.logspace(-3, 2, 6, dtype=torch.float64).view(-1, *[1] * (x.ndim - 1))).requires_grad_()
    operands = (x, layer.weight, layer.alpha)
    output = layer(x)
    upstream = normal(*output.shape, seed=4)
    found = torch.autograd.grad(output, operands, upstream)

    scaled = x / torch.sqrt(x.var(dims, keepdim=True) + 1e-5)
    sine = torch.sin(20 * layer.weight)
    weight = sine if stage == 1 else sine + (sine.sign() - sine).detach()
    if kind == "linear":
        product = functional.linear(binarize_activation(scaled), weight)
    else:
        product = functional.conv2d(binarize_activation(scaled), weight, padding=1)
    expected = torch.autograd.grad(product * layer.alpha, operands, upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)
    assert found[0].abs().sum() > 0


def test_evaluation_does_not_scale_the_gradient():
    layer = double(BiPerLinear(8, 3)).eval()
    x = normal(4, 8).requires_grad_()
    layer(x).sum().backward()
    expected = (layer.alpha @ torch.sin(20 * layer.weight)) * (2 - 2 * x.abs()).clamp(min=0)
    torch.testing.assert_close(x.grad, expected)


def test_stage_1_without_binary_input_is_differentiable():
    layer = double(BiPerConv2d(2, 3, 2, binarize_input=False, frequency=3.0))

    def output(x, weight, alpha):
        return torch.func.functional_call(layer, {"weight": weight, "alpha": alpha}, x)

    assert torch.autograd.gradcheck(output, (normal(2, 2, 4, 4).requires_grad_(), layer.weight, layer.alpha))


def test_binary_weights_are_one_bit_and_integers_reproduce_the_layer():
    """Multiplication of bits is XNOR and their sum a count, so 1-bit inference needs no multiplication."""
    torch.manual_seed(0)
    layer = BiPerLinear(96, 16).eval()
    x = normal(32, 96, dtype=torch.float32)
    weight = layer.binary_weight()
    assert weight.dtype == torch.int8
    set_stage(layer, 2)
    assert layer.effective_weight().unique().tolist() == [-1, 1]
    assert torch.equal(weight, layer.effective_weight().to(torch.int8))

    packed_weight = np.packbits(weight.numpy() > 0, axis=1)
    packed_x = np.packbits(x.numpy() >= 0, axis=1)
    assert packed_weight.nbytes * 32 == layer.weight.numel() * layer.weight.element_size()
    differing = np.unpackbits(packed_x[:, None] ^ packed_weight[None], axis=2).sum(axis=2, dtype=np.int64)
    count = torch.from_numpy(96 - 2 * differing).float()
    assert torch.equal(layer(x), count * layer.alpha)


def test_initial_weights_have_the_deviation_of_he():
    torch.manual_seed(0)
    layer = BiPerConv2d(64, 256, 3, groups=2)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.02)
    assert 0 <= layer.alpha.min() < 0.1 < 0.9 < layer.alpha.max() <= 1
    assert layer.alpha.shape == (256, 1, 1)
    assert layer.bias is None


def test_a_checkpoint_keeps_frequency_and_stage():
    network = nn.Sequential(BiPerConv2d(2, 3, 1, frequency=7.5), nn.Flatten(), BiPerLinear(12, 3))
    network[2].stage = 2
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = nn.Sequential(BiPerConv2d(2, 3, 1), nn.Flatten(), BiPerLinear(12, 3))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert [(layer.frequency, layer.stage) for layer in (other[0], other[2])] == [(7.5, 1), (20.0, 2)]
    assert "frequency=7.5, stage=1" in repr(other)
    x = normal(4, 2, 2, 2, dtype=torch.float32)
    assert torch.equal(network(x), other(x))
    assert torch.equal(copy.deepcopy(network)(x), other(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains(dtype):
    torch.manual_seed(0)
    reference = BiPerConv2d(16, 8, 3, padding=1)
    layer = copy.deepcopy(reference).to(dtype)
    x = (normal(2, 16, 8, 8, dtype=torch.float32) * 100).to(dtype)  # its squares sum to more than 65504
    gradients = []
    for candidate in (layer, reference):
        given = x.detach().to(candidate.weight.dtype, copy=True).requires_grad_()
        candidate(given).square().mean().backward()
        gradients.append((given.grad.float().flatten(), candidate.weight.grad.float().flatten()))
    assert layer(x).dtype == dtype
    for ours, reference_gradient in zip(*gradients, strict=True):
        assert functional.cosine_similarity(ours, reference_gradient, dim=0) > 0.98


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_constant_sample_has_a_finite_gradient(dtype):
    layer = BiPerLinear(50, 40).to(dtype)
    x = torch.full((2, 50), 1e-3, dtype=dtype, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()


@settings(deadline=None, max_examples=30)
@given(frequency=st.floats(0.1, 100), seed=st.integers(0, 1000))
def test_frequency_is_a_unit_of_the_weights(frequency, seed):
    """Latent weights w at omega are weights omega w at 1: the same layer, gradients omega times larger."""
    layer, unit = double(BiPerLinear(6, 4, frequency=frequency)), double(BiPerLinear(6, 4, frequency=1.0))
    with torch.no_grad():
        layer.weight.copy_(unit.weight / frequency)
    x = normal(3, 6, seed=seed)
    one, other = layer(x), unit(x)
    torch.testing.assert_close(one, other)
    one.square().sum().backward()
    other.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, frequency * unit.weight.grad)


def test_both_stages_train_and_the_second_starts_from_the_first():
    torch.manual_seed(0)
    x = normal(256, 16, dtype=torch.float32)
    y = (x[:, :4].sum(1) > 0).long()
    network = nn.Sequential(nn.Linear(16, 64), BiPerLinear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for stage in (1, 2):
        latent = network[1].weight.clone()
        set_stage(network, stage)
        assert torch.equal(network[1].weight, latent)
        for _ in range(60):
            loss = functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[59] < 0.3 * losses[0]
    assert losses[119] < losses[60]


# --- Penalty and quantization error ------------------------------------------------------------------


def test_the_penalty_sums_the_layers_means_and_has_their_gradient():
    network = nn.Sequential(
        BiPerConv2d(2, 3, 3, frequency=7.0), nn.Conv2d(3, 3, 1), BiPerLinear(5, 4)
    ).double()
    penalty = sine_penalty(network)
    penalty.backward()
    means = [
        (0.5 - 0.5 * torch.cos(2 * layer.frequency * layer.weight)).mean()
        for layer in (network[0], network[2])
    ]
    torch.testing.assert_close(penalty, sum(means))
    for layer in (network[0], network[2]):
        slope = layer.frequency * torch.sin(2 * layer.frequency * layer.weight) / layer.weight.numel()
        torch.testing.assert_close(layer.weight.grad, slope)
    assert sine_penalty(nn.Linear(2, 2)) == 0


def test_descending_the_penalty_raises_the_quantization_error():
    layer = double(BiPerLinear(64, 64))
    before = quantization_error(layer.weight, 20.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        sine_penalty(layer).backward()
        optimizer.step()
    assert quantization_error(layer.weight, 20.0) > before + 0.05


@pytest.mark.parametrize("order", [1, 2])
def test_the_quantization_error_is_the_distance_of_sine_and_square_wave(order):
    weight = normal(40, 50, dtype=torch.float32)
    distance = (torch.sin(3.0 * weight.double()) - square_wave(weight.double(), 3.0)).abs().pow(order).mean()
    assert quantization_error(weight, 3.0, order=order) == pytest.approx(distance.item(), abs=1e-12)
    assert quantization_error(torch.zeros(4), 3.0, order=order) == 1
    assert quantization_error(torch.tensor(math.pi / 6), 3.0, order=order) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "first", "second"),
    [(0.5, 0.598503, 0.447006), (1, 0.454834, 0.309669), (2, 0.390053, 0.250694)],
)
def test_the_closed_form_has_known_values(x, first, second):
    for scale, frequency in ((x, 1.0), (0.05, x / 0.05)):
        assert laplace_quantization_error(scale, frequency) == pytest.approx(first, abs=1e-6)
        assert laplace_quantization_error(scale, frequency, order=2) == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("x", [0.05, 0.4, 1.7, 6.0])
def test_the_closed_form_is_the_integral(x, order):
    def half_wave(k):
        return integrate.quad(
            lambda u: (1 - abs(math.sin(u))) ** order * math.exp(-u / x) / x, k * math.pi, (k + 1) * math.pi
        )[0]

    expected = sum(half_wave(k) for k in range(math.ceil(40 * x / math.pi)))
    assert laplace_quantization_error(x, 1.0, order=order) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("order", "limit"), [(1, 1 - 2 / math.pi), (2, 1.5 - 4 / math.pi)])
def test_the_closed_form_falls_from_one_to_the_error_of_uniform_phases(order, limit):
    errors = [laplace_quantization_error(0.05, omega, order=order) for omega in np.geomspace(1e-3, 1e5, 400)]
    assert all(np.diff(errors) < 0)
    assert errors[0] == pytest.approx(1, abs=1e-3)
    assert errors[-1] == pytest.approx(limit, abs=1e-6)
    assert laplace_quantization_error(1e-300, 1e-20, order=order) == 1
    assert laplace_quantization_error(1e300, 1.0, order=order) == pytest.approx(limit)


# --- Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [0.0, -1.0, math.nan, math.inf])
def test_frequencies_must_be_positive(frequency):
    layer = BiPerLinear(2, 2)
    for call in (
        lambda: square_wave(torch.zeros(2), frequency),
        lambda: BiPerConv2d(2, 2, 1, frequency=frequency),
        lambda: BiPerLinear(2, 2, frequency=frequency),
        lambda: setattr(layer, "frequency", frequency),
        lambda: quantization_error(torch.zeros(2), frequency),
        lambda: laplace_quantization_error(1.0, frequency),
    ):
        with pytest.raises(ValueError, match="frequency must be positive"):
            call()
    assert layer.frequency == 20


@pytest.mark.parametrize("stage", [0, 3, 1.5])
def test_there_are_two_stages(stage):
    layer = BiPerLinear(2, 2)
    for call in (
        lambda: BiPerConv2d(2, 2, 1, stage=stage),
        lambda: BiPerLinear(2, 2, stage=stage),
        lambda: setattr(layer, "stage", stage),
        lambda: set_stage(nn.Linear(2, 2), stage),
    ):
        with pytest.raises(ValueError, match="stage must be 1 or 2"):
            call()


def test_other_bad_input_is_named():
    for order in (0, 3):
        with pytest.raises(ValueError, match="order must be 1 or 2"):
            quantization_error(torch.zeros(2), 1.0, order=order)
        with pytest.raises(ValueError, match="order must be 1 or 2"):
            laplace_quantization_error(1.0, 1.0, order=order)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale must be positive"):
            laplace_quantization_error(scale, 1.0)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="weight must be finite"):
            quantization_error(torch.tensor([0.0, value]), 1.0)
    with pytest.raises(ValueError, match="at least one element"):
        quantization_error(torch.zeros(0), 1.0)
    integers = torch.ones(2, 2, dtype=torch.int64)
    for call in (square_wave, lambda x, _: binarize_activation(x), lambda x, _: BiPerLinear(2, 2)(x)):
        with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
            call(integers, 1.0)
    layer = BiPerLinear(1, 2)
    with pytest.raises(ValueError, match="needs 2 values"):
        layer(torch.zeros(3, 1))
    assert layer.eval()(torch.zeros(3, 1)).shape == (3, 2)
