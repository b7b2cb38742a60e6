"""What the instruments cost: the rows, on problems that take no time."""

import csv
import io
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.bench import instrument_costs, instrument_goals
from gradlab.bench.instrument_goals import first_within
from gradlab.bench.instrument_problem import Problems, make_problem
from gradlab.bench.instrument_rows import InstrumentCase, measured
from gradlab.bench.instruments import QUICK_ROUNDS, instrument_cases, run_instruments
from gradlab.bench.paired import Ratio
from gradlab.bench.rows import select
from gradlab.instruments import hessian
from gradlab.tasks.networks import MLP

EIGENVALUES = np.concatenate([[10.0, 9.0], np.linspace(0.1, 1, 30)])


def bowl(params, diagonal):
    """A quadratic loss in place of a network."""
    loss = lambda params, batch: jnp.sum(batch * params**2) / 2
    return SimpleNamespace(loss=loss, params=params, batch=diagonal, size=params.size)


@pytest.fixture(scope="module")
def problem():
    return make_problem(MLP((3, 10), "tanh"), examples=32, steps=1)


@pytest.fixture(scope="module")
def report(problem):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SIDE": 3, "SURE": 8, "MOST_PRODUCTS": 9}.items():
            patch.setattr(instrument_goals, name, value)
        for name, value in {"COLD": 6, "WARM": 3, "PROBE": 5, "CHUNK": 8, "LOOPED": 2}.items():
            patch.setattr(instrument_costs, name, value)
        make = lambda: problem
        return run_instruments(instrument_cases(Problems(make, make, make)), rounds=1)


def test_every_row_is_measured(report):
    assert [row.name for row in report.rows] == [case.name for case in instrument_cases()]
    for row in report.rows:
        assert row.rounds == 1 and row.value > 0 and row.other > 0
        assert row.ratio.median == pytest.approx(row.value / row.other)
        assert row.met is (None if row.at_most is None else row.ratio.median <= row.at_most)


def test_files_hold_all_numbers(report):
    assert json.loads(report.to_json()) == {"machine": report.machine, "rows": report.records()}
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [line["name"] for line in lines] == [row.name for row in report.rows]
    assert [float(line["ratio"]) for line in lines] == [row.ratio.median for row in report.rows]


@pytest.mark.parametrize("count", [instrument_goals._lanczos_bytes, instrument_goals._slq_bytes])
def test_a_basis_holds_one_vector_for_each_product(count):
    params = jnp.ones(4000, jnp.float32)
    held, needed = count(bowl(params, jnp.linspace(0, 1, 4000, dtype=jnp.float32)))
    assert needed == 16_000 and held / needed == pytest.approx(1, abs=0.1)


def test_a_row_has_medians_and_the_quartiles_of_the_ratios():
    case = InstrumentCase("a", "b", "c", lambda rounds: ([1.0, 2.0, 6.0], [4.0, 4.0, 6.0]), at_most=0.4)
    row = measured(case, 3)
    assert (row.value, row.other, row.rounds, row.met) == (2.0, 4.0, 3, False)
    assert row.ratio == Ratio(0.5, 0.375, 0.75)
    record = row.record()
    assert (record["ratio"], record["ratio_lower"], record["ratio_upper"], record["met"]) == (0.5, 0.375, 0.75, False)


def test_long_rows_have_fewer_rounds():
    asked = []
    case = InstrumentCase("a", "b", "c", lambda rounds: (asked.append(rounds), [1.0], [1.0])[1:], most_rounds=2)
    run_instruments([case], rounds=7)
    run_instruments([case], rounds=1)
    run_instruments([InstrumentCase("a", "b", "c", case.measure)], quick=True)
    run_instruments([case], quick=True)
    run_instruments([case], quick=True, rounds=9)
    assert asked == [2, 1, QUICK_ROUNDS, 1, 2]
    with pytest.raises(ValueError, match="`rounds` must be >= 1"):
        run_instruments([case], rounds=0)


def test_patterns_choose_rows_in_their_order():
    assert [case.name for case in select(instrument_cases(), ["bytes/*", "jvp/*"])] == [
        "jvp/mlp", "jvp/cnn", "bytes/lanczos", "bytes/slq", "bytes/noise"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no row matches 'cost/hesian'; did you mean 'cost/hessian'\?"):
        select(instrument_cases(), ["cost/*", "cost/hesian"])
    with pytest.raises(ValueError, match="holds no pattern"):
        select(instrument_cases(), [])


def test_products_are_counted_up_to_the_first_within_a_hundredth():
    assert first_within([5.0, 9.91, 10.0], 10.0) == 2
    assert first_within([5.0, -10.0, 10.2], 10.0) == 3
    assert first_within([11.0, 10.05], 10.0) == 2
    assert first_within([-9.95, -10.0], -10.0) == 1


def test_lanczos_needs_fewer_products_than_power_iteration():
    """Power iteration gains a factor (9/10)^2 a product in the error of its Rayleigh quotient."""
    diagonal = jnp.asarray(EIGENVALUES)
    square = bowl(jnp.ones(32), diagonal)
    op = hessian(square.loss, square.params, square.batch)
    ours, other = instrument_goals._products_from(op, 10.0, jax.random.key(0))
    start = np.asarray(jax.random.normal(jax.random.key(0), (32,)))
    quotients = [start**2 * EIGENVALUES ** (2 * k) for k in range(100)]
    expected = first_within((weights @ EIGENVALUES / weights.sum() for weights in quotients), 10.0)
    assert other == expected > ours
    basis = np.linalg.qr(np.stack([start * EIGENVALUES**k for k in range(ours)], 1))[0]
    top = np.linalg.eigvalsh(basis.T @ (EIGENVALUES[:, None] * basis))[-1]
    assert abs(top - 10) <= 0.1
    fewer = np.linalg.eigvalsh(basis[:, :-1].T @ (EIGENVALUES[:, None] * basis[:, :-1]))[-1]
    assert abs(fewer - 10) > 0.1


def test_both_planes_of_a_row_are_the_same_losses(problem, monkeypatch):
    monkeypatch.setattr(instrument_goals, "SIDE", 3)
    seen = {}

    def both(contestants, rounds):
        seen.update({name: np.asarray(contestant.run()) for name, contestant in contestants.items()})
        return {name: [1.0] for name in contestants}

    monkeypatch.setattr(instrument_goals, "paired", both)
    for compiled in (True, False):
        instrument_goals._plane(lambda: problem, 2, compiled, 1)
        np.testing.assert_allclose(seen["ours"], seen["other"], rtol=1e-5)
