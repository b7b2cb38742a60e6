"""The samplers of Optuna that a sweep may use.

::

    tpe     densities of good and of other trials, l(x) / g(x) largest    arXiv 2304.11127, 1807.01774
    cmaes   a Gaussian that moves and changes its shape                   arXiv 1604.00772
    gp      a Gaussian process, logarithm of expected improvement         arXiv 2310.20708
    nsga2   a population: crossover, mutation, the better half survives   Deb et al. 2002, here with one objective

What a space and the outcome of a trial are to them, `gradlab.sweeps.samplers.optuna_sampler` says.
"""

import importlib
import math

from gradlab.sweeps.samplers.checks import check_whole
from gradlab.sweeps.samplers.optuna_sampler import OptunaSampler, quiet
from gradlab.sweeps.spaces.dimensions import Choice, is_single
from gradlab.sweeps.spaces.space import Space

BATCH = 16
LARGEST_SEED = 2**32 - 1  # of NumPy's older generator, which Optuna has
LAB = "which the extra `lab` installs: pip install 'gradlab[lab]'"


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
    with quiet():
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
    with quiet():
        sampler = CmaEsSampler(popsize=population, seed=seed)
    made = OptunaSampler(space, sampler, batch=batch)
    made.declare()  # else the whole first batch would be random: CMA-ES reads the space from a trial that is finished
    return made


def gp(space: Space, *, seed: int = 0, batch: int = 8, startup: int = 10) -> OptunaSampler:
    """A Gaussian process: the fewest trials, and a fit for each proposal, which greenlet makes faster.

    Args:
      space: where to search.
      seed: of the random numbers, at least 0.
      batch: how many trials a round should have.
      startup: how many trials must be known before the process takes over; until then they are random.
    """
    _check("gp", "optuna", "torch", seed=seed, batch=batch)
    check_whole("startup", startup, 1)
    from optuna.samplers import GPSampler

    with quiet():
        sampler = GPSampler(n_startup_trials=startup, seed=seed)
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

    with quiet():
        operators = {"crossover": BLXAlphaCrossover(), "mutation": PolynomialMutation()}
        sampler = NSGAIISampler(population_size=population, seed=seed, **operators)
    return OptunaSampler(space, sampler, batch=batch)


def _check(sampler: str, *packages: str, seed: int, batch: int) -> None:
    check_whole("seed", seed, 0, LARGEST_SEED)
    check_whole("batch", batch, 1)
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            remedy = "which gradlab does not install: pip install torch" if package == "torch" else LAB
            raise ModuleNotFoundError(f"the sampler {sampler!r} needs {package}, {remedy}", name=package) from error
