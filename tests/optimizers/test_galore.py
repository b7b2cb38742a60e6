"""GaLore: Optax step by step, the paper's oracle, which axes make a matrix, and when it decomposes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from optax.contrib import GaLoreDimensionNumbers as Numbers

from gradlab.core.values import population
from gradlab.optimizers.adam import adam
from gradlab.optimizers.galore import galore, scale_by_galore
from gradlab.optimizers.sign import scale_by_lion
from tests.oracles import memory_family as oracle
from tests.trajectories import run

LR = 0.05
STEPS = 50
SHAPES = {"bias": (4,), "conv": (2, 3, 4), "square": (3, 3), "tall": (6, 4), "wide": (3, 5)}


def tree(seed, *rows):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(*rows, *shape))) for name, shape in SHAPES.items()}


PARAMS, GRADS = tree(0), tree(1, STEPS)
HEADS = {"bias": None, "conv": Numbers(1, (0, 2)), "square": Numbers(), "tall": Numbers(1, 0), "wide": None}
OPTAX_MODES = [
    {"rank": 2, "update_proj_gap": 7},
    {"rank": 2, "update_proj_gap": 7, "scale": 0.25, "weight_decay": 0.1, "weight_dimension_numbers": HEADS},
]


@pytest.mark.parametrize("mode", OPTAX_MODES, ids=range(2))
def test_positions_and_states_are_those_of_optax(mode):
    ours, state = run(galore(LR, **mode), PARAMS, GRADS)
    optaxs, optax_state = run(optax.contrib.galore(LR, **mode), PARAMS, GRADS)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_close(state[0][:2], optax_state[0][:2], rtol=1e-10, atol=1e-13)
    projected = [name for name in SHAPES if optax_state[0].projector[name].size]
    chex.assert_trees_all_close(
        *({name: s[0].projector[name] for name in projected} for s in (state, optax_state)), rtol=1e-10, atol=1e-13
    )


def test_one_specification_serves_all_leaves_and_any_stage_goes_inside():
    params, grads = {"conv": PARAMS["conv"]}, {"conv": GRADS["conv"]}
    options = {"rank": 3, "update_proj_gap": 9, "weight_dimension_numbers": Numbers((-3, 1), -1)}
    ours = run(scale_by_galore(base_optimizer=scale_by_lion(), **options), params, grads)
    optaxs = run(optax.contrib.scale_by_galore(base_optimizer=optax.scale_by_lion(), **options), params, grads)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["tall", "wide"])
def test_positions_are_those_of_the_oracle_until_signs_matter(name):
    """With one decomposition the signs of its vectors cancel; the vectors are exact to float32."""
    options = {"rank": 2, "scale": 0.5, "wd": 0.1, "b1": 0.8, "b2": 0.99}
    tx = galore(LR, 2, STEPS, 0.5, optax.scale_by_adam(0.8, 0.99), 0.1)
    ours, _ = run(tx, {name: PARAMS[name]}, {name: GRADS[name]})
    expected = oracle.galore_adam(np.asarray(PARAMS[name]), np.asarray(GRADS[name]), gap=STEPS, lr=LR, **options)
    np.testing.assert_allclose(ours, expected.reshape(STEPS, -1), atol=1e-4)


@pytest.mark.parametrize("name", ["tall", "wide"])
def test_an_inner_stage_without_memory_projects_the_gradient_onto_its_leading_vectors(name):
    tx = scale_by_galore(2, 3, base_optimizer=optax.identity())
    params, rows = {name: PARAMS[name]}, np.asarray(GRADS[name])
    state = tx.init(params)
    for step in range(5):
        updates, state = tx.update({name: jnp.asarray(rows[step])}, state)
        left, _, right = np.linalg.svd(rows[step - step % 3], full_matrices=False)
        onto = left[:, :2] @ left[:, :2].T @ rows[step] if name == "tall" else rows[step] @ right[:2].T @ right[:2]
        np.testing.assert_allclose(updates[name], onto, atol=1e-5)


def test_full_rank_without_memory_loses_nothing_and_vectors_are_adams():
    bias = {"bias": PARAMS["bias"]}, {"bias": GRADS["bias"]}
    chex.assert_trees_all_close(run(galore(LR), *bias)[0], run(adam(LR), *bias)[0], rtol=1e-12)
    tx = scale_by_galore(base_optimizer=optax.identity())
    updates, _ = tx.update(PARAMS, tx.init(PARAMS))
    chex.assert_trees_all_close(updates, PARAMS, atol=1e-5)


def test_lanes_decompose_together_when_they_are_told_the_step():
    """A sweep hands every lane one ``step``: the program keeps its branch, and the state's own count is not read."""
    lanes = population(galore, learning_rate=np.array([0.01, 0.1]), rank=2, update_proj_gap=5)
    states = jax.vmap(lambda tx: tx.init(PARAMS))(lanes)
    update = lambda tx, state, step: tx.update(PARAMS, state, PARAMS, step=step)
    traced = jax.make_jaxpr(jax.vmap(update, in_axes=(0, 0, None)))(lanes, states, 0)
    assert "cond[" in str(traced)
    counted = jax.make_jaxpr(jax.vmap(lambda tx, state: tx.update(PARAMS, state, PARAMS)))(lanes, states)
    assert "cond[" not in str(counted)
    tx = scale_by_galore(2, 5, base_optimizer=optax.identity())
    unmoved, _ = tx.update(PARAMS, tx.init(PARAMS), step=jnp.int32(3))
    assert float(jnp.max(jnp.abs(unmoved["tall"]))) == 0.0
    moved, _ = tx.update(PARAMS, tx.init(PARAMS), step=jnp.int32(10))
    assert float(jnp.max(jnp.abs(moved["tall"]))) > 0.1


def test_complex_matrices_are_projected_with_their_phases():
    tx = scale_by_galore(base_optimizer=optax.identity())
    phases = np.exp(1j * np.arange(12).reshape(4, 3) ** 2)
    params = {"tall": jnp.asarray(phases, jnp.complex64), "wide": jnp.asarray(phases.T, jnp.complex64)}
    updates, _ = tx.update(params, tx.init(params))
    chex.assert_trees_all_close(updates, params, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"rank": 2.0}, TypeError, "`rank` must be an int"),
        ({"rank": 0}, ValueError, "`rank` must be >= 1"),
        ({"update_proj_gap": 0}, ValueError, "`update_proj_gap`"),
        ({"weight_dimension_numbers": Numbers(0, 0)}, ValueError, "'tall' of shape \\(6, 4\\)"),
        ({"weight_dimension_numbers": {"bias": Numbers(), "tall": None}}, ValueError, "'bias'"),
    ],
)
def test_what_makes_no_matrix_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        galore(LR, **values).init({"bias": PARAMS["bias"], "tall": PARAMS["tall"]})


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_ends_in_nan(bad):
    params = jnp.ones((4, 3))
    tx = galore(0.1, rank=2)
    updates, _ = tx.update(params.at[0, 0].set(bad), tx.init(params), params)
    assert jnp.all(jnp.isnan(updates))
