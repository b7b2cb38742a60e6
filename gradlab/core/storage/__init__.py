"""How a buffer is kept between two steps: float32, bfloat16, bfloat16 and a residual, 8-bit blocks, factors."""

from gradlab.core.storage.blocks import Blocks
from gradlab.core.storage.codecs import (
    CODECS,
    BFloat16,
    Factored,
    Factors,
    Float32,
    Int8,
    Parts,
    Residual,
    Split,
    Storage,
    decoded,
    encoded,
    factored_dims,
    is_kept,
)
from gradlab.core.storage.restored import restore_as
from gradlab.core.storage.slopes import without_slope
from gradlab.core.storage.slots import MOMENTS, slots
from gradlab.core.storage.stored import StoredState, decoded_state, storable, store
from gradlab.core.storage.weights import ResidualState, float32_params, joined_params, with_residuals

__all__ = [
    "CODECS",
    "MOMENTS",
    "BFloat16",
    "Blocks",
    "Factored",
    "Factors",
    "Float32",
    "Int8",
    "Parts",
    "Residual",
    "ResidualState",
    "Split",
    "Storage",
    "StoredState",
    "decoded",
    "decoded_state",
    "encoded",
    "factored_dims",
    "float32_params",
    "is_kept",
    "joined_params",
    "restore_as",
    "slots",
    "storable",
    "store",
    "with_residuals",
    "without_slope",
]
