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
from gradlab.training.instruments import make_instruments
from gradlab.training.segment import Settings, check_micro_batches, run_segment, start_of
from gradlab.training.step import DIVERGED, RUNNING, STOPPED, Run, evaluate
from gradlab.training.stop import Patience, check_rules
from gradlab.training.watch import OFF, Watch


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
    trajectory: np.ndarray | None  # (steps, parameters) before each step, as `loss`, if asked for; `params` ends it
    params: Any  # the weights to evaluate at
    run: Run  # the whole final state
    reason: str  # 'steps', 'diverged', the rule that stopped the run, or what ``progress`` said
    seconds: float  # compiling included
    instrument_step: np.ndarray  # (looks,) steps at which the instruments looked
    instruments: dict[str, np.ndarray]  # '<instrument>/<name>' -> (looks,)

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
    instruments: Any = (),
    monitor_every: int | None = None,
    progress: Callable[[Progress], str | None] | None = None,
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
      trajectory: keep the parameters before every step (small tasks only).
      instruments: what to measure on the way: ``'light'``, ``'normal'``, ``'full'``, or a list of names, of instruments
        and of functions of a `Sight`; see `gradlab.training.instruments`.  The run does not change.
      monitor_every: steps between two measurements; by default ``eval_every``.
      progress: called with a `Progress` after every segment; a string that it returns ends the run, as its reason.

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
    if not isinstance(task, Task):
        raise TypeError(
            f"`task` must be a Task, got {type(task).__name__}: {task!r}; make one, as gradlab.tasks.make_task and "
            "gradlab.tasks.TASKS['digits_mlp'] do"
        )
    tx = from_optax(tx)
    batch_size, sampling = check_batches(task.train, batch_size, sampling, accumulate)
    steps = resolve_steps(steps, epochs, num_examples(task.train), batch_size)
    segment = resolve_segment(eval_every, steps)
    rules, patience = check_rules(stop)
    micro_batches = check_micro_batches(micro_batches, task, epochs, accumulate)
    key = jax.random.key(key) if isinstance(key, int | np.integer) else key
    watch = resolve_watch(instruments, monitor_every, segment, batch_size, micro_batches is not None)
    settings = Settings(batch_size, sampling, accumulate, trajectory, watch)
    place = start_of(task, tx, key, watch)
    record = _Record(task, patience, steps, progress, began)
    record.evaluate(tx, place.run, 0)
    done = 0
    while done < steps and record.reason is None:
        length = min(segment, steps - done)
        place, losses, path, seen = run_segment(
            task, tx, place, key, jnp.int32(done), rules, micro_batches, length, settings
        )
        looks = watch.steps(done, length)
        done = record.add(place.run, losses, path, done + length, rules)
        record.add_looks(looks, seen, done)
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


def resolve_watch(
    instruments: Any, every: int | None, segment: int, batch_size: int | None, micro_batched: bool = False
) -> Watch:
    """The watch that `fit` was asked for.

    Raises:
      ValueError: an instrument that does not fit, or instruments together with micro-batches, or ``every`` alone.
    """
    made = make_instruments(instruments, batch_size or 0)
    if not made and every is not None:
        raise ValueError(f"monitor_every={every} without instruments; say which, such as instruments='normal'")
    if made and micro_batched:
        raise ValueError("instruments do not go with micro_batches: a step has no one batch to look at")
    check.in_range("monitor_every", 1 if every is None else every, 1)
    return Watch(made, segment if every is None else int(every)) if made else OFF


_evaluate = jax.jit(evaluate)


class _Record:
    """The host's side of a run: curves so far, whether it is over, progress."""

    def __init__(self, task: Task, patience: Patience | None, steps: int, progress: Any, began: float):
        self.task, self.patience, self.steps, self.progress = task, patience, steps, progress
        self.data = task.valid if task.valid is not None else task.train
        self.losses, self.paths, self.eval_steps, self.look_steps = [], [], [], []
        self.looks: dict[str, list[np.ndarray]] = {}
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
            answer = self.progress(Progress(done, self.steps, float(self.losses[-1][-1]), latest, seconds, remaining))
            if isinstance(answer, str):
                self.reason = self.reason or answer

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

    def add_looks(self, steps: range, seen: dict[str, jax.Array], done: int) -> None:
        """Keeps what the instruments saw of the steps that were made."""
        made = [step for step in steps if step < done] if seen else []
        self.look_steps += made
        for name, rows in jax.device_get(seen).items():
            self.looks.setdefault(name, []).append(rows[: len(made)])

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
            instrument_step=np.asarray(self.look_steps, int),
            instruments={name: np.concatenate(rows) for name, rows in self.looks.items()},
        )
