import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gradlab.sweeps.schedulers.named import SCHEDULERS, as_data, make_scheduler
from gradlab.sweeps.schedulers.rules import ladder, spaced
from gradlab.sweeps.search import ENDED, STOPPED, Cohort, View
from gradlab.sweeps.spaces.space import Space

SPACE = Space({"learning_rate": {"log": [1e-3, 1.0]}})
TENS = range(10, 110, 10)
inf, nan = np.inf, np.nan


def seen(costs, alive=None, halt=0):
    costs = np.asarray(costs, np.float64)
    alive = np.arange(len(costs)) if alive is None else np.asarray(alive)
    values = [{"learning_rate": 0.1}] * len(alive)
    return View(halt, np.arange(costs.shape[1]), costs, alive, values, SPACE)


def kept(scheduler, costs, alive=None, halt=0):
    """The trials that go on."""
    view = seen(costs, alive, halt)
    return view.alive[scheduler.decide(view).parents].tolist()


def now(*costs):
    return [[9.0, cost] for cost in costs]


def halts(scheduler, trials=81, evals=TENS):
    return [cohort.halts for cohort in scheduler.cohorts(trials, evals)]


def test_halving_cuts_at_rungs_that_lead_up_to_the_end():
    assert SCHEDULERS["halving"](eta=3, rungs=2).cohorts(20, range(1, 91)) == [Cohort(20, (10, 30, 90))]
    assert halts(make_scheduler("halving", eta=2, rungs=3), evals=range(1, 81)) == [(10, 20, 40, 80)]
    assert halts(make_scheduler("halving", eta=3, rungs=2)) == [(10, 30, 100)]  # 11.1 and 33.3, nearest


def test_halving_cuts_as_often_as_trials_and_evaluations_permit():
    assert [len(halts(make_scheduler("halving"), trials)[0]) for trials in (2, 8, 9, 80)] == [2, 2, 3, 3]
    assert [len(halts(make_scheduler("halving"), trials, range(1, 101))[0]) for trials in (26, 27, 81)] == [3, 4, 5]


def test_the_first_rung_can_be_given():
    assert halts(make_scheduler("halving", first=10)) == [(10, 30, 90, 100)]
    assert halts(make_scheduler("halving", first=20, eta=2), trials=5) == [(20, 40, 100)]
    assert halts(make_scheduler("halving", first=10, eta=2, rungs=2)) == [(10, 20, 100)]
    assert halts(make_scheduler("hyperband", first=30)) == [(30, 90, 100), (90, 100), (100,)]
    assert halts(make_scheduler("hyperband", first=10, brackets=2)) == [(10, 100), (100,)]


def test_halving_keeps_the_best_at_their_latest_cost():
    halving = make_scheduler("halving", eta=3)
    costs = [[0.1, 0.5], [9.0, 0.2], [9.0, 0.4], [9.0, 0.3], [9.0, 0.9], [0.0, 1.0], [9.0, 0.25]]
    assert kept(halving, costs) == [1, 6]
    assert kept(halving, costs, alive=[1, 4, 6], halt=1) == [1]
    assert kept(make_scheduler("hyperband", eta=2), costs) == [1, 3, 6]


def test_halving_with_more_parts_than_trials_keeps_one():
    halving = make_scheduler("halving", eta=8)
    assert halving.cohorts(3, TENS) == [Cohort(3, (10, 100))]
    assert kept(halving, now(2, 1, 3)) == [1]


def test_ties_go_to_the_earlier_trial():
    assert kept(make_scheduler("halving", eta=2), now(1, 2, 1, 1)) == [0, 2]
    assert kept(make_scheduler("halving", eta=2), now(1, 1, 1, 1), alive=[1, 2, 3]) == [1, 2]


@pytest.mark.parametrize("name", ["halving", "hyperband", "median", "percentile", "patience"])
def test_what_diverged_never_goes_on(name):
    scheduler = make_scheduler(name, **({"patience": 1} if name == "patience" else {}))
    assert kept(scheduler, now(inf, 1, nan)) == [1]
    assert kept(scheduler, now(-inf, inf, nan)) == []
    assert kept(scheduler, now(-inf, -inf, 1, inf, inf)) == [2]


