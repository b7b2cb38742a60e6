"""A second sweep with other values, in another process, compiles nothing."""

import json
import os
import subprocess
import sys

import jax
import pytest

from gradlab.cli.programs import keep_programs

PROGRAM = """
import collections
import json
import sys

import jax

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition("/")[2]]))

from gradlab.cli.app import app

app(["sweep", "sweep.yaml", "--quiet", *sys.argv[1:]], standalone_mode=False)
print(json.dumps(counts))
"""


def sweep(folder, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_second_sweep_with_other_values_compiles_nothing(folder):
    first = sweep(folder, "--out", "one")
    assert first["cache_misses"] > 0
    other = ["--set", "sweep.space.optimizer.learning_rate={log: [1e-4, 1e-2]}", "--set", "optimizer.momentum=0.3"]
    second = sweep(folder, "--out", "two", *other)
    assert second["cache_hits"] > 0 and second.get("cache_misses", 0) == 0


def test_the_users_own_cache_is_left_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
        assert keep_programs() == tmp_path / "own"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_cache_that_is_off_stays_off():
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        assert keep_programs() is None
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
