"""Stochastic neurons: every estimator against enumeration, and gates whose experts are not computed."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator
from torch.nn import functional

from assay.gating import (
    ConditionalClassifier,
    ConditionalLayer,
    MinimumVarianceBaseline,
    noisy_rectifier,
    optimal_baseline,
    reinforce_gradient,
    stochastic_times_smooth,
    straight_through,
)

SPARSE = ("straight_through", "straight_through_sigmoid", "sts", "reinforce")
RECTIFIERS = ("noisy_rectifier", "rectifier")
DENSE = ("sigmoid", "sigmoid_noise")
ESTIMATORS = (*SPARSE, *RECTIFIERS, *DENSE)
UNITS = {
    "straight_through": straight_through,
    "sts": stochastic_times_smooth,
    "logistic": noisy_rectifier,
    "gaussian": lambda logits, **options: noisy_rectifier(logits, noise="gaussian", **options),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


def states(n_units):
    """Every outcome of binary units, (2^units, units)."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n_units)), dtype=torch.float64)


def state_probabilities(outcomes, p):
    return (outcomes * p + (1 - outcomes) * (1 - p)).prod(1)


def enumerated_gradient(logits, loss):
    """dE[L]/da by differentiating the sum over all outcomes."""
    a = logits.clone().requires_grad_()
    outcomes = states(len(a))
    (state_probabilities(outcomes, torch.sigmoid(a)) * loss(outcomes)).sum().backward()
    return a.grad


def moments(logits, loss, baseline):
    """Mean and variance of `reinforce_gradient` over all outcomes."""
    outcomes, p = states(len(logits)), torch.sigmoid(logits)
    weights = state_probabilities(outcomes, p)[:, None]
    gradient = reinforce_gradient(outcomes, p.expand_as(outcomes), loss(outcomes), baseline)
    mean = (weights * gradient).sum(0)
    return mean, (weights * (gradient - mean) ** 2).sum(0)


def enumerated_baseline(logits, loss):
    """`optimal_baseline` of a batch that holds every outcome; its terms weighted by probability."""
    outcomes, p = states(len(logits)), torch.sigmoid(logits)
    squares = state_probabilities(outcomes, p)[:, None] * (outcomes - p) ** 2
    return (squares * loss(outcomes)[:, None]).sum(0) / squares.sum(0)


def within(values, expected, standard_errors=5):
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    return bool(((values.mean(0) - expected).abs() <= standard_errors * error).all())


def close(actual, expected, atol=1e-7):
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0, check_stride=False
    )


# ------------------------------------------------------------------------------------- unbiased estimator


def test_one_unit_has_no_variance_with_the_best_baseline():
    logits = torch.tensor([0.7], dtype=torch.float64)

    def loss(h):
        return 2.5 * h[:, 0] - 0.5

    p = torch.sigmoid(logits)
    close(p, [0.66818777], atol=1e-8)
    close(enumerated_gradient(logits, loss), [0.55428218], atol=1e-8)
    baseline = enumerated_baseline(logits, loss)
    close(baseline, [0.32953057], atol=1e-8)
    gradient = reinforce_gradient(states(1), p.expand(2, 1), loss(states(1)), baseline)
    close(gradient, [[0.55428218], [0.55428218]], atol=1e-8)
    close(moments(logits, loss, None)[1], [0.02407589], atol=1e-8)


def two_unit_loss(h):
    return (h[:, 0] + 2 * h[:, 1] - 1.5) ** 2


TWO_LOGITS = torch.tensor([0.3, -0.8], dtype=torch.float64)


@pytest.mark.parametrize(
    ("baseline", "variance"),
    [
        (None, (0.62648813, 0.57433792)),
        (1.30656871, (0.20916801, 0.20916801)),
        (1.19343129, (0.21229710, 0.21190607)),
    ],
)
def test_two_units_by_enumeration(baseline, variance):
    close(enumerated_gradient(TWO_LOGITS, two_unit_loss), [-0.18576336, 0.06369590], atol=1e-8)
    close(enumerated_baseline(TWO_LOGITS, two_unit_loss), [1.30656871, 1.30656871], atol=1e-8)
    mean, measured = moments(TWO_LOGITS, two_unit_loss, baseline)
    close(mean, [-0.18576336, 0.06369590], atol=1e-8)
    close(measured, variance)


