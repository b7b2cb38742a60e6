"""Rounding float32 numbers to shorter ones by arithmetic on their bits: to the nearest, or up and down by chance.

A float32 number is its sign and an integer that grows with its magnitude.  To shorten it by k bits is to divide that
integer by 2^k; a rounded-up mantissa carries into the exponent by itself.
"""

import jax
import jax.numpy as jnp
import numpy as np

WEYL = 0x9E3779B9  # 2^32 divided by the golden ratio, odd
NOT_FINITE = 0x7F800000  # from here on the bits of a magnitude mean infinity or NaN
NAN = 0x7FC00000


def offsets(seed: jax.Array, shape: tuple[int, ...], bits: int) -> jax.Array:
    """Whole numbers below ``2**bits``, uniform each over random seeds: the thresholds of stochastic rounding.

    ``seed + sum over axes of index * constant`` modulo 2^32, a Weyl sequence: from step to step each entry is
    independent if the seeds are, and within a step the entries are spread more evenly than by chance.  It costs an
    addition an entry, and needs no gather and no position in a flattened array, so that it shards like the array.

    Args:
      seed: () uint32.
      shape: of the result.
      bits: 1 to 24.

    >>> jnp.bincount(offsets(jnp.uint32(7), (800,), 3)).tolist()
    [101, 101, 99, 99, 101, 100, 100, 99]
    """
    total = seed
    for axis in range(len(shape)):
        constant = np.uint32(pow(WEYL, axis + 1, 2**32))
        total = total + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * constant
    return jnp.broadcast_to(total >> np.uint32(32 - bits), shape)


def bits_of(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)


def float_of(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def bfloat16_of(bits: jax.Array) -> jax.Array:
    """The numbers whose bits are those of bfloat16 numbers with 16 zeros behind.

    By a conversion, which changes nothing: XLA:CPU computes it once for all readers, as it does not with a bitcast.
    """
    return float_of(bits).astype(jnp.bfloat16)


def _quiet(bits: jax.Array) -> jax.Array:
    """Bits whose NaNs are all the one that stays NaN when its lower half is dropped."""
    return jnp.where((bits & 0x7FFFFFFF) > NOT_FINITE, NAN, bits)


def stochastic_bfloat16(x: jax.Array, seed: jax.Array) -> jax.Array:
    """One of the two bfloat16 numbers around ``x``, the nearer one with the greater probability: its mean is ``x``.

    Numbers that bfloat16 has are kept, infinities and NaN too.

    >>> rounded = stochastic_bfloat16(jnp.full(1024, 1 + 2**-9), jnp.uint32(0)).astype(jnp.float32)
    >>> sorted(set(rounded.tolist())), round(float(rounded.mean()), 5), round(1 + 2**-9, 5)
    ([1.0, 1.0078125], 1.00195, 1.00195)
    """
    bits = _quiet(bits_of(x))
    finite = (bits & 0x7FFFFFFF) < NOT_FINITE
    return bfloat16_of(jnp.where(finite, bits + offsets(seed, x.shape, 16), bits) >> 16 << 16)


def split(x: jax.Array, seed: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """``x`` as the nearest bfloat16 number and what is left of it, an integer of 8 or 16 bits.

    The integer counts the units of the 24- or 32-bit number in which bfloat16 drops its last bits, so that with 16 the
    two together are ``x`` itself.  With 8 the last bits are rounded by chance, and the mean of `joined` is ``x``.
    """
    whole = _quiet(bits_of(x))
    finite = (whole & 0x7FFFFFFF) < NOT_FINITE
    if bits == 8:
        whole = jnp.where(finite, whole + offsets(seed, x.shape, 8), whole) >> 8
    half = np.uint32(1 << (bits - 1))
    high = (whole + half) >> bits
    low = (whole - (high << bits)).astype(jnp.int32).astype(jnp.int8 if bits == 8 else jnp.int16)
    return bfloat16_of(high << 16), jnp.where(finite, low, 0)


def joined(high: jax.Array, low: jax.Array) -> jax.Array:
    """The float32 numbers that `split` took apart.

    Where ``high`` is zero and ``low`` negative, which `split` never makes, ``low`` counts for nothing.

    >>> joined(*split(jnp.array([3.14159274]), jnp.uint32(0), 16))
    Array([3.1415927], dtype=float32)
    """
    bits = 8 if low.dtype == jnp.int8 else 16
    top = jax.lax.bitcast_convert_type(high, jnp.uint16).astype(jnp.uint32)
    low = low.astype(jnp.int32)
    low = jnp.where((top & 0x7FFF) == 0, jnp.maximum(low, 0), low)
    return float_of(((top << bits) + low.astype(jnp.uint32)) << (16 - bits))
