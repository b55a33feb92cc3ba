"""Contractive depth: integrators, equivalences, contraction, message passing, the language model."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from assay.networks.contractive_depth import (
    ContractiveDepth,
    ContractiveGPT,
    DenseBlock,
    DirectedMessagePassing,
    StackedDepth,
    TransformerBlock,
    contractive_step,
)

EVALUATIONS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
integrators = pytest.mark.parametrize("integrator", EVALUATIONS)


def linear_block(dim=5, scale=1.0):
    """F(h) = A h, in float64."""
    block = nn.Linear(dim, dim, bias=False).double()
    with torch.no_grad():
        block.weight.copy_(scale * torch.randn(dim, dim) / dim**0.5)
    return block


# ----------------------------------------------------------------------------------------------- integrators


@pytest.mark.parametrize("dt", [0.1, 0.25, 0.5, 1.0])
def test_euler_steps_of_a_linear_block_are_powers_of_a_matrix(dt):
    block, h = linear_block(), torch.randn(3, 5, dtype=torch.float64)
    step = (1 - dt) * torch.eye(5, dtype=torch.float64) + dt * block.weight
    expected = h @ torch.linalg.matrix_power(step, 6).T
    torch.testing.assert_close(ContractiveDepth(block, n_steps=6, dt=dt)(h), expected)


@integrators
def test_one_step_of_a_linear_block_is_the_truncated_exponential(integrator):
    block, h, dt = linear_block(), torch.randn(3, 5, dtype=torch.float64), 0.3
    velocity = dt * (block.weight - torch.eye(5))
    terms = [
        torch.linalg.matrix_power(velocity, k) / math.factorial(k) for k in range(ORDERS[integrator] + 1)
    ]
    torch.testing.assert_close(contractive_step(h, block, dt, integrator), h @ sum(terms).T)


@integrators
def test_the_order_of_an_integrator_on_a_nonlinear_block(integrator):
    """Error against a fine reference falls by 2^order when the step is halved over the same time."""
    block = nn.Sequential(linear_block(scale=1.5), nn.Tanh())
    h = torch.randn(4, 5, dtype=torch.float64)

    def solve(n, name):
        with torch.no_grad():
            return ContractiveDepth(block, n_steps=n, dt=1 / n, integrator=name)(h)

    exact = solve(512, "rk4")
    errors = [float((solve(n, integrator) - exact).norm()) for n in (8, 16, 32)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDERS[integrator], abs=0.25)


def test_heun_uses_the_full_step_and_midpoint_half_of_it():
    h, dt = torch.tensor([0.7], dtype=torch.float64), 0.4

    def v(x):
        return x.sin() - x

    k1 = v(h)
    torch.testing.assert_close(contractive_step(h, torch.sin, dt, "heun"), h + dt * (k1 + v(h + dt * k1)) / 2)
    torch.testing.assert_close(contractive_step(h, torch.sin, dt, "midpoint"), h + dt * v(h + dt * k1 / 2))


@integrators
def test_evaluations_of_the_block(integrator):
    calls = []

    def block(h):
        calls.append(h)
        return h.sin()

    contractive_step(torch.randn(3), block, 0.5, integrator)
    assert len(calls) == EVALUATIONS[integrator]


@integrators
def test_a_fixed_point_stays(integrator):
    constant = torch.tensor([1.0, -2.0])
    h = contractive_step(constant, lambda h: torch.zeros_like(h) + constant, 0.5, integrator)
    assert torch.equal(h, constant)


@integrators
def test_gradients(integrator):
    block = nn.Sequential(linear_block(3), nn.Tanh())
    h = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    dt = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, dt: contractive_step(h, block, dt, integrator), (h, dt))


@integrators
def test_a_tensor_of_step_sizes_broadcasts_and_equals_a_number(integrator):
    block, h = linear_block(), torch.randn(3, 5, dtype=torch.float64)
    sizes = torch.tensor([[0.1], [0.5], [1.0]])
    rows = torch.cat([contractive_step(h[[i]], block, float(sizes[i]), integrator) for i in range(3)])
    torch.testing.assert_close(contractive_step(h, block, sizes, integrator), rows)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dt=st.floats(0.01, 1.0),
    q=st.floats(0.0, 3.0),
)
def test_an_euler_step_is_as_lipschitz_as_the_block_allows(seed, dt, q):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    weight *= q / torch.linalg.matrix_norm(weight, 2)
    a, b = torch.randn(2, 4, generator=generator, dtype=torch.float64)

    def block(h):
        return torch.tanh(weight @ h)

    moved = contractive_step(a, block, dt) - contractive_step(b, block, dt)
    assert moved.norm() <= (1 - dt + dt * q) * (a - b).norm() + 1e-12


# ----------------------------------------------------------------------------------------------------- depth


def test_step_size_one_is_plain_recursion_and_one_step_the_block_itself():
    block, h = DenseBlock(6), torch.randn(4, 6)
    torch.testing.assert_close(ContractiveDepth(block, n_steps=3, dt=1.0)(h), block(block(block(h))))
    torch.testing.assert_close(ContractiveDepth(block, n_steps=1, dt=1.0)(h), block(h))
    torch.testing.assert_close(StackedDepth([block] * 3)(h), block(block(block(h))))


@pytest.mark.parametrize("dt", [0.25, 1.0])
def test_a_tied_contractive_stack_is_contractive_depth(dt):
    block, h = DenseBlock(6), torch.randn(4, 6)
    tied = StackedDepth([block] * 5, update="contractive", dt=dt)
    assert torch.equal(tied(h), ContractiveDepth(block, n_steps=5, dt=dt)(h))
    assert sum(p.numel() for p in tied.parameters()) == sum(p.numel() for p in block.parameters())


def test_a_residual_stack_adds_and_a_contractive_one_averages():
    blocks, h = [DenseBlock(6) for _ in range(2)], torch.randn(4, 6)
    u = h + blocks[0](h)
    torch.testing.assert_close(StackedDepth(blocks, update="residual")(h), u + blocks[1](u))
    u = (h + blocks[0](h)) / 2
    torch.testing.assert_close(StackedDepth(blocks, update="contractive")(h), (u + blocks[1](u)) / 2)


def test_parameters_do_not_depend_on_the_number_of_steps_unless_step_sizes_are_learned():
    def count(**options):
        return sum(p.numel() for p in ContractiveDepth(DenseBlock(6), **options).parameters())

    block = 6 * 6 + 6 + 2 * 6
    assert count(n_steps=1) == count(n_steps=9) == block
    assert count(n_steps=9, learnable_dt=True) == block + 9


def test_learned_step_sizes_start_at_three_tenths_and_stay_in_their_range():
    depth = ContractiveDepth(DenseBlock(4), n_steps=5, learnable_dt=True)
    torch.testing.assert_close(depth.step_sizes(), torch.full((5,), 0.3))
    h = torch.randn(8, 4)
    torch.testing.assert_close(depth(h), ContractiveDepth(depth.block, n_steps=5, dt=0.3)(h))
    depth(h).square().sum().backward()
    assert (depth.step_logits.grad != 0).all()
    with torch.no_grad():
        depth.step_logits.copy_(torch.tensor([-1e3, -3, 0, 3, 1e3]))
    sizes = depth.step_sizes()
    assert (sizes.diff() > 0).all()
    torch.testing.assert_close(sizes[[0, -1]], torch.tensor([0.1, 0.5]))
    assert torch.equal(
        ContractiveDepth(DenseBlock(4), n_steps=2, dt=0.25).step_sizes(), torch.full((2,), 0.25)
    )


def test_each_learned_step_size_is_its_steps():
    depth = ContractiveDepth(DenseBlock(4), n_steps=2, learnable_dt=True)
    with torch.no_grad():
        depth.step_logits.copy_(torch.tensor([-2.0, 1.0]))
    h = torch.randn(3, 4)
    first, second = depth.step_sizes().tolist()
    expected = contractive_step(contractive_step(h, depth.block, first), depth.block, second)
    torch.testing.assert_close(depth(h), expected)


def test_the_norm_follows_each_step():
    block, norm, h = DenseBlock(6), nn.LayerNorm(6), torch.randn(4, 6)
    expected = norm(contractive_step(norm(contractive_step(h, block, 0.5)), block, 0.5))
    torch.testing.assert_close(ContractiveDepth(block, n_steps=2, norm=norm)(h), expected)


def test_further_arguments_reach_the_block():
    class Shifted(nn.Module):
        def forward(self, h, shift, *, scale):
            return scale * h + shift

    shift, h = torch.tensor([1.0, 2.0]), torch.randn(3, 2)
    expected = contractive_step(
        contractive_step(h, lambda x: 3 * x + shift, 0.5), lambda x: 3 * x + shift, 0.5
    )
    torch.testing.assert_close(ContractiveDepth(Shifted(), n_steps=2)(h, shift, scale=3), expected)
    for update in ("plain", "residual", "contractive"):
        stacked = StackedDepth([Shifted()], update=update)(h, shift, scale=3)
        once = 3 * h + shift
        torch.testing.assert_close(
            stacked, {"plain": once, "residual": h + once, "contractive": (h + once) / 2}[update]
        )


@pytest.mark.parametrize(
    "module", [ContractiveDepth(DenseBlock(4), learnable_dt=True), TransformerBlock(4, 2)]
)
def test_a_model_survives_copying_and_loading(module):
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    h = torch.randn(1, 3, 4)
    assert not torch.equal(other(h), module(h))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(h), module(h))


@integrators
def test_autocast_keeps_the_state_in_its_type(integrator):
    depth, h = ContractiveDepth(TransformerBlock(8, 2), integrator=integrator), torch.randn(2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = depth(h)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, depth(h), atol=0.05, rtol=0.05)


# ---------------------------------------------------------------------------------------------------- blocks


def test_dense_block_written_out():
    block, h = DenseBlock(6), torch.randn(4, 6)
    norm, _, linear, _ = block
    centred = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(block(h), functional.leaky_relu(linear(centred), 0.01))


def test_transformer_block_written_out():
    block, x = TransformerBlock(8, 2), torch.randn(3, 5, 8)
    q, k, v = block.qkv(block.attention_norm(x)).split(8, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = q[..., head] @ k[..., head].mT / 2
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v[..., head])
    u = x + block.projection(torch.cat(heads, dim=-1))
    torch.testing.assert_close(block(x), u + block.feed_forward(u))


def test_gradients_through_contractive_transformer_steps():
    depth = ContractiveDepth(TransformerBlock(4, 2), n_steps=2).double()
    h = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(depth, (h,))


def test_dropout_acts_in_training_only():
    for block in (DenseBlock(16, dropout=0.5), TransformerBlock(16, 2, dropout=0.5)):
        h = torch.randn(2, 4, 16)
        assert not torch.equal(block(h), block(h))
        block.eval()
        assert torch.equal(block(h), block(h))


# ------------------------------------------------------------------------------------------- message passing

# Two molecules: a ring of four with a tail, and a pair; node 7 is alone.
BONDS = [(0, 1), (1, 2), (2, 3), (3, 0), (2, 4), (5, 6)]
EDGE_INDEX = torch.tensor([pair for u, v in BONDS for pair in ((u, v), (v, u))]).T
REVERSE_EDGE = torch.arange(2 * len(BONDS)) ^ 1


def graph():
    return torch.randn(8, 5), torch.randn(len(BONDS), 3).repeat_interleave(2, 0), EDGE_INDEX, REVERSE_EDGE


def dense_message_passing(network, nodes, edges, edge_index, reverse_edge, step):
    """With the matrix of edges that feed an edge: it starts where they end, and is not their reverse."""
    source, target = edge_index
    feeds = (target[None] == source[:, None]).float()
    feeds[torch.arange(len(edges)), reverse_edge] -= 1
    initial = torch.cat((nodes[source], edges), 1) @ network.W_i.weight.T
    h = initial.relu()
    for _ in range(network.n_steps):
        h = step(h, (initial + feeds @ h @ network.W_h.weight.T).relu())
    into = (target[None] == torch.arange(len(nodes))[:, None]).float()
    return network.W_o(torch.cat((nodes, into @ h), 1)).relu()


@pytest.mark.parametrize("dt", [0.25, 1.0])
def test_message_passing_against_a_dense_matrix_of_edges(dt):
    network = DirectedMessagePassing(5, 3, 16, n_steps=5, dt=dt)
    parts = graph()
    expected = dense_message_passing(network, *parts, lambda h, new: (1 - dt) * h + dt * new)
    torch.testing.assert_close(network(*parts), expected, atol=1e-5, rtol=1e-5)


def test_message_passing_without_contraction_is_plain_recursion():
    plain = DirectedMessagePassing(5, 3, 16, n_steps=3, contractive=False)
    euler = DirectedMessagePassing(5, 3, 16, n_steps=3, dt=1.0)
    euler.load_state_dict(plain.state_dict())
    parts = graph()
    torch.testing.assert_close(plain(*parts), euler(*parts))
    torch.testing.assert_close(plain(*parts), dense_message_passing(plain, *parts, lambda h, new: new))


@integrators
def test_the_integrator_of_message_passing_is_used(integrator):
    network = DirectedMessagePassing(5, 3, 16, n_steps=1, dt=0.5, integrator=integrator)
    nodes, edges, edge_index, reverse_edge = graph()
    initial = network.W_i(torch.cat((nodes[edge_index[0]], edges), 1))

    def block(h):
        sums = torch.zeros(8, 16).index_add(0, edge_index[1], h)
        return (initial + network.W_h(sums[edge_index[0]] - h[reverse_edge])).relu()

    h = contractive_step(initial.relu(), block, 0.5, integrator)
    expected = network.W_o(torch.cat((nodes, torch.zeros(8, 16).index_add(0, edge_index[1], h)), 1)).relu()
    torch.testing.assert_close(network(nodes, edges, edge_index, reverse_edge), expected)


def test_a_message_does_not_return_to_where_it_came_from():
    """On a single bond nothing comes back, so the messages do not change."""
    edge_index, reverse_edge = torch.tensor([[0, 1], [1, 0]]), torch.tensor([1, 0])
    nodes, edges = torch.randn(2, 5), torch.randn(2, 3)
    short, long = (DirectedMessagePassing(5, 3, 8, n_steps=n) for n in (1, 6))
    long.load_state_dict(short.state_dict())
    torch.testing.assert_close(
        short(nodes, edges, edge_index, reverse_edge), long(nodes, edges, edge_index, reverse_edge)
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_message_passing_follows_a_renumbering_of_nodes_and_edges(seed):
    generator = torch.Generator().manual_seed(seed)
    network = DirectedMessagePassing(5, 3, 8)
    nodes, edges, edge_index, reverse_edge = graph()
    node_order, edge_order = (torch.randperm(n, generator=generator) for n in (8, len(edges)))
    renumbered = (
        nodes[node_order],
        edges[edge_order],
        node_order.argsort()[edge_index[:, edge_order]],
        edge_order.argsort()[reverse_edge[edge_order]],
    )
    expected = network(nodes, edges, edge_index, reverse_edge)[node_order]
    torch.testing.assert_close(network(*renumbered), expected, atol=1e-5, rtol=1e-5)


def test_molecules_of_a_batch_do_not_touch_and_an_atom_may_be_alone():
    network = DirectedMessagePassing(5, 3, 8)
    nodes, edges, edge_index, reverse_edge = graph()
    together = network(nodes, edges, edge_index, reverse_edge)
    pair = network(nodes[5:7], edges[10:], edge_index[:, 10:] - 5, reverse_edge[10:] - 10)
    torch.testing.assert_close(together[5:7], pair)
    none = torch.zeros(2, 0, dtype=torch.int64)
    alone = network(nodes[7:], edges[:0], none, none[0])
    torch.testing.assert_close(together[7:], alone)


def test_message_passing_has_exactly_its_parameters():
    shapes = {
        name: tuple(p.shape) for name, p in DirectedMessagePassing(5, 3, 16, n_steps=9).named_parameters()
    }
    assert shapes == {
        "W_i.weight": (16, 8),
        "W_h.weight": (16, 16),
        "W_o.weight": (16, 21),
        "W_o.bias": (16,),
    }


def test_nan_propagates():
    nodes, *rest = graph()
    nodes[0] = math.nan
    output = DirectedMessagePassing(5, 3, 8)(nodes, *rest)
    assert output[:5].isnan().all()
    assert not output[5:].isnan().any()
    assert contractive_step(torch.tensor([math.nan]), torch.zeros_like, 0.5).isnan().all()


# ------------------------------------------------------------------------------------------------------- GPT


@pytest.mark.parametrize("options", [{"n_steps": 3}, {"n_blocks": 2, "contractive": False}])
def test_gpt_is_causal(options):
    model = ContractiveGPT(11, 8, dim=16, n_heads=2, **options)
    tokens = torch.randint(11, (2, 8))
    logits = model(tokens)
    for t in range(8):
        changed = tokens.clone()
        changed[:, t] = (tokens[:, t] + 1) % 11
        difference = (model(changed) - logits).abs().amax((0, 2))
        assert (difference[:t] == 0).all()
        assert (difference[t:] > 0).all()


def test_gpt_parameters_are_counted_as_by_hand_and_do_not_depend_on_the_steps():
    def count(**options):
        return sum(p.numel() for p in ContractiveGPT(102, 48, dim=48, n_heads=4, **options).parameters())

    assert count(n_steps=4) == count(n_steps=9) == 40_422
    assert count(n_blocks=4, contractive=False) == count(n_blocks=4, n_steps=2) == 124_806


def test_gpt_of_every_depth_starts_from_one_seed_with_the_same_parts():
    tokens = torch.randint(11, (2, 8))
    models = []
    for options in ({"n_steps": 1, "dt": 1.0}, {"n_blocks": 1, "contractive": False}, {"n_blocks": 3}):
        torch.manual_seed(1)
        models.append(ContractiveGPT(11, 8, dim=16, n_heads=2, **options))
    torch.testing.assert_close(models[0](tokens), models[1](tokens))
    assert torch.equal(models[0].head.weight, models[2].head.weight)
    assert torch.equal(models[0].body[0].block.qkv.weight, models[2].body[0].block.qkv.weight)


def test_several_blocks_are_each_repeated_in_turn():
    model = ContractiveGPT(11, 8, dim=16, n_heads=2, n_blocks=2, n_steps=3, dt=0.25)
    tokens = torch.randint(11, (2, 5))
    h = model.token_embedding(tokens) + model.position_embedding.weight[:5]
    for depth, _ in itertools.product(model.body, range(3)):
        h = contractive_step(h, depth.block, 0.25)
    torch.testing.assert_close(model(tokens), model.head(model.norm(h)))


def test_gpt_learns_to_copy():
    """Six random tokens four times over: what is repeated can be predicted, so its loss vanishes."""
    model = ContractiveGPT(8, 24, dim=32, n_heads=4, n_steps=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    for _ in range(300):
        tokens = torch.randint(8, (16, 6)).repeat(1, 4)
        loss = functional.cross_entropy(model(tokens[:, :-1])[:, 5:].mT, tokens[:, 6:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    with torch.no_grad():
        tokens = torch.randint(8, (64, 6)).repeat(1, 4)
        assert functional.cross_entropy(model(tokens[:, :-1])[:, 5:].mT, tokens[:, 6:]) < 0.1


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("dt", [0.0, -0.5, 1.01, math.nan, math.inf])
def test_a_step_size_outside_its_range_is_refused(dt):
    for make in (
        lambda: contractive_step(torch.zeros(2), torch.sin, dt),
        lambda: ContractiveDepth(DenseBlock(2), dt=dt),
        lambda: StackedDepth([DenseBlock(2)], update="contractive", dt=dt),
        lambda: DirectedMessagePassing(2, 2, 2, dt=dt),
        lambda: ContractiveGPT(5, 4, dt=dt),
    ):
        with pytest.raises(ValueError, match="dt must be above 0 and at most 1"):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContractiveDepth(DenseBlock(2), n_steps=0), "n_steps must be at least 1, got 0"),
        (lambda: DirectedMessagePassing(2, 2, 2, n_steps=0), "n_steps must be at least 1"),
        (lambda: ContractiveGPT(5, 4, n_steps=0), "n_steps must be at least 1"),
        (lambda: ContractiveGPT(5, 4, n_blocks=0), "n_blocks must be at least 1"),
        (lambda: ContractiveGPT(5, 0), "context must be at least 1"),
        (lambda: DenseBlock(0), "dim must be at least 1"),
        (lambda: DirectedMessagePassing(2, -1, 2), "edge_dim must be at least 0, got -1"),
        (lambda: contractive_step(torch.zeros(2), torch.sin, 0.5, "rk3"), "integrator must be one of euler"),
        (lambda: ContractiveDepth(DenseBlock(2), integrator="rk3"), "integrator must be one of .*'rk3'"),
        (lambda: DirectedMessagePassing(2, 2, 2, integrator="rk3"), "integrator must be one of"),
        (lambda: StackedDepth([DenseBlock(2)], update="additive"), "update must be one of plain, residual"),
        (lambda: StackedDepth([]), "at least one block"),
        (lambda: TransformerBlock(10, 4), "n_heads must divide dim=10, got 4"),
        (lambda: contractive_step(torch.zeros(3, 2), nn.Linear(2, 1), 0.5), r"return the shape \(3, 2\)"),
        (
            lambda: StackedDepth([nn.Linear(2, 1)], update="residual")(torch.zeros(3, 2)),
            r"got \(3, 1\)",
        ),
        (lambda: ContractiveGPT(5, 4)(torch.zeros(1, 5, dtype=torch.int64)), "T at most 4, got"),
        (lambda: ContractiveGPT(5, 4)(torch.zeros(3, dtype=torch.int64)), r"shape \(B, T\)"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tokens_and_indices_must_be_integers():
    with pytest.raises(TypeError, match="tokens must be int64 or int32"):
        ContractiveGPT(5, 4)(torch.zeros(1, 3))
    nodes, edges, edge_index, reverse_edge = graph()
    with pytest.raises(TypeError, match="edge_index must be int64"):
        DirectedMessagePassing(5, 3, 4)(nodes, edges, edge_index.float(), reverse_edge)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reverse_edge": torch.arange(12)}, "its own inverse and swap"),
        ({"reverse_edge": REVERSE_EDGE.roll(2)}, "its own inverse and swap"),
        ({"reverse_edge": REVERSE_EDGE + 1}, "reverse_edge must lie in 0 to 11, got 1 to 12"),
        ({"reverse_edge": REVERSE_EDGE[:3]}, r"reverse_edge must have shape \(12,\)"),
        ({"edge_index": EDGE_INDEX - 1}, "edge_index must lie in 0 to 7, got -1 to 5"),
        ({"edge_index": EDGE_INDEX.T}, r"edge_index must have shape \(2, 12\)"),
        ({"nodes": torch.zeros(8, 4)}, r"nodes must have shape \(8, 5\), got \(8, 4\)"),
        ({"edges": torch.zeros(12, 2)}, r"edges must have shape \(12, 3\)"),
    ],
)
def test_a_bad_graph_is_refused(changed, message):
    parts = dict(zip(("nodes", "edges", "edge_index", "reverse_edge"), graph(), strict=True))
    with pytest.raises(ValueError, match=message):
        DirectedMessagePassing(5, 3, 4)(**{**parts, **changed})
