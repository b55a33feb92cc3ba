"""Contractive recurrent depth put to the test: parameters, quality, speed, integrators, stability.

Within a trial all models see the same batches, start from the same weights as far as they have the same
parts, and are trained by Adam without weight decay, as the author does. Every method has the best of several
learning rates, and against stacks the contractive one also of two step sizes: chosen by error on validation
data where errors are compared, and on other weights and batches than those that are measured where speed is.
Molecules are generated graphs and text is CPython's own help topics; the scales called "full" read the
paper's data (ESOL, tiny Shakespeare) from a file that the user supplies, and have not been run here.
"""

from __future__ import annotations

import csv
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
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
    near,
)
from assay.networks.contractive_depth import (
    ContractiveDepth,
    ContractiveGPT,
    DenseBlock,
    DirectedMessagePassing,
    Integrator,
    StackedDepth,
    contractive_step,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    "score": "contractive",
    "plain": "plain stack",
    "residual": "residual stack",
    "euler": "Euler",
    "heun": "Heun",
    "rk4": "Runge-Kutta 4",
}
_COLOURS = {"score": "tab:blue", "plain": "tab:orange", "residual": "tab:green"}


@dataclass(frozen=True)
class Parameters:
    vocab_size: int = 102
    context: int = 48
    dim: int = 48
    n_heads: int = 4
    gpt_layers: int = 4
    dense_dim: int = 64
    dense_layers: int = 6


@dataclass(frozen=True)
class Choice:
    learning_rate: float
    dt: float


@dataclass(frozen=True)
class Tuning:
    """What each method's learning rate, and the contractive one's step size, is chosen from."""

    learning_rates: tuple[float, ...] = (5e-3, 1e-2, 2e-2)
    step_sizes: tuple[float, ...] = (0.25, 0.5)

    def choices(self, *, contractive: bool) -> list[Choice]:
        return [
            Choice(*pair) for pair in product(self.learning_rates, self.step_sizes if contractive else (1.0,))
        ]


@dataclass(frozen=True)
class Molecules(Tuning):
    """Random molecule-like graphs, or those of `csv_file` (ESOL's columns), and a network that reads them."""

    graphs: int = 600
    train_share: float = 0.6
    validation_share: float = 0.15
    least_atoms: int = 8
    most_atoms: int = 17
    atom_types: int = 5
    bond_types: int = 2
    hidden: int = 48
    n_steps: int = 4
    epochs: int = 25
    batch_size: int = 50
    csv_file: str = ""


@dataclass(frozen=True)
class MoleculeIntegrators(Molecules):
    learning_rates: tuple[float, ...] = (5e-3, 1e-2)
    step_sizes: tuple[float, ...] = (0.5,)
    integrator: Integrator = "rk4"


@dataclass(frozen=True)
class MoleculeRace(Molecules):
    learning_rates: tuple[float, ...] = (1e-2, 2e-2, 4e-2)
    epochs: int = 15
    loss_threshold: float = 0.3


@dataclass(frozen=True)
class DigitRace(Tuning):
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    layers: int = 6
    batch_size: int = 64
    steps: int = 60
    loss_threshold: float = 0.5


@dataclass(frozen=True)
class Text(Tuning):
    """A language model of characters and how it is trained."""

    learning_rates: tuple[float, ...] = (3e-3, 6e-3, 1.2e-2)
    dim: int = 32
    n_heads: int = 4
    layers: int = 4
    context: int = 32
    batch_size: int = 8
    steps: int = 110
    embedding_scale: float | None = None
    """Standard deviation of the embeddings at the start; None for the author's, ``dim ** -0.5``."""
    dropout: float = 0.0
    text_file: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class TextRace(Text):
    final_steps: int = 20


@dataclass(frozen=True)
class TextIntegrators(Text):
    step_sizes: tuple[float, ...] = (0.5,)
    steps: int = 90
    held_out_windows: int = 256
    integrator: Integrator = "rk4"


@dataclass(frozen=True)
class IntegratorCost:
    hidden: int = 48
    graphs: int = 50
    dim: int = 48
    context: int = 32
    batch_size: int = 16
    n_steps: int = 4
    repeats: int = 15


@dataclass(frozen=True)
class Stability:
    dim: int = 64
    spectral_norm: float = 3.0
    n_steps: int = 20
    step_sizes: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    inputs: int = 64
    perturbation: float = 1e-3


@dataclass(frozen=True)
class SmallData(Tuning):
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    dim: int = 64
    layers: int = 6
    steps: int = 100
    train_share: float = 0.6
    validation_share: float = 0.2


