"""What the page of a sweep shows, as JSON data.

::

    title, facts, numbers   text; facts and numbers are pairs of a label and a text
    trials                  uid, status and note of each
    parameters              what varies: label, and a coordinate for each trial
    metrics                 label, and for each trial mean and std over its seeds where it ended; None if it diverged
    metrics[...].ceiling    up to where a chart of final values reaches; None if to the highest
    metrics[...].curve      float32 in base64, (kept trials, points): means over the seeds, NaN after a divergence
    kept                    the trials whose curves are on the page, best first
    config, events          as they were written
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradlab.plots.scales import Scale, ceiling_of, outcomes_of, scale_of
from gradlab.plots.style import CONTEXT, DIVERGED, PALETTE, label_of, readable, short, spans_decades
from gradlab.sweeps.outcomes.results import LOSS, SweepResult
from gradlab.sweeps.outcomes.table import before_divergence, mode_of
from gradlab.sweeps.search import DIVERGED as LOST

MOST_POINTS, FEWEST_POINTS = 100, 20  # of a curve
CURVE_BUDGET = 1_500_000  # points of all curves: 8 MB of the page
DRAWN = {"curves": 200, "trials": 1000, "rows": 200}  # at once: curves, trials of the other charts, rows
EVENTS = 200  # lines of what happened


def page_data(result: SweepResult, config: str | None = None, events: str | None = None) -> dict[str, Any]:
    """The data of the page.

    Args:
      result: of the sweep.
      config: what it ran from, as YAML.
      events: what happened, one JSON object a line.
    """
    names = sorted((*result.metrics, LOSS), key=lambda name: name != result.main_metric)
    best = _best(result)
    points, kept = _curves_within_budget(result, len(names))
    lines = (events or "").splitlines()
    return {
        "title": f"{result.facts.get('task', 'Sweep')}: {len(result.trials):,} trials",
        "facts": _facts(result),
        "numbers": _numbers(result, best),
        "trials": _trials(result),
        "parameters": _parameters(result),
        "metrics": [_metric(result, name, kept, points) for name in names],
        "kept": kept.tolist(),
        "seeds": len(result.seeds),
        "drawn": DRAWN,
        "colors": {"palette": PALETTE, "context": CONTEXT, "diverged": DIVERGED},
        "config": config,
        "events": [_event(line) for line in lines[-EVENTS:]],
        "earlier_events": max(0, len(lines) - EVENTS),
    }


def _facts(result: SweepResult) -> list[tuple[str, str]]:
    facts = {"task": None, **result.facts}
    seconds = f"{result.run_seconds.sum():,.1f} running, {result.compile_seconds.sum():,.1f} compiling"
    programs = f"{len(result.compile_seconds):,}, lanes by {' and '.join(sorted(set(result.methods)))}"
    return [
        *((readable(name), in_words(value)) for name, value in facts.items() if value is not None),
        ("seconds", seconds),
        ("programs", programs),
    ]


def in_words(value: Any) -> str:
    """JSON data as a line for reading.

    >>> in_words({'jax': '0.10', 'torch': None, 'devices': ['cpu:0', 'cpu:1']})
    'jax 0.10, devices cpu:0, cpu:1'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{readable(name)} {in_words(item)}" for name, item in value.items() if item is not None)
    return ", ".join(map(in_words, value)) if isinstance(value, list | tuple) else str(value)


def _best(result: SweepResult) -> Mapping[str, Any] | None:
    """The best row of the summary; None if no trial is one."""
    return result.best().iloc[0] if outcomes_of(result.summary()).completed.any() else None


