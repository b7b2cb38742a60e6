r"""A few eigenvalues of the Hessian of a classifier stand apart from the rest: about as many as classes, less one.

Published: Sagun et al., arXiv 1611.07476, and Ghorbani et al., arXiv 1901.10159 (about classes - 1 outliers).

An outlier is what lies above the largest gap, the largest ratio of neighbouring eigenvalues from the second to the
``2 * classes``-th.  The Hessian is formed whole, so the count has no estimate in it.

Here, with a hidden layer of 10 units trained by Adam for 100 steps, the count is 9 for ten digits in five of five
seeds, with a gap of 1.7 or more, and 6 for seven digits and 2 for three in four of five seeds.  It is another for four
digits (2 in four seeds) and five (2 to 5).  It is less clear, and 9 only for part of a run, with momentum in Adam's
place, and with tanh units under gradient descent (7 to 17, no gap above 1.3).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core import check
from gradlab.experiments.descent import descend, training_loss
from gradlab.experiments.reproduction import Check, Reproduction
from gradlab.instruments import dense, hessian
from gradlab.tasks import data
from gradlab.tasks.supervised import flax_task
from gradlab.tasks.task import Task

BATCH = 64
NOTE = "the count is another for four and five digits, and less clear with other optimizers and units"


class Outliers(NamedTuple):
    """The spectrum of the training loss's Hessian after some training."""

    eigenvalues: np.ndarray  # (parameters,) descending
    count: int  # outliers
    gap: float  # ratio of the last outlier to the eigenvalue after it
    accuracy: float  # on the training examples
    classes: int


def outliers(classes: int = 10, hidden: int = 10, steps: int = 100, examples: int = 500, seed: int = 0) -> Outliers:
    """Trains a small network on the first ``classes`` digits and counts the outliers of its Hessian.

    Args:
      classes: 3 to 10.
      hidden: units.
      steps: of Adam, with batches of 64.
      examples: training examples at most, at least 64.
      seed: of initialisation and order.
    """
    check.in_range("classes", classes, 3, 10)
    check.in_range("hidden", hidden, 1)
    check.in_range("steps", steps, 1)
    check.in_range("examples", examples, BATCH)
    task = some_digits(classes, hidden, examples)
    loss = training_loss(task)
    run = descend(
        task, optimizers.adam(1e-2), steps, steps, lambda run: (), key=jax.random.key(seed), batch_size=BATCH
    ).run
    eigenvalues = np.asarray(jnp.linalg.eigvalsh(jax.jit(lambda params: dense(hessian(loss, params)))(run.params)))[
        ::-1
    ]
    count, gap = count_outliers(eigenvalues, 2 * classes)
    accuracy = task.metrics(run.params, run.model_state, task.train)["accuracy"]
    return Outliers(eigenvalues, count, gap, float(accuracy), classes)


def count_outliers(eigenvalues: np.ndarray, most: int) -> tuple[int, float]:
    """How many eigenvalues lie above the largest ratio of neighbours, from 2 to ``most``, and that ratio.

    >>> count, gap = count_outliers(np.array([9.0, 8.0, 7.0, 1.0, 0.9, 0.8]), 5)
    >>> count, gap
    (3, 7.0)
    """
    ratios = eigenvalues[1:most] / eigenvalues[2 : most + 1]
    return int(ratios.argmax()) + 2, float(ratios.max())


def some_digits(classes: int, hidden: int, examples: int) -> Task:
    """The digits below ``classes`` and a network with one hidden layer of ReLU units."""
    from gradlab.tasks.networks import MLP

    train = data.digits().train
    rows = np.flatnonzero(train["y"] < classes)[:examples]
    return flax_task(MLP((hidden, classes)), {key: array[rows] for key, array in train.items()}, name="some_digits")


def checks(run: Outliers) -> list[Check]:
    """As many outliers as classes, less one, apart from the rest."""
    sagun, ghorbani = "arXiv 1611.07476", "arXiv 1901.10159"
    wanted = run.classes - 1
    return [
        Check(ghorbani, "about classes - 1 outliers", "eigenvalues above the gap", run.count, wanted, wanted),
        Check(sagun, "that stand apart from the bulk", "last outlier / next eigenvalue", run.gap, 1.5),
        Check(sagun, "once the network is trained", "accuracy on the training data", run.accuracy, 0.9),
    ]


def table(run: Outliers) -> dict[str, np.ndarray]:
    """The whole spectrum."""
    return {"rank": np.arange(1, len(run.eigenvalues) + 1), "eigenvalue": run.eigenvalues}


def draw(run: Outliers) -> Any:
    """The largest eigenvalues by rank, and the gap."""
    from gradlab.plots import eigenvalue_ranks

    return eigenvalue_ranks(run.eigenvalues[: 4 * run.classes], run.count, title=f"{run.classes} classes")


OUTLIERS = Reproduction(
    "Sagun et al. 2016, arXiv 1611.07476; Ghorbani et al. 2019, arXiv 1901.10159", outliers, checks, table, draw, NOTE
)
