r"""Eight bits a number: blocks that share an exponent, with codes that are finer near zero.

With x the numbers of a block, u uniform in [0, 1), bits(x) those of a float32 read as an integer, which is nearly
``log2(x)``, and float(b) the number that has them::

    scale = the least power of two that is not below max |x|
    root(t, k) = float(bits(t) / 2^k + bits(1) - bits(1) / 2^k)   t^(1/2^k) where that is a power of two, between lines
    code = sign(x) * floor(float(bits(root(|x| / scale, 1)) + bits(127) - bits(1)) + u)                           signed
    code = max(floor(float(bits(root(x / scale, 2)) + bits(255) - bits(1)) + u), 1)                 x > 0, 0 if x = 0

The codes are nearly ``127 sqrt(|x| / scale)`` and ``255 (x / scale)^(1/4)``: fine near zero, so that what Adam divides,
and what it divides by, go down to 6e-5 and 1.5e-5 of the scale.  What is divided by is never kept as zero unless it is:
a step is not the quotient of a number that was kept and one that was lost.  The lines have an exact inverse, and x is a
line between most neighbouring codes, so that what is rounded by chance is right on average.

Rounding to the nearest code would stop an average with decay 0.999, whose steps are a thousandth of its value and less
than a code apart; rounded by chance it moves on average as it should.

The arithmetic is written for what XLA:CPU makes of it; each remark below was measured.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core.storage.rounding import bits_of, float_of, offsets

LARGEST = 253  # exponent of the largest scale, 2^126, whose inverse is not subnormal; what is larger is infinite
NO_NUMBER = 255  # exponent of infinity
ONE = 0x3F800000  # the bits of 1
SIGN = np.uint32(0x80000000)


class Blocks(NamedTuple):
    """An array in blocks along its last axes."""

    codes: jax.Array  # of the shape of the array; int8 where it takes both signs, uint8 where it does not
    exponents: jax.Array  # uint8, those of float32: (leading axes of the array, blocks in the others)


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
    row = row_axes(x.shape, block)
    return _cut(x, seed, non_negative, row, math.ceil(math.prod(x.shape[x.ndim - row :]) / block))


def to_blocks_like(x: jax.Array, seed: jax.Array, like: Blocks) -> Blocks:
    """`to_blocks` with the signs and the blocks of others, of an array of this shape."""
    row = like.codes.ndim - like.exponents.ndim + 1
    return _cut(x, seed, like.codes.dtype == jnp.uint8, row, like.exponents.shape[-1])


def _cut(x: jax.Array, seed: jax.Array, non_negative: bool, row: int, count: int) -> Blocks:
    """The codes of ``x``, of which the last ``row`` axes end to end are ``count`` blocks."""
    exponents = _exponents(x, row, count)
    inverses = float_of((254 - exponents.astype(jnp.uint32)) << 23)
    halvings, shift = _line(jnp.uint8 if non_negative else jnp.int8)
    shares = bits_of(jnp.abs(x) * _spread(inverses, x.shape)) >> halvings
    # The integer part of code + u with 15 bits of u: added to 2^23 a float has its integer part in its last bits.  None
    # is above the largest code: scales are powers of two, so that dividing by them rounds nothing.
    fixed = bits_of(float_of(shares + (shift + (15 << 23))) + 2.0**23)
    codes = (fixed + offsets(seed, x.shape, 15)) >> 15
    # Last a choice between arrays: XLA computes those once, where it repeats a conversion for each of its readers, who
    # would then still read the old codes and not let the new ones be written over them.
    if non_negative:
        return Blocks(jnp.where(x > 0, jnp.maximum(codes.astype(jnp.uint8), 1), 0), exponents)
    codes = codes.astype(jnp.int8)
    return Blocks(jnp.where(x < 0, -codes, codes), exponents)


def from_blocks(blocks: Blocks) -> jax.Array:
    """The numbers that the codes stand for, float32."""
    codes, exponents = blocks
    scales = _spread(float_of(exponents.astype(jnp.uint32) << 23), codes.shape)
    halvings, shift = _line(codes.dtype)
    bits = bits_of(codes)
    shares = ((bits & 0x7FFFFFFF) - shift) << halvings
    if codes.dtype == jnp.int8:
        shares |= bits & SIGN
    return jnp.where(codes == 0, 0.0, float_of(shares)) * scales


def _line(dtype: Any) -> tuple[int, int]:
    """How often the exponent of a share is halved, and what is added to the bits so that one has the largest code."""
    halvings, largest = (2, 255) if dtype == jnp.uint8 else (1, 127)
    return halvings, int(np.float32(largest).view(np.uint32)) - (ONE >> halvings)


def _exponents(x: jax.Array, row: int, count: int) -> jax.Array:
    """Those of the scales of all blocks, uint8."""
    lead, length = x.shape[: x.ndim - row], math.prod(x.shape[x.ndim - row :])
    size = math.ceil(length / count)
    rows = jnp.abs(x).reshape(*lead, length)
    if size * count > length:
        rows = jnp.pad(rows, [(0, 0)] * len(lead) + [(0, size * count - length)])
    # As integers: XLA computes the numbers in the loop that takes the largest integer, which it does not for floats.
    # Up to 32 at once: it makes two passes of more.
    largest = jnp.max(bits_of(rows.reshape(*lead, count, size)).astype(jnp.int32), axis=-1)
    exponents = (largest.astype(jnp.uint32) + 0x7FFFFF) >> 23
    return jnp.where(exponents > LARGEST, NO_NUMBER, exponents).astype(jnp.uint8)


def _spread(scales: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The scale of every number.

    Codes and numbers keep their shape on the way from one to the other, so that XLA may write new codes over the old.
    """
    *lead, count = scales.shape
    length = math.prod(shape[len(lead) :])
    size = math.ceil(length / count)
    spread = jnp.broadcast_to(scales[..., None], (*scales.shape, size)).reshape(*lead, count * size)
    return spread[..., :length].reshape(shape)
