import numpy as np
import pytest

from gradlab.plots.parallel import parallel_coordinates
from gradlab.plots.scales import before_training, ceiling_of, outcomes_of, scale_of
from gradlab.plots.style import axes_or_new
from tests.plots.sweeps import swept


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1e-4, 1e-3, 1e-2], True),
        ([0.1, 0.03, 0.01], True),
        ([1, 2, 4, 8], True),
        ([1, 2, 3], False),
        ([0, 1, 10], False),
        ([-1, 1, 10], False),
        ([1, 100], False),
        ([5], False),
        ([0.9, 0.95, 0.99], False),
    ],
)
def test_a_choice_of_numbers_is_spaced_as_it_was_listed(values, log):
    result = swept({"x": values}, [(value,) for value in values], [[5, 1]] * len(values))
    assert scale_of(result, "x").log == log


@pytest.mark.parametrize(
    ("values", "labels"),
    [([4, 1, 2], ["1", "2", "4"]), ([2, 5], ["2", "5"]), ([1e-4, 1e-3, 1e-2], ["1e-4", "0.001", "0.01"])],
)
def test_the_labels_of_a_choice_are_its_values(values, labels):
    result = swept({"x": values, "y": [1, 2, 4]}, [(value, 1) for value in values], [[5, 1]] * len(values))
    ax = axes_or_new(None)
    scale_of(result, "x").label_axis(ax, "x")
    ax.set_xlim(min(values), max(values))
    ax.figure.draw_without_rendering()
    assert [label.get_text() for label in ax.get_xticklabels()] == labels and not len(ax.get_xticks(minor=True))
    own = parallel_coordinates(result).figure.axes[1]  # the first is that of the lines
    own.figure.draw_without_rendering()
    assert [label.get_text() for label in own.get_yticklabels()] == labels


def test_a_choice_with_values_close_together_has_round_labels():
    values = [0.9, 0.95, 0.99]
    result = swept({"x": [*values, 0.0]}, [(value,) for value in values], [[5, 1]] * 3)
    assert scale_of(result, "x").listed == ()


def test_a_list_is_a_category():
    result = swept({"hidden": [(8,), (4, 4)]}, [((4, 4),), ((8,),)], [[5, 1], [5, 2]])
    scale = scale_of(result, "hidden")
    assert scale.ticks == ("[8]", "[4, 4]") and scale.values.tolist() == [1, 0]


def test_each_trial_has_one_outcome():
    values = [(0.1,), (0.2,), (0.3,), (0.4,)]
    outcome = np.array(["completed", "stopped", "stopped", "ended"])
    result = swept({"x": {"linear": [0, 1]}}, values, [[5, 1]] * 4, [-1, -1, 3, -1], outcome=outcome)
    completed, stopped, diverged = outcomes_of(result.summary())
    assert completed.tolist() == [True, False, False, True]
    assert stopped.tolist() == [False, True, False, False] and diverged.tolist() == [False, False, True, False]


def test_the_value_before_training_is_the_worst_of_the_finite_ones():
    result = swept({"x": [1, 2, 3]}, [(1,), (2,), (3,)], [[4, 1], [np.inf, 1], [6, 1]])
    assert before_training(result, "valid_loss", "min") == 6 and before_training(result, "valid_accuracy", "max") == 0.4
    assert ceiling_of(result, "valid_loss", "min") == 60 and ceiling_of(result, "valid_accuracy", "max") == np.inf
    later = swept({"x": [1]}, [(1,)], [[4, 1]], eval_step=[5, 10])
    assert np.isnan(before_training(later, "valid_loss", "min")) and ceiling_of(later, "valid_loss", "min") == np.inf
