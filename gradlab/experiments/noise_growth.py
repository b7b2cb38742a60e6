r"""The gradient noise scale grows during training: the batch that pays grows with it.

::

    B_simple = tr(Sigma) / |G|^2      Sigma: covariance of the gradients of single examples, G: their mean

Published (McCandlish et al., arXiv 1812.06162): the scale typically grows by an order of magnitude or more over
training, as |G| falls faster than the noise.

Here, on the digits by Adam, it grows twentyfold in 600 steps of softmax regression, at every measurement.  With hidden
layers it grows faster at first, then jumps up and down by factors of 3, since |G|^2 of a fitted network does.
"""

from typing import NamedTuple

import jax
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.experiments.descent import descend, training_loss
from gradlab.instruments import noise
from gradlab.tasks.catalogue import TASKS


class NoiseGrowth(NamedTuple):
    """One run, measured every few steps."""

    steps: np.ndarray  # (records,)
    loss: np.ndarray  # (records,) over the training examples
    noise: np.ndarray  # (records,) tr(Sigma), unbiased
    signal: np.ndarray  # (records,) |G|^2, unbiased
    scale: np.ndarray  # (records,) B_simple, in examples
    scale_error: np.ndarray  # (records,) its standard error


def noise_growth(
    task: str = "digits_linear", steps: int = 600, seed: int = 0, learning_rate: float = 1e-3
) -> NoiseGrowth:
    """Trains a task of the catalogue by Adam with batches of 64 and measures the noise over all examples ten times."""
    task = TASKS[task]()
    loss = training_loss(task)

    def losses(params, batch):
        return jax.vmap(lambda example: loss(params, jax.tree.map(lambda leaf: leaf[None], example)))(batch)

    def measure(run):
        found = noise(losses, run.params, task.train, chunk=128)
        return found.loss.value, found.trace.value, found.square.value, *found.simple

    tx = optimizers.adam(learning_rate)
    run = descend(task, tx, steps, steps // 10, measure, key=jax.random.key(seed), batch_size=64)
    return NoiseGrowth(np.asarray(run.steps), *map(np.asarray, run.measured))
