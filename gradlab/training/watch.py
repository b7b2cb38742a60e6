"""Instruments in a training run: measured every few steps inside of the compiled program, in every lane of a sweep.

A `Watch` is structure: instruments and how often they look.  At a step they see the parameters before it, the gradient,
and the update that was made; what they remember from one look to the next, such as the eigenvector that the next
Lanczos iteration begins with, is part of the run's state.  The run itself does not notice.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from gradlab.tasks.task import Task

Tree = Any

LOOK = 0x100C  # what the key of a step is folded with


class Sight(NamedTuple):
    """What an instrument sees of a step."""

    loss: Callable  # (params, batch) -> scalar, the loss of this step: its model state and its noise
    params: Tree  # before the step
    grads: Tree  # of the loss there, as the optimizer got it
    update: Tree  # what the step added to the parameters
    batch: Any  # None for a task without data
    tx: optax.GradientTransformation
    opt_state: Any  # before the step
    opt_state_after: Any
    step: jax.Array  # () int32
    key: jax.Array


class Instrument(Protocol):
    """Something that looks at a step; frozen and hashable, since it belongs to the structure of the program."""

    name: str

    def start(self, params: Tree) -> Any:
        """What it remembers before it has looked: a tree of arrays, ``()`` for nothing."""

    def look(self, sight: Sight, memory: Any) -> tuple[dict[str, jax.Array], Any]:
        """What it sees, scalars by name, and what it remembers."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """The instruments of a run, and the steps between two of their looks; the first one is at step 0."""

    instruments: tuple[Instrument, ...] = ()
    every: int = 1

    def data(self) -> dict[str, Any]:
        """What it is, as JSON data."""
        shown = lambda instrument: (
            {"name": instrument.name}
            | {
                field.name: getattr(instrument, field.name)
                for field in (dataclasses.fields(instrument) if dataclasses.is_dataclass(instrument) else ())
                if isinstance(getattr(instrument, field.name), str | int | float | None)
            }
        )
        return {"every": self.every, "instruments": [shown(instrument) for instrument in self.instruments]}

    def start(self, params: Tree) -> tuple:
        """What the instruments remember before the first step."""
        return tuple(instrument.start(params) for instrument in self.instruments)

    def rows(self, length: int) -> int:
        """The most looks that a segment of so many steps can hold."""
        return -(-length // self.every) if self.instruments else 0

    def steps(self, first: int, length: int) -> range:
        """The steps of a segment at which the instruments look.

        >>> list(Watch((), every=4).steps(first=6, length=8))
        [8, 12]
        """
        return range(-(-first // self.every) * self.every, first + length, self.every)

    def look(self, sight: Sight, memory: tuple) -> tuple[dict[str, jax.Array], tuple]:
        """The numbers of all instruments by ``'<instrument>/<name>'``; NaN between the looks, which cost nothing.

        ``sight.step`` must be the same in all lanes: whether to look is a branch on it.
        """
        if not self.instruments:
            return {}, memory
        now = lambda: self._look(sight, memory)
        nothing = lambda shape: jnp.full(shape.shape, jnp.nan, shape.dtype)
        between = lambda: (jax.tree.map(nothing, jax.eval_shape(now)[0]), memory)
        return jax.lax.cond(sight.step % self.every == 0, now, between)

    def _look(self, sight: Sight, memory: tuple) -> tuple[dict[str, jax.Array], tuple]:
        numbers: dict[str, jax.Array] = {}
        kept = []
        for index, (instrument, own) in enumerate(zip(self.instruments, memory, strict=True)):
            seen, after = instrument.look(sight._replace(key=jax.random.fold_in(sight.key, index)), own)
            numbers |= {f"{instrument.name}/{name}": _number(instrument, name, x) for name, x in seen.items()}
            kept.append(after)
        return numbers, tuple(kept)


OFF = Watch()


def _number(instrument: Instrument, name: str, value: Any) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape or not (jnp.isrealobj(value)):
        raise ValueError(
            f"instrument {instrument.name!r} must give real scalars, but {name!r} is {value.dtype}{list(value.shape)}"
        )
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def sight_of(task: Task, tx: Any, before: Any, after: Any, grads: Tree, batch: Any, key: Any, step: Any) -> Sight:
    """What instruments see of a step between two runs."""
    return Sight(
        loss=Partial(_loss, task, before.model_state, key),
        params=before.params,
        grads=grads,
        update=jax.tree.map(jnp.subtract, after.params, before.params),
        batch=batch,
        tx=tx,
        opt_state=before.opt_state,
        opt_state_after=after.opt_state,
        step=step,
        key=jax.random.fold_in(key, LOOK),
    )


def _loss(task: Task, model_state: Any, key: jax.Array, params: Tree, batch: Any) -> jax.Array:
    return task.loss(params, model_state, batch, key)[0]


class Rows(NamedTuple):
    """The looks of a segment, one below the other."""

    numbers: dict[str, jax.Array]  # name -> (rows, ...); NaN where there was none

    @classmethod
    def empty(cls, watch: Watch, shapes: dict[str, jax.ShapeDtypeStruct], length: int) -> "Rows":
        """Room for the looks of a segment; ``shapes`` are those of one look."""
        return cls({name: jnp.full((watch.rows(length), *x.shape), jnp.nan, x.dtype) for name, x in shapes.items()})

    def put(self, watch: Watch, seen: dict[str, jax.Array], first: jax.Array, step: jax.Array) -> "Rows":
        """The same with what was seen at a step of the segment that begins at ``first``."""
        row = step // watch.every + -first // watch.every
        keep = lambda rows, x: rows.at[jnp.where(step % watch.every == 0, row, len(rows))].set(x, mode="drop")
        return Rows({name: keep(self.numbers[name], x) for name, x in seen.items()})
