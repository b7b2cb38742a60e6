r"""What optimizers in subspaces of low rank share: random matrices, moments of projected gradients, a limit of growth.

With g a gradient in a subspace and count = 1, 2, ..., the authors of GaLore, Fira and APOLLO take for Adam::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    d = mu / (sqrt(nu) + eps)
    step = w * d,  w = sqrt(1 - b2^count) / (1 - b1^count)

The length of a matrix's step u is limited, before w, to ``max_growth`` times that of the step before (arXiv
2410.01623); not at first, nor after a step of length zero, where the authors' programs would hold it near zero.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.matrixwise import Groups
from gradlab.core.norms import norm
from gradlab.core.numerics import abs_sq, debias, safe_quotient, safe_sqrt
from gradlab.core.tree import real_dtype

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


def projected_zeros(stacks: dict[str, jax.Array], rank: int) -> tuple[dict[str, jax.Array], ...]:
    """Two moments (k, r, n), r at most m, and a length (k,) for every stack (k, m, n).

    >>> [moment['w'].shape for moment in projected_zeros({'w': jnp.ones((5, 3, 4))}, 2)]
    [(5, 2, 4), (5, 2, 4), (5,)]
    """
    mu = {name: jnp.zeros((x.shape[0], min(rank, x.shape[1]), x.shape[2]), x.dtype) for name, x in stacks.items()}
    nu = {name: jnp.zeros(x.shape, real_dtype(x)) for name, x in mu.items()}
    return mu, nu, {name: jnp.zeros(x.shape[0], x.dtype) for name, x in nu.items()}


def uncorrected_adam(g, mu, nu, *, b1, b2, eps):
    """The direction d of this module and the new moments; `adam_weight` is what corrects their bias."""
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    return safe_quotient(mu, safe_sqrt(nu) + eps), mu, nu


def adam_weight(b1, b2, count):
    return jnp.sqrt(debias(b2, count)) / debias(b1, count)


def growth_limited(u: jax.Array, length: jax.Array, max_growth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``u``, shortened to ``max_growth`` times the last length unless that is zero, and its own length.

    >>> u = jnp.array([6.0, 8.0])
    >>> growth_limited(u, 4.0, 1.25)[0].tolist(), growth_limited(u, 0.0, 1.25)[0].tolist()
    ([3.0, 4.0], [6.0, 8.0])
    """
    now = norm(u)
    allowed = jnp.where(length == 0, now, jnp.minimum(now, max_growth * length))
    return u * safe_quotient(allowed, now), allowed


def check_projection(rank, update_proj_gap, scale, b1, b2, eps, max_growth) -> None:
    for name, value in (("rank", rank), ("update_proj_gap", update_proj_gap)):
        if not isinstance(value, int):
            raise TypeError(f"`{name}` must be an int, got {type(value).__name__}: it is structure, not data")
        check.in_range(name, value, 1)
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps)
    check.positive(scale=scale)
    check.in_range("max_growth", max_growth, 1)
