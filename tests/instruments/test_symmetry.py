"""Orders and scales of hidden units: the function stays, planted orders come back, brute force agrees."""

import itertools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.instruments.connectivity import barrier
from gradlab.instruments.symmetry import align, chain, log10_orders, permute, rescale

KEY = jax.random.key(6)


class Net(nn.Module):
    """Two convolutions and two dense layers, ReLU between them."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (2, 2))(x))
        x = nn.relu(nn.Conv(7, (2, 2))(x)).mean((1, 2))
        x = nn.relu(nn.Dense(6)(x))
        return nn.Dense(3)(x)


IMAGES = jax.random.normal(KEY, (4, 4, 4, 2), float)
LAYERS = ["params/Conv_0", "params/Conv_1", "params/Dense_0", "params/Dense_1"]
HIDDEN = {"params/Conv_0": 5, "params/Conv_1": 7, "params/Dense_0": 6}


def random_net(seed):
    params = Net().init(jax.random.key(seed), IMAGES)
    return jax.tree.map(lambda p: jnp.asarray(p + 0.1 * jax.random.normal(KEY, p.shape), float), params)


PARAMS = random_net(0)
SPEC = chain(PARAMS, LAYERS)
apply = jax.jit(Net().apply)
matched = jax.jit(lambda params, sweeps=20: align(PARAMS, params, SPEC, sweeps=sweeps), static_argnames="sweeps")


def orders(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.permutation(size) for name, size in HIDDEN.items()}


def loss(params, batch):
    return jnp.mean((Net().apply(params, batch) - 1.0) ** 2)


height = jax.jit(lambda params: barrier(loss, PARAMS, params, IMAGES).height)


def test_chain_names_inputs_outputs_and_biases():
    assert SPEC == {
        "params/Conv_0/bias": ("params/Conv_0",),
        "params/Conv_0/kernel": (None, None, None, "params/Conv_0"),
        "params/Conv_1/bias": ("params/Conv_1",),
        "params/Conv_1/kernel": (None, None, "params/Conv_0", "params/Conv_1"),
        "params/Dense_0/bias": ("params/Dense_0",),
        "params/Dense_0/kernel": ("params/Conv_1", "params/Dense_0"),
        "params/Dense_1/kernel": ("params/Dense_0", None),
    }
    assert math.isclose(10 ** log10_orders(PARAMS, SPEC), math.factorial(5) * math.factorial(7) * math.factorial(6))


def test_the_function_does_not_see_order_or_scale():
    moved = permute(PARAMS, SPEC, orders(1))
    np.testing.assert_allclose(apply(moved, IMAGES), apply(PARAMS, IMAGES), rtol=1e-12)
    assert np.any(moved["params"]["Conv_1"]["kernel"] != PARAMS["params"]["Conv_1"]["kernel"])
    rng = np.random.default_rng(2)
    scaled = rescale(PARAMS, SPEC, {name: rng.uniform(0.01, 3, size) for name, size in HIDDEN.items()})
    np.testing.assert_allclose(apply(scaled, IMAGES), apply(PARAMS, IMAGES), rtol=1e-10)
    assert np.any(np.abs(scaled["params"]["Dense_1"]["kernel"] / PARAMS["params"]["Dense_1"]["kernel"] - 1) > 0.5)


def test_unit_i_is_what_was_unit_p_of_i():
    order = np.array([2, 0, 1, 4, 3])
    moved = permute(PARAMS, SPEC, {"params/Conv_0": order})["params"]
    np.testing.assert_array_equal(moved["Conv_0"]["bias"], PARAMS["params"]["Conv_0"]["bias"][order])
    np.testing.assert_array_equal(moved["Conv_1"]["kernel"], PARAMS["params"]["Conv_1"]["kernel"][:, :, order])
    np.testing.assert_array_equal(moved["Conv_1"]["bias"], PARAMS["params"]["Conv_1"]["bias"])


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_order_comes_back_and_the_barrier_goes(seed):
    planted = orders(seed)
    moved = permute(PARAMS, SPEC, planted)
    found = matched(moved)
    for name, order in planted.items():
        np.testing.assert_array_equal(found.permutations[name], np.argsort(order))
    chex.assert_trees_all_equal(found.params, PARAMS)
    assert found.converged and found.after == 0 and found.before > 1
    assert height(moved) > 0.01
    np.testing.assert_allclose(height(found.params), 0, atol=1e-12)


def test_one_hidden_layer_is_matched_as_by_trying_all_orders():
    shapes = {"one": {"kernel": (3, 5), "bias": (5,)}, "two": {"kernel": (5, 2)}}
    draw = lambda seed: jax.tree.map(
        lambda s: jnp.asarray(np.random.default_rng([seed, *s]).normal(size=s)),
        shapes,
        is_leaf=lambda s: type(s) is tuple,
    )
    reference, params = draw(0), draw(1)
    spec = chain(params, ["one", "two"])
    found = align(reference, params, spec)
    distance = lambda order: np.sqrt(
        np.sum((reference["one"]["kernel"] - params["one"]["kernel"][:, order]) ** 2)
        + np.sum((reference["one"]["bias"] - params["one"]["bias"][order]) ** 2)
        + np.sum((reference["two"]["kernel"] - params["two"]["kernel"][order]) ** 2)
    )
    every = [distance(np.array(order)) for order in itertools.permutations(range(5))]
    np.testing.assert_allclose(found.after, min(every))
    np.testing.assert_allclose(found.before, every[0])
    assert found.after < found.before and found.converged


def test_matching_never_increases_the_distance_and_says_when_it_has_not_ended():
    other = random_net(9)
    steps = [matched(other, sweeps=sweeps) for sweeps in (1, 2, 20)]
    distances = [float(step.after) for step in steps]
    assert sorted(distances, reverse=True) == distances and distances[0] < steps[0].before
    assert not steps[0].converged and steps[2].converged and steps[2].sweeps < 20
    np.testing.assert_allclose(apply(steps[2].params, IMAGES), apply(other, IMAGES), rtol=1e-10)


def test_nan_ends_and_bfloat16_keeps_its_dtype():
    broken = jax.tree.map(lambda p: p.at[..., 0].set(jnp.nan), PARAMS)
    found = matched(broken)
    assert np.isnan(found.after)
    assert all(sorted(order.tolist()) == list(range(len(order))) for order in found.permutations.values())
    low = jax.tree.map(lambda p: p.astype("bfloat16"), PARAMS)
    for tree in (rescale(low, SPEC, {"params/Conv_0": np.full(5, 2.0)}), align(low, low, SPEC).params):
        assert {leaf.dtype.name for leaf in jax.tree.leaves(tree)} == {"bfloat16"}


def test_vmaps_and_jits_with_one_trace():
    batched = jax.jit(jax.vmap(chex.assert_max_traces(lambda p: align(PARAMS, p, SPEC), n=1)))
    nets = [permute(PARAMS, SPEC, orders(5)), random_net(9)]
    stack = lambda nets: jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    batched(stack(nets[::-1]))
    many = batched(stack(nets))
    for index, net in enumerate(nets):
        chex.assert_trees_all_close(matched(net), jax.tree.map(lambda x, i=index: x[i], many), rtol=1e-12)


def test_bad_input_says_why():
    with pytest.raises(
        ValueError, match="no kernel of the layer 'params/Dense_2'; did you mean 'params/Dense_1/kernel'"
    ):
        chain(PARAMS, [*LAYERS[:3], "params/Dense_2"])
    with pytest.raises(ValueError, match="needs at least two layers"):
        chain(PARAMS, LAYERS[:1])
    with pytest.raises(
        ValueError, match="'params/Dense_0/kernel' has 7 units of 'params/Conv_0', but other arrays have 5"
    ):
        chain(PARAMS, [LAYERS[0], LAYERS[2]])
    with pytest.raises(ValueError, match="unknown path in the specification 'params/Conv_9/bias'; did you mean"):
        permute(PARAMS, {"params/Conv_9/bias": ("a",)}, {})
    with pytest.raises(ValueError, match="the specification of 'params/Conv_0/bias' has 2 axes, the array 1"):
        permute(PARAMS, {"params/Conv_0/bias": ("a", None)}, {})
    with pytest.raises(ValueError, match="unknown name of units 'Conv_0'; did you mean 'params/Conv_0'"):
        permute(PARAMS, SPEC, {"Conv_0": np.arange(5)})
    with pytest.raises(ValueError, match=r"the permutation of 'params/Conv_0' must have the shape \(5,\), got \(4,\)"):
        permute(PARAMS, SPEC, {"params/Conv_0": np.arange(4)})
    with pytest.raises(ValueError, match="must have each of 0 to 4 once"):
        permute(PARAMS, SPEC, {"params/Conv_0": [0, 1, 2, 3, 3]})
    with pytest.raises(ValueError, match="`params/Conv_0` must be > 0, got -1"):
        rescale(PARAMS, SPEC, {"params/Conv_0": [1.0, 2.0, -1.0, 1.0, 1.0]})
    with pytest.raises(ValueError, match=r"align: \['w'\] have one kind of units on two axes"):
        align({"w": jnp.eye(2)}, {"w": jnp.eye(2)}, {"w": ("a", "a")})
    with pytest.raises(ValueError, match="align: the networks have arrays of different shapes"):
        align({"w": jnp.ones((3, 2))}, {"w": jnp.ones((2, 2))}, {"w": ("a", None)})
