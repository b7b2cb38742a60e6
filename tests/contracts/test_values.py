"""Hyperparameters are data: one trace for any values, lanes equal loops, gradients flow."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

import gradlab
from tests.contracts.cases import NAMES, STARTS_ONLY, build, mixed_tree, run

GRADS = [mixed_tree(seed=seed) for seed in range(1, 6)]


def steps(tx, params, grads):
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = gradlab.apply_updates(params, updates)
    return params


def other_values(tx, factor):
    return jax.tree.map(lambda leaf: leaf * factor, tx)


class Variants(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    @parameterized.parameters(*NAMES)
    def test_every_way_of_calling_gives_the_same_numbers(self, name):
        tx, params = build(name), mixed_tree()
        eager_updates, eager_state = tx.update(GRADS[0], tx.init(params), params)
        init, update = self.variant(tx.init), self.variant(tx.update)
        updates, state = update(GRADS[0], init(params), params)
        chex.assert_trees_all_close((updates, state), (eager_updates, eager_state), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_one_trace_for_all_values_and_both_calls(name):
    params = mixed_tree()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(tx, grads, state, params):
        return tx.update(grads, state, params)

    state = build(name).init(params)
    for factor in (1.0, 0.9, 0.8):
        tx = other_values(build(name), factor)
        for grads in GRADS[:2]:
            updates, state = step(tx, grads, state, params)


@pytest.mark.parametrize("name", NAMES)
def test_eager_updates_compile_once(name):
    params = mixed_tree()
    state = build(name).init(params)
    build(name).update(GRADS[0], state, params)
    with jax.no_tracing():
        for factor in (0.9, 0.8):
            _, state = other_values(build(name), factor).update(GRADS[1], state, params)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_every_leaf_equals_the_loop(name):
    params = mixed_tree()
    factors = [1.0, 0.97, 0.9]
    members = [other_values(build(name), factor) for factor in factors]
    lanes = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *members)
    batched = jax.vmap(lambda tx: steps(tx, params, GRADS))(lanes)
    for index, member in enumerate(members):
        alone = steps(member, params, GRADS)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], batched), alone, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_learning_rate_gradient_equals_finite_differences(name):
    start = mixed_tree()
    target = mixed_tree(seed=9)

    def loss_after_training(learning_rate):
        tx, params = build(name), start
        tx = gradlab.replace(tx, learning_rate=learning_rate)
        state = tx.init(params)
        loss = lambda params: sum(
            jnp.sum((p - t) ** 2) for p, t in zip(*map(jax.tree.leaves, (params, target)), strict=True)
        )
        for _ in range(4):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = gradlab.apply_updates(params, updates)
        return loss(params)

    at, h = 0.013, 1e-6
    slope = jax.jit(jax.grad(loss_after_training))(at)
    numeric = (loss_after_training(at + h) - loss_after_training(at - h)) / (2 * h)
    np.testing.assert_allclose(slope, numeric, rtol=2e-5)
    assert abs(numeric) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_population_equals_its_members(name):
    params = mixed_tree()
    rates = [0.001, 0.01]
    lanes = gradlab.population(gradlab.REGISTRY[name], learning_rate=np.array(rates))
    batched = jax.vmap(lambda tx: steps(tx, params, GRADS[:2]))(lanes)
    for index, rate in enumerate(rates):
        alone, _ = run(gradlab.REGISTRY[name](learning_rate=rate), params, GRADS[:2])
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], batched), alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters_go_by_the_names_of_the_arguments(name):
    tx = build(name)
    values = gradlab.hyperparams(tx)
    signature = inspect.signature(gradlab.REGISTRY[name]).parameters.values()
    arguments = {p.name for p in signature if isinstance(p.default, float) or p.name == "learning_rate"}
    assert len(values) == len(jax.tree.leaves(tx))
    assert set(values) - {"learning_rate"} == arguments - {"learning_rate"}
    changed = gradlab.replace(tx, **{key: value * 0.5 for key, value in values.items()})
    assert gradlab.hyperparams(changed) == {key: value * 0.5 for key, value in values.items()}
    assert jax.tree.structure(changed) == jax.tree.structure(tx)


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_learning_rate_is_refused_by_name(name):
    with pytest.raises(ValueError, match="learning_rate"):
        gradlab.REGISTRY[name](learning_rate=-0.1)


@pytest.mark.parametrize("name", sorted(set(NAMES) - STARTS_ONLY))
def test_a_schedule_takes_the_place_of_the_learning_rate(name):
    params = mixed_tree()
    constant, scheduled = (gradlab.REGISTRY[name](rate) for rate in (0.01, gradlab.constant_schedule(0.01)))
    chex.assert_trees_all_close(steps(constant, params, GRADS), steps(scheduled, params, GRADS), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(STARTS_ONLY))
def test_a_schedule_where_it_has_no_meaning_is_refused_with_a_remedy(name):
    with pytest.raises(TypeError, match="learning_rate.*scale_by_schedule"):
        gradlab.REGISTRY[name](gradlab.constant_schedule(0.01))
