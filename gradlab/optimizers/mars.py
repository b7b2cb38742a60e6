r"""MARS-AdamW: AdamW of gradients corrected for their variance (arXiv 2411.10438).

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    c = g + gamma * b1 / (1 - b1) * (g - previous);  previous = g
    c = c * min(1, max_norm / |c|)                                       leaf by leaf
    mu = b1 * mu + (1 - b1) * c
    nu = b2 * nu + (1 - b2) * |c|^2
    u = (mu / (1 - b1^count)) / (sqrt(nu / (1 - b2^count)) + eps)
    p = p - learning_rate * (u + weight_decay * p)

Vectors and scalars, or what ``mask`` leaves out, take plain Adam's u with b1_plain and b2_plain.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import scalars_like, zeros_like
from gradlab.transforms.decay import with_weight_decay
from gradlab.transforms.mars import BEFORE_FIRST, corrected_gradient
from gradlab.transforms.select import as_mask, mask_leaves

Tree = Any


class ScaleByMarsState(NamedTuple):
    """The averages of `scale_by_mars_adam`."""

    count: jax.Array  # () int32
    mu: Tree  # like params
    nu: Tree  # like params
    previous: Tree  # like params; () where the gradient is not corrected


def matrices(params: Tree) -> Tree:
    """True for parameters of two axes and more."""
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


def _scale_by_mars_adam_init(params, *, mask, mu_dtype):
    buffer = lambda corrected, full, scalar: full if corrected else scalar
    return ScaleByMarsState(
        count=jnp.zeros([], jnp.int32),
        mu=zeros_like(params, mu_dtype),
        nu=zeros_like(params),
        previous=jax.tree.map(buffer, mask_leaves(mask, params), zeros_like(params), scalars_like(params, 0.0)),
    )


def _mars_adam_rule(
    g, mu, nu, previous, *, count, b1, b2, eps, gamma, max_norm, b1_plain, b2_plain, corrected, before_first
):
    c = g
    if corrected:
        c = corrected_gradient(
            g, previous, count=count - 1, gamma=gamma, b1=b1, max_norm=max_norm, before_first=before_first
        )
        previous = g
    else:
        b1, b2 = b1_plain, b2_plain
    mu = b1 * mu + (1 - b1) * c
    nu = b2 * nu + (1 - b2) * abs_sq(c)
    return mu / debias(b1, count) / (safe_sqrt(nu / debias(b2, count)) + eps), mu, nu, previous


def _scale_by_mars_adam_update(
    grads, state, params=None, *, b1, b2, eps, gamma, max_norm, b1_plain, b2_plain, mask, before_first, **extra
):
    del extra
    count = optax.safe_increment(state.count)
    updates, mu, nu, previous = leafwise(
        _mars_adam_rule,
        grads,
        [state.mu, state.nu, state.previous],
        structure={"before_first": before_first},
        leaf_structure={"corrected": mask_leaves(mask, grads if params is None else params)},
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        gamma=gamma,
        max_norm=jnp.inf if max_norm is None else max_norm,
        b1_plain=b1_plain,
        b2_plain=b2_plain,
    )
    return updates, ScaleByMarsState(count=count, mu=mu, nu=nu, previous=previous)


def scale_by_mars_adam(
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    gamma: Any = 0.025,
    max_norm: Any = 1.0,
    mu_dtype: Any = None,
    *,
    corrected: Any = matrices,
    b1_plain: Any = 0.9,
    b2_plain: Any = 0.95,
    before_first: str = "first",
) -> Transform:
    """The direction of MARS-AdamW; see `mars_adamw`.

    >>> tx = scale_by_mars_adam()
    >>> params = {'kernel': jnp.zeros((1, 1)), 'bias': jnp.zeros(1)}
    >>> updates, _ = tx.update({'kernel': jnp.array([[3.0]]), 'bias': -jnp.ones(1)}, tx.init(params))
    >>> round(float(updates['kernel'][0, 0]), 4), round(float(updates['bias'][0]), 4)
    (1.0, -1.0)
    """
    check.decay_rate(b1=b1, b2=b2, b1_plain=b1_plain, b2_plain=b2_plain)
    check.non_negative(eps=eps, gamma=gamma, max_norm=max_norm)
    check.one_of("before_first", before_first, BEFORE_FIRST)
    mask = static(as_mask(corrected))
    return transform(
        _scale_by_mars_adam_init,
        _scale_by_mars_adam_update,
        at_init={"mask": mask, "mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        eps=eps,
        gamma=gamma,
        max_norm=max_norm,
        b1_plain=b1_plain,
        b2_plain=b2_plain,
        mask=mask,
        before_first=static(before_first),
    )


@storable
def mars_adamw(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    gamma: Any = 0.025,
    max_norm: Any = 1.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-2,
    mask: Any = None,
    *,
    corrected: Any = matrices,
    b1_plain: Any = 0.9,
    b2_plain: Any = 0.95,
    before_first: str = "first",
    decay: str = "decoupled",
) -> Transform:
    """MARS-AdamW (Yuan et al., arXiv 2411.10438): variance reduction by the last gradient, inside of AdamW.

    The recurrence heads this module.  The stage alone, for any other optimizer, is `mars_correction`.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters; the authors' is 3e-3.
      b1: decay of the average of corrected gradients, in [0, 1).
      b2: decay of the average of their squares, in [0, 1).
      eps: added to the root.
      gamma: strength of the correction, at least 0.
      max_norm: bound on the norm of every corrected leaf, or None for no bound.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      weight_decay, mask, decay: as for `adamw`.
      corrected: (static) which gradients are corrected, selected as by ``mask``; the others take plain Adam and keep no
        copy of their last gradient.  Those of two axes and more by default.
      b1_plain, b2_plain: the two decays of plain Adam, in [0, 1).
      before_first: (static) as for `mars_correction`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number, an unknown ``before_first`` or ``decay``.

    >>> tx = mars_adamw(0.1, weight_decay=0.0)
    >>> params = jnp.zeros((1, 1))
    >>> state, moved = tx.init(params), []
    >>> for g in (0.2, 0.4):
    ...     updates, state = tx.update(jnp.array([[g]]), state, params)
    ...     moved.append(round(float(updates[0, 0]), 4))
    >>> moved
    [-0.1, -0.0929]
    """
    direction = scale_by_mars_adam(
        b1,
        b2,
        eps,
        gamma,
        max_norm,
        mu_dtype,
        corrected=corrected,
        b1_plain=b1_plain,
        b2_plain=b2_plain,
        before_first=before_first,
    )
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
