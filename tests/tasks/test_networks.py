import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradlab.tasks import networks

KEY = jax.random.key(0)


def test_an_mlp_is_its_formula():
    x = np.random.default_rng(0).normal(size=(5, 3))
    model = networks.MLP((4, 2), "tanh")
    params = model.init(KEY, jnp.asarray(x))["params"]
    first, second = (jax.tree.map(np.asarray, params[name]) for name in ("Dense_0", "Dense_1"))
    expected = np.tanh(x @ first["kernel"] + first["bias"]) @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, jnp.asarray(x)), expected, rtol=1e-6)


def test_the_nnx_mlp_is_the_linen_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    model = networks.NnxMLP((3, 4, 2), "gelu", rngs=nnx.Rngs(0))
    layers = nnx.to_pure_dict(nnx.state(model, nnx.Param))["layers"]
    params = {f"Dense_{index}": layer for index, layer in layers.items()}
    chex.assert_trees_all_close(model(x), networks.MLP((4, 2), "gelu").apply({"params": params}, x), rtol=1e-6)


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match=r"unknown activation 'rulu'; did you mean 'relu'\?"):
        networks.MLP((2, 2), "rulu").init(KEY, jnp.ones((1, 2)))
    assert networks.MLP((2, 2), jnp.sin).init(KEY, jnp.ones((1, 2)))


def test_the_cnn_has_the_parameters_of_its_layers_and_reads_nhwc():
    params = networks.SmallCNN(10).init(KEY, jnp.ones((2, 8, 8, 1)))["params"]
    sizes = {name: layer["kernel"].shape for name, layer in params.items()}
    assert sizes == {"Conv_0": (3, 3, 1, 16), "Conv_1": (3, 3, 16, 32), "Dense_0": (2 * 2 * 32, 10)}


def _transformer(**values):
    return networks.CharTransformer(**{"vocabulary": 97, "context": 16, "width": 32, "heads": 4, "layers": 2, **values})


def test_the_transformer_is_causal():
    model = _transformer()
    tokens = jax.random.randint(KEY, (3, 16), 0, 97)
    variables = jax.jit(model.init)(KEY, tokens)
    apply = jax.jit(model.apply)
    logits = apply(variables, tokens)
    for position in (1, 7, 15):
        changed = apply(variables, tokens.at[:, position].set((tokens[:, position] + 1) % 97))
        chex.assert_trees_all_close(changed[:, :position], logits[:, :position], rtol=1e-6)
        assert jnp.all(jnp.abs(changed - logits)[:, position:].max(-1) > 1e-7)


def test_the_transformer_knows_positions():
    model = _transformer()
    tokens = jnp.full((1, 16), 5)
    variables = model.init(KEY, tokens)
    logits = model.apply(variables, tokens)[0]
    assert jnp.abs(logits[0] - logits[1]).max() > 1e-4


def test_the_transformer_starts_near_uniform():
    model = _transformer()
    tokens = jax.random.randint(KEY, (8, 16), 0, 97)
    log_probabilities = jax.nn.log_softmax(model.apply(model.init(KEY, tokens), tokens))
    np.testing.assert_allclose(-log_probabilities.mean(), np.log(97), rtol=0.02)


def test_dropout_acts_in_training_only():
    model = _transformer(dropout=0.5)
    tokens = jax.random.randint(KEY, (2, 16), 0, 97)
    network, _ = networks.as_network(model, tokens)
    params, model_state = network.init(KEY)
    outputs = [network.apply(params, model_state, tokens, jax.random.key(seed), True)[0] for seed in (1, 1, 2)]
    chex.assert_trees_all_equal(outputs[0], outputs[1])
    assert jnp.abs(outputs[0] - outputs[2]).max() > 1e-3
    evaluated, _ = network.apply(params, model_state, tokens, None, False)
    chex.assert_trees_all_equal(evaluated, model.apply({"params": params}, tokens))


class _Flag(nn.Module):
    def shown(self, flag):
        return self.param("w", nn.initializers.ones, ()) * (1.0 if flag else 0.0)


class Train(_Flag):
    @nn.compact
    def __call__(self, x, train):
        return self.shown(train)


class Training(_Flag):
    @nn.compact
    def __call__(self, x, training):
        return self.shown(training)


class IsTraining(_Flag):
    @nn.compact
    def __call__(self, x, *, is_training):
        return self.shown(is_training)


class Deterministic(_Flag):
    @nn.compact
    def __call__(self, x, deterministic=False):
        return self.shown(not deterministic)


class UseRunningAverage(_Flag):
    @nn.compact
    def __call__(self, x, *, use_running_average):
        return self.shown(not use_running_average)


@pytest.mark.parametrize("model", [Train(), Training(), IsTraining(), Deterministic(), UseRunningAverage()])
def test_models_are_told_whether_they_train(model):
    network, _ = networks.as_network(model, jnp.ones((1, 1)))
    params, model_state = network.init(KEY)
    assert network.apply(params, model_state, jnp.ones((1, 1)), KEY, True)[0] == 1.0
    assert network.apply(params, model_state, jnp.ones((1, 1)), None, False)[0] == 0.0


@pytest.mark.parametrize("model", [3, networks.MLP, lambda rngs: 3])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match="`model` must be a Linen module"):
        networks.as_network(model, jnp.ones((1, 2)))


def test_networks_of_equal_models_are_equal():
    x = jnp.ones((4, 2))
    one, two = (networks.as_network(networks.MLP((3, 2)), x)[0] for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert one != networks.as_network(networks.MLP((4, 2)), x)[0]
    one, two, other = (
        networks.as_network(functools.partial(networks.NnxMLP, widths), x)[0]
        for widths in ((2, 3, 2), (2, 3, 2), (2, 4, 2))
    )
    assert one == two and hash(one) == hash(two) and one != other
