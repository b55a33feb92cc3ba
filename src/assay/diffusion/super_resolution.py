"""Multimodal super-resolution: one diffusion prior of fine fields, conditioned on whatever was observed.

Source: Chakraborty, Guan, Stock, Arcomano, Cervone and Maulik, "Multimodal Atmospheric Super-Resolution With
Deep Generative Models", 2025, arXiv 2506.22780.

The prior is trained once, on fine fields alone. What is observed comes in while sampling: each source m of
observations y_m, made of a field by a linear operator A_m, adds to the score at noise level sigma::

    G = grad_{x_t} sum_m -(w_m / 2) sum (y_m - A_m D(x_t, sigma))^2 / (std_m^2 + inflation_m sigma^2)

a gradient through the denoiser D. The inflation stands for how far x_0 may still be from D. Under a Gaussian
prior the variance in its place is ``sigma^2 A_m J A_m'``, J the derivative of D: as sigma falls, sigma^2 for
a point on the grid and sigma^2 / 16 for a mean over 4 x 4 cells. A step of length h is stable while ``h sigma
|A_m J|^2`` is below twice the whole variance; where it is not, clip G or take smaller steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from assay.diffusion.sde import (
    Denoiser,
    Time,
    check_at_least,
    check_choice,
    checked_timesteps,
    noise_levels,
    with_progress,
)

CoarseMethod = Literal["area", "bilinear"]

_ROUNDING = 1e-6


# ---------------------------------------------------------------------- observations


class Observation(Protocol):
    """What sampling can be conditioned on: any object with this method (arXiv 2506.22780)."""

    def log_likelihood(self, x0_hat: Tensor, noise_ratio: float) -> Tensor:
        """The log-likelihood of each denoised field, (B,), up to a constant.

        Arguments:
            x0_hat: (B, C, H, W).
            noise_ratio: sigma / alpha of the noise that was removed.
        """


class _LinearObservation(ABC):
    """Values with independent Gaussian errors, seen through a linear operator."""

    def __init__(
        self, values: Tensor, std: float | Tensor, inflation: float, weight: float, event: str, ndim: int
    ) -> None:
        self.values = torch.as_tensor(values).detach()
        if self.values.ndim not in (ndim, ndim + 1) or not self.values.numel():
            raise ValueError(
                f"values is to have shape ({event}) or (B, {event}) and not to be empty, "
                f"got {tuple(self.values.shape)}"
            )
        if not self.values.is_floating_point() or not torch.isfinite(self.values).all():
            raise ValueError("values is to hold finite floating-point numbers; drop what is missing before")
        self.std = torch.as_tensor(std, dtype=self.values.dtype, device=self.values.device).detach()
        if not ((self.std > 0) & torch.isfinite(self.std)).all():
            raise ValueError(f"std is to be positive and finite, got {std}")
        try:
            self.std.expand(self.values.shape)
        except RuntimeError:
            raise ValueError(
                f"std is to be a number or broadcast to values, {tuple(self.values.shape)}, "
                f"got shape {tuple(self.std.shape)}"
            ) from None
        for name, value in (("inflation", inflation), ("weight", weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is to be 0 or more, got {value}")
        self.inflation = inflation
        self.weight = weight
        self._batch = len(self.values) if self.values.ndim > ndim else None

    @abstractmethod
    def operator(self, x: Tensor) -> Tensor:
        """What would be observed of the fields x, (B, C, H, W), without errors: (B, ...)."""

    def log_likelihood(self, x0_hat: Tensor, noise_ratio: float) -> Tensor:
        """``-(weight / 2) sum r^2 / (std^2 + inflation noise_ratio^2)``, r the residual, (B,).

        Arguments:
            x0_hat: (B, C, H, W), denoised fields.
            noise_ratio: sigma / alpha of the noise that was removed.

        Raises ValueError for fields that the observation is none of.
        """
        if self._batch not in (None, len(x0_hat)):
            raise ValueError(f"x is to have {self._batch} fields, as many as values, got {len(x0_hat)}")
        residual = self.values.to(x0_hat.dtype) - self.operator(x0_hat)
        variance = self.std.square() + self.inflation * noise_ratio**2
        misfit: Tensor = (residual.square() / variance.to(x0_hat.dtype)).flatten(1).sum(1)
        return -self.weight / 2 * misfit


class CoarseObservation(_LinearObservation):
    """The field on a coarse grid (Chakraborty et al., 2025, arXiv 2506.22780).

    Arguments:
        values: (C, h, w), in the units of the prior's fields; or (B, C, h, w), other ones for each sample.
        std: standard deviation of their errors; a number or a tensor that broadcasts to values.
        inflation: the share of the noise variance that is added to that of the errors.
        weight: factor of the log-likelihood; 0 switches the observation off.
        method: "area" for means over the cells of the coarse grid, "bilinear" for interpolation between the
            (up to four) fine cells around the centre of each, as `torch.nn.functional.interpolate` has it.

    Raises ValueError for values of another shape or not finite, a std that is not positive, a negative
    inflation or weight, and an unknown method.

    >>> coarse = CoarseObservation(torch.zeros(1, 1, 2), std=0.1)
    >>> coarse.operator(torch.arange(8.0).reshape(1, 1, 2, 4)).flatten().tolist()
    [2.5, 4.5]
    """

    def __init__(
        self,
        values: Tensor,
        *,
        std: float | Tensor,
        inflation: float = 0.1,
        weight: float = 1.0,
        method: CoarseMethod = "area",
    ) -> None:
        super().__init__(values, std, inflation, weight, "C, h, w", 3)
        check_choice("method", method, get_args(CoarseMethod))
        self.method = method

    def operator(self, x: Tensor) -> Tensor:
        """The fields x, (B, C, H, W), on the coarse grid, (B, C, h, w).

        Raises ValueError for another number of channels and for fields coarser than the grid.
        """
        channels, height, width = self.values.shape[-3:]
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] < height or x.shape[3] < width:
            raise ValueError(
                f"x is to have shape (B, {channels}, H, W), not coarser than {(height, width)}, "
                f"got {tuple(x.shape)}"
            )
        if self.method == "area":
            return functional.adaptive_avg_pool2d(x, (height, width))
        return functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


class PointObservation(_LinearObservation):
    """The field at scattered points, interpolated bilinearly (Chakraborty et al., 2025, arXiv 2506.22780).

    Arguments:
        values: (N,), in the units of the prior's fields; or (B, N), other ones for each sample.
        locations: (N, 2), row and column in grid cells, not whole; see `grid_coordinates`.
        channels: (N,), integers, which channel each value is of.
        std: standard deviation of their errors; a number or a tensor that broadcasts to values.
        inflation: the share of the noise variance that is added to that of the errors.
        weight: factor of the log-likelihood; 0 switches the observation off.
        periodic: whether columns go round, as longitudes do. Rows never do.

    Raises ValueError for lengths that differ, numbers that are not finite, channels that are negative or no
    integers, a std that is not positive, and a negative inflation or weight.

    >>> points = PointObservation(torch.zeros(1), torch.tensor([[0.5, 3.5]]), torch.tensor([0]), std=0.1)
    >>> points.operator(torch.arange(8.0).reshape(1, 1, 2, 4)).tolist()  # the mean of 3, 0, 7 and 4
    [[3.5]]
    """

    def __init__(
        self,
        values: Tensor,
        locations: Tensor,
        channels: Tensor,
        *,
        std: float | Tensor,
        inflation: float = 0.1,
        weight: float = 1.0,
        periodic: bool = True,
    ) -> None:
        super().__init__(values, std, inflation, weight, "N", 1)
        self.locations = torch.as_tensor(locations, dtype=torch.float64).detach()
        self.channels = torch.as_tensor(channels).detach()
        count = self.values.shape[-1]
        if self.locations.shape != (count, 2) or not torch.isfinite(self.locations).all():
            raise ValueError(
                f"locations is to be finite, of shape {(count, 2)} for {count} values, "
                f"got shape {tuple(self.locations.shape)}"
            )
        if self.channels.shape != (count,):
            raise ValueError(
                f"channels is to have shape {(count,)} for {count} values, got {tuple(self.channels.shape)}"
            )
        if self.channels.is_floating_point() or self.channels.dtype == torch.bool or self.channels.min() < 0:
            raise ValueError(f"channels is to hold integers of 0 or more, got {self.channels.tolist()}")
        self.channels = self.channels.long()
        self.periodic = periodic
        # As numbers of Python, once: on a GPU to look at a tensor is to wait for it.
        self._last_channel = int(self.channels.max())
        self._ends = list(zip(self.locations.amin(0).tolist(), self.locations.amax(0).tolist(), strict=True))

    def operator(self, x: Tensor) -> Tensor:
        """The fields x, (B, C, H, W), at the points, (B, N).

        Raises ValueError for points that are not on their grid, by more than 1e-6, or not in their channels.
        """
        if x.ndim != 4 or x.shape[1] <= self._last_channel:
            raise ValueError(
                f"x is to have shape (B, C, H, W), C above the channel {self._last_channel}, "
                f"got {tuple(x.shape)}"
            )
        height, width = x.shape[2:]
        ends = zip(("rows", "columns"), self._ends, (height, width), (False, self.periodic), strict=True)
        for name, (least, greatest), size, endless in ends:
            if not endless and (least < -_ROUNDING or greatest > size - 1 + _ROUNDING):
                raise ValueError(f"{name} are to be from 0 to {size - 1}, got {least:g} to {greatest:g}")
        row, column = self.locations.unbind(1)
        top, lower = _neighbours(row.clamp(0, height - 1))
        left, right = _neighbours(column.remainder(width) if self.periodic else column.clamp(0, width - 1))
        bottom = (top + 1).clamp_max(height - 1)
        # A column just below 0 rounds to the width. Next to the last column is the first, whose share is 0
        # where columns do not go round.
        left, next_column = left.remainder(width), (left + 1).remainder(width)
        plane = self.channels * height
        corners = torch.cat([(plane + r) * width + c for r in (top, bottom) for c in (left, next_column)])
        shares = torch.stack([r * c for r in (1 - lower, lower) for c in (1 - right, right)]).to(x.dtype)
        found = x.flatten(1).index_select(1, corners).reshape(len(x), *shares.shape)
        at_points: Tensor = (found * shares).sum(1)
        return at_points


def _neighbours(position: Tensor) -> tuple[Tensor, Tensor]:
    """The cell before a position, and the share of the one after it."""
    before = position.floor()
    return before.long(), position - before


def grid_coordinates(
    latitude: ArrayLike | Tensor,
    longitude: ArrayLike | Tensor,
    shape: tuple[int, int],
    *,
    poles: bool = True,
) -> Tensor:
    """Where places on the globe are in a field, rows and columns in grid cells, (N, 2), float64.

    Rows run from south to north, columns from longitude 0 to the east (arXiv 2506.22780).

    Arguments:
        latitude: (N,), degrees from -90 to 90.
        longitude: (N,), degrees; -90 and 270 are the same.
        shape: (H, W).
        poles: whether the first and last rows are the poles, as in ERA5's own grid of 721 rows. If not, the
            H rows are centres of equal bands, as in ERA5 at 1.40625 degrees of 128 rows, and places beyond
            the last row are given that row.

    Raises ValueError for lengths that differ, numbers that are not finite, latitudes beyond a pole, and a
    shape without cells.

    >>> grid_coordinates([0.0, 90.0], [-90.0, 0.0], (5, 8)).tolist()
    [[2.0, 6.0], [4.0, 0.0]]
    """
    places = [torch.as_tensor(degrees, dtype=torch.float64) for degrees in (latitude, longitude)]
    if places[0].ndim != 1 or places[0].shape != places[1].shape:
        raise ValueError(
            "latitude and longitude are to be two vectors of one length, "
            f"got shapes {tuple(places[0].shape)} and {tuple(places[1].shape)}"
        )
    if not torch.isfinite(torch.stack(places)).all():
        raise ValueError("latitude and longitude are to be finite")
    if (places[0].abs() > 90).any():
        raise ValueError(f"latitude is to be from -90 to 90, got {places[0][places[0].abs() > 90].tolist()}")
    height, width = shape
    check_at_least("the height of shape", height, 1)
    check_at_least("the width of shape", width, 1)
    northing = (places[0] + 90) / 180
    row = northing * (height - 1) if poles else (northing * height - 0.5).clamp(0, height - 1)
    return torch.stack((row, places[1].remainder(360) / 360 * width), dim=1)


# ---------------------------------------------------------------------- sampling


def posterior_score(
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    observations: Sequence[Observation],
    *,
    scale: float = 1.0,
    clip: float | None = None,
) -> Tensor:
    """The prior's score, guided by observations (Chakraborty et al., 2025, arXiv 2506.22780).

    ``(alpha D - x) / sigma^2 + scale G``, G the gradient of the sum of all log-likelihoods of D with respect
    to x, through the denoiser.

    Arguments:
        denoiser: the prior, of any schedule.
        x: (B, *event), noised fields.
        t: one time for all.
        observations: any objects with `log_likelihood`; none for the prior's score.
        scale: factor of the guidance.
        clip: each element of G is cut off at minus and plus this.

    Returns the score in the shape of x, without a graph. Raises ValueError for more than one time and a clip
    that is not positive.

    >>> from assay.diffusion import CoarseObservation, EDMSchedule, MLPDenoiser, UNetDenoiser, posterior_score
    >>> model = UNetDenoiser(1, EDMSchedule(), width=8)  # untrained; it takes the data for standard normal
    >>> x, coarse = torch.zeros(1, 1, 4, 4), CoarseObservation(torch.ones(1, 2, 2), std=0.5, inflation=0.0)
    >>> posterior_score(model, x, 1.0, [coarse])[0, 0, 0].tolist()  # 1/2 of J, 1/4 of a mean, 1 / std^2
    [0.5, 0.5, 0.5, 0.5]
    """
    _check_clip(clip)
    alpha, sigma = noise_levels(denoiser.schedule, x, t)
    if alpha.numel() != 1:
        raise ValueError(f"t is to be one time, got {alpha.numel()}")
    if not observations:
        with torch.no_grad():
            return denoiser.score(x, t)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        clean = denoiser(x, t)
        noise_ratio = float(denoiser.schedule.sigma(t) / denoiser.schedule.alpha(t))
        likelihood = torch.stack([each.log_likelihood(clean, noise_ratio) for each in observations]).sum()
        (guidance,) = torch.autograd.grad(likelihood, x)
    if clip is not None:
        guidance = guidance.clamp(-clip, clip)
    score: Tensor = (alpha * clean.detach() - x.detach()) / sigma.square() + scale * guidance
    return score


@dataclass(frozen=True)
class PosteriorEnsemble:
    """Samples of fields given observations, (M, C, H, W) (Chakraborty et al., 2025, arXiv 2506.22780).

    >>> ensemble = PosteriorEnsemble(torch.tensor([[1.0], [3.0]]))
    >>> ensemble.mean.tolist(), round(ensemble.std.item(), 6)
    ([2.0], 1.414214)
    """

    samples: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean of the samples, (C, H, W)."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Their standard deviation, (C, H, W), with M - 1 in place of M; NaN for a single sample."""
        return ((self.samples - self.mean).square().sum(0) / (len(self.samples) - 1)).sqrt()


