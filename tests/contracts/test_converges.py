"""Every optimizer of the registry finds the minimum of a quadratic and descends Rosenbrock's valley."""

import jax
import jax.numpy as jnp
import pytest

import gradlab
from gradlab.core.numerics import abs_sq
from tests.contracts.cases import DEFAULT, NAMES, NEEDS_VALUE, REAL_ONLY, SOLVING, STARTS_ONLY, rate_of


def quadratic(x):
    return 0.5 * jnp.sum(jnp.array([1.0, 3.0, 10.0]) * abs_sq(x - jnp.array([1.0, -2.0, 0.5])))


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def minimise(name, tx, loss, params, steps):
    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        needed = {"value": value, "value_fn": loss} if name in NEEDS_VALUE else {}
        updates, state = tx.update(jax.tree.map(jnp.conj, grads), state, params, **needed)
        return (gradlab.apply_updates(params, updates), state), None

    (params, state), _ = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), None, length=steps))(
        params
    )
    return float(loss(gradlab.eval_params(tx, state, params)))


def optimizer(name, surface, steps):
    values = dict(SOLVING.get(name, DEFAULT)[surface])
    if name not in STARTS_ONLY and rate_of(name) in values:
        values[rate_of(name)] = gradlab.cosine_decay_schedule(values[rate_of(name)], steps)
    return gradlab.REGISTRY[name](**values)


@pytest.mark.parametrize("name", NAMES)
def test_quadratic(name):
    start = jnp.array([3.0, 1.0, -1.0])
    assert minimise(name, optimizer(name, "quadratic", 1000), quadratic, start, 1000) < 1e-3 * quadratic(start)


@pytest.mark.parametrize("name", NAMES)
def test_rosenbrock(name):
    start = jnp.array([-1.2, 1.0])
    assert minimise(name, optimizer(name, "rosenbrock", 4000), rosenbrock, start, 4000) < 0.1


@pytest.mark.parametrize("name", sorted(set(NAMES) - REAL_ONLY))
def test_complex_quadratic(name):
    start = jnp.array([3.0 + 1.0j, 1.0 - 2.0j, -1.0 + 0.5j], dtype=jnp.complex64)
    assert minimise(name, optimizer(name, "quadratic", 1000), quadratic, start, 1000) < 1e-3 * quadratic(start)
