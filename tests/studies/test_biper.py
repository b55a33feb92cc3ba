"""The study of BiPer: its trials measure what its claims read, repeat and draw, and compare fairly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional

from assay.evidence import trial_generator
from assay.networks.biper import BiPerConv2d
from assay.studies import biper as study

STUDY = study.STUDY
SMALL = {"training_images": 48, "validation_images": 1600, "epochs": 2, "learning_rates": (0.1,)}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def small_trial(experiment, index):
    settings = experiment.scales["quick"]
    if isinstance(settings, study.Training):
        settings = replace(settings, **SMALL)
    else:
        settings = replace(settings, weights=10_000)
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@experiments
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment, tmp_path):
    one, same, other = small_trial(experiment, 0), small_trial(experiment, 0), small_trial(experiment, 1)
    assert one == same
    assert one != other
    for claim in experiment.claims:
        assert claim.asks(one) in (True, False)
    for value in one.values():
        assert type(value) is float or all(type(item) is float for item in value)
    figure = experiment.figure([one, other])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_images_are_trained_on_or_validated_or_tested():
    settings = study.Training()
    task = study._task(settings, trial_generator("biper", "test", 2_000_000))
    assert (len(task.training), len(task.validation)) == (600, 300)
    everything = torch.cat((task.training, task.validation, task.test)).sort().values
    assert torch.equal(everything, torch.arange(1797))
    images, _, _ = study._images("")
    assert (images.min(), images.max()) == (-1, 1)


def test_methods_start_from_the_same_weights():
    states = []
    for layer in (BiPerConv2d, study._SignConv2d, study._StandardisedSignConv2d):
        torch.manual_seed(3)
        states.append(dict(study._network("digits", layer).named_parameters()))
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], parameter) for name, parameter in states[0].items())


def test_methods_train_for_the_same_number_of_epochs():
    settings = study.Training()
    for method in (
        study._two_stages(settings, 20.0),
        study._one_stage(settings),
        study._sign(settings, study._SignConv2d),
    ):
        assert sum(phase.epochs for phase in method.phases) == settings.epochs
        assert method.phases[-1].stage == 2


def test_validation_chooses_the_learning_rate():
    settings = replace(study.Training(), epochs=2, learning_rates=(1e-6, 0.1, 1e-7))
    task = study._task(settings, trial_generator("biper", "test", 2_000_000))
    tuned = study._tuned(settings, task, study._sign(settings, study._SignConv2d))
    assert tuned.accuracy == tuned.accuracies[1] == study._accuracy(settings, tuned.network, task.test)[0]
    assert tuned.accuracy > 0.3 > tuned.accuracies[0]


def test_every_network_ends_with_binary_weights():
    settings = replace(study.Training(), **SMALL)
    task = study._task(settings, trial_generator("biper", "test", 2_000_000))
    for method in (
        study._two_stages(settings, 20.0),
        study._one_stage(settings),
        study._sign(settings, study._SignConv2d),
        study._sign(settings, study._StandardisedSignConv2d),
    ):
        layers = study._binary_layers(study._trained(settings, task, method, 0.1))
        assert len(layers) == 3
        for layer in layers:
            assert layer.effective_weight().unique().tolist() == [-1, 1]


def test_the_usual_sign_has_a_clipped_gradient():
    weight = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5], requires_grad=True)
    sign = study._clipped_sign(weight)
    sign.backward(torch.arange(1.0, 6.0))
    assert sign.tolist() == [-1, -1, 1, 1, 1]
    assert weight.grad.tolist() == [0, 2, 3, 4, 0]


def test_standardised_weights_have_mean_0_and_deviation_1_in_each_channel():
    layer = study._StandardisedSignConv2d(4, 3, 3)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([0.1, 1, 10]).view(3, 1, 1, 1)).add_(0.2)
    argument = layer.surrogate_argument().flatten(1)
    torch.testing.assert_close(argument.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(argument.std(1), torch.ones(3))


def test_the_rate_warms_up_and_then_falls_to_zero():
    factors = [study._warm_up_then_cosine(4, 12, step) for step in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert all(np.diff(factors[4:]) < 0)
    assert factors[-1] == pytest.approx(0)


@pytest.mark.parametrize(("architecture", "millions"), [("resnet18", 11.01), ("resnet20", 0.27)])
def test_the_networks_have_the_published_number_of_parameters(architecture, millions):
    network = study._network(architecture, BiPerConv2d)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == millions


def test_augmentation_shifts_and_mirrors():
    images = torch.arange(1.0, 1 + 6 * 2 * 5 * 5).view(6, 2, 5, 5)
    augmented = study._augmented(images, torch.Generator().manual_seed(0))
    assert augmented.shape == images.shape
    for image, found in zip(images, augmented, strict=True):
        padded = functional.pad(image, (4, 4, 4, 4))
        crops = [padded[:, i : i + 5, j : j + 5] for i in range(9) for j in range(9)]
        assert any(torch.equal(found, choice) for crop in crops for choice in (crop, crop.flip(-1)))


@pytest.fixture
def cifar(tmp_path):
    """Ten random images in each file of the binary version of CIFAR-10."""
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin"):
        rows = rng.integers(0, 256, (10, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        rows.tofile(tmp_path / name)
    return str(tmp_path)


def test_larger_scales_read_cifar_and_keep_its_test_images(cifar):
    images, labels, set_aside = study._images(cifar)
    assert (images.shape, labels.shape, set_aside) == ((60, 3, 32, 32), (60,), 10)
    first = np.fromfile(f"{cifar}/data_batch_1.bin", np.uint8)
    assert labels[0] == first[0]
    assert images[0, 2, 1, 3].item() == pytest.approx((first[1 + 2 * 1024 + 32 + 3] / 255 - 0.406) / 0.225)
    settings = replace(STUDY.experiments[1].scales["full"], data_folder=cifar, training_images=40)
    task = study._task(settings, trial_generator("biper", "test", 2_000_000))
    assert task.test.tolist() == list(range(50, 60))
    assert max(*task.training.tolist(), *task.validation.tolist()) < 50


@pytest.mark.parametrize("scale", ["full", "resnet20"])
def test_larger_scales_train_in_both_stages(scale, cifar):
    changes = {"data_folder": cifar, "training_images": 2, "validation_images": 4, "device": "cpu"}
    settings = replace(STUDY.experiment("stages").scales[scale], **changes, epochs=2, warmup_epochs=0)
    task = study._task(settings, trial_generator("biper", "test", 2_000_000))
    method = study._two_stages(settings, settings.frequency)
    network = study._trained(settings, task, method, settings.learning_rates[0])
    assert {layer.stage for layer in study._binary_layers(network)} == {2}
    accuracy, log_likelihood = study._accuracy(settings, network, task.test)
    assert 0 <= accuracy <= 1
    assert log_likelihood < 0


def test_an_unknown_network_is_named():
    with pytest.raises(ValueError, match=r"architecture must be .* got 'vgg'"):
        study._network("vgg", BiPerConv2d)
