"""The seconds that a contender takes for a sweep, with and without compiling, for as many configurations as it takes.

The time of many configurations can be estimated from that of a few, because no contender's time depends on the values::

    seconds(many) = imports + compiling * (many / few, or 1 if all share a program) + running * many / few
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from gradlab.bench.machine import usable_cores
from gradlab.bench.sweep_contenders import (
    Run,
    gradlab_lanes,
    hand_written,
    optax_loop,
    optax_scans,
    optuna_study,
)
from gradlab.bench.sweep_problem import Sweep
from gradlab.bench.sweep_workers import Workers
from gradlab.sweeps.engine.clock import compile_seconds
from gradlab.sweeps.engine.width import LANES_OF_A_CPU

WARM_SECONDS = 1.0  # a run without compiling is repeated until it has taken so long, at most so often
WARM_RUNS = 5


class Started(NamedTuple):
    """A contender that is ready to run."""

    run: Run
    compiled: Callable[[], float] | None = None  # seconds of its own processes; None if it has none
    planned_bytes: int | None = None  # of a program that holds all configurations at once


Start = Callable[[Sweep], contextlib.AbstractContextManager[Started]]


class Contender(NamedTuple):
    """A way to run a sweep."""

    what: str  # for readers of the table
    start: Start
    few: int  # configurations from which the time of many is estimated
    patience: float = 1.0  # how many limits its runs may take before they are estimated
    compiles_each: bool = False  # a program for each configuration
    imports: bool = False  # starting it imports everything in new processes


class Timing(NamedTuple):
    """What some configurations took."""

    configurations: int
    seconds: float  # in fresh caches: importing and compiling included
    compiling: float  # of these; of several processes, the one that compiled longest
    importing: float  # of these, in new processes
    warm: float  # again, nothing compiled
    planned_bytes: int | None
    losses: np.ndarray  # of the first configurations, after the last step

    def scaled(self, configurations: int, compiles_each: bool) -> "Timing":
        """The estimate for so many configurations.

        >>> timing = Timing(4, 10.0, 2.0, 0.0, 8.0, 100, np.zeros(4)).scaled(8, compiles_each=False)
        >>> timing.seconds, timing.compiling, timing.warm, timing.planned_bytes
        (18.0, 2.0, 16.0, 200)
        """
        factor = configurations / self.configurations
        compiling = self.compiling * (factor if compiles_each else 1.0)
        running = self.seconds - self.compiling - self.importing
        return self._replace(
            configurations=configurations,
            seconds=self.importing + compiling + factor * running,
            compiling=compiling,
            warm=factor * self.warm,
            planned_bytes=None if self.planned_bytes is None else round(factor * self.planned_bytes),
        )


def timed(contender: Contender, sweep: Sweep) -> Timing:
    """Runs a sweep in fresh caches, and again.

    Raises:
      DoesNotFit: its program takes more memory than there is.
    """
    jax.clear_caches()
    compiled, began = compile_seconds(), time.perf_counter()
    with contender.start(sweep) as started:
        importing = time.perf_counter() - began if contender.imports else 0.0
        losses = started.run()
        seconds = time.perf_counter() - began
        compiling = compile_seconds() - compiled if started.compiled is None else started.compiled()
        warm = [_seconds(started.run)]
        while sum(warm) < WARM_SECONDS and len(warm) < WARM_RUNS:
            warm.append(_seconds(started.run))
    count = len(sweep.learning_rates)
    return Timing(count, seconds, compiling, importing, float(np.median(warm)), started.planned_bytes, losses)


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _here(prepare: Callable[[Sweep], Run]) -> Start:
    """A contender of this process."""
    return lambda sweep: contextlib.nullcontext(Started(prepare(sweep)))


def _by_hand(sweep: Sweep) -> contextlib.AbstractContextManager[Started]:
    program = hand_written(sweep)
    return contextlib.nullcontext(Started(program.last_losses, planned_bytes=program.planned_bytes))


@contextlib.contextmanager
def _processes(sweep: Sweep) -> Iterator[Started]:
    """As many processes as cores, each with its share of the configurations and a core of its own."""
    count = min(usable_cores(), len(sweep.learning_rates))
    shares = [sweep._replace(learning_rates=sweep.learning_rates[index::count]) for index in range(count)]

    def run() -> np.ndarray:
        losses = np.empty(len(sweep.learning_rates))
        for index, part in enumerate(workers.run()):
            losses[index::count] = part
        return losses

    with Workers([functools.partial(optax_scans, share) for share in shares], pinned=True) as workers:
        yield Started(run, workers.compile_seconds)


_MORE = "also draws the batches, evaluates before and after, keeps every loss, freezes what diverges"
CONTENDERS = {
    "gradlab": Contender(
        f"gradlab.sweep, lanes side by side in chunks; {_MORE}",
        _here(gradlab_lanes),
        few=2 * LANES_OF_A_CPU,
        patience=2.0,
    ),
    "gradlab-map": Contender(
        "the same with lanes one after another inside of a program",
        _here(functools.partial(gradlab_lanes, lane_method="map")),
        few=LANES_OF_A_CPU,
    ),
    "gradlab-loop": Contender(
        "the same with a program of one lane, called for each",
        _here(functools.partial(gradlab_lanes, lane_method="loop")),
        few=8,
    ),
    "loop": Contender(
        "a jitted optax step for each configuration, called in a Python loop",
        _here(optax_loop),
        few=3,
        compiles_each=True,
    ),
    "scan": Contender("a jitted scan over optax for each configuration", _here(optax_scans), few=3, compiles_each=True),
    "processes": Contender(
        "the same in as many processes as cores, imports included",
        _processes,
        few=2 * usable_cores(),
        compiles_each=True,
        imports=True,
    ),
    "vmap": Contender(
        "one jitted scan of all configurations, vmapped by hand over optax",
        _by_hand,
        few=2 * LANES_OF_A_CPU,
        patience=2.0,
    ),
    "optuna": Contender(
        "Optuna's TPE, the objective a jitted scan over optax with a traced learning rate", _here(optuna_study), few=16
    ),
}
