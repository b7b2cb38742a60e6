"""Gradient flow against matrix exponentials, and descent's distance from it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from gradlab.instruments import flow_distance, gradient_flow

HESSIAN = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.3]])
START = jnp.array([1.0, -2.0, 3.0])


def bowl(x, matrix):
    return 0.5 * x @ matrix @ x


def test_flow_on_a_quadratic_is_the_matrix_exponential():
    flow = gradient_flow(bowl, START, HESSIAN, time=2.0, steps=40)
    exact = np.array([scipy.linalg.expm(-HESSIAN * t) @ START for t in np.linspace(0, 2, 41)])
    np.testing.assert_allclose(flow.times, np.linspace(0, 2, 41))
    np.testing.assert_allclose(flow.params, exact, atol=1e-6)
    np.testing.assert_allclose(flow.losses, [bowl(x, HESSIAN) for x in flow.params], rtol=1e-12)


def test_its_error_is_the_distance_from_the_exact_path():
    for steps in (10, 40):
        flow = gradient_flow(bowl, START, HESSIAN, time=2.0, steps=steps)
        exact = np.array([scipy.linalg.expm(-HESSIAN * t) @ START for t in np.linspace(0, 2, steps + 1)])
        true = np.linalg.norm(flow.params - exact, axis=1)
        np.testing.assert_allclose(flow.error[1:], true[1:], rtol=0.25)
        assert flow.error[0] == 0


def test_it_is_of_fourth_order():
    ends = [gradient_flow(bowl, START, HESSIAN, time=2.0, steps=steps).params[-1] for steps in (20, 40)]
    exact = scipy.linalg.expm(-HESSIAN * 2.0) @ START
    coarse, fine = (np.linalg.norm(end - exact) for end in ends)
    assert 14 < coarse / fine < 20


def test_a_time_step_beyond_stability_shows_in_the_error():
    flow = gradient_flow(bowl, START, 50 * HESSIAN, time=2.0, steps=20)
    assert flow.error[-1] > 1e3


def test_trees_keep_their_shapes():
    params = {"a": jnp.array(2.0, "float32"), "b": None, "c": jnp.ones((2, 3), "bfloat16")}
    flow = gradient_flow(lambda p, b: p["a"] ** 2 + jnp.sum(p["c"]), params, time=1.0, steps=5)
    chex.assert_shape(flow.params["c"], (6, 2, 3))
    np.testing.assert_allclose(flow.params["a"], 2 * np.exp(-2 * flow.times), rtol=1e-3)
    np.testing.assert_allclose(flow.params["c"][-1], 0.0, atol=1e-2)
    assert flow.params["b"] is None


@pytest.mark.parametrize("substeps", [1, 3])
@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_the_distance_of_descent_on_a_parabola(rate, substeps):
    found = flow_distance(lambda x, h: h * x**2 / 2, 2.0, 1.5, learning_rate=rate, steps=30, substeps=substeps)
    k = np.arange(31)
    descent, flow = 2 * (1 - 1.5 * rate) ** k, 2 * np.exp(-1.5 * rate * k)
    np.testing.assert_allclose(found.distance, np.abs(descent - flow), atol=5e-4)
    assert (np.abs(found.distance - np.abs(descent - flow)) <= 1.5 * found.error + 1e-12).all()
    np.testing.assert_allclose(found.descent_losses, 0.75 * descent**2, rtol=1e-10)
    np.testing.assert_allclose(found.flow_losses, 0.75 * flow**2, rtol=1e-2, atol=1e-4)


def test_one_step_strays_by_half_the_squared_rate_times_the_curvature_of_the_gradient():
    gradient = HESSIAN @ START
    found = flow_distance(bowl, START, HESSIAN, learning_rate=1e-3, steps=1)
    np.testing.assert_allclose(found.distance[1], 0.5e-6 * np.linalg.norm(HESSIAN @ gradient), rtol=5e-3)


def test_more_substeps_bring_the_error_down():
    errors = [flow_distance(bowl, START, HESSIAN, learning_rate=0.4, steps=5, substeps=n).error[-1] for n in (1, 2)]
    assert 10 < errors[0] / errors[1] < 40


def test_they_are_traced_once_for_all_lanes():
    @jax.jit
    @chex.assert_max_traces(1)
    def lanes(starts):
        flow = jax.vmap(lambda x: gradient_flow(bowl, x, HESSIAN, time=1.0, steps=4))(starts)
        return flow, jax.vmap(lambda x: flow_distance(bowl, x, HESSIAN, learning_rate=0.1, steps=4))(starts)

    for starts in (jnp.stack([START, -START]), jnp.stack([2 * START, jnp.nan * START])):
        flow, distance = lanes(starts)
        alone = [gradient_flow(bowl, x, HESSIAN, time=1.0, steps=4) for x in starts]
        chex.assert_trees_all_close(flow, jax.tree.map(lambda *x: jnp.stack(x), *alone))
        assert np.isfinite(distance.distance[0]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gradient_flow(lambda x, b: x, START, time=1.0), ValueError, "must return one number"),
        (lambda: gradient_flow(bowl, START, HESSIAN, time=0.0), ValueError, "`time` must be > 0"),
        (lambda: gradient_flow(bowl, START, HESSIAN, time=1.0, steps=0), ValueError, "`steps` must be >= 1"),
        (lambda: gradient_flow(bowl, START + 1j, HESSIAN, time=1.0), TypeError, "is complex"),
        (lambda: flow_distance(bowl, START, HESSIAN, learning_rate=-1.0, steps=2), ValueError, "`learning_rate`"),
        (lambda: flow_distance(bowl, START, HESSIAN, learning_rate=1.0, steps=0), ValueError, "`steps`"),
        (lambda: flow_distance(bowl, START, HESSIAN, learning_rate=1.0, steps=2, substeps=0), ValueError, "`substeps`"),
    ],
)
def test_bad_input_is_explained(call, error, message):
    with pytest.raises(error, match=message):
        call()
