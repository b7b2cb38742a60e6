"""What fits no parameter of the task is told with its section, before a folder is made."""

import jax
import pytest

from gradlab.cli import rehearsal

ADAMW = "optimizer={name: adamw, learning_rate: 0.1, mask: kernl}"
NO_MATCH = "does not fit the task quadratic: patterns ['{}'] match no parameter"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (ADAMW, "run.yaml: optimizer: " + NO_MATCH.format("kernl")),
        ("optimizer={name: sgd, learning_rate: {init_value: 1e-2}}", "run.yaml: optimizer: does not fit the task"),
        ("before=[{name: clip, max_delta: 1}, {name: freeze, mask: Dense_9}]", "before: " + NO_MATCH.format("Dense_9")),
        ("after=[{name: freeze, mask: Dense_9}]", "run.yaml: after: " + NO_MATCH.format("Dense_9")),
        ("around=[{name: schedule_free, learning_rate: 1, state_dtype: float17}]", "around: does not fit the task"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_run_is_refused_before_it_trains(folder, gradlab_command, assignment, message, options):
    result = gradlab_command("run", "run.yaml", "--set", assignment, *options)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output
    assert not (folder / "runs").exists()


def test_a_race_says_which_optimizer(folder, gradlab_command):
    result = gradlab_command("run", "race.yaml", "--set", "race.wild={name: adam, learning_rate: 1, mu_dtype: float17}")
    assert result.exit_code == 2 and "race.yaml: race.wild: does not fit the task himmelblau" in result.output


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_sweep_tries_each_of_its_structures(folder, gradlab_command, options):
    sets = ["optimizer={name: adam, learning_rate: 0.1}", "sweep.trials=4", "sweep.sampler=grid"]
    sets += ["sweep.space={optimizer.learning_rate: [0.1, 0.2], optimizer.mu_dtype: [float32, float17]}"]
    sets = [word for assignment in sets for word in ("--set", assignment)]
    result = gradlab_command("sweep", "sweep.yaml", *sets, *options)
    assert result.exit_code == 2 and not (folder / "runs").exists()
    assert "sweep.yaml: optimizer: does not fit the task quadratic with optimizer.learning_rate = " in result.output
    assert "optimizer.mu_dtype = float17: data type 'float17' not understood" in result.output


@pytest.mark.parametrize("bug", ["of the task", "of the optimizer"])
def test_a_bug_is_no_error_of_the_config(folder, gradlab_command, monkeypatch, bug):
    def broken(task, tx, run, *_, **__):
        if bug == "of the task":
            raise ValueError
        return bool(run.loss) if jax.tree.leaves(tx) else None  # sgd has numbers, and identity has none

    monkeypatch.setattr(rehearsal, "train_step", broken)
    expected = ValueError if bug == "of the task" else jax.errors.TracerBoolConversionError
    assert isinstance(gradlab_command("run", "run.yaml").exception, expected)
