import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.sweeps.samplers.coordinate import coordinate
from gradlab.sweeps.search import COMPLETED, DIVERGED, ENDED, STOPPED
from gradlab.sweeps.spaces.space import Space

SQUARE = Space({"x": {"linear": [0.0, 1.0]}, "y": {"linear": [0.0, 1.0]}})


def points(trials):
    return [tuple(trial.values.values()) for trial in trials]


def play(sampler, cost, count=100):
    """One batch, asked and told."""
    trials = sampler.ask(count)
    costs = [float(cost(*point)) for point in points(trials)]
    sampler.tell(trials, costs, [COMPLETED if math.isfinite(one) else DIVERGED for one in costs])
    return points(trials)


def test_a_round_is_the_centre_and_two_steps_in_both_directions_of_each_dimension():
    x = [(0.75, 0.5), (0.25, 0.5), (0.625, 0.5), (0.375, 0.5)]
    assert points(coordinate(SQUARE).ask(100)) == [(0.5, 0.5), *x, *[(b, a) for a, b in x]]
    assert coordinate(SQUARE).batch == 9 and coordinate(SQUARE, batch=4).batch == 4
    sizes = coordinate(SQUARE, start={"x": 0.5, "y": 0.25}, step=0.125, sizes=1)
    assert points(sizes.ask(100)) == [(0.5, 0.25), (0.625, 0.25), (0.375, 0.25), (0.5, 0.375), (0.5, 0.125)]


def test_every_coordinate_that_improves_moves_and_the_combined_point_is_run():
    sampler = coordinate(SQUARE)
    cost = lambda x, y: (x - 0.8) ** 2 + (y - 0.36) ** 2
    play(sampler, cost)
    combined, *probes = play(sampler, cost)
    assert combined == (0.75, 0.375)
    assert set(probes) == {
        *[(x, 0.375) for x in (1.0, 0.875, 0.625)],  # (0.5, 0.375) was run before
        *[(0.75, y) for y in (0.625, 0.125, 0.25)],  # (0.75, 0.5) too
    }


def test_one_that_does_not_improve_stays():
    sampler = coordinate(SQUARE, sizes=1)
    play(sampler, lambda x, y: (x - 0.8) ** 2 + (y - 0.5) ** 2)
    assert sampler.centre.values == {"x": 0.75, "y": 0.5}


def test_a_combination_that_fails_leads_back_to_the_best_trial_with_the_same_steps():
    sampler = coordinate(SQUARE, sizes=1)
    cost = lambda x, y: 100 * (x - 0.5) * (y - 0.5) - 1.1 * x - y + 1e-9 * (x + y == 1) + 9 * (max(x, y) > 0.8)
    play(sampler, cost)
    assert play(sampler, cost)[0] == (0.75, 0.75)
    assert sampler.best.values == {"x": 0.75, "y": 0.5}
    assert sampler.centre.uid == sampler.best.uid and sampler.step == 0.25


def test_steps_shrink_below_the_smallest_one_when_nothing_is_better():
    sampler = coordinate(SQUARE)
    cost = lambda x, y: (x - 0.5) ** 2 + (y - 0.5) ** 2
    play(sampler, cost)
    assert sorted(x for x, y in play(sampler, cost) if y == 0.5) == [0.4375, 0.46875, 0.53125, 0.5625]
    assert sampler.step == 0.25 / 16


@pytest.mark.parametrize(("smallest", "rounds"), [(1e-3, 4), (0.05, 2), (0.0625, 2), (0.25, 1)])
def test_the_search_ends_when_steps_are_below_the_smallest(smallest, rounds):
    sampler = coordinate(SQUARE, smallest=smallest)
    played = 0
    while play(sampler, lambda x, y: (x - 0.5) ** 2 + (y - 0.5) ** 2):
        played += 1
    assert played == rounds
    assert sampler.ask(1) == []


def test_a_log_dimension_moves_by_factors_and_one_minus_by_factors_of_the_distance_from_one():
    space = Space({"rate": {"log": [1e-4, 1.0]}, "b2": {"one_minus": {"log": [1e-4, 1.0]}}})
    sampler = coordinate(space, start={"rate": 0.01, "b2": 0.99}, sizes=1)
    expected = [(0.01, 0.99), (0.1, 0.99), (0.001, 0.99), (0.01, 0.9), (0.01, 0.999)]
    np.testing.assert_allclose(points(sampler.ask(9)), expected, rtol=1e-12)


def test_probes_end_at_the_bounds():
    sampler = coordinate(SQUARE, start={"x": 1.0, "y": 0.1}, sizes=1)
    assert points(sampler.ask(9)) == [(1.0, 0.1), (0.75, 0.1), (1.0, 0.35), (1.0, 0.0)]


def test_integers_move_by_one_at_least_and_choices_to_every_other_value():
    space = Space({"n_steps": {"integer": [0, 9]}, "kind": ["a", True, 1, None, [8, 8]]})
    sampler = coordinate(space, start={"n_steps": 4, "kind": True}, step=0.01, sizes=2, smallest=1e-3)
    others = [(4, "a"), (4, 1), (4, None), (4, (8, 8))]
    assert points(sampler.ask(9)) == [(4, True), (5, True), (3, True), *others]
    low = coordinate(space, start={"n_steps": 0, "kind": "a"}, step=0.01)
    assert [n for n, kind in points(low.ask(9)) if kind == "a"] == [0, 1]


