"""Flax's training states with the optimizer as data: one trace for all learning rates, lanes, checkpoints."""

import chex
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from flax.training import train_state

import gradlab
from gradlab.core.storage import Factored


def make_state(learning_rate, state_class=gradlab.TrainState):
    model = nn.Dense(1)
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    return state_class.create(apply_fn=model.apply, params=params, tx=gradlab.adamw(learning_rate))


def make_train_state(tx, params):
    return gradlab.TrainState.create(apply_fn=None, params=params, tx=tx)


def step(state, x):
    grads = jax.grad(lambda params: jnp.mean(state.apply_fn({"params": params}, x) ** 2))(state.params)
    return state.apply_gradients(grads=grads)


def traces(state_class):
    count = 0

    def counted(state, x):
        nonlocal count
        count += 1
        return step(state, x)

    model = make_state(0.1, state_class).apply_fn
    compiled = jax.jit(counted)
    for learning_rate in (1e-1, 1e-2, 1e-3):
        state = make_state(learning_rate, state_class).replace(apply_fn=model)
        for _ in range(2):
            state = compiled(state, jnp.ones((4, 3)))
    return count


def test_one_trace_where_flax_has_three():
    assert traces(gradlab.TrainState) == 1
    assert traces(train_state.TrainState) == 3


def test_states_are_lanes():
    rates = np.array([0.1, 0.01])
    states = [make_state(rate) for rate in rates]
    shared = states[0].apply_fn
    states = [state.replace(apply_fn=shared) for state in states]
    lanes = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *states)
    batched = jax.vmap(step, in_axes=(0, None))(lanes, jnp.ones((4, 3)))
    for index, state in enumerate(states):
        alone = step(state, jnp.ones((4, 3)))
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], batched.params), alone.params, rtol=1e-6)


def test_a_checkpoint_carries_the_learning_rate():
    saved = flax.serialization.to_bytes(make_state(0.123))
    restored = flax.serialization.from_bytes(make_state(0.5), saved)
    assert gradlab.hyperparams(restored.tx)["learning_rate"] == 0.123


@pytest.mark.parametrize(
    "tx",
    [
        gradlab.chain(gradlab.clip(1.0), gradlab.adamw(gradlab.linear_schedule(0.1, 0.2, 9), storage="int8")),
        optax.chain(optax.clip(1.0), gradlab.lion(0.1)),
        gradlab.chain(),
    ],
    ids=["ours", "mixed", "empty"],
)
@pytest.mark.parametrize("start", [gradlab.start_step, make_train_state], ids=["StepState", "TrainState"])
def test_orbax_and_flax_save_the_whole_state(start, tx, tmp_path):
    state = start(tx, {"kernel": jnp.full((64, 64), 0.5)})
    saver = orbax.checkpoint.StandardCheckpointer()
    saver.save(tmp_path / "saved", state)
    saver.wait_until_finished()
    blank = jax.tree.map(jnp.zeros_like, state)
    for restored in (
        saver.restore(tmp_path / "saved", blank),
        flax.serialization.from_bytes(blank, flax.serialization.to_bytes(state)),
    ):
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        chex.assert_trees_all_equal(restored, state)


def test_extra_arguments_reach_the_optimizer():
    state = gradlab.TrainState.create(apply_fn=None, params=jnp.array([2.0]), tx=optax.polyak_sgd(1e9, scaling=1.0))
    moved = state.apply_gradients(grads=jnp.array([4.0]), extra={"value": jnp.array(4.0)})
    np.testing.assert_allclose(moved.params, [2.0 - 4.0 * 4.0 / 16.0])


def test_eval_params_are_those_of_the_optimizer():
    state = gradlab.TrainState.create(apply_fn=None, params=jnp.array([2.0]), tx=gradlab.nesterov_sgd(0.1, 0.9))
    state = state.apply_gradients(grads=jnp.array([1.0]))
    np.testing.assert_allclose(state.eval_params, [1.9])
    np.testing.assert_allclose(state.params, [1.9 - 0.09])


def nnx_traces(optimizer_class):
    count = 0

    @nnx.jit
    def train(model, optimizer):
        nonlocal count
        count += 1
        grads = nnx.grad(lambda model: jnp.mean(model(jnp.ones((4, 3))) ** 2))(model)
        optimizer.update(model, grads)

    for learning_rate in (1e-1, 1e-2, 1e-3):
        model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        optimizer = optimizer_class(model, gradlab.adamw(learning_rate), wrt=nnx.Param)
        train(model, optimizer)
    return count


@pytest.mark.parametrize("storage", ["int8", "bfloat16_residual", {"nu": Factored(least=2)}], ids=str)
@pytest.mark.parametrize("optimizer_class", [gradlab.NNXOptimizer, nnx.Optimizer])
@pytest.mark.parametrize("compiled", [False, True])
def test_nnx_keeps_buffers_of_several_arrays(storage, compiled, optimizer_class):
    tx = gradlab.adamw(0.01, storage=storage)
    model = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
    optimizer, start = optimizer_class(model, tx, wrt=nnx.Param), nnx.as_pure(nnx.state(model, nnx.Param))
    update = lambda model, optimizer, grads: optimizer.update(model, grads)
    update = nnx.jit(update) if compiled else update
    params, state = start, tx.init(start)
    for sign in (1.0, -0.3, 0.5):
        grads = jax.tree.map(lambda p, sign=sign: jnp.sin(p + sign), nnx.state(model, nnx.Param))
        update(model, optimizer, grads)
        updates, state = jax.jit(tx.update)(nnx.as_pure(grads), state, params)
        params = gradlab.apply_updates(params, updates)
    chex.assert_trees_all_close(nnx.as_pure(nnx.state(model, nnx.Param)), params, rtol=1e-6)
    if optimizer_class is gradlab.NNXOptimizer:
        assert jax.tree.structure(nnx.as_pure(optimizer.opt_state)) == jax.tree.structure(state)
    assert optimizer.step[...] == 3


def test_nnx_one_trace_where_flax_has_three():
    assert nnx_traces(gradlab.NNXOptimizer) == 1
    assert nnx_traces(nnx.Optimizer) == 3
