"""AdaBelief, ACProp and Yogi: NumPy oracles, Optax, and the laws of their first and later steps."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.optimizers.belief import acprop, adabelief, scale_by_belief
from gradlab.optimizers.yogi import scale_by_yogi, yogi
from tests.oracles import belief_family as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR = 0.01
BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}


def falling(count):
    return 0.1 / (1 + count)


def given():
    return flat(mixed_tree()), flat(mixed_grads(), rows=STEPS)


ORACLES = [
    (adabelief, {}),
    (adabelief, {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3}),
    (adabelief, {"nesterov": True, "eps_root": 0.0}),
    (adabelief, {"weight_decay": 0.1}),
    (adabelief, {"weight_decay": 0.1, "decay": "coupled"}),
    (adabelief, {"weight_decay": 0.1, "decay": "independent"}),
    (acprop, {}),
    (acprop, {"form": "optax"}),
    (acprop, {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3, "weight_decay": 0.1}),
    (acprop, {"weight_decay": 0.1, "decay": "coupled"}),
    (yogi, {}),
    (yogi, {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3}),
]


@pytest.mark.parametrize(("make", "mode"), ORACLES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_positions_are_those_of_the_papers(make, mode):
    positions, _ = run(make(LR, **mode), mixed_tree(), mixed_grads())
    expected = getattr(oracle, make.__name__)(*given(), LR, **mode)
    chex.assert_trees_all_close(positions, expected, rtol=1e-11, atol=1e-13)


def test_yogi_starts_where_it_is_told():
    positions, _ = run(yogi(LR, initial_accumulator_value=0.1), mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(positions, oracle.yogi(*given(), LR, start=0.1), rtol=1e-11, atol=1e-13)


OPTAX = [
    (adabelief(falling, 0.5, 0.9, 1e-2, 1e-3), optax.adabelief(falling, 0.5, 0.9, 1e-2, 1e-3)),
    (adabelief(LR, nesterov=True), optax.adabelief(LR, nesterov=True)),
    (
        acprop(falling, 0.5, 0.9, 1e-2, 1e-3, 0.1, BIASES, form="optax"),
        optax.contrib.acprop(falling, 0.5, 0.9, 1e-2, 1e-3, 0.1, BIASES),
    ),
    (yogi(falling, 0.5, 0.9, 1e-2), optax.yogi(falling, 0.5, 0.9, 1e-2)),
    (scale_by_belief(), optax.scale_by_belief()),
    (scale_by_yogi(0.5, 0.9, 1e-2, 1e-3, 0.1), optax.scale_by_yogi(0.5, 0.9, 1e-2, 1e-3, 0.1)),
]


@pytest.mark.parametrize(("tx", "theirs"), OPTAX, ids=range(len(OPTAX)))
def test_positions_and_states_are_those_of_optax(tx, theirs):
    ours, expected = run(tx, mixed_tree(), mixed_grads()), run(theirs, mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(ours, expected, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], expected[1])


def test_complex_parameters_are_moved_as_optax_moves_them():
    params, grads = mixed_tree(dtype=np.complex128), mixed_grads(dtype=np.complex128)
    ours, expected = run(adabelief(LR), params, grads), run(optax.adabelief(LR), params, grads)
    chex.assert_trees_all_close(ours, expected, rtol=1e-10, atol=1e-13)


def test_the_error_of_optaxs_acprop_is_larger_by_b1_and_its_steps_are_shorter():
    b1 = 0.5
    steps = {form: on_one(acprop(LR, b1=b1, eps_root=0.0, form=form), [3.0, -1.0, 2.0]) for form in ("paper", "optax")}
    np.testing.assert_allclose(steps["optax"], steps["paper"] * [1, b1, b1], rtol=1e-12)


def on_one(tx, gradients):
    """The updates of a single parameter for a sequence of gradients."""
    state, updates = tx.init(jnp.zeros(1)), []
    for g in gradients:
        update, state = tx.update(jnp.array([g]), state, jnp.zeros(1))
        updates.append(float(update[0]))
    return np.array(updates)


def test_the_first_step_of_adabelief_is_longer_than_the_learning_rate_by_one_over_b1():
    np.testing.assert_allclose(on_one(adabelief(LR, b1=0.8, eps=0.0, eps_root=0.0), [7.0]), -LR / 0.8, rtol=1e-13)


def test_eps_root_enters_the_average_undamped():
    """Without any error ``nu_hat`` is eps_root / (1 - b2) from the first step on."""
    b2, eps_root = 0.9, 1e-4
    tx = scale_by_belief(b1=0.0, b2=b2, eps=0.0, eps_root=eps_root)
    np.testing.assert_allclose(on_one(tx, [3.0] * 5), 3.0 / math.sqrt(eps_root / (1 - b2)), rtol=1e-12)


def test_a_large_gradient_of_acprop_is_not_divided_by_itself():
    outlier, small = on_one(acprop(LR), [1.0, -1.0, 1e6]), on_one(acprop(LR), [1.0, -1.0, 1.0])
    np.testing.assert_allclose(outlier[-1], 1e6 * small[-1], rtol=1e-12)


def test_yogi_forgets_an_outlier_no_faster_than_the_gradients_after_it_weigh():
    b2, steps = 0.9, 20
    tx = scale_by_yogi(b2=b2, initial_accumulator_value=0.0)
    state = tx.init(jnp.zeros(1))
    for g in [100.0] + [1.0] * steps:
        _, state = tx.update(jnp.array([g]), state)
    np.testing.assert_allclose(state.nu, (1 - b2) * (100.0**2 - steps), rtol=1e-12)


@pytest.mark.parametrize("make", [adabelief, acprop, yogi], ids=lambda make: make.__name__)
def test_bad_values_are_named(make):
    for values, name in [({"b1": 1.0}, "b1"), ({"b2": -0.1}, "b2"), ({"eps": -1.0}, "eps")]:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            make(LR, **values)


def test_unknown_forms_are_named():
    with pytest.raises(ValueError, match="unknown form 'papers'; did you mean 'paper'"):
        acprop(LR, form="papers")
    with pytest.raises(ValueError, match="`initial_accumulator_value` must be"):
        yogi(LR, initial_accumulator_value=-1.0)


def test_adabelief_without_decay_needs_no_parameters():
    tx = adabelief(LR)
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    decaying = adabelief(LR, weight_decay=0.1, mask="kernel")
    params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
    updates, _ = decaying.update(jax.tree.map(jnp.zeros_like, params), decaying.init(params), params)
    assert gradlab.hyperparams(decaying)["weight_decay"] == 0.1
    np.testing.assert_allclose([updates["kernel"][0], updates["bias"][0]], [-LR * 0.1, 0.0])
