r"""Hypergradient descent: the learning rate follows the derivative of the loss by itself.

With g the gradient, u the direction, ``prev`` the direction of the step before (zero before the first), ``<., .>`` and
``|.|`` taken over all parameters together (arXiv 1703.04782)::

    rate = rate + hyper_learning_rate * <g, prev>                                 form='additive'
    rate = rate * (1 + hyper_learning_rate * <g, prev> / (|g| * |prev|))          form='multiplicative'
    p = p - rate * u

``-<g, prev>`` is the derivative of the present loss by the rate of the step before.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.across import sum_of_squares, vdot
from gradlab.core.compose import identity
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype, zeros_like
from gradlab.optimizers.per_weight import check_initial_rate

Tree = Any
FORMS = ("additive", "multiplicative")


class HypergradientState(NamedTuple):
    """State of `hypergradient`."""

    count: jax.Array  # () int32
    rate: jax.Array  # () of the last step
    direction: Tree  # like params; of the last step
    inner_state: Any


def _hypergradient_init(params, *, inner):
    zero = jnp.zeros([], real_dtype(params))
    return HypergradientState(jnp.zeros([], jnp.int32), zero, zeros_like(params), inner(params))


def _remembering_rule(u, direction, *, rate):
    return -rate * u, u


def _hypergradient_update(grads, state, params=None, *, inner, learning_rate, hyper_learning_rate, form, **extra):
    alignment = vdot(grads, state.direction)
    before = jnp.where(state.count == 0, learning_rate, state.rate)
    if form == "additive":
        rate = before + hyper_learning_rate * alignment
    else:
        lengths = safe_sqrt(sum_of_squares(grads)) * safe_sqrt(sum_of_squares(state.direction))
        rate = before * (1 + hyper_learning_rate * safe_quotient(alignment, lengths))
    updates, inner_state = inner(grads, state.inner_state, params, **extra)
    updates, direction = leafwise(_remembering_rule, updates, [state.direction], rate=rate)
    count = optax.safe_increment(state.count)
    return updates, HypergradientState(count, rate.astype(state.rate.dtype), direction, inner_state)


def hypergradient(
    inner: optax.GradientTransformation,
    learning_rate: Any,
    hyper_learning_rate: Any = 1e-3,
    *,
    form: str = "additive",
) -> Transform:
    """Learns the learning rate of any direction as training goes (Baydin et al. 2018, arXiv 1703.04782).

    The recurrence heads this module.  It ends a chain, in the place of the learning rate.

    Args:
      inner: a direction that points uphill, such as ``scale_by_adam()``.
      learning_rate: the rate of the first step.
      hyper_learning_rate: the rate at which it learns; in units of the loss for ``'additive'``, whose steps grow with
        the square of the gradient, and a relative change of at most this much a step for ``'multiplicative'``.
      form: (static) ``'additive'`` or ``'multiplicative'``.  An additive rate may become negative.

    Raises:
      ValueError: a negative rate, an unknown form.
      TypeError: a schedule for ``learning_rate``.

    >>> import gradlab
    >>> tx = hypergradient(gradlab.identity(), 0.5, hyper_learning_rate=0.25)
    >>> updates, state = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([1.0]), state)[0].tolist()
    ([-0.5], [-0.75])
    """
    check_initial_rate("hypergradient", learning_rate)
    check.non_negative(hyper_learning_rate=hyper_learning_rate)
    check.one_of("form", form, FORMS)
    return transform(
        _hypergradient_init,
        _hypergradient_update,
        inner=inner,
        learning_rate=learning_rate,
        hyper_learning_rate=hyper_learning_rate,
        form=static(form),
    )


@storable
def hypergradient_sgd(learning_rate: Any, hyper_learning_rate: Any = 1e-3, *, form: str = "additive") -> Transform:
    """SGD with hypergradient descent (SGD-HD; Baydin et al. 2018, arXiv 1703.04782).

    `hypergradient` of the plain gradient: arguments and errors are the same.

    >>> tx = hypergradient_sgd(0.5, 0.1, form='multiplicative')
    >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
    >>> round(float(tx.update(jnp.array([-8.0]), state)[0][0]), 4)
    3.6
    """
    return hypergradient(identity(), learning_rate, hyper_learning_rate, form=form)
