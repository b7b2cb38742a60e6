import signal

import numpy as np
import pytest

import gradlab
from gradlab.cli import sweeps
from gradlab.cli.sweeps import edge_warnings
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.tasks import quadratic, surface_task

DATA = {"config.yaml", "curves.npz", "events.jsonl", "metrics.jsonl", "resolved.json", "results.csv", "results.parquet"}
OF_ONE_NUMBER = {"best_of_k.png", "importances.png", "learning_curves.png", "rate_by_steps.png"}
OF_ONE_NUMBER |= {"sensitivity.png", "slices.png"}
FILES = DATA | OF_ONE_NUMBER | {"heat_map.png", "parallel_coordinates.png"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_sweep_leaves_its_result_and_pictures(folder, gradlab_command):
    result = gradlab_command("sweep", "sweep.yaml")
    assert result.exit_code == 0, result.output
    out = folder / "runs/sweep"
    assert names(out) == FILES
    loaded = SweepResult.load(out)
    space = {"learning_rate": {"log": [1e-3, 1e-1]}, "momentum": {"linear": [0, 0.9]}, "nesterov": [True, False]}
    expected = gradlab.sweep(
        surface_task(quadratic(condition=5.0)), "sgd", space, trials=8, seeds=2, steps=10, eval_every=4, chunk=3
    )
    np.testing.assert_allclose(loaded.loss, expected.loss, rtol=1e-12)
    assert loaded.values("optimizer.learning_rate") == expected.values("learning_rate")
    assert loaded.seeds == (0, 1)
    assert loaded.facts["limits"]["chunk"] == 3


def test_the_table_shows_the_best_with_their_spread(folder, gradlab_command):
    output = gradlab_command("sweep", "sweep.yaml", "--set", "task.jitter=0.5").output
    result = SweepResult.load(folder / "runs/sweep")
    best = result.best().iloc[0]
    assert "The 5 best of 8 trials; final values, mean ± std of 2 seeds" in output
    (first,) = [line for line in output.splitlines() if line.startswith("1 ")]
    assert f"{best['mean']:.4g} ± {best['std']:.2g}" in first
    assert first.split()[-1] == best["uid"]
    assert "16 runs of 10 steps" in output
    assert "results in runs/sweep: " in output


def test_diverged_runs_are_counted(folder, gradlab_command):
    sets = ["--set", "sweep.space={optimizer.learning_rate: [0.1, 0.2, 1e299, 1e300]}"]
    result = gradlab_command("sweep", "sweep.yaml", *sets, "--set", "sweep.sampler=grid")
    assert result.exit_code == 0, result.output
    assert "; 4 diverged" in result.output
    assert "The 2 best of 4 trials" in result.output


def test_a_sweep_that_diverges_as_a_whole_is_saved_and_told(folder, gradlab_command):
    sets = ["--set", "sweep.space={optimizer.learning_rate: [1e299, 1e300]}"]
    result = gradlab_command("sweep", "sweep.yaml", *sets, "--set", "sweep.sampler=grid")
    assert result.exit_code == 0, result.output
    assert "warning: every trial diverged" in result.output
    assert names(folder / "runs/sweep") == DATA


def test_one_number_has_no_heat_map(folder, gradlab_command):
    space = "sweep.space={optimizer.learning_rate: [0.1, 0.2], optimizer.nesterov: [true, false]}"
    result = gradlab_command("sweep", "sweep.yaml", "--set", space, "--set", "sweep.sampler=grid")
    assert result.exit_code == 0, result.output
    assert names(folder / "runs/sweep") == DATA | OF_ONE_NUMBER - {"importances.png"}


def test_the_best_at_the_edge_is_told(folder, gradlab_command):
    space = "sweep.space={optimizer.learning_rate: {log: [1e-4, 1e-2]}}"  # the faster the better, up to 0.3
    result = gradlab_command("sweep", "sweep.yaml", "--set", space, "--set", "sweep.sampler=grid")
    assert (
        "warning: the best trial is at the edge of the space, optimizer.learning_rate = 0.01 of 0.0001 to 0.01"
        in result.output
    )


def test_the_best_inside_is_not_told(folder, gradlab_command):
    space = "sweep.space={optimizer.learning_rate: {log: [1e-2, 10]}}"
    sets = ["--set", space, "--set", "sweep.sampler=grid", "--set", "optimizer.momentum=0"]
    assert "edge" not in gradlab_command("sweep", "sweep.yaml", *sets).output
    assert edge_warnings(SweepResult.load(folder / "runs/sweep")) == []


def test_a_dry_run_counts_and_trains_nothing(folder, gradlab_command, monkeypatch):
    monkeypatch.setattr(sweeps, "run_setup", None)
    result = gradlab_command("sweep", "sweep.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert not (folder / "runs").exists()
    assert "8 trials x 2 seeds = 16 runs of 10 steps in segments of 4: 160 steps in all" in result.output
    rows = [line.split() for line in result.output.splitlines() if "nesterov=" in line]
    assert {row[1] for row in rows} == {"optimizer.nesterov=True", "optimizer.nesterov=False"}
    for row in rows:
        trials, chunks, lanes, programs = map(int, row[2:6])
        assert (trials, chunks, lanes, programs) == (4, 2, 6, 2)  # chunks of 3; segments of 4 and 2 steps
        # a lane: parameters, momentum and the last loss in float64; the model has no state; two int32
        assert " ".join(row[6:8]) == f"{(2 + 2 + 1) * 8 + 2 * 4} B"
        assert row[9] in ("B", "kB")


def test_warnings_are_lines(folder, gradlab_command, recwarn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [])
        result = gradlab_command("sweep", "sweep.yaml", "--set", "sweep.trials=6", "--dry-run")
    assert "warning: sobol: 6 trials leave the space unevenly covered; take 4 or 8" in result.output


def test_control_c_ends_cleanly(folder, gradlab_command, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    assert gradlab_command("sweep", "sweep.yaml", "--resume").exit_code == 2
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "run_setup", interrupted)
        result = gradlab_command("sweep", "sweep.yaml")
    assert result.exit_code == 130
    assert "interrupted: runs/sweep holds what was done; the same command goes on from there" in result.output
    refused = gradlab_command("sweep", "sweep.yaml", "--set", "train.steps=20")
    assert refused.exit_code == 2 and "differs in config.train.steps, plan.steps" in refused.output
    again = gradlab_command("sweep", "sweep.yaml", "--resume")
    assert again.exit_code == 0, again.output
    assert names(folder / "runs/sweep") == FILES


def test_a_signal_stops_after_the_segment(folder, gradlab_command, monkeypatch):
    original, calls, handler = sweeps.run_setup, [], signal.getsignal(signal.SIGINT)

    def signalled(setup, progress, journal, workers):
        def tell(now):
            calls.append(now.done)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)
            progress(now)

        return original(setup, tell, journal)

    monkeypatch.setattr(sweeps, "run_setup", signalled)
    result = gradlab_command("sweep", "sweep.yaml")
    assert result.exit_code == 130, result.output
    assert len(calls) == 2
    assert signal.getsignal(signal.SIGINT) is handler
    assert gradlab_command("sweep", "sweep.yaml").exit_code == 0
    assert len(calls) == 4 * 3 - 1  # chunks of segments, but that after the signal: none ran twice


def test_a_run_is_no_sweep(folder, gradlab_command):
    result = gradlab_command("sweep", "run.yaml")
    assert result.exit_code == 2
    assert (
        "run.yaml: sweep: missing section, which says what varies; for what this config says: gradlab run run.yaml"
        in result.output
    )


def test_a_folder_with_results_is_left_alone(folder, gradlab_command):
    (folder / "taken").mkdir()
    (folder / "taken" / "notes.txt").write_text("mine")
    result = gradlab_command("sweep", "sweep.yaml", "--out", "taken")
    assert result.exit_code == 2
    assert "the output folder taken is not empty: it holds notes.txt" in result.output
    assert names(folder / "taken") == {"notes.txt"}


def test_quiet_prints_nothing(folder, gradlab_command):
    assert gradlab_command("sweep", "sweep.yaml", "--quiet", "--set", "sweep.trials=4").output == ""
