"""Whether the best trial of a sweep lies at the edge of its space, where a better one may lie outside."""

from typing import Any, NamedTuple

import numpy as np

from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.spaces.dimension_checks import is_number
from gradlab.sweeps.spaces.dimensions import Choice, Dimension, Fixed, Integer, Log, OneMinus

EDGE = 0.03  # a value lies at the edge if it is within this share of its dimension


class Edge(NamedTuple):
    """A hyperparameter of which the best trial has a value at an end of its range."""

    name: str
    value: float  # of the best trial
    low: float  # the smallest value of the range
    high: float  # the largest


def edges(result: SweepResult, metric: str | None = None, mode: str | None = None) -> list[Edge]:
    """The numbers of the space in which the best trial lies at an end.

    Args:
      result: a sweep.
      metric: by default the main one.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.

    Raises:
      ValueError: an unknown metric or mode, or no trial that completed.

    >>> from gradlab.sweeps.spaces.space import Space
    >>> space = Space({'learning_rate': {'log': [0.01, 1.0]}})
    >>> result = SweepResult.from_lanes(
    ...     space, space.from_unit([[0.0], [0.5], [1.0]]), seeds=[0], steps=2, loss=np.ones((3, 1, 2)),
    ...     loss_step=[0, 1], metrics={'valid_loss': [[[0.3]], [[0.2]], [[0.1]]]}, eval_step=[2],
    ...     diverged_at=[[-1], [-1], [-1]], bucket=[0, 0, 0], compile_seconds=[1.0], run_seconds=[1.0] * 3)
    >>> edges(result)
    [Edge(name='learning_rate', value=1.0, low=0.01, high=1.0)]
    """
    uid = result.best(metric, mode)["uid"][0]
    best = next(trial for trial in result.trials if trial.uid == uid)
    return [
        Edge(name, best.values[name], *_ends(result.space[name]))
        for name in result.space.varying
        if at_edge(result.space[name], best.values[name])
    ]


def at_edge(dimension: Dimension, value: Any) -> bool:
    """Whether a value lies within 3 % of an end of its dimension, on the scale on which that is drawn."""
    place = place_in(dimension, value)
    return place is not None and not EDGE <= place <= 1 - EDGE


def place_in(dimension: Dimension, value: Any) -> float | None:
    """Where a number lies between the ends of its dimension, 0 to 1; None if it has no ends, or nothing between them.

    The place of a choice is its rank among the others.

    >>> from gradlab.sweeps.spaces.dimensions import choice, linear, log, one_minus
    >>> place_in(linear(1.0, 5.0), 2.0), round(place_in(one_minus(log(1e-3, 1e-1)), 0.99), 6)
    (0.25, 0.5)
    >>> place_in(choice([1e-3, 1e-2, 1e-1]), 1e-2), place_in(choice(['cosine', 'linear']), 'linear')
    (0.5, None)
    """
    if isinstance(dimension, OneMinus):
        return place_in(dimension.inner, 1 - value)
    if isinstance(dimension, Fixed) or not is_numeric(dimension):
        return None
    if isinstance(dimension, Choice):
        ordered = sorted(dimension.values)
        return ordered.index(value) / (len(ordered) - 1) if len(ordered) > 2 else None
    low, high = dimension.low, dimension.high
    if high == low or isinstance(dimension, Integer) and high - low == 1:
        return None
    if isinstance(dimension, Log) or isinstance(dimension, Integer) and dimension.log:
        low, high, value = np.log((low, high, value))
    return float((value - low) / (high - low))


def is_numeric(dimension: Dimension) -> bool:
    """Whether all values are numbers, those that set a shape included."""
    listed = isinstance(dimension, Choice) and all(is_number(value) for value in dimension.values)
    return dimension.dynamic or isinstance(dimension, Integer) or listed


def _ends(dimension: Dimension) -> tuple[float, float]:
    values = dimension.grid(2)
    return min(values), max(values)
