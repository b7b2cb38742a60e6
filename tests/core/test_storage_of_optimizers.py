"""``storage`` on any optimizer: one trace, lanes, checkpoints, names, and training that does not notice."""

import functools

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import PartitionSpec as P

import gradlab
from gradlab.bench.storage import compiled_step, state_bytes
from gradlab.bench.storage_gaps import final_losses
from gradlab.core.storage import (
    BFloat16,
    Blocks,
    Factored,
    Float32,
    Int8,
    Residual,
    Split,
    StoredState,
    decoded,
    decoded_state,
    slots,
)
from gradlab.core.storage.slots import NON_NEGATIVE, is_non_negative, map_slots
from gradlab.tasks.catalogue import chars, digits_mlp
from tests.contracts.cases import NAMES, build, mixed_tree, run, update

INT8 = Int8(least=0)
STORAGES = [Float32(), BFloat16(), BFloat16(stochastic=True), Residual(), INT8, Factored(least=2)]
GRADS = [mixed_tree(jnp.float32, seed=seed) for seed in (1, 2, 3)]
PARAMS = mixed_tree(jnp.float32)
SHAPES = {"w": jax.ShapeDtypeStruct((256, 512), jnp.float32), "b": jax.ShapeDtypeStruct((512,), jnp.float32)}


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_under_every_storage_is_traced_once_and_keeps_its_state(name):
    for storage in STORAGES:
        traces = 0

        def step(tx, grads, state, params):
            nonlocal traces
            traces += 1
            return update(name, tx, grads, state, params)

        jitted, tx = jax.jit(step), build(name, storage=storage)
        state = jax.eval_shape(tx.init, PARAMS)
        for factor in (1.0, 0.9):
            other = jax.tree.map(lambda leaf, factor=factor: leaf * factor if isinstance(leaf, float) else leaf, tx)
            updates, new_state = jitted.trace(other, GRADS[0], state, PARAMS).out_info
        assert traces == 1
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, GRADS[0])
        assert jax.tree.structure(new_state) == jax.tree.structure(state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@pytest.mark.parametrize("name", ["adamw", "momentum_sgd", "muon", "sm3"])
def test_three_steps_are_those_of_float32_nearly(name):
    exact, _ = run(name, build(name), PARAMS, GRADS)
    for storage, share in ((Residual(), 1e-3), (INT8, 0.06)):
        near, _ = run(name, build(name, storage=storage), PARAMS, GRADS)
        for got, wanted, start in zip(*map(jax.tree.leaves, (near, exact, PARAMS)), strict=True):
            assert jnp.abs(got - wanted).max() <= share * jnp.abs(wanted - start).max() + 1e-7


@pytest.mark.parametrize("name", sorted(name for name in NAMES if NON_NEGATIVE & set(slots(build(name).init(PARAMS)))))
def test_what_is_stored_as_never_negative_never_is(name):
    params = mixed_tree()
    _, state = run(name, build(name), params, [mixed_tree(seed=1)])
    seen = []

    def look(owner, field, value):
        if is_non_negative(owner, field):
            seen.extend(jax.tree.leaves(value))
        return value

    map_slots(look, state, NON_NEGATIVE | {"mu"})
    assert all(jnp.all(jnp.real(leaf) >= 0) for leaf in seen)
    assert seen or name in ("adan", "sophia")


def test_a_diagonal_of_the_hessian_may_be_negative():
    params = jnp.ones(4, jnp.float32)
    tx = gradlab.sophia(0.1, storage=INT8)
    concave = lambda p: -jnp.sum(p**2)
    _, state = tx.update(-2 * params, tx.init(params), params, value_fn=concave, value=concave(params))
    (nu,) = (decoded(leaf) for leaf in slots(decoded_state(state))["nu"])
    assert jnp.all(nu < 0)


def test_lanes_equal_the_loop_and_round_by_their_own_seeds():
    make = lambda seed: gradlab.store(gradlab.adamw(0.01), INT8, seed=seed)
    lanes = gradlab.population(make, seed=np.array([0, 1, 0]))
    params, states = jax.vmap(lambda tx: run("adamw", tx, PARAMS, GRADS))(lanes)
    for index, seed in enumerate((0, 1, 0)):
        alone, state = run("adamw", make(seed), PARAMS, GRADS)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], params), alone, rtol=1e-5)
        chex.assert_trees_all_equal(states.rng_key[index], state.rng_key)
    codes = states.inner_state[0].mu["dense"]["kernel"].codes
    np.testing.assert_array_equal(codes[0], codes[2])
    assert np.any(codes[0] != codes[1])


