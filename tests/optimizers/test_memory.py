"""SM3, MADGRAD, CAME and Adam-mini: the papers' oracles, Optax, and how large their states are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from gradlab.core.tree import path_name
from gradlab.core.update import apply_updates
from gradlab.optimizers.adagrad import adagrad
from gradlab.optimizers.adam import adam
from gradlab.optimizers.adam_mini import adam_mini, adam_mini_blocks, scale_by_adam_mini
from gradlab.optimizers.came import came
from gradlab.optimizers.madgrad import madgrad, scale_by_madgrad
from gradlab.optimizers.sm3 import scale_by_sm3, sm3
from gradlab.transforms.select import by_path
from tests.oracles import memory_family as oracle
from tests.trajectories import flat, run

LR = 0.05
STEPS = 50
SHAPES = {
    "attn": {"key": {"kernel": (4, 2, 3)}, "out": {"kernel": (2, 3, 4)}, "value": {"kernel": (4, 2, 3)}},
    "conv": {"bias": (5,), "kernel": (2, 2, 3, 5)},
    "embed": (7, 3),
    "scale": (),
}


def tree(seed, *rows, dtype=np.float64, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    magnitude = lambda shape: 10 ** rng.uniform(-2, 1, shape) if rows else 1.0
    draw = lambda s: jnp.asarray(rng.normal(size=(*rows, *s)) * magnitude((*rows, *s)), dtype)
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


PARAMS, GRADS = tree(0), tree(1, STEPS)


def falling(count):
    return 0.1 / (1 + count)


def by_oracle(function, *others, **options):
    """The oracle on every leaf; ``others`` map the path of a leaf to what the oracle wants to know of it."""
    paths = [
        function(np.asarray(p), np.asarray(g), *(other(path_name(path)) for other in others), **options)
        for (path, p), g in zip(jax.tree_util.tree_leaves_with_path(PARAMS), jax.tree.leaves(GRADS), strict=True)
    ]
    return flat(paths, rows=STEPS)


def close(one, other):
    chex.assert_trees_all_close(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("mode", [{}, {"momentum": 0.0, "b2": 0.9}, {"momentum": 0.5, "b2": 0.99, "eps": 0.1}], ids=str)
def test_sm3_is_its_oracle(mode):
    close(run(sm3(LR, **mode), PARAMS, GRADS)[0], by_oracle(oracle.sm3, lr=LR, **mode))


@pytest.mark.parametrize("mode", [{}, {"b1": 0.5, "b2": 0.9, "eps": 0.1}], ids=str)
def test_sm3_is_optaxs_where_optaxs_works(mode):
    no_scalar = lambda tree: {name: leaf for name, leaf in tree.items() if name != "scale"}
    params, grads = no_scalar(PARAMS), no_scalar(GRADS)
    close(run(scale_by_sm3(**mode), params, grads), run(optax.scale_by_sm3(**mode), params, grads))
    ours, theirs = run(sm3(LR), params, grads), run(optax.sm3(LR), params, grads)
    close(ours, theirs)
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    with pytest.raises(IndexError):
        optax.sm3(LR).update(PARAMS, optax.sm3(LR).init(PARAMS), PARAMS)


def test_sm3_is_adagrad_on_vectors_and_never_faster_on_matrices():
    vectors = {"conv": {"bias": PARAMS["conv"]["bias"]}, "scale": PARAMS["scale"]}
    of_vectors = {"conv": {"bias": GRADS["conv"]["bias"]}, "scale": GRADS["scale"]}
    summed = adagrad(LR, initial_accumulator_value=0.0, eps=1e-8)
    close(run(sm3(LR, 0.0), vectors, of_vectors)[0], run(summed, vectors, of_vectors)[0])
    ours, _ = scale_by_sm3(0.0).update(PARAMS, run(scale_by_sm3(0.0), PARAMS, GRADS)[1])
    adagrads, _ = optax.scale_by_rss(0.0, 1e-8).update(PARAMS, run(optax.scale_by_rss(0.0, 1e-8), PARAMS, GRADS)[1])
    assert np.all(np.abs(flat(ours)) <= np.abs(flat(adagrads)) * (1 + 1e-12))


MADGRAD_MODES = [
    {"learning_rate": LR},
    {"learning_rate": falling, "momentum": 0.5, "eps": 1e-3},
    {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.1},
]


def with_wide_count(tx):
    """Optax takes the root of the count in float32; in float64 once the count is an int64."""

    def init(params):
        return jax.tree.map(lambda x: x.astype("int64") if x.dtype == "int32" else x, tx.init(params))

    return tx._replace(init=init)


@pytest.mark.parametrize("mode", MADGRAD_MODES, ids=range(3))
def test_madgrad_is_its_oracle_and_optaxs(mode):
    ours = run(madgrad(**mode), PARAMS, GRADS)
    theirs = optax.contrib.madgrad(**mode)
    close(ours, run(with_wide_count(theirs), PARAMS, GRADS))
    np.testing.assert_allclose(ours[0], run(theirs, PARAMS, GRADS)[0], atol=1e-6)
    options = dict(mode)
    close(ours[0], by_oracle(oracle.madgrad, lr=options.pop("learning_rate"), **options))


def test_a_state_of_madgrad_owns_its_starting_point():
    """A donated step may then overwrite the parameters; Optax's ``x0`` is the parameters' own memory."""
    params = {"w": jnp.ones(4), "b": jnp.zeros(2)}
    state = scale_by_madgrad(LR).init(params)
    own = lambda x: x.unsafe_buffer_pointer()
    assert own(state.x0["w"]) != own(params["w"])
    assert own(optax.contrib.scale_by_madgrad(LR).init(params).x0["w"]) == own(params["w"])
    step = jax.jit(lambda p, s: scale_by_madgrad(LR).update(p, s, p), donate_argnums=(0, 1))
    chex.assert_tree_all_finite(step(params, state))


def test_schedules_of_madgrad_may_stand_anywhere():
    constant = madgrad(LR, momentum=0.5)
    scheduled = madgrad(dict.fromkeys(SHAPES, lambda count: LR), momentum=lambda count: 0.5 + 0.0 * count)
    close(run(scheduled, PARAMS, GRADS)[0], run(constant, PARAMS, GRADS)[0])


AXES = {
    "attn/key/kernel": (0, 2),
    "attn/out/kernel": (2, 1),
    "attn/value/kernel": (0, 2),
    "conv/kernel": (3, 2),
    "embed": (0, 1),
}


@pytest.mark.parametrize(
    "mode", [{}, {"b1": 0.5, "b2": 0.9, "b3": 0.8, "eps": 0.01, "eps_residual": 0.1, "clip": 0.3, "wd": 0.1}]
)
def test_came_is_its_oracle(mode):
    names = {"clip": "clipping_threshold", "wd": "weight_decay"}
    tx = came(LR, **{names.get(name, name): value for name, value in mode.items()})
    close(run(tx, PARAMS, GRADS)[0], by_oracle(oracle.came, AXES.get, lr=LR, **mode))


def test_came_without_factors_is_its_oracle():
    tx = came(LR, min_dim_size_to_factor=100)
    close(run(tx, PARAMS, GRADS)[0], by_oracle(oracle.came, lambda path: None, lr=LR))


def blocks_of(path):
    """The block of every weight, numbered by hand from the paper: heads, outputs, tokens, or the whole leaf."""
    shape = dict((path_name(key), leaf.shape) for key, leaf in jax.tree_util.tree_leaves_with_path(PARAMS))[path]
    kept = {
        "attn/key/kernel": (1,),
        "attn/out/kernel": (2,),
        "attn/value/kernel": (1, 2),
        "conv/kernel": (3,),
        "embed": (0,),
    }
    blocks = np.zeros(shape, int)
    for index in np.ndindex(shape):
        for axis in kept.get(path, ()):
            blocks[index] = blocks[index] * shape[axis] + index[axis]
    return blocks


@pytest.mark.parametrize("mode", [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-3, "eps_root": 0.1, "wd": 0.1}], ids=str)
def test_adam_mini_is_its_oracle_on_the_blocks_of_the_paper(mode):
    tx = adam_mini(LR, **{{"wd": "weight_decay"}.get(name, name): value for name, value in mode.items()})
    close(run(tx, PARAMS, GRADS)[0], by_oracle(oracle.adam_mini, blocks_of, lr=LR, **mode))


def test_adam_mini_over_no_axis_is_adam():
    close(run(adam_mini(LR, weight_decay=None, block_axes="none"), PARAMS, GRADS), run(adam(LR), PARAMS, GRADS))


SAME_BLOCKS = [
    by_path(("key", (0, 2)), ("value", (0,)), ("embed", "all_but_first"), ("bias|scale", "all"), (".", "all_but_last")),
    {
        "attn": {"key": (0, -1), "out": (0, 1), "value": 0},
        "conv": {"bias": "all", "kernel": (0, 1, 2)},
        "embed": 1,
        "scale": (),
    },
    lambda params: adam_mini_blocks(params),
]


@pytest.mark.parametrize("block_axes", SAME_BLOCKS, ids=["by_path", "tree", "function"])
def test_blocks_are_named_by_pattern_by_tree_and_by_function(block_axes):
    expected = adam_mini(LR).init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(adam_mini(LR, block_axes=block_axes).init(PARAMS), expected)


def test_one_choice_serves_all_leaves():
    state = scale_by_adam_mini(block_axes="all").init(PARAMS)
    assert all(nu.size == 1 for nu in jax.tree.leaves(state.nu))
    chex.assert_trees_all_equal_shapes(state.mu, PARAMS)


@pytest.mark.parametrize(
    ("block_axes", "message"),
    [
        ((0, 2), "conv/bias.*shape \\(5,\\).*1 axes"),
        ("everything", "unknown block_axes 'everything'"),
        ({"attn": "all"}, "`block_axes` must be axes, a tree"),
        (by_path(("conv", "all"), (".", 3)), "embed"),
    ],
)
def test_axes_that_a_leaf_does_not_have_are_refused_by_path(block_axes, message):
    with pytest.raises(ValueError, match=message):
        adam_mini(LR, block_axes=block_axes).init({"conv": PARAMS["conv"], "embed": PARAMS["embed"]})


def bytes_a_parameter(tx, params):
    count = sum(p.size for p in jax.tree.leaves(params))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(params)) if leaf.ndim) / count


def test_states_are_as_small_as_promised():
    layer = {"kernel": jnp.ones((64, 256), jnp.float32), "bias": jnp.ones(256, jnp.float32)}
    count = 65 * 256
    assert bytes_a_parameter(adam(LR), layer) == 8
    assert bytes_a_parameter(adam_mini(LR), layer) == 4 + 4 * (256 + 1) / count
    assert bytes_a_parameter(sm3(LR), layer) == 4 + 4 * (64 + 256 + 256) / count
    rows_and_columns = 2 * (64 + 256) + 1  # and one unused number
    assert bytes_a_parameter(came(LR), layer) == 4 + 4 * (rows_and_columns + 256 + 4) / count


@pytest.mark.parametrize("make", [sm3, madgrad, came, adam_mini], ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_other_dtypes_move_as_the_wide_ones_do(make, dtype):
    small = {"kernel": (4, 3), "bias": (3,)}
    params, grads = tree(0, dtype=dtype, shapes=small), tree(1, dtype=dtype, shapes=small)
    wide = jnp.complex128 if dtype == jnp.complex64 else jnp.float64
    tx, as_wide = make(LR), lambda tree: jax.tree.map(lambda x: x.astype(wide), tree)
    updates, _ = tx.update(grads, tx.init(params), params)
    expected, _ = tx.update(as_wide(grads), tx.init(as_wide(params)), as_wide(params))
    chex.assert_trees_all_close(as_wide(updates), expected, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("make", [sm3, madgrad, came], ids=lambda make: make.__name__)
def test_a_leaf_without_gradient_has_finite_derivatives_in_float32(make):
    params = {"dead": jnp.zeros((3, 4), jnp.float32), "live": jnp.ones(2, jnp.float32)}

    def final(learning_rate):
        tx, p = make(learning_rate), params
        state = tx.init(p)
        for _ in range(2):
            updates, state = tx.update({"dead": 0 * p["dead"], "live": p["live"]}, state, p)
            p = apply_updates(p, updates)
        return jnp.sum(p["dead"]) + jnp.sum(p["live"])

    slope = jax.jit(jax.grad(final))(jnp.float32(0.1))
    assert np.isfinite(slope) and slope != 0
