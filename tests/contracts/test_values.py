"""Hyperparameters are data: one trace for any values, lanes equal loops, gradients flow."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

import gradlab
from tests.contracts.cases import (
    DERIVATIVE_IN,
    EMPTY_STEPS,
    EXACT,
    FORWARD_ONLY,
    NAMES,
    OF_PARTS,
    SMOOTH,
    STARTS_ONLY,
    bowl,
    build,
    extra,
    map_numbers,
    mixed_tree,
    numbers,
    rate_of,
    run,
    update,
)

GRADS = [mixed_tree(seed=seed) for seed in range(1, 6)]


def other_values(tx, factor):
    return map_numbers(lambda number: number * factor, tx)


class Variants(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    @parameterized.parameters(*NAMES)
    def test_every_way_of_calling_gives_the_same_numbers(self, name):
        tx, params = build(name), mixed_tree()
        eager_updates, eager_state = update(name, tx, GRADS[0], tx.init(params), params)
        init = self.variant(tx.init)
        step = self.variant(lambda grads, state, params: update(name, tx, grads, state, params))
        updates, state = step(GRADS[0], init(params), params)
        chex.assert_trees_all_close((updates, state), (eager_updates, eager_state), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_one_trace_for_all_values_and_both_calls(name):
    params = mixed_tree()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(tx, grads, state, params):
        return update(name, tx, grads, state, params)

    state = build(name).init(params)
    for factor in (1.0, 0.9, 0.8):
        tx = other_values(build(name), factor)
        for grads in GRADS[:2]:
            updates, state = step(tx, grads, state, params)


@pytest.mark.parametrize("name", NAMES)
def test_eager_updates_compile_once(name):
    params = mixed_tree()
    state = build(name).init(params)
    needed = extra(name, params)
    build(name).update(GRADS[0], state, params, **needed)
    with jax.no_tracing():
        for factor in (0.9, 0.8):
            _, state = other_values(build(name), factor).update(GRADS[1], state, params, **needed)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_every_leaf_equals_the_loop(name):
    params = mixed_tree()
    factors = [1.0, 0.97, 0.9]
    members = [other_values(build(name), factor) for factor in factors]
    lanes = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *members)
    batched = jax.vmap(lambda tx: run(name, tx, params, GRADS)[0])(lanes)
    for index, member in enumerate(members):
        alone, _ = run(name, member, params, GRADS)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], batched), alone, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", sorted(set(NAMES) - EXACT))
def test_the_derivative_of_a_run_equals_finite_differences(name):
    start, target = mixed_tree(), mixed_tree(seed=9)
    number = DERIVATIVE_IN.get(name, rate_of(name))
    loss = lambda params: 2 * bowl(jax.tree.map(jnp.subtract, params, target))

    def loss_after_training(value):
        params, tx = start, gradlab.replace(build(name, **SMOOTH.get(name, {})), **{number: value})
        state = tx.init(params)
        for _ in range(4 + EMPTY_STEPS.get(name, 0)):
            value, grads = jax.value_and_grad(loss)(params)
            known = {**extra(name, params), "value": value, "value_fn": loss} if extra(name, params) else {}
            updates, state = tx.update(grads, state, params, **known)
            params = gradlab.apply_updates(params, updates)
        return loss(params)

    at, h = 0.013, 1e-6
    differentiate = jax.jacfwd if name in FORWARD_ONLY else jax.grad
    slope = jax.jit(differentiate(loss_after_training))(at)
    numeric = (loss_after_training(at + h) - loss_after_training(at - h)) / (2 * h)
    np.testing.assert_allclose(slope, numeric, rtol=2e-5)
    assert abs(numeric) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_population_equals_its_members(name):
    params = mixed_tree()
    rates = [0.001, 0.01]
    make, rate = gradlab.REGISTRY[name], rate_of(name)
    lanes = gradlab.population(make, **{rate: np.array(rates)})
    batched = jax.vmap(lambda tx: run(name, tx, params, GRADS[:2])[0])(lanes)
    for index, value in enumerate(rates):
        alone, _ = run(name, make(**{rate: value}), params, GRADS[:2])
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], batched), alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters_go_by_the_names_of_the_arguments(name):
    tx = build(name)
    values = numbers(tx)
    signature = inspect.signature(gradlab.REGISTRY[name]).parameters.values()
    arguments = {p.name for p in signature if isinstance(p.default, float)} | {rate_of(name)}
    assert len(gradlab.hyperparams(tx)) == len(jax.tree.leaves(tx))
    assert set(values) - OF_PARTS.get(name, set()) | {rate_of(name)} == arguments
    changed = gradlab.replace(tx, **{key: value * 0.5 for key, value in values.items()})
    assert numbers(changed) == {key: value * 0.5 for key, value in values.items()}
    assert jax.tree.structure(changed) == jax.tree.structure(tx)


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_learning_rate_is_refused_by_name(name):
    with pytest.raises(ValueError, match="learning_rate"):
        gradlab.REGISTRY[name](**{rate_of(name): -0.1})


@pytest.mark.parametrize("name", sorted(set(NAMES) - STARTS_ONLY))
def test_a_schedule_takes_the_place_of_the_learning_rate(name):
    params = mixed_tree()
    rates = (0.01, gradlab.constant_schedule(0.01))
    constant, scheduled = (gradlab.REGISTRY[name](**{rate_of(name): rate}) for rate in rates)
    expected, _ = run(name, constant, params, GRADS)
    chex.assert_trees_all_close(run(name, scheduled, params, GRADS)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(set(NAMES) - STARTS_ONLY))
def test_the_rate_in_force_is_read_from_the_state(name):
    params, rate = mixed_tree(), rate_of(name)
    tx = gradlab.REGISTRY[name](**{rate: gradlab.linear_schedule(0.5, 0.0, 10)})
    state = tx.init(params)
    for expected in (0.5, 0.45, 0.4):
        np.testing.assert_allclose(gradlab.current_hyperparams(tx, state)[rate], expected, rtol=1e-6)
        _, state = update(name, tx, GRADS[0], state, params)


@pytest.mark.parametrize("name", sorted(STARTS_ONLY))
def test_a_schedule_where_it_has_no_meaning_is_refused_with_a_remedy(name):
    with pytest.raises(TypeError, match="learning_rate.*scale_by_schedule"):
        gradlab.REGISTRY[name](gradlab.constant_schedule(0.01))
