"""What a speed measurement is before it runs, `Case`, and what it leaves, `Row`."""

import csv
import dataclasses
import difflib
import fnmatch
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gradlab.bench.paired import Ratio, ratio

Samples = dict[str, list[float]]  # contestant -> one value a round; a count is one round
COLUMNS = ("gradlab", "optax", "torch")


@dataclasses.dataclass(frozen=True)
class Case:
    """One row to measure: gradlab against a baseline in optax, and torch where it takes part."""

    name: str  # 'step/gpt2-small': rows are selected by patterns over these
    what: str
    unit: str  # 's', 'traces', 'bytes' or 'kernels'
    measure: Callable[[int], Samples]  # rounds -> values of 'gradlab', 'optax', perhaps 'torch' and others
    at_most: float | None = None  # goal: largest ratio gradlab / optax
    most_rounds: int | None = None  # for measurements that take long
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """The medians of one case, and the ratios within its rounds."""

    name: str
    what: str
    unit: str
    rounds: int
    gradlab: float
    optax: float
    torch: float | None  # None where torch is not installed or has no counterpart
    ratio: Ratio  # gradlab / optax; below 1 gradlab is better
    torch_ratio: Ratio | None  # gradlab / torch
    at_most: float | None
    note: str

    @property
    def met(self) -> bool | None:
        """Whether the median ratio reaches the goal; None for a row without a goal."""
        return None if self.at_most is None else self.ratio.median <= self.at_most

    def record(self) -> dict[str, Any]:
        """The row as a flat mapping of numbers and strings, for a table, CSV or JSON."""
        record = dataclasses.asdict(self)
        del record["ratio"], record["torch_ratio"]
        for name, value in (("ratio", self.ratio), ("torch_ratio", self.torch_ratio)):
            for field in Ratio._fields:
                record[name if field == "median" else f"{name}_{field}"] = value and getattr(value, field)
        return {**record, "met": self.met}


def measured(case: Case, rounds: int) -> Row:
    """Runs a case for ``rounds`` rounds or as many as it allows; a count takes one."""
    samples = case.measure(min(rounds, case.most_rounds or rounds))
    torch = samples.get("torch")
    return Row(
        name=case.name,
        what=case.what,
        unit=case.unit,
        rounds=len(samples["gradlab"]),
        gradlab=float(np.median(samples["gradlab"])),
        optax=float(np.median(samples["optax"])),
        torch=None if torch is None else float(np.median(torch)),
        ratio=ratio(samples["gradlab"], samples["optax"]),
        torch_ratio=None if torch is None else ratio(samples["gradlab"], torch),
        at_most=case.at_most,
        note=_note(case, samples),
    )


def _note(case: Case, samples: Samples) -> str:
    """The case's note, and the medians of contestants that have no column."""
    others = [f"{name}: {np.median(samples[name]):.3g} {case.unit}" for name in samples if name not in COLUMNS]
    return "; ".join(filter(None, [case.note, *others]))


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Flat mappings with the same keys as CSV with a header; an empty field is a number that a row does not have.

    >>> csv_text([{'lanes': 1, 'seconds': 0.5}, {'lanes': 8, 'seconds': None}])
    'lanes,seconds\\n1,0.5\\n8,\\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


@dataclasses.dataclass(frozen=True)
class Report:
    """The rows that were measured, and on what."""

    machine: dict[str, Any]
    rows: list[Any]  # each with a `record`

    def records(self) -> list[dict[str, Any]]:
        """One flat mapping a row."""
        return [row.record() for row in self.rows]

    def to_json(self) -> str:
        """Machine and rows as a JSON object."""
        return json.dumps({"machine": self.machine, "rows": self.records()}, indent=2)

    def to_csv(self) -> str:
        """The rows as CSV."""
        return csv_text(self.records())


def select(known: Sequence[Any], patterns: str | Iterable[str]) -> list[Any]:
    """The cases whose names match, in their order.

    Args:
      known: cases.
      patterns: over their names, as ``'step/*'``.

    Raises:
      ValueError: a pattern that matches none, or no pattern.
    """
    names, chosen = [case.name for case in known], set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            kinds = dict.fromkeys(f"{name.partition('/')[0]}/*" if "/" in name else name for name in names)
            near = difflib.get_close_matches(pattern, names, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"no row matches {pattern!r}; {guess}Known: {', '.join(kinds)}")
        chosen.update(matches)
    if not chosen:
        raise ValueError("`rows` holds no pattern, so nothing would be measured; give some, or '*' for all rows")
    return [case for case in known if case.name in chosen]
