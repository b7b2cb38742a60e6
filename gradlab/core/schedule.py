"""A schedule is a value: a pure function of the step count whose numbers are leaves."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gradlab.core.rule import Rule, Static


class Schedule(NamedTuple):
    """A value that depends on the step: ``schedule(count)`` for ``count`` = 0, 1, 2, ...

    Schedules scale, add, join and shift: ``0.1 * schedule``, ``warmup + other``, ``first.then(second, at=100)``,
    ``schedule.shift(500)`` (what a run resumed at step 500 uses).  Every number in one is a leaf, so schedules
    vmap (the horizon included) and take gradients.
    """

    value_at: Partial

    def __call__(self, count: Any) -> jax.Array:
        return self.value_at(jnp.asarray(count, dtype=float))

    def __mul__(self, factor: Any) -> "Schedule":
        return make_schedule(_product, left=self, right=factor)

    def __add__(self, other: Any) -> "Schedule":
        return make_schedule(_sum, left=self, right=other)

    def __sub__(self, other: Any) -> "Schedule":
        return make_schedule(_difference, left=self, right=other)

    def __rsub__(self, other: Any) -> "Schedule":
        return make_schedule(_difference, left=other, right=self)

    def __truediv__(self, divisor: Any) -> "Schedule":
        return make_schedule(_quotient, left=self, right=divisor)

    def __rtruediv__(self, dividend: Any) -> "Schedule":
        return make_schedule(_quotient, left=dividend, right=self)

    def __neg__(self) -> "Schedule":
        return make_schedule(_product, left=self, right=-1.0)

    __rmul__ = __mul__
    __radd__ = __add__
    __array_ufunc__ = None  # a NumPy scalar on the left gives way to the methods above

    def then(self, other: Any, at: Any) -> "Schedule":
        """This schedule before step ``at``; from there on ``other``, counting from zero again.

        Raises:
          TypeError: ``other`` is neither a schedule, a function nor a number.
        """
        return make_schedule(_then, first=self, second=as_schedule(other), at=at)

    def shift(self, steps: Any) -> "Schedule":
        """This schedule seen from step ``steps`` on: ``schedule.shift(k)(t) == schedule(k + t)``.

        A negative shift delays the schedule, which holds its first value until then.
        """
        return make_schedule(_shifted, schedule=self, steps=steps)


def make_schedule(function: Callable, **values: Any) -> Schedule:
    """Binds values to a module-level function ``(step, *, <values>) -> value``; the step arrives as a float.

    Numbers and arrays become leaves, schedules stay schedules, anything else must be `static`.

    >>> def _halving(step, *, init_value): return init_value * 0.5**step
    >>> schedule = make_schedule(_halving, init_value=1.0)
    >>> float(schedule(3)), jax.tree.leaves(schedule)
    (0.125, [1.0])
    """
    structure = tuple((name, value) for name, value in values.items() if isinstance(value, Static))
    leaves = {name: as_leaf(name, value) for name, value in values.items() if not isinstance(value, Static)}
    return Schedule(Partial(Rule(function, structure), **leaves))


@dataclasses.dataclass(frozen=True)
class CountFunction:
    """A function from elsewhere whose last argument is the step count, handed over as an int32."""

    function: Callable

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def __call__(self, *args, **kwargs):
        *bound, step = args
        return jnp.asarray(self.function(*bound, jnp.asarray(step, jnp.int32), **kwargs))


def as_schedule(value: Any) -> Schedule:
    """A schedule from a number, from any function of the count (an Optax schedule, say), or from itself.

    A function receives the count as an int32, so that it may look it up in a table.

    Raises:
      TypeError: not a number, a function nor a schedule.

    >>> float(as_schedule(lambda count: jnp.array([5.0, 6.0])[count])(1))
    6.0
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Partial):
        own = isinstance(value.func, Rule | CountFunction)
        return Schedule(value if own else Partial(CountFunction(value.func), *value.args, **value.keywords))
    if callable(value):
        return Schedule(Partial(CountFunction(value)))
    if value is None:
        raise TypeError("a schedule is a number, a function of the step count or a Schedule, got None")
    return make_schedule(_constant, value=value)


def evaluate(values: Any, count: Any) -> Any:
    """A tree of hyperparameters in which every schedule gives way to its value at ``count``.

    >>> [float(value) for value in evaluate((0.5, as_schedule(lambda count: count + 1.0)), 2)]
    [0.5, 3.0]
    """
    is_schedule = lambda leaf: isinstance(leaf, Schedule)
    return jax.tree.map(lambda leaf: leaf(count) if is_schedule(leaf) else leaf, values, is_leaf=is_schedule)


def as_leaf(name: str, value: Any) -> Any:
    """The value of one hyperparameter in the form in which it is stored; trees of them leaf by leaf."""
    if value is None or isinstance(value, Schedule):
        return value
    if isinstance(value, jax.Array):
        return value if _is_inexact_or_key(value) else value.astype(float)
    if isinstance(value, bool | np.bool_ | str):
        raise TypeError(f"hyperparameter `{name}` is {value!r}; bind what is no number as {name}=static({value!r})")
    if isinstance(value, numbers.Real | np.generic):
        return float(value)
    if isinstance(value, np.ndarray):
        return float(value) if value.ndim == 0 else value if _is_inexact_or_key(value) else value.astype(float)
    if callable(value):
        return as_schedule(value)
    if isinstance(value, dict | list | tuple) or not jax.tree_util.all_leaves([value]):
        return jax.tree.map(lambda leaf: as_leaf(name, leaf), value, is_leaf=lambda x: x is not value)
    raise TypeError(
        f"hyperparameter `{name}` must be a number, an array or a schedule, got {type(value).__name__}: {value!r}"
    )


def _is_inexact_or_key(array: Any) -> bool:
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key) or array.dtype == jnp.uint32  # the data of a key
    return is_key or jnp.issubdtype(array.dtype, jnp.inexact)


def _value(schedule: Any, step: jax.Array) -> Any:
    return schedule.value_at(step) if isinstance(schedule, Schedule) else schedule


def _constant(step, *, value):
    return jnp.broadcast_to(jnp.asarray(value, dtype=float), jnp.shape(step))


def _product(step, *, left, right):
    return _value(left, step) * _value(right, step)


def _sum(step, *, left, right):
    return _value(left, step) + _value(right, step)


def _difference(step, *, left, right):
    return _value(left, step) - _value(right, step)


def _quotient(step, *, left, right):
    return _value(left, step) / _value(right, step)


def _then(step, *, first, second, at):
    before, after = _value(first, jnp.minimum(step, at)), _value(second, jnp.maximum(step - at, 0))
    return jnp.where(step < at, before, after)


def _shifted(step, *, schedule, steps):
    return schedule.value_at(jnp.maximum(step + steps, 0))
