import logging
import math
import sys

import numpy as np
import optuna
import pytest
from scipy.stats import kstest

from gradlab.sweeps.samplers.adaptive import make_sampler
from gradlab.sweeps.samplers.optuna_kinds import cmaes, gp, nsga2, tpe
from gradlab.sweeps.search import COMPLETED, DIVERGED, ENDED, STOPPED
from gradlab.sweeps.spaces.space import Space

LINE = Space({"x": {"linear": [0.0, 1.0]}})
SQUARE = Space({"x": {"linear": [0.0, 1.0]}, "y": {"linear": [0.0, 1.0]}})
MADE = [tpe, cmaes, nsga2, pytest.param(gp, marks=pytest.mark.peers)]


def column(trials, name):
    return np.array([trial.values[name] for trial in trials])


def told(sampler, count, cost, status=COMPLETED):
    trials = sampler.ask(count)
    costs = [cost(trial.values) for trial in trials]
    sampler.tell(trials, costs, [status if math.isfinite(one) else DIVERGED for one in costs])
    return trials


def test_each_dimension_is_searched_where_its_values_are_uniform():
    space = Space(
        {
            "rate": {"log": [1e-6, 1.0]},
            "b2": {"one_minus": {"log": [1e-4, 1e-1]}},
            "decay": {"linear": [-1.0, 3.0]},
            "few": {"integer": [-3, 3]},
            "many": {"integer": [1, 10**6], "log": True},
            "kind": [None, "a", [1, 2], 0.5, True],
        }
    )
    trials = tpe(space, startup=700, seed=1).ask(700)
    for name in ("rate", "b2", "decay", "many"):
        units = space[name].to_unit([trial.values[name] for trial in trials])
        assert kstest(units, "uniform").pvalue > 0.01
    for name, number in (("few", 7), ("kind", 5)):
        values = [trial.values[name] for trial in trials]
        counts = [sum(value is other or value == other for other in values) for value in set(values)]
        assert len(counts) == number
        np.testing.assert_allclose(counts, 700 / number, atol=4 * math.sqrt(700 / number))


@pytest.mark.parametrize("make", MADE)
def test_numbers_are_drawn_to_where_costs_are_low(make):
    space = Space({"rate": {"log": [1e-4, 1.0]}, "b2": {"one_minus": {"log": [1e-4, 1e-1]}}})
    cost = lambda values: abs(math.log10(values["rate"]) + 1) + abs(math.log10(1 - values["b2"]) + 3)
    sampler = make(space, seed=3)
    first = told(sampler, 12, cost)
    for _ in range(1 if make is gp else 8):
        last = told(sampler, 4 if make is gp else 12, cost)
    assert np.median([cost(trial.values) for trial in last]) < 0.6 * np.median([cost(t.values) for t in first])


@pytest.mark.parametrize("make", [tpe, nsga2])
def test_choices_are_drawn_to_the_better_one(make):
    space = Space({"kind": ["a", None, 2, [8, 8]], "x": {"linear": [0.0, 1.0]}})
    sampler = make(space, seed=0)
    cost = lambda values: values["x"] + 5 * (values["kind"] != (8, 8))
    rounds = [told(sampler, 16, cost) for _ in range(8)]
    assert np.mean([trial.values["kind"] == (8, 8) for trials in rounds[4:] for trial in trials]) > 0.4


def test_cmaes_leaves_choices_random_and_moves_the_numbers():
    space = Space({"kind": ["a", "b"], "x": {"linear": [0.0, 1.0]}, "y": {"linear": [0.0, 1.0]}})
    sampler = cmaes(space, seed=0, batch=20)
    for _ in range(8):
        last = told(sampler, 20, lambda values: (values["x"] - 0.9) ** 2 + (values["y"] - 0.1) ** 2)
    assert 4 <= sum(trial.values["kind"] == "a" for trial in last) <= 16
    assert np.abs(column(last, "x") - 0.9).mean() < 0.15 and np.abs(column(last, "y") - 0.1).mean() < 0.15


def test_cmaes_begins_around_the_middle_with_its_first_batch():
    first = cmaes(SQUARE, seed=0, batch=64).ask(64)
    for name in ("x", "y"):
        assert abs(column(first, name).mean() - 0.5) < 0.08
        assert 0.12 < column(first, name).std() < 0.21  # 1 / 6


def test_cmaes_moves_after_one_batch():
    sampler = cmaes(SQUARE, seed=0, batch=32)
    told(sampler, 32, lambda values: values["x"])
    assert column(sampler.ask(32), "x").mean() < 0.38


def test_cmaes_refuses_a_space_without_numbers():
    with pytest.raises(ValueError, match="cmaes moves numbers, and none varies in .*take the sampler 'tpe'"):
        cmaes(Space({"kind": ["a", "b"], "width": [32, 64], "rate": 0.1}))


