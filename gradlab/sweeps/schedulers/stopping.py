"""Schedulers that stop trials: against the others (median, percentile), or each by its own curve (patience).

::

    median       min_s c_i(s) > median over j != i of mean_s c_j(s)      Golovin et al. 2017, "Google Vizier", 3.2.2
    percentile   the same with the p-th percentile, interpolated linearly between two trials
    patience     min of the last k costs >= min of those before - delta

s goes over the evaluations up to the halt, without the one before training, at which all trials are equal.  Vizier
compares with completed trials.  Lanes advance together, so the others are here all trials of the cohort that did not
diverge, each with what it reported: those that run up to the halt, those stopped before up to where they were.  A
trial that diverged is stopped, and the one with the lowest cost so far goes on, whatever the percentile.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gradlab.sweeps.schedulers.rules import costs_now, number, several, spaced, whole
from gradlab.sweeps.search import ENDED, Cohort, Decision, View


@dataclasses.dataclass(frozen=True)
class PercentileStopping:
    """Stops a trial whose best cost is above a percentile of the others' running averages, and those that diverged.

    Args:
      percentile: in (0, 100), from the best trial to the worst; 25 is stricter than the median, which is 50.
      warmup: steps before which no trial is stopped; if 0, the first may be after ``interval``.
      interval: steps between two decisions, each made at the first evaluation from there; by default at every one.

    Raises:
      TypeError, ValueError: an option is no number or out of range.

    >>> PercentileStopping(25, warmup=40, interval=20).cohorts(8, range(10, 110, 10))
    [Cohort(count=8, halts=(40, 60, 80, 100))]
    """

    percentile: float = 25.0
    warmup: int = 0
    interval: int | None = None
    name: ClassVar[str] = "percentile"
    replaces: ClassVar[bool] = False

    def __post_init__(self):
        number("percentile", self.percentile, 0, 100, open_low=True, open_high=True)
        whole("warmup", self.warmup, 0)
        if self.interval is not None:
            whole("interval", self.interval, 1)

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        several(self.name, trials)
        return [Cohort(trials, spaced(self.name, evals, self.warmup, self.interval))]

    def decide(self, view: View) -> Decision:
        return Decision(_below_others(view, self.percentile / 100))


@dataclasses.dataclass(frozen=True)
class MedianStopping:
    """Stops a trial whose best cost is above the median of the others' running averages, and those that diverged.

    Args:
      warmup: steps before which no trial is stopped; if 0, the first may be after ``interval``.
      interval: steps between two decisions, each made at the first evaluation from there; by default at every one.

    Raises:
      TypeError, ValueError: an option is no whole number or out of range.

    >>> MedianStopping(interval=50).cohorts(8, range(10, 110, 10))
    [Cohort(count=8, halts=(50, 100))]
    """

    warmup: int = 0
    interval: int | None = None
    name: ClassVar[str] = "median"
    replaces: ClassVar[bool] = False

    def __post_init__(self):
        whole("warmup", self.warmup, 0)
        if self.interval is not None:
            whole("interval", self.interval, 1)

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        several(self.name, trials)
        return [Cohort(trials, spaced(self.name, evals, self.warmup, self.interval))]

    def decide(self, view: View) -> Decision:
        return Decision(_below_others(view, 0.5))


@dataclasses.dataclass(frozen=True)
class Patience:
    """Ends a trial that over its last evaluations got no better than it was; all may end so.

    Args:
      patience: evaluations within which the best cost must fall, >= 1.
      min_delta: by how much, >= 0; falling by just so much, or not at all, ends a trial.

    Raises:
      TypeError, ValueError: an option is no number or out of range.

    >>> Patience(3).cohorts(8, [10, 20, 30, 40, 50])
    [Cohort(count=8, halts=(30, 40, 50))]
    """

    patience: int
    min_delta: float = 0.0
    name: ClassVar[str] = "patience"
    replaces: ClassVar[bool] = False

    def __post_init__(self):
        whole("patience", self.patience, 1)
        number("min_delta", self.min_delta, 0)

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        if self.patience >= len(evals):
            raise ValueError(
                f"{self.name}: a patience of {self.patience} ends nothing in {len(evals)} evaluations; lower it, or "
                "evaluate more often"
            )
        return [Cohort(trials, tuple(evals[self.patience - 1 :]))]

    def decide(self, view: View) -> Decision:
        running = np.flatnonzero(np.isfinite(costs_now(view)))
        costs = view.costs[view.alive[running]]
        recent = np.fmin.reduce(costs[:, -self.patience :], axis=1)
        before = np.fmin.reduce(costs[:, : -self.patience], axis=1)
        return Decision(running[recent < before - self.min_delta], why=ENDED)


def _below_others(view: View, fraction: float) -> np.ndarray:
    """Positions of the running lanes whose best cost is not above this quantile of the others' running averages."""
    running = np.isfinite(costs_now(view))
    costs = view.costs[:, 1:]
    best = np.fmin.reduce(costs, axis=1)
    counts = np.isfinite(np.fmax.reduce(costs, axis=1))
    counts[view.alive] = running
    if np.count_nonzero(counts) < 2 or not running.any():
        return np.flatnonzero(running)
    finite = np.isfinite(costs)
    average = costs.sum(axis=1, dtype=np.float64, where=finite) / np.maximum(np.count_nonzero(finite, axis=1), 1)
    bar = np.empty(len(best))
    bar[counts] = _quantile_of_others(np.maximum(average, best)[counts], fraction)
    running = np.flatnonzero(running)
    lanes = view.alive[running]
    good = best[lanes] <= bar[lanes]
    good[np.argmin(best[lanes])] = True
    return running[good]


def _quantile_of_others(values: np.ndarray, fraction: float) -> np.ndarray:
    """For each of n values, the quantile of the n - 1 others."""
    place = (len(values) - 2) * fraction
    low = int(place)
    high = min(low + 1, len(values) - 2)
    ordered = np.partition(values, [low, low + 1, high, high + 1])
    left, right = (np.where(values > ordered[index], ordered[index], ordered[index + 1]) for index in (low, high))
    return left + (place - low) * (right - left)
