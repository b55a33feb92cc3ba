"""Batch size and curvature: closed forms, dense matrices, and what the rates do on quadratics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from assay.networks.batch_size_rates import (
    SpectralRateLearner,
    batch_ggn_extreme,
    batch_hessian_extreme,
    curvature_operator,
    effective_batch_size,
    hessian_noise_variance,
    lanczos_spectrum,
    maximal_learning_rate,
    optimal_rates,
    scale_learning_rate,
)

POSITIVE = st.floats(1e-3, 1e3)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classifier(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(seed=0):
    return random(7, 4, seed=seed), torch.arange(7) % 3


def flat_function(model, inputs):
    """Outputs as a function of the flat vector of parameters, and that vector."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    sizes = [shape.numel() for shape in shapes]

    def outputs(vector):
        pieces = [piece.view(shape) for piece, shape in zip(vector.split(sizes), shapes, strict=True)]
        return torch.func.functional_call(model, dict(zip(names, pieces, strict=True)), (inputs,))

    return outputs, torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def dense(model, loss_fn, inputs, targets, curvature):
    outputs, at = flat_function(model, inputs)
    if curvature == "hessian":
        return torch.autograd.functional.hessian(lambda vector: loss_fn(outputs(vector), targets), at)
    jacobian = torch.autograd.functional.jacobian(outputs, at).flatten(0, -2)
    logits = outputs(at)
    bend = torch.autograd.functional.hessian(lambda z: loss_fn(z, targets), logits)
    return jacobian.T @ bend.reshape(logits.numel(), -1) @ jacobian


def columns(operator):
    return torch.stack([operator(e) for e in torch.eye(operator.dim, dtype=torch.float64)], dim=1)


# --- Laws ---------------------------------------------------------------------------------------------


def test_laws_at_values_worked_by_hand():
    assert effective_batch_size(25, 100) == pytest.approx(100 / 3)
    assert effective_batch_size(25) == 25
    assert batch_hessian_extreme(2.5, noise_variance=30, batch_size=20) == pytest.approx(3.1)
    assert batch_hessian_extreme(2.5, noise_variance=30, batch_size=4) == pytest.approx(math.sqrt(30))
    assert batch_hessian_extreme(-1.5, noise_variance=20, batch_size=50, n_samples=400) == pytest.approx(
        -1.5 - 20 * 7 / 400 / 1.5
    )
    assert batch_ggn_extreme(3, bulk_variance=0.4, n_parameters=200, batch_size=400) == pytest.approx(
        3 * (1 + 0.2 / 2.6)
    )
    assert optimal_rates(9, 1) == pytest.approx((0.25, 0.25))
    assert maximal_learning_rate(4.0, momentum=0.9) == pytest.approx(0.95)


def test_effective_batch_size_is_the_inverse_variance_of_a_mean_without_replacement():
    values = np.random.default_rng(0).normal(size=50)
    orders = np.argsort(np.random.default_rng(1).random((40_000, 50)), axis=1)
    for size in (5, 20, 45):
        means = values[orders[:, :size]].mean(axis=1)
        assert means.var() * effective_batch_size(size, 50) == pytest.approx(values.var(ddof=1), rel=0.03)


@given(POSITIVE, POSITIVE, st.integers(1, 100), st.integers(1, 100))
def test_all_samples_show_the_full_extremes(eigenvalue, variance, batch_size, more):
    whole = {"batch_size": batch_size, "n_samples": batch_size}
    assert batch_hessian_extreme(-eigenvalue, noise_variance=variance, **whole) == -eigenvalue
    assert batch_ggn_extreme(
        eigenvalue, bulk_variance=eigenvalue / (1 + variance), n_parameters=more, **whole
    ) == pytest.approx(eigenvalue)


