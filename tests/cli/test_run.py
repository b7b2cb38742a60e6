import csv
import errno
import json
import os
import signal

import numpy as np
import pytest
from flax.serialization import msgpack_restore

import gradlab
from gradlab.cli import runs
from gradlab.config import load, yaml12
from gradlab.sweeps.outcomes import files
from gradlab.tasks import quadratic, surface_task

PNG = b"\x89PNG\r\n\x1a\n"
RUN_FILES = {
    "config.yaml",
    "curves.npz",
    "history.csv",
    "history.png",
    "params.msgpack",
    "resolved.json",
    "trajectory.png",
}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_leaves_what_fit_returns(folder, gradlab_command):
    result = gradlab_command("run", "run.yaml")
    assert result.exit_code == 0, result.output
    out = folder / "runs" / "run"
    assert set(content(out)) == RUN_FILES
    expected = gradlab.fit(surface_task(quadratic(condition=5.0)), gradlab.sgd(0.1), steps=12, eval_every=4)
    with np.load(out / "curves.npz") as arrays:
        np.testing.assert_array_equal(arrays["loss"], expected.loss)
        np.testing.assert_array_equal(arrays["metric.loss"], expected.metrics["loss"])
        assert arrays["eval_step"].tolist() == [0, 4, 8, 12]
        assert arrays["trajectory"].shape == (12, 2)
    np.testing.assert_array_equal(msgpack_restore((out / "params.msgpack").read_bytes()), expected.params)
    assert all(data.startswith(PNG) for name, data in content(out).items() if name.endswith(".png"))


def test_the_history_has_a_row_for_each_evaluation(folder, gradlab_command):
    gradlab_command("run", "run.yaml")
    rows = list(csv.DictReader((folder / "runs/run/history.csv").read_text().splitlines()))
    expected = gradlab.fit(surface_task(quadratic(condition=5.0)), gradlab.sgd(0.1), steps=12, eval_every=4)
    assert [int(row["step"]) for row in rows] == [0, 4, 8, 12]
    assert rows[0]["training_loss"] == ""
    means = [float(row["training_loss"]) for row in rows[1:]]
    np.testing.assert_allclose(means, expected.loss.reshape(3, 4).mean(1))
    np.testing.assert_allclose([float(row["eval_loss"]) for row in rows], expected.metrics["loss"])


def test_the_seed_of_a_run(folder, gradlab_command):
    gradlab_command("run", "run.yaml", "--set", "task.jitter=0.5", "--set", "seed=3")
    task = surface_task(quadratic(condition=5.0), jitter=0.5)
    expected = gradlab.fit(task, gradlab.sgd(0.1), steps=12, eval_every=4, key=3)
    with np.load(folder / "runs/run/curves.npz") as arrays:
        np.testing.assert_array_equal(arrays["loss"], expected.loss)


def test_the_facts_of_a_run(folder, gradlab_command):
    gradlab_command("run", "run.yaml", "--set", "train.stop.threshold=1e9")
    facts = json.loads((folder / "runs/run/resolved.json").read_text())
    assert facts["task"] == {"name": "quadratic", "parameters": 2, "examples": 0}
    assert facts["runs"]["sgd"]["hyperparameters"] == {"learning_rate": 0.1}
    assert facts["runs"]["sgd"]["ended"] == "Threshold(loss=1000000000.0)"
    assert "jax" in facts["versions"]


def test_the_config_that_a_run_leaves_repeats_it(folder, gradlab_command):
    gradlab_command("run", "run.yaml", "--set", "optimizer.learning_rate=0.05", "--set", "train.steps=5")
    first = content(folder / "runs/run")
    again = gradlab_command("run", "runs/run/config.yaml", "--out", "again")
    assert again.exit_code == 0, again.output
    assert load("again/config.yaml").config == load("runs/run/config.yaml").config
    assert content(folder / "again")["params.msgpack"] == first["params.msgpack"]
    assert yaml12.parse(first["config.yaml"].decode())["optimizer"]["learning_rate"] == 0.05


def test_the_table_of_a_run(folder, gradlab_command):
    output = gradlab_command("run", "run.yaml").output
    loss = gradlab.fit(surface_task(quadratic(condition=5.0)), gradlab.sgd(0.1), steps=12).metrics["loss"][-1]
    assert "quadratic: 2 parameters, metrics on the surface" in output
    assert f"{loss:.4g} at 12" in output
    assert "results in runs/run: config.yaml, curves.npz, history.csv, history.png" in output


def test_quiet_prints_nothing(folder, gradlab_command):
    assert gradlab_command("run", "run.yaml", "--quiet").output == ""


