"""Laws of the SGD family and the adaptive rules with known answers, and the published errors that break them.

Each error is written down as a small wrong rule, a mutant, and shown to leave the right one by a stated margin.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.optimizers.adagrad import adadelta, adagrad
from gradlab.optimizers.momentum import ema_sgd, heavy_ball, momentum_sgd, nesterov_sgd
from gradlab.optimizers.per_weight import delta_bar_delta, rprop
from gradlab.optimizers.rmsprop import rmsprop, scale_by_rms
from gradlab.optimizers.sgd import sgd
from tests.oracles import adaptive, sgd_family

CURVATURES = np.array([0.1, 0.5, 2.0, 4.0, 10.0])
L_MIN, L_MAX = CURVATURES[0], CURVATURES[-1]
ROTATION = np.linalg.qr(np.random.default_rng(5).standard_normal((5, 5)))[0]
HESSIAN = ROTATION @ np.diag(CURVATURES) @ ROTATION.T


@jax.jit
def _descend(tx, start, hessian, counts):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(hessian @ params, state, params)
        params = params + updates
        return (params, state), params

    return jax.lax.scan(step, (start, tx.init(start)), counts)[1]


def descend(tx, start, steps, hessian=HESSIAN):
    """The iterates on ``x @ hessian @ x / 2``, whose minimum is 0."""
    return np.asarray(_descend(tx, jnp.asarray(start), jnp.asarray(hessian), jnp.arange(steps)))


@jax.jit
def _steps(tx, g, counts):
    def step(state, _):
        updates, state = tx.update(g, state, jnp.zeros_like(g))
        return state, -updates

    return jax.lax.scan(step, tx.init(g), counts)[1]


def steps_down(tx, g, steps):
    """The lengths of the first steps on a constant gradient ``g``."""
    return np.asarray(_steps(tx, jnp.asarray(g, jnp.float64), jnp.arange(steps)))


class TestGradientDescentOnAQuadratic:
    @settings(max_examples=30, deadline=None)
    @given(lr=st.floats(1e-3, 0.19), mode=st.integers(0, 4))
    def test_each_eigenvector_contracts_by_its_own_factor(self, lr, mode):
        path = descend(sgd(lr), ROTATION[:, mode], 20)
        factor = 1 - lr * CURVATURES[mode]
        np.testing.assert_allclose(path @ ROTATION[:, mode], factor ** np.arange(1, 21), rtol=1e-7, atol=1e-12)

    @settings(max_examples=20, deadline=None)
    @given(lr=st.floats(1e-3, 0.25))
    def test_the_worst_start_contracts_by_the_largest_factor_exactly(self, lr):
        one_step = np.stack([descend(sgd(lr), axis, 1)[0] for axis in np.eye(5)], axis=1)
        assert np.linalg.norm(one_step, 2) == pytest.approx(np.max(np.abs(1 - lr * CURVATURES)), rel=1e-12)

    @pytest.mark.parametrize(("excess", "grows"), [(0.99, False), (1.01, True)])
    def test_it_diverges_past_two_over_the_largest_curvature(self, excess, grows):
        lr = excess * 2 / L_MAX
        steep = descend(sgd(lr), ROTATION[:, -1], 200) @ ROTATION[:, -1]
        assert abs(steep[-1]) == pytest.approx(abs(1 - lr * L_MAX) ** 200, rel=1e-9)
        assert np.all(np.diff(steep**2) > 0 if grows else np.diff(steep**2) < 0)

    def test_at_the_edge_it_swings_for_ever(self):
        steep = descend(sgd(2 / L_MAX), ROTATION[:, -1], 100) @ ROTATION[:, -1]
        np.testing.assert_allclose(steep, (-1.0) ** np.arange(1, 101), rtol=1e-12)

    def test_its_best_constant_rate_contracts_by_kappa_minus_1_over_kappa_plus_1(self):
        kappa = L_MAX / L_MIN
        ends = ROTATION[:, 0] + ROTATION[:, -1]
        path = descend(sgd(2 / (L_MIN + L_MAX)), ends, 50)
        norms = np.linalg.norm(np.vstack([ends, path]), axis=1)
        np.testing.assert_allclose(norms[1:] / norms[:-1], (kappa - 1) / (kappa + 1), rtol=1e-12)


class TestHeavyBallAtItsBest:
    root_l, root_L = np.sqrt(L_MIN), np.sqrt(L_MAX)
    rate = (root_L - root_l) / (root_L + root_l)
    lr = 4 / (root_L + root_l) ** 2

    def path(self, mode, steps=200):
        tx = heavy_ball(self.lr, self.rate**2)
        return descend(tx, ROTATION[:, mode], steps) @ ROTATION[:, mode]

    def test_the_rate_is_that_of_the_root_of_the_condition_number(self):
        kappa = L_MAX / L_MIN
        assert self.rate == pytest.approx((np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1), rel=1e-12)

    def test_the_flattest_direction_follows_its_double_root(self):
        t = np.arange(1, 201)
        np.testing.assert_allclose(self.path(0), (1 + (1 - self.rate) * t) * self.rate**t, rtol=1e-6)

    def test_the_steepest_direction_follows_its_double_root(self):
        t = np.arange(1, 201)
        np.testing.assert_allclose(self.path(4), (1 + (1 + self.rate) * t) * (-self.rate) ** t, rtol=1e-6)

    def test_every_direction_shrinks_at_that_rate(self):
        t = np.arange(1, 201)
        for mode in range(5):
            assert np.all(np.abs(self.path(mode)) <= (1 + (1 + self.rate) * t) * self.rate**t * (1 + 1e-6))

    @pytest.mark.parametrize("factor", [0.97, 1.1])
    def test_other_momenta_are_slower(self, factor):
        others = heavy_ball(self.lr, factor * self.rate**2)
        best, other = (
            max(abs(descend(tx, ROTATION[:, mode], 400)[-1] @ ROTATION[:, mode]) for mode in range(5))
            for tx in (heavy_ball(self.lr, self.rate**2), others)
        )
        assert other > 5 * best

    def test_it_outruns_gradient_descent_at_its_best(self):
        slow = descend(sgd(2 / (L_MIN + L_MAX)), ROTATION[:, 0], 100)[-1] @ ROTATION[:, 0]
        assert abs(self.path(0, 100)[-1]) < 1e-5 * abs(slow)


class TestStepsOnAConstantGradient:
    t = np.arange(1, 401)

    @pytest.mark.parametrize("make", [heavy_ball, momentum_sgd, lambda lr, a: sgd(lr, a)])
    def test_momentum_reaches_its_terminal_velocity(self, make):
        lengths = steps_down(make(0.1, 0.9), 3.0, 400)
        np.testing.assert_allclose(lengths, 0.1 * 3.0 * (1 - 0.9**self.t) / (1 - 0.9), rtol=1e-10)
        assert lengths[-1] == pytest.approx(0.1 * 3.0 / (1 - 0.9), rel=1e-10)

    @pytest.mark.parametrize("make", [nesterov_sgd, lambda lr, a: sgd(lr, a, nesterov=True)])
    def test_looking_ahead_reaches_it_one_step_sooner(self, make):
        lengths = steps_down(make(0.1, 0.9), 3.0, 400)
        np.testing.assert_allclose(lengths, 0.1 * 3.0 * (1 - 0.9 ** (self.t + 1)) / (1 - 0.9), rtol=1e-10)

    def test_an_average_reaches_the_step_of_gradient_descent(self):
        lengths = steps_down(ema_sgd(0.1, 0.9), 3.0, 400)
        np.testing.assert_allclose(lengths, 0.1 * 3.0 * (1 - 0.9**self.t), rtol=1e-10)
        np.testing.assert_allclose(steps_down(ema_sgd(0.1, 0.9, debias=True), 3.0, 400), 0.1 * 3.0, rtol=1e-10)

    @pytest.mark.parametrize("g", [1e-4, 7.0])
    def test_rmsprop_falls_to_the_learning_rate_whatever_the_gradient(self, g):
        lengths = steps_down(rmsprop(0.1, 0.9, eps=0.0), g, 400)
        np.testing.assert_allclose(lengths, 0.1 / np.sqrt(1 - 0.9**self.t), rtol=1e-10)
        np.testing.assert_allclose(
            steps_down(rmsprop(0.1, 0.9, eps=0.0, bias_correction=True), g, 400), 0.1, rtol=1e-10
        )

    @pytest.mark.parametrize("g", [1e-4, 7.0])
    def test_adagrad_falls_as_one_over_the_root_of_the_count(self, g):
        lengths = steps_down(adagrad(0.1, 0.0, eps=0.0), g, 400)
        np.testing.assert_allclose(lengths, 0.1 / np.sqrt(self.t), rtol=1e-10)

    def test_adadelta_starts_at_the_root_of_eps_and_grows_without_end(self):
        rho, eps = 0.9, 1e-6
        lengths = steps_down(adadelta(rho=rho, eps=eps), 50.0, 400)
        assert lengths[0] == pytest.approx(np.sqrt(eps / (1 - rho)), rel=1e-6)
        np.testing.assert_allclose(np.diff(lengths[200:] ** 2), (1 - rho) * eps, rtol=1e-3)

    def test_rprop_grows_its_steps_to_the_largest_one(self):
        lengths = steps_down(rprop(0.1, max_step_size=2.0), 1e-9, 60)
        np.testing.assert_allclose(lengths, np.minimum(0.1 * 1.2 ** np.arange(60), 2.0), rtol=1e-10)

    def test_delta_bar_delta_adds_to_its_rate(self):
        lengths = steps_down(delta_bar_delta(0.1, kappa=0.01), 3.0, 60)
        np.testing.assert_allclose(lengths, 3.0 * (0.1 + 0.01 * np.arange(60)), rtol=1e-10)


def test_rates_of_an_alternating_gradient_shrink_geometrically():
    tx, state, rates = delta_bar_delta(0.1, phi=0.2, theta=0.3), None, []
    for t in range(20):
        g = jnp.asarray((-1.0) ** t)
        state = tx.init(g) if state is None else state
        updates, state = tx.update(g, state)
        rates.append(float(-updates * g))
    np.testing.assert_allclose(rates, 0.1 * 0.8 ** np.arange(20), rtol=1e-10)


class TestTheDocumentsOneDimensionalFunctions:
    """x^2 + sin x from 2.5 behaves as told; x + sin x, as printed, has no minimum to find."""

    def path(self, derivative, lr, steps, start=2.5):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(derivative(x), state)
            return (x + updates, state), x + updates

        tx, x = sgd(lr), jnp.asarray(start)
        return np.asarray(jax.lax.scan(step, (x, tx.init(x)), length=steps)[1])

    def test_a_rate_of_1_ends_on_a_two_cycle(self):
        last = self.path(lambda x: 2 * x + jnp.cos(x), 1.0, 200)[-2:]
        np.testing.assert_allclose(np.sort(last), [-np.pi / 2, np.pi / 2], rtol=1e-12)

    def test_a_tenth_converges_and_a_hundredth_is_slow(self):
        minimum = -0.4501836112948736  # the root of 2 x + cos x
        assert abs(2 * minimum + np.cos(minimum)) < 1e-15
        assert abs(self.path(lambda x: 2 * x + jnp.cos(x), 0.1, 50)[-1] - minimum) < 1e-5
        assert self.path(lambda x: 2 * x + jnp.cos(x), 0.01, 200)[-1] == pytest.approx(-0.405, abs=5e-4)

    @pytest.mark.parametrize("lr", [1.0, 0.1])
    def test_as_printed_every_rate_creeps_to_minus_pi(self, lr):
        steps = 200_000
        gap = self.path(lambda x: 1 + jnp.cos(x), lr, steps)[-1] + np.pi
        assert gap == pytest.approx(2 / (lr * steps), rel=1e-2)


def gradient_of_bowl(p, t):
    return np.array([1.0, 10.0]) * p


BOWL_START = np.array([4.0, 1.0])


def follow(tx, steps, gradient=gradient_of_bowl, start=BOWL_START):
    params = jnp.asarray(start)
    state, path = tx.init(params), []
    for t in range(steps):
        updates, state = tx.update(jnp.asarray(gradient(params, t)), state, params)
        params = params + updates
        path.append(np.asarray(params))
    return np.stack(path)


def rejected(mutant, path, margin):
    """Whether the end of the mutant's path is farther than ``margin`` from that of ours, or not a number."""
    return not np.max(np.abs(mutant[-1] - path[-1])) <= margin


