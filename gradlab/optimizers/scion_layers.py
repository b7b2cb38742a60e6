"""Which norm suits which layer: the choices that `scion` and `scion_init` share."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.layouts import Matrices, is_layout, matrices_of, spread_layout
from gradlab.core.rule import Static, static
from gradlab.optimizers.matrices import named_layout
from gradlab.transforms.select import check_pattern

ROLES = ("input", "hidden", "head", "bias")
MATRIX_NORMS = ("spectral", "spectral_max", "colnorm", "rownorm", "sign")
BIAS_NORMS = ("rms", "sign")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One parameter: what it is to the network, and the norm in which it moves."""

    role: str
    norm: str
    layout: Any = None  # with its matrices, None for a bias
    matrices: Matrices | None = None
    positions: int = 1  # of a convolution's window
    starts_at_zero: bool = False

    @property
    def is_spectral(self) -> bool:
        return self.norm in ("spectral", "spectral_max")

    @property
    def extent(self) -> float:
        """The singular value of a matrix of spectral norm one, and the size of an entry in the norm ``'sign'``."""
        if self.matrices is None:
            return 1.0
        rows, columns = self.matrices.upright
        rows //= self.positions
        if self.norm == "sign":
            return 1 / self.matrices.upright[0]
        size = (columns / rows) ** 0.5
        return (max(1.0, size) if self.norm == "spectral_max" else size) / self.positions


@dataclasses.dataclass(frozen=True)
class Layers:
    """A function from parameters to a tree of `Layer`, by Flax's conventions and by patterns; see `scion`."""

    norms: tuple[tuple[str, str], ...]
    patterns: tuple[tuple[str, str], ...]
    layout: Static

    def __repr__(self) -> str:
        return f"layers(norms={dict(self.norms)!r}, patterns={dict(self.patterns)!r}, layout={self.layout.value!r})"

    def __call__(self, params: Any) -> Any:
        names = trees.paths(params)
        unused = [pattern for pattern, _ in self.patterns if not any(re.search(pattern, name) for name in names)]
        if unused and names:
            raise ValueError(f"the patterns {unused} of `layers` match no parameter; the paths are {names}")
        first, layouts = _first_layer(params), spread_layout(self.layout.value, params)
        of_leaf = lambda path, layout, p: self._layer(path, layout, p, first)
        return jax.tree_util.tree_map_with_path(of_leaf, layouts, params, is_leaf=is_layout)

    def _layer(self, path: tuple, layout: Any, p: Any, first: str | None) -> Layer | None:
        if p is None:
            return None
        if 0 in jnp.shape(p):
            return Layer("bias", "sign")
        name = trees.path_name(path)
        module, _, last = name.removesuffix("/value").rpartition("/")
        claimed = next((role for pattern, role in self.patterns if re.search(pattern, name)), None)
        role = claimed or _role(jnp.ndim(p), layout, last, module == first)
        norm = dict(self.norms)[role]
        if role == "bias":
            return Layer(role, norm, starts_at_zero=last == "bias")
        if jnp.ndim(p) < 2:
            raise ValueError(f"`layers` makes parameter '{name}' {role!r}, but it is no matrix: {jnp.shape(p)}")
        is_table = last == "embedding"
        if is_table and role == "head":
            layout = MuonDimensionNumbers(1, 0)
        elif is_table or layout is None:
            layout = MuonDimensionNumbers(tuple(range(jnp.ndim(p) - 1)), -1)
        if norm == "auto":
            norm = "colnorm" if is_table else "spectral_max"
        matrices = matrices_of(p, layout, name)
        inputs = matrices.axes[1]
        is_convolution = last == "kernel" and len(inputs) > 1 and (len(inputs) > 2 or re.search("(?i)conv", module))
        positions = math.prod(jnp.shape(p)[axis] for axis in inputs[:-1]) if is_convolution else 1
        return Layer(role, norm, layout, matrices, positions)


def _role(ndim: int, layout: Any, last: str, is_first: bool) -> str:
    if ndim < 2:
        return "bias"
    if last == "embedding" or is_first:
        return "input"
    if layout is not None:
        return "hidden"
    return "head" if last == "kernel" else "bias"


def _first_layer(params: Any) -> str | None:
    """The outermost ``Dense_0``, if another ``Dense_k`` follows it and neither a table nor a convolution precedes."""
    names = [name.removesuffix("/value") for name in trees.paths(params)]
    precedes = any(name.endswith("embedding") or re.search("(?i)conv", name) for name in names)
    modules = {name.rpartition("/")[0] for name in names}
    return "Dense_0" if {"Dense_0", "Dense_1"} <= modules and not precedes else None


def choose_layers(norms: Mapping[str, str], layers: Mapping[str, str] | None, layout: Any) -> Static:
    """The layers as `scion` takes them: a norm for each role, patterns for roles, and which axes make a matrix.

    Raises:
      ValueError: an unknown norm or role, a pattern that is no regular expression.

    >>> of = choose_layers({'hidden': 'spectral', 'bias': 'rms'}, None, 'flax').value
    >>> of({'kernel': jnp.ones((2, 8))})['kernel'].extent
    2.0
    """
    for role, norm in norms.items():
        known = BIAS_NORMS if role == "bias" else MATRIX_NORMS + (("auto",) if role == "input" else ())
        check.one_of(f"{role}_norm", norm, known)
    for pattern, role in (layers or {}).items():
        check_pattern(pattern)
        check.one_of("layer", role, ROLES)
    layout = static(named_layout(layout))
    return static(Layers(tuple(norms.items()), tuple((layers or {}).items()), layout))
