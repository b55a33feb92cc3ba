"""Quantile aggregation: losses, ordering, weights, cross-fitting, base models and calibration."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LinearRegression, QuantileRegressor, Ridge
from sklearn.metrics import mean_pinball_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from assay.inference.quantile_aggregation import (
    ConformalQuantiles,
    LevelwiseQuantiles,
    QuantileAggregator,
    _level_parameters,
    cross_fit_quantiles,
    crossing_margins,
    crossing_penalty,
    default_base_models,
    monotonize,
    pinball_loss,
    weighted_interval_score,
)

FIVE = [0.1, 0.3, 0.5, 0.7, 0.9]
SEVEN = [0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95]
CROSSED = [3, 1, 2, 5, 4]
METHODS = ("sort", "isotonic", "minmax")
RESOLUTIONS = ("coarse", "medium", "fine")
quick = settings(max_examples=100, deadline=None)
values = st.floats(-1e3, 1e3)
vectors = npst.arrays(np.float64, st.tuples(st.just(1), st.integers(1, 12)), elements=values)


def library(n=200, seed=0):
    """Quantiles of N(x, 1) by three models, each wrong in its own way, and outcomes and features."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    exact = X[:, :1] + torch.special.ndtri(torch.tensor(FIVE, dtype=torch.float64)).numpy()
    noise = rng.normal(size=(n, 3, 1)) * [[0.3], [0.6], [1.0]]
    base = np.sort(exact[:, None, :] + noise + 0.2 * rng.normal(size=(n, 3, 5)), axis=-1)
    return base, X[:, 0] + rng.normal(size=n), X


# ------------------------------------------------------------------------------------------------- losses


def test_losses_at_a_worked_example():
    assert pinball_loss([2.5], [CROSSED], FIVE) == pytest.approx(np.array([[0.45, 0.45, 0.25, 0.75, 0.15]]))
    assert weighted_interval_score([2.5], [CROSSED], FIVE) == pytest.approx([0.82])
    for method in ("sort", "isotonic"):
        assert weighted_interval_score([2.5], monotonize([CROSSED], method), FIVE) == pytest.approx([0.5])


def test_interval_score_is_that_of_the_intervals_and_the_median():
    y, q = 0.7, np.array([-1, -0.5, 0, 0.2, 0.5, 1, 2])
    score = abs(y - q[3])
    for t in range(3):
        alpha, low, high = 2 * SEVEN[t], q[t], q[-1 - t]
        score += alpha * (high - low) + 2 * max(low - y, 0) + 2 * max(y - high, 0)
    assert score == pytest.approx(1.8)
    assert weighted_interval_score([y], [q], SEVEN) == pytest.approx([score / 7])
    assert score / 7 == pytest.approx(0.2571428571)


def test_pinball_loss_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, q = rng.normal(size=50), rng.normal(size=(50, 5))
    expected = [mean_pinball_loss(y, q[:, t], alpha=level) for t, level in enumerate(FIVE)]
    assert pinball_loss(y, q, FIVE).mean(axis=0) == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------- ordering


def test_operators_at_worked_examples():
    assert monotonize(CROSSED).tolist() == [1, 2, 3, 4, 5]
    assert monotonize(CROSSED, "isotonic").tolist() == [2, 2, 2, 4.5, 4.5]
    assert monotonize(CROSSED, "minmax").tolist() == [1, 1, 2, 5, 5]
    assert monotonize([1, 3, 2, 5, 4, 4.5], "isotonic").tolist() == [1, 2.5, 2.5, 4.5, 4.5, 4.5]


@quick
@given(vectors)
def test_operators_order_and_keep_what_is_ordered(q):
    for method in METHODS:
        ordered = monotonize(q, method)
        assert (np.diff(ordered) >= 0).all()
        assert np.array_equal(monotonize(ordered, method), ordered)
        tensor = monotonize(torch.from_numpy(q), method).numpy()
        assert tensor == pytest.approx(ordered, rel=1e-9, abs=1e-9)
    middle = q.shape[1] // 2
    assert monotonize(q, "minmax")[0, middle] == q[0, middle]
    assert monotonize(q, "isotonic")[0] == pytest.approx(isotonic_regression(q[0]), rel=1e-9, abs=1e-9)


