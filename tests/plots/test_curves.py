import types

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from gradlab.plots import history, learning_curves, race
from tests.sweeps.results import VALID_LOSS, only_rates, small_result


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def test_learning_curves_show_mean_and_range_of_the_best():
    ax = learning_curves(small_result(), k=2)
    for line, trial in zip(ax.lines, (1, 0), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [0, 5, 10])
        np.testing.assert_allclose(line.get_ydata(), VALID_LOSS[trial].mean(0))
    bands = [band for band in ax.collections if not isinstance(band, LineCollection)]
    corners = bands[0].get_paths()[0].vertices
    for step, low, high in zip([0, 5, 10], VALID_LOSS[1].min(0), VALID_LOSS[1].max(0), strict=True):
        heights = corners[corners[:, 0] == step, 1]
        assert (heights.min(), heights.max()) == (low, high)
    assert legend(ax) == ["learning rate 0.01, decay None", "learning rate 0.1, decay cosine"]
    assert ax.get_title() == "2 best of 3 trials, 1 diverged"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "validation loss")


def test_the_other_trials_are_grey_up_to_their_divergence():
    ax = learning_curves(small_result(), k=1)
    (grey,) = [collection for collection in ax.collections if isinstance(collection, LineCollection)]
    first, last = grey.get_segments()
    np.testing.assert_allclose(first[:, 1], VALID_LOSS[0].mean(0))
    np.testing.assert_allclose(last, [[0, 3.0], [5, 0.375]])


def test_nothing_shown_is_clipped():
    ax = learning_curves(small_result(), k=2)
    low, high = ax.get_ylim()
    assert low < VALID_LOSS[:2].min() and high > 3.0


def test_losses_that_span_decades_get_a_logarithmic_axis():
    values = np.array([[[1.0, 1e-3]], [[1.0, 1e-2]]])
    assert (
        learning_curves(only_rates([0.1, 0.2], [1, 1], metrics={"a": values}, eval_step=[0, 1])).get_yscale() == "log"
    )
    values = values - 0.5
    assert (
        learning_curves(only_rates([0.1, 0.2], [1, 1], metrics={"a": values}, eval_step=[0, 1])).get_yscale()
        == "linear"
    )


def test_accuracies_and_single_evaluations_get_a_linear_axis():
    accuracy = np.array([[[0.01, 0.9]], [[0.01, 0.5]]])
    ax = learning_curves(only_rates([0.1, 0.2], [1, 1], metrics={"valid_accuracy": accuracy}, eval_step=[0, 1]))
    assert ax.get_yscale() == "linear"
    assert learning_curves(only_rates([0.1, 0.2], [1.0, 1.0])).get_yscale() == "linear"


def run(**metrics):
    return types.SimpleNamespace(loss=2.0 ** -np.arange(6.0), eval_step=np.array([0, 3, 6]), metrics=metrics)


def test_history_shows_loss_and_metrics_on_their_axes():
    ax = history(run(loss=np.array([1, 0.5, 0.25]), accuracy=np.array([0.1, 0.5, 0.9])))
    left, right = ax, ax.figure.axes[1]
    np.testing.assert_array_equal(by_label(left)["training loss, each step"].get_ydata(), 2.0 ** -np.arange(6.0))
    np.testing.assert_array_equal(by_label(left)["evaluated loss"].get_xydata(), [[0, 1], [3, 0.5], [6, 0.25]])
    np.testing.assert_array_equal(by_label(right)["accuracy"].get_xydata(), [[0, 0.1], [3, 0.5], [6, 0.9]])
    assert left.get_yscale() == "log" and right.get_yscale() == "linear"
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy")
    assert legend(ax) == ["training loss, each step", "evaluated loss", "accuracy"]  # the mean of each step is itself


def test_history_averages_long_runs():
    loss = np.arange(1000.0) + 1
    ax = history(types.SimpleNamespace(loss=loss, eval_step=[], metrics={}))
    x, y = by_label(ax)["training loss, averaged"].get_data()
    np.testing.assert_allclose(y, loss.reshape(100, 10).mean(1))
    np.testing.assert_allclose(x, np.arange(1000.0).reshape(100, 10).mean(1))
    assert len(ax.figure.axes) == 1
    assert legend(ax) == ["training loss, each step", "training loss, averaged"]


def test_history_of_negative_losses_is_linear():
    assert history(types.SimpleNamespace(loss=[-1.0, -2.0], eval_step=[], metrics={})).get_yscale() == "linear"


def test_a_race_draws_medians_with_ranges_on_a_logarithmic_axis():
    several = np.array([[1.0, 0.1], [4.0, 0.4], [2.0, 0.3]])
    ax = race({"adam": [3.0, 0.5], "sgd": several}, step=[0, 10], ylabel="f", title="two")
    np.testing.assert_array_equal(by_label(ax)["adam"].get_xydata(), [[0, 3.0], [10, 0.5]])
    np.testing.assert_array_equal(by_label(ax)["sgd"].get_ydata(), [2.0, 0.3])
    corners = ax.collections[0].get_paths()[0].vertices
    assert {(0, 1.0), (0, 4.0), (10, 0.1), (10, 0.4)} <= {tuple(corner) for corner in corners}
    assert ax.get_yscale() == "log" and (ax.get_ylabel(), ax.get_title()) == ("f", "two")
    assert legend(ax) == ["sgd", "adam"]


def test_a_race_draws_zero_at_the_floor():
    ax = race({"newton": [1.0, 1e-3, 0.0, -1e-20]}, floor=1e-6)
    np.testing.assert_array_equal(by_label(ax)["newton"].get_ydata(), [1.0, 1e-3, 1e-6, 1e-6])
    assert [text.get_text() for text in ax.texts] == ["1e-06 and less"]
    assert ax.get_ylim()[0] < 1e-6
    assert not race({"adam": [1.0, 0.1]}, floor=1e-6).texts


def test_a_race_names_who_diverged_and_keeps_the_others_visible():
    ax = race({"safe": [1.0, 0.5, 0.1], "lost": [1.0, 1e60, np.nan], "far": [1.0, 10.0, 1e20]})
    assert legend(ax) == ["safe", "far (diverged)", "lost (diverged)"]
    assert ax.get_ylim()[1] < 1e4
    np.testing.assert_array_equal(by_label(ax)["far (diverged)"].get_ydata(), [1.0, 10.0, 1e20])


def test_a_race_of_nobody_is_drawn_only_if_somebody_runs():
    with pytest.raises(ValueError, match="at least one"):
        race({})
    with pytest.raises(ValueError, match="must be positive, got 0"):
        race({"a": [1.0]}, floor=0)
    assert legend(race({"a": [np.nan, np.nan]})) == ["a"]


def test_pictures_are_drawn_in_the_axes_given():
    ax = Figure().subplots()
    assert race({"a": [1.0, 2.0]}, ax=ax) is ax
    assert learning_curves(small_result(), ax=ax) is ax
    assert history(run(), ax=ax) is ax
