import csv
import errno
import json

import chex
import jax
import numpy as np
import pandas
import pytest

from gradlab.sweeps.outcomes import files
from gradlab.sweeps.outcomes.result_files import ARRAYS
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import best_of, storable
from gradlab.sweeps.spaces.space import Space
from tests.sweeps.results import DIVERGED_AT, SPACE, TRIALS, VALID_LOSS, lanes, only_rates, small_result

nan = np.nan


def column(name):
    return small_result().table[name].tolist()


def test_the_table_has_a_row_for_each_trial_and_seed():
    a, b, c = (trial.uid for trial in TRIALS)
    assert column("uid") == [a, a, b, b, c, c]
    assert column("seed") == [7, 9, 7, 9, 7, 9]
    assert column("learning_rate") == [0.1, 0.1, 0.01, 0.01, 1.0, 1.0]
    assert column("decay") == ["cosine", "cosine", None, None, 0.5, 0.5]
    assert column("b1") == [0.9] * 6
    assert column("bucket") == [0, 0, 1, 1, 2, 2]


def test_the_columns_stand_in_the_order_of_the_documentation():
    metrics = [f"{name}_{end}" for name in ("loss", "valid_loss", "valid_accuracy") for end in ("final", "best")]
    first = ["uid", "seed", "learning_rate", "decay", "b1", "status", "steps"]
    last = ["best_step", "diverged_at", "bucket", "lane", "lane_method", "compile_seconds", "run_seconds"]
    assert list(small_result().table) == [*first, *metrics, *last]


def test_the_outcome_of_each_run():
    assert column("status") == ["completed"] * 4 + ["diverged", "completed"]
    assert column("steps") == [10, 10, 10, 10, 6, 10]
    assert column("diverged_at") == [-1, -1, -1, -1, 6, -1]
    np.testing.assert_array_equal(column("valid_loss_final"), [2.0, 4.0, 2.5, 1.5, nan, 0.2])
    np.testing.assert_array_equal(column("valid_loss_best"), [1.0, 2.0, 2.5, 1.5, 0.5, 0.2])
    np.testing.assert_array_equal(column("valid_accuracy_best"), [0.75, 0.5, 0.375, 0.625, 0.875, 0.95])
    np.testing.assert_array_equal(column("loss_final"), [3, 7, 11, 15, nan, 23])
    np.testing.assert_array_equal(column("loss_best"), [0, 4, 8, 12, 16, 20])
    assert column("best_step") == [5, 5, 5, 10, 5, 10]


def test_lanes_count_within_a_bucket():
    result = small_result(bucket=np.array([0, 1, 0]), compile_seconds=[1, 1])
    assert result.table["lane"].tolist() == [0, 1, 0, 1, 2, 3]


def test_nothing_finite_has_no_best():
    values = np.array([[[nan, np.inf], [nan, 2.0]]])
    best, step = best_of(values, np.array([0, 5]), np.array([[-1, -1]]), "min")
    np.testing.assert_array_equal(best, [[nan, 2.0]])
    assert step.tolist() == [[-1, 5]]


def test_the_summary_is_over_the_seeds_that_completed():
    summary = small_result().summary("valid_loss")
    assert summary["uid"].tolist() == [trial.uid for trial in TRIALS]
    np.testing.assert_allclose(summary["mean"], [3.0, 2.0, 0.2])
    np.testing.assert_allclose(summary["std"], [np.sqrt(2), np.sqrt(0.5), nan])
    assert summary["n"].tolist() == [2, 2, 1]
    assert summary["diverged"].tolist() == [0, 0, 1]
    assert summary["decay"].tolist() == ["cosine", None, 0.5]


def test_a_diverged_seed_does_not_enter_the_spread_of_the_others():
    finals = np.array([[[1.0], [5.0], [4.0]]])
    result = only_rates([0.1], finals[:, :1], seeds=[0, 1, 2], metrics={"valid_loss": finals}, loss=np.ones((1, 3, 1)))
    result.diverged_at[:] = [[-1, 2, -1]]
    row = result.summary().iloc[0]
    np.testing.assert_allclose([row["mean"], row["std"], row["n"], row["diverged"]], [2.5, np.sqrt(4.5), 2, 1])


