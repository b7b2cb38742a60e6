"""Extreme eigenvalues of an operator and their vectors, from a Krylov space.

Lanczos' iteration (1950) sees the operator A as a tridiagonal T in an orthonormal basis Q of m vectors.  With
``T s = theta s`` the pair ``(theta, Q s)`` has the residual ``|A Q s - theta Q s| = |beta_m s_m|``, and there is an
eigenvalue within ``residual`` of theta, within ``residual^2 / gap`` if the others are ``gap`` away.  Every vector is
made orthogonal to all others twice: without that, float32 invents copies of eigenvalues that were found.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.curvature import ravel, unravel
from gradlab.core.decompositions import eigh
from gradlab.core.krylov import lanczos
from gradlab.core.norms import norm
from gradlab.core.numerics import finite_or_nan
from gradlab.instruments.operators import Operator, like_vector

Tree = Any

WHICH = ("LA", "SA", "LM", "both")
MIXED_IN = 0.01  # of a random direction in a warm start, so that a new top direction is seen


class Eigs(NamedTuple):
    """Some eigenvalues with their vectors and with how far they may be off."""

    values: jax.Array  # (k,), or (2 k,) for 'both': the largest ones in falling order, then the smallest, rising
    vectors: Tree  # of length one, a tree like the parameters with an axis (k,) in front
    residuals: jax.Array  # |A x - value x|: an eigenvalue lies that near
    matvecs: jax.Array  # products that were used
    converged: jax.Array  # residual <= tol * the largest |eigenvalue| that was seen


def extreme(
    op: Operator,
    key: jax.Array,
    k: int = 1,
    which: str = "LA",
    m: int = 32,
    v0: Tree | Eigs | None = None,
    tol: float = 1e-3,
) -> Eigs:
    """The ``k`` extreme eigenvalues of a symmetric operator by ``m`` steps of Lanczos' iteration.

    Values converge from inside of the spectrum: the largest is never overestimated but by rounding.  A small residual
    says that there is an eigenvalue, not that none lies beyond; a random start misses one with probability zero, and
    seldom in practice.  Of a repeated eigenvalue one copy is found, and the others once the space is exhausted.

    Costs ``m`` products (2 to 4 gradients each) and a basis of n x m numbers; from the eigenvectors of a step before
    5 to 10 products are enough.

    Args:
      op: what is measured.
      key: for the start.
      k: (static) how many, at each end for ``'both'``.
      which: (static) ``'LA'`` largest, ``'SA'`` smallest, ``'LM'`` largest in magnitude, ``'both'`` ends.
      m: (static) number of products, at most n are made.
      v0: warm start: a vector like the parameters, or the `Eigs` of an earlier call.  Zeros or numbers that are not
        finite are a cold start.
      tol: residual, relative to the largest magnitude, below which a value counts as converged.

    Raises:
      ValueError: ``k`` exceeds the number of products, or ``which`` is unknown.

    >>> from gradlab.instruments import hessian
    >>> op = hessian(lambda p, batch: jnp.sum(batch * p**2) / 2, jnp.ones(4), jnp.array([-3.0, 0.0, 1.0, 2.0]))
    >>> found = extreme(op, jax.random.key(0), which='both')
    >>> [round(float(value), 4) for value in found.values], found.converged.tolist()
    ([2.0, -3.0], [True, True])
    """
    return _extreme(op, key, v0, tol, k, which, _checked(op, k, which, m))


@partial(jax.jit, static_argnames=("k", "which", "m"))
def _extreme(op: Operator, key: jax.Array, v0: Tree | Eigs | None, tol: float, k: int, which: str, m: int) -> Eigs:
    start_key, fresh_key = jax.random.split(key)
    krylov = lanczos(lambda v: ravel(op(unravel(v, op.like))), _start(op, start_key, v0), m, fresh_key)
    seen, small = eigh(finite_or_nan(krylov.matrix))
    picked = _order(seen, k, which)
    values, small = seen[picked], small[:, picked]
    scale = jnp.max(jnp.abs(seen))
    residuals = krylov.outside @ jnp.abs(small) + jnp.finfo(seen.dtype).eps * scale
    vectors = jax.vmap(lambda s: unravel(s @ krylov.basis, op.like), in_axes=1)(small)
    return Eigs(values, vectors, residuals, jnp.asarray(m, jnp.int32), residuals <= tol * scale)


def _checked(op: Operator, k: int, which: str, m: int) -> int:
    """The number of products."""
    check.one_of("which", which, WHICH)
    check.in_range("k", k, 1)
    check.in_range("m", m, 1)
    if k > min(m, op.size):
        raise ValueError(
            f"`k` is {k}, but {min(m, op.size)} products find no more eigenvalues than that: "
            f"raise `m`, now {m}, or lower `k`; the operator has {op.size} rows"
        )
    return min(m, op.size)


def _start(op: Operator, key: jax.Array, v0: Tree | Eigs | None) -> jax.Array:
    like = ravel(op.like)
    random = jax.random.normal(key, like.shape, like.dtype)
    if v0 is None:
        return random
    warm = ravel(like_vector(_sum(v0), op.like))
    length = norm(warm)
    usable = (length > 0) & jnp.isfinite(length)
    return jnp.where(usable, warm, 0) / jnp.where(usable, length, 1) + MIXED_IN * random / norm(random)


def _sum(v0: Tree | Eigs) -> Tree:
    return jax.tree.map(lambda vectors: vectors.sum(0), v0.vectors) if isinstance(v0, Eigs) else v0


def _order(values: jax.Array, k: int, which: str) -> jax.Array:
    """Indices of the wanted ones among values in rising order."""
    smallest = jnp.arange(k)
    largest = len(values) - 1 - smallest
    if which == "LM":
        return jnp.argsort(-jnp.abs(values))[:k]
    return {"LA": largest, "SA": smallest, "both": jnp.concatenate([largest, smallest])}[which]
