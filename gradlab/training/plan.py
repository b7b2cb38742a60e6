r"""What a training step of a large transformer holds and sends, planned from the state that the code would make.

The model is that of `gradlab.training.planned_model`, L blocks of width d and embeddings of V x d.  The blocks are p
stages of a pipeline, and the matrices of a stage are split over t devices, a tensor group.  What one of these holds is
split over n devices, its shards, and there are r copies of it: ``p t n r`` devices.

Let P be the parameters, of b bytes, that one of the t devices of the fullest stage would hold if n were 1, with
gradients in the same dtype; T the tokens of one of the n r; m the micro-batches in which they pass.  A device sends in
a step::

    zero   reduce-scatter of the gradients, all-gather of the parameters              2 (n - 1) / n  b P
    fsdp   two all-gathers (forward and backward), reduce-scatter, in each of m       3 m (n - 1) / n  b P
    r > 1  all-reduce of its shard of the gradients besides                           2 (r - 1) / r  b P / n
    matrix optimizers besides, for matrices that are orthogonalised or rotated whole, and back, with N = n t:
           each gathered by all, where no mesh is set                                 2 (N - 1) / N  b P_matrices
           each given to one device, ``strategy='shard'``: of M matrices m x n        2 (N - 1) / N  b m n ceil(M / N)
    t > 1  four all-reduces of a block's activations, two forward and two backward    4 L/p  2 (t - 1) / t  b d T
                                                                                      arXiv 1909.08053, section 3
    p > 1  activations to the next stage, their gradients to the one before           b d T each
                                                                                      arXiv 2104.04473, section 2.2
           all-reduce of the gradients of the embeddings, of which first and last
           stage have a copy                                                          b V d / (n t)

and of p stages each is idle for ``(p - 1) / (m + p - 1)`` of the step, which is ``(p - 1) / m`` of its work.  Not
counted: activations that are held; all-reduces behind the embeddings, half of a block's; the two forward ones of each
block that ``remat`` repeats; what optimizers keep in stacks of their own, which moves as the matrices do.

Arithmetic of the model: 6 times its parameters for each token; of Newton-Schulz on an m x n matrix, m <= n:
``iterations (4 m^2 n + 2 m^3)``.
"""

import collections
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType

from gradlab.core import check
from gradlab.core.transform import from_optax
from gradlab.core.values import describe
from gradlab.training.layouts import Layout, fsdp_layout, zero_layout
from gradlab.training.planned_model import UNIT, fullest_stage, matrices, tensor_shardings, transformer_shapes

Tree = Any

LAYOUTS = {"zero": zero_layout, "fsdp": fsdp_layout}
MOST_SHARDS = 1024
MOST_TOKENS = 1e15
NEWTON_SCHULZ = 5  # iterations
ORTHOGONAL = {"orthogonalize", "scale_by_lmo", "scale_by_muon"}  # stages that run them on every matrix
WHOLE = ORTHOGONAL | {  # stages that need each matrix whole
    "scale_by_dion", "scale_by_kl", "scale_by_psgd_kron", "scale_by_shampoo", "scale_by_sinkhorn", "scale_by_soap",
    "scale_by_splus", "scale_by_whitened_momentum",
}  # fmt: skip
WRAPPERS = ("inner_state", "inner_states", "states")  # fields of a state that hold others


class Grid(NamedTuple):
    """How the devices share the work: ``pipeline * tensor * shards * copies`` of them."""

    pipeline: int
    tensor: int
    shards: int
    copies: int


