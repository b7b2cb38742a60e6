"""What the contracts need to know of an optimizer beyond its row in the registry."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

import gradlab
from gradlab import REGISTRY

NAMES = sorted(REGISTRY)

# What solves a quadratic of condition 10 in 1000 steps and Rosenbrock's valley in 4000, under a cosine schedule; the
# default suits steps whose length is about the learning rate.
DEFAULT = {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.1}}
SOLVING: dict[str, dict[str, dict[str, Any]]] = {
    "adadelta": {"quadratic": {"learning_rate": 3.0}, "rosenbrock": {"learning_rate": 1.0}},
    "adagrad": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "amsgrad": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "delta_bar_delta": {
        "quadratic": {"learning_rate": 0.01},
        "rosenbrock": {"learning_rate": 1e-4, "kappa": 1e-5, "phi": 0.3},
    },
    "ema_sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.01}},
    "heavy_ball": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.001}},
    "momentum_sgd": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.001}},
    "nesterov_sgd": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.001}},
    "radam": {
        "quadratic": {"learning_rate": 0.1},
        "rosenbrock": {"learning_rate": 0.1, "unrectified": "skip"},
    },
    "rprop": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.01}},
    "sign_sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.002}},
    "sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.002}},
}

# Their learning rate is where every weight's own step size starts: a schedule has no meaning for it.
STARTS_ONLY = {"delta_bar_delta", "rprop"}

# Rules that read the sign of the gradient have no meaning for complex numbers; neither does AdaDelta's form in Optax.
REAL_ONLY = {"adadelta", "delta_bar_delta", "lion", "rprop", "sign_sgd", "signum"}


def build(name: str, **values: Any) -> Any:
    """The optimizer of a name, at learning rate 0.01 where it has no default."""
    required = inspect.signature(REGISTRY[name]).parameters["learning_rate"].default is inspect.Parameter.empty
    return REGISTRY[name](**({"learning_rate": 0.01} if required else {}), **values)


def mixed_tree(dtype: Any = jnp.float64, seed: int = 0) -> dict[str, Any]:
    """Leaves of every rank, drawn from a normal distribution."""
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = {"dense": {"kernel": (3, 2), "bias": (2,)}, "conv": (2, 2, 1, 3), "scale": ()}
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    arrays = [jax.random.normal(key, shape, jnp.float64).astype(dtype) for key, shape in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, arrays)


def run(tx: Any, params: Any, grads: list[Any], state: Any = None) -> tuple[Any, Any]:
    """Parameters and state after one update for each gradient tree."""
    state = tx.init(params) if state is None else state
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = gradlab.apply_updates(params, updates)
    return params, state
