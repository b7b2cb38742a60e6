"""Rows for every optimizer of the registry that Optax has too: its step, its first trace, its plan of memory."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from optax import contrib

from gradlab.bench.paired import Contestant, paired
from gradlab.bench.programs import planned_bytes
from gradlab.bench.rows import Case, Samples
from gradlab.bench.trees import Shapes, normal, structs
from gradlab.core.update import apply_updates
from gradlab.optimizers import REGISTRY, adamw
from gradlab.transforms import multi_steps

GOALS = {"step-of": 1.05, "trace-of": 0.6}  # largest ratio gradlab / optax
BYTES_GOALS = {"multi_steps": 0.99}
LEARNING_RATE = 1e-3
ACCUMULATED = 4  # mini-steps to a step
NEEDS_A_FUNCTION = {"lbfgs", "sophia"}  # their step evaluates the loss, whose cost is not theirs


def counterpart(name: str) -> Callable | None:
    """Optax's factory of a name, or None."""
    return getattr(optax, name, None) or getattr(contrib, name, None)


def registry_cases(shapes: Shapes) -> list[Case]:
    """Three rows for each optimizer that both libraries have, and for accumulation around AdamW."""
    names = [name for name in REGISTRY if counterpart(name) and name not in NEEDS_A_FUNCTION]
    makers = {name: {"gradlab": _maker(REGISTRY[name]), "optax": _maker(counterpart(name))} for name in names}
    makers["multi_steps"] = {"gradlab": _accumulating, "optax": _accumulating_in_optax}
    return [case for name, pair in makers.items() for case in _cases_of(name, pair, shapes)]


def _accumulating() -> optax.GradientTransformation:
    return multi_steps(adamw(LEARNING_RATE), ACCUMULATED)


def _accumulating_in_optax() -> optax.GradientTransformation:
    return optax.MultiSteps(optax.adamw(LEARNING_RATE), ACCUMULATED).gradient_transformation()


def _cases_of(name: str, makers: dict[str, Callable], shapes: Shapes) -> Iterator[Case]:
    of = functools.partial(functools.partial, shapes=shapes, makers=makers)
    where = f"148 leaves of width 64: {name}" if len(jax.tree.leaves(structs(shapes))) == 148 else name
    yield Case(f"step-of/{name}", f"jitted and donated step, {where}", "s", of(_time_step), GOALS["step-of"])
    yield Case(
        f"trace-of/{name}", f"trace of it, jax's caches empty, {where}", "s", of(_time_trace), GOALS["trace-of"], 7
    )
    yield Case(f"bytes-of/{name}", f"memory of it, {where}", "bytes", of(_count_bytes), BYTES_GOALS.get(name))


def _maker(factory: Callable) -> Callable[[], optax.GradientTransformation]:
    """The factory at its defaults, and at one learning rate where it has none."""
    required = inspect.Parameter.empty
    missing = [p.name for p in inspect.signature(factory).parameters.values() if p.default is required]
    values = {name: LEARNING_RATE for name in missing}
    return lambda: optax.with_extra_args_support(factory(**values))


def jitted(tx: optax.GradientTransformation, *, donate: bool) -> Any:
    """A function that jax has not seen; gradlab's optimizer is an argument of it, Optax's a constant."""
    is_value = isinstance(tx.update, Partial)
    apply = apply_updates if is_value else optax.apply_updates

    def step(tx, params, state, grads, value):
        updates, state = tx.update(grads, state, params, value=value)
        return apply(params, updates), state

    return jax.jit(step, static_argnums=() if is_value else (0,), donate_argnums=(1, 2) if donate else ())


def _time_step(rounds: int, *, shapes: Shapes, makers: dict[str, Callable]) -> Samples:
    return paired({name: Contestant(training(make(), shapes)) for name, make in makers.items()}, rounds=rounds)


def training(tx: optax.GradientTransformation, shapes: Shapes) -> Callable[[], Any]:
    """A function that moves parameters by one step along gradients that stay the same."""
    params = jax.tree.map(jnp.asarray, normal(shapes, seed=0, scale=0.02))
    grads = jax.tree.map(jnp.asarray, normal(shapes, seed=1))
    state, step, value = jax.jit(tx.init)(params), jitted(tx, donate=True), jnp.float32(1.0)

    def move():
        nonlocal params, state
        params, state = step(tx, params, state, grads, value)
        return params

    return move


def abstract(tx: optax.GradientTransformation, shapes: Shapes) -> tuple:
    """The arguments of that function as shapes and dtypes."""
    params = structs(shapes)
    return tx, params, jax.eval_shape(tx.init, params), params, jax.ShapeDtypeStruct((), jnp.float32)


def _time_trace(rounds: int, *, shapes: Shapes, makers: dict[str, Callable]) -> Samples:
    def contestant(make):
        arguments = abstract(make(), shapes)

        def prepare():
            jax.clear_caches()
            return (jitted(arguments[0], donate=False),)

        return Contestant(lambda fresh: fresh.trace(*arguments), prepare)

    return paired({name: contestant(make) for name, make in makers.items()}, rounds=rounds)


def _count_bytes(rounds: int, *, shapes: Shapes, makers: dict[str, Callable]) -> Samples:
    del rounds
    compiled = lambda tx: jitted(tx, donate=True).lower(*abstract(tx, shapes)).compile()
    return {name: [float(planned_bytes(compiled(make())))] for name, make in makers.items()}
