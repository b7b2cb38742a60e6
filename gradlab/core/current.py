"""Looking into an optimizer and its state together: the values in force, and how often each stage was called.

Where the state of a stage lies within that of the transforms around it is found by running their inits with
placeholders in the place of the inner states, so any wrapper takes part.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gradlab.core.rule import Rule
from gradlab.core.schedule import Schedule
from gradlab.core.transform import ScheduledState, is_schedule
from gradlab.core.tree import path_name
from gradlab.core.values import Leaf, numbers_of, opened, shortest_names, stage_names

COUNTERS = {"count": 0, "gradient_step": 0, "step": 0, "t": 0, "step_count": 1}
"""Fields at which a state counts for its stage's schedules, and the number with which they begin."""


def current_hyperparams(tx: optax.GradientTransformation, state: Any) -> dict[str, Any]:
    """Every hyperparameter by name as the next update will use it: schedules evaluated, wherever they are nested.

    Names are those of `gradlab.hyperparams`, except that a schedule is one value, ``'learning_rate'``, and no list of
    numbers.  Values that ``inject_hyperparams`` keeps in the state are read there, Optax's included.  It may be
    traced: a compiled training step can return the learning rate that it used.

    Raises:
      ValueError: the state is not one of this optimizer.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.clip(1.0), gradlab.sgd(gradlab.linear_schedule(1.0, 0.0, 4)))
    >>> _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    >>> {name: float(value) for name, value in current_hyperparams(tx, state).items()}
    {'max_delta': 1.0, 'learning_rate': 0.75}
    """
    leaves = [leaf for stage in stages(tx, state) for leaf in _values_of(stage)]
    return {name: leaf.value for name, leaf in zip(shortest_names(leaves), leaves, strict=True)}


def counts(tx: optax.GradientTransformation, state: Any) -> dict[str, jax.Array]:
    """Every counter of the state by ``'<stage>.<field>'``: how often each stage was called.

    Names do not depend on which other stages count; stages of one name are numbered.

    Raises:
      ValueError: the state is not one of this optimizer.

    >>> import gradlab
    >>> tx = gradlab.adam(gradlab.linear_schedule(1.0, 0.0, 4))
    >>> _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    >>> {name: int(count) for name, count in counts(tx, state).items()}
    {'scale_by_adam.count': 1, 'scale_by_learning_rate_schedule.count': 1}
    """
    leaves = [leaf for stage in stages(tx, state) for leaf in _counters_of(stage)]
    return {f"{name}.{leaf.name}": leaf.value for name, leaf in zip(stage_names(leaves), leaves, strict=True)}


class Stage(NamedTuple):
    """One stage with its part of the state."""

    where: tuple[str, ...]  # keys that lead to it through the wrappers around it
    name: str
    values: dict[str, Any]  # hyperparameters by the names of its own rule; schedules as they are
    structure: dict[str, Any]
    shown_as: dict[str, str]
    state: Any

    @property
    def current(self) -> dict[str, Any]:
        """The values as the next update will use them."""
        return {name: _evaluate(value, self.state) for name, value in self.values.items()}


def stages(tx: optax.GradientTransformation, state: Any) -> Iterator[Stage]:
    """Every stage of an optimizer with its part of the state, wrappers before what they wrap.

    Raises:
      ValueError: the state is not one of this optimizer.

    >>> import gradlab
    >>> tx = gradlab.sgd(0.1, momentum=0.9)
    >>> [stage.name for stage in stages(tx, tx.init(jnp.ones(2)))]
    ['chain', 'trace', 'scale_by_learning_rate']
    """
    return _stages(tx.init, tx.update, state, ())


def _stages(init: Partial, update: Partial, state: Any, where: tuple[str, ...]) -> Iterator[Stage]:
    starting, stage = opened(init), opened(update)
    if not isinstance(stage.rule, Rule):
        yield Stage(where, "adopted", {}, {}, {}, state)
        return
    values = {**starting.values, **stage.values}
    inner = values.pop("inner", None)
    structure = {name: item.value for name, item in stage.rule.structure}
    yield Stage(where, stage.rule.name, values, structure, dict(stage.rule.shown_as), state)
    if inner is None:
        return
    own_state = state.inner_state if isinstance(state, ScheduledState) else state
    is_stage = lambda x: isinstance(x, Partial)
    inits = jax.tree.leaves(starting.values["inner"], is_leaf=is_stage)
    updates = jax.tree_util.tree_leaves_with_path(inner, is_leaf=is_stage)
    places = _places(starting.rule, starting.values)
    for index, (inner_init, (path, inner_update)) in enumerate(zip(inits, updates, strict=True)):
        inner_state = _follow(own_state, places[index], stage.rule.name)
        yield from _stages(inner_init, inner_update, inner_state, (*where, path_name(path)))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Place:
    """Stands for the state of the inner transform with an index; called, it is that transform's init."""

    index: int

    def __call__(self, params: Any) -> "_Place":
        return self


def _places(init: Rule, values: dict[str, Any]) -> dict[int, tuple]:
    """The path of each inner state in the state that an init makes."""
    stages, treedef = jax.tree.flatten(values["inner"], is_leaf=lambda x: isinstance(x, Partial))
    markers = jax.tree.unflatten(treedef, [_Place(index) for index in range(len(stages))])
    is_place = lambda x: isinstance(x, _Place)
    outline = init.inline((), **{**values, "inner": markers})
    found = jax.tree_util.tree_leaves_with_path(outline, is_leaf=is_place)
    return {place.index: path for path, place in found if is_place(place)}


def _follow(state: Any, path: tuple, stage: str) -> Any:
    for key in path:
        try:
            if isinstance(key, jax.tree_util.GetAttrKey):
                state = getattr(state, key.name)
            else:
                state = state[key.key if isinstance(key, jax.tree_util.DictKey) else key.idx]
        except (AttributeError, KeyError, IndexError, TypeError):
            raise ValueError(
                f"{stage} keeps an inner state at '{path_name(path)}', which a {type(state).__name__} does not have; "
                "was this state made by another optimizer?"
            ) from None
    return state


def _values_of(stage: Stage) -> Iterator[Leaf]:
    evaluated, schedules = stage.current, stage.values.get("schedules", {})
    evaluated.pop("schedules", None)
    if isinstance(stage.state, optax.InjectStatefulHyperparamsState):
        at = stage.state.hyperparams_states
        evaluated = {**stage.state.hyperparams, **{name: _evaluate(s, at[name]) for name, s in schedules.items()}}
    for name, value in evaluated.items():
        for dotted, number in numbers_of(value, (stage.shown_as.get(name, name),)):
            yield Leaf(stage.where, stage.name, ".".join(dotted), number)


def _evaluate(value: Any, state: Any) -> Any:
    """A hyperparameter with its schedules evaluated at the first counter that the state of its stage has."""

    def at_count(leaf):
        if not isinstance(leaf, Schedule):
            return leaf
        for field, first in COUNTERS.items():
            if field in getattr(state, "_fields", ()):
                return leaf(getattr(state, field) - first)
        return leaf

    return jax.tree.map(at_count, value, is_leaf=is_schedule)


def _counters_of(stage: Stage) -> Iterator[Leaf]:
    own_state = stage.state.inner_state if isinstance(stage.state, ScheduledState) else stage.state
    for state in (stage.state, own_state):
        for field in getattr(state, "_fields", ()):
            value = getattr(state, field)
            if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.signedinteger) and value.ndim == 0:
                yield Leaf(stage.where, stage.name, field, value)
