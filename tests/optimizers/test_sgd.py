"""Gradient descent and the four forms of momentum: oracles, peers, and the page on when the forms coincide."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.core.update import eval_params
from gradlab.optimizers.momentum import ema_sgd, heavy_ball, momentum_sgd, nesterov_sgd
from gradlab.optimizers.sgd import sgd
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.route import masked
from tests.oracles import sgd_family as oracle
from tests.oracles.runs import PARAMS, STEPS, by_oracle, by_torch, by_transform, farthest, gradient_of

LR, A = 0.05, 0.9


def falling_lr(count):
    return LR * (1 - 0.9 * count / STEPS)


def rising_momentum(count):
    return 0.5 + 0.45 * count / STEPS


def same(one, other, rtol=1e-10):
    chex.assert_trees_all_close(one, other, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("lr", [LR, falling_lr], ids=["constant", "scheduled"])
@pytest.mark.parametrize(
    ("make", "reference", "hyper"),
    [
        (lambda lr: sgd(lr), oracle.gradient_descent, {}),
        (lambda lr: sgd(lr, A), oracle.learning_rate_outside, {"momentum": A}),
        (lambda lr: sgd(lr, A, True), oracle.learning_rate_outside, {"momentum": A, "nesterov": True}),
        (lambda lr: heavy_ball(lr, A), oracle.learning_rate_inside, {"momentum": A}),
        (lambda lr: momentum_sgd(lr, A), oracle.learning_rate_outside, {"momentum": A}),
        (lambda lr: momentum_sgd(lr, A, 0.3), oracle.learning_rate_outside, {"momentum": A, "dampening": 0.3}),
        (
            lambda lr: momentum_sgd(lr, A, 0.3, True),
            oracle.learning_rate_outside,
            {"momentum": A, "dampening": 0.3, "nesterov": True},
        ),
        (lambda lr: ema_sgd(lr, A), oracle.average, {"momentum": A}),
        (lambda lr: ema_sgd(lr, A, debias=True), oracle.average, {"momentum": A, "debias": True}),
    ],
    ids=[
        "sgd",
        "sgd momentum",
        "sgd nesterov",
        "heavy_ball",
        "momentum_sgd",
        "dampening",
        "dampening nesterov",
        "ema",
        "ema debias",
    ],
)
def test_equals_its_oracle(make, reference, hyper, lr):
    same(by_transform(make(lr))[0], by_oracle(reference, lr=lr, **hyper))


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (heavy_ball, oracle.learning_rate_inside),
        (momentum_sgd, oracle.learning_rate_outside),
        (ema_sgd, oracle.average),
    ],
)
def test_a_scheduled_momentum_equals_its_oracle(make, reference):
    got, _ = by_transform(make(LR, rising_momentum))
    same(got, by_oracle(reference, lr=LR, momentum=rising_momentum))


@pytest.mark.parametrize("lr", [LR, falling_lr], ids=["constant lr", "scheduled lr"])
@pytest.mark.parametrize("momentum", [A, rising_momentum], ids=["constant momentum", "scheduled momentum"])
def test_the_readout_of_nesterov_sgd_walks_the_textbook_two_point_loop(lr, momentum):
    tx = nesterov_sgd(lr, momentum)
    iterates, _ = by_transform(tx, readout=lambda state, params: eval_params(tx, state, params))
    same(iterates, by_oracle(oracle.nesterov_two_points, lr=lr, momentum=momentum))


def test_nesterov_sgd_holds_the_point_at_which_the_next_gradient_is_taken():
    asked = []

    def watched(p, t):
        asked.append(p)
        return gradient_of("kernel")(p, t)

    oracle.nesterov_two_points(PARAMS["kernel"], watched, STEPS, lr=LR, momentum=A)
    held, _ = by_transform(nesterov_sgd(LR, A))
    same(held["kernel"][:-1], np.stack(asked[1:]))


def test_the_readout_leaves_parameters_alone_that_a_mask_hides():
    tx = masked(nesterov_sgd(LR, A), "kernel")
    iterates, state = by_transform(tx)
    last = jax.tree.map(lambda path: path[-1], iterates)
    out = eval_params(tx, state, last)
    chex.assert_trees_all_equal(out["bias"], last["bias"])
    assert float(jnp.max(jnp.abs(out["kernel"] - last["kernel"]))) > 1e-3


class TestWhenTheFormsCoincide:
    """The statements of the docstring of `gradlab.optimizers.momentum`, in its order."""

    def run(self, tx):
        return by_transform(tx)[0]

    def test_constant_values_make_forms_1_2_and_3_one(self):
        inside, outside = self.run(heavy_ball(LR, A)), self.run(momentum_sgd(LR, A))
        same(inside, outside)
        same(self.run(ema_sgd(LR / (1 - A), A)), outside)

    def test_constant_values_make_form_4_the_nesterov_flag_seen_from_the_point_ahead(self):
        same(self.run(nesterov_sgd(LR, A)), self.run(sgd(LR, A, nesterov=True)))

    def test_a_scheduled_learning_rate_parts_1_from_2_and_leaves_3_with_2(self):
        inside, outside = self.run(heavy_ball(falling_lr, A)), self.run(momentum_sgd(falling_lr, A))
        assert farthest(inside, outside) > 1e-2
        same(self.run(ema_sgd(lambda count: falling_lr(count) / (1 - A), A)), outside)

    def test_a_scheduled_learning_rate_parts_4_from_the_nesterov_flag(self):
        assert farthest(self.run(nesterov_sgd(falling_lr, A)), self.run(sgd(falling_lr, A, nesterov=True))) > 1e-2

    def test_a_scheduled_momentum_parts_3_from_2_and_leaves_1_with_2(self):
        outside = self.run(momentum_sgd(LR, rising_momentum))
        same(self.run(heavy_ball(LR, rising_momentum)), outside)
        averaged = self.run(ema_sgd(lambda count: LR / (1 - rising_momentum(count)), rising_momentum))
        assert farthest(averaged, outside) > 1e-2

    def test_a_scheduled_momentum_parts_4_from_the_nesterov_flag(self):
        four, flag = self.run(nesterov_sgd(LR, rising_momentum)), self.run(sgd(LR, rising_momentum, nesterov=True))
        assert farthest(four, flag) > 1e-3

    def test_the_step_after_a_cut_of_the_learning_rate(self):
        cut = lambda count: jnp.where(count < 400, 0.1, 0.01)
        lengths = {}
        for make in (heavy_ball, momentum_sgd):
            tx = make(cut, 0.9)
            state = tx.init(jnp.zeros(()))
            for _ in range(401):
                update, state = tx.update(jnp.ones(()), state)
            lengths[make] = -float(update)
        assert lengths[heavy_ball] == pytest.approx(0.91, rel=1e-12)
        assert lengths[momentum_sgd] == pytest.approx(0.1, rel=1e-12)

    def test_damping_by_the_momentum_is_an_average_plus_the_fading_first_gradient(self):
        g = np.random.default_rng(3).standard_normal(STEPS)
        damped, averaged = momentum_sgd(1.0, A, dampening=A), ema_sgd(1.0, A)
        states = damped.init(jnp.zeros(())), averaged.init(jnp.zeros(()))
        for count in range(1, STEPS + 1):
            one, first = damped.update(jnp.asarray(g[count - 1]), states[0])
            two, second = averaged.update(jnp.asarray(g[count - 1]), states[1])
            states = first, second
            assert float(two - one) == pytest.approx(A**count * g[0], rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("lr", [LR, falling_lr], ids=["constant", "scheduled"])
@pytest.mark.parametrize("hyper", [{}, {"momentum": A}, {"momentum": A, "nesterov": True}], ids=str)
def test_sgd_equals_optax_in_iterates_and_states(hyper, lr):
    ours, our_state = by_transform(sgd(lr, **hyper))
    theirs, their_state = by_transform(optax.sgd(lr, **hyper))
    same(ours, theirs)
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-10)
    chex.assert_trees_all_equal_dtypes(our_state, their_state)


def test_a_float32_buffer_equals_that_of_optax_to_its_rounding():
    ours, our_state = by_transform(sgd(LR, A, accumulator_dtype=jnp.float32))
    theirs, their_state = by_transform(optax.sgd(LR, A, accumulator_dtype=jnp.float32))
    chex.assert_trees_all_close(ours, theirs, atol=1e-6)  # Optax also multiplies by the decay in float32
    chex.assert_trees_all_close(our_state, their_state, atol=5e-6)
    chex.assert_trees_all_equal_dtypes(our_state, their_state)
    assert our_state[0].trace["bias"].dtype == jnp.float32


def test_the_buffer_of_sgd_is_the_first_state():
    state = sgd(LR, A).init(PARAMS)
    assert isinstance(state[0], optax.TraceState)
    chex.assert_trees_all_equal(state[0].trace, jax.tree.map(jnp.zeros_like, PARAMS))


@pytest.mark.peers
@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"momentum": A},
        {"momentum": A, "dampening": 0.3},
        {"momentum": A, "dampening": A},
        {"momentum": A, "nesterov": True},
        {"momentum": A, "weight_decay": 0.1},
        {"momentum": A, "nesterov": True, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_equals_torch_sgd(hyper):
    import torch

    theirs = by_torch(lambda tensors: torch.optim.SGD(tensors, lr=LR, **hyper))
    hyper = dict(hyper)
    decay = add_decayed_weights(hyper.pop("weight_decay", 0.0))
    tx = momentum_sgd(LR, **hyper) if hyper else sgd(LR)
    same(by_transform(chain(decay, tx))[0], theirs)


@pytest.mark.parametrize("make", [sgd, heavy_ball, momentum_sgd, ema_sgd, nesterov_sgd])
def test_bad_numbers_are_named(make):
    with pytest.raises(ValueError, match=r"`learning_rate` must be >= 0, got -0.1"):
        make(-0.1)
    with pytest.raises(ValueError, match=r"`momentum` must be in \[0, 1.*, got 1.5"):
        make(0.1, 1.5)


def test_an_average_with_momentum_1_would_never_move():
    with pytest.raises(ValueError, match=r"`momentum` must be in \[0, 1\), got 1"):
        ema_sgd(0.1, 1.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_forms_keep_the_dtype_of_their_parameters(dtype):
    params = {"w": jnp.ones(3, dtype)}
    for make in (sgd, heavy_ball, momentum_sgd, ema_sgd, nesterov_sgd):
        tx = make(0.1, 0.9)
        updates, state = tx.update(params, tx.init(params), params)
        chex.assert_trees_all_equal_dtypes(updates, params)
        chex.assert_trees_all_equal_dtypes(eval_params(tx, state, params), params)
