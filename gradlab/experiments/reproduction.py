"""What a published result claims, the number that decides it, and what an experiment has besides."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Check(NamedTuple):
    """One claim, and the number that decides whether it holds here."""

    source: str  # 'arXiv 2003.02218'
    claim: str  # what was published
    measure: str  # what the number is
    value: float
    low: float = -math.inf
    high: float = math.inf
    expected: bool = True  # False: the claim is known not to hold at this size

    @property
    def holds(self) -> bool:
        """Whether the number lies in its tolerance; NaN never does."""
        return bool(self.low <= self.value <= self.high)

    @property
    def tolerance(self) -> str:
        """The tolerance in words.

        >>> Check('', '', '', 1.0, 0.93, 1.07).tolerance, Check('', '', '', 9, 9, 9).tolerance
        ('0.93 to 1.07', '9')
        >>> Check('', '', '', 3.0, low=2).tolerance, Check('', '', '', 3.0, high=1e-10).tolerance
        ('at least 2', 'at most 1e-10')
        """
        if self.low == self.high:
            return f"{self.low:g}"
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


class Reproduction(NamedTuple):
    """A published result at a small size."""

    source: str  # authors, and where they say it
    run: Callable[..., Any]  # its arguments are those of a config
    checks: Callable[[Any], list[Check]]  # of what `run` returns
    table: Callable[[Any], Mapping[str, Sequence[Any]]]  # column -> its cells, for a file
    draw: Callable[[Any], Any]  # axes of the picture
    note: str = ""  # what a reader of the verdict must know


def in_rows(runs: Mapping[str, Mapping[str, Sequence[Any]]], name: str) -> dict[str, list[Any]]:
    """The columns of several runs one below the other, with the labels of the runs in a column in front.

    >>> in_rows({'a': {'x': [1, 2]}, 'b': {'x': [3]}}, 'run')
    {'run': ['a', 'a', 'b'], 'x': [1, 2, 3]}
    """
    joined: dict[str, list[Any]] = {name: []}
    for label, columns in runs.items():
        joined[name] += [label] * len(next(iter(columns.values())))
        for column, cells in columns.items():
            joined.setdefault(column, []).extend(cells)
    return joined
