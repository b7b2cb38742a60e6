r"""Schedule-Free learning: an average of all iterates in place of a learning rate schedule (arXiv 2405.15682).

With g the gradient at y, step(g, y) the base optimizer's update, gamma its learning rate, count = 1, 2, ... and
x = y = z = p before the first step::

    z = z + step(g, y)
    max_lr = max(max_lr, gamma)
    weight_sum = weight_sum + max_lr^weight_lr_power
    c = max_lr^weight_lr_power / weight_sum                      1 / count while gamma is constant
    c = min(1, averaging_constant * (1 - b1) * c)                refined, arXiv 2507.09846: averaging_constant given
    x = (1 - c) * x + c * z                                      the weights to evaluate at
    y = b1 * x + (1 - b1) * z                                    the parameters of the caller

y and z are stored; see `gradlab.optimizers.primal_averaging` for the step of y and for x.  The base optimizer steps
with gamma at count - 1 and the weight takes it at ``count`` (Optax) or at ``count - 1`` too (the authors), which is the
same for a constant gamma.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.transform import Transform, is_schedule, transform
from gradlab.core.tree import copied, real_dtype
from gradlab.core.update import register_readout
from gradlab.optimizers.primal_averaging import averaged, interpolation_factors, interpolation_rule

Tree = Any

FORMS = ("optax", "authors")


def schedule_free_state(params: Tree, base_optimizer_state: Any, state_dtype: Any) -> ScheduleFreeState:
    """The state before the first step, whose ``b1`` each step sets: while y is z it has no meaning."""
    dtype = real_dtype(params)
    return ScheduleFreeState(
        b1=jnp.ones([], dtype),
        weight_sum=jnp.zeros([], dtype),
        step_count=jnp.ones([], jnp.int32),
        max_lr=jnp.zeros([], dtype),
        base_optimizer_state=base_optimizer_state,
        z=copied(params, state_dtype),
    )


def value_at(values: Any, count: jax.Array) -> Any:
    """The schedules of a tree at ``count``, and its numbers as they are."""
    return jax.tree.map(lambda v: v(count) if is_schedule(v) else v, values, is_leaf=is_schedule)


def averaging_weight(weight_sum: jax.Array, max_lr: jax.Array, power: Any, share: Any = 1.0):
    """``c`` and the new sum; 0 and not 0 / 0 while every learning rate was zero."""
    moved = max_lr > 0
    weight = share * jnp.where(moved, jnp.where(moved, max_lr, 1) ** power, jnp.where(power > 0, 0.0, 1.0))
    weight_sum = weight_sum + weight.astype(weight_sum.dtype)
    return safe_quotient(weight, weight_sum), weight_sum


def averaged_state(state: ScheduleFreeState, rate: Any, b1: Any, weight_lr_power: Any) -> tuple[Any, ScheduleFreeState]:
    """``c`` and the state's numbers after a step whose weight is that of ``rate``, the largest of a tree of rates."""
    dtype = state.weight_sum.dtype
    largest = functools.reduce(jnp.maximum, jax.tree.leaves(rate))
    max_lr = jnp.maximum(state.max_lr, jnp.asarray(largest, dtype))
    c, weight_sum = averaging_weight(state.weight_sum, max_lr, weight_lr_power)
    step_count = optax.safe_increment(state.step_count)
    numbers = {"b1": jnp.asarray(b1, dtype), "weight_sum": weight_sum, "max_lr": max_lr, "step_count": step_count}
    return c, state._replace(**numbers)


def _schedule_free_init(params, *, inner, state_dtype):
    return schedule_free_state(params, inner(params), state_dtype)


def _scaled_interpolation_rule(u, z, y, *, rate, pull, push):
    return interpolation_rule(-rate * u, z, y, pull=pull, push=push)


def _schedule_free_update(
    grads,
    state,
    params=None,
    *,
    inner,
    learning_rate,
    b1,
    weight_lr_power,
    averaging_constant,
    form,
    scales_updates,
    **extra,
):
    params = check.required_params("schedule_free", params)
    updates, base_state = inner(grads, state.base_optimizer_state, params, **extra)
    numbers = (learning_rate, b1, weight_lr_power, averaging_constant)
    rate, b1, weight_lr_power, averaging_constant = value_at(numbers, state.step_count - 1)
    weighed = rate if form == "authors" else value_at(learning_rate, state.step_count)
    c, new = averaged_state(state, weighed, b1, weight_lr_power)
    if averaging_constant is not None:
        c = jnp.minimum(1.0, averaging_constant * (1 - b1) * c)
    factors = interpolation_factors(c, b1, state.b1)
    if scales_updates:
        updates, z = leafwise(_scaled_interpolation_rule, updates, [state.z], params, rate=rate, **factors)
    else:
        updates, z = leafwise(interpolation_rule, updates, [state.z], params, **factors)
    return updates, new._replace(base_optimizer_state=base_state, z=z)


