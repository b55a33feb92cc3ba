"""Softmax attention with a gate: every position, granularity and activation that the paper compares.

Paper: Zihan Qiu and 12 co-authors, "Gated Attention for Large Language Models: Non-linearity, Sparsity, and
Attention-Sink-Free", 2025, arXiv 2505.06708.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

GatePosition = Literal["none", "sdpa", "value", "key", "query", "output"]
Granularity = Literal["elementwise", "headwise"]
Activation = Literal["sigmoid", "ns_sigmoid", "silu", "identity"]
Nonlinearity = Literal["rmsnorm", "silu"]

_NORM_EPS = 1e-6

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "ns_sigmoid": lambda score: 0.5 + 0.5 * torch.sigmoid(score),
    "silu": functional.silu,
    "identity": lambda score: score,
}


@dataclass(frozen=True)
class AttentionRecord:
    """What one `GatedAttention` layer did with one input.

    `output` is the layer's output, (B, T, D), and `weights` the attention probabilities, (B, H, T, T).
    `gate` holds the gate's scores after the activation, None without a gate: (B, T, H, dk) at "sdpa" and
    "query", (B, T, KV, dk) at "value" and "key", (B, T, D) at "output". The last axis is 1 for a headwise
    gate, the head axis is 1 for a head-shared one, and B and T are 1 for an input-independent one.
    """

    output: Tensor
    weights: Tensor
    gate: Tensor | None


class GatedAttention(nn.Module):
    """Multi-head attention whose output, or another of its parts, is gated by the layer's input.

    Qiu and 12 co-authors, 2025, arXiv 2505.06708. With x the layer's pre-normalised input, attention is
    ``Y = softmax(Q K^T / sqrt(dk)) V`` per head; the gate, by default, makes it
    ``Y * sigmoid(x W_g)`` before the heads are concatenated and projected.

    Arguments:
        embed_dim: D, width of the input and the output.
        num_heads: H, number of query heads.
        num_kv_heads: KV, number of key-value heads, a divisor of H (default H). Query head h reads
            key-value head ``h // (H / KV)``.
        head_dim: dk, width of a head (default D / H).
        gate: what is gated: "sdpa" each head's attention output (the paper's G1), "value" (G2), "key" (G3)
            or "query" (G4) each right after its projection, "output" (G5) the layer's output, or "none".
            Without a gate the next five arguments are not read.
        granularity: one score for each element, or one for each head.
        head_shared: average the scores over the heads, so that all heads use the same.
        additive: add the scores instead of multiplying by them.
        activation: applied to ``x W_g``; "ns_sigmoid" is ``0.5 + 0.5 sigmoid``, which cannot close.
        query_dependent: if False, a learned vector that starts at zero takes the place of ``x W_g``.
        nonlinearity: what each head's attention output passes through before the gate: "rmsnorm", "silu" or
            None.
        qk_norm: RMSNorm over dk on queries and keys, before the rotary embedding.
        rope_base: base of the rotary position embedding; None for no position embedding.
        causal: whether token t sees tokens 0 to t only.
        dropout: probability of dropping an attention weight in training; `record` never drops one.
        bias: whether the query, key, value and output projections have biases. The gate's never has.

    The parameters are `q_proj`, `k_proj`, `v_proj`, `o_proj`, and `gate_proj` or, for a gate that does not
    depend on the query, `gate_bias`. A sigmoid gate starts near 0.5, so the output starts at half its scale.

    Raises ValueError for sizes that do not divide, an odd head_dim with rope_base, an unknown name, and
    headwise or head_shared gating of the output, which has no heads.

    >>> _ = torch.manual_seed(0)
    >>> layer = GatedAttention(32, num_heads=4, num_kv_heads=2, rope_base=10000.0)
    >>> x = torch.randn(2, 10, 32)
    >>> layer(x).shape
    torch.Size([2, 10, 32])
    >>> record = layer.record(x)
    >>> record.weights.shape, record.gate.shape
    (torch.Size([2, 4, 10, 10]), torch.Size([2, 10, 4, 8]))
    >>> torch.allclose(record.output, layer(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        gate: GatePosition = "sdpa",
        granularity: Granularity = "elementwise",
        head_shared: bool = False,
        additive: bool = False,
        activation: Activation = "sigmoid",
        query_dependent: bool = True,
        nonlinearity: Nonlinearity | None = None,
        qk_norm: bool = False,
        rope_base: float | None = None,
        causal: bool = True,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        _check_positive("embed_dim", embed_dim)
        _check_positive("num_heads", num_heads)
        if head_dim is None:
            if embed_dim % num_heads:
                raise ValueError(f"without head_dim num_heads must divide {embed_dim=}, got {num_heads}")
            head_dim = embed_dim // num_heads
        _check_positive("head_dim", head_dim)
        if num_kv_heads is None:
            num_kv_heads = num_heads
        _check_positive("num_kv_heads", num_kv_heads)
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads={num_heads}, got {num_kv_heads}")
        _check_choice("gate", gate, get_args(GatePosition))
        _check_choice("granularity", granularity, get_args(Granularity))
        _check_choice("activation", activation, get_args(Activation))
        _check_choice("nonlinearity", nonlinearity, (None, *get_args(Nonlinearity)))
        if gate == "output" and granularity == "headwise":
            raise ValueError("granularity must be 'elementwise' with gate='output', got 'headwise'")
        if gate == "output" and head_shared:
            raise ValueError("head_shared must be False with gate='output', got True")
        if rope_base is not None and head_dim % 2:
            raise ValueError(f"head_dim must be even with rope_base, got {head_dim}")
        if rope_base is not None and not rope_base > 0:
            raise ValueError(f"rope_base must be positive, got {rope_base}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")

        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.gate = gate
        self.granularity = granularity
        self.head_shared = head_shared
        self.additive = additive
        self.activation = activation
        self.query_dependent = query_dependent
        self.nonlinearity = nonlinearity
        self.rope_base = rope_base
        self.causal = causal
        self.dropout = dropout

        self.q_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * head_dim, embed_dim, bias=bias)
        self.q_norm = nn.RMSNorm(head_dim, eps=_NORM_EPS) if qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim, eps=_NORM_EPS) if qk_norm else None
        self.head_norm = nn.RMSNorm(head_dim, eps=_NORM_EPS) if nonlinearity == "rmsnorm" else None

        self._gate_shape: tuple[int, ...]
        if gate == "output":
            self._gate_shape = (embed_dim,)
        else:
            gate_heads = num_kv_heads if gate in ("value", "key") else num_heads
            self._gate_shape = (gate_heads, head_dim if granularity == "elementwise" else 1)
        gate_width = math.prod(self._gate_shape)
        self.gate_proj: nn.Linear | None = None
        self.gate_bias: nn.Parameter | None = None
        if gate != "none" and query_dependent:
            self.gate_proj = nn.Linear(embed_dim, gate_width, bias=False)
        elif gate != "none":
            self.gate_bias = nn.Parameter(torch.zeros(gate_width))

    def extra_repr(self) -> str:
        return (
            f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"head_dim={self.head_dim}, gate={self.gate!r}, granularity={self.granularity!r}"
        )

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """The layer's output, (B, T, D), by PyTorch's fused attention.

        Arguments:
            x: (B, T, D) pre-normalised hidden states.
            attn_mask: boolean, True where a query (last axis but one) may attend to a key (last axis),
                broadcastable to (B, H, T, T); combined with the causal mask.

        Raises ValueError if x has another shape, or if attn_mask is not boolean, does not broadcast or
        leaves a query without any key.
        """
        self._check_input(x)
        allowed = None if attn_mask is None else self._allowed(x, attn_mask)
        q, k, v, gate = self._project(x)
        y = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and allowed is None,
            enable_gqa=self.num_kv_heads < self.num_heads,
        )
        return self._finish(y, gate)

    def record(self, x: Tensor, attn_mask: Tensor | None = None) -> AttentionRecord:
        """The same output with the attention weights and gate scores behind it; see `forward`.

        It builds the (T, T) matrix of weights for each head, in float32 at least, and is the slower path.
        """
        self._check_input(x)
        if attn_mask is None:
            attn_mask = torch.ones((), dtype=torch.bool, device=x.device)
        allowed = self._allowed(x, attn_mask)
        q, k, v, gate = self._project(x)
        group_size = self.num_heads // self.num_kv_heads
        k, v = k.repeat_interleave(group_size, dim=1), v.repeat_interleave(group_size, dim=1)
        scores = (q @ k.mT / math.sqrt(self.head_dim)).masked_fill(~allowed, -math.inf)
        weights = scores.softmax(-1, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype)
        return AttentionRecord(output=self._finish(weights @ v, gate), weights=weights, gate=gate)

    @torch.no_grad()
    def load_fused_query(self, weight: Tensor) -> None:
        """Load the ``q_proj.weight`` of an officially released checkpoint, which holds the gate's rows too.

        Its rows form one block for each key-value head: the query rows of the block's heads, then their gate
        rows. The rest of an official layer (k_proj, v_proj, o_proj) loads as it is.

        Arguments:
            weight: (H dk + H, D) for a headwise gate, (2 H dk, D) for an elementwise one.

        Raises ValueError for another shape, or if this layer's gate is not a query-dependent one at "sdpa".
        """
        if self.gate != "sdpa" or self.gate_proj is None:
            raise ValueError(
                "load_fused_query needs a layer with gate='sdpa' and query_dependent=True, "
                f"got gate={self.gate!r} and query_dependent={self.query_dependent}"
            )
        query_rows = self.q_proj.out_features
        shape = (query_rows + self.gate_proj.out_features, self.embed_dim)
        if weight.shape != shape:
            raise ValueError(f"weight must have shape {shape}, got {tuple(weight.shape)}")
        blocks = weight.reshape(self.num_kv_heads, -1, self.embed_dim)
        block_query_rows = query_rows // self.num_kv_heads
        self.q_proj.weight.copy_(blocks[:, :block_query_rows].flatten(0, 1))
        self.gate_proj.weight.copy_(blocks[:, block_query_rows:].flatten(0, 1))

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise ValueError(f"x must have shape (B, T, {self.embed_dim}), got {tuple(x.shape)}")

    def _allowed(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        """Where a query may attend, by mask and causality, broadcastable to (B, H, T, T)."""
        if attn_mask.dtype != torch.bool:
            raise ValueError(f"attn_mask must be boolean, got {attn_mask.dtype}")
        tokens = x.shape[1]
        shape = (x.shape[0], self.num_heads, tokens, tokens)
        try:
            attn_mask.expand(shape)
        except RuntimeError:
            given = tuple(attn_mask.shape)
            raise ValueError(f"attn_mask must broadcast to {shape}, got shape {given}") from None
        allowed = attn_mask.expand(*attn_mask.shape[:-2], tokens, tokens)
        if self.causal:
            allowed = allowed & torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()
        if not allowed.any(-1).all():
            raise ValueError("attn_mask must leave every query at least one key, got a query without any")
        return allowed

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries (B, H, T, dk), keys and values (B, KV, T, dk), and the gate's scores."""
        gate = self._gate_scores(x)
        q = self.q_proj(x).unflatten(-1, (self.num_heads, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        if self.gate == "query":
            q = self._gated(q, gate)
        elif self.gate == "key":
            k = self._gated(k, gate)
        elif self.gate == "value":
            v = self._gated(v, gate)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.rope_base is not None:
            cos, sin = _rotation(q, self.rope_base)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        return q, k, v, gate

    def _gate_scores(self, x: Tensor) -> Tensor | None:
        if self.gate_proj is not None:
            score = self.gate_proj(x)
        elif self.gate_bias is not None:
            score = self.gate_bias[None, None]
        else:
            return None
        score = _ACTIVATIONS[self.activation](score.unflatten(-1, self._gate_shape))
        return score.mean(dim=-2, keepdim=True) if self.head_shared else score

    def _gated(self, target: Tensor, gate: Tensor | None) -> Tensor:
        if gate is None:
            return target
        return target + gate if self.additive else target * gate

    def _finish(self, y: Tensor, gate: Tensor | None) -> Tensor:
        """The layer's output from each head's attention output, (B, H, T, dk)."""
        y = y.transpose(1, 2)
        if self.head_norm is not None:
            y = self.head_norm(y)
        elif self.nonlinearity == "silu":
            y = functional.silu(y)
        if self.gate == "sdpa":
            y = self._gated(y, gate)
        output: Tensor = self.o_proj(y.flatten(-2))
        return self._gated(output, gate) if self.gate == "output" else output


class GatedDecoder(nn.Module):
    """A small decoder-only language model on `GatedAttention`, to train variants side by side.

    Pre-RMSNorm blocks of attention and a SwiGLU feed-forward, a final RMSNorm and an untied output
    projection (Qiu and 12 co-authors, 2025, arXiv 2505.06708).

    Arguments:
        vocab_size: number of distinct tokens.
        embed_dim: D, width of the hidden states.
        depth: number of blocks.
        num_heads: number of query heads.
        ffn_dim: inner width of the feed-forward; see `matched_ffn_dim` for equal parameter counts.
        attention: keyword arguments of `GatedAttention`; here rope_base defaults to 10000.

    Raises ValueError for a size below 1 and whatever `GatedAttention` raises.

    >>> model = GatedDecoder(50, embed_dim=32, depth=2, num_heads=4, ffn_dim=64, attention={"gate": "value"})
    >>> tokens = torch.randint(50, (3, 12))
    >>> model(tokens).shape
    torch.Size([3, 12, 50])
    >>> [record.weights.shape for record in model.records(tokens)]
    [torch.Size([3, 4, 12, 12]), torch.Size([3, 4, 12, 12])]
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        ffn_dim: int,
        *,
        attention: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"vocab_size": vocab_size, "depth": depth, "ffn_dim": ffn_dim}.items():
            _check_positive(name, value)
        options = {"rope_base": 10000.0, **(attention or {})}
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.blocks = nn.ModuleList(
            _Block(GatedAttention(embed_dim, num_heads, **options), ffn_dim) for _ in range(depth)
        )
        self.norm = nn.RMSNorm(embed_dim, eps=_NORM_EPS)
        self.head = nn.Linear(embed_dim, vocab_size, bias=False)
        for module in self.modules():
            # The paper starts all weights at deviation 0.02, which at its width of 2048 is 1 / sqrt(width).
            # The same 0.02 would leave a narrow model's attention uniform for much of a short training.
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token, (B, T, vocab_size).

        Arguments:
            tokens: (B, T) integers below vocab_size.

        Raises ValueError for tokens of another shape or outside the vocabulary.
        """
        x = self._embed(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def records(self, tokens: Tensor) -> list[AttentionRecord]:
        """What each attention layer does with the tokens, first layer first; see `forward`."""
        x = self._embed(tokens)
        records = []
        for block in self.blocks:
            assert isinstance(block, _Block)
            record = block.attention.record(block.attention_norm(x))
            records.append(record)
            x = block.add_feed_forward(x + record.output)
        return records

    def _embed(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2:
            raise ValueError(f"tokens must have shape (B, T), got {tuple(tokens.shape)}")
        if tokens.numel() and not (tokens.min() >= 0 and tokens.max() < self.vocab_size):
            raise ValueError(
                f"tokens must be at least 0 and below vocab_size={self.vocab_size}, "
                f"got {int(tokens.min())} to {int(tokens.max())}"
            )
        x: Tensor = self.embedding(tokens)
        return x


class _Block(nn.Module):
    def __init__(self, attention: GatedAttention, ffn_dim: int) -> None:
        super().__init__()
        embed_dim = attention.embed_dim
        self.attention_norm = nn.RMSNorm(embed_dim, eps=_NORM_EPS)
        self.attention = attention
        self.ffn_norm = nn.RMSNorm(embed_dim, eps=_NORM_EPS)
        self.ffn_gate = nn.Linear(embed_dim, ffn_dim, bias=False)
        self.ffn_up = nn.Linear(embed_dim, ffn_dim, bias=False)
        self.ffn_down = nn.Linear(ffn_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.add_feed_forward(x + self.attention(self.attention_norm(x)))

    def add_feed_forward(self, x: Tensor) -> Tensor:
        normalised = self.ffn_norm(x)
        inner = functional.silu(self.ffn_gate(normalised)) * self.ffn_up(normalised)
        output: Tensor = x + self.ffn_down(inner)
        return output


def first_token_attention(weights: Tensor, skip: int = 1) -> float:
    """The mean attention that queries pay to the first token: the size of the attention sink.

    Qiu and 12 co-authors, 2025, arXiv 2505.06708.

    Arguments:
        weights: (..., T, T) attention probabilities, as in `AttentionRecord.weights`.
        skip: how many of the first queries to leave out. The first can attend to nothing else.

    Raises ValueError if no query is left.

    >>> first_token_attention(torch.tensor([[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.25, 0.5, 0.25]]))
    0.5
    """
    queries = weights.shape[-2] if weights.ndim >= 2 else 0
    if not 0 <= skip < queries:
        raise ValueError(f"skip must be at least 0 and below the number of queries {queries}, got {skip}")
    return float(weights[..., skip:, 0].detach().mean())


def gate_statistics(gate: Tensor, threshold: float = 0.1) -> dict[str, float]:
    """How open and how sparse a gate is: the "mean" of its scores and the "share_below" a threshold.

    Qiu and 12 co-authors, 2025, arXiv 2505.06708.

    Arguments:
        gate: scores of any shape, as in `AttentionRecord.gate`.
        threshold: scores strictly below it count as closed.

    Raises ValueError if there are no scores.

    >>> gate_statistics(torch.tensor([0.0, 0.0625, 0.1875, 0.75]))
    {'mean': 0.25, 'share_below': 0.5}
    """
    if not gate.numel():
        raise ValueError(f"gate must hold at least one score, got shape {tuple(gate.shape)}")
    gate = gate.detach()
    return {"mean": float(gate.mean()), "share_below": float((gate < threshold).double().mean())}


def matched_ffn_dim(embed_dim: int, ffn_dim: int, extra_parameters: int, gated_ffn: bool = True) -> int:
    """The narrower feed-forward that pays for a gate's parameters, so that models compare at equal size.

    Qiu and 12 co-authors, 2025, arXiv 2505.06708. One unit of width costs ``3 embed_dim`` parameters in a
    gated feed-forward (SwiGLU) and ``2 embed_dim`` in a plain one; the result never exceeds the budget.

    Arguments:
        embed_dim: width of the hidden states.
        ffn_dim: inner width of the feed-forward without the gate.
        extra_parameters: what the gate adds in one layer.
        gated_ffn: whether the feed-forward is a gated one.

    Raises ValueError if the sizes are out of range or nothing is left of the feed-forward.

    >>> matched_ffn_dim(embed_dim=48, ffn_dim=128, extra_parameters=48 * 48)
    112
    """
    _check_positive("embed_dim", embed_dim)
    _check_positive("ffn_dim", ffn_dim)
    if extra_parameters < 0:
        raise ValueError(f"extra_parameters must be at least 0, got {extra_parameters}")
    per_unit = (3 if gated_ffn else 2) * embed_dim
    matched = ffn_dim - math.ceil(extra_parameters / per_unit)
    if matched < 1:
        most = (ffn_dim - 1) * per_unit
        raise ValueError(f"extra_parameters must be at most {most}, got {extra_parameters}")
    return matched


def _rotation(q: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (T, dk / 2), of the rotary embedding's angles, for queries (B, H, T, dk)."""
    # bfloat16 holds no position above 256 exactly, so angles are computed in float32 at least.
    dtype = torch.promote_types(q.dtype, torch.float32)
    tokens, head_dim = q.shape[-2:]
    positions = torch.arange(tokens, dtype=dtype, device=q.device)
    exponents = torch.arange(0, head_dim, 2, dtype=dtype, device=q.device) / head_dim
    angles = positions[:, None] * base**-exponents
    return angles.cos().to(q.dtype), angles.sin().to(q.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate element j of each head with element j + dk / 2, by that position's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
