"""Prefixes as experts, their gates, the learner of tasks, and the transformers it takes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.nn import functional

from assay.gating import (
    NonlinearResidualGate,
    PrefixAttention,
    PrefixBackbone,
    PrefixViT,
    PromptContinualLearner,
    attention_as_experts,
    continual_metrics,
    interaction_defect,
)
from assay.gating.norga import _ClassGaussians

ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": lambda s: 1 / (1 + torch.exp(-s)),
    "gelu": lambda s: s * (1 + torch.erf(s / math.sqrt(2))) / 2,
    "relu": lambda s: s.clamp(min=0),
    "softplus": lambda s: torch.log(1 + torch.exp(s)),
    "elu": lambda s: torch.where(s > 0, s, torch.exp(s) - 1),
    "identity": lambda s: s,
}


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attention(embed_dim=12, num_heads=3, **options):
    torch.manual_seed(0)
    return PrefixAttention(embed_dim, num_heads, **options).double()


def gate(activation="tanh", **scales):
    return NonlinearResidualGate(activation, **scales).double()


class TestGate:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_adds_the_activation_to_the_scores(self, activation):
        scores = normal(50)
        expected = scores - 0.75 * ACTIVATIONS[activation](1.25 * scores)
        torch.testing.assert_close(gate(activation, inner_scale=1.25, outer_scale=-0.75)(scores), expected)

    @pytest.mark.parametrize(
        ("activation", "value"), [("tanh", 0.96211716), ("sigmoid", 1.12245933), ("gelu", 0.84573123)]
    )
    def test_known_values(self, activation, value):
        assert gate(activation)(torch.tensor(0.5, dtype=torch.float64)).item() == pytest.approx(
            value, abs=1e-8
        )

    def test_has_two_parameters(self):
        assert {name: p.item() for name, p in gate(inner_scale=2, outer_scale=3).named_parameters()} == {
            "inner_scale": 2.0,
            "outer_scale": 3.0,
        }

    def test_names_an_unknown_activation(self):
        with pytest.raises(ValueError, match=r"activation must be one of 'tanh'.*got 'swish'"):
            NonlinearResidualGate("swish")


def head_by_loops(x, weights, prefix_key, prefix_value, gate):
    """Output token by output token, from the definition of the experts and their scores."""
    wq, wk, wv = weights
    outputs = []
    for xi in x:
        scores = [xi @ wq @ wk.T @ xj / math.sqrt(wq.shape[1]) for xj in x]
        experts = [wv.T @ xj for xj in x]
        for key, value in zip(prefix_key, prefix_value, strict=True):
            scores.append(gate(xi @ wq @ wk.T @ key / math.sqrt(wq.shape[1])))
            experts.append(wv.T @ value)
        shares = [math.exp(score.item()) for score in scores]
        outputs.append(
            sum(share * expert for share, expert in zip(shares, experts, strict=True)) / sum(shares)
        )
    return torch.stack(outputs)


class TestAttentionAsExperts:
    @settings(max_examples=20, deadline=None)
    @given(
        tokens=st.integers(1, 5),
        prefixes=st.integers(1, 4),
        width=st.integers(1, 5),
        head_dim=st.integers(1, 4),
        seed=st.integers(0, 1000),
    )
    def test_is_the_mixture_it_is_defined_as(self, tokens, prefixes, width, head_dim, seed):
        x, key, value = normal(tokens, width, seed=seed), *normal(2, prefixes, width, seed=seed + 1)
        weights = normal(3, width, head_dim, seed=seed + 2)
        head = attention_as_experts(x, *weights, prefix_key=key, prefix_value=value, gate=gate())
        torch.testing.assert_close(head.output, head_by_loops(x, weights, key, value, gate()))
        torch.testing.assert_close(head.gates, head.scores.softmax(1))
        torch.testing.assert_close(head.gates.sum(1), torch.ones(tokens, dtype=torch.float64))

    @pytest.mark.parametrize("activation", [None, "tanh"])
    def test_is_the_attention_of_one_head(self, activation):
        layer = attention(6, 1, qkv_bias=False)
        layer.proj.weight.data, layer.proj.bias.data = torch.eye(6).double(), torch.zeros(6).double()
        weights = [weight.T for weight in layer.qkv.weight.chunk(3)]
        x, key, value = normal(5, 6), *normal(2, 4, 6, seed=2)
        used = None if activation is None else gate(activation)
        head = attention_as_experts(x, *weights, prefix_key=key, prefix_value=value, gate=used)
        # The layer takes prefixes that have already passed the key and value weights, and puts them first.
        passed = (key @ weights[1], value @ weights[2], used)
        torch.testing.assert_close(layer(x[None], *passed)[0], head.output)
        torch.testing.assert_close(layer.attention_weights(x[None], *passed)[0, 0], head.gates.roll(4, 1))

    def test_token_scores_are_quadratic_and_prefix_scores_linear_in_the_input(self):
        x, weights, prefixes = normal(5, 4), normal(3, 4, 3, seed=2), normal(2, 6, 4, seed=3)

        def scores(scale):
            head = attention_as_experts(scale * x, *weights, prefix_key=prefixes[0], prefix_value=prefixes[1])
            return head.scores

        torch.testing.assert_close(scores(3)[:, :5], 9 * scores(1)[:, :5])
        torch.testing.assert_close(scores(3)[:, 5:], 3 * scores(1)[:, 5:])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": normal(2, 5, 4)}, r"x must have shape \(N, D\), got \(2, 5, 4\)"),
            ({"key_weight": normal(4, 2)}, r"key_weight must have shape .*got \(4, 2\)"),
            ({"prefix_value": None}, "prefix_value must be given with prefix_key, got None"),
            ({"prefix_key": normal(2, 3)}, r"prefix_key must have shape \(P, 4\), got \(2, 3\)"),
            ({"prefix_key": normal(1, 4)}, r"prefix_key must hold as many prefixes .*\(2, 4\), got \(1, 4\)"),
        ],
    )
    def test_names_what_is_wrong(self, changes, message):
        names = ("query_weight", "key_weight", "value_weight")
        arguments = {"x": normal(5, 4), **dict(zip(names, normal(3, 4, 3), strict=True))}
        arguments |= {"prefix_key": normal(2, 4), "prefix_value": normal(2, 4)}
        with pytest.raises(ValueError, match=message):
            attention_as_experts(**arguments | changes)


class TestPrefixAttention:
    x, key, value = normal(4, 6, 12), *normal(2, 5, 12, seed=2)

    def heads(self, prefix):
        return prefix.view(-1, 3, 4).transpose(0, 1).expand(4, -1, -1, -1)

    def reference(self, layer, prefixes=()):
        query, key, value = (
            part.unflatten(2, (3, 4)).transpose(1, 2) for part in layer.qkv(self.x).chunk(3, dim=2)
        )
        if prefixes:
            key = torch.cat((self.heads(prefixes[0]), key), dim=2)
            value = torch.cat((self.heads(prefixes[1]), value), dim=2)
        output = functional.scaled_dot_product_attention(query, key, value)
        return layer.proj(output.transpose(1, 2).flatten(2))

    def test_without_prefixes_is_attention(self):
        layer = attention()
        torch.testing.assert_close(layer(self.x), self.reference(layer))
        torch.testing.assert_close(layer(self.x, gate=gate()), self.reference(layer))

    def test_an_outer_scale_of_zero_is_prefix_tuning(self):
        layer = attention()
        expected = self.reference(layer, (self.key, self.value))
        torch.testing.assert_close(layer(self.x, self.key, self.value), expected)
        torch.testing.assert_close(layer(self.x, self.key, self.value, gate(outer_scale=0)), expected)

    def test_the_identity_scales_the_prefix_keys(self):
        layer, linear = attention(), gate("identity", inner_scale=0.5, outer_scale=3)
        expected = layer(self.x, 2.5 * self.key, self.value)
        torch.testing.assert_close(layer(self.x, self.key, self.value, linear), expected)

    def test_weights_give_the_output(self):
        layer = attention()
        weights = layer.attention_weights(self.x, self.key, self.value, gate())
        value = layer.qkv(self.x)[..., 24:].unflatten(2, (3, 4)).transpose(1, 2)
        output = weights @ torch.cat((self.heads(self.value), value), dim=2)
        output = layer.proj(output.transpose(1, 2).flatten(2))
        torch.testing.assert_close(layer(self.x, self.key, self.value, gate()), output)
        with torch.no_grad():  # by the fused kernel
            torch.testing.assert_close(layer(self.x, self.key, self.value, gate()), output)

    def test_each_example_can_have_its_own_prefixes(self):
        layer, (key, value) = attention(), normal(2, 4, 5, 12, seed=3)
        together = layer(self.x, key, value, gate())
        for b in range(4):
            torch.testing.assert_close(together[b], layer(self.x[b : b + 1], key[b], value[b], gate())[0])

    def test_gradients(self):
        layer, residual_gate = attention(6, 2), gate()

        def output(key, value, inner_scale, outer_scale):
            scales = {"inner_scale": inner_scale, "outer_scale": outer_scale}

            def gated(scores):
                return torch.func.functional_call(residual_gate, scales, (scores,))

            return layer(normal(2, 3, 6), key, value, gated)

        inputs = (*normal(2, 2, 6, seed=3).unbind(), torch.tensor(0.8).double(), torch.tensor(1.2).double())
        assert torch.autograd.gradcheck(output, tuple(i.clone().requires_grad_() for i in inputs))

    def test_half_precision_takes_prefixes_of_single_precision(self):
        layer, prefixes = attention().bfloat16(), (self.key.float(), self.value.float())
        output = layer(self.x.bfloat16(), *prefixes, NonlinearResidualGate())
        assert output.dtype == torch.bfloat16
        expected = attention()(self.x, self.key, self.value, gate())
        torch.testing.assert_close(output.double(), expected, atol=0.03, rtol=0.03)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((normal(6, 12),), r"x must have shape \(B, N, 12\), got \(6, 12\)"),
            ((x, key), "prefix_value must be given with prefix_key, got None"),
            ((x, None, value), "prefix_key must be given with prefix_value, got None"),
            ((x, key[:, :8], value), r"prefix_key must have shape .*12\), got \(5, 8\)"),
            (
                (x, key, value.expand(3, 5, 12)),
                r"prefix_value must have shape .*4, P, 12\), got \(3, 5, 12\)",
            ),
        ],
    )
    def test_names_what_is_wrong(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            attention()(*arguments)
        with pytest.raises(ValueError, match=message):
            attention().attention_weights(*arguments)

    def test_names_heads_that_do_not_divide(self):
        with pytest.raises(ValueError, match="num_heads must divide embed_dim=10, got 4"):
            PrefixAttention(10, 4)


class TestPrefixViT:
    def build(self):
        torch.manual_seed(0)
        return PrefixViT(8, 4, embed_dim=12, depth=3, num_heads=3).double()

    def test_puts_prefixes_into_their_layers(self):
        model, images, prefix = self.build(), normal(2, 1, 8, 8), normal(2, 2, 3, 12, seed=2)
        patches = model.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((model.cls_token.expand(2, 1, 12), patches), dim=1) + model.pos_embed
        gates = [gate("tanh"), gate("sigmoid")]
        for block, own in zip(
            model.blocks, [(*prefix[1], gates[1]), (), (*prefix[0], gates[0])], strict=True
        ):
            tokens = tokens + block.attn(block.norm1(tokens), *own)
            tokens = tokens + block.mlp(block.norm2(tokens))
        expected = model.norm(tokens)[:, 0]
        torch.testing.assert_close(model.features(images, prefix, gates, layers=(2, 0)), expected)
        own_prefixes = prefix[:, :, None].expand(-1, -1, 2, -1, -1)
        torch.testing.assert_close(model.features(images, own_prefixes, gates, layers=(2, 0)), expected)

    def test_forward_is_the_head_on_features(self):
        model, images = self.build(), normal(2, 1, 8, 8)
        torch.testing.assert_close(model(images), model.head(model.features(images)))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"images": normal(1, 8, 8)}, r"images must have shape .*got \(1, 8, 8\)"),
            ({"images": normal(1, 1, 12, 8)}, "images must give 4 patches, got 6"),
            ({"layers": (0, 3)}, r"layers must be different numbers from 0 to 2, got \(0, 3\)"),
            ({"layers": (1, 1)}, r"layers must be different numbers from 0 to 2, got \(1, 1\)"),
            ({"layers": (0,)}, r"prefix must have shape .*with 1 layers, got \(2, 2, 3, 12\)"),
            ({"gates": [gate()]}, "gates must hold one gate for each of the 2 layers, got 1"),
        ],
    )
    def test_names_what_is_wrong(self, arguments, message):
        good = {"images": normal(2, 1, 8, 8), "prefix": normal(2, 2, 3, 12), "layers": (0, 1)}
        with pytest.raises(ValueError, match=message):
            self.build().features(**good | arguments)

    def test_names_sizes_that_do_not_divide(self):
        with pytest.raises(ValueError, match="image_size must be divisible by patch_size=3, got 8"):
            PrefixViT(8, 3)


class Scaled(nn.Module):
    """timm's LayerScale."""

    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x):
        return x * self.gamma


