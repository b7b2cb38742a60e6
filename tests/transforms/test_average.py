"""Averages of the weights equal their closed forms, pass the updates through, and are what fit reports."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gradlab
from gradlab.tasks import quadratic, surface_task
from gradlab.transforms.average import ema_params, incremental_update, lawa, periodic_update, swa, tail_average
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree


@jax.jit
def _readouts(tx, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gradlab.apply_updates(params, updates)
        return (params, state), (ravel_pytree(params)[0], ravel_pytree(gradlab.eval_params(tx, state, params))[0])

    return jax.lax.scan(step, (params, tx.init(params)), grads)[1]


def readouts(average, params=None, grads=None):
    """The weights after each step of SGD, and those that the average reports."""
    params, grads = params or mixed_tree(), grads or mixed_grads()
    weights, reported = _readouts(gradlab.chain(gradlab.sgd(0.1), average), params, grads)
    return np.asarray(weights), np.asarray(reported)


def weighted(rows, weights):
    return np.tensordot(weights / np.sum(weights), rows, 1)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_the_exponential_average_is_its_weighted_sum(decay):
    rows, reported = readouts(ema_params(decay))
    for t in (1, 2, 30, STEPS):
        expected = weighted(rows[:t], decay ** np.arange(t - 1, -1, -1.0))
        np.testing.assert_allclose(reported[t - 1], expected, rtol=1e-10, atol=1e-12)


def test_without_debias_it_starts_at_the_initial_weights():
    rows, reported = readouts(ema_params(0.9, debias=False))
    mean = flat(mixed_tree())
    for row, got in zip(rows, reported, strict=True):
        mean = 0.9 * mean + 0.1 * row
        np.testing.assert_allclose(got, mean, rtol=1e-10, atol=1e-12)


def test_debiasing_a_scheduled_decay_gives_the_weights_of_the_schedule():
    rows, reported = readouts(ema_params(lambda count: 0.9 - 0.01 * count))
    decays = 0.9 - 0.01 * np.arange(STEPS)
    weights = np.array([(1 - decays[i]) * np.prod(decays[i + 1 :]) for i in range(STEPS)])
    np.testing.assert_allclose(reported[-1], weighted(rows, weights), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("start", "every"), [(0, 1), (0, 7), (20, 3), (7, 10), (60, 1)])
def test_swa_is_the_mean_of_its_members(start, every):
    rows, reported = readouts(swa(start, every))
    for t in (1, 8, 23, STEPS):
        members = [i for i in range(1, t + 1) if i > start and (i - start) % every == 0]
        expected = rows[np.array(members) - 1].mean(0) if members else rows[t - 1]  # the newest weights
        np.testing.assert_allclose(reported[t - 1], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay", [None, 0.8])
def test_the_tail_average_follows_the_weights_and_then_averages(decay):
    start = 20
    rows, reported = readouts(tail_average(start, decay))
    np.testing.assert_allclose(reported[: start + 1], rows[: start + 1], rtol=1e-12)
    for t in (start + 2, STEPS):
        ages = np.arange(t - start - 1, -1, -1.0)
        expected = weighted(rows[start:t], np.ones(t - start) if decay is None else decay**ages)
        np.testing.assert_allclose(reported[t - 1], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("size", "every"), [(1, 1), (4, 1), (3, 5), (100, 7)])
def test_lawa_is_the_mean_of_the_latest_snapshots(size, every):
    rows, reported = readouts(lawa(size, every))
    for t in (1, 7, 23, STEPS):
        members = [i for i in range(1, t + 1) if i % every == 0][-size:]
        expected = np.mean(rows[np.array(members) - 1], axis=0) if members else rows[t - 1]
        np.testing.assert_allclose(reported[t - 1], expected, rtol=1e-10, atol=1e-12)


AVERAGES = [ema_params(0.9), swa(3, 2), tail_average(2, 0.5), lawa(3, 2)]
each_average = pytest.mark.parametrize("average", AVERAGES, ids=["ema_params", "swa", "tail_average", "lawa"])


@each_average
def test_updates_pass_through_and_initial_weights_are_reported_before_the_first_step(average):
    params = mixed_tree()
    state = average.init(params)
    chex.assert_trees_all_equal(gradlab.eval_params(average, state, params), params)
    updates, _ = average.update(params, state, params)
    chex.assert_trees_all_equal(updates, params)


@each_average
def test_masks_empty_trees_none_gradients_and_shapes_alone_are_taken(average):
    params = {"w": jnp.ones(2), "b": jnp.zeros(())}
    tx = gradlab.masked(average, "w")
    state = tx.init(params)
    for _ in range(6):
        _, state = tx.update(params, state, params)
    weights = gradlab.eval_params(tx, state, jax.tree.map(lambda p: p + 5, params))
    chex.assert_trees_all_close(weights, {"w": jnp.full(2, 2.0), "b": jnp.array(5.0)})
    assert average.update({}, average.init({}), {})[0] == {}
    _, state = average.update({"w": jnp.ones(2), "b": None}, average.init(params), params)
    chex.assert_trees_all_equal_shapes(state, average.init(params))
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(average.init(structs), average.init(params))
    with pytest.raises(ValueError, match="needs the parameters"):
        average.update(params, average.init(params))


@each_average
def test_low_precision_weights_are_averaged_in_float32(average):
    params, grads = {"w": jnp.ones(2, jnp.bfloat16)}, {"w": jnp.full((40, 2), -(2.0**-6), jnp.bfloat16)}
    tx = gradlab.chain(gradlab.sgd(0.5), average)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, grads))
    narrow, expected = (np.asarray(_readouts(tx, *start)[1], np.float32) for start in ((params, grads), wide))
    np.testing.assert_allclose(narrow, expected, rtol=2**-8)


def test_lanes_may_vary_where_an_average_starts():
    lanes = jax.vmap(lambda start: gradlab.chain(gradlab.sgd(0.1), tail_average(start)))(jnp.array([0.0, 30.0]))
    params, grads = mixed_tree(), mixed_grads()
    together = jax.vmap(lambda tx: _readouts(tx, params, grads)[1])(lanes)
    for index, start in enumerate((0, 30)):
        np.testing.assert_allclose(together[index], readouts(tail_average(start))[1], rtol=1e-10)


def test_fit_reports_at_the_average():
    task = surface_task(quadratic(condition=10.0))
    tx = gradlab.chain(gradlab.sgd(0.05), ema_params(0.9))
    history = gradlab.fit(task, tx, steps=20, trajectory=True)
    (end,) = jax.tree.leaves(history.run.params)
    rows = np.vstack([history.trajectory[1:], np.ravel(end)])
    expected = weighted(rows, 0.9 ** np.arange(19, -1, -1.0))
    np.testing.assert_allclose(np.ravel(*jax.tree.leaves(history.params)), expected, rtol=1e-5)
    np.testing.assert_allclose(history.final["loss"], task.metrics(history.params, {}, None)["loss"], rtol=1e-6)


def test_incremental_and_periodic_updates_are_those_of_optax():
    new, old = mixed_tree(), mixed_tree(seed=1)
    for step_size in (0.0, 0.3, 1.0):
        expected = optax.incremental_update(new, old, step_size)
        chex.assert_trees_all_close(incremental_update(new, old, step_size), expected, rtol=1e-14)
    assert incremental_update(None, None, 1.0) is None
    assert incremental_update({"a": None}, {"a": None}, 1.0) == optax.incremental_update({"a": None}, {"a": None}, 1.0)
    for steps in range(5):
        chex.assert_trees_all_equal(periodic_update(new, old, steps, 2), optax.periodic_update(new, old, steps, 2))
    half = jnp.ones(2, jnp.bfloat16)
    assert incremental_update(half, half, jnp.float32(0.5)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"only new tensors have \['a'\]"):
        incremental_update({"a": half}, {"b": half}, 0.5)


def test_errors_name_the_number():
    for make, name in ((lambda: ema_params(1.0), "decay"), (lambda: swa(0, 0), "every"), (lambda: lawa(0), "size")):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            make()
