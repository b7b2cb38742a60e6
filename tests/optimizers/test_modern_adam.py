"""Descendants of Adam against the NumPy oracles, and the laws that single them out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.optimizers.adam import adam, adamw
from gradlab.optimizers.adamc import adamc
from gradlab.optimizers.adamw_atan2 import adamw_atan2, scale_by_adam_atan2
from gradlab.optimizers.ademamix import ademamix
from gradlab.optimizers.adopt import adopt
from gradlab.optimizers.grams import grams
from gradlab.optimizers.laprop import laprop
from gradlab.optimizers.mars import mars_adamw, scale_by_mars_adam
from gradlab.optimizers.nadam import nadam, nadamw
from gradlab.optimizers.sign import lion, signum
from gradlab.optimizers.simplified_ademamix import simplified_ademamix
from gradlab.optimizers.stable_adamw import stable_adamw
from gradlab.optimizers.tiger import tiger
from gradlab.schedules import ademamix_alpha_schedule, ademamix_b3_schedule
from tests.oracles import modern_adam as oracle
from tests.trajectories import STEPS, mixed_grads, mixed_tree, run

LR = 0.01
DECAYS = ["decoupled", "coupled", "independent"]


def falling(count):
    return 0.1 / (1 + count)


def falling_from_1(t):
    return falling(t - 1)


def agree(tx, rule, *args, **hyper):
    """``tx`` moves every leaf of the mixed tree as the oracle does; a dict of hyperparameters differs by rank."""
    params, grads = mixed_tree(), mixed_grads()
    positions, _ = run(tx, params, grads)
    expected = [
        rule(
            np.asarray(p),
            np.asarray(g),
            *args,
            **{k: v[p.ndim] if isinstance(v, dict) else v for k, v in hyper.items()},
        )
        for p, g in zip(jax.tree.leaves(params), jax.tree.leaves(grads), strict=True)
    ]
    expected = np.concatenate([rows.reshape(STEPS, -1) for rows in expected], axis=1)
    chex.assert_trees_all_close(positions, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "mode", [{}, {"b1": 0.5, "b2": 0.9, "b3": 0.99, "alpha": 2.0, "eps": 0.1, "eps_root": 1e-2}], ids=str
)
def test_ademamix_is_the_papers(mode):
    agree(ademamix(LR, **mode), oracle.ademamix, LR, **mode)


@pytest.mark.parametrize("decay", DECAYS)
def test_ademamix_decays_in_three_ways(decay):
    agree(ademamix(LR, weight_decay=0.1, decay=decay), oracle.ademamix, LR, weight_decay=0.1, decay=decay)


def test_simplified_ademamix_decays_as_it_is_told():
    mode = {"weight_decay": 0.1, "decay": "coupled"}
    agree(simplified_ademamix(LR, **mode), oracle.simplified_ademamix, LR, **mode)


def test_ademamix_follows_the_papers_schedules_from_its_step_1():
    T = 30
    agree(
        ademamix(falling, alpha=ademamix_alpha_schedule(8.0, T), b3=ademamix_b3_schedule(0.9, 0.999, T)),
        oracle.ademamix,
        falling_from_1,
        alpha=lambda t: oracle.ademamix_alpha(t, 8.0, T),
        b3=lambda t: oracle.ademamix_b3(t, 0.9, 0.999, T),
    )


@pytest.mark.parametrize("b3", [0.99, 0.9999])
def test_the_schedule_of_b3_is_a_line_in_the_half_life(b3):
    T, counts = 100, np.arange(200)
    values = np.asarray(jax.vmap(ademamix_b3_schedule(0.9, b3, T))(counts))
    np.testing.assert_allclose(values, [oracle.ademamix_b3(t + 1, 0.9, b3, T) for t in counts], rtol=1e-12)
    np.testing.assert_allclose(values, [oracle.ademamix_b3_closed_form(t + 1, 0.9, b3, T) for t in counts], rtol=1e-12)
    halves = np.log(0.5) / np.log(values[: T - 1])
    np.testing.assert_allclose(np.diff(halves), np.diff(halves)[0], rtol=1e-7)


def test_a_schedule_counted_from_zero_lags_by_one_step():
    for make, values in ((ademamix_alpha_schedule, (8.0, 10.0)), (ademamix_b3_schedule, (0.9, 0.999, 10.0))):
        paper, optaxs = make(*values), make(*values, first=0.0)
        counts = np.arange(15)
        chex.assert_trees_all_close(jax.vmap(optaxs)(counts + 1), jax.vmap(paper)(counts), rtol=1e-14)
    assert ademamix_alpha_schedule(8.0, 10.0, first=0.0)(0) == 0.0
    np.testing.assert_allclose(ademamix_b3_schedule(0.9, 0.999, 10.0, first=0.0)(0), 0.9, rtol=1e-14)


def test_the_numbers_of_the_schedules_are_swept_and_differentiated():
    lanes = gradlab.population(
        lambda steps: ademamix(
            LR, alpha=ademamix_alpha_schedule(8.0, steps), b3=ademamix_b3_schedule(0.9, 0.999, steps)
        ),
        steps=np.array([5.0, 40.0]),
    )
    params, rows = jnp.ones(2), jnp.linspace(1.0, 2.0, 8)[:, None] * jnp.ones(2)
    both = jax.vmap(lambda tx: gradlab_run(tx, params, rows))(lanes)
    alone = ademamix(LR, alpha=ademamix_alpha_schedule(8.0, 40.0), b3=ademamix_b3_schedule(0.9, 0.999, 40.0))
    chex.assert_trees_all_close(both[1], gradlab_run(alone, params, rows), rtol=1e-12)
    assert np.all(both[0] != both[1])
    last = lambda steps: ademamix_b3_schedule(0.9, 0.999, steps)(4)
    np.testing.assert_allclose(jax.grad(last)(20.0), (last(20.001) - last(19.999)) / 0.002, rtol=1e-6)


def gradlab_run(tx, params, rows):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (gradlab.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), rows)[0][0]


def test_ademamix_without_a_slow_average_is_adamw():
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(ademamix(LR, alpha=0.0, weight_decay=0.1), params, grads)
    chex.assert_trees_all_close(ours, run(adamw(LR, weight_decay=0.1), params, grads)[0], rtol=1e-12)


@pytest.mark.parametrize("mode", [{}, {"b1": 0.9, "b2": 0.999, "alpha": 3.0, "eps": 0.1, "eps_root": 1e-2}], ids=str)
def test_simplified_ademamix_is_the_papers(mode):
    agree(simplified_ademamix(LR, **mode), oracle.simplified_ademamix, LR, **mode)


def test_simplified_ademamix_takes_a_schedule_of_alpha():
    alpha = gradlab.linear_schedule(4.0, 0.0, 20)
    agree(
        simplified_ademamix(falling, alpha=alpha),
        oracle.simplified_ademamix,
        falling_from_1,
        alpha=lambda t: max(4.0 * (1 - (t - 1) / 20), 0.0),
    )


ADOPT_MODES = [
    {},
    {"b1": 0.5, "b2": 0.9, "eps": 0.1},
    {"b2": 0.99, "nesterov": True},
    {"b2": 0.99, "clip": None},
    {"b2": 0.99, "clip": lambda t: 0.5},
]


@pytest.mark.parametrize("mode", ADOPT_MODES, ids=lambda mode: "-".join(mode) or "defaults")
def test_adopt_is_the_papers(mode):
    ours = dict(mode)
    if "clip" in ours:
        clip = ours.pop("clip")
        ours |= {"use_clipping": False} if clip is None else {"clip_value_fn": clip(0)}
    agree(adopt(LR, **ours), oracle.adopt, LR, **mode)


@pytest.mark.parametrize("decay", DECAYS)
def test_adopt_decays_in_three_ways_on_its_empty_call_too(decay):
    agree(adopt(LR, weight_decay=0.1, decay=decay), oracle.adopt, LR, weight_decay=0.1, decay=decay)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("use_clipping", [False, True])
def test_the_first_call_of_adopt_only_measures(use_clipping, nesterov):
    params, g = jnp.ones(2), jnp.array([3.0, -1e200])
    tx = adopt(LR, eps=0.0, use_clipping=use_clipping, nesterov=nesterov)
    updates, state = tx.update(g, tx.init(params), params)
    assert not np.any(updates) and not np.any(state[0].mu)
    chex.assert_trees_all_close(state[0].nu, g**2)
    slopes = jax.grad(lambda g: jnp.sum(tx.update(g, tx.init(params), params)[0]))(g)
    chex.assert_trees_all_equal(slopes, jnp.zeros(2))


def test_complex_adopt_clips_the_magnitude():
    tx = adopt(1.0, b1=0.0)
    params = jnp.zeros(1, jnp.complex128)
    _, state = tx.update(jnp.array([5j]), tx.init(params), params)
    updates, _ = tx.update(jnp.array([300 + 400j]), state, params)
    np.testing.assert_allclose(updates, [-0.6 - 0.8j], rtol=1e-14)


@pytest.mark.parametrize("decay", [*DECAYS, "after"])
def test_laprop_decays_in_four_ways(decay):
    agree(laprop(LR, weight_decay=0.1, decay=decay), oracle.laprop, LR, weight_decay=0.1, decay=decay)


@pytest.mark.parametrize("mode", [{}, {"b1": 0.99, "b2": 0.5}, {"b1": 0.0, "eps": 0.1}], ids=str)
def test_laprop_is_the_papers(mode):
    agree(laprop(LR, **mode), oracle.laprop, LR, **mode)


def rises_and_falls(count):
    return 0.01 * count * (40 - count) / 400 * (count < 40)


@pytest.mark.parametrize("decay", ["decoupled", "after"])
def test_laprop_averages_under_the_rates_of_their_time_and_rests_at_rate_zero(decay):
    rate = lambda t: rises_and_falls(t - 1)
    agree(laprop(rises_and_falls, weight_decay=0.1, decay=decay), oracle.laprop, rate, weight_decay=0.1, decay=decay)
    positions, _ = run(laprop(rises_and_falls), mixed_tree(), mixed_grads())
    chex.assert_trees_all_equal(positions[39:], np.broadcast_to(positions[39], positions[39:].shape))


def test_laprop_reads_a_rate_for_each_group_and_decays_where_it_should():
    tx = laprop({"dense": 0.01, "layers": 0.02}, weight_decay=0.1, mask={"dense": True, "layers": False})
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(tx, params, grads)
    parts = [
        run(laprop(0.01, weight_decay=0.1), params["dense"], grads["dense"])[0],
        run(laprop(0.02), params["layers"], grads["layers"])[0],
    ]
    chex.assert_trees_all_close(ours, np.hstack(parts), rtol=1e-12, atol=1e-15)


def test_no_step_of_laprop_is_longer_than_its_bound():
    b2, rest = 0.5, 30
    rows = jnp.concatenate([jnp.full(rest, 1e-9), 10.0 ** jnp.arange(20.0)])[:, None]
    positions, _ = run(laprop(LR, b1=0.99, b2=b2), jnp.zeros(1), rows)
    steps = np.abs(np.diff(positions[:, 0], prepend=0.0))
    assert np.max(steps) <= LR / np.sqrt(1 - b2)
    assert np.max(np.abs(np.diff(run(adam(LR, b1=0.99, b2=b2), jnp.zeros(1), rows[::-1])[0][:, 0]))) > 10 * LR


@pytest.mark.parametrize("mode", [{}, {"b1": 0.5, "b2": 0.9, "eps": 0.1}, {"b2": 0.5}], ids=str)
def test_stable_adamw_is_the_papers(mode):
    agree(
        stable_adamw(falling, weight_decay=0.1, **mode), oracle.stable_adamw, falling_from_1, weight_decay=0.1, **mode
    )


def test_stable_adamw_decays_where_it_should():
    tx = stable_adamw(LR, weight_decay=0.1, mask="kernel")
    agree(tx, oracle.stable_adamw, LR, weight_decay={2: 0.1, 1: 0.0, 0: 0.0})


@pytest.mark.parametrize(
    "mode", [{}, {"b1": 0.5, "b2": 0.9, "a": 1.27, "b": 3.0}, {"decay": "coupled"}, {"decay": "independent"}], ids=str
)
def test_adamw_atan2_is_the_papers(mode):
    mode = {"weight_decay": 0.1} | mode
    agree(adamw_atan2(LR, **mode), oracle.adamw_atan2, LR, **mode)


def test_adamw_atan2_is_adam_scaled_where_the_quotient_is_small_and_bounded_where_it_is_large():
    b1, b2, rest = 0.9, 0.999, 2000
    signs = jnp.where(jnp.arange(rest) % 2 == 0, 1.0, -1.0)[:, None]  # a small average of gradients
    small, _ = run(adamw_atan2(LR, a=1.0, b=1e3, weight_decay=0.0), jnp.zeros(1), signs)
    plain, _ = run(adam(LR, eps=0.0), jnp.zeros(1), signs)
    np.testing.assert_allclose(small, plain / 1e3, rtol=1e-6)
    jump = jnp.concatenate([jnp.zeros(rest), jnp.ones(1)])[:, None]
    (longest, *_), _ = run(adamw_atan2(LR, weight_decay=0.0), jnp.zeros(1), jump)[0][-1:], None
    quotient = (1 - b1) / np.sqrt((1 - b2) / (1 - b2 ** (rest + 1)))
    np.testing.assert_allclose(longest, -LR * 4 / np.pi * np.arctan(quotient), rtol=1e-9)


def test_a_gradient_whose_square_overflows_moves_nothing_as_with_adam():
    params = jnp.ones(2, jnp.float32)
    for tx in (gradlab.adam(0.1), gradlab.adamw_atan2(0.1, weight_decay=0.0)):
        updates, _ = tx.update(jnp.array([1e30, 1.0], jnp.float32), tx.init(params), params)
        assert updates[0] == 0 and updates[1] < 0


def test_the_derivatives_of_adamw_atan2_are_finite_at_the_origin():
    tx, at = scale_by_adam_atan2(), jnp.array([0.0, 1e-30, 1e-22, 1.0], jnp.float32)
    direction = lambda g: tx.update(g, tx.init(at))[0]
    tangents = jax.jvp(direction, (at,), (jnp.ones_like(at),))
    (slopes,) = jax.vjp(direction, at)[1](jnp.ones_like(at))
    chex.assert_tree_all_finite((tangents, slopes))
    assert direction(at)[0] == 0.0 and slopes[0] == 0.0
    through_b1 = lambda b1: jnp.sum(scale_by_adam_atan2(b1).update(at, tx.init(at))[0])
    assert np.isfinite(jax.grad(through_b1)(0.9))


def test_complex_adamw_atan2_turns_with_its_gradient():
    turn = np.exp(1j)
    for g in (3.0, 1e-6):
        tx = scale_by_adam_atan2()
        updates, _ = tx.update(jnp.array([turn * g]), tx.init(jnp.zeros(1, jnp.complex128)))
        np.testing.assert_allclose(updates, [turn], rtol=1e-12)


def warmed_up(count):
    return 0.01 * jnp.minimum(0.1 * (count + 1), 0.025 * (50 - count))


def warmed_up_from_1(t):
    return 0.01 * min(t / 10, (51 - t) / 40)


def seen_peak(t):
    return max(warmed_up_from_1(s) for s in range(1, t + 1))


@pytest.mark.parametrize("given, peak", [({"max_learning_rate": 0.02}, 0.02), ({}, seen_peak)], ids=["given", "seen"])
def test_adamc_decays_normalised_layers_by_the_square_of_the_rate(given, peak):
    tx = adamc(warmed_up, weight_decay=0.5, normalized=["kernel", "bias"], **given)
    params, grads = mixed_tree(), mixed_grads()
    positions, _ = run(tx, params, grads)
    expected = []
    for (path, p), g in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(grads), strict=True):
        rows = oracle.adamc(
            np.asarray(p), np.asarray(g), warmed_up_from_1, peak, "dense" in str(path), weight_decay=0.5
        )
        expected.append(rows.reshape(STEPS, -1))
    chex.assert_trees_all_close(positions, np.hstack(expected), rtol=1e-11)


def test_adamc_at_a_constant_rate_is_adamw_and_so_are_layers_that_are_not_normalised():
    params, grads = mixed_tree(), mixed_grads()
    plain, _ = run(adamw(LR, weight_decay=0.5, mask="bias"), params, grads)
    chex.assert_trees_all_close(run(adamc(LR, weight_decay=0.5, mask="bias"), params, grads)[0], plain, rtol=1e-12)
    falls, _ = run(adamw(falling, weight_decay=0.5), params, grads)
    nowhere, _ = run(adamc(falling, weight_decay=0.5, normalized=lambda params: False), params, grads)
    chex.assert_trees_all_close(nowhere, falls, rtol=1e-12)


def test_adamc_keeps_the_length_of_scale_invariant_weights_whose_rate_falls():
    """The papers' point: for weights that a normalisation follows, p settles at |p|^2 = rate * |u|^2 / (2 * decay)."""
    steps, decay = 4000, 0.5
    rate = gradlab.linear_schedule(0.02, 0.001, steps)

    def length(tx):
        def step(carry, key):
            params, state = carry
            noise = jax.random.normal(key, params.shape)
            g = noise - params * jnp.vdot(params, noise) / jnp.vdot(params, params)
            updates, state = tx.update(g / jnp.linalg.norm(params), state, params)
            params = gradlab.apply_updates(params, updates)
            return (params, state), jnp.linalg.norm(params)

        start = jnp.ones(200) / 10
        _, lengths = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(jax.random.key(0), steps))
        return lengths[1000], lengths[-1]

    corrected = length(adamc(rate, weight_decay=decay))
    plain = length(adamw(rate, weight_decay=decay))
    assert 0.9 < corrected[1] / corrected[0] < 1.1
    assert plain[1] / plain[0] < 0.7


