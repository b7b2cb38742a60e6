"""`minimize`: where it ends, what it evaluates, that it compiles once, lanes, and what it refuses."""

from collections import deque

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import gradlab
from tests.descents import descend, logistic, quadratic, regression, rosenbrock, valley


def test_the_minimum_of_a_tree_is_that_of_scipy():
    found = gradlab.minimize(logistic, regression(), tol=1e-8)
    flat = lambda x: logistic({"weights": x[:4], "bias": x[4]})
    peer = scipy.optimize.minimize(jax.jit(jax.value_and_grad(flat)), np.zeros(5), jac=True, tol=1e-10)
    np.testing.assert_allclose(found.params["weights"], peer.x[:4], atol=1e-6)
    assert bool(found.converged) and float(found.grad_norm) <= 1e-8
    np.testing.assert_allclose(found.value, peer.fun, rtol=1e-12)


@pytest.mark.parametrize(
    "tx",
    [
        gradlab.lbfgs(),
        gradlab.chain(gradlab.sgd(1.0), gradlab.scale_by_backtracking_linesearch(30, store_grad=True)),
        gradlab.chain(gradlab.sgd(1.0), gradlab.scale_by_backtracking_linesearch(30)),
        gradlab.chain(gradlab.lbfgs(), gradlab.scale(0.5)),
        gradlab.adam(0.1),
        optax.lbfgs(),
    ],
    ids=["lbfgs", "stored", "not stored", "scaled after", "adam", "optax"],
)
def test_the_steps_are_those_of_the_loop_written_out(tx):
    found = gradlab.minimize(rosenbrock, valley(2), tx, max_steps=12, tol=0.0)
    rows, states = descend(tx, rosenbrock, valley(2), 12)
    np.testing.assert_allclose(found.params, rows[-1], rtol=1e-9)
    value, grad = jax.value_and_grad(rosenbrock)(found.params)
    np.testing.assert_allclose([found.value, found.grad_norm], [value, jnp.linalg.norm(grad)], rtol=1e-9)
    assert (int(found.steps), bool(found.converged)) == (12, False)
    chex.assert_trees_all_close(found.state, jax.tree.map(lambda leaf: leaf[-1], states), rtol=1e-6, atol=1e-9)


def test_the_function_is_called_by_the_line_search_alone():
    calls = deque()  # as no pytree it is not taken apart with the function

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return rosenbrock(x)

    found = gradlab.minimize(counted, valley(2), max_steps=10, tol=0.0)
    jax.effects_barrier()
    _, states = descend(gradlab.lbfgs(), rosenbrock, valley(2), 10)
    assert len(calls) == 1 + int(jnp.sum(states[-1].info.num_linesearch_steps))
    assert int(found.steps) == 10


def test_new_numbers_run_the_compiled_program():
    traces, counts = deque(), []

    def problem(shift):
        def distance(x, scale):
            traces.append(1)
            return scale * jnp.sum((x - shift) ** 4)

        return distance

    for k in range(4):
        shift, tx = jnp.array([1.0, k]), gradlab.lbfgs(1.0 / (1 + k))
        call = {"args": (jnp.float64(k + 1.0),), "max_steps": 100 + k, "tol": 1e-6 / (k + 1)}
        found = gradlab.minimize(problem(shift), jnp.array([0.1 * k, 0.2]), tx, **call)
        np.testing.assert_allclose(found.params, shift, atol=2e-2)
        counts.append(len(traces))
    assert counts[0] > 0 and counts == counts[:1] * 4


def test_lanes_end_one_by_one():
    starts = jnp.array([[-1.2, 1.0], [1.0, 1.0], [0.9, 0.8]])
    tx = gradlab.population(gradlab.lbfgs, learning_rate=np.array([1.0, 0.5, 0.7]))
    lanes = jax.vmap(lambda start, tx: gradlab.minimize(rosenbrock, start, tx, tol=1e-8))(starts, tx)
    for index, rate in enumerate([1.0, 0.5, 0.7]):
        alone = gradlab.minimize(rosenbrock, starts[index], gradlab.lbfgs(rate), tol=1e-8)
        assert int(alone.steps) == int(lanes.steps[index])
        np.testing.assert_allclose(alone.params, lanes.params[index], rtol=1e-9)
    assert lanes.steps[1] == 0 and len(np.unique(lanes.steps)) == 3
    assert np.all(lanes.converged)


def test_what_has_converged_does_not_move():
    loss = quadratic()
    found = gradlab.minimize(loss, loss.minimum, tol=1e-8)
    assert int(found.steps) == 0 and bool(found.converged)
    np.testing.assert_array_equal(found.params, loss.minimum)


def test_a_run_that_leaves_the_numbers_ends_there():
    found = gradlab.minimize(rosenbrock, valley(2), gradlab.sgd(1.0), max_steps=500)
    assert 0 < int(found.steps) < 20
    assert not bool(found.converged) and not np.isfinite(float(found.value))


@pytest.mark.parametrize("slope_beyond", [0.0, 1.0])
def test_a_run_that_leaves_the_domain_has_not_converged(slope_beyond):
    """Beyond 5 the loss is infinite, and its gradient a finite number."""
    beyond = lambda x: jnp.inf + slope_beyond * x
    found = gradlab.minimize(lambda x: jnp.where(x > 5, beyond(x), -x), jnp.zeros(()), gradlab.sgd(2.0), max_steps=9)
    assert int(found.steps) == 3 and float(found.value) == np.inf
    assert not bool(found.converged)


def test_complex_parameters_descend():
    target = jnp.array([1 + 2j, -3j])
    found = gradlab.minimize(lambda z: jnp.sum(jnp.abs(z - target) ** 2), jnp.zeros(2, complex), tol=1e-8)
    np.testing.assert_allclose(found.params, target, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_low_precision_keeps_its_dtype(dtype):
    found = gradlab.minimize(lambda x: jnp.sum((x - 2) ** 2).astype("float32"), jnp.zeros(3, dtype), tol=1e-2)
    assert found.params.dtype == dtype and found.value.dtype == found.grad_norm.dtype == "float32"
    np.testing.assert_allclose(np.asarray(found.params, float), 2.0, atol=0.02)


def test_what_cannot_be_minimised_is_refused():
    with pytest.raises(TypeError, match=r"one real number, got float64\[2\]; reduce it with jnp.sum"):
        gradlab.minimize(jnp.square, jnp.ones(2))
    with pytest.raises(TypeError, match="one real number, got complex128"):
        gradlab.minimize(lambda x: jnp.sum(x) * 1j, jnp.ones(2))
    with pytest.raises(TypeError, match="x0 at 'a' is int"):
        gradlab.minimize(lambda tree: jnp.sum(tree["a"]), {"a": jnp.arange(3)})
    with pytest.raises(ValueError, match="fun is nan at x0"):
        gradlab.minimize(lambda x: jnp.sum(jnp.log(x)), -jnp.ones(2))
    with pytest.raises(ValueError, match="norm of its gradient inf"):
        gradlab.minimize(lambda x: jnp.sum(jnp.sqrt(x)), jnp.zeros(2))
    with pytest.raises(ValueError, match="`tol` must be >= 0"):
        gradlab.minimize(rosenbrock, valley(2), tol=-1.0)
