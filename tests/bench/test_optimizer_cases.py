"""Rows about one optimizer: what can be counted is counted, names and goals are complete."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.bench import optimizer_cases as cases
from gradlab.bench.contestants import LIBRARIES
from gradlab.bench.programs import fusions, planned_bytes
from gradlab.bench.rows import measured
from gradlab.bench.trees import TREES, count_params, gpt2_shapes

TINY = {"kernel": (3, 4), "bias": (4,)}


@pytest.mark.parametrize(("name", "expected"), [("gradlab", 1), ("optax", 5)])
def test_traces_for_five_learning_rates(name, expected):
    assert len(set(cases.TRACE_LEARNING_RATES)) == 5
    assert cases.traces(LIBRARIES[name], TINY) == expected


def test_every_tree_has_its_rows_and_eager_ones_only_where_leaves_are_small():
    names = [case.name for case in cases.optimizer_cases(TREES)]
    assert len(set(names)) == len(names)
    kinds = {"traces", "trace-first", "trace-again", "compile", "step", "step-bytes", "step-kernels"}
    kinds |= {"clip-step", "clip-step-bytes", "clip-step-kernels"}
    expected = {f"{kind}/{tree}" for kind in kinds for tree in TREES}
    assert set(names) == expected | {
        f"{kind}/{tree}" for kind in ("eager", "flat-step", "bucket-step") for tree in ("width-64", "580-leaves")
    } | {"import"}


def test_every_goal_belongs_to_rows():
    goals = {case.name.split("/")[0]: case.at_most for case in cases.optimizer_cases(TREES) if case.at_most}
    assert goals == cases.GOALS


def test_bytes_of_a_program_whose_outputs_are_known():
    compiled = jax.jit(lambda x: (x + 1, x * 2)).lower(jnp.zeros(1000, jnp.float32)).compile()
    memory = compiled.memory_analysis()
    assert planned_bytes(compiled) == memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert planned_bytes(compiled) >= 8000


def test_fusions_of_programs_whose_passes_are_known():
    x = jnp.zeros((64, 64), jnp.float32)
    one_pass = jax.jit(lambda x: jnp.sin(x) * 2 + x).lower(x).compile()
    nothing = jax.jit(lambda x: x).lower(x).compile()
    assert (fusions(nothing), fusions(one_pass)) == (0, 1)


def test_gradlab_clips_without_a_second_tree_of_updates():
    shapes = gpt2_shapes(width=64, layers=1, vocabulary=64, context=64)
    rows = {case.name: measured(case, 1) for case in cases.optimizer_cases({"t": shapes}) if "-bytes/" in case.name}
    clip = rows["clip-step-bytes/t"]
    one_tree = 4 * count_params(shapes)
    assert rows["step-bytes/t"].gradlab <= rows["step-bytes/t"].optax
    assert clip.optax - clip.gradlab > 0.5 * one_tree


def test_tracing_and_compiling_are_given_new_functions_each_round():
    library = LIBRARIES["gradlab"]
    assert library.jitted_update() is not library.jitted_update()
    assert library.jitted_step() is not library.jitted_step()


@pytest.mark.parametrize(("kind", "clears"), [("trace-first", 2 * 3), ("trace-again", 0)])
def test_caches_are_cleared_before_every_first_trace_only(kind, clears, monkeypatch):
    calls = []
    monkeypatch.setattr(jax, "clear_caches", lambda: calls.append(kind))
    (case,) = [case for case in cases.optimizer_cases({"t": TINY}) if case.name == f"{kind}/t"]
    row = measured(case, 2)
    assert (row.rounds, len(calls)) == (2, clears)


def test_imports_alternate_in_new_interpreters(monkeypatch):
    commands = []
    run = subprocess.run

    def record(command, **options):
        commands.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(cases, "LIBRARIES", {"json": None, "csv": None})
    monkeypatch.setattr(subprocess, "run", record)
    samples = cases._time_import(1)
    assert commands == ["import json", "import csv"] * 2
    assert {name: len(values) for name, values in samples.items()} == {"json": 1, "csv": 1}
    assert np.all(np.array(list(samples.values())) > 0)


def test_an_import_that_fails_is_an_error(monkeypatch, capfd):
    monkeypatch.setattr(cases, "LIBRARIES", {"no_such_module": None})
    with pytest.raises(subprocess.CalledProcessError):
        cases._time_import(1)
    assert "no_such_module" in capfd.readouterr().err
