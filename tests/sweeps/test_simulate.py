import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.sweeps.schedulers.named import make_scheduler
from gradlab.sweeps.schedulers.simulate import PowerLaws, simulate


class Ordered:
    """Curves without noise that never cross: the lower the rank, the better throughout."""

    def __init__(self, ranks):
        self.ranks = np.asarray(ranks)

    def observed(self, step, trials):
        return self.expected(step, trials)

    def expected(self, step, trials):
        return 1 + (1 + self.ranks[trials]) / (1 + step)


@pytest.mark.parametrize(("eta", "trials", "rungs"), [(2, 64, 3), (3, 100, 4), (4, 70, 2)])
def test_halving_takes_the_steps_of_the_formula(eta, trials, rungs):
    steps = eta**rungs * 5
    at = [0, *(5 * eta**power for power in range(rungs + 1))]
    expected = sum(trials // eta**rung * (at[rung + 1] - at[rung]) for rung in range(rungs + 1))
    halving = make_scheduler("halving", eta=eta, rungs=rungs)
    result = simulate(halving, trials, steps, steps // 5, Ordered(np.arange(trials)))
    assert result.lane_steps == expected and result.completed == trials // eta**rungs
    assert result.saved == pytest.approx(1 - expected / (trials * steps))


STOPPING = [
    make_scheduler("halving"),
    make_scheduler("halving", eta=50),
    make_scheduler("hyperband", eta=2),
    make_scheduler("median"),
    make_scheduler("percentile", percentile=5),
]


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(40)))
def test_the_best_of_curves_that_do_not_cross_always_wins(ranks):
    for scheduler in STOPPING:
        result = simulate(scheduler, 40, 64, 64, Ordered(ranks))
        assert result.winner == ranks.index(0) and result.regret == 0
        assert result.lane_steps < 40 * 64


def test_ten_thousand_trials():
    curves = PowerLaws(10_000, 1000, diverging=0.2)
    results = [simulate(scheduler, 10_000, 1000, 50, curves) for scheduler in [*STOPPING, make_scheduler("all")]]
    *stopped, everything = results
    assert everything.lane_steps == 10_000 * 1000 and everything.saved == 0
    assert abs(everything.completed / 10_000 - 0.8) < 0.02
    for result in stopped:
        assert 0 <= result.regret < 0.05 and result.saved > 0.2 and 0 < result.completed < everything.completed
        assert result.decide_seconds > 0
    costs = 8 * 10_000 * 51
    assert costs < everything.peak_bytes < 1.5 * costs


def test_the_same_sweep_twice_gives_the_same():
    first, second = (simulate(make_scheduler("median"), 200, 100, 20, PowerLaws(200, 100, seed=4)) for _ in range(2))
    assert first[:5] == second[:5]
    assert simulate(make_scheduler("median"), 200, 100, 20, PowerLaws(200, 100, seed=5))[:5] != first[:5]


class Flat(Ordered):
    """Trials that seem done after a few steps, and would gain 1 in the end."""

    def expected(self, step, trials):
        return self.ranks[trials] + 1 / (1 + min(step, 3)) - (step > 8)


def test_a_trial_that_ended_by_itself_can_win():
    result = simulate(make_scheduler("patience", patience=2), 3, 10, 10, Flat([1, 0, 2]))
    assert result.lane_steps == 3 * 5 and result.completed == 0
    assert result.winner == 1 and result.regret == 1


def test_a_trial_that_was_stopped_cannot():
    class Rising(Ordered):
        def expected(self, step, trials):
            return np.where(step > 5, 3.0 - self.ranks[trials], self.ranks[trials] + 0.0)

    result = simulate(make_scheduler("halving", rungs=1, eta=2), 3, 10, 10, Rising([0, 1, 2]))
    assert result.winner == 0 and result.regret == 2.0 and result.lane_steps == 3 * 5 + 5


def test_when_all_diverge_no_one_wins():
    result = simulate(make_scheduler("halving"), 20, 90, 9, PowerLaws(20, 90, diverging=1.0))
    assert result.winner == -1 and result.regret == np.inf and result.completed == 0


def test_the_recipe_of_the_curves():
    curves, every = PowerLaws(20_000, 1000, noise=0.1, diverging=0.25), np.arange(20_000)
    assert np.all(curves.observed(0, every) == 2.5)
    steady = every[np.isfinite(curves.expected(101, every))]
    noise = curves.observed(100, steady) - curves.expected(100, steady)
    assert abs(noise.std() - 0.1) < 0.005 and abs(noise.mean()) < 0.005
    later = curves.observed(101, steady) - curves.expected(101, steady)
    assert abs(np.corrcoef(noise, later)[0, 1]) < 0.05
    assert np.array_equal(curves.observed(100, every)[[7, 3]], curves.observed(100, np.array([7, 3])))
    diverged = [np.isinf(curves.expected(step, every)).mean() for step in (500, 1000)]
    assert abs(diverged[0] - 0.125) < 0.01 and abs(diverged[1] - 0.25) < 0.01
    running = every[np.isfinite(curves.expected(1000, every))]
    falling = [curves.expected(step, running) for step in (0, 10, 100, 1000, 10**9)]
    assert all(np.all(later < earlier) for earlier, later in zip(falling, falling[1:], strict=False))
    assert abs(np.median(falling[-1]) - 0.5) < 0.02
    assert np.any(np.argsort(falling[1]) != np.argsort(falling[3]))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: simulate(make_scheduler("pbt", interval=5), 4, 10, 10), "pbt changes trials while they run"),
        (lambda: simulate(make_scheduler("all"), 4, 10, 11), "`steps` must be >= 11"),
        (lambda: PowerLaws(4, 10, diverging=1.5), "`diverging` must be in"),
    ],
)
def test_impossible_requests_say_why(build, words):
    with pytest.raises(ValueError, match=words):
        build()
