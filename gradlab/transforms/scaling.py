"""Stages that multiply the updates: by a number, by the learning rate, by a schedule.

::

    u = factor * g            scale
    u = -learning_rate * g    scale_by_learning_rate
    u = schedule(count) * g   scale_by_schedule
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core.compose import empty_init, identity
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule, as_schedule
from gradlab.core.transform import Transform, transform


def scale(step_size: Any) -> Transform:
    """Multiplies the updates by ``step_size``, a number or a tree of numbers that is a prefix of the parameters.

    >>> scale(-0.5).update(jnp.ones(2), optax.EmptyState())[0].tolist()
    [-0.5, -0.5]
    """
    return transform(empty_init, _scale_update, step_size=step_size)


def descend() -> Transform:
    """Changes the sign of the updates: for directions that know their own step sizes.

    >>> descend().update(jnp.ones(2), optax.EmptyState())[0].tolist()
    [-1.0, -1.0]
    """
    return transform(empty_init, _descend_update)


def scale_by_schedule(step_size_fn: Any) -> Transform:
    """Multiplies the updates by ``step_size_fn(count)``, with count 0 at the first update.

    >>> tx = scale_by_schedule(optax.linear_schedule(1.0, 0.0, 4))
    >>> updates, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    >>> tx.update(jnp.ones(1), state)[0].tolist()
    [0.75]
    """
    schedule = as_schedule(step_size_fn)
    return transform(_count_init, _scale_by_schedule_update, evaluate_schedules=False, step_size_fn=schedule)


def scale_by_learning_rate(learning_rate: Any = None, *, flip_sign: bool = True) -> Transform:
    """Multiplies the updates by minus the learning rate, so that adding them descends.

    Args:
      learning_rate: a number, a schedule, any function of the step count, or a tree of these that is a prefix
        of the parameters: ``{'head': 1e-4, 'body': 1e-3}``.  With None the updates pass as they are, sign included.
      flip_sign: (static) false keeps the sign.

    >>> tx = scale_by_learning_rate({'head': 0.1, 'body': 0.01})
    >>> params = {'head': jnp.ones(1), 'body': {'w': jnp.ones(1)}}
    >>> updates, _ = tx.update(params, tx.init(params))
    >>> round(float(updates['head'][0]), 6), round(float(updates['body']['w'][0]), 6)
    (-0.1, -0.01)
    """
    if learning_rate is None:
        return identity()
    if isinstance(learning_rate, Schedule) or callable(learning_rate):
        schedule = as_schedule(learning_rate)
        return transform(
            _count_init,
            _scale_by_learning_rate_schedule_update,
            evaluate_schedules=False,
            learning_rate=schedule,
            flip_sign=static(flip_sign),
        )
    return transform(
        empty_init, _scale_by_learning_rate_update, learning_rate=learning_rate, flip_sign=static(flip_sign)
    )


def _count_init(params):
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))


def _scale_rule(g, *, step_size):
    return (step_size * g,)


def _scale_update(grads, state, params=None, *, step_size, **extra):
    del params, extra
    (updates,) = leafwise(_scale_rule, grads, step_size=step_size)
    return updates, state


def _scale_by_schedule_update(grads, state, params=None, *, step_size_fn, **extra):
    updates, _ = _scale_update(grads, state, step_size=step_size_fn(state.count))
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))


def _negative_rule(g):
    return (-g,)


def _descend_update(grads, state, params=None, **extra):
    del params, extra
    (updates,) = leafwise(_negative_rule, grads)
    return updates, state


def _learning_rate_rule(g, *, learning_rate, flip_sign):
    return (-learning_rate * g if flip_sign else learning_rate * g,)


def _scale_by_learning_rate_update(grads, state, params=None, *, learning_rate, flip_sign, **extra):
    del params, extra
    (updates,) = leafwise(_learning_rate_rule, grads, learning_rate=learning_rate, structure={"flip_sign": flip_sign})
    return updates, state


def _scale_by_learning_rate_schedule_update(grads, state, params=None, *, learning_rate, flip_sign, **extra):
    updates, _ = _scale_by_learning_rate_update(
        grads, state, learning_rate=learning_rate(state.count), flip_sign=flip_sign
    )
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))
