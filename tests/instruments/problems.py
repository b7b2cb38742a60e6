"""Losses whose curvature is known in closed form, and a small network."""

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(3)
EXAMPLES, FEATURES, CLASSES = 20, 4, 3
X = jnp.asarray(RNG.normal(size=(EXAMPLES, FEATURES)))
LABELS = jnp.asarray(RNG.integers(0, CLASSES, EXAMPLES))
TARGETS = jnp.asarray(RNG.normal(size=EXAMPLES))
BITS = jnp.asarray(RNG.integers(0, 2, EXAMPLES), dtype=float)


def quadratic(p, matrix):
    """``p' A p / 2``, whose Hessian is A."""
    return p @ matrix @ p / 2


def squares(p, batch):
    """Of each example ``(x'p - y)^2``."""
    x, y = batch
    return (x @ p - y) ** 2


def logistic(p, batch):
    x, y = batch
    logits = x @ p
    return jnp.mean(jnp.logaddexp(0, logits) - y * logits)


def logits(p, batch):
    return batch[0] @ p["w"] + p["b"]


def cross_entropies(outputs, batch):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch[1][:, None], 1)[:, 0]


def mean_cross_entropy(outputs, batch):
    return jnp.mean(cross_entropies(outputs, batch))


def softmax_regression(p, batch):
    return mean_cross_entropy(logits(p, batch), batch)


SOFTMAX_PARAMS = {"b": jnp.asarray(RNG.normal(size=CLASSES)), "w": jnp.asarray(RNG.normal(size=(FEATURES, CLASSES)))}


def network(p, batch):
    """A hidden layer of eight units of tanh; 'frozen' is ``None``."""
    return jnp.tanh(batch[0] @ p["in"]["kernel"] + p["in"]["bias"]) @ p["out"]


def network_loss(p, batch):
    return mean_cross_entropy(network(p, batch), batch)


def network_losses(p, batch):
    return cross_entropies(network(p, batch), batch)


def network_params(seed, hidden=8):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5)
    return {
        "frozen": None,
        "in": {"bias": draw(hidden), "kernel": draw(FEATURES, hidden)},
        "out": draw(hidden, CLASSES),
    }


def symmetric(eigenvalues, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return jnp.asarray(rotation @ np.diag(eigenvalues) @ rotation.T)