MARS_MODES = [
    {},
    {"before_first": "zero"},
    {"gamma": 0.5, "b1": 0.9, "b2": 0.95, "max_norm": 0.1, "eps": 0.1},
    {"b1_plain": 0.5, "b2_plain": 0.8, "max_norm": np.inf},
]


@pytest.mark.parametrize("mode", MARS_MODES, ids=str)
def test_mars_adamw_is_the_papers_for_matrices_and_adamw_elsewhere(mode):
    ours = {name: None if name == "max_norm" and value == np.inf else value for name, value in mode.items()}
    agree(mars_adamw(LR, **ours), oracle.mars_adamw, LR, corrected={2: True, 1: False, 0: False}, **mode)


def test_mars_adamw_corrects_what_it_is_told_to():
    tx = mars_adamw(LR, corrected=["bias", "layers"], weight_decay=0.0)
    agree(tx, oracle.mars_adamw, LR, corrected={2: False, 1: True, 0: True}, weight_decay=0.0)
    state = tx.init(mixed_tree())[0]
    assert [leaf.shape for leaf in jax.tree.leaves(state.previous)] == [(4,), (), (4,), ()]


@pytest.mark.parametrize("before_first", ["first", "zero"])
def test_the_stage_alone_before_adam_is_mars_adamw(before_first):
    params, grads = mixed_tree(), mixed_grads()
    mode = {"max_norm": 0.3, "before_first": before_first}
    whole, _ = run(scale_by_mars_adam(corrected=None, **mode), params, grads)
    stages, _ = run(
        gradlab.chain(gradlab.mars_correction(0.025, 0.95, **mode), gradlab.scale_by_adam(0.95, 0.99)), params, grads
    )
    chex.assert_trees_all_close(stages, whole, rtol=1e-11, atol=1e-13)


