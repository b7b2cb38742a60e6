"""How arrays are kept: bounds of every codec on any numbers, what is exact, and what stalls an average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradlab.core.storage import CODECS, BFloat16, Blocks, Factored, Factors, Float32, Int8, Residual, decoded, encoded
from gradlab.core.storage.blocks import from_blocks, to_blocks
from gradlab.core.storage.codecs import encoded_like
from gradlab.core.storage.rounding import joined, offsets, split, stochastic_bfloat16

SIZE = 70  # three blocks of Int8: 24, 24 and 22 numbers
TINY = 2.0**-126  # XLA:CPU takes what is smaller for zero
INT8 = Int8(least=1)
seeds = st.integers(0, 2**32 - 1)


def floats(largest):
    # XLA:CPU knows no subnormal numbers, so hypothesis need not look for them everywhere; one test does
    return st.floats(-largest, largest, width=32, allow_subnormal=False)


def tensors(elements):
    return arrays.arrays(np.float32, SIZE, elements=elements)


anything = tensors(floats(np.float32(2.0**120)))
wide_and_narrow = tensors(st.one_of(floats(np.float32(1e30)), floats(np.float32(1.0)), floats(np.float32(1e-30))))


def round_trip(codec, x, seed=0, non_negative=False):
    kept = encoded(codec, jnp.asarray(x), jnp.uint32(seed), non_negative=non_negative)
    return np.asarray(decoded(kept), np.float64)


def by_block(x):
    """The blocks of `INT8`, with zeros after the last number."""
    return np.pad(np.asarray(x, np.float64), (0, 72 - SIZE)).reshape(3, 24)


def scales_of(x):
    largest = np.abs(by_block(x)).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.where(largest > 0, 2.0 ** np.ceil(np.log2(largest)), 1)


def codes_of(shares, halvings):
    """The real number between whole codes for shares of the scale, from straight lines between powers of two."""
    fractions, exponents = np.frexp(np.abs(shares))
    logarithms = np.where(fractions > 0, exponents + 2 * fractions - 2, -np.inf)
    largest = {1: 5 + 127 / 64, 2: 6 + 255 / 128}[halvings]  # of the largest code: exponent and mantissa
    wanted = np.where(fractions > 0, logarithms / 2**halvings, -1e3) + largest
    return 2.0 ** np.floor(wanted) * (1 + wanted - np.floor(wanted))


@settings(deadline=None, max_examples=50)
@given(anything, seeds)
def test_float32_is_exact(x, seed):
    np.testing.assert_array_equal(round_trip(Float32(), x, seed), x)


@settings(deadline=None, max_examples=100)
@given(wide_and_narrow, seeds)
@example(np.full(SIZE, 1 + 2**-8, np.float32), 0)
def test_bfloat16_is_the_nearest(x, seed):
    exact = np.asarray(x, np.float64)
    assert np.all(np.abs(round_trip(BFloat16(), x, seed) - exact) <= 2.0**-8 * np.abs(exact) + TINY)


@settings(deadline=None, max_examples=100)
@given(wide_and_narrow, seeds)
def test_stochastic_bfloat16_is_one_of_the_two_neighbours(x, seed):
    bits = lambda x: np.asarray(x, np.float32).view(np.uint32) & 0x7FFFFFFF
    below = bits(x) >> 16
    got = bits(round_trip(BFloat16(stochastic=True), x, seed)) >> 16
    is_exact = (bits(x) & 0xFFFF) == 0
    assert np.all((got == below) | ((got == below + 1) & ~is_exact))


@settings(deadline=None, max_examples=100)
@given(wide_and_narrow, seeds)
def test_the_residual_holds_eight_bits_more(x, seed):
    exact = np.asarray(x, np.float64)
    assert np.all(np.abs(round_trip(Residual(), x, seed) - exact) <= 2.0**-15 * np.abs(exact) + TINY)


@settings(deadline=None, max_examples=100)
@given(tensors(st.floats(width=32)), seeds)
def test_sixteen_bits_more_are_float32_itself(x, seed):
    high, low = split(jnp.asarray(x), jnp.uint32(seed), 16)
    bits = lambda x: np.where(np.isnan(x), 0x7FC00000, np.asarray(x).view(np.uint32))  # of one NaN for all of them
    np.testing.assert_array_equal(bits(np.asarray(joined(high, low))), bits(x))


@settings(deadline=None, max_examples=100)
@given(wide_and_narrow, seeds)
def test_signed_blocks_are_kept_to_a_code(x, seed):
    got, scale = by_block(round_trip(INT8, x, seed)), scales_of(x)
    exact = by_block(x)
    assert np.all(np.abs(codes_of(got / scale, 1) - codes_of(exact / scale, 1))[np.abs(exact) > TINY] < 1 + 1e-3)
    assert np.all((got == 0) | (np.sign(got) == np.sign(exact)))


@settings(deadline=None, max_examples=100)
@given(wide_and_narrow, seeds)
def test_non_negative_blocks_are_kept_to_a_code(x, seed):
    got, scale = by_block(round_trip(INT8, np.abs(x), seed, non_negative=True)), scales_of(x)
    exact = np.abs(by_block(x))
    is_above_zero = (exact > TINY) & (scale >= 2.0**33 * TINY)  # the least code of a smaller scale is below TINY
    assert np.all((got > 0) >= is_above_zero)
    assert np.all(np.abs(codes_of(got / scale, 2) - codes_of(exact / scale, 2))[exact > TINY] < 1 + 1e-3)


@pytest.mark.parametrize("halvings", [1, 2])
def test_every_code_stands_for_the_share_that_has_it(halvings):
    codes = np.arange(128 if halvings == 1 else 256)
    blocks = Blocks(
        jnp.asarray(codes, jnp.int8 if halvings == 1 else jnp.uint8), jnp.full(len(codes) // 32, 127, jnp.uint8)
    )
    shares = np.asarray(from_blocks(blocks), np.float64)
    assert np.all(np.diff(shares) > 0) and shares[0] == 0 and shares[-1] == 1
    np.testing.assert_allclose(codes_of(shares, halvings)[1:], codes[1:], rtol=1e-6)
    root = np.abs(codes / codes[-1] - shares**0.5**halvings)
    assert root.max() < 0.07  # the lines never leave the root by more


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("name", CODECS)
def test_zeros_stay_zeros_and_powers_of_two_themselves(name, non_negative):
    codec = INT8 if name == "int8" else CODECS[name]
    for seed in (0, 2**31, 2**32 - 1):
        assert np.all(round_trip(codec, np.zeros(SIZE, np.float32), seed, non_negative) == 0)
        for power in (2.0**-100, 1.0, 2.0**100):
            constant = np.full(SIZE, power, np.float32)
            np.testing.assert_allclose(round_trip(codec, constant, seed, non_negative), constant, rtol=3e-7)


@pytest.mark.parametrize("name", CODECS)
def test_subnormal_numbers_are_hardly_moved(name):
    codec = INT8 if name == "int8" else CODECS[name]
    x = np.array([1e-45, -1e-40, 1e-38, -1.2e-38] * 5, np.float32)
    assert np.all(np.abs(round_trip(codec, x) - x) <= 2 * TINY)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("codec", [Float32(), BFloat16(), BFloat16(stochastic=True), Residual()], ids=str)
def test_infinities_and_nan_are_kept(codec, bad):
    x = np.array([1.0, bad, -2.0], np.float32)
    for seed in (0, 2**32 - 1):
        np.testing.assert_array_equal(round_trip(codec, x, seed), x)


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_block_with_no_number_has_none_and_the_others_do_not_notice(bad, non_negative):
    x = np.ones(SIZE, np.float32)
    x[30] = bad
    got = by_block(round_trip(INT8, x, non_negative=non_negative))
    assert not np.isfinite(got[1]).any()
    np.testing.assert_array_equal(got[[0, 2]], by_block(np.ones(SIZE))[[0, 2]])


def test_what_is_beyond_the_largest_scale_counts_as_infinite():
    assert np.isfinite(round_trip(INT8, np.full(4, 2.0**126, np.float32))).all()
    assert not np.isfinite(round_trip(INT8, np.full(4, 2.0**127, np.float32))).any()


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((5,), (1,)),
        ((33,), (2,)),
        ((7, 64), (7, 2)),
        ((40, 10), (13,)),
        ((2, 3, 3, 5), (2, 2)),
        ((4, 1, 65), (4, 1, 3)),
    ],
)
def test_blocks_of_any_shape(shape, blocks):
    x = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    kept = to_blocks(x, jnp.uint32(0), non_negative=False, block=32)
    assert kept.codes.shape == shape and kept.codes.dtype == jnp.int8
    assert kept.exponents.shape == blocks and kept.exponents.dtype == jnp.uint8
    np.testing.assert_allclose(decoded(kept), x, atol=0.08 * float(jnp.abs(x).max()))


def test_small_arrays_stay_float32():
    kept = [encoded(Int8(), jnp.ones(size, jnp.bfloat16), jnp.uint32(0)) for size in (4095, 4096)]
    assert kept[0].dtype == jnp.float32 and isinstance(kept[1], Blocks)


def test_arrays_of_no_numbers_and_axes_of_one_are_kept_as_they_are():
    for shape in ((0,), (64, 0)):
        assert encoded(Int8(least=0), jnp.zeros(shape), jnp.uint32(0)).shape == shape
    for least, shape in ((1, (5, 1)), (1, (1, 1)), (0, (5, 0))):
        kept = encoded(Factored(least=least), jnp.ones(shape), jnp.uint32(0), non_negative=True)
        np.testing.assert_array_equal(decoded(kept), jnp.ones(shape))
    assert isinstance(encoded(Int8(least=0), jnp.ones(1), jnp.uint32(0)), Blocks)
    assert isinstance(encoded(Factored(least=0), jnp.ones((2, 2)), jnp.uint32(0), non_negative=True), Factors)


@pytest.mark.parametrize("shape", [(5,), (4, 31), (2, 3, 65)])
@pytest.mark.parametrize("codec", [INT8, Int8(block=7, least=1), Residual(), Factored(least=2)], ids=str)
def test_an_array_is_kept_like_another(codec, shape):
    x = jnp.asarray(np.random.default_rng(0).gamma(1.0, size=shape), jnp.float32)
    kept = encoded(codec, x, jnp.uint32(1), non_negative=True)
    like = encoded(codec, 3 * x[..., ::-1], jnp.uint32(0), non_negative=True)
    chex.assert_trees_all_equal(encoded_like(x, like, jnp.uint32(1)), kept)


def test_codes_are_right_on_average():
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, 64), jnp.float32)
    many = jax.random.bits(jax.random.key(1), (4096,), jnp.uint32)
    codes = jax.vmap(lambda seed: to_blocks(x, seed, non_negative=False, block=64).codes)(many).astype(np.float64)
    wanted = np.sign(x) * codes_of(x, 1)
    assert np.abs(codes.mean(axis=0) - wanted).max() < 4.5 * 0.5 / np.sqrt(4096)
    squares = jax.vmap(lambda seed: to_blocks(x * x, seed, non_negative=True, block=64).codes)(many).astype(np.float64)
    assert np.abs(squares.mean(axis=0) - codes_of(x * x, 2)).max() < 4.5 * 0.5 / np.sqrt(4096)


def test_stochastic_numbers_are_right_on_average():
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, 64), jnp.float32)
    many = jax.random.bits(jax.random.key(1), (4096,), jnp.uint32)
    short = jax.vmap(lambda seed: stochastic_bfloat16(x, seed))(many).astype(np.float64)
    assert np.abs(short.mean(axis=0) - x).max() < 4.5 * 0.5 * 2.0**-7 / np.sqrt(4096)
    whole = jax.vmap(lambda seed: joined(*split(x, seed, 8)))(many).astype(np.float64)
    assert np.abs(whole.mean(axis=0) - x).max() < 4.5 * 0.5 * 2.0**-15 / np.sqrt(4096)


def test_offsets_are_uniform_and_independent_from_draw_to_draw():
    many = jax.random.bits(jax.random.key(1), (4096,), jnp.uint32)
    drawn = np.asarray(jax.vmap(lambda seed: offsets(seed, (3, 4), 15))(many)).reshape(4096, 12) / 2**15
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 4.5 / np.sqrt(12 * 4096)
    assert np.abs(((drawn[1:] - 0.5) * (drawn[:-1] - 0.5)).mean(axis=0)).max() < 4.5 / 12 / np.sqrt(4095)
    assert drawn.min() >= 0 and drawn.max() < 1 and len(np.unique(drawn[0])) == 12


@pytest.mark.parametrize(
    ("codec", "reached"),
    [(Float32(), 0.982), (BFloat16(), 0.25), (BFloat16(stochastic=True), 0.982), (Residual(), 0.982), (INT8, 0.982)],
    ids=str,
)
def test_an_average_of_ones_moves_unless_it_is_rounded_to_the_nearest(codec, reached):
    def step(carry, seed):
        nu = 0.999 * decoded(carry) + 0.001
        return encoded(codec, nu, seed, non_negative=True), None

    many = jax.random.bits(jax.random.key(0), (4000,), jnp.uint32)
    start = encoded(codec, jnp.zeros(256, jnp.float32), jnp.uint32(0), non_negative=True)
    end, _ = jax.jit(lambda start: jax.lax.scan(step, start, many))(start)
    assert np.mean(decoded(end)) == pytest.approx(reached, abs=0.02)


def test_an_average_that_fades_does_so_in_eight_bits():
    def step(carry, seed):
        return encoded(INT8, 0.999 * decoded(carry), seed, non_negative=True), None

    many = jax.random.bits(jax.random.key(0), (2000,), jnp.uint32)
    start = encoded(INT8, jnp.ones(256, jnp.float32), jnp.uint32(0), non_negative=True)
    end, _ = jax.jit(lambda start: jax.lax.scan(step, start, many))(start)
    assert np.mean(decoded(end)) == pytest.approx(np.exp(-2), rel=0.05)


def test_factors_are_the_means_and_their_average_is_the_average_of_factors():
    first, second = np.random.default_rng(0).gamma(1.0, size=(2, 3, 8, 5)).astype(np.float32)
    codec = Factored(least=2)
    kept = [encoded(codec, jnp.asarray(x), jnp.uint32(0), non_negative=True) for x in (first, second)]
    assert isinstance(kept[0], Factors) and kept[0].rows.shape == (3, 1, 5) and kept[0].columns.shape == (3, 8, 1)
    product = kept[0].rows * kept[0].columns / kept[0].rows.mean(axis=2, keepdims=True)
    np.testing.assert_allclose(decoded(kept[0]), product, rtol=1e-6)
    mixed = encoded(codec, 0.9 * decoded(kept[0]) + 0.1 * jnp.asarray(second), jnp.uint32(0), non_negative=True)
    for got, a, b in zip(mixed, *kept, strict=True):
        np.testing.assert_allclose(got, 0.9 * a + 0.1 * b, rtol=1e-5)
    assert np.all(round_trip(codec, np.zeros((4, 5), np.float32), non_negative=True) == 0)


def test_factors_have_a_derivative():
    x, along = np.random.default_rng(0).gamma(1.0, size=(2, 4, 3)).astype(np.float32)
    kept = lambda x: decoded(encoded(Factored(least=2), x, jnp.uint32(0), non_negative=True))
    _, slope = jax.jvp(kept, (jnp.asarray(x),), (jnp.asarray(along),))
    difference = (kept(jnp.asarray(x + 0.01 * along)) - kept(jnp.asarray(x - 0.01 * along))) / 0.02
    np.testing.assert_allclose(slope, difference, rtol=1e-3)


def test_the_product_of_small_factors_is_no_zero_and_that_of_no_numbers_no_number():
    codec = Factored(least=2)
    x = np.full((3, 3), 1e-30, np.float32)
    x[0, 0], x[2] = 1.0, 0.0
    got = round_trip(codec, x, non_negative=True)
    assert np.all(got[:2] >= TINY) and np.all(got[2] == 0)
    x[1, 1] = np.nan
    assert np.isnan(round_trip(codec, x, non_negative=True)[1]).all()


@pytest.mark.parametrize("name", CODECS)
def test_complex_arrays_are_kept_in_two_parts(name):
    codec = INT8 if name == "int8" else CODECS[name]
    x = np.array([3 + 4j, -1 - 2j, 0.5j], np.complex64)
    got = decoded(encoded(codec, jnp.asarray(x), jnp.uint32(0)))
    assert got.dtype == jnp.complex64
    np.testing.assert_allclose(got, x, atol=0.15)
