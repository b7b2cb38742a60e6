r"""Simplified AdEMAMix: one slow sum of gradients, and the present gradient beside it (arXiv 2502.02431).

With g the gradient, p the parameter, count = 1, 2, ... and m = n = 0 before the first step::

    m = b1 * m + g
    n = b2 * n + (1 - b2) * |g|^2
    n_hat = n / (1 - b2^count)
    u = (m + alpha * g) / (sqrt(n_hat + eps_root) + eps)
    p = p - learning_rate * (u + weight_decay * p)
"""

from typing import Any

import jax.numpy as jnp
import optax
from optax import contrib

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.schedule import evaluate
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import with_weight_decay


def _scale_by_simplified_ademamix_init(params):
    return contrib.ScaleBySimplifiedAdEMAMixState(
        t=jnp.zeros([], jnp.int32), m=zeros_like(params), n=zeros_like(params)
    )


def _simplified_ademamix_rule(g, m, n, *, count, b1, b2, alpha, eps, eps_root):
    m = b1 * m + g
    n = b2 * n + (1 - b2) * abs_sq(g)
    return (m + alpha * g) / (safe_sqrt(n / debias(b2, count) + eps_root) + eps), m, n


def _scale_by_simplified_ademamix_update(grads, state, params=None, *, b1, b2, alpha, eps, eps_root, **extra):
    del params, extra
    hyper = {"b1": b1, "b2": b2, "alpha": alpha, "eps": eps, "eps_root": eps_root}
    t = optax.safe_increment(state.t)
    updates, m, n = leafwise(_simplified_ademamix_rule, grads, [state.m, state.n], count=t, **evaluate(hyper, state.t))
    return updates, contrib.ScaleBySimplifiedAdEMAMixState(t=t, m=m, n=n)


def scale_by_simplified_ademamix(
    b1: Any = 0.99,
    b2: Any = 0.95,
    alpha: Any = 0.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
) -> Transform:
    """The direction of `simplified_ademamix`.

    >>> tx = scale_by_simplified_ademamix(alpha=2.0)
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [3.0, -3.0]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(alpha=alpha, eps=eps, eps_root=eps_root)
    return transform(
        _scale_by_simplified_ademamix_init,
        _scale_by_simplified_ademamix_update,
        evaluate_schedules=False,
        b1=b1,
        b2=b2,
        alpha=alpha,
        eps=eps,
        eps_root=eps_root,
    )


@storable
def simplified_ademamix(
    learning_rate: Any,
    b1: Any = 0.99,
    b2: Any = 0.95,
    alpha: Any = 0.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """Simplified AdEMAMix (Morwani et al., arXiv 2502.02431): one slow sum of gradients, and today's beside it.

    The recurrence heads this module.  The sum has no factor ``1 - b1``, so on a steady gradient the steps grow to
    ``learning_rate / (1 - b1)``: at ``alpha = 0`` these are Adam's at a learning rate ``1 / (1 - b1)`` as large,
    without its bias correction of the first average.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the sum of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      alpha: weight of the present gradient, at least 0.
      eps: added to the root.
      eps_root: added under the root; above zero where gradients are taken through an update.
      weight_decay, mask, decay: as for `adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative ``alpha``, epsilon, learning rate or weight decay, an
        unknown ``decay``.

    >>> tx = simplified_ademamix(0.1, b1=0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([2.0]), state, jnp.zeros(1))
    >>> round(float(updates[0]), 4)
    -0.15
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
