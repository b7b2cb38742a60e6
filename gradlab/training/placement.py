"""Batches are put where a layout splits them before a compiled step sees them, wherever they lay."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core.axes import number_of_devices
from gradlab.core.tree import path_name
from gradlab.training.layouts import Layout

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedStep:
    """A jitted step that takes a batch from anywhere; it is traced, lowered and exported like the jitted one."""

    jitted: Callable
    layout: Layout
    parts: int

    def __call__(self, state: Tree, batch: Tree) -> tuple[Tree, dict[str, jax.Array]]:
        return self.jitted(state, self.placed(batch))

    def trace(self, state: Tree, batch: Tree) -> jax.stages.Traced:
        return self.jitted.trace(state, self.placed(batch))

    def lower(self, state: Tree, batch: Tree) -> jax.stages.Lowered:
        return self.jitted.lower(state, self.placed(batch))

    def eval_shape(self, state: Tree, batch: Tree) -> tuple[Tree, dict[str, jax.ShapeDtypeStruct]]:
        return self.jitted.eval_shape(state, self.placed(batch))

    def clear_cache(self) -> None:
        self.jitted.clear_cache()

    def placed(self, batch: Tree) -> Tree:
        """The batch split as the layout says; what lies nowhere (NumPy's, tracers, shapes) is left to the jitted step.

        Raises:
          ValueError: a leaf that the devices, and the parts of each, do not divide.
        """
        _check(batch, self.layout, self.parts)
        return jax.tree.map(self._moved, batch)

    def _moved(self, x: Any) -> Any:
        lies = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
        return jax.device_put(x, self.layout.batch) if lies and x.sharding != self.layout.batch else x


def _check(batch: Tree, layout: Layout, parts: int) -> None:
    spec = layout.batch.spec
    devices = [number_of_devices(layout.batch.mesh, entry) for entry in spec]
    within_device = 1 if layout.axis is None else parts
    for path, x in jax.tree_util.tree_leaves_with_path(batch):
        shape = jnp.shape(x)
        if len(shape) < len(devices):
            count = devices[0] * parts
            raise ValueError(
                f"make_step: the batch's leaf at '{path_name(path)}' of shape {shape} has too few axes for the layout, "
                f"which splits every leaf by {spec}: of a number or a random key give one for each part on each "
                f"device, as in jnp.full({count}, number) and jax.random.split(key, {count})"
            )
        for axis, count in enumerate(devices):
            pieces = count if axis else count * within_device
            if shape[axis] % pieces:
                divided = "over" if pieces == count else f"into parts={parts} on each of"
                raise ValueError(
                    f"make_step: the batch's leaf at '{path_name(path)}' of shape {shape} does not divide {divided} "
                    f"{count} devices along axis {axis}: its length must be a multiple of {pieces}"
                )
