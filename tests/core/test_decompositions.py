"""Decompositions are NumPy's, also in lanes, whose derivatives are those of jax.numpy, and no batch reaches LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core import decompositions
from gradlab.core.decompositions import eigh, inv, qr, solve, solve_adjoint_upper, svd

X = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
SYMMETRIC = X + X.mT
UPPER = jnp.triu(X) + 5 * jnp.eye(4)
CASES = {
    "eigh": (eigh, lambda a: tuple(jnp.linalg.eigh(a)), (SYMMETRIC,)),
    "qr": (qr, lambda x: tuple(jnp.linalg.qr(x)), (X,)),
    "svd": (svd, lambda x: tuple(jnp.linalg.svd(x, full_matrices=False)), (X,)),
    "inv": (inv, jnp.linalg.inv, (UPPER,)),
    "solve": (solve, jnp.linalg.solve, (UPPER, X[..., 0])),
    "solve_adjoint_upper": (solve_adjoint_upper, lambda q, x: jnp.linalg.solve(jnp.triu(q).mT, x), (UPPER, X)),
}


@pytest.mark.parametrize("name", CASES)
def test_lanes_and_their_derivatives_are_those_of_jax(name):
    ours, theirs, operands = CASES[name]
    over_lanes = lambda f: jax.jit(jax.vmap(jax.vmap(f)))
    for one, other in zip(
        *map(jax.tree.leaves, (over_lanes(ours)(*operands), over_lanes(theirs)(*operands))), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    squares = lambda f: lambda *operands: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(*operands)))
    gradient = lambda f: jax.vmap(jax.vmap(jax.grad(squares(f))))(*operands)
    np.testing.assert_allclose(gradient(ours), gradient(theirs), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_on_the_cpu_lanes_take_turns(name, monkeypatch):
    """Batches of them can stop a program of two threads for ever; elsewhere they are the point."""
    ours, _, operands = CASES[name]
    shapes = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in (
                "eigh",
                "geqrf",
                "qr",
                "svd",
                "lu",
                "householder_product",
                "triangular_solve",
            ):
                shapes.append(max(v.aval.ndim for v in equation.invars))
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(jax.vmap(jax.vmap(ours)))(*operands).jaxpr)
    assert shapes and max(shapes) == 2
    monkeypatch.setattr(decompositions.jax, "default_backend", lambda: "gpu")
    shapes.clear()
    visit(jax.make_jaxpr(jax.vmap(jax.vmap(ours)))(*operands).jaxpr)
    assert shapes and max(shapes) == 4
