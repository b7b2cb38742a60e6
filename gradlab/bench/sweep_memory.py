"""Bytes of lanes side by side: planned by XLA for so many lanes, predicted from one and two, and seen by the system.

::

    planned      arguments + results - shared + scratch of the compiled segment
    predicted    shared bytes + lanes * bytes of a lane, by which a sweep chooses its chunks
    measured     growth of the resident memory of a process of its own: arguments made, segment run
"""

import ctypes
import dataclasses
import functools
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.bench.sweep_contenders import setup_of
from gradlab.bench.sweep_problem import SEED, Sweep
from gradlab.bench.sweep_workers import Workers
from gradlab.sweeps.engine.lanes import lane_segments
from gradlab.sweeps.engine.setup import Setup
from gradlab.sweeps.engine.width import lane_bytes, memory_budget, program_bytes, program_of

STEPS = 2  # memory does not grow with the steps, but for their losses
MEASURED = 2  # of the numbers of lanes of a task, the largest within these bytes
WORTH_MEASURING, MOST_MEASURED = 48e6, 512e6  # bytes
PASSES = 2  # of which the least counts: what was freed late adds to the others
M_MMAP_THRESHOLD, RETURNED_FROM = -3, 128 * 1024  # of glibc: blocks of so many bytes are mapped each by itself
WITHIN = 0.1  # goal: predicted and planned, measured and predicted differ by so much at most


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """The bytes of one program."""

    task: str
    lanes: int
    planned: int
    predicted: int
    measured: int | None  # None where it is not

    @property
    def met(self) -> bool:
        """Whether all that is known lies within the goal of the prediction."""
        known = [self.planned] if self.measured is None else [self.planned, self.measured]
        return all(abs(value / self.predicted - 1) <= WITHIN for value in known)

    def record(self) -> dict[str, Any]:
        """The row as a flat mapping."""
        ratio = lambda value: None if value is None else value / self.predicted
        return {
            **dataclasses.asdict(self),
            "planned_to_predicted": ratio(self.planned),
            "measured_to_predicted": ratio(self.measured),
            "met": self.met,
        }


class Memory:
    """The lanes of one task.

    Args:
      name: of the task.
      sweep_of: number of configurations -> the sweep.
      most_measured: rows whose memory is measured; none where the system does not tell it, or on accelerators.
    """

    def __init__(self, name: str, sweep_of: Callable[[int], Sweep], most_measured: int = MEASURED):
        self.name = name
        self.sweep_of = lambda lanes: sweep_of(lanes)._replace(steps=STEPS)
        self._left = most_measured if resident_memory() is not None and jax.default_backend() == "cpu" else 0

    @functools.cached_property
    def _shared_and_each(self) -> tuple[int, int]:
        setup = setup_of(self.sweep_of(1))
        return lane_bytes(setup, setup.task, setup.trials[0].values)

    def row(self, lanes: int) -> MemoryRow:
        """The row of a program; the memory of the first that are large enough is measured, in a process of its own."""
        shared, each = self._shared_and_each
        predicted, sweep = shared + lanes * each, self.sweep_of(lanes)
        measured = None
        if self._left > 0 and WORTH_MEASURING <= predicted <= min(MOST_MEASURED, memory_budget(None)):
            self._left -= 1
            with Workers([functools.partial(functools.partial, memory_growth, sweep)]) as workers:
                (measured,) = workers.run()
        return MemoryRow(self.name, lanes, program_bytes(compiled_segment(sweep)), predicted, measured)


def compiled_segment(sweep: Sweep) -> Any:
    """The program of all configurations side by side."""
    setup = setup_of(sweep)
    return program_of(setup, setup.task, [trial.values for trial in setup.trials])


def memory_growth(sweep: Sweep) -> int:
    """Bytes by which this process's memory grows at most while its lanes start and run, arguments included.

    Blocks that are freed go back to the system at once; the first pass makes what stays: programs, threads, pools.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, RETURNED_FROM)
    compiled, setup = compiled_segment(sweep), setup_of(sweep)
    return min([_growth_of(compiled, setup) for _ in range(1 + PASSES)][1:])


def _growth_of(compiled: Any, setup: Setup) -> int:
    before = _settled()
    task = jax.tree.map(jnp.copy, setup.task)
    group = setup.lanes([trial.values for trial in setup.trials])
    keys = jax.vmap(jax.random.key)(np.array([SEED], np.uint32))
    _, state = next(lane_segments(task, group, [SEED], setup.plan))
    jax.block_until_ready(state)
    _settled()
    return _peak_of(lambda: compiled(task, group, state, keys, np.int32(0))) - before


def _settled() -> int:
    """The resident memory after what is free went back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return resident_memory()


def _peak_of(run: Callable[[], Any]) -> int:
    """The largest resident memory while something runs, whatever came before."""
    Path("/proc/self/clear_refs").write_text("5")
    jax.block_until_ready(run())
    return resident_memory("VmHWM")


def resident_memory(field: str = "VmRSS") -> int | None:
    """Bytes of this process, now or with ``VmHWM`` at most; None on systems that do not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
