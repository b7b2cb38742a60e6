"""How the lanes of a bucket run: how many at once, and side by side or one after another.

::

    vmap   all configurations of a chunk side by side
    map    configurations one after another inside of the program, seeds side by side
    loop   a program of one lane, called for every trial and seed

Which is fastest depends on the model and the machine: side by side, small networks share what it costs to start a
kernel, while convolutions and decompositions gain nothing on a CPU.  ``'auto'`` measures, if the bucket takes long
enough to repay it: each method runs one segment, of real lanes, whose numbers are thrown away.

Memory is linear in the lanes: the programs of one and of two configurations are compiled, not run, and tell how many
fit into the budget.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from gradlab.sweeps.engine import lanes

if TYPE_CHECKING:
    from gradlab.sweeps.engine.setup import Setup

METHODS = ("auto", "vmap", "map", "loop")
LANES_OF_A_CPU = 16  # side by side; more of them leave the cache, and gain nothing
LANES_OF_AN_ACCELERATOR = 1024
SHARE = 0.5  # of the memory that is free, if no budget is given
PROBED_SEGMENTS = 8  # a bucket of fewer chunks x segments is not worth probing
PROBED_SECONDS = 20.0  # neither is one that takes less, side by side
MARGIN = 1.1  # by which another method must be faster than vmap


class Limits(NamedTuple):
    """What a sweep says of how its lanes run."""

    lane_method: str  # one of METHODS
    chunk: int | None  # configurations at once
    memory: float | None  # bytes


class Layout(NamedTuple):
    """How the lanes of a bucket run."""

    method: str  # 'vmap', 'map' or 'loop'
    width: int  # configurations of a chunk
    seeds: int  # of a chunk

    @property
    def at_once(self) -> int | None:
        """Configurations side by side on a device; None for all of a chunk."""
        return 1 if self.method == "map" else None

    def width_of(self, count: int, *, shrinks: bool) -> int:
        """The width of a chunk for so many configurations: no more than there are, rounded up.

        Where the number of lanes shrinks on the way, widths are powers of two, known in advance: one program each.

        >>> layout = Layout('vmap', width=16, seeds=1)
        >>> [layout.width_of(count, shrinks=True) for count in (40, 9, 5, 1)], layout.width_of(9, shrinks=False)
        ([16, 16, 8, 1], 9)
        """
        if shrinks:
            count = 1 << (count - 1).bit_length()
        return min(self.width, _divided(count) if self.method != "loop" else 1)


def choose_layout(setup: "Setup", values: Sequence[Mapping[str, Any]], structure: Mapping[str, Any]) -> Layout:
    """How a bucket runs; measures, where the sweep leaves it open and it is worth it.

    Args:
      setup: the sweep.
      values: hyperparameters of the bucket's trials.
      structure: its structural values.

    Raises:
      ValueError: one lane does not fit into the memory.
    """
    layout = planned_layout(setup, values, structure)
    if setup.limits.lane_method != "auto":
        return layout
    return _fastest(setup, setup.task_of(structure), values, layout)


def planned_layout(setup: "Setup", values: Sequence[Mapping[str, Any]], structure: Mapping[str, Any]) -> Layout:
    """The same without measuring: side by side unless the sweep says otherwise."""
    method, chunk, _ = setup.limits
    seeds = len(setup.seeds)
    if method == "loop":
        return Layout("loop", 1, 1)
    width = min(len(values), chunk or max(1, _lanes_of_the_machine() // seeds))
    task = setup.task_of(structure)
    if chunk is None and _may_not_fit(setup, task, values, width):
        width, seeds = _fitting(setup, task, values, width)
    return Layout("vmap" if method == "auto" else method, _divided(width), seeds)


def _lanes_of_the_machine() -> int:
    devices = jax.local_devices()
    return len(devices) * (LANES_OF_A_CPU if devices[0].platform == "cpu" else LANES_OF_AN_ACCELERATOR)


def _divided(width: int) -> int:
    """Rounded up, so that the devices share it evenly."""
    devices = len(jax.local_devices())
    return -(-width // devices) * devices


def program_of(setup: "Setup", task: Any, values: Sequence[Mapping[str, Any]], seeds: int | None = None) -> Any:
    """The compiled segment of a chunk of these configurations; nothing is run."""
    group, used = setup.lanes(values), setup.seeds[: seeds or len(setup.seeds)]
    state = lanes.state_shapes(task, group, used, setup.plan.watch)
    keys = jax.eval_shape(lambda: jax.vmap(jax.random.key)(np.asarray(used, np.uint32)))
    segment = setup.plan.segment
    return lanes.run_segment.lower(task, group, state, keys, np.int32(0), segment, setup.plan).compile()


def program_bytes(compiled: Any) -> int | None:
    """What a compiled program holds at once: arguments and results, sharing memory where they can, and scratch."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return held + memory.temp_size_in_bytes


