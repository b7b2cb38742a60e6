"""What every sampler that looks at results keeps, whatever it is."""

import math
import subprocess
import sys

import numpy as np
import pytest

from gradlab.sweeps.samplers.adaptive import ADAPTIVE, make_sampler
from gradlab.sweeps.samplers.designs import random
from gradlab.sweeps.search import COMPLETED, DIVERGED
from gradlab.sweeps.spaces.space import Space

NAMES = [pytest.param(name, marks=pytest.mark.peers if name == "gp" else ()) for name in ADAPTIVE]
SPACE = Space(
    {
        "rate": {"log": [1e-4, 1.0]},
        "b2": {"one_minus": {"log": [1e-4, 1e-1]}},
        "eps": 1e-8,
        "decay": {"linear": [0.0, 0.5]},
    }
)
MIXED = Space(
    {
        "rate": {"log": [1e-3, 1.0]},
        "kind": ["cosine", None, [64, 64], 0.5, True],
        "eps": 1e-8,
        "warmup": {"integer": [1, 500], "log": True},
        "single": {"linear": [2.0, 2.0]},
    }
)
FEW = Space({"a": [1, 2, 3], "b": ["x", None], "c": {"integer": [1, 3]}, "eps": 1.0})


def bowl(values):
    rate = math.log10(values["rate"]) + 2.4
    b2 = math.log10(1 - values["b2"]) + 2.7
    return rate**2 + 0.5 * b2**2 + 0.4 * rate * b2 + 8 * (values["decay"] - 0.34) ** 2


def cliff(values):
    """Better and better up to a rate of 0.01, which is half of the space, and nothing beyond."""
    return bowl(values) + 1 if values["rate"] <= 0.01 else math.inf


def outcomes(trials, cost):
    costs = [cost(trial.values) for trial in trials]
    return costs, [COMPLETED if math.isfinite(one) else DIVERGED for one in costs]


def drive(sampler, cost, rounds, batch=None):
    """All batches, and all costs in the same order."""
    batches, costs = [], []
    for _ in range(rounds):
        batches.append(sampler.ask(batch or sampler.batch))
        told, statuses = outcomes(batches[-1], cost)
        sampler.tell(batches[-1], told, statuses)
        costs += told
    return batches, costs


def size(values):
    return values["rate"] + (values["kind"] is None) + abs(values["warmup"] - 20) / 500


@pytest.mark.parametrize("cost", [bowl, cliff])
@pytest.mark.parametrize("name", NAMES)
def test_it_beats_random_search_with_the_same_number_of_trials(name, cost):
    rounds, batch, seeds = (3, 8, 3) if name == "gp" else (5, 16, 5)
    found, blind = [], []
    for seed in range(seeds):
        batches, costs = drive(make_sampler(name, SPACE, seed=seed), cost, rounds, batch)
        assert sum(len(trials) for trials in batches) <= rounds * batch
        found.append(min(costs))
        blind.append(min(cost(trial.values) for trial in random(SPACE, rounds * batch, seed)))
    best = 1.0 if cost is cliff else 0.0
    assert np.median(found) - best < 0.6 * (np.median(blind) - best)


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_one_that_is_told_the_same_answers_the_same(name):
    rounds, batch, options = (2, 2, {"startup": 2}) if name == "gp" else (4, 11, {})
    make = lambda seed=5: make_sampler(name, MIXED, seed=seed, **options)
    batches, _ = drive(make(), size, rounds, batch)
    assert drive(make(), size, rounds, batch)[0] == batches
    if name != "coordinate":
        assert drive(make(seed=6), size, rounds, batch)[0] != batches
    assert drive(make(), lambda values: -size(values), rounds, batch)[0] != batches