@given(seed=st.integers(0, 2**32), n_units=st.integers(1, 5), offset=st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_every_baseline_is_unbiased_and_the_best_has_least_variance(seed, n_units, offset):
    logits = 1.5 * normal(n_units, seed=seed)
    table = normal(2**n_units, seed=seed + 1)

    def loss(_):
        return table

    best = enumerated_baseline(logits, loss)
    mean, variance = moments(logits, loss, best)
    close(mean, enumerated_gradient(logits, loss), atol=1e-12)
    other_mean, other_variance = moments(logits, loss, best + offset)
    close(other_mean, mean, atol=1e-12)
    p = torch.sigmoid(logits)
    close(other_variance, variance + offset**2 * p * (1 - p), atol=1e-9)


def test_samples_agree_with_enumeration():
    p = torch.sigmoid(TWO_LOGITS).expand(100_000, 2)
    h = straight_through(TWO_LOGITS.expand(100_000, 2), generator=seeded())
    losses = two_unit_loss(h)
    baseline = optimal_baseline(h, p, losses)
    close(baseline, [1.30656871, 1.30656871], atol=0.02)
    exact = enumerated_gradient(TWO_LOGITS, two_unit_loss)
    assert within(reinforce_gradient(h, p, losses, baseline=1.3), exact)


def test_moving_averages_follow_the_definition():
    baseline = MinimumVarianceBaseline(3, decay=0.8, eps=1e-3).double()
    close(baseline.value, [1.0, 1.0, 1.0])
    numerator = denominator = 1e-3
    for seed in range(4):
        p = torch.sigmoid(normal(6, 3, seed=seed))
        h, losses = (p > 0.5).double(), normal(6, seed=seed + 10)
        numerator = 0.8 * numerator + 0.2 * ((h - p) ** 2 * losses[:, None]).mean(0)
        denominator = 0.8 * denominator + 0.2 * ((h - p) ** 2).mean(0)
        close(baseline.update(h, p, losses), numerator / denominator)
    close(baseline.value, numerator / denominator)
    without_memory = MinimumVarianceBaseline(3, decay=0.0).double()
    close(without_memory.update(h, p, losses), optimal_baseline(h, p, losses))


def test_estimates_are_detached_and_a_certain_unit_needs_no_baseline():
    p = torch.tensor([[1.0, 0.5]], requires_grad=True)
    h, losses = torch.ones(1, 2), torch.tensor([3.0], requires_grad=True)
    gradient = reinforce_gradient(h, p, losses, baseline=torch.ones(2, requires_grad=True))
    assert not gradient.requires_grad
    assert optimal_baseline(h, p, losses).tolist() == [0.0, 3.0]
    assert not MinimumVarianceBaseline(2).update(h, p, losses).requires_grad


# -------------------------------------------------------------------------------------------------- units


def test_straight_through_copies_the_gradient_bit_for_bit():
    logits, incoming = normal(50, 7).requires_grad_(), normal(50, 7, seed=2)
    h = straight_through(logits, generator=seeded())
    assert set(h.unique().tolist()) == {0.0, 1.0}
    h.backward(incoming)
    assert torch.equal(logits.grad, incoming)
    logits.grad = None
    straight_through(logits, multiply_derivative=True, generator=seeded()).backward(incoming)
    p = torch.sigmoid(logits.detach())
    close(logits.grad, incoming * p * (1 - p), atol=1e-12)


def test_straight_through_is_biased_to_the_wrong_sign():
    logits = TWO_LOGITS.expand(100_000, 2).clone().requires_grad_()
    two_unit_loss(straight_through(logits, generator=seeded())).sum().backward()
    assert within(logits.grad, torch.tensor([-0.61101289, -1.22202578]))
    assert enumerated_gradient(TWO_LOGITS, two_unit_loss)[1] > 0


GRID = torch.linspace(-4, 4, 9, dtype=torch.float64)
DRAWS = GRID.expand(100_000, 9)


def test_straight_through_is_on_with_probability_sigmoid():
    assert within(straight_through(DRAWS, generator=seeded()), torch.sigmoid(GRID))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8])
