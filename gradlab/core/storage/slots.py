"""Which buffers of a state are moments, by the names of their fields."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any

BOTH_SIGNS = {"ema", "exp_avg", "m", "m1", "m2", "mu", "shift", "trace"}
NON_NEGATIVE = {"e_g", "e_x", "exp_avg_sq", "grad_sum_sq", "n", "nu", "nu_max", "sum_of_squares", "v"}
MOMENTS = BOTH_SIGNS | NON_NEGATIVE
"""Averages and sums of gradients, and of their squares: what one ``storage`` for all of an optimizer applies to.

Iterates, differences from a gradient before, bases and factors are not among them: they are stored as they are unless
they are named.
"""

EXCEPTIONS = {
    ("SophiaState", "nu"): False,  # a diagonal of the Hessian
    ("ScaleByAdanState", "v"): False,  # an average of differences
    ("ScaleBySM3State", "mu"): True,  # bounds on squares
    ("ScaleBySM3State", "nu"): False,  # an average of steps
}
"""Whether these fields are never negative, against what their name says."""


def is_non_negative(owner: type, field: str) -> bool:
    return EXCEPTIONS.get((owner.__name__, field), field in NON_NEGATIVE)


def is_state(node: Any) -> bool:
    """Whether a node of a state is one with named fields."""
    return isinstance(node, tuple) and hasattr(node, "_fields")


def map_slots(function: Callable[[type, str, Tree], Tree], state: Tree, names: Any) -> Tree:
    """The state with ``function(owner, field, value)`` in the place of every field whose name is among ``names``."""

    def visit(node):
        if not is_state(node):
            return node
        fields = zip(node._fields, node, strict=True)
        new = [function(type(node), name, value) if name in names else walk(value) for name, value in fields]
        return type(node)(*new)

    def walk(value):
        return jax.tree.map(visit, value, is_leaf=is_state)

    return walk(state)


def is_storable(leaf: Any) -> bool:
    """Whether a leaf is an array of real or complex numbers with an axis; a number of its own costs nothing."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.ndim(leaf) > 0 and jnp.issubdtype(dtype, jnp.inexact)


def slots(state: Tree) -> dict[str, list[Any]]:
    """The arrays that could be stored in another way, by the name of their field, in the order of the state.

    >>> import gradlab
    >>> list(slots(gradlab.adam(1e-3).init(jnp.ones(2))))
    ['mu', 'nu']
    """
    found = {name: [leaf for leaf in leaves if is_storable(leaf)] for name, leaves in fields(state).items()}
    return {name: leaves for name, leaves in found.items() if leaves}


def fields(state: Tree) -> dict[str, list[Any]]:
    """The leaves in every named field of a state, those of the fields inside of it left out."""
    found: dict[str, list[Any]] = {}
    for name, leaves in _fields_of(state):
        found.setdefault(name, []).extend(leaves)
    return found


def _fields_of(state: Tree) -> Iterator[tuple[str, list[Any]]]:
    for node in jax.tree.leaves(state, is_leaf=is_state):
        if is_state(node):
            for name, value in zip(node._fields, node, strict=True):
                inner = jax.tree.leaves(value, is_leaf=is_state)
                yield name, [leaf for leaf in inner if not is_state(leaf)]
                yield from _fields_of([leaf for leaf in inner if is_state(leaf)])
