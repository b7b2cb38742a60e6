"""Paired timing, with a clock that only the contestants move."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.bench.paired import Contestant, paired, ratio


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class Pending:
    """An array that takes its time until somebody has waited for it once."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def block_until_ready(self):
        self.clock.advance(self.seconds)
        self.seconds = 0.0
        return self


def test_contestants_alternate_and_warm_up_rounds_do_not_count():
    clock, turns, slowness = FakeClock(), [], iter([100.0, 1.0, 2.0])

    def first():
        turns.append("first")
        first.factor = next(slowness)
        clock.advance(first.factor)

    def second():
        turns.append("second")
        clock.advance(3 * first.factor)

    contestants = {"first": Contestant(first), "second": Contestant(second)}
    seconds = paired(contestants, rounds=2, warmup=1, clock=clock)
    assert turns == ["first", "second"] * 3
    assert seconds == {"first": [1.0, 2.0], "second": [3.0, 6.0]}
    assert ratio(seconds["second"], seconds["first"]) == (3.0, 3.0, 3.0)


def test_preparation_is_not_timed_even_if_its_arrays_arrive_late():
    clock = FakeClock()

    def prepare():
        clock.advance(5.0)
        return (Pending(clock, 7.0),)

    def run(pending):
        clock.advance(1.0)
        return pending

    contestant = Contestant(run, prepare)
    assert paired({"only": contestant}, rounds=1, clock=clock) == {"only": [1.0]}


def test_a_run_is_timed_until_its_arrays_are_ready():
    clock = FakeClock()
    contestant = Contestant(lambda: {"result": [Pending(clock, 2.5)]})
    assert paired({"only": contestant}, rounds=1, clock=clock) == {"only": [2.5]}


def test_the_garbage_collector_pauses_while_the_clock_runs_and_resumes_after_an_error():
    seen = []

    def fails():
        seen.append(gc.isenabled())
        raise RuntimeError("no luck")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="no luck"):
        paired({"only": Contestant(fails)}, rounds=1)
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize(("options", "message"), [({"rounds": 0}, "rounds"), ({"rounds": 1, "warmup": -1}, "warmup")])
def test_impossible_numbers_of_rounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        paired({"only": Contestant(lambda: None)}, **options)


def test_ratio_is_the_median_of_the_ratios_and_not_the_ratio_of_the_medians():
    values, reference = [1.0, 4.0, 9.0, 80.0, 5.0], [1.0, 2.0, 3.0, 20.0, 1.0]
    assert ratio(values, reference) == (3.0, 2.0, 4.0)  # of 1, 2, 3, 4, 5
    assert np.median(values) / np.median(reference) == 2.5


positive = st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=9))
def test_a_machine_that_slows_whole_rounds_down_does_not_change_the_ratio(rounds):
    values, reference, slowness = map(np.array, zip(*rounds, strict=True))
    calm, slow = ratio(list(values), list(reference)), ratio(list(slowness * values), list(slowness * reference))
    np.testing.assert_allclose(slow, calm, rtol=1e-12)


@pytest.mark.parametrize(("values", "reference"), [([1.0], [1.0, 2.0]), ([], [])])
def test_series_that_are_not_paired_are_refused(values, reference):
    with pytest.raises(ValueError, match="same rounds"):
        ratio(values, reference)
