r"""AdaGrad and AdaDelta: every coordinate divided by the root of its own squared gradients.

With g the gradient, p the parameter, e_g = e_x = 0 and r = initial_accumulator_value before the first step::

    r = r + |g|^2
    p = p - learning_rate * g / sqrt(r + eps)                     AdaGrad, Duchi et al. 2011
    p = p - learning_rate * g / (sqrt(r) + eps)                   eps_in_sqrt=False

    e_g = rho * e_g + (1 - rho) * |g|^2
    u = sqrt(e_x + eps) / sqrt(e_g + eps) * g                     with the e_x of the step before
    e_x = rho * e_x + (1 - rho) * |u|^2
    p = p - learning_rate * u                                     AdaDelta, arXiv 1212.5701

AdaDelta is not RMSProp: the numerator gives its step the unit of the parameter, where RMSProp has a learning rate.
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import full_like, zeros_like
from gradlab.transforms.decay import with_weight_decay
from gradlab.transforms.scaling import scale_by_learning_rate


def _scale_by_rss_init(params, *, initial_accumulator_value):
    return optax.ScaleByRssState(sum_of_squares=full_like(params, initial_accumulator_value))


def _scale_by_adadelta_init(params):
    return optax.ScaleByAdaDeltaState(e_g=zeros_like(params), e_x=zeros_like(params))


def over_root(g, nu, *, eps, eps_in_sqrt):
    """``g`` divided by the root of ``nu``, with ``eps`` under the root or beside it."""
    return g / safe_sqrt(nu + eps) if eps_in_sqrt else g / (safe_sqrt(nu) + eps)


def _rss_rule(g, sum_of_squares, *, eps, eps_in_sqrt):
    sum_of_squares = sum_of_squares + abs_sq(g)
    seen = sum_of_squares > 0
    divisible = jnp.where(seen, sum_of_squares, 1)
    updates = jnp.where(seen, over_root(g, divisible, eps=eps, eps_in_sqrt=eps_in_sqrt), 0)
    return updates, sum_of_squares


def _scale_by_rss_update(grads, state, params=None, *, eps, eps_in_sqrt, **extra):
    del params, extra
    structure = {"eps_in_sqrt": eps_in_sqrt}
    updates, sum_of_squares = leafwise(_rss_rule, grads, [state.sum_of_squares], structure=structure, eps=eps)
    return updates, optax.ScaleByRssState(sum_of_squares=sum_of_squares)


def _adadelta_rule(g, e_g, e_x, *, rho, eps):
    e_g = rho * e_g + (1 - rho) * abs_sq(g)
    u = jnp.sqrt(e_x + eps) / jnp.sqrt(e_g + eps) * g
    e_x = rho * e_x + (1 - rho) * abs_sq(u)
    return u, e_g, e_x


def _scale_by_adadelta_update(grads, state, params=None, *, rho, eps, **extra):
    del params, extra
    updates, e_g, e_x = leafwise(_adadelta_rule, grads, [state.e_g, state.e_x], rho=rho, eps=eps)
    return updates, optax.ScaleByAdaDeltaState(e_g=e_g, e_x=e_x)


def scale_by_rss(initial_accumulator_value: Any = 0.1, eps: Any = 1e-7, *, eps_in_sqrt: bool = True) -> Transform:
    """Divides the updates by the root of the sum of their squares so far; see `adagrad`.

    Where that sum is zero the update is zero, also with ``eps=0``.

    >>> tx = scale_by_rss(initial_accumulator_value=7.0, eps=0.0)
    >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist()
    [0.75]
    """
    check.non_negative(initial_accumulator_value=initial_accumulator_value, eps=eps)
    at_init = {"initial_accumulator_value": initial_accumulator_value}
    return transform(
        _scale_by_rss_init, _scale_by_rss_update, at_init=at_init, eps=eps, eps_in_sqrt=static(eps_in_sqrt)
    )


@storable
def adagrad(
    learning_rate: Any,
    initial_accumulator_value: Any = 0.1,
    eps: Any = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> Transform:
    """AdaGrad (Duchi, Hazan and Singer 2011): steps shrink with all the squared gradients seen so far.

    The recurrence heads this module.  On a constant gradient the step is ``learning_rate / sqrt(count)`` whatever the
    gradient's size; a steeper coordinate gets the smaller multiple of its gradient.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.  PyTorch's
        ``lr_decay`` is the schedule ``lambda count: lr / (1 + lr_decay * count)``.
      initial_accumulator_value: the sum of squares before the first step.  Optax starts with 0.1, PyTorch and the
        paper with 0.
      eps: added to the sum, or to its root.
      eps_in_sqrt: (static) true adds ``eps`` under the root (Optax, 1e-7); false to the root (PyTorch, 1e-10;
        Goodfellow et al., algorithm 8.4, 1e-7).

    Raises:
      ValueError: a negative learning rate, initial value or epsilon.

    >>> tx = adagrad(0.1, initial_accumulator_value=0.0, eps=0.0)
    >>> updates, state = tx.update(jnp.array([5.0]), tx.init(jnp.zeros(1)))
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([5.0]), state)
    >>> round(float(updates[0]), 4)
    -0.05
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt)
    return chain(direction, scale_by_learning_rate(learning_rate))


def scale_by_adadelta(rho: Any = 0.9, eps: Any = 1e-6) -> Transform:
    """Multiplies the updates by the ratio of two averages: of past steps and of gradients; see `adadelta`.

    >>> tx = scale_by_adadelta(rho=0.75, eps=1.0)
    >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> round(float(updates[0]), 4)
    1.7889
    """
    check.decay_rate(rho=rho)
    check.non_negative(eps=eps)
    return transform(_scale_by_adadelta_init, _scale_by_adadelta_update, rho=rho, eps=eps)


@storable
def adadelta(
    learning_rate: Any = None,
    rho: Any = 0.9,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    decay: str = "coupled",
) -> Transform:
    """AdaDelta (Zeiler 2012, arXiv 1212.5701): steps as long, on average, as the steps before, without a rate to tune.

    The recurrence heads this module.  Its first steps have the length ``sqrt(eps / (1 - rho))``, about 3e-3 at the
    defaults, and grow from there: a slow start.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters; ``None`` is the
        paper's 1.
      rho: decay of both averages, in [0, 1).
      eps: added under both roots; zero never starts.
      weight_decay: the factor of the parameter.
      weight_decay_mask: which parameters decay; as for `gradlab.masked`.
      decay: (static) ``'coupled'`` adds ``weight_decay * p`` to the gradient (Optax, PyTorch); ``'decoupled'`` and
        ``'independent'`` as for `gradlab.adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number, an unknown ``decay``; ``update`` without ``params``.

    >>> tx = adadelta()
    >>> params = jnp.ones(1)
    >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(params), params)
    >>> round(float(updates[0]), 5)
    -0.00316
    """
    learning_rate = 1.0 if learning_rate is None else learning_rate
    check.non_negative(learning_rate=learning_rate)
    return with_weight_decay(scale_by_adadelta(rho, eps), learning_rate, weight_decay, weight_decay_mask, decay)
