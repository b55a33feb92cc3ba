"""Prefix tuning as a mixture of experts, with non-linear residual gates, for continual learning.

Paper: Minh Le, An Nguyen, Huy Nguyen, Trang Nguyen, Trang Pham, Linh Van Ngo and Nhat Ho, "Mixture of Experts
Meets Prompt-Based Continual Learning", 2024, arXiv 2405.14124.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from torch import Tensor, nn
from torch.nn import functional

GateActivation = Literal["tanh", "sigmoid", "gelu", "relu", "softplus", "elu", "identity"]
TaskInference = Literal["gaussian", "replay"]

_ACTIVATIONS: dict[GateActivation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "relu": functional.relu,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "identity": lambda scores: scores,
}

_MAX_GRADIENT_NORM = 1.0
_COVARIANCE_RIDGE = 1e-4
_REPLAY_MOMENTUM = 0.9
_REPLAY_WEIGHT_DECAY = 5e-4
_INFERENCE_BATCH_SIZE = 256
_BLOCK_TOLERANCE = 1e-2
_TIMM_ATTRIBUTES = ("patch_embed", "_pos_embed", "blocks", "norm", "forward_head", "embed_dim")
_TORCHVISION_ATTRIBUTES = ("_process_input", "class_token", "encoder", "hidden_dim")


class NonlinearResidualGate(nn.Module):
    """The gate NoRGa puts on prefix scores: ``s + alpha act(tau s)`` (Le et al., 2024, arXiv 2405.14124).

    Arguments:
        activation: act; "identity" makes the gate linear, ``(1 + alpha tau) s``.
        inner_scale: initial value of the parameter `inner_scale`, tau.
        outer_scale: initial value of the parameter `outer_scale`, alpha.

    Raises ValueError for an unknown activation.

    >>> gate = NonlinearResidualGate("tanh")
    >>> round(gate(torch.tensor(0.5)).item(), 4)
    0.9621
    """

    def __init__(
        self, activation: GateActivation = "tanh", *, inner_scale: float = 1.0, outer_scale: float = 1.0
    ) -> None:
        super().__init__()
        _check_choice("activation", activation, get_args(GateActivation))
        self.activation = activation
        self.inner_scale = nn.Parameter(torch.tensor(float(inner_scale)))
        self.outer_scale = nn.Parameter(torch.tensor(float(outer_scale)))

    def extra_repr(self) -> str:
        return repr(self.activation)

    def forward(self, scores: Tensor) -> Tensor:
        """The gated scores, in the shape of `scores`, which are attention's after division by sqrt(dv)."""
        return scores + self.outer_scale * _ACTIVATIONS[self.activation](self.inner_scale * scores)


@dataclass(frozen=True)
class AttentionExperts:
    """An attention head read as a mixture of experts: N tokens first, then L prefixes.

    `scores` (N, N + L) are the gating scores before softmax and `gates` (N, N + L) after it, `experts`
    (N + L, dv) the experts' outputs, which all output tokens share, and `output` (N, dv) is
    ``gates @ experts``, the head's output.
    """

    scores: Tensor
    gates: Tensor
    experts: Tensor
    output: Tensor


def attention_as_experts(
    x: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    *,
    prefix_key: Tensor | None = None,
    prefix_value: Tensor | None = None,
    gate: nn.Module | None = None,
) -> AttentionExperts:
    """Reads one attention head as a mixture of experts (Le et al., 2024, arXiv 2405.14124).

    Token j is the expert ``W_v^T x_j``, linear in the input, with the score
    ``x_i^T W_q W_k^T x_j / sqrt(dv)`` for output token i, quadratic in the input. A prefix adds the expert
    ``W_v^T p^V``, a constant, with the score ``x_i^T W_q W_k^T p^K / sqrt(dv)``, linear in the input.

    Arguments:
        x: (N, D) tokens.
        query_weight, key_weight, value_weight: (D, dv).
        prefix_key, prefix_value: (L, D), both or neither, in the tokens' space: they pass through key_weight
            and value_weight. (`PrefixAttention` takes prefixes that have already passed.)
        gate: applied to the prefixes' scores, e.g. a `NonlinearResidualGate`.

    Raises ValueError for shapes that do not match and for one prefix without the other.

    >>> x, weight = torch.eye(2), torch.eye(2)
    >>> head = attention_as_experts(x, weight, weight, weight, prefix_key=x[:1], prefix_value=x[:1])
    >>> head.gates.shape, head.experts.shape, head.output.shape
    (torch.Size([2, 3]), torch.Size([3, 2]), torch.Size([2, 2]))
    """
    if x.ndim != 2:
        raise ValueError(f"x must have shape (N, D), got {tuple(x.shape)}")
    for name, weight in (
        ("query_weight", query_weight),
        ("key_weight", key_weight),
        ("value_weight", value_weight),
    ):
        if weight.ndim != 2 or weight.shape != (x.shape[1], query_weight.shape[-1]):
            raise ValueError(
                f"{name} must have shape (D, dv) with D = {x.shape[1]} as in x and query_weight's dv, "
                f"got {tuple(weight.shape)}"
            )
    _check_prefixes(prefix_key, prefix_value, x.shape[1])
    query, scale = x @ query_weight, 1 / math.sqrt(query_weight.shape[1])
    scores = query @ (x @ key_weight).mT * scale
    experts = x @ value_weight
    if prefix_key is not None and prefix_value is not None:
        prefix_scores = query @ (prefix_key @ key_weight).mT * scale
        scores = torch.cat((scores, prefix_scores if gate is None else gate(prefix_scores)), dim=1)
        experts = torch.cat((experts, prefix_value @ value_weight))
    gates = scores.softmax(-1)
    return AttentionExperts(scores, gates, experts, gates @ experts)


