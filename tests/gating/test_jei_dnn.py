"""JEI-DNN: exits, targets and features against plain loops; what training may touch; what inference skips."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve
from torch import nn
from torch.nn import functional

from assay.gating import (
    EarlyExitNetwork,
    conformal_threshold,
    exit_distribution,
    exit_index,
    expected_calibration_error,
    fit_heads,
    fit_joint,
    gate_targets,
    threshold_exit,
    threshold_for_budget,
    uncertainty_features,
)
from assay.gating import jei_dnn as module

quick = settings(deadline=None, max_examples=50)
MODELS = ("marginal", "hazard")
CLASSES = 3


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


# ---------------------------------------------------------------------------------------- exits and gates


@pytest.mark.parametrize(
    ("gates", "model", "distribution", "leaves_at"),
    [
        ((0.3, 0.6, 0.9), "marginal", (0.3, 0.6, 0.1, 0.0), 1),
        ((0.3, 0.6, 0.9), "hazard", (0.3, 0.42, 0.252, 0.028), 1),
        ((0.1, 0.25, 0.4), "marginal", (0.1, 0.25, 0.4, 0.25), 2),
        ((0.1, 0.25, 0.4), "hazard", (0.1, 0.225, 0.27, 0.405), 3),
        ((0.5, 0.0, 1.0), "marginal", (0.5, 0.0, 0.5, 0.0), 0),
        ((0.0, 0.0, 0.0), "marginal", (0.0, 0.0, 0.0, 1.0), 3),
        ((1.0, 1.0, 1.0), "hazard", (1.0, 0.0, 0.0, 0.0), 0),
    ],
)
def test_exits_of_worked_examples(gates, model, distribution, leaves_at):
    gates = doubles([gates])
    torch.testing.assert_close(exit_distribution(gates, model), doubles([distribution]))
    assert exit_index(gates, model).tolist() == [leaves_at]


gate_outputs = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.integers(0, 1000).map(lambda k: k / 1000),
)


@quick
@given(gate_outputs, st.sampled_from(MODELS))
def test_exits_follow_their_definition(gates, model):
    distribution = exit_distribution(torch.from_numpy(gates), model).numpy()
    exits = exit_index(torch.from_numpy(gates), model).tolist()
    assert distribution.sum(1) == pytest.approx(1)
    for row, g in enumerate(gates):
        going_on, leaves_at = 1.0, None
        for level, output in enumerate(g):
            if model == "marginal":
                probability = max(0.0, min(output, 1 - g[:level].sum()))
            else:
                probability = output * np.prod(1 - g[:level])
            assert distribution[row, level] == pytest.approx(probability, abs=1e-12)
            conditional = probability / going_on if going_on > 1e-12 else 1.0
            going_on *= 1 - conditional
            if abs(conditional - 0.5) < 1e-9:
                leaves_at = exits[row]  # a tie but for rounding: either is right
            if conditional >= 0.5 and leaves_at is None:
                leaves_at = level
        assert exits[row] == (len(g) if leaves_at is None else leaves_at)


@quick
@given(gate_outputs)
def test_marginal_gates_let_out_no_later_than_hazards(gates):
    gates = torch.from_numpy(gates)
    assert (exit_index(gates) <= exit_index(gates, "hazard")).all()


def test_half_is_enough_to_leave():
    gates = torch.tensor([[0.5, 0.0], [math.nextafter(0.5, 0) - 1e-7, 0.5]])
    assert exit_index(gates, "hazard").tolist() == [0, 1]


@pytest.mark.parametrize(("cost_weight", "targets"), [(0.1, (0, 0, 0)), (2.0, (0, 1, 1)), (9.0, (1, 1, 1))])
def test_targets_of_a_worked_example(cost_weight, targets):
    losses, costs = doubles([[1, 0.4, 0.39, 0.1]]), doubles([0.25, 0.5, 0.75, 1])
    assert gate_targets(losses, costs, cost_weight).tolist() == [list(targets)]


@quick
@given(st.integers(0, 999), st.floats(0, 5))
def test_targets_are_ones_from_the_first_best_exit_on(seed, cost_weight):
    rng = np.random.default_rng(seed)
    losses, costs = rng.integers(0, 4, (5, 4)).astype(float), np.arange(1, 5) / 4
    targets = gate_targets(torch.from_numpy(losses), torch.from_numpy(costs), cost_weight).numpy()
    best = [min(range(4), key=lambda level: row[level] + cost_weight * costs[level]) for row in losses]
    assert (targets == [[level >= first for level in range(3)] for first in best]).all()


def test_features_of_worked_examples():
    features = uncertainty_features(doubles([[0, 0], [math.log(3), 0]]))
    expected = doubles([[0.5, math.log(2), 0, math.log(2)], [0.75, 0.562335, 0.5, 0.325083]])
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)
    certain = uncertainty_features(doubles([[1e4, 0, 0]]))  # probabilities of exactly zero
    assert certain.tolist() == [[1, 0, 1, 0]]


@quick
@given(st.integers(0, 999), st.integers(2, 6))
def test_features_follow_their_definition(seed, classes):
    logits = torch.randn(4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    logits.requires_grad_()
    features = uncertainty_features(logits)
    assert not features.requires_grad
    for row, (largest, entropy, margin, squared_entropy) in zip(logits, features.tolist(), strict=True):
        p = sorted((row - row.logsumexp(0)).exp().tolist())
        square = [each**2 / sum(other**2 for other in p) for each in p]
        assert largest == pytest.approx(p[-1])
        assert entropy == pytest.approx(-sum(each * math.log(each) for each in p))
        assert margin == pytest.approx(p[-1] - p[-2])
        assert squared_entropy == pytest.approx(-sum(each * math.log(each) for each in square))


# -------------------------------------------------------------------------------------------- the network


def residual_stages(width, depth):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Sequential(nn.Linear(width, width), nn.Tanh())

        def forward(self, x):
            return x + self.map(x)

    return [Block() for _ in range(depth)]


def build(seed=0, exit_model="marginal", depth=4, width=6, **options):
    torch.manual_seed(seed)
    heads = [nn.Linear(width, CLASSES) for _ in range(depth)]
    return EarlyExitNetwork(residual_stages(width, depth), heads, exit_model=exit_model, **options)


def data(n=120, width=6, seed=1):
    X = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return X, (X[:, 0] > 0).long() + (X[:, 1] * X[:, 2] > 0).long()


def spread_gates(network, X):
    """Set the gates so that inputs leave at every exit."""
    with torch.no_grad():
        features = [uncertainty_features(logits)[:, 0] for logits in network(X)[:-1]]
        for gate, confidence in zip(network.gates, features, strict=True):
            gate.weight.copy_(torch.tensor([[20.0, 0, 0, 0]]))
            gate.bias.fill_(-20 * float(confidence.quantile(0.6)) - 0.3)
    return network


@pytest.mark.parametrize("model", MODELS)
def test_prediction_is_the_dense_computation_with_later_stages_skipped(model):
    X, _ = data()
    network = spread_gates(build(exit_model=model), X)
    with torch.no_grad():
        logits = network(X)
        exits = exit_index(network.gate_logits(logits).sigmoid(), model)
    assert set(exits.tolist()) == {0, 1, 2, 3}
    assert all(torch.equal(a, b) for a, b in zip(logits, network.logits(X), strict=True))

    seen = [0] * 4
    for level, stage in enumerate(network.stages):
        stage.register_forward_hook(
            lambda _module, args, _output, level=level: seen.__setitem__(level, len(args[0]))
        )
    prediction = network.predict(X)
    assert torch.equal(prediction.exits, exits)
    assert seen == [int((exits >= level).sum()) for level in range(4)]
    expected = torch.stack(logits)[exits, torch.arange(len(X))].softmax(-1)
    torch.testing.assert_close(prediction.probabilities, expected)
    assert torch.equal(prediction.labels, prediction.probabilities.argmax(-1))
    assert prediction.mean_cost == pytest.approx(float((exits.double() + 1).mean()) / 4)


def test_prediction_follows_a_permutation_and_takes_one_input():
    X, _ = data()
    network = spread_gates(build(), X)
    prediction = network.predict(X)
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    permuted = network.predict(X[order])
    assert torch.equal(permuted.exits, prediction.exits[order])
    torch.testing.assert_close(permuted.probabilities, prediction.probabilities[order])
    for row in (0, 1):
        single = network.predict(X[row : row + 1])
        assert single.exits.item() == prediction.exits[row]
        torch.testing.assert_close(single.probabilities[0], prediction.probabilities[row])


def test_no_later_stage_runs_when_all_have_left():
    X, _ = data(10)
    network = build()
    nn.init.constant_(network.gates[0].bias, 50.0)
    network.stages[1].register_forward_hook(lambda *_: pytest.fail("stage 1 ran"))
    assert network.predict(X).exits.tolist() == [0] * 10


def test_prediction_ignores_dropout_and_keeps_the_mode():
    X, _ = data(10)
    network = build()
    network.heads[0] = nn.Sequential(nn.Dropout(0.5), network.heads[0])
    for mode in (True, False):
        network.train(mode)
        first, second = network.predict(X), network.predict(X)
        assert torch.equal(first.probabilities, second.probabilities)
        assert network.heads[0].training == mode
        assert not network.stages.training
        assert not network.heads[-1].training


def test_costs_are_divided_by_the_last():
    assert build(depth=2).costs.tolist() == [0.5, 1]
    assert build(depth=3, costs=[2, 2, 8]).costs.tolist() == [0.25, 0.25, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_saved_states(dtype):
    X, y = data(40)
    X = X.to(dtype)
    network = build().to(dtype)
    fit_joint(network, X, y, X, y, epochs=2, alternate_every=1)
    prediction = network.predict(X)
    assert prediction.probabilities.dtype == dtype
    other = build(seed=5).to(dtype)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.predict(X).probabilities, prediction.probabilities)


# ----------------------------------------------------------------------------------------------- training


def joint(network, **options):
    X, y = data()
    options = {"warmup_epochs": 3, "epochs": 6, "batch_size": 30, "alternate_every": 2, **options}
    return fit_joint(network, X, y, X, y, generator=torch.Generator().manual_seed(0), **options)


def heads_only(network, **options):
    X, y = data()
    return fit_heads(network, X, y, epochs=3, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("fit", [joint, heads_only])
def test_training_leaves_the_backbone_and_the_last_head_alone(fit):
    network = build()
    network.stages[0].map.append(nn.BatchNorm1d(6))
    before = copy.deepcopy(network.state_dict())
    assert fit(network) is network
    after = network.state_dict()
    for name, value in before.items():
        fixed = name.startswith(("stages", "heads.3", "costs")) or (
            fit is heads_only and name.startswith("gates")
        )
        assert torch.equal(value, after[name]) == fixed, name


def test_the_phases_train_heads_or_gates():
    X, y = data()
    network = build()
    batch = module._Exits.of(network, X, y)
    for loss, own, other in (
        (module._gate_loss(network, batch, 0.1, torch.ones(3)), network.gates, network.heads),
        (module._head_loss(network, batch, "weighted"), network.heads[:-1], network.gates),
    ):
        network.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in own.parameters())
        assert all(parameter.grad is None for parameter in other.parameters())
        assert all(parameter.grad is None for parameter in network.stages.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_losses_follow_their_definition(model):
    X, y = data(20)
    network = spread_gates(build(exit_model=model), X)
    batch = module._Exits.of(network, X, y)
    with torch.no_grad():
        logits = network(X)
        losses = torch.stack([functional.cross_entropy(each, y, reduction="none") for each in logits], 1)
        gates = network.gate_logits(logits)
        leaving = exit_distribution(gates.sigmoid(), model)
        assert module._head_loss(network, batch, "weighted").item() == pytest.approx(
            float((leaving * losses)[:, :-1].sum() / 20), rel=1e-5
        )
        weights = torch.tensor([0.5, 2.0, 5.0])
        entropy = 0.0
        for row, target in enumerate(gate_targets(losses, network.costs, 0.3)):
            for level in range(3):
                g = float(gates[row, level].sigmoid())
                entropy -= float(weights[level]) * math.log(g) if target[level] else math.log(1 - g)
        found = module._gate_loss(network, batch, 0.3, weights).item()
        assert found == pytest.approx(entropy / 60, rel=1e-4)


def test_rescaling_the_weighted_loss_to_the_plain_sum_is_training_uniformly():
    # Per sample, P·CE times (sum CE / sum P·CE) has the value, and so the gradient, of sum CE.
    X, y = data(20)
    network = spread_gates(build(), X)
    batch = module._Exits.of(network, X, y)
    parameters = list(network.heads[:-1].parameters())
    losses = batch.losses(batch.logits())
    weighted = exit_distribution(network.gate_logits(network(X)).sigmoid().detach())[:, :-1] * losses
    rescaled = (weighted * (losses.sum(1) / weighted.sum(1))[:, None]).sum(1).mean()
    uniform = module._head_loss(network, batch, "uniform")
    for a, b in zip(
        torch.autograd.grad(rescaled, parameters), torch.autograd.grad(uniform, parameters), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_step_of_the_head_loss_is_plain_gradient_descent():
    X, y = data(32)
    network, weights = build(), [3.0, 0.0, 0.5]
    expected = copy.deepcopy(network)
    loss = sum(
        weight * functional.cross_entropy(logits, y)
        for weight, logits in zip(weights, expected(X)[:-1], strict=True)
    )
    loss.backward()
    fit_heads(network, X, y, epochs=1, weights=weights, learning_rate=0.1, weight_decay=0.0)
    for head, reference in zip(network.heads[:-1], expected.heads[:-1], strict=True):
        torch.testing.assert_close(head.weight, reference.weight - 0.1 * reference.weight.grad)


def test_warm_up_favours_early_heads():
    network = joint(build(), warmup_epochs=1, epochs=0)
    X, y = data()
    expected = fit_heads(
        build(),
        X,
        y,
        epochs=1,
        batch_size=30,
        weights=[4, 3, 2],
        generator=torch.Generator().manual_seed(0),
    )
    for head, reference in zip(network.heads, expected.heads, strict=True):
        torch.testing.assert_close(head.weight, reference.weight)


@pytest.mark.parametrize("model", MODELS)
def test_price_of_cost_moves_the_exits(model):
    X, _ = data()
    costs = [
        joint(build(exit_model=model), cost_weight=cost_weight, epochs=30, learning_rate=0.1)
        .predict(X)
        .mean_cost
        for cost_weight in (0.0, 100.0)
    ]
    assert costs[1] == 0.25  # everything leaves at the first exit
    assert costs[0] > 0.3


@pytest.mark.parametrize("alternate_every", [1, 3])
def test_blocks_of_batches_alternate_beginning_with_gates(monkeypatch, alternate_every):
    turns = []
    for name in ("_gate_loss", "_head_loss"):
        loss = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, name=name, loss=loss: (turns.append(name), loss(*args))[1]
        )
    joint(build(), warmup_epochs=1, epochs=2, alternate_every=alternate_every)
    gates_learn = [turn == "_gate_loss" for turn in turns]
    assert gates_learn == [batch // alternate_every % 2 == 0 for batch in range(8)]


def test_gates_are_balanced_by_the_validation_data(monkeypatch):
    seen = []
    loss = module._gate_loss
    monkeypatch.setattr(module, "_gate_loss", lambda *args: (seen.append(args[3].clone()), loss(*args))[1])
    X, y = data()
    network = joint(build(), cost_weight=0.2, epochs=2, batch_size=120, alternate_every=1)
    assert seen[0].tolist() == [1, 1, 1]
    joint(network, cost_weight=0.2, warmup_epochs=0, epochs=3, batch_size=120, learning_rate=1e-9)
    best = gate_targets(
        torch.stack([functional.cross_entropy(each, y, reduction="none") for each in network(X)], 1),
        network.costs,
        0.2,
    )
    counts = best.diff(dim=1, prepend=torch.zeros(120, 1)).sum(0).tolist()
    assert seen[-1].tolist() == pytest.approx([min((120 - n) / max(n, 0.1), 5) for n in counts])
    joint(network, cost_weight=100.0, warmup_epochs=0, epochs=3, alternate_every=1)
    assert seen[-1].tolist() == [1, 5, 5]  # all leave at the first exit: nothing to balance there


def test_learning_rates_fall_as_a_cosine_and_gates_have_their_own(monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def recorded(self, *args):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    joint(build(), batch_size=120, warmup_epochs=2, epochs=4, learning_rate=0.1, gate_learning_rate=1e-4)
    cosine = [2e-4 + (0.1 - 2e-4) * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [head for head, _ in rates] == pytest.approx([0.1, 0.1, *cosine])
    assert [gate for _, gate in rates] == pytest.approx([1e-4] * 6)  # already below the final rate


def test_training_follows_its_generator():
    first, again = joint(build()), joint(build())
    other = build()
    X, y = data()
    fit_joint(other, X, y, X, y, epochs=2, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first.heads[0].weight, again.heads[0].weight)
    assert not torch.equal(first.heads[0].weight, other.heads[0].weight)


def test_fixed_parts_are_computed_once():
    X, y = data()
    network = build()
    network.heads[0] = nn.Sequential(nn.LayerNorm(6).requires_grad_(False), nn.Dropout(0.1), nn.Linear(6, 3))
    calls = {"stage": 0, "norm": 0, "dropout": 0}
    for name, part in (
        ("stage", network.stages[3]),
        ("norm", network.heads[0][0]),
        ("dropout", network.heads[0][1]),
    ):
        part.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    fit_heads(network, X, y, epochs=3, batch_size=60)
    assert calls == {"stage": 1, "norm": 1, "dropout": 6}


# ------------------------------------------------------------------------------------ vision transformers


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(8, 8)

    def forward(self, tokens):
        return tokens + self.map(tokens.tanh()) + tokens.mean(1, keepdim=True)


class Timm(nn.Module):
    """The attributes and the forward pass of timm's VisionTransformer."""

    def __init__(self, global_pool="token"):
        super().__init__()
        self.global_pool, self.num_prefix_tokens = global_pool, 1
        self.patch_embed = nn.Linear(4, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.patch_drop, self.norm_pre = nn.Identity(), nn.LayerNorm(8)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        averages = global_pool == "avg"
        self.norm = nn.Identity() if averages else nn.LayerNorm(8)
        self.fc_norm = nn.LayerNorm(8) if averages else nn.Identity()
        self.head = nn.Linear(8, 5)

    def _pos_embed(self, patches):
        return torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), 1) + 0.1

    def forward(self, x):
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        tokens = self.norm(self.blocks(tokens))
        pooled = tokens[:, 1:].mean(1) if self.global_pool == "avg" else tokens[:, 0]
        return self.head(self.fc_norm(pooled))


