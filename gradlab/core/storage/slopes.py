"""Whether a derivative passes from one step to the next through what an optimizer keeps."""

from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core.storage.blocks import Blocks
from gradlab.core.storage.codecs import Split
from gradlab.core.storage.stored import StoredState
from gradlab.core.storage.weights import ResidualState

Tree = Any


def without_slope(state: Tree) -> str | None:
    """What of a state has no derivative: moments in codes or rounded by chance, or residuals; None if all has one.

    >>> import gradlab
    >>> stored = lambda storage: gradlab.adamw(1e-3, storage=storage).init(jnp.ones((64, 64), jnp.float32))
    >>> without_slope(stored('int8')), without_slope(stored('factored'))
    ('moments in codes', None)
    """
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, StoredState | ResidualState)):
        if isinstance(node, ResidualState) and jax.tree.leaves(node.residual):
            return "residuals of bfloat16 parameters"
        if isinstance(node, StoredState) and node.rng_key is not None:
            found = jax.tree.leaves(node.inner_state, is_leaf=_is_code)
            if any(map(_is_code, found)):
                return "moments in codes"
            if any(getattr(leaf, "dtype", None) == jnp.bfloat16 for leaf in found):
                return "moments that are rounded by chance"
        inside = without_slope(node.inner_state) if isinstance(node, StoredState | ResidualState) else None
        if inside:
            return inside
    return None


def _is_code(node: Any) -> bool:
    return isinstance(node, Blocks | Split)
