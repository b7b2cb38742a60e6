"""Drop-in: dtypes, trees, containers, checkpoints and Flax, as Optax's users expect them."""

import pickle

import chex
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training import train_state

import gradlab
from tests.contracts.cases import (
    KEYED,
    NAMES,
    NEEDS_VALUE,
    NOT_LIKE_PARAMS,
    REAL_ONLY,
    build,
    extra,
    map_numbers,
    mixed_tree,
    numbers,
    run,
    update,
)

REAL = [jnp.bfloat16, jnp.float32]  # the other contracts are in float64, and that of a zero gradient in float16 too


def cases():
    for name in NAMES:
        for dtype in REAL if name in REAL_ONLY else [*REAL, jnp.complex64]:
            yield pytest.param(name, dtype, id=f"{name}-{jnp.dtype(dtype).name}")


@pytest.mark.parametrize(("name", "dtype"), list(cases()))
def test_dtypes_shapes_and_structure_are_kept(name, dtype):
    params, grads = mixed_tree(dtype), mixed_tree(dtype, seed=1)
    tx = build(name)
    state = tx.init(params)
    updates, new_state = update(name, tx, grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_tree_all_finite(updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradlab.apply_updates(params, updates), params)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_zero_gradient_in_low_precision_gives_finite_updates(name, dtype):
    params = mixed_tree(dtype)
    tx = build(name)
    updates, _ = update(name, tx, jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("name", NAMES)
def test_array_hyperparameters_do_not_widen_low_precision_leaves(name):
    params = mixed_tree(jnp.bfloat16)
    tx = map_numbers(jnp.float32, build(name))
    updates, state = update(name, tx, mixed_tree(jnp.bfloat16, seed=1), tx.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    chex.assert_trees_all_equal_dtypes(state, tx.init(params))


@pytest.mark.parametrize("name", NAMES)
def test_none_leaves_stay_none_and_the_others_do_not_notice(name):
    params, grads = mixed_tree(), mixed_tree(seed=1)
    with_none = lambda tree: {**tree, "frozen": None}
    tx = build(name)
    expected, _ = update(name, tx, grads, tx.init(params), params)
    updates, _ = update(name, tx, with_none(grads), tx.init(with_none(params)), with_none(params))
    assert updates.pop("frozen") is None
    chex.assert_trees_all_close(updates, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_none_leaves_its_parameter_and_state_alone(name):
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = build(name)
    state = tx.init(params)
    updates, new_state = update(name, tx, {"a": jnp.ones(2), "b": None}, state, params)
    assert updates["b"] is None
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_trees_all_equal(gradlab.apply_updates(params, updates)["b"], params["b"])


@pytest.mark.parametrize("name", NAMES)
def test_a_mismatched_gradient_tree_is_named_by_its_path(name):
    params = {"dense": {"kernel": jnp.ones(2)}}
    tx = build(name)
    with pytest.raises(ValueError, match="dense/kernle"):
        update(name, tx, {"dense": {"kernle": jnp.ones(2)}}, tx.init(params), params)


@pytest.mark.parametrize("name", NAMES)
def test_integer_gradients_are_refused_by_path(name):
    params = {"dense": {"kernel": jnp.arange(2)}}
    tx = build(name)
    with pytest.raises(TypeError, match="dense/kernel"):
        update(name, tx, params, tx.init(params), params)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_tree_is_a_valid_tree(name):
    tx = build(name)
    updates, _ = update(name, tx, {}, tx.init({}), {})
    assert updates == {}


@pytest.mark.parametrize("name", NAMES)
def test_init_is_abstract(name):
    params = mixed_tree(jnp.float32)
    tx = build(name)
    state = tx.init(params)
    shapes = jax.eval_shape(tx.init, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), state)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_extra_arguments_are_ignored(name):
    params = mixed_tree()
    tx = build(name)
    needed = extra(name, params)
    expected = tx.update(params, tx.init(params), params, **needed)
    others = {"value": 1.0, "something_else": jnp.ones(3), "value_fn": lambda p: 0.0} | needed
    got = tx.update(params, tx.init(params), params, **others)
    chex.assert_trees_all_close(got, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_inside_of_optax_chain(name):
    params, grads = mixed_tree(), [mixed_tree(seed=seed) for seed in (1, 2)]
    inside = optax.chain(optax.clip_by_global_norm(0.5), build(name))
    around = gradlab.chain(optax.clip_by_global_norm(0.5), build(name))
    chex.assert_trees_all_close(run(name, inside, params, grads)[0], run(name, around, params, grads)[0], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_optax_tree_tools_see_the_state(name):
    params = mixed_tree()
    tx = build(name)
    state = tx.init(params)
    doubled = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(doubled, state)
    buffers = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3, 2)]
    moved = [leaf for leaf in jax.tree.leaves(doubled) if leaf.shape == (3, 2)]
    for before, after in zip(buffers, moved, strict=True):
        np.testing.assert_array_equal(after, before + 1)
    for field in {"mu", "nu", "trace"} - NOT_LIKE_PARAMS.get(name, set()):
        found = optax.tree.get_all_with_path(state, field)
        assert all(jax.tree.structure(value) == jax.tree.structure(params) for _, value in found)


def trained(name):
    params = mixed_tree(jnp.float32)
    tx = build(name)
    _, state = run(name, tx, params, [mixed_tree(jnp.float32, seed=1)])
    return tx, params, state


@pytest.mark.parametrize("name", NAMES)
def test_state_and_pair_pickle(name):
    tx, _, state = trained(name)
    chex.assert_trees_all_equal(pickle.loads(pickle.dumps(state)), state)
    copy = pickle.loads(pickle.dumps(tx))
    assert jax.tree.structure(copy) == jax.tree.structure(tx)
    chex.assert_trees_all_equal(copy, tx)


@pytest.mark.parametrize("name", NAMES)
def test_state_and_pair_round_trip_through_flax(name):
    tx, params, state = trained(name)
    chex.assert_trees_all_equal(
        flax.serialization.from_bytes(tx.init(params), flax.serialization.to_bytes(state)), state
    )
    other = map_numbers(lambda value: value * 0.5, tx)
    restored = flax.serialization.from_bytes(other, flax.serialization.to_bytes(tx))
    assert numbers(restored) == numbers(tx)


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trips_through_orbax(name, tmp_path):
    tx, params, state = trained(name)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, params))
    chex.assert_trees_all_equal(restored, state)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NEEDS_VALUE))
