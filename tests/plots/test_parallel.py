import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlab.plots import parallel_coordinates, save_figure
from tests.plots.sweeps import swept

SPACE = {"learning_rate": {"log": [1e-4, 1]}, "rule": ["a", "b", None], "width": {"linear": [0, 8]}, "k": 3}
VALUES = [(1e-4, "a", 2.0, 3), (1e-2, "b", 6.0, 3), (1e-3, None, 4.0, 3), (1e-1, "a", 2.0, 3)]
FINALS = np.array([[2.0], [1.0], [2.5], [0.5]])


def small(finals=FINALS, *rest, **changes):
    return swept(SPACE, VALUES, np.concatenate([np.full((4, 1), 5.0), finals], axis=1), *rest, **changes)


def lines(collection):
    return [segment.tolist() for segment in collection.get_segments()]


def test_each_trial_is_a_line_through_its_values_the_best_on_top():
    ax = parallel_coordinates(small())
    diverged, stopped, ranked = ax.collections
    assert not lines(diverged) and not lines(stopped)
    heights = np.array([np.array(line)[:, 1] for line in lines(ranked)])
    a, b, none = 0.1, 0.5, 0.9  # three categories, with a margin of a quarter at the ends
    final = (np.log10([2.5, 2.0, 1.0, 0.5]) - np.log10(0.5)) / np.log10(5)
    expected = [[1 / 3, none, 0.5, final[0]], [0, a, 0, final[1]], [2 / 3, b, 1, final[2]], [1, a, 0, final[3]]]
    np.testing.assert_allclose(heights, expected, atol=1e-12)
    assert (np.array(lines(ranked))[:, :, 0] == range(4)).all()
    assert ranked.get_array().tolist() == [3, 2, 1, 0] and ranked.get_linewidth() == [1.2, 1.2, 1.2, 3.0]
    dark, light = (np.sum(ranked.cmap(ranked.norm(rank))[:3]) for rank in (0, 3))
    assert dark < light


def test_axes_have_names_scales_and_ticks():
    ax = parallel_coordinates(small())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "learning rate",
        "rule",
        "width",
        "final validation loss",
    ]
    rate, rule, width, final = ax.figure.axes[1:]
    assert [own.get_yscale() for own in (rate, rule, width, final)] == ["log", "linear", "linear", "log"]
    np.testing.assert_allclose(rate.get_ylim(), (1e-4, 1e-1))
    np.testing.assert_allclose(width.get_ylim(), (2, 6))
    np.testing.assert_allclose(final.get_ylim(), (0.5, 2.5))
    assert [tick.get_text() for tick in rule.get_yticklabels()] == ["a", "b", "None"]
    assert [own.spines["right"].get_position() for own in (rate, rule)] == [("data", 0), ("data", 1)]


def test_more_is_better_for_accuracies():
    ranked = parallel_coordinates(small(), "valid_accuracy").collections[2]
    assert [line[-1][1] for line in lines(ranked)] == sorted(line[-1][1] for line in lines(ranked))
    assert [line[-1][1] for line in lines(parallel_coordinates(small(), mode="max").collections[2])][-1] == 1.0


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_trial_that_diverged_ends_before_the_last_axis():
    ax = parallel_coordinates(small(FINALS, [-1, 3, -1, -1]))
    diverged, _, ranked = ax.collections
    (line,) = lines(diverged)
    np.testing.assert_allclose(line, [[0, 2 / 3], [1, 0.5], [2, 1]])
    assert len(lines(ranked)) == 3 and legend(ax) == ["best: 0.5", "diverged: 1"]


def test_a_trial_that_was_stopped_has_no_rank():
    ax = parallel_coordinates(small(outcome=np.array(["completed", "completed", "completed", "stopped"])))
    _, stopped, ranked = ax.collections
    (line,) = lines(stopped)
    np.testing.assert_allclose(line, [[0, 1], [1, 0.1], [2, 0], [3, 0]])
    assert len(lines(ranked)) == 3 and legend(ax) == ["best: 1", "stopped: 1"]


def test_the_last_axis_ends_at_ten_times_the_start():
    ax = parallel_coordinates(small(np.array([[2.0], [1.0], [1e30], [0.5]])))
    np.testing.assert_allclose(ax.figure.axes[-1].get_ylim(), (0.5, 50))
    assert ax.get_xticklabels()[-1].get_text() == "final validation loss,\n50 and more on top"


def test_equal_values_run_through_the_middle(tmp_path):
    result = swept({"b1": {"linear": [0, 1]}, "b2": {"linear": [0, 1]}}, [(0.5, 0.1), (0.5, 0.2)], [[5, 1], [5, 1]])
    ax = parallel_coordinates(result, ax=Figure().subplots())
    assert [(line[0][1], line[2][1]) for line in lines(ax.collections[2])] == [(0.5, 0.5), (0.5, 0.5)]
    save_figure(ax, tmp_path / "parallel.png")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no trial is best"):
        parallel_coordinates(small(FINALS, [1, 1, 1, 1]))
    with pytest.raises(ValueError, match="unknown mode"):
        parallel_coordinates(small(), mode="most")
