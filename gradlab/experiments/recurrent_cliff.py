r"""The cliff of a recurrent network with one unit, and clipping as the way past it.

::

    h_t = w sigmoid(h_(t-1)) + b,  h_0 = 1/2,  t = 1 ... 50        loss = (sigmoid(h_50) - 0.7)^2

Published (Pascanu et al., arXiv 1211.5063, figure 6): where the recurrence bifurcates the loss has a wall of enormous
gradients.  A descent that meets it is thrown far away; with the gradient's norm clipped it stays close, and goes on.

Here, from (6.5, -2.5), plain descent is thrown onto a plateau, where it stays, at the learning rates 0.5, 1 and 2.
From (5, -1.5) and (6, -2) it is thrown by 0.8 to 3, lands well, and needs no clipping.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core.compose import chain
from gradlab.core.norms import global_norm
from gradlab.experiments.descent import descend, training_loss
from gradlab.tasks.surface import Surface, make_surface, surface_task
from gradlab.tasks.task import bind
from gradlab.transforms import clip_by_global_norm


class RecurrentCliff(NamedTuple):
    """One descent in the plane of w and b."""

    path: np.ndarray  # (steps + 1, 2)
    loss: np.ndarray  # (steps + 1,)
    grad_norm: np.ndarray  # (steps + 1,)
    longest_step: float


def recurrent_cliff(max_norm: float | None = 0.2, learning_rate: float = 1.0, steps: int = 300) -> RecurrentCliff:
    """Gradient descent from (6.5, -2.5), above the cliff.

    Args:
      max_norm: clips the gradient; None does not.
      learning_rate: step size.
      steps: number of steps.
    """
    task = surface_task(one_unit())
    loss = training_loss(task)
    sgd = optimizers.sgd(learning_rate)
    tx = sgd if max_norm is None else chain(clip_by_global_norm(max_norm), sgd)
    measure = lambda run: (run.params, loss(run.params), global_norm(jax.grad(loss)(run.params)))
    path, losses, norms = map(np.asarray, descend(task, tx, steps, 1, measure, key=jax.random.key(0)).measured)
    return RecurrentCliff(path, losses, norms, float(np.linalg.norm(np.diff(path, axis=0), axis=1).max()))


def one_unit(steps: int = 50, target: float = 0.7) -> Surface:
    """The loss as a surface over w and b."""
    loss = bind(_one_unit, inputs=jnp.zeros(steps), target=target)
    return make_surface("one_unit", loss, start=[6.5, -2.5], bounds=[(2.5, 7.5), (-4.0, 0.0)])


def _one_unit(x, *, inputs, target):
    w, b = x
    last, _ = jax.lax.scan(lambda h, _: (w * jax.nn.sigmoid(h) + b, None), jnp.full([], 0.5, x.dtype), inputs)
    return (jax.nn.sigmoid(last) - target) ** 2
