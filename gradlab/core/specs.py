"""How the state of an optimizer is laid out over devices, derived from how the parameters are."""

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from gradlab.core import tree as trees
from gradlab.core.axes import entries, splits_alike
from gradlab.core.storage import is_kept

Tree = Any


def state_specs(
    tx: optax.GradientTransformation, param_specs: Tree, params: Tree | None = None, *, default: Any = None
) -> Tree:
    """A specification for every leaf of ``tx.init(params)``: the parameter's where a buffer has its shape.

    A buffer belongs to the parameter at whose path it lies, through chains, masks, partitions and accumulation
    alike.  Where shapes differ and the specifications are JAX's, axes added in front (a history) are not split, and
    axes left out (a factored moment) leave the others split as they were, if the lengths tell which ones
    remain.  Everything else gets ``default``: counters, hyperparameters, random keys.

    Args:
      tx: a gradlab or an Optax transform.
      param_specs: for each parameter, or for the subtrees of a prefix: a ``PartitionSpec``, a ``NamedSharding``, or
        any other leaf (a memory kind, say).
      params: arrays or ``jax.ShapeDtypeStruct``; needed only where the state depends on the parameters' shapes.
      default: for all else; replicated if None.

    Returns:
      A tree like the state, for the ``out_shardings`` of a jitted init and step.

    Raises:
      ValueError: the state depends on the parameters' shapes and there are no ``params``.

    >>> import gradlab
    >>> specs = state_specs(gradlab.sgd(0.1, momentum=0.9), {'w': PartitionSpec('data'), 'b': PartitionSpec()})
    >>> tuple(specs[0].trace['w']), tuple(specs[0].trace['b'])
    (('data',), ())
    """
    if default is None:
        shardings = [spec for spec in jax.tree.leaves(param_specs) if isinstance(spec, NamedSharding)]
        default = NamedSharding(shardings[0].mesh, PartitionSpec()) if shardings else PartitionSpec()
    if params is not None:
        return _specs(tx, param_specs, params, default)
    trials = [_specs(tx, param_specs, _stand_ins(param_specs, **kind), default) for kind in _STAND_INS]
    if any(_flat(trial) != _flat(trials[0]) for trial in trials):
        raise ValueError(
            "state_specs: what this optimizer keeps for a parameter depends on the parameter's shape; pass "
            "params= as well, arrays or jax.eval_shape(model.init, ...)"
        )
    return trials[0]


_STAND_INS = ({"extra_axes": 0, "length": 256}, {"extra_axes": 1, "length": 256}, {"extra_axes": 0, "length": 2})


def _stand_ins(param_specs: Tree, extra_axes: int, length: int) -> Tree:
    def stand_in(spec):
        spec = spec.spec if isinstance(spec, NamedSharding) else spec
        rank = max(len(spec), 1) if isinstance(spec, PartitionSpec) else 1
        return jax.ShapeDtypeStruct((length,) * (rank + extra_axes), float)

    return jax.tree.map(stand_in, param_specs, is_leaf=trees.is_none)


def _flat(specs: Tree) -> tuple[list[Any], Any]:
    return jax.tree.flatten(specs, is_leaf=trees.is_none)


def _specs(tx: optax.GradientTransformation, param_specs: Tree, params: Tree, default: Any) -> Tree:
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)), params)
    paths_and_params = jax.tree_util.tree_leaves_with_path(abstract, is_leaf=trees.is_none)
    specs = trees.broadcast_prefix("param_specs", param_specs, abstract)
    known = {path: (p.shape, spec) for (path, p), spec in zip(paths_and_params, specs, strict=True) if p is not None}

    def spec_of(path, leaf):
        ends = (path[start:] for start in range(len(path) + 1))
        owner = next((end for end in ends if end in known), None)
        if owner is None:
            return jax.tree.map(lambda _: default, leaf)
        if is_kept(leaf):
            return jax.tree.map(lambda part: _spec_of_part(part.shape, *known[owner], default), leaf)
        return _spec_for_shape(leaf.shape, *known[owner], default)

    return jax.tree_util.tree_map_with_path(spec_of, jax.eval_shape(tx.init, abstract), is_leaf=is_kept)


def _spec_of_part(shape: tuple[int, ...], param_shape: tuple[int, ...], spec: Any, default: Any) -> Any:
    """That of codes, scales, residuals or factors: split along the axes that are as long as the parameter's.

    And, where the mesh is known, along those of blocks of which each device has whole ones.
    """
    if shape == param_shape:
        return spec
    if not isinstance(spec, PartitionSpec | NamedSharding):
        return default
    mesh = spec.mesh if isinstance(spec, NamedSharding) else None
    of_axis = entries(spec.spec if mesh else spec, len(param_shape))
    axes = enumerate(zip(shape, param_shape, of_axis, strict=False))
    alike = lambda n, m, entry: n == m or (mesh is not None and splits_alike(mesh, n, m, entry))
    return _split_along(spec, [axis if alike(*one) else None for axis, one in axes], len(param_shape))


def _spec_for_shape(shape: tuple[int, ...], param_shape: tuple[int, ...], spec: Any, default: Any) -> Any:
    if shape == param_shape:
        return spec
    axes = _axes_of_param(shape, param_shape)
    if axes is None or not isinstance(spec, PartitionSpec | NamedSharding):
        return default
    return _split_along(spec, axes, len(param_shape))


def _split_along(spec: PartitionSpec | NamedSharding, axes: Iterable[int | None], rank: int) -> Any:
    """The specification of a buffer whose axes are those of its parameter, or new ones where None."""
    per_axis = spec.spec if isinstance(spec, NamedSharding) else spec
    per_axis = (*per_axis, *[None] * (rank - len(per_axis)))
    split = [None if axis is None else per_axis[axis] for axis in axes]
    while split and split[-1] is None:
        split.pop()
    derived = PartitionSpec(*split)
    if isinstance(spec, NamedSharding):
        return NamedSharding(spec.mesh, derived, memory_kind=spec.memory_kind)
    return derived


def _axes_of_param(shape: tuple[int, ...], param_shape: tuple[int, ...]) -> tuple[int | None, ...] | None:
    """Which axis of the parameter each axis of a buffer is (None for a new one); None if that is not evident."""
    rank, extra = len(param_shape), len(shape) - len(param_shape)
    if extra > 0:
        return (*[None] * extra, *range(rank)) if shape[extra:] == param_shape else None
    ways = [axes for axes in itertools.combinations(range(rank), len(shape)) if _lengths(param_shape, axes) == shape]
    return ways[0] if len(ways) == 1 else None


def _lengths(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes)
