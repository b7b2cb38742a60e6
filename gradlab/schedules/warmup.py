"""Schedules that rise to a peak first.

While ``step < warmup_steps`` all of them are the line from ``init_value`` to ``peak_value``.  After that, with
``t = step - warmup_steps``::

    warmup_constant            peak_value
    warmup_cosine_decay        end_value + (peak_value - end_value) * (0.5 * (1 + cos(pi * u)))**exponent,
                               u = min(t / (decay_steps - warmup_steps), 1)
    warmup_exponential_decay   exponential_decay(peak_value, ...)(t)
    wsd                        peak_value for stable_steps, then end_value + (peak_value - end_value) * cooldown(u)
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule
from gradlab.schedules.anytime import _exponential_decay
from gradlab.schedules.closed_form import (
    between,
    closed_form,
    half_cosine,
    line,
    mirrored_cosine,
    one_minus_sqrt,
    one_minus_square,
    optional,
    progress,
    safe_power,
)


def _after_warmup(step, init_value, peak_value, warmup_steps, then):
    rising = between(init_value, peak_value, line(progress(step, warmup_steps)))
    return jnp.where(step < warmup_steps, rising, then)


def _warmup_constant(step, *, init_value, peak_value, warmup_steps):
    return _after_warmup(step, init_value, peak_value, warmup_steps, peak_value)


def warmup_constant_schedule(init_value: Any, peak_value: Any, warmup_steps: Any) -> Schedule:
    """A line from ``init_value`` to ``peak_value``, which is the value from then on.

    ::

        value = init_value + (peak_value - init_value) * min(step / warmup_steps, 1)

    Args:
      init_value: value at step 0.
      peak_value: value from step ``warmup_steps`` on.
      warmup_steps: length of the line in steps, not negative.  At 0 the value is ``peak_value`` from the first
        step on, where Optax stays at ``init_value``.

    Raises:
      ValueError: ``warmup_steps`` is negative.

    >>> schedule = warmup_constant_schedule(0.0, 1.0, warmup_steps=4)
    >>> [float(schedule(step)) for step in (0, 1, 4, 100)]
    [0.0, 0.25, 1.0, 1.0]
    """
    check.non_negative(warmup_steps=warmup_steps)
    return closed_form(_warmup_constant, init_value=init_value, peak_value=peak_value, warmup_steps=warmup_steps)


def _warmup_cosine_decay(step, *, init_value, peak_value, warmup_steps, decay_steps, end_value, exponent):
    u = progress(step - warmup_steps, decay_steps - warmup_steps)
    decayed = between(peak_value, end_value, safe_power(half_cosine(u), exponent))
    return _after_warmup(step, init_value, peak_value, warmup_steps, decayed)


def warmup_cosine_decay_schedule(
    init_value: Any,
    peak_value: Any,
    warmup_steps: Any,
    decay_steps: Any,
    end_value: Any = 0.0,
    exponent: Any = 1.0,
) -> Schedule:
    """A line from ``init_value`` to ``peak_value``, then half a cosine to ``end_value``, the value from then on.

    ::

        value = init_value + (peak_value - init_value) * step / warmup_steps              while step < warmup_steps
        value = end_value + (peak_value - end_value) * (0.5 * (1 + cos(pi * u)))**exponent
        u = min((step - warmup_steps) / (decay_steps - warmup_steps), 1)

    Args:
      init_value: value at step 0.
      peak_value: value at step ``warmup_steps``; if it is zero the value still ends at ``end_value``, where Optax
        stays at zero.
      warmup_steps: length of the warm-up in steps, not negative.
      decay_steps: length of the whole schedule in steps, the warm-up included; above ``warmup_steps``.
      end_value: value from step ``decay_steps`` on.
      exponent: power of the half cosine, positive.

    Raises:
      ValueError: ``warmup_steps`` is negative or not below ``decay_steps``, or ``exponent`` is not positive.

    Source: arXiv 1608.03983.

    >>> schedule = warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=10, decay_steps=110)
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 60, 110, 1000)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    check.non_negative(warmup_steps=warmup_steps)
    check.positive(decay_steps=decay_steps, exponent=exponent)
    check.positive(**{"decay_steps (which includes the warm-up) - warmup_steps": decay_steps - warmup_steps})
    return closed_form(
        _warmup_cosine_decay,
        init_value=init_value,
        peak_value=peak_value,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        end_value=end_value,
        exponent=exponent,
    )


def _warmup_exponential_decay(step, *, init_value, peak_value, warmup_steps, **decay):
    decayed = _exponential_decay(step - warmup_steps, init_value=peak_value, **decay)
    return _after_warmup(step, init_value, peak_value, warmup_steps, decayed)


