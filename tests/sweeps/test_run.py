"""`sweep`: buckets, chunks and seeds add up to one table, and mistakes are explained before anything compiles."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.sweeps.engine.prepare import prepare
from gradlab.tasks import TASKS, make_task, quadratic, surface_task

SPACE = {"learning_rate": {"log": [1e-3, 1.0]}, "momentum": [0.0, 0.9], "nesterov": [False, True]}


def task():
    return TASKS["digits_linear"](l2=0.0)


def run(space=SPACE, **changes):
    arguments = {"trials": 3, "sampler": "grid", "seeds": 2, "steps": 10, "batch_size": 16, "eval_every": 5, **changes}
    return gradlab.sweep(task(), gradlab.sgd, space, **arguments)


@pytest.fixture(scope="module")
def result():
    return run()


def test_one_row_a_trial_and_seed(result):
    assert len(result.table) == 3 * 2 * 2 * 2
    assert not result.table.duplicated(["uid", "seed"]).any()
    assert set(result.table["nesterov"]) == {False, True}


def test_rows_equal_single_runs(result):
    for row in result.table.iloc[::5].to_dict("records"):
        tx = gradlab.sgd(row["learning_rate"], row["momentum"], bool(row["nesterov"]))
        alone = gradlab.fit(task(), tx, steps=10, key=row["seed"], batch_size=16, eval_every=5)
        np.testing.assert_allclose(row["valid_loss_final"], alone.metrics["loss"][-1], rtol=1e-4)
        np.testing.assert_allclose(result.curves(row["uid"])["loss"][row["seed"]], alone.loss, rtol=1e-4)


def test_structure_makes_buckets_and_numbers_do_not(result):
    assert result.table.groupby("nesterov")["bucket"].nunique().tolist() == [1, 1]
    assert result.table["bucket"].nunique() == 2


@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_chunks_do_not_change_the_results(result, chunk):
    again = run(chunk=chunk)
    np.testing.assert_allclose(again.loss, result.loss, rtol=1e-5)
    np.testing.assert_allclose(again.metrics["valid_loss"], result.metrics["valid_loss"], rtol=1e-5)


def test_progress_ends_at_the_total(result):
    seen = []
    run(progress=seen.append)
    assert seen[-1].done == seen[-1].total
    assert seen[-1].remaining == 0
    assert all(first.done <= second.done for first, second in zip(seen, seen[1:], strict=False))


def test_a_long_curve_is_thinned_to_means(result):
    long = gradlab.sweep(
        surface_task(quadratic(condition=10.0)),
        gradlab.sgd,
        {"learning_rate": 0.001},
        trials=1,
        sampler="grid",
        steps=1234,
    )
    alone = gradlab.fit(surface_task(quadratic(condition=10.0)), gradlab.sgd(0.001), steps=1234)
    assert len(long.loss_step) <= 500
    stride = long.loss_step[1]
    np.testing.assert_allclose(long.loss[0, 0, 0], alone.loss[:stride].mean(), rtol=1e-5)
    np.testing.assert_allclose(long.loss[0, 0, -1], alone.loss[long.loss_step[-1] :].mean(), rtol=1e-5)


def test_a_diverged_trial_is_recorded_and_never_best():
    result = run({"learning_rate": [0.1, 1e30]})
    assert result.table.set_index("learning_rate")["status"].to_dict() == {0.1: "completed", 1e30: "diverged"}
    assert result.best()["learning_rate"].tolist() == [0.1]


def test_registry_names_and_task_numbers():
    result = gradlab.sweep(
        task(), "adamw", {"task.l2": [0.0, 1.0], "learning_rate": 0.01}, trials=1, sampler="grid", steps=4, batch_size=8
    )
    assert result.table["task.l2"].tolist() == [0.0, 1.0]
    assert result.loss[0, 0, -1] != result.loss[1, 0, -1]


def test_trials_may_be_given(result):
    trials = [result.trials[5]]
    given = run(trials=trials)
    np.testing.assert_allclose(given.loss[0], result.curves(trials[0].uid)["loss"], rtol=1e-5)
    assert given.table["uid"].unique().tolist() == [trials[0].uid]


def test_results_are_saved_and_a_full_folder_is_refused(tmp_path):
    first = run({"learning_rate": [0.1, 0.2]}, out=tmp_path / "out")
    loaded = type(first).load(tmp_path / "out")
    np.testing.assert_array_equal(loaded.loss, first.loss)
    with pytest.raises(FileExistsError, match="overwrite"):
        run({"learning_rate": [0.1, 0.2]}, out=tmp_path / "out")
    run({"learning_rate": [0.1, 0.2]}, out=tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"space": {"lerning_rate": 0.1, "task.l3": 0.1}},
            "(?s)^sgd has no argument 'lerning_rate'; did you mean 'learning_rate'.*\n"
            "sgd needs a value for its argument 'learning_rate'.*\nunknown number of the task 'l3'; Known: ",
        ),
        ({"space": {"learning_rate": [0.1, -0.1]}}, "`learning_rate` must be >= 0, got -0.1"),
        ({"space": {"learning_rate": 0.1, "task.l3": 0.1}}, "unknown number of the task 'l3'"),
        ({"sampler": "sobel"}, "did you mean 'sobol'"),
        ({"trials": []}, "at least one trial"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": [1, 1]}, "each once"),
        ({"steps": None}, "either steps or epochs"),
        ({"batch_size": 10**6}, "larger than the data set"),
        ({"chunk": 0}, "`chunk` must be >= 1"),
    ],
)
def test_mistakes_are_explained_before_anything_runs(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run(**arguments)


def test_an_unknown_optimizer_is_refused_with_a_guess():
    with pytest.raises(ValueError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        gradlab.sweep(task(), "adm", {"learning_rate": 0.1}, trials=1, steps=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gradlab.adam(0.1), r"an optimizer; pass the factory, not an optimizer: sweep\(task, gradlab.adamw, {"),
        (3, "must be a factory of optimizers, .* got int: 3"),
        (optax.adam, "hidden in functions, as Optax's are, .* use gradlab.adam$"),
        (lambda learning_rate: None, "must make an optimizer, got NoneType"),
    ],
)
def test_what_makes_no_optimizer_of_gradlab_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        gradlab.sweep(task(), make, {"learning_rate": [0.1, 0.2]}, trials=2, steps=1)


def test_a_name_that_the_factory_of_the_task_does_not_take_is_refused_with_a_guess():
    space = {"learning_rate": 0.1, "task.hiden": [(8,), (4, 4)]}
    with pytest.raises(ValueError, match="digits_mlp has no argument 'hiden'; did you mean 'hidden'"):
        gradlab.sweep(TASKS["digits_mlp"], "sgd", space, trials=2, steps=1)
    space = {"learning_rate": 0.1, "task.label_smooth": {"linear": [0, 0.1]}}
    with pytest.raises(ValueError, match="'label_smooth'; did you mean 'label_smoothing'"):
        gradlab.sweep(TASKS["digits_mlp"], "sgd", space, trials=2, steps=1)


def test_ten_thousand_trials_are_planned_without_compiling():
    setup = prepare(task(), gradlab.adamw, {"learning_rate": {"log": [1e-4, 1.0]}}, trials=8192, seeds=1, steps=10)
    assert len(setup.trials) == 8192
    assert len(setup.buckets) == 1
    assert len(setup.buckets[0].trials) == 8192


def scored():
    """Ten numbers without validation data, with a score that comes first by name and counts, so has no derivative."""
    numbers = jnp.linspace(-1.0, 1.0, 10)
    error = lambda x, data: jnp.mean((x - data) ** 2)
    return make_task(
        lambda key: (jnp.float32(3.0), {}),
        lambda x, state, data, key: (error(x, data), state),
        lambda x, state, data: {"above": jnp.mean((data > x).astype(float)), "loss": error(x, data)},
        train=numbers,
    )


@pytest.mark.parametrize(
    "search",
    [
        {"scheduler": {"name": "hypergrad", "best": 1, "rounds": 2}},
        {"scheduler": {"name": "halving", "eta": 2}, "eval_every": 2},
    ],
)
def test_without_validation_data_trials_are_compared_by_the_loss_on_the_training_data(search):
    result = gradlab.sweep(scored(), gradlab.sgd, {"learning_rate": {"log": [1e-3, 0.4]}}, trials=4, steps=8, **search)
    assert result.main_metric == "eval_loss"
    assert result.best()["learning_rate"].tolist() == [max(result.values("learning_rate"))]  # 0.5 would be exact


def test_a_loss_without_a_derivative_is_refused_before_anything_runs():
    counted = make_task(
        lambda key: (jnp.float32(3.0), {}),
        lambda x, state, data, key: (jnp.mean((x - data) ** 2), state),
        lambda x, state, data: {"loss": jnp.mean((data > x).astype(float))},
        train=jnp.arange(4.0),
    )
    with pytest.raises(ValueError, match="metric 'loss' of task .* has no derivative"):
        prepare(counted, "sgd", {"learning_rate": {"log": [0.1, 1]}}, trials=2, seeds=1, steps=2, scheduler="hypergrad")
