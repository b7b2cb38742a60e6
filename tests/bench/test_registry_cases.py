"""Rows of every optimizer that Optax has too: complete, and both libraries do the same work."""

import chex
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

from gradlab.bench import registry_cases as cases
from gradlab.bench.rows import measured
from gradlab.bench.trees import normal
from gradlab.optimizers import REGISTRY

TINY = {"kernel": (3, 4), "bias": (4,)}


def test_every_optimizer_of_both_libraries_has_its_rows():
    names = {case.name.split("/")[1] for case in cases.registry_cases(TINY)}
    both = {name for name in REGISTRY if hasattr(optax, name) or hasattr(contrib, name)}
    assert names == (both | {"multi_steps"}) - cases.NEEDS_A_FUNCTION
    goals = {case.name.split("/")[0]: case.at_most for case in cases.registry_cases(TINY) if case.at_most}
    assert goals == {**cases.GOALS, "bytes-of": 0.99}


@pytest.mark.parametrize("name", ["adamax", "rmsprop"])
def test_the_contestants_walk_the_same_path(name):
    makers = (cases._maker(REGISTRY[name]), cases._maker(cases.counterpart(name)))
    ours, theirs = (cases.training(make(), TINY) for make in makers)
    for _ in range(3):
        ends = ours(), theirs()
    chex.assert_trees_all_close(*ends, rtol=1e-6)
    assert not jnp.allclose(ends[0]["kernel"], normal(TINY, seed=0, scale=0.02)["kernel"])


def test_bytes_are_those_of_the_compiled_step():
    row = next(case for case in cases.registry_cases(TINY) if case.name == "bytes-of/adam")
    assert measured(row, 1).gradlab >= 3 * 4 * (3 * 4 + 4)