def test_the_file_is_not_changed(folder, gradlab_command):
    before = (folder / "run.yaml").read_bytes()
    gradlab_command("run", "run.yaml", "--set", "train.steps=3")
    assert (folder / "run.yaml").read_bytes() == before


def test_a_task_without_a_surface_has_no_trajectory(folder, gradlab_command):
    sets = ["--set", "task={name: digits_mlp, hidden: [4]}", "--set", "train={steps: 2, batch_size: 8}"]
    result = gradlab_command("run", "run.yaml", *sets)
    assert result.exit_code == 0, result.output
    assert set(content(folder / "runs/run")) == RUN_FILES - {"trajectory.png"}
    assert "metrics on the validation data" in result.output
    assert "best accuracy" in result.output


def test_a_race_runs_all_and_says_which_diverged(folder, gradlab_command):
    result = gradlab_command("run", "race.yaml")
    assert result.exit_code == 0, result.output
    out = folder / "runs/race"
    assert set(content(out)) == {
        "config.yaml",
        "curves.npz",
        "history.csv",
        "race.gif",
        "race.html",
        "race.png",
        "resolved.json",
        "trajectories.png",
    }
    played = json.loads((out / "race.html").read_text().partition('id="data">')[2].partition("</script>")[0])
    with np.load(out / "curves.npz") as arrays:
        assert len(arrays["slow/loss"]) == 10
        np.testing.assert_allclose(played["paths"][0]["heights"], arrays["slow/loss"], rtol=1e-4)
        np.testing.assert_allclose(played["paths"][0]["points"], arrays["slow/trajectory"], rtol=1e-4)
        assert not np.isfinite(arrays["wild/loss"][-1])
    facts = json.loads((out / "resolved.json").read_text())["runs"]
    assert facts["slow"]["ended"] == "steps" and facts["wild"]["ended"] == "diverged"
    assert [
        line.split()[1] for line in result.output.splitlines() if line.startswith(("slow", "wild")) and "%" not in line
    ] == ["steps", "divergence"]


def test_a_race_on_data_draws_evaluated_losses(folder, gradlab_command):
    sets = ["--set", "task={name: digits_linear}", "--set", "train={steps: 4, eval_every: 2, batch_size: 8}"]
    result = gradlab_command("run", "race.yaml", *sets)
    assert result.exit_code == 0, result.output
    assert {"race.png", "history.csv"} < set(content(folder / "runs/race"))
    rows = list(csv.DictReader((folder / "runs/race/history.csv").read_text().splitlines()))
    assert [row["optimizer"] for row in rows] == ["slow"] * 3 + ["wild"] * 3


@pytest.mark.parametrize(("reason", "tail"), [("steps", 1.0), ("diverged", np.nan)])
def test_losses_at_common_steps(reason, tail):
    run = gradlab.fit(surface_task(quadratic()), gradlab.sgd(0.0), steps=4, eval_every=2)
    run = type(run)(**{**vars(run), "reason": reason, "metrics": {"loss": np.array([3.0, 2.0, 1.0])}})
    losses = runs.evaluated_at(run, np.array([0, 1, 2, 4, 6]))
    np.testing.assert_array_equal(losses, [3.0, 2.5, 2.0, tail, tail])


def test_a_folder_with_results_is_left_alone(folder, gradlab_command):
    gradlab_command("run", "run.yaml")
    before = content(folder / "runs/run")
    result = gradlab_command("run", "run.yaml", "--set", "train.steps=3")
    assert result.exit_code == 2
    assert "the output folder runs/run is not empty" in result.output and "--overwrite" in result.output
    assert content(folder / "runs/run") == before


def test_overwrite_replaces_results(folder, gradlab_command):
    gradlab_command("run", "run.yaml")
    result = gradlab_command("run", "run.yaml", "--set", "train.steps=3", "--overwrite")
    assert result.exit_code == 0, result.output
    with np.load(folder / "runs/run/curves.npz") as arrays:
        assert len(arrays["loss"]) == 3


def test_what_replaces_a_run_leaves_nothing_of_it(folder, gradlab_command):
    gradlab_command("run", "run.yaml")
    for name in ("inspect_sgd_12.json", "instruments.csv", "notes.txt", ".killed.unfinished/a"):
        (folder / "runs/run" / name).parent.mkdir(exist_ok=True)
        (folder / "runs/run" / name).write_text("old")
    sets = ["--set", "around=[{name: asam}]", "--set", "optimizer.learning_rate=0.05"]
    result = gradlab_command("run", "run.yaml", *sets, "--overwrite")
    assert result.exit_code == 0, result.output
    assert set(content(folder / "runs/run")) == RUN_FILES | {"notes.txt"}
    facts = json.loads((folder / "runs/run/resolved.json").read_text())["runs"]["sgd"]
    assert facts["optimizer"][0].startswith("sam(") and facts["steps"] == 12


