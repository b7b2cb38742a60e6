"""The pair as a value: leaves, structure, traces, pickles, files, and where buffers lie."""

import os
import pickle
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import gradlab
from gradlab.core.rule import Static, static
from gradlab.core.transform import ScheduledState, from_optax, transform
from gradlab.transforms.scaling import scale

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": None}


def _empty_init(params):
    return optax.EmptyState()


def _affine_update(grads, state, params=None, *, gain, offset=None, double=False, **extra):
    factor = 2 * gain if double else gain
    return jax.tree.map(lambda g: factor * g + (0 if offset is None else offset), grads), state


def test_numbers_are_leaves_and_static_is_structure():
    tx = transform(_empty_init, _affine_update, gain=2, offset=np.float32(1), double=static(True))
    assert jax.tree.leaves(tx) == [2.0, 1.0] and all(type(leaf) is float for leaf in jax.tree.leaves(tx))
    assert tx.update(jnp.ones(()), ())[0] == 5.0
    plain = transform(_empty_init, _affine_update, gain=2, offset=1, double=static(False))
    assert jax.tree.structure(tx) != jax.tree.structure(plain)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


def test_none_is_structure_and_zero_is_a_number():
    off = transform(_empty_init, _affine_update, gain=1.0, offset=None)
    zero = transform(_empty_init, _affine_update, gain=1.0, offset=0.0)
    assert jax.tree.structure(off) != jax.tree.structure(zero) and len(jax.tree.leaves(zero)) == 2


@pytest.mark.parametrize("bad", ["fast", True, object()])
def test_what_is_no_number_must_be_static(bad):
    with pytest.raises(TypeError, match="hyperparameter `gain`"):
        transform(_empty_init, _affine_update, gain=bad)


def test_new_values_never_retrace_and_equal_builds_are_equal():
    jitted = jax.jit(chex.assert_max_traces(lambda tx, g: tx.update(g, tx.init(g), g)[0], n=1))
    for value in (0.1, 0.2, 1, np.float32(0.3), np.float64(0.4)):
        np.testing.assert_allclose(
            jitted(gradlab.sgd(value, momentum=0.9), jnp.ones(2)), -value * np.ones(2), rtol=1e-6
        )


def test_the_eager_update_is_compiled_once_for_all_builds():
    traces = []

    def _counting_update(grads, state, params=None, *, gain, **extra):
        traces.append(1)
        return jax.tree.map(lambda g: gain * g, grads), state

    for gain in (1.0, 2.0, 3.0):
        tx = transform(_empty_init, _counting_update, gain=gain)
        for _ in range(2):
            assert tx.update(jnp.ones(()), ())[0] == gain
    assert len(traces) == 1


def test_a_structure_of_unhashable_trees_compares_by_value():
    assert static({"a": [True]}) == static({"a": [True]}) and static({"a": 1}) != static({"b": 1})
    assert static(np.arange(3)) == static(np.arange(3)) and static(np.arange(3)) != static(np.arange(3.0))
    assert static(True) != static(1) and hash(static({"a": 1})) == hash(static({"a": 1}))
    assert static(static(1)) == static(1) and isinstance(pickle.loads(pickle.dumps(static([1]))), Static)
    with pytest.raises(TypeError, match="does not hash"):
        static({1, 2})


def test_a_schedule_as_any_hyperparameter_is_read_at_the_count_of_the_step():
    tx = transform(_empty_init, _affine_update, gain=lambda count: 10.0 + count, offset=1.0)
    state = tx.init(PARAMS)
    assert isinstance(state, ScheduledState)
    seen = []
    for _ in range(3):
        updates, state = tx.update(jnp.ones(()), state)
        seen.append(float(updates))
    assert seen == [11.0, 12.0, 13.0] and int(state.count) == 3


def test_schedules_of_adam_move_its_decays():
    tx = gradlab.scale_by_adam(b1=gradlab.as_schedule(lambda count: 0.5 * count))
    state = tx.init(jnp.zeros(()))
    mu, g = 0.0, 2.0
    for b1 in (0.0, 0.5):
        _, state = tx.update(jnp.array(g), state)
        mu = b1 * mu + (1 - b1) * g
        np.testing.assert_allclose(state.inner_state.mu, mu, rtol=1e-12)


def test_a_schedule_in_a_tree_of_values_is_read_too():
    tx = scale({"a": lambda count: count, "b": 2.0})
    grads = {"a": jnp.ones(()), "b": jnp.ones(())}
    _, state = tx.update(grads, tx.init(grads))
    updates, _ = tx.update(grads, state)
    assert (float(updates["a"]), float(updates["b"])) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (gradlab.adagrad, "initial_accumulator_value"),
        (gradlab.rmsprop, "initial_scale"),
        (gradlab.psgd_kron, "precond_init_scale"),
    ],
)
def test_a_schedule_where_a_state_starts_is_refused(make, name):
    with pytest.raises(TypeError, match=f"`{name}` is where a state starts.*cannot be a schedule.*schedule\\(0\\)"):
        make(0.1, **{name: gradlab.linear_schedule(0.1, 0.2, 10)})


