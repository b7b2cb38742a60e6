"""Parameters in bfloat16 with their residuals: float32's run, exact updates, and what is left alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.core.storage import Int8, ResidualState, without_slope

START = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.bfloat16)
GRADS = [jnp.asarray(np.random.default_rng(seed).normal(size=(8, 6)), jnp.float32) for seed in range(1, 9)]


def run(tx, params, grads, apply=gradlab.apply_updates):
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = apply(params, updates)
    return params, state


@pytest.mark.parametrize("apply", [gradlab.apply_updates, optax.apply_updates])
def test_sixteen_bits_are_the_float32_run_itself(apply):
    exact, _ = run(gradlab.adamw(1e-3, weight_decay=10.0), START.astype(jnp.float32), GRADS)
    decaying = gradlab.adamw(1e-3, weight_decay=10.0)  # it reads the parameters
    params, state = run(gradlab.with_residuals(decaying, bits=16), START, GRADS, apply)
    assert params.dtype == jnp.bfloat16 and state.residual.dtype == jnp.int16 and state.rng_key is None
    np.testing.assert_allclose(gradlab.float32_params(state, params), exact, rtol=3e-7)
    np.testing.assert_array_equal(params, gradlab.float32_params(state, params).astype(jnp.bfloat16))


def test_steps_too_small_for_bfloat16_arrive():
    tiny = [jnp.full(512, -(2.0**-20), jnp.float32)] * 400
    start = jnp.full(512, 1.2, jnp.bfloat16)
    lost, _ = run(gradlab.sgd(1.0), start, tiny[:3])
    np.testing.assert_array_equal(lost, start)
    params, state = run(gradlab.with_residuals(gradlab.sgd(1.0)), start, tiny)
    assert state.residual.dtype == jnp.int8
    moved = np.mean(gradlab.float32_params(state, params) - start.astype(jnp.float32))
    assert moved == pytest.approx(400 * 2.0**-20, rel=0.05)


def test_moments_are_float32_and_may_be_stored():
    tx = gradlab.with_residuals(gradlab.adamw(1e-3))
    assert tx.init(START).inner_state[0].mu.dtype == jnp.float32
    stored = gradlab.with_residuals(gradlab.adamw(1e-3, storage="bfloat16"))
    params, state = run(stored, START, GRADS)
    assert state.inner_state.inner_state[0].mu.dtype == jnp.bfloat16
    assert jnp.abs(params - run(tx, START, GRADS)[0]).max() < 0.01


def test_other_parameters_and_absent_gradients_are_left_alone():
    params = {"short": START, "long": START.astype(jnp.float32), "none": None}
    tx = gradlab.with_residuals(gradlab.sgd(0.1))
    state = tx.init(params)
    assert state.residual["long"] is None and state.residual["none"] is None
    updates, new = tx.update({"short": None, "long": GRADS[0], "none": None}, state, params)
    assert updates["short"] is None
    np.testing.assert_allclose(updates["long"], -0.1 * GRADS[0], rtol=1e-6)
    chex.assert_trees_all_equal(new.residual, state.residual)
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), state)
    assert tx.update({}, tx.init({}), {})[0] == {}


def test_a_parameter_that_falls_to_nearly_nothing_is_not_misread():
    params = jnp.asarray([1.0, -3.0, 1e5], jnp.bfloat16)
    tx = gradlab.with_residuals(gradlab.sgd(1.0))
    params, state = run(tx, params, [params.astype(jnp.float32) - jnp.asarray([1e-10, -1e-12, 0.0], jnp.float32)])
    full = gradlab.float32_params(state, params)
    assert jnp.all(jnp.isfinite(full)) and jnp.all(jnp.abs(full) < 1e-2)
    moved = jnp.zeros_like(params)  # a parameter that was set to zero from outside
    assert jnp.all(jnp.isfinite(gradlab.float32_params(state._replace(residual=jnp.full(3, -5, jnp.int8)), moved)))


def test_the_groups_of_a_partition_keep_their_own_and_frozen_parameters_are_as_they_are():
    params = {"a": START, "b": START, "frozen": START}
    tx = gradlab.partition(
        {
            "a": gradlab.with_residuals(gradlab.sgd(1e-4), bits=16),
            "b": gradlab.with_residuals(gradlab.sgd(1e-3), bits=16),
            "frozen": gradlab.set_to_zero(),
        },
        {name: name for name in params},
    )
    params, state = run(tx, params, [dict.fromkeys(params, GRADS[0])])
    full, start = gradlab.float32_params(state, params), START.astype(jnp.float32)
    for name, rate in (("a", 1e-4), ("b", 1e-3)):
        np.testing.assert_allclose(full[name] - start, -rate * GRADS[0], atol=3e-7)
    assert full["frozen"] is params["frozen"]
    tx = optax.masked(gradlab.with_residuals(gradlab.sgd(1e-4), bits=16), {"free": True, "frozen": False})
    params = {"free": START, "frozen": {"deep": START, "deeper": [START]}}  # one hole in the state for a whole subtree
    assert gradlab.float32_params(tx.init(params), params)["free"].dtype == jnp.float32


def test_evaluation_weights_are_read_from_whole_parameters():
    def after(tx, start):
        params, state = run(tx, start, GRADS[:3])
        return state, params

    exact = gradlab.schedule_free_sgd(1e-3, b1=0.5)
    wanted = gradlab.eval_params(exact, *after(exact, START.astype(jnp.float32)))
    tx = gradlab.with_residuals(gradlab.schedule_free_sgd(1e-3, b1=0.5), bits=16)
    state, params = after(tx, START)
    np.testing.assert_array_equal(gradlab.eval_params(tx, state, params), wanted.astype(jnp.bfloat16))
    full = gradlab.float32_params(state, params)
    np.testing.assert_allclose(gradlab.eval_params(tx, state, full), wanted, rtol=3e-7)


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_a_run_that_diverged_stays_so(bad):
    params, state = run(gradlab.with_residuals(gradlab.sgd(1.0)), START, [GRADS[0].at[0, 0].set(bad), GRADS[1]])
    full = gradlab.float32_params(state, params)
    assert not jnp.isfinite(full[0, 0]) and jnp.all(jnp.isfinite(full.ravel()[1:]))


def test_derivatives_pass_what_has_no_residuals_and_stop_at_codes_inside():
    long, stored = (
        START.astype(jnp.float32),
        gradlab.with_residuals(gradlab.sgd(0.1, momentum=0.9, storage=Int8(least=0))),
    )
    assert without_slope(gradlab.with_residuals(gradlab.adamw(1e-3)).init(long)) is None
    assert without_slope(stored.init(long)) == "moments in codes"
    assert without_slope(stored.init(START)) == "residuals of bfloat16 parameters"


def test_lanes_equal_the_loop():
    make = lambda seed: gradlab.with_residuals(gradlab.adamw(1e-3), seed=seed)
    lanes = gradlab.population(make, seed=np.array([0, 1]))
    params, states = jax.vmap(lambda tx: run(tx, START, GRADS[:3]))(lanes)
    for index in range(2):
        alone, state = run(make(index), START, GRADS[:3])
        np.testing.assert_array_equal(params[index], alone)
    assert np.any(states.residual[0] != states.residual[1])


def test_errors():
    with pytest.raises(ValueError, match="unknown bits 12; .* 8, 16"):
        gradlab.with_residuals(gradlab.sgd(0.1), bits=12)
    tx = gradlab.with_residuals(gradlab.sgd(0.1))
    with pytest.raises(ValueError, match="with_residuals needs the parameters"):
        tx.update(START, tx.init(START))
    with pytest.raises(ValueError, match="got one without residuals"):
        gradlab.float32_params(gradlab.sgd(0.1).init(START), START)
    nested = gradlab.chain(tx)
    assert isinstance(nested.init(START)[0], ResidualState)
    np.testing.assert_array_equal(gradlab.float32_params(nested.init(START), START), START)
