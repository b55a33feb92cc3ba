"""JEI-DNN beside what a user would run instead: every stage for every input, and training that repeats the
backbone for each batch.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio.
"""

import copy
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.gating import EarlyExitNetwork, fit_heads, fit_joint, uncertainty_features

WIDTH = 512
CLASSES = 10


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def build(depth: int) -> EarlyExitNetwork:
    return EarlyExitNetwork(
        [Block() for _ in range(depth)], [nn.Linear(WIDTH, CLASSES) for _ in range(depth)]
    )


def paired_seconds(ours: Callable[[], object], other: Callable[[], object], repeats: int) -> None:
    """Print the least time of each, one run of the one after one run of the other."""
    least = [math.inf, math.inf]
    for _ in range(repeats):
        for i, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            least[i] = min(least[i], time.perf_counter() - start)
    print(f"{least[0]:8.4f} s {least[1]:8.4f} s   ours / other {least[0] / least[1]:5.2f}")


def open_gates(network: EarlyExitNetwork, x: Tensor, share: float) -> None:
    """Make each gate let out about this share of the inputs that reach it."""
    with torch.no_grad():
        for gate, logits in zip(network.gates, network(x), strict=False):
            confidence = uncertainty_features(logits)[:, 0]
            gate.weight.copy_(torch.tensor([[1e3, 0.0, 0.0, 0.0]]))
            gate.bias.fill_(-1e3 * float(confidence.quantile(1 - share)))


@torch.no_grad()
def all_stages(network: EarlyExitNetwork, x: Tensor) -> Tensor:
    for stage in network.stages:
        x = stage(x)
    return network.heads[-1](x).softmax(-1)


def epochs_with_backbone(network: EarlyExitNetwork, X: Tensor, y: Tensor, epochs: int) -> None:
    """The same joint training with the backbone run again on every batch, as in the authors' code, and a
    loop over the exits; gates and heads alternate after every 5 batches."""
    trainable = [*network.heads[:-1].parameters(), *network.gates.parameters()]
    optimizer = torch.optim.SGD(trainable, lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(64):
            logits = network(X[rows])
            losses = torch.stack([functional.cross_entropy(z, y[rows], reduction="none") for z in logits], 1)
            features = [uncertainty_features(z) for z in logits[:-1]]
            gates = torch.cat([gate(f) for gate, f in zip(network.gates, features, strict=True)], 1)
            if batches // 5 % 2 == 0:
                best = (losses + 0.1 * network.costs).argmin(1)
                targets = (torch.arange(gates.shape[1]) >= best[:, None]).float()
                loss = functional.binary_cross_entropy_with_logits(gates, targets)
            else:
                remaining, terms = torch.ones(len(rows)), []
                for level, g in enumerate(gates.sigmoid().detach().unbind(1)):
                    leaving = torch.minimum(g, remaining)
                    terms.append(leaving * losses[:, level])
                    remaining = remaining - leaving
                loss = torch.stack(terms).sum(0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            batches += 1


def main() -> None:
    torch.manual_seed(0)
    print("seconds of ours, seconds of the other, their ratio")
    x = torch.randn(512, WIDTH)
    for share in (0.35, 0.15, 0.0):
        network = build(8)
        open_gates(network, x, share)
        cost = network.predict(x).mean_cost
        print(f"prediction at mean cost {cost:4.2f}, beside all stages      ", end="")
        paired_seconds(partial(network.predict, x), partial(all_stages, network, x), 30)

    network, X, y = build(8), torch.randn(2000, WIDTH), torch.randint(CLASSES, (2000,))

    def joint(epochs: int) -> None:
        options = {"warmup_epochs": 0, "epochs": epochs, "alternate_every": 5}
        fit_joint(copy.deepcopy(network), X, y, X[:500], y[:500], **options)

    def backbone_in_each_batch(epochs: int) -> None:
        epochs_with_backbone(copy.deepcopy(network), X, y, epochs)

    def heads_alone(epochs: int) -> None:
        fit_heads(copy.deepcopy(network), X, y, epochs=epochs)

    for epochs, other, repeats in (
        (1, backbone_in_each_batch, 5),
        (15, backbone_in_each_batch, 2),
        (15, heads_alone, 5),
    ):
        name = other.__name__.replace("_", " ")
        print(f"joint training, epochs: {epochs:2}, beside {name:<22} ", end="")
        paired_seconds(partial(joint, epochs), partial(other, epochs), repeats)


if __name__ == "__main__":
    main()
