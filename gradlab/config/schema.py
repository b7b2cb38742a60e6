"""The kinds of configs: one run, a race of optimizers, a sweep; `gradlab.config.contest` has a contest of sweeps.

::

    task: {name: digits_mlp, hidden: [64, 64]}
    optimizer: {name: adamw, learning_rate: 1e-3}           a run and a sweep have one
    race: {label: {name: sgd, learning_rate: 0.1}, ...}     a race has several instead
    before: [{name: clip_by_global_norm, max_norm: 1.0}]    transforms beside the optimizer, `after` likewise
    around: [{name: multi_steps, every_k_schedule: 4}]      wrappers of all that, the outermost last
    train: {steps: 500, batch_size: 64}
    monitor: normal                                         instruments, see `gradlab.config.monitor`
    sweep: {trials: 64, seeds: 2, space: {optimizer.learning_rate: {log: [1e-4, 1e-1]}}}

The task is made while its part is checked, so that the sections after it can be checked against its data: it is
handed on in the context of the validation, under ``'task'``.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from gradlab.config import parts
from gradlab.config.errors import details_of, error_at, errors_together
from gradlab.config.monitor import MonitorPart
from gradlab.config.recipe import Recipe
from gradlab.config.scalars import Text, Whole
from gradlab.config.sections import Section, Sweep, SweepTrain, Train, name_among
from gradlab.config.space_checks import space_misfits
from gradlab.sweeps.engine.arguments import OptionError
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.setup import TASK, Setup
from gradlab.sweeps.outcomes.writers import WRITERS
from gradlab.sweeps.spaces.space import Space
from gradlab.tasks.task import Task
from gradlab.training.watch import OFF, Watch


def _task_part(value: Any, info: ValidationInfo) -> dict[str, Any]:
    part = parts.read_part(parts.TASK, value)
    info.context["task"], errors = parts.try_part(parts.TASK, part)
    if errors:
        raise errors_together(errors)
    return part


TaskPart = Annotated[dict[str, Any], BeforeValidator(_task_part)]
OptimizerPart = Annotated[dict[str, Any], BeforeValidator(functools.partial(parts.checked_part, parts.OPTIMIZER))]
TransformPart = Annotated[dict[str, Any], BeforeValidator(functools.partial(parts.checked_part, parts.TRANSFORM))]
WrapperPart = Annotated[dict[str, Any], BeforeValidator(functools.partial(parts.checked_part, parts.WRAPPER))]


class Config(Section):
    """What every config has."""

    others: ClassVar[tuple[str, ...]] = (
        "optimizer",
        "race",
        "contest",
        "tuning",
        "sweep",
        "train",
        "monitor",
        "writers",
        "experiment",
    )

    task: TaskPart
    before: list[TransformPart] = []
    after: list[TransformPart] = []
    around: list[WrapperPart] = []
    out: Text | None = None


class Monitored(Config):
    """What may be watched while it trains."""

    monitor: MonitorPart = None
    keeps_evaluations_only: ClassVar[bool] = False

    @model_validator(mode="after")
    def _monitor_fits(self, info: ValidationInfo) -> "Monitored":
        if self.monitor is not None:
            self.monitor.check(info.context["task"], self.train, at_evaluations=self.keeps_evaluations_only)
        return self

    def watch(self, task: Task) -> Watch:
        """The instruments that look at each run."""
        return OFF if self.monitor is None else self.monitor.watch(task, self.train)

    def monitoring(self, task: Task) -> dict[str, Any]:
        """The same as arguments of `gradlab.fit` and `gradlab.sweep`."""
        watch = self.watch(task)
        return {"instruments": watch.instruments, "monitor_every": watch.every} if watch.instruments else {}


class RunConfig(Monitored):
    """One optimizer on one task."""

    optimizer: OptimizerPart
    train: Train
    seed: Whole = Field(0, ge=0, lt=2**32)

    @property
    def recipe(self) -> Recipe:
        """The factory of the optimizer."""
        return Recipe(self.optimizer, self.before, self.after, self.around)


class RaceConfig(Monitored):
    """Several optimizers on one task, by label."""

    race: dict[Text, OptimizerPart] = Field(min_length=1)
    train: Train
    seed: Whole = Field(0, ge=0, lt=2**32)

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The factories of the optimizers by label."""
        return {label: Recipe(part, self.before, self.after, self.around) for label, part in self.race.items()}


