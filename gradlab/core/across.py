"""Scalars across all leaves of a tree: inner products, sums of squares and magnitudes, in at least float32.

Each is one pass over the leaves.  The leaves are added from the smallest up: that is more exact, and XLA:CPU computes
the sum once, where without the sort it copies the sum of all leaves into every kernel that uses it (148 leaves: four
times the compile time).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import tree as trees
from gradlab.core.numerics import abs_sq

Tree = Any


def total(term: Callable, *operands: Tree, **hyper: Any) -> jax.Array:
    """The sum of ``term(*leaves, **hyper)`` over every element of every leaf, in at least float32.

    Args:
      term: a module-level function of one array from each tree.
      *operands: trees of one structure; a leaf that is ``None`` in one of them counts as zero.
      **hyper: numbers.

    >>> def _weighted(x, y, *, weight): return weight * x * y
    >>> float(total(_weighted, {'a': jnp.array([1.0, 2.0])}, {'a': jnp.array([3.0, 4.0])}, weight=2.0))
    22.0
    """
    columns = [jax.tree.leaves(tree, is_leaf=trees.is_none) for tree in operands]
    rows = [row for row in zip(*columns, strict=True) if all(leaf is not None for leaf in row)]
    if not rows:
        return jnp.zeros([], jnp.float32)
    return jnp.sum(jnp.sort(jnp.concatenate([_on_one_leaf(term, row, hyper) for row in rows])))


def vdot(tree: Tree, other: Tree) -> jax.Array:
    """The real part of the inner product of two trees; a leaf that is ``None`` in either counts as zero.

    >>> float(vdot({'a': jnp.array([1.0, 2.0]), 'b': None}, {'a': jnp.array([3.0, 4.0]), 'b': jnp.ones(1)}))
    11.0
    """
    return total(real_product, tree, other)


def sum_of_squares(tree: Tree) -> jax.Array:
    """The sum of ``|x|^2`` over every element of every leaf.

    >>> float(sum_of_squares({'a': jnp.array([3.0]), 'b': jnp.array([4.0, 0.0])}))
    25.0
    """
    return total(abs_sq, tree)


def sum_of_abs(tree: Tree) -> jax.Array:
    """The sum of ``|x|`` over every element of every leaf.

    >>> float(sum_of_abs((jnp.array([-3.0, 1.0]), jnp.array(3 + 4j))))
    9.0
    """
    return total(jnp.abs, tree)


def squared_distance(tree: Tree, other: Tree) -> jax.Array:
    """The sum of ``|x - y|^2`` over every element of every leaf; a leaf that is ``None`` in either counts as zero.

    >>> float(squared_distance({'a': jnp.array([4.0, 1.0])}, {'a': jnp.array([1.0, 5.0])}))
    25.0
    """
    return total(_squared_difference, tree, other)


def difference(tree: Tree, other: Tree) -> Tree:
    """``tree - other`` leaf by leaf in at least float32; ``None`` where either is.

    >>> difference({'a': jnp.array([3.0]), 'b': None}, {'a': jnp.array([1.0]), 'b': None})['a'].tolist()
    [2.0]
    """
    subtract = lambda x, y: None if x is None or y is None else _difference(x, y)
    return jax.tree.map(subtract, tree, other, is_leaf=trees.is_none)


def at_least_float32(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def real_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """The real part of ``conj(x) * y``."""
    if jnp.iscomplexobj(x) and jnp.iscomplexobj(y):
        return x.real * y.real + x.imag * y.imag
    return x.real * y.real


def _squared_difference(x: jax.Array, y: jax.Array) -> jax.Array:
    return abs_sq(x - y)


def _inline_on_one_leaf(term: Callable, leaves: tuple[jax.Array, ...], hyper: dict[str, Any]) -> jax.Array:
    """The sum as an array of one number: ready to be concatenated."""
    return jnp.sum(term(*map(at_least_float32, leaves), **hyper))[None]


_on_one_leaf = jax.jit(_inline_on_one_leaf, static_argnums=0)


@jax.jit
def _difference(x: jax.Array, y: jax.Array) -> jax.Array:
    return at_least_float32(x) - at_least_float32(y)
