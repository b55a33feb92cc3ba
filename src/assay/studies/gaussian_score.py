"""Gaussian score approximation put to the test: what networks learn, how they sample, what can be skipped.

Networks learn scikit-learn's 8 x 8 digits, each pixel from -1 to 1, of which a random third is held out.
Quality is the Frechet distance of 2000 samples to the held-out digits, in pixel space. A grid from noise 80,
as for photographs, would prove little on digits, whose greatest standard deviation is 1.7: its first third is
noise that any rule skips. So sampling starts at 9, and the Gaussian is held against an isotropic one, which
knows the mean and one variance.

The scales "full" take the authors' settings. They need a GPU and, as files: images as one .npy array (N, C,
H, W) from -1 to 1, and the pickles of a pretrained network and of the Inception detector that NVlabs
publishes beside its code "edm", which is to be importable. They have not been run here.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor

from assay.diffusion.gaussian_score import (
    EmpiricalScore,
    GaussianScore,
    explained_variance,
    fit_gaussian_mixture_score,
    sample_teleported,
)
from assay.diffusion.metrics import frechet_distance
from assay.diffusion.sde import (
    AdaptedDenoiser,
    Denoiser,
    EDMSchedule,
    MLPDenoiser,
    NoiseSchedule,
    OdeMethod,
    VPSchedule,
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
    between,
    figures,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


# --- The closed form -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClosedForm:
    """Gaussians with variances spread evenly in logarithm between the two ends."""

    dim: int = 20
    least_variance: float = 1e-3
    greatest_variance: float = 10.0
    points: int = 4


def _integrated(
    x: Array, mean: Array, covariance: Array, schedule: NoiseSchedule, t_from: float, t_to: float
) -> Array:
    """The probability-flow ODE of the Gaussian by an adaptive Runge-Kutta method of order 8."""

    def velocity(t: float, flat: Array) -> Array:
        alpha, sigma, f, g = (
            float(part(t))
            for part in (schedule.alpha, schedule.sigma, schedule.drift_coefficient, schedule.diffusion)
        )
        state = flat.reshape(x.shape)
        precision = np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(len(mean)))
        change: Array = f * state + g**2 / 2 * (state - alpha * mean) @ precision
        return change.ravel()

    path = solve_ivp(velocity, (t_from, t_to), x.ravel(), method="DOP853", rtol=1e-10, atol=1e-12)
    return np.asarray(path.y)[:, -1].reshape(x.shape)


def closed_form(settings: ClosedForm, rng: np.random.Generator) -> Measurements:
    d = settings.dim
    mean = rng.standard_normal(d)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    covariance = (basis * np.geomspace(settings.least_variance, settings.greatest_variance, d)) @ basis.T
    covariance = (covariance + covariance.T) / 2
    errors = {}
    schedules: dict[str, NoiseSchedule] = {"edm": EDMSchedule(), "vp": VPSchedule()}
    for name, schedule in schedules.items():
        x = float(schedule.sigma(schedule.t_max)) * rng.standard_normal((settings.points, d))
        gaussian = GaussianScore(torch.from_numpy(mean), torch.from_numpy(covariance), schedule)
        ours = gaussian.solution(torch.from_numpy(x), schedule.t_max, schedule.t_min).numpy()
        theirs = _integrated(x, mean, covariance, schedule, schedule.t_max, schedule.t_min)
        errors[f"error_{name}"] = float(
            np.max(np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1))
        )
    return errors


# --- What all others share: data and a network ---------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network trained on digits, or files that take the place of either."""

    n_train: int = 1200
    width: int = 192
    depth: int = 3
    training_steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    data_file: str = ""
    network_file: str = ""
    device: str = "cpu"


