r"""AdEMAMix: Adam whose direction also holds a slow average of old gradients (arXiv 2409.03137).

With g the gradient, p the parameter, count = 1, 2, ... and all buffers zero before the first step::

    m1 = b1 * m1 + (1 - b1) * g
    m2 = b3 * m2 + (1 - b3) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    nu_hat = nu / (1 - b2^count)
    u = (m1 / (1 - b1^count) + alpha * m2) / (sqrt(nu_hat + eps_root) + eps)
    p = p - learning_rate * (u + weight_decay * p)

The slow average has no bias correction: it fills up over about ``1 / (1 - b3)`` steps, and the paper lets alpha and b3
rise over the same time, T steps, by ``s = min(count / T, 1)``::

    alpha_t = s * alpha
    b3_t = 2^(-1/h),  h = (1 - s) * h(b1) + s * h(b3),  h(b) = -1 / log2(b)     the half-life grows in a line

`gradlab.schedules.slow_average` has both.
"""

from typing import Any

import jax.numpy as jnp
import optax
from optax import contrib

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.schedule import evaluate
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import with_weight_decay


def _scale_by_ademamix_init(params, *, mu_dtype):
    return contrib.ScaleByAdemamixState(
        count=jnp.zeros([], jnp.int32),
        count_m2=jnp.zeros([], jnp.int32),
        m1=zeros_like(params, mu_dtype),
        m2=zeros_like(params, mu_dtype),
        nu=zeros_like(params),
    )


def _ademamix_rule(g, m1, m2, nu, *, count, b1, b2, b3, alpha, eps, eps_root):
    m1 = b1 * m1 + (1 - b1) * g
    m2 = b3 * m2 + (1 - b3) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    denominator = safe_sqrt(nu / debias(b2, count) + eps_root) + eps
    return (m1 / debias(b1, count) + alpha * m2) / denominator, m1, m2, nu


def _scale_by_ademamix_update(grads, state, params=None, *, b1, b2, b3, alpha, eps, eps_root, **extra):
    del params, extra
    hyper = {"b1": b1, "b2": b2, "b3": b3, "alpha": alpha, "eps": eps, "eps_root": eps_root}
    count = optax.safe_increment(state.count)
    updates, m1, m2, nu = leafwise(
        _ademamix_rule,
        grads,
        [state.m1, state.m2, state.nu],
        count=count,
        **evaluate(hyper, state.count_m2),
    )
    count_m2 = optax.safe_increment(state.count_m2)
    return updates, contrib.ScaleByAdemamixState(count=count, count_m2=count_m2, m1=m1, m2=m2, nu=nu)


def scale_by_ademamix(
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 6.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
) -> Transform:
    """The direction of AdEMAMix; see `ademamix`, whose ``alpha`` is 5 by default, as in Optax.

    >>> tx = scale_by_ademamix(b3=0.5, alpha=4.0)
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [3.0, -3.0]
    """
    check.decay_rate(b1=b1, b2=b2, b3=b3)
    check.non_negative(alpha=alpha, eps=eps, eps_root=eps_root)
    return transform(
        _scale_by_ademamix_init,
        _scale_by_ademamix_update,
        at_init={"mu_dtype": static(mu_dtype)},
        evaluate_schedules=False,
        b1=b1,
        b2=b2,
        b3=b3,
        alpha=alpha,
        eps=eps,
        eps_root=eps_root,
    )


@storable
def ademamix(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """AdEMAMix (Pagliardini, Ablin and Grangier, arXiv 2409.03137): AdamW with a second, slow average of gradients.

    The recurrence heads this module.  At constant ``b3`` and ``alpha`` the first steps are Adam's.  A run of the
    paper's raises both over its whole length T::

        ademamix(1e-3, alpha=ademamix_alpha_schedule(8.0, T), b3=ademamix_b3_schedule(0.9, 0.9999, T))

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the fast average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      b3: decay of the slow average of gradients, in [0, 1).
      alpha: weight of the slow average, at least 0; the paper's are 2 to 8.
      eps: added to the root.
      eps_root: added under the root; above zero where gradients are taken through an update.
      mu_dtype: (static) dtype in which ``m1`` and ``m2`` are stored; the parameter's if None.
      weight_decay, mask, decay: as for `adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative ``alpha``, epsilon, learning rate or weight decay, an
        unknown ``decay``.

    >>> tx = ademamix(0.1, b3=0.9, alpha=5.0)
    >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)), jnp.zeros(1))
    >>> round(float(updates[0]), 4)
    -0.15
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
