"""Growing the batch where the learning rate would fall: two schedules that belong together.

Where a schedule would divide the learning rate by ``factor``, the batch grows by it instead, and the learning rate
falls by a power of it.  In phase j = 0, 1, ..., which reads the batches from ``boundaries[j - 1]`` to
``boundaries[j]``::

    micro_batches = factor**j
    learning_rate = peak_value * factor**(-exponent * j)

``exponent`` 0 leaves the learning rate (SGD, Smith et al., arXiv 1711.00489); 1/2 is Seesaw for Adam (arXiv
2510.14717).  Each phase reads as many examples as before in fewer, more exact steps.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gradlab.core import check
from gradlab.core.schedule import Schedule
from gradlab.schedules.piecewise import piecewise_constant_schedule


class Seesaw(NamedTuple):
    """What `seesaw_schedules` returns."""

    learning_rate: Schedule
    micro_batches: Schedule
    steps: tuple[int, ...]  # the step at which each phase after the first begins


def seesaw_schedules(peak_value: Any, boundaries: Sequence[int], factor: int = 2, exponent: float = 0.5) -> Seesaw:
    """The learning rate and the number of micro-batches of a step, for ``fit(..., micro_batches=...)``.

    Args:
      peak_value: learning rate of the first phase.
      boundaries: batches read when each phase after the first begins, ascending and positive.
      factor: growth of the batch from phase to phase, at least 2.
      exponent: the learning rate falls by ``factor**exponent``.

    Raises:
      ValueError: boundaries that do not ascend, or whose phases do not divide into steps; a factor below 2.

    >>> learning_rate, micro_batches, steps = seesaw_schedules(0.1, boundaries=[100, 200])
    >>> steps, [float(micro_batches(step)) for step in (0, 99, 100, 149, 150)]
    ((100, 150), [1.0, 1.0, 2.0, 2.0, 4.0])
    >>> [round(float(learning_rate(step)), 4) for step in (0, 99, 100, 150)]
    [0.1, 0.1, 0.0707, 0.05]
    """
    check.positive(peak_value=peak_value)
    check.in_range("factor", factor, 2)
    lengths = np.diff([0, *boundaries])
    if not len(lengths) or np.any(lengths <= 0):
        raise ValueError(f"`boundaries` must be positive and ascend, got {list(boundaries)}")
    counts = factor ** np.arange(len(lengths))
    if np.any(lengths % counts):
        phase = int(np.flatnonzero(lengths % counts)[0])
        raise ValueError(
            f"phase {phase} of the `boundaries` {list(boundaries)} reads {lengths[phase]} batches, which do not "
            f"divide into steps of {factor}**{phase} = {counts[phase]}; move a boundary"
        )
    steps = tuple(int(step) for step in np.cumsum(lengths // counts))
    return Seesaw(
        piecewise_constant_schedule(peak_value, {step: float(factor) ** -exponent for step in steps}),
        piecewise_constant_schedule(1.0, {step: float(factor) for step in steps}),
        steps,
    )
