"""Gated attention: every variant against plain loops, and what the paper says a gate can and cannot do."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from assay.gating import (
    GatedAttention,
    GatedDecoder,
    first_token_attention,
    gate_statistics,
    matched_ffn_dim,
)

EMBED_DIM = 12
POSITIONS = ("none", "sdpa", "value", "key", "query", "output")


def build(*, seed=0, embed_dim=EMBED_DIM, num_heads=4, **options):
    torch.manual_seed(seed)
    layer = GatedAttention(embed_dim, num_heads, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # norms and zero gates too
    return layer


def inputs(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rms(vector, weight):
    return weight * vector / torch.sqrt((vector**2).mean() + 1e-6)


def rotated(vector, position, base):
    half = len(vector) // 2
    turned = torch.complex(vector[:half], vector[half:])
    for j in range(half):
        angle = position * base ** (-2 * j / len(vector))
        turned[j] *= complex(math.cos(angle), math.sin(angle))
    return torch.cat((turned.real, turned.imag))


def by_loops(layer, x, allowed):
    """The layer's definition, one head and one position at a time; `allowed(t, s)` is the mask."""
    tokens, heads, kv_heads, dk = len(x), layer.num_heads, layer.num_kv_heads, layer.head_dim
    activation = {
        "sigmoid": torch.sigmoid,
        "ns_sigmoid": lambda z: 0.5 + 0.5 / (1 + torch.exp(-z)),
        "silu": lambda z: z / (1 + torch.exp(-z)),
        "identity": lambda z: z,
    }[layer.activation]

    def score(t, head):
        raw = layer.gate_proj.weight @ x[t] if layer.query_dependent else layer.gate_bias
        if layer.gate == "output":
            return activation(raw)
        per_head = activation(raw).reshape(-1, dk if layer.granularity == "elementwise" else 1)
        return per_head.mean(0) if layer.head_shared else per_head[head]

    def gated(position, vector, t, head):
        if layer.gate != position:
            return vector
        return vector + score(t, head) if layer.additive else vector * score(t, head)

    def project(linear, position, t, head):
        vector = linear.weight[head * dk : (head + 1) * dk] @ x[t]
        if linear.bias is not None:
            vector = vector + linear.bias[head * dk : (head + 1) * dk]
        vector = gated(position, vector, t, head)
        if position != "value" and layer.q_norm is not None:
            vector = rms(vector, (layer.q_norm if position == "query" else layer.k_norm).weight)
        if position != "value" and layer.rope_base is not None:
            vector = rotated(vector, t, layer.rope_base)
        return vector

    outputs = []
    for t in range(tokens):
        concatenated = []
        for head in range(heads):
            kv = head // (heads // kv_heads)
            q = project(layer.q_proj, "query", t, head)
            seen = [s for s in range(tokens) if allowed(t, s)]
            keys = [project(layer.k_proj, "key", s, kv) for s in seen]
            scores = torch.stack([q @ k / math.sqrt(dk) for k in keys])
            probabilities = torch.exp(scores) / torch.exp(scores).sum()
            y = sum(
                p * project(layer.v_proj, "value", s, kv) for p, s in zip(probabilities, seen, strict=True)
            )
            if layer.nonlinearity == "rmsnorm":
                y = rms(y, layer.head_norm.weight)
            elif layer.nonlinearity == "silu":
                y = y / (1 + torch.exp(-y))
            concatenated.append(gated("sdpa", y, t, head))
        output = layer.o_proj.weight @ torch.cat(concatenated)
        if layer.o_proj.bias is not None:
            output = output + layer.o_proj.bias
        outputs.append(gated("output", output, t, None))
    return torch.stack(outputs)


