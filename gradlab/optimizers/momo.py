r"""MoMo: momentum and Adam with a Polyak step size, from a model of the loss that the averages carry.

With g the gradient, p the parameter, value the loss, lb a lower bound of it, k = 1 + learning_rate * weight_decay, and
``<., .>`` taken over all parameters together (arXiv 2305.07583)::

    barf    = beta * barf    + (1 - beta) * value          the first value, at the first step
    gamma   = beta * gamma   + (1 - beta) * <g, p>         likewise
    exp_avg = beta * exp_avg + (1 - beta) * g              likewise
    tau = min(learning_rate, max(k * (barf - lb - gamma) + <exp_avg, p>, 0) / |exp_avg|^2)
    p = p / k - tau * exp_avg                                                     form='optax'
    p = (p - tau * exp_avg) / k                                                   form='paper'

MoMo-Adam starts its averages at zero and accounts for their total weight bc = 1 - b1^count::

    precond = sqrt(exp_avg_sq / (1 - b2^count)) + eps
    tau = min(learning_rate / bc, max(k * (barf - bc * lb - gamma) + <exp_avg, p>, 0) / <exp_avg, exp_avg / precond>)
    p = p / k - tau * exp_avg / precond                    or all of it divided by k

With ``adapt_lower_bound`` lb starts at ``lower_bound``; where the gap to it would be negative it is set to half of
the model's value, and after the step to the model's value at the new point, never below ``lower_bound``.
"""

from typing import Any

import jax.numpy as jnp
import optax
from optax.contrib import MomoAdamState, MomoState

from gradlab.core import check
from gradlab.core.across import real_product, sum_of_squares, total, vdot
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.schedule import evaluate
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype, require_same_structure, zeros_like

FORMS = ("optax", "paper")
LEAST_SQUARE = float(jnp.finfo(float).eps)  # of an average that counts as more than rounding


def _momo_init(params):
    zero = jnp.zeros([], real_dtype(params))
    return MomoState(exp_avg=zeros_like(params), barf=zero, gamma=zero, lb=zero, count=jnp.zeros([], jnp.int32))


def _momo_adam_init(params):
    zero = jnp.zeros([], real_dtype(params))
    return MomoAdamState(
        exp_avg=zeros_like(params),
        exp_avg_sq=zeros_like(params),
        barf=zero,
        gamma=zero,
        lb=zero,
        count=jnp.zeros([], jnp.int32),
    )


def _step_size(model, square, lb, *, k, learning_rate, bc, lower_bound, adapt_lower_bound):
    """The Polyak step on ``model = (barf - gamma, <exp_avg, p>)``, and the lower bound after it."""
    intercept, slope = model
    if adapt_lower_bound:
        cap = k * intercept + slope
        lb = jnp.where(cap < k * bc * lb, jnp.maximum(cap / (2 * bc * k), lower_bound), lb)
    moves = square > LEAST_SQUARE
    polyak = jnp.maximum(k * (intercept - bc * lb) + slope, 0) / jnp.where(moves, square, 1)
    tau = jnp.minimum(learning_rate / bc, jnp.where(moves, polyak, 0))
    if adapt_lower_bound:
        lb = jnp.maximum((intercept + slope - tau * square / 2) / bc, lower_bound)
    return tau, lb


def _average_rule(g, exp_avg, *, beta):
    return g, beta * exp_avg + (1 - beta) * g


def _momo_rule(g, exp_avg, p, *, tau, shrink, k):
    return -shrink * p - tau / k * exp_avg, exp_avg


def _momo_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    beta,
    lower_bound,
    weight_decay,
    adapt_lower_bound,
    form,
    value=None,
    **extra,
):
    del extra
    value = jnp.asarray(check.required_value("momo", value))
    params = check.required_params("momo", params)
    require_same_structure("gradients", grads, "parameters", params)
    hyper = (learning_rate, beta, lower_bound, weight_decay)
    learning_rate, beta, lower_bound, weight_decay = evaluate(hyper, state.count)
    first = state.count == 0
    beta = jnp.where(first, 0.0, beta)
    k = 1 + learning_rate * weight_decay

    _, exp_avg = leafwise(_average_rule, grads, [state.exp_avg], beta=beta)
    barf = beta * state.barf + (1 - beta) * value
    gamma = beta * state.gamma + (1 - beta) * vdot(grads, params)
    tau, lb = _step_size(
        (barf - gamma, vdot(exp_avg, params)),
        sum_of_squares(exp_avg),
        jnp.where(first, lower_bound, state.lb) if adapt_lower_bound else lower_bound,
        k=k,
        learning_rate=learning_rate,
        bc=1.0,
        lower_bound=lower_bound,
        adapt_lower_bound=adapt_lower_bound,
    )
    scale = {"tau": tau, "shrink": learning_rate * weight_decay / k, "k": k if form == "paper" else 1.0}
    updates, exp_avg = leafwise(_momo_rule, grads, [exp_avg], params, **scale)
    scalars = (jnp.asarray(x).astype(state.barf.dtype) for x in (barf, gamma, lb))
    return updates, MomoState(exp_avg, *scalars, optax.safe_increment(state.count))


def _moments_rule(g, exp_avg, exp_avg_sq, *, b1, b2):
    return g, b1 * exp_avg + (1 - b1) * g, b2 * exp_avg_sq + (1 - b2) * abs_sq(g)


def _over_precond(exp_avg, exp_avg_sq, *, bc2, eps):
    return safe_quotient(exp_avg, safe_sqrt(exp_avg_sq / bc2) + eps)