def test_train_state_of_flax(name):
    model = nn.Dense(2, param_dtype=jnp.float64)
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    grads = jax.tree.map(jnp.ones_like, params)
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=build(name))
    for _ in range(2):
        state = jax.jit(lambda state: state.apply_gradients(grads=grads))(state)
    expected, _ = run(name, build(name), params, [grads, grads])
    chex.assert_trees_all_close(state.params, expected, rtol=1e-12)
    assert int(state.step) == 2


@pytest.mark.parametrize("name", NAMES)
def test_train_state(name):
    model = nn.Dense(2, param_dtype=jnp.float64)
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    grads = jax.tree.map(jnp.ones_like, params)
    state = gradlab.TrainState.create(apply_fn=model.apply, params=params, tx=build(name))
    step = jax.jit(lambda state: state.apply_gradients(grads=grads, extra=extra(name, state.params)))
    expected, _ = run(name, build(name), params, [grads, grads])
    chex.assert_trees_all_close(step(step(state)).params, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "optimizer_class"),
    [(name, gradlab.NNXOptimizer) for name in NAMES] + [(name, nnx.Optimizer) for name in sorted(set(NAMES) - KEYED)],
)
def test_nnx_optimizer(name, optimizer_class):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = optimizer_class(model, build(name), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: jnp.sum(model.kernel[...]) + jnp.sum(model.bias[...]))(model)
        optimizer.update(model, grads, **extra(name, nnx.state(model, nnx.Param)))

    for _ in range(2):
        step(model, optimizer)
    ones = jax.tree.map(jnp.ones_like, params)
    expected, _ = run(name, build(name), params, [ones, ones])
    chex.assert_trees_all_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), expected, rtol=1e-12)
