"""Help, lists, the benchmark, and the command as a process of its own."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradlab
from gradlab.bench.sweep_problem import PROBLEMS, Problem
from gradlab.bench.sweep_speed import PARTS, RIVALS
from gradlab.experiments.registry import EXPERIMENTS
from gradlab.optimizers.wrappers import WRAPPERS
from gradlab.tasks import TASKS
from gradlab.tasks.catalogue import digits_mlp

REGISTRIES = {
    "optimizers": gradlab.REGISTRY,
    "schedules": gradlab.SCHEDULES,
    "tasks": TASKS,
    "transforms": gradlab.TRANSFORMS,
    "wrappers": WRAPPERS,
    "experiments": EXPERIMENTS,
}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["sweep"],
        ["list"],
        ["bench"],
        ["bench", "speed"],
        ["bench", "sweep"],
        ["bench", "instruments"],
        ["bench", "storage"],
    ],
)
def test_help_is_enough_to_start(gradlab_command, command):
    result = gradlab_command(*command, "--help")
    assert result.exit_code == 0
    assert len(command) == 0 or "bench" in command or f"gradlab {command[0]} " in result.output
    assert command not in (["run"], ["sweep"]) or all(
        option in result.output for option in ("--set", "--out", "--overwrite", "--dry-run", "--quiet")
    )


@pytest.mark.parametrize("topic", REGISTRIES)
def test_lists_have_every_name_with_its_arguments(gradlab_command, topic):
    output = gradlab_command("list", topic).output
    names = {line.split()[0] for line in output.splitlines() if line and not line.startswith(" ")}
    assert set(REGISTRIES[topic]) <= names
    assert f"{len(REGISTRIES[topic])} {topic}" in output


def test_the_list_of_everything(gradlab_command):
    output = gradlab_command("list").output
    assert all(f"{len(registry)} {topic}" in output for topic, registry in REGISTRIES.items())
    assert "learning_rate, momentum=0.9, " in output


def test_an_unknown_topic_is_refused(gradlab_command):
    assert gradlab_command("list", "optimisers").exit_code == 2


def test_the_version(gradlab_command):
    assert gradlab_command("--version").output == f"gradlab {gradlab.__version__}\n"


def test_bench_speed_prints_and_saves_its_rows(gradlab_command, tmp_path):
    out = tmp_path / "speed"
    result = gradlab_command("bench", "speed", "--rows", "traces/width-64", "--quick", "--out", out)
    assert result.exit_code == 0, result.output
    (row,) = json.loads((out / "speed.json").read_text())["rows"]
    assert row["name"] == "traces/width-64" and row["ratio"] == 0.2
    assert (out / "speed.csv").read_text().splitlines()[0].startswith("name,what,unit")
    assert "1 traces  5 traces" in result.output and "0.2 met" in result.output


def test_bench_speed_suggests_rows(gradlab_command):
    result = gradlab_command("bench", "speed", "--rows", "traces/width-65")
    assert result.exit_code == 2
    assert "did you mean 'traces/width-64'" in result.output


def test_bench_sweep_prints_and_saves_its_tables(gradlab_command, tmp_path, monkeypatch):
    tiny = Problem(functools.partial(digits_mlp, hidden=(2,)), steps=2, batch_size=8, parity_lanes=(16, 64))
    monkeypatch.setitem(PROBLEMS, "mlp", tiny)
    out = tmp_path / "sweep"
    options = ["--tasks", "mlp", "--lanes", "2", "--rivals", "scan, vmap", "--parts", "speed,memory", "--quick"]
    result = gradlab_command("bench", "sweep", *options, "--steps", 3, "--out", out)
    assert result.exit_code == 0, result.output
    files = {"sweep_speed.csv", "sweep_memory.csv", "sweep_speed.json", "sweep_speed.png"}
    assert {path.name for path in out.iterdir()} == files
    saved = json.loads((out / "sweep_speed.json").read_text())
    rows = [(row["lanes"], row["contender"], row["steps"]) for row in saved["speed"]]
    assert rows == [(2, name, 3) for name in ("gradlab", "scan", "vmap")]
    assert "mlp, 3 steps of 8 examples" in result.output and "Memory of lanes side by side" in result.output
    assert f"results in {out}" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "mpl"], "did you mean 'mlp'"),
        (["--rivals", "vmapp"], "did you mean 'vmap'"),
        (["--parts", ","], "`parts` is empty"),
        (["--lanes", "1,x"], "lanes are whole numbers with commas between them, got '1,x'"),
        (["--lanes", "0"], "`lanes` must be >= 1, got 0"),
        (["--steps", 501], "`steps` must be in [1, 500], got 501"),
    ],
)
def test_bench_sweep_refuses_what_it_cannot_do(gradlab_command, options, message):
    result = gradlab_command("bench", "sweep", *options)
    assert result.exit_code == 2
    assert message in result.output


def test_bench_sweep_offers_every_task_rival_and_part(gradlab_command):
    output = " ".join(gradlab_command("bench", "sweep", "--help").output.split())
    for names in (PROBLEMS, RIVALS, PARTS):
        assert f"[default: {','.join(names)}]" in output


def python(*arguments, cwd=None):
    root = str(Path(gradlab.__file__).parents[1])
    environment = {"PYTHONPATH": root, "PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd or root, env=environment, timeout=300)


def test_the_module_is_the_command(folder):
    done = python("-m", "gradlab", "run", "run.yaml", "--out", "here", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "results in here: config.yaml" in done.stdout
    assert (folder / "here" / "params.msgpack").exists()


def test_errors_of_the_user_have_no_traceback(folder):
    done = python("-m", "gradlab", "run", "run.yaml", "--set", "optimizer.learning_rate=-1", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "--set: optimizer.learning_rate: must be >= 0, got -1\n"


def test_help_imports_no_more_than_it_needs():
    heavy = ("flax", "matplotlib", "pandas", "scipy", "sklearn", "yaml", "pydantic", "gradlab.tasks", "gradlab.sweeps")
    code = (
        "import sys\nfrom gradlab.cli import main\nsys.argv = ['gradlab', '--help']\n"
        f"try:\n    main()\nexcept SystemExit:\n    print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_without_the_packages_of_the_command_line_it_says_how_to_get_them():
    code = "import sys\nsys.modules['typer'] = None\nfrom gradlab.cli import main\nmain()"
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'gradlab[lab]'") and "Traceback" not in done.stderr
