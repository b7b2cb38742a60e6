"""``gradlab list``: the factories that a config can name."""

import inspect
from collections.abc import Callable, Mapping, Sequence

from gradlab.cli.terminal import Terminal
from gradlab.config import parts
from gradlab.experiments.registry import EXPERIMENTS
from gradlab.optimizers import REGISTRY
from gradlab.schedules import SCHEDULES
from gradlab.tasks.catalogue import TASKS
from gradlab.transforms import TRANSFORMS

REGISTRIES: dict[str, Mapping[str, Callable]] = {
    "optimizers": REGISTRY,
    "schedules": SCHEDULES,
    "tasks": TASKS,
    "transforms": TRANSFORMS,
    "wrappers": parts.WRAPPER.registry,
    "experiments": {name: one.run for name, one in EXPERIMENTS.items()},
}


def print_lists(topics: Sequence[str], terminal: Terminal) -> None:
    """Prints a table for each topic."""
    for topic in topics:
        registry = REGISTRIES[topic]
        rows = [[name, arguments_in_words(factory), first_line(factory)] for name, factory in registry.items()]
        terminal.table(f"{len(rows)} {topic}", ["name", "arguments", ""], rows, words=3)
        terminal.say("")


def arguments_in_words(factory: Callable) -> str:
    """A signature without types.

    >>> def clipped(rate, *, bound: float = 1.0): ...
    >>> arguments_in_words(clipped)
    'rate, bound=1.0'
    """
    parameters = inspect.signature(factory).parameters.values()
    required = inspect.Parameter.empty
    return ", ".join(item.name if item.default is required else f"{item.name}={item.default!r}" for item in parameters)


def first_line(factory: Callable) -> str:
    """The first sentence of a docstring, without its markup."""
    line = (inspect.getdoc(factory) or "").partition("\n\n")[0].replace("\n", " ")
    return line.replace("`", "")
