"""Lanes: many training runs as one program, ``jit(scan(vmap_seeds(vmap_configurations(step))))``.

The configurations of one seed share its initialisation, its minibatches and its noise, so that they are compared in
pairs and the first layer sees one batch.  The step counter is the only thing that no lane owns: branches on it stay
branches.  The host comes back between segments.

Where lanes side by side are slower than one after another (convolutions on a CPU), ``at_once`` runs groups of
configurations in turn, each through the whole segment.  Where there are several devices the configurations are spread
over them; nothing is communicated.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gradlab.sweeps.engine.clock import Stopwatch
from gradlab.tasks.task import Task
from gradlab.training.batches import Feed, draw, make_feed
from gradlab.training.segment import DATA, INIT, NOISE
from gradlab.training.step import Run, evaluate, shapes_seen, start, start_at, watched_step
from gradlab.training.watch import OFF, Rows, Watch


class Plan(NamedTuple):
    """The structure of a compiled sweep: what changes it recompiles."""

    steps: int
    segment: int  # steps between evaluations
    batch_size: int | None
    sampling: str
    accumulate: int = 1
    watch: Watch = OFF

    def data(self) -> dict[str, Any]:
        """What it is, as JSON data."""
        plain = self._asdict()
        watch = plain.pop("watch")
        return plain | ({"watch": watch.data()} if watch.instruments else {})

    def segments(self) -> list[tuple[int, int]]:
        """First step and length of each segment.

        >>> Plan(steps=10, segment=4, batch_size=None, sampling='full').segments()
        [(0, 4), (4, 4), (8, 2)]
        """
        return [(first, min(self.segment, self.steps - first)) for first in range(0, self.steps, self.segment)]


class Lanes(NamedTuple):
    """Configurations as values with the configuration as the first axis of every leaf."""

    tx: optax.GradientTransformation
    task_values: dict[str, jax.Array]  # numbers of the task that the sweep varies

    @property
    def count(self) -> int:
        return jax.tree.leaves(self)[0].shape[0]


class LaneState(NamedTuple):
    """All that changes: runs with the axes (seeds, configurations), one feed a seed."""

    runs: Run
    feeds: Feed


class SegmentResult(NamedTuple):
    """What a segment reports, as NumPy arrays."""

    steps_done: int
    loss: np.ndarray  # (configurations, seeds, length)
    metrics: dict[str, np.ndarray]  # name -> (configurations, seeds)
    ended_at: np.ndarray  # (configurations, seeds) int32, -1 while running
    status: np.ndarray  # (configurations, seeds) int32
    seconds: float = 0.0
    compile_seconds: float = 0.0  # of these


def run_lanes(task: Task, lanes: Lanes, seeds: Sequence[int], plan: Plan) -> Iterator[SegmentResult]:
    """Runs every configuration with every seed, yielding after each segment; first the state before step 0.

    A lane that diverges keeps its last finite parameters and says when; no lane reads another's numbers.
    """
    for result, _ in lane_segments(task, lanes, seeds, plan):
        yield result


def lane_segments(
    task: Task,
    lanes: Lanes,
    seeds: Sequence[int],
    plan: Plan,
    after: tuple[int, LaneState] | None = None,
    *,
    last: int | None = None,
    at_once: int | None = None,
) -> Iterator[tuple[SegmentResult, LaneState]]:
    """The same with the state after each segment, which the next one destroys; from the start or from a state.

    Args:
      task, lanes, seeds, plan: what runs.
      after: steps done and the state then; what comes later is yielded.
      last: stop after so many steps, the end of a segment; by default all.
      at_once: configurations side by side on a device, a divisor of their number there; by default all.
    """
    keys = _keys(np.asarray(seeds, dtype=np.uint32))
    task, lanes, keys, spread, devices = _over_devices(task, lanes, keys)
    data = task.valid if task.valid is not None else task.train
    clock = Stopwatch()
    if after is None:
        done, state = 0, spread(_first_state(task, lanes, seeds, plan.watch))
        unseen = {name: np.full(state.runs.status.shape, np.nan) for name in _shapes_seen(task, lanes, state, plan)}
        yield _result(0, None, {**_evaluate(task, lanes, state, data), **unseen}, state, clock), state
    else:
        done, state = after[0], spread(after[1])
    for first, length in plan.segments():
        if done <= first < (plan.steps if last is None else last):
            clock = Stopwatch()
            state, loss, rows = run_segment(task, lanes, state, keys, np.int32(first), length, plan, at_once, devices)
            seen = {name: values[len(plan.watch.steps(first, length)) - 1] for name, values in rows.items()}
            metrics = {**_evaluate(task, lanes, state, data), **seen}
            yield _result(first + length, loss, metrics, state, clock), state


def _over_devices(task: Task, lanes: Lanes, keys: jax.Array) -> tuple[Task, Lanes, jax.Array, Callable, int]:
    """The arguments where they belong, a function that puts a state there, and the number of devices that share them.

    With one device, or a number of configurations that the devices do not divide, everything stays where it is.
    """
    devices = jax.local_devices()
    if len(devices) == 1 or lanes.count % len(devices):
        return task, lanes, keys, lambda state: state, 1
    mesh = Mesh(np.asarray(devices), ("lane",))
    everywhere, first, second = (NamedSharding(mesh, P(*axes)) for axes in ((), ("lane",), (None, "lane")))
    spread = lambda state: LaneState(jax.device_put(state.runs, second), jax.device_put(state.feeds, everywhere))
    task, keys = jax.device_put((task, keys), everywhere)
    return task, jax.device_put(lanes, first), keys, spread, len(devices)


def state_shapes(task: Task, lanes: Lanes, seeds: Sequence[int], watch: Watch = OFF) -> LaneState:
    """Shapes and dtypes of the state; nothing is computed."""
    return jax.eval_shape(lambda: _first_state(task, lanes, seeds, watch))


def _first_state(task: Task, lanes: Lanes, seeds: Sequence[int], watch: Watch = OFF) -> LaneState:
    initial = None if lanes.task_values else [_initial(task, np.uint32(seed)) for seed in seeds]
    return _start(task, lanes, _keys(np.asarray(seeds, dtype=np.uint32)), initial, watch)


def _shapes_seen(task: Task, lanes: Lanes, state: LaneState, plan: Plan) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and dtypes of what instruments see of one lane."""
    if not plan.watch.instruments:
        return {}
    take = functools.partial(draw, data=task.train, batch_size=plan.batch_size, sampling=plan.sampling)

    def of_first(feeds, runs, lanes):
        (tx, values), run = jax.tree.map(lambda x: x[0], lanes), jax.tree.map(lambda x: x[0, 0], runs)
        _, batch = take(jax.tree.map(lambda x: x[0], feeds), step=jnp.int32(0))
        return shapes_seen(task.replace(**values) if values else task, tx, run, batch, plan.watch)

    found = {}
    jax.eval_shape(lambda *arguments: found.update(of_first(*arguments)), state.feeds, state.runs, lanes)
    return found


