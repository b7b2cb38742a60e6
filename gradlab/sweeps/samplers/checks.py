"""What samplers that look at results refuse to be given or told."""

import math
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from gradlab.core.check import one_of
from gradlab.sweeps.search import COMPLETED, DIVERGED, ENDED, STOPPED
from gradlab.sweeps.spaces.trial import Trial


def check_whole(name: str, value: Any, low: int, high: float = math.inf) -> None:
    """Raises unless the value is a whole number within the bounds.

    >>> check_whole('batch', 0, 1)
    Traceback (most recent call last):
    ValueError: `batch` must be a whole number, at least 1, got 0
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
        upper = "" if high == math.inf else f" and at most {high}"
        raise ValueError(f"`{name}` must be a whole number, at least {low}{upper}, got {value!r}")


def check_outcomes(
    trials: Sequence[Trial], costs: Sequence[float], statuses: Sequence[str], running: Container[str]
) -> None:
    """Raises unless each trial has a cost and a status, and its uid is among those that run.

    >>> check_outcomes([Trial('ab', {})], [float('nan')], [COMPLETED], {'ab'})
    Traceback (most recent call last):
    ValueError: trial ab has the cost nan; tell its last cost, infinity if it diverged
    """
    if not len(trials) == len(costs) == len(statuses):
        raise ValueError(f"each trial has a cost and a status, got {len(trials)}, {len(costs)} and {len(statuses)}")
    uids = [trial.uid for trial in trials]
    for uid, cost, status in zip(uids, costs, statuses, strict=True):
        one_of("status", status, (COMPLETED, DIVERGED, STOPPED, ENDED))
        if math.isnan(cost) or cost == -math.inf:
            raise ValueError(f"trial {uid} has the cost {cost}; tell its last cost, infinity if it diverged")
        if uid not in running:
            raise ValueError(f"trial {uid} does not run: it was never asked for, or was told before")
        if uids.count(uid) > 1:
            raise ValueError(f"trial {uid} is told twice; each trial has one outcome")
