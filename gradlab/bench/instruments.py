"""``gradlab bench instruments``: what the instruments cost in gradients, and what they save."""

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Iterable
from typing import Any

from gradlab.bench.instrument_costs import cost_cases
from gradlab.bench.instrument_goals import goal_cases
from gradlab.bench.instrument_problem import Problems
from gradlab.bench.instrument_rows import InstrumentCase, InstrumentRow, measured
from gradlab.bench.machine import machine_facts
from gradlab.bench.rows import csv_text
from gradlab.core import check

ROUNDS, QUICK_ROUNDS = 15, 3


@dataclasses.dataclass(frozen=True)
class InstrumentReport:
    """The rows that were measured, and on what."""

    machine: dict[str, Any]
    rows: list[InstrumentRow]

    def records(self) -> list[dict[str, Any]]:
        """One flat mapping a row."""
        return [row.record() for row in self.rows]

    def to_json(self) -> str:
        """Machine and rows as a JSON object."""
        return json.dumps({"machine": self.machine, "rows": self.records()}, indent=2)

    def to_csv(self) -> str:
        """The rows as CSV."""
        return csv_text(self.records())


def instrument_cases(problems: Problems | None = None) -> list[InstrumentCase]:
    """All rows that can be measured, in the order of the table."""
    problems = Problems() if problems is None else problems
    return cost_cases(problems) + goal_cases(problems)


def select(patterns: str | Iterable[str] = "*", known: list[InstrumentCase] | None = None) -> list[InstrumentCase]:
    """The rows whose names match, in their order.

    Raises:
      ValueError: a pattern that matches no row, or no pattern.

    >>> [case.name for case in select('plane/*')]
    ['plane/small-mlp', 'plane/small-mlp-eager', 'plane/mlp', 'plane/cnn']
    """
    known = instrument_cases() if known is None else known
    names, chosen = [case.name for case in known], set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise ValueError(f"no row matches {pattern!r}{check.suggestion(pattern, names)}")
        chosen.update(matches)
    if not chosen:
        raise ValueError("`rows` holds no pattern, so nothing would be measured; give some, or '*' for all rows")
    return [case for case in known if case.name in chosen]


def run_instruments(
    cases: list[InstrumentCase],
    *,
    rounds: int | None = None,
    quick: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> InstrumentReport:
    """Measures rows, each in paired rounds with what it is compared with.

    Args:
      cases: from `select`.
      rounds: rounds of each row; 15 by default, 3 if ``quick``.  Rows that take long have fewer, one if ``quick``.
      quick: few rounds.
      progress: called with the index of a row, the number of rows and the row's name, before it is measured.

    Raises:
      ValueError: less than one round.
    """
    once = quick and rounds is None
    rounds = (QUICK_ROUNDS if quick else ROUNDS) if rounds is None else rounds
    check.in_range("rounds", rounds, 1)
    facts, rows = machine_facts(), []
    for index, case in enumerate(cases):
        if progress is not None:
            progress(index, len(cases), case.name)
        rows.append(measured(case, 1 if once and case.most_rounds else rounds))
    return InstrumentReport(facts, rows)
