"""Coordinate refinement: every coordinate of the best point is varied alone, with steps that become smaller.

::

    round     the centre, and for every dimension that varies  u +- s, u +- s/2, ...  in its unit coordinate u
    move      each coordinate of which a probe beats the best trial takes that probe's value, all of them at once
    shrink    s becomes half the smallest step of a round around the best trial that found nothing better

A log dimension thus moves by factors, an integer by one at least; a choice is tried with every other value; steps end
at the bounds.  Large studies of optimizers tune this way, hyperparameter by hyperparameter (arXiv 2509.02046).

All coordinates that improve move together because the lanes of a round cost little more than one run, so that what has
to be few is rounds.  That the improvements add up is a guess, which the next round verifies: the combined point runs in
it, beside the probes around it.  If none of them beats the best trial, the search goes back to that trial, so a wrong
guess costs one round, and a right one saves a round for every coordinate.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradlab.core.check import in_range, one_of
from gradlab.sweeps.samplers.checks import check_outcomes, check_whole
from gradlab.sweeps.search import COMPLETED, ENDED
from gradlab.sweeps.spaces.dimensions import Choice, Integer, is_single
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

LARGEST_STEP = 1.0  # from one bound to the other


class CoordinateSampler:
    """A `Sampler` that refines a point; made by `coordinate`.

    Args:
      space: where to search.
      centre: the point.
      batch: how many trials a round should have; all probes of the first round if None.
      step: the first s, in unit coordinates.
      sizes: how many steps s, s/2, ... each direction has.
      smallest: s below which the search ends.
    """

    def __init__(self, space: Space, centre: Trial, *, batch: int | None, step: float, sizes: int, smallest: float):
        self.space, self.centre, self.step, self.sizes, self.smallest = space, centre, step, sizes, smallest
        self.names = [name for name in space if not is_single(space[name])]
        self.best: Trial | None = None  # that ran to its end, in the rounds that are complete
        self._costs: dict[str, float] = {}  # by uid; infinite for what diverged or was stopped
        self._running: set[str] = set()
        self._ended = False
        self._waiting = self._new_trials()
        self.batch = len(self._waiting) if batch is None else batch

    def ask(self, count: int) -> list[Trial]:
        """The next trials of the round; none when the steps are too small, or when everything diverges.

        Raises:
          ValueError: ``count`` is not a whole number above zero.
        """
        check_whole("count", count, 1)
        asked, self._waiting = self._waiting[:count], self._waiting[count:]
        self._running |= {trial.uid for trial in asked}
        return asked

    def tell(self, trials: Sequence[Trial], costs: Sequence[float], statuses: Sequence[str]) -> None:
        """What became of the trials; one that was stopped has lost against others, so nothing moves to it.

        Raises:
          ValueError: lists of different lengths, a trial that does not run, a cost that is NaN, an unknown status.
        """
        check_outcomes(trials, costs, statuses, self._running)
        for trial, cost, status in zip(trials, costs, statuses, strict=True):
            self._costs[trial.uid] = float(cost) if status in (COMPLETED, ENDED) else math.inf
            self._running.remove(trial.uid)
        while not (self._waiting or self._running or self._ended):
            self._move()
            self._ended = not self.smallest <= self.step <= LARGEST_STEP
            self._waiting = [] if self._ended else self._new_trials()

    def _move(self) -> None:
        """What a complete round leads to: another centre, or other steps."""
        probes = {name: min(self._probes(name), key=self._cost) for name in self.names}
        to_beat = min(self._cost(self.centre), self._cost(self.best))
        better = {name: probe.values[name] for name, probe in probes.items() if self._cost(probe) < to_beat}
        found = min([self.centre, *probes.values()], key=self._cost)
        if self._cost(found) < self._cost(self.best):
            self.best = found
        if better:
            self.centre = Trial.of(self.centre.values | better)
        elif self.best is None:
            self.step *= 2
        elif self.centre.uid != self.best.uid:
            self.centre = self.best
        else:
            self.step /= 2**self.sizes

    def _cost(self, trial: Trial | None) -> float:
        return math.inf if trial is None else self._costs[trial.uid]

    def _new_trials(self) -> list[Trial]:
        trials = [self.centre, *(probe for name in self.names for probe in self._probes(name))]
        return list({trial.uid: trial for trial in trials if trial.uid not in self._costs}.values())

    def _probes(self, name: str) -> list[Trial]:
        return [Trial.of(self.centre.values | {name: value}) for value in self._values(name)]

    def _values(self, name: str) -> list[Any]:
        dimension, value = self.space[name], self.centre.values[name]
        if isinstance(dimension, Choice):
            return list(dimension.values)
        (u,) = dimension.to_unit([value])
        steps = np.array([sign * self.step / 2**size for size in range(self.sizes) for sign in (1, -1)])
        values = dimension.from_unit(np.clip(u + steps, 0.0, 1.0))
        if isinstance(dimension, Integer):
            least = np.clip(value + np.sign(steps).astype(int), dimension.low, dimension.high).tolist()
            values = [other if other != value else near for other, near in zip(values, least, strict=True)]
        return values


def coordinate(
    space: Space,
    *,
    batch: int | None = None,
    start: Mapping[str, Any] | None = None,
    step: float = 0.25,
    sizes: int = 2,
    smallest: float = 1e-3,
) -> CoordinateSampler:
    """Coordinate refinement from a given point, or from the middle of the space.

    Args:
      space: where to search.
      batch: how many trials a round should have; by default the first round as a whole, 1 + 2 sizes for every range
        and the other values of every choice.  A smaller one spreads a round over several batches.
      start: values by name, the fixed ones left out or not.
      step: the first and largest step, as a part of each range, in (0, 1].  While everything diverges it doubles.
      sizes: how many steps, each half the one before, are tried in each direction, at least 1.
      smallest: the search ends when the largest step of a round is below this.

    Raises:
      ValueError: a number outside of its bounds, a start that is not in the space.

    >>> sampler = coordinate(Space({'learning_rate': {'log': [1e-4, 1.0]}}), start={'learning_rate': 0.1}, sizes=1)
    >>> trials = sampler.ask(sampler.batch)
    >>> [trial.values['learning_rate'] for trial in trials]
    [0.1, 1.0, 0.01]
    >>> sampler.tell(trials, [0.5, float('inf'), 0.4], ['completed', 'diverged', 'completed'])
    >>> [trial.values['learning_rate'] for trial in sampler.ask(sampler.batch)]
    [0.001]
    """
    if batch is not None:
        check_whole("batch", batch, 1)
    check_whole("sizes", sizes, 1)
    in_range("step", step, 0, LARGEST_STEP, open_low=True)
    in_range("smallest", smallest, 0, step, open_low=True)
    centre = _trial(space, start) if start is not None else space.from_unit([[0.5] * len(space.varying)])[0]
    return CoordinateSampler(space, centre, batch=batch, step=step, sizes=sizes, smallest=smallest)


def _trial(space: Space, start: Mapping[str, Any]) -> Trial:
    for name in start:
        one_of("name in `start`", name, space)
    start = {name: value.item() if isinstance(value, np.generic) else value for name, value in start.items()}
    values = {}
    for name, dimension in space.items():
        if name not in start and not is_single(dimension):
            raise ValueError(
                f"`start` has no value for {name!r}; give one, or leave `start` out to begin in the middle"
            )
        default = dimension.from_unit([0.5])[0]
        try:
            units = dimension.to_unit([start.get(name, default)])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name!r} in `start`: {error}") from error
        exact = isinstance(default, float) and not isinstance(dimension, Choice)
        values[name] = float(start.get(name, default)) if exact else dimension.from_unit(units)[0]
    return Trial.of(values)
