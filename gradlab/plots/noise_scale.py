"""The noise scale of the gradient over the steps of training."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gradlab.plots.style import PALETTE, axes_or_new
from gradlab.plots.ticks import logarithmic


def noise_scale(
    step: Any,
    simple: Any,
    error: Any = None,
    *,
    batch_size: float | None = None,
    name: str = "noise scale",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """B_simple over the steps on a logarithmic axis with its standard error as a band, and the batch size in use.

    Where the estimate is not a positive number the gradient is not told from its noise: there the line has a gap, and
    a cross at the lower edge says so.  A band that reaches zero reaches the lower edge.

    Args:
      step: (points,).
      simple: (points,), the noise scale in examples.
      error: (points,), its standard error.
      batch_size: examples of a batch of training: noise prevails where the line is above it.
      name: of the line.
      title: of the picture.
      ax: axes to draw in.

    Raises:
      ValueError: arrays of another shape, or no positive number at all.
    """
    step, simple = np.asarray(step, np.float64), np.asarray(simple, np.float64)
    error = np.full_like(simple, np.nan) if error is None else np.asarray(error, np.float64)
    if not step.shape == simple.shape == error.shape or step.ndim != 1:
        raise ValueError(f"noise_scale needs arrays of one length, got {step.shape}, {simple.shape}, {error.shape}")
    resolved = np.isfinite(simple) & (simple > 0)
    if not resolved.any():
        raise ValueError("noise_scale: no estimate is a positive number; average over more steps or larger batches")
    ax = axes_or_new(ax)
    shown = np.where(resolved, simple, np.nan)
    low, high = np.nanmin(shown) / 2, np.nanmax(shown) * 2
    if batch_size is not None:
        low, high = min(low, batch_size / 2), max(high, batch_size * 2)
        ax.axhline(batch_size, color="#555555", ls=":", lw=1.4, label=f"batch size in use: {batch_size:g}")
    band = {"color": PALETTE[0], "alpha": 0.2, "lw": 0, "label": "standard error"}
    if np.isfinite(error).any():
        ax.fill_between(step, np.maximum(shown - error, low / 10), shown + error, **band)
    ax.plot(step, shown, lw=1.8, color=PALETTE[0], label=name)
    alone = resolved & ~np.concatenate([[False], resolved[:-1]]) & ~np.concatenate([resolved[1:], [False]])
    ax.plot(step[alone], simple[alone], ".", color=PALETTE[0])  # a line needs two points
    if not resolved.all():
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        lost = step[~resolved]
        ax.plot(lost, np.zeros(len(lost)), "x", color=PALETTE[1], ms=6, label="not resolved from zero signal", **edge)
    logarithmic(ax, "y")
    ax.set_ylim(low, high)
    ax.margins(x=0.02)
    ax.set(xlabel="step", ylabel="noise scale in examples", title=title)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0 if not title else 1.08), ncols=4, frameon=False, fontsize=9)
    return ax