def test_each_step_and_each_array_rounds_anew():
    tx = gradlab.sgd(0.0, momentum=1.0, storage=BFloat16(stochastic=True))
    params = {"a": jnp.zeros(64, jnp.float32), "b": jnp.zeros(64, jnp.float32)}
    state, seen = tx.init(params), []
    for _ in range(2):
        _, state = tx.update(
            jax.tree.map(lambda p: p + 1 + 2**-9, params), tx.init(params)._replace(rng_key=state.rng_key)
        )
        seen += [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(state.inner_state[0].trace)]
    assert all(0 < np.mean(leaf > 1) < 1 for leaf in seen)
    assert all(np.any(seen[i] != seen[j]) for i in range(4) for j in range(i))


def trained(storage):
    params = {"w": jax.random.normal(jax.random.key(0), (64, 65), jnp.float32), "b": jnp.ones(65, jnp.float32)}
    tx = gradlab.adamw(1e-2, storage=storage)
    return (tx, params, *reversed(tx.update(params, tx.init(params), params)))


@pytest.mark.parametrize(
    "storage",
    ["bfloat16", "bfloat16_stochastic", "bfloat16_residual", "int8", {"mu": "int8", "nu": Factored(least=2)}],
    ids=str,
)
def test_states_survive_flattening_flax_and_orbax(storage, tmp_path):
    tx, params, state, _ = trained(storage)
    leaves, treedef = jax.tree.flatten(state)
    chex.assert_trees_all_equal(jax.tree.unflatten(treedef, [np.asarray(leaf) for leaf in leaves]), state)
    restored = flax.serialization.from_bytes(tx.init(params), flax.serialization.to_bytes(state))
    chex.assert_trees_all_equal(restored, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, params))
    chex.assert_trees_all_equal(restored, state)


def test_without_storage_nothing_is_wrapped():
    assert isinstance(gradlab.store(optax.adamw(1e-3), None).init(jnp.ones(2))[0], optax.ScaleByAdamState)
    assert isinstance(gradlab.adamw(1e-3, storage=None).init(jnp.ones(2))[0], optax.ScaleByAdamState)
    assert jax.tree.structure(gradlab.adamw(1e-3, storage=None)) == jax.tree.structure(gradlab.adamw(1e-3))


def test_each_slot_has_its_storage_and_the_others_keep_theirs():
    _, _, state, _ = trained({"mu": "bfloat16", "nu": "int8"})
    adam = state.inner_state[0]
    assert adam.mu["w"].dtype == adam.mu["b"].dtype == jnp.bfloat16
    assert (
        isinstance(adam.nu["w"], Blocks) and adam.nu["w"].codes.dtype == jnp.uint8 and adam.nu["b"].dtype == jnp.float32
    )
    _, _, state, _ = trained({"nu": "bfloat16_residual"})
    assert state.inner_state[0].mu["w"].dtype == jnp.float32 and isinstance(state.inner_state[0].nu["w"], Split)


def test_moments_of_short_parameters_may_be_longer():
    params = jnp.ones((64, 64), jnp.bfloat16)
    tx = gradlab.adamw(1e-2, storage="float32")
    updates, state = tx.update(params, tx.init(params), params)
    assert updates.dtype == jnp.bfloat16 and state.inner_state[0].nu.dtype == jnp.float32
    np.testing.assert_allclose(state.inner_state[0].nu, 1e-3, rtol=1e-4)


