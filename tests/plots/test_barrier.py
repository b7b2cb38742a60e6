import numpy as np
import pytest

from gradlab.plots import save_figure
from gradlab.plots.barrier import barrier_curves

XS = np.linspace(0, 1, 5)
HILL = np.array([1.0, 2.0, 4.0, 3.0, 2.0])  # 2.5 above the line between its ends, at 1/2


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_barrier_is_measured_from_the_line_between_the_ends(tmp_path):
    ax = barrier_curves(XS, {"line": HILL, "curve": [1.0, 0.5, 0.5, 0.5, 2.0]}, ends=("SGD", "Adam"), title="digits")
    assert texts(ax) == ["line: barrier 2.5", "curve: barrier 0"]
    below, path, *_ = ax.lines
    np.testing.assert_array_equal(below.get_xydata(), np.column_stack([XS, 1 + XS]))
    np.testing.assert_array_equal(path.get_xydata(), np.column_stack([XS, HILL]))
    (arrow,) = ax.texts
    assert (arrow.xy, arrow.get_position()) == ((0.5, 4.0), (0.5, 1.5))
    assert (ax.get_xlabel(), ax.get_title()) == ("position between SGD (0) and Adam (1)", "digits")
    save_figure(ax, tmp_path / "barrier.png")


def test_one_path_needs_no_name():
    assert texts(barrier_curves(XS, HILL)) == ["straight line: barrier 2.5"]


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_path_with_a_hole_has_no_known_height(lost):
    ax = barrier_curves(XS, {"a": [1.0, lost, 4.0, 3.0, 2.0], "b": HILL})
    assert texts(ax) == ["a: height unknown", "b: barrier 2.5"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [1.0, np.nan, 4.0, 3.0, 2.0])
    assert len(ax.texts) == 1


@pytest.mark.parametrize(
    ("xs", "losses", "message"),
    [
        (XS[::-1], HILL, "ascend from 0 to 1"),
        (XS[1:], HILL[1:], "ascend from 0 to 1"),
        (XS[[0, -1]], HILL[[0, -1]], "at least one position between"),
        (XS, {"a": HILL[1:]}, r"path 'a' must have 5 losses, got the shape \(4,\)"),
        (XS, {}, "nothing to draw"),
        (XS, HILL * np.nan, "nothing to draw"),
    ],
)
def test_what_cannot_be_drawn_is_refused(xs, losses, message):
    with pytest.raises(ValueError, match=message):
        barrier_curves(xs, losses)
