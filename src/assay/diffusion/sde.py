"""The core of score-based generation: noise schedules, denoisers, their training, and solvers.

One forward family: ``x_t = alpha(t) x_0 + sigma(t) eps`` with standard normal eps, which ``dx = f(t) x dt +
g(t) dW`` generates. Data has shape (B, *event): (B, d) for vectors, (B, C, H, W) for fields. Time is a float,
a 0-d tensor or a tensor (B,), larger for more noise. A model is a denoiser ``D(x, t) = E[x_0 | x_t = x]``;
the score is ``(alpha D - x) / sigma^2`` (Tweedie), the noise ``(x - alpha D) / sigma``. In the scaled
variables ``x_hat = x / alpha`` and ``s_hat = sigma / alpha`` every schedule only adds noise, of level s_hat.

Sources: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
arXiv 2011.13456 (schedules, reverse process); Karras et al., "Elucidating the Design Space of Diffusion-Based
Generative Models", 2022, arXiv 2206.00364 (preconditioning, weighting, Heun); Lu et al., "DPM-Solver++",
2022, arXiv 2211.01095 (the multistep solver).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Time = float | Tensor
Weighting = Literal["edm", "denoiser", "score", "likelihood"]
OdeMethod = Literal["heun", "euler", "dpm_solver_2m"]
Prediction = Literal["epsilon", "v_prediction", "sample"]

_SMALLEST_NOISE = 1e-30


# ---------------------------------------------------------------------- schedules


class NoiseSchedule(ABC):
    """A forward process: how much of the data is left at a time, and how much noise there is.

    A tensor of times gives a tensor of its shape and dtype, a float a 0-d tensor in float64.
    """

    t_min: float
    t_max: float

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """The factor of the data."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """The standard deviation of the noise."""

    @abstractmethod
    def drift_coefficient(self, t: Time) -> Tensor:
        """f, the derivative of log alpha."""

    @abstractmethod
    def diffusion(self, t: Time) -> Tensor:
        """g, the root of ``d(sigma^2)/dt - 2 f sigma^2``."""

    def timesteps(self, num_steps: int) -> Tensor:
        """Times to sample at, (num_steps + 1,), float64, from t_max down.

        Raises ValueError for num_steps < 1.
        """
        check_at_least("num_steps", num_steps, 1)
        return torch.linspace(self.t_max, self.t_min, num_steps + 1, dtype=torch.float64)

    def sample_times(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Times to train at, (n,), float64."""
        uniform = torch.rand(n, generator=generator, dtype=torch.float64, device=_device(generator))
        return self.t_min + (self.t_max - self.t_min) * uniform

    def perturb(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """``alpha(t) x0 + sigma(t) noise``, both (B, *event)."""
        alpha, sigma = noise_levels(self, x0, t)
        return alpha * x0 + sigma * noise

    def sample_prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws of N(0, sigma(t_max)^2 I), where sampling begins."""
        noise = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=device)
        return noise * float(self.sigma(self.t_max))


@dataclass(frozen=True)
class VPSchedule(NoiseSchedule):
    """Variance preserving: ``alpha^2 + sigma^2 = 1``, with linearly rising noise (Song et al., 2021).

    ``beta(t) = beta_min + (beta_max - beta_min) t / t_max`` and ``alpha = exp(-B/2)`` with its integral B.
    The Ornstein-Uhlenbeck process ``dx = -x dt + sqrt(2) dW`` is ``VPSchedule(2, 2, t_max=T)``.

    Raises ValueError unless 0 < beta_min <= beta_max and 0 <= t_min < t_max.

    >>> float(VPSchedule(2, 2, t_max=3).alpha(1.0)) - math.exp(-1)
    0.0
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"0 < beta_min <= beta_max is to hold, got {self.beta_min} and {self.beta_max}")
        check_times(self.t_min, self.t_max)

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t / self.t_max

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t.square() / (2 * self.t_max)

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(-self._integral(time_tensor(t)) / 2)

    def sigma(self, t: Time) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(time_tensor(t))))

    def drift_coefficient(self, t: Time) -> Tensor:
        return -self._beta(time_tensor(t)) / 2

    def diffusion(self, t: Time) -> Tensor:
        return self._beta(time_tensor(t)).sqrt()


