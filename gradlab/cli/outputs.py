"""The files that a command leaves: each is whole or absent."""

import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradlab.sweeps.outcomes.files import make_run_folder, write_atomically
from gradlab.training.loop import History

OF_A_RUN = (  # what `gradlab run` and `gradlab inspect` leave
    "config.yaml", "curves.npz", "history.*", "inspect_*.csv", "inspect_*.json", "instruments*.csv", "instruments*.png",
    "params.msgpack", "picture.png", "race.*", "resolved.json", "results.csv", "trajectories.png", "trajectory.png",
)  # fmt: skip


@contextlib.contextmanager
def saved_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """The folder for the results, made and checked before the work; if that fails, an empty one is removed again."""
    folder = make_run_folder(out, overwrite)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A hidden folder for the files of a run; once all are written, they take the places of those of an earlier run.

    A folder thus never holds files of two runs; what else is in it stays.
    """
    for left in folder.glob(".*.unfinished"):  # by a process that was killed
        shutil.rmtree(left)
    new = Path(tempfile.mkdtemp(prefix=".", suffix=".unfinished", dir=folder))
    try:
        yield new
        for pattern in OF_A_RUN:
            for old in folder.glob(pattern):
                old.unlink()
        for entry in new.iterdir():
            entry.replace(folder / entry.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a mapping as JSON; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(data), indent=2) + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(item) for item in data]
    return None if isinstance(data, float) and not np.isfinite(data) else data


def write_table(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    """Writes a CSV file; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as .npz."""
    write_atomically(path, lambda file: np.savez(file, **arrays))


def history_rows(history: History) -> tuple[list[str], list[list[Any]]]:
    """One row for each evaluation: its step, the mean training loss since the one before, the metrics."""
    between = [None]
    for first, last in zip(history.eval_step[:-1], history.eval_step[1:], strict=True):
        losses = history.loss[first:last]
        between.append(float(losses.mean()) if len(losses) else None)
    columns = ["step", "training_loss", *(f"eval_{name}" for name in history.metrics)]
    metrics = [values.tolist() for values in history.metrics.values()]
    return columns, [list(row) for row in zip(history.eval_step.tolist(), between, *metrics, strict=True)]


def history_arrays(history: History) -> dict[str, np.ndarray]:
    """The curves of a run by name."""
    arrays = {"loss": history.loss, "eval_step": history.eval_step}
    arrays |= {f"metric.{name}": values for name, values in history.metrics.items()}
    if history.instruments:
        arrays["instrument_step"] = history.instrument_step
        arrays |= {f"instrument.{name}": values for name, values in history.instruments.items()}
    return arrays if history.trajectory is None else {**arrays, "trajectory": history.trajectory}
