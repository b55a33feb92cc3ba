"""Quadratic networks put to the test: splines, functional dimension, collapse, ReLinear and its gains.

Within a trial all networks start from the same W_r, see the same rows in the same order and take the same
number of steps. The scales called "full" have not been run here; that of the residual networks is the
authors' ResNet-20 at their schedule, on images that the user supplies, such as CIFAR-10's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from torch import Tensor, nn
from torch.nn import functional

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
)
from assay.networks.quadratic_networks import (
    QuadraticConv2d,
    QuadraticLinear,
    functional_dimension,
    relinear_parameter_groups,
    shrink_quadratic_terms,
    spline_network,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Splines:
    degrees: tuple[int, ...] = (2, 3, 5)
    pieces: int = 8
    splines: int = 5
    points: int = 20_001


@dataclass(frozen=True)
class Architectures:
    """Widths from the input to the output."""

    widths: tuple[tuple[int, ...], ...] = (
        (2, 2, 1),
        (2, 3, 1),
        (3, 3, 1),
        (2, 2, 2, 1),
        (2, 3, 2, 1),
        (1, 2, 2, 1),
    )


@dataclass(frozen=True)
class Digits:
    """Dense ReLU networks on scikit-learn's digits, standardised; the other rows are for test."""

    depths: tuple[int, ...] = (4, 6)
    width: int = 32
    training_rows: int = 800
    validation_rows: int = 400
    batch_size: int = 64
    epochs: int = 12
    learning_rate: float = 0.05
    momentum: float = 0.9
    networks: int = 3
    gamma: float = 1e-4
    beta: float = 1e-2
    collapsed_loss: float = 1.5


@dataclass(frozen=True)
class Shrinkage(Digits):
    """`gammas` ascend to 1; those below it make, with `learning_rates`, as many tries as the conventional
    network has with its own learning rates."""

    depths: tuple[int, ...] = (6,)
    gammas: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1.0)
    learning_rates: tuple[float, ...] = (0.02, 0.05)
    conventional_learning_rates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1)
    networks: int = 2


@dataclass(frozen=True)
class Boundary:
    """Whether x' A x exceeds its median, from normal x and a random symmetric A."""

    features: int = 8
    width: int = 12
    training_rows: int = 600
    validation_rows: int = 1000
    test_rows: int = 4000
    batch_size: int = 50
    epochs: int = 30
    learning_rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    momentum: float = 0.9
    tasks: int = 3


@dataclass(frozen=True)
class ResidualNetwork:
    """Three stages of `blocks` residual blocks; `images_file` is an .npz of x_train, y_train, x_test, y_test
    with images (N, channels, height, width), and scikit-learn's digits stand in for it."""

    images_file: str = ""
    blocks: int = 1
    width: int = 8
    training_rows: int = 800
    batch_size: int = 64
    epochs: int = 6
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    gamma: float = 1e-4
    largest_shift: int = 0
    flip: bool = False
    device: str = "cpu"


# ---------------------------------------------------------------------------------------- expressivity


def _random_spline(degree: int, pieces: int, rng: np.random.Generator) -> BSpline:
    """A B-spline on [0, 1] with normal coefficients and pieces of unequal length."""
    breakpoints = np.cumsum(np.append(0.0, rng.uniform(0.5, 1.5, pieces)))
    breakpoints /= breakpoints[-1]
    knots = np.concatenate((np.zeros(degree), breakpoints, np.ones(degree)))
    return BSpline(knots, rng.standard_normal(pieces + degree), degree)


def _piecewise_linear(spline: BSpline, kinks: int, x: Array) -> Array:
    """The linear interpolant between nodes as dense as the root of the curvature, which is best for many."""
    fine = np.linspace(0, 1, 100_001)
    density = np.sqrt(np.abs(spline(fine, nu=2))) + 1e-12
    mass = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2))
    nodes = np.interp(np.linspace(0, mass[-1], kinks + 1), mass, fine)
    return np.interp(x, nodes, spline(nodes))


