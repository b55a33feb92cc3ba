"""Gaussian score approximation: the analytic models of a learned score, and sampling that skips its start.

Wang and Vastola, "The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its
Applications" (2024), arXiv 2412.09726.

At moderate and high noise a learned score is almost that of a Gaussian with the data's mean mu and covariance
``C = U diag(l) U^T``. Its probability-flow ODE is solved in closed form: of the distance from the mean, ``x -
alpha mu``, the part along u_k grows with the standard deviation ``sqrt(alpha^2 l_k + sigma^2)`` of x_t, and
what is outside the span of U grows with sigma. One matrix formula therefore takes the place of a sampler's
first steps, and any sampler goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from assay.diffusion.sde import (
    Denoiser,
    GaussianMixtureDenoiser,
    NoiseSchedule,
    OdeMethod,
    SamplerResult,
    Time,
    checked_timesteps,
    noise_levels,
    solve_ode,
)

_CHUNK_BYTES = 2**26


def _rows(data: Tensor, least: int = 1) -> Tensor:
    """The data as a matrix, one row for each point."""
    data = torch.as_tensor(data).detach()
    if data.ndim < 2 or len(data) < least:
        raise ValueError(f"data is to have shape (N, *event) with N >= {least}, got {tuple(data.shape)}")
    if not data.is_floating_point() or not torch.isfinite(data).all():
        raise ValueError("data is to hold finite floating-point numbers")
    return data.flatten(1)


def _points(x: Tensor, dim: int) -> Tensor:
    points = x.flatten(1) if x.ndim > 1 else x
    if points.ndim != 2 or points.shape[1] != dim:
        raise ValueError(f"x is to have shape (B, *event) of {dim} numbers a point, got {tuple(x.shape)}")
    return points


class GaussianScore(Denoiser):
    """The score, denoiser and probability flow of a Gaussian (Wang and Vastola, 2024, arXiv 2412.09726).

    Arguments:
        mean: (d,), of the data, in the scale that the network sees.
        covariance: (d, d), of the data.
        schedule: the forward process.
        rank: how many leading principal directions keep their variance; the others have none.

    Points may have any shape (B, *event) with d numbers each. The statistics are kept in float64 and used in
    the dtype of the points; `.float()` spares that conversion. `eigenvalues` (r,) fall, the columns of
    `eigenvectors` (d, r) are theirs.

    Raises ValueError for a covariance that is not (d, d), finite and symmetric or has an eigenvalue below
    -1e-8 (of the largest, where that is above 1), and for a rank outside 1 to d.

    >>> import torch
    >>> from assay.diffusion import EDMSchedule, GaussianScore
    >>> model = GaussianScore(torch.tensor([1.0]), torch.tensor([[4.0]]), EDMSchedule())
    >>> x = torch.tensor([[10.0]])
    >>> round(float(model(x, 3.0)), 6), round(float(model.solution(x, 3.0, 1.0)), 6)
    (3.769231, 6.581563)
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(
        self, mean: Tensor, covariance: Tensor, schedule: NoiseSchedule, *, rank: int | None = None
    ) -> None:
        super().__init__(schedule)
        mean, covariance = (torch.as_tensor(value).detach().double() for value in (mean, covariance))
        if mean.ndim != 1 or not len(mean) or not torch.isfinite(mean).all():
            raise ValueError(f"mean is to be a finite vector (d,), got shape {tuple(mean.shape)}")
        d = len(mean)
        if covariance.shape != (d, d) or not torch.isfinite(covariance).all():
            raise ValueError(f"covariance is to be finite, {(d, d)}, got shape {tuple(covariance.shape)}")
        if not torch.allclose(covariance, covariance.mT, rtol=1e-6, atol=1e-8):
            raise ValueError("covariance is to be symmetric")
        if rank is not None and not 1 <= rank <= d:
            raise ValueError(f"rank is to be from 1 to {d}, got {rank}")
        values, vectors = torch.linalg.eigh(covariance)
        # Rounding leaves eigenvalues of 0 just below it, in proportion to the largest one.
        if values[0] < -1e-8 * max(1.0, float(values[-1])):
            raise ValueError(
                f"covariance is to be positive semi-definite, got the eigenvalue {float(values[0]):.3g}"
            )
        self.register_buffer("mean", mean)
        self.register_buffer("eigenvalues", values.flip(0)[:rank].clamp_min(0))
        self.register_buffer("eigenvectors", vectors.flip(1)[:, :rank].contiguous())

    @classmethod
    def from_data(cls, data: Tensor, schedule: NoiseSchedule, *, rank: int | None = None) -> Self:
        """The Gaussian with the mean and the covariance (divided by N) of `data`, (N, *event).

        Raises ValueError for fewer than 2 rows and for numbers that are not finite.

        >>> from assay.diffusion import EDMSchedule
        >>> data = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
        >>> GaussianScore.from_data(data, EDMSchedule()).eigenvalues.tolist()
        [1.0, 0.0]
        """
        rows = _rows(data, least=2)
        mean = rows.mean(0, dtype=torch.float64)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=rows.device)
        for chunk in torch.split(rows, max(1, _CHUNK_BYTES // (8 * rows.shape[1]))):
            centred = chunk - mean
            covariance.addmm_(centred.mT, centred)
        return cls(mean, covariance / len(rows), schedule, rank=rank)

    def forward(self, x: Tensor, t: Time) -> Tensor:
        points = _points(x, len(self.mean))
        alpha, sigma = noise_levels(self.schedule, points, t)
        data_variance = self.eigenvalues.to(x.dtype)
        variance = (alpha.square() * data_variance + sigma.square()).clamp_min(torch.finfo(x.dtype).tiny)
        mean = self.mean.to(x.dtype)
        shrunk = self._scaled(
            points - alpha * mean, alpha * data_variance / variance, torch.zeros_like(alpha)
        )
        return (mean + shrunk).reshape(x.shape)

    def score(self, x: Tensor, t: Time) -> Tensor:
        points = _points(x, len(self.mean))
        alpha, sigma = noise_levels(self.schedule, points, t)
        variance = alpha.square() * self.eigenvalues.to(x.dtype) + sigma.square()
        distance = points - alpha * self.mean.to(x.dtype)
        return -self._scaled(distance, 1 / variance, 1 / sigma.square()).reshape(x.shape)

    def trajectory(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The solution from the first of the times at each of them, (len(timesteps), B, *event).

        Arguments:
            x: (B, *event), at ``timesteps[0]``.
            timesteps: times in any order, the first with a sigma above 0.

        Raises ValueError for times that are no vector, and a first one without noise.
        """
        points = _points(x, len(self.mean))
        times = torch.as_tensor(timesteps, dtype=torch.float64, device=x.device)
        if times.ndim != 1 or not len(times):
            raise ValueError(f"timesteps is to be a vector of times, got shape {tuple(times.shape)}")
        alpha, sigma = (level(times)[:, None] for level in (self.schedule.alpha, self.schedule.sigma))
        if not sigma[0] > 0:
            raise ValueError(f"the time to start from is to have noise, got {float(times[0])} with sigma 0")
        deviation = (alpha.square() * self.eigenvalues.double() + sigma.square()).sqrt()
        growth, noise_growth = (ratio.to(x.dtype) for ratio in (deviation / deviation[0], sigma / sigma[0]))
        alpha, mean = alpha.to(x.dtype), self.mean.to(x.dtype)
        moved = self._scaled(points - alpha[0] * mean, growth[:, None], noise_growth[:, None])
        return (alpha[:, None] * mean + moved).reshape(len(times), *x.shape)

    def solution(self, x: Tensor, t_from: float, t_to: float) -> Tensor:
        """Where the probability-flow ODE takes x, (B, *event), between two times, forwards or back.

        Raises ValueError where there is no noise at `t_from`.
        """
        return self.trajectory(x, torch.tensor([t_from, t_to], dtype=torch.float64))[1]

    def denoised_solution(self, x: Tensor, t_from: float, t_to: float) -> Tensor:
        """The denoised image of the solution at `t_to`, in the shape of x.

        Of direction k it shows ``l_k / sqrt((l_k + sigma^2)(l_k + sigma_from^2))`` of what x has (alpha = 1),
        so that a feature appears once the noise falls to its standard deviation.
        """
        clean: Tensor = self(self.solution(x, t_from, t_to), t_to)
        return clean

    def _scaled(self, distance: Tensor, along: Tensor, outside: Tensor) -> Tensor:
        """distance (B, d), its principal components times `along` (..., r), the rest times `outside`
        (..., 1)."""
        basis = self.eigenvectors.to(distance.dtype)
        components = distance @ basis
        if basis.shape[1] == len(basis):  # nothing is outside, and nothing need cancel there
            return (along * components) @ basis.mT
        return outside * distance + ((along - outside) * components) @ basis.mT


class EmpiricalScore(Denoiser):
    """The exact score of the noised training set, each of its points a delta (arXiv 2412.09726).

    Its denoiser is the mean of the data, weighed by ``softmax(-|x - alpha x_i|^2 / (2 sigma^2))``; without
    noise, the nearest point.

    Arguments:
        data: (N, *event).
        schedule: the forward process.

    Points may have any shape (B, *event) with as many numbers. Works in chunks of about 256 MB.

    Raises ValueError for data that is empty or not finite.

    >>> import torch
    >>> from assay.diffusion import EDMSchedule, EmpiricalScore
    >>> model = EmpiricalScore(torch.tensor([[-1.0], [1.0]]), EDMSchedule())
    >>> [round(float(model(torch.tensor([[0.5]]), sigma)), 4) for sigma in (5.0, 1.0, 0.1)]
    [0.02, 0.4621, 1.0]
    """

    data: Tensor
    _half_squares: Tensor

    def __init__(self, data: Tensor, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        rows = _rows(data)
        self.register_buffer("data", rows)
        self.register_buffer("_half_squares", torch.linalg.vecdot(rows.double(), rows.double()) / 2)

    def forward(self, x: Tensor, t: Time) -> Tensor:
        points = _points(x, self.data.shape[1])
        alpha, sigma = noise_levels(self.schedule, points, t)
        data, half_squares = self.data.to(x.dtype), self._half_squares.to(x.dtype)
        noise = sigma.square().clamp_min(torch.finfo(x.dtype).tiny).expand(len(points), 1)
        alpha = alpha.expand(len(points), 1)
        # Three matrices (rows of a chunk, N) are alive at once.
        size = max(1, _CHUNK_BYTES // (x.element_size() * len(data)))
        clean = torch.empty_like(points)
        for start in range(0, len(points), size):
            rows = slice(start, start + size)
            likeness = alpha[rows] * (points[rows] @ data.mT - alpha[rows] * half_squares)
            # The largest goes before the division, so that without noise the nearest point is left.
            likeness -= likeness.amax(1, keepdim=True)
            clean[rows] = (likeness / noise[rows]).softmax(1) @ data
        return clean.reshape(x.shape)


def fit_gaussian_mixture_score(
    data: Tensor,
    schedule: NoiseSchedule,
    n_components: int,
    *,
    regularization: float = 1e-5,
    seed: int | None = None,
) -> GaussianMixtureDenoiser:
    """A coarse model of the data between a Gaussian and its points: one Gaussian a k-means cluster.

    Each has its cluster's mean, covariance (divided by its size) and share (arXiv 2412.09726).

    Arguments:
        data: (N, *event).
        schedule: the forward process.
        n_components: number of clusters; memory is that of as many (d, d) matrices in float64.
        regularization: added to every variance, so that small clusters are no flat ones.
        seed: of k-means.

    Raises ValueError for n_components outside 1 to N, a negative regularization and data not finite.

    >>> import torch
    >>> from assay.diffusion import EDMSchedule, fit_gaussian_mixture_score
    >>> data = torch.tensor([[-1.1], [-0.9], [0.9], [1.1]])
    >>> mixture = fit_gaussian_mixture_score(data, EDMSchedule(), 2, seed=0)
    >>> sorted(round(mean, 6) for mean in mixture.means.flatten().tolist())
    [-1.0, 1.0]
    """
    from sklearn.cluster import KMeans

    rows = _rows(data).double()
    if not 1 <= n_components <= len(rows):
        raise ValueError(f"n_components is to be from 1 to {len(rows)}, got {n_components}")
    if not regularization >= 0:
        raise ValueError(f"regularization is to be 0 or more, got {regularization}")
    labels = torch.as_tensor(KMeans(n_components, random_state=seed).fit_predict(rows.cpu().numpy()))
    clusters = [rows[labels == label] for label in torch.unique(labels)]  # fewer where points coincide
    ridge = regularization * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return GaussianMixtureDenoiser(
        torch.stack([cluster.mean(0) for cluster in clusters]),
        torch.stack(
            [torch.cov(cluster.mT, correction=0).reshape(ridge.shape) + ridge for cluster in clusters]
        ),
        torch.tensor(
            [len(cluster) / len(rows) for cluster in clusters], dtype=rows.dtype, device=rows.device
        ),
        schedule,
    )


def explained_variance(reference: Tensor, approximation: Tensor) -> Tensor:
    """How much of each reference its approximation explains, ``1 - |r - a|^2 / |r|^2``, (B,).

    1 where they are equal, 0 for an approximation by nothing, below 0 for worse (arXiv 2412.09726 compares
    learned with analytic scores so). NaN or minus infinity where the reference is 0.

    Arguments:
        reference: (B, *event), e.g. the scores of a network.
        approximation: (B, *event), those of a model.

    Raises ValueError for shapes that differ or have no event axis.

    >>> import torch
    >>> from assay.diffusion import explained_variance
    >>> explained_variance(torch.ones(2, 3), 0.5 * torch.ones(2, 3)).tolist()
    [0.75, 0.75]
    """
    if reference.shape != approximation.shape or reference.ndim < 2:
        raise ValueError(
            "reference and approximation are to have one shape (B, *event), "
            f"got {tuple(reference.shape)} and {tuple(approximation.shape)}"
        )
    missed = (reference - approximation).square().flatten(1).sum(1)
    return 1 - missed / reference.square().flatten(1).sum(1)


@dataclass(frozen=True)
class TeleportResult:
    """What a sampler that began by teleportation reached: `x` (B, *event), the time `t_skip` at which the
    network took over, its evaluations, and how many the skipped steps would have cost."""

    x: Tensor
    t_skip: float
    n_evaluations: int
    n_saved: int


@torch.no_grad()
def sample_teleported(
    denoiser: Denoiser,
    gaussian: GaussianScore,
    x: Tensor,
    timesteps: Tensor,
    *,
    skip: int,
    method: OdeMethod = "heun",
    solver: Callable[[Denoiser, Tensor, Tensor], SamplerResult] | None = None,
) -> TeleportResult:
    """Samples with the first steps replaced by the Gaussian's exact solution (arXiv 2412.09726).

    Sound as long as the noise at ``timesteps[skip]`` is well above the spread of most directions of the data;
    in the paper, for the first 15 to 30 % of the steps. To spend all steps below some time instead, give
    the start and then a grid from that time down, and skip 1.

    Arguments:
        denoiser: the network.
        gaussian: the data's Gaussian, in the network's scale and on its schedule.
        x: (B, *event), where to begin, at ``timesteps[0]``.
        timesteps: (n + 1,), strictly decreasing.
        skip: how many leading steps to replace; 0 for none.
        method: of `solve_ode`, from there on.
        solver: another sampler in its place, called with the denoiser, the state and the remaining times.

    Raises ValueError for timesteps that do not fall, a skip outside 0 to n - 1, an unknown method, and two
    schedules that differ at the times skipped.

    >>> import torch
    >>> from assay.diffusion import EDMSchedule, GaussianScore, MLPDenoiser, sample_teleported
    >>> schedule = EDMSchedule()
    >>> network = MLPDenoiser(2, schedule)  # untrained; it takes the data for standard normal
    >>> gaussian = GaussianScore(torch.zeros(2), torch.eye(2), schedule)
    >>> x = schedule.sample_prior((4, 2))
    >>> result = sample_teleported(network, gaussian, x, schedule.timesteps(18), skip=5)
    >>> result.n_evaluations, result.n_saved
    (25, 10)
    """
    times = checked_timesteps(timesteps)
    if not 0 <= skip <= len(times) - 2:
        raise ValueError(f"skip is to be from 0 to {len(times) - 2}, the steps less one, got {skip}")
    if skip:
        ends = torch.tensor([times[0], times[skip]], dtype=torch.float64)
        ours, theirs = gaussian.schedule, denoiser.schedule
        if not (
            torch.allclose(ours.alpha(ends), theirs.alpha(ends))
            and torch.allclose(ours.sigma(ends), theirs.sigma(ends))
        ):
            raise ValueError(f"denoiser and gaussian are to share a schedule, got {theirs} and {ours}")
        x = gaussian.solution(x, times[0], times[skip])
    rest = torch.tensor(times[skip:], dtype=torch.float64)
    result = solver(denoiser, x, rest) if solver else solve_ode(denoiser, x, rest, method=method)
    per_step = 2 if method == "heun" and solver is None else 1
    return TeleportResult(result.x, times[skip], result.n_evaluations, skip * per_step)
