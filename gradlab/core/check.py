"""Checks of what users pass: each message says what, got, because, remedy.  Traced values are not read."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core.schedule import Schedule


def _concrete(value: Any) -> list[np.ndarray]:
    leaves = jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, Schedule) or callable(x))
    skip = (jax.core.Tracer, Schedule)
    return [np.asarray(leaf) for leaf in leaves if not isinstance(leaf, skip) and not callable(leaf)]


def in_range(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low=False, open_high=False
) -> None:
    """Raises unless every number in ``value`` lies between ``low`` and ``high``; NaN never does.

    Trees and arrays are checked number by number; tracers, schedules and ``None`` pass.

    >>> in_range('b1', 1.5, 0, 1, open_high=True)
    Traceback (most recent call last):
    ValueError: `b1` must be in [0, 1), got 1.5
    """
    for number in _concrete(value):
        if not (jnp.issubdtype(number.dtype, jnp.floating) or jnp.issubdtype(number.dtype, jnp.integer)):
            raise TypeError(f"`{name}` must be a number, got {type(value).__name__}: {value!r}")
        above = number > low if open_low else number >= low
        below = number < high if open_high else number <= high
        if not np.all(above & below):
            raise ValueError(
                f"`{name}` must be {_interval(low, high, open_low, open_high)}, got {_first(number, above & below)}"
            )


def _interval(low: float, high: float, open_low: bool, open_high: bool) -> str:
    if high == math.inf:
        return f"> {low:g}" if open_low else f">= {low:g}"
    return f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"


def _first(number: np.ndarray, good: np.ndarray) -> str:
    if number.ndim == 0:
        return f"{number.item():g}"
    index = int(np.flatnonzero(~good.ravel())[0])
    return f"{number.ravel()[index].item():g} at position {index}"


def whole(name: str, value: Any, low: int) -> None:
    """Raises unless ``value`` is a whole number of at least ``low``.

    >>> whole('block', 16.0, 1)
    Traceback (most recent call last):
    ValueError: `block` must be a whole number >= 1, got 16.0
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < low:
        raise ValueError(f"`{name}` must be a whole number >= {low}, got {value!r}")


def non_negative(**values: Any) -> None:
    """Raises ValueError naming the first of the keyword values that is negative or NaN."""
    for name, value in values.items():
        in_range(name, value, 0.0)


def positive(**values: Any) -> None:
    """Raises ValueError naming the first of the keyword values that is not above zero."""
    for name, value in values.items():
        in_range(name, value, 0.0, open_low=True)


def decay_rate(**values: Any) -> None:
    """Raises ValueError naming the first of the keyword values outside of [0, 1)."""
    for name, value in values.items():
        in_range(name, value, 0.0, 1.0, open_high=True)


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises unless ``value`` is one of ``choices``.

    >>> one_of('form', 'emma', ['ema', 'inside'])
    Traceback (most recent call last):
    ValueError: unknown form 'emma'; did you mean 'ema'? Known: 'ema', 'inside'
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}{suggestion(value, choices)}")


def suggestion(value: Any, choices: Iterable[Any]) -> str:
    """``"; did you mean 'adam'? Known: ..."``, to end a message about an unknown name."""
    choices = list(choices)
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{guess} Known: {', '.join(repr(choice) for choice in choices)}"


def required_params(stage: str, params: Any) -> Any:
    """``params``, or an error that says which stage needed them.

    >>> required_params('add_decayed_weights', None)
    Traceback (most recent call last):
    ValueError: add_decayed_weights needs the parameters: call tx.update(grads, state, params)
    """
    if params is None:
        raise ValueError(f"{stage} needs the parameters: call tx.update(grads, state, params)")
    return params


def required_value(stage: str, value: Any) -> Any:
    """``value``, or an error that says which stage needed the loss.

    >>> required_value('momo', None)
    Traceback (most recent call last):
    TypeError: momo reads the loss: call tx.update(grads, state, params, value=loss) with the loss at params
    """
    if value is None:
        raise TypeError(
            f"{stage} reads the loss: call tx.update(grads, state, params, value=loss) with the loss at params"
        )
    return value


def one_rate(stage: str, learning_rate: Any) -> None:
    """Raises unless ``learning_rate`` is one number or schedule, not below zero, for all parameters.

    >>> one_rate('momo', {'head': 0.1, 'body': 1.0})
    Traceback (most recent call last):
    TypeError: `learning_rate` of momo must be one number or schedule, got dict: its step size is that of all parameters
    """
    if not (isinstance(learning_rate, Schedule) or jax.tree_util.all_leaves([learning_rate])):
        raise TypeError(
            f"`learning_rate` of {stage} must be one number or schedule, got {type(learning_rate).__name__}: "
            "its step size is that of all parameters"
        )
    non_negative(learning_rate=learning_rate)