def _train(
    model: nn.Module, losses: Iterable[Callable[[nn.Module], Tensor]], learning_rate: float
) -> Iterator[float]:
    """Adam on one loss after another; yields each loss's value before its step, after taking it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    for loss in losses:
        value = loss(model)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        yield value.item()


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


# ------------------------------------------------------------------------------------------------ parameters


def _count(model: nn.Module) -> float:
    return float(sum(parameter.numel() for parameter in model.parameters()))


def parameters(settings: Parameters, rng: np.random.Generator) -> Measurements:
    """Numbers of parameters of a shared block and of the stack that it replaces."""
    sizes = (settings.vocab_size, settings.context)
    width: dict[str, Any] = {"dim": settings.dim, "n_heads": settings.n_heads}
    with torch.device("meta"):
        shared = ContractiveGPT(*sizes, **width, n_steps=settings.gpt_layers)
        stack = ContractiveGPT(*sizes, **width, n_blocks=settings.gpt_layers, contractive=False)
        dense_shared = _dense_depth("score", settings.dense_dim, settings.dense_layers, 0.5)
        dense_stack = _dense_depth("plain", settings.dense_dim, settings.dense_layers, 0.5)
    return {
        "parameters_gpt": _count(shared),
        "parameters_gpt_stack": _count(stack),
        "ratio_gpt": _count(shared) / _count(stack),
        "layers_times_ratio_gpt_body": settings.gpt_layers * _count(shared.body) / _count(stack.body),
        "layers_times_ratio_dense_body": settings.dense_layers * _count(dense_shared) / _count(dense_stack),
    }


# ------------------------------------------------------------------------------------------------- molecules


@dataclass(frozen=True)
class _Graphs:
    """Molecules in a row; both directions of a bond are edges."""

    nodes: Tensor
    edges: Tensor
    edge_index: Tensor
    reverse_edge: Tensor
    graph_of_node: Tensor
    targets: Tensor

    def part(self, chosen: Tensor) -> _Graphs:
        """The chosen graphs, renumbered from 0 in the order chosen."""
        number = torch.full((len(self.targets),), -1)
        number[chosen] = torch.arange(len(chosen))
        graph_of_node = number[self.graph_of_node]
        keep_node = graph_of_node >= 0
        keep_edge = keep_node[self.edge_index[0]]
        node_number, edge_number = keep_node.cumsum(0) - 1, keep_edge.cumsum(0) - 1
        return _Graphs(
            self.nodes[keep_node],
            self.edges[keep_edge],
            node_number[self.edge_index[:, keep_edge]],
            edge_number[self.reverse_edge[keep_edge]],
            graph_of_node[keep_node],
            self.targets[chosen],
        )


def _generated_molecules(settings: Molecules, rng: np.random.Generator) -> _Graphs:
    """Random trees with up to two more bonds, no atom with more than four, and an additive property.

    The property sums what atoms, bonded pairs and second neighbours contribute by their types, each sum
    standardised over the graphs, less 0.08 an atom.
    """
    n, most = settings.graphs, settings.most_atoms
    sizes = rng.integers(settings.least_atoms, most + 1, n)
    exists = np.arange(most) < sizes[:, None]
    bonded = np.zeros((n, most, most), dtype=bool)

    def bond(graphs: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        bonded[graphs, u, v] = bonded[graphs, v, u] = True

    for atom in range(1, most):
        free = bonded[:, :atom].sum(axis=2) < 4
        parent = np.where(free, rng.random((n, atom)), -1.0).argmax(axis=1)
        graphs = np.flatnonzero(exists[:, atom])
        bond(graphs, np.full(len(graphs), atom), parent[graphs])
    for _ in range(2):
        free = (bonded.sum(axis=2) < 4) & exists
        possible = np.triu(free[:, :, None] & free[:, None, :] & ~bonded, 1).reshape(n, -1)
        pair = np.where(possible, rng.random(possible.shape), -1.0).argmax(axis=1)
        graphs = np.flatnonzero(possible.any(axis=1) & (rng.random(n) < 0.5))
        bond(graphs, *np.divmod(pair[graphs], most))

    atoms = rng.integers(settings.atom_types, size=(n, most))
    bonds = np.triu(rng.integers(settings.bond_types, size=(n, most, most)))
    bonds += np.triu(bonds, 1).swapaxes(1, 2)
    second = (bonded.astype(np.float32) @ bonded > 0) & ~bonded & ~np.eye(most, dtype=bool)
    of_atom = rng.standard_normal(settings.atom_types)
    of_second = rng.standard_normal((settings.atom_types, settings.atom_types))
    of_bond = rng.standard_normal((settings.bond_types, settings.atom_types, settings.atom_types))
    u, v = atoms[:, :, None], atoms[:, None, :]
    parts = (
        (of_atom[atoms] * exists).sum(axis=1),
        ((of_bond[bonds, u, v] + of_bond[bonds, v, u]) * bonded).sum(axis=(1, 2)),
        ((of_second[u, v] + of_second[v, u]) * second).sum(axis=(1, 2)),
    )
    targets = sum((part - part.mean()) / part.std() for part in parts) - 0.08 * sizes

    graph, source, target = np.nonzero(bonded)
    edge_number = np.zeros(bonded.shape, dtype=np.int64)
    edge_number[graph, source, target] = np.arange(len(graph))
    first = np.cumsum(sizes) - sizes
    return _Graphs(
        functional.one_hot(torch.from_numpy(atoms[exists]), settings.atom_types).float(),
        functional.one_hot(torch.from_numpy(bonds[bonded]), settings.bond_types).float(),
        torch.from_numpy(first[graph] + np.stack((source, target))),
        torch.from_numpy(edge_number[graph, target, source]),
        torch.from_numpy(np.repeat(np.arange(n), sizes)),
        torch.from_numpy(targets).float(),
    )


@lru_cache(maxsize=1)
def _read_molecules(csv_file: str) -> _Graphs:
    """Molecules of a table with ESOL's columns."""
    try:
        chem = importlib.import_module("rdkit.Chem")
    except ImportError:
        raise ImportError("molecules from a file need RDKit: pip install rdkit") from None
    elements, bond_orders = (6, 7, 8, 9, 15, 16, 17, 35, 53), (1.0, 1.5, 2.0, 3.0)
    nodes: list[list[float]] = []
    edges: list[list[float]] = []
    edge_index: list[tuple[int, int]] = []
    graph_of_node: list[int] = []
    targets: list[float] = []
    with Path(csv_file).open(newline="") as file:
        for graph, row in enumerate(csv.DictReader(file)):
            molecule = chem.MolFromSmiles(row["smiles"])
            targets.append(float(row["measured log solubility in mols per litre"]))
            first = len(nodes)
            for atom in molecule.GetAtoms():
                graph_of_node.append(graph)
                nodes.append(
                    [
                        *(float(atom.GetAtomicNum() == element) for element in elements),
                        *(float(atom.GetDegree() == degree) for degree in range(5)),
                        *(float(atom.GetTotalNumHs() == hydrogens) for hydrogens in range(5)),
                        float(atom.GetFormalCharge()),
                        float(atom.GetIsAromatic()),
                        atom.GetMass() / 100,
                    ]
                )
            for bond in molecule.GetBonds():
                ends = (first + bond.GetBeginAtomIdx(), first + bond.GetEndAtomIdx())
                edge_index += [ends, ends[::-1]]
                features = [
                    *(float(bond.GetBondTypeAsDouble() == order) for order in bond_orders),
                    float(bond.GetIsConjugated()),
                    float(bond.IsInRing()),
                ]
                edges += [features, features]
    return _Graphs(
        torch.tensor(nodes),
        torch.tensor(edges),
        torch.tensor(edge_index).T.contiguous(),
        torch.arange(len(edges)) ^ 1,  # the two directions of a bond follow each other
        torch.tensor(graph_of_node),
        torch.tensor(targets),
    )


