r"""AMSGrad: Adam whose denominator never shrinks (arXiv 1904.09237).

With g the gradient, p the parameter, count = 1, 2, ... and all buffers zero before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    mu_hat = mu / (1 - b1^count)

    nu_max = max(nu_max, nu / (1 - b2^count));  nu_hat = nu_max                    max_of='nu_hat'
    nu_max = max(nu_max, nu);                   nu_hat = nu_max / (1 - b2^count)   max_of='nu'

    p = p - learning_rate * mu_hat / (sqrt(nu_hat + eps_root) + eps)
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
from gradlab.transforms.scaling import scale_by_learning_rate

MAX_OF = ("nu_hat", "nu")


def _scale_by_amsgrad_init(params, *, mu_dtype):
    return optax.ScaleByAmsgradState(
        count=jnp.zeros([], jnp.int32),
        mu=zeros_like(params, mu_dtype),
        nu=zeros_like(params),
        nu_max=zeros_like(params),
    )


def _amsgrad_rule(g, mu, nu, nu_max, *, count, b1, b2, eps, eps_root, bias_correction_mu, bias_correction_nu, max_of):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    mu_weight = debias(b1, count) if bias_correction_mu else 1.0
    nu_weight = debias(b2, count) if bias_correction_nu else 1.0
    if max_of == "nu":
        nu_max = jnp.maximum(nu_max, nu)
        nu_hat = nu_max / nu_weight
    else:
        nu_hat = nu_max = jnp.maximum(nu_max, nu / nu_weight)
    return mu / mu_weight / (safe_sqrt(nu_hat + eps_root) + eps), mu, nu, nu_max


def _scale_by_amsgrad_update(
    grads, state, params=None, *, b1, b2, eps, eps_root, bias_correction_mu, bias_correction_nu, max_of, **extra
):
    del params, extra
    count = optax.safe_increment(state.count)
    structure = {
        "bias_correction_mu": bias_correction_mu,
        "bias_correction_nu": bias_correction_nu,
        "max_of": max_of,
    }
    updates, mu, nu, nu_max = leafwise(
        _amsgrad_rule,
        grads,
        [state.mu, state.nu, state.nu_max],
        structure=structure,
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )
    return updates, optax.ScaleByAmsgradState(count=count, mu=mu, nu=nu, nu_max=nu_max)


def scale_by_amsgrad(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_of: str = "nu_hat",
) -> Transform:
    """The direction of AMSGrad: ``mu_hat / (sqrt(nu_hat + eps_root) + eps)``; see `amsgrad`.

    >>> tx = scale_by_amsgrad()
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [1.0, -1.0]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root)
    check.one_of("max_of", max_of, MAX_OF)
    return transform(
        _scale_by_amsgrad_init,
        _scale_by_amsgrad_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        bias_correction_mu=static(bias_correction_mu),
        bias_correction_nu=static(bias_correction_nu),
        max_of=static(max_of),
    )


@storable
def amsgrad(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_of: str = "nu_hat",
) -> Transform:
    """AMSGrad (Reddi, Kale and Kumar, arXiv 1904.09237): rare large gradients are not forgotten.

    The recurrence heads this module.  The first corrected average is the first squared gradient itself, so under
    ``max_of='nu_hat'`` a large first gradient bounds every later step; under ``'nu'`` its weight is ``1 - b2``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.
      eps_root: added under the root; above zero where gradients are taken through an update.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      bias_correction_mu: (static) false leaves ``mu`` as it is; the paper's algorithm.
      bias_correction_nu: (static) false leaves ``nu`` as it is; the paper's algorithm.
      max_of: (static) ``'nu_hat'`` keeps the maximum of the corrected average (Optax); ``'nu'`` that of the raw
        one and corrects it afterwards (PyTorch).  The same without correction.

    Raises:
      ValueError: a decay outside of [0, 1), a negative epsilon or learning rate, an unknown ``max_of``.

    >>> tx = amsgrad(learning_rate=0.1, b1=0.0, b2=0.0)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (4.0, 1.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    >>> round(float(updates[0]), 4)
    -0.025
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu, max_of=max_of)
    return chain(direction, scale_by_learning_rate(learning_rate))
