"""One optimizer run three ways on the same small tree: by gradlab or Optax, by a NumPy oracle, by PyTorch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core.transform import from_optax

STEPS = 50
SHAPES = {"kernel": (3, 2), "bias": (2,), "scale": ()}

_rng = np.random.default_rng(20)
PARAMS = {name: np.asarray(_rng.standard_normal(shape)) for name, shape in SHAPES.items()}
NOISE = {name: _rng.standard_normal((STEPS, *shape)) for name, shape in SHAPES.items()}
CURVATURES = {name: _rng.uniform(0.5, 2.0, shape) for name, shape in SHAPES.items()}


def gradient_of(name: str) -> Callable[[Any, int], Any]:
    """The gradient of one leaf at step t = 0, 1, ...: that of a quadratic, with fixed noise added."""
    return lambda p, t: CURVATURES[name] * p + NOISE[name][t]


def _params(state: Any, params: Any) -> Any:
    del state
    return params


def by_transform(tx: Any, readout: Callable[[Any, Any], Any] = _params) -> tuple[dict, Any]:
    """Runs a gradlab or Optax transform from ``PARAMS``.

    Returns all iterates, ``(STEPS, *shape)`` for each leaf (or what ``readout`` makes of them), and the last state.
    """
    return _scan(from_optax(tx), jax.tree.map(jnp.asarray, PARAMS), readout)


@functools.partial(jax.jit, static_argnums=2)
def _scan(tx, params, readout):
    def step(carry, noise):
        params, state = carry
        grads = jax.tree.map(lambda c, p, n: c * p + n, CURVATURES, params, noise)
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state), readout(state, params)

    (_, state), iterates = jax.lax.scan(step, (params, tx.init(params)), NOISE)
    return iterates, state


def by_oracle(oracle: Callable, **hyper: Any) -> dict:
    """All iterates of ``oracle(p, gradient, steps, **hyper)``, leaf by leaf."""
    return {name: np.stack(oracle(PARAMS[name], gradient_of(name), STEPS, **hyper)) for name in SHAPES}


def by_torch(make: Callable[[list], Any]) -> dict:
    """All iterates of the PyTorch optimizer ``make(tensors)`` in float64."""
    import torch

    tensors = {name: torch.tensor(p, dtype=torch.float64, requires_grad=True) for name, p in PARAMS.items()}
    optimizer = make(list(tensors.values()))
    iterates = {name: [] for name in SHAPES}
    for t in range(STEPS):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient_of(name)(tensor.detach().numpy(), t), dtype=torch.float64)
        optimizer.step()
        for name, tensor in tensors.items():
            iterates[name].append(tensor.detach().numpy().copy())
    return {name: np.stack(path) for name, path in iterates.items()}


def farthest(one: dict, other: dict) -> float:
    """The largest distance of two runs' last iterates, in any entry."""
    return max(float(np.max(np.abs(np.asarray(one[name][-1]) - np.asarray(other[name][-1])))) for name in SHAPES)
