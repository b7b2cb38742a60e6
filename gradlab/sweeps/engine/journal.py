"""What a sweep has done so far, on disk: killed at any moment, it goes on where it was, to the same numbers.

::

    unfinished/plan.json      what is swept; another plan is refused
    unfinished/0003.npz       a chunk of lanes that is done: what its segments reported
    unfinished/0003.state.npz the state that it left, while its cohort needs it
    unfinished/running.npz    the chunk at work: what its segments reported, and the state of its lanes
    unfinished/layouts.json   how the lanes of each bucket run
    events.jsonl              begun, resumed, chunk, halt, interrupted, done: one line each, with the time

The folder ``unfinished`` is removed when the results are written.  A lock that ends with the process keeps a second
one away.
"""

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradlab.sweeps.engine.lanes import LaneState, SegmentResult
from gradlab.sweeps.outcomes.files import LOCK, make_run_folder, write_atomically

UNFINISHED, EVENTS = "unfinished", "events.jsonl"
EVERY_SECONDS = 10.0  # at most so often is the state of a running chunk written


class Journal:
    """The record of one sweep in its folder; made with `open_journal`."""

    def __init__(self, folder: Path, lock: int, every_seconds: float = EVERY_SECONDS):
        self.folder = folder
        self._parts = folder / UNFINISHED
        self._lock = lock
        self._every_seconds = every_seconds
        self._written = time.monotonic()
        self.stop_requested = False  # set it, and the sweep ends after its segment, ready to go on

    def event(self, kind: str, **facts: Any) -> None:
        """Appends a line to the events."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with open(self.folder / EVENTS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": now, "event": kind, **facts}) + "\n")

    def has_finished(self, chunk: int) -> bool:
        """Whether a chunk is done."""
        return self._chunk(chunk).exists()

    def finished(self, chunk: int) -> list[SegmentResult]:
        """What the segments of a chunk reported that is done."""
        with np.load(self._chunk(chunk), allow_pickle=False) as arrays:
            return _results_from(arrays)

    def keep_chunk(self, chunk: int, results: Sequence[SegmentResult], state: LaneState | None = None) -> None:
        """Writes down a chunk that is done, and the state in which its lanes go on."""
        if state is not None:
            arrays = state_arrays(state)
            write_atomically(self._state(chunk), lambda file: np.savez(file, **arrays))
        write_atomically(self._chunk(chunk), lambda file: np.savez(file, **_arrays_of(results)))
        (self._parts / "running.npz").unlink(missing_ok=True)
        self.event("chunk", chunk=chunk)

    def state(self, chunk: int, like: Any) -> LaneState:
        """The state that a chunk left."""
        with np.load(self._state(chunk), allow_pickle=False) as arrays:
            return state_from(arrays, like)

    def forget_states(self) -> None:
        """Removes the states of a cohort that is done."""
        for path in self._parts.glob("*.state.npz"):
            path.unlink()

    def layout(self, bucket: str) -> dict[str, Any] | None:
        """How the lanes of a bucket run, if that was decided before."""
        return self._layouts().get(bucket)

    def keep_layout(self, bucket: str, layout: Mapping[str, Any]) -> None:
        """Writes down how the lanes of a bucket run: decided anew, they might round otherwise."""
        layouts = self._layouts() | {bucket: dict(layout)}
        write_atomically(self._parts / "layouts.json", lambda file: file.write(json.dumps(layouts).encode()))

    def _layouts(self) -> dict[str, Any]:
        path = self._parts / "layouts.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def keep_running(self, chunk: int, results: Sequence[SegmentResult], state: LaneState, *, now: bool) -> None:
        """Writes down where a chunk is, if the last time is long enough ago or it must be ``now``."""
        if not now and time.monotonic() - self._written < self._every_seconds:
            return
        arrays = {**_arrays_of(results), **state_arrays(state), "chunk": np.asarray(chunk)}
        write_atomically(self._parts / "running.npz", lambda file: np.savez(file, **arrays))
        self._written = time.monotonic()

    def running(self, chunk: int, like: Callable[[], Any]) -> tuple[list[SegmentResult], LaneState] | None:
        """Where a chunk was, if it is the one at work.

        Args:
          chunk: its number.
          like: gives shapes and dtypes of the state of its lanes.
        """
        path = self._parts / "running.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["chunk"]) != chunk:
                return None
            return _results_from(arrays), state_from(arrays, like())

    def close(self, *, done: bool) -> None:
        """Releases the folder; what it holds of an unfinished sweep goes when the results are there."""
        if done:
            self.event("done")
            shutil.rmtree(self._parts)
            (self.folder / LOCK).unlink()
        os.close(self._lock)

    def _chunk(self, number: int) -> Path:
        return self._parts / f"{number:04d}.npz"

    def _state(self, number: int) -> Path:
        return self._parts / f"{number:04d}.state.npz"


def open_journal(
    out: str | os.PathLike, plan: Mapping[str, Any], *, overwrite: bool = False, every_seconds: float = EVERY_SECONDS
) -> Journal:
    """The journal of a new sweep, or of the unfinished one that the folder holds.

    Args:
      out: the folder.
      plan: JSON data that decides what the numbers are.
      overwrite: begin anew, whatever the folder holds.
      every_seconds: how often the state of a running chunk is written at most.

    Raises:
      FileExistsError: the folder holds something else, or another process works in it.
      ValueError: the folder holds an unfinished sweep with another plan.
    """
    folder = Path(out)
    parts = folder / UNFINISHED
    resumes = is_unfinished(folder) and not overwrite
    if not resumes:
        make_run_folder(folder, overwrite)
    lock = _locked(folder)
    try:
        plan = json.loads(json.dumps(plan))
        if resumes:
            _require_same(folder, json.loads((parts / "plan.json").read_text(encoding="utf-8")), plan)
        else:
            shutil.rmtree(parts, ignore_errors=True)
            (folder / EVENTS).unlink(missing_ok=True)
            parts.mkdir()
            write_atomically(parts / "plan.json", lambda file: file.write(json.dumps(plan, indent=2).encode()))
        journal = Journal(folder, lock, every_seconds)
        journal.event("resumed" if resumes else "begun", process=os.getpid())
    except BaseException:
        os.close(lock)
        raise
    return journal


def is_unfinished(out: str | os.PathLike) -> bool:
    """Whether a folder holds a sweep that can go on."""
    return Path(out, UNFINISHED, "plan.json").exists()


@contextlib.contextmanager
def journal_of(journal: Journal | None) -> Iterator[None]:
    """Closes a journal however the work ends, and says in it how."""
    try:
        yield
    except BaseException as error:
        if journal is not None:
            journal.event("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", error=repr(error)[:500])
            journal.close(done=False)
        raise
    if journal is not None:
        journal.close(done=True)


def _locked(folder: Path) -> int:
    """A file descriptor whose lock the system releases when the process ends, however it does."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise FileExistsError(
            f"another process is sweeping into {folder}; wait for it, or choose another folder (`out`, --out)"
        ) from None
    return lock


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = sorted(set(_differences(old, new)))
    if differing:
        raise ValueError(
            f"{folder} holds an unfinished sweep that differs in {', '.join(differing)}; run it to its end as it was, "
            "begin anew (`overwrite`, --overwrite), or choose another folder (`out`, --out)"
        )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The dotted paths at which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {*old, *new}:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path


