"""The three kinds of configs: one run, a race of optimizers, a sweep.

::

    task: {name: digits_mlp, hidden: [64, 64]}
    optimizer: {name: adamw, learning_rate: 1e-3}           a run and a sweep have one
    race: {label: {name: sgd, learning_rate: 0.1}, ...}     a race has several instead
    before: [{name: clip_by_global_norm, max_norm: 1.0}]    transforms around the optimizer, `after` likewise
    train: {steps: 500, batch_size: 64}
    sweep: {trials: 64, seeds: 2, space: {optimizer.learning_rate: {log: [1e-4, 1e-1]}}}

The task is made while its part is checked, so that the sections after it can be checked against its data: it is
handed on in the context of the validation, under ``'task'``.
"""

import functools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import jax
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from gradlab.config import parts
from gradlab.config.errors import error_at, errors_together, shown, worded
from gradlab.config.recipe import Recipe
from gradlab.config.scalars import Count, Number, Text, Whole
from gradlab.core.check import suggestion
from gradlab.sweeps.run import TASK, Setup, prepare
from gradlab.sweeps.samplers import SAMPLERS
from gradlab.sweeps.space import Space, dimension_from
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


def _name_among(noun: str, names: Any) -> BeforeValidator:
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
    sampling: Annotated[Text, _name_among("sampling", SAMPLINGS)] = "epoch"
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
                batch_size, _ = check_batches(task.train, self.batch_size, self.sampling, self.accumulate)
                resolve_steps(self.steps, self.epochs, num_examples(task.train), batch_size)
            except ValueError as error:
                yield parts.located(error, type(self).model_fields)


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


def _seeds(value: Any) -> Any:
    whole = lambda item: isinstance(item, int) and not isinstance(item, bool)
    if whole(value) and value > 0:
        return value
    if not isinstance(value, list) or not value or not all(map(whole, value)) or len(set(value)) < len(value):
        message = f"must be a number of seeds, or a list of different whole numbers, got {shown(value)}"
        raise errors_together([error_at([], message, value)])
    return value


class Sweep(Section):
    """What varies, how often, and how it is drawn."""

    space: dict[Text, Any] = Field(min_length=1)
    trials: Count = 64
    seeds: Annotated[Any, BeforeValidator(_seeds)] = 1
    sampler: Annotated[Text, _name_among("sampler", SAMPLERS)] = "sobol"
    sampler_seed: Whole = Field(0, ge=0)
    chunk: Count | None = None


def _task_part(value: Any, info: ValidationInfo) -> dict[str, Any]:
    part = parts.read_part(parts.TASK, value)
    info.context["task"], errors = parts.try_part(parts.TASK, part)
    if errors:
        raise errors_together(errors)
    return part


TaskPart = Annotated[dict[str, Any], BeforeValidator(_task_part)]
OptimizerPart = Annotated[dict[str, Any], BeforeValidator(functools.partial(parts.checked_part, parts.OPTIMIZER))]
TransformPart = Annotated[dict[str, Any], BeforeValidator(functools.partial(parts.checked_part, parts.TRANSFORM))]


class Config(Section):
    """What every config has."""

    others: ClassVar[tuple[str, ...]] = ("optimizer", "race", "sweep", "train")

    task: TaskPart
    before: list[TransformPart] = []
    after: list[TransformPart] = []
    out: Text | None = None


class RunConfig(Config):
    """One optimizer on one task."""

    optimizer: OptimizerPart
    train: Train
    seed: Whole = 0

    @property
    def recipe(self) -> Recipe:
        """The factory of the optimizer."""
        return Recipe(self.optimizer, self.before, self.after)


class RaceConfig(Config):
    """Several optimizers on one task, by label."""

    race: dict[Text, OptimizerPart] = Field(min_length=1)
    train: Train
    seed: Whole = 0

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The factories of the optimizers by label."""
        return {label: Recipe(part, self.before, self.after) for label, part in self.race.items()}


class SweepConfig(Config):
    """Many values of the hyperparameters of one optimizer."""

    optimizer: OptimizerPart
    train: SweepTrain
    sweep: Sweep

    @property
    def recipe(self) -> Recipe:
        """The factory of the optimizers."""
        return Recipe(self.optimizer, self.before, self.after)

    @property
    def space(self) -> dict[str, Any]:
        """The space, stages called by their names."""
        return {self.recipe.name_of(path): dimension for path, dimension in self.sweep.space.items()}

    @model_validator(mode="after")
    def _space_fits(self, info: ValidationInfo) -> "SweepConfig":
        task = info.context["task"]
        errors = [error_at(["sweep", "space", path], message) for path, message in self._misfits(task)]
        if not errors:
            try:
                info.context["setup"] = self.setup(task)
            except (TypeError, ValueError) as error:
                errors.append(self._refused(error))
        if errors:
            raise errors_together(errors)
        return self

    def setup(self, task: Task) -> Setup:
        """The sweep before it runs."""
        options = self.sweep.model_dump(exclude={"space"}) | self.train.model_dump()
        return prepare(task, self.recipe, Space(self.space), **options)

    def _misfits(self, task: Task) -> Iterator[tuple[str, str]]:
        known = [*self.recipe.names(), *(f"{TASK}{name}" for name in task.hyperparams())]
        for path, dimension in self.sweep.space.items():
            if self.recipe.name_of(path) not in known:
                yield path, f"the config has no number of this name{suggestion(path, known)}"
            try:
                dimension_from(dimension)
            except (TypeError, ValueError) as error:
                yield path, str(error)

    def _refused(self, error: Exception) -> Any:
        """The error of a factory that a trial called, at the dimension that the value came from."""
        names = {path.rpartition(".")[2]: path for path in self.sweep.space}
        found = parts.located(error, names)
        (*place,) = (names[name] for name in found["loc"])
        return error_at(["sweep", "space", *place], f"a trial is refused: {found['type'].message()}")
