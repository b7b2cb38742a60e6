"""Where a training state lies on several devices: three layouts, each a tree of shardings like the state.

::

    zero_layout     parameters on every device, slots split over the data axis        ZeRO-1, arXiv 1910.02054
    fsdp_layout     parameters and slots split over it; gathered where they are used  ZeRO-3
    layout_of       parameters as a model says (tensor parallelism), slots beside them

The first two take a model's tensor parallelism as well (``shardings``), on another axis of the mesh than the data's.
They compute gradients on each device's share of the batch (`jax.shard_map`), so that the collectives are those
that are written here, on any platform: the gradients are scattered as they are summed, and gathered are the new
parameters (zero) or those of the forward pass (fsdp).  The update itself needs none, but for norms over all leaves.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gradlab.core import check
from gradlab.core.axes import entries, number_of_devices
from gradlab.core.specs import state_specs
from gradlab.core.transform import from_optax
from gradlab.core.tree import path_name

Tree = Any


class Layout(NamedTuple):
    """Shardings of a training state, of its gradients, and of a batch."""

    params: Tree
    opt_state: Tree
    grads: Tree
    batch: NamedSharding  # of every leaf
    everywhere: NamedSharding  # of what every device holds
    axis: str | None  # of the data, where gradients are computed share by share
    near: Tree | None = None  # where the slots are while a step uses them, if they lie elsewhere in between

    def slots_on(self, memory_kind: str) -> "Layout":
        """The same with the slots in another memory between two steps, ``'pinned_host'`` say, where there is one.

        Raises:
          ValueError: the devices have no memory of this kind.
        """
        kinds = [memory.kind for memory in self.batch.mesh.devices.flat[0].addressable_memories()]
        check.one_of("memory of the device", memory_kind, kinds)
        far = jax.tree.map(lambda sharding: sharding.with_memory_kind(memory_kind), self.opt_state)
        return self._replace(opt_state=far, near=self.opt_state if self.near is None else self.near)


def zero_layout(
    tx: optax.GradientTransformation, params: Tree, mesh: Mesh, axis: str = "data", *, shardings: Tree | None = None
) -> Layout:
    """Parameters on every device, what the optimizer keeps split over an axis of the mesh.

    Args:
      tx: the optimizer.
      params: arrays or shapes.
      mesh: of devices; its axes count as automatic ones.
      axis: over which batches and slots are split.  Of each parameter the first axis is split that the devices divide;
        one that has none, such as a short bias, stays whole.
      shardings: how the model itself splits its parameters over other axes of the mesh (tensor parallelism): a
        ``NamedSharding`` for each, as for `layout_of`.  The axis then splits the first axis that these leave whole.

    Raises:
      ValueError: the mesh has no such axis, or the model splits a parameter over it.
    """
    fully = fsdp_layout(tx, params, mesh, axis, shardings=shardings)
    return fully._replace(params=_of_model(shardings, params, fully.batch.mesh))


def fsdp_layout(
    tx: optax.GradientTransformation, params: Tree, mesh: Mesh, axis: str = "data", *, shardings: Tree | None = None
) -> Layout:
    """Parameters and what the optimizer keeps split over an axis of the mesh; arguments as for `zero_layout`."""
    mesh = _automatic(mesh, axis)
    model = _of_model(shardings, params, mesh)
    _refuse_axis(axis, model)
    split = jax.tree.map(lambda leaf, sharding: _split_over(axis, leaf.shape, sharding), params, model)
    others = sorted({name for sharding in jax.tree.leaves(model) for name in _names(sharding.spec)})
    slots = _split_slots(tx, params, split, (axis, *others))
    return Layout(split, slots, split, NamedSharding(mesh, P(axis)), NamedSharding(mesh, P()), axis)


def layout_of(tx: optax.GradientTransformation, params: Tree, shardings: Tree, batch: NamedSharding) -> Layout:
    """What the optimizer keeps lies beside the parameters, wherever these lie; XLA decides about collectives.

    Args:
      tx: the optimizer.
      params: arrays or shapes.
      shardings: a ``NamedSharding`` for each parameter, as ``nn.get_sharding`` and ``nnx.get_named_sharding`` give.
      batch: of a batch.
    """
    slots = state_specs(from_optax(tx), shardings, params)
    return Layout(shardings, slots, shardings, batch, NamedSharding(batch.mesh, P()), None)


def _automatic(mesh: Mesh, axis: str) -> Mesh:
    """The mesh with automatic axes: outside of the shares XLA decides how the update is split."""
    check.one_of("axis of the mesh", axis, mesh.axis_names)
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    if isinstance(mesh, AbstractMesh):
        return AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=kinds)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def _of_model(shardings: Tree | None, params: Tree, mesh: Mesh) -> Tree:
    """How the model splits its parameters, on the mesh with automatic axes."""
    if shardings is None:
        return jax.tree.map(lambda _: NamedSharding(mesh, P()), params)
    return jax.tree.map(lambda sharding: NamedSharding(mesh, sharding.spec), shardings)


def _refuse_axis(axis: str, model: Tree) -> None:
    for path, sharding in jax.tree_util.tree_leaves_with_path(model):
        if axis in _names(sharding.spec):
            raise ValueError(
                f"`shardings` split the parameter '{path_name(path)}' over the axis {axis!r} of the mesh, "
                f"{sharding.spec}: leave that axis to the layout, which splits the batch over it"
            )


def _names(spec: P) -> set[str]:
    """The axes of the mesh in a specification."""
    return {name for entry in spec for name in _tuple(entry)}


def _tuple(entry: Any) -> tuple[str, ...]:
    return entry if isinstance(entry, tuple) else (entry,) if entry else ()


def _split_over(axis: str, shape: tuple[int, ...], sharding: NamedSharding, *, again: bool = False) -> NamedSharding:
    """Split over one more axis of the mesh, along the first axis that is whole and that its devices divide.

    Else, if ``again``, along the first that more devices divide than those that split it.
    """
    of_axis = entries(sharding.spec, len(shape))
    wholes = [place for place, entry in enumerate(of_axis) if entry is None]
    for place in wholes + [place for place, entry in enumerate(of_axis) if entry and again]:
        names = (*_tuple(of_axis[place]), axis)
        if shape[place] and shape[place] % number_of_devices(sharding.mesh, names) == 0:
            entry = names if len(names) > 1 else axis
            return NamedSharding(sharding.mesh, P(*of_axis[:place], entry, *of_axis[place + 1 :]))
    return sharding


def _split_slots(tx: Any, params: Tree, split: Tree, axes: tuple[str, ...]) -> Tree:
    """Beside the parameters; what belongs to none of them, such as the bases of stacked matrices, by itself.

    So are exponents of 8-bit blocks where a device has no whole number of these.
    """
    tx = from_optax(tx)
    beside, shapes = state_specs(tx, split, params), jax.eval_shape(tx.init, params)

    def own(sharding, leaf):
        names = _names(sharding.spec)
        over = axes if not names else axes[:1] if axes[0] not in names and len(leaf.shape) > 1 else ()
        further = lambda sharding, axis: _split_over(axis, leaf.shape, sharding, again=True)
        return functools.reduce(further, over, sharding)

    return jax.tree.map(own, beside, shapes)


def within(layout: Layout | None, function: Callable) -> Callable:
    """The function, which to be traced needs the mesh of its arguments' layout, not the explicit one that is set."""
    if layout is None or layout.axis is None:
        return function
    mesh = layout.batch.mesh.abstract_mesh

    def run(*arguments):
        if jax.sharding.get_abstract_mesh().empty:
            return function(*arguments)
        with jax.sharding.use_abstract_mesh(mesh):
            return function(*arguments)

    return run