@given(POSITIVE, st.integers(1, 1000), st.integers(1, 10_000))
def test_laws_are_continuous_where_the_outlier_meets_the_noise(scale, batch_size, n_parameters):
    for tiny in (1 - 1e-9, 1 + 1e-9):
        at_radius = batch_hessian_extreme(
            scale * tiny, noise_variance=scale**2 * batch_size, batch_size=batch_size
        )
        assert at_radius == pytest.approx(2 * scale, rel=1e-6)
        root = math.sqrt(n_parameters / batch_size)
        at_edge = batch_ggn_extreme(
            scale * (1 + root) * tiny,
            bulk_variance=scale,
            n_parameters=n_parameters,
            batch_size=batch_size,
        )
        assert at_edge == pytest.approx(scale * (1 + root) ** 2, rel=1e-6)


@given(POSITIVE, POSITIVE, st.integers(1, 999), st.booleans())
def test_batches_enlarge_extremes_and_less_as_they_grow(eigenvalue, variance, batch_size, negative):
    sign = -1 if negative else 1

    def magnitude(size):
        extreme = batch_hessian_extreme(
            sign * eigenvalue, noise_variance=variance, batch_size=size, n_samples=1000
        )
        return sign * extreme

    def ggn(size):
        return batch_ggn_extreme(
            eigenvalue, bulk_variance=variance, n_parameters=500, batch_size=size, n_samples=1000
        )

    for law in (magnitude, ggn):
        assert law(batch_size) >= law(batch_size + 1) * (1 - 1e-12)
        assert law(batch_size + 1) >= eigenvalue * (1 - 1e-12)


@pytest.mark.parametrize("batch_size", [20, 2])
def test_laws_meet_matrices_that_fit_them(batch_size):
    rng = np.random.default_rng(0)
    size, variance = 800, 30.0
    noise = rng.normal(size=(size, size))
    hessian = (noise + noise.T) * math.sqrt(variance / batch_size / (2 * size))
    hessian[0, 0] += 2.5
    hessian[1, 1] -= 3.5
    low, high = np.linalg.eigvalsh(hessian)[[0, -1]]
    for eigenvalue, measured in ((2.5, high), (-3.5, low)):
        predicted = batch_hessian_extreme(eigenvalue, noise_variance=variance, batch_size=batch_size)
        assert measured == pytest.approx(predicted, rel=0.04)


@pytest.mark.parametrize("spike", [3.0, 0.5])
def test_ggn_law_meets_sample_covariances(spike):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(400, 800)) * math.sqrt(0.4)
    samples[:, 0] *= math.sqrt(spike / 0.4)
    measured = np.linalg.eigvalsh(samples @ samples.T / 400)[-1]
    predicted = batch_ggn_extreme(spike, bulk_variance=0.4, n_parameters=800, batch_size=400)
    assert measured == pytest.approx(predicted, rel=0.1)


# --- Rates --------------------------------------------------------------------------------------------


@given(POSITIVE, st.integers(1, 100), st.integers(1, 100), st.sampled_from(["sgd", "adam"]))
def test_scaling_there_and_back_changes_nothing(rate, small, large, optimizer):
    there = scale_learning_rate(rate, from_batch=small, to_batch=large, optimizer=optimizer)
    back = scale_learning_rate(there, from_batch=large, to_batch=small, optimizer=optimizer)
    assert back == pytest.approx(rate)


def heavy_ball(curvatures, learning_rate, momentum, steps):
    x, velocity = np.ones_like(curvatures), np.zeros_like(curvatures)
    for _ in range(steps):
        velocity = momentum * velocity - learning_rate * curvatures * x
        x = x + velocity
    return np.abs(x).max()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_gradient_descent_is_stable_just_below_the_maximal_rate_only(momentum):
    curvatures = np.array([0.1, 2.0, 5.0])
    limit = maximal_learning_rate(5.0, momentum=momentum)
    assert heavy_ball(curvatures, 0.98 * limit, momentum, 3000) < 0.1
    assert heavy_ball(curvatures, 1.02 * limit, momentum, 3000) > 10


