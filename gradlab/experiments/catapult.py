r"""The catapult: learning rates beyond the stable one throw the weights into a flatter region, and train there.

With f = u'v / sqrt(n) fitted to zero by gradient descent on f^2 / 2, and the curvature l = (|u|^2 + |v|^2) / n of its
tangent kernel, the two numbers follow exactly::

    f <- (1 - lr l + lr^2 f^2 / n) f
    l <- l + (lr f^2 / n) (lr l - 4)

Published (Lewkowycz et al., arXiv 2003.02218): below lr = 2 / l_0 the loss falls and l stays (lazy); between 2 / l_0
and 4 / l_0 the loss first grows, then l drops below 2 / lr and the loss vanishes (catapult); above, training diverges.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlab.optimizers as optimizers
from gradlab.core import check
from gradlab.core.values import population
from gradlab.experiments.descent import descend
from gradlab.experiments.reproduction import Check, Reproduction, in_rows
from gradlab.tasks.task import Task, bind, make_task

SOURCE = "arXiv 2003.02218"


class Catapult(NamedTuple):
    """One run for each learning rate, the first axis of all arrays."""

    multiples: np.ndarray  # (rates,) learning rate * initial curvature
    loss: np.ndarray  # (rates, steps + 1)
    curvature: np.ndarray  # (rates, steps + 1)
    predicted: np.ndarray  # (rates, steps + 1) the curvature by the recursion
    final: np.ndarray  # (rates,) learning rate * final curvature; below 2 where training converged


def catapult(
    multiples: Sequence[float] = (1.0, 2.5, 3.5, 3.9, 4.2), width: int = 200, steps: int = 120, seed: int = 1
) -> Catapult:
    """Trains the two-layer linear network once for each learning rate, given in units of 1 / l_0."""
    check.positive(multiples=list(multiples))
    check.in_range("width", width, 1)
    check.in_range("steps", steps, 1)
    task = two_layer_linear(width)
    params, _ = task.init(jax.random.split(jax.random.key(seed), 3)[0])
    first = _curvature(params)
    rates = jnp.array(multiples) / first

    def one(tx):
        measure = lambda run: (task.loss(run.params, {}, None, None)[0], _curvature(run.params))
        return descend(task, tx, steps, 1, measure, key=jax.random.key(seed)).measured

    loss, curvature = map(np.asarray, jax.vmap(one)(population(optimizers.sgd, learning_rate=rates)))
    predicted = jax.vmap(lambda rate: _recursion(_output(params), first, rate, width, steps))(rates)
    return Catapult(np.array(multiples), loss, curvature, np.asarray(predicted), np.asarray(rates) * curvature[:, -1])


def two_layer_linear(width: int) -> Task:
    """``(u'v)^2 / (2 width)``, from standard normal weights."""
    return make_task(bind(_start, width=jnp.zeros(width)), _squared, name="two_layer_linear")


def _start(key, *, width):
    u, v = jax.random.normal(key, (2, *width.shape), width.dtype)
    return {"u": u, "v": v}, {}


def _squared(params, model_state, batch, key):
    del batch, key
    return _output(params) ** 2 / 2, model_state


def _output(params):
    return params["u"] @ params["v"] / jnp.sqrt(len(params["u"]))


def _curvature(params):
    return (params["u"] @ params["u"] + params["v"] @ params["v"]) / len(params["u"])


def _recursion(output: jax.Array, curvature: jax.Array, rate: jax.Array, width: int, steps: int) -> jax.Array:
    def one(pair, _):
        output, curvature = pair
        pull = rate * output**2 / width
        output, curvature = (1 - rate * curvature + rate * pull) * output, curvature + pull * (rate * curvature - 4)
        return (output, curvature), curvature

    _, curvatures = jax.lax.scan(one, (output, curvature), length=steps)
    return jnp.concatenate([curvature[None], curvatures])


def checks(run: Catapult) -> list[Check]:
    """The ranges of the learning rate, those of which the run has any, and the recursion."""
    lazy, beyond = run.multiples < 2, run.multiples > 4
    thrown = ~lazy & ~beyond
    growth, fall = run.loss.max(1) / run.loss[:, 0], run.loss[:, -1] / run.loss[:, 0]
    flatter = run.curvature[:, -1] / run.curvature[:, 0]
    error = np.abs(run.curvature / run.predicted - 1)
    found = []
    if lazy.any():
        found += [
            Check(SOURCE, "below 2 / l0 the loss falls", "largest loss / first", growth[lazy].max(), high=1),
            Check(SOURCE, "and the curvature stays", "last curvature / first", flatter[lazy].min(), 0.98, 1.02),
        ]
    if thrown.any():
        found += [
            Check(
                SOURCE, "from there to 4 / l0 the loss first grows", "largest loss / first", growth[thrown].min(), 20
            ),
            Check(SOURCE, "until it is flat enough", "learning rate * last curvature", run.final[thrown].max(), high=2),
            Check(SOURCE, "and the loss falls after all", "last loss / first", fall[thrown].max(), high=1),
        ]
    if beyond.any():
        diverged = np.where(np.isnan(fall), np.inf, fall)[beyond].min()
        found += [Check(SOURCE, "beyond training diverges", "last loss / first", diverged, 1)]
    if not beyond.all():
        found += [
            Check(SOURCE, "f and l follow the recursion", "relative error of l", error[~beyond].max(), high=1e-10)
        ]
    return found


def table(run: Catapult) -> dict[str, list[Any]]:
    """One row for each learning rate and step."""
    columns = {"loss": run.loss, "curvature": run.curvature, "predicted": run.predicted}
    steps = range(run.loss.shape[1])
    return in_rows(
        {
            f"{multiple:g}": {"step": steps, **{name: array[index] for name, array in columns.items()}}
            for index, multiple in enumerate(run.multiples)
        },
        "multiple",
    )


def draw(run: Catapult) -> Any:
    """The losses over the steps."""
    from gradlab.plots import race

    losses = {f"{multiple:g} / l0": loss for multiple, loss in zip(run.multiples, run.loss, strict=True)}
    return race(losses, title="learning rates in units of the first curvature")


CATAPULT = Reproduction(f"Lewkowycz et al. 2020, {SOURCE}", catapult, checks, table, draw)
