"""Flexible aggregation of conditional quantile models: learned weights, ordered quantiles, calibration.

Fakoor, Kim, Mueller, Smola and Tibshirani, "Flexible Model Aggregation for Quantile Regression" (2021),
arXiv 2103.00083.

Given p models that each predict m quantile levels, ``Z[i, j, s]`` for row i, model j and level s, the
aggregate is a convex combination trained with the pinball loss:

    coarse   q[i, t] = sum_j  w[j] Z[i, j, t]               one weight a model
    medium   q[i, t] = sum_j  w[j, t] Z[i, j, t]            one a model and level
    fine     q[i, t] = sum_js w[j, s, t] Z[i, j, s]         one a model, source level and output level

The weights are a softmax over the sources, of free parameters (global) or of a network's output at the
features (local). Three ways keep the quantiles ordered: an operator (sorting, isotonic projection or a sweep
from the median) after training, the same operator inside the loss, or a penalty on crossings. Coarse weights
over ordered models cannot cross at all. The base predictions for training must come from models that have
not seen the row (`cross_fit_quantiles`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, cast, overload

import numba
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import linprog
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn

Array = NDArray[np.float64]
Operator = Literal["sort", "isotonic", "minmax"]

_CHUNK = 2048  # rows predicted at once: local fine weights are p m^2 numbers a row


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_one_of(name: str, value: object, known: Sequence[str]) -> None:
    _require(value in known, name, value, "one of " + ", ".join(map(repr, known)))


def _require_count(name: str, value: object) -> None:
    _require(isinstance(value, Integral) and int(value) >= 1, name, value, "an integer of at least 1")


def _check_levels(levels: ArrayLike) -> Array:
    checked = np.asarray(levels, dtype=np.float64)
    _require(
        checked.ndim == 1
        and checked.size > 0
        and bool((checked > 0).all() and (checked < 1).all() and (np.diff(checked) > 0).all()),
        "levels",
        levels,
        "strictly increasing in (0, 1)",
    )
    return checked


def _check_numbers(name: str, value: ArrayLike, shape: tuple[int | None, ...], finite: bool = True) -> Array:
    """The value as an array of that shape (None: any length) without NaN and, if finite, infinities."""
    array = np.asarray(value, dtype=np.float64, order="C")
    if array.ndim != len(shape) or any(
        k is not None and k != n for n, k in zip(array.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if k is None else str(k) for k in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got shape {array.shape}")
    usable = np.isfinite(array) if finite else ~np.isnan(array)
    if not usable.all():
        raise ValueError(
            f"{name} must be {'finite' if finite else 'without NaN'}, got {array[~usable][0]} in it"
        )
    return array


# ---------------------------------------------------------------------------------------- losses, ordering


def pinball_loss(y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike) -> Array:
    """Pinball loss ``max(tau (y - q), (tau - 1) (y - q))`` of each row and level.

    The training loss of Fakoor et al. 2021, arXiv 2103.00083; its expectation is least at the tau-quantile.

    Arguments:
        y: (n,) outcomes.
        quantiles: (n, m) predictions, in units of y; infinite ones are allowed and lose infinitely.
        levels: (m,) strictly increasing in (0, 1).

    Returns:
        (n, m).

    Raises:
        ValueError: shapes that do not match, NaN, infinite y, or levels out of order.

    >>> pinball_loss([2.5], [[3, 1, 2]], [0.1, 0.3, 0.5]).round(3).tolist()
    [[0.45, 0.45, 0.25]]
    """
    tau = _check_levels(levels)
    target = _check_numbers("y", y, (None,))
    error = target[:, None] - _check_numbers("quantiles", quantiles, (len(target), len(tau)), finite=False)
    return np.maximum(tau * error, (tau - 1) * error)


def weighted_interval_score(y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike) -> Array:
    """Weighted interval score of each row: twice the mean over the levels of the pinball loss.

    For symmetric levels it is a weighted mean of the scores of the central intervals and the absolute error
    of the median, an approximation of the continuous ranked probability score (arXiv 2103.00083 uses the sum
    over the levels, a constant factor).

    Arguments and errors are those of `pinball_loss`; returns (n,).

    >>> weighted_interval_score([2.5], [[3, 1, 2, 5, 4]], [0.1, 0.3, 0.5, 0.7, 0.9]).round(2).tolist()
    [0.82]
    """
    score: Array = 2 * pinball_loss(y, quantiles, levels).mean(axis=1)
    return score


@numba.njit(cache=True)
def _pool(q: Array, fitted: Array, block: NDArray[np.int64]) -> None:
    """Pool adjacent violators in each row of q: the projection, and the number of each entry's block."""
    n, m = q.shape
    total, mean = np.empty(m), np.empty(m)
    size = np.empty(m, np.int64)
    for i in range(n):
        blocks = 0
        for t in range(m):
            total[blocks] = mean[blocks] = q[i, t]
            size[blocks] = 1
            while blocks > 0 and mean[blocks - 1] > mean[blocks]:
                blocks -= 1
                total[blocks] += total[blocks + 1]
                size[blocks] += size[blocks + 1]
                mean[blocks] = total[blocks] / size[blocks]
            blocks += 1
        t = 0
        for b in range(blocks):
            for _ in range(size[b]):
                fitted[i, t] = mean[b]
                block[i, t] = b
                t += 1


def _isotonic_array(q: Array) -> Array:
    rows = np.ascontiguousarray(q.reshape(-1, q.shape[-1]))
    fitted = np.empty_like(rows)
    _pool(rows, fitted, np.empty(rows.shape, np.int64))
    return fitted.reshape(q.shape)


