"""What tuning with k trials may be expected to find: the distribution of the best of k, over all choices of k of N.

::

    P(best of k is worse than the i-th best) = C(N - i, k) / C(N, k)

This is exact for k different trials of those that were run.  Dodge et al., arXiv 1909.03004, draw with replacement
instead, (1 - i / N)^k, which expects less of the best of k and never reaches the best of all.
"""

from typing import Any, NamedTuple

import numpy as np

from gradlab.core.check import in_range, one_of

ROUNDING = 1e-12  # of probabilities


class BestOfK(NamedTuple):
    """The best of k = 1, ..., N trials, over all subsets of so many."""

    k: np.ndarray  # (N,) int
    mean: np.ndarray  # (N,)
    median: np.ndarray  # (N,)
    low: np.ndarray  # (N,), the lower quantile
    high: np.ndarray  # (N,), the upper quantile


def expected_best(scores: Any, mode: str = "min", quantiles: tuple[float, float] = (0.25, 0.75)) -> BestOfK:
    """Mean, median and quantiles of the best score of k trials, for every k.

    Args:
      scores: (N,), finite.
      mode: ``'min'`` or ``'max'``, what is best.
      quantiles: the lower and the upper one, in [0, 1]; each is a score, the first that so large a share of the
        subsets does not exceed.

    Raises:
      ValueError: no scores, one that is not finite, an unknown mode, impossible quantiles.

    >>> best = expected_best([3.0, 1.0, 2.0])
    >>> best.mean.round(3).tolist(), best.high.tolist()
    ([2.0, 1.333, 1.0], [3.0, 2.0, 1.0])
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"`scores` must have shape (N,) with N at least 1, got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"`scores` must be finite, got {scores[~np.isfinite(scores)][0]}: give runs that diverged a score first"
        )
    one_of("mode", mode, ("min", "max"))
    in_range("quantiles", quantiles, 0, 1)
    if mode == "max":
        k, mean, median, low, high = expected_best(-scores, "min", (1 - quantiles[1], 1 - quantiles[0]))
        return BestOfK(k, -mean, -median, -high, -low)
    ordered, count = np.sort(scores), len(scores)
    remaining = count - np.arange(count + 1)  # trials that are worse than the i-th best, i = 0, ..., N
    worse = np.ones(count + 1)  # the probability that all k are among these
    rows = []
    for drawn in range(count):
        worse = worse * np.maximum(remaining - drawn, 0) / (count - drawn)
        places = np.searchsorted(1 - worse[1:], np.array([0.5, *quantiles]) - ROUNDING)
        rows.append((-np.diff(worse) @ ordered, *ordered[places]))
    return BestOfK(np.arange(1, count + 1), *np.transpose(rows))
