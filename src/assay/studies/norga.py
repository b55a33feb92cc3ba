"""NoRGa put to the test: what an attention head is, and digits learnt two classes at a time.

The quick world is scikit-learn's digits, 8 x 8 pixels, a third kept for testing. The others, transposed and
inverted, pretrain a small transformer. It is then frozen, and half of those others, as they are, teach it the
digits task by task. All learners of a trial share the backbone, the order of the tasks, the seed (so initial
prefixes and head, and every batch) and the budget. The scale "full" is Split CIFAR-100 on a ViT-B/16 of timm,
with torchvision's data in the folder `data_folder` and the official settings; it has not been run here.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits
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
    near,
)
from assay.evidence.figures import axes as new_axes
from assay.evidence.figures import curves, dots, values
from assay.gating.norga import (
    GateActivation,
    PrefixBackbone,
    PrefixViT,
    PromptContinualLearner,
    TaskInference,
    attention_as_experts,
    continual_metrics,
    interaction_defect,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Head:
    """An attention head with random weights and prefixes."""

    tokens: int = 50
    prefixes: int = 10
    embed_dim: int = 48
    head_dim: int = 12


@dataclass(frozen=True)
class GatedExpert:
    """One gated linear expert, seen on a sample uniform on [-range, range]^inputs."""

    inputs: int = 3
    samples: int = 4000
    range: float = 2.0


@dataclass(frozen=True)
class Tasks:
    """Classes learnt task by task on a frozen backbone.

    `images` of the digits are used; `pretraining` is by "labels" or by "rotations". With `timm_model` the
    backbone and the images are those of the scale "full".
    """

    task_inference: TaskInference = "gaussian"
    pretraining: str = "labels"
    gate: GateActivation = "tanh"
    images: int = 1500
    n_tasks: int = 5
    embed_dim: int = 32
    depth: int = 3
    num_heads: int = 2
    pretraining_epochs: int = 12
    pretraining_batch_size: int = 64
    pretraining_learning_rate: float = 2e-3
    prompt_length: int = 4
    layers: tuple[int, ...] = (0, 1)
    epochs: int = 15
    batch_size: int = 32
    learning_rate: float = 0.02
    contrastive_weight: float = 0.0
    replay_epochs: int = 30
    replay_per_class: int = 32
    fine_tuning_learning_rate: float = 1e-3
    timm_model: str = ""
    data_folder: str = "data"
    device: str = "cpu"


@dataclass(frozen=True)
class _World:
    """A frozen backbone, images to learn and to test on, and the classes of each task."""

    backbone: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    tasks: list[list[int]]


class _Enlarged(nn.Module):
    """A backbone of timm for images of any size, given in [0, 1]."""

    def __init__(self, backbone: PrefixBackbone) -> None:
        super().__init__()
        self.backbone, self.blocks, self.embed_dim = backbone, backbone.blocks, backbone.embed_dim
        model: Any = backbone.model
        self.image_size = model.pretrained_cfg["input_size"][-2:]
        self.mean, self.std = (
            nn.Buffer(model.cls_token.new_tensor(model.pretrained_cfg[name]).view(3, 1, 1), persistent=False)
            for name in ("mean", "std")
        )

    def features(self, images: Tensor, *prompting: Any) -> Tensor:
        enlarged = functional.interpolate((images - self.mean) / self.std, self.image_size, mode="bicubic")
        return self.backbone.features(enlarged, *prompting)


def _world(settings: Tasks, rng: np.random.Generator) -> _World:
    torch.manual_seed(int(rng.integers(2**63)))
    if settings.timm_model:
        backbone, train, test = _cifar100(settings)
    else:
        backbone, train, test = _digits(settings)
    n_classes = int(train[1].max()) + 1
    tasks = torch.randperm(n_classes).tensor_split(settings.n_tasks)
    return _World(backbone, train, test, [sorted(task.tolist()) for task in tasks])


def _digits(settings: Tasks) -> tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    digits = load_digits()
    order = torch.randperm(len(digits.target))[: settings.images]
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(digits.target)[order]
    third = len(y) // 3
    backbone = _pretrained(settings, images[third:], y[third:])
    return backbone, (images[-third:], y[-third:]), (images[:third], y[:third])


def _pretrained(settings: Tasks, images: Tensor, y: Tensor) -> nn.Module:
    model = PrefixViT(8, 2, embed_dim=settings.embed_dim, depth=settings.depth, num_heads=settings.num_heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.pretraining_learning_rate, fused=True)
    transformed = 1 - images.mT
    for _ in range(settings.pretraining_epochs):
        for batch in torch.split(torch.randperm(len(y)), settings.pretraining_batch_size):
            pictures, answers = transformed[batch], y[batch]
            if settings.pretraining == "rotations":
                answers = torch.randint(4, (len(batch),))
                turned = torch.stack([pictures.rot90(quarters, (2, 3)) for quarters in range(4)])
                pictures = turned[answers, torch.arange(len(batch))]
            loss = functional.cross_entropy(model(pictures), answers)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return model


def _cifar100(settings: Tasks) -> tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    try:
        timm = importlib.import_module("timm")
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise ImportError("the scale 'full' of norga needs timm and torchvision") from error

    def images_and_labels(train: bool) -> tuple[Tensor, Tensor]:
        data = datasets.CIFAR100(settings.data_folder, train=train)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).float() / 255
        return images.to(settings.device), torch.tensor(data.targets, device=settings.device)

    vit = PrefixBackbone(timm.create_model(settings.timm_model, pretrained=True).to(settings.device))
    return _Enlarged(vit), images_and_labels(True), images_and_labels(False)


def _of_classes(data: tuple[Tensor, Tensor], classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    chosen = torch.isin(data[1], torch.tensor(classes, device=data[1].device))
    return data[0][chosen], data[1][chosen]


def _learner(
    settings: Tasks, world: _World, gate: GateActivation | None, seed: int
) -> PromptContinualLearner:
    return PromptContinualLearner(
        world.backbone,
        sum(map(len, world.tasks)),
        gate=gate,
        prompt_length=settings.prompt_length,
        layers=settings.layers,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        contrastive_weight=settings.contrastive_weight,
        replay_epochs=settings.replay_epochs,
        replay_per_class=settings.replay_per_class,
        task_inference=settings.task_inference,
        random_state=seed,
    )


class _FineTuned:
    """The baseline that keeps nothing of earlier tasks: the last block and the head, trained on each task.

    The loss is over all classes seen, or with `masked` over the task's classes only, as the prefixes' is.
    """

    def __init__(self, settings: Tasks, world: _World, seed: int, *, masked: bool) -> None:
        torch.manual_seed(seed)
        self.settings, self.masked = settings, masked
        backbone: Any = copy.deepcopy(world.backbone)
        self.backbone = backbone.requires_grad_(False).eval()
        self.block: nn.Module = self.backbone.blocks[-1].requires_grad_()
        self.head = nn.Linear(self.backbone.embed_dim, sum(map(len, world.tasks)), device=settings.device)
        self.seen: list[int] = []

    def fit_task(self, X: Tensor, y: Tensor) -> None:
        classes = sorted(set(y.tolist()))
        self.seen += classes
        mask = torch.full((self.head.out_features,), -math.inf, device=y.device)
        mask[classes if self.masked else self.seen] = 0
        parameters = [*self.block.parameters(), *self.head.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.settings.fine_tuning_learning_rate)
        for _ in range(self.settings.epochs):
            for batch in torch.split(torch.randperm(len(y)), self.settings.batch_size):
                logits = self.head(self.backbone.features(X[batch])) + mask
                loss = functional.cross_entropy(logits, y[batch])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()

    @torch.no_grad()
    def predict(self, X: Tensor) -> Tensor:
        among = torch.tensor(self.seen, device=X.device)
        logits = [self.head(self.backbone.features(rows))[:, among] for rows in torch.split(X, 256)]
        return among[torch.cat(logits).argmax(1)]


def _accuracies(world: _World, learner: PromptContinualLearner | _FineTuned) -> Tensor:
    """Lets the learner learn all tasks; at [i, t] its accuracy on task i after task t."""
    accuracy = torch.zeros(len(world.tasks), len(world.tasks), dtype=torch.float64)
    for t, classes in enumerate(world.tasks):
        learner.fit_task(*_of_classes(world.train, classes))
        X, y = _of_classes(world.test, [label for task in world.tasks[: t + 1] for label in task])
        correct = learner.predict(X) == y
        for i, tested in enumerate(world.tasks[: t + 1]):
            accuracy[i, t] = correct[torch.isin(y, torch.tensor(tested, device=y.device))].double().mean()
    return accuracy


def _measured(name: str, accuracy: Tensor) -> dict[str, float | Sequence[float]]:
    metrics = continual_metrics(accuracy)
    return {
        f"final_{name}": metrics.final_average,
        f"cumulative_{name}": metrics.cumulative_average,
        f"forgetting_{name}": metrics.forgetting,
        f"course_{name}": [float(column[: t + 1].mean()) for t, column in enumerate(accuracy.T)],
    }


def gated_or_plain(settings: Tasks, rng: np.random.Generator) -> Measurements:
    """The same learner with the gates and without, and the share of images whose task they find."""
    world, seed = _world(settings, rng), int(rng.integers(2**31))
    measurements: dict[str, float | Sequence[float]] = {}
    gates: tuple[tuple[str, GateActivation | None], ...] = (("plain", None), ("gated", settings.gate))
    for name, gate in gates:
        learner = _learner(settings, world, gate, seed)
        measurements |= _measured(name, _accuracies(world, learner))
    # Tasks are found from features without prefixes, by both learners alike.
    X, y = world.test
    task_of_class = {label: task for task, classes in enumerate(world.tasks) for label in classes}
    tasks = torch.tensor([task_of_class[label] for label in y.tolist()], device=y.device)
    measurements["tasks_found"] = float((learner.predict_task(X) == tasks).double().mean())
    return measurements


def forgetting(settings: Tasks, rng: np.random.Generator) -> Measurements:
    """The gated learner beside fine-tuning on one task after the other, with either loss."""
    world, seed = _world(settings, rng), int(rng.integers(2**31))
    gated = _accuracies(world, _learner(settings, world, settings.gate, seed))
    measurements = _measured("gated", gated)
    for name, masked in (("fine_tuned", False), ("masked_fine_tuned", True)):
        fine_tuned = _FineTuned(settings, world, seed, masked=masked)
        measurements |= _measured(name, _accuracies(world, fine_tuned))
    return measurements


def parameters(settings: Tasks, rng: np.random.Generator) -> Measurements:
    """What is learnt besides the head, counted after two tasks."""
    untrained = replace(settings, pretraining_epochs=0, epochs=0, replay_epochs=0)
    world = _world(untrained, rng)
    learnt = {}
    for name, gate in (("plain", None), ("gated", settings.gate)):
        learner = _learner(untrained, world, gate, 0)
        for classes in world.tasks[:2]:
            learner.fit_task(*_of_classes(world.train, classes))
        tensors = [*learner.prompts_, *(learner.gates_.parameters() if learner.gates_ is not None else ())]
        learnt[name] = sum(tensor.numel() for tensor in tensors)
    prefix_numbers = len(settings.layers) * 2 * settings.prompt_length * settings.embed_dim
    return {
        "gate_parameters_a_layer": (learnt["gated"] - learnt["plain"]) / len(settings.layers),
        "plain_parameters_a_task": learnt["plain"] / 2,
        "plain_parameters_beyond_prefixes": float(learnt["plain"] - 2 * prefix_numbers),
    }


def attention_as_mixture(settings: Head, rng: np.random.Generator) -> Measurements:
    """A head as a mixture of experts against fused attention; how scores and experts grow with the input."""
    x = torch.from_numpy(rng.standard_normal((settings.tokens, settings.embed_dim)))
    query, key, value = torch.from_numpy(
        rng.standard_normal((3, settings.embed_dim, settings.head_dim)) / math.sqrt(settings.embed_dim)
    )
    prefixes = torch.from_numpy(rng.standard_normal((2, settings.prefixes, settings.embed_dim)))

    def mixture(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        head = attention_as_experts(x, query, key, value, prefix_key=prefixes[0], prefix_value=prefixes[1])
        return head.scores, head.experts, head.output

    scores, experts, output = mixture(x)
    larger_scores, larger_experts, _ = mixture(3 * x)
    fused = functional.scaled_dot_product_attention(
        (x @ query)[None],
        (torch.cat((x, prefixes[0])) @ key)[None],
        (torch.cat((x, prefixes[1])) @ value)[None],
    )

    def degree(larger: Tensor, smaller: Tensor) -> float:
        return float(torch.log(larger.norm() / smaller.norm())) / math.log(3)

    n = settings.tokens
    return {
        "difference": float((output - fused[0]).abs().max()),
        "degree_token_scores": degree(larger_scores[:, :n], scores[:, :n]),
        "degree_prefix_scores": degree(larger_scores[:, n:], scores[:, n:]),
        "degree_token_experts": degree(larger_experts[:n], experts[:n]),
        "degree_prefix_experts": degree(larger_experts[n:], experts[n:]),
    }


_DEFECT_GATES: dict[str, GateActivation | None] = {
    "linear": None,
    "identity": "identity",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "gelu": "gelu",
}


def gating_interaction(settings: GatedExpert, rng: np.random.Generator) -> Measurements:
    """How far gate and expert are from being interchangeable, for a gate of random direction and length 1."""
    X = rng.uniform(-settings.range, settings.range, (settings.samples, settings.inputs))
    beta = rng.standard_normal(settings.inputs)
    beta /= np.linalg.norm(beta)
    return {
        f"defect_{name}": interaction_defect(X, beta, activation=activation)
        for name, activation in _DEFECT_GATES.items()
    }


_COLOURS = ("tab:orange", "tab:grey", "tab:blue")


def _draw_courses(rows: Sequence[Measurements], labels: Mapping[str, str]) -> Figure:
    figure, axes = new_axes("tasks learnt", "mean accuracy on the tasks learnt")
    for (name, label), colour in zip(labels.items(), _COLOURS[-len(labels) :], strict=True):
        courses = curves(rows, f"course_{name}")
        tasks = np.arange(1, courses.shape[1] + 1)
        axes.plot(tasks, courses.T, color=colour, alpha=0.25, linewidth=1)
        axes.plot(tasks, np.median(courses, axis=0), "o-", color=colour, label=f"{label}, median")
    axes.set_xticks(tasks)
    axes.legend(frameon=False)
    return figure


def draw_gated_or_plain(rows: Sequence[Measurements]) -> Figure:
    return _draw_courses(rows, {"plain": "plain prefixes", "gated": "with gates"})


def draw_forgetting(rows: Sequence[Measurements]) -> Figure:
    labels = {"fine_tuned": "fine-tuning", "masked_fine_tuned": "with the task's classes only"}
    return _draw_courses(rows, labels | {"gated": "prefixes with gates"})


def draw_defects(rows: Sequence[Measurements]) -> Figure:
    figure, axes = new_axes("gate", "defect (smallest singular value)")
    dots(axes, {name: values(rows, f"defect_{name}") for name in _DEFECT_GATES})
    axes.set_yscale("log")
    return figure


_LARGER: dict[str, Any] = {"images": 1797, "embed_dim": 48, "depth": 4, "num_heads": 4, "layers": (0, 1, 2)}
_FULL: dict[str, Any] = {
    "gate": "sigmoid",
    "n_tasks": 10,
    "embed_dim": 768,
    "prompt_length": 5,
    "layers": (0, 1, 2, 3, 4),
    "epochs": 50,
    "batch_size": 128,
    "learning_rate": 0.015,
    "contrastive_weight": 0.1,
    "replay_per_class": 640,
    "timm_model": "vit_base_patch16_224.augreg_in21k",
    "device": "cuda",
}
_HEADLINE = Published("final average accuracy 94.48 against 92.61 %", "Split CIFAR-100, Sup-21K")


def _accuracy_experiment(
    name: str, circumstance: str, published: Published | None, full: dict[str, Any], **changes: Any
) -> Experiment:
    return Experiment(
        name=name,
        trial=gated_or_plain,
        scales={
            "quick": Tasks(**changes),
            "larger": Tasks(**_LARGER, **changes),
            "full": Tasks(**_FULL | changes | full),
        },
        claims=(
            Claim(
                "better_final_accuracy",
                "is more accurate at last, over all tasks, than the same procedure with plain prefixes, "
                f"{circumstance}",
                better("final_gated", than="final_plain", lower=False),
                published,
            ),
        ),
        figure=draw_gated_or_plain,
    )


STUDY = Study(
    slug="norga",
    experiments=(
        Experiment(
            name="attention_as_mixture",
            trial=attention_as_mixture,
            scales={
                "quick": Head(),
                "full": Head(tokens=197, prefixes=20, embed_dim=768, head_dim=64),
            },
            claims=(
                Claim(
                    "attention_is_moe",
                    "is an exact reading: an attention head with prefixes computes a mixture of experts",
                    near("difference", 0, 1e-9),
                ),
                Claim(
                    "tokens_are_linear_experts",
                    "finds tokens to be experts linear in the input, with quadratic gating scores",
                    all_of(near("degree_token_experts", 1, 1e-9), near("degree_token_scores", 2, 1e-9)),
                ),
                Claim(
                    "prefixes_are_constant_experts",
                    "finds prefixes to be added experts constant in the input, with linear gating scores",
                    all_of(near("degree_prefix_experts", 0, 1e-9), near("degree_prefix_scores", 1, 1e-9)),
                ),
            ),
        ),
        Experiment(
            name="gating_interaction",
            trial=gating_interaction,
            scales={"quick": GatedExpert(), "larger": GatedExpert(inputs=10, samples=100_000)},
            claims=(
                Claim(
                    "linear_gate_interacts",
                    "shows that with a linear gate errors of gate and expert make up for one another exactly",
                    all_of(at_most("defect_linear", 1e-10), at_most("defect_identity", 1e-10)),
                    Published("rates down to 1/log^t n", "least squares with linear gate and expert"),
                ),
                Claim(
                    "nonlinear_gate_does_not",
                    "breaks that interaction with a tanh or a sigmoid and the residual",
                    all_of(at_least("defect_tanh", 1e-3), at_least("defect_sigmoid", 1e-3)),
                    Published("rates n^-1/2, n^-1/4 over-specified", "non-linear residual gate"),
                ),
            ),
            figure=draw_defects,
        ),
        _accuracy_experiment(
            "gaussian_task_inference",
            "the task found by class Gaussians",
            _HEADLINE,
            {},
        ),
        _accuracy_experiment(
            "replay_task_inference",
            "the task found by a replayed network, as in the official code",
            _HEADLINE,
            {},
            task_inference="replay",
        ),
        _accuracy_experiment(
            "unlabelled_pretraining",
            "also on a backbone pretrained without labels",
            None,
            {"timm_model": "vit_base_patch16_224.dino"},
            pretraining="rotations",
        ),
        Experiment(
            name="forgetting",
            trial=forgetting,
            scales={"quick": Tasks(), "larger": Tasks(**_LARGER), "full": Tasks(**_FULL)},
            claims=(
                Claim(
                    "small_forgetting",
                    "forgets little without keeping images: 0.15 of accuracy at most",
                    at_most("forgetting_gated", 0.15),
                ),
                Claim(
                    "forgets_less_than_fine_tuning",
                    "forgets less by 0.2 of accuracy than fine-tuning the head and the last block",
                    better("forgetting_gated", than="forgetting_fine_tuned", lower=True, by=0.2),
                ),
                Claim(
                    "forgets_less_than_masked_fine_tuning",
                    "forgets less than such fine-tuning does when its loss, too, leaves out the other tasks' "
                    "classes",
                    better("forgetting_gated", than="forgetting_masked_fine_tuned", lower=True),
                ),
            ),
            figure=draw_forgetting,
        ),
        Experiment(
            name="parameters",
            trial=parameters,
            scales={"quick": Tasks(), "larger": Tasks(**_LARGER)},
            claims=(
                Claim(
                    "parameter_efficiency",
                    "adds two numbers for each layer with prefixes, for all tasks together",
                    all_of(
                        near("gate_parameters_a_layer", 2, 0),
                        near("plain_parameters_beyond_prefixes", 0, 0),
                    ),
                ),
            ),
            deterministic=True,
        ),
    ),
)
