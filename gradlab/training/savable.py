"""Optimizers in training states, as nodes that Orbax saves.

A `jax.tree_util.Partial` has a tuple and a dict as children.  One of them is often empty, and Orbax puts an entry of
its own in the place of an empty container, of which no Partial can be made.
"""

import sys
from typing import Any

import jax
import optax
from jax.tree_util import DictKey, Partial, SequenceKey


class Bound(Partial):
    """A `jax.tree_util.Partial` of which each value is a child of its own.

    >>> jax.tree.leaves(Bound(max, 1.0, key=2.0)), jax.tree.structure(Bound(max)).num_nodes
    ([1.0, 2.0], 1)
    """


def savable(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, leaf by leaf, with `Bound` for every Partial.

    >>> import gradlab
    >>> tx = gradlab.sgd(0.1)
    >>> jax.tree.leaves(savable(tx)) == jax.tree.leaves(tx), type(savable(tx).update).__name__
    (True, 'Bound')
    """
    tell_flax()
    return jax.tree.map(_bound, tx, is_leaf=lambda node: isinstance(node, Partial))


def _bound(node: Any) -> Any:
    if not isinstance(node, Partial):
        return node
    return Bound(node.func, *map(savable, node.args), **{name: savable(value) for name, value in node.keywords.items()})


def _children(bound: Bound) -> tuple[list[tuple[Any, Any]], tuple]:
    names = sorted(bound.keywords)
    positions = [(SequenceKey(index), value) for index, value in enumerate(bound.args)]
    return positions + [(DictKey(name), bound.keywords[name]) for name in names], (bound.func, tuple(names))


def _of_children(of: tuple, children: Any) -> Bound:
    function, names = of
    first = len(children) - len(names)
    return Bound(function, *children[:first], **dict(zip(names, children[first:], strict=True)))


jax.tree_util.register_pytree_with_keys(Bound, _children, _of_children)


def tell_flax() -> None:
    """Lets Flax's serialization write and read `Bound` as it does a Partial, if Flax is loaded."""
    flax = sys.modules.get("flax.serialization")
    if flax is not None:
        plain = lambda bound: Partial(bound.func, *bound.args, **bound.keywords)
        write = lambda bound: flax.to_state_dict(plain(bound))
        read = lambda bound, state: _bound(flax.from_state_dict(plain(bound), state))
        flax.register_serialization_state(Bound, write, read, override=True)
