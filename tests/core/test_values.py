"""Hyperparameters by name: reading, replacing, describing, batching."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.core.values import describe, hyperparams, population, replace
from gradlab.optimizers.wrappers import WRAPPERS


def _tree():
    schedule = gradlab.as_schedule(0.1).then(0.01, at=100)
    route = {
        "slow": gradlab.adamw(schedule, weight_decay=0.02, mask="kernel"),
        "fast": gradlab.sgd({"a": 0.3, "b": 0.4}, momentum=0.9),
    }
    return gradlab.named_chain(
        ("guard", gradlab.apply_if_finite(gradlab.clip_by_global_norm(1.5), 7)),
        ("route", gradlab.partition(route, gradlab.by_path((".", "slow")))),
        ("again", gradlab.sgd(0.5)),
        ("foreign", optax.scale(3.0)),
    )


def test_every_leaf_has_one_name_and_the_names_are_unique():
    for tx in (_tree(), gradlab.adam(1e-3), gradlab.chain(*[gradlab.scale(1.0)] * 3), gradlab.add_noise(0.1, 0.5)):
        named = hyperparams(tx)
        assert len(named) == len(jax.tree.leaves(tx))
        chex.assert_trees_all_equal(list(named.values()), jax.tree.leaves(tx))


def test_names_that_are_alone_are_short():
    assert hyperparams(gradlab.adam(0.25, b1=0.5)) == {
        "b1": 0.5,
        "b2": 0.999,
        "eps": 1e-8,
        "eps_root": 0.0,
        "learning_rate": 0.25,
    }


def test_every_name_replaces_its_own_leaf():
    tx = _tree()
    for name in hyperparams(tx):
        changed = hyperparams(replace(tx, **{name: 0.123}))
        assert {other for other in changed if changed[other] != hyperparams(tx)[other]} == {name}
        assert changed[name] == 0.123


def test_the_numbers_of_schedules_and_trees_are_named_after_their_hyperparameter():
    names = set(hyperparams(gradlab.sgd(gradlab.as_schedule(0.1).then(0.01, at=100))))
    assert {"learning_rate.at", "learning_rate.first.value", "learning_rate.second.value"} <= names
    assert {"learning_rate.a", "learning_rate.b"} <= set(hyperparams(gradlab.sgd({"a": 0.3, "b": 0.4})))


def test_stages_that_share_a_name_are_told_apart():
    tx = gradlab.chain(gradlab.trace(0.9), gradlab.ema(0.8))
    assert hyperparams(tx) == {"trace.decay": 0.9, "ema.decay": 0.8}
    with pytest.raises(ValueError, match="'decay'; it is one of 'trace.decay', 'ema.decay': name it in full"):
        replace(tx, decay=0.5)


def test_replacing_moves_the_optimizer_and_retraces_nothing():
    tx = gradlab.adam(1e-3)
    jitted = jax.jit(chex.assert_max_traces(lambda tx, g: tx.update(g, tx.init(g), g)[0], n=1))
    for rate in (0.5, 1, np.float32(2.0), jnp.array(3.0)):
        updates = jitted(replace(tx, learning_rate=rate), jnp.ones(2))
        np.testing.assert_allclose(updates, -np.full(2, float(rate)), rtol=1e-6)
    assert hyperparams(tx)["learning_rate"] == 1e-3


def test_gradients_flow_through_replace():
    def step(rate):
        tx = replace(gradlab.sgd(1.0), learning_rate=rate)
        return tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]

    assert float(jax.grad(step)(0.1)) == -3.0


def test_names_that_are_not_there_are_refused_with_a_guess():
    with pytest.raises(ValueError, match="no hyperparameter 'learning_rat'; did you mean 'learning_rate'"):
        replace(gradlab.adam(1e-3), learning_rat=0.1)
    with pytest.raises(ValueError, match="it is one of .*'learning_rate.at'"):
        replace(gradlab.sgd(gradlab.as_schedule(0.1).then(0.01, at=100)), learning_rate=0.1)


def test_a_description_has_one_line_a_stage_with_values_and_structure():
    lines = describe(_tree()).splitlines()
    text = [line.strip() for line in lines]
    assert any(line.startswith("apply_if_finite(max_consecutive_errors=7.0") for line in text)
    assert "clip_by_global_norm(max_norm=1.5)" in text
    assert any(line.startswith("scale_by_adam(b1=0.9, b2=0.999") and "nesterov=False" in line for line in text)
    assert any(
        "learning_rate=then(first=constant(value=0.1), second=constant(value=0.01), at=100.0)" in line for line in text
    )
    assert any("learning_rate={'a': 0.3, 'b': 0.4}" in line for line in text)
    inner = lines[[line.strip().startswith("apply_if_finite") for line in lines].index(True) + 1]
    assert inner.startswith("  ") and "clip_by_global_norm" in inner


def test_a_description_works_for_lanes_and_inside_a_trace():
    lanes = population(gradlab.sgd, learning_rate=jnp.array([0.25, 0.5]))
    assert "learning_rate=<2 values 0.25 to 0.5>" in describe(lanes)
    seen = []
    jax.jit(lambda tx: seen.append(describe(tx)))(gradlab.sgd(0.1))
    assert "learning_rate=<traced" in seen[0]


def test_a_population_equals_a_loop():
    rates, decays = jnp.array([0.1, 0.2, 0.3]), np.array([0.5, 0.0, 0.9])
    lanes = population(gradlab.sgd, learning_rate=rates, momentum=decays, nesterov=True)

    def run(tx):
        params, state = jnp.array([1.0, -2.0]), tx.init(jnp.zeros(2))
        for _ in range(4):
            updates, state = tx.update(params, state, params)
            params = params + updates
        return params

    loop = [run(gradlab.sgd(float(r), float(d), nesterov=True)) for r, d in zip(rates, decays, strict=True)]
    np.testing.assert_allclose(jax.vmap(run)(lanes), np.stack(loop), rtol=1e-12)
    assert all(leaf.shape == (3,) for leaf in jax.tree.leaves(lanes))


def test_a_population_of_integers_and_schedules():
    def make(horizon, peak):
        return gradlab.sgd(gradlab.as_schedule(peak).then(0.0, at=horizon))

    lanes = population(make, horizon=[1, 2], peak=1.0)
    states = jax.vmap(lambda tx: tx.init(jnp.zeros(())))(lanes)
    update = jax.vmap(lambda tx, state: tx.update(jnp.ones(()), state))
    seen = []
    for _ in range(3):
        updates, states = update(lanes, states)
        seen.append(updates.tolist())
    assert seen == [[-1.0, -1.0], [0.0, -1.0], [0.0, 0.0]]


def test_a_population_checks_its_values():
    with pytest.raises(ValueError, match="got lengths none"):
        population(gradlab.sgd, learning_rate=0.1)
    with pytest.raises(ValueError, match="all arrays of one length.*'momentum': 3"):
        population(gradlab.sgd, learning_rate=jnp.ones(2), momentum=jnp.full(3, 0.5))
    with pytest.raises(ValueError, match="`learning_rate` must be >= 0, got -1 at position 1"):
        population(gradlab.sgd, learning_rate=jnp.array([1.0, -1.0]))


def test_describe_says_which_label_a_stage_belongs_to():
    tx = gradlab.partition({"slow": gradlab.sgd(0.1), "still": gradlab.set_to_zero()}, gradlab.by_path(("w", "slow")))
    assert gradlab.describe(tx).splitlines()[1:] == [
        "  slow:",
        "    identity()",
        "    scale_by_learning_rate(learning_rate=0.1, flip_sign=True)",
        "  still:",
        "    set_to_zero()",
    ]


REQUIRED = {"apply_if_finite": {"max_consecutive_errors": 3}, "schedule_free": {"learning_rate": 0.1}}
REQUIRED |= {"multi_steps": {"every_k_schedule": 2}, "store": {"storage": "int8"}}


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_describes_what_it_wraps(name):
    wrapped = WRAPPERS[name](gradlab.trace(0.9), **REQUIRED.get(name, {}))
    assert [line.strip() for line in gradlab.describe(wrapped).splitlines()].count("trace(decay=0.9, nesterov=False)")


@pytest.mark.parametrize("fast", [gradlab.adam(0.1), optax.adam(0.1), gradlab.sgd(optax.cosine_decay_schedule(1, 9))])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx, reset: gradlab.sam(gradlab.sgd(0.5), tx, reset_state=reset),
        lambda tx, reset: gradlab.lookahead(tx, 2, 0.5, reset_state=reset),
        lambda tx, reset: gradlab.lookahead_in_state(tx, 2, 0.5, reset_state=reset),
        lambda tx, reset: gradlab.snoo(tx, reset_state=reset),
    ],
)
def test_what_starts_an_optimizer_anew_is_no_stage_of_a_description(wrap, fast):
    assert gradlab.describe(wrap(fast, True)) == gradlab.describe(wrap(fast, False))


def test_a_population_of_optaxs_optimizers_is_refused():
    with pytest.raises(TypeError, match="population needs a factory of gradlab's.*use gradlab.adamw for optax.adamw"):
        gradlab.population(optax.adamw, learning_rate=jnp.array([0.1, 0.2]))
