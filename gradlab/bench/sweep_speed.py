"""``gradlab bench sweep``: hundreds of training runs as lanes, against the ways in which people run them with optax.

::

    speed     trials a minute and training steps a second, with and without compiling     `gradlab.bench.sweep_race`
    parity    paired rounds against lanes written by hand                               `gradlab.bench.sweep_parity`
    memory    bytes planned, predicted and measured                                     `gradlab.bench.sweep_memory`

All run on one machine, in this process or in processes that it starts; no compiled program is read from disk.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from gradlab.bench.machine import machine_facts
from gradlab.bench.rows import Row, csv_text, measured
from gradlab.bench.sweep_contenders import DoesNotFit
from gradlab.bench.sweep_memory import MEASURED, Memory, MemoryRow
from gradlab.bench.sweep_parity import parity_cases
from gradlab.bench.sweep_problem import PROBLEMS, Problem
from gradlab.bench.sweep_race import OURS, RTOL, Race, SpeedRow
from gradlab.bench.sweep_timing import CONTENDERS
from gradlab.core import check
from gradlab.sweeps.engine.record import CURVE_POINTS

PARTS = ("speed", "parity", "memory")
RIVALS = tuple(name for name in CONTENDERS if name != OURS)
LANES, QUICK_LANES = (1, 8, 64, 256, 1024), (64,)
LIMIT, QUICK_LIMIT = 15.0, 2.0  # seconds of a contender's runs, above which they are estimated
ROUNDS = 15  # of parity, at most


class Request(NamedTuple):
    """What shall be measured."""

    tasks: tuple[str, ...] = tuple(PROBLEMS)
    lanes: tuple[int, ...] | None = None  # numbers of configurations
    rivals: tuple[str, ...] = RIVALS  # besides gradlab's lanes side by side
    parts: tuple[str, ...] = PARTS
    steps: int | None = None  # of every task; by default each has its own
    quick: bool = False  # one number of lanes if none are given, more estimates, fewer rows and rounds

    def checked(self, problems: Mapping[str, Problem] = PROBLEMS) -> "Request":
        """The same with each name and number once, lanes ascending.

        Raises:
          ValueError: an unknown task, rival or part, nothing to do, lanes or steps out of range.
          ModuleNotFoundError: Optuna takes part and is not installed.
        """
        lanes = self.lanes if self.lanes is not None else QUICK_LANES if self.quick else LANES
        for what, names, known in (
            ("task", self.tasks, problems),
            ("rival", self.rivals, RIVALS),
            ("part", self.parts, PARTS),
        ):
            for name in names:
                check.one_of(what, name, known)
        for what, given in (("tasks", self.tasks), ("lanes", lanes), ("parts", self.parts)):
            if not given:
                raise ValueError(f"`{what}` is empty, so nothing would be measured; leave it out for the usual ones")
        check.in_range("lanes", list(lanes), 1)
        check.in_range("steps", 1 if self.steps is None else self.steps, 1, CURVE_POINTS)
        if "optuna" in self.rivals and "speed" in self.parts and importlib.util.find_spec("optuna") is None:
            raise ModuleNotFoundError(
                "the rival 'optuna' needs optuna, which the extra `lab` installs: pip install 'gradlab[lab]'; or leave "
                "it out of the rivals"
            )
        once = lambda names: tuple(dict.fromkeys(names))
        return self._replace(
            tasks=once(self.tasks),
            lanes=tuple(sorted(set(lanes))),
            rivals=once(self.rivals),
            parts=once(self.parts),
        )


@dataclasses.dataclass(frozen=True)
class SweepReport:
    """What was measured, and on what."""

    machine: dict[str, Any]
    request: Request
    speed: list[SpeedRow]
    parity: list[Row]
    memory: list[MemoryRow]
    left_out: list[str]  # what would have taken more memory than there is

    def data(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and mappings."""
        parts = {part: [row.record() for row in getattr(self, part)] for part in PARTS}
        facts = {"machine": self.machine, "request": self.request._asdict(), "contenders": self.contenders()}
        return {**facts, **parts, "left_out": self.left_out}

    def contenders(self) -> dict[str, str]:
        """What each of the contenders does."""
        return {name: CONTENDERS[name].what for name in (OURS, *self.request.rivals)}

    def tables(self) -> dict[str, str]:
        """The parts that were measured, as CSV."""
        return {part: csv_text([row.record() for row in getattr(self, part)]) for part in PARTS if getattr(self, part)}


