"""Gradient noise: closed forms of linear regression, brute force over examples, and Monte Carlo for errors and bias."""

import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab import instruments
from gradlab.instruments import batch_variance

DIM = 4
AWAY = np.array([0.6, -0.3, 0.9, 0.2])
SIGMA = 0.5  # of the labels
KEY = jax.random.key(3)
noise = jax.jit(instruments.noise, static_argnums=0, static_argnames="chunk")
curved_noise = jax.jit(instruments.curved_noise, static_argnums=0, static_argnames="probes")


def squared(params, batch):
    return 0.5 * (batch["x"] @ params["w"] - batch["y"]) ** 2


def regression(key, size):
    first, second = jax.random.split(key)
    x = jax.random.normal(first, (size, DIM))
    return {"x": x, "y": SIGMA * jax.random.normal(second, (size,))}  # the true weights are zero


def per_example(losses, params, batch):
    size = len(jax.tree.leaves(batch)[0])
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(size)]
    grad = jax.jit(lambda row: jax.flatten_util.ravel_pytree(jax.grad(lambda p: losses(p, row)[0])(params))[0])
    return np.stack([grad(row) for row in rows])


def by_hand(grads, values, hessian=None):
    """Every statistic from the matrix of gradients, as the formulas say it."""
    size, mean = len(grads), grads.mean(0)
    hessian = np.eye(len(mean)) if hessian is None else hessian
    cov = np.cov(grads.T)
    trace = np.trace(hessian @ cov)
    square = mean @ hessian @ mean - trace / size
    plain = mean @ mean
    part = grads @ mean / plain
    return {
        "loss": values.mean(),
        "square": square,
        "trace": trace,
        "simple": trace / square,
        "norm": np.sqrt(((grads - mean) ** 2).sum() / (size * (size - 1)) / plain),
        "inner": np.sqrt(((part - 1) ** 2).sum() / (size * (size - 1))),
        "ortho": np.sqrt(((grads - part[:, None] * mean) ** 2).sum() / (size * (size - 1)) / plain),
        "cabs": 0.1 * trace / values.mean(),
    }


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.tanh(nn.Dense(3)(x)))


def net_losses(params, batch):
    return jnp.sum((Net().apply(params, batch["x"]) - batch["y"][:, None]) ** 2, axis=1)


NET = jax.tree.map(lambda p: jnp.asarray(p, float), Net().init(KEY, jnp.ones((1, DIM))))


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_every_statistic_is_its_formula_on_a_flax_model(chunk):
    batch = regression(KEY, 12)
    measured = noise(net_losses, NET, batch, learning_rate=0.1, chunk=chunk)
    grads = per_example(net_losses, NET, batch)
    for name, value in by_hand(grads, np.asarray(net_losses(NET, batch))).items():
        np.testing.assert_allclose(getattr(measured, name).value, value, rtol=1e-9, err_msg=name)
    start = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(NET):
        part = by_hand(grads[:, start : start + leaf.size], np.ones(12))
        snr = measured.leaf_snr.value
        for key in path:
            snr = snr[key.key]
        np.testing.assert_allclose(snr, part["square"] / part["trace"], rtol=1e-8)
        start += leaf.size


def test_errors_are_the_jackknife_over_examples():
    """Each example left out of the data: exact for all but the inner-product tests, these to second order."""
    size = 60
    batch = regression(KEY, size)
    params = {"w": jnp.asarray(AWAY)}
    measured = noise(squared, params, batch, learning_rate=0.1)
    grads, values = per_example(squared, params, batch), np.asarray(squared(params, batch))
    left = [by_hand(np.delete(grads, i, 0), np.delete(values, i)) for i in range(size)]
    for name in left[0]:
        column = np.array([row[name] for row in left])
        if name in ("norm", "inner", "ortho"):
            column = column * np.sqrt((size - 1) / size)  # the tests are of batches of the whole size
        error = np.sqrt((size - 1) / size * ((column - column.mean()) ** 2).sum())
        rtol = 0.03 if name in ("inner", "ortho") else 1e-8
        np.testing.assert_allclose(getattr(measured, name).error, error, rtol=rtol, err_msg=name)
    np.testing.assert_allclose(
        measured.leaf_snr.error["w"], _jackknife([row["square"] / row["trace"] for row in left]), rtol=1e-8
    )


