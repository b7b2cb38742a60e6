"""The pictures that a sweep leaves in its folder."""

from pathlib import Path

import numpy as np

from gradlab.cli.terminal import Terminal
from gradlab.sweeps.outcomes.results import SweepResult

FEW = 8  # trials of which importances say nothing


def draw_sweep(result: SweepResult, folder: Path, terminal: Terminal) -> None:
    """Draws what the space has something to show for.

    Args:
      result: the sweep.
      folder: where the pictures go, as PNG.
      terminal: told if there is nothing to draw.
    """
    from gradlab import plots

    final = result.summary()
    if not (final["diverged"] == 0).any():
        terminal.warn("every trial diverged, and nothing is drawn: lower the learning rates, or clip the gradients")
        return
    save = lambda axes, name: plots.save_figure(axes, folder / f"{name}.png")
    save(plots.learning_curves(result), "learning_curves")
    numbers, families = _numbers(result), _families(result)
    if numbers:
        save(plots.sensitivity(result, numbers[0], by=families), "sensitivity")
        save(plots.slices(result)[0], "slices")
    if len(numbers) > 1:
        save(plots.heat_map(result, *numbers[:2]), "heat_map")
        save(plots.parallel_coordinates(result), "parallel_coordinates")
    if numbers and "learning_rate" in numbers[0] and len(result.eval_step) > 2:
        save(plots.rate_by_steps(result, numbers[0]), "rate_by_steps")
    if len(result.trials) > 1:
        save(plots.best_of_k(result), "best_of_k")
    scores = final["mean"].to_numpy()[np.isfinite(final["mean"])]
    if len(result.space.varying) > 1 and len(scores) >= FEW and np.ptp(scores) > 0:
        save(plots.importances(result), "importances")


def _numbers(result: SweepResult) -> list[str]:
    """The numbers that vary, learning rates first."""
    numbers = [name for name in result.space.varying if result.space[name].dynamic]
    return sorted(numbers, key=lambda name: "learning_rate" not in name)


def _families(result: SweepResult) -> str | None:
    """What names the optimizer, if the sweep varies it."""
    return next((name for name in result.space.varying if name.endswith("optimizer.name")), None)
