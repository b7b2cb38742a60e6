"""Pictures of results: each function draws arrays or a sweep in given or new axes, and returns the axes."""

from gradlab.plots.best_of_k import best_of_k
from gradlab.plots.contest import contest_curves
from gradlab.plots.curvature import eigenvalue_density, sharpness_curves
from gradlab.plots.curves import history, learning_curves, race
from gradlab.plots.health import health_panels
from gradlab.plots.importances import importances
from gradlab.plots.iterates import iterates
from gradlab.plots.landscape import landscape, landscape_surface, path_plane
from gradlab.plots.lr_finder import lr_finder
from gradlab.plots.noise_scale import noise_scale
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
    "eigenvalue_density",
    "health_panels",
    "heat_map",
    "history",
    "importances",
    "iterates",
    "landscape",
    "landscape_surface",
    "learning_curves",
    "lr_finder",
    "noise_scale",
    "parallel_coordinates",
    "path_plane",
    "race",
    "rate_by_steps",
    "save_figure",
    "sensitivity",
    "sharpness_curves",
    "slices",
    "trajectory",
]
