r"""Clipping: bounds on the updates by value, by their norm, by each leaf's root mean square, by each unit's norm.

With g the update of a leaf, p its parameter and ``|.|`` the Euclidean norm::

    u = g * min(1, max_delta / abs(g))                            clip, element by element
    u = g * min(1, max_norm / |all g|)                            clip_by_global_norm, arXiv 1211.5063
    u = g * min(1, threshold / rms(g))                            clip_by_block_rms, leaf by leaf
    u = g * min(1, clipping * max(|p|, eps) / |g|)                adaptive_grad_clip, unit by unit, arXiv 2102.06171

Norms are taken in at least float32, so float16 gradients do not overflow on the way, and 0/0 counts as 1.

Gradients that are not finite stay visible and are never clipped to zero: where a norm is infinite or NaN every
update under that norm becomes NaN (`apply_if_finite` skips such steps); `clip` keeps a NaN and turns a real
infinity into ``max_delta``.  The global norm takes one pass over the gradients, so it is infinite from entries of
about 1e19 on (float32); Optax's factor is zero there, and the step silently lost.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm, norm
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform


def clip(max_delta: Any) -> Transform:
    """Bounds every element of the updates: ``u = g * min(1, max_delta / abs(g))``; complex ones keep their phase.

    Args:
      max_delta: bound on the magnitude; a number, a schedule, or a tree of these that is a prefix of the parameters.

    Raises:
      ValueError: a negative bound.

    >>> clip(1.0).update(jnp.array([-3.0, 0.5]), clip(1.0).init(jnp.zeros(2)))[0].tolist()
    [-1.0, 0.5]
    """
    check.non_negative(max_delta=max_delta)
    return transform(empty_init, _clip_update, max_delta=max_delta)


def clip_by_global_norm(max_norm: Any) -> Transform:
    """Scales all updates by one factor so that their common norm is at most ``max_norm`` (arXiv 1211.5063).

    Inside of `partition` and `masked` the norm is that of the parameters selected.

    Args:
      max_norm: bound on the norm; a number or a schedule.  Infinity never clips.

    Raises:
      ValueError: a negative bound.

    >>> tx = clip_by_global_norm(1.0)
    >>> updates, _ = tx.update({'a': jnp.array([3.0]), 'b': jnp.array([4.0])}, tx.init({'a': 0.0, 'b': 0.0}))
    >>> round(float(updates['a'][0]), 4), round(float(updates['b'][0]), 4)
    (0.6, 0.8)
    """
    check.non_negative(max_norm=max_norm)
    return transform(empty_init, _clip_by_global_norm_update, max_norm=max_norm)


def clip_by_block_rms(threshold: Any) -> Transform:
    """Scales each leaf so that the root mean square of its elements is at most ``threshold``.

    Args:
      threshold: bound on the root mean square; a number, a schedule, or a tree of these that is a prefix of the
        parameters.

    Raises:
      ValueError: a negative bound.

    >>> tx = clip_by_block_rms(1.0)
    >>> updates, _ = tx.update({'a': jnp.array([6.0, 8.0]), 'b': jnp.array([0.5])}, tx.init({'a': 0.0, 'b': 0.0}))
    >>> [round(u, 4) for u in updates['a'].tolist()], updates['b'].tolist()
    ([0.8485, 1.1314], [0.5])
    """
    check.non_negative(threshold=threshold)
    return transform(empty_init, _clip_by_block_rms_update, threshold=threshold)


def adaptive_grad_clip(clipping: Any, eps: Any = 1e-3, axis: int | tuple[int, ...] | None = None) -> Transform:
    """Bounds the norm of each unit's update by ``clipping`` times the norm of its parameters (arXiv 2102.06171).

    A unit is what feeds one output: the paper's row of a matrix, which in a Flax kernel is a column.  By default
    the norms run over axis 0 of a matrix ``(in, out)`` and of a ``DenseGeneral`` kernel with two output axes
    ``(in, heads, head_dim)``, over all axes but the last of an array of four or more ``(h, w, in, out)``, and over
    all of a vector or a scalar (axes of length 1 not counted).  An array of three axes may also be
    ``(heads, head_dim, out)`` or the kernel of a one-dimensional convolution ``(w, in, out)``: these need
    ``axis=(0, 1)``, by `partition` where a model has both kinds::

        partition({'two': adaptive_grad_clip(0.01, axis=(0, 1)), 'default': adaptive_grad_clip(0.01)},
                  by_path(('out/kernel$', 'two'), ('.', 'default')))

    Args:
      clipping: largest ratio of the two norms; a number, a schedule, or a tree of these that is a prefix of the
        parameters.  The paper uses 0.01 to 0.16 and leaves the last linear layer out.
      eps: least norm of a unit's parameters, so that units which start at zero can move.
      axis: (static) the axes over which every leaf's norms run; None for the defaults above.

    Raises:
      ValueError: a negative ``clipping`` or ``eps``; ``update`` called without ``params``.

    >>> tx = adaptive_grad_clip(0.1)
    >>> params = jnp.array([[3.0, 0.0], [4.0, 10.0]])  # columns of norm 5 and 10
    >>> updates, _ = tx.update(jnp.ones((2, 2)), tx.init(params), params)
    >>> [[round(u, 4) for u in row] for row in updates.tolist()]
    [[0.3536, 0.7071], [0.3536, 0.7071]]
    """
    check.non_negative(clipping=clipping, eps=eps)
    return transform(empty_init, _adaptive_grad_clip_update, clipping=clipping, eps=eps, axis=static(axis))


def unitwise_norm(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """The norm of each unit of ``x``, in the shape of ``x``.

    Args:
      x: an array.
      axis: over which a unit runs; None for the defaults of `adaptive_grad_clip`.

    >>> unitwise_norm(jnp.array([[3.0, 0.0], [4.0, 2.0]])).tolist()
    [[5.0, 2.0], [5.0, 2.0]]
    """
    axes = _unit_axes(jnp.shape(x)) if axis is None else axis
    return jnp.broadcast_to(norm(x, axes, keepdims=True), jnp.shape(x))


def unitwise_clip(g_norm: Any, max_norm: Any, grad: Any, div_eps: Any = 1e-6) -> jax.Array:
    """``grad`` with the units whose norm ``g_norm`` reaches ``max_norm`` scaled down to it; all of one shape.

    >>> [round(g, 4) for g in unitwise_clip(jnp.full(2, 5.0), jnp.ones(2), jnp.array([3.0, 4.0])).tolist()]
    [0.6, 0.8]
    """
    return jnp.where(g_norm < max_norm, grad, grad * (max_norm / jnp.maximum(g_norm, div_eps)))


def shrink_factor(size: jax.Array, limit: jax.Array) -> jax.Array:
    """What scales ``size`` down to ``limit``: 1 within it, NaN for a size that is not finite."""
    beyond = ~(size <= limit)
    factor = limit / jnp.where(beyond, size, 1)
    return jnp.where(beyond, jnp.where(jnp.isinf(size), jnp.nan, factor), 1)


def _clip_rule(g, *, max_delta):
    if not jnp.iscomplexobj(g):
        return (jnp.clip(g, -max_delta, max_delta),)
    return (g * shrink_factor(jnp.abs(g), max_delta),)


def _clip_update(grads, state, params=None, *, max_delta, **extra):
    del params, extra
    (updates,) = leafwise(_clip_rule, grads, max_delta=max_delta)
    return updates, state


def _shrink_rule(g, *, factor):
    return (factor * g,)


def _clip_by_global_norm_update(grads, state, params=None, *, max_norm, **extra):
    del params, extra
    (updates,) = leafwise(_shrink_rule, grads, factor=shrink_factor(global_norm(grads), max_norm))
    return updates, state


def _block_rms_rule(g, *, threshold):
    rms = norm(g) / jnp.sqrt(max(g.size, 1))
    return (shrink_factor(rms, threshold) * g,)


def _clip_by_block_rms_update(grads, state, params=None, *, threshold, **extra):
    del params, extra
    (updates,) = leafwise(_block_rms_rule, grads, threshold=threshold)
    return updates, state


def _unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    if sum(length != 1 for length in shape) <= 1:
        return tuple(range(len(shape)))
    return (0,) if len(shape) <= 3 else tuple(range(len(shape) - 1))


def _unitwise_rule(g, p, *, clipping, eps, axis):
    axes = _unit_axes(g.shape) if axis is None else axis
    limit = clipping * jnp.maximum(norm(p, axes, keepdims=True), eps)
    return (shrink_factor(norm(g, axes, keepdims=True), limit) * g,)


def _adaptive_grad_clip_update(grads, state, params=None, *, clipping, eps, axis, **extra):
    del extra
    params = check.required_params("adaptive_grad_clip", params)
    hyper = {"clipping": clipping, "eps": eps}
    (updates,) = leafwise(_unitwise_rule, grads, params=params, structure={"axis": axis}, **hyper)
    return updates, state
