"""Policy of the whole suite: 64-bit arithmetic, so that oracles agree to rounding; warnings are errors."""

import jax

jax.config.update("jax_enable_x64", True)
