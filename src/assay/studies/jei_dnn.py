"""JEI-DNN put to the test: learned exits beside thresholds on confidence, fixed exits and uncoupled training.

The task mixes easy inputs, whose label is linear in the features that say so, with hard ones, whose label
hangs on the sign of a product. The backbone is a small residual network, trained on its last head and then
frozen; all methods of a trial share it, the heads' initial weights and the number of passes over the data.
Thresholds are chosen on the validation data, for the mean cost that the learned exits have there. What a
trial measures are means over its `cost_weights`, which trace the curve against cost. Each experiment is done
twice: with the exit model of the paper's code and with the alternative in it, gates read as hazards.

The scale "full" has the paper's sizes. It reads the class tokens of a frozen transformer from
`features_file`, a NumPy archive that the user makes (the paper's is T2T-ViT-7 or -14 on CIFAR-10, CIFAR-100
or SVHN): `X_train` (n, L, D) and `X_test` hold the normalised class tokens after each of L blocks, `y_train`
and `y_test` the labels, `weight` (C, D) and `bias` (C,) the last head. It has not been run here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
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
    better,
    figures,
    near,
)
from assay.gating.jei_dnn import (
    EarlyExitNetwork,
    ExitModel,
    HeadLoss,
    conformal_threshold,
    exit_index,
    expected_calibration_error,
    fit_heads,
    fit_joint,
    threshold_exit,
    threshold_for_budget,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEAD_LOSSES: tuple[HeadLoss, ...] = ("weighted", "uniform")
_ALPHA = 0.05
_TOO_FEW_TO_CALIBRATE_ON = 20


@dataclass(frozen=True)
class Task:
    """The data, the backbone, and the training of heads and gates."""

    exit_model: ExitModel = "marginal"
    train: int = 3000
    validation: int = 1500
    test: int = 4000
    width: int = 32
    hidden: int = 10
    blocks: int = 5
    backbone_epochs: int = 16
    backbone_batch_size: int = 128
    backbone_learning_rate: float = 3e-3
    warmup_epochs: int = 8
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.05
    alternate_every: int = 5
    cost_weights: tuple[float, ...] = (0.05, 0.3, 0.6)
    features_file: str = ""


_Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Problem:
    """A frozen backbone with untrained heads, and the data."""

    network: EarlyExitNetwork
    train: _Split
    validation: _Split
    test: _Split
    order_seed: int


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.residual(x)
        return x + residual


class _Level(nn.Module):
    """The class token after one of the blocks, all of which are given."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.level]


def _mixed_difficulty(n: int) -> _Split:
    x = torch.randn(n, 10)
    easy = 2 * (x[:, 1] > 0) + (x[:, 2] > 0)
    hard = 2 * (x[:, 3] * x[:, 4] > 0) + (x[:, 5] > 0)
    return x, torch.where(x[:, 0] > 0, easy, hard)


def _problem(settings: Task, rng: np.random.Generator) -> _Problem:
    torch.manual_seed(int(rng.integers(2**63)))
    order_seed = int(rng.integers(2**63))
    if settings.features_file:
        return _from_file(settings, order_seed)
    train, validation, test = (
        _mixed_difficulty(n) for n in (settings.train, settings.validation, settings.test)
    )
    blocks: list[nn.Module] = [_Block(settings.width, settings.hidden) for _ in range(settings.blocks)]
    stages = [nn.Sequential(nn.Linear(10, settings.width), blocks[0]), *blocks[1:]]
    heads = [nn.Linear(settings.width, 4) for _ in stages]
    _train_backbone(nn.Sequential(*stages, heads[-1]), train, settings)
    network = EarlyExitNetwork(stages, heads, exit_model=settings.exit_model)
    return _Problem(network, train, validation, test, order_seed)


def _train_backbone(backbone: nn.Module, train: _Split, settings: Task) -> None:
    X, y = train
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=settings.backbone_learning_rate, fused=True)
    for _ in range(settings.backbone_epochs):
        for rows in torch.split(torch.randperm(len(X)), settings.backbone_batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(backbone(X[rows]), y[rows]))
            optimizer.step()


def _from_file(settings: Task, order_seed: int) -> _Problem:
    with np.load(settings.features_file) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    X, y = data["X_train"], data["y_train"].long()
    classes, width = data["weight"].shape
    levels = range(X.shape[1])
    heads = [nn.Sequential(_Level(level), nn.Linear(width, classes)) for level in levels]
    last = heads[-1][1]
    last.load_state_dict({"weight": data["weight"], "bias": data["bias"]})
    order = torch.randperm(len(X))
    held_out, kept = order[: settings.validation], order[settings.validation :][: settings.train]
    return _Problem(
        EarlyExitNetwork([nn.Identity() for _ in levels], heads, exit_model=settings.exit_model),
        (X[kept], y[kept]),
        (X[held_out], y[held_out]),
        (data["X_test"], data["y_test"].long()),
        order_seed,
    )


