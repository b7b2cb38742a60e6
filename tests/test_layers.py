"""Imports point one way, and heavy packages stay where they belong; read from the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import gradlab

ROOT = Path(gradlab.__file__).parent

LEVELS = [
    ["core"],
    ["schedules", "transforms", "instruments"],
    ["optimizers"],
    ["tasks"],
    ["training"],
    ["sweeps"],
    ["bench", "plots"],
    ["report", "experiments"],
    ["config"],
    ["cli"],
]
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
ROOMS = [["spaces"], ["search"], ["samplers", "schedulers"], ["outcomes"], ["engine"], ["contest"]]  # of sweeps
ROOM = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}

# packages that only these modules import; below the second table, never when the module itself is imported
HOMES = {
    "flax": {"instruments.taps", "tasks.networks", "training.checkpoint", "training.kfac", "training.state"},
    "matplotlib": {"plots"},
    "mlflow": {"sweeps.outcomes.trackers"},
    "optuna": {"bench.sweep_contenders", "sweeps"},
    "pandas": {"sweeps"},
    "plotly": {"report"},
    "pydantic": {"config"},
    "pydantic_core": {"config"},
    "rich": {"cli"},
    "scipy": {"bench.minimize_cases", "sweeps.samplers.designs"},
    "sklearn": {"tasks.data"},
    "sqlalchemy": {"sweeps.outcomes.trackers"},
    "tensorboardX": {"sweeps.outcomes.trackers"},
    "torch": {"bench"},
    "typer": {"cli"},
    "wandb": {"sweeps.outcomes.trackers"},
    "yaml": {"config"},
}
LAZY = {"mlflow", "optuna", "pandas", "plotly", "scipy", "sklearn", "sqlalchemy", "tensorboardX", "torch", "wandb"}
# the rooms of sweeps that hold what is drawn
PLOTTED = {"outcomes", "search", "spaces"}


class Import(NamedTuple):
    """One import statement of a module."""

    module: str  # 'sweeps.run', without the package's name
    target: str  # 'gradlab.core.rule', 'numpy.linalg'
    lazy: bool  # inside of a function, or for type checkers only

    def __str__(self) -> str:
        return f"{self.module} imports {self.target}"


def imports(root: Path) -> Iterator[Import]:
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        yield from _imports_of(ast.parse(path.read_text()), name, lazy=False)


def _imports_of(node: ast.AST, module: str, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(module, alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module} imports relatively; write the whole name"
        yield from (Import(module, f"{node.module}.{alias.name}", lazy) for alias in node.names)
    for child in ast.iter_child_nodes(node):
        inside = isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        yield from _imports_of(child, module, lazy or inside)


def violations(root: Path) -> list[str]:
    return [f"{item}: {reason}" for item in imports(root) for reason in _reasons(item)]


def _reasons(item: Import) -> Iterator[str]:
    package, (top, *rest) = item.module.partition(".")[0], item.target.split(".")
    if top == "gradlab":
        if rest and rest[0] in LEVEL and package in LEVEL and package != rest[0] and LEVEL[rest[0]] >= LEVEL[package]:
            yield f"{rest[0]} is not below {package}"
        if package == "sweeps" and rest[0] == "sweeps" and _is_above(item.module, rest):
            yield f"the room {rest[1]} is not below that of {item.module}"
        if package == "plots" and rest[0] != "plots" and not (rest[0] == "sweeps" and rest[1] in PLOTTED):
            yield "pictures know results only"
    homes = HOMES.get(top)
    if homes is not None and not any(f"{item.module}.".startswith(f"{home}.") for home in homes):
        yield f"{top} is used in {', '.join(sorted(homes))} only"
    if top in LAZY and not item.lazy:
        yield f"{top} is imported when it is used, not before"
    if package == "plots" and top in ("jax", "jaxlib", "optax"):
        yield "pictures are drawn from numpy arrays"


def _is_above(module: str, target: list[str]) -> bool:
    """Whether a module of sweeps imports from a room that is not below its own; the package itself is above all."""
    own = module.split(".")[1:2]
    return bool(own) and own != target[1:2] and ROOM[target[1]] >= ROOM[own[0]]


def test_imports_point_one_way():
    assert violations(ROOT) == []


def test_every_package_has_its_level():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(LEVEL)
    assert {path.stem for path in (ROOT / "sweeps").glob("[a-z]*")} == set(ROOM)


@pytest.mark.parametrize(
    ("module", "line", "reason"),
    [
        ("core/rule.py", "from gradlab.optimizers import adam", "optimizers is not below core"),
        ("core/rule.py", "import gradlab.sweeps.engine.run", "sweeps is not below core"),
        ("transforms/clip.py", "from gradlab import schedules", "schedules is not below transforms"),
        ("tasks/task.py", "def f():\n    from gradlab.training import loop", "training is not below tasks"),
        ("bench/speed.py", "from gradlab.cli.app import app", "cli is not below bench"),
        ("config/load.py", "from gradlab.cli.app import app", "cli is not below config"),
        ("plots/style.py", "from gradlab.sweeps.engine.run import sweep", "pictures know results only"),
        ("plots/style.py", "from gradlab.core import check", "pictures know results only"),
        ("plots/style.py", "import jax.numpy as jnp", "pictures are drawn from numpy arrays"),
        ("tasks/task.py", "import flax.linen as nn", "flax is used in"),
        ("training/loop.py", "def f():\n    from flax import nnx", "flax is used in"),
        ("cli/app.py", "import yaml", "yaml is used in config only"),
        ("cli/app.py", "import matplotlib.pyplot", "matplotlib is used in plots only"),
        ("sweeps/search.py", "import pandas", "pandas is imported when it is used"),
        ("sweeps/search.py", "from gradlab.sweeps.engine.run import sweep", "room engine is not below"),
        ("sweeps/search.py", "from gradlab.sweeps.contest import contest", "room contest is not below"),
        ("tasks/data.py", "if True:\n    from sklearn import datasets", "sklearn is imported when it is used"),
    ],
)
def test_the_checker_finds(tmp_path, module, line, reason):
    path = tmp_path / module
    path.parent.mkdir()
    path.write_text(line)
    (found,) = violations(tmp_path)
    assert reason in found


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("optimizers/adam.py", "from gradlab.core.rule import static"),
        ("optimizers/adam.py", "from gradlab.optimizers.sgd import sgd"),
        ("sweeps/search.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas"),
        ("sweeps/search.py", "def table():\n    import pandas"),
        ("sweeps/contest.py", "from gradlab.sweeps.engine.run import sweep"),
        ("plots/style.py", "from gradlab.sweeps.outcomes.results import SweepResult\nimport matplotlib"),
        ("__init__.py", "from gradlab import optimizers"),
    ],
)
def test_the_checker_lets_pass(tmp_path, module, line):
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert violations(tmp_path) == []


def test_importing_gradlab_imports_nothing_heavy():
    heavy = ["matplotlib", "pandas", "plotly", "yaml", "flax", "sklearn", "scipy.stats", "pydantic", "typer", "torch"]
    code = f"import sys, gradlab\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=300)
    assert done.stdout == "[]\n", done.stderr
