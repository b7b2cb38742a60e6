"""Looking into an optimizer value: its hyperparameters by name, new values for them, batches of them."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from gradlab.core import check
from gradlab.core.rule import Rule
from gradlab.core.schedule import Schedule
from gradlab.core.transform import Transform, scheduled_init, scheduled_update
from gradlab.core.tree import path_name


class Leaf(NamedTuple):
    """One number of an optimizer value, with what it takes to name it."""

    where: tuple[str, ...]  # keys that lead to the stage through the wrappers around it
    stage: str
    name: str  # dotted within the stage: 'learning_rate', 'learning_rate.peak_value'
    value: Any


def hyperparams(tx: optax.GradientTransformation) -> dict[str, Any]:
    """Every hyperparameter by name: ``'learning_rate'``, or ``'<stage>.<name>'`` where two stages share a name.

    The values inside of a schedule are named after it: ``'learning_rate.peak_value'``.

    >>> import gradlab
    >>> hyperparams(gradlab.sgd(0.1, momentum=0.9))
    {'momentum': 0.9, 'learning_rate': 0.1}
    """
    leaves = list(_leaves(tx))
    return {name: leaf.value for name, leaf in zip(shortest_names(leaves), leaves, strict=True)}


def replace(tx: Transform, **values: Any) -> Transform:
    """The same optimizer with new values: same tree structure, so nothing recompiles.

    Args:
      tx: an optimizer value.
      **values: names as `hyperparams` lists them; dotted names as ``**{'adam.b1': 0.8}``.

    Raises:
      ValueError: a name that the optimizer does not have, or that several of its stages share.

    >>> import gradlab
    >>> hyperparams(replace(gradlab.adam(1e-3), learning_rate=0.5))['learning_rate']
    0.5
    """
    known = shortest_names(list(_leaves(tx)))
    for name in values:
        if name not in known:
            raise ValueError(f"the optimizer has no hyperparameter {name!r}{_why_not(name, known)}")
    leaves, treedef = jax.tree.flatten(tx)
    new = [_like(values[name], leaf) if name in values else leaf for name, leaf in zip(known, leaves, strict=True)]
    return jax.tree.unflatten(treedef, new)


def _why_not(name: str, known: list[str]) -> str:
    longer = [other for other in known if other.endswith(f".{name}") or other.startswith(f"{name}.")]
    if longer:
        return f"; it is one of {', '.join(map(repr, longer))}: name it in full"
    return check.suggestion(name, known)


def _like(value: Any, leaf: Any) -> Any:
    if isinstance(leaf, float) and not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0:
        return float(value)
    return value


def describe(tx: optax.GradientTransformation) -> str:
    """One readable line a stage: its name, its values and its structure.

    >>> import gradlab
    >>> print(describe(gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.scale(-0.1))))
    clip_by_global_norm(max_norm=1.0)
    scale(step_size=-0.1)
    """
    return "\n".join(_lines(tx.init, tx.update, ""))


def _lines(init: Any, update: Any, indent: str) -> Iterator[str]:
    stage = opened(update)
    if not isinstance(stage.rule, Rule):
        name = f"{stage.rule.__module__}.{stage.rule.__qualname__}".split(".<locals>")[0]
        yield f"{indent}{name}  (adopted: its values are constants)"
        return
    at_init = {name: value for name, value in opened(init).values.items() if name != "inner"}
    structure = {name: item.value for name, item in stage.rule.structure}
    values = {name: value for name, value in stage.values.items() if name != "inner"}
    shown_as = dict(stage.rule.shown_as)
    pairs = [(shown_as.get(name, name), value) for name, value in {**at_init, **values, **structure}.items()]
    shown = [f"{name}={_show(value)}" for name, value in pairs if value is not None]
    if stage.rule.name != "chain":
        yield f"{indent}{stage.rule.name}({', '.join(shown)})"
        indent += "  "
    is_stage = lambda x: isinstance(x, Partial)
    inner = stage.values.get("inner")
    inits = jax.tree.leaves(opened(init).values.get("inner"), is_leaf=is_stage)
    updates, _ = jax.tree_util.tree_flatten_with_path(inner, is_leaf=is_stage)
    starts = [opened(inner_init).rule for inner_init in inits]
    for inner_init, (path, inner_update) in zip(inits, updates, strict=True):
        if opened(inner_update).rule in starts:
            continue  # it starts another of them anew, and is no stage
        if isinstance(inner, dict):
            yield f"{indent}{path_name(path)}:"
        yield from _lines(inner_init, inner_update, indent + "  " * isinstance(inner, dict))


class _Opened(NamedTuple):
    rule: Any
    values: dict[str, Any]


def opened(stage: Partial) -> _Opened:
    """A stage with its schedules put back where they belong."""
    function, values = getattr(stage.func, "function", None), dict(stage.keywords)
    if function is scheduled_init:
        return opened(values["init"])
    if function is scheduled_update:
        return _Opened(values["update"].func, {**values["update"].keywords, **values["schedules"]})
    return _Opened(getattr(stage.func, "foreign", stage.func), values)


def relabel(tx: Transform, **names: str) -> Transform:
    """The same single-stage transform whose hyperparameters go by other names in `hyperparams` and `replace`.

    For optimizers that are made of a stage of their own and call its numbers differently.

    >>> import gradlab
    >>> hyperparams(relabel(gradlab.trace(0.9), decay='momentum'))
    {'momentum': 0.9}
    """
    if getattr(tx.update.func, "function", None) is scheduled_update:
        inner = relabel(Transform(tx.init, tx.update.keywords["update"]), **names).update
        return Transform(tx.init, Partial(tx.update.func, **{**tx.update.keywords, "update": inner}))
    rule = dataclasses.replace(tx.update.func, shown_as=tuple(names.items()))
    return Transform(tx.init, Partial(rule, *tx.update.args, **tx.update.keywords))


def _show(value: Any) -> str:
    if isinstance(value, Schedule):
        rule = value.value_at.func
        inner = ", ".join(f"{name}={_show(item)}" for name, item in value.value_at.keywords.items())
        return f"{getattr(rule, 'name', getattr(rule, '__name__', 'schedule'))}({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, jax.core.Tracer):
        return f"<traced {value.aval.str_short()}>"
    if isinstance(value, jax.Array | np.ndarray) and value.ndim:
        return f"<{value.size} values {np.min(value):.4g} to {np.max(value):.4g}>"
    if isinstance(value, float | jax.Array | np.ndarray):
        return repr(float(f"{float(value):.6g}"))
    return getattr(value, "__name__", None) or repr(value)


def population(make: Callable[..., Transform], **values: Any) -> Transform:
    """A batch of optimizers in one value: every leaf has the lanes as its first axis.

    Args:
      make: a factory such as ``gradlab.adam``.
      **values: one-dimensional arrays of one length, or numbers that all lanes share.

    Raises:
      TypeError: a factory that is not gradlab's.
      ValueError: no array among the values, or arrays of different lengths.

    >>> import gradlab
    >>> lanes = population(gradlab.adam, learning_rate=jnp.logspace(-4, -1, 8), b1=0.9)
    >>> params = jnp.ones(3)
    >>> states = jax.vmap(lambda tx: tx.init(params))(lanes)
    >>> updates, states = jax.vmap(lambda tx, state: tx.update(params, state))(lanes, states)
    >>> updates.shape
    (8, 3)
    """
    lanes = {name: np.shape(value)[0] for name, value in values.items() if np.ndim(value) > 0}
    if len(set(lanes.values())) != 1:
        raise ValueError(
            "population needs at least one array, and all arrays of one length; "
            f"got lengths {lanes or 'none (only numbers)'}"
        )
    made = make(**values)  # the factory checks every value: inside of vmap it could not read them
    if not all(isinstance(part, Partial) for part in (getattr(made, "init", None), getattr(made, "update", None))):
        raise TypeError(
            f"population needs a factory of gradlab's, whose hyperparameters are leaves, got {make!r}: Optax's are "
            "constants of a program; use gradlab.adamw for optax.adamw"
        )
    shared = {name: value for name, value in values.items() if name not in lanes}
    swept = {name: _lanes_of(values[name]) for name in lanes}
    (count,) = set(lanes.values())
    return jax.vmap(lambda swept: make(**shared, **swept), axis_size=count)(swept)


def _lanes_of(values: Any) -> jax.Array:
    values = jnp.asarray(values)
    return values if jnp.issubdtype(values.dtype, jax.dtypes.prng_key) else values.astype(float)


def shortest_names(leaves: list[Leaf]) -> list[str]:
    """The shortest unambiguous name of each leaf; one that init and update of a stage share has one name."""
    distinct = {(leaf.where, leaf.stage, leaf.name) for leaf in leaves}
    short = Counter(name for _, _, name in distinct)
    staged = Counter((stage, name) for _, stage, name in distinct)
    stages = stage_names(leaves)
    names = []
    for leaf, stage in zip(leaves, stages, strict=True):
        if short[leaf.name] == 1:
            names.append(leaf.name)
        elif staged[leaf.stage, leaf.name] == 1:
            names.append(f"{leaf.stage}.{leaf.name}")
        else:
            names.append(f"{stage}.{leaf.name}")
    return names


def stage_names(leaves: list[Leaf]) -> list[str]:
    """The stage of each leaf, numbered where several stages have its name."""
    names = {leaf.stage for leaf in leaves}
    places = {name: sorted({leaf.where for leaf in leaves if leaf.stage == name}) for name in names}
    number = lambda leaf: f"_{places[leaf.stage].index(leaf.where) + 1}" if len(places[leaf.stage]) > 1 else ""
    return [leaf.stage + number(leaf) for leaf in leaves]


def _leaves(tx: optax.GradientTransformation) -> Iterator[Leaf]:
    """The leaves of a transform in the order of ``jax.tree.leaves(tx)``."""
    yield from _leaves_of_stage(tx.init, ())
    yield from _leaves_of_stage(tx.update, ())


def _leaves_of_stage(stage: Any, where: tuple[str, ...], owner: str | None = None) -> Iterator[Leaf]:
    rule = opened(stage).rule
    name = owner or (rule.name if isinstance(rule, Rule) else "adopted")
    shown_as = dict(getattr(rule, "shown_as", ()))
    for key in sorted(stage.keywords):
        value = stage.keywords[key]
        if key == "inner":
            children, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda x: isinstance(x, Partial))
            for path, child in children:
                yield from _leaves_of_stage(child, (*where, path_name(path)))
        elif isinstance(value, Partial):
            yield from _leaves_of_stage(value, where, name)
        else:
            parts = value.items() if key == "schedules" else [(key, value)]
            for part, item in sorted(parts):
                numbers = numbers_of(item, (shown_as.get(part, part),))
                yield from (Leaf(where, name, ".".join(dotted), leaf) for dotted, leaf in numbers)


def numbers_of(value: Any, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The numbers of a hyperparameter with their dotted names, schedules opened, in flattening order."""
    if isinstance(value, Schedule):
        value = value.value_at
    if isinstance(value, Partial):
        for index, item in enumerate(value.args):
            yield from numbers_of(item, (*prefix, str(index)))
        for key in sorted(value.keywords):
            yield from numbers_of(value.keywords[key], (*prefix, key))
        return
    children, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda x: x is not value)
    for path, child in children:
        if path:
            yield from numbers_of(child, (*prefix, path_name(path)))
        else:
            yield prefix, child
