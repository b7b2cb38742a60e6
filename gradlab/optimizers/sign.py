r"""Optimizers whose step keeps only the sign of each coordinate: signSGD, Signum, Lion.

With g the gradient, p the parameter and mu = 0 before the first step::

    u = sign(g)                                                   signSGD, arXiv 1802.04434

    mu = beta * mu + (1 - beta) * g
    u = sign(mu)                                                  Signum, arXiv 1802.04434

    u = sign(b1 * mu + (1 - b1) * g)
    mu = b2 * mu + (1 - b2) * g                                   Lion, arXiv 2302.06675

    p = p - learning_rate * u
    p = p - learning_rate * (u + weight_decay * p)                Lion

Signum is Lion with b1 = b2 and no decay.  The sign of zero is zero, and that of a complex g is ``g / |g|``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain, empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.core.values import relabel
from gradlab.transforms.accumulate import ema
from gradlab.transforms.decay import with_weight_decay
from gradlab.transforms.scaling import scale_by_learning_rate

MODES = ("hard", "smooth", "refined")


def _sign_rule(g):
    return (jnp.sign(g),)


def _scale_by_sign_update(grads, state, params=None, **extra):
    del params, extra
    (updates,) = leafwise(_sign_rule, grads)
    return updates, state


def scale_by_sign() -> Transform:
    """Replaces every coordinate of the updates by its sign.

    >>> scale_by_sign().update(jnp.array([3.0, -0.1, 0.0]), optax.EmptyState())[0].tolist()
    [1.0, -1.0, 0.0]
    """
    return transform(empty_init, _scale_by_sign_update)


@storable
def sign_sgd(learning_rate: Any) -> Transform:
    """signSGD (Bernstein et al., arXiv 1802.04434): ``p = p - learning_rate * sign(g)``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.

    Raises:
      ValueError: a negative learning rate.

    >>> tx = sign_sgd(0.1)
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [-0.1, 0.1]
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@storable
def signum(learning_rate: Any, beta: Any = 0.9, accumulator_dtype: Any = None) -> Transform:
    """Signum (Bernstein et al., arXiv 1802.04434): the sign of the average of the gradients.

    ``mu = beta * mu + (1 - beta) * g``, ``p = p - learning_rate * sign(mu)``; a sign needs no bias correction.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      beta: decay of the average, in [0, 1); the `decay` of its stage `ema`.
      accumulator_dtype: (static) dtype in which the average is stored; the parameter's if None.

    Raises:
      ValueError: a ``beta`` outside of [0, 1), a negative learning rate.

    >>> tx = signum(0.1, beta=0.9)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (3.0, -1.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    >>> round(float(updates[0]), 4)
    -0.1
    """
    check.non_negative(learning_rate=learning_rate)
    check.decay_rate(beta=beta)
    average = relabel(ema(beta, debias=False, accumulator_dtype=accumulator_dtype), decay="beta")
    return chain(average, scale_by_sign(), scale_by_learning_rate(learning_rate))


def _scale_by_lion_init(params, *, mu_dtype):
    return optax.ScaleByLionState(count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype))


def _soft_sign(x: jax.Array, mode: str, smooth_beta: jax.Array) -> jax.Array:
    if mode == "smooth":
        return jnp.tanh(smooth_beta * x)
    if mode == "refined":
        return jnp.where(jnp.abs(x) < 1, x, jnp.sign(x))
    return jnp.sign(x)


def _lion_rule(g, mu, *, b1, b2, smooth_beta, mode):
    u = _soft_sign(b1 * mu + (1 - b1) * g, mode, smooth_beta)
    return u, b2 * mu + (1 - b2) * g


def _scale_by_lion_update(grads, state, params=None, *, b1, b2, smooth_beta, mode, **extra):
    del params, extra
    updates, mu = leafwise(
        _lion_rule, grads, [state.mu], structure={"mode": mode}, b1=b1, b2=b2, smooth_beta=smooth_beta
    )
    return updates, optax.ScaleByLionState(count=optax.safe_increment(state.count), mu=mu)


def scale_by_lion(
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    *,
    mode: str = "hard",
    smooth_beta: Any = 1.0,
) -> Transform:
    """The direction of Lion: ``sign(b1 * mu + (1 - b1) * g)``; see `lion`.

    >>> tx = scale_by_lion()
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> updates.tolist()
    [1.0, -1.0]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.positive(smooth_beta=smooth_beta)
    check.one_of("mode", mode, MODES)
    return transform(
        _scale_by_lion_init,
        _scale_by_lion_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        smooth_beta=smooth_beta,
        mode=static(mode),
    )


@storable
def lion(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-3,
    mask: Any = None,
    *,
    mode: str = "hard",
    smooth_beta: Any = 1.0,
    decay: str = "decoupled",
) -> Transform:
    """Lion (Chen et al., arXiv 2302.06675): the sign of an interpolated momentum, one buffer, decoupled decay.

    The recurrence heads this module.  Every coordinate moves by ``learning_rate``, so its learning rate is about a
    tenth to a third of AdamW's and its weight decay three to ten times as large.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: weight of the average in the direction, in [0, 1).
      b2: decay of the average of gradients, in [0, 1).
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay, mask, decay: as for `adamw`.
      mode: (static) ``'hard'`` is the sign; ``'smooth'`` is ``tanh(smooth_beta * x)``; ``'refined'`` is x itself
        where ``|x| < 1`` and the sign beyond.
      smooth_beta: slope of ``'smooth'`` at zero, above zero; the other modes do not read it.

    Raises:
      ValueError: a decay outside of [0, 1), a negative learning rate or weight decay, an unknown ``mode`` or
        ``decay``.

    >>> params = jnp.array([2.0])
    >>> tx = lion(0.1, weight_decay=0.5)
    >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_lion(b1, b2, mu_dtype, mode=mode, smooth_beta=smooth_beta)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
