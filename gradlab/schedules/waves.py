"""Schedules that go up and down without end, momentum that runs against a one-cycle, and Chebyshev's steps.

::

    cyclic              low -> high -> low -> high ..., straight                                arXiv 1506.01186
    onecycle_momentum   high -> low -> high, where a one-cycle goes low -> high -> low          arXiv 1708.07120
    chebyshev           1 / root, the roots of Chebyshev's polynomial on [smallest, largest]    arXiv 2103.01338
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gradlab.core import check
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule
from gradlab.schedules.closed_form import between, closed_form, half_cosine, progress


def _cyclic(step, *, low_value, high_value, half_period, decay):
    cycle = jnp.floor(1 + step / (2 * half_period))
    height = jnp.maximum(0.0, 1 - jnp.abs(step / half_period - 2 * cycle + 1))
    return low_value + (high_value - low_value) * decay ** (cycle - 1) * height


def cyclic_schedule(low_value: Any, high_value: Any, half_period: Any, decay: Any = 1.0) -> Schedule:
    """A triangle wave between two values, whose height may shrink from cycle to cycle.

    ::

        cycle = floor(1 + step / (2 * half_period))
        height = max(0, 1 - |step / half_period - 2 * cycle + 1|)
        value = low_value + (high_value - low_value) * decay**(cycle - 1) * height

    Args:
      low_value: value at the begin and at the end of a cycle.
      high_value: value in the middle of the first cycle.
      half_period: steps from low to high, positive.
      decay: factor of the height from one cycle to the next, positive; 0.5 is the paper's ``triangular2``.

    Raises:
      ValueError: ``half_period`` or ``decay`` is not positive.

    Source: Smith, arXiv 1506.01186.

    >>> schedule = cyclic_schedule(0.0, 1.0, half_period=4, decay=0.5)
    >>> [round(float(schedule(step)), 4) for step in (0, 2, 4, 8, 12, 16)]
    [0.0, 0.5, 1.0, 0.0, 0.5, 0.0]
    """
    check.positive(half_period=half_period, decay=decay)
    return closed_form(_cyclic, low_value=low_value, high_value=high_value, half_period=half_period, decay=decay)


def _onecycle_momentum(step, *, transition_steps, high_value, low_value, pct_start):
    turn = jnp.floor(pct_start * transition_steps)
    falling = between(high_value, low_value, half_cosine(progress(step, turn)))
    rising = between(low_value, high_value, half_cosine(progress(step - turn, transition_steps - turn)))
    return jnp.where(step < turn, falling, rising)


def onecycle_momentum_schedule(
    transition_steps: Any, high_value: Any = 0.95, low_value: Any = 0.85, pct_start: Any = 0.3
) -> Schedule:
    """Momentum for `cosine_onecycle_schedule`: low where the learning rate is high.

    ::

        (0, high_value)  ->  (floor(pct_start * transition_steps), low_value)  ->  (transition_steps, high_value)

    Args:
      transition_steps: length of the schedule in steps, positive.
      high_value: momentum at the begin, and from the end on.
      low_value: momentum at the peak of the learning rate.
      pct_start: where the peak lies, a fraction of ``transition_steps`` in [0, 1].

    Raises:
      ValueError: ``transition_steps`` is not positive, or ``pct_start`` is outside of [0, 1].

    Source: Smith and Topin, arXiv 1708.07120.

    >>> schedule = onecycle_momentum_schedule(100)
    >>> [round(float(schedule(step)), 4) for step in (0, 15, 30, 65, 100)]
    [0.95, 0.9, 0.85, 0.9, 0.95]
    """
    check.positive(transition_steps=transition_steps)
    check.in_range("pct_start", pct_start, 0.0, 1.0)
    return closed_form(
        _onecycle_momentum,
        transition_steps=transition_steps,
        high_value=high_value,
        low_value=low_value,
        pct_start=pct_start,
    )


def _chebyshev(step, *, smallest, largest, order):
    place = jnp.asarray(order)[jnp.asarray(step, jnp.int32) % len(order)]
    root = 0.5 * (largest + smallest) - 0.5 * (largest - smallest) * jnp.cos((place + 0.5) * jnp.pi / len(order))
    return 1 / root


def chebyshev_schedule(smallest: Any, largest: Any, period: int) -> Schedule:
    """Step sizes for gradient descent on a quadratic that is as fast as the best momentum, over and over.

    ::

        value = 1 / (0.5 * (largest + smallest) - 0.5 * (largest - smallest) * cos((k + 0.5) * pi / period))

    with k = 0, ..., period - 1 in the fractal order, in which no step blows up the others' rounding: after ``period``
    steps the error is divided by ``cosh(period * arccosh((largest + smallest) / (largest - smallest)))`` or more.

    Args:
      smallest: smallest eigenvalue of the Hessian, positive.
      largest: largest eigenvalue, above it.
      period: (static) number of steps, a power of two.

    Raises:
      ValueError: the eigenvalues are not positive and ascending, or ``period`` is no power of two.

    Source: Agarwal et al., arXiv 2103.01338.

    >>> schedule = chebyshev_schedule(1.0, 3.0, period=2)
    >>> [round(float(schedule(step)), 4) for step in (0, 1, 2)]
    [0.7735, 0.3694, 0.7735]
    """
    check.positive(smallest=smallest, **{"largest - smallest": largest - smallest})
    if not isinstance(period, int) or period < 1 or period & (period - 1):
        raise ValueError(f"`period` must be a power of two, got {period!r}: the fractal order doubles from 1")
    return closed_form(_chebyshev, smallest=smallest, largest=largest, order=static(_fractal_order(period)))


def _fractal_order(period: int) -> tuple[float, ...]:
    order = np.zeros(1)
    while len(order) < period:
        order = np.stack([order, 2 * len(order) - 1 - order], axis=1).ravel()
    return tuple(order.tolist())
