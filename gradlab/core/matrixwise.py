"""One rule on one matrix, lifted to trees.

A layout says which axes of a leaf are a matrix's input and which its output; axes that it does not name are batch axes,
each index of which is a matrix of its own.  Matrices of equal shape, a tall one transposed to a wide one, form a group.
A rule is traced and compiled once for a group, whatever the number of its leaves.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.leafwise import convert
from gradlab.core.rule import Rule, static

Tree = Any
STRATEGIES = ("stack", "map", "leaf")


def is_layout(value: Any) -> bool:
    return value is None or isinstance(value, MuonDimensionNumbers)


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


def axes_of(layout: MuonDimensionNumbers, ndim: int, path: str) -> tuple[tuple[int, ...], ...]:
    """The batch, input and output axes of a leaf, counted from the front.

    Raises:
      ValueError: no layout, an axis that does not exist or is named twice, or a side without axes; with the path.

    >>> axes_of(MuonDimensionNumbers((1, -2), -1), 4, 'experts/kernel')
    ((0,), (1, 2), (3,))
    """
    if layout is None:
        raise ValueError(
            f"parameter '{path}' has no layout: give it MuonDimensionNumbers(input axes, output axes), or leave it to "
            "another optimizer"
        )
    sides = [tuple(side) if isinstance(side, list | tuple) else (side,) for side in layout]
    named = [axis for side in sides for axis in side]
    if not all(-ndim <= axis < ndim for axis in named):
        raise ValueError(f"parameter '{path}' has {ndim} axes, but its layout names the axes {sides[0]} and {sides[1]}")
    inputs, outputs = (tuple(axis % ndim for axis in side) for side in sides)
    if not inputs or not outputs or len({*inputs, *outputs}) < len(named):
        raise ValueError(f"the layout of parameter '{path}' needs distinct input and output axes, got {tuple(layout)}")
    return tuple(axis for axis in range(ndim) if axis not in inputs + outputs), inputs, outputs


def fans(tree: Tree, layout: Any) -> tuple[Tree, Tree]:
    """The number of inputs and of outputs of every leaf's matrices, as two trees.

    >>> fans({'w': jnp.ones((3, 3, 4, 8))}, MuonDimensionNumbers((0, 1, 2), 3))
    ({'w': 36}, {'w': 8})
    """
    views, treedef = _views(tree, layout)
    return tuple(jax.tree.unflatten(treedef, [view.upright[side] for view in views]) for side in (0, 1))


def matrix_axes(tree: Tree, layout: Any) -> Tree:
    """The batch, input and output axes of every leaf, as a tree of triples of tuples.

    >>> matrix_axes({'w': jnp.ones((2, 4, 8))}, MuonDimensionNumbers(1, 2))
    {'w': ((0,), (1,), (2,))}
    """
    views, treedef = _views(tree, layout)
    return jax.tree.unflatten(treedef, [view.axes for view in views])


def _views(tree: Tree, layout: Any) -> tuple[list["_View"], Any]:
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    layouts = treedef.flatten_up_to(spread_layout(layout, tree))
    views = [_View(x, one, trees.path_name(path)) for (path, x), one in zip(paths_and_leaves, layouts, strict=True)]
    return views, treedef


def matrixwise(
    rule: Callable,
    tree: Tree,
    layout: Any,
    *,
    structure: dict[str, Any] | None = None,
    strategy: str | None = None,
    **hyper: Any,
) -> Tree:
    """Applies a rule for one wide matrix to all matrices of a tree.

    The rule is called as ``rule(x, **structure, **hyper)`` with x of shape (m, n), m <= n, and at least float32, and
    returns an array of that shape; a tall matrix is transposed before and after it.

    Args:
      rule: a module-level function for one matrix.
      tree: arrays with two axes or more; None leaves stay.
      layout: see `spread_layout`.
      structure: what the rule branches on in Python.
      strategy: how a group runs: ``'stack'``, one batched rule on all its matrices; ``'map'``, a loop over them;
        ``'leaf'``, a call for each leaf.  By default the loop on the CPU, where batched products of small matrices
        take twice as long, and the stack elsewhere.
      **hyper: numbers or arrays that all matrices share.

    Raises:
      ValueError: a layout that does not fit; an unknown strategy.

    >>> unit = lambda x: x / jnp.sqrt(jnp.sum(x * x))
    >>> matrixwise(unit, {'w': jnp.full((4, 1), 3.0)}, MuonDimensionNumbers())['w'].ravel().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    if strategy is None:
        strategy = "map" if jax.default_backend() == "cpu" else "stack"
    check.one_of("strategy", strategy, STRATEGIES)
    bound = Rule(rule, tuple((name, static(value)) for name, value in (structure or {}).items()))
    leaves = jax.tree.leaves(tree)
    views, treedef = _views(tree, layout)
    groups: dict[tuple, list[int]] = {}
    for index, view in enumerate(views):
        alone = index if strategy == "leaf" else None
        groups.setdefault((view.shape, leaves[index].dtype, alone), []).append(index)
    outputs = list(leaves)
    for members in groups.values():
        stack = jnp.concatenate([views[index].stack(leaves[index]) for index in members])
        results = _on_stack(bound, strategy, stack, hyper)
        start = 0
        for index in members:
            outputs[index] = views[index].leaf(results[start : start + views[index].count])
            start += views[index].count
    return jax.tree.unflatten(treedef, outputs)


class _View:
    """A leaf as a stack of wide matrices, and back."""

    def __init__(self, x: jax.Array, layout: MuonDimensionNumbers, path: str):
        self.axes = axes_of(layout, x.ndim, path)
        self.order = sum(self.axes, ())
        self.count, rows, columns = (math.prod(x.shape[axis] for axis in side) for side in self.axes)
        self.upright, self.sizes = (rows, columns), tuple(x.shape[axis] for axis in self.order)
        self.is_tall = rows > columns
        self.shape = (columns, rows) if self.is_tall else (rows, columns)

    def stack(self, x: jax.Array) -> jax.Array:
        stacked = x.transpose(self.order).reshape(self.count, *self.upright)
        return stacked.mT if self.is_tall else stacked

    def leaf(self, stacked: jax.Array) -> jax.Array:
        upright = stacked.mT if self.is_tall else stacked
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return upright.reshape(self.sizes).transpose(back)


def _inline_on_stack(bound: Rule, strategy: str, stack: jax.Array, hyper: dict[str, Any]) -> jax.Array:
    wide = jnp.promote_types(jnp.float32, stack.dtype)
    real = jnp.finfo(wide).dtype
    hyper = {name: convert(jnp.asarray(value), real) for name, value in hyper.items()}
    on_one = lambda x: convert(bound.inline(convert(x, wide), **hyper), stack.dtype)
    if stack.shape[0] == 1:
        return on_one(stack[0])[None]
    return jax.lax.map(on_one, stack) if strategy == "map" else jax.vmap(on_one)(stack)


_on_stack = jax.jit(_inline_on_stack, static_argnums=(0, 1))
