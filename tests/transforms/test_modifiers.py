"""Modifiers that compose with any optimizer: each against its oracle, and the properties that it exists for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from tests.oracles import modifiers as oracle

RNG = np.random.default_rng(0)
P = {"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=(5,))}
STEPS = [{"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=(5,))} for _ in range(40)]

STAGES = {
    "add_cautious_decayed_weights": lambda: gradlab.add_cautious_decayed_weights(0.1),
    "adagc": lambda: gradlab.adagc(warmup_steps=2),
    "cautious": gradlab.cautious,
    "floor_updates": gradlab.floor_updates,
    "graft": lambda: gradlab.graft(gradlab.trace(0.9), gradlab.scale_by_lion()),
    "grokfast": gradlab.grokfast,
    "hyperball": gradlab.hyperball,
    "orthograd": gradlab.orthograd,
    "radial_brake": gradlab.radial_brake,
    "relative_updates": gradlab.relative_updates,
    "skip_spikes": lambda: gradlab.skip_spikes(gradlab.sgd(0.1, momentum=0.9)),
    "zclip": lambda: gradlab.zclip(warmup_steps=2),
}


def walk(tx, gradients, params=None):
    """The updates of every step and the last state; parameters stay where they are."""
    params, state, out = jax.tree.map(jnp.asarray, P if params is None else params), None, []
    state = tx.init(params)
    step = jax.jit(lambda tx, g, state: tx.update(g, state, params, grad=g))
    for g in gradients:
        updates, state = step(tx, jax.tree.map(jnp.asarray, g), state)
        out.append(jax.device_get(updates))
    return out, state


class TestEveryStage:
    @pytest.mark.parametrize("name", STAGES)
    def test_lanes_equal_loops_and_numbers_are_leaves(self, name):
        tx = gradlab.chain(STAGES[name](), gradlab.scale_by_learning_rate(0.1))
        factors = jnp.array([1.0, 0.9])
        lanes = jax.vmap(lambda factor: jax.tree.map(lambda leaf: leaf * factor, tx))(factors)
        end = lambda tx: walk_in_jax(tx)
        batched = jax.jit(jax.vmap(end))(lanes)
        for index, factor in enumerate(factors):
            alone = end(jax.tree.map(lambda leaf, factor=factor: leaf * factor, tx))
            chex.assert_trees_all_close(jax.tree.map(lambda x, i=index: x[i], batched), alone, rtol=1e-10)

    @pytest.mark.parametrize("name", STAGES)
    @pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
    def test_dtypes_zeros_and_missing_leaves(self, name, dtype):
        params = {"w": jnp.ones((2, 3), dtype), "z": jnp.zeros(3, dtype), "none": None}
        zero = jax.tree.map(jnp.zeros_like, params)
        tx = STAGES[name]()
        state = tx.init(params)
        updates, new = tx.update(zero, state, params, grad=zero)
        assert updates["none"] is None
        chex.assert_trees_all_equal_shapes_and_dtypes((updates, new), (zero, state))
        chex.assert_tree_all_finite((updates, new.inner_state if name == "skip_spikes" else updates))

    @pytest.mark.parametrize("name", STAGES)
    def test_reverse_derivatives_are_finite_at_zero(self, name):
        tx = STAGES[name]()
        params = {"w": jnp.ones(3), "z": jnp.zeros(2)}

        def total(grads):
            updates, _ = tx.update(grads, tx.init(params), params, grad=grads)
            return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

        for grads in (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.ones_like, params)):
            chex.assert_tree_all_finite(jax.grad(total)(grads))

    @pytest.mark.parametrize("name", STAGES)
    def test_init_is_abstract(self, name):
        params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
        structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
        chex.assert_trees_all_equal_shapes_and_dtypes(STAGES[name]().init(structs), STAGES[name]().init(params))


def walk_in_jax(tx):
    params, state = jax.tree.map(jnp.asarray, P), None
    state = tx.init(params)
    for g in STEPS[:4]:
        updates, state = tx.update(g, state, params, value=jnp.float32(1.0))
        params = gradlab.apply_updates(params, updates)
    return params


class TestAgainstOracles:
    def test_cautious_reads_the_raw_gradient_behind_momentum(self):
        tx = gradlab.chain(gradlab.trace(0.9), gradlab.cautious())
        out, _ = walk(tx, STEPS)
        for name in P:
            buffer = 0.0
            for step, g in enumerate(STEPS):
                buffer = g[name] + 0.9 * buffer
                np.testing.assert_allclose(out[step][name], oracle.cautious(buffer, g[name]), rtol=1e-12)

    def test_cautious_keeps_its_floor_when_nothing_agrees(self):
        u = jnp.array([1.0, -1.0])
        updates, _ = gradlab.cautious().update(u, gradlab.cautious().init(u), grad=-u)
        assert updates.tolist() == [0.0, 0.0]
        updates, _ = gradlab.cautious(floor=0.5).update(jnp.ones(4), (), grad=jnp.array([1.0, -1, -1, -1]))
        assert updates.tolist() == [2.0, 0.0, 0.0, 0.0]

    def test_cautious_decay(self):
        out, _ = walk(gradlab.add_cautious_decayed_weights(0.3), STEPS[:3])
        for step in range(3):
            for name in P:
                expected = oracle.cautious_decay(STEPS[step][name], P[name], 0.3)
                np.testing.assert_allclose(out[step][name], expected, rtol=1e-12)

    def test_grokfast(self):
        out, _ = walk(gradlab.grokfast(0.8, 1.5), STEPS)
        for name in P:
            expected = oracle.grokfast([g[name] for g in STEPS], 0.8, 1.5)
            np.testing.assert_allclose([u[name] for u in out], expected, rtol=1e-12)

    def test_orthograd(self):
        out, _ = walk(gradlab.orthograd(), STEPS[:5])
        for step in range(5):
            for name in P:
                u = out[step][name]
                np.testing.assert_allclose(u, oracle.orthograd(STEPS[step][name], P[name]), rtol=1e-11)
                assert abs(np.vdot(u, P[name])) < 1e-12

    def test_orthograd_of_a_gradient_along_the_tensor_is_zero_not_noise(self):
        p = jnp.asarray(P["a"], jnp.float32)
        updates, _ = gradlab.orthograd().update(1000 * p, (), p)
        assert not np.any(updates)

    def test_zclip_with_two_leaps(self):
        leaping = [jax.tree.map(lambda x, s=step: x * (30 if s in (20, 31) else 1), g) for step, g in enumerate(STEPS)]
        norms = [np.sqrt(sum(np.sum(x**2) for x in g.values())) for g in leaping]
        out, state = walk(gradlab.zclip(0.9, 2.0, warmup_steps=8), leaping)
        got = [np.sqrt(sum(np.sum(x**2) for x in u.values())) for u in out]
        expected = oracle.zclip(norms, 0.9, 2.0, 8)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        assert expected[20] < norms[20] / 5
        assert int(state.count) == 40

    def test_zclip_does_not_remember_norms_that_are_not_finite(self):
        bad = jax.tree.map(lambda x: x * np.nan, STEPS[0])
        _, with_bad = walk(gradlab.zclip(warmup_steps=4), [*STEPS[:10], bad])
        _, without = walk(gradlab.zclip(warmup_steps=4), STEPS[:10])
        assert (with_bad.mean, with_bad.variance) == (without.mean, without.variance)

    def test_adagc(self):
        leaping = [jax.tree.map(lambda x, s=step: x * (30 if s in (3, 20) else 1), g) for step, g in enumerate(STEPS)]
        out, _ = walk(gradlab.adagc(0.9, 1.5, warmup_steps=6, max_norm=2.0), leaping)
        expected = oracle.adagc([list(g.values()) for g in leaping], 0.9, 1.5, 6, 2.0)
        for got, wanted in zip(out, expected, strict=True):
            chex.assert_trees_all_close(list(got.values()), wanted, rtol=1e-12)

    def test_graft_has_the_direction_of_one_and_the_length_of_the_other(self):
        lion, adam = gradlab.scale_by_lion(), gradlab.scale_by_adam()
        out, _ = walk(gradlab.graft(lion, adam), STEPS)
        for got, direction, length in zip(out, walk(lion, STEPS)[0], walk(adam, STEPS)[0], strict=True):
            for name in P:
                unit = direction[name] / np.linalg.norm(direction[name])
                np.testing.assert_allclose(got[name], unit * np.linalg.norm(length[name]), rtol=1e-12)


class TestNorms:
    def test_hyperball_keeps_the_norm_and_moves(self):
        tx = gradlab.chain(gradlab.adam(0.05), gradlab.hyperball())
        params, state = jax.tree.map(jnp.asarray, P), tx.init(P)
        for g in STEPS:
            updates, state = tx.update(g, state, params)
            params = gradlab.apply_updates(params, updates)
        for name in P:
            np.testing.assert_allclose(np.linalg.norm(params[name]), np.linalg.norm(P[name]), rtol=1e-13)
            assert np.linalg.norm(params[name] - P[name]) > 0.5

    def test_hyperball_adam_steps_by_its_learning_rate_in_norms(self):
        tx = gradlab.chain(
            gradlab.scale_by_adam(),
            gradlab.relative_updates(),
            gradlab.scale_by_learning_rate(0.1),
            gradlab.hyperball(),
        )
        (updates,), _ = walk(tx, STEPS[:1])
        for name, p in P.items():
            adam = np.sign(STEPS[0][name])  # Adam's first direction
            new = p - 0.1 * np.linalg.norm(p) * adam / np.linalg.norm(adam)
            np.testing.assert_allclose(p + updates[name], new * np.linalg.norm(p) / np.linalg.norm(new), rtol=1e-6)

    @pytest.mark.parametrize("ratio", [0.1, 100.0])
    def test_floor(self, ratio):
        (updates,), _ = walk(gradlab.floor_updates(ratio), STEPS[:1])
        for name, p in P.items():
            u = STEPS[0][name]
            least = ratio * np.linalg.norm(p)
            np.testing.assert_allclose(updates[name], u * max(1, least / np.linalg.norm(u)), rtol=1e-12)

    @pytest.mark.parametrize("brake", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("sign", [1.0, -0.3])
    def test_radial_brake(self, brake, sign):
        step = jax.tree.map(lambda p, noise: sign * p + 0.1 * noise, P, STEPS[0])
        (updates,), _ = walk(gradlab.radial_brake(brake), [step])
        for name, p in P.items():
            growth = np.linalg.norm(p + step[name]) - np.linalg.norm(p)
            assert (growth > 0) == (sign > 0)
            expected = np.linalg.norm(p) + (brake if growth > 0 else 1) * growth
            np.testing.assert_allclose(np.linalg.norm(p + updates[name]), expected, rtol=1e-12)
            cosine = np.vdot(p + updates[name], p + step[name])
            np.testing.assert_allclose(cosine, expected * np.linalg.norm(p + step[name]), rtol=1e-12)


class TestSkipping:
    def run(self, values, tx=None, scale=None):
        tx = gradlab.skip_spikes(gradlab.sgd(1.0, momentum=0.5), window=8, threshold=4.0) if tx is None else tx
        state, moved = tx.init(jnp.zeros(1)), []
        rng = np.random.default_rng(3)
        for index, value in enumerate(values):
            g = jnp.array([1.0 + 0.1 * rng.normal()]) * (1.0 if scale is None else scale[index])
            updates, state = tx.update(g, state, value=jnp.asarray(value))
            moved.append(bool(updates[0] != 0))
        return moved, state

    def test_a_leap_of_the_loss_is_skipped_and_the_momentum_kept(self):
        losses = [1.0, 1.1, 0.9, 1.0, 1.1, 50.0, 1.0]
        moved, state = self.run(losses)
        assert moved == [True] * 5 + [False, True]
        assert int(state.skipped) == 1
        _, without = self.run([*losses[:5], losses[6]])
        assert state.inner_state[0].trace.shape == without.inner_state[0].trace.shape

    def test_a_leap_of_the_norm_is_skipped_without_a_loss(self):
        moved, _ = self.run([1.0] * 8, scale=[1] * 6 + [40, 1])
        assert moved == [True] * 6 + [False, True]

    def test_nothing_is_skipped_before_half_of_the_window(self):
        moved, _ = self.run([1.0, 1.1, 50.0])
        assert moved == [True] * 3

    def test_a_level_that_stays_becomes_the_usual_one(self):
        moved, _ = self.run([1.0, 1.1, 0.9, 1.0, 1.1, 0.9] + [9.0] * 8)
        assert not moved[6]
        assert all(moved[-4:])

    def test_values_that_are_not_finite_are_skipped_and_forgotten(self):
        moved, state = self.run([1.0, 1.1, np.nan, 0.9, 1.0, np.inf, 1.0])
        assert moved == [True, True, False, True, True, False, True]
        assert int(state.count) == 5
        assert np.isfinite(state.history).all()

    def test_the_inner_transform_keeps_its_state_over_a_skipped_step(self):
        tx = gradlab.skip_spikes(gradlab.adam(0.1), window=4)
        state = tx.init(jnp.zeros(1))
        for g in (1.0, 1.1, 0.9):
            _, state = tx.update(jnp.array([g]), state)
        _, after = tx.update(jnp.array([99.0]), state)
        chex.assert_trees_all_equal(after.inner_state, state.inner_state)


class TestMessages:
    def test_cautious_without_the_raw_gradient(self):
        with pytest.raises(ValueError, match="put it into a chain"):
            gradlab.cautious().update(jnp.ones(1), ())

    @pytest.mark.parametrize("name", ["orthograd", "hyperball", "relative_updates", "floor_updates", "radial_brake"])
    def test_stages_that_need_parameters_say_so(self, name):
        tx = STAGES[name]()
        with pytest.raises(ValueError, match=f"{name} needs the parameters"):
            tx.update(jnp.ones(1), tx.init(jnp.ones(1)))

    def test_numbers_of_a_merge_keep_clear_of_extra_arguments(self):
        with pytest.raises(ValueError, match=r"\['value'\] are extra arguments"):
            gradlab.parallel({"a": gradlab.identity()}, _first, value=1.0)
        with pytest.raises(ValueError, match="at least one branch"):
            gradlab.parallel({}, _first)

    @pytest.mark.parametrize(
        ("make", "argument"),
        [
            (lambda: gradlab.cautious(0.0), "floor"),
            (lambda: gradlab.grokfast(1.0), "decay"),
            (lambda: gradlab.zclip(threshold=0.0), "threshold"),
            (lambda: gradlab.adagc(ratio=0.5), "ratio"),
            (lambda: gradlab.skip_spikes(gradlab.sgd(1.0), window=2), "window"),
            (lambda: gradlab.radial_brake(1.5), "brake"),
            (lambda: gradlab.floor_updates(-1.0), "ratio"),
        ],
    )
    def test_values_out_of_range_are_named(self, make, argument):
        with pytest.raises(ValueError, match=f"`{argument}`"):
            make()


def _first(updates):
    return updates["a"]
