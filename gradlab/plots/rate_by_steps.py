"""A hyperparameter against the steps of training, the metric as colour: which rate is best, for how long a run."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from gradlab.plots.scales import Scale, before_training, cell_borders, color_norm, draw_color_bar, scale_of
from gradlab.plots.style import COLORMAP, DIVERGED, PALETTE, axes_or_new, readable
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import before_divergence, mode_of

PAPER, HATCH = "#EDEDED", "xxx"  # of cells without a finite value


def rate_by_steps(
    result: SweepResult,
    y: str = "learning_rate",
    metric: str | None = None,
    *,
    mode: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The metric at every evaluation for each value of a number, as coloured cells; dots mark the best of each step.

    A cell is the mean over the seeds, and the best of the trials with that value.  It is crossed out from where a seed
    of all these has diverged, and white from where all were stopped.  The colours of a loss end at its value before
    training, if that is known: worse ones look alike.

    Args:
      result: a sweep.
      y: the hyperparameter along the vertical axis.
      metric: by default the sweep's main one.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      ax: axes to draw in.

    Raises:
      ValueError: an unknown hyperparameter or metric, or a metric without an evaluation.
    """
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    scale = scale_of(result, y)
    step, values = result.curve(metric)
    if not len(step):
        raise ValueError(f"{metric} was never evaluated; run the sweep with eval_every, or draw 'loss'")
    rows, table, crossed = _table(scale, step, values, result.diverged_at, mode)
    ax = axes_or_new(ax, width=7.6, height=4.8)
    ax.grid(False)
    borders = cell_borders(step.astype(np.float64), log=False), cell_borders(rows, scale.log)
    start = before_training(result, metric, mode) if mode == "min" else np.nan
    norm = color_norm(table[~(table > start)], mode)
    style = {"cmap": COLORMAP if mode == "max" else f"{COLORMAP}_r", "norm": norm}
    shown = ax.pcolormesh(*borders, np.ma.masked_invalid(table), **style)
    gone = {"cmap": ListedColormap([PAPER]), "hatch": HATCH, "edgecolor": DIVERGED, "linewidth": 0}
    ax.pcolor(*borders, np.ma.masked_where(~crossed, np.ones(table.shape)), **gone)
    best_step, best_row = _best(table, step, mode)
    marks = {"ls": "none", "marker": "o", "ms": 4, "mfc": PALETTE[1], "mec": "white", "mew": 0.7}
    handles = ax.plot(step[best_step], rows[best_row], **marks, label="best at the step")
    if crossed.any():
        handles.append(Patch(facecolor=PAPER, hatch=HATCH, edgecolor=DIVERGED, linewidth=0, label="diverged"))
    if (~crossed & ~np.isfinite(table)).any():
        handles.append(Patch(facecolor="white", edgecolor=DIVERGED, linewidth=0.5, label="stopped"))
    scale.label_axis(ax, "y")
    ax.set(xlabel="step", xlim=borders[0][[0, -1]], ylim=borders[1][[0, -1]])
    draw_color_bar(ax, shown, table, readable(metric))
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=9)
    return ax


def _table(scale: Scale, step: np.ndarray, values: np.ndarray, diverged_at: np.ndarray, mode: str) -> tuple[Any, ...]:
    """Values of the hyperparameter (rows,), the best mean of each (rows, points), and where all have diverged."""
    rows, row = np.unique(scale.values, return_inverse=True)
    valid = before_divergence(values, step, diverged_at).all(1)
    sign = 1.0 if mode == "min" else -1.0
    cost = sign * np.where(valid, values.mean(1, dtype=np.float64), sign * np.inf)
    table = np.full((len(rows), len(step)), np.inf)
    np.minimum.at(table, row, cost)
    over = ((diverged_at >= 0)[..., None] | np.isinf(values)).any(1) & ~valid  # NaN alone: it no longer ran
    crossed = np.zeros(table.shape, bool)
    np.logical_or.at(crossed, row, over)
    return rows, np.where(np.isfinite(table), sign * table, np.nan), crossed & ~np.isfinite(table)


def _best(table: np.ndarray, step: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the best cell of each step is, the start and steps without any left out: indices of steps and of rows."""
    steps = np.flatnonzero(np.isfinite(table).any(0) & (step > 0))
    pick = np.nanargmin if mode == "min" else np.nanargmax
    return steps, pick(table[:, steps], axis=0)