def _data(settings: Network, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Training data and held-out data; where nothing is left to hold out, the training data again."""
    if settings.data_file:
        data = torch.from_numpy(np.load(settings.data_file)).float()
    else:
        data = torch.from_numpy(load_digits().data / 8 - 1).float()
    train, held_out = data[torch.from_numpy(rng.permutation(len(data)))].tensor_split([settings.n_train])
    train = train.to(settings.device)
    return train, held_out if len(held_out) else train


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def _unpickled(file: str, device: str) -> Any:
    with Path(file).open("rb") as stream:
        content = pickle.load(stream)
    network = content["ema"] if isinstance(content, dict) else content
    return network.to(device).eval()


@torch.enable_grad()
def _network(
    settings: Network,
    train: Tensor,
    rng: np.random.Generator,
    callback: Callable[[int, Denoiser], object] | None = None,
) -> Denoiser:
    schedule = EDMSchedule()
    if settings.network_file:
        pretrained = _unpickled(settings.network_file, settings.device)
        return AdaptedDenoiser(pretrained, schedule, prediction="sample", timestep=lambda t: t)
    torch.manual_seed(int(rng.integers(2**63)))
    model = MLPDenoiser(
        train.shape[1], schedule, width=settings.width, depth=settings.depth, sigma_data=float(train.std())
    )
    fit_denoiser(
        model,
        train,
        n_steps=settings.training_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        generator=_generator(rng),
        callback=callback,
    )
    return model


def _gaussians(train: Tensor) -> dict[str, GaussianScore]:
    """The Gaussian, and the isotropic one with its mean and its mean variance."""
    schedule = EDMSchedule()
    gaussian = GaussianScore.from_data(train, schedule)
    white = gaussian.eigenvalues.mean() * torch.eye(len(gaussian.mean), device=train.device)
    return {
        "gaussian": gaussian.float(),
        "isotropic": GaussianScore(gaussian.mean, white, schedule).float(),
    }


# --- Learned scores ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores(Network):
    """Scores at noised training points, `probes` at each level; the levels are the authors'."""

    probes: int = 600
    sigmas: tuple[float, ...] = (
        *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.75, 1.0),
        *(1.5, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 80.0),
    )
    high: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0)
    moderate: tuple[float, ...] = (1.0, 2.0)
    early: tuple[float, ...] = (0.1, 0.2, 0.5)
    early_step: int = 200
    n_components: int = 10


@dataclass(frozen=True)
class LowNoise(Network):
    """A longer training, as fine structure is learned last; batches at "longer" are four times as large."""

    width: int = 256
    training_steps: int = 3000
    batch_size: int = 64
    probes: int = 600
    sigmas: tuple[float, ...] = (0.1, 0.2)
    n_components: int = 10
    other_components: tuple[int, ...] = (2, 5, 20, 50)


def _explained(
    settings: Scores | LowNoise,
    train: Tensor,
    networks: Sequence[Denoiser],
    models: Mapping[str, Denoiser],
    rng: np.random.Generator,
) -> list[dict[str, Array]]:
    """The mean share of each network's score that each model explains, at every level."""
    generator = _generator(rng)
    shares: list[dict[str, Array]] = [
        {name: np.empty(len(settings.sigmas)) for name in models} for _ in networks
    ]
    for i, sigma in enumerate(settings.sigmas):
        chosen = train[torch.from_numpy(rng.integers(len(train), size=settings.probes)).to(train.device)]
        x = chosen + sigma * torch.randn(chosen.shape, generator=generator).to(train.device)
        references = [network.score(x, sigma) for network in networks]
        for name, model in models.items():
            score = model.score(x, sigma)
            for share, reference in zip(shares, references, strict=True):
                share[name][i] = float(explained_variance(reference, score).mean())
    return shares


@torch.no_grad()
def learned_score(settings: Scores, rng: np.random.Generator) -> Measurements:
    """How much of a network's score the analytic models explain, early in its training and at the end."""
    train, _ = _data(settings, rng)
    networks: list[Denoiser] = []

    def keep_early(step: int, model: Denoiser) -> None:
        if step + 1 == settings.early_step:
            networks.append(copy.deepcopy(model))

    networks.append(_network(settings, train, rng, keep_early))
    schedule = EDMSchedule()
    models: dict[str, Denoiser] = {
        **_gaussians(train),
        "mixture": fit_gaussian_mixture_score(
            train, schedule, settings.n_components, seed=int(rng.integers(2**31))
        ),
        "training_set": EmpiricalScore(train, schedule),
    }
    *before, final = _explained(settings, train, networks, models, rng)
    sigmas = np.array(settings.sigmas)

    def lead(shares: Mapping[str, Array]) -> float:
        return float((shares["gaussian"] - shares["mixture"])[np.isin(sigmas, settings.early)].mean())

    def least_sigma(name: str) -> float:
        """From which level up the model explains nine tenths; the highest where that is nowhere."""
        short = np.flatnonzero(final[name] < 0.9)
        return float(sigmas[min(short[-1] + 1, len(sigmas) - 1) if short.size else 0])

    radius = float((train - train.mean(0)).flatten(1).square().sum(1).mean().sqrt())
    moderate = np.isin(sigmas, settings.moderate)
    residuals = (1 - final["gaussian"][moderate]) / (1 - final["isotropic"][moderate])
    return {
        "explained_high": float(final["gaussian"][np.isin(sigmas, settings.high)].min()),
        "residual_ratio": float(residuals.max()),
        "sigma_in_radii": least_sigma("gaussian") / radius,
        "sigma_in_radii_isotropic": least_sigma("isotropic") / radius,
        # A network that came trained has no early state.
        "lead_early": lead(before[0]) if before else None,
        "lead_final": lead(final),
        "sigmas": sigmas.tolist(),
        **{f"explained_{name}": final[name].tolist() for name in models},
    }


