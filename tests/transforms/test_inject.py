"""Hyperparameters in the state: Optax's layout, the plain optimizer's steps, what counts as a hyperparameter."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.transforms.inject import inject_hyperparams, inject_stateful_hyperparams
from tests.trajectories import mixed_grads, mixed_tree, run

GRADS = mixed_grads()
DECAY = gradlab.linear_schedule(1.0, 0.1, 30)


def _only_kernels(params):
    return {"dense": {"kernel": True, "bias": False}, "layers": [False, False]}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("amsgrad", {"learning_rate": 0.1}),
        ("adamw", {"learning_rate": DECAY, "weight_decay": 0.1, "mask": _only_kernels}),
        ("sgd", {"learning_rate": {"dense": 0.1, "layers": DECAY}, "momentum": DECAY * 0.9}),
    ],
)
def test_the_steps_and_the_inner_state_are_those_of_the_plain_optimizer(name, arguments):
    factory = getattr(gradlab, name)
    expected, _ = run(factory(**arguments), mixed_tree(), GRADS)
    positions, state = run(inject_hyperparams(factory)(**arguments), mixed_tree(), GRADS)
    np.testing.assert_allclose(positions, expected, rtol=1e-12)
    scheduled = {key for key, value in arguments.items() if key != "mask" and not isinstance(value, float)}
    assert set(state.hyperparams_states) == scheduled and int(state.count) == 50
    at_last = jax.tree.map(lambda x: x(49) if callable(x) else x, arguments["learning_rate"], is_leaf=callable)
    chex.assert_trees_all_close(state.hyperparams["learning_rate"], at_last, rtol=1e-12)


@pytest.mark.parametrize("learning_rate", [0.1, DECAY])
def test_steps_and_state_equal_optax(learning_rate):
    ours, state = run(inject_hyperparams(gradlab.adam)(learning_rate), mixed_tree(), GRADS)
    theirs, expected = run(optax.inject_hyperparams(optax.adam)(learning_rate), mixed_tree(), GRADS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    chex.assert_trees_all_equal_structs(state, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, expected)
    chex.assert_trees_all_close(state, expected, rtol=1e-10)


def test_what_is_overwritten_in_the_state_is_used_unless_it_follows_a_schedule():
    tx = inject_hyperparams(gradlab.sgd)(DECAY, momentum=0.5)
    state = tx.init(jnp.zeros(1))
    state.hyperparams["momentum"] = 0.25
    state.hyperparams["learning_rate"] = jnp.array(99.0)
    _, state = tx.update(jnp.ones(1), state)
    updates, state = tx.update(jnp.ones(1), state)
    np.testing.assert_allclose(updates, [-(1 + 0.25) * float(DECAY(1))], rtol=1e-12)
    assert float(state.hyperparams["momentum"]) == 0.25


@jax.tree_util.register_pytree_node_class
class _Network(NamedTuple):
    """A tree of parameters, or of a mask, that can be called."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.kernel + self.bias

    def tree_flatten(self):
        return tuple(self), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def test_callables_that_are_no_schedule_are_left_alone():
    params = _Network(jnp.ones((2, 2)), jnp.ones(2))
    for mask in (_Network(True, False), lambda params: _Network(True, False)):
        tx = inject_hyperparams(gradlab.adamw)(0.1, mask=mask, mu_dtype=jnp.bfloat16, weight_decay=0.5)
        plain = gradlab.adamw(0.1, mask=mask, mu_dtype=jnp.bfloat16, weight_decay=0.5)
        state = tx.init(params)
        assert set(state.hyperparams) == {"learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"}
        chex.assert_trees_all_close(
            tx.update(params, state, params)[0], plain.update(params, plain.init(params), params)[0], rtol=1e-12
        )


def _scaled_power(factor, power=2, flag=True, name="a"):
    """A factory of its own: one number, one integer that shapes the program, a flag and a name."""
    power = range(9)[power]
    stage = gradlab.stateless(lambda g, params: jax.tree.map(lambda x: x**power, g))
    return gradlab.chain(stage, gradlab.scale(-2 * factor), optax.scale(factor))


def test_a_factory_of_ones_own_with_an_integer_that_is_structure():
    tx = inject_hyperparams(_scaled_power)(lambda count: count + 1.0, power=3)
    state = tx.init(jnp.full(1, 2.0))
    assert set(state.hyperparams) == {"factor"}
    for factor in (1.0, 2.0):
        updates, state = tx.update(jnp.full(1, 2.0), state)
        np.testing.assert_allclose(updates, [-2 * factor * factor * 8.0])


def test_the_factory_may_be_a_wrapper():
    tx = inject_hyperparams(gradlab.apply_if_finite)(gradlab.sgd(1.0), 1.0)
    state = tx.init(jnp.ones(1))
    assert set(state.hyperparams) == {"max_consecutive_errors"}
    state.hyperparams["max_consecutive_errors"] = 0.0
    assert np.isnan(tx.update(jnp.full(1, jnp.nan), state)[0])


