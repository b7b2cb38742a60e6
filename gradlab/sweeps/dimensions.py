"""The dimensions of a search space: each maps the unit interval onto its values.

::

    linear(low, high)       low + u (high - low)
    log(low, high)          low (high / low)^u
    integer(low, high)      low + floor(u (high - low + 1)), or log-uniform, rounded
    choice(values)          values[floor(u n)]
    fixed(value)            value
    one_minus(inner)        1 - inner(u): decay rates near 1, b2 = 1 - log(1e-4, 1e-1)

A dimension is dynamic if all its values are numbers: the trials of a sweep then differ in a leaf of the optimizer and
share one compiled program.  Strings, bools and None are structure, and so is an integer that sets a shape.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gradlab.sweeps.trial import canonical_json

DIGITS = 12  # significant digits kept of a power: platforms differ in the last bit of exp, and a trial's uid must not
LARGEST_INTEGER = 2**53  # beyond it float64 skips integers


@dataclasses.dataclass(frozen=True)
class Linear:
    """Uniform between two numbers, both included.

    Raises:
      TypeError: a bound is not a number.
      ValueError: a bound is not finite, or high < low.

    >>> linear(0.0, 1.0).grid(3), linear(0.0, 0.5).from_unit([0.5])
    ([0.0, 0.5, 1.0], [0.25])
    """

    low: float
    high: float
    dynamic: ClassVar[bool] = True

    def __post_init__(self):
        _check_bounds("linear", self.low, self.high)

    def from_unit(self, u: Any) -> list[float]:
        u = _unit(u)
        return _with_exact_ends(self, u, self.low + u * (self.high - self.low))

    def grid(self, n: int) -> list[float]:
        return self.from_unit(_fractions(n))


@dataclasses.dataclass(frozen=True)
class Log:
    """Uniform in the logarithm between two positive numbers, both included; 12 significant digits.

    Raises:
      TypeError: a bound is not a number.
      ValueError: low <= 0, a bound is not finite, or high < low.

    >>> log(1e-4, 1e-1).grid(4)
    [0.0001, 0.001, 0.01, 0.1]
    """

    low: float
    high: float
    dynamic: ClassVar[bool] = True

    def __post_init__(self):
        _check_bounds("log", self.low, self.high)
        _check_positive("log", self.low, "linear")

    def from_unit(self, u: Any) -> list[float]:
        u = _unit(u)
        powers = np.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return _with_exact_ends(self, u, np.array([float(f"{x:.{DIGITS}g}") for x in powers]))

    def grid(self, n: int) -> list[float]:
        return self.from_unit(_fractions(n))


@dataclasses.dataclass(frozen=True)
class Integer:
    """Whole numbers from low to high, both included: equally likely, or uniform in the logarithm.

    They are numbers that a lane can carry (a warm-up, a horizon) unless ``structural``: then each value is a
    program of its own (a width, a batch size).

    Raises:
      TypeError: a bound is not a whole number.
      ValueError: high < low, low < 1 with ``log``, or a bound beyond 2^53.

    >>> integer(1, 4).from_unit([0.0, 0.49, 0.99]), integer(16, 256, log=True).grid(5)
    ([1, 2, 4], [16, 32, 64, 128, 256])
    """

    low: int
    high: int
    log: bool = False
    structural: bool = False

    def __post_init__(self):
        _check_bounds("integer", self.low, self.high, kinds=(int,))
        if max(abs(self.low), abs(self.high)) > LARGEST_INTEGER:
            raise ValueError(f"integer({self.low}, {self.high}): float64 does not hold every whole number beyond 2^53")
        if self.log:
            _check_positive("integer", self.low, "log=False")

    @property
    def dynamic(self) -> bool:
        return not self.structural

    def from_unit(self, u: Any) -> list[int]:
        u = _unit(u)
        if self.log:  # each number owns the half-open interval of its rounding
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            values = np.floor(np.exp(low + u * (high - low)) + 0.5)
        else:
            values = np.floor(self.low + u * (self.high - self.low + 1))
        return np.clip(values, self.low, self.high).astype(np.int64).tolist()

    def grid(self, n: int) -> list[int]:
        """About n values from low to high; fewer if rounding makes two of them equal."""
        values = Log(self.low, self.high).grid(n) if self.log else Linear(self.low, self.high).grid(n)
        return np.unique(np.rint(values)).astype(np.int64).tolist()


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several numbers, strings, bools or None.

    Raises:
      TypeError: a value is something else.
      ValueError: no values, a value given twice, or a number that is not finite.

    >>> choice(['cosine', 'linear']).from_unit([0.1, 0.9]), choice([32, 64]).dynamic, choice([True, False]).dynamic
    (['cosine', 'linear'], True, False)
    """

    values: Sequence[Any]

    def __post_init__(self):
        values = self.values.tolist() if isinstance(self.values, np.ndarray) else self.values
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(f"choice takes a list of values, got {values!r}")
        object.__setattr__(self, "values", tuple(values))
        if not self.values:
            raise ValueError("choice([]) has nothing to choose from; list at least one value, or leave the name out")
        for value in self.values:
            _check_value("choice", value)
        texts = [canonical_json(value) for value in self.values]
        twice = [value for value, text in zip(self.values, texts, strict=True) if texts.count(text) > 1]
        if twice:
            raise ValueError(f"choice lists {twice[0]!r} more than once in {list(self.values)}; list each value once")

    @property
    def dynamic(self) -> bool:
        return all(_is_number(value) for value in self.values)

    def from_unit(self, u: Any) -> list[Any]:
        n = len(self.values)
        return [self.values[min(int(x * n), n - 1)] for x in _unit(u)]

    def grid(self, n: int | None = None) -> list[Any]:
        """All values, whatever n."""
        return list(self.values)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """One value for all trials; it takes no part in the sampling.

    Raises:
      TypeError: neither a number, a string, a bool nor None.
      ValueError: a number that is not finite.

    >>> fixed(1e-8).from_unit([0.2, 0.7])
    [1e-08, 1e-08]
    """

    value: Any

    def __post_init__(self):
        _check_value("fixed", self.value)

    @property
    def dynamic(self) -> bool:
        return _is_number(self.value)

    def from_unit(self, u: Any) -> list[Any]:
        return [self.value] * len(_unit(u))

    def grid(self, n: int | None = None) -> list[Any]:
        """The one value, whatever n."""
        return [self.value]