class TimmAttention(nn.Module):
    def __init__(self, dim, num_heads, qk_norm):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()

    def forward(self, x):
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2)
        )
        query = self.q_norm(query) / math.sqrt(query.shape[-1])
        return self.proj(((query @ key.mT).softmax(-1) @ value).transpose(1, 2).flatten(2))


class TimmBlock(nn.Module):
    def __init__(self, dim, num_heads, qk_norm, post_norm):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.post_norm = TimmAttention(dim, num_heads, qk_norm), post_norm
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.Dropout(0.5))
        self.ls1, self.ls2 = Scaled(dim), Scaled(dim)

    def forward(self, x):
        if self.post_norm:
            x = x + self.norm1(self.attn(x))
            return x + self.norm2(self.mlp(x))
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class TimmViT(nn.Module):
    """A stand-in with the attributes of timm's VisionTransformer, pooling by the mean of the patches."""

    def __init__(self, qk_norm=False, post_norm=False):
        super().__init__()
        self.embed_dim = 12
        self.patch_embed = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), nn.Flatten(2))
        self.cls_token, self.pos_embed = (
            nn.Parameter(torch.randn(1, 1, 12)),
            nn.Parameter(torch.randn(1, 5, 12)),
        )
        self.norm_pre, self.norm = nn.LayerNorm(12), nn.LayerNorm(12)
        self.blocks = nn.Sequential(*(TimmBlock(12, 3, qk_norm, post_norm) for _ in range(3)))
        self.head = nn.Linear(12, 7)

    def _pos_embed(self, x):
        return torch.cat((self.cls_token.expand(len(x), -1, -1), x.mT), dim=1) + self.pos_embed

    def forward_features(self, images):
        return self.norm(self.blocks(self.norm_pre(self._pos_embed(self.patch_embed(images)))))

    def forward_head(self, x, pre_logits=False):
        pooled = x[:, 1:].mean(1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


class TorchvisionBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.self_attention = nn.MultiheadAttention(12, 3, dropout=0.5, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, x):
        normalised = self.ln_1(x)
        x = x + self.self_attention(normalised, normalised, normalised, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class TorchvisionEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_embedding, self.ln = nn.Parameter(torch.randn(1, 5, 12)), nn.LayerNorm(12)
        self.layers = nn.Sequential(TorchvisionBlock(), TorchvisionBlock(), TorchvisionBlock())

    def forward(self, x):
        return self.ln(self.layers(x + self.pos_embedding))


class TorchvisionViT(nn.Module):
    """A stand-in with the attributes of torchvision's VisionTransformer."""

    def __init__(self):
        super().__init__()
        self.hidden_dim, self.conv_proj = 12, nn.Conv2d(3, 12, 4, stride=4)
        self.class_token, self.encoder = nn.Parameter(torch.randn(1, 1, 12)), TorchvisionEncoder()
        self.heads = nn.Linear(12, 7)

    def _process_input(self, images):
        return self.conv_proj(images).flatten(2).permute(0, 2, 1)

    def forward(self, images):
        tokens = torch.cat((self.class_token.expand(len(images), -1, -1), self._process_input(images)), dim=1)
        return self.heads(self.encoder(tokens)[:, 0])


class TestPrefixBackbone:
    images = normal(2, 3, 8, 8).float()

    def build(self, kind, **options):
        torch.manual_seed(0)
        model = kind(**options)
        return model, PrefixBackbone(model)

    @pytest.mark.parametrize("kind", [TimmViT, TorchvisionViT])
    def test_without_prefixes_gives_the_models_features(self, kind):
        model, backbone = self.build(kind)
        head = model.head if kind is TimmViT else model.heads
        torch.testing.assert_close(head(backbone.features(self.images)), model(self.images))
        assert {id(p) for p in backbone.parameters()} == {id(p) for p in model.parameters()}

    @pytest.mark.parametrize("kind", [TimmViT, TorchvisionViT])
    def test_prefixes_reach_their_layer(self, kind):
        _, backbone = self.build(kind)
        prefix, seen = normal(1, 2, 4, 12).float(), []
        for block in backbone.blocks:
            block.attn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1:]))
        one_gate = NonlinearResidualGate()
        features = backbone.features(self.images, prefix, [one_gate], layers=(1,))
        assert not torch.allclose(features, backbone.features(self.images))
        assert torch.equal(seen[1][0], prefix[0, 0])
        assert torch.equal(seen[1][1], prefix[0, 1])
        assert seen[1][2] is one_gate
        assert seen[0] == seen[2] == (None, None, None)

    @pytest.mark.parametrize("kind", [TimmViT, TorchvisionViT])
    def test_a_learner_takes_it_and_copies_of_it(self, kind):
        model, backbone = self.build(kind)
        X, y = normal(8, 3, 8, 8).float(), torch.arange(8) % 2
        learner = PromptContinualLearner(backbone, 2, epochs=1, layers=(0, 1), random_state=0)
        copy = clone(learner)
        labels = learner.fit_task(X, y).predict(X)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert torch.equal(copy.fit_task(X, y).predict(X), labels)

    @pytest.mark.parametrize("options", [{"qk_norm": True}, {"post_norm": True}])
    def test_refuses_blocks_that_compute_something_else(self, options):
        with pytest.raises(ValueError, match=r"model must have pre-norm blocks .* TimmBlock computes"):
            self.build(TimmViT, **options)

    def test_refuses_other_models(self):
        with pytest.raises(ValueError, match=r"model must have patch_embed, .*but a Linear has not"):
            PrefixBackbone(nn.Linear(2, 2))
        with pytest.raises(
            ValueError, match="attention must have qkv, proj, num_heads, but a Linear has not"
        ):
            PrefixAttention.sharing(nn.Linear(2, 2))


