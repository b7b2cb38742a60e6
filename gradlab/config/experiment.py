"""The config of an experiment: a published result, reproduced.

::

    experiment: {name: catapult, multiples: [1.0, 2.5, 4.2], steps: 120}

Its arguments are those of the function in `gradlab.experiments.registry`.
"""

import functools
import inspect
from typing import Annotated, Any

from pydantic import BeforeValidator

from gradlab.config import parts
from gradlab.config.scalars import Text
from gradlab.config.sections import Section
from gradlab.experiments.registry import EXPERIMENTS

EXPERIMENT = parts.Kind("experiment", {name: one.run for name, one in EXPERIMENTS.items()})
ExperimentPart = Annotated[dict[str, Any], BeforeValidator(functools.partial(parts.read_part, EXPERIMENT))]


class ExperimentConfig(Section):
    """A published result by the name of its experiment, and where the results go."""

    experiment: ExperimentPart
    out: Text | None = None

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.experiment[EXPERIMENT.tag]

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments, those included that the config leaves to the experiment."""
        signature = inspect.signature(EXPERIMENTS[self.name].run)
        given = {key: value for key, value in self.experiment.items() if key != EXPERIMENT.tag}
        return {name: given.get(name, parameter.default) for name, parameter in signature.parameters.items()}
