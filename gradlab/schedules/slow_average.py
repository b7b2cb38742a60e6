"""What AdEMAMix lets rise over a run: the weight of its slow average and that average's half-life."""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.schedule import Schedule
from gradlab.schedules.closed_form import closed_form, progress


def _ademamix_alpha(step, *, alpha, steps, first):
    return alpha * progress(step + first, steps)


def ademamix_alpha_schedule(alpha: Any, steps: Any, *, first: Any = 1.0) -> Schedule:
    """AdEMAMix's weight of the slow average: a line up to ``alpha`` (arXiv 2409.03137).

    ``value = alpha * min((count + first) / steps, 1)``

    Args:
      alpha: value from the end of the line on, at least 0.
      steps: length of the line in steps, above zero; the paper takes the length of the run.
      first: the number of the first step: 1 is the paper's; 0 that of Optax, whose callables receive 0 first.

    Raises:
      ValueError: a negative ``alpha`` or ``first``, or ``steps`` not above zero.

    >>> schedule = ademamix_alpha_schedule(8.0, steps=4)
    >>> [schedule(count).item() for count in (0, 1, 3, 100)]
    [2.0, 4.0, 8.0, 8.0]
    """
    check.positive(steps=steps)
    check.non_negative(alpha=alpha, first=first)
    return closed_form(_ademamix_alpha, alpha=alpha, steps=steps, first=first)


def _ademamix_b3(step, *, b1, b3, steps, first):
    s = progress(step + first, steps)
    return jnp.where(s < 1, jnp.exp(1 / ((1 - s) / jnp.log(b1) + s / jnp.log(b3))), b3)


def ademamix_b3_schedule(b1: Any, b3: Any, steps: Any, *, first: Any = 1.0) -> Schedule:
    """AdEMAMix's decay of the slow average, from ``b1`` to ``b3`` by a line in the half-life (arXiv 2409.03137).

    ``value = 2^(-1/h)`` with ``h = (1 - s) * h(b1) + s * h(b3)``, ``h(b) = -1 / log2(b)`` the number of steps after
    which a gradient has half of its weight, and ``s = min((count + first) / steps, 1)``.

    Args:
      b1: decay before the first step, in (0, 1); the paper takes that of the fast average.
      b3: decay from the end of the line on, in (0, 1).
      steps: length of the line in steps, above zero; the paper takes the length of the run.
      first: the number of the first step: 1 is the paper's; 0 that of Optax, whose callables receive 0 first.

    Raises:
      ValueError: a decay outside of (0, 1), ``steps`` not above zero, or a negative ``first``.

    >>> schedule = ademamix_b3_schedule(0.5, 0.5**0.1, steps=9)  # half-lives of 1 and 10 steps
    >>> [round(schedule(count).item(), 4) for count in (0, 8, 100)]
    [0.7071, 0.933, 0.933]
    """
    for name, value in (("b1", b1), ("b3", b3)):
        check.in_range(name, value, 0.0, 1.0, open_low=True, open_high=True)
    check.positive(steps=steps)
    check.non_negative(first=first)
    return closed_form(_ademamix_b3, b1=b1, b3=b3, steps=steps, first=first)
