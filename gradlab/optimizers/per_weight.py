r"""A step size of its own for every weight, steered by whether its gradients keep their sign.

With g the gradient, p the parameter, s = learning_rate and mu = prev = 0 before the first step::

    delta-bar-delta, Jacobs 1988
        s = s + kappa           where mu * g > 0        (mu: the average before this step)
        s = s * (1 - phi)       where mu * g < 0
        mu = theta * mu + (1 - theta) * g
        p = p - s * g

    Rprop, Riedmiller and Braun 1993, in the form iRprop- of Igel and Huesken 2000
        turn = sign(g) * sign(prev)
        s = clip(s * eta_plus,  min_step_size, max_step_size)    where turn > 0
        s = clip(s * eta_minus, min_step_size, max_step_size)    where turn < 0
        prev = 0 where turn < 0, s * sign(g) elsewhere
        p = p - prev

Rprop ignores the gradient's size, and so needs that of the whole loss: signs of minibatch gradients do not average.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.schedule import Schedule
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.transforms.scaling import descend

Tree = Any


class ScaleByDeltaBarDeltaState(NamedTuple):
    """State of delta-bar-delta."""

    step_sizes: Tree  # like params
    mu: Tree  # like params; the average of gradients, Jacobs's delta bar


def _initial_step_sizes(params, learning_rate):
    leaves, treedef = jax.tree.flatten(params, is_leaf=trees.is_none)
    values = trees.broadcast_prefix("learning_rate", learning_rate, params)
    sizes = [None if p is None else jnp.full_like(p, value) for p, value in zip(leaves, values, strict=True)]
    return jax.tree.unflatten(treedef, sizes)


def _scale_by_delta_bar_delta_init(params, *, learning_rate):
    return ScaleByDeltaBarDeltaState(_initial_step_sizes(params, learning_rate), trees.zeros_like(params))


def _scale_by_rprop_init(params, *, learning_rate):
    return optax.ScaleByRpropState(_initial_step_sizes(params, learning_rate), trees.zeros_like(params))


def _delta_bar_delta_rule(g, step_sizes, mu, *, kappa, phi, theta):
    agreement = (jnp.conj(mu) * g).real
    shrunk = jnp.where(agreement < 0, step_sizes * (1 - phi), step_sizes)
    step_sizes = jnp.where(agreement > 0, step_sizes + kappa, shrunk)
    return step_sizes * g, step_sizes, theta * mu + (1 - theta) * g


def _scale_by_delta_bar_delta_update(grads, state, params=None, *, kappa, phi, theta, **extra):
    del params, extra
    slots = [state.step_sizes, state.mu]
    updates, step_sizes, mu = leafwise(_delta_bar_delta_rule, grads, slots, kappa=kappa, phi=phi, theta=theta)
    return updates, ScaleByDeltaBarDeltaState(step_sizes, mu)


def _rprop_rule(g, step_sizes, prev_updates, *, eta_minus, eta_plus, min_step_size, max_step_size):
    if jnp.iscomplexobj(g):
        raise TypeError(
            f"rprop compares signs, and a gradient of {g.dtype.name} has none; "
            "wrap it in optax.contrib.split_real_and_imaginary"
        )
    turn = jnp.sign(g) * jnp.sign(prev_updates)
    factor = jnp.where(turn > 0, eta_plus, jnp.where(turn < 0, eta_minus, 1.0))
    step_sizes = jnp.clip(step_sizes * factor, min_step_size, max_step_size)
    updates = jnp.where(turn < 0, 0.0, step_sizes * jnp.sign(g))
    return updates, step_sizes, updates


def _scale_by_rprop_update(grads, state, params=None, *, eta_minus, eta_plus, min_step_size, max_step_size, **extra):
    del params, extra
    updates, step_sizes, prev_updates = leafwise(
        _rprop_rule,
        grads,
        [state.step_sizes, state.prev_updates],
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
    )
    return updates, optax.ScaleByRpropState(step_sizes, prev_updates)


def check_initial_rate(stage: str, learning_rate: Any) -> None:
    """Raises unless ``learning_rate`` can be where a rate that the stage itself changes starts."""
    leaves = jax.tree.leaves(learning_rate, is_leaf=lambda leaf: isinstance(leaf, Schedule))
    if any(isinstance(leaf, Schedule) or callable(leaf) for leaf in leaves):
        raise TypeError(
            f"{stage}: `learning_rate` is where the stage's own step sizes start, so it cannot be a schedule; "
            f"pass a number, and multiply the updates with chain({stage}(...), scale_by_schedule(...))"
        )
    check.non_negative(learning_rate=learning_rate)


def scale_by_delta_bar_delta(learning_rate: Any, kappa: Any = 1e-3, phi: Any = 0.1, theta: Any = 0.7) -> Transform:
    """Multiplies each update by a step size of its own; see `delta_bar_delta`.

    >>> tx = scale_by_delta_bar_delta(0.5, kappa=0.25)
    >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([2.0]), state)[0].tolist()
    ([1.0], [1.5])
    """
    check_initial_rate("scale_by_delta_bar_delta", learning_rate)
    check.non_negative(kappa=kappa)
    check.in_range("phi", phi, 0.0, 1.0)
    check.decay_rate(theta=theta)
    return transform(
        _scale_by_delta_bar_delta_init,
        _scale_by_delta_bar_delta_update,
        at_init={"learning_rate": learning_rate},
        kappa=kappa,
        phi=phi,
        theta=theta,
    )


@storable
def delta_bar_delta(learning_rate: Any, kappa: Any = 1e-3, phi: Any = 0.1, theta: Any = 0.7) -> Transform:
    """Delta-bar-delta (Jacobs 1988): each weight's rate grows by addition and shrinks by multiplication.

    The recurrence heads this module.  A rate grows while the gradient agrees in sign with the average of the
    gradients before it, and the new rate serves the same step; the first step, without an average, changes none.

    Args:
      learning_rate: the rate that every weight starts with: a number or a tree of numbers that is a prefix of the
        parameters.  It is read by ``init`` only.
      kappa: added to a rate on agreement; about 1 to 10 % of ``learning_rate``.
      phi: the part of a rate that a disagreement takes away, in [0, 1]; about 0.1 to 0.5.
      theta: decay of the average of gradients, in [0, 1).

    Raises:
      ValueError: a number outside of its range.
      TypeError: a schedule for ``learning_rate``.

    >>> tx = delta_bar_delta(0.5, kappa=0.25, phi=0.5)
    >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), tx.update(jnp.array([-2.0]), state)[0].tolist()
    ([-1.0], [0.5])
    """
    return chain(scale_by_delta_bar_delta(learning_rate, kappa, phi, theta), descend())


def scale_by_rprop(
    learning_rate: Any,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
) -> Transform:
    """Replaces each update by its sign times a step size of its own; see `rprop`.

    >>> tx = scale_by_rprop(0.5)
    >>> updates, state = tx.update(jnp.array([1e-9]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), [round(float(u), 4) for u in tx.update(jnp.array([7.0]), state)[0]]
    ([0.5], [0.6])
    """
    check_initial_rate("scale_by_rprop", learning_rate)
    check.in_range("eta_minus", eta_minus, 0.0, 1.0, open_low=True)
    check.in_range("eta_plus", eta_plus, 1.0)
    check.non_negative(min_step_size=min_step_size)
    check.positive(max_step_size=max_step_size)
    return transform(
        _scale_by_rprop_init,
        _scale_by_rprop_update,
        at_init={"learning_rate": learning_rate},
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
    )


@storable
def rprop(
    learning_rate: Any,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
) -> Transform:
    """Rprop (Riedmiller and Braun 1993): steps that grow while the sign of the gradient lasts, and halve when it turns.

    The recurrence heads this module: the form without weight backtracking, as in PyTorch.  At a change of sign the
    weight rests for one step, and the step after keeps its size.  ``optax.rprop`` (0.2.8) has the same state but
    applies at each call the step that it computed one call earlier, so that its first call moves nothing.

    Args:
      learning_rate: the step that every weight starts with: a number or a tree of numbers that is a prefix of the
        parameters.  It is read by ``init`` only.
      eta_minus: factor of a step when the sign turns, in (0, 1].
      eta_plus: factor of a step while the sign stays, >= 1.
      min_step_size: the least step.
      max_step_size: the largest step.

    Raises:
      ValueError: a number outside of its range.
      TypeError: a schedule for ``learning_rate``; a complex gradient.

    >>> tx = rprop(0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in [3.0, 0.1, -2.0, -2.0]:
    ...     updates, state = tx.update(jnp.array([g]), state)
    ...     print(round(float(updates[0]), 4))
    -0.5
    -0.6
    -0.0
    0.3
    """
    direction = scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    return chain(direction, descend())