def test_a_correction_of_strength_zero_only_clips():
    grads = mixed_grads()
    corrected, _ = run(gradlab.mars_correction(0.0, 0.9, None), mixed_tree(), grads)
    chex.assert_trees_all_close(corrected, run(gradlab.identity(), mixed_tree(), grads)[0], rtol=1e-13)


GRAMS_MODES = [
    {},
    {"eps": 1e-2, "eps_root": 1e-3, "decay": "independent"},
    {"eps": 1e-2, "eps_on": "nu"},
    {"decay": "coupled"},
]


@pytest.mark.parametrize("mode", GRAMS_MODES, ids=str)
def test_grams_is_the_papers_and_the_authors(mode):
    mode = {"weight_decay": 0.1} | mode
    agree(grams(LR, **mode), oracle.grams, LR, **mode)


def test_grams_rests_where_the_gradient_is_zero():
    tx = grams(LR)
    _, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), jnp.zeros(2))
    updates, _ = tx.update(jnp.array([0.0, -1e-9]), state, jnp.zeros(2))
    assert updates[0] == 0.0 and updates[1] > 0.5 * LR


@pytest.mark.parametrize("decay", DECAYS)
def test_tiger_is_its_authors(decay):
    agree(tiger(LR, weight_decay=0.1, decay=decay), oracle.tiger, LR, weight_decay=0.1, decay=decay)


