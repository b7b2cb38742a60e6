"""The table of a sweep: one row for each run, computed from its arrays.

::

    uid, seed            which trial, which seed
    <hyperparameters>    by dotted name
    status               completed; diverged; stopped, for others were better; ended, for it had settled
    steps                steps done with finite loss
    <curve>_final        the last value; NaN if the run diverged
    <curve>_best         the best finite value, up to the divergence; not of what instruments saw
    best_step            where the main curve is best; -1 if nowhere
    diverged_at          step of the first loss that is not finite; -1 if never
    bucket, lane         which program, and which lane of it: trials in order, the seeds of a trial side by side
    lane_method          vmap, map or loop
    compile_seconds      of the bucket
    run_seconds          of the run: its share of what its lanes took together
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlab.sweeps.search import DIVERGED
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial, canonical_json

if TYPE_CHECKING:
    import pandas

    from gradlab.sweeps.outcomes.results import SweepResult

MAXIMISED = ("accuracy", "r2")
MAIN = ("valid_loss", "eval_loss")  # on the validation data; on the training data of a task that has no others


def mode_of(curve: str) -> str:
    """``'max'`` for accuracies and r2, ``'min'`` for losses and everything else.

    >>> mode_of('valid_accuracy'), mode_of('valid_loss')
    ('max', 'min')
    """
    return "max" if curve.endswith(MAXIMISED) else "min"


def main_of(metrics: Iterable[str]) -> str:
    """What trials are compared by: the loss on the validation data, else on the training data, else the first metric.

    >>> main_of(['valid_accuracy', 'valid_loss']), main_of(['eval_f1', 'eval_loss']), main_of(['noise/scale', 'error'])
    ('valid_loss', 'eval_loss', 'error')
    """
    metrics = [name for name in metrics if not is_seen(name)]
    return next(name for name in (*MAIN, *metrics) if name in metrics)


def is_seen(curve: str) -> bool:
    """Whether a curve is what an instrument saw, ``'<instrument>/<name>'``, and no metric.

    >>> is_seen('noise/scale'), is_seen('valid_loss')
    (True, False)
    """
    return "/" in curve


def before_divergence(values: np.ndarray, step: np.ndarray, diverged_at: np.ndarray) -> np.ndarray:
    """Which of the values (trials, seeds, points) mean something: the finite ones, up to where the run diverged."""
    return np.isfinite(values) & ((diverged_at < 0)[..., None] | (step <= diverged_at[..., None]))


def best_of(values: np.ndarray, step: np.ndarray, diverged_at: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Best finite value of each run before it diverged, and its step; NaN and -1 where there is none.

    Args:
      values: (trials, seeds, points).
      step: (points,).
      diverged_at: (trials, seeds), -1 for never.
      mode: ``'min'`` or ``'max'``.
    """
    if not len(step):
        return np.full(diverged_at.shape, np.nan), np.full(diverged_at.shape, -1)
    valid = before_divergence(values, step, diverged_at)
    cost = np.where(valid, values if mode == "min" else -values, np.inf)
    index = cost.argmin(-1)
    best = np.take_along_axis(values, index[..., None], -1)[..., 0].astype(np.float64)
    found = valid.any(-1)
    return np.where(found, best, np.nan), np.where(found, step[index], -1)


def final_of(step: np.ndarray, values: np.ndarray, diverged_at: np.ndarray, steps_done: np.ndarray) -> np.ndarray:
    """Last value of each run, NaN where it diverged: a lane stops at its last finite weights, which look healthy.

    Args:
      step: (points,), when each value was taken.
      values: (trials, seeds, points).
      diverged_at: (trials, seeds), -1 for never.
      steps_done: (trials,), after which there is no value.
    """
    if not len(step):
        return np.full(diverged_at.shape, np.nan)
    last = np.searchsorted(step, steps_done, side="right") - 1
    final = values[np.arange(len(values)), :, last]
    return np.where(diverged_at < 0, final.astype(np.float64), np.nan)


def make_table(result: "SweepResult", curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> "pandas.DataFrame":
    """The table, trials in order and seeds within.

    Args:
      result: a sweep.
      curves: name -> (steps (points,), values (trials, seeds, points)).
    """
    import pandas

    width, diverged_at, trials = len(result.seeds), result.diverged_at, result.trials
    each = lambda of_trial: np.repeat(np.asarray(of_trial), width)
    columns: dict[str, Any] = {"uid": each([trial.uid for trial in trials])}
    columns["seed"] = np.tile(np.asarray(result.seeds), len(trials))
    columns |= {name: value_column(result.space, name, trials, width) for name in result.space}
    columns["status"] = np.where(diverged_at.ravel() < 0, each(result.outcome), DIVERGED)
    columns["steps"] = np.where(diverged_at.ravel() < 0, each(result.steps_done), diverged_at.ravel())
    for name, (step, values) in curves.items():
        best, best_step = best_of(values, step, diverged_at, mode_of(name))
        columns[f"{name}_final"] = result.final(name).ravel()
        if is_seen(name):
            continue
        columns[f"{name}_best"] = best.ravel()
        if name == result.main_metric:
            main_step = best_step.ravel()
    columns["best_step"] = main_step
    columns["diverged_at"] = diverged_at.ravel()
    columns["bucket"] = each(result.bucket)
    table = pandas.DataFrame(columns)
    table["lane"] = table.groupby("bucket").cumcount()
    table["lane_method"] = np.asarray(result.methods)[columns["bucket"]]
    table["compile_seconds"] = result.compile_seconds[columns["bucket"]]
    table["run_seconds"] = each(result.run_seconds / width)
    return table


def value_column(space: Space, name: str, trials: Sequence[Trial], repeats: int = 1) -> "pandas.Series":
    """The values of a hyperparameter; as Python objects if it is structural, so that None stays None."""
    import pandas

    values = [trial.values[name] for trial in trials for _ in range(repeats)]
    return pandas.Series(values, dtype=None if space[name].dynamic else object)


def storable(table: "pandas.DataFrame", space: Space) -> "pandas.DataFrame":
    """The table with columns that mix strings, numbers and bools written as JSON: Parquet columns have one type."""
    mixed = [name for name in space.structural if len({type(value) for value in table[name] if value is not None}) > 1]
    return table.assign(**{name: table[name].map(canonical_json, na_action="ignore") for name in mixed})
