"""Feynman-Kac correctors: samples of annealed, guided, multiplied and rewarded diffusion models.

Source: Skreta, Akhound-Sadegh, Ohanesian, Bondesan, Aspuru-Guzik, Doucet, Brekelmans, Tong and Neklyudov,
"Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts", 2025, arXiv 2503.02819.

A scaled or mixed score is not the score of a diffused density, so that sampling with it misses the density
that was meant. A corrector keeps the mixed drift and gives each particle a weight that makes up for it. With
v the drift and D the noise's scale in generative time, which runs from noise to data, a density p_t that is
to be followed leaves the remainder::

    d log w = [ d log p_t - ( -div v - v . grad log p_t + D^2/2 (lap log p_t + |grad log p_t|^2) ) ] dt

which for the targets here needs no more than the models' scores. Particles are resampled on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from assay.diffusion.sde import Denoiser, NoiseSchedule, check_choice, checked_timesteps

Noise = Literal["target", "tempered"]
Resampling = Literal["systematic", "none"]

_ROUNDING = 1e-9
_RELATIVE_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class CorrectorTerms:
    """What moves and weighs particles at a time: rates per unit of generative time (Skreta et al., 2025,
    arXiv 2503.02819).

    `drift` is (B, *event), `diffusion` the scale of the noise, `log_weight_rate` (B,), in float64.
    """

    drift: Tensor
    diffusion: float
    log_weight_rate: Tensor


class FeynmanKacTarget(Protocol):
    """What `sample_feynman_kac` can follow: any object with a schedule and `terms` (Skreta et al., 2025,
    arXiv 2503.02819)."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The forward process."""

    def terms(self, x: Tensor, t: float) -> CorrectorTerms:
        """Drift, noise and weight rate of the particles x, (B, *event), at time t."""