@torch.no_grad()
def low_noise(settings: LowNoise, rng: np.random.Generator) -> Measurements:
    """How much of a network's score models from one Gaussian to all training points explain at low noise."""
    train, _ = _data(settings, rng)
    network, schedule = _network(settings, train, rng), EDMSchedule()
    seed = int(rng.integers(2**31))
    counts = sorted((settings.n_components, *settings.other_components))
    mixtures = {
        f"mixture_{count}": fit_gaussian_mixture_score(train, schedule, count, seed=seed) for count in counts
    }
    models: dict[str, Denoiser] = {
        "gaussian": _gaussians(train)["gaussian"],
        "training_set": EmpiricalScore(train, schedule),
        **mixtures,
    }
    # The number of Gaussians is chosen on other points than those that judge it.
    choice, explained = (
        {name: float(share.mean()) for name, share in shares.items()}
        for _ in range(2)
        for shares in _explained(settings, train, [network], models, rng)
    )
    best = max(mixtures, key=choice.__getitem__)
    return {
        "explained_gaussian": explained["gaussian"],
        "explained_mixture": explained[f"mixture_{settings.n_components}"],
        "explained_best_mixture": explained[best],
        "explained_training_set": explained["training_set"],
        "components": [float(count) for count in counts],
        "explained_by_components": [explained[name] for name in mixtures],
    }


# --- The path of samples -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paths(Network):
    starts: int = 1000
    sigma_max: float = 9.0
    grid_steps: int = 18
    first_check: int = 3
    second_check: int = 5
    feature_sigma_max: float = 20.0
    feature_steps: int = 80
    directions: int = 10


@torch.no_grad()
def sampling_path(settings: Paths, rng: np.random.Generator) -> Measurements:
    """How far the solutions are from a network's sampling path, and at which noise its features appear."""
    train, _ = _data(settings, rng)
    network = _network(settings, train, rng)
    gaussians = _gaussians(train)
    noise = torch.randn(settings.starts, *train.shape[1:], generator=_generator(rng)).to(train.device)
    measurements: dict[str, float | Sequence[float]] = {}

    levels = EDMSchedule(sigma_max=settings.sigma_max).timesteps(settings.grid_steps)
    x = settings.sigma_max * noise
    path = solve_ode(network, x, levels, return_trajectory=True).trajectory
    assert path is not None
    for name, gaussian in gaussians.items():
        apart = (path - gaussian.trajectory(x, levels)).flatten(2).norm(dim=2) / path.flatten(2).norm(dim=2)
        errors = apart.mean(1).tolist()
        measurements[f"error_first_{name}"] = errors[settings.first_check]
        measurements[f"error_second_{name}"] = errors[settings.second_check]
        measurements[f"errors_{name}"] = errors

    levels = EDMSchedule(sigma_max=settings.feature_sigma_max).timesteps(settings.feature_steps)
    x = settings.feature_sigma_max * noise
    path = solve_ode(network, x, levels, method="dpm_solver_2m", return_trajectory=True).trajectory
    assert path is not None
    basis = gaussians["gaussian"].eigenvectors[:, : settings.directions]
    clean = [network(state, level) for state, level in zip(path[:-1], levels[:-1].tolist(), strict=True)]
    spread = torch.stack([(image.flatten(1) @ basis).std(0) for image in (*clean, path[-1])]).double().cpu()
    appears = _last_crossings(levels[:-1].log().numpy(), (spread / spread[-1])[:-1].numpy())
    deviations = gaussians["gaussian"].eigenvalues[: settings.directions].double().sqrt().cpu().numpy()
    slope = np.polyfit(np.log(deviations), appears, 1)[0]
    return measurements | {
        "slope": float(slope),
        "rank_correlation": float(spearmanr(deviations, appears).statistic),
        "deviations": deviations.tolist(),
        "appears_at": np.exp(appears).tolist(),
    }


