r"""Stages that measure: updates against their parameters, against all of each other, against their mean.

With g the update of a leaf, p its parameter and ``|.|`` the Euclidean norm::

    u = trust_coefficient * |p| / (|g| + eps) * g                 scale_by_trust_ratio, arXiv 1708.03888
    u = max(|p|, min_scale) * g                                   scale_by_param_block_norm
    u = max(rms(p), min_scale) * g                                scale_by_param_block_rms
    u = g - mean(g)                                               centralize, arXiv 2004.01461

    u = scale_factor / (|all g| + eps) * g                        normalize_by_update_norm
    u = g / |all g|                                               normalize

Norms are taken in at least float32, in one pass as in `gradlab.global_norm`, and have a derivative at zero, which is
zero.  Updates that are all zero stay zero.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform

AXES = ("all_but_first", "all_but_last")


def trust_ratio(p_norm: jax.Array, g_norm: jax.Array, coefficient: Any = 1.0, eps: Any = 0.0) -> jax.Array:
    """``coefficient * p_norm / (g_norm + eps)``, and one where a norm is zero: what starts at zero can move."""
    moves = (p_norm != 0) & (g_norm != 0)
    return jnp.where(moves, coefficient * p_norm / (jnp.where(moves, g_norm, 1) + eps), 1)


def _trust_ratio_rule(g, p, *, min_norm=0.0, trust_coefficient=1.0, eps=0.0):
    p_norm, g_norm = jnp.maximum(global_norm(p), min_norm), jnp.maximum(global_norm(g), min_norm)
    return (trust_ratio(p_norm, g_norm, trust_coefficient, eps) * g,)


def _scale_by_trust_ratio_update(grads, state, params=None, *, min_norm, trust_coefficient, eps, **extra):
    del extra
    params = check.required_params("scale_by_trust_ratio", params)
    hyper = {"min_norm": min_norm, "trust_coefficient": trust_coefficient, "eps": eps}
    given = {name: value for name, value in hyper.items() if value is not None}
    (updates,) = leafwise(_trust_ratio_rule, grads, params=params, **given)
    return updates, state


def _param_block_rule(g, p, *, min_scale, rms):
    scale = global_norm(p) / max(p.size, 1) ** 0.5 if rms else global_norm(p)
    return (jnp.maximum(scale, min_scale) * g,)


def _scale_by_param_block_norm_update(grads, state, params=None, *, min_scale, **extra):
    del extra
    params = check.required_params("scale_by_param_block_norm", params)
    (updates,) = leafwise(_param_block_rule, grads, params=params, structure={"rms": False}, min_scale=min_scale)
    return updates, state


def _scale_by_param_block_rms_update(grads, state, params=None, *, min_scale, **extra):
    del extra
    params = check.required_params("scale_by_param_block_rms", params)
    (updates,) = leafwise(_param_block_rule, grads, params=params, structure={"rms": True}, min_scale=min_scale)
    return updates, state


def _centralize_rule(g, *, axes):
    if g.ndim <= 1:
        return (g,)
    named = {"all_but_first": tuple(range(1, g.ndim)), "all_but_last": tuple(range(g.ndim - 1))}
    return (g - jnp.mean(g, named.get(axes, axes), keepdims=True),)


def _centralize_update(grads, state, params=None, *, axes, **extra):
    del params, extra
    (updates,) = leafwise(_centralize_rule, grads, structure={"axes": axes})
    return updates, state


def _over_norm_rule(g, *, size, scale_factor=1.0):
    return (scale_factor / size * g,)


def _divisor(size: jax.Array) -> jax.Array:
    """``size``; one if it is zero, as is then all that it divides; NaN if it is infinite."""
    return jnp.where(jnp.isinf(size), jnp.nan, jnp.where(size == 0, 1, size))


def _normalize_by_update_norm_update(grads, state, params=None, *, scale_factor, eps, **extra):
    del params, extra
    size = _divisor(global_norm(grads) + eps)
    (updates,) = leafwise(_over_norm_rule, grads, size=size, scale_factor=scale_factor)
    return updates, state


def _normalize_update(grads, state, params=None, **extra):
    del params, extra
    (updates,) = leafwise(_over_norm_rule, grads, size=_divisor(global_norm(grads)))
    return updates, state


def scale_by_trust_ratio(min_norm: Any = 0.0, trust_coefficient: Any = 1.0, eps: Any = 0.0) -> Transform:
    """Scales each leaf's update to the norm of its parameter: ``u = trust_coefficient * |p| / (|g| + eps) * g``.

    Where a norm is zero, ``|p|`` or ``|g|`` after ``min_norm``, the update stays as it is.  Without ``eps`` and
    ``min_norm`` the length of the update does not depend on that of g (LARS, arXiv 1708.03888; LAMB, 1904.00962).

    Args:
      min_norm: least value of both norms; ``None`` leaves it out, as zero does.
      trust_coefficient: factor of the ratio; ``None`` leaves it out, as one does.
      eps: added to ``|g|``; ``None`` leaves it out, as zero does.

    Raises:
      ValueError: a negative number; ``update`` called without ``params``.

    >>> tx = scale_by_trust_ratio()
    >>> params = jnp.array([6.0, 8.0])
    >>> updates, _ = tx.update(jnp.array([0.0, 2.0]), tx.init(params), params)
    >>> updates.tolist()
    [0.0, 10.0]
    """
    check.non_negative(min_norm=min_norm, trust_coefficient=trust_coefficient, eps=eps)
    return transform(
        empty_init,
        _scale_by_trust_ratio_update,
        min_norm=min_norm,
        trust_coefficient=trust_coefficient,
        eps=eps,
    )


def scale_by_param_block_norm(min_scale: Any = 1e-3) -> Transform:
    """Multiplies each leaf's update by the norm of its parameter: ``u = max(|p|, min_scale) * g``.

    Args:
      min_scale: the least factor, so that parameters which start at zero can move.

    Raises:
      ValueError: a negative ``min_scale``; ``update`` called without ``params``.

    >>> tx = scale_by_param_block_norm()
    >>> params = jnp.array([3.0, 4.0])
    >>> tx.update(jnp.array([0.5, -1.0]), tx.init(params), params)[0].tolist()
    [2.5, -5.0]
    """
    check.non_negative(min_scale=min_scale)
    return transform(empty_init, _scale_by_param_block_norm_update, min_scale=min_scale)


def scale_by_param_block_rms(min_scale: Any = 1e-3) -> Transform:
    """Multiplies each leaf's update by the root mean square of its parameter: ``u = max(rms(p), min_scale) * g``.

    Args:
      min_scale: the least factor, so that parameters which start at zero can move.

    Raises:
      ValueError: a negative ``min_scale``; ``update`` called without ``params``.

    >>> tx = scale_by_param_block_rms()
    >>> params = jnp.array([2.0, -2.0])
    >>> updates, _ = tx.update(jnp.array([0.5, -1.0]), tx.init(params), params)
    >>> [round(float(u), 4) for u in updates]
    [1.0, -2.0]
    """
    check.non_negative(min_scale=min_scale)
    return transform(empty_init, _scale_by_param_block_rms_update, min_scale=min_scale)


def centralize(*, axes: str | int | tuple[int, ...] = "all_but_first") -> Transform:
    """Subtracts from each update its mean over the inputs of each output (Yong et al., arXiv 2004.01461).

    Vectors and scalars pass unchanged.

    Args:
      axes: (static) the axes over which the mean runs.  ``'all_but_first'``, Optax's, are the inputs in PyTorch's
        layout ``(out, in)`` and ``(out, in, h, w)`` only.  ``'all_but_last'`` are the inputs of Flax's kernels
        ``(in, out)`` and ``(h, w, in, out)``.  Others, as those of a ``DenseGeneral`` kernel
        ``(in, heads, head_dim)``, are given by number.

    Raises:
      ValueError: an unknown name for ``axes``.

    >>> tx = centralize(axes='all_but_last')
    >>> kernel = jnp.array([[1.0, 10.0], [3.0, 30.0]])  # (in, out)
    >>> tx.update(kernel, tx.init(kernel))[0].tolist()
    [[-1.0, -10.0], [1.0, 10.0]]
    """
    if isinstance(axes, str):
        check.one_of("axes", axes, AXES)
    return transform(empty_init, _centralize_update, axes=static(axes))


def normalize_by_update_norm(scale_factor: Any = 1.0, eps: Any = 1e-6) -> Transform:
    """Scales all updates by one factor to a common norm of about ``scale_factor``.

    ``u = scale_factor / (|all g| + eps) * g``, and zero where that is 0 / 0.
    Where the norm is infinite or NaN every update becomes NaN, so that `apply_if_finite` sees it.

    Args:
      scale_factor: the norm of long updates.
      eps: added to their norm; much shorter updates keep their proportion to each other and to ``eps``.

    Raises:
      ValueError: a negative number.

    >>> tx = normalize_by_update_norm(scale_factor=2.0, eps=0.0)
    >>> updates, _ = tx.update({'a': jnp.array([3.0]), 'b': jnp.array([4.0])}, tx.init({'a': 0.0, 'b': 0.0}))
    >>> round(float(updates['a'][0]), 4), round(float(updates['b'][0]), 4)
    (1.2, 1.6)
    """
    check.non_negative(scale_factor=scale_factor, eps=eps)
    return transform(empty_init, _normalize_by_update_norm_update, scale_factor=scale_factor, eps=eps)


def normalize() -> Transform:
    """Divides all updates by their common norm: ``u = g / |all g|``, and zero where that is zero.

    Where the norm is infinite or NaN every update becomes NaN, so that `apply_if_finite` sees it.

    >>> updates, _ = normalize().update((jnp.array([3.0]), jnp.array([4.0])), normalize().init(()))
    >>> [round(float(u[0]), 4) for u in updates]
    [0.6, 0.8]
    """
    return transform(empty_init, _normalize_update)
