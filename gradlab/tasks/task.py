"""What is optimised: a value that knows how to start, what to minimise and what to report.

::

    params, model_state = task.init(key)
    loss, model_state   = task.loss(params, model_state, batch, key)    mean over the batch, in training mode
    {"loss": ..., ...}  = task.metrics(params, model_state, data)       in evaluation mode

A `Task` is a pytree like an optimizer value: its numbers and its data are leaves, so one compiled program serves every
label smoothing and every data set of one shape, and a sweep varies them between its lanes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.rule import Rule, Static, static
from gradlab.core.schedule import as_leaf

_PARTS = ("init", "loss", "metrics")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """An optimisation problem as a value; `make_task`, `flax_task` and `surface_task` make them.

    >>> from gradlab.tasks import rosenbrock, surface_task
    >>> task = surface_task(rosenbrock())
    >>> params, model_state = task.init(jax.random.key(0))
    >>> loss, model_state = task.loss(params, model_state, None, jax.random.key(1))
    >>> params.shape, round(float(loss), 3), task.num_params
    ((2,), 24.2, 2)
    """

    init: Partial  # key -> (params, model_state); model_state is {} where there is none
    loss: Partial  # (params, model_state, batch, key) -> (scalar, model_state)
    metrics: Partial  # (params, model_state, data) -> {"loss": scalar, ...}

    # trees of arrays with the examples along their first axis; None where there are none
    train: Any = None
    valid: Any = None
    test: Any = None

    # structure
    name: str = dataclasses.field(default="task", metadata={"static": True})
    facts: tuple[tuple[str, Any], ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def num_examples(self) -> int:
        """The number of training examples; 0 for a task without data."""
        leaves = jax.tree.leaves(self.train)
        return leaves[0].shape[0] if leaves else 0

    @property
    def num_params(self) -> int:
        """The number of parameters: nothing is computed to count them."""
        params, _ = jax.eval_shape(self.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    def hyperparams(self) -> dict[str, Any]:
        """The task's own numbers by name; ``None`` where a term is off."""
        return {name: value for part in _PARTS for name, value in getattr(self, part).keywords.items()}

    def replace(self, **values: Any) -> "Task":
        """The same task with new numbers, named as `hyperparams` lists them: nothing recompiles.

        Raises:
          ValueError: a name that the task does not have.

        >>> from gradlab.tasks import rosenbrock, surface_task
        >>> surface_task(rosenbrock()).replace(steepness=10.0).hyperparams()['steepness']
        10.0
        """
        known = self.hyperparams()
        for name in values:
            if name not in known:
                raise ValueError(f"task {self.name!r} has no number {name!r}{check.suggestion(name, known)}")
        parts = {}
        for part in _PARTS:
            bound = getattr(self, part)
            new = {name: as_leaf(name, values[name]) for name in bound.keywords if name in values}
            parts[part] = Partial(bound.func, *bound.args, **{**bound.keywords, **new})
        return dataclasses.replace(self, **parts)


def bind(function: Callable, *data: Any, **values: Any) -> Partial:
    """Binds data and numbers to a module-level function as leaves, and `static` values as structure.

    Args:
      function: called as ``function(*data, ..., **values)``.
      *data: trees of arrays that `Task.hyperparams` shall not list.
      **values: numbers, arrays, ``None`` (off) or `static` structure.

    >>> def _ridge(params, model_state, batch, key, *, l2): return l2 * params @ params, model_state
    >>> jax.tree.leaves(bind(_ridge, l2=1))
    [1.0]
    """
    structure = tuple((name, value) for name, value in values.items() if isinstance(value, Static))
    leaves = {name: as_leaf(name, value) for name, value in values.items() if not isinstance(value, Static)}
    return Partial(Rule(function, structure), *data, **leaves)