def test_steps_grow_while_everything_diverges():
    sampler = coordinate(SQUARE)
    cost = lambda x, y: y if x > 0.9 else math.inf
    play(sampler, cost)
    assert play(sampler, cost) == [(1.0, 0.5), (0.0, 0.5), (0.5, 1.0), (0.5, 0.0)]
    for _ in range(8):
        play(sampler, cost)
    assert sampler.best.values["x"] > 0.9 and sampler.best.values["y"] == 0.0


def test_where_everything_diverges_the_search_ends():
    sampler = coordinate(SQUARE)
    played = [play(sampler, lambda x, y: math.inf) for _ in range(3)]
    assert [len(trials) for trials in played] == [9, 4, 0]
    assert sampler.best is None


def test_nothing_moves_to_a_trial_that_was_stopped_but_to_one_that_ended():
    for status, expected in ((STOPPED, (0.5, 0.625)), (ENDED, (0.25, 0.625))):
        sampler = coordinate(SQUARE)
        trials = sampler.ask(9)
        costs = {(0.25, 0.5): 0.1, (0.5, 0.625): 0.2}
        told = [costs.get(point, 0.5) for point in points(trials)]
        sampler.tell(trials, told, [status if cost == 0.1 else COMPLETED for cost in told])
        assert tuple(sampler.centre.values.values()) == expected


def test_a_centre_that_diverged_moves_to_what_did_not():
    sampler = coordinate(SQUARE, sizes=1)
    play(sampler, lambda x, y: math.inf if x == y else x)
    assert sampler.best.values == {"x": 0.25, "y": 0.5}


@pytest.mark.parametrize("count", [1, 4, 1000])
def test_a_round_may_be_spread_over_batches(count):
    cost = lambda x, y: (x - 0.8) ** 2 + (y - 0.36) ** 2 + x * y
    whole, spread = coordinate(SQUARE), coordinate(SQUARE)
    rounds = [point for _ in range(4) for point in play(whole, cost)]
    batches = []
    while len(batches) < len(rounds):
        batches += play(spread, cost, min(count, len(rounds) - len(batches)))
    assert batches == rounds


def test_a_round_is_over_when_all_of_it_was_told():
    sampler = coordinate(SQUARE)
    first, second = sampler.ask(4), sampler.ask(5)
    sampler.tell(second, [1.0] * 5, [COMPLETED] * 5)
    assert sampler.ask(9) == []
    sampler.tell(first, [2.0] * 4, [COMPLETED] * 4)
    assert sampler.ask(9)[0].values == {"x": 0.375, "y": 0.75}


dimensions = st.sampled_from(
    [
        {"linear": [-1.0, 2.0]},
        {"log": [1e-5, 1.0]},
        {"one_minus": {"log": [1e-4, 1e-1]}},
        {"integer": [1, 5]},
        {"integer": [1, 1000], "log": True},
        [None, "a", True, 2.5],
        0.1,
    ]
)


@settings(deadline=None, max_examples=40)
@given(st.lists(dimensions, min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 20), st.integers(0, 2**20))
def test_on_any_landscape_it_ends_repeats_nothing_stays_inside_and_knows_the_best(specs, sizes, count, seed):
    space = Space({f"d{index}": spec for index, spec in enumerate(specs)})
    sampler = coordinate(space, sizes=sizes, smallest=0.02)
    rng = np.random.default_rng(seed)
    costs = {}
    while trials := sampler.ask(count):
        told = [float(cost) for cost in rng.normal(size=len(trials))]
        statuses = rng.choice([COMPLETED, COMPLETED, ENDED, STOPPED, DIVERGED], len(trials)).tolist()
        told = [math.inf if status == DIVERGED else cost for cost, status in zip(told, statuses, strict=True)]
        assert not {trial.uid for trial in trials} & set(costs)
        for trial, cost, status in zip(trials, told, statuses, strict=True):
            costs[trial.uid] = math.inf if status == STOPPED else cost
            for name in space:
                space[name].to_unit([trial.values[name]])  # raises outside
        sampler.tell(trials, told, statuses)
    assert len(costs) >= 1
    least = min(costs.values())
    assert sampler.best is None if least == math.inf else costs[sampler.best.uid] == least


def test_a_start_may_name_fixed_values_and_have_the_numbers_of_numpy():
    space = Space({"rate": {"log": [0.1, 10.0]}, "count": {"integer": [1, 9]}, "width": [32, 64], "eps": 1e-8})
    start = {"rate": np.float64(0.1234567890123456), "count": np.int64(3), "width": np.int64(64), "eps": 1e-8}
    trial = coordinate(space, start=start).centre
    assert trial.values == {"rate": 0.1234567890123456, "count": 3, "width": 64, "eps": 1e-8}
    assert [type(value) for value in trial.values.values()] == [float, int, int, float]


@pytest.mark.parametrize(
    ("start", "error", "words"),
    [
        ({"x": 0.5}, ValueError, "`start` has no value for 'y'"),
        ({"x": 0.5, "z": 0.5}, ValueError, "unknown name in `start` 'z'"),
        ({"x": 0.5, "y": 1.5}, ValueError, "'y' in `start`: 1.5 lies outside of Linear"),
        ({"x": 0.5, "y": "0.5"}, TypeError, "'y' in `start`: .* has numbers, got str"),
    ],
)
def test_a_start_outside_of_the_space(start, error, words):
    with pytest.raises(error, match=words):
        coordinate(SQUARE, start=start)
