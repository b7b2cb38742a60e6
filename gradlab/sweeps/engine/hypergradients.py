"""Derivatives of whole training runs: how the final validation cost answers to each number of the optimizer and task.

With theta the parameters and the optimizer's state, h the numbers, and E the metric on the validation data::

    theta_{t+1} = Phi_t(theta_t, h)          cost = E(theta_T)
    forward   Z_{t+1} = dPhi_t/dtheta Z_t + dPhi_t/dh,   Z_0 = dtheta_0/dh      d cost/dh = dE/dtheta Z_T
    reverse   a_t = a_{t+1} dPhi_t/dtheta,               a_T = dE/dtheta        d cost/dh = sum_t a_{t+1} dPhi_t/dh

Forward (arXiv 1703.01785) carries one column of Z for each number beside the run: its memory does not grow with the
number of steps.  Reverse costs the same for any number of numbers; it keeps the state before each of about sqrt(T)
segments and runs them again on the way back (arXiv 1604.06174).  Both give the same derivatives.

``horizon`` H differentiates the last H steps only: Z_{T-H} = 0, what the numbers did before counts as given.  That is
cheaper, and biased: it favours what lowers the cost quickly, such as a small learning rate (arXiv 1803.02021).

The derivative is that of the steps as they are computed: where an update takes a sign, rounds, compares or stops a
gradient, the jump does not count.  It is local: at a rate near the edge of stability the cost is rugged and its slope
large, and neither says much about the cost a little further on.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core import check
from gradlab.sweeps.engine.lanes import Lanes, Plan
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.setup import TASK, Make, Setup
from gradlab.sweeps.engine.training_cost import check_metric, checked_horizon, training_cost
from gradlab.sweeps.outcomes.table import mode_of
from gradlab.sweeps.schedulers.hypergrad import METHODS, moving
from gradlab.sweeps.spaces.dimensions import Dimension, Integer, Log, OneMinus
from gradlab.sweeps.spaces.space import Bucket, Space
from gradlab.sweeps.spaces.trial import Trial
from gradlab.tasks.task import Task


class Hypergradients(NamedTuple):
    """Costs of trials and their derivatives; a trial of which a run diverged has the cost inf and derivatives NaN."""

    names: tuple[str, ...]  # of the d numbers that move
    costs: np.ndarray  # (trials,) mean over the seeds of the final metric; negated where larger is better
    unit: np.ndarray  # (trials, d) by the place in the unit interval of the number's dimension
    natural: np.ndarray  # (trials, d) by the number itself


def hypergradients(
    task: Task | Callable[..., Task],
    make: Make | str,
    space: Space | Mapping[str, Any],
    trials: Sequence[Trial],
    *,
    seeds: int | Sequence[int],
    plan: Plan,
    metric: str = "loss",
    method: str = "forward",
    horizon: int | None = None,
) -> Hypergradients:
    """The final cost of every trial, as a sweep of these runs reports it, and its derivatives by the moving numbers.

    Whole numbers move as if they were real.  Choices, fixed values and structure are held.  Trials of one structure
    run at once; each needs the memory of 1 + d runs in forward mode.

    Args:
      task, make, space, seeds: as for `gradlab.sweep`.
      trials: of the space.
      plan: steps and batches of a run.
      metric: the task's, on its validation data, or the training data where there are none.
      method: ``'forward'`` or ``'reverse'``; forward where few numbers move.
      horizon: differentiate the last so many steps only, 1 to ``plan.steps``; all if None.

    Raises:
      ValueError: an unknown metric or method, a metric without a derivative (accuracy), a space of which no number
        moves, a horizon out of range, an optimizer whose state has no derivative (codes, residuals), or what
        `gradlab.sweep` says of the other arguments; in reverse mode also an optimizer whose step is a loop of a length
        not known before, such as a line search.

    >>> import gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> space = Space({'learning_rate': {'log': [1e-3, 1e-1]}})
    >>> found = hypergradients(
    ...     surface_task(quadratic(condition=10.0)), gradlab.sgd, space, space.from_unit([[0.0], [0.5]]),
    ...     seeds=1, plan=Plan(steps=20, segment=20, batch_size=None, sampling='full'))
    >>> found.names, bool((found.unit < 0).all())  # a higher rate would end lower
    (('learning_rate',), True)
    """
    setup = prepare(
        task, make, space, trials=list(trials), seeds=seeds, steps=plan.steps, batch_size=plan.batch_size,
        sampling=plan.sampling, accumulate=plan.accumulate, eval_every=plan.segment,
    )  # fmt: skip
    return hypergradients_of(setup, trials, metric=metric, method=method, horizon=horizon)


def hypergradients_of(
    setup: Setup,
    trials: Sequence[Trial],
    *,
    metric: str = "loss",
    method: str = "forward",
    horizon: int | None = None,
) -> Hypergradients:
    """`hypergradients` of trials of a sweep that is prepared."""
    space = setup.space
    names = moving(space)
    if not names:
        raise ValueError(f"no number of the space moves: {list(space)} are choices, fixed or structure; give a range")
    check.one_of("method", method, METHODS)
    horizon = checked_horizon(horizon, setup.plan.steps)
    keys = _keys(np.asarray(setup.seeds, np.uint32))
    costs, natural = np.empty(len(trials)), np.empty((len(trials), len(names)))
    for bucket in space.bucket(trials):
        task, places = setup.task_of(bucket.structure), list(bucket.positions)
        check_metric(task, metric)
        arguments = (task, keys, setup.plan, metric, horizon)
        costs[places], natural[places] = _of_bucket(setup, bucket, names, method, arguments)
    natural[~np.isfinite(costs)] = np.nan
    costs[~np.isfinite(costs)] = np.inf
    slopes = [unit_slope(space[name], [trial.values[name] for trial in trials]) for name in names]
    return Hypergradients(names, costs, natural * np.stack(slopes, axis=1), natural)


def unit_slope(dimension: Dimension, values: Any) -> np.ndarray:
    """The derivative of a dimension's value by its place in the unit interval, at these values.

    >>> unit_slope(Log(1.0, 1e3), [10.0]).round(3).tolist(), unit_slope(Integer(1, 4), [2]).tolist()
    ([69.078], [4.0])
    """
    values = np.asarray(values, np.float64)
    if isinstance(dimension, OneMinus):
        return -unit_slope(dimension.inner, 1.0 - values)
    half = 0.5 if isinstance(dimension, Integer) else 0.0  # a whole number owns the interval of its rounding
    low, high = dimension.low - half, dimension.high + half
    is_log = isinstance(dimension, Log) or (isinstance(dimension, Integer) and dimension.log)
    return values * math.log(high / low) if is_log else np.full(values.shape, high - low)


_keys = jax.jit(jax.vmap(jax.random.key))


def _of_bucket(
    setup: Setup, bucket: Bucket, names: tuple[str, ...], method: str, arguments: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """Costs (trials,) and natural derivatives (trials, d) of trials of one structure."""
    build, numbers = _builder(setup, bucket)
    moves = {name: numbers[name] for name in names}
    leaves_at = lambda moves: _inexact(build({**numbers, **moves}))
    lanes, metric = build(numbers), arguments[3]
    if method == "forward":
        one_hot = {name: jnp.zeros((len(names), lanes.count)).at[i].set(1) for i, name in enumerate(names)}
        tangents = jax.vmap(lambda direction: jax.jvp(leaves_at, (moves,), (direction,))[1])(one_hot)
        costs, slopes = _forward(lanes, tangents, *arguments)
        natural = np.asarray(slopes, np.float64).mean(1).T
    else:
        costs, cotangents = _reverse(lanes, *arguments)
        (slopes,) = jax.vjp(leaves_at, moves)[1](cotangents)
        natural = np.stack([np.asarray(slopes[name], np.float64) for name in names], axis=1)
    sign = -1.0 if mode_of(metric) == "max" else 1.0
    return sign * np.asarray(costs, np.float64).mean(0), sign * natural


def _builder(setup: Setup, bucket: Bucket) -> tuple[Callable, dict[str, jax.Array]]:
    """A function from numbers by name, each (trials,), to lanes; and the numbers of the bucket's trials."""
    structure = {name: value for name, value in bucket.structure.items() if not name.startswith(TASK)}

    def build(numbers):
        own = {name.removeprefix(TASK): column for name, column in numbers.items() if name.startswith(TASK)}
        rest = {name: column for name, column in numbers.items() if not name.startswith(TASK)}
        one = lambda values: setup.make(**structure, **values)
        return Lanes(jax.vmap(one, axis_size=len(bucket.trials))(rest), own)

    dynamic = [name for name in setup.space if setup.space[name].dynamic]
    columns = {name: np.asarray([trial.values[name] for trial in bucket.trials], np.float64) for name in dynamic}
    return build, {name: jnp.asarray(column, dtype=float) for name, column in columns.items()}