class _PropertyNetwork(nn.Module):
    """Message passing, the sum over a molecule's atoms in units of the mean number of them, two layers."""

    def __init__(self, network: DirectedMessagePassing, hidden: int, mean_atoms: float) -> None:
        super().__init__()
        self.network = network
        self.mean_atoms = mean_atoms
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, graphs: _Graphs) -> Tensor:
        h = self.network(graphs.nodes, graphs.edges, graphs.edge_index, graphs.reverse_edge)
        sums = h.new_zeros(len(graphs.targets), h.shape[1]).index_add(0, graphs.graph_of_node, h)
        prediction: Tensor = self.head(sums / self.mean_atoms).squeeze(1)
        return prediction


def _squared_error(graphs: _Graphs, model: nn.Module) -> Tensor:
    return functional.mse_loss(model(graphs), graphs.targets)


class _Chemistry:
    """One trial's molecules, split, with targets in units of the training targets' deviation."""

    def __init__(self, settings: Molecules, rng: np.random.Generator) -> None:
        self.settings = settings
        graphs = (
            _read_molecules(settings.csv_file) if settings.csv_file else _generated_molecules(settings, rng)
        )
        n = len(graphs.targets)
        n_train, n_validation = (
            round(share * n) for share in (settings.train_share, settings.validation_share)
        )
        parts = torch.from_numpy(rng.permutation(n)).tensor_split([n_train, n_train + n_validation])
        train = graphs.targets[parts[0]]
        graphs = replace(graphs, targets=(graphs.targets - train.mean()) / train.std())
        self.train, self.validation, self.test = (graphs.part(part) for part in parts)
        self.mean_atoms = len(graphs.nodes) / n

    def losses(self, rng: np.random.Generator) -> list[Callable[[nn.Module], Tensor]]:
        """One a batch; the last, smaller batch of an epoch is left out."""
        n, size = len(self.train.targets), self.settings.batch_size
        orders = (torch.from_numpy(rng.permutation(n)) for _ in range(self.settings.epochs))
        batches = [batch for order in orders for batch in order[: n - n % size].reshape(-1, size)]
        return [partial(_squared_error, self.train.part(batch)) for batch in batches]

    def model(self, seed: int, **depth: Any) -> _PropertyNetwork:
        torch.manual_seed(seed)
        network = DirectedMessagePassing(
            self.train.nodes.shape[1],
            self.train.edges.shape[1],
            self.settings.hidden,
            n_steps=self.settings.n_steps,
            **depth,
        )
        return _PropertyNetwork(network, self.settings.hidden, self.mean_atoms)

    def test_errors(
        self, variants: Mapping[str, Mapping[str, Any]], rng: np.random.Generator
    ) -> dict[str, float]:
        """Root mean squared error of each variant, tuned by validation, in deviations of the target."""
        losses, seed = self.losses(rng), _seed(rng)
        found = {}
        for name, depth in variants.items():
            errors = []
            for choice in self.settings.choices(contractive=depth.get("contractive", True)):
                model = self.model(seed, dt=choice.dt, **depth)
                list(_train(model, losses, choice.learning_rate))
                with torch.no_grad():
                    errors.append(
                        [_squared_error(part, model).item() for part in (self.validation, self.test)]
                    )
            found[f"rmse_{name}"] = min(errors)[1] ** 0.5
        return found


