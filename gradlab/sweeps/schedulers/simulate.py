"""A sweep without training: what a scheduler decides on synthetic learning curves, what it saves, and what it costs.

The curves are power laws with noise, of which some diverge; t in steps, T those of a run, e standard normal::

    c(t) = a + (2.5 - a) (1 + t / s)^(-p) + noise e(t)          before the trial diverges, then infinite
    a ~ U(0, 1),  s ~ log-uniform(T / 1000, T / 10),  p ~ U(0.5, 1.5),  divergence at t ~ U(0, T)

All curves begin at 2.5, and those of good trials (small a) cross those of fast ones (small s, large p).
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np

from gradlab.sweeps.schedulers.rules import number, whole
from gradlab.sweeps.search import ENDED, Cohort, Scheduler, View
from gradlab.sweeps.spaces.space import Space

START = 2.5  # what every trial costs before training
SPACE = Space({"learning_rate": {"log": [1e-4, 1.0]}})  # the curves do not depend on it


class Curves(Protocol):
    """Learning curves of trials counted from 0."""

    def observed(self, step: int, trials: np.ndarray) -> np.ndarray:
        """What an evaluation after this step says of these trials, (trials,); the same whenever it is asked."""

    def expected(self, step: np.ndarray | int, trials: np.ndarray) -> np.ndarray:
        """The same without noise."""


class PowerLaws:
    """The curves of the module's docstring.

    Args:
      trials: how many.
      steps: of a run.
      noise: standard deviation of an evaluation, >= 0.
      diverging: share of the trials that diverge, in [0, 1].
      seed: of all random numbers.

    >>> curves = PowerLaws(3, steps=100, noise=0.0)
    >>> curves.observed(0, np.arange(3)).tolist()
    [2.5, 2.5, 2.5]
    """

    def __init__(self, trials: int, steps: int, *, noise: float = 0.01, diverging: float = 0.1, seed: int = 0):
        whole("trials", trials, 1)
        whole("steps", steps, 1)
        number("noise", noise, 0)
        number("diverging", diverging, 0, 1)
        whole("seed", seed, 0)
        generator = np.random.default_rng(seed)
        self.trials, self.noise, self.seed = trials, noise, seed
        self.floor = generator.uniform(0, 1, trials)
        self.scale = steps * 10 ** generator.uniform(-3, -1, trials)
        self.power = generator.uniform(0.5, 1.5, trials)
        diverges = generator.random(trials) < diverging
        self.end = np.where(diverges, generator.uniform(0, steps, trials), np.inf)

    def observed(self, step: int, trials: np.ndarray) -> np.ndarray:
        noise = self.noise * np.random.default_rng([self.seed, step]).standard_normal(self.trials)[trials]
        return self.expected(step, trials) + (noise if step else 0.0)

    def expected(self, step: np.ndarray | int, trials: np.ndarray) -> np.ndarray:
        floor = self.floor[trials]
        costs = floor + (START - floor) * (1 + step / self.scale[trials]) ** -self.power[trials]
        return np.where(step > self.end[trials], np.inf, costs)


class Simulation(NamedTuple):
    """What became of a simulated sweep."""

    lane_steps: int  # training steps, of all trials together
    saved: float  # share of the steps of all trials run to the end that were not done
    completed: int  # trials that ran to the end and did not diverge
    winner: int  # of the trials that were not stopped, the one whose last evaluation is lowest; -1 if all diverged
    regret: float  # what the winner costs without noise more than the best trial would at the end; infinite without one
    decide_seconds: float  # in the scheduler
    peak_bytes: int  # most memory of the host that the sweep held at once, costs and curves included


def simulate(scheduler: Scheduler, trials: int, steps: int, evals: int, curves: Curves | None = None) -> Simulation:
    """Runs a sweep of which every evaluation is read off a curve instead of trained for.

    Args:
      scheduler: one that stops trials.
      trials: how many.
      steps: of a run that is not stopped.
      evals: evaluations of a run, evenly spaced as well as whole steps can be.
      curves: `PowerLaws` with its defaults if None.

    Raises:
      ValueError: the scheduler replaces trials, or there are more evaluations than steps.

    >>> from gradlab.sweeps.schedulers.named import make_scheduler
    >>> result = simulate(make_scheduler('halving'), trials=81, steps=81, evals=81)
    >>> result.lane_steps, result.completed
    (297, 1)
    """
    whole("trials", trials, 1)
    whole("evals", evals, 1)
    whole("steps", steps, evals)
    if scheduler.replaces:
        raise ValueError(f"{scheduler.name} changes trials while they run, which fixed curves cannot follow")
    at = [steps * index // evals for index in range(evals + 1)]
    with _tracing() as peak_bytes:
        sweep, first = _Sweep(scheduler, curves or PowerLaws(trials, steps), at), 0
        for cohort in scheduler.cohorts(trials, at[1:]):
            sweep.run(cohort, first)
            first += cohort.count
        return sweep.result(trials, peak_bytes())


class _Sweep:
    """The bookkeeping of a sweep: which trials run, and what those that were not stopped cost in the end."""

    def __init__(self, scheduler: Scheduler, curves: Curves, at: Sequence[int]):
        self.scheduler = scheduler
        self.curves = curves
        self.at = at  # steps at each evaluation, from 0
        self.lane_steps = 0
        self.completed = 0
        self.seconds = 0.0
        self.last: list[tuple[np.ndarray, np.ndarray, int]] = []  # trials, their last costs, and after which step

    def run(self, cohort: Cohort, first: int) -> None:
        """Runs the trials of a cohort, which are counted from ``first``."""
        alive = np.arange(cohort.count)
        costs = np.full((cohort.count, len(self.at)), np.nan)
        costs[:, 0] = self.curves.observed(0, first + alive)
        for index in range(1, len(self.at)):
            step = self.at[index]
            self.lane_steps += len(alive) * (step - self.at[index - 1])
            costs[alive, index] = self.curves.observed(step, first + alive)
            if step in cohort.halts[:-1]:
                steps, values = np.array(self.at[: index + 1]), [{}] * len(alive)
                view = View(cohort.halts.index(step), steps, costs[:, : index + 1], alive, values, SPACE)
                alive = self._decide(view, first)
        self.completed += int(np.isfinite(costs[alive, -1]).sum())
        self.last.append((first + alive, costs[alive, -1], self.at[-1]))

    def _decide(self, view: View, first: int) -> np.ndarray:
        began = time.perf_counter()
        decision = self.scheduler.decide(view)
        self.seconds += time.perf_counter() - began
        if decision.why == ENDED:
            ended = np.delete(view.alive, decision.parents)
            self.last.append((first + ended, view.costs[ended, -1], int(view.steps[-1])))
        return view.alive[decision.parents]

    def result(self, trials: int, peak_bytes: int) -> Simulation:
        numbers, costs = (np.concatenate([part[field] for part in self.last]) for field in (0, 1))
        steps = np.concatenate([np.full(len(part[0]), part[2]) for part in self.last])
        winner, regret = -1, np.inf
        if np.isfinite(costs).any():
            place = np.argmin(costs)
            winner = int(numbers[place])
            reached = self.curves.expected(int(steps[place]), numbers[[place]])[0]
            regret = float(reached - self.curves.expected(self.at[-1], np.arange(trials)).min())
        saved = 1 - self.lane_steps / (trials * self.at[-1])
        return Simulation(self.lane_steps, saved, self.completed, winner, regret, self.seconds, peak_bytes)


@contextmanager
def _tracing() -> Iterator[Callable[[], int]]:
    """Yields a function of the most bytes held at once since, of those that Python and NumPy took from here on."""
    nested = tracemalloc.is_tracing()
    if not nested:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        if not nested:
            tracemalloc.stop()
