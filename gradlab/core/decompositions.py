"""Decompositions whose lanes take turns on the CPU.

There jaxlib 0.10 splits a batch of decompositions over XLA's threads and lets the thread that splits it wait: if all
threads do so at the same time, none is left to work, and the program stands still.  Under `jax.vmap` these functions
run one matrix after the other instead, which costs nothing: LAPACK's are not faster for being batched.  Elsewhere, and
in derivatives, they are the functions of `jax.numpy.linalg`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.scipy.linalg import solve_triangular


def _in_turn(function: Callable) -> Callable:
    one_by_one = sequential_vmap(function)

    @jax.custom_jvp
    def decompose(*operands: jax.Array) -> Any:
        return one_by_one(*operands) if jax.default_backend() == "cpu" else function(*operands)

    @decompose.defjvp
    def _derivative(primals, tangents):
        return jax.jvp(function, primals, tangents)

    return decompose


eigh = _in_turn(lambda a: tuple(jnp.linalg.eigh(a)))
"""Eigenvalues and eigenvectors of a Hermitian matrix, (m,) and (m, m)."""

qr = _in_turn(lambda x: tuple(jnp.linalg.qr(x)))
"""Orthonormal and triangular factor of a matrix."""

svd = _in_turn(lambda x: tuple(jnp.linalg.svd(x, full_matrices=False)))
"""U, the singular values, and V^H of a matrix, the thin ones."""

inv = _in_turn(jnp.linalg.inv)
"""The inverse of a matrix."""

solve = _in_turn(jnp.linalg.solve)
"""The solution of ``a x = b``."""

solve_adjoint_upper = _in_turn(lambda q, x: solve_triangular(q, x, trans="C"))
"""The solution y of ``q^H y = x`` with an upper triangular q."""
