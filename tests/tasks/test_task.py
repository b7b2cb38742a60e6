import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core.rule import static
from gradlab.tasks import bind, make_task

KEY = jax.random.key(0)
DATA = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "y": np.array([1.0, 2.0, 4.0], np.float32)}


def _start(key, *, scale):
    return {"w": scale * jax.random.normal(key, (2,), jnp.float32)}, {}


def _ridge_loss(params, model_state, batch, key, *, l2, power):
    residual = batch["x"] @ params["w"] - batch["y"]
    return jnp.mean(jnp.abs(residual) ** power) + l2 * jnp.sum(params["w"] ** 2), model_state


def _ridge(**values):
    loss = bind(_ridge_loss, **{"l2": 0.5, "power": static(2), **values})
    return make_task(bind(_start, scale=1), loss, train=DATA, valid=DATA, name="ridge", facts=(("source", "made up"),))


def test_the_numbers_are_leaves_and_the_rest_is_structure():
    task = _ridge()
    leaves, treedef = jax.tree.flatten(task)
    assert len(leaves) == 1 + 1 + 1 + 2 + 2  # scale, l2 of loss and metrics, train, valid
    assert treedef == jax.tree.structure(_ridge(l2=7)) and hash(treedef) == hash(jax.tree.structure(_ridge(l2=7)))
    assert treedef != jax.tree.structure(_ridge(power=static(4)))
    again = jax.tree.unflatten(treedef, leaves)
    assert (again.name, dict(again.facts)) == ("ridge", {"source": "made up"})


def test_sizes_are_counted():
    task = _ridge()
    assert (task.num_examples, task.num_params) == (3, 2)
    assert make_task(lambda key: (jnp.zeros(3), {}), lambda p, s, b, k: (p @ p, s)).num_examples == 0


def test_loss_metrics_and_default_metrics_agree_with_numpy():
    task = _ridge()
    w = np.array([0.5, -1.0])
    expected = np.mean((DATA["x"] @ w - DATA["y"]) ** 2) + 0.5 * np.sum(w**2)
    loss, state = task.loss({"w": jnp.asarray(w)}, {}, task.train, KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(task.metrics({"w": jnp.asarray(w)}, {}, task.valid)["loss"], expected, rtol=1e-6)
    assert state == {}


def test_replace_changes_values_in_every_part_and_keeps_the_structure():
    task = _ridge()
    new = task.replace(l2=2, scale=0.0)
    assert new.hyperparams() == {"scale": 0.0, "l2": 2.0}
    assert task.hyperparams() == {"scale": 1.0, "l2": 0.5}
    assert jax.tree.structure(new) == jax.tree.structure(task)
    chex.assert_trees_all_equal(new.init(KEY)[0]["w"], jnp.zeros(2, jnp.float32))
    params = {"w": jnp.ones(2)}
    assert new.metrics(params, {}, task.train)["loss"] == new.loss(params, {}, task.train, KEY)[0]


def test_replace_suggests_the_name_that_was_meant():
    with pytest.raises(ValueError, match=r"task 'ridge' has no number 'l_2'; did you mean 'l2'\?"):
        _ridge().replace(l_2=1.0)


def test_new_numbers_and_new_data_do_not_retrace():
    traces = 0

    @jax.jit
    def gradient(task, params):
        nonlocal traces
        traces += 1
        return jax.grad(lambda p: task.loss(p, {}, task.train, KEY)[0])(params)

    params = {"w": jnp.ones(2)}
    results = [gradient(_ridge(l2=value), params)["w"] for value in (0.0, 0.5, 3)]
    other = make_task(*[getattr(_ridge(), part) for part in ("init", "loss", "metrics")], name="ridge", train=DATA)
    gradient(jax.tree.map(lambda leaf: leaf, _ridge()), params)
    assert traces == 1
    np.testing.assert_allclose(results[2] - results[0], [6.0, 6.0], rtol=1e-6)
    gradient(other, params)
    assert traces == 2  # no validation data: another structure


def test_numbers_vary_between_lanes():
    task, params = _ridge(), {"w": jnp.array([1.0, 2.0], jnp.float32)}
    values = jnp.array([0.0, 0.5, 2.0])
    lanes = jax.vmap(lambda value: task.replace(l2=value).loss(params, {}, task.train, KEY)[0])(values)
    loop = [_ridge(l2=float(value)).loss(params, {}, task.train, KEY)[0] for value in values]
    chex.assert_trees_all_close(lanes, jnp.stack(loop), rtol=1e-6)
    assert len(set(np.asarray(lanes).tolist())) == 3


def test_a_task_pickles():
    task = pickle.loads(pickle.dumps(_ridge()))
    assert jax.tree.structure(task) == jax.tree.structure(_ridge())
    chex.assert_trees_all_equal(task.train, _ridge().train)
    chex.assert_trees_all_equal(task.init(KEY), _ridge().init(KEY))


def _zeros(key):
    return jnp.zeros(2), {}


def _flat_loss(params, model_state, batch, key):
    return jnp.sum(params), model_state


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ({}, ValueError, "`train` holds no arrays"),
        ({"x": np.zeros((0, 2))}, ValueError, r"`train` holds no examples: train\['x'\] has shape \(0, 2\)"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, ValueError, r"train\['x'\] has 3, train\['y'\] has 4"),
        ({"x": np.float32(1.0)}, ValueError, r"train\['x'\] must be an array of shape \(examples, ...\)"),
        ({"x": np.array(["a", "b"])}, TypeError, r"train\['x'\] must be an array of numbers"),
    ],
)
def test_bad_data_are_refused(train, error, message):
    with pytest.raises(error, match=message):
        make_task(_zeros, _flat_loss, train=train)


def test_sets_that_differ_are_refused():
    with pytest.raises(ValueError, match="`valid` and `train` have different trees: only `train` have"):
        make_task(_zeros, _flat_loss, train=DATA, valid={"x": DATA["x"]})
    with pytest.raises(ValueError, match=r"test\['x'\] has examples of shape \(3,\), but those of `train` have \(2,\)"):
        make_task(_zeros, _flat_loss, train=DATA, test={"x": np.zeros((5, 3)), "y": np.zeros(5)})
    with pytest.raises(ValueError, match="needs `train` data"):
        make_task(_zeros, _flat_loss, valid=DATA)


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        (lambda key: ({}, {}), ValueError, "has no parameters"),
        (lambda key: ({"a": {"n": jnp.zeros(2, jnp.int32)}}, {}), TypeError, "parameter 'a/n' of task 'task' is int32"),
        (lambda key: jnp.zeros(2), ValueError, r"must return \(params, model_state\)"),
    ],
)
def test_bad_inits_are_refused(init, error, message):
    with pytest.raises(error, match=message):
        make_task(init, _flat_loss, train=DATA)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda params, state, batch, key: jnp.sum(params), r"must return \(loss, model_state\)"),
        (lambda params, state, batch, key: (params, state), r"must be one number.*\[2\]"),
        (lambda params, state, batch, key: (jnp.sum(params), {"mean": params}), "model state like the one it gets, {}"),
    ],
)
def test_bad_losses_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        make_task(_zeros, loss, train=DATA)


def test_metrics_without_a_loss_are_refused():
    with pytest.raises(ValueError, match="with the entry 'loss'"):
        make_task(_zeros, _flat_loss, lambda params, state, data: {"accuracy": jnp.sum(params)}, train=DATA)