def test_a_slot_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="names 'nuu', which .* did you mean 'nu'\\? Known: 'mu', 'nu'"):
        gradlab.adamw(1e-3, storage={"nuu": "int8"}).init(jnp.ones(2))
    with pytest.raises(ValueError, match="it keeps no arrays"):
        gradlab.sgd(0.1, storage={"trace": "int8"}).init(jnp.ones(2))
    with pytest.raises(ValueError, match="names 'count'"):
        gradlab.adamw(1e-3, storage={"count": "int8"}).init(jnp.ones(2))
    with pytest.raises(ValueError, match="unknown storage 'int9'; did you mean 'int8'"):
        gradlab.adamw(1e-3, storage="int9")
    with pytest.raises(ValueError, match="unknown storage 'half'"):
        gradlab.adamw(1e-3, storage={"mu": "half"})
    with pytest.raises(ValueError, match="factor 'mu', which takes both signs"):
        gradlab.adamw(1e-3, storage={"mu": "factored"}).init(jnp.ones(2))
    for options in ({"block": 0}, {"block": 16.0}, {"least": -1}):
        with pytest.raises(ValueError, match="must be a whole number >= "):
            Int8(**options)
    with pytest.raises(ValueError, match="`least` must be a whole number >= 0, got -1"):
        Factored(least=-1)


def test_an_optimizer_without_moments_takes_any_storage():
    tx = gradlab.sgd(0.1, storage="int8")
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    np.testing.assert_allclose(updates, -0.1, rtol=1e-6)


def test_transforms_of_optax_are_stored_too():
    tx = gradlab.store(optax.adamw(1e-2), INT8)
    _, state = run("adamw", tx, PARAMS, GRADS)
    assert isinstance(state.inner_state[0].nu["dense"]["kernel"], Blocks)
    exact, _ = run("adamw", gradlab.adamw(1e-2), PARAMS, GRADS)
    near, _ = run("adamw", tx, PARAMS, GRADS)
    chex.assert_trees_all_close(near, exact, atol=3e-3)


def test_schedules_partitions_and_tools_see_through():
    labels = gradlab.by_path(("dense", "a"), (".", "b"))
    inner = {"a": gradlab.adam(gradlab.linear_schedule(1.0, 0.0, 4), storage=INT8), "b": gradlab.sgd(0.1, momentum=0.9)}
    tx = gradlab.partition(inner, labels)
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS[0], state, PARAMS)
    now = gradlab.current_hyperparams(tx, state)
    assert now["scale_by_learning_rate_schedule.learning_rate"] == 0.75
    assert gradlab.counts(tx, state)["scale_by_adam.count"] == 1
    assert "store(" in gradlab.describe(tx) and gradlab.hyperparams(gradlab.replace(tx, b1=0.5))["b1"] == 0.5
    shown = optax.tree.map_params(tx, lambda leaf: leaf, state)
    chex.assert_trees_all_equal(shown, state)


def test_evaluation_weights_are_found_in_stored_states():
    make = functools.partial(gradlab.schedule_free_sgd, 0.1)
    exact, near = make(), make(storage={"z": "bfloat16_residual"})
    (params, state), (params_near, state_near) = (run("schedule_free_sgd", tx, PARAMS, GRADS) for tx in (exact, near))
    wanted = gradlab.eval_params(exact, state, params)
    chex.assert_trees_all_close(gradlab.eval_params(near, state_near, params_near), wanted, rtol=1e-3)
    assert isinstance(decoded_state(state_near).z["scale"], jax.Array)


def test_a_factored_second_moment_is_that_of_adafactor():
    grads = [jax.random.normal(jax.random.key(seed), (8, 6), jnp.float32) for seed in range(3)]
    tx = gradlab.rmsprop(1.0, decay=0.9, eps=0.0, storage={"nu": Factored(least=2)})
    factored = gradlab.scale_by_factored_rms(
        min_dim_size_to_factor=2, epsilon=0.0, decay_rate=0.9, decay_rate_fn=lambda step, rate: rate
    )
    state, other = tx.init(grads[0]), factored.init(grads[0])
    for grad in grads:
        updates, state = tx.update(grad, state)
        wanted, other = factored.update(grad, other)
    nu = state.inner_state[0].nu
    np.testing.assert_allclose(nu.rows.ravel(), other.v_row, rtol=1e-5)
    np.testing.assert_allclose(nu.columns.ravel(), other.v_col, rtol=1e-5)
    np.testing.assert_allclose(updates, -wanted, rtol=1e-4)  # both read the factored moment


