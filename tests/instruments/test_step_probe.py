"""The step probe: exact on quadratics, honest beyond them."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.instruments import step_probe

CURVATURES = jnp.array([4.0, 1.0, 0.25])


def quadratic(params, batch):
    """A quadratic in a rotated frame, so that its Hessian is full."""
    x = jnp.concatenate([params["a"], params["b"][None]])
    return 0.5 * x @ hessian() @ x - 0.7


def hessian():
    frame = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (3, 3)))[0]
    return frame * CURVATURES @ frame.T


PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def flat(tree):
    return jnp.concatenate([tree["a"], tree["b"][None]])


def eigenvector(index, length=3.0):
    vector = length * jnp.linalg.eigh(hessian())[1][:, index]
    return {"a": vector[:2], "b": vector[2]}


def descent(params, rate):
    return jax.tree.map(lambda g: -rate * g, jax.grad(quadratic)(params, None))


def test_the_numbers_are_those_of_the_dense_hessian():
    update = {"a": jnp.array([0.3, 0.1]), "b": jnp.array(-0.2)}
    probe = step_probe(quadratic, PARAMS, None, update)
    x, u, H = flat(PARAMS), flat(update), hessian()
    g = H @ x
    expected = [0.5 * x @ H @ x - 0.7, g @ g, g @ H @ g, g @ u, u @ H @ u]
    np.testing.assert_allclose(probe[:5], expected, rtol=1e-12)
    np.testing.assert_allclose(probe.predicted, g @ u + 0.5 * u @ H @ u, rtol=1e-12)


def test_on_a_quadratic_the_prediction_is_exact():
    probe = step_probe(quadratic, PARAMS, None, {"a": jnp.array([0.3, 2.0]), "b": jnp.array(-0.9)})
    np.testing.assert_allclose(probe.actual, probe.predicted, rtol=1e-12)
    np.testing.assert_allclose(probe.ratio, 1.0, rtol=1e-12)
    assert 0 < probe.rounding < 1e-14


@pytest.mark.parametrize("index", [0, 1, 2])
def test_along_an_eigenvector_the_best_rate_is_the_inverse_curvature(index):
    params, h = eigenvector(index), float(jnp.sort(CURVATURES)[index])
    for rate in (0.1, 1.0):
        probe = step_probe(quadratic, params, None, descent(params, rate), rate)
        np.testing.assert_allclose([probe.best_rate, probe.critical_rate], [1 / h, 2 / h], rtol=1e-10)
        np.testing.assert_allclose(probe.alpha, rate * h - 1, atol=1e-10)


@pytest.mark.parametrize("factor", [0.5, 0.999, 1.001, 3.0])
def test_the_loss_rises_exactly_beyond_the_critical_rate(factor):
    probe = step_probe(quadratic, PARAMS, None, descent(PARAMS, 1.0))
    critical = 2 * probe.grad_squared / probe.grad_curvature
    np.testing.assert_allclose(probe.critical_rate, critical, rtol=1e-12)
    beyond = step_probe(quadratic, PARAMS, None, descent(PARAMS, factor * critical))
    assert bool(beyond.actual > 0) == (factor > 1) == bool(beyond.alpha > 1)


def test_rates_of_another_optimizer_are_in_the_unit_of_its_rate():
    tx = gradlab.adam(0.01)
    update, _ = tx.update(jax.grad(quadratic)(PARAMS, None), tx.init(PARAMS), PARAMS)
    probe = step_probe(quadratic, PARAMS, None, update, 0.01)
    best = jax.tree.map(lambda u: u * probe.best_rate / 0.01, update)
    assert abs(float(step_probe(quadratic, PARAMS, None, best).alpha)) < 1e-10


def cubic(x, batch):
    return x**3 / 3 + batch * x


def test_beyond_quadratics_the_remainder_is_the_third_order():
    for u in (1e-1, 1e-2):
        probe = step_probe(cubic, jnp.array(2.0), 1.0, jnp.array(u))
        np.testing.assert_allclose(probe.actual - probe.predicted, u**3 / 3, rtol=1e-8)


@pytest.mark.parametrize(
    ("slope", "curvature", "best", "critical"),
    [
        (-1.0, 4.0, 0.25, 0.5),
        (-1.0, 0.0, np.inf, np.inf),
        (-1.0, -2.0, np.inf, np.inf),
        (1.0, 2.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0),
        (1.0, -2.0, np.inf, 0.0),
        (0.0, 2.0, 0.0, 0.0),
        (0.0, -2.0, np.inf, np.inf),
        (0.0, 0.0, np.nan, np.nan),
        (np.nan, 2.0, np.nan, np.nan),
    ],
)
def test_rates_where_the_model_has_no_minimum_downhill(slope, curvature, best, critical):
    line = lambda s, batch: slope * s + curvature * s**2 / 2
    probe = step_probe(line, jnp.array(0.0), None, jnp.array(1.0))
    np.testing.assert_array_equal([probe.best_rate, probe.critical_rate], [best, critical])


def test_a_nan_in_the_curvature_alone_is_no_rate():
    kink = lambda s, batch: -s + s**1.5 - s**1.25  # with the second derivative infinity minus infinity at zero
    probe = step_probe(kink, jnp.array(0.0), None, jnp.array(1.0))
    assert probe.slope == -1 and np.isnan([probe.curvature, probe.best_rate, probe.critical_rate]).all()


def test_a_zero_update_has_no_direction():
    probe = step_probe(quadratic, PARAMS, None, jax.tree.map(jnp.zeros_like, PARAMS))
    assert np.isnan([probe.ratio, probe.best_rate, probe.critical_rate, probe.alpha]).all()
    assert probe.actual == probe.predicted == 0


def test_held_parameters_count_nowhere():
    held = step_probe(quadratic, PARAMS, None, {"a": None, "b": jnp.array(0.1)})
    alone = lambda b, batch: quadratic({"a": PARAMS["a"], "b": b}, batch)
    chex.assert_trees_all_close(held, step_probe(alone, PARAMS["b"], None, jnp.array(0.1)))


def test_low_precision_is_rounded_as_training_rounds():
    params = jnp.array([1.0], "bfloat16")
    square = lambda p, batch: jnp.sum(p.astype(jnp.float32) ** 2)
    probe = step_probe(square, params, None, jnp.array([1e-3], "bfloat16"))
    assert probe.actual == 0  # 1 + 1e-3 is 1 in bfloat16
    np.testing.assert_allclose(probe.predicted, 2e-3, rtol=1e-2)


def test_it_measures_a_flax_model():
    model = nn.Sequential([nn.Dense(4), jnp.tanh, nn.Dense(1)])
    x = jax.random.normal(jax.random.key(1), (8, 3))
    params = model.init(jax.random.key(2), x)
    loss = lambda params, x: jnp.mean((model.apply(params, x) - 1.0) ** 2)
    update = jax.tree.map(lambda g: -1e-3 * g, jax.grad(loss)(params, x))
    probe = step_probe(loss, params, x, update, 1e-3)
    np.testing.assert_allclose(probe.ratio, 1.0, rtol=1e-2)
    np.testing.assert_allclose(probe.slope, -1e-3 * probe.grad_squared, rtol=1e-5)


def test_it_is_traced_once_for_all_lanes():
    @jax.jit
    @chex.assert_max_traces(1)
    def probes(params, rates):
        return jax.vmap(lambda rate: step_probe(quadratic, params, None, descent(params, rate), rate))(rates)

    rates = jnp.array([0.1, 0.5])
    for params in (eigenvector(0), eigenvector(1)):
        lanes = probes(params, rates)
        alone = [step_probe(quadratic, params, None, descent(params, rate), rate) for rate in rates]
        chex.assert_trees_all_close(lanes, jax.tree.map(lambda *x: jnp.stack(x), *alone), rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda p, b: p["a"], PARAMS, None, PARAMS), ValueError, "must return one number"),
        ((quadratic, {"a": jnp.array([1, 2]), "b": jnp.array(1.0)}, None, PARAMS), TypeError, "'a' is int"),
        ((quadratic, PARAMS, None, {"a": PARAMS["a"]}), ValueError, "the update and the parameters have different"),
        ((quadratic, PARAMS, None, {"a": jnp.ones(3), "b": jnp.ones(())}), ValueError, "update at 'a' has shape"),
        ((quadratic, PARAMS, None, PARAMS, 0.0), ValueError, "`learning_rate` must be > 0, got 0"),
    ],
)
def test_bad_input_is_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        step_probe(*arguments)
