r"""Adan: Adam's two averages and a third, of the differences between successive gradients.

With g the gradient, p the parameter, g_prev the gradient of the step before (g itself at the first), t = 1, 2, ...
and m = v = n = 0 before the first step::

    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (g - g_prev)
    n = b3 * n + (1 - b3) * |g + w * (g - g_prev)|^2              w = b2; form='optax': w = 1 - b2
    m_hat, v_hat, n_hat = m / (1 - b1^t), v / (1 - b2^t), n / (1 - b3^t)
    u = (m_hat + w * v_hat) / (sqrt(n_hat + eps_root) + eps)                  Adan, arXiv 2208.06677

    p = p - learning_rate * (u + weight_decay * p)                            decay='decoupled'
    p = (p - learning_rate * u) / (1 + learning_rate * weight_decay)          decay='proximal'
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain, empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.transforms.decay import DECAYS, with_weight_decay
from gradlab.transforms.select import as_mask, mask_leaves

FORMS = ("paper", "optax")


def _scale_by_adan_init(params):
    return optax.ScaleByAdanState(
        m=zeros_like(params),
        v=zeros_like(params),
        n=zeros_like(params),
        g=zeros_like(params),
        t=jnp.zeros([], jnp.int32),
    )


def _adan_rule(g, m, v, n, g_prev, *, t, b1, b2, b3, eps, eps_root, form):
    difference = jnp.where(t == 1, 0, g - g_prev)
    weight = b2 if form == "paper" else 1 - b2
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * difference
    n = b3 * n + (1 - b3) * abs_sq(g + weight * difference)
    ahead = m / debias(b1, t) + weight * v / debias(b2, t)
    return ahead / (safe_sqrt(n / debias(b3, t) + eps_root) + eps), m, v, n, g


def _scale_by_adan_update(grads, state, params=None, *, b1, b2, b3, eps, eps_root, form, **extra):
    del params, extra
    t = optax.safe_increment(state.t)
    slots = [state.m, state.v, state.n, state.g]
    hyper = {"t": t, "b1": b1, "b2": b2, "b3": b3, "eps": eps, "eps_root": eps_root}
    updates, m, v, n, g = leafwise(_adan_rule, grads, slots, structure={"form": form}, **hyper)
    return updates, optax.ScaleByAdanState(m=m, v=v, n=n, g=g, t=t)


def _proximal_rule(u, p, *, learning_rate, weight_decay, decays):
    if not decays:
        return (-learning_rate * u,)
    return (-learning_rate * (u + weight_decay * p) / (1 + learning_rate * weight_decay),)


def _proximal_step_update(grads, state, params=None, *, learning_rate, weight_decay, mask, **extra):
    del extra
    params = check.required_params("adan", params)
    hyper = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    (updates,) = leafwise(
        _proximal_rule, grads, params=params, leaf_structure={"decays": mask_leaves(mask, params)}, **hyper
    )
    return updates, state


def scale_by_adan(
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    *,
    form: str = "paper",
) -> Transform:
    """The direction of Adan: ``(m_hat + b2 * v_hat) / (sqrt(n_hat + eps_root) + eps)``; see `adan`.

    >>> tx = scale_by_adan()
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [1.0, -1.0]
    """
    check.decay_rate(b1=b1, b2=b2, b3=b3)
    check.non_negative(eps=eps, eps_root=eps_root)
    check.one_of("form", form, FORMS)
    return transform(
        _scale_by_adan_init,
        _scale_by_adan_update,
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        eps_root=eps_root,
        form=static(form),
    )


@storable
def adan(
    learning_rate: Any,
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    form: str = "paper",
    decay: str = "decoupled",
) -> Transform:
    """Adan (Xie et al. 2022, arXiv 2208.06677): Nesterov's look-ahead from the last two gradients, scaled as in Adam.

    The recurrence heads this module.  The decays are one minus the paper's, as in its authors' program, so that the
    paper's weight of the difference, ``1 - beta_2``, is ``b2`` = 0.92 here.  ``optax.adan`` (0.2.8) has the decays of
    the program and the weight as the paper writes it, ``1 - b2`` = 0.08: a method with a twelfth of the look-ahead,
    which ``form='optax'`` is.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of their differences, and the weight of these, in [0, 1).
      b3: decay of the average of squares, in [0, 1).
      eps: added to the root.
      eps_root: added under the root; Optax's 1e-8 is large beside squared gradients below 1e-4, the authors' is 0.
      weight_decay: the factor of the parameter.
      mask: which parameters decay; as for `gradlab.masked`.
      form: (static) ``'paper'``, or ``'optax'`` for Optax's weight of the difference.
      decay: (static) ``'decoupled'`` (Optax), ``'coupled'`` and ``'independent'`` as for `gradlab.adamw`;
        ``'proximal'`` divides by ``1 + learning_rate * weight_decay``, the paper's and the authors' default.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number, an unknown ``form`` or ``decay``.

    >>> params = jnp.array([2.0])
    >>> tx = adan(0.1, weight_decay=0.5)
    >>> updates, _ = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2
    """
    check.non_negative(learning_rate=learning_rate, weight_decay=weight_decay)
    check.one_of("decay", decay, (*DECAYS, "proximal"))
    direction = scale_by_adan(b1, b2, b3, eps, eps_root, form=form)
    if decay != "proximal":
        return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
    mask = static(as_mask(True if mask is None else mask))
    step = transform(
        empty_init, _proximal_step_update, learning_rate=learning_rate, weight_decay=weight_decay, mask=mask
    )
    return chain(direction, step)
