"""Learning rates read off a curve: known minima, noise, spikes, and no suggestion where there is nothing to see."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.instruments import smooth, suggest_rates

RATES = np.geomspace(1e-6, 10.0, 141)  # 20 a decade


def dip(lowest=0.1, depth=1.0, wide=1.0):
    """A smooth curve from 2 down to ``2 - depth`` at a rate, and up again."""
    x = np.log10(RATES / lowest) / wide
    return jnp.asarray(2 - depth * np.exp(-(x**2) / 2) + np.maximum(x, 0) ** 2)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_smoothing_is_the_weighted_mean_from_both_sides(decay):
    losses = np.random.default_rng(0).uniform(size=30)
    losses[:5], losses[[7, 8, 9]] = 0.9, (np.nan, np.inf, -0.5)
    known = np.flatnonzero(np.isfinite(losses))
    weights = decay ** np.abs(known[:, None] - known).astype(float)
    smoothed = smooth(losses, decay)
    np.testing.assert_allclose(smoothed[known], weights @ losses[known] / weights.sum(1), rtol=1e-12)
    np.testing.assert_array_equal(smoothed[jnp.array([7, 8])], np.nan)


def test_what_explodes_counts_as_much_as_the_fall():
    losses = jnp.linspace(3.0, 1.0, 20)
    exploded = smooth(jnp.append(losses, 1e30), 0.9)
    np.testing.assert_allclose(exploded, smooth(jnp.append(losses, 2 * losses[2] - 1.0), 0.9), rtol=1e-12)
    np.testing.assert_allclose(exploded[0], smooth(losses, 0.9)[0], rtol=0.1)


def test_an_explosion_does_not_hide_the_fall_before_it():
    exploding = dip().at[128:].set(1e8 * jnp.arange(13.0))
    for found, clean in zip(suggest_rates(RATES, exploding)[:3], suggest_rates(RATES, dip())[:3], strict=True):
        assert 0.5 < found / clean < 2


def test_smoothing_has_no_bias_at_the_ends():
    np.testing.assert_allclose(smooth(jnp.full(20, 3.0), 0.95), 3.0, rtol=1e-14)


def test_smoothing_does_not_lag():
    symmetric = jnp.cos(jnp.linspace(-jnp.pi, jnp.pi, 41))
    assert jnp.argmax(smooth(symmetric, 0.9)) == 20


def test_suggestions_of_a_known_curve():
    found = suggest_rates(RATES, dip(), decay=0.0)
    step = RATES[1] / RATES[0]
    np.testing.assert_allclose(found.tenth, 0.01, rtol=1e-10)
    np.testing.assert_allclose(found.steepest, 10**-2.0, rtol=step - 1)  # the inflection of the bell
    begun = 10 ** (-1 - np.sqrt(-2 * np.log(0.1)))  # a tenth of the depth
    np.testing.assert_allclose(found.valley, np.sqrt(begun * 0.1), rtol=step - 1)
    np.testing.assert_allclose(found.fall, 1.0, atol=1e-5)


def test_suggestions_do_not_depend_on_where_the_range_begins():
    whole = suggest_rates(RATES, dip(), decay=0.0)
    part = suggest_rates(RATES[40:], dip()[40:], decay=0.0)
    np.testing.assert_allclose(part[:3], whole[:3], rtol=1e-10)


def test_suggestions_scale_with_the_rates_and_not_with_the_losses():
    found = suggest_rates(RATES, dip())
    scaled = suggest_rates(8 * RATES, 1e-3 * dip() - 5)
    np.testing.assert_allclose(scaled[:3], 8 * np.array(found[:3]), rtol=1e-6)


def test_a_fall_after_the_minimum_is_no_descent():
    later = suggest_rates(RATES, dip().at[130:].set(1.2), decay=0.0)
    np.testing.assert_allclose(later[:3], suggest_rates(RATES, dip(), decay=0.0)[:3], rtol=1e-10)


def test_a_spike_does_not_fool_them():
    clean = suggest_rates(RATES, dip())
    spiked = suggest_rates(RATES, dip().at[60].set(1.2).at[30].set(4.0))
    for name in ("steepest", "valley", "tenth"):
        assert 0.5 < getattr(spiked, name) / getattr(clean, name) < 2


def test_a_tail_of_nans_is_ignored():
    losses = dip()
    found = suggest_rates(RATES, losses.at[125:].set(jnp.nan), decay=0.0)
    np.testing.assert_allclose(found[:3], suggest_rates(RATES, losses, decay=0.0)[:3], rtol=1e-12)
    assert np.isfinite(suggest_rates(RATES, losses.at[125].set(jnp.inf))[:3]).all()


@pytest.mark.parametrize(
    "losses",
    [
        np.ones(141),
        np.arange(141.0),
        np.full(141, np.nan),
        np.where(np.arange(141) == 0, np.nan, 2.0),
        1e6 + 1e-12 * np.arange(141)[::-1],
    ],
    ids=["flat", "rising", "nan", "nan first", "rounding"],
)
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_there_is_no_suggestion_without_a_fall(losses, decay):
    assert np.isnan(suggest_rates(RATES, losses, decay)[:3]).all()


def test_noise_alone_suggests_nothing_and_a_fall_in_noise_does():
    noise = 0.1 * jax.random.normal(jax.random.key(0), (1000, 141))
    suggested = jax.jit(jax.vmap(lambda losses: suggest_rates(RATES, losses).valley))
    assert jnp.isfinite(suggested(2 + noise)).mean() < 0.01
    found = suggested(dip(depth=0.5) + noise)
    assert jnp.isfinite(found).mean() > 0.99
    true = suggest_rates(RATES, dip(depth=0.5)).valley
    assert 0.5 < jnp.median(found) / true < 2


def test_the_noise_is_that_of_a_difference_of_smoothed_losses():
    noise = jax.random.normal(jax.random.key(1), (4000, 141)) - jnp.linspace(0, 3, 141)
    curves = jax.vmap(lambda losses: smooth(losses, 0.9))(noise)
    estimates = jax.vmap(lambda losses: suggest_rates(RATES, losses, 0.9).noise)(noise)
    np.testing.assert_allclose(jnp.mean(estimates), jnp.std(curves[:, 0] - curves[:, 70]), rtol=0.05)


def test_it_is_traced_once_for_all_lanes():
    @jax.jit
    @chex.assert_max_traces(1)
    def lanes(losses):
        return jax.vmap(lambda losses: suggest_rates(RATES, losses))(losses)

    for lowest in (0.1, 1.0):
        losses = jnp.stack([dip(lowest), jnp.ones(141)])
        alone = [suggest_rates(RATES, each) for each in losses]
        chex.assert_trees_all_close(lanes(losses), jax.tree.map(lambda *x: jnp.stack(x), *alone))


@pytest.mark.parametrize(
    ("rates", "losses", "message"),
    [
        (RATES, np.ones(140), "one loss each; got 141 and 140"),
        (RATES[:2], np.ones(2), "at least three rates"),
        (RATES[::-1], np.ones(141), "`learning_rates` must ascend"),
        (RATES - 1, np.ones(141), "`learning_rates` must be > 0"),
        (RATES[None], np.ones(141), "`learning_rates` must have one axis"),
    ],
)
def test_bad_input_is_explained(rates, losses, message):
    with pytest.raises(ValueError, match=message):
        suggest_rates(rates, losses)
