"""Rows about one optimizer: traces, trace and compile time, eager updates, steps, bytes and kernels, import."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from gradlab.bench.contestants import BUCKETS, FLAT, LIBRARIES, Library, trainings
from gradlab.bench.paired import Contestant, paired
from gradlab.bench.programs import fusions, planned_bytes
from gradlab.bench.rows import Case, Samples
from gradlab.bench.trees import Shapes, count_leaves, count_params, structs

TRACE_LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)

GOALS = {  # largest ratio gradlab / optax
    "traces": 1 / 5,
    "trace-first": 1 / 3,
    "trace-again": 1 / 3,
    "eager": 1 / 15,
    "step": 1.03,
    "clip-step": 0.55,
    "flat-step": 0.6,
    "bucket-step": 0.6,
    "import": 1.1,
}


def optimizer_cases(trees: Mapping[str, Shapes]) -> list[Case]:
    """The rows for each tree, and that of the import."""
    return [case for name, shapes in trees.items() for case in _tree_cases(name, shapes)] + [_import_case()]


def _tree_cases(name: str, shapes: Shapes) -> list[Case]:
    size = f"{count_leaves(shapes)} leaves, {count_params(shapes) / 1e6:.4g} M parameters"
    of_tree = lambda measure, **options: functools.partial(measure, shapes, **options)

    def case(kind: str, what: str, measure: Callable, unit: str = "s", **options: Any) -> Case:
        return Case(f"{kind}/{name}", f"{what}; {size}", unit, measure, GOALS.get(kind), **options)

    eager = case("eager", "adamw update outside of jit; torch: its step", of_tree(_time_eager))
    flat = case("flat-step", "step of adamw with its averages in one vector", of_tree(_time_step, libraries=FLAT))
    buckets = case("bucket-step", "step of adamw on buckets, gradients a tree", of_tree(_time_step, libraries=BUCKETS))
    cases = [
        case("traces", "traces of adamw for 5 learning rates", of_tree(_count_traces), "traces"),
        case("trace-first", "trace of adamw, jax's caches empty", of_tree(_time_trace, clear_caches=True)),
        case("trace-again", "trace of adamw again, in a new function", of_tree(_time_trace, clear_caches=False)),
        case("compile", "lowering and compiling of an adamw step", of_tree(_time_compile), most_rounds=3),
        *([eager, flat, buckets] if is_small(shapes) else []),
    ]
    for kind, what, clip in (("step", "adamw", False), ("clip-step", "clip_by_global_norm + adamw", True)):
        count = functools.partial(_count_in_program, functools.cache(of_tree(_compiled_step, clip=clip)))
        cases += [
            case(kind, f"step of {what}, jitted and donated", of_tree(_time_step, clip=clip)),
            case(f"{kind}-bytes", f"memory of that step of {what}", functools.partial(count, planned_bytes), "bytes"),
            case(f"{kind}-kernels", f"fusions of that step of {what}", functools.partial(count, fusions), "kernels"),
        ]
    return cases


def is_small(shapes: Shapes) -> bool:
    """Whether dispatch outweighs arithmetic: less than 100 000 parameters a leaf on average."""
    return count_params(shapes) < 100_000 * count_leaves(shapes)


def _abstract(library: Library, shapes: Shapes, clip: bool = False) -> tuple[Any, Any, Any]:
    tx, params = library.optimizer(clip), structs(shapes)
    return tx, params, jax.eval_shape(tx.init, params)


def _count_traces(shapes: Shapes, rounds: int) -> Samples:
    del rounds
    return {name: [float(traces(library, shapes))] for name, library in LIBRARIES.items()}


def traces(library: Library, shapes: Shapes) -> int:
    """How often jax traces a function of the optimizer that sees 5 learning rates one after another."""
    count = 0

    def update(tx, grads, state, params):
        nonlocal count
        count += 1
        return tx.update(grads, state, params)

    jitted = jax.jit(update, static_argnums=library.static_argnums)
    params = structs(shapes)
    for learning_rate in TRACE_LEARNING_RATES:
        tx = library.optimizer(learning_rate=learning_rate)
        jitted.trace(tx, params, jax.eval_shape(tx.init, params), params)
    return count


def _time_trace(shapes: Shapes, rounds: int, *, clear_caches: bool) -> Samples:
    def contestant(library: Library) -> Contestant:
        tx, params, state = _abstract(library, shapes)

        def prepare():
            if clear_caches:
                jax.clear_caches()
            return (library.jitted_update(),)

        return Contestant(lambda jitted: jitted.trace(tx, params, state, params), prepare)

    return _race(contestant, rounds)


def _time_compile(shapes: Shapes, rounds: int) -> Samples:
    def contestant(library: Library) -> Contestant:
        tx, params, state = _abstract(library, shapes)
        prepare = lambda: (library.jitted_step().trace(tx, params, state, params),)
        return Contestant(lambda traced: traced.lower().compile(), prepare)

    return _race(contestant, rounds)


def _race(contestant: Callable[[Library], Contestant], rounds: int) -> Samples:
    return paired({name: contestant(library) for name, library in LIBRARIES.items()}, rounds=rounds)


def _time_eager(shapes: Shapes, rounds: int) -> Samples:
    contestants = {name: Contestant(training.update) for name, training in trainings(shapes, clip=False).items()}
    return paired(contestants, rounds=rounds)


def _time_step(
    shapes: Shapes, rounds: int, *, clip: bool = False, libraries: Mapping[str, Library] = LIBRARIES
) -> Samples:
    contestants = {name: Contestant(training.step) for name, training in trainings(shapes, clip, libraries).items()}
    return paired(contestants, rounds=rounds)


def _compiled_step(shapes: Shapes, library: Library, *, clip: bool) -> jax.stages.Compiled:
    tx, params, state = _abstract(library, shapes, clip)
    return library.jitted_step().lower(tx, params, state, params).compile()


def _count_in_program(
    compiled: Callable[[Library], jax.stages.Compiled], count: Callable[[jax.stages.Compiled], int], rounds: int
) -> Samples:
    del rounds
    return {name: [float(count(compiled(library)))] for name, library in LIBRARIES.items()}


def _import_case() -> Case:
    return Case("import", "import in a new interpreter", "s", _time_import, GOALS["import"], most_rounds=7)


def _time_import(rounds: int) -> Samples:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    contestant = lambda name: Contestant(
        functools.partial(subprocess.run, [sys.executable, "-c", f"import {name}"], check=True, env=environment)
    )
    return paired({name: contestant(name) for name in LIBRARIES}, rounds=rounds)