class Plan(NamedTuple):
    """Bytes on a device of the fullest stage and sent by it in a step; arithmetic of a step on all devices."""

    parameters: int
    layers: int
    width: int
    grid: Grid
    params_bytes: int
    grads_bytes: int
    slots: dict[str, int]  # by the name of the field in the state
    gathered_bytes: int  # the largest parameter, while fsdp has all that its tensor group gives it
    sent_bytes: int
    sent_for_matrices: int  # gathered by all devices of the stage that hold parts of them
    sent_to_owners: int  # given to one of these devices each
    sent_in_blocks: int  # all-reduces of activations among the devices of a tensor group
    sent_between_stages: int
    idle: float  # share of the step in which a stage waits for others
    model_flops: float
    matrix_flops: float  # of Newton-Schulz
    whole_slots: int  # bytes of the optimizer's state on all devices together, had none of it been kept twice

    @property
    def held_bytes(self) -> int:
        """All of it, without activations."""
        return self.params_bytes + self.grads_bytes + sum(self.slots.values()) + self.gathered_bytes

    @property
    def bytes_per_parameter(self) -> float:
        """Of the optimizer's state."""
        return self.whole_slots / self.parameters


def plan(
    tx: optax.GradientTransformation,
    parameters: float,
    devices: int,
    *,
    layout: str = "fsdp",
    tensor: int = 1,
    pipeline: int = 1,
    micro_batches: int = 1,
    shards: int | None = None,
    tokens: float = 4e6,
    dtype: Any = jnp.bfloat16,
) -> Plan:
    """Plans a step; nothing is allocated, and the devices need not exist.

    Args:
      tx: the optimizer; the state is the one that its ``init`` would make.
      parameters: of the model, 1e8 to 1e15.
      devices: of all stages, tensor groups and shards.
      layout: ``'fsdp'`` or ``'zero'``.
      tensor: devices over which each matrix of the model is split.
      pipeline: stages; blocks that it does not divide make some stages longer, and the longest is planned.
      micro_batches: in which the tokens of a device pass its stage, one after the other.
      shards: devices over which what one device of a tensor group holds is split; as many as there are, at most 1024,
        if None.
      tokens: in a step, of all devices.
      dtype: of parameters and gradients.

    Raises:
      ValueError: an unknown layout, numbers below one or beyond 1e15, more stages than blocks, numbers that do not
        divide the devices.

    >>> import gradlab
    >>> planned = plan(gradlab.adamw(1e-3), 7e9, 64)
    >>> [round(x / 1e9, 2) for x in (planned.params_bytes, planned.held_bytes, planned.sent_bytes)]
    [0.22, 1.42, 41.64]
    >>> planned = plan(gradlab.adamw(1e-3), 7e9, 64, tensor=8)
    >>> [round(x / 1e9, 2) for x in (planned.params_bytes, planned.held_bytes, planned.sent_bytes)]
    [0.22, 0.95, 4.63]
    """
    check.one_of("layout", layout, LAYOUTS)
    check.in_range("tokens", tokens, 1, MOST_TOKENS)
    check.in_range("micro_batches", micro_batches, 1)
    grid = _grid(devices, pipeline, tensor, shards)
    tx = from_optax(tx)
    shapes, layers, width = transformer_shapes(parameters, dtype=dtype)
    stage = fullest_stage(shapes, layers, pipeline)
    of_group, placed = _placed(tx, stage, layout, grid)
    if layout == "zero" and micro_batches > 1:
        placed = placed._replace(grads=of_group)  # added up before they are scattered
    stages = {line.strip().partition("(")[0] for line in describe(tx).splitlines()}
    whole = 2 * _ring(grid.shards * tensor) if stages & WHOLE else 0
    activations = tokens / (grid.shards * grid.copies) * width * jnp.dtype(dtype).itemsize
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        layers=layers,
        width=width,
        grid=grid,
        params_bytes=_held(stage, placed.params),
        grads_bytes=_held(stage, placed.grads),
        slots=_by_field(jax.eval_shape(tx.init, stage), placed.opt_state),
        gathered_bytes=max(_bytes_of_each(stage, of_group)) if layout == "fsdp" else 0,
        sent_bytes=_sent(_held(stage, of_group), layout, grid, micro_batches),
        sent_for_matrices=round(whole * _bytes(matrices(stage))),
        sent_to_owners=round(whole * bytes_of_owner(matrices(stage), grid.shards * tensor)),
        sent_in_blocks=round(4 * math.ceil(layers / pipeline) * 2 * _ring(tensor) * activations),
        sent_between_stages=_sent_between(activations, _bytes(shapes["embed"]), grid),
        idle=(pipeline - 1) / (micro_batches + pipeline - 1),
        model_flops=6.0 * parameters * tokens,
        matrix_flops=sum(_newton_schulz(*x.shape) for x in matrices(shapes)) if stages & ORTHOGONAL else 0.0,
        whole_slots=_bytes(jax.eval_shape(tx.init, shapes)),
    )


