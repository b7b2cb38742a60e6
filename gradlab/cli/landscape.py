"""The surface that a task descends on, evaluated for a picture."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.tasks.catalogue import SURFACES

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
    x, y = (np.linspace(low, high, POINTS) for low, high in surface.bounds)
    points = jnp.stack(jnp.meshgrid(jnp.asarray(x, float), jnp.asarray(y, float)), axis=-1)
    z = jax.vmap(jax.vmap(surface.function))(points)
    bounded = len(surface.values) > 0
    lowest = float(surface.values[0]) if bounded else 0.0
    return Landscape(surface.name, x, y, np.asarray(z), surface.minima, surface.saddles, lowest, bounded)
