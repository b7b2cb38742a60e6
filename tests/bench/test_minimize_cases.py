"""Rows about minimising: equal work, and which calls compile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.bench import minimize_cases as cases


def test_both_loops_make_the_same_steps():
    (ours, steps), (theirs, optax_steps) = (
        call(cases.start(6).astype(float)) for call in (cases.gradlab_call, cases.optax_call)
    )
    assert int(steps) == int(optax_steps) > 10
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose(ours, 1, atol=1e-3)


def test_the_gradient_for_scipy_is_that_of_the_function():
    x = cases.start(8, shift=0.3).astype(float)
    value, grad = jax.value_and_grad(cases.rosenbrock)(jnp.asarray(x))
    np.testing.assert_allclose(cases.value_and_grad(x)[0], value, rtol=1e-12)
    np.testing.assert_allclose(cases.value_and_grad(x)[1], grad, rtol=1e-12)


def test_every_row_has_its_goal():
    assert {case.name: case.at_most for case in cases.minimize_cases()} == cases.GOALS


@pytest.mark.parametrize(("row", "clears"), [("first-call", 2 * 2), ("next-call", 0)])
def test_caches_are_cleared_before_first_calls_only(row, clears, monkeypatch):
    calls, starts = [], []
    monkeypatch.setattr(jax, "clear_caches", lambda: calls.append(row))
    monkeypatch.setattr(cases, "CALLS", {"gradlab": starts.append, "optax": starts.append})
    (case,) = [case for case in cases.minimize_cases(4) if case.name == f"minimize/{row}"]
    assert {name: len(values) for name, values in case.measure(1).items()} == {"gradlab": 1, "optax": 1}
    assert len(calls) == clears
    assert len({tuple(start) for start in starts}) == (1 if clears else 2)