@given(POSITIVE, st.floats(1, 1e3))
def test_optimal_rates_contract_every_curvature_by_the_root_of_the_momentum(smallest, condition):
    rate, momentum = optimal_rates(smallest * condition, smallest)
    assert rate <= maximal_learning_rate(smallest * condition, momentum=momentum) + 1e-12
    for curvature in (smallest, smallest * math.sqrt(condition), smallest * condition):
        # A step takes (x, velocity) to this matrix times it.
        step = [[1 - rate * curvature, momentum], [-rate * curvature, momentum]]
        spectral_radius = np.abs(np.linalg.eigvals(step)).max()
        # At the two ends both eigenvalues meet, where they are found to half the digits only.
        assert spectral_radius == pytest.approx(math.sqrt(momentum), abs=1e-6)


# --- Curvature ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
@pytest.mark.parametrize("loss_fn", [functional.cross_entropy, lambda z, y: z.square().mean() + z[0, 0] ** 3])
def test_operators_are_the_dense_matrices(curvature, loss_fn):
    model, (inputs, targets) = classifier(), batch()
    operator = curvature_operator(model, loss_fn, inputs, targets, curvature=curvature)
    expected = dense(model, loss_fn, inputs, targets, curvature)
    assert operator.dim == len(expected)
    assert operator.loss == pytest.approx(loss_fn(model(inputs), targets).item())
    torch.testing.assert_close(columns(operator), expected, atol=1e-10, rtol=1e-8)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_ggn_is_the_hessian_of_a_linear_model_and_never_negative():
    linear, (inputs, targets) = nn.Linear(4, 3).double(), batch()
    hessian, ggn = (
        columns(curvature_operator(linear, functional.cross_entropy, inputs, targets, curvature=curvature))
        for curvature in ("hessian", "ggn")
    )
    torch.testing.assert_close(ggn, hessian, atol=1e-12, rtol=1e-8)
    deep = columns(
        curvature_operator(classifier(), functional.cross_entropy, inputs, targets, curvature="ggn")
    )
    assert torch.linalg.eigvalsh(deep).min() > -1e-12
    assert torch.linalg.eigvalsh(dense(classifier(), functional.cross_entropy, *batch(), "hessian")).min() < 0


