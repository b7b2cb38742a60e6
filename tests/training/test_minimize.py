"""`minimize`: known minima, one program for all data, and what it says when it cannot go on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import gradlab
from gradlab.training import minimize as module


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def bowl(x, centre, steepness):
    return jnp.sum(steepness * (x["a"] - centre["a"]) ** 2) + jnp.sum((x["b"] - centre["b"]) ** 4)


def test_rosenbrock_in_a_hundred_dimensions_ends_where_scipy_does():
    start = np.tile([-1.2, 1.0], 50)
    found = gradlab.minimize(rosenbrock, start, max_steps=2000, tol=1e-8)
    theirs = scipy.optimize.minimize(
        scipy.optimize.rosen, start, jac=scipy.optimize.rosen_der, method="BFGS", options={"gtol": 1e-8}
    )
    assert found.converged
    np.testing.assert_allclose(found.params, theirs.x, atol=1e-7)
    np.testing.assert_allclose(found.grad_norm, np.linalg.norm(scipy.optimize.rosen_der(np.asarray(found.params))))
    np.testing.assert_allclose(found.value, scipy.optimize.rosen(np.asarray(found.params)), atol=1e-16)


@pytest.mark.parametrize("make", [gradlab.lbfgs, gradlab.bfgs, gradlab.nonlinear_cg], ids=lambda make: make.__name__)
def test_trees_and_further_arguments(make):
    centre = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    start = jax.tree.map(jnp.zeros_like, centre)
    found = gradlab.minimize(bowl, start, make(), args=(centre, jnp.array([1.0, 30.0])), tol=1e-9)
    assert found.converged
    chex.assert_trees_all_close(found.params["a"], centre["a"], atol=1e-8)
    chex.assert_trees_all_close(found.params["b"], centre["b"], atol=1e-2)  # a fourth power is flat


def test_an_optimizer_without_a_line_search_goes_as_well():
    found = gradlab.minimize(lambda x: jnp.sum((x - 2.0) ** 2), jnp.zeros(3), gradlab.sgd(0.25), tol=1e-8)
    # each step halves the distance of 2 in each of three coordinates; the gradient is twice the distance
    expected = int(np.ceil(np.log2(4 * np.sqrt(3) / 1e-8)))
    assert (bool(found.converged), int(found.steps)) == (True, expected)


def test_other_data_runs_the_program_that_is_there():
    module._minimize.clear_cache()
    for centre in (1.0, 2.0, 3.0):
        shift = jnp.array([centre, -centre])
        found = gradlab.minimize(lambda x: jnp.sum((x - shift) ** 2), shift * 0.5, max_steps=10 + centre)  # noqa: B023
        np.testing.assert_allclose(found.params, shift, atol=1e-6)
    assert module._minimize._cache_size() == 1


def test_lanes_end_on_their_own():
    starts = jnp.array([[-1.2, 1.0], [1.0, 1.0], [3.0, -2.0]])
    lanes = jax.vmap(lambda start: gradlab.minimize(rosenbrock, start, max_steps=200, tol=1e-9))(starts)
    assert lanes.converged.all()
    assert int(lanes.steps[1]) == 0
    for index, start in enumerate(starts):
        alone = gradlab.minimize(rosenbrock, start, max_steps=200, tol=1e-9)
        assert int(lanes.steps[index]) == int(alone.steps)
        chex.assert_trees_all_close(lanes.params[index], alone.params, rtol=1e-8)


def test_it_stops_at_the_most_steps_and_says_so():
    found = gradlab.minimize(rosenbrock, jnp.array([-1.2, 1.0]), max_steps=3)
    assert (int(found.steps), bool(found.converged)) == (3, False)


@pytest.mark.parametrize(
    ("fun", "start", "error", "message"),
    [
        (lambda x: x, jnp.ones(2), TypeError, "fun must return one real number"),
        (lambda x: jnp.sum(x), jnp.arange(2), TypeError, "x0 at '\\(root\\)' is int"),
        (lambda x: jnp.sum(jnp.log(x)), -jnp.ones(2), ValueError, "fun is nan at x0"),
    ],
)
def test_what_cannot_be_minimised_is_named(fun, start, error, message):
    with pytest.raises(error, match=message):
        gradlab.minimize(fun, start)
