"""Optax's makers of transforms from plain functions, as they are: `from_optax` and `chain` take what they return."""

from optax import stateless, stateless_with_tree_map, with_extra_args_support

__all__ = ["stateless", "stateless_with_tree_map", "with_extra_args_support"]
