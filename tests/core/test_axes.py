"""How results are split on meshes with explicit axes: read from their types, which need no devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers

import gradlab
from gradlab.core.axes import automatic, entries, evenly_split, explicit_mesh, laid_like, raveled, sharding_of
from gradlab.core.branch import update_if
from gradlab.core.layouts import matrices_of
from gradlab.core.leafwise import leafwise
from gradlab.core.matrixwise import Groups
from gradlab.core.storage import Int8

MESH = AbstractMesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
FREE = AbstractMesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

OPTIMIZERS = (
    gradlab.sm3(0.1),
    gradlab.adam_mini(0.1),
    gradlab.muon(0.1),
    gradlab.soap(0.1),
    gradlab.adamw(0.1, storage=Int8(block=3, least=1)),
)


@pytest.fixture(autouse=True)
def _within():
    with jax.sharding.use_abstract_mesh(MESH):
        yield


def shape(*lengths, spec=(), dtype="float32"):
    return jax.ShapeDtypeStruct(lengths, dtype, sharding=NamedSharding(MESH, P(*spec)))


def split(tree):
    return [entries(leaf.sharding.spec, leaf.ndim) for leaf in jax.tree.leaves(tree)]


def typed(function, *operands):
    return split(jax.eval_shape(function, *operands))


X = shape(8, 16, spec=("data", "model"))


def test_jax_refuses_what_could_be_split_in_several_ways():
    """If it does no longer, this module is not needed."""
    with pytest.raises(Exception, match="ambiguous how the output should be sharded"):
        jax.eval_shape(lambda x: x @ x.T, X)


@pytest.mark.parametrize(
    ("columns", "entry"),
    [(16, "model"), (8, "model"), (4, "model"), (2, None), (6, None), (12, None), (32, None), (0, None)],
)
def test_a_result_is_split_as_what_it_is_like_along_axes_of_which_devices_have_whole_parts(columns, entry):
    """Of 16 columns over 4 devices."""
    product = lambda x: x @ jnp.zeros((16, columns))
    assert typed(lambda x: automatic(product, (x,), like=x), X) == [("data", entry)]


def test_a_result_that_is_like_an_unsplit_one_is_whole_on_every_device():
    assert typed(lambda x: automatic(lambda x: x @ x.T @ x, (x,), like=x), X) == [("data", "model")]
    assert typed(lambda x: automatic(jnp.ravel, (x,), like=jax.ShapeDtypeStruct((128,), "float32")), X) == [(None,)]


def test_what_stands_for_several_results_is_a_prefix_of_them():
    both = lambda x: automatic(lambda x: (x, {"a": 2 * x, "b": x[:3]}), (x,), like=(x, x))
    assert typed(both, X) == [("data", "model"), ("data", "model"), (None, "model")]


def test_the_axes_of_the_context_count_first():
    with jax.sharding.use_abstract_mesh(FREE):
        assert explicit_mesh(X) is None
    assert explicit_mesh() == MESH
    assert sharding_of(X) == NamedSharding(MESH, P("data", "model"))
    assert sharding_of(jax.ShapeDtypeStruct((2,), float)) is None
    assert sharding_of(jax.ShapeDtypeStruct((2,), float, sharding=NamedSharding(FREE, P("data")))) is None


def test_without_such_axes_nothing_is_added():
    with jax.sharding.use_abstract_mesh(FREE):
        assert "reshard" not in str(jax.make_jaxpr(lambda x: automatic(jnp.sin, (x,), like=x))(jnp.ones(3)))


@pytest.mark.parametrize(
    ("lengths", "spec"),
    [
        ((8, 3), (("data", "model"),)),
        ((3, 16, 8), (None, ("data", "model"))),
        ((0, 8), (None, ("data", "model"))),
        ((3, 4), ()),
    ],
)
def test_all_devices_share_the_first_axis_that_they_divide(lengths, spec):
    assert tuple(evenly_split(X, lengths, MESH).sharding.spec) == spec
    assert evenly_split(X, lengths, MESH).shape == lengths


def test_an_array_is_laid_like_one_of_its_shape():
    assert typed(lambda x: laid_like(jnp.zeros((8, 16)), x), X) == [("data", "model")]
    assert typed(lambda x: laid_like(jnp.zeros((8, 1)), x), X) == [(None, None)]
    assert typed(raveled, X) == [(None,)]
    assert "reshard" not in str(jax.make_jaxpr(lambda x: laid_like(2 * x, x))(X))


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([X, X], (None, "data", "model")),
        ([X, shape(16, 8, spec=("model", "data"))], (None, "data", "model")),  # the tall one is transposed
        ([X, shape(8, 16, spec=("model", "data"))], (None, ("data", "model"), None)),
        ([X] * 8 + [shape(8, 16)] * 8, (("data", "model"), None, None)),
        ([shape(2, 8, 16, spec=("data",))] * 3, (None, ("data", "model"), None)),
        ([shape(2, 8, 16, spec=("data",))], ("data", None, None)),
    ],
)
def test_a_stack_is_split_as_its_matrices_are_if_all_are_alike(leaves, expected):
    layout = [MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1) for leaf in leaves]
    assert typed(lambda leaves: Groups(leaves, layout).stack(leaves), leaves) == [expected]
    back = typed(lambda leaves: Groups(leaves, layout).unstack(Groups(leaves, layout).stack(leaves)), leaves)
    assert back == split(leaves)


def test_a_leaf_is_split_where_the_devices_divide_the_first_axis_of_a_side():
    matrices = matrices_of(shape(3, 2, 8), MuonDimensionNumbers((0, 1), 2), "leaf")
    assert typed(matrices.leaf, shape(1, 6, 8, spec=(None, "data", "model"))) == [(None, None, "model")]
    matrices = matrices_of(shape(2, 3, 8), MuonDimensionNumbers((0, 1), 2), "leaf")
    assert typed(matrices.leaf, shape(1, 6, 8, spec=(None, "data", "model"))) == [("data", None, "model")]


def test_a_branch_that_is_left_out_has_the_type_of_the_other():
    def step(x, slot):
        return update_if(jnp.sum(slot) > 0, lambda: (2 * x, jnp.zeros_like(x) + slot), slot)

    assert typed(step, X, shape(8, 16)) == [("data", "model"), (None, None)]


def _exchange_rule(g, slot):
    return slot, g


def test_a_rule_changes_nothing_of_how_a_leaf_is_split():
    exchange = lambda g, slot: leafwise(_exchange_rule, g, [slot])
    assert typed(exchange, X, shape(8, 16)) == [("data", "model"), (None, None)]
    assert typed(exchange, shape(8, 16), X) == [(None, None), ("data", "model")]


@pytest.mark.parametrize("spec", [(), ("data", "model")])
@pytest.mark.parametrize("tx", OPTIMIZERS, ids=["sm3", "adam_mini", "muon", "soap", "int8"])
def test_slots_and_updates_stay_where_they_were(tx, spec):
    """Slots beside the parameter or not; SM3's bounds, averages of rows, bases and exponents on every device."""
    params = {"Dense_0": {"kernel": X}}
    spec_of = lambda x: spec if x.shape == X.shape else ()
    state = jax.tree.map(lambda x: shape(*x.shape, spec=spec_of(x), dtype=x.dtype), jax.eval_shape(tx.init, params))
    updates, new = jax.eval_shape(tx.update, params, state, params)
    assert split(updates) == [("data", "model")] and split(new) == split(state)
