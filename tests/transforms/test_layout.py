"""`flatten`: Optax's numbers and state on leaves of one dtype; what Optax's cannot do on all others."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.optimizers.adafactor import adafactor
from gradlab.optimizers.adam import adam, adamw
from gradlab.transforms.accumulate import trace
from gradlab.transforms.clip import clip_by_global_norm
from gradlab.transforms.layout import flatten
from gradlab.transforms.stateless import stateless
from tests.trajectories import mixed_grads, mixed_tree, run

MIXED = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones((2, 2), jnp.bfloat16), "c": jnp.full(3, 2.0, jnp.float32)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adamw(0.01, weight_decay=0.1), optax.adamw(0.01, weight_decay=0.1)),
        (chain(clip_by_global_norm(0.1), trace(0.9)), optax.chain(optax.clip_by_global_norm(0.1), optax.trace(0.9))),
    ],
    ids=["adamw", "clipped"],
)
def test_one_dtype_gives_the_numbers_and_the_state_of_optax(ours, theirs):
    params, grads = mixed_tree(), mixed_grads()
    got, expected = run(flatten(ours), params, grads), run(optax.flatten(theirs), params, grads)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_shapes_and_dtypes(got[1], expected[1])
    chex.assert_trees_all_close(got[0], run(ours, params, grads)[0], rtol=1e-10, atol=1e-13)


def test_each_dtype_has_a_vector_of_its_own():
    tx = flatten(adam(0.1))
    state = tx.init(MIXED)
    assert {name: mu.shape for name, mu in state[0].mu.items()} == {"bfloat16": (4,), "float32": (5,)}
    assert {name: mu.dtype.name for name, mu in state[0].mu.items()} == {"bfloat16": "bfloat16", "float32": "float32"}
    for passed in (MIXED, None):
        updates, new_state = tx.update(MIXED, state, passed)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, MIXED)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    expected, _ = adam(0.1).update(MIXED, adam(0.1).init(MIXED))
    chex.assert_trees_all_close(updates, expected)
    assert optax.flatten(optax.adam(0.1)).init(MIXED)[0].mu.dtype == jnp.float32


def test_gradients_of_another_dtype_lie_where_their_parameters_do():
    grads = jax.tree.map(lambda p: p.astype(jnp.bfloat16), MIXED)
    tx = flatten(adam(0.1))
    updates, _ = tx.update(grads, tx.init(MIXED), MIXED)
    expected, _ = adam(0.1).update(grads, adam(0.1).init(MIXED), MIXED)
    chex.assert_trees_all_close(updates, expected)
    chex.assert_trees_all_equal_dtypes(updates, grads)


def test_map_params_reaches_the_vectors():
    tx = flatten(adam(0.1))
    for params in (MIXED, mixed_tree()):
        state = tx.init(params)
        mapped = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
        chex.assert_trees_all_equal(mapped[0].nu, jax.tree.map(lambda leaf: leaf + 1, state[0].nu))
        assert int(mapped[0].count) == 0
    with pytest.raises(ValueError, match="at least one array"):
        optax.tree.map_params(optax.flatten(optax.adam(0.1)), lambda leaf: leaf, state)


def test_init_sees_the_parameters_or_their_shapes_alone():
    keeps = stateless(lambda updates, params: params)._replace(init=lambda params: params)
    assert flatten(keeps).init({"b": jnp.array([[2.0, 3.0]]), "a": 1.0}).tolist() == [1.0, 2.0, 3.0]
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), MIXED)
    tx = flatten(adam(0.1))
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), tx.init(MIXED))


def test_none_leaves_have_no_place_in_the_vector():
    tx, params = flatten(adam(0.1)), {"a": jnp.ones(2), "frozen": None}
    state = tx.init(params)
    updates, _ = tx.update(params, state, params)
    assert state[0].mu.shape == (2,) and updates["frozen"] is None


def test_a_gradient_of_none_counts_as_zero_and_moves_nothing():
    tx, params = flatten(adam(0.1)), {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    updates, new_state = tx.update({"a": jnp.ones(2), "b": None}, state, params)
    expected, expected_state = tx.update({"a": jnp.ones(2), "b": jnp.zeros(3)}, state, params)
    assert updates["b"] is None
    chex.assert_trees_all_equal(updates["a"], expected["a"])
    chex.assert_trees_all_equal(new_state, expected_state)


def test_an_empty_tree_is_a_valid_tree():
    tx = flatten(adam(0.1))
    assert tx.update({}, tx.init({}), {})[0] == {}


def _direction_of_value_fn_update(grads, state, params=None, *, grad, value_fn, **extra):
    return jax.tree.map(jnp.add, jax.grad(value_fn)(params), grad), state


def test_extra_arguments_arrive_in_the_shape_of_the_vector():
    needs_both = optax.GradientTransformationExtraArgs(lambda params: (), _direction_of_value_fn_update)
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    loss = lambda params: jnp.sum(params["a"]) * params["b"][0, 0]
    tx = chain(clip_by_global_norm(1e-3), flatten(needs_both))
    updates, _ = tx.update(params, tx.init(params), params, value_fn=loss)
    chex.assert_trees_all_close(updates, {"a": jnp.array([3.0 + 1.0, 3.0 + 2.0]), "b": jnp.array([[3.0 + 3.0]])})


def test_the_factors_of_a_vector_are_none():
    """Any optimizer goes inside; one that reads shapes sees a vector."""
    params, grads = {"w": jnp.ones((4, 4))}, {"w": mixed_grads()["dense"]["kernel"][:, :1, :] * jnp.ones((1, 4, 1))}
    tx = adafactor(0.1, min_dim_size_to_factor=2)
    flat = run(flatten(tx), params, grads)[0]
    np.testing.assert_allclose(flat, run(adafactor(0.1, factored=False), params, grads)[0], rtol=1e-10)


def test_trees_that_differ_are_named_by_path():
    tx = flatten(adam(0.1))
    with pytest.raises(ValueError, match="only gradients have \\['c'\\]"):
        tx.update({"a": jnp.ones(2), "c": jnp.ones(2)}, tx.init(mixed_tree()), {"a": jnp.ones(2), "b": jnp.ones(2)})
