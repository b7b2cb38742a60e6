r"""RMSProp: the gradient divided by the root of an average of its squares.

With g the gradient, p the parameter, count = 1, 2, ..., mu = 0 and nu = initial_scale before the first step::

    nu = decay * nu + (1 - decay) * |g|^2
    u = g / sqrt(nu + eps)                                  Tieleman and Hinton 2012, lecture 6.5
    u = g / (sqrt(nu) + eps)                                eps_in_sqrt=False
    nu = nu / (1 - decay^count)                             in the divisor only: bias_correction=True
    p = p - learning_rate * u

    mu = decay * mu + (1 - decay) * g
    u = g / sqrt(nu - |mu|^2 + eps)                         centered, arXiv 1308.0850

    v = momentum * v - learning_rate * u;  p = p + v        momentum, the learning rate inside of the buffer
    v = momentum * v + u;  p = p - learning_rate * v        learning_rate_inside=False

It averages no directions: where the gradient is constant it moves straight down, in steps of
``learning_rate / sqrt(1 - decay^count)``.
"""

from typing import Any

import jax.numpy as jnp
import optax
from optax._src.transform import ScaleByRmsWithCountState, ScaleByRStdDevWithCountState  # public nowhere else

from gradlab.core import check
from gradlab.core.compose import chain, identity
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import full_like, zeros_like
from gradlab.core.values import relabel
from gradlab.optimizers.adagrad import over_root
from gradlab.optimizers.momentum import nesterov_trace
from gradlab.transforms.accumulate import trace
from gradlab.transforms.scaling import scale_by_learning_rate


def _scale_by_rms_init(params, *, initial_scale, bias_correction):
    nu = full_like(params, initial_scale)
    if bias_correction:
        return ScaleByRmsWithCountState(count=jnp.zeros([], jnp.int32), nu=nu)
    return optax.ScaleByRmsState(nu=nu)


def _scale_by_stddev_init(params, *, initial_scale, bias_correction):
    mu, nu = zeros_like(params), full_like(params, initial_scale)
    if bias_correction:
        return ScaleByRStdDevWithCountState(count=jnp.zeros([], jnp.int32), mu=mu, nu=nu)
    return optax.ScaleByRStdDevState(mu=mu, nu=nu)


def _next_count(state, bias_correction):
    return optax.safe_increment(state.count) if bias_correction else 0


def _rms_rule(g, nu, *, count, decay, eps, eps_in_sqrt, bias_correction):
    nu = decay * nu + (1 - decay) * abs_sq(g)
    nu_hat = nu / debias(decay, count) if bias_correction else nu
    return over_root(g, nu_hat, eps=eps, eps_in_sqrt=eps_in_sqrt), nu


def scale_by_rms_update(grads, state, params=None, *, decay, eps, eps_in_sqrt, bias_correction, **extra):
    del params, extra
    count = _next_count(state, bias_correction)
    structure = {"eps_in_sqrt": eps_in_sqrt, "bias_correction": bias_correction}
    updates, nu = leafwise(_rms_rule, grads, [state.nu], structure=structure, count=count, decay=decay, eps=eps)
    return updates, state._replace(nu=nu, **({"count": count} if bias_correction else {}))


def _stddev_rule(g, mu, nu, *, count, decay, eps, eps_in_sqrt, bias_correction):
    mu = decay * mu + (1 - decay) * g
    nu = decay * nu + (1 - decay) * abs_sq(g)
    weight = debias(decay, count) if bias_correction else 1.0
    variance = jnp.maximum(nu / weight - abs_sq(mu / weight), 0)
    return over_root(g, variance, eps=eps, eps_in_sqrt=eps_in_sqrt), mu, nu


def _scale_by_stddev_update(grads, state, params=None, *, decay, eps, eps_in_sqrt, bias_correction, **extra):
    del params, extra
    count = _next_count(state, bias_correction)
    structure = {"eps_in_sqrt": eps_in_sqrt, "bias_correction": bias_correction}
    updates, mu, nu = leafwise(
        _stddev_rule, grads, [state.mu, state.nu], structure=structure, count=count, decay=decay, eps=eps
    )
    return updates, state._replace(mu=mu, nu=nu, **({"count": count} if bias_correction else {}))


def _second_moment(init, update, decay, eps, initial_scale, eps_in_sqrt, bias_correction) -> Transform:
    check.decay_rate(decay=decay)
    check.non_negative(eps=eps, initial_scale=initial_scale)
    return transform(
        init,
        update,
        at_init={"initial_scale": initial_scale, "bias_correction": static(bias_correction)},
        decay=decay,
        eps=eps,
        eps_in_sqrt=static(eps_in_sqrt),
        bias_correction=static(bias_correction),
    )


