"""Euclidean norms in at least float32, safe against overflow, underflow and the kink at zero."""

from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core.numerics import abs_sq

Tree = Any


def norm(x: jax.Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> jax.Array:
    """The Euclidean norm of an array or of slices of it, finite whenever float32 (float64 for float64) can hold it.

    Its gradient at zero is zero.

    >>> x = jnp.array([3e30, 4e30])
    >>> round(float(norm(x)) / 1e30, 4), jax.grad(norm)(jnp.zeros(2)).tolist()
    (5.0, [0.0, 0.0])
    """
    x = _at_least_float32(x)
    tiny = jnp.finfo(x.dtype).tiny
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
    scale = jax.lax.stop_gradient(jnp.clip(largest, tiny, 1 / tiny))  # its reciprocal is a normal number too
    root = _sqrt(jnp.sum(abs_sq(x / scale), axis=axis, keepdims=keepdims))
    return root * (scale if keepdims else jnp.reshape(scale, root.shape))


def global_norm(tree: Tree) -> jax.Array:
    """The Euclidean norm of all leaves together; one pass over them unless their squares leave the range of floats.

    Zero for a tree without leaves; infinite or NaN if a leaf is.

    >>> float(global_norm({'a': jnp.array([3.0]), 'b': (jnp.array([4.0]), None)}))
    5.0
    >>> round(float(global_norm(jnp.full(300, 4e4, 'float16'))), 1)
    692820.3
    """
    return _global_norm(tree)


@jax.jit
def _global_norm(tree: Tree) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.zeros([], jnp.float32)
    squares = jnp.sum(jnp.stack([_sum_of_squares(leaf) for leaf in leaves]))
    limits = jnp.finfo(squares.dtype)
    in_range = (squares > limits.tiny / limits.eps) & (squares < jnp.inf)
    return jax.lax.cond(in_range, lambda: _sqrt(squares), lambda: norm(jnp.stack([_norm(leaf) for leaf in leaves])))


def _at_least_float32(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sqrt(x: jax.Array) -> jax.Array:
    """The root, with gradient zero at zero."""
    positive = x != 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


@jax.jit
def _sum_of_squares(x: jax.Array) -> jax.Array:
    return jnp.sum(abs_sq(_at_least_float32(x)))


_norm = jax.jit(norm)
