"""``gradlab bench speed``: how long things take, as ratios to optax in the same process."""

from collections.abc import Callable, Iterable, Mapping

import jax

from gradlab.bench.device_cases import device_cases
from gradlab.bench.machine import machine_facts
from gradlab.bench.matrix_cases import matrix_cases
from gradlab.bench.minimize_cases import minimize_cases
from gradlab.bench.optimizer_cases import optimizer_cases
from gradlab.bench.registry_cases import registry_cases
from gradlab.bench.rows import Case, Report, measured, select
from gradlab.bench.sweep_cases import digits_sweep, sweep_cases
from gradlab.bench.sweep_problem import Sweep
from gradlab.bench.trees import TREES, WIDTH_64, Shapes
from gradlab.core import check

ROUNDS, QUICK_ROUNDS = 15, 5


def cases(
    *,
    quick: bool = False,
    trees: Mapping[str, Shapes] = TREES,
    small: Shapes = WIDTH_64,
    make_sweep: Callable[[], Sweep] = digits_sweep,
    platform: str = "cpu",
) -> list[Case]:
    """All rows that can be measured on a platform of jax, in the order of the table."""
    minimizing, sweeping = minimize_cases(), sweep_cases(make_sweep, quick=quick)
    of_one = optimizer_cases(trees) + minimizing + sweeping
    return of_one + registry_cases(small) + matrix_cases(trees, small) + device_cases(platform)


def run(
    rows: str | Iterable[str] = "*",
    *,
    rounds: int | None = None,
    quick: bool = False,
    device: str | None = None,
    trees: Mapping[str, Shapes] = TREES,
    small: Shapes = WIDTH_64,
    make_sweep: Callable[[], Sweep] = digits_sweep,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Measures the rows whose names match, each in paired rounds with optax.

    Args:
      rows: patterns over the names of `cases`, as ``'step/*'`` or ``['import', 'sweep/*']``.
      rounds: rounds of each row; 15 by default, 5 if ``quick``.  Rows that take long have fewer, counts have one.
      quick: few rounds, and slow baselines of the sweep estimated from a few configurations.
      device: platform of jax, as ``'cpu'`` or ``'gpu'``; jax's default if None.
      trees: shapes of the parameters by name.
      small: shapes of the parameters with which every optimizer of the registry is compared.
      make_sweep: what is swept.
      progress: called with the index of a row, the number of rows and the row's name, before it is measured.

    Raises:
      ValueError: less than one round, a pattern that matches no row, no pattern, or a device that jax lacks.

    >>> report = run('traces/tiny', trees={'tiny': {'w': (2, 3)}})
    >>> [(row.name, row.gradlab, row.optax, row.met) for row in report.rows]
    [('traces/tiny', 1.0, 5.0, True)]
    """
    rounds = (QUICK_ROUNDS if quick else ROUNDS) if rounds is None else rounds
    check.in_range("rounds", rounds, 1)
    first = _first_device(device)
    platform = first.platform if first is not None else jax.default_backend()
    known = cases(quick=quick, trees=trees, small=small, make_sweep=make_sweep, platform=platform)
    selected = select(known, [rows] if isinstance(rows, str) else rows)
    with jax.default_device(first):
        facts, measured_rows = machine_facts(), []
        for index, case in enumerate(selected):
            if progress is not None:
                progress(index, len(selected), case.name)
            measured_rows.append(measured(case, rounds))
    return Report(facts, measured_rows)


def count_rows(patterns: Iterable[str], *, quick: bool, device: str | None) -> int:
    """How many rows the patterns match.

    Raises:
      ValueError: as `run`.
    """
    first = _first_device(device)
    return len(select(cases(quick=quick, platform=first.platform if first else jax.default_backend()), patterns))


def _first_device(platform: str | None) -> jax.Device | None:
    try:
        return jax.devices(platform)[0] if platform else None
    except RuntimeError as error:
        raise ValueError(
            f"device={platform!r} is no platform that jax can use here ({error}); leave it out for "
            f"{jax.default_backend()!r}"
        ) from None
