"""Schedule-Free+ beside its stored sequences, where its step vanishes, and what it asks for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gradlab
from gradlab.optimizers.schedule_free_plus import schedule_free_plus
from gradlab.tasks import quadratic, surface_task
from tests.oracles import averaging as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree

VALUES = np.random.default_rng(3).uniform(0.0, 3.0, STEPS)
ALL = {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 5.0, "anneal_steps": 20.0, "averaging_warmup": 7.0}
ALL |= {"norm_decay": 0.9, "weight_power": 2.0, "weight_lr_power": 1.0}


@jax.jit
def run_with_values(tx, params, grads, values):
    def step(carry, row):
        params, state = carry
        g, value = row
        updates, state = tx.update(g, state, params, value=value)
        params = gradlab.apply_updates(params, updates)
        return (params, state), (ravel_pytree(params)[0], ravel_pytree(gradlab.eval_params(tx, state, params))[0])

    (_, state), rows = jax.lax.scan(step, (params, tx.init(params)), (grads, values))
    return *rows, state


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ({}, {}),
        ({"learning_rate": 0.3, "interpolation": 0.5}, {"lr": 0.3, "start": 0.5}),
        (ALL | {"interpolation": 0.6, "interpolation_end": 0.9}, ALL | {"start": 0.6, "end": 0.9}),
    ],
    ids=["default", "step", "all"],
)
def test_parameters_and_readout_are_those_of_three_stored_sequences(mode, options):
    params, grads = mixed_tree(), mixed_grads()
    rows, means, _ = run_with_values(schedule_free_plus(**mode), params, grads, jnp.asarray(VALUES))
    expected = oracle.schedule_free_plus(flat(params), flat(grads, rows=STEPS), VALUES, **options)
    np.testing.assert_allclose(rows, expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(means, expected[1], rtol=1e-9, atol=1e-12)


def test_in_one_dimension_its_first_step_is_polyaks_up_to_the_norms_factor():
    value, g = 3.0, -2.0
    tx = schedule_free_plus(eps=0.0)
    updates, _ = tx.update(jnp.array([g]), tx.init(jnp.zeros(1)), jnp.zeros(1), value=value)
    np.testing.assert_allclose(updates, value / abs(g) / np.sqrt(np.pi / 2), rtol=1e-12)


def test_it_rests_where_the_gradient_or_the_loss_is_zero():
    tx, params = schedule_free_plus(), mixed_tree()
    state = tx.init(params)
    for grads, value in ((jax.tree.map(jnp.zeros_like, params), 1.0), (params, 0.0), (params, -1.0)):
        updates, new = tx.update(grads, state, params, value=value)
        chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
        chex.assert_tree_all_finite(new)


def test_the_step_size_belongs_to_all_parameters_together():
    params, grads = mixed_tree(), mixed_tree(seed=1)
    tx = schedule_free_plus()
    together, _ = tx.update(grads, tx.init(params), params, value=2.0)
    vector, _ = tx.update(flat(grads), tx.init(jnp.asarray(flat(params))), jnp.asarray(flat(params)), value=2.0)
    np.testing.assert_allclose(flat(together), vector, rtol=1e-12)


def test_fit_hands_it_the_loss_and_reports_at_the_average():
    task = surface_task(quadratic(condition=10.0))
    history = gradlab.fit(task, schedule_free_plus(), steps=300)
    assert history.final["loss"] < 1e-2 * history.loss[0]
    chex.assert_trees_all_close(history.params, gradlab.eval_params(None, history.run.opt_state, history.run.params))


def test_a_missing_loss_is_asked_for():
    tx = schedule_free_plus()
    with pytest.raises(ValueError, match=r"schedule_free_plus needs the loss: call .* value=loss"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1))
