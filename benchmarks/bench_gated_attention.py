"""Gated attention beside what a user would run instead: a layer without a gate, and explicit attention.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from assay.gating import GatedAttention


class ExplicitGatedAttention(nn.Module):
    """The released model's eager layer restated: one fused query and gate projection, a T x T matrix of
    weights, softmax in float32, the causal mask made beforehand."""

    def __init__(self, embed_dim: int, num_heads: int, num_kv_heads: int, tokens: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, embed_dim // num_heads
        self.mask = torch.full((tokens, tokens), -math.inf).triu(1)
        kv_dim = num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(embed_dim, 2 * embed_dim, bias=False)
        self.k_proj = nn.Linear(embed_dim, kv_dim, bias=False)
        self.v_proj = nn.Linear(embed_dim, kv_dim, bias=False)
        self.o_proj = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        group_size = self.num_heads // self.num_kv_heads
        fused = self.q_proj(x).view(batch, tokens, self.num_kv_heads, 2, group_size, self.head_dim)
        query = fused[:, :, :, 0].reshape(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)
        gate = fused[:, :, :, 1].reshape(batch, tokens, -1)
        key = self.k_proj(x).view(batch, tokens, self.num_kv_heads, self.head_dim).transpose(1, 2)
        value = self.v_proj(x).view(batch, tokens, self.num_kv_heads, self.head_dim).transpose(1, 2)
        key, value = key.repeat_interleave(group_size, 1), value.repeat_interleave(group_size, 1)
        scores = query @ key.transpose(2, 3) / math.sqrt(self.head_dim)
        weights = (scores + self.mask).softmax(-1, dtype=torch.float32).to(query.dtype)
        output = (weights @ value).transpose(1, 2).reshape(batch, tokens, -1)
        return self.o_proj(output * torch.sigmoid(gate))


def paired_seconds(runs: tuple[Callable[[], object], Callable[[], object]], repeats: int) -> list[float]:
    """The least time of each, one run of the one after one run of the other."""
    least = [math.inf, math.inf]
    for _ in range(repeats):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            least[i] = min(least[i], time.perf_counter() - start)
    return least


def compare(name: str, ours: nn.Module, other: nn.Module, x: Tensor) -> None:
    """One line for the forward pass, one for the forward and the backward pass."""

    def forward(layer: nn.Module) -> None:
        with torch.no_grad():
            layer(x)

    def training(layer: nn.Module) -> None:
        layer.zero_grad()
        layer(x).sum().backward()

    for run in (forward, training):
        seconds, other_seconds = paired_seconds(
            (partial(run, ours), partial(run, other)), 15_360 // x.shape[1]
        )
        ratio = other_seconds / seconds
        print(
            f"{name}, {run.__name__:<10} {seconds:9.4f} s {other_seconds:9.4f} s   other / ours {ratio:5.2f}"
        )


def main() -> None:
    torch.manual_seed(0)
    print("one sequence, width 512, 8 heads; seconds of ours, seconds of the other, their ratio")
    for tokens in (512, 2048):
        x = torch.randn(1, tokens, 512)
        plain = GatedAttention(512, 8, gate="none")
        for granularity in ("elementwise", "headwise"):
            gated = GatedAttention(512, 8, granularity=granularity)
            compare(f"{granularity:>11} gate beside no gate,            T = {tokens:4}", gated, plain, x)
    for tokens in (1024, 2048):
        x = torch.randn(1, tokens, 512)
        fused, explicit = GatedAttention(512, 8, num_kv_heads=2), ExplicitGatedAttention(512, 8, 2, tokens)
        state = explicit.state_dict()
        fused.load_fused_query(state.pop("q_proj.weight"))
        fused.load_state_dict(state, strict=False)
        torch.testing.assert_close(fused(x), explicit(x), atol=1e-5, rtol=1e-4)
        compare(f"elementwise gate beside explicit attention, T = {tokens:4}", fused, explicit, x)


if __name__ == "__main__":
    main()