def _joint(
    problem: _Problem,
    settings: Task,
    cost_weight: float,
    head_loss: HeadLoss = "weighted",
) -> EarlyExitNetwork:
    return fit_joint(
        copy.deepcopy(problem.network),
        *problem.train,
        *problem.validation,
        cost_weight=cost_weight,
        warmup_epochs=settings.warmup_epochs,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        alternate_every=settings.alternate_every,
        head_loss=head_loss,
        generator=torch.Generator().manual_seed(problem.order_seed),
    )


def _decoupled(problem: _Problem, settings: Task) -> EarlyExitNetwork:
    """Heads trained on everything, with as many passes over the data as the joint training makes."""
    return fit_heads(
        copy.deepcopy(problem.network),
        *problem.train,
        epochs=settings.warmup_epochs + settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        generator=torch.Generator().manual_seed(problem.order_seed),
    )


@dataclass(frozen=True)
class _Answers:
    """Every exit's class probabilities for n inputs, (L, n, C), the exits taken, (n,), and the labels."""

    probabilities: Tensor
    exits: Tensor
    y: Tensor

    def taken(self) -> Tensor:
        return self.probabilities[self.exits, torch.arange(len(self.y))]

    def scores(self, level: int) -> Tensor:
        """One minus the probability of the label at one exit, (n,)."""
        return 1 - self.probabilities[level, torch.arange(len(self.y)), self.y]


@torch.no_grad()
def _logits(network: EarlyExitNetwork, problem: _Problem) -> list[list[Tensor]]:
    """On the validation and on the test data."""
    network.eval()
    return [network(split[0]) for split in (problem.validation, problem.test)]


@torch.no_grad()
def _learned_exits(network: EarlyExitNetwork, logits: list[Tensor]) -> Tensor:
    return exit_index(network.gate_logits(logits).sigmoid(), network.exit_model)


def _mean_cost(problem: _Problem, exits: Tensor) -> float:
    return float(problem.network.costs.double()[exits].mean())


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(-1) == y).double().mean())


def _fixed_exits(problem: _Problem, logits: list[Tensor]) -> dict[str, list[float]]:
    """The curve of accuracy against cost when all inputs leave at one exit."""
    return {
        "costs_fixed": problem.network.costs.tolist(),
        "accuracies_fixed": [_accuracy(each, problem.test[1]) for each in logits],
    }


def _at_costs(fixed: Mapping[str, list[float]], costs: list[float]) -> list[float]:
    return np.interp(costs, fixed["costs_fixed"], fixed["accuracies_fixed"]).tolist()


def _overconfidence(probabilities: Tensor, y: Tensor) -> Tensor:
    """Confidence less 1 where the answer is right, (…, n, C) to (…, n); its mean is the bias."""
    confidence, labels = probabilities.max(-1)
    return confidence - (labels == y).to(confidence.dtype)


def _prediction_sets(validation: _Answers, test: _Answers) -> tuple[float, float]:
    """Coverage and mean size of conformal sets, calibrated at each exit on the inputs that leave there, or on
    all inputs where few do."""
    thresholds = []
    for level in range(len(validation.probabilities)):
        scores, here = validation.scores(level), validation.exits == level
        enough = int(here.sum()) > _TOO_FEW_TO_CALIBRATE_ON
        thresholds.append(conformal_threshold(scores[here] if enough else scores, _ALPHA))
    sets = test.taken() >= 1 - torch.tensor(thresholds)[test.exits, None]
    covered = sets.gather(1, test.y[:, None])
    return float(covered.float().mean()), float(sets.sum(1).float().mean())


