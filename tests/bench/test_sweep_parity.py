"""Lanes against lanes by hand: the same work in every row, as many rounds as there is time for."""

import functools

import numpy as np
import pytest

from gradlab.bench import sweep_parity
from gradlab.bench.paired import Contestant
from gradlab.bench.sweep_parity import parity_cases
from gradlab.bench.sweep_problem import Problem
from gradlab.tasks.catalogue import digits_mlp

TINY = Problem(functools.partial(digits_mlp, hidden=(4,)), steps=5, batch_size=16, parity_lanes=(16, 64))


@pytest.fixture
def races(monkeypatch):
    """The contestants of each race, instead of their times."""
    seen = []
    monkeypatch.setattr(sweep_parity, "paired", lambda contestants, **_: seen.append(contestants) or {"x": [1.0]})
    return seen


def test_rows_and_their_goals():
    cases = list(parity_cases("mlp", None, [16, 64], quick=False))
    assert [case.name for case in cases] == ["segment/mlp/16", "segment/mlp/64", "sweep/mlp/64", "cold/mlp/64"]
    assert {case.at_most for case in cases} == {1.05}
    assert [case.most_rounds for case in cases] == [None, None, None, 3]
    quick = [case.name for case in parity_cases("mlp", None, [16], quick=True)]
    assert quick == ["segment/mlp/16", "sweep/mlp/16"]


def test_the_segments_do_the_same_steps_from_the_same_start(races):
    segment, *_ = parity_cases("mlp", TINY.sweep(), [3], quick=True)
    segment.measure(1)
    ours, theirs = races[0]["gradlab"], races[0]["optax"]
    (state, losses, _), (carry, expected) = ours.run(*ours.prepare()), theirs.run(*theirs.prepare())
    assert losses.shape == (5, 1, 3)
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-5)
    kernel = lambda params: np.asarray(params["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel(state.runs.params)[0], kernel(carry[0]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.run(*ours.prepare())[1], losses)  # what a run destroys is made anew


def test_the_whole_sweeps_reach_the_same_losses(races):
    _, whole = parity_cases("mlp", TINY.sweep(), [3], quick=True)
    whole.measure(1)
    np.testing.assert_allclose(races[0]["gradlab"].run(), races[0]["optax"].run(), rtol=1e-5)


def test_the_cold_race_is_between_the_whole_sweeps(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep_parity, "race_in_fresh_caches", lambda *call: seen.append(call))
    *_, cold = parity_cases("mlp", TINY.sweep(), [3], quick=False)
    cold.measure(2)
    ((ours, theirs, rounds),) = seen
    assert rounds == 2
    np.testing.assert_allclose(ours()(), theirs()(), rtol=1e-5)


@pytest.mark.parametrize(("once", "most", "rounds"), [(2.0, 15, 6), (100.0, 15, 3), (1e-3, 15, 15), (100.0, 1, 1)])
def test_there_are_as_many_rounds_as_fit_into_the_time_but_a_few(once, most, rounds, monkeypatch):
    calls = []

    def fake_paired(contestants, *, rounds, warmup=1):
        calls.append((rounds, warmup))
        return {name: [once / 2] * rounds for name in contestants}

    monkeypatch.setattr(sweep_parity, "paired", fake_paired)
    contestants = {"gradlab": Contestant(None), "optax": Contestant(None)}
    samples = sweep_parity._paired_within(12.0, contestants, most)
    assert calls == [(1, 1), (rounds - 1, 0)][: 1 + (rounds > 1)]
    assert samples == {"gradlab": [once / 2] * rounds, "optax": [once / 2] * rounds}
