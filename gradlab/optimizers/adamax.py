r"""Adamax: Adam with the largest recent gradient in place of the root of the average square (arXiv 1412.6980).

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = max(b2 * nu, |g| + eps)
    u = mu / (1 - b1^count) / nu
    p = p - learning_rate * u                                     Adamax, section 7.1
    p = p - learning_rate * (u + weight_decay * p)                AdamaxW
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import debias
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import with_weight_decay
from gradlab.transforms.scaling import scale_by_learning_rate


def _scale_by_adamax_init(params):
    return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros_like(params), nu=zeros_like(params))


def _adamax_rule(g, mu, nu, *, count, b1, b2, eps):
    mu = b1 * mu + (1 - b1) * g
    nu = jnp.maximum(b2 * nu, jnp.abs(g) + eps)
    return mu / debias(b1, count) / nu, mu, nu


def _scale_by_adamax_update(grads, state, params=None, *, b1, b2, eps, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, mu, nu = leafwise(_adamax_rule, grads, [state.mu, state.nu], count=count, b1=b1, b2=b2, eps=eps)
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_adamax(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Transform:
    """The direction of Adamax: ``mu_hat / nu`` with ``nu`` a decaying maximum; see `adamax`.

    >>> tx = scale_by_adamax()
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [1.0, -1.0]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps)
    return transform(_scale_by_adamax_init, _scale_by_adamax_update, b1=b1, b2=b2, eps=eps)


@storable
def adamax(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Transform:
    """Adamax (Kingma and Ba 2014, arXiv 1412.6980, section 7.1): no step is longer than about ``learning_rate``.

    The recurrence heads this module.  ``nu`` needs no bias correction, as a maximum is not pulled towards its
    start at zero.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters; the paper's
        default is 2e-3.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the maximum of absolute gradients, in [0, 1).
      eps: added to the absolute gradient before the maximum (Optax and PyTorch); the paper has none.

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon or learning rate.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = adamax(learning_rate=0.1)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> [round(float(p), 4) for p in params + updates]
    [0.9, -1.9]
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@storable
def adamaxw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """Adamax with weight decay beside the adaptive step: ``p = p - learning_rate * (u + weight_decay * p)``.

    Args:
      learning_rate, b1, b2, eps: as for `adamax`.
      weight_decay, mask, decay: as for `adamw`.

    Raises:
      ValueError: as `adamax`; a negative decay or an unknown ``decay``.

    >>> params = jnp.array([2.0])
    >>> tx = adamaxw(0.1, weight_decay=0.5)
    >>> updates, _ = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2
    """
    check.non_negative(learning_rate=learning_rate)
    return with_weight_decay(scale_by_adamax(b1, b2, eps), learning_rate, weight_decay, mask, decay)
