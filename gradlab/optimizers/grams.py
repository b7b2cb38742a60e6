r"""Grams: the sign of the gradient, the length of Adam's step (arXiv 2412.17107).

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    mu_hat = mu / (1 - b1^count)
    nu_hat = nu / (1 - b2^count)
    u = sign(g) * |mu_hat| / (sqrt(nu_hat + eps_root) + eps)
    p = p - learning_rate * (u + weight_decay * p)

The momentum says how far, never which way: every step descends on its own batch.
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.optimizers.adam import EPS_ON, adam_rule
from gradlab.transforms.decay import with_weight_decay


def _scale_by_grams_init(params, *, mu_dtype):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params)
    )


def _grams_rule(g, mu, nu, **values):
    u, mu, nu = adam_rule(g, mu, nu, nesterov=False, bias_correction=True, **values)
    return jnp.sign(g) * safe_sqrt(abs_sq(u)), mu, nu


def _scale_by_grams_update(grads, state, params=None, *, b1, b2, eps, eps_root, eps_on, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, mu, nu = leafwise(
        _grams_rule,
        grads,
        [state.mu, state.nu],
        structure={"eps_on": eps_on},
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_grams(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    eps_on: str = "nu_hat",
) -> Transform:
    """The direction of Grams: ``sign(g) * |mu_hat| / (sqrt(nu_hat + eps_root) + eps)``; see `grams`.

    >>> tx = scale_by_grams(b1=0.5, b2=0.0)
    >>> _, state = tx.update(jnp.array([6.0]), tx.init(jnp.zeros(1)))
    >>> round(float(tx.update(jnp.array([-1.0]), state)[0][0]), 4)
    -1.3333
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root)
    check.one_of("eps_on", eps_on, EPS_ON)
    return transform(
        _scale_by_grams_init,
        _scale_by_grams_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        eps_on=static(eps_on),
    )


@storable
def grams(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    eps_on: str = "nu_hat",
    decay: str = "decoupled",
) -> Transform:
    """Grams (Cao, Li and Song, arXiv 2412.17107): gradient descent with adaptive momentum scaling.

    The recurrence heads this module.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.
      eps_root: added under the root; above zero where gradients are taken through an update.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay, mask, decay: as for `adamw`.
      eps_on: (static) ``'nu_hat'`` adds ``eps`` to the root of the corrected average (the paper); ``'nu'`` to that of
        the raw one (the authors' program).

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon, learning rate or weight decay, an unknown ``eps_on``
        or ``decay``.

    >>> tx = grams(0.1, weight_decay=0.5)
    >>> params = jnp.array([2.0])
    >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2
    """
    direction = scale_by_grams(b1, b2, eps, eps_root, mu_dtype, eps_on=eps_on)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
