"""What is asked for, and the report of it."""

import csv
import functools
import importlib.util
import io
import json

import jax
import pytest

from gradlab.bench import sweep_race, sweep_speed
from gradlab.bench.sweep_contenders import DoesNotFit
from gradlab.bench.sweep_problem import PROBLEMS, Problem
from gradlab.bench.sweep_race import SpeedRow
from gradlab.bench.sweep_speed import LANES, QUICK_LANES, RIVALS, Request, run
from gradlab.tasks.catalogue import digits_mlp

TINY = {"mlp": Problem(functools.partial(digits_mlp, hidden=(4,)), steps=3, batch_size=16, parity_lanes=(16, 64))}


@pytest.fixture(scope="module")
def report_and_progress():
    told = []
    request = Request(tasks=("mlp",), lanes=(3, 1), rivals=("vmap",), quick=True)
    return run(request, problems=TINY, progress=lambda *call: told.append(call)), told


def test_smoke_every_part_has_its_rows(report_and_progress):
    report, _ = report_and_progress
    rows = [(row.task, row.lanes, row.contender, row.measured) for row in report.speed]
    assert rows == [("mlp", lanes, name, lanes) for lanes in (1, 3) for name in ("gradlab", "vmap")]
    assert all(row.agrees and row.loss_difference < 1e-4 for row in report.speed)
    assert all(row.seconds > row.compile_seconds > 0 and row.warm_seconds > 0 for row in report.speed)
    assert [row.name for row in report.parity] == ["segment/mlp/3", "sweep/mlp/3"]
    assert [(row.lanes, row.met) for row in report.memory] == [(3, True), (1, True)]


def test_progress_names_every_row_and_estimates_what_is_left(report_and_progress):
    _, told = report_and_progress
    assert [index for index, *_ in told] == list(range(8))
    assert {total for _, total, *_ in told} == {8}
    assert told[0][2:] == ("speed mlp/gradlab/1", None)
    assert [name for _, _, name, _ in told[4:]] == [
        "parity segment/mlp/3",
        "parity sweep/mlp/3",
        "memory mlp/3",
        "memory mlp/1",
    ]
    assert all(left > 0 for *_, left in told[1:])


def test_json_and_csv_hold_all_numbers(report_and_progress):
    report, _ = report_and_progress
    data = json.loads(json.dumps(report.data()))
    assert data["machine"]["versions"]["jax"] == jax.__version__
    assert data["request"]["lanes"] == [1, 3]
    assert list(data["contenders"]) == ["gradlab", "vmap"] and "evaluates" in data["contenders"]["gradlab"]
    tables = report.tables()
    for part in ("speed", "parity", "memory"):
        records = [row.record() for row in getattr(report, part)]
        assert data[part] == records
        lines = list(csv.DictReader(io.StringIO(tables[part])))
        assert [list(line) for line in lines] == [list(record) for record in records]
        as_text = lambda record: {name: "" if value is None else str(value) for name, value in record.items()}
        assert lines == [as_text(record) for record in records]


def test_programs_are_neither_read_from_disk_nor_kept_there(report_and_progress, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_speed, "_jobs", lambda *_: [("memory", "x", compiled_without_cache)])

    def compiled_without_cache():
        assert not jax.config.jax_enable_compilation_cache
        jax.jit(lambda x: x * 3.25)(1.0)

    names = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name, value in names.items():
            jax.config.update(name, value)
        assert jax.config.jax_enable_compilation_cache
        run(Request(), problems=PROBLEMS)
        assert jax.config.jax_enable_compilation_cache and not list(tmp_path.iterdir())
        jax.jit(lambda x: x * 3.75)(1.0)
        assert list(tmp_path.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        sweep_speed.compilation_cache.reset_cache()


def test_what_does_not_fit_is_left_out_and_named(monkeypatch):
    def fails():
        raise DoesNotFit(9_000_000_000, 1e9)

    monkeypatch.setattr(sweep_speed, "_jobs", lambda *_: [("parity", "segment/chars/64", fails)])
    report = run(Request())
    assert report.left_out == ["parity segment/chars/64: does not fit: 9 GB planned, 1 GB allowed"]
    assert report.tables() == {} and report.data()["parity"] == []


@pytest.mark.parametrize(
    ("request_", "lanes"), [(Request(), LANES), (Request(quick=True), QUICK_LANES), (Request(lanes=(9, 2, 9)), (2, 9))]
)
def test_lanes_ascend_and_are_fewer_if_quick(request_, lanes):
    assert request_.checked().lanes == lanes


def test_the_rows_of_a_request_are_counted():
    request = Request().checked()
    speed, parity, memory = 3 * 5 * (1 + len(RIVALS)), 4 + 3 + 3, 3 * 5
    assert sweep_speed.count_rows(request) == speed + parity + memory
    assert sweep_speed.count_rows(request._replace(parts=("memory",), tasks=("cnn",))) == 5
    assert sweep_speed.count_rows(Request(quick=True).checked()) == 3 * (1 + len(RIVALS)) + 3 * 2 + 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ("mpl",)}, r"unknown task 'mpl'; did you mean 'mlp'\?"),
        ({"rivals": ("vmapp",)}, r"unknown rival 'vmapp'; did you mean 'vmap'\?"),
        ({"rivals": ("gradlab",)}, "unknown rival 'gradlab'"),
        ({"parts": ("sped",)}, r"unknown part 'sped'; did you mean 'speed'\?"),
        ({"tasks": ()}, "`tasks` is empty, so nothing would be measured"),
        ({"lanes": ()}, "`lanes` is empty"),
        ({"lanes": (8, 0)}, "`lanes` must be >= 1, got 0"),
        ({"steps": 501}, r"`steps` must be in \[1, 500\], got 501"),
    ],
)
def test_bad_requests_say_what_is_possible(fields, message):
    with pytest.raises(ValueError, match=message):
        run(Request(**fields))


def test_without_optuna_it_is_left_out_or_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradlab\[lab\]'; or leave it out"):
        Request().checked()
    Request(rivals=("vmap",)).checked()
    Request(parts=("memory",)).checked()


def test_who_did_other_work_is_named():
    rows = [
        SpeedRow("mlp", 8, "scan", 1, 1, loss_difference=0.5),
        SpeedRow("mlp", 8, "loop", 1, 1, loss_difference=sweep_race.RTOL),
        SpeedRow("mlp", 8, "vmap", 1, 1),
    ]
    (text,) = sweep_speed.disagreements(rows)
    assert text.startswith("mlp/scan/8: last losses differ from gradlab's by 0.5")
