"""The study of JEI-DNN: its trials at reduced sizes, its data, and what it measures of answers."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.evidence import trial_generator
from assay.studies import jei_dnn as study

SMALL = {
    "train": 150,
    "validation": 100,
    "test": 200,
    "width": 16,
    "backbone_epochs": 2,
    "warmup_epochs": 1,
    "epochs": 4,
    "batch_size": 50,
    "alternate_every": 1,
}


def run(experiment, index=1_000_000):
    settings = replace(experiment.scales["quick"], **SMALL)
    return experiment.trial(settings, trial_generator("jei_dnn", experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    assert other != measurements
    for claim in experiment.claims:
        answer = claim.asks(measurements)
        # With one exit for all there is no selection to be biased.
        assert answer in (True, False) or (answer is None and experiment.name.startswith("few_rows"))
    if experiment.figure is not None:
        for rows in ([measurements], [measurements, other]):
            picture = io.BytesIO()
            experiment.figure(rows).savefig(picture, format="svg")
            assert b"</svg>" in picture.getvalue()


def test_the_twin_experiments_differ_in_the_exit_model_alone():
    for name in ("tradeoff", "few_rows", "coupling"):
        one, other = (study.STUDY.experiment(f"{name}{suffix}") for suffix in ("", "_hazard"))
        for scale, settings in one.scales.items():
            assert settings.exit_model == "marginal"
            assert other.scales[scale] == replace(settings, exit_model="hazard")


def test_the_data_are_of_mixed_difficulty():
    torch.manual_seed(0)
    X, y = study._mixed_difficulty(2000)
    assert np.bincount(y, minlength=4).min() > 400
    for (x0, x1, x2, x3, x4, x5, *_), label in zip(X.tolist(), y.tolist(), strict=True):
        high, low = (x1 > 0, x2 > 0) if x0 > 0 else (x3 * x4 > 0, x5 > 0)
        assert label == 2 * high + low


def test_methods_share_backbone_weights_and_passes(monkeypatch):
    calls = []
    for name in ("fit_heads", "fit_joint"):
        fit = getattr(study, name)

        def recorded(network, *args, fit=fit, **options):
            before = {key: value.clone() for key, value in network.state_dict().items()}
            epochs = options["epochs"] + options.get("warmup_epochs", 0)
            calls.append((before, epochs, options["batch_size"], options["generator"].initial_seed()))
            return fit(network, *args, **options)

        monkeypatch.setattr(study, name, recorded)
    run(study.STUDY.experiment("coupling"))
    first, *others = calls
    assert len(others) == 4
    for before, *budget in others:
        assert budget == list(first[1:])
        assert all(torch.equal(value, first[0][key]) for key, value in before.items())


def test_the_backbone_learns():
    problem = study._problem(study.Task(backbone_epochs=8), trial_generator("jei_dnn", "test", 1_000_000))
    last = study._logits(problem.network, problem)[1][-1]
    assert study._accuracy(last, problem.test[1]) > 0.65


def test_features_are_read_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "features.npz"
    arrays = {
        f"X_{part}": rng.normal(size=(n, 3, 8)).astype(np.float32)
        for part, n in (("train", 260), ("test", 50))
    }
    arrays |= {f"y_{part}": np.arange(len(arrays[f"X_{part}"])) % 5 for part in ("train", "test")}
    arrays |= {
        "weight": rng.normal(size=(5, 8)).astype(np.float32),
        "bias": rng.normal(size=5).astype(np.float32),
    }
    np.savez(file, **arrays)
    settings = replace(study.Task(), **SMALL, features_file=str(file))
    problem = study._problem(settings, rng)
    assert [len(split[0]) for split in (problem.train, problem.validation, problem.test)] == [150, 100, 50]
    rows = {tuple(row.flatten().tolist()) for row in torch.cat((problem.train[0], problem.validation[0]))}
    assert len(rows) == 250
    last = study._logits(problem.network, problem)[1][-1]
    expected = arrays["X_test"][:, -1] @ arrays["weight"].T + arrays["bias"]
    torch.testing.assert_close(last, torch.from_numpy(expected))
    measurements = study.beside_thresholds(settings, rng)
    assert all(claim.asks(measurements) in (True, False) for claim in study._TRADEOFF_CLAIMS)


def two_exits(first, exits, y):
    """Two classes: `first` are the first exit's probabilities of class 1; the last exit is never wrong."""
    y = torch.tensor(y)
    probabilities = torch.tensor(first)
    last = torch.nn.functional.one_hot(y, 2).float()
    return study._Answers(
        torch.stack((torch.stack((1 - probabilities, probabilities), 1), last)), torch.tensor(exits), y
    )


def test_selection_bias_is_the_bias_beyond_that_of_all_inputs(monkeypatch):
    problem = study._problem(
        replace(study.Task(blocks=2), **SMALL), trial_generator("jei_dnn", "test", 1_000_000)
    )
    # At the first exit: confidence 0.9 right, 0.7 wrong, 0.6 right, 0.6 right; the first two leave there.
    answers = two_exits([0.9, 0.7, 0.6, 0.6], [0, 0, 1, 1], [1, 0, 1, 1])
    problem = replace(problem, validation=(None, answers.y), test=(None, answers.y))
    logits = [list(answers.probabilities.log())] * 2
    measured = study._assess(problem, logits, [answers.exits] * 2)
    assert measured["accuracy"] == 0.75
    assert measured["cost"] == pytest.approx(0.75)
    assert measured["early_bias"] == pytest.approx((0.9 + 0.7 - 1) / 2)
    assert measured["selection_bias"] == pytest.approx(0.3 - (0.9 + 0.7 + 0.6 + 0.6 - 3) / 4)
    assert measured["busiest_exit"] == 0.5
    nobody_selected = study._assess(problem, logits, [torch.zeros(4, dtype=torch.long)] * 2)
    assert nobody_selected["selection_bias"] is None
    assert nobody_selected["early_bias"] == pytest.approx(-0.05)
    nobody_early = study._assess(problem, logits, [torch.ones(4, dtype=torch.long)] * 2)
    assert nobody_early["early_bias"] is nobody_early["early_gap"] is None


def test_sets_are_calibrated_by_exit_where_many_leave():
    generator = torch.Generator().manual_seed(0)
    n = 4000
    probability = torch.rand(n, generator=generator)
    y = (torch.rand(n, generator=generator) < probability).long()
    exits = (torch.rand(n, generator=generator) < 0.3).long()
    half = n // 2
    validation, test = (
        two_exits(probability[part].tolist(), exits[part].tolist(), y[part].tolist())
        for part in (slice(half), slice(half, n))
    )
    coverage, size = study._prediction_sets(validation, test)
    # The last exit never errs, so its sets hold the label alone; those of the first miss it in 5 %.
    assert coverage == pytest.approx(1 - 0.7 * 0.05, abs=0.01)
    assert 1 < size < 2
    few = replace(validation, exits=torch.ones_like(validation.exits))
    assert study._prediction_sets(few, test)[0] == pytest.approx(coverage, abs=0.01)
