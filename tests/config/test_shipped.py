"""The configs of the repository run: each loads as it is, and two steps of it leave results."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gradlab.cli.app import app
from gradlab.config import ContestConfig, SweepConfig, load
from gradlab.sweeps.engine.run import run_setup

CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs").glob("*.yaml"))
SMALL_CHARS = "task={name: chars, max_characters: 3000, context: 8, width: 8, heads: 2, layers: 1}"
ONE_ENTRANT = "contest={SGD: {optimizer: {name: sgd, learning_rate: 0.1}, space: {optimizer.learning_rate: [0.1]}}}"
SMALLER = {
    "chars_contest": [SMALL_CHARS, "train.batch_size=4", "tuning.trials=1", "tuning.fresh_seeds=1"],
    "chars_run": [SMALL_CHARS, "train.batch_size=4"],
    "digits_contest": ["train.epochs=null", "tuning.trials=1", "tuning.fresh_seeds=1"],
    "digits_halving": ["train.epochs=null", "sweep.trials=2", "sweep.seeds=2", "sweep.scheduler=all"],
    "digits_run": ["train.epochs=null"],
    "digits_sweep": ["train.epochs=null", "sweep.trials=2", "sweep.seeds=2"],
    "optimizers_contest": [ONE_ENTRANT, "tuning={trials: 1, fresh_seeds: 1}"],
    "schedules_contest": [ONE_ENTRANT, "tuning={trials: 1, fresh_seeds: 1}"],
    "surface_race": [],
}


def command_of(path):
    kind = type(load(path).config)
    return {SweepConfig: "sweep", ContestConfig: "contest"}.get(kind, "run")


def test_every_config_is_tried():
    assert [path.stem for path in CONFIGS] == sorted(SMALLER)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_begins_with_its_claim_and_command(path):
    comment = [line for line in path.read_text().partition("\n\n")[0].splitlines() if line.startswith("#")]
    assert f"#     gradlab {command_of(path)} configs/{path.name}" in comment
    assert "on 2 CPU" in " ".join(comment)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_of_a_config(path, tmp_path):
    before = path.read_bytes()
    command = command_of(path)
    changes = [*SMALLER[path.stem], "train.steps=2", "train.eval_every=1"]
    arguments = [command, str(path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments + [part for change in changes for part in ("--set", change)])
    assert result.exit_code == 0, result.output
    own = {"contest.csv", "contest.png"} if command == "contest" else {"resolved.json", "curves.npz"}
    assert {"config.yaml", *own} < {entry.name for entry in (tmp_path / "out").iterdir()}
    assert path.read_bytes() == before


def test_the_main_sweep_is_what_the_readme_says():
    experiment = load(next(path for path in CONFIGS if path.stem == "digits_sweep"))
    assert len(experiment.setup.trials) == 64 and len(experiment.setup.seeds) >= 2
    assert experiment.config.optimizer["name"] == "adamw"
    assert set(experiment.setup.space.varying) == {"optimizer.learning_rate", "optimizer.weight_decay", "optimizer.b2"}
    assert len(experiment.setup.buckets) == 1


@pytest.mark.slow
def test_halving_finds_a_winner_as_good_with_a_quarter_of_the_steps():
    """The winner's cost lies within a standard error of the best of all, by the spread over the seeds.

    It is a run of the whole sweep too.  The lanes of two programs round differently, which hundreds of steps amplify:
    the curves begin alike and end within the spread.
    """
    whole, halved = [load(CONFIGS[0].with_stem(name)).setup for name in ("digits_sweep", "digits_halving")]
    whole, halved = run_setup(whole), run_setup(halved)
    assert halved.steps_done.sum() < 0.3 * whole.steps_done.sum()
    best, found = whole.best().iloc[0], halved.best().iloc[0]
    own = whole.summary().set_index("uid").loc[found["uid"]]
    curve = lambda result: result.curve("valid_loss")[1][[trial.uid for trial in result.trials].index(found["uid"])]
    np.testing.assert_allclose(curve(halved)[:, :3], curve(whole)[:, :3], rtol=1e-3)
    assert abs(found["mean"] - own["mean"]) <= own["std"]
    assert own["mean"] <= best["mean"] + best["std"] / len(whole.seeds) ** 0.5