def split_gradient(gradient: Callable, layout: Layout) -> Callable:
    """The gradient of the mean over all devices' shares of a batch, from one that computes it for a share.

    Args:
      gradient: ``(params, batch) -> ((loss, metrics), grads)`` on whole parameters.
      layout: zero or fsdp.
    """
    axis, mesh = layout.axis, layout.batch.mesh
    specs = lambda tree: jax.tree.map(lambda sharding: _only(sharding.spec, axis), tree)
    places = jax.tree.map(lambda sharding: _place(sharding.spec, axis), layout.grads)
    held = jax.tree.map(lambda sharding: _place(sharding.spec, axis), layout.params)

    def share(params, batch):
        whole = jax.tree.map(functools.partial(_gathered, axis), params, held)
        aux, grads = gradient(whole, batch)
        count = jax.lax.axis_size(axis)
        scattered = jax.tree.map(lambda g, place: _scattered(axis, g, place) / count, grads, places)
        return jax.tree.map(lambda x: jax.lax.pmean(x, axis), aux), scattered

    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(specs(layout.params), P(axis)),
        out_specs=(P(), specs(layout.grads)),
        axis_names={axis},
        check_vma=False,
    )


def _only(spec: P, axis: str) -> P:
    return P(*(name if name == axis else None for name in spec))


def _place(spec: P, axis: str) -> int:
    """Which axis of an array is split; -1 for none."""
    return next((place for place, name in enumerate(spec) if name == axis), -1)


def _gathered(axis: str, x: jax.Array, place: int) -> jax.Array:
    return x if place < 0 else jax.lax.all_gather(x, axis, axis=place, tiled=True)


def _scattered(axis: str, g: jax.Array, place: int) -> jax.Array:
    return jax.lax.psum(g, axis) if place < 0 else jax.lax.psum_scatter(g, axis, scatter_dimension=place, tiled=True)
