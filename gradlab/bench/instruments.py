"""``gradlab bench instruments``: what the instruments cost in gradients, and what they save."""

from collections.abc import Callable

from gradlab.bench.instrument_costs import cost_cases
from gradlab.bench.instrument_goals import goal_cases
from gradlab.bench.instrument_problem import Problems
from gradlab.bench.instrument_rows import InstrumentCase, measured
from gradlab.bench.machine import machine_facts
from gradlab.bench.rows import Report
from gradlab.core import check

ROUNDS, QUICK_ROUNDS = 15, 3


def instrument_cases(problems: Problems | None = None) -> list[InstrumentCase]:
    """All rows that can be measured, in the order of the table."""
    problems = Problems() if problems is None else problems
    return cost_cases(problems) + goal_cases(problems)


def run_instruments(
    cases: list[InstrumentCase],
    *,
    rounds: int | None = None,
    quick: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Measures rows, each in paired rounds with what it is compared with.

    Args:
      cases: of `instrument_cases`.
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
    return Report(facts, rows)
