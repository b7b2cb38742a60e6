r"""Learning rates read off the curve of a range test, or none where the loss did not fall by more than its noise.

The losses are smoothed from both sides, so that the curve does not lag behind the rates, and capped, so that an
explosion does not weigh on what came before it::

    level      the median of the first 5 losses
    cap        2 level - (the lowest loss), as far above the level as the lowest is below
    smoothed_i = sum_j d^|i - j| min(loss_j, cap) / sum_j d^|i - j|

With m the place of the minimum of the smoothed curve::

    fall       smoothed_0 - smoothed_m
    valley     the middle, on the logarithmic axis, of the descent from a tenth of the fall to m
    steepest   where the smoothed curve falls fastest by the logarithm of the rate, before m
    tenth      rate_m / 10

Noise is the standard deviation sigma of a loss about the curve, from the differences of neighbours before m: their
median is 0.954 sigma for Gaussian noise, whatever the trend and a few spikes.  There is no suggestion unless the fall
exceeds 4 standard deviations of the difference between two smoothed losses: with d = 0.9, of 100 losses that are noise
alone, that happens once in 500 runs if the noise is Gaussian, once in 40 with the tails of Student's t of 3 degrees.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.instruments.arguments import real_curve

FIRST = 5  # losses whose median is the level of the start
TENTH = 0.1  # the descent begins where so much of the fall is done
SIGNIFICANT = 4.0  # standard deviations
MEDIAN_DIFFERENCE = 0.9538725524  # of two independent Gaussian numbers of unit variance, in magnitude


class Suggestions(NamedTuple):
    """Learning rates; NaN where the curve suggests none."""

    valley: jax.Array  # ()
    steepest: jax.Array  # ()
    tenth: jax.Array  # () a tenth of the rate at the minimum
    fall: jax.Array  # () of the smoothed loss, from its first value to its minimum
    noise: jax.Array  # () standard deviation of the difference between two smoothed losses


def smooth(losses: Any, decay: Any = 0.9) -> jax.Array:
    """The two-sided exponential average of a capped curve; NaN where the curve is not finite, which weighs nothing.

    Args:
      losses: (n,)
      decay: d, in [0, 1); 0 smooths nothing.

    Raises:
      ValueError: not one axis, or a decay outside of [0, 1).

    >>> smooth(jnp.array([4.0, 1.0, jnp.nan]), 0.5).tolist()
    [3.0, 2.0, nan]
    """
    check.decay_rate(decay=decay)
    losses = real_curve("losses", losses)
    known = jnp.isfinite(losses)
    level = jnp.nanmedian(jnp.where(known, losses, jnp.nan)[:FIRST])
    cap = 2 * level - jnp.min(losses, initial=jnp.inf, where=known)
    terms = jnp.where(known, jnp.fmin(losses, cap), 0.0), known.astype(losses.dtype)

    def add(totals, terms):
        totals = tuple(decay * total + term for total, term in zip(totals, terms, strict=True))
        return totals, totals

    zero = (jnp.zeros([], losses.dtype),) * 2
    forward, backward = jax.lax.scan(add, zero, terms)[1], jax.lax.scan(add, zero, terms, reverse=True)[1]
    value, weight = (f + b - term for f, b, term in zip(forward, backward, terms, strict=True))
    return jnp.where(known, value / weight, jnp.nan)


def suggest_rates(learning_rates: Any, losses: Any, decay: Any = 0.9) -> Suggestions:
    """Three usual choices of a learning rate from the losses after an update with each rate.

    Args:
      learning_rates: (n,), ascending, above 0.
      losses: (n,); what is not finite counts as not measured.
      decay: of the smoothing, in [0, 1); 0 for losses without noise.

    Raises:
      ValueError: arrays of other or different shapes, fewer than three rates, rates that do not ascend from above 0.

    >>> rates = jnp.logspace(-4, 1, 26)
    >>> found = suggest_rates(rates, jnp.exp(-100 * rates) + rates**2, decay=0.0)
    >>> [round(float(rate), 4) for rate in (found.valley, found.steepest, found.tenth)]
    [0.01, 0.01, 0.0063]
    >>> float(suggest_rates(rates, jnp.ones(26)).valley)
    nan
    """
    rates, losses = real_curve("learning_rates", learning_rates), real_curve("losses", losses)
    if rates.shape != losses.shape or rates.size < 3:
        raise ValueError(f"give at least three rates, with one loss each; got {rates.size} and {losses.size}")
    check.positive(learning_rates=rates)
    if not isinstance(rates, jax.core.Tracer) and not bool(jnp.all(jnp.diff(rates) > 0)):
        raise ValueError("`learning_rates` must ascend: a range test raises the rate at every step")
    smoothed, index = smooth(losses, decay), jnp.arange(rates.size)
    lowest = jnp.argmin(jnp.where(jnp.isnan(smoothed), jnp.inf, smoothed))
    fall, noise = smoothed[0] - smoothed[lowest], _noise(losses, lowest, decay)
    rounding = 8 * jnp.finfo(losses.dtype).eps * jnp.max(jnp.abs(smoothed), initial=0, where=index <= lowest)
    significant = fall > jnp.maximum(SIGNIFICANT * noise, rounding)
    axis = jnp.log(rates)
    begun = jnp.argmax(smoothed <= smoothed[0] - TENTH * fall)
    slope = jnp.where((index > 0) & (index < lowest), jnp.gradient(smoothed) / jnp.gradient(axis), jnp.inf)
    steepest = jnp.where(lowest > 1, rates[jnp.nanargmin(slope)], jnp.nan)
    choices = jnp.exp((axis[begun] + axis[lowest]) / 2), steepest, rates[lowest] / 10
    return Suggestions(*(jnp.where(significant, rate, jnp.nan) for rate in choices), fall, noise)


def _noise(losses: jax.Array, lowest: jax.Array, decay: Any) -> jax.Array:
    """The standard deviation of the first smoothed loss minus a later one, if the losses were independent."""
    before = jnp.arange(losses.size - 1) < lowest
    sigma = jnp.nanmedian(jnp.where(before, jnp.abs(jnp.diff(losses)), jnp.nan)) / MEDIAN_DIFFERENCE
    first = (1 - decay) / (1 + decay)
    later = (1 + decay**2) * (1 - decay) / (1 + decay) ** 3
    return sigma * jnp.sqrt(first + later)
