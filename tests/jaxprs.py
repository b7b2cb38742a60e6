"""Looks for primitives in a traced function, by whether a branch may leave them out."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params


def primitives(function: Any, *args: Any) -> dict[str, set[str]]:
    """The names of the primitives that always run, and of those inside of a branch on one predicate."""
    found = {"always": set(), "branch": set()}
    for name, inside in walk(jax.make_jaxpr(function)(*args).jaxpr, inside=False):
        found["branch" if inside else "always"].add(name)
    return found


def walk(jaxpr: Any, inside: bool) -> Iterator[tuple[str, bool]]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name, inside
        for inner in jaxprs_in_params(equation.params):
            yield from walk(inner, inside or equation.primitive.name == "cond")


def count_equations(function: Any, *args: Any) -> int:
    """The equations that a trace holds; a nested function that is traced once and called often counts once."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr, set())


def _count(jaxpr: Any, seen: set[int]) -> int:
    total = len(jaxpr.eqns)
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            if id(inner) not in seen:
                seen.add(id(inner))
                total += _count(inner, seen)
    return total
