"""The cost of a whole training run as one pure function of the numbers of its optimizer and its task."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.core.storage import without_slope
from gradlab.core.transform import from_optax
from gradlab.sweeps.engine.lanes import Plan
from gradlab.tasks.task import Task
from gradlab.training.batches import check_batches, draw, make_feed
from gradlab.training.segment import DATA, INIT, NOISE
from gradlab.training.step import DIVERGED, evaluate, start, train_step


def training_cost(
    task: Task,
    tx: optax.GradientTransformation,
    key: jax.Array,
    plan: Plan,
    *,
    metric: str = "loss",
    horizon: int | None = None,
    remat: bool = False,
) -> jax.Array:
    """A metric after a whole training run: a pure function of the numbers of ``task`` and ``tx``.

    ``jax.grad`` through it is an optimizer-shaped tree of hypergradients.  The run is the one that `gradlab.fit` makes
    with this key.  One that diverged has the cost NaN, and so are its derivatives.

    Args:
      task, tx, key: what is trained, with what, from where; ``key`` is made with ``jax.random.key``.
      plan, metric, horizon: as for `hypergradients`.
      remat: run the steps again on the way back of reverse mode, instead of keeping what they computed.

    Raises:
      ValueError: a horizon out of range, batches that do not fit the data, or an optimizer whose state has no
        derivative: codes, residuals, rounding by chance.

    >>> import gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> task, plan = surface_task(quadratic(condition=10.0)), Plan(20, 20, None, 'full')
    >>> slope = jax.grad(training_cost, argnums=1)(task, gradlab.sgd(0.01, momentum=0.5), jax.random.key(0), plan)
    >>> {name: bool(value < 0) for name, value in gradlab.hyperparams(slope).items()}
    {'momentum': True, 'learning_rate': True}
    """
    tx, horizon, plan = from_optax(tx), checked_horizon(horizon, plan.steps), checked_plan(task, plan)
    place = start(task, tx, jax.random.fold_in(key, INIT)), make_feed(task.train, jax.random.fold_in(key, DATA))
    check_slopes(place[0].opt_state)
    given = plan.steps - horizon
    if given:
        place, constant_task, constant_tx = jax.lax.stop_gradient((place, task, tx))
        place = jax.lax.stop_gradient(_advance(constant_task, constant_tx, key, place, 0, given, plan, remat=False))
    run, _ = _advance(task, tx, key, place, given, horizon, plan, remat)
    cost = evaluate(task, tx, run, _data(task))[metric]
    return cost * jnp.where(run.status == DIVERGED, jnp.nan, 1.0).astype(cost.dtype)


def _advance(task, tx, key, place, first, count, plan, remat):
    """The run and its feed ``count`` steps after step ``first``."""
    noise = jax.random.fold_in(key, NOISE)

    def one(step, place):
        run, feed = place
        feed, batch = draw(feed, task.train, step, batch_size=plan.batch_size, sampling=plan.sampling)
        run, _ = train_step(task, tx, run, batch, jax.random.fold_in(noise, step), step, accumulate=plan.accumulate)
        return run, feed

    steps = lambda place, first, count: jax.lax.fori_loop(
        np.int32(0), np.int32(count), lambda i, place: one(first + i, place), place
    )
    if not remat:
        return steps(place, np.int32(first), count)
    width = math.isqrt(count - 1) + 1
    again = jax.checkpoint(steps, static_argnums=2, prevent_cse=False)
    whole = count // width
    segment = lambda i, place: again(place, first + i * width, width)
    place = jax.lax.fori_loop(np.int32(0), np.int32(whole), segment, place)
    rest = count - whole * width
    return again(place, np.int32(first + whole * width), rest) if rest else place


def check_metric(task: Task, metric: str) -> None:
    """Raises unless the task reports this metric and it has a derivative by the parameters."""
    slopes = _slopes_along_nan(task)
    check.one_of("metric", metric, slopes)
    if not np.isnan(slopes[metric]):
        raise ValueError(
            f"metric {metric!r} of task {task.name!r} has no derivative by the parameters: it counts or compares; "
            "take 'loss'"
        )


@jax.jit
def _slopes_along_nan(task: Task) -> dict[str, jax.Array]:
    """By metric: NaN if an operation between the parameters and it has a derivative, even one that is zero here."""
    params, model_state = task.init(jax.random.key(0))
    as_float = lambda value: jnp.asarray(value, dtype=float)  # a count would have no slope at all
    measure = lambda params: jax.tree.map(as_float, task.metrics(params, model_state, _data(task)))
    return jax.jvp(measure, (params,), (jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params),))[1]


def check_slopes(opt_state: Any) -> None:
    """Raises unless all that an optimizer keeps from step to step has a derivative."""
    what = without_slope(opt_state)
    if what is not None:
        raise ValueError(
            f"hypergradients cannot pass {what}, which have no derivative: they would be wrong in size and sign, or "
            "zero; take storage 'float32', 'bfloat16', 'factored' or none, and parameters in float32"
        )


def _data(task: Task) -> Any:
    return task.valid if task.valid is not None else task.train


def checked_horizon(horizon: int | None, steps: int) -> int:
    if horizon is None:
        return steps
    if not isinstance(horizon, int | np.integer) or isinstance(horizon, bool) or not 1 <= horizon <= steps:
        raise ValueError(f"`horizon` must be a whole number of steps, 1 to the {steps} of a run, got {horizon!r}")
    return int(horizon)


def checked_plan(task: Task, plan: Plan) -> Plan:
    batch_size, sampling = check_batches(task.train, plan.batch_size, plan.sampling, plan.accumulate)
    return plan._replace(batch_size=batch_size, sampling=sampling, segment=plan.steps)
