"""The edge of stability of an optimizer as it is: what `gauge` wants to know of it, read from its stages.

What counts is the last of the stages that keep a momentum, and the product of the factors::

    trace(decay)           'heavy_ball', 'nesterov'          ema(decay)         'ema'
    nesterov_trace(decay)  'nesterov'                        scale_by_adam(b1)  'ema', 'ema_nesterov', with Adam's P
    none of them           'gd'

Clipping is taken to be inactive, and decoupled weight decay is not counted.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core.current import Stage, stages
from gradlab.instruments.stability import adam_diagonal, threshold

Tree = Any

UNCOUNTED = ("adaptive_grad_clip", "add_decayed_weights", "chain", "clip", "clip_by_block_rms", "clip_by_global_norm",
             "identity", "subtract_decayed_weights")  # fmt: skip
MOMENTA = {"trace": "heavy_ball", "nesterov_trace": "nesterov", "ema": "ema"}
FACTORS = {
    "descend": None,
    "scale": "step_size",
    "scale_by_learning_rate": "learning_rate",
    "scale_by_learning_rate_schedule": "learning_rate",
    "scale_by_schedule": "step_size_fn",
}


class Edge(NamedTuple):
    """What an optimizer in its present state can hold."""

    threshold: jax.Array  # () curvature above which it diverges on a quadratic; NaN if its dynamics are not known
    diagonal: Tree | None  # P of a preconditioned one, like the parameters


def edge_of(tx: optax.GradientTransformation, state: Any, after: Any = None) -> Edge:
    """The threshold of an optimizer with the learning rate and momentum of its next step, and its preconditioner.

    Known are gradient descent, the forms of momentum of `gradlab.optimizers.momentum` without dampening, and Adam,
    AdamW and NAdam, each with one learning rate, in a chain with clipping and decay.  All others have the threshold
    NaN.  It may be traced.

    Args:
      tx: an optimizer value of gradlab.
      state: its state before that step.
      after: the state after it, from which Adam's averages are then read; they need one step at least.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.sgd(0.1, momentum=0.9))
    >>> round(float(edge_of(tx, tx.init(jnp.zeros(2))).threshold), 4)
    38.0
    """
    found, last = list(stages(tx, state)), list(stages(tx, state if after is None else after))
    unknown = Edge(jnp.asarray(jnp.nan), None)
    rate = _rate(found)
    rest = [index for index, stage in enumerate(found) if stage.name not in (*UNCOUNTED, *FACTORS)]
    if rate is None or len(rest) > 1:
        return unknown
    if not rest:
        return Edge(threshold("gd", rate), None)
    stage, values = found[rest[0]], found[rest[0]].current
    ahead = stage.structure.get("nesterov", False)
    if stage.name in MOMENTA:
        return Edge(threshold("nesterov" if ahead else MOMENTA[stage.name], rate, values["decay"]), None)
    usual = stage.structure.get("bias_correction") and stage.structure.get("eps_on") == "nu_hat"
    if stage.name == "scale_by_adam" and usual:
        b1, b2, eps, eps_root = (values[name] for name in ("b1", "b2", "eps", "eps_root"))
        diagonal = adam_diagonal(last[rest[0]].state, b1, b2, eps, eps_root)
        return Edge(threshold("ema_nesterov" if ahead else "ema", rate, b1), diagonal)
    return unknown


def _rate(found: Iterable[Stage]) -> jax.Array | None:
    """The number that a direction is multiplied by to be subtracted; None if it is no single one."""
    factor = jnp.ones([])
    for stage in found:
        if stage.name not in FACTORS:
            continue
        name = FACTORS[stage.name]
        value = -1.0 if name is None else stage.current[name]
        if len(jax.tree.leaves(value)) != 1 or jnp.ndim(jax.tree.leaves(value)[0]):
            return None
        factor = factor * jax.tree.leaves(value)[0]
        if name == "learning_rate" and stage.structure.get("flip_sign", True):
            factor = -factor
    return -factor
