"""Population-based training: bad trials go on from the states of good ones, with other hyperparameters.

::

    exploit   of each, the worst q take state and hyperparameters of one of the best q, drawn at random
    explore   x <- x f, f drawn from the factors; or, with probability r, x drawn anew from the space

A trial is then a place in the population, not a set of values: its hyperparameters are a schedule, found while it
trains (Jaderberg et al., arXiv 1711.09846; truncation selection).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gradlab.sweeps.schedulers.rules import costs_now, number, several, spaced, whole
from gradlab.sweeps.search import Cohort, Decision, View
from gradlab.sweeps.spaces.dimensions import Choice, Dimension, Integer, OneMinus
from gradlab.sweeps.spaces.space import Space


@dataclasses.dataclass(frozen=True)
class PopulationBased:
    """Replaces the worst members by changed copies of the best, again and again.

    All members have one structure: states fit no other program.  A member that diverged is always replaced, unless all
    did; then they stay as they are.

    A number of the space is multiplied by a factor and clipped to its range: integers are rounded, of a `one_minus`
    dimension 1 - x is multiplied, and a choice moves to the next larger of its values for a factor above 1, to the next
    smaller one for a factor below.

    Args:
      interval: steps between two replacements, each made at the first evaluation from there.
      quantile: share of the members that is replaced, and copied from, in (0, 0.5]; rounded down, at least one.
      resample: the probability that a hyperparameter is drawn anew, in [0, 1].
      factors: positive numbers, one of which a hyperparameter is multiplied by.
      seed: of the random numbers, which depend on it and on the halt only.

    Raises:
      TypeError, ValueError: an option is no number or out of range.

    >>> PopulationBased(interval=20).cohorts(8, range(10, 70, 10))
    [Cohort(count=8, halts=(20, 40, 60))]
    """

    interval: int
    quantile: float = 0.25
    resample: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)
    seed: int = 0
    name: ClassVar[str] = "pbt"
    replaces: ClassVar[bool] = True

    def __post_init__(self):
        whole("interval", self.interval, 1)
        number("quantile", self.quantile, 0, 0.5, open_low=True)
        number("resample", self.resample, 0, 1)
        if not isinstance(self.factors, Sequence) or isinstance(self.factors, str) or not self.factors:
            raise TypeError(f"`factors` must be a list of numbers, got {self.factors!r}")
        for factor in self.factors:
            number("factors", factor, 0, open_low=True)
        whole("seed", self.seed, 0)
        object.__setattr__(self, "factors", tuple(self.factors))

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        several(self.name, trials)
        return [Cohort(trials, spaced(self.name, evals, 0, self.interval))]

    def decide(self, view: View) -> Decision:
        generator = np.random.default_rng([self.seed, view.halt])
        parents = self._exploit(generator, costs_now(view))
        replaced = np.flatnonzero(parents != np.arange(len(parents)))
        values = list(view.values)
        inherited = [values[parent] for parent in parents[replaced]]
        for position, explored in zip(replaced, self._explore(generator, view.space, inherited), strict=True):
            values[position] = explored
        return Decision(parents, values)

    def _exploit(self, generator: np.random.Generator, costs: np.ndarray) -> np.ndarray:
        """Whose state each member takes: its own, or that of one of the best."""
        ranked = np.argsort(costs, kind="stable")
        running = np.count_nonzero(np.isfinite(costs))
        share = max(1, int(len(costs) * self.quantile))
        best, worst = ranked[: min(share, running)], ranked[min(len(costs) - share, running) :]
        parents = np.arange(len(costs))
        if running:
            parents[worst] = generator.choice(best, size=len(worst))
        return parents

    def _explore(
        self, generator: np.random.Generator, space: Space, values: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The values with every number of the space changed."""
        columns = {name: [row[name] for row in values] for name in space}
        for name in space.varying:
            if space[name].dynamic:
                anew = generator.random(len(values)) < self.resample
                drawn = space[name].from_unit(generator.random(len(values)))
                near = _perturbed(space[name], columns[name], generator.choice(self.factors, size=len(values)))
                columns[name] = [drawn[row] if again else near[row] for row, again in enumerate(anew)]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _perturbed(dimension: Dimension, values: Sequence[float], factors: np.ndarray) -> list[float]:
    """Each value multiplied by its factor, as far as the dimension reaches."""
    if isinstance(dimension, Choice):
        ordered = sorted(dimension.values)
        places = np.array([ordered.index(value) for value in values], np.int64) + np.sign(factors - 1).astype(np.int64)
        return [ordered[place] for place in np.clip(places, 0, len(ordered) - 1)]
    if isinstance(dimension, OneMinus):
        return [1.0 - x for x in _perturbed(dimension.inner, 1.0 - np.asarray(values), factors)]
    moved = np.asarray(values, np.float64) * factors
    if isinstance(dimension, Integer):
        return np.clip(np.floor(moved + 0.5), dimension.low, dimension.high).astype(np.int64).tolist()
    return np.clip(moved, dimension.low, dimension.high).tolist()
