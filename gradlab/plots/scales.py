"""Hyperparameters as axes, metrics as colours, and the marks of trials that did not complete."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from gradlab.plots.style import CONTEXT, DIVERGED, readable, short, spans_decades
from gradlab.plots.ticks import LEAST, label_values, logarithmic, round_labels
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.search import STOPPED
from gradlab.sweeps.spaces.dimensions import Choice, Fixed, Integer, Log, OneMinus
from gradlab.sweeps.spaces.trial import canonical_json

CROSS = {"ls": "none", "marker": "x", "ms": 6, "color": DIVERGED, "alpha": 0.8}  # a trial that diverged
HOLLOW = {"ls": "none", "marker": "o", "ms": 4.5, "mfc": "none", "mec": CONTEXT, "mew": 1.0}  # one that was stopped


LEAST_GAP = 0.12  # of an axis, between two labels
ROOM_ABOVE = 10.0  # final losses are shown up to so many times the one before training


class Outcomes(NamedTuple):
    """What became of the trials: each is one of these, (trials,) bool."""

    completed: np.ndarray
    stopped: np.ndarray  # because others were better; its last value is one of an earlier step
    diverged: np.ndarray  # with any seed


def outcomes_of(summary: Any) -> Outcomes:
    """What became of the trials of a sweep, from its `SweepResult.summary`."""
    diverged = (summary["diverged"] > 0).to_numpy()
    stopped = (summary["outcome"] == STOPPED).to_numpy() & ~diverged
    return Outcomes(~diverged & ~stopped, stopped, diverged)


class Scale(NamedTuple):
    """A hyperparameter as coordinates of an axis."""

    values: np.ndarray  # (trials,)
    label: str
    log: bool = False
    ticks: tuple[str, ...] = ()  # the categories at 0, 1, ..., if the values are no numbers
    listed: tuple[float, ...] = ()  # the numbers of a choice, if all can be labelled

    def positions(self) -> np.ndarray:
        """(trials,), in proportion to the distances on paper."""
        return np.log10(self.values) if self.log else self.values

    def text(self, trial: int) -> str:
        """The value of a trial in words."""
        return self.ticks[int(self.values[trial])] if self.ticks else short(self.values[trial])

    def label_axis(self, ax: Axes, which: str) -> None:
        ax.set(**{f"{which}label": self.label})
        self.scale_axis(ax, which)
        if self.ticks:
            ax.set(**{f"{which}lim": (-0.5, len(self.ticks) - 0.5)})
            ax.set(**{f"{which}ticks": range(len(self.ticks)), f"{which}ticklabels": self.ticks})

    def scale_axis(self, ax: Axes, which: str) -> None:
        """Spaces and labels an axis of numbers."""
        if self.log:
            logarithmic(ax, which)
        if self.listed:
            label_values(getattr(ax, f"{which}axis"), self.listed)


def scale_of(result: SweepResult, name: str) -> Scale:
    """A hyperparameter of a sweep as an axis: logarithmic if it was drawn or listed so, 1 - x if 1 - x was drawn so."""
    values, dimension = result.values(name), result.space[name]
    if isinstance(dimension, Choice | Fixed) and not dimension.dynamic:
        texts = [canonical_json(value) for value in dimension.grid()]
        index = [texts.index(canonical_json(value)) for value in values]
        ticks = tuple(str(list(value)) if isinstance(value, tuple) else str(value) for value in dimension.grid())
        return Scale(np.array(index, np.float64), readable(name), ticks=ticks)
    numbers = np.array(values, np.float64)
    if isinstance(dimension, OneMinus) and isinstance(dimension.inner, Log):
        return Scale(1.0 - numbers, f"1 - {readable(name)}", log=True)
    if isinstance(dimension, Choice):
        log = _is_geometric(dimension)
        return Scale(numbers, readable(name), log=log, listed=_labelled(dimension, log))
    log = isinstance(dimension, Log) or isinstance(dimension, Integer) and dimension.log
    return Scale(numbers, readable(name), log=log)


def _is_geometric(dimension: Choice) -> bool:
    """Whether the ratios of neighbouring values are more alike than their differences."""
    ordered = np.sort(np.array(dimension.values, np.float64))
    if ordered[0] <= 0 or len(ordered) < 3:
        return False
    ratios, differences = np.diff(np.log(ordered)), np.diff(ordered / ordered[-1])
    return bool(ratios.std() / ratios.mean() < differences.std() / differences.mean())


def _labelled(dimension: Choice, log: bool) -> tuple[float, ...]:
    """The values in order, or none if some of them are too close to each other for labels."""
    ordered = np.sort(np.array(dimension.values, np.float64))
    places = np.log(ordered) if log else ordered
    gaps = np.diff(places) / (np.ptp(places) or 1.0)
    return tuple(ordered.tolist()) if (gaps >= LEAST_GAP).all() else ()


def before_training(result: SweepResult, metric: str, mode: str) -> float:
    """The metric's worst finite value at step 0; NaN if it was not evaluated there."""
    step, values = result.curve(metric)
    if not len(step) or step[0] != 0:
        return np.nan
    first = values[..., 0][np.isfinite(values[..., 0])]
    return float(first.max() if mode == "min" else first.min()) if first.size else np.nan


def ceiling_of(result: SweepResult, metric: str, mode: str) -> float:
    """Up to where a picture of final values reaches: ten times the loss before training, infinity if there is none."""
    start = before_training(result, metric, mode)
    return ROOM_ABOVE * start if mode == "min" and start > 0 else np.inf


def draw_ceiling(ax: Axes, ceiling: float) -> None:
    """A line at the height of the losses beyond."""
    ax.axhline(ceiling, color=CONTEXT, lw=1, ls=":", zorder=1)
    place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -3), "textcoords": "offset points"}
    ax.annotate(f"{short(ceiling)} and more", (0.01, ceiling), **place, va="top", fontsize=8, color="#777777")


def color_norm(score: np.ndarray, mode: str) -> Normalize:
    """Colours from the lowest to the highest finite score."""
    finite = score[np.isfinite(score)]
    if not finite.size:
        return Normalize(0.0, 1.0)
    return (LogNorm if spans_decades(finite, mode) else Normalize)(finite.min(), finite.max())


def draw_color_bar(ax: Axes, shown: ScalarMappable, score: np.ndarray, label: str) -> None:
    """The colours beside the axes, with an arrow if a score is beyond the last of them."""
    beyond = np.nanmax(score, initial=shown.norm.vmin) > shown.norm.vmax
    bar = ax.figure.colorbar(shown, ax=ax, label=label, extend="max" if beyond else "neither")
    bar.outline.set_visible(False)
    if isinstance(shown.norm, LogNorm):
        round_labels(bar.ax.yaxis, LEAST["y"])


def cell_borders(centers: np.ndarray, log: bool) -> np.ndarray:
    """The borders of cells around sorted centers, half-way between them."""
    centers = np.log10(centers) if log else centers
    if len(centers) == 1:
        edges = centers[0] + np.array([-0.5, 0.5])
    else:
        middles = (centers[1:] + centers[:-1]) / 2
        edges = np.concatenate([[2 * centers[0] - middles[0]], middles, [2 * centers[-1] - middles[-1]]])
    return 10.0**edges if log else edges
