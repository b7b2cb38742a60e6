import functools
import pickle

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradlab.tasks import flax_task
from gradlab.tasks.networks import MLP, Linear, NnxMLP

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
DATA = {"x": RNG.normal(size=(24, 3)).astype(np.float32), "y": RNG.integers(0, 4, 24)}


class LinenNormed(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(8)(x)))
        return nn.Dense(4)(x)


class NnxNormed(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.hidden = nnx.Linear(3, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.hidden(self.norm(x)))))


NORMED = {
    "linen": LinenNormed(),
    "nnx function": lambda rngs: NnxNormed(rngs=rngs),
    "nnx class": NnxNormed,
    "nnx instance": NnxNormed(rngs=nnx.Rngs(0)),
}


@pytest.fixture(params=NORMED)
def normed(request):
    return flax_task(NORMED[request.param], DATA, valid=DATA, label_smoothing=0.1, l2=1e-3)


def test_batch_statistics_move_by_their_momentum_in_training(normed):
    params, model_state = normed.init(KEY)
    _, new_state = normed.loss(params, model_state, normed.train, KEY)
    means = [leaf for leaf in jax.tree.leaves(new_state) if leaf.shape == (3,)]
    assert len(means) == 2
    np.testing.assert_allclose(means[0], 0.1 * DATA["x"].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(means[1], 0.9 + 0.1 * DATA["x"].var(0), rtol=1e-4)
    chex.assert_trees_all_equal_shapes_and_dtypes(model_state, new_state)


def test_random_masks_follow_the_key(normed):
    params, model_state = normed.init(KEY)
    one, two, three = (normed.loss(params, model_state, normed.train, jax.random.key(seed))[0] for seed in (1, 1, 2))
    assert one == two and one != three
    raw, _ = normed.loss(params, model_state, normed.train, jax.random.PRNGKey(1))
    np.testing.assert_allclose(raw, one, rtol=1e-6)


def test_evaluation_uses_the_running_statistics_and_no_masks(normed):
    params, model_state = normed.init(KEY)
    shifted = jax.tree.map(lambda leaf: leaf + 1.0, model_state)
    here, there = (normed.metrics(params, state, normed.valid) for state in (model_state, shifted))
    assert sorted(here) == ["accuracy", "loss"]
    assert here["loss"] != there["loss"]
    halves = [jax.tree.map(lambda leaf, part=part: leaf[part], normed.valid) for part in (slice(12), slice(12, 24))]
    mean = np.mean([normed.metrics(params, model_state, half)["loss"] for half in halves])
    np.testing.assert_allclose(here["loss"], mean, rtol=1e-5)  # no statistic of the batch enters


def test_training_step_compiles_once_and_learns(normed):
    traces = 0

    @jax.jit
    def step(task, params, model_state, key):
        nonlocal traces
        traces += 1
        gradient, model_state = jax.grad(task.loss, has_aux=True)(params, model_state, task.train, key)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), model_state

    params, model_state = normed.init(KEY)
    before = normed.metrics(params, model_state, normed.train)["loss"]
    for index, smoothing in enumerate(np.linspace(0.0, 0.2, 60)):
        task = normed.replace(label_smoothing=smoothing)
        params, model_state = step(task, params, model_state, jax.random.fold_in(KEY, index))
    assert traces == 1
    assert normed.metrics(params, model_state, normed.train)["loss"] < 0.95 * before


def test_parameters_are_plain_dicts_and_fresh_for_each_key():
    for model in ("linen", "nnx function"):
        task = flax_task(NORMED[model], DATA)
        one, two = (task.init(jax.random.key(seed))[0] for seed in (1, 2))
        assert type(one) is dict and task.num_params == 3 + 3 + 4 * 8 + 9 * 4
        assert any(not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (one, two)), strict=True))


def test_an_nnx_instance_brings_its_parameters_and_is_left_alone():
    model = NnxNormed(rngs=nnx.Rngs(3))
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    task = flax_task(model, DATA)
    chex.assert_trees_all_equal(task.init(KEY)[0], before)
    chex.assert_trees_all_equal(task.init(jax.random.key(7))[0], before)
    task.loss(*task.init(KEY), task.train, KEY)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model, nnx.Param)), before)
    assert model.dropout.deterministic is False
    assert "init_scale" in task.hyperparams()


