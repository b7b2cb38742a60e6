r"""Distance over gradients: the step is the farthest distance from the start, divided by the gradients so far.

With g the gradient, p the parameter, p0 its starting point, ``|.|`` the norm over all parameters together and
sum_sq = weighted = 0 before the first step::

    max_dist = max(max_dist, |p - p0|)                   r_0 = init_step * (1 + |p0|) before the first step
    sum_sq = sum_sq + |g|^2
    p = p - learning_rate * max_dist / sqrt(sum_sq + eps) * g                     DoG, arXiv 2302.12022

    sq_dist = max(sq_dist, |p - p0|^2)                   init_estim_sq_dist before the first step
    weighted = weighted + sq_dist * |g|^2
    p = p - learning_rate * sq_dist / (sqrt(weighted) + eps) * g                  DoWG, arXiv 2305.16284

Both include the present point and gradient.  `scale_by_distance_over_gradients` keeps these numbers for every leaf by
itself (LDoG).  The authors report an average of the weights, not the last ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from optax._src.transform import ScaleByDistanceOverGradientsState  # it has no public name
from optax.contrib import DoGState, DoWGState

from gradlab.core import check
from gradlab.core.across import squared_distance, sum_of_squares
from gradlab.core.compose import chain, identity
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm, norm
from gradlab.core.numerics import abs_sq, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, real_dtype
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate

INIT_STEPS = ("distance", "learning_rate", "heuristic")


def _scale_by_dog_init(params, *, kind, init_step):
    init_params, dtype = copied(params), real_dtype(params)
    if kind == "heuristic":
        max_dist = init_step * (1 + global_norm(init_params))
    else:
        max_dist = init_step if kind == "distance" else 0.0
    return DoGState(
        is_init_step=jnp.ones([], bool),
        init_params=init_params,
        max_dist=jnp.asarray(max_dist, dtype),
        sum_sq_norm_grads=jnp.zeros([], dtype),
    )


def _scaled_rule(g, *, factor):
    return (factor * g,)


def _scale_by_dog_update(grads, state, params=None, *, eps, init_step, **extra):
    del extra
    params = check.required_params("scale_by_dog", params)
    max_dist = jnp.maximum(state.max_dist, safe_sqrt(squared_distance(params, state.init_params)))
    sum_sq_norm_grads = state.sum_sq_norm_grads + sum_of_squares(grads)
    factor = safe_quotient(max_dist, safe_sqrt(sum_sq_norm_grads + eps))
    if init_step is not None:
        factor = jnp.where(state.is_init_step, init_step, factor)
    (updates,) = leafwise(_scaled_rule, grads, factor=factor)
    dtype = state.max_dist.dtype
    return updates, DoGState(
        is_init_step=jnp.zeros([], bool),
        init_params=state.init_params,
        max_dist=max_dist.astype(dtype),
        sum_sq_norm_grads=sum_sq_norm_grads.astype(dtype),
    )


def _scale_by_dowg_init(params, *, init_estim_sq_dist):
    dtype = real_dtype(params)
    return DoWGState(
        init_params=copied(params),
        weighted_sq_norm_grads=jnp.zeros([], dtype),
        estim_sq_dist=jnp.asarray(init_estim_sq_dist, dtype),
    )


def _scale_by_dowg_update(grads, state, params=None, *, eps, **extra):
    del extra
    params = check.required_params("scale_by_dowg", params)
    estim_sq_dist = jnp.maximum(state.estim_sq_dist, squared_distance(params, state.init_params))
    weighted_sq_norm_grads = state.weighted_sq_norm_grads + estim_sq_dist * sum_of_squares(grads)
    factor = safe_quotient(estim_sq_dist, safe_sqrt(weighted_sq_norm_grads) + eps)
    (updates,) = leafwise(_scaled_rule, grads, factor=factor)
    dtype = state.estim_sq_dist.dtype
    return updates, DoWGState(state.init_params, weighted_sq_norm_grads.astype(dtype), estim_sq_dist.astype(dtype))


def _distance_over_gradients_init(params, *, reps_rel, param_dtype):
    init_params = copied(params)
    start = lambda p: jnp.asarray(reps_rel * (1 + norm(p)), real_dtype(p))
    stored = lambda p: p.astype(jnp.promote_types(param_dtype, jnp.complex64) if jnp.iscomplexobj(p) else param_dtype)
    return ScaleByDistanceOverGradientsState(
        max_dist=jax.tree.map(start, init_params),
        grad_sum_of_squares=jax.tree.map(lambda p: jnp.zeros(1, real_dtype(p)), init_params),
        init_params=jax.tree.map(stored, init_params),
    )


def _distance_over_gradients_rule(g, max_dist, grad_sum_of_squares, init_params, p, *, eps, global_scale):
    max_dist = jnp.maximum(max_dist, norm(p - init_params))
    grad_sum_of_squares = grad_sum_of_squares + jnp.sum(abs_sq(g))
    factor = global_scale * safe_quotient(max_dist, safe_sqrt(grad_sum_of_squares[0] + eps))
    return factor * g, max_dist, grad_sum_of_squares, init_params


def _scale_by_distance_over_gradients_update(grads, state, params=None, *, eps, global_scale, **extra):
    del extra
    params = check.required_params("scale_by_distance_over_gradients", params)
    hyper = {"eps": eps, "global_scale": global_scale}
    updates, *slots = leafwise(_distance_over_gradients_rule, grads, list(state), params, own_shapes=True, **hyper)
    return updates, ScaleByDistanceOverGradientsState(*slots)


def scale_by_dog(init_step: tuple[str, Any] = ("heuristic", 1e-6), eps: Any = 1e-8) -> Transform:
    """Multiplies the updates by the farthest distance from the start over the root of the sum of squares; see `dog`.

    >>> tx = scale_by_dog(('distance', 0.5), eps=0.0)
    >>> updates, _ = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    >>> [round(float(u), 4) for u in updates]
    [0.3, 0.4]
    """
    kind, value = init_step
    check.one_of("init_step", kind, INIT_STEPS)
    check.positive(init_step=value)
    check.non_negative(eps=eps)
    of_update = kind == "learning_rate"
    at_init = {"kind": static(kind), "init_step": None if of_update else value}
    return transform(
        _scale_by_dog_init, _scale_by_dog_update, at_init=at_init, eps=eps, init_step=value if of_update else None
    )


@storable
def dog(
    learning_rate: Any = 1.0,
    init_step: tuple[str, Any] = ("heuristic", 1e-6),
    eps: Any = 1e-8,
    weight_decay: Any = None,
    mask: Any = None,
) -> Transform:
    """DoG (Ivgi, Hinder and Carmon 2023, arXiv 2302.12022): SGD that finds its step size as it goes.

    The recurrence heads this module.  The steps grow geometrically from the initial one until the path has about the
    length of the way to the solution, and then shrink as ``1 / sqrt(count)``.

    Args:
      learning_rate: a factor of the step that DoG finds: a number, a schedule, or a tree of these that is a prefix of
        the parameters.
      init_step: a pair of a (static) kind and a number: ``('distance', r)`` starts with the distance r,
        ``('heuristic', r)`` with ``r * (1 + |p0|)`` (the paper: 1e-6, with batch normalisation 1e-4), and
        ``('learning_rate', r)`` makes the first step with the learning rate r.
      eps: added to the sum of squares.
      weight_decay: the factor of the parameter, added to the gradient; ``None`` for no such stage.
      mask: which parameters decay; as for `gradlab.masked`.

    Raises:
      ValueError: a number below zero, an initial step that is not above zero, an unknown kind.

    >>> params = jnp.array([3.0, 4.0])
    >>> tx = dog(init_step=('learning_rate', 0.1), eps=0.0)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> second, _ = tx.update(params, state, params + updates)
    >>> [round(float(u), 4) for u in updates], [round(float(u), 4) for u in second]
    ([-0.3, -0.4], [-0.2121, -0.2828])
    """
    check.non_negative(learning_rate=learning_rate)
    decay = identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)
    return chain(decay, scale_by_dog(init_step, eps), scale_by_learning_rate(learning_rate))


def scale_by_dowg(init_estim_sq_dist: Any = None, eps: Any = 1e-4) -> Transform:
    """Multiplies the updates by the squared distance over the root of its sum with the squared gradients; see `dowg`.

    >>> tx = scale_by_dowg(0.25, eps=0.0)
    >>> updates, _ = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    >>> [round(float(u), 4) for u in updates]
    [0.3, 0.4]
    """
    check.positive(init_estim_sq_dist=init_estim_sq_dist)
    check.in_range("eps", eps, 0.0, open_low=init_estim_sq_dist is None)
    first_eps = eps(0) if callable(eps) else eps
    at_init = {"init_estim_sq_dist": first_eps if init_estim_sq_dist is None else init_estim_sq_dist}
    return transform(_scale_by_dowg_init, _scale_by_dowg_update, at_init=at_init, eps=eps)


@storable
def dowg(
    learning_rate: Any = 1.0,
    init_estim_sq_dist: Any = None,
    eps: Any = 1e-4,
    weight_decay: Any = None,
    mask: Any = None,
) -> Transform:
    """DoWG (Khaled, Mishchenko and Jin 2023, arXiv 2305.16284): DoG with the gradients weighted by the distance.

    The recurrence heads this module.  Later gradients count more, so that its steps shrink more slowly than DoG's.

    Args:
      learning_rate: a factor of the step that DoWG finds: a number, a schedule, or a tree of these that is a prefix of
        the parameters.
      init_estim_sq_dist: the squared distance to start with; ``eps`` if None.
      eps: added to the root.
      weight_decay: the factor of the parameter, added to the gradient; ``None`` for no such stage.
      mask: which parameters decay; as for `gradlab.masked`.

    Raises:
      ValueError: a number below zero, a squared distance that is not above zero.

    >>> params = jnp.array([3.0, 4.0])
    >>> tx = dowg(init_estim_sq_dist=0.25, eps=0.0)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> [round(float(u), 4) for u in updates]
    [-0.3, -0.4]
    """
    check.non_negative(learning_rate=learning_rate)
    decay = identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)
    return chain(decay, scale_by_dowg(init_estim_sq_dist, eps), scale_by_learning_rate(learning_rate))


def scale_by_distance_over_gradients(
    reps_rel: Any = 1e-6, eps: Any = 1e-8, param_dtype: Any = jnp.float32, global_scale: Any = 1.0
) -> Transform:
    """DoG for every leaf by itself (LDoG): the distance and the gradients of that leaf alone.

    ``u = global_scale * max_dist / sqrt(grad_sum_of_squares + eps) * g``, positive: follow it by
    ``scale_by_learning_rate(1.0)``, or take ``global_scale=-1.0``.  Optax returns the update of a scalar parameter
    with the shape (1,); here it keeps its own.

    Args:
      reps_rel: the first distance is ``reps_rel * (1 + |p0|)``; 1e-4 with batch normalisation.
      eps: added to the sum of squares.
      param_dtype: (static) dtype in which the starting point is kept.
      global_scale: a factor of the updates.

    Raises:
      ValueError: a first distance that is not above zero, a negative ``eps``; ``update`` without ``params``.

    >>> tx = scale_by_distance_over_gradients(0.5, eps=0.0)
    >>> params = {'a': jnp.zeros(2), 'b': jnp.zeros(())}
    >>> updates, _ = tx.update({'a': jnp.array([3.0, 4.0]), 'b': jnp.array(-7.0)}, tx.init(params), params)
    >>> [round(float(u), 4) for u in updates['a']], round(float(updates['b']), 4)
    ([0.3, 0.4], -0.5)
    """
    check.positive(reps_rel=reps_rel)
    check.non_negative(eps=eps)
    return transform(
        _distance_over_gradients_init,
        _scale_by_distance_over_gradients_update,
        at_init={"reps_rel": reps_rel, "param_dtype": static(param_dtype)},
        eps=eps,
        global_scale=global_scale,
    )
