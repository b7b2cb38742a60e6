"""Branches that stay branches under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core.branch import any_lane, update_if
from tests.jaxprs import primitives


def test_any_lane_is_the_predicate_alone_and_any_of_nested_lanes():
    assert not bool(any_lane(jnp.array(False))) and bool(any_lane(jnp.array(True)))
    grid = jnp.array([[False, False], [False, True]])
    assert jax.vmap(any_lane)(grid[0]).tolist() == [False, False]
    assert jax.vmap(jax.vmap(any_lane))(grid).tolist() == [[True, True], [True, True]]


def _sine_if(x, predicate):
    return update_if(predicate, lambda: (jnp.sin(x), x + 1), x, otherwise=-x)


def test_each_lane_keeps_its_own_result():
    x, predicate = jnp.arange(3.0), jnp.array([True, False, True])
    updates, state = jax.vmap(_sine_if)(x, predicate)
    np.testing.assert_allclose(updates, [np.sin(0.0), -1.0, np.sin(2.0)], rtol=1e-6)
    np.testing.assert_allclose(state, [1.0, 1.0, 3.0])
    found = primitives(jax.vmap(_sine_if), x, predicate)
    assert "sin" in found["branch"] and "sin" not in found["always"]


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd])
def test_derivatives_pass_through_a_branch_in_lanes_and_alone(transform):
    total = lambda x, predicate: _sine_if(x, predicate)[0]
    x = jnp.arange(1.0, 4.0)
    np.testing.assert_allclose(transform(total)(x[0], True), np.cos(1.0), rtol=1e-6)
    np.testing.assert_allclose(transform(total)(x[0], False), -1.0)
    lanes = jax.vmap(transform(total))(x, jnp.array([True, False, True]))
    np.testing.assert_allclose(lanes, [np.cos(1.0), -1.0, np.cos(3.0)], rtol=1e-6)


def test_a_branch_changes_no_dtype():
    state = jnp.ones(2, jnp.bfloat16)
    update = lambda: (jnp.ones(2, jnp.float32), jnp.ones(2, jnp.float32))
    for predicate in (True, False):
        updates, new = update_if(predicate, update, state, otherwise=jnp.zeros(2, jnp.bfloat16))
        assert updates.dtype == jnp.float32 and new.dtype == jnp.bfloat16