def molecule_quality(settings: Molecules, rng: np.random.Generator) -> Measurements:
    """Test errors with contractive and with plain updates of the messages."""
    return _Chemistry(settings, rng).test_errors({"score": {}, "plain": {"contractive": False}}, rng)


def molecule_integrators(settings: MoleculeIntegrators, rng: np.random.Generator) -> Measurements:
    """Test errors with Euler's method and a higher-order one, and what the latter gains."""
    variants: dict[str, dict[str, Any]] = {
        name: {"integrator": name} for name in ("euler", settings.integrator)
    }
    errors = _Chemistry(settings, rng).test_errors(variants, rng)
    return {**errors, "gain": errors["rmse_euler"] - errors[f"rmse_{settings.integrator}"]}


# ---------------------------------------------------------------------------------------------- convergence


def _race(
    settings: Tuning,
    methods: Sequence[str],
    course: Callable[[], Callable[[str, Choice], list[float]]],
    cost: Callable[[list[float]], float],
    measured: str,
) -> Measurements:
    """The cost of each method's losses on a second course, with the choice that costs least on the first."""
    tuning, final = course(), course()
    measurements: dict[str, float | Sequence[float]] = {}
    for method in methods:
        choices = settings.choices(contractive=method == "score")
        best = choices[0]
        if len(choices) > 1:
            best = min(choices, key=lambda choice: cost(tuning(method, choice)))
        losses = final(method, best)
        measurements |= {
            f"{measured}_{method}": cost(losses),
            f"learning_rate_{method}": best.learning_rate,
            f"losses_{method}": losses,
        }
        if method == "score":
            measurements["dt_score"] = best.dt
    return measurements


def _smoothed(losses: Sequence[float]) -> np.ndarray:
    """Means of five losses in a row."""
    return np.convolve(losses, np.full(5, 0.2), mode="valid")


def _steps_to(threshold: float, losses: Sequence[float]) -> float:
    """Optimiser steps until the smoothed loss is below the threshold; all of them if it never is."""
    below = np.flatnonzero(_smoothed(losses) < threshold)
    return float(below[0] + 5 if len(below) else len(losses))


def molecule_convergence(settings: MoleculeRace, rng: np.random.Generator) -> Measurements:
    """Steps to a training loss on molecules."""
    chemistry = _Chemistry(settings, rng)

    def course() -> Callable[[str, Choice], list[float]]:
        losses, seed = chemistry.losses(rng), _seed(rng)

        def run(method: str, choice: Choice) -> list[float]:
            model = chemistry.model(seed, dt=choice.dt, contractive=method == "score")
            return list(_train(model, losses, choice.learning_rate))

        return run

    return _race(settings, ("score", "plain"), course, partial(_steps_to, settings.loss_threshold), "steps")


def _dense_depth(method: str, dim: int, layers: int, dt: float) -> nn.Module:
    if method == "score":
        return ContractiveDepth(DenseBlock(dim), n_steps=layers, dt=dt)
    blocks = [DenseBlock(dim) for _ in range(layers)]
    return StackedDepth(blocks, update="residual" if method == "residual" else "plain")


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float() / 8 - 1, torch.from_numpy(labels)


