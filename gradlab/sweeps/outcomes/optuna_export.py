"""A sweep as an Optuna study in memory, for Optuna's pictures, importances, dashboard and samplers.

::

    linear(a, b)              FloatDistribution(a, b)
    log(a, b)                 FloatDistribution(a, b, log=True)
    integer(a, b)             IntDistribution(a, b), with log=True if it was drawn so
    one_minus(linear(a, b))   FloatDistribution(1 - b, 1 - a)
    one_minus(log(a, b))      FloatDistribution(a, b, log=True) of 1 - x; x = b2 becomes the parameter 'one_minus(b2)'
    choice(values)            CategoricalDistribution(values)
    fixed(value)              CategoricalDistribution([value])

Optuna has no logarithmic scale towards 1: on a linear one the b2 between 0.99 and 0.9999 would be one point.

A trial is COMPLETE if none of its runs diverged and it was not stopped for others were better; its value is the mean
of the final values.  The others are PRUNED, and keep the mean curve up to their end or to where the first run diverged;
FAIL if there is no such point.  Optuna's TPE ranks a pruned trial by its last point and leaves a failed one out; its
importances and most of its pictures are made of complete trials only.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from gradlab.core.check import one_of
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import before_divergence, mode_of
from gradlab.sweeps.search import STOPPED
from gradlab.sweeps.spaces.dimensions import Choice, Dimension, Fixed, Integer, Log, OneMinus
from gradlab.sweeps.spaces.trial import Trial, canonical_json

if TYPE_CHECKING:
    import optuna

ROUNDING = 2.0**-52  # of 1 - (1 - x)


def to_study(result: SweepResult, metric: str | None = None, mode: str | None = None) -> "optuna.Study":
    """The trials of a sweep as those of an Optuna study.

    A trial has the user attributes ``uid``, ``outcome``, ``seeds``, ``values`` (the last one of each seed, None where
    it diverged) and ``diverged`` (how many did); the study has ``metric``.

    Args:
      result: a sweep.
      metric: a metric, or ``'loss'`` for the training loss; by default the sweep's main metric.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.

    Raises:
      ModuleNotFoundError: Optuna is not installed.
      ValueError: an unknown metric or mode, or a trial with a value outside of the space.

    >>> from gradlab.sweeps.spaces.space import Space
    >>> space = Space({'learning_rate': {'log': [0.01, 1.0]}})
    >>> result = SweepResult.from_lanes(
    ...     space, space.from_unit([[0.0], [0.5], [1.0]]), seeds=[0], steps=2, loss=np.ones((3, 1, 2)),
    ...     loss_step=[0, 1], metrics={'valid_loss': [[[0.3]], [[0.2]], [[0.1]]]}, eval_step=[2],
    ...     diverged_at=[[-1], [-1], [1]], bucket=[0, 0, 0], compile_seconds=[1.0], run_seconds=[1.0] * 3)
    >>> study = to_study(result)
    >>> [trial.state.name for trial in study.trials], study.best_params
    (['COMPLETE', 'COMPLETE', 'FAIL'], {'learning_rate': 0.1})
    """
    optuna = import_optuna("SweepResult.to_optuna")
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    one_of("mode", mode, ("min", "max"))
    study = _quiet_study(mode)
    study.set_user_attr("metric", metric)
    distributions = {parameter_name(result, name): _distribution(result.space[name]) for name in result.space}
    step, values = result.curve(metric)
    valid = before_divergence(values, step, result.diverged_at)
    mean = np.where(valid, values.astype(np.float64), np.nan).mean(1)  # NaN from where any seed diverged
    final = result.final(metric)
    for index, trial in enumerate(result.trials):
        complete = bool(np.isfinite(final[index]).all()) and result.outcome[index] != STOPPED
        curve = {int(step[i]): float(mean[index, i]) for i in np.flatnonzero(np.isfinite(mean[index]))}
        states = optuna.trial.TrialState
        frozen = optuna.trial.create_trial(
            state=states.COMPLETE if complete else states.PRUNED if curve else states.FAIL,
            value=float(final[index].mean()) if complete else None,
            params=_parameters(result, trial),
            distributions=distributions,
            intermediate_values=curve,
            user_attrs=_attributes(result, index, final[index]),
        )
        study.add_trial(frozen)
    return study


def import_optuna(caller: str) -> Any:
    """The package Optuna.

    Raises:
      ModuleNotFoundError: it is not installed; the message says what for, and how to install it.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        message = f"{caller} needs optuna, which the extra `lab` installs: pip install 'gradlab[lab]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return optuna


def parameter_name(result: SweepResult, name: str) -> str:
    """What a hyperparameter of a sweep is called in its study."""
    return f"one_minus({name})" if _is_logarithmic_one_minus(result.space[name]) else name


def _quiet_study(mode: str) -> "optuna.Study":
    """A new study, without the line that Optuna logs of each."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    finally:
        optuna.logging.set_verbosity(verbosity)


def _is_logarithmic_one_minus(dimension: Dimension) -> bool:
    return isinstance(dimension, OneMinus) and isinstance(dimension.inner, Log)


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice | Fixed):
        return CategoricalDistribution([_category(dimension, value) for value in dimension.grid()])
    if isinstance(dimension, Integer):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    if _is_logarithmic_one_minus(dimension):
        return _distribution(dimension.inner)
    if isinstance(dimension, OneMinus):
        return FloatDistribution(1 - dimension.inner.high, 1 - dimension.inner.low)
    return FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, Log))


def _parameters(result: SweepResult, trial: Trial) -> dict[str, Any]:
    return {parameter_name(result, name): _parameter(result.space[name], trial.values[name]) for name in result.space}


def _parameter(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Choice | Fixed):
        return _category(dimension, value)
    if not _is_logarithmic_one_minus(dimension):
        return value
    inner = 1 - value
    nearest = min(max(inner, dimension.inner.low), dimension.inner.high)
    return nearest if abs(inner - nearest) <= ROUNDING else inner


def _category(dimension: Choice | Fixed, value: Any) -> Any:
    """A value as Optuna takes it; as JSON if some of the choices are lists or, like 1 and True, equal in Python."""
    values = dimension.grid()
    plain = all(item is None or isinstance(item, str | bool | int | float) for item in values)
    return value if plain and len(set(values)) == len(values) else canonical_json(value)


def _attributes(result: SweepResult, index: int, final: np.ndarray) -> dict[str, Any]:
    values = [float(value) if np.isfinite(value) else None for value in final]
    names = {"uid": result.trials[index].uid, "outcome": str(result.outcome[index]), "seeds": list(result.seeds)}
    return names | {"values": values, "diverged": values.count(None)}
