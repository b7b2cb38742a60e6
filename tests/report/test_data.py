import base64
import json

import numpy as np
import pytest

from gradlab.report import data as module
from gradlab.report.data import page_data
from gradlab.sweeps.spaces.space import Space
from tests.report.examples import FINAL, HOSTILE, RATES, STEPS, example, large, stopped
from tests.sweeps.results import only_rates


def curves(data, metric):
    values = np.frombuffer(base64.b64decode(metric["curve"]), "<f4")
    return values.reshape(len(data["kept"]), len(metric["step"]))


def test_the_final_values_are_means_over_seeds_and_missing_where_one_diverged():
    data = page_data(example())
    loss, accuracy, training = data["metrics"]
    assert [one["label"] for one in data["metrics"]] == ["validation loss", "validation accuracy", "training loss"]
    assert [one["mode"] for one in data["metrics"]] == ["min", "max", "min"]
    assert [one["log"] for one in data["metrics"]] == [True, False, False]
    assert loss["mean"][:5] == pytest.approx([final + 0.01 for final in FINAL[:5]])
    assert loss["std"][:5] == pytest.approx([0.02 / np.sqrt(2)] * 5, rel=1e-5)
    assert (loss["ceiling"], accuracy["ceiling"]) == (20.0, None)
    assert accuracy["mean"][0] == pytest.approx(1 - 0.91 / 4)
    assert [one["mean"][5] for one in data["metrics"]] == [one["std"][5] for one in data["metrics"]] == [None] * 3


def test_a_sweep_with_one_seed_has_no_spread():
    data = page_data(only_rates([0.1, 0.2], [1.0, 2.0]))
    assert data["metrics"][0]["std"] == [None, None]
    assert "±" not in dict(data["numbers"])["best validation loss"]


def test_parameters_have_the_coordinates_of_their_axes():
    rate, b2, schedule = page_data(example())["parameters"]
    assert (rate["label"], rate["axis"], rate["log"], rate["shown"]) == ("learning rate", "learning rate", True, None)
    assert rate["values"] == RATES
    assert (b2["label"], b2["axis"], b2["log"]) == ("b2", "1 - b2", True)
    assert b2["values"] == pytest.approx([10.0 ** -(1 + i / 2) for i in range(6)])
    assert b2["shown"] == pytest.approx([1 - value for value in b2["values"]])
    assert schedule["ticks"] == ("None", "cosine", HOSTILE) and schedule["values"] == [0, 1, 2, 0, 1, 2]


def test_names_that_end_alike_are_told_apart():
    result = only_rates([0.1, 0.2], [1.0, 2.0])
    space = Space({"a.rate": {"log": [0.1, 1]}, "b.rate": {"log": [0.1, 1]}, "c": {"linear": [0, 1]}})
    trials = space.from_unit([[0, 0, 0], [1, 1, 1]])
    arrays = {name: getattr(result, name) for name in ("steps", "loss", "loss_step", "metrics", "eval_step")}
    arrays |= {name: getattr(result, name) for name in ("diverged_at", "bucket", "compile_seconds", "run_seconds")}
    renamed = type(result).from_lanes(space, trials, [0], **arrays)
    assert [one["label"] for one in page_data(renamed)["parameters"]] == ["a.rate", "b.rate", "c"]


def test_trials_say_what_became_of_them():
    data = page_data(example())
    assert data["trials"]["status"] == ["completed"] * 5 + ["diverged"]
    assert data["trials"]["note"] == [""] * 5 + ["1 of 2 seeds, first at step 12"]
    assert page_data(only_rates([0.1], [1.0], diverged=[0]))["trials"]["note"] == ["at step 3"]


def test_a_stopped_trial_says_when_and_comes_after_those_that_ran_on():
    data = page_data(stopped())
    assert (data["trials"]["status"][4], data["trials"]["note"][4]) == ("stopped", "at step 10")
    assert (data["trials"]["status"][5], data["trials"]["note"][5]) == ("diverged", "1 of 2 seeds, first at step 12")
    assert data["metrics"][0]["mean"][4] == pytest.approx(0.05)
    assert data["kept"] == [3, 2, 1, 0, 4, 5]
    assert dict(data["numbers"])["best validation loss"] == "0.11 ± 0.0141"
    values = curves(data, data["metrics"][0])[4]
    assert values[:2] == pytest.approx([2.0, 0.05]) and np.isnan(values[2])


def test_curves_are_means_that_end_where_a_run_diverged():
    data = page_data(example())
    assert data["kept"] == [3, 2, 4, 1, 0, 5]  # best first, the diverged one last
    loss = data["metrics"][0]
    assert loss["step"] == STEPS.tolist() and loss["log_curve"]
    values = curves(data, loss)
    assert values[0] == pytest.approx([2.0, 1.05, 0.11])
    assert values[-1][:2] == pytest.approx([2.0, 26.0]) and np.isnan(values[-1][2])


