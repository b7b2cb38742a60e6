"""The config of a contest: several optimizers, each with a space of its own, tuned with one budget.

::

    contest:
      AdamW: {optimizer: {name: adamw, learning_rate: 1e-3}, space: {optimizer.learning_rate: {log: [1e-4, 1e-1]}}}
      Muon: {optimizer: {name: muon, learning_rate: 0.02}, space: {optimizer.learning_rate: {log: [1e-3, 1]}}}
    train: {steps: 500, batch_size: 64}
    tuning: {trials: 7, seeds: 1, fresh_seeds: 5, reference: AdamW}
"""

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, model_validator

from gradlab.config.errors import error_at, errors_together
from gradlab.config.recipe import Recipe
from gradlab.config.scalars import Count, Text
from gradlab.config.schema import Config, OptimizerPart, SpaceOf, TransformPart, WrapperPart
from gradlab.config.sections import Section, SweepTrain, sampler_names
from gradlab.core.check import suggestion
from gradlab.sweeps.contest import Entrant
from gradlab.sweeps.engine.setup import Setup
from gradlab.tasks.task import Task


class EntrantSection(Section):
    """One optimizer and what is tuned of it; its own transforms stand within those of the whole contest."""

    optimizer: OptimizerPart
    space: dict[Text, Any] = Field(min_length=1)
    before: list[TransformPart] = []
    after: list[TransformPart] = []
    around: list[WrapperPart] = []

    def recipe(self, whole: "ContestConfig") -> Recipe:
        """The factory of the optimizers."""
        stages = ([*whole.before, *self.before], [*self.after, *whole.after], [*self.around, *whole.around])
        return Recipe(self.optimizer, *stages)


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
            label: trials.checked_setup(["contest", label, "space"], task, budget)
            for label, trials in self._trials().items()
        }

    def _trials(self) -> dict[str, SpaceOf]:
        return {label: SpaceOf(one.recipe(self), one.space, self.task) for label, one in self.contest.items()}

    @model_validator(mode="after")
    def _all_fit(self, info: ValidationInfo) -> "ContestConfig":
        reference = self.tuning.reference
        if reference is not None and reference not in self.contest:
            message = f"the contest has no {reference!r}{suggestion(reference, self.contest)}"
            raise errors_together([error_at(["tuning", "reference"], message)])
        info.context["setup"] = self.setups(info.context["task"])
        return self
