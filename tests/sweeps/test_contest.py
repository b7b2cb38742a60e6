"""Contests: what is tuned, on which seeds, the table against a reckoning by hand, what is saved."""

import warnings

import numpy as np
import pytest

import gradlab
from gradlab.sweeps import ContestResult, Entrant, SweepResult, contest
from gradlab.sweeps.contest import slug, steps_to
from gradlab.tasks import quadratic, surface_task

TASK = surface_task(quadratic(condition=10.0), jitter=0.5)
SPACE = {"learning_rate": {"log": [1e-3, 1e-1]}}
ENTRANTS = {"SGD": Entrant("sgd", SPACE), "Heavy ball": Entrant(gradlab.heavy_ball, SPACE)}
OPTIONS = {"trials": 3, "seeds": 2, "fresh_seeds": 3, "steps": 40, "eval_every": 10}


@pytest.fixture(scope="module")
def result():
    return contest(TASK, ENTRANTS, reference="Heavy ball", **OPTIONS)


def test_each_is_tuned_and_its_best_runs_with_fresh_seeds(result):
    for label, (make, space) in ENTRANTS.items():
        alone = gradlab.sweep(TASK, make, space, trials=3, seeds=2, sampler="grid", steps=40, eval_every=10)
        np.testing.assert_array_equal(result.tuned[label].loss, alone.loss)
        best = alone.best()["learning_rate"].iloc[0]
        assert result.fresh[label].values("learning_rate") == [best]
        assert result.fresh[label].seeds == (2, 3, 4)


def test_the_table_is_what_the_curves_say(result):
    finals = result.fresh["Heavy ball"].curve(result.metric)[1][0, :, -1]
    np.testing.assert_allclose(result.targets, finals)
    rows = result.table.set_index("optimizer")
    assert rows.loc["Heavy ball", "mean"] == pytest.approx(finals.mean())
    assert rows.loc["Heavy ball", "std"] == pytest.approx(finals.std(ddof=1))
    assert rows.loc["Heavy ball", "step_cost"] == 1.0
    for label in ENTRANTS:
        step, values = result.fresh[label].curve(result.metric)
        by_hand = []
        for run, target in zip(values[0], finals, strict=True):
            fine = np.interp(np.linspace(0, 40, 400_001), step, run)
            below = np.flatnonzero(fine <= target)
            by_hand.append(below[0] * 1e-4 if len(below) else np.nan)
        np.testing.assert_allclose(result.steps(label), by_hand, atol=2e-4)
        reached = np.isfinite(by_hand)
        assert rows.loc[label, "reached"] == reached.sum()
        assert rows.loc[label, "steps"] == pytest.approx(np.nanmean(by_hand), abs=2e-4)
        seconds = result.fresh[label].run_seconds.sum() / (3 * 40)
        assert rows.loc[label, "seconds"] == pytest.approx(seconds * rows.loc[label, "steps"])


def test_a_run_that_never_gets_there_is_not_counted():
    result = contest(
        TASK, {"good": ENTRANTS["SGD"], "bad": Entrant("sgd", {"learning_rate": [1e-9, 1e-8, 1e-7]})}, **OPTIONS
    )
    row = result.table.set_index("optimizer").loc["bad"]
    assert row["reached"] == 0 and np.isnan(row["steps"]) and np.isnan(row["seconds"])


@pytest.mark.parametrize(
    ("values", "target", "mode", "expected"),
    [
        ([3.0, 2.0, 1.0], 1.5, "min", 15.0),
        ([3.0, 1.0, 2.0], 2.0, "min", 5.0),
        ([1.0, 2.0, 3.0], 2.5, "max", 15.0),
        ([1.0, 2.0, 3.0], 1.0, "min", 0.0),
        ([3.0, np.nan, 1.0], 2.0, "min", 20.0),
        ([3.0, 2.0, np.nan], 1.0, "min", np.nan),
    ],
)
def test_where_a_curve_reaches_a_target(values, target, mode, expected):
    assert steps_to(np.array([0, 10, 20]), np.array(values), target, mode) == pytest.approx(expected, nan_ok=True)


