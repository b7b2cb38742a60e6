r"""Mechanic: learns by which factor to multiply the steps of any optimizer.

With g the gradient, p the parameter, p0 its starting point, u the base optimizer's update, ``<., .>`` and ``|.|`` taken
over all parameters together, and for each beta of 0.9, 0.99, ... the numbers m = v = r = 0 and s before the first step
(arXiv 2306.00144)::

    delta = (p0 - p) / (sum(s) + eps)                   the steps so far, without their factor
    h = <g + weight_decay * sum(s) * |g| / (|p| + eps) * p, delta>
    r = beta * r + clip(h, -m, m) * s                   with the m from before this step
    m = max(beta * m, |h| + eps)
    v = beta^2 * v + h^2
    s = (s_init / num_betas * m + max(r, 0)) / (sqrt(v) + eps)
    p = p0 - sum(s) * (delta - u)

That is ``form='optax'``, with s = s_init before the first step.  ``form='paper'`` starts with s = 0, keeps delta in the
state (its factor may be zero), takes ``r = max(beta * r + h * s, 0)`` and ``m = max(beta * m, |h|)``, and divides by
``|p|`` alone.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MechanicState

from gradlab.core import check
from gradlab.core.across import difference, sum_of_squares, vdot
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, real_dtype, require_same_structure, zeros_like

Tree = Any
FORMS = ("optax", "paper")


class PaperMechanicState(NamedTuple):
    """State of `mechanize` in the form of the paper."""

    mechanic: MechanicState
    delta: Tree  # like params; minus the sum of the base optimizer's updates


def _mechanize_init(params, *, inner, num_betas, form):
    zeros = jnp.zeros([num_betas], real_dtype(params))
    state = MechanicState(
        base_optimizer_state=inner(params),
        count=jnp.zeros([], jnp.int32),
        r=zeros,
        m=zeros,
        v=zeros,
        s=zeros,
        x0=copied(params),
    )
    return PaperMechanicState(state, zeros_like(params)) if form == "paper" else state


def _tuned(r, m, v, s, h, *, s_init, eps, form):
    """The numbers of each beta after a step on which the steps so far would have gained ``h``."""
    betas = 1 - 0.1 ** np.arange(1, r.size + 1)
    if form == "paper":
        r, m = jnp.maximum(betas * r + h * s, 0), jnp.maximum(betas * m, jnp.abs(h))
    else:
        r, m = betas * r + jnp.clip(h, -m, m) * s, jnp.maximum(betas * m, jnp.abs(h) + eps)
    v = betas**2 * v + h**2
    return r, m, v, safe_quotient(s_init / r.size * m + jnp.maximum(r, 0), safe_sqrt(v) + eps)


def _gain(grads, params, delta, *, total_scale, weight_decay, eps):
    shrink = safe_quotient(safe_sqrt(sum_of_squares(grads)), safe_sqrt(sum_of_squares(params)) + eps)
    return vdot(grads, delta) + weight_decay * total_scale * shrink * vdot(params, delta)


def _recomputed_rule(u, x0, p, *, first, divisor, total_scale):
    x0 = jnp.where(first, p, x0)
    return x0 - total_scale * (safe_quotient(x0 - p, divisor) - u) - p, x0


def _stored_rule(u, x0, delta, p, *, first, total_scale):
    x0 = jnp.where(first, p, x0)
    delta = delta - u
    return x0 - total_scale * delta - p, x0, delta


def _mechanize_update(grads, state, params=None, *, inner, weight_decay, eps, s_init, num_betas, form, **extra):
    del num_betas
    params = check.required_params("mechanize", params)
    require_same_structure("gradients", grads, "parameters", params)
    own = state.mechanic if form == "paper" else state
    first = own.count == 0
    s = own.s if form == "paper" else jnp.where(first, s_init, own.s)
    base_updates, base_state = inner(grads, own.base_optimizer_state, params, **extra)

    hyper = {"total_scale": jnp.sum(s), "weight_decay": weight_decay}
    if form == "paper":
        h = _gain(grads, params, state.delta, eps=0.0, **hyper)
    else:
        h = safe_quotient(_gain(grads, params, difference(own.x0, params), eps=eps, **hyper), jnp.sum(s) + eps)
    h = jnp.where(first, 0, h)
    r, m, v, new_s = _tuned(own.r, own.m, own.v, s, h, s_init=s_init, eps=eps, form=form)

    step = {"first": first, "total_scale": jnp.sum(new_s)}
    if form == "paper":
        updates, x0, delta = leafwise(_stored_rule, base_updates, [own.x0, state.delta], params, **step)
    else:
        updates, x0 = leafwise(_recomputed_rule, base_updates, [own.x0], params, divisor=jnp.sum(s) + eps, **step)
    numbers = (x.astype(own.s.dtype) for x in (r, m, v, new_s))
    new = MechanicState(base_state, optax.safe_increment(own.count), *numbers, x0)
    return updates, PaperMechanicState(new, delta) if form == "paper" else new


def mechanize(
    base_optimizer: optax.GradientTransformation,
    weight_decay: Any = 1e-2,
    eps: Any = 1e-8,
    s_init: Any = 1e-6,
    num_betas: int = 6,
    *,
    form: str = "optax",
) -> Transform:
    """Mechanic (Cutkosky, Defazio and Mehta 2023, arXiv 2306.00144): tunes the learning rate of any optimizer.

    The recurrence heads this module.  The base optimizer keeps its schedule, with a peak of 1, and its state; Mechanic
    finds the factor.

    Args:
      base_optimizer: a whole optimizer, such as ``adam(1.0)``, whose steps have about the size of its gradients' scale
        or of one; not one that normalises by the parameters (LARS, LAMB).
      weight_decay: of Mechanic's own, which keeps the factor from growing with the parameters.
      eps: added to what divides.
      s_init: the first factor.
      num_betas: (static) how many decays 0.9, 0.99, ... to try at once; their factors add up.
      form: (static) ``'optax'`` or ``'paper'``; the latter keeps one more buffer.

    Raises:
      ValueError: a number outside of its range, an unknown form; ``update`` called without ``params``.

    >>> import gradlab
    >>> params = jnp.array([1.0, -2.0])
    >>> tx = mechanize(gradlab.sgd(1.0), s_init=0.01)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> second, state = tx.update(2 * (params + updates), state, params + updates)
    >>> bool(jnp.all(jnp.abs(params + updates + second) < jnp.abs(params)))
    True
    """
    check.non_negative(weight_decay=weight_decay, eps=eps)
    check.positive(s_init=s_init)
    check.in_range("num_betas", num_betas, 1)
    check.one_of("form", form, FORMS)
    structure = {"num_betas": static(num_betas), "form": static(form)}
    return transform(
        _mechanize_init,
        _mechanize_update,
        inner=base_optimizer,
        at_init=structure,
        weight_decay=weight_decay,
        eps=eps,
        s_init=s_init,
        **structure,
    )