@pytest.mark.parametrize("model", NORMED)
def test_tasks_are_named_after_the_class_of_their_model(model):
    assert flax_task(NORMED[model], DATA).name == ("LinenNormed" if model == "linen" else "NnxNormed")


def test_l2_is_half_the_squares_of_the_kernels():
    plain, ridge = flax_task(MLP((5, 4)), DATA), flax_task(MLP((5, 4)), DATA, l2=0.3)
    params, _ = plain.init(KEY)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    squares = sum(np.sum(np.asarray(layer["kernel"], np.float64) ** 2) for layer in params.values())
    difference = ridge.loss(params, {}, plain.train, KEY)[0] - plain.loss(params, {}, plain.train, KEY)[0]
    np.testing.assert_allclose(difference, 0.15 * squares, rtol=1e-4)
    slope = jax.grad(lambda l2: ridge.replace(l2=l2).loss(params, {}, plain.train, KEY)[0])(0.3)
    np.testing.assert_allclose(slope, 0.5 * squares, rtol=1e-5)
    assert ridge.metrics(params, {}, plain.train) == plain.metrics(params, {}, plain.train)


def test_label_smoothing_mixes_towards_the_uniform_loss_and_leaves_metrics_alone():
    task = flax_task(Linear(4), DATA, label_smoothing=0.25)
    params, _ = task.init(KEY)
    logits = np.asarray(DATA["x"], np.float64) @ np.asarray(params["Dense_0"]["kernel"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    hard = -log_p[np.arange(24), DATA["y"]].mean()
    np.testing.assert_allclose(task.metrics(params, {}, task.train)["loss"], hard, rtol=1e-5)
    smoothed = 0.75 * hard - 0.25 * log_p.mean()
    np.testing.assert_allclose(task.loss(params, {}, task.train, KEY)[0], smoothed, rtol=1e-5)


def test_numbers_vary_between_lanes_as_in_a_loop():
    task = flax_task(MLP((5, 4)), DATA, label_smoothing=0.0, l2=0.0)
    params, _ = task.init(KEY)

    @jax.jit
    def gradient(label_smoothing, l2):
        lane = task.replace(label_smoothing=label_smoothing, l2=l2)
        return jax.grad(lambda p: lane.loss(p, {}, lane.train, KEY)[0])(params)

    smoothing, l2 = jnp.array([0.0, 0.1, 0.5], jnp.float32), jnp.array([1e-3, 0.0, 0.1], jnp.float32)
    lanes = jax.vmap(gradient)(smoothing, l2)
    loop = [gradient(float(s), float(c)) for s, c in zip(smoothing, l2, strict=True)]
    chex.assert_trees_all_close(lanes, jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "model", [MLP((5, 4)), functools.partial(NnxMLP, (3, 5, 4)), NnxMLP((3, 5, 4), rngs=nnx.Rngs(0))]
)
def test_init_scale_multiplies_kernels_only(model):
    params, _ = flax_task(model, DATA).init(KEY)
    scaled, _ = flax_task(model, DATA, init_scale=3.0).init(KEY)
    chex.assert_trees_all_close(scaled, jax.tree.map(lambda p: 3 * p if p.ndim == 2 else p, params), rtol=1e-6)


def test_init_scale_leaves_biases_and_scales_of_norms():
    params, _ = flax_task(LinenNormed(), DATA, init_scale=3.0).init(KEY)
    chex.assert_trees_all_equal(params["BatchNorm_0"]["scale"], jnp.ones(3, jnp.float32))


def test_arrays_of_numbers_do_not_change_the_dtype_of_the_loss():
    task = flax_task(
        MLP((5, 4)), DATA, label_smoothing=jnp.float64(0.1), l2=jnp.float64(0.1), init_scale=jnp.float64(2)
    )
    params, _ = task.init(KEY)
    loss, gradient = jax.value_and_grad(lambda p: task.loss(p, {}, task.train, KEY)[0])(params)
    assert {loss.dtype} | {leaf.dtype for leaf in jax.tree.leaves((params, gradient))} == {np.dtype("float32")}


@pytest.mark.parametrize("make", [lambda: MLP((5, 4)), lambda: functools.partial(NnxMLP, (3, 5, 4))])
def test_equal_tasks_share_one_trace(make):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def loss(task, params):
        return task.loss(params, {}, task.train, KEY)[0]

    params, _ = flax_task(make(), DATA).init(KEY)
    values = [loss(flax_task(make(), DATA, label_smoothing=value), params) for value in (0.0, 0.1, 0.5)]
    assert len({float(value) for value in values}) == 3
    chex.clear_trace_counter()


def test_regression_and_binary_labels():
    y = (DATA["x"] @ np.array([1.0, -2.0, 0.5]) + 1).astype(np.float32)
    task = flax_task(Linear(1), {"x": DATA["x"], "y": y}, loss="squared_error")
    exact = {"Dense_0": {"kernel": jnp.array([[1.0], [-2.0], [0.5]]), "bias": jnp.ones(1)}}
    metrics = task.metrics(exact, {}, task.train)
    assert sorted(metrics) == ["loss", "mse", "r2"]
    np.testing.assert_allclose([metrics["loss"], metrics["mse"], metrics["r2"]], [0, 0, 1], atol=1e-10)
    task = flax_task(Linear(1), {"x": DATA["x"], "y": y > 0}, loss="sigmoid_cross_entropy")
    np.testing.assert_allclose(task.metrics(exact, {}, task.train)["accuracy"], ((y - 0 > 0) == (y > 0)).mean())


def test_losses_of_ones_own_and_other_batches():
    def reconstruction(outputs, batch):
        return jnp.mean(jnp.abs(outputs - batch))

    task = flax_task(Linear(3), DATA["x"], loss=reconstruction, inputs=lambda batch: batch)
    params = {"Dense_0": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}}
    np.testing.assert_allclose(task.loss(params, {}, task.train, KEY)[0], np.abs(DATA["x"]).mean(), rtol=1e-6)
    assert sorted(task.metrics(params, {}, task.train)) == ["loss"]
    named = {"image": DATA["x"], "label": DATA["y"]}
    task = flax_task(Linear(4), named, inputs=lambda b: b["image"], targets=lambda b: b["label"], name="mine")
    assert (task.name, sorted(task.metrics(*task.init(KEY), task.train))) == ("mine", ["accuracy", "loss"])


@pytest.mark.parametrize("model", [MLP((5, 4)), LinenNormed(), NnxNormed, functools.partial(NnxMLP, (3, 5, 4))])
def test_tasks_of_importable_models_pickle(model):
    task = flax_task(model, DATA, l2=0.1)
    again = pickle.loads(pickle.dumps(task))
    assert jax.tree.structure(again) == jax.tree.structure(task)
    start = task.init(KEY)
    chex.assert_trees_all_equal(again.init(KEY), start)
    chex.assert_trees_all_equal(again.loss(*start, again.train, KEY), task.loss(*start, task.train, KEY))


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (DATA, {"loss": "crossentropy"}, ValueError, "unknown loss 'crossentropy'; did you mean 'cross_entropy'"),
        (DATA, {"loss": "squared_error", "label_smoothing": 0.1}, ValueError, "label_smoothing=0.1 belongs to"),
        (DATA, {"l2": -1.0}, ValueError, "`l2` must be >= 0, got -1"),
        (DATA, {"init_scale": -1.0}, ValueError, "`init_scale` must be >= 0"),
        ((DATA["x"], DATA["y"]), {}, ValueError, r"dict with the entries \['x', 'y'\], got tuple"),
        ({"x": DATA["x"], "label": DATA["y"]}, {}, ValueError, r"got the entries \['label', 'x'\]"),
        ({"x": DATA["x"], "y": DATA["y"].astype(np.float32)}, {}, TypeError, "needs integer labels, got float32"),
        ({"x": DATA["x"], "y": DATA["y"][:, None]}, {}, ValueError, r"labels of shape \(2, 1\) need logits"),
        ({"x": DATA["x"], "y": DATA["y"] + 1}, {}, ValueError, "reach from 1 to 4, but the model has 4 outputs"),
        ({"x": DATA["x"], "y": DATA["y"] - 1}, {}, ValueError, "reach from -1 to 2"),
        ({"x": DATA["x"], "y": DATA["y"][:7]}, {}, ValueError, "the same number of examples"),
        (DATA, {"valid": {"x": DATA["x"], "y": DATA["y"] + 1}}, ValueError, "labels of `valid` reach from 1 to 4"),
        (DATA, {"loss": "squared_error"}, ValueError, "outputs have shape"),
    ],
)
def test_bad_input_is_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        flax_task(Linear(4), data, **options)
