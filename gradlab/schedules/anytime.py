"""Schedules without a horizon: they are defined for every step and need no planned end.

::

    constant       value
    inverse_time   init_value / (1 + rate * step)                                      Robbins and Monro, 1951
    inverse_sqrt   peak_value * sqrt(warmup_steps / max(step, warmup_steps))           arXiv 1706.03762
    multiply       init_value * factor**step
    step_decay     init_value * factor**floor(step / every)
    exponential    init_value * decay_rate**(max(step - transition_begin, 0) / transition_steps)
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule, _constant
from gradlab.schedules.closed_form import between, closed_form, line, optional, progress


def constant_schedule(value: Any) -> Schedule:
    """The same value at every step.

    >>> float(constant_schedule(0.5)(1000))
    0.5
    """
    return closed_form(_constant, value=value)


def _inverse_time(step, *, init_value, rate):
    return init_value / (1.0 + rate * step)


def inverse_time_schedule(init_value: Any, rate: Any) -> Schedule:
    """Decay as one over the step: the sum diverges and the sum of squares converges (see `robbins_monro`).

    ::

        value = init_value / (1 + rate * step)

    Args:
      init_value: value at step 0.
      rate: decay per step, not negative; the value has halved at step ``1 / rate``.

    Raises:
      ValueError: ``rate`` is negative.

    Source: Robbins and Monro, A stochastic approximation method, 1951.

    >>> schedule = inverse_time_schedule(1.0, rate=0.5)
    >>> [float(schedule(step)) for step in (0, 2, 6)]
    [1.0, 0.5, 0.25]
    """
    check.non_negative(rate=rate)
    return closed_form(_inverse_time, init_value=init_value, rate=rate)


def _inverse_sqrt(step, *, peak_value, warmup_steps, init_value):
    decayed = peak_value * jnp.sqrt(warmup_steps / jnp.maximum(step, warmup_steps))
    if init_value is None:
        return decayed
    rising = between(init_value, peak_value, line(progress(step, warmup_steps)))
    return jnp.where(step < warmup_steps, rising, decayed)


def inverse_sqrt_schedule(peak_value: Any, warmup_steps: Any, init_value: Any = None) -> Schedule:
    """Decay as one over the root of the step, after a warm-up that is flat or linear.

    ::

        value = peak_value * sqrt(warmup_steps / max(step, warmup_steps))
        value = init_value + (peak_value - init_value) * step / warmup_steps     while step < warmup_steps

    Args:
      peak_value: value at step ``warmup_steps``.
      warmup_steps: step at which the decay begins, positive.
      init_value: value at step 0, from which a line leads to ``peak_value``; ``None`` keeps ``peak_value`` (static).

    Raises:
      ValueError: ``warmup_steps`` is not positive.

    Source: arXiv 1706.03762, section 5.3, which starts from zero.

    >>> schedule = inverse_sqrt_schedule(1.0, warmup_steps=100, init_value=0.0)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 400)]
    [0.0, 0.5, 1.0, 0.5]
    """
    check.positive(warmup_steps=warmup_steps)
    return closed_form(_inverse_sqrt, peak_value=peak_value, warmup_steps=warmup_steps, init_value=optional(init_value))


def _multiply(step, *, init_value, factor):
    return init_value * factor**step


def multiply_schedule(init_value: Any, factor: Any = 0.9) -> Schedule:
    """Multiplies the value by ``factor`` at each step.

    ::

        value = init_value * factor**step

    Args:
      init_value: value at step 0.
      factor: ratio of two successive values, positive.

    Raises:
      ValueError: ``factor`` is not positive.

    >>> [round(float(multiply_schedule(1.0)(step)), 4) for step in range(4)]
    [1.0, 0.9, 0.81, 0.729]
    """
    check.positive(factor=factor)
    return closed_form(_multiply, init_value=init_value, factor=factor)


def _step_decay(step, *, init_value, factor, every):
    return init_value * factor ** jnp.floor_divide(step, every)


def step_decay_schedule(init_value: Any, factor: Any, every: Any) -> Schedule:
    """Multiplies the value by ``factor`` once in ``every`` steps, and keeps it in between.

    ::

        value = init_value * factor**floor(step / every)

    Args:
      init_value: value before step ``every``.
      factor: ratio of the values after and before a drop, positive.
      every: steps between two drops, positive: the steps of an epoch, say.

    Raises:
      ValueError: ``factor`` or ``every`` is not positive.

    >>> schedule = step_decay_schedule(1.0, factor=0.5, every=10)
    >>> [float(schedule(step)) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check.positive(factor=factor, every=every)
    return closed_form(_step_decay, init_value=init_value, factor=factor, every=every)


def _exponential_decay(step, *, init_value, transition_steps, decay_rate, transition_begin, staircase, end_value):
    elapsed = jnp.maximum(step - transition_begin, 0.0)
    periods = jnp.floor_divide(elapsed, transition_steps) if staircase else elapsed / transition_steps
    value = init_value * decay_rate**periods
    if end_value is None:
        return value
    ended = jnp.where(decay_rate < 1.0, value < end_value, value > end_value)
    before_overflow = init_value * decay_rate ** jnp.where(ended, 0.0, periods)  # infinity would spoil gradients
    return jnp.where(ended, end_value, before_overflow)


def exponential_decay(
    init_value: Any,
    transition_steps: Any,
    decay_rate: Any,
    transition_begin: Any = 0,
    staircase: bool = False,
    end_value: Any = None,
) -> Schedule:
    """Multiplies the value by ``decay_rate`` in each ``transition_steps`` steps, continuously or at once.

    ::

        value = init_value * decay_rate**p
        p = max(step - transition_begin, 0) / transition_steps     (its floor, if staircase)

    Args:
      init_value: value up to step ``transition_begin``.
      transition_steps: steps in which the value changes by ``decay_rate``, positive.
      decay_rate: ratio of two values ``transition_steps`` apart, positive; above 1 the value grows.
      transition_begin: step at which the decay begins, not negative.
      staircase: whether the value is constant between multiples of ``transition_steps`` (static).
      end_value: lower bound if ``decay_rate`` < 1, upper bound otherwise; ``None`` for no bound (static).

    Raises:
      ValueError: ``transition_steps`` or ``decay_rate`` is not positive, or ``transition_begin`` is negative.

    >>> schedule = exponential_decay(1.0, transition_steps=10, decay_rate=0.5, end_value=0.2)
    >>> [round(float(schedule(step)), 4) for step in (0, 10, 20, 1000)]
    [1.0, 0.5, 0.25, 0.2]
    """
    check.positive(transition_steps=transition_steps, decay_rate=decay_rate)
    check.non_negative(transition_begin=transition_begin)
    return closed_form(
        _exponential_decay,
        init_value=init_value,
        transition_steps=transition_steps,
        decay_rate=decay_rate,
        transition_begin=transition_begin,
        staircase=static(staircase),
        end_value=optional(end_value),
    )
