"""Rows of what each instrument costs, in gradients of the same batch.

The costs that are stated count a Hessian-vector product as 2 to 4 gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import gradlab.optimizers as optimizers
from gradlab.bench.instrument_problem import Problem, Problems, cross_entropies
from gradlab.bench.instrument_rows import InstrumentCase, Pair
from gradlab.bench.paired import Contestant, paired
from gradlab.instruments import (
    extreme,
    fisher,
    gauge,
    ggn,
    health,
    hessian,
    noise,
    random_directions,
    saddle_report,
    slq,
    step_probe,
    threshold,
    two_batch,
)

RATE = 1e-3
COLD, WARM = 32, 8  # products of a gauge
PROBE = 50  # products of the spectrum's probe
CHUNK = 32  # gradients of examples at once
LOOPED = 8  # gradients in a loop
FEW = 5  # rounds of what takes long

HVP_AT_MOST = 1.1  # goal: a product against ``jvp(grad)``

Call = tuple[Callable, tuple]  # a function and its arguments


def cost_cases(problems: Problems) -> list[InstrumentCase]:
    """The rows of the perceptron, and two of the convolutional network."""

    def case(name: str, what: str, call: Callable[[Problem], Call], stated: str, **options: Any) -> InstrumentCase:
        measure = functools.partial(_against_a_gradient, problems.mlp, call)
        return InstrumentCase(f"cost/{name}", what, "a gradient", measure, stated=stated, **options)

    long = {"most_rounds": FEW}
    bare = [
        InstrumentCase(
            f"jvp/{name}",
            f"product with the Hessian of the {name}",
            "jvp(grad)",
            functools.partial(_against_jvp, make_problem),
            stated="1",
            at_most=HVP_AT_MOST,
        )
        for name, make_problem in (("mlp", problems.mlp), ("cnn", problems.cnn))
    ]
    in_a_loop = [
        InstrumentCase(
            f"loop/{name}",
            f"a gradient of the {name} within a compiled loop, as most instruments take theirs",
            "a gradient",
            functools.partial(_against_a_gradient, make_problem, _looped),
            stated=f"{LOOPED}",
            most_rounds=FEW,
        )
        for name, make_problem in (("mlp", problems.mlp), ("cnn", problems.cnn))
    ]
    return bare + [
        case("hessian", "product with the Hessian", _hessian, "2 to 4"),
        case("ggn", "product with the Gauss-Newton matrix", _ggn, "2 to 4"),
        case("fisher", "product with the empirical Fisher matrix", _fisher, "2 to 4"),
        case("step-probe", "step_probe: expected and actual change of the loss", _step_probe, "4 to 7"),
        case("gauge-cold", f"gauge from a random start, {COLD} products", _gauge_cold, "64 to 128", **long),
        case(
            "gauge-warm", f"gauge from the vector of the step before, {WARM} products", _gauge_warm, "16 to 32", **long
        ),
        case("two-batch", "two_batch: |G|^2 and tr(Sigma) from two halves", _two_batch, "1"),
        case("noise", "noise: all statistics from the gradient of each example", _noise, "3 to 5", **long),
        case("slq", f"slq, one probe of {PROBE} products", _slq, "100 to 200", **long),
        case("saddle-report", f"saddle_report, two Krylov spaces of {COLD} products", _saddle, "128 to 256", **long),
        case("health", "health: sizes of parameters, gradients and updates", _health, "about 0"),
        *in_a_loop,
    ]


def _against_a_gradient(make_problem: Callable[[], Problem], call: Callable[[Problem], Call], rounds: int) -> Pair:
    problem = make_problem()
    grad = jax.jit(jax.grad(problem.loss))
    return _raced(call(problem), (grad, (problem.params, problem.batch)), rounds)


def _against_jvp(make_problem: Callable[[], Problem], rounds: int) -> Pair:
    problem = make_problem()
    params, batch = problem.params, problem.batch

    @jax.jit
    def bare(params, batch, vector):
        return jax.jvp(lambda p: jax.grad(problem.loss)(p, batch), (params,), (vector,))[1]

    return _raced(_hessian(problem), (bare, (params, batch, _vector(problem))), rounds)


def _raced(ours: Call, other: Call, rounds: int) -> Pair:
    run = lambda call: Contestant(lambda: call[0](*call[1]))
    seconds = paired({"ours": run(ours), "other": run(other)}, rounds=rounds, warmup=2)
    return seconds["ours"], seconds["other"]


def _looped(problem: Problem) -> Call:
    """Steps of gradient descent in one program."""

    def descend(params, batch):
        step = lambda params, _: (
            jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(problem.loss)(params, batch)),
            None,
        )
        return jax.lax.scan(step, params, length=LOOPED)[0]

    return jax.jit(descend), (problem.params, problem.batch)


def _vector(problem: Problem) -> Any:
    directions = random_directions(jax.random.key(1), problem.params, count=1, scale="none", biases=True)
    return jax.tree.map(lambda d: d[0], directions)


def _gradient(problem: Problem) -> Any:
    return jax.jit(jax.grad(problem.loss))(problem.params, problem.batch)


def _product(problem: Problem, operator: Callable) -> Call:
    product = jax.jit(lambda params, batch, vector: operator(params, batch)(vector))
    return product, (problem.params, problem.batch, _vector(problem))


def _hessian(problem: Problem) -> Call:
    return _product(problem, lambda params, batch: hessian(problem.loss, params, batch))


def _ggn(problem: Problem) -> Call:
    out_loss = lambda outputs, batch: jnp.mean(cross_entropies(outputs, batch))
    return _product(problem, lambda params, batch: ggn(problem.outputs, out_loss, params, batch))


def _fisher(problem: Problem) -> Call:
    return _product(problem, lambda params, batch: fisher(problem.losses, params, batch))


def _step_probe(problem: Problem) -> Call:
    probe = jax.jit(lambda params, batch, update: step_probe(problem.loss, params, batch, update, RATE))
    update = jax.tree.map(lambda g: -RATE * g, _gradient(problem))
    return probe, (problem.params, problem.batch, update)


def _gauge_of(problem: Problem, products: int) -> Callable:
    def measure(params, batch, grads, v0):
        op = hessian(problem.loss, params, batch)
        return gauge(op, grads, threshold("gd", RATE), jax.random.key(2), m=products, v0=v0)

    return jax.jit(measure)


def _gauge_cold(problem: Problem) -> Call:
    return _gauge_of(problem, COLD), (problem.params, problem.batch, _gradient(problem), None)


def _gauge_warm(problem: Problem) -> Call:
    known = extreme(hessian(problem.loss, problem.params, problem.batch), jax.random.key(3), m=COLD)
    return _gauge_of(problem, WARM), (problem.params, problem.batch, _gradient(problem), known)


def _two_batch(problem: Problem) -> Call:
    return jax.jit(lambda params, batch: two_batch(problem.loss, params, batch)), (problem.params, problem.batch)


def _noise(problem: Problem) -> Call:
    measure = jax.jit(lambda params, batch: noise(problem.losses, params, batch, chunk=CHUNK))
    return measure, (problem.params, problem.batch)


def _slq(problem: Problem) -> Call:
    def measure(params, batch, key):
        return slq(hessian(problem.loss, params, batch), key, probes=1, m=PROBE)

    return jax.jit(measure), (problem.params, problem.batch, jax.random.key(4))


def _saddle(problem: Problem) -> Call:
    def measure(params, batch, grads):
        step = jax.tree.map(lambda g: -RATE * g, grads)
        return saddle_report(hessian(problem.loss, params, batch), grads, step, m=COLD)

    return jax.jit(measure), (problem.params, problem.batch, _gradient(problem))


def _health(problem: Problem) -> Call:
    grads = _gradient(problem)
    updates, _ = optimizers.adam(RATE).update(grads, optimizers.adam(RATE).init(problem.params), problem.params)
    measure = lambda params, grads, updates, start: health(params, grads, updates, previous_grads=grads, start=start)
    return jax.jit(measure), (problem.params, grads, updates, problem.start)
