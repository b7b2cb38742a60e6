"""Hyperparameters in the state, where code written for Optax's ``inject_hyperparams`` looks for them.

A gradlab optimizer does not need this: its hyperparameters are leaves already (`gradlab.replace` changes them,
`gradlab.current_hyperparams` shows them with the schedules evaluated).
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gradlab.core import check
from gradlab.core.rule import Rule, static
from gradlab.core.schedule import as_leaf
from gradlab.core.transform import Transform, from_optax, is_schedule, is_transform, transform

Tree = Any


def inject_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: Any = None,
) -> Callable[..., Transform]:
    """A factory like ``inner_factory`` whose optimizers keep their hyperparameters in ``state.hyperparams``.

    Overwrite one there, ``state.hyperparams['learning_rate'] = 0.1``, and the next update uses it.  Scheduled ones are
    shown there as they were used last; overwriting these has no effect.  Steps are those of the plain optimizer: the
    values stay float32 (float64 under x64) whatever the dtype of the parameters.

    An argument is a hyperparameter if the factory builds an optimizer with a traced number in its place, so
    functions that are no schedule (masks) are told apart without ``static_args``.  A factory that makes no
    gradlab optimizer is left to Optax's function, whose rules then hold.

    Args:
      inner_factory: ``gradlab.adamw``, say, or a function of numbers that returns a chain.
      static_args: names of arguments that are no hyperparameters in any case.
      hyperparam_dtype: in which the values are stored.

    Returns:
      A factory with the signature of ``inner_factory``, which also takes schedules, those with a state included
      (``optax.schedules.StatefulSchedule``).

    Raises:
      ValueError: ``static_args`` names no argument of the factory.

    >>> import gradlab
    >>> tx = inject_hyperparams(gradlab.sgd)(gradlab.linear_schedule(1.0, 0.0, 4), momentum=0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for momentum in (0.5, 0.0):
    ...     state.hyperparams['momentum'] = momentum
    ...     updates, state = tx.update(jnp.ones(1), state)
    ...     print(updates.tolist(), float(state.hyperparams['learning_rate']))
    [-1.0] 1.0
    [-0.75] 0.75
    """
    static_args = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    for name in sorted(static_args - set(signature.parameters)):
        hint = check.suggestion(name, signature.parameters)
        raise ValueError(f"static_args: the factory has no argument {name!r}{hint}")

    @functools.wraps(inner_factory)
    def make(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        tx = _with_own_state(inner_factory, bound.arguments, static_args, hyperparam_dtype)
        if tx is None:
            return from_optax(optax.inject_hyperparams(inner_factory, static_args, hyperparam_dtype)(*args, **kwargs))
        return tx

    return make


def inject_stateful_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: Any = None,
) -> Callable[..., Transform]:
    """Optax's former name of `inject_hyperparams`.

    >>> import gradlab
    >>> inject_stateful_hyperparams(gradlab.sgd)(0.5).init(jnp.zeros(1)).hyperparams['learning_rate'].tolist()
    0.5
    """
    return inject_hyperparams(inner_factory, static_args, hyperparam_dtype)


def _with_own_state(
    factory: Callable, arguments: dict[str, Any], static_args: set[str], hyperparam_dtype: Any
) -> Transform | None:
    """The transform that keeps its hyperparameters in the state; None if the factory makes no gradlab optimizer."""
    names = _hyperparameters(factory, arguments, static_args)
    structure = {name: value for name, value in arguments.items() if name not in names}
    stateful = {name: arguments[name] for name in names if _is_stateful(arguments[name])}
    values = {name: as_leaf(name, arguments[name]) for name in names if name not in stateful}
    if not _is_own(_build(factory, structure, {**_evaluate(values, 0), **dict.fromkeys(stateful, 0.0)})):
        return None
    schedules = {name: value for name, value in values.items() if _has_schedule(value)}
    numbers = {name: value for name, value in values.items() if name not in schedules}
    shared = {
        "factory": static({"factory": factory, "structure": structure}),
        "stateful": static(stateful),
        "hyperparam_dtype": static(hyperparam_dtype),
        "schedules": schedules,
    }
    return transform(
        _inject_hyperparams_init,
        _inject_hyperparams_update,
        at_init={**shared, **numbers},
        evaluate_schedules=False,
        **shared,
    )


def _hyperparameters(factory: Callable, arguments: dict[str, Any], static_args: set[str]) -> list[str]:
    """The arguments in whose place the factory takes traced numbers."""
    candidates = {name: value for name, value in arguments.items() if name not in static_args}
    numeric = {name: _in_place_of(name, value) for name, value in candidates.items()}
    numeric = {name: value for name, value in numeric.items() if value is not None}
    if _takes(factory, arguments, numeric):
        return list(numeric)
    accepted = {}
    for name, value in numeric.items():
        if _takes(factory, arguments, {**accepted, name: value}):
            accepted[name] = value
    return list(accepted)


def _in_place_of(name: str, value: Any) -> Any:
    """Numbers of the shape of those in a value, one for each schedule; None for what holds no numbers."""
    try:
        value = as_leaf(name, value)
    except TypeError:
        return None
    return jax.tree.map(lambda leaf: 0.0 if is_schedule(leaf) else leaf, value, is_leaf=is_schedule)


def _takes(factory: Callable, arguments: dict[str, Any], numbers: dict[str, Any]) -> bool:
    def build(numbers):
        _build(factory, arguments, numbers)

    try:
        jax.eval_shape(build, numbers)
    except Exception:  # whatever a factory does with what it did not expect
        return False
    return True


def _build(factory: Callable, structure: dict[str, Any], numbers: dict[str, Any]) -> optax.GradientTransformation:
    bound = inspect.BoundArguments(inspect.signature(factory), {**structure, **numbers})
    return factory(*bound.args, **bound.kwargs)


def _is_own(tx: Any) -> bool:
    return is_transform(tx) and isinstance(tx.update, Partial) and isinstance(tx.update.func, Rule)


def _is_stateful(value: Any) -> bool:
    return isinstance(value, optax.schedules.StatefulSchedule)


def _has_schedule(value: Any) -> bool:
    return any(map(is_schedule, jax.tree.leaves(value, is_leaf=is_schedule)))


def _evaluate(values: Tree, count: Any) -> Tree:
    return jax.tree.map(lambda leaf: leaf(count) if is_schedule(leaf) else leaf, values, is_leaf=is_schedule)


def _with_states(schedules: dict[str, Any], stateful: dict[str, Any]) -> dict[str, Any]:
    """All schedules by Optax's protocol; those of the step alone count for themselves."""
    counting = {
        name: optax.schedules.WrappedSchedule(functools.partial(_evaluate, value)) for name, value in schedules.items()
    }
    return {**counting, **stateful}


def _stored(values: Tree, dtype: Any) -> Tree:
    """Copies, so that donating the state leaves the optimizer its values."""

    def store(leaf):
        leaf = jnp.array(leaf)
        is_number = jnp.issubdtype(leaf.dtype, jnp.floating) or jnp.issubdtype(leaf.dtype, jnp.signedinteger)
        return leaf.astype(float if dtype is None else dtype) if is_number else leaf

    return jax.tree.map(store, values)


def _inject_hyperparams_init(params, *, factory, stateful, hyperparam_dtype, schedules, **numbers):
    schedules = _with_states(schedules, stateful)
    states = {name: schedule.init() for name, schedule in schedules.items()}
    scheduled = {name: schedule(states[name]) for name, schedule in schedules.items()}
    values = _stored({**numbers, **scheduled}, hyperparam_dtype)
    return optax.InjectStatefulHyperparamsState(
        count=jnp.zeros([], jnp.int32),
        hyperparams=values,
        hyperparams_states=states,
        inner_state=_build(**factory, numbers=values).init(params),
    )


def _inject_hyperparams_update(grads, state, params=None, *, factory, stateful, hyperparam_dtype, schedules, **extra):
    schedules, states = _with_states(schedules, stateful), state.hyperparams_states
    scheduled = {name: schedule(states[name], **extra) for name, schedule in schedules.items()}
    values = _stored({**state.hyperparams, **scheduled}, hyperparam_dtype)
    updates, inner_state = _build(**factory, numbers=values).update(grads, state.inner_state, params, **extra)
    return updates, optax.InjectStatefulHyperparamsState(
        count=optax.safe_increment(state.count),
        hyperparams=values,
        hyperparams_states={name: schedule.update(states[name], **extra) for name, schedule in schedules.items()},
        inner_state=inner_state,
    )
