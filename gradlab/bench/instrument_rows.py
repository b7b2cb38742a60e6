"""What a measurement of an instrument is before it runs, `InstrumentCase`, and what it leaves, `InstrumentRow`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gradlab.bench.paired import Ratio, ratio

Pair = tuple[list[float], list[float]]  # of the instrument and of what it is compared with, one value a round


@dataclasses.dataclass(frozen=True)
class InstrumentCase:
    """One row to measure: an instrument against a number of the same unit."""

    name: str  # 'cost/hessian': rows are selected by patterns over these
    what: str
    against: str  # 'a gradient'
    measure: Callable[[int], Pair]  # rounds -> values
    unit: str = "s"  # 's', 'products' or 'bytes'
    stated: str = ""  # the ratio that is expected, in words
    at_most: float | None = None  # goal: largest ratio
    most_rounds: int | None = None  # for what takes long


@dataclasses.dataclass(frozen=True)
class InstrumentRow:
    """The medians of one case, and the ratios within its rounds."""

    name: str
    what: str
    unit: str
    rounds: int
    value: float
    against: str
    other: float
    ratio: Ratio  # value / other
    stated: str
    at_most: float | None

    @property
    def met(self) -> bool | None:
        """Whether the median ratio reaches the goal; None for a row without a goal."""
        return None if self.at_most is None else self.ratio.median <= self.at_most

    def record(self) -> dict[str, Any]:
        """The row as a flat mapping of numbers and strings, for a table, CSV or JSON."""
        record = dataclasses.asdict(self)
        del record["ratio"]
        spread = {"ratio": self.ratio.median, "ratio_lower": self.ratio.lower, "ratio_upper": self.ratio.upper}
        return {**record, **spread, "met": self.met}


def measured(case: InstrumentCase, rounds: int) -> InstrumentRow:
    """Runs a case for ``rounds`` rounds or as many as it allows."""
    values, others = case.measure(min(rounds, case.most_rounds or rounds))
    return InstrumentRow(
        name=case.name,
        what=case.what,
        unit=case.unit,
        rounds=len(values),
        value=float(np.median(values)),
        against=case.against,
        other=float(np.median(others)),
        ratio=ratio(values, others),
        stated=case.stated,
        at_most=case.at_most,
    )
