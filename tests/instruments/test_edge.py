"""The edge of stability read from optimizers, against what they do on a quadratic just below and above it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.instruments import adam_diagonal, edge_of, threshold

DESCENTS = {
    "sgd": gradlab.sgd(0.1),
    "momentum": gradlab.sgd(0.1, momentum=0.8),
    "nesterov": gradlab.sgd(0.1, momentum=0.8, nesterov=True),
    "heavy_ball": gradlab.heavy_ball(0.1, momentum=0.8),
    "nesterov_sgd": gradlab.nesterov_sgd(0.1, momentum=0.8),
    "ema_sgd": gradlab.ema_sgd(0.1, momentum=0.8),
    "clipped": gradlab.chain(gradlab.clip_by_global_norm(1e30), gradlab.sgd(0.1, momentum=0.8)),
    "scaled": gradlab.chain(gradlab.sgd(0.2), gradlab.scale(0.5)),
    "by hand": gradlab.chain(gradlab.trace(0.8), gradlab.scale(-0.1)),
    "descend": gradlab.chain(gradlab.scale(0.1), gradlab.descend()),
}


def grows(tx, curvature):
    """Whether the distance from the minimum of a quadratic grows, in the long run."""

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(curvature * p, state, p)
        return (p + updates, state), jnp.abs(p)

    start = jnp.array([1.0])
    _, distance = jax.lax.scan(step, (start, tx.init(start)), length=2000)
    return float(distance[-20:].max()) > 1.0


@pytest.mark.parametrize("name", DESCENTS)
def test_an_optimizer_diverges_just_above_its_threshold(name):
    tx = DESCENTS[name]
    edge = edge_of(tx, tx.init(jnp.zeros(1)))
    assert edge.diagonal is None
    assert not grows(tx, 0.99 * edge.threshold)
    assert grows(tx, 1.01 * edge.threshold)


@pytest.mark.parametrize(("nesterov", "dynamics"), [(False, "ema"), (True, "ema_nesterov")])
def test_adam_has_its_diagonal_from_the_state_after_the_step(nesterov, dynamics):
    tx = gradlab.adamw(gradlab.linear_schedule(0.1, 0.0, 4), b1=0.8, eps=1e-3, nesterov=nesterov)
    params, grads = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, 4.0])}
    before = tx.init(params)
    _, before = tx.update(grads, before, params)
    _, after = tx.update(grads, before, params)
    edge = edge_of(tx, before, after)
    np.testing.assert_allclose(edge.threshold, threshold(dynamics, 0.075, 0.8), rtol=1e-6)
    np.testing.assert_array_equal(edge.diagonal["w"], adam_diagonal(after, b1=0.8, eps=1e-3)["w"])


@pytest.mark.parametrize(
    "tx",
    [
        gradlab.rmsprop(0.1),
        gradlab.sgd({"w": 0.1, "b": 0.2}, momentum=0.9),
        gradlab.adam(0.1, bias_correction=False),
        gradlab.adam(0.1, eps_on="nu"),
        gradlab.chain(gradlab.trace(0.9), gradlab.sgd(0.1, momentum=0.9)),
    ],
    ids=["rmsprop", "two rates", "uncorrected", "eps elsewhere", "two momenta"],
)
def test_the_threshold_of_other_dynamics_is_not_known(tx):
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    _, state = tx.update(params, tx.init(params), params)
    edge = edge_of(tx, state)
    assert np.isnan(edge.threshold) and edge.diagonal is None


def test_thresholds_of_many_optimizers_at_once():
    rates = jnp.array([0.1, 0.2])
    many = jax.vmap(lambda rate: gradlab.sgd(rate, momentum=0.9))(rates)
    found = jax.jit(jax.vmap(lambda tx: edge_of(tx, tx.init(jnp.zeros(2))).threshold))(many)
    np.testing.assert_allclose(found, 3.8 / rates)
