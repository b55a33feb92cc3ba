"""Multiplicative diffusion put to the test: its process, its reversal, its loss, and images from it.

The images are scikit-learn's 8 x 8 digits, each pixel shifted to lie from 1 to 2, of which a random third is
held out. Samples are judged in pixel space after clamping to that range, by their distance to the nearest
held-out digit, by the classifier score ``exp(E KL(p(y|x), p(y)))`` and by the Frechet distance. The latter
alone would prove little: a log-normal law fitted to the pixels has their covariance, and draws no digits. The
classifier is a logistic regression on radial kernels, with the penalty under which held-out digits were most
likely, so that its probabilities are calibrated. How far scores lie apart depends on that choice: a support
vector machine whose classes are calibrated one by one is sure of some digit in noise too, and tells little.

The scale "mnist" takes the authors' settings for MNIST. It needs a GPU and, as files, Keras's mnist.npz (or
another .npz archive with x_train, y_train, x_test and y_test, such as of Fashion-MNIST, Kuzushiji-MNIST or
CIFAR-10) and the pickle of the Inception detector that NVlabs publishes with its code "edm", which is to be
importable. It is no part of the recorded evidence.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from torch import Tensor

from assay.diffusion.metrics import frechet_distance, sliced_wasserstein
from assay.diffusion.multiplicative_diffusion import (
    GeometricBrownianSchedule,
    HyvarinenScore,
    HyvarinenScoreNetwork,
    MultiplicativeMethod,
    ambient_step,
    dale_langevin_step,
    exponentiated_gradient_step,
    fit_hyvarinen_score,
    multiplicative_denoising_loss,
    nonnegative_score_matching_loss,
    sample_multiplicative,
)
from assay.diffusion.sde import (
    Denoiser,
    EDMSchedule,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    NoiseSchedule,
    UNetDenoiser,
    fit_denoiser,
    solve_ode,
)
from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    all_of,
    at_least,
    at_most,
    better,
    figures,
    near,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_METHODS: tuple[MultiplicativeMethod, ...] = ("dale_langevin", "ambient")


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def _log_mixture(
    components: int, dim: int, schedule: GeometricBrownianSchedule, rng: np.random.Generator
) -> tuple[HyvarinenScore, GaussianMixtureDenoiser]:
    """A random mixture of log-normal laws: its exact score, and the normal mixture of its logarithm."""
    factors = 0.2 * rng.standard_normal((components, dim, dim)) / math.sqrt(dim)
    covariances = factors @ factors.transpose(0, 2, 1) + 0.02 * np.eye(dim)
    means = 0.5 * rng.standard_normal((components, dim))
    weights = rng.dirichlet(np.full(components, 5.0))
    mixture = GaussianMixtureDenoiser(
        torch.from_numpy(means),
        torch.from_numpy(covariances),
        torch.from_numpy(weights),
        schedule.log_schedule,
    )
    return HyvarinenScore(mixture, schedule), mixture


# --- The forward process -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forward:
    sigma: float = 0.8
    paths: int = 20_000
    steps: int = 400
    checks: int = 4


def forward_process(settings: Forward, rng: np.random.Generator) -> Measurements:
    """Paths of the equation by Euler and Maruyama against draws from the closed form, at several times."""
    schedule = GeometricBrownianSchedule(settings.sigma)
    step = schedule.t_max / settings.steps
    paths = np.ones(settings.paths)
    p_values, mean_gaps, std_ratios = [], [], []
    for i in range(1, settings.steps + 1):
        noise = rng.standard_normal(settings.paths)
        paths *= 1 + schedule.drift * step + schedule.sigma * math.sqrt(step) * noise
        if i % (settings.steps // settings.checks) == 0:
            t = i * step
            noise = rng.standard_normal(settings.paths)
            draws = schedule.perturb(torch.from_numpy(np.ones(settings.paths)), t, torch.from_numpy(noise))
            p_values.append(stats.ks_2samp(paths, draws.numpy()).pvalue)
            std = float(schedule.log_std(t))
            mean_gaps.append(abs(np.log(paths).mean() - float(schedule.log_mean(t))) / std)
            std_ratios.append(np.log(paths).std() / std)
    return {
        "least_p_value": float(min(p_values)),
        "log_mean_gap": float(max(mean_gaps)),
        "log_std_ratio": float(max(std_ratios, key=lambda ratio: abs(ratio - 1))),
    }


# --- The reverse process -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reversal:
    """A mixture of log-normal laws with its exact score; claims are of the last of the numbers of steps."""

    sigma: float = 0.8
    dim: int = 3
    components: int = 3
    samples: int = 6000
    steps: tuple[int, ...] = (64, 125, 250)


def reverse_process(settings: Reversal, rng: np.random.Generator) -> Measurements:
    """How much further reversed samples are from fresh data than other fresh data are, in logarithms."""
    schedule = GeometricBrownianSchedule(settings.sigma)
    model, mixture = _log_mixture(settings.components, settings.dim, schedule, rng)
    generator = _generator(rng)
    origin, fresh, other = (mixture.sample(settings.samples, generator=generator) for _ in range(3))
    noise = torch.randn(origin.shape, generator=generator, dtype=origin.dtype)
    start = schedule.perturb(origin.exp(), schedule.t_max, noise)
    floor = sliced_wasserstein(other, fresh)
    seed = int(rng.integers(2**63))
    measurements: dict[str, float | Sequence[float]] = {"floor": floor}
    for method in _METHODS:
        excesses = []
        for steps in settings.steps:
            samples = sample_multiplicative(
                model,
                start,
                schedule.timesteps(steps),
                method=method,
                generator=torch.Generator().manual_seed(seed),
            )
            excesses.append(sliced_wasserstein(samples.log(), fresh) - floor)
        measurements[f"excess_{method}"] = excesses[-1]
        measurements[f"excesses_{method}"] = excesses
    return measurements | {"steps": [float(steps) for steps in settings.steps]}


# --- Exponentiated gradient descent --------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """A grid over states, scores, steps and noise levels."""

    states: int = 10
    scores: int = 20
    steps: int = 10
    sigmas: tuple[float, ...] = (0.2, 0.5, 0.8, 1.0, 1.5)


def descent_identity(settings: Identity, _: np.random.Generator) -> Measurements:
    """The noise-free sampling step beside the step of descent with the gradient -(h + 1), relative to it."""
    x, h, step = torch.meshgrid(
        torch.logspace(-3, 3, settings.states, dtype=torch.float64),
        torch.linspace(-10, 10, settings.scores, dtype=torch.float64),
        torch.logspace(-5, 0, settings.steps, dtype=torch.float64),
        indexing="ij",
    )
    gap = 0.0
    for sigma in settings.sigmas:
        drift = GeometricBrownianSchedule(sigma).drift
        sampled = dale_langevin_step(x, h, step, drift, sigma, torch.zeros_like(x))
        descended = exponentiated_gradient_step(x, -(h + 1), step * sigma**2)
        gap = max(gap, float(((sampled - descended) / descended).abs().max()))
    return {"greatest_gap": gap}


@dataclass(frozen=True)
class Signs:
    """Steps of both samplers from signed log-normal states."""

    sigma: float = 0.8
    log_std: float = 0.5
    states: int = 1_000_000
    step: float = 0.5


def signs(settings: Signs, rng: np.random.Generator) -> Measurements:
    schedule = GeometricBrownianSchedule(settings.sigma)
    generator = _generator(rng)
    z, noise, turn = torch.randn(3, settings.states, generator=generator, dtype=torch.float64)
    z = settings.log_std * z
    x = turn.sign() * z.exp()
    h = -1 - z / settings.log_std**2
    return {
        f"turned_{method}": float(
            (take(x, h, settings.step, schedule.drift, schedule.sigma, noise).sign() != x.sign()).sum()
        )
        for method, take in (("dale_langevin", dale_langevin_step), ("ambient", ambient_step))
    }


@dataclass(frozen=True)
class Weights:
    """Linear regression on more features than rows, from a positive teacher, run until it interpolates."""

    rows: int = 200
    features: int = 2000
    noise: float = 0.5
    steps: int = 6000
    batch_size: int = 20
    exponentiated_rate: float = 0.05
    plain_rate: float = 2e-5


_LEVELS = stats.norm.cdf(np.linspace(-3, 3, 41))


def learned_weights(settings: Weights, rng: np.random.Generator) -> Measurements:
    """The law of the weights after exponentiated and after plain descent on the same batches."""
    bound = math.sqrt(3)
    A = torch.from_numpy(rng.uniform(-bound, bound, (settings.rows, settings.features)))
    teacher = torch.from_numpy(rng.exponential(1 / settings.features, settings.features))
    y = A @ teacher + settings.noise * torch.from_numpy(rng.standard_normal(settings.rows))
    exponentiated = torch.full_like(teacher, 1 / settings.features)
    plain = exponentiated.clone()

    def gradient(weights: Tensor) -> Tensor:
        return (batch @ weights - target) @ batch / settings.batch_size

    for _ in range(settings.steps):
        chosen = torch.from_numpy(rng.choice(settings.rows, settings.batch_size, replace=False))
        batch, target = A[chosen], y[chosen]
        exponentiated = exponentiated_gradient_step(
            exponentiated, gradient(exponentiated), settings.exponentiated_rate
        )
        plain = plain - settings.plain_rate * gradient(plain)
    logarithms = exponentiated.log().numpy()

    def quantiles(sample: Array) -> list[float]:
        return [float(value) for value in np.quantile((sample - sample.mean()) / sample.std(), _LEVELS)]

    return {
        "skewness_exponentiated": float(stats.skew(exponentiated.numpy())),
        "skewness_of_logarithms": float(stats.skew(logarithms)),
        "skewness_plain": float(stats.skew(plain.numpy())),
        "normality_of_logarithms": float(stats.shapiro(logarithms).pvalue),
        "loss_exponentiated": float((A @ exponentiated - y).square().mean()),
        "loss_plain": float((A @ plain - y).square().mean()),
        "negative_share_plain": float((plain < 0).double().mean()),
        "quantiles_of_logarithms": quantiles(logarithms),
        "quantiles_exponentiated": quantiles(exponentiated.numpy()),
        "quantiles_plain": quantiles(plain.numpy()),
    }


# --- Score matching ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """A mixture of log-normal laws with its exact score; the implicit loss is taken at `time`."""

    sigma: float = 0.8
    dim: int = 2
    components: int = 3
    samples: int = 200_000
    shifts: tuple[float, ...] = (-0.5, -0.25, 0.25, 0.5)
    time: float = 0.2


class _Changed(torch.nn.Module):
    """A model of h that is another one changed pointwise."""

    def __init__(self, model: HyvarinenScore, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.schedule = model.schedule
        self.change = change

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.change(x, self.model(x, t))


def score_matching_losses(settings: Losses, rng: np.random.Generator) -> Measurements:
    """What the losses gain when the exact score is replaced, beside what they should."""
    schedule = GeometricBrownianSchedule(settings.sigma)
    model, mixture = _log_mixture(settings.components, settings.dim, schedule, rng)
    generator = _generator(rng)
    x0 = mixture.sample(settings.samples, generator=generator).exp()
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    times = schedule.sample_times(settings.samples, generator=generator)
    moved = schedule.perturb(x0, settings.time, noise)
    variance = float(schedule.log_std(settings.time)) ** 2

    def denoising(change: Callable[[Tensor, Tensor], Tensor], t: float | Tensor) -> float:
        return float(multiplicative_denoising_loss(_Changed(model, change), x0, t, noise).mean())

    def implicit(change: Callable[[Tensor, Tensor], Tensor]) -> float:
        changed = _Changed(model, change)
        with torch.enable_grad():
            loss = nonnegative_score_matching_loss(lambda x: changed(x, settings.time), moved)
        return float(loss.mean())

    def exact(x: Tensor, h: Tensor) -> Tensor:
        return h

    weight = float(schedule.log_std(times).square().mean())
    shift_errors: dict[str, list[float]] = {"denoising": [], "implicit": []}
    with torch.no_grad():
        least_denoising, least_implicit = denoising(exact, times), implicit(exact)
        for shift in settings.shifts:

            def shifted(x: Tensor, h: Tensor, shift: float = shift) -> Tensor:
                return h + shift

            gain = (denoising(shifted, times) - least_denoising) / (weight * shift**2)
            shift_errors["denoising"].append(abs(gain - 1))
            gain = (implicit(shifted) - least_implicit) / (settings.dim * shift**2 / 2)
            shift_errors["implicit"].append(abs(gain - 1))

        # Of other models, whose distance to the exact score is no constant, at one time. The last is that of
        # the log-normal law with the moments of the data.
        mean, spread = moved.log().mean(0), moved.log().var(0)
        least = denoising(exact, settings.time)
        apart = []
        changes: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
            lambda x, h: 0.6 * h - 0.4,
            lambda x, h: h + 0.8 * torch.sin(2 * x.log()),
            lambda x, h: -1 - (x.log() - mean) / spread,
        )
        for change in changes:
            by_denoising = (denoising(change, settings.time) - least) * settings.dim / variance
            by_implicit = 2 * (implicit(change) - least_implicit)
            apart.append(abs(by_implicit / by_denoising - 1))
    return {
        "error_denoising": max(shift_errors["denoising"]),
        "error_implicit": max(shift_errors["implicit"]),
        "losses_apart": max(apart),
    }


@dataclass(frozen=True)
class Learned:
    sigma: float = 0.8
    components: int = 3
    data: int = 20_000
    width: int = 128
    depth: int = 3
    training_steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 2e-3
    times: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    probes: int = 5000


def learned_score(settings: Learned, rng: np.random.Generator) -> Measurements:
    """The error of a trained network against the exact score, relative to the size of that."""
    schedule = GeometricBrownianSchedule(settings.sigma)
    exact, mixture = _log_mixture(settings.components, 2, schedule, rng)
    generator = _generator(rng)
    data = mixture.sample(settings.data, generator=generator).float()
    torch.manual_seed(int(rng.integers(2**63)))
    model = HyvarinenScoreNetwork(
        2,
        schedule,
        width=settings.width,
        depth=settings.depth,
        log_mean=float(data.mean()),
        log_std=float(data.std()),
    )
    losses = fit_hyvarinen_score(
        model,
        data.exp(),
        n_steps=settings.training_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        generator=generator,
    )
    errors = []
    with torch.no_grad():
        fresh = mixture.sample(settings.probes, generator=generator).float().exp()
        for t in settings.times:
            noise = torch.randn(fresh.shape, generator=generator)
            x = schedule.perturb(fresh, t, noise)
            truth = exact(x, t)
            errors.append(float(((model(x, t) - truth).square().mean() / truth.square().mean()).sqrt()))
    return {
        "relative_error": float(np.mean(errors)),
        "final_loss": float(np.mean(losses[-100:])),
        "times": list(settings.times),
        "errors": errors,
    }


# --- Images --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Digits and a residual network, or with `data_file` other images and a U-Net of `depth` levels.

    A step size of 0 is that of the grid; the authors tune it, and let the noise decay.
    """

    n_train: int = 1200
    width: int = 192
    depth: int = 3
    training_steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    samples: int = 1000
    sampled_at_once: int = 1000
    sampling_steps: int = 100
    step_size: float = 0.0
    inner_steps: int = 1
    ambient_step_size: float = 0.0
    ambient_inner_steps: int = 1
    noise_decay: float = 1.0
    kernels: int = 300
    data_file: str = ""
    detector_file: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class _Split:
    """Images from 1 to 2, (N, d) or (N, C, H, W), and what they show."""

    train: Tensor
    labels: NDArray[np.int64]
    held_out: Tensor


