"""Bytes of lanes: planned, predicted from one and two, measured in a process of its own."""

import functools

import numpy as np
import pytest

from gradlab.bench import sweep_memory
from gradlab.bench.sweep_memory import Memory, MemoryRow, compiled_segment, resident_memory
from gradlab.bench.sweep_problem import Problem
from gradlab.sweeps.engine.width import program_bytes
from gradlab.tasks.catalogue import digits_mlp

TINY = Problem(functools.partial(digits_mlp, hidden=(4,)), steps=5, batch_size=16, parity_lanes=(16, 64))
WIDE = Problem(functools.partial(digits_mlp, hidden=(64,)), steps=5, batch_size=16, parity_lanes=(16, 64))

needs_linux = pytest.mark.skipif(resident_memory() is None, reason="the system does not tell the resident memory")


@pytest.fixture
def measured(monkeypatch):
    """The lanes whose memory was measured, as 7 bytes each."""
    seen = []

    class FakeWorkers:
        def __init__(self, starts):
            (self.start,) = starts

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self):
            assert self.start.args[0] is sweep_memory.memory_growth
            seen.append(len(self.start.args[1].learning_rates))
            return [7 * seen[-1]]

    monkeypatch.setattr(sweep_memory, "Workers", FakeWorkers)
    monkeypatch.setattr(sweep_memory, "resident_memory", lambda: 1)
    return seen


def test_the_prediction_is_linear_and_exact_for_one_and_two(measured):
    memory = Memory("mlp", TINY.sweep())
    one, two, nine = (memory.row(lanes) for lanes in (1, 2, 9))
    assert (one.planned, two.planned) == (one.predicted, two.predicted)
    assert nine.predicted == one.predicted + 8 * (two.predicted - one.predicted)
    assert nine.planned == program_bytes(compiled_segment(TINY.sweep()(9)._replace(steps=sweep_memory.STEPS)))
    assert measured == [] and nine.measured is None


def test_the_first_that_are_large_enough_and_fit_are_measured(measured, monkeypatch):
    memory = Memory("mlp", TINY.sweep())
    sizes = {lanes: memory.row(lanes).predicted for lanes in (1, 2, 3, 4)}
    monkeypatch.setattr(sweep_memory, "WORTH_MEASURING", sizes[2])
    monkeypatch.setattr(sweep_memory, "memory_budget", lambda limit: sizes[4])
    rows = [memory.row(lanes) for lanes in (5, 4, 1, 3, 2)]
    assert measured == [4, 3]
    assert [row.measured for row in rows] == [None, 28, None, 21, None]
    monkeypatch.setattr(sweep_memory, "MOST_MEASURED", sizes[3])
    memory = Memory("mlp", TINY.sweep(), most_measured=1)
    assert [memory.row(lanes).measured for lanes in (4, 3, 2)] == [None, 21, None]
    assert Memory("mlp", TINY.sweep(), most_measured=0).row(3).measured is None


@needs_linux
def test_measured_and_planned_bytes_are_of_one_size(monkeypatch):
    monkeypatch.setattr(sweep_memory, "WORTH_MEASURING", 0)
    row = Memory("mlp", WIDE.sweep()).row(512)
    assert row.planned > 30e6
    assert row.measured == pytest.approx(row.planned, rel=0.25)


@needs_linux
def test_the_peak_is_of_what_runs_and_not_of_what_ran_before():
    size = 100_000_000
    before = sweep_memory._settled()
    np.ones(3 * size, np.uint8)
    peak = sweep_memory._peak_of(lambda: np.ones(size, np.uint8).sum()) - before
    assert 0.8 * size < peak < 1.6 * size
    assert sweep_memory._settled() - before < 0.5 * size


@pytest.mark.parametrize(
    ("planned", "measured", "met"),
    [(109, None, True), (111, None, False), (89, None, False), (100, 112, False), (100, 95, True)],
)
def test_the_goal_is_ten_percent_around_the_prediction(planned, measured, met):
    row = MemoryRow("mlp", 8, planned, 100, measured)
    assert row.met is met
    record = row.record()
    assert record["planned_to_predicted"] == planned / 100
    assert record["measured_to_predicted"] == (None if measured is None else measured / 100)
