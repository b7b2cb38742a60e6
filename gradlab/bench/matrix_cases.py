"""Rows of the optimizers for matrices: Muon against Optax, groups against a program a leaf, costs in steps of AdamW."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax
from optax import contrib
from optax.contrib import MuonDimensionNumbers

from gradlab.bench.paired import Contestant, paired
from gradlab.bench.programs import planned_bytes
from gradlab.bench.registry_cases import abstract, jitted, training
from gradlab.bench.rows import Case, Samples
from gradlab.bench.trees import Shapes
from gradlab.optimizers import REGISTRY, muon

GOALS = {"muon-compile": 0.5, "muon-step": 0.5, "muon-bytes": 1.0, "grouped-compile": 0.4}
LEARNING_RATE = 1e-3
MATRIX_OPTIMIZERS = (
    "muon",
    "normuon",
    "adamuon",
    "muon_squared",
    "scion",
    "dion",
    "soap",
    "kl_shampoo",
    "kl_soap",
    "soap_muon",
    "shampoo",
    "splus",
    "psgd_kron",
    "galore",
    "fira",
    "apollo",
)
GROUPED = ("soap", "shampoo")
PERIOD = 10  # steps of a timed round, among them one that refreshes the bases of SOAP and Shampoo

Makers = dict[str, Callable[[], optax.GradientTransformation]]


def matrix_cases(trees: Mapping[str, Shapes], small: Shapes) -> list[Case]:
    """Muon's rows for the first two trees, the others for the small one."""
    muon_rows = [case for name in list(trees)[:2] for case in _muon_cases(name, trees[name])]
    return muon_rows + list(_grouped_cases(small)) + list(_cost_cases(small))


def blocks(params: Any) -> Any:
    """The kernels of a GPT-2's blocks, by Optax's layout: embeddings and vectors go to AdamW."""
    layout = lambda path, p: MuonDimensionNumbers() if len(path) > 1 and p.ndim == 2 else None
    return jax.tree_util.tree_map_with_path(layout, params)


def _muon_cases(name: str, shapes: Shapes) -> Iterator[Case]:
    options = {"muon_weight_dimension_numbers": blocks}
    makers = {
        "gradlab": lambda: muon(LEARNING_RATE, **options),
        "optax": lambda: contrib.muon(LEARNING_RATE, **options),
    }
    of = functools.partial(functools.partial, shapes=shapes, makers=makers)

    def case(kind: str, what: str, unit: str, measure: Callable, most: int | None = None) -> Case:
        return Case(f"{kind}/{name}", f"{what} of muon on the matrices of the blocks", unit, measure, GOALS[kind], most)

    yield case("muon-compile", "lowering and compiling a step", "s", of(_time_compile), 3)
    yield case("muon-step", "jitted and donated step", "s", of(_time_steps, steps=1), 5)
    yield case("muon-bytes", "memory of that step", "bytes", of(_count_bytes))
    makers = {**makers, "gradlab": lambda: muon(LEARNING_RATE, spectral_map="newton_schulz_bf16", **options)}
    narrow = functools.partial(_time_steps, shapes=shapes, makers=makers, steps=1)
    what, note = "jitted and donated step of muon", "iterates in bfloat16, as torch does; optax in float32"
    yield Case(f"muon-bf16-step/{name}", what, "s", narrow, most_rounds=5, note=note)


def _grouped_cases(shapes: Shapes) -> Iterator[Case]:
    for name in GROUPED:
        makers = {"gradlab": _maker(name), "optax": _maker(name, strategy="leaf")}
        what = f"lowering and compiling a step of {name}, a program a shape"
        measure = functools.partial(_time_compile, shapes=shapes, makers=makers)
        note = "no counterpart in optax: in its column the same rule with a program a leaf"
        yield Case(f"grouped-compile/{name}", what, "s", measure, GOALS["grouped-compile"], 3, note)


def _cost_cases(shapes: Shapes) -> Iterator[Case]:
    for name in MATRIX_OPTIMIZERS:
        makers = {"gradlab": _maker(name), "optax": lambda: optax.adamw(LEARNING_RATE)}
        measure = functools.partial(_time_steps, shapes=shapes, makers=makers, steps=PERIOD)
        what = f"{PERIOD} jitted and donated steps of {name}, of adamw in optax's column"
        yield Case(f"cost/{name}", what, "s", measure, most_rounds=5)


def _maker(name: str, **options: Any) -> Callable[[], optax.GradientTransformation]:
    return lambda: REGISTRY[name](LEARNING_RATE, **options)


def _time_compile(rounds: int, *, shapes: Shapes, makers: Makers) -> Samples:
    def contestant(make: Callable) -> Contestant:
        arguments = abstract(optax.with_extra_args_support(make()), shapes)
        prepare = lambda: (jitted(arguments[0], donate=True).trace(*arguments),)
        return Contestant(lambda traced: traced.lower().compile(), prepare)

    return paired({name: contestant(make) for name, make in makers.items()}, rounds=rounds)


def _time_steps(rounds: int, *, shapes: Shapes, makers: Makers, steps: int) -> Samples:
    def contestant(make: Callable) -> Contestant:
        move = training(optax.with_extra_args_support(make()), shapes)
        return Contestant(lambda: [move() for _ in range(steps)][-1])

    return paired({name: contestant(make) for name, make in makers.items()}, rounds=rounds)


def _count_bytes(rounds: int, *, shapes: Shapes, makers: Makers) -> Samples:
    del rounds

    def count(make: Callable) -> float:
        tx = optax.with_extra_args_support(make())
        return float(planned_bytes(jitted(tx, donate=True).lower(*abstract(tx, shapes)).compile()))

    return {name: [count(make)] for name, make in makers.items()}
