r"""Gradient noise while training, from gradients that are computed anyway: two batch sizes at every step.

With a batch of B examples cut into parts of b examples each::

    |G|^2     = (B |G_B|^2 - b |G_b|^2) / (B - b)          arXiv 1812.06162, appendix A
    tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)
    B_simple  = average of tr(Sigma) / average of |G|^2

Both are unbiased and very noisy, so they are averaged over the steps with weights that fade.  The quotient is taken of
the averages: the average of the quotients would be neither B_simple nor finite.  The error presumes that the steps are
independent and that the averaged quantities change little over the memory, ``1 / (1 - decay)`` steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import sum_of_squares
from gradlab.core.curvature import cast_like, widen
from gradlab.core.numerics import debias
from gradlab.instruments.arguments import real_params, require_outputs
from gradlab.instruments.estimate import Estimate

Tree = Any


class TwoBatch(NamedTuple):
    """Signal and noise of one step."""

    grad: Tree  # the mean gradient of the whole batch, in at least float32
    square: jax.Array  # () |G|^2, unbiased: may be negative
    trace: jax.Array  # () tr(Sigma) of one example, unbiased


class NoiseStream(NamedTuple):
    """The averages of `stream_noise`."""

    mean: jax.Array  # (2,) of |G|^2 and tr(Sigma)
    covariance: jax.Array  # (2, 2) of the two over the steps, with the same weights
    weight_square: jax.Array  # () sum of the squares of the weights
    count: jax.Array  # () steps


class StreamedNoise(NamedTuple):
    """What `streamed_noise` reads; the errors are NaN before the second step."""

    square: Estimate  # () |G|^2
    trace: Estimate  # () tr(Sigma)
    simple: Estimate  # () B_simple


def two_batch(loss: Callable, params: Tree, batch: Any, parts: int = 2) -> TwoBatch:
    """The gradient of a batch, and |G|^2 and tr(Sigma) from those of its parts.  Cost: 1 G.

    Args:
      loss: ``(params, batch) -> scalar``, the mean over the examples; static under `jax.jit`.
      params: any tree of real floating-point arrays.
      batch: a tree of arrays whose first axis is that of the examples.
      parts: (static) pieces of equal size, one after the other; the more, the smaller the variance.

    Raises:
      ValueError: fewer than 2 parts, or a batch that cannot be cut into them.
      TypeError: a parameter or the loss is not of a real floating-point dtype.

    >>> step = two_batch(lambda p, x: jnp.mean(0.5 * (p - x) ** 2), jnp.array(0.0), jnp.array([1.0, 2.0, 3.0, 6.0]), 4)
    >>> [round(float(x), 3) for x in step]
    [-3.0, 7.833, 4.667]
    """
    check.in_range("parts", parts, 2)
    params, batch = real_params("two_batch", params), jax.tree.map(jnp.asarray, batch)
    lengths = {trees.path_name(path): x.shape[:1] for path, x in jax.tree_util.tree_leaves_with_path(batch)}
    if len(set(lengths.values())) != 1 or any(not length or length[0] % parts for length in lengths.values()):
        raise ValueError(f"two_batch: cannot cut a batch of lengths {lengths} into {parts} parts of one size")
    require_outputs("two_batch", loss, params, batch, axes=0)
    ((examples,),) = set(lengths.values())
    pieces = jax.tree.map(lambda x: x.reshape(parts, examples // parts, *x.shape[1:]), batch)
    wide = widen(params)

    def add(carry, piece):
        grads, square = carry
        grad = jax.grad(lambda wide: loss(cast_like(wide, params), piece))(wide)
        return (
            jax.tree.map(lambda sum_, g: sum_ + g / parts, grads, grad),
            square + sum_of_squares(grad) / parts,
        ), None

    start = trees.zeros_like(wide), jnp.zeros([], trees.real_dtype(wide))
    (grad, small), _ = jax.lax.scan(add, start, pieces)
    return TwoBatch(grad, *unbiased(small, sum_of_squares(grad), examples // parts, examples))


def unbiased(small_square: Any, big_square: Any, small: Any, big: Any) -> tuple[jax.Array, jax.Array]:
    """|G|^2 and tr(Sigma) from the squared norms of mean gradients of ``small`` and of ``big`` examples.

    For gradients that are there already, of devices and of all together, say.

    >>> square, trace = unbiased(5.0, 2.0, 1, 4)
    >>> round(float(square), 6), round(float(trace), 6)
    (1.0, 4.0)
    """
    square = (big * big_square - small * small_square) / (big - small)
    return jnp.asarray(square), jnp.asarray((small_square - big_square) / (1 / small - 1 / big))


def noise_stream(dtype: Any = None) -> NoiseStream:
    """Averages of no steps yet, in ``dtype`` or the default float."""
    number = lambda *shape: jnp.zeros(shape, dtype)
    return NoiseStream(number(2), number(2, 2), number(), jnp.zeros([], jnp.int32))


def stream_noise(stream: NoiseStream, square: Any, trace: Any, decay: Any = 0.99) -> NoiseStream:
    """The averages with one more step.  Cost: none.  A NaN stays in them: the run has no noise scale from there on.

    Args:
      stream: from `noise_stream`, or of the step before.
      square: |G|^2 of this step.
      trace: tr(Sigma) of this step.
      decay: in [0, 1); the weights are those of an average without bias towards zero.

    >>> stream = noise_stream()
    >>> for square, trace in [(1.0, 8.0), (3.0, 4.0)]:
    ...     stream = stream_noise(stream, square, trace, decay=0.5)
    >>> [round(float(x), 4) for x in stream.mean]  # weights 1/3 and 2/3
    [2.3333, 5.3333]
    """
    check.decay_rate(decay=decay)
    count = stream.count + 1
    weight = jnp.asarray((1 - decay) / debias(decay, count), stream.mean.dtype)
    apart = jnp.stack([square, trace]).astype(stream.mean.dtype) - stream.mean
    return NoiseStream(
        stream.mean + weight * apart,
        (1 - weight) * (stream.covariance + weight * jnp.outer(apart, apart)),
        (1 - weight) ** 2 * stream.weight_square + weight**2,
        count,
    )


def streamed_noise(stream: NoiseStream) -> StreamedNoise:
    """|G|^2, tr(Sigma) and B_simple from the averages, with standard errors.

    >>> stream = stream_noise(stream_noise(noise_stream(), 1.0, 8.0), 3.0, 4.0)
    >>> [round(float(x), 2) for x in streamed_noise(stream).simple]
    [2.99, 2.49]
    """
    square, trace = stream.mean
    shrink = stream.weight_square / (1 - stream.weight_square)
    covariance = jnp.where(stream.count < 2, jnp.nan, stream.covariance * shrink)
    simple = trace / square
    slopes = jnp.stack([-simple, jnp.ones_like(simple)]) / square
    error = jnp.sqrt(jnp.diag(covariance))
    return StreamedNoise(
        Estimate(square, error[0]), Estimate(trace, error[1]), Estimate(simple, jnp.sqrt(slopes @ covariance @ slopes))
    )
