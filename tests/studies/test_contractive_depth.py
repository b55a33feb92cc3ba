"""The study of contractive depth: its trials measure what its claims read, repeat, and draw."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.evidence.verdicts import check_measurements
from assay.studies.contractive_depth import STUDY, Molecules, _generated_molecules, _steps_to

_RATES = {"learning_rates": (3e-3, 1e-2), "step_sizes": (0.5,)}
_MOLECULES = {**_RATES, "graphs": 60, "batch_size": 12, "hidden": 8, "epochs": 2}
_TEXT = {**_RATES, "dim": 8, "n_heads": 2, "layers": 2, "context": 8, "steps": 8}
SMALL = {
    "parameters": {},
    "molecule_quality": _MOLECULES,
    "deep_molecule_quality": _MOLECULES,
    "molecule_convergence": _MOLECULES,
    "digit_convergence": {**_RATES, "layers": 3, "steps": 8},
    "text_convergence": _TEXT,
    "text_convergence_wide_start": _TEXT,
    "molecule_heun": _MOLECULES,
    "text_heun": {**_TEXT, "held_out_windows": 32},
    "molecule_rk4": _MOLECULES,
    "text_rk4": {**_TEXT, "held_out_windows": 32},
    "integrator_cost": {"hidden": 8, "graphs": 5, "dim": 8, "context": 8, "repeats": 2},
    "stability": {},
    "small_data": {**_RATES, "dim": 8, "steps": 5},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def fresh_trial(experiment, index):
    settings = replace(experiment.scales["quick"], **SMALL[experiment.name])
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@functools.cache
def small_trial(name, index):
    return fresh_trial(STUDY.experiment(name), index)


@experiments
def test_a_trial_measures_what_its_claims_read_and_is_its_generators(experiment):
    one, other = (small_trial(experiment.name, index) for index in (0, 1))
    same = fresh_trial(experiment, 0)
    for claim in experiment.claims:
        assert claim.asks(check_measurements(experiment, one)) in (True, False)
    assert one.keys() == same.keys() == other.keys()
    if not experiment.exclusive:
        assert one == same
        assert (one == other) == experiment.deterministic


@experiments
def test_the_figure_draws(experiment, tmp_path):
    if experiment.figure is None:
        pytest.skip("this experiment has no figure")
    figure = experiment.figure([small_trial(experiment.name, index) for index in range(2)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_counts_of_parameters_are_those_added_up_by_hand():
    measurements = small_trial("parameters", 0)
    block = 4 * 48 * 48 + 48 + 8 * 48 * 48 + 5 * 48 + 4 * 48
    rest = 102 * 48 + 48 * 48 + 2 * 48 + 48 * 102 + 102
    assert (measurements["parameters_gpt"], measurements["parameters_gpt_stack"]) == (
        rest + block,
        rest + 4 * block,
    )


def molecules(**changes):
    settings = replace(Molecules(), **changes)
    return settings, _generated_molecules(
        settings, trial_generator(STUDY.slug, "molecule_quality", 2_000_000)
    )


def test_generated_molecules_are_connected_graphs_of_bounded_degree():
    settings, graphs = molecules(graphs=80)
    source, target = graphs.edge_index
    n_atoms = torch.bincount(graphs.graph_of_node)
    assert len(n_atoms) == 80
    assert settings.least_atoms <= n_atoms.min() < n_atoms.max() <= settings.most_atoms
    assert torch.bincount(source).max() <= 4
    assert torch.equal(graphs.edge_index[:, graphs.reverse_edge], graphs.edge_index.flip(0))
    assert torch.equal(graphs.edges[graphs.reverse_edge], graphs.edges)
    # Along its edges, each atom finds the first one of its own molecule and of no other.
    label = torch.arange(len(graphs.nodes))
    for _ in range(settings.most_atoms):
        label = label.scatter_reduce(0, target, label[source], "amin")
    first = n_atoms.cumsum(0) - n_atoms
    assert torch.equal(label, first[graphs.graph_of_node])


def test_a_part_of_the_molecules_holds_the_chosen_ones_in_the_chosen_order():
    _, graphs = molecules(graphs=20)
    chosen = torch.tensor([7, 3, 12])
    part = graphs.part(chosen)
    assert torch.equal(part.targets, graphs.targets[chosen])
    for number, graph in enumerate(chosen):
        mine, theirs = graphs.graph_of_node == graph, part.graph_of_node == number
        assert torch.equal(graphs.nodes[mine], part.nodes[theirs])
        edges, part_edges = mine[graphs.edge_index[0]], theirs[part.edge_index[0]]
        assert torch.equal(graphs.edges[edges], part.edges[part_edges])
        for ends, part_ends in zip(graphs.edge_index, part.edge_index, strict=True):
            assert torch.equal(graphs.nodes[ends[edges]], part.nodes[part_ends[part_edges]])
    assert torch.equal(part.edge_index[:, part.reverse_edge], part.edge_index.flip(0))


def test_steps_are_counted_until_the_mean_of_five_losses_is_below_the_threshold():
    losses = [1.0] * 10 + [0.0] * 10
    assert _steps_to(0.5, losses) == 13
    assert _steps_to(0.0, losses) == 20
    assert _steps_to(2.0, losses) == 5


def test_the_methods_of_a_race_have_the_same_weights_and_batches():
    measurements = small_trial("molecule_convergence", 0)
    score, plain = (np.array(measurements[f"losses_{name}"]) for name in ("score", "plain"))
    assert len(score) == len(plain) == 2 * (36 // 12)
    # Weights, batches and the first update of the messages are shared; the later ones differ.
    assert abs(score[0] / plain[0] - 1) < 0.05
    assert score[0] != plain[0]
