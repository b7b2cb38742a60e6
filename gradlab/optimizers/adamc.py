r"""AdamC: AdamW whose decay of normalised layers follows the learning rate twice (arXiv 2506.02285).

With u the direction of Adam, p the parameter and peak the largest learning rate of the schedule::

    p = p - learning_rate * (u + weight_decay * learning_rate / peak * p)       layers that normalisation follows
    p = p - learning_rate * (u + weight_decay * p)                              the others: AdamW

Scaling the weights of a layer before a normalisation changes nothing but its gradient, so steps and decay settle at
``|g| / |p| = sqrt(2 * weight_decay / learning_rate)`` under AdamW: while a schedule falls, the ratio and with it the
gradient norm rise.  The corrected decay keeps the ratio where it is at the peak.  At a constant rate AdamC is AdamW.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import scalars_like
from gradlab.optimizers.adam import scale_by_adam
from gradlab.transforms.decay import check_decay
from gradlab.transforms.select import as_mask, mask_leaves

Tree = Any


class CorrectedDecayState(NamedTuple):
    """The largest learning rate that `adamc` has seen."""

    peak: Tree  # () for each parameter


def _corrected_decay_init(params):
    return CorrectedDecayState(peak=scalars_like(params, 0.0))


def _corrected_decay_rule(u, peak, p, *, learning_rate, weight_decay, max_learning_rate, decays, corrected):
    peak = jnp.maximum(peak, learning_rate)
    if decays and corrected:
        highest = jnp.maximum(peak, max_learning_rate)
        u = u + weight_decay * (learning_rate / jnp.where(highest > 0, highest, 1)) * p
    elif decays:
        u = u + weight_decay * p
    return -learning_rate * u, peak


def _corrected_decay_update(
    grads, state, params=None, *, learning_rate, weight_decay, max_learning_rate, mask, normalized, **extra
):
    del extra
    params = check.required_params("adamc", params)
    updates, peak = leafwise(
        _corrected_decay_rule,
        grads,
        [state.peak],
        params,
        leaf_structure={"decays": mask_leaves(mask, params), "corrected": mask_leaves(normalized, params)},
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        max_learning_rate=max_learning_rate,
    )
    return updates, CorrectedDecayState(peak=peak)


@storable
def adamc(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    max_learning_rate: Any = 0.0,
    normalized: Any = None,
) -> Transform:
    """AdamC (Defazio, arXiv 2506.02285): AdamW without the growth of the gradient norm at the end of training.

    The recurrence heads this module.

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask: as for `adamw`.
      max_learning_rate: the peak of the schedule.  A larger rate that has been seen counts instead; so the default
        is right for a schedule that never rises, and during a warm-up it decays as AdamW does.
      normalized: (static) which parameters are followed by a normalisation, selected as by ``mask``; None for all.
        Name them where the last layer, embeddings or gains decay too.

    Raises:
      ValueError: as `adam`; a negative decay or peak; ``update`` called without ``params``.

    >>> params = {'kernel': jnp.array([2.0]), 'head': jnp.array([2.0])}
    >>> tx = adamc(0.05, weight_decay=0.5, max_learning_rate=0.1, normalized='kernel')
    >>> updates, _ = tx.update({'kernel': jnp.ones(1), 'head': jnp.ones(1)}, tx.init(params), params)
    >>> round(float(updates['kernel'][0]), 4), round(float(updates['head'][0]), 4)
    (-0.075, -0.1)
    """
    check.non_negative(learning_rate=learning_rate, max_learning_rate=max_learning_rate)
    check_decay(weight_decay)
    step = transform(
        _corrected_decay_init,
        _corrected_decay_update,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        max_learning_rate=max_learning_rate,
        mask=static(as_mask(mask)),
        normalized=static(as_mask(normalized)),
    )
    return chain(scale_by_adam(b1, b2, eps, eps_root, mu_dtype), step)
