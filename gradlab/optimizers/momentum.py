r"""Momentum in its four published forms, and when they are the same.

With g the gradient, p the parameter, lr the learning rate, a the momentum and every buffer zero before the first
step::

    1  heavy_ball     v = a * v - lr * g            p = p + v          Polyak 1964; Goodfellow et al., algorithm 8.2
    2  momentum_sgd   B = a * B + g                 p = p - lr * B     PyTorch, Optax: sgd(lr, momentum=a)
    3  ema_sgd        m = a * m + (1 - a) * g       p = p - lr * m     Adam's first moment
    4  nesterov_sgd   v = a * v - lr * g(q + a*v)   q = q + v          Nesterov 1983, as in Sutskever et al. 2013
       sgd(nesterov)  B = a * B + g                 p = p - lr * (g + a * B)

Constant lr and a.  Forms 1 and 2 make the same steps, since ``v = -lr * B``.  Form 3 makes them too at the learning
rate ``lr / (1 - a)``, since ``m = (1 - a) * B``.  Form 4 and ``sgd(nesterov=True)`` make the same steps once both are
seen at the point where the gradient is taken, ``p = q + a * v``: that point is what the user of `nesterov_sgd` holds.

A schedule for lr parts 1 from 2, and 4 from ``sgd(nesterov=True)``: inside the buffer every gradient keeps the
learning rate of its own step, outside all of them get today's.  With g = 1 and a = 0.9 at rest in the terminal
velocity, a cut of lr from 0.1 to 0.01 makes the next step of form 1 0.91 long and that of form 2 0.1.  Forms 2 and 3
stay equal (every lr divided by ``1 - a``).

A schedule for a parts 3 from 2, since no single factor turns m into B; 1 and 2 stay equal.  It parts form 4 from
``sgd(nesterov=True)`` too: form 4 decays its velocity by the a with which it looked ahead, the other by the next one.

Terminal velocity, the step length that a constant gradient leads to: ``lr * g / (1 - a)``, approached as
``1 - a^count``; in form 3 it is ``lr * g``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.core.update import readout_map, register_readout
from gradlab.core.values import relabel
from gradlab.transforms.accumulate import ema, trace
from gradlab.transforms.scaling import scale_by_learning_rate

Tree = Any


class DampedTraceState(NamedTuple):
    """The sum of `damped_trace`, and whether it has begun."""

    count: jax.Array  # () int32
    trace: Tree  # like params


class NesterovTraceState(NamedTuple):
    """How far `nesterov_trace` has shifted the parameters ahead of the point that it moves."""

    shift: Tree  # like params; decay * velocity


def _damped_trace_init(params, *, accumulator_dtype):
    return DampedTraceState(count=jnp.zeros([], jnp.int32), trace=zeros_like(params, accumulator_dtype))


def _nesterov_trace_init(params, *, accumulator_dtype):
    return NesterovTraceState(shift=zeros_like(params, accumulator_dtype))


def _damped_trace_rule(g, trace, *, count, decay, dampening, nesterov):
    weight = jnp.where(count == 1, 1.0, 1 - dampening)
    trace = decay * trace + weight * g
    return g + decay * trace if nesterov else trace, trace


def _damped_trace_update(grads, state, params=None, *, decay, dampening, nesterov, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, trace = leafwise(
        _damped_trace_rule,
        grads,
        [state.trace],
        structure={"nesterov": nesterov},
        count=count,
        decay=decay,
        dampening=dampening,
    )
    return updates, DampedTraceState(count=count, trace=trace)


def _nesterov_trace_rule(u, shift, *, decay):
    velocity = shift + u
    next_shift = decay * velocity
    return u + next_shift, next_shift


def _nesterov_trace_update(grads, state, params=None, *, decay, **extra):
    del params, extra
    updates, shift = leafwise(_nesterov_trace_rule, grads, [state.shift], decay=decay)
    return updates, NesterovTraceState(shift=shift)


def _unshifted(shift: Any, p: Any) -> Any:
    return (p - shift).astype(p.dtype)


def _nesterov_readout(state: NesterovTraceState, params: Tree) -> Tree:
    return readout_map(_unshifted, state.shift, params)


register_readout(NesterovTraceState, _nesterov_readout)


def damped_trace(decay: Any, dampening: Any = 0.0, nesterov: bool = False, accumulator_dtype: Any = None) -> Transform:
    """Replaces the updates by a decaying sum with damped terms: ``trace = decay * trace + (1 - dampening) * g``.

    The first term enters undamped, as in PyTorch; see `momentum_sgd`.

    >>> tx = damped_trace(0.5, dampening=0.5)
    >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([8.0]), state)[0].tolist()
    ([4.0], [6.0])
    """
    check.in_range("decay", decay, 0.0, 1.0)
    check.in_range("dampening", dampening, 0.0, 1.0)
    at_init = {"accumulator_dtype": static(accumulator_dtype)}
    return transform(
        _damped_trace_init,
        _damped_trace_update,
        at_init=at_init,
        decay=decay,
        dampening=dampening,
        nesterov=static(nesterov),
    )


def nesterov_trace(decay: Any, accumulator_dtype: Any = None) -> Transform:
    """Nesterov's momentum for steps of any kind: it stands after the learning rate.

    With u the incoming update (minus the learning rate included), computed at the parameters ``p = q + shift``::

        velocity = shift + u
        shift = decay * velocity
        q = q + velocity

    The parameters stay ahead of q by ``shift``; ``gradlab.eval_params`` returns q.  With a scheduled ``decay`` the
    value at one call is that of the next gradient's look-ahead.

    >>> tx = nesterov_trace(0.5)
    >>> updates, state = tx.update(jnp.array([-4.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), state.shift.tolist()
    ([-6.0], [-2.0])
    """
    check.in_range("decay", decay, 0.0, 1.0)
    at_init = {"accumulator_dtype": static(accumulator_dtype)}
    return transform(_nesterov_trace_init, _nesterov_trace_update, at_init=at_init, decay=decay)


@storable
def heavy_ball(learning_rate: Any, momentum: Any = 0.9, accumulator_dtype: Any = None) -> Transform:
    """Momentum with the learning rate inside the buffer (Polyak 1964): form 1 of this module.

    ``v = momentum * v - learning_rate * g; p = p + v``.  With curvatures in [l, L] it is fastest at
    ``learning_rate = 4 / (sqrt(L) + sqrt(l))^2`` and ``momentum = ((sqrt(L) - sqrt(l)) / (sqrt(L) + sqrt(l)))^2``,
    whose root is the factor by which errors then shrink.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      momentum: the part of the velocity that a step keeps, in [0, 1].
      accumulator_dtype: (static) dtype in which the velocity is stored; the parameter's if None.

    Raises:
      ValueError: a negative learning rate, or a momentum outside of [0, 1].

    >>> tx = heavy_ball(0.5, momentum=0.5)
    >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([2.0]), state)[0].tolist()
    ([-1.0], [-1.5])
    """
    check.non_negative(learning_rate=learning_rate)
    check.in_range("momentum", momentum, 0.0, 1.0)
    velocity = relabel(trace(momentum, accumulator_dtype=accumulator_dtype), decay="momentum")
    return chain(scale_by_learning_rate(learning_rate), velocity)


@storable
def momentum_sgd(
    learning_rate: Any,
    momentum: Any = 0.9,
    dampening: Any = 0.0,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> Transform:
    """Momentum with the learning rate outside the buffer, and PyTorch's dampening: form 2 of this module.

    ``B = momentum * B + (1 - dampening) * g; p = p - learning_rate * B``, where the first B is g itself.  Hence
    ``dampening=momentum`` is not the average of `ema_sgd`: it exceeds it by ``momentum^count`` times the first
    gradient.  Without dampening this is ``sgd(learning_rate, momentum, nesterov)``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      momentum: decay of the sum, in [0, 1].
      dampening: the part of each gradient after the first that stays out of the sum, in [0, 1].
      nesterov: (static) true takes ``g + momentum * B`` instead of B; PyTorch has it only without dampening.
      accumulator_dtype: (static) dtype in which the sum is stored; the parameter's if None.

    Raises:
      ValueError: a negative learning rate, or a momentum or dampening outside of [0, 1].

    >>> tx = momentum_sgd(1.0, momentum=0.5, dampening=0.5)
    >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([8.0]), state)[0].tolist()
    ([-4.0], [-6.0])
    """
    check.non_negative(learning_rate=learning_rate)
    check.in_range("momentum", momentum, 0.0, 1.0)
    velocity = relabel(damped_trace(momentum, dampening, nesterov, accumulator_dtype), decay="momentum")
    return chain(velocity, scale_by_learning_rate(learning_rate))


@storable
def ema_sgd(learning_rate: Any, momentum: Any = 0.9, debias: bool = False, accumulator_dtype: Any = None) -> Transform:
    """Momentum as an average of the gradients: form 3 of this module.

    ``m = momentum * m + (1 - momentum) * g; p = p - learning_rate * m``: the length of a step does not grow with the
    momentum.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      momentum: decay of the average, in [0, 1).
      debias: (static) true divides the average by its total weight ``1 - momentum^count``.
      accumulator_dtype: (static) dtype in which the average is stored; the parameter's if None.

    Raises:
      ValueError: a negative learning rate, or a momentum outside of [0, 1).

    >>> tx = ema_sgd(1.0, momentum=0.5)
    >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([8.0]), state)[0].tolist()
    ([-2.0], [-5.0])
    """
    check.non_negative(learning_rate=learning_rate)
    check.decay_rate(momentum=momentum)
    average = relabel(ema(momentum, debias, accumulator_dtype), decay="momentum")
    return chain(average, scale_by_learning_rate(learning_rate))


@storable
def nesterov_sgd(learning_rate: Any, momentum: Any = 0.9, accumulator_dtype: Any = None) -> Transform:
    """Nesterov's momentum with its gradient taken ahead of the iterate: form 4 of this module.

    ``v = momentum * v - learning_rate * g(q + momentum * v); q = q + v`` (Sutskever et al. 2013, eq. 3 and 4).  The
    parameters that the caller holds and differentiates at are the point ahead, ``q + momentum * v``; evaluate and
    save ``gradlab.eval_params(tx, state, params)``, which is q.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      momentum: the part of the velocity that a step keeps, in [0, 1].  A schedule's value at one call is that of the
        next gradient's look-ahead (before the first there is no velocity to look along).
      accumulator_dtype: (static) dtype in which the velocity is stored; the parameter's if None.

    Raises:
      ValueError: a negative learning rate, or a momentum outside of [0, 1].

    >>> import gradlab
    >>> params = jnp.array([4.0])
    >>> tx = nesterov_sgd(0.5, momentum=0.5)
    >>> updates, state = tx.update(params, tx.init(params))
    >>> params = params + updates
    >>> params.tolist(), gradlab.eval_params(tx, state, params).tolist()
    ([1.0], [2.0])
    """
    check.non_negative(learning_rate=learning_rate)
    check.in_range("momentum", momentum, 0.0, 1.0)
    ahead = relabel(nesterov_trace(momentum, accumulator_dtype), decay="momentum")
    return chain(scale_by_learning_rate(learning_rate), ahead)
