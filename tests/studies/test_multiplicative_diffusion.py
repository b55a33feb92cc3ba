"""The study of multiplicative diffusion: its trials at reduced sizes, fair comparisons, and the judge."""

import dataclasses
import io

import numpy as np
import pytest
import torch

from assay.diffusion.multiplicative_diffusion import BrownianSchedule
from assay.diffusion.sde import EDMSchedule
from assay.evidence import trial_generator
from assay.studies import multiplicative_diffusion as study

SMALL_IMAGES = {
    "training_steps": 3,
    "width": 16,
    "samples": 40,
    "sampled_at_once": 30,
    "sampling_steps": 60,
    "kernels": 40,
}
REDUCED = {
    "forward_process": {"paths": 500, "steps": 40},
    "reverse_process": {"samples": 200, "steps": (64, 80)},
    "descent_identity": {},
    "signs": {"states": 1000},
    "learned_weights": {"features": 300, "steps": 20},
    "score_matching_losses": {"samples": 2000},
    "learned_score": {"data": 500, "training_steps": 5, "width": 16, "probes": 200},
    "images": SMALL_IMAGES,
    "beside_additive_noise": SMALL_IMAGES,
}


def run(experiment, index=1_000_000, **changes):
    settings = dataclasses.replace(experiment.scales["quick"], **REDUCED[experiment.name] | changes)
    return experiment.trial(settings, trial_generator("multiplicative_diffusion", experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    if experiment.name != "signs":  # which counts the same nothing
        assert (other == measurements) == experiment.deterministic
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    if experiment.figure is not None:
        picture = io.BytesIO()
        experiment.figure([measurements, other]).savefig(picture, format="svg")
        assert b"</svg>" in picture.getvalue()


def contest(**changes):
    settings = dataclasses.replace(study.Pair(), **SMALL_IMAGES | changes)
    return study._Contest(settings, trial_generator("multiplicative_diffusion", "test", 1_000_000))


def test_no_held_out_digit_is_trained_on():
    split = contest().split
    assert len(split.train) == len(split.labels) == 1200
    assert len(split.held_out) == 597
    both = torch.cat((split.train, split.held_out))
    assert both.min() == 1
    assert both.max() == 2
    digits = study.load_digits()
    assert torch.equal(
        both.mul(16).sub(16).sort(0).values, torch.from_numpy(digits.data).float().sort(0).values
    )
    rows = {tuple(row.tolist()): label for row, label in zip(digits.data, digits.target, strict=True)}
    assert all(
        rows[tuple(row.tolist())] == label
        for row, label in zip(split.train.mul(16).sub(16).double(), split.labels, strict=True)
    )


def test_both_kinds_of_noise_start_from_the_same_weights():
    pair = contest()
    networks = []
    for schedule in (BrownianSchedule(0.8), EDMSchedule()):
        torch.manual_seed(pair._weights_seed)
        networks.append(study._denoiser(pair.settings, pair.split, schedule, 0.3))
    first, second = (network.state_dict() for network in networks)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_log_normal_law_has_the_moments_of_the_images():
    judged = contest(samples=20_000)
    logarithms = judged.split.train.log().numpy()
    for full in (True, False):
        drawn = judged.log_normal(full_covariance=full).log().numpy()
        np.testing.assert_allclose(drawn.mean(0), logarithms.mean(0), atol=0.01)
        np.testing.assert_allclose(drawn.std(0), logarithms.std(0), rtol=0.05, atol=0.005)
        covariance = np.cov(logarithms, rowvar=False)
        expected = covariance if full else np.diag(covariance.diagonal())
        np.testing.assert_allclose(np.cov(drawn, rowvar=False), expected, atol=0.005)


def test_the_judge_prefers_digits_to_noise():
    judged = contest()
    digits, noise = judged.judge(judged.split.held_out), judged.judge(1 + torch.rand(597, 64))
    assert digits["distance"] == pytest.approx(0, abs=1e-5)
    assert digits["frechet"] == pytest.approx(0, abs=1e-6)
    assert digits["score"] > 2 * noise["score"]
    assert noise["frechet"] > 1


class Detector:
    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, images, *, return_features):
        assert images.shape[1] == 3
        assert images.dtype == torch.uint8
        return images.double().mean((2, 3))


@pytest.mark.parametrize("colours", [1, 3])
def test_other_images_and_a_detector_take_the_place_of_digits(tmp_path, monkeypatch, colours):
    rng = np.random.default_rng(0)
    shape = (8, 8) if colours == 1 else (8, 8, 3)
    files = {"data_file": str(tmp_path / "images.npz"), "detector_file": str(tmp_path / "detector.pkl")}
    np.savez(
        files["data_file"],
        x_train=rng.integers(0, 256, (60, *shape), dtype=np.uint8),
        y_train=rng.integers(0, 3, 60),
        x_test=rng.integers(0, 256, (30, *shape), dtype=np.uint8),
        y_test=rng.integers(0, 3, 30),
    )
    (tmp_path / "detector.pkl").touch()
    monkeypatch.setattr(study.pickle, "load", lambda stream: Detector())
    changes = files | {"width": 8, "depth": 2, "batch_size": 8, "step_size": 0.03, "noise_decay": 0.99}
    measurements = run(study.STUDY.experiment("beside_additive_noise"), **changes)
    assert all(np.isfinite(value) for value in measurements.values())
