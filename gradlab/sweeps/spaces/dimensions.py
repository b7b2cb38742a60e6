"""The dimensions of a search space: each maps the unit interval onto its values.

::

    linear(low, high)       low + u (high - low)
    log(low, high)          low (high / low)^u
    integer(low, high)      low + floor(u (high - low + 1)), or log-uniform, rounded
    choice(values)          values[floor(u n)]
    fixed(value)            value
    one_minus(inner)        1 - inner(u): decay rates near 1, b2 = 1 - log(1e-4, 1e-1)

`from_unit` maps u to values, `to_unit` maps values back: a value that owns an interval of u, to the middle of it.

A dimension is dynamic if all its values are numbers: the trials of a sweep then differ in a leaf of the optimizer and
share one compiled program.  Strings, bools and None are structure, and so is an integer that sets a shape.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gradlab.sweeps.spaces.dimension_checks import check_bounds, check_inside, check_positive, check_value, is_number
from gradlab.sweeps.spaces.trial import canonical_json

DIGITS = 12  # significant digits kept of a power: platforms differ in the last bit of exp, and a trial's uid must not
LARGEST_INTEGER = 2**53  # beyond it float64 skips integers


@dataclasses.dataclass(frozen=True)
class Linear:
    """Uniform between two numbers, both included.

    Raises:
      TypeError: a bound is not a number.
      ValueError: a bound is not finite, or high < low.

    >>> linear(0.0, 1.0).grid(3), linear(0.0, 0.5).from_unit([0.5]), linear(0.0, 0.5).to_unit([0.25])
    ([0.0, 0.5, 1.0], [0.25], [0.5])
    """

    low: float
    high: float
    dynamic: ClassVar[bool] = True

    def __post_init__(self):
        check_bounds("linear", self.low, self.high)

    def from_unit(self, u: Any) -> list[float]:
        u = _unit(u)
        return _with_exact_ends(self, u, self.low + u * (self.high - self.low))

    def to_unit(self, values: Any) -> list[float]:
        return _fraction(check_inside(self, values, self.low, self.high), self.low, self.high)

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
        check_bounds("log", self.low, self.high)
        check_positive("log", self.low, "linear")

    def from_unit(self, u: Any) -> list[float]:
        u = _unit(u)
        powers = np.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return _with_exact_ends(self, u, np.array([float(f"{x:.{DIGITS}g}") for x in powers]))

    def to_unit(self, values: Any) -> list[float]:
        values = check_inside(self, values, self.low, self.high)
        return _fraction(np.log(values), math.log(self.low), math.log(self.high))

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
        check_bounds("integer", self.low, self.high, kinds=(int,))
        if max(abs(self.low), abs(self.high)) > LARGEST_INTEGER:
            raise ValueError(f"integer({self.low}, {self.high}): float64 does not hold every whole number beyond 2^53")
        if self.log:
            check_positive("integer", self.low, "log=False")

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

    def to_unit(self, values: Any) -> list[float]:
        values = check_inside(self, values, self.low, self.high, whole=True)
        if self.log:
            return _fraction(np.log(values), math.log(self.low - 0.5), math.log(self.high + 0.5))
        return _fraction(values, self.low - 0.5, self.high + 0.5)

    def grid(self, n: int) -> list[int]:
        """About n values from low to high; fewer if rounding makes two of them equal."""
        values = Log(self.low, self.high).grid(n) if self.log else Linear(self.low, self.high).grid(n)
        return np.unique(np.rint(values)).astype(np.int64).tolist()


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several numbers, strings, bools, None, or lists of these, as the widths of layers are.

    Numbers that a lane cannot carry, such as the width of a model, are ``structural``: each is a compiled program of
    its own.

    Raises:
      TypeError: a value is something else.
      ValueError: no values, a value given twice, or a number that is not finite.

    >>> choice(['cosine', 'linear']).from_unit([0.1, 0.9]), choice([32, 64]).dynamic, choice([True, False]).dynamic
    (['cosine', 'linear'], True, False)
    >>> choice([[64], [32, 32]]).values, choice([32, 64], structural=True).dynamic
    (((64,), (32, 32)), False)
    """

    values: Sequence[Any]
    structural: bool = False

    def __post_init__(self):
        values = self.values.tolist() if isinstance(self.values, np.ndarray) else self.values
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(f"choice takes a list of values, got {values!r}")
        values = tuple(tuple(value) if isinstance(value, list) else value for value in values)
        object.__setattr__(self, "values", values)
        if not self.values:
            raise ValueError("choice([]) has nothing to choose from; list at least one value, or leave the name out")
        for value in self.values:
            check_value("choice", value)
        texts = [canonical_json(value) for value in self.values]
        twice = [value for value, text in zip(self.values, texts, strict=True) if texts.count(text) > 1]
        if twice:
            raise ValueError(f"choice lists {twice[0]!r} more than once in {list(self.values)}; list each value once")

    @property
    def dynamic(self) -> bool:
        return not self.structural and all(is_number(value) for value in self.values)

    def from_unit(self, u: Any) -> list[Any]:
        n = len(self.values)
        return [self.values[min(int(x * n), n - 1)] for x in _unit(u)]

    def to_unit(self, values: Any) -> list[float]:
        return [(self._index(value) + 0.5) / len(self.values) for value in values]

    def _index(self, value: Any) -> int:
        texts = [canonical_json(own) for own in self.values]
        if canonical_json(value) not in texts:
            raise ValueError(f"{value!r} is not among the choices {list(self.values)}")
        return texts.index(canonical_json(value))

    def grid(self, n: int | None = None) -> list[Any]:
        """All values, whatever n."""
        return list(self.values)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """One value for all trials; it takes no part in the sampling.

    Raises:
      TypeError: neither a number, a string, a bool, None nor a list of these.
      ValueError: a number that is not finite.

    >>> fixed(1e-8).from_unit([0.2, 0.7])
    [1e-08, 1e-08]
    """

    value: Any

    def __post_init__(self):
        check_value("fixed", self.value)
        if isinstance(self.value, list):
            object.__setattr__(self, "value", tuple(self.value))

    @property
    def dynamic(self) -> bool:
        return is_number(self.value)

    def from_unit(self, u: Any) -> list[Any]:
        return [self.value] * len(_unit(u))

    def to_unit(self, values: Any) -> list[float]:
        for value in values:
            if canonical_json(value) != canonical_json(self.value):
                raise ValueError(f"{value!r} is not the fixed value {self.value!r}")
        return [0.5] * len(values)

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

    def to_unit(self, values: Any) -> list[float]:
        low, high = self.inner.low, self.inner.high
        values = check_inside(self, values, 1.0 - high, 1.0 - low)
        return self.inner.to_unit(np.clip(1.0 - values, low, high))  # 1 - (1 - low) can lie a rounding below low

    def grid(self, n: int) -> list[float]:
        return [1.0 - x for x in self.inner.grid(n)]


Dimension = Linear | Log | Integer | Choice | Fixed | OneMinus

linear, log, integer, choice, fixed, one_minus = Linear, Log, Integer, Choice, Fixed, OneMinus
KINDS = {"linear": linear, "log": log, "integer": integer, "choice": choice, "fixed": fixed, "one_minus": one_minus}


def is_single(dimension: Dimension) -> bool:
    """Whether there is one value only.

    >>> is_single(fixed(0.1)), is_single(linear(2, 2)), is_single(choice(['a', 'b']))
    (True, True, False)
    """
    first, last = dimension.from_unit([0.0, 1.0])
    return canonical_json(first) == canonical_json(last)


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


def _fraction(values: np.ndarray, low: float, high: float) -> list[float]:
    """How far from low to high the values lie; half way if there is no way."""
    return np.clip((values - low) / (high - low), 0.0, 1.0).tolist() if high > low else [0.5] * len(values)
