r"""Filters of the gradient, to be put before an optimizer.

With g the gradient and p the parameter, tensor by tensor::

    ema = decay * ema + (1 - decay) * g, at first g;  u = g + factor * ema                  grokfast, arXiv 2405.20233
    r = g - (<g, p> / |p|^2) * p;  u = r * |g| / |r|                                        orthograd, arXiv 2501.04697
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like


def grokfast(decay: Any = 0.98, factor: Any = 2.0) -> Transform:
    """Amplifies the slow part of the gradient: ``g + factor * ema(g)`` (Lee et al., arXiv 2405.20233).

    Args:
      decay: of the average, in [0, 1); it starts at the first gradient.
      factor: weight of the average.

    Raises:
      ValueError: a decay outside of [0, 1), a negative factor.

    >>> tx = grokfast(decay=0.5, factor=2.0)
    >>> first, state = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
    >>> second, _ = tx.update(jnp.array([3.0]), state)
    >>> first.tolist(), second.tolist()
    ([3.0], [7.0])
    """
    check.decay_rate(decay=decay)
    check.non_negative(factor=factor)
    return transform(_grokfast_init, _grokfast_update, decay=decay, factor=factor)


def orthograd() -> Transform:
    """Takes from each tensor's gradient the part along the tensor and restores its length (arXiv 2501.04697).

    What scales a scale-invariant weight without changing the function, the growth of confident logits, is left out.
    Tensors that are zero keep their gradient; a gradient along the tensor becomes zero.

    Raises:
      ValueError: ``update`` called without ``params``.

    >>> tx, p = orthograd(), jnp.array([2.0, 0.0])
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(p), p)[0].tolist()
    [0.0, 5.0]
    """
    return transform(empty_init, _orthograd_update)


def _grokfast_init(params):
    return optax.EmaState(count=jnp.zeros([], jnp.int32), ema=zeros_like(params))


def _grokfast_rule(g, ema, *, count, decay, factor):
    ema = jnp.where(count == 1, g, decay * ema + (1 - decay) * g)
    return g + factor * ema, ema


def _grokfast_update(grads, state, params=None, *, decay, factor, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, ema = leafwise(_grokfast_rule, grads, [state.ema], count=count, decay=decay, factor=factor)
    return updates, optax.EmaState(count=count, ema=ema)


def _orthograd_rule(g, p):
    length = norm(p)
    safe = jnp.where(length > 0, length, 1)
    unit = p / safe
    along = jnp.sum(jnp.conj(unit) * g) * unit
    rest = g - along
    size, left = norm(g), norm(rest)
    noise = 16 * jnp.finfo(size.dtype).eps * size  # what rounding leaves of a gradient that lies along the tensor
    keep = left > noise
    return (jnp.where(keep, rest * (size / jnp.where(keep, left, 1)), 0),)


def _orthograd_update(grads, state, params=None, **extra):
    del extra
    (updates,) = leafwise(_orthograd_rule, grads, params=check.required_params("orthograd", params))
    return updates, state
