"""Projections after the learning rate: Optax's, projected gradient descent by hand, and Adam that stays inside."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradlab.core.compose import chain
from gradlab.core.update import apply_updates
from gradlab.core.values import hyperparams
from gradlab.optimizers.adam import adam
from gradlab.optimizers.sgd import sgd
from gradlab.transforms.constrain import keep_params_nonnegative, project, project_box, project_l2_ball
from gradlab.transforms.route import masked
from tests.trajectories import flat, mixed_grads, mixed_tree, run

LR = 0.3
STAGES = {
    "keep_params_nonnegative": keep_params_nonnegative(),
    "project_box": project_box(-1.0, 1.0),
    "project_l2_ball": project_l2_ball(1.0),
    "project": project(optax.projections.projection_l2_ball, scale=1.0),
}


def positive(tree):
    return jax.tree.map(jnp.abs, tree)


def test_nonnegative_parameters_are_those_of_optax():
    params, grads = positive(mixed_tree()), mixed_grads()
    ours, _ = run(chain(sgd(LR), keep_params_nonnegative()), params, grads)
    optaxs, _ = run(optax.chain(optax.sgd(LR), optax.keep_params_nonnegative()), params, grads)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-12)
    assert ours.min() == 0


BY_HAND = {
    "box": (project_box(-0.5, 0.25), lambda p: np.clip(p, -0.5, 0.25)),
    "floor": (project_box(lower=-0.5), lambda p: np.maximum(p, -0.5)),
    "ball": (project_l2_ball(1.5), lambda p: p * min(1.0, 1.5 / np.linalg.norm(p))),
    "sphere": (project(optax.projections.projection_l2_sphere, scale=2.0), lambda p: p * 2.0 / np.linalg.norm(p)),
}


@pytest.mark.parametrize(("stage", "onto"), BY_HAND.values(), ids=BY_HAND.keys())
def test_gradient_descent_behind_a_projection_is_projected_gradient_descent(stage, onto):
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(chain(sgd(LR), stage), params, grads)
    p, rows = flat(params), []
    for g in flat(grads, rows=len(ours)):
        p = onto(p - LR * g)
        rows.append(p)
    np.testing.assert_allclose(ours, np.stack(rows), rtol=1e-10, atol=1e-12)


def test_any_projection_of_optax_is_a_stage():
    params, grads = {"w": jnp.full(4, 0.25)}, {"w": mixed_grads()["dense"]["bias"]}
    ours, _ = run(chain(sgd(LR), project(optax.projections.projection_simplex, scale=1.0)), params, grads)
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, rtol=1e-12)
    assert ours.min() == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32, jnp.bfloat16])
def test_adam_in_a_box_never_leaves_it(dtype):
    params = jax.tree.map(lambda p: jnp.clip(p, -1, 1).astype(dtype), mixed_tree())
    grads = jax.tree.map(lambda g: g.astype(dtype), mixed_grads())
    positions, _ = run(chain(adam(LR), project_box(-1.0, 1.0)), params, grads)
    positions = positions.astype(float)
    assert np.max(np.abs(positions)) == 1.0
    free, _ = run(adam(LR), params, grads)
    assert np.max(np.abs(free.astype(float))) > 1.5


@settings(deadline=None, max_examples=30)
@given(
    hnp.arrays(np.float32, 6, elements=st.floats(-1, 1, width=32)),
    hnp.arrays(np.float32, 6, elements=st.floats(-3, 3, width=32)),
)
def test_a_parameter_in_the_unit_box_stays_there_to_the_last_bit(params, updates):
    params = jnp.asarray(params)
    moved, _ = STAGES["project_box"].update(jnp.asarray(updates), optax.EmptyState(), params)
    assert float(jnp.max(jnp.abs(apply_updates(params, moved)))) <= 1


def test_bounds_may_differ_from_leaf_to_leaf_and_follow_a_schedule():
    params = {"a": jnp.zeros(2), "b": {"c": jnp.zeros(2)}}
    updates = {"a": jnp.array([5.0, -5.0]), "b": {"c": jnp.array([5.0, -5.0])}}
    tx = project_box(lower={"a": -1.0, "b": -2.0}, upper={"a": jnp.array([1.0, 3.0]), "b": lambda count: 4.0 - count})
    state = tx.init(params)
    moved, state = tx.update(updates, state, params)
    chex.assert_trees_all_close(moved, {"a": jnp.array([1.0, -1.0]), "b": {"c": jnp.array([4.0, -2.0])}})
    moved, _ = tx.update(updates, state, params)
    assert moved["b"]["c"].tolist() == [3.0, -2.0]


def test_a_ball_of_some_parameters_leaves_the_others_free():
    params = {"in": jnp.zeros(2), "out": jnp.zeros(2)}
    updates = {"in": jnp.array([3.0, 4.0]), "out": jnp.array([3.0, 4.0])}
    tx = masked(project_l2_ball(1.0), "in")
    moved, _ = tx.update(updates, tx.init(params), params)
    chex.assert_trees_all_close(moved, {"in": jnp.array([0.6, 0.8]), "out": updates["out"]}, rtol=1e-12)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_none_low_precision_and_derivatives(stage):
    params = {"w": jnp.full(3, 0.25, jnp.bfloat16), "frozen": jnp.ones(2)}
    updates, _ = stage.update({"w": jnp.full(3, -2.0, jnp.bfloat16), "frozen": None}, stage.init(params), params)
    assert updates["frozen"] is None and updates["w"].dtype == jnp.bfloat16
    at_zero = lambda u: jnp.sum(stage.update(u, optax.EmptyState(), jnp.zeros(3))[0])
    chex.assert_tree_all_finite(jax.grad(at_zero)(jnp.zeros(3)))


def test_numbers_of_a_projection_are_leaves():
    assert hyperparams(STAGES["project"]) == {"values.scale": 1.0}
    assert hyperparams(STAGES["project_box"]) == {"lower": -1.0, "upper": 1.0}


@pytest.mark.parametrize("name", STAGES)
def test_what_is_missing_is_named(name):
    with pytest.raises(ValueError, match=f"{name} needs the parameters"):
        STAGES[name].update(jnp.ones(2), optax.EmptyState())


def test_trees_that_differ_are_named_by_path():
    for name in ("project", "project_l2_ball", "project_box"):
        with pytest.raises(ValueError, match="only updates have \\['a'\\]|only gradients have \\['a'\\]"):
            STAGES[name].update({"a": jnp.ones(2)}, optax.EmptyState(), {"b": jnp.ones(2)})


def test_a_negative_radius_is_refused():
    with pytest.raises(ValueError, match="`radius`"):
        project_l2_ball(-1.0)
