"""A sampler of Optuna, asked for batches of trials and told what became of them.

Optuna searches in coordinates of its own: a linear, log or one_minus dimension is the number u in [0, 1] that its
`from_unit` reads, so that each is uniform; an integer is an integer, on a log scale if it has one; a choice is a
category, whatever its values, so that no order is read into them; what has one value only is not searched.

A trial of a batch that still runs counts, so that the batch spreads: for tpe as a bad one (the constant liar), for gp
as one whose outcome is uncertain; cmaes and nsga2 draw a generation from one distribution anyway.

::

    completed, ended    the cost
    diverged            infinity: tpe, cmaes and nsga2 only sort costs; gp reads the worst finite cost so far instead
    stopped             tpe: pruned, which ranks behind all that were not, by cost; the others know no such thing and
                        get the cost where the trial stopped, which was worse than that of the trials that went on

Trials that are proposed again, as happens where there are few values, are told what is known and not asked for again.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gradlab.sweeps.samplers.checks import check_outcomes, check_whole
from gradlab.sweeps.search import STOPPED
from gradlab.sweeps.spaces.dimensions import Choice, Integer, is_single
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

if TYPE_CHECKING:
    import optuna

REPEATS = 20  # proposals in a row that are known already, after which there is taken to be nothing new


class OptunaSampler:
    """A `Sampler` that passes on what a sampler of Optuna proposes; `gradlab.sweeps.samplers.optuna_kinds` makes them.

    Args:
      space: where to search.
      sampler: Optuna's, with a seed.
      batch: how many trials a round should have.
      prunes: whether it makes use of trials that were stopped.
    """

    def __init__(self, space: Space, sampler: "optuna.samplers.BaseSampler", *, batch: int, prunes: bool = False):
        import optuna

        self.space, self.batch, self.prunes = space, batch, prunes
        self._searched = _distributions(space)
        self._running: dict[str, list[optuna.Trial]] = {}  # uid -> all proposals of it that wait for the outcome
        self._known: dict[str, tuple[float, str]] = {}  # uid -> cost, status
        with quiet():
            self._study = optuna.create_study(sampler=sampler)

    def ask(self, count: int) -> list[Trial]:
        """The next trials; fewer than ``count`` after REPEATS proposals in a row that were asked for before.

        Raises:
          ValueError: ``count`` is not a whole number above zero.
        """
        check_whole("count", count, 1)
        fresh: list[Trial] = []
        repeats = 0
        while len(fresh) < count and repeats < REPEATS:
            with quiet():
                proposal = self._study.ask(self._searched)
            trial = self._trial(proposal.params)
            repeats += 1
            if trial.uid in self._known:
                self._tell(proposal, *self._known[trial.uid])
            elif trial.uid in self._running:
                self._running[trial.uid].append(proposal)
            else:
                self._running[trial.uid] = [proposal]
                fresh.append(trial)
                repeats = 0
        return fresh

    def tell(self, trials: Sequence[Trial], costs: Sequence[float], statuses: Sequence[str]) -> None:
        """What became of the trials; the top of the module says what Optuna learns of it.

        Raises:
          ValueError: lists of different lengths, a trial that does not run, a cost that is NaN, an unknown status.
        """
        check_outcomes(trials, costs, statuses, self._running)
        for trial, cost, status in zip(trials, costs, statuses, strict=True):
            self._known[trial.uid] = (float(cost), status)
            for proposal in self._running.pop(trial.uid):
                self._tell(proposal, *self._known[trial.uid])

    def declare(self) -> None:
        """Lets Optuna know the space before anything ran, by a trial that nobody runs and that is worse than all."""
        from optuna.trial import create_trial

        params = {name: getattr(kind, "low", 0) for name, kind in self._searched.items()}
        self._study.add_trial(create_trial(params=params, distributions=self._searched, value=math.inf))

    def _tell(self, proposal: "optuna.Trial", cost: float, status: str) -> None:
        from optuna.trial import TrialState

        if status == STOPPED and self.prunes:
            proposal.report(cost, step=0)
            self._study.tell(proposal, state=TrialState.PRUNED)
        else:
            self._study.tell(proposal, cost)

    def _trial(self, params: dict[str, Any]) -> Trial:
        values = {}
        for name, dimension in self.space.items():
            param = params.get(name, 0.0)  # a single value is at any u
            if isinstance(param, float):
                (values[name],) = dimension.from_unit([param])
            else:
                values[name] = dimension.values[param] if isinstance(dimension, Choice) else param
        return Trial.of(values)


def _distributions(space: Space) -> dict[str, "optuna.distributions.BaseDistribution"]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made = {}
    for name in [name for name in space if not is_single(space[name])]:
        dimension = space[name]
        if isinstance(dimension, Choice):
            made[name] = CategoricalDistribution(range(len(dimension.values)))
        elif isinstance(dimension, Integer):
            made[name] = IntDistribution(dimension.low, dimension.high, log=dimension.log)
        else:
            made[name] = FloatDistribution(0.0, 1.0)
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's news of studies, and its warnings of what is experimental, infinite or could be faster."""
    from optuna import logging
    from optuna.exceptions import ExperimentalWarning

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", "Clip non-finite values to the min/max finite values")
            yield
    finally:
        logging.set_verbosity(verbosity)
