"""Configs that run in a second, and the command line called inside of this process."""

import pytest
from typer.testing import CliRunner

from gradlab.cli.app import app

RUN = """
task: {name: quadratic, condition: 5.0}
optimizer: {name: sgd, learning_rate: 0.1}
train: {steps: 12, eval_every: 4}
"""
RACE = """
task: {name: himmelblau}
race: {slow: {name: sgd, learning_rate: 1e-3}, wild: {name: sgd, learning_rate: 10}}
train: {steps: 10, eval_every: 5}
"""
SWEEP = """
task: {name: quadratic, condition: 5.0}
optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.5}
train: {steps: 10, eval_every: 4}
sweep:
  trials: 8
  seeds: 2
  chunk: 3
  space:
    optimizer.learning_rate: {log: [1e-3, 1e-1]}
    optimizer.momentum: {linear: [0, 0.9]}
    optimizer.nesterov: [true, false]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with the configs in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("run", RUN), ("race", RACE), ("sweep", SWEEP)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def gradlab_command(monkeypatch):
    """Calls the command line with arguments."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="gradlab")