def sample_posterior(
    denoiser: Denoiser,
    observations: Sequence[Observation],
    event_shape: Sequence[int],
    n_samples: int,
    timesteps: Tensor,
    *,
    scale: float = 1.0,
    clip: float | None = 1.0,
    churn: float = 0.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> PosteriorEnsemble:
    """Samples fields given observations, without training (Chakraborty et al., 2025, arXiv 2506.22780).

    The stochastic Heun sampler of Karras et al. (2022) with `posterior_score`, all samples in one batch. Of
    n steps that end at 0 it evaluates the denoiser and its derivative 2 n - 1 times.

    Arguments:
        denoiser: the prior, of a schedule whose time is the noise level, as `EDMSchedule` has it.
        observations: any objects with `log_likelihood`; none for samples of the prior.
        event_shape: (C, H, W).
        n_samples: M.
        timesteps: (n + 1,), strictly decreasing, e.g. ``EDMSchedule().timesteps(25)``.
        scale: factor of the guidance.
        clip: each element of the guidance is cut off at minus and plus this, in units of one over those of
            the fields; None for no limit.
        churn: how much noise is added and removed again over all steps, to forget their errors; each step
            raises the noise by the factor 1 + min(churn / n, sqrt(2) - 1).
        generator: of all noise, on the device.
        dtype, device: of the samples.
        progress: whether to show a bar on the terminal.

    Raises ValueError for another schedule, timesteps that do not fall to 0 or more, n_samples below 1, a
    negative churn and a clip that is not positive. Raises RuntimeError where the samples are no longer
    finite, which steps too long for the inflation do.

    >>> from assay.diffusion import CoarseObservation, EDMSchedule, UNetDenoiser, sample_posterior
    >>> schedule = EDMSchedule()
    >>> model = UNetDenoiser(2, schedule, width=8, periodic_width=True)  # to be trained with fit_denoiser
    >>> coarse = CoarseObservation(torch.ones(2, 2, 4), std=0.1)
    >>> ensemble = sample_posterior(model, [coarse], (2, 8, 16), 4, schedule.timesteps(10))
    >>> ensemble.samples.shape, ensemble.std.shape
    (torch.Size([4, 2, 8, 16]), torch.Size([2, 8, 16]))
    """
    check_at_least("n_samples", n_samples, 1)
    _check_clip(clip)
    if not 0 <= churn < math.inf:
        raise ValueError(f"churn is to be 0 or more, got {churn}")
    times = checked_timesteps(timesteps)
    if times[-1] < 0:
        raise ValueError(f"timesteps is to fall to 0 or more, got {times[-1]} at its end")
    levels = torch.tensor(times, dtype=torch.float64)
    schedule = denoiser.schedule
    alphas, sigmas = schedule.alpha(levels), schedule.sigma(levels)
    if not (torch.allclose(alphas, torch.ones_like(alphas)) and torch.allclose(sigmas, levels)):
        raise ValueError(
            f"the schedule's time is to be its noise level, as EDMSchedule has it, got {schedule}"
        )

    def noise() -> Tensor:
        return torch.randn(n_samples, *event_shape, generator=generator, dtype=dtype, device=device)

    def slope(x: Tensor, t: float) -> Tensor:
        return -t * posterior_score(denoiser, x, t, observations, scale=scale, clip=clip)

    raised = 1 + min(churn / (len(times) - 1), math.sqrt(2) - 1)
    x = times[0] * noise()
    for i in with_progress(range(len(times) - 1), "sampling", progress):
        start, end = times[i] * raised, times[i + 1]
        if churn:
            x = x + math.sqrt(start**2 - times[i] ** 2) * noise()
        first = slope(x, start)
        if end > 0:
            guess = x + (end - start) * first
            x = x + (end - start) * (first + slope(guess, end)) / 2
        else:
            x = x + (end - start) * first
        if not torch.isfinite(x).all():
            raise RuntimeError(
                f"the samples are no longer finite at noise level {end:g}: a larger inflation, more "
                "timesteps or a clip makes the guided steps stable"
            )
    return PosteriorEnsemble(x)


def _check_clip(clip: float | None) -> None:
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is to be positive or None, got {clip}")


# ---------------------------------------------------------------------- how good an ensemble is


def crps_ensemble(samples: Tensor, truth: Tensor) -> float:
    """The continuous ranked probability score of an ensemble, its mean over all places; the lower the better.

    ``mean |e - y| - mean |e - e'| / 2`` over all M^2 pairs of members e and e', the score of the ensemble's
    own distribution (Gneiting and Raftery, 2007), used in arXiv 2506.22780's setting for each grid cell.

    Arguments:
        samples: (M, ...).
        truth: (...), y.

    Raises ValueError for shapes that do not match.

    >>> crps_ensemble(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0]))
    0.5
    """
    members, truth = _ensemble(samples, truth, least=1)
    count = len(members)
    # The sum over pairs, from ranks: the member of rank i is the larger one in i pairs. NumPy sorts these
    # many times faster than torch does.
    ordered = np.sort(members.reshape(count, -1).mT.contiguous().cpu().numpy(), axis=1)
    pairs = ordered.mean(0) @ np.arange(1 - count, count, 2) / count**2
    return float((members - truth).abs().mean()) - float(pairs)


def spread_skill_ratio(samples: Tensor, truth: Tensor) -> float:
    """The spread of an ensemble over the error of its mean: 1 if that is what the spread says.

    ``sqrt((M + 1) / M mean var) / rmse`` with the unbiased variance (Fortin et al., 2014), a check of the
    ensemble's uncertainty that arXiv 2506.22780 samples for.

    Arguments:
        samples: (M, ...), M of 2 or more.
        truth: (...).

    Raises ValueError for shapes that do not match and a single sample.

    >>> round(spread_skill_ratio(torch.tensor([[0.0], [2.0]]), torch.tensor([2.0])), 6)
    1.732051
    """
    members, truth = _ensemble(samples, truth, least=2)
    variance = members.var(0).mean() * (len(members) + 1) / len(members)
    return float((variance / (members.mean(0) - truth).square().mean()).sqrt())


def zonal_power_spectrum(fields: Tensor) -> Tensor:
    """The mean square of fields by zonal wavenumber, a mean over rows, for fields as in arXiv 2506.22780.

    One-sided: the sum over the wavenumbers 0 to W // 2 is the mean square.

    Arguments:
        fields: (..., H, W), columns around a circle of latitude.

    Returns (..., W // 2 + 1). Raises ValueError for fewer than two axes.

    >>> wave = torch.cos(2 * torch.pi * torch.arange(8) / 8).expand(3, 8)
    >>> [round(power, 6) for power in zonal_power_spectrum(wave).tolist()]
    [0.0, 0.5, 0.0, 0.0, 0.0]
    """
    if fields.ndim < 2 or not fields.numel():
        raise ValueError(f"fields is to have shape (..., H, W), not empty, got {tuple(fields.shape)}")
    width = fields.shape[-1]
    power: Tensor = (torch.fft.rfft(fields, norm="forward").abs().square()).mean(-2)
    power[..., 1 : (width + 1) // 2] *= 2  # all that have a negative wavenumber beside them
    return power


def _ensemble(samples: Tensor, truth: Tensor, least: int) -> tuple[Tensor, Tensor]:
    members, truth = (torch.as_tensor(value).detach().double() for value in (samples, truth))
    if members.ndim < 1 or len(members) < least or members.shape[1:] != truth.shape or not truth.numel():
        raise ValueError(
            f"samples is to have shape (M, ...) with M >= {least} for a truth of shape (...), "
            f"got {tuple(members.shape)} and {tuple(truth.shape)}"
        )
    return members, truth
