"""The surface that a task descends on, evaluated for a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradlab.tasks.catalogue import SURFACES
from gradlab.tasks.surface import on_grid

POINTS = 201  # along each axis


class Landscape(NamedTuple):
    """A surface of two variables on a grid, with what is known of it."""

    name: str
    x: np.ndarray  # (POINTS,)
    y: np.ndarray  # (POINTS,)
    z: np.ndarray  # (POINTS, POINTS), a row for each y
    minima: np.ndarray  # (k, 2)
    saddles: np.ndarray  # (m, 2)
    lowest: float  # the value of the global minimum; 0 if it has none
    bounded: bool

    @property
    def height_name(self) -> str:
        """What the loss less `lowest` is."""
        return "loss above the minimum" if self.bounded else "loss"

    def draw(self, paths: Mapping[str, np.ndarray]) -> Any:
        """The axes of a picture with the paths, each (steps, 2)."""
        from gradlab.plots import trajectory

        return trajectory(self.x, self.y, self.z, paths, minima=self.minima, saddles=self.saddles, title=self.name)

    def animate(self, paths: Mapping[str, np.ndarray], heights: Mapping[str, np.ndarray], folder: Path) -> None:
        """Writes the race of the paths as race.gif and race.html; ``heights``, each (steps,), stand in the latter."""
        from gradlab.plots import race_gif
        from gradlab.report.race import write_race

        known = {"minima": self.minima, "saddles": self.saddles, "title": self.name}
        race_gif(folder / "race.gif", self.x, self.y, self.z, paths, **known)
        write_race(folder / "race.html", self.x, self.y, self.z, paths, heights, height_name=self.height_name, **known)


def landscape_of(part: Mapping[str, Any]) -> Landscape | None:
    """The landscape of a config's task, or None if it is no surface of two variables.

    >>> landscape_of({'name': 'himmelblau'}).z.shape, landscape_of({'name': 'digits_mlp'})
    ((201, 201), None)
    """
    if part["name"] not in SURFACES:
        return None
    of_the_start = ("name", "start", "jitter")
    surface = SURFACES[part["name"]](**{key: value for key, value in part.items() if key not in of_the_start})
    if len(surface.start) != 2:
        return None
    x, y, z = on_grid(surface, POINTS)
    bounded = len(surface.values) > 0
    lowest = float(surface.values[0]) if bounded else 0.0
    return Landscape(surface.name, x, y, z, surface.minima, surface.saddles, lowest, bounded)
