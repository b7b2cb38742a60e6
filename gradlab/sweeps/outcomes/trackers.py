"""Sweeps in the formats of experiment trackers, in files only: TensorBoard, Weights & Biases, MLflow.

None opens a connection; what it writes lies in its own folder inside that of the sweep, which each sweep begins anew.
Every trial and seed is a run of the tracker, so that its tables and parallel coordinates work as they do for runs of
other programs.  Hundreds of runs take seconds with TensorBoard, tens of seconds with the others, after the training.

The classes are made by `gradlab.sweeps.outcomes.writers.open_writer`, and have the methods of its ``Writer``.
"""

import contextlib
import logging
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import canonical_json

PROJECT = "gradlab"  # of the runs of Weights & Biases, and the name of MLflow's experiment
UNREPORTED = {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
MLFLOW_BATCH = 1000  # metrics that MLflow takes at once


class TensorBoard:
    """Event files in ``tensorboard/<run>``; see them with ``tensorboard --logdir tensorboard``.

    The tab HParams has the hyperparameters, what changes the program as text, beside the curves' last values.  The
    summary's numbers are scalars called ``summary/...``; its words are left out.
    """

    packages = ("tensorboardX",)

    def __init__(self, folder: Path):
        self._folder = folder / "tensorboard"

    def begin(self, facts: Mapping[str, Any]) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._curves, self._structural = facts["curves"], Space(facts["space"]).structural

    def hyperparams(self, run: str, values: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        shown = {
            name: value if is_number(value) and name not in self._structural else as_text(value)
            for name, value in values.items()
        }
        self._run = SummaryWriter(str(self._folder / run))
        for entry in hparams(shown, dict.fromkeys(self._curves)):
            self._run.file_writer.add_summary(entry)

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run.add_scalar(name, value, step)

    def summary(self, run: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if is_number(value):
                self._run.add_scalar(f"summary/{name}", value, 0)
        self._run.close()

    def close(self) -> None:
        """Does nothing: the file of a run is complete when its summary is written."""


class WeightsAndBiases:
    """Offline runs in ``wandb/``, grouped by the name of the sweep's folder; ``wandb sync wandb/offline-*`` uploads."""

    packages = ("wandb",)

    def __init__(self, folder: Path):
        self._folder = folder

    def begin(self, facts: Mapping[str, Any]) -> None:
        with _unreported():
            import wandb

            wandb.setup()
        shutil.rmtree(self._folder / "wandb", ignore_errors=True)
        self._facts = dict(facts)
        self._settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_disable_machine_info=True,
            x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
        )  # fmt: skip

    def hyperparams(self, run: str, values: Mapping[str, Any]) -> None:
        import wandb

        with _unreported():
            self._run = wandb.init(
                mode="offline",
                dir=self._folder,
                project=PROJECT,
                group=self._folder.name,
                name=run,
                config={**values, "sweep": self._facts},
                reinit="create_new",
                settings=self._settings,
            )

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def summary(self, run: str, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))
        self._run.finish()

    def close(self) -> None:
        """Does nothing: every run is finished with its summary."""


class MLflow:
    """Runs in the database ``mlflow/mlflow.db``, children of one run that has the name of the sweep's folder.

    See them with ``mlflow ui --backend-store-uri sqlite:///mlflow/mlflow.db``.  The summary's numbers are metrics, its
    words are tags.
    """

    packages = ("mlflow", "sqlalchemy", "alembic")

    def __init__(self, folder: Path):
        self._folder, self._name = folder / "mlflow", folder.name
        self._beside = folder / f".mlflow.{secrets.token_hex(4)}"  # MLflow keeps databases open, each name only once

    def begin(self, facts: Mapping[str, Any]) -> None:
        self._beside.mkdir()
        with _unreported(), _quiet_database():
            from mlflow import MlflowClient

            self._client = MlflowClient(f"sqlite:///{self._beside / 'mlflow.db'}")
            self._experiment = self._client.create_experiment(PROJECT, str(self._folder / "artifacts"))
        plain = {name: as_text(value) for name, value in facts.items() if isinstance(value, str | int | float)}
        self._parent = self._client.create_run(self._experiment, run_name=self._name, tags=plain).info.run_id

    def hyperparams(self, run: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._params = [Param(name, as_text(value)) for name, value in values.items()]
        self._metrics: list[tuple[str, float, int]] = []

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        self._metrics += [(name, value, step) for name, value in values.items()]

    def summary(self, run: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        words = {name: as_text(value) for name, value in values.items() if not is_number(value)}
        tags = {"mlflow.parentRunId": self._parent, **words}
        own = self._client.create_run(self._experiment, run_name=run, tags=tags).info.run_id
        numbers = [(name, value, 0) for name, value in values.items() if is_number(value)]
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value, step in [*self._metrics, *numbers]]
        for first in range(0, len(metrics), MLFLOW_BATCH):
            self._client.log_batch(own, metrics[first : first + MLFLOW_BATCH])
        self._client.log_batch(own, params=self._params)
        self._client.set_terminated(own)

    def close(self) -> None:
        """Ends the run that is the parent of the others, and puts the database in its place."""
        self._client.set_terminated(self._parent)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._beside.rename(self._folder)


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float; a bool is none.

    >>> is_number(0.5), is_number(3), is_number(True), is_number('0.5')
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON.

    >>> as_text('cosine'), as_text(None), as_text(0.001), as_text([64, 64])
    ('cosine', 'null', '0.001', '[64,64]')
    """
    return value if isinstance(value, str) else canonical_json(value)


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """Keeps W&B and MLflow from reporting to their makers: when they begin they read these environment variables."""
    before = {name: os.environ.get(name) for name in UNREPORTED}
    os.environ.update(UNREPORTED)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet_database() -> Iterator[None]:
    """Keeps MLflow from telling that it makes tables, and from warning of SQLAlchemy's future."""
    import sqlalchemy

    loggers = [logging.getLogger(name) for name in ("mlflow.store", "alembic")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sqlalchemy.exc.SADeprecationWarning)
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
