"""Weight decay: where it stands, what it spares, Optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import gradlab
from gradlab.transforms.decay import add_decayed_weights, subtract_decayed_weights, with_weight_decay

PARAMS = {"dense": {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.array([8.0])}, "norm": {"scale": jnp.array([1.0])}}
GRADS = jax.tree.map(lambda p: 0.1 * p + 1, PARAMS)
MASK = {"dense": {"kernel": True, "bias": False}, "norm": False}


def _apply(tx, grads=GRADS, params=PARAMS):
    return tx.update(grads, tx.init(params), params)[0]


def test_the_decay_is_added_or_subtracted():
    expected = jax.tree.map(lambda g, p: g + 0.3 * p, GRADS, PARAMS)
    chex.assert_trees_all_close(_apply(add_decayed_weights(0.3)), expected, rtol=1e-12)
    expected = jax.tree.map(lambda g, p: g - 0.3 * p, GRADS, PARAMS)
    chex.assert_trees_all_close(_apply(subtract_decayed_weights(0.3)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "mask",
    ["kernel$", ["kernel$"], MASK, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)],
    ids=["pattern", "patterns", "tree", "function"],
)
@pytest.mark.parametrize("make", [add_decayed_weights, subtract_decayed_weights])
def test_a_mask_in_every_form_spares_the_others(make, mask):
    updates, full = _apply(make(0.3, mask)), _apply(make(0.3))
    chex.assert_trees_all_equal(updates["dense"]["kernel"], full["dense"]["kernel"])
    chex.assert_trees_all_equal(updates["dense"]["bias"], GRADS["dense"]["bias"])
    chex.assert_trees_all_equal(updates["norm"], GRADS["norm"])


@pytest.mark.parametrize("mask", [None, MASK])
def test_equals_optax_in_updates_and_state(mask):
    ours, theirs = add_decayed_weights(0.3, mask), optax.add_decayed_weights(0.3, mask)
    chex.assert_trees_all_close(_apply(ours), _apply(theirs), rtol=1e-12)
    chex.assert_trees_all_equal(ours.init(PARAMS), theirs.init(PARAMS))


def _two_sgd_steps(decay, learning_rates=(0.1, 0.2), weight_decay=0.5):
    tx = with_weight_decay(
        gradlab.trace(0.9), lambda t: jnp.array(learning_rates)[t.astype(int)], weight_decay, None, decay
    )
    p = jnp.array(2.0)
    state = tx.init(p)
    for g in (1.0, -3.0):
        updates, state = tx.update(jnp.array(g), state, p)
        p = p + updates
    return float(p)


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent"])
def test_the_three_places_of_the_decay_in_plain_arithmetic(decay):
    p, m = 2.0, 0.0
    for learning_rate, g in ((0.1, 1.0), (0.2, -3.0)):
        m = 0.9 * m + g + (0.5 * p if decay == "coupled" else 0.0)
        shrink = {"coupled": 0.0, "decoupled": learning_rate * 0.5 * p, "independent": 0.5 * p}[decay]
        p = p - learning_rate * m - shrink
    np.testing.assert_allclose(_two_sgd_steps(decay), p, rtol=1e-12)


def test_an_independent_decay_does_not_see_the_learning_rate():
    frozen = {decay: _two_sgd_steps(decay, (0.0, 0.0)) for decay in ("coupled", "decoupled", "independent")}
    np.testing.assert_allclose(list(frozen.values()), [2.0, 2.0, 2.0 * 0.5 * 0.5], rtol=1e-12)


def test_an_unknown_place_is_refused_with_a_guess():
    with pytest.raises(ValueError, match="unknown decay 'decouple'; did you mean 'decoupled'"):
        with_weight_decay(gradlab.identity(), 0.1, 0.1, None, "decouple")


def test_scheduled_and_per_subtree_decay():
    tx = add_decayed_weights({"dense": lambda count: 0.1 * (1 + count), "norm": 0.0})
    state = tx.init(PARAMS)
    for t in range(3):
        updates, state = tx.update(GRADS, state, PARAMS)
        expected = jax.tree.map(lambda g, p, t=t: g + 0.1 * (1 + t) * p, GRADS["dense"], PARAMS["dense"])
        chex.assert_trees_all_close(updates["dense"], expected, rtol=1e-6)
        chex.assert_trees_all_equal(updates["norm"], GRADS["norm"])


def test_a_mask_by_path_on_a_flax_network():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.LayerNorm()(linen.Dense(3)(x)))

    params = Net().init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    params = jax.tree.map(lambda p: p + 1, params)
    updates = _apply(add_decayed_weights(1.0, "kernel"), jax.tree.map(jnp.zeros_like, params), params)
    for path, u in jax.tree_util.tree_leaves_with_path(updates):
        assert bool(jnp.all(u != 0)) == ("kernel" in jax.tree_util.keystr(path))


def test_none_gradients_pass_and_missing_parameters_are_named():
    assert add_decayed_weights(0.1).update(None, optax.EmptyState(), jnp.ones(2))[0] is None
    for make in (add_decayed_weights, subtract_decayed_weights):
        with pytest.raises(ValueError, match=f"{make.__name__} needs the parameters"):
            make(0.1).update(jnp.ones(2), optax.EmptyState())
        with pytest.raises(ValueError, match="`weight_decay` must be >= 0, got -1"):
            make(-1.0)


def test_low_precision_decay_is_added_before_rounding():
    g, p = jnp.array([1.0], "bfloat16"), jnp.array([1.0], "bfloat16")
    tx = gradlab.chain(add_decayed_weights(2**-5), gradlab.scale(2.0**5))
    assert float(_apply(tx, g, p)[0]) == 2.0**5 + 1


def test_no_weight_decay_is_no_stage():
    params = {"w": jnp.ones(3)}
    for weight_decay, stages in ((None, 2), (0.0, 3)):
        tx = gradlab.adamw(0.1, weight_decay=weight_decay)
        assert len(tx.init(params)) == stages
        updates, _ = tx.update(params, tx.init(params), params)
        chex.assert_trees_all_close(updates, {"w": jnp.full(3, -0.1)}, rtol=1e-6)
    for make in (add_decayed_weights, subtract_decayed_weights):
        with pytest.raises(TypeError, match="leave the stage out"):
            make(None)
