"""Warm-ups without a length of their own: as long as Adam's second moment needs, a function of its ``b2``.

With t = step + 1::

    untuned_exponential   peak_value * (1 - exp(-(1 - b2) * t))                        arXiv 1910.04209
    untuned_linear        peak_value * min(1, (1 - b2) / 2 * t)                        arXiv 1910.04209
    rectified             peak_value * r_t, RAdam's factor, zero while it has none     arXiv 1908.03265

Multiply one with a decay for the whole course: ``untuned_linear_schedule(1.0, 0.999) * cosine_decay_schedule(...)``.
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.numerics import debias
from gradlab.core.schedule import Schedule
from gradlab.schedules.closed_form import closed_form


def _untuned_exponential(step, *, peak_value, b2):
    return -peak_value * jnp.expm1(-(1 - b2) * (step + 1))


def untuned_exponential_schedule(peak_value: Any, b2: Any = 0.999) -> Schedule:
    """An exponential approach to ``peak_value`` with the time constant ``1 / (1 - b2)`` of the second moment.

    ::

        value = peak_value * (1 - exp(-(1 - b2) * (step + 1)))

    Args:
      peak_value: the limit.
      b2: decay of the average of squared gradients, in [0, 1).

    Raises:
      ValueError: ``b2`` is outside of [0, 1).

    Source: Ma and Yarats, arXiv 1910.04209.

    >>> schedule = untuned_exponential_schedule(1.0, b2=0.99)
    >>> [round(float(schedule(step)), 4) for step in (0, 99, 999)]
    [0.01, 0.6321, 1.0]
    """
    check.decay_rate(b2=b2)
    return closed_form(_untuned_exponential, peak_value=peak_value, b2=b2)


def _untuned_linear(step, *, peak_value, b2):
    return peak_value * jnp.minimum(1.0, 0.5 * (1 - b2) * (step + 1))


def untuned_linear_schedule(peak_value: Any, b2: Any = 0.999) -> Schedule:
    """A line to ``peak_value`` over ``2 / (1 - b2)`` steps, and ``peak_value`` from then on.

    ::

        value = peak_value * min(1, (1 - b2) / 2 * (step + 1))

    Args:
      peak_value: value after the warm-up.
      b2: decay of the average of squared gradients, in [0, 1).

    Raises:
      ValueError: ``b2`` is outside of [0, 1).

    Source: Ma and Yarats, arXiv 1910.04209.

    >>> schedule = untuned_linear_schedule(1.0, b2=0.9)
    >>> [round(float(schedule(step)), 4) for step in (0, 9, 19, 100)]
    [0.05, 0.5, 1.0, 1.0]
    """
    check.decay_rate(b2=b2)
    return closed_form(_untuned_linear, peak_value=peak_value, b2=b2)


def _rectified(step, *, peak_value, b2):
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * (step + 1) * b2 ** (step + 1) / debias(b2, step + 1)
    some = rho > 4
    safe = jnp.where(some, rho, 5.0)
    ratio = (safe - 4) * (safe - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * safe)
    return peak_value * jnp.where(some, jnp.sqrt(jnp.where(some, ratio, 1.0)), 0.0)


def rectified_schedule(peak_value: Any, b2: Any = 0.999) -> Schedule:
    """RAdam's rectification as a warm-up for any optimizer: zero for the first steps, then up to ``peak_value``.

    ::

        value = peak_value * sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * t * b2^t / (1 - b2^t), t = step + 1; the value is zero while rho <= 4

    Args:
      peak_value: the limit.
      b2: decay of the average of squared gradients, in (0.6, 1): below, rho never exceeds 4.

    Raises:
      ValueError: ``b2`` is outside of (0.6, 1).

    Source: Liu et al., arXiv 1908.03265.

    >>> schedule = rectified_schedule(1.0, b2=0.999)
    >>> [round(float(schedule(step)), 3) for step in (0, 3, 9, 999, 20000)]
    [0.0, 0.0, 0.049, 0.645, 1.0]
    """
    check.in_range("b2", b2, 0.6, 1.0, open_low=True, open_high=True)
    return closed_form(_rectified, peak_value=peak_value, b2=b2)