def _last_crossings(log_levels: Array, shares: Array) -> Array:
    """Where each column of shares last rises to a half, as the levels fall; the first level if it never is
    below."""
    crossings = np.full(shares.shape[1], log_levels[0])
    for k, share in enumerate(shares.T):
        below = np.flatnonzero(share < 0.5)
        if below.size:
            i = below[-1]
            if i + 1 == len(share):
                crossings[k] = log_levels[i]
                continue
            part = (0.5 - share[i]) / (share[i + 1] - share[i])
            crossings[k] = log_levels[i] + part * (log_levels[i + 1] - log_levels[i])
    return crossings


# --- Teleportation -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples(Network):
    samples: int = 2000
    sampled_at_once: int = 2000
    detector_file: str = ""


@dataclass(frozen=True)
class Teleportation(Samples):
    sigma_max: float = 9.0
    grid_steps: int = 18
    skips: tuple[int, ...] = (3, 4, 5)


@dataclass(frozen=True)
class FixedBudget(Samples):
    """The hybrid spends all its evaluations below `takeover_sigma`, the plain sampler from each sigma_max."""

    start_sigma: float = 80.0
    takeover_sigma: float = 2.6
    plain_sigma_max: tuple[float, ...] = (6.0, 9.0, 20.0, 80.0)
    heun_steps: int = 6
    multistep_steps: int = 7


class _Judge:
    """Frechet distances of samples to the held-out data, from noise that all samplers share."""

    def __init__(self, settings: Samples, held_out: Tensor, rng: np.random.Generator) -> None:
        self._settings = settings
        self._detector = None
        if settings.detector_file:
            self._detector = _unpickled(settings.detector_file, settings.device)
        self._noise = torch.randn(settings.samples, *held_out.shape[1:], generator=_generator(rng))
        self._reference = torch.cat([self._features(part) for part in self._split(held_out)])

    def distance(self, sample: Callable[[Tensor], Tensor]) -> float:
        """Of what `sample` makes of standard normal noise."""
        parts = [self._features(sample(noise)) for noise in self._split(self._noise)]
        return frechet_distance(torch.cat(parts), self._reference)

    def distance_of(self, data: Tensor) -> float:
        return frechet_distance(
            torch.cat([self._features(part) for part in self._split(data)]), self._reference
        )

    def _split(self, points: Tensor) -> list[Tensor]:
        return [
            part.to(self._settings.device) for part in torch.split(points, self._settings.sampled_at_once)
        ]

    def _features(self, points: Tensor) -> Tensor:
        if self._detector is not None:
            images = (127.5 * (points + 1)).round().clamp(0, 255).to(torch.uint8)
            points = self._detector(images, return_features=True)
        return points.flatten(1).cpu()


@torch.no_grad()
def teleportation(settings: Teleportation, rng: np.random.Generator) -> Measurements:
    """The quality of samples whose first steps are replaced, as a ratio to that of all steps."""
    train, held_out = _data(settings, rng)
    network = _network(settings, train, rng)
    judge = _Judge(settings, held_out, rng)
    levels = EDMSchedule(sigma_max=settings.sigma_max).timesteps(settings.grid_steps)
    full = judge.distance(lambda noise: solve_ode(network, settings.sigma_max * noise, levels).x)
    measurements: dict[str, float | Sequence[float]] = {
        "distance_full": full,
        "distance_training_data": judge.distance_of(train),
    }
    for name, gaussian in _gaussians(train).items():
        ratios = []
        for skip in settings.skips:

            def sample(noise: Tensor, gaussian: GaussianScore = gaussian, skip: int = skip) -> Tensor:
                return sample_teleported(network, gaussian, settings.sigma_max * noise, levels, skip=skip).x

            ratios.append(judge.distance(sample) / full)
            measurements[f"ratio_{name}_{skip}"] = ratios[-1]
        measurements[f"ratios_{name}"] = ratios
    return measurements | {"skips": [float(skip) for skip in settings.skips]}


