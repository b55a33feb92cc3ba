"""The study of Gaussian scores: its trials at reduced sizes, what they compare, and its files."""

from __future__ import annotations

import dataclasses
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from assay.diffusion.sde import EDMSchedule, MLPDenoiser
from assay.evidence import trial_generator
from assay.studies import gaussian_score as study

SMALL_NETWORK = {"n_train": 200, "width": 16, "depth": 1, "training_steps": 20, "batch_size": 16}
SMALL = {
    "closed_form": {"dim": 5, "points": 2},
    "learned_score": {**SMALL_NETWORK, "probes": 10, "early_step": 5, "n_components": 3},
    "low_noise": {**SMALL_NETWORK, "probes": 10, "n_components": 3, "other_components": (2,)},
    "sampling_path": {**SMALL_NETWORK, "starts": 20, "feature_steps": 20},
    "teleportation": {**SMALL_NETWORK, "samples": 40, "sampled_at_once": 30},
    "fixed_budget": {**SMALL_NETWORK, "samples": 40, "sampled_at_once": 30},
}
experiments = pytest.mark.parametrize(
    "experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name
)


def run(experiment, index=2_000_000, **changes):
    settings = dataclasses.replace(experiment.scales["quick"], **{**SMALL[experiment.name], **changes})
    return experiment.trial(settings, trial_generator("gaussian_score", experiment.name, index))


@experiments
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 2_000_001)
    assert other != measurements
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    if experiment.figure is not None:
        figure = experiment.figure([measurements, other])
        picture = io.BytesIO()
        figure.savefig(picture, format="svg")
        assert b"</svg>" in picture.getvalue()
        assert all(axes.get_ylabel() for axes in figure.axes)


def test_held_out_digits_are_not_trained_on():
    train, held_out = study._data(study.Network(), np.random.default_rng(0))
    assert (len(train), len(held_out)) == (1200, 597)
    assert float(torch.cat((train, held_out)).abs().max()) == 1
    overlap = torch.cdist(train, held_out).min()
    assert float(overlap) > 0


def test_an_untrained_network_is_explained_by_its_isotropic_gaussian():
    """With its last layer at zero a network is the score of a centred Gaussian of variance sigma_data^2."""
    rng = np.random.default_rng(2_000_000)
    train = torch.from_numpy(rng.standard_normal((500, 4))).float()
    settings = dataclasses.replace(study.Scores(), probes=100)
    network = MLPDenoiser(4, EDMSchedule(), sigma_data=1.0)
    models = study._gaussians(train)
    with torch.no_grad():
        [shares] = study._explained(settings, train, [network], models, rng)
    assert (shares["isotropic"] > 0.9).all()


def test_crossings_are_the_last_ones_and_interpolated():
    levels = np.array([3.0, 2.0, 1.0, 0.0])
    shares = np.array([[0.0, 0.9, 0.6], [0.4, 0.2, 0.7], [0.6, 0.4, 0.8], [1.0, 0.6, 0.9]])
    assert study._last_crossings(levels, shares) == pytest.approx([1.5, 0.5, 3.0])


class _Detector(torch.nn.Module):
    """Takes what Inception takes: bytes, and a flag for features."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        assert images.dtype == torch.uint8
        assert return_features
        return images.flatten(1).float()


@pytest.fixture
def files(tmp_path):
    """Images, a network and a detector as the scales "full" read them."""
    images = np.random.default_rng(0).uniform(-1, 1, (40, 1, 2, 2)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    network = study.GaussianScore.from_data(torch.from_numpy(images), EDMSchedule())
    for name, content in (("network", {"ema": network}), ("detector", _Detector())):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))
    return {"data_file": f"{tmp_path}/images.npy", "network_file": f"{tmp_path}/network.pkl"}, tmp_path


def test_files_take_the_place_of_digits_and_training(files):
    """The pretrained network here is the Gaussian itself: it explains everything, and any skip is free."""
    changes, folder = files
    scores = run(study.STUDY.experiment("learned_score"), **changes, n_train=40)
    assert scores["explained_high"] == pytest.approx(1, abs=1e-4)
    assert scores["lead_early"] is None
    path = run(study.STUDY.experiment("sampling_path"), **changes, n_train=40, directions=3)
    assert path["error_second_gaussian"] < 0.02
    assert path["rank_correlation"] == pytest.approx(1)
    detected = {**changes, "detector_file": f"{folder}/detector.pkl"}
    quality = run(study.STUDY.experiment("teleportation"), **detected, n_train=40)
    assert quality["ratio_gaussian_5"] == pytest.approx(1, abs=0.1)
    assert math.isclose(quality["distance_training_data"], 0, abs_tol=1e-3)  # nothing is held out
