"""Lookahead beside Optax, its form with the slow weights in the state, SNOO and EMA-Nesterov beside plain loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gradlab
from gradlab.transforms.ema_nesterov import ema_nesterov
from gradlab.transforms.lookahead import lookahead, lookahead_in_state, snoo
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

PARAMS, GRADS = mixed_tree(), mixed_grads()
START, ROWS = flat(PARAMS), flat(GRADS, rows=STEPS)


@jax.jit
def _both(tx, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gradlab.apply_updates(params, updates)
        return (params, state), (ravel_pytree(params)[0], ravel_pytree(gradlab.eval_params(tx, state, params))[0])

    return jax.lax.scan(step, (params, tx.init(params)), grads)[1]


def both(tx):
    """The parameters after every step and what they report."""
    return map(np.asarray, _both(tx, PARAMS, GRADS))


@pytest.mark.parametrize("reset_state", [False, True])
@pytest.mark.parametrize("period", [1, 7])
def test_over_a_pair_it_is_optaxs(period, reset_state):
    pair = optax.LookaheadParams.init_synced(PARAMS)
    ours = run(lookahead(gradlab.adam(0.1), period, 0.3, reset_state), pair, GRADS)
    optaxs = run(optax.lookahead(optax.adam(0.1), period, 0.3, reset_state), pair, GRADS)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])


@pytest.mark.parametrize("reset_state", [False, True])
def test_in_the_state_it_walks_the_same_pair(reset_state):
    pairs, _ = run(lookahead(gradlab.adam(0.1), 7, 0.3, reset_state), optax.LookaheadParams.init_synced(PARAMS), GRADS)
    fast, slow = both(lookahead_in_state(gradlab.adam(0.1), 7, 0.3, reset_state))
    np.testing.assert_allclose(np.hstack([fast, slow]), pairs, rtol=1e-10, atol=1e-13)


def test_the_readout_of_a_pair_is_its_slow_half():
    tx = lookahead(gradlab.sgd(0.1), 3, 0.5)
    pair = optax.LookaheadParams(fast=PARAMS, slow=jax.tree.map(jnp.zeros_like, PARAMS))
    weights = gradlab.eval_params(tx, tx.init(pair), pair)
    chex.assert_trees_all_equal(weights, optax.LookaheadParams(fast=pair.slow, slow=pair.slow))


@pytest.mark.parametrize(("period", "lr", "momentum"), [(1, 0.7, 0.9), (7, 0.7, 0.5), (60, 1.0, 0.9)])
def test_snoo_is_its_two_loops(period, lr, momentum):
    fast, slow, b, expected = START, START, 0.0, []
    for t, g in enumerate(ROWS, start=1):
        fast = fast - 0.05 * g
        if t % period == 0:
            outer = slow - fast
            b = momentum * b + outer
            slow = slow - lr * (outer + momentum * b)
            fast = slow
        expected.append((fast, slow))
    got = both(snoo(gradlab.sgd(0.05), period, lr, momentum))
    for one, other in zip(got, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(one, np.stack(other), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reset_state", [False, True])
def test_snoo_without_momentum_is_lookahead(reset_state):
    one = both(snoo(gradlab.adam(0.1), 5, 0.4, 0.0, reset_state))
    other = both(lookahead_in_state(gradlab.adam(0.1), 5, 0.4, reset_state))
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)


def test_lanes_may_vary_the_period():
    lanes = jax.vmap(lambda period: lookahead_in_state(gradlab.adam(0.1), period))(jnp.array([2.0, 5.0]))
    rows, _ = jax.vmap(lambda tx: _both(tx, PARAMS, GRADS))(lanes)
    for index, period in enumerate((2, 5)):
        alone, _ = both(lookahead_in_state(gradlab.adam(0.1), period))
        np.testing.assert_allclose(rows[index], alone, rtol=1e-10)


@pytest.mark.parametrize("make", [lookahead_in_state, snoo])
def test_inside_of_masks_chains_and_with_missing_gradients(make):
    params = {"w": jnp.ones(2), "b": jnp.ones(1), "n": None}
    tx = gradlab.masked(gradlab.chain(gradlab.identity(), make(gradlab.sgd(0.5, 0.9), 2)), "w")
    state = tx.init(params)
    updates, state = tx.update({"w": jnp.ones(2), "b": jnp.ones(1), "n": None}, state, params)
    chex.assert_trees_all_close(updates, {"w": jnp.full(2, -0.5), "b": jnp.ones(1), "n": None})
    weights = gradlab.eval_params(tx, state, gradlab.apply_updates(params, updates))
    chex.assert_trees_all_close(weights, {"w": jnp.ones(2), "b": jnp.full(1, 2.0), "n": None})
    alone = make(gradlab.sgd(0.5), 1)
    updates, _ = alone.update({"w": None}, alone.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})
    assert updates == {"w": None}


@pytest.mark.parametrize("strength", [0.0, 0.6, lambda count: 0.6 - 0.01 * count])
def test_ema_nesterov_is_its_two_points(strength):
    q, d, ahead, expected = START, 0.0, START, []
    for t, g in enumerate(ROWS):
        u = -0.05 * (g + 0.1 * ahead)
        q, d = q + u, 0.9 * d + 0.1 * u
        ahead = q + (strength(t) if callable(strength) else strength) * d
        expected.append((ahead, q))
    step = gradlab.chain(gradlab.add_decayed_weights(0.1), gradlab.sgd(0.05), ema_nesterov(strength, 0.9))
    for one, other in zip(both(step), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(one, np.stack(other), rtol=1e-10, atol=1e-13)


def test_ema_nesterov_leaves_masked_parameters_alone():
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    tx = gradlab.masked(ema_nesterov(1.0, 0.5), "w")
    updates, state = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_close(updates, {"w": jnp.full(2, 1.5), "b": jnp.ones(1)})
    weights = gradlab.eval_params(tx, state, gradlab.apply_updates(params, updates))
    chex.assert_trees_all_close(weights, {"w": jnp.full(2, 2.0), "b": jnp.full(1, 2.0)})


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="`sync_period` must be >= 1, got 0"):
        lookahead_in_state(gradlab.sgd(0.1), 0)
    tx = lookahead(gradlab.sgd(0.1), 2, 0.5)
    with pytest.raises(ValueError, match=r"a pair LookaheadParams.*got dict.*init_synced.*lookahead_in_state"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