def test_single_precision_parameters_take_double_vectors():
    inputs, targets = batch()
    operator = curvature_operator(
        classifier(torch.float32), functional.cross_entropy, inputs.float(), targets
    )
    vector = random(operator.dim)
    product = operator(vector)
    assert product.dtype == torch.float64
    exact = curvature_operator(classifier(), functional.cross_entropy, inputs, targets)(vector)
    torch.testing.assert_close(product, exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_frozen_unused_and_flat_parameters(curvature):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.frozen, self.unused = (nn.Linear(4, 3).double() for _ in range(3))
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(x) + self.frozen(x)

    model, (inputs, targets) = Partly(), batch()
    operator = curvature_operator(model, functional.cross_entropy, inputs, targets, curvature=curvature)
    assert operator.dim == 2 * 15
    alone = columns(operator)
    expected = dense(
        model.used, lambda z, y: functional.cross_entropy(z + model.frozen(inputs), y), inputs, targets, "ggn"
    )
    torch.testing.assert_close(alone[:15, :15], expected, atol=1e-10, rtol=1e-8)
    assert not alone[15:].any()
    assert not alone[:, 15:].any()
    flat = curvature_operator(model.used, lambda z, y: z.sum(), inputs, targets, curvature=curvature)
    assert not columns(flat).any()


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_a_network_with_convolutions_and_batch_norm_is_left_as_it_was(curvature):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Softplus(), nn.Flatten(), nn.Linear(18, 3)
    ).double()
    inputs, targets = random(6, 1, 5, 5), torch.arange(6) % 3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    operator = curvature_operator(model, functional.cross_entropy, inputs, targets, curvature=curvature)
    matrix = columns(operator)
    torch.testing.assert_close(matrix, matrix.T, atol=1e-12, rtol=1e-8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    torch.testing.assert_close(
        matrix, dense(model, functional.cross_entropy, inputs, targets, curvature), atol=1e-10, rtol=1e-8
    )


def test_works_where_gradients_are_off():
    with torch.no_grad():
        operator = curvature_operator(classifier(), functional.cross_entropy, *batch())
        assert operator(random(operator.dim)).any()


@pytest.mark.parametrize("batch_size", [1, 15])
def test_noise_variance_of_least_squares(batch_size):
    inputs, model = random(20, 3), nn.Linear(3, 1, bias=False).double()
    targets = torch.zeros(20, 1, dtype=torch.float64)
    matrices = 2 * inputs[:, :, None] * inputs[:, None, :]
    expected = (matrices - matrices.mean(0)).square().sum() / (19 * 3)
    measured = hessian_noise_variance(
        model,
        functional.mse_loss,
        inputs,
        targets,
        batch_size=batch_size,
        n_pairs=500,
        generator=torch.Generator().manual_seed(0),
    )
    assert measured == pytest.approx(float(expected), rel=0.15)


# --- Spectrum -----------------------------------------------------------------------------------------


def symmetric(size, seed=0):
    matrix = random(size, size, seed=seed)
    return matrix + matrix.T


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
def test_moments_are_exact_to_twice_the_steps(size, steps, seed):
    steps = min(size, steps)
    matrix = symmetric(size, seed)
    matrix /= torch.linalg.matrix_norm(matrix, 2)
    start = random(size, seed=seed + 1)
    spectrum = lanczos_spectrum(lambda v: matrix @ v, size, steps, start=start)
    assert spectrum.weights.sum() == pytest.approx(1)
    assert (spectrum.weights >= 0).all()
    vector = moment = start / start.norm()
    for degree in range(2 * steps):
        quadrature = spectrum.weights @ spectrum.ritz_values**degree
        assert quadrature == pytest.approx(float(vector @ moment), abs=1e-10)
        moment = matrix @ moment


def test_all_steps_give_all_eigenvalues_and_few_the_extremes():
    matrix = symmetric(120)
    expected = torch.linalg.eigvalsh(matrix).numpy()
    generator = torch.Generator().manual_seed(0)
    every = lanczos_spectrum(lambda v: matrix @ v, 120, 120, generator=generator)
    np.testing.assert_allclose(every.ritz_values, expected, atol=1e-8)
    few = lanczos_spectrum(lambda v: matrix @ v, 120, 40, generator=generator)
    np.testing.assert_allclose(few.ritz_values[[0, -1]], expected[[0, -1]], rtol=1e-3)


def test_no_eigenvalue_appears_twice_when_outliers_have_converged():
    # Without orthogonalisation, outliers come back as ghosts after some twenty steps.
    diagonal = torch.cat((torch.linspace(0, 1, 298, dtype=torch.float64), torch.tensor([50.0, 100.0])))
    ritz = lanczos_spectrum(lambda v: diagonal * v, 300, 100, start=torch.ones(300)).ritz_values
    assert (ritz > 2).sum() == 2


def test_stops_when_the_matrix_is_exhausted():
    diagonal = torch.tensor([1.0] * 20 + [3.0] * 5, dtype=torch.float64)
    spectrum = lanczos_spectrum(lambda v: diagonal * v, 25, 25, start=torch.ones(25))
    np.testing.assert_allclose(spectrum.ritz_values, [1, 3])
    np.testing.assert_allclose(spectrum.weights, [0.8, 0.2])
    zero = lanczos_spectrum(torch.zeros_like, 25, 25)
    assert zero.ritz_values.tolist() == [0]


# --- Learner ------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """One output that is the mean of curvature times parameter squared over two."""

    def __init__(self, curvatures):
        super().__init__()
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)
        self.x = nn.Parameter(torch.ones_like(self.curvatures))

    def forward(self, inputs):
        return inputs * (self.curvatures.sqrt() * self.x)


def half_square(outputs, targets):
    return outputs.square().sum() / 2


def learner_of(model, lr=1.0, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.3)
    return SpectralRateLearner(optimizer, generator=torch.Generator().manual_seed(0), **options)