@quick
@given(vectors, values, st.data())
def test_sorting_and_projection_never_worsen_the_score(q, y, data):
    m = q.shape[1]
    levels = np.sort(data.draw(st.lists(st.floats(0.01, 0.99), min_size=m, max_size=m, unique=True)))
    before = weighted_interval_score([y], q, levels)[0]
    for method in ("sort", "isotonic"):
        assert weighted_interval_score([y], monotonize(q, method), levels)[0] <= before + 1e-9


def test_the_sweep_can_worsen_the_score():
    q, levels = [[0.0, 0.0, -9.0]], [0.1, 0.5, 0.9]
    below = weighted_interval_score([-9.0], q, levels)
    assert weighted_interval_score([-9.0], monotonize(q, "minmax"), levels) > below


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_the_operators(method):
    torch.manual_seed(0)
    q = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: monotonize(q, method), q)
    (gradient,) = torch.autograd.grad(monotonize(q, method).sum(), q)
    if method != "minmax":
        assert gradient == pytest.approx(np.ones((6, 7)))
    single = monotonize(q.detach().float(), method)
    assert single.dtype == torch.float32
    assert single.numpy() == pytest.approx(monotonize(q.detach().numpy(), method), abs=1e-6)


def test_ties_are_not_pooled():
    q = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(monotonize(q, "isotonic")[0, 0], q)
    assert gradient.tolist() == [[1, 0, 0]]


def test_crossing_penalty_at_worked_examples():
    q = torch.tensor([CROSSED], dtype=torch.float64)
    assert float(crossing_penalty(q, torch.zeros(5, 5))) == pytest.approx(0.4)
    assert float(crossing_penalty(q, torch.full((5, 5), 0.5))) == pytest.approx(0.55)
    assert float(crossing_penalty(q.sort().values, torch.zeros(5, 5))) == 0
    assert float(crossing_penalty(q[:, :1], torch.zeros(1, 1))) == 0
    assert float(crossing_penalty(q.expand(3, 5), torch.zeros(5, 5))) == pytest.approx(0.4)


def test_crossing_margins_are_differences_of_residual_quantiles():
    base, y, _ = library()
    margins = crossing_margins(y, base, FIVE, scale=0.1)
    r = np.quantile(y - np.median(base[:, :, 2], axis=1), FIVE)
    assert margins[3, 1] == pytest.approx(0.1 * (r[3] - r[1]))
    assert np.array_equal(margins, np.tril(margins, -1))
    assert (margins[np.tril_indices(5, -1)] > 0).all()


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_weights_are_convex_and_give_the_prediction(resolution, scope):
    base, y, X = library()
    model = QuantileAggregator(FIVE, resolution=resolution, scope=scope, max_steps=60, random_state=0)
    model.fit(base, y, X)
    w = model.weights(X)
    rows = (200,) if scope == "local" else ()
    assert w.shape == rows + {"coarse": (3,), "medium": (3, 5), "fine": (3, 5, 5)}[resolution]
    sources = {"coarse": (-1,), "medium": (-2,), "fine": (-3, -2)}[resolution]
    assert (w >= 0).all()
    assert w.sum(axis=sources) == pytest.approx(np.ones(rows + {"coarse": ()}.get(resolution, (5,))))
    w = np.broadcast_to(w, (200, *w.shape[len(rows) :]))
    sums = {"coarse": "njt,nj->nt", "medium": "njt,njt->nt", "fine": "njs,njst->nt"}
    raw = model.predict(base, X, raw=True)
    assert raw == pytest.approx(np.einsum(sums[resolution], base, w))
    assert np.array_equal(model.predict(base, X), np.sort(raw))
    if resolution != "fine":
        assert (raw >= base.min(axis=1) - 1e-12).all()
        assert (raw <= base.max(axis=1) + 1e-12).all()
    if resolution == "coarse":
        assert (np.diff(raw) >= 0).all(), "one weight a model cannot cross ordered models"


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("resolution", ["coarse", "medium"])
def test_one_model_or_many_alike_are_returned(resolution, scope):
    base, y, X = library()
    model = QuantileAggregator(FIVE, resolution=resolution, scope=scope, max_steps=30, random_state=0)
    assert np.array_equal(model.fit(base[:, :1], y, X).predict(base[:, :1], X), base[:, 0])
    alike = base[:, [1, 1, 1]]
    assert model.fit(alike, y, X).predict(alike, X) == pytest.approx(base[:, 1], abs=1e-12)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_permuting_the_models_permutes_the_weights(resolution):
    base, y, _ = library()
    model = QuantileAggregator(FIVE, resolution=resolution, max_steps=100, random_state=0)
    w = model.fit(base, y).weights()
    permuted = model.fit(base[:, [2, 0, 1]], y).weights()
    assert permuted == pytest.approx(w[[2, 0, 1]], abs=1e-4)


