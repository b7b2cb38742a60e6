r"""Tiger: Lion with one decay for both of its averages, so that its momentum is the direction (Su 2023).

With g the gradient, p the parameter and mu = 0 before the first step::

    mu = beta * mu + (1 - beta) * g
    p = p - learning_rate * (sign(mu) + weight_decay * p)
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import with_weight_decay


def _scale_by_tiger_init(params, *, mu_dtype):
    return optax.ScaleByLionState(count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype))


def _tiger_rule(g, mu, *, beta):
    mu = beta * mu + (1 - beta) * g
    return jnp.sign(mu), mu


def _scale_by_tiger_update(grads, state, params=None, *, beta, **extra):
    del params, extra
    updates, mu = leafwise(_tiger_rule, grads, [state.mu], beta=beta)
    return updates, optax.ScaleByLionState(count=optax.safe_increment(state.count), mu=mu)


def scale_by_tiger(beta: Any = 0.965, mu_dtype: Any = None) -> Transform:
    """The direction of Tiger: the sign of the average of the gradients; see `tiger`.

    >>> tx = scale_by_tiger()
    >>> tx.update(jnp.array([3.0, -0.1, 0.0]), tx.init(jnp.zeros(3)))[0].tolist()
    [1.0, -1.0, 0.0]
    """
    check.decay_rate(beta=beta)
    return transform(_scale_by_tiger_init, _scale_by_tiger_update, at_init={"mu_dtype": static(mu_dtype)}, beta=beta)


@storable
def tiger(
    learning_rate: Any,
    beta: Any = 0.965,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-2,
    mask: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """Tiger (Su 2023, "a tight-fisted optimizer"): the sign of one average, and decoupled decay.

    The recurrence heads this module.  `lion` at ``b1 = b2 = beta``, or `signum` with weight decay.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      beta: decay of the average of gradients, in [0, 1).
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay, mask, decay: as for `adamw`.

    Raises:
      ValueError: a ``beta`` outside of [0, 1), a negative learning rate or weight decay, an unknown ``decay``.

    >>> params = jnp.array([2.0])
    >>> tx = tiger(0.1, weight_decay=0.5)
    >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2
    """
    return with_weight_decay(scale_by_tiger(beta, mu_dtype), learning_rate, weight_decay, mask, decay)