VARIANTS = [
    *({"gate": gate, "num_kv_heads": 2} for gate in POSITIONS),
    *({"gate": gate, "granularity": "headwise", "num_kv_heads": 2} for gate in POSITIONS[1:5]),
    *({"gate": gate, "head_shared": True, "num_kv_heads": 2} for gate in POSITIONS[1:5]),
    *({"gate": gate, "query_dependent": False} for gate in POSITIONS[1:]),
    *({"gate": gate, "additive": True, "activation": "silu"} for gate in POSITIONS[1:]),
    *({"activation": activation} for activation in ("ns_sigmoid", "silu", "identity")),
    *({"gate": "none", "nonlinearity": nonlinearity} for nonlinearity in ("rmsnorm", "silu")),
    {"gate": "sdpa", "nonlinearity": "rmsnorm", "bias": True, "num_kv_heads": 1, "head_dim": 4},
    {"gate": "query", "qk_norm": True, "rope_base": 100.0, "num_kv_heads": 2, "head_dim": 6},
    {"gate": "key", "qk_norm": True, "rope_base": 10.0, "head_dim": 4, "causal": False},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))
def test_both_paths_follow_the_definition(options):
    layer = build(**options)
    x = inputs(2, 5, EMBED_DIM)
    expected = torch.stack([by_loops(layer, sample, lambda t, s: s <= t or not layer.causal) for sample in x])
    torch.testing.assert_close(layer(x), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(layer.record(x).output, expected, atol=1e-9, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    gate=st.sampled_from(POSITIONS),
    headwise=st.booleans(),
    head_shared=st.booleans(),
    additive=st.booleans(),
    activation=st.sampled_from(("sigmoid", "ns_sigmoid", "silu", "identity")),
    query_dependent=st.booleans(),
    nonlinearity=st.sampled_from((None, "rmsnorm", "silu")),
    qk_norm=st.booleans(),
    rope_base=st.sampled_from((None, 50.0)),
    causal=st.booleans(),
    heads=st.sampled_from(((1, 1), (2, 1), (6, 3), (4, 4))),
    tokens=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_fused_and_explicit_path_agree_for_every_combination(
    gate, headwise, head_shared, heads, tokens, seed, **options
):
    num_heads, num_kv_heads = heads
    if gate != "output":
        options |= {"granularity": "headwise" if headwise else "elementwise", "head_shared": head_shared}
    layer = build(seed=seed, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=4, gate=gate, **options)
    x = inputs(2, tokens, EMBED_DIM, seed=seed)
    # Each query keeps itself, so that no row is empty.
    mask = (inputs(2, 1, tokens, tokens, seed=seed + 1) > 0) | torch.eye(tokens, dtype=torch.bool)
    for attn_mask in (None, mask):
        record = layer.record(x, attn_mask)
        torch.testing.assert_close(layer(x, attn_mask), record.output, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(record.weights.sum(-1), torch.ones_like(record.weights[..., 0]))
        if attn_mask is not None:
            assert not record.weights[~attn_mask.expand_as(record.weights)].any()


@pytest.mark.parametrize(("activation", "share"), [("sigmoid", 0.5), ("ns_sigmoid", 0.75)])
@pytest.mark.parametrize("gate", ["sdpa", "value", "output"])
def test_an_untrained_gate_scales_the_ungated_output(gate, activation, share):
    layer, ungated = build(gate=gate, activation=activation), build(gate="none")
    torch.nn.init.zeros_(layer.gate_proj.weight)
    ungated.load_state_dict(layer.state_dict(), strict=False)
    x = inputs(2, 6, EMBED_DIM)
    torch.testing.assert_close(layer(x), share * ungated(x))


def test_an_input_independent_gate_starts_at_one_half():
    torch.manual_seed(0)
    record = GatedAttention(EMBED_DIM, 4, query_dependent=False).record(torch.randn(1, 3, EMBED_DIM))
    assert torch.equal(record.gate, torch.full((1, 1, 4, 3), 0.5))


def test_a_gate_after_attention_leaves_the_weights_alone():
    layer, ungated = build(gate="sdpa"), build(gate="none")
    ungated.load_state_dict(layer.state_dict(), strict=False)
    x = inputs(2, 6, EMBED_DIM)
    assert torch.equal(layer.record(x).weights, ungated.record(x).weights)


@pytest.mark.parametrize("gate", POSITIONS)
def test_later_tokens_change_nothing_before_them(gate):
    layer = build(gate=gate, rope_base=100.0, head_dim=4)
    x = inputs(1, 8, EMBED_DIM)
    changed = x.clone()
    changed[:, 5:] += 1
    assert torch.equal(layer(x)[:, :5], layer(changed)[:, :5])
    assert not torch.allclose(layer(x)[:, 5:], layer(changed)[:, 5:])


def test_the_mask_joins_the_causal_mask():
    layer = build(num_kv_heads=2)
    x = inputs(1, 6, EMBED_DIM)
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[3:, :2] = False
    torch.testing.assert_close(layer(x, mask)[0], by_loops(layer, x[0], lambda t, s: s <= t and mask[t, s]))
    everything = torch.ones(1, dtype=torch.bool)
    torch.testing.assert_close(layer(x, everything), layer(x))


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({"gate": "sdpa"}, 64 * 8 * 16),
        ({"gate": "query"}, 64 * 8 * 16),
        ({"gate": "sdpa", "head_shared": True}, 64 * 8 * 16),
        ({"gate": "sdpa", "granularity": "headwise"}, 64 * 8),
        ({"gate": "value"}, 64 * 2 * 16),
        ({"gate": "key", "granularity": "headwise"}, 64 * 2),
        ({"gate": "output"}, 64 * 64),
        ({"gate": "sdpa", "query_dependent": False}, 8 * 16),
        ({"gate": "none", "nonlinearity": "rmsnorm"}, 16),
        ({"gate": "none", "nonlinearity": "silu"}, 0),
    ],
)
def test_parameters_that_a_variant_adds(options, added):
    def count(**options):
        layer = GatedAttention(64, 8, num_kv_heads=2, head_dim=16, **options)
        return sum(parameter.numel() for parameter in layer.parameters())

    assert count(**options) - count(gate="none") == added


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"gate": "sdpa"}, 201),
        ({"gate": "sdpa", "granularity": "headwise"}, 1.6),
        ({"gate": "value"}, 25),
        ({"gate": "output"}, 101),
    ],
)
def test_added_parameters_of_the_papers_15b_model(options, millions):
    with torch.device("meta"):
        layer = GatedAttention(2048, 32, num_kv_heads=4, head_dim=128, **options)
    assert 24 * layer.gate_proj.weight.numel() / 1e6 == pytest.approx(millions, rel=0.02)


