"""What a transform is: a pair ``(init, update)`` of values whose hyperparameters are leaves.

`transform` binds hyperparameters to two module-level functions and returns an
``optax.GradientTransformationExtraArgs``.  Both members are `jax.tree_util.Partial`, so the pair is a
pytree: numbers are leaves, structure (what is wrapped in `static`) belongs to the tree definition.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gradlab.core.rule import InitRule, Rule, Static
from gradlab.core.schedule import Schedule, as_leaf, evaluate

Transform = optax.GradientTransformationExtraArgs


class ScheduledState(NamedTuple):
    """State of a transform some of whose hyperparameters are schedules."""

    count: jax.Array  # () int32, calls so far
    inner_state: Any  # the state of the same transform with constant hyperparameters


def transform(
    init: Callable,
    update: Callable,
    *,
    inner: Any = None,
    at_init: Mapping[str, Any] | None = None,
    evaluate_schedules: bool = True,
    **hyperparams: Any,
) -> Transform:
    """Makes an optimizer value of two module-level functions and their hyperparameters.

    Numbers and arrays become leaves (integers become floats, so that every value has one trace); a schedule
    is evaluated at each step and its value handed to ``update``; anything else must be `static`.

    Args:
      init: ``(params, **at_init) -> state``; it maps over the parameters and reads their shapes and dtypes.
      update: ``(grads, state, params=None, *, <hyperparams>, **extra) -> (updates, state)``.  Its name
        without ``_update`` names the stage in `describe` and `hyperparams`.
      inner: a tree of transforms that this one wraps; ``init`` receives the tree of their inits as the keyword
        ``inner`` and ``update`` that of their updates.
      at_init: hyperparameters that only ``init`` needs: a starting value, a storage dtype.
      evaluate_schedules: if false, ``update`` receives schedules as they are and keeps its own count.
      **hyperparams: bound to ``update`` by keyword.

    Raises:
      TypeError: a hyperparameter is neither a number, an array, a schedule, ``None`` nor `static`; a schedule for a
        number that only ``init`` needs.

    >>> def _shrink_update(grads, state, params=None, *, factor, **extra):
    ...     return jax.tree.map(lambda g: factor * g, grads), state
    >>> tx = transform(lambda params: optax.EmptyState(), _shrink_update, factor=0.5)
    >>> updates, _ = tx.update({'w': jnp.ones(2)}, tx.init({'w': jnp.ones(2)}))
    >>> updates['w'].tolist(), jax.tree.leaves(tx)
    ([0.5, 0.5], [0.5])
    """
    at_init, at_init_structure = _bind(at_init or {})
    hyperparams, structure = _bind(hyperparams)
    if evaluate_schedules:
        for name in at_init:
            _refuse_schedule_at_start(name, at_init[name])
    schedules = {name: value for name, value in hyperparams.items() if evaluate_schedules and _is_scheduled(value)}
    hyperparams = {name: value for name, value in hyperparams.items() if name not in schedules}
    if inner is not None:
        wrapped = jax.tree.map(from_optax, inner, is_leaf=is_transform)
        at_init["inner"] = jax.tree.map(lambda tx: tx.init, wrapped, is_leaf=is_transform)
        hyperparams["inner"] = jax.tree.map(lambda tx: tx.update, wrapped, is_leaf=is_transform)
    bound_init = Partial(InitRule(init, at_init_structure), **at_init)
    bound_update = Partial(Rule(update, structure), **hyperparams)
    if schedules:
        bound_init = Partial(InitRule(scheduled_init), init=bound_init)
        bound_update = Partial(Rule(scheduled_update), update=bound_update, schedules=schedules)
    return Transform(bound_init, bound_update)


def is_transform(value: Any) -> bool:
    return isinstance(value, optax.GradientTransformation)


def is_schedule(value: Any) -> bool:
    return isinstance(value, Schedule)


def from_optax(tx: optax.GradientTransformation) -> Transform:
    """Any Optax transform as a value: its closures become leafless structure, compared by identity.

    Its hyperparameters stay constants of the compiled program; gradlab's own transforms pass unchanged.  Of an
    ``optax.MultiSteps`` it is the ``gradient_transformation()``.

    Raises:
      TypeError: ``tx`` is not an ``optax.GradientTransformation``.

    >>> adopted = from_optax(optax.scale(-1.0))
    >>> jax.tree.leaves(adopted), isinstance(adopted, optax.GradientTransformationExtraArgs)
    ([], True)
    """
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    if not is_transform(tx):
        raise TypeError(
            f"expected a gradient transformation (a pair with init and update), got {type(tx).__name__}: {tx!r}; "
            "call the factory first, as in chain(clip(1.0), adam(1e-3))"
        )
    tx = optax.with_extra_args_support(tx)
    init = tx.init if isinstance(tx.init, Partial) else Partial(tx.init)
    return Transform(init, tx.update if isinstance(tx.update, Partial) else Partial(_Foreign(tx.update)))


@dataclasses.dataclass(frozen=True)
class _Foreign:
    """The update of an adopted transform; it is spared gradlab's own ``step``, which Optax's line searches refuse."""

    foreign: Callable

    def __call__(self, grads, state, params=None, *, step=None, **extra):
        del step
        return self.foreign(grads, state, params, **extra)


def _bind(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[tuple[str, Static], ...]]:
    structure = tuple((name, value) for name, value in values.items() if isinstance(value, Static))
    leaves = {name: as_leaf(name, value) for name, value in values.items() if not isinstance(value, Static)}
    return leaves, structure


def _refuse_schedule_at_start(name: str, value: Any) -> None:
    if _is_scheduled(value):
        raise TypeError(
            f"`{name}` is where a state starts, and no step reads it: it cannot be a schedule; give a number, such as "
            "schedule(0)"
        )


def _is_scheduled(value: Any) -> bool:
    return any(map(is_schedule, jax.tree.leaves(value, is_leaf=is_schedule)))


def scheduled_init(params, *, init):
    return ScheduledState(count=jnp.zeros([], jnp.int32), inner_state=init(params))


def scheduled_update(grads, state, params=None, *, update, schedules, **extra):
    updates, inner_state = update(grads, state.inner_state, params, **evaluate(schedules, state.count), **extra)
    return updates, ScheduledState(optax.safe_increment(state.count), inner_state)