def _grid(devices: int, pipeline: int, tensor: int, shards: int | None) -> Grid:
    for name, value in (("devices", devices), ("pipeline", pipeline), ("tensor", tensor)):
        check.in_range(name, value, 1)
    if UNIT % tensor:
        raise ValueError(f"tensor={tensor} does not divide {UNIT}, of which the sides of all matrices are multiples")
    if devices % (pipeline * tensor):
        raise ValueError(f"{devices} devices are no whole number of {pipeline} stages of {tensor} devices each")
    replicas = devices // (pipeline * tensor)
    shards = min(replicas, MOST_SHARDS) if shards is None else shards
    check.in_range("shards", shards, 1)
    if replicas % shards:
        raise ValueError(f"{replicas} devices hold no whole number of copies of a state in {shards} shards")
    return Grid(pipeline, tensor, shards, replicas // shards)


def _placed(tx: Any, stage: Tree, layout: str, grid: Grid) -> tuple[Tree, Layout]:
    """How the model splits the parameters of a stage over the tensor group, and where all of the state then lies."""
    mesh = AbstractMesh((grid.shards, grid.tensor), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    of_group = tensor_shardings(stage, mesh, "tensor")
    return of_group, LAYOUTS[layout](tx, stage, mesh, shardings=of_group if grid.tensor > 1 else None)


def _ring(devices: int) -> float:
    """What each of them sends of an array that is gathered, or scattered as it is summed, on a ring."""
    return (devices - 1) / devices


def bytes_of_owner(matrices: list[Any], devices: int) -> int:
    """Bytes of the whole matrices of a device, those of one shape dealt out evenly.

    >>> bytes_of_owner([jax.ShapeDtypeStruct((4, 8), 'float32')] * 12, 8)  # two for each
    256
    """
    groups = collections.Counter((tuple(sorted(leaf.shape)), leaf.dtype) for leaf in matrices)
    each = lambda shape, dtype: math.prod(shape) * dtype.itemsize
    return sum(each(*group) * math.ceil(count / devices) for group, count in groups.items())


def _sent(group_bytes: int, layout: str, grid: Grid, micro_batches: int) -> int:
    times = 2 if layout == "zero" else 3 * micro_batches
    return round((times * _ring(grid.shards) + 2 * _ring(grid.copies) / grid.shards) * group_bytes)


def _sent_between(activations: float, embeddings: int, grid: Grid) -> int:
    """By a stage in the middle, if there is one; and its part of the gradients of two copies of the embeddings."""
    if grid.pipeline == 1:
        return 0
    return round(min(grid.pipeline - 1, 2) * activations + embeddings / (grid.shards * grid.tensor))


def _newton_schulz(rows: int, columns: int) -> float:
    short, long = sorted((rows, columns))
    return NEWTON_SCHULZ * (4.0 * short**2 * long + 2.0 * short**3)


def _bytes(tree: Tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _held(shapes: Tree, shardings: Tree) -> int:
    """Bytes on one device."""
    return sum(_bytes_of_each(shapes, shardings))


def _bytes_of_each(shapes: Tree, shardings: Tree) -> list[int]:
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return [math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in pairs]


def _by_field(state: Tree, shardings: Tree) -> dict[str, int]:
    """Bytes on one device by the field of the state in which they lie, without what is less than a thousandth."""
    found: dict[str, int] = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings), strict=True
    ):
        names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        name = next((name for name in names if name not in WRAPPERS), names[-1] if names else "state")
        found[name] = found.get(name, 0) + math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    least = sum(found.values()) / 1000
    return {name: size for name, size in found.items() if size > least}