def digit_convergence(settings: DigitRace, rng: np.random.Generator) -> Measurements:
    """Steps to a training loss on handwritten digits, 8 by 8 pixels."""
    images, labels = _digits()

    def loss(rows: Tensor, model: nn.Module) -> Tensor:
        return functional.cross_entropy(model(images[rows]), labels[rows])

    def course() -> Callable[[str, Choice], list[float]]:
        seed = _seed(rng)
        rows = torch.from_numpy(rng.integers(len(labels), size=(settings.steps, settings.batch_size)))
        losses = [partial(loss, batch) for batch in rows]

        def run(method: str, choice: Choice) -> list[float]:
            torch.manual_seed(seed)
            head = nn.Linear(images.shape[1], 10)
            depth = _dense_depth(method, images.shape[1], settings.layers, choice.dt)
            return list(_train(nn.Sequential(depth, head), losses, choice.learning_rate))

        return run

    methods = ("score", "plain", "residual")
    return _race(settings, methods, course, partial(_steps_to, settings.loss_threshold), "steps")


@lru_cache(maxsize=1)
def _corpus(text_file: str) -> tuple[Tensor, Tensor, int]:
    """Training text, held-out text (the last tenth) and the number of distinct characters."""
    if text_file:
        text = Path(text_file).read_text(encoding="utf-8")
    else:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    alphabet, tokens = np.unique(np.array(list(text)), return_inverse=True)
    train, held_out = torch.from_numpy(tokens).tensor_split([len(tokens) * 9 // 10])
    return train, held_out, len(alphabet)


def _text_model(settings: Text, seed: int, **depth: Any) -> ContractiveGPT:
    torch.manual_seed(seed)
    _, _, vocab_size = _corpus(settings.text_file)
    model = ContractiveGPT(
        vocab_size,
        settings.context,
        dim=settings.dim,
        n_heads=settings.n_heads,
        dropout=settings.dropout,
        **depth,
    )
    if settings.embedding_scale is not None:
        for embedding in (model.token_embedding, model.position_embedding):
            with torch.no_grad():
                embedding.weight.mul_(settings.embedding_scale * settings.dim**0.5)
    return model.to(settings.device)


def _text_loss(text: Tensor, starts: Tensor, settings: Text, model: nn.Module) -> Tensor:
    windows = text.unfold(0, settings.context + 1, 1)[starts].to(settings.device)
    return functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def _text_losses(settings: Text, rng: np.random.Generator) -> list[Callable[[nn.Module], Tensor]]:
    train, _, _ = _corpus(settings.text_file)
    size = (settings.steps, settings.batch_size)
    starts = torch.from_numpy(rng.integers(len(train) - settings.context, size=size))
    return [partial(_text_loss, train, batch, settings) for batch in starts]


def text_convergence(settings: TextRace, rng: np.random.Generator) -> Measurements:
    """Training loss of a language model of characters at the end of a few steps."""

    def course() -> Callable[[str, Choice], list[float]]:
        losses, seed = _text_losses(settings, rng), _seed(rng)

        def run(method: str, choice: Choice) -> list[float]:
            depth: dict[str, Any] = {"n_blocks": settings.layers, "contractive": False}
            if method == "score":
                depth = {"n_steps": settings.layers, "dt": choice.dt}
            return list(_train(_text_model(settings, seed, **depth), losses, choice.learning_rate))

        return run

    def cost(losses: list[float]) -> float:
        return float(np.mean(losses[-settings.final_steps :]))

    return _race(settings, ("score", "plain"), course, cost, "loss")


# ---------------------------------------------------------------------------------------------- integrators


@torch.no_grad()
def _held_out_losses(settings: TextIntegrators, model: nn.Module) -> list[float]:
    """The loss on the first half of the held-out text, for tuning, and on the second."""
    _, held_out, _ = _corpus(settings.text_file)
    starts = torch.linspace(0, len(held_out) - settings.context - 1, settings.held_out_windows).long()
    model.eval()
    return [_text_loss(held_out, half, settings, model).item() for half in starts.tensor_split(2)]


def text_integrators(settings: TextIntegrators, rng: np.random.Generator) -> Measurements:
    """Held-out losses with Euler's method and a higher-order one, and what the latter gains."""
    losses, seed = _text_losses(settings, rng), _seed(rng)
    found = {}
    for name in ("euler", settings.integrator):
        held_out = []
        for choice in settings.choices(contractive=True):
            model = _text_model(settings, seed, n_steps=settings.layers, dt=choice.dt, integrator=name)
            list(_train(model, losses, choice.learning_rate))
            held_out.append(_held_out_losses(settings, model))
        found[f"loss_{name}"] = min(held_out)[1]
    return {**found, "gain": found["loss_euler"] - found[f"loss_{settings.integrator}"]}


def integrator_cost(settings: IntegratorCost, rng: np.random.Generator) -> Measurements:
    """Least seconds of paired training steps, without the optimiser, with Euler's method and with rk4."""
    molecules = Molecules(
        graphs=settings.graphs,
        train_share=1.0,
        validation_share=0.0,
        hidden=settings.hidden,
        n_steps=settings.n_steps,
    )
    chemistry = _Chemistry(molecules, rng)
    text = Text(dim=settings.dim, context=settings.context, batch_size=settings.batch_size, steps=1)
    (text_loss,), seed = _text_losses(text, rng), _seed(rng)
    graph_loss = partial(_squared_error, chemistry.train)
    measurements: dict[str, float] = {}
    for task, loss, build in (
        ("molecules", graph_loss, chemistry.model),
        ("text", text_loss, partial(_text_model, text, n_steps=settings.n_steps)),
    ):
        models = [build(seed, integrator=name) for name in ("euler", "rk4")]
        seconds = np.empty((settings.repeats, 2))
        for repeat, (m, model) in product(range(settings.repeats), enumerate(models)):
            start = time.perf_counter()
            torch.autograd.backward(loss(model))
            seconds[repeat, m] = time.perf_counter() - start
        euler, rk4 = seconds.min(axis=0)
        measurements |= {
            f"time_ratio_{task}": float(rk4 / euler),
            f"seconds_euler_{task}": float(euler),
            f"seconds_rk4_{task}": float(rk4),
        }
    return measurements


# ------------------------------------------------------------------------------------------------ stability


@torch.no_grad()
def stability(settings: Stability, rng: np.random.Generator) -> Measurements:
    """Growth, response to a perturbation and mean relative update of a block that is no contraction."""
    torch.manual_seed(_seed(rng))
    block = DenseBlock(settings.dim).double()
    weight = block[2].get_parameter("weight")
    weight.mul_(settings.spectral_norm / torch.linalg.matrix_norm(weight, 2))
    h0 = torch.randn(settings.inputs, settings.dim, dtype=torch.float64)
    direction = torch.randn_like(h0)
    perturbed = h0 + settings.perturbation * direction / direction.norm(dim=1, keepdim=True)

    growths, sensitivities, updates = [], [], []
    for dt in settings.step_sizes:
        h, moved = h0, perturbed
        relative = []
        for _ in range(settings.n_steps):
            previous = h
            h, moved = contractive_step(h, block, dt), contractive_step(moved, block, dt)
            relative.append(float((h - previous).norm() / previous.norm()))
        growths.append(float(h.norm() / h0.norm()))
        sensitivities.append(float((moved - h).norm() / (perturbed - h0).norm()))
        updates.append(float(np.mean(relative)))
    residual = StackedDepth([block] * settings.n_steps, update="residual")
    return {
        "largest_growth": max(growths),
        "growth_residual": float(residual(h0).norm() / h0.norm()),
        "sensitivity_residual": float((residual(perturbed) - residual(h0)).norm() / (perturbed - h0).norm()),
        "least_sensitivity_ratio": float(np.min(np.divide(sensitivities[1:], sensitivities[:-1]))),
        "least_update_ratio": float(np.min(np.divide(updates[1:], updates[:-1]))),
        "step_sizes": list(settings.step_sizes),
        "growths": growths,
        "sensitivities": sensitivities,
        "updates": updates,
    }


# ----------------------------------------------------------------------------------------------- small data


def small_data(settings: SmallData, rng: np.random.Generator) -> Measurements:
    """Test error on 442 patients' diabetes, each method stopped when it is best on validation data."""
    from sklearn.datasets import load_diabetes

    X, y = (torch.from_numpy(array).float() for array in load_diabetes(return_X_y=True))
    n_train, n_validation = (
        round(share * len(y)) for share in (settings.train_share, settings.validation_share)
    )
    order = torch.from_numpy(rng.permutation(len(y)))
    train, *others = order.tensor_split([n_train, n_train + n_validation])
    X = (X - X[train].mean(0)) / X[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    seed = _seed(rng)

    def loss(rows: Tensor, model: nn.Module) -> Tensor:
        return functional.mse_loss(model(X[rows]).squeeze(1), y[rows])

    measurements = {}
    for method in ("score", "plain", "residual"):
        errors = []
        for choice in settings.choices(contractive=method == "score"):
            torch.manual_seed(seed)
            into, out = nn.Linear(X.shape[1], settings.dim), nn.Linear(settings.dim, 1)
            model = nn.Sequential(into, _dense_depth(method, settings.dim, settings.layers, choice.dt), out)
            for _ in _train(model, [partial(loss, train)] * settings.steps, choice.learning_rate):
                with torch.no_grad():
                    errors.append([loss(rows, model).item() for rows in others])
        measurements[f"mse_{method}"] = min(errors)[1]
    return measurements


# -------------------------------------------------------------------------------------------------- figures


def _draw_errors(rows: Sequence[Measurements], measured: str, ylabel: str) -> Figure:
    """A column for each method or integrator that the trials measured."""
    figure, axes = figures.axes("", ylabel)
    names = [name for name in _LABELS if f"{measured}_{name}" in rows[0]]
    columns = {_LABELS[name]: figures.values(rows, f"{measured}_{name}") for name in names}
    figures.dots(axes, columns, paired=True)
    return figure


def draw_molecules(rows: Sequence[Measurements]) -> Figure:
    return _draw_errors(rows, "rmse", "test error (deviations of the target)")


def draw_text(rows: Sequence[Measurements]) -> Figure:
    return _draw_errors(rows, "loss", "held-out loss (nats a character)")


def draw_small_data(rows: Sequence[Measurements]) -> Figure:
    return _draw_errors(rows, "mse", "test mean squared error (variances of the target)")


def draw_convergence(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("optimiser step", "training loss, mean of five steps")
    for name, colour in _COLOURS.items():
        if f"losses_{name}" not in rows[0]:
            continue
        smoothed = np.array([_smoothed(losses) for losses in figures.curves(rows, f"losses_{name}")])
        steps = np.arange(5, 5 + smoothed.shape[1])
        axes.plot(steps, smoothed.T, color=colour, alpha=0.2, linewidth=0.7)
        axes.plot(steps, np.median(smoothed, axis=0), color=colour, label=f"{_LABELS[name]}, median")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def draw_stability(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(3)
    step_sizes = figures.curves(rows, "step_sizes")[0]
    for panel, name, label in zip(
        panels,
        ("growths", "sensitivities", "updates"),
        ("norm at the end / at the start", "response to a small perturbation", "mean relative update"),
        strict=True,
    ):
        panel.plot(step_sizes, figures.curves(rows, name).T, "o-", color="tab:blue", alpha=0.4, markersize=4)
        panel.set(xlabel="step size", ylabel=label, xscale="log", yscale="log")
    for panel, name in zip(panels, ("growth_residual", "sensitivity_residual"), strict=False):
        residual = float(np.median(figures.values(rows, name)))
        panel.axhline(residual, color=_COLOURS["residual"], label="residual stack, median")
    panels[0].legend(frameon=False)
    return figure


def _abstract(value: str) -> Published:
    return Published(value, "abstract")


_FASTER = "generally improves convergence speed"
_EULER = "Euler integration gives the best trade-off; higher-order integrators marginal gains at more cost"
_STEP_SIZE = "the step size explicitly controls stability and update magnitude"
_ESOL: dict[str, Any] = {
    "learning_rates": (3e-4, 1e-3),
    "train_share": 0.7,
    "validation_share": 0.1,
    "hidden": 300,
    "epochs": 100,
    "batch_size": 64,
    "csv_file": "delaney-processed.csv",
}
_SHAKESPEARE: dict[str, Any] = {
    "learning_rates": (3e-4,),
    "step_sizes": (0.5,),
    "dim": 384,
    "n_heads": 6,
    "layers": 6,
    "context": 256,
    "batch_size": 64,
    "steps": 5000,
    "dropout": 0.2,
    "text_file": "tinyshakespeare.txt",
    "device": "cuda",
}


def _molecule_quality(name: str, quick: Molecules) -> Experiment:
    return Experiment(
        name=name,
        trial=molecule_quality,
        scales={"quick": quick, "full": Molecules(**_ESOL, n_steps=quick.n_steps)},
        claims=(
            Claim(
                "matches_plain_network",
                "predicts a property of molecules at least as well as a plain D-MPNN does, both at "
                f"{quick.n_steps} steps",
                better("rmse_score", than="rmse_plain", lower=True),
                _abstract("a lightweight and effective alternative to classical stacking"),
            ),
        ),
        figure=draw_molecules,
    )


def _text_race(name: str, start: str, quick: TextRace, full: TextRace) -> Experiment:
    return Experiment(
        name=name,
        trial=text_convergence,
        scales={"quick": quick, "full": full},
        claims=(
            Claim(
                "faster_than_plain_stack",
                "brings the training loss of a character GPT below that of the plain stack in equally many "
                f"steps, the embeddings starting {start}",
                better("loss_score", than="loss_plain", lower=True),
                _abstract(_FASTER),
            ),
        ),
        figure=draw_convergence,
    )


def _integrators(integrator: Integrator, label: str) -> tuple[Experiment, ...]:
    def claims(measured: str) -> tuple[Claim, ...]:
        return (
            Claim(
                "gain_is_marginal",
                f"loses at most 0.02 of {measured} by Euler's method in place of {label}",
                at_most("gain", 0.02),
                _abstract(_EULER),
            ),
        )

    return (
        Experiment(
            name=f"molecule_{integrator}",
            trial=molecule_integrators,
            scales={
                "quick": MoleculeIntegrators(integrator=integrator),
                "full": MoleculeIntegrators(**_ESOL, integrator=integrator),
            },
            claims=claims("a deviation of error on molecules"),
            figure=draw_molecules,
        ),
        Experiment(
            name=f"text_{integrator}",
            trial=text_integrators,
            scales={
                "quick": TextIntegrators(integrator=integrator),
                "full": TextIntegrators(
                    **{**_SHAKESPEARE, "dropout": 0.0}, held_out_windows=512, integrator=integrator
                ),
            },
            claims=claims("a nat of loss on text"),
            figure=draw_text,
        ),
    )


STUDY = Study(
    slug="contractive_depth",
    experiments=(
        Experiment(
            name="parameters",
            trial=parameters,
            scales={
                "quick": Parameters(),
                "full": Parameters(
                    vocab_size=65, context=256, dim=384, n_heads=6, gpt_layers=6, dense_dim=256
                ),
            },
            claims=(
                Claim(
                    "body_is_one_layer",
                    "cuts the parameters of a body of L layers to 1/L, in a GPT and in a perceptron",
                    all_of(
                        near("layers_times_ratio_gpt_body", 1, 1e-12),
                        near("layers_times_ratio_dense_body", 1, 1e-12),
                    ),
                    _abstract("reduces the parameter count through shared weights"),
                ),
                Claim(
                    "fewer_parameters",
                    "cuts all parameters of a small GPT, embeddings and head included, to 35 % or less",
                    at_most("ratio_gpt", 0.35),
                    _abstract("reduces the parameter count through shared weights"),
                ),
            ),
            deterministic=True,
        ),
        _molecule_quality("molecule_quality", Molecules()),
        _molecule_quality("deep_molecule_quality", Molecules(n_steps=8, epochs=15)),
        Experiment(
            name="molecule_convergence",
            trial=molecule_convergence,
            scales={"quick": MoleculeRace(), "full": MoleculeRace(**_ESOL)},
            claims=(
                Claim(
                    "faster_than_plain_stack",
                    "reaches a training loss on molecules in fewer steps than the plain D-MPNN",
                    better("steps_score", than="steps_plain", lower=True),
                    _abstract(_FASTER),
                ),
            ),
            figure=draw_convergence,
        ),
        Experiment(
            name="digit_convergence",
            trial=digit_convergence,
            scales={"quick": DigitRace(), "deeper": DigitRace(layers=12, steps=200)},
            claims=tuple(
                Claim(
                    f"faster_than_{other}_stack",
                    f"reaches a training loss on digits in fewer steps than the {other} stack of layers",
                    better("steps_score", than=f"steps_{other}", lower=True),
                    _abstract(_FASTER),
                )
                for other in ("plain", "residual")
            ),
            figure=draw_convergence,
        ),
        _text_race(
            "text_convergence",
            "as the author's do",
            TextRace(),
            TextRace(**_SHAKESPEARE, final_steps=100),
        ),
        _text_race(
            "text_convergence_wide_start",
            "at a deviation of 1",
            TextRace(embedding_scale=1.0, learning_rates=(6e-3, 1.2e-2, 2.4e-2)),
            TextRace(**_SHAKESPEARE, embedding_scale=1.0, final_steps=100),
        ),
        *_integrators("heun", "Heun's"),
        *_integrators("rk4", "the fourth-order Runge-Kutta method"),
        Experiment(
            name="integrator_cost",
            trial=integrator_cost,
            scales={"quick": IntegratorCost(), "larger": IntegratorCost(hidden=300, dim=384, context=256)},
            claims=(
                Claim(
                    "higher_order_costs_more",
                    "takes at most half the time of the fourth-order Runge-Kutta method with Euler's, on "
                    "molecules and on text",
                    all_of(at_least("time_ratio_molecules", 2), at_least("time_ratio_text", 2)),
                    _abstract(_EULER),
                ),
            ),
            exclusive=True,
        ),
        Experiment(
            name="stability",
            trial=stability,
            scales={"quick": Stability(), "wider": Stability(dim=512, inputs=256)},
            claims=(
                Claim(
                    "bounded_at_every_step_size",
                    "keeps the state bounded over 20 steps of a block that is no contraction, where adding "
                    "the block's output multiplies it by ten",
                    all_of(at_most("largest_growth", 1.2), at_least("growth_residual", 10)),
                    _abstract(_STEP_SIZE),
                ),
                Claim(
                    "step_size_controls_sensitivity",
                    "responds the more to a small perturbation the larger the step size",
                    at_least("least_sensitivity_ratio", 1),
                    _abstract(_STEP_SIZE),
                ),
                Claim(
                    "step_size_controls_updates",
                    "changes the state the more in a step the larger the step size",
                    at_least("least_update_ratio", 1),
                    _abstract(_STEP_SIZE),
                ),
            ),
            figure=draw_stability,
        ),
        Experiment(
            name="small_data",
            trial=small_data,
            scales={"quick": SmallData(), "larger": SmallData(dim=256, steps=300)},
            claims=tuple(
                Claim(
                    f"errs_less_than_{other}_stack",
                    f"errs less than the {other} stack of dense layers when there are few data",
                    better("mse_score", than=f"mse_{other}", lower=True),
                )
                for other in ("plain", "residual")
            ),
            figure=draw_small_data,
        ),
    ),
)
