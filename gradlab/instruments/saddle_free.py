r"""How a step deals with negative curvature.

Newton's step ``-H^-1 g`` climbs where the curvature is negative, towards a saddle; the saddle-free step
``-|H|^-1 g`` descends there too (arXiv 1406.2572).  With P the projection on the eigenvectors of H whose eigenvalue is
negative::

    share(u)  = |P u|^2 / |u|^2            the part of a step that lies along negative curvature
    escape(u) = -g' P u / (|g| |u|)        above zero: it leaves the saddle; below: it is drawn to it

The shares come from the Gauss quadrature of u and of g; the rest from the Krylov space of g, in which the saddle-free
direction is found as well.  The optimizer itself is `gradlab.saddle_free_newton`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.curvature import ravel, unravel
from gradlab.core.decompositions import eigh
from gradlab.core.krylov import lanczos, solve_abs
from gradlab.core.norms import norm
from gradlab.core.numerics import finite_or_nan, safe_quotient
from gradlab.instruments.operators import Operator, like_vector

Tree = Any


class SaddleReport(NamedTuple):
    """A step u beside the gradient g and the curvature H; NaN where u or g is zero."""

    curvature: jax.Array  # u'Hu / u'u
    share: jax.Array  # part of |u|^2 along negative curvature, in [0, 1]
    gradient_share: jax.Array  # the same for g
    escape: jax.Array  # in [-1, 1]; above zero u descends along negative curvature
    descent: jax.Array  # cosine of u and -g
    alignment: jax.Array  # cosine of u and of the saddle-free direction
    unseen: jax.Array  # part of |u|^2 outside of the Krylov space of g, which escape and alignment do not see
    saddle_free: Tree  # the saddle-free step, like the parameters


def saddle_report(op: Operator, grads: Tree, step: Tree, m: int = 32, damping: Any = 0.0) -> SaddleReport:
    """How much of a step lies along negative curvature, and whether it descends there.

    Costs ``2 m`` products and a basis of n x m numbers; exact once ``m`` reaches n.

    Args:
      op: the Hessian at the parameters.
      grads: the gradient there.
      step: what the optimizer adds to the parameters.
      m: (static) products for each of the two Krylov spaces.
      damping: added to ``|H|`` for the saddle-free step, >= 0; directions of curvature zero are left out if it is 0.

    >>> from gradlab.instruments import hessian
    >>> op = hessian(lambda p, batch: p[0]**2 - p[1]**2, jnp.array([1.0, 0.5]))
    >>> found = saddle_report(op, jnp.array([2.0, -1.0]), jnp.array([-1.0, -0.5]))  # Newton's step, into the saddle
    >>> [round(float(x), 4) for x in (found.share, found.escape, found.alignment)], found.saddle_free.round(4).tolist()
    ([0.2, -0.2, 0.6], [-1.0, 0.5])
    """
    check.in_range("m", m, 1)
    check.non_negative(damping=damping)
    g, u = (ravel(like_vector(tree, op.like)) for tree in (grads, step))
    return _saddle_report(op, g, u, damping, min(m, op.size))


@partial(jax.jit, static_argnames="m")
def _saddle_report(op: Operator, g: jax.Array, u: jax.Array, damping: Any, m: int) -> SaddleReport:
    product = lambda v: ravel(op(unravel(v, op.like)))
    of_g, of_u = lanczos(product, g, m), lanczos(product, u, m)
    along = of_g.basis @ u
    values, small = eigh(finite_or_nan(of_g.matrix))
    down = (values < _noise(values))[:, None] * small.T
    saddle_free = -of_g.basis.T @ solve_abs(of_g.matrix, damping, of_g.basis @ g)
    lengths = norm(g) * norm(u)
    seen = safe_quotient(along @ along, u @ u)
    undefined = jnp.where(lengths > 0, 0.0, jnp.nan)
    return SaddleReport(
        of_u.matrix[0, 0] + undefined,
        _negative_share(of_u.matrix) + undefined,
        _negative_share(of_g.matrix) + undefined,
        -(down @ (of_g.basis @ g)) @ (down @ along) / lengths,
        -(g @ u) / lengths,
        (saddle_free @ u) / (norm(saddle_free) * norm(u)),
        jnp.maximum(1 - seen, 0) + undefined,
        unravel(saddle_free, op.like),
    )


def _negative_share(matrix: jax.Array) -> jax.Array:
    values, small = eigh(finite_or_nan(matrix))
    return jnp.sum((values < _noise(values)) * small[0] ** 2)


def _noise(values: jax.Array) -> jax.Array:
    """Below this an eigenvalue is negative and not a zero that was rounded."""
    return -10 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
