"""Guards against NaN and infinity: Optax's counts and states, lanes, derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.transforms.guard import apply_if_finite, zero_nans

BAD = [0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1]


def _grads(t):
    value = [np.nan, np.inf][t % 2] if BAD[t] else 1.0 + t
    return {"a": jnp.array([1.0, value]), "b": [jnp.array(2.0)]}


def _run(tx):
    params = jax.tree.map(jnp.zeros_like, _grads(0))
    state = tx.init(params)
    history = []
    for t in range(len(BAD)):
        updates, state = tx.update(_grads(t), state, params)
        history.append((updates, state))
    return history


@pytest.mark.parametrize("most", [0, 1, 2, 10])
def test_apply_if_finite_equals_optax_step_by_step(most):
    ours = _run(apply_if_finite(gradlab.adam(0.1), most))
    theirs = _run(optax.apply_if_finite(optax.adam(0.1), most))
    for (our_updates, our_state), (their_updates, their_state) in zip(ours, theirs, strict=True):
        chex.assert_trees_all_close(our_updates, their_updates, rtol=1e-12)
        chex.assert_trees_all_equal_structs(our_state, their_state)
        chex.assert_trees_all_equal_shapes_and_dtypes(our_state, their_state)
        chex.assert_trees_all_close(our_state, their_state, rtol=1e-12)


def test_a_skipped_step_leaves_no_trace_in_the_inner_state():
    tx = apply_if_finite(gradlab.adam(0.1), 5)
    params = jnp.zeros(2)
    good = [jnp.array([1.0, 2.0]), jnp.array([-3.0, 1.0])]
    state = plain = tx.init(params)
    for g in good:
        _, plain = tx.update(g, plain, params)
        _, state = tx.update(g, state, params)
        updates, state = tx.update(jnp.array([np.nan, 1.0]), state, params)
        assert np.all(updates == 0)
    chex.assert_trees_all_equal(state.inner_state, plain.inner_state)
    assert int(state.total_notfinite) == 2 and int(state.notfinite_count) == 1 and not bool(state.last_finite)


def test_lanes_skip_one_by_one():
    tx = apply_if_finite(gradlab.sgd(1.0, momentum=0.5), 3)
    states = jax.vmap(tx.init)(jnp.zeros((3, 2)))
    update = jax.jit(jax.vmap(tx.update))
    good = jnp.ones((3, 2))
    _, states = update(good, states)
    updates, states = update(good.at[1, 0].set(jnp.nan), states)
    np.testing.assert_allclose(updates, [[-1.5, -1.5], [0.0, 0.0], [-1.5, -1.5]])
    updates, states = update(good, states)
    np.testing.assert_allclose(updates, [[-1.75, -1.75], [-1.5, -1.5], [-1.75, -1.75]])
    assert states.total_notfinite.tolist() == [0, 1, 0]


def test_the_patience_is_a_value_that_lanes_may_vary():
    lanes = jax.vmap(lambda most: apply_if_finite(gradlab.scale(1.0), most))(jnp.array([0.0, 1.0]))
    states = jax.vmap(lambda tx: tx.init(jnp.zeros(())))(lanes)
    updates, _ = jax.vmap(lambda tx, state: tx.update(jnp.inf, state))(lanes, states)
    assert updates.tolist() == [np.inf, 0.0]


@pytest.mark.parametrize("batched", [False, True])
def test_derivatives_with_respect_to_hyperparameters_survive_skipped_steps(batched):
    def final(learning_rate, second_gradient):
        tx = apply_if_finite(gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.adam(learning_rate)), 5)
        params = jnp.array([1.0, -2.0])
        state = tx.init(params)
        for g in (None, second_gradient, None):
            updates, state = tx.update(params if g is None else g, state, params)
            params = params + updates
        return jnp.sum(params**2)

    second_gradients = jnp.array([[jnp.nan, 1.0], [1.0, 1.0]])

    def total(learning_rate):
        if batched:  # the condition of a lane becomes a choice between two results that are both computed
            return jnp.sum(jax.vmap(final, (None, 0))(learning_rate, second_gradients))
        return final(learning_rate, second_gradients[0]) + final(learning_rate, second_gradients[1])

    step = 1e-5
    numeric = (total(0.1 + step) - total(0.1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(0.1), numeric, rtol=1e-6)


def test_empty_trees_and_none_leaves_are_finite():
    for grads in ({}, {"a": None}):
        tx = apply_if_finite(gradlab.identity(), 1)
        updates, state = tx.update(grads, tx.init(grads))
        assert updates == grads and bool(state.last_finite)


def test_extra_arguments_reach_the_inner_transform():
    def _use_update(grads, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: value * g, grads), state

    inner = gradlab.transform(lambda params: optax.EmptyState(), _use_update)
    tx = apply_if_finite(inner, 1)
    assert float(tx.update(jnp.array(2.0), tx.init(jnp.array(2.0)), value=jnp.array(3.0))[0]) == 6.0


def test_a_random_key_in_the_inner_state_is_kept_too():
    tx = apply_if_finite(optax.add_noise(0.1, 0.5, jax.random.key(3)), 2)
    state = tx.init(jnp.zeros(2))
    _, skipped = tx.update(jnp.full(2, jnp.nan), state)
    assert jnp.array_equal(
        jax.random.key_data(skipped.inner_state.rng_key), jax.random.key_data(state.inner_state.rng_key)
    )


@pytest.mark.parametrize(
    "wrap", [lambda inner: apply_if_finite(inner, 3), gradlab.skip_spikes], ids=["guard", "spikes"]
)
def test_residuals_may_be_inside(wrap):
    params = jnp.ones(3, jnp.bfloat16)
    tx = wrap(gradlab.with_residuals(gradlab.sgd(1e-3), bits=16))
    updates, state = tx.update(params, tx.init(params), params)
    assert updates.dtype == jnp.float32
    params = gradlab.apply_updates(params, updates)
    np.testing.assert_allclose(gradlab.float32_params(state, params), 0.999, rtol=1e-6)
    skipped, after = tx.update(params.at[0].set(jnp.nan), state, params)
    assert skipped.dtype == jnp.float32 and not skipped.any()
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


def test_negative_patience_is_refused():
    with pytest.raises(ValueError, match="`max_consecutive_errors` must be >= 0, got -1"):
        apply_if_finite(gradlab.identity(), -1)


def test_zero_nans_equals_optax():
    for (our_updates, our_state), (their_updates, their_state) in zip(
        _run(zero_nans()), _run(optax.zero_nans()), strict=True
    ):
        chex.assert_trees_all_equal(our_updates, their_updates)
        chex.assert_trees_all_equal(our_state, their_state)


def test_zero_nans_keeps_infinities_dtypes_and_complex_entries():
    g = {"x": jnp.array([jnp.nan, jnp.inf, 1.0], "bfloat16"), "z": jnp.array([complex(np.nan, 1), 2j]), "n": None}
    tx = zero_nans()
    updates, state = tx.update(g, tx.init(g))
    assert updates["x"].dtype == jnp.bfloat16 and updates["x"].tolist() == [0.0, np.inf, 1.0]
    assert updates["z"].tolist() == [0.0, 2j] and updates["n"] is None
    assert bool(state.found_nan["x"]) and bool(state.found_nan["z"])
