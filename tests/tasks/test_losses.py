import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from gradlab.tasks import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 5)) * 3
LABELS = np.array([0, 4, 2, 1, 3, 3, 0])


def _numpy_cross_entropy(logits, targets):
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        total -= np.sum(target * np.log(probabilities))
    return total / len(logits)


def test_cross_entropy_is_that_of_numpy():
    expected = _numpy_cross_entropy(LOGITS, np.eye(5)[LABELS])
    np.testing.assert_allclose(losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS)), expected, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_mixes_the_uniform_distribution_into_the_targets(smoothing):
    expected = _numpy_cross_entropy(LOGITS, (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5)
    loss = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(smoothing))
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_cross_entropy_averages_over_positions_too():
    logits, labels = jnp.asarray(RNG.normal(size=(3, 4, 5))), jnp.asarray(RNG.integers(0, 5, (3, 4)))
    flat = losses.cross_entropy(logits.reshape(12, 5), labels.reshape(12))
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), flat, rtol=1e-12)
    np.testing.assert_allclose(
        losses.cross_entropy(logits, labels, 0.2), losses.cross_entropy(logits.reshape(12, 5), labels.reshape(12), 0.2)
    )


def test_sigmoid_cross_entropy_is_the_log_loss():
    logits, labels = LOGITS[:, 0], np.array([1, 0, 0, 1, 1, 0, 1])
    expected = metrics.log_loss(labels, 1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(
        losses.sigmoid_cross_entropy(jnp.asarray(logits)[:, None], jnp.asarray(labels)), expected
    )
    chosen = metrics.accuracy_score(labels, logits > 0)
    np.testing.assert_allclose(losses.binary_accuracy(jnp.asarray(logits), jnp.asarray(labels)), chosen)


def test_regression_metrics_are_those_of_scikit_learn():
    outputs, targets = LOGITS[:, :1], LOGITS[:, 0] + RNG.normal(size=7)
    mse = losses.squared_error(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(mse, metrics.mean_squared_error(targets, outputs[:, 0]), rtol=1e-12)
    r2 = losses.r2(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(r2, metrics.r2_score(targets, outputs[:, 0]), rtol=1e-12)


def test_accuracy_counts_the_largest_logits():
    expected = metrics.accuracy_score(LABELS, LOGITS.argmax(1))
    np.testing.assert_allclose(losses.accuracy(jnp.asarray(LOGITS), jnp.asarray(LABELS)), expected, rtol=1e-6)


def test_columns_meet_vectors_and_nothing_else_broadcasts():
    column, vector = jnp.ones((4, 1)), jnp.arange(4.0)
    assert losses.squared_error(column, vector) == np.mean((1 - np.arange(4.0)) ** 2)
    with pytest.raises(ValueError, match=r"outputs have shape \(4, 1\), but the targets have \(3,\)"):
        losses.squared_error(column, vector[:3])
    with pytest.raises(ValueError, match=r"outputs have shape \(4,\), but the targets have \(4, 1\)"):
        losses.sigmoid_cross_entropy(vector, column)


@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_low_precision_outputs_are_widened(smoothing):
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    loss = losses.cross_entropy(logits, jnp.asarray(LABELS), smoothing)
    assert loss.dtype == jnp.float32
    exact = losses.cross_entropy(logits.astype(jnp.float64), jnp.asarray(LABELS), smoothing)
    np.testing.assert_allclose(loss, exact, rtol=1e-6)


def test_large_logits_stay_finite():
    loss, gradient = jax.value_and_grad(losses.cross_entropy)(jnp.array([[1e4, -1e4]]), jnp.array([1]))
    chex.assert_tree_all_finite((loss, gradient))
    np.testing.assert_allclose(loss, 2e4, rtol=1e-6)


def test_loss_names_and_smoothing_are_checked():
    with pytest.raises(ValueError, match="unknown loss 'cross_entrpy'; did you mean 'cross_entropy'"):
        losses.check_loss("cross_entrpy", None)
    with pytest.raises(ValueError, match="belongs to loss='cross_entropy', got loss='squared_error'"):
        losses.check_loss("squared_error", 0.1)
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\), got 1"):
        losses.check_loss("cross_entropy", 1.0)
