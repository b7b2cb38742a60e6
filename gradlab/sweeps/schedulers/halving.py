"""Schedulers that give more steps to fewer trials: successive halving, and Hyperband, which hedges its first rung.

::

    halving     rung i: of n trials, floor(n / eta^(i + 1)) go on to a rung eta times as long       arXiv 1502.07943
    hyperband   bracket s = S ... 0: ceil((S + 1) eta^s / (s + 1)) trials, first halt after R / eta^s   arXiv 1603.06560

R is the length of a run.  Trials are compared by what they cost at the rung, ties go to the earlier trial, and one that
diverged never goes on.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gradlab.sweeps.schedulers.rules import costs_now, ladder, several, whole, whole_log
from gradlab.sweeps.search import Cohort, Decision, View


@dataclasses.dataclass(frozen=True)
class RunAll:
    """Every trial runs to the end.

    >>> RunAll().cohorts(8, [50, 100])
    [Cohort(count=8, halts=(100,))]
    """

    name: ClassVar[str] = "all"
    replaces: ClassVar[bool] = False

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        return [Cohort(trials, (evals[-1],))]

    def decide(self, view: View) -> Decision:
        return Decision(np.arange(len(view.alive)))


@dataclasses.dataclass(frozen=True)
class SuccessiveHalving:
    """The best 1 / eta of the trials go on at each of several rungs, each eta times as long as the one before.

    Each rung is moved to the nearest evaluation.  At least one trial goes on, unless all diverged.

    Args:
      eta: what the trials are divided by, and the steps multiplied; a whole number >= 2.
      first: steps of the first rung; by default the rungs lead up to the end of the run, the last at R / eta.
      rungs: how often trials are cut; by default until fewer than eta are left, as far as there are evaluations.

    Raises:
      TypeError, ValueError: an option is no whole number or out of range.

    >>> SuccessiveHalving(eta=3).cohorts(27, range(10, 280, 10))
    [Cohort(count=27, halts=(10, 30, 90, 270))]
    """

    eta: int = 3
    first: int | None = None
    rungs: int | None = None
    name: ClassVar[str] = "halving"
    replaces: ClassVar[bool] = False

    def __post_init__(self):
        whole("eta", self.eta, 2)
        if self.first is not None:
            whole("first", self.first, 1)
        if self.rungs is not None:
            whole("rungs", self.rungs, 1)

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        several(self.name, trials)
        most = max(1, whole_log(trials, self.eta))
        if self.rungs is not None:
            halts = ladder(self.name, evals, self.eta, self.first, self.rungs)
        elif self.first is not None:
            halts = ladder(self.name, evals, self.eta, self.first, None)[:most]
        else:
            fitting = max(1, whole_log(evals[-1] / evals[0], self.eta))
            halts = ladder(self.name, evals, self.eta, None, min(most, fitting))
        if trials // self.eta ** (len(halts) - 1) < 2:
            raise ValueError(
                f"{self.name}: of {trials} trials one is left before the last of {len(halts)} rungs; take "
                f"rungs={whole_log(trials // 2, self.eta) + 1}, or at least {2 * self.eta ** (len(halts) - 1)} trials"
            )
        return [Cohort(trials, (*halts, evals[-1]))]

    def decide(self, view: View) -> Decision:
        return Decision(best_share(view, self.eta))


@dataclasses.dataclass(frozen=True)
class Hyperband:
    """Several brackets of successive halving, from many trials that are cut early to a few that are never cut.

    The paper's numbers of trials are scaled up to those there are, rounded down, and what is missing goes to the
    brackets that lost most by it, of two that lost equally to the one cut earlier (largest remainders).

    Args:
      eta: what the trials of a bracket are divided by, and the steps multiplied; a whole number >= 2.
      first: steps of the first rung of the first bracket; by default the rungs lead up to the end of the run.
      brackets: how many, at least 2.  By default as many as there are evaluations for, and trials for the paper's
        numbers; with ``first``, one for each rung before the end, and one that is never cut.

    Raises:
      TypeError, ValueError: an option is no whole number or out of range.

    >>> for cohort in Hyperband(eta=3).cohorts(34, range(10, 100, 10)):
    ...     print(cohort)
    Cohort(count=18, halts=(10, 30, 90))
    Cohort(count=10, halts=(30, 90))
    Cohort(count=6, halts=(90,))
    """

    eta: int = 3
    first: int | None = None
    brackets: int | None = None
    name: ClassVar[str] = "hyperband"
    replaces: ClassVar[bool] = False

    def __post_init__(self):
        whole("eta", self.eta, 2)
        if self.first is not None:
            whole("first", self.first, 1)
        if self.brackets is not None:
            whole("brackets", self.brackets, 2)

    def cohorts(self, trials: int, evals: Sequence[int]) -> list[Cohort]:
        rungs = None if self.brackets is None else self.brackets - 1
        if rungs is None and self.first is None:
            rungs = max(1, whole_log(evals[-1] / evals[0], self.eta))
            while rungs > 1 and sum(_paper_counts(self.eta, rungs)) > trials:
                rungs -= 1
        halts = (*ladder(self.name, evals, self.eta, self.first, rungs), evals[-1])
        counts = _paper_counts(self.eta, len(halts) - 1)
        if sum(counts) > trials:
            raise ValueError(
                f"{self.name}: {len(counts)} brackets with eta={self.eta} need at least {sum(counts)} trials, got "
                f"{trials}; take more trials, a smaller eta, or successive halving"
            )
        return [Cohort(count, halts[cut:]) for cut, count in enumerate(_scaled(counts, trials))]

    def decide(self, view: View) -> Decision:
        return Decision(best_share(view, self.eta))


def best_share(view: View, eta: int) -> np.ndarray:
    """The positions of the floor(n / eta^(halt + 1)) lanes, at least one, that cost least and did not diverge."""
    costs = costs_now(view)
    share = max(1, len(view.costs) // eta ** (view.halt + 1))
    best = np.argsort(costs, kind="stable")[:share]
    return np.sort(best[np.isfinite(costs[best])])


def _paper_counts(eta: int, most: int) -> list[int]:
    return [-(-(most + 1) * eta**cuts // (cuts + 1)) for cuts in range(most, -1, -1)]


def _scaled(counts: Sequence[int], total: int) -> list[int]:
    """Whole numbers in proportion to counts, by largest remainders."""
    shares = [divmod(total * count, sum(counts)) for count in counts]
    missing = total - sum(share for share, _ in shares)
    most_lost = sorted(range(len(counts)), key=lambda index: -shares[index][1])[:missing]
    return [share + (index in most_lost) for index, (share, _) in enumerate(shares)]
