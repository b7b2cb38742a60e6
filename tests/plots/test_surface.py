import numpy as np
import pytest

from gradlab.plots import save_figure, trajectory

X, Y = np.linspace(-2, 2, 41), np.linspace(-1, 1, 21)
BOWL = X**2 + 3 * Y[:, None] ** 2


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def test_paths_starts_ends_and_minima_are_where_they_are():
    paths = {"a": [[1.0, 0.5], [0.5, 0.2], [0.1, 0.0]], "b": [[1.0, 0.5], [-1.0, 0.9]]}
    ax = trajectory(X, Y, BOWL, paths, minima=[[0, 0]], saddles=[[1, -1]], labels=("u", "v"), title="bowl")
    lines = by_label(ax)
    for name, path in paths.items():
        np.testing.assert_array_equal(lines[name].get_xydata(), path)
    squares = [tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "s" and len(line.get_xydata())]
    assert squares == [(0.1, 0.0), (-1.0, 0.9)]
    np.testing.assert_array_equal(lines["start"].get_xydata(), [[1.0, 0.5]])
    np.testing.assert_array_equal(lines["minimum"].get_xydata(), [[0, 0]])
    np.testing.assert_array_equal(lines["saddle point"].get_xydata(), [[1, -1]])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("u", "v", "bowl")
    assert (ax.get_xlim(), ax.get_ylim()) == ((-2, 2), (-1, 1))


def test_contours_have_the_height_they_say():
    lines = trajectory(X, Y, BOWL + 7, {"a": [[1.0, 0.5]]}).collections[1]
    tops = 7.0 * np.logspace(-4, 0, 16)
    np.testing.assert_allclose(lines.levels, tops)
    points = lines.get_paths()[12].vertices
    np.testing.assert_allclose(points[:, 0] ** 2 + 3 * points[:, 1] ** 2, tops[12], rtol=0.02)


def test_paths_end_before_they_are_not_finite_and_say_when_they_leave():
    paths = {"lost": [[1.0, 0.5], [0.5, 0.0], [np.nan, 1.0], [0.0, 0.0]], "far": [[1.0, 0.5], [3.0, 0.0]]}
    lines = by_label(trajectory(X, Y, BOWL, paths))
    np.testing.assert_array_equal(lines["lost"].get_xydata(), [[1.0, 0.5], [0.5, 0.0]])
    assert "far (leaves the picture)" in lines


def test_shapes_that_do_not_fit_say_why():
    with pytest.raises(ValueError, match=r"\(21, 41\), got \(41, 21\)"):
        trajectory(X, Y, BOWL.T, {})
    with pytest.raises(ValueError, match=r"path 'a' must have shape \(steps, 2\), got \(3,\)"):
        trajectory(X, Y, BOWL, {"a": [1, 2, 3]})
    with pytest.raises(ValueError, match="path 'a' begins at"):
        trajectory(X, Y, BOWL, {"a": [[np.nan, 0.0], [1.0, 1.0]]})


def test_a_flat_surface_and_no_paths_are_drawn(tmp_path):
    save_figure(trajectory(X, Y, np.zeros_like(BOWL), {"a": [[0.0, 0.0]]}), tmp_path / "flat.png")
    save_figure(trajectory(X, Y, BOWL, {}), tmp_path / "empty.png")
