import numpy as np
import pytest

from gradlab.plots import save_figure
from gradlab.plots.curvature import eigenvalue_density, eigenvalue_ranks, sharpness_by_loss, sharpness_curves

STEPS = np.arange(0, 50, 10)


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def test_sharpness_and_threshold_are_where_they_are():
    curves = {"gd": [1.0, 2.0, 3.0, 4.1, 4.0], "lost": [1.0, 2.0, np.nan, np.inf, -1.0]}
    ax = sharpness_curves(STEPS, curves, 4.0, label="sharpness / 1")
    lines = by_label(ax)
    np.testing.assert_array_equal(lines["gd"].get_xydata(), np.stack([STEPS, curves["gd"]], 1))
    np.testing.assert_array_equal(lines["lost"].get_ydata(), [1, 2, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(lines["threshold 4"].get_ydata(), np.full(5, 4.0))
    assert (lines["threshold 4"].get_linestyle(), ax.get_yscale(), ax.get_ylabel()) == (":", "linear", "sharpness / 1")
    (shaded,) = ax.collections
    assert shaded.get_paths()[0].vertices[:, 1].min() == 4.0
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 4.1


def test_thresholds_may_move_and_decades_are_logarithmic():
    ax = sharpness_curves(STEPS, [1.0, 10.0, 100.0, 50.0, 40.0], [10.0, 10.0, 20.0, 40.0, 40.0])
    assert ax.get_yscale() == "log"
    np.testing.assert_array_equal(by_label(ax)["threshold"].get_ydata(), [10, 10, 20, 40, 40])
    assert by_label(ax)["sharpness"].get_ydata()[2] == 100
    low, high = ax.get_ylim()
    assert 0 < low < 1 and 100 < high < 1000


def test_densities_are_drawn_down_to_the_floor():
    grid, density = np.linspace(-1, 3, 5), np.array([0.0, 2.0, 0.5, np.nan, 1e-9])
    ax = eigenvalue_density(grid, density, error=np.full(5, 0.1), outliers=[2.0, 2.5, 2.9], floor=1e-4)
    lines = by_label(ax)
    np.testing.assert_array_equal(lines["density"].get_ydata(), [2e-4, 2, 0.5, np.nan, 2e-4])
    np.testing.assert_array_equal(lines["3 largest eigenvalues"].get_xdata(), [2, 2.5, 2.9])
    assert ax.get_yscale() == "log" and ax.get_ylim() == pytest.approx((2e-4, 6))
    assert ax.get_xlim() == (-1, 3)
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(2.1) and band[:, 1].min() == pytest.approx(2e-4)


def test_bad_input_says_why():
    with pytest.raises(ValueError, match=r"sharpness 'gd' must have one number .* got \(2,\), \(5,\)"):
        sharpness_curves(STEPS, {"gd": [1.0, 2.0]}, 4.0)
    with pytest.raises(ValueError, match="`threshold` must be above 0"):
        sharpness_curves(STEPS, np.ones(5), 0.0)
    with pytest.raises(ValueError, match="`threshold` must be above 0"):
        sharpness_curves(STEPS, np.ones(5), np.array([1, 1, np.nan, 1, 1]))
    with pytest.raises(ValueError, match="nothing to draw"):
        sharpness_curves(STEPS, np.full(5, np.nan), 1.0)
    with pytest.raises(ValueError, match="density must have one number"):
        eigenvalue_density(STEPS, np.ones(3))
    with pytest.raises(ValueError, match="no density is above 0"):
        eigenvalue_density(STEPS, np.zeros(5))
    with pytest.raises(ValueError, match="`floor` must be between 0 and 1"):
        eigenvalue_density(STEPS, np.ones(5), floor=2.0)


def test_ranks_have_the_gap_below_the_outliers(tmp_path):
    ax = eigenvalue_ranks([50.0, 20.0, 4.0, 2.0, 0.0, -1.0], 2, title="digits")
    rest, outliers = ax.lines
    np.testing.assert_array_equal(rest.get_xydata(), [[3, 4], [4, 2]])
    np.testing.assert_array_equal(outliers.get_xydata(), [[1, 50], [2, 20]])
    assert [text.get_text() for text in ax.get_legend().get_texts()][1:] == ["2 outliers", "gap: a factor of 5"]
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((4, 20))
    save_figure(ax, tmp_path / "ranks.png")


@pytest.mark.parametrize(("values", "outliers"), [([1.0, 2.0], 1), ([2.0, 1.0], 2), ([2.0, 1.0], 0), ([2.0, -1.0], 1)])
def test_ranks_without_a_gap_are_refused(values, outliers):
    with pytest.raises(ValueError, match="must"):
        eigenvalue_ranks(values, outliers)


def test_sharpness_over_the_loss_goes_with_training(tmp_path):
    ax = sharpness_by_loss({"a": ([1.0, 0.1, np.nan], [2.0, 8.0, 3.0]), "b": ([1.0, 0.5], [2.0, -1.0])}, at=0.3)
    a, b, mark = ax.lines
    np.testing.assert_array_equal(a.get_xydata(), [[1.0, 2.0], [0.1, 8.0]])
    np.testing.assert_array_equal(b.get_xydata(), [[1.0, 2.0]])
    assert mark.get_xdata()[0] == 0.3 and ax.xaxis_inverted() and ax.get_xscale() == ax.get_yscale() == "log"
    save_figure(ax, tmp_path / "sharpness.png")
    with pytest.raises(ValueError, match="at least one curve"):
        sharpness_by_loss({})
    with pytest.raises(ValueError, match="sharpness 'a' must have one number"):
        sharpness_by_loss({"a": ([1.0, 2.0], [1.0])})
