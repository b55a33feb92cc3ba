"""Distances between samples: closed forms and invariants."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from assay.diffusion.metrics import frechet_distance, sliced_wasserstein


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((400, 3)) @ np.diag([1.0, 2.0, 0.3])


def test_frechet_distance_against_the_matrix_square_root(x: np.ndarray) -> None:
    y = np.random.default_rng(2).standard_normal((300, 3)) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_scaling(x: np.ndarray) -> None:
    centred = x - x.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * np.trace(np.cov(x.T)), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_a_flat_sample_has_a_distance() -> None:
    x = np.random.default_rng(0).standard_normal((50, 2)) * [1.0, 0.0]
    assert frechet_distance(x, x + np.array([0, 2])) == pytest.approx(4)


@given(st.floats(-5, 5), st.integers(2, 60), st.integers(2, 60))
def test_sliced_wasserstein_of_two_points(gap: float, n: int, m: int) -> None:
    x, y = np.zeros((n, 1)), np.full((m, 1), gap)
    assert sliced_wasserstein(x, y) == pytest.approx(abs(gap))


def test_sliced_wasserstein_of_a_shift_is_its_length_over_the_root_of_the_dimension(x: np.ndarray) -> None:
    shift = np.array([3.0, -1.0, 2.0])
    found = sliced_wasserstein(x, x + shift, n_projections=20_000)
    assert found == pytest.approx(np.linalg.norm(shift) / np.sqrt(3), rel=0.02)


def test_rows_do_not_count_by_their_order_or_number(x: np.ndarray) -> None:
    y = np.random.default_rng(3).standard_normal((400, 3))
    shuffled = np.random.default_rng(4).permutation(y)
    assert sliced_wasserstein(x, shuffled) == pytest.approx(sliced_wasserstein(x, y), rel=1e-12)
    assert sliced_wasserstein(x, np.repeat(y, 2, axis=0)) == pytest.approx(
        sliced_wasserstein(x, y), rel=1e-12
    )
    assert sliced_wasserstein(x, y, seed=1) != sliced_wasserstein(x, y)


def test_tensors_are_taken(x: np.ndarray) -> None:
    tensor = torch.tensor(x, requires_grad=True)
    assert frechet_distance(tensor, x + 1) == frechet_distance(x, x + 1)
    assert sliced_wasserstein(tensor, x + 1) == sliced_wasserstein(x, x + 1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(3), np.zeros((3, 1)), r"x is to have shape \(n, d\)"),
        (np.zeros((3, 2)), np.zeros((1, 2)), "y is to have shape"),
        (np.zeros((3, 2)), np.zeros((3, 1)), "same width, got 2 and 1"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "x is to be finite"),
    ],
)
def test_what_is_no_sample_is_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    for distance in (frechet_distance, sliced_wasserstein):
        with pytest.raises(ValueError, match=message):
            distance(x, y)


def test_directions_are_needed() -> None:
    with pytest.raises(ValueError, match="n_projections is to be 1 or more"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 2)), n_projections=0)