def test_hyperband_has_the_brackets_of_the_paper():
    cohorts = make_scheduler("hyperband", eta=3).cohorts(143, range(1, 82))  # R = 81, as in its table 1
    assert [cohort.halts[0] for cohort in cohorts] == [1, 3, 9, 27, 81]
    assert [cohort.count for cohort in cohorts] == [81, 34, 15, 8, 5]
    assert [len(cohort.halts) for cohort in cohorts] == [5, 4, 3, 2, 1]
    fewer = make_scheduler("hyperband", eta=3).cohorts(142, range(1, 82))
    assert [cohort.halts[0] for cohort in fewer] == [3, 9, 27, 81]
    assert [cohort.halts[0] for cohort in make_scheduler("hyperband", brackets=2).cohorts(99, TENS)] == [30, 100]


def test_what_rounding_leaves_goes_to_the_bracket_that_lost_most():
    counts = lambda eta, trials: [count for count, _ in make_scheduler("hyperband", eta=eta).cohorts(trials, [1, eta])]
    assert counts(3, 7) == [4, 3]  # of 4.2 and 2.8
    assert counts(2, 5) == [3, 2]  # of 2.5 and 2.5


@given(st.integers(5, 3000), st.sampled_from([2, 3, 4]), st.integers(2, 60), st.integers(1, 40))
def test_the_brackets_share_out_all_trials(trials, eta, evals, every):
    assume(evals >= eta)
    cohorts = make_scheduler("hyperband", eta=eta).cohorts(trials + eta, range(every, every * evals + 1, every))
    counts = np.array([cohort.count for cohort in cohorts])
    assert counts.sum() == trials + eta
    most = len(counts) - 1
    paper = np.array([np.ceil((most + 1) * eta**cuts / (cuts + 1)) for cuts in range(most, -1, -1)])
    assert np.all(counts >= paper)
    assert np.all(np.abs(counts - (trials + eta) * paper / paper.sum()) < 1)
    for cohort, next_one in zip(cohorts, cohorts[1:], strict=False):
        assert cohort.halts[1:] == next_one.halts
    assert cohorts[-1].halts == (every * evals,)


def by_vizier(costs, alive, percentile):
    """The rule, trial by trial."""
    reports = {i: row[1:][~np.isnan(row[1:])] for i, row in enumerate(costs)}
    reports = {i: reported for i, reported in reports.items() if np.all(np.isfinite(reported))}
    running = [i for i in alive if i in reports]
    going = []
    for i in running:
        others = [np.mean(reported) for j, reported in reports.items() if j != i]
        leads = all(reports[i].min() <= reports[j].min() for j in running)
        if leads or not others or reports[i].min() <= np.percentile(others, percentile) + 1e-12:
            going.append(i)
    return going


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5), st.sampled_from([10.0, 25.0, 50.0, 80.0]))
def test_the_median_rule_is_that_of_vizier(seed, trials, evals, percentile):
    generator = np.random.default_rng(seed)
    costs = generator.uniform(0, 1, (trials, evals + 1)) + np.linspace(1, 0, evals + 1)
    stopped = generator.integers(2, evals + 3, trials)  # evaluations that a trial took part in
    diverged = np.where(generator.random(trials) < 0.2, generator.integers(1, evals + 1, trials), evals + 1)
    at = np.arange(evals + 1)
    costs = np.where(at >= diverged[:, None], inf, costs)
    costs = np.where(at >= stopped[:, None], nan, costs)
    alive = np.flatnonzero(stopped > evals)
    expected = by_vizier(costs, alive, percentile)
    assert kept(make_scheduler("percentile", percentile=percentile), costs, alive) == expected
    if percentile == 50.0:
        assert kept(make_scheduler("median"), costs, alive) == expected