@torch.no_grad()
def fixed_budget(settings: FixedBudget, rng: np.random.Generator) -> Measurements:
    """The quality of samples for one small number of evaluations."""
    train, held_out = _data(settings, rng)
    network = _network(settings, train, rng)
    judge = _Judge(settings, held_out, rng)
    gaussians = _gaussians(train)
    methods: dict[str, tuple[OdeMethod, int]] = {
        "heun": ("heun", settings.heun_steps),
        "multistep": ("dpm_solver_2m", settings.multistep_steps),
    }
    measurements: dict[str, float] = {}
    for label, (method, steps) in methods.items():
        below = EDMSchedule(sigma_max=settings.takeover_sigma).timesteps(steps)
        levels = torch.cat((below.new_tensor([settings.start_sigma]), below))
        for name, gaussian in gaussians.items():

            def hybrid(
                noise: Tensor,
                gaussian: GaussianScore = gaussian,
                levels: Tensor = levels,
                method: OdeMethod = method,
            ) -> Tensor:
                x = settings.start_sigma * noise
                return sample_teleported(network, gaussian, x, levels, skip=1, method=method).x

            measurements[f"distance_{label}_{name}"] = judge.distance(hybrid)
        for sigma_max in settings.plain_sigma_max:

            def plain(
                noise: Tensor, sigma_max: float = sigma_max, steps: int = steps, method: OdeMethod = method
            ) -> Tensor:
                plain_levels = EDMSchedule(sigma_max=sigma_max).timesteps(steps)
                return solve_ode(network, sigma_max * noise, plain_levels, method=method).x

            measurements[f"distance_{label}_plain_{sigma_max:g}"] = judge.distance(plain)
        measurements[f"distance_{label}_plain"] = min(
            measurements[f"distance_{label}_plain_{sigma_max:g}"] for sigma_max in settings.plain_sigma_max
        )
    return measurements


# --- Figures -------------------------------------------------------------------------------------------


