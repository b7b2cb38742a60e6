"""The streaming estimate of gradient noise: the one-shot one, weighted averages, and Monte Carlo."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.instruments.noise import noise
from gradlab.instruments.noise_stream import noise_stream, stream_noise, streamed_noise, two_batch, unbiased

DIM, SIGMA = 4, 0.5
AWAY = jnp.array([0.6, -0.3, 0.9, 0.2])
KEY = jax.random.key(5)


def losses(params, batch):
    return 0.5 * (batch["x"] @ params - batch["y"]) ** 2


def loss(params, batch):
    return jnp.mean(losses(params, batch))


def regression(key, size):
    first, second = jax.random.split(key)
    return {"x": jax.random.normal(first, (size, DIM)), "y": SIGMA * jax.random.normal(second, (size,))}


def test_parts_of_one_example_are_the_one_shot_estimate():
    batch = regression(KEY, 12)
    step, whole = two_batch(loss, AWAY, batch, parts=12), noise(losses, AWAY, batch)
    np.testing.assert_allclose(step.square, whole.square.value, rtol=1e-10)
    np.testing.assert_allclose(step.trace, whole.trace.value, rtol=1e-10)
    np.testing.assert_allclose(step.grad, jax.grad(loss)(AWAY, batch), rtol=1e-12)


@pytest.mark.parametrize("parts", [2, 4])
def test_both_are_unbiased(parts):
    """tr(Sigma) = (d + 1) |w|^2 + d s^2 and |G|^2 = |w|^2 for x ~ N(0, I)."""
    one = lambda key: two_batch(loss, AWAY, regression(key, 8), parts)[1:]
    square, trace = jax.jit(jax.vmap(one))(jax.random.split(KEY, 20_000))
    away = float(AWAY @ AWAY)
    for values, exact in [(square, away), (trace, (DIM + 1) * away + DIM * SIGMA**2)]:
        assert abs(np.mean(values) - exact) < 3 * np.std(values) / 20_000**0.5 < 0.06 * exact


def test_unbiased_inverts_the_expectations():
    expected = lambda size: 7.0 + 30.0 / size  # |G|^2 + tr(Sigma) / size
    np.testing.assert_allclose(unbiased(expected(4), expected(32), 4, 32), (7.0, 30.0))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_averages_and_errors_are_those_of_the_weights(decay):
    samples = np.random.default_rng(1).normal([2.0, 9.0], [1.0, 3.0], (40, 2))
    step = lambda stream, sample: (stream_noise(stream, *sample, decay), None)
    stream, _ = jax.lax.scan(step, noise_stream(), jnp.asarray(samples))
    weights = decay ** np.arange(39.0, -1, -1)
    weights /= weights.sum()
    mean = weights @ samples
    np.testing.assert_allclose(stream.mean, mean, rtol=1e-12)
    read = streamed_noise(stream)
    np.testing.assert_allclose(read.simple.value, mean[1] / mean[0], rtol=1e-12)
    if decay == 0:
        assert np.isnan(read.simple.error)  # one step has no spread
        return
    fewer = np.sum(weights**2)
    covariance = np.cov(samples.T, aweights=weights, ddof=1) * fewer
    np.testing.assert_allclose([read.square.error, read.trace.error], np.sqrt(np.diag(covariance)), rtol=1e-9)
    slopes = np.array([-mean[1] / mean[0] ** 2, 1 / mean[0]])
    np.testing.assert_allclose(read.simple.error, np.sqrt(slopes @ covariance @ slopes), rtol=1e-9)


def test_the_ratio_of_averages_finds_the_noise_scale_within_its_error():
    """The average of the ratios would not: |G|^2 of one step is often near zero."""

    def run(key):
        def step(stream, key):
            _, square, trace = two_batch(loss, AWAY, regression(key, 16))
            return stream_noise(stream, square, trace, 0.998), trace / square

        stream, ratios = jax.lax.scan(step, noise_stream(), jax.random.split(key, 1500))
        return streamed_noise(stream), ratios.mean()

    read, wrong = jax.jit(jax.vmap(run))(jax.random.split(KEY, 100))
    exact = float((DIM + 1) + DIM * SIGMA**2 / (AWAY @ AWAY))
    np.testing.assert_allclose(np.mean(read.simple.value), exact, rtol=0.02)
    assert 0.8 < np.sqrt(np.mean(read.simple.error**2)) / np.std(read.simple.value) < 1.25
    assert np.median(np.abs(wrong - exact)) > 5 * np.std(read.simple.value)


def test_vmaps_and_jits_with_one_trace():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def both(stream, key):
        def one(stream, key):
            _, square, trace = two_batch(loss, AWAY, regression(key, 8))
            return stream_noise(stream, square, trace)

        return jax.vmap(one)(stream, key)

    stream = jax.tree.map(lambda x: jnp.stack([x, x]), noise_stream())
    stream = both(both(stream, jax.random.split(KEY)), jax.random.split(jax.random.key(9)))
    read = jax.vmap(streamed_noise)(stream)
    assert np.isfinite(read.simple.error).all() and stream.count.tolist() == [2, 2]


def test_nan_stays_and_the_first_step_has_no_error():
    once = stream_noise(noise_stream(), 1.0, 2.0)
    assert np.isnan(streamed_noise(once).square.error) and streamed_noise(once).simple.value == 2.0
    after = stream_noise(stream_noise(once, np.nan, 2.0), 1.0, 2.0)
    assert np.isnan(streamed_noise(after).simple.value) and streamed_noise(after).trace.value == 2.0


def test_dtypes():
    stream = stream_noise(noise_stream("float32"), jnp.float32(1.0), jnp.float32(2.0))
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in stream)
    batch = jax.tree.map(lambda x: x.astype("bfloat16"), regression(KEY, 4))
    assert two_batch(loss, AWAY.astype("bfloat16"), batch).trace.dtype == jnp.float32


def test_bad_input_says_why():
    batch = regression(KEY, 6)
    with pytest.raises(ValueError, match=r"cannot cut a batch of lengths .* into 4 parts of one size"):
        two_batch(loss, AWAY, batch, parts=4)
    with pytest.raises(ValueError, match="`parts` must be"):
        two_batch(loss, AWAY, batch, parts=1)
    with pytest.raises(ValueError, match="must return one number, the mean"):
        two_batch(losses, AWAY, batch)
    with pytest.raises(ValueError, match="`decay` must be"):
        stream_noise(noise_stream(), 1.0, 1.0, decay=1.0)
