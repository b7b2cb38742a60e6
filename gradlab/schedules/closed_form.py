"""What the closed forms share: how their numbers are bound, and functions of the progress ``u`` from 0 to 1."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.rule import Static, static
from gradlab.core.schedule import Schedule, make_schedule


def closed_form(rule: Callable, **values: Any) -> Schedule:
    """`make_schedule` for a rule whose values are all numbers, lists of numbers or `static`.

    Raises:
      TypeError: a value is missing, a string, a flag or itself a schedule.
      ValueError: a value is NaN.

    >>> from gradlab.schedules import cosine_decay_schedule, linear_schedule
    >>> cosine_decay_schedule(linear_schedule(0.0, 1.0, 10), 100)
    Traceback (most recent call last):
    TypeError: `init_value` must be a number, got a schedule; combine schedules with *, +, .then(...) or join_schedules
    """
    for name, value in values.items():
        if isinstance(value, Static):
            continue
        if value is None:
            raise TypeError(f"`{name}` must be a number, got None")
        if any(map(callable, jax.tree.leaves(value, is_leaf=callable))):
            raise TypeError(
                f"`{name}` must be a number, got a schedule; combine schedules with *, +, .then(...) or join_schedules"
            )
        check.in_range(name, value)
    return make_schedule(rule, **values)


def optional(value: Any) -> Any:
    """A value that may be ``None``, which is structure."""
    return static(None) if value is None else value


def progress(step: jax.Array, length: Any) -> jax.Array:
    """``step / length`` kept in [0, 1], exactly 1 from step ``length`` on, and differentiable for a length of zero."""
    # XLA may turn the division by a constant into a product that stays below 1 at the last step: hence the `where`
    fraction = step / jnp.where(length > 0, length, 1.0)
    return jnp.where(step < length, jnp.clip(fraction, 0.0, 1.0), 1.0)


def between(start: Any, end: Any, remaining: Any) -> jax.Array:
    """From ``start`` at ``remaining`` = 1 to exactly ``end`` at ``remaining`` = 0."""
    return end + (start - end) * remaining


def line(u: jax.Array) -> jax.Array:
    """From 1 at ``u`` = 0 to 0 at ``u`` = 1, straight."""
    return 1.0 - u


def half_cosine(u: jax.Array) -> jax.Array:
    """From 1 at ``u`` = 0 to 0 at ``u`` = 1, flat at both ends."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * u))


def one_minus_sqrt(u: jax.Array) -> jax.Array:
    """From 1 at ``u`` = 0 to 0 at ``u`` = 1, steep at first."""
    return 1.0 - safe_power(u, 0.5)


def one_minus_square(u: jax.Array) -> jax.Array:
    """From 1 at ``u`` = 0 to 0 at ``u`` = 1, steep at last."""
    return 1.0 - u * u


def mirrored_cosine(u: jax.Array) -> jax.Array:
    """From 1 at ``u`` = 0 to 0 at ``u`` = 1: the half cosine reflected in the line, steep at both ends."""
    return 2.0 * line(u) - half_cosine(u)


def safe_power(base: jax.Array, exponent: Any) -> jax.Array:
    """``base**exponent`` for base >= 0, exponent > 0, with a finite gradient at base 0, where a root has none."""
    safe = jnp.where(base > 0, base, 1.0)
    return jnp.where(base > 0, safe**exponent, 0.0)
