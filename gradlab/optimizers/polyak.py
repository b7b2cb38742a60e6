r"""Polyak's step size: the gap of the loss to its minimum, divided by the squared gradient.

With g the gradient, p the parameter, value the loss and ``|.|`` the norm over all parameters together::

    step = min((value - f_min) / (|g|^2 + eps), max_learning_rate)                SPS_max, arXiv 2002.10542
    step = min(max(value - f_min, 0) / (|g|^2 + eps), max_learning_rate)          SPS+, arXiv 2307.14528
    p = p - scaling * step * g

On a convex function, with the true f_min, no step leads away from the solution.  The published methods of this family
are choices of its numbers: SPS_max with constant c is ``scaling = 1 / c`` with ``max_learning_rate`` multiplied by c;
ALI-G (arXiv 1906.05661) is ``f_min = 0`` with its regularisation as ``eps``.
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.across import sum_of_squares
from gradlab.core.compose import chain, empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.values import relabel
from gradlab.transforms.scaling import scale_by_learning_rate

VARIANTS = ("sps", "sps+")
LEAST_SQUARE = float(jnp.finfo(float).eps)  # of a gradient that counts as more than rounding


def _scaled_rule(g, *, factor):
    return (factor * g,)


def _scale_by_polyak_update(grads, state, params=None, *, f_min, max_learning_rate, eps, variant, value=None, **extra):
    del params, extra
    gap = jnp.asarray(check.required_value("scale_by_polyak", value)) - f_min
    square = sum_of_squares(grads) + eps
    moves = square > LEAST_SQUARE
    if variant == "sps+":
        gap = jnp.maximum(gap, 0)
    step = jnp.where(moves, jnp.minimum(gap / jnp.where(moves, square, 1), max_learning_rate), 0)
    (updates,) = leafwise(_scaled_rule, grads, factor=step)
    return updates, state


def scale_by_polyak(f_min: Any = 0.0, max_learning_rate: Any = 1.0, eps: Any = 0.0, variant: str = "sps") -> Transform:
    """Multiplies the updates by Polyak's step size; ``update`` needs ``value``, the loss; see `polyak_sgd`.

    >>> tx = scale_by_polyak()
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), value=12.5)[0].tolist()
    [1.5, 2.0]
    """
    check.non_negative(max_learning_rate=max_learning_rate, eps=eps)
    check.one_of("variant", variant, VARIANTS)
    return transform(
        empty_init,
        _scale_by_polyak_update,
        f_min=f_min,
        max_learning_rate=max_learning_rate,
        eps=eps,
        variant=static(variant),
    )


@storable
def polyak_sgd(
    max_learning_rate: Any = 1.0,
    scaling: Any = 1.0,
    f_min: Any = 0.0,
    eps: Any = 0.0,
    variant: str = "sps",
) -> Transform:
    """SGD with Polyak's step size (Loizou et al. 2021, arXiv 2002.10542): no rate to tune where the minimum is known.

    The recurrence heads this module; ``update`` needs ``value``, the loss at the parameters.  Optax (0.2.8) applies
    ``scaling`` to the gradient before it takes the norm, so that the step is divided by it where its own documentation
    multiplies; here it multiplies.

    Args:
      max_learning_rate: the largest step size: a number or a schedule.
      scaling: a factor of the step: a number, a schedule, or a tree of these that is a prefix of the parameters.
      f_min: the minimum of the loss, or a lower bound; one above the minimum makes ``'sps'`` climb.
      eps: added to the squared norm.
      variant: (static) ``'sps+'`` takes no step where the loss is below ``f_min``; ``'sps'`` a step uphill.

    Raises:
      ValueError: a negative number, an unknown variant.
      TypeError: ``update`` called without ``value``.

    >>> params = jnp.array([3.0, 4.0])
    >>> tx = polyak_sgd()
    >>> updates, _ = tx.update(params, tx.init(params), params, value=0.5 * jnp.sum(params**2))
    >>> (params + updates).tolist()
    [1.5, 2.0]
    """
    check.non_negative(scaling=scaling)
    step = relabel(scale_by_learning_rate(scaling), learning_rate="scaling")
    return chain(scale_by_polyak(f_min, max_learning_rate, eps, variant), step)
