"""Chunks as tasks of a Ray cluster: each is run by whichever process is free, and again if that one dies.

The process that called `sweep` stays the scheduler: it draws trials, decides at halts, keeps the record and the
journal, and hands a chunk what it needs to begin; what a chunk reports and the state that it leaves come back when it
is done.  A chunk is a pure function of what it is given, so one that runs twice reports the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gradlab.sweeps.engine.chunks import Chunk, Report, replayed, segments_of
from gradlab.sweeps.engine.cohorts import Workers
from gradlab.sweeps.engine.journal import Journal, state_arrays, state_from
from gradlab.sweeps.engine.lanes import LaneState, SegmentResult
from gradlab.sweeps.engine.setup import Setup

RETRIES = 3  # of a chunk whose process died


def ray_workers(address: str, cpus: float = 1.0) -> Workers:
    """Workers for `run_setup` that are tasks of a Ray cluster.

    Args:
      address: ``'ray'`` for a cluster of this machine, started here; ``'ray://host:port'``, or ``'ray://auto'`` for the
        one that this machine belongs to.
      cpus: of a task; more of them leave room for fewer tasks at once.

    Raises:
      ModuleNotFoundError: Ray is not installed.
      ValueError: an address of another form.
    """
    if address != "ray" and not address.startswith("ray://"):
        raise ValueError(f"a cluster is 'ray' or 'ray://address', got {address!r}")
    try:
        import ray
    except ModuleNotFoundError:
        message = "a cluster needs ray, which the extra `cluster` installs: pip install 'gradlab[cluster]'"
        raise ModuleNotFoundError(message) from None
    if not ray.is_initialized():
        where = {"ray": "local", "ray://auto": "auto"}.get(address, address)
        ray.init(address=where, include_dashboard=False if where == "local" else None, log_to_driver=False)
    run = ray.remote(_run_remotely).options(num_cpus=cpus, max_retries=RETRIES)

    def workers(
        setup: Setup, chunks: Iterable[tuple[Chunk, LaneState | None]], journal: Journal | None
    ) -> Iterator[Report]:
        shared: dict[int, Any] = {}
        running: dict[Any, Chunk] = {}
        for chunk, begin in chunks:
            if journal is not None and journal.has_finished(chunk.number):
                yield from replayed(setup, chunk, journal)
                continue
            if chunk.bucket not in shared:
                own = setup._replace(task=setup.task_of(chunk.structure), make_task=None, trials=[])
                shared[chunk.bucket] = ray.put(own)
            running[run.remote(shared[chunk.bucket], chunk, None if begin is None else state_arrays(begin))] = chunk
        try:
            while running:
                (ready, *_), _ = ray.wait(list(running), timeout=None)
                chunk = running.pop(ready)
                yield from _taken(setup, chunk, *ray.get(ready), journal)
                if journal is not None and journal.stop_requested:
                    raise KeyboardInterrupt
        finally:
            for task in running:
                ray.cancel(task, force=True)

    return workers


def _run_remotely(
    setup: Setup, chunk: Chunk, begin: dict[str, np.ndarray] | None
) -> tuple[list[SegmentResult], dict[str, np.ndarray] | None]:
    begun = None if begin is None else state_from(begin, _shapes(setup, chunk))
    *before, (last, state) = segments_of(setup, chunk, begun)
    return [*(result for result, _ in before), last], state_arrays(state) if chunk.keeps else None


def _taken(
    setup: Setup,
    chunk: Chunk,
    results: Sequence[SegmentResult],
    arrays: dict[str, np.ndarray] | None,
    journal: Journal | None,
) -> Iterator[Report]:
    """What a chunk left, written down before it is reported."""
    state = None if arrays is None else state_from(arrays, _shapes(setup, chunk))
    if journal is not None:
        journal.keep_chunk(chunk.number, results, state)
    for result in results:
        yield Report(chunk, result, False, state if result.steps_done == chunk.last else None)


def _shapes(setup: Setup, chunk: Chunk) -> LaneState:
    return setup.state_shapes(chunk.structure, chunk.padded(), chunk.seeds)
