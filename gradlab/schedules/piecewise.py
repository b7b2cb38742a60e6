"""Schedules made of pieces: constant ones, interpolated ones, and other schedules.

With boundaries ``b_1 <= b_2 <= ...`` (a boundary belongs to the piece that begins there)::

    piecewise_constant     init_value * product of scale_i over all b_i <= step
    piecewise_interpolate  the same values at the boundaries, joined by lines or half cosines
    join                   schedules[i](step - b_i)  for b_i <= step < b_(i+1), b_0 = 0
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule, as_schedule, make_schedule
from gradlab.schedules.closed_form import between, closed_form, half_cosine, line, progress


def _boundaries_and_scales(pairs: Mapping[Any, Any] | None) -> tuple[list[Any], list[Any]]:
    if not isinstance(pairs, Mapping | None):
        raise TypeError(
            f"`boundaries_and_scales` must be a dict {{step: scale}}, got {type(pairs).__name__}: {pairs!r}"
        )
    check.non_negative(**{"boundaries_and_scales (a step)": list(pairs or ())})
    check.non_negative(**{"boundaries_and_scales (a scale)": list((pairs or {}).values())})
    boundaries = sorted(pairs or ())
    return boundaries, [pairs[boundary] for boundary in boundaries]


def _piecewise_constant(step, *, init_value, boundaries, scales):
    value = jnp.asarray(init_value, dtype=float)
    for boundary, scale in zip(boundaries, scales, strict=True):
        value = jnp.where(step < boundary, value, scale * value)
    return value


def piecewise_constant_schedule(init_value: Any, boundaries_and_scales: Mapping[Any, Any] | None = None) -> Schedule:
    """Multiplies the value by a scale at each of some given steps, and keeps it in between.

    ::

        value = init_value * product of scales[i] over all i with boundaries[i] <= step

    Args:
      init_value: value before the first boundary.
      boundaries_and_scales: ``{step: scale}``, neither negative; kept as two lists of leaves in the order of the steps.

    Raises:
      TypeError: ``boundaries_and_scales`` is not a mapping of numbers.
      ValueError: a step or a scale is negative.

    >>> schedule = piecewise_constant_schedule(1.0, {100: 0.5, 200: 0.5})
    >>> [float(schedule(step)) for step in (0, 99, 100, 200, 1000)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    boundaries, scales = _boundaries_and_scales(boundaries_and_scales)
    return closed_form(_piecewise_constant, init_value=init_value, boundaries=boundaries, scales=scales)


INTERPOLATIONS = {"linear": line, "cosine": half_cosine}
"""How `piecewise_interpolate_schedule` leads from one value to the next: what remains of the way at progress u."""


def _piecewise_interpolate(step, *, interpolate_type, init_value, boundaries, scales):
    begin, start = 0.0, init_value
    value = jnp.asarray(init_value, dtype=float)
    for boundary, scale in zip(boundaries, scales, strict=True):
        end = start * scale
        remaining = INTERPOLATIONS[interpolate_type](progress(step - begin, boundary - begin))
        value = jnp.where(step < begin, value, between(start, end, remaining))
        begin, start = boundary, end
    return value


def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: Any, boundaries_and_scales: Mapping[Any, Any] | None = None
) -> Schedule:
    """Leads from value to value by lines or half cosines; each value is the one before times a scale.

    ::

        values[i] = values[i - 1] * scales[i],  values[0] = init_value
        value = values[i] + (values[i - 1] - values[i]) * remaining(u)
        u = (step - boundaries[i - 1]) / (boundaries[i] - boundaries[i - 1]),  boundaries[0] = 0
        remaining(u) = 1 - u   or   0.5 * (1 + cos(pi * u))

    Args:
      interpolate_type: 'linear' or 'cosine' (static).
      init_value: value at step 0.
      boundaries_and_scales: ``{step: scale}``, neither negative; kept as two lists of leaves in the order of the steps.

    Raises:
      TypeError: ``boundaries_and_scales`` is not a mapping of numbers.
      ValueError: ``interpolate_type`` is unknown, or a step or a scale is negative.

    >>> schedule = piecewise_interpolate_schedule('linear', 1.0, {4: 0.5, 8: 0.5})
    >>> [float(schedule(step)) for step in (0, 2, 4, 6, 8, 100)]
    [1.0, 0.75, 0.5, 0.375, 0.25, 0.25]
    """
    check.one_of("interpolate_type", interpolate_type, INTERPOLATIONS)
    boundaries, scales = _boundaries_and_scales(boundaries_and_scales)
    return closed_form(
        _piecewise_interpolate,
        interpolate_type=static(interpolate_type),
        init_value=init_value,
        boundaries=boundaries,
        scales=scales,
    )


def _join(step, *, schedules, boundaries):
    value = schedules[0].value_at(step)
    for schedule, boundary in zip(schedules[1:], boundaries, strict=True):
        value = jnp.where(step < boundary, value, schedule.value_at(jnp.maximum(step - boundary, 0.0)))
    return value


def join_schedules(schedules: Sequence[Any], boundaries: Sequence[Any]) -> Schedule:
    """One schedule after another, each counting from zero again at the boundary where it begins.

    ::

        value = schedules[i](step - boundaries[i - 1])   for boundaries[i - 1] <= step < boundaries[i]

    Args:
      schedules: schedules, numbers, or functions of the count such as Optax's.
      boundaries: the step at which each schedule after the first begins; not negative, in ascending order.

    Raises:
      ValueError: the boundaries are not one fewer than the schedules, are negative, or descend.

    >>> from gradlab.schedules import linear_schedule
    >>> schedule = join_schedules([linear_schedule(0.0, 1.0, 4), 1.0, linear_schedule(1.0, 0.0, 4)], [4, 10])
    >>> [float(schedule(step)) for step in (0, 1, 4, 9, 11, 14, 100)]
    [0.0, 0.25, 1.0, 1.0, 0.75, 0.0, 0.0]
    """
    schedules, boundaries = [as_schedule(schedule) for schedule in schedules], list(boundaries)
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"join_schedules needs one boundary between each two schedules, got {len(schedules)} schedules and "
            f"{len(boundaries)} boundaries; give the step at which each schedule after the first begins"
        )
    check.non_negative(boundaries=boundaries)
    for index, (before, after) in enumerate(zip(boundaries, boundaries[1:], strict=False)):
        check.non_negative(**{f"boundaries[{index + 1}] - boundaries[{index}]": after - before})
    return make_schedule(_join, schedules=schedules, boundaries=boundaries)