def _weighted_square(exp_avg, exp_avg_sq, *, bc2, eps):
    return real_product(exp_avg, _over_precond(exp_avg, exp_avg_sq, bc2=bc2, eps=eps))


def _momo_adam_rule(g, exp_avg, exp_avg_sq, p, *, bc2, eps, tau, shrink, k):
    step = _over_precond(exp_avg, exp_avg_sq, bc2=bc2, eps=eps)
    return -shrink * p - tau / k * step, exp_avg, exp_avg_sq


def _momo_adam_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    lower_bound,
    weight_decay,
    adapt_lower_bound,
    form,
    value=None,
    **extra,
):
    del extra
    value = jnp.asarray(check.required_value("momo_adam", value))
    params = check.required_params("momo_adam", params)
    require_same_structure("gradients", grads, "parameters", params)
    hyper = (learning_rate, b1, b2, eps, lower_bound, weight_decay)
    learning_rate, b1, b2, eps, lower_bound, weight_decay = evaluate(hyper, state.count)
    count = optax.safe_increment(state.count)
    k = 1 + learning_rate * weight_decay
    precond = {"bc2": debias(b2, count), "eps": eps}

    _, exp_avg, exp_avg_sq = leafwise(_moments_rule, grads, [state.exp_avg, state.exp_avg_sq], b1=b1, b2=b2)
    barf = b1 * state.barf + (1 - b1) * value
    gamma = b1 * state.gamma + (1 - b1) * vdot(grads, params)
    tau, lb = _step_size(
        (barf - gamma, vdot(exp_avg, params)),
        total(_weighted_square, exp_avg, exp_avg_sq, **precond),
        jnp.where(state.count == 0, lower_bound, state.lb) if adapt_lower_bound else lower_bound,
        k=k,
        learning_rate=learning_rate,
        bc=debias(b1, count),
        lower_bound=lower_bound,
        adapt_lower_bound=adapt_lower_bound,
    )
    scale = {"tau": tau, "shrink": learning_rate * weight_decay / k, "k": k if form == "paper" else 1.0}
    updates, exp_avg, exp_avg_sq = leafwise(_momo_adam_rule, grads, [exp_avg, exp_avg_sq], params, **precond, **scale)
    scalars = (jnp.asarray(x).astype(state.barf.dtype) for x in (barf, gamma, lb))
    return updates, MomoAdamState(exp_avg, exp_avg_sq, *scalars, count)


@storable
def momo(
    learning_rate: Any = 1.0,
    beta: Any = 0.9,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: bool = False,
    *,
    form: str = "optax",
) -> Transform:
    """MoMo (Schaipp et al. 2023, arXiv 2305.07583): momentum SGD that shortens its steps by the loss it has left.

    The recurrence heads this module; ``update`` needs ``value``, the loss at the parameters.

    Args:
      learning_rate: the largest step size: one number or schedule.  Choose it large.
      beta: decay of the averages, in [0, 1).
      lower_bound: of the loss; zero suits most.
      weight_decay: the factor of the parameter.
      adapt_lower_bound: (static) true estimates the bound from the loss on the way, never below ``lower_bound``.
      form: (static) ``'optax'`` divides the parameter alone by ``1 + learning_rate * weight_decay``; ``'paper'``
        the parameter after the step, as the authors do.  Without weight decay they are the same.

    Raises:
      ValueError: a number outside of its range, an unknown form; ``update`` called without ``params``.
      TypeError: ``update`` called without ``value``; a tree of learning rates.

    >>> params = jnp.array([3.0, 4.0])
    >>> tx = momo()
    >>> updates, _ = tx.update(params, tx.init(params), params, value=0.5 * jnp.sum(params**2))
    >>> (params + updates).tolist()
    [1.5, 2.0]
    """
    check.one_rate("momo", learning_rate)
    check.decay_rate(beta=beta)
    check.non_negative(weight_decay=weight_decay)
    check.one_of("form", form, FORMS)
    return transform(
        _momo_init,
        _momo_update,
        evaluate_schedules=False,
        learning_rate=learning_rate,
        beta=beta,
        lower_bound=lower_bound,
        weight_decay=weight_decay,
        adapt_lower_bound=static(adapt_lower_bound),
        form=static(form),
    )


@storable
def momo_adam(
    learning_rate: Any = 1e-2,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: bool = False,
    *,
    form: str = "optax",
) -> Transform:
    """MoMo-Adam (Schaipp et al. 2023, arXiv 2305.07583): Adam that shortens its steps by the loss it has left.

    The recurrence heads this module; ``update`` needs ``value``, the loss at the parameters.

    Args:
      learning_rate, lower_bound, weight_decay, adapt_lower_bound, form: as for `momo`.
      b1: decay of the averages of gradients and losses, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.

    Raises:
      ValueError: a number outside of its range, an unknown form; ``update`` called without ``params``.
      TypeError: ``update`` called without ``value``; a tree of learning rates.

    >>> params = jnp.array([3.0, -4.0])
    >>> tx = momo_adam(learning_rate=0.5)
    >>> updates, _ = tx.update(params, tx.init(params), params, value=0.5 * jnp.sum(params**2))
    >>> [round(float(p), 4) for p in params + updates]
    [2.5, -3.5]
    """
    check.one_rate("momo_adam", learning_rate)
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, weight_decay=weight_decay)
    check.one_of("form", form, FORMS)
    return transform(
        _momo_adam_init,
        _momo_adam_update,
        evaluate_schedules=False,
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        lower_bound=lower_bound,
        weight_decay=weight_decay,
        adapt_lower_bound=static(adapt_lower_bound),
        form=static(form),
    )