def additivity_defect(function):
    a, b = inputs(1, 1, EMBED_DIM, seed=2), inputs(1, 1, EMBED_DIM, seed=3)
    return float((function(a + b) - function(a) - function(b)).detach().abs().max())


@pytest.mark.parametrize(
    ("options", "linear"),
    [
        ({"gate": "none"}, True),
        ({"gate": "key"}, True),
        ({"gate": "query"}, True),
        ({"gate": "sdpa", "query_dependent": False}, True),
        ({"gate": "sdpa"}, False),
        ({"gate": "value"}, False),
        ({"gate": "output"}, False),
        ({"gate": "none", "nonlinearity": "rmsnorm"}, False),
        ({"gate": "none", "nonlinearity": "silu"}, False),
    ],
)
def test_what_makes_one_token_pass_through_a_non_linear_map(options, linear):
    defect = additivity_defect(build(**options))
    assert defect < 1e-12 if linear else defect > 1e-3


@pytest.mark.parametrize(
    ("gate", "linear"), [("none", True), ("output", True), ("value", False), ("sdpa", False)]
)
def test_only_a_gate_inside_frees_the_output_projection_from_a_linear_map(gate, linear):
    layer = build(gate=gate)
    reaching = {}
    layer.o_proj.register_forward_pre_hook(lambda module, args: reaching.update(x=args[0]))

    def reaches_output_projection(x):
        layer(x)
        return reaching["x"]

    defect = additivity_defect(reaches_output_projection)
    assert defect < 1e-12 if linear else defect > 1e-3


