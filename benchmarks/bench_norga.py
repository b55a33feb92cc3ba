"""Gated prefix attention and its learner beside what a user would run instead.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.gating import NonlinearResidualGate, PrefixAttention, PrefixViT, PromptContinualLearner


class ExplicitPrefixAttention(nn.Module):
    """The official layer restated: an N x (P + N) matrix of scores, softmax, prefixes repeated B times."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(embed_dim, 3 * embed_dim), nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, prefix_key: Tensor, prefix_value: Tensor, gate: nn.Module) -> Tensor:
        batch, _, embed_dim = x.shape
        scale = (embed_dim // self.num_heads) ** -0.5
        query, key, value = (
            part.reshape(batch, -1, self.num_heads, embed_dim // self.num_heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=2)
        )
        prefix_key, prefix_value = (
            prefix.reshape(1, -1, self.num_heads, embed_dim // self.num_heads)
            .transpose(1, 2)
            .repeat(batch, 1, 1, 1)
            for prefix in (prefix_key, prefix_value)
        )
        prefix_scores = gate(query @ prefix_key.transpose(2, 3) * scale)
        scores = torch.cat((prefix_scores, query @ key.transpose(2, 3) * scale), dim=3)
        output = scores.softmax(dim=3) @ torch.cat((prefix_value, value), dim=2)
        return self.proj(output.transpose(1, 2).reshape(x.shape))


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int = 12) -> None:
    """One line: the least time of each, one run of the one after one run of the other."""
    least = [math.inf, math.inf]
    for _ in range(repeats):
        for i, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            least[i] = min(least[i], time.perf_counter() - start)
    print(f"{name:<80} {least[0]:8.4f} s {least[1]:8.4f} s   other / ours {least[1] / least[0]:5.2f}")


def forward(layer: nn.Module, *inputs: object) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return layer(*inputs)

    return run


def training(layer: nn.Module, *inputs: object) -> Callable[[], object]:
    return lambda: layer(*inputs).sum().backward()


def predicted_with_gathered_prefixes(learner: PromptContinualLearner, X: Tensor) -> Tensor:
    """As the official code does it: all images together, each with the prefixes of its task."""
    prefix = torch.stack(learner.prompts_, dim=2)[:, :, learner.predict_task(X)]
    seen = torch.tensor([label for task in learner.tasks_ for label in task])
    with torch.no_grad():
        features = learner.backbone.features(X, prefix, learner.gates_, learner.layers)
        return seen[learner.head_(features)[:, seen].argmax(1)]


def predicted_one_by_one(learner: PromptContinualLearner, X: Tensor) -> Tensor:
    return torch.cat([learner.predict(image[None]) for image in X])


def main() -> None:
    torch.manual_seed(0)
    print("seconds of ours, seconds of the other, their ratio")
    x, key, value = torch.randn(64, 197, 192), *(2 * torch.rand(2, 20, 192) - 1).unbind()
    key.requires_grad_(), value.requires_grad_()
    gate = NonlinearResidualGate("tanh")
    layer, explicit = PrefixAttention(192, 3).requires_grad_(False), ExplicitPrefixAttention(192, 3)
    explicit.requires_grad_(False).load_state_dict(layer.state_dict())
    inputs = (x, key, value)
    torch.testing.assert_close(layer(*inputs, gate), explicit(*inputs, gate), atol=1e-5, rtol=1e-4)
    for run in (forward, training):
        compare(
            f"gated beside plain prefixes, {run.__name__}", run(layer, *inputs, gate), run(layer, *inputs)
        )
        compare(
            f"gated beside explicit attention, {run.__name__}",
            run(layer, *inputs, gate),
            run(explicit, *inputs, gate),
        )

    backbone = PrefixViT(8, 2, embed_dim=48, depth=4, num_heads=4)
    learner = PromptContinualLearner(backbone, n_classes=10, epochs=1, random_state=0)
    X, y = torch.rand(600, 1, 8, 8), torch.arange(600) % 10
    for task in range(5):
        learnt = y // 2 == task
        learner.fit_task(X[learnt], y[learnt])
    for name, alternative, images in (
        ("prefixes gathered for each image", predicted_with_gathered_prefixes, X),
        ("images one by one", predicted_one_by_one, X[:100]),
    ):
        assert (learner.predict(images) == alternative(learner, images)).float().mean() > 0.99
        compare(
            f"prediction of {len(images)} images grouped by task beside {name}",
            lambda images=images: learner.predict(images),
            lambda alternative=alternative, images=images: alternative(learner, images),
            repeats=5,
        )


if __name__ == "__main__":
    main()