def _arrays_of(results: Sequence[SegmentResult]) -> dict[str, np.ndarray]:
    arrays = {"segments": np.asarray(len(results))}
    for index, result in enumerate(results):
        own = {field: getattr(result, field) for field in SegmentResult._fields if field != "metrics"}
        own |= {f"metric.{name}": values for name, values in result.metrics.items()}
        arrays |= {f"{index}.{name}": np.asarray(values) for name, values in own.items()}
    return arrays


def _results_from(arrays: Any) -> list[SegmentResult]:
    results = []
    for index in range(int(arrays["segments"])):
        prefix = f"{index}."
        own = {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
        metrics = {name.removeprefix("metric."): own.pop(name) for name in list(own) if name.startswith("metric.")}
        own |= {name: float(own[name]) for name in ("seconds", "compile_seconds")}
        own["steps_done"] = int(own["steps_done"])
        results.append(SegmentResult(metrics=metrics, **own))
    return results


def state_arrays(state: Any) -> dict[str, np.ndarray]:
    """The leaves as bytes: NumPy's files know neither bfloat16 nor keys."""
    data = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(state)]
    raw = [np.frombuffer(np.asarray(leaf).tobytes(), np.uint8) for leaf in data]
    return {f"state.{index}": leaf for index, leaf in enumerate(raw)}


def state_from(arrays: Any, like: Any) -> Any:
    leaves, treedef = jax.tree.flatten(like)
    raw = [arrays[f"state.{index}"] for index in range(len(leaves))]
    return treedef.unflatten(map(_from_bytes, raw, leaves))


def _from_bytes(raw: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        data = jax.eval_shape(jax.random.key_data, like)
        return jax.random.wrap_key_data(_from_bytes(raw, data))
    return jax.numpy.asarray(np.frombuffer(raw.tobytes(), like.dtype).reshape(like.shape))


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
