"""From updates to parameters, and the weights to evaluate at."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.core.update import apply_updates, eval_params, register_readout


def test_updates_are_added_in_the_dtype_of_the_parameters():
    params = {"a": jnp.array([1.0, 2.0], "bfloat16"), "b": [jnp.array(3.0)], "z": jnp.array([1j])}
    updates = {"a": jnp.array([0.5, 2**-9], "float32"), "b": [jnp.float32(-1.0)], "z": jnp.array([1.0 + 0j])}
    moved = apply_updates(params, updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, params)
    assert moved["a"].tolist() == [1.5, 2.0] and float(moved["b"][0]) == 2.0 and moved["z"].tolist() == [1 + 1j]
    chex.assert_trees_all_equal(moved, optax.apply_updates(params, updates))


def test_wide_updates_are_rounded_after_the_sum():
    p, u = jnp.array([1.0], "bfloat16"), jnp.array([2**-8 + 2**-12], "float32")
    assert float(apply_updates(p, u)[0]) == 1.0 + 2**-7  # rounded first, the update would be a tie and go to 1


def test_a_missing_update_leaves_its_parameter_alone():
    moved = apply_updates({"a": jnp.ones(2), "b": None}, {"a": None, "b": None})
    assert moved["a"].tolist() == [1.0, 1.0] and moved["b"] is None


def test_plain_numbers_and_masked_nodes_are_taken():
    assert float(apply_updates(1.0, 0.5)) == 1.5
    assert apply_updates({"a": optax.MaskedNode()}, {"a": optax.MaskedNode()}) == {"a": optax.MaskedNode()}


def test_trees_and_shapes_that_differ_are_named_by_path():
    with pytest.raises(ValueError, match=r"only updates have \['a/x'\], only parameters have \['a/y'\]"):
        apply_updates({"a": {"y": jnp.ones(1)}}, {"a": {"x": jnp.ones(1)}})
    with pytest.raises(ValueError, match=r"update at 'a/y' has shape \(3,\), but the parameter has \(2,\) there"):
        apply_updates({"a": {"y": jnp.ones(2)}}, {"a": {"y": jnp.ones(3)}})
    with pytest.raises(ValueError, match=r"update at '\(root\)' has shape \(2,\), but the parameter has \(\) there"):
        apply_updates(jnp.ones(()), jnp.ones(2))


def test_descending_a_parabola_ends_at_its_minimum():
    tx = gradlab.sgd(0.25)
    params = jnp.array([3.0, -2.0])
    state = tx.init(params)
    for _ in range(60):
        updates, state = tx.update(jax.grad(lambda p: jnp.sum((p - 1) ** 2))(params), state, params)
        params = apply_updates(params, updates)
    np.testing.assert_allclose(params, 1.0, atol=1e-12)


class _AverageState(NamedTuple):
    average: jax.Array


def _average_init(params):
    return _AverageState(params)


def _average_update(grads, state, params=None, **extra):
    return grads, _AverageState(0.5 * state.average + 0.5 * params)


register_readout(_AverageState, lambda state, params: state.average)


def test_the_weights_to_evaluate_at_are_found_however_deep_the_state_lies():
    average = gradlab.transform(_average_init, _average_update)
    params = {"w": jnp.array(2.0), "b": jnp.array(4.0)}
    tx = gradlab.chain(gradlab.identity(), gradlab.named_chain(("inner", gradlab.apply_if_finite(average, 3))))
    state = tx.init(params)
    chex.assert_trees_all_equal(eval_params(tx, state, jax.tree.map(jnp.zeros_like, params)), params)
    plain = gradlab.adam(0.1)
    assert eval_params(plain, plain.init(params), params) is params


def test_two_averages_are_ambiguous():
    average = gradlab.transform(_average_init, _average_update)
    tx = gradlab.chain(average, average)
    with pytest.raises(ValueError, match="several stages define evaluation weights"):
        eval_params(tx, tx.init(jnp.ones(1)), jnp.ones(1))


def test_the_groups_of_a_partition_each_have_their_average():
    groups = {"mean": gradlab.transform(_average_init, _masked_average_update), "ahead": gradlab.nesterov_sgd(0.5, 0.9)}
    params = {"w": jnp.array(2.0), "b": jnp.array(4.0), "c": jnp.array(1.0)}
    labels = gradlab.by_path(("w", "mean"), ("b", "ahead"), (".", "plain"))
    tx = gradlab.partition({**groups, "plain": gradlab.sgd(0.1)}, labels)
    state = tx.init(params)
    updates, state = tx.update(params, state, params)
    weights = eval_params(tx, state, jax.tree.map(jnp.zeros_like, params))
    # the mean of 2 and 2; the shift that one step of -0.5 * 4 leaves, 0.9 * -2, taken away; and nothing
    chex.assert_trees_all_close(weights, {"w": 2.0, "b": 1.8, "c": 0.0})


def _masked_average_update(grads, state, params=None, **extra):
    return grads, _AverageState(jax.tree.map(lambda a, p: 0.5 * a + 0.5 * p, state.average, params))


def test_two_averages_of_one_parameter_are_named():
    average = gradlab.transform(_average_init, _average_update)
    tx = gradlab.chain(average, gradlab.masked(gradlab.nesterov_sgd(0.5, 0.9), "w"))
    params = {"w": jnp.ones(1), "b": jnp.ones(1)}
    with pytest.raises(ValueError, match="'w' \\(_AverageState, NesterovTraceState\\)"):
        eval_params(tx, tx.init(params), params)
