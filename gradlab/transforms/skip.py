r"""Skipping steps whose loss or gradient leaps out of what the last steps were.

With the values x of the last ``window`` steps (the loss, and the norm of the gradient)::

    leap = any x of this step > mean + threshold * std, once half of the window is filled
    u, state = (0, state) if leap else inner(g, state)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.branch import own_clock, update_if
from gradlab.core.norms import global_norm
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform


class SkipSpikesState(NamedTuple):
    """State of `skip_spikes`."""

    count: jax.Array  # () int32, calls so far
    skipped: jax.Array  # () int32, steps that were skipped
    history: jax.Array  # (window, 2): loss and norm of the last steps
    inner_state: Any


def skip_spikes(inner: optax.GradientTransformation, window: int = 128, threshold: Any = 6.0) -> Transform:
    """Skips steps whose loss or gradient norm lies far above those of the last ``window`` steps.

    A skipped step moves nothing and ``inner`` keeps its state, but its loss and norm enter the window, so that a level
    that stays becomes the usual one.  Without ``value`` (the loss) the norm decides alone.  Values that are not finite
    are skipped and not remembered.  OLMo's trainer does this with a window of 128 and 6 standard deviations.

    Args:
      inner: the transform, or the whole optimizer, to protect.
      window: (static) steps to remember, at least 4.
      threshold: standard deviations above the mean, positive.

    Raises:
      ValueError: a value out of its range.

    >>> import gradlab
    >>> tx = skip_spikes(gradlab.sgd(1.0), window=4)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (0.9, 1.1, 1.0, 100.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    >>> updates.tolist(), int(state.skipped)
    ([0.0], 1)
    """
    check.in_range("window", window, 4)
    check.positive(threshold=threshold)
    at_init = {"window": static(int(window))}
    return transform(_skip_spikes_init, _skip_spikes_update, inner=inner, at_init=at_init, threshold=threshold)


def _skip_spikes_init(params, *, inner, window):
    zero = jnp.zeros([], jnp.int32)
    return SkipSpikesState(zero, zero, jnp.zeros((window, 2)), inner(params))


def _leaps(history: jax.Array, present: jax.Array, count: jax.Array, threshold: jax.Array) -> jax.Array:
    window = history.shape[0]
    known = jnp.minimum(count, window)
    filled = (jnp.arange(window) < known)[:, None]
    total = jnp.maximum(known, 1)
    mean = jnp.sum(jnp.where(filled, history, 0), axis=0) / total
    spread = jnp.sqrt(jnp.sum(jnp.where(filled, (history - mean) ** 2, 0), axis=0) / total)
    return (known >= window // 2) & jnp.any(present > mean + threshold * spread)


def _skip_spikes_update(grads, state, params=None, *, inner, threshold, value=None, **extra):
    loss = 0.0 if value is None else value
    present = jnp.stack([jnp.asarray(x, state.history.dtype) for x in (loss, global_norm(grads))])
    finite = jnp.all(jnp.isfinite(present))
    leap = _leaps(state.history, present, state.count, threshold) | ~finite
    if value is not None:
        extra["value"] = value

    def step():
        return inner(grads, state.inner_state, params, **own_clock(extra))

    updates, inner_state = update_if(~leap, step, state.inner_state)
    remembered = state.history.at[state.count % state.history.shape[0]].set(present)
    return updates, SkipSpikesState(
        count=jnp.where(finite, optax.safe_increment(state.count), state.count),
        skipped=jnp.where(leap, optax.safe_increment(state.skipped), state.skipped),
        history=jnp.where(finite, remembered, state.history),
        inner_state=inner_state,
    )
