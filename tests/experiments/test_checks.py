"""What decides whether a claim holds, on runs that are made up."""

import jax
import numpy as np
import pytest

from gradlab.experiments import catapult, edge_of_stability, flat_minima, gradient_norms, recurrent_cliff
from gradlab.experiments.registry import EXPERIMENTS, reproduce
from gradlab.experiments.reproduction import Check


@pytest.mark.parametrize(
    ("value", "low", "high", "holds"),
    [(1.0, 1.0, 2.0, True), (2.0, 1.0, 2.0, True), (0.99, 1.0, 2.0, False), (2.01, 1.0, 2.0, False)],
)
def test_a_claim_holds_within_its_tolerance(value, low, high, holds):
    assert Check("", "", "", value, low, high).holds is holds
    assert not Check("", "", "", np.nan).holds


def test_experiments_run_in_double_precision():
    with jax.enable_x64(False):
        assert reproduce("catapult", multiples=[1.0], width=3, steps=2).loss.dtype == np.float64
    with pytest.raises(ValueError, match="unknown experiment 'catapul'; did you mean 'catapult'"):
        reproduce("catapul")


def values(checks):
    return {check.claim: check.value for check in checks}


def edge_run(ratio, loss):
    ratio = np.array(ratio)
    return edge_of_stability.EdgeOfStability(np.arange(len(ratio)), np.array(loss), 2 * ratio, 2.0, ratio)


def test_at_the_edge_losses_are_compared_from_where_the_threshold_is_reached():
    ratio = [np.nan, 0.4, 0.8, 1.1, 1.0, 0.9, 1.2, 1.0]
    found = values(edge_of_stability.checks(edge_run(ratio, [9.0, 8.0, 7.0, 4.0, 3.0, 3.0, 2.0, 1.0]), ""))
    assert found["the sharpness begins below"] == 0.4
    assert found["and rises to the threshold"] == 1.0
    assert found["and stays there"] == pytest.approx(0.2)
    assert found["while the loss goes on falling"] == 1 / 4


def test_a_threshold_that_is_not_reached_says_nothing_of_the_loss_beyond():
    found = edge_of_stability.checks(edge_run([0.1, 0.2, 0.3], [3.0, 2.0, 1.0]), "")
    assert [check.holds for check in found] == [True, False, False, False]


def test_the_ranges_of_the_catapult_are_those_that_there_are():
    ones = np.ones((3, 4))
    loss = np.array([[1.0, 0.5, 0.2, 0.1], [1.0, 50.0, 2.0, 0.5], [1.0, 9.0, 99.0, np.nan]])
    whole = catapult.Catapult(np.array([1.0, 3.0, 5.0]), loss, ones, ones, np.array([1.0, 1.5, np.nan]))
    assert all(check.holds for check in catapult.checks(whole)) and len(catapult.checks(whole)) == 7
    lazy = catapult.Catapult(*(array[:1] for array in whole))
    assert [check.claim for check in catapult.checks(lazy)] == [
        "below 2 / l0 the loss falls", "and the curvature stays", "f and l follow the recursion"
    ]  # fmt: skip
    assert len(catapult.checks(catapult.Catapult(*(array[2:] for array in whole)))) == 1


def test_minima_are_compared_at_a_loss_that_both_have():
    run = lambda *sharpness: flat_minima.Flatness(np.array([1.0, 0.1]), np.array(sharpness), np.zeros(2))
    found = flat_minima.FlatMinima(0.1, run(1.0, 8.0), run(1.0, 4.0), run(1.0, 2.0))
    assert (found.relative("small"), found.relative("sam")) == pytest.approx((0.5, 0.25))
    assert np.isnan(found._replace(loss=0.05).relative("small")) and np.isnan(found._replace(loss=2.0).relative("sam"))


def test_norms_count_until_the_network_has_learnt():
    norm, accuracy = np.array([1.0, 6.0, 2.0, 0.5]), np.array([0.1, 0.5, 0.9, 0.95])
    deep = gradient_norms.GradientNorms(np.arange(4), norm, norm, norm, accuracy)
    run = gradient_norms.Norms(6, deep, deep)
    assert [check.value for check in gradient_norms.checks(run)] == [0.95, 6.0, 2.0, 0.25]
    assert [check.holds for check in gradient_norms.checks(run)] == [True, True, True, False]
    ignorant = run._replace(deep=deep._replace(valid_accuracy=np.zeros(4)))
    assert gradient_norms.checks(ignorant)[2].value == 0.5


def test_of_the_clipped_descent_the_last_third_counts():
    one = lambda loss, step: recurrent_cliff.RecurrentCliff(
        np.zeros((6, 2)), np.array(loss), np.array([1.0, 300.0]), step
    )
    run = recurrent_cliff.Cliffs(one([1.0, 1.0, 1.0, 1.0, 0.002, 0.004], 0.2), one([1.0] * 6, 7.0), 0.2)
    found = recurrent_cliff.checks(run)
    assert [check.value for check in found] == pytest.approx([300.0, 7.0, 1.0, 0.2, 0.003])
    assert all(check.holds for check in found)


def test_every_experiment_says_who_published_it():
    for one in EXPERIMENTS.values():
        assert "arXiv" in one.source or "Goodfellow" in one.source
