import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlab.plots.lr_finder import lr_finder

RATES = np.logspace(-4, 0, 5)
LOSSES = np.array([2.0, 1.8, 1.0, 1.5, 1e9])


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_curve_is_drawn_over_the_logarithm_of_the_rate():
    ax = lr_finder(RATES, LOSSES)
    np.testing.assert_array_equal(by_label(ax)["loss"].get_xydata(), np.column_stack([RATES, LOSSES]))
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlim()) == ("log", "linear", (1e-4, 1.0))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "loss after the update")


def test_what_explodes_does_not_flatten_the_rest():
    low, high = lr_finder(RATES, LOSSES).get_ylim()
    np.testing.assert_allclose([low, high], [1 - 0.1, 2 + 0.4])
    low, high = lr_finder(RATES[:4], LOSSES[:4]).get_ylim()
    np.testing.assert_allclose([low, high], [1 - 0.1, 2 + 0.1])


def test_a_suggestion_is_marked_on_the_smoothed_curve():
    smoothed = np.array([2.0, 1.5, 1.25, 1.75, np.nan])
    ax = lr_finder(RATES, LOSSES, smoothed=smoothed, suggestions={"valley": 10**-2.5, "steepest": np.nan})
    lines = by_label(ax)
    np.testing.assert_allclose(lines["valley: 0.00316"].get_xydata(), [[10**-2.5, 1.375]])
    assert legend(ax) == ["loss", "smoothed loss", "valley: 0.00316", "steepest: no suggestion"]
    assert lines["steepest: no suggestion"].get_xdata().size == 0
    np.testing.assert_array_equal(lines["smoothed loss"].get_ydata(), smoothed)


@pytest.mark.parametrize(("at", "shown"), [(3, True), (5, False), (-1, False), (None, False)])
def test_a_divergence_is_marked_where_it_was(at, shown):
    ax = lr_finder(RATES, LOSSES, diverged_at=at)
    assert ("diverged at 0.1" in legend(ax)) == shown
    if shown:
        np.testing.assert_allclose(by_label(ax)["diverged at 0.1"].get_xdata(), [0.1, 0.1])


def test_seeds_are_a_median_in_a_band():
    runs = np.array([LOSSES, LOSSES + 1, LOSSES + 5])
    ax = lr_finder(RATES, runs)
    np.testing.assert_array_equal(by_label(ax)["loss"].get_ydata(), LOSSES + 1)
    corners = {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices}
    assert set(zip(RATES, runs.min(0), strict=True)) | set(zip(RATES, runs.max(0), strict=True)) <= corners
    assert "range of 3 seeds" in legend(ax)


def test_it_is_drawn_in_the_axes_given():
    ax = Figure().subplots()
    assert lr_finder(RATES, LOSSES, ax=ax) is ax


@pytest.mark.parametrize(
    ("rates", "losses", "message"),
    [
        (RATES, LOSSES[:3], r"`losses` must have the shape \(\[seeds,\] 5\), got \(3,\)"),
        (RATES - 1e-4, LOSSES, "numbers above 0"),
        (RATES, np.full(5, np.nan), "no loss is finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rates, losses, message):
    with pytest.raises(ValueError, match=message):
        lr_finder(rates, losses)
