"""Edge of stability and catapult: where the curvature ends, against the threshold of the optimizer."""

import numpy as np
import pytest

from gradlab.experiments import edge_of_stability
from gradlab.experiments.catapult import catapult
from tests.experiments.verdict import borne_out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient_descent", "momentum"])
def test_sharpness_rises_to_the_threshold_and_stays_there(method):
    """arXiv 2103.00065: ``2 / lr``, and ``(2 + 2 b) / lr`` with momentum."""
    run = getattr(edge_of_stability, method)()
    borne_out({"gradient_descent": "edge_of_stability", "momentum": "edge_of_stability_momentum"}[method], run)
    assert run.ratio[0] < 0.5
    assert np.median(run.late()) == pytest.approx(1, abs=0.07)
    assert run.late().min() > 0.75 and run.late().max() < 1.15
    reached = int((run.ratio > 1).argmax())
    assert 0 < reached < len(run.ratio) / 2
    # training goes on there, although the loss does not fall step by step
    assert np.median(run.loss[-5:]) < 0.95 * np.median(run.loss[reached : reached + 5])
    assert (np.diff(run.loss[reached:]) > 0).any()


@pytest.mark.slow
def test_adams_preconditioned_sharpness_stays_at_38_over_the_rate():
    """arXiv 2207.14484."""
    run = edge_of_stability.adam()
    borne_out("edge_of_stability_adam", run)
    assert run.threshold == pytest.approx(38 / 4e-3)
    assert np.median(run.late()) == pytest.approx(1, abs=0.07)
    assert run.late().min() > 0.85 and run.late().max() < 1.08
    assert run.loss[-1] < run.loss[len(run.loss) // 2] / 2


def test_the_catapult_ends_flat_and_follows_its_recursion():
    """arXiv 2003.02218: lazy below 2, catapult up to 4, divergence above."""
    run = catapult()
    borne_out("catapult", run)
    lazy, *thrown, beyond = range(5)
    np.testing.assert_allclose(run.curvature[:beyond], run.predicted[:beyond], rtol=1e-10)
    growth = run.loss.max(1) / run.loss[:, 0]
    assert growth[lazy] == 1 and run.final[lazy] == pytest.approx(1, abs=0.01)
    assert (growth[thrown] > 20).all() and (run.final[thrown] < 2).all()
    assert (run.loss[thrown, -1] < run.loss[thrown, 0]).all()
    assert not run.loss[beyond, -1] < run.loss[beyond, 0]
    # the numbers of one seed, computed independently with another program
    np.testing.assert_allclose(run.final[:2], [0.99789, 1.27224], rtol=2e-3)
