"""The files of a sweep.

::

    curves.npz        everything, for `read_fields`: one file, so that a kill cannot leave halves of two sweeps
    results.parquet   the table (see `gradlab.sweeps.outcomes.table`)
    results.csv       the same for reading
    resolved.json     space, trials, seeds, buckets with their seconds, versions, platform, commit, date
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlab.sweeps.outcomes.files import write_atomically
from gradlab.sweeps.outcomes.table import storable
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

if TYPE_CHECKING:
    from gradlab.sweeps.outcomes.results import SweepResult

METRIC = "metric."  # begins the names of the metrics in curves.npz
ARRAYS = (
    "loss",
    "loss_step",
    "eval_step",
    "diverged_at",
    "outcome",
    "steps_done",
    "bucket",
    "compile_seconds",
    "run_seconds",
)


def write_result(result: "SweepResult", folder: Path) -> None:
    """Writes the files into a folder that exists; each replaces its predecessor when it is complete."""
    table = storable(result.table, result.space)
    resolved = json.dumps(_resolved(result), indent=2, allow_nan=False)
    arrays = {field: getattr(result, field) for field in ARRAYS}
    arrays |= {METRIC + name: values for name, values in result.metrics.items()}
    arrays["resolved"] = np.frombuffer(resolved.encode(), np.uint8)
    write_atomically(folder / "curves.npz", lambda file: np.savez(file, **arrays))
    write_atomically(folder / "results.parquet", lambda file: table.to_parquet(file, index=False))
    write_atomically(folder / "results.csv", lambda file: table.to_csv(file, index=False))
    write_atomically(folder / "resolved.json", lambda file: file.write(resolved.encode() + b"\n"))


def _resolved(result: "SweepResult") -> dict[str, Any]:
    first = np.unique(result.bucket, return_index=True)[1]
    structures = [{name: result.trials[i].values[name] for name in result.space.structural} for i in first]
    seconds = np.bincount(result.bucket, result.run_seconds).tolist()
    each = zip(structures, result.methods, result.compile_seconds.tolist(), seconds, strict=True)
    names = ("structure", "lane_method", "compile_seconds", "run_seconds")
    return {
        "space": result.space.spec(),
        "seeds": result.seeds,
        "steps": result.steps,
        "buckets": [dict(zip(names, values, strict=True)) for values in each],
        "facts": result.facts,
        "lineage": result.lineage,
        "trials": [dataclasses.asdict(trial) for trial in result.trials],
    }


def read_fields(folder: Path) -> dict[str, Any]:
    """The fields of the `SweepResult` that `write_result` wrote.

    Raises:
      FileNotFoundError: the folder holds no curves.npz, or that of a run.
    """
    path = folder / "curves.npz"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no sweep: there is no {path.name} in it")
    with np.load(path, allow_pickle=False) as arrays:
        if "resolved" not in arrays:
            raise FileNotFoundError(f"{folder} holds a run and no sweep; for a run there is `gradlab inspect`")
        resolved = json.loads(arrays["resolved"].tobytes())
        return {
            "space": Space(resolved["space"]),
            "trials": tuple(Trial(trial["uid"], _with_tuples(trial["values"])) for trial in resolved["trials"]),
            "seeds": tuple(resolved["seeds"]),
            "steps": resolved["steps"],
            "metrics": {name.removeprefix(METRIC): arrays[name] for name in arrays if name.startswith(METRIC)},
            "methods": [bucket["lane_method"] for bucket in resolved["buckets"]],
            "lineage": resolved["lineage"],
            "facts": resolved["facts"],
            **{field: arrays[field] for field in ARRAYS},
        }


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where a trial has tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
