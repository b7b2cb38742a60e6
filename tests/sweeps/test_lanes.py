"""Lanes equal single runs, whatever stands beside them; one that diverges disturbs no other."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.sweeps.engine.lanes import Lanes, Plan, _start, run_lanes, run_segment
from gradlab.tasks import TASKS

RATES = np.array([0.003, 0.03, 0.3])


def task():
    return TASKS["digits_linear"](l2=0.0)


def plan(**changes):
    return Plan(**{"steps": 12, "segment": 5, "batch_size": 16, "sampling": "epoch", **changes})


def lanes(rates=RATES, task_values=None):
    tx = gradlab.population(gradlab.adamw, learning_rate=np.asarray(rates))
    return Lanes(tx, {name: jnp.asarray(values) for name, values in (task_values or {}).items()})


def curves(lanes, seeds=(0, 1), plan_=None, task_=None):
    results = list(run_lanes(task_ or task(), lanes, seeds, plan_ or plan()))
    return np.concatenate([result.loss for result in results], axis=-1), results


@pytest.mark.parametrize("sampling", ["epoch", "once", "ordered", "replacement", "full"])
def test_every_lane_is_the_run_that_fit_makes(sampling):
    batch_size = None if sampling == "full" else 16
    losses, results = curves(lanes(), plan_=plan(sampling=sampling, batch_size=batch_size))
    for index, rate in enumerate(RATES):
        for column, seed in enumerate((0, 1)):
            alone = gradlab.fit(
                task(), gradlab.adamw(rate), steps=12, key=seed, batch_size=batch_size, sampling=sampling, eval_every=5
            )
            np.testing.assert_allclose(losses[index, column], alone.loss, rtol=2e-5)
            for step, result in enumerate(results):
                for name, values in alone.metrics.items():
                    np.testing.assert_allclose(result.metrics[name][index, column], values[step], rtol=2e-5)


def test_results_do_not_depend_on_order_or_company():
    losses, _ = curves(lanes())
    backwards, _ = curves(lanes(RATES[::-1]))
    alone, _ = curves(lanes(RATES[1:2]), seeds=(1,))
    np.testing.assert_allclose(backwards[::-1], losses, rtol=2e-5)
    np.testing.assert_allclose(alone[0, 0], losses[1, 1], rtol=2e-5)


def test_a_diverging_lane_is_frozen_and_leaves_the_others_alone():
    calm, _ = curves(lanes([0.01, 0.02, 0.03]))
    wild, results = curves(lanes([0.01, 1e30, 0.03]))
    np.testing.assert_array_equal(wild[[0, 2]], calm[[0, 2]])
    assert results[-1].status.tolist() == [[0, 0], [1, 1], [0, 0]]
    ended = results[-1].ended_at[1]
    assert (ended >= 0).all()
    for column, step in enumerate(ended):
        assert np.isfinite(wild[1, column, :step]).all()
        assert not np.isfinite(wild[1, column, step])


def test_nan_data_end_every_run_without_an_exception():
    broken = task()
    x = np.array(broken.train["x"])
    x[:] = np.nan
    broken = dataclasses.replace(broken, train={**broken.train, "x": x})
    _, results = curves(lanes(), task_=broken)
    assert (results[-1].ended_at == 0).all()


def test_the_tasks_own_numbers_are_lanes_too():
    losses, _ = curves(lanes(task_values={"l2": [0.0, 0.1, 1.0]}))
    for index, (rate, l2) in enumerate(zip(RATES, [0.0, 0.1, 1.0], strict=True)):
        alone = gradlab.fit(task().replace(l2=l2), gradlab.adamw(rate), steps=12, key=0, batch_size=16)
        np.testing.assert_allclose(losses[index, 0], alone.loss, rtol=2e-5)


def test_other_values_compile_nothing():
    first, second = lanes(), lanes(RATES * 0.5)
    shared = task()
    curves(first, task_=shared)
    with jax.no_tracing():
        list(run_lanes(shared, second, (0, 1), plan()))


def test_the_step_is_scanned_once_and_not_once_a_lane():
    """The program's size does not grow with the lanes: equations are counted."""

    def equations(count):
        rates = np.linspace(0.01, 0.1, count)
        keys = jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32))
        many, shared = lanes(rates), task()
        state = jax.eval_shape(_start, shared, many, keys, None)
        closed = run_segment.trace(shared, many, state, keys, jnp.int32(0), 5, plan()).jaxpr
        return sum(1 for _ in _all_equations(closed.jaxpr))

    assert equations(2) == equations(32)


def _all_equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _all_equations(inner)


def test_lane_axes_come_back_as_configurations_by_seeds():
    losses, results = curves(lanes(), seeds=(5, 6, 7, 8))
    chex.assert_shape(losses, (3, 4, 12))
    chex.assert_shape(results[0].metrics["loss"], (3, 4))
    assert [result.steps_done for result in results] == [0, 5, 10, 12]
