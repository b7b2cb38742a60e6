r"""The gradient noise scale grows during training: the batch that pays grows with it.

::

    B_simple = tr(Sigma) / |G|^2      Sigma: covariance of the gradients of single examples, G: their mean

Published (McCandlish et al., arXiv 1812.06162): the scale typically grows by an order of magnitude or more over
training, as |G| falls faster than the noise.

Here, on the digits by Adam, it grows thirtyfold in 600 steps of softmax regression, at every measurement.  With hidden
layers it grows faster at first, then jumps up and down by factors of 3, since |G|^2 of a fitted network does.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core import check
from gradlab.experiments.descent import descend, training_loss
from gradlab.experiments.reproduction import Check, Reproduction
from gradlab.instruments import noise
from gradlab.tasks.catalogue import TASKS

SOURCE = "arXiv 1812.06162"
BATCH = 64
RECORDS = 10  # measurements of a run, besides the first
CLASSIFIERS = ("digits_linear", "digits_mlp", "digits_cnn", "breast_cancer_linear", "breast_cancer_mlp")


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
    check.one_of("task", task, CLASSIFIERS)
    check.positive(learning_rate=learning_rate)
    check.in_range("steps", steps, RECORDS)
    task = TASKS[task]()
    loss = training_loss(task)

    def losses(params, batch):
        return jax.vmap(lambda example: loss(params, jax.tree.map(lambda leaf: leaf[None], example)))(batch)

    def measure(run):
        found = noise(losses, run.params, task.train, chunk=128)
        return found.loss.value, found.trace.value, found.square.value, *found.simple

    tx = optimizers.adam(learning_rate)
    run = descend(task, tx, steps, steps // RECORDS, measure, key=jax.random.key(seed), batch_size=BATCH)
    return NoiseGrowth(np.asarray(run.steps), *map(np.asarray, run.measured))


def checks(run: NoiseGrowth) -> list[Check]:
    """The scale grows by an order of magnitude, since the signal falls faster than the noise."""
    scale, signal, noise_ = (values[-1] / values[0] for values in (run.scale, run.signal, run.noise))
    faster = signal / noise_
    return [
        Check(SOURCE, "the noise scale grows by an order of magnitude", "last scale / first", scale, 10),
        Check(SOURCE, "the signal falls faster than the noise", "fall of |G|^2 / fall of tr(Sigma)", faster, high=0.1),
        Check(SOURCE, "while the loss falls", "last loss / first", run.loss[-1] / run.loss[0], high=0.5),
    ]


def table(run: NoiseGrowth) -> dict[str, np.ndarray]:
    """One row for each measurement."""
    return run._asdict()


def draw(run: NoiseGrowth) -> Any:
    """The scale beside the batch of the training."""
    from gradlab.plots import noise_scale

    return noise_scale(run.steps, run.scale, run.scale_error, batch_size=BATCH)


NOISE_GROWTH = Reproduction(f"McCandlish et al. 2018, {SOURCE}", noise_growth, checks, table, draw)
