"""Schedulers and samplers in the engine: who goes on keeps its numbers, who stops costs nothing; kills change none."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.sweeps.engine.journal import journal_of, open_journal
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.run import run_setup
from gradlab.tasks import make_task, quadratic, surface_task
from gradlab.tasks.catalogue import digits_linear, digits_mlp

SPACE = {"learning_rate": {"log": [1e-3, 1.0]}, "b1": {"one_minus": {"log": [1e-2, 1.0]}}}
OPTIONS = {"trials": 9, "sampler": "halton", "seeds": 2, "steps": 18, "batch_size": 32, "eval_every": 2, "chunk": 4}
HALVING = {"name": "halving", "eta": 3, "first": 2}
PBT = {"name": "pbt", "interval": 6, "quantile": 0.34}


def swept(space=SPACE, task=None, **changes):
    return gradlab.sweep(task or digits_linear(), gradlab.adam, space, **OPTIONS | changes)


@pytest.fixture(scope="module")
def whole():
    return swept()


def assert_equal(one, other):
    assert [trial.uid for trial in one.trials] == [trial.uid for trial in other.trials]
    assert (one.lineage, one.outcome.tolist()) == (other.lineage, other.outcome.tolist())
    np.testing.assert_array_equal(one.loss, other.loss)
    for name in one.metrics:
        np.testing.assert_array_equal(one.metrics[name], other.metrics[name])


def assert_same_where_it_ran(some, whole, rtol=2e-5):
    """What ran equals the sweep without a scheduler; what did not has no numbers."""
    for index, steps in enumerate(some.steps_done):
        np.testing.assert_allclose(some.loss[index, :, :steps], whole.loss[index, :, :steps], rtol=rtol)
        assert np.isnan(some.loss[index, :, steps:]).all()
        evals = some.eval_step <= steps
        values = some.metrics["valid_loss"][index]
        np.testing.assert_allclose(values[:, evals], whole.metrics["valid_loss"][index][:, evals], rtol=rtol)
        assert np.isnan(values[:, ~evals]).all()


def test_halving_stops_the_worst_at_each_rung_and_leaves_the_others_as_they_were(whole):
    result = swept(scheduler=HALVING)
    assert sorted(result.steps_done.tolist()) == [2] * 6 + [6] * 2 + [18]
    assert_same_where_it_ran(result, whole)
    first = whole.metrics["valid_loss"][:, :, 1].mean(1)
    assert set(np.flatnonzero(result.steps_done > 2)) == set(np.argsort(first)[:3])
    second = np.where(result.steps_done > 2, whole.metrics["valid_loss"][:, :, 3].mean(1), np.inf)
    assert result.steps_done.argmax() == second.argmin()
    (last,) = np.flatnonzero(result.outcome == "completed")
    assert result.best()["uid"].tolist() == [result.trials[last].uid]
    assert result.table["status"].value_counts().to_dict() == {"stopped": 16, "completed": 2}
    assert sorted(result.table["steps"]) == [2] * 12 + [6] * 4 + [18] * 2


def test_a_stopped_trial_is_summarised_where_it_stopped_and_is_never_best(whole):
    result = swept(scheduler=HALVING)
    row = result.summary().iloc[int(np.flatnonzero(result.steps_done == 2)[0])]
    curve = whole.curves(row["uid"])["valid_loss"][:, 1]
    np.testing.assert_allclose(row["mean"], curve.mean(), rtol=2e-5)
    assert row["outcome"] == "stopped" and row["diverged"] == 0
    losses = result.table.set_index(["uid", "seed"])["loss_final"][row["uid"]]
    np.testing.assert_allclose(losses, whole.curves(row["uid"])["loss"][:, 1], rtol=2e-5)
    assert len(result.best(k=9)) == 1


@pytest.mark.parametrize("scheduler", ["hyperband", "median", "percentile", {"name": "patience", "patience": 2}])
def test_other_schedulers_leave_numbers_as_they_were(whole, scheduler):
    result = swept(scheduler=scheduler)
    assert_same_where_it_ran(result, whole)
    assert result.steps_done.sum() < whole.steps_done.sum()


def test_a_trial_that_ended_by_patience_may_be_best():
    result = swept(
        {"learning_rate": [1e-9, 1e-8]}, sampler="grid", scheduler={"name": "patience", "patience": 1, "min_delta": 1}
    )
    assert result.outcome.tolist() == ["ended"] * 2
    assert len(result.best(k=2)) == 2 and (result.steps_done < 18).all()


def test_a_diverged_trial_does_not_outlive_a_sound_one():
    space = {"learning_rate": [0.01, 1e300, 0.02, 0.03]}
    halving = {"name": "halving", "eta": 2, "first": 6}
    result = gradlab.sweep(digits_linear(), gradlab.sgd, space, **OPTIONS | {"sampler": "grid", "scheduler": halving})
    assert result.steps_done[1] == 6
    assert result.table.groupby("learning_rate")["status"].first()[1e300] == "diverged"


def test_a_run_that_diverged_at_healthy_weights_loses():
    """The loss is NaN near the minimum, where the metric is best: the lane freezes with the lowest metric of all."""

    def start(key):
        return jnp.ones(1), {}

    def loss(params, state, batch, key):
        value = jnp.sum(params**2)
        return jnp.where(value < 0.1, jnp.nan, value), state

    def metrics(params, state, data):
        return {"loss": jnp.sum(params**2)}

    task = make_task(start, loss, metrics)
    space = {"learning_rate": [0.4, 0.01, 0.02, 0.03]}
    options = {"trials": 1, "sampler": "grid", "steps": 12, "eval_every": 4}
    result = gradlab.sweep(task, gradlab.sgd, space, scheduler={"name": "halving", "eta": 2, "first": 4}, **options)
    assert (
        result.diverged_at[0, 0] >= 0
        and result.metrics["eval_loss"][0, 0, 1] < result.metrics["eval_loss"][1:, 0, 1].min()
    )
    assert result.steps_done[0] == 4 and result.best()["learning_rate"].tolist() == [0.03]


def test_a_stop_at_the_last_segment_of_a_chunk_loses_nothing(tmp_path):
    setup = prepare(digits_linear(), gradlab.adam, SPACE, **OPTIONS | {"scheduler": HALVING})
    whole = run_setup(setup)
    for segments in (1, 3, 4, 5, 10):
        out, calls = tmp_path / str(segments), []
        journal = open_journal(out, {})

        def stop(now, journal=journal, calls=calls, segments=segments):
            calls.append(now)
            journal.stop_requested = len(calls) == segments

        with pytest.raises(KeyboardInterrupt), journal_of(journal):
            run_setup(setup, stop, journal)
        with journal_of(again := open_journal(out, {})):
            assert_equal(run_setup(setup, journal=again), whole)
            numbers = sorted(
                int(path.stem) for path in (out / "unfinished").glob("[0-9]*.npz") if path.stem.isdecimal()
            )
        assert numbers == list(range(len(numbers)))


def test_the_thinned_curve_of_a_stopped_trial_ends_with_the_steps_that_ran():
    """600 steps make windows of two; the stop after 101 cuts one in half."""
    options = {"trials": 2, "sampler": "grid", "steps": 606, "eval_every": 101}
    halving = {"name": "halving", "eta": 2, "first": 101, "rungs": 1}
    task, space = surface_task(quadratic(condition=10.0)), {"learning_rate": [1e-3, 1e-2]}
    result = gradlab.sweep(task, gradlab.sgd, space, scheduler=halving, **options)
    alone = gradlab.fit(task, gradlab.sgd(1e-3), steps=606)
    assert result.steps_done.tolist() == [101, 606] and result.loss_step[1] == 2
    np.testing.assert_allclose(result.loss[0, 0, 50], alone.loss[100], rtol=1e-6)
    np.testing.assert_allclose(result.loss[0, 0, 49], alone.loss[98:100].mean(), rtol=1e-6)
    assert np.isnan(result.loss[0, 0, 51:]).all()


def test_a_population_takes_over_states_and_values():
    """Without perturbation a member that took over another's state goes on exactly as that one does."""
    result = swept(scheduler={**PBT, "factors": [1.0], "resample": 0.0})
    assert result.lineage and {change["step"] for change in result.lineage} <= {6, 12}
    uids = [trial.uid for trial in result.trials]
    last = {change["uid"]: change for change in result.lineage}
    for uid, change in last.items():
        one, other = uids.index(uid), uids.index(change["parent"])
        if change["parent"] in last and last[change["parent"]]["step"] >= change["step"]:
            continue
        np.testing.assert_array_equal(result.loss[one, :, change["step"] :], result.loss[other, :, change["step"] :])
        assert result.trials[one].values == result.trials[other].values
        assert not np.array_equal(result.loss[one, :, : change["step"]], result.loss[other, :, : change["step"]])


