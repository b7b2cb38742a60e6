"""A config from its file: read, changed by ``--set``, checked as a whole."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from gradlab.config import yaml12
from gradlab.config.contest import ContestConfig
from gradlab.config.errors import ConfigError, Problem, shown
from gradlab.config.experiment import ExperimentConfig
from gradlab.config.overrides import SOURCE, override
from gradlab.config.schema import RaceConfig, RunConfig, SweepConfig
from gradlab.config.sections import Section
from gradlab.sweeps.engine.setup import Setup
from gradlab.tasks.task import Task


class Experiment(NamedTuple):
    """A config that can run, with what was made of it while it was checked."""

    config: RunConfig | RaceConfig | SweepConfig | ContestConfig | ExperimentConfig
    task: Task | None  # None of an `ExperimentConfig`, which makes its own
    setup: Setup | dict[str, Setup] | None  # of a sweep, or of each of a contest by label
    out: Path  # where results go, unless the command line says otherwise

    def to_yaml(self) -> str:
        """The config with all changes made, as a file that reproduces the experiment."""
        return yaml12.dump(self.config.plain())


def load(path: str | os.PathLike, assignments: Sequence[str] = ()) -> Experiment:
    """Reads, changes and checks a config; makes its task, and the trials of a sweep.

    Args:
      path: the YAML file.
      assignments: ``'key.path=value'``, as ``--set`` gives them.

    Raises:
      ConfigError: everything that is wrong.
    """
    path, source = Path(path), os.fspath(path)
    data = override(_read(path, source), assignments)
    context: dict[str, Any] = {"task": None, "setup": None}
    try:
        config = _kind_of(data, source).model_validate(data, context=context)
    except ValidationError as error:
        changed = [assignment.partition("=")[0] for assignment in assignments]
        raise ConfigError([_problem(item, source, changed) for item in error.errors(include_url=False)]) from None
    return Experiment(config, context["task"], context["setup"], Path(config.out or Path("runs", path.stem)))


def _read(path: Path, source: str) -> dict[str, Any]:
    try:
        data = yaml12.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([Problem(source, "", reason)]) from error
    if not isinstance(data, Mapping):
        raise ConfigError(
            [Problem(source, "", f"must be a mapping with the keys task, optimizer and train, got {shown(data)}")]
        )
    return dict(data)


def _kind_of(data: Mapping[str, Any], source: str) -> type[Section]:
    kinds = {"race": RaceConfig, "sweep": SweepConfig, "contest": ContestConfig, "experiment": ExperimentConfig}
    found = [key for key in kinds if key in data]
    if len(found) > 1:
        message = f"has both `{found[0]}` and `{found[1]}`; a config is one or the other"
        raise ConfigError([Problem(source, "", message)])
    return kinds[found[0]] if found else RunConfig


def _problem(item: Any, source: str, changed: Sequence[str]) -> Problem:
    path = ".".join(str(key) for key in item["loc"] if key != "[key]")
    given = any(f"{path}.".startswith(f"{prefix}.") for prefix in changed)
    return Problem(SOURCE if given else source, path, item["msg"])
