"""Contractive depth beside what a user would run instead: the stack it replaces, a loop over molecules.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio. Run it with one
thread (OMP_NUM_THREADS=1).
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from assay.networks import (
    ContractiveDepth,
    ContractiveGPT,
    DenseBlock,
    DirectedMessagePassing,
    StackedDepth,
    TransformerBlock,
)

LAYERS = 6


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int) -> None:
    seconds = [math.inf, math.inf]
    for _ in range(repeats):
        for i, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    mine, theirs = seconds
    print(f"{name:<58} {mine:9.5f} s {theirs:9.5f} s   other / ours {theirs / mine:6.2f}", flush=True)


def forward(model: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        model(*inputs)


def training(model: nn.Module, *inputs: Tensor) -> None:
    model.zero_grad()
    model(*inputs).sum().backward()


def compare_models(name: str, ours: nn.Module, other: nn.Module, *inputs: Tensor, repeats: int) -> None:
    for run in (forward, training):
        compare(f"{name}, {run.__name__}", partial(run, ours, *inputs), partial(run, other, *inputs), repeats)


def random_molecules(graphs: int, atoms: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    molecules = []
    for _ in range(graphs):
        bonds = [(atom, int(torch.randint(atom, ()))) for atom in range(1, atoms)]
        edge_index = torch.tensor([pair for u, v in bonds for pair in ((u, v), (v, u))]).T.contiguous()
        reverse_edge = torch.arange(2 * len(bonds)) ^ 1
        molecules.append((torch.randn(atoms, 40), torch.randn(2 * len(bonds), 10), edge_index, reverse_edge))
    return molecules


def batched(
    molecules: list[tuple[Tensor, Tensor, Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    nodes, edges, edge_index, reverse_edge = zip(*molecules, strict=True)
    n_nodes, n_edges = len(nodes[0]), len(edges[0])
    return (
        torch.cat(nodes),
        torch.cat(edges),
        torch.cat([index + i * n_nodes for i, index in enumerate(edge_index)], dim=1),
        torch.cat([index + i * n_edges for i, index in enumerate(reverse_edge)]),
    )


class LoopedMessagePassing(nn.Module):
    """The same network as it is written for one molecule: each edge sums over the edges that feed it."""

    def __init__(self, network: DirectedMessagePassing) -> None:
        super().__init__()
        self.network = network

    def forward(self, nodes: Tensor, edges: Tensor, edge_index: Tensor, reverse_edge: Tensor) -> Tensor:
        network = self.network
        source, target = edge_index.tolist()
        reverse = reverse_edge.tolist()
        into = [[e for e, t in enumerate(target) if t == node] for node in range(len(nodes))]
        initial = network.W_i(torch.cat((nodes[edge_index[0]], edges), 1))
        h = initial.relu()
        none = h.new_zeros(h.shape[1])
        for _ in range(network.n_steps):
            feeds = [[h[f] for f in into[s] if f != r] for s, r in zip(source, reverse, strict=True)]
            incoming = torch.stack([sum(feed, none) for feed in feeds])
            h = (1 - network.dt) * h + network.dt * (initial + network.W_h(incoming)).relu()
        sums = torch.stack([sum((h[e] for e in incoming), none) for incoming in into])
        return network.W_o(torch.cat((nodes, sums), 1)).relu()


class Loop(nn.Module):
    """The looped network on one molecule after another."""

    def __init__(self, network: DirectedMessagePassing, molecules: list[tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.looped, self.molecules = LoopedMessagePassing(network), molecules

    def forward(self, *_: Tensor) -> Tensor:
        return torch.cat([self.looped(*molecule) for molecule in self.molecules])


def main() -> None:
    torch.manual_seed(0)
    print("seconds of ours, seconds of the other, their ratio")
    for dim, rows in ((64, 64), (512, 256)):
        compare_models(
            f"{LAYERS} dense steps beside a plain stack, width {dim}",
            ContractiveDepth(DenseBlock(dim), n_steps=LAYERS),
            StackedDepth([DenseBlock(dim) for _ in range(LAYERS)]),
            torch.randn(rows, dim),
            repeats=300,
        )
    compare_models(
        f"{LAYERS} transformer steps beside a plain stack, width 128",
        ContractiveDepth(TransformerBlock(128, 4), n_steps=LAYERS),
        StackedDepth([TransformerBlock(128, 4) for _ in range(LAYERS)]),
        torch.randn(8, 64, 128),
        repeats=30,
    )

    adam = []
    sizes = {"dim": 128, "n_heads": 4}
    for model in (
        ContractiveGPT(65, 64, **sizes, n_steps=LAYERS),
        ContractiveGPT(65, 64, **sizes, n_blocks=LAYERS, contractive=False),
    ):
        optimizer = torch.optim.Adam(model.parameters())
        training(model, torch.randint(65, (2, 64)))
        optimizer.step()
        tensors = [*model.parameters(), *(t for s in optimizer.state.values() for t in s.values())]
        adam.append(sum(t.numel() * t.element_size() for t in tensors) / 2**20)
    print(f"parameters and Adam's state of a GPT: {adam[0]:.2f} MiB, of the stack {adam[1]:.2f} MiB")

    for atoms, hidden in ((13, 48), (26, 300)):
        molecules = random_molecules(50, atoms)
        parts = batched(molecules)
        network = DirectedMessagePassing(40, 10, hidden)
        loop = Loop(network, molecules)
        torch.testing.assert_close(network(*parts), loop(), atol=1e-4, rtol=1e-4)
        name = f"50 molecules of {atoms} atoms beside a loop, width {hidden}"
        compare_models(name, network, loop, *parts, repeats=3)


if __name__ == "__main__":
    main()
