"""A race of optimizers on a surface as a moving picture, a GIF.

What does not move is drawn once; a frame adds the paths up to its step, the last part of each thicker.  Frames are
closer together at the beginning, where most happens: that of number k of n shows the step ``steps (k / (n - 1))^2``.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from gradlab.plots.style import PALETTE, axes_or_new, legend_beside, line_style
from gradlab.plots.surface import MARK, finite_part, ground
from gradlab.sweeps.outcomes.files import write_atomically

FRAMES = 80
HOLD = 12  # times that the last frame is shown
TAIL = 0.08  # of the frames: the part of a path that is drawn thick
SECONDS, DPI = 0.08, 90
NEARLY_WHITE = 246
COLORS = (*PALETTE, MARK, "white", "black")


def race_gif(
    file: str | os.PathLike,
    x: Any,
    y: Any,
    z: Any,
    paths: Mapping[str, Any],
    *,
    minima: Any = (),
    saddles: Any = (),
    labels: tuple[str, str] = ("x", "y"),
    title: str = "",
    frames: int = FRAMES,
) -> None:
    """Writes the race of several optimizers as an animated GIF, whole or not at all.

    All move at the same time, one step of each at once; a path that has ended, or is not finite any more, stays where
    it was.

    Args:
      file: to write.
      x: see `gradlab.plots.trajectory`.
      y: see `gradlab.plots.trajectory`.
      z: see `gradlab.plots.trajectory`.
      paths: name -> (steps, 2).
      minima: (k, 2), marked with stars.
      saddles: (m, 2), marked with crosses.
      labels: of the axes.
      title: of the picture; the step stands after it.
      frames: of the picture at most, at least 2.

    Raises:
      ValueError: see `gradlab.plots.trajectory`; no paths, or fewer than 2 frames.
    """
    if not paths:
        raise ValueError("race_gif needs at least one path, got none")
    if frames < 2:
        raise ValueError(f"`frames` must be at least 2, got {frames}")
    points = {name: finite_part(name, path) for name, path in paths.items()}
    shown = race_steps(max(map(len, paths.values())), frames)
    ax = axes_or_new(None, width=7.4, height=5.0)
    for index, name in enumerate(points):
        ax.plot([], [], marker="s", ms=6.5, mec="white", label=name, lw=2.2, **line_style(index))
    ground(ax, x, y, z, minima=minima, saddles=saddles, labels=labels)
    ax.set_title(" ")  # keeps the room
    legend_beside(ax)
    figure, moving = _over_picture(ax)
    writer = _OnePalette(fps=1 / SECONDS)
    with writer.saving(figure, os.fspath(file), DPI):
        for last in [*shown, *[shown[-1]] * HOLD]:
            tail = shown[max(0, np.searchsorted(shown, last) - max(1, round(TAIL * len(shown))))]
            _draw(moving, points, int(tail), int(last), title)
            writer.grab_frame()


def race_steps(length: int, frames: int) -> np.ndarray:
    """The steps that are shown, from 0 to the last one of paths of this length, each once.

    >>> race_steps(101, 5).tolist(), race_steps(3, 80).tolist()
    ([0, 6, 25, 56, 100], [0, 1, 2])
    """
    return np.unique(np.round((length - 1) * np.linspace(0, 1, frames) ** 2).astype(int))


def _over_picture(ax: Axes) -> tuple[Figure, Axes]:
    """A figure whose background is the picture of another one, and empty axes in it that lie on the other's."""
    figure = ax.figure
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    still = np.asarray(canvas.buffer_rgba())
    copy = Figure(figsize=figure.get_size_inches(), dpi=DPI)
    copy.figimage(still, zorder=-1)
    moving = copy.add_axes(ax.get_position(), facecolor="none", frame_on=False)
    moving.set(xticks=[], yticks=[], xlim=ax.get_xlim(), ylim=ax.get_ylim(), autoscale_on=False)
    return copy, moving


def _draw(ax: Axes, points: Mapping[str, np.ndarray], tail: int, last: int, title: str) -> None:
    """The paths up to a step, instead of those that were drawn before."""
    for artist in list(ax.lines):
        artist.remove()
    for index, path in enumerate(points.values()):
        style, done = line_style(index), path[: last + 1]
        ax.plot(*done.T, lw=1.1, alpha=0.55, **style)
        if last < len(path):
            ax.plot(*path[tail : last + 1].T, lw=2.6, **style)
        ax.plot(*done[-1:].T, "s", ms=7.5, mfc=style["color"], mec="white", mew=1.0)
    ax.set_title(f"{title}, step {last}" if title else f"step {last}")


class _OnePalette(PillowWriter):
    """Writes all frames with the same 256 colours, those of the lines among them: what stays costs no bytes then."""

    def finish(self) -> None:
        own = [round(255 * part) for color in COLORS for part in to_rgb(color)]
        of_last = np.reshape(self._frames[-1].quantize(256 - len(COLORS)).getpalette(), (-1, 3))
        of_last[(of_last > NEARLY_WHITE).all(1)] = 255  # Pillow looks for the nearest colour roughly
        palette = Image.new("P", (1, 1))
        palette.putpalette([*own, *of_last.ravel().tolist()][: 3 * 256])
        first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self._frames)
        options = {"save_all": True, "append_images": others, "duration": round(1000 / self.fps), "loop": 0}
        write_atomically(self.outfile, functools.partial(first.save, format="GIF", **options))
