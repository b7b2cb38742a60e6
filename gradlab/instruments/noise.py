r"""Gradient noise from per-example gradients: how much of a batch's gradient is signal, and which batch size pays.

With g_i the gradient of example i, G its expectation, Sigma its covariance, and B examples::

    B_simple = tr(Sigma) / |G|^2              B_noise = tr(H Sigma) / G' H G         arXiv 1812.06162
    norm^2   = tr(Sigma) / (B |G|^2)          inner^2 = G' Sigma G / (B |G|^4)       arXiv 1710.11258
    ortho^2  = norm^2 - inner^2               CABS    = rate * tr(Sigma) / loss      arXiv 1612.05086

B_noise and B_simple are quotients of estimates, which presume that the denominator is well above its error.

The mean gradient of a batch is too long, by tr(Sigma) / B in the square; the estimates of |G|^2 and G' H G are without
this bias, and may therefore come out negative where the noise prevails: they are reported as they are.  The errors are
standard errors by the jackknife over the examples, which presume that these were drawn independently.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import at_least_float32, vdot
from gradlab.core.curvature import cast_like, hessian_map, widen
from gradlab.core.leafwise import convert
from gradlab.instruments.arguments import real_params, require_outputs
from gradlab.instruments.chunks import mapped
from gradlab.instruments.estimate import Estimate

Tree = Any
FEWEST = 3  # examples of which one can be left out and a variance remains


class Noise(NamedTuple):
    """What `noise` measures; every entry is an `Estimate`."""

    loss: Estimate  # () mean over the examples
    square: Estimate  # () |G|^2, unbiased
    trace: Estimate  # () tr(Sigma) of one example, unbiased
    simple: (
        Estimate  # () B_simple: batches much below it are mostly noise; negative or huge where |G|^2 is not resolved
    )
    leaf_snr: Estimate  # trees like the parameters: |G|^2 / tr(Sigma) of each leaf, for one example
    norm: Estimate  # () of this batch; the norm test with bound theta wants a batch (norm / theta)^2 times as large
    inner: Estimate  # () the same for the inner-product test
    ortho: Estimate  # () the same for the orthogonality test
    cabs: Estimate  # () the batch size of CABS, for losses whose smallest value is zero


class CurvedNoise(NamedTuple):
    """What `curved_noise` measures; every entry is an `Estimate`."""

    trace: Estimate  # () tr(H Sigma)
    curvature: Estimate  # () G' H G, unbiased for a Hessian that does not depend on the examples
    noise: Estimate  # () B_noise


def noise(losses: Callable, params: Tree, batch: Any, *, learning_rate: Any = 1.0, chunk: int | None = None) -> Noise:
    """Signal and noise of the gradient at ``params``.

    Cost: 2 G, one forward derivative, and the gradient of each example: 1 to 3 G together where arithmetic counts, some
    15 G where memory does, as for a perceptron on a CPU.  Memory: what one gradient of the batch needs, and ``chunk``
    to ``2 chunk`` gradients.  Under `jax.jit` the function and ``chunk`` are static.  For a batch
    that repeats one example the noise is zero to rounding; an example with a NaN makes the entries NaN.

    Args:
      losses: ``(params, batch) -> (examples,)``, deterministic; the loss of an example depends on no other example.
      params: any tree of real floating-point arrays; the arithmetic is in at least float32.
      batch: a tree of arrays whose first axis is that of the examples, at least 3.
      learning_rate: for CABS.
      chunk: examples whose gradients are held at once; all by default.

    Raises:
      ValueError: fewer than 3 examples, arrays of different length, or a loss that is not one number an example.
      TypeError: a parameter or the losses are not of a real floating-point dtype.

    >>> measured = noise(lambda p, x: 0.5 * (p - x) ** 2, jnp.array(0.0), jnp.array([1.0, 2.0, 3.0, 6.0]))
    >>> [round(float(entry.value), 3) for entry in (measured.square, measured.trace, measured.simple)]
    [7.833, 4.667, 0.596]
    """
    params, batch, size = _checked("noise", losses, params, batch)
    chunk = size if chunk is None else chunk
    check.in_range("chunk", chunk, 1)
    wide = widen(params)
    values, push, pull = _linear(losses, params, wide, batch)
    mean = pull(jnp.full_like(values, 1 / size))

    def deviation(example):
        alone = jax.tree.map(lambda x: x[None], example)
        grad = jax.grad(lambda wide: losses(cast_like(wide, params), alone)[0])(wide)
        apart = jax.tree.map(jnp.subtract, grad, mean)
        return _by_leaf(apart, apart), _by_leaf(apart, mean)

    squares, projections = mapped(deviation, batch, min(chunk, size))
    mean_squares = _by_leaf(mean, mean)
    leaves, leaves_left = _split(squares, projections, mean_squares)
    whole = squares.sum(1), projections.sum(1), mean_squares.sum()
    total, left = _split(*whole)
    weighted = pull(whole[1])
    along = push(weighted) - vdot(weighted, mean)
    variance = jnp.sum(whole[1] ** 2) / (size - 1)
    tests = _tests(total, variance, size), _tests(left, _variances_left(*whole[:2], along), size)
    loss, losses_left = jnp.mean(values), (values.sum() - values) / (size - 1)
    snr = _estimate(leaves.square / leaves.trace, leaves_left.square / leaves_left.trace)
    like = lambda numbers: jax.tree.unflatten(jax.tree.structure(wide), list(numbers))
    return Noise(
        _estimate(loss, losses_left),
        _estimate(total.square, left.square),
        _estimate(total.trace, left.trace),
        _estimate(total.trace / total.square, left.trace / left.square),
        Estimate(like(snr.value), like(snr.error)),
        *map(_estimate, *tests),
        _estimate(learning_rate * total.trace / loss, learning_rate * left.trace / losses_left),
    )


def curved_noise(losses: Callable, params: Tree, batch: Any, key: jax.Array, *, probes: int = 16) -> CurvedNoise:
    """The noise as the curvature sees it: where B_noise differs from B_simple, it is the better critical batch size.

    The Hessian is that of the batch.  tr(H Sigma) is the mean of v' H v / (B - 1) over random signs s with
    v = sum_i s_i (g_i - G).  No gradient of an example is formed.  The errors hold the spread of the examples and that
    of the probes, which is wide where a few directions bear most of the noise.

    Cost: for each probe one gradient, one Hessian-vector product and one forward derivative, about 5 G, and 5 G.

    Args:
      losses: see `noise`.
      params: see `noise`.
      batch: see `noise`.
      key: of the signs.
      probes: (static) at least 2.

    Raises:
      ValueError: see `noise`; fewer than 2 probes.

    >>> losses = lambda p, x: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * (p - x) ** 2, 1)
    >>> x = jax.random.normal(jax.random.key(0), (200, 2))
    >>> measured = curved_noise(losses, jnp.ones(2), x, jax.random.key(1))
    >>> bool(abs(measured.noise.value - 1) < 3 * measured.noise.error)  # tr(H^3) / G' H G = 1001 / 1001
    True
    """
    params, batch, size = _checked("curved_noise", losses, params, batch)
    check.in_range("probes", probes, 2)
    wide = widen(params)
    values, push, pull = _linear(losses, params, wide, batch)
    mean = pull(jnp.full_like(values, 1 / size))
    product = hessian_map(lambda params: jnp.mean(losses(params, batch)), params)
    away = lambda image: push(image) - vdot(mean, image)  # (g_i - G)' image

    def probe(key):
        signs = jax.random.rademacher(key, (size,), values.dtype)
        vector = jax.tree.map(lambda x, m: x - jnp.sum(signs) * m, pull(signs), mean)
        return signs * away(product(vector))

    samples = jax.lax.map(probe, jax.random.split(key, probes))
    image = product(mean)
    total, left = _split(samples.mean(0), away(image), vdot(mean, image))
    # over one probe the terms of the examples vary by half of what their sum does
    rest = jnp.std(samples.sum(1), ddof=1) / (size - 1) / (2 * probes) ** 0.5
    slope = 1 / total.square + total.trace / (size * total.square**2)
    quotients = total.trace / total.square, left.trace / left.square
    return CurvedNoise(
        _estimate(total.trace, left.trace, rest),
        _estimate(total.square, left.square, rest / size),
        _estimate(*quotients, slope * rest),
    )


def batch_variance(trace: Any, size: Any, population: Any = None) -> jax.Array:
    """The expected ``|mean gradient of a batch - G|^2``.

    Args:
      trace: tr(Sigma) of one example.
      size: examples in the batch.
      population: examples of a data set from which the batch is drawn without replacement, if so.

    >>> float(batch_variance(8.0, 4)), float(batch_variance(8.0, 4, 4))
    (2.0, 0.0)
    """
    share = 0.0 if population is None else size / population
    return jnp.asarray(trace / size * (1 - share))


class _Parts(NamedTuple):
    """|G|^2 and tr(Sigma), unbiased, and the square of the mean gradient; each for all examples or without each one."""

    square: jax.Array
    trace: jax.Array
    mean_square: jax.Array


def _split(squares: jax.Array, projections: jax.Array, mean_square: jax.Array) -> tuple[_Parts, _Parts]:
    """The parts, and without each example, from (B, ...) ``|g_i - m|^2`` and ``(g_i - m)' m``, and from ``|m|^2``."""
    size = len(squares)
    trace = squares.sum(0) / (size - 1)
    traces = (squares.sum(0) - size / (size - 1) * squares) / (size - 2)
    mean_squares = mean_square - 2 * projections / (size - 1) + squares / (size - 1) ** 2
    left = _Parts(mean_squares - traces / (size - 1), traces, mean_squares)
    return _Parts(mean_square - trace / size, trace, mean_square), left