class TestPublishedErrors:
    def test_rmsprop_with_an_added_cache_explodes(self):
        rho, steps = 0.99, 50
        cache = 0.0
        for _ in range(steps):
            cache += rho * cache + (1 - rho) * 1.0**2
        assert cache == pytest.approx((1 - rho) * ((1 + rho) ** steps - 1) / rho, rel=1e-12)
        assert cache == pytest.approx(8.85e12, rel=1e-3)
        tx = scale_by_rms(rho)
        state = tx.init(jnp.ones(()))
        for _ in range(steps):
            updates, state = tx.update(jnp.ones(()), state)
        assert float(state.nu) == pytest.approx(1 - rho**steps, rel=1e-12)
        assert float(updates) > 1e6 / np.sqrt(cache)

    def test_nesterov_with_the_gradient_of_a_difference_never_finds_the_minimum(self):
        lr, m, steps, minimum = 0.02, 0.8, 200, np.array([1.0, -2.0])
        slope = lambda p, t=0: np.array([1.0, 10.0]) * (p - minimum)
        previous = p = BOWL_START
        mutant = []
        for _ in range(steps):
            difference = p - previous
            previous, p = p, p + m * difference - lr * slope(difference)
            mutant.append(p)
        ours = follow(nesterov_sgd(lr, m), steps, slope)
        right = sgd_family.nesterov_two_points(BOWL_START, slope, steps, lr=lr, momentum=m)
        np.testing.assert_allclose(ours[-1], right[-1], atol=1e-2)
        np.testing.assert_allclose(ours[-1], minimum, atol=1e-2)
        assert rejected(np.stack(mutant), ours, 1.0)

    def test_sgd_that_restarts_each_sample_keeps_the_last_sample_only(self):
        rng = np.random.default_rng(8)
        inputs, lr = rng.standard_normal((20, 2)), 0.1
        targets = inputs @ np.array([2.0, -1.0])
        slope = lambda w, t: (inputs[t] @ w - targets[t]) * inputs[t]
        start = np.zeros(2)
        ours = follow(sgd(lr), 20, slope, start)
        np.testing.assert_allclose(ours, sgd_family.gradient_descent(start, slope, 20, lr=lr), rtol=1e-10)
        restarted = np.stack([start - lr * slope(start, t) for t in range(20)])
        order = [*range(18, -1, -1), 19]
        shuffled = np.stack([start - lr * slope(start, t) for t in order])
        np.testing.assert_array_equal(restarted[-1], shuffled[-1])
        assert rejected(restarted, ours, 0.5)

    def test_a_stop_rule_with_a_lost_bracket_does_not_stop(self):
        """``|f(th_next - f(th))| > e`` for ``|f(th_next) - f(th)| > e``, on (x - 3)^2 + 1 where each gap is known."""
        f = lambda x: (x - 3) ** 2 + 1
        lr, eps = 0.1, 1e-6
        x = jnp.asarray(0.0)
        tx = sgd(lr)
        state, stops, misread = tx.init(x), [], []
        for _ in range(400):
            updates, state = tx.update(2 * (x - 3), state)
            after = x + updates
            stops.append(bool(abs(f(after) - f(x)) <= eps))
            misread.append(bool(abs(f(after - f(x))) <= eps))
            x = after
        shrink = (1 - 2 * lr) ** 2  # of the loss above its minimum, a step
        expected = int(np.ceil(np.log(eps / (9 * (1 - shrink))) / np.log(shrink)))
        assert stops.index(True) == expected
        assert not any(misread)

    def test_adagrad_multiplied_by_the_root_speeds_up_the_steep_axis(self):
        lr, steps = 0.1, 5
        p, r = BOWL_START, np.zeros(2)
        mutant = []
        for _ in range(steps):
            g = gradient_of_bowl(p, 0)
            r = r + g**2
            p = p - lr * g * np.sqrt(r)
            mutant.append(p)
        ours = follow(adagrad(lr, 0.0, eps=0.0), steps)
        right = adaptive.adagrad(BOWL_START, gradient_of_bowl, steps, lr=lr, r0=0.0, eps=0.0, eps_in_sqrt=True)
        np.testing.assert_allclose(ours, right, rtol=1e-10)
        assert rejected(np.stack(mutant), ours, 100.0)
        multiples = (BOWL_START - ours[0]) / gradient_of_bowl(BOWL_START, 0)
        assert multiples[0] == pytest.approx(2.5 * multiples[1], rel=1e-12)  # gradients 4 and 10

    def test_adadelta_is_no_rmsprop(self):
        """One gradient, constant: RMSProp's steps settle, AdaDelta's keep growing, whatever the learning rate."""
        delta, rms = steps_down(adadelta(), 1.0, 400), steps_down(rmsprop(1.0, 0.9), 1.0, 400)
        assert rms[-1] / rms[200] == pytest.approx(1.0, rel=1e-6)
        assert delta[-1] / delta[200] > 1.2
        right = adaptive.adadelta(np.zeros(1), lambda p, t: np.ones(1), 400, rho=0.9, eps=1e-6)
        np.testing.assert_allclose(np.cumsum(delta), -np.concatenate(right), rtol=1e-10)

    def test_the_average_form_has_no_boosted_terminal_velocity(self):
        claimed = 0.1 * 3.0 / (1 - 0.9)
        assert claimed / steps_down(ema_sgd(0.1, 0.9), 3.0, 400)[-1] == pytest.approx(10, rel=1e-9)

    @pytest.mark.parametrize("mutant", [lambda p, g: p + 0.1 * g, lambda p, g: p * 0.1 * g], ids=["plus", "product"])
    def test_gradient_descent_without_its_minus(self, mutant):
        p, path = BOWL_START, []
        for _ in range(30):
            p = mutant(p, gradient_of_bowl(p, 0))
            path.append(p)
        ours = follow(sgd(0.1), 30)
        assert np.max(np.abs(ours[-1])) < 0.2
        assert rejected(np.stack(path), ours, 0.5)

    def test_bias_correction_off_by_one_divides_by_zero(self):
        rho, lr, g = 0.9, 0.1, 3.0
        e, mutant = 0.0, []
        with np.errstate(divide="ignore"):
            for t in range(30):
                e = rho * e + (1 - rho) * g**2
                mutant.append(lr * g / np.sqrt(np.float64(e) / np.float64(1 - rho**t)))
        ours = steps_down(rmsprop(lr, rho, eps=0.0, bias_correction=True), g, 30)
        np.testing.assert_allclose(ours, lr, rtol=1e-10)
        assert mutant[0] == 0.0
        assert mutant[1] == pytest.approx(lr / np.sqrt(1 + rho), rel=1e-12)
