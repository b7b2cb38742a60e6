"""Measurements in a chain: Optax's numbers, states that keep their structure, and what may be measured."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.core.norms import global_norm
from gradlab.core.values import hyperparams
from gradlab.optimizers.sgd import sgd
from gradlab.transforms.clip import clip_by_global_norm
from gradlab.transforms.monitor import measure_with_ema, monitor, snapshot

GRADS = [{"w": jnp.array([3.0, 4.0]) * scale, "b": jnp.ones(3)} for scale in (1.0, 0.1, 2.0)]
PARAMS = jax.tree.map(jnp.zeros_like, GRADS[0])


def per_leaf_mean(updates):
    return jax.tree.map(jnp.mean, updates)


def is_long(updates):
    return optax.tree.norm(updates) > 2.0


def after(tx, grads=GRADS):
    state = tx.init(PARAMS)
    for g in grads:
        updates, state = tx.update(g, state, PARAMS)
        chex.assert_trees_all_close(updates, g)
    return state


MEASURES = {
    "norm": lambda m: {"norm": optax.tree.norm},
    "several": lambda m: {
        "mean": per_leaf_mean,
        "share": m.measure_with_ema(is_long, 0.9),
        "raw": m.measure_with_ema(optax.tree.norm, 0.5, debias=False, accumulator_dtype="float32"),
        "clipped": optax.clip(0.5),
    },
}


class OURS:
    measure_with_ema = staticmethod(measure_with_ema)


@pytest.mark.parametrize("measures", MEASURES.values(), ids=MEASURES.keys())
def test_monitors_measure_what_optaxs_do(measures):
    ours, theirs = after(monitor(measures(OURS))), after(optax.monitor(measures(optax)))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_snapshots_are_optaxs_and_see_the_updates_of_their_place():
    chex.assert_trees_all_close(after(snapshot("m", per_leaf_mean)), after(optax.snapshot("m", per_leaf_mean)))
    tx = chain(sgd(0.5), snapshot("before", optax.tree.norm), clip_by_global_norm(0.1))
    _, state = tx.update(GRADS[0], tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.get(state, "before"), 0.5 * np.sqrt(28.0), rtol=1e-12)


def stacked():
    return jax.tree.map(lambda *rows: jnp.stack(rows), *GRADS)


def scanned(tx):
    return jax.lax.scan(lambda state, g: (tx.update(g, state, PARAMS)[1], None), tx.init(PARAMS), stacked())[0]


def test_a_loop_may_carry_the_state_from_its_beginning():
    tx = monitor({"share": measure_with_ema(is_long, 0.9), "mean": per_leaf_mean})
    chex.assert_trees_all_close(scanned(tx), after(tx), rtol=1e-12)
    chex.assert_trees_all_close(scanned(snapshot("mean", per_leaf_mean)).measurement["mean"], per_leaf_mean(GRADS[-1]))
    with pytest.raises(TypeError, match="carry"):
        scanned(optax.monitor({"norm": optax.tree.norm}))


def test_the_decay_of_an_average_is_a_hyperparameter():
    tx = monitor({"norm": measure_with_ema(optax.tree.norm, decay=0.75)})
    assert hyperparams(tx) == {"decay": 0.75}
    first, second = (float(optax.tree.norm(g)) for g in GRADS[:2])
    expected = (0.75 * 0.25 * first + 0.25 * second) / (1 - 0.75**2)
    np.testing.assert_allclose(after(tx, GRADS[:2]).measurements["norm"], expected, rtol=1e-12)


def test_states_are_made_of_shapes_alone_and_mapped_as_optaxs_are():
    tx = chain(sgd(0.1, momentum=0.9), monitor({"first": lambda updates: updates["w"][0], "norm": optax.tree.norm}))
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), state)
    mapped = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
    chex.assert_trees_all_equal(mapped[1], state[1])
    chex.assert_trees_all_equal(mapped[0][0].trace, jax.tree.map(jnp.ones_like, PARAMS))


def test_gradients_of_none_pass():
    tx = monitor({"norm": global_norm})
    updates, state = tx.update({"w": jnp.array([3.0, 4.0]), "b": None}, tx.init(PARAMS))
    assert updates["b"] is None and float(state.measurements["norm"]) == 5.0


def test_a_decay_outside_of_its_range_is_refused():
    with pytest.raises(ValueError, match="`decay`"):
        measure_with_ema(optax.tree.norm, 1.0)
