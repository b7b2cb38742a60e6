r"""Optimistic gradient descent: each gradient is extrapolated by its difference from the one before.

With g the gradient, p the parameter and g_prev the gradient of the step before (g itself at the first)::

    u = alpha * g + beta * (g - g_prev)
    p = p - learning_rate * u                                     arXiv 1711.00141; alpha and beta, 1901.08511

    u = mu_hat / (sqrt(nu_hat + eps_root) + eps)                  as in Adam, or NAdam
    p = p - learning_rate * (alpha * u + beta * (u - u_prev))     optimistic_adam_v2
    p = p - (learning_rate * u + optimism * (u - u_prev))         optimistic_adam

In a game such as ``min over x, max over y of x * y`` the players' simultaneous gradient steps spiral outwards; the
optimistic ones, which answer where the other is going, spiral inwards.
"""

from typing import Any

import jax.numpy as jnp
from optax._src.transform import ScaleByOptimisticGradientState  # Optax has no public name for it

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.core.values import relabel
from gradlab.optimizers.adam import scale_by_adam
from gradlab.transforms.scaling import descend, scale_by_learning_rate


def _scale_by_optimistic_gradient_init(params):
    return ScaleByOptimisticGradientState(is_initial_step=jnp.array(True), previous_gradient=zeros_like(params))


def _optimistic_rule(g, g_prev, *, is_initial_step, alpha, beta):
    return alpha * g + beta * jnp.where(is_initial_step == 1, 0, g - g_prev), g


def _scale_by_optimistic_gradient_update(grads, state, params=None, *, alpha, beta, **extra):
    del params, extra
    updates, previous_gradient = leafwise(
        _optimistic_rule,
        grads,
        [state.previous_gradient],
        is_initial_step=state.is_initial_step,
        alpha=alpha,
        beta=alpha if beta is None else beta,
    )
    return updates, ScaleByOptimisticGradientState(
        is_initial_step=jnp.zeros_like(state.is_initial_step), previous_gradient=previous_gradient
    )


def scale_by_optimistic_gradient(alpha: Any = 1.0, beta: Any = 1.0) -> Transform:
    """Extrapolates each update from the one before: ``u = alpha * g + beta * (g - g_prev)``.

    Args:
      alpha: factor of the update.
      beta: factor of its difference from the one before, which is zero at the first step; that of ``alpha`` if None.

    Raises:
      ValueError: a negative factor.

    >>> tx = scale_by_optimistic_gradient()
    >>> updates, state = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([2.0]), state)[0].tolist()
    ([3.0], [1.0])
    """
    check.non_negative(alpha=alpha, beta=beta)
    return transform(_scale_by_optimistic_gradient_init, _scale_by_optimistic_gradient_update, alpha=alpha, beta=beta)


@storable
def optimistic_gradient_descent(learning_rate: Any, alpha: Any = 1.0, beta: Any = 1.0) -> Transform:
    """Optimistic gradient descent (Daskalakis et al. 2017, arXiv 1711.00141), which converges in bilinear games.

    The recurrence heads this module.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      alpha: factor of the gradient.
      beta: factor of its difference from the one before; 0 is gradient descent (Mokhtari et al., arXiv 1901.08511).

    Raises:
      ValueError: a negative number.

    >>> x, y = jnp.array(1.0), jnp.array(0.0)  # the least of x * y for x, the most for y
    >>> tx = optimistic_gradient_descent(0.3)
    >>> state = tx.init((x, y))
    >>> for _ in range(100):
    ...     (dx, dy), state = tx.update((y, -x), state)
    ...     x, y = x + dx, y + dy
    >>> bool(jnp.hypot(x, y) < 0.02)
    True
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@storable
def optimistic_adam(
    learning_rate: Any,
    optimism: Any = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> Transform:
    """Optimistic Adam (Daskalakis et al. 2017, arXiv 1711.00141) with its optimism in units of the parameters.

    Optax deprecates this name in favour of `optimistic_adam_v2`, whose ``beta`` is ``optimism / learning_rate``.
    Here, unlike there, the learning rate may be a schedule.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      optimism: factor of the difference of two directions; the learning rate if None.
      b1, b2, eps, eps_root, mu_dtype: as for `gradlab.adam`.
      nesterov: (static) true for NAdam's direction; see `gradlab.nadam`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number.

    >>> tx = optimistic_adam(0.1, nesterov=False)
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [-0.1, 0.1]
    """
    check.non_negative(learning_rate=learning_rate, optimism=optimism)
    step = scale_by_optimistic_gradient(alpha=learning_rate, beta=optimism)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        relabel(step, alpha="learning_rate", beta="optimism"),
        descend(),
    )


@storable
def optimistic_adam_v2(
    learning_rate: Any,
    *,
    alpha: Any = 1.0,
    beta: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> Transform:
    """Optimistic Adam (Daskalakis et al. 2017, arXiv 1711.00141): Adam's directions, each extrapolated.

    The recurrence heads this module.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      alpha: factor of the direction.
      beta: factor of its difference from the one before.
      b1, b2, eps, eps_root, mu_dtype: as for `gradlab.adam`.
      nesterov: (static) true for NAdam's direction; see `gradlab.nadam`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number.

    >>> tx = optimistic_adam_v2(0.1, nesterov=False)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (2.0, -2.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    >>> round(float(updates[0]), 4)  # Adam's directions are 1 and -0.0526
    0.1105
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
