import builtins
import json
import logging

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from gradlab.sweeps.outcomes.optuna_export import to_study
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.samplers.designs import sobol
from gradlab.sweeps.spaces.dimensions import choice, fixed, integer, linear, log, one_minus
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial
from tests.sweeps.results import only_rates, small_result


def swept(space, trials, losses=None):
    count = len(trials)
    losses = np.arange(float(count)) if losses is None else losses
    return SweepResult.from_lanes(
        space,
        trials,
        [0],
        steps=10,
        loss=np.ones((count, 1, 1)),
        loss_step=[0],
        metrics={"valid_loss": np.reshape(losses, (count, 1, 1))},
        eval_step=[10],
        diverged_at=np.full((count, 1), -1),
        bucket=np.zeros(count, int),
        compile_seconds=[0.0],
        run_seconds=np.zeros(count),
    )


def test_each_trial_of_the_sweep_is_one_of_the_study():
    study = to_study(small_result())
    first, second, third = study.trials
    assert (first.state, first.value) == (TrialState.COMPLETE, 3.0)
    assert (second.state, second.value) == (TrialState.COMPLETE, 2.0)
    assert first.params == {"learning_rate": 0.1, "decay": "cosine", "b1": 0.9}
    assert second.params["decay"] is None
    assert first.intermediate_values == {0: 3.0, 5: 1.5, 10: 3.0}
    assert first.user_attrs["uid"] == small_result().trials[0].uid
    assert first.user_attrs["seeds"] == [7, 9] and first.user_attrs["values"] == [2.0, 4.0]
    assert study.best_trial.number == 1 and study.user_attrs == {"metric": "valid_loss"}


def test_a_trial_with_a_seed_that_diverged_is_pruned_and_ends_where_all_seeds_are_finite():
    third = to_study(small_result()).trials[2]
    assert third.state == TrialState.PRUNED and third.values is None
    assert third.intermediate_values == {0: 3.0, 5: 0.375}  # seed 7 diverges at step 6
    assert third.user_attrs["values"] == [None, 0.2] and third.user_attrs["diverged"] == 1


def test_a_trial_without_a_finite_point_has_failed():
    states = [trial.state for trial in to_study(only_rates([0.1, 1.0], [1.0, np.nan], diverged=[1])).trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL]


def test_a_trial_that_was_stopped_is_pruned_and_one_that_had_settled_complete():
    losses = np.array([[[3.0, 2.0, np.nan]], [[3.0, 1.0, np.nan]], [[3.0, 2.5, 2.0]]])
    result = only_rates(
        [0.1, 0.2, 0.3],
        losses[..., -1],
        metrics={"valid_loss": losses},
        eval_step=[0, 5, 10],
        outcome=["stopped", "ended", "completed"],
        steps_done=[5, 5, 10],
    )
    stopped, ended, completed = to_study(result).trials
    assert stopped.state == TrialState.PRUNED and stopped.intermediate_values == {0: 3.0, 5: 2.0}
    assert stopped.user_attrs["values"] == [2.0] and stopped.user_attrs["diverged"] == 0
    assert [trial.user_attrs["outcome"] for trial in (stopped, ended, completed)] == ["stopped", "ended", "completed"]
    assert (ended.state, ended.value, completed.value) == (TrialState.COMPLETE, 1.0, 2.0)


def test_a_final_value_that_is_not_finite_is_not_complete():
    (only,) = to_study(only_rates([0.1], [np.inf])).trials
    assert only.state == TrialState.FAIL and only.intermediate_values == {}


def test_the_metric_says_whether_more_is_better():
    study = to_study(small_result(), "valid_accuracy")
    assert study.direction.name == "MAXIMIZE" and study.user_attrs["metric"] == "valid_accuracy"
    assert study.trials[0].value == 0.25 and study.best_trial.number == 1
    assert to_study(small_result(), mode="max").best_trial.number == 0
    losses = to_study(small_result(), "loss").trials[0]
    assert losses.intermediate_values == {0: 2.0, 2: 3.0, 4: 4.0, 6: 5.0} and losses.value == 5.0


