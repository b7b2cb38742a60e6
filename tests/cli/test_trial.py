import re

import pytest

from gradlab.sweeps import SweepResult


def test_a_trial_runs_again_alone_and_differs_by_rounding(folder, gradlab_command):
    assert gradlab_command("sweep", "sweep.yaml").exit_code == 0
    uid = SweepResult.load(folder / "runs/sweep").trials[5].uid
    result = gradlab_command("run", "--trial", "runs/sweep", uid[:6])
    assert result.exit_code == 0, result.output
    assert f"trial {uid}: optimizer.learning_rate = " in result.output
    rows = re.findall(r"^(.*loss) +([01]) +(\S+) +(\S+) +(\S+)$", result.output, re.M)
    assert len(rows) == 4  # two curves of two seeds
    assert all(float(gap) < 1e-12 for *_, gap in rows)


def test_what_cannot_run_again_is_refused(folder, gradlab_command):
    assert gradlab_command("sweep", "sweep.yaml").exit_code == 0
    assert "runs/sweep: has no trial 'zzz'" in gradlab_command("run", "--trial", "runs/sweep", "zzz").output
    assert "'' begins 8 trials" in gradlab_command("run", "--trial", "runs/sweep", "").output
    assert gradlab_command("run", "--trial", "runs/other", "a").output.startswith("runs/other: holds no sweep: there")
    assert "either a CONFIG or --trial" in gradlab_command("run").output
    assert "either a CONFIG or --trial" in gradlab_command("run", "run.yaml", "--trial", "runs/sweep", "a").output


@pytest.mark.parametrize(
    "options",
    [["--set", "seed=3"], ["--out", "elsewhere"], ["--overwrite"], ["--dry-run"], ["--dry-run", "--overwrite"]],
)
def test_options_that_a_trial_would_not_heed_are_refused(folder, gradlab_command, options):
    result = gradlab_command("run", "--trial", "runs/sweep", "a", *options)
    assert result.exit_code == 2
    assert "--trial does not go with --" in result.output
    assert all(option in result.output for option in options if option.startswith("--"))


def test_the_folder_of_a_run_is_told_from_that_of_a_sweep(folder, gradlab_command):
    assert gradlab_command("run", "run.yaml").exit_code == 0
    for command in (["report", "runs/run"], ["run", "--trial", "runs/run", "a"]):
        result = gradlab_command(*command)
        assert (
            result.exit_code == 2 and "holds a run and no sweep; for a run there is `gradlab inspect`" in result.output
        )
    result = gradlab_command("inspect", "runs/run", "--instruments", "noise")
    assert result.exit_code == 2 and "noise needs examples, and the task quadratic has none" in result.output
