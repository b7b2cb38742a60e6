"""`flatten`: an optimizer that sees all leaves of one dtype as one vector."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import tree as trees
from gradlab.core.leafwise import convert
from gradlab.core.transform import Transform, transform

Tree = Any


def flatten(inner: optax.GradientTransformation) -> Transform:
    """Hands ``inner`` the parameters and gradients as one vector for each dtype among the parameters.

    Fewer operations for many small leaves, at the price of copying every gradient, parameter and update each step.
    Where all leaves have one dtype ``inner`` sees one vector, as in Optax; else a dict of vectors by the names of their
    dtypes (Optax widens all to one).  What acts leaf by leaf (clipping by blocks, trust ratios, masks, learning rates
    in a tree) then sees one leaf.

    ``params`` must be passed to ``update`` where a gradient is None or of another dtype than its parameter.  A gradient
    of None counts as zero in the averages of ``inner``, and its update is None.

    Args:
      inner: a transform.  An extra argument ``grad`` reaches it flattened, and a ``value_fn`` as a function of vectors.

    >>> import gradlab
    >>> tx = flatten(gradlab.adam(0.1))
    >>> params = {'w': jnp.ones((2, 2)), 'b': jnp.ones(3)}
    >>> state = tx.init(params)
    >>> updates, state = tx.update(params, state, params)
    >>> updates['w'].shape, state[0].mu.shape
    ((2, 2), (7,))
    """
    return transform(_flatten_init, _flatten_update, inner=inner)


class _Layout(NamedTuple):
    """How a tree is laid out in vectors."""

    treedef: Any  # with None leaves
    leaves: list[Any]  # anything with the shape and dtype of each leaf; None where there is none

    def join(self, leaves: list[Any]) -> Any:
        """The leaves end to end: one vector, or one for each dtype of the layout."""
        groups = {}
        for like, leaf in zip(self.leaves, leaves, strict=True):
            if like is not None:
                leaf = jnp.zeros(like.shape, like.dtype) if leaf is None else jnp.asarray(leaf)
                groups.setdefault(like.dtype.name, []).append(jax.lax.reshape(leaf, (like.size,)))
        vectors = {name: jnp.concatenate(parts) for name, parts in groups.items()}
        return next(iter(vectors.values())) if len(vectors) == 1 else vectors

    def split(self, vectors: Any) -> list[Any]:
        """The leaves that `join` put together."""
        sizes = {}
        for like in self.leaves:
            if like is not None:
                sizes.setdefault(like.dtype.name, []).append(like.size)
        vectors = vectors if len(sizes) > 1 else dict.fromkeys(sizes, vectors)
        parts = {name: iter(jax.lax.split(vectors[name], sizes[name])) for name in sizes}
        cut = lambda like: jax.lax.reshape(next(parts[like.dtype.name]), like.shape)
        return [None if like is None else cut(like) for like in self.leaves]

    def tree(self, vectors: Any) -> Tree:
        return jax.tree.unflatten(self.treedef, self.split(vectors))


def _layout_of(tree: Tree) -> _Layout:
    leaves, treedef = jax.tree.flatten(tree, is_leaf=trees.is_none)
    has_shape = lambda leaf: leaf is None or isinstance(leaf, jax.ShapeDtypeStruct)
    return _Layout(treedef, [leaf if has_shape(leaf) else jnp.asarray(leaf) for leaf in leaves])


def _flatten_init(params, *, inner):
    if not jax.tree.leaves(params):
        return inner(params)
    layout = _layout_of(params)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in layout.leaves):
        return inner(jax.eval_shape(layout.join, layout.leaves))
    return inner(layout.join(layout.leaves))


def _flatten_update(grads, state, params=None, *, inner, grad=None, value_fn=None, **extra):
    layout = _layout_of(grads if params is None else params)
    if layout.treedef.num_leaves == 0:
        return inner(grads, state, params, **extra)
    leaves = {"gradients": grads} if grad is None else {"gradients": grads, "`grad`": grad}
    for name, tree in leaves.items():
        trees.require_same_structure(name, tree, "parameters", jax.tree.unflatten(layout.treedef, layout.leaves))
        leaves[name] = jax.tree.leaves(tree, is_leaf=trees.is_none)
    if grad is not None:
        extra["grad"] = layout.join(leaves["`grad`"])
    if value_fn is not None:
        extra["value_fn"] = lambda vectors: value_fn(layout.tree(vectors))
    flat_params = None if params is None else layout.join(layout.leaves)
    updates, state = inner(layout.join(leaves["gradients"]), state, flat_params, **extra)
    pairs = zip(layout.split(updates), leaves["gradients"], strict=True)
    updates = [None if g is None or u is None else convert(u, jnp.result_type(g)) for u, g in pairs]
    return jax.tree.unflatten(layout.treedef, updates), state
