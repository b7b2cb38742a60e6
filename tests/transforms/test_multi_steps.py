"""Accumulation over mini-steps: Optax's numbers, any inner optimizer, memory, branches, lanes, derivatives."""

import functools
import pickle

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.bench.optimizer_cases import planned_bytes
from gradlab.transforms.multi_steps import MultiSteps, has_updated, multi_steps, skip_large_updates, skip_not_finite
from tests.jaxprs import primitives
from tests.trajectories import flat, mixed_grads, mixed_tree, run

GRADS = mixed_grads()
SKIP_LARGE = functools.partial(skip_large_updates, max_squared_norm=30.0)
EVERY_K = lambda step: jnp.array([1, 3, 2], jnp.int32)[jnp.minimum(step // 3, 2)]


def _optax(inner, *args, **kwargs):
    return optax.MultiSteps(inner, *args, **kwargs).gradient_transformation()


MODES = {
    "mean": {"every_k_schedule": 3},
    "every": {"every_k_schedule": 1},
    "schedule": {"every_k_schedule": EVERY_K},
    "sum": {"every_k_schedule": 4, "use_grad_mean": False},
    "skip": {"every_k_schedule": 3, "should_skip_update_fn": SKIP_LARGE},
    "bfloat16": {"every_k_schedule": 3, "accumulator_dtype": jnp.bfloat16},
    "own dtype": {"every_k_schedule": 3, "accumulator_dtype": None},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_optax(mode):
    arguments = MODES[mode]
    ours, state = run(multi_steps(gradlab.adam(0.1), **arguments), mixed_tree(), GRADS)
    if mode == "own dtype":  # Optax takes the default float dtype for None
        arguments = arguments | {"accumulator_dtype": jnp.float64}
    theirs, expected = run(_optax(optax.adam(0.1), **arguments), mixed_tree(), GRADS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    assert type(state) is optax.MultiStepsState
    if int(expected.mini_step) == 0:  # between two steps Optax has cleared the accumulator; here it lies idle
        expected = expected._replace(acc_grads=state.acc_grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, expected)
    chex.assert_trees_all_close(state, expected, rtol=1e-10, atol=1e-12)
    if mode == "skip":
        assert 0 < int(state.gradient_step) < 50 // 3


DECAY = gradlab.linear_schedule(1.0, 0.0, 9)
INNERS = {
    "adafactor": (optax.adafactor(0.1, min_dim_size_to_factor=3), None),
    "schedule_free": (optax.contrib.schedule_free_sgd(0.1), None),
    "schedule": (gradlab.sgd(DECAY), optax.sgd(DECAY)),
    "chain": (
        gradlab.chain(gradlab.zero_nans(), gradlab.clip_by_global_norm(0.5), gradlab.adamw(0.1)),
        optax.chain(optax.zero_nans(), optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=1e-4)),
    ),
    "masked": (gradlab.masked(gradlab.lion(0.1), "kernel"), None),
}


@pytest.mark.parametrize("name", INNERS)
def test_any_optimizer_may_be_inside(name):
    inner, peer = INNERS[name]
    ours, state = run(multi_steps(inner, 3), mixed_tree(), GRADS)
    theirs, expected = run(_optax(peer or inner, 3), mixed_tree(), GRADS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    chex.assert_trees_all_close(state.inner_opt_state, expected.inner_opt_state, rtol=1e-10, atol=1e-12)


def test_a_step_is_that_of_the_mean_gradient():
    k, params = 5, mixed_tree()
    means = jax.tree.map(lambda g: g.reshape((-1, k) + g.shape[1:]).mean(axis=1), GRADS)
    expected, expected_state = run(gradlab.adam(0.1), params, means)
    got, state = run(multi_steps(gradlab.adam(0.1), k, accumulator_dtype=jnp.float64), params, GRADS)
    np.testing.assert_allclose(got[k - 1 :: k], expected, rtol=1e-9)
    chex.assert_trees_all_close(state.inner_opt_state, expected_state, rtol=1e-9)
    for between in range(1, k):  # at the other mini-steps nothing moves
        np.testing.assert_array_equal(got[between + k - 1 :: k], got[k - 1 : -1 : k][: len(got[between + k - 1 :: k])])


def test_optax_continues_from_a_state_of_ours_and_the_other_way():
    ours, theirs = multi_steps(gradlab.sgd(1.0, momentum=0.5), 2), _optax(optax.sgd(1.0, momentum=0.5), 2)
    states = [ours.init(jnp.zeros(1)), theirs.init(jnp.zeros(1))]
    for g in (1.0, 2.0, 3.0, 4.0):
        g = jnp.array([g])
        crossed = [ours.update(g, states[1])[0], theirs.update(g, states[0])[0]]
        (u, states[0]), (v, states[1]) = ours.update(g, states[0]), theirs.update(g, states[1])
        np.testing.assert_allclose(crossed, [v, u], rtol=1e-6)
        np.testing.assert_allclose(u, v, rtol=1e-6)


@pytest.mark.parametrize("accumulator", [None, "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("g_dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ["adafactor", "schedule_free", "chain"])
def test_no_dtype_changes_from_call_to_call(name, g_dtype, accumulator):
    params = mixed_tree(dtype=jnp.float32)
    grads = jax.tree.map(lambda p: p.astype(g_dtype), params)
    tx = multi_steps(INNERS[name][0], 2, accumulator_dtype=accumulator)
    state = jax.eval_shape(tx.init, params)
    _, after = jax.eval_shape(tx.update, grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.acc_grads)} == {jnp.dtype(accumulator or "float32")}


def test_bfloat16_gradients_are_added_in_float32():
    tx = multi_steps(gradlab.scale(1.0), 512, use_grad_mean=False)
    g = jnp.array([1.0, 2**-8], jnp.bfloat16)
    _, state = jax.lax.scan(lambda s, _: (tx.update(g, s)[1], None), tx.init(g), length=511)[::-1]
    updates, state = tx.update(g, state)
    assert updates.dtype == jnp.bfloat16 and updates.tolist() == [512.0, 2.0]  # bfloat16 sums would stop at 256


def test_complex_and_missing_gradients():
    params = {"z": jnp.array([1 + 1j]), "n": None, "w": jnp.ones(2)}
    tx = multi_steps(gradlab.adam(0.1), 2)
    state = tx.init(params)
    for factor in (1.0, 3.0):
        updates, state = tx.update({"z": factor * params["z"], "n": None, "w": None}, state, params)
    assert state.acc_grads["z"].dtype == jnp.complex64 and updates["n"] is None and updates["w"] is None
    np.testing.assert_allclose(updates["z"], [-0.1 * (1 + 1j) / np.sqrt(2)], rtol=1e-6)
    assert multi_steps(gradlab.adam(0.1), 2).update({}, tx.init({}), {})[0] == {}


def _planned(tx, params, grads, apply_updates):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    return planned_bytes(jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_memory_is_the_accumulator_and_the_updates(dtype):
    params, grads = ({name: jax.ShapeDtypeStruct((64, 64), d) for name in "abcd"} for d in ("float32", dtype))
    accumulator, updates = 4 * 64 * 64 * 4, 4 * 64 * 64 * jnp.dtype(dtype).itemsize
    alone = _planned(gradlab.adam(0.1), params, grads, gradlab.apply_updates)
    ours = _planned(multi_steps(gradlab.adam(0.1), 4), params, grads, gradlab.apply_updates)
    theirs = _planned(_optax(optax.adam(0.1), 4), params, grads, optax.apply_updates)
    assert ours - alone < 1.05 * (accumulator + updates) < 1.6 * (accumulator + updates) < theirs - alone


def _sine_update(grads, state, params=None, *, factor, **extra):
    return jax.tree.map(lambda g: factor * jnp.sin(g), grads), state


def _sine(factor=1.0):
    return gradlab.transform(lambda params: optax.EmptyState(), _sine_update, factor=factor)


def test_the_inner_update_lies_in_a_branch_also_in_a_sweep():
    g = jnp.ones(3)
    tx = multi_steps(_sine(), 2)
    found = primitives(tx.update, g, tx.init(g))
    assert "sin" in found["branch"] and "sin" not in found["always"]
    lanes = gradlab.population(lambda factor: multi_steps(_sine(factor), 2), factor=jnp.arange(1.0, 4.0))
    states = jax.vmap(lambda tx: tx.init(g))(lanes)
    found = primitives(jax.vmap(lambda tx, state: tx.update(g, state)), lanes, states)
    assert "sin" in found["branch"] and "sin" not in found["always"]
    optax_pair = _optax(_sine(), 2)
    assert "sin" not in primitives(optax_pair.update, g, optax_pair.init(g))["always"]  # in the branch of its skip,
    assert "select_n" in primitives(optax_pair.update, g, optax_pair.init(g))["branch"]  # and there at every mini-step


def test_lanes_with_different_k_equal_runs_alone():
    ks, params = [1.0, 2.0, 5.0], mixed_tree()
    make = lambda k: multi_steps(gradlab.adam(0.1), k, should_skip_update_fn=SKIP_LARGE)
    lanes = gradlab.population(make, k=jnp.array(ks))
    ends = jax.jit(jax.vmap(lambda tx: _end(tx, params)))(lanes)
    for index, k in enumerate(ks):
        alone, _ = run(make(k), params, GRADS)
        np.testing.assert_allclose(flat(jax.tree.map(lambda x, i=index: x[i], ends)), alone[-1], rtol=1e-10)


def _end(tx, params):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (gradlab.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), GRADS)[0][0]


def test_one_trace_for_all_values():
    g = jnp.ones(3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(tx, state):
        return tx.update(g, state)

    state = multi_steps(gradlab.adam(0.1), 2).init(g)
    for k, rate in ((2, 0.1), (3, 0.2), (4, 0.3)):
        skip = functools.partial(skip_large_updates, max_squared_norm=10.0 * k)
        plain = multi_steps(gradlab.adam(rate), k, should_skip_update_fn=skip)
        _, state = update(plain, state if k > 2 else plain.init(g))


@pytest.mark.parametrize("batched", [False, True])
def test_the_derivative_of_a_run_with_a_skipped_mini_step(batched):
    factors = jnp.array([[1.0, -2.0], [0.0, 1.0], [3.0, 0.5], [1.0, 1.0], [0.5, -0.5]])

    def final(rate, start):
        tx = multi_steps(
            gradlab.sgd(rate, momentum=0.9), 2, should_skip_update_fn=skip_not_finite, accumulator_dtype=jnp.float64
        )

        def step(carry, factor):
            params, state = carry
            g = jnp.where(factor == 0.0, jnp.nan, factor * params**3)
            updates, state = tx.update(g, state, params)
            return (params + updates, state), None

        params, _ = jax.lax.scan(step, (start, tx.init(start)), factors)[0]
        return jnp.sum(params**2)

    starts = jnp.array([[1.0, -0.5], [0.5, 0.7]])

    @jax.jit
    def total(rate):
        return jnp.sum(jax.vmap(final, (None, 0))(rate, starts)) if batched else final(rate, starts[0])

    numeric = (total(0.1 + 1e-5) - total(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(total)(0.1), numeric, rtol=1e-7)


def test_a_mini_step_that_is_skipped_never_happened():
    tx = multi_steps(gradlab.adam(0.1), 2, should_skip_update_fn=skip_not_finite)
    params, good = jnp.zeros(2), [jnp.array([1.0, 2.0]), jnp.array([-3.0, 1.0])]
    state = plain = tx.init(params)
    for g in good:
        _, state = tx.update(jnp.array([jnp.nan, 1.0]), state, params)
        assert bool(state.skip_state["should_skip"]) and int(state.skip_state["num_not_finite"]) == 1
        updates, state = tx.update(g, state, params)
        expected, plain = tx.update(g, plain, params)
    chex.assert_trees_all_equal((updates, state), (expected, plain))


@pytest.mark.parametrize("updates", [{"a": jnp.array([1.0, jnp.inf]), "b": jnp.array([jnp.nan])}, {"a": jnp.ones(3)}])
def test_skip_functions_equal_optax(updates):
    chex.assert_trees_all_equal(skip_not_finite(updates, 0, None), optax.skip_not_finite(updates, 0, None))
    for limit in (2.9, 3.1):
        expected = optax.skip_large_updates(updates, 0, None, limit)
        chex.assert_trees_all_close(skip_large_updates(updates, 0, None, limit), expected, rtol=1e-12)


def test_a_large_float16_gradient_has_a_finite_norm():
    skip, state = skip_large_updates(jnp.full(4, 300.0, jnp.float16), 0, None, max_squared_norm=1e6)
    assert not bool(skip) and np.isclose(float(state["norm_squared"]), 360000.0)


def _grad_update(grads, state, params=None, *, grad, **extra):
    assert "step" not in extra
    return grad, state


def test_the_inner_optimizer_sees_the_mean_as_grad_and_counts_for_itself():
    inner = gradlab.transform(lambda params: optax.EmptyState(), _grad_update)
    tx = gradlab.chain(gradlab.scale(0.0), multi_steps(inner, 2))
    state = tx.init(jnp.zeros(1))
    for g in (1.0, 3.0):
        updates, state = tx.update(jnp.array([g]), state, step=jnp.array(7))
    assert updates.tolist() == [0.0]  # the mean of what arrived, not the raw gradient of the chain


def test_it_is_a_value_with_the_methods_of_optax():
    tx = MultiSteps(gradlab.adam(0.1), every_k_schedule=2)
    assert MultiSteps is gradlab.multi_steps and isinstance(tx, optax.GradientTransformationExtraArgs)
    assert tx.gradient_transformation() is tx and gradlab.hyperparams(tx.inner_opt)["learning_rate"] == 0.1
    for copy in (
        jax.tree.map(lambda leaf: leaf, tx),
        pickle.loads(pickle.dumps(tx)),
        flax.serialization.from_bytes(tx, flax.serialization.to_bytes(tx)),
        gradlab.replace(tx, every_k_schedule=2),
    ):
        assert type(copy) is type(tx) and jax.tree.structure(copy) == jax.tree.structure(tx)
    state = tx.init(jnp.zeros(1))
    seen = []
    for _ in range(4):
        _, state = jax.jit(lambda tx, state: tx.update(jnp.ones(1), state))(tx, state)
        seen.append((bool(tx.has_updated(state)), bool(has_updated(state))))
    assert seen == [(False, False), (True, True)] * 2


def test_it_stands_in_chains_and_partitions_and_init_is_abstract():
    params = mixed_tree()
    tx = gradlab.partition({"a": multi_steps(gradlab.adam(0.1), 2), "b": gradlab.sgd(0.1)}, lambda params: "a")
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), tx.init(params))
    ours, _ = run(optax.chain(optax.scale(2.0), multi_steps(gradlab.sgd(0.1), 2)), params, GRADS)
    theirs, _ = run(optax.chain(optax.scale(2.0), _optax(optax.sgd(0.1), 2)), params, GRADS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    moved = optax.tree.map_params(tx, lambda leaf: leaf + 1, tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, tx.init(params))


def test_a_new_k_counts_at_once():
    state = multi_steps(gradlab.sgd(1.0), 9).init(jnp.zeros(1))
    for g in (1.0, 2.0, 3.0):
        updates, state = multi_steps(gradlab.sgd(1.0), 9).update(jnp.array([g]), state)
    updates, state = multi_steps(gradlab.sgd(1.0), 2).update(jnp.array([6.0]), state)
    assert updates.tolist() == [-3.0] and int(state.mini_step) == 0 and int(state.gradient_step) == 1


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="`every_k_schedule` must be >= 1, got 0"):
        multi_steps(gradlab.sgd(0.1), 0)
    tx = multi_steps(gradlab.sgd(0.1), 2, should_skip_update_fn=lambda u, step, params: (u > 0, ()))
    with pytest.raises(ValueError, match=r"must return a \(\) bool first, got bool of shape \(2,\)"):
        tx.init(jnp.zeros(2))