def _isotonic_tensor(q: Tensor) -> Tensor:
    """The blocks are found outside the graph; each entry is then the mean of its block, inside it."""
    rows = q.reshape(-1, q.shape[-1])
    values = np.ascontiguousarray(rows.detach().cpu().double().numpy())
    block = np.empty(values.shape, np.int64)
    _pool(values, np.empty_like(values), block)
    index = torch.from_numpy(block).to(q.device)
    totals = torch.zeros_like(rows).scatter_add(1, index, rows)
    sizes = torch.zeros_like(rows).scatter_add(1, index, torch.ones_like(rows))
    return (totals.gather(1, index) / sizes.gather(1, index)).reshape(q.shape)


def _sweep_array(q: Array) -> Array:
    middle = q.shape[-1] // 2
    ordered = np.empty_like(q)
    ordered[..., middle::-1] = np.minimum.accumulate(q[..., middle::-1], axis=-1)
    ordered[..., middle:] = np.maximum.accumulate(q[..., middle:], axis=-1)
    return ordered


def _sweep_tensor(q: Tensor) -> Tensor:
    middle = q.shape[-1] // 2
    below = q[..., : middle + 1].flip(-1).cummin(-1).values.flip(-1)
    return torch.cat([below[..., :-1], q[..., middle:].cummax(-1).values], dim=-1)


_ARRAY_OPERATORS: dict[str, Callable[[Array], Array]] = {
    "sort": lambda q: np.sort(q, axis=-1),
    "isotonic": _isotonic_array,
    "minmax": _sweep_array,
}
_TENSOR_OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda q: q.sort(dim=-1).values,
    "isotonic": _isotonic_tensor,
    "minmax": _sweep_tensor,
}


@overload
def monotonize(quantiles: Tensor, method: Operator = "sort") -> Tensor: ...
@overload
def monotonize(quantiles: ArrayLike, method: Operator = "sort") -> Array: ...
def monotonize(quantiles: Tensor | ArrayLike, method: Operator = "sort") -> Tensor | Array:
    """Put the quantiles of each row in nondecreasing order (Fakoor et al. 2021, arXiv 2103.00083).

    "sort" and "isotonic" (the least-squares projection) never worsen the weighted interval score, whatever
    the outcome; "minmax" (running minimum downwards and running maximum upwards from the middle, index
    ``m // 2``) may, but keeps that entry and never narrows an interval around it.

    Arguments:
        quantiles: (n, m), or any shape with the levels on the last axis. A tensor of any dtype and device
            gives a tensor through which gradients flow: to the entries selected, or to all of a pooled block.
        method: "sort", "isotonic" or "minmax".

    Returns:
        The same shape: a tensor for a tensor, a float64 array for anything else.

    Raises:
        ValueError: an unknown method, or an array that is empty along its last axis, NaN or infinite.

    >>> monotonize([[1, 3, 2, 5, 4, 4.5]], "isotonic").tolist()
    [[1.0, 2.5, 2.5, 4.5, 4.5, 4.5]]
    >>> monotonize([[3, 1, 2, 5, 4]], "minmax").tolist()
    [[1.0, 1.0, 2.0, 5.0, 5.0]]
    """
    _require_one_of("method", method, tuple(_ARRAY_OPERATORS))
    if isinstance(quantiles, Tensor):
        return _TENSOR_OPERATORS[method](quantiles)
    array = np.asarray(quantiles, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"quantiles must have levels on their last axis, got shape {array.shape}")
    return _ARRAY_OPERATORS[method](_check_numbers("quantiles", array, array.shape))


