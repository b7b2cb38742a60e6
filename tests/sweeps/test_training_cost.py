"""The program behind a hypergradient: a function of optimizer values, traced once, with the memory that is promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.sweeps.engine.hypergradients import _forward, _reverse, hypergradients
from gradlab.sweeps.engine.lanes import Lanes, Plan
from gradlab.sweeps.engine.training_cost import training_cost
from gradlab.sweeps.spaces.dimensions import linear, log
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial
from gradlab.tasks import make_task, quadratic, surface_task
from tests.sweeps.runs import CASES, PLAN, of, task


def test_the_cost_of_a_run_is_a_function_of_the_optimizer():
    tx = gradlab.sgd(0.1, momentum=0.7)
    make, space, _ = CASES["momentum"]
    cost, slope = jax.value_and_grad(training_cost, argnums=1)(task(), tx, jax.random.key(3), PLAN)
    named = gradlab.hyperparams(slope)
    expected = of(gradlab.sgd, space, [Trial.of({"learning_rate": 0.1, "momentum": 0.7})], seeds=[3])
    np.testing.assert_allclose(cost, expected.costs[0], rtol=1e-12)
    np.testing.assert_allclose([named[name] for name in expected.names], expected.natural[0], rtol=1e-9)


@pytest.mark.parametrize("method", ["forward", "reverse"])
def test_other_values_are_traced_no_more(method):
    traces = []

    def loss(params, state, batch, key):
        traces.append(None)
        return jnp.mean((batch["x"] @ params - batch["y"]) ** 2), state

    train = {"x": np.eye(4), "y": np.arange(4.0)}
    line = make_task(lambda key: (jax.random.normal(key, (4,)), {}), loss, train=train)
    space, few = Space({"learning_rate": log(0.01, 1.0), "momentum": linear(0.0, 0.9)}), Plan(3, 3, 2, "epoch")
    run = lambda units: hypergradients(
        line, gradlab.sgd, space, space.from_unit(units), seeds=2, plan=few, method=method
    )
    first = run([[0.2, 0.3], [0.4, 0.5]])
    count = len(traces)
    second = run([[0.9, 0.1], [0.3, 0.3]])
    assert len(traces) == count > 0
    assert (first.natural != second.natural).all()


def temporary_bytes(method, steps):
    """Of the compiled program, for a run whose state is large beside its data."""
    bowl = surface_task(quadratic(condition=10.0, dim=1000))
    lanes = Lanes(gradlab.population(gradlab.sgd, learning_rate=np.array([0.01, 0.02]), momentum=0.5), {})
    keys, plan = jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32)), Plan(steps, steps, None, "full")
    if method == "forward":
        tangents = jax.tree.map(lambda leaf: jnp.ones((3, *leaf.shape)), lanes)
        program = _forward.lower(lanes, tangents, bowl, keys, plan, "loss", steps)
    else:
        program = _reverse.lower(lanes, bowl, keys, plan, "loss", steps)
    return program.compile().memory_analysis().temp_size_in_bytes


def test_memory_of_forward_mode_does_not_grow_with_the_steps_and_that_of_reverse_with_their_root():
    state = 2 * 2 * 1000 * 8  # one array of all runs
    assert temporary_bytes("forward", 20) == temporary_bytes("forward", 2000) > state
    short, long = temporary_bytes("reverse", 25), temporary_bytes("reverse", 2500)
    assert 2 * short < long < 20 * short
