"""Pictures of results: each function draws arrays or a sweep in given or new axes, and returns the axes."""

from gradlab.plots.animation import race_gif
from gradlab.plots.barrier import barrier_curves
from gradlab.plots.best_of_k import best_of_k
from gradlab.plots.contest import contest_curves
from gradlab.plots.curvature import eigenvalue_density, eigenvalue_ranks, sharpness_by_loss, sharpness_curves
from gradlab.plots.curves import history, learning_curves, race
from gradlab.plots.health import health_panels
from gradlab.plots.importances import importances
from gradlab.plots.instruments import instrument_panels
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
    "barrier_curves",
    "best_of_k",
    "contest_curves",
    "eigenvalue_density",
    "eigenvalue_ranks",
    "health_panels",
    "heat_map",
    "history",
    "importances",
    "instrument_panels",
    "iterates",
    "landscape",
    "landscape_surface",
    "learning_curves",
    "lr_finder",
    "noise_scale",
    "parallel_coordinates",
    "path_plane",
    "race",
    "race_gif",
    "rate_by_steps",
    "save_figure",
    "sensitivity",
    "sharpness_by_loss",
    "sharpness_curves",
    "slices",
    "trajectory",
]
