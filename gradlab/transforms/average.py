r"""Averages of the weights, to evaluate at: the last stages of a chain.

With p the parameters after the step that passes through, count = 1, 2, ..., and mean = p, weight = 0 at the start::

    weight = kept * weight + gained
    mean = mean + gained / weight * (p - mean)

    ema_params       kept = decay, gained = 1 - decay            exponential; weight = 1 at first without debias
    tail_average     the same, or kept = gained = 1, from count = start + 1 on; mean = p before
    swa              kept = gained = 1 whenever count = start + every, start + 2 * every, ...     arXiv 1803.05407
    lawa             the mean of the last k of the p at count = every, 2 * every, ...             arXiv 2209.14981

Debiasing is thus exact for a scheduled decay too, and ``mean`` is what ``gradlab.eval_params`` returns.  The updates
pass through unchanged: put one of these behind the learning rate, weight decay and projections, and keep one a
parameter.  An average of constant weight forgets within ``1 / (1 - decay)`` steps, which stands in for a decay of the
learning rate (arXiv 2507.17634).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import Rule, static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, is_none, real_dtype, require_same_structure
from gradlab.core.update import readout_map, register_readout

Tree = Any


class AverageState(NamedTuple):
    """State of `ema_params`, `tail_average` and `swa`."""

    count: jax.Array  # () int32
    weight: jax.Array  # () total weight of what the mean holds
    mean: Tree  # like params


class WindowState(NamedTuple):
    """State of `lawa`."""

    count: jax.Array  # () int32
    taken: jax.Array  # () int32: snapshots so far
    window: Tree  # like params with a new first axis of length k


def _average_init(params, *, weight, accumulator_dtype):
    return AverageState(
        count=jnp.zeros([], jnp.int32),
        weight=jnp.full([], weight, real_dtype(params)),
        mean=_accumulator(params, accumulator_dtype),
    )


def _accumulator(params: Tree, dtype: Any) -> Tree:
    """A copy of the parameters, at least in float32 unless told otherwise: narrower averages stop moving."""
    at_least_float32 = lambda p: copied(p, dtype or jnp.promote_types(jnp.float32, jnp.result_type(p)))
    return jax.tree.map(at_least_float32, params)


def _mean_rule(u, mean, p, *, part):
    return u, jnp.where(part > 0, mean + part * (p + u - mean), mean)


def _average(stage, updates, state, params, count, kept, gained):
    params = check.required_params(stage, params)
    weight = (kept * state.weight + gained).astype(state.weight.dtype)
    _, mean = leafwise(_mean_rule, updates, [state.mean], params, part=safe_quotient(gained, weight))
    return updates, AverageState(count, weight, mean)


def _ema_params_update(updates, state, params=None, *, decay, **extra):
    del extra
    count = optax.safe_increment(state.count)
    return _average("ema_params", updates, state, params, count, decay, 1 - decay)


def _swa_update(updates, state, params=None, *, start, every, **extra):
    del extra
    count = optax.safe_increment(state.count)
    taken = (count > start) & ((count - start) % every == 0)
    return _average("swa", updates, state, params, count, 1.0, jnp.where(taken, 1.0, 0.0))


def _tail_average_update(updates, state, params=None, *, start, decay, **extra):
    """Before the start the mean is the newest parameters: a weight of 0 makes each of them the first."""
    del extra
    count = optax.safe_increment(state.count)
    kept, gained = (1.0, 1.0) if decay is None else (decay, 1 - decay)
    began = count > start
    updates, new = _average(
        "tail_average", updates, state, params, count, jnp.where(began, kept, 0.0), jnp.where(began, gained, 1.0)
    )
    return updates, new._replace(weight=jnp.where(began, new.weight, 0))


def _mean_readout(state: AverageState, params: Tree) -> Tree:
    """The mean; the parameters while it has no member."""
    return readout_map(lambda mean, p: jnp.where(state.weight > 0, mean.astype(p.dtype), p), state.mean, params)


register_readout(AverageState, _mean_readout)


def _lawa_init(params, *, size, accumulator_dtype):
    dtype = lambda p: accumulator_dtype or jnp.result_type(p)
    return WindowState(
        count=jnp.zeros([], jnp.int32),
        taken=jnp.zeros([], jnp.int32),
        window=jax.tree.map(lambda p: jnp.broadcast_to(jnp.zeros_like(p, dtype(p)), (size, *jnp.shape(p))), params),
    )


def _window_rule(u, window, p, *, slot, taken):
    slot = slot.astype(jnp.int32)
    return u, window.at[slot].set(jnp.where(taken > 0, p + u, window[slot]))


def _lawa_update(updates, state, params=None, *, every, size, **extra):
    del extra
    params = check.required_params("lawa", params)
    count = optax.safe_increment(state.count)
    taken = count % every == 0
    slot = state.taken % size
    _, window = leafwise(_window_rule, updates, [state.window], params, own_shapes=True, slot=slot, taken=taken)
    return updates, WindowState(count, jnp.where(taken, optax.safe_increment(state.taken), state.taken), window)


def _window_readout(state: WindowState, params: Tree) -> Tree:
    def mean(window, p):
        filled = jnp.minimum(state.taken, window.shape[0])
        present = jnp.reshape(jnp.arange(window.shape[0]) < filled, (-1,) + (1,) * p.ndim)
        window = window.astype(jnp.promote_types(jnp.float32, window.dtype))
        average = jnp.sum(jnp.where(present, window, 0), axis=0) / jnp.maximum(filled, 1)
        return jnp.where(filled > 0, average, p).astype(p.dtype)

    return readout_map(mean, state.window, params)


register_readout(WindowState, _window_readout)


def ema_params(decay: Any, debias: bool = True, accumulator_dtype: Any = None) -> Transform:
    """Keeps an exponential average of the weights: ``mean = decay * mean + (1 - decay) * p`` (Polyak averaging).

    Args:
      decay: what the average keeps of itself in a step, in [0, 1); a number or a schedule.
      debias: (static) true leaves the initial weights out, as if the average were divided by ``1 - decay^count``;
        false starts at them.
      accumulator_dtype: (static) dtype of the average; the parameter's, but at least float32, if None.

    Raises:
      ValueError: a decay outside of [0, 1); ``update`` without ``params``.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(1.0), ema_params(0.5))
    >>> params = jnp.array([8.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([2.0]), state, params)
    ...     params = params + updates
    >>> params.tolist(), round(float(gradlab.eval_params(tx, state, params)[0]), 4)  # 4; (6 + 2 * 4) / 3
    ([4.0], 4.6667)
    """
    check.decay_rate(decay=decay)
    at_init = {"weight": static(0.0 if debias else 1.0), "accumulator_dtype": static(accumulator_dtype)}
    return transform(_average_init, _ema_params_update, at_init=at_init, decay=decay)


def swa(start: Any = 0.0, every: Any = 1.0, accumulator_dtype: Any = None) -> Transform:
    """Stochastic weight averaging (Izmailov et al., arXiv 1803.05407): the plain mean of every so many iterates.

    Before the first member `eval_params` gives the newest weights.
    With a cyclic learning rate let ``every`` be the cycle's length, so that each member stands at the end of one.

    Args:
      start: steps before the first cycle; a number that lanes of a sweep may vary, as ``every``.
      every: steps between two members: the weights after ``start + every``, ``start + 2 * every``, ... steps.
      accumulator_dtype: (static) as for `ema_params`.

    Raises:
      ValueError: a negative start, an ``every`` below 1; ``update`` without ``params``.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(1.0), swa(start=1, every=2))
    >>> params = jnp.array([10.0])
    >>> state = tx.init(params)
    >>> for _ in range(6):
    ...     updates, state = tx.update(jnp.ones(1), state, params)
    ...     params = params + updates
    >>> gradlab.eval_params(tx, state, params).tolist()  # the mean of 7 and 5
    [6.0]
    """
    check.non_negative(start=start)
    check.in_range("every", every, 1.0)
    at_init = {"weight": static(0.0), "accumulator_dtype": static(accumulator_dtype)}
    return transform(_average_init, _swa_update, at_init=at_init, start=start, every=every)


def tail_average(start: Any, decay: Any = None, accumulator_dtype: Any = None) -> Transform:
    """Averages the weights from step ``start`` on, and is the newest weights before.

    Args:
      start: steps after which the average begins: a number that lanes of a sweep may vary.
      decay: in [0, 1), a number or a schedule: the average is exponential; None for the plain mean.
      accumulator_dtype: (static) as for `ema_params`.

    Raises:
      ValueError: a negative start, a decay outside of [0, 1); ``update`` without ``params``.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(1.0), tail_average(start=2))
    >>> params = jnp.array([10.0])
    >>> state, weights = tx.init(params), []
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.ones(1), state, params)
    ...     params = params + updates
    ...     weights.append(float(gradlab.eval_params(tx, state, params)[0]))
    >>> weights
    [9.0, 8.0, 7.0, 6.5]
    """
    check.non_negative(start=start)
    check.decay_rate(decay=decay)
    at_init = {"weight": static(0.0), "accumulator_dtype": static(accumulator_dtype)}
    return transform(_average_init, _tail_average_update, at_init=at_init, start=start, decay=decay)


def lawa(size: int, every: Any = 1.0, accumulator_dtype: Any = None) -> Transform:
    """Averages the latest ``size`` snapshots of the weights (Kaddour, arXiv 2209.14981).

    It keeps all of them: ``size`` copies of the parameters.

    Args:
      size: (static) number of snapshots.
      every: steps between two of them, say an epoch.
      accumulator_dtype: (static) dtype of the snapshots, the parameter's if None; their mean is taken in float32.

    Raises:
      ValueError: a size or an ``every`` below 1; ``update`` without ``params``.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(1.0), lawa(size=2, every=2))
    >>> params = jnp.array([10.0])
    >>> state = tx.init(params)
    >>> for _ in range(7):
    ...     updates, state = tx.update(jnp.ones(1), state, params)
    ...     params = params + updates
    >>> gradlab.eval_params(tx, state, params).tolist()  # the mean of 6 and 4
    [5.0]
    """
    check.in_range("size", size, 1)
    check.in_range("every", every, 1.0)
    at_init = {"size": static(int(size)), "accumulator_dtype": static(accumulator_dtype)}
    return transform(_lawa_init, _lawa_update, at_init=at_init, every=every, size=static(int(size)))


def incremental_update(new_tensors: Tree, old_tensors: Tree, step_size: Any) -> Tree:
    """``step_size * new + (1 - step_size) * old`` leaf by leaf, for averages that the caller keeps; None stays None.

    Raises:
      ValueError: trees that differ; the message names the path.

    >>> incremental_update({'w': jnp.array([4.0])}, {'w': jnp.array([0.0])}, step_size=0.25)['w'].tolist()
    [1.0]
    """
    return _INCREMENTAL(new_tensors, old_tensors, step_size)


def periodic_update(new_tensors: Tree, old_tensors: Tree, steps: Any, update_period: Any) -> Tree:
    """``new_tensors`` whenever ``steps`` is a multiple of ``update_period``, else ``old_tensors``: a target network.

    >>> [periodic_update(jnp.array(2.0), jnp.array(1.0), steps, update_period=3).tolist() for steps in (3, 4)]
    [2.0, 1.0]
    """
    return _PERIODIC(new_tensors, old_tensors, steps, update_period)


def _incremental_update(new, old, step_size):
    require_same_structure("new tensors", new, "old tensors", old)
    return jax.tree.map(lambda n, o: None if n is None else _mixed(n, o, step_size), new, old, is_leaf=is_none)


def _mixed(new: Any, old: Any, step_size: Any) -> jax.Array:
    dtype = jnp.result_type(new, old)
    wide = jnp.promote_types(dtype, jnp.float32)
    step_size = jnp.asarray(step_size, jnp.finfo(wide).dtype)
    return (step_size * jnp.asarray(new, wide) + (1 - step_size) * jnp.asarray(old, wide)).astype(dtype)


def _periodic_update(new, old, steps, update_period):
    return jax.lax.cond(jnp.mod(steps, update_period) == 0, lambda: new, lambda: old)


_INCREMENTAL = Rule(_incremental_update)
_PERIODIC = Rule(_periodic_update)
