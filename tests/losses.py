"""Losses with known derivatives on the mixed tree of `tests.trajectories`, and a run that hands them over."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gradlab.core.transform import from_optax
from tests.trajectories import flat, mixed_tree

SIZE = flat(mixed_tree()).size

_rng = np.random.default_rng(31)
_basis = np.linalg.qr(_rng.normal(size=(SIZE, SIZE)))[0]
SYMMETRIC = _basis @ np.diag(np.linspace(-2.0, 4.0, SIZE)) @ _basis.T
FOURTH = _rng.uniform(0.5, 2.0, SIZE)


def quartic(params):
    """``x @ SYMMETRIC @ x / 2 + sum(FOURTH * x^4) / 4``: a saddle at zero, minima around it."""
    x, _ = ravel_pytree(params)
    return x @ SYMMETRIC @ x / 2 + jnp.sum(FOURTH * x**4) / 4


def quartic_gradient(x):
    return SYMMETRIC @ x + FOURTH * x**3


def quartic_hessian(x):
    return SYMMETRIC + 3 * np.diag(FOURTH * x**2)


def saddle(p):
    """``x^2 - y^2 + y^4 / 4``: a saddle at zero, minima at y = +-sqrt(2)."""
    return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4


def rosenbrock(p):
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def minimise(tx, loss, params, steps, **extra):
    """The parameters after every step, one row a step, and the last state."""
    positions, state = _minimise(from_optax(tx), loss, params, jnp.arange(steps), extra)
    return flat(positions, rows=steps), state


def _scan(tx, loss, params, counts, extra):
    def step(carry, count):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss, obj_fn=loss, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), positions = jax.lax.scan(step, (params, tx.init(params)), counts)
    return positions, state


_minimise = jax.jit(_scan, static_argnums=1)
