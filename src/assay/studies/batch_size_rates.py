"""Batch size and learning rate put to the test: spectra of batches, largest stable rates, the learner.

The networks classify handwritten digits, 8 × 8 pixels in 10 classes. Each pixel is centred and divided by the
deviation of all together. Other ways matter: "standardised" divides each pixel by its own deviation, which
makes rare ones as large as 42, so that one sample can dominate its batch (`outlying_pixels`); "raw"
pixels have a mean that dominates every batch, which makes batches matter less.

A run is *stable* if the loss over all data ends below that of guessing, log(classes), after a fixed number of
steps; the largest stable rate is the last before the first failure, rising by a fixed factor. Batches are
drawn with replacement in every step, and rates that are compared meet the same initial weights and the
same batches. What the paper says of the damping of second-order methods is tested on Adam's epsilon alone.

The scale "full" is VGG-16 on CIFAR-100, read by torchvision from `data_folder`; it asks for a GPU and is no
part of the recorded evidence.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    at_least,
    at_most,
    better,
    between,
    figures,
    near,
)
from assay.networks.batch_size_rates import (
    Curvature,
    SpectralRateLearner,
    batch_ggn_extreme,
    batch_hessian_extreme,
    curvature_operator,
    effective_batch_size,
    hessian_noise_variance,
    lanczos_spectrum,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Pixels = Literal["centred", "standardised", "raw"]

_VGG16_WIDTHS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


@dataclass(frozen=True)
class Network:
    """What is trained: a network of one hidden layer on the digits, or VGG-16 on CIFAR-100."""

    hidden: int = 32
    pixels: Pixels = "centred"
    data_folder: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class Images:
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


@cache
def _digits(pixels: Pixels) -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    images = images / 16
    if pixels != "raw":
        images = images - images.mean(axis=0)
        scale = images.std(axis=0) if pixels == "standardised" else images.std()
        # A pixel that never varies stays at 0.
        images = np.divide(images, scale, out=np.zeros_like(images), where=scale > 0)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def _cifar100(settings: Network, *, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision import datasets  # type: ignore[import-not-found, unused-ignore]

    data = datasets.CIFAR100(settings.data_folder, train=train)
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).float() / 255
    return (images - 0.5) / 0.25, torch.tensor(data.targets)


def _seed_torch(rng: np.random.Generator) -> None:
    """Initial weights, probes and Lanczos starts come from torch's global generator."""
    torch.manual_seed(int(rng.integers(2**63)))


def _images(settings: Network, rng: np.random.Generator, n_test: int) -> Images:
    """All images, of the digits `n_test` drawn at random for the test."""
    if settings.data_folder:
        (train, train_labels), (test, test_labels) = (
            _cifar100(settings, train=train) for train in (True, False)
        )
    else:
        images, labels = _digits(settings.pixels)
        order = torch.from_numpy(rng.permutation(len(images)))
        train, train_labels = images[order[n_test:]], labels[order[n_test:]]
        test, test_labels = images[order[:n_test]], labels[order[:n_test]]
    train, train_labels, test, test_labels = (
        part.to(settings.device) for part in (train, train_labels, test, test_labels)
    )
    return Images(train, train_labels, test, test_labels, 100 if settings.data_folder else 10)


def _vgg16(classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for widths in _VGG16_WIDTHS:
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))


