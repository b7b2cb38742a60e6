import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.tasks import SURFACES, TASKS, diabetes, surface_task

KEY = jax.random.key(0)
SMALL = {"chars": {"max_characters": 20_000, "width": 16, "heads": 2, "layers": 1, "context": 16}}
PARAMETERS = {
    "digits_linear": 65 * 10,
    "digits_mlp": 65 * 64 + 65 * 64 + 65 * 10,
    "digits_cnn": 10 * 16 + (9 * 16 + 1) * 32 + 129 * 10,
    "breast_cancer_linear": 31,
    "breast_cancer_mlp": 31 * 32 + 33,
    "diabetes_linear": 11,
    "diabetes_mlp": 11 * 32 + 33,
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_named_and_descends(name):
    task = TASKS[name](**SMALL.get(name, {}))
    assert task.name == name
    params, model_state = task.init(KEY)
    batch = jax.tree.map(lambda leaf: leaf[:256], task.train)

    @jax.jit
    def gradient(params):
        return jax.value_and_grad(lambda p: task.loss(p, model_state, batch, KEY)[0])(params)

    first, slopes = gradient(params)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(slopes)))
    assert jnp.isfinite(first) and norm > 0
    after, _ = gradient(jax.tree.map(lambda p, g: p - 1e-3 * g / norm, params, slopes))
    assert after < first


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_have_the_expected_size(name):
    assert TASKS[name]().num_params == PARAMETERS[name]


def test_every_surface_is_a_task_with_the_arguments_of_both():
    assert set(SURFACES) < set(TASKS)
    names = list(inspect.signature(TASKS["quadratic"]).parameters)
    assert names == ["condition", "dim", "rotation", "start", "jitter"]
    task = TASKS["quadratic"](condition=9.0, dim=3, start=[1, 2, 3], jitter=0.5)
    expected = surface_task(SURFACES["quadratic"](condition=9.0, dim=3), start=[1, 2, 3], jitter=0.5)
    np.testing.assert_array_equal(task.init(KEY)[0], expected.init(KEY)[0])
    assert inspect.signature(TASKS["quadratic"]).parameters["condition"].default == 100.0
    with pytest.raises(TypeError, match="conditoin"):
        TASKS["quadratic"](conditoin=3.0)


@pytest.mark.parametrize("name", TASKS)
def test_arguments_can_be_given_by_keyword_with_defaults(name):
    for argument in inspect.signature(TASKS[name]).parameters.values():
        assert argument.kind is inspect.Parameter.KEYWORD_ONLY
        assert argument.default is not inspect.Parameter.empty


@pytest.mark.parametrize("l2", [None, 0.3])
def test_diabetes_is_ridge_regression_with_a_closed_form(l2):
    task, rows = TASKS["diabetes_linear"](l2=l2), diabetes()
    x, y = rows.train["x"].astype(np.float64), rows.train["y"].astype(np.float64)
    penalty = np.diag([*[(l2 or 0.0) / 2] * 10, 0.0])
    design = np.column_stack([x, np.ones(len(x))])
    solution = np.linalg.solve(design.T @ design / len(x) + penalty, design.T @ y / len(x))
    params = {"Dense_0": {"kernel": jnp.asarray(solution[:10, None]), "bias": jnp.asarray(solution[10:])}}
    slopes = jax.grad(lambda p: task.loss(p, {}, task.train, KEY)[0])(params)
    for leaf in jax.tree.leaves(slopes):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)
    residual = y - design @ solution
    metrics = task.metrics(params, {}, task.train)
    np.testing.assert_allclose(metrics["r2"], 1 - residual @ residual / np.sum((y - y.mean()) ** 2), rtol=1e-5)


def test_chars_records_what_it_read_and_starts_near_uniform():
    task = TASKS["chars"](**SMALL["chars"])
    facts = dict(task.facts)
    assert len(facts["sha256"]) == 64 and facts["characters"] == 20_000
    assert task.train.shape[1] == 17
    np.testing.assert_allclose(task.metrics(*task.init(KEY), task.valid)["loss"], np.log(97), rtol=0.02)


def test_options_reach_the_task():
    task = TASKS["digits_mlp"](hidden=[8], activation="tanh", label_smoothing=0.1, l2=1e-4, init_scale=0.5)
    assert task.hyperparams() == {"label_smoothing": 0.1, "l2": 1e-4, "init_scale": 0.5}
    assert task.num_params == 65 * 8 + 9 * 10
    assert not np.array_equal(TASKS["digits_linear"](seed=1).train["y"], TASKS["digits_linear"]().train["y"])


@pytest.mark.parametrize(("imported", "clean"), [("gradlab.tasks", True), ("gradlab.tasks.networks", False)])
def test_flax_and_scikit_learn_are_imported_late(imported, clean):
    code = f"import {imported}, sys; print(any(name in sys.modules for name in ('flax', 'sklearn', 'scipy', 'pandas')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(not clean)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("digits_mlp", {"hidden": [8, 0]}), ("digits_cnn", {"features": [4, -3]}), ("chars", {"heads": 0})],
)
def test_layers_without_units_are_refused(name, sizes):
    with pytest.raises(ValueError, match=f"`{next(iter(sizes))}` must be >= 1, got -?[03]"):
        TASKS[name](**sizes)