def test_a_population_explores_and_the_table_has_the_values_of_the_end():
    result = swept(scheduler=PBT)
    last = {change["uid"]: change["values"] for change in result.lineage}
    for trial in result.trials:
        assert trial.values == last.get(trial.uid, trial.values)
    rates = result.table.groupby("uid")["learning_rate"].first()
    assert all(rates[uid] == values["learning_rate"] for uid, values in last.items())
    assert any(trial.uid in last and gradlab.sweeps.Trial.of(trial.values).uid != trial.uid for trial in result.trials)


@pytest.mark.parametrize("sampler", ["coordinate", "tpe"])
def test_samplers_that_look_at_results_learn_from_round_to_round(sampler):
    result = swept(sampler=sampler, trials=12, batch=4)
    assert len({trial.uid for trial in result.trials}) == 12
    again = swept(sampler=sampler, trials=12, batch=4)
    assert_equal(again, result)


def test_hypergradients_refine_the_best_trials():
    space = {"learning_rate": {"log": [1e-4, 1.0]}}
    coarse = swept(space, trials=3, sampler="grid")
    fine = swept(space, trials=3, sampler="grid", scheduler={"name": "hypergrad", "best": 1, "rounds": 2, "step": 0.3})
    assert [trial.uid for trial in fine.trials[:3]] == [trial.uid for trial in coarse.trials]
    assert len(fine.trials) == 5
    assert fine.best()["mean"].iloc[0] < coarse.best()["mean"].iloc[0]


