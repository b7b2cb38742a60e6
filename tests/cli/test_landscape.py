import numpy as np
import pytest

from gradlab.cli.landscape import landscape_of


def test_rows_are_y_and_columns_are_x():
    landscape = landscape_of({"name": "rosenbrock", "steepness": 7.0})
    x, y = landscape.x[None, :], landscape.y[:, None]
    np.testing.assert_allclose(landscape.z, 7.0 * (y - x**2) ** 2 + (1 - x) ** 2, rtol=1e-12)
    assert (landscape.x[0], landscape.x[-1], landscape.y[0], landscape.y[-1]) == (-2, 2, -1, 3)
    assert landscape.minima.tolist() == [[1, 1]]


def test_losses_are_measured_from_the_minimum():
    slope, wall = 2.0, 10.0
    landscape = landscape_of({"name": "cliff", "slope": slope, "wall": wall})
    assert landscape.lowest == pytest.approx(-(slope**2) / (2 * wall))
    assert landscape.height_name == "loss above the minimum"


def test_a_surface_without_a_minimum():
    landscape = landscape_of({"name": "saddle"})
    assert (landscape.lowest, landscape.height_name) == (0.0, "loss")


def test_where_the_descent_starts_does_not_matter():
    moved = landscape_of({"name": "himmelblau", "start": [1.0, 2.0], "jitter": 0.1})
    np.testing.assert_array_equal(moved.z, landscape_of({"name": "himmelblau"}).z)


@pytest.mark.parametrize("part", [{"name": "digits_mlp"}, {"name": "parabola"}, {"name": "quadratic", "dim": 3}])
def test_what_has_no_contours(part):
    assert landscape_of(part) is None