def test_tiger_is_lion_with_one_decay():
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(tiger(LR, 0.9, weight_decay=0.1), params, grads)
    chex.assert_trees_all_close(ours, run(lion(LR, 0.9, 0.9, weight_decay=0.1), params, grads)[0], rtol=1e-13)


def test_tiger_without_decay_is_signum():
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(tiger(LR, 0.8, weight_decay=None), params, grads)
    chex.assert_trees_all_close(ours, run(signum(LR, 0.8), params, grads)[0], rtol=1e-13)


@pytest.mark.parametrize("form", ["torch", "algoperf"])
@pytest.mark.parametrize("mode", [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3}], ids=str)
def test_nadam_in_its_other_forms(mode, form):
    agree(nadam(falling, form=form, **mode), oracle.nadam, falling_from_1, form=form, **mode)


@pytest.mark.parametrize("form, decay", [("torch", "decoupled"), ("algoperf", "coupled")])
def test_nadamw_decays_in_its_other_forms(form, decay):
    mode = {"form": form, "weight_decay": 0.1, "decay": decay}
    agree(nadamw(LR, **mode), oracle.nadam, LR, **mode)


def test_the_schedule_of_torchs_form():
    agree(nadam(LR, form="torch", momentum_decay=1.0), oracle.nadam, LR, form="torch", momentum_decay=1.0)
    params, grads = mixed_tree(), mixed_grads()
    settled, _ = run(nadam(LR, form="torch", momentum_decay=1e6), params, grads)
    chex.assert_trees_all_close(settled, run(nadam(LR), params, grads)[0], rtol=1e-11)


