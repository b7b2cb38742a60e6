"""Gradient noise: variance and its decay, keys, lanes, Optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import gradlab
from gradlab.transforms.noise import add_noise

MANY = 40_000


def test_the_variance_is_eta_over_one_plus_count_to_the_gamma():
    tx = add_noise(eta=0.3, gamma=0.55, key=1)
    state = tx.init(jnp.zeros(MANY))
    for t in range(4):
        updates, state = tx.update(jnp.full(MANY, 2.0), state)
        expected = 0.3 / (1 + t) ** 0.55
        noise = np.asarray(updates) - 2.0
        assert abs(noise.mean()) < 5 * np.sqrt(expected / MANY)
        assert abs(noise.var() / expected - 1) < 5 * np.sqrt(2 / MANY)


def test_equals_optax_for_the_same_key():
    grads = {"a": jnp.ones(3), "b": [jnp.zeros((2, 2), "float32")], "z": jnp.ones(2, "complex128")}
    ours, theirs = add_noise(0.3, 0.55, 7), optax.add_noise(0.3, 0.55, 7)
    our_state, their_state = ours.init(grads), theirs.init(grads)
    assert type(our_state) is type(their_state)
    for _ in range(3):
        our_updates, our_state = ours.update(grads, our_state)
        their_updates, their_state = theirs.update(grads, their_state)
        chex.assert_trees_all_close(our_updates, their_updates, rtol=1e-6)
        np.testing.assert_array_equal(our_state.rng_key, jax.random.key_data(their_state.rng_key))
    continued, _ = ours.update(grads, their_state)
    chex.assert_trees_all_close(continued, theirs.update(grads, their_state)[0], rtol=1e-6)


def test_leaves_and_steps_draw_independent_noise():
    tx = add_noise(1.0, 0.0, 0)
    grads = {"a": jnp.zeros(MANY), "b": jnp.zeros(MANY)}
    first, state = tx.update(grads, tx.init(grads))
    second, _ = tx.update(grads, state)
    draws = np.stack([first["a"], first["b"], second["a"], second["b"]])
    correlations = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert np.max(np.abs(correlations)) < 5 / np.sqrt(MANY)


def test_one_seed_in_every_form_is_one_key():
    forms = [3, np.int64(3), jnp.int32(3), jax.random.key(3), jax.random.PRNGKey(3)]
    keys = [add_noise(1.0, 0.5, form).init(()).rng_key for form in forms]
    keys += [add_noise(1.0, 0.5, seed=3).init(()).rng_key]
    assert all(jnp.array_equal(key, jax.random.PRNGKey(3)) for key in keys)
    assert jnp.array_equal(add_noise(1.0, 0.5).init(()).rng_key, jax.random.PRNGKey(0))


@pytest.mark.parametrize("keys", [jnp.arange(3), jax.random.split(jax.random.key(5), 3)])
def test_lanes_with_keys_of_their_own_equal_single_runs(keys):
    def make(key):
        return add_noise(0.3, 0.55, key)

    lanes = gradlab.population(make, key=keys)
    states = jax.vmap(lambda tx: tx.init(jnp.zeros(4)))(lanes)
    updates, _ = jax.vmap(lambda tx, state: tx.update(jnp.zeros(4), state))(lanes, states)
    assert len(np.unique(np.asarray(updates))) == updates.size
    for lane, key in enumerate(keys):
        tx = make(key)
        np.testing.assert_allclose(updates[lane], tx.update(jnp.zeros(4), tx.init(jnp.zeros(4)))[0], rtol=1e-6)


def test_no_noise_at_eta_zero_and_a_finite_slope_in_gamma():
    def drawn(eta, gamma):
        tx = add_noise(eta, gamma, 0)
        return tx.update(jnp.ones(3), tx.init(jnp.ones(3)))[0]

    assert drawn(0.0, 0.55).tolist() == [1.0, 1.0, 1.0]
    assert float(jax.grad(lambda gamma: jnp.sum(drawn(0.0, gamma)))(0.55)) == 0.0


def test_the_state_can_be_serialised_and_donated():
    tx = add_noise(0.3, 0.55, 0)
    state = tx.init(jnp.zeros(2))
    restored = serialization.from_bytes(state, serialization.to_bytes(state))
    chex.assert_trees_all_equal(restored, state)
    jax.jit(lambda state: tx.update(jnp.zeros(2), state), donate_argnums=0)(state)
    assert int(tx.init(jnp.zeros(2)).count) == 0  # the key in the optimizer is not the one given away
    assert tx.init(jnp.zeros(2)).rng_key.tolist() == jax.random.PRNGKey(0).tolist()


def test_none_leaves_and_dtypes_stay():
    grads = {"a": None, "b": jnp.ones(2, "bfloat16"), "c": optax.MaskedNode()}
    tx = add_noise(0.3, 0.55, 0)
    updates, _ = tx.update(grads, tx.init(grads))
    chex.assert_trees_all_equal_structs(updates, grads)
    assert updates["b"].dtype == jnp.bfloat16


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`eta` must be >= 0, got -1"):
        add_noise(-1.0, 0.5, 0)
    with pytest.raises(ValueError, match="`gamma` must be >= 0"):
        add_noise(1.0, -0.5, 0)
    with pytest.raises(ValueError, match="`key` or `seed`, not both"):
        add_noise(1.0, 0.5, 0, seed=0)
