"""Feynman-Kac correctors put to the test: annealed, guided and multiplied models whose densities are known.

The models are exact denoisers of Gaussian mixtures, and in one experiment a network trained on draws of one,
so that what should be sampled is known: truth is drawn from a fine grid of the target density at the last
noise level. The heuristic runs the same steps with the same mixed score from the same particles, without
weights. The scale "full" takes the 40 modes that are usual for samplers, more particles and finer steps. The
paper's own models (Lennard-Jones clusters, molecules that dock, ImageNet at 512 pixels) need accelerators and
checkpoints, and are not here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay.diffusion.feynman_kac import (
    FeynmanKacResult,
    GeometricTarget,
    annealed,
    guided,
    product,
    sample_feynman_kac,
    systematic_resample,
)
from assay.diffusion.metrics import sliced_wasserstein
from assay.diffusion.sde import EDMSchedule, GaussianMixtureDenoiser, MLPDenoiser, fit_denoiser
from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    at_most,
    better,
    figures,
    near,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = tuple[tuple[float, float], ...]

_METHODS: dict[str, dict[str, Any]] = {
    "corrected": {},
    "weighted": {"resampling": "none"},
    "uncorrected": {"corrected": False},
}
_BETAS = {"1_5": 1.5, "2": 2.0, "3": 3.0}
_WEIGHTS = {"1_5": 1.5, "3": 3.0, "5": 5.0}
_LABELS = {"corrected": "corrected", "weighted": "weights alone", "uncorrected": "heuristic"}

_FORTY_MODES = tuple(map(tuple, np.random.default_rng(0).uniform(-40, 40, (40, 2)).tolist()))


@dataclass(frozen=True)
class Sampling:
    """Particles, their steps and the schedule."""

    particles: int = 2000
    steps: int = 200
    ess_threshold: float = 0.9
    sigma_min: float = 0.01
    sigma_max: float = 15.0

    @property
    def schedule(self) -> EDMSchedule:
        return EDMSchedule(sigma_min=self.sigma_min, sigma_max=self.sigma_max)


@dataclass(frozen=True)
class Comparison(Sampling):
    """The grid that truth is drawn from, and how often."""

    cells: int = 400
    extent: float = 6.0
    truth: int = 10_000


@dataclass(frozen=True)
class Annealing(Comparison):
    centres: Points = ((1.5, 0.0), (-1.5, 0.5), (0.0, -1.5))
    deviations: tuple[float, ...] = (0.35, 0.6, 0.9)
    weights: tuple[float, ...] = (0.3, 0.3, 0.4)


@dataclass(frozen=True)
class LearnedModel(Annealing):
    """The network and how it is trained."""

    width: int = 64
    depth: int = 2
    training_steps: int = 1500
    batch_size: int = 256
    data: int = 20_000


@dataclass(frozen=True)
class Guidance(Comparison):
    """Modes on the axes, of which the condition keeps the two positive ones."""

    radius: float = 2.0
    deviation: float = 0.55
    share: float = 0.75


@dataclass(frozen=True)
class Product(Sampling):
    particles: int = 4000
    means: Points = ((0.8, -0.4), (-0.6, 0.9))
    deviations: tuple[float, float] = (0.7, 0.5)


@dataclass(frozen=True)
class SeparatedModes(Comparison):
    """Two experts of four modes each, the second turned by some degrees."""

    radius: float = 3.0
    deviation: float = 0.4
    weights: tuple[float, ...] = (0.55, 0.25, 0.15, 0.05)
    turn: float = 10.0


@dataclass(frozen=True)
class InferenceScaling(Annealing):
    """Two experts of three modes, the second turned by some degrees; shares of the particles are used."""

    particles: int = 4000
    turn: float = 60.0
    shares: tuple[float, ...] = (1 / 16, 1 / 4, 1.0)
    repeats: int = 6


@dataclass(frozen=True)
class Evidence(Sampling):
    """Steps are coarsened by each of some divisors."""

    particles: int = 4000
    steps: int = 500
    divisors: tuple[int, ...] = (5, 2, 1)
    beta: float = 2.0
    dim: int = 2


# --- Models and truth --------------------------------------------------------------------------------


def _mixture(
    schedule: EDMSchedule,
    centres: Sequence[Sequence[float]],
    deviations: Sequence[float],
    weights: Sequence[float],
    turn: float = 0.0,
) -> GaussianMixtureDenoiser:
    """A mixture of round Gaussians in the plane, turned by some degrees about the origin."""
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    rotation = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    variances = torch.tensor(deviations, dtype=torch.float64).square()
    return GaussianMixtureDenoiser(
        torch.tensor(centres, dtype=torch.float64) @ rotation,
        variances[:, None, None] * torch.eye(2, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        schedule,
    )


def _truth(
    settings: Comparison,
    models: Sequence[GaussianMixtureDenoiser],
    exponents: Sequence[float],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draws of the target at the last noise level, from a grid of its density."""
    edge = settings.extent * (1 - 1 / settings.cells)
    axis = torch.linspace(-edge, edge, settings.cells, dtype=torch.float64)
    centres = torch.cartesian_prod(axis, axis)
    # In parts, because a mixture's density holds a number for each point, mode and axis.
    log_density = torch.cat(
        [
            torch.stack(
                [
                    b * model.log_prob(part, settings.sigma_min)
                    for b, model in zip(exponents, models, strict=True)
                ]
            ).sum(0)
            for part in torch.tensor_split(centres, 8)
        ]
    )
    chosen = rng.choice(len(centres), settings.truth, p=log_density.softmax(0).numpy())
    spacing = 2 * settings.extent / settings.cells
    return centres.numpy()[chosen] + spacing * (rng.random((settings.truth, 2)) - 0.5)


