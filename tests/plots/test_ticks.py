"""Labels of logarithmic axes: round, few, and never over one another."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlab.plots.ticks import LEAST, RoundLocator, logarithmic, round_label

DECADES = (0.05, 0.3, 0.7, 1.0, 1.3, 1.7, 2.0, 2.5, 3.0, 4.5, 5.2, 6.0, 7.0)


def panel(low, high, width):
    """A panel of a width in inches that shows the numbers from `low` to `high`, drawn."""
    figure = Figure(figsize=(width, 2.0), layout="constrained")
    ax = figure.subplots()
    logarithmic(ax, "x")
    ax.set_xlim(low, high)
    figure.canvas.draw()
    return ax


def shown(ax):
    """Labels in view and their boxes, from left to right."""
    low, high = sorted(ax.get_xlim())
    labels = [
        label
        for label, place in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)
        if low * (1 - 1e-9) <= place <= high * (1 + 1e-9)
    ]
    return [label.get_text() for label in labels], [label.get_window_extent() for label in labels]


@pytest.mark.parametrize("decades", DECADES)
@pytest.mark.parametrize("start", (1.0, 1.4, 2.1, 4.5, 7.3, 9.6))
def test_a_narrow_panel_has_labels_that_do_not_touch(start, decades):
    texts, boxes = shown(panel(start * 1e-4, start * 1e-4 * 10**decades, width=2.4))
    assert len(texts) >= LEAST["x"]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(sorted(boxes, key=lambda box: box.x0)))


def test_small_marks_have_no_labels():
    assert not "".join(label.get_text() for label in panel(1e-4, 1e-3, 2.4).get_xticklabels(minor=True))


def test_an_axis_that_falls_has_the_same_ticks():
    rising, falling = (RoundLocator(3).tick_values(*ends) for ends in ((2e-3, 0.2), (0.2, 2e-3)))
    np.testing.assert_array_equal(rising, falling)


def test_labels_say_what_they_stand_for():
    for value in np.concatenate([10.0 ** np.arange(-9, 9), 3 * 10.0 ** np.arange(-9, 9), [2.5e-6, 0.0125]]):
        np.testing.assert_allclose(float(round_label(float(value))), value, rtol=1e-12)
