r"""How near a run is to the edge of stability: the sharpness beside the largest one its optimizer can hold.

On a quadratic of curvature h an optimizer with constant learning rate and momentum b converges if h is below::

    'gd'             2 / lr
    'heavy_ball'     (2 + 2 b) / lr                             v = b v + g,          p = p - lr v
    'nesterov'       (2 + 2 b) / ((1 + 2 b) lr)                 v = b v + g,          p = p - lr (g + b v)
    'ema'            (2 + 2 b) / ((1 - b) lr)                   v = b v + (1 - b) g,  p = p - lr v
    'ema_nesterov'   (2 + 2 b) / ((1 - b) (1 + 2 b) lr)         the same with p = p - lr ((1 - b) g + b v)

Full-batch training brings the sharpness there and holds it (arXiv 2103.00065).  For Adam the curvature that counts is
that of ``P^-1 H`` with P what the averaged gradient is divided by, and the threshold that of 'ema': 38 / lr for
b1 = 0.9 (arXiv 2207.14484).  Decoupled weight decay is not counted.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.numerics import debias, safe_quotient, safe_sqrt
from gradlab.instruments.eigen import Eigs, extreme
from gradlab.instruments.operators import Operator, like_vector, preconditioned

Tree = Any

DYNAMICS = ("gd", "heavy_ball", "nesterov", "ema", "ema_nesterov")


def threshold(dynamics: str, learning_rate: Any, momentum: Any = 0.0) -> jax.Array:
    """The curvature above which an optimizer diverges on a quadratic.

    Args:
      dynamics: (static) one of the names above; ``'ema'`` for Adam, with ``momentum`` its b1.
      learning_rate: above zero.
      momentum: in [0, 1); ``'gd'`` has none.

    Raises:
      ValueError: an unknown name, a value out of its range, or momentum for ``'gd'``.

    >>> round(float(threshold('heavy_ball', 0.1, 0.9)), 4), round(float(threshold('ema', 1.0, 0.9)), 4)
    (38.0, 38.0)
    """
    check.one_of("dynamics", dynamics, DYNAMICS)
    check.positive(learning_rate=learning_rate)
    check.decay_rate(momentum=momentum)
    if dynamics == "gd":
        check.in_range("momentum", momentum, 0.0, 0.0)
    rate = learning_rate * (1 - momentum) if dynamics.startswith("ema") else learning_rate
    ahead = 1 + 2 * momentum if dynamics.endswith("nesterov") else 1.0
    return jnp.asarray((2 + 2 * momentum) / (ahead * rate))


def adam_diagonal(state: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, eps_root: Any = 0.0) -> Tree:
    """What Adam divides its averaged gradient by, read from the optimizer's state, for `preconditioned`.

    ``P = (1 - b1^count) (sqrt(nu / (1 - b2^count) + eps_root) + eps)``, with which a step is ``-lr P^-1 mu``.

    Args:
      state: gradlab's or Optax's, however deep the one with ``count``, ``mu`` and ``nu`` lies in it.
      b1: as the optimizer has it.
      b2: as the optimizer has it.
      eps: as the optimizer has it.
      eps_root: as the optimizer has it.

    Raises:
      ValueError: the state holds no such part, several, or one that has seen no gradient.

    >>> import gradlab
    >>> tx = gradlab.adam(0.1)
    >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> [round(float(x), 4) for x in adam_diagonal(state)]
    [0.3, 0.4]
    """
    is_adam = lambda node: all(hasattr(node, name) for name in ("count", "mu", "nu"))
    found = [node for node in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(node)]
    if len(found) != 1:
        raise ValueError(
            f"adam_diagonal: the state holds {len(found)} parts with `count`, `mu` and `nu`, but needs one; "
            "pass the state of that stage, or a tree of your own to preconditioned(...)"
        )
    count, nu = found[0].count, found[0].nu
    if not isinstance(count, jax.core.Tracer) and jnp.any(count == 0):
        raise ValueError("adam_diagonal: the optimizer has seen no gradient yet; make a step before")
    first, second = debias(b1, count), debias(b2, count)
    return jax.tree.map(lambda nu: first * (safe_sqrt(nu / second + eps_root) + eps), nu)


class Gauge(NamedTuple):
    """Where a run stands relative to its edge of stability."""

    sharpness: jax.Array  # largest eigenvalue, of the preconditioned Hessian where there is a diagonal
    residual: jax.Array  # there is an eigenvalue that near
    threshold: jax.Array
    ratio: jax.Array  # sharpness / threshold: above one the optimizer is unstable along ``eigs.vectors``
    alignment: jax.Array  # the part of the gradient's square along the top eigenvector, in [0, 1]
    eigs: Eigs  # for the next warm start


def gauge(
    op: Operator,
    grads: Tree,
    threshold: Any,
    key: jax.Array,
    m: int = 32,
    v0: Any = None,
    diagonal: Tree | None = None,
) -> Gauge:
    """The sharpness relative to a threshold, and how much of the gradient lies along the sharpest direction.

    Costs ``m`` products; see `extreme`, also for warm starts.

    Args:
      op: the Hessian at the parameters.
      grads: the gradient there, of the same batch.
      threshold: of the optimizer, from `threshold`.
      key: for a cold start.
      m: (static) number of products.
      v0: warm start: ``eigs`` of an earlier gauge.
      diagonal: P, from `adam_diagonal`; op becomes ``P^-1/2 H P^-1/2`` and the gradient ``P^-1/2 g``.

    >>> from gradlab.instruments import hessian
    >>> op = hessian(lambda p, batch: p['a'] ** 2 + 2 * p['b'] ** 2, {'a': 3.0, 'b': 2.0})
    >>> found = gauge(op, {'a': 6.0, 'b': 8.0}, threshold('gd', 0.25), jax.random.key(0))
    >>> [round(float(x), 4) for x in (found.sharpness, found.ratio, found.alignment)]
    [4.0, 0.5, 0.64]
    """
    check.positive(threshold=threshold)
    grads = like_vector(grads, op.like)
    if diagonal is not None:
        op = preconditioned(op, diagonal)
        grads = jax.tree.map(lambda g, p: g * jax.lax.rsqrt(p), grads, like_vector(diagonal, op.like))
    eigs = extreme(op, key, m=m, v0=v0)
    top = jax.tree.map(lambda v: v[0], eigs.vectors)
    alignment = safe_quotient(vdot(grads, top) ** 2, vdot(grads, grads))
    sharpness = eigs.values[0]
    edge = jnp.asarray(threshold, sharpness.dtype)
    return Gauge(sharpness, eigs.residuals[0], edge, sharpness / edge, alignment, eigs)
