"""A sweep on a local Ray cluster of two workers: the same numbers, also when one of them is killed in the middle."""

import functools
import os
import signal
import warnings

import numpy as np
import pytest

import gradlab
from gradlab.sweeps.engine.chunks import run_here
from gradlab.sweeps.engine.cluster import ray_workers
from gradlab.sweeps.engine.journal import journal_of, open_journal
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.run import run_setup
from gradlab.tasks.catalogue import digits_linear, digits_mlp

OPTIONS = {"trials": 9, "sampler": "halton", "seeds": 2, "steps": 18, "batch_size": 32, "eval_every": 2, "chunk": 2}
SPACE = {"learning_rate": {"log": [1e-3, 1.0]}}


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="'ray' or 'ray://address', got 'slurm'"):
        ray_workers("slurm")


@pytest.fixture(scope="module")
def cluster():
    import ray

    with warnings.catch_warnings():  # JAX warns of forks; Ray's execute another program at once
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray_workers("ray")
    ray.shutdown()


def adam_that_kills(flag, home, **values):
    """The first other process that makes the optimizer removes the flag and dies."""
    if os.getpid() != home:
        try:
            os.remove(flag)
        except FileNotFoundError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return gradlab.adam(**values)


def assert_equal(one, other):
    assert [trial.uid for trial in one.trials] == [trial.uid for trial in other.trials]
    np.testing.assert_array_equal(one.steps_done, other.steps_done)
    np.testing.assert_allclose(one.loss, other.loss, rtol=2e-5)
    np.testing.assert_allclose(one.metrics["valid_loss"], other.metrics["valid_loss"], rtol=2e-5)


@pytest.mark.cluster
@pytest.mark.parametrize(
    "changes",
    [{}, {"scheduler": {"name": "halving", "eta": 3, "first": 2}}, {"scheduler": {"name": "pbt", "interval": 6}}],
    ids=["all", "halving", "population"],
)
def test_a_worker_that_is_killed_loses_and_doubles_nothing(cluster, tmp_path, changes):
    flag = tmp_path / "kill-once"
    flag.touch()
    make = functools.partial(adam_that_kills, str(flag), os.getpid())
    setup = prepare(digits_linear(), make, SPACE, **OPTIONS | changes)
    journal = open_journal(tmp_path / "out", {})
    with journal_of(journal):
        result = run_setup(setup, journal=journal, workers=cluster)
        chunks = [int(path.stem) for path in (tmp_path / "out/unfinished").glob("[0-9]*.npz")]
    assert not flag.exists()
    assert sorted(chunks) == list(range(len(chunks)))
    events = (tmp_path / "out/events.jsonl").read_text()
    assert events.count('"event": "chunk"') == len(chunks)
    assert_equal(result, run_setup(setup, workers=run_here))


@pytest.mark.cluster
def test_what_an_earlier_process_finished_is_not_sent_again(cluster, tmp_path):
    setup = prepare(digits_linear(), gradlab.adam, SPACE, **OPTIONS)
    calls = []

    def interrupted(now):
        calls.append(now)
        if len(calls) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), journal_of(journal := open_journal(tmp_path / "out", {})):
        run_setup(setup, interrupted, journal)
    finished = len(list((tmp_path / "out/unfinished").glob("[0-9]*.npz")))
    assert finished
    reports = []
    with journal_of(journal := open_journal(tmp_path / "out", {})):
        result = run_setup(setup, reports.append, journal, cluster)
    assert len(reports) == (5 - finished) * 9
    assert_equal(result, run_setup(setup))


@pytest.mark.cluster
def test_structure_of_the_task_goes_with_the_chunk(cluster):
    space = {"learning_rate": 0.01, "task.hidden": [[4], [8, 8]]}
    setup = prepare(digits_mlp, gradlab.adam, space, **OPTIONS | {"sampler": "grid", "trials": 1})
    assert_equal(run_setup(setup, workers=cluster), run_setup(setup))
