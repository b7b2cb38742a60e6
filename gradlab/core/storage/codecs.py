"""How one array is kept between two steps: what each storage makes of it, and how the array comes back.

What an array became says by its type how to read it, so `decoded` needs nothing else.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core import check
from gradlab.core.axes import automatic
from gradlab.core.storage.blocks import Blocks, from_blocks, to_blocks, to_blocks_like
from gradlab.core.storage.rounding import joined, split, stochastic_bfloat16


class Split(NamedTuple):
    """An array in bfloat16, and the bits that bfloat16 drops."""

    high: jax.Array  # bfloat16, the nearest
    low: jax.Array  # int8 or int16, like high


class Factors(NamedTuple):
    """An array that is kept as the product of its row and column means; see `gradlab.optimizers.factored`."""

    rows: jax.Array  # float32, of length 1 along the largest axis
    columns: jax.Array  # float32, of length 1 along the second largest axis


class Parts(NamedTuple):
    """A complex array."""

    real: Any
    imag: Any


KEPT_AS = (Blocks, Split, Factors, Parts)


@dataclasses.dataclass(frozen=True)
class Float32:
    """Single precision, also for the buffers of parameters that have less."""

    is_random = False

    def encoded(self, x: jax.Array, seed: jax.Array, non_negative: bool) -> Any:
        del seed, non_negative
        return x


@dataclasses.dataclass(frozen=True)
class BFloat16:
    """Two bytes: float32 without the last 16 bits of its mantissa, rounded to the nearest or ``stochastic``.

    Rounded to the nearest, an average with decay 0.999 stands still once its steps are below 2^-9 of its value.
    """

    stochastic: bool = False

    @property
    def is_random(self) -> bool:
        return self.stochastic

    def encoded(self, x: jax.Array, seed: jax.Array, non_negative: bool) -> Any:
        del non_negative
        return stochastic_bfloat16(x, seed) if self.stochastic else x.astype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class Residual:
    """Three bytes: bfloat16 and 8 more bits of the mantissa, the last of them rounded by chance."""

    is_random = True

    def encoded(self, x: jax.Array, seed: jax.Array, non_negative: bool) -> Any:
        del non_negative
        return Split(*split(x, seed, 8))


@dataclasses.dataclass(frozen=True)
class Int8:
    """One byte and the share of an exponent; see `gradlab.core.storage.blocks`.

    Args:
      block: most numbers that share an exponent of one byte; above 32 XLA:CPU takes longer.
      least: arrays of fewer numbers stay float32, and those of none.

    Raises:
      ValueError: no whole number, ``block`` below 1 or ``least`` below 0.
    """

    block: int = 32
    least: int = 4096
    is_random = True

    def __post_init__(self):
        check.whole("block", self.block, 1)
        check.whole("least", self.least, 0)

    def encoded(self, x: jax.Array, seed: jax.Array, non_negative: bool) -> Any:
        if x.size < max(self.least, 1):
            return x
        blocks = functools.partial(to_blocks, non_negative=non_negative, block=self.block)
        return automatic(blocks, (x, seed), like=x)


@dataclasses.dataclass(frozen=True)
class Factored:
    """The means of rows and columns of what is never negative: Adafactor's second moment in any optimizer.

    The product of the means has these means itself, so that the average of such products is the product of averages:
    Adam's ``nu`` becomes the factored average of arXiv 1804.04235 with the decay ``b2``.

    Args:
      least: arrays without two axes of this length, or of 2 where it is less, stay float32.

    Raises:
      ValueError: ``least`` is no whole number or below 0.
    """

    least: int = 128
    is_random = False

    def __post_init__(self):
        check.whole("least", self.least, 0)

    def encoded(self, x: jax.Array, seed: jax.Array, non_negative: bool) -> Any:
        del seed
        dims = factored_dims(x.shape, max(self.least, 2)) if non_negative else None
        if dims is None:
            return x
        return _means(x, *dims)


Codec = Float32 | BFloat16 | Residual | Int8 | Factored

CODECS: dict[str, Codec] = {
    "float32": Float32(),
    "bfloat16": BFloat16(),
    "bfloat16_stochastic": BFloat16(stochastic=True),
    "bfloat16_residual": Residual(),
    "int8": Int8(),
    "factored": Factored(),
}

Storage = str | Codec | Mapping[str, str | Codec] | None


def codec(storage: str | Codec) -> Codec:
    """The codec of a name, or the codec itself.

    Raises:
      ValueError: an unknown name.

    >>> codec('int8')
    Int8(block=32, least=4096)
    """
    if isinstance(storage, Codec):
        return storage
    check.one_of("storage", storage, CODECS)
    return CODECS[storage]


def factored_dims(shape: tuple[int, ...], min_dim_size_to_factor: int) -> tuple[int, int] | None:
    """The two largest axes, the largest last (of equal ones the last); None if they are too small to factor.

    >>> factored_dims((3, 3, 128, 256), 128), factored_dims((128, 64), 128), factored_dims((128,), 1)
    ((2, 3), None, None)
    """
    if len(shape) < 2:
        return None
    second, first = np.argsort(shape, kind="stable")[-2:]
    return (int(second), int(first)) if shape[second] >= min_dim_size_to_factor else None


def encoded(how: Codec, x: jax.Array, seed: jax.Array, *, non_negative: bool = False) -> Any:
    """One array of real or complex numbers as it is kept.

    >>> kept = encoded(Int8(least=1), jnp.array([0.0, 1.0, -4.0]), jnp.uint32(0))
    >>> decoded(kept).tolist()[::2]
    [0.0, -4.0]
    """
    if jnp.iscomplexobj(x):
        return Parts(*(_encoded(how, part, seed, non_negative) for part in (x.real, x.imag)))
    return _encoded(how, x, seed, non_negative)


def _inline_encoded(how: Codec, x: jax.Array, seed: jax.Array, non_negative: bool) -> Any:
    return how.encoded(x.astype(jnp.float32), seed, non_negative)


_encoded = jax.jit(_inline_encoded, static_argnums=(0, 3))


@jax.jit
def encoded_like(x: jax.Array, like: Any, seed: jax.Array) -> Any:
    """One array as another of its shape is kept: in the same blocks, in factors of the same axes, in the same dtype.

    >>> like = encoded(Int8(block=2, least=1), jnp.ones(4), jnp.uint32(0))
    >>> encoded_like(jnp.array([1.0, 0.0, -4.0, 0.0]), like, jnp.uint32(0)).exponents.shape
    (2,)
    """
    if isinstance(like, Parts):
        parts = zip((x.real, x.imag), like, strict=True)
        return Parts(*(encoded_like(part, of, seed) for part, of in parts))
    if not is_kept(like):
        return x.astype(like.dtype)
    x = x.astype(jnp.float32)
    if isinstance(like, Blocks):
        return automatic(to_blocks_like, (x, seed, like), like=x)
    if isinstance(like, Split):
        return Split(*split(x, seed, 8 * like.low.dtype.itemsize))
    return _means(x, _averaged_axis(like.columns, x), _averaged_axis(like.rows, x))


def put_together(tree: Any) -> Any:
    """The tree with what is kept as several arrays as it was made, where a mapping of these has taken its place.

    Flax's ``nnx.Optimizer`` leaves such mappings behind after a step.

    >>> put_together({'w': {'high': jnp.ones(2, jnp.bfloat16), 'low': jnp.zeros(2, jnp.int8)}})['w']._fields
    ('high', 'low')
    """
    whole = lambda node: node if _kind_of(node) is None else _kind_of(node)(**node)
    return jax.tree.map(whole, tree, is_leaf=lambda node: _kind_of(node) is not None)


_KIND_BY_FIELDS = {frozenset(kind._fields): kind for kind in (Blocks, Split, Factors)}


def _kind_of(node: Any) -> type | None:
    if not isinstance(node, Mapping):
        return None
    kind = _KIND_BY_FIELDS.get(frozenset(node))
    parts = [] if kind is None else [node[name] for name in kind._fields]
    if not all(hasattr(part, "dtype") for part in parts):
        return None
    if kind is Factors:
        (rows, columns), wide = parts, jnp.float32
        return kind if rows.dtype == columns.dtype == wide and rows.shape != columns.shape else None
    return kind if parts and jnp.issubdtype(parts[1].dtype, jnp.integer) else None


@jax.jit
def decoded(kept: Any) -> jax.Array:
    """The float32 or complex64 array that was kept."""
    if isinstance(kept, Parts):
        return jax.lax.complex(decoded(kept.real), decoded(kept.imag))
    if isinstance(kept, Blocks):
        return from_blocks(kept)
    if isinstance(kept, Split):
        return joined(*kept)
    if isinstance(kept, Factors):
        return _product(*kept)
    return kept.astype(jnp.float32)


def _means(x: jax.Array, second: int, first: int) -> Factors:
    return Factors(jnp.mean(x, first, keepdims=True), jnp.mean(x, second, keepdims=True))


def _averaged_axis(means: jax.Array, of: jax.Array) -> int:
    """The axis that was averaged away."""
    return next(axis for axis, (n, m) in enumerate(zip(of.shape, means.shape, strict=True)) if m == 1 and n > 1)


def _product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    mean = jnp.mean(rows, _averaged_axis(columns, rows), keepdims=True)
    product = rows / jnp.where(mean > 0, mean, 1) * columns
    least = jnp.finfo(product.dtype).tiny  # a divisor does not become zero by being small
    return jnp.where((rows == 0) | (columns == 0), 0, jnp.maximum(product, least))


def is_kept(node: Any) -> bool:
    return isinstance(node, KEPT_AS)
