"""The parts of a config that name a factory: tasks, optimizers, schedules, transforms, wrappers of an optimizer.

A part is ``{name: adamw, learning_rate: 1e-3}``; a schedule, ``{schedule: cosine_decay_schedule, ...}``, may stand
wherever a factory takes a number.  What a part may hold is read off the signature of its factory.
"""

import collections.abc
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_core import InitErrorDetails

from gradlab.config.errors import error_at, errors_together, shown, worded
from gradlab.config.scalars import Flag, Number, Text, Whole
from gradlab.core.check import one_of, suggestion
from gradlab.core.compose import identity
from gradlab.core.transform import Transform
from gradlab.optimizers import REGISTRY
from gradlab.optimizers.wrappers import WRAPPERS
from gradlab.schedules import SCHEDULES
from gradlab.tasks.catalogue import TASKS
from gradlab.transforms import TRANSFORMS


def around(wrapper: Callable) -> Callable:
    """A wrapper as a factory: its arguments without the optimizer give a function that wraps one.

    What they are refused for is said at once, of a stand-in for the optimizer.

    >>> import gradlab
    >>> wrap = around(gradlab.skip_spikes)(window=8)
    >>> gradlab.describe(wrap(gradlab.sgd(0.1))).partition('(')[0]
    'skip_spikes'
    """
    inner, *others = inspect.signature(wrapper).parameters.values()

    @functools.wraps(wrapper)
    def factory(*args: Any, **arguments: Any) -> Callable[[Transform], Transform]:
        wrapper(identity(), *args, **arguments)
        return lambda tx: wrapper(tx, *args, **arguments)

    factory.__signature__ = inspect.Signature(others)
    return factory


class Kind(NamedTuple):
    """A registry of factories, and how a config refers to it."""

    noun: str
    registry: Mapping[str, Callable]
    tag: str = "name"  # the key that names the factory


TASK = Kind("task", TASKS)
OPTIMIZER = Kind("optimizer", REGISTRY)
TRANSFORM = Kind("transform", TRANSFORMS)
WRAPPER = Kind("wrapper", {name: around(wrapper) for name, wrapper in WRAPPERS.items()})
SCHEDULE = Kind("schedule", SCHEDULES, tag="schedule")


def read_part(kind: Kind, value: Any) -> dict[str, Any]:
    """A part with its arguments checked against the signature of its factory; a bare name has no arguments.

    Raises:
      ValidationError: an unknown name, and everything that is wrong with the arguments.

    >>> read_part(OPTIMIZER, {'name': 'sgd', 'learning_rate': 1})
    {'name': 'sgd', 'learning_rate': 1}
    """
    part = {kind.tag: value} if isinstance(value, str) else value
    if not isinstance(part, Mapping):
        message = f"must be a mapping with a {kind.tag} and the arguments of the {kind.noun}, got {shown(value)}"
        raise errors_together([error_at([], message)])
    name = part.get(kind.tag)
    if not isinstance(name, str) or name not in kind.registry:
        what = f"unknown {kind.noun} {name!r}" if kind.tag in part else f"missing name of the {kind.noun}"
        raise errors_together([error_at([kind.tag], f"{what}{suggestion(name, kind.registry)}", name)])
    model = model_of(kind.registry[name])
    try:
        arguments = model.model_validate({key: item for key, item in part.items() if key != kind.tag})
    except ValidationError as error:
        raise worded(error, f"argument of {name}", arguments_of(kind.registry[name])) from None
    return {kind.tag: name, **arguments.model_dump(exclude_unset=True)}


def make_part(kind: Kind, part: Mapping[str, Any]) -> Any:
    """Calls the factory of a part, the schedules among its arguments made before.

    >>> schedule = make_part(SCHEDULE, {'schedule': 'inverse_time_schedule', 'init_value': 1.0, 'rate': 0.5})
    >>> float(schedule(2))
    0.5
    """
    one_of(kind.noun, part[kind.tag], kind.registry)
    arguments = {name: _made(value) for name, value in part.items() if name != kind.tag}
    return kind.registry[part[kind.tag]](**arguments)