def test_a_step_reads_its_moments_as_they_are_stored():
    grads = jnp.asarray(np.random.default_rng(0).normal(size=64), jnp.float32)
    tx = gradlab.sgd(1.0, momentum=0.9, storage="bfloat16")
    updates, state = tx.update(grads, tx.init(grads))
    np.testing.assert_array_equal(-updates, decoded(state.inner_state[0].trace))
    tx = gradlab.sgd(1.0, momentum=0.9, storage=INT8)
    updates, state = tx.update(grads, tx.init(grads))
    np.testing.assert_array_equal(-updates, decoded(state.inner_state[0].trace))


@pytest.mark.parametrize(
    ("storage", "most", "temporary"),
    [(None, 8, 0), ("bfloat16", 4, 0), ("bfloat16_stochastic", 4, 0), ("bfloat16_residual", 6, 3), ("int8", 2.1, 0.4)],
)
def test_bytes_of_state_and_of_what_a_step_holds_besides(storage, most, temporary):
    tx = gradlab.adamw(1e-3, storage=storage)
    assert most - 0.1 < state_bytes(tx, SHAPES) <= most + 0.1
    memory = compiled_step(tx, SHAPES).memory_analysis()
    assert memory.temp_size_in_bytes <= (temporary + 0.05) * 256 * 513
    assert memory.alias_size_in_bytes == memory.output_size_in_bytes - _outside(memory)


def _outside(memory):
    """Bytes of the tuple of results, which is never donated."""
    return memory.output_size_in_bytes - memory.alias_size_in_bytes if memory.alias_size_in_bytes else 0


def test_specifications_of_stored_moments():
    specs = {"w": P("x", "y"), "b": P("y")}
    adam = gradlab.state_specs(gradlab.adamw(1e-3, storage="int8"), specs, SHAPES).inner_state[0]
    assert adam.mu["w"] == Blocks(codes=P("x", "y"), exponents=P("x")) and adam.mu["b"] == P("y")
    adam = gradlab.state_specs(gradlab.adamw(1e-3, storage={"nu": "factored"}), specs, SHAPES).inner_state[0]
    assert (adam.nu["w"].rows, adam.nu["w"].columns) == (P("x"), P(None, "y")) and adam.mu["w"] == P("x", "y")


DIGITS = {
    "adamw": (gradlab.adamw, 3e-3),
    "lion": (gradlab.lion, 1e-3),
    "momentum": (lambda rate: gradlab.sgd(rate, momentum=0.9), 0.05),
}


@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_do_not_notice(name):
    factory, rate = DIGITS[name]
    task = digits_mlp(hidden=(32,))
    exact = final_losses(task, factory, rates=[rate], steps=200)
    for storage in ("bfloat16_stochastic", INT8):
        gap = np.mean(final_losses(task, factory, storage, rates=[rate], steps=200) - exact)
        assert abs(gap) <= 0.05 * exact.mean() and abs(gap) <= exact.std()
    assert exact.mean() < 0.2


def test_the_character_transformer_does_not_notice():
    task = chars(max_characters=10_000, context=8, width=32, layers=1, heads=1)
    exact = final_losses(task, gradlab.adamw, rates=[1e-2], steps=60, batch_size=16)
    near = final_losses(task, gradlab.adamw, INT8, rates=[1e-2], steps=60, batch_size=16)
    assert exact.mean() < 3.3
    assert abs(np.mean(near - exact)) <= max(0.01 * exact.mean(), exact.std())


def test_the_state_says_what_it_is():
    tx = gradlab.adamw(1e-3, storage="bfloat16")
    state = tx.init(jnp.ones(2))
    assert isinstance(state, StoredState) and state.rng_key is None
    assert gradlab.adamw(1e-3, storage="int8").init(jnp.ones(2)).rng_key.dtype == jnp.uint32