def _network(settings: Network, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    if settings.data_folder:
        return _vgg16(100).to(settings.device)
    return nn.Sequential(nn.Linear(64, settings.hidden), activation(), nn.Linear(settings.hidden, 10))


def _epoch(n_samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Batches of one pass over all samples; the last, incomplete one is left out."""
    order = torch.from_numpy(rng.permutation(n_samples))
    return iter(torch.split(order[: n_samples // batch_size * batch_size], batch_size))


def _chunks(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True)


def _slope(x: Sequence[float], y: Sequence[float] | Array) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# --- Matrices that fit the theory ---------------------------------------------------------------------


@dataclass(frozen=True)
class Matrices:
    """Two eigenvalues and even noise; and samples with one direction of larger variance."""

    size: int = 600
    largest: float = 2.5
    most_negative: float = -1.5
    noise_variance: float = 20.0
    batch_sizes: tuple[int, ...] = (10, 40, 160)
    n_samples: int = 1000
    spike: float = 3.0
    bulk_variance: float = 0.1


def matching_matrices(settings: Matrices, rng: np.random.Generator) -> Measurements:
    errors, ggn_errors = [], []
    measured: dict[str, Sequence[float]] = {}
    for batch_size in settings.batch_sizes:
        effective = effective_batch_size(batch_size, settings.n_samples)
        deviation = math.sqrt(settings.noise_variance / effective / (2 * settings.size))
        noise = rng.normal(size=(settings.size, settings.size)) * deviation
        hessian = noise + noise.T
        hessian[0, 0] += settings.largest
        hessian[1, 1] += settings.most_negative
        extremes = np.linalg.eigvalsh(hessian)[[-1, 0]]
        predicted = [
            batch_hessian_extreme(
                eigenvalue,
                noise_variance=settings.noise_variance,
                batch_size=batch_size,
                n_samples=settings.n_samples,
            )
            for eigenvalue in (settings.largest, settings.most_negative)
        ]
        errors += np.abs(extremes / predicted - 1).tolist()

        samples = rng.normal(size=(batch_size, settings.size)) * math.sqrt(settings.bulk_variance)
        samples[:, 0] *= math.sqrt(settings.spike / settings.bulk_variance)
        # In small batches the variance along the spike is far from its mean, which no law predicts; at its
        # mean, what the other directions add is left.
        samples[:, 0] *= math.sqrt(settings.spike / np.mean(samples[:, 0] ** 2))
        largest = np.linalg.norm(samples, 2) ** 2 / batch_size
        law = batch_ggn_extreme(
            settings.spike,
            bulk_variance=settings.bulk_variance,
            n_parameters=settings.size,
            batch_size=batch_size,
        )
        ggn_errors.append(abs(largest / law - 1))
        measured[f"extremes_{batch_size}"] = [*extremes.tolist(), float(largest)]
        measured[f"predicted_{batch_size}"] = [*predicted, law]
    return {"worst_error": max(errors), "worst_error_ggn": float(max(ggn_errors)), **measured}


def draw_matching_matrices(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("eigenvalue predicted", "extreme eigenvalue of the batch")
    for name in rows[0]:
        if name.startswith("predicted"):
            found = figures.curves(rows, name.replace("predicted", "extremes"))
            batch_size = name.removeprefix("predicted_")
            predicted = figures.curves(rows, name)
            axes.plot(predicted.ravel(), found.ravel(), "o", alpha=0.5, label=f"batches of {batch_size}")
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.legend()
    return figure


# --- Extremes on a network ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Extremes(Network):
    """Spectra at the start, and after an epoch of SGD."""

    batch_sizes: tuple[int, ...] = (8, 32, 128, 512)
    batches: int = 8
    lanczos_steps: int = 40
    noise_pairs: int = 32
    trace_vectors: int = 100
    training_batch: int = 32
    learning_rate: float = 0.1
    most_images: int = 4096


def _extreme_eigenvalues(
    model: nn.Module, images: Tensor, labels: Tensor, curvature: Curvature, steps: int
) -> Array:
    """The largest and the most negative eigenvalue."""
    operator = curvature_operator(model, functional.cross_entropy, images, labels, curvature=curvature)
    start = torch.randn(operator.dim, device=images.device)
    return lanczos_spectrum(operator, operator.dim, steps, start=start).ritz_values[[-1, 0]]


def _extremes(
    settings: Extremes, rng: np.random.Generator, curvature: Curvature, ends: int
) -> tuple[dict[str, float | None | Sequence[float]], nn.Module, Images]:
    """How the extremes of batches stand to those of all data, in two states; and the network at the start."""
    _seed_torch(rng)
    data = _images(settings, rng, 0)
    images, labels = data.train[: settings.most_images], data.train_labels[: settings.most_images]
    data = Images(images, labels, data.test, data.test_labels, data.classes)
    start = _network(settings)
    trained = copy.deepcopy(start)
    optimizer = torch.optim.SGD(trained.parameters(), lr=settings.learning_rate)
    for batch in _epoch(len(images), settings.training_batch, rng):
        optimizer.zero_grad()
        functional.cross_entropy(trained(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def extremes(model: nn.Module, batch: Tensor | slice) -> Array:
        return _extreme_eigenvalues(model, images[batch], labels[batch], curvature, settings.lanczos_steps)[
            :ends
        ]

    measured: dict[str, float | None | Sequence[float]] = {}
    ratios = []
    for state, model in {"start": start, "trained": trained}.items():
        full = extremes(model, slice(None))
        by_size = np.array(
            [
                np.mean(
                    [
                        extremes(model, torch.from_numpy(rng.choice(len(images), size, replace=False)))
                        for _ in range(settings.batches)
                    ],
                    axis=0,
                )
                for size in settings.batch_sizes
            ]
        )
        ratios.append(by_size / full)
        measured[f"full_{state}"] = full.tolist()
        for i, end in enumerate(("largest", "most_negative")[:ends]):
            measured[f"{end}_{state}"] = by_size[:, i].tolist()
    every = np.concatenate(ratios, axis=1)
    return (
        {
            "batch_sizes": [float(size) for size in settings.batch_sizes],
            "least_ratio_small_batch": float(every[0].min()),
            "most_deviation_large_batch": float(np.abs(every[-1] - 1).max()),
            "most_increase_with_batch": float(np.diff(every, axis=0).max()),
            **measured,
        },
        start,
        data,
    )


def hessian_extremes(settings: Extremes, rng: np.random.Generator) -> Measurements:
    measured, start, data = _extremes(settings, rng, "hessian", 2)
    n_samples, smallest = len(data.train), settings.batch_sizes[0]
    noise_variance = hessian_noise_variance(
        start,
        functional.cross_entropy,
        data.train,
        data.train_labels,
        batch_size=smallest,
        n_pairs=settings.noise_pairs,
    )
    sizes = [effective_batch_size(size, n_samples) for size in settings.batch_sizes[:-1]]

    def largest(state: str) -> tuple[float, Array]:
        full = float(figures.curves([measured], f"full_{state}")[0, 0])
        return full, figures.curves([measured], f"largest_{state}")[0]

    for state in ("start", "trained"):
        full, found = largest(state)
        excess = found[:-1] - full
        measured[f"slope_of_excess_{state}"] = _slope(sizes, excess) if (excess > 0).all() else None
    full, found = largest("start")
    predicted = [
        batch_hessian_extreme(full, noise_variance=noise_variance, batch_size=size, n_samples=n_samples)
        for size in settings.batch_sizes
    ]
    return {
        **measured,
        "noise_variance": noise_variance,
        "predicted_start": predicted,
        "predicted_over_measured": predicted[0] / float(found[0]),
    }


def ggn_extremes(settings: Extremes, rng: np.random.Generator) -> Measurements:
    measured, start, data = _extremes(settings, rng, "ggn", 1)
    full = float(figures.curves([measured], "full_start")[0, 0])
    found = figures.curves([measured], "largest_start")[0]
    operator = curvature_operator(
        start, functional.cross_entropy, data.train, data.train_labels, curvature="ggn"
    )
    signs = torch.randint(2, (settings.trace_vectors, operator.dim), device=data.train.device) * 2.0 - 1
    trace = float(np.mean([float(z @ operator(z)) for z in signs]))
    predicted = [
        batch_ggn_extreme(
            full,
            bulk_variance=max(trace - full, 0.0) / operator.dim,
            n_parameters=operator.dim,
            batch_size=size,
            n_samples=len(data.train),
        )
        for size in settings.batch_sizes
    ]
    return {
        **measured,
        "predicted_start": predicted,
        "predicted_over_measured": predicted[0] / float(found[0]),
    }


def draw_extremes(rows: Sequence[Measurements]) -> Figure:
    figure, (start, trained) = figures.panels(2)
    sizes = figures.curves(rows[:1], "batch_sizes")[0]
    for axes, state in ((start, "start"), (trained, "trained")):
        full = figures.curves(rows, f"full_{state}")
        for i, end in enumerate(("largest", "most_negative")[: full.shape[1]]):
            found = np.abs(figures.curves(rows, f"{end}_{state}"))
            axes.plot(sizes, found.T, "o", color=f"C{i}", alpha=0.3)
            axes.plot(sizes, np.median(found, axis=0), color=f"C{i}", label=end.replace("_", " "))
            axes.axhline(float(np.median(np.abs(full[:, i]))), color=f"C{i}", linestyle=":", label="all data")
        axes.set(xscale="log", yscale="log", xlabel="batch size")
    start.plot(
        sizes,
        np.median(figures.curves(rows, "predicted_start"), axis=0),
        "--",
        color="black",
        label="largest, predicted",
    )
    start.set(ylabel="magnitude of the extreme eigenvalue", title="at the start")
    trained.set_title("after an epoch")
    start.legend(fontsize=8)
    return figure


# --- Largest stable rates, smallest stable damping ------------------------------------------------------


@dataclass(frozen=True)
class StableRates(Network):
    """The largest stable learning rate, from `lowest` up by `factor`, for each batch size.

    The slope is taken over batches up to `slope_to`, 0 for all.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    slope_to: int = 0
    steps: int = 120
    seeds: int = 3
    lowest: float = 0.1
    factor: float = 1.35
    candidates: int = 24
    at_once: int = 8


@dataclass(frozen=True)
class StableDamping(Network):
    """The smallest stable epsilon of Adam, from `highest` × rate / batch size down by `factor`."""

    learning_rates: tuple[float, ...] = (2.0, 8.0)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    steps: int = 120
    seeds: int = 2
    highest: float = 40.0
    factor: float = 1.35
    candidates: int = 24
    at_once: int = 8


@dataclass(frozen=True)
class Start:
    """For each seed the initial weights, stacked, and the samples of every batch: (seeds, steps, B)."""

    model: nn.Module
    weights: dict[str, Tensor]
    batches: Tensor


def _start(
    settings: StableRates | StableDamping, n_samples: int, batch_size: int, rng: np.random.Generator
) -> Start:
    models = [_network(settings) for _ in range(settings.seeds)]
    weights, _ = stack_module_state(models)
    batches = torch.from_numpy(rng.integers(n_samples, size=(settings.seeds, settings.steps, batch_size)))
    return Start(models[0], weights, batches.to(settings.device))


def _final_losses(
    start: Start,
    data: Images,
    optimizer: Literal["sgd", "adam"],
    rates: Tensor,
    epsilons: Tensor,
) -> Tensor:
    """The loss over all data after training, (seeds, rates), all runs side by side."""

    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(start.model, weights, (images,)), labels)

    per_rate = vmap(loss, in_dims=(0, None, None))
    on_own_batch, on_all = vmap(per_rate), vmap(per_rate, in_dims=(0, None, None))
    weights = {
        name: value.detach()[:, None].repeat(1, len(rates), *[1] * (value.ndim - 1)).requires_grad_()
        for name, value in start.weights.items()
    }
    mean = {name: torch.zeros_like(value) for name, value in weights.items()}
    square = {name: torch.zeros_like(value) for name, value in weights.items()}

    def per_run(values: Tensor, like: Tensor) -> Tensor:
        return values.view(-1, *[1] * (like.ndim - 2))

    for step, batch in enumerate(start.batches.unbind(1), 1):
        # No run's weights are in another's loss, so the gradient of the sum holds that of each.
        total = on_own_batch(weights, data.train[batch], data.train_labels[batch]).sum()
        gradients = torch.autograd.grad(total, tuple(weights.values()))
        with torch.no_grad():
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                direction = gradient
                if optimizer == "adam":
                    mean[name].lerp_(gradient, 0.1)
                    square[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                    root = (square[name] / (1 - 0.999**step)).sqrt_().add_(per_run(epsilons, gradient))
                    direction = (mean[name] / (1 - 0.9**step)).div_(root)
                weight -= per_run(rates, gradient) * direction
    with torch.no_grad():
        sums = [
            on_all(weights, images, labels) * len(images)
            for images, labels in _chunks(data.train, data.train_labels)
        ]
    return torch.stack(sums).sum(0) / len(data.train)


def _last_stable(
    settings: StableRates | StableDamping,
    start: Start,
    data: Images,
    optimizer: Literal["sgd", "adam"],
    candidates: Array,
    rate: float | None = None,
) -> float | None:
    """The geometric mean over seeds of the last candidate before the first that fails, by the order given.

    The candidates are learning rates or, if `rate` is given, values of epsilon. None if a seed fails with the
    first of them, or with none.
    """
    stable = np.zeros((settings.seeds, 0), dtype=bool)
    for part in np.split(candidates, range(settings.at_once, len(candidates), settings.at_once)):
        values = torch.tensor(part, dtype=torch.float32, device=settings.device)
        rates, epsilons = (
            (values, torch.full_like(values, 1e-8))
            if rate is None
            else (torch.full_like(values, rate), values)
        )
        final = _final_losses(start, data, optimizer, rates, epsilons)
        # A run that overflowed is not below anything.
        stable = np.concatenate((stable, (final < math.log(data.classes)).cpu().numpy()), axis=1)
        if not stable.all(axis=1).any():
            break
    if stable.all(axis=1).any() or not stable[:, 0].all():
        return None
    return float(np.exp(np.log(candidates[stable.argmin(axis=1) - 1]).mean()))


def stable_rates(settings: StableRates, rng: np.random.Generator) -> Measurements:
    _seed_torch(rng)
    data = _images(settings, rng, 0)
    candidates = settings.lowest * settings.factor ** np.arange(settings.candidates, dtype=np.float64)
    found = {
        size: _last_stable(
            settings, _start(settings, len(data.train), size, rng), data, settings.optimizer, candidates
        )
        for size in settings.batch_sizes
    }
    last = settings.batch_sizes[-2:]
    return {
        "slope": _power({size: found[size] for size in found if size <= (settings.slope_to or size)}),
        "last_slope": _power({size: found[size] for size in last}),
        **{f"rate_{size}": rate for size, rate in found.items()},
    }


def stable_damping(settings: StableDamping, rng: np.random.Generator) -> Measurements:
    _seed_torch(rng)
    data = _images(settings, rng, 0)
    highest = settings.highest / settings.factor ** np.arange(settings.candidates, dtype=np.float64)
    found = []
    for size in settings.batch_sizes:
        start = _start(settings, len(data.train), size, rng)
        for rate in settings.learning_rates:
            ratio = rate / size
            found.append((ratio, _last_stable(settings, start, data, "adam", highest * ratio, rate), rate))
    ratios = [ratio for ratio, _, _ in found]
    epsilons = [epsilon for _, epsilon, _ in found if epsilon is not None]
    return {
        "slope": _slope(ratios, epsilons) if len(epsilons) == len(found) else None,
        **{f"epsilon_at_{ratio:g}_with_rate_{rate:g}": epsilon for ratio, epsilon, rate in found},
    }


def _power(found: dict[int, float | None]) -> float | None:
    """The slope of the logarithms, None where one was not found."""
    values = [value for value in found.values() if value is not None]
    return _slope(list(found), values) if len(values) == len(found) else None


def _draw_power(axes: Axes, at: Array, found: Array, power: float) -> None:
    """Columns `found` over `at`, and the power law through the middle of their medians."""
    known = np.isfinite(found).any(axis=0)
    at, found = at[known], found[:, known]
    axes.plot(at, found.T, "o", color="tab:blue", alpha=0.3)
    if known.any():
        anchor = np.exp(np.mean(np.log(np.nanmedian(found, axis=0)) - power * np.log(at)))
        ends = np.array([at.min(), at.max()])
        axes.plot(ends, anchor * ends**power, "--", color="black", label=f"power {power:g}")
        axes.legend()
    axes.set(xscale="log", yscale="log")


def draw_stable_rates(rows: Sequence[Measurements], power: float) -> Figure:
    figure, axes = figures.axes("batch size", "largest stable learning rate")
    names = [name for name in rows[0] if name.startswith("rate_")]
    sizes = np.array([float(name.removeprefix("rate_")) for name in names])
    _draw_power(axes, sizes, np.stack([figures.curves(rows, name) for name in names], axis=1), power)
    return figure


def draw_stable_damping(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("learning rate / batch size", "smallest stable epsilon of Adam")
    names = [name for name in rows[0] if name.startswith("epsilon_")]
    ratios = np.array([float(name.split("_")[2]) for name in names])
    _draw_power(axes, ratios, np.stack([figures.curves(rows, name) for name in names], axis=1), 1.0)
    return figure


# --- The rate learner ---------------------------------------------------------------------------------

# A product costs one to three gradients and a new operator one to two; counted at the dearer end.
_GRADIENTS_PER_PRODUCT = 3
_GRADIENTS_PER_OPERATOR = 2


@dataclass(frozen=True)
class Training(Network):
    """The learner, called every `every` steps, against fixed rates, all from the same start."""

    hidden: int = 64
    n_test: int = 397
    batch_size: int = 64
    epochs: int = 6
    every: int = 5
    first_rate: float = 0.01
    n_lanczos: int = 8
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    momenta: tuple[float, ...] = (0.0, 0.9)


def rate_learner(settings: Training, rng: np.random.Generator) -> Measurements:
    _seed_torch(rng)
    data = _images(settings, rng, settings.n_test)
    start = _network(settings, nn.ReLU)
    batches = [
        batch for _ in range(settings.epochs) for batch in _epoch(len(data.train), settings.batch_size, rng)
    ]
    calls = math.ceil(len(batches) / settings.every)

    def train(learning_rate: float, momentum: float, *, learn: bool) -> tuple[float, float, list[float]]:
        """Accuracy on the test, loss on the training images, and the learning rate in each step."""
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
        learner = SpectralRateLearner(optimizer, n_lanczos=settings.n_lanczos)
        rates = []
        for step, batch in enumerate(batches):
            images, labels = data.train[batch], data.train_labels[batch]
            if learn and step % settings.every == 0:
                learner.step(model, functional.cross_entropy, images, labels)
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
        with torch.no_grad():
            hits = [
                (model(images).argmax(1) == labels).float().sum().item()
                for images, labels in _chunks(data.test, data.test_labels)
            ]
            losses = [
                functional.cross_entropy(model(images), labels, reduction="sum").item()
                for images, labels in _chunks(data.train, data.train_labels)
            ]
        return sum(hits) / len(data.test), sum(losses) / len(data.train), rates

    accuracy, loss, rates = train(settings.first_rate, 0.0, learn=True)
    fixed = np.array(
        [
            train(rate, momentum, learn=False)[:2]
            for momentum in settings.momenta
            for rate in settings.learning_rates
        ]
    )
    per_call = _GRADIENTS_PER_OPERATOR + settings.n_lanczos * _GRADIENTS_PER_PRODUCT
    finite = fixed[np.isfinite(fixed[:, 1]), 1]
    return {
        "accuracy_learner": accuracy,
        "accuracy_best_fixed": float(fixed[:, 0].max()),
        "accuracy_median_fixed": float(np.median(fixed[:, 0])),
        "loss_learner": loss,
        "loss_best_fixed": float(finite.min()),
        "cost_over_grid": (len(batches) + calls * per_call) / (len(batches) * len(fixed)),
        "learning_rate_by_step": rates,
    }


def draw_rate_learner(rows: Sequence[Measurements]) -> Figure:
    figure, (accuracy, course) = figures.panels(2)
    names = {"learner": "learner", "best_fixed": "best of\nthe grid", "median_fixed": "median of\nthe grid"}
    figures.dots(
        accuracy,
        {label: figures.values(rows, f"accuracy_{name}") for name, label in names.items()},
        paired=True,
    )
    accuracy.set_ylabel("accuracy on the test")
    course.plot(figures.curves(rows, "learning_rate_by_step").T, color="tab:blue", alpha=0.4)
    course.set(xlabel="step", ylabel="learning rate that the learner sets", yscale="log")
    return figure


# --- What is claimed ----------------------------------------------------------------------------------

_ABSTRACT = "abstract"
_EXTREMES_SCALES = {
    "quick": Extremes(),
    "full": Extremes(
        data_folder="cifar100",
        device="cuda",
        batch_sizes=(8, 32, 128, 512),
        lanczos_steps=100,
        training_batch=128,
        learning_rate=0.01,
    ),
}
_LARGER = Published("larger in magnitude than those of the empirical Hessian", _ABSTRACT)
_FLAT = Published("a maximal rate that is flat in large batches", "maximal learning rates")
_LARGER_GGN = Published("similar results for the generalised Gauss-Newton matrix", _ABSTRACT)
_LINEAR = Published("linear scaling with the batch size", _ABSTRACT)


def _stable_rates_scales(
    optimizer: Literal["sgd", "adam"], lowest: float, full_lowest: float
) -> dict[str, StableRates]:
    return {
        "quick": StableRates(optimizer=optimizer, slope_to=16, lowest=lowest),
        "full": StableRates(
            data_folder="cifar100",
            device="cuda",
            optimizer=optimizer,
            batch_sizes=(16, 32, 64, 128, 256, 512, 1024),
            slope_to=256,
            steps=4000,
            seeds=1,
            lowest=full_lowest,
            candidates=40,
            at_once=1,
        ),
    }


_HESSIAN_CLAIMS = (
    Claim(
        "batch_extremes_larger",
        "shows that both extremes of a batch's Hessian exceed those of all data: 1.5 times or "
        "more in batches of 8",
        at_least("least_ratio_small_batch", 1.5),
        _LARGER,
    ),
    Claim(
        "extremes_shrink_with_batch",
        "shows that both extremes fall as the batch grows",
        at_most("most_increase_with_batch", 0.0),
        _LARGER,
    ),
    Claim(
        "large_batch_meets_all",
        "shows that both extremes come to within 10 % of those of all data in batches of 512",
        at_most("most_deviation_large_batch", 0.1),
        _LARGER,
    ),
    Claim(
        "excess_inverse_in_batch",
        "predicts that the excess of the largest eigenvalue is inverse to the effective batch size",
        between("slope_of_excess_start", -1.4, -0.7),
        Published("an excess proportional to 1 / batch size", "theorem on the batch Hessian"),
    ),
    Claim(
        "additive_law_on_network",
        "predicts the largest eigenvalue of a batch of 8 on a network within 20 %",
        near("predicted_over_measured", 1.0, 0.2),
        Published("extreme eigenvalues of spiked random matrices", "theorem on the batch Hessian"),
    ),
)

STUDY = Study(
    "batch_size_rates",
    (
        Experiment(
            name="matching_matrices",
            trial=matching_matrices,
            scales={"quick": Matrices(), "large": Matrices(size=3000)},
            claims=(
                Claim(
                    "additive_law",
                    "predicts both extremes of a batch's Hessian within 5 %, where its assumptions hold",
                    at_most("worst_error", 0.05),
                    Published(
                        "extreme eigenvalues of spiked random matrices", "theorem on the batch Hessian"
                    ),
                ),
                Claim(
                    "ggn_law",
                    "predicts the largest eigenvalue of a batch's Gauss-Newton matrix within 5 %, where its "
                    "assumptions hold",
                    at_most("worst_error_ggn", 0.05),
                    _LARGER_GGN,
                ),
            ),
            figure=draw_matching_matrices,
        ),
        Experiment(
            name="hessian_extremes",
            trial=hessian_extremes,
            scales=_EXTREMES_SCALES,
            claims=_HESSIAN_CLAIMS,
            figure=draw_extremes,
        ),
        Experiment(
            name="outlying_pixels",
            trial=hessian_extremes,
            scales={"quick": Extremes(pixels="standardised")},
            claims=_HESSIAN_CLAIMS,
            figure=draw_extremes,
        ),
        Experiment(
            name="ggn_extremes",
            trial=ggn_extremes,
            scales=_EXTREMES_SCALES,
            claims=(
                Claim(
                    "batch_extremes_larger",
                    "shows that the largest eigenvalue of a batch's Gauss-Newton matrix exceeds that of all "
                    "data: 1.5 times or more in batches of 8",
                    at_least("least_ratio_small_batch", 1.5),
                    _LARGER_GGN,
                ),
                Claim(
                    "extremes_shrink_with_batch",
                    "shows that it falls as the batch grows",
                    at_most("most_increase_with_batch", 0.0),
                    _LARGER_GGN,
                ),
                Claim(
                    "large_batch_meets_all",
                    "shows that it comes to within 10 % of that of all data in batches of 512",
                    at_most("most_deviation_large_batch", 0.1),
                    _LARGER_GGN,
                ),
                Claim(
                    "ggn_law_on_network",
                    "predicts the largest eigenvalue of a batch of 8 on a network within 20 %",
                    near("predicted_over_measured", 1.0, 0.2),
                    _LARGER_GGN,
                ),
            ),
            figure=draw_extremes,
        ),
        Experiment(
            name="sgd_rates",
            trial=stable_rates,
            scales=_stable_rates_scales("sgd", 0.1, 0.001),
            claims=(
                Claim(
                    "sgd_linear",
                    "predicts that SGD's largest stable learning rate grows linearly with small batches",
                    between("slope", 0.8, 1.2),
                    _LINEAR,
                ),
                Claim(
                    "sgd_saturates_by_64",
                    "predicts that this growth ends: its power in the last doubling, to 64, is 0.6 or less",
                    at_most("last_slope", 0.6),
                    _FLAT,
                ),
            ),
            figure=partial(draw_stable_rates, power=1.0),
        ),
        Experiment(
            name="sgd_large_batches",
            trial=stable_rates,
            scales={
                "quick": StableRates(
                    batch_sizes=(64, 128, 256), seeds=2, lowest=4.0, candidates=16, at_once=4
                ),
                "full": StableRates(
                    data_folder="cifar100",
                    device="cuda",
                    batch_sizes=(256, 1024, 4096),
                    steps=4000,
                    seeds=1,
                    lowest=0.001,
                    candidates=40,
                    at_once=1,
                ),
            },
            claims=(
                Claim(
                    "sgd_saturates",
                    "predicts that this growth ends in large batches: its power from 64 to 256 is 0.6 or "
                    "less",
                    at_most("slope", 0.6),
                    _FLAT,
                ),
            ),
            figure=partial(draw_stable_rates, power=0.0),
        ),
        Experiment(
            name="adam_rates",
            trial=stable_rates,
            scales=_stable_rates_scales("adam", 0.02, 1e-5),
            claims=(
                Claim(
                    "adam_square_root",
                    "predicts that Adam's largest stable learning rate grows with the square root of the "
                    "batch size",
                    between("slope", 0.25, 0.7),
                    Published("square root scaling for adaptive algorithms", _ABSTRACT),
                ),
            ),
            figure=partial(draw_stable_rates, power=0.5),
        ),
        Experiment(
            name="minimal_damping",
            trial=stable_damping,
            scales={
                "quick": StableDamping(),
                "full": StableDamping(
                    data_folder="cifar100",
                    device="cuda",
                    learning_rates=(0.1, 1.0),
                    batch_sizes=(16, 32, 64, 128, 256),
                    steps=4000,
                    seeds=1,
                    highest=4000.0,
                    candidates=40,
                    at_once=1,
                ),
            },
            claims=(
                Claim(
                    "minimal_damping",
                    "predicts that Adam's smallest stable epsilon is proportional to learning rate over "
                    "batch size",
                    between("slope", 0.8, 1.3),
                    Published(
                        "proportional to the ratio of learning rate to batch size",
                        "abstract, earlier version",
                    ),
                ),
            ),
            figure=draw_stable_damping,
        ),
        Experiment(
            name="rate_learner",
            trial=rate_learner,
            scales={
                "quick": Training(),
                "full": Training(data_folder="cifar100", device="cuda", batch_size=128, epochs=100, every=20),
            },
            claims=(
                Claim(
                    "reaches_best_fixed",
                    "reaches without a search the best test accuracy of 12 fixed settings, to within 0.02",
                    better("accuracy_learner", than="accuracy_best_fixed", lower=False, by=-0.02),
                    Published("good preliminary results", "PreResNet-110 on CIFAR-100"),
                ),
                Claim(
                    "cheaper_than_search",
                    "costs at most 0.6 of the gradients that the search over 12 settings costs",
                    at_most("cost_over_grid", 0.6),
                    Published("avoids expensive multiple evaluations", _ABSTRACT),
                ),
            ),
            figure=draw_rate_learner,
        ),
    ),
)
