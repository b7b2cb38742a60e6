"""What a sweep refuses of its factories: optimizers in their place, names that are no argument, others' optimizers."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from gradlab.core.check import one_of, suggestion
from gradlab.optimizers import REGISTRY
from gradlab.tasks.task import Task


class OptionError(ValueError):
    """What is wrong with an argument of `sweep` that is neither the task, the optimizer nor the space."""

    def __init__(self, option: str, message: str):
        super().__init__(message)
        self.option = option


@contextlib.contextmanager
def about(option: str) -> Iterator[None]:
    """Tells of which argument errors are.

    >>> with about('scheduler'):
    ...     raise TypeError('it compares trials and there is 1')
    Traceback (most recent call last):
    gradlab.sweeps.engine.arguments.OptionError: it compares trials and there is 1
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise OptionError(option, str(error)) from error


def resolve_make(make: Any) -> Callable[..., Any]:
    """A factory of optimizers from the name of one in the registry, or as it is.

    Raises:
      TypeError: it is an optimizer, or nothing that can be called.
      ValueError: an unknown name.

    >>> resolve_make('adam').__name__
    'adam'
    """
    if isinstance(make, str):
        one_of("optimizer", make, REGISTRY)
        return REGISTRY[make]
    if not callable(make):
        got = (
            "an optimizer" if hasattr(make, "init") and hasattr(make, "update") else f"{type(make).__name__}: {make!r}"
        )
        raise TypeError(
            f"`make` must be a factory of optimizers, which the values of a trial are given to, got {got}; pass the "
            "factory, not an optimizer: sweep(task, gradlab.adamw, {'learning_rate': ...})"
        )
    return make


def check_names(make: Callable, task: Any, space: Mapping[str, Any], prefix: str) -> None:
    """Raises with a line for each name of the space that neither factory takes, and each argument that has no value.

    Args:
      make: the factory of optimizers.
      task: a Task, or the factory of one.
      space: name -> dimension; the names of the task begin with the prefix.
    """
    own = {name.removeprefix(prefix): dimension for name, dimension in space.items() if name.startswith(prefix)}
    misfits = list(_misfits(make, [name for name in space if not name.startswith(prefix)]))
    if isinstance(task, Task):
        numbers = task.hyperparams()
        misfits += [f"unknown number of the task {x!r}{suggestion(x, numbers)}" for x in own if x not in numbers]
    elif callable(task):  # a number may be of the task and no argument, which is known when there is a task
        misfits += _misfits(task, [name for name in own if not own[name].dynamic], given=own)
    if misfits:
        raise ValueError("\n".join(misfits))


def _misfits(factory: Callable, names: Iterable[str], given: Iterable[str] | None = None) -> Iterator[str]:
    parameters = parameters_of(factory)
    if parameters is None:
        return
    called = getattr(getattr(factory, "func", factory), "__name__", "the factory")
    for name in names:
        if name not in parameters:
            yield f"{called} has no argument {name!r}{suggestion(name, parameters)}"
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in (names if given is None else given):
            yield f"{called} needs a value for its argument {name!r}; give it one in the space, a number if it is fixed"


def parameters_of(factory: Callable) -> dict[str, inspect.Parameter] | None:
    """The arguments that a factory takes by name; None if it takes any, or does not say.

    >>> list(parameters_of(lambda rate, *, decay=0.0: None)), parameters_of(dict)
    (['rate', 'decay'], None)
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in parameters.values()}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return None
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in named}


def check_made(tx: Any, make: Callable) -> None:
    """Raises unless the numbers of an optimizer are leaves, which lanes can carry; those of Optax hide in functions."""
    if not hasattr(tx, "update"):
        raise TypeError(f"`make` must make an optimizer, got {type(tx).__name__}: {tx!r}")
    if any(callable(leaf) for leaf in jax.tree.leaves(tx)):
        name = getattr(make, "__name__", "")
        instead = f"gradlab.{name}" if name in REGISTRY else "gradlab's factory of the same name, if it has one"
        raise TypeError(
            "`make` makes an optimizer whose numbers are hidden in functions, as Optax's are, and cannot be lanes; "
            f"use {instead}"
        )