@settings(max_examples=15, deadline=None)
@given(
    granularity=st.sampled_from(("headwise", "elementwise")),
    num_kv_heads=st.sampled_from((1, 2, 4)),
    seed=st.integers(0, 2**31),
)
def test_fused_query_weights_split_as_the_official_model_splits_them(granularity, num_kv_heads, seed):
    layer = build(num_kv_heads=num_kv_heads, granularity=granularity)
    dk, per_head = layer.head_dim, layer.gate_proj.out_features // layer.num_heads
    fused = inputs(4 * (dk + per_head), EMBED_DIM, seed=seed)
    layer.load_fused_query(fused)
    group = 4 // num_kv_heads
    x = inputs(EMBED_DIM, seed=seed + 1)
    for head in range(4):
        block = (fused @ x).reshape(num_kv_heads, -1)[head // group]
        queries, gates = block[: group * dk].reshape(group, dk), block[group * dk :].reshape(group, per_head)
        query, gate = (
            (layer.q_proj.weight @ x).reshape(4, dk),
            (layer.gate_proj.weight @ x).reshape(4, per_head),
        )
        torch.testing.assert_close(query[head], queries[head % group])
        torch.testing.assert_close(gate[head], gates[head % group])


def test_a_headwise_gate_is_an_elementwise_one_with_repeated_columns():
    headwise, elementwise = build(granularity="headwise"), build()
    state = headwise.state_dict()
    state["gate_proj.weight"] = state["gate_proj.weight"].repeat_interleave(headwise.head_dim, dim=0)
    elementwise.load_state_dict(state)
    x = inputs(2, 5, EMBED_DIM)
    torch.testing.assert_close(headwise(x), elementwise(x))


def test_rotary_scores_depend_on_the_distance_only():
    # One repeated token: the log-odds between two keys depend on their distances to the query alone.
    layer = build(rope_base=10.0, head_dim=4, causal=False)
    log_weights = layer.record(inputs(1, 1, EMBED_DIM).expand(1, 9, EMBED_DIM)).weights.log()
    odds = log_weights[..., 1:] - log_weights[..., :-1]
    torch.testing.assert_close(odds[..., 1:, 1:], odds[..., :-1, :-1], atol=1e-12, rtol=1e-10)
    assert odds.abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"granularity": "headwise"}, {"query_dependent": False}])
def test_gradients_of_the_gate(options):
    layer = build(num_kv_heads=2, **options)
    x = inputs(1, 4, EMBED_DIM)
    name = "gate_proj.weight" if layer.query_dependent else "gate_bias"
    gate = dict(layer.named_parameters())[name].detach().requires_grad_()

    def output(gate):
        return torch.func.functional_call(layer, {name: gate}, (x,))

    assert torch.autograd.gradcheck(output, (gate,))


def test_dropout_acts_in_training_only():
    layer = build(dropout=0.5)
    x = inputs(1, 6, EMBED_DIM)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), layer.record(x).output)


def test_half_precision():
    layer = build(rope_base=10000.0, head_dim=4, qk_norm=True)
    x = inputs(2, 300, EMBED_DIM)
    exact = layer(x)
    layer.to(torch.bfloat16)
    record = layer.record(x.bfloat16())
    assert {record.output.dtype, record.weights.dtype, record.gate.dtype} == {torch.bfloat16}
    torch.testing.assert_close(layer(x.bfloat16()).double(), exact, atol=0.1, rtol=0.1)
    torch.testing.assert_close(record.output.double(), exact, atol=0.1, rtol=0.1)


def test_autocast():
    layer = build(rope_base=10000.0, head_dim=4).float()
    x = inputs(2, 50, EMBED_DIM).float()
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(x), layer.record(x).output
    for output in outputs:
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), exact, atol=0.1, rtol=0.1)


def test_the_fused_path_compiles_as_one_graph():
    layer = build(num_kv_heads=2, rope_base=100.0, head_dim=4)
    x = inputs(2, 6, EMBED_DIM)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


