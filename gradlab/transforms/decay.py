r"""Weight decay: a pull of the parameters towards zero.

Where it stands in the chain decides what it is::

    g + weight_decay * p, then the optimizer              coupled (L2 regularisation)
    u + weight_decay * p, then -learning_rate             decoupled (AdamW, arXiv 1711.05101)
    -learning_rate * u - weight_decay * p                 independent of the learning rate
"""

from typing import Any

import optax

from gradlab.core import check
from gradlab.core.compose import chain, empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.transform import Transform, transform
from gradlab.transforms.route import masked
from gradlab.transforms.scaling import scale_by_learning_rate

DECAYS = ("decoupled", "coupled", "independent")


def add_decayed_weights(weight_decay: Any = 0.0, mask: Any = None) -> Transform:
    """Adds ``weight_decay * p`` to the updates.

    Args:
      weight_decay: a number, a schedule, or a tree of these that is a prefix of the parameters.
      mask: which parameters decay; as for `masked`.

    Raises:
      ValueError: a negative decay; ``update`` called without ``params``.

    >>> import jax.numpy as jnp
    >>> tx = add_decayed_weights(0.1, mask='kernel')
    >>> params = {'kernel': jnp.array([2.0]), 'bias': jnp.array([2.0])}
    >>> updates, _ = tx.update({'kernel': jnp.zeros(1), 'bias': jnp.zeros(1)}, tx.init(params), params)
    >>> round(float(updates['kernel'][0]), 4), float(updates['bias'][0])
    (0.2, 0.0)
    """
    check_decay(weight_decay)
    tx = transform(empty_init, _add_decayed_weights_update, weight_decay=weight_decay)
    return tx if mask is None else masked(tx, mask)


def subtract_decayed_weights(weight_decay: Any, mask: Any = None) -> Transform:
    """Subtracts ``weight_decay * p``: placed after the learning rate, a decay that does not depend on it.

    To let it follow the schedule's shape but not its height, pass a schedule of its own.

    >>> import jax.numpy as jnp
    >>> tx = subtract_decayed_weights(0.1)
    >>> round(float(tx.update(jnp.zeros(1), tx.init(jnp.ones(1)), jnp.ones(1))[0][0]), 4)
    -0.1
    """
    check_decay(weight_decay)
    tx = transform(empty_init, _subtract_decayed_weights_update, weight_decay=weight_decay)
    return tx if mask is None else masked(tx, mask)


def with_weight_decay(
    direction: optax.GradientTransformation, learning_rate: Any, weight_decay: Any, mask: Any, decay: str
) -> Transform:
    """``direction``, weight decay and the learning rate in the order that ``decay`` names: see the module.

    Without weight decay (``None``) there is no stage for it.
    """
    check.one_of("decay", decay, DECAYS)
    check.non_negative(learning_rate=learning_rate)
    step = scale_by_learning_rate(learning_rate)
    if weight_decay is None:
        return chain(direction, step)
    if decay == "coupled":
        return chain(add_decayed_weights(weight_decay, mask), direction, step)
    if decay == "independent":
        return chain(direction, step, subtract_decayed_weights(weight_decay, mask))
    return chain(direction, add_decayed_weights(weight_decay, mask), step)


def check_decay(weight_decay: Any) -> None:
    """Raises unless ``weight_decay`` is a number, or a tree or schedule of numbers, that is not negative."""
    if weight_decay is None:
        raise TypeError("weight_decay is None: leave the stage out, or pass 0.0")
    check.non_negative(weight_decay=weight_decay)


def _decay_rule(g, p, *, weight_decay):
    return (g + weight_decay * p,)


def _add_decayed_weights_update(grads, state, params=None, *, weight_decay, **extra):
    del extra
    (updates,) = leafwise(
        _decay_rule, grads, params=check.required_params("add_decayed_weights", params), weight_decay=weight_decay
    )
    return updates, state


def _shrink_rule(g, p, *, weight_decay):
    return (g - weight_decay * p,)


def _subtract_decayed_weights_update(grads, state, params=None, *, weight_decay, **extra):
    del extra
    params = check.required_params("subtract_decayed_weights", params)
    (updates,) = leafwise(_shrink_rule, grads, params=params, weight_decay=weight_decay)
    return updates, state
