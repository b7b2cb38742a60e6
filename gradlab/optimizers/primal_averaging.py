r"""Primal averaging: gradients taken between an optimizer's iterate and the average of its iterates (arXiv 2512.17131).

With step(g, y) the base optimizer's update for the gradient g at y, and x = y = z = p before the first step::

    z = z + step(g, y)                           the base optimizer's iterate
    x = (1 - c) * x + c * z                      the average: the weights to evaluate at
    y = b1 * x + (1 - b1) * z                    where the next gradient is taken: the parameters of the caller

Generalised primal averaging keeps ``c = 1 - mu_x`` and ``b1 = mu_y`` fixed; `gradlab.optimizers.schedule_free` lets c
fall like 1 / count.  Only y and z are stored.  With u the base's update and b1' the b1 with which y was made,
``x = z + (y - z) / b1'`` leaves the recurrence without a division by b1::

    y_next - y = (1 - b1 / b1' * (1 - c)) * (z - y) + (1 - b1 * (1 - c)) * u

so that b1 = 0, where y is z, is the base optimizer itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, real_dtype
from gradlab.core.update import readout_map, register_readout

Tree = Any


class PrimalAveragingState(NamedTuple):
    """State of `primal_averaging`."""

    mu_y: jax.Array  # () the weight of the average in the parameters
    base_optimizer_state: Any
    z: Tree  # like params: the base optimizer's iterate


def change_of_weight(b1: Any, b1_before: jax.Array) -> jax.Array:
    """``b1 / b1_before``; 1 where y was z, so that the quotient has nothing to scale."""
    known = b1_before > 0
    return jnp.where(known, b1 / jnp.where(known, b1_before, 1), 1)


def interpolation_factors(c: Any, b1: Any, b1_before: jax.Array) -> dict[str, jax.Array]:
    """The factors of ``z - y`` and of the base's update in the step of y.

    The first is computed so that a small ``c`` keeps its digits where ``b1`` does not change.
    """
    ratio = change_of_weight(b1, b1_before)
    return {"pull": (1 - ratio) + ratio * c, "push": 1 - b1 * (1 - c)}


def interpolation_rule(u, z, y, *, pull, push):
    """The step of y and the new z on one array.

    u is read back from the step of z: used twice, XLA:CPU would keep it in a buffer of its own.
    """
    next_z = z + u
    return pull * (z - y) + push * (next_z - z), next_z


def averaged(z: Tree, params: Tree, b1: jax.Array) -> Tree:
    """``x``, read from ``y`` and ``z``; with ``b1 = 0`` nothing of it is left in them, and this is ``y``."""
    factor = jnp.where(b1 > 0, 1 / jnp.where(b1 > 0, b1, 1), 1)
    return readout_map(lambda z, y: (z + factor * (y - z)).astype(y.dtype), z, params)


def _readout(state: PrimalAveragingState, params: Tree) -> Tree:
    return averaged(state.z, params, state.mu_y)


register_readout(PrimalAveragingState, _readout)


def _primal_averaging_init(params, *, inner):
    return PrimalAveragingState(
        mu_y=jnp.ones([], real_dtype(params)), base_optimizer_state=inner(params), z=copied(params)
    )


def _primal_averaging_update(grads, state, params=None, *, inner, mu_x, mu_y, **extra):
    params = check.required_params("primal_averaging", params)
    base_updates, base_state = inner(grads, state.base_optimizer_state, params, **extra)
    factors = interpolation_factors(1 - mu_x, mu_y, state.mu_y)
    updates, z = leafwise(interpolation_rule, base_updates, [state.z], params, **factors)
    return updates, PrimalAveragingState(jnp.asarray(mu_y, state.mu_y.dtype), base_state, z)


def primal_averaging(base_optimizer: optax.GradientTransformation, mu_x: Any = 0.9967, mu_y: Any = 0.7) -> Transform:
    """Generalised primal averaging (GPA, arXiv 2512.17131) around any optimizer: Lookahead and DiLoCo made smooth.

    The recurrence heads this module.  The average forgets within ``1 / (1 - mu_x)`` steps.  It needs no schedule of
    its own, goes with one (the base optimizer's), and replaces none of the base optimizer's momentum.

    Args:
      base_optimizer: the whole optimizer, learning rate included; it sees the gradient and the parameters at y.
      mu_x: what the average keeps of itself, in [0, 1); a number or a schedule.
      mu_y: the weight of the average in the point at which gradients are taken, in [0, 1); a number or a schedule.
        0 is the base optimizer itself, of whose iterates no average can be read then.

    Raises:
      ValueError: a number outside of [0, 1); ``update`` without ``params``.

    >>> import gradlab
    >>> tx = primal_averaging(gradlab.sgd(0.5), mu_x=0.75, mu_y=0.5)
    >>> y = jnp.array([4.0])
    >>> updates, state = tx.update(y, tx.init(y), y)  # z = 4 - 0.5 * 4 = 2, x = 0.75 * 4 + 0.25 * 2 = 3.5
    >>> (y + updates).tolist(), gradlab.eval_params(tx, state, y + updates).tolist()
    ([2.75], [3.5])
    """
    check.decay_rate(mu_x=mu_x, mu_y=mu_y)
    return transform(_primal_averaging_init, _primal_averaging_update, inner=base_optimizer, mu_x=mu_x, mu_y=mu_y)
