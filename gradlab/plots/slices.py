"""One panel for each number of a space: how the trials ended along it, and whether the best lies at its edge."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.plots.scales import CROSS, HOLLOW, Outcomes, Scale, ceiling_of, draw_ceiling, outcomes_of, scale_of
from gradlab.plots.style import PALETTE, axes_or_new, legend_beside, readable, short, spans_decades
from gradlab.plots.ticks import logarithmic
from gradlab.sweeps.outcomes.boundary import edges, is_numeric
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import mode_of

COLUMNS = 4  # panels side by side
WARNING = "best at the edge: widen the space"


def slices(
    result: SweepResult, metric: str | None = None, *, mode: str | None = None, axes: Sequence[Axes] | None = None
) -> list[Axes]:
    """The final metric of every trial against each number that varies, with a warning where the best is at an end.

    A point is the mean over the seeds, a hollow one that of a trial that was stopped, at its last step.  Trials of
    which a seed diverged are crosses on the edge of the worst values.  Losses above ten times the one before training
    are drawn at that height.

    Args:
      result: a sweep.
      metric: by default the sweep's main one.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      axes: one for each number, in the order of the space.

    Raises:
      ValueError: an unknown metric or mode, no trial that completed, no number that varies, too few or too many axes.
    """
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    names = [name for name in result.space.varying if is_numeric(result.space[name])]
    if not names:
        raise ValueError(f"slices need a number that varies, and of {list(result.space)} none does")
    at_edge = {edge.name for edge in edges(result, metric, mode)}
    panels = _panels(len(names)) if axes is None else list(axes)
    if len(panels) != len(names):
        raise ValueError(f"slices of {names} need {len(names)} axes, got {len(panels)}")
    summary = result.summary(metric)
    outcomes, ceiling = outcomes_of(summary), ceiling_of(result, metric, mode)
    score = np.minimum(summary["mean"].to_numpy(), ceiling)
    winner = int((summary["uid"] == result.best(metric, mode)["uid"][0]).to_numpy().argmax())
    for index, (name, ax) in enumerate(zip(names, panels, strict=True)):
        axes_or_new(ax)
        _draw(ax, scale_of(result, name), score, outcomes, winner, mode, ceiling)
        title = WARNING if name in at_edge else " "  # a blank one leaves room for the crosses
        ax.set_title(title, fontsize=9, pad=9, color=PALETTE[1], fontweight="bold")
        if axes is not None or index % COLUMNS == 0:
            ax.set_ylabel(f"final {readable(metric)}")
    legend_beside(panels[min(len(panels), COLUMNS) - 1])
    return panels


def _panels(count: int) -> list[Axes]:
    """Panels of a new figure in rows of four, all with the same vertical axis."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns + 2.2, 3.1 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel().tolist()
    for empty in panels[count:]:
        empty.remove()
    return panels[:count]


def _draw(
    ax: Axes, scale: Scale, score: np.ndarray, outcomes: Outcomes, winner: int, mode: str, ceiling: float
) -> None:
    points = {"ls": "none", "marker": "o", "ms": 4.5, "mew": 0, "alpha": 0.75, "color": PALETTE[4]}
    if outcomes.stopped.any():
        stopped = scale.values[outcomes.stopped]
        ax.plot(stopped, score[outcomes.stopped], **HOLLOW, label=f"stopped: {len(stopped)}")
    ax.plot(scale.values[outcomes.completed], score[outcomes.completed], **points, label="a trial")
    best = {"ls": "none", "marker": "o", "ms": 10, "mfc": "none", "mec": PALETTE[1], "mew": 1.8}
    ax.plot(scale.values[winner], score[winner], **best, label=f"best: {short(float(score[winner]))}")
    diverged = scale.values[outcomes.diverged]
    if len(diverged):
        worst = np.full(len(diverged), 1.0 if mode == "min" else 0.0)
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        ax.plot(diverged, worst, **CROSS, **edge, label=f"diverged: {len(diverged)}")
    scale.label_axis(ax, "x")
    ended = score[~outcomes.diverged]
    if spans_decades(ended, mode):
        logarithmic(ax, "y")
    if ended.max() == ceiling:
        draw_ceiling(ax, ceiling)
