r"""Newton's method jumps to a saddle point; saddle-free Newton leaves it.

Published (Dauphin et al., arXiv 1406.2572): Newton's step ends at the critical point of the local quadratic, whatever
its kind, so saddles attract it; with absolute eigenvalues in place of the eigenvalues the same step leaves them.
On ``x^2 - y^2`` Newton lands on the saddle at once, and saddle-free Newton doubles y at each step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core.curvature import ravel
from gradlab.experiments.descent import descend, training_loss
from gradlab.instruments import dense, hessian
from gradlab.tasks import bounded_saddle, surface_task
from gradlab.tasks.surface import Surface
from gradlab.tasks.task import Task, make_task


class SaddleEscape(NamedTuple):
    """The paths of both methods from one start; index 0 is the start."""

    newton: np.ndarray  # (steps + 1, parameters)
    saddle_free: np.ndarray  # (steps + 1, parameters)
    newton_loss: np.ndarray  # (steps + 1,)
    saddle_free_loss: np.ndarray  # (steps + 1,)
    newton_spectrum: np.ndarray  # (parameters,) eigenvalues of the Hessian where Newton ends, ascending
    saddle_free_spectrum: np.ndarray  # (parameters,)


def on_surface(surface: Surface | None = None, steps: int = 30) -> SaddleEscape:
    """Both methods on a surface, by default ``x^2 - y^2 + y^4 / 2``, from its start near the ridge."""
    return _escape(surface_task(bounded_saddle() if surface is None else surface), steps, damping=1e-8, seed=0)


def on_linear_network(width: int = 4, steps: int = 30, seed: int = 0) -> SaddleEscape:
    """Both methods on a two-layer linear network fitted to the identity, from small weights.

    Its loss ``|I - V U|^2 / 2`` has a strict saddle at the origin and no other minima than those of loss zero
    (Baldi and Hornik 1989).
    """

    def start(key):
        u, v = 0.1 * jax.random.normal(key, (2, width, width))
        return {"u": u, "v": v}, {}

    return _escape(make_task(start, _factorisation, name="linear_network"), steps, damping=1e-3, seed=seed)


def _factorisation(params, model_state, batch, key):
    del batch, key
    u, v = params["u"], params["v"]
    return jnp.sum((jnp.eye(len(u)) - v @ u) ** 2) / 2, model_state


def _escape(task: Task, steps: int, damping: float, seed: int) -> SaddleEscape:
    loss = training_loss(task)
    measure = lambda run: (ravel(run.params), loss(run.params))
    ends = {}
    for name, tx in (("newton", optimizers.newton()), ("saddle_free", optimizers.saddle_free_newton(damping=damping))):
        run = descend(task, tx, steps, 1, measure, key=jax.random.key(seed))
        path, losses = map(np.asarray, run.measured)
        ends |= {name: path, f"{name}_loss": losses}
        ends[f"{name}_spectrum"] = np.asarray(jnp.linalg.eigvalsh(dense(hessian(loss, run.run.params))))
    return SaddleEscape(**ends)
