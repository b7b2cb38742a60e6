r"""RAdam: Adam that waits until its denominator can be trusted (arXiv 1908.03265).

With Adam's mu_hat and u (see `gradlab.optimizers.adam`), count = 1, 2, ... and p the parameter::

    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * count * b2^count / (1 - b2^count)        gradients that nu averages, in effect
    r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
    p = p - learning_rate * r * u                                where rho >= threshold
    p = p - learning_rate * mu_hat                               before, or no step with unrectified='skip'
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.optimizers.adam import EPS_ON, adam_rule, corrected_mu
from gradlab.transforms.scaling import scale_by_learning_rate

UNRECTIFIED = ("momentum", "skip")


def effective_length(count: jax.Array, b2: jax.Array) -> jax.Array:
    """``rho``: how many gradients the average ``nu`` holds in effect after ``count`` of them.

    Early on the closed form subtracts two numbers near ``2 / (1 - b2)`` to leave one near ``count``; in float32
    with ``b2 = 0.9999`` it would rectify step 2.  With ``z = -count * log(b2)`` small, both are expanded around
    their common pole ``2 / -log(b2)``, which cancels exactly.

    >>> [round(float(effective_length(jnp.float32(count), jnp.float32(0.9999))), 2) for count in (1, 2, 6)]
    [1.0, 2.0, 6.0]
    """
    rate = -jnp.log1p(b2 - 1)
    early = count + _beyond_pole(rate) - count * _beyond_pole(count * rate)
    late = 2 / (1 - b2) - 1 - 2 * count / jnp.expm1(count * rate)
    return jnp.where(count * rate < 0.2, early, late)


def _beyond_pole(z: jax.Array) -> jax.Array:
    """``coth(z / 2) - 2 / z`` for z up to 0.2, by its series (the error is below 1e-13)."""
    z = jnp.minimum(z, 0.2)
    return z * (1 / 6 - z**2 * (1 / 360 - z**2 * (1 / 15120 - z**2 / 604800)))


def rectification(rho: jax.Array, rho_inf: jax.Array, rectified: jax.Array) -> jax.Array:
    """``r`` where ``rectified``, else 1, so that no root of a negative number reaches a gradient."""
    length = jnp.where(rectified, (rho - 4) * (rho - 2) / rho, 1.0)
    longest = jnp.where(rectified, (rho_inf - 4) * (rho_inf - 2) / rho_inf, 1.0)
    return jnp.sqrt(length / longest)


def _scale_by_radam_init(params):
    return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros_like(params), nu=zeros_like(params))


def _radam_rule(g, mu, nu, *, count, b1, b2, eps, eps_root, threshold, nesterov, eps_on, unrectified):
    adaptive, mu, nu = adam_rule(
        g,
        mu,
        nu,
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        nesterov=nesterov,
        bias_correction=True,
        eps_on=eps_on,
    )
    plain = 0.0
    if unrectified == "momentum":
        plain = corrected_mu(g, mu, count=count, b1=b1, nesterov=nesterov, bias_correction=True)
    rho = effective_length(count, b2)
    rectified = rho >= threshold
    return jnp.where(rectified, rectification(rho, 2 / (1 - b2) - 1, rectified) * adaptive, plain), mu, nu


def _scale_by_radam_update(
    grads, state, params=None, *, b1, b2, eps, eps_root, threshold, nesterov, eps_on, unrectified, **extra
):
    del params, extra
    count = optax.safe_increment(state.count)
    structure = {"nesterov": nesterov, "eps_on": eps_on, "unrectified": unrectified}
    updates, mu, nu = leafwise(
        _radam_rule,
        grads,
        [state.mu, state.nu],
        structure=structure,
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        threshold=threshold,
    )
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_radam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
    eps_on: str = "nu_hat",
    unrectified: str = "momentum",
) -> Transform:
    """The direction of RAdam: ``r * u`` once ``rho`` reaches the threshold, before ``mu_hat``; see `radam`.

    >>> tx = scale_by_radam()
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [3.0, -0.1]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root)
    check.in_range("threshold", threshold, 4.0)
    check.one_of("eps_on", eps_on, EPS_ON)
    check.one_of("unrectified", unrectified, UNRECTIFIED)
    return transform(
        _scale_by_radam_init,
        _scale_by_radam_update,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        threshold=threshold,
        nesterov=static(nesterov),
        eps_on=static(eps_on),
        unrectified=static(unrectified),
    )


@storable
def radam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
    eps_on: str = "nu_hat",
    unrectified: str = "momentum",
) -> Transform:
    """RAdam (Liu et al., arXiv 1908.03265): the warm-up that Adam's variance asks for, by formula.

    The recurrence heads this module.  The first rectified step is the sixth for every ``b2`` from 0.9 up, and
    ``r`` grows from there to one over about ``2 / (1 - b2)`` steps.  The steps before move by the gradient
    itself, however large it is.  For ``b2`` of 0.6 and below no step is rectified.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.
      eps_root: added under the root; above zero where gradients are taken through an update.
      threshold: ``rho`` from which steps are rectified, at least 4, where ``r`` is zero: the paper's value.  The
        authors' code, Optax and PyTorch use 5.
      nesterov: (static) true takes NAdam's ``mu_hat``.
      eps_on: (static) ``'nu_hat'`` adds ``eps`` to the root of the corrected average (Optax); ``'nu'`` to that of
        the raw one (the authors' code, PyTorch).
      unrectified: (static) ``'momentum'`` steps by ``mu_hat`` before the threshold (the paper, Optax, PyTorch);
        ``'skip'`` does not move (the authors' later default).

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon or learning rate, a threshold below 4, an unknown
        ``eps_on`` or ``unrectified``.

    >>> tx = radam(learning_rate=0.1, unrectified='skip')
    >>> state, moved = tx.init(jnp.zeros(1)), []
    >>> for _ in range(7):
    ...     updates, state = tx.update(jnp.ones(1), state)
    ...     moved.append(round(float(updates[0]), 4))
    >>> moved
    [-0.0, -0.0, -0.0, -0.0, -0.0, -0.0026, -0.0033]
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_radam(
        b1, b2, eps, eps_root, threshold, nesterov=nesterov, eps_on=eps_on, unrectified=unrectified
    )
    return chain(direction, scale_by_learning_rate(learning_rate))
