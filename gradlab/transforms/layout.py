"""`flatten`: an optimizer that sees all leaves of one dtype as one vector."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import tree as trees
from gradlab.core.buckets import VectorLayout, bucket, vector_layout
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


def _flatten_init(params, *, inner):
    return inner(_hand(bucket(params).vectors) if jax.tree.leaves(params) else params)


def _hand(vectors: dict[str, Any]) -> Any:
    """One vector by itself, or none or several by the names of their dtypes."""
    return next(iter(vectors.values())) if len(vectors) == 1 else vectors


def _flatten_update(grads, state, params=None, *, inner, grad=None, value_fn=None, **extra):
    like = grads if params is None else params
    if not jax.tree.leaves(like):
        return inner(grads, state, params, **extra)
    layout = vector_layout(like)
    trees.require_same_structure("gradients", grads, "parameters", like)
    leaves = layout.treedef.flatten_up_to(grads)
    if grad is not None:
        trees.require_same_structure("`grad`", grad, "parameters", like)
        extra["grad"] = _joined(layout, layout.treedef.flatten_up_to(grad))
    if value_fn is not None:
        extra["value_fn"] = lambda vectors: value_fn(layout.treedef.unflatten(_cut(layout, vectors)))
    flat_params = None if params is None else _joined(layout, layout.treedef.flatten_up_to(params))
    updates, state = inner(_joined(layout, leaves), state, flat_params, **extra)
    pairs = zip(_cut(layout, updates), leaves, strict=True)
    updates = [None if g is None or u is None else convert(u, jnp.result_type(g)) for u, g in pairs]
    return layout.treedef.unflatten(updates), state


def _joined(layout: VectorLayout, leaves: list[Any]) -> Any:
    """The vectors, with zeros for what is None."""
    columns = zip(leaves, layout.shapes, layout.names, strict=True)
    return _hand(layout.join([jnp.zeros(shape, name) if g is None else jnp.asarray(g) for g, shape, name in columns]))


def _cut(layout: VectorLayout, vectors: Any) -> list[Any]:
    names = set(layout.names)
    return layout.split(dict.fromkeys(names, vectors) if len(names) == 1 else vectors)