def _split(settings: Images, rng: np.random.Generator) -> _Split:
    if settings.data_file:
        with np.load(settings.data_file) as archive:
            images = [archive[name].astype(np.float32) / 255 + 1 for name in ("x_train", "x_test")]
            labels = archive["y_train"].ravel()
        train, held_out = (
            torch.from_numpy(part)[:, None] if part.ndim == 3 else torch.from_numpy(part).permute(0, 3, 1, 2)
            for part in images
        )
        return _Split(train, labels, held_out)
    digits = load_digits()
    order = rng.permutation(len(digits.data))
    train, held_out = torch.from_numpy(digits.data[order] / 16 + 1).float().tensor_split([settings.n_train])
    return _Split(train, digits.target[order[: settings.n_train]], held_out)


def _denoiser(settings: Images, split: _Split, schedule: NoiseSchedule, sigma_data: float) -> Denoiser:
    if settings.data_file:
        return UNetDenoiser(
            split.train.shape[1],
            schedule,
            width=settings.width,
            levels=settings.depth,
            sigma_data=sigma_data,
        )
    return MLPDenoiser(
        split.train.shape[1], schedule, width=settings.width, depth=settings.depth, sigma_data=sigma_data
    )


class _Contest:
    """Trained models of one trial, which share data, the start of their weights and the order of batches, and
    the judgement of their samples."""

    def __init__(self, settings: Images, rng: np.random.Generator) -> None:
        self.settings = settings
        self.split = _split(settings, rng)
        seeds = (int(seed) for seed in rng.integers(2**63, size=3))
        self._weights_seed, self._batch_seed, self._sample_seed = seeds
        self._logarithms = self.split.train.log()
        self._flat = self.split.train.flatten(1).double().numpy()
        self._rng = rng
        features = Nystroem(
            gamma=1 / (self._flat.shape[1] * self._flat.var()),
            n_components=settings.kernels,
            random_state=int(rng.integers(2**31)),
        )
        self._classifier = make_pipeline(features, LogisticRegression(C=100, max_iter=1000))
        self._classifier.fit(self._flat, self.split.labels)
        self._neighbours = NearestNeighbors(n_neighbors=1).fit(self.split.held_out.flatten(1).numpy())
        self._detector: Any = None
        if settings.detector_file:
            with Path(settings.detector_file).open("rb") as stream:
                self._detector = pickle.load(stream).to(settings.device).eval()
        self._reference = self._features(self.split.held_out)

    def _fit_options(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "n_steps": settings.training_steps,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "generator": torch.Generator(settings.device).manual_seed(self._batch_seed),
        }

    def multiplicative(self) -> Callable[[MultiplicativeMethod], Tensor]:
        """A trained model, as a function from the kind of step to samples."""
        settings, schedule = self.settings, GeometricBrownianSchedule()
        mean, std = float(self._logarithms.mean()), float(self._logarithms.std())
        torch.manual_seed(self._weights_seed)
        denoiser = _denoiser(settings, self.split, schedule.log_schedule, std)
        model = HyvarinenScore(denoiser, schedule, log_mean=mean).to(settings.device)
        fit_hyvarinen_score(model, self.split.train.to(settings.device), **self._fit_options())

        def sample(method: MultiplicativeMethod) -> Tensor:
            generator = torch.Generator(settings.device).manual_seed(self._sample_seed)
            annealed = {
                "dale_langevin": (settings.step_size, settings.inner_steps),
                "ambient": (settings.ambient_step_size, settings.ambient_inner_steps),
            }
            step_size, inner_steps = annealed[method]

            def run(shape: Sequence[int]) -> Tensor:
                start = schedule.sample_prior(
                    shape, log_mean=mean, log_std=std, generator=generator, device=settings.device
                )
                return sample_multiplicative(
                    model,
                    start,
                    schedule.timesteps(settings.sampling_steps),
                    method=method,
                    step_size=step_size or None,
                    inner_steps=inner_steps,
                    noise_decay=settings.noise_decay,
                    generator=generator,
                )

            return self._in_parts(run)

        return sample

    def additive(self) -> Tensor:
        """Samples of a model of additive noise by Heun's method, with as many evaluations."""
        settings, schedule = self.settings, EDMSchedule()
        mean, std = float(self.split.train.mean()), float(self.split.train.std())
        torch.manual_seed(self._weights_seed)
        model = _denoiser(settings, self.split, schedule, std).to(settings.device)
        fit_denoiser(model, self.split.train.to(settings.device) - mean, **self._fit_options())
        generator = torch.Generator(settings.device).manual_seed(self._sample_seed)
        levels = schedule.timesteps(settings.sampling_steps // 2)

        def run(shape: Sequence[int]) -> Tensor:
            start = schedule.sample_prior(shape, generator=generator, device=settings.device)
            return solve_ode(model, start, levels).x + mean

        return self._in_parts(run)

    def log_normal(self, *, full_covariance: bool) -> Tensor:
        """Draws of a log-normal law fitted to the training images."""
        logarithms = np.log(self._flat)
        noise = self._rng.standard_normal((self.settings.samples, self._flat.shape[1]))
        if full_covariance:
            # Pixels that never change make the covariance singular, so no Cholesky factor.
            values, vectors = np.linalg.eigh(np.cov(logarithms, rowvar=False))
            noise = (noise * np.sqrt(values.clip(0))) @ vectors.T
        else:
            noise = noise * logarithms.std(0)
        drawn = np.exp(logarithms.mean(0) + noise)
        return torch.from_numpy(drawn).float().reshape(-1, *self.split.train.shape[1:])

    def judge(self, samples: Tensor) -> dict[str, float]:
        samples = samples.clamp(1, 2)
        flat = samples.flatten(1).double().numpy()
        shares = self._classifier.predict_proba(flat).clip(1e-12)
        divergence = (shares * np.log(shares / shares.mean(0))).sum(1).mean()
        return {
            "distance": float(self._neighbours.kneighbors(flat)[0].mean()),
            "score": float(np.exp(divergence)),
            "frechet": frechet_distance(self._features(samples), self._reference),
        }

    def _in_parts(self, run: Callable[[Sequence[int]], Tensor]) -> Tensor:
        parts = []
        for start in range(0, self.settings.samples, self.settings.sampled_at_once):
            count = min(self.settings.sampled_at_once, self.settings.samples - start)
            parts.append(run((count, *self.split.train.shape[1:])).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        """Pixels, or what the detector sees in them."""
        if self._detector is None:
            return images.flatten(1)
        pixels = (255 * (images - 1)).round().to(torch.uint8).expand(-1, 3, -1, -1)
        seen = [
            self._detector(part.to(self.settings.device), return_features=True).cpu()
            for part in torch.split(pixels, self.settings.sampled_at_once)
        ]
        return torch.cat(seen)


def _named(name: str, judged: dict[str, float]) -> dict[str, float]:
    return {f"{measure}_{name}": value for measure, value in judged.items()}


def images(settings: Images, rng: np.random.Generator) -> Measurements:
    """Samples of both steps beside those of log-normal laws fitted to the same images."""
    contest = _Contest(settings, rng)
    sample = contest.multiplicative()
    measurements: dict[str, float] = {}
    for method in _METHODS:
        measurements |= _named(method, contest.judge(sample(method)))
    for name, full in (("full_log_normal", True), ("independent_log_normal", False)):
        measurements |= _named(name, contest.judge(contest.log_normal(full_covariance=full)))
    return measurements | _named("training_images", contest.judge(contest.split.train))


@dataclass(frozen=True)
class Pair(Images):
    """Two networks are trained, each for fewer steps."""

    training_steps: int = 1000


def beside_additive_noise(settings: Pair, rng: np.random.Generator) -> Measurements:
    """The same network, data and budget with multiplicative and with additive noise."""
    contest = _Contest(settings, rng)
    measurements = _named("dale_langevin", contest.judge(contest.multiplicative()("dale_langevin")))
    measurements |= _named("additive", contest.judge(contest.additive()))
    measurements["frechet_ratio"] = measurements["frechet_dale_langevin"] / measurements["frechet_additive"]
    return measurements


# --- Figures -------------------------------------------------------------------------------------------


def draw_reverse_process(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("steps", "distance to data, in excess of other data's")
    steps = figures.curves(rows, "steps")[0]
    for name, label, colour in (
        ("dale_langevin", "Dale-Langevin", "tab:blue"),
        ("ambient", "ambient", "tab:orange"),
    ):
        excesses = figures.curves(rows, f"excesses_{name}")
        axes.plot(steps, excesses.T, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, np.median(excesses, axis=0), "o-", color=colour, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(steps)
    axes.legend(frameon=False)
    return figure


def draw_learned_weights(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("quantile of the normal law", "quantile of the weights, standardised")
    levels = stats.norm.ppf(_LEVELS)
    for name, label in (
        ("quantiles_of_logarithms", "exponentiated, logarithms"),
        ("quantiles_exponentiated", "exponentiated"),
        ("quantiles_plain", "plain"),
    ):
        axes.plot(levels, np.median(figures.curves(rows, name), axis=0), "o-", markersize=3, label=label)
    axes.plot(levels, levels, color="black", linewidth=0.8)
    axes.legend(frameon=False)
    return figure


def draw_learned_score(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("time", "relative error of the learned score")
    times, errors = figures.curves(rows, "times")[0], figures.curves(rows, "errors")
    axes.plot(times, errors.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(times, np.median(errors, axis=0), "o-", color="tab:blue")
    axes.axhline(_LEARNED, color="black", linewidth=0.8)
    axes.set_ylim(bottom=0)
    return figure


def _draw_judged(rows: Sequence[Measurements], names: dict[str, str]) -> Figure:
    figure, panels = figures.panels(3)
    for panel, measure, label in zip(
        panels,
        ("distance", "score", "frechet"),
        ("distance to the nearest held-out image", "classifier score", "Frechet distance"),
        strict=True,
    ):
        columns = {label: figures.values(rows, f"{measure}_{name}") for name, label in names.items()}
        figures.dots(panel, columns, paired=True)
        panel.set(ylabel=label)
        panel.set_ylim(bottom=0)
        panel.tick_params(axis="x", labelrotation=90)
    return figure


def draw_images(rows: Sequence[Measurements]) -> Figure:
    names = {
        "full_log_normal": "log-normal law",
        "ambient": "ambient",
        "dale_langevin": "Dale-Langevin",
        "training_images": "training images",
    }
    return _draw_judged(rows, names)


def draw_beside_additive_noise(rows: Sequence[Measurements]) -> Figure:
    return _draw_judged(rows, {"additive": "additive", "dale_langevin": "Dale-Langevin"})


# --- The study -----------------------------------------------------------------------------------------

_LEARNED = 0.1
_FORWARD = Published("the marginal of geometric Brownian motion at any fixed time is log-normal", "abstract")
_REVERSAL = Published("two multiplicative samplers by discretising the reverse-time SDEs", "abstract")
_DESCENT = Published(
    "the convex function that drives exponentiated gradient descent governs the sampler", "abstract"
)
_SIGNS = Published("a sign-preserving and a sign-agnostic sampler", "abstract")
_WEIGHTS = Published("log-normally distributed weights at convergence", "abstract")
_MATCHING = Published("equivalent to multiplicative explicit score matching", "abstract")
_SUBSUMED = Published("subsumes the non-negative score matching of Hyvarinen (2007)", "abstract")
_IMAGES = Published("generative capability on MNIST, Fashion-MNIST, Kuzushiji-MNIST and CIFAR-10", "abstract")
_MNIST: dict[str, Any] = {
    "width": 64,
    "training_steps": 300_000,
    "learning_rate": 1e-4,
    "samples": 50_000,
    "sampled_at_once": 500,
    "sampling_steps": 1000,
    "step_size": 6.2e-4,
    "ambient_step_size": 1.44e-4,
    "ambient_inner_steps": 4,
    "noise_decay": 0.995,
    "kernels": 2000,
    "data_file": "mnist.npz",
    "detector_file": "inception-2015-12-05.pkl",
    "device": "cuda",
}


STUDY = Study(
    slug="multiplicative_diffusion",
    experiments=(
        Experiment(
            name="forward_process",
            trial=forward_process,
            scales={"quick": Forward(), "full": Forward(paths=200_000, steps=4000)},
            claims=(
                Claim(
                    "log_normal_marginals",
                    "noises data by geometric Brownian motion, whose marginals are log-normal",
                    all_of(
                        at_least("least_p_value", 1e-3),
                        at_most("log_mean_gap", 0.03),
                        near("log_std_ratio", 1, 0.03),
                    ),
                    published=_FORWARD,
                ),
            ),
        ),
        Experiment(
            name="reverse_process",
            trial=reverse_process,
            scales={"quick": Reversal(), "full": Reversal(dim=32, samples=20_000, steps=(100, 300, 1000))},
            claims=(
                Claim(
                    "dale_langevin_returns_the_data",
                    "returns the law of the data by multiplications with positive factors",
                    at_most("excess_dale_langevin", 0.05),
                    published=_REVERSAL,
                ),
                Claim(
                    "ambient_returns_the_data",
                    "returns the law of the data by the step without logarithms too",
                    at_most("excess_ambient", 0.05),
                    published=_REVERSAL,
                ),
            ),
            figure=draw_reverse_process,
        ),
        Experiment(
            name="descent_identity",
            trial=descent_identity,
            scales={"quick": Identity(), "full": Identity(states=100, scores=100, steps=100)},
            claims=(
                Claim(
                    "is_exponentiated_descent",
                    "takes, without noise, the steps of exponentiated gradient descent on the log density",
                    near("greatest_gap", 0, 1e-12),
                    published=_DESCENT,
                ),
            ),
            deterministic=True,
        ),
        Experiment(
            name="signs",
            trial=signs,
            scales={"quick": Signs(), "full": Signs(states=10_000_000)},
            claims=(
                Claim(
                    "keeps_signs",
                    "keeps every sign in a million long steps",
                    at_most("turned_dale_langevin", 0),
                    published=_SIGNS,
                ),
                Claim(
                    "ambient_turns_signs",
                    "has a sibling without logarithms that does turn signs in such steps",
                    at_least("turned_ambient", 1),
                    published=_SIGNS,
                ),
            ),
        ),
        Experiment(
            name="learned_weights",
            trial=learned_weights,
            scales={"quick": Weights(), "full": Weights(rows=1000, features=10_000, steps=30_000)},
            claims=(
                Claim(
                    "skewed_as_log_normal",
                    "mirrors a descent that leaves skewed weights with symmetric logarithms",
                    all_of(
                        at_least("skewness_exponentiated", 2),
                        near("skewness_of_logarithms", 0, 0.5),
                    ),
                    published=_WEIGHTS,
                ),
                Claim(
                    "plain_descent_is_not_skewed",
                    "mirrors a descent that differs from the plain one, which leaves symmetric weights",
                    near("skewness_plain", 0, 0.5),
                    published=_WEIGHTS,
                ),
                Claim(
                    "log_normal_by_a_test",
                    "mirrors a descent whose weights a test at 1 % (Shapiro-Wilk) takes for log-normal",
                    at_least("normality_of_logarithms", 0.01),
                    published=_WEIGHTS,
                ),
            ),
            figure=draw_learned_weights,
        ),
        Experiment(
            name="score_matching_losses",
            trial=score_matching_losses,
            scales={"quick": Losses(), "full": Losses(dim=8, samples=400_000)},
            claims=(
                Claim(
                    "least_at_the_exact_score",
                    "has a loss that rises from the exact score as the explicit loss does, within 10 %",
                    at_most("error_denoising", 0.1),
                    published=_MATCHING,
                ),
                Claim(
                    "nonnegative_loss_least_there_too",
                    "has an implicit form, for non-negative data, that rises likewise, within 10 %",
                    at_most("error_implicit", 0.1),
                    published=_SUBSUMED,
                ),
                Claim(
                    "subsumes_the_nonnegative_loss",
                    "has a loss that sets other models as far apart as the non-negative one, within 10 %",
                    at_most("losses_apart", 0.1),
                    published=_SUBSUMED,
                ),
            ),
        ),
        Experiment(
            name="learned_score",
            trial=learned_score,
            scales={"quick": Learned(), "full": Learned(data=200_000, width=256, training_steps=20_000)},
            claims=(
                Claim(
                    "estimates_the_score",
                    "estimates the Hyvarinen score to 10 % on average over time",
                    at_most("relative_error", _LEARNED),
                    published=_MATCHING,
                ),
            ),
            figure=draw_learned_score,
        ),
        Experiment(
            name="images",
            trial=images,
            scales={"quick": Images(), "mnist": Images(**_MNIST)},
            claims=(
                Claim(
                    "nearer_than_a_log_normal_law",
                    "generates images nearer to held-out ones than a log-normal law does",
                    better("distance_dale_langevin", than="distance_full_log_normal", lower=True, by=0.15),
                    published=_IMAGES,
                ),
                Claim(
                    "recognised_by_a_classifier",
                    "generates images that a classifier scores 1.4 times as high as a log-normal law's",
                    better("score_dale_langevin", than="score_full_log_normal", lower=False, factor=1.4),
                    published=_IMAGES,
                ),
                Claim(
                    "ambient_generates_too",
                    "generates such images by the step without logarithms too",
                    all_of(
                        better("distance_ambient", than="distance_full_log_normal", lower=True, by=0.15),
                        better("score_ambient", than="score_full_log_normal", lower=False, factor=1.4),
                    ),
                    published=_IMAGES,
                ),
            ),
            figure=draw_images,
        ),
        Experiment(
            name="beside_additive_noise",
            trial=beside_additive_noise,
            scales={"quick": Pair(), "mnist": Pair(**_MNIST)},
            claims=(
                Claim(
                    "rivals_additive_noise",
                    "comes within 1.5 times the Frechet distance of the same network with additive noise",
                    at_most("frechet_ratio", 1.5),
                    published=_IMAGES,
                ),
            ),
            figure=draw_beside_additive_noise,
        ),
    ),
)
