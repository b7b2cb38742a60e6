import chex
import jax
import jax.numpy as jnp
import pytest

from gradlab.tasks import TASKS
from gradlab.training.checkpoint import params_from_bytes, params_to_bytes


def test_parameters_come_back_with_their_dtypes():
    params = {"a": {"kernel": jnp.arange(6.0, dtype=jnp.bfloat16).reshape(2, 3)}, "b": jnp.ones((), jnp.float16)}
    chex.assert_trees_all_equal(params_from_bytes(params_to_bytes(params), like=params), params)
    assert params_from_bytes(params_to_bytes(params), like=params)["a"]["kernel"].dtype == jnp.bfloat16


def test_parameters_of_a_model():
    params, _ = TASKS["digits_mlp"](hidden=[4]).init(jax.random.key(0))
    like = jax.tree.map(jnp.zeros_like, params)
    chex.assert_trees_all_equal(params_from_bytes(params_to_bytes(params), like=like), params)


def test_another_structure_is_refused():
    with pytest.raises(ValueError, match="b"):
        params_from_bytes(params_to_bytes({"a": jnp.ones(2)}), like={"b": jnp.ones(2)})
