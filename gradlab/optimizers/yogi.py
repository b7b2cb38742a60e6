r"""Yogi: Adam whose average of squares moves by a step of the gradient's size, not of the distance to it.

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = initial_accumulator_value before the first
step::

    mu = b1 * mu + (1 - b1) * g
    nu = nu - (1 - b2) * sign(nu - |g|^2) * |g|^2
    mu_hat = mu / (1 - b1^count)
    nu_hat = nu / (1 - b2^count)
    p = p - learning_rate * mu_hat / (sqrt(nu_hat + eps_root) + eps)         Yogi, Zaheer et al. 2018
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import full_like
from gradlab.transforms.scaling import scale_by_learning_rate


def _scale_by_yogi_init(params, *, initial_accumulator_value):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32),
        mu=full_like(params, initial_accumulator_value),
        nu=full_like(params, initial_accumulator_value),
    )


def _yogi_rule(g, mu, nu, *, count, b1, b2, eps, eps_root):
    mu = b1 * mu + (1 - b1) * g
    square = abs_sq(g)
    nu = nu - (1 - b2) * jnp.sign(nu - square) * square
    return mu / debias(b1, count) / (safe_sqrt(nu / debias(b2, count) + eps_root) + eps), mu, nu


def _scale_by_yogi_update(grads, state, params=None, *, b1, b2, eps, eps_root, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    hyper = {"count": count, "b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    updates, mu, nu = leafwise(_yogi_rule, grads, [state.mu, state.nu], **hyper)
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_yogi(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    eps_root: Any = 0.0,
    initial_accumulator_value: Any = 1e-6,
) -> Transform:
    """The direction of Yogi: ``mu_hat / (sqrt(nu_hat + eps_root) + eps)``; see `yogi`.

    >>> tx = scale_by_yogi(eps=0.0, initial_accumulator_value=0.0)
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [1.0, -1.0]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root, initial_accumulator_value=initial_accumulator_value)
    return transform(
        _scale_by_yogi_init,
        _scale_by_yogi_update,
        at_init={"initial_accumulator_value": initial_accumulator_value},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


@storable
def yogi(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    *,
    eps_root: Any = 0.0,
    initial_accumulator_value: Any = 1e-6,
) -> Transform:
    """Yogi (Zaheer et al. 2018): the average of squares forgets large gradients slowly, so that rare ones still count.

    The recurrence heads this module.  Where ``|g|^2`` falls far below ``nu``, Adam shrinks ``nu`` by the factor b2 at
    every step; Yogi takes away no more than ``(1 - b2) * |g|^2``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters; the paper's is 1e-2.
      b1: decay of the average of gradients, in [0, 1).
      b2: one minus the part of ``|g|^2`` by which ``nu`` moves, in [0, 1).
      eps: added to the root; ten times Adam's or more, since it bounds the step where ``nu`` is small.
      eps_root: added under the root.
      initial_accumulator_value: both averages before the first step, as in Optax; the bias correction, which takes a
        start at zero for granted, divides it too.  At the defaults it moves a weight without gradient by 3e-4
        learning rates at the first step, and less at each one after.

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon, initial value or learning rate.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = yogi(learning_rate=0.1)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> [round(float(p), 3) for p in params + updates]
    [0.9, -1.9]
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_yogi(b1, b2, eps, eps_root, initial_accumulator_value)
    return chain(direction, scale_by_learning_rate(learning_rate))
