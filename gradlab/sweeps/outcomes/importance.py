"""How much each hyperparameter of a sweep decides whether a trial is among the best: PED-ANOVA, arXiv 2304.10255.

::

    importance of x  ~  mean over all trials of (p_best(x) / p_all(x) - 1)^2

with the densities of the values of x among the best trials and among all, estimated one hyperparameter at a time on
the scale it was drawn on.  It asks for ranks only: losses over many decades, and runs that diverged, do not drown the
differences between good trials, as they do in an analysis of variance.
"""

import math
import sys

import numpy as np

from gradlab.core.check import in_range
from gradlab.sweeps.outcomes.optuna_export import import_optuna, parameter_name, to_study
from gradlab.sweeps.outcomes.results import SweepResult

BEST = 0.1  # the share of trials that count as the best
FEW = 5  # at least so many do, if that is not more than half of the trials


def importances(
    result: SweepResult, metric: str | None = None, *, mode: str | None = None, best: float = BEST
) -> dict[str, float]:
    """The importance of each hyperparameter that varies, the largest first; they add up to 1.

    A trial of which any seed diverged, or that was stopped for others were better, is not among the best.

    Args:
      result: a sweep.
      metric: a metric, or ``'loss'`` for the training loss; by default the sweep's main metric.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      best: the share of trials, in (0, 1), that count as the best.  At least 5 do, or half of the trials if there are
        fewer than 10; and none that diverged.

    Raises:
      ModuleNotFoundError: Optuna is not installed.
      ValueError: an unknown metric or mode, nothing that varies, or no trial that is better than another.

    >>> from gradlab.sweeps.spaces.space import Space
    >>> space = Space({'learning_rate': {'linear': [0, 1]}, 'b1': {'linear': [0, 1]}})
    >>> trials = space.from_unit(np.random.default_rng(0).random((64, 2)))
    >>> result = SweepResult.from_lanes(
    ...     space, trials, seeds=[0], steps=2, loss=np.ones((64, 1, 1)), loss_step=[0], eval_step=[2],
    ...     metrics={'valid_loss': [[[(trial.values['learning_rate'] - 0.3) ** 2]] for trial in trials]},
    ...     diverged_at=np.full((64, 1), -1), bucket=np.zeros(64, int), compile_seconds=[1.0], run_seconds=[0.1] * 64)
    >>> {name: round(share, 1) for name, share in importances(result).items()}
    {'learning_rate': 0.9, 'b1': 0.1}
    """
    optuna = import_optuna("the importance of hyperparameters")
    in_range("best", best, 0, 1, open_low=True, open_high=True)
    if not result.space.varying:
        raise ValueError(f"nothing has an importance: {list(result.space)} are all fixed")
    study = to_study(result, metric, mode)
    sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0
    costs = np.array([sign * trial.value if trial.values else np.inf for trial in study.trials])
    share = _target(costs, best, study.user_attrs["metric"])
    for trial in study.trials:
        if not trial.values:  # PED-ANOVA reads complete trials only
            last = {"params": trial.params, "distributions": trial.distributions, "value": sign * sys.float_info.max}
            study.add_trial(optuna.trial.create_trial(**last))
    names = {parameter_name(result, name): name for name in result.space.varying}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(names))
    return {names[parameter]: float(importance) for parameter, importance in found.items()}


def _target(costs: np.ndarray, best: float, metric: str) -> float:
    """The quantile of the costs up to which a trial counts as one of the best; the worst ones never do."""
    better = int((costs < costs.max()).sum())
    if better < 2:
        raise ValueError(
            f"importances need two trials that are better than the worst one, got {better} of {len(costs)}, by "
            f"{metric}; run more trials, or lower the learning rates of the space if most diverged"
        )
    count = min(max(math.ceil(best * len(costs)), min(FEW, len(costs) // 2)), better)
    return (count - 0.5) / len(costs)  # Optuna rounds the product with the number of trials up
