r"""Histograms of magnitudes with bins that are evenly spaced in the logarithm, leaf by leaf.

Every entry is counted once: in a bin, below the bins, above them, as a zero or as non-finite::

    zeros + under + sum(counts) + over + nonfinite = entries

Bin i holds ``edges[i] <= |x| < edges[i + 1]``.  Gradients of one layer span many decades; bins of equal width show one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core import check
from gradlab.core.across import at_least_float32

Tree = Any


class Histogram(NamedTuple):
    """Counts of the magnitudes in every leaf, in the order of `gradlab.instruments.leaf_names`; int32."""

    counts: jax.Array  # (leaves, bins)
    under: jax.Array  # (leaves,) above zero but below the first edge
    over: jax.Array  # (leaves,) from the last edge on
    zeros: jax.Array  # (leaves,)
    nonfinite: jax.Array  # (leaves,) infinite or NaN


def bin_edges(low: float = 1e-12, high: float = 1e4, bins: int = 64) -> np.ndarray:
    """The ends of the bins, (bins + 1,): a geometric sequence from ``low`` to ``high``.

    Raises:
      ValueError: ``low`` is not above 0, ``high`` not above ``low``, or there is no bin.

    >>> bin_edges(0.01, 100.0, 4).tolist()
    [0.01, 0.1, 1.0, 10.0, 100.0]
    """
    check.in_range("low", low, 0.0, open_low=True)
    check.in_range("high", high, low, open_low=True)
    check.in_range("bins", bins, 1)
    return np.geomspace(low, high, int(bins) + 1)


def log_histogram(tree: Tree, *, low: float = 1e-12, high: float = 1e4, bins: int = 64) -> Histogram:
    """Counts the magnitudes in every leaf.

    Args:
      tree: real floating-point arrays; ``None`` leaves are left out.
      low: (static) the first edge, above 0.
      high: (static) the last edge.
      bins: (static) how many.

    Raises:
      ValueError: edges that are no such sequence, or a tree without leaves.

    >>> found = log_histogram(jnp.array([0.0, 1e-9, 0.5, -0.5, 3.0, jnp.nan]), low=0.1, high=10.0, bins=2)
    >>> found.counts.tolist(), [int(x[0]) for x in (found.under, found.over, found.zeros, found.nonfinite)]
    ([[2, 1]], [1, 0, 1, 1])
    """
    edges = bin_edges(low, high, bins)
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise ValueError("log_histogram needs at least one array, got a tree without leaves")
    return jax.tree.map(lambda *counts: jnp.stack(counts), *[_of_one_leaf(leaf, edges) for leaf in leaves])


def _of_one_leaf(leaf: Any, edges: np.ndarray) -> Histogram:
    size = jnp.abs(at_least_float32(leaf)).ravel()
    place = jnp.searchsorted(jnp.asarray(edges, size.dtype), size, side="right")  # 0 is under, len(edges) is over
    finite, zero = jnp.isfinite(size), size == 0
    slots = len(edges) + 1
    place = jnp.where(finite & ~zero, place, slots)  # out of range: not counted
    counts = jnp.zeros(slots, jnp.int32).at[place].add(1, mode="drop")
    number = lambda mask: jnp.sum(mask, dtype=jnp.int32)
    return Histogram(counts[1:-1], counts[0], counts[-1], number(zero), number(~finite))
