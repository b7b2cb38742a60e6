r"""MARS: the gradient extrapolated along its own change, to reduce its variance (arXiv 2411.10438).

With g the incoming update of a leaf and previous the one before::

    c = g + gamma * b1 / (1 - b1) * (g - previous)
    c = c * min(1, max_norm / |c|)                                 leaf by leaf; not with max_norm=None
    previous = g
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like

Tree = Any

BEFORE_FIRST = ("first", "zero")


class MarsState(NamedTuple):
    """What `mars_correction` remembers."""

    count: jax.Array  # () int32
    previous: Tree  # like params


def _mars_correction_init(params, *, dtype):
    return MarsState(count=jnp.zeros([], jnp.int32), previous=zeros_like(params, dtype))


def corrected_gradient(g, previous, *, count, gamma, b1, max_norm, before_first):
    """The corrected gradient of one leaf; ``count`` updates came before."""
    if before_first == "first":
        previous = jnp.where(count == 0, g, previous)
    c = g + gamma * b1 / (1 - b1) * (g - previous)
    length = norm(c)
    beyond = length > max_norm
    return c * jnp.where(beyond, max_norm / jnp.where(beyond, length, 1), 1)


def _mars_rule(g, previous, **values):
    return corrected_gradient(g, previous, **values), g


def _mars_correction_update(grads, state, params=None, *, gamma, b1, max_norm, before_first, **extra):
    del params, extra
    updates, previous = leafwise(
        _mars_rule,
        grads,
        [state.previous],
        structure={"before_first": before_first},
        count=state.count,
        gamma=gamma,
        b1=b1,
        max_norm=jnp.inf if max_norm is None else max_norm,
    )
    return updates, MarsState(count=optax.safe_increment(state.count), previous=previous)


def mars_correction(
    gamma: Any = 0.025,
    b1: Any = 0.95,
    max_norm: Any = 1.0,
    *,
    before_first: str = "first",
    dtype: Any = None,
) -> Transform:
    """Adds to the updates a multiple of their change since the last step, before any optimizer (arXiv 2411.10438).

    The paper's approximate form: the gradient before is that of the last batch, not of the last parameters on this
    batch, which would cost a second backward pass.

    Args:
      gamma: strength of the correction, at least 0.
      b1: decay of the average of gradients in the optimizer behind, in [0, 1).
      max_norm: bound on the norm of every corrected leaf, or None for no bound.
      before_first: (static) what counts as the update before the first: ``'first'`` the first itself, so that it is
        not corrected (the paper); ``'zero'`` zero, so that it is lengthened (the authors' program).
      dtype: (static) dtype in which the last update is stored; the parameter's if None.

    Raises:
      ValueError: a ``b1`` outside of [0, 1), a negative ``gamma`` or ``max_norm``, an unknown ``before_first``.

    >>> tx = mars_correction(gamma=0.5, b1=0.5)
    >>> updates, state = tx.update(jnp.array([0.2]), tx.init(jnp.zeros(1)))
    >>> later, _ = tx.update(jnp.array([0.6]), state)
    >>> round(float(updates[0]), 4), round(float(later[0]), 4)
    (0.2, 0.8)
    """
    check.decay_rate(b1=b1)
    check.non_negative(gamma=gamma, max_norm=max_norm)
    check.one_of("before_first", before_first, BEFORE_FIRST)
    return transform(
        _mars_correction_init,
        _mars_correction_update,
        at_init={"dtype": static(dtype)},
        gamma=gamma,
        b1=b1,
        max_norm=max_norm,
        before_first=static(before_first),
    )
