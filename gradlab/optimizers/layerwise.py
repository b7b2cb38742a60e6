r"""LAMB, LARS and Fromage: the length of a layer's step follows the length of its weights.

With g the gradient and p the parameter of one tensor, and ``|.|`` its Euclidean norm::

    u = mu_hat / (sqrt(nu_hat + eps_root) + eps)                  as in Adam
    r = u + weight_decay * p
    p = p - learning_rate * |p| / |r| * r                         LAMB, arXiv 1904.00962

    r = g + weight_decay * p
    ratio = trust_coefficient * |p| / (|r| + eps)                             denominator='norm_of_sum'
    ratio = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps)        denominator='sum_of_norms'
    trace = momentum * trace - learning_rate * ratio * r
    p = p + trace                                                 LARS, arXiv 1708.03888

    p = (p - learning_rate * |p| / |g| * g) / sqrt(1 + learning_rate^2)       Fromage, arXiv 2002.03432

A ratio is one where either norm is zero.
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import chain, empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.values import relabel
from gradlab.optimizers.adam import scale_by_adam
from gradlab.transforms.accumulate import trace
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.norms import scale_by_trust_ratio, trust_ratio
from gradlab.transforms.route import masked
from gradlab.transforms.scaling import scale_by_learning_rate

DENOMINATORS = ("norm_of_sum", "sum_of_norms")


def _sum_of_norms_rule(r, g, p, *, trust_coefficient, eps):
    return trust_ratio(global_norm(p), global_norm(g) + global_norm(r - g), trust_coefficient, eps) * r, g


def _scale_by_sum_of_norms_update(grads, state, params=None, *, trust_coefficient, eps, grad, **extra):
    del extra
    params = check.required_params("lars", params)
    updates, _ = leafwise(_sum_of_norms_rule, grads, [grad], params, trust_coefficient=trust_coefficient, eps=eps)
    return updates, state


def _lars_init(params, *, inner):
    return inner(params)


def _lars_update(grads, state, params=None, *, inner, grad=None, **extra):
    """Hands its own gradient on as ``grad``: that of an outer chain may have been clipped since."""
    del grad
    return inner(grads, state, params, grad=grads, **extra)


def _turn_rule(u, p, *, learning_rate):
    length = jnp.sqrt(1 + learning_rate**2)
    shrinkage = learning_rate**2 / (length * (1 + length))  # 1 - 1 / length, without its cancellation
    return (-learning_rate / length * u - shrinkage * p,)


def _turn_update(grads, state, params=None, *, learning_rate, **extra):
    del extra
    params = check.required_params("fromage", params)
    (updates,) = leafwise(_turn_rule, grads, params=params, learning_rate=learning_rate)
    return updates, state


@storable
def lamb(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Transform:
    """LAMB (You et al. 2019, arXiv 1904.00962): Adam's direction, as long as the weights of each layer.

    The recurrence heads this module.  Every tensor moves by ``learning_rate`` times its own length, decay included,
    whatever the scale of its gradient: a rate of 0.01 is a step of one percent.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.
      eps_root: added under the root.
      weight_decay: the factor of the parameter.
      mask: which parameters decay; as for `gradlab.masked`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number; ``update`` without ``params``.

    >>> params = jnp.array([3.0, -4.0])
    >>> tx = lamb(learning_rate=0.1)
    >>> updates, _ = tx.update(jnp.array([7.0, 7.0]), tx.init(params), params)
    >>> [round(float(u), 4) for u in updates]  # of length 0.5
    [-0.3536, -0.3536]
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(None, None, None),
        scale_by_learning_rate(learning_rate),
    )


@storable
def lars(
    learning_rate: Any,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Any = 0.001,
    eps: Any = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Any = 0.9,
    nesterov: bool = False,
    *,
    denominator: str = "norm_of_sum",
) -> Transform:
    """LARS (You et al. 2017, arXiv 1708.03888): momentum on gradients made as long as the weights of each layer.

    The recurrence heads this module.  The learning rate stands inside of the momentum, as in the paper.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      weight_decay: the factor of the parameter, which joins the gradient before the ratio.
      weight_decay_mask: which parameters decay; as for `gradlab.masked`.
      trust_coefficient: the length of a step relative to the weights at learning rate 1.
      eps: added to the denominator of the ratio.
      trust_ratio_mask: which parameters have a ratio; the others move as in momentum SGD.
      momentum: decay of the sum of steps, in [0, 1].
      nesterov: (static) true looks one step ahead; as for `gradlab.trace`.
      denominator: (static) ``'norm_of_sum'`` divides by ``|g + weight_decay * p|``, Optax's; ``'sum_of_norms'`` by
        ``|g| + weight_decay * |p|``, the paper's.  The same without decay.

    Raises:
      ValueError: a negative number, a momentum above 1, an unknown ``denominator``; ``update`` without ``params``.

    >>> params = jnp.array([3.0, -4.0])
    >>> tx = lars(learning_rate=1.0, trust_coefficient=0.1)
    >>> updates, _ = tx.update(jnp.array([7.0, 7.0]), tx.init(params), params)
    >>> [round(float(u), 4) for u in updates]  # of length 0.5
    [-0.3536, -0.3536]
    """
    check.non_negative(learning_rate=learning_rate, trust_coefficient=trust_coefficient, eps=eps)
    check.in_range("momentum", momentum, 0.0, 1.0)
    check.one_of("denominator", denominator, DENOMINATORS)
    if denominator == "norm_of_sum":
        ratio = scale_by_trust_ratio(None, trust_coefficient, eps)
    else:
        ratio = transform(empty_init, _scale_by_sum_of_norms_update, trust_coefficient=trust_coefficient, eps=eps)
    stages = chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(ratio, trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        relabel(trace(momentum, nesterov), decay="momentum"),
    )
    return stages if denominator == "norm_of_sum" else transform(_lars_init, _lars_update, inner=stages)


@storable
def fromage(learning_rate: Any, min_norm: Any = 1e-6) -> Transform:
    """Fromage (Bernstein et al. 2020, arXiv 2002.03432): each layer turns by an angle, without growing.

    The recurrence heads this module.  A gradient at right angles to its weights turns them by
    ``arctan(learning_rate)`` and leaves their length as it is; the paper's rate is 0.01.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      min_norm: least value of both norms in the ratio, so that weights which start at zero can move.

    Raises:
      ValueError: a negative learning rate or ``min_norm``; ``update`` without ``params``.

    >>> params = jnp.array([1.0, 0.0])
    >>> tx = fromage(learning_rate=1.0)
    >>> updates, _ = tx.update(jnp.array([0.0, -7.0]), tx.init(params), params)
    >>> [round(float(p), 4) for p in params + updates]
    [0.7071, 0.7071]
    """
    check.non_negative(learning_rate=learning_rate)
    turn = transform(empty_init, _turn_update, learning_rate=learning_rate)
    return chain(scale_by_trust_ratio(min_norm, None, None), turn)
