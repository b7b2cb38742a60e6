"""Refinement by hypergradients: the best trials of a coarse sweep descend on the cost as a function of their numbers.

In the unit cube of the numbers that move, for each of the chains that start at a best trial::

    x, c, g   the best point so far, its cost, its gradient without the parts that point out of the cube
    y = clip(x - s g / |g|, 0, 1)                                                the next trial of the chain
    c(y) < c:  x, c, g = y, c(y), g(y);  s = 1.5 s          else:  s = s / 2     the step s, a length in the cube

The length of a hypergradient says little (it may be enormous where runs are nearly chaotic), its direction much: hence
normalised steps.  Derivatives of whole runs are those of arXiv 1703.01785; see `gradlab.sweeps.engine.hypergradients`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gradlab.core.check import one_of
from gradlab.sweeps.schedulers.rules import number, whole
from gradlab.sweeps.spaces.dimensions import Choice, Fixed
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

METHODS = ("forward", "reverse")
GROW, SHRINK = 1.5, 0.5  # what a step is multiplied by after a success, and after a failure


class Chains(NamedTuple):
    """Where the chains of a refinement stand: the best point of each, and the length of its next step."""

    points: np.ndarray  # (k, d) in the unit cube
    gradients: np.ndarray  # (k, d) of the cost there, by the unit coordinates
    costs: np.ndarray  # (k,)
    steps: np.ndarray  # (k,)


@dataclasses.dataclass(frozen=True)
class Hypergrad:
    """Goes on from the best trials of a sweep: each takes normalised steps against its hypergradient.

    Args:
      best: trials of the coarse sweep that are refined, at least 1.
      rounds: new trials of each.
      step: length of the first step in the unit cube, in (0, 1].
      method: ``'forward'`` or ``'reverse'``; see `gradlab.sweeps.engine.hypergradients`.
      horizon: steps of a run that are differentiated, the last ones; all if None.

    Raises:
      TypeError, ValueError: an option is no number, out of range or unknown.

    >>> scheduler, cost = Hypergrad(step=0.2), lambda points: ((points - 0.3) ** 2).sum(1)
    >>> points, chains = np.array([[0.9, 0.3]]), None
    >>> for _ in range(10):
    ...     points, chains = scheduler.propose(points, 2 * (points - 0.3), cost(points), chains)
    >>> chains.points.round(1).tolist()
    [[0.3, 0.3]]
    """

    best: int = 4
    rounds: int = 5
    step: float = 0.1
    method: str = "forward"
    horizon: int | None = None
    name: ClassVar[str] = "hypergrad"

    def __post_init__(self):
        whole("best", self.best, 1)
        whole("rounds", self.rounds, 1)
        number("step", self.step, 0, 1, open_low=True)
        one_of("method", self.method, METHODS)
        if self.horizon is not None:
            whole("horizon", self.horizon, 1)

    def propose(
        self, points: Any, gradients: Any, costs: Any, chains: Chains | None = None
    ) -> tuple[np.ndarray, Chains]:
        """The next point of each chain, and where the chains stand.

        A chain that has no direction stays at its best point: its gradient there is zero, not finite, or points out of
        the cube.  The gradient of a point whose cost is not below the chain's best is not read.

        Args:
          points: (k, d) in the unit cube, that ran last: those that `propose` returned, or the first.
          gradients: (k, d) of the cost by the unit coordinates.
          costs: (k,), inf or NaN where a run diverged.
          chains: what the last call returned; None in the first.

        Raises:
          ValueError: shapes that do not fit, or points outside of the cube.
        """
        points, gradients, costs = (np.asarray(array, np.float64) for array in (points, gradients, costs))
        _check(points, gradients, costs, chains)
        if chains is None:
            chains = Chains(points, gradients, costs, np.full(len(points), float(self.step)))
        else:
            chains = _advanced(chains, points, gradients, costs)
        moves = chains.steps[:, None] * _direction(chains.points, chains.gradients)
        return np.clip(chains.points - moves, 0.0, 1.0), chains


def _advanced(chains: Chains, points: np.ndarray, gradients: np.ndarray, costs: np.ndarray) -> Chains:
    better = (costs < chains.costs) | (np.isfinite(costs) & ~np.isfinite(chains.costs))
    return Chains(
        points=np.where(better[:, None], points, chains.points),
        gradients=np.where(better[:, None], gradients, chains.gradients),
        costs=np.where(better, costs, chains.costs),
        steps=chains.steps * np.where(better, GROW, SHRINK),
    )


def _direction(points: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The gradients as unit vectors without what leads out of the cube; zero where there is no direction."""
    outward = ((points <= 0) & (gradients > 0)) | ((points >= 1) & (gradients < 0))
    finite = np.isfinite(gradients).all(1, keepdims=True)
    inward = np.where(outward | ~finite, 0.0, gradients)
    largest = np.abs(inward).max(1, keepdims=True, initial=0.0)  # the squares of a huge gradient overflow
    scaled = inward / np.where(largest > 0, largest, 1.0)
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1.0)


