"""A race of optimizers on a surface as one self-contained HTML file: play, pause, speed, and a slider over the steps.

The picture of the surface is an image within the page, the paths are numbers, which a script of the page draws over it.
As in the page of a sweep, the policy in its head names the script by its hash and allows no address.
"""

import base64
import json
import os
from collections.abc import Mapping
from string import Template
from typing import Any

import numpy as np

from gradlab.plots.style import line_style
from gradlab.plots.surface import finite_part, ground_png
from gradlab.report.parts import as_script, hash_of, part
from gradlab.sweeps.outcomes.files import write_atomically

MOST_FRAMES = 1001
SIZE = (720, 540)  # pixels of the surface
DIGITS = 5


def write_race(
    file: str | os.PathLike,
    x: Any,
    y: Any,
    z: Any,
    paths: Mapping[str, Any],
    heights: Mapping[str, Any],
    *,
    height_name: str = "loss",
    minima: Any = (),
    saddles: Any = (),
    labels: tuple[str, str] = ("x", "y"),
    title: str = "race",
) -> None:
    """Writes the player of a race, whole or not at all.

    All paths move at the same time, one step each.  Of more than 1001 steps as many are shown, evenly spaced.  A path
    that has ended, or is not finite any more, stays where it was.

    Args:
      file: to write.
      x: see `gradlab.plots.trajectory`.
      y: see `gradlab.plots.trajectory`.
      z: see `gradlab.plots.trajectory`.
      paths: name -> (steps, 2).
      heights: name -> (steps,), shown beside the names.
      height_name: what they are.
      minima: (k, 2), marked with stars.
      saddles: (m, 2), marked with crosses.
      labels: of the axes.
      title: of the page.

    Raises:
      ValueError: see `gradlab.plots.trajectory`; no paths, or heights that do not fit them.
    """
    data = race_data(x, y, paths, heights, minima=minima, saddles=saddles)
    data |= {"title": title, "labels": labels, "height": height_name, "size": SIZE}
    page = _page(data, ground_png(x, y, z, SIZE))
    write_atomically(file, lambda opened: opened.write(page.encode()))


def race_data(
    x: Any, y: Any, paths: Mapping[str, Any], heights: Mapping[str, Any], *, minima: Any = (), saddles: Any = ()
) -> dict[str, Any]:
    """What the page draws, as JSON has it.

    >>> data = race_data([0, 1], [0, 2], {'a': [[0, 0], [1, 2]]}, {'a': [3, np.inf]})
    >>> data['box'], data['steps'], data['paths'][0]['points'], data['paths'][0]['heights']
    ([[0.0, 1.0], [0.0, 2.0]], [0, 1], [[0.0, 0.0], [1.0, 2.0]], [3.0, None])
    """
    if not paths:
        raise ValueError("a race needs at least one path, got none")
    points = {name: finite_part(name, path) for name, path in paths.items()}
    if unfit := [name for name, path in paths.items() if np.shape(heights.get(name)) != (len(path),)]:
        raise ValueError(f"`heights` must have a number for each step of the paths, but not so for {unfit}")
    longest = max(map(len, paths.values()))
    steps = np.unique(np.linspace(0, longest - 1, min(longest, MOST_FRAMES)).round().astype(int))
    drawn = []
    for index, (name, path) in enumerate(points.items()):
        seen = steps[steps < len(path)]
        line = line_style(index)
        drawn.append(
            {
                "name": name,
                "color": line["color"],
                "dash": line["linestyle"],
                "points": _rounded(path[seen]),
                "heights": _rounded(np.asarray(heights[name], np.float64)[seen]),
            }
        )
    marks = {"minima": minima, "saddles": saddles}
    return {
        "box": [[float(np.min(axis)), float(np.max(axis))] for axis in (x, y)],
        "steps": steps.tolist(),
        "paths": drawn,
        **{name: _rounded(np.asarray(places, np.float64).reshape(-1, 2)) for name, places in marks.items()},
    }


def _rounded(array: np.ndarray) -> Any:
    """Lists of numbers with as many digits as a picture shows; None for what is not finite."""
    if array.ndim > 1:
        return [_rounded(row) for row in array]
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in array]


def _page(data: Mapping[str, Any], png: bytes) -> str:
    code = part("race.js")
    return Template(part("race.html")).substitute(
        hash=hash_of(code),
        style=part("race.css"),
        data=as_script(json.dumps(data, allow_nan=False, separators=(",", ":"))),
        picture=base64.b64encode(png).decode(),
        code=code,
    )