class GeometricTarget:
    """The densities ``p_t ~ prod_i q_i,t^b_i`` of diffused models (Skreta et al., 2025, arXiv 2503.02819).

    With ``B = sum b_i``, ``s = sum b_i s_i`` for the scores s_i of the models q_i, z the noise scale, and f
    and g those of the forward process ``dx = f x dt + g dW`` in d dimensions::

        dx      = (-f x + (1 + z^2)/2 g^2 s) dt + z g dW
        d log w = [ (B - 1) f d + g^2/2 (|s|^2 - sum_i b_i |s_i|^2) ] dt

    Arguments:
        denoisers: the models, of one schedule. One with exponent 0 is not evaluated.
        exponents: b_i, as many, of positive sum; some may be negative.
        noise_scale: z. The density that is followed does not depend on it, the weights' spread does.

    Raises ValueError for no models, exponents that do not match them or of a sum that is not positive,
    different schedules, and a negative noise_scale.

    >>> from assay.diffusion import EDMSchedule, GaussianMixtureDenoiser, GeometricTarget
    >>> normal = GaussianMixtureDenoiser(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), EDMSchedule())
    >>> target = GeometricTarget([normal, normal], [2.0, -0.5])
    >>> round(target.terms(torch.tensor([[1.0, 0.0]]), 1.0).log_weight_rate.item(), 6)
    0.1875
    """

    def __init__(
        self, denoisers: Sequence[Denoiser], exponents: Sequence[float], *, noise_scale: float = 1.0
    ) -> None:
        self.denoisers = tuple(denoisers)
        self.exponents = tuple(float(exponent) for exponent in exponents)
        if not self.denoisers or len(self.denoisers) != len(self.exponents):
            raise ValueError(
                "denoisers and exponents are to be one or more and as many, "
                f"got {len(self.denoisers)} and {len(self.exponents)}"
            )
        self._total = math.fsum(self.exponents)
        if not 0 < self._total < math.inf:
            raise ValueError(f"exponents is to have a positive sum, got {list(self.exponents)}")
        self.schedule = self.denoisers[0].schedule
        for denoiser in self.denoisers:
            if denoiser.schedule != self.schedule:
                raise ValueError(
                    f"denoisers is to share one schedule, got {self.schedule} and {denoiser.schedule}"
                )
        if not 0 <= noise_scale < math.inf:
            raise ValueError(f"noise_scale is to be 0 or more, got {noise_scale}")
        self.noise_scale = noise_scale

    def terms(self, x: Tensor, t: float) -> CorrectorTerms:
        """Drift (B, *event), noise and weight rate (B,) of the particles x, (B, *event), at time t."""
        f, square = _coefficients(self.schedule, t)
        time = x.new_tensor(t)
        scores = [
            (exponent, denoiser.score(x, time))
            for exponent, denoiser in zip(self.exponents, self.denoisers, strict=True)
            if exponent
        ]
        mixed = torch.zeros_like(x)
        for exponent, score in scores:
            mixed = mixed + exponent * score
        # |s|^2 - sum b_i |s_i|^2, by distances from the mean score: two large sums would cancel each other
        # wherever the models agree.
        mean = mixed / self._total
        energy = (1 - 1 / self._total) * _dot(mixed, mixed)
        for exponent, score in scores:
            apart = score - mean
            energy = energy - exponent * _dot(apart, apart)
        rate = (self._total - 1) * f * math.prod(x.shape[1:]) + square / 2 * energy
        drift = (1 + self.noise_scale**2) / 2 * square * mixed - f * x
        return CorrectorTerms(drift, self.noise_scale * math.sqrt(square), rate)

    def sample_prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws of ``N(0, sigma(t_max)^2 / B I)``, which p_t is at t_max."""
        noise = self.schedule.sample_prior(shape, generator=generator, dtype=dtype, device=device)
        return noise / math.sqrt(self._total)

    def log_prior_normalizer(self, n_features: int) -> float:
        """Natural log of the integral of ``prod q_i^b_i`` at t_max, for n_features dimensions.

        Added to `FeynmanKacResult.log_normalizer` it gives that at the end.
        """
        variance = float(self.schedule.sigma(self.schedule.t_max)) ** 2
        rest = (1 - self._total) * math.log(2 * math.pi * variance)
        return n_features / 2 * (rest - math.log(self._total))


def annealed(denoiser: Denoiser, beta: float, *, noise: Noise = "target") -> GeometricTarget:
    """The density of a model at another temperature, ``q^beta`` (Skreta et al., 2025, arXiv 2503.02819).

    Arguments:
        denoiser: the model of q.
        beta: inverse temperature: above 1 for sharper samples, below for more varied ones.
        noise: "target" scales the score by beta and keeps the noise; "tempered" scales the score by
            (1 + beta)/2 and the noise by ``1 / sqrt(beta)``. Above beta 2 the tempered particles drift off
            the target faster than weights can bring them back.

    Raises ValueError for a beta that is not positive and an unknown noise.

    >>> from assay.diffusion import EDMSchedule, GaussianMixtureDenoiser, annealed, sample_feynman_kac
    >>> schedule = EDMSchedule(sigma_min=0.01, sigma_max=15)
    >>> normal = GaussianMixtureDenoiser(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), schedule)
    >>> target, generator = annealed(normal, 2.0), torch.Generator().manual_seed(0)
    >>> x = target.sample_prior((4000, 2), generator=generator)
    >>> result = sample_feynman_kac(target, x, schedule.timesteps(200), generator=generator)
    >>> round(result.x.var().item(), 1)
    0.5
    """
    check_choice("noise", noise, get_args(Noise))
    if not 0 < beta < math.inf:
        raise ValueError(f"beta is to be positive, got {beta}")
    return GeometricTarget([denoiser], [beta], noise_scale=1.0 if noise == "target" else beta**-0.5)


def guided(unconditional: Denoiser, conditional: Denoiser, weight: float) -> GeometricTarget:
    """The density that classifier-free guidance means, ``q_u^(1-w) q_c^w`` (Skreta et al., 2025, arXiv
    2503.02819).

    Arguments:
        unconditional: the model of q_u.
        conditional: the model of q_c, e.g. the same network with its condition bound.
        weight: w, 0 for the unconditional model, 1 for the conditional one, above 1 to stress the condition.

    Raises ValueError for different schedules.

    >>> from assay.diffusion import EDMSchedule, GaussianMixtureDenoiser, guided
    >>> broad, narrow = (
    ...     GaussianMixtureDenoiser(torch.zeros(1, 1), torch.tensor([[[v]]]), torch.ones(1), EDMSchedule())
    ...     for v in (3.0, 1.0)
    ... )
    >>> terms = guided(broad, narrow, 2.0).terms(torch.ones(1, 1), 1.0)
    >>> terms.drift.item(), round(terms.log_weight_rate.item(), 6)
    (-1.5, 0.125)
    """
    return GeometricTarget([unconditional, conditional], [1 - weight, weight])


def product(denoisers: Sequence[Denoiser], exponents: Sequence[float] | None = None) -> GeometricTarget:
    """The product of models' densities, each to a power (Skreta et al., 2025, arXiv 2503.02819).

    Arguments:
        denoisers: the models, of one schedule.
        exponents: the powers; 1 each if None.

    Raises ValueError as `GeometricTarget` does.

    >>> from assay.diffusion import EDMSchedule, GaussianMixtureDenoiser, product
    >>> normal = GaussianMixtureDenoiser(torch.zeros(1, 1), torch.eye(1)[None], torch.ones(1), EDMSchedule())
    >>> product([normal, normal, normal]).exponents
    (1.0, 1.0, 1.0)
    """
    return GeometricTarget(denoisers, (1.0,) * len(denoisers) if exponents is None else exponents)


class RewardTilted:
    """The densities ``p_t ~ q_t exp(b(t) r(x))`` of a model and a reward (Skreta et al., 2025, arXiv
    2503.02819).

    With s the model's score, f and g those of the forward process and b' the derivative in generative time::

        dx      = (-f x + g^2 s + b g^2/2 grad r) dt + g dW
        d log w = [ b' r + b <grad r, g^2/2 s - f x> ] dt

    Arguments:
        denoiser: the model of q.
        reward: r, from particles (B, *event) to (B,), differentiable, each of its own particle alone.
        strength: b of a time of the schedule, 0 at t_max; the samples are of ``q exp(b r)`` with b at the
            last time of positive noise. Weights spread least if it rises late, when the noise has come down
            to the size of the data.
        strength_rate: its derivative in the schedule's time; None for a central difference.

    Calling `terms` raises ValueError if the reward is not of shape (B,) or does not depend differentiably on
    x.

    >>> from assay.diffusion import EDMSchedule, GaussianMixtureDenoiser, RewardTilted, sample_feynman_kac
    >>> schedule = EDMSchedule(sigma_min=0.01, sigma_max=15)
    >>> normal = GaussianMixtureDenoiser(torch.zeros(1, 1), torch.eye(1)[None], torch.ones(1), schedule)
    >>> target = RewardTilted(normal, lambda x: x[:, 0], strength=lambda t: (1 - t / 15) ** 4)
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = target.sample_prior((4000, 1), generator=generator)
    >>> result = sample_feynman_kac(target, x, schedule.timesteps(200), generator=generator)
    >>> round(result.x.mean().item(), 1)
    1.0
    """

    def __init__(
        self,
        denoiser: Denoiser,
        reward: Callable[[Tensor], Tensor],
        *,
        strength: Callable[[float], float],
        strength_rate: Callable[[float], float] | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.reward = reward
        self.strength = strength
        self.strength_rate = strength_rate or self._difference

    def _difference(self, t: float) -> float:
        step = _RELATIVE_DIFFERENCE * self.schedule.t_max
        low, high = max(t - step, 0.0), min(t + step, self.schedule.t_max)
        return (self.strength(high) - self.strength(low)) / (high - low)

    def terms(self, x: Tensor, t: float) -> CorrectorTerms:
        """Drift (B, *event), noise and weight rate (B,) of the particles x, (B, *event), at time t."""
        f, square = _coefficients(self.schedule, t)
        strength, rise = self.strength(t), -self.strength_rate(t)
        with torch.enable_grad():
            points = x.detach().requires_grad_()
            reward = self.reward(points)
            if reward.shape != x.shape[:1]:
                raise ValueError(f"reward is to return shape ({len(x)},), got {tuple(reward.shape)}")
            gradient = None
            if reward.requires_grad:
                (gradient,) = torch.autograd.grad(reward.sum(), points, allow_unused=True)
        if gradient is None:
            raise ValueError("reward is to be differentiable in x, but no gradient reaches x")
        half_score = square / 2 * self.denoiser.score(x, x.new_tensor(t))
        drift = 2 * half_score + strength * square / 2 * gradient - f * x
        rate = rise * reward.detach().double() + strength * _dot(gradient, half_score - f * x)
        return CorrectorTerms(drift, math.sqrt(square), rate)

    def sample_prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws of the schedule's prior, which p_t is at t_max."""
        return self.schedule.sample_prior(shape, generator=generator, dtype=dtype, device=device)


def systematic_resample(log_weights: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Indices of the particles that go on, each K W_k times, rounded up or down (Kitagawa, 1996; Skreta et
    al., 2025, arXiv 2503.02819).

    One uniform number places K equally spaced points on the weights' cumulative sum; it is exact in
    expectation and leaves equal weights as they are.

    Arguments:
        log_weights: (K,), natural, up to a constant; minus infinity is never drawn.
        generator: of the uniform number, on the device of log_weights.

    Returns (K,), long, not decreasing. Raises ValueError for weights that are not (K,), or all minus
    infinity, or nan or plus infinity somewhere.

    >>> systematic_resample(torch.tensor([0.75, 0.25, 0.0, 0.0]).log()).tolist()
    [0, 0, 0, 1]
    """
    if log_weights.ndim != 1 or not len(log_weights):
        raise ValueError(f"log_weights is to have shape (K,), got {tuple(log_weights.shape)}")
    log_weights = log_weights.double()
    largest = log_weights.max()
    if not torch.isfinite(largest):
        raise ValueError(f"log_weights is to have a finite maximum and no nan, got {float(largest)}")
    # Divided by the largest and not by their sum, so that equal weights add up without rounding.
    cumulative = torch.exp(log_weights - largest).cumsum(0)
    total = cumulative[-1]
    shift = torch.rand((), generator=generator, dtype=torch.float64, device=log_weights.device)
    count = len(log_weights)
    points = (torch.arange(count, dtype=torch.float64, device=log_weights.device) + shift) * (total / count)
    points = points.clamp_max(torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True)


@dataclass(frozen=True)
class FeynmanKacResult:
    """Weighted samples, and what sampling told of the target (Skreta et al., 2025, arXiv 2503.02819).

    `x` is (K, *event) and `log_weights` (K,), natural, float64: expectations are means weighted with their
    softmax, and ``x[systematic_resample(log_weights)]`` are unweighted samples. `log_normalizer` is an
    estimate of ``ln(Z_end / Z_start)``, nan where weights were clipped or left out in a step with noise.
    `effective_sample_size`, (n_steps,), float64, is a fraction of K after each step, before resampling;
    `n_resamplings` counts how often that happened.
    """

    x: Tensor
    log_weights: Tensor
    log_normalizer: float
    effective_sample_size: Tensor
    n_resamplings: int


@torch.no_grad()
def sample_feynman_kac(
    target: FeynmanKacTarget,
    x: Tensor,
    timesteps: Tensor,
    *,
    corrected: bool = True,
    resampling: Resampling = "systematic",
    ess_threshold: float = 1.0,
    active_interval: tuple[float, float] | None = None,
    weight_clip: float | None = None,
    generator: torch.Generator | None = None,
) -> FeynmanKacResult:
    """Samples a target by weighted particles that are resampled on the way (Skreta et al., 2025, arXiv
    2503.02819).

    Euler and Maruyama with coefficients at the noisier end; a step that ends at sigma 0 adds no noise and no
    weight. Weights need finer steps than samples do: 200 or more on an EDM grid.

    Arguments:
        target: a `GeometricTarget`, as `annealed`, `guided` and `product` make it, a `RewardTilted`, or
            another object with a schedule and `terms`.
        x: (K, *event), K particles of ``target.sample_prior``.
        timesteps: (n + 1,), strictly decreasing, e.g. ``target.schedule.timesteps(n)``.
        corrected: False for the heuristic without weights.
        resampling: "systematic", or "none" for importance sampling.
        ess_threshold: resample where the effective sample size falls below this fraction of K: 1 after every
            step, 0 never. Near 1 is best for the spread within a mode; somewhat less, such as 0.9, loses
            fewer modes that lie apart.
        active_interval: (low, high), the times at which steps are weighted and resampled; always if None.
        weight_clip: subtract the mean from each step's log weights and clip them to this size, which steadies
            large models and biases the samples.
        generator: of noise and resampling, on the device of x.

    Raises ValueError for arguments outside these, and for weights that degenerate, with the time.

    >>> from assay.diffusion import EDMSchedule, GaussianMixtureDenoiser, product, sample_feynman_kac
    >>> schedule = EDMSchedule(sigma_min=0.01, sigma_max=15)
    >>> experts = [
    ...     GaussianMixtureDenoiser(torch.tensor([[m]]), torch.eye(1)[None], torch.ones(1), schedule)
    ...     for m in (-1.0, 2.0)
    ... ]
    >>> target, generator = product(experts), torch.Generator().manual_seed(0)
    >>> x = target.sample_prior((4000, 1), generator=generator)
    >>> result = sample_feynman_kac(target, x, schedule.timesteps(200), generator=generator)
    >>> round(result.x.mean().item(), 1), round(result.x.var().item(), 1)
    (0.5, 0.5)
    """
    check_choice("resampling", resampling, get_args(Resampling))
    if not 0 <= ess_threshold <= 1:
        raise ValueError(f"ess_threshold is to lie in [0, 1], got {ess_threshold}")
    if weight_clip is not None and not weight_clip > 0:
        raise ValueError(f"weight_clip is to be positive, got {weight_clip}")
    low, high = active_interval or (-math.inf, math.inf)
    if not low <= high:
        raise ValueError(f"active_interval is to be (low, high), got {active_interval}")
    if x.ndim < 2 or not len(x):
        raise ValueError(f"x is to have shape (K, *event) with K of 1 or more, got {tuple(x.shape)}")
    times = checked_timesteps(timesteps)
    sigmas = target.schedule.sigma(torch.tensor(times, dtype=torch.float64)).tolist()
    log_weights = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_normalizer, n_resamplings, exact = 0.0, 0, weight_clip is None
    size, sizes = 1.0, []
    for time, following, sigma in zip(times, times[1:], sigmas[1:], strict=False):
        terms = target.terms(x, time)
        step = time - following
        x = x + step * terms.drift
        if sigma > 0:
            if terms.diffusion:
                noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x = x + math.sqrt(step) * terms.diffusion * noise
            if corrected and low <= time <= high:
                gain = step * terms.log_weight_rate.double()
                if weight_clip is not None:
                    gain = (gain - gain.mean()).clamp(-weight_clip, weight_clip)
                log_weights = log_weights + gain
                log_mean, size = _log_mean_and_size(log_weights, time)
            else:
                exact = False
        sizes.append(size)
        # Equal weights have size 1 up to rounding, which is no reason to resample.
        if resampling == "systematic" and size < ess_threshold - _ROUNDING:
            x = x[systematic_resample(log_weights, generator=generator)]
            log_normalizer += log_mean
            log_weights, size = torch.zeros_like(log_weights), 1.0
            n_resamplings += 1
    log_normalizer += _log_mean_and_size(log_weights, times[-1])[0]
    return FeynmanKacResult(
        x,
        log_weights,
        log_normalizer if exact else math.nan,
        torch.tensor(sizes, dtype=torch.float64),
        n_resamplings,
    )


def _coefficients(schedule: NoiseSchedule, t: float) -> tuple[float, float]:
    """f and g^2."""
    return float(schedule.drift_coefficient(t)), float(schedule.diffusion(t)) ** 2


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """The inner product of each pair of events, (B,), summed in float64."""
    return (x * y).flatten(1).sum(1, dtype=torch.float64)


def _log_mean_and_size(log_weights: Tensor, time: float) -> tuple[float, float]:
    """The log of the weights' mean, and their effective sample size as a fraction."""
    largest = log_weights.max()
    weights = torch.exp(log_weights - largest)
    total, squares = float(weights.sum()), float(weights.square().sum())
    if not math.isfinite(total):
        raise ValueError(
            f"log weights are to be finite for a particle and nan for none, got a maximum of "
            f"{float(largest)} at time {time:.6g}"
        )
    return float(largest) + math.log(total / len(weights)), total**2 / squares / len(weights)