STAGED = {
    "halving": {"scheduler": HALVING},
    "population": {"scheduler": PBT},
    "coordinate": {"sampler": "coordinate", "trials": 8, "batch": 4},
    "hypergrad": {"scheduler": {"name": "hypergrad", "best": 1, "rounds": 1}},
}


@pytest.mark.parametrize("kind", STAGED)
def test_interrupted_anywhere_it_goes_on_to_the_same_numbers(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(open_journal.__kwdefaults__, "every_seconds", 0.0)
    whole = swept(**STAGED[kind])
    calls, done = [], None

    def interrupted(now):
        calls.append(now)
        if len(calls) % 5 == 0:
            raise KeyboardInterrupt

    for _ in range(50):
        try:
            done = swept(out=tmp_path / "out", progress=interrupted, **STAGED[kind])
        except KeyboardInterrupt:
            continue
        break
    assert len(calls) > 5
    assert_equal(done, whole)
    assert not list((tmp_path / "out").glob("unfinished/*"))


def test_structure_of_the_task_makes_buckets():
    space = {"learning_rate": 0.01, "task.hidden": [[4], [8, 8]], "task.l2": [0.0, 0.1]}
    result = swept(space, task=functools.partial(digits_mlp, l2=0.0), sampler="grid", trials=1, seeds=1)
    assert result.table.groupby("bucket")["task.hidden"].nunique().tolist() == [1, 1]
    for trial, loss in zip(result.trials, result.loss, strict=True):
        task = digits_mlp(hidden=trial.values["task.hidden"], l2=trial.values["task.l2"])
        alone = gradlab.fit(task, gradlab.adam(0.01), steps=18, batch_size=32, key=0)
        np.testing.assert_allclose(loss[0], alone.loss, rtol=1e-4)


def test_progress_counts_what_need_not_run():
    seen = []
    swept(scheduler=HALVING, progress=seen.append)
    assert seen[-1].done == seen[-1].total == 9 * 2 * 18
    assert all(one.done <= other.done for one, other in zip(seen, seen[1:], strict=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": "halfing"}, "unknown scheduler 'halfing'; did you mean 'halving'"),
        ({"scheduler": {"name": "halving", "etta": 3}}, "did you mean 'eta'"),
        ({"scheduler": {"name": "hypergrad", "round": 3}}, "did you mean 'rounds'"),
        ({"scheduler": {"name": "halving", "eta": 3, "first": 1}}, "before the first evaluation"),
        ({"scheduler": {"name": "hypergrad", "horizon": 99}}, "horizon"),
        ({"scheduler": "hypergrad", "space": {"learning_rate": [0.1, 0.2]}, "sampler": "grid"}, "none has a range"),
        ({"scheduler": PBT, "sampler": "tpe"}, "nothing to learn"),
        (
            {"scheduler": PBT, "space": {**SPACE, "nesterov": [True, False]}},
            "needs one structure, but nesterov gives 2",
        ),
        ({"sampler": "tpe", "trials": 0}, "number of trials for sampler 'tpe'"),
        ({"batch": 4}, "halton draws all at once"),
        ({"lane_method": "pmap"}, "unknown lane_method 'pmap'"),
        ({"task": 3}, "`task` must be a Task, or a function"),
        ({"task": digits_mlp, "space": {"task.hiden": [[3]], "learning_rate": 0.1}}, "hiden"),
        (
            {"task": digits_mlp, "space": {"task.width": {"linear": [0, 1]}, "learning_rate": 0.1}},
            "unknown number or argument of the task 'width'",
        ),
        (
            {"task": digits_mlp, "space": {"task.activation": {"linear": [0, 1]}, "learning_rate": 0.1}},
            "`task.activation` is no number of task",
        ),
    ],
)
def test_mistakes_are_explained_before_anything_runs(arguments, message):
    options = {name: value for name, value in OPTIONS.items() if name not in ("sampler", "trials")}
    given = {"task": digits_linear(), "space": SPACE, "trials": 9, "sampler": "halton", **options, **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        prepare(given.pop("task"), gradlab.adam, given.pop("space"), **given)
