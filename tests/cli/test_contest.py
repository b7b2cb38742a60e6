import re

import pytest

from gradlab.cli import contests
from gradlab.sweeps import SweepResult

CONTEST = """
task: {name: quadratic, condition: 5.0, jitter: 0.5}
contest:
  Plain: {optimizer: {name: sgd, learning_rate: 0.1}, space: {optimizer.learning_rate: {log: [1e-3, 1e-1]}}}
  With momentum:
    optimizer: {name: heavy_ball, learning_rate: 0.1}
    before: [{name: clip, max_delta: 1.0}]
    space: {before.0.max_delta: [1.0, 2.0, 2.5], optimizer.momentum: [0.7]}
train: {steps: 10, eval_every: 4}
tuning: {trials: 3, fresh_seeds: 2, reference: Plain}
"""


@pytest.fixture
def contest_folder(folder):
    (folder / "contest.yaml").write_text(CONTEST)
    return folder


def test_a_contest_leaves_its_sweeps_its_table_and_a_picture(contest_folder, gradlab_command):
    result = gradlab_command("contest", "contest.yaml")
    assert result.exit_code == 0, result.output
    out = contest_folder / "runs/contest"
    assert {path.name for path in out.iterdir()} == {
        "config.yaml",
        "contest.csv",
        "contest.png",
        "plain",
        "with-momentum",
    }
    assert len(SweepResult.load(out / "with-momentum/tuning").trials) == 3
    assert re.search(r"Plain +learning rate 0\.1 .* 2 of 2 ", result.output)
    assert re.search(r"With momentum +max delta [12].*, momentum 0\.\d", result.output)
    assert "warning: Plain: " in result.output  # the best learning rate lies at the edge
    again = gradlab_command("contest", "contest.yaml")
    assert again.exit_code == 2 and "not empty" in again.output
    assert gradlab_command("contest", "runs/contest/config.yaml", "--out", "again").exit_code == 0


def test_a_dry_run_trains_nothing(contest_folder, gradlab_command, monkeypatch):
    monkeypatch.setattr(contests, "contest", None)
    result = gradlab_command("contest", "contest.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "With momentum, tuning" in result.output and "3 trials x 1 seeds" in result.output
    assert not (contest_folder / "runs").exists()


def test_the_other_commands_say_which_is_meant(contest_folder, gradlab_command):
    assert "type: gradlab contest contest.yaml" in gradlab_command("run", "contest.yaml").output
    assert "gradlab contest contest.yaml" in gradlab_command("sweep", "contest.yaml").output
    assert "contest: missing section" in gradlab_command("contest", "run.yaml").output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "contest.Plain.space={optimizer.learning_rat: [1]}",
            "contest.Plain.space.optimizer.learning_rat: .*did you mean",
        ),
        (
            "contest.Plain.space={optimizer.learning_rate: [-1]}",
            "contest.Plain.space.optimizer.learning_rate: a trial is",
        ),
        ("contest.Plain.optimizer.name=sdg", "contest.Plain.optimizer.name: unknown optimizer 'sdg'; did you mean"),
        ("tuning.reference=Plane", "tuning.reference: the contest has no 'Plane'; did you mean 'Plain'"),
        ("tuning.fresh_seeds=0", "tuning.fresh_seeds"),
        ("tuning.sampler=gird", "tuning.sampler: unknown sampler 'gird'"),
        ("sweep={space: {optimizer.learning_rate: [1]}}", "has both `sweep` and `contest`"),
    ],
)
def test_bad_contests(contest_folder, gradlab_command, change, message):
    result = gradlab_command("contest", "contest.yaml", "--set", change)
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output