class Torchvision(nn.Module):
    """The same of torchvision's VisionTransformer."""

    def __init__(self):
        super().__init__()
        self._process_input = nn.Linear(4, 8)
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.randn(1, 7, 8))
        self.encoder.dropout, self.encoder.ln = nn.Dropout(0.1), nn.LayerNorm(8)
        self.encoder.layers = nn.Sequential(*(Block() for _ in range(3)))
        self.heads = nn.Sequential(nn.Linear(8, 5))

    def forward(self, x):
        tokens = torch.cat((self.class_token.expand(len(x), -1, -1), self._process_input(x)), 1)
        encoder = self.encoder
        tokens = encoder.ln(encoder.layers(encoder.dropout(tokens + encoder.pos_embedding)))
        return self.heads(tokens[:, 0])


class T2T(nn.Module):
    """The same of T2T_ViT, the paper's backbone."""

    def __init__(self):
        super().__init__()
        self.tokens_to_token = nn.Linear(4, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed, self.pos_drop = nn.Parameter(torch.randn(1, 7, 8)), nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), self.tokens_to_token(x)), 1)
        tokens = self.pos_drop(tokens + self.pos_embed)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


@pytest.mark.parametrize("build_model", [Timm, lambda: Timm("avg"), Torchvision, T2T])
def test_exits_of_a_vision_transformer(build_model):
    torch.manual_seed(0)
    model = build_model().double().eval()
    X, y = torch.randn(30, 6, 4, dtype=torch.float64), torch.arange(30) % 5
    expected = model(X)
    network = EarlyExitNetwork.from_vision_transformer(model, exit_model="hazard")
    logits = network(X)
    assert len(logits) == 3
    torch.testing.assert_close(logits[-1], expected)
    trainable = {name for name, each in network.named_parameters() if each.requires_grad}
    assert trainable == {
        f"{part}.{name}"
        for part in ("heads.0.3", "heads.1.3", "gates.0", "gates.1")
        for name in ("weight", "bias")
    }
    fit_joint(network, X, y, X, y, epochs=2, alternate_every=1)
    torch.testing.assert_close(model(X), expected)
    assert network.predict(X).probabilities.shape == (30, 5)
    cached = module._Exits.of(network, X, y)
    assert [reading.shape for reading in cached.readings] == [(30, 8)] * 2  # pooled, not all tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model, "head", nn.Identity()), "model must end in one nn.Linear"),
        (lambda model: setattr(model, "head_dist", nn.Linear(8, 5)), "model must end in one nn.Linear"),
        (
            lambda model: setattr(model, "global_pool", "map"),
            "global_pool must be 'token' or 'avg', got 'map'",
        ),
    ],
)
def test_other_models_are_refused(change, message):
    model = Timm()
    change(model)
    with pytest.raises(ValueError, match=message):
        EarlyExitNetwork.from_vision_transformer(model)
    with pytest.raises(ValueError, match=r"model must be a VisionTransformer .*Linear"):
        EarlyExitNetwork.from_vision_transformer(nn.Linear(8, 5))


