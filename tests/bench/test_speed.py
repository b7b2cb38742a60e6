"""Selecting, measuring and reporting rows."""

import csv
import io
import json

import jax
import numpy as np
import pytest

from gradlab.bench import run
from gradlab.bench.paired import Ratio
from gradlab.bench.rows import Case, measured
from gradlab.bench.speed import QUICK_ROUNDS, ROUNDS, Report, cases
from gradlab.bench.sweep_cases import Sweep
from gradlab.tasks.catalogue import digits_mlp

TREES = {"tiny": {"kernel": (3, 4), "bias": (4,)}}


def tiny_sweep():
    return Sweep(digits_mlp(hidden=(2,)), np.geomspace(1e-3, 1e-1, 2), steps=2, batch_size=8)


def case_of(samples, **options):
    return Case("kind/tree", "what", "s", lambda rounds: samples, **options)


@pytest.fixture(scope="module")
def report():
    rows = ["*/tiny", "minimize/*", "sweep/*", "*-of/adamax", "grouped-compile/soap", "cost/soap"]
    return run(rows, rounds=1, quick=True, device="cpu", trees=TREES, small=TREES["tiny"], make_sweep=tiny_sweep)


def test_smoke_every_kind_of_row_is_measured(report):
    kinds = lambda names: {name if name.startswith("sweep/") else name.split("/")[0] for name in names}
    measured_rows = [row.name for row in report.rows]
    elsewhere = {"import", "device-step", "device-kernels"}
    assert kinds(measured_rows) == kinds(case.name for case in cases(trees=TREES)) - elsewhere
    assert sum("-of/" in name for name in measured_rows) == 3
    for row in report.rows:
        assert row.ratio.lower <= row.ratio.median <= row.ratio.upper
        assert row.gradlab >= 0 and row.optax >= 0
        assert row.rounds == 1
        assert (row.met is None) == (row.at_most is None)


@pytest.mark.peers
def test_torch_is_a_column_where_it_has_a_counterpart(report):
    with_torch = {row.name for row in report.rows if row.torch is not None}
    assert with_torch == {"step/tiny", "clip-step/tiny", "eager/tiny", "flat-step/tiny", "bucket-step/tiny"}
    for row in report.rows:
        assert (row.torch is None) == (row.torch_ratio is None)


def test_the_header_says_what_was_measured_on(report):
    assert {"date", "cpu", "cores", "load", "device", "platform", "versions"} <= set(report.machine)
    assert report.machine["versions"]["jax"] == jax.__version__
    assert report.machine["device"].startswith("cpu")


def test_json_and_csv_hold_all_numbers(report):
    loaded = json.loads(report.to_json())
    assert loaded["rows"] == report.records()
    assert loaded["machine"] == report.machine
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [line["name"] for line in lines] == [row.name for row in report.rows]
    for line, row in zip(lines, report.rows, strict=True):
        assert float(line["ratio"]) == row.ratio.median
        assert float(line["ratio_upper"]) == row.ratio.upper
        assert line["met"] == ("" if row.met is None else str(row.met))
        assert (line["torch"] == "") == (row.torch is None)


def test_a_row_holds_medians_and_ratios_within_rounds():
    samples = {"gradlab": [1.0, 2.0, 6.0], "optax": [4.0, 4.0, 6.0], "torch": [2.0, 2.0, 2.0]}
    row = measured(case_of(samples, at_most=0.5), 3)
    assert (row.gradlab, row.optax, row.torch, row.rounds) == (2.0, 4.0, 2.0, 3)
    assert row.ratio == Ratio(0.5, 0.375, 0.75)
    assert row.torch_ratio == Ratio(1.0, 0.75, 2.0)
    record = row.record()
    assert (record["ratio"], record["torch_ratio_lower"], record["met"]) == (0.5, 0.75, True)


@pytest.mark.parametrize(("at_most", "met"), [(None, None), (0.5, True), (0.49, False)])
def test_a_goal_is_met_up_to_its_limit(at_most, met):
    assert measured(case_of({"gradlab": [1.0], "optax": [2.0]}, at_most=at_most), 1).met is met


@pytest.mark.parametrize(("most", "asked", "run_for"), [(None, 8, 8), (3, 8, 3), (3, 2, 2)])
def test_a_case_limits_its_rounds(most, asked, run_for):
    counts = Case("a", "b", "s", lambda rounds: {"gradlab": [1.0] * rounds, "optax": [1.0] * rounds}, most_rounds=most)
    assert measured(counts, asked).rounds == run_for


def test_patterns_select_in_the_order_of_the_table_and_progress_is_told():
    seen = []
    report = run(
        ["step-kernels/*", "traces/*"],
        trees=TREES,
        make_sweep=tiny_sweep,
        progress=lambda *call: seen.append(call),
    )
    assert [row.name for row in report.rows] == ["traces/tiny", "step-kernels/tiny"]
    assert seen == [(0, 2, "traces/tiny"), (1, 2, "step-kernels/tiny")]


@pytest.mark.parametrize(("options", "rounds"), [({}, ROUNDS), ({"quick": True}, QUICK_ROUNDS), ({"rounds": 4}, 4)])
def test_rounds_are_fewer_if_quick_and_as_many_as_asked(options, rounds):
    report = run("trace-again/tiny", trees=TREES, **options)
    assert report.rows[0].rounds == rounds


def test_bad_requests_say_what_exists():
    with pytest.raises(ValueError, match=r"no row matches 'stp/tiny'; did you mean 'step/tiny'\?"):
        run("stp/tiny", trees=TREES)
    with pytest.raises(ValueError, match="no pattern"):
        run([], trees=TREES)
    with pytest.raises(ValueError, match="`rounds` must be >= 1"):
        run("traces/tiny", trees=TREES, rounds=0)
    with pytest.raises(ValueError, match="device='abacus' is no platform that jax can use here"):
        run("traces/tiny", trees=TREES, device="abacus")


def test_contestants_without_a_column_are_noted():
    samples = {"gradlab": [1.0], "optax": [2.0], "torch": [2.0], "scipy": [0.25]}
    assert measured(case_of(samples), 1).note == "scipy: 0.25 s"
    assert measured(case_of(samples, note="warm"), 1).note == "warm; scipy: 0.25 s"


def test_a_report_without_optional_numbers_still_has_every_column():
    row = measured(case_of({"gradlab": [1.0], "optax": [2.0]}), 1)
    header, line = Report({}, [row]).to_csv().splitlines()
    assert len(header.split(",")) == len(line.split(",")) == len(row.record())