@dataclasses.dataclass(frozen=True)
class OneMinus:
    """1 - x with x from a linear or a log dimension; u = 0 gives the largest value.

    Raises:
      TypeError: the inner dimension is of another kind.

    >>> one_minus(log(1e-3, 1e-1)).grid(3)
    [0.999, 0.99, 0.9]
    """

    inner: Linear | Log
    dynamic: ClassVar[bool] = True

    def __post_init__(self):
        if not isinstance(self.inner, Linear | Log):
            raise TypeError(f"one_minus takes a linear or a log dimension, got {self.inner!r}")

    def from_unit(self, u: Any) -> list[float]:
        return [1.0 - x for x in self.inner.from_unit(u)]

    def grid(self, n: int) -> list[float]:
        return [1.0 - x for x in self.inner.grid(n)]


Dimension = Linear | Log | Integer | Choice | Fixed | OneMinus

linear, log, integer, choice, fixed, one_minus = Linear, Log, Integer, Choice, Fixed, OneMinus
KINDS = {"linear": linear, "log": log, "integer": integer, "choice": choice, "fixed": fixed, "one_minus": one_minus}


def _fractions(n: int) -> np.ndarray:
    """n points from 0 to 1, ends included; the middle for n = 1."""
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise ValueError(f"a grid needs a whole number of points, at least 1, got {n!r}")
    return np.array([0.5]) if n == 1 else np.linspace(0.0, 1.0, n)


def _unit(u: Any) -> np.ndarray:
    u = np.atleast_1d(np.asarray(u, np.float64))
    if not np.all((u >= 0) & (u <= 1)):
        raise ValueError(f"`u` must lie in [0, 1], got {u[~((u >= 0) & (u <= 1))][0]}")
    return u


def _with_exact_ends(bounds: Linear | Log, u: np.ndarray, values: np.ndarray) -> list[float]:
    values = np.clip(values, bounds.low, bounds.high)
    return np.select([u == 0, u == 1], [float(bounds.low), float(bounds.high)], values).tolist()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_value(kind: str, value: Any) -> None:
    if value is not None and not isinstance(value, str | bool | int | float):
        raise TypeError(f"{kind} takes numbers, strings, bools and None, got {type(value).__name__}: {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{kind} takes finite numbers, got {value}; None switches a hyperparameter off")


def _check_bounds(kind: str, low: Any, high: Any, kinds: tuple[type, ...] = (int, float)) -> None:
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


def _check_positive(kind: str, low: float, remedy: str) -> None:
    if low <= 0:
        raise ValueError(
            f"`low` of {kind} must be positive, got {low}: zero has no logarithm; raise it, or use {remedy}"
        )
