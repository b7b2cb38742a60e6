"""What a sweep leaves for other programs: lines of JSON always, files of experiment trackers where asked for.

::

    metrics.jsonl   {"uid": "3f2a...", "seed": 0, "step": 50, "loss": 0.7, "valid_loss": 0.6}, a line for each
                    evaluation of each run
    tensorboard/    event files                     wandb/    offline runs         mlflow/    a database

A finished sweep is replayed run by run, so the training itself waits for no tracker.  Numbers that are not finite, and
all that a run reports after it diverged, are left out.
"""

import importlib.util
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gradlab.core.check import one_of
from gradlab.sweeps.outcomes.files import write_atomically
from gradlab.sweeps.outcomes.results import LOSS, SweepResult
from gradlab.sweeps.outcomes.table import before_divergence, mode_of
from gradlab.sweeps.outcomes.trackers import MLflow, TensorBoard, WeightsAndBiases


class Writer(Protocol):
    """Where a sweep is written to: ``begin``, run after run, ``close``.

    Of each run first come the hyperparameters, then scalars at rising steps, then the summary.  After an error nothing
    more is called.
    """

    packages: tuple[str, ...]  # that it imports, when it begins

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Begins a sweep, in place of the one written before.

        Args:
          facts: JSON data about all runs: ``space``, ``curves`` (their names), ``metric`` (the main one), ``mode``,
            ``trials``, ``seeds``, ``steps`` and those of the result.
        """

    def hyperparams(self, run: str, values: Mapping[str, Any]) -> None:
        """Begins a run called ``<uid>-seed<seed>``; its values are ``uid``, ``seed`` and the hyperparameters."""

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Writes finite numbers of a run after ``step`` steps."""

    def summary(self, run: str, values: Mapping[str, Any]) -> None:
        """Ends a run with what the table says about it: finite numbers and words."""

    def close(self) -> None:
        """Completes the sweep."""


class JsonLines:
    """The file ``metrics.jsonl``: a line for each evaluation of each run, whole or absent."""

    packages = ()

    def __init__(self, folder: Path):
        self._path = folder / "metrics.jsonl"

    def begin(self, facts: Mapping[str, Any]) -> None:
        self._lines: list[str] = []

    def hyperparams(self, run: str, values: Mapping[str, Any]) -> None:
        self._run = {"uid": values["uid"], "seed": values["seed"]}

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        self._lines.append(json.dumps({**self._run, "step": step, **values}, allow_nan=False) + "\n")

    def summary(self, run: str, values: Mapping[str, Any]) -> None:
        """Does nothing: the table is in results.csv."""

    def close(self) -> None:
        write_atomically(self._path, lambda file: file.writelines(line.encode() for line in self._lines))


WRITERS: dict[str, type[Writer]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


def check_writers(names: Iterable[str]) -> None:
    """Raises unless every name is that of a writer whose packages are installed; imports none of them.

    Raises:
      ValueError: an unknown writer.
      ModuleNotFoundError: a package is missing; the message says how to install it.

    >>> check_writers(['tensorbord'])
    Traceback (most recent call last):
    ValueError: unknown writer 'tensorbord'; did you mean 'tensorboard'? Known: 'tensorboard', 'wandb', 'mlflow'
    """
    for name in names:
        one_of("writer", name, WRITERS)
        for package in WRITERS[name].packages:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:  # a folder of that name, as this module makes them, is no package
                raise ModuleNotFoundError(
                    f"writer {name!r} needs {package}, which the extra `writers` installs: "
                    "pip install 'gradlab[writers]'"
                )


def open_writer(name: str, folder: str | os.PathLike) -> Writer:
    """A writer by its name.

    Args:
      name: ``'tensorboard'``, ``'wandb'`` or ``'mlflow'``.
      folder: of the sweep, which exists; what is written goes into a folder inside it.

    Raises:
      ValueError: an unknown writer.
      ModuleNotFoundError: its package is missing.
    """
    check_writers([name])
    return WRITERS[name](Path(folder).resolve())


def write_files(result: SweepResult, folder: str | os.PathLike, writers: Iterable[str] = ()) -> None:
    """Writes ``metrics.jsonl`` of a sweep, and what the writers of these names make of it, into its folder."""
    opened = [open_writer(name, folder) for name in writers]
    for writer in (JsonLines(Path(folder)), *opened):
        write_result(result, writer)


def write_result(result: SweepResult, writer: Writer) -> None:
    """Replays a finished sweep into a writer, from ``begin`` to ``close``.

    The scalars are those of the evaluations: the metrics, and as ``loss`` the mean of the training loss since the
    evaluation before.

    >>> import tempfile, gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> result = gradlab.sweep(
    ...     surface_task(quadratic(condition=10.0)), gradlab.sgd, {'learning_rate': [0.1]}, trials=1, steps=4,
    ...     sampler='grid', eval_every=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_result(result, JsonLines(Path(folder)))
    ...     lines = Path(folder, 'metrics.jsonl').read_text().splitlines()
    >>> [json.loads(line)['step'] for line in lines]
    [0, 2, 4]
    """
    writer.begin(_facts(result))
    curves = {LOSS: _loss_between_evaluations(result), **result.metrics}
    known = {
        name: before_divergence(values, result.eval_step, result.diverged_at).tolist()
        for name, values in curves.items()
    }
    numbers = {name: values.tolist() for name, values in curves.items()}
    runs = itertools.product(range(len(result.trials)), range(len(result.seeds)))
    for (trial, seed), summary in zip(runs, _summaries(result), strict=True):
        identity = {"uid": result.trials[trial].uid, "seed": result.seeds[seed]}
        run = f"{identity['uid']}-seed{identity['seed']}"
        writer.hyperparams(run, {**identity, **result.trials[trial].values})
        for index, step in enumerate(result.eval_step.tolist()):
            own = {name: numbers[name][trial][seed][index] for name in curves if known[name][trial][seed][index]}
            if own:
                writer.scalars(run, step, own)
        writer.summary(run, summary)
    writer.close()


def _facts(result: SweepResult) -> dict[str, Any]:
    return {
        **result.facts,
        "space": result.space.spec(),
        "curves": [LOSS, *result.metrics],
        "metric": result.main_metric,
        "mode": mode_of(result.main_metric),
        "trials": len(result.trials),
        "seeds": list(result.seeds),
        "steps": result.steps,
    }


def _loss_between_evaluations(result: SweepResult) -> np.ndarray:
    """Means of the training loss's finite points since the evaluation before: (trials, seeds, evals), NaN for none."""
    points = np.ma.masked_invalid(result.loss)
    ends = np.searchsorted(result.loss_step, result.eval_step)
    spans = itertools.starmap(slice, itertools.pairwise([0, *ends]))
    means = [points[..., span].mean(-1, dtype=np.float64).filled(np.nan) for span in spans]
    return np.stack(means, axis=-1)


def _summaries(result: SweepResult) -> list[dict[str, Any]]:
    """The rows of the table without what identifies them and their hyperparameters."""
    table = result.table.drop(columns=["uid", "seed", *result.space])
    return [
        {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        for row in table.to_dict("records")
    ]