def count_rows(request: Request) -> int:
    """The rows that `run` will measure for a request that is checked."""
    return sum(1 for _ in _jobs(request, PROBLEMS))


def disagreements(rows: Iterable[SpeedRow]) -> list[str]:
    """What is to be said of contenders whose last losses are not gradlab's: their times mean nothing."""
    return [
        f"{row.task}/{row.contender}/{row.lanes}: last losses differ from gradlab's by {row.loss_difference:.2g}, more "
        f"than {RTOL:g}: it did other work"
        for row in rows
        if row.agrees is False
    ]


Job = tuple[str, str, Callable[[], Any]]  # part, name, what measures its row


def run(
    request: Request,
    *,
    problems: Mapping[str, Problem] = PROBLEMS,
    progress: Callable[[int, int, str, float | None], None] | None = None,
) -> SweepReport:
    """Measures what is requested.

    Args:
      request: the tasks, lanes, rivals and parts.
      problems: the tasks by name.
      progress: called with the index of a row, the number of rows, the row's name and an estimate of the seconds that
        are left, before it is measured.

    Raises:
      ValueError, ModuleNotFoundError: as `Request.checked`.
    """
    request = request.checked(problems)
    rows: dict[str, list] = {part: [] for part in PARTS}
    left_out = []
    with _nothing_kept_on_disk():
        facts, jobs, began = machine_facts(), list(_jobs(request, problems)), time.perf_counter()
        for index, (part, name, measure) in enumerate(jobs):
            if progress is not None:
                left = (time.perf_counter() - began) * (len(jobs) / index - 1) if index else None
                progress(index, len(jobs), f"{part} {name}", left)
            try:
                rows[part].append(measure())
            except DoesNotFit as error:
                left_out.append(f"{part} {name}: {error}")
    order = [OURS, *request.rivals]
    rows["speed"].sort(key=lambda row: (request.tasks.index(row.task), row.lanes, order.index(row.contender)))
    return SweepReport(facts, request, **rows, left_out=left_out)


def _jobs(request: Request, problems: Mapping[str, Problem]) -> Iterator[Job]:
    most = max(request.lanes)
    for task in request.tasks:
        make = functools.cache(functools.partial(problems[task].sweep, request.steps))
        sweep_of = lambda count, make=make: make()(count)
        if "speed" in request.parts:
            race = Race(task, sweep_of, QUICK_LIMIT if request.quick else LIMIT)
            for contender in (OURS, *request.rivals):
                for lanes in request.lanes:
                    yield "speed", f"{task}/{contender}/{lanes}", functools.partial(race.row, contender, lanes)
        if "parity" in request.parts:
            usual = problems[task].parity_lanes[: 1 if request.quick else None]
            counts = [lanes for lanes in usual if lanes <= most] or [most]
            for case in parity_cases(task, sweep_of, counts, quick=request.quick):
                yield "parity", case.name, functools.partial(measured, case, ROUNDS)
        if "memory" in request.parts:
            memory = Memory(task, sweep_of, most_measured=0 if request.quick else MEASURED)
            for lanes in reversed(request.lanes):
                yield "memory", f"{task}/{lanes}", functools.partial(memory.row, lanes)


@contextlib.contextmanager
def _nothing_kept_on_disk() -> Iterator[None]:
    """JAX's persistent cache of compiled programs is off."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
