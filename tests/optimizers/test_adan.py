"""Adan: its NumPy oracle, Optax with Optax's weight, and laws of its look-ahead and decay."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.optimizers.adan import adan, scale_by_adan
from tests.oracles import belief_family as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR = 0.01
BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}


def falling(count):
    return 0.1 / (1 + count)


def given():
    return flat(mixed_tree()), flat(mixed_grads(), rows=STEPS)


MODES = [
    {},
    {"form": "optax"},
    {"b1": 0.9, "b2": 0.5, "b3": 0.8, "eps": 1e-2, "eps_root": 1e-3, "weight_decay": 0.1},
    {"weight_decay": 0.5, "decay": "coupled"},
    {"weight_decay": 0.1, "decay": "independent"},
    {"weight_decay": 0.5, "decay": "proximal"},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_positions_are_those_of_the_paper(mode):
    positions, _ = run(adan(LR, **mode), mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(positions, oracle.adan(*given(), LR, **mode), rtol=1e-11, atol=1e-13)


OPTAX = [
    (adan(LR, form="optax"), optax.adan(LR)),
    (
        adan(falling, 0.9, 0.5, 0.8, 1e-2, 1e-3, 0.1, BIASES, form="optax"),
        optax.adan(falling, 0.9, 0.5, 0.8, 1e-2, 1e-3, 0.1, BIASES),
    ),
    (scale_by_adan(form="optax"), optax.scale_by_adan()),
]


@pytest.mark.parametrize(("tx", "theirs"), OPTAX, ids=range(len(OPTAX)))
def test_positions_and_states_are_those_of_optax(tx, theirs):
    ours, expected = run(tx, mixed_tree(), mixed_grads()), run(theirs, mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(ours, expected, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], expected[1])


def test_the_two_forms_are_one_where_b2_is_a_half():
    forms = [run(adan(LR, b2=0.5, form=form), mixed_tree(), mixed_grads())[0] for form in ("paper", "optax")]
    chex.assert_trees_all_close(*forms, rtol=1e-12)


def test_the_second_step_of_optax_has_a_twelfth_of_the_look_ahead():
    """After gradients 1 and 2: m_hat = 2 - 1 / (1 + b1), v_hat = 1 / (1 + b2), n_hat = ((2 + w)^2 + b3) / (1 + b3)."""
    for form, weight in (("paper", 0.92), ("optax", 0.08)):
        tx = scale_by_adan(eps=0.0, form=form)
        _, state = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)))
        updates, _ = tx.update(jnp.full(1, 2.0), state)
        ahead = 2 - 0.98 / 1.98 + weight / 1.92
        np.testing.assert_allclose(updates, ahead / np.sqrt(((2 + weight) ** 2 + 0.99) / 1.99), rtol=1e-12)


def test_on_a_constant_gradient_every_step_has_the_length_of_the_learning_rate():
    grads = jax.tree.map(lambda g: jnp.broadcast_to(g[0], g.shape), mixed_grads())
    positions, _ = run(adan(LR, eps=0.0, eps_root=0.0), mixed_tree(), grads)
    np.testing.assert_allclose(np.abs(np.diff(positions, axis=0)), LR, rtol=1e-9)


def test_proximal_decay_never_passes_zero_where_decoupled_does():
    """At learning_rate * weight_decay = 3 the one divides by 4, the other multiplies by -2; a mask spares the rest."""
    params, zeros = (
        {"kernel": jnp.full(1, 8.0), "bias": jnp.full(1, 8.0)},
        {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)},
    )
    for decay, kernel in (("proximal", 2.0), ("decoupled", -16.0)):
        tx = adan(0.5, weight_decay=6.0, mask="kernel", decay=decay)
        updates, _ = tx.update(zeros, tx.init(params), params)
        moved = jax.tree.map(jnp.add, params, updates)
        assert (float(moved["kernel"][0]), float(moved["bias"][0])) == (kernel, 8.0)


def test_proximal_decay_takes_none_leaves_trees_of_rates_and_schedules():
    tx = adan(
        {"a": falling, "b": 0.5, "c": 0.5}, weight_decay=2.0, mask={"a": True, "b": True, "c": False}, decay="proximal"
    )
    params, grads = {"a": jnp.ones(1), "b": jnp.ones(1), "c": None}, {"a": jnp.zeros(1), "b": None, "c": None}
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["b"] is None and updates["c"] is None
    np.testing.assert_allclose(updates["a"], 1 / 1.2 - 1, rtol=1e-12)


def test_bad_values_are_named():
    for values, message in [
        ({"b3": 1.0}, "`b3` must be"),
        ({"weight_decay": -0.1, "decay": "proximal"}, "`weight_decay` must be"),
        ({"form": "authors"}, "unknown form"),
        ({"decay": "prox"}, "unknown decay 'prox'"),
        ({"mask": "[", "decay": "proximal"}, "no regular expression"),
    ]:
        with pytest.raises(ValueError, match=message):
            adan(LR, **values)
    tx = adan(LR, decay="proximal")
    with pytest.raises(ValueError, match="adan needs the parameters"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
