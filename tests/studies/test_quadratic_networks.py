"""The study of quadratic networks: its trials measure what its claims read, compare fairly, and draw."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.interpolate import BSpline

from assay.evidence import trial_generator
from assay.networks.quadratic_networks import QuadraticConv2d, QuadraticLinear
from assay.studies import quadratic_networks as study

SMALL = {
    "splines": {"splines": 1, "degrees": (2, 3), "points": 501},
    "variety": {"widths": ((2, 2, 1), (1, 2, 2, 1))},
    "training": {"depths": (2,), "networks": 1, "epochs": 1, "training_rows": 128},
    "fallback": {"depths": (2,), "epochs": 1, "training_rows": 128},
    "shrinkage": {
        "depths": (2,),
        "networks": 1,
        "epochs": 1,
        "training_rows": 128,
        "gammas": (1e-4, 1.0),
        "learning_rates": (0.05,),
        "conventional_learning_rates": (0.05,),
    },
    "boundary": {"epochs": 1, "tasks": 1, "learning_rates": (0.05, 0.1), "training_rows": 100},
    "residual": {"epochs": 1, "width": 4, "training_rows": 1600, "batch_size": 800},
}
experiments = pytest.mark.parametrize(
    "experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name
)


def small_trial(experiment, index):
    settings = replace(experiment.scales["quick"], **SMALL[experiment.name])
    return experiment.trial(
        settings, trial_generator("quadratic_networks", experiment.name, 2_000_000 + index)
    )


@experiments
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment, tmp_path):
    one, same, other = small_trial(experiment, 0), small_trial(experiment, 0), small_trial(experiment, 1)
    assert one == same
    assert (one == other) == experiment.deterministic
    for claim in experiment.claims:
        assert claim.asks(one) in (True, False)
    if experiment.figure is not None:
        figure = experiment.figure([one, other])
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / "figure.svg")
        assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_linear_interpolant_has_the_best_rate_that_kinks_can_give():
    """Its error is near (integral of the root of the curvature)^2 / (8 K^2), the least for many kinks K."""
    spline = BSpline(np.repeat([0.0, 1.0], 4), [0.0, 0.1, 0.5, 2.0], 3)
    x = np.linspace(0, 1, 20_001)
    density = np.sqrt(np.abs(spline(x, nu=2))).mean()
    for kinks in (100, 400):
        error = np.abs(study._piecewise_linear(spline, kinks, x) - spline(x)).max()
        assert error == pytest.approx(density**2 / (8 * kinks**2), rel=0.05)


def test_random_splines_have_their_pieces_and_degree():
    spline = study._random_spline(3, 8, np.random.default_rng(0))
    assert len(np.unique(spline.t)) == 9
    third = spline(np.linspace(0, 1, 1001)[:-1], nu=3)
    assert len(np.unique(third.round(6))) == 8


@pytest.mark.parametrize("kind", ["relinear", "random", "default"])
def test_dense_networks_start_from_the_same_weights(kind):
    reference = study._dense([6, 5, 5, 3], "conventional", 7)
    model = study._dense([6, 5, 5, 3], kind, 7)
    assert torch.equal(model[-1].weight, reference[-1].weight)
    for layer, conventional in zip(model[:-1:2], reference[:-1:2], strict=True):
        assert isinstance(layer, QuadraticLinear)
        assert torch.equal(layer.linear_r.weight, conventional.weight) == (kind != "default")
        assert layer.linear_g.weight.any() == (kind != "relinear")
    x = torch.randn(4, 6)
    assert torch.equal(model(x), reference(x)) == (kind == "relinear")


@pytest.mark.parametrize("kind", ["relinear", "random", "default"])
def test_residual_networks_start_from_the_same_weights(kind):
    settings = study.ResidualNetwork()
    reference = study._resnet(settings, 1, 10, "conventional", 7).eval()
    model = study._resnet(settings, 1, 10, kind, 7).eval()
    convolutions = [module for module in model.modules() if isinstance(module, QuadraticConv2d)]
    assert len(convolutions) == 6
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(model(x), reference(x)) == (kind == "relinear")
    assert torch.equal(convolutions[-1].linear_r.weight, reference[5].second.weight) == (kind != "default")


def test_the_full_residual_network_is_resnet_20():
    settings = study.STUDY.experiment("residual").scales["full"]
    model = study._resnet(settings, 3, 10, "conventional", 0)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 19
    biases = sum(convolution.bias.numel() for convolution in convolutions if convolution.bias is not None)
    assert study._size(model) - biases == 269_722
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_images_are_shifted_over_zeros_and_flipped():
    settings = study.ResidualNetwork(largest_shift=2, flip=True)
    x = torch.arange(1.0, 13).reshape(1, 1, 3, 4).expand(300, 2, 3, 4)
    found = study._augmented(settings, x, torch.Generator().manual_seed(0))
    assert found.shape == x.shape
    padded = torch.nn.functional.pad(x[0, 0], (2,) * 4)
    windows = [padded[i : i + 3, j : j + 4] for i in range(5) for j in range(5)]
    possible = {tuple(view.flatten().tolist()) for window in windows for view in (window, window.flip(1))}
    assert {tuple(image[1].flatten().tolist()) for image in found} == possible
    assert study._augmented(study.ResidualNetwork(), x, torch.Generator()) is x


def test_images_from_a_file_are_standardised_by_channel(tmp_path):
    rng = np.random.default_rng(0)
    images = {
        f"x_{part}": rng.integers(256, size=(20, 3, 4, 4)).astype(np.uint8) for part in ("train", "test")
    }
    labels = {f"y_{part}": rng.integers(10, size=20).astype(np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "images.npz", **images, **labels)
    settings = study.ResidualNetwork(images_file=str(tmp_path / "images.npz"))
    training, test = study._images(settings, rng)
    torch.testing.assert_close(training.x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(training.x.std((0, 2, 3), correction=0), torch.ones(3))
    assert test.y.tolist() == labels["y_test"].tolist()


def test_rows_of_digits_are_disjoint_and_batches_see_each_row_once():
    settings = study.Digits()
    rng = np.random.default_rng(0)
    parts = study._split_digits(settings, rng)
    assert [len(part.y) for part in parts] == [800, 400, 597]
    seen = {tuple(row) for row in parts[0].x.tolist()}
    assert not any(tuple(row) in seen for part in parts[1:] for row in part.x.tolist())
    batches = study._batches(800, 64, 3, rng)
    assert batches.shape == (36, 64)
    assert all(len(set(epoch.flatten().tolist())) == 768 for epoch in batches.tensor_split(3))


def test_shrinkage_gives_both_sides_as_many_tries():
    for settings in study.STUDY.experiment("shrinkage").scales.values():
        assert max(settings.gammas) == settings.gammas[-1] == 1
        tries = len(settings.gammas[:-1]) * len(settings.learning_rates)
        assert tries == len(settings.conventional_learning_rates)


def test_a_loss_that_is_no_number_counts_as_collapse():
    rows = study._Rows(torch.ones(2, 3), torch.tensor([0, 1]))
    layer = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(layer.weight, torch.inf)
    assert rows.loss(layer) == torch.inf