def test_a_folder_holds_every_sweep_and_the_table(tmp_path):
    seen = []
    result = contest(TASK, ENTRANTS, **OPTIONS, out=tmp_path / "out", progress=lambda what, now: seen.append(what))
    for label in ENTRANTS:
        for what, sweep in (("tuning", result.tuned[label]), ("fresh seeds", result.fresh[label])):
            loaded = SweepResult.load(tmp_path / "out" / slug(label) / what)
            np.testing.assert_array_equal(loaded.loss, sweep.loss)
    lines = (tmp_path / "out/contest.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("optimizer,learning_rate,mean,std,difference,error,diverged,reached")
    assert list(dict.fromkeys(seen)) == [f"{label}, {what}" for label in ENTRANTS for what in ("tuning", "fresh seeds")]
    with pytest.raises(FileExistsError, match="not empty"):
        contest(TASK, ENTRANTS, **OPTIONS, out=tmp_path / "out")


@pytest.mark.parametrize("reports", [1, 3, 6, 9])
def test_an_interrupted_contest_goes_on_where_it_was(tmp_path, result, reports):
    out, calls, again = tmp_path / "out", [], []

    def interrupted(what, now):
        calls.append(what)
        if len(calls) == reports:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contest(TASK, ENTRANTS, **OPTIONS, out=out, progress=interrupted)
    done = contest(TASK, ENTRANTS, **OPTIONS, out=out, progress=lambda what, now: again.append(what))
    for label in ENTRANTS:
        np.testing.assert_array_equal(done.tuned[label].loss, result.tuned[label].loss)
        np.testing.assert_array_equal(done.fresh[label].loss, result.fresh[label].loss)
    assert not (out / "unfinished.txt").exists()
    assert len(again) + reports <= 4 * 8 + 8
    with pytest.raises(FileExistsError, match="not empty"):
        contest(TASK, ENTRANTS, **OPTIONS, out=out)


def test_another_contest_does_not_go_on_in_the_folder(tmp_path):
    def interrupted(what, now):
        if what.endswith("fresh seeds"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contest(TASK, ENTRANTS, **OPTIONS, out=tmp_path / "out", progress=interrupted)
    other = OPTIONS | {"steps": OPTIONS["steps"] + 1}
    with pytest.raises(ValueError, match="holds the sweep of another contest"):
        contest(TASK, ENTRANTS, **other, out=tmp_path / "out")
    contest(TASK, ENTRANTS, **other, out=tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("entrants", "options", "message"),
    [
        ({}, {}, "at least one entrant"),
        (ENTRANTS, {"reference": "SDG"}, "reference 'SDG'.*'SGD'"),
        (ENTRANTS, {"fresh_seeds": 0}, "fresh_seeds"),
        (ENTRANTS, {"seeds": 0}, "seeds"),
        ({"one": Entrant("sdg", SPACE)}, {}, "optimizer 'sdg'.*'sgd'"),
        ({"A b": ENTRANTS["SGD"], "a-B": ENTRANTS["SGD"]}, {}, "'A b' and 'a-B'.*folder 'a-b'"),
        (
            {**ENTRANTS, "large": Entrant("sgd", {**SPACE, "momentum": {"linear": [0, 1]}})},
            {},
            "different numbers of trials, 'SGD' 3, 'Heavy ball' 3, 'large' 9, .*'sobol'",
        ),
    ],
)
def test_a_contest_without_sense_is_refused(tmp_path, entrants, options, message):
    with pytest.raises(ValueError, match=message):
        contest(TASK, entrants, **OPTIONS | options, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_spaces_of_different_sizes_may_be_drawn_from_and_their_numbers_have_one_name():
    rates = {"optimizer.learning_rate": [0.1, 0.2]}
    make = lambda **values: gradlab.sgd(*values.values())
    entrants = {"one": Entrant(make, rates), "two": Entrant(make, {**rates, "optimizer.momentum": [0.5, 0.9]})}
    options = {"trials": 4, "sampler": "halton", "fresh_seeds": 1, "steps": 2}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "4 draws gave")
        result = contest(TASK, entrants, **options)
    table = result.table
    assert len(result.tuned["one"].trials) == 2 < len(result.tuned["two"].trials)
    names = [name for name in table if name.endswith(("learning_rate", "momentum"))]
    assert names == ["optimizer.learning_rate", "optimizer.momentum"]
    assert table[names].notna().values.tolist() == [[True, False], [True, True]]


def test_a_result_can_be_made_of_sweeps(result):
    turned = ContestResult("SGD", result.tuned, result.fresh)
    assert np.all(turned.targets < result.targets)
    assert turned.table["reached"].tolist() == [3, 0]


def test_differences_are_taken_within_a_seed(result):
    table = result.table.set_index("optimizer")
    for label in result.fresh:
        apart = result.fresh[label].final(result.metric)[0] - result.fresh[result.reference].final(result.metric)[0]
        np.testing.assert_array_equal(result.difference(label), apart)
        np.testing.assert_allclose(table.loc[label, "difference"], apart.mean())
        np.testing.assert_allclose(table.loc[label, "error"], apart.std(ddof=1) / len(apart) ** 0.5)
    assert table.loc[result.reference, "difference"] == 0
