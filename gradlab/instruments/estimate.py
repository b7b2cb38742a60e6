"""A number with its error."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Estimate(NamedTuple):
    """A number, or a tree of numbers, with its standard error."""

    value: Any
    error: Any


def mean_of(samples: jax.Array) -> Estimate:
    """The mean over the first axis, of independent samples; the error of a single one is NaN: nothing is known of it.

    >>> mean, error = mean_of(jnp.array([1.0, 3.0, 5.0]))
    >>> round(float(mean), 3), round(float(error), 3)
    (3.0, 1.155)
    """
    count = len(samples)
    value = samples.mean(0)
    spread = jnp.full_like(value, jnp.nan) if count == 1 else samples.std(0, ddof=1)
    return Estimate(value, spread / count**0.5)
