"""What `gradlab.store` saves and what it costs: bytes as XLA plans them, and seconds in paired rounds.

The state of float32 AdamW is two numbers of four bytes.  A step holds its arguments (parameters, state and gradients)
and temporaries; it writes over what it was given.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.bench.paired import Contestant, Ratio, paired, ratio
from gradlab.bench.trees import Shapes, count_params, normal, structs
from gradlab.core.storage import CODECS, Storage, with_residuals
from gradlab.core.update import apply_updates
from gradlab.optimizers import adamw

LEARNING_RATE = 1e-3
STORAGES: dict[str, Storage] = {name: name for name in CODECS} | {"int8, nu factored": {"mu": "int8", "nu": "factored"}}


class BytesRow(NamedTuple):
    """Of one kind of training, for each parameter."""

    what: str
    state: float  # counted in the arrays
    arguments: float  # parameters, state and gradients
    temporary: float  # what XLA plans besides when parameters and state are donated


class TimeRow(NamedTuple):
    """A jitted, donated step with a storage, and without."""

    what: str
    seconds: float
    without: float
    ratio: Ratio


def state_bytes(tx: optax.GradientTransformation, params: Any) -> float:
    """Bytes of state for each parameter; ``params`` may be shapes.

    >>> import gradlab
    >>> params = {'w': jax.ShapeDtypeStruct((768, 3072), 'float32')}
    >>> [round(state_bytes(gradlab.adamw(1e-3, storage=how), params), 2) for how in (None, 'bfloat16', 'int8')]
    [8.0, 4.0, 2.06]
    """
    state = jax.eval_shape(tx.init, params)
    return _bytes(state) / sum(leaf.size for leaf in jax.tree.leaves(params))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def step(tx: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    """One update.  What is donated is in the order of what is returned: JAX pairs buffers so, and XLA need not copy."""
    updates, state = tx.update(grads, state, params)
    return apply_updates(params, updates), state


def compiled_step(tx: Any, params: Any) -> jax.stages.Compiled:
    """The step for arrays of these shapes, with parameters and state donated."""
    lowered = jax.jit(step, donate_argnums=(1, 2)).lower(tx, params, jax.eval_shape(tx.init, params), params)
    return lowered.compile()


def bytes_rows(shapes: Shapes) -> Iterator[BytesRow]:
    """AdamW without and with each storage, and with parameters in bfloat16."""
    params, count = structs(shapes), count_params(shapes)
    for name, storage in {"none": None, **STORAGES}.items():
        yield _planned(f"adamw, {name}", _adamw(storage), params, count)
    low = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16), params)
    yield _planned("adamw, int8, bfloat16 parameters with residuals", with_residuals(_adamw("int8")), low, count)


def _planned(what: str, tx: Any, params: Any, count: int) -> BytesRow:
    memory = compiled_step(tx, params).memory_analysis()
    sizes = (memory.argument_size_in_bytes / count, memory.temp_size_in_bytes / count)
    return BytesRow(what, state_bytes(tx, params), *sizes)


def _adamw(storage: Storage) -> Any:
    return adamw(LEARNING_RATE, storage=storage)


def time_rows(shapes: Shapes, rounds: int) -> Iterator[TimeRow]:
    """AdamW with each storage."""
    grads = jax.tree.map(jnp.asarray, normal(shapes, 1))
    for name, storage in STORAGES.items():
        pair = {"none": _training(None, shapes, grads), name: _training(storage, shapes, grads)}  # two fit in memory
        seconds = paired(pair, rounds=rounds)
        medians = (float(np.median(seconds[key])) for key in (name, "none"))
        yield TimeRow(f"adamw, {name}", *medians, ratio(seconds[name], seconds["none"]))


def _training(storage: Storage, shapes: Shapes, grads: Any) -> Contestant:
    tx = _adamw(storage)
    params = jax.tree.map(jnp.asarray, normal(shapes, 0, 0.02))
    run, now = compiled_step(tx, params), [params, tx.init(params)]

    def turn():
        now[:] = run(tx, *now, grads)
        return now

    return Contestant(turn)
