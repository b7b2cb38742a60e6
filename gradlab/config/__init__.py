"""YAML files as checked experiments: every error at once, with its file, its dotted path and a suggestion."""

from gradlab.config.contest import ContestConfig
from gradlab.config.errors import ConfigError, Problem
from gradlab.config.experiment import ExperimentConfig
from gradlab.config.load import Experiment, load
from gradlab.config.schema import RaceConfig, RunConfig, SweepConfig

__all__ = [
    "ConfigError",
    "ContestConfig",
    "Experiment",
    "ExperimentConfig",
    "Problem",
    "RaceConfig",
    "RunConfig",
    "SweepConfig",
    "load",
]
