"""The study of gated attention: its trials at reduced sizes, and the fairness of what they compare."""

import dataclasses
import io

import pytest
import torch

from assay.evidence import trial_generator
from assay.gating.gated_attention import GatedDecoder
from assay.studies import gated_attention as study

REDUCED = {
    study.LanguageModel: {"steps": 4, "warmup_steps": 2, "batch_size": 4, "held_out_windows": 8},
    study.Recall: {"steps": 3, "test_sequences": 32},
    study.Additivity: {"pairs": 4},
}


def reduced(experiment):
    quick = experiment.scales["quick"]
    changes = next(changes for kind, changes in REDUCED.items() if isinstance(quick, kind))
    return dataclasses.replace(quick, **changes)


def run(experiment, index=1_000_000):
    return experiment.trial(reduced(experiment), trial_generator("gated_attention", experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    assert other != measurements
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    if experiment.figure is not None:
        picture = io.BytesIO()
        experiment.figure([measurements, other]).savefig(picture, format="svg")
        assert b"</svg>" in picture.getvalue()


VARIANTS = {
    **{gate: {"gate": gate} for gate in ("none", "sdpa", "value", "key", "query", "output")},
    "rmsnorm": {"gate": "none", "nonlinearity": "rmsnorm"},
}


@pytest.mark.parametrize("attention", VARIANTS.values(), ids=VARIANTS)
def test_variants_start_from_the_baselines_weights_at_its_size(attention):
    settings = study.LanguageModel()
    baseline = study._decoder(settings, 3, {"gate": "none"})
    variant = study._decoder(settings, 3, attention)

    def size(model: GatedDecoder) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    one_unit_of_width = 3 * settings.embed_dim * settings.depth
    assert size(baseline) - one_unit_of_width < size(variant) <= size(baseline)
    shared = dict(baseline.named_parameters())
    own = {name for name, _ in variant.named_parameters()} - shared.keys()
    assert all("gate_proj" in name or "head_norm" in name for name in own)
    for name, parameter in variant.named_parameters():
        if name not in own:
            expected = shared[name][tuple(slice(length) for length in parameter.shape)]
            assert torch.equal(parameter, expected)


def test_training_does_not_read_the_held_out_text():
    settings = study.LanguageModel(text_file=study.__file__)
    train, held_out, alphabet = study._corpus(settings.text_file)
    with open(study.__file__, "rb") as file:
        text = file.read()
    letters = sorted(set(text))
    assert bytes(letters[i] for i in torch.cat((train, held_out)).tolist()) == text
    assert alphabet == len(letters)
    starts = study._course(settings, trial_generator("gated_attention", "test", 1_000_000)).starts
    assert starts.min() >= 0
    assert starts.max() + settings.context < len(train)


@pytest.mark.parametrize("null_token", [False, True])
def test_recall_asks_for_the_value_of_an_earlier_key(null_token):
    settings = study.Recall()
    torch.manual_seed(0)
    batch = study._recall_batch(settings, 200, null_token=null_token)
    tokens, first = settings.tokens, int(null_token)
    x, target, answering = batch.x[:, first:], batch.target[:, first:], batch.answering[:, first:]
    key, value, query, flag, null = x.split([tokens, settings.value_dim, tokens, 1, 1], dim=-1)
    assert torch.equal(key.sum(1), torch.ones(200, tokens))
    assert torch.equal(flag[..., 0] == 1, answering)
    assert not null.any()
    # One comparison of all queries with all keys finds where the answer stands.
    matches = query @ key.mT
    assert torch.equal(matches.sum(-1), answering.float())
    assert not matches.triu().any()
    torch.testing.assert_close(matches @ value, target)
    assert answering[:, 1:].float().mean() == pytest.approx(settings.query_probability, abs=0.03)
    if null_token:
        assert torch.equal(batch.x[:, 0], torch.eye(x.shape[-1])[-1].expand(200, -1))
        assert not batch.target[:, 0].any()
        assert not (batch.answering | batch.silent)[:, 0].any()
    assert torch.equal(batch.silent[:, first:], ~answering)
