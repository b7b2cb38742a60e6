"""Stages that multiply: signs, schedules from count zero, trees of learning rates, dtypes, Optax's states."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.transforms.scaling import scale, scale_by_learning_rate, scale_by_schedule

GRADS = {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array(4.0)}}


def _steps(tx, count=4):
    state, seen = tx.init(GRADS), []
    for _ in range(count):
        updates, state = tx.update(GRADS, state)
        seen.append(updates)
    return seen, state


def _halve(count):
    return 0.5**count


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (scale(-0.3), optax.scale(-0.3)),
        (scale_by_schedule(_halve), optax.scale_by_schedule(_halve)),
        (scale_by_learning_rate(0.3), optax.scale_by_learning_rate(0.3)),
        (scale_by_learning_rate(0.3, flip_sign=False), optax.scale_by_learning_rate(0.3, flip_sign=False)),
        (scale_by_learning_rate(_halve), optax.scale_by_learning_rate(_halve)),
        (scale_by_learning_rate(_halve, flip_sign=False), optax.scale_by_learning_rate(_halve, flip_sign=False)),
    ],
)
def test_equals_optax_in_updates_and_state(ours, theirs):
    (our_seen, our_state), (their_seen, their_state) = _steps(ours), _steps(theirs)
    chex.assert_trees_all_close(our_seen, their_seen, rtol=1e-6)
    chex.assert_trees_all_equal(our_state, their_state)
    assert type(our_state) is type(their_state)


def test_the_first_step_of_a_schedule_is_at_count_zero():
    seen, state = _steps(scale_by_learning_rate(_halve), 3)
    assert [float(updates["b"]["c"]) for updates in seen] == [-4.0, -2.0, -1.0]
    assert int(state.count) == 3


def test_learning_rates_may_be_a_prefix_tree_with_schedules_in_it():
    seen, state = _steps(scale_by_learning_rate({"a": 0.5, "b": _halve}), 2)
    chex.assert_trees_all_close(seen[1], {"a": jnp.array([-0.5, 1.0]), "b": {"c": jnp.array(-2.0)}})
    assert isinstance(state, gradlab.ScheduledState) and int(state.count) == 2


def test_a_learning_rate_tree_that_does_not_fit_names_its_paths():
    tx = scale_by_learning_rate({"a": 0.5, "head": 0.1})
    with pytest.raises(ValueError, match=r"`learning_rate` has values for \['a', 'head'\].*'a', 'b/c'"):
        tx.update(GRADS, tx.init(GRADS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_a_strong_float32_factor_does_not_promote(dtype):
    g = jnp.full(2, 3, dtype)
    for tx in (scale(jnp.float32(0.1)), scale_by_learning_rate(jnp.float32(0.1)), scale_by_schedule(_halve)):
        assert tx.update(g, tx.init(g))[0].dtype == dtype


def test_the_product_is_rounded_once():
    g, factor = jnp.array([1.0 + 2**-7], "bfloat16"), 1.0 + 2**-10
    expected = (np.asarray(g, np.float64) * factor).astype(jnp.bfloat16)
    assert scale(factor).update(g, optax.EmptyState())[0].tolist() == expected.tolist()
    g = jnp.array([2.0**-20], "float16")
    assert scale(1e-7 * 2**20).update(g, optax.EmptyState())[0].tolist() == [np.float16(1e-7)]


def test_derivatives_with_respect_to_the_learning_rate():
    def total(learning_rate):
        tx = scale_by_learning_rate(learning_rate)
        return sum(jnp.sum(u) for u in jax.tree.leaves(tx.update(GRADS, tx.init(GRADS))[0]))

    assert float(jax.grad(total)(0.1)) == -3.0
    assert jax.tree.leaves(jax.grad(total)({"a": 0.1, "b": 0.1})) == [1.0, -4.0]


def test_none_leaves_pass():
    assert scale(2.0).update({"a": None}, None)[0] == {"a": None}