_keys = jax.jit(jax.vmap(jax.random.key))


def _result(
    done: int, loss: jax.Array | None, metrics: dict[str, jax.Array], state: LaneState, clock: Stopwatch
) -> SegmentResult:
    status, ended_at = state.runs.status, state.runs.ended_at
    metrics, status, ended_at = jax.device_get((metrics, status, ended_at))
    loss = np.zeros((*status.shape, 0), np.float32) if loss is None else np.moveaxis(np.asarray(loss), 0, -1)
    swap = lambda x: np.swapaxes(x, 0, 1)
    metrics = {name: swap(values) for name, values in metrics.items()}
    return SegmentResult(done, swap(loss), metrics, swap(ended_at), swap(status), *clock.read())


def _over_lanes(function: Callable, lanes: Lanes, task: Task) -> Callable:
    """``function(task, tx, run, *shared)`` for all seeds and configurations; ``shared`` belongs to the seed."""

    def one(tx, task_values, run, shared):
        return function(task.replace(**task_values) if task_values else task, tx, run, *shared)

    over_configurations = jax.vmap(one, in_axes=(0, 0, 0, None))
    return jax.vmap(lambda runs, shared: over_configurations(*lanes, runs, shared))


@jax.jit
def _initial(task: Task, seed: jax.Array) -> tuple[Any, Any]:
    """Parameters and model state of one seed: compiled once, in half the time that it takes for all seeds together."""
    return task.init(jax.random.fold_in(jax.random.key(seed), INIT))


