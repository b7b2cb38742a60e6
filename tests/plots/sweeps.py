"""Sweeps to draw, from the numbers that their pictures show."""

import numpy as np

from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial


def swept(space, values, curves, diverged_at=None, **changes) -> SweepResult:
    """A sweep with one curve for each trial, or one for each trial and seed.

    Args:
      space: name -> dimension.
      values: what each trial gives to the names, in order.
      curves: (trials, evals) or (trials, seeds, evals), at the steps 0, 10, 20, ...
      diverged_at: (trials,) or (trials, seeds).
      changes: other arguments of `SweepResult.from_lanes`.
    """
    space = Space(space)
    trials = [Trial.of(dict(zip(space, row, strict=True))) for row in values]
    curves = np.asarray(curves, np.float64)
    curves = curves[:, None] if curves.ndim == 2 else curves
    count, seeds, evals = curves.shape
    diverged_at = np.full((count, seeds), -1) if diverged_at is None else np.reshape(diverged_at, (count, seeds))
    arrays = {
        "steps": 10 * (evals - 1),
        "loss": np.ones((count, seeds, 1)),
        "loss_step": [0],
        "metrics": {"valid_loss": curves, "valid_accuracy": 1 - curves / 10},
        "eval_step": 10 * np.arange(evals),
        "diverged_at": diverged_at,
        "bucket": np.zeros(count, int),
        "compile_seconds": [0.0],
        "run_seconds": np.zeros(count),
    }
    return SweepResult.from_lanes(space, trials, range(seeds), **arrays | changes)


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}