# ---------------------------------------------------------------------------- thresholds and uncertainty


def random_logits(seed, exits=4, n=30):
    generator = torch.Generator().manual_seed(seed)
    return list(3 * torch.randn(exits, n, CLASSES, dtype=torch.float64, generator=generator))


@quick
@given(st.integers(0, 999), st.sampled_from(["max_probability", "entropy", "margin"]), st.floats(0, 1.2))
def test_budget_is_spent_as_far_as_a_threshold_can(seed, metric, budget):
    logits, costs = random_logits(seed), doubles([0.2, 0.3, 0.3, 1.0])
    threshold = threshold_for_budget(logits, costs, budget, metric)

    def mean_cost(value):
        return float(costs[threshold_exit(logits, value, metric)].mean())

    assert mean_cost(threshold) <= max(budget, 0.2) + 1e-9
    if budget >= 1:
        assert threshold == math.inf
    elif mean_cost(math.inf) > budget:
        assert mean_cost(math.nextafter(threshold, math.inf)) > budget


def test_threshold_exits_by_each_metric():
    logits = random_logits(0)
    scores = {
        "max_probability": lambda p: p.max(),
        "entropy": lambda p: (p * p.log()).sum(),
        "margin": lambda p: p.sort().values[-1] - p.sort().values[-2],
    }
    for metric, score in scores.items():
        threshold = float(np.median([float(score(row.softmax(0))) for row in logits[0]]))
        expected = [
            next((level for level in range(3) if score(logits[level][row].softmax(0)) >= threshold), 3)
            for row in range(30)
        ]
        assert threshold_exit(logits, threshold, metric).tolist() == expected


