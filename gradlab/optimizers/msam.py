r"""Momentum-SAM: sharpness-aware minimisation for the price of one gradient (arXiv 2401.12033).

With g the gradient at p, step(g) the optimizer's update, ``|.|`` the norm of all parameters together and q = p, mu = 0
before the first step::

    q = q + step(g)
    mu = momentum * mu + (1 - momentum) * g
    p = q - rho * mu / |mu|                      the parameters of the caller, where the next gradient is taken

q is what ``gradlab.eval_params`` returns.  Where mu is zero, p is q.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype, zeros_like
from gradlab.core.update import readout_map, register_readout

Tree = Any


class MsamState(NamedTuple):
    """State of `msam`: the parameters are ``-reach * mu`` away from the point that the optimizer moves."""

    reach: jax.Array  # () rho / |mu|
    mu: Tree  # like params
    opt_state: Any


def _msam_init(params, *, inner):
    return MsamState(reach=jnp.zeros([], real_dtype(params)), mu=zeros_like(params), opt_state=inner(params))


def _mu_rule(g, mu, *, momentum):
    return g, momentum * mu + (1 - momentum) * g


def _ahead_rule(u, mu_before, mu, *, reach_before, reach):
    return u + reach_before * mu_before - reach * mu, mu_before


def _msam_update(grads, state, params=None, *, inner, rho, momentum, **extra):
    updates, opt_state = inner(grads, state.opt_state, params, **extra)
    _, mu = leafwise(_mu_rule, grads, [state.mu], momentum=momentum)
    reach = safe_quotient(rho, global_norm(mu)).astype(state.reach.dtype)
    updates, _ = leafwise(_ahead_rule, updates, [state.mu], mu, reach_before=state.reach, reach=reach)
    return updates, MsamState(reach, mu, opt_state)


def _msam_readout(state: MsamState, params: Tree) -> Tree:
    return readout_map(lambda mu, p: (p + state.reach * mu).astype(p.dtype), state.mu, params)


register_readout(MsamState, _msam_readout)


def msam(optimizer: optax.GradientTransformation, rho: Any = 0.3, momentum: Any = 0.9) -> Transform:
    """Momentum-SAM (Becker et al., arXiv 2401.12033): the climb from the momentum, for the price of one gradient.

    The momentum descended the batches before and overshoots this one: its direction, down for them, is up here.
    ``gradlab.eval_params`` returns q, the parameters without the climb.

    Args:
      optimizer: the whole optimizer; it sees the gradient and the parameters at p.
      rho: length of the climb; a number or a schedule.
      momentum: decay of the average of gradients, in [0, 1); that of the optimizer in the paper.

    Raises:
      ValueError: a negative ``rho``, a momentum outside of [0, 1).

    >>> import gradlab
    >>> tx = msam(gradlab.sgd(0.5), rho=0.25)
    >>> params = jnp.array([4.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> (params + updates).tolist(), gradlab.eval_params(tx, state, params + updates).tolist()
    ([1.75], [2.0])
    """
    check.non_negative(rho=rho)
    check.decay_rate(momentum=momentum)
    return transform(_msam_init, _msam_update, inner=optimizer, rho=rho, momentum=momentum)
