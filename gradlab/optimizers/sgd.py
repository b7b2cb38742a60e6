r"""Gradient descent, plain or with a decaying sum of the gradients.

With g the gradient, p the parameter and trace = 0 before the first step::

    p = p - learning_rate * g                                      momentum=None

    trace = g + momentum * trace
    p = p - learning_rate * trace                                  momentum
    p = p - learning_rate * (g + momentum * trace)                 nesterov

Whether this is gradient descent or its stochastic kin depends on the gradients alone: of the whole loss, of one
sample, of a minibatch.  `gradlab.optimizers.momentum` has the other published forms of momentum, and says when
they coincide with this one.
"""

from typing import Any

from gradlab.core import check
from gradlab.core.compose import chain, identity
from gradlab.core.storage import storable
from gradlab.core.transform import Transform
from gradlab.core.values import relabel
from gradlab.transforms.accumulate import trace
from gradlab.transforms.scaling import scale_by_learning_rate


@storable
def sgd(learning_rate: Any, momentum: Any = None, nesterov: bool = False, accumulator_dtype: Any = None) -> Transform:
    """Gradient descent; with ``momentum``, along a decaying sum of the gradients (Sutskever et al. 2013).

    The recurrence heads this module.  On a quadratic with curvatures in [l, L] plain descent contracts every error by
    ``|1 - learning_rate * curvature|``, hence diverges from ``learning_rate = 2 / L`` on.  Momentum moves up to
    ``1 / (1 - momentum)`` times as far a step: lower the learning rate by that factor when turning it on.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      momentum: decay of the sum, in [0, 1]; ``None`` keeps no sum and no buffer.
      nesterov: (static) true takes ``g + momentum * trace`` instead of the sum.  Without ``momentum`` it does nothing.
      accumulator_dtype: (static) dtype in which the sum is stored; the parameter's if None.

    Raises:
      ValueError: a negative learning rate, or a momentum outside of [0, 1].

    >>> import jax.numpy as jnp
    >>> params = jnp.array([1.0, -2.0])
    >>> tx = sgd(learning_rate=0.25)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> (params + updates).tolist()
    [0.5, -1.0]
    """
    check.non_negative(learning_rate=learning_rate)
    check.in_range("momentum", momentum, 0.0, 1.0)
    if momentum is None:
        return chain(identity(), scale_by_learning_rate(learning_rate))
    velocity = relabel(trace(momentum, nesterov, accumulator_dtype), decay="momentum")
    return chain(velocity, scale_by_learning_rate(learning_rate))
