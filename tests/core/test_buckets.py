"""Buckets: the numbers of the tree they hold, in few kernels, and back to the tree."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training import train_state

import gradlab
from gradlab import bucket, unbucket
from gradlab.bench.programs import fusions
from gradlab.core.storage import Int8, decoded_state

NUMBER_BY_NUMBER = {
    "adamw": lambda: gradlab.adamw(0.01, weight_decay=0.1),
    "clipped": lambda: gradlab.chain(gradlab.clip_by_global_norm(0.1), gradlab.lion(0.01)),
    "scheduled": lambda: gradlab.nadam(gradlab.cosine_decay_schedule(0.1, 10)),
    "iterates": lambda: gradlab.schedule_free_adamw(0.01),
    "distance": lambda: gradlab.prodigy(1.0),
    "optax": lambda: optax.adam(0.01),
}


def tree(seed=0, dtype=jnp.float32):
    generator = np.random.default_rng(seed)
    leaf = lambda *shape: jnp.asarray(generator.normal(size=shape), dtype)
    return {"Dense_0": {"kernel": leaf(3, 4), "bias": leaf(4)}, "scale": leaf(), "none": None}


def mixed(seed=0):
    return tree(seed) | {"low": tree(seed + 1, jnp.bfloat16)["Dense_0"]}


def trajectory(tx, params, grads, steps=3):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = gradlab.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", NUMBER_BY_NUMBER)
def test_an_optimizer_does_with_the_vectors_what_it_does_with_the_leaves(name):
    params, grads = mixed(), mixed(7)
    expected = trajectory(NUMBER_BY_NUMBER[name](), params, grads)
    buckets = bucket(params)
    got = unbucket(trajectory(NUMBER_BY_NUMBER[name](), buckets, buckets.like(grads)))
    chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=1e-7)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)


def test_gradients_arrive_as_vectors():
    params = mixed()
    loss = lambda params: sum(jnp.sum(p.astype(jnp.float32) ** 3) for p in jax.tree.leaves(params))
    buckets = bucket(params)
    grads = jax.grad(lambda buckets: loss(buckets.tree))(buckets)
    assert {name: g.shape for name, g in grads.vectors.items()} == {"float32": (17,), "bfloat16": (16,)}
    chex.assert_trees_all_equal(grads.tree, jax.grad(loss)(params))
    program = str(jax.make_jaxpr(jax.grad(lambda buckets: loss(buckets.tree)))(buckets))
    assert program.count("concatenate") == 2 and "pad" not in program


def test_one_kernel_writes_each_vector():
    params = {f"layer_{index}": jnp.ones((8, 8)) for index in range(20)}
    tx = gradlab.adamw(1e-3)
    count = lambda params: fusions(jax.jit(tx.update).lower(params, tx.init(params), params).compile())
    assert count(bucket(params)) < 10 < 3 * 20 <= count(params)


def test_labels_make_vectors_that_a_mask_can_tell_apart():
    params, grads = tree(), tree(1)
    by = lambda params: jax.tree.map(lambda p: "decayed" if jnp.ndim(p) == 2 else "free", params)
    buckets = bucket(params, by)
    assert {name: v.shape for name, v in buckets.vectors.items()} == {"decayed_float32": (12,), "free_float32": (5,)}
    is_decayed = lambda params: jax.tree_util.tree_map_with_path(lambda path, p: "decayed" in str(path), params)
    of_tree = gradlab.adamw(0.1, weight_decay=0.5, mask=jax.tree.map(lambda p: jnp.ndim(p) == 2, params))
    expected = trajectory(of_tree, params, grads)
    got = unbucket(trajectory(gradlab.adamw(0.1, weight_decay=0.5, mask=is_decayed), buckets, buckets.like(grads)))
    chex.assert_trees_all_close(got[0], expected[0], rtol=1e-5)


def test_what_a_partition_leaves_out_is_left_out_of_the_tree():
    buckets = bucket(tree(), {"Dense_0": "slow", "scale": "fast", "none": None})
    labels = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, p: "a" if "slow" in str(path) else "b", params
    )
    state = gradlab.partition({"a": gradlab.adam(0.1), "b": gradlab.sgd(0.1)}, labels).init(buckets)
    mu = unbucket(state).inner_states["a"].inner_state[0].mu
    assert mu["Dense_0"]["kernel"].shape == (3, 4) and isinstance(mu["scale"], optax.MaskedNode)


def test_lanes_of_vectors_are_lanes_of_trees():
    many = jax.vmap(lambda factor: bucket(jax.tree.map(lambda p: factor * p, tree())))(jnp.arange(3, dtype=jnp.float32))
    assert many.vectors["float32"].shape == (3, 17)
    chex.assert_trees_all_close(many.tree, jax.tree.map(lambda p: jnp.stack([0 * p, p, 2 * p]), tree()))
    chex.assert_trees_all_equal(many.like(many.tree).vectors, many.vectors)


def test_shapes_make_shapes():
    shapes = jax.eval_shape(bucket, mixed())
    of_shapes = bucket(jax.eval_shape(lambda: mixed()))
    assert jax.tree.structure(shapes) == jax.tree.structure(of_shapes)
    assert jax.tree.leaves(shapes) == jax.tree.leaves(of_shapes)
    assert hash(of_shapes.layout) == hash(bucket(mixed()).layout)


def test_other_trees_are_refused_with_their_path():
    with pytest.raises(ValueError, match="only the tree have .'Dense_1/kernel'"):
        bucket(tree()).like({"Dense_0": {"bias": jnp.ones(4)}, "Dense_1": {"kernel": jnp.ones(2)}})
    with pytest.raises(ValueError, match="leaf 'Dense_0/bias' of the tree has the shape .5,., not .4,."):
        bucket(tree()).like(tree() | {"Dense_0": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(5)}})
    with pytest.raises(ValueError, match="`by` has values for .'Dense_1'."):
        bucket(tree(), {"Dense_1": "a"})


def test_codes_have_to_be_read_before_they_are_cut():
    tx, params = gradlab.adam(0.1, storage=Int8(least=1)), bucket(tree())
    state = tx.init(params)
    with pytest.raises(TypeError, match="vector 'float32' is kept as Blocks.*decoded_state first"):
        unbucket(state)
    assert unbucket(decoded_state(state))[0].mu["Dense_0"]["kernel"].shape == (3, 4)


@pytest.mark.parametrize("state_class", [train_state.TrainState, gradlab.TrainState])
def test_flax_and_orbax_take_them(state_class, tmp_path):
    params, tx = tree(), gradlab.adamw(0.1)
    state = state_class.create(apply_fn=None, params=bucket(params), tx=tx)
    state = state.apply_gradients(grads=state.params)
    expected = state_class.create(apply_fn=None, params=params, tx=tx).apply_gradients(grads=params)
    chex.assert_trees_all_close(unbucket(state.params), expected.params, rtol=1e-5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", (state.params, state.opt_state))
        checkpointer.wait_until_finished()
        shapes = jax.eval_shape(lambda: (bucket(params), tx.init(bucket(params))))
        restored = checkpointer.restore(tmp_path / "state", shapes)
    chex.assert_trees_all_equal(restored, (state.params, state.opt_state))
