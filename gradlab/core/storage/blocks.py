r"""Eight bits a number: blocks that share a scale, with codes that are finer near zero.

With x the numbers of a block, u uniform in [0, 1) and floor as usual::

    scale = max |x|
    code = sign(x) * floor(127 * (|x| / scale)^(1/2) + u)         signed, x = sign(code) * scale * (code / 127)^2
    code = floor(255 * (x / scale)^(1/4) + u)                     x >= 0, x = scale * (code / 255)^4

The root of a second moment is kept as the first moment is: its code is the square root of ``sqrt(x)``.  So what Adam
divides, and what it divides by, go down to 6e-5 and 1.5e-5 of the largest in their block, and a step is never the
quotient of a number that was kept and one that was lost.

Rounding to the nearest code would stop an average with decay 0.999, whose steps are a thousandth of its value and less
than a code apart; rounded by chance it moves on average as it should.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core.storage.rounding import bits_of, float_of, offsets

SMALLEST_SCALE = 2.0**-120  # a block below it is stored as zeros


class Blocks(NamedTuple):
    """An array in blocks along its last axes."""

    codes: jax.Array  # of the shape of the array; int8 where it takes both signs, uint8 where it does not
    scales: jax.Array  # float32 (leading axes of the array, blocks in the others)


def row_axes(shape: tuple[int, ...], block: int) -> int:
    """How many last axes are laid end to end and cut in blocks: as few as fill one.

    >>> row_axes((768, 3072), 32), row_axes((3, 3, 64, 8), 32), row_axes((5,), 32)
    (1, 2, 1)
    """
    count = 1
    while count < len(shape) and math.prod(shape[-count:]) < block:
        count += 1
    return count


def to_blocks(x: jax.Array, seed: jax.Array, *, non_negative: bool, block: int) -> Blocks:
    """The codes of ``x``; a block with an infinity or a NaN has none but such numbers afterwards.

    Args:
      x: float32 with one axis or more.
      seed: () uint32, from which the rounding is drawn.
      non_negative: whether no number is below zero.
      block: most numbers that share a scale.
    """
    lead, row = x.shape[: x.ndim - row_axes(x.shape, block)], x.shape[x.ndim - row_axes(x.shape, block) :]
    count = math.ceil(math.prod(row) / block)
    magnitudes = _cut(jnp.abs(x), (*lead, count))
    # As integers: XLA:CPU computes the numbers inside of the loop that takes the largest, which it does not for floats.
    scales = float_of(jnp.max(bits_of(magnitudes).astype(jnp.int32), axis=-1))
    scales = jnp.where(scales < SMALLEST_SCALE, 0, scales)
    inverses = jnp.where(scales == 0, 0, 1 / scales)
    y = jnp.sqrt(_whole(magnitudes * inverses[..., None], x.shape))
    top = 127
    if non_negative:
        y, top = jnp.sqrt(y), 255
    chance = offsets(seed, x.shape, 16).astype(jnp.int32).astype(jnp.float32) * 2.0**-16
    codes = jnp.minimum(jnp.floor(y * top + chance), top)
    if not non_negative:
        codes = jnp.where(x < 0, -codes, codes)
    return Blocks(codes.astype(jnp.int32).astype(jnp.uint8 if non_negative else jnp.int8), scales)


def from_blocks(blocks: Blocks) -> jax.Array:
    """The numbers that the codes stand for, float32."""
    codes, scales = blocks
    if codes.dtype == jnp.uint8:
        root = codes.astype(jnp.float32) * (1 / 255)
        magnitudes = (root * root) * (root * root)
    else:
        root = codes.astype(jnp.float32) * (1 / 127)
        magnitudes = root * jnp.abs(root)
    return _whole(_cut(magnitudes, scales.shape) * scales[..., None], codes.shape)


def _cut(x: jax.Array, blocks: tuple[int, ...]) -> jax.Array:
    """``x`` with its last axes laid end to end and cut in blocks of one length; zeros after the last number."""
    *lead, count = blocks
    length = math.prod(x.shape[len(lead) :])
    size = math.ceil(length / count)
    rows = x.reshape(*lead, length)
    if size * count > length:
        rows = jnp.pad(rows, [(0, 0)] * len(lead) + [(0, size * count - length)])
    return rows.reshape(*lead, count, size)


def _whole(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    *lead, count, size = blocks.shape
    length = math.prod(shape[len(lead) :])
    return blocks.reshape(*lead, count * size)[..., :length].reshape(shape)
