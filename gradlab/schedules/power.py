"""Powers of the step, and the long plateaus that do not know the horizon.

::

    power           min(peak_value, scale * (step + 1)**exponent)                              arXiv 2408.13359
    power_cooldown  min(peak_value, scale * max(end_step - step, 0)**power)
    growing_decay   1 - (step + 1)**-exponent, a decay rate                                    arXiv 1804.04235
    infinite_cosine up, half a cosine to constant_value, a plateau, an exponential to end_value   arXiv 2403.08763
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.schedule import Schedule
from gradlab.schedules.closed_form import between, closed_form, half_cosine, line, progress, safe_power


def _power(step, *, peak_value, scale, exponent):
    return jnp.minimum(peak_value, scale * (step + 1) ** exponent)


def power_schedule(peak_value: Any, scale: Any, exponent: Any = -0.51) -> Schedule:
    """A power of the step, never above ``peak_value``.

    ::

        value = min(peak_value, scale * (step + 1)**exponent)

    Args:
      peak_value: the highest value.
      scale: value of the power at the first step.
      exponent: negative for a decay; -0.51 is the paper's.

    Raises:
      ValueError: ``scale`` or ``peak_value`` is not positive.

    Source: Shen et al., arXiv 2408.13359, who add a warm-up and a last decay: multiply with `wsd_schedule`.

    >>> schedule = power_schedule(0.5, scale=1.0, exponent=-0.5)
    >>> [round(float(schedule(step)), 4) for step in (0, 3, 15, 99)]
    [0.5, 0.5, 0.25, 0.1]
    """
    check.positive(peak_value=peak_value, scale=scale)
    return closed_form(_power, peak_value=peak_value, scale=scale, exponent=exponent)


def _power_cooldown(step, *, peak_value, end_step, scale, power):
    return jnp.minimum(peak_value, scale * safe_power(jnp.maximum(end_step - step, 0.0), power))


def power_cooldown_schedule(peak_value: Any, end_step: Any, scale: Any, power: Any = 1.2) -> Schedule:
    """A plateau that meets a power of the steps that are left, and zero at the end.

    ::

        value = min(peak_value, scale * max(end_step - step, 0)**power)

    Args:
      peak_value: value of the plateau.
      end_step: the step from which on the value is zero, positive.
      scale: value at one step before the end; the plateau ends ``(peak_value / scale)**(1 / power)`` steps before it.
      power: above one the curve meets zero flat.

    Raises:
      ValueError: ``end_step``, ``scale`` or ``power`` is not positive.

    >>> schedule = power_cooldown_schedule(1.0, end_step=100, scale=0.01, power=2.0)
    >>> [round(float(schedule(step)), 4) for step in (0, 90, 95, 100, 1000)]
    [1.0, 1.0, 0.25, 0.0, 0.0]
    """
    check.positive(end_step=end_step, scale=scale, power=power)
    return closed_form(_power_cooldown, peak_value=peak_value, end_step=end_step, scale=scale, power=power)


def _growing_decay(step, *, exponent):
    return -jnp.expm1(-exponent * jnp.log1p(step))


def growing_decay_schedule(exponent: Any = 0.8) -> Schedule:
    """A decay rate that grows towards one, for ``b2``: zero at first, so that no bias needs a correction.

    ::

        value = 1 - (step + 1)**-exponent

    Args:
      exponent: positive; 0.8 is Adafactor's and PaLM's.

    Raises:
      ValueError: ``exponent`` is not positive.

    Source: Shazeer and Stern, arXiv 1804.04235.

    >>> schedule = growing_decay_schedule(1.0)
    >>> [round(float(schedule(step)), 4) for step in (0, 1, 9, 999)]
    [0.0, 0.5, 0.9, 0.999]
    """
    check.positive(exponent=exponent)
    return closed_form(_growing_decay, exponent=exponent)


def _infinite_cosine(
    step, *, peak_value, constant_value, end_value, warmup_steps, cosine_steps, stable_steps, decay_steps
):
    u = progress(step - warmup_steps, cosine_steps)
    settled = between(peak_value, constant_value, half_cosine(u))
    annealed = constant_value * (end_value / constant_value) ** progress(
        step - warmup_steps - cosine_steps - stable_steps, decay_steps
    )
    later = jnp.where(step < warmup_steps + cosine_steps, settled, annealed)
    return jnp.where(step < warmup_steps, between(0.0, peak_value, line(progress(step, warmup_steps))), later)


def infinite_cosine_schedule(
    peak_value: Any,
    constant_value: Any,
    end_value: Any,
    warmup_steps: Any,
    cosine_steps: Any,
    stable_steps: Any,
    decay_steps: Any,
) -> Schedule:
    """Up, half a cosine down to a plateau that may last for ever, and an exponential cooldown from it.

    ::

        value = peak_value * step / warmup_steps                                           for warmup_steps
        value = constant_value + (peak_value - constant_value) * 0.5 * (1 + cos(pi * u))   for cosine_steps
        value = constant_value                                                             for stable_steps
        value = constant_value * (end_value / constant_value)**v                           for decay_steps

    Args:
      peak_value: value after the warm-up.
      constant_value: value of the plateau, positive.
      end_value: value at the end, positive.
      warmup_steps, cosine_steps, stable_steps, decay_steps: lengths of the phases in steps.

    Raises:
      ValueError: ``cosine_steps``, ``decay_steps`` or a value is not positive, another length is negative.

    Source: Ibrahim et al., arXiv 2403.08763.

    >>> schedule = infinite_cosine_schedule(1.0, 0.25, 0.01, 10, 20, 70, 10)
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20, 30, 99, 105, 110, 1000)]
    [0.0, 0.5, 1.0, 0.625, 0.25, 0.25, 0.05, 0.01, 0.01]
    """
    check.positive(constant_value=constant_value, end_value=end_value)
    check.positive(cosine_steps=cosine_steps, decay_steps=decay_steps)
    check.non_negative(warmup_steps=warmup_steps, stable_steps=stable_steps)
    return closed_form(
        _infinite_cosine,
        peak_value=peak_value,
        constant_value=constant_value,
        end_value=end_value,
        warmup_steps=warmup_steps,
        cosine_steps=cosine_steps,
        stable_steps=stable_steps,
        decay_steps=decay_steps,
    )
