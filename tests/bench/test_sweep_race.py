"""Rows of contenders: what is measured, what is estimated from what, and how losses are compared."""

import types

import numpy as np
import pytest

from gradlab.bench import sweep_race
from gradlab.bench.sweep_contenders import DoesNotFit
from gradlab.bench.sweep_race import Race, SpeedRow, loss_difference
from gradlab.bench.sweep_timing import Contender, Timing

KINDS = {
    "gradlab": Contender("", None, few=4),
    "scan": Contender("", None, few=3, compiles_each=True),
    "vmap": Contender("", None, few=2),
}


@pytest.fixture
def ran(monkeypatch):
    """Contenders that take 2 s to compile and 1 s a configuration; what ran, as (contender, configurations)."""
    calls = []

    def fake_timed(contender, sweep):
        name = next(name for name, known in KINDS.items() if known is contender)
        count = sweep.count
        calls.append((name, count))
        compiling = 2.0 * (count if contender.compiles_each else 1)
        planned = 100 * count if name == "vmap" else None
        return Timing(count, compiling + count, compiling, 0.0, float(count), planned, np.ones(count))

    monkeypatch.setattr(sweep_race, "CONTENDERS", KINDS)
    monkeypatch.setattr(sweep_race, "timed", fake_timed)
    return calls


def race(limit):
    return Race("mlp", lambda count: types.SimpleNamespace(count=count, steps=10, batch_size=8), limit)


def test_what_takes_less_than_the_limit_is_measured(ran):
    rows = [race.row("gradlab", lanes) for race in [race(limit=100.0)] for lanes in (1, 4, 16)]
    assert ran == [("gradlab", 1), ("gradlab", 4), ("gradlab", 16)]
    assert [row.measured for row in rows] == [1, 4, 16]
    assert not any(row.estimated or row.note for row in rows)


def test_what_takes_longer_is_estimated_from_the_largest_that_ran(ran):
    rows = [race.row("gradlab", lanes) for race in [race(limit=20.0)] for lanes in (1, 8, 64, 256)]
    assert ran == [("gradlab", 1), ("gradlab", 8)]
    assert [(row.measured, row.estimated) for row in rows] == [(1, False), (8, False), (8, True), (8, True)]
    assert rows[2].note == "estimated from 8"
    assert (rows[2].seconds, rows[2].compile_seconds, rows[2].warm_seconds) == (66.0, 2.0, 64.0)


def test_the_patient_are_measured_for_longer(ran, monkeypatch):
    monkeypatch.setitem(KINDS, "gradlab", Contender("", None, few=4, patience=2.0))
    rows = [race.row("gradlab", lanes) for race in [race(limit=20.0)] for lanes in (8, 19, 20)]
    assert [row.measured for row in rows] == [8, 19, 19]  # 2 + 19 + 19 = 40


def test_an_estimate_needs_a_few_configurations(ran):
    own = race(limit=1e-9)
    assert own.row("gradlab", 1).measured == 1
    assert own.row("gradlab", 3).measured == 3
    assert own.row("gradlab", 100).measured == 4
    assert ran == [("gradlab", 1), ("gradlab", 3), ("gradlab", 4)]


def test_many_configurations_are_not_run_to_find_out_that_they_take_long(ran):
    row = race(limit=20.0).row("gradlab", 1000)
    assert ran == [("gradlab", 4)]
    assert (row.measured, row.seconds) == (4, 1002.0)


def test_programs_of_one_configuration_are_compiled_as_often(ran):
    own = race(limit=10.0)
    own.row("gradlab", 30)
    row = own.row("scan", 30)
    assert ("scan", 3) in ran
    assert (row.seconds, row.compile_seconds, row.warm_seconds) == (90.0, 60.0, 30.0)
    assert (row.times_gradlab, row.warm_times_gradlab) == (90 / 32, 1.0)


def test_what_would_not_fit_says_so_and_has_no_numbers(ran, monkeypatch):
    own = race(limit=10.0)
    own.row("gradlab", 30)
    monkeypatch.setattr(sweep_race, "require_memory", _refuses_above(1000))
    row = own.row("vmap", 30)
    assert (row.seconds, row.measured, row.agrees, row.note) == (
        None,
        0,
        None,
        "does not fit: 3e-06 GB planned, 1e-06 GB allowed",
    )
    assert row.record()["steps_per_second"] is None


def _refuses_above(budget):
    def require(planned):
        if planned is not None and planned > budget:
            raise DoesNotFit(planned, budget)

    return require


def test_losses_are_compared_with_gradlabs(ran, monkeypatch):
    own = race(limit=100.0)
    assert own.row("gradlab", 3).agrees is True
    original = sweep_race.timed
    wrong = lambda contender, sweep: original(contender, sweep)._replace(losses=np.array([1.0, 1.0, 1.05]))
    monkeypatch.setattr(sweep_race, "timed", wrong)
    row = own.row("scan", 3)
    assert row.loss_difference == pytest.approx(0.05) and row.agrees is False


@pytest.mark.parametrize(
    ("losses", "reference", "difference"),
    [
        ([2.0, 1.0], [2.0, 1.1], 0.1 / 1.1),
        ([2.0], [2.0, 9.0], 0.0),
        ([0.004], [0.001], 0.003 / 0.25),
        ([-0.5], [0.5], 2.0),
    ],
)
def test_differences_are_relative_and_for_small_losses_absolute(losses, reference, difference):
    assert loss_difference(np.array(losses), np.array(reference)) == pytest.approx(difference)


def test_losses_that_are_no_numbers_do_not_agree():
    row = SpeedRow("mlp", 1, "scan", 1, 1, loss_difference=loss_difference(np.array([np.nan]), np.array([1.0])))
    assert row.agrees is False


def test_rates_follow_from_the_seconds():
    row = SpeedRow("mlp", 64, "loop", 10, 8, 64, seconds=2.0, warm_seconds=0.5, times_gradlab=12.0)
    record = row.record()
    assert (record["trials_per_minute"], record["steps_per_second"]) == (1920.0, 320.0)
    assert (record["warm_trials_per_minute"], record["warm_steps_per_second"]) == (7680.0, 1280.0)
    assert (record["goal"], record["met"], record["estimated"]) == (10.0, True, False)


@pytest.mark.parametrize(
    ("lanes", "times", "goal", "met"), [(64, 9.9, 10.0, False), (256, 40.0, 40.0, True), (8, 9.0, None, None)]
)
def test_the_goals_are_those_of_the_loop_of_the_mlp(lanes, times, goal, met):
    row = SpeedRow("mlp", lanes, "loop", 10, 8, lanes, seconds=1.0, warm_seconds=1.0, times_gradlab=times)
    assert (row.record()["goal"], row.record()["met"]) == (goal, met)
    assert SpeedRow("cnn", lanes, "loop", 10, 8).record()["goal"] is None
