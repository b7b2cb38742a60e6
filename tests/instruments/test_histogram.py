"""Histograms: NumPy's counts, and every entry counted once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.instruments import bin_edges, log_histogram


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_are_numpys(dtype):
    x = np.random.default_rng(0).normal(size=5000).astype(dtype) ** 5
    found = log_histogram(jnp.asarray(x), low=1e-6, high=10.0, bins=21)
    edges = bin_edges(1e-6, 10.0, 21).astype(dtype)
    size = np.abs(x)
    inside = size[size < edges[-1]]
    np.testing.assert_array_equal(found.counts[0], np.histogram(inside, edges)[0])
    assert (int(found.under[0]), int(found.over[0])) == ((size < edges[0]).sum(), (size >= edges[-1]).sum())
    assert found.under[0] > 0 and found.over[0] > 0


def test_every_entry_is_counted_once():
    x = jnp.array([0.0, -0.0, 1e-30, 1e-12, 1.0, -1.0, 1e4, 1e30, jnp.inf, -jnp.inf, jnp.nan])
    found = log_histogram({"x": x, "y": jnp.ones((2, 3)), "z": None})
    np.testing.assert_array_equal(found.zeros, [2, 0])
    np.testing.assert_array_equal(found.nonfinite, [3, 0])
    np.testing.assert_array_equal(found.under, [1, 0])
    np.testing.assert_array_equal(found.over, [2, 0])
    total = found.counts.sum(1) + found.zeros + found.nonfinite + found.under + found.over
    np.testing.assert_array_equal(total, [11, 6])


def test_a_bin_holds_its_lower_edge_only():
    edges = bin_edges(1e-3, 1e3, 6)
    found = log_histogram(jnp.asarray(edges), low=1e-3, high=1e3, bins=6)
    np.testing.assert_array_equal(found.counts[0], np.ones(6))
    assert (int(found.under[0]), int(found.over[0])) == (0, 1)


def test_it_is_traced_once_for_all_lanes():
    @jax.jit
    @chex.assert_max_traces(1)
    def lanes(x):
        return jax.vmap(lambda x: log_histogram({"x": x}, bins=8))(x)

    for key in jax.random.split(jax.random.key(0)):
        x = jax.random.normal(key, (3, 20)).at[1, 2].set(jnp.nan)
        alone = [log_histogram({"x": lane}, bins=8) for lane in x]
        chex.assert_trees_all_equal(lanes(x), jax.tree.map(lambda *x: jnp.stack(x), *alone))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"low": 0.0}, "`low` must be > 0"), ({"low": 1.0, "high": 1.0}, "`high` must be > 1"), ({"bins": 0}, "`bins`")],
)
def test_impossible_bins_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        log_histogram(jnp.ones(2), **options)


def test_nothing_to_count_is_refused():
    with pytest.raises(ValueError, match="at least one array"):
        log_histogram({"a": None})