def _numbers(result: SweepResult, best: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    runs, diverged = len(result.trials) * len(result.seeds), int((result.diverged_at >= 0).sum())
    numbers = [
        ("trials", f"{len(result.trials):,}"),
        ("seeds of each", f"{len(result.seeds):,}"),
        ("runs", f"{runs:,}"),
        ("steps of a run", f"{result.steps:,}"),
        ("diverged runs", f"{diverged:,}"),
    ]
    if best is None:
        return [*numbers, ("best trial", "none: every trial diverged")]
    spread = f" ± {short(best['std'])}" if np.isfinite(best["std"]) else ""
    score = f"{short(float(best['mean']))}{spread}"
    chosen = {name: best[name] for name in result.space.varying}
    return [
        *numbers,
        (f"best {_label(result.main_metric)}", score),
        ("best trial", f"{best['uid']}: {label_of(chosen)}" if chosen else best["uid"]),
    ]


def _label(metric: str) -> str:
    return "training loss" if metric == LOSS else readable(metric)


def _trials(result: SweepResult) -> dict[str, list[str]]:
    """What became of each trial, and when: diverged if a run of it diverged."""
    shape = result.diverged_at.shape
    statuses, steps = (result.table[name].to_numpy().reshape(shape) for name in ("status", "steps"))
    status, note = [], []
    for own, done, at in zip(statuses, steps, result.diverged_at, strict=True):
        diverged = at[at >= 0]
        status.append(LOST if len(diverged) else own[0])
        seeds = f"{len(diverged)} of {len(at)} seeds, first " if len(diverged) and len(at) > 1 else ""
        early = diverged.min() if len(diverged) else done.max()
        note.append(f"{seeds}at step {early}" if early < result.steps else "")
    return {"uid": [trial.uid for trial in result.trials], "status": status, "note": note}


def _parameters(result: SweepResult) -> list[dict[str, Any]]:
    scales = [scale_of(result, name) for name in result.space.varying]
    labels = [readable(name) for name in result.space.varying]
    return [
        _parameter(name if labels.count(label) > 1 else label, scale, result.values(name))
        for name, label, scale in zip(result.space.varying, labels, scales, strict=True)
    ]


def _parameter(label: str, scale: Scale, values: list[Any]) -> dict[str, Any]:
    """A hyperparameter: its coordinates, and its values where these are other numbers, as for 1 - x."""
    reversed_ = scale.label.startswith("1 - ")
    return {
        "label": label,
        "axis": f"1 - {label}" if reversed_ else label,
        "values": scale.values.tolist(),
        "shown": values if reversed_ else None,
        "log": scale.log,
        "ticks": scale.ticks,
    }


def _metric(result: SweepResult, name: str, kept: np.ndarray, points: int) -> dict[str, Any]:
    summary, mode = result.summary(name), mode_of(name)
    ended, ceiling = ~outcomes_of(summary).diverged, ceiling_of(result, name, mode)
    mean = np.where(ended, summary["mean"], np.nan)
    step, curve = _curves(result, name, kept, points)
    return {
        "label": _label(name),
        "mode": mode,
        "log": spans_decades(mean, mode),
        "ceiling": ceiling if np.isfinite(ceiling) else None,
        "mean": _numbers_or_none(mean),
        "std": _numbers_or_none(np.where(ended, summary["std"], np.nan)),
        "step": step.tolist(),
        "log_curve": spans_decades(curve, mode),
        "curve": base64.b64encode(curve.astype("<f4").tobytes()).decode(),
    }


def _numbers_or_none(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _curves_within_budget(result: SweepResult, curves: int) -> tuple[int, np.ndarray]:
    """Points of a curve, and the trials whose curves are kept, best first: all of them up to 25,000 with 3 curves."""
    trials = len(result.trials)
    points = int(np.clip(CURVE_BUDGET // (trials * curves), FEWEST_POINTS, MOST_POINTS))
    summary = result.summary()
    cost = np.where(summary["diverged"] == 0, summary["mean"], np.nan)
    order = np.lexsort((cost if mode_of(result.main_metric) == "min" else -cost, ~outcomes_of(summary).completed))
    return points, order[: CURVE_BUDGET // (points * curves)]


def _curves(result: SweepResult, name: str, kept: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,) and means over the seeds (kept, points) of a metric, evenly thinned, both ends included."""
    step, values = result.curve(name)
    chosen = np.unique(np.linspace(0, len(step) - 1, min(points, len(step))).round().astype(int))
    step, values = step[chosen], values[kept][:, :, chosen].astype(np.float64)
    values = np.where(before_divergence(values, step, result.diverged_at[kept]), values, np.nan)
    mean = values.mean(1)
    return step, np.where(np.abs(mean) < np.finfo(np.float32).max, mean, np.nan)


def _event(line: str) -> tuple[str, str, str]:
    """Time, kind and the rest of an event; a line that a kill cut off as it is."""
    try:
        event = dict(json.loads(line))
    except (ValueError, TypeError):
        return "", "", line
    return str(event.pop("time", "")), str(event.pop("event", "")), in_words(event)