def _made(value: Any) -> Any:
    if isinstance(value, Mapping):
        return (
            make_part(SCHEDULE, value) if SCHEDULE.tag in value else {key: _made(item) for key, item in value.items()}
        )
    return type(value)(map(_made, value)) if isinstance(value, list | tuple) else value


def checked_part(kind: Kind, value: Any) -> dict[str, Any]:
    """`read_part`, and what the factory itself says of the values."""
    part = read_part(kind, value)
    _, errors = try_part(kind, part)
    if errors:
        raise errors_together(errors)
    return part


def try_part(kind: Kind, part: Mapping[str, Any]) -> tuple[Any, list[InitErrorDetails]]:
    """What the factory of a part makes, if anything, and the errors of all values that it refuses.

    A factory raises at the first such value; a stand-in for that one lets it go on to the next.
    """
    errors: dict[tuple, InitErrorDetails] = {}
    tried = dict(part)
    while True:
        try:
            return make_part(kind, tried), list(errors.values())
        except (TypeError, ValueError) as error:
            found = located(error, part)
        again = found["loc"] in errors
        errors.setdefault(found["loc"], found)
        if again or not found["loc"]:
            return None, list(errors.values())
        (name,) = found["loc"]
        tried[name] = _stand_in(kind.registry[part[kind.tag]], name)


def _stand_in(factory: Callable, name: str) -> Any:
    default = inspect.signature(factory).parameters[name].default
    return 1.0 if default is inspect.Parameter.empty else default


def located(error: Exception, names: typing.Iterable[str]) -> InitErrorDetails:
    """The error of a factory at the argument that its message begins with, if it begins with one.

    >>> located(ValueError('`b1` must be in [0, 1), got 2'), ['b1'])['loc']
    ('b1',)
    """
    message = str(error).partition("\n")[0]
    found = re.match(r"`(\w+)` |unknown (\w+) |(\w+)=", message)
    name = next(filter(None, found.groups()), None) if found else None
    if name not in names:
        return error_at([], message)
    return error_at([name], message.removeprefix(f"`{name}` "))


def arguments_of(factory: Callable) -> list[str]:
    """The names of a factory's arguments."""
    return list(inspect.signature(factory).parameters)


@functools.cache
def model_of(factory: Callable) -> Any:
    """A pydantic model of a factory's arguments."""
    fields = {}
    for name, parameter in inspect.signature(factory, eval_str=True).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        field = _field(name, parameter.annotation)
        fields[name] = (field | None if parameter.default is None else field, ... if required else parameter.default)
    return create_model(factory.__name__, __config__=ConfigDict(extra="forbid"), **fields)


_SCALARS = {bool: Flag, int: Whole, float: Number, str: Text}


def _field(name: str, annotation: Any) -> Any:
    """What a config may give to an argument: masks, layouts, dtypes and the like are the factory's business."""
    if name.endswith(("mask", "axes", "coeffs", "dimension_numbers")) or "dtype" in name or name == "storage":
        return Any
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    members = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return tuple[tuple(_field(name, member) for member in members)]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        others = [member for member in members if member not in (type(None), collections.abc.Callable)]
        return _field(name, others[0]) if len(others) == 1 else Value
    if typing.get_origin(annotation) is collections.abc.Sequence and members[0] in _SCALARS:
        return list[_SCALARS[members[0]]]
    return Value


def _value(value: Any) -> Any:
    """A hyperparameter: a number, a schedule, or lists and mappings of these."""
    if isinstance(value, Mapping) and SCHEDULE.tag in value:
        return checked_part(SCHEDULE, value)
    if isinstance(value, Mapping):
        return _VALUES_BY_NAME.validate_python(dict(value))
    if isinstance(value, list):
        return _VALUES.validate_python(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise errors_together([error_at([], f"must be a number or a schedule, got {shown(value)}", value)])
    return value


Value = Annotated[Any, BeforeValidator(_value)]
_VALUES = TypeAdapter(list[Value])
_VALUES_BY_NAME = TypeAdapter(dict[str | int | float, Value])
