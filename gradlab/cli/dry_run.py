"""``--dry-run``: what would be compiled, and the memory it takes; nothing is trained."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gradlab.cli.terminal import Terminal, amount_of_bytes
from gradlab.config import Experiment
from gradlab.core.transform import Transform
from gradlab.core.values import describe
from gradlab.sweeps import lanes
from gradlab.sweeps.setup import Setup
from gradlab.sweeps.space import Bucket
from gradlab.tasks.task import Task
from gradlab.training import segment
from gradlab.training.batches import make_feed
from gradlab.training.step import start
from gradlab.training.stop import check_rules


def bytes_of(tree: Any) -> int:
    """The bytes of a tree of arrays or of their shapes.

    >>> bytes_of({'w': jax.ShapeDtypeStruct((3, 5), np.float32)})
    60
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def segment_lengths(steps: int, segment: int) -> list[int]:
    """The different lengths of segments, each a compiled program.

    >>> segment_lengths(100, 5), segment_lengths(10, 4)
    ([5], [4, 2])
    """
    return [segment, steps % segment] if steps % segment else [segment]


def _program_bytes(compiled: Any) -> str:
    """What a compiled program holds at once: arguments and results, sharing memory where they can, and scratch."""
    memory = compiled.memory_analysis()
    if memory is None:
        return "unknown on this device"
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return amount_of_bytes(held + memory.temp_size_in_bytes)


def show_runs(experiment: Experiment, recipes: Mapping[str, Transform], terminal: Terminal) -> None:
    """Prints the programs of one run, or of each optimizer of a race."""
    task, train = experiment.task, experiment.config.train
    steps, batch_size, sampling = train.plan(task)
    lengths = segment_lengths(steps, min(steps, train.eval_every or max(1, -(-steps // 20))))
    settings = segment.Settings(batch_size, sampling, train.accumulate, trajectory=False)
    rules, _ = check_rules(train.stop.rules())
    key = jax.random.key(0)
    rows = []
    for label, tx in recipes.items():
        place = jax.eval_shape(segment.start_of, task, tx, key)
        traced = segment.run_segment.lower(task, tx, place, key, np.int32(0), rules, None, lengths[0], settings)
        program = traced.compile()
        sizes = [amount_of_bytes(bytes_of(tree)) for tree in (place.run.params, place.run.opt_state)]
        rows.append([label, len(lengths), *sizes, _program_bytes(program)])
    terminal.say(f"{_task_in_words(task)}; {steps:,} steps in segments of {lengths[0]}")
    for label, tx in recipes.items():
        terminal.say(f"\n{label}:\n" + "\n".join(f"  {line}" for line in describe(tx).splitlines()))
    terminal.say("")
    columns = ["optimizer", "compiled programs", "parameters", "optimizer state", "one segment"]
    terminal.table("Nothing was trained", columns, rows)


def _task_in_words(task: Task) -> str:
    data = amount_of_bytes(bytes_of(task.train))
    return f"{task.name}: {task.num_params:,} parameters, {task.num_examples:,} examples ({data})"


def show_sweep(setup: Setup, terminal: Terminal) -> None:
    """Prints buckets, chunks, lanes and the memory of each bucket's program."""
    task, plan, seeds = setup.task, setup.plan, len(setup.seeds)
    lengths = segment_lengths(plan.steps, plan.segment)
    rows = []
    for number, bucket in enumerate(setup.buckets):
        chunks = setup.chunks(bucket)
        run, program = _lane_program(setup, bucket)
        rows.append(
            [
                number,
                ", ".join(f"{name}={value}" for name, value in bucket.structure.items()) or "-",
                len(bucket.trials),
                len(chunks),
                len(chunks[0]) * seeds,
                len(lengths),
                amount_of_bytes(bytes_of(run)),
                _program_bytes(program),
            ]
        )
    runs = len(setup.trials) * seeds
    terminal.say(
        f"{_task_in_words(task)}\n{len(setup.trials)} trials x {seeds} seeds = {runs:,} runs of {plan.steps:,} steps "
        f"in segments of {plan.segment}: {runs * plan.steps:,} steps in all\n"
    )
    sizes = ["trials", "chunks", "lanes a chunk", "compiled programs", "state a lane", "one segment"]
    terminal.table("Nothing was trained", ["bucket", "structure", *sizes], rows, words=2)


def _lane_program(setup: Setup, bucket: Bucket) -> tuple[Any, Any]:
    """The state of one lane, as shapes, and the compiled segment of a chunk."""
    group, key, seeds = setup.lanes(setup.chunks(bucket)[0]), jax.random.key(0), len(setup.seeds)
    first = jax.tree.map(lambda leaf: leaf[0], group)
    run = jax.eval_shape(start, setup.task.replace(**first.task_values), first.tx, key)
    feed = jax.eval_shape(lambda key: make_feed(setup.task.train, key), key)
    state = lanes.LaneState(_stacked(run, seeds, group.count), _stacked(feed, seeds))
    keys = _stacked(key, seeds)
    lowered = lanes.run_segment.lower(setup.task, group, state, keys, np.int32(0), setup.plan.segment, setup.plan)
    return run, lowered.compile()


def _stacked(tree: Any, *axes: int) -> Any:
    """The shapes of a tree with further axes before the others."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), tree)
