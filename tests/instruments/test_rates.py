"""Rates of convergence: those that theory gives for runs of gradlab's optimizers, and intervals that cover."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import gradlab
from gradlab.instruments import fit_rate


def losses_of(tx, curvatures, steps):
    """The losses of an optimizer on ``sum h x^2 / 2`` from ones."""
    loss = lambda x: 0.5 * jnp.sum(curvatures * x**2)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return (gradlab.apply_updates(params, updates), state), value

    params = jnp.ones_like(curvatures)
    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]


@pytest.mark.parametrize("condition", [4.0, 50.0])
def test_descent_at_its_best_rate_is_linear_with_the_condition_number(condition):
    curvatures = jnp.geomspace(1.0, condition, 5)
    found = fit_rate(losses_of(gradlab.sgd(2 / (1 + condition)), curvatures, 300))
    assert found.is_linear
    np.testing.assert_allclose(found.linear.value, ((condition - 1) / (condition + 1)) ** 2, rtol=1e-5)
    assert found.linear.low <= found.linear.value <= found.linear.high < 1.001 * found.linear.value


@pytest.mark.parametrize("condition", [10.0, 100.0])
def test_the_heavy_ball_is_linear_with_the_root_of_the_condition_number(condition):
    root = np.sqrt(condition)
    factor = (root - 1) / (root + 1)
    tx = gradlab.heavy_ball(4 / (1 + root) ** 2, factor**2)
    found = fit_rate(losses_of(tx, jnp.geomspace(1.0, condition, 5), int(100 * root)), tail=0.8)
    assert found.is_linear
    np.testing.assert_allclose(found.linear.value, factor**2, rtol=0.02)


SPREAD = np.geomspace(1e-10, 1.0, 300)  # as many curvatures in every decade: then descent is 1/k, Nesterov's 1/k^2


def test_descent_on_curvatures_down_to_zero_is_of_order_one():
    found = fit_rate(losses_of(gradlab.sgd(1.0), jnp.asarray(SPREAD), 3000))
    assert not found.is_linear
    np.testing.assert_allclose(found.power.value, 1.0, atol=0.01)
    assert found.power.low < found.power.value < found.power.high < found.power.low + 0.01


def test_nesterovs_method_on_curvatures_down_to_zero_is_of_order_two():
    x = previous = np.ones(300)
    losses = []
    for k in range(3000):
        losses.append(0.5 * np.sum(SPREAD * x**2))
        ahead = x + (k - 1) / (k + 2) * (x - previous)
        previous, x = x, ahead - SPREAD * ahead
    found = fit_rate(losses)
    assert not found.is_linear
    np.testing.assert_allclose(found.power.value, 2.0, atol=0.02)


def test_a_line_is_that_of_scipy():
    rng, k = np.random.default_rng(0), np.arange(200)
    losses = 2.0 + 3 * 0.97**k * np.exp(0.1 * rng.normal(size=200))
    found = fit_rate(losses, 2.0, tail=0.25)
    assert found.used == 50  # a quarter of the 199 points after the start
    used = slice(150, 200)
    y = np.log(losses - 2.0)[used]
    for fit, x, value in ((found.linear, k[used], np.exp), (found.power, np.log(k[used]), np.negative)):
        line = scipy.stats.linregress(x, y)
        np.testing.assert_allclose(fit.value, value(line.slope), rtol=1e-9)
        np.testing.assert_allclose(np.log(fit.constant), line.intercept, rtol=1e-9)
        residual = y - line.intercept - line.slope * x
        np.testing.assert_allclose(fit.residual, np.sqrt(np.mean(residual**2)), rtol=1e-9)


@pytest.mark.parametrize(("correlation", "least"), [(0.0, 0.92), (0.8, 0.88)])
def test_intervals_cover_the_truth(correlation, least):
    k = jnp.arange(400)
    white = jax.random.normal(jax.random.key(0), (400, 1000))
    noise = jax.lax.scan(lambda e, z: (correlation * e + z,) * 2, jnp.zeros(1000), white)[1].T
    found = jax.jit(jax.vmap(fit_rate))(jnp.exp(k * jnp.log(0.98) + 0.2 * noise))
    assert least < jnp.mean((found.linear.low < 0.98) & (found.linear.high > 0.98)) < 0.98
    found = jax.jit(jax.vmap(fit_rate))(jnp.exp(-1.5 * jnp.log(jnp.maximum(k, 1)) + 0.2 * noise))
    assert least < jnp.mean((found.power.low < 1.5) & (found.power.high > 1.5)) < 0.98


def test_rounding_at_the_minimum_is_left_out():
    k = np.arange(300)
    losses = 1.0 + 0.5 * 0.8**k  # is exactly 1 from step 160 or so on
    found = fit_rate(losses, 1.0)
    np.testing.assert_allclose(found.linear.value, 0.8, rtol=1e-2)
    assert found.used < 80


def test_a_floor_leaves_out_what_is_noise():
    losses = 0.9 ** np.arange(300) + 1e-8
    assert fit_rate(losses).linear.value > 0.95
    found = fit_rate(losses, floor=1e-6)
    np.testing.assert_allclose(found.linear.value, 0.9, rtol=2e-3)


def test_gaps_that_are_no_gaps_are_left_out():
    clean = 0.9 ** np.arange(100.0)
    losses = clean.copy()
    losses[[60, 70, 80, 90]] = np.nan, np.inf, 0.0, -1.0
    found = fit_rate(losses)
    np.testing.assert_allclose(found.linear.value, 0.9, rtol=1e-12)
    assert found.used == 48


def test_a_wrong_minimum_shows_in_the_residual():
    losses = 0.95 ** np.arange(100) + 1.0
    right, wrong = fit_rate(losses, 1.0), fit_rate(losses, 0.9)
    assert wrong.linear.residual > 1e3 * right.linear.residual
    assert wrong.linear.high - wrong.linear.low > 1e3 * (right.linear.high - right.linear.low)


def test_too_few_points_are_not_fitted():
    assert np.isnan(jax.tree.leaves(fit_rate(0.5 ** np.arange(39.0))[:2])).all()
    assert np.isfinite(jax.tree.leaves(fit_rate(0.5 ** np.arange(41.0))[:2])).all()
    assert fit_rate(np.full(100, np.nan)).used == 0


def test_it_is_traced_once_for_all_lanes():
    @jax.jit
    @chex.assert_max_traces(1)
    def lanes(losses):
        return jax.vmap(lambda losses: fit_rate(losses, 0.0, tail=0.5))(losses)

    for factors in ([0.9, 0.5], [0.99, jnp.nan]):
        losses = jnp.array(factors)[:, None] ** jnp.arange(100) * (1 + 0.1 * jnp.cos(jnp.arange(100)))
        alone = [fit_rate(each) for each in losses]
        chex.assert_trees_all_close(lanes(losses), jax.tree.map(lambda *x: jnp.stack(x), *alone), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": np.ones((2, 3))}, "`losses` must have one axis"),
        ({"losses": np.ones(50), "tail": 0.0}, "`tail` must be in"),
        ({"losses": np.ones(50), "tail": 1.5}, "`tail` must be in"),
        ({"losses": np.ones(50), "floor": -1.0}, "`floor` must be >= 0"),
    ],
)
def test_bad_input_is_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_rate(**arguments)
