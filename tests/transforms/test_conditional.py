"""Stages that act at some steps only: Optax's updates and states, branches in sweeps, extra arguments, dtypes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.transforms.conditional import conditionally_mask, conditionally_transform
from tests.jaxprs import primitives
from tests.trajectories import mixed_grads, mixed_tree, run

THIRD = lambda step: step % 3 == 1
PAIRS = {
    "mask": (conditionally_mask, optax.conditionally_mask),
    "transform": (conditionally_transform, optax.conditionally_transform),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_optax(name):
    ours, theirs = PAIRS[name]
    positions, state = run(ours(gradlab.adam(0.1), THIRD), mixed_tree(), mixed_grads())
    expected, expected_state = run(theirs(optax.adam(0.1), THIRD), mixed_tree(), mixed_grads())
    np.testing.assert_allclose(positions, expected, rtol=1e-10, atol=1e-12)
    assert type(state) is type(expected_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, expected_state)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_extra_arguments_decide_and_reach_the_inner_transform(name):
    large = lambda step, value: value > step
    calls = [(tx(inner, large, forward_extra_args=True), kwargs) for tx, inner, kwargs in _by_value(name)]
    for value, decided in ((0.5, True), (-0.5, False)):
        seen = [tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=value, **kwargs)[0] for tx, kwargs in calls]
        np.testing.assert_allclose(seen[0], seen[1])
        np.testing.assert_allclose(seen[0], value * np.ones(2) if decided else 0 if name == "mask" else 1)


def _by_value(name):
    inner = gradlab.transform(lambda params: optax.EmptyState(), _times_value_update)
    ours, theirs = PAIRS[name]
    yield ours, inner, {"grad": jnp.ones(2), "step": jnp.array(9), "batch": None}  # what a chain and a loop add
    yield theirs, inner, {}


def _times_value_update(grads, state, params=None, *, value, **extra):
    assert "step" not in extra
    return jax.tree.map(lambda g: value * g, grads), state


def test_a_condition_that_takes_everything_gets_everything():
    seen = {}
    everything = lambda step, **extra: seen.update(extra) or True
    tx = conditionally_mask(gradlab.identity(), everything, forward_extra_args=True)
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=1.0, other=jnp.ones(3))
    assert set(seen) == {"value", "other"}


@pytest.mark.parametrize("name", PAIRS)
def test_lanes_that_stand_at_different_steps_equal_runs_alone_and_share_a_branch(name):
    inner = gradlab.chain(gradlab.stateless(lambda g, params: jnp.sin(g)), gradlab.trace(0.9))
    tx, g = PAIRS[name][0](inner, THIRD), jnp.array([1.0, 2.0])
    states = [tx.init(g)]
    for _ in range(3):
        states.append(tx.update(g, states[-1])[1])
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    updates, after = jax.vmap(lambda state: tx.update(g, state))(lanes)
    for index, state in enumerate(states):
        alone = tx.update(g, state)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], (updates, after)), alone, rtol=1e-12)
    found = primitives(jax.vmap(lambda state: tx.update(g, state)), lanes)
    assert "sin" in found["branch"] and "sin" not in found["always"]


@pytest.mark.parametrize("name", PAIRS)
def test_updates_have_one_dtype_whether_the_inner_transform_is_called_or_not(name):
    wide = optax.stateless(lambda g, params: jax.tree.map(lambda x: x.astype(jnp.float32), g))
    tx, g = PAIRS[name][0](wide, lambda step: step == 1), jnp.ones(2, jnp.bfloat16)
    state = tx.init(g)
    for expected in (0.0 if name == "mask" else 1.0, 1.0):
        updates, state = tx.update(g, state)
        assert updates.dtype == jnp.float32 and updates.tolist() == [expected, expected]


def test_a_condition_of_many_values_is_refused():
    tx = conditionally_mask(gradlab.identity(), lambda step: jnp.ones(2, bool))
    with pytest.raises(ValueError, match=r"must return one bool, got bool of shape \(2,\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
