"""Mechanic around other optimizers: beside Optax and NumPy, and as a wrapper that drops in."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.optimizers.mechanic import mechanize
from tests.oracles import lr_free as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

PARAMS = mixed_tree()
GRADS = jax.tree.map(lambda one, rows: one + 0.3 * rows, mixed_tree(seed=2), mixed_grads())
MODES = [{}, {"weight_decay": 0.3, "eps": 1e-3, "s_init": 0.05, "num_betas": 3}]


def same(one, other):
    chex.assert_trees_all_close(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("mode", MODES, ids=["default", "other"])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_positions_and_states_are_those_of_optax(name, mode):
    ours = run(mechanize(getattr(gradlab, name)(1.0), **mode), PARAMS, GRADS)
    optaxs = run(optax.contrib.mechanize(getattr(optax, name)(1.0), **mode), PARAMS, GRADS)
    same(ours, optaxs)
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])


@pytest.mark.parametrize("mode", MODES, ids=["default", "other"])
@pytest.mark.parametrize("form", ["optax", "paper"])
def test_positions_are_those_of_the_oracle(form, mode):
    base = -0.7 * flat(GRADS, STEPS)
    ours, _ = run(mechanize(gradlab.sgd(0.7), **mode, form=form), PARAMS, GRADS)
    same(ours, oracle.mechanic(flat(PARAMS), flat(GRADS, STEPS), base, **mode, form=form))
    assert np.max(np.abs(ours[-1] - ours[0])) > 1e-4


@pytest.mark.parametrize("form", ["optax", "paper"])
def test_steps_without_a_gradient_move_nothing_and_spoil_nothing(form):
    zeros = jax.tree.map(lambda rows: jnp.concatenate([jnp.zeros_like(rows[:3]), rows[3:]]), GRADS)
    ours, state = run(mechanize(gradlab.sgd(1.0), form=form, s_init=0.01), PARAMS, zeros)
    chex.assert_tree_all_finite((ours, state))
    np.testing.assert_array_equal(ours[2], flat(PARAMS))
    assert np.all(ours[-1] != ours[2])


WRAPPED = {
    "mechanize": lambda: mechanize(gradlab.adam(1.0)),
    "mechanize, paper": lambda: mechanize(gradlab.adam(1.0), form="paper"),
    "hypergradient": lambda: gradlab.hypergradient(gradlab.scale_by_adam(), 0.01),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_dtypes_missing_leaves_and_abstract_parameters(make, dtype):
    tree = lambda seed: {"a": jnp.asarray(np.random.default_rng(seed).normal(size=3), dtype), "b": jnp.ones(2, dtype)}
    params, tx = tree(0), make()
    state = tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, params), state)
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), state)
    updates, new_state = tx.update({**tree(1), "b": None}, state, params)
    assert updates["b"] is None and updates["a"].dtype == dtype
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_tree_all_finite((updates, new_state))
    doubled = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(doubled, state)


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_the_state_does_not_hold_the_parameters_themselves(make):
    params = jax.tree.map(jnp.copy, PARAMS)
    held = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(make().init(params))}
    assert held.isdisjoint(leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params))


def test_a_population_of_mechanics_is_its_members():
    def factors(tx):
        params, state = PARAMS, tx.init(PARAMS)
        for seed in range(4):
            updates, state = tx.update(mixed_tree(seed), state, params)
            params = gradlab.apply_updates(params, updates)
        return state.s

    firsts = [1e-4, 1e-2]
    make = lambda s_init: mechanize(gradlab.sgd(1.0), s_init=s_init)
    batched = jax.vmap(factors)(gradlab.population(make, s_init=np.array(firsts)))
    for lane, first in zip(batched, firsts, strict=True):
        same(lane, factors(make(first)))


def test_the_base_optimizer_keeps_its_names():
    tx = mechanize(gradlab.adamw(1.0, weight_decay=0.5))
    values = gradlab.hyperparams(tx)
    assert values["mechanize.weight_decay"] == 0.01 and values["add_decayed_weights.weight_decay"] == 0.5
    assert gradlab.hyperparams(gradlab.replace(tx, s_init=0.1))["s_init"] == 0.1


def test_hypergradient_descent_learns_the_rate_of_adam():
    """From a rate a hundred times too low it comes out below Adam at that rate, by a factor of ten."""
    loss = lambda p: 0.5 * jnp.sum(jnp.array([1.0, 3.0, 10.0]) * p**2)

    def reached(tx):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (params + updates, state), None

        start = jnp.array([3.0, 1.0, -1.0])
        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=300)
        return float(loss(params))

    learned = gradlab.hypergradient(gradlab.scale_by_adam(), 1e-3, 0.05, form="multiplicative")
    assert reached(learned) < 0.1 * reached(gradlab.adam(1e-3))
