"""What schedulers share: the steps at which cohorts halt, the costs that count there, checks of options.

::

    ladder   r, r eta, r eta^2, ... steps, each at the evaluation nearest to it      halving, hyperband
    spaced   w, w + i, w + 2 i, ... steps, each at the first evaluation from there   median, percentile, pbt
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradlab.core.check import in_range
from gradlab.sweeps.search import View


def costs_now(view: View) -> np.ndarray:
    """What each lane that runs costs at the halt, (lanes,) float64; infinite for one that diverged."""
    costs = view.costs[view.alive, -1].astype(np.float64)
    return np.where(np.isfinite(costs), costs, np.inf)


def ladder(scheduler: str, evals: Sequence[int], eta: int, first: int | None, rungs: int | None) -> tuple[int, ...]:
    """The steps of rungs that are eta times as long each, the end of the run excluded.

    Args:
      scheduler: its name, for messages.
      evals: steps after which trials are evaluated, rising; the last is the end.
      eta: ratio of rungs.
      first: steps of the first rung; if None, the rungs lead up to the end.
      rungs: how many; if None, all that lie before the end, from ``first`` on.

    Raises:
      ValueError: a rung lies before the first evaluation or not before the end, or two have one evaluation in common.

    >>> ladder('halving', range(10, 100, 10), eta=3, first=None, rungs=2)
    (10, 30)
    """
    end = evals[-1]
    if first is None:
        targets = [end / eta**power for power in range(rungs, 0, -1)]
    else:
        rising = (first * eta**power for power in itertools.count())
        targets = list(itertools.takewhile(lambda target: target < end, rising))
        if len(targets) < (rungs or 1):
            raise ValueError(
                f"{scheduler}: {rungs or 1} rungs of which the first takes {_steps(first)} do not end before the run "
                f"does, after {_steps(end)}; lower `first` or the number of rungs, or train longer"
            )
        targets = targets[:rungs]
    if targets[0] < evals[0]:
        raise ValueError(
            f"{scheduler}: the first rung, after {_steps(targets[0])}, lies before the first evaluation, after "
            f"{_steps(evals[0])}; {_remedy(targets[0])}"
        )
    halts = [_nearest(evals, target) for target in targets]
    for left, right in itertools.pairwise(zip([*targets, end], [*halts, end], strict=True)):
        if left[1] == right[1]:
            raise ValueError(
                f"{scheduler}: the rungs after {_steps(left[0])} and {_steps(right[0])} have one evaluation, after "
                f"{_steps(left[1])}; {_remedy(targets[0])}"
            )
    return tuple(halts)


def spaced(scheduler: str, evals: Sequence[int], warmup: int, interval: int | None) -> tuple[int, ...]:
    """The steps at which a scheduler decides again and again, and the end of the run.

    Args:
      scheduler: its name, for messages.
      evals: steps after which trials are evaluated, rising; the last is the end.
      warmup: steps before which nothing is decided; if 0, the first halt is after ``interval``.
      interval: steps between halts; every evaluation if None.

    Raises:
      ValueError: two halts have one evaluation in common, or there is none before the end.

    >>> spaced('median', range(10, 110, 10), warmup=25, interval=20)
    (30, 50, 70, 90, 100)
    """
    *before, end = evals
    if interval is None:
        halts = [step for step in before if step >= warmup]
    else:
        targets = range(warmup or interval, end, interval)
        reached = [bisect_left(evals, target) for target in targets]
        if len(set(reached)) < len(reached):
            widest = max(right - left for left, right in zip([0, *before], evals, strict=True))
            raise ValueError(
                f"{scheduler}: `interval` is {_steps(interval)}, but evaluations are {widest} apart; "
                f"take eval_every={interval}, or an interval of at least {widest}"
            )
        halts = [evals[index] for index in reached if evals[index] < end]
    if not halts:
        raise ValueError(
            f"{scheduler} has nothing to decide: no evaluation lies from step {warmup or interval or 1} on and before "
            f"the end at {end}; evaluate more often, or decide earlier"
        )
    return (*halts, end)


def several(scheduler: str, trials: int) -> None:
    """Raises unless there are two trials to compare."""
    if trials < 2:
        raise ValueError(f"{scheduler} compares trials and there is {trials}; run more, or take the scheduler 'all'")


def whole(name: str, value: Any, least: int) -> None:
    """Raises unless an option is a whole number, not below ``least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a whole number, got {type(value).__name__}: {value!r}")
    in_range(name, value, least)


def number(name: str, value: Any, low: float, high: float = math.inf, *, open_low=False, open_high=False) -> None:
    """Raises unless an option is a finite number between two others."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}: {value!r}")
    in_range(name, value, low, high, open_low=open_low, open_high=open_high)
    if math.isinf(value):
        raise ValueError(f"`{name}` must be finite, got {value}")


def whole_log(x: float, base: int) -> int:
    """The largest power, at least 0, of a base that is not above x.

    >>> whole_log(27, 3), whole_log(26, 3), whole_log(0.5, 3)
    (3, 2, 0)
    """
    power = 0
    while base ** (power + 1) <= x:
        power += 1
    return power


def _nearest(evals: Sequence[int], target: float) -> int:
    """Of two equally near, the earlier."""
    index = bisect_left(evals, target)
    around = evals[max(index - 1, 0) : index + 1]
    return min(around, key=lambda step: abs(step - target))


def _remedy(first: float) -> str:
    return "take fewer rungs, or a larger first one" + (f", or eval_every={int(first)}" if first >= 1 else "")


def _steps(steps: float) -> str:
    return f"{steps:.6g} step{'' if steps == 1 else 's'}"
