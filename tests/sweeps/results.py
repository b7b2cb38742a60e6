"""Small sweeps with numbers that a reader can check by hand."""

import numpy as np

from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

SPACE = Space({"learning_rate": {"log": [1e-4, 1.0]}, "decay": {"choice": [None, "cosine", 0.5]}, "b1": 0.9})
VALUES = [(0.1, "cosine"), (0.01, None), (1.0, 0.5)]
TRIALS = [Trial.of({"learning_rate": rate, "decay": decay, "b1": 0.9}) for rate, decay in VALUES]

# (trials, seeds, evals) at the steps 0, 5, 10; seed 7 of the last trial diverges at step 6
VALID_LOSS = np.array(
    [
        [[3.0, 1.0, 2.0], [3.0, 2.0, 4.0]],
        [[3.0, 2.5, 2.5], [3.0, 2.0, 1.5]],
        [[3.0, 0.5, 0.1], [3.0, 0.25, 0.2]],
    ]
)
DIVERGED_AT = np.array([[-1, -1], [-1, -1], [6, -1]])


def lanes(**changes):
    """Three trials with the seeds 7 and 9."""
    loss = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)
    loss[2, 0, 3] = np.nan
    arrays = {
        "steps": 10,
        "loss": loss,
        "loss_step": np.array([0, 2, 4, 6]),
        "metrics": {"valid_loss": VALID_LOSS, "valid_accuracy": 1 - VALID_LOSS / 4},
        "eval_step": np.array([0, 5, 10]),
        "diverged_at": DIVERGED_AT,
        "bucket": np.array([0, 1, 2]),
        "compile_seconds": [1.0, 2.0, 3.0],
        "run_seconds": [0.1, 0.2, 0.3],
        "facts": {"task": "digits"},
    }
    return arrays | changes


def small_result(**changes) -> SweepResult:
    return SweepResult.from_lanes(SPACE, TRIALS, [7, 9], **lanes(**changes))


def only_rates(rates, losses, diverged=(), seeds=(0,), **changes) -> SweepResult:
    """One evaluation: the final loss of each learning rate."""
    space = Space({"learning_rate": {"log": [1e-6, 1e3]}})
    count = len(rates)
    arrays = {
        "steps": 10,
        "loss": np.ones((count, 1, 1)),
        "loss_step": [0],
        "metrics": {"valid_loss": np.reshape(losses, (count, 1, 1))},
        "eval_step": [10],
        "diverged_at": np.where(np.isin(np.arange(count), diverged), 3, -1)[:, None].repeat(len(seeds), 1),
        "bucket": np.zeros(count, int),
        "compile_seconds": [0.0],
        "run_seconds": np.zeros(count),
    }
    trials = [Trial.of({"learning_rate": float(rate)}) for rate in rates]
    return SweepResult.from_lanes(space, trials, seeds, **arrays | changes)
