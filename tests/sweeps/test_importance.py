import dataclasses

import numpy as np
import optuna
import pytest

from gradlab.sweeps.outcomes.importance import importances
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.samplers.designs import sobol
from gradlab.sweeps.spaces.space import Space
from tests.sweeps.results import only_rates

SPACE = Space(
    {
        "learning_rate": {"log": [1e-4, 1]},
        "b2": {"one_minus": {"log": [1e-4, 1e-1]}},
        "rule": ["a", "b"],
        "width": {"integer": [1, 64], "log": True},
        "b1": 0.9,
    }
)
TRIALS = sobol(SPACE, 64)


def swept(cost, diverges=lambda values: False, space=SPACE, trials=TRIALS):
    diverged = np.array([[diverges(trial.values)] for trial in trials])
    scores = np.array([cost(trial.values) for trial in trials], np.float64)[:, None, None]
    return SweepResult.from_lanes(
        space,
        trials,
        [0],
        steps=10,
        loss=np.ones((len(trials), 1, 1)),
        loss_step=[0],
        metrics={"valid_loss": scores, "valid_accuracy": -scores},
        eval_step=[10],
        diverged_at=np.where(diverged, 3, -1),
        bucket=np.zeros(len(trials), int),
        compile_seconds=[0.0],
        run_seconds=np.zeros(len(trials)),
    )


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("learning_rate", lambda values: abs(np.log10(values["learning_rate"]) + 2)),
        ("b2", lambda values: -np.log10(1 - values["b2"])),
        ("rule", lambda values: values["rule"] == "a"),
        ("width", lambda values: abs(np.log2(values["width"]) - 3)),
    ],
)
def test_what_the_metric_depends_on_is_important(name, cost):
    found = importances(swept(cost))
    assert set(found) == set(SPACE.varying)
    assert next(iter(found)) == name and found[name] > 0.6
    assert sum(found.values()) == pytest.approx(1) and list(found.values()) == sorted(found.values(), reverse=True)


def test_only_ranks_matter_and_not_the_heights_of_bad_trials():
    def cost(values):
        return abs(np.log10(values["learning_rate"]) + 2)

    assert importances(swept(lambda values: np.exp(5 * cost(values)))) == importances(swept(cost))


def test_a_trial_that_diverged_is_not_among_the_best():
    result = swept(lambda values: values["b2"], diverges=lambda values: values["learning_rate"] > 1e-2)
    as_worst = swept(lambda values: values["b2"] + 1e3 * (values["learning_rate"] > 1e-2))
    assert importances(result) == importances(as_worst)
    as_worst = swept(lambda values: values["b2"] - 1e3 * (values["learning_rate"] > 1e-2))
    assert importances(result, mode="max") == importances(as_worst, mode="max")


def test_a_trial_that_was_stopped_is_not_among_the_best():
    outcome = np.where([trial.values["learning_rate"] > 1e-2 for trial in TRIALS], "stopped", "completed")
    result = dataclasses.replace(swept(lambda values: values["b2"]), outcome=outcome)
    as_worst = swept(lambda values: values["b2"] + 1e3 * (values["learning_rate"] > 1e-2))
    assert importances(result) == importances(as_worst)


def test_divergence_alone_makes_a_learning_rate_important():
    found = importances(swept(lambda values: values["b1"], diverges=lambda values: values["learning_rate"] > 1e-3))
    assert next(iter(found)) == "learning_rate" and found["learning_rate"] > 0.6


def test_metric_and_mode_say_what_is_best():
    result = swept(lambda values: np.log10(values["learning_rate"]))
    assert importances(result, "valid_accuracy") == importances(result)
    assert importances(result, mode="max") != importances(result)


def seen(monkeypatch):
    """The numbers of trials that Optuna is asked to hold for the best."""
    shares = []
    real = optuna.importance.PedAnovaImportanceEvaluator

    def spy(*, target_quantile):
        shares.append(target_quantile)
        return real(target_quantile=target_quantile)

    monkeypatch.setattr(optuna.importance, "PedAnovaImportanceEvaluator", spy)
    return shares


@pytest.mark.parametrize(
    ("trials", "diverged", "best", "count"),
    [
        (64, 0, 0.1, 7),
        (64, 0, 0.25, 16),
        (32, 0, 0.1, 5),
        (8, 0, 0.1, 4),
        (3, 0, 0.1, 1),
        (64, 60, 0.1, 4),
        (64, 0, 0.999, 63),
    ],
)
def test_how_many_trials_are_the_best(monkeypatch, trials, diverged, best, count):
    shares = seen(monkeypatch)
    result = only_rates(
        np.logspace(-3, 0, trials), np.arange(1.0, trials + 1), diverged=range(trials - diverged, trials)
    )
    importances(result, best=best)
    assert np.ceil(np.array(shares) * trials) == [count]


def test_the_worst_of_equal_trials_are_not_the_best(monkeypatch):
    shares = seen(monkeypatch)
    importances(only_rates(np.logspace(-3, 0, 8), [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]), best=0.5)
    assert np.ceil(np.array(shares) * 8) == [2]


def test_what_has_no_importance_is_refused():
    with pytest.raises(ValueError, match="two trials that are better than the worst one, got 0 of 4"):
        importances(only_rates([1e-3, 1e-2, 1e-1, 1.0], [1.0] * 4))
    with pytest.raises(ValueError, match="got 1 of 3"):
        importances(only_rates([1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0], diverged=[1, 2]))
    fixed = Space({"b1": 0.9})
    with pytest.raises(ValueError, match="are all fixed"):
        importances(swept(lambda values: 1.0, space=fixed, trials=fixed.from_unit(np.zeros((1, 0)))))
    with pytest.raises(ValueError, match="`best` must be in"):
        importances(swept(lambda values: values["b2"]), best=1.5)
