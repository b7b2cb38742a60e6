"""Thresholds beside the spectral radius of each optimizer's own iteration, and the gauge on known curvature."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_max_traces

import gradlab
from gradlab.instruments import adam_diagonal, dense, gauge, hessian, threshold
from tests.instruments.problems import LABELS, X, network_loss, network_params, quadratic, symmetric

KEY = jax.random.key(0)
DATA = (X, LABELS)


def descent(momentum, nesterov):
    return gradlab.sgd(1.0, momentum=momentum, nesterov=nesterov)


def averaged(momentum, nesterov):
    """Adam with a denominator of one: its ``nu`` stays below the rounding of eps."""
    return gradlab.adam(1.0, b1=momentum, b2=0.0, eps=1.0, nesterov=nesterov, bias_correction=False)


CASES = {
    "gd": (descent, False, [0.0]),
    "heavy_ball": (descent, False, [0.5, 0.9]),
    "nesterov": (descent, True, [0.5, 0.9]),
    "ema": (averaged, False, [0.0, 0.5, 0.9]),
    "ema_nesterov": (averaged, True, [0.5, 0.9]),
}


def growth(tx, curvature):
    """How a start of 1e-30 grows over many steps on a quadratic, from the optimizer as it is."""

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(curvature * p, state, p)
        return (p + updates, state), jnp.abs(p)

    start = jnp.asarray(1e-30)
    (_, _), path = jax.lax.scan(step, (start, tx.init(start)), None, length=20_000)
    return jnp.max(path[-100:]) / start


@pytest.mark.parametrize(
    ("dynamics", "momentum"), [(name, momentum) for name, (*_, values) in CASES.items() for momentum in values]
)
def test_the_threshold_is_where_the_optimizer_itself_turns_unstable(dynamics, momentum):
    make, nesterov, _ = CASES[dynamics]
    tx = make(momentum, nesterov)
    edge = threshold(dynamics, 1.0, momentum)
    below, above = jax.jit(jax.vmap(lambda curvature: growth(tx, curvature)))(edge * jnp.array([0.999, 1.001]))
    assert below < 1e-2 and above > 1e2


def test_thresholds_scale_with_the_inverse_learning_rate_and_may_be_traced():
    np.testing.assert_allclose(threshold("nesterov", 0.01, 0.9), 100 * threshold("nesterov", 1.0, 0.9))
    rates = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda lr: threshold("gd", lr)))(rates), [20.0, 10.0])


@pytest.mark.parametrize("optimizer", [gradlab.adam(0.1, eps=0.01), optax.adam(0.1, eps=0.01)], ids=["ours", "optax"])
def test_a_step_is_the_average_over_the_diagonal(optimizer):
    tx = optax.chain(optax.clip(10.0), optimizer)
    params = {"a": jnp.ones(3), "b": jnp.ones(())}
    state = tx.init(params)
    for scale in (1.0, -2.0, 0.5):
        grads = jax.tree.map(
            lambda p, scale=scale: scale * (1 + jnp.arange(p.size, dtype=float)).reshape(p.shape), params
        )
        updates, state = tx.update(grads, state, params)
    found = adam_diagonal(state, eps=0.01)
    averages = optax.tree.get(state, "mu")
    for update, mu, diagonal in zip(*map(jax.tree.leaves, (updates, averages, found)), strict=True):
        np.testing.assert_allclose(update, -0.1 * mu / diagonal, rtol=1e-10)


def test_adam_with_its_state_frozen_turns_unstable_at_its_own_threshold():
    """The preconditioned sharpness against 'ema': the iteration with P held grows above it and shrinks below."""
    matrix, diagonal, b1 = symmetric([1.0, 2.0, 5.0], seed=4), jnp.array([0.1, 1.0, 3.0]), 0.9
    found = gauge(hessian(quadratic, jnp.ones(3), matrix), jnp.ones(3), 1.0, KEY, diagonal=diagonal)
    rate = threshold("ema", found.sharpness, b1)  # the formula is symmetric in curvature and learning rate

    def radius(rate):
        step = np.diag(1 / diagonal) @ matrix
        block = np.block(
            [
                [np.eye(3) - rate * (1 - b1) * step, -rate * b1 * np.diag(1 / diagonal)],
                [(1 - b1) * matrix, b1 * np.eye(3)],
            ]
        )
        return np.max(np.abs(np.linalg.eigvals(block)))

    assert radius(0.999 * rate) < 1 < radius(1.001 * rate)


def test_the_gauge_of_a_quadratic():
    matrix = jnp.diag(jnp.array([1.0, 4.0, -7.0]))
    found = gauge(hessian(quadratic, jnp.ones(3), matrix), jnp.array([3.0, 4.0, 0.0]), threshold("gd", 0.4), KEY)
    np.testing.assert_allclose([found.sharpness, found.threshold, found.ratio], [4.0, 5.0, 0.8], rtol=1e-12)
    np.testing.assert_allclose(found.alignment, 0.64, rtol=1e-10)
    assert found.residual < 1e-12
    none = gauge(hessian(quadratic, jnp.ones(3), matrix), jnp.zeros(3), 5.0, KEY)
    assert none.alignment == 0


def test_on_a_network_preconditioned_and_warm_in_one_trace():
    tx = gradlab.adam(1e-2)

    @jax.jit
    @assert_max_traces(1)
    def measure(params, state, warm):
        grads = jax.grad(network_loss)(params, DATA)
        _, state = tx.update(grads, state, params)
        diagonal = adam_diagonal(state)
        op = hessian(network_loss, params, DATA)
        flat = lambda tree: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
        found = gauge(op, grads, threshold("ema", 1e-2, 0.9), KEY, m=25, v0=warm, diagonal=diagonal)
        return found, dense(op), flat(diagonal), flat(grads)

    params = network_params(0)
    found, matrix, diagonal, grads = measure(params, tx.init(params), jax.tree.map(jnp.zeros_like, params))
    values, vectors = np.linalg.eigh(matrix / np.sqrt(np.outer(diagonal, diagonal)))
    np.testing.assert_allclose(found.sharpness, values[-1], rtol=1e-4)
    scaled = grads / np.sqrt(diagonal)
    np.testing.assert_allclose(found.alignment, (scaled @ vectors[:, -1]) ** 2 / (scaled @ scaled), rtol=1e-2)
    np.testing.assert_allclose(found.ratio, found.sharpness / 3800.0, rtol=1e-9)
    again, *_ = measure(params, tx.init(params), jax.tree.map(lambda v: v[0], found.eigs.vectors))
    np.testing.assert_allclose(again.sharpness, values[-1], rtol=1e-6)


def test_nan_comes_out_as_nan():
    found = gauge(hessian(quadratic, jnp.ones(2), jnp.full((2, 2), jnp.nan)), jnp.ones(2), 1.0, KEY)
    assert np.all(np.isnan([found.sharpness, found.ratio, found.alignment, found.residual]))


OP = hessian(quadratic, jnp.ones(2), jnp.eye(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threshold("adm", 0.1), "unknown dynamics 'adm'"),
        (lambda: threshold("gd", 0.0), "`learning_rate` must be > 0"),
        (lambda: threshold("gd", 0.1, 0.9), r"`momentum` must be in \[0, 0\], got 0.9"),
        (lambda: threshold("ema", 0.1, 1.0), r"`momentum` must be in \[0, 1\)"),
        (lambda: gauge(OP, jnp.ones(2), 0.0, KEY), "`threshold` must be > 0"),
        (lambda: gauge(OP, jnp.ones(3), 1.0, KEY), r"shape \(3,\)"),
        (lambda: gauge(OP, jnp.ones(2), 1.0, KEY, diagonal=jnp.array([1.0, 0.0])), "`diagonal` must be > 0"),
        (lambda: adam_diagonal(gradlab.sgd(0.1).init(jnp.ones(2))), "the state holds 0 parts"),
        (lambda: adam_diagonal(gradlab.adam(0.1).init(jnp.ones(2))), "has seen no gradient yet"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
