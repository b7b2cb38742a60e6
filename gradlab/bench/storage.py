"""What `gradlab.store` saves, what it costs, and whether training notices: ``python -m gradlab.bench.storage``.

``bytes``  bytes of state for each parameter, counted in the arrays, and of the whole step as XLA plans it
``time``   a jitted, donated AdamW step against that in float32, in paired rounds
``gaps``   final losses against those in float32, over seeds that are lanes of one program

The state of float32 AdamW is two numbers of four bytes.  A step holds its arguments (parameters, state and gradients)
and temporaries; it writes over what it was given.
"""

import argparse
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.bench.paired import Contestant, paired, ratio
from gradlab.bench.trees import Shapes, count_params, gpt2_shapes, normal, structs
from gradlab.core.storage import CODECS, Storage, store, with_residuals
from gradlab.core.update import apply_updates, eval_params
from gradlab.optimizers import REGISTRY
from gradlab.tasks.task import Task

LEARNING_RATE = 1e-3
STORAGES: dict[str, Storage] = {name: name for name in CODECS} | {"int8, nu factored": {"mu": "int8", "nu": "factored"}}

Row = list[str]


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


def bytes_rows(shapes: Shapes) -> Iterator[Row]:
    """AdamW under each storage: storage, bytes of state, of the arguments of a step and of its temporaries."""
    params, count = structs(shapes), count_params(shapes)
    for name, storage in {"none": None, **STORAGES}.items():
        yield [f"adamw, {name}", *_planned(_of(REGISTRY["adamw"], storage), params, count)]
    low = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16), params)
    residuals = with_residuals(_of(REGISTRY["adamw"], "int8"))
    yield ["adamw, int8, bfloat16 parameters with residuals", *_planned(residuals, low, count)]


def _planned(tx: Any, params: Any, count: int) -> Row:
    memory = compiled_step(tx, params).memory_analysis()
    sizes = (state_bytes(tx, params), memory.argument_size_in_bytes / count, memory.temp_size_in_bytes / count)
    return [f"{size:.2f}" for size in sizes]


def _of(factory: Callable, storage: Storage) -> Any:
    """An optimizer of the registry at one learning rate where it has no default."""
    required = inspect.Parameter.empty
    missing = [p.name for p in inspect.signature(factory).parameters.values() if p.default is required]
    return factory(**{name: LEARNING_RATE for name in missing}, storage=storage)


def time_rows(shapes: Shapes, rounds: int) -> Iterator[Row]:
    """AdamW under each storage: milliseconds of a step and of one without, their ratio and its quartiles."""
    grads = jax.tree.map(jnp.asarray, normal(shapes, 1))
    for name, storage in STORAGES.items():
        pair = {"none": _training(None, shapes, grads), name: _training(storage, shapes, grads)}  # two fit in memory
        seconds = paired(pair, rounds=rounds)
        of, medians = ratio(seconds[name], seconds["none"]), [np.median(seconds[key]) * 1e3 for key in pair]
        cells = [f"{medians[1]:.1f}", f"{medians[0]:.1f}", f"{of.median:.2f} ({of.lower:.2f}-{of.upper:.2f})"]
        yield [f"adamw, {name}", *cells]


def _training(storage: Storage, shapes: Shapes, grads: Any) -> Contestant:
    tx = _of(REGISTRY["adamw"], storage)
    params = jax.tree.map(jnp.asarray, normal(shapes, 0, 0.02))
    run, now = compiled_step(tx, params), [params, tx.init(params)]

    def turn():
        now[:] = run(tx, *now, grads)
        return now

    return Contestant(turn)


def final_losses(
    task: Task,
    tx: optax.GradientTransformation,
    storage: Storage,
    *,
    seeds: int = 5,
    steps: int = 300,
    batch_size: int = 64,
) -> np.ndarray:
    """The loss on the training data after training, for each seed.

    Seeds are lanes, each with its own initial parameters, batches and rounding, the same whatever the storage.

    Args:
      task: what is trained.
      tx: an optimizer.
      storage: as for `gradlab.store`; None for the optimizer itself.
      seeds: how many.
      steps: updates.
      batch_size: examples in an update.
    """
    lanes = jax.vmap(functools.partial(_final_loss, task, tx, storage, steps, batch_size))
    return np.asarray(jax.jit(lanes)(jnp.arange(seeds)))


def _final_loss(task: Task, tx: Any, storage: Storage, steps: int, batch_size: int, seed: jax.Array) -> jax.Array:
    tx = tx if storage is None else store(tx, storage, seed=seed)
    key = jax.random.key(seed)
    params, model_state = task.init(key)
    rows = jax.tree.leaves(task.train)[0].shape[0]

    def body(carry, index):
        params, model_state, state = carry
        now = jax.random.fold_in(key, index)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[jax.random.randint(now, (batch_size,), 0, rows)], task.train)
        loss = lambda params: task.loss(params, model_state, batch, now)
        (value, model_state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        of_params = lambda params: loss(params)[0]
        updates, state = tx.update(grads, state, params, value=value, value_fn=of_params)
        return (apply_updates(params, updates), model_state, state), None

    start = (params, model_state, tx.init(params))
    (params, model_state, state), _ = jax.lax.scan(body, start, jnp.arange(steps))
    return task.metrics(eval_params(tx, state, params), model_state, task.train)["loss"]


def gap_rows(task: Task, optimizers: Sequence[str], storages: Sequence[str], **run: int) -> Iterator[Row]:
    """Optimizers under storages: the mean loss, its mean difference from float32, the spread over seeds in float32."""
    for name in optimizers:
        tx = _of(REGISTRY[name], None)
        exact = final_losses(task, tx, None, **run)
        for storage in storages:
            losses = final_losses(task, tx, storage, **run)
            gap = np.mean(losses - exact)
            cells = [f"{losses.mean():.4f}", f"{gap:+.4f}", f"{100 * gap / exact.mean():+.1f} %", f"{exact.std():.4f}"]
            yield [f"{name}, {storage}", *cells]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m gradlab.bench.storage", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["bytes", "time", "gaps"])
    parser.add_argument("--layers", type=int, default=12, help="of the GPT-2 whose shapes are timed and counted")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--task", choices=["digits_mlp", "chars"], default="digits_mlp")
    parser.add_argument("--optimizers", default="adamw", help="names with commas between them, or 'all'")
    parser.add_argument("--storages", default="bfloat16,bfloat16_stochastic,int8")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(arguments)
    shapes = gpt2_shapes(layers=options.layers)
    if options.what == "bytes":
        _print(["bytes a parameter", "state", "arguments", "temporary"], bytes_rows(shapes))
    elif options.what == "time":
        _print(["", "ms a step", "without", "ratio"], time_rows(shapes, options.rounds))
    else:
        from gradlab.tasks import TASKS

        names = sorted(REGISTRY) if options.optimizers == "all" else options.optimizers.split(",")
        rows = gap_rows(TASKS[options.task](), names, options.storages.split(","), steps=options.steps)
        _print([options.task, "loss", "gap", "", "spread"], rows)


def _print(header: Row, rows: Iterator[Row]) -> None:
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
