"""Quantile aggregation beside what a user would run instead: seconds of both, least of paired repeats.

Run it with one thread: ``OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import QuantileRegressor
from torch.utils.data import DataLoader, TensorDataset

from assay.inference.quantile_aggregation import (
    ConformalQuantiles,
    LevelwiseQuantiles,
    QuantileAggregator,
    default_base_models,
    monotonize,
)

LEVELS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    repeats: int = 3,
    scale: float = 1.0,
) -> None:
    """Print the least seconds of both, times `scale`, and how many times faster ours is."""
    ours()  # compiles
    seconds = np.full(2, np.inf)
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    seconds *= scale
    print(f"{name:72} {seconds[0]:10.2e} s {seconds[1]:10.2e} s {seconds[1] / seconds[0]:8.1f} x", flush=True)


def ordering(rng: np.random.Generator) -> None:
    q = rng.standard_normal((20_000, len(LEVELS)))

    def by_row() -> np.ndarray:
        return np.stack([isotonic_regression(row) for row in q])

    assert np.allclose(monotonize(q, "isotonic"), by_row())
    compare(
        "isotonic projection, 20000 x 11 / scikit-learn on each row",
        lambda: monotonize(q, "isotonic"),
        by_row,
    )


class PlainAggregation(torch.nn.Module):
    """Fine weights as one writes them down: every source is copied for every level."""

    def __init__(self, p: int, m: int, features: int | None) -> None:
        super().__init__()
        self.shape = (-1, p * m, m)
        self.logits = torch.nn.Parameter(torch.zeros(1, p * m, m))
        if features is not None:
            hidden = torch.nn.Linear(features, 64), torch.nn.ELU(), torch.nn.Linear(64, 64), torch.nn.ELU()
            self.network = torch.nn.Sequential(*hidden, torch.nn.Linear(64, p * m * m))

    def forward(self, base: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
        logits = self.network(X).reshape(self.shape) if hasattr(self, "network") else self.logits
        return (base.flatten(1).unsqueeze(-1) * logits.softmax(1)).sum(1)


def plain_training(
    base: np.ndarray, y: np.ndarray, X: np.ndarray, batch: int, steps: int, local: bool
) -> None:
    """A PyTorch loop over a DataLoader with the loss written out."""
    model = PlainAggregation(base.shape[1], base.shape[2], X.shape[1] if local else None)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-7)
    tensors = (torch.tensor(array).float() for array in (base, X, y[:, None]))
    loader = DataLoader(TensorDataset(*tensors), batch_size=batch, shuffle=True)
    tau, step = torch.tensor(LEVELS).float(), 0
    while True:
        for Z, F, Y in loader:
            error = Y - model(Z, F)
            loss = torch.maximum(tau * error, (tau - 1) * error).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            if step == steps:
                return


def training(rng: np.random.Generator) -> None:
    n, p = 2000, 6
    base = np.sort(rng.standard_normal((n, p, len(LEVELS))), axis=-1)
    y, X = rng.standard_normal(n), rng.standard_normal((n, 5))
    for name, scope, batch, steps in (
        ("a step of all 2000 rows, 6 models, global fine", "global", n, 100),
        ("a step of 64 rows, 6 models, global fine", "global", 64, 300),
        ("a step of 64 rows, 6 models, local fine", "local", 64, 300),
    ):
        model = QuantileAggregator(
            LEVELS, scope=scope, batch_size=batch, max_steps=steps, validation_fraction=0.0, random_state=0
        )
        compare(
            f"{name} / plain PyTorch",
            lambda model=model: model.fit(base, y, X),
            lambda batch=batch, steps=steps, scope=scope: plain_training(
                base, y, X, batch, steps, scope == "local"
            ),
            scale=1 / steps,
        )


def plain_forest_quantiles(
    forest: RandomForestRegressor, X: np.ndarray, y: np.ndarray, new: np.ndarray
) -> np.ndarray:
    """Weights of the training rows for each new row in turn, then weighted quantiles."""
    leaves, order = forest.apply(X), np.argsort(y)
    q = np.empty((len(new), len(LEVELS)))
    for i, leaf in enumerate(forest.apply(new)):
        shared = leaves == leaf
        weights = (shared / shared.sum(axis=0)).mean(axis=1)
        cumulative = np.cumsum(weights[order])
        q[i] = y[order][np.searchsorted(cumulative, LEVELS - 1e-9)]
    return q


def base_models(rng: np.random.Generator) -> None:
    X = rng.uniform(-1, 1, (400, 5))
    y = 2 * X[:, 0] + (0.2 + np.abs(X[:, 2])) * rng.standard_normal(400)
    linear, forest = default_base_models(LEVELS, random_state=0)[:2]
    theirs = LevelwiseQuantiles(QuantileRegressor(alpha=0, solver="highs"), LEVELS)
    compare(
        "linear quantile regression, 400 x 5, 11 levels / scikit-learn",
        lambda: linear.fit(X, y),
        lambda: theirs.fit(X, y),
        repeats=2,
    )
    assert np.allclose(linear.predict(X), theirs.predict(X), atol=1e-6)
    new = rng.uniform(-1, 1, (2000, 5))
    forest.fit(X, y)
    compare(
        "quantiles of a forest of 60 trees for 2000 rows / row by row in NumPy",
        lambda: forest.predict(new),
        lambda: plain_forest_quantiles(forest.forest, X, y, new),
    )
    assert np.array_equal(forest.predict(new), plain_forest_quantiles(forest.forest, X, y, new))


def calibration(rng: np.random.Generator) -> None:
    n, new, folds = 1000, 300, rng.integers(5, size=1000)
    q, y = np.sort(rng.standard_normal((n, 11))), rng.standard_normal(n)
    q_new = np.sort(rng.standard_normal((5, new, 11)))
    model = ConformalQuantiles(LEVELS, method="cv+").fit(q, y, fold=folds)

    def plain() -> np.ndarray:
        calibrated = q_new.mean(axis=0)
        for t in range(5):
            k = int(np.ceil((1 - 2 * LEVELS[t]) * (n + 1) - 1e-9))
            for row in range(new):
                low = sorted(q_new[folds, row, t] - model.scores_[:, t])
                high = sorted(q_new[folds, row, -1 - t] + model.scores_[:, t])
                calibrated[row, [t, -1 - t]] = low[n - k], high[k - 1]
        return monotonize(calibrated, "minmax")

    assert np.allclose(model.predict(q_new), plain())
    compare(
        "CV+ intervals of 300 rows, 1000 rows and 5 folds / sorting each", lambda: model.predict(q_new), plain
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    print(f"{'ours / theirs':72} {'ours':>12} {'theirs':>12} {'ratio':>10}")
    ordering(rng)
    training(rng)
    base_models(rng)
    calibration(rng)


if __name__ == "__main__":
    main()
