"""Random matrices for the stacks of a tree: one for each of its matrices, the same however they are grouped."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core.matrixwise import Groups

Tree = Any


def normal_stacks(
    key: jax.Array, groups: Groups, tree: Tree, like: dict[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Independent normal numbers of mean 0 and variance 1 for every matrix, (k, rows, columns) for a group of k.

    A matrix draws from ``key`` folded with the place of its first entry among all entries of the tree, so its numbers
    depend neither on the strategy nor on the shapes beside it.

    Args:
      key: a typed random key.
      groups: of ``tree``.
      tree: arrays, or anything with their shapes.
      like: shape and real dtype of what one matrix of each group draws.

    >>> from optax.contrib import MuonDimensionNumbers
    >>> tree = {'a': jnp.ones((2, 3), 'float32'), 'b': jnp.ones((3, 2), 'float32')}
    >>> groups, like = Groups(tree, MuonDimensionNumbers()), {'2x3_float32': jax.ShapeDtypeStruct((1, 2), 'float32')}
    >>> normal_stacks(jax.random.key(0), groups, tree, like)['2x3_float32'].shape
    (2, 1, 2)
    """
    start, places = 0, []
    leaves, treedef = jax.tree.flatten(tree)
    for x in leaves:
        size = math.prod(x.shape)
        places.append(jnp.reshape(jnp.arange(size, dtype=jnp.uint32) + jnp.uint32(start % 2**32), x.shape))
        start += size
    firsts = {name: stack[:, 0, 0] for name, stack in groups.stack(treedef.unflatten(places)).items()}
    return {name: jax.vmap(functools.partial(_draw, key, like[name]))(place) for name, place in firsts.items()}


def _draw(key: jax.Array, like: jax.ShapeDtypeStruct, place: jax.Array) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(key, place), like.shape, like.dtype)