ONE, NONE = torch.ones(1, dtype=torch.float64), None


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_rates_on_a_quadratic_are_the_optimal_ones(curvature):
    model = Quadratic([0.5] * 6 + [2.0])
    learner = learner_of(model, n_lanczos=2, safety=1.0, curvature=curvature)
    rates = learner.step(model, half_square, ONE, NONE)
    # The bulk, at 0.5, has the larger weight.
    assert (rates.largest, rates.smallest) == pytest.approx((2.0, 0.5))
    assert (rates.learning_rate, rates.momentum) == pytest.approx(optimal_rates(2.0, 0.5))
    (group,) = learner.optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (rates.learning_rate, rates.momentum)


def test_limits_on_growth_momentum_floor_and_forgetting():
    model = Quadratic([1e-6] * 6 + [2.0])
    learner = learner_of(model, lr=1e-3, n_lanczos=2, max_momentum=0.6, memory=0.5)
    rates = learner.step(model, half_square, ONE, NONE)
    assert rates.learning_rate == pytest.approx(1.2e-3)
    assert rates.smallest == pytest.approx(0.01 * rates.largest)
    assert rates.momentum == 0.6
    half = math.sqrt(0.5)
    assert learner.step(model, half_square, ONE * half * half, NONE).largest == pytest.approx(1.0)
    assert learner.step(model, half_square, ONE * 3, NONE).largest == pytest.approx(18.0)
    assert learner.step(model, half_square, ONE, NONE).largest == pytest.approx(9.0)


