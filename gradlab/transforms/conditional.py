r"""Stages that act only at some steps, as a function of the step (and of the extra arguments) decides.

::

    u, state = inner(g, state) if condition else (0, state)           conditionally_mask
    u, state = inner(g, state) if condition else (g, state)           conditionally_transform
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core.branch import own_clock, update_if
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform


def conditionally_mask(
    inner: optax.GradientTransformation, should_transform_fn: Callable, forward_extra_args: bool = False
) -> Transform:
    """Calls ``inner`` at some steps; at the others the updates are zero, and ``inner`` keeps its state.

    In a sweep ``inner`` is computed at the steps at which some lane calls it.

    Args:
      inner: the transform, or the whole optimizer.
      should_transform_fn: (static) ``(step, **extra) -> () bool``, with ``step`` = 0, 1, ... counted here.
      forward_extra_args: (static) true hands it those extra arguments of ``update`` that its signature names (all of
        them if it takes ``**extra``), except for gradlab's own ``step``.

    >>> tx = conditionally_mask(optax.scale(-1.0), lambda step: step % 2 == 1)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.ones(1), state)
    ...     print(updates.tolist())
    [0.0]
    [-1.0]
    [0.0]
    """
    return transform(
        _conditionally_mask_init,
        _conditionally_mask_update,
        inner=inner,
        should_transform_fn=static(should_transform_fn),
        forward_extra_args=static(forward_extra_args),
    )


def conditionally_transform(
    inner: optax.GradientTransformation, should_transform_fn: Callable, forward_extra_args: bool = False
) -> Transform:
    """Calls ``inner`` at some steps; at the others the updates pass unchanged, and ``inner`` keeps its state.

    Args:
      inner: the transform.
      should_transform_fn: (static) as for `conditionally_mask`.
      forward_extra_args: (static) as for `conditionally_mask`.

    >>> tx = conditionally_transform(
    ...     optax.scale(10.0), lambda step, value: value > 1.0, forward_extra_args=True)
    >>> state = tx.init(jnp.zeros(1))
    >>> [tx.update(jnp.ones(1), state, value=loss)[0].tolist() for loss in (0.5, 2.0)]
    [[1.0], [10.0]]
    """
    return transform(
        _conditionally_transform_init,
        _conditionally_transform_update,
        inner=inner,
        should_transform_fn=static(should_transform_fn),
        forward_extra_args=static(forward_extra_args),
    )


def _condition(should_transform_fn: Callable, forward_extra_args: bool, step: jax.Array, extra: dict[str, Any]):
    """The answer of the user's function; a chain adds extra arguments of its own, which it need not know."""
    if forward_extra_args:
        parameters = inspect.signature(should_transform_fn).parameters
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        extra = {name: value for name, value in extra.items() if takes_all or name in parameters}
    condition = jnp.asarray(should_transform_fn(step, **extra) if forward_extra_args else should_transform_fn(step))
    if condition.shape != ():
        raise ValueError(
            f"should_transform_fn must return one bool, got {condition.dtype} of shape {condition.shape}; "
            "reduce it with jnp.any or jnp.all"
        )
    return condition.astype(bool)


def _called_at_some_steps(grads, state, params, inner, should_transform_fn, forward_extra_args, extra, otherwise):
    extra = own_clock(extra)
    condition = _condition(should_transform_fn, forward_extra_args, state.step, extra)
    updates, inner_state = update_if(
        condition, lambda: inner(grads, state.inner_state, params, **extra), state.inner_state, otherwise
    )
    return updates, {"step": optax.safe_increment(state.step), "inner_state": inner_state}


def _conditionally_mask_init(params, *, inner):
    return optax.ConditionallyMaskState(step=jnp.zeros([], jnp.int32), inner_state=inner(params))


def _conditionally_mask_update(grads, state, params=None, *, inner, should_transform_fn, forward_extra_args, **extra):
    updates, fields = _called_at_some_steps(
        grads, state, params, inner, should_transform_fn, forward_extra_args, extra, otherwise=None
    )
    return updates, optax.ConditionallyMaskState(**fields)


def _conditionally_transform_init(params, *, inner):
    return optax.ConditionallyTransformState(step=jnp.zeros([], jnp.int32), inner_state=inner(params))


def _conditionally_transform_update(
    grads, state, params=None, *, inner, should_transform_fn, forward_extra_args, **extra
):
    updates, fields = _called_at_some_steps(
        grads, state, params, inner, should_transform_fn, forward_extra_args, extra, otherwise=grads
    )
    return updates, optax.ConditionallyTransformState(**fields)