class TestContinualMetrics:
    @pytest.mark.parametrize("unread", [0.0, math.nan])
    def test_known_values(self, unread):
        accuracy = [[0.9, 0.8, 0.85], [unread, 0.7, 0.6], [unread, unread, 0.95]]
        metrics = continual_metrics(accuracy)
        assert metrics.final_average == pytest.approx(0.8)
        assert metrics.cumulative_average == pytest.approx(0.81666667)
        assert metrics.forgetting == pytest.approx(0.075)

    @given(tasks=st.integers(1, 6), seed=st.integers(0, 1000))
    def test_are_their_definitions(self, tasks, seed):
        accuracy = np.random.default_rng(seed).random((tasks, tasks))
        metrics, last = continual_metrics(accuracy), tasks - 1
        assert metrics.final_average == pytest.approx(accuracy[:, last].mean())
        averages = [accuracy[: t + 1, t].mean() for t in range(tasks)]
        assert metrics.cumulative_average == pytest.approx(np.mean(averages))
        drops = [max(accuracy[i, t] for t in range(i, last)) - accuracy[i, last] for i in range(last)]
        assert metrics.forgetting == pytest.approx(np.mean(drops) if drops else 0)

    def test_names_a_matrix_that_is_not_square(self):
        with pytest.raises(ValueError, match=r"accuracy must be a square matrix, got shape \(1, 2\)"):
            continual_metrics([[0.5, 0.5]])


