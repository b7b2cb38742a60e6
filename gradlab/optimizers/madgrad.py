r"""MADGRAD: dual averaging with cube roots, and momentum as a pull towards where it averages to.

With g the gradient, p the parameter, x0 its first value, count = 1, 2, ... and both sums zero before the first step::

    weight = (learning_rate + eps) * sqrt(count)
    grad_sum_sq = grad_sum_sq + weight * |g|^2
    s = s + weight * g
    z = x0 - s / (cbrt(grad_sum_sq) + eps)
    p = momentum * p + (1 - momentum) * z                         arXiv 2101.11075, algorithm 1
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, is_schedule, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import add_decayed_weights


def _copy(p: Any) -> Any:
    """The parameter in memory of its own, so that a donated step may overwrite both."""
    return p if isinstance(p, jax.ShapeDtypeStruct) else jnp.array(p)


def _scale_by_madgrad_init(params):
    return optax.contrib.MadgradState(
        count=jnp.zeros([], jnp.int32),
        grad_sum_sq=zeros_like(params),
        s=zeros_like(params),
        x0=jax.tree.map(_copy, params),
    )


def _madgrad_rule(g, grad_sum_sq, s, x0, p, *, count, learning_rate, momentum, eps):
    weight = (learning_rate + eps) * jnp.sqrt(count)
    grad_sum_sq = jnp.real(grad_sum_sq) + weight * abs_sq(g)
    s = s + weight * g
    seen = grad_sum_sq > 0  # before the first gradient s is zero, and the cube root has no derivative
    z = x0 - jnp.where(seen, s / (jnp.cbrt(jnp.where(seen, grad_sum_sq, 1)) + eps), 0)
    return (1 - momentum) * (z - p), grad_sum_sq, s, x0


def _scale_by_madgrad_update(grads, state, params=None, *, learning_rate, momentum, eps, **extra):
    del extra
    count = optax.safe_increment(state.count)
    at_step = lambda value: value(state.count) if is_schedule(value) else value
    hyper = {"learning_rate": learning_rate, "momentum": momentum, "eps": eps}
    updates, grad_sum_sq, s, x0 = leafwise(
        _madgrad_rule,
        grads,
        [state.grad_sum_sq, state.s, state.x0],
        check.required_params("scale_by_madgrad", params),
        count=count,
        **jax.tree.map(at_step, hyper, is_leaf=is_schedule),
    )
    return updates, optax.contrib.MadgradState(count=count, grad_sum_sq=grad_sum_sq, s=s, x0=x0)


def scale_by_madgrad(learning_rate: Any, momentum: Any = 0.9, eps: Any = 1e-6) -> Transform:
    """Replaces the updates by MADGRAD's steps, learning rate and sign included; see `madgrad`.

    Schedules are evaluated at ``state.count``.

    >>> tx = scale_by_madgrad(0.1, momentum=0.0, eps=0.0)
    >>> updates, _ = tx.update(jnp.array([8.0]), tx.init(jnp.ones(1)), jnp.ones(1))
    >>> round(float(updates[0]), 4)  # weight * g / cbrt(weight * g^2)
    -0.4309
    """
    check.non_negative(learning_rate=learning_rate, eps=eps)
    check.in_range("momentum", momentum, 0.0, 1.0)
    return transform(
        _scale_by_madgrad_init,
        _scale_by_madgrad_update,
        evaluate_schedules=False,
        learning_rate=learning_rate,
        momentum=momentum,
        eps=eps,
    )


@storable
def madgrad(
    learning_rate: Any, momentum: Any = 0.9, weight_decay: Any = 0.0, eps: Any = 1e-6, *, mask: Any = None
) -> Transform:
    """MADGRAD (Defazio and Jelassi 2021, arXiv 2101.11075): AdaGrad's dual averaging with momentum.

    The recurrence heads this module.  Every step is measured from where the run began, ``x0``; a step of zero
    learning rate still weighs its gradient by ``eps``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.  It acts by its cube
        root squared, so that good values differ from other methods'.
      momentum: weight of the present parameters, in [0, 1].
      weight_decay: the factor of the parameter that is added to the gradient; the authors advise less than for SGD.
      eps: added to the learning rate and to the cube root.
      mask: which parameters decay; as for `gradlab.masked`.

    Raises:
      ValueError: a negative number, a momentum outside of [0, 1]; ``update`` without ``params``.

    >>> tx = madgrad(0.01)
    >>> params = jnp.array([1.0, -2.0])
    >>> updates, _ = tx.update(2 * params, tx.init(params), params)
    >>> [round(float(u), 4) for u in updates]
    [-0.0058, 0.0074]
    """
    return chain(add_decayed_weights(weight_decay, mask), scale_by_madgrad(learning_rate, momentum, eps))