def _sampled(
    target: GeometricTarget, settings: Sampling, seed: int, *, dim: int = 2, **how: Any
) -> FeynmanKacResult:
    """A run from the seed's particles."""
    generator = torch.Generator().manual_seed(seed)
    x = target.sample_prior((settings.particles, dim), generator=generator, dtype=torch.float64)
    return sample_feynman_kac(
        target,
        x,
        settings.schedule.timesteps(settings.steps),
        ess_threshold=settings.ess_threshold,
        generator=generator,
        **how,
    )


def _distance(result: FeynmanKacResult, truth: NDArray[np.float64], seed: int) -> float:
    kept = systematic_resample(result.log_weights, generator=torch.Generator().manual_seed(seed))
    return sliced_wasserstein(result.x[kept], truth)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


def _distances(
    target: GeometricTarget, settings: Sampling, truth: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, float]:
    """How far each method's samples are from the truth, from the same particles."""
    seed = _seed(rng)
    return {
        method: _distance(_sampled(target, settings, seed, **how), truth, seed)
        for method, how in _METHODS.items()
    }


# --- Trials ------------------------------------------------------------------------------------------


def annealing(settings: Annealing, rng: np.random.Generator) -> Measurements:
    """Distances to the tempered density, at three temperatures and with the noise tempered too."""
    model = _mixture(settings.schedule, settings.centres, settings.deviations, settings.weights)
    targets = {name: annealed(model, beta) for name, beta in _BETAS.items()}
    targets["tempered"] = annealed(model, _BETAS["1_5"], noise="tempered")
    measurements = {}
    for name, target in targets.items():
        truth = _truth(settings, [model], target.exponents, rng)
        for method, distance in _distances(target, settings, truth, rng).items():
            measurements[f"{method}_{name}"] = distance
    return measurements


def learned_model(settings: LearnedModel, rng: np.random.Generator) -> Measurements:
    """Distances to the tempered density of the data, for a network that was trained on them."""
    exact = _mixture(settings.schedule, settings.centres, settings.deviations, settings.weights)
    torch.manual_seed(_seed(rng))
    data = exact.sample(settings.data).float()
    model = MLPDenoiser(
        2, settings.schedule, width=settings.width, depth=settings.depth, sigma_data=float(data.std())
    )
    fit_denoiser(model, data, n_steps=settings.training_steps, batch_size=settings.batch_size)
    target = annealed(model.double(), _BETAS["2"])
    return _distances(target, settings, _truth(settings, [exact], target.exponents, rng), rng)


def guidance(settings: Guidance, rng: np.random.Generator) -> Measurements:
    """Distances to the geometric average that guidance means, at three guidance weights."""
    r, (width, schedule) = settings.radius, (settings.deviation, settings.schedule)
    centres = ((r, 0.0), (0.0, r), (-r, 0.0), (0.0, -r))
    unconditional = _mixture(schedule, centres, (width,) * 4, (0.25,) * 4)
    conditional = _mixture(schedule, centres[:2], (width,) * 2, (settings.share, 1 - settings.share))
    measurements = {}
    for name, weight in _WEIGHTS.items():
        target = guided(unconditional, conditional, weight)
        truth = _truth(settings, [unconditional, conditional], target.exponents, rng)
        for method, distance in _distances(target, settings, truth, rng).items():
            measurements[f"{method}_{name}"] = distance
    return measurements


