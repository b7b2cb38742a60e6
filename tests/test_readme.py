"""README's Python blocks run from top to bottom, in a fresh process with plain float32."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_python_blocks_run():
    program = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scale_by_adam(" in done.stdout
    assert "0.001" in done.stdout


def test_every_command_is_one_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    commands = "\n".join(blocks("sh"))
    for piece in ("'.[lab]'", "'.[test]'", "configs/digits_sweep.yaml", "pytest -n 2"):
        assert piece in ci
        assert piece in commands