def crossing_penalty(quantiles: Tensor, margins: Tensor) -> Tensor:
    """Mean over rows and pairs of levels s < t of ``max(0, q_s - q_t + margins[t, s])``.

    Added to a loss it keeps quantiles apart by at least the margins (Fakoor et al. 2021, arXiv 2103.00083).

    Arguments:
        quantiles: (n, m).
        margins: (m, m), of which the part below the diagonal is read; see `crossing_margins`.

    Returns:
        A scalar tensor; 0 for a single level.

    Raises:
        ValueError: shapes that do not match.

    >>> q = torch.tensor([[3.0, 1.0, 2.0, 5.0, 4.0]])
    >>> round(float(crossing_penalty(q, torch.zeros(5, 5))), 6)
    0.4
    """
    if quantiles.ndim != 2:
        raise ValueError(f"quantiles must have shape (n, m), got shape {tuple(quantiles.shape)}")
    n, m = quantiles.shape
    if margins.shape != (m, m):
        raise ValueError(f"margins must have shape ({m}, {m}), got shape {tuple(margins.shape)}")
    excess = quantiles[:, None, :] - quantiles[:, :, None] + margins
    return excess.relu().tril(-1).sum() / max(1, n * m * (m - 1) // 2)


def crossing_margins(
    y: ArrayLike, base_quantiles: ArrayLike, levels: ArrayLike, scale: float = 1e-2
) -> Array:
    """Margins of `crossing_penalty` that follow the spread of the data (arXiv 2103.00083).

    With r_t the quantile at level t of the residuals of y about the median over the models of their
    predicted medians (the level nearest to 0.5), ``margins[t, s] = scale * (r_t - r_s)`` for s < t.

    Arguments:
        y: (n,) outcomes.
        base_quantiles: (n, p, m) predictions of the p models.
        levels: (m,) strictly increasing in (0, 1).
        scale: at least 0.

    Returns:
        (m, m), 0 on the diagonal and above.

    Raises:
        ValueError: shapes that do not match, NaN or infinities, levels out of order, a negative scale.

    >>> crossing_margins([-1, 0, 1], np.zeros((3, 2, 3)), [0.25, 0.5, 0.75], scale=0.1).round(3).tolist()
    [[0.0, 0.0, 0.0], [0.05, 0.0, 0.0], [0.1, 0.05, 0.0]]
    """
    tau = _check_levels(levels)
    target = _check_numbers("y", y, (None,))
    base = _check_numbers("base_quantiles", base_quantiles, (len(target), None, len(tau)))
    _require(0 <= scale < np.inf, "scale", scale, "a number of at least 0")
    median = np.median(base[:, :, np.abs(tau - 0.5).argmin()], axis=1)
    r = np.quantile(target - median, tau)
    margins: Array = scale * np.tril(r[:, None] - r[None, :], -1)
    return margins


# --------------------------------------------------------------------------------------------- aggregation


class _Aggregation(nn.Module):
    """Convex combinations of base quantiles; the logits are (targets, sources), a softmax over the last axis.

    Sources are the models (coarse, medium) or models times levels (fine); targets the output levels, or one
    for all of them (coarse).
    """

    def __init__(
        self,
        n_models: int,
        n_levels: int,
        resolution: str,
        diagonal_start: float,
        features: Array | None,
        hidden_size: int,
        n_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.fine = resolution == "fine"
        targets = 1 if resolution == "coarse" else n_levels
        start = torch.zeros(targets, n_models * (n_levels if self.fine else 1))
        if self.fine:
            start.view(n_levels, n_models, n_levels).diagonal(dim1=0, dim2=2).fill_(diagonal_start)
        self.logits = nn.Parameter(start) if features is None else None
        if features is None:
            return
        deviation = features.std(axis=0)
        self.register_buffer("centre", torch.from_numpy(features.mean(axis=0)))
        self.register_buffer("deviation", torch.from_numpy(np.where(deviation > 0, deviation, 1.0)))
        layers: list[nn.Module] = []
        for layer in range(n_layers):
            layers += [nn.Linear(hidden_size if layer else features.shape[1], hidden_size), nn.ELU()]
            if dropout > 0 and layer < n_layers - 1:
                layers.append(nn.Dropout(dropout))
        last = nn.Linear(hidden_size, start.numel())
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(start.flatten())
        self.network = nn.Sequential(*layers, last, nn.Unflatten(1, start.shape))

    centre: Tensor
    deviation: Tensor

    def weights(self, X: Tensor | None) -> Tensor:
        """(targets, sources), with a leading axis of rows if the weights depend on the features."""
        if self.logits is not None:
            return self.logits.softmax(-1)
        assert X is not None
        # Features are standardised before they are rounded to the dtype of the network.
        standardised = ((X - self.centre) / self.deviation).to(next(self.network.parameters()).dtype)
        logits: Tensor = self.network(standardised)
        return logits.softmax(-1)

    def forward(self, base: Tensor, X: Tensor | None = None) -> Tensor:
        weights = self.weights(X)
        if self.fine and weights.ndim == 2:
            return (weights @ base.flatten(1).T).T
        # A sum of products: batched products of a matrix and a vector take twice as long.
        sources = base.flatten(1).unsqueeze(1) if self.fine else base.mT
        return (weights * sources).sum(-1)


@contextmanager
def _own_torch(seed: int) -> Iterator[None]:
    """One thread, since more would only wait for each other on tensors this small, and random numbers of
    our own; afterwards torch is as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _batches(n: int, size: int) -> Iterator[Tensor]:
    while True:
        yield from torch.split(torch.randperm(n), size)


class QuantileAggregator(RegressorMixin, BaseEstimator):
    """Weighted ensemble of conditional quantile models, trained with the pinball loss.

    Fakoor, Kim, Mueller, Smola and Tibshirani, "Flexible Model Aggregation for Quantile Regression" (2021),
    arXiv 2103.00083. ``resolution="fine", scope="local"`` is the paper's "deep quantile aggregation". Fit on
    predictions for rows that the base models have not seen (`cross_fit_quantiles`): in-sample predictions
    reward the models that overfit most.

    Arguments:
        levels: (m,) quantile levels, strictly increasing in (0, 1).
        resolution: "coarse" (a weight for each model), "medium" (for each model and level) or "fine" (for
            each model, source level and output level).
        scope: "global" (the same weights for all rows) or "local" (weights from a network of the features).
        noncrossing: how `predict` orders the quantiles: "none", "sort", "isotonic" or "minmax".
        end_to_end: whether training applies the operator before the loss as well.
        penalty_weight: of `crossing_penalty` in the training loss, on standardised outcomes; the paper tries
            0.5 to 10.
        penalty_scale: of its `crossing_margins`; the paper tries 1e-4 to 1e-1.
        hidden_size, n_layers, dropout: of the network: width and number of hidden layers (ELU), and the
            dropout between them.
        learning_rate: of Adam; None for 1e-3 (local) or 1e-2 (global).
        weight_decay: of Adam.
        batch_size, max_steps: rows of a step, and the most steps.
        patience: ends after so many steps without a better validation loss.
        validation_fraction: share of the rows held out to choose the step; 0 trains for `max_steps`.
        diagonal_start: "fine" starts from these logits where source and output level agree and 0 elsewhere,
            near the plain average of the models; 0 starts from equal weights on all, as the authors do.
        random_state: None, an int or a RandomState; the same int gives the same result.

    Attributes:
        module_: torch module in float64 on ``(base_quantiles, X)``, giving the raw aggregate.
        n_steps_: steps taken until the state that was kept.

    >>> rng = np.random.default_rng(0)
    >>> levels = [0.25, 0.5, 0.75]
    >>> y = rng.normal(size=400)
    >>> good = np.tile([-0.67, 0.0, 0.67], (400, 1))
    >>> base = np.stack([good, good + 3, good - rng.normal(size=(400, 1))], axis=1)
    >>> model = QuantileAggregator(levels, resolution="coarse", random_state=0).fit(base, y)
    >>> model.weights().round(1).tolist()
    [1.0, 0.0, 0.0]
    >>> model.predict(base).shape
    (400, 3)
    """

    def __init__(
        self,
        levels: ArrayLike,
        *,
        resolution: Literal["coarse", "medium", "fine"] = "fine",
        scope: Literal["global", "local"] = "global",
        noncrossing: Literal["none", "sort", "isotonic", "minmax"] = "sort",
        end_to_end: bool = False,
        penalty_weight: float = 0.0,
        penalty_scale: float = 1e-2,
        hidden_size: int = 64,
        n_layers: int = 2,
        dropout: float = 0.0,
        learning_rate: float | None = None,
        weight_decay: float = 1e-7,
        batch_size: int = 64,
        max_steps: int = 1500,
        patience: int = 400,
        validation_fraction: float = 0.2,
        diagonal_start: float = 4.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.levels = levels
        self.resolution = resolution
        self.scope = scope
        self.noncrossing = noncrossing
        self.end_to_end = end_to_end
        self.penalty_weight = penalty_weight
        self.penalty_scale = penalty_scale
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.diagonal_start = diagonal_start
        self.random_state = random_state

    def fit(self, base_quantiles: ArrayLike, y: ArrayLike, X: ArrayLike | None = None) -> QuantileAggregator:
        """Learn the weights.

        Arguments:
            base_quantiles: (n, p, m) predictions of p models at the m levels, for rows new to the models.
            y: (n,) outcomes.
            X: (n, d) features; needed, and only read, by ``scope="local"``.

        Raises ValueError for a parameter out of range, shapes that do not match, NaN and infinities.
        """
        levels = self._check_parameters()
        target = _check_numbers("y", y, (None,))
        base = _check_numbers("base_quantiles", base_quantiles, (len(target), None, len(levels)))
        n, n_models, n_levels = base.shape
        _require(n > 0 and n_models > 0, "base_quantiles", base.shape, "of at least one row and one model")
        features = self._check_features(X, n_rows=n)
        random = check_random_state(self.random_state)
        held_out = min(round(self.validation_fraction * n), n - 1)
        order = random.permutation(n)

        centre, deviation = target.mean(), target.std() or 1.0
        target, base = (target - centre) / deviation, (base - centre) / deviation
        margins = crossing_margins(target, base, levels, self.penalty_scale)
        tau, Y, Z, M = (torch.tensor(a).float() for a in (levels, target[:, None], base, margins))
        F = None if features is None else torch.tensor(features)
        operator = _TENSOR_OPERATORS.get(self.noncrossing)

        def loss(rows: Tensor, module: _Aggregation) -> Tensor:
            """Of a training step, or of validation: then of what `predict` will give."""
            q: Tensor = module(Z.index_select(0, rows), None if F is None else F.index_select(0, rows))
            penalised = module.training and self.penalty_weight > 0
            penalty = self.penalty_weight * crossing_penalty(q, M) if penalised else 0.0
            if operator is not None and (self.end_to_end or not module.training):
                q = operator(q)
            error = Y.index_select(0, rows) - q
            return (error * (tau - (error.detach() < 0).float())).mean() + penalty

        with _own_torch(int(random.randint(2**31))):
            module = _Aggregation(
                n_models,
                n_levels,
                self.resolution,
                self.diagonal_start,
                features,
                self.hidden_size,
                self.n_layers,
                self.dropout,
            )
            # Logits of global weights are few, and softmax moves them slowly.
            rate = self.learning_rate or (1e-3 if self.scope == "local" else 1e-2)
            optimiser = torch.optim.Adam(
                module.parameters(), rate, weight_decay=self.weight_decay, fused=True
            )
            shuffled = torch.from_numpy(order)
            train, validation = shuffled[held_out:], shuffled[:held_out]
            batches = _batches(len(train), self.batch_size)
            best, best_loss, self.n_steps_ = copy.deepcopy(module.state_dict()), np.inf, 0
            for step in range(self.max_steps + 1):
                if held_out and (step % 10 == 0 or step == self.max_steps):
                    module.eval()
                    with torch.no_grad():
                        validation_loss = float(loss(validation, module))
                    module.train()
                    if validation_loss < best_loss:
                        best, best_loss = copy.deepcopy(module.state_dict()), validation_loss
                        self.n_steps_ = step
                    elif step - self.n_steps_ >= self.patience:
                        break
                if step < self.max_steps:
                    optimiser.zero_grad()
                    torch.autograd.backward(loss(train[next(batches)], module))
                    optimiser.step()
            if held_out:
                module.load_state_dict(best)
            else:
                self.n_steps_ = self.max_steps
        self.module_ = module.eval().double().requires_grad_(False)
        self._n_models, self._n_features = n_models, None if features is None else features.shape[1]
        return self

    def predict(self, base_quantiles: ArrayLike, X: ArrayLike | None = None, *, raw: bool = False) -> Array:
        """Aggregated quantiles (n, m) of `base_quantiles` (n, p, m) and, if local, features `X` (n, d).

        With `raw` they are left as the weights give them, not ordered. Raises NotFittedError before `fit`,
        ValueError for shapes that do not match, NaN and infinities.
        """
        check_is_fitted(self, "module_")
        levels = _check_levels(self.levels)
        base = _check_numbers("base_quantiles", base_quantiles, (None, self._n_models, len(levels)))
        features = self._check_features(X, n_rows=len(base), n_features=self._n_features)
        q = np.empty((len(base), len(levels)))
        for start in range(0, len(base), _CHUNK):
            rows = slice(start, start + _CHUNK)
            X_rows = None if features is None else torch.tensor(features[rows])
            q[rows] = self.module_(torch.tensor(base[rows]), X_rows).numpy()
        return q if raw or self.noncrossing == "none" else _ARRAY_OPERATORS[self.noncrossing](q)

    def weights(self, X: ArrayLike | None = None) -> Array:
        """The weights, at least 0 and of sum 1 over the sources of each output level.

        Returns (p,) for coarse, (p, m) for medium and (p, m, m) for fine: model, source level, output level.
        Local weights are those at the features `X` (n, d), with a leading axis n. Raises NotFittedError
        before `fit`, ValueError for features that do not match.
        """
        check_is_fitted(self, "module_")
        features = self._check_features(X, n_features=self._n_features)
        w = self.module_.weights(None if features is None else torch.tensor(features)).numpy()
        if self.resolution == "coarse":
            return cast(Array, w[..., 0, :])
        if self.resolution == "medium":
            return cast(Array, np.swapaxes(w, -1, -2))
        m = w.shape[-2]
        return np.moveaxis(w.reshape(*w.shape[:-1], -1, m), -3, -1)

    def score(self, base_quantiles: ArrayLike, y: ArrayLike, X: ArrayLike | None = None) -> float:
        """Mean weighted interval score of `predict`, negative so that more is better."""
        return -float(weighted_interval_score(y, self.predict(base_quantiles, X), self.levels).mean())

    def _check_features(
        self, X: ArrayLike | None, n_rows: int | None = None, n_features: int | None = None
    ) -> Array | None:
        if self.scope == "global":
            return None
        if X is None:
            raise ValueError("X must be given when scope is 'local', got None")
        features: Array = check_array(X, dtype=np.float64, order="C", input_name="X")
        if n_rows not in (None, features.shape[0]):
            raise ValueError(f"X must have the {n_rows} rows of base_quantiles, got {features.shape[0]}")
        if n_features not in (None, features.shape[1]):
            raise ValueError(f"X must have {n_features} features, got {features.shape[1]}")
        return features

    def _check_parameters(self) -> Array:
        _require_one_of("resolution", self.resolution, ("coarse", "medium", "fine"))
        _require_one_of("scope", self.scope, ("global", "local"))
        _require_one_of("noncrossing", self.noncrossing, ("none", *_ARRAY_OPERATORS))
        for name in ("penalty_weight", "penalty_scale", "weight_decay"):
            value = getattr(self, name)
            _require(0 <= value < np.inf, name, value, "a number of at least 0")
        for name in ("hidden_size", "n_layers", "batch_size", "max_steps", "patience"):
            _require_count(name, getattr(self, name))
        for name in ("dropout", "validation_fraction"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, value, "in [0, 1)")
        rate = self.learning_rate
        _require(rate is None or 0 < rate < np.inf, "learning_rate", rate, "None or a positive number")
        _require(bool(np.isfinite(self.diagonal_start)), "diagonal_start", self.diagonal_start, "finite")
        return _check_levels(self.levels)


# --------------------------------------------------------------------------------------------- base models


class LevelwiseQuantiles(RegressorMixin, BaseEstimator):
    """All levels from a regressor of one: a clone of the estimator for each level.

    Works for any estimator, pipelines included, that takes its level as the parameter `quantile`
    (scikit-learn's QuantileRegressor and HistGradientBoostingRegressor), `alpha` (GradientBoostingRegressor,
    LightGBM) or `quantile_alpha` (XGBoost); where it can have other losses, its `loss` or `objective` must
    be the quantile one. `cross_fit_quantiles` wraps such estimators by itself.

    Arguments:
        estimator: unfitted.
        levels: (m,) quantile levels, strictly increasing in (0, 1).

    Attributes:
        estimators_: the m fitted clones.

    >>> from sklearn.linear_model import QuantileRegressor
    >>> X = np.arange(20.0)[:, None]
    >>> model = LevelwiseQuantiles(QuantileRegressor(alpha=0), [0.1, 0.5, 0.9]).fit(X, X[:, 0])
    >>> model.predict(X[:2]).shape
    (2, 3)
    """

    def __init__(self, estimator: Any, levels: ArrayLike) -> None:
        self.estimator = estimator
        self.levels = levels

    def fit(self, X: Any, y: ArrayLike) -> LevelwiseQuantiles:
        """Fit a clone for each level to X (n, d) and y (n,); ValueError if the estimator takes no level."""
        names = _level_parameters(self.estimator)
        _require(bool(names), "estimator", self.estimator, "a quantile regressor that takes its level")
        self.estimators_ = [
            clone(self.estimator).set_params(**dict.fromkeys(names, float(level))).fit(X, y)
            for level in _check_levels(self.levels)
        ]
        return self

    def predict(self, X: Any) -> Array:
        """The quantiles (n, m) at X (n, d), each level by its own clone, so that they may cross."""
        check_is_fitted(self, "estimators_")
        return np.column_stack([estimator.predict(X) for estimator in self.estimators_])


def _level_parameters(estimator: Any) -> list[str]:
    """The names, nested ones included, of the parameters by which an estimator takes its quantile level."""
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    found = []
    for name, value in parameters.items():
        prefix, _, last = name.rpartition("__")
        if last not in ("quantile", "alpha", "quantile_alpha") or not isinstance(value, Real | None):
            continue
        siblings = (f"{prefix}__{mode}" if prefix else mode for mode in ("loss", "objective", "strategy"))
        modes = [str(parameters[sibling]) for sibling in siblings if sibling in parameters]
        # `alpha` has many meanings: it is the level only where something says so.
        if any("quantile" in mode for mode in modes) or (last == "quantile" and not modes):
            found.append(name)
    return found


class _CalledWithLevels(BaseEstimator):
    """A model whose `predict` takes the levels as `quantiles`, such as those of quantile-forest."""

    def __init__(self, model: Any, levels: Array) -> None:
        self.model = model
        self.levels = levels

    def fit(self, X: Any, y: ArrayLike) -> _CalledWithLevels:
        self.model.fit(X, y)
        return self

    def predict(self, X: Any) -> Array:
        return cast(Array, self.model.predict(X, quantiles=self.levels.tolist()))


def _for_all_levels(model: Any, levels: Array) -> Any:
    """A fresh copy of the model that predicts (n, m)."""
    model = copy.deepcopy(model)
    if not hasattr(model, "levels") and _level_parameters(model):
        return LevelwiseQuantiles(model, levels)
    if "quantiles" in inspect.signature(model.predict).parameters:
        return _CalledWithLevels(model, levels)
    return model


@dataclass(frozen=True)
class CrossFit:
    """What `cross_fit_quantiles` gives.

    Attributes:
        out_of_fold: (n, p, m) predictions for each row by models fitted without its fold.
        fold: (n,) int, the fold of each row.
        models: the p models fitted to all rows, for new data.
    """

    out_of_fold: Array
    fold: NDArray[np.int64]
    models: list[Any]

    def predict(self, X: Any) -> Array:
        """(n, p, m) quantiles at new rows X (n, d) by the models fitted to all rows."""
        return np.stack([model.predict(X) for model in self.models], axis=1)


def cross_fit_quantiles(
    models: Sequence[Any],
    X: Any,
    y: ArrayLike,
    levels: ArrayLike,
    *,
    n_folds: int = 5,
    random_state: int | np.random.RandomState | None = None,
) -> CrossFit:
    """Out-of-fold predictions of a library of quantile models, to train a `QuantileAggregator` on.

    Arguments:
        models: unfitted; each is copied before fitting. Three kinds, freely mixed: any scikit-learn quantile
            regressor of one level (see `LevelwiseQuantiles`); models whose ``predict(X, quantiles=levels)``
            gives (n, m), such as those of quantile-forest; objects with ``fit(X, y)`` and ``predict(X)``
            that give (n, m) by themselves, such as `default_base_models` (an attribute `levels` tells them
            from the first kind where they contain regressors of one level).
        X: (n, d) features, an array or whatever else the models take, e.g. a DataFrame.
        y: (n,) outcomes.
        levels: (m,) quantile levels, strictly increasing in (0, 1).
        n_folds: of the shuffled folds, from 2 to n.
        random_state: of the folds.

    Returns:
        A `CrossFit`.

    Raises:
        ValueError: no models, n_folds or levels out of range, y that is not finite or not as long as X, a
            model whose predictions are not finite or not (n, m).

    >>> from sklearn.linear_model import QuantileRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2))
    >>> levels = [0.1, 0.5, 0.9]
    >>> models = [QuantileRegressor(alpha=0), *default_base_models(levels, random_state=0)]
    >>> cross_fit_quantiles(models, X, X[:, 0] + rng.normal(size=60), levels).out_of_fold.shape
    (60, 6, 3)
    """
    tau = _check_levels(levels)
    target = _check_numbers("y", y, (None,))
    check_consistent_length(X, target)
    n = len(target)
    _require(len(models) > 0, "models", models, "at least one model")
    _require(
        isinstance(n_folds, Integral) and 2 <= n_folds <= n,
        "n_folds",
        n_folds,
        f"an integer from 2 to n = {n}",
    )
    fold = np.empty(n, np.int64)
    out_of_fold = np.empty((n, len(models), len(tau)))
    for k, (train, test) in enumerate(KFold(n_folds, shuffle=True, random_state=random_state).split(target)):
        fold[test] = k
        X_train, X_test = _safe_indexing(X, train), _safe_indexing(X, test)
        for j, model in enumerate(models):
            predicted = _for_all_levels(model, tau).fit(X_train, target[train]).predict(X_test)
            out_of_fold[test, j] = _check_numbers(
                f"the prediction of models[{j}]", predicted, (len(test), len(tau))
            )
    return CrossFit(out_of_fold, fold, [_for_all_levels(model, tau).fit(X, target) for model in models])


class _LinearQuantiles(BaseEstimator):
    """Linear quantile regression by its dual, ``max y'a  with  A'a = (1 - tau) A'1  and  0 <= a <= 1``.

    It has as many constraints as coefficients, and these are its multipliers; the primal, which
    scikit-learn's QuantileRegressor solves to the same end, has a constraint for each row.
    """

    def __init__(self, levels: Array) -> None:
        self.levels = levels

    def fit(self, X: ArrayLike, y: ArrayLike) -> _LinearQuantiles:
        self._scaler = StandardScaler().fit(X)
        A = self._design(X)
        self.coefficients_ = np.column_stack(
            [
                -linprog(
                    -np.asarray(y), A_eq=A.T, b_eq=(1 - level) * A.sum(axis=0), bounds=(0, 1), method="highs"
                ).eqlin.marginals
                for level in self.levels
            ]
        )
        return self

    def predict(self, X: ArrayLike) -> Array:
        return self._design(X) @ self.coefficients_

    def _design(self, X: ArrayLike) -> Array:
        scaled = self._scaler.transform(X)
        return np.column_stack([np.ones(len(scaled)), scaled])


class _ForestQuantiles(BaseEstimator):
    """Quantiles of the training outcomes, weighted by how often a row shares its leaf with each of them."""

    def __init__(self, forest: Any, levels: Array) -> None:
        self.forest = forest
        self.levels = levels

    def fit(self, X: ArrayLike, y: ArrayLike) -> _ForestQuantiles:
        self.forest.fit(X, y)
        nodes = [tree.tree_.node_count for tree in self.forest.estimators_]
        self._offset = np.concatenate([[0], np.cumsum(nodes)])
        order = np.argsort(y, kind="stable")
        self._outcomes = np.asarray(y)[order]
        rows = self._leaves(X)[order]
        sizes = np.maximum(rows.sum(axis=0), 1) * len(nodes)
        self._shares = sparse.diags_array(1 / sizes) @ rows.T
        return self

    def predict(self, X: ArrayLike) -> Array:
        leaves = self._leaves(X)
        q = np.empty((leaves.shape[0], len(self.levels)))
        for start in range(0, len(q), _CHUNK):
            rows = slice(start, start + _CHUNK)
            cumulative = (leaves[rows] @ self._shares).toarray().cumsum(axis=1)
            for t, level in enumerate(self.levels):
                # The cumulative weights end at 1 only within rounding.
                q[rows, t] = self._outcomes[(cumulative < level - 1e-9).sum(axis=1)]
        return q

    def _leaves(self, X: ArrayLike) -> Any:
        """(n, leaves of all trees) sparse, 1 where the row falls into the leaf."""
        # Trees one by one: for few rows the forest's own `apply` is mostly the cost of its checks.
        rows = np.ascontiguousarray(X, dtype=np.float32)
        leaf = np.column_stack([tree.tree_.apply(rows) for tree in self.forest.estimators_])
        leaf = leaf + self._offset[:-1]
        n, trees = leaf.shape
        start = np.arange(0, n * trees + 1, trees)
        return sparse.csr_array((np.ones(n * trees), leaf.ravel(), start), shape=(n, self._offset[-1]))


class _NeighbourQuantiles(BaseEstimator):
    """Quantiles of the outcomes of the ``2 sqrt(n)`` nearest rows, features standardised."""

    def __init__(self, levels: Array) -> None:
        self.levels = levels

    def fit(self, X: ArrayLike, y: ArrayLike) -> _NeighbourQuantiles:
        self._outcomes = np.asarray(y)
        self._scaler = StandardScaler().fit(X)
        n_neighbours = min(len(self._outcomes), round(2 * len(self._outcomes) ** 0.5))
        self._neighbours = NearestNeighbors(n_neighbors=n_neighbours).fit(self._scaler.transform(X))
        return self

    def predict(self, X: ArrayLike) -> Array:
        near = self._neighbours.kneighbors(self._scaler.transform(X), return_distance=False)
        quantiles: Array = np.quantile(self._outcomes[near], self.levels, axis=1).T
        return quantiles


class _GaussianQuantiles(BaseEstimator):
    """Least squares with the quantiles of Gaussian noise of one variance."""

    def __init__(self, levels: Array) -> None:
        self.levels = levels

    def fit(self, X: ArrayLike, y: ArrayLike) -> _GaussianQuantiles:
        self._mean = LinearRegression().fit(X, y)
        self._deviation = np.std(y - self._mean.predict(X))
        return self

    def predict(self, X: ArrayLike) -> Array:
        return cast(Array, self._mean.predict(X)[:, None] + self._deviation * norm.ppf(self.levels))


def default_base_models(
    levels: ArrayLike, random_state: int | np.random.RandomState | None = None
) -> list[Any]:
    """A library of five unfitted quantile models that need nothing but scikit-learn.

    Linear quantile regression, quantile random forest and quantile extra trees (60 trees, leaves of at least
    8 rows; quantiles weighted by shared leaves, Meinshausen 2006), nearest-neighbour quantiles, and least
    squares with Gaussian quantiles; after the library of arXiv 2103.00083.

    Arguments:
        levels: (m,) quantile levels, strictly increasing in (0, 1).
        random_state: of the forests.

    Returns:
        Objects with ``fit(X, y)`` and ``predict(X)``, which gives (n, m).

    Raises:
        ValueError: levels out of order.

    >>> X = np.linspace(0, 1, 50)[:, None]
    >>> [model.fit(X, X[:, 0]).predict(X[:3]).shape for model in default_base_models([0.1, 0.9], 0)]
    [(3, 2), (3, 2), (3, 2), (3, 2), (3, 2)]
    """
    tau = _check_levels(levels)
    random = check_random_state(random_state)
    forests = (
        forest(n_estimators=60, min_samples_leaf=8, random_state=random.randint(2**31))
        for forest in (RandomForestRegressor, ExtraTreesRegressor)
    )
    return [
        _LinearQuantiles(tau),
        *(_ForestQuantiles(forest, tau) for forest in forests),
        _NeighbourQuantiles(tau),
        _GaussianQuantiles(tau),
    ]


# --------------------------------------------------------------------------------------------- calibration


class ConformalQuantiles(BaseEstimator):
    """Conformal calibration of the central intervals of predicted quantiles.

    The last step of Fakoor et al. 2021, arXiv 2103.00083: conformalised quantile regression (Romano,
    Patterson and Candès 2019, arXiv 1905.03222) or CV+ (Barber, Candès, Ramdas and Tibshirani 2019, arXiv
    1905.02928) for each pair of levels ``tau, 1 - tau``. With the scores ``E_i = max(q_tau(x_i) - y_i, y_i -
    q_{1-tau}(x_i))`` and ``k = ceil((1 - 2 tau)(n + 1))``,

        split   [q_tau(x) - s,  q_{1-tau}(x) + s],  s the k-th smallest score of n rows new to the aggregator;
        cv+     [the (n + 1 - k)-th smallest of q_tau^{(i)}(x) - E_i,  the k-th smallest of
                q_{1-tau}^{(i)}(x) + E_i],  with ^{(i)} the aggregator that did not see row i.

    Intervals then cover exchangeable outcomes with probability at least ``1 - 2 tau`` (split), or about that
    (cv+; at least ``1 - 4 tau``, less a term that vanishes with n). An end is infinite where n is too small
    for its level. Where calibrated intervals are not nested, inner ones widen outer ones, from the median
    outwards, which no coverage suffers from. The median is left as it is (cv+: the mean over the folds).

    Arguments:
        levels: (m,) strictly increasing in (0, 1) and symmetric about 0.5.
        method: "split" or "cv+".

    Attributes:
        shift_: (m,) what "split" adds to each level.
        scores_: (n, m // 2) the scores, a column for each pair from the outermost in.

    >>> rng = np.random.default_rng(0)
    >>> too_narrow = np.tile([-0.5, 0.0, 0.5], (999, 1))
    >>> model = ConformalQuantiles([0.1, 0.5, 0.9]).fit(too_narrow, rng.normal(size=999))
    >>> model.predict([[-0.5, 0.0, 0.5]]).round(1).tolist()
    [[-1.2, 0.0, 1.2]]
    """

    def __init__(self, levels: ArrayLike, *, method: Literal["split", "cv+"] = "split") -> None:
        self.levels = levels
        self.method = method

    def fit(self, quantiles: ArrayLike, y: ArrayLike, *, fold: ArrayLike | None = None) -> ConformalQuantiles:
        """Calibrate.

        Arguments:
            quantiles: (n, m) aggregated predictions for rows that the aggregator has not seen; for "cv+" each
                row's by the aggregator fitted without its fold.
            y: (n,) outcomes.
            fold: (n,) int from 0 to K - 1, each row's fold; needed, and only read, by "cv+".

        Raises ValueError for levels that are not symmetric, shapes that do not match, NaN and infinities.
        """
        levels = _check_levels(self.levels)
        _require(np.allclose(levels + levels[::-1], 1), "levels", self.levels, "symmetric about 0.5")
        _require_one_of("method", self.method, ("split", "cv+"))
        target = _check_numbers("y", y, (None,))
        q = _check_numbers("quantiles", quantiles, (len(target), len(levels)))
        n, m = q.shape
        _require(n > 0, "y", y, "of at least one row")
        pairs = m // 2
        self.scores_ = np.maximum(
            q[:, :pairs] - target[:, None], target[:, None] - q[:, : m - 1 - pairs : -1]
        )
        # 0.9 * 10 and the like are to give 9, whatever their rounding.
        self._rank = np.ceil((1 - 2 * levels[:pairs]) * (n + 1) - 1e-9).astype(np.int64)
        if self.method == "split":
            ordered = np.vstack([np.sort(self.scores_, axis=0), np.full(pairs, np.inf)])
            shift = ordered[self._rank - 1, np.arange(pairs)]
            self.shift_ = np.concatenate([-shift, np.zeros(m % 2), shift[::-1]])
        else:
            if fold is None:
                raise ValueError("fold must be given when method is 'cv+', got None")
            self._fold = _check_numbers("fold", fold, (n,)).astype(np.int64)
            known = np.unique(self._fold)
            _require(
                np.array_equal(self._fold, np.asarray(fold)) and np.array_equal(known, np.arange(len(known))),
                "fold",
                fold,
                "whole numbers from 0 to K - 1, each of them there",
            )
        return self

    def predict(self, quantiles: ArrayLike) -> Array:
        """Calibrated quantiles (n, m) of new rows, in order.

        Arguments:
            quantiles: (n, m) predictions of the aggregator; for "cv+" (K, n, m) or a list of K arrays, the
                predictions of each fold's aggregator.

        Raises NotFittedError before `fit`, ValueError for shapes that do not match, NaN and infinities.
        """
        check_is_fitted(self, "scores_")
        m = len(_check_levels(self.levels))
        if self.method == "split":
            return _sweep_array(_check_numbers("quantiles", quantiles, (None, m)) + self.shift_)
        by_fold = _check_numbers("quantiles", quantiles, (int(self._fold.max()) + 1, None, m))
        calibrated = by_fold.mean(axis=0)
        n = len(self._fold)
        for t, k in enumerate(self._rank):
            # Minus the lower end is the k-th smallest of -q + E: both ends are the same order statistic.
            for level, sign in ((t, -1), (m - 1 - t, 1)):
                if k > n:
                    calibrated[:, level] = sign * np.inf
                    continue
                for start in range(0, len(calibrated), _CHUNK // 8):
                    rows = slice(start, start + _CHUNK // 8)
                    candidates = sign * by_fold[:, rows, level].T[:, self._fold] + self.scores_[:, t]
                    calibrated[rows, level] = sign * np.partition(candidates, k - 1, axis=1)[:, k - 1]
        return _sweep_array(calibrated)
