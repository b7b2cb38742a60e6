r"""Caution: move, or decay, only where the gradient agrees.

With g the raw gradient, u the direction of the optimizer before the sign change, p the parameter, tensor by tensor::

    agree = u * g > 0
    u = where(agree, u, 0) / max(mean(agree), floor)                       cautious, arXiv 2411.16085
    u = u + weight_decay * where(u * p >= 0, p, 0)                         cautious decay, arXiv 2510.12402

Both stand before the learning rate: ``chain(scale_by_adam(), cautious(), scale_by_learning_rate(1e-3))``.
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.transform import Transform, transform
from gradlab.transforms.route import masked


def cautious(floor: Any = 1e-3) -> Transform:
    """Drops the entries of the updates whose sign is not the gradient's, and scales the others up (arXiv 2411.16085).

    The optimizer's own averages stay as they are.  The scale is the number of entries over the number kept, in each
    tensor, so that the mean length of a step stays.

    Args:
      floor: smallest share of entries by which is divided, above zero.

    Raises:
      ValueError: ``floor`` is not positive; ``update`` called without the raw gradient, which a chain supplies.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.trace(0.9), cautious())
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([1.0, 1.0]), state)
    >>> [round(float(u), 4) for u in tx.update(jnp.array([1.0, -0.1]), state)[0]]
    [3.8, 0.0]
    """
    check.positive(floor=floor)
    return transform(empty_init, _cautious_update, floor=floor)


def add_cautious_decayed_weights(weight_decay: Any, mask: Any = None) -> Transform:
    """Weight decay where it does not oppose the step (arXiv 2510.12402): ``u + weight_decay * p`` if ``u * p >= 0``.

    Args:
      weight_decay: a number, a schedule, or a tree of these that is a prefix of the parameters.
      mask: which parameters decay; as for `masked`.

    Raises:
      ValueError: a negative decay; ``update`` called without ``params``.

    >>> tx = add_cautious_decayed_weights(0.5)
    >>> params = jnp.array([2.0, 2.0])
    >>> tx.update(jnp.array([1.0, -1.0]), tx.init(params), params)[0].tolist()
    [2.0, -1.0]
    """
    check.non_negative(weight_decay=weight_decay)
    tx = transform(empty_init, _add_cautious_decayed_weights_update, weight_decay=weight_decay)
    return tx if mask is None else masked(tx, mask)


def _agreement(u, g):
    """Above zero where the real and the imaginary parts point the same way on the whole."""
    return jnp.real(u * jnp.conj(g)) if jnp.iscomplexobj(u) else u * g


def _cautious_rule(u, g, *, floor):
    agree = _agreement(u, g) > 0
    share = jnp.mean(agree, dtype=floor.dtype)
    return jnp.where(agree, u, 0) / jnp.maximum(share, floor), g


def _cautious_update(updates, state, params=None, *, floor, grad=None, **extra):
    del params, extra
    if grad is None:
        raise ValueError(
            "cautious compares the updates with the raw gradient: put it into a chain behind the optimizer's stages, "
            "or call update(..., grad=grads)"
        )
    updates, _ = leafwise(_cautious_rule, updates, [grad], floor=floor)
    return updates, state


def _cautious_decay_rule(u, p, *, weight_decay):
    return (u + weight_decay * jnp.where(_agreement(u, p) >= 0, p, 0),)


def _add_cautious_decayed_weights_update(updates, state, params=None, *, weight_decay, **extra):
    del extra
    params = check.required_params("add_cautious_decayed_weights", params)
    (updates,) = leafwise(_cautious_decay_rule, updates, params=params, weight_decay=weight_decay)
    return updates, state
