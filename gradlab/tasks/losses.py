"""Losses over a batch by name, and the metrics that belong to each.

::

    cross_entropy          mean_i  -sum_c q_ic log softmax(z_i)_c,   q_i = (1 - s) onehot(y_i) + s / classes
    sigmoid_cross_entropy  mean_i  -y_i log sigmoid(z_i) - (1 - y_i) log(1 - sigmoid(z_i))
    squared_error          mean_i  (z_i - y_i)^2

``s`` is the label smoothing (arXiv 1512.00567, section 7).  Arithmetic is in float32 at least.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check


def cross_entropy(outputs: jax.Array, targets: jax.Array, label_smoothing: Any = None) -> jax.Array:
    """Mean softmax cross-entropy of logits ``(..., classes)`` and integer labels ``(...)``.

    >>> round(float(cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 3]))), 4)
    1.3863
    """
    logits = _wide(outputs)
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise TypeError(
            f"cross_entropy needs integer labels, got {targets.dtype}; for one-hot or soft labels pass a function "
            "(outputs, batch) -> scalar as `loss`"
        )
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"labels of shape {targets.shape} need logits (..., classes), got shape {logits.shape}")
    if label_smoothing is None:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
    labels = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    labels = optax.smooth_labels(labels, jnp.asarray(label_smoothing, logits.dtype))
    return optax.softmax_cross_entropy(logits, labels).mean()


def sigmoid_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of logits and labels 0 or 1.

    >>> round(float(sigmoid_cross_entropy(jnp.zeros((2, 1)), jnp.array([0, 1]))), 4)
    0.6931
    """
    outputs, targets = _paired(outputs, targets)
    return optax.sigmoid_binary_cross_entropy(outputs, targets).mean()


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean of the squared differences, without the factor 1/2.

    >>> float(squared_error(jnp.array([1.0, 2.0]), jnp.array([3.0, 2.0])))
    2.0
    """
    outputs, targets = _paired(outputs, targets)
    return optax.squared_error(outputs, targets).mean()


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The share of labels that have the largest logit."""
    return jnp.mean(outputs.argmax(-1) == targets)


def binary_accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The share of labels 0 or 1 on the side of their logit's sign."""
    outputs, targets = _paired(outputs, targets)
    return jnp.mean((outputs > 0) == (targets > 0.5))


def r2(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """One minus the residual over the total sum of squares, each output about its own mean in the data at hand.

    >>> float(r2(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 3.0])))
    1.0
    """
    outputs, targets = _paired(outputs, targets)
    return 1 - jnp.sum((targets - outputs) ** 2) / jnp.sum((targets - targets.mean(0)) ** 2)


LOSSES: dict[str, Callable] = {
    "cross_entropy": cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
}
METRICS: dict[str, dict[str, Callable]] = {
    "cross_entropy": {"accuracy": accuracy},
    "sigmoid_cross_entropy": {"accuracy": binary_accuracy},
    "squared_error": {"mse": squared_error, "r2": r2},
}


def check_loss(loss: str | Callable, label_smoothing: Any) -> None:
    """Raises unless the loss is known and the label smoothing fits it."""
    if not callable(loss):
        check.one_of("loss", loss, LOSSES)
    if label_smoothing is not None and loss != "cross_entropy":
        shown = loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))
        raise ValueError(f"label_smoothing={label_smoothing!r} belongs to loss='cross_entropy', got loss={shown!r}")
    check.in_range("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)


def _wide(array: jax.Array) -> jax.Array:
    return jnp.asarray(array, jnp.promote_types(jnp.float32, array.dtype))


def _paired(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Outputs and targets of one shape and dtype; outputs ``(n, 1)`` meet targets ``(n,)``."""
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape != targets.shape:
        raise ValueError(
            f"the model's outputs have shape {outputs.shape}, but the targets have {targets.shape}; they must agree "
            "(broadcasting would compare every output with every target)"
        )
    outputs = _wide(outputs)
    return outputs, targets.astype(outputs.dtype)
