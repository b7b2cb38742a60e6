"""Which axes of a leaf make its matrices.

A layout names the axes of a matrix's input and those of its output; axes that it does not name are batch axes, each
index of which is a matrix of its own.  A side can be split into equal parts, each a matrix of its own: the queries,
keys and values of a fused projection, or its heads.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from optax.contrib import MuonDimensionNumbers

from gradlab.core import tree as trees
from gradlab.core.axes import automatic, entries, explicit_mesh, number_of_devices, shape_split, sharding_of

Tree = Any
Axes = int | tuple[int, ...]


class SplitDimensionNumbers(NamedTuple):
    """Optax's ``MuonDimensionNumbers`` with the number of equal parts into which a side is split.

    >>> SplitDimensionNumbers(0, 1, output_parts=3)  # queries, keys and values beside each other
    SplitDimensionNumbers(reduction_axis=0, output_axis=1, reduction_parts=1, output_parts=3)
    """

    reduction_axis: Axes = 0
    output_axis: Axes = 1
    reduction_parts: int = 1
    output_parts: int = 1


def is_layout(value: Any) -> bool:
    return value is None or isinstance(value, MuonDimensionNumbers | SplitDimensionNumbers)


def spread_layout(layout: Any, tree: Tree) -> Tree:
    """A layout for every leaf of ``tree``: from one for all, a prefix tree of them, or a function that returns one.

    >>> spread_layout(MuonDimensionNumbers(), {'w': jnp.ones((2, 3))})
    {'w': MuonDimensionNumbers(reduction_axis=0, output_axis=1)}
    """
    layout = layout(tree) if callable(layout) else layout
    try:
        return jax.tree.map(lambda one, part: jax.tree.map(lambda _: one, part), layout, tree, is_leaf=is_layout)
    except ValueError as error:
        names = [trees.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(layout, is_leaf=is_layout)]
        raise ValueError(
            f"the layout has the leaves {names}, which is no prefix of the parameters {trees.paths(tree)}: "
            f"{str(error).splitlines()[0]}"
        ) from None


@dataclasses.dataclass(frozen=True)
class Matrices:
    """The matrices of one leaf: how it becomes a stack of them, and a stack becomes the leaf.

    Upright matrices are (in, out); wide ones have their shorter side first.

    >>> of_leaf = matrices_of(jnp.ones((4, 6)), SplitDimensionNumbers(0, 1, output_parts=3), 'qkv')
    >>> of_leaf.count, of_leaf.upright, of_leaf.wide
    (3, (4, 2), (2, 4))
    """

    leaf_shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # batch, input and output
    parts: tuple[int, int]

    def _sizes(self, side: int) -> int:
        return math.prod(self.leaf_shape[axis] for axis in self.axes[side])

    @property
    def count(self) -> int:
        return self._sizes(0) * math.prod(self.parts)

    @property
    def upright(self) -> tuple[int, int]:
        return self._sizes(1) // self.parts[0], self._sizes(2) // self.parts[1]

    @property
    def is_tall(self) -> bool:
        return self.upright[0] > self.upright[1]

    @property
    def wide(self) -> tuple[int, int]:
        return (min(self.upright), max(self.upright))

    def stack(self, x: jax.Array) -> jax.Array:
        """(count, in, out)."""
        mesh = explicit_mesh(x)
        if mesh is None:
            return self._stack(x)
        split = self._split_of_stack(sharding_of(x))
        return automatic(self._stack, (x,), like=shape_split(x, (self.count, *self.upright), mesh, *split))

    def leaf(self, stacked: jax.Array) -> jax.Array:
        """What `stack` undoes."""
        mesh = explicit_mesh(stacked)
        if mesh is None:
            return self._leaf(stacked)
        split = self._split_of_leaf(sharding_of(stacked), mesh)
        return automatic(self._leaf, (stacked,), like=shape_split(stacked, self.leaf_shape, mesh, *split))

    def _stack(self, x: jax.Array) -> jax.Array:
        moved = x.transpose(sum(self.axes, ()))
        if self.parts == (1, 1):
            return moved.reshape(-1, *self.upright)
        (ins, outs), (rows, columns) = self.parts, self.upright
        return moved.reshape(-1, ins, rows, outs, columns).swapaxes(2, 3).reshape(-1, rows, columns)

    def _leaf(self, stacked: jax.Array) -> jax.Array:
        order = sum(self.axes, ())
        if self.parts != (1, 1):
            (ins, outs), (rows, columns) = self.parts, self.upright
            stacked = stacked.reshape(-1, ins, outs, rows, columns).swapaxes(2, 3)
        moved = stacked.reshape([self.leaf_shape[axis] for axis in order])
        return moved.transpose(sorted(range(len(order)), key=order.__getitem__))

    def _split_of_stack(self, sharding: NamedSharding | None) -> list[Any]:
        """How a leaf's stack is split without numbers that change their device: as the first axis of each side."""
        if sharding is None:
            return []
        of_axis = entries(sharding.spec, len(self.leaf_shape))
        kept = [axes and parts == 1 for axes, parts in zip(self.axes, (1, *self.parts), strict=True)]
        return [of_axis[axes[0]] if keep else None for axes, keep in zip(self.axes, kept, strict=True)]

    def _split_of_leaf(self, sharding: NamedSharding | None, mesh: Any) -> list[Any]:
        """The same for the leaf of a stack, where the devices divide that axis."""
        split: list[Any] = [None] * len(self.leaf_shape)
        of_side = entries(sharding.spec, 3) if sharding else [None] * 3
        for axes, parts, entry in zip(self.axes, (1, *self.parts), of_side, strict=True):
            if axes and parts == 1 and self.leaf_shape[axes[0]] % number_of_devices(mesh, entry) == 0:
                split[axes[0]] = entry
        return split

    def wide_stack(self, x: jax.Array) -> jax.Array:
        """(count, m, n), m <= n."""
        return self.stack(x).mT if self.is_tall else self.stack(x)

    def leaf_of_wide(self, stacked: jax.Array) -> jax.Array:
        """What `wide_stack` undoes."""
        return self.leaf(stacked.mT if self.is_tall else stacked)


