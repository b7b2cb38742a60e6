r"""LaProp: Adam's two averages in the other order, first divide, then average (arXiv 2002.04839).

With g the gradient, p the parameter, count = 1, 2, ... and all buffers zero before the first step::

    nu = b2 * nu + (1 - b2) * |g|^2
    n = g / (sqrt(nu / (1 - b2^count)) + eps)
    mu = b1 * mu + (1 - b1) * learning_rate * n
    mean_rate = b1 * mean_rate + (1 - b1) * learning_rate
    u = mu * learning_rate / mean_rate
    p = p - u

The learning rate stands inside of the average: a step follows the past n's weighted by the rates of their own time.
At a constant rate ``learning_rate / mean_rate = 1 / (1 - b1^count)``, Adam's bias correction.  A rate that has fallen
to zero takes no step (the authors' program, dividing by it, takes ``u = mu`` there).

Weight decay, by the argument ``decay``::

    g + weight_decay * p, then all of the above                    'coupled'
    p = p - u - learning_rate * weight_decay * p                   'decoupled'
    p = p - u - weight_decay * p                                   'independent'
    p = (1 - weight_decay) * (p - u)                               'after', the authors' program
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import scalars_like, zeros_like
from gradlab.transforms.decay import DECAYS, check_decay
from gradlab.transforms.select import as_mask, mask_leaves

Tree = Any


class LapropState(NamedTuple):
    """The averages of `laprop`."""

    count: jax.Array  # () int32
    mu: Tree  # like params; of rates times divided gradients
    nu: Tree  # like params
    mean_rate: Tree  # () for each parameter; of the rates


def _laprop_init(params, *, mu_dtype):
    return LapropState(
        count=jnp.zeros([], jnp.int32),
        mu=zeros_like(params, mu_dtype),
        nu=zeros_like(params),
        mean_rate=scalars_like(params, 0.0),
    )


def _laprop_rule(g, mu, nu, mean_rate, p, *, count, learning_rate, b1, b2, eps, weight_decay, decays, decay):
    if decays and decay == "coupled":
        g = g + weight_decay * p
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    n = g / (safe_sqrt(nu / debias(b2, count)) + eps)
    mu = b1 * mu + (1 - b1) * learning_rate * n
    mean_rate = b1 * mean_rate + (1 - b1) * learning_rate
    u = mu * (learning_rate / jnp.where(mean_rate > 0, mean_rate, 1))
    if decays and decay == "after":
        u = u + weight_decay * (p - u)
    elif decays and decay != "coupled":
        u = u + (learning_rate if decay == "decoupled" else 1) * weight_decay * p
    return -u, mu, nu, mean_rate


def _laprop_update(grads, state, params=None, *, learning_rate, b1, b2, eps, weight_decay, mask, decay, **extra):
    del extra
    params = check.required_params("laprop", params)
    count = optax.safe_increment(state.count)
    updates, mu, nu, mean_rate = leafwise(
        _laprop_rule,
        grads,
        [state.mu, state.nu, state.mean_rate],
        params,
        structure={"decay": decay},
        leaf_structure={"decays": mask_leaves(mask, params)},
        count=count,
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
    )
    return updates, LapropState(count=count, mu=mu, nu=nu, mean_rate=mean_rate)


@storable
def laprop(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-15,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """LaProp (Ziyin, Wang and Ueda, arXiv 2002.04839): momentum over gradients that are already divided.

    The recurrence heads this module.  Momentum and the adaptive denominator no longer share a clock, so any ``b1``
    goes with any ``b2``: a step is at most ``learning_rate / sqrt(1 - b2)`` long, where Adam's is unbounded for
    ``b1^2 > b2``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters; the authors' is 4e-4.
      b1: decay of the average of divided gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay: the factor of the parameter.
      mask: which parameters decay; as for `adamw`.
      decay: (static) ``'decoupled'``, ``'coupled'`` or ``'independent'`` as for `adamw`; ``'after'`` shrinks what the
        step has moved, untouched by the learning rate: the authors' convention.

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon, learning rate or weight decay, an unknown ``decay``;
        ``update`` called without ``params``.

    >>> tx = laprop(0.1, b1=0.5, b2=0.0)
    >>> params = jnp.zeros(1)
    >>> state, moved = tx.init(params), []
    >>> for g in (3.0, -1.0):
    ...     updates, state = tx.update(jnp.array([g]), state, params)
    ...     moved.append(round(float(updates[0]), 4))
    >>> moved
    [-0.1, 0.0333]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(learning_rate=learning_rate, eps=eps)
    check_decay(weight_decay)
    check.one_of("decay", decay, [*DECAYS, "after"])
    return transform(
        _laprop_init,
        _laprop_update,
        at_init={"mu_dtype": static(mu_dtype)},
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        mask=static(as_mask(mask)),
        decay=static(decay),
    )