def _assess(
    problem: _Problem, logits: Sequence[list[Tensor]], exits: Sequence[Tensor]
) -> dict[str, float | None]:
    """Logits and exits taken are those on the validation and on the test data."""
    validation, test = (
        _Answers(torch.stack(each).softmax(-1), taken, split[1])
        for each, taken, split in zip(logits, exits, (problem.validation, problem.test), strict=True)
    )
    probabilities = test.taken()
    confidence, labels = probabilities.max(-1)
    coverage, set_size = _prediction_sets(validation, test)
    busiest_exit = float(test.exits.bincount().max() / len(test.exits))
    early = test.exits < len(test.probabilities) - 1
    early_bias = selection_bias = None
    if early.any():
        early_bias = float(_overconfidence(probabilities, test.y)[early].mean())
        # What the same heads show on inputs that nobody selected, in the same shares.
        unselected = _overconfidence(test.probabilities, test.y).mean(1)[test.exits]
        if busiest_exit < 1:
            selection_bias = early_bias - float(unselected[early].mean())
    return {
        "accuracy": _accuracy(probabilities, test.y),
        "cost": _mean_cost(problem, test.exits),
        "calibration_error": expected_calibration_error(confidence, labels == test.y),
        "early_bias": early_bias,
        "early_gap": None if early_bias is None else abs(early_bias),
        "selection_bias": selection_bias,
        "coverage": coverage,
        "set_size": set_size,
        "busiest_exit": busiest_exit,
    }


