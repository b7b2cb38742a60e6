import numpy as np
import pytest
from matplotlib.colors import LogNorm

from gradlab.plots import save_figure
from gradlab.plots.landscape import landscape, landscape_surface, path_plane
from gradlab.plots.noise_scale import noise_scale

X, Y = np.linspace(-2, 2, 21), np.linspace(-1, 1, 11)
BOWL = 0.1 + X**2 + 3 * Y[:, None] ** 2
PATHS = {"a": [[1.0, 0.5], [0.5, 0.2], [np.nan, 0.0], [0.1, 0.0]], "b": [[1.0, 0.5], [-1.0, 0.9]]}
TRUE = {"a": [2.0, 0.9, 0.5, 0.2]}


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def marked(ax, marker):
    return [tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == marker and len(line.get_xydata())]


def test_paths_starts_ends_minima_and_true_losses_are_where_they_are():
    ax = landscape(X, Y, BOWL, PATHS, path_losses=TRUE, minima=[[0, 0]], labels=("u", "v"), title="bowl")
    np.testing.assert_array_equal(by_label(ax)["a"].get_xydata(), [[1.0, 0.5], [0.5, 0.2], [0.1, 0.0]])
    assert marked(ax, "o") == [(1.0, 0.5)] * 2 and marked(ax, "s") == [(0.1, 0.0), (-1.0, 0.9)]
    assert marked(ax, "*") == [(0.0, 0.0)]
    dots = ax.collections[2]
    np.testing.assert_array_equal(dots.get_offsets(), [[1.0, 0.5], [0.5, 0.2], [0.1, 0.0]])
    np.testing.assert_allclose(dots.get_array(), [2.0, 0.9, 0.2])
    assert dots.norm is ax.collections[0].norm  # the colours of the plane
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("u", "v", "bowl")
    assert "true loss (colour)" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_colours_are_logarithmic_where_it_suits_and_end_at_a_quantile():
    levels = landscape(X, Y, BOWL).collections[0].levels
    np.testing.assert_allclose(levels[[0, -1]], [0.1, np.quantile(BOWL, 0.98)])
    np.testing.assert_allclose(np.diff(np.log(levels)), np.log(levels[1] / levels[0]))
    shown = landscape(X, Y, BOWL - 5).collections[0]
    assert not isinstance(shown.norm, LogNorm)
    np.testing.assert_allclose(np.diff(shown.levels), shown.levels[1] - shown.levels[0])


def test_infinite_losses_are_holes(tmp_path):
    holes = BOWL.copy()
    holes[0, 0], holes[0, 1] = np.inf, np.nan
    ax = landscape(X, Y, holes)
    assert np.isfinite(ax.collections[0].levels).all()
    save_figure(ax, tmp_path / "holes.png")
    save_figure(landscape(X, Y, np.zeros_like(BOWL), PATHS), tmp_path / "flat.png")


def test_a_path_plane_says_what_it_explains_and_what_a_random_walk_would():
    path = np.array(PATHS["b"])
    ax = path_plane(
        X, Y, BOWL, path, path_losses=[1.0, 2.0], distance=[0.5, 0.1], shares=[0.925, 0.05], null=[0.811, 0.09]
    )
    assert ax.get_xlabel() == "component 1: 92.5% (a random walk: 81.1%)"
    assert ax.get_ylabel() == "component 2: 5.0% (a random walk: 9.0%)"
    length = np.linalg.norm(path[1] - path[0])
    assert ax.get_title() == f"up to 0.5 from the plane, in which the path has length {length:.3g}"


def test_the_surface_has_paths_at_their_true_losses(tmp_path):
    ax = landscape_surface(X, Y, BOWL, {"a": PATHS["a"]}, path_losses=TRUE, title="bowl")
    line = by_label(ax)["a"].get_data_3d()
    np.testing.assert_allclose(line, [[1.0, 0.5, 0.1], [0.5, 0.2, 0.0], np.log10([2.0, 0.9, 0.2])])
    save_figure(ax, tmp_path / "surface.png")
    plain = landscape_surface(X, Y, BOWL - 5, {"a": PATHS["a"]}, path_losses={"a": [-3.0, -4.0, 0.0, -4.5]})
    np.testing.assert_allclose(by_label(plain)["a"].get_data_3d()[2], [-3.0, -4.0, -4.5])


def test_shapes_that_do_not_fit_say_why():
    with pytest.raises(ValueError, match=r"\(11, 21\), got \(21, 11\)"):
        landscape(X, Y, BOWL.T)
    with pytest.raises(ValueError, match="no finite number"):
        landscape(X, Y, np.full_like(BOWL, np.nan))
    with pytest.raises(ValueError, match=r"path 'a' must have shape \(points, 2\), got \(3,\)"):
        landscape(X, Y, BOWL, {"a": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"path 'b' has 2 points, but losses of shape \(3,\)"):
        landscape(X, Y, BOWL, PATHS, path_losses={"b": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"`path_losses` has \['c'\], but the paths are \['a', 'b'\]"):
        landscape(X, Y, BOWL, PATHS, path_losses={"c": [1]})
    with pytest.raises(ValueError, match=r"`path_losses` has none of \['b'\]"):
        landscape_surface(X, Y, BOWL, PATHS, path_losses=TRUE)


def test_noise_scale_has_its_band_its_gaps_and_the_batch_size(tmp_path):
    simple, error = np.array([10.0, 20.0, -5.0, np.nan, 40.0]), np.array([5.0, 30.0, 9.0, np.nan, 4.0])
    ax = noise_scale(np.arange(5), simple, error, batch_size=8, title="digits")
    lines = by_label(ax)
    np.testing.assert_array_equal(lines["noise scale"].get_ydata(), [10.0, 20.0, np.nan, np.nan, 40.0])
    np.testing.assert_array_equal(lines["not resolved from zero signal"].get_xdata(), [2, 3])
    assert lines["batch size in use: 8"].get_ydata()[0] == 8
    heights = np.concatenate([path.vertices[:, 1] for path in ax.collections[0].get_paths()])
    assert heights.max() == 50 and heights.min() == 0.4 and ax.get_yscale() == "log"
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "."] == [[4]]
    assert ax.get_ylim() == (4, 80)
    save_figure(ax, tmp_path / "noise.png")


def test_noise_scales_that_cannot_be_drawn_say_why():
    with pytest.raises(ValueError, match="arrays of one length"):
        noise_scale([1, 2], [1.0])
    with pytest.raises(ValueError, match="no estimate is a positive number"):
        noise_scale([1, 2], [-1.0, np.nan])
