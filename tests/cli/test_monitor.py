"""``monitor:`` in configs, and ``gradlab inspect``."""

import csv
import json

import numpy as np
import pytest
import yaml

RUN = """
task: {name: digits_linear}
optimizer: {name: sgd, learning_rate: 0.2, momentum: 0.5}
train: {steps: 6, batch_size: 16, eval_every: 2}
monitor: {instruments: [norms, {name: stability, products: 4}], every: 3}
"""
SWEEP = """
task: {name: quadratic, condition: 5.0}
optimizer: {name: sgd, learning_rate: 0.1}
train: {steps: 8, eval_every: 4}
monitor: light
sweep: {trials: 2, space: {optimizer.learning_rate: {log: [1e-3, 1e-1]}}}
"""


@pytest.fixture
def watched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path


@pytest.fixture
def saved(watched, gradlab_command):
    done = gradlab_command("run", "run.yaml", "--out", "saved")
    assert done.exit_code == 0, done.output
    return watched / "saved", done.output


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_its_instruments_saw_and_says_what_they_cost(saved):
    folder, said = saved
    looks = rows(folder / "instruments.csv")
    assert [int(row["step"]) for row in looks] == [0, 3]
    assert {"norms/grads", "stability/ratio"} <= set(looks[0])
    np.testing.assert_allclose(float(looks[0]["norms/update"]), 0.2 * float(looks[0]["norms/grads"]), rtol=1e-5)
    assert (folder / "instruments.png").stat().st_size > 5000
    with np.load(folder / "curves.npz") as curves:
        np.testing.assert_array_equal(curves["instrument_step"], [0, 3])
        assert curves["instrument.stability/sharpness"].shape == (2,)
    assert "instruments norms, stability: a look takes" in said and "every 3 steps, they add" in said


def test_a_race_leaves_the_looks_of_each_run(watched, gradlab_command):
    config = yaml.safe_load(RUN)
    part = config.pop("optimizer")
    config |= {"race": {"slow": part | {"learning_rate": 0.01}, "fast": part}, "monitor": "light"}
    (watched / "race.yaml").write_text(yaml.safe_dump(config))
    done = gradlab_command("run", "race.yaml", "--out", "raced")
    assert done.exit_code == 0, done.output
    assert [row["optimizer"] for row in rows(watched / "raced" / "instruments.csv")] == ["fast"] * 3 + ["slow"] * 3
    assert (watched / "raced" / "instruments_fast.png").is_file()
    assert "say which run, with --optimizer 'fast' or 'slow'" in gradlab_command("inspect", "raced").output
    assert (
        "has no run 'fats'; did you mean 'fast'?" in gradlab_command("inspect", "raced", "--optimizer", "fats").output
    )
    done = gradlab_command("inspect", "raced", "--optimizer", "Fast", "--at", "2", "--instruments", "probe")
    assert done.exit_code == 0, done.output
    assert "fast after 2 steps, on 1,000 training examples" in done.output


def test_a_sweep_has_what_its_instruments_saw_in_its_table(watched, gradlab_command):
    done = gradlab_command("sweep", "sweep.yaml", "--out", "swept")
    assert done.exit_code == 0, done.output
    assert "instruments norms: a look takes" in done.output
    table = rows(watched / "swept" / "results.csv")
    assert float(table[0]["norms/grads_final"]) > 0
    assert gradlab_command("sweep", "sweep.yaml", "--dry-run").exit_code == 0


def test_a_dry_run_compiles_the_instruments_too(watched, gradlab_command):
    done = gradlab_command("run", "run.yaml", "--dry-run")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("lite", "monitor.instruments: unknown instrument 'lite'; did you mean 'light'?"),
        (["probe", "light"], "monitor.instruments.1: unknown instrument 'light'"),
        ([{"name": "stability", "product": 3}], "monitor.instruments.0.product: instrument stability has no such"),
        ({"instruments": "light", "evry": 3}, "monitor.evry: unknown key"),
        (["probe", "probe"], "monitor.instruments: instrument 'probe' is given 2 times"),
        ([{"name": "noise", "parts": 3}], "monitor.instruments: instrument 'noise' cannot cut a batch of 16"),
    ],
)
def test_a_section_that_does_not_fit_is_refused_at_its_place(watched, gradlab_command, monitor, message):
    (watched / "bad.yaml").write_text(yaml.safe_dump(yaml.safe_load(RUN) | {"monitor": monitor}))
    done = gradlab_command("run", "bad.yaml")
    assert done.exit_code == 2
    assert message in done.output


def test_a_sweep_refuses_looks_that_no_evaluation_would_keep(watched, gradlab_command):
    done = gradlab_command("sweep", "sweep.yaml", "--set", "monitor={instruments: light, every: 5}")
    assert done.exit_code == 2 and "monitor.every: is more than the 4 steps between evaluations" in done.output


def test_inspecting_makes_the_run_again_to_the_same_numbers(saved, gradlab_command):
    folder, _ = saved
    done = gradlab_command("inspect", "saved", "--at", "4")
    assert done.exit_code == 0, done.output
    assert "sgd after 4 steps, on 1,000 training examples" in done.output
    assert "differ from those saved by at most 0 of themselves" in done.output
    found = json.loads((folder / "inspect_sgd_4.json").read_text())
    assert found["step"] == 4 and found["largest_difference"] == 0
    instruments = list(dict.fromkeys(one["instrument"] for one in found["readings"]))
    assert instruments == ["health", "probe", "stability", "spectrum", "trace", "saddle", "critical", "noise"]
    readings = {(one["instrument"], one["name"]): one["value"] for one in found["readings"]}
    assert readings["stability", "threshold"] == pytest.approx(3 / 0.2, rel=1e-6)
    assert readings["stability", "sharpness"] == pytest.approx(readings["spectrum", "largest 1"], rel=1e-3)
    assert len(rows(folder / "inspect_sgd_4.csv")) == len(found["readings"])


def test_the_best_and_the_last_point_are_found(saved, gradlab_command):
    folder, _ = saved
    history = rows(folder / "history.csv")
    best = min(history, key=lambda row: float(row["eval_loss"]))
    for at, step in (("best", int(best["step"])), ("last", 6)):
        assert gradlab_command("inspect", "saved", "--at", at, "--instruments", "probe").exit_code == 0
        assert (folder / f"inspect_sgd_{step}.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "7"], "ended after 6 steps, so there is no step 7"),
        (["--at", "bets"], "--at is best, last or a number of steps, got 'bets'; did you mean 'best'?"),
        (["--instruments", "stabilty,nose"], "unknown instrument 'nose'; did you mean 'noise'?"),
        (["--optimizer", "adam"], "has no run of 'adam'"),
    ],
)
def test_what_cannot_be_inspected_is_refused(saved, gradlab_command, arguments, message):
    done = gradlab_command("inspect", "saved", *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_a_run_that_is_not_reproduced_is_told(saved, gradlab_command):
    folder, _ = saved
    with np.load(folder / "curves.npz") as curves:
        arrays = dict(curves)
    for factor, told in ((1.0005, False), (1.002, True), (np.nan, True)):
        np.savez(folder / "curves.npz", **arrays | {"loss": arrays["loss"] * np.where(np.arange(6) == 1, factor, 1)})
        done = gradlab_command("inspect", "saved", "--at", "2", "--instruments", "probe")
        assert done.exit_code == 0, done.output
        assert ("saved was not reproduced: made again, the losses differ" in done.output) == told


def test_a_folder_without_a_run_is_refused(watched, gradlab_command):
    done = gradlab_command("inspect", ".")
    assert done.exit_code == 2 and "holds no curves.npz" in done.output
