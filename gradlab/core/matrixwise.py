"""One rule on one matrix, lifted to trees.

Matrices of equal shape, a tall one transposed to a wide one, form a group, whichever leaves they come from (see
`gradlab.core.layouts`).  A rule is traced and compiled once for a group.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.axes import automatic, entries, evenly_split, explicit_mesh, sharding_of
from gradlab.core.layouts import Matrices, matrices_in
from gradlab.core.leafwise import convert
from gradlab.core.rule import Rule, static

Tree = Any
STRATEGIES = ("stack", "map", "leaf", "shard")


def strategy_here(strategy: str | None) -> str:
    """How a group runs, unless it was said: split over the devices of a mesh, as a loop on the CPU, else as a stack.

    Raises:
      ValueError: an unknown strategy, or ``'shard'`` where no mesh is set.
    """
    if strategy is None:
        if _mesh_axes():
            return "shard"
        return "map" if jax.default_backend() == "cpu" else "stack"
    check_strategy(strategy)
    if strategy == "shard" and not _mesh_axes():
        raise ValueError(
            "strategy 'shard' splits a stack over a mesh, and none is set; update within jax.set_mesh(mesh)"
        )
    return strategy


def check_strategy(strategy: str | None) -> None:
    if strategy is not None:
        check.one_of("strategy", strategy, STRATEGIES)


def _mesh_axes() -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    is_free = mesh.size > 1 and jax.sharding.AxisType.Manual not in mesh.axis_types
    return mesh.axis_names if is_free else ()


class Groups:
    """The matrices of a tree by shape: one stack (count, m, n), m <= n, for each shape and dtype.

    Args:
      tree: arrays, or anything with their shapes and dtypes; None leaves stay.
      layout, block_size: as for `gradlab.core.layouts.matrices_in`.
      strategy: as for `matrixwise`; with ``'leaf'`` each leaf is a group of its own.

    >>> from optax.contrib import MuonDimensionNumbers
    >>> params = {name: jnp.ones(shape, 'float32') for name, shape in [('a', (2, 3)), ('b', (3, 2)), ('c', (4, 4))]}
    >>> groups = Groups(params, MuonDimensionNumbers())
    >>> {name: stack.shape for name, stack in groups.stack(params).items()}
    {'2x3_float32': (2, 2, 3), '4x4_float32': (1, 4, 4)}
    >>> groups.unstack(groups.stack(params))['b'].shape
    (3, 2)
    """

    def __init__(self, tree: Tree, layout: Any, *, strategy: str | None = None, block_size: int | None = None):
        self._treedef = jax.tree.structure(tree)
        self._matrices = self._treedef.flatten_up_to(matrices_in(tree, layout, block_size))
        self._members: dict[str, list[int]] = {}
        self._dtypes: dict[str, Any] = {}
        self._leaves = [_shape_of(x) for x in self._treedef.flatten_up_to(tree)]
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        for index, ((path, x), matrices) in enumerate(zip(leaves, self._matrices, strict=True)):
            shape = f"{'x'.join(map(str, matrices.wide))}_{x.dtype}"
            name = trees.path_name(path).replace("/", ".") if strategy == "leaf" else shape
            self._members.setdefault(name, []).append(index)
            self._dtypes[name] = x.dtype

    def stack(self, tree: Tree) -> dict[str, jax.Array]:
        leaves = self._treedef.flatten_up_to(tree)
        stacked = lambda at: [self._matrices[i].wide_stack(leaves[i]) for i in at]
        return {name: _joined(stacked(at)) for name, at in self._members.items()}

    def gather(self, tree: Tree) -> dict[str, jax.Array]:
        """The leaves of a tree like this one, arrays (matrices of the leaf, ...), group by group."""
        leaves = self._treedef.flatten_up_to(tree)
        return {name: _joined([leaves[i] for i in at]) for name, at in self._members.items()}

    def unstack(self, stacks: dict[str, jax.Array]) -> Tree:
        leaves: list[Any] = [None] * len(self._matrices)
        for name, members in self._members.items():
            taken_apart = functools.partial(_taken_apart, [self._matrices[index] for index in members])
            like = [self._leaves[index] for index in members]
            for index, leaf in zip(members, automatic(taken_apart, (stacks[name],), like), strict=True):
                leaves[index] = leaf
        return self._treedef.unflatten(leaves)

    def zeros(self) -> dict[str, jax.Array]:
        """Zeros for every stack, of at least float32."""
        wide = {name: jnp.promote_types(jnp.float32, dtype) for name, dtype in self._dtypes.items()}
        count = lambda members: sum(self._matrices[i].count for i in members)
        shapes = {name: (count(members), *self._matrices[members[0]].wide) for name, members in self._members.items()}
        return {name: jnp.zeros(shape, wide[name]) for name, shape in shapes.items()}

    def per_leaf(self, of_leaf: Callable) -> dict[str, jax.Array]:
        """A number of each matrix, (count,), from a function of the `Matrices` of its leaf."""
        numbers = lambda i: jnp.full(self._matrices[i].count, of_leaf(self._matrices[i]))
        return {name: jnp.concatenate([numbers(i) for i in members]) for name, members in self._members.items()}


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_of(x))


def _joined(stacks: list[jax.Array]) -> jax.Array:
    """One stack, split as its parts are; if these differ, along its first axis that the devices divide."""
    if len(stacks) == 1:
        return stacks[0]
    mesh, join = explicit_mesh(stacks), lambda *stacks: jnp.concatenate(stacks)
    if mesh is None:
        return join(*stacks)
    first, *others = map(sharding_of, stacks)
    if all(other == first for other in others) and not (first and entries(first.spec, 1)[0]):
        return automatic(join, tuple(stacks), like=stacks[0])
    shape = (sum(stack.shape[0] for stack in stacks), *stacks[0].shape[1:])
    return automatic(join, tuple(stacks), like=evenly_split(stacks[0], shape, mesh))


def _taken_apart(members: Sequence[Matrices], stack: jax.Array) -> list[jax.Array]:
    ends = itertools.accumulate(matrices.count for matrices in members)
    return [
        matrices.leaf_of_wide(stack[end - matrices.count : end]) for matrices, end in zip(members, ends, strict=True)
    ]


def on_stacks(
    rule: Callable,
    first: dict[str, Tree],
    slots: Sequence[dict[str, Tree]] = (),
    inputs: Sequence[dict[str, Tree]] = (),
    *,
    structure: dict[str, Any] | None = None,
    strategy: str | None = None,
    **hyper: Any,
) -> tuple[dict[str, Tree], ...]:
    """Applies a rule for one wide matrix to the stacks of `Groups`; returns the new ``first`` and slots.

    The rule is called as ``rule(x, *slots, *inputs, **structure, **hyper)`` on slices of the stacks of at least
    float32, and returns ``(x, *slots)``, which are stored in the dtypes of what they replace, and lie as it lay.

    Args:
      rule: a module-level function for one matrix.
      first, slots, inputs: stacks by the names of their groups, arrays (count, ...) or trees of these.
      structure: what the rule branches on in Python.
      strategy: as for `matrixwise`.
      **hyper: numbers or arrays that all matrices share.
    """
    strategy = strategy_here(strategy)
    bound = Rule(rule, tuple((name, static(value)) for name, value in (structure or {}).items()))
    for of in (first, *slots, *inputs):
        require_same_stacks(first, of)
    results = {}
    for name in first:
        operands = tuple(of[name] for of in (first, *slots, *inputs))
        results[name] = _on_stack(bound, strategy, 1 + len(slots), operands, hyper)
    return tuple({name: result[index] for name, result in results.items()} for index in range(1 + len(slots)))


def require_same_stacks(first: dict[str, Tree], other: dict[str, Tree]) -> None:
    """Raises a ValueError unless the stacks of gradients and those of a state are of the same matrices."""
    sizes = [{name: _count(stack) for name, stack in stacks.items()} for stacks in (first, other)]
    known = [{name for name, size in of.items() if size is not None} for of in sizes]
    if sizes[0].keys() != sizes[1].keys() or any(sizes[0][name] != sizes[1][name] for name in known[0] & known[1]):
        raise ValueError(
            f"gradients and state do not hold the same matrices, {sizes[0]} and {sizes[1]}: was the state made for "
            "other parameters, with another strategy, are the gradients of another dtype than the parameters, or is a "
            "gradient None? (freeze(...) leaves parameters out)"
        )


def _count(stack: Tree) -> int | None:
    leaves = jax.tree.leaves(stack)
    return leaves[0].shape[0] if leaves else None


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
      layout: see `gradlab.core.layouts.spread_layout`.
      structure: what the rule branches on in Python.
      strategy: how a group runs: ``'stack'``, one batched rule on all its matrices; ``'map'``, a loop over them;
        ``'leaf'``, a loop for each leaf; ``'shard'``, a stack split over all devices of the mesh that `jax.set_mesh`
        set.  By default the last if there is such a mesh; else the loop on the CPU, where batched products of small
        matrices take twice as long; and the stack elsewhere.
      **hyper: numbers or arrays that all matrices share.

    Raises:
      ValueError: a layout that does not fit; an unknown strategy.

    >>> from optax.contrib import MuonDimensionNumbers
    >>> unit = lambda x: x / jnp.sqrt(jnp.sum(x * x))
    >>> matrixwise(unit, {'w': jnp.full((4, 1), 3.0)}, MuonDimensionNumbers())['w'].ravel().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    strategy = strategy_here(strategy)
    groups = Groups(tree, layout, strategy=strategy)
    wrapped = {"rule": rule, **(structure or {})}
    (stacks,) = on_stacks(_of_one, groups.stack(tree), structure=wrapped, strategy=strategy, **hyper)
    return groups.unstack(stacks)


def _of_one(x: jax.Array, *, rule: Callable, **arguments: Any) -> tuple[jax.Array]:
    return (rule(x, **arguments),)


def _inline_on_stack(bound: Rule, strategy: str, kept: int, operands: tuple, hyper: dict[str, Any]) -> tuple:
    run = functools.partial(_on_free_stack, bound, strategy, kept)
    return automatic(run, (operands, hyper), like=operands[:kept])


def _on_free_stack(bound: Rule, strategy: str, kept: int, operands: tuple, hyper: dict[str, Any]) -> tuple:
    arrays = jax.tree.leaves(operands)
    if not arrays:
        return operands[:kept]
    count = arrays[0].shape[0]
    wide = jnp.promote_types(jnp.float32, arrays[0].dtype)
    real = jnp.finfo(wide).dtype
    hyper = {name: convert(jnp.asarray(value), real) for name, value in hyper.items()}
    widened = lambda x: convert(x, jnp.promote_types(x.dtype, real))

    def on_one(operands):
        results = bound.inline(*jax.tree.map(widened, operands), **hyper)
        return jax.tree.map(lambda new, old: convert(new, old.dtype), tuple(results), operands[:kept])

    if count == 1:
        return jax.tree.map(lambda x: x[None], on_one(jax.tree.map(lambda x: x[0], operands)))
    if strategy in ("map", "leaf"):
        return jax.lax.map(on_one, operands)
    if strategy == "stack":
        return jax.vmap(on_one)(operands)
    axes = _mesh_axes()
    split = lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
    return jax.tree.map(split, jax.vmap(on_one)(jax.tree.map(split, operands)))


_on_stack = jax.jit(_inline_on_stack, static_argnums=(0, 1, 2))
