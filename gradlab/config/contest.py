"""The config of a contest: several optimizers, each with a space of its own, tuned with one budget.

::

    contest:
      AdamW: {optimizer: {name: adamw, learning_rate: 1e-3}, space: {optimizer.learning_rate: {log: [1e-4, 1e-1]}}}
      Muon: {optimizer: {name: muon, learning_rate: 0.02}, space: {optimizer.learning_rate: {log: [1e-3, 1]}}}
    train: {steps: 500, batch_size: 64}
    tuning: {trials: 7, seeds: 1, fresh_seeds: 5, reference: AdamW}
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gradlab.config.errors import error_at, errors_together
from gradlab.config.recipe import STAGES, Recipe
from gradlab.config.scalars import Count, Text
from gradlab.config.schema import Config, OptimizerPart, SpaceOf, TransformPart, WrapperPart, space_errors
from gradlab.config.sections import Section, SweepTrain, sampler_names
from gradlab.core.check import suggestion
from gradlab.sweeps.contest import Entrant, require_one_budget
from gradlab.sweeps.engine.setup import Setup
from gradlab.tasks.task import Task


class EntrantSection(Section):
    """One optimizer and what is tuned of it; its own transforms stand within those of the whole contest."""

    optimizer: OptimizerPart
    space: dict[Text, Any] = Field(min_length=1)
    before: list[TransformPart] = []
    after: list[TransformPart] = []
    around: list[WrapperPart] = []

    def stages(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a `Recipe`, with the stages of the whole contest."""
        return {
            "optimizer": self.optimizer,
            "before": [*whole["before"], *self.before],
            "after": [*self.after, *whole["after"]],
            "around": [*self.around, *whole["around"]],
        }


class Tuning(Section):
    """The budget of every optimizer."""

    trials: Count = 8
    seeds: Count = 1
    fresh_seeds: Count = 5
    reference: Text | None = None
    sampler: Annotated[Text, sampler_names] = "grid"
    chunk: Count | None = None


class ContestConfig(Config):
    """Several optimizers on one task, each tuned, by label."""

    contest: dict[Text, EntrantSection] = Field(min_length=1)
    train: SweepTrain
    tuning: Tuning = Tuning()

    @property
    def entrants(self) -> dict[str, Entrant]:
        """The contest as `gradlab.contest` takes it."""
        return {label: Entrant(trials.recipe, trials.named) for label, trials in self._trials().items()}

    def setups(self, task: Task) -> dict[str, Setup]:
        """The tuning of each optimizer before it runs."""
        budget = self.tuning.model_dump(include={"trials", "seeds", "sampler", "chunk"}) | self.train.model_dump()
        return {
            label: trials.checked_setup(["contest", label, "space"], ["tuning"], task, budget)
            for label, trials in self._trials().items()
        }

    def _trials(self) -> dict[str, SpaceOf]:
        recipes = {label: Recipe(**one.stages(self.__dict__)) for label, one in self.contest.items()}
        return {label: SpaceOf(recipes[label], one.space, self.task) for label, one in self.contest.items()}

    @field_validator("contest")
    @classmethod
    def _spaces_fit(cls, value: dict[str, EntrantSection], info: ValidationInfo) -> dict[str, EntrantSection]:
        sound = all(name in info.data for name in STAGES)
        errors = []
        for label, one in value.items():
            own = one.stages(info.data) if sound else {}
            errors += space_errors([label, "space"], one.space, info, own)
        if errors:
            raise errors_together(errors)
        return value

    @model_validator(mode="after")
    def _all_fit(self, info: ValidationInfo) -> "ContestConfig":
        reference = self.tuning.reference
        if reference is not None and reference not in self.contest:
            message = f"the contest has no {reference!r}{suggestion(reference, self.contest)}"
            raise errors_together([error_at(["tuning", "reference"], message)])
        info.context["setup"] = setups = self.setups(info.context["task"])
        try:
            require_one_budget(setups)
        except ValueError as error:
            raise errors_together([error_at(["tuning", "sampler"], str(error))]) from None
        return self
