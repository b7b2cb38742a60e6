"""What kind of point a run has come to, from its gradient and both ends of its spectrum.

At a critical point the gradient is zero, and the second derivatives tell::

    minimum   all curvatures above ctol         maximum   all below -ctol
    saddle    one above ctol and one below -ctol
    flat      all within ctol: only higher derivatives could tell
    undecided the rest: the smallest is zero, as along a valley of minima, or is not known well enough

Ritz values lie inside of the spectrum, so a saddle is certain once both ends are seen; that nothing lies beyond an end
is known up to its residual (arXiv 1406.2572 for the index of critical points of networks).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.norms import global_norm
from gradlab.instruments.density import Fraction, fraction, slq
from gradlab.instruments.eigen import extreme
from gradlab.instruments.operators import hessian

Tree = Any

KINDS = ("not critical", "minimum", "saddle", "maximum", "flat", "undecided")


class CriticalPoint(NamedTuple):
    """What `classify` finds; the name of the kind is ``KINDS[kind]``."""

    kind: jax.Array  # index into KINDS
    margin: jax.Array  # what decides clears its bounds by this much, as a curvature (a slope where not critical)
    slope: jax.Array  # |gradient|
    smallest: jax.Array  # eigenvalue
    smallest_residual: jax.Array
    largest: jax.Array  # eigenvalue
    largest_residual: jax.Array
    negative: Fraction  # of the eigenvalues below -ctol
    zero: Fraction  # within ctol
    positive: Fraction  # above ctol


def classify(
    loss: Callable,
    params: Tree,
    batch: Any,
    key: jax.Array,
    gtol: Any = 1e-4,
    ctol: Any = 1e-6,
    m: int = 32,
    probes: int = 2,
) -> CriticalPoint:
    """The kind of point at ``params``: not critical, minimum, saddle, maximum, flat or undecided.

    Costs one gradient and ``(1 + probes) * m`` Hessian-vector products.  A number that is not finite makes it
    undecided.  The many curvatures of a network near zero fall to one side or another in the fractions, whose
    ``resolution`` says how many those may be.

    Args:
      loss: ``(params, batch) -> scalar``.
      params: where.
      batch: on what; the gradient of a part of the data is not zero at a minimum of all of it.
      key: for the starts.
      gtol: length of the gradient up to which a point counts as critical, above zero.
      ctol: curvature up to which it counts as zero, above zero; at least ten rounding units of the largest.
      m: (static) products for the ends of the spectrum, and for each probe of the fractions.
      probes: (static) random vectors for the fractions; from two on these have standard errors.

    >>> saddle = classify(lambda p, batch: p[0]**2 - p[1]**2, jnp.zeros(2), None, jax.random.key(0))
    >>> KINDS[saddle.kind], round(float(saddle.smallest), 4), round(float(saddle.negative.value), 4)
    ('saddle', -2.0, 0.5)
    """
    check.positive(gtol=gtol, ctol=ctol)
    op = hessian(loss, params, batch)
    ends_key, probes_key = jax.random.split(key)
    ends = extreme(op, ends_key, which="both", m=m)
    slope = global_norm(jax.grad(loss)(params, batch))
    rounding = 10 * jnp.finfo(ends.values.dtype).eps * jnp.max(jnp.abs(ends.values))
    zero = jnp.maximum(jnp.asarray(ctol, ends.values.dtype), rounding)
    kind, margin = _decide(slope - gtol, ends.values, ends.residuals, zero)
    spectrum = slq(op, probes_key, probes, m)
    parts = fraction(spectrum, high=-zero), fraction(spectrum, -zero, zero), fraction(spectrum, zero)
    (largest, smallest), (largest_residual, smallest_residual) = ends.values, ends.residuals
    return CriticalPoint(kind, margin, slope, smallest, smallest_residual, largest, largest_residual, *parts)


def _decide(steepness: jax.Array, values: jax.Array, residuals: jax.Array, zero: jax.Array) -> tuple:
    """The index of the kind and by how much it is that; the kinds exclude one another."""
    (largest, smallest), (above, below) = values, residuals
    clear = jnp.stack(
        [
            steepness,
            smallest - below - zero,
            jnp.minimum(largest, -smallest) - zero,
            -(largest + above) - zero,
            zero - jnp.maximum(largest + above, below - smallest),
        ]
    )
    clear = jnp.where(steepness <= 0, clear.at[0].set(-jnp.inf), clear.at[1:].set(-jnp.inf))
    margin = jnp.max(clear)
    return jnp.where(margin > 0, jnp.argmax(clear), KINDS.index("undecided")), margin