@dataclass(frozen=True)
class VESchedule(NoiseSchedule):
    """Variance exploding: the data stays, noise grows from sigma_min to sigma_max (Song et al., 2021).

    ``sigma(t) = sigma_min (sigma_max / sigma_min)^t`` for t from 0 to 1.

    Raises ValueError unless 0 < sigma_min < sigma_max and 0 <= t_min < t_max.

    >>> round(float(VESchedule(0.1, 10).sigma(0.5)), 12)
    1.0
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)
        check_times(self.t_min, self.t_max)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(time_tensor(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * torch.exp(time_tensor(t) * math.log(self.sigma_max / self.sigma_min))

    def drift_coefficient(self, t: Time) -> Tensor:
        return torch.zeros_like(time_tensor(t))

    def diffusion(self, t: Time) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))


@dataclass(frozen=True)
class EDMSchedule(NoiseSchedule):
    """Time is the noise level itself, on a grid that is dense near the data (Karras et al., 2022).

    `timesteps(n)` gives n levels from sigma_max to sigma_min, whose roots of order rho are equally spaced,
    and then 0. Training times are log-normal with p_mean and p_std, cut off at the two ends.

    Raises ValueError unless 0 < sigma_min < sigma_max, rho > 0 and p_std > 0.

    >>> [round(level, 3) for level in EDMSchedule().timesteps(18)[:3].tolist()]
    [80.0, 57.586, 40.786]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)
        for name, value in (("rho", self.rho), ("p_std", self.p_std)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is to be positive, got {value}")

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return self.sigma_min

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return self.sigma_max

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(time_tensor(t))

    def sigma(self, t: Time) -> Tensor:
        return time_tensor(t)

    def drift_coefficient(self, t: Time) -> Tensor:
        return torch.zeros_like(time_tensor(t))

    def diffusion(self, t: Time) -> Tensor:
        return torch.sqrt(2 * time_tensor(t))

    def timesteps(self, num_steps: int) -> Tensor:
        check_at_least("num_steps", num_steps, 1)
        ends = (self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho))
        levels = torch.linspace(*ends, num_steps, dtype=torch.float64) ** self.rho
        levels[0] = self.sigma_max  # the power rounds, and t_max is to be hit exactly
        return torch.cat((levels, levels.new_zeros(1)))

    def sample_times(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.randn(n, generator=generator, dtype=torch.float64, device=_device(generator))
        return torch.exp(self.p_mean + self.p_std * normal).clamp(self.sigma_min, self.sigma_max)


# ---------------------------------------------------------------------- models


class Denoiser(nn.Module):
    """The base of models: `forward(x, t)` gives the posterior mean of the data, in the shape of x.

    Arguments:
        schedule: the forward process that the model undoes.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x: Tensor, t: Time) -> Tensor:
        raise NotImplementedError

    def score(self, x: Tensor, t: Time) -> Tensor:
        """The gradient of the log density of x_t, ``(alpha D - x) / sigma^2``, in the shape of x."""
        alpha, sigma = noise_levels(self.schedule, x, t)
        score: Tensor = (alpha * self(x, t) - x) / sigma.square()
        return score


class AdaptedDenoiser(Denoiser):
    """A network that predicts noise, velocity or data, such as those of diffusers, as a denoiser.

    Arguments:
        network: called as ``network(x, timestep)``; what it returns, or the attribute `sample` of that, is
            the prediction, in the shape of x.
        schedule: the forward process that it was trained with.
        prediction: "epsilon" (the noise), "v_prediction" (``alpha eps - sigma x_0``) or "sample" (the data).
        timestep: gives the network's time for a tensor (B,) of ours; the default numbers 1000 steps of the
            schedule from 0, as diffusers' linear schedule of 1000 steps does, which `VPSchedule()` is the
            limit of.

    Raises ValueError for an unknown prediction.

    >>> noise_of = lambda x, timestep: torch.zeros_like(x)
    >>> AdaptedDenoiser(noise_of, EDMSchedule())(torch.ones(2, 3), 1.0).tolist()[0]
    [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        network: Callable[..., Any],
        schedule: NoiseSchedule,
        *,
        prediction: Prediction = "epsilon",
        timestep: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(schedule)
        check_choice("prediction", prediction, get_args(Prediction))
        self.network = network
        self.prediction = prediction
        self.timestep = timestep or self._numbered

    def _numbered(self, t: Tensor) -> Tensor:
        return 1000 * t / self.schedule.t_max - 1

    def forward(self, x: Tensor, t: Time) -> Tensor:
        alpha, sigma = noise_levels(self.schedule, x, t)
        times = time_tensor(t).to(x).expand(len(x))
        predicted = self.network(x, self.timestep(times))
        predicted = getattr(predicted, "sample", predicted)
        match self.prediction:
            case "epsilon":
                data = (x - sigma * predicted) / alpha
            case "v_prediction":
                data = (alpha * x - sigma * predicted) / (alpha.square() + sigma.square())
            case _:
                data = predicted
        clean: Tensor = data
        return clean


class GaussianMixtureDenoiser(Denoiser):
    """The exact denoiser, score and density of a Gaussian mixture.

    Component k of x_t is ``N(alpha m_k, alpha^2 C_k + sigma^2 I)``; with C_k diagonal in a basis of its own,
    every noise level is.

    Arguments:
        means: (K, d).
        covariances: (K, d, d), positive semi-definite.
        weights: (K,), not negative, of sum 1.
        schedule: the forward process.

    Points may have any shape (B, *event) with d numbers each.

    Raises ValueError for shapes that do not match, weights that are none, and covariances that are not
    symmetric or have an eigenvalue below -1e-8.

    >>> mixture = GaussianMixtureDenoiser(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), EDMSchedule())
    >>> mixture(torch.ones(1, 2), 1.0).tolist(), mixture.score(torch.ones(1, 2), 1.0).tolist()
    ([[0.5, 0.5]], [[-0.5, -0.5]])
    """

    means: Tensor
    weights: Tensor
    _bases: Tensor
    _variances: Tensor

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        means, covariances, weights = (
            torch.as_tensor(value).detach().double() for value in (means, covariances, weights)
        )
        if means.ndim != 2:
            raise ValueError(f"means is to have shape (K, d), got {tuple(means.shape)}")
        components, d = means.shape
        if covariances.shape != (components, d, d):
            raise ValueError(
                f"covariances is to have shape {(components, d, d)}, got {tuple(covariances.shape)}"
            )
        if weights.shape != (components,):
            raise ValueError(f"weights is to have shape {(components,)}, got {tuple(weights.shape)}")
        if (weights < 0).any() or not abs(float(weights.sum()) - 1) <= 1e-6:
            raise ValueError(f"weights is to hold shares of sum 1, got {weights.tolist()}")
        if not torch.allclose(covariances, covariances.mT, rtol=1e-6, atol=1e-8):
            raise ValueError("covariances is to hold symmetric matrices")
        variances, bases = torch.linalg.eigh(covariances)
        if variances.min() < -1e-8:
            least = float(variances.min())
            raise ValueError(f"covariances is to be positive semi-definite, got the eigenvalue {least:.3g}")
        self.register_buffer("means", means)
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("_bases", bases)
        self.register_buffer("_variances", variances.clamp_min(0))

    @property
    def dim(self) -> int:
        """d, the numbers that a point has."""
        return self.means.shape[1]

    def forward(self, x: Tensor, t: Time) -> Tensor:
        alpha, shares, rotated, variances = self._components(x, t)
        shrunk = alpha * self._variances.to(x.dtype)[:, None] / variances * rotated
        posterior = self.means.to(x.dtype)[:, None] + shrunk @ self._bases.to(x.dtype).mT
        return torch.einsum("kb,kbd->bd", shares, posterior).reshape(x.shape)

    def score(self, x: Tensor, t: Time) -> Tensor:
        _, shares, rotated, variances = self._components(x, t)
        pulled = -(rotated / variances) @ self._bases.to(x.dtype).mT
        return torch.einsum("kb,kbd->bd", shares, pulled).reshape(x.shape)

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        """The log density of x_t, natural and normalised, (B,)."""
        _, log_joint, _, _ = self._joint(x, t)
        return torch.logsumexp(log_joint, dim=0)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of the data itself, (n, d), in the mixture's dtype."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(
            n, self.dim, generator=generator, dtype=self.means.dtype, device=self.means.device
        )
        scaled = self._variances[chosen].sqrt() * noise
        return self.means[chosen] + torch.einsum("nd,ned->ne", scaled, self._bases[chosen])

    def _components(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, log_joint, rotated, variances = self._joint(x, t)
        return alpha, log_joint.softmax(0), rotated, variances

    def _joint(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, the log of weight times density (K, B), and in each component's own basis the distance from
        its mean (K, B, d) and the variances (K, B or 1, d)."""
        points = x.reshape(len(x), -1)
        if points.shape[1] != self.dim:
            raise ValueError(f"x is to have {self.dim} numbers a point, got shape {tuple(x.shape)}")
        alpha, sigma = noise_levels(self.schedule, points, t)
        bases = self._bases.to(x.dtype)
        centres = self.means.to(x.dtype)[:, None] @ bases
        rotated = points @ bases - alpha * centres
        variances = alpha.square() * self._variances.to(x.dtype)[:, None] + sigma.square()
        variances = variances.clamp_min(torch.finfo(x.dtype).tiny)
        exponents = (rotated.square() / variances + variances.log()).sum(2) + self.dim * math.log(2 * math.pi)
        return alpha, self.weights.to(x.dtype).log()[:, None] - exponents / 2, rotated, variances


class _Preconditioned(Denoiser):
    """A network in the scaled variables, whose inputs and targets have variance 1 at every noise level.

    ``D = c_skip x_hat + c_out F(c_in x_hat, ln(s_hat) / 4)`` (Karras et al., 2022).
    """

    def __init__(self, schedule: NoiseSchedule, sigma_data: float) -> None:
        super().__init__(schedule)
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data is to be positive, got {sigma_data}")
        self.sigma_data = sigma_data

    def network(self, scaled: Tensor, noise: Tensor) -> Tensor:
        """F, for scaled data (B, *event) and the noise's number (B,)."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Time) -> Tensor:
        alpha, sigma = noise_levels(self.schedule, x, t)
        x_hat, s_hat = x / alpha, sigma / alpha
        total = s_hat.square() + self.sigma_data**2
        noise = s_hat.clamp_min(_SMALLEST_NOISE).log().flatten() / 4
        predicted = self.network(x_hat / total.sqrt(), noise.expand(len(x)))
        return self.sigma_data**2 / total * x_hat + s_hat * self.sigma_data / total.sqrt() * predicted


class _NoiseFeatures(nn.Module):
    """The noise's number as itself and as waves of eight frequencies, (B, 17)."""

    frequencies: Tensor
    width = 17

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 4, 8, base=2.0), persistent=False)

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies
        return torch.cat((noise[:, None], angles.sin(), angles.cos()), dim=1)


class MLPDenoiser(_Preconditioned):
    """A residual network for vectors, preconditioned for every noise level (Karras et al., 2022).

    Arguments:
        dim: d.
        schedule: the forward process.
        width: of the hidden layers.
        depth: number of residual layers.
        sigma_data: standard deviation of the data.

    The last layer begins at zero: untrained, the model returns the best linear guess for centred white data.

    Raises ValueError for sizes below 1 and a sigma_data that is not positive.

    >>> model = MLPDenoiser(2, EDMSchedule(), sigma_data=1.0)
    >>> model(torch.ones(1, 2), 1.0).tolist()
    [[0.5, 0.5]]
    """

    def __init__(
        self,
        dim: int,
        schedule: NoiseSchedule,
        *,
        width: int = 128,
        depth: int = 3,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__(schedule, sigma_data)
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            check_at_least(name, value, 1)
        self.dim = dim
        self.noise_features = _NoiseFeatures()
        self.first = nn.Linear(dim + _NoiseFeatures.width, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def network(self, scaled: Tensor, noise: Tensor) -> Tensor:
        if scaled.ndim != 2 or scaled.shape[1] != self.dim:
            raise ValueError(f"x is to have shape (B, {self.dim}), got {tuple(scaled.shape)}")
        hidden = self.first(torch.cat((scaled, self.noise_features(noise)), dim=1))
        for layer in self.hidden:
            hidden = hidden + layer(functional.silu(hidden))
        output: Tensor = self.last(functional.silu(hidden))
        return output


class _Convolution(nn.Module):
    """A 3 x 3 convolution that keeps the size; `periodic_width` joins left and right, as longitudes are."""

    def __init__(self, in_channels: int, out_channels: int, periodic_width: bool) -> None:
        super().__init__()
        self.periodic_width = periodic_width
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, padding=0 if periodic_width else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.periodic_width:
            x = functional.pad(x, (1, 1, 0, 0), mode="circular")
            x = functional.pad(x, (0, 0, 1, 1), mode="replicate")
        output: Tensor = self.convolution(x)
        return output


class _ResidualBlock(nn.Module):
    """Two convolutions, scaled and shifted by the noise in between, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, periodic_width: bool) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(math.gcd(8, in_channels), in_channels)
        self.first = _Convolution(in_channels, out_channels, periodic_width)
        self.modulation = nn.Linear(embedding, 2 * out_channels)
        self.second_norm = nn.GroupNorm(math.gcd(8, out_channels), out_channels)
        self.second = _Convolution(out_channels, out_channels, periodic_width)
        same = in_channels == out_channels
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.first(functional.silu(self.first_norm(x)))
        hidden = self.second_norm(hidden) * (1 + scale) + shift
        output: Tensor = self.skip(x) + self.second(functional.silu(hidden))
        return output


class UNetDenoiser(_Preconditioned):
    """A convolutional network for fields, with skips between equal resolutions, preconditioned likewise.

    Arguments:
        channels: C of the data (B, C, H, W).
        schedule: the forward process.
        width: channels at full resolution; level l has (l + 1) times as many.
        levels: number of resolutions, each half of the one before.
        sigma_data: standard deviation of the data.
        periodic_width: whether the last axis is a circle.

    Raises ValueError for sizes below 1, and for data whose height or width 2^(levels - 1) does not divide.

    >>> model = UNetDenoiser(1, EDMSchedule(), width=8)
    >>> model(torch.ones(2, 1, 8, 8), 1.0).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        schedule: NoiseSchedule,
        *,
        width: int = 32,
        levels: int = 2,
        sigma_data: float = 1.0,
        periodic_width: bool = False,
    ) -> None:
        super().__init__(schedule, sigma_data)
        for name, value in (("channels", channels), ("width", width), ("levels", levels)):
            check_at_least(name, value, 1)
        self.channels, self.levels = channels, levels
        embedding = 4 * width
        self.noise_embedding = nn.Sequential(
            _NoiseFeatures(),
            nn.Linear(_NoiseFeatures.width, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        widths = [width * (level + 1) for level in range(levels)]

        def block(in_channels: int, out_channels: int) -> _ResidualBlock:
            return _ResidualBlock(in_channels, out_channels, embedding, periodic_width)

        self.first = _Convolution(channels, width, periodic_width)
        self.down = nn.ModuleList(
            block(before, after) for before, after in zip([width, *widths], widths, strict=False)
        )
        self.middle = block(widths[-1], widths[-1])
        below = [widths[-1], *widths[::-1]]
        self.up = nn.ModuleList(
            block(before + own, own) for before, own in zip(below, widths[::-1], strict=False)
        )
        self.last_norm = nn.GroupNorm(math.gcd(8, width), width)
        self.last = _Convolution(width, channels, periodic_width)
        nn.init.zeros_(self.last.convolution.weight)
        assert self.last.convolution.bias is not None
        nn.init.zeros_(self.last.convolution.bias)

    def network(self, scaled: Tensor, noise: Tensor) -> Tensor:
        divisor = 2 ** (self.levels - 1)
        if scaled.ndim != 4 or scaled.shape[1] != self.channels or any(n % divisor for n in scaled.shape[2:]):
            raise ValueError(
                f"x is to have shape (B, {self.channels}, H, W), H and W multiples of {divisor}, "
                f"got {tuple(scaled.shape)}"
            )
        embedding = functional.silu(self.noise_embedding(noise))
        hidden = self.first(scaled)
        skips = []
        for level, block in enumerate(self.down):
            if level:
                hidden = functional.avg_pool2d(hidden, 2)
            hidden = block(hidden, embedding)
            skips.append(hidden)
        hidden = self.middle(hidden, embedding)
        for level, block in enumerate(self.up):
            if level:
                hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = block(torch.cat((hidden, skips.pop()), dim=1), embedding)
        output: Tensor = self.last(functional.silu(self.last_norm(hidden)))
        return output


# ---------------------------------------------------------------------- training


def denoising_loss(
    model: Denoiser, x0: Tensor, t: Time, noise: Tensor, *, weighting: Weighting = "edm"
) -> Tensor:
    """The weighted squared error of the denoiser at x_t, its mean over the event, (B,).

    Arguments:
        model: the denoiser; "edm" needs its attribute `sigma_data`.
        x0: (B, *event), data.
        t: times.
        noise: (B, *event), standard normal.
        weighting: "denoiser", 1; "score", (alpha / sigma)^2, which makes it the error of the predicted noise;
            "edm", (s_hat^2 + sigma_data^2) / (s_hat sigma_data)^2; "likelihood", g^2 (alpha / sigma^2)^2.

    Raises ValueError for an unknown weighting and shapes that do not match.

    >>> model, x0 = MLPDenoiser(2, EDMSchedule()), torch.zeros(3, 2)
    >>> denoising_loss(model, x0, 1.0, torch.ones(3, 2), weighting="denoiser").tolist()
    [0.25, 0.25, 0.25]
    """
    check_choice("weighting", weighting, get_args(Weighting))
    if noise.shape != x0.shape:
        raise ValueError(f"noise is to have the shape of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}")
    schedule = model.schedule
    alpha, sigma = (level.flatten() for level in noise_levels(schedule, x0, t))
    match weighting:
        case "denoiser":
            weight = torch.ones_like(alpha)
        case "score":
            weight = (alpha / sigma).square()
        case "edm":
            sigma_data = getattr(model, "sigma_data", None)
            if sigma_data is None:
                raise ValueError("weighting 'edm' needs a model with the attribute sigma_data")
            s_hat = sigma / alpha
            weight = (s_hat.square() + sigma_data**2) / (s_hat * sigma_data).square()
        case _:
            g = per_sample(schedule.diffusion(t), x0).flatten()
            weight = (g * alpha / sigma.square()).square()
    errors: Tensor = model(schedule.perturb(x0, t, noise), t) - x0
    return weight * errors.square().flatten(1).mean(1)


def fit_denoiser(
    model: Denoiser,
    data: Tensor,
    *,
    n_steps: int,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.999,
    weighting: Weighting = "edm",
    generator: torch.Generator | None = None,
    callback: Callable[[int, Denoiser], object] | None = None,
    progress: bool = False,
) -> list[float]:
    """Trains a denoiser on data and leaves it with the running average of its weights.

    Adam with a learning rate that falls to 0 along a cosine; batches are drawn with replacement.

    Arguments:
        model: the denoiser, on the data's device.
        data: (N, *event).
        n_steps, batch_size, learning_rate: of the optimiser.
        ema_decay: of the average; after k steps at most (1 + k) / (10 + k), so that it forgets its start.
        weighting: as in `denoising_loss`.
        generator: of batches, times and noise, on the data's device; the weights' start is torch's own.
        callback: called as callback(step, model) after each step, with the live weights.
        progress: whether to show a bar on the terminal.

    Returns the loss of each step. Raises ValueError for sizes below 1 and data that is not finite.

    >>> _ = torch.manual_seed(0)
    >>> data = torch.randn(100, 2)
    >>> losses = fit_denoiser(MLPDenoiser(2, EDMSchedule(), width=16), data, n_steps=20)
    >>> len(losses)
    20
    """
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size), ("the length of data", len(data))):
        check_at_least(name, value, 1)
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay is to be from 0 to below 1, got {ema_decay}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate is to be positive, got {learning_rate}")
    if not torch.isfinite(data).all():
        raise ValueError("data is to be finite")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    decay_of_rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    losses = []
    for step in with_progress(range(n_steps), "training", progress):
        rows = torch.randint(len(data), (batch_size,), generator=generator, device=data.device)
        times = model.schedule.sample_times(batch_size, generator=generator).to(data)
        x0 = data[rows]
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        loss = denoising_loss(model, x0, times, noise, weighting=weighting).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        decay_of_rate.step()
        losses.append(loss.detach())
        with torch.no_grad():
            keep = min(ema_decay, (1 + step) / (10 + step))
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter, 1 - keep)
        if callback is not None:
            callback(step, model)
    with torch.no_grad():
        for average, parameter in zip(averages, parameters, strict=True):
            parameter.copy_(average)
    return torch.stack(losses).tolist()


# ---------------------------------------------------------------------- solvers


@dataclass(frozen=True)
class SamplerResult:
    """What a solver reached: `x` (B, *event), how often it evaluated the denoiser, and where asked for the
    `trajectory` (len(timesteps), B, *event), its start included."""

    x: Tensor
    n_evaluations: int
    trajectory: Tensor | None = None


@torch.no_grad()
def solve_ode(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Tensor,
    *,
    method: OdeMethod = "heun",
    return_trajectory: bool = False,
    progress: bool = False,
) -> SamplerResult:
    """Runs the probability-flow ODE from noise to data.

    Arguments:
        denoiser: a `Denoiser`; other people's networks fit through `AdaptedDenoiser`.
        x: (B, *event), where to begin, e.g. `schedule.sample_prior(...)`.
        timesteps: (n + 1,), strictly decreasing, e.g. `schedule.timesteps(n)`.
        method: "euler" (that of DDIM, n evaluations), "heun" (second order, 2 n, or 2 n - 1 where the last
            sigma is 0), "dpm_solver_2m" (second order over two steps, n).
        return_trajectory: whether to keep every step.
        progress: whether to show a bar on the terminal.

    Raises ValueError for timesteps that are no decreasing sequence and for an unknown method.

    >>> from assay.diffusion import EDMSchedule, GaussianMixtureDenoiser, solve_ode
    >>> schedule = EDMSchedule()
    >>> means, weights = torch.tensor([[-2.0], [2.0]]), torch.tensor([0.5, 0.5])
    >>> data = GaussianMixtureDenoiser(means, torch.zeros(2, 1, 1), weights, schedule)
    >>> x = schedule.sample_prior((5, 1), generator=torch.Generator().manual_seed(0))
    >>> solve_ode(data, x, schedule.timesteps(18)).x.abs().flatten().tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    check_choice("method", method, get_args(OdeMethod))
    times = checked_timesteps(timesteps)
    alphas, sigmas = _grid(denoiser.schedule, times)
    path = [x] if return_trajectory else None
    n_evaluations = 0
    earlier: tuple[Tensor, float] | None = None
    for i in with_progress(range(len(times) - 1), "sampling", progress):
        a0, a1, s0, s1 = alphas[i], alphas[i + 1], sigmas[i], sigmas[i + 1]
        clean = denoiser(x, x.new_tensor(times[i]))
        n_evaluations += 1
        if method == "heun" and s1 > 0:
            x_hat = x / a0
            slope = (x_hat - clean) / (s0 / a0)
            step = s1 / a1 - s0 / a0
            guess = x_hat + step * slope
            second = (guess - denoiser(a1 * guess, x.new_tensor(times[i + 1]))) / (s1 / a1)
            n_evaluations += 1
            x = a1 * (x_hat + step * (slope + second) / 2)
        else:
            if method == "dpm_solver_2m" and s1 > 0:
                step = math.log(a1 / s1) - math.log(a0 / s0)
                extrapolated = clean
                if earlier is not None:
                    half = step / (2 * earlier[1])
                    extrapolated = (1 + half) * clean - half * earlier[0]
                earlier, clean = (clean, step), extrapolated
            x = s1 / s0 * x + (a1 - a0 * s1 / s0) * clean
        if path is not None:
            path.append(x)
    return SamplerResult(x, n_evaluations, None if path is None else torch.stack(path))


@torch.no_grad()
def solve_sde(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Tensor,
    *,
    noise_scale: float = 1.0,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
) -> SamplerResult:
    """Runs a reverse process from noise to data by Euler and Maruyama.

    ``dx = [f x - (1 + z^2)/2 g^2 score] dt + z g dW``, backwards, with z the noise scale: 1 for the reverse
    SDE, 0 for the probability-flow ODE. A step that ends at sigma 0 adds no noise.

    Arguments:
        denoiser, x, timesteps, return_trajectory, progress: as in `solve_ode`.
        noise_scale: z.
        generator: of the noise, on the device of x.

    Raises ValueError for timesteps that are no decreasing sequence and a negative noise_scale.

    >>> schedule = VPSchedule()
    >>> data = GaussianMixtureDenoiser(torch.ones(1, 2), torch.zeros(1, 2, 2), torch.ones(1), schedule)
    >>> solve_sde(data, schedule.sample_prior((4, 2)), schedule.timesteps(100)).n_evaluations
    100
    """
    if not 0 <= noise_scale < math.inf:
        raise ValueError(f"noise_scale is to be 0 or more, got {noise_scale}")
    times = checked_timesteps(timesteps)
    schedule = denoiser.schedule
    grid = torch.tensor(times, dtype=torch.float64)
    drifts, squares = schedule.drift_coefficient(grid).tolist(), schedule.diffusion(grid).square().tolist()
    sigmas = schedule.sigma(grid).tolist()
    path = [x] if return_trajectory else None
    for i in with_progress(range(len(times) - 1), "sampling", progress):
        step = times[i] - times[i + 1]
        pull = (1 + noise_scale**2) / 2 * squares[i]
        x = x - step * (drifts[i] * x - pull * denoiser.score(x, x.new_tensor(times[i])))
        if noise_scale and sigmas[i + 1] > 0:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + noise_scale * math.sqrt(squares[i] * step) * noise
        if path is not None:
            path.append(x)
    return SamplerResult(x, len(times) - 1, None if path is None else torch.stack(path))


# ---------------------------------------------------------------------- for the modules of the field


def time_tensor(t: Time) -> Tensor:
    """The time as a tensor: itself, or a float as a 0-d one in float64."""
    return t if isinstance(t, Tensor) else torch.tensor(float(t), dtype=torch.float64)


def _device(generator: torch.Generator | None) -> torch.device | None:
    return None if generator is None else generator.device


def noise_levels(schedule: NoiseSchedule, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
    """alpha and sigma in the dtype of x, of a shape that goes with it."""
    return per_sample(schedule.alpha(t), x), per_sample(schedule.sigma(t), x)


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """A number, or one for each of x, in the dtype of x and of a shape that goes with it."""
    # The cast comes last: times in float64 would otherwise turn a float32 model's data into float64.
    value = value.to(x)
    if value.ndim == 0:
        return value.reshape((1,) * x.ndim)
    if value.shape != x.shape[:1]:
        raise ValueError(f"t is to be one time or {len(x)} as in x, got shape {tuple(value.shape)}")
    return value.reshape(-1, *(1,) * (x.ndim - 1))


def _grid(schedule: NoiseSchedule, times: Sequence[float]) -> tuple[list[float], list[float]]:
    grid = torch.tensor(times, dtype=torch.float64)
    return schedule.alpha(grid).tolist(), schedule.sigma(grid).tolist()


def with_progress(steps: range, what: str, progress: bool) -> Iterable[int]:
    """The steps, with a bar on the terminal where that is asked for."""
    if not progress:
        return steps
    from rich.progress import track

    return track(steps, what)


def checked_timesteps(timesteps: Tensor) -> list[float]:
    """The times as floats; ValueError unless they are two or more and fall strictly."""
    times = torch.as_tensor(timesteps, dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0).all():
        raise ValueError(
            "timesteps is to be a strictly decreasing sequence of two or more times, "
            f"got {times.tolist() if times.numel() < 9 else tuple(times.shape)}"
        )
    listed: list[float] = times.tolist()
    return listed


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises ValueError for a number below the least."""
    if value < least:
        raise ValueError(f"{name} is to be {least} or more, got {value}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is to be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_times(t_min: float, t_max: float) -> None:
    """Raises ValueError unless the times are the first and the last of a schedule."""
    if not 0 <= t_min < t_max < math.inf:
        raise ValueError(f"0 <= t_min < t_max is to hold, got {t_min} and {t_max}")


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"0 < sigma_min < sigma_max is to hold, got {sigma_min} and {sigma_max}")
