r"""How fast a loss converges: the two laws that theory knows, fitted to a curve, each with its interval.

With the gap ``e_k = loss_k - minimum`` after k steps::

    linear    log e_k ~ log C + k log(factor)        e_k ~ C factor^k
    power     log e_k ~ log C - exponent log k       e_k ~ C k^-exponent

Known: on a quadratic of condition number K, at the best constant rates, the distance to the minimum shrinks by
``(K - 1) / (K + 1)`` a step of descent and ``(sqrt(K) - 1) / (sqrt(K) + 1)`` of the heavy ball, the gap by the squares
of these; where curvatures reach down to zero the exponent is 1 for descent and 2 for Nesterov's method (Nesterov 2004).

Both are straight lines, fitted by least squares.  The residuals of a deterministic curve are no independent noise but
its bends, so the interval comes from leaving out each of 10 consecutive blocks of points in turn (the block jackknife,
Kuensch 1989), with the 97.5 % point of Student's distribution of 9 degrees of freedom.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.instruments.arguments import real_curve

BLOCKS = 10
STUDENT = 2.2621571628  # the 97.5 % point with 9 degrees of freedom
ROUNDINGS = 32.0  # a gap of fewer units of rounding of the minimum is noise


class Fit(NamedTuple):
    """One law: its number with a 95 % interval, the constant before it, and how well it fits."""

    value: jax.Array  # () the factor, or the exponent
    low: jax.Array  # ()
    high: jax.Array  # ()
    constant: jax.Array  # () C
    residual: jax.Array  # () root mean square of the residuals of log e_k


class RateFit(NamedTuple):
    """Both laws; that with the smaller residual describes the curve."""

    linear: Fit
    power: Fit
    is_linear: jax.Array  # () bool, whether the linear law has the smaller residual
    used: jax.Array  # () int32, points that were fitted


def fit_rate(losses: Any, minimum: Any = 0.0, *, tail: Any = 0.5, floor: Any = 0.0) -> RateFit:
    """Fits both laws to the last part of a curve.

    Points are left out where the gap is not finite, not above the floor, or not above rounding of the minimum.

    Args:
      losses: (n,) the loss after 0, 1, 2, ... steps.
      minimum: the lowest value of the loss; a wrong one bends the curve and shows in the residuals.
      tail: the share of the points that is fitted, the last ones, in (0, 1]: rates are asymptotic.
      floor: gaps at or below it are noise, at least 0.

    Returns:
      The fits; NaN if fewer than 20 points are left.

    Raises:
      ValueError: not one axis, a tail outside of (0, 1], a negative floor.

    >>> geometric = fit_rate(3.0 * 0.9 ** jnp.arange(100.0))
    >>> bool(geometric.is_linear), round(float(geometric.linear.value), 4)
    (True, 0.9)
    >>> harmonic = fit_rate(3.0 / (1 + jnp.arange(1000.0)))
    >>> bool(harmonic.is_linear), round(float(harmonic.power.value), 2)
    (False, 1.0)
    """
    losses = real_curve("losses", losses)
    check.in_range("tail", tail, 0.0, 1.0, open_low=True)
    check.non_negative(floor=floor)
    gap, number = losses - minimum, jnp.finfo(losses.dtype)
    least = jnp.maximum(jnp.maximum(floor, number.tiny), ROUNDINGS * number.eps * jnp.abs(minimum))
    k = jnp.arange(losses.size, dtype=losses.dtype)
    usable = jnp.isfinite(gap) & (gap > least) & (k > 0)
    rank = jnp.cumsum(usable) - 1
    skipped = jnp.floor((1 - tail) * jnp.sum(usable))
    fitted = usable & (rank >= skipped)
    used = jnp.sum(fitted, dtype=jnp.int32)
    block = jnp.floor((rank - skipped) * BLOCKS / used)
    y = jnp.log(jnp.where(fitted, gap, 1.0))
    enough = used >= 2 * BLOCKS
    slope, error, constant, linear_residual = _line(k, y, fitted, block, enough)
    linear = Fit(*(jnp.exp(slope + side * STUDENT * error) for side in (0, -1, 1)), constant, linear_residual)
    slope, error, constant, power_residual = _line(jnp.log(jnp.maximum(k, 1)), y, fitted, block, enough)
    power = Fit(*(-slope + side * STUDENT * error for side in (0, -1, 1)), constant, power_residual)
    return RateFit(linear, power, linear_residual < power_residual, used)


def _line(x: jax.Array, y: jax.Array, fitted: jax.Array, block: jax.Array, enough: jax.Array) -> tuple:
    """Slope, its error, the exponential of the intercept and the residual of a line; NaN without enough points."""

    def least_squares(kept):
        mean = lambda values: jnp.sum(values, where=kept) / jnp.sum(kept)
        middle, height = mean(x), mean(y)
        slope = mean((x - middle) * (y - height)) / mean((x - middle) ** 2)
        return slope, height - slope * middle

    slope, intercept = least_squares(fitted)
    without = jax.vmap(lambda index: least_squares(fitted & (block != index))[0])(jnp.arange(BLOCKS))
    error = jnp.sqrt((BLOCKS - 1) * jnp.var(without))
    residual = jnp.sqrt(jnp.sum((y - slope * x - intercept) ** 2, where=fitted) / jnp.sum(fitted))
    return tuple(jnp.where(enough, number, jnp.nan) for number in (slope, error, jnp.exp(intercept), residual))
