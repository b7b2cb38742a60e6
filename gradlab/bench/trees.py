"""Trees of parameters with the shapes of a GPT-2, the usual load for a comparison of optimizers."""

from typing import Any

import jax
import numpy as np

Shapes = dict[str, Any]


def gpt2_shapes(width: int = 768, layers: int = 12, vocabulary: int = 50257, context: int = 1024) -> Shapes:
    """Shapes of GPT-2 in Flax's layout (in, out); the head is the transposed embedding and has no parameters.

    Args:
      width: features of the residual stream; a multiple of the head size in a real model, of no matter here.
      layers: blocks of 12 leaves each.
      vocabulary: rows of the token embedding.
      context: rows of the position embedding.

    >>> shapes = gpt2_shapes()
    >>> count_leaves(shapes), count_params(shapes)
    (148, 124439808)
    """
    blocks = {f"h_{index}": _block(width) for index in range(layers)}
    embeddings = {"wte": (vocabulary, width), "wpe": (context, width)}
    return {**embeddings, **blocks, "ln_f": _layer_norm(width)}


def _block(width: int) -> Shapes:
    return {
        "ln_1": _layer_norm(width),
        "attn": {"c_attn": _dense(width, 3 * width), "c_proj": _dense(width, width)},
        "ln_2": _layer_norm(width),
        "mlp": {"c_fc": _dense(width, 4 * width), "c_proj": _dense(4 * width, width)},
    }


def _layer_norm(width: int) -> Shapes:
    return {"scale": (width,), "bias": (width,)}


def _dense(inputs: int, outputs: int) -> Shapes:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


def count_leaves(shapes: Shapes) -> int:
    """The number of arrays."""
    return len(jax.tree.leaves(shapes, is_leaf=_is_shape))


def count_params(shapes: Shapes) -> int:
    """The number of parameters in all arrays together."""
    return sum(int(np.prod(shape)) for shape in jax.tree.leaves(shapes, is_leaf=_is_shape))


def structs(shapes: Shapes) -> Any:
    """The tree as `jax.ShapeDtypeStruct` of float32: enough to trace and to compile, without memory."""
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=_is_shape)


def normal(shapes: Shapes, seed: int, scale: float = 1.0) -> Any:
    """The tree as NumPy arrays of independent normal float32 numbers of a standard deviation."""
    rng = np.random.default_rng(seed)
    draw = lambda shape: np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)
    return jax.tree.map(draw, shapes, is_leaf=_is_shape)


SMALL_VOCABULARY = 4096  # at width 64 all of GPT-2's 50257 rows would be one leaf larger than the other 147 together

WIDTH_64 = gpt2_shapes(width=64, vocabulary=SMALL_VOCABULARY)

TREES: dict[str, Shapes] = {
    "gpt2-small": gpt2_shapes(),
    "width-64": WIDTH_64,
    "580-leaves": gpt2_shapes(width=64, layers=48, vocabulary=SMALL_VOCABULARY),
}
