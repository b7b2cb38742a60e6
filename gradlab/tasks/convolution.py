"""Convolutions as products of matrices: on a CPU, ten times as fast inside of a compiled loop.

XLA:CPU prepares convolutions for its fast kernels only at the top of a program.  Inside of a scan, and so in every
training run that is one program, the backward pass of a convolution takes 12 to 15 times as long as outside.  A
convolution is also a product of the patches of its input with its kernel,

    out[b, y, x, :] = sum over i, j of in[b, s y + d i, s x + d j, :] @ kernel[i, j]

with stride s and dilation d, and products are fast everywhere.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def patch_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """``jax.lax.conv_general_dilated`` that multiplies patches with the kernel on a CPU, for small kernels.

    Its place is ``nn.Conv(..., conv_general_dilated=patch_convolution)``, of Linen and of NNX.  The patches take the
    memory of the input times the number of places in the kernel.  Grouped and transposed convolutions, other layouts
    than Flax's (batch, space, channels), and other platforms are left to JAX.

    >>> images, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    >>> sums = patch_convolution(images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    >>> sums[0, 0, :, 0].tolist()
    [4.0, 6.0, 6.0, 4.0]
    """
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    rank = lhs.ndim - 2
    space = tuple(range(1, rank + 1))
    usual = numbers == jax.lax.ConvDimensionNumbers(
        (0, rank + 1, *space), (rank + 1, rank, *range(rank)), (0, rank + 1, *space)
    )
    whole = all(step == 1 for step in lhs_dilation or ()) and feature_group_count == batch_group_count == 1
    whole = whole and out_sharding is None
    if not usual or not whole or jax.default_backend() != "cpu":
        placed = {} if out_sharding is None else {"out_sharding": out_sharding}
        return jax.lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
            feature_group_count, batch_group_count, precision, preferred_element_type, **placed,
        )  # fmt: skip
    sizes, dilation = rhs.shape[:rank], tuple(rhs_dilation or (1,) * rank)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        reach = [(size - 1) * step + 1 for size, step in zip(sizes, dilation, strict=True)]
        padding = jax.lax.padtype_to_pads([lhs.shape[axis] for axis in space], reach, strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *((low, high) for low, high in padding), (0, 0)))
    patches = jnp.concatenate(_patches(padded, sizes, strides, dilation), axis=-1)
    kernel = rhs.reshape(-1, rhs.shape[-1])
    return jnp.matmul(patches, kernel, precision=precision, preferred_element_type=preferred_element_type)


def _patches(
    padded: jax.Array, sizes: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> list[jax.Array]:
    """The input as each place of the kernel sees it."""
    lengths = padded.shape[1:-1]
    counts = [
        (length - (size - 1) * step - 1) // stride + 1
        for length, size, step, stride in zip(lengths, sizes, dilation, strides, strict=True)
    ]
    seen = []
    for place in itertools.product(*map(range, sizes)):
        begins = [index * step for index, step in zip(place, dilation, strict=True)]
        cuts = [
            slice(begin, begin + (count - 1) * stride + 1, stride)
            for begin, count, stride in zip(begins, counts, strides, strict=True)
        ]
        seen.append(padded[:, *cuts, :])
    return seen
