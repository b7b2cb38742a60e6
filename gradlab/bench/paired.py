"""Paired timing: contestants take turns, and what counts is their ratio within a round.

::

    ratio_r = seconds(contestant, round r) / seconds(reference, round r)
    reported: the median of ratio_r over the rounds, with its quartiles

A machine that slows down for a while slows a whole round, so that the ratio stays.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlab.core import check


def _no_arguments() -> tuple:
    return ()


class Contestant(NamedTuple):
    """What is timed, and what happens before each run while the clock stands still."""

    run: Callable[..., Any]  # timed until every array it returns is ready
    prepare: Callable[[], tuple] = _no_arguments  # makes the arguments of run


class Ratio(NamedTuple):
    """A median over rounds and its spread."""

    median: float
    lower: float  # first quartile
    upper: float  # third quartile


def paired(
    contestants: Mapping[str, Contestant],
    *,
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; in every round all take their turn, always in the same order.

    Python's garbage collector is off while the clock runs.

    Args:
      contestants: by name.
      rounds: rounds that count.
      warmup: rounds before these, which do not.
      clock: returns seconds.

    Raises:
      ValueError: less than one round, or a negative number of warm-up rounds.

    >>> ticks = iter([0.0, 1.0, 10.0, 14.0])
    >>> turns = {'tortoise': Contestant(lambda: None), 'hare': Contestant(lambda: None)}
    >>> paired(turns, rounds=1, warmup=0, clock=lambda: next(ticks))
    {'tortoise': [1.0], 'hare': [4.0]}
    """
    check.in_range("rounds", rounds, 1)
    check.non_negative(warmup=warmup)
    seconds = {name: [] for name in contestants}
    for index in range(-warmup, rounds):
        for name, contestant in contestants.items():
            elapsed = _timed(contestant, clock)
            if index >= 0:
                seconds[name].append(elapsed)
    return seconds


def _timed(contestant: Contestant, clock: Callable[[], float]) -> float:
    arguments = contestant.prepare()
    jax.block_until_ready(arguments)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        jax.block_until_ready(contestant.run(*arguments))
        return clock() - start
    finally:
        if was_enabled:
            gc.enable()


def ratio(values: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Median and quartiles of the ratios within rounds.

    Raises:
      ValueError: series of different lengths, or empty ones.

    >>> ratio([1.0, 2.0, 90.0], [2.0, 4.0, 100.0])
    Ratio(median=0.5, lower=0.5, upper=0.7)
    """
    if len(values) != len(reference) or not values:
        raise ValueError(
            f"ratios need two series of one value a round, got {len(values)} and {len(reference)} values; "
            "time both in the same rounds"
        )
    lower, median, upper = np.percentile(np.divide(values, reference), [25, 50, 75])
    return Ratio(float(median), float(lower), float(upper))
