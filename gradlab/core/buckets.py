"""Many leaves as few long vectors, a tree of its own: what is updated number by number runs as one kernel a vector.

::

    params = bucket(params)                                 one vector for each dtype
    grads = jax.grad(lambda p: loss(p.tree, batch))(params) vectors as well
    updates, state = tx.update(grads, state, params)        so is what the optimizer keeps
    params, state = unbucket((params, state))               the trees that they would have been without

Starting a kernel, and handing a buffer to a program and back, takes about as long as computing ten thousand numbers.
Models of many small leaves spend their steps so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import tree as trees

Tree = Any


class VectorLayout(NamedTuple):
    """Which part of which vector each leaf of a tree is; hashable."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]  # of the leaves
    names: tuple[str, ...]  # of the vector in which each leaf lies

    def join(self, leaves: Sequence[jax.Array]) -> dict[str, jax.Array]:
        """The leaves end to end, in the vectors by their names; in front of a leaf's axes there may be others."""
        parts: dict[str, list[jax.Array]] = {}
        for leaf, shape, name in zip(leaves, self.shapes, self.names, strict=True):
            batch = leaf.shape[: leaf.ndim - len(shape)]
            parts.setdefault(name, []).append(jax.lax.reshape(leaf, (*batch, math.prod(shape))))
        return {name: jnp.concatenate(of_name, axis=-1) for name, of_name in parts.items()}

    def split(self, vectors: dict[str, Any]) -> list[Any]:
        """The leaves that `join` put together; what stands for a vector without being one, for each of its leaves."""
        pieces = {name: iter(self._pieces(name, vector)) for name, vector in vectors.items()}
        return [next(pieces[name]) for name in self.names]

    def _pieces(self, name: str, vector: Any) -> list[Any]:
        shapes = [shape for shape, of in zip(self.shapes, self.names, strict=True) if of == name]
        if jax.tree.structure(vector).num_leaves == 0:
            return [vector] * len(shapes)  # None, or what a mask leaves of it
        if not hasattr(vector, "ndim"):
            raise TypeError(
                f"the vector '{name}' is kept as {type(vector).__name__}, of which leaves cannot be cut; read the "
                "state with gradlab.core.storage.decoded_state first"
            )
        batch = vector.shape[:-1]
        parts = jax.lax.split(vector, [math.prod(shape) for shape in shapes], axis=vector.ndim - 1)
        return [jax.lax.reshape(part, (*batch, *shape)) for part, shape in zip(parts, shapes, strict=True)]


def vector_layout(tree: Tree, by: Tree | Callable[[Tree], Tree] | None = None) -> VectorLayout:
    """A vector for each dtype of a tree, or for each label and dtype; arguments as for `bucket`."""
    leaves, treedef = jax.tree.flatten(tree)
    names = [jnp.result_type(leaf).name for leaf in leaves]
    if by is not None:
        labels = trees.broadcast_prefix("by", by(tree) if callable(by) else by, tree)
        places = jax.tree.leaves(tree, is_leaf=trees.is_none)
        labels = [label for label, leaf in zip(labels, places, strict=True) if leaf is not None]
        names = [f"{label}_{name}" for label, name in zip(labels, names, strict=True)]
    return VectorLayout(treedef, tuple(jnp.shape(leaf) for leaf in leaves), tuple(names))


@jax.tree_util.register_pytree_with_keys_class
class Buckets:
    """A tree whose leaves are parts of few vectors; itself a tree with the vectors as leaves.

    Made by `bucket`; what `jax.tree.map` makes of it has the same layout.  Read it by ``tree``.  Orbax saves it as it
    is; for formats of trees (Flax's bytes, safetensors) save ``unbucket(state)``.
    """

    def __init__(self, vectors: dict[str, Any], layout: VectorLayout):
        self.vectors = dict(sorted(vectors.items()))
        self.layout = layout

    @property
    def tree(self) -> Tree:
        """The tree with its leaves; differentiable, and the gradient of the vectors comes as vectors."""
        return self.layout.treedef.unflatten(self.layout.split(self.vectors))

    def like(self, tree: Tree) -> "Buckets":
        """Another tree of this structure in the same layout, gradients say.

        Raises:
          ValueError: the trees do not match; the path is named.
        """
        own = self.layout.treedef.unflatten(range(len(self.layout.shapes)))
        trees.require_same_structure("the tree", tree, "the tree of these buckets", own)
        leaves = [jnp.asarray(leaf) for leaf in self.layout.treedef.flatten_up_to(tree)]
        names = [trees.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(own)]
        for path, leaf, shape in zip(names, leaves, self.layout.shapes, strict=True):
            if leaf.shape[leaf.ndim - len(shape) :] != shape:
                raise ValueError(
                    f"leaf '{path}' of the tree has the shape {leaf.shape}, not {shape} as in these buckets"
                )
        return Buckets(self.layout.join(leaves), self.layout)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a vector; Flax's ``TrainState`` looks for one with a name of its own."""
        return name in self.vectors

    def tree_flatten_with_keys(self):
        names = tuple(self.vectors)
        keyed = [(jax.tree_util.DictKey(name), self.vectors[name]) for name in names]
        return keyed, (names, self.layout)

    @classmethod
    def tree_unflatten(cls, aux: tuple, vectors: Sequence[Any]) -> "Buckets":
        names, layout = aux
        return cls(dict(zip(names, vectors, strict=True)), layout)

    def __repr__(self) -> str:
        return f"Buckets({self.vectors!r}, {len(self.layout.names)} leaves)"


def bucket(tree: Tree, by: Tree | Callable[[Tree], Tree] | None = None) -> Buckets:
    """The leaves of a tree in one vector for each dtype.

    An optimizer that computes number by number, and norms over all parameters, does with the vectors what it did with
    the leaves, up to the order of sums.  One that looks at leaves (matrices, trust ratios, factored moments, clipping
    by leaf) sees other leaves: give it the tree.  Masks see the vectors too, so that what is to be masked needs a
    vector of its own, which ``by`` makes.

    Args:
      tree: parameters, arrays or shapes.
      by: a label for each leaf, as a prefix of the tree or a function that makes it; leaves of one label and dtype lie
        in one vector, whose name begins with the label.

    >>> params = {'kernel': jnp.ones((2, 3), 'float32'), 'bias': jnp.zeros(3, 'float32')}
    >>> buckets = bucket(params)
    >>> buckets.vectors['float32'].shape, buckets.tree['kernel'].shape
    ((9,), (2, 3))
    >>> sorted(bucket(params, by={'kernel': 'decayed', 'bias': 'free'}).vectors)
    ['decayed_float32', 'free_float32']
    >>> jax.grad(lambda buckets: jnp.sum(buckets.tree['bias']))(buckets).vectors['float32'].tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    layout = vector_layout(tree, by)
    leaves = layout.treedef.flatten_up_to(tree)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return Buckets(jax.eval_shape(layout.join, leaves), layout)
    return Buckets(layout.join([jnp.asarray(leaf) for leaf in leaves]), layout)


def unbucket(tree: Tree) -> Tree:
    """A tree in which every `Buckets` is the tree it holds: an optimizer's state as Optax has it.

    >>> import gradlab
    >>> state = gradlab.adam(1e-3).init(bucket({'w': jnp.ones(2), 'b': jnp.ones(())}))
    >>> jax.tree.map(jnp.shape, unbucket(state)[0].mu)
    {'b': (), 'w': (2,)}
    """
    is_buckets = lambda node: isinstance(node, Buckets)
    return jax.tree.map(lambda node: node.tree if is_buckets(node) else node, tree, is_leaf=is_buckets)
