import json
import subprocess
import sys

import numpy as np
import pytest

from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.writers import WRITERS, JsonLines, check_writers, open_writer, write_files, write_result
from tests.sweeps.results import DIVERGED_AT, SPACE, TRIALS, VALID_LOSS, lanes, small_result

SEEDS = (7, 9)
RUNS = {f"{trial.uid}-seed{seed}": (i, j) for i, trial in enumerate(TRIALS) for j, seed in enumerate(SEEDS)}
FACTS = {"curves": ["loss", "valid_loss", "valid_accuracy"], "metric": "valid_loss", "mode": "min", "steps": 10}

# the points of the training loss lie at the steps 0, 2, 4, 6, the evaluations at 0, 5, 10
LOSSES = {5: (0, 1, 2), 10: (3,)}


def expected_scalars(trial, seed):
    """What a run reports at which step, worked out from the arrays by hand."""
    loss = np.arange(24).reshape(3, 2, 4)[trial, seed]
    found = {}
    for index, step in enumerate((0, 5, 10)):
        if 0 <= DIVERGED_AT[trial, seed] < step:
            continue
        valid = VALID_LOSS[trial, seed, index]
        found[step] = {"valid_loss": valid, "valid_accuracy": 1 - valid / 4}
        if step:
            found[step]["loss"] = np.mean(loss[list(LOSSES[step])])
    return found


def expected_summary(trial, seed):
    row = small_result().table.iloc[2 * trial + seed]
    names = ["status", "steps", "best_step", "diverged_at", "bucket", "lane", "lane_method"]
    names += ["compile_seconds", "run_seconds"]
    names += [f"{curve}_{which}" for curve in FACTS["curves"] for which in ("final", "best")]
    return {name: row[name] for name in names if row[name] == row[name]}


class Recorder:
    """Keeps what it is told, in order."""

    packages = ()

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def recorded():
    recorder = Recorder()
    write_result(small_result(), recorder)
    return recorder.calls


def test_a_sweep_is_replayed_run_by_run(recorded):
    names = [call[0] for call in recorded]
    one_run = ["hyperparams", "scalars", "scalars", "scalars", "summary"]
    diverged = [name for name in one_run if name != "scalars"]
    diverged[1:1] = ["scalars", "scalars"]
    assert names == ["begin", *one_run * 4, *diverged, *one_run, "close"]
    order = [call[1] for call in recorded if call[0] == "summary"]
    assert order == list(RUNS)


def test_scalars_are_those_of_the_evaluations_before_the_divergence(recorded):
    for run, place in RUNS.items():
        told = {step: values for name, whose, *rest in recorded[1:-1] if name == "scalars" and whose == run
                for step, values in [rest]}  # fmt: skip
        assert told == expected_scalars(*place)
        assert all(type(value) is float for values in told.values() for value in values.values())


def test_numbers_that_are_not_finite_are_left_out():
    values = VALID_LOSS.copy()
    values[0, 0, 1], values[1, 0, 1] = np.nan, np.inf
    loss = lanes()["loss"].copy()
    loss[1, 0, :3], loss[2, 1, 1] = -np.inf, np.nan
    recorder = Recorder()
    write_result(small_result(metrics={"valid_loss": values}, loss=loss), recorder)
    told = {call[1:3]: call[3] for call in recorder.calls if call[0] == "scalars"}
    first, second = (f"{trial.uid}-seed7" for trial in TRIALS[:2])
    assert told[first, 5] == {"loss": 1.0}
    assert told[f"{TRIALS[2].uid}-seed9", 5]["loss"] == 21.0  # the mean of 20 and 22
    assert (second, 5) not in told
    assert told[second, 10] == {"loss": 11.0, "valid_loss": 2.5}


def test_hyperparameters_and_summaries_are_plain(recorded):
    told = {call[1]: call[2] for call in recorded if call[0] == "hyperparams"}
    summaries = {call[1]: call[2] for call in recorded if call[0] == "summary"}
    for run, (trial, seed) in RUNS.items():
        assert told[run] == {"uid": TRIALS[trial].uid, "seed": SEEDS[seed], **TRIALS[trial].values}
        assert summaries[run] == expected_summary(trial, seed)
        assert {type(value) for value in summaries[run].values()} == {str, int, float}
    assert summaries[f"{TRIALS[2].uid}-seed7"]["status"] == "diverged"
    assert "valid_loss_final" not in summaries[f"{TRIALS[2].uid}-seed7"]


def test_the_facts_of_all_runs_are_json(recorded):
    (name, facts) = recorded[0]
    assert name == "begin"
    assert json.loads(json.dumps(facts)) == facts
    assert FACTS.items() <= facts.items()
    assert (facts["space"], facts["trials"], facts["seeds"]) == (SPACE.spec(), 3, [7, 9])
    assert facts["task"] == "digits"


def test_points_of_the_loss_count_for_the_evaluation_after_them():
    """The points stand for steps from theirs on: that at step 5 comes after the evaluation at 5."""
    recorder = Recorder()
    loss = np.array([[[1.0, 2.0, 4.0, 8.0]] * 2] * 3)
    result = small_result(loss=loss, loss_step=np.array([0, 4, 5, 9]), diverged_at=-np.ones((3, 2), int))
    write_result(result, recorder)
    means = [call[3].get("loss") for call in recorder.calls if call[0] == "scalars"]
    assert means == [None, 1.5, 6.0] * 6


def test_jsonl_has_a_line_for_each_evaluation(tmp_path):
    write_files(small_result(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = [
        {"uid": TRIALS[trial].uid, "seed": SEEDS[seed], "step": step, **values}
        for trial, seed in RUNS.values()
        for step, values in expected_scalars(trial, seed).items()
    ]
    assert lines == expected
    assert len(lines) == 17


def test_jsonl_is_absent_until_it_is_whole_and_replaces_an_older_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("old")
    writer = JsonLines(tmp_path)
    writer.begin({})
    writer.hyperparams("a-seed0", {"uid": "a", "seed": 0})
    writer.scalars("a-seed0", 3, {"loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == "old"
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"uid": "a", "seed": 0, "step": 3, "loss": 0.5}\n'


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    for name, writer in WRITERS.items():
        monkeypatch.setattr(writer, "packages", ("a_package_that_nobody_has",))
        with pytest.raises(ModuleNotFoundError, match=rf"writer '{name}' needs a_package.*'gradlab\[writers\]'"):
            open_writer(name, tmp_path)


def test_a_folder_called_like_the_package_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "tracker_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(WRITERS["wandb"], "packages", ("tracker_of_nobody",))
    with pytest.raises(ModuleNotFoundError, match="needs tracker_of_nobody"):
        check_writers(["wandb"])


def test_nothing_is_written_if_one_writer_is_unknown(tmp_path):
    with pytest.raises(ValueError, match="unknown writer 'tensorbord'; did you mean 'tensorboard'"):
        write_files(small_result(), tmp_path, ["tensorbord"])
    assert list(tmp_path.iterdir()) == []


def test_importing_the_writers_imports_no_tracker():
    trackers = {"tensorboardX", "wandb", "mlflow", "sqlalchemy"}
    code = f"import sys, gradlab.sweeps.outcomes.writers; print({trackers} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "set()\n", done.stderr


def test_a_sweep_read_from_disk_is_written_the_same(tmp_path, recorded):
    small_result().save(tmp_path)
    recorder = Recorder()
    write_result(SweepResult.load(tmp_path), recorder)
    assert recorder.calls == recorded
