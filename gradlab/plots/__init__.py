"""Pictures of results: each function draws arrays or a sweep in given or new axes, and returns the axes."""

from gradlab.plots.best_of_k import best_of_k
from gradlab.plots.contest import contest_curves
from gradlab.plots.curves import history, learning_curves, race
from gradlab.plots.importances import importances
from gradlab.plots.parallel import parallel_coordinates
from gradlab.plots.rate_by_steps import rate_by_steps
from gradlab.plots.sensitivity import heat_map, sensitivity
from gradlab.plots.slices import slices
from gradlab.plots.style import PALETTE, save_figure
from gradlab.plots.surface import trajectory

__all__ = [
    "PALETTE",
    "best_of_k",
    "contest_curves",
    "heat_map",
    "history",
    "importances",
    "learning_curves",
    "parallel_coordinates",
    "race",
    "rate_by_steps",
    "save_figure",
    "sensitivity",
    "slices",
    "trajectory",
]