def warmup_exponential_decay_schedule(
    init_value: Any,
    peak_value: Any,
    warmup_steps: Any,
    transition_steps: Any,
    decay_rate: Any,
    transition_begin: Any = 0,
    staircase: bool = False,
    end_value: Any = None,
) -> Schedule:
    """A line from ``init_value`` to ``peak_value``, then `exponential_decay` from there.

    ::

        value = init_value + (peak_value - init_value) * step / warmup_steps     while step < warmup_steps
        value = peak_value * decay_rate**p
        p = max(step - warmup_steps - transition_begin, 0) / transition_steps    (its floor, if staircase)

    Args:
      init_value: value at step 0.
      peak_value: value at step ``warmup_steps``.
      warmup_steps: length of the warm-up in steps, not negative.
      transition_steps: steps in which the value changes by ``decay_rate``, positive.
      decay_rate: ratio of two values ``transition_steps`` apart, positive; above 1 the value grows.
      transition_begin: steps between the end of the warm-up and the beginning of the decay, not negative.
      staircase: whether the value is constant between multiples of ``transition_steps`` (static).
      end_value: lower bound if ``decay_rate`` < 1, upper bound otherwise; ``None`` for no bound (static).

    Raises:
      ValueError: ``transition_steps`` or ``decay_rate`` is not positive, or another number of steps is negative.

    >>> schedule = warmup_exponential_decay_schedule(0.0, 1.0, 10, transition_steps=10, decay_rate=0.5)
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20, 30)]
    [0.0, 0.5, 1.0, 0.5, 0.25]
    """
    check.non_negative(warmup_steps=warmup_steps, transition_begin=transition_begin)
    check.positive(transition_steps=transition_steps, decay_rate=decay_rate)
    return closed_form(
        _warmup_exponential_decay,
        init_value=init_value,
        peak_value=peak_value,
        warmup_steps=warmup_steps,
        transition_steps=transition_steps,
        decay_rate=decay_rate,
        transition_begin=transition_begin,
        staircase=static(staircase),
        end_value=optional(end_value),
    )


COOLDOWNS = {
    "linear": line,
    "1-sqrt": one_minus_sqrt,
    "cosine": half_cosine,
    "mirror-cosine": mirrored_cosine,
    "1-square": one_minus_square,
}
"""How the last phase of `wsd_schedule` falls: functions of its progress that lead from 1 to 0."""


def _wsd(step, *, init_value, peak_value, warmup_steps, stable_steps, decay_steps, end_value, shape):
    u = progress(step - warmup_steps - stable_steps, decay_steps)
    cooled = between(peak_value, end_value, COOLDOWNS[shape](u))
    return _after_warmup(step, init_value, peak_value, warmup_steps, cooled)


def wsd_schedule(
    init_value: Any,
    peak_value: Any,
    warmup_steps: Any,
    stable_steps: Any,
    decay_steps: Any,
    end_value: Any = 0.0,
    shape: str = "linear",
) -> Schedule:
    """Warm-up, stable, decay: a line up, a plateau, and a short cooldown that can branch off at any time.

    ::

        value = init_value + (peak_value - init_value) * step / warmup_steps     while step < warmup_steps
        value = end_value + (peak_value - end_value) * cooldown(u)
        u = clip((step - warmup_steps - stable_steps) / decay_steps, 0, 1)
        cooldown(u) = 1 - u   or   1 - sqrt(u)   or   0.5 * (1 + cos(pi * u))
                      or   2 * (1 - u) - 0.5 * (1 + cos(pi * u))   or   1 - u^2

    Args:
      init_value: value at step 0.
      peak_value: value of the plateau.
      warmup_steps: length of the line in steps, not negative.
      stable_steps: length of the plateau in steps, not negative.
      decay_steps: length of the cooldown in steps, positive.
      end_value: value from step ``warmup_steps + stable_steps + decay_steps`` on.
      shape: of the cooldown: 'linear', '1-sqrt', 'cosine', 'mirror-cosine' or '1-square' (static).

    Raises:
      ValueError: ``decay_steps`` is not positive, another number of steps is negative, or ``shape`` is unknown.

    Source: arXiv 2404.06395; the 1-sqrt cooldown is from arXiv 2405.18392.

    >>> schedule = wsd_schedule(0.0, 1.0, warmup_steps=10, stable_steps=70, decay_steps=20, shape='1-sqrt')
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 80, 85, 100, 1000)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    check.non_negative(warmup_steps=warmup_steps, stable_steps=stable_steps)
    check.positive(decay_steps=decay_steps)
    check.one_of("shape", shape, COOLDOWNS)
    return closed_form(
        _wsd,
        init_value=init_value,
        peak_value=peak_value,
        warmup_steps=warmup_steps,
        stable_steps=stable_steps,
        decay_steps=decay_steps,
        end_value=end_value,
        shape=static(shape),
    )