def test_a_state_that_starts_from_a_scheduled_number_starts_from_its_first_value():
    schedule = gradlab.linear_schedule(0.5, 0.1, 4)
    start = lambda eps: gradlab.scale_by_dowg(eps=eps).init(PARAMS)
    chex.assert_trees_all_equal(start(schedule).inner_state, start(0.5))


def test_adopted_transforms_keep_their_numbers_and_take_extra_arguments():
    adopted = from_optax(optax.adam(0.1))
    assert jax.tree.leaves(adopted) == []
    ours, _ = adopted.update(PARAMS, adopted.init(PARAMS), PARAMS, value=jnp.array(1.0))
    theirs, _ = optax.adam(0.1).update(PARAMS, optax.adam(0.1).init(PARAMS), PARAMS)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12)
    own = scale(2.0)
    assert from_optax(own).init is own.init and from_optax(own).update is own.update


@pytest.mark.parametrize("bad", [optax.adam, 0.1, (1, 2)])
def test_what_is_no_transform_is_refused(bad):
    with pytest.raises(TypeError, match="call the factory first"):
        gradlab.chain(bad)


def test_optax_chain_takes_the_pair_and_passes_extra_arguments():
    def _value_update(grads, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: value * g, grads), state

    tx = optax.chain(transform(_empty_init, _value_update), gradlab.sgd(1.0))
    assert float(tx.update(jnp.array(2.0), tx.init(jnp.array(2.0)), value=jnp.array(3.0))[0]) == -6.0


def _everything():
    schedule = gradlab.as_schedule(0.1).then(0.01, at=3)
    route = {"slow": gradlab.adamw(schedule, mask="w"), "fast": gradlab.sgd(0.1, momentum=0.9)}
    return gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.partition(route, gradlab.by_path((".", "slow"))))


def _step(tx, state):
    return tx.update(PARAMS, state, PARAMS)


def test_the_pair_survives_pickle_and_runs_the_same_program():
    tx = _everything()
    copy = pickle.loads(pickle.dumps(tx))
    assert jax.tree.structure(copy) == jax.tree.structure(tx)
    chex.assert_trees_all_equal(_step(copy, copy.init(PARAMS)), _step(tx, tx.init(PARAMS)))
    jitted = jax.jit(chex.assert_max_traces(_step, n=1))
    chex.assert_trees_all_equal(jitted(copy, copy.init(PARAMS)), jitted(tx, tx.init(PARAMS)))


def test_the_pair_and_its_state_survive_flax_serialisation():
    saved = gradlab.adam(0.5, b1=0.7)
    restored = serialization.from_bytes(gradlab.adam(0.1), serialization.to_bytes(saved))
    assert gradlab.hyperparams(restored) == gradlab.hyperparams(saved)
    _, state = saved.update(PARAMS, saved.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(serialization.from_bytes(saved.init(PARAMS), serialization.to_bytes(state)), state)


def test_init_works_on_shapes_alone():
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    for tx in (gradlab.adam(0.1), gradlab.sgd(0.1, momentum=0.9), _everything()):
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, shapes), tx.init(PARAMS))


def test_gradients_flow_to_every_leaf():
    def final(tx):
        params, state = jnp.array([1.0, -2.0]), tx.init(jnp.zeros(2))
        for _ in range(3):
            updates, state = tx.update(2 * params, state, params)
            params = params + updates
        return jnp.sum(params**2)

    tx = gradlab.adam(0.1, b1=0.8, b2=0.9, eps=1e-3)
    leaves, treedef = jax.tree.flatten(tx)
    slopes = jax.tree.leaves(jax.grad(final)(tx))
    for index, slope in enumerate(slopes):
        moved = [
            jax.tree.unflatten(treedef, [x + sign * 1e-6 * (i == index) for i, x in enumerate(leaves)])
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(slope, (final(moved[0]) - final(moved[1])) / 2e-6, rtol=1e-5, atol=1e-8)


def test_buffers_lie_where_their_parameters_lie():
    program = textwrap.dedent("""
        import jax, jax.numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        import gradlab
        devices = jax.devices()
        assert len(devices) == 8, devices
        split = NamedSharding(Mesh(devices, ("x",)), PartitionSpec("x"))
        params = {"w": jax.device_put(jnp.ones((16, 4)), split), "b": jax.device_put(jnp.ones(3), devices[5])}
        for tx in (gradlab.adam(0.1), gradlab.sgd(0.1, momentum=0.9), gradlab.ema(0.9),
                   gradlab.masked(gradlab.adam(0.1), "w")):
            state = tx.init(params)
            buffers = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (16, 4)]
            assert buffers and all(leaf.sharding == split for leaf in buffers), [leaf.sharding for leaf in buffers]
            assert all(leaf.devices() == {devices[5]} for leaf in jax.tree.leaves(state) if leaf.shape == (3,))
        params = {"w": params["w"]}
        for tx in (gradlab.adam(0.1), gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.sgd(0.1, momentum=0.9))):
            for update in (tx.update, jax.jit(tx.update)):
                updates, state = update(params, tx.init(params), params)
                moved = gradlab.apply_updates(params, updates)
                buffers = [leaf for leaf in jax.tree.leaves((state, updates, moved)) if leaf.shape == (16, 4)]
                assert all(leaf.sharding.is_equivalent_to(split, 2) for leaf in buffers), [b.sharding for b in buffers]
        print("laid out")
    """)
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "laid out", result.stderr
