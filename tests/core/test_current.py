"""The values in force and the counts, through every kind of nesting."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab

RATE = gradlab.linear_schedule(1.0, 0.0, 10)
DECAY = gradlab.linear_schedule(0.5, 0.7, 4)
PARAMS = {"a": jnp.ones(2), "b": jnp.ones(3)}
NESTINGS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.chain(tx)),
    "named_chain": lambda tx: gradlab.named_chain(("clip", optax.clip(1.0)), ("main", tx)),
    "masked": lambda tx: gradlab.masked(tx, "a"),
    "partition": lambda tx: gradlab.partition({"x": tx, "y": gradlab.set_to_zero()}, {"a": "x", "b": "y"}),
    "selective": lambda tx: gradlab.selective_transform(tx, freeze_mask="b"),
    "guarded": lambda tx: gradlab.apply_if_finite(gradlab.conditionally_mask(tx, lambda step: step >= 0), RATE),
    "multi_steps": lambda tx: gradlab.MultiSteps(tx, 1),
    "hyperparameters in the state": lambda tx: tx,
}


def _adam(name):
    factory = gradlab.adam if name != "hyperparameters in the state" else gradlab.inject_hyperparams(gradlab.adam)
    return factory(RATE, b1=DECAY, b2=0.75)


@pytest.mark.parametrize("name", NESTINGS)
def test_the_values_are_those_of_the_next_update_wherever_they_lie(name):
    tx = NESTINGS[name](_adam(name))
    state = tx.init(PARAMS)
    for step in range(3):
        values = gradlab.current_hyperparams(tx, state)
        np.testing.assert_allclose(values["learning_rate"], RATE(step), rtol=1e-12)
        np.testing.assert_allclose(values["b1"], DECAY(step), rtol=1e-12)
        assert float(values["b2"]) == 0.75
        _, state = tx.update(PARAMS, state, PARAMS)


def test_names_are_those_of_hyperparams_and_values_not_scheduled_are_the_same():
    tx = gradlab.chain(gradlab.clip(1.0), gradlab.adamw({"a": 0.1, "b": 0.2}), gradlab.ema(0.5), gradlab.trace(0.25))
    assert gradlab.current_hyperparams(tx, tx.init(PARAMS)) == gradlab.hyperparams(tx)
    assert {"learning_rate.a", "ema.decay", "trace.decay"} <= set(gradlab.hyperparams(tx))


def test_schedules_in_accumulation_count_steps():
    tx = gradlab.MultiSteps(gradlab.sgd(RATE), gradlab.linear_schedule(1.0, 3.0, 2))
    state = tx.init(PARAMS)
    seen = []
    for _ in range(4):
        values = gradlab.current_hyperparams(tx, state)
        seen.append((float(values["every_k_schedule"]), round(float(values["learning_rate"]), 6)))
        _, state = tx.update(PARAMS, state)
    assert seen == [(1.0, 1.0), (2.0, 0.9), (2.0, 0.9), (3.0, 0.8)]


def test_values_kept_in_the_state_are_read_there_also_in_optax():
    for factory in (gradlab.inject_hyperparams(gradlab.sgd), optax.inject_hyperparams(optax.sgd)):
        tx = gradlab.chain(gradlab.clip(1.0), factory(0.1))
        state = tx.init(PARAMS)
        state[1].hyperparams["learning_rate"] = jnp.array(0.5)
        assert float(gradlab.current_hyperparams(tx, state)["learning_rate"]) == 0.5


def test_counts_have_names_that_do_not_depend_on_the_other_stages():
    plain, scheduled = gradlab.adam(0.1), gradlab.adam(RATE, b1=DECAY)
    both = gradlab.chain(gradlab.MultiSteps(scheduled, 2), gradlab.ema(0.9), gradlab.ema(0.8))
    both = gradlab.apply_if_finite(both, RATE)
    for tx in (plain, scheduled, both):
        state = tx.init(PARAMS)
        for _ in range(4):
            _, state = tx.update(PARAMS, state, PARAMS)
        counts = {name: int(count) for name, count in gradlab.counts(tx, state).items()}
        assert counts["scale_by_adam.count"] == (2 if tx is both else 4)
    assert counts["apply_if_finite.count"] == 4 and counts["apply_if_finite.total_notfinite"] == 0
    assert counts["multi_steps.mini_step"] == 0 and counts["multi_steps.gradient_step"] == 2
    assert counts["ema_1.count"] == counts["ema_2.count"] == 4


def test_both_may_be_traced_and_mapped_over_lanes():
    lanes = gradlab.population(lambda rate: gradlab.adam(RATE * rate), rate=jnp.array([1.0, 2.0]))
    states = jax.vmap(lambda tx: tx.update(PARAMS, tx.init(PARAMS))[1])(lanes)
    values = jax.jit(jax.vmap(gradlab.current_hyperparams))(lanes, states)
    np.testing.assert_allclose(values["learning_rate"], [0.9, 1.8], rtol=1e-12)
    chex.assert_trees_all_equal(jax.vmap(gradlab.counts)(lanes, states)["scale_by_adam.count"], jnp.array([1, 1]))


def test_a_state_of_another_optimizer_is_refused():
    tx = gradlab.chain(gradlab.MultiSteps(gradlab.adam(RATE), 2), gradlab.scale(1.0))
    with pytest.raises(ValueError, match="multi_steps keeps an inner state at 'inner_opt_state'.*another optimizer"):
        gradlab.current_hyperparams(tx, (gradlab.adam(RATE).init(PARAMS), optax.EmptyState()))