@pytest.mark.parametrize("make", [tpe, cmaes, nsga2])
def test_a_half_that_diverges_is_left(make):
    sampler = make(LINE, seed=1, batch=12)
    for _ in range(5):
        last = told(sampler, 12, lambda values: math.inf if values["x"] > 0.5 else 1 - values["x"])
    assert np.mean(column(last, "x") <= 0.5) >= 0.5
    assert np.mean((column(last, "x") > 0.25) & (column(last, "x") <= 0.5)) > 0.25


def test_tpe_ranks_what_was_stopped_behind_what_was_completed():
    """Costs of stopped trials are lower here, and yet the search goes to the completed ones."""
    sampler = tpe(LINE, seed=1)
    trials = sampler.ask(40)
    high = column(trials, "x") > 0.5
    sampler.tell(trials, np.where(high, 0.1, 0.9), np.where(high, STOPPED, COMPLETED).tolist())
    assert np.mean(column(sampler.ask(20), "x") <= 0.5) > 0.8


def test_tpe_knows_the_better_of_those_that_were_stopped():
    sampler = tpe(LINE, seed=1)
    trials = sampler.ask(40)
    sampler.tell(trials, (column(trials, "x") - 0.2) ** 2, [STOPPED] * 40)
    assert np.mean(np.abs(column(sampler.ask(20), "x") - 0.2) < 0.15) > 0.6


@pytest.mark.parametrize("make", [cmaes, nsga2])
def test_the_others_read_the_cost_of_what_was_stopped(make):
    answers = []
    for status in (STOPPED, COMPLETED, ENDED):
        sampler = make(SQUARE, seed=1)
        for _ in range(3):
            told(sampler, 16, lambda values: values["x"] * values["y"], status)
        answers.append(sampler.ask(16))
    assert answers[0] == answers[1] == answers[2]
    assert column(answers[0], "x").mean() < 0.45


def test_what_is_proposed_again_is_told_and_not_asked_for():
    sampler = nsga2(Space({"kind": ["a", "b", "c"]}), seed=0, population=4)
    first = sampler.ask(2)
    assert len({trial.uid for trial in first}) == 2
    sampler.tell(first, [1.0, 2.0], [COMPLETED] * 2)
    (last,) = sampler.ask(2)
    assert last.uid not in {trial.uid for trial in first}
    sampler.tell([last], [3.0], [COMPLETED])
    assert sampler.ask(2) == []
    study = sampler._study
    assert len(study.trials) > 3 and all(trial.state.is_finished() for trial in study.trials)
    cost = {trial.values["kind"]: cost for trial, cost in zip([*first, last], [1.0, 2.0, 3.0], strict=True)}
    assert all(trial.value == cost["abc"[trial.params["kind"]]] for trial in study.trials)


@pytest.mark.parametrize("make", [tpe, cmaes, nsga2])
def test_more_may_be_asked_before_the_first_are_told(make):
    sampler = make(SQUARE, seed=0)
    first, second = sampler.ask(4), sampler.ask(5)
    assert len({trial.uid for trial in [*first, *second]}) == 9
    sampler.tell(second, [1.0] * 5, [COMPLETED] * 5)
    sampler.tell(first, [1.0] * 4, [COMPLETED] * 4)


def test_generations_are_as_large_as_batches_but_not_too_small():
    sizes = {}
    for make, batch in ((nsga2, 24), (nsga2, 2), (cmaes, 24), (cmaes, 2)):
        sampler = make(SQUARE, batch=batch)._study.sampler
        sizes[make.__name__, batch] = sampler.population_size if make is nsga2 else sampler._popsize
    assert sizes == {("nsga2", 24): 24, ("nsga2", 2): 8, ("cmaes", 24): 24, ("cmaes", 2): 6}


def test_the_liar_spreads_a_batch():
    sampler = tpe(LINE, seed=0)
    told(sampler, 20, lambda values: (values["x"] - 0.5) ** 2)
    assert np.median(np.diff(np.sort(column(sampler.ask(16), "x")))) > 0.02  # without it 0.008


@pytest.fixture
def news():
    """What Optuna logs, at the verbosity it has when it is imported."""
    records, before = [], optuna.logging.get_verbosity()
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("optuna").addHandler(handler)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    yield records
    logging.getLogger("optuna").removeHandler(handler)
    optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("make", MADE)
def test_optuna_is_silent_and_keeps_its_verbosity(news, make):
    space = Space({**SQUARE, "kind": ["a", "b"]})
    sampler = make(space)
    for _ in range(3):
        told(sampler, 4, lambda values: math.inf if values["x"] > 0.5 else 1.0)
    assert news == []
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    optuna.create_study()
    assert len(news) == 1


@pytest.mark.parametrize(
    ("name", "package", "words"),
    [
        ("tpe", "optuna", r"'tpe' needs optuna, which the extra `lab` installs: pip install 'gradlab\[lab\]'"),
        ("cmaes", "cmaes", r"'cmaes' needs cmaes, which the extra `lab` installs"),
        ("gp", "torch", "'gp' needs torch, which gradlab does not install: pip install torch"),
    ],
)
def test_what_to_install(monkeypatch, name, package, words):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=words):
        make_sampler(name, SQUARE)
