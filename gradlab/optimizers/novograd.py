r"""NovoGrad: momentum on gradients that are divided by one number a tensor, an average of their squared norms.

With g the gradient and p the parameter of one tensor, ``|.|`` its Euclidean norm and mu = 0 before the first step::

    nu = |g|^2                                                    at the first step
    nu = b2 * nu + (1 - b2) * |g|^2                               after it
    mu = b1 * mu + g / (sqrt(nu + eps_root) + eps) + weight_decay * p
    p = p - learning_rate * mu                                    NovoGrad, arXiv 1905.11286
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.scaling import scale_by_learning_rate


def _zero_norm(p):
    """A scalar that is real and at least float32: the square of a norm leaves the range of float16."""
    return jnp.zeros([], jnp.finfo(jnp.promote_types(p.dtype, jnp.float32)).dtype)


def _scale_by_novograd_init(params, *, mu_dtype):
    return optax.ScaleByNovogradState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=jax.tree.map(_zero_norm, params)
    )


def _novograd_rule(g, mu, nu, p, *, count, b1, b2, eps, eps_root, weight_decay):
    square = jnp.sum(abs_sq(g))
    nu = jnp.where(count == 1, square, b2 * nu + (1 - b2) * square)
    radicand = nu + eps_root
    seen = radicand != 0
    divisor = jnp.where(seen, jnp.sqrt(jnp.where(seen, radicand, 1)), 0) + eps
    mu = b1 * mu + g / jnp.where(divisor == 0, 1, divisor) + weight_decay * p
    return mu, mu, nu


def _scale_by_novograd_update(grads, state, params=None, *, b1, b2, eps, eps_root, weight_decay, **extra):
    del extra
    params = check.required_params("scale_by_novograd", params)
    count = optax.safe_increment(state.count)
    hyper = {"b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
    updates, mu, nu = leafwise(_novograd_rule, grads, [state.mu, state.nu], params, count=count, **hyper)
    return updates, optax.ScaleByNovogradState(count=count, mu=mu, nu=nu)


def scale_by_novograd(
    b1: Any = 0.9,
    b2: Any = 0.25,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mu_dtype: Any = None,
) -> Transform:
    """The direction of NovoGrad: a decaying sum of normalised gradients, decay included; see `novograd`.

    >>> tx = scale_by_novograd()
    >>> params = jnp.zeros(2)
    >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)
    >>> [round(float(u), 4) for u in updates], float(state.nu)
    ([0.6, 0.8], 25.0)
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root, weight_decay=weight_decay)
    return transform(
        _scale_by_novograd_init,
        _scale_by_novograd_update,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        weight_decay=weight_decay,
    )


@storable
def novograd(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.25,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
) -> Transform:
    """NovoGrad (Ginsburg et al. 2019, arXiv 1905.11286): normalised gradients, one second moment for each layer.

    The recurrence heads this module.  The first step of every tensor has the length ``learning_rate``.  The terms of
    ``mu`` are not damped by ``1 - b1``, so later steps are up to ``1 / (1 - b1)`` times as long.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the sum of normalised gradients, in [0, 1).
      b2: decay of the average of squared norms, in [0, 1); the paper uses 0.25 to 0.98.
      eps: added to the root.
      eps_root: added under the root.
      weight_decay: the factor of the parameter, which joins the normalised gradient; a tree of numbers that is a
        prefix of the parameters decays some of them.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number; ``update`` without ``params``.

    >>> tx = novograd(learning_rate=0.5)
    >>> params = jnp.zeros(2)
    >>> updates, _ = tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)
    >>> [round(float(u), 4) for u in updates]
    [-0.3, -0.4]
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_novograd(b1, b2, eps, eps_root, weight_decay)
    return chain(direction, scale_by_learning_rate(learning_rate))
