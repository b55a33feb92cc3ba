"""The study of batch sizes: its trials at reduced sizes, and the fairness of what they compare."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch

from assay.evidence import trial_generator
from assay.studies import batch_size_rates as study

REDUCED = {
    study.Matrices: {"size": 60},
    study.Extremes: {
        "batch_sizes": (8, 32, 64),
        "batches": 2,
        "lanczos_steps": 6,
        "noise_pairs": 2,
        "trace_vectors": 4,
        "most_images": 200,
    },
    study.StableRates: {"batch_sizes": (1, 4), "steps": 20, "seeds": 1, "lowest": 0.05, "factor": 2.0},
    study.StableDamping: {"batch_sizes": (1, 4), "learning_rates": (2.0,), "steps": 20, "factor": 2.0},
    study.Training: {"epochs": 1, "learning_rates": (0.1,), "every": 10},
}


def reduced(experiment):
    quick = experiment.scales["quick"]
    return dataclasses.replace(quick, **REDUCED[type(quick)])


def run(experiment, index=1_000_000):
    rng = trial_generator("batch_size_rates", experiment.name, index)
    return experiment.trial(reduced(experiment), rng)


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    torch.manual_seed(7)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    picture = io.BytesIO()
    experiment.figure([measurements, other]).savefig(picture, format="svg")
    assert b"</svg>" in picture.getvalue()


def generator():
    return trial_generator("batch_size_rates", "test", 1_000_000)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_runs_side_by_side_are_those_of_torch_one_by_one(optimizer):
    settings = study.StableRates(steps=15, seeds=2)
    torch.manual_seed(0)
    data = study._images(settings, generator(), 0)
    start = study._start(settings, len(data.train), 4, generator())
    rates, epsilons = torch.tensor([0.05, 0.3, 2.0]), torch.tensor([1e-8, 0.1, 1.0])
    final = study._final_losses(start, data, optimizer, rates, epsilons)
    assert final.shape == (2, 3)
    for seed in range(2):
        for i, (rate, epsilon) in enumerate(zip(rates.tolist(), epsilons.tolist(), strict=True)):
            model = study._network(settings)
            model.load_state_dict({name: value[seed] for name, value in start.weights.items()})
            optimiser = (
                torch.optim.SGD(model.parameters(), lr=rate)
                if optimizer == "sgd"
                else torch.optim.Adam(model.parameters(), lr=rate, eps=epsilon)
            )
            for batch in start.batches[seed]:
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(data.train[batch]), data.train_labels[batch])
                loss.backward()
                optimiser.step()
            expected = torch.nn.functional.cross_entropy(model(data.train), data.train_labels)
            torch.testing.assert_close(final[seed, i], expected, rtol=1e-3, atol=1e-4)


def last_stable(monkeypatch, losses, at_once=2):
    """The scan over candidates 1, 2, 4, … where these are the final losses, (seeds, candidates)."""
    table, asked = torch.tensor(losses), []
    seeds, candidates = table.shape

    def final_losses(start, data, optimizer, rates, epsilons):
        asked.extend(rates.log2().round().int().tolist())
        return table[:, rates.log2().round().long()]

    monkeypatch.setattr(study, "_final_losses", final_losses)
    settings = study.StableRates(seeds=seeds, candidates=candidates, at_once=at_once)
    data = study.Images(*torch.zeros(4, 1), classes=10)
    found = study._last_stable(settings, None, data, "sgd", 2.0 ** np.arange(candidates))
    return found, asked


def test_the_scan_takes_the_last_before_the_first_failure(monkeypatch):
    bad, good = 3.0, 1.0
    later_success = [[good, good, bad, good, good, good]]
    found, asked = last_stable(monkeypatch, later_success)
    assert found == pytest.approx(2)
    assert asked == [0, 1, 2, 3]
    two_seeds = [[good, bad, bad, bad, bad], [good, good, good, math.nan, good]]
    assert last_stable(monkeypatch, two_seeds)[0] == pytest.approx(2)
    assert last_stable(monkeypatch, [[bad, good, good]])[0] is None
    assert last_stable(monkeypatch, [[good, good, good]])[0] is None


def test_rates_that_were_not_found_leave_the_claims_unanswered_and_the_figure_drawn():
    experiment = study.STUDY.experiment("sgd_rates")
    measurements = run(experiment)
    size = reduced(experiment).batch_sizes[0]
    missing = {**measurements, f"rate_{size}": None, "slope": None}
    assert experiment.claims[0].asks(missing) is None
    experiment.figure([missing, missing])


def test_training_and_test_images_are_different_ones():
    settings = study.Training()
    data = study._images(settings, generator(), settings.n_test)
    assert (len(data.train), len(data.test)) == (1400, 397)
    every = torch.cat((data.train, data.test))
    assert len(every) == len(study._digits("centred")[0])
    torch.testing.assert_close(every.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    assert every.square().mean() == pytest.approx(1, rel=0.3)


def test_pixels_have_one_scale_unless_standardised():
    raw, centred, standardised = (study._digits(pixels)[0] for pixels in ("raw", "centred", "standardised"))
    assert (raw.min(), raw.max()) == (0, 1)
    varying = raw.std(0) > 0
    deviations = standardised.std(0, correction=0)
    torch.testing.assert_close(deviations, varying.float())
    ratios = centred.std(0)[varying] / raw.std(0)[varying]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


def test_the_network_of_the_full_scale_is_trained_by_the_same_code(monkeypatch):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    monkeypatch.setattr(study, "_VGG16_WIDTHS", ((4, 4), (4,), (4,), (4,), (4,)))
    monkeypatch.setattr(study, "_cifar100", lambda settings, train: (images, labels))
    settings = study.StableRates(data_folder="cifar100", steps=2, seeds=1)
    torch.manual_seed(0)
    data = study._images(settings, generator(), 0)
    start = study._start(settings, len(data.train), 2, generator())
    final = study._final_losses(start, data, "sgd", torch.tensor([0.0, 0.1]), torch.ones(2))
    assert final[0, 0] == pytest.approx(math.log(100), abs=0.1)
    assert final[0, 1] != final[0, 0]
    extremes = study._extreme_eigenvalues(study._network(settings), images, labels, "hessian", 3)
    assert extremes[0] > extremes[1]
