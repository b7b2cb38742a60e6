r"""The cliff of a recurrent network with one unit, and clipping as the way past it.

::

    h_t = w sigmoid(h_(t-1)) + b,  h_0 = 1/2,  t = 1 ... 50        loss = (sigmoid(h_50) - 0.7)^2

Published (Pascanu et al., arXiv 1211.5063, figure 6): where the recurrence bifurcates the loss has a wall of enormous
gradients.  A descent that meets it is thrown far away; with the gradient's norm clipped it stays close, and goes on.

Here, from (6.5, -2.5), plain descent is thrown onto a plateau, where it stays, at the learning rates 0.5, 1 and 2.
From (5, -1.5) and (6, -2) it is thrown by 0.8 to 3, lands well, and needs no clipping.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.norms import global_norm
from gradlab.experiments.descent import descend, training_loss
from gradlab.experiments.reproduction import Check, Reproduction, in_rows
from gradlab.tasks.surface import Surface, make_surface, on_grid, surface_task
from gradlab.tasks.task import bind
from gradlab.transforms import clip_by_global_norm

SOURCE = "arXiv 1211.5063"


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


class Cliffs(NamedTuple):
    """The same descent with its gradient clipped and not; ``reach`` is the longest step of the former."""

    clipped: RecurrentCliff
    plain: RecurrentCliff
    reach: float


def compare(max_norm: float = 0.2, learning_rate: float = 1.0, steps: int = 300) -> Cliffs:
    """Gradient descent from (6.5, -2.5), above the cliff, with its gradient clipped and not."""
    check.positive(max_norm=max_norm, learning_rate=learning_rate)
    check.in_range("steps", steps, 1)
    clipped, plain = (recurrent_cliff(norm, learning_rate, steps) for norm in (max_norm, None))
    return Cliffs(clipped, plain, max_norm * learning_rate)


def checks(run: Cliffs) -> list[Check]:
    """The wall, the throw, and clipping."""
    clipped, plain = run.clipped, run.plain
    wall = clipped.grad_norm.max() / clipped.grad_norm[0]
    ended = np.median(clipped.loss[-(len(clipped.loss) // 3) or -1 :]) / clipped.loss[0]
    return [
        Check(SOURCE, "there is a wall of gradients", "largest norm / first", wall, 100),
        Check(SOURCE, "it throws plain descent away", "its longest step", plain.longest_step, 5),
        Check(SOURCE, "to where the loss is no lower", "its last loss / first", plain.loss[-1] / plain.loss[0], 1),
        Check(SOURCE, "clipped, descent stays close", "longest step", clipped.longest_step, high=1.000001 * run.reach),
        Check(SOURCE, "and goes on", "median loss of the last third / first", ended, high=0.01),
    ]


def table(run: Cliffs) -> dict[str, list[Any]]:
    """One row for each descent and step."""

    def columns(one: RecurrentCliff) -> dict[str, Any]:
        w, b = one.path.T
        return {"step": range(len(w)), "w": w, "b": b, "loss": one.loss, "grad_norm": one.grad_norm}

    return in_rows({"clipped": columns(run.clipped), "plain": columns(run.plain)}, "descent")


def draw(run: Cliffs) -> Any:
    """Both paths on the loss."""
    from gradlab.plots import trajectory

    paths = {"clipped": run.clipped.path, "plain": run.plain.path}
    return trajectory(*on_grid(one_unit()), paths, labels=("w", "b"), title="one recurrent unit")


RECURRENT_CLIFF = Reproduction(f"Pascanu et al. 2013, {SOURCE}", compare, checks, table, draw)