def test_long_curves_are_thinned_evenly_with_both_ends():
    data = page_data(large(12, points=1000))
    metric = data["metrics"][0]
    assert len(metric["step"]) == module.MOST_POINTS
    assert (metric["step"][0], metric["step"][-1]) == (1, 1000)
    assert set(np.diff(metric["step"])) == {10, 11}
    steps = np.array(metric["step"])
    best = data["metrics"][0]["mean"][data["kept"][0]]
    assert curves(data, metric)[0] == pytest.approx(1 + (best - 1) * (steps - 1) / 999, rel=1e-5)


def test_the_curves_of_the_best_trials_are_kept_within_the_budget(monkeypatch):
    monkeypatch.setattr(module, "CURVE_BUDGET", 1200)
    data = page_data(large(50, points=40))  # 3 curves: 8 points each would fit, 20 are the fewest
    assert [len(metric["step"]) for metric in data["metrics"]] == [20] * 3
    assert len(data["kept"]) == 20
    mean = data["metrics"][0]["mean"]
    order = sorted((value, trial) for trial, value in enumerate(mean) if value is not None)
    assert data["kept"] == [trial for _, trial in order[:20]]


def test_the_order_of_an_accuracy_is_turned():
    result = example()
    accuracy = example(metrics={"valid_accuracy": result.metrics["valid_accuracy"]})
    assert page_data(accuracy)["kept"] == page_data(result)["kept"]


def test_key_numbers_and_facts():
    data = page_data(example())
    numbers, facts = dict(data["numbers"]), dict(data["facts"])
    assert data["title"] == "digits: 6 trials"
    assert (numbers["runs"], numbers["diverged runs"], numbers["steps of a run"]) == ("12", "1", "20")
    assert numbers["best validation loss"] == "0.11 ± 0.0141"
    assert numbers["best trial"].endswith(": learning rate 0.1, b2 0.9968, schedule None")
    assert facts["task"] == "digits" and facts["git"] == "commit abc123, changed False"
    assert facts["seconds"] == "1.0 running, 6.0 compiling" and facts["programs"] == "3, lanes by vmap"
    assert "jax " in facts["versions"] and "cpus " in facts["platform"]


def test_a_sweep_of_which_all_trials_diverged_has_no_best_one():
    data = page_data(only_rates([0.1, 0.2], [1.0, 2.0], diverged=[0, 1]))
    assert dict(data["numbers"])["best trial"] == "none: every trial diverged"
    assert data["metrics"][0]["mean"] == [None, None]
    json.dumps(data, allow_nan=False)


def test_a_space_in_which_nothing_varies():
    result = example()
    fixed = Space({"learning_rate": 0.1})
    one = type(result).from_lanes(
        fixed,
        fixed.from_unit(np.zeros((1, 0))),
        [0],
        steps=1,
        loss=[[[1.0]]],
        loss_step=[0],
        metrics={},
        eval_step=[],
        diverged_at=[[-1]],
        bucket=[0],
        compile_seconds=[0.0],
        run_seconds=[0.0],
    )
    data = page_data(one)
    assert data["parameters"] == [] and [metric["label"] for metric in data["metrics"]] == ["training loss"]
    assert dict(data["numbers"])["best trial"] == one.trials[0].uid


def test_events_are_read_and_a_line_that_was_cut_off_is_shown_as_it_is():
    lines = ['{"time": "12:00", "event": "begun", "process": 7}', "[1]", '{"time": "12:']
    data = page_data(example(), events="\n".join(lines) + "\n")
    assert data["events"] == [("12:00", "begun", "process 7"), ("", "", "[1]"), ("", "", '{"time": "12:')]
    assert data["earlier_events"] == 0


def test_of_many_events_the_last_are_shown():
    lines = [json.dumps({"time": "", "event": "chunk", "chunk": index}) for index in range(250)]
    data = page_data(example(), events="\n".join(lines))
    assert data["earlier_events"] == 50
    assert (data["events"][0][2], data["events"][-1][2], len(data["events"])) == ("chunk 50", "chunk 249", 200)


def test_values_beyond_float32_end_no_page():
    result = example()
    loss = result.metrics["valid_loss"].copy()
    loss[2, :, 1] = 1e300
    data = page_data(example(metrics={"valid_loss": loss}))
    place = data["kept"].index(2)
    assert np.isnan(curves(data, data["metrics"][0])[place]).tolist() == [False, True, False]
    json.dumps(data, allow_nan=False)
