"""How much each hyperparameter of a sweep mattered, as bars."""

from matplotlib.axes import Axes

from gradlab.plots.style import PALETTE, axes_or_new, readable
from gradlab.sweeps.outcomes.importance import BEST
from gradlab.sweeps.outcomes.importance import importances as importances_of
from gradlab.sweeps.outcomes.results import SweepResult


def importances(
    result: SweepResult,
    metric: str | None = None,
    *,
    mode: str | None = None,
    best: float = BEST,
    ax: Axes | None = None,
) -> Axes:
    """The share of each hyperparameter in what makes a trial one of the best, the largest on top.

    Args:
      result: a sweep.
      metric: by default the sweep's main one.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      best: the share of trials that count as the best (see `gradlab.sweeps.outcomes.importance`).
      ax: axes to draw in.

    Raises:
      ModuleNotFoundError: Optuna is not installed.
      ValueError: an unknown metric or mode, nothing that varies, or no trial that is better than another.
    """
    metric = metric or result.main_metric
    found = importances_of(result, metric, mode=mode, best=best)
    ax = axes_or_new(ax, height=1.2 + 0.4 * len(found))
    ax.grid(False, axis="y")
    bars = ax.barh([readable(name) for name in found], list(found.values()), color=PALETTE[0], height=0.65)
    ax.bar_label(bars, [f"{share:.0%}" for share in found.values()], padding=4, fontsize=9)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.08)
    ax.set_xlabel("importance (PED-ANOVA)")
    ax.set_title(f"What sets the best apart: {readable(metric)} of {len(result.trials)} trials", fontsize=11)
    return ax