def test_a_layer_survives_being_saved(tmp_path):
    layer = build(num_kv_heads=2, rope_base=100.0, head_dim=4)
    torch.save(layer, tmp_path / "layer.pt")
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    x = inputs(1, 4, EMBED_DIM)
    assert torch.equal(loaded(x), layer(x))


def decoder(**attention):
    torch.manual_seed(0)
    return GatedDecoder(20, 16, 2, 4, 24, attention=attention)


@pytest.mark.parametrize("gate", POSITIONS)
def test_the_decoder_sees_the_past_only_and_records_what_it_does(gate):
    model = decoder(gate=gate, num_kv_heads=2)
    tokens = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 20
    torch.testing.assert_close(model(tokens)[:, :6], model(changed)[:, :6])

    outputs = []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda module, args, output: outputs.append(output))
    model(tokens)
    records = model.records(tokens)
    assert [record.weights.shape for record in records] == [(3, 4, 9, 9)] * 2
    for record, output in zip(records, outputs, strict=True):
        torch.testing.assert_close(record.output, output)


def test_the_decoder_learns_to_copy():
    torch.manual_seed(0)
    model = GatedDecoder(8, 16, 2, 2, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        half = torch.randint(8, (32, 6))
        tokens = torch.cat((half, half), dim=1)
        loss = functional.cross_entropy(model(tokens)[:, 5:-1].flatten(0, 1), half.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * math.log(8)


def test_rotary_positions_are_the_decoders_default():
    assert [block.attention.rope_base for block in decoder().blocks] == [10000.0] * 2
    assert [block.attention.rope_base for block in decoder(rope_base=None).blocks] == [None] * 2


def test_first_token_attention_is_a_mean_over_queries():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.4, 0.4]], dtype=torch.float64)
    assert first_token_attention(weights) == pytest.approx(0.35)
    assert first_token_attention(weights, skip=0) == pytest.approx(1.7 / 3)
    assert first_token_attention(weights.expand(2, 4, 3, 3), skip=2) == pytest.approx(0.2)


def test_gate_statistics_counts_what_is_strictly_below():
    gate = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    assert gate_statistics(gate, threshold=0.25) == {"mean": 0.4375, "share_below": 0.25}
    assert gate_statistics(gate.bfloat16(), threshold=0.6) == {"mean": 0.4375, "share_below": 0.75}


@given(
    embed_dim=st.integers(1, 512),
    ffn_dim=st.integers(2, 4096),
    share=st.floats(0, 1),
    gated_ffn=st.booleans(),
)
def test_matched_width_is_the_largest_within_the_budget(embed_dim, ffn_dim, share, gated_ffn):
    per_unit = (3 if gated_ffn else 2) * embed_dim
    extra = int(share * (ffn_dim - 1) * per_unit)
    matched = matched_ffn_dim(embed_dim, ffn_dim, extra, gated_ffn)
    assert matched * per_unit + extra <= ffn_dim * per_unit < (matched + 1) * per_unit + extra


