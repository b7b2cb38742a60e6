"""How good the best of k trials is, for every k: what tuning for longer buys."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from gradlab.plots.scales import before_training
from gradlab.plots.style import axes_or_new, legend_beside, line_style, readable, spans_decades
from gradlab.plots.ticks import logarithmic
from gradlab.sweeps.outcomes.best_of_k import expected_best
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import mode_of


def best_of_k(
    results: SweepResult | Mapping[str, SweepResult],
    metric: str | None = None,
    *,
    mode: str | None = None,
    quantiles: tuple[float, float] = (0.25, 0.75),
    ax: Axes | None = None,
) -> Axes:
    """The best final metric of k trials against k: its mean as a line, its median dotted, two quantiles as a band.

    These are exact, over all subsets of k of the trials that were run; see `gradlab.sweeps.outcomes.best_of_k`.  A
    trial of which a seed diverged, or that ended worse than it began, counts with the value before training, or, if
    that is not known, with the worst of the others; one that was stopped counts with its last value.

    Args:
      results: a sweep, or name -> sweep to compare some.
      metric: by default the main one of the first sweep.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      quantiles: the lower and the upper end of the band, in [0, 1].
      ax: axes to draw in.

    Raises:
      ValueError: no sweep, an unknown metric or mode, no trial that ended with a finite value, impossible quantiles.
    """
    results = {"": results} if isinstance(results, SweepResult) else dict(results)
    if not results:
        raise ValueError("best_of_k needs at least one sweep, got none")
    metric = metric or next(iter(results.values())).main_metric
    mode = mode or mode_of(metric)
    summaries = {name: result.summary(metric) for name, result in results.items()}
    ends = np.concatenate([summary["mean"][summary["diverged"] == 0] for summary in summaries.values()])
    if not ends.size:
        raise ValueError(f"best_of_k has nothing to draw: no trial ended with a finite {metric}")
    pick, better = (max, np.minimum) if mode == "min" else (min, np.maximum)
    starts = [before_training(result, metric, mode) for result in results.values()]
    worst = pick(starts) if np.isfinite(starts).all() else pick(ends)
    ax = axes_or_new(ax)
    means = []
    for index, (name, summary) in enumerate(summaries.items()):
        diverged = (summary["diverged"] > 0).to_numpy()
        scores = better(np.where(diverged, worst, summary["mean"]), worst)
        best = expected_best(scores, mode, quantiles)
        style = line_style(index)
        counted = f"{diverged.sum()} of {len(diverged)} diverged" if diverged.any() else f"{len(diverged)} trials"
        ax.plot(best.k, best.mean, lw=1.8, marker="o", ms=2.5, label=f"{name}: {counted}" if name else counted, **style)
        ax.fill_between(best.k, best.low, best.high, color=style["color"], alpha=0.18, lw=0)
        ax.plot(best.k, best.median, lw=1.0, ls=":", color=style["color"])
        means.append(best.mean)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    if spans_decades(np.concatenate(means), mode):
        logarithmic(ax, "y")
    ax.set_xlim(1, max(2, *(len(summary) for summary in summaries.values())))
    ax.set_xlabel("number of trials k")
    ax.set_ylabel(f"best {readable(metric)} of k")
    legend_beside(ax, title=f"mean, median dotted, {quantiles[0]:.0%} to {quantiles[1]:.0%}", alignment="left")
    return ax
