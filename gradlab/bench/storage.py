"""What `gradlab.store` saves, what it costs, and whether training notices: ``python -m gradlab.bench.storage``.

``bytes``  bytes of state for each parameter, counted in the arrays, and of the whole step as XLA plans it
``time``   a jitted, donated AdamW step against that in float32, in paired rounds
``gaps``   final losses against those in float32, over seeds that are lanes of one program

The state of float32 AdamW is two numbers of four bytes.  A step holds its arguments (parameters, state and gradients)
and temporaries; it writes over what it was given.
"""

import argparse
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from gradlab.bench.paired import Contestant, paired, ratio
from gradlab.bench.storage_gaps import STORAGES as STORAGES_OF_GAPS
from gradlab.bench.storage_gaps import Gap, gaps
from gradlab.bench.trees import Shapes, count_params, gpt2_shapes, normal, structs
from gradlab.core.storage import CODECS, Storage, with_residuals
from gradlab.core.update import apply_updates
from gradlab.optimizers import REGISTRY, adamw
from gradlab.tasks.catalogue import chars, digits_mlp

LEARNING_RATE = 1e-3
STORAGES: dict[str, Storage] = {name: name for name in CODECS} | {"int8, nu factored": {"mu": "int8", "nu": "factored"}}

TASKS = {
    "digits_mlp": (digits_mlp, {"steps": 300, "batch_size": 64}),
    "chars": (
        functools.partial(chars, max_characters=20_000, context=16, width=32, layers=1, heads=2),
        {"steps": 100, "batch_size": 16},
    ),
}
"""What gaps are measured on: a network of three layers, and a small transformer."""

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
        yield [f"adamw, {name}", *_planned(_adamw(storage), params, count)]
    low = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16), params)
    residuals = with_residuals(_adamw("int8"))
    yield ["adamw, int8, bfloat16 parameters with residuals", *_planned(residuals, low, count)]


def _planned(tx: Any, params: Any, count: int) -> Row:
    memory = compiled_step(tx, params).memory_analysis()
    sizes = (state_bytes(tx, params), memory.argument_size_in_bytes / count, memory.temp_size_in_bytes / count)
    return [f"{size:.2f}" for size in sizes]


def _adamw(storage: Storage) -> Any:
    return adamw(LEARNING_RATE, storage=storage)


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
    tx = _adamw(storage)
    params = jax.tree.map(jnp.asarray, normal(shapes, 0, 0.02))
    run, now = compiled_step(tx, params), [params, tx.init(params)]

    def turn():
        now[:] = run(tx, *now, grads)
        return now

    return Contestant(turn)


def gap_rows(found: Iterable[Gap], out: Path | None) -> Iterator[Row]:
    """The gaps as rows, each as soon as it is known, and as CSV."""
    seen = []
    for gap in found:
        seen.append({**gap._asdict(), "is_noticed": gap.is_noticed})
        if out is not None:
            pd.DataFrame(seen).to_csv(out, index=False)
        numbers = (f"{gap.learning_rate:g}", *(f"{x:.4g}" for x in (gap.exact, gap.spread, gap.loss)))
        yield [f"{gap.optimizer}, {gap.storage}", *numbers, f"{gap.gap:+.2g} ± {gap.error:.1g}", "*" * gap.is_noticed]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m gradlab.bench.storage", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["bytes", "time", "gaps"])
    parser.add_argument("--layers", type=int, default=12, help="of the GPT-2 whose shapes are timed and counted")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--task", choices=TASKS, default="digits_mlp")
    parser.add_argument("--optimizers", default="adamw", help="names with commas between them, or 'all'")
    parser.add_argument("--storages", default=",".join(STORAGES_OF_GAPS))
    parser.add_argument("--out", type=Path, help="a CSV file for the gaps")
    options = parser.parse_args(arguments)
    shapes = gpt2_shapes(layers=options.layers)
    if options.what == "bytes":
        _print(["bytes a parameter", "state", "arguments", "temporary"], bytes_rows(shapes))
    elif options.what == "time":
        _print(["", "ms a step", "without", "ratio"], time_rows(shapes, options.rounds))
    else:
        task, run = TASKS[options.task]
        names = sorted(REGISTRY) if options.optimizers == "all" else options.optimizers.split(",")
        storages = {name: STORAGES_OF_GAPS[name] for name in options.storages.split(",")}
        found = gaps(task(), {name: REGISTRY[name] for name in names}, storages, **run)
        header = [options.task, "rate", "float32", "spread", "loss", "gap", "noticed"]
        _print(header, gap_rows(found, options.out))


def _print(header: Row, rows: Iterator[Row]) -> None:
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
