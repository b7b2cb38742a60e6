"""Sweeps whose pages a reader can check by hand."""

import numpy as np

from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

HOSTILE = "<b>&amp;</b></script ><img src=x onerror=alert(1)><!--<script>"
RATES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
SPACE = Space(
    {
        "optimizer.learning_rate": {"log": [1e-4, 10]},
        "optimizer.b2": {"one_minus": {"log": [1e-4, 1e-1]}},
        "schedule": {"choice": [None, "cosine", HOSTILE]},
        "optimizer.b1": 0.9,
    }
)
SCHEDULES = [None, "cosine", HOSTILE] * 2
FINAL = [0.9, 0.5, 0.2, 0.1, 0.4, np.nan]  # the last trial diverges
STEPS = np.array([0, 10, 20])


def example(**changes) -> SweepResult:
    """Six trials with two seeds: the rates rise, trial 3 is best, seed 1 of the last one diverges at step 12."""
    values = [
        {"optimizer.learning_rate": rate, "optimizer.b2": 1 - 10.0 ** -(1 + i / 2), "schedule": schedule}
        for i, (rate, schedule) in enumerate(zip(RATES, SCHEDULES, strict=True))
    ]
    trials = [Trial.of({**value, "optimizer.b1": 0.9}) for value in values]
    loss = np.linspace(2.0, np.nan_to_num(FINAL, nan=50.0), 3)  # (points, trials)
    loss = np.stack([loss.T, loss.T + np.array([0, 0, 0.02])], axis=1)  # (trials, seeds, points)
    arrays = {
        "steps": 20,
        "loss": np.ones((6, 2, 20)) * np.arange(20, 0, -1),
        "loss_step": np.arange(20),
        "metrics": {"valid_loss": loss, "valid_accuracy": 1 - loss / 4},
        "eval_step": STEPS,
        "diverged_at": np.array([[-1, -1]] * 5 + [[-1, 12]]),
        "bucket": np.array([0, 1, 2, 0, 1, 2]),
        "compile_seconds": [1.0, 2.0, 3.0],
        "run_seconds": [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
        "facts": {"task": "digits", "git": {"commit": "abc123", "changed": False}},
    }
    return SweepResult.from_lanes(SPACE, trials, [0, 1], **arrays | changes)


def stopped(**changes) -> SweepResult:
    """The example, of which trial 4 was stopped after 10 steps with a loss lower than any final one."""
    result = example()
    metrics = {name: values.copy() for name, values in result.metrics.items()}
    metrics["valid_loss"][4, :, 1] = 0.05
    for values in metrics.values():
        values[4, :, 2] = np.nan
    outcome, steps_done = ["completed"] * 6, [20] * 6
    outcome[4], steps_done[4] = "stopped", 10
    return example(metrics=metrics, outcome=outcome, steps_done=steps_done, **changes)


def large(trials: int, points: int = 200) -> SweepResult:
    """Many trials with one seed: the final loss is the distance from the middle one."""
    space = Space({"learning_rate": {"log": [1e-4, 1.0]}, "b1": {"linear": [0, 1]}, "b2": {"linear": [0, 1]}})
    units = np.random.default_rng(0).random((trials, 3))
    units[:, 0] = np.arange(trials) / trials
    final = np.abs(units[:, 0] - 0.5) + 0.01
    curve = 1 + (final[:, None] - 1) * np.linspace(0, 1, points)
    return SweepResult.from_lanes(
        space,
        space.from_unit(units),
        [0],
        steps=points,
        loss=curve[:, None, :],
        loss_step=np.arange(points),
        metrics={"valid_loss": curve[:, None, :], "valid_accuracy": 1 - curve[:, None, :]},
        eval_step=np.arange(points) + 1,
        diverged_at=np.where(np.arange(trials) % 10 == 9, 5, -1)[:, None],
        bucket=np.zeros(trials, int),
        compile_seconds=[1.0],
        run_seconds=np.ones(trials),
    )
