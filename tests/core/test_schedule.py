"""A schedule as a value: what it is made of, its arithmetic, and what becomes of functions from elsewhere."""

import pickle

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from gradlab.core.rule import static
from gradlab.core.schedule import Schedule, as_leaf, as_schedule, make_schedule


def _line(step, *, start, slope):
    return start + slope * step


def _choice(step, *, value, double):
    return (2.0 if double else 1.0) * value + 0.0 * step


def line(start=0.5, slope=0.25):
    return make_schedule(_line, start=start, slope=slope)


numbers = st.floats(-10, 10, width=32)
counts = st.integers(0, 10_000)
lines = st.builds(line, numbers, numbers)
laws = hypothesis.settings(deadline=None, max_examples=25)


def close(actual, expected):
    chex.assert_trees_all_close(float(actual), float(expected), rtol=1e-10, atol=1e-9)


@laws
@hypothesis.given(lines, lines, numbers, counts)
def test_arithmetic_is_pointwise(first, second, factor, count):
    a, b = float(first(count)), float(second(count))
    for schedule, expected in [
        (factor * first, factor * a),
        (first * factor, factor * a),
        (first * second, a * b),
        (first + second, a + b),
        (first + factor, a + factor),
        (factor + first, a + factor),
        (first - second, a - b),
        (first - factor, a - factor),
        (factor - first, factor - a),
        (-first, -a),
        (first / 4.0, a / 4.0),
        (first / (second * second + 1.0), a / (b * b + 1.0)),
        (sum([first, second]), a + b),
    ]:
        assert isinstance(schedule, Schedule)
        close(schedule(count), expected)


@laws
@hypothesis.given(lines, st.integers(0, 500), st.integers(0, 500), counts)
def test_shifts_compose(schedule, once, twice, count):
    close(schedule.shift(once)(count), schedule(once + count))
    close(schedule.shift(once).shift(twice)(count), schedule.shift(once + twice)(count))
    assert float(schedule.shift(0)(count)) == float(schedule(count))


@laws
@hypothesis.given(lines, lines, st.integers(1, 5000), counts)
def test_then_switches_at_its_step_and_counts_anew(first, second, at, count):
    joined = first.then(second, at=at)
    close(joined(at - 1), first(at - 1))
    close(joined(at), second(0))
    close(joined(count), first(count) if count < at else second(count - at))


@laws
@hypothesis.given(lines, lines, lines, st.integers(1, 500), st.integers(1, 500), counts)
def test_then_is_associative(first, second, third, at, later, count):
    left = first.then(second, at=at).then(third, at=at + later)
    right = first.then(second.then(third, at=later), at=at)
    close(left(count), right(count))


@laws
@hypothesis.given(lines, lines, st.integers(1, 500), counts)
def test_a_resumed_run_sees_what_the_whole_run_saw(first, second, at, count):
    whole = 0.1 * first.then(second, at=at)
    close(whole.shift(37)(count), whole(37 + count))


@pytest.mark.parametrize("factor", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2.0), jnp.array(2.0)])
def test_every_kind_of_number_multiplies_from_either_side(factor):
    for schedule in (factor * line(), line() * factor):
        assert isinstance(schedule, Schedule)
        assert float(schedule(6)) == 4.0


def test_numbers_are_leaves_and_flags_are_structure():
    schedule = make_schedule(_choice, value=3, double=static(True))
    assert jax.tree.leaves(schedule) == [3.0]
    assert type(jax.tree.leaves(schedule)[0]) is float
    assert float(schedule(0)) == 6.0
    single = make_schedule(_choice, value=3, double=static(False))
    assert jax.tree.structure(single) != jax.tree.structure(schedule)
    assert float(single(0)) == 3.0