class PrefixAttention(nn.Module):
    """Multi-head self-attention with prefixes, whose scores can pass through a gate.

    Prefix tuning gives every head extra keys and values; NoRGa (Le et al., 2024, arXiv 2405.14124) replaces
    their scores s by ``s + alpha act(tau s)``, before one softmax over prefixes and tokens together.

    Arguments:
        embed_dim: D, width of the input, the output and the prefixes.
        num_heads: number of heads, a divisor of D.
        qkv_bias: whether the query, key and value projection has a bias.

    The submodules `qkv` (D to 3 D: queries, keys, values) and `proj` are named and laid out as in timm.

    Raises ValueError if num_heads does not divide embed_dim.

    >>> _ = torch.manual_seed(0)
    >>> attention = PrefixAttention(embed_dim=8, num_heads=2)
    >>> x, prefix_key, prefix_value = torch.randn(4, 6, 8), torch.randn(3, 8), torch.randn(3, 8)
    >>> gate = NonlinearResidualGate("tanh")
    >>> attention(x, prefix_key, prefix_value, gate).shape
    torch.Size([4, 6, 8])
    >>> attention.attention_weights(x, prefix_key, prefix_value, gate).shape
    torch.Size([4, 2, 6, 9])
    """

    def __init__(self, embed_dim: int, num_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads must divide {embed_dim=}, got {num_heads}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)

    @classmethod
    def sharing(cls, attention: nn.Module) -> PrefixAttention:
        """A layer that computes with the weights of another: timm's `Attention` or `nn.MultiheadAttention`.

        The parameters are the same objects, so that training or moving one moves the other. Raises ValueError
        for a module with neither's attributes.
        """
        if isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None:
            has_bias = attention.in_proj_bias is not None
            qkv = nn.Linear(attention.embed_dim, 3 * attention.embed_dim, bias=has_bias, device="meta")
            qkv.weight = attention.in_proj_weight
            if has_bias:
                qkv.bias = attention.in_proj_bias
            proj: Any = attention.out_proj
        else:
            _check_attributes("attention", attention, ("qkv", "proj", "num_heads"))
            qkv, proj = attention.qkv, attention.proj  # type: ignore[assignment]
        with torch.device("meta"):
            layer = cls(qkv.in_features, int(attention.num_heads))  # type: ignore[arg-type]
        layer.qkv, layer.proj = qkv, proj
        return layer

    def forward(
        self,
        x: Tensor,
        prefix_key: Tensor | None = None,
        prefix_value: Tensor | None = None,
        gate: nn.Module | None = None,
    ) -> Tensor:
        """The layer's output, (B, N, D), by PyTorch's fused attention unless gates are being trained.

        Arguments:
            x: (B, N, D).
            prefix_key, prefix_value: (P, D), or (B, P, D) for each example its own; both or neither. Head h
                takes its own D / num_heads columns.
            gate: what the prefixes' scores pass through; None is plain prefix tuning.

        Raises ValueError for shapes that do not match and for one prefix without the other.
        """
        query, key, value = self._project(x)
        if prefix_key is None and prefix_value is None:
            return self._output(functional.scaled_dot_product_attention(query, key, value))
        prefix_key, prefix_value = self._prefixes(x, prefix_key, prefix_value)
        value = torch.cat((prefix_value, value), dim=2)
        score_change = None
        if gate is not None:
            scores = self._scores(query, prefix_key)
            gated = gate(scores)
            if gated.requires_grad:
                # PyTorch's fused kernel gives a mask no gradient, and its own way out is slower than this.
                weights = torch.cat((gated, self._scores(query, key)), dim=-1).softmax(-1)
                return self._output(weights @ value)
            # The kernel adds a mask to the scores: what the gate adds for prefixes, nothing for tokens.
            score_change = functional.pad(gated - scores, (0, x.shape[1]))
        key = torch.cat((prefix_key, key), dim=2)
        return self._output(functional.scaled_dot_product_attention(query, key, value, score_change))

    def attention_weights(
        self,
        x: Tensor,
        prefix_key: Tensor | None = None,
        prefix_value: Tensor | None = None,
        gate: nn.Module | None = None,
    ) -> Tensor:
        """The weights of experts for each token, (B, heads, N, P + N), prefixes first; arguments as above."""
        query, key, _ = self._project(x)
        scores = self._scores(query, key)
        if prefix_key is not None or prefix_value is not None:
            prefix_key, _ = self._prefixes(x, prefix_key, prefix_value)
            prefix_scores = self._scores(query, prefix_key)
            scores = torch.cat((prefix_scores if gate is None else gate(prefix_scores), scores), dim=-1)
        return scores.softmax(-1)

    def _output(self, heads: Tensor) -> Tensor:
        output: Tensor = self.proj(heads.transpose(1, 2).flatten(2))
        return output

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if x.ndim != 3 or x.shape[2] != self.embed_dim:
            raise ValueError(f"x must have shape (B, N, {self.embed_dim}), got {tuple(x.shape)}")
        query, key, value = self.qkv(x).view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return query, key, value

    def _prefixes(
        self, x: Tensor, prefix_key: Tensor | None, prefix_value: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Both prefixes as (B, heads, P, D / heads)."""
        _check_prefixes(prefix_key, prefix_value, self.embed_dim, batch=len(x))
        assert prefix_key is not None
        assert prefix_value is not None
        key, value = (
            prefix.to(x.dtype)
            .reshape(*prefix.shape[:-1], self.num_heads, -1)
            .transpose(-3, -2)
            .expand(len(x), -1, -1, -1)
            for prefix in (prefix_key, prefix_value)
        )
        return key, value

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.mT / math.sqrt(self.embed_dim // self.num_heads)


class _Block(nn.Module):
    """A pre-norm transformer block with timm's names; ls1 and ls2 scale what is added to the stream."""

    def __init__(
        self,
        norm1: nn.Module,
        attn: PrefixAttention,
        norm2: nn.Module,
        mlp: nn.Module,
        ls1: nn.Module | None = None,
        ls2: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.ls1 = nn.Identity() if ls1 is None else ls1
        self.ls2 = nn.Identity() if ls2 is None else ls2

    def forward(
        self,
        x: Tensor,
        prefix_key: Tensor | None = None,
        prefix_value: Tensor | None = None,
        gate: nn.Module | None = None,
    ) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), prefix_key, prefix_value, gate))
        output: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return output