def _tests(parts: _Parts, variance: jax.Array, size: int) -> tuple[jax.Array, ...]:
    """The three tests for batches of this size; ``variance`` is that of ``g_i' m``."""
    norm = parts.trace / (size * parts.mean_square)
    inner = variance / (size * parts.mean_square**2)
    return jnp.sqrt(norm), jnp.sqrt(inner), jnp.sqrt(jnp.maximum(norm - inner, 0))  # below zero by rounding only


def _variances_left(squares: jax.Array, projections: jax.Array, along: jax.Array) -> jax.Array:
    """The variance of ``g_i' m`` without each example, up to terms of second order; ``along`` is
    ``(g_i - m)' sum_j (g_j - m)' m g_j``."""
    size = len(squares)
    shift = 2 * (projections * squares - along) / (size - 1)
    return (jnp.sum(projections**2) - projections**2 + shift) / (size - 2)


def _estimate(value: jax.Array, left_out: jax.Array, other: Any = 0.0) -> Estimate:
    """The jackknife: the spread of what the statistic is without each example, and an independent error."""
    size = len(left_out)
    spread = jnp.sum((left_out - jnp.mean(left_out, axis=0)) ** 2, axis=0)
    return Estimate(value, jnp.sqrt((size - 1) / size * spread + other**2))


