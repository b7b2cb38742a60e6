"""Schedules that rise and fall: one cycle (arXiv 1708.07120), and warm restarts (arXiv 1608.03983).

With ``start = floor(pct_start * transition_steps)`` and ``final = floor(pct_final * transition_steps)``::

    linear_onecycle   lines:         peak / div at 0, peak at start, peak / div at final, peak / div / final_div at end
    cosine_onecycle   half cosines:  peak / div at 0, peak at start, peak / div / final_div at end
    sgdr              warmup_cosine_decay cycles, one after another
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.schedule import Schedule
from gradlab.schedules.closed_form import closed_form
from gradlab.schedules.piecewise import _piecewise_interpolate
from gradlab.schedules.warmup import _warmup_cosine_decay, warmup_cosine_decay_schedule


def _linear_onecycle(step, *, transition_steps, peak_value, pct_start, pct_final, div_factor, final_div_factor):
    start, final = jnp.floor(pct_start * transition_steps), jnp.floor(pct_final * transition_steps)
    return _piecewise_interpolate(
        step,
        interpolate_type="linear",
        init_value=peak_value / div_factor,
        boundaries=[start, final, transition_steps],
        scales=[div_factor, 1.0 / div_factor, 1.0 / final_div_factor],
    )


def linear_onecycle_schedule(
    transition_steps: Any,
    peak_value: Any,
    pct_start: Any = 0.3,
    pct_final: Any = 0.85,
    div_factor: Any = 25.0,
    final_div_factor: Any = 1e4,
) -> Schedule:
    """Three lines: up to the peak, down to where it began, and down further by ``final_div_factor``.

    ::

        (0, peak_value / div_factor)  ->  (floor(pct_start * transition_steps), peak_value)
        ->  (floor(pct_final * transition_steps), peak_value / div_factor)
        ->  (transition_steps, peak_value / div_factor / final_div_factor)

    Args:
      transition_steps: length of the schedule in steps, positive.
      peak_value: the highest value.
      pct_start: where the peak lies, a fraction of ``transition_steps`` in [0, 1].
      pct_final: where the first value is reached again, a fraction from ``pct_start`` to 1.
      div_factor: peak over first value, positive.
      final_div_factor: first over last value, positive.

    Raises:
      ValueError: ``transition_steps`` or a factor is not positive, or ``0 <= pct_start <= pct_final <= 1`` fails.

    Source: arXiv 1708.07120.

    >>> schedule = linear_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=2.0)
    >>> [round(float(schedule(step)), 4) for step in (0, 30, 85, 100, 1000)]
    [0.25, 1.0, 0.25, 0.125, 0.125]
    """
    check.positive(transition_steps=transition_steps, div_factor=div_factor, final_div_factor=final_div_factor)
    check.in_range("pct_start", pct_start, 0.0, 1.0)
    check.in_range("pct_final", pct_final, 0.0, 1.0)
    check.non_negative(**{"pct_final - pct_start": pct_final - pct_start})
    return closed_form(
        _linear_onecycle,
        transition_steps=transition_steps,
        peak_value=peak_value,
        pct_start=pct_start,
        pct_final=pct_final,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )


def _cosine_onecycle(step, *, transition_steps, peak_value, pct_start, div_factor, final_div_factor):
    return _piecewise_interpolate(
        step,
        interpolate_type="cosine",
        init_value=peak_value / div_factor,
        boundaries=[jnp.floor(pct_start * transition_steps), transition_steps],
        scales=[div_factor, 1.0 / (div_factor * final_div_factor)],
    )


def cosine_onecycle_schedule(
    transition_steps: Any,
    peak_value: Any,
    pct_start: Any = 0.3,
    div_factor: Any = 25.0,
    final_div_factor: Any = 1e4,
) -> Schedule:
    """Half a cosine up to the peak, and half a cosine down to far below the first value.

    ::

        (0, peak_value / div_factor)  ->  (floor(pct_start * transition_steps), peak_value)
        ->  (transition_steps, peak_value / (div_factor * final_div_factor))

    Args:
      transition_steps: length of the schedule in steps, positive.
      peak_value: the highest value.
      pct_start: where the peak lies, a fraction of ``transition_steps`` in [0, 1].
      div_factor: peak over first value, positive.
      final_div_factor: first over last value, positive.

    Raises:
      ValueError: ``transition_steps`` or a factor is not positive, or ``pct_start`` is outside of [0, 1].

    Source: arXiv 1708.07120.

    >>> schedule = cosine_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=2.0)
    >>> [round(float(schedule(step)), 4) for step in (0, 15, 30, 65, 100, 1000)]
    [0.25, 0.625, 1.0, 0.5625, 0.125, 0.125]
    """
    check.positive(transition_steps=transition_steps, div_factor=div_factor, final_div_factor=final_div_factor)
    check.in_range("pct_start", pct_start, 0.0, 1.0)
    return closed_form(
        _cosine_onecycle,
        transition_steps=transition_steps,
        peak_value=peak_value,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )


def _sgdr(step, *, cycles):
    value, begin = _warmup_cosine_decay(step, **cycles[0]), cycles[0]["decay_steps"]
    for cycle in cycles[1:]:
        value = jnp.where(step < begin, value, _warmup_cosine_decay(jnp.maximum(step - begin, 0.0), **cycle))
        begin += cycle["decay_steps"]
    return value


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """Warm restarts: `warmup_cosine_decay_schedule` cycles, one after another; the last one's end is kept.

    ::

        value = warmup_cosine_decay(**cycle[i])(step - begin[i])   for begin[i] <= step < begin[i + 1]
        begin[0] = 0,  begin[i + 1] = begin[i] + cycle[i].decay_steps

    Args:
      cosine_kwargs: for each cycle, the arguments of `warmup_cosine_decay_schedule`.

    Raises:
      ValueError: there is no cycle, or the arguments of one are out of range.
      TypeError: an argument is missing, unknown or no number.

    Source: arXiv 1608.03983.

    >>> cycle = dict(init_value=1.0, peak_value=1.0, warmup_steps=0)
    >>> schedule = sgdr_schedule([dict(cycle, decay_steps=10), dict(cycle, decay_steps=20)])
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20, 30, 100)]
    [1.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    cycles = [dict(warmup_cosine_decay_schedule(**kwargs).value_at.keywords) for kwargs in cosine_kwargs]
    if not cycles:
        raise ValueError("sgdr_schedule needs at least one cycle, got none; give a list of dicts of arguments")
    return closed_form(_sgdr, cycles=cycles)
