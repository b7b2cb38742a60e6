"""What every schedule promises, whatever its form: a value whose numbers are leaves, usable wherever a function is."""

import pickle

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab import schedules
from gradlab.schedules import SCHEDULES
from tests.schedules.cases import CASES

over_cases = pytest.mark.parametrize("case", CASES, ids=repr)


def test_registry_maps_names_to_factories():
    assert len(SCHEDULES) == 33
    assert all(getattr(schedules, name) is factory for name, factory in SCHEDULES.items())
    others = {"SCHEDULES", "RobbinsMonro", "Seesaw", "robbins_monro", "seesaw_schedules"}
    assert set(schedules.__all__) == others | set(SCHEDULES)


def with_leaf(schedule, index, leaf):
    leaves, treedef = jax.tree.flatten(schedule)
    return jax.tree.unflatten(treedef, [*leaves[:index], leaf, *leaves[index + 1 :]])


def leaf_count(schedule):
    return len(jax.tree.leaves(schedule))


def expected_leaf_count(values):
    numbers = [value for name, value in values.items() if name not in ("schedules", "boundaries_and_scales", "period")]
    pairs = values.get("boundaries_and_scales", {})
    inner = sum(expected_leaf_count(piece.values) for piece in values.get("schedules", ()))
    return sum(isinstance(leaf, int | float) and not isinstance(leaf, bool) for leaf in jax.tree.leaves(numbers)) + (
        2 * len(pairs) + inner
    )


@over_cases
def test_every_number_is_a_float_leaf(case):
    schedule = case.make(schedules)
    assert all(type(leaf) is float for leaf in jax.tree.leaves(schedule))
    assert leaf_count(schedule) >= expected_leaf_count(case.values)


@over_cases
def test_lanes_over_each_leaf_equal_a_loop(case):
    schedule, steps = case.make(schedules), jnp.asarray(case.steps)
    curve_of = lambda schedule: jax.vmap(schedule)(steps)
    changed = [
        with_leaf(schedule, index, value)
        for index, leaf in enumerate(jax.tree.leaves(schedule))
        for value in (1.3 * leaf + 0.01, 0.6 * leaf + 0.02)
    ]
    lanes = jax.jit(jax.vmap(curve_of))(jax.tree.map(lambda *leaves: jnp.array(leaves), *changed))
    one_by_one = jax.jit(curve_of)
    chex.assert_trees_all_close(lanes, jnp.stack([one_by_one(lane) for lane in changed]), rtol=1e-12, atol=1e-15)
    assert np.isfinite(lanes).all()


@over_cases
def test_new_values_do_not_retrace(case):
    chex.clear_trace_counter()
    evaluate = jax.jit(chex.assert_max_traces(lambda schedule, step: schedule(step), n=1))
    schedule = case.make(schedules)
    leaves, treedef = jax.tree.flatten(schedule)
    for factor in (1.0, 1.5, 3.0):
        scaled = jax.tree.unflatten(treedef, [factor * leaf for leaf in leaves])
        for step in (0, 7):
            evaluate(scaled, step)


def test_horizon_does_not_retrace_a_scan():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def total(schedule):
        return jax.lax.scan(lambda total, step: (total + schedule(step), None), 0.0, jnp.arange(1000))[0]

    totals = [float(total(schedules.linear_schedule(1.0, 0.0, horizon))) for horizon in (10, 100, 1000)]
    chex.assert_trees_all_close(totals, [5.5, 50.5, 500.5], rtol=1e-12)


@over_cases
def test_jit_equals_eager_and_takes_any_count(case):
    schedule = case.make(schedules)
    compiled = jax.jit(lambda schedule, step: schedule(step))
    for step in (0, 1, 5, case.horizon, 10 * case.horizon):
        eager = float(schedule(step))
        for count in (np.int32(step), jnp.asarray(step, jnp.int32), jnp.asarray(step, float)):
            chex.assert_trees_all_close(float(compiled(schedule, count)), eager, rtol=1e-13)
            assert float(schedule(count)) == eager
    assert schedule(0).shape == ()


@pytest.mark.parametrize("dtype, horizon", [("float64", 49), ("float32", 41)])
def test_constants_of_a_program_reach_the_end_exactly(dtype, horizon):
    """XLA multiplies by the reciprocal of a constant, and 49 * (1 / 49) is below 1."""
    with jax.enable_x64(dtype == "float64"):
        schedule = schedules.polynomial_schedule(0.5, 0.25, 0.5, horizon)
        assert float(jax.jit(lambda step: schedule(step))(horizon)) == 0.25