def pictures(classes, per_class=12, seed=0):
    """Noisy pictures of 1 x 4 x 4 pixels: each class has its own pattern, the same for every seed."""
    patterns = 2 * normal(6, 1, 4, 4, seed=5).float()
    y = torch.tensor(classes).repeat_interleave(per_class)
    return patterns[y] + 0.5 * normal(len(y), 1, 4, 4, seed=seed).float(), y


TASKS = ((4, 1), (0, 5), (3, 2))


def learner(**options):
    torch.manual_seed(0)
    backbone = PrefixViT(4, 2, embed_dim=12, depth=2, num_heads=2)
    defaults = {"layers": (0, 1), "prompt_length": 2, "epochs": 4, "replay_epochs": 5, "random_state": 0}
    return PromptContinualLearner(backbone, 6, **defaults | options)


def fitted(tasks=TASKS, **options):
    learnt = learner(**options)
    for task in tasks:
        learnt.fit_task(*pictures(task))
    return learnt


class TestPromptContinualLearner:
    @pytest.mark.parametrize("task_inference", ["gaussian", "replay"])
    def test_learns_tasks_and_tells_them_apart(self, task_inference):
        learnt = fitted(task_inference=task_inference, epochs=10, replay_epochs=20)
        X, y = pictures(range(6), seed=1)
        assert learnt.tasks_ == [[1, 4], [0, 5], [2, 3]]
        task_of_class = torch.tensor([1, 0, 2, 2, 0, 1])
        assert (learnt.predict_task(X) == task_of_class[y]).float().mean() > 0.8
        assert (learnt.predict(X) == y).float().mean() > 0.75

    def test_predicts_with_the_prefixes_of_the_task_it_infers(self):
        learnt, (X, _) = fitted(), pictures(range(6), seed=1)
        tasks, seen = learnt.predict_task(X), torch.tensor([1, 4, 0, 5, 2, 3])
        expected = []
        with torch.no_grad():
            for image, task in zip(X, tasks.tolist(), strict=True):
                features = learnt.backbone.features(
                    image[None], learnt.prompts_[task], learnt.gates_, layers=(0, 1)
                )
                expected.append(seen[learnt.head_(features)[0, seen].argmax()])
        assert torch.equal(learnt.predict(X), torch.stack(expected))

    def test_predicts_classes_of_a_given_task_only(self):
        learnt, (X, y) = fitted(epochs=10, replay_epochs=20), pictures(range(6), seed=1)
        for task, classes in enumerate(learnt.tasks_):
            labels = learnt.predict(X, task=task)
            assert set(labels.tolist()) <= set(classes)
            of_task = torch.isin(y, torch.tensor(classes))
            assert (labels == y)[of_task].float().mean() > 0.8

    def test_the_first_task_needs_no_inference(self):
        learnt, (X, _) = fitted(TASKS[:1]), pictures(range(6))
        assert not learnt.predict_task(X).any()
        assert torch.equal(learnt.predict(X), learnt.predict(X, task=0))

    def test_changes_nothing_that_is_to_stay(self):
        learnt = learner()
        backbone = [p.clone() for p in learnt.backbone.parameters()]
        learnt.fit_task(*pictures(TASKS[0]))
        first_prompt = learnt.prompts_[0].clone()
        gates = torch.stack(list(learnt.gates_.parameters()))
        head = learnt.head_
        assert not torch.isin(gates, torch.ones(())).any()
        for task in TASKS[1:]:
            learnt.fit_task(*pictures(task))
        assert all(map(torch.equal, backbone, learnt.backbone.parameters()))
        assert torch.equal(learnt.prompts_[0], first_prompt)
        assert torch.equal(torch.stack(list(learnt.gates_.parameters())), gates)
        assert learnt.head_ is head
        assert not torch.equal(learnt.prompts_[1], learnt.prompts_[2])

    def test_repeats_exactly_whatever_the_global_seed(self):
        one = fitted(task_inference="replay")
        torch.manual_seed(7)
        state = torch.get_rng_state()
        other = clone(one)
        for task in TASKS:
            other.fit_task(*pictures(task))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(map(torch.equal, one.prompts_, other.prompts_))
        X, _ = pictures(range(6), seed=1)
        assert torch.equal(one.predict(X), other.predict(X))
        different = clone(one).set_params(random_state=1).fit_task(*pictures(TASKS[0]))
        assert not torch.equal(different.prompts_[0], one.prompts_[0])

    def test_costs_two_gate_parameters_a_layer(self):
        plain, gated = fitted(TASKS[:1], gate=None), fitted(TASKS[:1])
        assert plain.gates_ is None
        assert sum(p.numel() for p in gated.gates_.parameters()) == 2 * 2
        assert plain.prompts_[0].shape == gated.prompts_[0].shape == (2, 2, 2, 12)
        assert not torch.equal(plain.prompts_[0], gated.prompts_[0])

    def test_starts_from_the_last_prompt_and_mixes_in_the_earlier_ones(self):
        unmixed = fitted(TASKS[:2], prompt_momentum=0)
        still = clone(unmixed).set_params(prompt_momentum=0.25, learning_rate=0.0)
        for task in TASKS:
            still.fit_task(*pictures(task))
        # With nothing learnt all prompts are the first, and so is every mix of them.
        torch.testing.assert_close(still.prompts_[2], still.prompts_[0])
        assert still.prompts_[0].abs().max() <= 1
        # Had the mix not been taken after training, momentum of 1 would leave the second prompt its own.
        mixed = clone(unmixed).set_params(prompt_momentum=1.0)
        for task in TASKS[:2]:
            mixed.fit_task(*pictures(task))
        torch.testing.assert_close(mixed.prompts_[1], mixed.prompts_[0])
        assert torch.equal(mixed.prompts_[0], unmixed.prompts_[0])
        assert not torch.allclose(unmixed.prompts_[1], unmixed.prompts_[0])

    def test_the_contrastive_loss_keeps_features_apart(self):
        learnt = fitted(TASKS[:1], contrastive_temperature=0.5)
        points = torch.cat((learnt._instructed.means, normal(3, 12).float()))
        log_shares = (points @ points.T / 0.5).log_softmax(1)
        loss = learnt._contrastive_loss(points[2:])
        torch.testing.assert_close(loss, -log_shares.diagonal().mean())
        pushed = fitted(TASKS[:1], contrastive_weight=1.0)
        assert not torch.equal(pushed.prompts_[0], learnt.prompts_[0])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_works_in_other_precisions(self, dtype):
        learnt = learner(epochs=10)
        learnt.backbone.to(dtype)
        for task in TASKS:
            X, y = pictures(task)
            learnt.fit_task(X.to(dtype), y)
        X, y = pictures(range(6), seed=1)
        assert (learnt.predict(X.to(dtype)) == y).float().mean() > 0.6

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y": torch.tensor([0, 0, 1, 1])}, "y must hold new classes only, but class 1 is"),
            ({"y": torch.tensor([0, 0, 6, 6])}, "y must be from 0 to n_classes - 1 = 5, got 6"),
            ({"y": torch.tensor([0, 0, -1, -1])}, "y must be from 0 to n_classes - 1 = 5, got -1"),
            ({"y": torch.tensor([0, 0, 0, 5])}, "y must hold each class twice or more, but class 5 once"),
            ({"y": torch.tensor([0.0, 0.0, 5.0, 5.0])}, "y must be 4 integer labels, got torch.float32"),
            ({"y": torch.tensor([0, 0, 5])}, r"y must be 4 integer labels, got torch.int64 of shape \(3,\)"),
            ({"X": torch.zeros(0, 1, 4, 4)}, "X must hold images, got none"),
            ({"X": torch.zeros(4, 4, 4)}, r"X must have shape .*got \(4, 4, 4\)"),
        ],
    )
    def test_names_bad_data(self, changes, message):
        good = {"X": torch.zeros(4, 1, 4, 4), "y": torch.tensor([0, 0, 5, 5])}
        with pytest.raises(ValueError, match=message):
            fitted(TASKS[:1], epochs=1).fit_task(**good | changes)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"gate": "swish"}, "gate must be one of None, 'tanh'.*got 'swish'"),
            (
                {"task_inference": "oracle"},
                "task_inference must be one of 'gaussian', 'replay', got 'oracle'",
            ),
            ({"layers": (0, 2)}, r"layers must be different numbers from 0 to 1, got \(0, 2\)"),
        ],
    )
    def test_names_bad_settings(self, options, message):
        with pytest.raises(ValueError, match=message):
            fitted(TASKS[:1], **options)

    def test_predicts_only_what_it_has_learnt(self):
        X, _ = pictures((0,))
        with pytest.raises(NotFittedError):
            learner().predict(X)
        with pytest.raises(NotFittedError):
            learner().predict_task(X)
        unlearnt = learner(layers=(0, 5))
        with pytest.raises(ValueError, match="layers must be"):
            unlearnt.fit_task(*pictures(TASKS[0]))
        with pytest.raises(NotFittedError):
            unlearnt.predict(X)
        unlearnt.set_params(layers=(0,), epochs=1).fit_task(*pictures(TASKS[0])).predict(X)
        with pytest.raises(ValueError, match="task must be from 0 to 0, got 1"):
            fitted(TASKS[:1], epochs=1).predict(X, task=1)


