"""Rows of the optimizers for matrices: complete, and both sides do the same work."""

import chex
import jax
import pytest
from optax import contrib

from gradlab import REGISTRY, muon
from gradlab.bench import matrix_cases as cases
from gradlab.bench.registry_cases import training
from gradlab.bench.rows import measured
from gradlab.bench.trees import gpt2_shapes, structs
from tests.jaxprs import walk

TINY = gpt2_shapes(width=4, layers=2, vocabulary=8, context=4)


def test_the_rows_are_those_of_the_documentation():
    rows = {case.name: case.at_most for case in cases.matrix_cases({"a": TINY, "b": TINY, "c": TINY}, TINY)}
    assert {name.split("/")[0] for name in rows} == {*cases.GOALS, "cost", "muon-bf16-step"}
    assert {name.split("/")[1] for name in rows if name.startswith("muon-")} == {"a", "b"}
    assert {name.split("/")[1] for name in rows if name.startswith("cost")} == set(cases.MATRIX_OPTIMIZERS)
    assert set(cases.MATRIX_OPTIMIZERS) < set(REGISTRY)
    assert rows["grouped-compile/soap"] == 0.4 and rows["cost/soap"] is None


def test_the_blocks_are_four_matrices_each():
    layouts = cases.blocks(structs(TINY))
    kept = [one for one in jax.tree.leaves(layouts, is_leaf=lambda one: one is not None) if one is not None]
    assert layouts["wte"] is None and layouts["ln_f"]["scale"] is None
    assert jax.tree.leaves(kept) == [0, 1] * 8


def test_both_librarieswalk_the_same_path():
    options = {"muon_weight_dimension_numbers": cases.blocks}
    ours, theirs = training(muon(0.1, **options), TINY), training(contrib.muon(0.1, **options), TINY)
    for _ in range(3):
        ends = ours(), theirs()
    chex.assert_trees_all_close(*ends, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["muon-compile/a", "muon-step/a", "muon-bf16-step/a", "muon-bytes/a", "grouped-compile/soap", "cost/soap"]
)
def test_every_kind_of_row_can_be_measured(name):
    (case,) = [case for case in cases.matrix_cases({"a": TINY}, TINY) if case.name == name]
    row = measured(case, 1)
    assert row.gradlab > 0 and row.optax > 0


def test_groups_are_fewer_programs_than_leaves():
    """What the row of compile times stands for: a loop a shape in place of a loop a leaf."""
    counts = {}
    for strategy in ("map", "leaf"):
        tx, params = cases._maker("soap", strategy=strategy)(), structs(TINY)
        jaxpr = jax.make_jaxpr(tx.update)(params, jax.eval_shape(tx.init, params), params)
        counts[strategy] = sum(name == "geqrf" for name, _ in walk(jaxpr.jaxpr, inside=False))
    leaves, shapes, sides = 8, 3, 2
    assert counts["leaf"] == leaves * sides * (counts["map"] // (shapes * sides)) and counts["map"] % shapes == 0
