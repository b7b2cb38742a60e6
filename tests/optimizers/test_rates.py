"""Convergence rates that theory promises: of gradient descent, heavy ball, Nesterov and Chebyshev, at every step."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core.update import eval_params
from gradlab.optimizers.momentum import heavy_ball, nesterov_sgd
from gradlab.optimizers.sgd import sgd


def table(values):
    """A schedule that reads a table."""
    values = jnp.asarray(values)
    return lambda count: values[count]


def iterates(tx, slope, start, steps):
    """The points that ``tx`` reports after every step, from the start on: one row each."""

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(slope(x), state, x)
        x = x + updates
        return (x, state), eval_params(tx, state, x)

    start = jnp.asarray(start, jnp.float64)
    path = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=steps)[1])()
    return np.concatenate([np.asarray(start)[None], np.asarray(path)])


class TestNesterovsWorstFunction:
    """``f(x) = L/4 * (x @ A @ x / 2 - x_1)`` with the tridiagonal A of (-1, 2, -1): Nesterov (2004), section 2.1.2.

    Its minimum is at ``x_i = 1 - i / (n + 1)``, with ``f = L/8 * (1 / (n + 1) - 1)``.
    """

    n, L, steps = 401, 8.0, 200
    k = np.arange(1, steps + 1)
    minimum = 1 - np.arange(1, n + 1) / (n + 1)
    lowest = L / 8 * (1 / (n + 1) - 1)
    distance_sq = np.sum(minimum**2)

    def slope(self, x):
        pull = 2 * x - jnp.pad(x, (1, 0))[:-1] - jnp.pad(x, (0, 1))[1:]
        return self.L / 4 * pull.at[0].add(-1)

    def gaps(self, tx):
        x = iterates(tx, self.slope, np.zeros(self.n), self.steps)[1:]
        padded = np.pad(x, ((0, 0), (1, 1)))
        return self.L / 4 * (np.sum(np.diff(padded) ** 2, axis=1) / 2 - x[:, 0]) - self.lowest

    def nesterov(self):
        t = [1.0]
        while len(t) <= self.steps:
            t.append((1 + np.sqrt(1 + 4 * t[-1] ** 2)) / 2)
        t = np.array(t)
        return nesterov_sgd(1 / self.L, momentum=table((t[:-1] - 1) / t[1:]))

    def test_nesterovs_momentum_stays_below_its_bound_at_every_step(self):
        assert np.all(self.gaps(self.nesterov()) <= 2 * self.L * self.distance_sq / (self.k + 1) ** 2)

    def test_gradient_descent_stays_below_its_own_bound_and_breaks_that_of_nesterov(self):
        gaps = self.gaps(sgd(1 / self.L))
        assert np.all(gaps <= self.L * self.distance_sq / (2 * self.k))
        assert gaps[-1] > 2 * self.L * self.distance_sq / (self.steps + 1) ** 2

    @pytest.mark.parametrize("method", ["gradient descent", "nesterov", "heavy ball"])
    def test_no_method_on_gradients_is_faster_than_the_lower_bound(self, method):
        """After k steps only k coordinates have moved; the least value among such points is known, and so theorem
        2.1.7, whose bound is for k = (n - 1) / 2."""
        tx = {"gradient descent": sgd(1 / self.L), "nesterov": self.nesterov(), "heavy ball": heavy_ball(1 / self.L)}
        gaps = self.gaps(tx[method])
        assert np.all(gaps >= self.L / 8 * (1 / (self.k + 1) - 1 / (self.n + 1)))
        assert gaps[-1] >= 3 * self.L * self.distance_sq / (32 * (self.steps + 1) ** 2)

    def test_a_step_twice_too_long_leaves_the_bound(self):
        gaps = self.gaps(nesterov_sgd(2 / self.L, momentum=0.9))
        assert not np.all(gaps <= 2 * self.L * self.distance_sq / (self.k + 1) ** 2)


KAPPA, SMALLEST = 1e3, 0.02
LARGEST = KAPPA * SMALLEST
CURVATURES = np.geomspace(SMALLEST, LARGEST, 7)


def on_quadratic(tx, steps):
    """The errors along the eigenvectors, all of which start at 1."""
    return iterates(tx, lambda x: CURVATURES * x, np.ones(7), steps)


def slope_of_log_error(path, after):
    k = np.arange(len(path))[after:]
    return np.polyfit(k, np.log(np.max(np.abs(path), axis=1)[after:]), 1)[0]


def test_heavy_ball_at_its_best_shrinks_errors_by_the_root_of_kappa():
    a, b = np.sqrt(LARGEST), np.sqrt(SMALLEST)
    tx = heavy_ball(4 / (a + b) ** 2, momentum=((a - b) / (a + b)) ** 2)
    rate = (np.sqrt(KAPPA) - 1) / (np.sqrt(KAPPA) + 1)
    assert slope_of_log_error(on_quadratic(tx, 9000), after=3000) == pytest.approx(np.log(rate), rel=0.01)


def test_gradient_descent_at_its_best_shrinks_them_by_kappa():
    path = on_quadratic(sgd(2 / (SMALLEST + LARGEST)), 9000)
    assert slope_of_log_error(path, after=3000) == pytest.approx(np.log((KAPPA - 1) / (KAPPA + 1)), rel=0.01)


def test_nesterovs_constant_momentum_shrinks_them_by_one_minus_one_over_the_root():
    """With rate 1/L and momentum (sqrt(kappa) - 1) / (sqrt(kappa) + 1): the flattest direction has a double root."""
    root = np.sqrt(KAPPA)
    path = on_quadratic(nesterov_sgd(1 / LARGEST, momentum=(root - 1) / (root + 1)), 15000)
    assert slope_of_log_error(path, after=5000) == pytest.approx(np.log(1 - 1 / root), rel=0.01)


def test_heavy_ball_with_chebyshevs_parameters_is_optimal_at_every_step():
    """Golub and Varga (1961): the error along curvature c is ``T_k(s(c)) / T_k(s(0))``, T_k Chebyshev's polynomial."""
    steps, width = 120, LARGEST - SMALLEST
    middle = (LARGEST + SMALLEST) / width
    ratios = [1 / middle]  # T_k(s(0)) / T_{k+1}(s(0))
    while len(ratios) < steps:
        ratios.append(1 / (2 * middle - ratios[-1]))
    ratios = np.array(ratios)
    rates = 4 / width * ratios
    rates[0] /= 2
    momenta = np.concatenate([[0.0], ratios[:-1] * ratios[1:]])
    path = on_quadratic(heavy_ball(table(rates), momentum=table(momenta)), steps)
    polynomials = [np.polynomial.chebyshev.Chebyshev.basis(k) for k in range(steps + 1)]
    seen = (LARGEST + SMALLEST - 2 * CURVATURES) / width
    exact = np.stack([np.cos(k * np.arccos(np.clip(seen, -1, 1))) / polynomials[k](middle) for k in range(steps + 1)])
    np.testing.assert_allclose(path, exact, atol=1e-12)
    rate = (np.sqrt(KAPPA) - 1) / (np.sqrt(KAPPA) + 1)
    k = np.arange(steps + 1)
    np.testing.assert_allclose(np.max(np.abs(path), axis=1), 2 * rate**k / (1 + rate ** (2 * k)), rtol=1e-9)


