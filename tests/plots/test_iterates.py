import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlab.plots.iterates import MARKED, iterates

X = np.linspace(-3.0, 3.0, 601)


def descent(rate, steps=10):
    """On x^2 from 2."""
    return 2 * (1 - 2 * rate) ** np.arange(steps)


def test_points_lie_on_the_curve_above_their_places_over_the_steps():
    upper, lower = iterates(X, X**2, {"0.1": descent(0.1), "0.9": descent(0.9)}, minima=[0.0], title="square")
    curve, *points, star = upper.lines
    np.testing.assert_array_equal(curve.get_xydata(), np.column_stack([X, X**2]))
    for above, below, rate in zip(points, lower.lines, (0.1, 0.9), strict=True):
        np.testing.assert_allclose(above.get_xdata(), descent(rate))
        np.testing.assert_allclose(above.get_ydata(), descent(rate) ** 2, atol=1e-4)
        np.testing.assert_allclose(below.get_xydata(), np.column_stack([descent(rate), np.arange(10)]))
        assert above.get_color() == below.get_color()
    np.testing.assert_array_equal(star.get_xydata(), [[0, 0]])
    assert upper.get_xlim() == lower.get_xlim() == (-3, 3)
    assert lower.yaxis_inverted() and (lower.get_xlabel(), lower.get_ylabel()) == ("x", "step")
    assert (upper.get_title(), upper.get_ylabel()) == ("square", "f(x)")
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["0.1", "0.9"]


@pytest.mark.parametrize("end", [5.0, np.inf, np.nan, -np.inf])
def test_a_path_ends_at_its_first_point_outside(end):
    upper, lower = iterates(X, X**2, {"1.2": [2.0, -2.8, end, 1.0]})
    np.testing.assert_array_equal(lower.lines[0].get_xdata(), [2.0, -2.8, end])
    np.testing.assert_array_equal(upper.lines[1].get_xdata(), [2.0, -2.8])
    assert lower.get_legend().get_texts()[0].get_text() == "1.2 (leaves the picture)"


def test_of_long_paths_the_first_points_are_on_the_curve():
    upper, lower = iterates(X, X**2, {"slow": descent(0.001, 500)})
    assert len(upper.lines[1].get_xdata()) == MARKED and len(lower.lines[0].get_xdata()) == 500


def test_it_is_drawn_in_the_axes_given():
    axes = Figure().subplots(2)
    assert iterates(X, X**2, {"a": [1.0]}, axes=axes) == tuple(axes)


@pytest.mark.parametrize(
    ("x", "y", "paths", "message"),
    [
        (X, X[:5], {"a": [1.0]}, "ascending `x` and one `y` for each"),
        (X[::-1], X, {"a": [1.0]}, "ascending `x`"),
        (X, X, {}, "at least one path"),
        (X, X, {"a": [[1.0]]}, r"path 'a' must have the shape \(steps,\)"),
        (X, X, {"a": [7.0, 1.0]}, "begins at 7, outside of the picture from -3 to 3"),
        (X, X, {"a": [np.nan]}, "begins at nan, outside"),
    ],
)
def test_what_cannot_be_drawn_is_refused(x, y, paths, message):
    with pytest.raises(ValueError, match=message):
        iterates(x, y, paths)
