import numpy as np
import pytest

from gradlab.sweeps.outcomes.boundary import Edge, at_edge, edges, is_numeric, place_in
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.spaces.dimensions import choice, fixed, integer, linear, log, one_minus
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial
from tests.sweeps.results import only_rates


@pytest.mark.parametrize(
    ("dimension", "value", "place"),
    [
        (linear(1, 3), 1.5, 0.25),
        (log(1e-4, 1e-2), 1e-3, 0.5),
        (one_minus(log(1e-4, 1e-2)), 0.999, 0.5),
        (one_minus(linear(0.1, 0.5)), 0.8, 0.25),
        (integer(1, 5), 2, 0.25),
        (integer(1, 16, log=True), 4, 0.5),
        (integer(1, 5, structural=True), 2, 0.25),
        (integer(1, 2), 2, None),
        (choice([3, 1, 2]), 3, 1.0),
        (choice([1e-4, 1e-3, 1e-2, 1e-1, 1.0]), 1e-3, 0.25),
        (choice([1, 2]), 2, None),
        (choice(["a", "b", "c"]), "a", None),
        (fixed(2), 2, None),
        (linear(1, 1), 1, None),
    ],
)
def test_places(dimension, value, place):
    found = place_in(dimension, value)
    assert (found is None) == (place is None)
    assert place is None or found == pytest.approx(place)


def test_an_edge_is_three_percent_wide_at_both_ends():
    values = [0.0, 0.0299, 0.0301, 0.5, 0.9699, 0.9701, 1.0]
    assert [at_edge(linear(0, 1), value) for value in values] == [True, True, False, False, False, True, True]
    assert at_edge(one_minus(log(1e-4, 1e-1)), 0.9) and not at_edge(choice(["a", "b"]), "a")


def test_what_is_numeric():
    assert is_numeric(integer(8, 64, structural=True)) and is_numeric(choice([1, 2])) and is_numeric(log(1, 2))
    assert is_numeric(choice([32, 64], structural=True)) and not is_numeric(choice([[64], [32, 32]]))
    assert not is_numeric(choice(["a", 1])) and not is_numeric(choice([True, False]))


def swept(losses, **changes):
    """Trials at the lower end, in the middle and at the upper end of every number."""
    space = Space({"rate": log(1e-4, 1e-2), "b2": one_minus(log(1e-3, 1e-1)), "rule": choice(["a", "b", "c"]), "k": 5})
    values = [(1e-4, 0.999, "a"), (1e-3, 0.99, "b"), (1e-2, 0.9, "c")]
    trials = [Trial.of({"rate": rate, "b2": b2, "rule": rule, "k": 5}) for rate, b2, rule in values]
    arrays = {
        "steps": 10,
        "loss": np.ones((3, 1, 1)),
        "loss_step": [0],
        "metrics": {
            "valid_loss": np.reshape(losses, (3, 1, 1)),
            "valid_accuracy": np.reshape([0.9, 0.1, 0.2], (3, 1, 1)),
        },
        "eval_step": [10],
        "diverged_at": np.full((3, 1), -1),
        "bucket": np.zeros(3, int),
        "compile_seconds": [0.0],
        "run_seconds": np.zeros(3),
    }
    return SweepResult.from_lanes(space, trials, [0], **arrays | changes)


def test_the_best_at_an_end_of_its_numbers():
    low, high = 1 - 1e-1, 1 - 1e-3
    assert edges(swept([1, 2, 3])) == [Edge("rate", 1e-4, 1e-4, 1e-2), Edge("b2", 0.999, low, high)]
    assert edges(swept([3, 2, 1])) == [Edge("rate", 1e-2, 1e-4, 1e-2), Edge("b2", 0.9, low, high)]
    assert edges(swept([2, 1, 3])) == []


def test_the_metric_and_the_mode_say_which_trial_is_best():
    result = swept([2, 1, 3])
    assert [edge.value for edge in edges(result, mode="max")] == [1e-2, 0.9]
    assert [edge.value for edge in edges(result, "valid_accuracy")] == [1e-4, 0.999]


def test_a_trial_that_diverged_is_not_at_the_edge():
    assert edges(swept([2, 1, 0], diverged_at=[[-1], [-1], [3]])) == []
    with pytest.raises(ValueError, match="no trial is best"):
        edges(only_rates([0.1, 1.0], [1.0, 2.0], diverged=[0, 1]))
