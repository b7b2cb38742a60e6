"""The picture of a contest."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gradlab.plots.curves import race
from gradlab.plots.style import CONTEXT, readable, spans_decades
from gradlab.sweeps.outcomes.table import before_divergence, mode_of

ROOM = 0.15  # above and below what the medians do after their first tenth, in shares of it


def contest_curves(result: Any, *, ax: Axes | None = None) -> Axes:
    """The metric over the steps for each tuned optimizer, median and range of its fresh seeds, and the target.

    Args:
      result: what `gradlab.contest` returns.
      ax: axes to draw in.
    """
    curves = {}
    for label, one in result.fresh.items():
        step, values = one.curve(result.metric)
        curves[label] = np.where(before_divergence(values, step, one.diverged_at), values, np.nan)[0]
    ax = race(curves, step=step, ylabel=readable(result.metric), ax=ax)
    target = float(np.nanmedian(result.targets))
    ax.axhline(target, color=CONTEXT, lw=1, zorder=1)
    note = f"{result.reference} at the end"
    ax.annotate(note, (0.01, target), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="#777777")
    later = np.concatenate([np.median(values, axis=0)[step >= 0.1 * step[-1]] for values in curves.values()])
    later = later[np.isfinite(later)]
    if len(later) and mode_of(result.metric) == "min":
        low, high = later.min(), np.quantile(later, 0.95)
        if spans_decades(later, "min"):
            ax.set_ylim(low / (high / low) ** ROOM, high * (high / low) ** ROOM)
        else:
            ax.set_yscale("linear")
            ax.set_ylim(low - ROOM * (high - low), high + ROOM * (high - low))
    return ax