def matrices_of(x: Any, layout: Any, path: str, block_size: int | None = None) -> Matrices:
    """The matrices of a leaf.

    Args:
      x: anything with a shape.
      layout: ``MuonDimensionNumbers`` or `SplitDimensionNumbers`.
      path: of the leaf, for messages.
      block_size: the longest side; a longer one is split into blocks of this size.

    Raises:
      ValueError: no entries, no layout, an axis that does not exist or is named twice, a side without axes, parts or
        blocks that do not divide a side; with the path.

    >>> matrices_of(jnp.ones((8, 3, 3, 4)), MuonDimensionNumbers((1, -2), -1), 'experts/kernel').axes
    ((0,), (1, 2), (3,))
    >>> matrices_of(jnp.ones((4, 6)), MuonDimensionNumbers(), 'kernel', block_size=2).count
    6
    """
    axes = _axes_of(layout, jnp.ndim(x), path)
    if 0 in jnp.shape(x):
        raise ValueError(f"parameter '{path}' of shape {jnp.shape(x)} has no entries: leave it to another optimizer")
    parts = []
    for side, name, asked in zip(axes[1:], ("input", "output"), (*layout, 1, 1)[2:4], strict=True):
        size = math.prod(jnp.shape(x)[axis] for axis in side)
        if not isinstance(asked, int) or asked < 1 or size % asked:
            raise ValueError(f"the {name} side of parameter '{path}' has size {size}: {asked!r} parts do not divide it")
        part = size // asked
        if block_size is not None and part > block_size:
            if part % block_size:
                raise ValueError(
                    f"block_size={block_size} does not divide the {name} side of parameter '{path}', which has size "
                    f"{part}; take a divisor, or {part} for one block"
                )
            asked = size // block_size
        parts.append(asked)
    return Matrices(tuple(jnp.shape(x)), axes, tuple(parts))


def _axes_of(layout: Any, ndim: int, path: str) -> tuple[tuple[int, ...], ...]:
    if layout is None:
        raise ValueError(
            f"parameter '{path}' has no layout: give it MuonDimensionNumbers(input axes, output axes), or leave it to "
            "another optimizer"
        )
    sides = [tuple(side) if isinstance(side, list | tuple) else (side,) for side in layout[:2]]
    named = [axis for side in sides for axis in side]
    if not all(-ndim <= axis < ndim for axis in named):
        raise ValueError(f"parameter '{path}' has {ndim} axes, but its layout names the axes {sides[0]} and {sides[1]}")
    inputs, outputs = (tuple(axis % ndim for axis in side) for side in sides)
    if not inputs or not outputs or len({*inputs, *outputs}) < len(named):
        raise ValueError(f"the layout of parameter '{path}' needs distinct input and output axes, got {sides}")
    return tuple(axis for axis in range(ndim) if axis not in inputs + outputs), inputs, outputs


def matrices_in(tree: Tree, layout: Any, block_size: int | None = None) -> Tree:
    """The `Matrices` of every leaf; arguments and errors as for `spread_layout` and `matrices_of`.

    >>> matrices_in({'w': jnp.ones((3, 3, 4, 8))}, MuonDimensionNumbers((0, 1, 2), 3))['w'].upright
    (36, 8)
    """
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    layouts = treedef.flatten_up_to(spread_layout(layout, tree))
    pairs = zip(paths_and_leaves, layouts, strict=True)
    return treedef.unflatten([matrices_of(x, one, trees.path_name(path), block_size) for (path, x), one in pairs])