def test_arithmetic_keeps_every_number_a_leaf():
    schedule = (0.1 * line(1.0, 2.0)).then(line(3.0, 4.0), at=5).shift(6)
    assert sorted(jax.tree.leaves(schedule)) == [0.1, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_new_numbers_do_not_retrace():
    chex.clear_trace_counter()
    evaluate = jax.jit(chex.assert_max_traces(lambda schedule, step: schedule(step), n=1))
    values = [float(evaluate((a * line(b)).then(1.0, at=100 * b), 2)) for a, b in [(1.0, 0.5), (2.0, 1.0), (3.0, 0.0)]]
    assert values == [1.0, 3.0, 1.0]


def test_lanes_and_gradients_reach_the_joint():
    joints = jnp.array([2.0, 4.0, 8.0])
    lanes = jax.vmap(lambda at: line().then(line(9.0), at=at))(joints)
    chex.assert_trees_all_close(jax.vmap(lambda schedule: schedule(4))(lanes), jnp.array([9.5, 9.0, 1.5]))
    gradient = jax.grad(lambda schedule: schedule(4))(line(slope=3.0).then(line(9.0, 0.5), at=3.0))
    assert sorted(jax.tree.leaves(gradient)) == [-0.5, 0.0, 0.0, 1.0, 1.0]


def test_the_count_is_a_float_of_the_default_precision():
    for enabled, dtype in ((True, np.float64), (False, np.float32)):
        with jax.enable_x64(enabled):
            assert line()(3).dtype == dtype
            assert line()(jnp.int32(3)).dtype == dtype


def test_pickle_keeps_function_structure_and_numbers():
    schedule = (0.1 * make_schedule(_choice, value=3, double=static(True))).then(line(), at=4)
    copy = pickle.loads(pickle.dumps(schedule))
    assert jax.tree.structure(copy) == jax.tree.structure(schedule)
    assert [float(copy(step)) for step in range(8)] == [float(schedule(step)) for step in range(8)]


def test_as_schedule_takes_numbers_functions_and_schedules():
    schedule = line()
    assert as_schedule(schedule) is schedule
    assert as_schedule(schedule.value_at) == schedule
    assert float(as_schedule(3)(7)) == 3.0
    foreign = as_schedule(optax.linear_schedule(1.0, 0.0, 4))
    assert jax.tree.leaves(foreign) == []
    assert float(foreign(1)) == 0.75
    assert float((foreign + 1.0).shift(2)(0)) == 1.5
    assert float(foreign.then(optax.linear_schedule(1.0, 0.0, 2), at=3)(4)) == 0.5


def test_leaves_of_trees_are_read_one_by_one():
    leaf = as_leaf("x", {"a": 1, "b": [np.float32(0.5), line()], "c": None})
    assert leaf["a"] == 1.0 and type(leaf["a"]) is float
    assert leaf["b"][0] == 0.5 and type(leaf["b"][0]) is float
    assert isinstance(leaf["b"][1], Schedule)
    assert leaf["c"] is None


@pytest.mark.parametrize("value", [True, np.True_, "0.1"])
def test_what_is_no_number_must_be_static(value):
    with pytest.raises(TypeError, match="`start` is .*; bind what is no number as start=static"):
        line(start=value)


def test_an_object_is_no_hyperparameter():
    with pytest.raises(TypeError, match="`start` must be a number, an array or a schedule, got object"):
        line(start=object())


def test_foreign_functions_receive_an_integer_count():
    table = jnp.array([3.0, 2.0, 1.0])
    assert float(as_schedule(lambda count: table[count])(2)) == 1.0
    compiled = jax.jit(lambda schedule, count: schedule(count))
    assert float(compiled(as_schedule(lambda count: table[count]), 1)) == 2.0
    assert float(as_schedule(jax.tree_util.Partial(lambda table, count: table[count], table))(0)) == 3.0


def test_a_negative_shift_holds_the_first_value():
    delayed = line(1.0, 1.0).shift(-3)
    assert [float(delayed(step)) for step in (0, 3, 4)] == [1.0, 1.0, 2.0]


def test_then_does_not_look_beyond_its_step():
    joined = make_schedule(_pole, at=5.0).then(1.0, at=5.0)
    slope = jax.grad(lambda schedule: schedule(7.0))(joined)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slope))


def _pole(step, *, at):
    return 1.0 / jnp.maximum(at + 1.0 - step, 0.0)


def test_schedules_take_arrays_of_counts():
    for schedule in (line(), as_schedule(2.0), as_schedule(lambda count: 0.5 * count)):
        assert schedule(jnp.arange(4)).shape == (4,)


def test_a_number_over_a_schedule():
    close((1.0 / line(1.0, 1.0))(3), 0.25)


def test_integer_arrays_become_floating_leaves():
    assert as_leaf("x", jnp.arange(3)).dtype == jnp.float64
    assert as_leaf("x", np.arange(3)).dtype == np.float64


def test_none_is_no_schedule():
    with pytest.raises(TypeError, match="got None"):
        as_schedule(None)
