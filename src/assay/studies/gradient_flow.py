"""Gradient flows put to the test: are learned scores gradients, do they generate all the same, what harms.

Vectors come from random mixtures of Gaussians, whose exact score is known and passes through the same tests,
in the same precision, as a control; samples are judged by their sliced Wasserstein distance to fresh data.
Images are scikit-learn's 8 x 8 digits, each pixel from -1 to 1, for which the score of a Gaussian with their
mean and covariance is the control. A loop in the plane of two pixels sees two parts of many of the score, so
that its share of the bound falls with the number of pixels and is held against the control alone.

The scale "full" of the images takes CIFAR-10 and a pretrained network. It needs a GPU, the package diffusers,
the network's folder as published for it ("google/ddpm-cifar10-32") and images as one .npy array (N, C, H, W)
from -1 to 1. It is no part of the recorded evidence.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from assay.diffusion.gradient_flow import (
    ConservativeDenoiser,
    Field,
    circulation,
    gradient_flow_matching_loss,
    jacobian_asymmetry,
    solenoidal_perturbation,
    transport,
    wasserstein_velocity,
)
from assay.diffusion.metrics import sliced_wasserstein
from assay.diffusion.sde import (
    AdaptedDenoiser,
    Denoiser,
    EDMSchedule,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    NoiseSchedule,
    UNetDenoiser,
    VESchedule,
    VPSchedule,
    denoising_loss,
    fit_denoiser,
    solve_sde,
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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SCHEDULE = VPSchedule(beta_min=2, beta_max=2, t_min=0.02, t_max=3)


# --- Mixtures, and points of theirs --------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """Standard normal means, covariances ``L L^T + 0.02 I`` with entries of L of deviation 0.15, under the
    Ornstein-Uhlenbeck process; samples are made in steps of equal ratio."""

    dim: int = 8
    components: int = 5
    samples: int = 4000
    sampling_steps: int = 60


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def _mixture(
    settings: Mixture, rng: np.random.Generator, *schedules: NoiseSchedule
) -> list[GaussianMixtureDenoiser]:
    """One mixture under each of the schedules."""
    count, dim = settings.components, settings.dim
    factors = torch.from_numpy(0.15 * rng.standard_normal((count, dim, dim)))
    covariances = factors @ factors.mT + 0.02 * torch.eye(dim)
    means = torch.from_numpy(rng.standard_normal((count, dim)))
    weights = torch.full((count,), 1 / count)
    return [GaussianMixtureDenoiser(means, covariances, weights, schedule) for schedule in schedules]


def _noised(data: Tensor, schedule: NoiseSchedule, t: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(data.shape, generator=generator, dtype=data.dtype)
    return schedule.perturb(data, t, noise)


def _times(steps: int, schedule: NoiseSchedule = _SCHEDULE) -> Tensor:
    """From t_min up to t_max."""
    ends = math.log(schedule.t_min), math.log(schedule.t_max)
    return torch.linspace(*ends, steps + 1, dtype=torch.float64).exp()


def _generated(settings: Mixture, score: Field, start: Tensor) -> Tensor:
    """What the flow run backwards makes of noise."""
    times = _times(settings.sampling_steps).flip(0)
    return transport(wasserstein_velocity(score, _SCHEDULE), start, times)


def _planes(count: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    bases = torch.linalg.qr(torch.randn(count, dim, 2, generator=generator, dtype=torch.float64)).Q.float()
    return bases[..., 0], bases[..., 1]


# --- Networks for vectors ------------------------------------------------------------------------------


@dataclass(frozen=True)
class VectorNetwork(Mixture):
    """A network, and the points at which it is tested."""

    n_train: int = 20_000
    width: int = 128
    depth: int = 3
    training_steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 2e-3
    points: int = 500
    times: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 2.0)
    asymmetry_time: float = 0.1
    circulation_time: float = 0.03
    radius: float = 0.5
    points_of_a_loop: int = 64


def _trained(
    settings: VectorNetwork, kind: type[MLPDenoiser], data: Tensor, weights_seed: int, batches_seed: int
) -> MLPDenoiser:
    torch.manual_seed(weights_seed)
    model = kind(settings.dim, _SCHEDULE, width=settings.width, depth=settings.depth)
    fit_denoiser(
        model,
        data,
        n_steps=settings.training_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weighting="score",
        generator=torch.Generator().manual_seed(batches_seed),
    )
    return model


def vector_network(settings: VectorNetwork, rng: np.random.Generator) -> Measurements:
    """Both tests on a trained network and on the exact score, and what each of the two generates."""
    (mixture,) = _mixture(settings, rng, _SCHEDULE)
    generator = _generator(rng)
    train = mixture.sample(settings.n_train, generator=generator).float()
    seeds = rng.integers(2**63, size=2).tolist()
    network = _trained(settings, MLPDenoiser, train, *seeds)

    clean = mixture.sample(settings.points, generator=generator).float()
    measured: dict[str, dict[float, float]] = {}
    for t in settings.times:
        x = _noised(clean, _SCHEDULE, t, generator)
        directions = _planes(settings.points, settings.dim, generator)
        for name, model in (("network", network), ("exact", mixture)):
            loop = circulation(
                model.score,
                x,
                t,
                radius=settings.radius,
                directions=directions,
                n_points=settings.points_of_a_loop,
            )
            for quantity, values in (
                ("asymmetry", jacobian_asymmetry(model.score, x, t)),
                ("asymmetry_denoiser", jacobian_asymmetry(model, x, t)),
                ("circulation", loop.relative),
            ):
                measured.setdefault(f"{quantity}_{name}", {})[t] = float(values.mean())

    test, other = (mixture.sample(settings.samples, generator=generator) for _ in range(2))
    start = _SCHEDULE.sample_prior(test.shape, generator=generator)
    gaussian = torch.from_numpy(
        rng.multivariate_normal(test.mean(0).numpy(), test.T.cov().numpy(), settings.samples)
    )
    distances = {
        "network": sliced_wasserstein(_generated(settings, network.score, start), test),
        "exact": sliced_wasserstein(_generated(settings, mixture.score, start), test),
        "data": sliced_wasserstein(other, test),
        "gaussian": sliced_wasserstein(gaussian, test),
    }
    at_times = {
        "asymmetry": settings.asymmetry_time,
        "asymmetry_denoiser": settings.asymmetry_time,
        "circulation": settings.circulation_time,
    }
    return {
        **{
            f"{quantity}_{name}": measured[f"{quantity}_{name}"][t]
            for quantity, t in at_times.items()
            for name in ("network", "exact")
        },
        **{f"distance_{name}": distance for name, distance in distances.items()},
        "distance_ratio": distances["network"] / distances["exact"],
        "times": list(settings.times),
        **{f"{name}_by_time": list(values.values()) for name, values in measured.items()},
    }


@dataclass(frozen=True)
class ConservativeNetwork(VectorNetwork):
    training_steps: int = 500
    samples: int = 2000
    sampling_steps: int = 40


def conservative_network(settings: ConservativeNetwork, rng: np.random.Generator) -> Measurements:
    """A network and one that is a gradient by construction: same parameters, same start, same batches."""
    (mixture,) = _mixture(settings, rng, _SCHEDULE)
    generator = _generator(rng)
    train = mixture.sample(settings.n_train, generator=generator).float()
    seeds = rng.integers(2**63, size=2).tolist()
    x = _noised(
        mixture.sample(settings.points, generator=generator).float(),
        _SCHEDULE,
        settings.asymmetry_time,
        generator,
    )
    test = mixture.sample(settings.samples, generator=generator)
    start = _SCHEDULE.sample_prior(test.shape, generator=generator)
    measurements = {"distance_exact": sliced_wasserstein(_generated(settings, mixture.score, start), test)}
    for name, kind in (("network", MLPDenoiser), ("conservative", ConservativeDenoiser)):
        model = _trained(settings, kind, train, *seeds)
        asymmetry = jacobian_asymmetry(model.score, x, settings.asymmetry_time)
        error = (model.score(x, settings.asymmetry_time) - mixture.score(x, settings.asymmetry_time)).detach()
        measurements |= {
            f"asymmetry_{name}": float(asymmetry.mean()),
            f"score_error_{name}": float(error.square().sum(1).mean().sqrt()),
            f"distance_{name}": sliced_wasserstein(_generated(settings, model.score, start), test),
        }
    return measurements


# --- A network for images ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageNetwork:
    """A convolutional network trained on digits, or files that take the place of both; blocks of `pixels`
    random pixels, and loops in the planes of two of them."""

    data_file: str = ""
    network_folder: str = ""
    device: str = "cpu"
    width: int = 16
    training_steps: int = 200
    batch_size: int = 64
    learning_rate: float = 2e-3
    images: int = 50
    pixels: int = 16
    times: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    tested_time: float = 0.2
    radius: float = 0.5
    points_of_a_loop: int = 32


def _images(data_file: str) -> Tensor:
    if data_file:
        return torch.from_numpy(np.load(data_file)).float()
    return torch.from_numpy(load_digits().images[:, None] / 8 - 1).float()


def _image_network(settings: ImageNetwork, train: Tensor, rng: np.random.Generator) -> Denoiser:
    schedule = VPSchedule()
    if settings.network_folder:
        kind = importlib.import_module("diffusers").UNet2DModel
        pretrained = kind.from_pretrained(settings.network_folder).to(settings.device).eval()
        return AdaptedDenoiser(pretrained, schedule).requires_grad_(False)
    torch.manual_seed(int(rng.integers(2**63)))
    model = UNetDenoiser(train.shape[1], schedule, width=settings.width, sigma_data=float(train.std()))
    fit_denoiser(
        model.to(settings.device),
        train.to(settings.device),
        n_steps=settings.training_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weighting="score",
        generator=torch.Generator(settings.device).manual_seed(int(rng.integers(2**63))),
    )
    return model


def image_network(settings: ImageNetwork, rng: np.random.Generator) -> Measurements:
    """Both tests on noised held-out images."""
    images = _images(settings.data_file)
    shuffled = images[torch.from_numpy(rng.permutation(len(images)))]
    held_out, train = shuffled.tensor_split([settings.images])
    network = _image_network(settings, train, rng)
    flat = train.flatten(1).double()
    d = flat.shape[1]
    gaussian = GaussianMixtureDenoiser(
        flat.mean(0)[None], flat.T.cov()[None], torch.ones(1), network.schedule
    ).to(settings.device)
    generator = _generator(rng)
    axes = torch.eye(d)
    measured: dict[str, list[float]] = {}
    for t in settings.times:
        x = _noised(held_out, network.schedule, t, generator).to(settings.device)
        pixels = rng.permutation(d)[: settings.pixels].tolist()
        pairs = np.stack([rng.choice(d, 2, replace=False) for _ in held_out])
        u, v = (axes[torch.from_numpy(part)].view(x.shape).to(settings.device) for part in pairs.T)
        for name, model in (("network", network), ("gaussian", gaussian)):
            loop = circulation(
                model.score,
                x,
                t,
                radius=settings.radius,
                directions=(u, v),
                n_points=settings.points_of_a_loop,
            )
            for quantity, values in (
                ("asymmetry", jacobian_asymmetry(model.score, x, t, coordinates=pixels)),
                ("asymmetry_denoiser", jacobian_asymmetry(model, x, t, coordinates=pixels)),
                ("circulation", loop.relative),
            ):
                measured.setdefault(f"{quantity}_{name}", []).append(float(values.mean()))
    place = settings.times.index(settings.tested_time)
    return {
        **{name: values[place] for name, values in measured.items()},
        "times": list(settings.times),
        **{f"{name}_by_time": values for name, values in measured.items()},
    }


# --- The flow itself -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow(Mixture):
    loss_points: int = 1000
    entropy_points: int = 200_000
    entropy_times: tuple[float, ...] = (0.2, 0.5, 1.0)
    entropy_sigmas: tuple[float, ...] = (0.3, 1.0, 3.0)
    forward_time: float = 0.5


def _loss_gap(settings: Flow, schedule: NoiseSchedule, rng: np.random.Generator) -> float:
    """The largest difference between the flow-matching loss of a random network and its rescaled denoising
    loss, as a share of the loss."""
    generator = _generator(rng)
    torch.manual_seed(int(rng.integers(2**63)))
    network = MLPDenoiser(settings.dim, schedule).double()
    torch.nn.init.normal_(network.last.weight)
    x0, noise = torch.randn(2, settings.loss_points, settings.dim, generator=generator, dtype=torch.float64)
    t = schedule.sample_times(settings.loss_points, generator=generator)
    with torch.no_grad():
        velocity = wasserstein_velocity(network.score, schedule)
        matching = gradient_flow_matching_loss(velocity, schedule, x0, t, noise)
        denoising = denoising_loss(network, x0, t, noise, weighting="denoiser")
    scale = schedule.diffusion(t).square() / 2 * schedule.alpha(t) / schedule.sigma(t).square()
    return float(((matching - scale.square() * denoising).abs() / matching).max())


def _dissipation_ratio(
    mixture: GaussianMixtureDenoiser, x0: Tensor, noise: Tensor, t: float, rate: float, *, confined: bool
) -> float:
    """The fall of the entropy, by a difference in time on shared points, to ``E|v|^2 / rate``."""
    schedule = mixture.schedule

    def entropy(time: float) -> float:
        x = schedule.perturb(x0, time, noise)
        confinement = x.square().sum(1) / 2 if confined else 0.0
        return float((mixture.log_prob(x, time) + confinement).mean())

    step = 1e-3 * t
    fall = (entropy(t - step) - entropy(t + step)) / (2 * step)
    speed = wasserstein_velocity(mixture.score, schedule)(schedule.perturb(x0, t, noise), t)
    return fall * rate / float(speed.square().sum(1).mean())


def flow(settings: Flow, rng: np.random.Generator) -> Measurements:
    """The identities of the flow, and the densities that it leads through, with the exact score."""
    gaps = [_loss_gap(settings, schedule, rng) for schedule in (_SCHEDULE, VESchedule(), EDMSchedule())]

    exploding = VESchedule(0.05, 10)
    mixture, exploded = _mixture(settings, rng, _SCHEDULE, exploding)
    generator = _generator(rng)
    x0 = mixture.sample(settings.entropy_points, generator=generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    ratios = [
        _dissipation_ratio(mixture, x0, noise, t, float(_SCHEDULE.diffusion(t)) ** 2 / 2, confined=True)
        for t in settings.entropy_times
    ]
    for sigma in settings.entropy_sigmas:
        t = math.log(sigma / exploding.sigma_min) / math.log(exploding.sigma_max / exploding.sigma_min)
        rate = float(exploding.diffusion(t)) ** 2 / 2
        ratios.append(_dissipation_ratio(exploded, x0, noise, t, rate, confined=False))

    data, other, test = x0[: 3 * settings.samples].tensor_split(3)
    velocity = wasserstein_velocity(mixture.score, _SCHEDULE)
    times = _times(settings.sampling_steps)
    before = _noised(data, _SCHEDULE, _SCHEDULE.t_min, generator)
    half_way = _SCHEDULE.t_min * (settings.forward_time / _SCHEDULE.t_min) ** torch.linspace(
        0, 1, settings.sampling_steps + 1, dtype=torch.float64
    )
    forward = transport(velocity, before, half_way)
    noised, noised_other = (
        _noised(points, _SCHEDULE, settings.forward_time, generator) for points in (other, test)
    )
    # Order 4, so that what is left is of the flow and not of the solver.
    there = transport(velocity, before, times, method="rk4")
    back = transport(velocity, there, times.flip(0), method="rk4")
    start = _SCHEDULE.sample_prior(test.shape, generator=generator, dtype=test.dtype)
    finer = _times(2 * settings.sampling_steps).flip(0)
    return {
        "loss_gap": max(gaps),
        "dissipation_off_one": max(abs(ratio - 1) for ratio in ratios),
        "dissipation_ratios": ratios,
        "distance_moved": sliced_wasserstein(forward, noised),
        "distance_noised": sliced_wasserstein(noised_other, noised),
        "return_gap": float((back - before).norm(dim=1).max()),
        "distance_flow": sliced_wasserstein(_generated(settings, mixture.score, start), test),
        "distance_data": sliced_wasserstein(other, test),
        "distance_reverse_sde": sliced_wasserstein(
            solve_sde(mixture, start, finer, generator=generator).x, test
        ),
    }


# --- Errors that do and do no harm ---------------------------------------------------------------------


@dataclass(frozen=True)
class Errors(Mixture):
    """Errors of the score, as shares of its size."""

    strengths: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    from_strength: float = 0.25


def _antisymmetric(dim: int, rng: np.random.Generator) -> Tensor:
    """Quarter turns in random planes: orthogonal too, but for one direction that is spared if dim is odd."""
    turns = np.zeros((dim, dim))
    first = np.arange(0, dim - 1, 2)
    turns[first + 1, first], turns[first, first + 1] = 1, -1
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    matrix = torch.from_numpy(basis @ turns @ basis.T)
    return (matrix - matrix.T) / 2


def errors(settings: Errors, rng: np.random.Generator) -> Measurements:
    """Samples with the exact score and errors added to it: turned, scaled, and turned by x-dependent angles.

    The last one's size varies from point to point, and is that of the others in the mean square over phases.
    """
    (mixture,) = _mixture(settings, rng, _SCHEDULE)
    generator = _generator(rng)
    matrix = _antisymmetric(settings.dim, rng)
    turned = solenoidal_perturbation(mixture.score, matrix)
    normal = torch.from_numpy(rng.standard_normal(settings.dim))
    normal *= 2 / normal.norm()

    def varying(x: Tensor, t: float | Tensor) -> Tensor:
        return math.sqrt(2) * torch.sin(x @ normal)[:, None] * turned(x, t)

    test, other = (mixture.sample(settings.samples, generator=generator) for _ in range(2))
    start = _SCHEDULE.sample_prior(test.shape, generator=generator, dtype=test.dtype)

    def distance(error: Field, strength: float) -> float:
        def score(x: Tensor, t: float | Tensor) -> Tensor:
            return mixture.score(x, t) + strength * error(x, t)

        return sliced_wasserstein(_generated(settings, score, start), test)

    exact = sliced_wasserstein(_generated(settings, mixture.score, start), test)
    kinds: dict[str, Field] = {"solenoidal": turned, "conservative": mixture.score, "varying": varying}
    distances = {
        name: [distance(error, strength) for strength in settings.strengths] for name, error in kinds.items()
    }
    ratios = [
        conservative / solenoidal
        for strength, conservative, solenoidal in zip(
            settings.strengths, distances["conservative"], distances["solenoidal"], strict=True
        )
        if strength >= settings.from_strength
    ]
    return {
        "distance_exact": exact,
        "distance_data": sliced_wasserstein(other, test),
        "excess_solenoidal": max(distances["solenoidal"]) - exact,
        "least_ratio": min(ratios),
        "excess_varying": max(distances["varying"]) - exact,
        "strengths": list(settings.strengths),
        **{f"distances_{name}": values for name, values in distances.items()},
    }


# --- Figures -------------------------------------------------------------------------------------------


def _draw_by_time(panels: Sequence[Axes], rows: Sequence[Measurements], control: str, label: str) -> None:
    times = figures.curves(rows, "times")[0]
    lines = (
        ("network", "network's score", "tab:blue"),
        ("denoiser_network", "network's denoiser", "tab:cyan"),
        (control, label, "tab:gray"),
    )
    for panel, quantity, ylabel in zip(
        panels,
        ("asymmetry", "circulation"),
        ("asymmetry of the Jacobian", "loop integral, as a share of its bound"),
        strict=True,
    ):
        for name, line, colour in lines:
            if f"{quantity}_{name}_by_time" in rows[0]:
                medians = np.median(figures.curves(rows, f"{quantity}_{name}_by_time"), axis=0)
                panel.plot(times, medians, "o-", color=colour, markersize=4, label=line)
        panel.set(xscale="log", yscale="log", xlabel="time", ylabel=ylabel)
    panels[0].legend(frameon=False, fontsize="small")


def draw_vector_network(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(3)
    _draw_by_time(panels[:2], rows, "exact", "exact score")
    columns = {
        "data": figures.values(rows, "distance_data"),
        "exact": figures.values(rows, "distance_exact"),
        "network": figures.values(rows, "distance_network"),
        "Gaussian": figures.values(rows, "distance_gaussian"),
    }
    figures.dots(panels[2], columns, paired=True)
    panels[2].tick_params("x", labelrotation=45)
    panels[2].set(ylabel="distance of samples to fresh data", ylim=(0, None))
    return figure


def draw_image_network(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    _draw_by_time(panels, rows, "gaussian", "score of a Gaussian")
    return figure


def draw_conservative_network(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    for panel, quantity, ylabel in zip(
        panels,
        ("asymmetry", "distance"),
        ("asymmetry of the score's Jacobian", "sliced Wasserstein distance to fresh data"),
        strict=True,
    ):
        columns = {
            "unconstrained": figures.values(rows, f"{quantity}_network"),
            "conservative": figures.values(rows, f"{quantity}_conservative"),
        }
        if quantity == "distance":
            columns["exact score"] = figures.values(rows, "distance_exact")
        figures.dots(panel, columns, paired=True)
        panel.set_ylabel(ylabel)
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    return figure


def draw_flow(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    for panel, title, columns in zip(
        panels,
        ("forwards: noised data", "backwards: data"),
        (
            {"moved data": "distance_moved", "other data": "distance_noised"},
            {"flow": "distance_flow", "reverse SDE": "distance_reverse_sde", "other data": "distance_data"},
        ),
        strict=True,
    ):
        figures.dots(
            panel, {label: figures.values(rows, name) for label, name in columns.items()}, paired=True
        )
        panel.set(ylabel="sliced Wasserstein distance", title=title)
        panel.set_ylim(bottom=0)
    return figure


def draw_errors(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("error, as a share of the score", "sliced Wasserstein distance to fresh data")
    strengths = figures.curves(rows, "strengths")[0]
    for name, label, colour in (
        ("conservative", "conservative: scaled", "tab:red"),
        ("varying", "neither: turned by an x-dependent amount", "tab:orange"),
        ("solenoidal", "solenoidal: turned", "tab:blue"),
    ):
        distances = figures.curves(rows, f"distances_{name}")
        axes.plot(strengths, distances.T, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(strengths, np.median(distances, axis=0), "o-", color=colour, label=label)
    axes.axhline(
        float(np.median(figures.values(rows, "distance_exact"))), color="black", linewidth=0.8, label="exact"
    )
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


# --- The study -----------------------------------------------------------------------------------------

_NOT_CONSERVATIVE = Published("violate both the integral and the differential constraints", "abstract")
_GENERATES = Published("perform remarkably well as generative mechanisms", "abstract")
_FLOW = Published("flow matching to the velocity field of a Wasserstein gradient flow", "abstract")
_NO_SDE = Published("without the need to invoke reverse-time SDE theory", "abstract")
_HARMLESS = Published("non-conservative errors do not necessarily harm density transport", "abstract")
_LARGER: dict[str, Any] = {"dim": 32, "samples": 20_000, "sampling_steps": 200}
_LONGER: dict[str, Any] = {
    "n_train": 200_000,
    "width": 512,
    "depth": 4,
    "training_steps": 20_000,
    "learning_rate": 1e-3,
}

STUDY = Study(
    slug="gradient_flow",
    experiments=(
        Experiment(
            name="vector_network",
            trial=vector_network,
            scales={"quick": VectorNetwork(), "full": VectorNetwork(**_LARGER, **_LONGER)},
            claims=(
                Claim(
                    "not_conservative_differential",
                    "finds the Jacobian of a network's score asymmetric by 1 % or more, and a thousand times "
                    "more than that of the exact score",
                    all_of(
                        at_least("asymmetry_network", 0.01),
                        better("asymmetry_network", than="asymmetry_exact", lower=False, factor=1000),
                    ),
                    published=_NOT_CONSERVATIVE,
                ),
                Claim(
                    "not_conservative_integral",
                    "finds loop integrals of a network's score of 0.001 of their bound or more, and of at "
                    "most 1e-6 for the exact score",
                    all_of(at_least("circulation_network", 1e-3), at_most("circulation_exact", 1e-6)),
                    published=_NOT_CONSERVATIVE,
                ),
                Claim(
                    "still_generates",
                    "generates samples at most 1.5 times as far from the data as with the exact score",
                    at_most("distance_ratio", 1.5),
                    published=_GENERATES,
                ),
            ),
            figure=draw_vector_network,
        ),
        Experiment(
            name="image_network",
            trial=image_network,
            scales={
                "quick": ImageNetwork(),
                "full": ImageNetwork(
                    data_file="cifar10.npy",
                    network_folder="ddpm-cifar10-32",
                    device="cuda",
                    pixels=128,
                    points_of_a_loop=128,
                ),
            },
            claims=(
                Claim(
                    "not_conservative_differential",
                    "finds blocks of the Jacobian of an image network's score asymmetric by 1 % or more, and "
                    "a thousand times more than those of a Gaussian's",
                    all_of(
                        at_least("asymmetry_network", 0.01),
                        better("asymmetry_network", than="asymmetry_gaussian", lower=False, factor=1000),
                    ),
                    published=_NOT_CONSERVATIVE,
                ),
                Claim(
                    "not_conservative_integral",
                    "finds loop integrals of an image network's score a thousand times larger than those of "
                    "a Gaussian's",
                    better("circulation_network", than="circulation_gaussian", lower=False, factor=1000),
                    published=_NOT_CONSERVATIVE,
                ),
            ),
            figure=draw_image_network,
        ),
        Experiment(
            name="conservative_network",
            trial=conservative_network,
            scales={"quick": ConservativeNetwork(), "full": ConservativeNetwork(**_LARGER, **_LONGER)},
            claims=(
                Claim(
                    "violation_is_of_the_architecture",
                    "finds no asymmetry above 1e-4 in a network that is a gradient by construction, and 1 % "
                    "or more in an unconstrained one of the same training",
                    all_of(at_most("asymmetry_conservative", 1e-4), at_least("asymmetry_network", 0.01)),
                    published=Published("not enforced by the architectures used in practice", "abstract"),
                ),
                Claim(
                    "generates_as_well_as_a_gradient",
                    "generates, unconstrained, samples at most 1.1 times as far from the data as a network "
                    "that is a gradient by construction, after as many steps",
                    better("distance_network", than="distance_conservative", lower=True, factor=1 / 1.1),
                    published=_GENERATES,
                ),
            ),
            figure=draw_conservative_network,
        ),
        Experiment(
            name="flow",
            trial=flow,
            scales={
                "quick": Flow(),
                "full": Flow(dim=32, samples=20_000, sampling_steps=200, entropy_points=2_000_000),
            },
            claims=(
                Claim(
                    "denoising_is_flow_matching",
                    "is trained by denoising: that loss and flow matching's agree, sample by sample, but for "
                    "a known weight",
                    near("loss_gap", 0, 1e-9),
                    published=_FLOW,
                ),
                Claim(
                    "entropy_dissipation",
                    "follows a gradient flow: the entropy falls by the squared speed, to 2 %, whether "
                    "variance is preserved or explodes",
                    at_most("dissipation_off_one", 0.02),
                    published=_FLOW,
                ),
                Claim(
                    "forward_marginals",
                    "moves data to where noise would take it: at most 1.5 times as far from noised data as "
                    "other noised data is",
                    better("distance_moved", than="distance_noised", lower=True, factor=1 / 1.5),
                    published=_NO_SDE,
                ),
                Claim(
                    "reversible",
                    "moves data to noise and back to within 0.02",
                    at_most("return_gap", 0.02),
                    published=_NO_SDE,
                ),
                Claim(
                    "generates_as_well_as_the_reverse_sde",
                    "generates samples at most 1.1 times as far from the data as the reverse SDE in twice as "
                    "many steps",
                    better("distance_flow", than="distance_reverse_sde", lower=True, factor=1 / 1.1),
                    published=_NO_SDE,
                ),
            ),
            figure=draw_flow,
        ),
        Experiment(
            name="errors",
            trial=errors,
            scales={"quick": Errors(), "full": Errors(**_LARGER)},
            claims=(
                Claim(
                    "solenoidal_errors_are_harmless",
                    "generates at most 0.03 farther from the data with errors of up to the score's own size "
                    "that are no gradients",
                    at_most("excess_solenoidal", 0.03),
                    published=_HARMLESS,
                ),
                Claim(
                    "conservative_errors_harm",
                    "generates at least 3 times as far from the data with conservative errors of the same "
                    "size, from a quarter of the score's on",
                    at_least("least_ratio", 3),
                    published=_HARMLESS,
                ),
            ),
            figure=draw_errors,
        ),
    ),
)