def _through_blocks(
    blocks: nn.ModuleList,
    tokens: Tensor,
    prefix: Tensor | None,
    gates: nn.ModuleList | Sequence[nn.Module] | None,
    layers: Sequence[int],
) -> Tensor:
    if any(not 0 <= layer < len(blocks) for layer in layers) or len(set(layers)) < len(layers):
        raise ValueError(f"layers must be different numbers from 0 to {len(blocks) - 1}, got {layers}")
    if prefix is not None and prefix.shape[:2] != (len(layers), 2):
        raise ValueError(
            f"prefix must have shape (layers, 2, P, D) with {len(layers)} layers, got {tuple(prefix.shape)}"
        )
    if gates is not None and len(gates) != len(layers):
        raise ValueError(f"gates must hold one gate for each of the {len(layers)} layers, got {len(gates)}")
    places = {} if prefix is None else {layer: place for place, layer in enumerate(layers)}
    for layer, block in enumerate(blocks):
        place = places.get(layer)
        if prefix is None or place is None:
            tokens = block(tokens)
        else:
            gate = None if gates is None else gates[place]
            tokens = block(tokens, prefix[place, 0], prefix[place, 1], gate)
    return tokens


class PrefixViT(nn.Module):
    """A small pre-norm vision transformer whose attention layers take prefixes.

    Arguments:
        image_size: height and width of the images, in pixels.
        patch_size: height and width of a patch, a divisor of image_size.
        in_channels: colour channels.
        embed_dim: D, width of tokens and features.
        depth: number of blocks.
        num_heads: number of heads, a divisor of D.
        mlp_ratio: width of a block's hidden layer in units of D.
        n_classes: outputs of the head.

    The submodules are `patch_embed`, `cls_token`, `pos_embed`, `blocks`, `norm` and `head`.

    Raises ValueError for sizes that do not divide.

    >>> _ = torch.manual_seed(0)
    >>> model = PrefixViT(image_size=8, patch_size=2, embed_dim=16, depth=3, num_heads=2)
    >>> images, prefix = torch.randn(5, 1, 8, 8), torch.randn(2, 2, 4, 16)
    >>> model(images).shape, model.features(images, prefix, layers=(0, 1)).shape
    (torch.Size([5, 10]), torch.Size([5, 16]))
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int = 1,
        embed_dim: int = 48,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        n_classes: int = 10,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"image_size must be divisible by {patch_size=}, got {image_size}")
        self.embed_dim = embed_dim
        self.patch_embed = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image_size // patch_size) ** 2, embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        hidden_dim = int(mlp_ratio * embed_dim)
        self.blocks = nn.ModuleList(
            _Block(
                nn.LayerNorm(embed_dim),
                PrefixAttention(embed_dim, num_heads),
                nn.LayerNorm(embed_dim),
                nn.Sequential(nn.Linear(embed_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, embed_dim)),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, n_classes)

    def features(
        self,
        images: Tensor,
        prefix: Tensor | None = None,
        gates: nn.ModuleList | Sequence[nn.Module] | None = None,
        layers: Sequence[int] = (),
    ) -> Tensor:
        """The class token after the last norm, (B, D).

        Arguments:
            images: (B, channels, image_size, image_size).
            prefix: (len(layers), 2, P, D): for each prompted block its prefix keys and values; or
                (len(layers), 2, B, P, D), for each image its own.
            gates: one for each prompted block; None is plain prefix tuning.
            layers: the prompted blocks, 0-based.

        Raises ValueError for shapes that do not match and for blocks that are not there.
        """
        _check_images(images)
        patches = self.patch_embed(images).flatten(2).mT
        if patches.shape[1] + 1 != self.pos_embed.shape[1]:
            raise ValueError(
                f"images must give {self.pos_embed.shape[1] - 1} patches, got {patches.shape[1]} from "
                f"shape {tuple(images.shape)}"
            )
        tokens = torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1) + self.pos_embed
        tokens = _through_blocks(self.blocks, tokens, prefix, gates, layers)
        features: Tensor = self.norm(tokens[:, 0])
        return features

    def forward(self, images: Tensor) -> Tensor:
        """The head's logits without prefixes, (B, n_classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class PrefixBackbone(nn.Module):
    """A vision transformer of timm or torchvision that takes prefixes, by its blocks' attributes.

    The blocks are rebuilt around `PrefixAttention.sharing`, with the model's own parameters; without prefixes
    the features are those that the model gives its head. The model is put into evaluation mode.

    Arguments:
        model: a timm `VisionTransformer` or torchvision's.

    Raises ValueError for a model with neither's attributes, or with blocks that compute something else than a
    pre-norm block (normalised queries or keys, post-norm, parallel branches).

    Example (needs timm)::

        backbone = PrefixBackbone(timm.create_model("vit_base_patch16_224", pretrained=True))
        learner = PromptContinualLearner(backbone, n_classes=100, layers=(0, 1, 2, 3, 4))
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._of_torchvision = all(hasattr(model, name) for name in _TORCHVISION_ATTRIBUTES)
        if not self._of_torchvision:
            _check_attributes("model", model, _TIMM_ATTRIBUTES)
        trusted: Any = model.eval()
        self.model = trusted
        self.embed_dim = int(trusted.hidden_dim if self._of_torchvision else trusted.embed_dim)
        blocks = trusted.encoder.layers if self._of_torchvision else trusted.blocks
        self.blocks = nn.ModuleList(map(self._rebuilt, blocks))

    def _rebuilt(self, block: Any) -> _Block:
        if self._of_torchvision:
            attention = PrefixAttention.sharing(block.self_attention)
            rebuilt = _Block(block.ln_1, attention, block.ln_2, block.mlp)
        else:
            _check_attributes("model's block", block, ("norm1", "attn", "norm2", "mlp"))
            rebuilt = _Block(
                block.norm1,
                PrefixAttention.sharing(block.attn),
                block.norm2,
                block.mlp,
                getattr(block, "ls1", None),
                getattr(block, "ls2", None),
            )
        rebuilt.eval()
        # Attributes tell little about what a block computes; one pass through both tells all.
        probe = torch.randn(1, 8, self.embed_dim, generator=torch.Generator().manual_seed(0))
        probe = probe.to(rebuilt.attn.qkv.weight)
        with torch.no_grad():
            expected = block(probe)
            error = (rebuilt(probe) - expected).norm() / (expected - probe).norm()
        if not error < _BLOCK_TOLERANCE:
            raise ValueError(
                "model must have pre-norm blocks of plain attention and an MLP, but its "
                f"{type(block).__name__} computes something else"
            )
        return rebuilt

    def features(
        self,
        images: Tensor,
        prefix: Tensor | None = None,
        gates: nn.ModuleList | Sequence[nn.Module] | None = None,
        layers: Sequence[int] = (),
    ) -> Tensor:
        """The features the model gives its head, (B, D); arguments and errors as in `PrefixViT.features`."""
        _check_images(images)
        model: Any = self.model
        if self._of_torchvision:
            class_tokens = model.class_token.expand(len(images), -1, -1)
            tokens = torch.cat((class_tokens, model._process_input(images)), dim=1)
            tokens = _through_blocks(self.blocks, tokens + model.encoder.pos_embedding, prefix, gates, layers)
            features: Tensor = model.encoder.ln(tokens[:, 0])
        else:
            tokens = model._pos_embed(model.patch_embed(images))
            tokens = getattr(model, "norm_pre", nn.Identity())(tokens)
            tokens = _through_blocks(self.blocks, tokens, prefix, gates, layers)
            features = model.forward_head(model.norm(tokens), pre_logits=True)
        return features


@dataclass(frozen=True)
class ContinualMetrics:
    """Final and cumulative average accuracy (FA, CA) and forgetting (FM) of a sequence of tasks."""

    final_average: float
    cumulative_average: float
    forgetting: float


def continual_metrics(accuracy: Tensor | NDArray[np.float64] | Sequence[Sequence[float]]) -> ContinualMetrics:
    """What continual learning reports of an accuracy matrix (as in Le et al., 2024, arXiv 2405.14124).

    * final average: ``mean_i A[i, T]``;
    * cumulative average: the mean over t of ``mean_(i <= t) A[i, t]``;
    * forgetting: the mean over i < T of ``max_(i <= t < T) A[i, t] - A[i, T]``; 0 for one task.

    Arguments:
        accuracy: (T, T), at [i, t] the accuracy on task i after learning task t; i > t is not read.

    Raises ValueError unless accuracy is square.

    >>> metrics = continual_metrics([[0.9, 0.8, 0.85], [0.0, 0.7, 0.6], [0.0, 0.0, 0.95]])
    >>> round(metrics.final_average, 6), round(metrics.cumulative_average, 6), round(metrics.forgetting, 6)
    (0.8, 0.816667, 0.075)
    """
    matrix = torch.as_tensor(accuracy, dtype=torch.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"accuracy must be a square matrix, got shape {tuple(matrix.shape)}")
    learnt = torch.ones_like(matrix, dtype=torch.bool).triu()
    averages = matrix.where(learnt, 0).sum(0) / learnt.sum(0)
    forgetting = 0.0
    if len(matrix) > 1:
        best = matrix.where(learnt, -math.inf)[:-1, :-1].amax(1)
        forgetting = float((best - matrix[:-1, -1]).mean())
    return ContinualMetrics(float(averages[-1]), float(averages.mean()), forgetting)


@dataclass(frozen=True)
class _ClassGaussians:
    """A Gaussian for each class: classes (C,), means (C, D) and upper triangular R, covariance R^T R."""

    classes: Tensor
    means: Tensor
    factors: Tensor

    @classmethod
    def fitted(cls, features: Tensor, y: Tensor, classes: Iterable[int]) -> _ClassGaussians:
        means, factors = [], []
        ridge = math.sqrt(_COVARIANCE_RIDGE) * torch.eye(features.shape[1]).to(features)
        for label in classes:
            rows = features[y == label]
            means.append(rows.mean(0))
            deviations = (rows - means[-1]) / math.sqrt(len(rows) - 1)
            # QR of the deviations, and not Cholesky of their square, so that float32 is enough.
            factors.append(torch.linalg.qr(torch.cat((deviations, ridge)), mode="r").R)
        return cls(torch.tensor(list(classes)).to(y), torch.stack(means), torch.stack(factors))

    def joined(self, other: _ClassGaussians) -> _ClassGaussians:
        return _ClassGaussians(
            torch.cat((self.classes, other.classes)),
            torch.cat((self.means, other.means)),
            torch.cat((self.factors, other.factors)),
        )

    def sample(self, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (C per_class, D) and the place of each one's class in `classes`."""
        count, width = self.means.shape
        noise = torch.randn(count, per_class, width, generator=generator).to(self.means)
        features = self.means[:, None] + noise @ self.factors
        return features.flatten(0, 1), torch.arange(count).repeat_interleave(per_class).to(self.classes)

    def most_likely(self, features: Tensor) -> Tensor:
        """The place in `classes` of each feature's most likely class, (B,)."""
        deviations = features - self.means[:, None]
        white: Tensor = torch.linalg.solve_triangular(self.factors, deviations, upper=True, left=False)
        log_scale = self.factors.diagonal(dim1=1, dim2=2).abs().log().sum(1)
        return (white.square().sum(2) / 2 + log_scale[:, None]).argmin(0)


