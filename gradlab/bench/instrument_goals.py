"""Rows of what is saved: products for an eigenvalue, time for a plane, bytes."""

import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.bench.instrument_problem import Problem, Problems
from gradlab.bench.instrument_rows import InstrumentCase, Pair
from gradlab.bench.paired import Contestant, paired
from gradlab.bench.programs import planned_bytes
from gradlab.core.curvature import ravel, unravel
from gradlab.core.krylov import lanczos
from gradlab.instruments import Operator, extreme, hessian, noise, plane, random_directions, slq

ACCURACY = 0.01  # of the largest eigenvalue
SURE = 60  # products for the eigenvalue that both are held against
MOST_PRODUCTS = 400  # of power iteration
SIDE = 51  # points along each axis of a plane
FEW = 5  # rounds of what takes long
FLOAT = 4  # bytes

GOALS = {"products": 1.0, "plane": 1 / 5, "bytes": 1.1}  # largest ratios


def goal_cases(problems: Problems) -> list[InstrumentCase]:
    """The rows of the convolutional network, and planes of all problems."""
    top = InstrumentCase(
        "products/top-eigenvalue",
        f"Lanczos' products to {ACCURACY:.0%} of the CNN's largest eigenvalue",
        "power iteration",
        functools.partial(_products, problems.cnn),
        unit="products",
        at_most=GOALS["products"],
        most_rounds=FEW,
    )
    return [top, *_plane_cases(problems), *_byte_cases(problems)]


def _plane_cases(problems: Problems) -> list[InstrumentCase]:
    compiled, eager = "a loop over a compiled loss", "a loop that moves the parameters"
    rows = [
        ("small-mlp", problems.small, SIDE, compiled, FEW, {"at_most": GOALS["plane"]}),
        ("small-mlp-eager", problems.small, SIDE, eager, 2, {}),
        ("mlp", problems.mlp, 16, compiled, 2, {}),
        ("cnn", problems.cnn, 1, compiled, 2, {}),
    ]
    return [
        InstrumentCase(
            f"plane/{name}",
            f"{SIDE} x {SIDE} losses by `plane`, {at_once} at once",
            against,
            functools.partial(_plane, make, at_once, against == compiled),
            most_rounds=rounds,
            **goal,
        )
        for name, make, at_once, against, rounds, goal in rows
    ]


def _byte_cases(problems: Problems) -> list[InstrumentCase]:
    rows = [
        ("lanczos", "for each product more of `extreme`", "a vector", _lanczos_bytes, "1", GOALS["bytes"]),
        ("slq", "for each product more of `slq`", "a vector", _slq_bytes, "1", GOALS["bytes"]),
        ("noise", "for each example more in a chunk of `noise`", "a gradient", _noise_bytes, "1 to 2", None),
    ]
    return [
        InstrumentCase(
            f"bytes/{name}",
            f"bytes that XLA plans {what}",
            against,
            functools.partial(_bytes, problems.mlp, count),
            unit="bytes",
            stated=stated,
            at_most=at_most,
            most_rounds=1,
        )
        for name, what, against, count, stated, at_most in rows
    ]


def _products(make_problem: Callable[[], Problem], rounds: int) -> Pair:
    """The products of both from as many random starts as there are rounds."""
    problem = make_problem()
    op = hessian(problem.loss, problem.params, problem.batch)
    (exact,) = extreme(op, jax.random.key(0), m=min(SURE, op.size)).values
    pairs = [_products_from(op, float(exact), jax.random.key(1 + index)) for index in range(rounds)]
    return [float(ours) for ours, _ in pairs], [float(other) for _, other in pairs]


def _products_from(op: Operator, exact: float, key: jax.Array) -> tuple[int, int]:
    start = jax.random.normal(key, (op.size,), ravel(op.like).dtype)
    most = min(SURE, op.size)
    matrix = np.asarray(_tridiagonal(op, start, most), np.float64)
    of_lanczos = (np.linalg.eigvalsh(matrix[:m, :m])[-1] for m in range(1, most + 1))
    return first_within(of_lanczos, exact), first_within(_power_iteration(op, start), exact)


