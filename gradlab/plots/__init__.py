"""Pictures of results: each function draws arrays or a sweep in given or new axes, and returns the axes."""

from gradlab.plots.contest import contest_curves
from gradlab.plots.curves import history, learning_curves, race
from gradlab.plots.sensitivity import heat_map, sensitivity
from gradlab.plots.style import PALETTE, save_figure
from gradlab.plots.surface import trajectory

__all__ = [
    "PALETTE",
    "contest_curves",
    "heat_map",
    "history",
    "learning_curves",
    "race",
    "save_figure",
    "sensitivity",
    "trajectory",
]
