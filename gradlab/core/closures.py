"""Python functions as pytrees, so that a fresh closure over new data does not retrace a compiled program.

``tx.update(grads, state, params, value_fn=lambda p: loss(p, batch))`` builds a new function at each call.
Its code is the same each time; only what it closed over differs.  `as_pytree` makes the code the structure
and the closed-over arrays the leaves.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial


@dataclasses.dataclass(frozen=True)
class _Fixed:
    """What is no data: numbers and strings compare by value; other objects by identity, and are kept alive."""

    value: Any

    @property
    def _key(self) -> Any:
        by_value = isinstance(self.value, bool | int | float | complex | str | bytes)
        return (type(self.value), repr(self.value)) if by_value else id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fixed) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclasses.dataclass(frozen=True)
class _Code:
    """What all builds of one closure share: the code, and whatever it closed over that is not data."""

    code: types.CodeType
    module: _Fixed
    name: str
    treedef: Any
    fixed: tuple

    def __call__(self, data: list, /, *args, **kwargs):
        leaves = [item.value if item is not None else leaf for item, leaf in zip(self.fixed, data, strict=True)]
        cells, defaults, kwdefaults = jax.tree.unflatten(self.treedef, leaves)
        closure = tuple(types.CellType(cell) for cell in cells)
        function = types.FunctionType(self.code, self.module.value, self.name, defaults, closure)
        function.__kwdefaults__ = kwdefaults
        return function(*args, **kwargs)


def as_pytree(value: Any) -> Any:
    """A function as a `Partial` over the arrays it closed over; anything else as it is.

    What a function closed over that is neither an array nor a function is structure: a Python number that changes
    from call to call retraces, an array does not.

    >>> make = lambda c: (lambda x: c * x)
    >>> one, two = as_pytree(make(np.float32(1))), as_pytree(make(np.float32(2)))
    >>> jax.tree.structure(one) == jax.tree.structure(two), float(two(3.0))
    (True, 6.0)
    """
    return _as_pytree(value, ())


def _as_pytree(value: Any, enclosing: tuple) -> Any:
    if isinstance(value, types.FunctionType):
        if any(value is function for function in enclosing):
            return value  # a function that holds itself
        try:
            return _closure_as_pytree(value, (*enclosing, value))
        except (TypeError, ValueError):  # unhashable tree, unset cell
            return Partial(value)
    if callable(value) and jax.tree.structure(value) == _LEAF:
        return Partial(value)
    return value


def parameter_names(function: Callable) -> set[str]:
    """The names of a function's parameters, also of one that `as_pytree` took apart; none for a builtin without any.

    >>> sorted(parameter_names(as_pytree(lambda params, x, y=0: 0)))
    ['params', 'x', 'y']
    """
    if isinstance(function, Partial) and isinstance(function.func, _Code):
        code = function.func.code
        return set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:
        return set()


_LEAF = jax.tree.structure(0)


def _closure_as_pytree(function: Callable, enclosing: tuple) -> Partial:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    leaves, treedef = jax.tree.flatten((cells, function.__defaults__, function.__kwdefaults__))
    leaves = [_as_pytree(leaf, enclosing) for leaf in leaves]
    is_data = [isinstance(leaf, Partial | jax.Array | np.ndarray | np.generic) for leaf in leaves]
    data = [leaf if dynamic else None for leaf, dynamic in zip(leaves, is_data, strict=True)]
    fixed = tuple(None if dynamic else _Fixed(leaf) for leaf, dynamic in zip(leaves, is_data, strict=True))
    hash(treedef)
    return Partial(_Code(function.__code__, _Fixed(function.__globals__), function.__name__, treedef, fixed), data)
