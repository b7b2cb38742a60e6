r"""Reduce on plateau: the updates shrink by a factor whenever the loss has stopped falling.

With value the loss, averaged over ``accumulation_size`` calls, and scale = 1, best = infinity before the first step::

    improved = value < (1 - rtol) * best - atol
    best = value where improved
    scale = max(scale * factor, min_scale) after ``patience`` averages on end without improvement
    u = scale * g

After a reduction ``cooldown`` averages go by uncounted.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ReduceLROnPlateauState

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype


def reduce_on_plateau(
    factor: Any = 0.1,
    patience: Any = 10,
    rtol: Any = 1e-4,
    atol: Any = 0.0,
    cooldown: Any = 0,
    accumulation_size: Any = 1,
    min_scale: Any = 0.0,
) -> Transform:
    """Multiplies the updates by a scale that falls whenever the loss stops falling; ``update`` needs ``value``.

    The recurrence heads this module.  Place it after an optimizer.  Every argument is a number that a sweep may vary.

    Args:
      factor: of one reduction, in (0, 1).
      patience: averages on end without improvement that lead to a reduction.
      rtol: the part by which the loss must fall below the best one, in [0, 1].
      atol: the amount by which it must fall; one of the two must be above zero.
      cooldown: averages after a reduction that are not counted.
      accumulation_size: losses averaged before each comparison: 1 for a validation loss, more for that of minibatches.
      min_scale: the least scale.

    Raises:
      ValueError: a number outside of its range.
      TypeError: ``update`` called without ``value``.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(1.0), reduce_on_plateau(factor=0.5, patience=2))
    >>> state = tx.init(jnp.zeros(1))
    >>> for loss in [3.0, 3.0, 3.0, 3.0]:
    ...     updates, state = tx.update(jnp.ones(1), state, value=loss)
    ...     print(float(updates[0]))
    -1.0
    -1.0
    -0.5
    -0.5
    """
    check.in_range("factor", factor, 0.0, 1.0, open_low=True, open_high=True)
    check.in_range("rtol", rtol, 0.0, 1.0)
    check.non_negative(patience=patience, atol=atol, cooldown=cooldown, min_scale=min_scale)
    check.in_range("accumulation_size", accumulation_size, 1.0)
    check.in_range("rtol + atol", rtol + atol, 0.0, open_low=True)
    return transform(
        _reduce_on_plateau_init,
        _reduce_on_plateau_update,
        factor=factor,
        patience=patience,
        rtol=rtol,
        atol=atol,
        cooldown=cooldown,
        accumulation_size=accumulation_size,
        min_scale=min_scale,
    )


def _reduce_on_plateau_init(params):
    dtype = real_dtype(params)
    return ReduceLROnPlateauState(
        scale=jnp.ones([], dtype),
        best_value=jnp.full([], jnp.inf, dtype),
        plateau_count=jnp.zeros([], jnp.int32),
        cooldown_count=jnp.zeros([], jnp.int32),
        count=jnp.zeros([], jnp.int32),
        avg_value=jnp.zeros([], dtype),
    )


def _compared(state, *, factor, patience, rtol, atol, cooldown, min_scale):
    """The state after its average has been compared with the best one."""
    improved = state.avg_value < (1 - rtol) * state.best_value - atol
    plateau_count = jnp.where(improved, 0, optax.safe_increment(state.plateau_count))
    cooling = state.cooldown_count > 0
    reduces = ~cooling & ~improved & (plateau_count >= patience)
    scale = jnp.where(reduces, jnp.maximum(state.scale * factor, min_scale), state.scale)
    return ReduceLROnPlateauState(
        scale=scale.astype(state.scale.dtype),
        best_value=jnp.where(improved, state.avg_value, state.best_value),
        plateau_count=jnp.where(cooling | reduces, 0, plateau_count),
        cooldown_count=jnp.where(cooling, state.cooldown_count - 1, jnp.where(reduces, cooldown, 0)).astype(jnp.int32),
        count=jnp.zeros_like(state.count),
        avg_value=jnp.zeros_like(state.avg_value),
    )


def _scaled_rule(g, *, scale):
    return (scale * g,)


def _reduce_on_plateau_update(
    grads,
    state,
    params=None,
    *,
    factor,
    patience,
    rtol,
    atol,
    cooldown,
    accumulation_size,
    min_scale,
    value=None,
    **extra,
):
    del params, extra
    value = check.required_value("reduce_on_plateau", value)
    count = optax.safe_increment(state.count)
    avg_value = ((state.count * state.avg_value + value) / count).astype(state.avg_value.dtype)
    averaged = state._replace(count=count, avg_value=avg_value)
    compared = _compared(
        averaged, factor=factor, patience=patience, rtol=rtol, atol=atol, cooldown=cooldown, min_scale=min_scale
    )
    full = count >= accumulation_size
    state = jax.tree.map(lambda new, old: jnp.where(full, new, old), compared, averaged)
    (updates,) = leafwise(_scaled_rule, grads, scale=state.scale)
    return updates, state