def _numbers(assessed: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    """A quantity wherever it applies."""
    return [value for each in assessed if (value := each[name]) is not None]


def beside_thresholds(settings: Task, rng: np.random.Generator) -> Measurements:
    """Learned exits, a threshold on the largest probability at the same cost, and fixed exits."""
    problem = _problem(settings, rng)
    decoupled = _decoupled(problem, settings)
    plain = _logits(decoupled, problem)
    learned, thresholded = [], []
    for cost_weight in settings.cost_weights:
        network = _joint(problem, settings, cost_weight)
        logits = _logits(network, problem)
        exits = [_learned_exits(network, each) for each in logits]
        learned.append(_assess(problem, logits, exits))
        threshold = threshold_for_budget(plain[0], decoupled.costs, _mean_cost(problem, exits[0]))
        thresholded.append(_assess(problem, plain, [threshold_exit(each, threshold) for each in plain]))
        if learned[-1]["selection_bias"] is None:  # nothing to compare with
            thresholded[-1]["selection_bias"] = None
    fixed = _fixed_exits(problem, plain[1])
    measurements: dict[str, float | None | Sequence[float]] = dict(fixed)
    for name, assessed in (("learned", learned), ("threshold", thresholded)):
        for quantity in assessed[0]:
            numbers = _numbers(assessed, quantity)
            measurements[f"{quantity}_{name}"] = float(np.mean(numbers)) if numbers else None
        measurements[f"costs_{name}"] = _numbers(assessed, "cost")
        measurements[f"accuracies_{name}"] = _numbers(assessed, "accuracy")
    measurements["accuracy_fixed"] = float(np.mean(_at_costs(fixed, _numbers(learned, "cost"))))
    return measurements


def coupling(settings: Task, rng: np.random.Generator) -> Measurements:
    """How far accuracy lies above that of fixed exits at the same cost, with the heads' losses weighted by
    the gates or not, all else equal."""
    problem = _problem(settings, rng)
    fixed = _fixed_exits(problem, _logits(_decoupled(problem, settings), problem)[1])
    measurements: dict[str, float] = {}
    for head_loss in _HEAD_LOSSES:
        accuracies, costs = [], []
        for cost_weight in settings.cost_weights:
            prediction = _joint(problem, settings, cost_weight, head_loss).predict(problem.test[0])
            accuracies.append(_accuracy(prediction.probabilities, problem.test[1]))
            costs.append(prediction.mean_cost)
        excess = np.subtract(accuracies, _at_costs(fixed, costs))
        measurements[f"excess_{head_loss}"] = float(excess.mean())
        measurements[f"cost_{head_loss}"] = float(np.mean(costs))
    return measurements


def draw_tradeoff(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("mean cost (share of the full network's)", "accuracy on test data")
    for name, label, style in (
        ("learned", "learned exits", "o-C0"),
        ("threshold", "threshold on confidence", "s--C1"),
        ("fixed", "one exit for all", ".:k"),
    ):
        curves = [figures.curves(rows, f"{axis}_{name}") for axis in ("costs", "accuracies")]
        if name != "fixed":
            axes.plot(*curves, style[0] + style[-2:], alpha=0.15, markersize=3)
        costs, accuracies = (np.median(curve, axis=0) for curve in curves)
        axes.plot(costs, accuracies, style, label=f"{label}, median", markersize=6)
    axes.legend(frameon=False)
    return figure


def draw_selection_bias(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "confidence less accuracy, from selection alone")
    labels = {"learned": "learned exits", "threshold": "threshold on confidence"}
    columns = {label: figures.values(rows, f"selection_bias_{name}") for name, label in labels.items()}
    figures.dots(axes, columns)
    axes.axhline(0, color="grey", linewidth=0.8)
    return figure


_FEW_ROWS = Task(train=400, backbone_batch_size=64, cost_weights=(0.05, 0.3))
_COUPLING = Task(cost_weights=(0.1, 0.6))
_LARGER: dict[str, Any] = {"train": 20_000, "validation": 5000, "test": 20_000, "width": 64, "hidden": 64}
_FULL: dict[str, Any] = {
    "train": 45_000,
    "validation": 5000,
    "warmup_epochs": 6,
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 0.01,
    "alternate_every": 200,
    "cost_weights": (0.01, 0.1, 0.3, 0.7, 1.5, 3.0, 7.0),
    "features_file": "features.npz",
}
_CURVES = Published("better accuracy at equal cost on four image datasets", "abstract and experiments")
_UNCERTAINTY = Published("better uncertainty characterisation than thresholds", "abstract")
_BIAS = Published("thresholds bias predicted probabilities upwards", "abstract")

_TRADEOFF_CLAIMS = (
    Claim(
        "better_tradeoff",
        "is more accurate than a threshold on confidence at equal cost",
        better("accuracy_learned", than="accuracy_threshold", lower=False),
        _CURVES,
    ),
    Claim(
        "beats_static",
        "is more accurate than one exit for all inputs at equal cost",
        better("accuracy_learned", than="accuracy_fixed", lower=False, by=0.015),
        _CURVES,
    ),
    Claim(
        "calibration",
        "predicts better calibrated probabilities than a threshold does",
        better("calibration_error_learned", than="calibration_error_threshold", lower=True),
        _UNCERTAINTY,
    ),
    Claim(
        "early_bias",
        "has a smaller gap between confidence and accuracy among inputs that leave early",
        better("early_gap_learned", than="early_gap_threshold", lower=True),
        _BIAS,
    ),
    Claim(
        "coverage",
        "allows conformal sets that hold the label as often as they are meant to",
        all_of(*(near(f"coverage_{name}", 1 - _ALPHA, 0.015) for name in ("learned", "threshold"))),
    ),
    Claim(
        "smaller_sets",
        "allows smaller conformal sets than a threshold does at equal cost",
        better("set_size_learned", than="set_size_threshold", lower=True),
        _UNCERTAINTY,
    ),
)
_FEW_ROWS_CLAIMS = (
    Claim(
        "thresholds_are_biased",
        "takes the place of thresholds, which select inputs whose probabilities are too high",
        at_least("selection_bias_threshold", 0),
        _BIAS,
    ),
    Claim(
        "threshold_bias",
        "selects early leavers with less such bias than a threshold at equal cost",
        better("selection_bias_learned", than="selection_bias_threshold", lower=True, by=0.005),
        _BIAS,
    ),
)
_COUPLING_CLAIMS = (
    Claim(
        "coupling_helps",
        "gains accuracy by training each head on the inputs that the gates send it",
        better("excess_weighted", than="excess_uniform", lower=False),
        Published("training heads and exits apart is a train-test mismatch", "abstract"),
    ),
)


def _experiments(suffix: str, exit_model: ExitModel) -> tuple[Experiment, ...]:
    def scales(quick: Task, larger: dict[str, Any], **full: Any) -> dict[str, Task]:
        sizes = {"quick": quick, "larger": replace(quick, **larger), "full": replace(quick, **_FULL | full)}
        return {scale: replace(task, exit_model=exit_model) for scale, task in sizes.items()}

    return (
        Experiment(
            name=f"tradeoff{suffix}",
            trial=beside_thresholds,
            scales=scales(Task(), _LARGER),
            claims=_TRADEOFF_CLAIMS,
            figure=draw_tradeoff,
        ),
        Experiment(
            name=f"few_rows{suffix}",
            trial=beside_thresholds,
            scales=scales(_FEW_ROWS, {**_LARGER, "train": 1000}, train=5000, cost_weights=(0.1, 0.7)),
            claims=_FEW_ROWS_CLAIMS,
            figure=draw_selection_bias,
        ),
        Experiment(
            name=f"coupling{suffix}",
            trial=coupling,
            scales=scales(_COUPLING, _LARGER, cost_weights=(0.1, 0.7)),
            claims=_COUPLING_CLAIMS,
        ),
    )


STUDY = Study(
    slug="jei_dnn",
    experiments=(*_experiments("", "marginal"), *_experiments("_hazard", "hazard")),
)
