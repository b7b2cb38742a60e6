"""DP-SGD: Optax's numbers, the size of its noise, and how far one example moves it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradlab
from gradlab.optimizers.privacy import differentially_private_aggregate, dpsgd
from tests.trajectories import flat, mixed_tree

N, STEPS = 6, 50
PARAMS = mixed_tree()
EXAMPLES = jax.tree.map(lambda leaf: leaf.reshape(STEPS, N, *leaf.shape[1:]), mixed_tree(seed=2, steps=STEPS * N))
ONE_BATCH = jax.tree.map(lambda leaf: leaf[0], EXAMPLES)


def trajectory(tx):
    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), positions = jax.jit(lambda: jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), EXAMPLES))()
    return flat(positions, rows=STEPS), state


@pytest.mark.filterwarnings("ignore:.*seed.*:DeprecationWarning")
@pytest.mark.parametrize("more", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_positions_and_states_are_those_of_optax(more):
    arguments = {"learning_rate": 0.1, "l2_norm_clip": 0.5, "noise_multiplier": 1.3, "seed": 4, **more}
    ours, theirs = trajectory(dpsgd(**arguments)), trajectory(optax.contrib.dpsgd(**arguments))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-10, atol=1e-13)
    assert type(ours[1][0]) is type(theirs[1][0])
    np.testing.assert_array_equal(ours[1][0].rng_key, jax.random.key_data(theirs[1][0].rng_key))


def draws(tx, count, grads=ONE_BATCH):
    keys = jax.vmap(jax.random.key_data)(jax.random.split(jax.random.key(9), count))
    state = tx.init(grads)
    draw = lambda key: tx.update(grads, state._replace(rng_key=key))[0]
    return jax.jit(jax.vmap(draw))(keys)


def test_the_noise_has_the_deviation_of_the_mechanism_and_no_mean():
    clip, multiplier, count = 0.5, 1.3, 4000
    clean = flat(differentially_private_aggregate(clip, 0.0, key=0).update(ONE_BATCH, _state(0))[0])
    noise = flat(draws(differentially_private_aggregate(clip, multiplier, key=0), count), rows=count) - clean
    deviation = multiplier * clip / N
    assert np.max(np.abs(noise.mean(0))) < 4.5 * deviation / np.sqrt(count)
    pooled = noise.size
    assert abs(noise.std() / deviation - 1) < 4.5 / np.sqrt(2 * pooled)
    correlations = np.corrcoef(noise.T) - np.eye(noise.shape[1])
    assert np.max(np.abs(correlations)) < 5 / np.sqrt(count)


def _state(seed):
    return optax.contrib.DifferentiallyPrivateAggregateState(rng_key=jax.random.PRNGKey(seed))


def test_the_noise_of_a_complex_number_has_that_deviation_in_both_parts():
    """Optax draws complex noise of variance 1 in all, half of what the bound on the norm calls for in each part."""
    count, grads = 4000, jnp.zeros((N, 3), jnp.complex128)
    noise = draws(differentially_private_aggregate(2.0, 1.5, key=0), count, grads)
    for part in (noise.real, noise.imag):
        assert abs(np.std(part) / (1.5 * 2.0 / N) - 1) < 4.5 / np.sqrt(2 * part.size)
    theirs = draws(optax.contrib.differentially_private_aggregate(2.0, 1.5, key=0), count, grads)
    assert np.std(theirs.real) == pytest.approx(1.5 * 2.0 / N / np.sqrt(2), rel=0.05)


@settings(deadline=None, max_examples=25)
@given(example=st.integers(0, N - 1), size=st.floats(1e-3, 1e6), clip=st.floats(1e-2, 1e2))
def test_replacing_one_example_moves_the_mean_by_at_most_two_bounds_and_removing_it_by_one(example, size, clip):
    tx = differentially_private_aggregate(clip, 0.0, key=0)
    mean = lambda grads: flat(tx.update(grads, _state(0))[0])
    replaced = jax.tree.map(lambda leaf: leaf.at[example].multiply(-size), ONE_BATCH)
    removed = jax.tree.map(lambda leaf: leaf.at[example].set(0), ONE_BATCH)
    assert np.linalg.norm(mean(replaced) - mean(ONE_BATCH)) <= 2 * clip / N * (1 + 1e-9)
    assert np.linalg.norm(mean(removed) - mean(ONE_BATCH)) <= clip / N * (1 + 1e-9)


def test_the_largest_example_moves_the_mean_by_the_bound():
    grads = {"w": jnp.zeros((N, 3)).at[0].set(100.0)}
    updates, _ = differentially_private_aggregate(0.5, 0.0, key=0).update(grads, _state(0))
    assert np.linalg.norm(updates["w"]) == pytest.approx(0.5 / N, rel=1e-12)


def test_low_precision_noise_is_added_in_float32():
    """A sum of 4096 in bfloat16 cannot take up noise of deviation 1; the mean of float32 sums can."""
    grads = jnp.full((4096, 64), 1.0, jnp.bfloat16)
    updates, _ = differentially_private_aggregate(8.0, 1.0, key=0).update(grads, _state(0))
    assert updates.dtype == jnp.bfloat16
    total, _ = differentially_private_aggregate(8.0, 1.0, key=0).update(grads.astype(jnp.float32), _state(0))
    np.testing.assert_array_equal(updates, total.astype(jnp.bfloat16))


def test_every_step_and_every_leaf_has_noise_of_its_own():
    tx = differentially_private_aggregate(1.0, 1.0, key=3)
    grads = {"a": jnp.zeros((N, 4)), "b": jnp.zeros((N, 4))}
    first, state = tx.update(grads, tx.init(grads))
    second, _ = tx.update(grads, state)
    rows = np.stack([first["a"], first["b"], second["a"], second["b"]])
    assert len(np.unique(rows)) == rows.size


def test_lanes_draw_noise_of_their_own():
    lanes = gradlab.population(dpsgd, learning_rate=0.1, l2_norm_clip=1.0, noise_multiplier=1.0, seed=np.arange(3.0))
    states = jax.vmap(lambda tx: tx.init(PARAMS))(lanes)
    step = jax.jit(jax.vmap(lambda tx, state: tx.update(ONE_BATCH, state, PARAMS)[0]))
    updates = step(lanes, states)
    alone, _ = trajectory(dpsgd(0.1, 1.0, 1.0, seed=1))
    rows = flat(updates, rows=3)
    np.testing.assert_allclose(rows[1], alone[0] - flat(PARAMS), rtol=1e-10, atol=1e-13)
    assert np.max(np.abs(rows[0] - rows[2])) > 1e-3


def test_hyperparameters_are_leaves_by_name():
    tx = dpsgd(0.1, 0.5, 1.3, seed=0, momentum=0.9)
    values = gradlab.hyperparams(tx)
    assert set(values) == {"key", "l2_norm_clip", "noise_multiplier", "momentum", "learning_rate"}
    changed = gradlab.replace(tx, l2_norm_clip=0.25, noise_multiplier=0.0)
    updates, _ = changed.update(ONE_BATCH, changed.init(PARAMS), PARAMS)
    exact, _ = gradlab.per_example_global_norm_clip(ONE_BATCH, 0.25)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda total: -0.1 * total / N, exact), rtol=1e-12)


def test_trees_with_none_and_without_leaves():
    tx = dpsgd(0.1, 1.0, 1.0, seed=0)
    assert tx.update({}, tx.init({}), {})[0] == {}
    updates, _ = tx.update({"a": jnp.ones((2, 3)), "b": None}, tx.init({"a": jnp.ones(3), "b": None}))
    assert updates["b"] is None and updates["a"].shape == (3,)


def test_gradients_of_a_whole_batch_are_refused():
    tx = dpsgd(0.1, 1.0, 1.0, seed=0)
    with pytest.raises(ValueError, match="needs gradients of single examples.*'bias'"):
        tx.update({"bias": jnp.ones(4), "w": jnp.ones((3, 4))}, tx.init(PARAMS))


def test_a_key_must_be_given_once():
    for keys in ({}, {"key": 0, "seed": 0}):
        with pytest.raises(ValueError, match="either `key` or `seed`"):
            differentially_private_aggregate(1.0, 1.0, **keys)


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="l2_norm_clip"):
        dpsgd(0.1, -1.0, 1.0, seed=0)
