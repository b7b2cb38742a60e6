r"""What a training step of a large transformer holds and sends, planned from the state that the code would make.

The model: L blocks of width d with an attention (d x 3d, d x d) and a gated feed-forward of width 8d/3 (three
matrices), two norms each, and embeddings of V x d, tied to the head: ``12 L d^2 + V d`` parameters, nearly.  The state
is split over n devices, its shards, and there are r copies of it.  With P parameters of b bytes, and gradients in the
same dtype, a device sends in a step::

    zero   reduce-scatter of the gradients, all-gather of the parameters              2 (n - 1) / n  b P
    fsdp   two all-gathers (forward, and backward with remat), reduce-scatter         3 (n - 1) / n  b P
    r > 1  all-reduce of its shard of the gradients besides                           2 (r - 1) / r  b P / n
    matrix optimizers besides: matrices gathered where they are orthogonalised or rotated, and scattered again:
                                                                                      2 (n - 1) / n  b P_matrices

Arithmetic of the model, for T tokens: 6 P T; of Newton-Schulz on an m x n matrix, m <= n: iterations (4 m^2 n + 2 m^3).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType

from gradlab.core import check
from gradlab.core.transform import from_optax
from gradlab.core.values import describe
from gradlab.training.layouts import fsdp_layout, zero_layout

Tree = Any

LAYOUTS = {"zero": zero_layout, "fsdp": fsdp_layout}
GATHERS = {"zero": 1, "fsdp": 2}  # of the parameters in a step
UNIT = 1024  # widths are multiples of it
MOST_SHARDS = 1024
NEWTON_SCHULZ = 5  # iterations
ORTHOGONAL = {"orthogonalize", "scale_by_lmo", "scale_by_muon"}  # stages that run them on every matrix
WHOLE = ORTHOGONAL | {  # stages that need each matrix whole
    "scale_by_dion", "scale_by_kl", "scale_by_psgd_kron", "scale_by_shampoo", "scale_by_sinkhorn", "scale_by_soap",
    "scale_by_splus", "scale_by_whitened_momentum",
}  # fmt: skip
WRAPPERS = ("inner_state", "inner_states", "states")  # fields of a state that hold others


class Plan(NamedTuple):
    """Bytes on a device and sent by it in a step; arithmetic of a step on all devices."""

    parameters: int
    layers: int
    width: int
    shards: int
    params_bytes: int
    grads_bytes: int
    slots: dict[str, int]  # by the name of the field in the state
    gathered_bytes: int  # the largest parameter, while fsdp has it whole
    sent_bytes: int
    sent_for_matrices: int
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


def transformer_shapes(parameters: float, vocabulary: int = 65_536, dtype: Any = jnp.bfloat16) -> tuple[Tree, int, int]:
    """The parameters of a transformer of about this size as shapes, its layers and its width.

    The width is about 128 times the depth, in multiples of 1024, so that many devices divide it.

    >>> shapes, layers, width = transformer_shapes(70e9)
    >>> layers, width, round(sum(x.size for x in jax.tree.leaves(shapes)) / 1e9, 1)
    (68, 9216, 69.9)
    """
    check.in_range("parameters", parameters, 1e8)
    width = max(UNIT * round((128 * parameters / 12) ** (1 / 3) / UNIT), UNIT)
    layers = max(round((parameters - vocabulary * width) / (12 * width**2)), 1)
    hidden = round(8 * width / 3 / UNIT) * UNIT
    leaf = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    block = lambda: {
        "attention": {"qkv": {"kernel": leaf(width, 3 * width)}, "out": {"kernel": leaf(width, width)}},
        "feed_forward": {
            "gate": {"kernel": leaf(width, hidden)},
            "up": {"kernel": leaf(width, hidden)},
            "down": {"kernel": leaf(hidden, width)},
        },
        "norm_0": {"scale": leaf(width)},
        "norm_1": {"scale": leaf(width)},
    }
    shapes = {f"block_{number}": block() for number in range(layers)} | {
        "embed": {"embedding": leaf(vocabulary, width)},
        "norm": {"scale": leaf(width)},
    }
    return shapes, layers, width


def plan(
    tx: optax.GradientTransformation,
    parameters: float,
    devices: int,
    *,
    layout: str = "fsdp",
    shards: int | None = None,
    tokens: float = 4e6,
    dtype: Any = jnp.bfloat16,
) -> Plan:
    """Plans a step; nothing is allocated, and the devices need not exist.

    Args:
      tx: the optimizer; the state is the one that its ``init`` would make.
      parameters: of the model.
      devices: over which the data is split.
      layout: ``'fsdp'`` or ``'zero'``.
      shards: devices over which a copy of the state is split; at most 1024 if None.
      tokens: in a step.
      dtype: of parameters and gradients.

    Raises:
      ValueError: an unknown layout, numbers below one, shards that do not divide the devices.

    >>> import gradlab
    >>> planned = plan(gradlab.adamw(1e-3), 7e9, 64)
    >>> [round(x / 1e9, 2) for x in (planned.params_bytes, planned.held_bytes, planned.sent_bytes)]
    [0.22, 1.42, 41.64]
    """
    check.one_of("layout", layout, LAYOUTS)
    check.in_range("devices", devices, 1)
    check.in_range("tokens", tokens, 1)
    shards = min(devices, MOST_SHARDS) if shards is None else shards
    check.in_range("shards", shards, 1)
    if devices % shards:
        raise ValueError(f"{devices} devices hold no whole number of copies of a state in {shards} shards")
    tx = from_optax(tx)
    shapes, layers, width = transformer_shapes(parameters, dtype=dtype)
    mesh = AbstractMesh((shards,), ("data",), axis_types=(AxisType.Auto,))
    placed = LAYOUTS[layout](tx, shapes, mesh)
    state = jax.eval_shape(tx.init, shapes)
    total = _bytes(shapes)
    ring, copies = (shards - 1) / shards, devices // shards
    matrices = [leaf for name, block in shapes.items() if name != "embed" for leaf in jax.tree.leaves(block)]
    matrices = [leaf for leaf in matrices if len(leaf.shape) == 2]
    stages = {line.strip().partition("(")[0] for line in describe(tx).splitlines()}
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        layers=layers,
        width=width,
        shards=shards,
        params_bytes=_held(shapes, placed.params),
        grads_bytes=_held(shapes, placed.grads),
        slots=_by_field(state, placed.opt_state),
        gathered_bytes=max(_bytes(leaf) for leaf in jax.tree.leaves(shapes)) if layout == "fsdp" else 0,
        sent_bytes=round(ring * total * (1 + GATHERS[layout]) + 2 * (copies - 1) / copies * total / shards),
        sent_for_matrices=round(2 * ring * _bytes(matrices)) if stages & WHOLE else 0,
        model_flops=6.0 * parameters * tokens,
        matrix_flops=sum(_newton_schulz(*leaf.shape) for leaf in matrices) if stages & ORTHOGONAL else 0.0,
        whole_slots=_bytes(state),
    )


def _newton_schulz(rows: int, columns: int) -> float:
    short, long = sorted((rows, columns))
    return NEWTON_SCHULZ * (4.0 * short**2 * long + 2.0 * short**3)


def _bytes(tree: Tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _held(shapes: Tree, shardings: Tree) -> int:
    """Bytes on one device."""
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in pairs)


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