@pytest.mark.parametrize("form", ["dozat", "torch", "algoperf"])
def test_nadam_that_does_not_look_ahead_is_adam(form):
    params, grads = mixed_tree(), mixed_grads()
    chex.assert_trees_all_equal(run(nadam(LR, nesterov=False, form=form), params, grads), run(adam(LR), params, grads))


@pytest.mark.parametrize(
    "make",
    [adopt, laprop, stable_adamw, adamw_atan2, mars_adamw, grams, lambda rate, **kw: nadam(rate, form="torch", **kw)],
)
def test_schedules_and_prefix_trees_are_read_by_every_rule(make):
    rows = jnp.linspace(1.0, 2.0, 4)[:, None, None] * jnp.ones((2, 2))
    alone = lambda rate, b1: run(make(rate, b1=b1), jnp.ones((2, 2)), rows)[0]
    params, grads = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}, {"a": rows, "b": rows}
    both, _ = run(make({"a": 0.1, "b": 0.2}, b1={"a": 0.5, "b": 0.9}), params, grads)
    chex.assert_trees_all_close(both, np.hstack([alone(0.1, 0.5), alone(0.2, 0.9)]), rtol=1e-14)
    b1 = lambda count: 0.9 - 0.1 * count
    scheduled, constant = alone(0.1, b1), alone(0.1, 0.9)
    chex.assert_trees_all_close(scheduled[0], constant[0], rtol=1e-14)
    assert np.any(scheduled[1:] != constant[1:])