def test_static_arguments_stay_out_and_must_exist():
    tx = inject_hyperparams(gradlab.adam, static_args="b1")(0.1)
    assert "b1" not in tx.init(jnp.zeros(1)).hyperparams
    with pytest.raises(ValueError, match="the factory has no argument 'beta1'.*'b1'"):
        inject_hyperparams(gradlab.adam, static_args=["beta1"])
    with pytest.raises(ValueError, match="`b1` must be in"):
        inject_hyperparams(gradlab.adam)(0.1, b1=1.5)


class _HalvesWhenTheLossRises(NamedTuple):
    """A schedule with a state: Optax's protocol."""

    start: float

    def init(self):
        return {"rate": jnp.asarray(self.start), "loss": jnp.asarray(jnp.inf)}

    def update(self, state, *, value, **extra):
        worse = value > state["loss"]
        return {"rate": jnp.where(worse, state["rate"] / 2, state["rate"]), "loss": jnp.asarray(value)}

    def __call__(self, state, **extra):
        return state["rate"]


def test_schedules_with_a_state_read_the_extra_arguments():
    ours = inject_stateful_hyperparams(gradlab.sgd)(_HalvesWhenTheLossRises(1.0))
    theirs = optax.inject_hyperparams(optax.sgd)(_HalvesWhenTheLossRises(1.0))
    states = [ours.init(jnp.zeros(1)), theirs.init(jnp.zeros(1))]
    for value, rate in ((3.0, 1.0), (4.0, 1.0), (2.0, 0.5), (1.0, 0.5)):
        u, states[0] = ours.update(jnp.ones(1), states[0], value=value)
        v, states[1] = theirs.update(jnp.ones(1), states[1], value=value)
        assert u.tolist() == v.tolist() == [-rate]
    chex.assert_trees_all_equal(*states)


def test_an_optax_factory_is_left_to_optax():
    tx = inject_hyperparams(optax.adam)(gradlab.constant_schedule(0.1), b1=0.8)
    assert isinstance(tx, optax.GradientTransformationExtraArgs) and jax.tree.leaves(tx) == []
    state = tx.init(jnp.zeros(1))
    assert float(state.hyperparams["b1"]) == 0.8
    np.testing.assert_allclose(tx.update(jnp.ones(1), state)[0], [-0.1], rtol=1e-6)


def test_lanes_over_the_state_and_over_the_optimizer():
    rates, g = jnp.array([0.1, 0.2]), jnp.ones(3)
    tx = inject_hyperparams(gradlab.adam)(0.5)
    states = jax.vmap(lambda rate: _with_rate(tx.init(g), rate))(rates)
    updates, _ = jax.vmap(lambda state: tx.update(g, state))(states)
    lanes = gradlab.population(inject_hyperparams(gradlab.adam), learning_rate=rates)
    again, _ = jax.vmap(lambda tx: tx.update(g, tx.init(g)))(lanes)
    for u in (updates, again):
        np.testing.assert_allclose(u, -rates[:, None] * np.ones(3), rtol=1e-6)


def _with_rate(state, rate):
    return state._replace(hyperparams={**state.hyperparams, "learning_rate": rate})


def test_rebuilt_optimizers_share_one_trace_and_replace_reaches_every_number():
    build = lambda rate: inject_hyperparams(gradlab.adamw)(gradlab.linear_schedule(rate, 0.0, 9), weight_decay=rate)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(tx, state, g):
        return tx.update(g, state, g)

    g = jnp.ones(2)
    state = build(0.1).init(g)
    for rate in (0.1, 0.2):
        _, state = update(build(rate), state, g)
        state.hyperparams["b1"] = jnp.array(rate, float)
    tx = gradlab.replace(build(0.1), **{"learning_rate.init_value": 0.7, "weight_decay": 0.3})
    values = tx.init(g).hyperparams
    assert (float(values["learning_rate"]), float(values["weight_decay"])) == (0.7, 0.3)
    np.testing.assert_allclose(tx.update(g, tx.init(g), g)[0], -0.7 * (1 + 0.3), rtol=1e-6)


def test_donating_the_state_leaves_the_optimizer_its_values():
    tx = jax.tree.map(lambda value: jnp.array(value, float), inject_hyperparams(gradlab.adam)(0.1))
    step = jax.jit(lambda tx, state: tx.update(jnp.ones(2), state), donate_argnums=1)
    for _ in range(2):
        updates, _ = step(tx, tx.init(jnp.ones(2)))
    np.testing.assert_allclose(updates, [-0.1, -0.1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
def test_values_are_stored_in_the_dtype_asked_for_and_else_in_the_default_one(dtype):
    tx = inject_hyperparams(gradlab.adam, hyperparam_dtype=dtype)(DECAY)
    params = jnp.ones(2, jnp.bfloat16)
    state = tx.init(params)
    state.hyperparams["b1"] = 1
    updates, after = tx.update(params, state, params)
    for values in (tx.init(params).hyperparams, after.hyperparams):
        assert {value.dtype for value in values.values()} == {jnp.dtype(dtype or float)}
    assert updates.dtype == jnp.bfloat16
