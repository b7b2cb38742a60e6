r"""The factored second moment: row and column averages in the place of one number for each weight.

With g the gradient, count = 1, 2, ..., decay = 1 - count^(-decay_rate), and all averages zero before the first step::

    v_row = decay * v_row + (1 - decay) * mean over columns of (|g|^2 + epsilon)
    v_col = decay * v_col + (1 - decay) * mean over rows of (|g|^2 + epsilon)
    v = v_row * v_col / mean(v_row)                               arXiv 1804.04235, algorithm 4
    u = g / sqrt(v)

The product is the matrix of rank one whose row and column means are those of the averaged squares.  The rows and
columns of an array of more axes are its two largest, with averages of their own for every index of the others.  Arrays
with fewer than two axes of length ``min_dim_size_to_factor`` keep one average for each weight,
``v = decay * v + (1 - decay) * (|g|^2 + epsilon)``.

Any other optimizer keeps its second moment so with ``storage={'nu': 'factored'}``, see `gradlab.core.storage`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq
from gradlab.core.rule import static
from gradlab.core.storage import factored_dims
from gradlab.core.transform import Transform, transform

FactoredState = optax.FactoredState
Dims = tuple[int, int] | None


def reduced_zeros_like(p: Any, axes: Any, keepdims: bool = False) -> jax.Array:
    """Zeros of the shape of a mean of ``p`` over ``axes``, laid out over devices as such a mean would be."""
    return jnp.sum(jnp.zeros_like(p), axes, dtype=p.dtype, keepdims=keepdims)


def factored_zeros_like(params: Any, min_dim_size_to_factor: int) -> tuple[Any, Any, Any]:
    """The trees ``v_row``, ``v_col`` and ``v`` before the first step; what a leaf does not use has the shape (1,)."""
    treedef = jax.tree.structure(params)
    leaves = [_zeros_of_leaf(p, factored_dims(jnp.shape(p), min_dim_size_to_factor)) for p in jax.tree.leaves(params)]
    columns = zip(*leaves, strict=True) if leaves else [()] * 3
    return tuple(jax.tree.unflatten(treedef, column) for column in columns)


def _zeros_of_leaf(p: Any, dims: Dims) -> tuple[jax.Array, jax.Array, jax.Array]:
    unused = jnp.zeros((1,), p.dtype)
    if dims is None:
        return unused, unused, jnp.zeros_like(p)
    second, first = dims
    return reduced_zeros_like(p, first), reduced_zeros_like(p, second), unused


def factored_average(square, v_row, v_col, *, decay, dims):
    """Both averages after the squares of one more step."""
    second, first = dims
    v_row = decay * v_row + (1 - decay) * jnp.mean(square, first)
    v_col = decay * v_col + (1 - decay) * jnp.mean(square, second)
    return v_row, v_col


def over_factored_root(g, v_row, v_col, *, dims):
    """``g`` divided by the root of the product of the averages.

    The quotients are those of roots: squares of averages near 1e-30 would underflow in their derivatives.
    """
    second, first = dims
    rows = second - 1 if second > first else second
    by_row = jnp.sqrt(jnp.mean(v_row, rows, keepdims=True)) / jnp.sqrt(v_row)
    by_col = 1 / jnp.sqrt(v_col)
    return g * jnp.expand_dims(by_row, first) * jnp.expand_dims(by_col, second)


def power_decay(step: Any, decay_rate: Any) -> Any:
    """Adafactor's decay ``1 - (step + 1)^(-decay_rate)``: zero at the first step, towards one from there."""
    return 1 - (step + 1) ** -decay_rate


def _scale_by_factored_rms_init(params, *, min_dim_size_to_factor):
    v_row, v_col, v = factored_zeros_like(params, min_dim_size_to_factor)
    return FactoredState(count=jnp.zeros([], jnp.int32), v_row=v_row, v_col=v_col, v=v)


def _factored_rms_rule(
    g, v_row, v_col, v, *, count, decay_rate, step_offset, epsilon, decay_rate_fn, min_dim_size_to_factor
):
    decay = decay_rate_fn(count - step_offset, decay_rate)
    square = abs_sq(g) + epsilon
    v_row, v_col, v = jnp.real(v_row), jnp.real(v_col), jnp.real(v)
    dims = factored_dims(g.shape, min_dim_size_to_factor)
    if dims is None:
        v = decay * v + (1 - decay) * square
        return g / jnp.sqrt(v), v_row, v_col, v
    v_row, v_col = factored_average(square, v_row, v_col, decay=decay, dims=dims)
    return over_factored_root(g, v_row, v_col, dims=dims), v_row, v_col, v


def _scale_by_factored_rms_update(
    grads,
    state,
    params=None,
    *,
    decay_rate,
    step_offset,
    epsilon,
    decay_rate_fn,
    min_dim_size_to_factor,
    **extra,
):
    del params, extra
    updates, v_row, v_col, v = leafwise(
        _factored_rms_rule,
        grads,
        [state.v_row, state.v_col, state.v],
        structure={"decay_rate_fn": decay_rate_fn, "min_dim_size_to_factor": min_dim_size_to_factor},
        own_shapes=True,
        count=state.count,
        decay_rate=decay_rate,
        step_offset=step_offset,
        epsilon=epsilon,
    )
    return updates, FactoredState(count=optax.safe_increment(state.count), v_row=v_row, v_col=v_col, v=v)


def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Any = 0.8,
    step_offset: Any = 0.0,
    min_dim_size_to_factor: int = 128,
    epsilon: Any = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] = power_decay,
) -> Transform:
    """Divides the updates by the root of their factored average square (arXiv 1804.04235); see the module.

    Args:
      factored: (static) false keeps one average for each weight everywhere.
      decay_rate: exponent of the decay; the paper's is 0.8.
      step_offset: steps by which the decay starts anew: the count at which a fine-tuning that continues this state
        begins.
      min_dim_size_to_factor: (static) least length of the two axes.
      epsilon: added to the squares.
      decay_rate_fn: (static) ``(step, decay_rate) -> decay`` with step = 0, 1, ...; one that is bounded below 1 keeps
        the average moving (arXiv 2106.04560 takes ``min(power_decay, 0.999)``).

    The decay is computed in the arithmetic of the leaf; Optax's is float32 also for float64 leaves.

    Raises:
      ValueError: a negative ``decay_rate`` or ``epsilon``.

    >>> tx = scale_by_factored_rms(min_dim_size_to_factor=2)
    >>> params = jnp.zeros((2, 3))
    >>> state = tx.init(params)
    >>> state.v_row.shape, state.v_col.shape, state.v.shape
    ((2,), (3,), (1,))
    >>> updates, state = tx.update(jnp.array([[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]]), state)  # a matrix of rank one
    >>> [[round(u, 4) for u in row] for row in updates.tolist()]
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    check.non_negative(decay_rate=decay_rate, epsilon=epsilon)
    least = static(min_dim_size_to_factor if factored else np.inf)
    return transform(
        _scale_by_factored_rms_init,
        _scale_by_factored_rms_update,
        at_init={"min_dim_size_to_factor": least},
        decay_rate=decay_rate,
        step_offset=step_offset,
        epsilon=epsilon,
        decay_rate_fn=static(decay_rate_fn),
        min_dim_size_to_factor=least,
    )