def test_the_true_quantiles_get_the_weight():
    rng = np.random.default_rng(0)
    y = rng.normal(size=600)
    exact = np.tile(torch.special.ndtri(torch.tensor(FIVE, dtype=torch.float64)).numpy(), (600, 1))
    noise = np.sort(2 * rng.normal(size=(600, 3, 5)), axis=-1)
    base = np.concatenate([noise[:, :1], exact[:, None], noise[:, 1:]], axis=1)
    assert QuantileAggregator(FIVE, resolution="coarse", random_state=0).fit(base, y).weights()[1] > 0.9


def test_local_weights_follow_the_features():
    rng = np.random.default_rng(0)
    X = 1e7 + rng.uniform(-1, 1, (600, 1))  # far from 0: float32 alone could not tell the rows apart
    right = X[:, 0] > 1e7
    y = rng.normal(size=600)
    exact = torch.special.ndtri(torch.tensor(FIVE, dtype=torch.float64)).numpy()
    base = np.stack([exact + 3 * right[:, None], exact + 3 * ~right[:, None]], axis=1)
    scores = {}
    for scope in ("global", "local"):
        model = QuantileAggregator(FIVE, resolution="coarse", scope=scope, max_steps=500, random_state=0)
        model.fit(base, y, X)
        scores[scope] = model.score(base, y, X)
        expected = weighted_interval_score(y, model.predict(base, X), FIVE).mean()
        assert scores[scope] == pytest.approx(-expected)
    assert scores["local"] > scores["global"] / 1.5
    assert model.weights(X)[right, 1].mean() > 0.8


def test_the_start_is_near_the_plain_average():
    base, y, X = library()
    for start, tolerance in ((4.0, 0.2), (20.0, 1e-6)):
        for scope in ("global", "local"):
            model = QuantileAggregator(
                FIVE, scope=scope, learning_rate=1e-12, max_steps=1, diagonal_start=start, random_state=0
            ).fit(base, y, X)
            off = np.abs(model.predict(base, X, raw=True) - base.mean(axis=1)).max() / np.abs(base).max()
            assert off < tolerance
    model = QuantileAggregator(FIVE, learning_rate=1e-12, max_steps=1, diagonal_start=0.0).fit(base, y)
    assert model.weights() == pytest.approx(np.full((3, 5, 5), 1 / 15))


@pytest.mark.parametrize("noncrossing", METHODS)
def test_end_to_end_orders_within_the_loss(noncrossing):
    base, y, X = library()
    arguments = {"scope": "local", "noncrossing": noncrossing, "max_steps": 30, "random_state": 0}
    arguments["validation_fraction"] = 0.0
    inside = QuantileAggregator(FIVE, end_to_end=True, **arguments).fit(base[..., ::-1], y, X)
    after = QuantileAggregator(FIVE, **arguments).fit(base[..., ::-1], y, X)
    q = inside.predict(base[..., ::-1], X)
    assert (np.diff(q) >= 0).all()
    assert not np.allclose(q, after.predict(base[..., ::-1], X))


