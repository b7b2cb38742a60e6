import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.sweeps.dimensions import choice, fixed, integer, linear, log, one_minus

units = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20)
numbers = st.floats(-1e6, 1e6)
positive = st.floats(1e-12, 1e12)
whole = st.integers(-(10**6), 10**6)


@given(numbers, numbers, units)
def test_linear_is_the_straight_line_within_its_bounds(a, b, u):
    low, high = min(a, b), max(a, b)
    values = linear(low, high).from_unit(u)
    np.testing.assert_allclose(values, [low * (1 - x) + high * x for x in u], rtol=1e-12, atol=1e-9)
    assert all(low <= value <= high for value in values)


@given(positive, positive, units)
def test_log_is_the_straight_line_of_logarithms_within_its_bounds(a, b, u):
    low, high = min(a, b), max(a, b)
    values = log(low, high).from_unit(u)
    np.testing.assert_allclose(values, [math.exp(math.log(low) * (1 - x) + math.log(high) * x) for x in u], rtol=1e-9)
    assert all(low <= value <= high for value in values)


@given(st.sampled_from([linear(-3, 5), log(1e-5, 10), integer(-7, 30), integer(1, 1000, log=True)]), units)
def test_values_rise_with_u(dimension, u):
    values = dimension.from_unit(sorted(u))
    assert values == sorted(values)


@given(st.sampled_from([linear(0, 0.5), log(1e-4, 1e-1)]), units)
def test_one_minus_is_one_minus(inner, u):
    assert one_minus(inner).from_unit(u) == [1.0 - x for x in inner.from_unit(u)]
    assert one_minus(inner).grid(5) == [1.0 - x for x in inner.grid(5)]


@given(positive, positive, st.integers(2, 9))
def test_grids_of_ranges_begin_and_end_at_the_bounds(a, b, n):
    low, high = min(a, b), max(a, b)
    for dimension in (linear(low, high), log(low, high)):
        grid = dimension.grid(n)
        assert (grid[0], grid[-1], len(grid)) == (low, high, n)


def test_grids_are_evenly_spaced():
    np.testing.assert_allclose(linear(-1, 2).grid(4), [-1, 0, 1, 2])
    np.testing.assert_allclose(log(1e-6, 1e-2).grid(5), [1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    assert linear(0, 4).grid(1) == [2.0]
    np.testing.assert_allclose(log(1e-4, 1e-2).grid(1), [1e-3])


@given(whole, whole, units)
def test_integers_lie_within_their_bounds(a, b, u):
    low, high = min(a, b), max(a, b)
    values = integer(low, high).from_unit(u)
    assert all(type(value) is int and low <= value <= high for value in values)


def test_each_integer_is_equally_likely():
    u = (np.arange(700) + 0.5) / 700
    values, counts = np.unique(integer(-2, 4).from_unit(u), return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2, 3, 4]
    assert set(counts) == {100}


def test_log_integers_are_as_likely_as_their_rounding_intervals_are_long():
    u = (np.arange(20000) + 0.5) / 20000
    values, counts = np.unique(integer(1, 8, log=True).from_unit(u), return_counts=True)
    expected = np.log((values + 0.5) / (values - 0.5)) / math.log(8.5 / 0.5)
    np.testing.assert_allclose(counts / 20000, expected, atol=1e-4)


def test_integer_grids():
    assert integer(1, 9).grid(3) == [1, 5, 9]
    assert integer(1, 3).grid(10) == [1, 2, 3]
    assert integer(16, 256, log=True).grid(3) == [16, 64, 256]


def test_each_choice_is_equally_likely():
    u = (np.arange(300) + 0.5) / 300
    drawn = choice(["a", None, 2]).from_unit(u)
    assert [drawn.count(value) for value in ("a", None, 2)] == [100, 100, 100]
    assert drawn[0] == "a" and drawn[-1] == 2
    assert choice([1, 2]).from_unit([1.0]) == [2]
    assert choice(np.array([0.5, 0.25])).grid() == [0.5, 0.25]


def test_what_a_lane_can_carry():
    dynamic = [linear(0, 1), log(1, 2), integer(1, 2), choice([1, 2.5]), fixed(0.1), one_minus(log(0.1, 0.2))]
    structure = [integer(1, 2, structural=True), choice([1, True]), choice(["a"]), choice([None, 0.1]), fixed(False)]
    assert all(dimension.dynamic for dimension in dynamic)
    assert not any(dimension.dynamic for dimension in structure)


def test_log_values_do_not_depend_on_the_last_bit_of_exp():
    for value in log(1e-5, 3.0).from_unit(np.linspace(0.01, 0.99, 50)):
        assert value == float(f"{value:.12g}")


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: log(0, 1), ValueError, "must be positive, got 0"),
        (lambda: log(-1, 1), ValueError, "must be positive, got -1"),
        (lambda: linear(2, 1), ValueError, "high is less than low"),
        (lambda: linear(0, math.inf), ValueError, "must be finite"),
        (lambda: linear(math.nan, 1), ValueError, "must be finite"),
        (lambda: linear(-1e308, 1e308), ValueError, "overflows"),
        (lambda: linear("0", 1), TypeError, "must be a number, got str"),
        (lambda: linear(False, 1), TypeError, "must be a number, got bool"),
        (lambda: integer(1.5, 3), TypeError, "must be a whole number"),
        (lambda: integer(0, 8, log=True), ValueError, "must be positive"),
        (lambda: integer(0, 2**60), ValueError, "2\\^53"),
        (lambda: choice([]), ValueError, "nothing to choose from"),
        (lambda: choice("abc"), TypeError, "takes a list"),
        (lambda: choice([1, 2, 1.0]), ValueError, "more than once"),
        (lambda: choice([math.inf]), ValueError, "finite"),
        (lambda: choice([[1, 2]]), TypeError, "got list"),
        (lambda: fixed({}), TypeError, "got dict"),
        (lambda: fixed(math.nan), ValueError, "finite"),
        (lambda: one_minus(choice([0.1])), TypeError, "linear or a log"),
        (lambda: linear(0, 1).grid(0), ValueError, "at least 1, got 0"),
        (lambda: linear(0, 1).from_unit([1.5]), ValueError, "1.5"),
    ],
)
def test_impossible_dimensions_say_why(build, error, words):
    with pytest.raises(error, match=words):
        build()