def test_a_failure_while_the_files_are_written_leaves_the_old_ones(folder, gradlab_command, monkeypatch):
    gradlab_command("run", "run.yaml")
    before = content(folder / "runs/run")
    monkeypatch.setattr(runs, "_with_outcomes", lambda *_: 1 / 0)
    result = gradlab_command("run", "run.yaml", "--set", "train.steps=3", "--overwrite")
    assert isinstance(result.exception, ZeroDivisionError)
    assert content(folder / "runs/run") == before


def test_a_full_disk_is_told_and_leaves_the_old_files(folder, gradlab_command, monkeypatch):
    gradlab_command("run", "run.yaml")
    before = content(folder / "runs/run")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    result = gradlab_command("run", "run.yaml", "--set", "train.steps=3", "--overwrite")
    assert result.exit_code == 2
    assert "No space left on device" in result.output
    assert "Traceback" not in result.output
    assert content(folder / "runs/run") == before


def test_control_c_ends_cleanly(folder, gradlab_command, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "fit", interrupted)
    result = gradlab_command("run", "run.yaml")
    assert result.exit_code == 130
    assert "interrupted: nothing of this run was saved" in result.output
    assert not (folder / "runs/run").exists()


@pytest.mark.parametrize("config", ["run", "race"])
def test_control_c_ends_a_run_after_its_segment_and_keeps_it(folder, gradlab_command, monkeypatch, config):
    handler = signal.getsignal(signal.SIGINT)

    class Pressed(runs.SweepProgress):
        def _asdict(self):
            signal.raise_signal(signal.SIGINT)
            return super()._asdict()

    monkeypatch.setattr(runs, "SweepProgress", Pressed)
    result = gradlab_command("run", f"{config}.yaml")
    assert result.exit_code == 130, result.output
    out = f"runs/{config}"
    what = "this run" if config == "run" else "slow, wild of this race"
    assert f"interrupted: {out} holds what was done; {what} did not come to the end" in result.output
    facts = json.loads((folder / out / "resolved.json").read_text())["runs"]
    label, steps = ("sgd", 4) if config == "run" else ("slow", 5)
    assert list(facts) == [label] and (facts[label]["ended"], facts[label]["steps"]) == ("interrupted", steps)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_control_c_ends_at_once(folder, gradlab_command, monkeypatch):
    def twice(*_, **__):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runs, "fit", twice)
    result = gradlab_command("run", "run.yaml")
    assert result.exit_code == 130 and "nothing of this run was saved" in result.output
    assert not (folder / "runs/run").exists()


def test_a_bug_is_not_dressed_up_as_an_error_of_the_user(folder, gradlab_command, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(runs, "fit", broken)
    assert isinstance(gradlab_command("run", "run.yaml").exception, ValueError)


def test_bad_configs_exit_with_2_and_all_messages(folder, gradlab_command):
    result = gradlab_command("run", "run.yaml", "--set", "optimizer.lerning_rate=1", "--set", "train.steps=few")
    assert result.exit_code == 2
    assert "--set: optimizer.lerning_rate: unknown argument of sgd; did you mean 'learning_rate'?" in result.output
    assert "--set: train.steps: must be a whole number, got the string 'few'" in result.output
    assert not (folder / "runs").exists()


def test_a_sweep_is_no_run(folder, gradlab_command):
    result = gradlab_command("run", "sweep.yaml")
    assert result.exit_code == 2
    assert "sweep.yaml: sweep: `gradlab run` runs no sweep; type: gradlab sweep sweep.yaml" in result.output


def test_a_missing_package_is_told(folder, gradlab_command, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    result = gradlab_command("run", "run.yaml", "--set", "task={name: digits_linear}")
    assert result.exit_code == 2
    assert "pip install 'gradlab[lab]'" in result.output


@pytest.mark.parametrize(("config", "programs"), [("run", 1), ("race", 2)])
def test_a_dry_run_trains_nothing(folder, gradlab_command, monkeypatch, config, programs):
    monkeypatch.setattr(runs, "fit", None)
    result = gradlab_command("run", f"{config}.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Nothing was trained" in result.output
    assert not (folder / "runs").exists()
    rows = [line.split() for line in result.output.splitlines() if line.split()[:1] in (["sgd"], ["slow"], ["wild"])]
    assert [row[-7:-2] for row in rows] == [["1", "16", "B", "0", "B"]] * programs  # two float64 parameters, no state
    assert "12 steps in segments of 4" in result.output or "10 steps in segments of 5" in result.output
