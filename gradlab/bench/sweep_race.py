"""Rows of one task: every contender at every number of lanes, measured or estimated, its losses compared."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gradlab.bench.sweep_contenders import DoesNotFit, require_memory
from gradlab.bench.sweep_problem import Sweep
from gradlab.bench.sweep_timing import CONTENDERS, Contender, Timing, timed

OURS = "gradlab"  # the contender with whose losses and seconds those of the others are compared
RTOL, ATOL = 0.02, 0.005  # up to which last losses agree: rounding differs between programs, and Adam makes it grow
GOALS = {("mlp", "loop", 64): 10.0, ("mlp", "loop", 256): 40.0}  # how many times gradlab's seconds it is to take


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """One contender with one number of configurations; what did not run is None, and the note says why."""

    task: str
    lanes: int
    contender: str
    steps: int
    batch_size: int
    measured: int = 0  # configurations that ran; of fewer than all the numbers are estimates
    seconds: float | None = None  # in fresh caches: importing and compiling included
    compile_seconds: float | None = None
    import_seconds: float | None = None  # of new processes
    warm_seconds: float | None = None  # again, nothing compiled
    times_gradlab: float | None = None  # seconds / gradlab's seconds
    warm_times_gradlab: float | None = None
    loss_difference: float | None = None  # largest, relative to a loss or to ATOL / RTOL
    note: str = ""

    @property
    def estimated(self) -> bool:
        """Whether the numbers are scaled from fewer configurations."""
        return 0 < self.measured < self.lanes

    @property
    def agrees(self) -> bool | None:
        """Whether the last losses are gradlab's."""
        return None if self.loss_difference is None else self.loss_difference <= RTOL

    def record(self) -> dict[str, Any]:
        """The row as a flat mapping with the rates that follow from the seconds."""
        goal = GOALS.get((self.task, self.contender, self.lanes))
        own = dataclasses.asdict(self)
        note = own.pop("note")
        for prefix, seconds in (("", self.seconds), ("warm_", self.warm_seconds)):
            own[f"{prefix}trials_per_minute"] = None if seconds is None else 60 * self.lanes / seconds
            own[f"{prefix}steps_per_second"] = None if seconds is None else self.lanes * self.steps / seconds
        met = None if goal is None or self.times_gradlab is None else self.times_gradlab >= goal
        return {**own, "estimated": self.estimated, "agrees": self.agrees, "goal": goal, "met": met, "note": note}


class Race:
    """The contenders at one task.

    Args:
      name: of the task.
      sweep_of: number of configurations -> the sweep; the first configurations are always the same.
      limit: seconds above which a contender's runs are estimated from fewer configurations.
    """

    def __init__(self, name: str, sweep_of: Callable[[int], Sweep], limit: float):
        self.name, self.sweep_of, self.limit = name, sweep_of, limit
        self._measured: dict[str, Timing] = {}  # contender -> its run with most configurations
        self._ours: dict[int, Timing] = {}  # lanes -> gradlab's

    def row(self, name: str, lanes: int) -> SpeedRow:
        """A contender's row: gradlab's before those of others, and of few lanes before those of many."""
        sweep = self.sweep_of(lanes)
        row = SpeedRow(self.name, lanes, name, sweep.steps, sweep.batch_size)
        try:
            timing = self._timing(name, CONTENDERS[name], lanes)
        except DoesNotFit as error:
            return dataclasses.replace(row, note=str(error))
        if name == OURS:
            self._ours[lanes] = timing
        measured = self._measured[name].configurations
        ours = self._ours[lanes]
        return dataclasses.replace(
            row,
            measured=measured,
            seconds=timing.seconds,
            compile_seconds=timing.compiling,
            import_seconds=timing.importing,
            warm_seconds=timing.warm,
            times_gradlab=timing.seconds / ours.seconds,
            warm_times_gradlab=timing.warm / ours.warm,
            loss_difference=loss_difference(timing.losses, self._measured[OURS].losses),
            note=f"estimated from {measured}" if measured < lanes else "",
        )

    def _timing(self, name: str, contender: Contender, lanes: int) -> Timing:
        few = min(lanes, contender.few)
        if name not in self._measured and few < lanes:
            self._measure(name, contender, few)
        if name in self._measured and self._takes_long(name, contender, lanes):
            if self._measured[name].configurations < few:
                self._measure(name, contender, few)
            estimate = self._measured[name].scaled(lanes, contender.compiles_each)
            require_memory(estimate.planned_bytes)
            return estimate
        return self._measure(name, contender, lanes)

    def _takes_long(self, name: str, contender: Contender, lanes: int) -> bool:
        estimate = self._measured[name].scaled(lanes, contender.compiles_each)
        return estimate.seconds + estimate.warm > contender.patience * self.limit

    def _measure(self, name: str, contender: Contender, lanes: int) -> Timing:
        self._measured[name] = timed(contender, self.sweep_of(lanes))
        return self._measured[name]


def loss_difference(losses: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference of losses that both have, relative to the reference or to ATOL / RTOL where that is more.

    >>> loss_difference(np.array([1.01, 0.011]), np.array([1.0, 0.01, 3.0])) <= RTOL
    True
    >>> loss_difference(np.array([1.03]), np.array([1.0])) <= RTOL
    False
    """
    count = min(len(losses), len(reference))
    losses, reference = losses[:count].astype(np.float64), reference[:count].astype(np.float64)
    return float(np.max(np.abs(losses - reference) / np.maximum(np.abs(reference), ATOL / RTOL)))