def scale_by_rms(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Transform:
    """Divides the updates by the root of the average of their squares; see `rmsprop`.

    >>> tx = scale_by_rms(decay=0.75, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [2.0]
    """
    return _second_moment(
        _scale_by_rms_init, scale_by_rms_update, decay, eps, initial_scale, eps_in_sqrt, bias_correction
    )


def scale_by_stddev(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Transform:
    """Divides the updates by their standard deviation over the past; see `rmsprop` with ``centered``.

    A variance that rounding makes negative counts as zero.

    >>> tx = scale_by_stddev(decay=0.5, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [2.0]
    """
    return _second_moment(
        _scale_by_stddev_init, _scale_by_stddev_update, decay, eps, initial_scale, eps_in_sqrt, bias_correction
    )


@storable
def rmsprop(
    learning_rate: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    learning_rate_inside: bool = True,
) -> Transform:
    """RMSProp (Tieleman and Hinton 2012): steps of about ``learning_rate`` in every coordinate.

    The recurrence heads this module.  Without bias correction the first step is ``1 / sqrt(1 - decay)`` = 3.16 times
    as long as the later ones at the default decay, 10 times at PyTorch's 0.99.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      decay: of the average of squares, in [0, 1); PyTorch's alpha, 0.99 there.
      eps: added to the average, or to its root.
      initial_scale: the average before the first step; 1 in TensorFlow 1.
      eps_in_sqrt: (static) true adds ``eps`` under the root (Optax, TensorFlow, Goodfellow et al., algorithm 8.5);
        false to the root (PyTorch).
      centered: (static) true divides by the standard deviation.  A gradient that stays constant then has a
        divisor near ``sqrt(eps)``: choose ``eps`` with care.
      momentum: decay of the velocity, in [0, 1]; ``None`` keeps none.
      nesterov: (static) true makes the velocity look one step ahead, as in `sgd`; for gradients taken ahead of the
        iterate see `rmsprop_nesterov`.
      bias_correction: (static) true divides the averages by ``1 - decay^count``; meant for ``initial_scale=0``.
      learning_rate_inside: (static) false multiplies the velocity by the learning rate instead of the steps that
        it sums (PyTorch); the same for a constant learning rate.

    Raises:
      ValueError: a decay outside of [0, 1), a momentum outside of [0, 1], a negative number.

    >>> tx = rmsprop(0.1, decay=0.75, eps=0.0)
    >>> updates, _ = tx.update(jnp.array([30.0, -0.3]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [-0.2, 0.2]
    """
    check.non_negative(learning_rate=learning_rate)
    check.in_range("momentum", momentum, 0.0, 1.0)
    scale_by = scale_by_stddev if centered else scale_by_rms
    direction = scale_by(decay, eps, initial_scale, eps_in_sqrt, bias_correction)
    step = scale_by_learning_rate(learning_rate)
    velocity = identity() if momentum is None else relabel(trace(momentum, nesterov), decay="momentum")
    return chain(direction, step, velocity) if learning_rate_inside else chain(direction, velocity, step)


@storable
def rmsprop_nesterov(
    learning_rate: Any,
    decay: Any = 0.9,
    eps: Any = 1e-6,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    momentum: Any = 0.9,
) -> Transform:
    """RMSProp with Nesterov's momentum, its gradient taken ahead of the iterate (Goodfellow et al., algorithm 8.6).

    ``g = g(q + momentum * v); nu = decay * nu + (1 - decay) * |g|^2; v = momentum * v - learning_rate * g / sqrt(nu +
    eps); q = q + v``.  The parameters that the caller holds are the point ahead, ``q + momentum * v``;
    ``gradlab.eval_params`` returns q, as for `nesterov_sgd`.

    Args:
      learning_rate, decay, initial_scale, eps_in_sqrt: as for `rmsprop`.
      eps: the book's algorithm has none, and so divides 0 by 0 where the gradients so far are zero; 1e-6 is that of
        its algorithm 8.5.
      momentum: the part of the velocity that a step keeps, in [0, 1].

    Raises:
      ValueError: as `rmsprop`.

    >>> tx = rmsprop_nesterov(0.1, decay=0.75, eps=0.0, momentum=0.5)
    >>> updates, _ = tx.update(jnp.array([30.0]), tx.init(jnp.zeros(1)))
    >>> round(float(updates[0]), 4)
    -0.3
    """
    check.non_negative(learning_rate=learning_rate)
    check.in_range("momentum", momentum, 0.0, 1.0)
    direction = scale_by_rms(decay, eps, initial_scale, eps_in_sqrt)
    ahead = relabel(nesterov_trace(momentum), decay="momentum")
    return chain(direction, scale_by_learning_rate(learning_rate), ahead)
