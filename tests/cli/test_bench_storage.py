"""``gradlab bench storage``: tables, files, and names that do not exist."""

import pandas as pd

from gradlab.bench.storage_gaps import Gap


def test_bytes_are_counted_and_left_in_a_file(tmp_path, gradlab_command, monkeypatch):
    monkeypatch.setattr("gradlab.bench.storage.STORAGES", {"int8": "int8"})
    result = gradlab_command("bench", "storage", "--parts", "bytes", "--layers", "1", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "storage_bytes.csv").set_index("what")
    assert table.loc["adamw, none", "state"].round(3) == 8 and 2.05 < table.loc["adamw, int8", "state"] < 2.08
    assert "adamw, int8, bfloat16 parameters with residuals" in result.output
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"storage_bytes.csv"}


def test_gaps_are_told_with_what_has_none(tmp_path, gradlab_command, monkeypatch):
    found = [
        Gap("lion", "int8", 0.01, 0.5, 0.1, 0.55, 0.05, 0.002),
        Gap("lion", "bfloat16", None, 0.5, 0.1, 0.7, 0.2, 0.002),
    ]
    monkeypatch.setattr("gradlab.cli.bench_storage.gaps", lambda task, optimizers, storages, **run: iter(found))
    options = ["--parts", "gaps", "--optimizers", "lion,sgd", "--out", tmp_path / "out"]
    result = gradlab_command("bench", "storage", *options)
    assert result.exit_code == 0, result.output
    assert "+0.2 ± 0.002" in result.output and result.output.count("yes") == 1
    assert "nothing to keep: sgd" in result.output and result.output.count("its own") == 1
    assert list(pd.read_csv(tmp_path / "out" / "storage_gaps.csv")["is_noticed"]) == [False, True]


def test_unknown_names_are_refused(gradlab_command):
    for option, name in (("--optimizers", "lyon"), ("--storages", "int9"), ("--parts", "byte"), ("--task", "digits")):
        result = gradlab_command("bench", "storage", "--parts", "gaps", option, name)
        assert result.exit_code == 2 and f"'{name}'" in result.output
