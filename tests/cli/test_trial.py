import re

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
    assert "holds no sweep" in gradlab_command("run", "--trial", "runs/other", "a").output
    assert "either a CONFIG or --trial" in gradlab_command("run").output
    assert "either a CONFIG or --trial" in gradlab_command("run", "run.yaml", "--trial", "runs/sweep", "a").output