def gaussian_product(settings: Product, rng: np.random.Generator) -> Measurements:
    """Mean and variance of the product of two Gaussians, against their closed form."""
    experts = [
        _mixture(settings.schedule, (mean,), (deviation,), (1.0,))
        for mean, deviation in zip(settings.means, settings.deviations, strict=True)
    ]
    precisions = 1 / (np.square(settings.deviations) + settings.sigma_min**2)
    variance = 1 / precisions.sum()
    mean = variance * precisions @ np.array(settings.means)
    seed = _seed(rng)
    measurements: dict[str, float] = {}
    for method, how in _METHODS.items():
        result = _sampled(product(experts), settings, seed, **how)
        shares, x = result.log_weights.softmax(0).numpy(), result.x.numpy()
        centre = shares @ x
        ratio = float((shares @ (x - centre) ** 2).mean() / variance)
        measurements |= {
            f"variance_ratio_{method}": ratio,
            f"variance_error_{method}": abs(ratio - 1),
            f"mean_error_{method}": float(np.linalg.norm(centre - mean)) / math.sqrt(variance),
        }
    return measurements


def separated_modes(settings: SeparatedModes, rng: np.random.Generator) -> Measurements:
    """Distances to the product of two experts whose modes lie far apart."""
    r = settings.radius
    centres = ((r, 0.0), (0.0, r), (-r, 0.0), (0.0, -r))
    experts = [
        _mixture(settings.schedule, centres, (settings.deviation,) * 4, settings.weights, turn)
        for turn in (0.0, settings.turn)
    ]
    target = product(experts)
    return _distances(target, settings, _truth(settings, experts, target.exponents, rng), rng)


def inference_scaling(settings: InferenceScaling, rng: np.random.Generator) -> Measurements:
    """Mean distance to a product of two mixtures for growing numbers of particles, and its slope."""
    experts = [
        _mixture(settings.schedule, settings.centres, settings.deviations, settings.weights, turn)
        for turn in (0.0, settings.turn)
    ]
    target = product(experts)
    truth = _truth(settings, experts, target.exponents, rng)
    seeds = [_seed(rng) for _ in range(settings.repeats)]
    sizes = [replace(settings, particles=round(share * settings.particles)) for share in settings.shares]
    distances = [
        float(np.mean([_distance(_sampled(target, size, seed), truth, seed) for seed in seeds]))
        for size in sizes
    ]
    counts = [float(size.particles) for size in sizes]
    heuristic = _sampled(target, settings, seeds[0], corrected=False)
    return {
        "slope": float(np.polyfit(np.log(counts), np.log(distances), 1)[0]),
        "distance_fewest": distances[0],
        "distance_most": distances[-1],
        "distance_uncorrected": _distance(heuristic, truth, seeds[0]),
        "counts": counts,
        "distances": distances,
    }