def _jackknife(column):
    column = np.asarray(column)
    return np.sqrt((len(column) - 1) / len(column) * ((column - column.mean()) ** 2).sum())


def test_linear_regression_has_the_closed_form_and_no_bias():
    """tr(Sigma) = (d + 1) |w|^2 + d s^2 and |G|^2 = |w|^2 for x ~ N(0, I); 4000 batches of 8 examples."""
    keys = jax.random.split(KEY, 4000)
    params = {"w": jnp.asarray(AWAY)}
    measured = jax.jit(jax.vmap(lambda key: noise(squared, params, regression(key, 8))))(keys)
    away = AWAY @ AWAY
    for estimate, exact in [(measured.square, away), (measured.trace, (DIM + 1) * away + DIM * SIGMA**2)]:
        standard_error = np.std(estimate.value) / len(keys) ** 0.5
        assert abs(np.mean(estimate.value) - exact) < 3 * standard_error
        assert standard_error < 0.02 * exact
    # the plain square of the mean gradient is too long by tr(Sigma) / 8
    biased = np.mean(measured.square.value + measured.trace.value / 8)
    assert biased > 1.5 * away
    assert np.min(measured.square.value) < 0  # unbiased numbers are not clamped


def test_errors_are_as_large_as_the_spread_over_fresh_batches():
    keys = jax.random.split(KEY, 400)
    params = {"w": jnp.asarray(AWAY)}
    measured = jax.jit(jax.vmap(lambda key: noise(squared, params, regression(key, 500))))(keys)
    for name in ("loss", "square", "trace", "simple", "norm", "inner", "ortho", "cabs"):
        estimate = getattr(measured, name)
        ratio = np.sqrt(np.mean(np.square(estimate.error))) / np.std(estimate.value)
        assert 0.85 < ratio < 1.2, (name, ratio)
    simple = ((DIM + 1) * AWAY @ AWAY + DIM * SIGMA**2) / (AWAY @ AWAY)
    np.testing.assert_allclose(np.mean(measured.simple.value), simple, rtol=0.03)


def noisy_quadratic(params, batch):
    """One Hessian for all examples; the gradient of an example is H (p - x)."""
    return 0.5 * jnp.sum(jnp.array([0.3, 2.0, 5.0]) * (params - batch) ** 2, axis=1)


def test_the_noisy_quadratic_has_its_critical_batch_sizes():
    """With x ~ N(0, I): Sigma = H^2, so tr(H Sigma) = tr H^3 and G' H G = p' H^3 p."""
    curvature, params = np.array([0.3, 2.0, 5.0]), jnp.array([1.0, -1.0, 0.5])
    measured = jax.jit(jax.vmap(lambda key: _curved(key, params, 1500)))(jax.random.split(KEY, 300))
    exact = (curvature**3).sum(), float((curvature**3 * params**2).sum())
    for estimate, value in zip(measured[:2], exact, strict=True):
        assert abs(np.mean(estimate.value) - value) < 3 * np.std(estimate.value) / 300**0.5
    np.testing.assert_allclose(np.mean(measured.noise.value), exact[0] / exact[1], rtol=0.03)
    for name, estimate in measured._asdict().items():
        ratio = np.sqrt(np.mean(np.square(estimate.error))) / np.std(estimate.value)
        assert 0.8 < ratio < 1.25, (name, ratio)


def _curved(key, params, size):
    first, second = jax.random.split(key)
    return curved_noise(noisy_quadratic, params, jax.random.normal(first, (size, 3)), second, probes=32)


def test_the_curved_noise_is_its_formula_in_the_mean_over_many_probes():
    batch, params = regression(KEY, 10), {"w": jnp.asarray(AWAY)}
    x = np.asarray(batch["x"])
    exact = by_hand(per_example(squared, params, batch), np.ones(10), x.T @ x / 10)
    measured = curved_noise(squared, params, batch, KEY, probes=20_000)
    for estimate, name in [(measured.trace, "trace"), (measured.curvature, "square"), (measured.noise, "simple")]:
        np.testing.assert_allclose(estimate.value, exact[name], rtol=0.03)
    # with no error left from the probes: the jackknife with the Hessian held
    grads, left = per_example(squared, params, batch), []
    for i in range(10):
        left.append(by_hand(np.delete(grads, i, 0), np.ones(9), x.T @ x / 10)["trace"])
    np.testing.assert_allclose(measured.trace.error, _jackknife(left), rtol=0.03)


