r"""Stages that accumulate the updates: a decaying sum, a decaying average, and the sum of every k of them.

With g the incoming update, count = 1, 2, ... and both buffers zero before the first step::

    trace = g + decay * trace                    u = trace, or g + decay * trace with nesterov
    ema   = decay * ema + (1 - decay) * g        u = ema / (1 - decay^count), or ema without debias
    acc   = g, or acc + g after the first of k   u = acc at every k-th step, else 0                   apply_every

With one constant decay the stored buffers are multiples, ``ema = (1 - decay) * trace``; on a constant g the sum tends
to ``g / (1 - decay)`` and the average to ``g``.
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check, numerics
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like


def trace(decay: Any, nesterov: bool = False, accumulator_dtype: Any = None) -> Transform:
    """Replaces the updates by their decaying sum: ``trace = g + decay * trace``, the buffer of momentum.

    Args:
      decay: in [0, 1]; a number, a schedule, or a tree of these that is a prefix of the parameters.
      nesterov: (static) true looks one step ahead: ``u = g + decay * trace`` with the new trace.
      accumulator_dtype: (static) dtype in which the sum is stored; the parameter's if None.

    Raises:
      ValueError: a decay outside of [0, 1].

    >>> tx = trace(0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.ones(1), state)
    >>> updates.tolist()
    [1.75]
    """
    check.in_range("decay", decay, 0.0, 1.0)
    at_init = {"accumulator_dtype": static(accumulator_dtype)}
    return transform(_trace_init, _trace_update, at_init=at_init, decay=decay, nesterov=static(nesterov))


def ema(decay: Any, debias: bool = True, accumulator_dtype: Any = None) -> Transform:
    """Replaces the updates by their decaying average: ``ema = decay * ema + (1 - decay) * g``.

    Args:
      decay: in [0, 1); a number, a schedule, or a tree of these that is a prefix of the parameters.
      debias: (static) true divides by the total weight ``1 - decay^count``, so that the average of equal
        gradients is that gradient from the first step on; the stored average stays undivided.
      accumulator_dtype: (static) dtype in which the average is stored; the parameter's if None.

    Raises:
      ValueError: a decay outside of [0, 1).

    >>> tx = ema(0.5)
    >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), state.ema.tolist()
    ([4.0], [2.0])
    """
    check.decay_rate(decay=decay)
    at_init = {"accumulator_dtype": static(accumulator_dtype)}
    return transform(_ema_init, _ema_update, at_init=at_init, decay=decay, debias=static(debias))


def apply_every(k: Any = 1) -> Transform:
    """Holds the updates back and passes on the sum of every ``k`` of them: zero at the steps between.

    It is a stage of a chain, and the other stages run at every step: what stands before it sees each gradient alone.
    To give an optimizer the mean gradient of ``k`` mini-batches use `multi_steps`.

    Args:
      k: how many updates are added up; a whole number >= 1.

    Raises:
      ValueError: a ``k`` below 1.

    >>> tx = apply_every(2)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (1.0, 2.0, 3.0, 4.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    ...     print(updates.tolist())
    [0.0]
    [3.0]
    [0.0]
    [7.0]
    """
    check.in_range("k", k, 1.0)
    return transform(_apply_every_init, _apply_every_update, k=k)


def _trace_init(params, *, accumulator_dtype):
    return optax.TraceState(trace=zeros_like(params, accumulator_dtype))


def _trace_rule(g, trace, *, decay, nesterov):
    trace = g + decay * trace
    return g + decay * trace if nesterov else trace, trace


def _trace_update(grads, state, params=None, *, decay, nesterov, **extra):
    del params, extra
    updates, trace = leafwise(_trace_rule, grads, [state.trace], structure={"nesterov": nesterov}, decay=decay)
    return updates, optax.TraceState(trace=trace)


def _ema_init(params, *, accumulator_dtype):
    return optax.EmaState(count=jnp.zeros([], jnp.int32), ema=zeros_like(params, accumulator_dtype))


def _ema_rule(g, ema, *, count, decay, debias):
    ema = decay * ema + (1 - decay) * g
    return ema / numerics.debias(decay, count) if debias else ema, ema


def _ema_update(grads, state, params=None, *, decay, debias, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, ema = leafwise(_ema_rule, grads, [state.ema], structure={"debias": debias}, count=count, decay=decay)
    return updates, optax.EmaState(count=count, ema=ema)


def _apply_every_init(params):
    return optax.ApplyEvery(count=jnp.zeros([], jnp.int32), grad_acc=zeros_like(params))


def _apply_every_rule(g, acc, *, count, k):
    acc = jnp.where(count == 0, g, acc + g)
    return jnp.where(count == k - 1, acc, 0), acc


def _apply_every_update(grads, state, params=None, *, k, **extra):
    del params, extra
    updates, grad_acc = leafwise(_apply_every_rule, grads, [state.grad_acc], count=state.count, k=k)
    count = jnp.where(state.count < k - 1, state.count + 1, 0)
    return updates, optax.ApplyEvery(count=count, grad_acc=grad_acc)
