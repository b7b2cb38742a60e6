"""The table of optimizers in the documentation, made of their rows and of the states that they allocate."""

import inspect
from collections.abc import Sequence

import jax
import numpy as np

from gradlab.optimizers import ROWS, Row

MATRIX = jax.ShapeDtypeStruct((1024, 1024), np.float32)
COLUMNS = ("name", "rule", "state bytes a parameter", "source", "compared with", "what differs")


def optimizer_table() -> str:
    """A Markdown table with a line for each optimizer of the registry."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    return "\n".join(lines + [_line(_cells(row)) for row in ROWS])


def _cells(row: Row) -> list[str]:
    rule = f"`{row.rule}`".replace("|", "\\|")
    return [f"`{row.factory.__name__}`", rule, f"{state_bytes(row):.3g}", row.paper, row.parity, row.differs]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def state_bytes(row: Row) -> float:
    """Bytes of state for each parameter of a float32 matrix of 1024 rows and columns; counters round away.

    >>> import gradlab
    >>> {row.factory.__name__: round(state_bytes(row)) for row in ROWS if row.factory in (gradlab.sgd, gradlab.adam)}
    {'sgd': 0, 'adam': 8}
    """
    required = inspect.Parameter.empty
    missing = [p.name for p in inspect.signature(row.factory).parameters.values() if p.default is required]
    tx = row.factory(**{name: 1e-3 for name in missing})
    leaves = jax.tree.leaves(jax.eval_shape(tx.init, {"kernel": MATRIX}))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if leaf.size > 1)
    return total / MATRIX.size
