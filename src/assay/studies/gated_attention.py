"""Gated attention put to the test: small language models, and a task where a head must keep silent.

The language models read bytes: of CPython's own help topics unless `text_file` names another text. Every
variant starts from the same weights, sees the same batches and has the baseline's number of parameters. The
scale "gpu" trains a decoder of 12 layers on one accelerator, on a text that the user supplies; it has not
been run here, and the paper's own models (1.7 to 15 billion parameters, 0.4 to 3.5 trillion tokens) are
beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
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
    at_most,
    better,
    figures,
)
from assay.gating.gated_attention import GatedAttention, GatedDecoder, matched_ffn_dim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BASELINE = {"gate": "none"}
_GATED = {"gate": "sdpa"}


@dataclass(frozen=True)
class LanguageModel:
    """A decoder, the text it reads and how it is trained; sizes of the model are the baseline's."""

    embed_dim: int = 48
    depth: int = 2
    num_heads: int = 4
    ffn_dim: int = 128
    context: int = 48
    batch_size: int = 12
    steps: int = 250
    warmup_steps: int = 30
    learning_rate: float = 1e-2
    weight_decay: float = 0.1
    held_out_windows: int = 128
    text_file: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class RaisedLearningRate(LanguageModel):
    raised_learning_rate: float = 3e-2


@dataclass(frozen=True)
class Growth(LanguageModel):
    """The smaller model is the inherited one; the larger one has these sizes."""

    large_embed_dim: int = 64
    large_depth: int = 4
    large_ffn_dim: int = 170


@dataclass(frozen=True)
class LongContext(LanguageModel):
    long_context: int = 192
    segments: int = 8


@dataclass(frozen=True)
class Additivity:
    embed_dim: int = 48
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 12
    pairs: int = 64


@dataclass(frozen=True)
class Recall:
    """Answer a query for an earlier key with its value, or stay silent."""

    tokens: int = 16
    value_dim: int = 6
    query_probability: float = 0.25
    head_dim: int = 32
    batch_size: int = 64
    steps: int = 400
    learning_rate: float = 1e-2
    test_sequences: int = 512


