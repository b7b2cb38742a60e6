"""Optuna's samplers, asked for batches of trials and told what became of them.

::

    tpe     densities of good and of other trials, l(x) / g(x) largest    arXiv 2304.11127, 1807.01774
    cmaes   a Gaussian that moves and changes its shape                   arXiv 1604.00772
    gp      a Gaussian process, logarithm of expected improvement         arXiv 2310.20708
    nsga2   a population: crossover, mutation, the better half survives   Deb et al. 2002, here with one objective

Optuna searches in coordinates of its own: a linear, log or one_minus dimension is the number u in [0, 1] that its
`from_unit` reads, so that each is uniform; an integer is an integer, on a log scale if it has one, but for cmaes it is
u as well, because a Gaussian that is told rounded points shrinks until it no longer leaves one of them; a choice is a
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
import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gradlab.sweeps.dimensions import Choice, Integer, is_single
from gradlab.sweeps.sampler_checks import check_outcomes, check_whole
from gradlab.sweeps.search import STOPPED
from gradlab.sweeps.space import Space
from gradlab.sweeps.trial import Trial

if TYPE_CHECKING:
    import optuna

BATCH = 16
REPEATS = 20  # proposals in a row that are known already, after which there is taken to be nothing new
LARGEST_SEED = 2**32 - 1  # of NumPy's older generator, which Optuna has
LAB = "which the extra `lab` installs: pip install 'gradlab[lab]'"


class OptunaSampler:
    """A `Sampler` that passes on what a sampler of Optuna proposes; made by `tpe`, `cmaes`, `gp` and `nsga2`.

    Args:
      space: where to search.
      sampler: Optuna's, with a seed.
      batch: how many trials a round should have.
      prunes: whether it makes use of trials that were stopped.
      rounds: whether it understands integers.
    """

    def __init__(
        self,
        space: Space,
        sampler: "optuna.samplers.BaseSampler",
        *,
        batch: int,
        prunes: bool = False,
        rounds: bool = True,
    ):
        import optuna

        self.space, self.batch, self.prunes = space, batch, prunes
        self._searched = _distributions(space, rounds)
        self._running: dict[str, list[optuna.Trial]] = {}  # uid -> all proposals of it that wait for the outcome
        self._known: dict[str, tuple[float, str]] = {}  # uid -> cost, status
        with _quiet():
            self._study = optuna.create_study(sampler=sampler)

    def ask(self, count: int) -> list[Trial]:
        """The next trials; fewer than ``count`` if Optuna proposes nothing but known ones, REPEATS times in a row.

        Raises:
          ValueError: ``count`` is not a whole number above zero.
        """
        check_whole("count", count, 1)
        fresh: list[Trial] = []
        repeats = 0
        while len(fresh) < count and repeats < REPEATS:
            with _quiet():
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


def tpe(space: Space, *, seed: int = 0, batch: int = BATCH, startup: int = 10, candidates: int = 24) -> OptunaSampler:
    """Tree-structured Parzen estimators, multivariate and with the constant liar.

    Args:
      space: where to search.
      seed: of the random numbers, at least 0.
      batch: how many trials a round should have.
      startup: how many trials must be known before the estimators take over; until then they are random.
      candidates: drawn from l(x) for each trial, of which that with the largest l(x) / g(x) is taken.

    >>> from gradlab.sweeps.search import COMPLETED
    >>> sampler = tpe(Space({'learning_rate': {'log': [1e-4, 1.0]}}), seed=1)
    >>> for _ in range(4):
    ...     trials = sampler.ask(8)
    ...     rates = [trial.values['learning_rate'] for trial in trials]
    ...     sampler.tell(trials, [(math.log10(rate) + 2) ** 2 for rate in rates], [COMPLETED] * 8)
    >>> sum(3e-3 < rate < 3e-2 for rate in rates) >= 4
    True
    """
    _check("tpe", "optuna", seed=seed, batch=batch)
    check_whole("startup", startup, 1)
    check_whole("candidates", candidates, 1)
    from optuna.samplers import TPESampler

    options = {"n_startup_trials": startup, "n_ei_candidates": candidates, "seed": seed}
    with _quiet():
        sampler = TPESampler(multivariate=True, constant_liar=True, **options)
    return OptunaSampler(space, sampler, batch=batch, prunes=True)


def cmaes(space: Space, *, seed: int = 0, batch: int = BATCH, population: int | None = None) -> OptunaSampler:
    """CMA-ES, from the middle of the space with a standard deviation of a sixth of every range.

    It moves numbers only: choices stay independent and random, so a space of many choices wants another sampler.

    Args:
      space: where to search.
      seed: of the random numbers, at least 0.
      batch: how many trials a round should have.
      population: how many trials make a generation, at least 4; by default the batch, or 4 + floor(3 ln dimensions),
        the usual number, if that is more.

    Raises:
      ValueError: the space has no number to move.
    """
    _check("cmaes", "optuna", "cmaes", seed=seed, batch=batch)
    from optuna.samplers import CmaEsSampler

    numbers = [name for name in space if not isinstance(space[name], Choice) and not is_single(space[name])]
    if not numbers:
        raise ValueError(f"cmaes moves numbers, and none varies in {list(space)}; take the sampler 'tpe', or the grid")
    if population is None:
        population = max(batch, 4 + math.floor(3 * math.log(len(numbers))))
    check_whole("population", population, 4)
    with _quiet():
        sampler = CmaEsSampler(popsize=population, n_startup_trials=0, warn_independent_sampling=False, seed=seed)
    made = OptunaSampler(space, sampler, batch=batch, rounds=False)
    made.declare()  # else the whole first batch would be random: CMA-ES reads the space from a trial that is finished
    return made


def gp(space: Space, *, seed: int = 0, batch: int = 8, startup: int = 10) -> OptunaSampler:
    """A Gaussian process: the fewest trials, and up to a second for each proposal, less if greenlet is installed.

    Args:
      space: where to search.
      seed: of the random numbers, at least 0.
      batch: how many trials a round should have.
      startup: how many trials must be known before the process takes over; until then they are random.
    """
    _check("gp", "optuna", "torch", seed=seed, batch=batch)
    check_whole("startup", startup, 1)
    from optuna.samplers import GPSampler

    with _quiet():
        sampler = GPSampler(n_startup_trials=startup, warn_independent_sampling=False, seed=seed)
    return OptunaSampler(space, sampler, batch=batch)


def nsga2(space: Space, *, seed: int = 0, batch: int = BATCH, population: int | None = None) -> OptunaSampler:
    """NSGA-II with one objective: generations of a population, the first of which is random.

    Numbers are crossed by BLX-alpha and mutated by polynomials: Optuna's defaults, which only exchange coordinates and
    draw them anew, needed about twice the trials on smooth costs.

    Args:
      space: where to search.
      seed: of the random numbers, at least 0.
      batch: how many trials a round should have.
      population: how many trials make a generation, at least 2; by default the batch, or 8 if that is more.
    """
    _check("nsga2", "optuna", seed=seed, batch=batch)
    population = max(batch, 8) if population is None else population
    check_whole("population", population, 2)
    from optuna.samplers import NSGAIISampler
    from optuna.samplers.nsgaii import BLXAlphaCrossover, PolynomialMutation

    with _quiet():
        operators = {"crossover": BLXAlphaCrossover(), "mutation": PolynomialMutation()}
        sampler = NSGAIISampler(population_size=population, seed=seed, **operators)
    return OptunaSampler(space, sampler, batch=batch)


def _distributions(space: Space, rounds: bool) -> dict[str, "optuna.distributions.BaseDistribution"]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made = {}
    for name in [name for name in space if not is_single(space[name])]:
        dimension = space[name]
        if isinstance(dimension, Choice):
            made[name] = CategoricalDistribution(range(len(dimension.values)))
        elif isinstance(dimension, Integer) and rounds:
            made[name] = IntDistribution(dimension.low, dimension.high, log=dimension.log)
        else:
            made[name] = FloatDistribution(0.0, 1.0)
    return made


def _check(sampler: str, *packages: str, seed: int, batch: int) -> None:
    check_whole("seed", seed, 0, LARGEST_SEED)
    check_whole("batch", batch, 1)
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            remedy = "which gradlab does not install: pip install torch" if package == "torch" else LAB
            raise ModuleNotFoundError(f"the sampler {sampler!r} needs {package}, {remedy}", name=package) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
