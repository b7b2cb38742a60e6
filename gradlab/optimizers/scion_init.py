"""Parameters drawn from the balls in which `scion` moves them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.norms import norm
from gradlab.optimizers.scion_layers import Layer, choose_layers

Tree = Any


def scion_init(
    params: Tree,
    key: Any,
    *,
    input_radius: Any = 50.0,
    hidden_radius: Any = 50.0,
    head_radius: Any = 3000.0,
    input_norm: str = "auto",
    hidden_norm: str = "spectral",
    head_norm: str = "sign",
    layers: Mapping[str, str] | None = None,
    weight_dimension_numbers: Any = "flax",
) -> Tree:
    """New parameters on the boundary of the balls of `scion`, the start that its rates are meant for.

    Matrices are orthogonal, or have columns, rows or entries of one size, times the radius.  Biases are zero; other
    vectors and scalars, such as the scales of norms, stay what they are.  The arguments are those of `scion`.

    Args:
      params: as the network initialised them.
      key: a random key or an integer.

    Raises:
      ValueError: an unknown name, a layout that does not fit, with the path.

    >>> params = {'kernel': jnp.ones((2, 8)), 'bias': jnp.ones(8)}
    >>> drawn = scion_init(params, 0, hidden_radius=3.0)
    >>> jnp.linalg.svd(drawn['kernel'], compute_uv=False).round(3).tolist(), float(jnp.max(drawn['bias']))
    ([6.0, 6.0], 0.0)
    """
    radii = {"input": input_radius, "hidden": hidden_radius, "head": head_radius}
    check.non_negative(**{f"{role}_radius": radius for role, radius in radii.items()})
    norms = {"input": input_norm, "hidden": hidden_norm, "head": head_norm, "bias": "rms"}
    of_leaf = choose_layers(norms, layers, weight_dimension_numbers).value(params)
    leaves, treedef = jax.tree.flatten(params)
    key = key if jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key) else jax.random.key(key)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [
        _drawn(p, layer, key, radii.get(layer.role))
        for p, layer, key in zip(leaves, treedef.flatten_up_to(of_leaf), keys[: len(leaves)], strict=True)
    ]
    return treedef.unflatten(drawn)


def _drawn(p: jax.Array, layer: Layer, key: jax.Array, radius: Any) -> jax.Array:
    if layer.matrices is None:
        return jnp.zeros_like(p) if layer.starts_at_zero else p
    wide = jnp.promote_types(p.dtype, jnp.float32)
    fan_in, fan_out = layer.matrices.upright
    shape = (layer.matrices.count, fan_in, fan_out)
    if layer.is_spectral:
        keys = jax.random.split(key, layer.matrices.count * layer.positions)
        window = (fan_in // layer.positions, fan_out)
        drawn = jax.vmap(lambda key: jax.nn.initializers.orthogonal()(key, window, wide))(keys)
        x = layer.extent * drawn.reshape(shape)
    elif layer.norm == "sign":
        x = layer.extent * jax.random.rademacher(key, shape, wide)
    else:
        x = jax.random.normal(key, shape, wide)
        is_column = layer.norm == "colnorm"
        size = fan_out**0.5 if is_column else fan_in**-0.5
        x = size * x / norm(x, axis=2 if is_column else 1, keepdims=True)
    return layer.matrices.leaf(radius * x).astype(p.dtype)
