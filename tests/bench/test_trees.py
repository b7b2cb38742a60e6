"""The trees have the sizes that their names promise."""

import jax
import numpy as np
import pytest

from gradlab.bench.trees import TREES, count_leaves, count_params, gpt2_shapes, normal, structs


@pytest.mark.parametrize(("name", "leaves"), [("gpt2-small", 148), ("width-64", 148), ("580-leaves", 580)])
def test_leaves(name, leaves):
    assert count_leaves(TREES[name]) == leaves
    assert len(jax.tree.leaves(structs(TREES[name]))) == leaves


def test_gpt2_small_has_its_published_number_of_parameters():
    assert count_params(TREES["gpt2-small"]) == 124_439_808


@pytest.mark.parametrize(("width", "layers", "vocabulary", "context"), [(768, 12, 50257, 1024), (8, 3, 11, 5)])
def test_number_of_parameters_in_closed_form(width, layers, vocabulary, context):
    block = 12 * width**2 + 13 * width
    expected = (vocabulary + context) * width + layers * block + 2 * width
    assert count_params(gpt2_shapes(width, layers, vocabulary, context)) == expected


def test_no_leaf_of_the_small_trees_outweighs_the_others():
    for name in ("width-64", "580-leaves"):
        sizes = [leaf.size for leaf in jax.tree.leaves(structs(TREES[name]))]
        assert max(sizes) < sum(sizes) / 2


def test_arrays_have_the_shapes_and_scale_asked_for_and_differ_between_leaves_and_seeds():
    shapes = {"a": (100, 50), "b": (5000,)}
    tree, other = normal(shapes, seed=0, scale=0.1), normal(shapes, seed=1, scale=0.1)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), tree) == jax.tree.map(
        lambda s: (s.shape, s.dtype), structs(shapes)
    )
    assert np.std(tree["a"]) == pytest.approx(0.1, rel=0.05)
    assert not np.allclose(tree["a"].ravel(), tree["b"])
    assert not np.allclose(tree["a"], other["a"])
