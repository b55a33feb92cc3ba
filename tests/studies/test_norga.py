"""The study of NoRGa: its trials at reduced sizes, and the fairness of what they compare."""

import dataclasses
import io

import pytest
import torch

from assay.evidence import trial_generator
from assay.studies import norga as study

REDUCED = {
    study.Tasks: {
        "images": 400,
        "depth": 2,
        "layers": (0, 1),
        "pretraining_epochs": 1,
        "epochs": 1,
        "replay_epochs": 1,
    },
    study.Head: {"tokens": 6, "prefixes": 3},
    study.GatedExpert: {"samples": 500},
}


def reduced(experiment):
    quick = experiment.scales["quick"]
    return dataclasses.replace(quick, **REDUCED[type(quick)])


def run(experiment, index=1_000_000):
    return experiment.trial(reduced(experiment), trial_generator("norga", experiment.name, index))


@pytest.mark.parametrize("experiment", study.STUDY.experiments, ids=lambda experiment: experiment.name)
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment):
    measurements = run(experiment)
    assert run(experiment) == measurements
    other = run(experiment, 1_000_001)
    assert (other == measurements) is experiment.deterministic
    for claim in experiment.claims:
        assert claim.asks(measurements) in (True, False)
    if experiment.figure is not None:
        picture = io.BytesIO()
        experiment.figure([measurements, other]).savefig(picture, format="svg")
        assert b"</svg>" in picture.getvalue()


@pytest.fixture(scope="module")
def world():
    experiment = study.STUDY.experiment("gaussian_task_inference")
    return study._world(reduced(experiment), trial_generator("norga", "test", 1_000_000))


def test_no_test_image_is_learnt_from(world, monkeypatch):
    upstream = []
    monkeypatch.setattr(study, "_pretrained", lambda settings, images, y: upstream.append(images))
    torch.manual_seed(0)
    _, train, test = study._digits(study.Tasks(images=1797))
    everything = torch.cat((upstream[0], test[0]))
    assert len(everything) == 1797
    assert len(everything.flatten(1).unique(dim=0)) == 1797
    learnable = {image.numpy().tobytes() for image in upstream[0]}
    assert all(image.numpy().tobytes() in learnable for image in train[0])
    assert sorted(label for task in world.tasks for label in task) == list(range(10))


def test_both_learners_start_alike(world):
    settings = reduced(study.STUDY.experiment("gaussian_task_inference"))
    still = dataclasses.replace(settings, learning_rate=0.0)
    data = study._of_classes(world.train, world.tasks[0])
    plain, gated = (study._learner(still, world, gate, 3).fit_task(*data) for gate in (None, "tanh"))
    assert torch.equal(plain.prompts_[0], gated.prompts_[0])
    assert torch.equal(plain.head_.weight, gated.head_.weight)


@pytest.mark.parametrize("masked", [False, True])
def test_fine_tuning_trains_the_last_block_and_the_head_only(world, masked):
    settings = reduced(study.STUDY.experiment("forgetting"))
    baseline = study._FineTuned(settings, world, seed=3, masked=masked)
    first, second = (study._of_classes(world.train, classes) for classes in world.tasks[:2])
    baseline.fit_task(*first)
    assert set(baseline.predict(first[0]).tolist()) <= set(world.tasks[0])
    head = baseline.head.weight.clone()
    baseline.fit_task(*second)
    before, after = (dict(model.named_parameters()) for model in (world.backbone, baseline.backbone))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("blocks.1.")}
    moved = (baseline.head.weight != head).any(1).nonzero().flatten().tolist()
    assert moved == sorted(world.tasks[1] if masked else world.tasks[0] + world.tasks[1])


def test_accuracy_is_of_each_task_after_each(world):
    class Knows:
        """Knows all classes but those of the first task, which it forgets with the second."""

        seen = 0

        def fit_task(self, X, y):
            self.seen += 1

        def predict(self, X):
            labels = {image.numpy().tobytes(): label for image, label in zip(*world.test, strict=True)}
            found = torch.stack([labels[image.numpy().tobytes()] for image in X])
            if self.seen > 1:
                found[torch.isin(found, torch.tensor(world.tasks[0]))] = world.tasks[1][0]
            return found

    accuracy = study._accuracies(world, Knows())
    expected = torch.ones(5, 5).triu().double()
    expected[0, 1:] = 0
    assert torch.equal(accuracy, expected)
    measured = study._measured("x", accuracy)
    assert measured["forgetting_x"] == 0.25
    assert measured["course_x"] == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 4 / 5])


def test_the_full_scale_names_what_it_needs(monkeypatch):
    monkeypatch.setitem(study.importlib.sys.modules, "timm", None)
    full = study.STUDY.experiment("gaussian_task_inference").scales["full"]
    with pytest.raises(ImportError, match="'full' of norga needs timm and torchvision"):
        study._cifar100(full)


def test_the_full_scale_gives_images_as_the_model_expects_them():
    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.blocks, self.embed_dim = torch.nn.Module(), torch.nn.ModuleList(), 2
            self.model.cls_token = torch.zeros(1, 1, 2)
            self.model.pretrained_cfg = {
                "input_size": (3, 16, 16),
                "mean": (0.1, 0.2, 0.3),
                "std": (0.5, 0.25, 0.2),
            }

        def features(self, images, prefix, gates, layers):
            return images, prefix, gates, layers

    enlarged, *prompting = study._Enlarged(Backbone()).features(torch.full((2, 3, 4, 4), 0.5), 1, 2, 3)
    assert prompting == [1, 2, 3]
    expected = torch.tensor([0.8, 1.2, 1.0])[:, None, None].expand(2, 3, 16, 16)
    torch.testing.assert_close(enlarged, expected)
