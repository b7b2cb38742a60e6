"""The refinement on functions that NumPy knows, and on a sweep of a real task."""

import itertools

import numpy as np
import pytest

import gradlab
from gradlab.sweeps.engine.hypergradients import hypergradients
from gradlab.sweeps.engine.lanes import Plan
from gradlab.sweeps.schedulers.hypergrad import Hypergrad, moving, points_of, trials_at
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial
from gradlab.tasks import TASKS

SPACE = Space(
    {
        "learning_rate": {"log": [1e-3, 1e1]},
        "nesterov": [False, True],
        "b1": {"one_minus": {"log": [1e-2, 1.0]}},
        "eps": 1e-8,
        "warmup": {"integer": [0, 10]},
        "width": {"integer": [1, 8], "structural": True},
        "b2": [0.9, 0.99],
    }
)
VALUES = {"learning_rate": 0.1, "nesterov": True, "b1": 0.9, "eps": 1e-8, "warmup": 4, "width": 3, "b2": 0.99}


def descend(points, minimum, curvature, rounds, **options):
    """The chains after so many rounds on a quadratic, and their costs after each."""
    scheduler, chains, history = Hypergrad(**options), None, []
    points = np.asarray(points, np.float64)
    for _ in range(rounds):
        away = points - minimum
        points, chains = scheduler.propose(points, curvature * away, 0.5 * (curvature * away**2).sum(1), chains)
        history.append(chains.costs)
    return chains, np.array(history)


def test_every_chain_finds_the_minimum_of_a_quadratic_and_never_gets_worse():
    starts = [[0.9, 0.1, 0.5], [0.0, 1.0, 0.0], [0.31, 0.62, 0.52]]
    chains, costs = descend(starts, [0.3, 0.6, 0.5], np.array([1.0, 5.0, 2.0]), rounds=80)
    np.testing.assert_allclose(chains.points, [[0.3, 0.6, 0.5]] * 3, atol=2e-3)
    assert (np.diff(costs, axis=0) <= 0).all()


def test_a_minimum_outside_is_approached_along_the_wall():
    chains, _ = descend([[0.5, 0.9]], [1.5, 0.3], np.ones(2), rounds=60)
    np.testing.assert_allclose(chains.points, [[1.0, 0.3]], atol=1e-3)
    chains, _ = descend([[0.5, 0.9]], [-0.5, 1.3], np.ones(2), rounds=60)
    np.testing.assert_array_equal(chains.points, [[0.0, 1.0]])


def test_steps_have_the_length_that_is_asked_for_then_grow_and_halve():
    scheduler = Hypergrad(step=0.1)
    gradient = np.array([[3.0, -4.0]])
    points, chains = scheduler.propose([[0.5, 0.5]], gradient, [2.0])
    np.testing.assert_allclose(points, [[0.44, 0.58]], rtol=1e-12)
    points, chains = scheduler.propose(points, [[0.0, 1.0]], [1.0], chains)  # better: 0.15 from there
    np.testing.assert_allclose(points, [[0.44, 0.43]], rtol=1e-12)
    points, chains = scheduler.propose(points, [[9.0, 9.0]], [1.0], chains)  # no better: half of it, from there again
    np.testing.assert_allclose(points, [[0.44, 0.505]], rtol=1e-12)
    np.testing.assert_allclose(chains.points, [[0.44, 0.58]], rtol=1e-12)
    assert chains.costs.tolist() == [1.0]
    np.testing.assert_allclose(chains.steps, [0.075], rtol=1e-12)


def test_along_a_wall_a_step_has_its_whole_length():
    points, _ = Hypergrad(step=0.1).propose([[1.0, 0.5], [0.0, 0.5]], [[-3.0, 4.0], [3.0, 4.0]], [1.0, 1.0])
    np.testing.assert_allclose(points, [[1.0, 0.4], [0.0, 0.4]], rtol=1e-12)


def test_each_chain_decides_for_itself():
    scheduler = Hypergrad(step=0.2)
    points, chains = scheduler.propose([[0.5], [0.5]], [[1.0], [1.0]], [1.0, 1.0])
    points, chains = scheduler.propose(points, [[1.0], [1.0]], [0.5, 2.0], chains)
    np.testing.assert_allclose(points, [[0.0], [0.4]], atol=1e-12)
    np.testing.assert_allclose(chains.points, [[0.3], [0.5]], rtol=1e-12)


@pytest.mark.parametrize("cost", [np.inf, np.nan])
def test_a_run_that_diverged_is_a_step_too_far(cost):
    scheduler = Hypergrad(step=0.2)
    points, chains = scheduler.propose([[0.5]], [[-1.0]], [1.0])
    points, chains = scheduler.propose(points, [[np.nan]], [cost], chains)
    np.testing.assert_allclose(points, [[0.6]], rtol=1e-12)
    assert chains.costs.tolist() == [1.0]