def test_the_median_rule_by_hand():
    costs = [[9, 3, 1], [9, 4, 2], [9, 5, 3], [9, 6, 4]]  # averages 2 3 4 5; the others' medians 4 4 3 3
    assert kept(make_scheduler("median"), costs) == [0, 1, 2]
    costs[1] = [9, 4, nan]  # was stopped with an average of 4
    assert kept(make_scheduler("median"), costs, alive=[0, 2, 3]) == [0, 2, 3]
    costs[1] = [9, 1, nan]  # with one of 1: the others' medians 4, 2, 2
    assert kept(make_scheduler("median"), costs, alive=[0, 2, 3]) == [0]


def test_a_cost_that_was_infinite_for_once_is_left_out_of_the_average():
    assert kept(make_scheduler("median"), [[9, inf, 1], [9, 2.5, 2.5], [9, 3, 3]]) == [0]  # not [0, 1]


def test_equal_trials_all_go_on():
    for evals in range(1, 12):  # 6 x 0.1 / 6 is below 0.1
        assert kept(make_scheduler("median"), np.full((4, evals + 1), 0.1)) == [0, 1, 2, 3]


def test_the_trial_in_the_lead_goes_on_whatever_was_stopped():
    costs = [[9, 0.1, nan], [9, 3, 2], [9, 3, 2.5]]
    assert kept(make_scheduler("percentile", percentile=1), costs, alive=[1, 2]) == [1]


def test_decisions_are_spaced():
    assert halts(make_scheduler("median")) == [tuple(TENS)]
    assert halts(make_scheduler("median", warmup=90)) == [(90, 100)]
    assert halts(make_scheduler("median", warmup=35)) == [(40, 50, 60, 70, 80, 90, 100)]
    assert halts(make_scheduler("median", interval=30)) == [(30, 60, 90, 100)]
    assert halts(make_scheduler("percentile", warmup=20, interval=50)) == [(20, 70, 100)]
    assert spaced("median", [10, 25, 40], warmup=0, interval=15) == (25, 40)  # 15 and 30, and the end


def test_patience_ends_a_trial_when_its_window_brings_nothing():
    patience = make_scheduler("patience", patience=2)
    costs = [[5, 4, 4, 4], [5, 4, 4, 3.9], [5, 3, 3.5, 2.9], [5, 6, 5, 5], [5, 6, 5, 4]]
    assert kept(patience, costs) == [1, 2, 4]
    assert patience.decide(seen(costs)).why == ENDED
    assert make_scheduler("median").decide(seen(costs)).why == STOPPED
    assert kept(make_scheduler("patience", patience=3), costs) == [0, 1, 2, 4]
    assert kept(make_scheduler("patience", patience=2, min_delta=0.5), costs) == [4]
    assert kept(make_scheduler("patience", patience=1, min_delta=0.5), [[2, 1.5], [2, 1.25]]) == [1]
    assert halts(make_scheduler("patience", patience=8)) == [(80, 90, 100)]


def test_all_run_to_the_end():
    run_all = make_scheduler("all")
    assert run_all.cohorts(7, TENS) == [Cohort(7, (100,))]
    assert kept(run_all, now(inf, 1, 2), alive=[0, 2]) == [0, 2]


DECIDING = [("halving", {}), ("hyperband", {"eta": 2}), ("median", {}), ("percentile", {"percentile": 1.0})]
costs_of_trials = st.one_of(st.floats(-1e100, 1e100), st.sampled_from([0.0, 1.0, inf, nan]))


@given(st.data(), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2))
def test_lanes_that_go_on_are_lanes_in_order_and_someone_always_does(data, trials, evals, halt):
    costs = np.array(data.draw(st.lists(costs_of_trials, min_size=trials * evals, max_size=trials * evals)))
    costs = np.column_stack([np.ones(trials), costs.reshape(trials, evals)])
    alive = sorted(data.draw(st.sets(st.integers(0, trials - 1), min_size=1)))
    ending = ("patience", {"patience": 1})
    for name, options in [*DECIDING, ending]:
        parents = make_scheduler(name, **options).decide(seen(costs, alive, halt)).parents
        assert np.issubdtype(parents.dtype, np.integer)
        assert np.all(np.diff(parents) > 0) and set(parents) <= set(range(len(alive)))
        assert np.all(np.isfinite(costs[np.array(alive)[parents], -1]))
        if name != "patience" and np.isfinite(costs[alive, -1]).any():
            assert len(parents)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_schedulers_are_data_and_come_back(name):
    needed = {"patience": {"patience": 3}, "pbt": {"interval": 10}}.get(name, {})
    scheduler = make_scheduler(name, **needed)
    data = json.loads(json.dumps(as_data(scheduler)))
    assert data["name"] == name == scheduler.name and needed.items() <= data.items()
    assert make_scheduler(**data) == scheduler and hash(make_scheduler(**data)) == hash(scheduler)