@pytest.mark.parametrize("make", [laprop, stable_adamw, adamc])
def test_optimizers_whose_rule_decays_ask_for_the_parameters(make):
    tx = make(LR)
    with pytest.raises(ValueError, match=f"{make.__name__} needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


BAD_VALUES = [
    (ademamix, {"b3": 1.0}, "`b3` must be in"),
    (ademamix, {"alpha": -1.0}, "`alpha` must be"),
    (ademamix, {"decay": "l2"}, "unknown decay"),
    (adopt, {"b2": 1.0}, "`b2` must be in"),
    (adopt, {"eps": -1.0}, "`eps` must be"),
    (adopt, {"clip_value_fn": -1.0}, "`clip_value_fn` must be"),
    (laprop, {"b1": 1.0}, "`b1` must be in"),
    (laprop, {"decay": "l2"}, "unknown decay"),
    (laprop, {"weight_decay": -0.1}, "`weight_decay` must be"),
    (stable_adamw, {"eps": -1.0}, "`eps` must be"),
    (adamw_atan2, {"b": 0.0}, "`b` must be > 0"),
    (adamc, {"max_learning_rate": -1.0}, "`max_learning_rate` must be"),
    (adamc, {"normalized": "("}, "no regular expression"),
    (mars_adamw, {"gamma": -1.0}, "`gamma` must be"),
    (mars_adamw, {"b2_plain": 1.0}, "`b2_plain` must be in"),
    (mars_adamw, {"before_first": "g"}, "unknown before_first"),
    (grams, {"eps_on": "v"}, "unknown eps_on"),
    (tiger, {"beta": 1.0}, "`beta` must be in"),
    (nadam, {"form": "keras"}, "unknown form"),
    (nadam, {"momentum_decay": 1e-3}, "`momentum_decay` belongs to form='torch'"),
    (simplified_ademamix, {"b1": 1.0}, "`b1` must be in"),
    (simplified_ademamix, {"weight_decay": -0.1}, "`weight_decay` must be"),
]


@pytest.mark.parametrize("make, values, message", BAD_VALUES, ids=lambda value: getattr(value, "__name__", None))
def test_bad_values_are_named(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(LR, **values)


def test_bad_values_of_the_schedules_are_named():
    with pytest.raises(ValueError, match="`b1` must be in"):
        ademamix_b3_schedule(0.0, 0.999, 10)
    with pytest.raises(ValueError, match="`steps` must be > 0"):
        ademamix_alpha_schedule(8.0, 0)
    with pytest.raises(ValueError, match="`first` must be >= 0"):
        ademamix_alpha_schedule(8.0, 10, first=-1)