def test_another_process_answers_the_same_and_loads_optuna_only_when_it_needs_it():
    code = """
import sys
from gradlab.sweeps.samplers.adaptive import make_sampler
print(sorted({"optuna", "torch", "cmaes"} & set(sys.modules)))
import tests.sweeps.test_adaptive as test
print(test.uids_of_three_batches())
"""
    environment = {"PYTHONHASHSEED": "1", "JAX_PLATFORMS": "cpu"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["[]", str(uids_of_three_batches())]


def uids_of_three_batches():
    driven = {name: drive(make_sampler(name, MIXED, seed=5), size, 3, 12)[0] for name in ADAPTIVE if name != "gp"}
    return {name: [[trial.uid for trial in trials] for trials in batches] for name, batches in driven.items()}


@pytest.mark.parametrize("name", NAMES)
def test_trials_lie_in_the_space_and_none_comes_twice(name):
    batches, _ = drive(make_sampler(name, MIXED, seed=2), size, 2 if name == "gp" else 6, 9)
    trials = [trial for batch in batches for trial in batch]
    assert len(trials) >= 18
    assert len({trial.uid for trial in trials}) == len(trials)
    for trial in trials:
        assert list(trial.values) == list(MIXED)
        assert trial.values["eps"] == 1e-8 and trial.values["single"] == 2.0
        for name, dimension in MIXED.items():
            (again,) = dimension.from_unit(dimension.to_unit([trial.values[name]]))
            assert type(again) is type(trial.values[name])
            assert again == trial.values[name] or math.isclose(again, trial.values[name], rel_tol=1e-9)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("name", [name for name in ADAPTIVE if name != "gp"])
def test_a_space_of_few_values_comes_to_an_end(name, batch):
    sampler = make_sampler(name, FEW, seed=1, batch=batch)
    cost = lambda values: math.inf if values["b"] is None else values["a"] + values["c"]
    seen, costs = [], []
    while trials := sampler.ask(batch):
        told, statuses = outcomes(trials, cost)
        sampler.tell(trials, told, statuses)
        seen += [trial.uid for trial in trials]
        costs += told
    assert len(set(seen)) == len(seen) <= 18
    assert len(seen) == 18 or name != "tpe"
    assert (
        min(costs) == 2 or name == "cmaes"
    )  # which settles on a value of its one number under choices that are random


@pytest.mark.parametrize("name", NAMES)
def test_everything_may_diverge(name):
    sampler = make_sampler(name, SPACE, seed=1)
    (first, *_), _ = drive(sampler, lambda values: math.inf, 2, 6 if name == "gp" else 11)
    assert len({trial.uid for trial in first}) == len(first) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one(name):
    batches, costs = drive(make_sampler(name, SPACE, seed=0, batch=1), bowl, 14 if name == "gp" else 30)
    assert {len(trials) for trials in batches} == {1}
    assert min(costs[-5:]) < np.median(costs[:5])


@pytest.mark.parametrize("name", [name for name in ADAPTIVE if name not in ("gp", "cmaes")])
def test_a_space_of_one_point_has_one_trial(name):
    sampler = make_sampler(name, Space({"rate": 0.1, "kind": ["x"], "decay": {"log": [0.5, 0.5]}}))
    (trial,) = sampler.ask(4)
    assert trial.values == {"rate": 0.1, "kind": "x", "decay": 0.5}
    sampler.tell([trial], [1.0], [COMPLETED])
    assert sampler.ask(4) == []


@pytest.mark.parametrize("name", ["coordinate", "tpe"])
@pytest.mark.parametrize(
    ("tell", "words"),
    [
        (lambda trials: (trials, [1.0, math.nan, 1.0], [COMPLETED] * 3), "has the cost nan"),
        (lambda trials: (trials, [1.0] * 3, ["complete"] * 3), "unknown status 'complete'; did you mean 'completed'"),
        (lambda trials: (trials, [1.0] * 2, [COMPLETED] * 3), "got 3, 2 and 3"),
        (lambda trials: (trials, [1.0, -math.inf, 1.0], [COMPLETED] * 3), "has the cost -inf"),
        (lambda trials: (random(SPACE, 1), [1.0], [COMPLETED]), "does not run"),
        (lambda trials: (trials[:1] * 2, [1.0, 2.0], [COMPLETED] * 2), "is told twice"),
    ],
)
def test_what_it_cannot_be_told(name, tell, words):
    sampler = make_sampler(name, SPACE)
    trials = sampler.ask(3)
    with pytest.raises(ValueError, match=words):
        sampler.tell(*tell(trials))
    sampler.tell(trials, [1.0] * 3, [COMPLETED] * 3)
    with pytest.raises(ValueError, match="was told before"):
        sampler.tell(trials, [1.0] * 3, [COMPLETED] * 3)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tpo", {}, "unknown sampler 'tpo'; did you mean 'tpe'"),
        ("tpe", {"start_up": 3}, "unknown option of sampler 'tpe' 'start_up'; did you mean 'startup'"),
        ("tpe", {"startup": 0}, "`startup` must be a whole number, at least 1, got 0"),
        ("tpe", {"candidates": 2.5}, "`candidates` must be a whole number"),
        ("tpe", {"batch": 0}, "`batch` must be a whole number, at least 1, got 0"),
        ("coordinate", {"batch": True}, "`batch` must be a whole number"),
        ("coordinate", {"sizes": 0}, "`sizes` must be"),
        ("coordinate", {"step": 1.5}, "`step` must be in"),
        ("coordinate", {"smallest": 0.0}, "`smallest` must be in"),
        ("nsga2", {"seed": -1}, "`seed` must be a whole number, at least 0"),
        ("nsga2", {"seed": 2**32}, "at most 4294967295"),
        ("nsga2", {"population": 1}, "`population` must be a whole number, at least 2"),
        ("cmaes", {"population": 3}, "`population` must be a whole number, at least 4"),
    ],
)
def test_impossible_arguments(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_sampler(name, SPACE, **options)


@pytest.mark.parametrize("name", ["coordinate", "tpe"])
def test_a_count_below_one(name):
    with pytest.raises(ValueError, match="`count` must be a whole number, at least 1, got 0"):
        make_sampler(name, SPACE).ask(0)
