"""``gradlab bench instruments``, with rows that are not measured."""

from gradlab.bench.instrument_rows import InstrumentCase, measured
from gradlab.bench.rows import Report


def test_the_command_prints_and_leaves_the_table(tmp_path, gradlab_command, monkeypatch):
    report = Report({"cpu": "x", "cores": 2, "load": 0.5, "device": "cpu: cpu"}, [
        measured(InstrumentCase("cost/a", "a thing", "a gradient", lambda _: ([3.0], [2.0]), stated="1 to 2"), 1),
        measured(InstrumentCase("bytes/b", "b", "a vector", lambda _: ([8e3], [4e3]), "bytes", at_most=1.1), 1),
    ])  # fmt: skip
    monkeypatch.setattr("gradlab.bench.instruments.run_instruments", lambda cases, **_: report)
    result = gradlab_command("bench", "instruments", "--quick", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (
        "a gradient" in result.output
        and "cost/a: a thing" in result.output
        and "1.5 (1.5 to 1.5)" in result.output
        and "1 to 2" in result.output
    )
    assert "8.0 kB" in result.output and "1.1 missed" in result.output
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"instruments.csv", "instruments.json"}
    assert gradlab_command("bench", "instruments", "--rows", "nothing").exit_code == 2