@over_cases
def test_defined_at_zero_and_constant_after_the_end(case):
    schedule = case.make(schedules)
    assert np.isfinite(schedule(0))
    end, *later = (float(schedule(step)) for step in (case.horizon, case.horizon + 1, 10 * case.horizon, 10**7))
    assert np.isfinite([end, *later]).all()
    if case.endless:
        assert later[1] != end
    else:
        assert later == [end] * 3


@over_cases
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_finite(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        schedule = jax.tree.map(jnp.asarray, case.make(schedules))
        gradients = jax.jit(jax.vmap(jax.grad(lambda schedule, step: schedule(step)), in_axes=(None, 0)))
        steps = jnp.asarray([*case.steps.tolist(), 10**6])
        for gradient in jax.tree.leaves(gradients(schedule, steps)):
            assert gradient.dtype == dtype
            assert np.isfinite(gradient).all()


@over_cases
def test_gradients_equal_finite_differences(case):
    schedule = case.make(schedules)
    evaluate = jax.jit(lambda schedule, step: schedule(step))
    gradient_at = jax.jit(jax.grad(lambda schedule, step: schedule(step)))
    for step in (0.31 * case.horizon, 0.77 * case.horizon):  # between steps, where no schedule has a kink
        gradient = jax.tree.leaves(gradient_at(schedule, step))
        for index, leaf in enumerate(jax.tree.leaves(schedule)):
            width = 1e-6 * max(1.0, abs(leaf))
            above, below = (float(evaluate(with_leaf(schedule, index, leaf + side * width), step)) for side in (1, -1))
            chex.assert_trees_all_close(float(gradient[index]), (above - below) / (2 * width), rtol=1e-5, atol=1e-8)


@over_cases
def test_round_trips(case):
    schedule = case.make(schedules)
    pickled = pickle.loads(pickle.dumps(schedule))
    blank = jax.tree.map(lambda leaf: 0.0 * leaf, schedule)
    restored = flax.serialization.from_bytes(blank, flax.serialization.to_bytes(schedule))
    for copy in (pickled, restored):
        assert jax.tree.structure(copy) == jax.tree.structure(schedule)
        assert jax.tree.leaves(copy) == jax.tree.leaves(schedule)
        assert float(copy(5)) == float(schedule(5))


@over_cases
def test_drives_optax_and_gradlab_optimizers(case):
    schedule, grads = case.make(schedules), {"w": jnp.array([0.5, -2.0])}
    by_hand = optax.scale_by_adam()
    for make in (optax.adam, gradlab.adam):
        tx, params = make(schedule), {"w": jnp.array([1.0, 2.0])}
        state, reference = tx.init(params), by_hand.init(params)
        for step in range(4):
            updates, state = tx.update(grads, state, params)
            direction, reference = by_hand.update(grads, reference)
            expected = jax.tree.map(lambda d, step=step: -case.oracle(step) * d, direction)
            chex.assert_trees_all_close(updates, expected, rtol=1e-9, atol=1e-15)
    scaled, _ = optax.scale_by_learning_rate(schedule).update(
        grads, optax.ScaleByScheduleState(jnp.array(3, jnp.int32))
    )
    chex.assert_trees_all_close(scaled, {"w": -case.oracle(3) * grads["w"]}, rtol=1e-9)


def test_values_of_a_schedule_are_named_and_replaced():
    tx = gradlab.scale_by_learning_rate(schedules.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100))
    names = ["decay_steps", "end_value", "exponent", "init_value", "peak_value", "warmup_steps"]
    assert sorted(gradlab.hyperparams(tx)) == [f"learning_rate.{name}" for name in names]
    longer = gradlab.replace(tx, **{"learning_rate.decay_steps": 200})
    assert jax.tree.structure(longer) == jax.tree.structure(tx)
    assert gradlab.hyperparams(longer)["learning_rate.decay_steps"] == 200.0


def test_lanes_of_horizons_in_one_optimizer():
    horizons = jnp.array([4.0, 8.0, 16.0])
    lanes = jax.vmap(lambda horizon: schedules.cosine_decay_schedule(1.0, horizon))(horizons)
    values = jax.vmap(lambda schedule: schedule(4))(lanes)
    chex.assert_trees_all_close(values, 0.5 * (1 + jnp.cos(jnp.pi * 4 / horizons)), rtol=1e-12)