def schedule_free_eval_params(state: ScheduleFreeState, params: Tree) -> Tree:
    """The weights to evaluate at, x: Optax's function; `gradlab.eval_params` finds the state wherever it is nested.

    Raises:
      ValueError: ``state`` is not the state of `schedule_free` itself.

    >>> import gradlab
    >>> tx = gradlab.schedule_free_sgd(1.0, b1=0.5)
    >>> y = jnp.array([1.0])
    >>> updates, state = tx.update(y, tx.init(y), y)
    >>> schedule_free_eval_params(state, y + updates).tolist()
    [0.0]
    """
    if not isinstance(state, ScheduleFreeState):
        raise ValueError(
            f"schedule_free_eval_params needs the state of schedule_free, got {type(state).__name__}; "
            "gradlab.eval_params(tx, state, params) finds it inside of chains and wrappers"
        )
    return averaged(state.z, params, state.b1)


register_readout(ScheduleFreeState, schedule_free_eval_params)


def schedule_free(
    base_optimizer: optax.GradientTransformation,
    learning_rate: Any,
    b1: Any = 0.9,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    averaging_constant: Any = None,
    form: str = "optax",
) -> Transform:
    """Schedule-Free learning (Defazio et al., arXiv 2405.15682) around any optimizer: no horizon to know beforehand.

    The recurrence heads this module.  Give the optimizer no momentum of its own, a constant learning rate, and where it
    needs one a warm-up.  The parameters that the caller holds are y; evaluate and save ``gradlab.eval_params(tx, state,
    params)``, which is x, and let batch statistics be those at x.

    Args:
      base_optimizer: the whole optimizer, learning rate included; it sees the gradient and the parameters at y.
      learning_rate: the base optimizer's own, for the weights of the average: a number, a schedule, or a tree of these
        of which the largest counts.
      b1: the weight of the average in y, in [0, 1); a number or a schedule.  0 is the base optimizer itself, of whose
        iterates no average can be read then.
      weight_lr_power: exponent of the learning rate in the weights; 0 weighs all iterates alike.
      state_dtype: (static) dtype in which z is stored; the parameter's if None.
      averaging_constant: the constant C of the refined form (arXiv 2507.09846), which frees the length of the average,
        about ``count / (C * (1 - b1))``, from b1; None is C = 1 / (1 - b1), the plain form.
      form: (static) ``'optax'`` weighs by the learning rate of the next step; ``'authors'`` by that of the step just
        made.  Both are the same once the learning rate is constant.

    Raises:
      ValueError: a ``b1`` outside of [0, 1), a negative number, an unknown ``form``; ``update`` without ``params``.

    >>> import gradlab
    >>> tx = schedule_free(gradlab.sgd(0.5), learning_rate=0.5, b1=0.5)
    >>> y = jnp.array([4.0])
    >>> state = tx.init(y)
    >>> for _ in range(2):
    ...     updates, state = tx.update(y, state, y)
    ...     y = y + updates
    >>> y.tolist(), state.z.tolist(), gradlab.eval_params(tx, state, y).tolist()  # z = 4, 2, 1; x = 4, 2, 1.5
    ([1.25], [1.0], [1.5])
    """
    options = {"averaging_constant": averaging_constant, "form": form}
    return around(base_optimizer, learning_rate, b1, weight_lr_power, state_dtype, scales_updates=False, **options)


def around(
    base: optax.GradientTransformation,
    learning_rate: Any,
    b1: Any,
    weight_lr_power: Any,
    state_dtype: Any,
    *,
    scales_updates: bool,
    averaging_constant: Any = None,
    form: str = "optax",
) -> Transform:
    """`schedule_free`; if it ``scales_updates``, the base gives directions and the learning rate is one leaf."""
    check.decay_rate(b1=b1)
    check.non_negative(learning_rate=learning_rate, weight_lr_power=weight_lr_power)
    check.positive(averaging_constant=averaging_constant)
    check.one_of("form", form, FORMS)
    return transform(
        _schedule_free_init,
        _schedule_free_update,
        inner=base,
        at_init={"state_dtype": static(state_dtype)},
        evaluate_schedules=False,
        learning_rate=learning_rate,
        b1=b1,
        weight_lr_power=weight_lr_power,
        averaging_constant=averaging_constant,
        form=static(form),
        scales_updates=static(scales_updates),
    )