def test_sts_moments_and_gradient(ratio):
    p = torch.sigmoid(GRID)
    logits = DRAWS.clone().requires_grad_()
    h = stochastic_times_smooth(logits, stochastic_ratio=ratio, generator=seeded())
    assert within(h.detach() > 0, p**ratio)
    assert within(h.detach(), p)
    close(h.detach().amax(0), p ** (1 - ratio), atol=1e-12)
    h.sum().backward()
    assert within(logits.grad, (1 - ratio) * p * (1 - p))


def test_sts_preserves_the_mean_of_a_function_to_first_order():
    logits = torch.full((400_000,), -4.0, dtype=torch.float64)
    h = stochastic_times_smooth(logits, generator=seeded())
    assert within(h.exp(), 1.01924807)
    p = torch.sigmoid(logits[0])
    assert float(torch.exp(p)) == pytest.approx(1.01814894, abs=1e-8)
    # The two possible outputs, weighted by their probabilities.
    on = h.max()
    assert float((1 - p.sqrt()) + p.sqrt() * on.exp()) == pytest.approx(1.01924807, abs=1e-8)


def test_logistic_rectifier_has_the_moments_of_sigmoid_and_softplus():
    logits = DRAWS.clone().requires_grad_()
    h = noisy_rectifier(logits, generator=seeded())
    assert within(h.detach() > 0, torch.sigmoid(GRID))
    assert within(h.detach(), functional.softplus(GRID))
    h.sum().backward()
    assert torch.equal(logits.grad, (h.detach() > 0).double())


@pytest.mark.parametrize("scale", [0.8, 2.0])
def test_gaussian_rectifier_has_the_normal_distribution_s_moments(scale):
    logits = GRID[2:-2]  # further out nothing varies in a sample of this size
    h = noisy_rectifier(DRAWS[:, 2:-2], noise="gaussian", scale=scale, generator=seeded())
    standard = torch.distributions.Normal(0.0, 1.0)
    z = logits / scale
    assert within(h > 0, standard.cdf(z))
    assert within(h, logits * standard.cdf(z) + scale * standard.log_prob(z).exp())


