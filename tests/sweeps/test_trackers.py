"""What the trackers' files hold, read without the code that wrote them where there is another way."""

import json
import logging
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest

from gradlab.sweeps.outcomes.writers import open_writer, write_files, write_result
from tests.sweeps.results import TRIALS, small_result
from tests.sweeps.test_writers import RUNS, SEEDS, SPACE, expected_scalars, expected_summary

pytestmark = pytest.mark.writers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep's folder with what all writers make of it; the working folder is an empty one."""
    folder, elsewhere = tmp_path_factory.mktemp("a_sweep"), tmp_path_factory.mktemp("elsewhere")
    before = os.getcwd()
    os.chdir(elsewhere)
    try:
        write_files(small_result(), folder, ["tensorboard", "wandb", "mlflow"])
    finally:
        os.chdir(before)
    assert list(elsewhere.iterdir()) == []
    return folder


def numbers_of(summary):
    return {name: value for name, value in summary.items() if not isinstance(value, str)}


def test_the_folder_of_the_sweep_has_one_of_each(folder):
    assert {path.name for path in folder.iterdir()} == {"metrics.jsonl", "tensorboard", "wandb", "mlflow"}


# TensorBoard


def events_of(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def test_tensorboard_reads_the_scalars(folder):
    assert {path.name for path in (folder / "tensorboard").iterdir()} == set(RUNS)
    for run, place in RUNS.items():
        events, found, summary = events_of(folder / "tensorboard" / run), {}, {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                if tag.startswith("summary/"):
                    assert event.step == 0
                    summary[tag.removeprefix("summary/")] = event.value
                else:
                    found.setdefault(event.step, {})[tag] = event.value
        expected = expected_scalars(*place)
        assert found.keys() == expected.keys()
        for step, values in expected.items():
            assert found[step] == pytest.approx(values, rel=1e-6)  # float32 in the file
        assert summary == pytest.approx(numbers_of(expected_summary(*place)), rel=1e-6)


def hyperparameters_in(run):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events_of(run).summary_metadata
    parsed = {
        tag: HParamsPluginData.FromString(content[tag].plugin_data.content) for tag in content if "hparams" in tag
    }
    values = parsed["_hparams_/session_start_info"].session_start_info.hparams
    shown = {name: value.string_value or value.number_value for name, value in values.items()}
    return shown, parsed["_hparams_/experiment"].experiment


def test_tensorboard_reads_the_hyperparameters(folder):
    shown = {trial.uid: "null" if (decay := trial.values["decay"]) is None else str(decay) for trial in TRIALS}
    for run, (trial, seed) in RUNS.items():
        values, experiment = hyperparameters_in(folder / "tensorboard" / run)
        uid = TRIALS[trial].uid
        rate = TRIALS[trial].values["learning_rate"]
        assert values == {"uid": uid, "seed": SEEDS[seed], "learning_rate": rate, "decay": shown[uid], "b1": 0.9}
        assert {info.name.tag for info in experiment.metric_infos} == {"loss", "valid_loss", "valid_accuracy"}
        kinds = {info.name: info.type for info in experiment.hparam_infos}
        number, text = kinds["learning_rate"], kinds["uid"]
        assert kinds == {"uid": text, "seed": number, "learning_rate": number, "decay": text, "b1": number}


# Weights & Biases


def wandb_records(path):
    """The records of a run's file: a header of 7 bytes, then blocks of 32 KiB of LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def items_of(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb_holds_runs_offline(folder):
    found = {}
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        records = list(wandb_records(path))
        (run,) = [record.run for record in records if record.HasField("run")]
        history = [items_of(record.history.item) for record in records if record.HasField("history")]
        summary = {}
        for record in records:
            summary |= items_of(record.summary.update)
        assert records[-1].HasField("exit") or any(record.HasField("exit") for record in records)
        found[run.display_name] = (run, history, summary)
    assert found.keys() == RUNS.keys()
    for name, (trial, seed) in RUNS.items():
        run, history, summary = found[name]
        assert (run.run_group, run.project) == (folder.name, "gradlab")
        config = items_of(run.config.update)
        sweep = config.pop("sweep")
        assert {key: value for key, value in config.items() if not key.startswith("_")} == {
            "uid": TRIALS[trial].uid, "seed": SEEDS[seed], **TRIALS[trial].values
        }  # fmt: skip
        assert (sweep["space"], sweep["metric"]) == (SPACE.spec(), "valid_loss")
        reported = {row["_step"]: {k: v for k, v in row.items() if not k.startswith("_")} for row in history}
        assert reported == expected_scalars(trial, seed)
        assert expected_summary(trial, seed).items() <= summary.items()


# MLflow


@pytest.fixture(scope="module")
def mlflow_runs(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
        return mlflow.search_runs(experiment_names=["gradlab"])


def test_mlflow_finds_runs_under_the_sweep(folder, mlflow_runs):
    assert set(mlflow_runs["status"]) == {"FINISHED"}
    parent = mlflow_runs[mlflow_runs["tags.mlflow.runName"] == folder.name].iloc[0]
    assert (parent["tags.task"], parent["tags.metric"], parent["tags.mode"]) == ("digits", "valid_loss", "min")
    children = mlflow_runs[mlflow_runs["tags.mlflow.parentRunId"] == parent["run_id"]]
    assert set(children["tags.mlflow.runName"]) == set(RUNS)
    assert len(mlflow_runs) == len(RUNS) + 1
    for _, row in children.iterrows():
        trial, seed = RUNS[row["tags.mlflow.runName"]]
        own = TRIALS[trial]
        assert (row["params.uid"], row["params.seed"]) == (own.uid, str(SEEDS[seed]))
        assert float(row["params.learning_rate"]) == own.values["learning_rate"]
        assert row["params.decay"] == {None: "null", "cosine": "cosine", 0.5: "0.5"}[own.values["decay"]]
        summary = expected_summary(trial, seed)
        assert row["tags.status"] == summary["status"]
        for name, value in numbers_of(summary).items():
            assert row[f"metrics.{name}"] == value
        assert np.isnan(row["metrics.valid_loss_final"]) == (summary["status"] == "diverged")


def test_mlflow_keeps_every_scalar_at_its_step(folder):
    with sqlite3.connect(folder / "mlflow" / "mlflow.db") as database:
        rows = database.execute(
            "SELECT runs.name, metrics.step, metrics.key, metrics.value FROM metrics JOIN runs USING (run_uuid)"
        ).fetchall()
    database.close()
    for run, place in RUNS.items():
        found = {}
        for name, step, key, value in rows:
            if name == run and key in ("loss", "valid_loss", "valid_accuracy"):
                found.setdefault(step, {})[key] = value
        assert found == expected_scalars(*place)


def test_mlflow_takes_more_metrics_than_one_batch_and_loggers_are_as_loud_as_before(tmp_path, monkeypatch):
    evaluations = 701  # of three curves: 2103 numbers a run, which are three batches
    steps = np.arange(evaluations)
    values = np.random.default_rng(0).random((3, 2, evaluations))
    result = small_result(
        steps=700, eval_step=steps, metrics={"valid_loss": values, "valid_accuracy": values},
        loss=values, loss_step=steps, diverged_at=np.full((3, 2), -1),
    )  # fmt: skip
    loggers = [logging.getLogger(name) for name in ("mlflow.store", "alembic")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.ERROR)
    write_result(result, open_writer("mlflow", tmp_path))
    assert [logger.level for logger in loggers] == [logging.ERROR] * 2
    with sqlite3.connect(tmp_path / "mlflow" / "mlflow.db") as database:
        (count,) = database.execute("SELECT count(*) FROM metrics WHERE key = 'valid_accuracy'").fetchone()
    database.close()
    assert count == 6 * evaluations


# all


@pytest.mark.parametrize("given", [None, "true"])
def test_the_environment_is_as_before_afterwards(given, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    if given is not None:
        monkeypatch.setenv("WANDB_ERROR_REPORTING", given)
    write_result(small_result(), open_writer("wandb", tmp_path))
    assert os.environ.get("WANDB_ERROR_REPORTING") == given


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_second_sweep_takes_the_place_of_the_first(name, tmp_path):
    write_result(small_result(), open_writer(name, tmp_path))
    (tmp_path / name / "a file of the first").touch()
    write_result(small_result(), open_writer(name, tmp_path))
    assert not (tmp_path / name / "a file of the first").exists()
    if name == "wandb":
        assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == len(RUNS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


PROGRAM = """
import os, sys
from gradlab.sweeps.outcomes.writers import write_files
from tests.sweeps.results import small_result
write_files(small_result(), sys.argv[1], sys.argv[2:])
print([name for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY") if name in os.environ])
"""


@pytest.fixture
def proxy():
    """The address of a server that would carry all traffic to the network, and a function that says who came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        def someone_came():
            try:
                server.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield f"http://127.0.0.1:{server.getsockname()[1]}", someone_came


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_fresh_process_connects_to_nothing_and_says_nothing(name, tmp_path, proxy):
    """Without the variables of pytest and CI, where MLflow would not report to its makers anyway."""
    (tmp_path / "out").mkdir()
    (tmp_path / "cwd").mkdir()
    address, someone_came = proxy
    known = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH"}
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {key: value for key, value in os.environ.items() if key in known}
    environment |= {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu", "WANDB_MODE": "online"}
    environment |= {"WANDB_CACHE_DIR": str(tmp_path / "cache"), "HTTPS_PROXY": address, "HTTP_PROXY": address}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "out"), name],
        env=environment,
        cwd=tmp_path / "cwd",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not someone_came()
    assert list((tmp_path / "cwd").iterdir()) == []
    assert (tmp_path / "out" / name).is_dir()