class PromptContinualLearner(BaseEstimator):
    """Learns image classes task by task on a frozen transformer, each task with prefixes of its own.

    The procedure of HiDe-Prompt with the non-linear residual gates of NoRGa (Le et al., 2024,
    arXiv 2405.14124). `fit_task` trains prefixes and the head on the task's images (old prefixes stay as they
    are, the gates are trained in the first task only), keeps a Gaussian of each class's features in place of
    images, and retrains the head on samples from the Gaussians of all classes seen. `predict` infers the task
    from features without prefixes, then classifies with that task's prefixes.

    Arguments:
        backbone: an nn.Module with `embed_dim` and `features(images, prefix, gates, layers)`, such as
            `PrefixViT` and `PrefixBackbone`. It is frozen and put into evaluation mode.
        n_classes: classes of all tasks together, labelled 0 to n_classes - 1.
        gate: activation of the gates; None for plain prefix tuning, which makes this HiDe-Prompt.
        prompt_length: P, prefixes a layer.
        layers: the blocks that get prefixes, 0-based.
        epochs, batch_size, learning_rate: training of a task's prefixes and gates (Adam, gradient norm at
            most 1).
        head_learning_rate_scale: the head's learning rate in units of learning_rate.
        prompt_momentum: share of the mean of earlier tasks' prefixes in a task's own.
        contrastive_weight, contrastive_temperature: of the loss that moves features away from one another
            and from earlier classes' means.
        replay_epochs, replay_learning_rate, replay_per_class: retraining of the head, the last in samples a
            class and epoch.
        task_inference: "gaussian", the task of the most likely class Gaussian, or "replay", of the class that
            a network with one hidden layer finds, trained like the head by replay.
        random_state: seed, numpy RandomState or None.

    After `fit_task`: `prompts_`, a tensor (layers, 2, P, D) for each task; `gates_`, an nn.ModuleList with a
    gate for each prompted block, or None; `tasks_`, each task's sorted classes; `head_`, the nn.Linear.

    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 4
    >>> X = X + y[:, None, None, None]
    >>> backbone = PrefixViT(4, 2, embed_dim=8, depth=1, num_heads=2)
    >>> learner = PromptContinualLearner(backbone, n_classes=4, layers=(0,), epochs=2, random_state=0)
    >>> for task in ((0, 1), (2, 3)):
    ...     seen = torch.isin(y, torch.tensor(task))
    ...     learner = learner.fit_task(X[seen], y[seen])
    >>> learner.tasks_, learner.predict(X).shape, learner.predict_task(X).unique().tolist()
    ([[0, 1], [2, 3]], torch.Size([40]), [0, 1])
    """

    prompts_: list[Tensor]
    gates_: nn.ModuleList | None
    tasks_: list[list[int]]
    head_: nn.Linear
    _task_network: nn.Sequential | None
    _instructed: _ClassGaussians
    _plain: _ClassGaussians
    _task_of_class: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        *,
        gate: GateActivation | None = "tanh",
        prompt_length: int = 5,
        layers: Sequence[int] = (0, 1, 2),
        epochs: int = 15,
        batch_size: int = 32,
        learning_rate: float = 0.02,
        head_learning_rate_scale: float = 0.1,
        prompt_momentum: float = 0.01,
        contrastive_weight: float = 0.0,
        contrastive_temperature: float = 0.8,
        replay_epochs: int = 30,
        replay_learning_rate: float = 0.05,
        replay_per_class: int = 32,
        task_inference: TaskInference = "gaussian",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.backbone = backbone
        self.n_classes = n_classes
        self.gate = gate
        self.prompt_length = prompt_length
        self.layers = layers
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate_scale = head_learning_rate_scale
        self.prompt_momentum = prompt_momentum
        self.contrastive_weight = contrastive_weight
        self.contrastive_temperature = contrastive_temperature
        self.replay_epochs = replay_epochs
        self.replay_learning_rate = replay_learning_rate
        self.replay_per_class = replay_per_class
        self.task_inference = task_inference
        self.random_state = random_state

    def fit_task(self, X: Tensor, y: Tensor) -> Self:
        """Learns one more task.

        Arguments:
            X: (n, channels, height, width) images, on the backbone's device.
            y: (n,) integer labels, of classes that no earlier task had, with 2 images or more each.

        Raises ValueError for labels that are not so, and for unknown names of gate or task_inference.
        """
        _check_choice("gate", self.gate, (None, *get_args(GateActivation)))
        _check_choice("task_inference", self.task_inference, get_args(TaskInference))
        _check_images(X, "X")
        classes = self._checked_classes(X, y)
        y = y.to(X.device).long()
        self.backbone.requires_grad_(False).eval()
        plain_features = self._features_in_batches(X, None)
        first_task = not getattr(self, "tasks_", [])
        if first_task:
            self._start(plain_features)
        self.prompts_.append(self._trained_prompt(X, y, classes))
        self.tasks_.append(classes)
        if self.gates_ is not None:
            self.gates_.requires_grad_(False)

        instructed_features = self._features_in_batches(X, self.prompts_[-1])
        instructed = _ClassGaussians.fitted(instructed_features, y, classes)
        plain = _ClassGaussians.fitted(plain_features, y, classes)
        self._instructed = instructed if first_task else self._instructed.joined(instructed)
        self._plain = plain if first_task else self._plain.joined(plain)
        task_of_class = torch.full((len(classes),), len(self.tasks_) - 1).to(y)
        self._task_of_class = torch.cat((self._task_of_class.to(y), task_of_class))
        if not first_task:
            self._replay(self.head_, self._instructed)
            if self._task_network is not None:
                self._replay(self._task_network, self._plain)
        return self

    def predict(self, X: Tensor, task: int | None = None) -> Tensor:
        """The classes of images X, (n,); with `task`, 0-based, only of that task's classes.

        Raises NotFittedError before the first `fit_task`, ValueError for a task that is not there.
        """
        self._check_prediction(X)
        if task is not None:
            if not 0 <= task < len(self.tasks_):
                raise ValueError(f"task must be from 0 to {len(self.tasks_) - 1}, got {task}")
            features = self._features_in_batches(X, self.prompts_[task])
            return self._classified(features, torch.tensor(self.tasks_[task], device=X.device))
        tasks = self.predict_task(X)
        labels = torch.empty_like(tasks)
        for present in set(tasks.tolist()):
            rows = tasks == present
            features = self._features_in_batches(X[rows], self.prompts_[present])
            labels[rows] = self._classified(features, self._instructed.classes)
        return labels

    def predict_task(self, X: Tensor) -> Tensor:
        """The task that each image seems to come from, (n,), 0-based, from its features without prefixes.

        Raises NotFittedError before the first `fit_task`.
        """
        self._check_prediction(X)
        if len(self.tasks_) == 1:
            return torch.zeros(len(X), dtype=torch.long, device=X.device)
        places = [
            self._likely_class(rows)
            for rows in torch.split(self._features_in_batches(X, None), _INFERENCE_BATCH_SIZE)
        ]
        return self._task_of_class[torch.cat(places)]

    def _check_prediction(self, X: Tensor) -> None:
        if not getattr(self, "tasks_", []):
            raise NotFittedError("PromptContinualLearner must learn a task by fit_task before it predicts")
        _check_images(X, "X")

    def _likely_class(self, plain_features: Tensor) -> Tensor:
        if self._task_network is None:
            return self._plain.most_likely(plain_features)
        with torch.no_grad():
            logits: Tensor = self._task_network(plain_features)
        return logits[:, self._plain.classes].argmax(1)

    @torch.no_grad()
    def _classified(self, features: Tensor, among: Tensor) -> Tensor:
        return among[self.head_(features)[:, among].argmax(1)]

    def _checked_classes(self, X: Tensor, y: Tensor) -> list[int]:
        if not len(X):
            raise ValueError("X must hold images, got none")
        if y.ndim != 1 or len(y) != len(X) or y.is_floating_point():
            raise ValueError(f"y must be {len(X)} integer labels, got {y.dtype} of shape {tuple(y.shape)}")
        classes, counts = torch.unique(y, return_counts=True)
        seen = {label for task in getattr(self, "tasks_", []) for label in task}
        for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
            if not 0 <= label < self.n_classes:
                raise ValueError(f"y must be from 0 to n_classes - 1 = {self.n_classes - 1}, got {label}")
            if label in seen:
                raise ValueError(f"y must hold new classes only, but class {label} is of an earlier task")
            if count < 2:
                raise ValueError(f"y must hold each class twice or more, but class {label} once")
        return sorted(classes.tolist())

    def _start(self, features: Tensor) -> None:
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self._generator = torch.Generator().manual_seed(int(seed))
        self.prompts_, self.tasks_ = [], []
        self._task_of_class = torch.empty(0, dtype=torch.long)
        self.gates_ = None
        if self.gate is not None:
            gates = [NonlinearResidualGate(self.gate) for _ in self.layers]
            self.gates_ = nn.ModuleList(gates).to(features.device)
        width = features.shape[1]
        self.head_ = self._linear(width, self.n_classes, features)
        self._task_network = None
        if self.task_inference == "replay":
            self._task_network = nn.Sequential(
                self._linear(width, 2 * width, features),
                nn.ReLU(),
                self._linear(2 * width, self.n_classes, features),
            )

    def _linear(self, in_features: int, out_features: int, like: Tensor) -> nn.Linear:
        layer = nn.Linear(in_features, out_features, device="meta").to_empty(device="cpu")
        nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=self._generator)
        nn.init.zeros_(layer.bias)
        return layer.to(like)

    def _trained_prompt(self, X: Tensor, y: Tensor, classes: list[int]) -> Tensor:
        head = self.head_
        if self.prompts_:
            prompt = self.prompts_[-1].clone()
            earlier = torch.stack(self.prompts_).mean(0)
            share = self.prompt_momentum
        else:
            shape = (len(self.layers), 2, self.prompt_length, self.backbone.embed_dim)
            prompt = (2 * torch.rand(shape, generator=self._generator) - 1).to(head.weight)  # type: ignore[arg-type]
            earlier = torch.zeros_like(prompt)
            share = 0.0
        prompt.requires_grad_()
        gates = () if self.gates_ is None else [p for p in self.gates_.parameters() if p.requires_grad]
        groups = [
            {"params": [prompt, *gates], "lr": self.learning_rate},
            {"params": list(head.parameters()), "lr": self.learning_rate * self.head_learning_rate_scale},
        ]
        optimizer = torch.optim.Adam(groups)
        other_classes = torch.ones(self.n_classes, dtype=torch.bool, device=X.device)
        other_classes[classes] = False
        for _ in range(self.epochs):
            for batch in self._batches(len(X)):
                features = self._features(X[batch], torch.lerp(prompt, earlier, share))
                logits = head(features).masked_fill(other_classes, -math.inf)
                loss = functional.cross_entropy(logits, y[batch])
                if self.contrastive_weight:
                    loss = loss + self.contrastive_weight * self._contrastive_loss(features)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_([prompt, *gates, *head.parameters()], _MAX_GRADIENT_NORM)
                optimizer.step()
        return torch.lerp(prompt.detach(), earlier, share)

    def _contrastive_loss(self, features: Tensor) -> Tensor:
        """Cross-entropy of each feature, and each earlier class's mean, being most similar to itself."""
        points = torch.cat((self._instructed.means, features)) if self.tasks_ else features
        similarity = points @ points.mT / self.contrastive_temperature
        return functional.cross_entropy(similarity, torch.arange(len(points), device=points.device))

    def _replay(self, network: nn.Module, gaussians: _ClassGaussians) -> None:
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=self.replay_learning_rate,
            momentum=_REPLAY_MOMENTUM,
            weight_decay=_REPLAY_WEIGHT_DECAY,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.replay_epochs, 1))
        for _ in range(self.replay_epochs):
            features, places = gaussians.sample(self.replay_per_class, self._generator)
            for batch in self._batches(len(features)):
                logits = network(features[batch])[:, gaussians.classes]
                loss = functional.cross_entropy(logits, places[batch])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            schedule.step()

    def _batches(self, count: int) -> tuple[Tensor, ...]:
        return torch.split(torch.randperm(count, generator=self._generator), self.batch_size)

    def _features(self, X: Tensor, prompt: Tensor | None) -> Tensor:
        backbone: Any = self.backbone
        gates = None if prompt is None else self.gates_
        features: Tensor = backbone.features(X, prompt, gates, () if prompt is None else tuple(self.layers))
        # Half precision has no QR, and too few digits for the head's small steps.
        return features.to(torch.promote_types(features.dtype, torch.float32))

    @torch.no_grad()
    def _features_in_batches(self, X: Tensor, prompt: Tensor | None) -> Tensor:
        return torch.cat([self._features(rows, prompt) for rows in torch.split(X, _INFERENCE_BATCH_SIZE)])


