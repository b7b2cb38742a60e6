"""Noise and size of gradients during training, the cliff, and the saddle."""

import numpy as np
import pytest

from gradlab.experiments import gradient_norms, recurrent_cliff, saddle_escape
from gradlab.experiments.noise_growth import noise_growth
from tests.experiments.verdict import borne_out


@pytest.mark.slow
def test_the_noise_scale_grows_by_an_order_of_magnitude():
    """arXiv 1812.06162."""
    run = noise_growth()
    borne_out("noise_growth", run)
    assert (np.diff(run.scale) > 0).all()
    assert run.scale[-1] > 10 * run.scale[0]
    # the signal falls faster than the noise
    assert run.signal[-1] / run.signal[0] < 0.1 * run.noise[-1] / run.noise[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_grow_while_training_succeeds(seed):
    """Goodfellow et al. 2016, section 8.2.1: in a deep network, not in a shallow one."""
    run = gradient_norms.compare(seed=seed)
    borne_out("gradient_norms", run)
    deep, shallow = run.deep, run.shallow
    learnt = int((deep.valid_accuracy >= 0.9).argmax())
    assert learnt > 2 and deep.valid_loss[learnt] < deep.valid_loss[0] / 5
    assert (deep.norm[1 : learnt + 1] > 1.5 * deep.norm[0]).all()
    assert deep.norm.max() > 5 * deep.norm[0]
    assert (shallow.norm[1:] < shallow.norm[0]).all() and shallow.valid_accuracy[-1] > 0.9


def test_clipping_passes_the_cliff_that_throws_plain_descent_away():
    """arXiv 1211.5063, figure 6."""
    run = recurrent_cliff.compare()
    borne_out("recurrent_cliff", run)
    clipped, plain = run.clipped, run.plain
    assert clipped.grad_norm.max() > 100 * clipped.grad_norm[0]
    assert clipped.longest_step == pytest.approx(0.2)
    assert np.median(clipped.loss[-100:]) < 0.01 * clipped.loss[0]
    assert plain.longest_step > 5
    assert plain.loss[-1] > plain.loss[0]
    assert np.linalg.norm(plain.path[-1] - plain.path[0]) > 5


@pytest.fixture(scope="module")
def escapes():
    return saddle_escape.compare()


def test_the_verdict_on_saddles(escapes):
    borne_out("saddle_escape", escapes)


def test_newton_jumps_to_the_saddle_and_saddle_free_newton_doubles_its_distance(escapes):
    """arXiv 1406.2572, on ``x^2 - y^2``."""
    run = escapes.saddle
    np.testing.assert_allclose(run.newton[1:], 0, atol=1e-15)
    np.testing.assert_allclose(run.saddle_free[:, 1], 1e-3 * 2.0 ** np.arange(9), rtol=1e-6)
    np.testing.assert_allclose(run.saddle_free[1:, 0], 0, atol=1e-7)
    np.testing.assert_allclose(run.newton_spectrum, [-2, 2])


def test_saddle_free_newton_goes_on_to_the_minimum(escapes):
    run = escapes.bounded
    np.testing.assert_allclose(run.newton[-1], [0, 0], atol=1e-12)
    np.testing.assert_allclose(run.saddle_free[-1], [0, 1], atol=1e-6)
    assert run.newton_spectrum[0] < 0 < run.saddle_free_spectrum[0]
    assert run.saddle_free_loss[-1] == pytest.approx(-0.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_network_ends_at_its_saddle_with_newton_and_fitted_without(seed, escapes):
    """arXiv 1406.2572, at the strict saddle of two linear layers."""
    run = escapes.network if seed == 0 else saddle_escape.on_linear_network(seed=seed)
    assert np.abs(run.newton[-1]).max() < 1e-6
    np.testing.assert_allclose(run.newton_spectrum, np.repeat([-1.0, 1.0], 16), atol=1e-6)
    assert run.newton_loss[-1] == pytest.approx(2)
    assert run.saddle_free_loss[-1] < 1e-8 and run.saddle_free_spectrum[0] > -1e-6