def test_a_matched_decoder_has_equal_parameters():
    extra = 48 * 48
    gated = GatedDecoder(30, 48, 2, 4, matched_ffn_dim(48, 128, extra), attention={"gate": "sdpa"})
    plain = GatedDecoder(30, 48, 2, 4, 128, attention={"gate": "none"})
    gated_size, plain_size = (sum(p.numel() for p in model.parameters()) for model in (gated, plain))
    assert gated_size == plain_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 10}, "num_heads must divide embed_dim=10, got 4"),
        ({"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"head_dim": 0}, "head_dim must be at least 1, got 0"),
        ({"num_kv_heads": 0}, "num_kv_heads must be at least 1, got 0"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads=4, got 3"),
        ({"rope_base": 100.0}, "head_dim must be even with rope_base, got 3"),
        ({"rope_base": 0.0, "head_dim": 4}, "rope_base must be positive, got 0.0"),
        ({"gate": "softmax"}, "gate must be one of .*'sdpa'.*, got 'softmax'"),
        ({"granularity": "token"}, "granularity must be one of 'elementwise', 'headwise', got 'token'"),
        ({"activation": "relu"}, "activation must be one of .*'silu'.*, got 'relu'"),
        ({"nonlinearity": "gelu"}, "nonlinearity must be one of None, 'rmsnorm', 'silu', got 'gelu'"),
        (
            {"gate": "output", "granularity": "headwise"},
            "granularity must be .* got 'headwise'",
        ),
        ({"gate": "output", "head_shared": True}, "head_shared must be False .* got True"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_layers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GatedAttention(**{"embed_dim": EMBED_DIM, "num_heads": 4, **arguments})


@pytest.mark.parametrize("path", ["forward", "record"])
@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((5, EMBED_DIM), None, r"x must have shape \(B, T, 12\), got \(5, 12\)"),
        ((1, 5, 11), None, r"x must have shape \(B, T, 12\), got \(1, 5, 11\)"),
        ((2, 3, EMBED_DIM), torch.ones(3, 3), "attn_mask must be boolean, got torch.float32"),
        (
            (2, 3, EMBED_DIM),
            torch.ones(4, 4, dtype=torch.bool),
            r"to \(2, 4, 3, 3\), got shape \(4, 4\)",
        ),
        ((2, 3, EMBED_DIM), torch.ones(3, 1, 1, 1, dtype=torch.bool), r"got shape \(3, 1, 1, 1\)"),
        ((2, 3, EMBED_DIM), torch.ones(3, 3, dtype=torch.bool).triu(1), "attn_mask must leave every query"),
    ],
)
def test_bad_inputs_are_named(path, shape, mask, message):
    layer = GatedAttention(EMBED_DIM, 4)
    with pytest.raises(ValueError, match=message):
        getattr(layer, path)(torch.ones(shape), mask)


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({}, 23, r"weight must have shape \(24, 12\), got \(23, 12\)"),
        ({"granularity": "headwise"}, 24, r"weight must have shape \(16, 12\), got \(24, 12\)"),
        ({"gate": "value"}, 24, "gate='value'"),
        ({"gate": "none"}, 24, "gate='none'"),
        ({"query_dependent": False}, 24, "query_dependent=False"),
    ],
)
def test_bad_fused_weights_are_named(options, rows, message):
    with pytest.raises(ValueError, match=message):
        GatedAttention(EMBED_DIM, 4, **options).load_fused_query(torch.zeros(rows, EMBED_DIM))


def test_bad_tokens_and_sizes_are_named():
    model = decoder()
    with pytest.raises(ValueError, match="below vocab_size=20, got 3 to 20"):
        model(torch.tensor([[3, 20]]))
    with pytest.raises(ValueError, match="got -1 to 5"):
        model.records(torch.tensor([[-1, 5]]))
    with pytest.raises(ValueError, match=r"tokens must have shape \(B, T\), got \(2,\)"):
        model(torch.tensor([3, 4]))
    for name in ("vocab_size", "depth", "ffn_dim"):
        sizes = {"vocab_size": 9, "embed_dim": 8, "depth": 1, "num_heads": 2, "ffn_dim": 8, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            GatedDecoder(**sizes)


def test_bad_measurements_are_named():
    with pytest.raises(ValueError, match=r"skip must be .* queries 3, got 3"):
        first_token_attention(torch.ones(3, 3), skip=3)
    with pytest.raises(ValueError, match=r"skip must be .* queries 3, got -1"):
        first_token_attention(torch.ones(3, 3), skip=-1)
    with pytest.raises(ValueError, match="gate must hold at least one score"):
        gate_statistics(torch.empty(0, 3))
    for bad, message in (
        ((0, 8, 1), "embed_dim must be at least 1, got 0"),
        ((8, 0, 1), "ffn_dim must be at least 1, got 0"),
        ((8, 8, -1), "extra_parameters must be at least 0, got -1"),
        ((8, 8, 169), "extra_parameters must be at most 168, got 169"),
    ):
        with pytest.raises(ValueError, match=message):
            matched_ffn_dim(*bad)
    assert matched_ffn_dim(8, 8, 168) == 1
