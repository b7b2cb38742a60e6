"""Runs an optimizer that reads the loss, on losses whose minima are known."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradlab
from gradlab.core.closures import as_pytree
from gradlab.core.transform import from_optax

STEPS = 50


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def valley(size):
    """Where runs on Rosenbrock's function start."""
    return jnp.tile(jnp.array([-1.2, 1.0]), size // 2)


def logistic(params):
    """Regularised logistic regression on 40 points of 4 features, parameters in a tree."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 4)) * np.array([1.0, 2.0, 0.5, 3.0])
    labels = np.sign(features @ np.array([1.0, -1.0, 2.0, 0.3]) + rng.normal(size=40))
    margins = labels * (features @ params["weights"] + params["bias"])
    return jnp.mean(jax.nn.softplus(-margins)) + 0.01 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))


def regression():
    return {"weights": jnp.zeros(4), "bias": jnp.zeros([])}


def descend(tx, loss, params, steps=STEPS):
    """The parameters and the states after every step, stacked."""
    return _descend(from_optax(tx), as_pytree(loss), params, steps)


# Compiled as outside of the tests, where Optax's program and gradlab's round alike: line searches amplify rounding.
AS_EVERYWHERE = {
    "xla_cpu_use_fusion_emitters": True,
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


@functools.partial(jax.jit, static_argnames="steps", compiler_options=AS_EVERYWHERE)
def _descend(tx, loss, params, steps):
    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    return jax.lax.scan(step, (params, tx.init(params)), None, length=steps)[1]


class Quadratic(NamedTuple):
    """``x A x / 2 - b x``, of condition 30."""

    matrix: np.ndarray
    vector: np.ndarray

    def __call__(self, x: Any) -> Any:
        return 0.5 * x @ self.matrix @ x - self.vector @ x

    @property
    def minimum(self) -> np.ndarray:
        return np.linalg.solve(self.matrix, self.vector)


def quadratic(size=6, seed=0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return Quadratic(basis @ np.diag(np.geomspace(1, 30, size)) @ basis.T, rng.normal(size=size))


def _exact_update(updates, state, params=None, *, matrix, grad, **extra):
    step = -(grad @ updates) / (updates @ matrix @ updates)
    return step * updates, state


def exact_search(loss):
    """The line search that finds the minimum of a quadratic along the updates."""
    return gradlab.transform(lambda params: optax.EmptyState(), _exact_update, matrix=jnp.asarray(loss.matrix))
