"""Rows about a device: a step beside a copy of the bytes that it has to move, and the kernels of its program.

An elementwise optimizer reads parameters, gradients and slots and writes parameters and slots; a device that did
nothing else would need as long as for copying half of these bytes.  The note has that time: ``copy / gradlab`` is the
part of the device's bandwidth that a step reaches.  Optimizers for matrices are bound by products instead.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.bench.contestants import LEARNING_RATE, MAX_NORM
from gradlab.bench.paired import Contestant, paired
from gradlab.bench.programs import fusions
from gradlab.bench.registry_cases import abstract, jitted, training
from gradlab.bench.rows import Case, Samples
from gradlab.bench.trees import WIDTH_64, Shapes, count_leaves, count_params, gpt2_shapes, structs
from gradlab.core.compose import chain
from gradlab.core.transform import from_optax
from gradlab.optimizers import adamw, flax_matrices, lion, muon, soap
from gradlab.transforms.clip import clip_by_global_norm

Make = Callable[[], optax.GradientTransformation]

OPTIMIZERS: dict[str, tuple[str, Make, Make]] = {
    "adamw": ("adamw", lambda: adamw(LEARNING_RATE), lambda: optax.adamw(LEARNING_RATE)),
    "clip-adamw": (
        "clip_by_global_norm + adamw",
        lambda: chain(clip_by_global_norm(MAX_NORM), adamw(LEARNING_RATE)),
        lambda: optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adamw(LEARNING_RATE)),
    ),
    "lion": ("lion", lambda: lion(LEARNING_RATE), lambda: optax.lion(LEARNING_RATE)),
    "int8-adamw": (
        "adamw with 8-bit slots; optax: its adamw",
        lambda: adamw(LEARNING_RATE, storage="int8"),
        lambda: optax.adamw(LEARNING_RATE),
    ),
    "muon": (
        "muon, embeddings left to adamw; optax: its muon, for all matrices",
        lambda: muon(LEARNING_RATE, muon_weight_dimension_numbers=flax_matrices("wte", "wpe")),
        lambda: optax.contrib.muon(LEARNING_RATE),
    ),
    "soap": (
        "soap; optax: its adamw",
        lambda: soap(LEARNING_RATE, weight_dimension_numbers=flax_matrices("wte", "wpe")),
        lambda: optax.adamw(LEARNING_RATE),
    ),
}
ON_A_CPU: dict[str, Shapes] = {"width-64": WIDTH_64}
ON_AN_ACCELERATOR: dict[str, Shapes] = {"gpt2-small": gpt2_shapes(), "gpt2-xl": gpt2_shapes(width=1600, layers=48)}
AT_MOST = 1.03  # of the time of optax


def device_cases(platform: str, trees: Mapping[str, Shapes] | None = None) -> list[Case]:
    """The rows; trees of the size of GPT-2 on accelerators only.

    Args:
      platform: of jax, as ``'cpu'``.
      trees: shapes of the parameters by name; what suits the platform if None.
    """
    trees = trees if trees is not None else ON_A_CPU if platform == "cpu" else ON_AN_ACCELERATOR
    return [case for name, shapes in trees.items() for case in _tree_cases(name, shapes)]


def _tree_cases(name: str, shapes: Shapes) -> list[Case]:
    size = f"{count_leaves(shapes)} leaves, {count_params(shapes) / 1e6:.4g} M parameters"
    cases = []
    for optimizer, (what, ours, theirs) in OPTIMIZERS.items():
        makers = {"gradlab": ours, "optax": theirs}
        step = functools.partial(_time_step, shapes=shapes, makers=makers)
        count = functools.partial(_count_kernels, shapes=shapes, makers=makers)
        same = not what.endswith("its adamw")
        place = f"{optimizer}/{name}"
        cases += [
            Case(f"device-step/{place}", f"step of {what}; {size}", "s", step, AT_MOST if same else None),
            Case(f"device-kernels/{place}", f"fusions of that step of {what}", "kernels", count),
        ]
    return cases


def moved_bytes(tx: optax.GradientTransformation, shapes: Shapes) -> int:
    """What a step has to read and write: parameters and state both ways, gradients once.

    >>> moved_bytes(optax.sgd(0.1, momentum=0.9), {'w': (10, 10)})
    2000
    """
    params = structs(shapes)
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return 3 * size(params) + 2 * size(jax.eval_shape(from_optax(tx).init, params))


@jax.jit
def _copied(x: jax.Array) -> jax.Array:
    return x + 1


def _time_step(rounds: int, *, shapes: Shapes, makers: Mapping[str, Make]) -> Samples:
    contestants = {name: Contestant(training(make(), shapes)) for name, make in makers.items()}
    half = jnp.zeros(max(moved_bytes(makers["gradlab"](), shapes) // 8, 1), jnp.float32)
    return paired({**contestants, "copy": Contestant(lambda: _copied(half))}, rounds=rounds)


def _count_kernels(rounds: int, *, shapes: Shapes, makers: Mapping[str, Make]) -> Samples:
    del rounds
    compiled = lambda tx: jitted(tx, donate=True).lower(*abstract(tx, shapes)).compile()
    adopt: Callable[[Any], Any] = optax.with_extra_args_support
    return {name: [float(fusions(compiled(adopt(make()))))] for name, make in makers.items()}