def test_threshold_of_a_network_on_a_budget():
    X, _ = data(400)
    network = build()
    with torch.no_grad():
        logits = network(X)
    threshold = threshold_for_budget(logits, network.costs, 0.6)
    cost = float(network.costs[threshold_exit(logits, threshold)].mean())
    assert cost == pytest.approx(0.6, abs=1 / 400)


def test_calibration_error_of_exact_probabilities_vanishes():
    generator = torch.Generator().manual_seed(0)
    errors = []
    for n in (1000, 100_000):
        confidence = torch.rand(n, generator=generator)
        correct = torch.rand(n, generator=generator) < confidence
        errors.append(expected_calibration_error(confidence, correct))
    assert errors[1] < 0.01 < errors[0] < 0.1
    assert expected_calibration_error(confidence, torch.zeros(n)) == pytest.approx(float(confidence.mean()))


def test_calibration_error_of_a_worked_example():
    # Bins {0.1, 0.2} and {0.3, 0.4}: gaps |0.3 - 0| and |0.7 - 1| in sum.
    confidence, correct = doubles([0.1, 0.4, 0.3, 0.2]), torch.tensor([False, False, True, False])
    assert expected_calibration_error(confidence, correct, n_bins=2) == pytest.approx(0.6 / 4)


def test_calibration_error_is_scikit_learns_curve_summed_up():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(1500), rng.random(1500) < 0.7
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15, strategy="quantile")
    found = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert found == pytest.approx(np.abs(accuracy - mean).mean(), abs=1e-3)


