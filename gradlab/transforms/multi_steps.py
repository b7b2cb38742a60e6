r"""Gradient accumulation: one step of an optimizer for every k mini-steps.

With g the gradient of a mini-step and n = 0, 1, ..., k - 1 its number within the step::

    acc = g                          if n = 0
    acc = acc + (g - acc) / (n + 1)                            the mean so far; acc + g for the sum
    u, state = inner(acc, state)     if n = k - 1, else (0, state)

The inner update lies in a branch that the other mini-steps do not enter, nor do those of a sweep in which no lane
completes a step.  The accumulator is overwritten at n = 0 rather than cleared after its last use, so that one buffer
serves both.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.branch import update_if
from gradlab.core.leafwise import convert, leafwise
from gradlab.core.norms import global_norm
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import is_none, zeros_like

Tree = Any
MultiStepsState = optax.MultiStepsState


class MultiStepsTransform(Transform):
    """A `multi_steps` pair with the methods of ``optax.MultiSteps``; a pytree and a transform like any other."""

    __slots__ = ()

    @property
    def inner_opt(self) -> Transform:
        """The optimizer that takes the steps."""
        return Transform(self.init.keywords["inner"], self.update.keywords["inner"])

    def has_updated(self, state: optax.MultiStepsState) -> jax.Array:
        """Whether the last mini-step completed a step; see `has_updated`."""
        return has_updated(state)

    def gradient_transformation(self) -> Transform:
        """The pair itself: in Optax ``MultiSteps`` is no gradient transformation, here it is one."""
        return self


def multi_steps(
    opt: optax.GradientTransformation,
    every_k_schedule: Any,
    use_grad_mean: bool = True,
    should_skip_update_fn: Callable | None = None,
    accumulator_dtype: Any = jnp.float32,
) -> MultiStepsTransform:
    """One step of ``opt`` for every k mini-steps, along the mean (or sum) of their gradients; updates of zero between.

    ``opt`` receives that mean also as the extra argument ``grad``.  The other extra arguments reach it as the
    last mini-step of the step has them: ``value`` is the loss of that mini-step.  ``step``, which counts mini-steps, is
    kept from it.  In a sweep the lanes may have different k.

    Args:
      opt: the optimizer that takes the steps; its learning-rate schedules count steps, not mini-steps.
      every_k_schedule: mini-steps to a step; a number >= 1, or a schedule of the number of steps taken.
      use_grad_mean: (static) false adds the gradients of the mini-steps.
      should_skip_update_fn: (static) ``(updates, gradient_step, params) -> (skip, skip_state)`` with ``skip`` a ()
        bool: a mini-step that it rejects counts for nothing.  See `skip_not_finite` and `skip_large_updates`; the
        numbers that `functools.partial` gives to it are hyperparameters.  The state keeps ``skip_state``.
      accumulator_dtype: (static) in which the accumulator is stored (its complex counterpart for complex parameters);
        the parameter's own if None.

    Returns:
      A transform, which also has the methods of ``optax.MultiSteps``.

    Raises:
      ValueError: k below 1; on use, a ``skip`` that is no () bool.

    >>> import gradlab
    >>> tx = multi_steps(gradlab.sgd(0.5), every_k_schedule=2)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (1.0, 3.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    ...     print(updates.tolist(), bool(tx.has_updated(state)))
    [0.0] False
    [-1.0] True
    """
    check.in_range("every_k_schedule", every_k_schedule, 1.0)
    skip_fn, skip_values = _split_partial(should_skip_update_fn)
    skip_fn = static(skip_fn)
    pair = transform(
        _multi_steps_init,
        _multi_steps_update,
        inner=opt,
        at_init={"skip_fn": skip_fn, "accumulator_dtype": static(accumulator_dtype), "skip_values": skip_values},
        evaluate_schedules=False,
        every_k_schedule=every_k_schedule,
        use_grad_mean=static(use_grad_mean),
        skip_fn=skip_fn,
        skip_values=skip_values,
    )
    return MultiStepsTransform(*pair)


MultiSteps = multi_steps


def has_updated(state: optax.MultiStepsState) -> jax.Array:
    """Whether the last mini-step completed a step of `multi_steps`.

    >>> import gradlab
    >>> tx = multi_steps(gradlab.sgd(0.5), 1)
    >>> state = tx.init(jnp.zeros(1))
    >>> bool(has_updated(state)), bool(has_updated(tx.update(jnp.ones(1), state)[1]))
    (False, True)
    """
    return (state.mini_step == 0) & (state.gradient_step > 0)


def skip_not_finite(updates: Tree, gradient_step: Any, params: Tree | None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """For `multi_steps`: rejects mini-steps with an infinity or a NaN, and counts those entries.

    >>> skip, state = skip_not_finite({'w': jnp.array([1.0, jnp.nan])}, 0, None)
    >>> bool(skip), int(state['num_not_finite'])
    (True, 1)
    """
    del gradient_step, params
    counts = [jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)]
    num_not_finite = jnp.sum(jnp.array(counts, int))
    should_skip = num_not_finite > 0
    return should_skip, {"should_skip": should_skip, "num_not_finite": num_not_finite}


def skip_large_updates(
    updates: Tree, gradient_step: Any, params: Tree | None, max_squared_norm: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """For `multi_steps`: rejects mini-steps unless ``|updates|^2 < max_squared_norm``, so also those with a NaN.

    >>> skip, state = skip_large_updates({'w': jnp.array([3.0, 4.0])}, 0, None, max_squared_norm=24.0)
    >>> bool(skip), float(state['norm_squared'])
    (True, 25.0)
    """
    del gradient_step, params
    norm_squared = global_norm(updates) ** 2
    should_skip = ~(norm_squared < max_squared_norm)
    return should_skip, {"should_skip": should_skip, "norm_squared": norm_squared}


def _split_partial(function: Callable | None) -> tuple[Callable | None, dict[str, Any]]:
    """A function and the numbers that a `functools.partial` around it gives by keyword."""
    if isinstance(function, functools.partial) and not function.args:
        values = function.keywords
        if all(isinstance(value, int | float | jax.Array) and not isinstance(value, bool) for value in values.values()):
            return function.func, dict(values)
    return function, {}


def _skip(skip_fn, skip_values, grads, gradient_step, params):
    if skip_fn is None:
        return jnp.zeros([], bool), ()
    skip, skip_state = skip_fn(grads, gradient_step, params, **skip_values)
    skip = jnp.asarray(skip)
    if skip.dtype != bool or skip.shape != ():
        raise ValueError(
            f"should_skip_update_fn must return a () bool first, got {skip.dtype} of shape {skip.shape}; "
            "reduce over the leaves with jnp.any or jnp.all"
        )
    return skip, skip_state


def _multi_steps_init(params, *, inner, skip_fn, accumulator_dtype, skip_values):
    gradient_step = jnp.zeros([], jnp.int32)
    skip_state = () if skip_fn is None else _skip(skip_fn, skip_values, zeros_like(params), gradient_step, params)[1]
    return MultiStepsState(
        mini_step=jnp.zeros([], jnp.int32),
        gradient_step=gradient_step,
        inner_opt_state=inner(params),
        acc_grads=jax.tree.map(lambda p: jnp.full_like(p, 0, dtype=_stored_in(accumulator_dtype, p)), params),
        skip_state=skip_state,
    )


def _stored_in(accumulator_dtype, p):
    own = jnp.result_type(p)
    if accumulator_dtype is None:
        return own
    dtype = jax.dtypes.canonicalize_dtype(accumulator_dtype)
    return jnp.promote_types(dtype, jnp.complex64) if jnp.issubdtype(own, jnp.complexfloating) else dtype


def _mean_rule(g, acc, *, count, skip):
    mean = jnp.where(count == 0, g, acc + (g - acc) / (count + 1))
    mean = jnp.where(skip != 0, acc, mean)
    return mean, mean


def _sum_rule(g, acc, *, count, skip):
    total = jnp.where(count == 0, g, acc + g)
    total = jnp.where(skip != 0, acc, total)
    return total, total


def _as_gradient(g, exact, acc):
    """The accumulated gradient in the gradient's dtype: the accumulator itself wherever it holds that exactly."""
    if g is None:
        return None
    holds_it = jnp.promote_types(acc.dtype, exact.dtype) == acc.dtype
    return convert(acc if holds_it else exact, exact.dtype)


def _multi_steps_update(
    grads,
    state,
    params=None,
    *,
    inner,
    every_k_schedule,
    use_grad_mean,
    skip_fn,
    skip_values,
    grad=None,
    step=None,
    **extra,
):
    del grad, step
    scheduled = isinstance(every_k_schedule, Schedule)
    k = every_k_schedule(state.gradient_step) if scheduled else every_k_schedule
    skip, skip_state = _skip(skip_fn, skip_values, grads, state.gradient_step, params)
    rule = _mean_rule if use_grad_mean else _sum_rule
    exact, acc_grads = leafwise(rule, grads, [state.acc_grads], count=state.mini_step, skip=skip)
    completed = ~skip & (state.mini_step + 1 >= k)

    def take_step():
        acc = jax.tree.map(_as_gradient, grads, exact, acc_grads, is_leaf=is_none)
        return inner(acc, state.inner_opt_state, params, grad=acc, **extra)

    updates, inner_opt_state = update_if(completed, take_step, state.inner_opt_state)
    counted = jnp.where(skip, state.mini_step, state.mini_step + 1)
    return updates, MultiStepsState(
        mini_step=jnp.where(completed, 0, counted),
        gradient_step=jnp.where(completed, optax.safe_increment(state.gradient_step), state.gradient_step),
        inner_opt_state=inner_opt_state,
        acc_grads=acc_grads,
        skip_state=skip_state,
    )