@functools.partial(jax.jit, static_argnames=("plan", "metric", "horizon"))
def _forward(lanes, tangents, task, keys, plan, metric, horizon):
    """Costs (seeds, trials), and their derivatives (d, seeds, trials) along d tangents of the lanes."""
    costs = lambda leaves: _costs(_with_leaves(lanes, leaves), task, keys, plan, metric, horizon, False)
    push = lambda tangent: jax.jvp(costs, (_inexact(lanes),), (tangent,))
    return jax.vmap(push, out_axes=(None, 0))(tangents)


@functools.partial(jax.jit, static_argnames=("plan", "metric", "horizon"))
def _reverse(lanes, task, keys, plan, metric, horizon):
    """Costs (seeds, trials), and the derivative of each trial's mean by every leaf of its lane."""

    def total(leaves):
        costs = _costs(_with_leaves(lanes, leaves), task, keys, plan, metric, horizon, True)
        return costs.mean(0).sum(), costs

    (_, costs), cotangents = jax.value_and_grad(total, has_aux=True)(_inexact(lanes))
    return costs, cotangents


def _costs(lanes, task, keys, plan, metric, horizon, remat) -> jax.Array:
    def one(tx, values, key):
        own = task.replace(**values) if values else task
        return training_cost(own, tx, key, plan, metric=metric, horizon=horizon, remat=remat)

    over_trials = jax.vmap(one, in_axes=(0, 0, None))
    return jax.vmap(lambda key: over_trials(*lanes, key))(keys)


def _inexact(lanes: Lanes) -> Lanes:
    """The lanes without the leaves that have no derivative, such as the data of a key."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, lanes)


def _with_leaves(lanes: Lanes, leaves: Lanes) -> Lanes:
    return jax.tree.map(lambda own, new: own if new is None else new, lanes, leaves)
