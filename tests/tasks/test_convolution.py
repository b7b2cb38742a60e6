"""Convolutions as products: JAX's numbers and derivatives, no convolution in the program, all else left to JAX."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradlab.tasks import patch_convolution

CASES = {
    "same": {"padding": "SAME"},
    "valid": {"padding": "VALID"},
    "strides": {"padding": "SAME", "window_strides": (2, 3)},
    "pads": {"padding": [(2, 0), (1, 3)], "window_strides": (2, 1)},
    "dilated": {"padding": "SAME", "rhs_dilation": (2, 1)},
}


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [(3, 3), (2, 4), (1, 1)])
def test_numbers_and_derivatives_are_those_of_jax(case, size):
    x, kernel = images(2, 9, 8, 3), images(*size, 3, 5, seed=1)
    options = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **CASES[case]}
    loss = lambda convolve: lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, **options)))
    ours = jax.jit(jax.value_and_grad(loss(patch_convolution), argnums=(0, 1)))(x, kernel)
    theirs = jax.value_and_grad(loss(jax.lax.conv_general_dilated), argnums=(0, 1))(x, kernel)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3])
def test_any_number_of_axes(rank):
    x, kernel = images(2, *[6] * rank, 2), images(*[3] * rank, 2, 4, seed=1)
    numbers = {1: ("NWC", "WIO", "NWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}[rank]
    arguments = (x, kernel, (2,) * rank, "SAME")
    expected = jax.lax.conv_general_dilated(*arguments, dimension_numbers=numbers)
    np.testing.assert_allclose(patch_convolution(*arguments, dimension_numbers=numbers), expected, rtol=1e-9)


def convolutions(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count("conv_general_dilated[")


def test_layers_of_flax_take_it_and_have_no_convolution_left():
    x = images(2, 6, 6, 1).astype(jnp.float32)
    make = lambda **options: nn.Conv(4, (3, 3), strides=(2, 2), **options)
    params = make().init(jax.random.key(0), x)
    ours = lambda params: make(conv_general_dilated=patch_convolution).apply(params, x)
    np.testing.assert_allclose(ours(params), make().apply(params, x), rtol=1e-5, atol=1e-6)
    assert convolutions(jax.grad(lambda params: ours(params).sum()), params) == 0
    layer = nnx.Conv(1, 4, (3, 3), conv_general_dilated=patch_convolution, rngs=nnx.Rngs(0))
    assert layer(x).shape == (2, 6, 6, 4) and convolutions(layer, x) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2},
        {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "lhs_dilation": (2, 2)},
        {"dimension_numbers": ("NCHW", "HWIO", "NCHW")},
    ],
    ids=["groups", "transposed", "channels first"],
)
def test_all_else_is_left_to_jax(options):
    groups = options.get("feature_group_count", 1)
    x, kernel = images(2, 4, 4, 4), images(3, 3, 4 // groups, 4, seed=1)
    ours = lambda x: patch_convolution(x, kernel, (1, 1), [(1, 1)] * 2, **options)
    assert convolutions(ours, x) == 1
    np.testing.assert_array_equal(ours(x), jax.lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1)] * 2, **options))
