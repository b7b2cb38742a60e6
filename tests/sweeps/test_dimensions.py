import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.sweeps.spaces.dimensions import Choice, Integer, choice, fixed, integer, linear, log, one_minus

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


bounds = st.tuples(positive, positive).map(sorted)
ranges = bounds.flatmap(lambda ends: st.sampled_from([linear(*ends), log(*ends)]))
near_one = st.tuples(st.floats(1e-6, 0.9), st.floats(1e-6, 0.9)).map(sorted).map(lambda ends: one_minus(log(*ends)))
integers = st.tuples(st.integers(1, 10**9), st.integers(1, 10**9), st.booleans()).map(
    lambda drawn: integer(min(drawn[:2]), max(drawn[:2]), log=drawn[2])
)
choices = st.lists(st.sampled_from([None, True, False, "a", "b", 1, 2.5, 64]), min_size=1, unique_by=repr).map(choice)


@given(st.one_of(ranges, near_one, integers, choices), units)
def test_to_unit_goes_back_to_where_the_same_values_come_from(dimension, u):
    values = dimension.from_unit(u)
    back = dimension.to_unit(values)
    assert all(0 <= x <= 1 for x in back)
    again = dimension.from_unit(back)
    assert [type(value) for value in again] == [type(value) for value in values]
    if isinstance(dimension, Choice | Integer):
        assert again == values
    else:
        np.testing.assert_allclose(again, values, rtol=1e-9)


@given(st.sampled_from([linear(-3, 5), log(1e-5, 10), one_minus(log(1e-4, 1e-1)), one_minus(linear(0, 0.5))]), units)
def test_to_unit_undoes_from_unit_where_each_value_has_one_place(dimension, u):
    np.testing.assert_allclose(dimension.to_unit(dimension.from_unit(u)), u, atol=1e-9)


def test_to_unit_takes_bounds_to_the_ends_and_other_values_to_the_middle_of_their_interval():
    for dimension in (linear(-1, 3), log(1e-4, 1e-1)):
        assert dimension.to_unit([dimension.low, dimension.high]) == [0, 1]
    assert one_minus(log(1e-4, 1e-1)).to_unit([1.0 - 1e-4, 1.0 - 1e-1]) == pytest.approx([0, 1], abs=1e-12)
    assert integer(1, 4).to_unit([1, 2, 4.0]) == [0.125, 0.375, 0.875]
    middle = math.log(16 / 15.5) / math.log(256.5 / 15.5)
    assert integer(16, 256, log=True).to_unit([16]) == pytest.approx([middle])
    assert choice(["a", None, True, 1]).to_unit(["a", None, True, 1.0]) == [0.125, 0.375, 0.625, 0.875]
    assert choice([[64], [32, 32]]).to_unit([[32, 32], (64,)]) == [0.75, 0.25]
    assert linear(2, 2).to_unit([2]) == log(2, 2).to_unit([2]) == fixed(None).to_unit([None]) == [0.5]


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
        (lambda: choice([[1, 2], {}]), TypeError, "got dict"),
        (lambda: choice([[1, math.nan]]), ValueError, "finite"),
        (lambda: fixed({}), TypeError, "got dict"),
        (lambda: fixed(math.nan), ValueError, "finite"),
        (lambda: one_minus(choice([0.1])), TypeError, "linear or a log"),
        (lambda: linear(0, 1).grid(0), ValueError, "at least 1, got 0"),
        (lambda: linear(0, 1).from_unit([1.5]), ValueError, "1.5"),
        (lambda: linear(0, 1).to_unit([0.5, 1.5]), ValueError, r"1.5 lies outside of Linear\(low=0, high=1\)"),
        (lambda: log(0.1, 1).to_unit([math.nan]), ValueError, "nan lies outside"),
        (lambda: log(0.1, 1).to_unit(["0.5"]), TypeError, "has numbers, got str"),
        (lambda: linear(0, 1).to_unit([True]), TypeError, "has numbers, got bool"),
        (lambda: one_minus(log(0.1, 0.2)).to_unit([0.2]), ValueError, "0.2 lies outside of OneMinus"),
        (lambda: integer(1, 8).to_unit([2.5]), ValueError, "2.5 is no value of Integer"),
        (lambda: integer(1, 8).to_unit([9]), ValueError, "9 lies outside of Integer"),
        (lambda: choice([1, 2]).to_unit([True]), ValueError, r"True is not among the choices \[1, 2\]"),
        (lambda: fixed(0.1).to_unit([0.2]), ValueError, "0.2 is not the fixed value 0.1"),
    ],
)
def test_impossible_dimensions_say_why(build, error, words):
    with pytest.raises(error, match=words):
        build()
