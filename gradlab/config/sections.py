"""The sections of a config that name no factory: how a run reads its data, when it ends, what a sweep varies."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import jax
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from gradlab.config.errors import error_at, errors_together, shown, worded
from gradlab.config.parts import located
from gradlab.config.scalars import Count, Number, Text, Whole
from gradlab.core.check import suggestion
from gradlab.sweeps.engine.prepare import resolve_scheduler
from gradlab.sweeps.engine.width import METHODS
from gradlab.sweeps.samplers.adaptive import ADAPTIVE
from gradlab.sweeps.samplers.designs import SAMPLERS
from gradlab.sweeps.schedulers.hypergrad import Hypergrad
from gradlab.sweeps.schedulers.named import SCHEDULERS
from gradlab.tasks.task import Task
from gradlab.training.batches import SAMPLINGS, check_batches, num_examples
from gradlab.training.loop import resolve_steps
from gradlab.training.stop import Patience, Threshold, Tolerance


class Section(BaseModel):
    """A mapping with fixed keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    others: ClassVar[tuple[str, ...]] = ()  # further keys to suggest

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise worded(error, "key", dict.fromkeys([*cls.model_fields, *cls.others])) from None

    def plain(self) -> dict[str, Any]:
        """The section as plain data, without the keys that were not given."""
        return self.model_dump(exclude_unset=True)


def name_among(noun: str, names: Any) -> BeforeValidator:
    """A string that is one of the names."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in names:
            raise errors_together([error_at([], f"unknown {noun} {value!r}{suggestion(value, names)}", value)])
        return value

    return BeforeValidator(check)


class PatienceRule(Section):
    """Early stopping, as `gradlab.Patience` explains it."""

    patience: Count
    metric: Text = "loss"
    mode: Literal["min", "max"] = "min"
    min_delta: Number = 0.0


class Stop(Section):
    """When a run ends before its steps are done: the first rule that holds."""

    tolerance: Number | None = Field(None, ge=0)
    threshold: Number | None = None
    patience: Annotated[
        PatienceRule | None, BeforeValidator(lambda value: {"patience": value} if isinstance(value, int) else value)
    ] = None

    def rules(self) -> list[Tolerance | Threshold | Patience]:
        """The rules as `gradlab.fit` takes them."""
        numbers = ((Tolerance, self.tolerance), (Threshold, self.threshold))
        rules: list[Any] = [rule(number) for rule, number in numbers if number is not None]
        return rules + ([Patience(**self.patience.model_dump())] if self.patience else [])


class SweepTrain(Section):
    """How a run reads its data, and for how long."""

    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    sampling: Annotated[Text, name_among("sampling", SAMPLINGS)] = "epoch"
    accumulate: Count = 1
    eval_every: Count | None = None

    @model_validator(mode="after")
    def _fits_the_task(self, info: ValidationInfo) -> "SweepTrain":
        errors = list(self._misfits(info.context["task"]))
        if errors:
            raise errors_together(errors)
        return self

    def _misfits(self, task: Task | None) -> Iterator[Any]:
        if (self.steps is None) == (self.epochs is None):
            yield error_at([], f"give either steps or epochs, got {'both' if self.steps else 'neither'}")
        elif task is not None:
            try:
                self.plan(task)
            except ValueError as error:
                yield located(error, type(self).model_fields)

    def plan(self, task: Task) -> tuple[int, int | None, str]:
        """Steps, batch size and sampling as they result from the task's data.

        Raises:
          ValueError: the section does not fit the data.
        """
        batch_size, sampling = check_batches(task.train, self.batch_size, self.sampling, self.accumulate)
        return resolve_steps(self.steps, self.epochs, num_examples(task.train), batch_size), batch_size, sampling


class Train(SweepTrain):
    """The same with rules that end a run early."""

    stop: Stop = Stop()

    def _misfits(self, task: Task | None) -> Iterator[Any]:
        yield from super()._misfits(task)
        patience, names = self.stop.patience, metric_names(task) if task is not None else ()
        if patience is not None and task is not None and patience.metric not in names:
            message = f"task {task.name} reports no {patience.metric!r}{suggestion(patience.metric, names)}"
            yield error_at(["stop", "patience", "metric"], message)

    def arguments(self) -> dict[str, Any]:
        """The section as arguments of `gradlab.fit`."""
        return self.model_dump(exclude={"stop"}) | {"stop": self.stop.rules()}


def metric_names(task: Task) -> list[str]:
    """What a task reports; nothing is computed."""
    data = task.valid if task.valid is not None else task.train
    return list(jax.eval_shape(lambda key: task.metrics(*task.init(key), data), jax.random.key(0)))


sampler_names = name_among("sampler", SAMPLERS)
any_sampler = name_among("sampler", [*SAMPLERS, *ADAPTIVE])
_scheduler_names = [*SCHEDULERS, Hypergrad.name]


def _scheduler(value: Any) -> Any:
    """A scheduler's name, or a mapping of its name and options."""
    options = dict(value) if isinstance(value, dict) else {"name": value}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in _scheduler_names:
        message = f"unknown scheduler {name!r}{suggestion(name, _scheduler_names)}"
        raise errors_together([error_at(["name"] if isinstance(value, dict) else [], message, value)])
    try:
        resolve_scheduler({"name": name, **options})
    except (TypeError, ValueError) as error:
        raise errors_together([located(error, options)]) from None
    return value


def _seeds(value: Any) -> Any:
    seeds = value if isinstance(value, list) else [value]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds) or (seeds is not value and value < 1):
        message = f"must be a number of seeds, or a list of different whole numbers, got {shown(value)}"
        raise errors_together([error_at([], message, value)])
    return value


class Sweep(Section):
    """What varies, how often, and how it is drawn."""

    space: dict[Text, Any] = Field(min_length=1)
    trials: Count = 64
    seeds: Annotated[Any, BeforeValidator(_seeds)] = 1
    sampler: Annotated[Text, any_sampler] = "sobol"
    sampler_seed: Whole = Field(0, ge=0)
    batch: Count | None = None
    scheduler: Annotated[Any, BeforeValidator(_scheduler)] = "all"
    chunk: Count | None = None
    lane_method: Annotated[Text, name_among("lane method", METHODS)] = "auto"
    memory: Annotated[Number, Field(ge=1)] | None = None
