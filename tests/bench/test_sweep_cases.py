"""The rows of `gradlab bench speed` about sweeps."""

import numpy as np
import pytest

from gradlab.bench import sweep_cases as cases
from gradlab.bench.sweep_problem import Sweep
from gradlab.tasks.catalogue import digits_mlp


def test_the_default_is_the_sweep_of_the_goal():
    sweep = cases.digits_sweep()
    assert (len(sweep.learning_rates), sweep.steps, sweep.batch_size) == (64, 500, 64)
    assert sweep.task.num_params == 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
    np.testing.assert_allclose(sweep.learning_rates[[0, -1]], [1e-4, 1e-1])


def test_goals():
    assert {case.name: case.at_most for case in cases.sweep_cases()} == {
        "sweep/loop": 1 / 10,
        "sweep/scan": 1 / 6,
        "sweep/vmap": 1.0,
    }


@pytest.mark.parametrize("quick", [False, True])
def test_quick_runs_slow_baselines_in_part_scales_their_time_and_says_so(quick, monkeypatch):
    ran = []

    def fake_race(ours, theirs, rounds):
        ran.append([len(one.args[0].learning_rates) for one in (ours, theirs)])
        return {"gradlab": [2.0] * rounds, "optax": [5.0] * rounds}

    monkeypatch.setattr(cases, "race_in_fresh_caches", fake_race)
    sweep = Sweep(digits_mlp(hidden=(2,)), np.geomspace(1e-3, 1e-1, 12), steps=2, batch_size=8)
    for case in cases.sweep_cases(lambda: sweep, quick=quick):
        samples = case.measure(2)
        (lanes, configurations), scaled = ran.pop(), quick and case.name != "sweep/vmap"
        assert (lanes, configurations) == (12, 3 if scaled else 12)
        assert samples == {"gradlab": [2.0, 2.0], "optax": [20.0, 20.0] if scaled else [5.0, 5.0]}
        assert ("measured on 3 configurations" in case.note) == scaled


def test_each_round_prepares_and_runs_both_in_fresh_caches(monkeypatch):
    events = []
    monkeypatch.setattr(cases.jax, "clear_caches", lambda: events.append("clear"))
    contender = lambda name: lambda: events.append(f"prepare {name}") or (lambda: events.append(f"run {name}"))
    seconds = cases.race_in_fresh_caches(contender("ours"), contender("theirs"), rounds=2)
    turn = lambda name: ["clear", f"prepare {name}", f"run {name}"]
    assert events == 2 * (turn("ours") + turn("theirs"))
    assert {name: len(values) for name, values in seconds.items()} == {"gradlab": 2, "optax": 2}