def lane_bytes(setup: "Setup", task: Any, values: Mapping[str, Any], seeds: int | None = None) -> tuple[int, int]:
    """Bytes that all lanes share, and bytes of a configuration with its seeds, from the programs of one and two."""
    one, two = (program_bytes(program_of(setup, task, [values] * count, seeds)) for count in (1, 2))
    if one is None or two is None:
        return 0, 0
    return max(0, 2 * one - two), two - one


def memory_budget(limit: float | None) -> float:
    """Bytes that lanes may take: what is asked for, or half of what is free."""
    if limit is not None:
        return limit
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return SHARE * (stats["bytes_limit"] - stats["bytes_in_use"])
    return SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _may_not_fit(setup: "Setup", task: Any, values: Sequence[Mapping[str, Any]], width: int) -> bool:
    """Whether it is worth two compilations to know: a budget is given, an accelerator is used, or states are large."""
    if setup.limits.memory is not None or jax.local_devices()[0].platform != "cpu":
        return True
    state = lanes.state_shapes(task, setup.lanes(values[:1]), setup.seeds, setup.plan.watch)
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.runs))
    return 4 * width * own > memory_budget(None)


def _fitting(setup: "Setup", task: Any, values: Sequence[Mapping[str, Any]], width: int) -> tuple[int, int]:
    """The largest power of two of configurations that fits, at most ``width``; if not even one, fewer seeds at once."""
    budget = memory_budget(setup.limits.memory) * len(jax.local_devices())
    shared, each = lane_bytes(setup, task, values[0])
    fits = int((budget - shared) // each) if each else width
    if fits >= width:
        return width, len(setup.seeds)
    if fits >= 1:
        return 1 << (fits.bit_length() - 1), len(setup.seeds)
    shared, each = lane_bytes(setup, task, values[0], seeds=1)
    fits = int((budget - shared) // each)
    if fits < 1:
        raise ValueError(
            f"one lane takes {shared + each:.3g} bytes, and `memory` allows {budget:.3g}; allow more, shrink the model "
            "or the batch, or split the batch with accumulate"
        )
    return 1, min(fits, len(setup.seeds))


def _fastest(setup: "Setup", task: Any, values: Sequence[Mapping[str, Any]], side_by_side: Layout) -> Layout:
    segments = len(setup.plan.segments())
    chunks = -(-len(values) // side_by_side.width) * -(-len(setup.seeds) // side_by_side.seeds)
    if chunks * segments < PROBED_SEGMENTS:
        return side_by_side
    rate = functools.partial(_rate, setup, task, values)
    best = rate(side_by_side)
    if len(values) * len(setup.seeds) * setup.plan.steps / best < PROBED_SECONDS:
        return side_by_side
    others = [side_by_side._replace(method="map")]
    if len(jax.local_devices()) == 1:
        others.append(Layout("loop", 1, 1))
    rates = {layout: rate(layout) for layout in others}
    fastest = max(rates, key=rates.get)
    return fastest if rates[fastest] > MARGIN * best else side_by_side


def _rate(setup: "Setup", task: Any, values: Sequence[Mapping[str, Any]], layout: Layout) -> float:
    """Lane-steps a second of one segment, compiling left out."""
    chosen = [*values[: layout.width], *[values[-1]] * (layout.width - len(values))]
    group, seeds = setup.lanes(chosen), setup.seeds[: layout.seeds]
    states = lanes.lane_segments(task, group, seeds, setup.plan, last=setup.plan.segment, at_once=layout.at_once)
    next(states)
    result, _ = next(states)
    return len(chosen) * len(seeds) * setup.plan.segment / max(result.seconds - result.compile_seconds, 1e-9)