@pytest.mark.parametrize(
    ("dimension", "name", "distribution", "value", "exported"),
    [
        (linear(0, 2), "x", FloatDistribution(0, 2), 0.5, 0.5),
        (log(1e-3, 1), "x", FloatDistribution(1e-3, 1, log=True), 0.1, 0.1),
        (integer(1, 8), "x", IntDistribution(1, 8), 3, 3),
        (integer(1, 8, log=True), "x", IntDistribution(1, 8, log=True), 3, 3),
        (one_minus(linear(0.25, 0.5)), "x", FloatDistribution(0.5, 0.75), 0.625, 0.625),
        (one_minus(log(0.125, 0.5)), "one_minus(x)", FloatDistribution(0.125, 0.5, log=True), 0.75, 0.25),
        (choice([1, 2]), "x", CategoricalDistribution([1, 2]), 2, 2),
        (choice([None, "a"]), "x", CategoricalDistribution([None, "a"]), None, None),
        (choice([True, 1]), "x", CategoricalDistribution(["true", "1"]), 1, "1"),
        (choice([[8], [4, 4]]), "x", CategoricalDistribution(["[8]", "[4,4]"]), (4, 4), "[4,4]"),
        (fixed(0.9), "x", CategoricalDistribution([0.9]), 0.9, 0.9),
    ],
)
def test_distributions(dimension, name, distribution, value, exported):
    result = swept(Space({"x": dimension}), [Trial.of({"x": value})])
    (trial,) = to_study(result).trials
    assert trial.distributions == {name: distribution}
    assert trial.params == {name: exported} and type(trial.params[name]) is type(exported)


def test_the_ends_of_one_minus_are_inside_despite_rounding():
    dimension = one_minus(log(1e-4, 1e-1))
    result = swept(Space({"b2": dimension}), [Trial.of({"b2": value}) for value in dimension.grid(4)])
    values = [trial.params["one_minus(b2)"] for trial in to_study(result).trials]
    np.testing.assert_allclose(values, [1e-4, 1e-3, 1e-2, 1e-1], rtol=1e-11)
    assert 1 - (1 - 1e-4) < 1e-4 == values[0]


def test_a_value_outside_of_the_space_is_refused():
    for dimension, value in ((log(1e-3, 1), 2.0), (one_minus(log(1e-3, 1e-1)), 0.8)):
        with pytest.raises(ValueError, match="isn't contained"):
            to_study(swept(Space({"x": dimension}), [Trial.of({"x": value})]))


def test_bad_names_are_refused():
    with pytest.raises(ValueError, match="did you mean 'valid_loss'"):
        to_study(small_result(), "valid_los")
    with pytest.raises(ValueError, match="unknown mode 'minimum'"):
        to_study(small_result(), mode="minimum")


def test_without_optuna_the_error_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'", name="optuna")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"needs optuna, .* pip install 'gradlab\[lab\]'") as caught:
        to_study(small_result())
    assert caught.value.name == "optuna"


def test_nothing_is_logged_and_the_verbosity_is_as_before(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.create_study()
    assert "A new study created" in caplog.text
    caplog.clear()
    to_study(small_result())
    assert not caplog.records
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


SPACE = {
    "learning_rate": {"log": [1e-4, 1]},
    "b2": {"one_minus": {"log": [1e-4, 1e-1]}},
    "width": {"integer": [1, 64], "log": True},
    "decay": [None, "cosine", 0.5],
    "hidden": choice([[8], [4, 4]]),
    "b1": 0.9,
}


def test_the_study_goes_on_and_is_stored(tmp_path):
    space = Space(SPACE)
    study = to_study(swept(space, sobol(space, 16)))
    assert set(study.ask(study.trials[0].distributions).params) == set(study.trials[0].params)
    kept = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    kept.add_trials(study.get_trials(states=[TrialState.COMPLETE]))
    assert [trial.params for trial in kept.trials] == [trial.params for trial in study.trials[:16]]
    assert json.loads(json.dumps(kept.trials[3].user_attrs)) == study.trials[3].user_attrs


@pytest.mark.parametrize(
    "picture",
    [
        "contour",
        "edf",
        "intermediate_values",
        "optimization_history",
        "parallel_coordinate",
        "rank",
        "slice",
        "timeline",
    ],
)
def test_pictures_of_optuna_take_the_study(picture):
    space = Space(SPACE | {"b1": [0.9, 0.95]})
    figure = getattr(optuna.visualization, f"plot_{picture}")(to_study(swept(space, sobol(space, 16))))
    assert len(figure.data) > 0
