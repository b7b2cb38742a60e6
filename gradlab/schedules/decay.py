"""Schedules that reach their end value at a known step and stay there.

With ``u = clip((step - transition_begin) / transition_steps, 0, 1)``, or ``u = clip(step / decay_steps, 0, 1)``::

    linear        end_value + (init_value - end_value) * (1 - u)
    linear_floor  (1 - u) * init_value + u * floor, u = min(step / tau, 1)            Deep Learning, eq. 8.14
    polynomial    end_value + (init_value - end_value) * (1 - u)**power
    cosine        init_value * (alpha + (1 - alpha) * (0.5 * (1 + cos(pi * u)))**exponent)   arXiv 1608.03983
    rex           init_value * (1 - u) / (1 - u / 2)                                         arXiv 2107.04197
"""

from typing import Any

from gradlab.core import check
from gradlab.core.schedule import Schedule
from gradlab.schedules.closed_form import between, closed_form, half_cosine, line, progress, safe_power


def _linear(step, *, init_value, end_value, transition_steps, transition_begin):
    return between(init_value, end_value, line(progress(step - transition_begin, transition_steps)))


def linear_schedule(init_value: Any, end_value: Any, transition_steps: Any, transition_begin: Any = 0) -> Schedule:
    """A straight line from ``init_value`` to ``end_value``, and ``end_value`` from then on.

    ::

        value = end_value + (init_value - end_value) * (1 - u)
        u = clip((step - transition_begin) / transition_steps, 0, 1)

    Args:
      init_value: value up to step ``transition_begin``.
      end_value: value from step ``transition_begin + transition_steps`` on.
      transition_steps: length of the line in steps, positive.
      transition_begin: step at which the line begins, not negative.

    Raises:
      ValueError: ``transition_steps`` is not positive, or ``transition_begin`` is negative.

    >>> schedule = linear_schedule(1.0, 0.0, transition_steps=4)
    >>> [float(schedule(step)) for step in (0, 1, 4, 100)]
    [1.0, 0.75, 0.0, 0.0]
    """
    check.positive(transition_steps=transition_steps)
    check.non_negative(transition_begin=transition_begin)
    return closed_form(
        _linear,
        init_value=init_value,
        end_value=end_value,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
    )


def _linear_floor(step, *, init_value, floor, tau):
    u = progress(step, tau)
    return (1.0 - u) * init_value + u * floor


def linear_floor_schedule(init_value: Any, floor: Any, tau: Any) -> Schedule:
    """Linear decay until step ``tau``, then constant: the schedule that Goodfellow et al. advise for SGD.

    ::

        value = (1 - step / tau) * init_value + (step / tau) * floor     while step < tau
        value = floor                                                    from step tau on

    Args:
      init_value: value at step 0.
      floor: value from step ``tau`` on; the book advises about one percent of ``init_value``.
      tau: length of the decay in steps, positive; the book advises some hundred epochs.

    Raises:
      ValueError: ``tau`` is not positive.

    Source: Goodfellow, Bengio and Courville, Deep Learning, equation 8.14.

    >>> schedule = linear_floor_schedule(1.0, floor=0.5, tau=10)
    >>> [float(schedule(step)) for step in (0, 5, 10, 1000)]
    [1.0, 0.75, 0.5, 0.5]
    """
    check.positive(tau=tau)
    return closed_form(_linear_floor, init_value=init_value, floor=floor, tau=tau)


def _polynomial(step, *, init_value, end_value, power, transition_steps, transition_begin):
    u = progress(step - transition_begin, transition_steps)
    return between(init_value, end_value, safe_power(line(u), power))


def polynomial_schedule(
    init_value: Any, end_value: Any, power: Any, transition_steps: Any, transition_begin: Any = 0
) -> Schedule:
    """A power of the remaining time takes ``init_value`` to ``end_value``, which is the value from then on.

    ::

        value = end_value + (init_value - end_value) * (1 - u)**power
        u = clip((step - transition_begin) / transition_steps, 0, 1)

    Args:
      init_value: value up to step ``transition_begin``.
      end_value: value from step ``transition_begin + transition_steps`` on.
      power: exponent, positive; 1 is `linear_schedule`, more falls faster at first.
      transition_steps: length of the transition in steps, positive.
      transition_begin: step at which the transition begins, not negative.

    Raises:
      ValueError: ``power`` or ``transition_steps`` is not positive, or ``transition_begin`` is negative.

    >>> schedule = polynomial_schedule(1.0, 0.0, power=2, transition_steps=4)
    >>> [float(schedule(step)) for step in (0, 2, 4, 100)]
    [1.0, 0.25, 0.0, 0.0]
    """
    check.positive(power=power, transition_steps=transition_steps)
    check.non_negative(transition_begin=transition_begin)
    return closed_form(
        _polynomial,
        init_value=init_value,
        end_value=end_value,
        power=power,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
    )


def _cosine_decay(step, *, init_value, decay_steps, alpha, exponent):
    remaining = safe_power(half_cosine(progress(step, decay_steps)), exponent)
    return init_value * between(1.0, alpha, remaining)


def cosine_decay_schedule(init_value: Any, decay_steps: Any, alpha: Any = 0.0, exponent: Any = 1.0) -> Schedule:
    """Half a cosine from ``init_value`` to ``alpha * init_value``, which is the value from then on.

    ::

        value = init_value * (alpha + (1 - alpha) * (0.5 * (1 + cos(pi * u)))**exponent)
        u = min(step / decay_steps, 1)

    Args:
      init_value: value at step 0.
      decay_steps: length of the decay in steps, positive.
      alpha: final value as a fraction of ``init_value``.
      exponent: power of the half cosine, positive.

    Raises:
      ValueError: ``decay_steps`` or ``exponent`` is not positive.

    Source: arXiv 1608.03983.

    >>> schedule = cosine_decay_schedule(1.0, decay_steps=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 1000)]
    [1.0, 0.5, 0.0, 0.0]
    """
    check.positive(decay_steps=decay_steps, exponent=exponent)
    return closed_form(_cosine_decay, init_value=init_value, decay_steps=decay_steps, alpha=alpha, exponent=exponent)


def _rex(step, *, init_value, decay_steps):
    u = progress(step, decay_steps)
    return init_value * (1.0 - u) / (1.0 - 0.5 * u)


def rex_schedule(init_value: Any, decay_steps: Any) -> Schedule:
    """Reflected exponential decay to zero: slower than linear at first, faster at the end.

    ::

        value = init_value * (1 - u) / (1 - u / 2),   u = min(step / decay_steps, 1)

    Args:
      init_value: value at step 0.
      decay_steps: length of the decay in steps, positive.

    Raises:
      ValueError: ``decay_steps`` is not positive.

    Source: arXiv 2107.04197.

    >>> schedule = rex_schedule(1.0, decay_steps=10)
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 11)]
    [1.0, 0.6667, 0.0, 0.0]
    """
    check.positive(decay_steps=decay_steps)
    return closed_form(_rex, init_value=init_value, decay_steps=decay_steps)