class TestHeavyBallsCycle:
    """Lessard, Recht and Packard (1408.3595), section 4.6: convex, curvatures 1 and 25, and it never converges."""

    start, steps = 3.3, 600
    lr, momentum = 4 / (5 + 1) ** 2, ((5 - 1) / (5 + 1)) ** 2

    def slope(self, x):
        return jnp.where(x < 1, 25 * x, jnp.where(x < 2, x + 24, 25 * x - 24))

    def end(self, tx):
        return iterates(tx, self.slope, self.start, self.steps)[-6:]

    def cycle(self):
        """The three points that the iteration repeats, of pieces (left, right, left), in exact arithmetic."""
        a, b = Fraction(4, 36), Fraction(16, 36)
        # x' = x - a * (25 x - c) + b * (x - x_before), c = 24 on the right piece and 0 on the left
        rows, right = [], []
        for index, c in enumerate((0, 0, 24)):
            row = [Fraction(0)] * 3
            row[index] += 1 - 25 * a + b
            row[(index - 1) % 3] -= b
            row[(index + 1) % 3] -= 1
            rows.append([float(value) for value in row])
            right.append(-float(a * c))
        return np.linalg.solve(rows, right)

    def test_with_the_best_parameters_of_a_quadratic_it_ends_on_a_cycle_of_three(self):
        end = self.end(heavy_ball(self.lr, self.momentum))
        np.testing.assert_allclose(end[:3], end[3:], rtol=1e-12)
        np.testing.assert_allclose(np.sort(end[:3]), np.sort(self.cycle()), rtol=1e-10)
        assert np.min(np.abs(end)) > 0.5

    @pytest.mark.parametrize(
        "tx",
        [sgd(1 / 25), sgd(2 / 26), nesterov_sgd(1 / 25, momentum=(5 - 1) / (5 + 1)), heavy_ball(1 / 25, momentum=0.2)],
        ids=["gradient descent", "at its best", "nesterov", "a smaller momentum"],
    )
    def test_others_converge(self, tx):
        np.testing.assert_allclose(self.end(tx), 0.0, atol=1e-12)
