r"""Adafactor: a factored second moment, a bound on the step, and step sizes relative to the weights.

With g the gradient, p the parameter, v the factored average of |g|^2 of `gradlab.optimizers.factored`::

    u = g / sqrt(v)
    u = u * min(1, clipping_threshold / rms(u))                   leaf by leaf
    u = learning_rate * max(min_scale, rms(p)) * u
    mu = momentum * mu + (1 - momentum) * u                       with momentum, u = mu
    p = p - (u + weight_decay_rate * p)

arXiv 1804.04235, algorithm 4 and section 8, in Optax's order: the decay is not multiplied by the learning rate.
"""

from typing import Any

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.storage import storable
from gradlab.core.transform import Transform
from gradlab.core.values import relabel
from gradlab.optimizers.factored import scale_by_factored_rms
from gradlab.transforms.accumulate import ema
from gradlab.transforms.clip import clip_by_block_rms
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.norms import scale_by_param_block_rms
from gradlab.transforms.route import masked
from gradlab.transforms.scaling import descend, scale_by_learning_rate


@storable
def adafactor(
    learning_rate: Any = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Any = 0.8,
    decay_offset: Any = 0.0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Any = 1.0,
    momentum: Any = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: Any = None,
    eps: Any = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
    *,
    min_scale: Any = 1e-3,
) -> Transform:
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235): Adam's scaling at the memory of rows and columns.

    The recurrence heads this module.  Without momentum a large matrix ``(m, n)`` costs ``m + n`` numbers of state.

    PyTorch's and the paper's relative steps are ``learning_rate=lambda count: jnp.minimum(lr, (count + 1) ** -0.5)``
    with ``min_dim_size_to_factor=1`` and ``weight_decay_rate=lr * weight_decay``.  PyTorch factors the last two axes
    and bounds ``v`` from below where Optax and this function factor the two largest and add ``eps``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters; None is 1.
      min_dim_size_to_factor: (static) leaves without two axes of this length keep an average for each weight.
      decay_rate: exponent of the decay of the averages, ``1 - count^(-decay_rate)``.
      decay_offset: steps by which that decay starts anew; see `scale_by_factored_rms`.
      multiply_by_parameter_scale: (static) false makes ``learning_rate`` the step size itself.
      clipping_threshold: bound on the root mean square of a leaf's direction; None for no bound.
      momentum: decay of the average of updates, in [0, 1); None keeps no average.
      dtype_momentum: (static) dtype in which that average is stored.
      weight_decay_rate: the factor of the parameter, not multiplied by the learning rate; None for no decay.
      eps: added to the squared gradients.
      factored: (static) false keeps an average for each weight everywhere.
      weight_decay_mask: which parameters decay; as for `gradlab.masked`.
      min_scale: least root mean square of a leaf's parameters that the step is relative to.

    Raises:
      ValueError: a negative number, a momentum outside of [0, 1); ``update`` without ``params``.

    >>> tx = adafactor(0.1, min_dim_size_to_factor=2)
    >>> params = jnp.array([[3.0, 4.0], [4.0, 3.0]])
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> [[round(u, 3) for u in row] for row in updates.tolist()]
    [[-0.3, -0.4], [-0.4, -0.3]]
    """
    check.non_negative(learning_rate=learning_rate, decay_rate=decay_rate, weight_decay_rate=weight_decay_rate, eps=eps)
    check.non_negative(clipping_threshold=clipping_threshold, min_scale=min_scale)
    check.decay_rate(momentum=momentum)
    direction = scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps)
    stages = [relabel(direction, step_offset="decay_offset", epsilon="eps")]
    if clipping_threshold is not None:
        stages.append(relabel(clip_by_block_rms(clipping_threshold), threshold="clipping_threshold"))
    if learning_rate is not None:
        stages.append(scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        stages.append(scale_by_param_block_rms(min_scale))
    if momentum is not None:
        stages.append(relabel(ema(momentum, debias=False, accumulator_dtype=dtype_momentum), decay="momentum"))
    if weight_decay_rate is not None:
        decay = relabel(add_decayed_weights(weight_decay_rate), weight_decay="weight_decay_rate")
        stages.append(decay if weight_decay_mask is None else masked(decay, weight_decay_mask))
    return chain(*stages, descend())