def test_lists_are_lists_before_and_after_they_were_json():
    assert as_data(make_scheduler("pbt", interval=10))["factors"] == [0.8, 1.25]


@pytest.mark.parametrize(
    ("error", "build", "words"),
    [
        (ValueError, lambda: make_scheduler("halvin"), "unknown scheduler 'halvin'; did you mean 'halving'"),
        (ValueError, lambda: make_scheduler("halving", etta=3), "option of scheduler 'halving' 'etta'.*mean 'eta'"),
        (ValueError, lambda: make_scheduler("all", eta=3), "'all' has no options, got 'eta'"),
        (ValueError, lambda: make_scheduler("patience"), "needs the option 'patience'"),
        (ValueError, lambda: make_scheduler("halving", eta=1), "`eta` must be >= 2, got 1"),
        (TypeError, lambda: make_scheduler("hyperband", eta=2.5), "`eta` must be a whole number, got float"),
        (ValueError, lambda: make_scheduler("halving", rungs=0), "`rungs` must be >= 1"),
        (ValueError, lambda: make_scheduler("hyperband", brackets=1), "`brackets` must be >= 2"),
        (TypeError, lambda: make_scheduler("median", warmup=True), "`warmup` must be a whole number"),
        (ValueError, lambda: make_scheduler("percentile", percentile=100), r"`percentile` must be in \(0, 100\)"),
        (TypeError, lambda: make_scheduler("percentile", percentile="50"), "`percentile` must be a number"),
        (ValueError, lambda: make_scheduler("patience", patience=1, min_delta=inf), "`min_delta` must be finite"),
        (ValueError, lambda: make_scheduler("halving").cohorts(1, TENS), "there is 1; run more"),
        (ValueError, lambda: make_scheduler("median").cohorts(1, TENS), "compares trials"),
        (ValueError, lambda: make_scheduler("halving", rungs=3).cohorts(9, range(1, 101)), "rungs=2, or at least 18"),
        (ValueError, lambda: make_scheduler("halving").cohorts(9, [50, 100]), "after 33.3333 steps.*eval_every=33"),
        (ValueError, lambda: make_scheduler("halving", first=4).cohorts(9, TENS), "after 4 steps.*eval_every=4"),
        (ValueError, lambda: ladder("halving", [10, 100], 2, 12, 2), "after 12 steps and 24 steps have one"),
        (ValueError, lambda: make_scheduler("halving", first=99).cohorts(9, TENS), "have one evaluation"),
        (ValueError, lambda: make_scheduler("halving", first=100).cohorts(9, TENS), "do not end before the run"),
        (ValueError, lambda: ladder("halving", TENS, 3, 20, 3), "3 rungs .* 20 steps do not end"),
        (ValueError, lambda: make_scheduler("hyperband").cohorts(4, TENS), "2 brackets with eta=3 need at least 5"),
        (ValueError, lambda: make_scheduler("median", interval=5).cohorts(9, TENS), "eval_every=5, or .* at least 10"),
        (ValueError, lambda: make_scheduler("median", warmup=95).cohorts(9, TENS), "from step 95 on and before"),
        (ValueError, lambda: make_scheduler("patience", patience=10).cohorts(9, TENS), "10 ends nothing in 10"),
    ],
)
def test_impossible_options_say_why(error, build, words):
    with pytest.raises(error, match=words):
        build()
