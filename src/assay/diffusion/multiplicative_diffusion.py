"""Multiplicative diffusion: generation of positive data by geometric Brownian motion and its reversal.

Source: Shetty, Prasath and Seelamantula, "Dale meets Langevin: A Multiplicative Denoising Diffusion Model",
2025, arXiv 2510.02730; the loss for non-negative data: Hyvarinen, "Some extensions of score matching", 2007.

All operations act on each number of the data alone. ``dX = mu X dt + sigma X dW`` gives ``X_t = X_0
exp((mu - sigma^2/2) t + sigma sqrt(t) eps)``; its reversal needs the Hyvarinen score ``h(x, t) = x grad log
p_t(x)`` and not the gradient alone. With ``z = ln x`` the process only adds noise, ``grad log p(z) = h + 1``,
and the core's denoisers serve as models. Data that touch 0, such as images, are to be shifted by 1 before and
after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from assay.diffusion.sde import (
    Denoiser,
    MLPDenoiser,
    NoiseSchedule,
    Time,
    check_at_least,
    check_choice,
    check_times,
    checked_timesteps,
    fit_denoiser,
    per_sample,
    time_tensor,
    with_progress,
)

MultiplicativeMethod = Literal["dale_langevin", "ambient"]


# ---------------------------------------------------------------------- the forward process


@dataclass(frozen=True)
class BrownianSchedule(NoiseSchedule):
    """Noise that grows with the root of time, ``x_t = x_0 + rate sqrt(t) eps``, as the logarithm of geometric
    Brownian motion has it (Shetty et al., 2025, arXiv 2510.02730).

    Raises ValueError unless rate is positive and 0 <= t_min < t_max.

    >>> float(BrownianSchedule(rate=0.8).sigma(0.25))
    0.4
    """

    rate: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate is to be positive, got {self.rate}")
        check_times(self.t_min, self.t_max)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(time_tensor(t))

    def sigma(self, t: Time) -> Tensor:
        return self.rate * time_tensor(t).sqrt()

    def drift_coefficient(self, t: Time) -> Tensor:
        return torch.zeros_like(time_tensor(t))

    def diffusion(self, t: Time) -> Tensor:
        return torch.full_like(time_tensor(t), self.rate)


@dataclass(frozen=True)
class GeometricBrownianSchedule:
    """Geometric Brownian motion ``dX = mu X dt + sigma X dW`` as a forward process (Shetty et al., 2025,
    arXiv 2510.02730).

    Arguments:
        sigma: relative noise per root of time.
        mu: relative drift per time; None for ``sigma^2 / 2``, with which the mean of ln X stays.
        t_max: the last time.
        t_min: the first time to train at.

    A tensor of times gives a tensor of its shape and dtype, a float a 0-d tensor in float64.

    Raises ValueError unless sigma is positive, mu finite and 0 < t_min < t_max.

    >>> schedule = GeometricBrownianSchedule()
    >>> schedule.drift, schedule.log_std(torch.tensor([0.25])).item()
    (0.32000000000000006, 0.4000000059604645)
    """

    sigma: float = 0.8
    mu: float | None = None
    t_max: float = 1.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma is to be positive, got {self.sigma}")
        if self.mu is not None and not math.isfinite(self.mu):
            raise ValueError(f"mu is to be finite, got {self.mu}")
        if not 0 < self.t_min < self.t_max < math.inf:
            raise ValueError(f"0 < t_min < t_max is to hold, got {self.t_min} and {self.t_max}")

    @property
    def drift(self) -> float:
        """mu, or what it is if None."""
        return self.sigma**2 / 2 if self.mu is None else self.mu

    @property
    def log_schedule(self) -> BrownianSchedule:
        """The process of ``ln X_t - log_mean(t)``, which models of the logarithm are made for."""
        return BrownianSchedule(self.sigma, self.t_min, self.t_max)

    def log_mean(self, t: Time) -> Tensor:
        """How far the mean of ln X has moved, ``(mu - sigma^2/2) t``."""
        return (self.drift - self.sigma**2 / 2) * time_tensor(t)

    def log_std(self, t: Time) -> Tensor:
        """The standard deviation of ln X given the data, ``sigma sqrt(t)``."""
        return self.sigma * time_tensor(t).sqrt()

    def perturb(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """``X_t`` of data x0 > 0 with standard normal noise, both (B, *event).

        Raises ValueError for data that are not positive, other shapes and times outside (0, t_max].
        """
        _check_positive("x0", x0)
        if noise.shape != x0.shape:
            raise ValueError(f"noise is to have the shape of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}")
        mean, std = self._levels(x0, t)
        return x0 * torch.exp(mean + std * noise)

    def sample_prior(
        self,
        shape: Sequence[int],
        *,
        log_mean: float = 0.0,
        log_std: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Log-normal draws, where sampling begins; log_mean and log_std are of the logarithms of the data."""
        noise = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=device)
        mean = log_mean + float(self.log_mean(self.t_max))
        return torch.exp(mean + math.hypot(log_std, float(self.log_std(self.t_max))) * noise)

    def sample_times(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Times to train at, (n,), float64, uniform from t_min to t_max."""
        return self.log_schedule.sample_times(n, generator=generator)

    def timesteps(self, n: int) -> Tensor:
        """Times to sample at, (n + 1,), float64, uniform from t_max to 0.

        Raises ValueError for n < 1.
        """
        check_at_least("n", n, 1)
        return torch.linspace(self.t_max, 0, n + 1, dtype=torch.float64)

    def _levels(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation that ln X gains, in the dtype of x, of a shape that goes with it."""
        times = time_tensor(t)
        if not ((times > 0) & (times <= times.new_tensor(self.t_max))).all():
            raise ValueError(f"t is to be above 0 and at most {self.t_max}, got {_shortened(times)}")
        return per_sample(self.log_mean(times), x), per_sample(self.log_std(times), x)


# ---------------------------------------------------------------------- models


class HyvarinenScoreModel(Protocol):
    """What the losses and the sampler take: anything with a schedule that gives h for x and t (Shetty et
    al., 2025, arXiv 2510.02730)."""

    @property
    def schedule(self) -> GeometricBrownianSchedule:
        """The forward process."""

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """h, in the shape of x > 0."""


class HyvarinenScore(nn.Module):
    """The Hyvarinen score ``h = x grad log p_t(x)`` from any denoiser of the logarithm (Shetty et al., 2025,
    arXiv 2510.02730).

    ``h = s(ln x - log_mean(t) - m, t) - 1`` with s the denoiser's score.

    Arguments:
        denoiser: made for `schedule.log_schedule`: a `UNetDenoiser` for images, a `GaussianMixtureDenoiser`
            for the exact h of a mixture of log-normal laws.
        schedule: the forward process.
        log_mean: m, the mean of the data's logarithm, or a tensor (*event) of them, which the denoiser need
            not learn then.

    Calling it with x (B, *event) and times gives h in the shape of x; ValueError for x that are not positive
    and times outside (0, t_max].

    Raises ValueError for a denoiser of another schedule.

    >>> from assay.diffusion import GaussianMixtureDenoiser
    >>> schedule = GeometricBrownianSchedule()
    >>> parameters = torch.zeros(1, 1), torch.tensor([[[0.36]]]), torch.ones(1)
    >>> log_normal = HyvarinenScore(GaussianMixtureDenoiser(*parameters, schedule.log_schedule), schedule)
    >>> round(log_normal(torch.tensor([[math.e]]), 1.0).item(), 4)
    -2.0
    """

    schedule: GeometricBrownianSchedule
    log_mean: Tensor

    def __init__(
        self, denoiser: Denoiser, schedule: GeometricBrownianSchedule, *, log_mean: float | Tensor = 0.0
    ) -> None:
        super().__init__()
        if denoiser.schedule != schedule.log_schedule:
            raise ValueError(
                f"denoiser is to be made for {schedule.log_schedule}, got one for {denoiser.schedule}"
            )
        self.denoiser = denoiser
        self.schedule = schedule
        self.register_buffer("log_mean", torch.as_tensor(log_mean, dtype=torch.float64))

    def forward(self, x: Tensor, t: Time) -> Tensor:
        _check_positive("x", x)
        mean, _ = self.schedule._levels(x, t)
        return self.denoiser.score(x.log() - mean - self.log_mean.to(x), t) - 1


class HyvarinenScoreNetwork(HyvarinenScore):
    """A residual network for positive vectors that gives the Hyvarinen score (Shetty et al., 2025, arXiv
    2510.02730).

    It is the core's `MLPDenoiser` on the logarithm, preconditioned for every noise level.

    Arguments:
        dim: d.
        schedule: the forward process.
        width: of the hidden layers.
        depth: number of residual layers.
        log_mean: mean of the data's logarithms.
        log_std: standard deviation of the data's logarithms.

    Raises ValueError for sizes below 1 and a log_std that is not positive.

    >>> model = HyvarinenScoreNetwork(2, GeometricBrownianSchedule(), log_std=0.6)
    >>> [round(h, 4) for h in model(torch.tensor([[1.0, math.e]]), 1.0)[0].tolist()]
    [-1.0, -2.0]
    """

    def __init__(
        self,
        dim: int,
        schedule: GeometricBrownianSchedule,
        *,
        width: int = 128,
        depth: int = 3,
        log_mean: float = 0.0,
        log_std: float = 0.25,
    ) -> None:
        if not 0 < log_std < math.inf:
            raise ValueError(f"log_std is to be positive, got {log_std}")
        denoiser = MLPDenoiser(dim, schedule.log_schedule, width=width, depth=depth, sigma_data=log_std)
        super().__init__(denoiser, schedule, log_mean=log_mean)


class _LogDenoiser(Denoiser):
    """The posterior mean of the logarithm that a model of h stands for."""

    def __init__(self, model: nn.Module) -> None:
        schedule = model.schedule
        if not isinstance(schedule, GeometricBrownianSchedule):
            raise TypeError(f"model is to have a GeometricBrownianSchedule as schedule, got {schedule!r}")
        super().__init__(schedule.log_schedule)
        self.model = model
        self._geometric = schedule

    def forward(self, x: Tensor, t: Time) -> Tensor:
        mean, std = self._geometric._levels(x, t)
        clean: Tensor = x + std.square() * (self.model(torch.exp(x + mean), t) + 1)
        return clean


# ---------------------------------------------------------------------- losses and training


def denoising_target(schedule: GeometricBrownianSchedule, t: Time, noise: Tensor) -> Tensor:
    """The Hyvarinen score of x_t given its data, ``-1 - eps / (sigma sqrt(t))``, in the shape of the noise
    (Shetty et al., 2025, arXiv 2510.02730).

    Arguments:
        schedule: the forward process.
        t: times.
        noise: eps, (B, *event), that x_t was made with.

    Raises ValueError for times outside (0, t_max].

    >>> denoising_target(GeometricBrownianSchedule(), 0.25, torch.tensor([[0.5]])).item()
    -2.25
    """
    _, std = schedule._levels(noise, t)
    return -1 - noise / std


def multiplicative_denoising_loss(model: HyvarinenScoreModel, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
    """Multiplicative denoising score matching (Shetty et al., 2025, arXiv 2510.02730), (B,).

    ``sigma^2 t`` times the mean over the event of ``(h(x_t, t) - target)^2``. Up to a constant it is that
    weight times the mean of ``(h - x grad log p_t)^2``, so that the true score has the least loss.

    Arguments:
        model: gives h.
        x0: (B, *event), data > 0.
        t: times.
        noise: (B, *event), standard normal.

    Raises ValueError for data that are not positive, other shapes and times outside (0, t_max].

    >>> model = HyvarinenScoreNetwork(2, GeometricBrownianSchedule())
    >>> multiplicative_denoising_loss(model, torch.ones(3, 2), 1.0, torch.zeros(3, 2)).tolist()
    [0.0, 0.0, 0.0]
    """
    h = model(model.schedule.perturb(x0, t, noise), t)
    _, std = model.schedule._levels(x0, t)
    # The weight goes inside: the target itself grows without bound as t falls.
    return (std * (h + 1) + noise).square().flatten(1).mean(1)


def nonnegative_score_matching_loss(score_function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Hyvarinen's score matching for non-negative data (2007), the implicit form of the loss above (Shetty et
    al., 2025, arXiv 2510.02730), (B,).

    The sum over the d numbers of ``h_i + x_i dh_i/dx_i + h_i^2 / 2``, whose mean is that of ``|h - x grad log
    p|^2 / 2`` up to a constant. Its d derivatives take d backward passes: for d up to about 64. It can be
    differentiated in the parameters of the score.

    Arguments:
        score_function: gives h for x, of each row alone, differentiable.
        x: (B, *event), data > 0.

    Raises ValueError for data that are not positive and for an h of another shape or without a gradient.

    >>> log_normal = lambda x: -1 - x.log() / 0.25
    >>> nonnegative_score_matching_loss(log_normal, torch.ones(1, 2)).tolist()
    [-9.0]
    """
    _check_positive("x", x)
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        h = score_function(points)
        if h.shape != x.shape:
            raise ValueError(f"score_function is to return shape {tuple(x.shape)}, got {tuple(h.shape)}")
        if not h.requires_grad:
            raise ValueError("score_function is to be differentiable in x")
        h = h.flatten(1)
        slopes = []
        for i in range(h.shape[1]):
            (gradient,) = torch.autograd.grad(
                h[:, i].sum(), points, create_graph=True, materialize_grads=True
            )
            slopes.append(gradient.flatten(1)[:, i])
        return (h + points.flatten(1) * torch.stack(slopes, 1) + h.square() / 2).sum(1)


def fit_hyvarinen_score(
    model: nn.Module,
    data: Tensor,
    *,
    n_steps: int,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.999,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> list[float]:
    """Trains a model of h by multiplicative denoising score matching (Shetty et al., 2025, arXiv 2510.02730).

    The recipe is that of `fit_denoiser`: Adam, a rate that falls to 0, and at the end the running average of
    the weights.

    Arguments:
        model: as `HyvarinenScoreModel`, on the data's device.
        data: (N, *event), positive.
        n_steps, batch_size, learning_rate, ema_decay, generator, progress: as in `fit_denoiser`.

    Returns the loss of each step. Raises ValueError for data that are not positive and finite and for sizes
    below 1, TypeError for a model with another schedule.

    >>> _ = torch.manual_seed(0)
    >>> model = HyvarinenScoreNetwork(2, GeometricBrownianSchedule(), width=16)
    >>> len(fit_hyvarinen_score(model, torch.rand(100, 2) + 1, n_steps=20))
    20
    """
    _check_positive("data", data)
    # In logarithms the loss is the error of the predicted noise, which the core trains with.
    return fit_denoiser(
        _LogDenoiser(model),
        data.log(),
        n_steps=n_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema_decay=ema_decay,
        weighting="score",
        generator=generator,
        progress=progress,
    )


# ---------------------------------------------------------------------- sampling


def dale_langevin_step(
    x: Tensor, h: Tensor, step: float | Tensor, mu: float, sigma: float, noise: Tensor
) -> Tensor:
    """A step of the reverse process in logarithms, which keeps every sign (Shetty et al., 2025, arXiv
    2510.02730).

    ``x exp(step (sigma^2 h - mu + 3/2 sigma^2) + sqrt(step) sigma noise)``

    Arguments:
        x: where it begins, of any shape; h and noise broadcast to it.
        h: the Hyvarinen score at x.
        step: of time, positive.
        mu, sigma: of the forward process.
        noise: standard normal.

    >>> x = torch.tensor([2.0, -2.0])
    >>> dale_langevin_step(x, torch.full_like(x, -1), 0.01, 0.32, 0.8, torch.zeros_like(x)).tolist()
    [2.0, -2.0]
    """
    return x * torch.exp(step * (sigma**2 * h + (1.5 * sigma**2 - mu)) + step**0.5 * sigma * noise)


def ambient_step(
    x: Tensor, h: Tensor, step: float | Tensor, mu: float, sigma: float, noise: Tensor
) -> Tensor:
    """A step of the reverse process as it is, which may turn a sign if it is long (Shetty et al., 2025, arXiv
    2510.02730).

    ``x (1 + step (sigma^2 h - mu + 2 sigma^2) + sqrt(step) sigma noise)``

    Arguments:
        x, h, step, mu, sigma, noise: as in `dale_langevin_step`.

    >>> x = torch.tensor([2.0], dtype=torch.float64)
    >>> ambient_step(x, torch.zeros_like(x), 0.01, 0.32, 0.8, torch.zeros_like(x)).tolist()
    [2.0192]
    """
    return x * (1 + step * (sigma**2 * h + (2 * sigma**2 - mu)) + step**0.5 * sigma * noise)


def exponentiated_gradient_step(weights: Tensor, gradient: Tensor, learning_rate: float | Tensor) -> Tensor:
    """A step of exponentiated gradient descent that obeys Dale's law: weights keep their signs (Shetty et
    al., 2025, arXiv 2510.02730).

    ``w exp(-rate sign(w) gradient)``. For w > 0, a gradient ``-(h + 1)`` and the rate ``step sigma^2`` it is
    `dale_langevin_step` without noise, with ``mu = sigma^2 / 2``.

    Arguments:
        weights: of any shape.
        gradient: of the loss, in the shape of weights.
        learning_rate: positive.

    >>> weights = torch.tensor([1.0, -1.0])
    >>> exponentiated_gradient_step(weights, torch.tensor([math.log(2), math.log(2)]), 1.0).tolist()
    [0.5, -2.0]
    """
    return weights * torch.exp(-learning_rate * weights.sign() * gradient)


@torch.no_grad()
def sample_multiplicative(
    model: HyvarinenScoreModel,
    x: Tensor,
    timesteps: Tensor,
    *,
    method: MultiplicativeMethod = "dale_langevin",
    step_size: float | None = None,
    inner_steps: int = 1,
    noise_decay: float = 1.0,
    denoise_steps: int = 1,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Runs the reverse process from noise to data, by multiplications alone (Shetty et al., 2025, arXiv
    2510.02730).

    As it stands it follows the reverse SDE. The authors' annealed samplers take a step_size of their own, a
    few inner_steps at each of 1000 times, and a noise_decay near 0.995.

    Arguments:
        model: gives h; it is called at the left end of each interval.
        x: (B, *event), positive, e.g. `schedule.sample_prior(...)`, or averages of classes that
            `schedule.perturb` has noised.
        timesteps: (n + 1,), strictly decreasing, e.g. `schedule.timesteps(n)`.
        method: "dale_langevin" or "ambient", the step that is taken.
        step_size: of time; None for the interval's length divided among its inner steps.
        inner_steps: steps at each time.
        noise_decay: factor of the noise from each time to the next.
        denoise_steps: how many steps at the very end add no noise, which would stay visible as grain.
        generator: of the noise, on the device of x.
        progress: whether to show a bar on the terminal.

    Returns samples in the shape of x. Raises ValueError for bad arguments, and RuntimeError, which names the
    step, when a state is no longer positive and finite: the ambient step may turn signs if it is long.

    >>> schedule, generator = GeometricBrownianSchedule(), torch.Generator().manual_seed(0)
    >>> model = HyvarinenScoreNetwork(2, schedule, log_mean=1.0, log_std=0.5)
    >>> x = schedule.sample_prior((4000, 2), log_mean=1.0, log_std=0.5, generator=generator)
    >>> samples = sample_multiplicative(model, x, schedule.timesteps(100), generator=generator)
    >>> round(samples.log().mean().item(), 1), round(samples.log().std().item(), 1)
    (1.0, 0.5)
    """
    check_choice("method", method, get_args(MultiplicativeMethod))
    times = checked_timesteps(timesteps)
    check_at_least("inner_steps", inner_steps, 1)
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size is to be positive, got {step_size}")
    if not 0 < noise_decay <= 1:
        raise ValueError(f"noise_decay is to be above 0 and at most 1, got {noise_decay}")
    n_steps = (len(times) - 1) * inner_steps
    if not 0 <= denoise_steps <= n_steps:
        raise ValueError(f"denoise_steps is to be from 0 to {n_steps}, all steps, got {denoise_steps}")
    _check_positive("x", x)
    advance = dale_langevin_step if method == "dale_langevin" else ambient_step
    mu, sigma = model.schedule.drift, model.schedule.sigma
    still = torch.zeros_like(x)
    intervals = list(pairwise(times))
    for k in with_progress(range(n_steps), "sampling", progress):
        level = k // inner_steps
        t, following = intervals[level]
        step = (t - following) / inner_steps if step_size is None else step_size
        noise = still
        if k < n_steps - denoise_steps:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            noise = noise_decay**level * noise
        x = advance(x, model(x, x.new_tensor(t)), step, mu, sigma, noise)
        if not _is_positive(x):
            raise RuntimeError(
                f"step {k + 1} of {n_steps} left the positive finite numbers: "
                + (
                    "take more steps, or method 'dale_langevin'"
                    if method == "ambient"
                    else "the model's score is too large for a step of this size"
                )
            )
    return x


# ---------------------------------------------------------------------- checks


def _is_positive(x: Tensor) -> bool:
    # One pass; nan compares as false.
    least, greatest = x.aminmax()
    return bool((least > 0) & (greatest < math.inf))


def _check_positive(name: str, x: Tensor) -> None:
    if not x.numel() or not _is_positive(x):
        raise ValueError(f"{name} is to hold positive finite numbers, got {_shortened(x)}")


def _shortened(values: Tensor) -> str:
    if values.numel() < 9:
        return str(values.tolist())
    return f"values from {float(values.min()):.4g} to {float(values.max()):.4g}"
