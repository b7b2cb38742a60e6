"""The section ``monitor``: instruments that look at a run, or at every lane of a sweep, while it trains.

::

    monitor: light                                                      a preset: light, normal or full
    monitor: {instruments: [health, {name: stability, products: 16}], every: 10}
"""

import dataclasses
from typing import Annotated, Any

from pydantic import BeforeValidator

from gradlab.config.errors import error_at, errors_together
from gradlab.config.scalars import Count
from gradlab.config.sections import Section, SweepTrain
from gradlab.core.check import suggestion
from gradlab.tasks.task import Task
from gradlab.training.instruments import INSTRUMENTS, PRESETS, make_instruments
from gradlab.training.loop import resolve_segment, resolve_watch
from gradlab.training.watch import Instrument, Watch


def _instruments(value: Any) -> Any:
    """A preset, or a list of names and of mappings of a name and options."""
    items = value if isinstance(value, list) else [value]
    errors = []
    for index, item in enumerate(items):
        place = [index] if isinstance(value, list) else []
        options = dict(item) if isinstance(item, dict) else {"name": item}
        name = options.pop("name", None)
        known = [*INSTRUMENTS] if isinstance(value, list) else [*PRESETS, *INSTRUMENTS]
        if not isinstance(name, str) or name not in known:
            errors.append(error_at(place, f"unknown instrument {name!r}{suggestion(name, known)}", item))
            continue
        allowed = [] if name in PRESETS else [field.name for field in dataclasses.fields(INSTRUMENTS[name])]
        for option in options:
            if option not in allowed:
                message = f"instrument {name} has no such option{suggestion(option, allowed)}"
                errors.append(error_at([*place, option], message, item))
    if errors:
        raise errors_together(errors)
    return value


def _made(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    return INSTRUMENTS[item["name"]](**{name: value for name, value in item.items() if name != "name"})


class Monitor(Section):
    """What looks, and how often; by default at every evaluation."""

    instruments: Annotated[Any, BeforeValidator(_instruments)] = "normal"
    every: Count | None = None

    def made(self, examples: int) -> tuple[Instrument, ...]:
        """The instruments, for batches of so many examples."""
        given = self.instruments
        return make_instruments([_made(item) for item in given] if isinstance(given, list) else _made(given), examples)

    def watch(self, task: Task, train: SweepTrain) -> Watch:
        """The instruments of a run.

        Raises:
          ValueError: the section does not fit the task or how it is trained.
        """
        steps, batch_size, _ = train.plan(task)
        return resolve_watch(
            self.made(batch_size or 0), self.every, resolve_segment(train.eval_every, steps), batch_size
        )

    def check(self, task: Task, train: SweepTrain, *, at_evaluations: bool) -> None:
        """Refuses what does not fit, at its place in the config.

        Args:
          task: of the config.
          train: of the config.
          at_evaluations: whether only what was seen last before an evaluation is kept, as in a sweep.
        """
        try:
            self.watch(task, train)
        except (TypeError, ValueError) as error:
            raise errors_together([error_at(["monitor", "instruments"], str(error))]) from None
        segment = resolve_segment(train.eval_every, train.plan(task)[0])
        if at_evaluations and self.every is not None and self.every > segment:
            message = f"is more than the {segment} steps between evaluations, at which a sweep keeps what was seen last"
            raise errors_together([error_at(["monitor", "every"], message, self.every)])


def _named(value: Any) -> Any:
    return {"instruments": value} if isinstance(value, str | list) else value


MonitorPart = Annotated[Monitor | None, BeforeValidator(_named)]