def splines(settings: Splines, rng: np.random.Generator) -> Measurements:
    """Largest errors, relative to the spline's size, of three networks for the worst spline of each degree.

    Against the quadratic network stand closed forms, so that no training is to blame. A conventional ReLU
    network with one hidden layer of K neurons is any function with K kinks, its parameters being 3 K + 1;
    K is the least for which they are as many as the quadratic network's. A network with squared activations
    is a polynomial of degree 2 to the number of its hidden layers, whatever its width; the polynomial here is
    the best of that degree, by least squares at Chebyshev's points, for as many hidden layers.
    """
    x = np.linspace(0, 1, settings.points)
    chebyshev = (1 - np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)) / 2
    errors = np.empty((3, len(settings.degrees), settings.splines))
    for d, degree in enumerate(settings.degrees):
        for i in range(settings.splines):
            spline = _random_spline(degree, settings.pieces, rng)
            network = spline_network(spline)
            with torch.no_grad():
                ours = network(torch.from_numpy(x)[:, None]).numpy()[:, 0]
            parameters = sum(parameter.numel() for parameter in network.parameters())
            hidden_layers = sum(isinstance(layer, nn.ReLU) for layer in network)
            relu = _piecewise_linear(spline, math.ceil((parameters - 1) / 3), x)
            squared = np.polynomial.Chebyshev.fit(chebyshev, spline(chebyshev), 2**hidden_layers, [0, 1])(x)
            exact = spline(x)
            errors[:, d, i] = [
                np.abs(approximation - exact).max() / np.abs(exact).max()
                for approximation in (ours, relu, squared)
            ]
    advantage = np.log10(errors[1:] / np.maximum(errors[0], np.finfo(np.float64).eps)).min(axis=(1, 2))
    return {
        "spline_error": float(errors[0].max()),
        "decades_below_relu": float(advantage[0]),
        "decades_below_squared": float(advantage[1]),
        "degrees": [float(degree) for degree in settings.degrees],
        **{
            f"errors_{name}": by_degree.max(axis=1).tolist()
            for name, by_degree in zip(("quadratic", "relu", "squared"), errors, strict=True)
        },
    }


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


def _squared_network(widths: Sequence[int]) -> nn.Sequential:
    """Conventional layers with squares between them; one behind the last would not change the dimension."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), _Square()]
    return nn.Sequential(*layers[:-1])


def _quadratic_network(widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(QuadraticLinear(inputs, outputs) for inputs, outputs in pairwise(widths)))


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def variety(settings: Architectures, rng: np.random.Generator) -> Measurements:
    """Functional dimensions of quadratic and of conventional networks with squared activations.

    The conventional ones have the same widths, or are widened to at least as many parameters.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    dimensions = np.empty((3, len(settings.widths)))
    for k, widths in enumerate(settings.widths):
        quadratic = _quadratic_network(widths)
        hidden = list(widths)
        while _size(wide := _squared_network(hidden)) < _size(quadratic):
            hidden = [hidden[0], *(width + 1 for width in hidden[1:-1]), hidden[-1]]
        for row, network in enumerate((quadratic, _squared_network(widths), wide)):
            dimensions[row, k] = functional_dimension(network, widths[0], generator=generator)
    return {
        "least_gain": float((dimensions[0] - dimensions[1]).min()),
        "least_gain_at_equal_size": float((dimensions[0] - dimensions[2]).min()),
        "widths": [float(width) for widths in settings.widths for width in (*widths, 0)],
        **{
            f"dimensions_{name}": row.tolist()
            for name, row in zip(("quadratic", "conventional", "widened"), dimensions, strict=True)
        },
    }


# ------------------------------------------------------------------------------------------- dense networks

Kind = Literal["conventional", "relinear", "random", "default"]


@dataclass(frozen=True)
class _Rows:
    x: Tensor
    y: Tensor

    def accuracy(self, model: nn.Module) -> float:
        with torch.no_grad():
            predicted = torch.cat([model(part).argmax(1) for part in torch.split(self.x, 1000)])
        return float((predicted == self.y).double().mean())

    def loss(self, model: nn.Module) -> float:
        """The mean cross-entropy; infinite if it is no number."""
        with torch.no_grad():
            loss = float(functional.cross_entropy(model(self.x), self.y))
        return loss if math.isfinite(loss) else math.inf