def test_the_penalty_prefers_models_in_order():
    base, y, _ = library()
    base[:, 0] += 0.5 * np.random.default_rng(1).normal(size=(200, 5))  # out of order
    base[:, 1:] += 1.0  # in order, and wrong
    weight = {}
    for penalty in (0.0, 20.0):
        model = QuantileAggregator(
            FIVE, resolution="coarse", penalty_weight=penalty, validation_fraction=0.0, max_steps=200
        )
        weight[penalty] = model.fit(base, y).weights()[0]
        assert model.n_steps_ == 200
    assert weight[20.0] < 0.5 < weight[0.0]


def test_the_same_seed_gives_the_same_and_torch_is_left_alone():
    base, y, X = library()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    model = QuantileAggregator(FIVE, scope="local", dropout=0.1, max_steps=40, random_state=3)
    first = model.fit(base, y, X).predict(base, X)
    torch.rand(3)
    assert np.array_equal(clone(model).fit(base, y, X).predict(base, X), first)
    other = clone(model).set_params(random_state=4).fit(base, y, X).predict(base, X)
    assert not np.array_equal(other, first)
    torch.set_rng_state(state)
    model.fit(base, y, X)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_conventions_of_scikit_learn():
    base, y, X = library()
    model = QuantileAggregator(levels=[2, 1], resolution="unknown", penalty_weight=-1.0)  # does no work
    assert model.get_params()["resolution"] == "unknown"
    assert clone(model).levels == [2, 1]
    model = QuantileAggregator(FIVE, scope="local", max_steps=20, random_state=0).fit(base, y, X)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(base, X), model.predict(base, X))
    raw = model.module_(torch.from_numpy(base), torch.from_numpy(X)).numpy()
    assert np.array_equal(raw, model.predict(base, X, raw=True))
    assert 0 <= model.n_steps_ <= 20
    narrower = model.fit(base, y, X[:, :1])  # a second fit starts afresh
    assert narrower.predict(base, X[:, :1]).shape == (200, 5)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"levels": [0.5, 0.1, 0.7, 0.8, 0.9]}, "levels"),
        ({"levels": [0.0, 0.1, 0.7, 0.8, 0.9]}, "levels"),
        ({"resolution": "rough"}, "rough"),
        ({"scope": "here"}, "here"),
        ({"noncrossing": "pava"}, "pava"),
        ({"penalty_weight": -0.5}, "-0.5"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"max_steps": 0}, "max_steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"scope": "local"}, "X"),
    ],
)
def test_bad_parameters_are_named(parameters, word):
    base, y, _ = library(20)
    with pytest.raises(ValueError, match=word):
        QuantileAggregator(**{"levels": FIVE, **parameters}).fit(base, y)


