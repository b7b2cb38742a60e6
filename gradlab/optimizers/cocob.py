r"""COCOB: every weight bets on its own gradients, and the stake is its distance from the start.

With g the gradient, p a weight, p0 its starting point and scale = grad_sum = abs_sum = reward = 0 before the first step
(arXiv 1705.07795, algorithm 2)::

    scale    = max(scale, |g|, eps)
    abs_sum  = abs_sum + |g|
    reward   = max(reward - g * (p - p0), 0)
    grad_sum = grad_sum - g
    p = p0 + grad_sum / (scale * max(abs_sum + scale, alpha * scale)) * (scale + reward)
"""

from typing import Any

import jax.numpy as jnp
from optax.contrib import COCOBState

from gradlab.core import check
from gradlab.core.across import real_product
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import safe_quotient
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, zeros_like
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate


def _scale_by_cocob_init(params):
    return COCOBState(
        init_particles=copied(params),
        cumulative_gradients=zeros_like(params),
        scale=zeros_like(params),
        subgradients=zeros_like(params),
        reward=zeros_like(params),
    )


def _cocob_rule(g, p0, grad_sum, scale, abs_sum, reward, p, *, alpha, eps):
    magnitude = jnp.abs(g)
    scale = jnp.maximum(jnp.maximum(scale.real, magnitude), eps)
    abs_sum = abs_sum.real + magnitude
    reward = jnp.maximum(reward.real - real_product(g, p - p0), 0)
    grad_sum = grad_sum - g
    stake = safe_quotient(scale + reward, scale * jnp.maximum(abs_sum + scale, alpha * scale))
    return p0 + stake * grad_sum - p, p0, grad_sum, scale, abs_sum, reward


def _scale_by_cocob_update(grads, state, params=None, *, alpha, eps, **extra):
    del extra
    params = check.required_params("scale_by_cocob", params)
    updates, *slots = leafwise(_cocob_rule, grads, list(state), params, alpha=alpha, eps=eps)
    return updates, COCOBState(*slots)


def scale_by_cocob(alpha: Any = 100.0, eps: Any = 1e-8) -> Transform:
    """Replaces the updates by the step to where the bet puts the parameters; see `cocob`.

    >>> tx = scale_by_cocob()
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    >>> [round(float(u), 4) for u in updates]
    [-0.01, 0.01]
    """
    check.positive(alpha=alpha)
    check.non_negative(eps=eps)
    return transform(_scale_by_cocob_init, _scale_by_cocob_update, alpha=alpha, eps=eps)


@storable
def cocob(
    learning_rate: Any = 1.0,
    alpha: Any = 100.0,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Transform:
    """COCOB-Backprop (Orabona and Tommasi 2017, arXiv 1705.07795): coin betting instead of a learning rate.

    The recurrence heads this module.  The first step moves every weight by ``1 / alpha`` whatever the gradient's size;
    a weight whose bets win raises its stake with its reward.

    Args:
      learning_rate: a factor of the *gradients*, as in Optax: a number, a schedule, or a tree of these that is a prefix
        of the parameters.  A constant one changes nothing but the weight of ``eps``; a falling one lets later gradients
        count less.
      alpha: the bet's caution: ``1 / alpha`` of the scale is the largest stake at first.
      eps: the least scale of a gradient.
      weight_decay: the factor of the parameter, added to the gradient.
      mask: which parameters decay; as for `gradlab.masked`.

    Raises:
      ValueError: a negative number, or an ``alpha`` of zero; ``update`` called without ``params``.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = cocob()
    >>> updates, _ = tx.update(2 * params, tx.init(params), params)
    >>> [round(float(p), 4) for p in params + updates]
    [0.99, -1.99]
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )
