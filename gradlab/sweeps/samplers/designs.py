"""Samplers: which trials of a space to run, decided before any of them has.

A design that does not look at results is drawn at once, and its trials run as lanes together.  Sobol points fill the
space most evenly at powers of two, Halton points at any number (Bousquet et al., arXiv 1706.03200).

Trials that come out equal, as they do in spaces with few values, are kept once, with a warning.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gradlab.core.check import one_of
from gradlab.sweeps.spaces.dimensions import Choice, Fixed
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

LARGEST_GRID = 10_000  # trials; in a few dimensions nobody means more


def grid(space: Space, counts: int | Mapping[str, int]) -> list[Trial]:
    """Every combination of values; the last name varies fastest.

    Args:
      space: its choices give all their values, its ranges evenly spaced ones, ends included.
      counts: the number of values of every range, or of each by name.

    Raises:
      ValueError: a range without a count, a count for something that is no range, a count below 1, more than
        10,000 trials in all.

    >>> trials = grid(Space({'learning_rate': {'log': [1e-3, 1e-1]}, 'nesterov': [True, False]}), 3)
    >>> [tuple(trial.values.values()) for trial in trials[:3]]
    [(0.001, True), (0.001, False), (0.01, True)]
    """
    ranges = [name for name, dimension in space.items() if not isinstance(dimension, Choice | Fixed)]
    if not isinstance(counts, Mapping):
        counts = dict.fromkeys(ranges, counts)
    for name in counts:
        if name in space and name not in ranges:
            raise ValueError(f"`counts` names {name!r}, which lists its values itself; leave it out of the counts")
        one_of("name in `counts`", name, ranges)
    missing = [name for name in ranges if name not in counts]
    if missing:
        raise ValueError(f"`counts` must say how many values {missing[0]!r} gets; it has {dict(counts)}")
    columns = [dimension.grid(counts.get(name, 1)) for name, dimension in space.items()]
    _check_size([len(column) for column in columns], len(ranges))
    return [Trial.of(dict(zip(space, values, strict=True))) for values in itertools.product(*columns)]


def _check_size(sizes: Iterable[int], ranges: int) -> None:
    """Raises if a grid of so many values in each dimension has too many trials."""
    sizes = [size for size in sizes if size > 1]
    total = math.prod(sizes)
    if total > LARGEST_GRID:
        fewer = "fewer values of each range" if ranges else "shorter lists"
        raise ValueError(
            f"`trials` is the number of values of every range of a grid: {' x '.join(map(str, sizes))} values are "
            f"{total:,} trials, more than {LARGEST_GRID:,}; take {fewer}, or the sampler 'sobol', for which it is the "
            "number of all trials"
        )


def random(space: Space, n: int, seed: int = 0) -> list[Trial]:
    """n independent trials.

    >>> len(random(Space({'learning_rate': {'log': [1e-3, 1e-1]}}), 8))
    8
    """
    _check(space, n)
    return _distinct(space.from_unit(np.random.default_rng(seed).random((n, len(space.varying)))))


def sobol(space: Space, n: int, seed: int = 0) -> list[Trial]:
    """The first n points of a scrambled Sobol sequence.

    Warns:
      UserWarning: n is no power of two; the points are then less evenly spread than they could be.

    >>> rates = [trial.values['b1'] for trial in sobol(Space({'b1': {'linear': [0, 1]}}), 4)]
    >>> sorted(int(4 * rate) for rate in rates)
    [0, 1, 2, 3]
    """
    _check(space, n)
    exponent = int(n - 1).bit_length()
    if n != 2**exponent:
        below = 2 ** (exponent - 1)
        warnings.warn(
            f"sobol: {n} trials leave the space unevenly covered; take {below} or {2 * below}, or the halton sampler",
            stacklevel=2,
        )
    engine = _qmc().Sobol(len(space.varying), scramble=True, rng=np.random.default_rng(seed))
    return _distinct(space.from_unit(engine.random_base2(exponent)[:n]))


def halton(space: Space, n: int, seed: int = 0) -> list[Trial]:
    """The first n points of a scrambled Halton sequence, for any n.

    >>> rates = [trial.values['b1'] for trial in halton(Space({'b1': {'linear': [0, 1]}}), 4)]
    >>> sorted(int(4 * rate) for rate in rates)
    [0, 1, 2, 3]
    """
    _check(space, n)
    engine = _qmc().Halton(len(space.varying), scramble=True, rng=np.random.default_rng(seed))
    return _distinct(space.from_unit(engine.random(n)))


def latin_hypercube(space: Space, n: int, seed: int = 0) -> list[Trial]:
    """n points of which each dimension has one in each n-th of its range.

    >>> rates = [trial.values['b1'] for trial in latin_hypercube(Space({'b1': {'linear': [0, 1]}}), 5)]
    >>> sorted(int(5 * rate) for rate in rates)
    [0, 1, 2, 3, 4]
    """
    _check(space, n)
    engine = _qmc().LatinHypercube(len(space.varying), rng=np.random.default_rng(seed))
    return _distinct(space.from_unit(engine.random(n)))


SAMPLERS = {"grid": grid, "halton": halton, "latin_hypercube": latin_hypercube, "random": random, "sobol": sobol}


def draw(space: Space, trials: int | Mapping[str, int], *, sampler: str = "sobol", seed: int = 0) -> list[Trial]:
    """The trials of the sampler of this name.

    Args:
      space: where to draw from.
      trials: the number of trials; for ``'grid'`` the number of values of every range, or of each by name.
      sampler: a name in SAMPLERS.
      seed: of the random numbers; a grid has none.

    Raises:
      ValueError: an unknown sampler, or what the sampler says of its arguments.

    >>> len(draw(Space({'b1': {'linear': [0, 1]}, 'b2': {'linear': [0, 1]}}), 3, sampler='grid'))
    9
    """
    one_of("sampler", sampler, SAMPLERS)
    return grid(space, trials) if sampler == "grid" else SAMPLERS[sampler](space, trials, seed)


def _qmc() -> Any:
    from scipy.stats import qmc  # takes a third of a second, which a grid need not wait for

    return qmc


def _check(space: Space, n: int) -> None:
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise ValueError(f"the number of trials must be a whole number, at least 1, got {n!r}")
    if not space.varying:
        raise ValueError(f"nothing to sample: {list(space)} are all fixed; use the grid, which gives their one trial")


def _distinct(trials: Iterable[Trial]) -> list[Trial]:
    trials = list(trials)
    distinct = list({trial.uid: trial for trial in trials}.values())
    if len(distinct) < len(trials):
        message = f"{len(trials)} draws gave {len(distinct)} different trials; equal ones are run once"
        warnings.warn(message, stacklevel=3)
    return distinct
