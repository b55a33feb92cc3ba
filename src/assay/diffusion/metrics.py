"""Distances between two samples of vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    """The squared Wasserstein-2 distance between Gaussians fitted to two samples (Dowson and Landau, 1982).

    With means m and covariances A, B (`numpy.cov`): ``|mx - my|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``.

    Arguments:
        x: (n, d), numpy array or torch tensor.
        y: (m, d).

    Raises ValueError for samples that are not matrices of the same width, finite, with two rows or more.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3))
    >>> round(frechet_distance(x, x + 2), 6)
    12.0
    """
    first, second = _samples(x, y)
    a, b = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (first, second))
    root = _root(a)
    values = np.linalg.eigvalsh(root @ b @ root)
    mean_part = np.sum((first.mean(0) - second.mean(0)) ** 2)
    overlap = np.sqrt(np.clip(values, 0, None)).sum()
    return float(max(mean_part + np.trace(a) + np.trace(b) - 2 * overlap, 0.0))


def sliced_wasserstein(x: ArrayLike, y: ArrayLike, *, n_projections: int = 128, seed: int = 0) -> float:
    """The sliced Wasserstein-2 distance between two samples (Bonneel et al., 2015).

    Root of the mean, over random directions, of the squared Wasserstein-2 distance of the projections;
    samples of unequal size are compared at as many mid-point quantiles as the larger one has rows.

    Arguments:
        x: (n, d), numpy array or torch tensor.
        y: (m, d).
        n_projections: number of directions, uniform on the sphere.
        seed: of the directions, so that distances over the same ones can be compared.

    Raises ValueError as `frechet_distance` does, and for n_projections < 1.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((500, 1))
    >>> round(sliced_wasserstein(x, x + 0.5), 6)
    0.5
    """
    first, second = _samples(x, y)
    if n_projections < 1:
        raise ValueError(f"n_projections is to be 1 or more, got {n_projections}")
    directions = np.random.default_rng(seed).standard_normal((first.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0)
    count = max(len(first), len(second))
    levels = (np.arange(count) + 0.5) / count
    quantiles = [
        np.sort(sample @ directions, axis=0)[(levels * len(sample)).astype(int)] for sample in (first, second)
    ]
    return float(np.sqrt(np.mean((quantiles[0] - quantiles[1]) ** 2)))


def _samples(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = (_array(sample) for sample in (x, y))
    for name, sample in (("x", first), ("y", second)):
        if sample.ndim != 2 or len(sample) < 2:
            raise ValueError(f"{name} is to have shape (n, d) with n of 2 or more, got {sample.shape}")
        if not np.isfinite(sample).all():
            raise ValueError(f"{name} is to be finite")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"x and y are to have the same width, got {first.shape[1]} and {second.shape[1]}")
    return first, second


def _array(sample: Any) -> NDArray[np.float64]:
    if hasattr(sample, "detach"):
        sample = sample.detach().cpu().numpy()
    return np.asarray(sample, dtype=np.float64)


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