@functools.partial(jax.jit, static_argnames="watch")
def _start(
    task: Task, lanes: Lanes, keys: jax.Array, initial: list[tuple[Any, Any]] | None, watch: Watch = OFF
) -> LaneState:
    nothing = jnp.zeros((keys.shape[0], lanes.count))
    if initial is None:
        begin = lambda task, tx, _, key: start(task, tx, jax.random.fold_in(key, INIT), watch)
        runs = _over_lanes(begin, lanes, task)(nothing, (keys,))
    else:
        begin = lambda task, tx, _, params, model_state: start_at(tx, params, model_state, watch)
        runs = _over_lanes(begin, lanes, task)(nothing, jax.tree.map(lambda *leaves: jnp.stack(leaves), *initial))
    feeds = jax.vmap(lambda key: make_feed(task.train, jax.random.fold_in(key, DATA)))(keys)
    return LaneState(runs, feeds)


@jax.jit
def _evaluate(task: Task, lanes: Lanes, state: LaneState, data: Any) -> dict[str, jax.Array]:
    measure = lambda task, tx, run: evaluate(task, tx, run, data)
    return _over_lanes(measure, lanes, task)(state.runs, ())


@functools.partial(jax.jit, static_argnames=("length", "plan", "at_once", "devices"), donate_argnames="state")
def run_segment(
    task: Task,
    lanes: Lanes,
    state: LaneState,
    keys: jax.Array,
    first: jax.Array,
    length: int,
    plan: Plan,
    at_once: int | None = None,
    devices: int = 1,
) -> tuple[LaneState, jax.Array, dict[str, jax.Array]]:
    """A segment of all lanes; the losses are (length, seeds, configurations), as what instruments saw at their looks.

    Each device has ``at_once`` configurations in turn.
    """
    if at_once is None or at_once * devices == lanes.count:
        return _side_by_side(task, lanes, state, keys, first, length, plan)

    def group(_, item):
        new, *curves = _side_by_side(task, item[0], LaneState(item[1], state.feeds), keys, first, length, plan)
        return new.feeds, (new.runs, curves)

    split = lambda x, axis: _in_groups(x, axis, at_once, devices)
    runs = jax.tree.map(lambda x: split(x, 1), state.runs)
    feeds, (runs, curves) = jax.lax.scan(group, state.feeds, (jax.tree.map(lambda x: split(x, 0), lanes), runs))
    join = lambda x, axis: _out_of_groups(x, axis, at_once, devices)
    return LaneState(jax.tree.map(lambda x: join(x, 1), runs), feeds), *jax.tree.map(lambda x: join(x, 2), curves)


def _in_groups(x: jax.Array, axis: int, size: int, devices: int) -> jax.Array:
    """(..., lanes, ...) to (groups, ..., devices * size, ...): each device has its share of every group."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    x = x.reshape(*before, devices, -1, size, *after)
    return jnp.moveaxis(x, axis + 1, 0).reshape(-1, *before, devices * size, *after)


def _out_of_groups(x: jax.Array, axis: int, size: int, devices: int) -> jax.Array:
    before, after = x.shape[1 : axis + 1], x.shape[axis + 2 :]
    x = x.reshape(-1, *before, devices, size, *after)
    return jnp.moveaxis(x, 0, axis + 1).reshape(*before, -1, *after)


def _side_by_side(
    task: Task, lanes: Lanes, state: LaneState, keys: jax.Array, first: jax.Array, length: int, plan: Plan
) -> tuple[LaneState, jax.Array, dict[str, jax.Array]]:
    advance = functools.partial(watched_step, watch=plan.watch, accumulate=plan.accumulate)
    take = lambda feed, step: draw(feed, task.train, step, batch_size=plan.batch_size, sampling=plan.sampling)

    def one(carry, step):
        state, rows = carry
        noise = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, NOISE), step))(keys)
        if plan.sampling == "full":
            move = lambda task, tx, run, key: advance(task, tx, run, task.train, key, step)
            runs, loss, seen = _over_lanes(move, lanes, task)(state.runs, (noise,))
            return (LaneState(runs, state.feeds), rows.put(plan.watch, seen, first, step)), loss
        feeds, batches = jax.vmap(take, in_axes=(0, None))(state.feeds, step)
        move = lambda task, tx, run, batch, key: advance(task, tx, run, batch, key, step)
        runs, loss, seen = _over_lanes(move, lanes, task)(state.runs, (batches, noise))
        return (LaneState(runs, feeds), rows.put(plan.watch, seen, first, step)), loss

    each = {
        name: jax.ShapeDtypeStruct(state.runs.status.shape, x.dtype)
        for name, x in _shapes_seen(task, lanes, state, plan).items()
    }
    rows = Rows.empty(plan.watch, each, length)
    (state, rows), loss = jax.lax.scan(one, (state, rows), first + jnp.arange(length, dtype=jnp.int32))
    return state, loss, rows.numbers