def _check(points: np.ndarray, gradients: np.ndarray, costs: np.ndarray, chains: Chains | None) -> None:
    if points.ndim != 2 or gradients.shape != points.shape or costs.shape != points.shape[:1]:
        raise ValueError(
            f"`points` and `gradients` must have shape (k, d) and `costs` (k,), got {points.shape}, {gradients.shape} "
            f"and {costs.shape}"
        )
    if chains is not None and chains.points.shape != points.shape:
        raise ValueError(f"the chains have points of shape {chains.points.shape}, got {points.shape}")
    if not np.all((points >= 0) & (points <= 1)):
        raise ValueError(f"`points` must lie in the unit cube, got {points.min():g} to {points.max():g}")


def moving(space: Space) -> tuple[str, ...]:
    """The names of the space that lie in a range and that a lane can carry: what a hypergradient is taken by.

    >>> moving(Space({'learning_rate': {'log': [1e-3, 1e-1]}, 'nesterov': [True, False], 'b1': [0.8, 0.9]}))
    ('learning_rate',)
    """
    ranges = [name for name in space.varying if not isinstance(space[name], Choice | Fixed)]
    return tuple(name for name in ranges if space[name].dynamic)


def points_of(space: Space, trials: Sequence[Trial]) -> np.ndarray:
    """The places of trials in the unit cube of the moving names: (trials, d).

    >>> space = Space({'learning_rate': {'log': [1e-3, 1e-1]}, 'nesterov': [True, False]})
    >>> points_of(space, [Trial.of({'learning_rate': 0.01, 'nesterov': True})]).round(6).tolist()
    [[0.5]]
    """
    columns = [space[name].to_unit([trial.values[name] for trial in trials]) for name in moving(space)]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def trials_at(space: Space, parents: Sequence[Trial], points: Any) -> list[Trial]:
    """The parents moved to points of the unit cube; what does not move is theirs.

    Two of them, or one and its parent, are equal where chains meet or stay.

    Args:
      space: of the trials.
      parents: one for each point.
      points: (parents, d) in [0, 1], of the moving names.

    >>> space = Space({'learning_rate': {'log': [1e-3, 1e-1]}, 'nesterov': [True, False]})
    >>> parent = Trial.of({'learning_rate': 0.01, 'nesterov': True})
    >>> trials_at(space, [parent], [[0.25]])[0].values
    {'learning_rate': 0.00316227766017, 'nesterov': True}
    """
    points = np.asarray(points, np.float64)
    names = moving(space)
    if points.shape != (len(parents), len(names)):
        raise ValueError(f"`points` must have shape ({len(parents)}, {len(names)}), got {points.shape}")
    columns = [space[name].from_unit(points[:, index]) for index, name in enumerate(names)]
    moved = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return [Trial.of({**parent.values, **own}) for parent, own in zip(parents, moved, strict=True)]
