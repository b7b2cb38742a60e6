r"""Prodigy: Adam whose learning rate is an estimate of the distance to the solution, learned from the gradients.

With g the gradient, p the parameter, p0 its starting point, d = estim_lr0 and every buffer zero before the first step,
``<., .>`` and ``|.|_1`` taken over all parameters together (arXiv 2306.06101)::

    dlr = d * learning_rate * sqrt(1 - b2^count) / (1 - b1^count)
    numerator = beta3 * numerator + d / estim_lr0 * dlr * <g, p0 - p>
    grad_sum  = beta3 * grad_sum  + d / estim_lr0 * dlr * g                       d for dlr with safeguard_warmup
    exp_avg    = b1 * exp_avg    + (1 - b1) * d * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * |d * g|^2
    d = max(d, estim_lr_coef * numerator / |grad_sum|_1)
    p = p - dlr * (exp_avg / (sqrt(exp_avg_sq) + d * eps) + weight_decay * p)

The step has the d from before it; the new one enters beside eps alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ProdigyState

from gradlab.core import check
from gradlab.core.across import real_product, sum_of_abs, total
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.schedule import evaluate
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, real_dtype, require_same_structure, zeros_like
from gradlab.transforms.select import masked_factor


class BoundedProdigyState(NamedTuple):
    """State of `prodigy` with a growth rate."""

    prodigy: ProdigyState
    max_estim_lr: jax.Array  # () the largest estimate so far, which ``estim_lr`` approaches at the growth rate


def _prodigy_init(params, *, bounded):
    dtype = real_dtype(params)
    state = ProdigyState(
        exp_avg=zeros_like(params),
        exp_avg_sq=zeros_like(params),
        grad_sum=zeros_like(params),
        params0=copied(params),
        estim_lr=jnp.zeros([], dtype),
        numerator_weighted=jnp.zeros([], dtype),
        count=jnp.zeros([], jnp.int32),
    )
    return BoundedProdigyState(state, jnp.zeros([], dtype)) if bounded else state


def _gain(g, params0, p):
    return real_product(g, params0 - p)


def _grad_sum_rule(g, grad_sum, *, beta3, weight):
    return g, beta3 * grad_sum + weight * g


def _prodigy_rule(g, exp_avg, exp_avg_sq, p, *, d, dlr, b1, b2, floor, weight_decay, decayed):
    exp_avg = b1 * exp_avg + (1 - b1) * d * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * d**2 * abs_sq(g)
    direction = safe_quotient(exp_avg, safe_sqrt(exp_avg_sq) + floor)
    return -dlr * (direction + decayed * weight_decay * p), exp_avg, exp_avg_sq


def _prodigy_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    betas,
    beta3,
    eps,
    estim_lr0,
    estim_lr_coef,
    weight_decay,
    growth_rate,
    safeguard_warmup,
    mask,
    **extra,
):
    del extra
    params = check.required_params("prodigy", params)
    require_same_structure("gradients", grads, "parameters", params)
    own = state if growth_rate is None else state.prodigy
    hyper = (learning_rate, betas, beta3, eps, estim_lr0, estim_lr_coef, weight_decay, growth_rate)
    learning_rate, (b1, b2), beta3, eps, estim_lr0, estim_lr_coef, weight_decay, growth_rate = evaluate(
        hyper, own.count
    )
    beta3 = jnp.sqrt(b2) if beta3 is None else beta3
    count = optax.safe_increment(own.count)

    estim_lr0 = jnp.asarray(estim_lr0, own.estim_lr.dtype)  # the first estimate is told from later ones by equality
    d = jnp.where(own.count == 0, estim_lr0, own.estim_lr)
    dlr = d * learning_rate * jnp.sqrt(debias(b2, count)) / debias(b1, count)
    numerator = beta3 * own.numerator_weighted + d / estim_lr0 * dlr * total(_gain, grads, own.params0, params)
    weight = d / estim_lr0 * (d if safeguard_warmup else dlr)
    _, grad_sum = leafwise(_grad_sum_rule, grads, [own.grad_sum], beta3=beta3, weight=weight)
    estimate = estim_lr_coef * safe_quotient(numerator, sum_of_abs(grad_sum))
    if growth_rate is None:
        new_d = jnp.maximum(d, estimate)
    else:
        largest = jnp.maximum(jnp.where(own.count == 0, estim_lr0, state.max_estim_lr), estimate)
        new_d = jnp.minimum(largest, jnp.where(d == estim_lr0, jnp.maximum(d, estimate), d) * growth_rate)

    updates, exp_avg, exp_avg_sq = leafwise(
        _prodigy_rule,
        grads,
        [own.exp_avg, own.exp_avg_sq],
        params,
        d=d,
        dlr=dlr,
        b1=b1,
        b2=b2,
        floor=new_d * eps,
        weight_decay=weight_decay,
        decayed=masked_factor(mask, params),
    )
    dtype = own.estim_lr.dtype
    new = ProdigyState(exp_avg, exp_avg_sq, grad_sum, own.params0, new_d.astype(dtype), numerator.astype(dtype), count)
    return updates, new if growth_rate is None else BoundedProdigyState(new, largest.astype(dtype))


@storable
def prodigy(
    learning_rate: Any = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    beta3: Any = None,
    eps: Any = 1e-8,
    estim_lr0: Any = 1e-6,
    estim_lr_coef: Any = 1.0,
    weight_decay: Any = 0.0,
    safeguard_warmup: bool = False,
    *,
    growth_rate: Any = None,
    mask: Any = None,
) -> Transform:
    """Prodigy (Mishchenko and Defazio 2023, arXiv 2306.06101): AdamW without a learning rate to tune.

    The recurrence heads this module.  It works best with a schedule that falls from 1 to 0.  Where Optax divides zero
    by zero, on gradients that have all been zero, the estimate stays.

    Args:
      learning_rate: a factor of the rate that Prodigy finds: one number or schedule.
      betas: decays of the averages of gradients and of their squares, in [0, 1).
      beta3: decay of the two sums behind the estimate, in [0, 1); the root of the second of ``betas`` if None.
      eps: times the estimate, added to the root.
      estim_lr0: the first estimate, far below any distance that may be found.
      estim_lr_coef: a factor of the estimates; 0.5 or 2 make it more cautious or bolder.
      weight_decay: the factor of the parameter, decoupled as in `gradlab.adamw`; also a tree of these.
      safeguard_warmup: (static) true leaves the learning rate out of ``grad_sum``, for a warm-up that starts low.
      growth_rate: the largest factor by which the estimate may grow in one step, above 1; ``None`` for no such bound.
        Its first rise above ``estim_lr0`` is not counted.
      mask: (static) which parameters decay; as for `gradlab.masked`.

    Raises:
      ValueError: a number outside of its range; ``update`` called without ``params``.
      TypeError: a tree of learning rates: the estimate is that of all parameters.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = prodigy(estim_lr0=0.01)
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(2 * params, state, params)
    ...     params = params + updates
    >>> [round(float(p), 4) for p in params], round(float(state.estim_lr), 4)
    ([0.97, -1.97], 0.01)
    """
    check.one_rate("prodigy", learning_rate)
    check.decay_rate(betas=betas, beta3=beta3)
    check.non_negative(eps=eps, weight_decay=weight_decay)
    check.positive(estim_lr0=estim_lr0, estim_lr_coef=estim_lr_coef)
    check.in_range("growth_rate", growth_rate, 1.0, open_low=True)
    return transform(
        _prodigy_init,
        _prodigy_update,
        at_init={"bounded": static(growth_rate is not None)},
        evaluate_schedules=False,
        learning_rate=learning_rate,
        betas=tuple(betas),
        beta3=beta3,
        eps=eps,
        estim_lr0=estim_lr0,
        estim_lr_coef=estim_lr_coef,
        weight_decay=weight_decay,
        growth_rate=growth_rate,
        safeguard_warmup=static(safeguard_warmup),
        mask=static(mask),
    )
