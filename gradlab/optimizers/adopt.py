r"""ADOPT: Adam that divides a gradient by the average of the squares before it (arXiv 2411.02853).

With g the gradient, p the parameter and mu = nu = 0.  The first call, count = 0, only measures: ``nu = |g|^2`` and
p stays.  From then on, count = 1, 2, ...::

    n = clip(g / max(sqrt(nu), eps), -clip_value, clip_value),  clip_value = count^(1/4)
    mu = b1 * mu + (1 - b1) * n
    nu = b2 * nu + (1 - b2) * |g|^2                                after n has used it
    p = p - learning_rate * mu
    p = p - learning_rate * (b1 * mu + (1 - b1) * n)               with nesterov

The gradient and its denominator are independent, and mu averages what is already divided: ADOPT converges at the
best rate for every b2, where Adam needs one that suits the problem.  That holds without the clip: where rare large
gradients decide the direction, the clip cuts them off and the method may go the wrong way.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.schedule import evaluate, make_schedule
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import with_weight_decay


def _fourth_root(step):
    return step**0.25


FOURTH_ROOT = make_schedule(_fourth_root)


def _scale_by_adopt_init(params, *, mu_dtype):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params)
    )


def _bounded(x: jax.Array, limit: jax.Array) -> jax.Array:
    """``x`` with its magnitude cut off at ``limit``; a complex one keeps its phase."""
    if not jnp.iscomplexobj(x):
        return jnp.clip(x, -limit, limit)
    size = safe_sqrt(abs_sq(x))
    return x * jnp.where(size > limit, limit / jnp.where(size > limit, size, 1), 1)


def _adopt_rule(g, mu, nu, *, count, b1, b2, eps, clip_value, nesterov):
    first = count == 0
    denominator = jnp.where(first, 1, jnp.maximum(safe_sqrt(nu.real), eps))
    n = _bounded(g / denominator, clip_value)
    mu = jnp.where(first, mu, b1 * mu + (1 - b1) * n)
    u = jnp.where(first, mu, b1 * mu + (1 - b1) * n) if nesterov else mu
    return u, mu, jnp.where(first, 0, b2) * nu + jnp.where(first, 1, 1 - b2) * abs_sq(g)


def _scale_by_adopt_update(grads, state, params=None, *, b1, b2, eps, nesterov, use_clipping, clip_value_fn, **extra):
    del params, extra
    hyper = {"b1": b1, "b2": b2, "eps": eps, "clip_value": clip_value_fn if use_clipping else jnp.inf}
    updates, mu, nu = leafwise(
        _adopt_rule,
        grads,
        [state.mu, state.nu],
        structure={"nesterov": nesterov},
        count=state.count,
        **evaluate(hyper, state.count),
    )
    return updates, optax.ScaleByAdamState(count=optax.safe_increment(state.count), mu=mu, nu=nu)


def scale_by_adopt(
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Any = FOURTH_ROOT,
) -> Transform:
    """The direction of ADOPT: the average of ``g / max(sqrt(nu), eps)``; see `adopt`.

    >>> tx = scale_by_adopt(b1=0.5)
    >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([-2.0]), state)[0].tolist()
    ([0.0], [-0.25])
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, clip_value_fn=clip_value_fn)
    return transform(
        _scale_by_adopt_init,
        _scale_by_adopt_update,
        at_init={"mu_dtype": static(mu_dtype)},
        evaluate_schedules=False,
        b1=b1,
        b2=b2,
        eps=eps,
        nesterov=static(nesterov),
        use_clipping=static(use_clipping),
        clip_value_fn=clip_value_fn,
    )


@storable
def adopt(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Any = FOURTH_ROOT,
    weight_decay: Any = None,
    mask: Any = None,
    decay: str = "decoupled",
) -> Transform:
    """ADOPT (Taniguchi et al., arXiv 2411.02853): Adam that converges whatever ``b2``.

    The recurrence heads this module.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of divided gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: least denominator; it bounds the root from below instead of being added to it.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      nesterov: (static) true looks one step ahead.
      use_clipping: (static) false takes the divided gradients as they are: the paper's algorithm 1.
      clip_value_fn: bound on the divided gradients, a number or a function of the count of calls before.
      weight_decay: None for none, or as for `adamw`.  The authors' program decays by ``'coupled'`` unless told
        otherwise; its ``'decoupled'`` decay leaves the parameters alone on the first call, this one does not.
      mask, decay: as for `adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative ``eps``, clip, learning rate or weight decay, an unknown
        ``decay``.

    >>> tx = adopt(learning_rate=0.1, b1=0.0)
    >>> state, moved = tx.init(jnp.zeros(1)), []
    >>> for g in (4.0, 2.0, -400.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    ...     moved.append(round(float(updates[0]), 4))
    >>> moved
    [-0.0, -0.05, 0.1189]
    """
    direction = scale_by_adopt(
        b1, b2, eps, mu_dtype, nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn
    )
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
