r"""SAdam and SAMSGrad: a softplus in place of Adam's epsilon (arXiv 1908.00700).

With g the gradient, p the parameter, count = 1, 2, ... and all buffers zero before the first step::

    softplus(x) = log(1 + exp(beta * x)) / beta
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    nu_max = max(nu_max, nu)                                             SAMSGrad: in the place of nu below
    u = mu / softplus(sqrt(nu + eps_root))                               convention='paper'
    u = mu / softplus(sqrt(nu + eps_root)) * sqrt(1 - b2^count) / (1 - b1^count)        convention='official'
    p = p - learning_rate * u
"""

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

CONVENTIONS = ("official", "paper")
LINEAR_FROM = 20.0  # of beta * x: from here on PyTorch's Softplus, and so the official code, returns x itself


def _softplus(x: jax.Array, beta: jax.Array) -> jax.Array:
    """``log(1 + exp(beta * x)) / beta`` for x >= 0, without overflow."""
    return x + jnp.log1p(jnp.exp(-beta * x)) / beta


def _direction(mu, nu, *, count, b1, b2, beta, eps_root, convention):
    root = safe_sqrt(nu + eps_root)
    if convention == "paper":
        return mu / _softplus(root, beta)
    denominator = jnp.where(beta * root > LINEAR_FROM, root, _softplus(root, beta))
    return mu * (jnp.sqrt(debias(b2, count)) / debias(b1, count)) / denominator


def _scale_by_sadam_init(params, *, mu_dtype):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params)
    )


def _sadam_rule(g, mu, nu, *, count, b1, b2, beta, eps_root, convention):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    u = _direction(mu, nu, count=count, b1=b1, b2=b2, beta=beta, eps_root=eps_root, convention=convention)
    return u, mu, nu


def _scale_by_sadam_update(grads, state, params=None, *, b1, b2, beta, eps_root, convention, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    structure = {"convention": convention}
    slots = [state.mu, state.nu]
    updates, mu, nu = leafwise(
        _sadam_rule, grads, slots, structure=structure, count=count, b1=b1, b2=b2, beta=beta, eps_root=eps_root
    )
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_sadam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    beta: Any = 50.0,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    convention: str = "official",
) -> Transform:
    """The direction of SAdam: ``mu / softplus(sqrt(nu))``; see `sadam`.

    >>> tx = scale_by_sadam(convention='paper')
    >>> updates, _ = tx.update(jnp.array([1e-6]), tx.init(jnp.zeros(1)))
    >>> round(float(updates[0] / 1e-7), 2)  # 50 / log(2): mu over the least denominator
    72.13
    """
    check.decay_rate(b1=b1, b2=b2)
    check.positive(beta=beta)
    check.non_negative(eps_root=eps_root)
    check.one_of("convention", convention, CONVENTIONS)
    return transform(
        _scale_by_sadam_init,
        _scale_by_sadam_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        beta=beta,
        eps_root=eps_root,
        convention=static(convention),
    )


def _scale_by_samsgrad_init(params, *, mu_dtype):
    return optax.ScaleByAmsgradState(
        count=jnp.zeros([], jnp.int32),
        mu=zeros_like(params, mu_dtype),
        nu=zeros_like(params),
        nu_max=zeros_like(params),
    )


def _samsgrad_rule(g, mu, nu, nu_max, *, count, b1, b2, beta, eps_root, convention):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    nu_max = jnp.maximum(nu_max, nu)
    u = _direction(mu, nu_max, count=count, b1=b1, b2=b2, beta=beta, eps_root=eps_root, convention=convention)
    return u, mu, nu, nu_max


def _scale_by_samsgrad_update(grads, state, params=None, *, b1, b2, beta, eps_root, convention, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    structure = {"convention": convention}
    slots = [state.mu, state.nu, state.nu_max]
    updates, mu, nu, nu_max = leafwise(
        _samsgrad_rule, grads, slots, structure=structure, count=count, b1=b1, b2=b2, beta=beta, eps_root=eps_root
    )
    return updates, optax.ScaleByAmsgradState(count=count, mu=mu, nu=nu, nu_max=nu_max)


def scale_by_samsgrad(
    b1: Any = 0.9,
    b2: Any = 0.999,
    beta: Any = 50.0,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    convention: str = "official",
) -> Transform:
    """The direction of SAMSGrad: ``mu / softplus(sqrt(nu_max))``; see `samsgrad`.

    >>> tx = scale_by_samsgrad()
    >>> updates, _ = tx.update(jnp.array([300.0]), tx.init(jnp.zeros(1)))
    >>> round(float(updates[0]), 4)
    1.0
    """
    check.decay_rate(b1=b1, b2=b2)
    check.positive(beta=beta)
    check.non_negative(eps_root=eps_root)
    check.one_of("convention", convention, CONVENTIONS)
    return transform(
        _scale_by_samsgrad_init,
        _scale_by_samsgrad_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        beta=beta,
        eps_root=eps_root,
        convention=static(convention),
    )


@storable
def sadam(
    learning_rate: Any = 0.1,
    b1: Any = 0.9,
    b2: Any = 0.999,
    beta: Any = 50.0,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = None,
    mask: Any = None,
    *,
    convention: str = "official",
    decay: str = "coupled",
) -> Transform:
    """SAdam (Tong, Liang and Bi, arXiv 1908.00700): a denominator that is smooth and never below ``log(2) / beta``.

    The recurrence heads this module.  Where ``sqrt(nu)`` is far above ``1 / beta`` this is Adam; where it is far
    below, momentum with the learning rate ``learning_rate * beta / log(2)``.  Hence a learning rate about a hundred
    times Adam's.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      beta: sharpness of the softplus, above zero, in units of one over the gradient's.
      eps_root: added under the root; above zero where gradients are taken through an update.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay: the factor of the parameter; no decay if None.
      mask: which parameters decay; as for `adamw`.
      convention: (static) ``'official'`` corrects the bias outside of the softplus, and takes the identity for the
        softplus where ``beta * sqrt(nu) > 20``, as the authors' code does; ``'paper'`` corrects nothing.
      decay: (static) ``'coupled'`` as in the authors' code, ``'decoupled'`` or ``'independent'``; see `adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a beta that is not positive, a negative learning rate or weight decay,
        an unknown ``convention`` or ``decay``.

    >>> tx = sadam()
    >>> updates, _ = tx.update(jnp.array([100.0, 1e-6]), tx.init(jnp.zeros(2)))
    >>> [float(f'{u:.3g}') for u in updates]
    [-0.1, -2.28e-07]
    """
    direction = scale_by_sadam(b1, b2, beta, eps_root, mu_dtype, convention=convention)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)


@storable
def samsgrad(
    learning_rate: Any = 0.1,
    b1: Any = 0.9,
    b2: Any = 0.999,
    beta: Any = 50.0,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = None,
    mask: Any = None,
    *,
    convention: str = "official",
    decay: str = "coupled",
) -> Transform:
    """SAMSGrad (arXiv 1908.00700): `sadam` whose denominator never shrinks, the default of the authors' code.

    Both conventions take the maximum of the uncorrected ``nu``.

    Args: as for `sadam`.

    Raises:
      ValueError: as `sadam`.

    >>> tx = samsgrad(b1=0.0, b2=0.0)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (4.0, 1.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    >>> round(float(updates[0]), 4)
    -0.025
    """
    direction = scale_by_samsgrad(b1, b2, beta, eps_root, mu_dtype, convention=convention)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