def test_bad_input_is_named():
    base, y, X = library(20)
    model = QuantileAggregator(FIVE, scope="local", max_steps=1)
    with pytest.raises(NotFittedError):
        model.predict(base, X)
    with pytest.raises(NotFittedError):
        model.weights(X)
    model.fit(base, y, X)
    hole = base.copy()
    hole[3, 1, 2] = np.nan
    for call, word in (
        (lambda: model.fit(base[0], y, X), "base_quantiles"),
        (lambda: model.fit(base[..., :4], y, X), "base_quantiles"),
        (lambda: model.fit(base[:10], y, X), "base_quantiles"),
        (lambda: model.fit(hole, y, X), "nan"),
        (lambda: model.fit(base, np.full(20, np.inf), X), "inf"),
        (lambda: model.fit(base, y, X[:10]), "20 rows"),
        (lambda: model.predict(base[:, :2], X), "base_quantiles"),
        (lambda: model.predict(base, X[:, :1]), "2 features"),
        (lambda: model.predict(base), "X"),
        (lambda: monotonize([[1.0, np.nan]]), "nan"),
        (lambda: monotonize(1.0), "quantiles"),
        (lambda: monotonize([[1.0]], "pava"), "pava"),
        (lambda: pinball_loss([1.0], [[1.0, 2.0]], [0.5]), "quantiles"),
        (lambda: pinball_loss([1.0], [[1.0]], [1.5]), "levels"),
        (lambda: crossing_penalty(torch.zeros(3, 2), torch.zeros(3, 3)), "margins"),
        (lambda: crossing_penalty(torch.zeros(3), torch.zeros(3, 3)), "quantiles"),
        (lambda: crossing_margins(y, base, FIVE, scale=-1.0), "scale"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


# -------------------------------------------------------------------------------------------- base models


class Called(BaseEstimator):
    """As in quantile-forest: the levels are an argument of predict."""

    def fit(self, X, y):
        self.y_ = y
        return self

    def predict(self, X, quantiles=None):
        return np.tile(np.quantile(self.y_, quantiles), (len(X), 1))


ONE_LEVEL = {
    "linear": QuantileRegressor(alpha=0.0),
    "boosting": GradientBoostingRegressor(loss="quantile", n_estimators=3, random_state=0),
    "histogram boosting": HistGradientBoostingRegressor(loss="quantile", max_iter=2, max_leaf_nodes=3),
    "dummy": DummyRegressor(strategy="quantile"),
    "pipeline": make_pipeline(StandardScaler(), QuantileRegressor(alpha=0.0)),
    "target": TransformedTargetRegressor(QuantileRegressor(alpha=0.0), transformer=StandardScaler()),
}
NOT_QUANTILE = (
    LinearRegression(),
    Ridge(),
    GradientBoostingRegressor(),
    HistGradientBoostingRegressor(),
    DummyRegressor(),
    make_pipeline(StandardScaler(), Ridge()),
)


@pytest.mark.parametrize("name", ONE_LEVEL)
def test_regressors_of_one_level_are_taken_unchanged(name):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    estimator = ONE_LEVEL[name]
    before = str(estimator.get_params())
    result = cross_fit_quantiles([estimator], X, y, [0.2, 0.6], n_folds=2, random_state=0)
    assert str(estimator.get_params()) == before
    (parameter,) = _level_parameters(estimator)
    for t, level in enumerate([0.2, 0.6]):
        for k in (0, 1):
            alone = (
                clone(estimator)
                .set_params(**{parameter: level})
                .fit(X[result.fold != k], y[result.fold != k])
            )
            expected = alone.predict(X[result.fold == k])
            assert result.out_of_fold[result.fold == k, 0, t] == pytest.approx(expected)
    alone = clone(estimator).set_params(**{parameter: 0.6}).fit(X, y)
    assert result.predict(X)[:, 0, 1] == pytest.approx(alone.predict(X))


def test_regressors_of_the_mean_are_refused():
    X, y = np.arange(20.0)[:, None], np.arange(20.0)
    for estimator in NOT_QUANTILE:
        assert _level_parameters(estimator) == []
        with pytest.raises(ValueError, match="estimator"):
            LevelwiseQuantiles(estimator, [0.2]).fit(X, y)
    with pytest.raises(ValueError, match="models\\[0\\]"):
        cross_fit_quantiles([Ridge()], X, y, [0.2, 0.6], n_folds=2)


def test_models_of_all_kinds_mix_and_take_a_data_frame():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=40), "b": rng.normal(size=40)})
    y = X["a"] + rng.normal(size=40)
    models = [
        Called(),
        make_pipeline(StandardScaler(), QuantileRegressor(alpha=0.0)),
        LevelwiseQuantiles(QuantileRegressor(alpha=0.0), FIVE),
        *default_base_models(FIVE, random_state=0),
    ]
    originals = copy.deepcopy(models)
    result = cross_fit_quantiles(models, X, y, FIVE, n_folds=4, random_state=0)
    assert result.out_of_fold.shape == (40, 8, 5)
    assert np.bincount(result.fold).tolist() == [10] * 4
    assert [vars(model).keys() for model in models] == [vars(model).keys() for model in originals]
    out = result.fold == 2
    for j in (0, 2, 4):
        model = cross_fit_quantiles([models[j]], X[~out], y[~out], FIVE, n_folds=2).models[0]
        assert result.out_of_fold[out, j] == pytest.approx(model.predict(X[out]))
    assert result.out_of_fold[:, 1] == pytest.approx(result.out_of_fold[:, 2])
    assert result.predict(X).shape == (40, 8, 5)


