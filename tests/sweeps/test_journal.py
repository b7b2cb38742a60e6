"""Sweeps that are killed go on to the numbers of uninterrupted ones; others are refused."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.sweeps import SweepResult
from gradlab.sweeps.engine import journal
from gradlab.sweeps.engine.journal import Journal, is_unfinished, open_journal
from gradlab.tasks.catalogue import digits_linear

SPACE = {"learning_rate": {"log": [1e-3, 1e-1]}, "nesterov": [True, False]}
OPTIONS = {"trials": 8, "seeds": 2, "steps": 12, "batch_size": 32, "eval_every": 3, "chunk": 3}


def swept(out=None, **changes):
    return gradlab.sweep(digits_linear(), gradlab.adam, SPACE, out=out, **OPTIONS | changes)


@pytest.fixture(scope="module")
def whole():
    return swept()


def assert_equal(one, other):
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.diverged_at, other.diverged_at)
    for name in one.metrics:
        np.testing.assert_array_equal(one.metrics[name], other.metrics[name])


def stop_after(count):
    """A progress callback that ends the process's sweep as a kill would: between two segments."""
    calls = []

    def progress(now):
        calls.append(now.done)
        if len(calls) == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("segments", [1, 2, 4, 7, 15])
def test_an_interrupted_sweep_goes_on_to_the_same_numbers(tmp_path, whole, segments, monkeypatch):
    monkeypatch.setattr(journal, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(Journal.__init__, "__defaults__", (0.0,))
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out", progress=stop_after(segments))
    assert is_unfinished(tmp_path / "out")
    assert_equal(swept(tmp_path / "out"), whole)
    assert_equal(SweepResult.load(tmp_path / "out"), whole)
    assert not is_unfinished(tmp_path / "out")
    events = [json.loads(line)["event"] for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    assert events[0] == "begun" and events[-1] == "done" and {"interrupted", "resumed"} <= set(events)
    assert events.count("chunk") == 4  # two buckets of four trials in chunks of three: none ran twice


def test_only_what_is_missing_runs_again(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out", progress=stop_after(6))
    module = importlib.import_module("gradlab.sweeps.engine.chunks")
    original, chunks, reports = module.lane_segments, [], []
    counted = lambda *args, **options: chunks.append(1) or original(*args, **options)
    monkeypatch.setattr(module, "lane_segments", counted)
    swept(tmp_path / "out", progress=reports.append)
    assert len(chunks) == 3
    assert len(reports) == 12 and reports[-1].done == reports[-1].total == 8 * 2 * 12


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"steps": 24}, "plan.steps"),
        ({"seeds": 3}, "seeds"),
        ({"trials": 16}, "trials"),
        ({"chunk": 2}, "chunk"),
        ({"sampling": "replacement"}, "plan.sampling"),
    ],
)
def test_another_sweep_is_refused_and_says_where_it_differs(tmp_path, changes, key):
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out", progress=stop_after(1))
    with pytest.raises(ValueError, match=f"unfinished sweep that differs in .*{key}.*--overwrite"):
        swept(tmp_path / "out", **changes)
    assert is_unfinished(tmp_path / "out")
    swept(tmp_path / "out", overwrite=True, **changes)
    assert not is_unfinished(tmp_path / "out")


def test_other_data_and_another_optimizer_are_other_sweeps(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out", progress=stop_after(1))
    with pytest.raises(ValueError, match=r"differs in task\.data"):
        gradlab.sweep(digits_linear(seed=1), gradlab.adam, SPACE, out=tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match="differs in optimizer"):
        make = lambda **values: gradlab.adam(b1=0.5, **values)
        gradlab.sweep(digits_linear(), make, SPACE, out=tmp_path / "out", **OPTIONS)


def test_a_second_process_is_refused(tmp_path):
    first = open_journal(tmp_path / "out", {"a": 1})
    program = (
        f"from gradlab.sweeps.engine.journal import open_journal; open_journal({str(tmp_path / 'out')!r}, {{'a': 1}})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "FileExistsError: another process is sweeping into" in result.stderr
    first.close(done=False)
    open_journal(tmp_path / "out", {"a": 1}).close(done=False)


KILLED = """
import sys
import gradlab
from gradlab.sweeps.engine.journal import Journal
from gradlab.tasks.catalogue import digits_linear

Journal.__init__.__defaults__ = (0.0,)
gradlab.sweep(digits_linear(), gradlab.adam, {space}, out={out!r}, progress=lambda now: print(now.done, flush=True),
              **{options})
"""


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_with_the_same_numbers(tmp_path):
    """A process of its own, ``kill -9`` after so many reports and a random moment more, until one gets through."""
    out, rng = str(tmp_path / "out"), np.random.default_rng(0)
    command = [sys.executable, "-c", KILLED.format(space=SPACE, out=out, options=OPTIONS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a process that is killed may leave half a program
    for _ in range(10):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(rng.integers(1, 4)):
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        if not is_unfinished(out):
            break
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    whole = str(tmp_path / "whole")
    fresh = [sys.executable, "-c", KILLED.format(space=SPACE, out=whole, options=OPTIONS)]
    subprocess.run(fresh, env=environment, capture_output=True, check=True)
    assert done.returncode == 0 or "not empty" in done.stderr, done.stderr
    assert_equal(SweepResult.load(out), SweepResult.load(whole))


def test_a_full_disk_leaves_what_was_there(tmp_path, whole, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out", progress=stop_after(5))
    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            swept(tmp_path / "out")
    assert "failed" in (tmp_path / "out/events.jsonl").read_text()
    assert_equal(swept(tmp_path / "out"), whole)


def test_states_of_any_dtype_come_back(tmp_path):
    state = {"w": jnp.ones(3, jnp.bfloat16), "key": jax.random.split(jax.random.key(3), 2), "n": jnp.int32(-7)}
    book = open_journal(tmp_path / "out", {})
    book.keep_running(0, [], state, now=True)
    _, found = book.running(0, lambda: jax.eval_shape(lambda: state))
    assert book.running(1, lambda: state) is None
    book.close(done=False)
    assert found["w"].dtype == jnp.bfloat16 and found["w"].tolist() == [1, 1, 1] and int(found["n"]) == -7
    np.testing.assert_array_equal(jax.random.key_data(found["key"]), jax.random.key_data(state["key"]))