@lru_cache(maxsize=1)
def _corpus(text_file: str) -> tuple[Tensor, Tensor, int]:
    """Training text, held-out text (the last tenth) and the number of distinct bytes."""
    if text_file:
        text = Path(text_file).read_bytes()
    else:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics)).encode()
    alphabet, tokens = np.unique(np.frombuffer(text, dtype=np.uint8), return_inverse=True)
    train, held_out = torch.from_numpy(tokens.astype(np.int64)).tensor_split([len(tokens) * 9 // 10])
    return train, held_out, len(alphabet)


@dataclass(frozen=True)
class _Course:
    """What all models of one trial share: the seed of their weights, and where each batch's windows start."""

    seed: int
    starts: Tensor


def _course(settings: LanguageModel, rng: np.random.Generator) -> _Course:
    train, _, _ = _corpus(settings.text_file)
    seed = int(rng.integers(2**63))
    starts = rng.integers(len(train) - settings.context, size=(settings.steps, settings.batch_size))
    return _Course(seed, torch.from_numpy(starts))


def _decoder(settings: LanguageModel, seed: int, attention: Mapping[str, Any]) -> GatedDecoder:
    """An untrained decoder of the baseline's size, with the baseline's weights wherever it has them."""
    _, _, vocab_size = _corpus(settings.text_file)

    def build(attention: Mapping[str, Any], ffn_dim: int) -> GatedDecoder:
        torch.manual_seed(seed)
        return GatedDecoder(
            vocab_size,
            settings.embed_dim,
            settings.depth,
            settings.num_heads,
            ffn_dim,
            attention=attention,
        )

    def attention_parameters(attention: Mapping[str, Any]) -> int:
        layer = GatedAttention(settings.embed_dim, settings.num_heads, **attention)
        return sum(parameter.numel() for parameter in layer.parameters())

    baseline = build(_BASELINE, settings.ffn_dim)
    extra = attention_parameters(attention) - attention_parameters(_BASELINE)
    model = build(attention, matched_ffn_dim(settings.embed_dim, settings.ffn_dim, extra))
    shared = dict(baseline.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in shared:
                parameter.copy_(shared[name][tuple(slice(size) for size in parameter.shape)])
    return model


def _trained(settings: LanguageModel, course: _Course, attention: Mapping[str, Any]) -> GatedDecoder:
    train, _, _ = _corpus(settings.text_file)
    model = _decoder(settings, course.seed, attention).to(settings.device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
        fused=True,
    )

    def warm_up_then_cosine(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        progress = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_then_cosine)
    windows = train.unfold(0, settings.context + 1, 1)
    for starts in course.starts:
        batch = windows[starts].to(settings.device)
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def _held_out_losses(settings: LanguageModel, model: GatedDecoder, context: int) -> Tensor:
    """The mean loss in nats at each position of a window of held-out text, (context,)."""
    _, held_out, _ = _corpus(settings.text_file)
    starts = torch.linspace(0, len(held_out) - context - 1, settings.held_out_windows).long()
    windows = held_out.unfold(0, context + 1, 1)[starts].to(settings.device)
    losses = functional.cross_entropy(model(windows[:, :-1]).mT, windows[:, 1:], reduction="none")
    return losses.mean(0).cpu()


def _loss(settings: LanguageModel, course: _Course, attention: Mapping[str, Any]) -> float:
    model = _trained(settings, course, attention)
    return float(_held_out_losses(settings, model, settings.context).mean())


def _compare(
    settings: LanguageModel, rng: np.random.Generator, variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    course = _course(settings, rng)
    return {f"loss_{name}": _loss(settings, course, attention) for name, attention in variants.items()}


def gated_or_not(settings: LanguageModel, rng: np.random.Generator) -> Measurements:
    """Held-out losses with the gate after attention and without one."""
    return _compare(settings, rng, {"baseline": _BASELINE, "gated": _GATED})


def raised_learning_rate(settings: RaisedLearningRate, rng: np.random.Generator) -> Measurements:
    """Both models at two learning rates: each one's best loss, and what raising the rate costs it."""
    course = _course(settings, rng)
    raised = replace(settings, learning_rate=settings.raised_learning_rate)
    measurements: dict[str, float] = {}
    for name, attention in (("baseline", _BASELINE), ("gated", _GATED)):
        loss, raised_loss = _loss(settings, course, attention), _loss(raised, course, attention)
        measurements |= {
            f"loss_{name}": loss,
            f"raised_loss_{name}": raised_loss,
            f"best_loss_{name}": min(loss, raised_loss),
            f"cost_{name}": raised_loss - loss,
        }
    return measurements


_POSITIONS = ("sdpa", "value", "key", "query", "output")


def positions(settings: LanguageModel, rng: np.random.Generator) -> Measurements:
    """Held-out losses with the gate at each of the five positions."""
    return _compare(settings, rng, {gate: {"gate": gate} for gate in _POSITIONS})


_NONLINEARITIES: dict[str, dict[str, Any]] = {
    "rmsnorm": {"gate": "none", "nonlinearity": "rmsnorm"},
    "silu": {"gate": "none", "nonlinearity": "silu"},
    "additive_silu": {"gate": "sdpa", "additive": True, "activation": "silu"},
}


def other_nonlinearities(settings: LanguageModel, rng: np.random.Generator) -> Measurements:
    """Held-out losses with other non-linear maps between the value and the output projection."""
    return _compare(settings, rng, {"baseline": _BASELINE, **_NONLINEARITIES})


def growth(settings: Growth, rng: np.random.Generator) -> Measurements:
    """What the gate gains in a smaller and in a larger model."""
    large = replace(
        settings,
        embed_dim=settings.large_embed_dim,
        depth=settings.large_depth,
        ffn_dim=settings.large_ffn_dim,
    )
    course = _course(settings, rng)
    measurements: dict[str, float] = {}
    for size, sized in (("small", settings), ("large", large)):
        baseline, gated = _loss(sized, course, _BASELINE), _loss(sized, course, _GATED)
        measurements |= {
            f"loss_baseline_{size}": baseline,
            f"loss_gated_{size}": gated,
            f"gain_{size}": baseline - gated,
        }
    measurements["gain_growth"] = measurements["gain_large"] - measurements["gain_small"]
    return measurements


def long_context(settings: LongContext, rng: np.random.Generator) -> Measurements:
    """Held-out losses at positions beyond those of training, rotary embedding as it is (no YaRN)."""
    course = _course(settings, rng)
    segments = torch.arange(settings.long_context).tensor_split(settings.segments)
    measurements: dict[str, float | Sequence[float]] = {
        "trained_positions": float(settings.context),
        "positions": [float(segment.double().mean()) for segment in segments],
    }
    for name, attention in (("baseline", _BASELINE), ("gated", _GATED)):
        losses = _held_out_losses(settings, _trained(settings, course, attention), settings.long_context)
        measurements[f"loss_beyond_{name}"] = float(losses[settings.context :].mean())
        measurements[f"losses_{name}"] = [float(losses[segment].mean()) for segment in segments]
    return measurements


def additivity(settings: Additivity, rng: np.random.Generator) -> Measurements:
    """How far layers with random weights are from f(a + b) = f(a) + f(b) on sequences of one token."""
    torch.manual_seed(int(rng.integers(2**63)))
    a, b = torch.randn(2, settings.pairs, 1, settings.embed_dim, dtype=torch.float64)
    variants = {
        "baseline": _BASELINE,
        "sdpa": _GATED,
        "value": {"gate": "value"},
        "rmsnorm": _NONLINEARITIES["rmsnorm"],
        "silu": _NONLINEARITIES["silu"],
    }
    measurements = {}
    for name, attention in variants.items():
        layer = GatedAttention(
            settings.embed_dim,
            settings.num_heads,
            num_kv_heads=settings.num_kv_heads,
            head_dim=settings.head_dim,
            **attention,
        ).double()
        with torch.no_grad():
            defect = layer(a + b) - layer(a) - layer(b)
        measurements[f"defect_{name}"] = float(defect.abs().max())
    return measurements


@dataclass(frozen=True)
class _RecallBatch:
    x: Tensor
    """(B, T, features): the token's key, its value, the key it asks for, whether it asks, whether it is the
    null token."""
    target: Tensor
    """(B, T, value_dim): the value asked for, zero where nothing is asked."""
    answering: Tensor
    silent: Tensor


def _recall_batch(settings: Recall, size: int, *, null_token: bool) -> _RecallBatch:
    tokens = settings.tokens
    keys = torch.rand(size, tokens).argsort(dim=1)
    values = torch.randint(2, (size, tokens, settings.value_dim)) * 2.0 - 1.0
    asks = torch.rand(size, tokens) < settings.query_probability
    asks[:, 0] = False
    asked = (torch.rand(size, tokens) * torch.arange(tokens)).long()
    queries = functional.one_hot(keys.gather(1, asked), tokens) * asks[..., None]
    target = values.gather(1, asked[..., None].expand_as(values)) * asks[..., None]
    x = torch.cat(
        (functional.one_hot(keys, tokens), values, queries, asks[..., None], torch.zeros(size, tokens, 1)),
        dim=-1,
    )
    silent = ~asks
    if null_token:
        x, target = functional.pad(x, (0, 0, 1, 0)), functional.pad(target, (0, 0, 1, 0))
        x[:, 0, -1] = 1
        asks, silent = functional.pad(asks, (1, 0)), functional.pad(silent, (1, 0))
    return _RecallBatch(x, target, answering=asks, silent=silent)


def _recall_layers(
    settings: Recall,
    rng: np.random.Generator,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    null_token: bool,
) -> tuple[dict[str, GatedAttention], _RecallBatch]:
    """One attention layer for each variant, all trained on the same batches, and a batch to test them on."""
    seed = int(rng.integers(2**63))
    layers = {}
    for name, attention in variants.items():
        torch.manual_seed(seed)
        features = 2 * settings.tokens + settings.value_dim + 2
        layers[name] = GatedAttention(features, 1, head_dim=settings.head_dim, **attention)
    # AdamW treats each parameter by itself, so one optimiser trains all layers apart.
    optimizer = torch.optim.AdamW(nn.ModuleList(layers.values()).parameters(), lr=settings.learning_rate)
    for _ in range(settings.steps):
        batch = _recall_batch(settings, settings.batch_size, null_token=null_token)
        errors = [_squared_errors(layer(batch.x), batch).mean() for layer in layers.values()]
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(errors).sum())
        optimizer.step()
    return layers, _recall_batch(settings, settings.test_sequences, null_token=null_token)


def _squared_errors(output: Tensor, batch: _RecallBatch) -> Tensor:
    """(B, T): the answer is read from the first elements of the layer's output."""
    return (output[..., : batch.target.shape[-1]] - batch.target).square().mean(-1)


_GATES: dict[str, dict[str, Any]] = {
    "ungated": _BASELINE,
    "elementwise": _GATED,
    "headwise": {"gate": "sdpa", "granularity": "headwise"},
    "value": {"gate": "value"},
    "input_independent": {"gate": "sdpa", "query_dependent": False},
}


def answer_or_stay_silent(settings: Recall, rng: np.random.Generator) -> Measurements:
    """Test errors of each gate with no token to park attention on, and the headwise gate's scores."""
    layers, batch = _recall_layers(settings, rng, _GATES, null_token=False)
    measurements = {}
    with torch.no_grad():
        for name, layer in layers.items():
            measurements[f"error_{name}"] = float(_squared_errors(layer(batch.x), batch).mean())
        gate = layers["headwise"].record(batch.x).gate
    assert gate is not None
    scores = gate[..., 0, 0]
    measurements["gate_silent"] = float(scores[batch.silent].mean())
    measurements["gate_answering"] = float(scores[batch.answering].mean())
    return measurements


_NULL_TOKEN_GATES = {name: _GATES[name] for name in ("ungated", "elementwise", "headwise", "value")}


def null_token(settings: Recall, rng: np.random.Generator) -> Measurements:
    """With a first token that says nothing: how much attention silent tokens pay it, and their error when it
    is masked after training."""
    layers, batch = _recall_layers(settings, rng, _NULL_TOKEN_GATES, null_token=True)
    tokens = settings.tokens + 1
    without_null = torch.ones(tokens, tokens, dtype=torch.bool)
    without_null[1:, 0] = False
    measurements = {}
    with torch.no_grad():
        for name, layer in layers.items():
            weights = layer.record(batch.x).weights[:, 0, :, 0]
            measurements[f"first_token_attention_{name}"] = float(weights[batch.silent].mean())
            masked = _squared_errors(layer(batch.x, without_null), batch)
            measurements[f"masked_error_{name}"] = float(masked[batch.silent].mean())
    return measurements


def _gains(rows: Sequence[Measurements], pairs: Mapping[str, tuple[str, str]], against: str) -> Figure:
    figure, axes = figures.axes("", f"gain on {against} (nats per byte)")
    figures.dots(
        axes,
        {
            label: [
                a - b for a, b in zip(figures.values(rows, than), figures.values(rows, name), strict=True)
            ]
            for label, (name, than) in pairs.items()
        },
    )
    axes.axhline(0, color="grey", linewidth=0.8)
    return figure


def draw_gain(rows: Sequence[Measurements]) -> Figure:
    return _gains(rows, {"gate after attention": ("loss_gated", "loss_baseline")}, "the baseline")


def draw_learning_rates(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "held-out loss (nats per byte)")
    figures.dots(
        axes,
        {
            f"{label},\n{rate}": figures.values(rows, f"{prefix}loss_{name}")
            for name, label in (("baseline", "no gate"), ("gated", "gated"))
            for prefix, rate in (("", "lower rate"), ("raised_", "raised rate"))
        },
    )
    return figure


def draw_positions(rows: Sequence[Measurements]) -> Figure:
    pairs = {gate: (f"loss_{gate}", "loss_output") for gate in _POSITIONS[:-1]}
    return _gains(rows, pairs, "a gate on the output")


def draw_other_nonlinearities(rows: Sequence[Measurements]) -> Figure:
    pairs = {name: (f"loss_{name}", "loss_baseline") for name in _NONLINEARITIES}
    return _gains(rows, pairs, "the baseline")


def draw_growth(rows: Sequence[Measurements]) -> Figure:
    pairs = {f"{size} model": (f"loss_gated_{size}", f"loss_baseline_{size}") for size in ("small", "large")}
    return _gains(rows, pairs, "the baseline")


def draw_long_context(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("position in the window (bytes)", "held-out loss (nats per byte)")
    positions = figures.curves(rows, "positions")[0]
    for name, label, colour in (("baseline", "no gate", "tab:grey"), ("gated", "gated", "tab:blue")):
        losses = figures.curves(rows, f"losses_{name}")
        axes.plot(positions, losses.T, color=colour, alpha=0.25, linewidth=1)
        axes.plot(positions, np.median(losses, axis=0), "o-", color=colour, label=f"{label}, median")
    axes.axvline(
        figures.values(rows, "trained_positions")[0],
        color="black",
        linestyle=":",
        label="end of training's window",
    )
    axes.legend(frameon=False)
    return figure


def draw_answer_or_stay_silent(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("gate", "mean squared error")
    figures.dots(axes, {name: figures.values(rows, f"error_{name}") for name in _GATES})
    axes.set_yscale("log")
    return figure


def draw_null_token(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("gate", "silent tokens' squared error, first token masked")
    figures.dots(axes, {name: figures.values(rows, f"masked_error_{name}") for name in _NULL_TOKEN_GATES})
    axes.set_ylim(bottom=0)
    return figure


# The sizes at which experiments with more than two models run.
_SHORT: dict[str, Any] = {"batch_size": 8, "steps": 150}
_LARGER: dict[str, Any] = {
    "embed_dim": 64,
    "depth": 3,
    "ffn_dim": 170,
    "context": 64,
    "batch_size": 16,
    "steps": 400,
}
_GPU: dict[str, Any] = {
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "ffn_dim": 2048,
    "context": 1024,
    "batch_size": 32,
    "steps": 20_000,
    "warmup_steps": 1000,
    "text_file": "corpus.txt",
    "device": "cuda",
}
_MOE = "15B mixture of experts, 400B tokens"
_PUBLISHED_LOSS = Published("average perplexity 6.026 without, 5.761 with the gate", _MOE)


def _gain_experiment(level: str, learning_rate: float, gpu_learning_rate: float) -> Experiment:
    return Experiment(
        name=f"{level}_learning_rate",
        trial=gated_or_not,
        scales={
            "quick": LanguageModel(learning_rate=learning_rate),
            "larger": LanguageModel(**_LARGER, learning_rate=learning_rate),
            "gpu": LanguageModel(**_GPU, learning_rate=gpu_learning_rate),
        },
        claims=(
            Claim(
                "better_loss",
                f"lowers the loss of a language model of equal size, here at a {level} learning rate",
                better("loss_gated", than="loss_baseline", lower=True),
                _PUBLISHED_LOSS,
            ),
        ),
        figure=draw_gain,
    )


STUDY = Study(
    slug="gated_attention",
    experiments=(
        _gain_experiment("low", 3e-3, 1e-3),
        _gain_experiment("middle", 1e-2, 2e-3),
        _gain_experiment("high", 3e-2, 4e-3),
        Experiment(
            name="raised_learning_rate",
            trial=raised_learning_rate,
            scales={
                "quick": RaisedLearningRate(**_SHORT),
                "larger": RaisedLearningRate(**_LARGER),
                "gpu": RaisedLearningRate(**_GPU, learning_rate=4e-3, raised_learning_rate=8e-3),
            },
            claims=(
                Claim(
                    "better_loss",
                    "lowers the loss of a language model of equal size, each at the better of two rates",
                    better("best_loss_gated", than="best_loss_baseline", lower=True),
                    _PUBLISHED_LOSS,
                ),
                Claim(
                    "larger_learning_rate",
                    "tolerates a larger learning rate: raising it costs less loss than it costs the baseline",
                    better("cost_gated", than="cost_baseline", lower=True, by=0.01),
                    Published(
                        "perplexity 7.288 to 7.325 with the gate, 7.421 to 9.195 without",
                        "dense 1.7B, 48 layers, learning rate 4e-3 to 8e-3",
                    ),
                ),
            ),
            figure=draw_learning_rates,
        ),
        Experiment(
            name="position_ranking",
            trial=positions,
            scales={
                "quick": LanguageModel(batch_size=8, steps=120),
                "larger": LanguageModel(**_LARGER),
                "gpu": LanguageModel(**_GPU, learning_rate=2e-3),
            },
            claims=tuple(
                Claim(
                    f"{gate}_beats_{other}",
                    f"works better {where} than {elsewhere}",
                    better(f"loss_{gate}", than=f"loss_{other}", lower=True),
                    Published(f"average perplexity {perplexity} against {other_perplexity}", _MOE),
                )
                for gate, where, perplexity in (
                    ("sdpa", "after attention", "5.761"),
                    ("value", "on the values", "5.820"),
                )
                for other, elsewhere, other_perplexity in (
                    ("key", "on the keys", "6.016"),
                    ("query", "on the queries", "5.981"),
                    ("output", "on the layer's output", "6.017"),
                )
            ),
            figure=draw_positions,
        ),
        Experiment(
            name="additivity",
            trial=additivity,
            scales={
                "quick": Additivity(),
                "full": Additivity(embed_dim=2048, num_heads=32, head_dim=128),
            },
            claims=(
                Claim(
                    "nonlinearity",
                    "makes the map of one token through the value and output projections non-linear, "
                    "as a gate on the values, RMSNorm and SiLU also do, and as attention alone does not",
                    all_of(
                        at_most("defect_baseline", 1e-9),
                        *(at_least(f"defect_{name}", 1e-3) for name in ("sdpa", "value", "rmsnorm", "silu")),
                    ),
                ),
            ),
        ),
        Experiment(
            name="other_nonlinearities",
            trial=other_nonlinearities,
            scales={
                "quick": LanguageModel(**_SHORT),
                "larger": LanguageModel(**_LARGER),
                "gpu": LanguageModel(**_GPU, learning_rate=2e-3),
            },
            claims=tuple(
                Claim(
                    f"{name}_gains",
                    f"owes part of its gain to non-linearity, so that {what} also lowers the loss",
                    better(f"loss_{name}", than="loss_baseline", lower=True),
                    Published(f"average perplexity {perplexity} against 6.026 of the baseline", _MOE),
                )
                for name, what, perplexity in (
                    ("rmsnorm", "RMSNorm on each head's output alone", 5.847),
                    ("silu", "SiLU on each head's output alone", 5.975),
                    ("additive_silu", "adding SiLU scores in place of multiplying by a sigmoid's", 5.821),
                )
            ),
            figure=draw_other_nonlinearities,
        ),
        Experiment(
            name="growth",
            trial=growth,
            scales={
                "quick": Growth(embed_dim=32, depth=1, ffn_dim=85, batch_size=8, steps=120),
                "larger": Growth(embed_dim=32, depth=1, ffn_dim=85),
                "gpu": Growth(
                    **_GPU | {"embed_dim": 384, "depth": 6, "ffn_dim": 1024},
                    learning_rate=2e-3,
                    large_embed_dim=768,
                    large_depth=12,
                    large_ffn_dim=2048,
                ),
            },
            claims=(
                *(
                    Claim(
                        f"gains_when_{size}",
                        f"lowers the loss of the {comparative} of two models",
                        better(f"loss_gated_{size}", than=f"loss_baseline_{size}", lower=True),
                        Published(f"perplexity {perplexities}", where),
                    )
                    for size, comparative, perplexities, where in (
                        ("small", "smaller", "7.421 without, 7.288 with the gate", "dense 1.7B, 48 layers"),
                        ("large", "larger", "6.026 without, 5.761 with the gate", _MOE),
                    )
                ),
                Claim(
                    "gain_survives_growth",
                    "gains as much in the larger of two models as in the smaller, to 0.01 nats per byte",
                    at_least("gain_growth", -0.01),
                ),
            ),
            figure=draw_growth,
        ),
        Experiment(
            name="long_context",
            trial=long_context,
            scales={
                "quick": LongContext(),
                "larger": LongContext(**_LARGER, long_context=256),
                "gpu": LongContext(**_GPU, learning_rate=2e-3, long_context=4096),
            },
            claims=(
                Claim(
                    "long_context",
                    "predicts better at positions beyond those of training",
                    better("loss_beyond_gated", than="loss_beyond_baseline", lower=True),
                    Published(
                        "RULER at 128k 58.82 with the gate, 31.65 without",
                        "1.7B, extended from 32k with YaRN",
                    ),
                ),
            ),
            figure=draw_long_context,
        ),
        Experiment(
            name="answer_or_stay_silent",
            trial=answer_or_stay_silent,
            scales={"quick": Recall(), "larger": Recall(tokens=32, batch_size=128, steps=2000)},
            claims=(
                Claim(
                    "gate_lets_a_head_be_silent",
                    "lets a head say nothing, which attention alone cannot: a tenth of its error or less",
                    better("error_elementwise", than="error_ungated", lower=True, factor=10),
                ),
                Claim(
                    "gate_must_see_the_query",
                    "works because the gate sees the query: one on the values, and one that is the same for "
                    "all tokens, leave at least 0.8 of the error",
                    all_of(
                        *(
                            better(f"error_{name}", than="error_ungated", lower=False, factor=0.8)
                            for name in ("value", "input_independent")
                        )
                    ),
                    Published("average perplexity 5.820 and 5.917 against 5.761", _MOE),
                ),
                Claim(
                    "gate_closes_when_silent",
                    "closes a head's gate where it has nothing to say: its mean score there is less than "
                    "half of that where the head answers",
                    better("gate_silent", than="gate_answering", lower=True, factor=2),
                    Published("mean gate score 0.172 of a headwise gate", _MOE),
                ),
            ),
            figure=draw_answer_or_stay_silent,
        ),
        Experiment(
            name="null_token",
            trial=null_token,
            scales={"quick": Recall(), "larger": Recall(tokens=32, batch_size=128, steps=2000)},
            claims=(
                Claim(
                    "sink_not_needed",
                    "needs no token to park attention on: once that token is masked, silent tokens err less "
                    "than they do without a gate",
                    better("masked_error_elementwise", than="masked_error_ungated", lower=True, by=0.05),
                ),
                Claim(
                    "no_sink",
                    "at least halves the attention that the first token gets",
                    better(
                        "first_token_attention_elementwise",
                        than="first_token_attention_ungated",
                        lower=True,
                        factor=2,
                    ),
                    Published("first-token attention 0.467 without, 0.048 with the gate", _MOE),
                ),
            ),
            figure=draw_null_token,
        ),
    ),
)
