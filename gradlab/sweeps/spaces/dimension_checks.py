"""What the dimensions of a search space refuse: values and bounds that are no numbers, or impossible ones."""

import math
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Whether a lane can carry it: an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_value(kind: str, value: Any) -> None:
    """Raises unless it is a finite number, a string, a bool, None, or a tuple of these."""
    if isinstance(value, tuple):
        for item in value:
            check_value(kind, item)
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise TypeError(f"{kind} takes numbers, strings, bools, None and lists, got {type(value).__name__}: {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{kind} takes finite numbers, got {value}; None switches a hyperparameter off")


def check_bounds(kind: str, low: Any, high: Any, kinds: tuple[type, ...] = (int, float)) -> None:
    """Raises unless both are finite numbers of these types, in order, and not too far apart for float64."""
    for name, bound in (("low", low), ("high", high)):
        if not isinstance(bound, kinds) or isinstance(bound, bool):
            noun = "a whole number" if kinds == (int,) else "a number"
            raise TypeError(f"`{name}` of {kind} must be {noun}, got {type(bound).__name__}: {bound!r}")
        if not math.isfinite(bound):
            raise ValueError(f"`{name}` of {kind} must be finite, got {bound}")
    if high < low:
        raise ValueError(f"{kind}({low}, {high}): high is less than low; exchange them")
    if not math.isfinite(high - low):
        raise ValueError(f"{kind}({low}, {high}): the difference of the bounds overflows; choose closer ones")


def check_positive(kind: str, low: float, remedy: str) -> None:
    """Raises unless the lower bound has a logarithm."""
    if low <= 0:
        raise ValueError(
            f"`low` of {kind} must be positive, got {low}: zero has no logarithm; raise it, or use {remedy}"
        )


def check_inside(dimension: Any, values: Any, low: float, high: float, *, whole: bool = False) -> np.ndarray:
    """The values as float64, or an error that names the first that is no value of the dimension."""
    for value in values:
        if not is_number(value) and not isinstance(value, np.number):
            raise TypeError(f"{dimension} has numbers, got {type(value).__name__}: {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{value} lies outside of {dimension}")
        if whole and value != int(value):
            raise ValueError(f"{value} is no value of {dimension}: it has whole numbers")
    return np.asarray(values, np.float64)