class SpaceOf(NamedTuple):
    """A recipe and what varies of it, by the paths of the config."""

    recipe: Recipe
    space: dict[str, Any]
    task: dict[str, Any]  # the part of the config

    @property
    def named(self) -> dict[str, Any]:
        """The space, stages called by their names."""
        return {self.recipe.name_of(path): dimension for path, dimension in self.space.items()}

    def checked_setup(self, place: list[str], section: list[str], task: Task, options: dict[str, Any]) -> Setup:
        """The sweep before it runs.

        Args:
          place: where the space stands in the config; the errors of trials lie there.
          section: where its sampler stands; the errors of samplers and schedulers lie there.
          task: made of the part of the config.
          options: as for `prepare`.
        """
        try:
            space = Space(self.named)
        except (TypeError, ValueError) as error:
            raise errors_together([error_at(place, str(error))]) from None
        make_task = functools.partial(_make_task, self.task)
        try:
            return prepare(make_task if self._remakes(task) else task, self.recipe, space, **options)
        except OptionError as error:
            found = parts.located(error, options)
            message = found["type"].message()
            raise errors_together([error_at([*section, *(found["loc"] or [error.option])], message)]) from None
        except (TypeError, ValueError) as error:
            raise errors_together([self._refused(error, place)]) from None

    def _remakes(self, task: Task) -> bool:
        """Whether the space varies what is no number of the task, but an argument of its factory."""
        own = [path.removeprefix(TASK) for path in self.space if path.startswith(TASK)]
        return any(name not in task.hyperparams() for name in own)

    def _refused(self, error: Exception, place: list[str]) -> Any:
        """The error of a factory that a trial called, at the dimension that the value came from."""
        last = [path.rpartition(".")[2] for path in self.space]
        names = {name: path for name, path in zip(last, self.space, strict=True) if last.count(name) == 1}
        found = parts.located(error, names)
        (*own,) = (names[name] for name in found["loc"])
        return error_at([*place, *own], f"a trial is refused: {found['type'].message()}")


def _make_task(part: dict[str, Any], **structure: Any) -> Task:
    return parts.make_part(parts.TASK, {**part, **structure})


def space_errors(place: list[str], space: Mapping[str, Any], info: ValidationInfo, own: Mapping[str, Any]) -> list[Any]:
    """What is wrong with a space, beside the parts of the config that are sound.

    Args:
      place: where the space stands in its section.
      space: path -> dimension, as the config has it; what is no path is told elsewhere.
      info: of the whole config.
      own: the optimizer and its stages, those that are sound.
    """
    stages = ("optimizer", "before", "after", "around")
    recipe = Recipe(*(own[name] for name in stages)) if all(name in own for name in stages) else None
    paths = {path: spec for path, spec in space.items() if isinstance(path, str)}
    task = info.context["task"]
    found = space_misfits(paths, recipe, task, info.data.get("task"))
    return [error_at([*place, path], message) for path, message in found]


class SweepConfig(Monitored):
    """Many values of the hyperparameters of one optimizer."""

    keeps_evaluations_only = True

    optimizer: OptimizerPart
    train: SweepTrain
    sweep: Sweep
    writers: list[Annotated[Text, name_among("writer", WRITERS)]] = []  # beside the files

    @property
    def recipe(self) -> Recipe:
        """The factory of the optimizers."""
        return Recipe(self.optimizer, self.before, self.after, self.around)

    @property
    def trials(self) -> SpaceOf:
        """What the sweep draws from."""
        return SpaceOf(self.recipe, self.sweep.space, self.task)

    @field_validator("sweep", mode="wrap")
    @classmethod
    def _with_errors_of_the_space(cls, value: Any, read: Any, info: ValidationInfo) -> Sweep:
        space = value.get("space") if isinstance(value, Mapping) else None
        errors = space_errors(["space"], space, info, info.data) if isinstance(space, Mapping) else []
        try:
            section = read(value)
        except ValidationError as error:
            raise errors_together([*details_of(error), *errors]) from None
        if errors:
            raise errors_together(errors)
        return section

    @model_validator(mode="after")
    def _all_fits(self, info: ValidationInfo) -> "SweepConfig":
        task = info.context["task"]
        options = self.sweep.model_dump(exclude={"space"}) | self.train.model_dump() | self.monitoring(task)
        info.context["setup"] = self.trials.checked_setup(["sweep", "space"], ["sweep"], task, options)
        return self