def interaction_defect(
    X: Tensor | NDArray[np.float64],
    gate_weight: Tensor | NDArray[np.float64] | Sequence[float],
    *,
    activation: GateActivation | None = None,
    inner_scale: float = 1.0,
    outer_scale: float = 1.0,
) -> float:
    """How far a gate and a linear expert are from being interchangeable (Le et al., 2024, arXiv 2405.14124).

    With ``s = x . beta`` and ``h(s) = s + alpha act(tau s)``, a gated linear expert is
    ``F = exp(h(s)) (a . x + b)``. With a linear gate ``d2F / (dbeta db) = dF / da``: errors of the gate and
    of the expert make up for one another, and both are learnt slowly. The defect is the smallest singular
    value of the matrix with columns ``x_u exp(h)`` and ``x_u h'(s) exp(h)``, each divided by its length: 0 if
    they are linearly dependent over the sample, 1 if orthogonal.

    Arguments:
        X: (n, d) sample with n >= 2 d.
        gate_weight: (d,), beta.
        activation: act; None for the linear gate, h(s) = s.
        inner_scale, outer_scale: tau and alpha.

    Raises ValueError for shapes that do not match or an unknown activation.

    >>> X = torch.linspace(-2, 2, 60, dtype=torch.float64).view(-1, 1)
    >>> interaction_defect(X, [0.8]) < 1e-10, interaction_defect(X, [0.8], activation="tanh") > 1e-2
    (True, True)
    """
    _check_choice("activation", activation, (None, *get_args(GateActivation)))
    sample = torch.as_tensor(X, dtype=torch.float64)
    beta = torch.as_tensor(gate_weight, dtype=torch.float64, device=sample.device)
    if sample.ndim != 2 or len(sample) < 2 * sample.shape[1]:
        raise ValueError(f"X must have shape (n, d) with n >= 2 d, got {tuple(sample.shape)}")
    if beta.shape != sample.shape[1:]:
        raise ValueError(f"gate_weight must have shape ({sample.shape[1]},), got {tuple(beta.shape)}")
    scores = (sample @ beta).requires_grad_()
    gated = scores * 1.0
    if activation is not None:
        gated = scores + outer_scale * _ACTIVATIONS[activation](inner_scale * scores)
    (slope,) = torch.autograd.grad(gated.sum(), scores)
    gated = gated.detach()
    weight = (gated - gated.max()).exp()[:, None]  # a common factor leaves the normalised columns as they are
    columns = torch.cat((sample * weight, sample * (slope[:, None] * weight)), dim=1)
    return float(torch.linalg.svdvals(columns / columns.norm(dim=0))[-1])


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_attributes(name: str, module: object, attributes: Iterable[str]) -> None:
    missing = [attribute for attribute in attributes if not hasattr(module, attribute)]
    if missing:
        raise ValueError(f"{name} must have {', '.join(missing)}, but a {type(module).__name__} has not")


