"""Rows of gradlab's lanes against lanes written by hand over optax: the program alone, and everything around it.

::

    segment    jit(scan(vmap(step))) of both, compiled: the same steps, no evaluation
    sweep      `gradlab.sweep`, compiled: checks, chunks, start, evaluations and results included
    cold       the same in fresh caches, compilation included

The last two are raced with the largest number of lanes only.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.bench.paired import Contestant, paired
from gradlab.bench.rows import Case, Samples
from gradlab.bench.sweep_cases import race_in_fresh_caches
from gradlab.bench.sweep_contenders import gradlab_lanes, hand_written, optax_vmap, setup_of
from gradlab.bench.sweep_problem import SEED, Sweep
from gradlab.sweeps.engine import lanes

AT_MOST = 1.05
FEWEST_ROUNDS = 3
SECONDS, QUICK_SECONDS = 12.0, 3.0  # of a row
COLD_ROUNDS = 3


def parity_cases(name: str, sweep_of: Callable[[int], Sweep], counts: Sequence[int], *, quick: bool) -> Iterator[Case]:
    """The rows of one task.

    Args:
      name: of the task.
      sweep_of: number of configurations -> the sweep.
      counts: lanes side by side, ascending.
      quick: fewer rounds, and no cold race.
    """
    seconds = QUICK_SECONDS if quick else SECONDS
    kinds = {
        "segment": ("compiled steps", functools.partial(_race_segments, seconds)),
        "sweep": ("the whole sweep, compiled", functools.partial(_race_sweeps, seconds)),
    }
    if not quick:
        kinds["cold"] = ("the whole sweep, compilation included", _race_cold)
    for kind, (what, race) in kinds.items():
        for count in counts if kind == "segment" else counts[-1:]:
            measure = lambda rounds, race=race, count=count: race(sweep_of(count), rounds)
            most = COLD_ROUNDS if kind == "cold" else None
            yield Case(f"{kind}/{name}/{count}", f"{what}; {count} lanes", "s", measure, AT_MOST, most)


def _race_segments(seconds: float, sweep: Sweep, rounds: int) -> Samples:
    setup, by_hand = setup_of(sweep), hand_written(sweep)
    group = setup.lanes([trial.values for trial in setup.trials])
    keys = jax.vmap(jax.random.key)(np.array([SEED], np.uint32))
    _, state = next(lanes.lane_segments(sweep.task, group, [SEED], setup.plan))
    ours = lambda state: lanes.run_segment(sweep.task, group, state, keys, np.int32(0), sweep.steps, setup.plan)
    theirs = lambda carry: by_hand.segment(by_hand.learning_rates, carry, by_hand.rows)
    contestants = {
        "gradlab": Contestant(ours, functools.partial(_copy, state)),
        "optax": Contestant(theirs, lambda: (by_hand.begin(by_hand.learning_rates),)),
    }
    return _paired_within(seconds, contestants, rounds)


def _copy(state: lanes.LaneState) -> tuple[lanes.LaneState]:
    return (jax.tree.map(jnp.copy, state),)


def _race_sweeps(seconds: float, sweep: Sweep, rounds: int) -> Samples:
    contestants = {"gradlab": Contestant(gradlab_lanes(sweep)), "optax": Contestant(optax_vmap(sweep))}
    return _paired_within(seconds, contestants, rounds)


def _race_cold(sweep: Sweep, rounds: int) -> Samples:
    return race_in_fresh_caches(functools.partial(gradlab_lanes, sweep), functools.partial(optax_vmap, sweep), rounds)


def _paired_within(seconds: float, contestants: dict[str, Contestant], most: int) -> Samples:
    """As many rounds as fit into the seconds, but a few; nothing is compiled in a round."""
    first = paired(contestants, rounds=1)
    once = sum(sum(series) for series in first.values())
    more = int(np.clip(seconds / once, min(FEWEST_ROUNDS, most), most)) - 1
    rest = paired(contestants, rounds=more, warmup=0) if more else {}
    return {name: series + rest.get(name, []) for name, series in first.items()}
