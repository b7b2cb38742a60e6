import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlab.plots import save_figure, slices
from gradlab.plots.slices import WARNING
from tests.plots.sweeps import by_label, swept

SPACE = {"learning_rate": {"log": [1e-4, 1]}, "rule": ["a", "b"], "b2": {"one_minus": {"log": [1e-3, 1e-1]}}, "k": 3}
VALUES = [(1e-4, "a", 0.9), (1e-3, "b", 0.99), (1e-2, "a", 0.999), (1e-1, "b", 0.95)]
CURVES = [[5, 1.0], [5, 2.0], [5, 3.0], [5, 4.0]]


def small(curves=CURVES, *rest, **changes):
    return swept(SPACE, [(*row, 3) for row in VALUES], curves, *rest, **changes)


def test_a_panel_for_each_number_that_varies_shows_all_trials():
    rates, b2 = slices(small())
    assert (rates.get_xlabel(), rates.get_xscale(), b2.get_xlabel(), b2.get_xscale()) == (
        "learning rate",
        "log",
        "1 - b2",
        "log",
    )
    np.testing.assert_array_equal(by_label(rates)["a trial"].get_xydata(), [[1e-4, 1], [1e-3, 2], [1e-2, 3], [1e-1, 4]])
    np.testing.assert_allclose(by_label(b2)["a trial"].get_xdata(), [0.1, 0.01, 0.001, 0.05])
    assert (rates.get_ylabel(), b2.get_ylabel()) == ("final validation loss", "")
    assert rates.get_shared_y_axes().joined(rates, b2)


def test_the_best_is_ringed_and_told_where_it_lies_at_the_edge():
    rates, b2 = slices(small())
    np.testing.assert_allclose(by_label(rates)["best: 1"].get_xydata(), [[1e-4, 1]])
    np.testing.assert_allclose(by_label(b2)["best: 1"].get_xydata(), [[0.1, 1]])
    assert (rates.get_title(), b2.get_title()) == (WARNING, WARNING)
    rates, b2 = slices(small([[5, 2.0], [5, 1.0], [5, 3.0], [5, 4.0]]))
    assert (rates.get_title().strip(), b2.get_title().strip()) == ("", "")
    rates, b2 = slices(small([[5, 2.0], [5, 3.0], [5, 1.0], [5, 4.0]]))
    assert (rates.get_title().strip(), b2.get_title()) == ("", WARNING)
    rates, b2 = slices(small(), mode="max")
    assert "best: 4" in by_label(rates) and (rates.get_title().strip(), b2.get_title().strip()) == ("", "")


@pytest.mark.parametrize(("metric", "edge"), [("valid_loss", "y1"), ("valid_accuracy", "y0")])
def test_trials_that_diverged_are_crosses_on_the_edge_of_the_worst(metric, edge):
    rates, b2 = slices(small(CURVES, [-1, -1, 5, 7]), metric)
    for ax, places in ((rates, [1e-2, 1e-1]), (b2, [0.001, 0.05])):
        crosses = by_label(ax)["diverged: 2"]
        np.testing.assert_allclose(crosses.get_xdata(), places)
        ax.figure.draw_without_rendering()
        height = crosses.get_transform().transform(crosses.get_xydata())[:, 1]
        np.testing.assert_allclose(height, getattr(ax.bbox, edge))
        assert len(by_label(ax)["a trial"].get_xdata()) == 2


def test_trials_that_were_stopped_are_hollow_and_never_the_best():
    outcome = np.array(["stopped", "completed", "stopped", "completed"])
    (rates, _) = slices(small(outcome=outcome))
    stopped = by_label(rates)["stopped: 2"]
    np.testing.assert_array_equal(stopped.get_xydata(), [[1e-4, 1], [1e-2, 3]])
    assert stopped.get_markerfacecolor() == "none" and "best: 2" in by_label(rates)
    np.testing.assert_array_equal(by_label(rates)["a trial"].get_xdata(), [1e-3, 1e-1])


def test_losses_far_above_the_start_are_drawn_at_ten_times_it():
    (rates, _) = slices(small([[5, 1.0], [5, 49.0], [5, 51.0], [4, 1e30]]))
    np.testing.assert_array_equal(by_label(rates)["a trial"].get_ydata(), [1, 49, 50, 50])
    assert [text.get_text() for text in rates.texts] == ["50 and more"]
    assert rates.get_ylim()[1] < 100 and rates.get_yscale() == "log"
    (rates, _) = slices(small())
    assert not rates.texts and rates.get_yscale() == "log"


def test_rows_have_four_panels():
    names = [f"x{index}" for index in range(6)]
    space = {name: {"linear": [0, 1]} for name in names}
    panels = slices(swept(space, np.random.default_rng(0).random((5, 6)).tolist(), [[5, i + 1.0] for i in range(5)]))
    assert [ax.get_xlabel() for ax in panels] == names
    assert [bool(ax.get_ylabel()) for ax in panels] == [True, False, False, False, True, False]
    assert panels[0].figure.axes == panels
    assert panels[3].get_legend() is not None and panels[5].get_legend() is None


def test_in_given_axes(tmp_path):
    figure = Figure()
    given = figure.subplots(1, 2)
    assert slices(small(), axes=given) == list(given)
    assert [ax.get_ylabel() for ax in given] == ["final validation loss"] * 2
    save_figure(figure, tmp_path / "slices.png")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"need 2 axes, got 1"):
        slices(small(), axes=[Figure().subplots()])
    with pytest.raises(ValueError, match="need a number that varies"):
        slices(swept({"rule": ["a", "b"]}, [("a",), ("b",)], [[5, 1], [5, 2]]))
    with pytest.raises(ValueError, match="no trial is best"):
        slices(small(CURVES, [1, 1, 1, 1]))
