"""From the parts of a config to an optimizer, with the values of a trial put in their places."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradlab.config.parts import OPTIMIZER, SCHEDULE, TRANSFORM, WRAPPER, Kind, arguments_of, make_part
from gradlab.core.compose import chain
from gradlab.core.transform import Transform

Part = Mapping[str, Any]
STAGES = {"before": TRANSFORM, "after": TRANSFORM, "around": WRAPPER}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A factory of optimizers whose arguments are places of a config: what a sweep calls with a trial.

    >>> recipe = Recipe({'name': 'sgd', 'learning_rate': 0.1}, before=[{'name': 'clip', 'max_delta': 1.0}])
    >>> import gradlab
    >>> gradlab.hyperparams(recipe(**{'optimizer.learning_rate': 0.5, 'before.clip.max_delta': 2.0}))
    {'max_delta': 2.0, 'learning_rate': 0.5}
    """

    optimizer: Part
    before: Sequence[Part] = ()
    after: Sequence[Part] = ()
    around: Sequence[Part] = ()  # all of these, the outermost last

    def __call__(self, **values: Any) -> Transform:
        stages = {where: list(getattr(self, where)) for where in STAGES}
        node: Any = {"optimizer": self.optimizer, **stages}
        for name, value in values.items():
            node = _with_value(node, name.split("."), value)
        before, after = ([make_part(TRANSFORM, part) for part in node[where]] for where in ("before", "after"))
        stages = [*before, make_part(OPTIMIZER, node["optimizer"]), *after]
        tx = stages[0] if len(stages) == 1 else chain(*stages)
        for part in node["around"]:
            tx = make_part(WRAPPER, part)(tx)
        return tx

    def names(self) -> list[str]:
        """The places that a space may give values to.

        >>> Recipe({'name': 'sign_sgd', 'learning_rate': 1.0}).names()
        ['optimizer.name', 'optimizer.learning_rate', 'optimizer.storage']
        """
        names = list(_names("optimizer", OPTIMIZER, self.optimizer))
        for where, kind in STAGES.items():
            stages = getattr(self, where)
            for label, part in zip(stage_labels(stages), stages, strict=True):
                names += _names(f"{where}.{label}", kind, part)
        return names

    def parts(self) -> dict[str, tuple[Kind, Part]]:
        """The parts by the names of their places, schedules included.

        >>> rate = {'schedule': 'inverse_time_schedule', 'init_value': 1.0, 'rate': 0.5}
        >>> list(Recipe({'name': 'sgd', 'learning_rate': rate}, after=[{'name': 'ema', 'decay': 0.9}]).parts())
        ['optimizer', 'optimizer.learning_rate', 'after.ema']
        """
        parts = dict(_parts("optimizer", OPTIMIZER, self.optimizer))
        for where, kind in STAGES.items():
            stages = getattr(self, where)
            for label, part in zip(stage_labels(stages), stages, strict=True):
                parts |= _parts(f"{where}.{label}", kind, part)
        return parts

    def name_of(self, path: str) -> str:
        """The name of a place; stages are counted from zero or called by their name.

        >>> Recipe({'name': 'sgd'}, before=[{'name': 'clip', 'max_delta': 1.0}]).name_of('before.0.max_delta')
        'before.clip.max_delta'
        """
        where, _, rest = path.partition(".")
        index, _, place = rest.partition(".")
        stages = getattr(self, where) if where in STAGES else ()
        known = index.isdecimal() and int(index) < len(stages)
        return f"{where}.{stage_labels(stages)[int(index)]}.{place}" if known else path


def stage_labels(stages: Sequence[Part]) -> list[str]:
    """The names of stages, numbered from the second of a name on.

    >>> stage_labels([{'name': 'clip'}, {'name': 'ema'}, {'name': 'clip'}])
    ['clip', 'ema', 'clip_2']
    """
    names = [part["name"] for part in stages]
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


def _names(prefix: str, kind: Kind, part: Part) -> Iterator[str]:
    yield f"{prefix}.{kind.tag}"
    for argument in arguments_of(kind.registry[part[kind.tag]]):
        value = part.get(argument)
        if isinstance(value, Mapping) and SCHEDULE.tag in value:
            yield from _names(f"{prefix}.{argument}", SCHEDULE, value)
        elif isinstance(value, Mapping):
            yield from (f"{prefix}.{argument}.{key}" for key in value)
        yield f"{prefix}.{argument}"


def _parts(prefix: str, kind: Kind, part: Part) -> Iterator[tuple[str, tuple[Kind, Part]]]:
    yield prefix, (kind, part)
    for argument, value in part.items():
        if isinstance(value, Mapping) and SCHEDULE.tag in value:
            yield from _parts(f"{prefix}.{argument}", SCHEDULE, value)


def _with_value(node: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of plain data in which another value stands at the end of the path."""
    if not path:
        return value
    head, *rest = path
    if isinstance(node, list):
        index = stage_labels(node).index(head)
        return [*node[:index], _with_value(node[index], rest, value), *node[index + 1 :]]
    return {**node, head: _with_value(node.get(head), rest, value)}
