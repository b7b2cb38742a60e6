"""What a run with a section ``monitor`` leaves besides: what the instruments saw, and what they cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlab.cli import outputs
from gradlab.cli.terminal import Terminal
from gradlab.tasks.task import Task
from gradlab.training.loop import History
from gradlab.training.overhead import overhead
from gradlab.training.step import start
from gradlab.training.watch import Watch


def save_looks(folder: Path, histories: Mapping[str, History]) -> None:
    """Writes ``instruments.csv``, a row for each look, and a picture for each run."""
    from gradlab.plots import instrument_panels, save_figure

    names = list(next(iter(histories.values())).instruments)
    several = len(histories) > 1
    rows = [
        [*[label] * several, int(step), *(float(run.instruments[name][index]) for name in names)]
        for label, run in histories.items()
        for index, step in enumerate(run.instrument_step)
    ]
    outputs.write_table(folder / "instruments.csv", [*["optimizer"] * several, "step", *names], rows)
    for label, run in histories.items():
        if len(run.instrument_step):
            axes = instrument_panels(run.instrument_step, run.instruments)
            save_figure(axes[0], folder / (f"instruments_{label}.png" if several else "instruments.png"))


def say_overhead(task: Task, tx: Any, batch_size: int | None, watch: Watch, terminal: Terminal) -> None:
    """Measures what instruments add to the training steps of one run, and says it."""
    import jax

    run = jax.jit(start, static_argnames="watch")(task, tx, jax.random.key(0), watch=watch)
    cost = overhead(task, tx, run, batch_size, watch)
    names = ", ".join(instrument.name for instrument in watch.instruments)
    terminal.say(
        f"instruments {names}: a look takes {1e3 * cost.look:.2g} ms, as long as {cost.look / cost.step:.2g} steps; "
        f"every {cost.every} steps, they add {cost.share:.1%} to the time of training"
    )
