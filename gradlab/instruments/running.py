r"""Running means and variances of a tree, from one pass, in the numbers of three trees.

With decay d, after x has been observed (Welford 1962 for d = 1; West 1979 for any weights)::

    W = d W + 1                      the total weight; an observation k steps ago weighs d^k
    Q = d^2 Q + 1                    the total squared weight
    delta = x - mean
    mean = mean + delta / W
    S = d S + delta (x - mean)       S / W is the weighted mean of (x - mean)^2

For d < 1 this is the exponential moving average with its bias corrected, exactly, from the first observation on.  It
does not cancel as the difference between a mean square and a squared mean does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import at_least_float32
from gradlab.core.numerics import safe_quotient

Tree = Any


class Running(NamedTuple):
    """What has been observed so far."""

    weight: jax.Array  # () W; with decay 1 the number of observations
    squared_weight: jax.Array  # () Q
    mean: Tree  # zero before the first observation
    spread: Tree  # S


def running(like: Tree) -> Running:
    """Nothing observed yet.

    Args:
      like: a tree of floating-point arrays, or of their shapes and dtypes; kept in at least float32.

    >>> state = running({'loss': jnp.zeros(())})
    >>> for loss in (1.0, 2.0, 6.0):
    ...     state = observe(state, {'loss': loss})
    >>> float(state.mean['loss']), float(variance(state)['loss'])
    (3.0, 7.0)
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), _wide(leaf)), like)
    number = jnp.zeros([], trees.real_dtype(zeros))
    return Running(number, number, zeros, jax.tree.map(jnp.copy, zeros))


def _wide(leaf: Any) -> Any:
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def observe(state: Running, x: Tree, decay: Any = 1.0) -> Running:
    """The state after one more observation.

    Args:
      state: from `running`.
      x: a tree like the one that the state was made for.
      decay: what the weight of all earlier observations is multiplied by, in [0, 1]; 1 weighs all equally.

    Raises:
      ValueError: a decay outside of [0, 1], or a tree of another structure.
    """
    check.in_range("decay", decay, 0.0, 1.0)
    trees.require_same_structure("the observation", x, "the state", state.mean)
    weight = decay * state.weight + 1
    delta = jax.tree.map(lambda x, mean: at_least_float32(x) - mean, x, state.mean)
    mean = jax.tree.map(lambda mean, delta: mean + delta / weight, state.mean, delta)
    grown = jax.tree.map(lambda s, delta: decay * s + delta**2 * ((weight - 1) / weight), state.spread, delta)
    cast = lambda new, old: jax.tree.map(lambda n, o: n.astype(o.dtype), new, old)
    return cast(Running(weight, decay**2 * state.squared_weight + 1, mean, grown), state)


def merge(first: Running, second: Running) -> Running:
    """The state after the observations of both, as from two halves of the data or two devices (Chan et al. 1979).

    >>> ones, twos = running(jnp.zeros(())), running(jnp.zeros(()))
    >>> both = merge(observe(observe(ones, 1.0), 2.0), observe(twos, 6.0))
    >>> float(both.mean), float(variance(both))
    (3.0, 7.0)
    """
    weight = first.weight + second.weight
    share = safe_quotient(second.weight, weight)
    delta = jax.tree.map(jnp.subtract, second.mean, first.mean)
    mean = jax.tree.map(lambda mean, delta: mean + delta * share, first.mean, delta)
    between = jax.tree.map(lambda delta: delta**2 * first.weight * share, delta)
    spread = jax.tree.map(lambda a, b, c: a + b + c, first.spread, second.spread, between)
    return Running(weight, first.squared_weight + second.squared_weight, mean, spread)


def variance(state: Running) -> Tree:
    """The variance, unbiased for independent observations: ``S / (W - Q / W)``; NaN before the second one."""
    divisor = state.weight - state.squared_weight / state.weight
    return jax.tree.map(lambda spread: jnp.where(divisor > 0, spread / divisor, jnp.nan), state.spread)


def standard_error(state: Running) -> Tree:
    """The standard error of the mean for independent observations: ``sqrt(variance Q) / W``.

    Observations along a run are not independent; then it is too small.
    """
    shrink = state.squared_weight / state.weight**2
    return jax.tree.map(lambda var: jnp.sqrt(var * shrink), variance(state))
