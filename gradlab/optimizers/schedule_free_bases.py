r"""Schedule-Free learning around SGD, AdamW and RAdam (arXiv 2405.15682).

With g the gradient at y, gamma the learning rate at this step and nu_hat as in Adam, the step of z in
`gradlab.optimizers.schedule_free` is::

    z = z - gamma * (g + weight_decay * y)                                 schedule_free_sgd
    z = z - gamma * (g / (sqrt(nu_hat) + eps) + weight_decay * y)          schedule_free_adamw
    z = z - gamma * r * (g / (sqrt(nu_hat) + eps) + weight_decay * y)      schedule_free_radam where rho > 4, and
                                                                           gamma * r is what the average weighs by

with rho and r as in `gradlab.optimizers.radam`.  y takes the place of momentum, so that the memory of AdamW is that of
Adam: nu and z.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain, identity
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule, as_schedule
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.core.values import relabel
from gradlab.optimizers.adagrad import over_root
from gradlab.optimizers.primal_averaging import interpolation_factors, interpolation_rule
from gradlab.optimizers.radam import effective_length, rectification
from gradlab.optimizers.rmsprop import ScaleByRmsWithCountState, scale_by_rms_update
from gradlab.optimizers.schedule_free import around, averaged_state, schedule_free_state, value_at
from gradlab.schedules.warmup import warmup_constant_schedule
from gradlab.transforms.decay import add_decayed_weights

UNRECTIFIED = ("skip", "gradient")


def _is_scheduled(learning_rate: Any) -> bool:
    return isinstance(learning_rate, Schedule) or callable(learning_rate)


def _warmed_up(learning_rate: Any, warmup_steps: Any, form: str) -> Any:
    if warmup_steps is None:
        return learning_rate
    if _is_scheduled(learning_rate):
        warmed = as_schedule(learning_rate) * warmup_constant_schedule(0.0, 1.0, warmup_steps)
    else:
        warmed = warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    return warmed.shift(1) if form == "authors" else warmed


def _count_init(params):
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))


def _count_update(grads, state, params=None, **extra):
    del params, extra
    return grads, optax.ScaleByScheduleState(optax.safe_increment(state.count))


def _place_of_learning_rate(learning_rate: Any) -> Transform:
    """Keeps the state of the stage that Optax has there; `schedule_free` multiplies by the learning rate itself."""
    return transform(_count_init, _count_update) if _is_scheduled(learning_rate) else identity()


def _nu_init(params):
    return ScaleByRmsWithCountState(count=jnp.zeros([], jnp.int32), nu=zeros_like(params))


def _direction_of_adam(b2: Any, eps: Any) -> Transform:
    """Adam without momentum."""
    check.decay_rate(b2=b2)
    check.non_negative(eps=eps)
    flags = {"eps_in_sqrt": static(False), "bias_correction": static(True)}
    return relabel(transform(_nu_init, scale_by_rms_update, decay=b2, eps=eps, **flags), decay="b2")


@storable
def schedule_free_sgd(
    learning_rate: Any = 1.0,
    warmup_steps: Any = None,
    b1: Any = 0.9,
    weight_decay: Any = None,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    averaging_constant: Any = None,
    form: str = "optax",
) -> Transform:
    """Schedule-Free SGD (arXiv 2405.15682); best learning rates are 10 to 50 times those of SGD with a schedule.

    The recurrence heads this module.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      warmup_steps: length of a line from 0 to ``learning_rate``; None for no warm-up.
      b1: the weight of the average in the parameters y, in [0, 1); a number or a schedule.
      weight_decay: the factor of y; None for no decay.
      weight_lr_power, state_dtype, averaging_constant: as for `schedule_free`.
      form: (static) ``'optax'`` warms up from 0, its first step empty, and weighs by the learning rate of the next
        step; ``'authors'`` from ``learning_rate / warmup_steps``, and weighs by the learning rate of the step made.

    Raises:
      ValueError: as `schedule_free`; a negative decay.

    >>> import gradlab
    >>> tx = schedule_free_sgd(0.5, b1=0.5)
    >>> y = jnp.array([4.0])
    >>> updates, state = tx.update(y, tx.init(y), y)
    >>> (y + updates).tolist(), gradlab.eval_params(tx, state, y + updates).tolist()
    ([2.0], [2.0])
    """
    check.non_negative(learning_rate=learning_rate)
    learning_rate = _warmed_up(learning_rate, warmup_steps, form)
    base = chain(identity(), _place_of_learning_rate(learning_rate))
    if weight_decay is not None:
        base = chain(add_decayed_weights(weight_decay), base)
    options = {"averaging_constant": averaging_constant, "form": form}
    return around(base, learning_rate, b1, weight_lr_power, state_dtype, scales_updates=True, **options)


@storable
def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    warmup_steps: Any = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    averaging_constant: Any = None,
    form: str = "optax",
) -> Transform:
    """Schedule-Free AdamW (arXiv 2405.15682): best learning rates are 1 to 10 times AdamW's, with a warm-up.

    The recurrence heads this module.

    Args:
      learning_rate, warmup_steps, b1, weight_lr_power, state_dtype, averaging_constant, form: as for
        `schedule_free_sgd`.
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to the root.
      weight_decay: the factor of y.

    Raises:
      ValueError: as `schedule_free`; a ``b2`` outside of [0, 1), a negative number.

    >>> tx = schedule_free_adamw(0.1)
    >>> y = jnp.array([4.0, -0.3])
    >>> updates, _ = tx.update(y, tx.init(y), y)
    >>> [round(float(u), 4) for u in updates]
    [-0.1, 0.1]
    """
    check.non_negative(learning_rate=learning_rate)
    learning_rate = _warmed_up(learning_rate, warmup_steps, form)
    decay = add_decayed_weights(weight_decay)
    base = chain(_direction_of_adam(b2, eps), decay, _place_of_learning_rate(learning_rate))
    options = {"averaging_constant": averaging_constant, "form": form}
    return around(base, learning_rate, b1, weight_lr_power, state_dtype, scales_updates=True, **options)


def _schedule_free_radam_init(params, *, state_dtype):
    return schedule_free_state(params, _nu_init(params), state_dtype)


def _radam_rule(g, nu, z, y, *, count, rate, b2, eps, weight_decay, adaptive, pull, push):
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    scaled = over_root(g, nu / debias(b2, count), eps=eps, eps_in_sqrt=False)
    u = -rate * (jnp.where(adaptive, scaled, g) + weight_decay * y)
    step, z = interpolation_rule(u, z, y, pull=pull, push=push)
    return step, nu, z


def _schedule_free_radam_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    weight_decay,
    weight_lr_power,
    unrectified,
    **extra,
):
    del extra
    params = check.required_params("schedule_free_radam", params)
    numbers = (learning_rate, b1, b2, eps, weight_decay, weight_lr_power)
    rate, b1, b2, eps, weight_decay, weight_lr_power = value_at(numbers, state.step_count - 1)
    dtype = state.weight_sum.dtype
    warmth, adaptive = _warmth(state.step_count.astype(dtype), jnp.asarray(b2, dtype), unrectified)
    rate = jax.tree.map(lambda rate: warmth * rate, rate)
    c, new = averaged_state(state, rate, b1, weight_lr_power)
    nu = state.base_optimizer_state.nu
    updates, nu, z = leafwise(
        _radam_rule,
        grads,
        [nu, state.z],
        params,
        count=state.step_count,
        rate=rate,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        adaptive=adaptive,
        **interpolation_factors(c, b1, state.b1),
    )
    return updates, new._replace(base_optimizer_state=ScaleByRmsWithCountState(state.step_count, nu), z=z)


def _warmth(count: jax.Array, b2: jax.Array, unrectified: str) -> tuple[jax.Array, jax.Array]:
    """``r``, or what stands in for it before step 5, and whether ``r`` holds."""
    rho = effective_length(count, b2)
    adaptive = rho > 4
    early = 1.0 if unrectified == "gradient" else 0.0
    return jnp.where(adaptive, rectification(rho, 2 / (1 - b2) - 1, adaptive), early), adaptive


@storable
def schedule_free_radam(
    learning_rate: Any = 0.0025,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    unrectified: str = "skip",
) -> Transform:
    """Schedule-Free RAdam: the warm-up that Schedule-Free AdamW needs, by RAdam's formula instead of by hand.

    The recurrence heads this module.  The rectification multiplies the learning rate, hence the weights of the average
    too.

    Args:
      learning_rate, b1, b2, eps, weight_decay, weight_lr_power, state_dtype: as for `schedule_free_adamw`.
      unrectified: (static) ``'skip'`` does not move before ``rho`` exceeds 4, in the first four steps (the authors'
        default); ``'gradient'`` steps by the plain gradient there.

    Raises:
      ValueError: as `schedule_free_adamw`; an unknown ``unrectified``.

    >>> tx = schedule_free_radam(0.1, b1=0.5)
    >>> y, moved = jnp.zeros(1), []
    >>> state = tx.init(y)
    >>> for _ in range(6):
    ...     updates, state = tx.update(jnp.ones(1), state, y)
    ...     moved.append(round(float(updates[0]), 5))
    >>> moved
    [0.0, 0.0, 0.0, 0.0, -0.00173, -0.00338]
    """
    check.non_negative(learning_rate=learning_rate, eps=eps, weight_decay=weight_decay, weight_lr_power=weight_lr_power)
    check.decay_rate(b1=b1, b2=b2)
    check.one_of("unrectified", unrectified, UNRECTIFIED)
    return transform(
        _schedule_free_radam_init,
        _schedule_free_radam_update,
        at_init={"state_dtype": static(state_dtype)},
        evaluate_schedules=False,
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        weight_lr_power=weight_lr_power,
        unrectified=static(unrectified),
    )
