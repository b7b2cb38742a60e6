r"""StableAdamW: AdamW that takes smaller steps where the gradient outgrows its average (arXiv 2304.13013).

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    mu_hat = mu / (1 - b1^count)
    nu_hat = nu / (1 - b2^count)
    surprise = sqrt(mean over the leaf of |g|^2 / max(nu_hat, eps^2))
    u = (mu_hat / (sqrt(nu_hat) + eps) + weight_decay * p) / max(1, surprise)
    p = p - learning_rate * u

Adafactor's clipping of the update as a factor of the learning rate, and so of the decay too.
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import check_decay
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import as_mask, mask_leaves


def _stable_adamw_init(params, *, mu_dtype):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params)
    )


def _stable_adamw_rule(g, mu, nu, p, *, count, b1, b2, eps, weight_decay, decays):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    root = safe_sqrt(nu.real / debias(b2, count))
    surprise = safe_sqrt(jnp.mean(abs_sq(g / jnp.maximum(root, eps))))
    u = mu / debias(b1, count) / (root + eps)
    if decays:
        u = u + weight_decay * p
    return u / jnp.maximum(1, surprise), mu, nu


def _stable_adamw_update(grads, state, params=None, *, b1, b2, eps, weight_decay, mask, **extra):
    del extra
    params = check.required_params("stable_adamw", params)
    count = optax.safe_increment(state.count)
    updates, mu, nu = leafwise(
        _stable_adamw_rule,
        grads,
        [state.mu, state.nu],
        params,
        leaf_structure={"decays": mask_leaves(mask, params)},
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
    )
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


@storable
def stable_adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-2,
    mask: Any = None,
) -> Transform:
    """StableAdamW (Wortsman et al., arXiv 2304.13013): a loss spike without a warning does not become a long step.

    The recurrence heads this module.  When the gradient of a leaf grows faster than ``nu`` can follow, Adam divides it
    by the small root of the past; here the whole step of that leaf shrinks by the root mean square of the ratio.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root, and its least value in the ratio.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay: the factor of the parameter; it shrinks with the step.
      mask: which parameters decay; as for `adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon, learning rate or weight decay; ``update`` called
        without ``params``.

    >>> tx = stable_adamw(0.1, b1=0.0, b2=0.75, weight_decay=0.0)
    >>> params = jnp.zeros(1)
    >>> state, moved = tx.init(params), []
    >>> for g in (1.0, 1.0, 20.0):
    ...     updates, state = tx.update(jnp.array([g]), state, params)
    ...     moved.append(round(float(updates[0]), 4))
    >>> moved
    [-0.1, -0.1, -0.1]
    """
    check.non_negative(learning_rate=learning_rate)
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps)
    check_decay(weight_decay)
    direction = transform(
        _stable_adamw_init,
        _stable_adamw_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        mask=static(as_mask(mask)),
    )
    return chain(direction, scale_by_learning_rate(learning_rate))