def test_none_stays_none_beside_numbers():
    space = Space({"decay": {"choice": [None, 0.5]}})
    trials = space.from_unit([[0.0], [0.9]])
    arrays = lanes(loss=np.ones((2, 1, 4)), metrics={}, diverged_at=[[-1], [-1]], bucket=[0, 1])
    arrays |= {"compile_seconds": [1.0, 1.0], "run_seconds": [1.0, 1.0]}
    result = SweepResult.from_lanes(space, trials, [0], **arrays)
    assert result.table["decay"].tolist() == [None, 0.5]
    assert result.summary()["decay"].tolist() == [None, 0.5]
    assert result.main_metric == "loss"


def test_the_summary_agrees_with_pandas():
    values = np.random.default_rng(0).random((3, 2, 3))
    result = small_result(metrics={"valid_loss": values}, diverged_at=np.full((3, 2), -1))
    groups = result.table.groupby("uid", sort=False)["valid_loss_final"]
    np.testing.assert_allclose(result.summary()["mean"], groups.mean())
    np.testing.assert_allclose(result.summary()["std"], groups.std())


def test_a_trial_that_diverged_with_any_seed_is_never_best():
    best = small_result().best(k=3)
    assert best["uid"].tolist() == [TRIALS[1].uid, TRIALS[0].uid]
    assert small_result().best()["mean"].tolist() == [2.0]


def test_modes():
    result = only_rates([0.1, 0.2, 0.3], [0.5, 0.7, 0.6])
    assert result.top(3)["learning_rate"].tolist() == [0.1, 0.3, 0.2]
    assert result.top(2, mode="max")["learning_rate"].tolist() == [0.2, 0.3]
    accuracy = only_rates([0.1, 0.2], [0, 0], metrics={"valid_accuracy": np.array([[[0.1]], [[0.9]]])})
    assert accuracy.best()["learning_rate"].tolist() == [0.2]
    assert accuracy.best("loss", k=2)["mean"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bad", [nan, np.inf, -np.inf])
def test_a_metric_that_is_not_finite_is_never_best(bad):
    assert only_rates([0.1, 0.2], [bad, 5.0]).best()["learning_rate"].tolist() == [0.2]
    assert only_rates([0.1, 0.2], [bad, 5.0]).best(mode="max")["learning_rate"].tolist() == [0.2]


def test_without_a_completed_trial_nothing_is_best():
    with pytest.raises(ValueError, match="each of the 2 .*diverged.*lower the learning rates"):
        only_rates([0.1, 0.2], [1.0, nan], diverged=[0]).best()


def test_unknown_names_come_with_a_suggestion():
    result = small_result()
    for call in (result.best, result.summary, result.curve):
        with pytest.raises(ValueError, match="unknown metric 'valid_los'; did you mean 'valid_loss'"):
            call("valid_los")
    with pytest.raises(ValueError, match="unknown mode 'minimum'"):
        result.best(mode="minimum")
    with pytest.raises(ValueError, match="unknown trial"):
        result.curves("nobody")
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        result.values("learning_rates")


def test_the_curves_of_a_trial():
    curves = small_result().curves(TRIALS[1].uid)
    assert list(curves) == ["loss_step", "eval_step", "loss", "valid_loss", "valid_accuracy"]
    np.testing.assert_array_equal(curves["valid_loss"], VALID_LOSS[1])
    np.testing.assert_array_equal(curves["loss"], [[8, 9, 10, 11], [12, 13, 14, 15]])
    np.testing.assert_array_equal(curves["eval_step"], [0, 5, 10])


def test_what_is_saved_loads_as_it_was(tmp_path):
    saved = small_result()
    saved.save(tmp_path / "runs/first")
    loaded = SweepResult.load(tmp_path / "runs/first")
    assert (loaded.space, loaded.trials, loaded.seeds, loaded.steps) == (SPACE, tuple(TRIALS), (7, 9), 10)
    assert loaded.facts == saved.facts
    assert (loaded.methods, loaded.lineage) == (saved.methods, saved.lineage)
    for name in ("metrics", *ARRAYS):
        chex.assert_trees_all_equal(getattr(loaded, name), getattr(saved, name))
        chex.assert_trees_all_equal_dtypes(getattr(loaded, name), getattr(saved, name))
    pandas.testing.assert_frame_equal(loaded.table, saved.table)


def test_jax_arrays_are_taken(tmp_path):
    arrays = {name: jax.numpy.asarray(lanes()[name]) for name in ("loss", "loss_step", "eval_step", "diverged_at")}
    arrays["metrics"] = {name: jax.numpy.asarray(values) for name, values in lanes()["metrics"].items()}
    result = small_result(**arrays)
    result.save(tmp_path)
    pandas.testing.assert_frame_equal(SweepResult.load(tmp_path).table, small_result().table)


def test_the_parquet_and_csv_files_hold_the_table(tmp_path):
    result = small_result()
    result.save(tmp_path)
    table = pandas.read_parquet(tmp_path / "results.parquet")
    assert list(table) == list(result.table)
    assert table["decay"][[0, 4]].tolist() == ['"cosine"', "0.5"] and table["decay"][[2]].isna().all()
    numbers = [name for name in table if name not in ("uid", "decay", "status", "lane_method")]
    np.testing.assert_array_equal(table[numbers], result.table[numbers])
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["uid"] for row in rows] == result.table["uid"].tolist()
    assert [row["valid_loss_final"] for row in rows] == ["2.0", "4.0", "2.5", "1.5", "", "0.2"]


