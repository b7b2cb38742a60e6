"""L-BFGS on Rosenbrock's function: `gradlab.minimize`, the loop that optax documents, and SciPy's L-BFGS-B.

Optax's loop is a ``while_loop`` over closures, so that every call of it traces and compiles anew: the rows about calls
time the loops as they are, the row about programs what came out of compiling them.  SciPy minimises the same function
in NumPy, with its gradient written out; its time is in the note.
"""

import functools
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.bench.paired import Contestant, paired
from gradlab.bench.rows import Case, Samples
from gradlab.optimizers.lbfgs import lbfgs
from gradlab.training.minimize import minimize

SIZE, MAX_STEPS, TOL = 100, 1000, 1e-3

GOALS = {  # largest ratio gradlab / optax
    "minimize/first-call": 1.0,
    "minimize/next-call": 1 / 3,
    "minimize/program": 1.2,
}


def rosenbrock(x: Any) -> Any:
    """The chained valley of Rosenbrock, for jax and for NumPy."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def start(size: int = SIZE, shift: float = 0.0) -> np.ndarray:
    """The customary start, moved a little so that calls differ."""
    return (np.tile([-1.2, 1.0], size // 2) + shift).astype(np.float32)


def gradlab_call(x: np.ndarray) -> Any:
    found = minimize(rosenbrock, x, lbfgs(), max_steps=MAX_STEPS, tol=TOL)
    return found.params, found.steps


def optax_call(x: np.ndarray) -> Any:
    """Written after the example in optax's documentation of L-BFGS."""
    tx = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(rosenbrock)

    def step(carry):
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
        return optax.apply_updates(params, updates), state

    def unfinished(carry):
        count, grad = optax.tree.get(carry[1], "count"), optax.tree.get(carry[1], "grad")
        return (count == 0) | ((count < MAX_STEPS) & (optax.tree.norm(grad) >= TOL))

    params = jnp.asarray(x)
    params, state = jax.lax.while_loop(unfinished, step, (params, tx.init(params)))
    return params, optax.tree.get(state, "count")


CALLS = {"gradlab": gradlab_call, "optax": optax_call}


def minimize_cases(size: int = SIZE) -> list[Case]:
    """The rows: a first call, a call after others, and the compiled program alone."""
    what = f"L-BFGS on Rosenbrock in {size} dimensions"
    case = lambda name, what, measure, **options: Case(
        f"minimize/{name}", what, "s", functools.partial(measure, size), GOALS[f"minimize/{name}"], **options
    )
    return [
        case("first-call", f"{what}, jax's caches empty", _time_first_calls, most_rounds=5),
        case("next-call", f"{what}, from another start after a first call", _time_next_calls, most_rounds=5),
        case("program", f"{what}, compiled before", _time_programs),
    ]


def _time_first_calls(size: int, rounds: int) -> Samples:
    def contestant(call: Callable) -> Contestant:
        def prepare():
            jax.clear_caches()
            return (start(size),)

        return Contestant(call, prepare)

    return _race(contestant, rounds)


def _time_next_calls(size: int, rounds: int) -> Samples:
    def contestant(call: Callable) -> Contestant:
        shifts = itertools.count(0.01, 0.01)
        return Contestant(call, lambda: (start(size, next(shifts)),))

    return _race(contestant, rounds)


def _time_programs(size: int, rounds: int) -> Samples:
    def contestant(call: Callable) -> Contestant:
        compiled = jax.jit(call).lower(start(size)).compile()
        return Contestant(compiled, lambda: (jnp.asarray(start(size)),))

    return _race(contestant, rounds, **_scipy(size))


def _race(contestant: Callable[[Callable], Contestant], rounds: int, **peers: Contestant) -> Samples:
    return paired({name: contestant(call) for name, call in CALLS.items()} | peers, rounds=rounds)


def _scipy(size: int) -> dict[str, Contestant]:
    if importlib.util.find_spec("scipy") is None:
        return {}
    from scipy.optimize import minimize as scipy_minimize

    run = functools.partial(scipy_minimize, value_and_grad, start(size).astype(float), jac=True, method="L-BFGS-B")
    return {"scipy": Contestant(lambda: run(options={"maxiter": MAX_STEPS}))}


def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
    """`rosenbrock` and its gradient in NumPy."""
    rise, rest = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    grad = np.zeros_like(x)
    grad[1:] += 200 * rise
    grad[:-1] -= 400 * x[:-1] * rise + 2 * rest
    return np.sum(100 * rise**2 + rest**2), grad
