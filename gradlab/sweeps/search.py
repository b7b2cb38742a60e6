"""How a sweep decides what to run, and for how long: what samplers and schedulers are asked.

::

    sampler    trials of a cohort, from the costs of the cohorts before          ask, tell
    scheduler  sizes of cohorts, where they halt, and which lanes go on there    cohorts, decide

A cost is the main metric, averaged over the seeds of a trial and turned so that less is better; it is infinite where a
run diverged and NaN where the trial no longer ran.  Both are deterministic: asked and told the same, they answer the
same, so a sweep that was killed is replayed from the costs on disk.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

COMPLETED, DIVERGED, STOPPED, ENDED = "completed", "diverged", "stopped", "ended"
"""What becomes of a trial: it ran to the end; a run of it diverged; it lost against others; its own curve was done."""


class Cohort(NamedTuple):
    """Trials that run together."""

    count: int  # trials
    halts: tuple[int, ...]  # steps at which the scheduler decides, rising; the last is the end of the run


class View(NamedTuple):
    """What a scheduler sees of a cohort when it halts."""

    halt: int  # which of the cohort's halts this is, counted from 0
    steps: np.ndarray  # (evals,) int, steps done at each evaluation so far; the first is 0, the last is now
    costs: np.ndarray  # (count, evals), of all trials of the cohort, lowest is best
    alive: np.ndarray  # (lanes,) int, which trials still run, rising
    values: Sequence[Mapping[str, Any]]  # of the lanes that run, hyperparameters by name as they are now
    space: Space


class Decision(NamedTuple):
    """How the lanes of a cohort go on."""

    parents: np.ndarray  # (lanes that go on,) int, position in `alive` whose state each one takes
    values: Sequence[Mapping[str, Any]] | None = None  # new hyperparameters of these lanes, None to keep the parents'
    why: str = STOPPED  # what becomes of the trials that do not go on: STOPPED or ENDED


class Scheduler(Protocol):
    """Which trials go on, and for how long."""

    name: str
    replaces: bool  # whether lanes that go on take the states of others: a trial then is a place, not a set of values

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        """How many trials run together, and where they halt.

        Args:
          trials: how many there are in all.
          evals: steps after which the trials are evaluated, rising, without 0; the last is the end of a run.  Every
            halt is one of them.

        Raises:
          ValueError: no halt fits, or so few trials that there is nothing to decide.
        """

    def decide(self, view: View) -> Decision:
        """How a cohort goes on after a halt that is not its last."""


class Sampler(Protocol):
    """Trials one batch after another, each chosen by what became of the ones before."""

    def ask(self, count: int) -> list[Trial]:
        """The next trials: at most so many, all different, none that was asked for before; none when there are none."""

    def tell(self, trials: Sequence[Trial], costs: Sequence[float], statuses: Sequence[str]) -> None:
        """What became of the trials, in the order in which they were asked for.

        Args:
          trials: all that the last `ask` gave.
          costs: the last cost of each: finite, or infinite for one that diverged.
          statuses: COMPLETED, DIVERGED, STOPPED or ENDED.
        """
