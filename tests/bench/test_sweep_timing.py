"""What is timed of a contender, and what an estimate is."""

import contextlib
import functools
import operator
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.bench import sweep_timing
from gradlab.bench.sweep_problem import Sweep
from gradlab.bench.sweep_timing import CONTENDERS, Contender, Started, Timing, timed
from gradlab.bench.sweep_workers import Workers

SWEEP = Sweep(None, np.array([0.1, 0.2]), 1, 1)


def contender(run, imports=False, **options):
    return Contender("", lambda sweep: contextlib.nullcontext(Started(run, **options)), few=1, imports=imports)


def test_a_contender_runs_once_in_fresh_caches_and_then_warm(monkeypatch):
    monkeypatch.setattr(sweep_timing, "WARM_SECONDS", 1e9)
    sizes = []
    program = jax.jit(lambda x: x + 1)
    program(jnp.zeros(7))

    def run():
        sizes.append(program._cache_size())
        return np.asarray(program(jnp.zeros(7)))[:2]

    timing = timed(contender(run), SWEEP)
    assert sizes == [0] + sweep_timing.WARM_RUNS * [1]
    assert timing.configurations == 2 and timing.importing == 0.0
    assert 0 < timing.compiling < timing.seconds
    np.testing.assert_array_equal(timing.losses, [1.0, 1.0])


def test_long_runs_are_not_repeated(monkeypatch):
    monkeypatch.setattr(sweep_timing, "WARM_SECONDS", 0.0)
    runs = []
    timed(contender(lambda: runs.append(1) or np.zeros(2)), SWEEP)
    assert len(runs) == 2


def test_new_processes_report_what_they_compiled_and_their_imports_are_apart():
    timing = timed(contender(lambda: np.zeros(2), imports=True, compiled=lambda: 5.0, planned_bytes=9), SWEEP)
    assert (timing.compiling, timing.planned_bytes) == (5.0, 9)
    assert 0 < timing.importing <= timing.seconds


@pytest.mark.parametrize(
    ("each", "seconds", "compiling"), [(False, 3 + 2 + 4 * 5.0, 2.0), (True, 3 + 4 * 2 + 4 * 5.0, 8.0)]
)
def test_an_estimate_scales_what_grows_with_the_configurations(each, seconds, compiling):
    timing = Timing(2, 10.0, 2.0, 3.0, 4.0, 100, np.zeros(2)).scaled(8, each)
    assert timing[:6] == (8, seconds, compiling, 3.0, 16.0, 400)
    assert Timing(2, 1.0, 0.0, 0.0, 1.0, None, np.zeros(2)).scaled(8, each).planned_bytes is None


def test_who_compiles_a_program_for_each_configuration():
    assert {name for name, one in CONTENDERS.items() if one.compiles_each} == {"loop", "scan", "processes"}
    assert {name for name, one in CONTENDERS.items() if one.imports} == {"processes"}


def test_workers_run_together_as_often_as_they_are_told():
    starts = [functools.partial(functools.partial, operator.add, one, 10) for one in (1, 2)]
    with Workers(starts, pinned=True) as workers:
        assert workers.run() == [11, 12]
        assert workers.run() == [11, 12]
        assert workers.compile_seconds() >= 0


def test_workers_are_other_processes_and_end():
    with Workers([functools.partial(functools.partial, os.getpid)]) as workers:
        (pid,) = workers.run()
        assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_ends_is_an_error():
    with (
        pytest.raises(RuntimeError, match="ended with exit code 3"),
        Workers([functools.partial(functools.partial, os._exit, 3)]) as workers,
    ):
        workers.run()
