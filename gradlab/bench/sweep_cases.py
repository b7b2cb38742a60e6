"""Rows of the sweep engine: learning rates of an MLP as lanes, against three ways to run them with optax.

Compilation is included.  `gradlab.bench.sweep_contenders` says what each does.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from gradlab.bench.paired import Contestant, paired
from gradlab.bench.rows import Case, Samples
from gradlab.bench.sweep_contenders import Run, gradlab_lanes, optax_loop, optax_scans, optax_vmap
from gradlab.bench.sweep_problem import Sweep
from gradlab.tasks.catalogue import digits_mlp


def digits_sweep(configurations: int = 64, steps: int = 500, batch_size: int = 64) -> Sweep:
    """Learning rates from 1e-4 to 1e-1 for Adam on a 64-64-64-10 network on the digits."""
    return Sweep(digits_mlp(), np.geomspace(1e-4, 1e-1, configurations), steps, batch_size)


class _Baseline(NamedTuple):
    prepare: Callable[[Sweep], Run]
    what: str
    at_most: float
    when_quick: int | None = None  # configurations that are run to estimate the time of all


BASELINES = {
    "loop": _Baseline(optax_loop, "a Python loop over jitted optax steps", at_most=1 / 10, when_quick=3),
    "scan": _Baseline(optax_scans, "a jitted optax scan for each configuration", at_most=1 / 6, when_quick=3),
    "vmap": _Baseline(optax_vmap, "a hand-written vmap over optax", at_most=1.0),
}


def sweep_cases(make_sweep: Callable[[], Sweep] = digits_sweep, *, quick: bool = False) -> list[Case]:
    """One row for each way to run the sweep with optax.

    Args:
      make_sweep: the sweep; it is made when a row is measured.
      quick: estimate the slow baselines from their first configurations, whose cost does not depend on the value of
        the learning rate; the rows say so.
    """
    return [_case(name, baseline, make_sweep, quick) for name, baseline in BASELINES.items()]


def _case(name: str, baseline: _Baseline, make_sweep: Callable[[], Sweep], quick: bool) -> Case:
    subset = baseline.when_quick if quick else None
    return Case(
        name=f"sweep/{name}",
        what=f"sweep of learning rates, lanes against {baseline.what}, compilation included",
        unit="s",
        measure=functools.partial(_time_sweep, make_sweep, baseline.prepare, subset),
        at_most=baseline.at_most,
        most_rounds=1 if quick else 3,
        note=f"optax estimated: measured on {subset} configurations and scaled to all" if subset else "",
    )


def _time_sweep(
    make_sweep: Callable[[], Sweep], baseline: Callable[[Sweep], Run], subset: int | None, rounds: int
) -> Samples:
    sweep = make_sweep()
    part = sweep if subset is None else sweep.first(subset)
    ours, theirs = functools.partial(gradlab_lanes, sweep), functools.partial(baseline, part)
    seconds = race_in_fresh_caches(ours, theirs, rounds)
    scale = len(sweep.learning_rates) / len(part.learning_rates)
    return {"gradlab": seconds["gradlab"], "optax": [scale * value for value in seconds["optax"]]}


def race_in_fresh_caches(ours: Callable[[], Run], theirs: Callable[[], Run], rounds: int) -> Samples:
    """Seconds of two contenders from their first line to the last loss, compilation included."""
    contestants = {"gradlab": _from_scratch(ours), "optax": _from_scratch(theirs)}
    return paired(contestants, rounds=rounds, warmup=0)


def _from_scratch(prepare: Callable[[], Run]) -> Contestant:
    return Contestant(lambda: prepare()(), _forget_programs)


def _forget_programs() -> tuple:
    jax.clear_caches()
    return ()
