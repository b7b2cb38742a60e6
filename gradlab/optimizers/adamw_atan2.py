r"""AdamW-atan2: Adam without eps, the quotient replaced by an angle (arXiv 2407.05872).

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    mu_hat = mu / (1 - b1^count)
    nu_hat = nu / (1 - b2^count)
    u = a * atan2(mu_hat, b * sqrt(nu_hat))
    p = p - learning_rate * (u + weight_decay * p)

Only the ratio of the two averages counts, so the scale of the gradient drops out, without an eps to tune (until
``|g|^2`` underflows: below 1e-19 in float32).  ``|u| <= a * pi / 2``.  The angle of (0, 0) is 0, and so is its
derivative here.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import with_weight_decay


def _scale_by_adam_atan2_init(params, *, mu_dtype):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params)
    )


def _angle(y: jax.Array, x: jax.Array) -> jax.Array:
    """``atan2(y, x)`` for x >= 0, with a finite derivative everywhere; a complex y keeps its phase."""
    if jnp.iscomplexobj(y):
        size = safe_sqrt(abs_sq(y))
        return y / jnp.where(size > 0, size, 1) * _angle(size, x)
    scale = jax.lax.stop_gradient(jnp.maximum(jnp.abs(y), x))  # the squares in the derivative must not underflow
    origin = scale == 0
    scale = jnp.where(origin | jnp.isinf(scale), 1, scale)
    return jnp.where(origin, 0, jnp.arctan2(y / scale, jnp.where(origin, 1, x / scale)))


def _adam_atan2_rule(g, mu, nu, *, count, b1, b2, a, b):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    root = safe_sqrt(nu.real / debias(b2, count))
    return a * _angle(mu / debias(b1, count), b * root), mu, nu


def _scale_by_adam_atan2_update(grads, state, params=None, *, b1, b2, a, b, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, mu, nu = leafwise(_adam_atan2_rule, grads, [state.mu, state.nu], count=count, b1=b1, b2=b2, a=a, b=b)
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_adam_atan2(
    b1: Any = 0.9, b2: Any = 0.999, a: Any = 4 / math.pi, b: Any = 1.0, mu_dtype: Any = None
) -> Transform:
    """The direction of AdamW-atan2: ``a * atan2(mu_hat, b * sqrt(nu_hat))``; see `adamw_atan2`.

    >>> tx = scale_by_adam_atan2()
    >>> updates, _ = tx.update(jnp.array([3e-16, -0.1, 0.0]), tx.init(jnp.zeros(3)))
    >>> [round(float(u), 4) for u in updates]
    [1.0, -1.0, 0.0]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.positive(a=a, b=b)
    return transform(
        _scale_by_adam_atan2_init,
        _scale_by_adam_atan2_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        a=a,
        b=b,
    )


@storable
def adamw_atan2(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    a: Any = 4 / math.pi,
    b: Any = 1.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """AdamW-atan2 (Everett et al., arXiv 2407.05872): AdamW in which no gradient is too small for an epsilon.

    The recurrence heads this module.  With ``a = 4 / pi`` and ``b = 1`` a steady gradient moves its parameter by
    ``learning_rate``, as in Adam; the longest step is twice that.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      a: factor of the angle, above zero.
      b: factor of the root, above zero; ``a / b`` is the factor of small quotients.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay, mask, decay: as for `adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), an ``a`` or ``b`` not above zero, a negative learning rate or weight
        decay, an unknown ``decay``.

    >>> tx = adamw_atan2(0.1, weight_decay=0.5)
    >>> params = jnp.array([2.0])
    >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2
    """
    direction = scale_by_adam_atan2(b1, b2, a, b, mu_dtype)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
