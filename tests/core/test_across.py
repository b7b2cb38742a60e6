"""Sums across all leaves beside NumPy; precision, missing leaves and derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core import across
from gradlab.core.numerics import safe_quotient, safe_sqrt
from gradlab.core.tree import real_dtype
from tests.trajectories import flat, mixed_tree

ONE, OTHER = mixed_tree(0, np.complex128), mixed_tree(1, np.complex128)
BY_NUMPY = {
    "vdot": lambda x, y: np.vdot(x, y).real,
    "squared_distance": lambda x, y: np.sum(np.abs(x - y) ** 2),
    "sum_of_squares": lambda x, y: np.sum(np.abs(x) ** 2),
    "sum_of_abs": lambda x, y: np.sum(np.abs(x)),
}


@pytest.mark.parametrize("name", BY_NUMPY)
@pytest.mark.parametrize("real", [True, False])
def test_sums_are_those_of_the_flat_vectors(name, real):
    trees = [jax.tree.map(lambda x: x.real if real else x, tree) for tree in (ONE, OTHER)]
    trees = trees[: 2 if name in ("vdot", "squared_distance") else 1]
    got = getattr(across, name)(*trees)
    vectors = [flat(tree) for tree in trees] * 2
    np.testing.assert_allclose(got, BY_NUMPY[name](vectors[0], vectors[1]), rtol=1e-13)
    assert got.shape == () and got.dtype == np.float64


def test_low_precision_leaves_are_summed_in_float32():
    """A thousand ones and one more: float16 would stop at 2048."""
    ones = {"a": jnp.ones(3000, "float16"), "b": jnp.ones((), "bfloat16")}
    assert across.sum_of_abs(ones) == 3001 and across.sum_of_abs(ones).dtype == np.float32
    assert across.difference(ones, ones)["b"].dtype == np.float32


def test_missing_leaves_count_as_zero_and_an_empty_tree_is_zero():
    some = {"a": jnp.array([3.0]), "b": None}
    assert across.vdot(some, {"a": jnp.array([2.0]), "b": jnp.ones(2)}) == 6
    assert across.squared_distance({"a": None, "b": None}, some) == 0
    assert across.sum_of_squares({}) == 0
    assert across.difference(some, {"a": jnp.ones(1), "b": jnp.ones(1)})["b"] is None


@pytest.mark.parametrize(
    "dtypes, wide",
    [(["float16"], "float32"), (["bfloat16", "float32"], "float32"), (["complex64"], "float32"), ([], "float32")]
    + [(["float16", "float64"], "float64"), (["complex128"], "float64"), (["int32", "bfloat16"], "float32")],
)
def test_the_dtype_of_what_speaks_of_all_leaves(dtypes, wide):
    assert real_dtype([jnp.ones(1, dtype) for dtype in dtypes]) == wide
    assert real_dtype([jax.ShapeDtypeStruct((1,), dtype) for dtype in dtypes]) == wide


def test_derivatives_at_zero_are_zero():
    chex.assert_trees_all_equal(jax.grad(lambda x: safe_sqrt(across.sum_of_squares(x)))(jnp.zeros(2)), jnp.zeros(2))
    assert jax.grad(safe_quotient, (0, 1))(0.0, 0.0) == (0.0, 0.0)


def test_the_sum_is_traced_once_for_each_shape():
    count = []

    def term(x):
        count.append(x.shape)
        return x

    many = {str(index): jnp.ones(3 + index % 2) for index in range(10)}
    assert across.total(term, many) == 35
    assert sorted(count) == [(3,), (4,)]
