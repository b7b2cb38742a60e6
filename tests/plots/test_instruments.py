"""The panels of what instruments saw: which there are, their scales, gaps and errors."""

import numpy as np
import pytest

from gradlab.plots import instrument_panels

STEP = np.array([0, 10, 20])


def titles(series):
    return [ax.get_ylabel() for ax in instrument_panels(STEP, series)]


def test_each_question_has_its_panel_and_the_users_own_come_last():
    series = {
        "mine/a": [1.0, 2.0, 3.0],
        "mine/b": [1.0, 2.0, 3.0],
        "stability/sharpness": [1.0, 2.0, 3.0],
        "stability/threshold": [4.0, 4.0, 4.0],
        "norms/grads": [1.0, 1.0, 1.0],
        "noise/scale_error": [1.0, 1.0, 1.0],
    }
    assert titles(series) == ["norms", "sharpness", "mine"]


def test_lines_are_the_numbers_with_gaps():
    (ax,) = instrument_panels(STEP, {"health/ratio": [np.nan, 2e-3, np.inf]})
    line = ax.get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), STEP)
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 2e-3, np.nan])


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1.0, 1.1, 1.2], "linear"), ([0.0, 1e-3, 1.0], "log"), ([-1e-4, 1e-4, 1.0], "symlog"), ([-1, 0.5, 1], "linear")],
)
def test_a_panel_has_the_scale_that_shows_its_numbers(values, scale):
    (ax,) = instrument_panels(STEP, {"mine/x": values})
    assert ax.get_yscale() == scale


def test_counts_are_shown_only_if_there_is_something_to_count():
    quiet = {"health/grads": [1.0, 2.0, 2.0], "health/nonfinite": [0.0, 0.0, 0.0]}
    assert titles(quiet) == ["norms"]
    assert titles(quiet | {"health/nonfinite": [0.0, 3.0, 0.0]}) == ["norms", "nonfinite"]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        instrument_panels(STEP, {"norms/grads": [np.nan] * 3})
    with pytest.raises(ValueError, match=r"'norms/grads' must have the shape of `step`, \(3,\), got \(2,\)"):
        instrument_panels(STEP, {"norms/grads": [1.0, 2.0]})