def _linear(losses: Callable, params: Tree, wide: Tree, batch: Any) -> tuple[jax.Array, Callable, Callable]:
    """The losses, ``tree -> (B,)`` their derivatives along a tree, and ``(B,) -> tree`` weighted sums of gradients."""
    values, push = jax.linearize(lambda wide: at_least_float32(losses(cast_like(wide, params), batch)), wide)
    transposed = jax.linear_transpose(push, wide)
    return values, push, lambda weights: transposed(convert(weights, values.dtype))[0]


def _by_leaf(tree: Tree, other: Tree) -> jax.Array:
    return jnp.stack([jnp.sum(x * y) for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)])


def _checked(who: str, losses: Callable, params: Tree, batch: Any) -> tuple[Tree, Any, int]:
    """Parameters and batch as arrays, and the number of examples, or an error that says what is wrong with them."""
    params, batch = real_params(who, params), jax.tree.map(jnp.asarray, batch)
    lengths = {trees.path_name(path): x.shape[:1] for path, x in jax.tree_util.tree_leaves_with_path(batch)}
    if not lengths or len(set(lengths.values())) > 1 or () in lengths.values():
        raise ValueError(f"{who}: the arrays of the batch must share a first axis of examples, got lengths {lengths}")
    ((size,),) = set(lengths.values())
    require_outputs(who, losses, params, batch, axes=1)
    if jax.eval_shape(losses, params, batch).shape != (size,):
        raise ValueError(f"{who}: the losses must be one number for each of the {size} examples")
    if size < FEWEST:
        raise ValueError(f"{who}: the noise of a gradient needs at least {FEWEST} examples, got {size}")
    return params, batch, size
