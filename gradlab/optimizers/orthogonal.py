"""Orthogonalisation as a stage: what Muon and its relatives do to a direction, see `gradlab.core.spectral`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.compose import empty_init
from gradlab.core.matrixwise import check_strategy, matrixwise
from gradlab.core.rule import static
from gradlab.core.spectral import COEFFICIENTS, SCALINGS, SPECTRAL_MAPS, STANDARD, bounded
from gradlab.core.transform import Transform, transform


def orthogonal_rule(x, *, coefficients, eps, scaling, spectral_map):
    spectral_map = SPECTRAL_MAPS[spectral_map] if isinstance(spectral_map, str) else spectral_map
    return spectral_map(bounded(x, eps, scaling), coefficients)


def _orthogonalize_update(
    grads, state, params=None, *, eps, coefficients, preconditioning, spectral_map, layout, strategy, **extra
):
    del params, extra
    structure = {"scaling": preconditioning, "spectral_map": spectral_map}
    rows = jnp.asarray(coefficients)
    updates = matrixwise(
        orthogonal_rule, grads, layout, structure=structure, strategy=strategy, coefficients=rows, eps=eps
    )
    return updates, state


def orthogonalize(
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    eps: Any = 1e-7,
    *,
    preconditioning: str = "frobenius",
    spectral_map: str | Callable = "newton_schulz",
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """Brings the singular values of every matrix near one; the arguments are those of `gradlab.scale_by_muon`.

    >>> tx, updates = orthogonalize('polar_express_8'), jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> tx.update(updates, tx.init(updates))[0].round(3).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    check.non_negative(eps=eps)
    check_orthogonalizer(ns_steps, preconditioning, spectral_map, strategy)
    rows = coefficient_rows(ns_coeffs, ns_steps)
    return transform(
        empty_init,
        _orthogonalize_update,
        eps=eps,
        coefficients=static(rows if isinstance(rows[0], tuple) else (rows,) * ns_steps),
        preconditioning=static(preconditioning),
        spectral_map=static(spectral_map),
        layout=static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        strategy=static(strategy),
    )


def check_orthogonalizer(ns_steps: Any, preconditioning: Any, spectral_map: Any, strategy: Any) -> None:
    check.in_range("ns_steps", ns_steps, 1)
    check.one_of("preconditioning", preconditioning, SCALINGS)
    if not callable(spectral_map):
        check.one_of("spectral_map", spectral_map, SPECTRAL_MAPS)
    check_strategy(strategy)


def coefficient_rows(ns_coeffs: Any, ns_steps: int) -> tuple:
    """The coefficients as Optax's state holds them: three numbers for every step alike, or a row for each step."""
    if isinstance(ns_coeffs, str):
        check.one_of("ns_coeffs", ns_coeffs, COEFFICIENTS)
        return STANDARD if ns_coeffs == "standard" else COEFFICIENTS[ns_coeffs]
    rows = jnp.asarray(ns_coeffs)
    if rows.ndim not in (1, 2) or rows.shape[-1] != 3:
        raise ValueError(f"`ns_coeffs` must be three numbers or rows of three, got shape {rows.shape}")
    if rows.ndim == 2 and len(rows) > ns_steps:
        raise ValueError(f"`ns_coeffs` has {len(rows)} rows, but ns_steps={ns_steps}; give as many steps as rows")
    return jax.tree.map(float, tuple(map(tuple, ns_coeffs)) if rows.ndim == 2 else tuple(ns_coeffs))
