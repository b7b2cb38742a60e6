r"""Adam: an average of the gradients divided by the root of an average of their squares.

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    mu_hat = mu / (1 - b1^count)
    nu_hat = nu / (1 - b2^count)
    u = mu_hat / (sqrt(nu_hat + eps_root) + eps)                  Adam, arXiv 1412.6980
    p = p - learning_rate * u
    p = p - learning_rate * (u + weight_decay * p)                AdamW, arXiv 1711.05101
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
from gradlab.transforms.decay import with_weight_decay
from gradlab.transforms.scaling import scale_by_learning_rate

EPS_ON = ("nu_hat", "nu")


def _scale_by_adam_init(params, *, mu_dtype):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params)
    )


def corrected_mu(g, mu, *, count, b1, nesterov, bias_correction):
    """``mu`` divided by its total weight; with ``nesterov``, Dozat's mix that looks one step ahead."""
    weight = debias(b1, count) if bias_correction else 1.0
    if not nesterov:
        return mu / weight
    next_weight = debias(b1, count + 1) if bias_correction else 1.0
    return b1 * mu / next_weight + (1 - b1) * g / weight


def adam_rule(g, mu, nu, *, count, b1, b2, eps, eps_root, nesterov, bias_correction, eps_on):
    """Adam on one array: the direction and the two averages."""
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    mu_hat = corrected_mu(g, mu, count=count, b1=b1, nesterov=nesterov, bias_correction=bias_correction)
    weight = debias(b2, count) if bias_correction else 1.0
    if eps_on == "nu":
        return mu_hat * jnp.sqrt(weight) / (safe_sqrt(nu + eps_root) + eps), mu, nu
    return mu_hat / (safe_sqrt(nu / weight + eps_root) + eps), mu, nu


def _scale_by_adam_update(
    grads, state, params=None, *, b1, b2, eps, eps_root, nesterov, bias_correction, eps_on, **extra
):
    del params, extra
    count = optax.safe_increment(state.count)
    structure = {"nesterov": nesterov, "bias_correction": bias_correction, "eps_on": eps_on}
    updates, mu, nu = leafwise(
        adam_rule,
        grads,
        [state.mu, state.nu],
        structure=structure,
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
    eps_on: str = "nu_hat",
) -> Transform:
    """The direction of Adam: ``mu_hat / (sqrt(nu_hat + eps_root) + eps)``; see `adam`.

    >>> tx = scale_by_adam()
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [1.0, -1.0]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root)
    check.one_of("eps_on", eps_on, EPS_ON)
    return transform(
        _scale_by_adam_init,
        _scale_by_adam_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        nesterov=static(nesterov),
        bias_correction=static(bias_correction),
        eps_on=static(eps_on),
    )


@storable
def adam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
    eps_on: str = "nu_hat",
) -> Transform:
    """Adam (Kingma and Ba 2014, arXiv 1412.6980): steps of about ``learning_rate`` in every coordinate.

    The recurrence heads this module.  Its first step has the length ``learning_rate`` whatever the gradient's
    scale; without bias correction it would be ``(1 - b1) / sqrt(1 - b2)`` = 3.16 times that at the defaults.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.
      eps_root: added under the root; above zero where gradients are taken through an update.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      nesterov: (static) true for NAdam; see `nadam`.
      bias_correction: (static) false divides neither average by its total weight.
      eps_on: (static) ``'nu_hat'`` adds ``eps`` to the root of the corrected average (the paper's algorithm 1,
        Optax, PyTorch); ``'nu'`` to that of the raw one (the paper's faster form after algorithm 1: eps counts
        ``1 / sqrt(1 - b2^count)`` times as much in early steps).

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon or learning rate, an unknown ``eps_on``.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = adam(learning_rate=0.1)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> [round(float(p), 4) for p in params + updates]
    [0.9, -1.9]
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_adam(
        b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, bias_correction=bias_correction, eps_on=eps_on
    )
    return chain(direction, scale_by_learning_rate(learning_rate))


@storable
def adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
    eps_on: str = "nu_hat",
    decay: str = "decoupled",
) -> Transform:
    """Adam with weight decay beside the adaptive step (Loshchilov and Hutter, arXiv 1711.05101).

    ``p = p - learning_rate * (u + weight_decay * p)`` with Adam's u; Optax's and PyTorch's convention, in which
    the decay shrinks with the learning rate.

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov, bias_correction, eps_on: as for `adam`.
      weight_decay: the factor of the parameter; PyTorch's default is 1e-2.
      mask: which parameters decay: a regular expression on the path (or a list of them), a tree of bools that is
        a prefix of the parameters, or a function from parameters to such a tree.
      decay: (static) ``'decoupled'``; ``'coupled'`` adds ``weight_decay * p`` to the gradient (L2 regularisation,
        PyTorch's Adam); ``'independent'`` subtracts ``weight_decay * p`` untouched by the learning rate (the
        paper's own).

    Raises:
      ValueError: as `adam`; a negative decay or an unknown ``decay``.

    >>> tx = adamw(0.1, weight_decay=0.5)
    >>> params = jnp.array([2.0])
    >>> updates, _ = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_adam(
        b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, bias_correction=bias_correction, eps_on=eps_on
    )
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
