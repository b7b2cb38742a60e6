"""Parameters as bytes, with Flax's msgpack format: nothing in it is code, so a file from a stranger is safe to read."""

from typing import Any

import jax
from flax import serialization


def params_to_bytes(params: Any) -> bytes:
    """The parameters as msgpack; any dtype of jax, bfloat16 included.

    >>> import jax.numpy as jnp
    >>> restored = params_from_bytes(params_to_bytes({'w': jnp.ones(2)}), like={'w': jnp.zeros(2)})
    >>> restored['w'].tolist()
    [1.0, 1.0]
    """
    return serialization.msgpack_serialize(serialization.to_state_dict(jax.device_get(params)))


def params_from_bytes(data: bytes, *, like: Any) -> Any:
    """The parameters that `params_to_bytes` wrote.

    Args:
      data: the bytes.
      like: parameters of the same structure, such as ``task.init(key)[0]``.

    Raises:
      ValueError: the structure of ``like`` is another one.
    """
    return serialization.from_bytes(like, data)
