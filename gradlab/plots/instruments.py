"""What instruments saw of a run, one panel for each question."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.plots.style import DIVERGED, line_style, spans_decades
from gradlab.plots.ticks import logarithmic


class Panel(NamedTuple):
    """Quantities that are read together."""

    title: str
    names: tuple[str, ...]  # '<instrument>/<name>'
    reference: float | None = None  # a height that means something, dotted


PANELS = (
    Panel("norms", ("norms/params", "norms/grads", "norms/update")),
    Panel("norms", ("health/params", "health/grads", "health/update", "health/distance")),
    Panel("|u| / |p|", ("norms/ratio",), 1e-3),
    Panel("|u| / |p|", ("health/ratio",), 1e-3),
    Panel("turn of the gradient", ("health/cosine",), 0.0),
    Panel("change of the loss", ("probe/predicted", "probe/actual"), 0.0),
    Panel("alpha of the step", ("probe/alpha",), 0.0),
    Panel("critical batch size", ("noise/scale",)),
    Panel("sharpness", ("stability/sharpness", "stability/threshold")),
    Panel("sharpness / threshold", ("stability/ratio",), 1.0),
    Panel("negative curvature", ("saddle/share", "saddle/gradient_share", "saddle/escape"), 0.0),
)
LINEAR_SHARE = 30.0  # an axis of both signs is linear up to the largest magnitude divided by this
COUNTED = {"health/nonfinite"}  # only of interest where it is not zero


def instrument_panels(step: Any, series: Mapping[str, Any], *, marker_limit: int = 40) -> list[Axes]:
    """One panel below the other of what instruments saw, over the steps.

    The panels that their instruments fill are drawn, then one for each instrument that is none of gradlab's.  Values
    that are not finite are gaps.

    Args:
      step: (looks,) steps at which the instruments looked.
      series: ``'<instrument>/<name>'`` -> (looks,), as in ``fit(...).instruments``.
      marker_limit: looks up to which each is marked.

    Raises:
      ValueError: nothing to draw, or a series of another length.
    """
    step = np.asarray(step)
    values = {name: np.asarray(column, np.float64) for name, column in series.items()}
    for name, column in values.items():
        if column.shape != step.shape:
            raise ValueError(f"{name!r} must have the shape of `step`, {step.shape}, got {column.shape}")
    panels = _panels(values)
    if not panels:
        raise ValueError("instrument_panels has nothing to draw: no instrument looked")
    figure = Figure(figsize=(8.0, 0.6 + 1.75 * len(panels)), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)))
    marker = "." if len(step) <= marker_limit else None
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, panel, step, values, marker)
    axes[-1].set_xlabel("step")
    return axes


def _panels(values: Mapping[str, np.ndarray]) -> list[Panel]:
    """The panels that have something to show."""
    known = [panel._replace(names=tuple(name for name in panel.names if name in values)) for panel in PANELS]
    ours = {panel.names[0].partition("/")[0] for panel in PANELS}
    others: dict[str, list[str]] = {}
    for name in values:
        instrument = name.partition("/")[0]
        if instrument not in ours:
            others.setdefault(instrument, []).append(name)
    counted = [Panel(name.partition("/")[2], (name,)) for name in values if name in COUNTED and values[name].any()]
    found = [*known, *counted, *(Panel(instrument, tuple(names)) for instrument, names in others.items())]
    return [panel for panel in found if any(np.isfinite(values[name]).any() for name in panel.names)]


def _draw(ax: Axes, panel: Panel, step: np.ndarray, values: Mapping[str, np.ndarray], marker: str | None) -> None:
    shown = np.concatenate([values[name] for name in panel.names])
    shown = shown[np.isfinite(shown)]
    for index, name in enumerate(panel.names):
        column = np.where(np.isfinite(values[name]), values[name], np.nan)
        label = name.partition("/")[2]
        if label == "threshold":
            ax.plot(step, column, color=DIVERGED, ls=":", lw=1.6, label=label)
        else:
            ax.plot(step, column, lw=1.5, marker=marker, ms=4, label=label, **line_style(index))
    positive = shown[shown > 0]
    if shown.min() >= 0 and positive.size and spans_decades(positive, "min"):
        logarithmic(ax, "y", nonpositive="mask")
    elif shown.min() < 0 and np.abs(shown).max() > LINEAR_SHARE * np.median(np.abs(shown)):
        ax.set_yscale("symlog", linthresh=np.abs(shown).max() / LINEAR_SHARE)
    if panel.reference is not None and (ax.get_yscale() != "log" or panel.reference > 0):
        ax.axhline(panel.reference, color="#777777", lw=1.0, ls=":", zorder=1)
    ax.set_ylabel(panel.title)
    ax.margins(x=0.01)
    if len(panel.names) > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