def draw_learned_score(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("noise level", "share of the learned score explained")
    sigmas = figures.curves(rows, "sigmas")[0]
    for name, label in (
        ("gaussian", "Gaussian"),
        ("isotropic", "isotropic Gaussian"),
        ("mixture", "mixture of Gaussians"),
        ("training_set", "training set"),
    ):
        shares = figures.curves(rows, f"explained_{name}")
        axes.plot(sigmas, np.median(shares, axis=0), "o-", markersize=3, label=label)
    axes.set(xscale="log", ylim=(-0.5, 1.03))
    axes.legend(frameon=False)
    return figure


def draw_low_noise(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("Gaussians in the mixture", "share of the learned score explained")
    counts = figures.curves(rows, "components")[0]
    shares = figures.curves(rows, "explained_by_components")
    axes.plot(counts, shares.T, color="tab:green", alpha=0.25, linewidth=0.8)
    axes.plot(counts, np.median(shares, axis=0), "o-", color="tab:green", label="mixture of Gaussians")
    for name, label, colour in (
        ("gaussian", "one Gaussian", "tab:blue"),
        ("training_set", "training set", "tab:red"),
    ):
        level = float(np.median(figures.values(rows, f"explained_{name}")))
        axes.axhline(level, color=colour, linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def draw_sampling_path(rows: Sequence[Measurements]) -> Figure:
    figure, (errors_panel, features_panel) = figures.panels(2)
    for name, label in (("gaussian", "Gaussian"), ("isotropic", "isotropic Gaussian")):
        errors = figures.curves(rows, f"errors_{name}")
        errors_panel.plot(np.median(errors, axis=0), "o-", markersize=3, label=label)
    errors_panel.set(xlabel="sampling step", ylabel="relative distance to the network's path", ylim=(0, None))
    errors_panel.legend(frameon=False)
    deviations, appears = (figures.curves(rows, name) for name in ("deviations", "appears_at"))
    features_panel.plot(deviations.T, appears.T, "o", color="tab:blue", alpha=0.4, markersize=4)
    ends = np.array([deviations.min(), deviations.max()])
    features_panel.plot(ends, np.sqrt(3) * ends, color="black", linewidth=0.8, label="Gaussian")
    features_panel.set(
        xscale="log",
        yscale="log",
        xlabel="standard deviation of a direction",
        ylabel="noise level at which it appears",
    )
    features_panel.legend(frameon=False)
    return figure


def draw_teleportation(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("steps skipped", "Frechet distance, as a ratio to all steps")
    skips = figures.curves(rows, "skips")[0]
    for name, label, colour in (
        ("gaussian", "Gaussian", "tab:blue"),
        ("isotropic", "isotropic Gaussian", "tab:orange"),
    ):
        ratios = figures.curves(rows, f"ratios_{name}")
        axes.plot(skips, ratios.T, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(skips, np.median(ratios, axis=0), "o-", color=colour, label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(skips)
    axes.legend(frameon=False)
    return figure


def draw_fixed_budget(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    for panel, label, title in zip(panels, ("heun", "multistep"), ("Heun", "DPM-Solver++ 2M"), strict=True):
        columns = {
            "best plain": figures.values(rows, f"distance_{label}_plain"),
            "isotropic": figures.values(rows, f"distance_{label}_isotropic"),
            "Gaussian": figures.values(rows, f"distance_{label}_gaussian"),
        }
        figures.dots(panel, columns, paired=True)
        panel.set(ylabel="Frechet distance to held-out data", title=title)
        panel.set_ylim(bottom=0)
    return figure


# --- The study -----------------------------------------------------------------------------------------

_SKIPS = Published("the first 15-30 % of steps, FID 1.93 on CIFAR-10 (unconditional)", "abstract")
_SAMPLERS = Published("works with any sampler: DPM-Solver-v3 and UniPC besides Heun", "teleportation")
_PRETRAINED: dict[str, Any] = {
    "n_train": 50_000,
    "data_file": "cifar10.npy",
    "network_file": "edm-cifar10-32x32-uncond-vp.pkl",
    "device": "cuda",
}
_DETECTED: dict[str, Any] = {
    **_PRETRAINED,
    "samples": 50_000,
    "sampled_at_once": 500,
    "detector_file": "inception-2015-12-05.pkl",
}
_LONGER: dict[str, Any] = {"width": 256, "training_steps": 3000, "batch_size": 256}

STUDY = Study(
    slug="gaussian_score",
    experiments=(
        Experiment(
            name="closed_form",
            trial=closed_form,
            scales={"quick": ClosedForm(), "full": ClosedForm(dim=200)},
            claims=(
                Claim(
                    "solves_the_probability_flow",
                    "has a closed form that agrees with numerical integration to 1e-5, for EDM and for VP",
                    all_of(at_most("error_edm", 1e-5), at_most("error_vp", 1e-5)),
                    published=Published("a closed-form solution", "abstract"),
                ),
            ),
        ),
        Experiment(
            name="learned_score",
            trial=learned_score,
            scales={
                "quick": Scores(),
                "longer": Scores(**_LONGER),
                "full": Scores(**_PRETRAINED, probes=1024),
            },
            claims=(
                Claim(
                    "gaussian_dominates",
                    "explains 99 % of the learned score from moderate noise up",
                    at_least("explained_high", 0.99),
                    published=Published("more than 99 % of the variance at high noise", "learned scores"),
                ),
                Claim(
                    "covariance_matters",
                    "leaves at most 0.6 of what an isotropic Gaussian leaves unexplained, at moderate noise",
                    at_most("residual_ratio", 0.6),
                    published=Published("dominated by its linear (Gaussian) approximation", "abstract"),
                ),
                Claim(
                    "wider_range",
                    "explains 90 % down to a noise of 0.3 radii of the data, where theory asks for far more",
                    at_most("sigma_in_radii", 0.3),
                    published=Published(
                        "a larger range of noise scales than naive theory suggests", "abstract"
                    ),
                ),
                Claim(
                    "learned_early",
                    "leads over a Gaussian mixture early in training by 0.2 more than at the end",
                    better("lead_early", than="lead_final", lower=False, by=0.2),
                    published=Published("preferentially learned early in training", "abstract"),
                ),
            ),
            figure=draw_learned_score,
        ),
        Experiment(
            name="low_noise",
            trial=low_noise,
            scales={
                "quick": LowNoise(),
                "longer": LowNoise(batch_size=256),
                "full": LowNoise(**_PRETRAINED, probes=1024, other_components=(2, 5, 20)),
            },
            claims=(
                Claim(
                    "coarse_mixture_over_training_set",
                    "as ten Gaussians explains 0.3 more of a score at low noise than the training set's own",
                    better("explained_mixture", than="explained_training_set", lower=False, by=0.3),
                    published=Published("a coarse mixture describes it better than the data", "abstract"),
                ),
                Claim(
                    "coarse_mixture_over_gaussian",
                    "as ten Gaussians explains 0.02 more of a score at low noise than as one",
                    better("explained_mixture", than="explained_gaussian", lower=False, by=0.02),
                    published=Published("a coarse mixture describes it best at small noise", "abstract"),
                ),
                Claim(
                    "some_mixture_over_gaussian",
                    "as 2 to 50 Gaussians, the number chosen on other points, explains 0.02 more than as one",
                    better("explained_best_mixture", than="explained_gaussian", lower=False, by=0.02),
                    published=Published("a coarse mixture describes it best at small noise", "abstract"),
                ),
            ),
            figure=draw_low_noise,
        ),
        Experiment(
            name="sampling_path",
            trial=sampling_path,
            scales={
                "quick": Paths(),
                "longer": Paths(**_LONGER),
                "full": Paths(**_PRETRAINED, sigma_max=80.0, feature_sigma_max=80.0),
            },
            claims=(
                Claim(
                    "predicts_the_first_phase",
                    "predicts a network's sampling path within 3 % after 3 and 7 % after 5 of 18 steps",
                    all_of(at_most("error_first_gaussian", 0.03), at_most("error_second_gaussian", 0.07)),
                    published=Published("precisely predicts the initial phase", "abstract"),
                ),
                Claim(
                    "closer_than_isotropic",
                    "predicts it with at least 20 % less error than an isotropic Gaussian, at both",
                    all_of(
                        better("error_first_gaussian", than="error_first_isotropic", lower=True, factor=1.25),
                        better(
                            "error_second_gaussian", than="error_second_isotropic", lower=True, factor=1.25
                        ),
                    ),
                    published=Published("precisely predicts the initial phase", "abstract"),
                ),
                Claim(
                    "features_at_their_scale",
                    "predicts that a feature appears at a noise in proportion to its standard deviation",
                    between("slope", 0.75, 1.3),
                    published=Published("slope 1 in logarithms", "closed-form solution"),
                ),
                Claim(
                    "features_in_order",
                    "predicts the order in which the ten leading features appear (rank correlation 0.9)",
                    at_least("rank_correlation", 0.9),
                    published=Published("features of high variance first", "closed-form solution"),
                ),
            ),
            figure=draw_sampling_path,
        ),
        Experiment(
            name="teleportation",
            trial=teleportation,
            scales={
                "quick": Teleportation(),
                "longer": Teleportation(**_LONGER),
                "full": Teleportation(**_DETECTED, sigma_max=80.0, skips=tuple(range(1, 9))),
            },
            claims=(
                Claim(
                    "keeps_quality",
                    "skips 3, 4 and 5 of 18 steps at most 1.05, 1.05 and 1.1 times as far from the data",
                    all_of(
                        at_most("ratio_gaussian_3", 1.05),
                        at_most("ratio_gaussian_4", 1.05),
                        at_most("ratio_gaussian_5", 1.1),
                    ),
                    published=_SKIPS,
                ),
                Claim(
                    "beyond_rescaling_noise",
                    "skips 5 of 18 steps at a distance at least 1.2 times below the isotropic Gaussian's",
                    better("ratio_gaussian_5", than="ratio_isotropic_5", lower=True, factor=1.2),
                    published=_SKIPS,
                ),
            ),
            figure=draw_teleportation,
        ),
        Experiment(
            name="fixed_budget",
            trial=fixed_budget,
            scales={
                "quick": FixedBudget(),
                "longer": FixedBudget(**_LONGER),
                "full": FixedBudget(**_DETECTED, takeover_sigma=20.0),
            },
            claims=(
                Claim(
                    "better_with_heun",
                    "samples 1.2 times better than plain Heun from its best start, in 11 evaluations",
                    better("distance_heun_gaussian", than="distance_heun_plain", lower=True, factor=1.2),
                    published=_SAMPLERS,
                ),
                Claim(
                    "better_with_multistep",
                    "samples 1.2 times better than DPM-Solver++ 2M from its best start, in 7 evaluations",
                    better(
                        "distance_multistep_gaussian",
                        than="distance_multistep_plain",
                        lower=True,
                        factor=1.2,
                    ),
                    published=_SAMPLERS,
                ),
            ),
            figure=draw_fixed_budget,
        ),
    ),
)