def evidence(settings: Evidence, rng: np.random.Generator) -> Measurements:
    """The log normaliser of an annealed Gaussian, with steps that become finer, against its closed form."""
    factor = rng.standard_normal((settings.dim, settings.dim))
    covariance = factor @ factor.T / settings.dim + 0.3 * np.eye(settings.dim)
    model = GaussianMixtureDenoiser(
        torch.from_numpy(rng.standard_normal((1, settings.dim))),
        torch.from_numpy(covariance[None]),
        torch.ones(1),
        settings.schedule,
    )
    target = annealed(model, settings.beta)
    _, log_determinant = np.linalg.slogdet(covariance + settings.sigma_min**2 * np.eye(settings.dim))
    volume = settings.dim * math.log(2 * math.pi) + float(log_determinant)
    exact = ((1 - settings.beta) * volume - settings.dim * math.log(settings.beta)) / 2
    seed = _seed(rng)
    sizes = [replace(settings, steps=settings.steps // divisor) for divisor in settings.divisors]
    errors = [
        _sampled(target, size, seed, dim=settings.dim).log_normalizer
        + target.log_prior_normalizer(settings.dim)
        - exact
        for size in sizes
    ]
    return {
        "error": errors[-1],
        "size_of_error_finest": abs(errors[-1]),
        "size_of_error_coarsest": abs(errors[0]),
        "step_counts": [float(size.steps) for size in sizes],
        "errors": errors,
    }


# --- Figures -----------------------------------------------------------------------------------------


def _draw_methods(rows: Sequence[Measurements], names: dict[str, str]) -> Figure:
    """Distances of all methods, a panel for each of the names."""
    figure, panels = figures.panels(len(names))
    for panel, (suffix, title) in zip(panels, names.items(), strict=True):
        columns = {label: figures.values(rows, method + suffix) for method, label in _LABELS.items()}
        figures.dots(panel, columns, paired=True)
        panel.set_ylim(bottom=0)
        panel.set_title(title)
        panel.tick_params(axis="x", rotation=45)
    panels[0].set_ylabel("sliced Wasserstein distance")
    return figure


def draw_annealing(rows: Sequence[Measurements]) -> Figure:
    names = {f"_{name}": f"β = {beta:g}" for name, beta in _BETAS.items()}
    return _draw_methods(rows, names | {"_tempered": "1.5, tempered"})


def draw_guidance(rows: Sequence[Measurements]) -> Figure:
    return _draw_methods(rows, {f"_{name}": f"w = {weight:g}" for name, weight in _WEIGHTS.items()})


def draw_learned_model(rows: Sequence[Measurements]) -> Figure:
    return _draw_methods(rows, {"": "a trained network, β = 2"})


def draw_separated_modes(rows: Sequence[Measurements]) -> Figure:
    return _draw_methods(rows, {"": "a product of four modes"})


def draw_product(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    for panel, (name, label) in zip(
        panels,
        {
            "variance_ratio": "variance, true variance = 1",
            "mean_error": "error of the mean (deviations of the product)",
        }.items(),
        strict=True,
    ):
        columns = {label: figures.values(rows, f"{name}_{method}") for method, label in _LABELS.items()}
        figures.dots(panel, columns, paired=True)
        panel.set_ylabel(label)
    panels[0].axhline(1, linestyle="--", color="0.5")
    return figure


def _draw_curves(rows: Sequence[Measurements], axes: Axes, x: str, y: str) -> list[float]:
    """Every trial as a pale line, and their median; returns the places on the x axis."""
    places, curves = figures.curves(rows, x)[0], figures.curves(rows, y)
    axes.plot(places, curves.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(places, np.median(curves, axis=0), "o-", color="tab:blue", label="corrected, median")
    return list(places)


def draw_inference_scaling(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("particles", "sliced Wasserstein distance")
    places = _draw_curves(rows, axes, "counts", "distances")
    heuristic = float(np.median(figures.values(rows, "distance_uncorrected")))
    axes.axhline(heuristic, linestyle="--", color="0.5", label="heuristic, median")
    axes.set_ylim(bottom=0)
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:.0f}" for place in places])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def draw_evidence(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("steps", "error of the log normaliser (nats)")
    _draw_curves(rows, axes, "step_counts", "errors")
    axes.axhline(0, linestyle="--", color="0.5", label="exact")
    axes.legend(frameon=False)
    return figure


# --- The study ---------------------------------------------------------------------------------------

_ANNEALED = Published("samples annealed densities, which scaled scores do not", "abstract and figure 1")
_GUIDED = Published("samples geometric averages, which mixed scores only approximate", "abstract")
_MULTIPLIED = Published("samples products of densities", "abstract and figure 1")
_SCALED = Published("resampling uses inference-time scaling to improve sampling quality", "abstract")
_WEIGHTED = Published("a weighted simulation derived from the Feynman-Kac formula", "abstract")


def _closer(name: str, suffix: str, sentence: str, published: Published) -> Claim:
    return Claim(
        name,
        f"{sentence} at two thirds of the heuristic's distance, or less",
        better(f"corrected{suffix}", than=f"uncorrected{suffix}", lower=True, factor=1.5),
        published,
    )


_FULL_MIXTURE: dict[str, Any] = {
    "centres": _FORTY_MODES,
    "deviations": (1.3133,) * 40,
    "weights": (1 / 40,) * 40,
    "sigma_max": 150.0,
    "extent": 48.0,
    "cells": 1000,
    "steps": 1000,
}

STUDY = Study(
    slug="feynman_kac",
    experiments=(
        Experiment(
            name="annealing",
            trial=annealing,
            scales={"quick": Annealing(), "full": Annealing(particles=20_000, truth=50_000, **_FULL_MIXTURE)},
            claims=(
                *(
                    _closer(
                        f"beta_{name}",
                        f"_{name}",
                        f"samples a density to the power {beta:g}",
                        _ANNEALED,
                    )
                    for name, beta in _BETAS.items()
                ),
                _closer(
                    "tempered_noise",
                    "_tempered",
                    "samples a density to the power 1.5, with tempered noise,",
                    _ANNEALED,
                ),
                Claim(
                    "resampling_beats_weights_alone",
                    "comes closer to a density to the power 3 by resampling on the way than by weights alone",
                    better("corrected_3", than="weighted_3", lower=True),
                    _SCALED,
                ),
            ),
            figure=draw_annealing,
        ),
        Experiment(
            name="learned_model",
            trial=learned_model,
            scales={
                "quick": LearnedModel(),
                "full": LearnedModel(
                    particles=20_000,
                    truth=50_000,
                    width=256,
                    depth=4,
                    training_steps=50_000,
                    batch_size=1024,
                    data=200_000,
                    **_FULL_MIXTURE,
                ),
            },
            claims=(
                _closer(
                    "learned_score",
                    "",
                    "samples the square of the density that a network was trained on, with no retraining,",
                    Published("tunes pretrained models at inference time", "abstract"),
                ),
            ),
            figure=draw_learned_model,
        ),
        Experiment(
            name="guidance",
            trial=guidance,
            scales={"quick": Guidance(), "full": Guidance(particles=20_000, steps=1000, truth=50_000)},
            claims=tuple(
                _closer(
                    f"weight_{name}",
                    f"_{name}",
                    f"samples the density that classifier-free guidance of weight {weight:g} means",
                    _GUIDED,
                )
                for name, weight in _WEIGHTS.items()
            ),
            figure=draw_guidance,
        ),
        Experiment(
            name="product",
            trial=gaussian_product,
            scales={"quick": Product(), "full": Product(particles=40_000, steps=1000)},
            claims=(
                Claim(
                    "variance_of_the_product",
                    "samples the product of two experts with its variance, within 8 %",
                    near("variance_ratio_corrected", 1.0, 0.08),
                    _MULTIPLIED,
                ),
                Claim(
                    "variance_beats_the_heuristic",
                    "misses that variance by less than adding scores does, by a tenth of it or more",
                    better("variance_error_corrected", than="variance_error_uncorrected", lower=True, by=0.1),
                    _MULTIPLIED,
                ),
                Claim(
                    "mean_beats_the_heuristic",
                    "misses the product's mean by less than adding scores does",
                    better("mean_error_corrected", than="mean_error_uncorrected", lower=True),
                    _MULTIPLIED,
                ),
            ),
            figure=draw_product,
        ),
        Experiment(
            name="separated_modes",
            trial=separated_modes,
            scales={
                "quick": SeparatedModes(),
                "full": SeparatedModes(particles=20_000, steps=1000, truth=50_000),
            },
            claims=(
                Claim(
                    "modes_in_proportion",
                    "comes closer to the product of two experts than adding scores does, even where its "
                    "modes lie far apart",
                    better("corrected", than="uncorrected", lower=True),
                    _MULTIPLIED,
                ),
            ),
            figure=draw_separated_modes,
        ),
        Experiment(
            name="inference_scaling",
            trial=inference_scaling,
            scales={
                "quick": InferenceScaling(),
                "full": InferenceScaling(
                    particles=64_000,
                    steps=1000,
                    shares=(1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0),
                    repeats=20,
                    truth=100_000,
                ),
            },
            claims=(
                Claim(
                    "error_falls_with_particles",
                    "samples better with more particles: the distance falls as their number to the power "
                    "0.1 or faster",
                    at_most("slope", -0.1),
                    _SCALED,
                ),
            ),
            figure=draw_inference_scaling,
        ),
        Experiment(
            name="evidence",
            trial=evidence,
            scales={
                "quick": Evidence(),
                "full": Evidence(particles=40_000, steps=2000, divisors=(20, 8, 4, 2, 1)),
            },
            claims=(
                Claim(
                    "normaliser",
                    "estimates the log normaliser of an annealed Gaussian within 0.3, by its weights",
                    near("error", 0.0, 0.3),
                    _WEIGHTED,
                ),
                Claim(
                    "finer_steps_help",
                    "estimates it better with finer steps: what is missing is discretisation",
                    better("size_of_error_finest", than="size_of_error_coarsest", lower=True),
                    _WEIGHTED,
                ),
            ),
            figure=draw_evidence,
        ),
    ),
)
