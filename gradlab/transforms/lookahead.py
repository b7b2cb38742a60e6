r"""Lookahead and SNOO: slow weights that follow a fast optimizer from time to time (arXiv 1907.08610).

With step(g) the fast optimizer's update, count = 1, 2, ... and fast = slow = p, b = 0 before the first step::

    fast = fast + step(g)
    if count is a multiple of sync_period:
        slow = slow + slow_step_size * (fast - slow)                    lookahead, lookahead_in_state
        fast = slow

        b = momentum * b + (slow - fast)                                snoo: Nesterov's momentum on the slow weights
        slow = slow - learning_rate * (momentum * b + slow - fast)
        fast = slow

Gradients are taken at the fast weights; the slow ones are those to evaluate at.  SNOO without momentum is Lookahead.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import LookaheadParams, LookaheadState

from gradlab.core import check
from gradlab.core.branch import own_clock
from gradlab.core.compose import identity
from gradlab.core.leafwise import leafwise
from gradlab.core.transform import Transform, from_optax, transform
from gradlab.core.tree import copied, zeros_like
from gradlab.core.update import readout_map, register_readout

Tree = Any


class SlowWeightsState(NamedTuple):
    """State of `lookahead_in_state`."""

    fast_state: Any
    steps_since_sync: jax.Array  # () int32
    slow: Tree  # like params


class SnooState(NamedTuple):
    """State of `snoo`."""

    fast_state: Any
    steps_since_sync: jax.Array  # () int32
    slow: Tree  # like params
    trace: Tree  # like params


def initializer(tx: optax.GradientTransformation) -> Transform:
    """A transform whose update is the init of ``tx``: for wrappers that start an inner optimizer anew."""
    return Transform(identity().init, from_optax(tx).init)


def restarted(state: Tree, init: Any, params: Tree, restart: jax.Array) -> Tree:
    """``state``, or that before the first step where ``restart``."""
    return jax.tree.map(lambda new, start: jnp.where(restart, start, new), state, init(params))


def _steps(state: Any, sync_period: Any) -> tuple[jax.Array, jax.Array]:
    """Whether this step synchronises, and the number of steps since it."""
    sync = state.steps_since_sync + 1 >= sync_period
    return sync, jnp.where(sync, 0, state.steps_since_sync + 1)


def _inner(tx: optax.GradientTransformation, reset_state: bool) -> dict[str, optax.GradientTransformation]:
    return {"fast": tx, "start": initializer(tx)} if reset_state else {"fast": tx}


def _fast_step(grads, state, params, inner, sync, extra):
    """The updates of the fast optimizer and its state, which begins anew after a synchronisation if asked to."""
    restarts = "start" in inner
    updates, fast_state = inner["fast"](grads, state.fast_state, params, **(own_clock(extra) if restarts else extra))
    if restarts:
        fast_state = restarted(fast_state, inner["start"], params, sync)
    return updates, fast_state


def _lookahead_init(params, *, inner):
    fast = getattr(params, "fast", params)
    return LookaheadState(fast_state=inner["fast"](fast), steps_since_sync=jnp.zeros([], jnp.int32))


def _pair_rule(u, slow, fast, *, slow_step_size, sync):
    """The updates of the fast and of the slow weights."""
    ahead = fast + u - slow
    return jnp.where(sync > 0, u - (1 - slow_step_size) * ahead, u), jnp.where(sync > 0, slow_step_size * ahead, 0)


def _lookahead_update(grads, state, params=None, *, inner, sync_period, slow_step_size, **extra):
    if not hasattr(params, "fast"):
        raise ValueError(
            f"lookahead needs the parameters as a pair LookaheadParams(fast, slow), got {type(params).__name__}: start "
            "from LookaheadParams.init_synced(params), or use lookahead_in_state, which keeps the slow ones itself"
        )
    sync, steps_since_sync = _steps(state, sync_period)
    updates, fast_state = _fast_step(grads, state, params.fast, inner, sync, extra)
    updates, slow_updates = leafwise(
        _pair_rule, updates, [params.slow], params.fast, slow_step_size=slow_step_size, sync=sync
    )
    return LookaheadParams(fast=updates, slow=slow_updates), LookaheadState(fast_state, steps_since_sync)


def _pair_readout(state: LookaheadState, params: LookaheadParams) -> LookaheadParams:
    del state
    return LookaheadParams(fast=params.slow, slow=params.slow)


register_readout(LookaheadState, _pair_readout)


def _lookahead_in_state_init(params, *, inner):
    steps = jnp.zeros([], jnp.int32)
    return SlowWeightsState(fast_state=inner["fast"](params), steps_since_sync=steps, slow=copied(params))


def _slow_rule(u, slow, fast, *, slow_step_size, sync):
    moved = slow + slow_step_size * (fast + u - slow)
    return jnp.where(sync > 0, moved - fast, u), jnp.where(sync > 0, moved, slow)


def _lookahead_in_state_update(grads, state, params=None, *, inner, sync_period, slow_step_size, **extra):
    params = check.required_params("lookahead_in_state", params)
    sync, steps_since_sync = _steps(state, sync_period)
    updates, fast_state = _fast_step(grads, state, params, inner, sync, extra)
    updates, slow = leafwise(_slow_rule, updates, [state.slow], params, slow_step_size=slow_step_size, sync=sync)
    return updates, SlowWeightsState(fast_state, steps_since_sync, slow)


def _snoo_init(params, *, inner):
    steps = jnp.zeros([], jnp.int32)
    fast_state = inner["fast"](params)
    return SnooState(fast_state=fast_state, steps_since_sync=steps, slow=copied(params), trace=zeros_like(params))


def _snoo_rule(u, slow, trace, fast, *, learning_rate, momentum, sync):
    back = slow - (fast + u)
    summed = momentum * trace + back
    moved = slow - learning_rate * (momentum * summed + back)
    return jnp.where(sync > 0, moved - fast, u), jnp.where(sync > 0, moved, slow), jnp.where(sync > 0, summed, trace)


def _snoo_update(grads, state, params=None, *, inner, sync_period, learning_rate, momentum, **extra):
    params = check.required_params("snoo", params)
    sync, steps_since_sync = _steps(state, sync_period)
    updates, fast_state = _fast_step(grads, state, params, inner, sync, extra)
    slots = [state.slow, state.trace]
    updates, slow, trace = leafwise(
        _snoo_rule, updates, slots, params, learning_rate=learning_rate, momentum=momentum, sync=sync
    )
    return updates, SnooState(fast_state, steps_since_sync, slow, trace)


def _slow_readout(state: SlowWeightsState | SnooState, params: Tree) -> Tree:
    return readout_map(lambda slow, p: slow, state.slow, params)


register_readout(SlowWeightsState, _slow_readout)
register_readout(SnooState, _slow_readout)


def lookahead(
    fast_optimizer: optax.GradientTransformation, sync_period: Any, slow_step_size: Any, reset_state: bool = False
) -> Transform:
    """Lookahead (Zhang et al., arXiv 1907.08610) over a pair of parameters, as in Optax.

    The recurrence heads this module.  The parameters are ``LookaheadParams(fast, slow)``, the gradients those of
    ``params.fast``; `lookahead_in_state` takes plain parameters.

    Args:
      fast_optimizer: the whole fast optimizer, learning rate included.
      sync_period: fast steps from one synchronisation to the next; a number that lanes of a sweep may vary.
      slow_step_size: how far the slow weights go towards the fast ones, 0.5 in the paper.
      reset_state: (static) true starts the fast optimizer's state anew after each synchronisation.

    Raises:
      ValueError: a period below 1; ``update`` without the pair.

    >>> import gradlab
    >>> tx = lookahead(gradlab.sgd(1.0), sync_period=2, slow_step_size=0.5)
    >>> params = LookaheadParams.init_synced(jnp.array([8.0]))
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.ones(1), state, params)
    ...     params = gradlab.apply_updates(params, updates)
    >>> params.fast.tolist(), params.slow.tolist()
    ([7.0], [7.0])
    """
    check.in_range("sync_period", sync_period, 1.0)
    check.non_negative(slow_step_size=slow_step_size)
    return transform(
        _lookahead_init,
        _lookahead_update,
        inner=_inner(fast_optimizer, reset_state),
        sync_period=sync_period,
        slow_step_size=slow_step_size,
    )


def lookahead_in_state(
    fast_optimizer: optax.GradientTransformation,
    sync_period: Any = 5.0,
    slow_step_size: Any = 0.5,
    reset_state: bool = False,
) -> Transform:
    """Lookahead (arXiv 1907.08610) with the slow weights in its state: it wraps any optimizer, in any chain.

    The parameters are the fast weights; ``gradlab.eval_params`` returns the slow ones.

    Args: as for `lookahead`.

    Raises:
      ValueError: a period below 1; ``update`` without ``params``.

    >>> import gradlab
    >>> tx = lookahead_in_state(gradlab.sgd(1.0), sync_period=2)
    >>> params = jnp.array([8.0])
    >>> state, path = tx.init(params), []
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.ones(1), state, params)
    ...     params = params + updates
    ...     path.append((float(params[0]), float(gradlab.eval_params(tx, state, params)[0])))
    >>> path
    [(7.0, 8.0), (7.0, 7.0), (6.0, 7.0), (6.0, 6.0)]
    """
    check.in_range("sync_period", sync_period, 1.0)
    check.non_negative(slow_step_size=slow_step_size)
    return transform(
        _lookahead_in_state_init,
        _lookahead_in_state_update,
        inner=_inner(fast_optimizer, reset_state),
        sync_period=sync_period,
        slow_step_size=slow_step_size,
    )


def snoo(
    fast_optimizer: optax.GradientTransformation,
    sync_period: Any = 30.0,
    learning_rate: Any = 0.7,
    momentum: Any = 0.9,
    reset_state: bool = False,
) -> Transform:
    """SNOO: Lookahead whose slow weights move with Nesterov's momentum (DiLoCo's outer optimizer on one worker).

    The recurrence heads this module.  ``gradlab.eval_params`` returns the slow weights.

    Args:
      fast_optimizer, reset_state: as for `lookahead`.
      sync_period: fast steps from one synchronisation to the next.
      learning_rate: of the slow weights.
      momentum: of the slow weights, in [0, 1); 0 is `lookahead_in_state` with ``slow_step_size=learning_rate``.

    Raises:
      ValueError: a period below 1, a momentum outside of [0, 1), a negative learning rate; ``update`` without
        ``params``.

    >>> import gradlab
    >>> tx = snoo(gradlab.sgd(1.0), sync_period=2, learning_rate=1.0, momentum=0.5)
    >>> params = jnp.array([8.0])
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.ones(1), state, params)
    ...     params = params + updates
    >>> params.tolist()  # 8 - (2 + 0.5 * 2) = 5; then b = 0.5 * 2 + 2 = 3 and 5 - (2 + 0.5 * 3)
    [1.5]
    """
    check.in_range("sync_period", sync_period, 1.0)
    check.decay_rate(momentum=momentum)
    check.non_negative(learning_rate=learning_rate)
    return transform(
        _snoo_init,
        _snoo_update,
        inner=_inner(fast_optimizer, reset_state),
        sync_period=sync_period,
        learning_rate=learning_rate,
        momentum=momentum,
    )