def _check_images(images: Tensor, name: str = "images") -> None:
    if images.ndim != 4:
        raise ValueError(
            f"{name} must have shape (batch, channels, height, width), got {tuple(images.shape)}"
        )


def _check_prefixes(
    prefix_key: Tensor | None, prefix_value: Tensor | None, width: int, batch: int | None = None
) -> None:
    """Prefixes (P, width) or, for a batch, (batch, P, width); both or neither."""
    for name, prefix, other_name, other in (
        ("prefix_key", prefix_key, "prefix_value", prefix_value),
        ("prefix_value", prefix_value, "prefix_key", prefix_key),
    ):
        if prefix is None:
            if other is not None:
                raise ValueError(f"{name} must be given with {other_name}, got None")
            continue
        shared = prefix.ndim == 2
        own = prefix.ndim == 3 and batch is not None and len(prefix) == batch
        if not (shared or own) or prefix.shape[-1] != width:
            shapes = f"(P, {width})" + ("" if batch is None else f" or ({batch}, P, {width})")
            raise ValueError(f"{name} must have shape {shapes}, got {tuple(prefix.shape)}")
        if other is not None and other.shape[-2:-1] != prefix.shape[-2:-1]:
            raise ValueError(
                f"{name} must hold as many prefixes as {other_name} {tuple(other.shape)}, "
                f"got {tuple(prefix.shape)}"
            )
