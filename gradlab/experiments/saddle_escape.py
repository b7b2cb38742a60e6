r"""Newton's method jumps to a saddle point; saddle-free Newton leaves it.

Published (Dauphin et al., arXiv 1406.2572): Newton's step ends at the critical point of the local quadratic, whatever
its kind, so saddles attract it; with absolute eigenvalues in place of the eigenvalues the same step leaves them.
On ``x^2 - y^2`` Newton lands on the saddle at once, and saddle-free Newton doubles y at each step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core import check
from gradlab.core.curvature import ravel
from gradlab.experiments.descent import descend, training_loss
from gradlab.experiments.reproduction import Check, Reproduction, in_rows
from gradlab.instruments import dense, hessian
from gradlab.tasks import bounded_saddle, saddle, surface_task
from gradlab.tasks.surface import Surface, on_grid
from gradlab.tasks.task import Task, make_task

SOURCE = "arXiv 1406.2572"
DOUBLINGS = 8  # of y on x^2 - y^2, which has no minimum


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


class Escapes(NamedTuple):
    """Both methods on three losses."""

    saddle: SaddleEscape  # x^2 - y^2
    bounded: SaddleEscape  # x^2 - y^2 + y^4 / 2
    network: SaddleEscape


def compare(steps: int = 30, width: int = 4, seed: int = 0) -> Escapes:
    """Both methods on two surfaces and on a two-layer linear network of this width."""
    check.in_range("steps", steps, 1)
    check.in_range("width", width, 1)
    return Escapes(
        on_surface(saddle(), min(steps, DOUBLINGS)), on_surface(steps=steps), on_linear_network(width, steps, seed)
    )


def checks(run: Escapes) -> list[Check]:
    """Newton ends at the saddle, saddle-free Newton leaves it for a minimum."""
    y, network = run.saddle.saddle_free[:, 1], run.network
    doubling = np.abs(y[1:] / y[:-1] - 2).max()
    ends = np.abs(network.newton[-1]).max()
    negative, left = network.newton_spectrum.min(), network.saddle_free_spectrum.min()
    return [
        Check(
            SOURCE,
            "Newton jumps to the saddle of x^2 - y^2",
            "distance",
            np.abs(run.saddle.newton[1:]).max(),
            high=1e-12,
        ),
        Check(SOURCE, "saddle-free Newton doubles y", "error of the factor 2", doubling, high=1e-5),
        Check(SOURCE, "Newton ends at the saddle of a linear network", "largest weight", ends, high=1e-6),
        Check(SOURCE, "where the curvature is negative", "least eigenvalue", negative, high=-0.99),
        Check(SOURCE, "saddle-free Newton fits it", "last loss", network.saddle_free_loss[-1], high=1e-8),
        Check(SOURCE, "at a minimum", "least eigenvalue", left, -1e-6),
    ]


def table(run: Escapes) -> dict[str, list[Any]]:
    """One row for each loss, method and step."""
    methods = lambda one: {"newton": one.newton_loss, "saddle_free_newton": one.saddle_free_loss}
    columns = lambda losses: {"step": range(len(losses)), "loss": losses}
    of_loss = lambda one: in_rows({name: columns(losses) for name, losses in methods(one).items()}, "method")
    return in_rows({name: of_loss(one) for name, one in run._asdict().items()}, "on")


def draw(run: Escapes) -> Any:
    """Both paths on ``x^2 - y^2 + y^4 / 2``."""
    from gradlab.plots import trajectory

    surface = bounded_saddle()
    paths = {"Newton": run.bounded.newton, "saddle-free Newton": run.bounded.saddle_free}
    return trajectory(
        *on_grid(surface), paths, minima=surface.minima, saddles=surface.saddles, title="x^2 - y^2 + y^4 / 2"
    )


SADDLE_ESCAPE = Reproduction(f"Dauphin et al. 2014, {SOURCE}", compare, checks, table, draw)
