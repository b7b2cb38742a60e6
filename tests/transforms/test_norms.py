"""Stages of norms and means: Optax, the axes of Flax's kernels, edges of the float range, derivatives at zero."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import gradlab
from gradlab.transforms.norms import (
    centralize,
    normalize,
    normalize_by_update_norm,
    scale_by_param_block_norm,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
)


def _tree(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 4), "conv": (3, 3, 2, 4), "bias": (4,), "scalar": (), "one": (1, 5)}
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def _apply(tx, grads, params=None):
    return tx.update(grads, tx.init(grads), params)[0]


OPTAX = [
    (scale_by_trust_ratio(), optax.scale_by_trust_ratio()),
    (scale_by_trust_ratio(5.0, 0.5, 0.1), optax.scale_by_trust_ratio(5.0, 0.5, 0.1)),
    (scale_by_trust_ratio(None, 0.5, None), optax.scale_by_trust_ratio(0.0, 0.5, 0.0)),
    (scale_by_param_block_norm(2.0), optax.scale_by_param_block_norm(2.0)),
    (scale_by_param_block_rms(0.9), optax.scale_by_param_block_rms(0.9)),
    (centralize(), optax.centralize()),
    (normalize_by_update_norm(), optax.normalize_by_update_norm()),
    (normalize_by_update_norm(3.0, 0.1), optax.normalize_by_update_norm(3.0, 0.1)),
    (normalize(), optax.contrib.normalize()),
]


@pytest.mark.parametrize(("ours", "theirs"), OPTAX, ids=range(len(OPTAX)))
def test_updates_and_states_are_those_of_optax(ours, theirs):
    grads, params = _tree(0), _tree(1) | {"bias": jnp.zeros(4)}
    grads["scalar"] = jnp.zeros(())
    chex.assert_trees_all_close(_apply(ours, grads, params), _apply(theirs, grads, params), rtol=1e-12)
    assert type(ours.init(params)) is type(theirs.init(params))


def test_defaults_are_optaxs():
    params, grads = jax.tree.map(lambda p: 1e-5 * p, _tree(1)), _tree(0)
    for name in ("scale_by_param_block_norm", "scale_by_param_block_rms"):
        expected = _apply(getattr(optax, name)(), grads, params)
        chex.assert_trees_all_close(_apply(getattr(gradlab, name)(), grads, params), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_the_trust_ratio_gives_the_update_the_norm_of_the_parameter(scale):
    grads, params = jax.tree.map(lambda g: scale * g, _tree(0, np.float32)), _tree(1, np.float32)
    for u, p in zip(*map(jax.tree.leaves, (_apply(scale_by_trust_ratio(), grads, params), params)), strict=True):
        np.testing.assert_allclose(np.linalg.norm(u.ravel()), np.linalg.norm(p.ravel()), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norms_of_low_precision_leaves_do_not_overflow(dtype):
    grads, params = jnp.full(300, 300.0, dtype), jnp.full(300, 400.0, dtype)
    assert _apply(scale_by_trust_ratio(), grads, params).tolist() == params.tolist()
    assert _apply(scale_by_param_block_rms(), jnp.ones(300, dtype), params).tolist() == params.tolist()
    np.testing.assert_allclose(np.asarray(_apply(normalize(), grads), float), 300**-0.5, rtol=1e-2)


ALL = [tx for tx, _ in OPTAX] + [normalize_by_update_norm(eps=0.0), centralize(axes="all_but_last")]


@pytest.mark.parametrize("tx", ALL, ids=range(len(ALL)))
def test_values_and_derivatives_at_zero_are_finite(tx):
    """Leaf by leaf zero and one meet as update and parameter; and all updates together are zero."""
    grads = {"a": jnp.zeros((2, 3)), "b": jnp.ones(()), "c": jnp.zeros(1)}
    params = {"a": jnp.ones((2, 3)), "b": jnp.zeros(()), "c": jnp.zeros(1)}
    total = lambda tx, grads, params: optax.tree.sum(_apply(tx, grads, params))
    both = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    chex.assert_tree_all_finite(both(tx, grads, params))
    value, slopes = both(tx, jax.tree.map(jnp.zeros_like, grads), params)
    chex.assert_tree_all_finite(slopes)
    assert value == 0


def test_the_derivative_of_normalisation_at_zero_is_that_of_its_eps():
    slope = jax.grad(lambda g: _apply(normalize_by_update_norm(3.0, eps=0.5), g)[0])(jnp.zeros(2))
    np.testing.assert_allclose(slope, [3.0 / 0.5, 0.0], rtol=1e-12)


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
@pytest.mark.parametrize("tx", [normalize(), normalize_by_update_norm()], ids=["normalize", "by_update_norm"])
def test_gradients_that_are_not_finite_stay_visible(tx, bad):
    updates = _apply(tx, (jnp.array([bad]), jnp.ones(2)))
    assert all(bool(jnp.all(jnp.isnan(u))) for u in updates)


class _Model(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3))(x)
        return linen.Dense(5)(x.reshape(x.shape[0], -1))


def test_gradients_of_flax_kernels_have_mean_zero_over_the_inputs_of_each_output():
    shapes = jax.eval_shape(_Model().init, jax.random.key(0), jnp.ones((2, 6, 6, 3)))["params"]
    grads = jax.tree.map(lambda p: jnp.asarray(np.random.default_rng(p.size).normal(size=p.shape)), shapes)
    updates = _apply(centralize(axes="all_but_last"), grads)
    for layer, inputs in [("Conv_0", (0, 1, 2)), ("Dense_0", 0)]:
        np.testing.assert_allclose(np.mean(updates[layer]["kernel"], inputs), 0, atol=1e-14)
        spread = np.asarray(grads[layer]["kernel"] - updates[layer]["kernel"])
        np.testing.assert_allclose(np.ptp(spread, inputs), 0, atol=1e-14)
        chex.assert_trees_all_equal(updates[layer]["bias"], grads[layer]["bias"])
    assert np.max(np.abs(np.mean(_apply(centralize(), grads)["Conv_0"]["kernel"], (0, 1, 2)))) > 0.01


def test_axes_by_number_are_those_of_the_mean():
    g = jax.random.normal(jax.random.key(0), (3, 2, 4), jnp.float64)
    np.testing.assert_allclose(_apply(centralize(axes=0), g), g - np.mean(g, 0, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(_apply(centralize(axes=(0, 2)), g), g - np.mean(g, (0, 2), keepdims=True), rtol=1e-12)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="unknown axes 'all_but_frist'; did you mean 'all_but_first'"):
        centralize(axes="all_but_frist")
    for make in (scale_by_param_block_norm, scale_by_param_block_rms):
        with pytest.raises(ValueError, match="`min_scale` must be"):
            make(-1.0)
        with pytest.raises(ValueError, match=f"{make.__name__} needs the parameters"):
            make().update(jnp.ones(2), optax.EmptyState())
    for name in ("min_norm", "trust_coefficient", "eps"):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            scale_by_trust_ratio(**{name: -1.0})
    with pytest.raises(ValueError, match="scale_by_trust_ratio needs the parameters"):
        scale_by_trust_ratio().update(jnp.ones(2), optax.EmptyState())
    with pytest.raises(ValueError, match="`eps` must be"):
        normalize_by_update_norm(eps=-1.0)


def test_none_is_no_hyperparameter():
    tx = scale_by_trust_ratio(None, 0.5, None)
    assert gradlab.hyperparams(tx) == {"trust_coefficient": 0.5}
    assert gradlab.describe(tx) == "scale_by_trust_ratio(trust_coefficient=0.5)"
    updates = _apply(scale_by_trust_ratio(), {"a": jnp.ones(4), "b": None}, {"a": jnp.ones(4), "b": jnp.ones(1)})
    assert updates["a"].tolist() == [1.0] * 4 and updates["b"] is None