def test_linear_quantiles_are_scikit_learns():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3)) * [1, 100, 0.01] + 5
    y = X[:, 0] + rng.standard_t(3, 80)
    ours = default_base_models(FIVE)[0].fit(X, y).predict(X)
    theirs = LevelwiseQuantiles(QuantileRegressor(alpha=0.0, solver="highs"), FIVE).fit(X, y).predict(X)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_forest_quantiles_are_weighted_by_shared_leaves():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    new = rng.normal(size=(7, 2))
    model = default_base_models(FIVE, random_state=0)[2].fit(X, y)
    assert isinstance(model.forest, ExtraTreesRegressor)
    shared = model.forest.apply(new)[:, None, :] == model.forest.apply(X)[None, :, :]
    weights = (shared / shared.sum(axis=1, keepdims=True)).mean(axis=2)
    order = np.argsort(y)
    for i in range(7):
        cumulative = np.cumsum(weights[i, order])
        expected = [y[order][np.flatnonzero(cumulative >= level - 1e-9)[0]] for level in FIVE]
        assert model.predict(new)[i].tolist() == expected


@pytest.mark.parametrize("index", range(5))
def test_default_models_cover_what_they_should(index):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (1200, 2))
    y = X[:, 0] + rng.normal(size=1200)
    model = default_base_models(FIVE, random_state=0)[index].fit(X[:600], y[:600])
    covered = (y[600:, None] <= model.predict(X[600:])).mean(axis=0)
    assert covered == pytest.approx(FIVE, abs=0.1)


def test_bad_input_of_cross_fitting_is_named():
    X, y = np.zeros((10, 1)), np.zeros(10)
    models = default_base_models([0.5])
    for arguments, n_folds, word in (
        ((models, X, y, [0.5]), 1, "n_folds"),
        ((models, X, y, [0.5]), 11, "n_folds"),
        (([], X, y, [0.5]), 2, "models"),
        ((models, X[:9], y, [0.5]), 2, "inconsistent"),
        ((models, X, y + np.nan, [0.5]), 2, "nan"),
        ((models, X, y, [0.5, 0.5]), 2, "levels"),
        ((models, X, y, [0.4, 0.6]), 2, "models\\[0\\]"),
    ):
        with pytest.raises(ValueError, match=word):
            cross_fit_quantiles(*arguments, n_folds=n_folds)


# -------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("method", ["split", "cv+"])
def test_calibrated_intervals_cover_what_they_say(method):
    rng = np.random.default_rng(0)
    levels, n, draws = np.array([0.05, 0.2, 0.5, 0.8, 0.95]), 60, 300
    guess = np.array([-0.1, -0.05, 0.3, 0.05, 0.1])
    covered = np.zeros(2)
    for _ in range(draws):
        y, new = rng.normal(size=n), rng.normal(size=100)
        quantiles = np.tile(guess, (n, 1))
        if method == "split":
            q = ConformalQuantiles(levels).fit(quantiles, y).predict([guess])[0]
        else:
            model = ConformalQuantiles(levels, method=method).fit(quantiles, y, fold=np.arange(n) % 3)
            q = model.predict(np.tile(guess, (3, 1, 1)))[0]
        assert q[2] == pytest.approx(0.3)
        covered += [((q[t] <= new) & (new <= q[-1 - t])).mean() / draws for t in (0, 1)]
    nominal = 1 - 2 * levels[:2]
    assert (covered >= nominal - 0.01).all()
    assert (covered <= nominal + 1 / (n + 1) + 0.01).all()


def test_split_shift_is_an_order_statistic_of_the_scores():
    y = np.array([0.0, 2.0, -3.0, 0.5, 1.0, -0.2, 0.1, 4.0, -1.0])
    model = ConformalQuantiles([0.05, 0.25, 0.75, 0.95]).fit(np.tile([-1.0, -0.5, 0.5, 1.0], (9, 1)), y)
    outer = np.sort(np.abs(y) - 1.0)
    inner = np.sort(np.abs(y) - 0.5)
    assert model.shift_ == pytest.approx([-outer[8], -inner[4], inner[4], outer[8]])  # ranks 0.9*10, 0.5*10