def test_a_rectifier_without_noise_is_a_rectifier():
    for noise in ("logistic", "gaussian"):
        close(noisy_rectifier(GRID, noise=noise, scale=0), GRID.clamp(min=0))


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_generator_decides_all(unit):
    logits = normal(40, 5)
    before = torch.random.get_rng_state()
    first, again, other = (unit(logits, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    globally = unit(logits)
    torch.manual_seed(5)
    assert torch.equal(unit(logits), globally)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_units_keep_dtype_and_survive_extremes(unit, dtype):
    logits = torch.tensor([-300.0, -20.0, 0.0, 20.0, 300.0], dtype=dtype, requires_grad=True)
    h = unit(logits, generator=seeded())
    assert h.dtype == dtype
    assert h.isfinite().all()
    h.sum().backward()
    assert logits.grad.isfinite().all()


def test_half_precision_does_not_coarsen_the_share():
    logits = torch.full((400_000,), -7.0, dtype=torch.bfloat16)
    h = straight_through(logits, generator=seeded())
    assert within(h, torch.sigmoid(torch.tensor(-7.0)))


# -------------------------------------------------------------------------------------------------- layer


def build(estimator="straight_through", n_units=12, in_features=6, seed=0, **options):
    layer = ConditionalLayer(in_features, n_units, 4, estimator=estimator, generator=seeded(seed), **options)
    return layer.double()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_layer_is_its_gates_times_its_experts(estimator):
    x = normal(30, 6)
    layer, twin = build(estimator), build(estimator)
    logits = layer.gate_logits(x)
    hidden = layer.gater_hidden(x)
    hidden = hidden.relu() if estimator in RECTIFIERS else hidden.tanh()
    close(logits, hidden @ layer.gater_out.weight.T + layer.gater_out.bias, atol=1e-12)
    gates = layer.gates(x)
    close(twin(x), gates * layer.expert(x), atol=1e-12)  # the twin draws the same gates
    assert twin.active_fraction == float((gates != 0).double().mean())

    layer.eval().calibrate(x)
    p, on = torch.sigmoid(logits), logits > layer.threshold
    if estimator in DENSE:
        expected = p
    elif estimator in RECTIFIERS:
        expected = logits.clamp(min=0)
    else:
        expected = on * (p.sqrt() if estimator == "sts" else 1.0)
    close(layer.gates(x), expected, atol=1e-12)
    assert torch.equal(layer(x), layer(x))


def test_initial_weights_are_shared_and_as_wide_as_the_paper_s():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    layers = [ConditionalLayer(50, 80, 20, estimator=name, generator=seeded(9)) for name in ESTIMATORS]
    assert torch.equal(torch.random.get_rng_state(), before)
    for layer in layers:
        for part, gain in ((layer.expert, 1), (layer.gater_hidden, 1), (layer.gater_out, 4)):
            bound = gain * math.sqrt(6 / (part.in_features + part.out_features))
            assert 0.99 * bound < part.weight.abs().max() <= bound
            assert not part.bias.any()
        assert torch.equal(layer.gater_out.weight, layers[0].gater_out.weight)


@pytest.mark.parametrize("estimator", SPARSE)
@given(seed=st.integers(0, 1000), target=st.sampled_from([0.05, 0.1, 0.37, 0.9]))
@settings(max_examples=10, deadline=None)
def test_calibration_gives_the_share(estimator, seed, target):
    layer = build(estimator, seed=seed, sparsity_target=target).eval()
    x = normal(50, 6, seed=seed)
    assert layer.calibrate(x) == layer.threshold
    layer(x)
    assert layer.active_fraction == pytest.approx(target, abs=1 / (50 * 12))


@pytest.mark.parametrize("estimator", [*RECTIFIERS, *DENSE])
def test_calibration_leaves_the_others_alone(estimator):
    layer = build(estimator)
    before = layer.threshold
    assert layer.calibrate(normal(50, 6)) == before == (0.0 if estimator in RECTIFIERS else -math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [0, 1, 33])
def test_sparse_forward_equals_forward(estimator, n, dtype):
    layer = build(estimator, n_units=70).to(dtype).eval()
    with torch.no_grad():
        layer.expert.bias.uniform_(-1, 1)
    layer.calibrate(normal(100, 6).to(dtype))
    # Every second column, so that the input is not contiguous.
    x = normal(n, 12, seed=5).to(dtype)[:, ::2].requires_grad_()
    sparse = layer.sparse_forward(x)
    assert not sparse.requires_grad
    if n:
        assert layer.active_fraction == float((layer.gates(x) != 0).double().mean())
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(sparse, layer(x).detach(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_forward_does_not_read_idle_experts(dtype):
    layer = build(n_units=40).to(dtype).eval()
    x = normal(3, 6).to(dtype)
    layer.calibrate(x)
    expected = layer(x)
    idle = ~(layer.gates(x) != 0).any(0)
    assert 0 < idle.sum() < 40
    with torch.no_grad():
        layer.expert.weight[idle] = math.nan
    assert layer(x).isnan().any()
    torch.testing.assert_close(layer.sparse_forward(x), expected, atol=0.02, rtol=0.02)


def test_penalty_follows_its_definition():
    x, s = normal(20, 6), 0.3
    for estimator in SPARSE:
        layer = build(estimator, sparsity_target=s, penalty_weight=0.5)
        layer(x)
        p = torch.sigmoid(layer.gate_logits(x))
        q = (p.sqrt() if estimator == "sts" else p).mean(0)
        expected = -0.5 * (s * (q + 1e-6).log() + (1 - s) * (1 - q + 1e-6).log()).sum()
        close(layer.sparsity_penalty(), expected, atol=1e-9)
    for estimator in RECTIFIERS:
        layer = build(estimator, penalty_weight=0.5)
        noiseless = layer.eval().gates(x)
        layer(x)
        close(layer.sparsity_penalty(), 0.5 * noiseless.mean(0).sum(), atol=1e-9)
    for estimator in DENSE:
        layer = build(estimator)
        layer(x)
        assert layer.sparsity_penalty() == 0


@pytest.mark.parametrize("estimator", SPARSE)
def test_penalty_is_least_where_every_gate_is_on_as_often_as_it_should(estimator):
    layer = build(estimator, sparsity_target=0.2)
    with torch.no_grad():
        layer.gater_out.weight.zero_()
        q = 0.2**2 if estimator == "sts" else 0.2
        layer.gater_out.bias.fill_(math.log(q / (1 - q)))

    def penalty():
        layer(normal(4, 6))
        return layer.sparsity_penalty()

    least = penalty()
    least.backward()
    assert layer.gater_out.bias.grad.abs().max() < 1e-6
    for unit, step in itertools.product(range(3), (-0.3, 0.3)):
        with torch.no_grad():
            layer.gater_out.bias[unit] += step
        assert penalty() > least
        with torch.no_grad():
            layer.gater_out.bias[unit] -= step


def test_the_penalty_of_rectifiers_follows_their_share():
    layer = build("rectifier", n_units=100, penalty_weight=0.01)
    x = normal(10, 6)
    with torch.no_grad():
        layer.gater_out.weight.zero_()
    for share, factor in ((0.5, 1.2), (0.105, 1.0), (0.02, 0.8)):
        with torch.no_grad():
            layer.gater_out.bias.fill_(-1.0)[: round(100 * share)] = 1.0
        layer(x)
        layer.penalty_weight = 0.01
        layer.adapt_penalty(rate=0.2)
        assert layer.penalty_weight == pytest.approx(0.01 * factor)
    layer.penalty_weight = 1e-12
    layer.adapt_penalty()
    assert layer.penalty_weight == 1e-12
    others = build("straight_through", penalty_weight=0.01)
    others(x)
    others.adapt_penalty()
    assert others.penalty_weight == 0.01


def test_reinforce_gradient_of_the_gater_is_unbiased():
    layer = build("reinforce", n_units=3)
    x = normal(1, 6)
    outcomes = states(3)
    target = normal(3, seed=4)

    def loss(output):
        return (output.sum(1) - target.sum()) ** 2 + output[:, 0] * output[:, 2]

    expert = layer.expert(x).detach()
    p = torch.sigmoid(layer.gate_logits(x)[0])
    (state_probabilities(outcomes, p) * loss(outcomes * expert)).sum().backward()
    exact = layer.gater_out.bias.grad.clone()
    layer.baseline.update(outcomes, torch.full_like(outcomes, 0.5), loss(outcomes * expert).detach())

    estimates = []
    for _ in range(60):
        frozen = copy.deepcopy(layer.baseline.state_dict())
        layer.zero_grad()
        losses = loss(layer(x.expand(500, 6)))
        layer.reinforce_surrogate(losses).backward()
        assert layer.expert.weight.grad is None
        estimates.append(layer.gater_out.bias.grad.clone())
        assert not torch.equal(layer.baseline.numerator, frozen["numerator"])
        layer.baseline.load_state_dict(frozen)
    assert within(torch.stack(estimates), exact)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_which_parameters_the_loss_reaches(estimator):
    layer = build(estimator)
    layer(normal(40, 6)).square().sum().backward()
    assert layer.expert.weight.grad.any()
    assert (layer.gater_hidden.weight.grad is None) == (estimator == "reinforce")
    assert (layer.baseline is None) == (estimator != "reinforce")


def test_cost_of_one_example():
    layer = ConditionalLayer(784, 2000, 400)
    assert layer.multiply_adds(0.1) == (784 * 400 + 400 * 2000, 156_800)
    assert layer.multiply_adds(1) == (1_113_600, 784 * 2000)
    small = build().eval()
    x = normal(50, 6)
    small.calibrate(x)
    small(x)
    assert small.multiply_adds() == (6 * 4 + 4 * 12, round(small.active_fraction * 6 * 12))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_layer_in_training_can_be_copied_and_its_state_keeps_the_threshold(copied):
    layer = build("noisy_rectifier", penalty_weight=0.2)
    x = normal(5, 6)
    layer(x)
    twin = copied(layer)
    assert torch.equal(twin(x), layer(x))
    layer.threshold = 0.7
    other = build("noisy_rectifier", seed=8)
    other.load_state_dict(layer.state_dict())
    assert (other.threshold, other.penalty_weight) == (0.7, 0.2)
    assert torch.equal(other.eval()(x), layer.eval()(x))


# --------------------------------------------------------------------------------------------- classifier

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = DIGITS / 16


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_family_learns_digits(estimator):
    classifier = ConditionalClassifier(60, 20, estimator, batch_size=16, max_epochs=6, random_state=0)
    classifier.fit(DIGITS[:600], LABELS[:600])
    error = 1 - classifier.score(DIGITS[600:900], LABELS[600:900])
    assert error < 0.5  # chance is 0.9; six epochs are few for some
    assert classifier.train_loss_[-1] < classifier.train_loss_[0]
    probabilities = classifier.predict_proba(DIGITS[:5])
    assert probabilities.shape == (5, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    for part in (classifier.layer_.expert, classifier.layer_.gater_out, classifier.output_):
        assert part.weight.norm(dim=1).max() <= 2 + 1e-4
    if estimator in SPARSE:
        classifier.predict(DIGITS[:600])
        assert classifier.layer_.active_fraction == pytest.approx(0.1, abs=0.01)


def test_the_best_epoch_is_kept():
    """Half of these labels are random, so that the last epoch is not the best."""
    labels = LABELS[:200].copy()
    labels[::2] = np.random.default_rng(0).permutation(labels[::2])
    options = {"n_units": 40, "gater_features": 10, "random_state": 1, "learning_rate": 0.3}
    long = ConditionalClassifier(max_epochs=15, **options).fit(DIGITS[:200], labels)
    best = int(long.validation_error_.argmin())
    assert best < 14
    short = ConditionalClassifier(max_epochs=best + 1, **options).fit(DIGITS[:200], labels)
    np.testing.assert_array_equal(short.validation_error_, long.validation_error_[: best + 1])
    np.testing.assert_array_equal(short.predict_proba(DIGITS), long.predict_proba(DIGITS))
    assert short.layer_.threshold == long.layer_.threshold


def test_scikit_learn_accepts_the_classifier():
    check_estimator(
        ConditionalClassifier(n_units=30, gater_features=8, learning_rate=0.3, max_epochs=10, random_state=0)
    )


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, dtype=torch.int64), "logits must be floating point, got torch.int64"),
        (torch.tensor([0.0, math.nan]), "logits must be finite, got nan"),
        (torch.tensor([-math.inf, 0.0]), "logits must be finite, got -inf"),
    ],
)
def test_bad_logits_are_named(unit, logits, message):
    with pytest.raises(ValueError, match=message):
        unit(logits)


def bad_batch(samples=(4, 3), probabilities=(4, 3), losses=(4,), baseline=None):
    reinforce_gradient(torch.zeros(samples), torch.zeros(probabilities), torch.zeros(losses), baseline)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stochastic_times_smooth(GRID, stochastic_ratio=0), "stochastic_ratio .* got 0"),
        (lambda: stochastic_times_smooth(GRID, stochastic_ratio=1), "stochastic_ratio .* got 1"),
        (lambda: noisy_rectifier(GRID, noise="uniform"), "noise must be one of .* got 'uniform'"),
        (lambda: noisy_rectifier(GRID, scale=-1), "scale .* got -1"),
        (lambda: bad_batch(samples=(4,)), r"samples .* got \(4,\)"),
        (lambda: bad_batch(samples=(0, 3)), r"samples .* got \(0, 3\)"),
        (lambda: bad_batch(probabilities=(4, 2)), r"probabilities .* got \(4, 2\)"),
        (lambda: bad_batch(losses=(3,)), r"losses must have shape \(4,\), got \(3,\)"),
        (lambda: bad_batch(losses=(4, 1)), r"losses must have shape \(4,\), got \(4, 1\)"),
        (lambda: bad_batch(baseline=torch.zeros(4)), r"baseline .* \(3,\), got shape \(4,\)"),
        (lambda: optimal_baseline(*torch.zeros(3, 4, 2)), "losses"),
        (lambda: MinimumVarianceBaseline(0), "n_units .* got 0"),
        (lambda: MinimumVarianceBaseline(3, decay=1), "decay .* got 1"),
        (lambda: MinimumVarianceBaseline(3, decay=-0.1), "decay .* got -0.1"),
        (lambda: MinimumVarianceBaseline(3, eps=0), "eps .* got 0"),
        (
            lambda: MinimumVarianceBaseline(3).update(torch.ones(4, 2), torch.ones(4, 2), torch.ones(4)),
            "samples must have 3 units, got 2",
        ),
        (lambda: ConditionalLayer(0, 5, 2), "in_features .* got 0"),
        (lambda: ConditionalLayer(4, 0, 2), "n_units .* got 0"),
        (lambda: ConditionalLayer(4, 5, 0), "gater_features .* got 0"),
        (lambda: build("argmax"), "estimator must be one of .* got 'argmax'"),
        (lambda: build(sparsity_target=0), "sparsity_target .* got 0"),
        (lambda: build(sparsity_target=1), "sparsity_target .* got 1"),
        (lambda: build(penalty_weight=-1), "penalty_weight .* got -1"),
        (lambda: build(noise_scale=math.nan), "noise_scale .* got nan"),
        (lambda: build()(normal(3, 5)), r"x must have shape \(n, 6\), got \(3, 5\)"),
        (lambda: build().sparse_forward(normal(6)), r"x must have shape \(n, 6\), got \(6,\)"),
        (lambda: build().calibrate(normal(0, 6)), "x must hold at least one example"),
        (lambda: build().multiply_adds(1.5), "active_fraction .* got 1.5"),
        (lambda: build("rectifier").adapt_penalty(rate=1), "rate .* got 1"),
        (lambda: build("sts").reinforce_surrogate(torch.zeros(3)), "reinforce_surrogate .* got 'sts'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_needs_a_pass_says_so():
    layer = build("reinforce")
    for call in (layer.sparsity_penalty, layer.multiply_adds, lambda: layer.reinforce_surrogate(GRID)):
        with pytest.raises(RuntimeError, match="forward pass first"):
            call()
    layer.eval()(normal(3, 6))
    with pytest.raises(RuntimeError, match="training mode"):
        layer.reinforce_surrogate(torch.zeros(3))
    layer.train()(normal(3, 6))
    with pytest.raises(ValueError, match="losses must have shape"):
        layer.reinforce_surrogate(torch.zeros(4))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_units", 0),
        ("gater_features", 0),
        ("estimator", "argmax"),
        ("sparsity_target", 1.0),
        ("penalty_weight", -1.0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("gater_learning_rate_scale", 0.0),
        ("max_norm", -1.0),
        ("batch_size", 0),
        ("max_epochs", 0),
        ("validation_fraction", 1.0),
    ],
)
def test_bad_classifiers_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* got {value!r}"):
        ConditionalClassifier(**{name: value}).fit(DIGITS[:20], LABELS[:20])


def test_a_classifier_refuses_bad_data():
    broken = DIGITS[:20].copy()
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        ConditionalClassifier().fit(broken, LABELS[:20])
    with pytest.raises(NotFittedError):
        ConditionalClassifier().predict(DIGITS[:5])
