"""The function half of a value: a module-level function, its structure, and when it is compiled."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from gradlab.core import closures


class Static:
    """A hyperparameter that is structure, not data: hashable, compared by value, never traced."""

    __slots__ = ("_key", "value")

    def __init__(self, value: Any):
        self.value = value
        self._key = _hashable(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"static({self.value!r})"

    def __reduce__(self):
        return Static, (self.value,)


def static(value: Any) -> Static:
    """Marks a hyperparameter as structure: changing it recompiles, and the lanes of a sweep cannot vary it.

    Trees of hashable leaves (a mask, a table of labels) are allowed although dicts do not hash.

    Raises:
      TypeError: the value, or a leaf of it, does not hash.

    >>> static(True) == static(True), static({'a': 1}) == static({'a': 2})
    (True, False)
    """
    return value if isinstance(value, Static) else Static(value)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return array.shape, str(array.dtype), array.tobytes()
    try:
        hash(value)
        return type(value), value
    except TypeError:
        leaves, treedef = jax.tree.flatten(value)
        if len(leaves) == 1 and leaves[0] is value:
            raise TypeError(
                f"static({value!r}) does not hash, so it cannot identify a compiled program; "
                "pass a number, string, tuple, dtype, function or a tree of these"
            ) from None
        return tuple(_hashable(leaf) for leaf in leaves), treedef


@dataclasses.dataclass(frozen=True)
class Rule:
    """A module-level function with its structure bound; equal to another by value.

    Called with concrete arrays it runs as one compiled program, traced once for each structure and shape.
    Called inside a trace it is the bare function, which the caller's program absorbs.
    """

    function: Callable
    structure: tuple[tuple[str, Static], ...] = ()
    shown_as: tuple[tuple[str, str], ...] = ()  # names of hyperparameters in an optimizer that calls them otherwise

    @property
    def name(self) -> str:
        return self.function.__name__.strip("_").removesuffix("_update").removesuffix("_init")

    def inline(self, *args, **kwargs):
        return self.function(*args, **kwargs, **{name: item.value for name, item in self.structure})

    def __call__(self, *args, **kwargs):
        kwargs = {name: closures.as_pytree(value) for name, value in kwargs.items()}
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return self.inline(*args, **kwargs)
        return _compiled(self, args, kwargs)


class InitRule(Rule):
    """A rule that runs operation by operation, so that each buffer is made where its parameter lies.

    Under jit XLA would place the new buffers itself, and an init runs once: compiling it does not pay.
    """

    def __call__(self, *args, **kwargs):
        return _unshared(self.inline(*args, **kwargs))


def _unshared(state: Any) -> Any:
    """The state with a buffer of its own for every leaf: one that two leaves share could not be donated."""
    seen = set()

    def own(leaf):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
            return leaf
        if id(leaf) in seen:
            return leaf.copy()
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(own, state)


def _inline(rule: Rule, args: tuple, kwargs: dict):
    return rule.inline(*args, **kwargs)


_compiled = jax.jit(_inline, static_argnums=0)