class TestClassGaussians:
    features, y = normal(40, 3), torch.arange(40) % 2

    def test_sample_has_the_features_mean_and_covariance(self):
        gaussians = _ClassGaussians.fitted(self.features, self.y, (0, 1))
        samples, places = gaussians.sample(200_000, torch.Generator().manual_seed(0))
        for label in (0, 1):
            rows, drawn = self.features[self.y == label], samples[places == label]
            expected = torch.cov(rows.T) + 1e-4 * torch.eye(3)
            factor = gaussians.factors[label]
            torch.testing.assert_close(factor.T @ factor, expected)
            torch.testing.assert_close(drawn.mean(0), rows.mean(0), atol=0.02, rtol=0)
            torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.02, rtol=0.02)

    def test_most_likely_is_of_the_largest_density(self):
        gaussians = _ClassGaussians.fitted(self.features, self.y, (0, 1))
        densities = [
            torch.distributions.MultivariateNormal(
                self.features[self.y == label].mean(0),
                torch.cov(self.features[self.y == label].T) + 1e-4 * torch.eye(3),
            ).log_prob(self.features)
            for label in (0, 1)
        ]
        assert torch.equal(gaussians.most_likely(self.features), torch.stack(densities).argmax(0))

    def test_two_images_of_large_features_are_enough(self):
        features = 1e3 * normal(4, 64).float()
        gaussians = _ClassGaussians.fitted(features, torch.tensor([0, 0, 1, 1]), (0, 1))
        assert gaussians.most_likely(features).tolist() == [0, 0, 1, 1]


