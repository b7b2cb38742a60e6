r"""D-Adaptation of AdamW: a lower bound on the distance to the solution for the learning rate.

With g the gradient, p the parameter, d = estim_lr0, every buffer zero before the first step, ``sb2 = sqrt(b2)`` and
``<., .>`` and ``|.|_1`` taken over all parameters together (arXiv 2301.07733, algorithm 5)::

    dlr = d * learning_rate * sqrt(1 - b2^count) / (1 - b1^count)
    numerator = sb2 * numerator + (1 - sb2) * dlr * <g, grad_sum / (sqrt(exp_avg_sq) + eps)>       both as before g
    exp_avg    = b1 * exp_avg    + (1 - b1) * dlr * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * |g|^2
    grad_sum   = sb2 * grad_sum  + (1 - sb2) * dlr * g
    d = max(d, numerator / ((1 - sb2) * |grad_sum|_1))
    p = p - exp_avg / (sqrt(exp_avg_sq) + eps) - dlr * weight_decay * p
"""

from typing import Any

import jax.numpy as jnp
import optax
from optax.contrib import DAdaptAdamWState

from gradlab.core import check
from gradlab.core.across import real_product, sum_of_abs, total
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.schedule import evaluate
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype, require_same_structure, zeros_like
from gradlab.transforms.select import masked_factor


def _dadapt_adamw_init(params):
    dtype = real_dtype(params)
    return DAdaptAdamWState(
        exp_avg=zeros_like(params),
        exp_avg_sq=zeros_like(params),
        grad_sum=zeros_like(params),
        estim_lr=jnp.zeros([], dtype),
        numerator_weighted=jnp.zeros([], dtype),
        count=jnp.zeros([], jnp.int32),
    )


def _alignment(g, grad_sum, exp_avg_sq, *, eps):
    return real_product(g, safe_quotient(grad_sum, safe_sqrt(exp_avg_sq) + eps))


def _dadapt_adamw_rule(g, exp_avg, exp_avg_sq, grad_sum, p, *, dlr, b1, b2, sb2, eps, weight_decay, decayed):
    exp_avg = b1 * exp_avg + (1 - b1) * dlr * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * abs_sq(g)
    grad_sum = sb2 * grad_sum + (1 - sb2) * dlr * g
    update = -dlr * decayed * weight_decay * p - safe_quotient(exp_avg, safe_sqrt(exp_avg_sq) + eps)
    return update, exp_avg, exp_avg_sq, grad_sum


def _dadapt_adamw_update(
    grads, state, params=None, *, learning_rate, betas, eps, estim_lr0, weight_decay, mask, **extra
):
    del extra
    params = check.required_params("dadapt_adamw", params)
    require_same_structure("gradients", grads, "parameters", params)
    hyper = (learning_rate, betas, eps, estim_lr0, weight_decay)
    learning_rate, (b1, b2), eps, estim_lr0, weight_decay = evaluate(hyper, state.count)
    sb2, count = jnp.sqrt(b2), optax.safe_increment(state.count)
    d = jnp.where(state.count == 0, estim_lr0, state.estim_lr)
    dlr = d * learning_rate * jnp.sqrt(debias(b2, count)) / debias(b1, count)

    alignment = total(_alignment, grads, state.grad_sum, state.exp_avg_sq, eps=eps)
    numerator = sb2 * state.numerator_weighted + (1 - sb2) * dlr * alignment
    updates, exp_avg, exp_avg_sq, grad_sum = leafwise(
        _dadapt_adamw_rule,
        grads,
        [state.exp_avg, state.exp_avg_sq, state.grad_sum],
        params,
        dlr=dlr,
        b1=b1,
        b2=b2,
        sb2=sb2,
        eps=eps,
        weight_decay=weight_decay,
        decayed=masked_factor(mask, params),
    )
    d = jnp.maximum(d, safe_quotient(numerator, (1 - sb2) * sum_of_abs(grad_sum)))
    dtype = state.estim_lr.dtype
    return updates, DAdaptAdamWState(exp_avg, exp_avg_sq, grad_sum, d.astype(dtype), numerator.astype(dtype), count)


@storable
def dadapt_adamw(
    learning_rate: Any = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: Any = 1e-8,
    estim_lr0: Any = 1e-6,
    weight_decay: Any = 0.0,
    *,
    mask: Any = None,
) -> Transform:
    """AdamW by D-Adaptation (Defazio and Mishchenko 2023, arXiv 2301.07733): no learning rate to tune.

    The recurrence heads this module.  The estimate only grows; it works best with a schedule that falls from 1 to 0.
    Where Optax divides zero by zero, on gradients that have all been zero, the estimate stays.

    Args:
      learning_rate: a factor of the rate that D-Adaptation finds: one number or schedule.
      betas: decays of the averages of gradients and of their squares, in [0, 1); the second above zero.
      eps: added to the root.
      estim_lr0: the first estimate, far below any distance that may be found.
      weight_decay: the factor of the parameter, decoupled as in `gradlab.adamw`; also a tree of these.
      mask: (static) which parameters decay; as for `gradlab.masked`.

    Raises:
      ValueError: a number outside of its range; ``update`` called without ``params``.
      TypeError: a tree of learning rates: the estimate is that of all parameters.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = dadapt_adamw(estim_lr0=0.01)
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(2 * params, state, params)
    ...     params = params + updates
    >>> [round(float(p), 3) for p in params]
    [0.954, -1.954]
    """
    check.one_rate("dadapt_adamw", learning_rate)
    check.decay_rate(betas=betas)
    check.non_negative(eps=eps, weight_decay=weight_decay)
    check.positive(estim_lr0=estim_lr0)
    return transform(
        _dadapt_adamw_init,
        _dadapt_adamw_update,
        evaluate_schedules=False,
        learning_rate=learning_rate,
        betas=tuple(betas),
        eps=eps,
        estim_lr0=estim_lr0,
        weight_decay=weight_decay,
        mask=static(mask),
    )