@functools.partial(jax.jit, static_argnums=2)
def _tridiagonal(op: Operator, start: jax.Array, products: int) -> jax.Array:
    return lanczos(lambda vector: _product(op, vector), start, products).matrix


@jax.jit
def _product(op: Operator, vector: jax.Array) -> jax.Array:
    return ravel(op(unravel(vector, op.like)))


def _power_iteration(op: Operator, vector: jax.Array) -> Iterator[float]:
    """The Rayleigh quotient after each product."""
    for _ in range(MOST_PRODUCTS):
        vector = vector / jnp.linalg.norm(vector)
        image = _product(op, vector)
        yield float(vector @ image)
        vector = image


def first_within(values: Iterable[float], exact: float) -> int:
    """How many values there are up to the first within the accuracy of the exact one; at least as many as given.

    >>> first_within([3.0, 9.8, 9.95, 12.0], 10.0)
    3
    """
    count = 0
    for value in values:
        count += 1
        if abs(value - exact) <= ACCURACY * abs(exact):
            break
    return count


def _plane(make_problem: Callable[[], Problem], at_once: int, compiled: bool, rounds: int) -> Pair:
    problem = make_problem()
    params, batch, directions = problem.params, problem.batch, random_directions(jax.random.key(0), problem.params)
    xs = np.linspace(-1, 1, SIDE, dtype=np.float32)

    @jax.jit
    def batched(params, batch, directions):
        return plane(problem.loss, params, batch, directions, xs, xs, batch_size=at_once)

    move = lambda params, directions, x, y: jax.tree.map(lambda p, d: p + x * d[0] + y * d[1], params, directions)
    whole = jax.jit(lambda params, batch, directions, x, y: problem.loss(move(params, directions, x, y), batch))
    loss = jax.jit(problem.loss)
    one = functools.partial(whole, params, batch, directions)
    at = one if compiled else lambda x, y: loss(move(params, directions, x, y), batch)
    loop = lambda: [[float(at(x, y)) for x in xs] for y in xs]
    ours = Contestant(lambda: batched(params, batch, directions))
    seconds = paired({"ours": ours, "other": Contestant(loop)}, rounds=rounds)
    return seconds["ours"], seconds["other"]


def _bytes(make_problem: Callable[[], Problem], count: Callable[[Problem], tuple[float, float]], rounds: int) -> Pair:
    del rounds
    held, needed = count(make_problem())
    return [held], [needed]


def _lanczos_bytes(problem: Problem) -> tuple[float, float]:
    few, many = 16, 48
    planned = lambda m: _planned(lambda op, key: extreme(op, key, m=m), problem)
    return (planned(many) - planned(few)) / (many - few), FLOAT * problem.size


def _slq_bytes(problem: Problem) -> tuple[float, float]:
    few, many = 16, 48
    planned = lambda m: _planned(lambda op, key: slq(op, key, probes=4, m=m), problem)
    return (planned(many) - planned(few)) / (many - few), FLOAT * problem.size


def _planned(measure: Callable, problem: Problem) -> int:
    op = hessian(problem.loss, problem.params, problem.batch)
    return planned_bytes(jax.jit(measure).lower(op, jax.random.key(0)).compile())


def _noise_bytes(problem: Problem) -> tuple[float, float]:
    few, many = 8, 32  # both divide the batch, so that no rest is planned

    def planned(chunk: int) -> int:
        measure = lambda params, batch: noise(problem.losses, params, batch, chunk=chunk)
        return planned_bytes(jax.jit(measure).lower(problem.params, problem.batch).compile())

    return (planned(many) - planned(few)) / (many - few), FLOAT * problem.size