def test_columns_of_one_type_are_stored_as_they_are():
    table = small_result().table.assign(decay=[None, True, False, None, True, False])
    assert storable(table, SPACE)["decay"].tolist() == [None, True, False, None, True, False]


def test_resolved_json_says_where_the_numbers_come_from(tmp_path):
    small_result().save(tmp_path)
    resolved = json.loads((tmp_path / "resolved.json").read_text())
    assert resolved["space"]["learning_rate"] == {"log": [1e-4, 1.0]}
    assert resolved["seeds"] == [7, 9] and resolved["steps"] == 10
    seconds = {"compile_seconds": 2.0, "run_seconds": 0.2}
    assert resolved["buckets"][1] == {"structure": {"decay": None}, "lane_method": "vmap", **seconds}
    assert resolved["trials"][0] == {"uid": TRIALS[0].uid, "values": TRIALS[0].values}
    facts = resolved["facts"]
    assert facts["task"] == "digits"
    assert facts["versions"]["jax"] == jax.__version__ and facts["versions"]["numpy"] == np.__version__
    assert {"python", "jaxlib", "optax", "flax", "gradlab"} <= set(facts["versions"])
    assert {"platform", "git", "date"} <= set(facts)


def test_a_full_disk_while_saving_leaves_the_result_before_it(tmp_path, monkeypatch):
    before = only_rates([0.1], [1.0])
    before.save(tmp_path)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        small_result().save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
    pandas.testing.assert_frame_equal(SweepResult.load(tmp_path).table, before.table)


def test_a_folder_without_a_sweep_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no sweep: there is no curves\.npz"):
        SweepResult.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": np.zeros((3, 2, 5))}, r"`loss` must have shape \(3, 2, 4\), got \(3, 2, 5\)"),
        ({"metrics": {"valid_loss": np.zeros((2, 3, 3))}}, r"`valid_loss` must have shape \(3, 2, 3\)"),
        ({"metrics": {"loss": VALID_LOSS}}, "call it 'valid_loss'"),
        ({"diverged_at": DIVERGED_AT[0]}, r"`diverged_at` must have shape \(3, 2\)"),
        ({"bucket": [0, 1]}, r"`bucket` must have shape \(3,\)"),
        ({"run_seconds": [1.0]}, r"`run_seconds` must have shape \(3,\)"),
    ],
)
def test_arrays_that_do_not_fit_say_why(changes, words):
    with pytest.raises(ValueError, match=words):
        small_result(**changes)


def test_trials_are_given_once():
    with pytest.raises(ValueError, match="given twice"):
        SweepResult.from_lanes(SPACE, [TRIALS[0], TRIALS[1], TRIALS[0]], [7, 9], **lanes())
    with pytest.raises(ValueError, match="got 0 trials"):
        SweepResult.from_lanes(SPACE, [], [7], **lanes())
