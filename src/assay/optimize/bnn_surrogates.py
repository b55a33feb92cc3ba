"""Bayesian neural networks, and what stands beside them, as surrogates for Bayesian optimisation.

Li, Rudner and Wilson, "A Study of Bayesian Neural Network Surrogates for Bayesian Optimization" (2023),
arXiv 2305.20028.

Every surrogate is a botorch `Model` with a `fit`, so that any acquisition function of botorch works on it.
Four are a network f_θ of finite width with prior θ ~ N(0, prior_variance I) and likelihood
y ~ N(f_θ(x), noise_variance) on standardised outputs, and differ in how they infer θ:

    log p(θ | X, y) = -|f_θ(X) - y|² / (2 noise_variance) - |θ|² / (2 prior_variance) + const.

Three are Gaussian processes: of a network of infinite width, of features that a network learns, and plain.
Inputs are taken to be scaled to [0, 1]; outputs are standardised within and predictions mapped back.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

try:
    from botorch.acquisition.logei import qLogExpectedImprovement
    from botorch.acquisition.objective import PosteriorTransform
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.gp_regression import SingleTaskGP
    from botorch.models.model import Model
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.models.utils.gpytorch_modules import (
        get_gaussian_likelihood_with_gamma_prior,
        get_matern_kernel_with_gamma_prior,
    )
    from botorch.optim.optimize import optimize_acqf
    from botorch.posteriors.ensemble import EnsemblePosterior
    from botorch.posteriors.gpytorch import GPyTorchPosterior
    from botorch.posteriors.posterior import Posterior
    from botorch.posteriors.torch import TorchPosterior
    from botorch.sampling.get_sampler import get_sampler
    from botorch.utils.sampling import draw_sobol_samples
    from gpytorch.constraints import GreaterThan
    from gpytorch.distributions import MultivariateNormal
    from gpytorch.kernels import Kernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import GammaPrior
except ImportError as error:
    raise ImportError("the surrogates need botorch: pip install 'assay[optimize]'") from error

Activation = Literal["tanh", "relu"]
KernelActivation = Literal["relu", "erf"]

_ACTIVATIONS = ("tanh", "relu")
_KERNEL_ACTIVATIONS = ("relu", "erf")
_LEAST_NOISE = 1e-4  # of a Gaussian process, in units of the standardised outputs; as botorch has it
_JITTER = 1e-8  # share of the prior variance that keeps the covariance of repeated points definite
_GAUSS_NEWTON_STEPS = 50
_POSTERIOR_SAMPLES = 128  # that estimate an acquisition function


# ---------------------------------------------------------------------------------------------- the input


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value!r}")


def _require_counts(least: int, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, Integral) or int(value) < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _require_burn_in(n_burn_in: int, n_steps: int) -> None:
    if n_burn_in >= n_steps:
        raise ValueError(f"n_burn_in must be less than n_steps = {n_steps}, got {n_burn_in}")


def _require_hidden(hidden: Sequence[int]) -> None:
    if not all(isinstance(width, Integral) and int(width) >= 1 for width in hidden):
        raise ValueError(f"hidden must hold widths of at least 1, got {tuple(hidden)!r}")


def _finite_matrix(name: str, value: Tensor) -> Tensor:
    matrix = torch.as_tensor(value).detach().to(torch.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {tuple(matrix.shape)}")
    if not bool(matrix.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    return matrix


def _make_generator(seed: int | None, device: torch.device | None = None) -> torch.Generator:
    generator = torch.Generator(device or "cpu")
    if seed is None:
        generator.seed()
        return generator
    return generator.manual_seed(seed)


def _randn_like(values: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(values.shape, generator=generator, dtype=values.dtype, device=values.device)


# -------------------------------------------------------------------------------------------- the network


class _Network:
    """S perceptrons at once, their parameters the rows of an (S, P) tensor; linear in the last layer.

    A gradient takes a few fused operations on views of that tensor: autograd and modules cost more than the
    arithmetic at these sizes.
    """

    def __init__(self, sizes: Sequence[int], activation: str) -> None:
        self.shapes = list(itertools.pairwise(sizes))
        self.tanh = activation == "tanh"
        self._lengths = [length for n_in, n_out in self.shapes for length in (n_in * n_out, n_out)]
        self.n_parameters = sum(self._lengths)

    def draw_initial(self, n_networks: int, generator: torch.Generator) -> Tensor:
        """(S, P), every parameter uniform within one over the root of its layer's inputs."""
        reach = [n_in**-0.5 for n_in, _ in self.shapes for _ in range(2)]
        bounds = torch.tensor(reach, dtype=torch.float64).repeat_interleave(torch.tensor(self._lengths))
        shape = (n_networks, self.n_parameters)
        draws = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return (2 * draws - 1) * bounds.to(draws.device)

    def layers(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights (S, n_in, n_out) and biases (S, 1, n_out), as views."""
        pieces = torch.split(parameters, self._lengths, dim=1)
        return [
            (weights.view(-1, n_in, n_out), bias.unsqueeze(1))
            for weights, bias, (n_in, n_out) in zip(pieces[::2], pieces[1::2], self.shapes, strict=True)
        ]

    def activate(self, values: Tensor) -> Tensor:
        return values.tanh() if self.tanh else values.relu()

    def forward(self, layers: list[tuple[Tensor, Tensor]], X: Tensor) -> list[Tensor]:
        """From X (S, n, d) what enters each layer, and the output (S, n, m) last."""
        values = [X]
        for i, (weights, bias) in enumerate(layers):
            if i:
                values[i] = self.activate(values[i])
            values.append(torch.baddbmm(bias, values[i], weights))
        return values

    def backward(
        self, layers: list[tuple[Tensor, Tensor]], values: list[Tensor], delta: Tensor
    ) -> list[Tensor]:
        """Gradients in what leaves each layer, first layer first, from that in the output (S, n, m)."""
        deltas = [delta]
        for (weights, _), entering in zip(layers[:0:-1], values[-2:0:-1], strict=True):
            delta = torch.bmm(deltas[-1], weights.transpose(1, 2))
            # The fused slopes of tanh and relu, from what they gave.
            if self.tanh:
                deltas.append(torch.ops.aten.tanh_backward(delta, entering))
            else:
                deltas.append(torch.ops.aten.threshold_backward(delta, entering, 0))
        return deltas[::-1]

    def parameter_gradient(
        self, layers: list[tuple[Tensor, Tensor]], values: list[Tensor], delta: Tensor
    ) -> Tensor:
        """Gradient (S, P) in the parameters from that in the output (S, n, m)."""
        pieces = []
        for entering, leaving in zip(values, self.backward(layers, values, delta), strict=False):
            pieces += [torch.bmm(entering.transpose(1, 2), leaving).flatten(1), leaving.sum(dim=1)]
        return torch.cat(pieces, dim=1)

    def linearise(self, parameters: Tensor, X: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Of one network (1, P) of one output, at X (n, d): outputs (n,), and for each layer what enters it
        with the output's gradient in what leaves it.

        The Jacobian in a layer's weights is the outer product of the two.
        """
        layers = self.layers(parameters)
        values = self.forward(layers, X[None])
        deltas = self.backward(layers, values, torch.ones_like(values[-1]))
        features = [(value[0], delta[0]) for value, delta in zip(values, deltas, strict=False)]
        return values[-1].flatten(), features

    def __call__(self, parameters: Tensor, X: Tensor) -> Tensor:
        """Outputs (S, n, m) of S networks, or (n, m) of one whose parameters are (P,), at X (n, d)."""
        if parameters.ndim == 1:
            return self(parameters[None], X)[0]
        return self.forward(self.layers(parameters), X.expand(len(parameters), *X.shape))[-1]


def _tangent_kernel(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Inner products of Jacobians in all weights and biases: (…, N, M)."""
    total = torch.zeros((), dtype=torch.float64, device=one[0][0].device)
    for (value, delta), (other_value, other_delta) in zip(one, other, strict=True):
        total = total + (delta @ other_delta.mT) * (value @ other_value.mT + 1)
    return total


class _Adam:
    """Adam on tensors in place. That of torch takes as long again, and seconds to load."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._states = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self._n_steps = 0

    @torch.no_grad()
    def ascend(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        self._n_steps += 1
        rate = learning_rate / (1 - 0.9**self._n_steps)
        unbias = math.sqrt(1 - 0.999**self._n_steps)
        for (parameter, first, second), gradient in zip(self._states, gradients, strict=True):
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            parameter.addcdiv_(first, second.sqrt().div_(unbias).add_(1e-8), value=rate)


@dataclass(frozen=True)
class _LogPosterior:
    """Log posterior of S networks, up to a constant, at data (S, n, d) and (S, n, m)."""

    network: _Network
    X: Tensor
    Y: Tensor
    prior_variance: float
    noise_variance: float

    def residual_and_gradient(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.network.layers(parameters)
        values = self.network.forward(layers, self.X)
        residual = self.Y - values[-1]
        gradient = self.network.parameter_gradient(layers, values, residual / self.noise_variance)
        return residual, gradient.sub_(parameters, alpha=1 / self.prior_variance)

    def value_and_gradient(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Of a single network with parameters (P,)."""
        residual, gradient = self.residual_and_gradient(parameters[None])
        misfit = residual.flatten().dot(residual.flatten()) / self.noise_variance
        return -0.5 * (misfit + parameters.dot(parameters) / self.prior_variance), gradient[0]

    def maximise(self, parameters: Tensor, n_steps: int, learning_rate: float, anneal: bool) -> Tensor:
        """Adam from (S, P); annealed, its rate falls to 0 along half a cosine."""
        parameters = parameters.clone()
        adam = _Adam([parameters])
        for step in range(n_steps):
            rate = learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / n_steps) if anneal else 1)
            adam.ascend([self.residual_and_gradient(parameters)[1]], rate)
        return parameters

    def climb(self, parameters: Tensor) -> Tensor:
        """Gauss-Newton steps of one network from (1, P), halved until they gain, to the maximum.

        The step is that to the maximum of the linearised model, found among the n functions rather than the
        P parameters.
        """
        height = self.value_and_gradient(parameters[0])[0]
        ridge = self.noise_variance / self.prior_variance
        for _ in range(_GAUSS_NEWTON_STEPS):
            outputs, features = self.network.linearise(parameters, self.X[0])
            gram = _tangent_kernel(features, features)
            gram.diagonal().add_(ridge)
            target = self.Y[0, :, 0] - outputs
            for (weights, bias), (value, delta) in zip(
                self.network.layers(parameters), features, strict=True
            ):
                target = target + (delta * torch.addmm(bias[0], value, weights[0])).sum(dim=1)
            dual = torch.cholesky_solve(target[:, None], torch.linalg.cholesky(gram))
            pieces = [(value.T @ (delta * dual), (delta * dual).sum(dim=0)) for value, delta in features]
            step = torch.cat([part.flatten() for pair in pieces for part in pair]) - parameters
            for halvings in range(10):
                candidate = parameters + 0.5**halvings * step
                reached = self.value_and_gradient(candidate[0])[0]
                if reached > height:
                    parameters, height = candidate, reached
                    break
            else:
                break
        return parameters


# ------------------------------------------------------------------------------------------- the samplers


@dataclass(frozen=True)
class ChainResult:
    """What a chain of Hamiltonian Monte Carlo drew (as in Li, Rudner and Wilson 2023, arXiv 2305.20028).

    Attributes:
        samples: (S, P), in the order drawn.
        acceptance_rate: share of proposals accepted after burn-in.
        step_size: of the leapfrog steps after burn-in.
        n_gradients: evaluations of the log density with its gradient.
    """

    samples: Tensor
    acceptance_rate: float
    step_size: float
    n_gradients: int


def hmc(
    log_density: Callable[[Tensor], Tensor],
    initial: Tensor,
    *,
    n_samples: int,
    n_burn_in: int,
    step_size: float = 0.01,
    path_length: float = 0.2,
    max_leapfrog: int = 200,
    target_acceptance: float = 0.8,
    generator: torch.Generator | None = None,
) -> ChainResult:
    """Hamiltonian Monte Carlo whose burn-in adapts the step (Li, Rudner and Wilson 2023, arXiv 2305.20028).

    Each proposal takes ``min(max_leapfrog, ceil(path_length / step))`` leapfrog steps from a fresh momentum.
    During burn-in dual averaging moves the step towards the target acceptance; then it is held.

    Arguments:
        log_density: of parameters (P,), up to a constant; differentiable, returns a scalar tensor.
        initial: (P,).
        n_samples: kept, after n_burn_in that are not.
        n_burn_in: 0 keeps the step as it is given.
        step_size: initial, in units of the parameters.
        path_length: step times steps of a proposal.
        max_leapfrog: most steps of a proposal.
        target_acceptance: in (0, 1).
        generator: source of all randomness; None for a fresh one.

    Returns:
        The chain.

    Raises:
        ValueError: counts, step or path that are not positive, a target outside (0, 1), an initial point
            that is no vector or where the log density is not finite.

    >>> normal = lambda x: -0.5 * (x**2).sum()
    >>> generator = torch.Generator().manual_seed(1)
    >>> start = torch.zeros(2, dtype=torch.float64)
    >>> chain = hmc(normal, start, n_samples=400, n_burn_in=100, path_length=1.0, generator=generator)
    >>> bool((chain.samples.var(dim=0) - 1).abs().max() < 0.3)
    True
    """

    def value_and_gradient(parameters: Tensor) -> tuple[Tensor, Tensor]:
        parameters = parameters.detach().requires_grad_()
        with torch.enable_grad():
            value = log_density(parameters)
        (gradient,) = torch.autograd.grad(value, parameters)
        return value.detach(), gradient

    return _run_chain(
        value_and_gradient,
        initial,
        n_samples=n_samples,
        n_burn_in=n_burn_in,
        step_size=step_size,
        path_length=path_length,
        max_leapfrog=max_leapfrog,
        target_acceptance=target_acceptance,
        generator=generator,
    )


def _leapfrog(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    position: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    step_size: float,
    n_steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Position, momentum, value and gradient after `n_steps` of at least 1."""
    position, momentum = position.clone(), momentum.add(gradient, alpha=step_size / 2)
    value = position.new_zeros(())
    for i in range(n_steps):
        position = position.add(momentum, alpha=step_size)
        value, gradient = value_and_gradient(position)
        momentum.add_(gradient, alpha=step_size if i < n_steps - 1 else step_size / 2)
    return position, momentum, value, gradient


def _run_chain(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    initial: Tensor,
    *,
    n_samples: int,
    n_burn_in: int,
    step_size: float,
    path_length: float,
    max_leapfrog: int,
    target_acceptance: float = 0.8,
    generator: torch.Generator | None = None,
) -> ChainResult:
    _require_counts(1, n_samples=n_samples, max_leapfrog=max_leapfrog)
    _require_counts(0, n_burn_in=n_burn_in)
    _require_positive(step_size=step_size, path_length=path_length)
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance must lie strictly between 0 and 1, got {target_acceptance!r}")
    if initial.ndim != 1:
        raise ValueError(f"initial must be a vector, got shape {tuple(initial.shape)}")
    generator = generator or _make_generator(None, initial.device)

    position = initial.detach()
    value, gradient = value_and_gradient(position)
    energy = float(value)
    if not math.isfinite(energy):
        raise ValueError(f"initial must have a finite log density, got {energy}")
    samples = position.new_empty(n_samples, len(position))
    n_accepted, n_gradients = 0, 1
    log_widest, shortfall, log_average = math.log(10 * step_size), 0.0, 0.0
    uniforms = torch.rand(
        n_burn_in + n_samples, generator=generator, dtype=torch.float64, device=position.device
    ).tolist()
    for i, uniform in enumerate(uniforms, start=1):
        momentum = _randn_like(position, generator)
        n_steps = min(max_leapfrog, math.ceil(path_length / step_size))
        proposal, last_momentum, value, proposal_gradient = _leapfrog(
            value_and_gradient, position, momentum, gradient, step_size, n_steps
        )
        n_gradients += n_steps
        gain = float(value) - energy + float(momentum.dot(momentum) - last_momentum.dot(last_momentum)) / 2
        acceptance = math.exp(min(gain, 0.0)) if math.isfinite(gain) else 0.0
        if uniform < acceptance:
            position, energy, gradient = proposal, float(value), proposal_gradient
            n_accepted += i > n_burn_in
        if i > n_burn_in:
            samples[i - n_burn_in - 1] = position
            continue
        shortfall += (target_acceptance - acceptance - shortfall) / (i + 10)
        log_step = log_widest - math.sqrt(i) / 0.05 * shortfall
        log_average += i**-0.75 * (log_step - log_average)
        step_size = math.exp(log_average if i == n_burn_in else log_step)
    return ChainResult(samples, n_accepted / n_samples, step_size, n_gradients)


def adaptive_sghmc(
    gradient: Callable[[Tensor], Tensor],
    initial: Tensor,
    *,
    n_steps: int,
    n_burn_in: int,
    keep_every: int = 5,
    learning_rate: float = 1e-2,
    momentum_decay: float = 0.05,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stochastic-gradient Hamiltonian Monte Carlo that scales itself during burn-in.

    Springenberg, Klein, Falkner and Hutter (2016), as used by Li, Rudner and Wilson (2023, arXiv
    2305.20028). Burn-in estimates the second moment v of each gradient over a window of its own; then
    ``mass = sqrt(v)``, and the noise that stochastic gradients bring of themselves is left out of what is
    added.

    Arguments:
        gradient: unbiased estimate (P,) of the gradient of the negative log density at parameters (P,).
        initial: (P,).
        n_steps: in all, burn-in included.
        n_burn_in: less than n_steps.
        keep_every: steps after burn-in from sample to sample.
        learning_rate: step, squared in the update of the momentum.
        momentum_decay: share of the momentum that is lost in a step, in (0, 1].
        generator: source of the added noise; None for a fresh one.

    Returns:
        Samples (S, P), ``S = (n_steps - n_burn_in) // keep_every``.

    Raises:
        ValueError: counts or a rate that are not positive, a decay outside (0, 1], too few steps for a
            sample, an initial point that is no vector.

    >>> generator = torch.Generator().manual_seed(1)
    >>> start = torch.zeros(2, dtype=torch.float64)
    >>> adaptive_sghmc(lambda x: x, start, n_steps=300, n_burn_in=100, generator=generator).shape
    torch.Size([40, 2])
    """
    _require_counts(1, n_steps=n_steps, keep_every=keep_every)
    _require_counts(0, n_burn_in=n_burn_in)
    _require_positive(learning_rate=learning_rate)
    if not 0 < momentum_decay <= 1:
        raise ValueError(f"momentum_decay must lie in (0, 1], got {momentum_decay!r}")
    _require_burn_in(n_burn_in, n_steps)
    if n_steps - n_burn_in < keep_every:
        raise ValueError(
            f"keep_every must be at most n_steps - n_burn_in = {n_steps - n_burn_in}, got {keep_every}"
        )
    if initial.ndim != 1:
        raise ValueError(f"initial must be a vector, got shape {tuple(initial.shape)}")
    generator = generator or _make_generator(None, initial.device)

    position, momentum = initial.detach().clone(), torch.zeros_like(initial)
    window, mean, square = (torch.ones_like(position) for _ in range(3))
    rate, noise_scale = torch.empty(0), torch.empty(0)
    samples = []
    for step in range(1, n_steps + 1):
        slope = gradient(position)
        if step <= n_burn_in:
            weight = 1 / (window + 1)
            window.addcdiv_(-window * mean**2, square).add_(1)
            mean.addcmul_(weight, slope - mean)
            square.addcmul_(weight, slope**2 - square)
        if step <= n_burn_in or step == 1:
            rate = learning_rate**2 / square.sqrt()
            noise_scale = (2 * momentum_decay * rate - learning_rate**4).clamp_min(1e-16).sqrt()
        momentum.mul_(1 - momentum_decay).addcmul_(rate, slope, value=-1)
        momentum.addcmul_(noise_scale, _randn_like(position, generator))
        position.add_(momentum)
        if step > n_burn_in and (step - n_burn_in) % keep_every == 0:
            samples.append(position.clone())
    return torch.stack(samples)


# ----------------------------------------------------------------------------------------- the surrogates


class _Surrogate(Model, ABC):
    """What all surrogates share: checks of what enters."""

    _shape: tuple[int, int] | None = None  # inputs and outputs, once fitted

    def fit(self, train_X: Tensor, train_Y: Tensor) -> Self:
        """Fit to inputs (n, d), scaled to [0, 1], and outputs (n, m); returns the surrogate itself.

        Raises ValueError for anything but finite matrices with a row each.
        """
        X, Y = _finite_matrix("train_X", train_X), _finite_matrix("train_Y", train_Y)
        if len(X) != len(Y):
            raise ValueError(f"train_Y must have the {len(X)} rows of train_X, got {len(Y)}")
        self._fit(X, Y.to(X.device))
        self._shape = X.shape[1], Y.shape[1]
        return self

    @abstractmethod
    def _fit(self, X: Tensor, Y: Tensor) -> None: ...

    def _fitted_shape(self) -> tuple[int, int]:
        if self._shape is None:
            raise RuntimeError(f"this {type(self).__name__} has not been fitted; call fit first")
        return self._shape

    @property
    def num_outputs(self) -> int:
        """The number of outputs m that it was fitted to."""
        return self._fitted_shape()[1]

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: it is one model."""
        return torch.Size()

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """Joint posterior at q points, in units of train_Y, for X of shape (q, d) or (…, q, d).

        `output_indices` selects outputs, `observation_noise` adds the noise of an observation,
        `posterior_transform` is applied last. Raises RuntimeError before `fit`, ValueError for points that
        are not of the d inputs.
        """
        n_inputs, _ = self._fitted_shape()
        if X.ndim < 2 or X.shape[-1] != n_inputs:
            raise ValueError(f"X must have shape (…, q, {n_inputs}), got {tuple(X.shape)}")
        if not isinstance(observation_noise, bool):
            raise TypeError(
                f"observation_noise must be True or False, got a {type(observation_noise).__name__}"
            )
        self.eval()
        posterior = self._posterior(X.to(torch.float64), output_indices, observation_noise)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    @abstractmethod
    def _posterior(
        self, X: Tensor, output_indices: list[int] | None, observation_noise: bool
    ) -> Posterior: ...


class _NetworkSurrogate(_Surrogate):
    """A network of finite width on inputs scaled to [-1, 1] and standardised outputs."""

    _mean: Tensor
    _scale: Tensor

    def __init__(
        self,
        hidden: Sequence[int],
        activation: Activation,
        prior_variance: float,
        noise_variance: float,
        seed: int | None,
    ) -> None:
        super().__init__()
        _require_hidden(hidden)
        _require_choice("activation", activation, _ACTIVATIONS)
        _require_positive(prior_variance=prior_variance, noise_variance=noise_variance)
        self.hidden, self.activation = tuple(hidden), activation
        self.prior_variance, self.noise_variance, self.seed = prior_variance, noise_variance, seed

    def _fit(self, X: Tensor, Y: Tensor) -> None:
        mean = Y.mean(dim=0)
        scale = Y.std(dim=0) if len(Y) > 1 else torch.zeros_like(mean)
        # Outputs that differ by rounding alone are constant.
        constant = scale <= 1e-12 * Y.abs().amax(dim=0)
        self.register_buffer("_mean", mean)
        self.register_buffer("_scale", torch.where(constant, 1.0, scale))
        self._network = _Network((X.shape[1], *self.hidden, Y.shape[1]), self.activation)
        self._infer(
            (2 * X - 1)[None], ((Y - self._mean) / self._scale)[None], _make_generator(self.seed, X.device)
        )

    @abstractmethod
    def _infer(self, X: Tensor, Y: Tensor, generator: torch.Generator) -> None:
        """Infer the parameters from (1, n, d) and (1, n, m)."""

    def _log_posterior(self, X: Tensor, Y: Tensor) -> _LogPosterior:
        return _LogPosterior(self._network, X, Y, self.prior_variance, self.noise_variance)


class _SampledSurrogate(_NetworkSurrogate):
    """One whose posterior is a set of functions, one for each row of `samples_`."""

    samples_: Tensor

    def _posterior(
        self, X: Tensor, output_indices: list[int] | None, observation_noise: bool
    ) -> EnsemblePosterior:
        outputs = self._network(self.samples_, 2 * X.flatten(0, -2) - 1)
        values = outputs.reshape(-1, *X.shape[:-1], outputs.shape[-1]).movedim(0, -3)
        if observation_noise:
            generator = _make_generator(self.seed or 0, values.device)
            values = values + math.sqrt(self.noise_variance) * _randn_like(values, generator)
        values = self._mean + self._scale * values
        return EnsemblePosterior(values if output_indices is None else values[..., output_indices])


class HMCSurrogate(_SampledSurrogate):
    """Bayesian neural network inferred by Hamiltonian Monte Carlo (Li et al. 2023, arXiv 2305.20028).

    The chain starts from the end of `pretrain_steps` of Adam on the log posterior.

    Arguments:
        hidden: widths of the hidden layers; () is linear regression.
        activation: "tanh" or "relu".
        prior_variance: of every weight and bias.
        noise_variance: of an observation, in units of the variance of train_Y.
        n_samples: networks kept.
        n_burn_in: iterations that adapt the step and are not kept.
        step_size: of the first leapfrog step.
        path_length: of a proposal: step times steps.
        max_leapfrog: most leapfrog steps of a proposal.
        pretrain_steps: of Adam, before the chain.
        seed: the same seed gives the same result; None a fresh one.

    After `fit`, `samples_` (S, P) holds the parameters of the networks and `chain_` how they were drawn.
    `posterior` gives an `EnsemblePosterior` with values (…, S, q, m), each network a function of its own.

    Raises:
        ValueError: for a setting outside its range, named with its value.

    >>> X = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    >>> model = HMCSurrogate(hidden=(16, 16), n_samples=50, n_burn_in=100, max_leapfrog=20, seed=0)
    >>> posterior = model.fit(X, 10 * torch.sin(6 * X)).posterior(X)
    >>> posterior.values.shape, bool((posterior.mean - 10 * torch.sin(6 * X)).abs().mean() < 3)
    (torch.Size([50, 20, 1]), True)
    """

    chain_: ChainResult

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        activation: Activation = "tanh",
        prior_variance: float = 1.0,
        noise_variance: float = 0.1,
        n_samples: int = 500,
        n_burn_in: int = 500,
        step_size: float = 0.02,
        path_length: float = 0.2,
        max_leapfrog: int = 200,
        pretrain_steps: int = 1000,
        seed: int | None = None,
    ) -> None:
        super().__init__(hidden, activation, prior_variance, noise_variance, seed)
        _require_counts(1, n_samples=n_samples, max_leapfrog=max_leapfrog)
        _require_counts(0, n_burn_in=n_burn_in, pretrain_steps=pretrain_steps)
        _require_positive(step_size=step_size, path_length=path_length)
        self.n_samples, self.n_burn_in, self.step_size = n_samples, n_burn_in, step_size
        self.path_length, self.max_leapfrog, self.pretrain_steps = path_length, max_leapfrog, pretrain_steps

    def _infer(self, X: Tensor, Y: Tensor, generator: torch.Generator) -> None:
        log_posterior = self._log_posterior(X, Y)
        initial = self._network.draw_initial(1, generator)
        self.chain_ = _run_chain(
            log_posterior.value_and_gradient,
            log_posterior.maximise(initial, self.pretrain_steps, 1e-3, anneal=False)[0],
            n_samples=self.n_samples,
            n_burn_in=self.n_burn_in,
            step_size=self.step_size,
            path_length=self.path_length,
            max_leapfrog=self.max_leapfrog,
            generator=generator,
        )
        self.register_buffer("samples_", self.chain_.samples)


class SGHMCSurrogate(_SampledSurrogate):
    """Bayesian neural network inferred by adaptive stochastic-gradient HMC.

    As compared by Li, Rudner and Wilson (2023, arXiv 2305.20028); see `adaptive_sghmc`.

    Arguments:
        hidden: widths of the hidden layers; () is linear regression.
        activation: "tanh" or "relu".
        prior_variance: of every weight and bias.
        noise_variance: of an observation, in units of the variance of train_Y.
        n_steps: of the sampler, burn-in included.
        n_burn_in: steps that adapt the sampler and are not kept.
        keep_every: steps from sample to sample.
        learning_rate: of the sampler.
        batch_size: observations that a gradient is estimated from; all of them if there are fewer.
        seed: the same seed gives the same result; None a fresh one.

    After `fit`, `samples_` (S, P) holds the parameters of the networks. `posterior` gives an
    `EnsemblePosterior` with values (…, S, q, m).

    Raises:
        ValueError: for a setting outside its range, named with its value.

    >>> X = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    >>> model = SGHMCSurrogate(hidden=(16, 16), seed=0).fit(X, X**2)
    >>> model.posterior(X).values.shape
    torch.Size([200, 20, 1])
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        activation: Activation = "tanh",
        prior_variance: float = 1.0,
        noise_variance: float = 0.1,
        n_steps: int = 2000,
        n_burn_in: int = 1000,
        keep_every: int = 5,
        learning_rate: float = 1e-2,
        batch_size: int = 5,
        seed: int | None = None,
    ) -> None:
        super().__init__(hidden, activation, prior_variance, noise_variance, seed)
        _require_counts(1, n_steps=n_steps, keep_every=keep_every, batch_size=batch_size)
        _require_counts(0, n_burn_in=n_burn_in)
        _require_burn_in(n_burn_in, n_steps)
        _require_positive(learning_rate=learning_rate)
        self.n_steps, self.n_burn_in, self.keep_every = n_steps, n_burn_in, keep_every
        self.learning_rate, self.batch_size = learning_rate, batch_size

    def _infer(self, X: Tensor, Y: Tensor, generator: torch.Generator) -> None:
        n = X.shape[1]
        size = min(self.batch_size, n)
        # The batches of all steps: each pass over the data in an order of its own.
        passes = -(-self.n_steps // (n // size))
        orders = torch.rand(passes, n, generator=generator, device=X.device).argsort(dim=1)
        batches = iter(orders[:, : n // size * size].reshape(-1, size))

        def gradient(parameters: Tensor) -> Tensor:
            batch = next(batches)
            log_posterior = _LogPosterior(
                self._network, X[:, batch], Y[:, batch], self.prior_variance, self.noise_variance * size / n
            )
            return log_posterior.residual_and_gradient(parameters[None])[1][0].neg_()

        samples = adaptive_sghmc(
            gradient,
            self._network.draw_initial(1, generator)[0],
            n_steps=self.n_steps,
            n_burn_in=self.n_burn_in,
            keep_every=self.keep_every,
            learning_rate=self.learning_rate,
            generator=generator,
        )
        self.register_buffer("samples_", samples)


class EnsembleSurrogate(_SampledSurrogate):
    """Deep ensemble: networks trained from starts and on subsets of their own.

    As compared by Li, Rudner and Wilson (2023, arXiv 2305.20028). Every member maximises its log posterior;
    all are trained as one stack.

    Arguments:
        hidden: widths of the hidden layers; () is linear regression.
        activation: "tanh" or "relu".
        prior_variance: of every weight and bias.
        noise_variance: of an observation, in units of the variance of train_Y.
        n_members: networks.
        subset_fraction: share of the data that a member sees, in (0, 1].
        train_steps: of Adam.
        learning_rate: of Adam.
        seed: the same seed gives the same result; None a fresh one.

    After `fit`, `samples_` (n_members, P) holds the parameters. `posterior` gives an `EnsemblePosterior`
    with values (…, n_members, q, m).

    Raises:
        ValueError: for a setting outside its range, named with its value.

    >>> X = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    >>> model = EnsembleSurrogate(hidden=(16, 16), train_steps=200, seed=0).fit(X, X**2)
    >>> model.posterior(X).values.shape
    torch.Size([10, 20, 1])
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        activation: Activation = "tanh",
        prior_variance: float = 10.0,
        noise_variance: float = 1.0,
        n_members: int = 10,
        subset_fraction: float = 0.8,
        train_steps: int = 1000,
        learning_rate: float = 1e-3,
        seed: int | None = None,
    ) -> None:
        super().__init__(hidden, activation, prior_variance, noise_variance, seed)
        _require_counts(1, n_members=n_members, train_steps=train_steps)
        _require_positive(learning_rate=learning_rate)
        if not 0 < subset_fraction <= 1:
            raise ValueError(f"subset_fraction must lie in (0, 1], got {subset_fraction!r}")
        self.n_members, self.subset_fraction = n_members, subset_fraction
        self.train_steps, self.learning_rate = train_steps, learning_rate

    def _infer(self, X: Tensor, Y: Tensor, generator: torch.Generator) -> None:
        n = X.shape[1]
        size = math.ceil(self.subset_fraction * n)
        keys = torch.rand(self.n_members, n, generator=generator, device=X.device)
        subsets = keys.argsort(dim=1)[:, :size]
        samples = self._log_posterior(X[0, subsets], Y[0, subsets]).maximise(
            self._network.draw_initial(self.n_members, generator),
            self.train_steps,
            self.learning_rate,
            anneal=False,
        )
        self.register_buffer("samples_", samples)


class LaplaceSurrogate(_NetworkSurrogate):
    """Network linearised at its maximum a posteriori, with the Gaussian posterior of the linear model.

    As compared by Li, Rudner and Wilson (2023, arXiv 2305.20028), but with the generalised Gauss-Newton
    precision in full: seen from the functions it is a Gaussian process whose kernel is prior_variance times
    the inner product of Jacobians, and that product needs one small matrix product a layer. Nothing grows
    with the square of the number of parameters.

    Arguments:
        hidden: widths of the hidden layers; () is linear regression.
        activation: "tanh" or "relu".
        prior_variance: of every weight and bias.
        noise_variance: of an observation, in units of the variance of train_Y.
        train_steps: of Adam, whose rate falls to 0 along half a cosine; Gauss-Newton steps then end at the
            maximum.
        learning_rate: of Adam, at first.
        seed: the same seed gives the same result; None a fresh one.

    `posterior` gives a `GPyTorchPosterior`, joint over the q points. One output only.

    Raises:
        ValueError: for a setting outside its range, named with its value, and for more than one output.

    >>> X = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    >>> model = LaplaceSurrogate(hidden=(16, 16), seed=0).fit(X[:10], X[:10] ** 2)
    >>> variance = model.posterior(X).variance
    >>> bool(variance[-1] > variance[5])
    True
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        activation: Activation = "tanh",
        prior_variance: float = 1.0,
        noise_variance: float = 0.1,
        train_steps: int = 1000,
        learning_rate: float = 1e-2,
        seed: int | None = None,
    ) -> None:
        super().__init__(hidden, activation, prior_variance, noise_variance, seed)
        _require_counts(1, train_steps=train_steps)
        _require_positive(learning_rate=learning_rate)
        self.train_steps, self.learning_rate = train_steps, learning_rate

    def _infer(self, X: Tensor, Y: Tensor, generator: torch.Generator) -> None:
        if Y.shape[2] != 1:
            raise ValueError(f"train_Y must have one column for LaplaceSurrogate, got {Y.shape[2]}")
        log_posterior = self._log_posterior(X, Y)
        self._parameters_at_mode = log_posterior.climb(
            log_posterior.maximise(
                self._network.draw_initial(1, generator), self.train_steps, self.learning_rate, anneal=True
            )
        )
        self._train_features = self._network.linearise(self._parameters_at_mode, X[0])[1]
        gram = _tangent_kernel(self._train_features, self._train_features)
        gram.diagonal().add_(self.noise_variance / self.prior_variance)
        self._factor = torch.linalg.cholesky(gram)

    def _posterior(
        self, X: Tensor, output_indices: list[int] | None, observation_noise: bool
    ) -> GPyTorchPosterior:
        if output_indices not in (None, [0]):
            raise ValueError(f"output_indices must be [0], the only output, got {output_indices!r}")
        mean, flat = self._network.linearise(self._parameters_at_mode, 2 * X.flatten(0, -2) - 1)
        features = [
            (value.reshape(*X.shape[:-1], -1), delta.reshape(*X.shape[:-1], -1)) for value, delta in flat
        ]
        prior = _tangent_kernel(features, features)
        cross = _tangent_kernel(features, self._train_features)
        explained = torch.linalg.solve_triangular(self._factor.mT, cross, upper=True, left=False)
        covariance = self.prior_variance * (prior - explained @ explained.mT)
        extra = _JITTER * self.prior_variance * prior.diagonal(dim1=-2, dim2=-1)
        if observation_noise:
            extra = extra + self.noise_variance
        covariance = covariance + torch.diag_embed(extra)
        return GPyTorchPosterior(
            MultivariateNormal(
                self._mean + self._scale * mean.reshape(X.shape[:-1]), self._scale**2 * covariance
            )
        )


# --------------------------------------------------------------------------------- the Gaussian processes


class _ArcCosine(torch.autograd.Function):
    """sin t + (π - t) cos t of cos t, whose slope π - t stays finite where that of t does not."""

    @staticmethod
    def forward(ctx: Any, cosine: Tensor) -> Tensor:
        cosine = cosine.clamp(-1, 1)
        slope = math.pi - cosine.acos()
        ctx.save_for_backward(slope)
        return (1 - cosine**2).sqrt() + slope * cosine

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return gradients[0] * cast(Tensor, slope)


def infinite_width_kernel(
    X1: Tensor,
    X2: Tensor,
    *,
    depth: int = 3,
    weight_variance: float = 10.0,
    bias_variance: float = 1.3,
    activation: KernelActivation = "relu",
) -> Tensor:
    """Covariance of the outputs of a network of infinite width (as in Li et al. 2023, arXiv 2305.20028).

    Weights into a layer of n units have variance weight_variance / n, biases bias_variance. ReLU gives the
    arc-cosine kernel of Cho and Saul, erf the arc-sine kernel of Williams.

    Arguments:
        X1: (…, N, d).
        X2: (…, M, d).
        depth: hidden layers, at least 0; 0 is linear.
        weight_variance, bias_variance: positive.
        activation: "relu" or "erf".

    Returns:
        (…, N, M), differentiable in X1 and X2.

    Raises:
        ValueError: for a setting outside its range, or points of different dimension.

    >>> X = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> infinite_width_kernel(X, X, depth=1, weight_variance=2.0, bias_variance=1.0).diagonal().tolist()
    [2.0, 4.0]
    """
    _require_kernel(depth, weight_variance, bias_variance, activation)
    if X1.ndim < 2 or X2.ndim < 2 or X1.shape[-1] != X2.shape[-1]:
        raise ValueError(
            f"X1 and X2 must have shapes (…, N, d) and (…, M, d), got {tuple(X1.shape)} and {tuple(X2.shape)}"
        )
    w, b = weight_variance, bias_variance
    cross = b + w / X1.shape[-1] * (X1 @ X2.mT)
    first, second = (_diagonals(X, depth, w, b, activation) for X in (X1, X2))
    for left, right in zip(first[:-1], second[:-1], strict=True):
        if activation == "relu":
            norm = (left.unsqueeze(-1) * right.unsqueeze(-2)).sqrt()
            cross = b + w / (2 * math.pi) * norm * cast(Tensor, _ArcCosine.apply(cross / norm))  # type: ignore[no-untyped-call]
        else:
            norm = ((1 + 2 * left).unsqueeze(-1) * (1 + 2 * right).unsqueeze(-2)).sqrt()
            cross = b + 2 * w / math.pi * torch.asin(2 * cross / norm)
    return cross


def _diagonals(X: Tensor, depth: int, w: float, b: float, activation: str) -> list[Tensor]:
    """Variances (…, N) at each layer, the last included."""
    variances = [b + w / X.shape[-1] * X.square().sum(dim=-1)]
    for _ in range(depth):
        if activation == "relu":
            variances.append(b + w / 2 * variances[-1])
        else:
            variances.append(b + 2 * w / math.pi * torch.asin(2 * variances[-1] / (1 + 2 * variances[-1])))
    return variances


def _require_kernel(depth: int, weight_variance: float, bias_variance: float, activation: str) -> None:
    _require_counts(0, depth=depth)
    _require_positive(weight_variance=weight_variance, bias_variance=bias_variance)
    _require_choice("activation", activation, _KERNEL_ACTIVATIONS)


class _InfiniteWidthKernel(Kernel):
    """`infinite_width_kernel` for gpytorch; its settings are not trained."""

    def __init__(self, depth: int, weight_variance: float, bias_variance: float, activation: str) -> None:
        super().__init__()
        self.settings = depth, weight_variance, bias_variance, activation

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        if diag:
            return _diagonals(x1, *self.settings)[-1]
        depth, weight_variance, bias_variance, activation = self.settings
        return infinite_width_kernel(
            x1,
            x2,
            depth=depth,
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            activation=cast(KernelActivation, activation),
        )


class _ProcessSurrogate(_Surrogate):
    """A Gaussian process of botorch for each output."""

    _process: SingleTaskGP | ModelListGP

    def _fit(self, X: Tensor, Y: Tensor) -> None:
        # Fitting may draw from the global generator, when it starts anew after a failure.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            processes = [self._fit_process(X, y[:, None]) for y in Y.T]
        self._process = processes[0] if len(processes) == 1 else ModelListGP(*processes)

    def _fit_process(self, X: Tensor, y: Tensor) -> SingleTaskGP:
        process = self._make_process(X, y)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(process.likelihood, process))
        return process

    @abstractmethod
    def _make_process(self, X: Tensor, y: Tensor) -> SingleTaskGP: ...

    def _posterior(self, X: Tensor, output_indices: list[int] | None, observation_noise: bool) -> Posterior:
        return cast(
            Posterior,
            self._process.posterior(X, output_indices=output_indices, observation_noise=observation_noise),
        )


class GaussianProcessSurrogate(_ProcessSurrogate):
    """Gaussian process, the standard surrogate (baseline of Li, Rudner and Wilson 2023, arXiv 2305.20028).

    Arguments:
        kernel: "matern" for Matérn 5/2 with a lengthscale for each input and Gamma priors, the paper's;
            "default" for that of today's `SingleTaskGP`, whose prior of lengthscales grows with dimension.

    `posterior` gives a `GPyTorchPosterior`. Outputs are independent of each other.

    Raises:
        ValueError: for an unknown kernel.

    >>> X = torch.linspace(0, 1, 10, dtype=torch.float64)[:, None]
    >>> posterior = GaussianProcessSurrogate().fit(X, torch.sin(6 * X)).posterior(X)
    >>> bool((posterior.mean - torch.sin(6 * X)).abs().max() < 0.1)
    True
    """

    def __init__(self, *, kernel: Literal["matern", "default"] = "matern") -> None:
        super().__init__()
        _require_choice("kernel", kernel, ("matern", "default"))
        self.kernel = kernel

    def _make_process(self, X: Tensor, y: Tensor) -> SingleTaskGP:
        if self.kernel == "default":
            return SingleTaskGP(X, y)
        return SingleTaskGP(
            X,
            y,
            likelihood=get_gaussian_likelihood_with_gamma_prior(),
            covar_module=get_matern_kernel_with_gamma_prior(X.shape[1]),
        )


class InfiniteWidthSurrogate(_ProcessSurrogate):
    """Bayesian neural network of infinite width: a Gaussian process with `infinite_width_kernel`.

    As compared by Li, Rudner and Wilson (2023, arXiv 2305.20028). Only the noise and the constant mean are
    fitted.

    Arguments:
        depth: hidden layers.
        weight_variance: of weights, times the inputs of their layer.
        bias_variance: of biases.
        activation: "relu" or "erf".

    `posterior` gives a `GPyTorchPosterior`. Outputs are independent of each other.

    Raises:
        ValueError: for a setting outside its range, named with its value.

    >>> X = torch.linspace(0, 1, 10, dtype=torch.float64)[:, None]
    >>> InfiniteWidthSurrogate().fit(X, torch.sin(6 * X)).posterior(X).mean.shape
    torch.Size([10, 1])
    """

    def __init__(
        self,
        *,
        depth: int = 3,
        weight_variance: float = 10.0,
        bias_variance: float = 1.3,
        activation: KernelActivation = "relu",
    ) -> None:
        super().__init__()
        _require_kernel(depth, weight_variance, bias_variance, activation)
        self._settings = depth, weight_variance, bias_variance, activation

    def _make_process(self, X: Tensor, y: Tensor) -> SingleTaskGP:
        return SingleTaskGP(
            X,
            y,
            likelihood=get_gaussian_likelihood_with_gamma_prior(),
            covar_module=_InfiniteWidthKernel(*self._settings),
        )


class _DeepKernel(Kernel):
    """Matérn 5/2 on the features of a network, all its hidden layers."""

    def __init__(self, network: _Network, parameters: Tensor, n_features: int) -> None:
        super().__init__()
        self.network = network
        self.parameters_of_network = torch.nn.Parameter(parameters)
        self.on_features = get_matern_kernel_with_gamma_prior(n_features)

    def features(self, X: Tensor) -> Tensor:
        flat = self.network(self.parameters_of_network, 2 * X.flatten(0, -2) - 1)
        return self.network.activate(flat).reshape(*X.shape[:-1], -1)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Any:
        first = self.features(x1)
        return self.on_features(first, first if x1 is x2 else self.features(x2), diag=diag)


class DeepKernelSurrogate(_ProcessSurrogate):
    """Deep kernel learning: a Gaussian process on features that a network learns with it.

    As compared by Li, Rudner and Wilson (2023, arXiv 2305.20028). The network is trained with a linear head
    by least squares; then, without the head, together with a Matérn 5/2 kernel on its last hidden layer, by
    the marginal likelihood. The noise starts large, from the mode of its prior, as the authors have it: that
    keeps the features from fitting it early.

    Arguments:
        hidden: widths of the hidden layers, at least one; the last is the number of features.
        activation: "tanh" or "relu", after every hidden layer.
        pretrain_steps: of Adam, on the squared error.
        train_steps: of Adam, on the marginal likelihood.
        learning_rate: of Adam, in both.
        seed: the same seed gives the same result; None a fresh one.

    `posterior` gives a `GPyTorchPosterior`. Outputs are independent of each other, with a network each.

    Raises:
        ValueError: for a setting outside its range, named with its value.

    >>> X = torch.linspace(0, 1, 10, dtype=torch.float64)[:, None]
    >>> model = DeepKernelSurrogate(hidden=(16, 4), train_steps=200, seed=0)
    >>> model.fit(X, torch.sin(6 * X)).posterior(X).mean.shape
    torch.Size([10, 1])
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        activation: Activation = "tanh",
        pretrain_steps: int = 1000,
        train_steps: int = 1000,
        learning_rate: float = 1e-3,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        _require_hidden(hidden)
        if not hidden:
            raise ValueError("hidden must hold at least one width, got ()")
        _require_choice("activation", activation, _ACTIVATIONS)
        _require_counts(0, pretrain_steps=pretrain_steps, train_steps=train_steps)
        _require_positive(learning_rate=learning_rate)
        self.hidden, self.activation, self.seed = tuple(hidden), activation, seed
        self.pretrain_steps, self.train_steps, self.learning_rate = pretrain_steps, train_steps, learning_rate

    def _fit(self, X: Tensor, Y: Tensor) -> None:
        self._generator = _make_generator(self.seed, X.device)
        super()._fit(X, Y)

    def _make_process(self, X: Tensor, y: Tensor) -> SingleTaskGP:
        sizes = (X.shape[1], *self.hidden)
        headed, network = (_Network(s, self.activation) for s in ((*sizes, 1), sizes))
        scale = y.std() if len(y) > 1 else torch.zeros(())
        target = (y - y.mean()) / (scale if scale > 0 else 1)
        least_squares = _LogPosterior(headed, (2 * X - 1)[None], target[None], math.inf, 1.0)
        parameters = least_squares.maximise(
            headed.draw_initial(1, self._generator), self.pretrain_steps, self.learning_rate, anneal=False
        )
        # Softplus keeps the noise above its bound: plain steps on the noise itself can leave it.
        likelihood = GaussianLikelihood(
            noise_prior=GammaPrior(1.1, 0.05), noise_constraint=GreaterThan(_LEAST_NOISE)
        )
        likelihood.noise = 2.0  # the mode of its prior
        kernel = _DeepKernel(network, parameters[0, : network.n_parameters].clone(), self.hidden[-1])
        return SingleTaskGP(X, y, likelihood=likelihood, covar_module=kernel)

    def _fit_process(self, X: Tensor, y: Tensor) -> SingleTaskGP:
        process = self._make_process(X, y)
        parameters = list(process.parameters())
        adam = _Adam(parameters)
        for _ in range(self.train_steps):
            adam.ascend(torch.autograd.grad(_log_marginal(process), parameters), self.learning_rate)
        return process.eval()


def _log_marginal(process: SingleTaskGP) -> Tensor:
    """Log marginal likelihood and log prior of a process with `_DeepKernel`, up to a constant.

    gpytorch computes the same in several times the time, most of it spent on choosing how.
    """
    kernel, noise = process.covar_module, process.likelihood.noise
    lengthscale, scale = kernel.on_features.base_kernel.lengthscale, kernel.on_features.outputscale
    features = kernel.features(process.train_inputs[0]) / lengthscale
    norms = features.square().sum(dim=1)
    squares = norms[:, None] + norms - 2 * features @ features.T
    distance = (5 * squares).clamp_min(1e-20).sqrt()
    covariance = scale * (1 + distance + distance.square() / 3) * (-distance).exp()
    factor = torch.linalg.cholesky(covariance + torch.diag_embed(noise.expand(len(features))))
    residual = process.train_targets - process.mean_module.constant
    white = torch.linalg.solve_triangular(factor, residual[:, None], upper=False)
    log_prior = (2 * lengthscale.log() - 6 * lengthscale).sum() + scale.log() - 0.15 * scale
    log_prior = log_prior + (0.1 * noise.log() - 0.05 * noise).sum()
    return cast(Tensor, log_prior - white.square().sum() / 2 - factor.diagonal().log().sum())


# ------------------------------------------------------------------------------------ what is to be optimised


def bnn_draw(
    d: int,
    *,
    n_outputs: int = 1,
    hidden: Sequence[int] = (256, 256),
    activation: Activation = "tanh",
    seed: int | None = None,
) -> Callable[[Tensor], Tensor]:
    """A network whose weights and biases are standard normal: a test function without stationarity.

    From Li, Rudner and Wilson (2023, arXiv 2305.20028), who optimise it over [0, 1]^d, d from 200 to 400.

    Arguments:
        d: inputs.
        n_outputs: outputs.
        hidden: widths of the hidden layers.
        activation: "tanh" or "relu".
        seed: the same seed gives the same function; None a fresh one.

    Returns:
        The function, from (…, d) to (…, n_outputs).

    Raises:
        ValueError: for a setting outside its range, named with its value.

    >>> bnn_draw(100, seed=0)(torch.rand(5, 100, dtype=torch.float64)).shape
    torch.Size([5, 1])
    """
    _require_counts(1, d=d, n_outputs=n_outputs)
    _require_hidden(hidden)
    _require_choice("activation", activation, _ACTIVATIONS)
    network = _Network((d, *hidden, n_outputs), activation)
    parameters = torch.randn(network.n_parameters, generator=_make_generator(seed), dtype=torch.float64)

    def draw(X: Tensor) -> Tensor:
        _require_inputs(X, d)
        return network(parameters.to(X.device), X.reshape(-1, d).to(torch.float64)).reshape(
            *X.shape[:-1], n_outputs
        )

    return draw


def polynomial_draw(d: int, *, seed: int | None = None) -> Callable[[Tensor], Tensor]:
    """A sum of products of four shifted inputs, every input in one of them.

    From Li, Rudner and Wilson (2023, arXiv 2305.20028), who optimise it over [0, 1]^200. With standard normal
    shifts c it is ``sum_j prod_i (x_(i d/4 + j) - c_(i d/4 + j))``, i = 0 .. 3.

    Arguments:
        d: inputs, divisible by 4.
        seed: the same seed gives the same function; None a fresh one.

    Returns:
        The function, from (…, d) to (…, 1).

    Raises:
        ValueError: d that is not a positive multiple of 4.

    >>> polynomial_draw(8, seed=0)(torch.rand(5, 8, dtype=torch.float64)).shape
    torch.Size([5, 1])
    """
    _require_counts(1, d=d)
    if d % 4:
        raise ValueError(f"d must be divisible by 4, got {d}")
    shifts = torch.randn(d, generator=_make_generator(seed), dtype=torch.float64)

    def draw(X: Tensor) -> Tensor:
        _require_inputs(X, d)
        factors = (X.to(torch.float64) - shifts.to(X.device)).reshape(*X.shape[:-1], 4, d // 4)
        return factors.prod(dim=-2).sum(dim=-1, keepdim=True)

    return draw


def _require_inputs(X: Tensor, d: int) -> None:
    if X.ndim < 1 or X.shape[-1] != d:
        raise ValueError(f"X must have shape (…, {d}), got {tuple(X.shape)}")


# ------------------------------------------------------------------------------------ Bayesian optimisation


@dataclass(frozen=True)
class OptimizationHistory:
    """What a run of Bayesian optimisation tried (as in Li, Rudner and Wilson 2023, arXiv 2305.20028).

    Attributes:
        points: (N, d), in the order tried.
        values: (N, 1) of the function at them.
        best: (n_rounds + 1,), the best value after the initial points and after each round.
        fit_seconds: (n_rounds,), that fitting the surrogate took.
    """

    points: Tensor
    values: Tensor
    best: Tensor
    fit_seconds: Tensor


def run_bayesian_optimization(
    function: Callable[[Tensor], Tensor],
    bounds: Tensor,
    make_model: Callable[[], Model] | None,
    *,
    n_initial: int = 10,
    n_rounds: int = 10,
    batch_size: int = 5,
    num_restarts: int = 2,
    raw_samples: int = 16,
    maxiter: int = 10,
    seed: int | None = None,
) -> OptimizationHistory:
    """Maximise a function by Bayesian optimisation (the loop of Li, Rudner, Wilson 2023, arXiv 2305.20028).

    It starts from scrambled Sobol points. A round fits a new surrogate on inputs scaled to [0, 1] and tries
    the batch with the largest expected improvement, estimated from 128 posterior samples (its logarithm,
    smoothed: `qLogExpectedImprovement`).

    Arguments:
        function: of points (n, d) within the bounds; returns (n,) or (n, 1).
        bounds: (2, d), lower above upper.
        make_model: makes an unfitted surrogate; None for random search.
        n_initial: initial points.
        n_rounds: rounds after them.
        batch_size: points tried in a round.
        num_restarts, raw_samples, maxiter: starts of `optimize_acqf`, the points that they are chosen from,
            and its most iterations.
        seed: of the initial points and of the search for the next; surrogates have their own. Runs of the
            same seed have the same initial points.

    Returns:
        The history.

    Raises:
        ValueError: counts that are not positive, bounds that are none, or values that are not finite.

    >>> history = run_bayesian_optimization(
    ...     lambda X: -(X - 0.3).square().sum(dim=1), torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
    ...     GaussianProcessSurrogate, n_initial=5, n_rounds=2, seed=0)
    >>> history.points.shape, bool(history.best[-1] >= history.best[0])
    (torch.Size([15, 2]), True)
    """
    _require_counts(1, n_initial=n_initial, batch_size=batch_size, num_restarts=num_restarts)
    _require_counts(1, raw_samples=raw_samples, maxiter=maxiter)
    _require_counts(0, n_rounds=n_rounds)
    bounds = _finite_matrix("bounds", bounds)
    if len(bounds) != 2 or not bool((bounds[0] < bounds[1]).all()):
        raise ValueError(f"bounds must be two rows, the lower below the upper, got {bounds.tolist()}")
    lower, width = bounds[0], bounds[1] - bounds[0]

    def evaluate(unit: Tensor) -> Tensor:
        values = torch.as_tensor(function(lower + width * unit)).detach().to(lower)
        if values.shape not in ((len(unit),), (len(unit), 1)):
            raise ValueError(
                f"function must return shape ({len(unit)},) or ({len(unit)}, 1), got {tuple(values.shape)}"
            )
        return _finite_matrix("the values of function", values.reshape(-1, 1))

    cube = torch.stack([torch.zeros_like(lower), torch.ones_like(lower)])
    first, *seeds = torch.randint(2**31, (n_rounds + 1,), generator=_make_generator(seed)).tolist()
    X = draw_sobol_samples(cube, n=n_initial, q=1, seed=first).squeeze(1)
    Y = evaluate(X)
    best, fit_seconds = [Y.max()], []
    for round_seed in seeds:
        # Everything in the search for the next points that takes no seed draws from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(round_seed)
            start = time.perf_counter()
            if make_model is None:
                candidates = torch.rand(batch_size, X.shape[1], dtype=X.dtype)
                seconds = 0.0
            else:
                model = cast(_Surrogate, make_model()).fit(X, Y)
                seconds = time.perf_counter() - start
                candidates, _ = optimize_acqf(
                    qLogExpectedImprovement(
                        model,
                        best_f=best[-1],
                        sampler=get_sampler(
                            cast(TorchPosterior, model.posterior(X[:1])),
                            torch.Size([_POSTERIOR_SAMPLES]),
                            seed=round_seed,
                        ),
                    ),
                    cube,
                    q=batch_size,
                    num_restarts=num_restarts,
                    raw_samples=raw_samples,
                    options={"maxiter": maxiter},
                )
        X = torch.cat([X, candidates.detach().to(X)])
        Y = torch.cat([Y, evaluate(X[-batch_size:])])
        best.append(Y.max())
        fit_seconds.append(seconds)
    return OptimizationHistory(
        lower + width * X, Y, torch.stack(best), torch.tensor(fit_seconds, dtype=torch.float64)
    )
