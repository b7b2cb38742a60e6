"""`fit`: one training run, as compiled segments with the host between them."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.core.transform import from_optax
from gradlab.core.update import eval_params
from gradlab.tasks.task import Task
from gradlab.training.batches import check_batches, num_examples
from gradlab.training.segment import Settings, check_micro_batches, run_segment, start_of
from gradlab.training.step import DIVERGED, RUNNING, STOPPED, Run, evaluate
from gradlab.training.stop import Patience, check_rules


class Progress(NamedTuple):
    """What `fit` tells its ``progress`` callback after every segment."""

    step: int
    steps: int
    loss: float
    metrics: dict[str, float]
    seconds: float  # since the start
    remaining: float  # estimated seconds to the end


@dataclasses.dataclass(frozen=True)
class History:
    """What a run leaves: curves as arrays, and the state it ended in."""

    loss: np.ndarray  # (steps,) training loss at the parameters before each step
    eval_step: np.ndarray  # (evaluations,) steps done at each evaluation
    metrics: dict[str, np.ndarray]  # name -> (evaluations,), on the validation data if there are any
    trajectory: np.ndarray | None  # (steps, parameters), if asked for
    params: Any  # the weights to evaluate at
    run: Run  # the whole final state
    reason: str  # 'steps', 'diverged', or the rule that stopped the run
    seconds: float  # compiling included

    @property
    def steps(self) -> int:
        """The number of steps taken."""
        return len(self.loss)

    @property
    def final(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return {name: float(values[-1]) for name, values in self.metrics.items()}


def fit(
    task: Task,
    tx: optax.GradientTransformation,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    key: Any = 0,
    batch_size: int | None = None,
    sampling: str = "epoch",
    accumulate: int = 1,
    micro_batches: Any = None,
    eval_every: int | None = None,
    stop: Any = (),
    trajectory: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> History:
    """Trains ``task`` with ``tx`` and returns the history.

    The run is a scan compiled in segments of ``eval_every`` steps; no step talks to the host.  Another optimizer
    of the same structure, or other values of its hyperparameters, reuse the compiled program.

    Args:
      task: what to minimise.
      tx: any gradient transformation.
      steps: number of steps; or give ``epochs``.
      epochs: number of passes through the training data.
      key: a seed or a key; initialisation, data order and noise are folded from it.
      batch_size: examples in a step; all of them if None.
      sampling: ``'epoch'``, ``'once'``, ``'ordered'``, ``'replacement'`` or ``'full'``; see `gradlab.training.batches`.
      accumulate: micro-batches that a batch is divided into, to save memory: the gradients are averaged.
      micro_batches: batches of ``batch_size`` whose gradients are averaged in one step, a number or a schedule of them
        (`seesaw_schedules`): a batch that grows during the run without a new program.  Needs ``steps``.
      eval_every: steps between evaluations on the validation data; by default 20 in the whole run.
      stop: `Tolerance`, `Threshold` and `Patience` rules.
      trajectory: keep the parameters of every step (small tasks only).
      progress: called with a `Progress` after every segment.

    Raises:
      ValueError: neither or both of steps and epochs, a batch larger than the data set, a task without parameters,
        a patience metric that the task does not report.

    >>> import gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> history = fit(surface_task(quadratic(condition=10.0)), gradlab.sgd(0.1), steps=100)
    >>> history.steps, history.reason, bool(history.loss[-1] < 1e-4)
    (100, 'steps', True)
    """
    began = time.perf_counter()
    tx = from_optax(tx)
    batch_size, sampling = check_batches(task.train, batch_size, sampling, accumulate)
    steps = resolve_steps(steps, epochs, num_examples(task.train), batch_size)
    segment = resolve_segment(eval_every, steps)
    rules, patience = check_rules(stop)
    micro_batches = check_micro_batches(micro_batches, task, epochs, accumulate)
    key = jax.random.key(key) if isinstance(key, int | np.integer) else key
    settings = Settings(batch_size, sampling, accumulate, trajectory)
    place = start_of(task, tx, key)
    record = _Record(task, patience, steps, progress, began)
    record.evaluate(tx, place.run, 0)
    done = 0
    while done < steps and record.reason is None:
        length = min(segment, steps - done)
        place, losses, path = run_segment(task, tx, place, key, jnp.int32(done), rules, micro_batches, length, settings)
        done = record.add(place.run, losses, path, done + length, rules)
        record.evaluate(tx, place.run, done)
    return record.history(tx, place.run)


def resolve_segment(eval_every: int | None, steps: int) -> int:
    """Steps between evaluations: what was asked for, or a twentieth of the run."""
    if eval_every is None:
        return -(-steps // 20)
    check.in_range("eval_every", eval_every, 1)
    return min(steps, int(eval_every))


def resolve_steps(steps: int | None, epochs: int | None, examples: int, batch_size: int | None) -> int:
    if (steps is None) == (epochs is None):
        raise ValueError(f"give either steps or epochs, got steps={steps}, epochs={epochs}")
    if epochs is not None:
        check.in_range("epochs", epochs, 1)
        if not examples:
            raise ValueError("epochs needs a task with training data; give steps")
        return int(epochs) * (examples // batch_size)
    check.in_range("steps", steps, 1)
    return int(steps)


_evaluate = jax.jit(evaluate)


class _Record:
    """The host's side of a run: curves so far, whether it is over, progress."""

    def __init__(self, task: Task, patience: Patience | None, steps: int, progress: Any, began: float):
        self.task, self.patience, self.steps, self.progress = task, patience, steps, progress
        self.data = task.valid if task.valid is not None else task.train
        self.losses, self.paths, self.eval_steps = [], [], []
        self.metrics: dict[str, list[float]] = {}
        self.reason: str | None = None
        self.began = began

    def evaluate(self, tx: Any, run: Run, done: int) -> None:
        for name, value in jax.device_get(_evaluate(self.task, tx, run, self.data)).items():
            self.metrics.setdefault(name, []).append(float(value))
        self.eval_steps.append(done)
        if self.patience is not None:
            if self.patience.metric not in self.metrics:
                raise ValueError(
                    f"Patience watches {self.patience.metric!r}, which task {self.task.name!r} does not "
                    f"report{check.suggestion(self.patience.metric, self.metrics)}"
                )
            if self.reason is None and self.patience.exhausted(self.metrics[self.patience.metric]):
                self.reason = repr(self.patience)
        if self.progress is not None and done:
            seconds = time.perf_counter() - self.began
            latest = {name: values[-1] for name, values in self.metrics.items()}
            remaining = seconds * (self.steps - done) / done
            self.progress(Progress(done, self.steps, float(self.losses[-1][-1]), latest, seconds, remaining))

    def add(self, run: Run, losses: jax.Array, path: jax.Array | None, done: int, rules: tuple) -> int:
        """Keeps the segment's curves up to the step at which the run ended; returns the steps done."""
        status, ended_at = int(run.status), int(run.ended_at)
        if status == DIVERGED:
            self.reason = "diverged"
        elif status >= STOPPED:
            self.reason = repr(rules[status - STOPPED])
        losses = np.asarray(losses)
        kept = losses if status == RUNNING else losses[: len(losses) - (done - ended_at) + 1]
        self.losses.append(kept)
        if path is not None:
            self.paths.append(np.asarray(path)[: len(kept)])
        return done if status == RUNNING else ended_at

    def history(self, tx: Any, run: Run) -> History:
        return History(
            loss=np.concatenate(self.losses),
            eval_step=np.asarray(self.eval_steps),
            metrics={name: np.asarray(values) for name, values in self.metrics.items()},
            trajectory=np.concatenate(self.paths) if self.paths else None,
            params=eval_params(tx, run.opt_state, run.params),
            run=run,
            reason=self.reason or "steps",
            seconds=time.perf_counter() - self.began,
        )