@quick
@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1), st.randoms())
def test_calibration_error_ignores_the_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = (
        expected_calibration_error(*(torch.tensor(column) for column in zip(*each, strict=True)), n_bins=4)
        for each in (pairs, shuffled)
    )
    assert one == pytest.approx(other)
    assert 0 <= one <= 1


def test_conformal_threshold_takes_the_right_rank():
    scores = torch.randperm(99, generator=torch.Generator().manual_seed(0)).double()
    assert conformal_threshold(scores, 0.1) == 89  # the 90th smallest
    assert conformal_threshold(scores, 0.29) == 70  # 100 * 0.71 is 71 but for rounding
    assert conformal_threshold(scores, 0.005) == math.inf
    assert conformal_threshold(torch.empty(0), 0.1) == math.inf


@quick
@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_conformal_threshold_covers_exchangeable_scores(n, alpha):
    # Leaving each of n + 1 ranked scores out in turn is the exact distribution of a new one's rank.
    scores = torch.arange(n + 1.0)
    covered = sum(
        float(scores[left_out]) <= conformal_threshold(scores[scores != left_out], alpha)
        for left_out in range(n + 1)
    )
    assert covered / (n + 1) >= 1 - alpha - 1e-8
    assert covered / (n + 1) <= 1 - alpha + 1 / (n + 1) + 1e-8


