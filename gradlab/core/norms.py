"""Euclidean norms in at least float32, differentiable also at zero."""

from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core.across import at_least_float32, sum_of_squares
from gradlab.core.numerics import abs_sq, safe_sqrt

Tree = Any


def norm(x: jax.Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> jax.Array:
    """The Euclidean norm of an array or of slices of it, finite whenever float32 (float64 for float64) can hold it.

    Its gradient at zero is zero.

    >>> x = jnp.array([3e30, 4e30])
    >>> round(float(norm(x)) / 1e30, 4), jax.grad(norm)(jnp.zeros(2)).tolist()
    (5.0, [0.0, 0.0])
    """
    x = at_least_float32(x)
    tiny = jnp.finfo(x.dtype).tiny
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
    # Its reciprocal is a normal number too, and so is that one's square: of zeros that are a constant XLA takes
    # (0 * s) * (0 * s) for (0 * 0) * (s * s).
    scale = jax.lax.stop_gradient(jnp.clip(largest, tiny**0.5, 1 / tiny))
    scaled = x * (1 / scale)  # a quotient of complex numbers would square the scale
    length = safe_sqrt(jnp.sum(abs_sq(scaled), axis=axis, keepdims=keepdims))
    return length * (scale if keepdims else jnp.reshape(scale, length.shape))


def global_norm(updates: Tree) -> jax.Array:
    """The Euclidean norm of all leaves together, in one pass over them.

    Zero for a tree without leaves; infinite or NaN if a leaf is, or if the sum of squares exceeds the range of float32
    (float64 for float64): entries beyond 1e19.  A second, scaled pass would save those and read every tree twice.

    >>> float(global_norm({'a': jnp.array([3.0]), 'b': (jnp.array([4.0]), None)}))
    5.0
    >>> round(float(global_norm(jnp.full(300, 4e4, 'float16'))), 1)
    692820.3
    """
    return safe_sqrt(sum_of_squares(updates))