def make_task(
    init: Callable,
    loss: Callable,
    metrics: Callable | None = None,
    *,
    train: Any = None,
    valid: Any = None,
    test: Any = None,
    name: str = "task",
    facts: tuple[tuple[str, Any], ...] = (),
) -> Task:
    """A task from three functions and its data, checked by tracing: no example is computed.

    Args:
      init: ``key -> (params, model_state)``; give ``{}`` as the state of a model that has none.
      loss: ``(params, model_state, batch, key) -> (scalar, model_state)``, the mean over the batch.  Without training
        data the batch is ``None``.
      metrics: ``(params, model_state, data) -> {"loss": scalar, ...}``; by default the loss itself, with a fixed key.
      train: tree of arrays, each of shape (examples, ...), or ``None``.
      valid: like ``train``, with its own number of examples.
      test: like ``train``, with its own number of examples.
      name: (static) shown in tables and messages.
      facts: (static) pairs of names and hashable values to keep with results, such as the hash of the data.

    Each function may carry numbers: ``make_task(init, bind(loss, l2=1e-4), ...)``.

    Raises:
      ValueError: data without examples, arrays of unequal length, sets that differ in their trees, no parameters, a
        loss that is no scalar or that changes the shape of the model state, metrics without ``"loss"``.
      TypeError: data that are no numbers, or parameters that are not floating-point.

    >>> def start(key): return jnp.zeros(2), {}
    >>> def squared(params, state, batch, key): return jnp.mean((batch["x"] @ params - batch["y"]) ** 2), state
    >>> task = make_task(start, squared, train={"x": np.eye(2), "y": np.array([1.0, 3.0])})
    >>> float(task.metrics(jnp.zeros(2), {}, task.train)["loss"]), task.num_examples
    (5.0, 2)
    """
    init, loss = _as_partial(init), _as_partial(loss)
    if metrics is None:
        rule = Rule(_loss_metrics, (("loss", static(loss.func)),))
        metrics = Partial(rule, *loss.args, **loss.keywords)
    sets = {"train": train, "valid": valid, "test": test}
    sets = {key: None if data is None else as_arrays(key, data) for key, data in sets.items()}
    if train is None and not (valid is None and test is None):
        raise ValueError("a task with `valid` or `test` data needs `train` data as well, got train=None")
    for key in ("valid", "test"):
        if sets[key] is not None:
            _require_alike(sets["train"], key, sets[key])
    task = Task(init, loss, _as_partial(metrics), **sets, name=name, facts=tuple(facts))
    _check_functions(task)
    return task


def _as_partial(function: Callable) -> Partial:
    return function if isinstance(function, Partial) else bind(function)


def _loss_metrics(*args, loss, **values):
    *bound, params, model_state, data = args
    value, _ = loss(*bound, params, model_state, data, jax.random.key(0), **values)
    return {"loss": value}


def as_arrays(key: str, data: Any) -> Any:
    named = list(_named_leaves(key, data))
    if not named:
        raise ValueError(f"`{key}` holds no arrays, got {data!r}; give a tree of arrays of shape (examples, ...)")
    for where, leaf in named:
        if not _is_numeric(leaf):
            raise TypeError(
                f"{where} must be an array of numbers, got {type(leaf).__name__} of {np.asarray(leaf).dtype}"
            )
        if np.ndim(leaf) == 0:
            raise ValueError(f"{where} must be an array of shape (examples, ...), got the scalar {leaf!r}")
    lengths = {where: np.shape(leaf)[0] for where, leaf in named}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{where} has {length}" for where, length in lengths.items())
        raise ValueError(f"all arrays of `{key}` must hold the same number of examples: {shown}")
    if 0 in lengths.values():
        raise ValueError(f"`{key}` holds no examples: {named[0][0]} has shape {np.shape(named[0][1])}")
    return jax.tree.map(jnp.asarray, data)


def _named_leaves(key: str, data: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        yield f"{key}{jax.tree_util.keystr(path)}", leaf


def _is_numeric(leaf: Any) -> bool:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)


def _require_alike(train: Any, key: str, data: Any) -> None:
    trees.require_same_structure(f"`{key}`", data, "`train`", train)
    for (where, leaf), reference in zip(_named_leaves(key, data), jax.tree.leaves(train), strict=True):
        if leaf.shape[1:] != reference.shape[1:]:
            raise ValueError(
                f"{where} has examples of shape {leaf.shape[1:]}, but those of `train` have {reference.shape[1:]}"
            )


def _check_functions(task: Task) -> None:
    key = jax.random.key(0)
    started = jax.eval_shape(task.init, key)
    if not isinstance(started, tuple) or len(started) != 2:
        raise ValueError(
            f"init of task {task.name!r} must return (params, model_state), got {type(started).__name__}; "
            "return (params, {}) if the model has no state of its own"
        )
    params, model_state = started
    if not jax.tree.leaves(params):
        raise ValueError(f"task {task.name!r} has no parameters: init returned {params!r}, so nothing can be optimised")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"parameter '{trees.path_name(path)}' of task {task.name!r} is {leaf.dtype}: optimizers move "
                "floating-point parameters; cast it, or keep it in the model state"
            )
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((min(2, len(leaf)), *leaf.shape[1:]), leaf.dtype), task.train
    )
    returned = jax.eval_shape(task.loss, params, model_state, batch, key)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"loss of task {task.name!r} must return (loss, model_state), got {type(returned).__name__}")
    value, new_state = returned
    if jax.tree.leaves(value) != [value] or value.shape != ():
        raise ValueError(
            f"loss of task {task.name!r} must be one number, the mean over the batch; got {_shapes(value)}"
        )
    if _shapes(new_state) != _shapes(model_state):
        raise ValueError(
            f"loss of task {task.name!r} must return a model state like the one it gets, {_shapes(model_state)}; "
            f"got {_shapes(new_state)}"
        )
    metrics = jax.eval_shape(task.metrics, params, model_state, batch)
    if not isinstance(metrics, dict) or "loss" not in metrics:
        raise ValueError(f"metrics of task {task.name!r} must be a dict with the entry 'loss', got {_shapes(metrics)}")


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