@lru_cache(maxsize=1)
def _digits() -> tuple[Array, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y


def _split_digits(settings: Digits, rng: np.random.Generator) -> tuple[_Rows, _Rows, _Rows]:
    """Training, validation and test rows, standardised by the training rows."""
    x, y = _digits()
    order = rng.permutation(len(x))
    first = x[order[: settings.training_rows]]
    deviation = first.std(axis=0)
    x = (x - first.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    bounds = [settings.training_rows, settings.training_rows + settings.validation_rows]
    training, validation, test = (
        _Rows(torch.from_numpy(x[part]).float(), torch.from_numpy(y[part]))
        for part in np.split(order, bounds)
    )
    return training, validation, test


def _batches(rows: int, batch_size: int, epochs: int, rng: np.random.Generator) -> Tensor:
    """(steps, batch_size) row numbers: each epoch in a new order, without the rest that fills no batch."""
    per_epoch = rows // batch_size
    orders = [rng.permutation(rows)[: per_epoch * batch_size] for _ in range(epochs)]
    return torch.from_numpy(np.concatenate(orders).reshape(-1, batch_size))


def _start_as_pytorch_does(layer: QuadraticLinear | QuadraticConv2d) -> None:
    for part in (layer.linear_r, layer.linear_g, layer.linear_b):
        if part is not None:
            part.reset_parameters()


def _dense(widths: Sequence[int], kind: Kind, seed: int) -> nn.Sequential:
    """A ReLU network of conventional or quadratic neurons under a conventional output layer.

    The weights of the conventional network, He normal, are the W_r of the quadratic ones; "default" starts
    all parts of its neurons as `nn.Linear` does.
    """
    torch.manual_seed(seed)
    conventional: list[nn.Linear] = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
    for layer in conventional:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    layers: list[nn.Module] = []
    for layer in conventional[:-1]:
        hidden: nn.Module = layer
        if kind != "conventional":
            init: Literal["relinear", "random"] = "random" if kind == "random" else "relinear"
            quadratic = QuadraticLinear(layer.in_features, layer.out_features, init=init)
            if kind == "default":
                _start_as_pytorch_does(quadratic)
            else:
                quadratic.linear_r.load_state_dict(layer.state_dict())
            hidden = quadratic
        layers += [hidden, nn.ReLU()]
    return nn.Sequential(*layers, conventional[-1])


def _train(
    model: nn.Module,
    training: _Rows,
    batches: Tensor,
    optimizer: torch.optim.Optimizer,
    shrinkage: Mapping[str, float] | None = None,
) -> None:
    """Take a step for each batch, and shrink the quadratic terms after each where `shrinkage` says how.

    It stops once the loss is no number, as nothing can come of it.
    """
    for step, batch in enumerate(batches):
        loss = functional.cross_entropy(model(training.x[batch]), training.y[batch])
        if step % 10 == 0 and not math.isfinite(loss.item()):
            return
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if shrinkage:
            shrink_quadratic_terms(model, **shrinkage)


def _sgd(
    model: nn.Module, lr: float, momentum: float, gamma: float, weight_decay: float = 0.0
) -> torch.optim.SGD:
    groups = relinear_parameter_groups(model, lr=lr, gamma_g=gamma, gamma_b=gamma)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def training(settings: Digits, rng: np.random.Generator) -> Measurements:
    """Test accuracy, and share of networks that collapse, for five ways to train on digits.

    Generic backpropagation trains all parts of a quadratic neuron alike, from He normal weights or from
    PyTorch's own; it is credited with the one that collapses less often.
    """
    rows, _, test = _split_digits(settings, rng)
    features, classes = rows.x.shape[1], int(rows.y.max()) + 1
    methods: dict[str, tuple[Kind, float, dict[str, float]]] = {
        "conventional": ("conventional", 1.0, {}),
        "relinear": ("relinear", settings.gamma, {}),
        "shrunk_weights": ("relinear", 1.0, {"beta_g": settings.beta, "beta_b": settings.beta}),
        "random": ("random", 1.0, {}),
        "default": ("default", 1.0, {}),
    }
    collapses: dict[str, list[bool]] = {name: [] for name in methods}
    accuracies: dict[str, list[float]] = {name: [] for name in methods}
    for depth in settings.depths:
        for _ in range(settings.networks):
            seed = int(rng.integers(2**63))
            batches = _batches(settings.training_rows, settings.batch_size, settings.epochs, rng)
            for name, (kind, gamma, shrunk) in methods.items():
                model = _dense([features, *[settings.width] * depth, classes], kind, seed)
                optimizer = _sgd(model, settings.learning_rate, settings.momentum, gamma)
                _train(model, rows, batches, optimizer, shrunk)
                collapses[name].append(rows.loss(model) > settings.collapsed_loss)
                accuracies[name].append(test.accuracy(model))
    rates = {name: float(np.mean(marks)) for name, marks in collapses.items()}
    return {
        **{f"collapse_{name}": rate for name, rate in rates.items()},
        "collapse_generic": min(rates["random"], rates["default"]),
        **{f"accuracy_{name}": float(np.mean(values)) for name, values in accuracies.items()},
    }


def fallback(settings: Digits, rng: np.random.Generator) -> Measurements:
    """How far W_r ends from the conventional network's weights, with each hyperparameter of ReLinear at 0."""
    rows, _, _ = _split_digits(settings, rng)
    widths = [rows.x.shape[1], *[settings.width] * settings.depths[0], int(rows.y.max()) + 1]
    seed = int(rng.integers(2**63))
    batches = _batches(settings.training_rows, settings.batch_size, settings.epochs, rng)
    methods: dict[str, tuple[float, dict[str, float]]] = {
        "gamma": (0.0, {}),
        "beta": (1.0, {"beta_g": 0.0, "beta_b": 0.0}),
        "alpha": (1.0, {"alpha_g": 0.0, "alpha_b": 0.0}),
    }
    reference = _dense(widths, "conventional", seed)
    _train(reference, rows, batches, _sgd(reference, settings.learning_rate, settings.momentum, 0.0))
    differences = {}
    for name, (gamma, shrunk) in methods.items():
        model = _dense(widths, "relinear", seed)
        _train(model, rows, batches, _sgd(model, settings.learning_rate, settings.momentum, gamma), shrunk)
        parameters = [
            parameter
            for layer in model
            for parameter in (layer.linear_r if isinstance(layer, QuadraticLinear) else layer).parameters()
        ]
        pairs = zip(parameters, reference.parameters(), strict=True)
        differences[f"difference_{name}"] = float(
            np.max([(ours - theirs).detach().abs().max() for ours, theirs in pairs])
        )
    return differences


def shrinkage(settings: Shrinkage, rng: np.random.Generator) -> Measurements:
    """Test accuracy by gamma, each at the learning rate that is best on the validation rows.

    Gamma 0 is the conventional network. Among those between 0 and 1 the validation rows choose, too.
    """
    rows, validation, test = _split_digits(settings, rng)
    widths = [rows.x.shape[1], *[settings.width] * settings.depths[0], int(rows.y.max()) + 1]
    tries = [(0.0, rate) for rate in settings.conventional_learning_rates]
    tries += [(gamma, rate) for gamma in settings.gammas for rate in settings.learning_rates]
    validated, tested = np.zeros(len(tries)), np.zeros(len(tries))
    for _ in range(settings.networks):
        seed = int(rng.integers(2**63))
        batches = _batches(settings.training_rows, settings.batch_size, settings.epochs, rng)
        for i, (gamma, rate) in enumerate(tries):
            model = _dense(widths, "relinear" if gamma else "conventional", seed)
            _train(model, rows, batches, _sgd(model, rate, settings.momentum, gamma))
            validated[i] += validation.accuracy(model) / settings.networks
            tested[i] += test.accuracy(model) / settings.networks
    gammas = np.array([gamma for gamma, _ in tries])

    def best(candidates: NDArray[np.bool_]) -> float:
        return float(tested[np.where(candidates, validated, -1).argmax()])

    return {
        "accuracy_conventional": best(gammas == 0),
        "accuracy_relinear": best((gammas > 0) & (gammas < 1)),
        "accuracy_unshrunk": best(gammas == 1),
        "gammas": [0.0, *settings.gammas],
        "accuracies": [best(gammas == gamma) for gamma in (0.0, *settings.gammas)],
    }


def boundary(settings: Boundary, rng: np.random.Generator) -> Measurements:
    """Test accuracy of one hidden layer, each kind at the learning rate that is best on validation rows.

    The "wide" conventional layer has three times the neurons, and so about the quadratic one's parameters.
    """
    networks: dict[str, tuple[Kind, int]] = {
        "quadratic": ("relinear", settings.width),
        "conventional": ("conventional", settings.width),
        "wide": ("conventional", 3 * settings.width),
    }
    accuracies: dict[str, list[float]] = {name: [] for name in networks}
    sizes = [settings.training_rows, settings.validation_rows, settings.test_rows]
    for _ in range(settings.tasks):
        A = rng.standard_normal((settings.features, settings.features))
        x = rng.standard_normal((sum(sizes), settings.features))
        form = np.einsum("ni,ij,nj->n", x, A + A.T, x)
        y = (form > np.median(form)).astype(np.int64)
        inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
        parts = zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True)
        rows, validation, test = (_Rows(*part) for part in parts)
        seed = int(rng.integers(2**63))
        batches = _batches(settings.training_rows, settings.batch_size, settings.epochs, rng)
        for name, (kind, width) in networks.items():
            found = []
            for rate in settings.learning_rates:
                model = _dense([settings.features, width, 2], kind, seed)
                _train(model, rows, batches, _sgd(model, rate, settings.momentum, 1.0))
                found.append((validation.accuracy(model), test.accuracy(model)))
            accuracies[name].append(found[int(np.argmax([validated for validated, _ in found]))][1])
    return {f"accuracy_{name}": float(np.mean(values)) for name, values in accuracies.items()}


# ---------------------------------------------------------------------------------------- residual networks


class _Block(nn.Module):
    """Two normalised 3 x 3 convolutions beside a shortcut that subsamples and pads with zero channels."""

    def __init__(self, channels: int, width: int, stride: int, convolution: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.first = convolution(channels, width, 3, stride=stride, padding=1)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = convolution(width, width, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(width)
        self.stride = stride
        self.missing = width - channels

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second_norm(self.second(functional.relu(self.first_norm(self.first(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        before = self.missing // 2
        padded = functional.pad(shortcut, (0, 0, 0, 0, before, self.missing - before))
        return functional.relu(branch + padded)


def _resnet(settings: ResidualNetwork, channels: int, classes: int, kind: Kind, seed: int) -> nn.Sequential:
    """The residual network of He et al. for small images; first and last layer are conventional in all kinds.

    A quadratic one has the conventional one's weights as W_r.
    """

    def build(convolution: Callable[..., nn.Module]) -> nn.Sequential:
        torch.manual_seed(seed)
        width = settings.width
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        ]
        layers.append(nn.ReLU())
        inputs = width
        for stage in range(3):
            for block in range(settings.blocks):
                stride = 2 if stage and not block else 1
                layers.append(_Block(inputs, width << stage, stride, convolution))
                inputs = width << stage
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    def conventional(*sizes: int, **options: int) -> nn.Conv2d:
        layer = nn.Conv2d(*sizes, **options)  # type: ignore[arg-type]
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        return layer

    def quadratic(*sizes: int, **options: int) -> QuadraticConv2d:
        layer = QuadraticConv2d(*sizes, init="random" if kind == "random" else "relinear", **options)  # type: ignore[arg-type]
        if kind == "default":
            _start_as_pytorch_does(layer)
        return layer

    reference = build(conventional)
    if kind == "conventional":
        return reference
    model = build(quadratic)
    if kind != "default":
        renamed = {
            name.replace("first.", "first.linear_r.").replace("second.", "second.linear_r."): value
            for name, value in reference.state_dict().items()
        }
        model.load_state_dict(renamed, strict=False)
    return model


def _images(settings: ResidualNetwork, rng: np.random.Generator) -> tuple[_Rows, _Rows]:
    if settings.images_file:
        with np.load(settings.images_file) as images:
            parts = [images[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    else:
        x, y = _digits()
        first, rest = np.split(rng.permutation(len(x)), [settings.training_rows])
        x = x.reshape(-1, 1, 8, 8)
        parts = [x[first], y[first], x[rest], y[rest]]
    mean, deviation = (
        getattr(parts[0], moment)(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
        for moment in ("mean", "std")
    )
    rows, test = (
        _Rows(
            torch.from_numpy(((x - mean) / deviation).astype(np.float32)).to(settings.device),
            torch.from_numpy(y.astype(np.int64)).to(settings.device),
        )
        for x, y in (parts[:2], parts[2:])
    )
    return rows, test


def _augmented(settings: ResidualNetwork, x: Tensor, generator: torch.Generator) -> Tensor:
    """The images of one batch, each shifted over a margin of zeros and flipped or not."""
    shift = settings.largest_shift
    if shift:
        size = x.shape[-2:]
        padded = functional.pad(x, (shift,) * 4)
        corners = torch.randint(2 * shift + 1, (len(x), 2), generator=generator)
        windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)
        x = windows[torch.arange(len(x)), :, corners[:, 0], corners[:, 1]]
    if settings.flip:
        flipped = torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device) < 0.5
        x = torch.where(flipped, x.flip(-1), x)
    return x


def residual(settings: ResidualNetwork, rng: np.random.Generator) -> Measurements:
    """Test accuracy of a conventional and of two quadratic residual networks."""
    rows, test = _images(settings, rng)
    channels, classes = rows.x.shape[1], int(rows.y.max()) + 1
    seed = int(rng.integers(2**63))
    batches = _batches(len(rows.x), settings.batch_size, settings.epochs, rng)
    kinds: dict[Kind, float] = {
        "conventional": 1.0,
        "relinear": settings.gamma,
        "random": 1.0,
        "default": 1.0,
    }
    accuracies = {}
    for kind, gamma in kinds.items():
        model = _resnet(settings, channels, classes, kind, seed).to(settings.device)
        optimizer = _sgd(model, settings.learning_rate, settings.momentum, gamma, settings.weight_decay)
        milestones = [len(batches) // 2, len(batches) * 3 // 4]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        generator = torch.Generator().manual_seed(seed)
        for batch in batches:
            x = _augmented(settings, rows.x[batch], generator)
            loss = functional.cross_entropy(model(x), rows.y[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        accuracies[kind] = test.accuracy(model.eval())
    return {
        **{f"accuracy_{kind}": accuracy for kind, accuracy in accuracies.items()},
        "accuracy_generic": max(accuracies["random"], accuracies["default"]),
    }


# ------------------------------------------------------------------------------------------------- figures


def draw_splines(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("degree of the spline", "largest error, relative to the spline")
    degrees = figures.curves(rows, "degrees")[0]
    labels = {
        "squared": "best polynomial (squared activations)",
        "relu": "piecewise linear (ReLU)",
        "quadratic": "quadratic ReLU network",
    }
    for (name, label), colour in zip(labels.items(), ("tab:grey", "tab:orange", "tab:blue"), strict=True):
        errors = figures.curves(rows, f"errors_{name}")
        axes.plot(degrees, errors.T, ".", color=colour, alpha=0.35)
        axes.plot(degrees, np.median(errors, axis=0), "-", color=colour, label=label)
    axes.set_xticks(degrees)
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def draw_variety(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("widths of the network", "functional dimension")
    widths = "-".join(f"{width:.0f}" for width in figures.curves(rows, "widths")[0])
    architectures = [name.strip("-") for name in widths.split("-0") if name]
    places = np.arange(len(architectures))
    labels = {
        "quadratic": "quadratic",
        "conventional": "squared activations, same widths",
        "widened": "squared activations, as many parameters",
    }
    for shift, (name, label) in zip((-0.27, 0, 0.27), labels.items(), strict=True):
        axes.bar(places + shift, figures.curves(rows, f"dimensions_{name}")[0], 0.25, label=label)
    axes.set_xticks(places, architectures)
    axes.margins(y=0.35)  # room for the legend
    axes.legend(frameon=False)
    return figure


_LABELS = {
    "conventional": "conventional",
    "relinear": "ReLinear,\ngradients",
    "shrunk_weights": "ReLinear,\nweights",
    "random": "generic from\nHe normal",
    "default": "generic from\nPyTorch's",
}


def draw_training(rows: Sequence[Measurements]) -> Figure:
    figure, (collapse, accuracy) = figures.panels(2)
    for axes, kind in ((collapse, "collapse"), (accuracy, "accuracy")):
        figures.dots(axes, {label: figures.values(rows, f"{kind}_{name}") for name, label in _LABELS.items()})
        axes.set_ylim(-0.05, 1.05)
        axes.tick_params(axis="x", rotation=90)
    collapse.set_ylabel("share of networks that collapse")
    accuracy.set_ylabel("test accuracy")
    return figure


def draw_shrinkage(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("learning rate of the quadratic terms, as a share γ", "test accuracy")
    gammas = figures.curves(rows, "gammas")[0]
    accuracies = figures.curves(rows, "accuracies")
    places = np.arange(len(gammas))
    axes.plot(places, accuracies.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(places, np.median(accuracies, axis=0), "o-", color="tab:blue", label="median")
    axes.set_xticks(places, ["0 (conventional)", *(f"{gamma:g}" for gamma in gammas[1:])])
    axes.legend(frameon=False)
    return figure


def draw_boundary(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "test accuracy")
    labels = {
        "conventional": "conventional",
        "quadratic": "quadratic,\nsame width",
        "wide": "conventional,\nthree times the width",
    }
    columns = {label: figures.values(rows, f"accuracy_{name}") for name, label in labels.items()}
    figures.dots(axes, columns, paired=True)
    return figure


def draw_residual(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "test accuracy")
    columns = {
        label: figures.values(rows, f"accuracy_{name}")
        for name, label in _LABELS.items()
        if name != "shrunk_weights"
    }
    figures.dots(axes, columns, paired=True)
    return figure


# --------------------------------------------------------------------------------------------------- study

_EXPRESSIVITY = Published(
    "two theorems of better expressivity than conventional networks, with or without quadratic activation",
    "abstract",
)
_RISK = Published("a higher risk of collapse than the conventional counterpart", "abstract")
_STABLE = Published("ReLinear stabilises the training of a quadratic network", "abstract")
_CODE = "figure of ReLinear's hyperparameters in the authors' code"
_BETTER = Published("improves on the conventional network of the same structure", _CODE)
_TRANSITION = Published(
    "from the conventional to the quadratic network as (γ, α, β) grow from 0, with the best between", _CODE
)

STUDY = Study(
    slug="quadratic_networks",
    experiments=(
        Experiment(
            name="splines",
            trial=splines,
            scales={
                "quick": Splines(),
                "full": Splines(degrees=(2, 3, 4, 5, 7), pieces=60, splines=20, points=100_001),
            },
            claims=(
                Claim(
                    "exact_splines",
                    "represents continuous splines of degree 2, 3 and 5 exactly: to 1e-9 of their size",
                    at_most("spline_error", 1e-9),
                    _EXPRESSIVITY,
                ),
                Claim(
                    "relu_networks_cannot",
                    "does so where a conventional ReLU network of one hidden layer and as many parameters "
                    "errs 10,000 times more",
                    at_least("decades_below_relu", 4),
                    _EXPRESSIVITY,
                ),
                Claim(
                    "squared_networks_cannot",
                    "does so where a conventional network of the same depth with squared activations errs "
                    "10,000 times more",
                    at_least("decades_below_squared", 4),
                    _EXPRESSIVITY,
                ),
            ),
            figure=draw_splines,
        ),
        Experiment(
            name="variety",
            trial=variety,
            scales={
                "quick": Architectures(),
                "full": Architectures(((3, 6, 1), (4, 8, 2), (2, 4, 4, 1), (3, 5, 4, 2))),
            },
            claims=(
                Claim(
                    "larger_variety",
                    "expresses a set of functions of larger dimension than a conventional network of the "
                    "same structure with squared activations",
                    at_least("least_gain", 1),
                    _EXPRESSIVITY,
                ),
                Claim(
                    "larger_variety_at_equal_size",
                    "does so, too, when the conventional network is widened to as many parameters",
                    at_least("least_gain_at_equal_size", 1),
                ),
            ),
            figure=draw_variety,
            deterministic=True,
        ),
        Experiment(
            name="training",
            trial=training,
            scales={
                "quick": Digits(),
                "full": Digits(depths=(2, 4, 6, 8), epochs=50, networks=10),
            },
            claims=(
                Claim(
                    "collapse_risk",
                    "collapses under generic backpropagation more often than a conventional network does: "
                    "by more than half of the runs",
                    better("collapse_conventional", than="collapse_generic", lower=True, by=0.5),
                    _RISK,
                ),
                Claim(
                    "shrunk_gradients_prevent_collapse",
                    "is kept from collapse by ReLinear's start and its small rate for the quadratic terms",
                    better("collapse_relinear", than="collapse_generic", lower=True, by=0.5),
                    _STABLE,
                ),
                Claim(
                    "shrunk_weights_prevent_collapse",
                    "is kept from collapse as well by shrinking the quadratic weights after each step",
                    better("collapse_shrunk_weights", than="collapse_generic", lower=True, by=0.5),
                    _STABLE,
                ),
                Claim(
                    "relinear_stabilises",
                    "trains with ReLinear to within 0.02 of the conventional network's accuracy, or above it",
                    better("accuracy_relinear", than="accuracy_conventional", lower=False, by=-0.02),
                    _BETTER,
                ),
            ),
            figure=draw_training,
        ),
        Experiment(
            name="fallback",
            trial=fallback,
            scales={"quick": Digits(epochs=2), "full": Digits(depths=(8,), epochs=50)},
            claims=(
                Claim(
                    "falls_back_to_conventional",
                    "trains, with ReLinear's γ, β or α at 0, bit for bit as the conventional network does",
                    all_of(*(at_most(f"difference_{name}", 0.0) for name in ("gamma", "beta", "alpha"))),
                    _TRANSITION,
                ),
            ),
            deterministic=True,
        ),
        Experiment(
            name="shrinkage",
            trial=shrinkage,
            scales={
                "quick": Shrinkage(),
                "full": Shrinkage(epochs=50, networks=10),
            },
            claims=(
                Claim(
                    "better_than_conventional",
                    "is more accurate at the best γ than the conventional network, which has γ = 0, with as "
                    "many tries for each",
                    better("accuracy_relinear", than="accuracy_conventional", lower=False),
                    _TRANSITION,
                ),
                Claim(
                    "better_than_unshrunk",
                    "is more accurate at the best γ than at γ = 1, from the same start, by 0.05",
                    better("accuracy_relinear", than="accuracy_unshrunk", lower=False, by=0.05),
                    _TRANSITION,
                ),
            ),
            figure=draw_shrinkage,
        ),
        Experiment(
            name="boundary",
            trial=boundary,
            scales={
                "quick": Boundary(),
                "full": Boundary(features=30, width=60, training_rows=6000, tasks=20),
            },
            claims=(
                Claim(
                    "quadratic_gain",
                    "finds a quadratic boundary with an accuracy 0.005 above that of a conventional network "
                    "of the same structure",
                    better("accuracy_quadratic", than="accuracy_conventional", lower=False, by=0.005),
                    _BETTER,
                ),
            ),
            figure=draw_boundary,
        ),
        Experiment(
            name="residual",
            trial=residual,
            scales={
                "quick": ResidualNetwork(),
                "full": ResidualNetwork(
                    images_file="cifar10.npz",
                    blocks=3,
                    width=16,
                    batch_size=128,
                    epochs=200,
                    largest_shift=4,
                    flip=True,
                    device="cuda",
                ),
            },
            claims=(
                Claim(
                    "better_than_conventional",
                    "is more accurate, as a residual network trained by ReLinear, than the conventional one",
                    better("accuracy_relinear", than="accuracy_conventional", lower=False),
                    _BETTER,
                ),
                Claim(
                    "better_than_generic",
                    "is more accurate with ReLinear, by 0.02, than trained by generic backpropagation",
                    better("accuracy_relinear", than="accuracy_generic", lower=False, by=0.02),
                    _STABLE,
                ),
            ),
            figure=draw_residual,
        ),
    ),
)
