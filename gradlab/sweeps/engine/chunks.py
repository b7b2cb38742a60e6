"""Chunks: the lanes that one program runs from one halt to the next, and the states that they hand on."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.sweeps.engine.journal import Journal
from gradlab.sweeps.engine.lanes import LaneState, SegmentResult, lane_segments
from gradlab.sweeps.engine.setup import Setup
from gradlab.sweeps.engine.width import Layout


class Chunk(NamedTuple):
    """Configurations x seeds, from one step to another."""

    number: int  # counted over the whole sweep
    bucket: int
    structure: Mapping[str, Any]
    lanes: tuple[int, ...]  # positions in the cohort
    values: tuple[Mapping[str, Any], ...]  # hyperparameters of each
    seeds: tuple[int, ...]
    width: int  # lanes of the program: those, and copies of the last
    at_once: int | None  # of these side by side, None for all
    first: int  # step
    last: int
    keeps: bool  # whether the cohort goes on after this

    def padded(self) -> list[Mapping[str, Any]]:
        return [*self.values, *[self.values[-1]] * (self.width - len(self.values))]


class Report(NamedTuple):
    """What a chunk says after a segment."""

    chunk: Chunk
    result: SegmentResult
    known: bool  # an earlier process ran it
    state: LaneState | None  # after the last segment, if the chunk keeps it


def pack(
    values: Mapping[int, Mapping[str, Any]],
    layout: Layout,
    seeds: Sequence[int],
    numbers: Iterator[int],
    *,
    shrinks: bool,
    **common: Any,
) -> Iterator[Chunk]:
    """The chunks of the lanes of a bucket, in order.

    Args:
      values: position in the cohort -> hyperparameters.
      layout: how the bucket runs.
      seeds: of the sweep.
      numbers: gives the next number of a chunk.
      shrinks: whether there may be fewer lanes later, so that few widths should be compiled.
      **common: further fields.
    """
    lanes = list(values)
    width = layout.width_of(len(lanes), shrinks=shrinks)
    for start in range(0, len(lanes), width):
        own = tuple(lanes[start : start + width])
        fits = layout.width_of(len(own), shrinks=True) if shrinks else width
        for first in range(0, len(seeds), layout.seeds):
            yield Chunk(
                number=next(numbers),
                lanes=own,
                values=tuple(values[lane] for lane in own),
                seeds=tuple(seeds[first : first + layout.seeds]),
                width=fits,
                at_once=layout.at_once,
                **common,
            )


class States:
    """The states of a cohort's lanes at a halt, each lane's where its chunk left it; in the host's memory."""

    def __init__(self):
        self._trees: list[LaneState] = []
        self._places: dict[tuple[int, int], tuple[int, int]] = {}  # (lane, first seed of its chunk) -> tree, column

    def keep(self, report: Report) -> None:
        """Takes over what a chunk left."""
        for column, lane in enumerate(report.chunk.lanes):
            self._places[lane, report.chunk.seeds[0]] = (len(self._trees), column)
        self._trees.append(_moved(report.state, "cpu"))

    def gather(self, parents: Sequence[int], chunk: Chunk) -> LaneState:
        """The state in which a chunk begins: each of its lanes takes that of a parent.

        A bucket's seeds are split in the same way at every halt, so the chunks that left states had these seeds.
        """
        sources = [*parents, *[parents[-1]] * (chunk.width - len(parents))]
        trees, columns = zip(*(self._places[lane, chunk.seeds[0]] for lane in sources), strict=True)
        feeds = jax.tree.map(jnp.copy, self._trees[trees[0]].feeds)
        if len(set(trees)) == 1:
            index = jnp.asarray(columns)
            runs = jax.tree.map(lambda x: x[:, index], self._trees[trees[0]].runs)
        else:
            lanes = [_lane(self._trees[tree], column) for tree, column in zip(trees, columns, strict=True)]
            runs = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *lanes)
        return _moved(LaneState(runs, feeds), jax.default_backend())


def _lane(state: LaneState, column: int) -> Any:
    return jax.tree.map(lambda x: x[:, column], state.runs)


def _moved(state: LaneState, platform: str) -> LaneState:
    return state if jax.default_backend() == "cpu" else jax.device_put(state, jax.local_devices(backend=platform)[0])


def run_here(
    setup: Setup, chunks: Iterable[tuple[Chunk, LaneState | None]], journal: Journal | None
) -> Iterator[Report]:
    """Runs chunks one after another in this process, from where the journal says they are."""
    for chunk, state in chunks:
        yield from _run_chunk(setup, chunk, state, journal)


def _run_chunk(setup: Setup, chunk: Chunk, begin: LaneState | None, journal: Journal | None) -> Iterator[Report]:
    segments = functools.partial(segments_of, setup, chunk)
    if journal is None:
        yield from ((Report(chunk, result, False, _kept(chunk, result, state))) for result, state in segments(begin))
        return
    if journal.has_finished(chunk.number):
        yield from replayed(setup, chunk, journal)
        return
    like = functools.partial(setup.state_shapes, chunk.structure, chunk.padded(), chunk.seeds)
    known = journal.running(chunk.number, like)
    results, place = known if known is not None else ([], begin)
    yield from (Report(chunk, result, True, _kept(chunk, result, place)) for result in list(results))
    done = results[-1].steps_done if results else chunk.first
    if done == chunk.last:
        journal.keep_chunk(chunk.number, results, place if chunk.keeps else None)
    for result, state in segments(begin, (done, place) if results else None):
        results.append(result)
        stop = journal.stop_requested
        if stop or result.steps_done < chunk.last:
            journal.keep_running(chunk.number, results, state, now=stop)
        if stop:
            raise KeyboardInterrupt
        if result.steps_done == chunk.last:
            journal.keep_chunk(chunk.number, results, state if chunk.keeps else None)
        yield Report(chunk, result, False, _kept(chunk, result, state))


def replayed(setup: Setup, chunk: Chunk, journal: Journal) -> Iterator[Report]:
    """What a chunk reported that an earlier process finished."""
    for result in journal.finished(chunk.number):
        state = None
        if chunk.keeps and result.steps_done == chunk.last:
            state = journal.state(chunk.number, setup.state_shapes(chunk.structure, chunk.padded(), chunk.seeds))
        yield Report(chunk, result, True, state)


def segments_of(
    setup: Setup, chunk: Chunk, begin: LaneState | None, after: tuple[int, LaneState] | None = None
) -> Iterator[tuple[SegmentResult, LaneState]]:
    """The segments of a chunk, from its beginning or from a place within."""
    if after is None and begin is not None:
        after = (chunk.first, begin)
    task, lanes = setup.task_of(chunk.structure), setup.lanes(chunk.padded())
    return lane_segments(task, lanes, chunk.seeds, setup.plan, after, last=chunk.last, at_once=chunk.at_once)


def _kept(chunk: Chunk, result: SegmentResult, state: LaneState) -> LaneState | None:
    return state if chunk.keeps and result.steps_done == chunk.last else None
