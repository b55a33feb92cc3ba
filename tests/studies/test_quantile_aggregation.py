"""The study of quantile aggregation: its trials measure what its claims read, repeat, and draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from assay.evidence import trial_generator
from assay.inference.quantile_aggregation import default_base_models
from assay.studies import quantile_aggregation as study

STUDY = study.STUDY
SMALL = {"n_train": 60, "n_test": 40, "levels": (0.2, 0.4, 0.5, 0.6, 0.8), "max_steps": 30}
REDUCED = {
    "projection": {"vectors": 50},
    "accuracy": {**SMALL, "tasks": ("switch", "skew")},
    "robustness": {**SMALL, "tasks": ("hetero",)},
    "flexibility": SMALL,
    "ordering": SMALL,
    "calibration": {**SMALL, "n_calibration": 40},
}
experiments = pytest.mark.parametrize("experiment", STUDY.experiments, ids=lambda experiment: experiment.name)


def reduced_trial(experiment, index):
    settings = replace(experiment.scales["quick"], **REDUCED[experiment.name])
    return experiment.trial(settings, trial_generator(STUDY.slug, experiment.name, 2_000_000 + index))


@experiments
def test_a_trial_answers_its_claims_repeatably_and_is_drawn(experiment, tmp_path):
    one, same, other = (reduced_trial(experiment, index) for index in (0, 0, 1))
    assert one == same
    assert one != other
    for claim in experiment.claims:
        assert claim.asks(one) in (True, False, None)
    for value in one.values():
        assert value is None or type(value) is float or all(type(item) is float for item in value)
    figure = experiment.figure([one, other])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert all(axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize("task", study._GENERATED)
def test_tasks_are_drawn_from_their_generator(task):
    X, y = study._draw(task, 2000, np.random.default_rng(0))
    assert X.shape == (2000, 5)
    assert np.abs(X).max() <= 1
    assert 0.5 < y.std() < 3
    again, _ = study._draw(task, 2000, np.random.default_rng(0))
    assert np.array_equal(X, again)


def test_a_library_keeps_its_test_rows_apart_and_takes_one_more_model():
    setting = replace(study.Setting(), **SMALL)
    library = study._library(setting, "switch", np.random.default_rng(0))
    X, y = study._draw("switch", 100, np.random.default_rng(0))
    assert np.array_equal(library.X, X[:60])
    assert np.array_equal(library.y_new, y[60:])
    linear = default_base_models(setting.levels)[0].fit(X[:60], y[:60])
    assert library.base_new[:, 0] == pytest.approx(linear.predict(X[60:]))
    assert library.base[:, 0] != pytest.approx(linear.predict(X[:60]))
    spoilt = library.with_model(library.base[:, 0] + 1, library.base_new[:, 0] + 1)
    assert spoilt.base[:, 5] == pytest.approx(library.base[:, 0] + 1)
    assert spoilt.base_new[:, 5] == pytest.approx(library.base_new[:, 0] + 1)


def test_openml_data_sets_give_rows_in_the_same_proportion(monkeypatch):
    class Data:
        data = np.arange(200.0).reshape(100, 2)
        target = np.arange(100).astype(str)

    Data.data[3, 1] = np.nan
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda name, **arguments: Data)
    X, y = study._draw("abalone", 1000, np.random.default_rng(0))
    assert sorted(y) == list(range(100))
    assert np.array_equal(X[:, 0], 2 * y)
    assert np.isfinite(X).all()
    setting = replace(study.Setting(), **SMALL)
    library = study._library(replace(setting, n_train=900, n_test=100), "abalone", np.random.default_rng(0))
    assert (len(library.y), len(library.y_new)) == (90, 10)


def test_an_ordered_prediction_leaves_the_penalty_nothing_to_mend():
    ordering = STUDY.experiment("ordering")
    settings = replace(ordering.scales["quick"], **{**SMALL, "levels": (0.1, 0.5, 0.9), "max_steps": 1})
    measurements = ordering.trial(settings, trial_generator(STUDY.slug, "ordering", 2_000_000))
    assert measurements["crossing_rate_plain"] is None
    assert ordering.claims[0].asks(measurements) is None
