r"""Schedule-Free+: Schedule-Free Adam whose step size is Polyak's, read from the loss (arXiv 2605.19095).

With f and g the loss and gradient at y, ``|g|_1`` the sum of magnitudes over all parameters, count = 1, 2, ..., mu_hat
and nu_hat as in Adam and x = y = z = p before the first step::

    s = min((count - 1) / anneal_steps, 1)
    b = 1 - (1 - interpolation)^(1 - s) * (1 - interpolation_end)^s
    norm = norm_decay * norm + (1 - norm_decay) * sqrt(pi / 2) * |g|_1
    alpha = learning_rate * max(0, f + b * <g, z - x>) / (norm / (1 - norm_decay^count))
    z = z - alpha * mu_hat / (sqrt(nu_hat) + eps) - alpha^2 * weight_decay * y
    max_alpha = max(max_alpha, alpha)
    c = count^weight_power * max_alpha^weight_lr_power / (the sum of these so far)
    c = 1 and no part of the sum                                 while count <= averaging_warmup
    x = (1 - c) * x + c * z                                      the weights to evaluate at
    y = b * x + (1 - b) * z                                      the parameters of the caller

``f + <g, z - y>`` estimates the loss at z; Polyak's rule takes zero for the least loss.  y and z are stored; see
`gradlab.optimizers.primal_averaging`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import debias
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, is_none, real_dtype, require_same_structure, zeros_like
from gradlab.core.update import register_readout
from gradlab.optimizers.adam import adam_rule
from gradlab.optimizers.primal_averaging import averaged, change_of_weight, interpolation_factors, interpolation_rule
from gradlab.optimizers.schedule_free import averaging_weight

Tree = Any


class ScheduleFreePlusState(NamedTuple):
    """State of `schedule_free_plus`."""

    count: jax.Array  # () int32
    b: jax.Array  # () the weight of the average in the parameters
    norm: jax.Array  # () average of the gradients' scaled L1 norms
    max_alpha: jax.Array  # () largest step size so far
    weight_sum: jax.Array  # () of the average
    mu: Tree  # like params
    nu: Tree  # like params, real
    z: Tree  # like params


def _readout(state: ScheduleFreePlusState, params: Tree) -> Tree:
    return averaged(state.z, params, state.b)


register_readout(ScheduleFreePlusState, _readout)


def _schedule_free_plus_init(params, *, state_dtype):
    dtype = real_dtype(params)
    return ScheduleFreePlusState(
        count=jnp.zeros([], jnp.int32),
        b=jnp.ones([], dtype),
        norm=jnp.zeros([], dtype),
        max_alpha=jnp.zeros([], dtype),
        weight_sum=jnp.zeros([], dtype),
        mu=zeros_like(params),
        nu=zeros_like(params),
        z=copied(params, state_dtype),
    )


@jax.jit
def _magnitudes(g):
    return jnp.sum(jnp.abs(g.astype(jnp.promote_types(jnp.float32, g.dtype))))


@jax.jit
def _inner_product(g, z, y):
    wide = jnp.promote_types(jnp.float32, jnp.result_type(g, z, y))
    return jnp.sum((jnp.conj(g.astype(wide)) * (z.astype(wide) - y.astype(wide))).real)


def _total(terms: list[jax.Array], dtype: Any) -> jax.Array:
    """The sum of one number a leaf, stacked as in `gradlab.core.norms.global_norm` and for its reason."""
    return jnp.sum(jnp.sort(jnp.stack([term.astype(dtype) for term in terms]))) if terms else jnp.zeros([], dtype)


def _polyak_step(grads, z, params, value, norm, *, count, norm_decay, ratio):
    """``alpha`` at the learning rate 1 and the new ``norm``; no step while all gradients were zero."""
    columns = [jax.tree.leaves(tree, is_leaf=is_none) for tree in (grads, z, params)]
    rows = [tuple(map(jnp.asarray, row)) for row in zip(*columns, strict=True) if row[0] is not None]
    rise = ratio * _total([_inner_product(*row) for row in rows], norm.dtype)
    length = math.sqrt(math.pi / 2) * _total([_magnitudes(g) for g, _, _ in rows], norm.dtype)
    norm = (norm_decay * norm + (1 - norm_decay) * length).astype(norm.dtype)
    moving = norm > 0
    norm_hat = jnp.where(moving, norm, 1) / debias(norm_decay, count)
    return jnp.where(moving, jnp.maximum(jnp.asarray(value, norm.dtype) + rise, 0) / norm_hat, 0), norm


def _annealed(count, interpolation, interpolation_end, anneal_steps):
    """``b``; ``interpolation`` itself without annealing."""
    anneals = anneal_steps > 0
    s = jnp.where(anneals, jnp.minimum((count - 1) / jnp.where(anneals, anneal_steps, 1), 1), 0)
    return -jnp.expm1((1 - s) * jnp.log1p(-interpolation) + s * jnp.log1p(-interpolation_end))


def _plus_rule(g, mu, nu, z, y, *, alpha, weight_decay, pull, push, count, b1, b2, eps):
    adam = {"count": count, "b1": b1, "b2": b2, "eps": eps, "eps_root": 0.0}
    u, mu, nu = adam_rule(g, mu, nu, **adam, nesterov=False, bias_correction=True, eps_on="nu_hat")
    step, z = interpolation_rule(-alpha * u - alpha**2 * weight_decay * y, z, y, pull=pull, push=push)
    return step, mu, nu, z


def _schedule_free_plus_update(
    grads,
    state,
    params=None,
    *,
    value=None,
    learning_rate,
    b1,
    b2,
    eps,
    weight_decay,
    interpolation,
    interpolation_end,
    anneal_steps,
    averaging_warmup,
    norm_decay,
    weight_power,
    weight_lr_power,
    **extra,
):
    del extra
    params = check.required_params("schedule_free_plus", params)
    if value is None:
        raise ValueError("schedule_free_plus needs the loss: call tx.update(grads, state, params, value=loss)")
    require_same_structure("gradients", grads, "parameters", params)
    dtype, count = state.norm.dtype, optax.safe_increment(state.count)
    b = _annealed(count.astype(dtype), interpolation, interpolation_end, anneal_steps).astype(dtype)
    ratio = change_of_weight(b, state.b)
    unit, norm = _polyak_step(
        grads, state.z, params, value, state.norm, count=count, norm_decay=norm_decay, ratio=ratio
    )
    alpha = jax.tree.map(lambda rate: rate * unit, learning_rate)
    max_alpha = jnp.maximum(state.max_alpha, functools.reduce(jnp.maximum, jax.tree.leaves(alpha))).astype(dtype)
    share = count.astype(dtype) ** weight_power
    c, weight_sum = averaging_weight(state.weight_sum, max_alpha, weight_lr_power, share)
    follows = count <= averaging_warmup
    updates, mu, nu, z = leafwise(
        _plus_rule,
        grads,
        [state.mu, state.nu, state.z],
        params,
        alpha=alpha,
        weight_decay=weight_decay,
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        **interpolation_factors(jnp.where(follows, 1, c), b, state.b),
    )
    weight_sum = jnp.where(follows, state.weight_sum, weight_sum)
    return updates, ScheduleFreePlusState(count, b, norm, max_alpha, weight_sum, mu, nu, z)


@storable
def schedule_free_plus(
    learning_rate: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    *,
    interpolation: Any = 0.9,
    interpolation_end: Any = 0.965,
    anneal_steps: Any = 0.0,
    averaging_warmup: Any = 0.0,
    norm_decay: Any = 0.0,
    weight_power: Any = 0.0,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> Transform:
    """Schedule-Free+ (Defazio, arXiv 2605.19095): neither a schedule nor a learning rate to tune.

    The recurrence heads this module.  ``update`` needs the loss, whose least value must be near zero: subtract a floor
    that is known.  Its steps are those of Adam, so that in one dimension ``learning_rate=1`` is Polyak's step.

    Args:
      learning_rate: the factor of Polyak's step: a number, a schedule (a warm-up), or a tree of these that is a prefix
        of the parameters, of which the largest counts in the weights.
      b1, b2, eps: as for `gradlab.adam`.
      weight_decay: the factor of ``alpha^2 * y``; 20 to 50 where AdamW takes 0.1.
      interpolation: the weight of the average in the parameters, in [0, 1).
      interpolation_end: what it is annealed to, its distance from 1 falling exponentially.
      anneal_steps: length of that; 0 keeps ``interpolation``.
      averaging_warmup: steps at the start which x follows without averaging.
      norm_decay: decay of the average of the gradients' norms, in [0, 1); 0 takes each as it is.
      weight_power: exponent of the count in the weights of the average; the authors also try 2.
      weight_lr_power: exponent of the largest step size in them.
      state_dtype: (static) dtype in which z is stored; the parameter's if None.

    Raises:
      ValueError: a decay or weight outside of [0, 1), a negative number; ``update`` without ``params`` or ``value``.

    >>> y = jnp.array([4.0])
    >>> tx = schedule_free_plus()
    >>> updates, _ = tx.update(y, tx.init(y), y, value=0.5 * jnp.sum(y**2))
    >>> round(float(updates[0]), 3)  # -8 / 4 over sqrt(pi / 2)
    -1.596
    """
    check.decay_rate(b1=b1, b2=b2, norm_decay=norm_decay)
    check.decay_rate(interpolation=interpolation, interpolation_end=interpolation_end)
    check.non_negative(learning_rate=learning_rate, eps=eps, weight_decay=weight_decay, anneal_steps=anneal_steps)
    check.non_negative(averaging_warmup=averaging_warmup, weight_power=weight_power, weight_lr_power=weight_lr_power)
    return transform(
        _schedule_free_plus_init,
        _schedule_free_plus_update,
        at_init={"state_dtype": static(state_dtype)},
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        interpolation=interpolation,
        interpolation_end=interpolation_end,
        anneal_steps=anneal_steps,
        averaging_warmup=averaging_warmup,
        norm_decay=norm_decay,
        weight_power=weight_power,
        weight_lr_power=weight_lr_power,
    )