@pytest.mark.parametrize("method", ["split", "cv+"])
def test_too_few_rows_give_infinite_ends_and_leave_the_median(method):
    levels, q = [0.05, 0.5, 0.95], np.tile([-1.0, 0.0, 1.0], (3, 1))
    model = ConformalQuantiles(levels, method=method).fit(q, [0.0, 1.0, 2.0], fold=[0, 1, 0])
    new = [[-1.0, 0.25, 1.0]]
    assert model.predict(new if method == "split" else [new, new]).tolist() == [[-np.inf, 0.25, np.inf]]


def test_intervals_that_are_not_nested_only_widen():
    rng = np.random.default_rng(0)
    levels, y = [0.1, 0.3, 0.5, 0.7, 0.9], rng.normal(size=99)
    model = ConformalQuantiles(levels).fit(np.tile([-3.0, -0.1, 0, 0.1, 3.0], (99, 1)), y)
    new = np.array([[-1.2, -1.0, 0.0, 1.0, 1.2]])  # here shrinking the outer interval crosses the inner one
    plain, q = new + model.shift_, model.predict(new)
    assert (np.diff(plain) < 0).any()
    assert (np.diff(q) >= 0).all()
    assert (q[:, :2] <= plain[:, :2]).all()
    assert (q[:, 3:] >= plain[:, 3:]).all()
    assert q[0, 2] == 0


def test_cv_plus_is_its_definition():
    rng = np.random.default_rng(0)
    n, folds = 25, np.arange(25) % 3
    levels = [0.1, 0.3, 0.7, 0.9]
    q, y = np.sort(rng.normal(size=(n, 4))), rng.normal(size=n)
    new = np.sort(rng.normal(size=(3, 2, 4)))
    q_new = ConformalQuantiles(levels, method="cv+").fit(q, y, fold=folds).predict(new)
    expected = np.empty((2, 4))
    for t, alpha in ((0, 0.2), (1, 0.6)):
        scores = np.maximum(q[:, t] - y, y - q[:, 3 - t])
        for row in range(2):
            low = np.sort([new[folds[i], row, t] - scores[i] for i in range(n)])
            high = np.sort([new[folds[i], row, 3 - t] + scores[i] for i in range(n)])
            # alpha (n + 1) is 5.2 and 15.6
            expected[row, [t, 3 - t]] = low[int(alpha * 26) - 1], high[int(np.ceil((1 - alpha) * 26)) - 1]
    assert q_new == pytest.approx(monotonize(expected, "minmax"))


def test_bad_input_of_calibration_is_named():
    q, y = np.zeros((4, 3)), np.zeros(4)
    levels = [0.1, 0.5, 0.9]
    with pytest.raises(NotFittedError):
        ConformalQuantiles(levels).predict(q)
    for model, arguments, word in (
        (ConformalQuantiles([0.1, 0.5, 0.8]), {}, "symmetric"),
        (ConformalQuantiles(levels, method="full"), {}, "full"),
        (ConformalQuantiles(levels, method="cv+"), {}, "fold"),
        (ConformalQuantiles(levels, method="cv+"), {"fold": [0, 0, 2, 2]}, "fold"),
        (ConformalQuantiles(levels, method="cv+"), {"fold": [-1, 0, 1, 1]}, "fold"),
        (ConformalQuantiles(levels, method="cv+"), {"fold": [0, 0.5, 1, 1]}, "fold"),
        (ConformalQuantiles([0.5]), {}, "quantiles"),
    ):
        with pytest.raises(ValueError, match=word):
            model.fit(q, y, **arguments)
    fitted = ConformalQuantiles(levels).fit(q, y)
    with pytest.raises(ValueError, match="quantiles"):
        fitted.predict(q[:, :2])
    assert not hasattr(clone(fitted), "shift_")
