"""Layouts: splits and blocks, what the default takes for a matrix, patterns, messages."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

from gradlab import SplitDimensionNumbers, flax_matrices, matrices_by_path, muon
from gradlab.core.layouts import is_layout, matrices_of, spread_layout

PLAIN = MuonDimensionNumbers((0,), -1)


def numbered(*shape):
    return jnp.arange(float(np.prod(shape))).reshape(shape)


def test_a_split_side_is_a_matrix_for_each_part():
    x = numbered(4, 6)
    of_leaf = matrices_of(x, SplitDimensionNumbers(0, 1, output_parts=3), "qkv")
    np.testing.assert_array_equal(of_leaf.stack(x), [x[:, :2], x[:, 2:4], x[:, 4:]])
    of_leaf = matrices_of(x, SplitDimensionNumbers(0, 1, reduction_parts=2), "out")
    np.testing.assert_array_equal(of_leaf.stack(x), [x[:2], x[2:]])
    assert of_leaf.wide == (2, 6) and not of_leaf.is_tall


def test_heads_within_batches_within_several_axes():
    x = numbered(2, 4, 3, 6)
    of_leaf = matrices_of(x, SplitDimensionNumbers(1, (2, 3), output_parts=9), "heads")
    assert (of_leaf.count, of_leaf.upright, of_leaf.wide) == (18, (4, 2), (2, 4))
    np.testing.assert_array_equal(of_leaf.stack(x)[9 + 4], x[1, :, 1, 2:4])


@pytest.mark.parametrize(
    ("shape", "layout", "block"),
    [
        ((4, 6), MuonDimensionNumbers(), None),
        ((4, 6), MuonDimensionNumbers(), 2),
        ((4, 6), SplitDimensionNumbers(1, 0, 2, 4), None),
        ((2, 4, 3, 6), SplitDimensionNumbers((3, 1), 2, 4, 3), None),
        ((2, 8, 3, 6), SplitDimensionNumbers((3, 1), 2, 2, 1), 4),
    ],
)
def test_a_leaf_comes_back_from_its_matrices(shape, layout, block):
    x = numbered(*shape)
    of_leaf = matrices_of(x, layout, "w", block)
    np.testing.assert_array_equal(of_leaf.leaf(of_leaf.stack(x)), x)
    np.testing.assert_array_equal(of_leaf.leaf_of_wide(of_leaf.wide_stack(x)), x)
    assert of_leaf.wide_stack(x).shape == (of_leaf.count, *of_leaf.wide) and of_leaf.wide[0] <= of_leaf.wide[1]
    assert block is None or of_leaf.wide[1] <= block


@pytest.mark.parametrize(
    ("layout", "block", "message"),
    [
        (SplitDimensionNumbers(0, 1, output_parts=4), None, "output side of parameter 'a/w' has size 6: 4 parts do"),
        (SplitDimensionNumbers(0, 1, reduction_parts=0), None, "input side of parameter 'a/w' has size 4: 0 parts"),
        (SplitDimensionNumbers(0, 1, 1.5), None, "input side of parameter 'a/w' has size 4: 1.5 parts"),
        (MuonDimensionNumbers(), 4, "block_size=4 does not divide the output side of parameter 'a/w', .* size 6"),
    ],
)
def test_parts_and_blocks_that_do_not_divide_are_refused_with_the_path(layout, block, message):
    with pytest.raises(ValueError, match=message):
        matrices_of(numbered(4, 6), layout, "a/w", block)


def chosen(layout, params):
    """The paths that a layout takes for matrices."""
    layouts = jax.tree_util.tree_leaves_with_path(spread_layout(layout, params), is_leaf=is_layout)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, one in layouts if one is not None]


class Tower(nn.Module):
    head: str | None = None

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8)(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = nn.Dense(8)(nn.gelu(nn.Dense(16)(x)))
        return nn.Dense(11, name=self.head)(x)


def tower(head=None):
    return Tower(head).init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]


ATTENTION = [f"MultiHeadDotProductAttention_0/{name}/kernel" for name in ("key", "out", "query", "value")]


def test_the_default_leaves_out_embeddings_norms_biases_and_the_last_layer():
    assert chosen(flax_matrices(), tower()) == ["Dense_0/kernel", "Dense_1/kernel", *ATTENTION]
    assert chosen(flax_matrices(), tower("lm_head")) == ["Dense_0/kernel", "Dense_1/kernel", *ATTENTION]
    hidden = flax_matrices("Dense_1")
    assert chosen(hidden, tower()) == ["Dense_0/kernel", "Dense_2/kernel", *ATTENTION]


def test_the_default_takes_plain_matrices_and_what_may_be_all_of_a_model():
    assert chosen(flax_matrices(), {"w": numbered(2, 3), "b": numbered(3), "t": numbered(2, 3, 4)}) == ["w"]
    assert chosen(flax_matrices(), {"Dense_0": {"kernel": numbered(2, 3), "bias": numbered(3)}}) == ["Dense_0/kernel"]
    names = ["embedding", "pos_embedding", "positions", "wte", "scale", "bias", "w"]
    assert chosen(flax_matrices(), {name: numbered(2, 3) for name in names}) == ["w"]
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Embed(5, 3, rngs=nnx.Rngs(0)))
    assert chosen(flax_matrices(), nnx.state(model)) == ["layers/0/kernel/value"]


def test_attention_in_several_axes_is_one_matrix():
    layouts = flax_matrices()(tower())["MultiHeadDotProductAttention_0"]
    assert layouts["query"]["kernel"] == MuonDimensionNumbers(0, (1, 2))
    assert layouts["out"]["kernel"] == MuonDimensionNumbers((0, 1), -1)


def test_patterns_depart_from_the_default():
    heads = SplitDimensionNumbers(0, (1, 2), output_parts=2)
    layout = matrices_by_path({"(query|key)/kernel": heads, "Dense_0/kernel": None, "embedding": PLAIN})
    assert chosen(layout, tower()) == ["Dense_1/kernel", "Embed_0/embedding", *ATTENTION]
    assert layout(tower())["MultiHeadDotProductAttention_0"]["query"]["kernel"] == heads
    assert chosen(matrices_by_path({"value|out": PLAIN}, None), {"value": numbered(2, 2), "w": numbered(2, 2)}) == [
        "value"
    ]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("flax", ["Dense_0/kernel", "Dense_1/kernel", *ATTENTION]),
        (matrices_by_path({"Dense_0/kernel": None}), ["Dense_1/kernel", *ATTENTION]),
    ],
)
def test_the_optimizer_decides_once_what_is_a_matrix(layout, expected):
    """The stages for matrices see a tree from which the last layer, and what a pattern gives to AdamW, are gone."""
    params = tower()
    tx = muon(0.1, muon_weight_dimension_numbers=layout)
    updates, state = tx.update(params, tx.init(params), params)
    mu = jax.tree_util.tree_leaves_with_path(state.inner_states["muon"].inner_state[0].mu)
    assert [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in mu] == expected
    assert jnp.all(jnp.isfinite(updates["Dense_1"]["kernel"]))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"qkv": PLAIN}, r"patterns \['qkv'\] match no parameter; the paths are \['a/w', 'b'\]"),
        ({"w": PLAIN, "^a": None}, r"patterns \['w', '\^a'\] all claim parameter 'a/w'"),
        ({"(": PLAIN}, r"'\(' is no regular expression"),
    ],
)
def test_patterns_without_sense_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        matrices_by_path(rules)({"a": {"w": numbered(2, 2)}, "b": numbered(2)})


def test_a_layout_must_be_one():
    with pytest.raises(TypeError, match="layout of 'w' must be MuonDimensionNumbers.*got 3"):
        matrices_by_path({"w": 3})
    with pytest.raises(ValueError, match="otherwise 'flex'.*'flax'"):
        matrices_by_path({"w": PLAIN}, otherwise="flex")