class TestInteractionDefect:
    X = 4 * torch.rand(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 2
    beta = (0.8, -0.5, 0.3)

    @pytest.mark.parametrize("activation", [None, "identity"])
    def test_is_zero_for_a_linear_gate(self, activation):
        assert interaction_defect(self.X, self.beta, activation=activation) < 1e-12

    @pytest.mark.parametrize(("activation", "value"), [("tanh", 0.055), ("sigmoid", 0.0145)])
    def test_is_not_for_a_nonlinear_one(self, activation, value):
        assert interaction_defect(self.X, self.beta, activation=activation) == pytest.approx(value, rel=0.1)

    def test_is_what_the_derivatives_say(self):
        """The columns are dF/da and d2F/(dbeta db), here from F itself."""
        X, beta = self.X[:50], torch.tensor(self.beta, dtype=torch.float64)

        def output(a, beta, b):
            scores = X @ beta
            return torch.exp(scores + 0.7 * torch.sigmoid(1.5 * scores)) * (X @ a + b)

        a, b = torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        by_a = torch.func.jacrev(output)(a, beta, b)
        by_beta_and_b = torch.func.jacrev(torch.func.jacrev(output, argnums=2), argnums=1)(a, beta, b)
        columns = torch.cat((by_a, by_beta_and_b), dim=1)
        expected = np.linalg.svd(columns / columns.norm(dim=0))[1][-1]
        scales = {"inner_scale": 1.5, "outer_scale": 0.7}
        found = interaction_defect(X.numpy(), self.beta, activation="sigmoid", **scales)
        assert found == pytest.approx(expected, rel=1e-9)

    def test_large_scores_do_not_overflow(self):
        assert 0 < interaction_defect(self.X, [900.0, 0.0, 0.0], activation="tanh") <= 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"X": X[:5]}, r"X must have shape \(n, d\) with n >= 2 d, got \(5, 3\)"),
            ({"gate_weight": (1.0, 2.0)}, r"gate_weight must have shape \(3,\), got \(2,\)"),
            ({"activation": "swish"}, "activation must be one of None, 'tanh'.*got 'swish'"),
        ],
    )
    def test_names_what_is_wrong(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            interaction_defect(**{"X": self.X, "gate_weight": self.beta} | arguments)
