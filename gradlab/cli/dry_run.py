"""``--dry-run``: what would be compiled, and the memory it takes; nothing is trained."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gradlab.cli.terminal import Terminal, amount_of_bytes
from gradlab.config import Experiment
from gradlab.core.transform import Transform
from gradlab.core.values import describe
from gradlab.sweeps.engine.setup import Setup, round_of
from gradlab.sweeps.engine.width import planned_layout, program_bytes, program_of
from gradlab.tasks.task import Task
from gradlab.training import segment
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
    """What a compiled program holds at once."""
    held = program_bytes(compiled)
    return "unknown on this device" if held is None else amount_of_bytes(held)


def show_runs(experiment: Experiment, recipes: Mapping[str, Transform], terminal: Terminal) -> None:
    """Prints the programs of one run, or of each optimizer of a race."""
    task, train = experiment.task, experiment.config.train
    steps, batch_size, sampling = train.plan(task)
    lengths = segment_lengths(steps, min(steps, train.eval_every or max(1, -(-steps // 20))))
    watch = experiment.config.watch(task)
    settings = segment.Settings(batch_size, sampling, train.accumulate, False, watch)
    rules, _ = check_rules(train.stop.rules())
    key = jax.random.key(0)
    rows = []
    for label, tx in recipes.items():
        place = jax.eval_shape(functools.partial(segment.start_of, watch=watch), task, tx, key)
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
    """Prints how trials are drawn and ended, and the chunks, lanes and memory of each bucket's program."""
    task, plan, seeds = setup.task, setup.plan, len(setup.seeds)
    lengths = segment_lengths(plan.steps, plan.segment)
    rows = []
    for number, bucket in enumerate(setup.buckets):
        values, own = [trial.values for trial in bucket.trials], setup.task_of(bucket.structure)
        layout = planned_layout(setup, values, bucket.structure)
        first = [*values[: layout.width], *[values[-1]] * (layout.width - len(values))]
        lane = setup.state_shapes(bucket.structure, values[:1], setup.seeds[:1])
        rows.append(
            [
                number,
                ", ".join(f"{name}={value}" for name, value in bucket.structure.items()) or "-",
                "?" if setup.adaptive else len(values),
                "?" if setup.adaptive else -(-len(values) // layout.width) * -(-seeds // layout.seeds),
                layout.width * layout.seeds,
                len(lengths),
                amount_of_bytes(bytes_of(lane.runs)),
                _program_bytes(program_of(setup, own, first, layout.seeds)),
            ]
        )
    terminal.say(f"{_task_in_words(task)}\n{_search_in_words(setup)}\n")
    sizes = ["trials", "chunks", "lanes a chunk", "compiled programs", "state a lane", "one segment"]
    terminal.table("Nothing was trained", ["bucket", "structure", *sizes], rows, words=2)


def _search_in_words(setup: Setup) -> str:
    plan, (name, _, count, _), seeds = setup.plan, setup.drawing, len(setup.seeds)
    runs = count * seeds
    lines = [
        f"{count:,} trials x {seeds} seeds = {runs:,} runs of {plan.steps:,} steps in segments of {plan.segment}: "
        f"{runs * plan.steps:,} steps in all"
    ]
    if setup.adaptive:
        lines.append(
            f"sampler {name}, in rounds of {min(count, setup.sampler().batch)}; buckets that random draws find"
        )
    if setup.scheduler.name != "all":
        cohorts = setup.scheduler.cohorts(round_of(setup), setup.evals)
        halts = "; ".join(f"{one.count} trials, {', '.join(map(str, one.halts[:8]))}" for one in cohorts[:8])
        lines.append(f"scheduler {setup.scheduler.name}, which decides after these steps: {halts}")
    if setup.refinement is not None:
        best, rounds = setup.refinement.best, setup.refinement.rounds
        lines.append(f"the {best} best trials are refined by hypergradients: {rounds} rounds of {best} more trials")
    return "\n".join(lines)
