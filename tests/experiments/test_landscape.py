"""What the Hessian of a classifier looks like, and how batches and SAM change it."""

import numpy as np
import pytest

from gradlab.experiments import flat_minima
from gradlab.experiments.flat_minima import Flatness
from gradlab.experiments.hessian_outliers import count_outliers, outliers
from tests.experiments.verdict import borne_out


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "seed"), [(7, 0), (10, 0), (10, 1)])
def test_outliers_are_as_many_as_classes_less_one(classes, seed):
    """arXiv 1611.07476 and 1901.10159."""
    found = outliers(classes, seed=seed)
    borne_out("hessian_outliers", found)
    assert found.count == classes - 1
    assert found.gap > 1.8
    assert found.accuracy > 0.9


def test_outliers_are_counted_at_the_largest_ratio():
    assert count_outliers(np.array([100.0, 8.0, 7.0, 6.9, 1.0, 0.9, 1e-9]), 5) == (4, 6.9)


@pytest.mark.slow
def test_large_batches_end_sharper_and_sam_flatter():
    """arXiv 1609.04836 and 2010.01412, by one measure at one training loss."""
    found = flat_minima.compare()
    borne_out("flat_minima", found)
    assert found.small.at(0.06) < 0.7 * found.full.at(0.06)
    assert found.sam.at(0.06) < 0.6 * found.full.at(0.06)


def test_sharpness_at_a_loss_is_interpolated():
    run = Flatness(np.array([1.0, 0.1, 0.01]), np.array([1.0, 10.0, 1000.0]), np.zeros(3))
    assert [run.at(loss) for loss in (1.0, 0.1, 0.1**1.5, 0.01)] == pytest.approx([1, 10, 100, 1000])
    with pytest.raises(ValueError, match="not through 2"):
        run.at(2.0)
