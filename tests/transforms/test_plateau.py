"""Reduce on plateau: beside Optax's on random losses, and by hand where Optax's is wrong."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.transforms.plateau import reduce_on_plateau

LOSSES = np.concatenate([np.geomspace(3.0, 1.0, 20), 1.0 + 0.05 * np.random.default_rng(0).normal(size=180)])
MODES = [
    {},
    {"patience": 3, "factor": 0.5},
    {"patience": 2, "cooldown": 5, "factor": 0.7, "min_scale": 0.1},
    {"patience": 1, "cooldown": 9},
    {"patience": 3, "rtol": 0.0, "atol": 0.1},
    {"patience": 2, "accumulation_size": 4},
]


def scales(tx, losses=LOSSES):
    """The factor of every step, and the last state."""

    def step(state, value):
        updates, state = tx.update({"w": jnp.ones(2)}, state, value=value)
        return state, updates["w"][0]

    state, rows = jax.jit(lambda losses: jax.lax.scan(step, tx.init({"w": jnp.ones(2)}), losses))(losses)
    return rows, state


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_scales_and_states_are_those_of_optax(mode):
    ours, optaxs = scales(reduce_on_plateau(**mode)), scales(optax.contrib.reduce_on_plateau(**mode))
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-12)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours[1], optaxs[1])
    assert len(np.unique(ours[0])) > 2


def test_a_patience_of_zero_reduces_at_every_loss_that_did_not_improve():
    """And not, as Optax, at every loss that did."""
    losses = jnp.array([3.0, 2.0, 2.0, 1.0, 1.0])
    assert scales(reduce_on_plateau(0.5, patience=0), losses)[0].tolist() == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert scales(optax.contrib.reduce_on_plateau(0.5, patience=0), losses)[0].tolist() == [
        0.5,
        0.25,
        0.25,
        0.125,
        0.125,
    ]


def test_lanes_of_every_number():
    """Counts too: each lane equals the same stage alone, in one program."""
    modes = [{"factor": 0.5, "patience": 2, "cooldown": 3}, {"factor": 0.9, "patience": 7, "accumulation_size": 2}]
    names = ("factor", "patience", "cooldown", "accumulation_size")
    defaults = {"cooldown": 0, "accumulation_size": 1}
    lanes = gradlab.population(
        reduce_on_plateau, **{name: np.array([({**defaults, **mode})[name] for mode in modes]) for name in names}
    )
    batched, _ = jax.vmap(scales)(lanes)
    for lane, mode in zip(batched, modes, strict=True):
        np.testing.assert_allclose(lane, scales(reduce_on_plateau(**mode))[0], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_low_precision_updates_keep_their_dtype_and_the_loss_its_own(dtype):
    tx = reduce_on_plateau(patience=1)
    params = {"w": jnp.ones(2, dtype), "frozen": None}
    updates, state = tx.update(params, tx.init(params), value=jnp.float32(1.0001))
    assert updates["w"].dtype == dtype and updates["frozen"] is None
    assert state.best_value == jnp.float32(1.0001)


@pytest.mark.parametrize(
    "values, name",
    [
        ({"factor": 1.0}, "factor"),
        ({"rtol": 1.5}, "rtol"),
        ({"rtol": 0.0}, "rtol"),
        ({"patience": -1}, "patience"),
        ({"accumulation_size": 0}, "accumulation_size"),
    ],
)
def test_a_number_outside_of_its_range_is_named(values, name):
    with pytest.raises(ValueError, match=name):
        reduce_on_plateau(**values)


def test_a_missing_loss_is_named():
    tx = gradlab.chain(gradlab.sgd(0.1), reduce_on_plateau())
    with pytest.raises(TypeError, match=r"reduce_on_plateau.*value=loss"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
