"""The transformer of a plan, as shapes: its blocks in stages, its matrices over a tensor group.

L blocks of width d with an attention (d x 3d, d x d) and a gated feed-forward of width 8d/3 (three matrices), two norms
each, and embeddings of V x d, tied to the head: ``12 L d^2 + V d`` parameters, nearly.

Over the devices of a tensor group are split (arXiv 1909.08053, section 3) the attention's first matrix, gate and up
along their outputs, the attention's second and down along their inputs, so that a block needs one sum over the group
behind its attention and one behind its feed-forward; and the embeddings along the vocabulary.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gradlab.core import check

Tree = Any

UNIT = 1024  # widths are multiples of it
LEAST, MOST = 1e8, 1e15  # parameters
ALONG = {"qkv": 1, "gate": 1, "up": 1, "out": 0, "down": 0, "embed": 0}  # which axis the group splits


def transformer_shapes(parameters: float, vocabulary: int = 65_536, dtype: Any = jnp.bfloat16) -> tuple[Tree, int, int]:
    """The parameters of a transformer of about this size as shapes, its layers and its width.

    The width is about 128 times the depth, in multiples of 1024, so that many devices divide it.

    >>> shapes, layers, width = transformer_shapes(70e9)
    >>> layers, width, round(sum(x.size for x in jax.tree.leaves(shapes)) / 1e9, 1)
    (68, 9216, 69.9)
    """
    check.in_range("parameters", parameters, LEAST, MOST)
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


def tensor_shardings(shapes: Tree, mesh: AbstractMesh, axis: str) -> Tree:
    """How the parameters are split over the devices of a tensor group, an axis of the mesh; norms are on every one.

    >>> mesh = AbstractMesh((2,), ('tensor',))
    >>> block = tensor_shardings(transformer_shapes(1e9)[0], mesh, 'tensor')['block_0']
    >>> [tuple(block['attention'][name]['kernel'].spec) for name in ('qkv', 'out')]
    [(None, 'tensor'), ('tensor',)]
    """

    def sharding_of(path, leaf):
        along = next((ALONG[key.key] for key in path if key.key in ALONG), None)
        return NamedSharding(mesh, PartitionSpec(*([] if along is None else [*[None] * along, axis])))

    return jax.tree_util.tree_map_with_path(sharding_of, shapes)


def fullest_stage(shapes: Tree, layers: int, pipeline: int) -> Tree:
    """The last one: the most blocks that a stage has, and the embeddings as head."""
    if pipeline > layers:
        raise ValueError(f"the model has {layers} blocks, too few for {pipeline} stages")
    left_out = {f"block_{number}" for number in range(math.ceil(layers / pipeline), layers)}
    return {name: part for name, part in shapes.items() if name not in left_out}


def matrices(shapes: Tree) -> list[Any]:
    """Those of the blocks."""
    blocks = [block for name, block in shapes.items() if name != "embed"]
    return [leaf for leaf in jax.tree.leaves(blocks) if len(leaf.shape) == 2]