def test_negative_curvature_counts_by_its_magnitude():
    model = Quadratic([1.0, 1.0, 4.0])
    learner = learner_of(model, n_lanczos=2, curvature="hessian")
    rates = learner.step(model, lambda outputs, _: -half_square(outputs, None), ONE, NONE)
    assert rates.largest == pytest.approx(4.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_a_loss_that_is_not_finite_halves_the_learning_rate(value, curvature):
    model = Quadratic([1.0, 2.0])
    learner = learner_of(model, n_lanczos=2, curvature=curvature)
    with pytest.warns(RuntimeWarning, match="not finite"):
        rates = learner.step(model, half_square, ONE * value, NONE)
    assert rates[:2] == (0.5, 0.3)
    assert math.isnan(rates.largest)
    assert learner.optimizer.param_groups[0]["lr"] == 0.5
    assert learner.step(model, half_square, ONE, NONE).largest == pytest.approx(2.0)


def test_curvature_that_is_not_finite_halves_the_learning_rate():
    model = Quadratic([1.0, 2.0])
    with torch.no_grad():
        model.x.zero_()
    learner = learner_of(model, n_lanczos=2)
    with pytest.warns(RuntimeWarning, match="not finite"):
        rates = learner.step(model, lambda outputs, _: outputs.abs().pow(1.5).sum(), ONE, NONE)
    assert rates.learning_rate == 0.5


def test_no_curvature_keeps_the_rates():
    model = Quadratic([1.0, 2.0])
    learner = learner_of(model, n_lanczos=2)
    assert learner.step(model, lambda outputs, _: outputs.sum(), ONE, NONE) == (1.0, 0.3, 0.0, 0.0)


# --- Bad input ----------------------------------------------------------------------------------------


def sgd(**options):
    return torch.optim.SGD([nn.Parameter(torch.ones(3))], **{"lr": 0.1, **options})


def noise_of(n_targets=4, **options):
    return hessian_noise_variance(
        nn.Linear(2, 1),
        functional.mse_loss,
        torch.ones(4, 2),
        torch.ones(n_targets, 1),
        **{"batch_size": 2, **options},
    )


def operator_of(model=None, loss_fn=functional.cross_entropy, **options):
    return curvature_operator(model or classifier(), loss_fn, *batch(), **options)


BAD = {
    "batch_size must be an integer of at least 1, got 0": lambda: effective_batch_size(0),
    "batch_size must be an integer of at least 1, got 2.5": lambda: effective_batch_size(2.5),
    "batch_size must be at most n_samples=3, got 4": lambda: effective_batch_size(4, 3),
    "eigenvalue must be finite and not 0": lambda: batch_hessian_extreme(0, noise_variance=1, batch_size=1),
    "noise_variance must be a number of at least 0": lambda: batch_hessian_extreme(
        1, noise_variance=-1, batch_size=1
    ),
    "eigenvalue must be a number of at least 0": lambda: batch_ggn_extreme(
        -1, bulk_variance=1, n_parameters=1, batch_size=1
    ),
    "bulk_variance must be a number of at least 0": lambda: batch_ggn_extreme(
        1, bulk_variance=-1, n_parameters=1, batch_size=1
    ),
    "n_parameters must be an integer": lambda: batch_ggn_extreme(
        1, bulk_variance=1, n_parameters=0, batch_size=1
    ),
    "eigenvalue must be a positive number": lambda: maximal_learning_rate(0),
    r"momentum must be in \[0, 1\), got 1": lambda: maximal_learning_rate(1, momentum=1),
    "learning_rate must be a positive number": lambda: scale_learning_rate(0, from_batch=1, to_batch=1),
    "to_batch must be an integer": lambda: scale_learning_rate(1, from_batch=1, to_batch=0),
    "optimizer must be 'sgd' or 'adam'": lambda: scale_learning_rate(
        1, from_batch=1, to_batch=1, optimizer="lion"
    ),
    "smallest must be a positive number": lambda: optimal_rates(1, 0),
    "largest must be finite and at least": lambda: optimal_rates(1, 2),
    "n_steps must be an integer of at least 1": lambda: lanczos_spectrum(torch.clone, 3, 0),
    "n_steps must be at most dim=3": lambda: lanczos_spectrum(torch.clone, 3, 4),
    r"start must have shape \(3,\)": lambda: lanczos_spectrum(torch.clone, 3, 2, start=torch.ones(2)),
    "start must be a finite vector other than 0": lambda: lanczos_spectrum(
        torch.clone, 3, 2, start=torch.zeros(3)
    ),
    "matvec must return finite numbers": lambda: lanczos_spectrum(lambda v: v * math.nan, 3, 2),
    "matvec must return shape": lambda: lanczos_spectrum(lambda v: v[:2], 3, 2),
    "curvature must be 'hessian' or 'ggn'": lambda: operator_of(curvature="fisher"),
    "model must have parameters": lambda: operator_of(nn.Flatten()),
    "loss_fn must return a scalar": lambda: operator_of(loss_fn=lambda z, y: z),
    r"vector must have shape \(43,\), got \(3,\)": lambda: operator_of()(torch.ones(3)),
    "batch_size must be below the number of samples, 4": lambda: noise_of(batch_size=4),
    "n_pairs must be an integer": lambda: noise_of(n_pairs=0),
    "targets must be as many as inputs": lambda: noise_of(n_targets=3),
    "optimizer must be a torch.optim.SGD, got Adam": lambda: SpectralRateLearner(
        torch.optim.Adam([nn.Parameter(torch.ones(3))])
    ),
    "no Nesterov": lambda: SpectralRateLearner(sgd(momentum=0.9, nesterov=True)),
    "no dampening": lambda: SpectralRateLearner(sgd(momentum=0.9, dampening=0.5)),
    "optimizer's learning rate must be positive": lambda: SpectralRateLearner(sgd(lr=0.0)),
    "n_lanczos must be an integer": lambda: SpectralRateLearner(sgd(), n_lanczos=0),
    "curvature must be": lambda: SpectralRateLearner(sgd(), curvature="fisher"),
    "safety must be": lambda: SpectralRateLearner(sgd(), safety=0),
    "max_growth must be": lambda: SpectralRateLearner(sgd(), max_growth=0.9),
    "max_momentum must be": lambda: SpectralRateLearner(sgd(), max_momentum=1),
    "relative_floor must be": lambda: SpectralRateLearner(sgd(), relative_floor=0),
    "memory must be": lambda: SpectralRateLearner(sgd(), memory=1.1),
    "n_lanczos must be at most operator.dim=2": lambda: learner_of(Quadratic([1.0, 2.0])).step(
        Quadratic([1.0, 2.0]), half_square, ONE, NONE
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_named(sentence):
    with pytest.raises(ValueError, match=sentence):
        BAD[sentence]()
