import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.evidence import InvalidMeasurement, all_of, at_least, at_most, better, between, near

numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers)
def test_better_is_strict_and_antisymmetric(a: float, b: float) -> None:
    for lower in (True, False):
        forwards = better("a", than="b", lower=lower)({"a": a, "b": b})
        backwards = better("b", than="a", lower=lower)({"a": a, "b": b})
        assert not (forwards and backwards)
        assert (forwards or backwards) == (a != b)
    assert better("a", than="b", lower=True)({"a": a, "b": b}) == (a < b)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1, 10), st.floats(0, 10))
def test_margins_only_make_it_harder(a: float, b: float, factor: float, by: float) -> None:
    for lower in (True, False):
        with_margin = better("a", than="b", lower=lower, factor=factor, by=by)({"a": a, "b": b})
        without = better("a", than="b", lower=lower)({"a": a, "b": b})
        assert without or not with_margin


def test_twenty_per_cent_lower() -> None:
    ask = better("new", than="old", lower=True, factor=1.25)
    assert ask({"new": 79.9, "old": 100.0})
    assert not ask({"new": 80.1, "old": 100.0})
    assert str(ask) == "new × 1.25 < old"


def test_negative_margin_allows_a_little_worse() -> None:
    ask = better("new", than="old", lower=False, by=-0.01)
    assert ask({"new": 0.895, "old": 0.9})
    assert not ask({"new": 0.885, "old": 0.9})


def test_ends_count_as_yes() -> None:
    assert at_least("x", 1.0)({"x": 1.0})
    assert at_most("x", 1.0)({"x": 1.0})
    assert near("x", 1.0, 0.5)({"x": 1.5})
    assert not near("x", 1.0, 0.5)({"x": 1.6})
    assert between("x", 0.0, 1.0)({"x": 0.0})


def test_none_does_not_apply() -> None:
    assert at_least("x", 1.0)({"x": None}) is None
    assert better("x", than="y", lower=True)({"x": 1.0, "y": None}) is None
    assert all_of(at_least("x", 1.0), at_least("y", 1.0))({"x": 0.0, "y": None}) is None


def test_all_of_is_and() -> None:
    ask = all_of(at_least("x", 0.0), at_most("y", 1.0), at_most("x", 2.0))
    assert ask({"x": 1.0, "y": 1.0})
    assert not ask({"x": 3.0, "y": 1.0})
    assert ask.names == ("x", "y")
    assert str(ask) == "x ≥ 0 and y ≤ 1 and x ≤ 2"


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, 2.0]])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(InvalidMeasurement, match="'x'"):
        at_least("x", 0.0)({"x": value})


def test_a_missing_measurement_is_named_beside_those_there() -> None:
    with pytest.raises(InvalidMeasurement, match=r"no 'x'.*returned y, z"):
        at_least("x", 0.0)({"z": 1.0, "y": 1.0})


def test_a_factor_needs_magnitudes() -> None:
    with pytest.raises(InvalidMeasurement, match="magnitudes"):
        better("a", than="b", lower=True, factor=1.2)({"a": -1.0, "b": 1.0})


def test_senseless_predicates_are_refused() -> None:
    with pytest.raises(ValueError, match="factor must be positive"):
        better("a", than="b", lower=True, factor=0.0)
    with pytest.raises(ValueError, match="tolerance"):
        near("a", 1.0, -1.0)
    with pytest.raises(ValueError, match="low must be at most high"):
        between("a", 2.0, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        all_of()