def test_a_repeated_example_has_no_noise():
    batch = jax.tree.map(lambda x: jnp.repeat(x[:1], 6, axis=0), regression(KEY, 1))
    measured = noise(net_losses, NET, batch)
    assert measured.trace.value < 1e-25 * measured.square.value
    np.testing.assert_allclose(measured.square.value, np.sum(per_example(net_losses, NET, batch)[0] ** 2))
    alike = curved_noise(net_losses, NET, batch, KEY)
    assert abs(alike.trace.value) < 1e-20


def test_float32_keeps_noise_that_is_small_beside_the_gradient():
    data = 1e3 + jnp.arange(-2.0, 3.0, dtype=jnp.float32)
    measured = noise(lambda p, x: 0.5 * (p - x) ** 2, jnp.zeros([], jnp.float32), data)
    np.testing.assert_allclose(measured.trace.value, 2.5, rtol=1e-6)


def test_variance_of_a_batch_without_replacement_by_enumeration():
    grads = np.random.default_rng(0).normal(size=(6, 3))
    trace = np.trace(np.cov(grads.T))
    for size in range(1, 7):
        means = [grads[list(chosen)].mean(0) for chosen in itertools.combinations(range(6), size)]
        expected = np.mean(np.sum((np.array(means) - grads.mean(0)) ** 2, axis=1))
        np.testing.assert_allclose(batch_variance(trace, size, 6), expected, atol=1e-14)
    draws = np.array([grads[list(chosen)].mean(0) for chosen in itertools.product(range(6), repeat=3)])
    population = trace * 5 / 6  # drawing with replacement, the six are the distribution
    np.testing.assert_allclose(batch_variance(population, 3), np.mean(np.sum((draws - grads.mean(0)) ** 2, axis=1)))


def test_vmaps_and_jits_with_one_trace():
    batch = regression(KEY, 5)
    stack = {"w": jnp.stack([jnp.asarray(AWAY), -jnp.asarray(AWAY)])}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def both(params, key):
        one = lambda p: (
            instruments.noise(squared, p, batch),
            instruments.curved_noise(squared, p, batch, key, probes=3),
        )
        return jax.vmap(one)(params)

    both(stack, KEY)
    many = both(jax.tree.map(lambda w: w + 1, stack), KEY)
    for index in range(2):
        params = {"w": stack["w"][index] + 1}
        one = noise(squared, params, batch), curved_noise(squared, params, batch, KEY, probes=3)
        chex.assert_trees_all_close(one, jax.tree.map(lambda x, i=index: x[i], many), rtol=1e-9)


def test_nan_comes_out_and_none_and_bfloat16_go_through():
    batch = regression(KEY, 5)
    params = {"w": jnp.asarray(AWAY), "none": None}
    broken = noise(squared, params, {**batch, "y": batch["y"].at[2].set(jnp.nan)})
    assert all(np.isnan(x) for x in jax.tree.leaves(broken))
    low = noise(squared, {"w": jnp.asarray(AWAY, "bfloat16"), "none": None}, batch)
    assert low.leaf_snr.value["none"] is None
    np.testing.assert_allclose(low.trace.value, noise(squared, params, batch).trace.value, rtol=0.05)


def test_bad_input_says_why():
    batch = regression(KEY, 5)
    params = {"w": jnp.asarray(AWAY)}
    with pytest.raises(ValueError, match=r"noise: the loss must return one number for each example"):
        instruments.noise(lambda p, b: jnp.mean(squared(p, b)), params, batch)
    with pytest.raises(
        ValueError, match=r"must share a first axis of examples, got lengths \{'x': \(5,\), 'y': \(3,\)\}"
    ):
        noise(squared, params, {"x": batch["x"], "y": batch["y"][:3]})
    with pytest.raises(ValueError, match="needs at least 3 examples, got 2"):
        noise(squared, params, jax.tree.map(lambda x: x[:2], batch))
    with pytest.raises(ValueError, match="one number for each of the 5 examples"):
        noise(lambda p, b: squared(p, b)[:4], params, batch)
    with pytest.raises(TypeError, match="the parameter at 'w' is int"):
        noise(squared, {"w": jnp.arange(4)}, batch)
    with pytest.raises(ValueError, match="`chunk` must be"):
        noise(squared, params, batch, chunk=0)
    with pytest.raises(ValueError, match="`probes` must be"):
        curved_noise(squared, params, batch, KEY, probes=1)
