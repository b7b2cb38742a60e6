"""What K-FAC wants to know of the dense layers of a Flax Linen model, see `gradlab.kfac`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gradlab.core.kronecker import precise
from gradlab.optimizers.kfac import Factors


def dense_factors(model: nn.Module, params: Any, inputs: Any, losses: Callable[[Any], jax.Array]) -> dict[str, Any]:
    """The factors of every kernel of a ``Dense`` layer: means over the batch, and over positions if there are any.

    Args:
      model: a Linen module without other variables than its parameters.
      params: its parameters.
      inputs: a batch, (examples, ...).
      losses: outputs -> (examples,), the loss of each.  For a Fisher matrix, and not what is called the empirical one,
        take labels that are drawn from the model's prediction.

    Raises:
      ValueError: the model has no dense layer, or calls one twice.

    >>> model, x = nn.Dense(1, use_bias=False), jnp.array([[1.0], [3.0]])
    >>> found = dense_factors(model, {'kernel': jnp.zeros((1, 1))}, x, lambda y: 0.5 * y[:, 0] ** 2 - 2 * y[:, 0])
    >>> [float(factor[0, 0]) for factor in found['kernel']]  # the mean of x^2, and of the loss's squared derivative
    [5.0, 4.0]
    """
    seen: dict[tuple, jax.Array] = {}
    shifts: dict[tuple, jax.Array] = {}

    def watch(next_call, args, kwargs, context):
        outputs = next_call(*args, **kwargs)
        if not isinstance(context.module, nn.Dense) or context.method_name != "__call__":
            return outputs
        path = context.module.path
        if path in seen:
            raise ValueError(f"the dense layer '{'/'.join(path)}' is called twice: K-FAC wants one input of a kernel")
        seen[path] = args[0]
        return outputs + shifts[path] if path in shifts else outputs

    def run() -> tuple[dict[tuple, jax.Array], Any]:
        seen.clear()
        with nn.intercept_methods(watch):
            outputs = model.apply({"params": params}, inputs)
        return dict(seen), outputs

    def total_loss(of_shifts):
        shifts.clear()
        shifts.update(of_shifts)
        activations, outputs = run()
        return jnp.sum(losses(outputs)), activations

    activations, _ = jax.eval_shape(run)
    if not activations:
        raise ValueError(f"{type(model).__name__} has no dense layer")
    zeros = {
        path: jnp.zeros((*x.shape[:-1], _kernel(params, path).shape[1]), x.dtype) for path, x in activations.items()
    }
    derivatives, activations = jax.grad(total_loss, has_aux=True)(zeros)
    found: dict[str, Any] = {}
    for path, x in activations.items():
        node = found
        for name in path:
            node = node.setdefault(name, {})
        node["kernel"] = Factors(_second_moment(x), _second_moment(derivatives[path]))
    return found


def _kernel(params: Any, path: tuple) -> jax.Array:
    for name in path:
        params = params[name]
    return params["kernel"]


def _second_moment(x: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])
    with precise():
        return rows.T @ rows / len(rows)