def test_a_start_that_diverged_gives_way_to_any_finite_cost():
    scheduler = Hypergrad()
    points, chains = scheduler.propose([[0.5]], [[np.nan]], [np.nan])
    assert points.tolist() == [[0.5]]
    _, chains = scheduler.propose([[0.4]], [[1.0]], [7.0], chains)
    assert (chains.points.tolist(), chains.costs.tolist()) == ([[0.4]], [7.0])


@pytest.mark.parametrize("gradient", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [5.0, -2.0]])
def test_a_chain_without_a_direction_stays(gradient):
    """The last of the gradients points out of the corner."""
    points, _ = Hypergrad().propose([[0.0, 1.0]], [gradient], [1.0])
    assert points.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_the_size_of_a_gradient_does_not_matter(size):
    points, _ = Hypergrad(step=0.1).propose([[0.5, 0.5]], [[3 * size, -4 * size]], [1.0])
    np.testing.assert_allclose(points, [[0.44, 0.58]], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"best": 0}, ValueError, "`best` must be >= 1, got 0"),
        ({"rounds": 1.5}, TypeError, "`rounds` must be a whole number"),
        ({"step": 0.0}, ValueError, "`step` must be in"),
        ({"step": 1.5}, ValueError, "`step` must be in"),
        ({"method": "forwards"}, ValueError, "unknown method 'forwards'; did you mean 'forward'"),
        ({"horizon": 0}, ValueError, "`horizon` must be >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Hypergrad(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.5]], [[1.0, 1.0]], [1.0]), "must have shape"),
        (([[0.5]], [[1.0]], [1.0, 1.0]), "must have shape"),
        (([[1.5]], [[1.0]], [1.0]), "unit cube, got 1.5"),
        (([[np.nan]], [[1.0]], [1.0]), "unit cube"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hypergrad().propose(*arguments)


def test_chains_keep_their_number():
    _, chains = Hypergrad().propose([[0.5], [0.6]], [[1.0], [1.0]], [1.0, 1.0])
    with pytest.raises(ValueError, match="the chains have points of shape"):
        Hypergrad().propose([[0.5]], [[1.0]], [1.0], chains)


def test_what_lies_in_a_range_moves_and_the_rest_is_the_parents():
    parent = Trial.of(VALUES)
    assert moving(SPACE) == ("learning_rate", "b1", "warmup")
    points = points_of(SPACE, [parent])
    np.testing.assert_allclose(points, [[0.5, 0.5, 4.5 / 11]], rtol=1e-9)
    assert trials_at(SPACE, [parent], points)[0].uid == parent.uid
    moved = trials_at(SPACE, [parent, parent], [[0.75, 0.5, 0.0], [0.5, 0.0, 1.0]])
    assert moved[0].values == VALUES | {"learning_rate": 1.0, "warmup": 0}
    assert moved[1].values == VALUES | {"b1": 0.99, "warmup": 10}
    assert list(moved[0].values) == list(VALUES)
    with pytest.raises(ValueError, match=r"`points` must have shape \(1, 3\), got \(1, 2\)"):
        trials_at(SPACE, [parent], [[0.5, 0.5]])


def test_it_improves_the_best_trials_of_a_coarse_grid():
    task, make = TASKS["digits_linear"](), gradlab.sgd
    space = Space({"learning_rate": {"log": [1e-4, 1e-1]}, "momentum": {"linear": [0.0, 0.8]}})
    runs, plan = {"seeds": 1, "steps": 20, "batch_size": 64}, Plan(20, 20, 64, "epoch")
    grid = space.from_unit(list(itertools.product([0.25, 0.75], repeat=2)))
    coarse = gradlab.sweep(task, make, space, trials=grid, **runs)
    scheduler = Hypergrad(best=2, rounds=4)
    by_uid = {trial.uid: trial for trial in coarse.trials}
    trials = [by_uid[uid] for uid in coarse.best(k=scheduler.best)["uid"]]
    parents, points, chains = trials, points_of(space, trials), None
    for _ in range(scheduler.rounds):
        found = hypergradients(task, make, space, trials, seeds=1, plan=plan, method=scheduler.method)
        points, chains = scheduler.propose(points, found.unit, found.costs, chains)
        trials = trials_at(space, parents, points)
    before = coarse.best(k=scheduler.best)["mean"]
    refined = gradlab.sweep(task, make, space, trials=trials_at(space, parents, chains.points), **runs)
    np.testing.assert_allclose(refined.summary()["mean"], chains.costs, rtol=1e-5)
    assert (chains.costs < 0.99 * before).all()
