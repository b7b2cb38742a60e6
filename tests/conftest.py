"""Policy of the whole suite: 64-bit arithmetic, so that oracles agree to rounding; warnings are errors."""

import chex
import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    chex.clear_trace_counter()
