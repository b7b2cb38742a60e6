"""What is wrong with the space of a config, all at once: names, dimensions, values, arguments that a factory lacks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from gradlab.config.errors import shown
from gradlab.config.parts import TASK, Kind, arguments_of, read_part
from gradlab.config.recipe import Part, Recipe
from gradlab.core.check import suggestion
from gradlab.sweeps.engine.setup import TASK as OF_TASK
from gradlab.sweeps.spaces.dimensions import Choice, Dimension, Fixed
from gradlab.sweeps.spaces.space import dimension_from
from gradlab.tasks.task import Task


def space_misfits(
    space: Mapping[str, Any], recipe: Recipe | None, task: Task | None, part: Part | None
) -> Iterator[tuple[str, str]]:
    """What is wrong, as pairs of a path of the space and a message.

    Args:
      space: path -> dimension, as the config has it.
      recipe: the optimizer and its stages; None if they are not sound, so that their names are not known.
      task: what the part of the config makes; None if it is not sound.
      part: that part.
    """
    name_of = recipe.name_of if recipe is not None else str
    known = recipe.names() if recipe is not None else []
    known += _names_of_task(task, part) if task is not None else []
    sections = recipe.parts() if recipe is not None else {}
    sections |= {OF_TASK.removesuffix("."): (TASK, part)} if task is not None else {}
    dimensions = {}
    for path, spec in space.items():
        sound = task if path.startswith(OF_TASK) else recipe
        if sound is not None and name_of(path) not in known:
            yield path, f"the config has no number of this name{suggestion(path, known)}"
        try:
            dimensions[name_of(path)] = dimension_from(spec)
        except (TypeError, ValueError) as error:
            yield path, str(error)
    for path, spec in space.items():
        section, _, argument = name_of(path).rpartition(".")
        if name_of(path) in known and name_of(path) in dimensions and section in sections:
            kind, own = sections[section]
            for message in _misread(kind, own, section, argument, dimensions, spec):
                yield path, message


def _names_of_task(task: Task, part: Part) -> list[str]:
    arguments = arguments_of(TASK.registry[part[TASK.tag]])
    return [f"{OF_TASK}{name}" for name in dict.fromkeys([*task.hyperparams(), *arguments])]


def _misread(
    kind: Kind, part: Part, section: str, argument: str, dimensions: Mapping[str, Dimension], spec: Any
) -> Iterator[str]:
    """What the factories of a part say of the values of one argument, or of the names that are to make it."""
    of_name = f"{section}.{kind.tag}"
    if argument == kind.tag:
        others = [name for name in part if name != kind.tag]
        yield from _misnamed(kind, _listed(dimensions[of_name]), others)
        return
    factories = _listed(dimensions[of_name]) if of_name in dimensions else [part[kind.tag]]
    for name in [name for name in factories if name in kind.registry]:
        if argument in arguments_of(kind.registry[name]):
            yield from _refused_values(kind, name, argument, dimensions[f"{section}.{argument}"], spec)
        elif of_name in dimensions:
            yield (
                f"{name} has no argument {argument!r}, and {of_name} lists it; leave out one of the two, or make a "
                f"sweep for each {kind.noun}"
            )


def _misnamed(kind: Kind, names: Iterable[Any], arguments: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name not in kind.registry:
            yield f"unknown {kind.noun} {name!r}{suggestion(name, kind.registry)}"
            continue
        for argument in arguments:
            if argument not in arguments_of(kind.registry[name]):
                yield (
                    f"{name} has no argument {argument!r}, which the {kind.noun} of the config has; leave it out "
                    f"there, or make a sweep for each {kind.noun}"
                )


def _refused_values(kind: Kind, name: str, argument: str, dimension: Dimension, spec: Any) -> Iterator[str]:
    """What the reader of fixed values says of listed ones; of a range, whether the argument is a number at all."""
    if not isinstance(dimension, Choice | Fixed):
        if _refused(kind, name, argument, 1):
            yield f"`{argument}` of {name} is no number, got {shown(spec)}; list its values"
        return
    for value in _listed(dimension):
        yield from _refused(kind, name, argument, value)


def _refused(kind: Kind, name: str, argument: str, value: Any) -> list[str]:
    try:
        read_part(kind, {kind.tag: name, argument: list(value) if isinstance(value, tuple) else value})
    except ValidationError as error:
        return [item["msg"] for item in error.errors(include_url=False) if item["loc"][0] == argument]
    return []


def _listed(dimension: Dimension) -> list[Any]:
    return dimension.grid() if isinstance(dimension, Choice | Fixed) else []