# ---------------------------------------------------------------------------------------------- bad input


STAGES, HEADS = residual_stages(6, 2), [nn.Linear(6, CLASSES) for _ in range(2)]
GATES, LOGITS = torch.full((2, 3), 0.5), [torch.zeros(4, 3)] * 2
LOSSES, COSTS = torch.ones(2, 3), torch.tensor([0.5, 0.7, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exit_distribution(GATES + 0.6), r"gates must lie in \[0, 1\], got 1.1"),
        (lambda: exit_index(GATES * math.nan), r"gates must lie in \[0, 1\], got nan"),
        (lambda: exit_index(GATES[0]), "gates must have shape"),
        (lambda: exit_index(GATES[:, :0]), "gates must have shape"),
        (lambda: exit_distribution(GATES, "joint"), "model must be one of 'marginal', 'hazard', got 'joint'"),
        (lambda: gate_targets(LOSSES, COSTS, -0.1), "cost_weight must be finite and at least 0, got -0.1"),
        (lambda: gate_targets(LOSSES, COSTS[:2], 0.1), r"costs must have shape \(3,\), got \(2,\)"),
        (lambda: gate_targets(LOSSES[0], COSTS, 0.1), r"losses must have shape \(n, L\)"),
        (lambda: uncertainty_features(torch.zeros(3)), "logits must have shape"),
        (lambda: uncertainty_features(torch.zeros(3, 1)), r"C >= 2, got \(3, 1\)"),
        (lambda: uncertainty_features(torch.full((1, 2), math.inf)), "logits must be finite, got inf"),
        (lambda: EarlyExitNetwork(STAGES[:1], HEADS[:1]), "stages must be at least 2, got 1"),
        (lambda: EarlyExitNetwork(STAGES, HEADS[:1]), "heads must be as many as the 2 stages, got 1"),
        (lambda: EarlyExitNetwork(STAGES, HEADS, costs=[1, 0.5]), "costs must be .*not decrease"),
        (lambda: EarlyExitNetwork(STAGES, HEADS, costs=[0, 1]), "costs must be .*positive"),
        (lambda: EarlyExitNetwork(STAGES, HEADS, costs=[1]), "costs must be 2 numbers"),
        (lambda: EarlyExitNetwork(STAGES, HEADS, exit_model="other"), "exit_model must be one of"),
        (lambda: build().gate_logits(LOGITS[:1]), "logits must be of 4 exits, got 1"),
        (lambda: build().predict(torch.zeros(0, 6)), "x must hold at least one input"),
        (lambda: threshold_exit(LOGITS, 0.5, "energy"), "metric must be one of .*got 'energy'"),
        (lambda: threshold_exit(LOGITS[:1], 0.5), "logits must be of at least 2 exits, got 1"),
        (lambda: threshold_exit([LOGITS[0], torch.zeros(3, 3)], 0.5), "logits must have one shape"),
        (lambda: threshold_for_budget(LOGITS, [1, 0.5], 0.5), "costs must be finite, positive and not"),
        (lambda: threshold_for_budget(LOGITS, [0.5, 1], math.nan), "budget must be a number, got nan"),
        (lambda: threshold_for_budget([torch.zeros(0, 3)] * 2, [0.5, 1], 0.5), "at least one input"),
        (lambda: expected_calibration_error(torch.ones(0), torch.ones(0)), "confidence must have shape"),
        (lambda: expected_calibration_error(torch.ones(2) * 1.5, torch.ones(2)), r"\[0, 1\], got 1.5 to 1.5"),
        (lambda: expected_calibration_error(torch.ones(2), torch.ones(3)), r"correct must have shape \(2,\)"),
        (lambda: expected_calibration_error(torch.ones(2), torch.ones(2), 0), "n_bins must be at least 1"),
        (lambda: conformal_threshold(torch.ones(5), 1.0), r"alpha must lie in \(0, 1\), got 1.0"),
        (lambda: conformal_threshold(torch.ones(5) * math.nan, 0.1), "scores must have shape .*no NaN"),
        (lambda: heads_only(build(), weights=[1.0, 2.0]), "weights must be 3 finite numbers"),
        (lambda: heads_only(build(), weights=[1.0, -2.0, 0.0]), "weights must be 3 finite numbers"),
        (lambda: heads_only(build(), batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: heads_only(build(), learning_rate=0.0), "learning_rate must be positive, got 0.0"),
        (lambda: heads_only(build(), momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda: heads_only(build(), weight_decay=-1.0), "weight_decay must be at least 0, got -1.0"),
        (lambda: fit_heads(build(), *data(5), epochs=-1), "epochs must be at least 0, got -1"),
        (lambda: joint(build(), cost_weight=-1.0), "cost_weight must be finite and at least 0, got -1.0"),
        (lambda: joint(build(), cost_weight=math.inf), "cost_weight must be finite"),
        (lambda: joint(build(), warmup_epochs=-1), "warmup_epochs must be at least 0, got -1"),
        (lambda: joint(build(), epochs=-1), "epochs must be at least 0, got -1"),
        (lambda: joint(build(), alternate_every=0), "alternate_every must be at least 1, got 0"),
        (lambda: joint(build(), gate_learning_rate=-1.0), "gate_learning_rate must be positive, got -1.0"),
        (lambda: joint(build(), max_positive_weight=0.0), "max_positive_weight must be positive, got 0.0"),
        (lambda: joint(build(), head_loss="boosted"), "head_loss must be one of 'weighted', 'uniform'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_samples_are_named():
    network, (X, y) = build(), data(10)
    for samples, labels, message in (
        (X[:0], y[:0], "must hold at least one sample"),
        (X, y[:9], r"must be 10 integer labels, got torch.int64 of shape \(9,\)"),
        (X, y.float(), "must be 10 integer labels, got torch.float32"),
        (X, y + 1, r"must lie in \[0, 3\), got 3"),
        (X, y - 1, r"must lie in \[0, 3\), got -1"),
    ):
        name = "X" if not len(samples) else "y"
        with pytest.raises(ValueError, match=f"{name} {message}"):
            fit_heads(network, samples, labels)
        with pytest.raises(ValueError, match=f"{name}_val {message}"):
            fit_joint(network, X, y, samples, labels)
